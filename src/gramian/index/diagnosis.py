"""`diagnose`: what makes the answers of an index bad, and a warning in plain words where it does."""

from __future__ import annotations

from collections import Counter
from typing import Any, Protocol

import torch
from torch import Tensor

from gramian.geometry import orthogonalize
from gramian.index.answers import Answers, Diagnosis
from gramian.index.protocol import SearchScore
from gramian.index.segments import Segment

__all__ = ["diagnose"]

SAMPLE = 500  # items whose vectors are asked for as queries
DOMINATED = 0.2
"""A share of the answers held by the 1 % items of the smallest own volume, from which on β = 1 is dominated by them."""
HUBBED = 0.1
BLOCK = 2**14  # items read at a time


class _Searchable(Protocol):
    @property
    def segments(self) -> tuple[Segment, ...]: ...

    @property
    def modalities(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def search(self, queries: Tensor, k: int, *, score: SearchScore) -> Answers: ...

    def verify(self) -> None: ...


def diagnose(index: _Searchable) -> Diagnosis:
    """The figures of an index, after all its files were read and compared with their hashes."""
    index.verify()
    n = len(index)
    if not n:
        return Diagnosis({"items": 0}, ("The index is empty.",))
    logs, arity, repeated, dependent, queries = _read(index.segments)
    figures: dict[str, Any] = {"items": n, "segments": len(index.segments)}
    figures |= {f"items with {count} of {len(index.modalities)} modalities": arity[count] for count in sorted(arity)}
    figures |= {"items whose vectors are dependent": dependent, "duplicates": repeated}
    figures["spread of log D"] = float(logs.std()) if n > 1 else 0.0
    warnings = []
    sample = queries[torch.randperm(len(queries), generator=torch.Generator().manual_seed(0))[:SAMPLE]]
    rows = torch.cat(
        [torch.full((len(each),), torch.nan).masked_scatter(each.live, part) for each, part in _split(index, logs)]
    )
    smallest = max(1, n // 100)
    limit = float(logs.kthvalue(smallest).values)
    ids = _ids_below(index, rows, limit)
    if n >= 100 and len(index.modalities) > 1:
        for score, name in (("volume", "β = 1"), ("span", "β = 0")):
            answers = index.search(sample, 10, score=score)  # type: ignore[arg-type]
            held = [name in ids for names in answers.ids for name in names]
            figures[f"share of answers held by the 1 % smallest D, {name}"] = sum(held) / max(1, len(held))
        most = min(1.0, smallest / 10)  # of ten answers to a query
        volume, span = (figures[f"share of answers held by the 1 % smallest D, {name}"] for name in ("β = 1", "β = 0"))
        if volume > max(DOMINATED * most, 2 * span):
            warnings.append(
                "The published volume (β = 1) would be dominated by items whose own vectors nearly coincide: "
                "search by centroid or span."
            )
    answers = index.search(sample, 10, score="centroid")
    counts = Counter(name for names in answers.ids for name in names)
    top = counts.most_common(max(1, n // 100))
    figures["share of answers held by the 1 % most found, centroid"] = sum(count for _, count in top) / max(1, counts.total())
    if n >= 1000 and figures["share of answers held by the 1 % most found, centroid"] > HUBBED:
        warnings.append("A few items, hubs, turn up for many queries: correct for them with `hubs`.")
    if repeated:
        warnings.append(f"Items with the same vectors as another: {repeated}. They tie, and fill the answers together.")
    if len(arity) > 1:
        warnings.append(
            "Items have different numbers of modalities: span, cone, volume favour those with more; centroid does not."
        )
    return Diagnosis(figures, tuple(warnings))


def _read(segments: tuple[Segment, ...]) -> tuple[Tensor, Counter[int], int, int, Tensor]:
    """Log D of every live item, numbers of modalities, duplicates, dependent items, and vectors to ask for."""
    logs, queries = [], []
    arity: Counter[int] = Counter()
    seen: set[bytes] = set()
    repeated = dependent = 0
    for segment in segments:
        live = segment.live.nonzero().flatten()
        for rows in segment.walk(live, BLOCK):
            coordinates, present = segment.sides.coordinates[rows], segment.sides.present[rows]
            volume = orthogonalize(coordinates.double(), present).volume
            dependent += int((volume < 1e-5).sum())
            logs.append(2 * volume.clamp(min=1e-12).log())
            arity.update(present.sum(1).tolist())
            step = max(1, len(live) // SAMPLE)
            vectors = segment.sides.vectors(rows[::step])
            first = present[::step].int().argmax(1)
            queries.append(vectors[torch.arange(len(first)), first])
            keys = torch.cat([segment.sides.basis[:, rows, :16].transpose(0, 1).flatten(1), coordinates.flatten(1)], 1)
            for key in keys.numpy():
                word = key.tobytes()
                repeated += word in seen
                seen.add(word)
    return torch.cat(logs), arity, repeated, dependent, torch.cat(queries)


def _split(index: _Searchable, logs: Tensor) -> list[tuple[Segment, Tensor]]:
    parts = torch.split(logs.float(), [int(segment.live.sum()) for segment in index.segments])
    return list(zip(index.segments, parts, strict=True))


def _ids_below(index: _Searchable, rows: Tensor, limit: float) -> set[str]:
    """The ids of the items whose log D is at most `limit`."""
    ids, first = set(), 0
    for segment in index.segments:
        chosen = (rows[first : first + len(segment)] <= limit + 1e-6).nonzero().flatten().tolist()
        ids |= {segment.id(row) for row in chosen}
        first += len(segment)
    return ids
