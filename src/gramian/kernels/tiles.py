"""Reductions of a (q, n) table of scores that is never held whole: each tile is made, used and dropped.

The backward pass recomputes the tiles, or uses the inner products that the forward pass kept where they fit. One pass over the
tiles serves both directions of a contrastive loss: the sums of the rows and of the columns grow side by side.

Over 400 lines: the walk, the reductions that have a gradient and their one autograd function are one algorithm.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from gramian.kernels.rules import Form, Given, Into, Parts, Rule, Scratch, Tile
from gramian.kernels.triton.forms import fused_sums

__all__ = ["Backend", "LogSums", "Pairs", "SoftplusSums", "all_pairs", "log_sums", "softplus_sums"]

Backend = Literal["torch", "triton"]
"""What computes a table."""

Part = TypeVar("Part", Tensor, Tensor | None)

KEEP = 2**28  # bytes of inner products that are kept for the backward pass
PLAIN = 2**20  # pairs up to which autograd over the whole table is used
TILE = 1024  # rows and columns of a tile on the CPU
TILE_CUDA = 8192
ENTRIES = 2**24  # numbers that a tile of a rule with many per pair holds at a time on the CPU
ENTRIES_CUDA = 2**28
# Pairs of a tile that the elementwise passes take at a time on the CPU: what they read and write then stays in the caches.
BAND = 2**17
# e^60 and e^−60 are far from the ends of float32's range: one exponential serves rows and columns whose sums are this close,
# and where they are this close to 0 it needs no shift.
SAFE = 60.0


@dataclass(frozen=True)
class Pairs:
    """Which pairs of the table count, and which match.

    Attributes:
        row_ids: (q,), or None: every pair counts.
        column_ids: (n,). A pair of equal ids is left out unless it is a match.
        shift: the column that matches row 0; row i matches column i + shift. NOWHERE for a table without matches.
    """

    row_ids: Tensor | None = None
    column_ids: Tensor | None = None
    shift: int = 0

    NOWHERE: ClassVar[int] = 2**40

    def matches(self, tile: Tensor, rows: slice, columns: slice) -> tuple[Tensor, slice]:
        """A view of the tile's matches, and the rows of the table that they are in."""
        offset = rows.start + self.shift - columns.start
        diagonal = torch.diagonal(tile, offset) if -tile.shape[0] < offset < tile.shape[1] else tile.new_empty(0)
        first = rows.start + max(0, -offset)
        return diagonal, slice(first, first + len(diagonal))

    def excluded(self, rows: slice, columns: slice) -> Tensor | None:
        """(b, c) bool; None where every pair counts."""
        if self.row_ids is None or self.column_ids is None:
            return None
        same = self.row_ids[rows, None] == self.column_ids[columns]
        self.matches(same, rows, columns)[0].fill_(False)
        return same


class Place(NamedTuple):
    """Where a tile, or a band of its rows, lies in the table, and the memory that it is computed in."""

    rows: slice
    columns: slice
    scratch: Scratch


class LogSums(NamedTuple):
    """What a softmax over rows and over columns needs.

    Attributes:
        rows: (q,) log Σⱼ exp sᵢⱼ.
        columns: (n,) log Σᵢ exp sᵢⱼ.
        matches: (q,) the scores of the matching pairs; 0 where the table has none.
        row_totals: (q,) Σⱼ sᵢⱼ over the pairs that count; zeros unless asked for.
        column_totals: (n,) Σᵢ sᵢⱼ, under the same conditions.
    """

    rows: Tensor
    columns: Tensor
    matches: Tensor
    row_totals: Tensor
    column_totals: Tensor


class SoftplusSums(NamedTuple):
    """What SigLIP's loss needs: (q,) Σⱼ log(1 + exp sᵢⱼ) over the pairs that count and do not match; (q,) matching scores."""

    rows: Tensor
    matches: Tensor


@dataclass(frozen=True)
class Reduction(ABC):
    """What the tiles are reduced to: tensors that are updated tile by tile."""

    @abstractmethod
    def start(self, q: int, n: int, like: Tensor) -> list[Tensor]:
        """The tensors before the first tile."""

    @abstractmethod
    def add(self, totals: list[Tensor], scores: Tensor, at: Place) -> None:
        """Add one tile, which is left unchanged."""

    def reads(self, at: Place) -> bool:
        """Whether the reduction needs the tile; others are not computed."""
        del at
        return True


