"""Directions of retrieval in a Bundle: one modality → another, subsets of modalities ↔ one, re-ranked ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gramian.bundle import Bundle
from gramian.errors import InputError, listing
from gramian.evaluation.metrics import Ranks, hits_at_k, ranks, recall_at_k
from gramian.evaluation.stats import Interval, bootstrap_mean
from gramian.model.matcher import Matcher
from gramian.scores import SCORES, ScoreName

__all__ = ["DEFAULT", "Direction", "Gain", "Reranked", "hits", "reranked_directions", "single_directions", "subset_directions"]

Names = tuple[str, ...]

DEFAULT: tuple[ScoreName, ...] = ("span", "cone", "centroid", "cosine", "volume")
"""The scores of the joint directions that `evaluate` shows unless told otherwise; `SCORES` has more."""

PAIRS = 4096  # of query and candidate that the matching head reads at a time
BLOCK = 1024  # queries ranked at a time: (BLOCK, n, m) products are what evaluation holds at most


@dataclass(frozen=True)
class Direction:
    """How the items with `query` find their own `target` among all items that have a target.

    Attributes:
        query: modalities of the queries, known together.
        target: modalities of the candidates, known together.
        score: name of the score.
        rows: (q,) row numbers of the queries in the evaluated Bundle.
        ranks: of the q matches.
        gallery: number of candidates.
        incomplete: candidates or queries of the joint side with some of its modalities missing.
        unasked: items of the Bundle that cannot be asked: query or target missing.
    """

    query: Names
    target: Names
    score: str
    rows: NDArray[np.int64]
    ranks: Ranks
    gallery: int
    incomplete: int
    unasked: int

    @property
    def name(self) -> str:
        """Such as "image+speech → text"."""
        return f"{'+'.join(self.query)} → {'+'.join(self.target)}"

    def recall(self, k: int) -> Interval:
        """R@k with its 95 % bootstrap interval over the queries."""
        return bootstrap_mean(hits_at_k(self.ranks, k))


@dataclass(frozen=True)
class Gain:
    """What a joint score finds beyond the best single modality, on the same queries and gallery.

    Attributes:
        joint: the direction under the joint score.
        single: the direction with that modality of the subset whose cosine alone finds most. It is chosen on these very
            queries, which flatters it: the gain is a cautious figure. Items without the modality cannot be found by it.
    """

    joint: Direction
    single: Direction

    @property
    def difference(self) -> Interval:
        """R@1 of the joint score minus that of the best single modality, paired by query."""
        return bootstrap_mean(hits_at_k(self.joint.ranks, 1) - hits_at_k(self.single.ranks, 1))

    @property
    def best_single(self) -> str:
        """The name of the best single modality."""
        return (self.single.query if len(self.joint.query) > 1 else self.single.target)[0]


@dataclass(frozen=True)
class Reranked:
    """What a matching head makes of the best k of a score, on the same queries and gallery.

    Attributes:
        first: the direction by the score alone.
        final: the best k of each query put in the order of the head; the others stay behind them as they were.
        k: how many were put in order; all candidates where there are fewer.
    """

    first: Direction
    final: Direction
    k: int

    @property
    def difference(self) -> Interval:
        """R@1 after minus before, paired by query."""
        return bootstrap_mean(hits_at_k(self.final.ranks, 1) - hits_at_k(self.first.ranks, 1))


def single_directions(bundle: Bundle) -> Iterator[Direction]:
    """One modality → another, by cosine, for all ordered pairs that at least two items share."""
    for query, target in permutations(bundle.modalities, 2):
        asked = bundle.has(query) & bundle.has(target)
        if int(asked.sum()) > 1:
            yield _direction(bundle, (query,), (target,), "cosine", asked, bundle.has(target))


def subset_directions(bundle: Bundle, scores: Sequence[ScoreName] = DEFAULT) -> Iterator[Gain]:
    """Every subset of two or more modalities → another modality and back, by each of `scores`."""
    for anchor in bundle.modalities:
        others = [name for name in bundle.modalities if name != anchor]
        for size in range(2, len(others) + 1):
            for subset in combinations(others, size):
                asked = bundle.has(anchor) & bundle.has(*subset)
                if int(asked.sum()) > 1:
                    yield from _gains(bundle, subset, (anchor,), scores, asked)
                    yield from _gains(bundle, (anchor,), subset, scores, asked)


def reranked_directions(bundle: Bundle, matcher: Matcher, score: ScoreName = "span", k: int = 50) -> Iterator[Reranked]:
    """Each anchor of `matcher` → all other modalities and back: the sets of modalities that it was trained on.

    Raises:
        InputError: the Bundle lacks a modality that the head reads.
    """
    absent = [name for name in matcher.modalities if name not in bundle.modalities]
    if absent:
        raise InputError(f"`bundle` lacks the modalities {listing(absent)} that the matching head was trained on.")
    for anchor in matcher.anchors:
        others = tuple(name for name in matcher.modalities if name != anchor)
        asked = bundle.has(anchor) & bundle.has(*others)
        if int(asked.sum()) < 2:
            continue
        for query, target in (((anchor,), others), (others, (anchor,))):
            gallery = bundle.has(*target)
            first = _direction(bundle, query, target, score, asked, gallery)
            refine = _by_matcher(matcher, k, anchor_asks=query == (anchor,))
            final = _direction(bundle, query, target, score, asked, gallery, refine)
            yield Reranked(first, final, min(k, first.gallery))


def _by_matcher(matcher: Matcher, k: int, *, anchor_asks: bool) -> Callable[[Bundle, Bundle, Tensor], Tensor]:
    """A function of queries, candidates and their scores that puts the best k of each query in the order of the head."""

    @torch.no_grad()
    def refine(queries: Bundle, candidates: Bundle, scores: Tensor) -> Tensor:
        training = matcher.training
        matcher.eval()
        best = scores.topk(min(k, scores.shape[1]), dim=1).indices
        asked = torch.arange(len(scores), device=scores.device).repeat_interleave(best.shape[1])
        logits = []
        for rows, found in zip(torch.split(asked, PAIRS), torch.split(best.flatten(), PAIRS), strict=True):
            pair = queries[rows], candidates[found]
            logits.append(matcher(*(pair if anchor_asks else pair[::-1])))
        front = torch.cat(logits).double().reshape(best.shape)
        front = front - front.amin(1, keepdim=True)  # at least 0; the others at most −1, in their order
        behind = scores.double() - scores.double().amax(1, keepdim=True) - 1
        matcher.train(training)
        return behind.scatter(1, best, front)

    return refine


def _gains(bundle: Bundle, query: Names, target: Names, scores: Sequence[ScoreName], asked: Tensor) -> Iterator[Gain]:
    """The joint direction by each score, against the best modality of the joint side alone: same queries, same gallery."""
    gallery = bundle.has(*target)
    if len(query) > 1:
        alone = [_direction(bundle, (name,), target, "cosine", asked, gallery) for name in query]
    else:
        alone = [_direction(bundle, query, (name,), "cosine", asked, gallery) for name in target]
    best = max(alone, key=lambda direction: recall_at_k(direction.ranks, 1))
    for score in scores:
        yield Gain(_direction(bundle, query, target, score, asked, gallery), best)


def _direction(
    bundle: Bundle,
    query: Names,
    target: Names,
    score: ScoreName,
    asked: Tensor,
    gallery: Tensor,
    refine: Callable[[Bundle, Bundle, Tensor], Tensor] | None = None,
) -> Direction:
    """Rank block by block; `asked` and `gallery` are the (n,) masks of the queries and the candidates."""
    candidates = bundle[gallery].select(*target)
    match = gallery.long().cumsum(0) - 1
    blocks = []
    for rows in torch.split(asked.nonzero().flatten(), BLOCK):
        queries = bundle[rows].select(*query)
        relevant = match[rows] if bundle.item_ids is None else queries.same(candidates)
        table = SCORES[score](queries, candidates)
        blocks.append(ranks(table if refine is None else refine(queries, candidates, table), relevant))
    joint = query if len(query) > 1 else target
    incomplete = (asked if joint == query else gallery) & ~bundle.select(*joint).present.all(1)
    return Direction(
        query=query,
        target=target,
        score=score,
        rows=asked.nonzero().flatten().cpu().numpy(),
        ranks=Ranks(*(np.concatenate(parts) for parts in zip(*blocks, strict=True))),
        gallery=int(gallery.sum()),
        incomplete=int(incomplete.sum()),
        unasked=int((~asked).sum()),
    )


def hits(directions: Sequence[Direction], items: int, k: int) -> NDArray[np.float64]:
    """Whether each item was found among the best k, (directions, items): see `hits_at_k`; NaN where it was not asked."""
    found = np.full((len(directions), items), np.nan)
    for row, direction in zip(found, directions, strict=True):
        row[direction.rows] = hits_at_k(direction.ranks, k)
    return found
