"""`FlatIndex`: exact search on one machine, in a folder: segments that never change, and a manifest that names them.

A change writes new files, each whole or not there, and then the manifest: until then nothing has happened, after it everything
has. So a kill at any moment leaves the last committed state, readers never see half of a change, and what a killed writer left
is removed by the next. One process writes at a time; any number read, each the state that it opened or refreshed.

Over 400 lines: one class, a third of them its docstrings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from copy import copy
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gramian.bundle import Bundle
from gramian.errors import InputError, check_choice, check_number, check_type, listing
from gramian.files import claimed
from gramian.index.answers import Answers, Diagnosis
from gramian.index.checks import checked_ids, checked_items
from gramian.index.codes import check_int8
from gramian.index.diagnosis import diagnose
from gramian.index.explaining import explained
from gramian.index.fields import FieldType, Metadata, read_metadata
from gramian.index.protocol import DEFAULT, SEARCHED, Index, Options, SearchScore
from gramian.index.search import best
from gramian.index.segments import Entry, Segment, hash_ids, sides_of, write_live
from gramian.index.store import MANIFEST, check_new, file_name, joined, read_manifest, write_copy, write_manifest
from gramian.model.aligner import Aligner
from gramian.model.encoders import fingerprint
from gramian.tokens import Tokens

__all__ = ["FlatIndex"]

SMALL = 2**16
"""Segments of fewer items are merged when they are many."""
MANY = 16
LARGEST = 2**17  # items of a segment that `compact` writes: what is held in memory
RESIDENT = 2**30  # bytes


class FlatIndex(Index):
    """An index in a folder: every search is exact. Make one with `FlatIndex.create`, or read one with `FlatIndex.open`.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     index = FlatIndex.create(folder, dim=2)
    ...     bundle = Bundle.from_dict({"text": [[1.0, 0.0], [0.0, 1.0]], "image": [[0.8, 0.6], None]})
    ...     _ = index.add(bundle, ["bird", "cat"], {"legs": [2, 4]})
    ...     index.search(torch.tensor([[0.6, 0.8]]), filter="legs>=2").ids, len(index), index.modalities
    ([['bird', 'cat']], 2, ('text', 'image'))
    """

    def __init__(self, path: Path, model: Aligner | Callable[[], Aligner] | None = None, resident: int | None = None) -> None:
        self.path = path
        self._resident = RESIDENT if resident is None else resident
        self._model = model
        self._state: dict[str, Any] = {}
        self.segments: tuple[Segment, ...] = ()
        self._read: tuple[int, ...] = ()
        self.refresh()

    @classmethod
    def create(
        cls, path: str | Path, *, dim: int, space: str | None = None, model: Aligner | None = None, int8: bool = False
    ) -> FlatIndex:
        """Make an empty index.

        Args:
            path: a folder that is empty or does not exist.
            dim: width d of the vectors.
            space: fingerprint of the model whose space it is.
            model: the model itself, instead of its fingerprint; embeds queries.
            int8: keep the vectors in 8 bits, too: a quarter more on the disk, and scans that read a quarter as much and leave
                what may be among the answers to the exact vectors. Answers are the same.

        Returns:
            The index.

        Raises:
            InputError: a folder that holds files; more dimensions than 8-bit products can have.
        """
        folder = Path(path)
        check_number("dim", dim, "[1, 1048576]", integer=True)
        check_int8(int8, dim)
        if model is not None:
            space = fingerprint(model)
        with claimed(folder):
            check_new(folder)
            state: dict[str, Any] = {"dim": dim, "space": space, "modalities": [], "fields": {}, "int8": int8, "changes": 0}
            write_manifest(folder, state, [])
        return cls(folder, model)

    @staticmethod
    def found(path: Path) -> bool:
        """Whether a folder, or the folder `index` in it, is an index."""
        return (path / MANIFEST).is_file() or (path / "index" / MANIFEST).is_file()

    @classmethod
    def open(cls, path: str | Path, *, model: Aligner | None = None, resident: int | None = None) -> FlatIndex:
        """Open an index.

        Args:
            path: see `Index.open`.
            model: see `Index.open`.
            resident: bytes of the files whose pages stay in this process once they were read, 2³⁰ by default. A search gives
                the others back to the system, which keeps them while it has room; so one query on a million items takes a third
                longer.

        Returns:
            The index.

        Raises:
            InputError: see `Index.open`.
        """
        check_type("path", path, str, Path)
        check_number("resident", resident, "[0, inf)", integer=True, optional=True)
        folder = Path(path)
        source: Aligner | Callable[[], Aligner] | None = model
        if not (folder / MANIFEST).is_file():
            if not cls.found(folder):
                raise InputError(f"{str(folder)!r} holds no index. Make one: gramian index {folder} --data TABLE")
            run, folder = folder, folder / "index"
            if model is None and (run / "aligner").is_dir():
                source = lambda: Aligner.from_pretrained(run / "aligner")  # noqa: E731
        return cls(folder, source, resident)

    @property
    def dim(self) -> int:  # type: ignore[override]
        """The width d of the vectors."""
        return int(self._state["dim"])

    @property
    def space(self) -> str | None:  # type: ignore[override]
        """Fingerprint of the model whose space this is, or None."""
        space: str | None = self._state["space"]
        return space

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that items have."""
        return tuple(self._state["modalities"])

    @property
    def fields(self) -> Mapping[str, FieldType]:
        """Metadata field → its type."""
        fields: dict[str, FieldType] = self._state["fields"]
        return fields

    @property
    def int8(self) -> bool:
        """Whether the vectors are kept in 8 bits, too."""
        return bool(self._state["int8"])

    @property
    def score(self) -> SearchScore:
        """The score of a search that names none."""
        score: SearchScore | None = self._state["score"]
        return score or DEFAULT

    @property
    def score_is_set(self) -> bool:
        """Whether somebody has set the score, so that none is chosen by validation items."""
        return self._state["score"] is not None and not self._state["score_chosen"]

    def set_score(self, score: SearchScore | None, *, chosen: bool = False) -> None:
        """Set the score of searches that name none; arguments as of `Index.set_score`.

        Raises:
            InputError: an unknown score.
        """
        if score is not None:
            check_choice("score", score, SEARCHED)
        with claimed(self.path):
            self._begin()
            if (score, chosen) != (self._state["score"], self._state["score_chosen"]):
                self._commit([segment.entry for segment in self.segments], score=score, score_chosen=chosen)

    def _where(self) -> str:
        return repr(str(self.path))

    def __len__(self) -> int:
        return sum(segment.entry.rows - segment.entry.gone for segment in self.segments)

    def __repr__(self) -> str:
        return f"FlatIndex({len(self)} items, {self.dim} dimensions; {', '.join(self.modalities) or 'empty'})"

    def refresh(self, *, verify: bool = False) -> None:
        """Read the state that was committed last, as by another process.

        Args:
            verify: read every file in full and compare its hash.

        Raises:
            InputError: files that are missing, damaged or of a newer version.
        """
        for attempt in range(5):
            stamp = _stamp(self.path)
            state = read_manifest(self.path)
            known = {segment.entry: segment for segment in self.segments} if not verify else {}
            try:
                segments = tuple(
                    known.get(entry) or Segment.open(self.path, entry, state["dim"], verify=verify)
                    for entry in state["segments"]
                )
            except FileNotFoundError as error:  # a writer has compacted it since the manifest was read
                if attempt == 4 or read_manifest(self.path)["changes"] == state["changes"]:
                    what = error.filename or "a file of deleted items"  # safetensors does not name it
                    raise InputError(f"{str(self.path)!r} is damaged: {what} is missing. Build it again.") from None
                continue
            self._state, self.segments, self._read = state, segments, stamp
            for segment, size in zip(segments, accumulate(segment.entry.size for segment in segments), strict=True):
                segment.stays = size <= self._resident
            return

    def latest(self) -> FlatIndex:
        """The index as it was committed last: this one, or a copy that has read it.

        Raises:
            InputError: see `refresh`.
        """
        if _stamp(self.path) == self._read:
            return self
        other = copy(self)
        other.refresh()
        return other

    def add(self, bundle: Bundle, ids: Sequence[str], metadata: Metadata | None = None) -> int:
        """Add items, at once and for good; arguments and result as of `Index.add`.

        Raises:
            InputError: see `Index.add`.
        """
        bundle, names = checked_items(bundle, ids, self.dim)
        if not len(bundle):
            return 0
        sides = sides_of(bundle)
        with claimed(self.path):
            self._begin()
            fields = read_metadata(metadata, len(bundle), self.fields)
            found = self._find(names)
            entry = Segment.write(self.path / self._name(), names, bundle.modalities, sides, fields, int8=self.int8)
            entries = [*self._without(found), entry]
            kinds = {name: column.kind for name, column in fields.items()}
            modalities = list(dict.fromkeys((*self.modalities, *bundle.modalities)))
            self._commit(entries, modalities=modalities, fields=dict(self.fields) | kinds)
            small = 0
            for segment in reversed(self.segments):
                if segment.entry.rows >= SMALL:
                    break
                small += 1
            tier = [segment.entry.rows for segment in self.segments[len(self.segments) - small :]]
            if small >= MANY and max(tier[-MANY:]) < MANY * max(1, min(tier[-MANY:])):
                self._merge(len(self.segments) - MANY, len(self.segments))
        return len(found)

    def delete(self, ids: Sequence[str]) -> int:
        """Delete items, at once and for good; return how many of the ids were known. `compact` frees their space."""
        names = checked_ids(ids)
        with claimed(self.path):
            self._begin()
            found = self._find(list(dict.fromkeys(names)))
            if found:
                self._commit(self._without(found))
        return len(found)

    def compact(self, *, int8: bool | None = None) -> None:
        """Write the index again in few segments, without the deleted items and without what killed writers left.

        Args:
            int8: with or without the vectors in 8 bits; as before by default.

        Raises:
            InputError: more dimensions than 8-bit products can have.
        """
        check_int8(int8, self.dim)
        with claimed(self.path):
            self._begin()
            if int8 is not None and int8 != self.int8:
                self._commit([segment.entry for segment in self.segments], int8=int8)
            start = 0
            while start < len(self.segments):
                stop, rows = start, 0
                while stop < len(self.segments) and (stop == start or rows + self.segments[stop].entry.rows <= LARGEST):
                    rows += self.segments[stop].entry.rows
                    stop += 1
                if stop - start > 1 or self.segments[start].entry.gone or (self.segments[start].codes is None) == self.int8:
                    before = len(self.segments)
                    self._merge(start, stop)
                    start += len(self.segments) - before + stop - start
                else:
                    start = stop

    def save(self, path: str | Path) -> None:
        """Write a copy, without the deleted items, to another folder, which holds no index until the copy is whole.

        Raises:
            InputError: a folder that holds files.
        """
        self.refresh()
        parts = (joined([segment], self.modalities) for segment in self.segments)
        write_copy(Path(path), self._state, (part for part in parts if part is not None))

    def verify(self) -> None:
        """Read every file in full and compare its hash.

        Raises:
            InputError: one that has changed.
        """
        self.refresh(verify=True)

    def ids(self) -> Iterable[str]:
        """The ids of all items, in the order in which they were added."""
        for segment in self.segments:
            for row in segment.live.nonzero().flatten().tolist():
                yield segment.id(row)

    def known(self, ids: Sequence[str]) -> list[bool]:
        """Which of some ids are in the index."""
        found = {position for position, _, _ in self._find(list(ids))}
        return [position in found for position in range(len(ids))]

    def items(self, ids: Sequence[str]) -> tuple[Bundle, list[dict[str, Any]]]:
        """The vectors and the metadata of some items.

        Raises:
            InputError: an unknown id, or none.
        """
        names = checked_ids(ids)
        places = {position: (segment, row) for position, segment, row in self._find(names)}
        unknown = [name for position, name in enumerate(names) if position not in places]
        if unknown or not names:
            raise InputError(f"`ids` must be in the index; it has no {listing(map(repr, unknown))}.")
        vectors = torch.zeros(len(names), len(self.modalities), self.dim)
        present = torch.zeros(len(names), len(self.modalities), dtype=torch.bool)
        tokens: dict[str, list[Tensor]] = {}
        for position, (number, row) in places.items():
            segment = self.segments[number]
            axis = [self.modalities.index(name) for name in segment.modalities]
            vectors[position, axis] = segment.sides.vectors(slice(row, row + 1))[0]
            present[position, axis] = segment.sides.present[row]
            for modality, name in enumerate(segment.modalities):
                several = segment.sides.tokens_of(row, modality)
                if len(several):
                    column = tokens.setdefault(name, [vectors[i, self.modalities.index(name)][None] for i in range(len(names))])
                    column[position] = several
        known = {
            name: Tokens.from_rows(
                [rows if len(rows) and bool(present[i, self.modalities.index(name)]) else None for i, rows in enumerate(column)]
            )
            for name, column in tokens.items()
        }
        metadata = [self.segments[number].metadata(row) for _, (number, row) in sorted(places.items())]
        for segment in self.segments:
            segment.give_back()
        return Bundle(vectors, present, self.modalities, None, known), metadata

    def _search(self, queries: Bundle, options: Options) -> Answers:
        bank = None
        if options.hubs:
            bank = None if self.model is None else self.model.bank
            if bank is None:
                raise InputError("`hubs` needs a model that keeps training items. Train it with --bank 1000.")
        excluded = {(number, row) for _, number, row in self._find(list(options.exclude))}
        visible = []
        for number, segment in enumerate(self.segments):
            mask = segment.live.clone()
            for condition in options.conditions:
                mask &= condition.holds(segment.fields.get(condition.field), len(segment))
            for other, row in excluded:
                if other == number:
                    mask[row] = False
            visible.append(mask)
        found = best(self.segments, visible, queries, options, bank)
        return Answers(explained(self.segments, queries, found, options.modalities), options.score, options.modalities)

    def diagnose(self) -> Diagnosis:
        """Measure what makes answers bad; see `Index.diagnose`."""
        return diagnose(self)

    # Changes, all by the owner of the folder.

    def _begin(self) -> None:
        """Read the latest state, and remove what a killed writer left that the manifest does not name."""
        self.refresh()
        named = {MANIFEST} | {name for entry in self._state["segments"] for name in (entry.file, entry.deleted)}
        for path in self.path.iterdir():
            if path.suffix == ".safetensors" and path.name not in named and not path.name.startswith("."):
                with suppress(OSError):
                    path.unlink()

    def _name(self, kind: str = "") -> str:
        return file_name(self._state["changes"] + 1, kind)

    def _find(self, ids: list[str]) -> list[tuple[int, int, int]]:
        """(position in `ids`, segment, row) of those that are in the index."""
        hashes = hash_ids(ids)
        return [
            (position, number, row)
            for number, segment in enumerate(self.segments)
            for position, row in (segment.find(ids, hashes) if ids else ())
        ]

    def _without(self, found: Sequence[tuple[int, int, int]]) -> list[Entry]:
        """The entries of the manifest with some items marked as deleted; the marks are written."""
        entries = [segment.entry for segment in self.segments]
        rows: dict[int, list[int]] = {}
        for _, number, row in found:
            rows.setdefault(number, []).append(row)
        for number, gone in rows.items():
            segment = self.segments[number]
            live = segment.live.clone()
            live[gone] = False
            name = self._name(".deleted")
            write_live(self.path / name, live)
            entries[number] = segment.entry._replace(deleted=name, gone=int((~live).sum()))
        return [entry for entry in entries if entry.gone < entry.rows]

    def _merge(self, start: int, stop: int) -> None:
        """Write some neighbouring segments as one."""
        part = joined(self.segments[start:stop], self.modalities)
        entries = [segment.entry for segment in self.segments]
        new = []
        if part is not None:
            new = [Segment.write(self.path / self._name(), part[0], self.modalities, *part[1:], int8=self.int8)]
        self._commit([*entries[:start], *new, *entries[stop:]])

    def _commit(self, entries: Sequence[Entry], **changes: Any) -> None:
        """Make a new state the index, in one step."""
        before = {name for entry in self._state["segments"] for name in (entry.file, entry.deleted)}
        write_manifest(self.path, self._state | changes | {"changes": self._state["changes"] + 1}, entries)
        after = {name for entry in entries for name in (entry.file, entry.deleted)}
        for name in before - after - {None}:
            with suppress(OSError):
                (self.path / str(name)).unlink()
        self.refresh()


def _stamp(folder: Path) -> tuple[int, ...]:
    """What changes with every change of an index: its manifest is another file then."""
    try:
        about = (folder / MANIFEST).stat()
    except FileNotFoundError:  # told in full where it is read
        return ()
    return about.st_ino, about.st_mtime_ns, about.st_size
