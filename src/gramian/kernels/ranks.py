"""Where matches rank and which candidates are best: reductions over the same tiles, in memory that grows with q + n.

A rank takes two passes. The first computes only the tiles that hold a match and records the best score of each; the second
counts the candidates that score more and those that tie. Both cut the table alike, so that a pair has the same float in both
but for what a library of matrix products does: MKL's first product of a process can differ from the next in the last bit. So
a match is never counted against itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gramian.errors import InputError
from gramian.kernels.rules import Form
from gramian.kernels.tiles import Place, Reduction, forward, tile_size

__all__ = ["Candidates", "MatchRanks", "PairRanks", "match_ranks", "pair_ranks", "top_k"]


@dataclass(frozen=True)
class Candidates:
    """The candidates of one side of a form.

    Attributes:
        rows: (c,) int64, ascending: the form's row that holds the vectors of each. Candidates with the same vectors share a
            row, so that they tie exactly, whichever tiles they would have fallen in.
        items: (c,) int64: the item that each is of. Candidates of one item on the two sides match.
    """

    rows: Tensor
    items: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def to(self, device: torch.device) -> Candidates:
        """The same candidates on another device."""
        return Candidates(self.rows.to(device), self.items.to(device))

    def weights(self, n: int) -> Tensor:
        """(n,) how many candidates each of the form's n rows stands for."""
        return torch.bincount(self.rows, minlength=n)

    def within(self, rows: slice) -> tuple[slice, Tensor | None]:
        """The candidates of some rows of the form, and which of these rows each has; None where it is one after the other."""
        ends = torch.tensor([rows.start, rows.stop], device=self.rows.device)
        first, last = torch.searchsorted(self.rows, ends).tolist()
        index = self.rows[first:last] - rows.start
        whole = torch.arange(rows.stop - rows.start, device=index.device)
        return slice(first, last), None if torch.equal(index, whole) else index


class MatchRanks(NamedTuple):
    """Where the best match of each of c candidates of one side stands among those of the other.

    Attributes:
        better: (c,) int64, candidates of other items with a higher score.
        tied: (c,) int64, candidates of other items with the same score.
        matched: (c,) bool, whether it has a match at all; the numbers mean nothing where it has none.
    """

    better: Tensor
    tied: Tensor
    matched: Tensor


class PairRanks(NamedTuple):
    """Where each match of each query stands among all candidates, the query's other matches included.

    Attributes:
        queries: (p,) int64, the candidate of the queries' side.
        items: (p,) int64, the candidate of the items' side.
        better: (p,) int64, candidates with a higher score.
        tied: (p,) int64, other candidates with the same score.
    """

    queries: Tensor
    items: Tensor
    better: Tensor
    tied: Tensor


@dataclass(frozen=True)
class _Ranking(Reduction):
    """What the two passes share: the candidates behind a tile's rows and columns, the range of the scores, the directions.

    Attributes:
        sides: the candidates of the queries' side and of the items' side.
        bounds: the score's closed range.
        both: whether the items' side is ranked, too, by the columns of the same table.
    """

    sides: tuple[Candidates, Candidates]
    bounds: tuple[float, float]
    both: bool

    @property
    def directions(self) -> int:
        return 2 if self.both else 1


@dataclass(frozen=True)
class _ToBest(_Ranking):
    """For each direction the best score of a match, (c,), and whether there is one, (c,)."""

    def start(self, q: int, n: int, like: Tensor) -> list[Tensor]:
        del q, n
        totals = []
        for side in self.sides[: self.directions]:
            totals += [like.new_full((len(side),), -torch.inf), torch.zeros_like(side.items, dtype=torch.bool)]
        return totals

    def reads(self, at: Place) -> bool:
        rows, columns = (side.items[side.within(part)[0]] for side, part in zip(self.sides, at[:2], strict=True))
        return bool(torch.isin(rows, columns).any())

    def add(self, totals: list[Tensor], scores: Tensor, at: Place) -> None:
        scores = scores.clamp(*self.bounds)
        places = [side.within(part) for side, part in zip(self.sides, at[:2], strict=True)]
        for axis, (_, index) in enumerate(places):
            scores = scores if index is None else scores.index_select(axis, index)
        rows, columns = (side.items[where] for side, (where, _) in zip(self.sides, places, strict=True))
        same = rows[:, None] == columns
        scores = scores.masked_fill(~same, -torch.inf)
        for axis in range(self.directions):
            best, matched = totals[2 * axis : 2 * axis + 2]
            where = places[axis][0]
            best[where] = torch.maximum(best[where], scores.amax(1 - axis))
            matched[where] |= same.any(1 - axis)


