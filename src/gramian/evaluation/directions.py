"""Directions of retrieval in a Bundle: one modality → another, and subsets of modalities ↔ one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import combinations, permutations, product
from math import nan
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gramian.bundle import Bundle
from gramian.errors import check_choice
from gramian.evaluation.metrics import (
    Matches,
    Ranks,
    average_precision,
    discounted_gain,
    hits_at_k,
    mean_rank,
    mean_reciprocal_rank,
    median_rank,
    recall_at_k,
)
from gramian.evaluation.rankings import WEIGHTS, Names, RankedRows, Ranking, Rankings
from gramian.evaluation.stats import Interval, difference_interval, share_interval
from gramian.scores import ScoreName

__all__ = [
    "DEFAULT",
    "SUBSETS",
    "Direction",
    "Gain",
    "Subsets",
    "all_ranks",
    "chosen_directions",
    "hits",
    "single_directions",
    "subset_directions",
]

DEFAULT: tuple[ScoreName, ...] = ("span", "cone", "centroid", "cosine", "volume")
"""The scores that `evaluate` uses by default for joint directions; `SCORES` has more."""

Subsets: TypeAlias = Literal["others", "all", "none"]
SUBSETS: tuple[Subsets, ...] = ("others", "all", "none")
"""Which subsets are set against a single modality: all others together, every subset of two or more of them, or none."""


@dataclass(frozen=True)
class Direction:
    """How well the rows with `query` find their own item's `target` among all candidates.

    Candidates are items, not rows: rows that share an item and their target vectors are one candidate.

    Attributes:
        query: modalities of the queries, known together.
        target: modalities of the candidates, known together.
        score: name of the score; "weights" for weights that were chosen before.
        rows: (q,) row numbers of the queries in the evaluated Bundle.
        items: (q,) the item of each query; intervals are drawn over items.
        ranks: of the q queries' best matches.
        gallery: number of different candidates.
        incomplete: candidates or queries of the joint side that lack some of its modalities.
        unasked: rows of the Bundle that are not queries, since the query or the target is missing.
    """

    query: Names
    target: Names
    score: str
    rows: NDArray[np.int64]
    items: NDArray[np.int64]
    ranks: Ranks
    gallery: int
    incomplete: int
    unasked: int
    _recall: dict[int, Interval] = field(default_factory=dict, repr=False, compare=False)
    _all_matches: Callable[[], Matches] | None = field(default=None, repr=False, compare=False)

    @property
    def name(self) -> str:
        """Such as "image+speech → text"."""
        return f"{'+'.join(self.query)} → {'+'.join(self.target)}"

    @cached_property
    def matches(self) -> Matches:
        """The rank of every match: of several captions of one clip, each."""
        return Matches.of(self.ranks) if self._all_matches is None else self._all_matches()

    def recall(self, k: int) -> Interval:
        """R@k with its 95 % interval over items: the share of queries with a match among the best k."""
        if k not in self._recall:
            self._recall[k] = share_interval(hits_at_k(self.ranks, k), self.items)
        return self._recall[k]

    def figures(self) -> dict[str, float]:
        """Its further figures by name.

        "median_rank", "mean_rank" and "mean_reciprocal_rank" of the best match; "ndcg_at_10" and
        "mean_average_precision" over every match; "mean_recall", the mean of R@1, R@5 and R@10.
        """
        return {
            "median_rank": median_rank(self.ranks),
            "mean_rank": mean_rank(self.ranks),
            "mean_reciprocal_rank": mean_reciprocal_rank(self.ranks),
            "ndcg_at_10": float(discounted_gain(self.matches, 10).mean()) if len(self.rows) else nan,
            "mean_average_precision": float(average_precision(self.matches).mean()) if len(self.rows) else nan,
            "mean_recall": float(np.mean([recall_at_k(self.ranks, k) for k in (1, 5, 10)])),
        }


@dataclass(frozen=True)
class Gain:
    """What a joint score finds beyond the best single modality, for the same queries.

    Attributes:
        joint: the direction under the joint score.
        single: the direction between one modality of the query and one of the target, by cosine, that finds most. It is chosen
            on these very queries, which flatters it, so the gain is a cautious figure. It cannot find items without the
            modality. Its gallery holds the same items.
    """

    joint: Direction
    single: Direction

    @cached_property
    def difference(self) -> Interval:
        """R@1 of the joint score minus that of the best single modality, paired by query."""
        return paired(self.joint, self.single)

    @property
    def best_single(self) -> str:
        """The name of the best single modality; of both, where both sides have several."""
        if len(self.joint.query) > 1 and len(self.joint.target) > 1:
            return self.single.name
        return (self.single.query if len(self.joint.query) > 1 else self.single.target)[0]


def paired(first: Direction, second: Direction) -> Interval:
    """R@1 of the first direction minus that of the second, on the same queries, with its 95 % interval over items."""
    return difference_interval(hits_at_k(first.ranks, 1) - hits_at_k(second.ranks, 1), first.items)


def single_directions(bundle: Bundle | Rankings) -> Iterator[Direction]:
    """One modality → another, by cosine, for all ordered pairs that at least two items share."""
    rankings = bundle if isinstance(bundle, Rankings) else Rankings(bundle)
    pairs = product(rankings.queries, rankings.targets) if rankings.apart else permutations(rankings.bundle.modalities, 2)
    for query, target in pairs:
        rows = rankings.asked((query,), (target,))
        if len(rows):
            yield direction(rankings, (query,), (target,), "cosine", rows)


def chosen_directions(
    rankings: Rankings, ways: Sequence[tuple[Names, Names]], scores: Sequence[ScoreName] = DEFAULT
) -> Iterator[Direction | Gain]:
    """The directions of some (query, target) pairs.

    Args:
        rankings: of the Bundle.
        ways: from `gramian.evaluation.patterns.directions_of`.
        scores: of those with several modalities on a side.

    Yields:
        A Direction by cosine for one modality → one, otherwise a Gain for each score; none where fewer than two items have
        both sides.
    """
    for query, target in ways:
        rows = rankings.asked(query, target)
        if len(rows) and len(query) == len(target) == 1:
            yield direction(rankings, query, target, "cosine", rows)
        elif len(rows):
            yield from _gains(rankings, query, target, scores, rows)


def all_ranks(bundle: Bundle | Rankings) -> Ranks:
    """The ranks of all queries of `single_directions` together, so that a direction with few queries weighs little."""
    ranks = [direction.ranks for direction in single_directions(bundle)]
    return (
        Ranks(*(np.concatenate(parts) for parts in zip(*ranks, strict=True))) if ranks else Ranks(*np.zeros((2, 0), np.int64))
    )


def subset_directions(
    bundle: Bundle | Rankings, scores: Sequence[ScoreName] = DEFAULT, subsets: Subsets = "others"
) -> Iterator[Gain]:
    """Subsets of two or more modalities → another modality and back, by each of `scores`.

    Args:
        bundle: the Bundle, or its `Rankings` where some have been computed already.
        scores: by name.
        subsets: "others" sets each modality against all the others together, "all" against every subset of two or more of
            them, "none" against nothing.

    Yields:
        One Gain per subset, modality, score and way (subset → modality, modality → subset); none where fewer than two items
        have both sides.

    Raises:
        InputError: an unknown name in `subsets`.
    """
    rankings = bundle if isinstance(bundle, Rankings) else Rankings(bundle)
    check_choice("subsets", subsets, SUBSETS)
    for anchor in rankings.bundle.modalities:
        others = [name for name in rankings.bundle.modalities if name != anchor]
        sizes = {"others": range(max(2, len(others)), len(others) + 1), "all": range(2, len(others) + 1), "none": range(0)}
        for size in sizes[subsets]:
            for subset in combinations(others, size):
                rows = rankings.asked(subset, (anchor,))
                if len(rows):
                    yield from _gains(rankings, subset, (anchor,), scores, rows)
                    yield from _gains(rankings, (anchor,), subset, scores, rows)


def _gains(
    rankings: Rankings, query: Names, target: Names, scores: Sequence[ScoreName], rows: NDArray[np.int64]
) -> Iterator[Gain]:
    """The joint direction by each score, and by weights where there are any, against the best pair of single modalities."""
    alone = [_alone(rankings, target, one, other, rows) for one in query for other in target]
    best = max(alone, key=lambda single: recall_at_k(single.ranks, 1))
    ways: list[Ranking] = [*scores, *([WEIGHTS] if rankings.weighs(query, target) else ())]
    for score in ways:
        yield Gain(direction(rankings, query, target, score, rows), best)


def direction(
    rankings: Rankings,
    query: Names,
    target: Names,
    score: Ranking,
    rows: NDArray[np.int64],
    ranked: RankedRows | None = None,
) -> Direction:
    """The direction of the queries in `rows`, by `ranked` or else by the rankings' own ranks."""
    gallery = rankings.side(target)
    present = rankings.bundle.present.cpu().numpy()
    lacking = 0
    for names, of_side in ((query, rows), (target, gallery.rows)):
        if len(names) > 1:
            columns = [rankings.bundle.position(name) for name in names]
            lacking += int((~present[of_side][:, columns]).any(1).sum())
    several = ranked is None and rankings.several_match(target, rows)
    return Direction(
        query=query,
        target=target,
        score=score,
        rows=rows,
        items=rankings.items[rows],
        ranks=(ranked or rankings.rows(query, target, score)).at(rows),
        gallery=len(gallery.candidates),
        incomplete=lacking,
        unasked=rankings.asking - len(rows),
        # Which holds the vectors for as long as the direction lives.
        _all_matches=partial(rankings.matches, query, target, score, rows) if several else None,
    )


