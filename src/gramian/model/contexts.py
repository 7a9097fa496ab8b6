"""Re-ranking by a `ReleasedMatcher`: what it attends to of each item, kept on the disk, and its logits of chosen pairs.

A context has thousands of tokens, as 2,312 of width 768 for eight frames and a slice: 3.5 MB of 16-bit numbers. They stay
outside of the Bundle, in one file that is mapped into memory.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gramian.bundle import Bundle
from gramian.data.batches import Batch, Loader, Reading
from gramian.data.cells import Broken
from gramian.data.table import Table
from gramian.errors import InputError, check_choice, check_number, check_type
from gramian.model.aligner import Aligner
from gramian.model.encoders.released import ReleasedMatcher
from gramian.model.towers import Encoded, device_of, evaluating
from gramian.sheets import progress_bar
from gramian.tokens import Tokens

__all__ = ["Contexts", "Embedded", "PackedReranker", "embed_with_contexts"]

Stage: TypeAlias = Literal["volume", "fused"]

Type: TypeAlias = Literal["float16", "float32"]

FUSED = "fused"
"""The modality that holds what a fused head makes of an item."""

PACKED = 2048
"""Tokens of captions that are read with one context at a time."""


class Contexts:
    """Contexts of n items in a file of their own, without the tokens that are masked; removed with the object.

    Args:
        width: of the tokens.
        folder: where the file lies; that of the system's temporary files by default.
        dtype: "float16" keeps three digits of a number; "float32" takes twice the room.

    Raises:
        InputError: a width below 1, another type.

    >>> contexts = Contexts(2)
    >>> contexts.add(Tokens(torch.tensor([[[1.0, 2.0], [0.0, 0.0]]]), torch.tensor([[True, False]])))
    >>> len(contexts), contexts[0].tolist()
    (1, [[1.0, 2.0]])
    """

    def __init__(self, width: int, *, folder: Path | None = None, dtype: Type = "float16") -> None:
        self.width: int = check_number("width", width, "[1, inf)", integer=True)
        self.dtype: np.dtype[Any] = np.dtype(check_choice("dtype", dtype, ("float16", "float32")))
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (lives as long as the object, without a name)
        weakref.finalize(self, self._file.close)
        self._ends = [0]
        self._map: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self._ends) - 1

    @property
    def nbytes(self) -> int:
        """Of the file."""
        return self._ends[-1] * self.width * self.dtype.itemsize

    def add(self, context: Tokens) -> None:
        """Append the contexts of some items."""
        values = context.values.detach()[context.present].cpu().numpy().astype(self.dtype)
        for count in context.present.sum(1).tolist():
            self._ends.append(self._ends[-1] + int(count))
        values.tofile(self._file)
        self._map = None

    def __getitem__(self, item: int) -> Tensor:
        """(t, width) float32, the tokens of one item that are not masked."""
        start, end = self._ends[item], self._ends[item + 1]
        if start == end:
            return torch.zeros(0, self.width)
        if self._map is None:
            self._file.flush()
            self._map = np.memmap(self._file, self.dtype, "r", shape=(self._ends[-1], self.width))
        return torch.from_numpy(self._map[start:end].astype(np.float32))


class PackedReranker:
    """Orders pairs of a text and an item by a `ReleasedMatcher`: a `gramian.evaluation.Reranker`.

    All texts that are compared with an item are read as one sequence, in which each attends to itself and to the item: the
    item's keys and values are computed once, with the same logits.

    Args:
        matcher: the head.
        texts: the identifiers of the words of each of n rows, without padding.
        contexts: of its different items.
        places: (n,) which context each row has.
        modalities: of the Bundle whose candidates it orders: "text", and what they are found by.
        progress: show a progress bar.
    """

    def __init__(
        self,
        matcher: ReleasedMatcher,
        texts: Sequence[Tensor],
        contexts: Contexts,
        places: NDArray[np.int64],
        modalities: tuple[str, ...],
        *,
        progress: bool = False,
    ) -> None:
        self.matcher = matcher
        self.contexts = contexts
        self.places = places
        self.packed: int = PACKED
        self.progress = progress
        self.modalities = modalities
        self.anchors: tuple[str, ...] = matcher.anchors
        self._words = texts
        self._known: dict[tuple[int, int], float] = {}

    @torch.no_grad()
    def pairs(self, query: tuple[str, ...], target: tuple[str, ...], queries: Tensor, candidates: Tensor) -> Tensor:
        """(p,) logits; those of an earlier call are not computed again.

        Args:
            query: "text", or what an item is found by.
            target: the other one.
            queries: (p,) rows.
            candidates: (p,) rows.

        Returns:
            The second logit of the head minus the first.
        """
        del target
        texts, rows = (queries, candidates) if query == self.anchors else (candidates, queries)
        pairs = list(zip(texts.tolist(), self.places[rows.cpu().numpy()].tolist(), strict=True))
        wanted: dict[int, dict[int, None]] = {}
        for text, item in pairs:
            if (text, item) not in self._known:
                wanted.setdefault(item, {})[text] = None
        with evaluating(self.matcher), evaluating(self.matcher.towers), progress_bar(self.progress) as bar:
            task = bar.add_task(f"re-ranking {'+'.join(query)}", total=len(wanted))
            for item in sorted(wanted):
                self._read(item, list(wanted[item]))
                bar.advance(task)
        return torch.tensor([self._known[pair] for pair in pairs])

    def _read(self, item: int, texts: Sequence[int]) -> None:
        """Compute the logits of texts with one item."""
        device = device_of(self.matcher)
        values = self.contexts[item][None].to(device)
        context = Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool, device=device))
        for part in _parts([len(self._words[text]) for text in texts], self.packed):
            own = [texts[i] for i in part]
            ids, mask, positions, firsts = _packed([self._words[text] for text in own])
            inputs = ids[None].to(device), mask[None, None].to(device)
            states = self.matcher.states(*inputs, context, positions[None].to(device))
            logits = self.matcher.answer(states[0, firsts.to(device)]).float()
            for text, value in zip(own, (logits[:, 1] - logits[:, 0]).tolist(), strict=True):
                self._known[text, item] = value


def _parts(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Numbers of the lengths, in parts of at most `most` together, each of one at least."""
    parts: list[list[int]] = []
    room = 0
    for i, length in enumerate(lengths):
        if not parts or length > room:
            parts.append([])
            room = most
        parts[-1].append(i)
        room -= length
    return parts


