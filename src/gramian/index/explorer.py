"""`Explorer`: what the page of `gramian explore` asks an index and shows of the answers; plain data, no page.

A question holds texts, bytes of media, names of items and a table of the asker's own: it cannot name a file of this machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gramian.bundle import Bundle
from gramian.data.media import Kind
from gramian.errors import InputError, check_choice, check_choices
from gramian.evaluation.page import Entry
from gramian.evaluation.previews import Preview, Previews, preview
from gramian.index.answers import Hit
from gramian.index.asking import chosen, embedded, item_of, joined, lacking, row_of
from gramian.index.fields import FieldType, Value
from gramian.index.flat import FlatIndex
from gramian.index.mapping import HAS, Map, places_of
from gramian.index.protocol import SEARCHED, SearchScore, combined

__all__ = ["Answer", "Explorer", "Found", "Mark", "Question", "Range"]

CHOICES = 200
"""Values of a text field that are offered, and items to begin with."""
KEPT = 2048  # previews in memory
LIKE = "like "
YOURS = "your query"


@dataclass(frozen=True)
class Question:
    """What is asked, all parts together; at least one of `cells`, `like` and `table`.

    Attributes:
        cells: modality → a text, or the bytes of a file.
        like: id of an item of the index; it is not among the answers.
        by: the modalities of that item that count; all by default.
        table: a file of the asker's own whose first row asks.
        without: modality → a text, or the bytes of a file, that the answers should lack.
        unlike: id of an item that the answers should not resemble.
        weights: modality → the weight of the query's part; 1 for the others.
        filter: of the metadata; see `gramian.index.Filter`.
        modalities: of the items, to search in; all by default.
        k: how many answers.
        scores: one or two, whose answers are set side by side; by default that of the index.
        hubs: correct the scores for hubs.
        colour: what colours the map: a field of the metadata, or `HAS`, the modalities of the items.
    """

    cells: Mapping[str, Any] = field(default_factory=dict)
    like: str = ""
    by: Sequence[str] = ()
    table: Path | None = None
    without: Mapping[str, Any] = field(default_factory=dict)
    unlike: str = ""
    weights: Mapping[str, float] = field(default_factory=dict)
    filter: Sequence[str | Mapping[str, Any]] = ()
    modalities: Sequence[str] = ()
    k: int = 10
    scores: Sequence[SearchScore] = ()
    hubs: bool = False
    colour: str = ""


@dataclass(frozen=True)
class Range:
    """What a field of the metadata holds, in a sample of the items.

    Attributes:
        name: of the field.
        kind: its type.
        values: of a text, the most frequent first.
        low: of a number.
        high: of a number.
    """

    name: str
    kind: FieldType
    values: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0


@dataclass(frozen=True)
class Answer:
    """An item found, as it is shown.

    Attributes:
        rank: from 1.
        hit: what the search says of it.
        entries: its media.
        facts: the other metadata, as text.
        other: its rank by the other score; 0 where it is not among those answers.
    """

    rank: int
    hit: Hit
    entries: tuple[Entry, ...]
    facts: Mapping[str, str]
    other: int = 0


@dataclass(frozen=True)
class Mark:
    """The query, a part of it, or an answer on the map.

    Attributes:
        label: on the map: "Q", a modality, a rank.
        name: in the table: an id, or what the part is.
        kind: "query", "part", "answer", or "second" for one of the second score alone.
        x: to the right.
        y: upwards.
        ranks: by each score; 0 where it is not among the answers.
        scores: by each score; None likewise.
    """

    label: str
    name: str
    kind: str
    x: float
    y: float
    ranks: tuple[int, ...] = ()
    scores: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Found:
    """The answers to a question.

    Attributes:
        asked: the query's media and names.
        lists: score → its answers, best first.
        marks: of the query and the answers on the map.
        modalities: those that were searched.
        parts: the query's modalities.
        colour: the field that colours the map; empty for none.
    """

    asked: tuple[Entry, ...]
    lists: Mapping[str, tuple[Answer, ...]]
    marks: tuple[Mark, ...]
    modalities: tuple[str, ...]
    parts: tuple[str, ...]
    colour: str = ""


class Explorer:
    """An index to be explored: what can be asked, the answers with their media, and the map they lie on.

    Args:
        index: with its model, if cells are to be asked with.
        previews: of a table with the items' raw cells, by their ids.
        media_root: folders that the files named in the index's metadata may be shown from; none by default.

    Attributes:
        inputs: the modalities that can be asked with from raw → the kind of media.
        features: the modalities that the model reads features of.
        ranges: the fields that can be filtered by.
        map: of a sample of the items.

    Raises:
        InputError: an empty index, or a model of another space.
    """

    def __init__(self, index: FlatIndex, *, previews: Previews | None = None, media_root: Sequence[Path] = ()) -> None:
        self.index = index
        self.map: Map = Map(index)
        self.inputs: dict[str, Kind] = {}
        self.features: tuple[str, ...] = ()
        model = index.model
        if model is not None:
            raw = model.raw_modalities()
            kinds = {name: getattr(model.towers[name].reader, "kind", None) for name in raw}
            self.inputs = {name: kind for name, kind in kinds.items() if kind is not None}
            self.features = tuple(name for name in model.modalities if name not in raw)
        self.hubs: bool = model is not None and model.bank is not None
        self.ranges: tuple[Range, ...] = tuple(
            self._range(name, kind) for name, kind in index.fields.items() if name not in self.inputs
        )
        self._previews = previews
        if previews is not None:  # a recording may be that of a file of video
            previews.kinds |= {name: kind for name, kind in self.inputs.items() if name in previews.columns}
        self._roots = tuple(root.resolve() for root in media_root)
        self._made: dict[tuple[str, str], Preview | None] = {}

    @property
    def some(self) -> list[str]:
        """Ids of items to begin with."""
        return self.map.ids[:CHOICES]

    def ask(self, question: Question) -> Found:
        """The answers to a question.

        Raises:
            InputError: nothing is asked, or something that cannot be: an unknown item or field, a cell that cannot be read.
        """
        scores = check_choices("scores", question.scores or (self.index.score,), SEARCHED)
        if len(scores) > 2:
            raise InputError(f"`scores` must name one or two of {', '.join(SEARCHED)}; got {len(scores)}.")
        parts, asked = self._parts(question)
        query = joined(parts)
        names = [name for _, part in parts for name in part.modalities]
        named = {own: question.weights.get(name, 1.0) for own, name in zip(query.modalities, names, strict=True)}
        weights = named if any(weight != 1 for weight in named.values()) else None
        without = self._without(question)
        lists: dict[str, tuple[Hit, ...]] = {}
        for score in scores:
            answers = self.index.search(
                query,
                question.k,
                score=score,
                filter=list(question.filter) or None,
                modalities=list(question.modalities) or None,
                weights=weights,
                without=without,
                hubs=question.hubs,
                exclude=[name for name in dict.fromkeys((question.like, question.unlike)) if name],
            )
            lists[score] = answers[0]
        ranks = [{hit.id: rank for rank, hit in enumerate(hits, 1)} for hits in lists.values()]
        shown = {
            score: tuple(self._answer(hit, rank, ranks[1 - i] if len(ranks) > 1 else {}) for rank, hit in enumerate(hits, 1))
            for i, (score, hits) in enumerate(lists.items())
        }
        searched = answers.modalities
        colour = question.colour and check_choice("colour", question.colour, (HAS, *self.index.fields))
        return Found(
            asked,
            shown,
            self._marks(query, combined(query, weights, without), lists, ranks),
            searched,
            query.modalities,
            colour,
        )

    def _parts(self, question: Question) -> tuple[list[tuple[str, Bundle]], tuple[Entry, ...]]:
        """The query's vectors, and what is shown of it."""
        parts: list[tuple[str, Bundle]] = []
        asked: list[Entry] = []
        if question.cells:
            parts.append(("", embedded(self.index, self._checked(question.cells))))
            asked += [
                Entry(name, YOURS, preview(cell, self.inputs[name]) if name in self.inputs else None)
                for name, cell in question.cells.items()
            ]
        if question.table is not None:
            row = row_of(self.index, question.table)
            parts.append(("row ", row))
            asked += [Entry(name, "the first row of your table") for name in row.modalities]
        if question.like:
            items, metadata = item_of(self.index, question.like, "like")
            item = chosen(items, question.by or None)
            parts.append((LIKE, item))
            asked += self._entries(question.like, metadata, item.modalities)
        if not parts:
            raise InputError("there is nothing to search by. Type, drop or record something, or name an item of the index.")
        return parts, tuple(asked)

    def _checked(self, cells: Mapping[str, Any]) -> Mapping[str, Any]:
        """Cells of a question: never the path of a file."""
        for name, cell in cells.items():
            kind = self.inputs.get(name)
            wanted: type = str if kind == "text" else bytes
            if kind is None or not isinstance(cell, wanted):
                what = "a text" if kind == "text" else "the bytes of a file" if kind else f"one of {', '.join(self.inputs)}"
                raise InputError(f"`cells.{name}` must be {what}; got {type(cell).__name__}.")
        return cells

    def _without(self, question: Question) -> Bundle | None:
        cells = embedded(self.index, self._checked(question.without)) if question.without else None
        return lacking(self.index, cells, question.unlike)

    def _answer(self, hit: Hit, rank: int, other: Mapping[str, int]) -> Answer:
        has = [name for name in self.index.modalities if name in hit.contributions]
        facts = {name: _text(value) for name, value in hit.metadata.items() if name not in self.inputs}
        return Answer(rank, hit, tuple(self._entries(hit.id, hit.metadata, has)), facts, other.get(hit.id, 0))

    def _entries(self, name: str, metadata: Mapping[str, Value], modalities: Sequence[str]) -> list[Entry]:
        """An item in each of its modalities that can be shown; if there is none, its name."""
        shown = [Entry(modality, name, self.preview(name, modality, metadata)) for modality in modalities]
        return [entry for entry in shown if entry.preview is not None] or [Entry("item", name)]

    def preview(self, name: str, modality: str, metadata: Mapping[str, Value]) -> Preview | None:
        """A small part of what an item has in a modality: of the table's cell, or of what its metadata names; None without."""
        key = name, modality
        if key not in self._made:
            while len(self._made) >= KEPT:
                del self._made[next(iter(self._made))]
            made = self._previews.made(modality, name) if self._previews is not None else None
            self._made[key] = made if made is not None else self._kept(modality, metadata.get(modality))
        return self._made[key]

    def _kept(self, modality: str, value: Value | None) -> Preview | None:
        """Of what an index keeps of a raw cell: a text, or a path in a folder that may be shown."""
        kind = self.inputs.get(modality)
        if kind is None or not isinstance(value, str):
            return None
        if kind == "text":
            return preview(value, "text")
        try:
            path = Path(value).resolve()
            allowed = any(path.is_relative_to(root) for root in self._roots) and path.is_file()
        except (OSError, ValueError, RuntimeError):
            return None
        return preview(path, kind) if allowed else None

    def _marks(
        self,
        query: Bundle,
        whole: Bundle,
        lists: Mapping[str, tuple[Hit, ...]],
        ranks: Sequence[Mapping[str, int]],
    ) -> tuple[Mark, ...]:
        """The query, its parts and the answers on the map."""
        marks = []
        for label, vector, kind in [
            ("Q", places_of(whole), "query"),
            *((name, query.column(name), "part") for name in query.modalities),
        ]:
            x, y = self.map.place(vector)[0].tolist()
            marks.append(Mark(label, "query" if kind == "query" else f"{label} of the query", kind, x, y))
        if len(query.modalities) == 1:
            marks = marks[:1]
        ids = list(dict.fromkeys(hit.id for hits in lists.values() for hit in hits))
        if not ids:
            return tuple(marks)
        scores = [{hit.id: hit.score for hit in hits} for hits in lists.values()]
        for name, (x, y) in zip(ids, self.map.place(places_of(self.index.vectors(ids))).tolist(), strict=True):
            own = tuple(each.get(name, 0) for each in ranks)
            kind = "answer" if own[0] else "second"
            label = "/".join(str(rank or "–") for rank in own) if len(set(own)) > 1 else str(own[0])
            marks.append(Mark(label, name, kind, x, y, own, tuple(each.get(name) for each in scores)))
        return tuple(marks)

    def _range(self, name: str, kind: FieldType) -> Range:
        values = [one[name] for one in self.map.metadata if name in one]
        if kind == "text":
            counts = Counter(map(str, values))
            return Range(name, kind, tuple(sorted(counts, key=lambda word: (-counts[word], word))[:CHOICES]))
        numbers = [float(value) for value in values] or [0.0]
        return Range(name, kind, (), min(numbers), max(numbers))


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:.6g}" if isinstance(value, float) else str(value)