def _alone(rankings: Rankings, target: Names, one: str, other: str, rows: NDArray[np.int64]) -> Direction:
    """The direction one modality of the query → one of the target, with the joint direction's queries and items.

    It is the ranking between two modalities, which is computed once, with the items added that lack the modality: as queries
    they find nothing, as candidates they come behind all others.
    """
    better, tied = (part[rows] for part in rankings.rows((one,), (other,), "cosine"))
    has, asked_for = (rankings.bundle.has(name).cpu().numpy() for name in (one, other))
    gallery = rankings.side((other,))
    candidates = rankings.bundle.has(*target).cpu().numpy()
    if rankings.apart:
        candidates[: rankings.asking] = False
    own = np.bincount(gallery.candidates.items.numpy(), minlength=len(rankings.items))
    lacking = np.unique(rankings.items[candidates & ~asked_for])  # one candidate per item, of nothing
    size = len(gallery.candidates) + len(lacking)
    own[lacking] += 1
    unfound = better < 0  # the query, or its item's vector, is missing
    better = np.where(unfound, len(gallery.candidates), better)
    tied = np.where(unfound, len(lacking) - 1, tied)
    # A query without a vector: all candidates tie but for the item's own.
    better, tied = np.where(has[rows], better, 0), np.where(has[rows], tied, size - own[rankings.items[rows]])
    return Direction(
        query=(one,),
        target=(other,),
        score="cosine",
        rows=rows,
        items=rankings.items[rows],
        ranks=Ranks(better, tied),
        gallery=size,
        incomplete=len(lacking),
        unasked=rankings.asking - len(rows),
    )


def hits(directions: Sequence[Direction], n: int, k: int) -> NDArray[np.float64]:
    """Whether each of n rows found its match among the best k, (directions, n): see `hits_at_k`; NaN where it is no query."""
    table = np.full((len(directions), n), np.nan)
    for row, one in zip(table, directions, strict=True):
        row[one.rows] = hits_at_k(one.ranks, k)
    return table
