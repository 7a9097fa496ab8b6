"""What an answer says of the items found: contributions of modalities, what they lack, metadata."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gramian.bundle import Bundle
from gramian.geometry import direction
from gramian.index.answers import Hit
from gramian.index.search import Ranking
from gramian.index.segments import Segment

__all__ = ["compared", "explained"]


def explained(
    segments: Sequence[Segment], queries: Bundle, found: Sequence[Ranking], modalities: Sequence[str]
) -> tuple[tuple[Hit, ...], ...]:
    """What is said of each answer: its vectors are compared with the query's, all at once."""
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
        segment.give_back()
    which = torch.tensor([query for query, _, _ in places], dtype=torch.int64)
    asked = queries[which] if len(places) else queries[:0]
    parts = compared(asked, Bundle(vectors, present, tuple(modalities)))
    hits: list[list[Hit]] = [[] for _ in found]
    scores = [score for answers in found for score, _, _ in answers]
    for (query, number, row), score, part in zip(places, scores, parts, strict=True):
        hits[query].append(Hit(segments[number].id(row), score, *part, segments[number].metadata(row)))
    return tuple(map(tuple, hits))


Part = tuple[dict[str, float], dict[str, dict[str, float]], tuple[str, ...]]


def compared(queries: Bundle, items: Bundle) -> list[Part]:
    """For each item its contributions, cosines and missing modalities, as `Hit` has them.

    Args:
        queries: the query of each item, or one for all.
        items: n items.

    Returns:
        (contributions, cosines, missing) of each.
    """
    asked = torch.cat([queries.vectors, direction(queries.vectors.sum(1, keepdim=True))], 1).to(items.vectors)
    table = (asked @ items.vectors.mT).tolist()
    has = items.present.tolist()
    asks = queries.present.expand(len(items), -1).tolist()
    parts: list[Part] = []
    for row, mask, ask in zip(table, has, asks, strict=True):
        columns = [(name, column) for column, name in enumerate(items.modalities) if mask[column]]
        cosines = {
            name: {other: row[axis][column] for other, column in columns}
            for axis, name in enumerate(queries.modalities)
            if ask[axis]
        }
        missing = tuple(name for column, name in enumerate(items.modalities) if not mask[column])
        parts.append(({name: row[-1][column] for name, column in columns}, cosines, missing))
    return parts