@dataclass(frozen=True)
class _ToRanks(_Ranking):
    """For each direction how many candidates of other items score more than the best match, (c,), and how many as much.

    Attributes:
        best: the best scores from `_ToBest`, one (c,) per direction.
        weights: how many candidates each column stands for, and each row.
    """

    best: tuple[Tensor, ...] = ()
    weights: tuple[Tensor, ...] = ()

    def start(self, q: int, n: int, like: Tensor) -> list[Tensor]:
        del q, n, like
        return [torch.zeros_like(side.items) for side in self.sides[: self.directions] for _ in range(2)]

    def add(self, totals: list[Tensor], scores: Tensor, at: Place) -> None:
        scores = torch.clamp(scores, *self.bounds, out=at.scratch.new())
        if scores.sum().isnan() and scores.isnan().any():
            raise InputError("the scores hold NaN, which has no rank. Check that the vectors are finite.")
        parts = at[:2]
        places = [side.within(part) for side, part in zip(self.sides, parts, strict=True)]
        pairs = _equal(*(side.items[where] for side, (where, _) in zip(self.sides, places, strict=True)))
        if len(pairs[0]):  # they are counted below, too, whatever their scores are there
            own = scores[tuple(pair if index is None else index[pair] for pair, (_, index) in zip(pairs, places, strict=True))]
            for axis in range(self.directions):
                where = places[axis][0]
                best = self.best[axis][where][pairs[axis]]
                for total, counted in zip(totals[2 * axis : 2 * axis + 2], (own > best, own == best), strict=True):
                    total[where].index_add_(0, pairs[axis], -counted.long())
        for axis in range(self.directions):
            where, index = places[axis]
            table = scores if index is None else scores.index_select(axis, index)
            best = self.best[axis][where].unsqueeze(1 - axis)
            # Zeros and ones as numbers of the tile's type: their product with the weights is many times faster than a sum of
            # bools, and exact up to 2^24 candidates per tile.
            flags = at.scratch.new() if index is None else torch.empty_like(table)
            weights = self.weights[axis][parts[1 - axis]]
            for total, compare in zip(totals[2 * axis : 2 * axis + 2], (torch.gt, torch.eq), strict=True):
                compare(table, best, out=flags)
                total[where] += torch.mv(flags.T if axis else flags, weights).long()


@dataclass(frozen=True)
class _ToPairScores(Reduction):
    """The score of each of p pairs, (p,).

    Attributes:
        rows: (p,) the form's row of each, ascending.
        columns: (p,) its column.
        bounds: the score's closed range.
    """

    rows: Tensor
    columns: Tensor
    bounds: tuple[float, float]

    def start(self, q: int, n: int, like: Tensor) -> list[Tensor]:
        del q, n
        return [like.new_zeros(len(self.rows))]

    def inside(self, at: Place) -> Tensor:
        """The numbers of the pairs in a tile."""
        first, last = torch.searchsorted(self.rows, torch.tensor([at.rows.start, at.rows.stop], device=self.rows.device))
        columns = self.columns[first:last]
        inside: Tensor = ((columns >= at.columns.start) & (columns < at.columns.stop)).nonzero().flatten() + first
        return inside

    def reads(self, at: Place) -> bool:
        return len(self.inside(at)) > 0

    def add(self, totals: list[Tensor], scores: Tensor, at: Place) -> None:
        pairs = self.inside(at)
        found = scores[self.rows[pairs] - at.rows.start, self.columns[pairs] - at.columns.start]
        totals[0][pairs] = found.clamp(*self.bounds)


