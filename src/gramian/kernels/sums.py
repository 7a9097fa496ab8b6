"""Sums over the rows and columns of a table that is never held whole: log-sums of exponentials for softmaxes, and of softplus.

One pass over the tiles serves both directions of a contrastive loss: the sums of the rows and of the columns grow side by side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gramian.kernels.rules import Form
from gramian.kernels.tiles import Differentiable, Pairs, Place, reduced
from gramian.kernels.triton.forms import fused_sums
from gramian.memory import Scratch

__all__ = ["Backend", "LogSums", "SoftplusSums", "log_sums", "softplus_sums"]

Backend = Literal["torch", "triton"]
"""What computes a table."""

# e^60 and e^−60 are far from the ends of float32's range: one exponential serves rows and columns whose log-sums are this
# close, and where they are this close to 0 it needs no shift.
SAFE = 60.0


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
class ToLogSums(Differentiable):
    """`LogSums`."""

    totals: bool = False
    of_items: ClassVar[tuple[int, ...]] = (1, 4)

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
        new = _log_sums(scores, out, 0.0, scratch)
        if scores.numel() and not all(_within_range(part) for part in new):
            hidden = scores if out is None else scores.masked_fill(out, -torch.inf)
            shift = _common_shift(hidden.amax(1), hidden.amax(0))
            if shift is None:
                new = [torch.logsumexp(hidden, axis) for axis in (1, 0)]
            else:
                new = _log_sums(scores, out, shift, scratch)
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


def _log_sums(scores: Tensor, out: Tensor | None, shift: float, scratch: Scratch) -> list[Tensor]:
    """Log-sums of the exponentials of a tile's rows and of its columns, all made with one shift."""
    powers = _powers(scores, shift, scratch)
    if out is not None:
        powers.masked_fill_(out, 0)
    sums = [powers.sum(axis).log_() for axis in (1, 0)]
    return [part.add_(shift) for part in sums] if shift else sums


def _within_range(sums: Tensor) -> bool:
    """Whether exponentials without a shift have neither overflowed nor lost anything that counts; not so of NaN."""
    least, largest = torch.aminmax(sums)
    return bool(least > -SAFE) and bool(largest < SAFE)


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
    return LogSums(*reduced(form, ToLogSums(pairs, totals), block_size))


def softplus_sums(form: Form, pairs: Pairs | None = None, *, block_size: int | None = None) -> SoftplusSums:
    """Row sums of log(1 + exp) of a form's scores. The arguments are those of `log_sums`."""
    return SoftplusSums(*reduced(form, ToSoftplusSums(pairs or Pairs()), block_size))
