"""What a search answers, and what a diagnosis tells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from gramian.index.fields import Value
from gramian.sheets import Sheet

__all__ = ["Answers", "Diagnosis", "Hit"]


@dataclass(frozen=True)
class Hit:
    """An item found.

    Attributes:
        id: its name.
        score: how well it fits; comparable with the other answers to the query.
        contributions: modality of the item → the cosine between it and the query, whose parts count as one sum.
        cosines: modality of the query → modality of the item → their cosine.
        missing: the modalities that the item lacks, of those that were searched.
        metadata: field → value.
    """

    id: str
    score: float
    contributions: Mapping[str, float] = field(default_factory=dict)
    cosines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    metadata: Mapping[str, Value] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as for JSON."""
        return asdict(self) | {"missing": list(self.missing)}


@dataclass(frozen=True)
class Answers:
    """What a search found: for each query its items, best first; fewer than k where no more can be found.

    Attributes:
        hits: one tuple per query.
        score: the name of the score.
        modalities: those that were searched.
    """

    hits: tuple[tuple[Hit, ...], ...]
    score: str
    modalities: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.hits)

    def __getitem__(self, query: int) -> tuple[Hit, ...]:
        return self.hits[query]

    def __iter__(self) -> Iterator[tuple[Hit, ...]]:
        return iter(self.hits)

    @property
    def ids(self) -> list[list[str]]:
        """The ids of each query's answers."""
        return [[hit.id for hit in hits] for hits in self.hits]

    @property
    def scores(self) -> list[list[float]]:
        """The scores of each query's answers."""
        return [[hit.score for hit in hits] for hits in self.hits]

    def sheets(self) -> list[Sheet]:
        """A table for each query: id, score, cosine to each modality of the item, metadata; – where the item lacks one."""
        sheets = []
        for number, hits in enumerate(self.hits):
            fields = list(dict.fromkeys(name for hit in hits for name in hit.metadata))
            header = ("id", self.score, *(f"cos {name}" if name in fields else name for name in self.modalities), *fields)
            rows = tuple(
                (
                    hit.id,
                    f"{hit.score:.4f}",
                    *(f"{hit.contributions[name]:.3f}" if name in hit.contributions else "–" for name in self.modalities),
                    *(f"{hit.metadata.get(name, '')!s:.80}" for name in fields),
                )
                for hit in hits
            )
            title = "Answers" if len(self.hits) == 1 else f"Answers to query {number}"
            note = "Cosines to the query per modality; – where the item lacks it."
            if not hits:
                note = f"No item has {' or '.join(self.modalities)} and passes the filter."
            sheets.append(Sheet(title, header, rows, note))
        return sheets


@dataclass(frozen=True)
class Diagnosis:
    """The state of an index.

    Attributes:
        figures: what was measured, by name.
        warnings: what to know before trusting its answers, in plain words.
    """

    figures: Mapping[str, Any]
    warnings: tuple[str, ...]

    def sheet(self) -> Sheet:
        """A table of the figures; the warnings below."""
        rows = tuple((name, f"{value:.4g}" if isinstance(value, float) else str(value)) for name, value in self.figures.items())
        return Sheet("Index", ("figure", "value"), rows, " ".join(self.warnings))