@dataclass(frozen=True)
class Differentiable(Reduction):
    """A reduction with the gradient of each tile from those of its tensors.

    Attributes:
        pairs: which count and which match.
        of_items: which of the tensors have one row per item; the others have one row per query.
    """

    pairs: Pairs = Pairs()
    of_items: ClassVar[tuple[int, ...]] = ()

    def finish(self, totals: Sequence[Tensor], like: Tensor) -> list[Tensor]:
        """The tensors after the last tile, in the type of `like`."""
        return [total.to(like.dtype) for total in totals]

    def prepare(self, totals: Sequence[Tensor], grads: Sequence[Tensor]) -> Any:
        """What the gradients of all tiles need, from the finished tensors and their gradients."""
        return totals, grads

    @abstractmethod
    def gradient(self, prepared: Any, scores: Tensor, at: Place) -> Tensor:
        """The gradient of one tile; it may be written over."""


@dataclass(frozen=True)
class ToLogSums(Differentiable):
    """`LogSums`."""

    totals: bool = False
    of_items = (1, 4)

    def start(self, q: int, n: int, like: Tensor) -> list[Tensor]:
        # A band adds little to a large sum: in float32 each addition would round the whole.
        dtype = torch.float64 if like.device.type == "cpu" else like.dtype
        sums = [like.new_full((size,), -torch.inf, dtype=dtype) for size in (q, n)]
        return [*sums, *(like.new_zeros(size, dtype=dtype) for size in (q, q, n))]

    def add(self, totals: list[Tensor], scores: Tensor, at: Place) -> None:
        rows, columns, scratch = at
        row_sums, column_sums, matches, row_totals, column_totals = totals
        diagonal, where = self.pairs.matches(scores, rows, columns)
        matches[where] = diagonal
        out = self.pairs.excluded(rows, columns)
        if self.totals:
            counted = scores if out is None else scores.masked_fill(out, 0)
            row_totals[rows] += counted.sum(1)
            column_totals[columns] += counted.sum(0)
        shift: float | None = 0.0
        if scores.numel() and not (scores.amax() < SAFE and scores.amin() > -SAFE):
            hidden = scores if out is None else scores.masked_fill(out, -torch.inf)
            shift = _common_shift(hidden.amax(1), hidden.amax(0))
        if shift is None:
            new = [torch.logsumexp(hidden, 1), torch.logsumexp(hidden, 0)]
        else:
            powers = _powers(scores, shift, scratch)
            if out is not None:
                powers.masked_fill_(out, 0)
            new = [powers.sum(1).log_(), powers.sum(0).log_()]
            if shift:
                new = [part.add_(shift) for part in new]
        torch.logaddexp(row_sums[rows], new[0], out=row_sums[rows])
        torch.logaddexp(column_sums[columns], new[1], out=column_sums[columns])

    def prepare(self, totals: Sequence[Tensor], grads: Sequence[Tensor]) -> _Softmax:
        return _Softmax(totals[:2], grads[:3], grads[3] if self.totals else torch.zeros_like(grads[0]), grads[4])

    def gradient(self, prepared: _Softmax, scores: Tensor, at: Place) -> Tensor:
        rows, columns, _ = at
        out = self.pairs.excluded(rows, columns)
        grad = prepared.powers(scores, at)
        if self.totals:
            grad += prepared.column_totals[columns]
        if out is not None:
            grad.masked_fill_(out, 0)
        diagonal, where = self.pairs.matches(grad, rows, columns)
        diagonal += prepared.grads[2][where]
        return grad


