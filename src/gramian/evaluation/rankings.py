"""Every ranking of a Bundle, each computed once: the candidates of its sides, and the rank of each row's match among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gramian.bundle import Bundle
from gramian.errors import InputError, check_number
from gramian.evaluation.metrics import Matches, Ranks
from gramian.geometry import widened
from gramian.kernels import Form
from gramian.kernels.ranks import Candidates, MatchRanks, match_ranks, pair_ranks
from gramian.scores import SCORES, Score, ScoreName, corrected, hub_scores

__all__ = ["WEIGHTS", "Names", "RankedRows", "Ranking", "Rankings", "Side"]

Names = tuple[str, ...]

WEIGHTS: Literal["weights"] = "weights"
"""Ranks by the centroid, in which each modality counts as much as the weights of the one on the other side say."""

Ranking: TypeAlias = ScoreName | Literal["weights"]

CHUNK = 4096  # rows compared at a time


@dataclass(frozen=True)
class Side:
    """The different candidates that a Bundle has of one or more modalities known together.

    Rows that share an item and these vectors are one candidate. Candidates of several items with the same vectors share a
    row of the score's form.

    Attributes:
        candidates: c of them, in the order in which their vectors first occur.
        first: (u,) row number of the first row with each of the u different tuples of vectors.
        of_row: (n,) the candidate of each row of the Bundle; −1 where it has none of the modalities.
    """

    candidates: Candidates
    first: NDArray[np.int64]
    of_row: NDArray[np.int64]

    @property
    def rows(self) -> NDArray[np.int64]:
        """(c,) for each candidate the number of a row with its vectors."""
        rows: NDArray[np.int64] = self.first[self.candidates.rows.numpy()]
        return rows


class RankedRows(NamedTuple):
    """The rank of the best match of each row of a Bundle, (n,) each; −1 where the row has no query or no match.

    Attributes:
        better: candidates of other items with a higher score.
        tied: candidates of other items with the same score.
    """

    better: NDArray[np.int64]
    tied: NDArray[np.int64]

    def at(self, rows: NDArray[np.int64]) -> Ranks:
        """The ranks of some rows."""
        return Ranks(self.better[rows], self.tied[rows])


class Rankings:
    """The rankings of a Bundle, computed on first use and kept.

    Args:
        bundle: n rows.
        bank: training items in the same space, by which every score is corrected for hubs (`gramian.scores.corrected`).
        corpus: the candidates, in the same space, where they are not the items of the Bundle; matches have equal `item_ids`.
        weights: modality asked for → modality → how much it counts where several ask, by "weights"; see `choose_weights`.

    Attributes:
        bundle: the rows that ask, and behind them those of the corpus.
        asking: number of rows that ask; all are candidates as well where there is no corpus.
        queries: the modalities that some row asks with.
        targets: the modalities that some candidate has.

    Raises:
        InputError: a bank that lacks a modality of the Bundle, or of another width; a corpus of another width, or without ids;
            weights that are not positive.
    """

    def __init__(
        self,
        bundle: Bundle,
        bank: Bundle | None = None,
        corpus: Bundle | None = None,
        weights: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        self.asking: int = len(bundle)
        self.apart: bool = corpus is not None
        asked = bundle if corpus is None else corpus
        self.queries: tuple[str, ...]
        self.targets: tuple[str, ...]
        self.queries, self.targets = (tuple(name for name, count in each.counts().items() if count) for each in (bundle, asked))
        if corpus is not None:
            bundle = _joined(bundle, corpus)
        self.bundle: Bundle = bundle.detach()
        if bank is not None:
            absent = [name for name in bundle.modalities if name not in bank.modalities]
            if absent or bank.dim != bundle.dim:
                raise InputError(f"`bank` must have the modalities and the width of the items, {bundle!r}; got {bank!r}.")
            bank = bank.detach().to(bundle.vectors.device)
        self.bank = bank
        self.weights: dict[str, dict[str, float]] = {target: dict(each) for target, each in (weights or {}).items()}
        for target, each in self.weights.items():
            for name, weight in each.items():
                check_number(f"weights[{target!r}][{name!r}]", weight, "(0, inf)")
        ids = np.arange(len(bundle)) if bundle.item_ids is None else bundle.item_ids.cpu().numpy()
        self.items: NDArray[np.int64] = np.unique(ids, return_inverse=True)[1].astype(np.int64).reshape(-1)
        self._vectors: dict[str, NDArray[np.int64]] = {}
        self._sides: dict[tuple[Names, bool], Side] = {}
        self._rows: dict[tuple[Names, Names, Ranking], RankedRows] = {}

    def rows(self, query: Names, target: Names, score: Ranking) -> RankedRows:
        """The rank of each row's match, with `query` as the query and `target` as the gallery.

        A symmetric score ranks both ways by one table, with the side of fewer modalities as the query; corrected for hubs it is
        not symmetric.
        """
        key = query, target, score
        if key not in self._rows:
            both = _score(score).symmetric and self.bank is None and not self.apart
            if both and len(query) > len(target):
                self.rows(target, query, score)
            else:
                sides = self.side(query, asks=True), self.side(target)
                ranked = self._ranked(*sides, query, target, score, both=both)
                self._rows[key] = _by_row(ranked[0], sides[0])
                if both:
                    self._rows[target, query, score] = _by_row(ranked[1], sides[1])
        return self._rows[key]

    def several_match(self, target: Names, rows: NDArray[np.int64]) -> bool:
        """Whether some query in `rows` has more than one match."""
        counts = np.bincount(self.side(target).candidates.items.numpy(), minlength=len(self.items))
        return bool(counts[self.items[rows]].max(initial=0) > 1)

    def matches(self, query: Names, target: Names, score: Ranking, rows: NDArray[np.int64]) -> Matches:
        """The rank of every match of the queries in `rows`, where `several_match`."""
        sides = self.side(query, asks=True), self.side(target)
        form, candidates = self._form(*sides, query, target, score)
        with torch.no_grad():
            pairs = pair_ranks(form, *candidates)
        of_pair, better, tied = (part.cpu().numpy() for part in (pairs.queries, pairs.better, pairs.tied))
        first, last = (np.searchsorted(of_pair, sides[0].of_row[rows], side) for side in ("left", "right"))
        number = np.repeat(np.arange(len(rows)), last - first)
        pair = np.arange(len(number)) - np.repeat(np.cumsum(last - first) - last, last - first)
        return Matches(number, better[pair], tied[pair])

    @torch.no_grad()
    def _ranked(
        self, first: Side, second: Side, query: Names, target: Names, score: Ranking, *, both: bool
    ) -> tuple[MatchRanks, ...]:
        form, candidates = self._form(first, second, query, target, score)
        return match_ranks(form, *candidates, both=both)

    @torch.no_grad()
    def _form(
        self, first: Side, second: Side, query: Names, target: Names, score: Ranking
    ) -> tuple[Form, tuple[Candidates, Candidates]]:
        device = self.bundle.vectors.device
        queries, items = (
            _rows_of(self.bundle.select(*names), side.first) for side, names in ((first, query), (second, target))
        )
        return self.form(queries, items, score), (first.candidates.to(device), second.candidates.to(device))

    def form(self, queries: Bundle, items: Bundle, score: Ranking) -> Form:
        """The score of queries × items, corrected for hubs if there is a bank."""
        bank = None if self.bank is None else self.bank.select(*queries.modalities)
        if score == WEIGHTS:
            weights = self.weights[min(queries.modalities, items.modalities, key=len)[0]]
            queries, items = _weighed(queries, weights), _weighed(items, weights)
            bank = None if bank is None else _weighed(bank, weights)
        form = _score(score).of(queries, items)
        return form if bank is None else corrected(form, hub_scores(_score(score), bank, items))

    def weighs(self, query: Names, target: Names) -> bool:
        """Whether there are weights for several modalities on one side and the single one on the other."""
        one, several = sorted((query, target), key=len)
        return len(one) == 1 and len(several) > 1 and set(several) <= set(self.weights.get(one[0], ()))

    def asked(self, query: Names, target: Names) -> NDArray[np.int64]:
        """The rows that can be queries: those with some of `query` and some of `target`; none where they are all one item."""
        asks, has = self.bundle.has(*query).cpu().numpy(), self.bundle.has(*target).cpu().numpy()
        if self.apart:
            asks[self.asking :] = False
            has[: self.asking] = False
            has = np.isin(self.items, self.items[has])
        rows = np.flatnonzero(asks & has)
        return rows if len(np.unique(self.items[rows])) > 1 else rows[:0]

    def side(self, names: Names, *, asks: bool = False) -> Side:
        """The candidates of some modalities; with `asks` the queries, which differ from them where there is a corpus."""
        key = names, asks and self.apart
        if key not in self._sides:
            vectors = np.stack([self._of_modality(name) for name in names], 1)
            rows = np.flatnonzero((vectors >= 0).any(1))
            if self.apart:
                rows = rows[(rows < self.asking) == asks]
            _, first, tuples = np.unique(vectors[rows], axis=0, return_index=True, return_inverse=True)
            order = np.argsort(first)  # in the order of the rows, so that matches lie near the diagonal of the table
            place = np.empty_like(order)
            place[order] = np.arange(len(order))
            codes = place[tuples.reshape(-1)] * (len(self.items) + 1) + self.items[rows]
            different, candidate = np.unique(codes, return_inverse=True)
            of_row = np.full(len(self.items), -1)
            of_row[rows] = candidate.reshape(-1)
            tuple_of, item_of = np.divmod(different, len(self.items) + 1)
            candidates = Candidates(torch.from_numpy(tuple_of), torch.from_numpy(item_of))
            self._sides[key] = Side(candidates, rows[first[order]], of_row)
        return self._sides[key]

    def _of_modality(self, name: str) -> NDArray[np.int64]:
        """(n,) which vector of a modality each row has, as the number of the first row with it; −1 where missing."""
        if name not in self._vectors:
            has = self.bundle.has(name).cpu().numpy()
            parts = [self.bundle.column(name)]
            if name in self.bundle.tokens:
                tokens = self.bundle.tokens[name]
                parts += [tokens.values.masked_fill(~tokens.present[..., None], 0).flatten(1), tokens.present.float()]
            numbers = np.arange(len(has))
            if self.bundle.item_ids is not None:
                numbers = _folded(parts, self.items, has)
            self._vectors[name] = np.where(has, _alike(parts, numbers), -1)
        return self._vectors[name]


def _score(score: Ranking) -> Score:
    return SCORES["centroid" if score == WEIGHTS else score]


def _weighed(bundle: Bundle, weights: Mapping[str, float]) -> Bundle:
    """The vectors of a Bundle, each as long as its modality counts; 1 where it has no weight."""
    factors = torch.tensor([weights.get(name, 1.0) for name in bundle.modalities], device=bundle.vectors.device)
    return Bundle(widened(bundle.vectors) * factors[:, None], bundle.present, bundle.modalities, bundle.item_ids)


def _joined(bundle: Bundle, corpus: Bundle) -> Bundle:
    """The rows that ask and those of the corpus below them, with the modalities of either."""
    if bundle.item_ids is None or corpus.item_ids is None:
        raise InputError("`corpus` needs `item_ids` on both sides, which say what each query looks for; got a Bundle without.")
    if bundle.dim != corpus.dim:
        raise InputError(
            f"`corpus` must share the width {bundle.dim} of the queries; got {corpus.dim}. Embed both by one model."
        )
    names = tuple(dict.fromkeys((*bundle.modalities, *corpus.modalities)))
    return Bundle.cat([_widened_to(each, names) for each in (bundle, corpus.to(bundle.vectors.device))])


def _widened_to(bundle: Bundle, names: Names) -> Bundle:
    """The Bundle with all of `names`, missing everywhere where it lacks them."""
    vectors = bundle.vectors.new_zeros(len(bundle), len(names), bundle.dim)
    present = bundle.present.new_zeros(len(bundle), len(names))
    index = [names.index(name) for name in bundle.modalities]
    vectors[:, index], present[:, index] = bundle.vectors, bundle.present
    return Bundle(vectors, present, names, bundle.item_ids, bundle.tokens)


def _by_row(ranked: MatchRanks, side: Side) -> RankedRows:
    """The ranks of every row, from those of its candidates."""
    matched = np.append(ranked.matched.cpu().numpy(), False)[side.of_row]  # −1, of a row without a candidate, is the last
    better, tied = (np.where(matched, np.append(part.cpu().numpy(), -1)[side.of_row], -1) for part in ranked[:2])
    return RankedRows(better, tied)


def _rows_of(bundle: Bundle, rows: NDArray[np.int64]) -> Bundle:
    """The Bundle at `rows`, without a copy where they are all its rows."""
    return bundle if len(rows) == len(bundle) else bundle[rows]


def _folded(parts: Sequence[Tensor], items: NDArray[np.int64], has: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(n,) for each row the first row of its item with the same vector, up to rounding.

    Copies of a film that were embedded in batches of different sizes differ in their last bits: vectors of one item count as
    the same where ‖x − y‖² is at most the ε of their type, that is where their cosine is 1 up to rounding.
    """
    numbers = np.arange(len(items))
    present = has.nonzero()[0]
    rows = present[np.argsort(items[present], kind="stable")]  # of one item side by side
    sorted_items = items[rows]
    starts = np.flatnonzero(np.r_[True, sorted_items[1:] != sorted_items[:-1]])
    sizes = np.diff(np.r_[starts, len(rows)])
    place = np.arange(len(rows)) - np.repeat(starts, sizes)
    for back in range(1, int(sizes.max(initial=1))):
        later = np.flatnonzero(place >= back)
        same = _close(parts, rows[later], rows[later - back])
        later = later[same]
        np.minimum.at(numbers, rows[later], numbers[rows[later - back]])
    while (numbers[numbers] != numbers).any():  # sameness up to rounding is not quite transitive
        numbers = numbers[numbers]
    return numbers