@dataclass(frozen=True)
class _ToPairRanks(_ToPairScores):
    """For each of p pairs how many other candidates score more, (p,), and how many at least as much, (p,).

    Attributes:
        scores: (p,) of the pairs, ascending within a row.
        places: (p,) the number of each pair within its row.
        weights: (n,) int64, how many candidates each column stands for.
    """

    scores: Tensor
    places: Tensor
    weights: Tensor

    def start(self, q: int, n: int, like: Tensor) -> list[Tensor]:
        del q, n, like
        return [torch.zeros_like(self.rows), torch.zeros_like(self.rows)]

    def reads(self, at: Place) -> bool:
        first, last = torch.searchsorted(self.rows, torch.tensor([at.rows.start, at.rows.stop], device=self.rows.device))
        return bool(first < last)

    def add(self, totals: list[Tensor], scores: Tensor, at: Place) -> None:
        scores = scores.clamp(*self.bounds).contiguous()
        if scores.isnan().any():
            raise InputError("the scores hold NaN, which has no rank. Check that the vectors are finite.")
        first, last = torch.searchsorted(self.rows, torch.tensor([at.rows.start, at.rows.stop], device=self.rows.device))
        rows, places = self.rows[first:last] - at.rows.start, self.places[first:last]
        levels = scores.new_full((len(scores), int(places.max()) + 1), torch.inf)
        levels[rows, places] = self.scores[first:last]
        weights = self.weights[at.columns].expand(scores.shape)
        for total, right in zip(totals, (False, True), strict=True):
            above = torch.searchsorted(levels, scores, right=right)  # how many levels each score is above, or reaches
            counts = self.weights.new_zeros(len(scores), levels.shape[1] + 1).scatter_add_(1, above, weights)
            total[first:last] += counts.flip(1).cumsum(1).flip(1)[rows, places + 1]
        pairs = self.inside(at)  # each is counted above, too, whatever its score is there
        own = scores[self.rows[pairs] - at.rows.start, self.columns[pairs] - at.columns.start]
        for total, counted in zip(totals, (own > self.scores[pairs], own >= self.scores[pairs]), strict=True):
            total[pairs] -= counted.long()


@dataclass(frozen=True)
class _ToTopK(Reduction):
    """The k best scores of each query, (q, k), and their columns; of equal scores the lower column first."""

    k: int
    bounds: tuple[float, float]

    def start(self, q: int, n: int, like: Tensor) -> list[Tensor]:
        return [like.new_full((q, self.k), -torch.inf), torch.full((q, self.k), n, device=like.device)]

    def add(self, totals: list[Tensor], scores: Tensor, at: Place) -> None:
        worst = totals[0][at.rows, -1:]
        unfilled = (worst == -torch.inf).flatten()
        if unfilled.any():
            self._add_whole(totals, scores[unfilled], at.rows.start + unfilled.nonzero().flatten(), at.columns.start)
            if unfilled.all():
                return
        # An equal score comes later, and so does not count; NaN does. Most tiles hold nothing better for most queries.
        bar = worst.masked_fill((worst >= self.bounds[1]) | unfilled[:, None], torch.inf)
        rows = (~(scores.amax(1, keepdim=True) <= bar) & ~unfilled[:, None]).flatten().nonzero().flatten()
        if not len(rows):
            return
        if unfilled.any() or 2 * len(rows) < len(scores):
            scores, bar = scores[rows], bar[rows]
        else:
            rows = torch.arange(len(scores), device=scores.device)
        flat = scores.le(bar).logical_not_().view(-1).nonzero().flatten()
        row, column = flat // scores.shape[1], flat % scores.shape[1]
        picked = scores.reshape(-1)[flat].clamp(*self.bounds)
        counts = torch.bincount(row, minlength=len(rows))
        place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
        taken = counts.nonzero().flatten()
        order = torch.zeros_like(counts)
        order[taken] = torch.arange(len(taken), device=row.device)
        shape = len(taken), int(counts.max())
        values, index = scores.new_full(shape, -torch.inf), torch.zeros(shape, dtype=torch.int64, device=row.device)
        values[order[row], place], index[order[row], place] = picked, column + at.columns.start
        rows = at.rows.start + rows[taken]
        self._keep(totals, rows, torch.cat([totals[0][rows], values], 1), torch.cat([totals[1][rows], index], 1))

    def _add_whole(self, totals: list[Tensor], scores: Tensor, rows: Tensor, first: int) -> None:
        """Add a tile for queries that have fewer than k items yet."""
        scores = scores.clamp(*self.bounds)
        k = min(self.k, scores.shape[1])
        values, index = scores.topk(k, dim=1)
        # Where more than k reach the k-th score, topk takes any of them.
        torn = torch.count_nonzero(scores >= values[:, -1:], dim=1) > k
        if torn.any():
            ordered = scores[torn].sort(dim=1, descending=True, stable=True)
            values[torn], index[torn] = ordered.values[:, :k], ordered.indices[:, :k]
        # By columns, so that the stable sort keeps them in order; that of an empty place is the last.
        values, index = torch.cat([totals[0][rows], values], 1), torch.cat([totals[1][rows], index + first], 1)
        index, order = index.sort(dim=1)
        self._keep(totals, rows, values.gather(1, order), index)

    def _keep(self, totals: list[Tensor], rows: Tensor, values: Tensor, index: Tensor) -> None:
        """Keep the k best of some queries; equal ones are in the order of their columns."""
        values, best = values.sort(dim=1, descending=True, stable=True)
        totals[0][rows] = values[:, : self.k]
        totals[1][rows] = index.gather(1, best)[:, : self.k]