class _Softmax:
    """The weights of a softmax over rows and of one over columns, added up.

    Args:
        sums: the (q,) log-sums of the rows and the (n,) of the columns.
        grads: their gradients, and that of the matches.
        row_totals: the gradient of the rows' totals.
        column_totals: that of the columns'.
    """

    def __init__(self, sums: Sequence[Tensor], grads: Sequence[Tensor], row_totals: Tensor, column_totals: Tensor) -> None:
        self.bounds, self.grads, self.row_totals, self.column_totals = sums, grads, row_totals, column_totals
        self.sums = [part.masked_fill(part == -torch.inf, torch.inf) for part in sums]  # exp(−∞) where there is no pair
        self.shift = _common_shift(*sums)
        if self.shift is not None:
            self.factors = self._factors(self.shift, slice(None), slice(None))

    def powers(self, scores: Tensor, at: Place) -> Tensor:
        """gᵢ exp(sᵢⱼ − rᵢ) + gⱼ exp(sᵢⱼ − cⱼ) + tᵢ: r and c are the log-sums, g their gradients, t the rows' totals' own."""
        rows, columns, scratch = at
        totals = self.row_totals[rows, None]
        shift = _common_shift(self.bounds[0][rows], self.bounds[1][columns]) if self.shift is None else self.shift
        if shift is None:
            grad = (scores - self.sums[0][rows, None]).exp_().mul_(self.grads[0][rows, None])
            return grad.add_((scores - self.sums[1][columns]).exp_().mul_(self.grads[1][columns])).add_(totals)
        # Both share exp(s − shift): no score exceeds its row's sum or its column's.
        if self.shift is None:
            by_row, by_column = self._factors(shift, rows, columns)
        else:
            by_row, by_column = self.factors[0][rows], self.factors[1][columns]
        powers = _powers(scores, shift, scratch)
        return torch.addcmul(totals, powers, torch.add(by_row[:, None], by_column, out=scratch.new()), out=powers)

    def _factors(self, shift: float, rows: slice, columns: slice) -> list[Tensor]:
        parts = zip(self.grads, self.sums, (rows, columns), strict=False)
        return [grad[part] * (shift - sums[part]).exp() for grad, sums, part in parts]


def _powers(scores: Tensor, shift: float, scratch: Scratch) -> Tensor:
    powers = scratch.new()
    return torch.sub(scores, shift, out=powers).exp_() if shift else torch.exp(scores, out=powers)


def _common_shift(rows: Tensor, columns: Tensor) -> float | None:
    """What to subtract from every score of a tile before the one exponential for both directions; None where no shift fits.

    `rows` and `columns` bound the scores of each row and column from above and are reached, or nearly so.
    """
    low, high = math.inf, -math.inf
    for bound in (rows, columns):
        finite = bound[bound > -torch.inf]
        if len(finite):
            least, largest = torch.aminmax(finite)
            low, high = min(low, float(least)), max(high, float(largest))
    if low > -SAFE and high < SAFE:
        return 0.0
    return high if low <= high < low + SAFE else None


@dataclass(frozen=True)
class ToSoftplusSums(Differentiable):
    """`SoftplusSums`."""

    def start(self, q: int, n: int, like: Tensor) -> list[Tensor]:
        del n
        return [like.new_zeros(q), like.new_zeros(q)]

    def add(self, totals: list[Tensor], scores: Tensor, at: Place) -> None:
        rows, columns, _ = at
        diagonal, where = self.pairs.matches(scores, rows, columns)
        totals[1][where] = diagonal
        totals[0][rows] += self._without(F.softplus(scores), rows, columns).sum(1)

    def gradient(self, prepared: Any, scores: Tensor, at: Place) -> Tensor:
        _, grads = prepared
        rows, columns, _ = at
        grad = self._without(scores.sigmoid() * grads[0][rows, None], rows, columns)
        diagonal, where = self.pairs.matches(grad, rows, columns)
        diagonal += grads[1][where]
        return grad

    def _without(self, tile: Tensor, rows: slice, columns: slice) -> Tensor:
        """Zeros at the matches and at the pairs that do not count."""
        out = self.pairs.excluded(rows, columns)
        if out is not None:
            tile.masked_fill_(out, 0)
        self.pairs.matches(tile, rows, columns)[0].zero_()
        return tile