def _close(parts: Sequence[Tensor], first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.bool_]:
    blocks = [np.empty(0, bool)]
    for start in range(0, len(first), CHUNK):
        one, other = (torch.from_numpy(rows[start : start + CHUNK]).to(parts[0].device) for rows in (first, second))
        close = torch.ones(len(one), dtype=torch.bool, device=one.device)
        for part in parts:
            eps = torch.finfo(part.dtype).eps * max(1, part.shape[1] // parts[0].shape[1])  # of each token
            close &= (widened(part[one]) - widened(part[other])).square().sum(1) <= eps
        blocks.append(close.cpu().numpy())
    return np.concatenate(blocks)


def _alike(parts: Sequence[Tensor], numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) for each row, represented by row `numbers`, the first row of any item with exactly the same vector.

    Rows are compared by a hash of their bits, and where hashes agree by their values.
    """
    _, index, inverse = np.unique(_hashes(parts), return_index=True, return_inverse=True)
    first = index[inverse.reshape(-1)]
    rows = np.flatnonzero(first != np.arange(len(first)))
    for start in range(0, len(rows), CHUNK):
        one = rows[start : start + CHUNK]
        same = torch.ones(len(one), dtype=torch.bool, device=parts[0].device)
        for part in parts:
            same &= (part[torch.from_numpy(one)] == part[torch.from_numpy(first[one])]).all(1)
        different = one[~same.cpu().numpy()]
        first[different] = different
    return first[numbers]


def _hashes(parts: Sequence[Tensor]) -> NDArray[np.int64]:
    """(n,) 64 bits of each row: its 32-bit words times random odd numbers, summed modulo 2⁶⁴."""
    generator = torch.Generator().manual_seed(0)
    total = np.zeros(len(parts[0]), np.int64)
    for part in parts:
        odd = torch.randint(-(2**62), 2**62, (2 * part.shape[1],), generator=generator) * 2 + 1
        for start in range(0, len(part), CHUNK):
            values = part[start : start + CHUNK].cpu() + 0.0  # −0 is 0
            values = values if values.dtype in (torch.float32, torch.float64) else values.float()
            words = values.contiguous().view(torch.int32).long()
            total[start : start + CHUNK] += (words * odd[: words.shape[1]]).sum(1).numpy()
    return total
