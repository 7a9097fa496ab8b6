"""The mixed pool: the vectors of all modalities in one gallery, and which modality comes first in it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gramian.bundle import Bundle
from gramian.errors import InputError
from gramian.evaluation.metrics import Ranks, hits_at_k
from gramian.evaluation.rankings import Rankings
from gramian.evaluation.stats import Interval, share_interval
from gramian.geometry import widened
from gramian.sheets import Sheet

__all__ = ["Mixed", "mixed_pool", "mixed_sheet"]

CHUNK = 2**22
"""Cosines of queries with the whole pool that are held at a time."""


@dataclass(frozen=True)
class Mixed:
    """One modality asks a gallery that holds every vector of every modality but the query's own.

    Attributes:
        query: the modality that asks.
        pool: modality → its vectors in the gallery.
        first: modality → share of the queries whose best candidate is of it; where candidates tie, in equal parts.
        items: (q,) the item of each query.
        ranks: of the query's item, by its best vector of another modality, among the vectors of all other items.
        of_target: modality → the ranks of the item's vector of that modality, and the items of the queries that have one.
    """

    query: str
    pool: dict[str, int]
    first: dict[str, Interval]
    items: NDArray[np.int64]
    ranks: Ranks
    of_target: dict[str, tuple[Ranks, NDArray[np.int64]]]

    def expected(self, modality: str) -> float:
        """Its share of the gallery: that of the first places in a space without a gap between modalities."""
        return self.pool[modality] / sum(self.pool.values())

    def recall(self, k: int, target: str | None = None) -> Interval:
        """Share of the queries with a vector of their item, of modality `target` if one is named, among the best k."""
        ranks, items = (self.ranks, self.items) if target is None else self.of_target[target]
        return share_interval(hits_at_k(ranks, k), items)

    def to_dict(self) -> dict[str, object]:
        """Everything as plain numbers and dicts."""
        return {
            "query": self.query,
            "pool": self.pool,
            "first": {name: share._asdict() for name, share in self.first.items()},
            "expected": {name: self.expected(name) for name in self.pool},
            "recall_at_1": self.recall(1)._asdict(),
            "recall_at_10": self.recall(10)._asdict(),
            "recall_at_1_of_target": {name: self.recall(1, name)._asdict() for name in self.of_target},
        }


def mixed_pool(bundle: Bundle) -> tuple[Mixed, ...]:
    """Let each modality ask a gallery of every other vector, by cosine.

    Rows of one item are one item: none of its vectors pushes another down, and the rows of the query's own modality that are
    of its item are left out, for they are captions of the same. Copies of a vector within an item count once.

    Args:
        bundle: n rows, m ≥ 2 modalities.

    Returns:
        One entry per modality that at least two items have beside another.

    Raises:
        InputError: a single modality.
    """
    if len(bundle.modalities) < 2:
        raise InputError(f"`bundle` must have two modalities to mix; got {', '.join(bundle.modalities)}.")
    rankings = Rankings(bundle)
    bundle = rankings.bundle
    device = bundle.vectors.device
    sides = [rankings.side((name,)) for name in bundle.modalities]  # an item's copies of a vector count once
    rows = torch.cat([torch.from_numpy(side.rows) for side in sides]).to(device)
    items = torch.cat([side.candidates.items for side in sides]).to(device)
    kinds = torch.cat([torch.full_like(side.candidates.items, i) for i, side in enumerate(sides)]).to(device)
    pool = widened(bundle.vectors[rows, kinds])
    counts = {name: len(side.candidates) for name, side in zip(bundle.modalities, sides, strict=True)}
    results = []
    for kind, name in enumerate(bundle.modalities):
        asking = (kinds == kind) & torch.isin(items, items[kinds != kind])
        if len(torch.unique(items[asking])) < 2:
            continue
        tops, better, tied, has = _placed(pool[asking], items[asking], pool, items, kinds, kind, len(counts))
        of_items = items[asking].cpu().numpy()
        first = {other: share_interval(tops[:, i], of_items) for i, other in enumerate(bundle.modalities)}
        ranked = {}
        for target, other in enumerate(bundle.modalities):  # in the place of the query's own modality any other
            seen = has[:, target]
            if seen.any():
                ranked[other] = Ranks(better[seen, target], tied[seen, target]), of_items[seen]
        results.append(Mixed(name, counts, first, of_items, ranked.pop(name)[0], ranked))
    return tuple(results)


def _placed(
    queries: Tensor, of_query: Tensor, pool: Tensor, of_pool: Tensor, kinds: Tensor, kind: int, number: int
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Which modality comes first for each query, and where its item's vector of each modality stands among other items'.

    Args:
        queries: (q, d) of one modality.
        of_query: (q,) the item of each.
        pool: (p, d), the modalities one after the other.
        of_pool: (p,) the item of each.
        kinds: (p,) the number of each one's modality.
        kind: that of the queries.
        number: of modalities.

    Returns:
        (q, m) the share of each modality in the first place; (q, m) better and tied ones of other items, and whether there is a
        match. In the column `kind` the match is the item's best vector of another modality.
    """
    ends = torch.searchsorted(kinds, torch.arange(number + 1, device=kinds.device)).tolist()
    order = torch.argsort(of_pool, stable=True)
    starts, stops = (torch.searchsorted(of_pool[order], of_query, right=right) for right in (False, True))
    ones, size = pool.new_ones(len(pool)), max(1, CHUNK // len(pool))
    tables = [pool.new_empty(min(size, len(queries)), len(pool)) for _ in range(2)]
    parts: list[tuple[Tensor, ...]] = []
    for asking, start, stop in zip(*(torch.split(each, size) for each in (queries, starts, stops)), strict=True):
        scores, flags = (table[: len(asking)] for table in tables)
        torch.mm(asking, pool.T, out=scores)
        row = torch.repeat_interleave(torch.arange(len(asking), device=pool.device), stop - start)
        nth = torch.arange(len(row), device=pool.device) - ((stop - start).cumsum(0) - (stop - start))[row]
        column = order[start[row] + nth]  # those of the query's own item
        values = scores[row, column].masked_fill(kinds[column] == kind, -torch.inf)
        cell = row * number + kinds[column]
        own = scores.new_full((len(asking) * number,), -torch.inf).scatter_reduce(0, cell, values, "amax").view(-1, number)
        scores[row, column] = -torch.inf
        best = torch.stack([scores[:, a:b].amax(1) if a < b else own[:, i] for i, (a, b) in enumerate(pairwise(ends))], 1)
        best = torch.maximum(best, own)
        top = best.amax(1, keepdim=True)
        first = (best == top).double()
        level = (first.sum(1) > 1).nonzero().flatten()  # where several are as high, each counts with all that are
        if len(level):
            here = torch.stack([(scores[level, a:b] == top[level]).sum(1) for a, b in pairwise(ends)], 1)
            of_own = torch.zeros_like(first).view(-1).scatter_add(0, cell, (values == top[row, 0]).double()).view(-1, number)
            first[level] = here + of_own[level]
        ranks = torch.zeros(2, len(asking), number, dtype=torch.int64, device=pool.device)
        for target in (target for target in range(number) if target != kind):
            for counts, compare in zip(ranks, (torch.gt, torch.eq), strict=True):
                counts[:, target] = torch.mv(compare(scores, own[:, [target]], out=flags), ones).long()
        any_other = own.argmax(1, keepdim=True)
        ranks[:, :, [kind]] = ranks.gather(2, any_other.expand(2, -1, -1))
        own[:, [kind]] = own.gather(1, any_other)
        parts.append((first / first.sum(1, keepdim=True), *ranks, own > -torch.inf))
    tops, better, tied, has = (torch.cat(each).cpu().numpy() for each in zip(*parts, strict=True))
    return tops, better, tied, has


def mixed_sheet(results: tuple[Mixed, ...]) -> Sheet:
    """The results as a table."""
    names = list(results[0].pool)
    rows = tuple(
        (
            one.query,
            one.recall(1).percent(),
            *(
                f"{100 * one.first[name].value:.1f} ({100 * one.expected(name):.1f})" + "*" * (name == one.query)
                for name in names
            ),
        )
        for one in results
    )
    note = (
        f"One gallery of {sum(results[0].pool.values())} vectors of all modalities, by cosine. R@1 in %: the best "
        "candidate is the query's item in another modality. Then the share in % of each modality at rank 1, in brackets its "
        "share of the gallery: what a space without a gap would show. * the query's own modality, its item left out."
    )
    return Sheet("The mixed pool", ("query", "R@1 [95 %]", *(f"{name} first" for name in names)), rows, note)