@dataclass(frozen=True)
class _Table(Differentiable):
    """The table itself."""

    def start(self, q: int, n: int, like: Tensor) -> list[Tensor]:
        return [like.new_empty(q, n)]

    def add(self, totals: list[Tensor], scores: Tensor, at: Place) -> None:
        totals[0][at.rows, at.columns] = scores

    def gradient(self, prepared: Any, scores: Tensor, at: Place) -> Tensor:
        del scores
        return prepared[1][0][at.rows, at.columns]  # type: ignore[no-any-return]


def log_sums(
    form: Form,
    pairs: Pairs | None = None,
    *,
    totals: bool = False,
    block_size: int | None = None,
    backend: Backend = "torch",
) -> LogSums:
    """Row and column log-sums of exponentials of a form's scores, exact and differentiable once.

    Args:
        form: of q × n scores.
        pairs: which count and which match; by default all, and row i matches column i.
        totals: whether to sum the scores as well.
        block_size: rows and columns of a tile, of which nothing is kept; by default tiles are kept where they fit.
        backend: "triton" for the fused kernels, which cut tiles of their own and take products in bfloat16.

    Returns:
        Log-sums of the rows (q,) and columns (n,), the matching scores (q,), and with `totals` the sums of the scores.

    Raises:
        InputError: `backend` cannot take the form, its dtype or its device.
    """
    pairs = pairs or Pairs()
    if backend == "triton":
        return LogSums(*fused_sums(form, pairs.row_ids, pairs.column_ids, pairs.shift, totals=totals))
    return LogSums(*_reduce(form, ToLogSums(pairs, totals), block_size))


def softplus_sums(form: Form, pairs: Pairs | None = None, *, block_size: int | None = None) -> SoftplusSums:
    """Row sums of log(1 + exp) of a form's scores. The arguments are those of `log_sums`."""
    return SoftplusSums(*_reduce(form, ToSoftplusSums(pairs or Pairs()), block_size))


def all_pairs(form: Form, *, block_size: int | None = None) -> Tensor:
    """The (q, n) scores themselves, computed in the memory of one tile beside them."""
    if block_size is None and _serves_whole(form):
        return form.plain()
    return _reduce(form, _Table(), block_size)[0]


def _reduce(form: Form, reduction: Differentiable, block_size: int | None) -> list[Tensor]:
    rule, (q, n) = form.rule, form.shape
    parts = (*form.queries, *form.items)
    tile = tile_size(form, block_size)
    graph = torch.is_grad_enabled() and any(part.requires_grad for part in parts)
    keep = graph and block_size is None and 0 < rule.width * q * n * parts[0].element_size() <= KEEP
    if not graph:
        totals = reduction.start(q, n, parts[0])
        forward(rule, reduction, totals, form.queries, form.items, tile=tile)
        return reduction.finish(totals, parts[0])
    if (
        block_size is None and rule.width == 0 and _serves_whole(form)
    ):  # autograd over the whole avoids computing the tiles twice
        return _reduce(Given.form(form.plain()), reduction, None)
    return list(_Reduce.apply(rule, reduction, tile, keep, len(form.queries), *parts))  # type: ignore[no-untyped-call]


def forward(
    rule: Rule, reduction: Reduction, totals: list[Tensor], queries: Parts, items: Parts, *, tile: int, keep: bool = False
) -> list[list[Tensor]]:
    """Reduce all tiles into `totals`; return the inner products of each tile with `keep`."""
    kept = []
    scratch = Scratch(queries[0])
    with torch.no_grad():
        for at in tiles(queries, items, tile):
            if not reduction.reads(at):
                continue
            others = cut(items, at.columns)
            products = rule.products(cut(queries, at.rows), others, None if keep else at.scratch)
            for rows, band in bands(rule, at, scratch):
                part = Tile(cut(products, rows), cut(queries, band.rows), others, band.scratch)
                reduction.add(totals, rule.scores(part, trace=False)[0], band)
            if keep:
                kept.append(products)
    return kept


