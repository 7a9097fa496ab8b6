"""From the items found to what is told of them: contributions of modalities, what they lack, metadata."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gramian.bundle import Bundle
from gramian.geometry import direction
from gramian.index.answers import Hit
from gramian.index.search import Found
from gramian.index.segments import Segment

__all__ = ["told"]


def told(
    segments: Sequence[Segment], queries: Bundle, found: Sequence[Found], modalities: Sequence[str]
) -> tuple[tuple[Hit, ...], ...]:
    """What is told of each answer: its vectors are compared with the query's, all at once."""
    places = [(query, number, row) for query, answers in enumerate(found) for _, number, row in answers]
    vectors = torch.zeros(len(places), len(modalities), queries.dim)
    present = torch.zeros(len(places), len(modalities), dtype=torch.bool)
    for number, segment in enumerate(segments):
        here = [i for i, place in enumerate(places) if place[1] == number]
        rows = torch.tensor([places[i][2] for i in here], dtype=torch.int64)
        if not here:
            continue
        recovered = segment.sides.vectors(rows)
        for axis, name in enumerate(segment.modalities):
            if name in modalities:
                column = list(modalities).index(name)
                present[here, column] = segment.sides.present[rows, axis]
                vectors[here, column] = recovered[:, axis]
    which = torch.tensor([query for query, _, _ in places], dtype=torch.int64)
    asked = torch.cat([queries.vectors, direction(queries.vectors.sum(1, keepdim=True))], 1).to(vectors)
    table = torch.einsum("nkd,nmd->nkm", asked[which], vectors).tolist()
    has, asks = present.tolist(), queries.present.tolist()
    hits: list[list[Hit]] = [[] for _ in found]
    scores = [score for answers in found for score, _, _ in answers]
    for i, (query, number, row) in enumerate(places):
        columns = [(name, column) for column, name in enumerate(modalities) if has[i][column]]
        cosines = {
            name: {other: table[i][axis][column] for other, column in columns}
            for axis, name in enumerate(queries.modalities)
            if asks[query][axis]
        }
        segment = segments[number]
        total = {name: table[i][-1][column] for name, column in columns}
        missing = tuple(name for column, name in enumerate(modalities) if not has[i][column])
        hits[query].append(Hit(segment.id(row), scores[i], total, cosines, missing, segment.metadata(row)))
    return tuple(map(tuple, hits))
