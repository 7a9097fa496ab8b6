"""The best k candidates of a score, re-ranked by a matching head or by any object that orders pairs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gramian.bundle import Bundle
from gramian.errors import InputError, listing
from gramian.evaluation.directions import Direction, direction, paired
from gramian.evaluation.rankings import Names, RankedRows, Rankings
from gramian.evaluation.stats import Interval
from gramian.kernels.ranks import Candidates, match_ranks, top_k
from gramian.model.matcher import Matcher
from gramian.scores import ScoreName

__all__ = ["Reranked", "Reranker", "reranked_directions"]

PAIRS = 4096  # of query and candidate that the matching head reads at a time


@runtime_checkable
class Reranker(Protocol):
    """Orders pairs of a query and a candidate by more than their vectors: it keeps what it reads of each row itself.

    Attributes:
        modalities: of the Bundle, whose best candidates by a score it orders: an anchor against all others.
        anchors: the modalities that take the anchor's place.
    """

    @property
    def modalities(self) -> tuple[str, ...]:
        """All that are compared."""

    @property
    def anchors(self) -> tuple[str, ...]:
        """Those that stand alone on one side."""

    def pairs(self, query: Names, target: Names, queries: Tensor, candidates: Tensor) -> Tensor:
        """How well each query fits its candidate.

        Args:
            query: modalities of the queries.
            target: modalities of the candidates.
            queries: (p,) rows of the evaluated Bundle.
            candidates: (p,) rows of it.

        Returns:
            (p,) scores, compared within one query.
        """


@dataclass(frozen=True)
class _ByVectors:
    """A `Matcher`, which reads the Bundle alone, as a `Reranker`."""

    matcher: Matcher
    bundle: Bundle

    @property
    def modalities(self) -> tuple[str, ...]:
        return self.matcher.modalities

    @property
    def anchors(self) -> tuple[str, ...]:
        return self.matcher.anchors

    def pairs(self, query: Names, target: Names, queries: Tensor, candidates: Tensor) -> Tensor:
        training = self.matcher.training
        self.matcher.eval()
        logits = []
        for rows, item_rows in zip(torch.split(queries, PAIRS), torch.split(candidates, PAIRS), strict=True):
            pair = self.bundle[rows].select(*query), self.bundle[item_rows].select(*target)
            logits.append(self.matcher(*(pair if len(query) == 1 else pair[::-1])))
        self.matcher.train(training)
        return torch.cat(logits)


@dataclass(frozen=True)
class Reranked:
    """The best k of a score before and after re-ranking by a matching head, on the same queries and gallery.

    Attributes:
        first: the direction by the score alone.
        final: the best k of each query in the order of the head; the others stay behind them in the order of the score.
        k: how many were re-ranked; all candidates where there are fewer.
    """

    first: Direction
    final: Direction
    k: int

    @cached_property
    def difference(self) -> Interval:
        """R@1 after minus before, paired by query."""
        return paired(self.final, self.first)


def reranked_directions(
    bundle: Bundle | Rankings, matcher: Matcher | Reranker, score: ScoreName = "span", k: int = 50
) -> Iterator[Reranked]:
    """Each anchor of `matcher` → all its other modalities and back: the sets of modalities that it was trained on.

    Args:
        bundle: the Bundle, or its `Rankings` where some have been computed already.
        matcher: the head, or a `Reranker`.
        score: the name of the score; of equal scores the lower row comes first among the best k.
        k: how many candidates of each query the head reads.

    Yields:
        Two comparisons per anchor, anchor → others and others → anchor; none where fewer than two items have both sides.

    Raises:
        InputError: the Bundle lacks a modality that the head reads.
    """
    rankings = bundle if isinstance(bundle, Rankings) else Rankings(bundle)
    reranker = matcher if isinstance(matcher, Reranker) else _ByVectors(matcher, rankings.bundle)
    absent = [name for name in matcher.modalities if name not in rankings.bundle.modalities]
    if absent:
        raise InputError(f"`bundle` lacks the modalities {listing(absent)} that the matching head was trained on.")
    for anchor in matcher.anchors:
        others = tuple(name for name in matcher.modalities if name != anchor)
        rows = rankings.asked((anchor,), others)
        if not len(rows):
            continue
        for query, target in (((anchor,), others), (others, (anchor,))):
            before, after = _reranked(rankings, reranker, query, target, score, k, rows)
            first = direction(rankings, query, target, score, rows, before)
            yield Reranked(first, direction(rankings, query, target, score, rows, after), min(k, first.gallery))


@torch.no_grad()
def _reranked(
    rankings: Rankings, reranker: Reranker, query: Names, target: Names, score: ScoreName, k: int, rows: NDArray[np.int64]
) -> tuple[RankedRows, RankedRows]:
    """The rank of each row's match before and after.

    The form has one row per candidate, so that its best k are k candidates; ranks and best k come from the same tiles.
    """
    gallery = rankings.side(target)
    queries, candidates = rankings.bundle[rows].select(*query), rankings.bundle[gallery.rows].select(*target)
    items = torch.from_numpy(rankings.items[rows]), gallery.candidates.items
    query_side, item_side = (Candidates(torch.arange(len(ids)), ids).to(queries.vectors.device) for ids in items)
    form = rankings.form(queries, candidates, score)
    (ranks,) = match_ranks(form, query_side, item_side)
    _, best = top_k(form, k)
    asked = torch.from_numpy(rows).to(best.device).repeat_interleave(best.shape[1])
    offered = torch.from_numpy(gallery.rows).to(best.device)[best.flatten()]
    logits = reranker.pairs(query, target, asked, offered).to(best.device).double().reshape(best.shape)
    own = item_side.items[best] == query_side.items[:, None]
    highest = logits.masked_fill(~own, -torch.inf).amax(1, keepdim=True)
    # A match outside the best k stays behind them all, tied with the others outside that it tied with before.
    behind = ranks.better.clamp(min=best.shape[1])
    better = torch.where(own.any(1), ((logits > highest) & ~own).sum(1), behind)
    tied = torch.where(own.any(1), ((logits == highest) & ~own).sum(1), ranks.better + ranks.tied - behind)
    return _rows_only(rankings, rows, ranks.better, ranks.tied), _rows_only(rankings, rows, better, tied)


def _rows_only(rankings: Rankings, rows: NDArray[np.int64], better: Tensor, tied: Tensor) -> RankedRows:
    """The ranks of `rows`, with −1 for all other rows."""
    columns = []
    for part in (better, tied):
        whole = np.full(len(rankings.bundle), -1)
        whole[rows] = part.cpu().numpy()
        columns.append(whole)
    return RankedRows(*columns)