def backward(
    rule: Rule,
    reduction: Differentiable,
    totals: Sequence[Tensor],
    grads: Sequence[Tensor],
    queries: Parts,
    items: Parts,
    into: Into,
    *,
    tile: int,
    kept: list[list[Tensor]] | None = None,
) -> None:
    """Add the gradient of the parts to the tensors in `into`; it is written over the `kept` products."""
    scratch = Scratch(queries[0])
    with torch.no_grad():
        prepared = reduction.prepare(totals, grads)
        for number, at in enumerate(tiles(queries, items, tile)):
            own, others = cut(queries, at.rows), cut(items, at.columns)
            into_items = cut(into[1], at.columns)
            products = kept[number] if kept else rule.products(own, others, at.scratch)
            for rows, band in bands(rule, at, scratch):
                part = Tile(cut(products, rows), cut(own, rows), others, band.scratch)
                scores, trace = rule.scores(part, trace=True)
                grad = reduction.gradient(prepared, scores, band)
                rule.pull(trace, part, grad, (cut(into[0], band.rows), into_items))
            rule.pull_products(products, own, others, (cut(into[0], at.rows), into_items))


def tiles(queries: Parts, items: Parts, size: int) -> Iterator[Place]:
    """Where each tile of the table lies; all share the same memory."""
    q, n = len(queries[0]), len(items[0])
    scratch = Scratch(queries[0])
    for row in range(0, q, size):
        for column in range(0, n, size):
            rows, columns = slice(row, min(row + size, q)), slice(column, min(column + size, n))
            scratch.start(rows.stop - rows.start, columns.stop - columns.start)
            yield Place(rows, columns, scratch)


def bands(rule: Rule, at: Place, scratch: Scratch) -> Iterator[tuple[slice, Place]]:
    """A tile by bands of its rows: where each lies within the tile and in the table; all share the memory of `scratch`.

    One band where the rule has no products, and on other devices than the CPU.
    """
    high, wide = at.rows.stop - at.rows.start, at.columns.stop - at.columns.start
    size = max(1, BAND // max(1, wide)) if rule.width and scratch.on_cpu else high
    for first in range(0, high, size):
        rows = slice(first, min(first + size, high))
        scratch.start(rows.stop - rows.start, wide)
        yield rows, Place(slice(at.rows.start + rows.start, at.rows.start + rows.stop), at.columns, scratch)


def cut(parts: Sequence[Part], rows: slice) -> tuple[Part, ...]:
    """The same rows of every part that is not None."""
    return tuple(part if part is None else part[rows] for part in parts)


def tile_size(form: Form, block_size: int | None) -> int:
    """Rows and columns of a tile: `block_size`, or what suits the device and the numbers per pair."""
    if block_size is not None:
        return block_size
    size, entries = (TILE_CUDA, ENTRIES_CUDA) if form.queries[0].is_cuda else (TILE, ENTRIES)
    return max(1, min(size, math.isqrt(entries // form.rule.entries)))


def _serves_whole(form: Form) -> bool:
    """Whether all pairs together are no more than a tile or two."""
    q, n = form.shape
    return q * n <= PLAIN and q * n * form.rule.entries <= ENTRIES


class _Reduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rule: Rule, reduction: Differentiable, tile: int, keep: bool, split: int, *parts: Tensor) -> Any:
        queries, items = parts[:split], parts[split:]
        totals = reduction.start(len(queries[0]), len(items[0]), queries[0])
        ctx.kept = forward(rule, reduction, totals, queries, items, tile=tile, keep=keep)
        totals = reduction.finish(totals, queries[0])
        ctx.rule, ctx.reduction, ctx.tile, ctx.split = rule, reduction, tile, split
        # The table itself need not be kept: its gradient does not depend on it.
        ctx.save_for_backward(*parts, *(() if isinstance(reduction, _Table) else totals))
        return tuple(totals)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        count = len(ctx.needs_input_grad) - 5
        parts, totals = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        wanted = ctx.needs_input_grad[5:]
        into = [torch.zeros_like(part) if wants else None for part, wants in zip(parts, wanted, strict=True)]
        kept, ctx.kept = ctx.kept, None  # a second backward pass makes them again
        with torch.autocast(parts[0].device.type, enabled=False):
            backward(
                ctx.rule,
                ctx.reduction,
                totals,
                grads,
                parts[: ctx.split],
                parts[ctx.split :],
                (into[: ctx.split], into[ctx.split :]),
                tile=ctx.tile,
                kept=kept,
            )
        return None, None, None, None, None, *into