def match_ranks(
    form: Form, queries: Candidates, items: Candidates, *, both: bool = False, block_size: int | None = None
) -> tuple[MatchRanks, ...]:
    """Where the best match of each query stands among the items, and with `both` that of each item among the queries.

    One match does not push another down. Scores are bounded to the form's range first. Ties are equal floats.

    Args:
        form: of the sides' different vectors.
        queries: the candidates on its rows.
        items: the candidates on its columns.
        both: for a symmetric score: rank the items' side, too, by the columns of the same table.
        block_size: rows and columns of a tile; by default what suits the device.

    Returns:
        The ranks of the queries, and of the items with `both`.

    Raises:
        InputError: NaN among the scores.
    """
    tile, sides, bounds = tile_size(form, block_size), (queries, items), (form.low, form.high)
    to_best = _ToBest(sides, bounds, both)
    q, n = form.shape
    best = to_best.start(q, n, form.queries[0])
    forward(form.rule, to_best, best, form.queries, form.items, tile=tile)
    weights = items.weights(n), queries.weights(q)
    to_ranks = _ToRanks(
        sides, bounds, both, best=tuple(best[::2]), weights=tuple(weight.to(form.queries[0].dtype) for weight in weights)
    )
    counts = to_ranks.start(q, n, form.queries[0])
    forward(form.rule, to_ranks, counts, form.queries, form.items, tile=tile)
    return tuple(
        MatchRanks(better, tied, matched) for better, tied, matched in zip(counts[::2], counts[1::2], best[1::2], strict=True)
    )


def pair_ranks(form: Form, queries: Candidates, items: Candidates, *, block_size: int | None = None) -> PairRanks:
    """Where every match of every query stands among the items, one row per pair, in the order of the queries.

    Args:
        form: of the sides' different vectors.
        queries: the candidates on its rows.
        items: the candidates on its columns.
        block_size: see `match_ranks`.

    Returns:
        The ranks of the p pairs of a query and an item that match.

    Raises:
        InputError: NaN among the scores.
    """
    tile, bounds, n = tile_size(form, block_size), (form.low, form.high), form.shape[1]
    query, item = _equal(queries.items, items.items)
    rows, columns = queries.rows[query], items.rows[item]  # queries.rows ascend, so these do
    to_scores = _ToPairScores(rows, columns, bounds)
    scores = to_scores.start(*form.shape, form.queries[0])
    forward(form.rule, to_scores, scores, form.queries, form.items, tile=tile)
    order = scores[0].argsort(stable=True)
    order = order[rows[order].argsort(stable=True)]
    place = torch.arange(len(rows), device=rows.device) - torch.searchsorted(rows, rows)
    to_ranks = _ToPairRanks(rows, columns[order], bounds, scores=scores[0][order], places=place, weights=items.weights(n))
    counts = to_ranks.start(*form.shape, form.queries[0])
    forward(form.rule, to_ranks, counts, form.queries, form.items, tile=tile)
    better, level = (torch.empty_like(count).scatter_(0, order, count) for count in counts)
    return PairRanks(query, item, better, level - better)


def _equal(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Where two lists have the same number, pair by pair, in the order of the first and then of the second."""
    known, order = second.sort(stable=True)
    start, stop = (torch.searchsorted(known, first, right=right) for right in (False, True))
    counts = stop - start
    place = torch.arange(len(first), device=first.device).repeat_interleave(counts)
    offset = torch.arange(len(place), device=first.device) - (counts.cumsum(0) - counts)[place]
    return place, order[start[place] + offset]


def top_k(form: Form, k: int, *, block_size: int | None = None) -> tuple[Tensor, Tensor]:
    """The k best items of each query, all n where there are fewer: scores (q, k), highest first, and columns (q, k).

    Of equal scores the lower column comes first.
    """
    q, n = form.shape
    reduction = _ToTopK(min(k, n), (form.low, form.high))
    totals = reduction.start(q, n, form.queries[0])
    forward(form.rule, reduction, totals, form.queries, form.items, tile=tile_size(form, block_size))
    return totals[0], totals[1]
