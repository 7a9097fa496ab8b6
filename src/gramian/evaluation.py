"""Every direction of retrieval in a Bundle: one modality → another, and subsets of modalities ↔ one; → `Report`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, permutations
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray

from gramian.bundle import Bundle
from gramian.errors import InputError, check_choice
from gramian.metrics import mean_reciprocal_rank, median_rank, ranks
from gramian.scores import SCORES, ScoreName, cosine
from gramian.stats import Interval, bootstrap_mean

__all__ = ["Direction", "Gain", "Report", "evaluate", "hits", "single_directions", "subset_directions"]

Names = tuple[str, ...]

ALL: tuple[ScoreName, ...] = get_args(ScoreName)


@dataclass(frozen=True)
class Direction:
    """How the items with `query` find their own `target` among all items that have a target.

    Attributes:
        query: modalities of the queries, known together.
        target: modalities of the candidates, known together.
        score: name of the score.
        items: (q,) row numbers of the queries in the evaluated Bundle.
        ranks: (q,) rank of the match, 1 the best; halves where scores tie.
        gallery: number of candidates.
        incomplete: candidates or queries of the joint side with some of its modalities missing.
        left_out: items of the Bundle that cannot be asked: query or target missing.
    """

    query: Names
    target: Names
    score: str
    items: NDArray[np.int64]
    ranks: NDArray[np.float64]
    gallery: int
    incomplete: int
    left_out: int

    @property
    def name(self) -> str:
        """Such as "image+speech → text"."""
        return f"{'+'.join(self.query)} → {'+'.join(self.target)}"

    def recall(self, k: int) -> Interval:
        """R@k with its 95 % bootstrap interval over the queries."""
        return bootstrap_mean((self.ranks <= k).astype(np.float64))


@dataclass(frozen=True)
class Gain:
    """What a joint score finds beyond the best single modality, on the same queries and gallery.

    Attributes:
        joint: the direction under the joint score.
        single: the modality whose cosine alone finds most (chosen on these very queries, so the gain is a modest one).
        single_recall: its R@1; items without that modality cannot be found by it.
        difference: R@1 of the joint score minus `single_recall`, paired by query.
    """

    joint: Direction
    single: str
    single_recall: float
    difference: Interval


@dataclass(frozen=True)
class Report:
    """The figures of one evaluation.

    Attributes:
        items: number of items in the Bundle.
        present: name → items that have the modality.
        ks: cut-offs of the recall.
        singles: directions between two modalities, by cosine.
        gains: directions between a subset and one modality, by each joint score.
        settings: what was evaluated, for the reader: data, split, model.
    """

    items: int
    present: dict[str, int]
    ks: tuple[int, ...]
    singles: tuple[Direction, ...]
    gains: tuple[Gain, ...]
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def joints(self) -> tuple[Direction, ...]:
        """The directions of `gains`."""
        return tuple(gain.joint for gain in self.gains)

    def mean_recall(self, k: int) -> Interval:
        """Mean R@k over the single-modality directions, each weighing the same, with a 95 % interval over items."""
        return bootstrap_mean(hits(self.singles, self.items, k))

    def to_dict(self) -> dict[str, object]:
        """Everything as plain numbers, lists and dicts; shares in [0, 1]."""
        return {
            "settings": self.settings,
            "items": self.items,
            "present": self.present,
            "missing": {name: self.items - count for name, count in self.present.items()},
            "mean_recall": {str(k): self.mean_recall(k)._asdict() for k in self.ks},
            "directions": [self._row(direction) for direction in self.singles]
            + [
                self._row(gain.joint)
                | {
                    "best_single": gain.single,
                    "best_single_recall_at_1": gain.single_recall,
                    "gain_at_1": gain.difference._asdict(),
                }
                for gain in self.gains
            ],
        }

    def _row(self, direction: Direction) -> dict[str, object]:
        return {
            "query": list(direction.query),
            "target": list(direction.target),
            "score": direction.score,
            "queries": len(direction.ranks),
            "gallery": direction.gallery,
            "incomplete": direction.incomplete,
            "left_out": direction.left_out,
            "recall": {str(k): direction.recall(k)._asdict() for k in self.ks},
            "median_rank": median_rank(direction.ranks),
            "mean_reciprocal_rank": mean_reciprocal_rank(direction.ranks),
        }


def evaluate(
    bundle: Bundle,
    *,
    scores: Sequence[ScoreName] = ALL,
    ks: Sequence[int] = (1, 5, 10),
    subsets: bool = True,
    settings: Mapping[str, str] | None = None,
) -> Report:
    """Rank every direction of a Bundle whose row i is one item in all modalities.

    Args:
        bundle: n items, m ≥ 2 modalities. Every candidate that has the target is in the gallery; queries need the query and
            the target. Missing modalities of a joint side are left to the score.
        scores: how a subset of modalities is compared with one, each by name.
        ks: cut-offs of the recall.
        subsets: False leaves the joint directions out.
        settings: kept in the Report.

    Raises:
        InputError: one modality only, an unknown score, no two modalities that share two items.
    """
    if len(bundle.modalities) < 2:
        raise InputError(f"`bundle` must have at least two modalities to evaluate; got {', '.join(bundle.modalities)}.")
    for name in scores:
        check_choice("scores", name, SCORES)
    singles = tuple(single_directions(bundle))
    if not singles:
        raise InputError("`bundle` has no two modalities that share at least two items; there is nothing to retrieve.")
    gains = tuple(subset_directions(bundle, scores)) if subsets else ()
    return Report(len(bundle), bundle.counts(), tuple(ks), singles, gains, dict(settings or {}))


def single_directions(bundle: Bundle) -> Iterator[Direction]:
    """One modality → another, by cosine, for all ordered pairs that at least two items share."""
    for query, target in permutations(bundle.modalities, 2):
        asked = bundle.has(query) & bundle.has(target)
        if int(asked.sum()) < 2:
            continue
        candidates = bundle[bundle.has(target)].select(target)
        table = cosine(bundle.column(query)[asked], candidates)
        yield _direction(bundle, (query,), (target,), "cosine", table, asked, bundle.has(target))


def subset_directions(bundle: Bundle, scores: Sequence[ScoreName] = ALL) -> Iterator[Gain]:
    """Every subset of two or more modalities → another modality and back, by each of `scores`."""
    for anchor in bundle.modalities:
        others = [name for name in bundle.modalities if name != anchor]
        for size in range(2, len(others) + 1):
            for subset in combinations(others, size):
                yield from _joint(bundle, anchor, subset, scores)


def _joint(bundle: Bundle, anchor: str, subset: Names, scores: Sequence[ScoreName]) -> Iterator[Gain]:
    has_anchor, has_subset = bundle.has(anchor), bundle.has(*subset)
    asked = has_anchor & has_subset
    if int(asked.sum()) < 2:
        return
    vectors, items = bundle.column(anchor)[has_anchor], bundle[has_subset].select(*subset)

    def both_ways(score: str, part: Bundle) -> tuple[Direction, Direction]:
        """Subset → anchor and anchor → subset, off one table (anchors, items)."""
        table = SCORES[score](vectors, part)
        return (
            _direction(bundle, subset, (anchor,), score, table[:, asked[has_subset]].T, asked, has_anchor),
            _direction(bundle, (anchor,), subset, score, table[asked[has_anchor]], asked, has_subset),
        )

    alone = {name: both_ways("cosine", items.select(name)) for name in subset}
    joint = [both_ways(score, items) for score in scores]
    for way in range(2):
        found = {name: (directions[way].ranks <= 1).astype(np.float64) for name, directions in alone.items()}
        best, _ = max(found.items(), key=lambda entry: float(entry[1].mean()))
        for directions in joint:
            difference = (directions[way].ranks <= 1) - found[best]
            yield Gain(directions[way], best, float(found[best].mean()), bootstrap_mean(difference))


def _direction(
    bundle: Bundle, query: Names, target: Names, score: str, table: torch.Tensor, asked: torch.Tensor, gallery: torch.Tensor
) -> Direction:
    """Read the ranks off a (queries, candidates) table; `asked` and `gallery` are the (n,) masks of its rows and columns."""
    position = gallery.long().cumsum(0) - 1
    joint = max(query, target, key=len)
    whole = bundle.select(*joint).present.all(1)
    side = asked if joint == query else gallery
    return Direction(
        query=query,
        target=target,
        score=score,
        items=asked.nonzero().flatten().cpu().numpy(),
        ranks=ranks(table, position[asked]),
        gallery=int(gallery.sum()),
        incomplete=int((side & ~whole).sum()),
        left_out=int((~asked).sum()),
    )


def hits(directions: Sequence[Direction], items: int, k: int) -> NDArray[np.float64]:
    """Whether each item was found among the best k, (directions, items): 1, 0, or NaN where it was not asked."""
    found = np.full((len(directions), items), np.nan)
    for row, direction in zip(found, directions, strict=True):
        row[direction.items] = direction.ranks <= k
    return found
