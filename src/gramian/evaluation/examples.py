"""The queries that a space answers best and worst, and what it found in place of the match."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from gramian.evaluation.directions import Direction
from gramian.evaluation.rankings import Rankings
from gramian.kernels.ranks import top_k

__all__ = ["Example", "examples"]

COUNT = 3
"""Examples of each kind in a direction."""

LISTED = 3
"""Candidates that are listed for an example, the best first."""

TRIED = 512
"""Queries whose match came first among which the surest are sought, drawn at random with a fixed seed from more."""


@dataclass(frozen=True)
class Example:
    """One query, and what a direction found for it.

    Attributes:
        query: modality of the query.
        target: modality of the candidates.
        kind: "hardest", of those whose match came last, or "best", of those whose match led by most.
        id: of the query's row.
        rank: of the best match, 1 the best; halves where scores tie.
        gallery: number of candidates.
        found: ids of the best candidates, the first first.
        right: for each of `found`, whether it is a match.
    """

    query: str
    target: str
    kind: Literal["best", "hardest"]
    id: str
    rank: float
    gallery: int
    found: tuple[str, ...]
    right: tuple[bool, ...]


def examples(rankings: Rankings, directions: Sequence[Direction], ids: Sequence[str]) -> Iterator[Example]:
    """The hardest and the best queries of directions between two modalities.

    The hardest are those whose match has the last rank; the best, among those whose match came first, those where it leads the
    next item by most.

    Args:
        rankings: of the evaluated Bundle.
        directions: of them, between two modalities.
        ids: n names of the rows.

    Yields:
        For each direction at most three of the hardest, then three of the best.
    """
    for direction in directions:
        expected = direction.ranks.expected
        worst = [i for i in np.argsort(-expected, kind="stable")[:COUNT] if expected[i] > 1]
        first = np.flatnonzero(expected == 1)
        order = torch.randperm(len(first), generator=torch.Generator().manual_seed(0))[:TRIED].sort().values.numpy()
        for kind, places in (("hardest", np.array(worst, np.int64)), ("best", first[order])):
            if len(places):
                yield from _listed(rankings, direction, ids, kind, places)  # type: ignore[arg-type]


@torch.no_grad()
def _listed(
    rankings: Rankings,
    direction: Direction,
    ids: Sequence[str],
    kind: Literal["best", "hardest"],
    places: NDArray[np.int64],
) -> Iterator[Example]:
    side = rankings.side(direction.target)
    queries = rankings.bundle.select(*direction.query)[direction.rows[places]]
    items = rankings.bundle.select(*direction.target)[side.first]
    scores, columns = top_k(rankings.form(queries, items, "cosine"), LISTED)
    rows = side.first[columns.cpu().numpy()]
    own = rankings.items[direction.rows[places]]
    right = rankings.items[rows] == own[:, None]
    chosen = np.arange(len(places))
    if kind == "best":
        values = scores.cpu().numpy().astype(float)
        rest = np.where(right, -np.inf, values).max(1) if values.shape[1] > 1 else np.full(len(places), -np.inf)
        chosen = np.argsort(rest - values[:, 0], kind="stable")[:COUNT]
    for i in chosen:
        yield Example(
            query=direction.query[0],
            target=direction.target[0],
            kind=kind,
            id=ids[direction.rows[places[i]]],
            rank=float(direction.ranks.expected[places[i]]),
            gallery=direction.gallery,
            found=tuple(ids[row] for row in rows[i]),
            right=tuple(bool(one) for one in right[i]),
        )
