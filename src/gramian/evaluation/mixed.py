"""The mixed pool: the vectors of all modalities in one gallery, and which modality comes first in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gramian.bundle import Bundle
from gramian.errors import InputError
from gramian.evaluation.metrics import Ranks, hits_at_k
from gramian.evaluation.metrics import ranks as ranks_of
from gramian.evaluation.rankings import Rankings
from gramian.evaluation.stats import Interval, share_interval
from gramian.geometry import widened
from gramian.sheets import Sheet

__all__ = ["Mixed", "mixed_pool", "mixed_sheet"]

CHUNK = 2**24
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
    items = torch.from_numpy(rankings.items).to(device)
    sides = [torch.from_numpy(rankings.side((name,)).rows).to(device) for name in bundle.modalities]  # copies count once
    rows = torch.cat(sides)
    kinds = torch.cat([torch.full_like(side, i) for i, side in enumerate(sides)])
    pool = widened(bundle.vectors[rows, kinds])
    counts = {name: len(side) for name, side in zip(bundle.modalities, sides, strict=True)}
    results = []
    for kind, name in enumerate(bundle.modalities):
        asking = sides[kind][torch.isin(items[sides[kind]], items[rows[kinds != kind]])]
        if len(torch.unique(items[asking])) < 2:
            continue
        best: list[torch.Tensor] = []
        found: dict[str, list[tuple[Ranks, NDArray[np.int64]]]] = {other: [] for other in bundle.modalities}
        for part in torch.split(asking, max(1, CHUNK // len(pool))):
            scores = widened(bundle.column(name)[part]) @ pool.T
            own = items[part, None] == items[rows]
            scores.masked_fill_(own & (kinds == kind), -torch.inf)
            level = scores == scores.amax(1, keepdim=True)
            shares = torch.stack([level[:, kinds == i].sum(1) for i in range(len(counts))], 1).double()
            best.append(shares / shares.sum(1, keepdim=True))
            for target in bundle.modalities:
                match = own & (kinds != kind) if target == name else own & (kinds == bundle.position(target))
                has = match.any(1)
                if has.any():
                    seen = scores.masked_fill(own & ~match, -torch.inf)[has]
                    found[target].append((ranks_of(seen, match[has]), items[part[has]].cpu().numpy()))
        together = {
            target: (
                Ranks(*(np.concatenate(column) for column in zip(*(ranks for ranks, _ in parts), strict=True))),
                np.concatenate([of for _, of in parts]),
            )
            for target, parts in found.items()
            if parts
        }
        ranks, of_items = together.pop(name)
        places = torch.cat(best).cpu().numpy()
        first = {other: share_interval(places[:, i], of_items) for i, other in enumerate(bundle.modalities)}
        results.append(Mixed(name, counts, first, of_items, ranks, together))
    return tuple(results)


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