def _packed(words: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Texts as one sequence: ids (t,), which token attends to which (t, t), positions (t,), first tokens (k,)."""
    lengths = torch.tensor([len(each) for each in words])
    owner = torch.arange(len(words)).repeat_interleave(lengths)
    positions = torch.cat([torch.arange(length) for length in lengths.tolist()])
    return torch.cat(list(words)).cpu(), owner[:, None] == owner, positions, lengths.cumsum(0) - lengths


class Embedded(NamedTuple):
    """The result of `embed_with_contexts`.

    Attributes:
        bundle: n rows over the Aligner's modalities.
        reranker: orders pairs of its rows.
        stage: what candidates are found in before they are re-ranked: the Bundle itself, or one of texts and fused vectors.
    """

    bundle: Bundle
    reranker: PackedReranker
    stage: Bundle


@torch.no_grad()
def embed_with_contexts(
    aligner: Aligner,
    table: Table,
    *,
    stage: Stage = "volume",
    folder: Path | None = None,
    dtype: Type = "float16",
    batch_size: int | None = None,
    reading: Reading = Reading(),
    broken: list[Broken] | None = None,
    progress: bool = False,
) -> Embedded:
    """Project a table as `Aligner.embed` does, and keep what its `ReleasedMatcher` reads of each item.

    Rows of one item with the same media are read once.

    Args:
        aligner: with a `ReleasedMatcher`.
        table: raw cells, with texts.
        stage: by what candidates are found first: "volume", or any other score of the Bundle, as in GRAM; the "fused" head, as
            in PMRL and VAST.
        folder: for the file of contexts.
        dtype: of the contexts in it.
        batch_size: items at a time; 32 by default.
        reading: how raw cells are read.
        broken: a list to add the cells to that could not be read.
        progress: show a progress bar.

    Returns:
        The Bundle, the re-ranker, and the Bundle of the first stage.

    Raises:
        InputError: an Aligner without such a head, columns that do not fit, a table without texts or without anything else.
    """
    check_type("table", table, Table)
    check_choice("stage", stage, get_args(Stage))
    matcher = aligner.matcher
    if not isinstance(matcher, ReleasedMatcher):
        raise InputError("`aligner` must have a ReleasedMatcher, which `load_released` gives it; it has another head, or none.")
    aligner.check(table)
    anchor, names = matcher.anchor, [name for name in table.modalities if name != matcher.anchor]
    if anchor not in table.modalities or not names:
        raise InputError(f"`table` must have texts and something to find; it has {', '.join(table.modalities)}.")
    unread: list[Broken] = [] if broken is None else broken
    first, places = _different(table, names)
    contexts = Contexts(matcher.text.width, folder=folder, dtype=dtype)
    items: list[Bundle] = []
    fused: list[tuple[Tensor, Tensor]] = []
    texts: list[Bundle] = []
    words: list[Tensor] = []
    with evaluating(aligner), progress_bar(progress) as bar:
        task = bar.add_task("reading media", total=len(first))
        for batch in Loader(table.select(*names)[first], aligner.collator(), reading).in_order(batch_size):
            batch = batch.to(aligner.device)
            encodings = aligner.towers(batch)
            items.append(aligner.project(batch, encodings).to("cpu"))
            contexts.add(_context(matcher, encodings, len(batch)))
            if stage == FUSED:
                fused.append(_fused(matcher, encodings, len(batch), aligner.dim))
            unread.extend(batch.broken)
            bar.advance(task, len(batch))
        for batch in Loader(table.select(anchor), aligner.collator(), reading).in_order(batch_size):
            texts.append(aligner(batch).to("cpu"))
            words.extend(_words(batch, anchor))
            unread.extend(batch.broken)
    media, captions = Bundle.cat(items)[places], Bundle.cat(texts)
    recorded = [name for name in names if name != "subtitle"]
    if recorded:  # an empty subtitle counts, but not alone: an item whose media cannot be read is no candidate
        media = _without(media, ~media.has(*recorded))
    columns = {name: (captions if name == anchor else media).column(name) for name in table.modalities}
    present = {name: (captions if name == anchor else media).has(name) for name in table.modalities}
    ids = table.item_ids
    bundle = Bundle.from_dict(columns, present=present, item_ids=ids, check=False)
    found = bundle
    if stage == FUSED:
        vectors, masks = (torch.cat(parts)[places] for parts in zip(*fused, strict=True))
        masks = masks & media.has()
        both = {anchor: columns[anchor], FUSED: vectors}
        found = Bundle.from_dict(both, present={anchor: present[anchor], FUSED: masks}, item_ids=ids, check=False)
    reranker = PackedReranker(matcher, words, contexts, places, found.modalities, progress=progress)
    return Embedded(bundle, reranker, found)


def _without(bundle: Bundle, rows: Tensor) -> Bundle:
    """The same items, some of which have nothing."""
    present = bundle.present & ~rows[:, None]
    return replace(bundle, vectors=bundle.vectors.masked_fill(~present[..., None], 0), present=present)


def _different(table: Table, names: Sequence[str]) -> tuple[list[int], NDArray[np.int64]]:
    """The first row of each different item, by its cells, and which of them each row has."""
    if table.item_ids is None:
        return list(range(len(table))), np.arange(len(table))
    columns = [table.raw[name] for name in names if name in table.raw]
    first: dict[tuple[Any, ...], int] = {}
    rows: list[int] = []
    places: list[int] = []
    for row, item in enumerate(table.item_ids):
        key = (item, *(repr(column[row]) for column in columns))
        if key not in first:
            first[key] = len(rows)
            rows.append(row)
        places.append(first[key])
    return rows, np.array(places, np.int64)


def _context(matcher: ReleasedMatcher, encodings: Mapping[str, tuple[Encoded, Tensor]], n: int) -> Tokens:
    if not encodings:
        width = matcher.text.width
        return Tokens(torch.zeros(n, 1, width), torch.zeros(n, 1, dtype=torch.bool))
    return matcher.context(encodings)


def _fused(
    matcher: ReleasedMatcher, encodings: Mapping[str, tuple[Encoded, Tensor]], n: int, dim: int
) -> tuple[Tensor, Tensor]:
    """(n, dim) vectors of what each row has, by the head of just that, and which rows have one; depth is not fused."""
    present = {name: mask.cpu() for name, (_, mask) in encodings.items() if name != "depth"}
    vectors, known = torch.zeros(n, dim), torch.zeros(n, dtype=torch.bool)
    spread = {}
    for name, mask in present.items():
        own = encodings[name][0].vectors
        spread[name] = own.new_zeros(n, own.shape[1]).index_put((mask.nonzero().flatten().to(own.device),), own)
    kinds = torch.stack(list(present.values()), 1) if present else torch.zeros(n, 0, dtype=torch.bool)
    for kind in torch.unique(kinds, dim=0):
        names = [name for name, has in zip(present, kind.tolist(), strict=True) if has]
        if "video" not in names or len(names) < 2:  # no head fuses these
            continue
        rows = (kinds == kind).all(1)
        vectors[rows] = matcher.fused({name: spread[name][rows.to(spread[name].device)] for name in names}).float().cpu()
        known |= rows
    return vectors, known


def _words(batch: Batch, anchor: str) -> list[Tensor]:
    """The identifiers of each row's text, without padding; none of a row that has no text."""
    words = [torch.zeros(0, dtype=torch.int64)] * len(batch)
    inputs: Any = batch.inputs.get(anchor)
    if inputs is not None:
        rows = batch.present[anchor].nonzero().flatten().tolist()
        for row, ids, mask in zip(rows, inputs["input_ids"].cpu(), inputs["attention_mask"].cpu(), strict=True):
            words[row] = ids[mask.bool()]
    return words
