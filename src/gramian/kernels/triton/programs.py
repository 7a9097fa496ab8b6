"""Triton kernels for the log-sums of all pairs on a GPU, and for their gradients.

One kernel makes each tile of scores once, in registers, and leaves the log-sums of its rows and of its columns; a few torch
calls combine those of all tiles. The backward kernel recomputes the tiles and writes the gradient of the inner products, in
the inputs' type and one strip of the table at a time, for cuBLAS to multiply with the features. Memory is bounded by a
constant next to what grows with q + n.

Scores (`Kind`), with x_k = ⟨A_i, B_kj⟩:

    linear       x_1 (+ offset_j); k = 1
    residual     w_j √(a2_i − Σ x_k²), where the root is `gramian.factorisations.safe_sqrt`
    projection   ± w_j min(√Σ x_k², 1), with the sign of Σ t_jk x_k, + where that is 0 or where there is no t

Over 400 lines: Triton compiles functions of one module, and every kernel lists its two dozen operands.

Importing this module imports Triton. With TRITON_INTERPRET=1 in the environment before that it runs on the CPU, slowly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,import-untyped,unused-ignore]
from torch import Tensor

from gramian.kernels.triton import MOST_BASES

__all__ = ["Gradients", "Kind", "gradients", "log_sums"]

Kind = Literal["linear", "residual", "projection"]

PARTIALS = 2**25  # bytes of tiles' sums that wait to be combined; combining them takes as much again
SCRATCH = 2**28  # bytes of the products' gradients; the larger, the better cuBLAS fills the GPU
SHARED = 99 * 1024  # bytes of shared memory a block may have where the driver does not say; the least since Ampere

EPS = tl.constexpr(2.0**-23)
TINY = tl.constexpr(2.0**-126)  # the GPU's fast square roots take anything smaller for 0
# e^60 and e^−60 are far from the ends of float32's range: one exponential serves rows and columns this close.
SAFE = tl.constexpr(60.0)
HALF_MAX = tl.constexpr(65504.0)


class Plan(NamedTuple):
    """How the table is cut into tiles and how a block of threads works on one.

    Attributes:
        rows: of a tile.
        columns: of a tile.
        depth: features taken at a time.
        warps: threads of a block, by 32.
        stages: how many loads of `depth` features are in flight at once.
        pieces: parts of a tile that the backward kernel finishes one after the other, 1, 2, 4 or 8.
    """

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    pieces: int = 1


class Gradients(NamedTuple):
    """Gradients in float32; None where the scores have no such part.

    Attributes:
        dA: (q, d).
        dB: (k, n, d).
        da2: (q,).
        dw: (n,).
        doffset: (n,).
    """

    dA: Tensor  # noqa: N815
    dB: Tensor  # noqa: N815
    da2: Tensor | None
    dw: Tensor | None
    doffset: Tensor | None


class _Operands(NamedTuple):
    """What determines the scores of a table, or of a strip of it."""

    A: Tensor
    B: Tensor
    a2: Tensor | None
    w: Tensor | None
    t: Tensor | None
    offset: Tensor | None
    row_ids: Tensor | None
    column_ids: Tensor | None
    shift: int

    def strip(self, rows: slice, columns: slice) -> _Operands:
        """The operands of a part of the table, numbered from 0."""
        return _Operands(
            self.A[rows],
            self.B[:, columns],
            _part(self.a2, rows),
            _part(self.w, columns),
            _part(self.t, columns),
            _part(self.offset, columns),
            _part(self.row_ids, rows),
            _part(self.column_ids, columns),
            self.shift + rows.start - columns.start,
        )

    def arguments(self) -> tuple[Any, ...]:
        """The leading arguments of both kernels."""
        sizes = (len(self.A), self.B.shape[1], self.A.shape[1])
        return (*self[:8], *sizes, self.shift, *self.A.stride(), *self.B.stride())


def log_sums(
    kind: Kind,
    A: Tensor,
    B: Tensor,
    *,
    a2: Tensor | None = None,
    w: Tensor | None = None,
    t: Tensor | None = None,
    offset: Tensor | None = None,
    row_ids: Tensor | None = None,
    column_ids: Tensor | None = None,
    shift: int = 0,
    totals: bool = False,
    _plan: Plan | None = None,
    _bytes: int = PARTIALS,
) -> tuple[Tensor, ...]:
    """Log-sums of exponentials of the scores over the rows and the columns of the table of all pairs.

    Args:
        kind: what the scores are.
        A: (q, d) in float32, bfloat16 or float16.
        B: (k, n, d) in the type of A, k ≤ 4.
        a2: (q,), for `residual`.
        w: (n,), for `residual` and `projection`.
        t: (n, k), for a `projection` with signs.
        offset: (n,), for `linear`.
        row_ids: (q,) int64.
        column_ids: (n,) int64. With both, a pair of equal ids is left out unless it is a match.
        shift: the column that matches row 0; row i matches column i + shift.
        totals: whether to sum the scores as well.

    Returns:
        (q,) log Σⱼ exp lᵢⱼ and (n,) log Σᵢ exp lᵢⱼ over the pairs that count, −∞ where none does; with `totals` also (q,)
        Σⱼ lᵢⱼ and (n,) Σᵢ lᵢⱼ. All in float32.
    """
    table = _operands(kind, A, B, a2, w, t, offset, row_ids, column_ids, shift)
    q, n = len(A), B.shape[1]
    rows_found, columns_found = (A.new_full((size,), -torch.inf, dtype=torch.float32) for size in (q, n))
    row_totals, column_totals = (A.new_zeros(size if totals else 0, dtype=torch.float32) for size in (q, n))
    plan = _plan or _choose(A, len(B))
    pairs = int(_bytes / (4 * (1 + totals) * (1 / plan.rows + 1 / plan.columns)))
    with torch.no_grad(), torch.cuda.device(A.get_device()):
        for rows, columns in _strips(q, n, pairs, plan):
            high, wide = rows.stop - rows.start, columns.stop - columns.start
            down, across = triton.cdiv(high, plan.rows), triton.cdiv(wide, plan.columns)
            found = [A.new_empty(shape, dtype=torch.float32) for shape in ((across, high), (down, wide)) * (1 + totals)]
            _forward[(down * across,)](
                *table.strip(rows, columns).arguments(),
                *found,
                *(() if totals else (None, None)),
                **_constants(kind, A, B, plan),
            )
            for into, part, more in ((rows_found, rows, found[0]), (columns_found, columns, found[1])):
                into[part] = torch.logaddexp(into[part], torch.logsumexp(more, 0))
            if totals:
                row_totals[rows] += found[2].sum(0)
                column_totals[columns] += found[3].sum(0)
    return (rows_found, columns_found, row_totals, column_totals) if totals else (rows_found, columns_found)


def gradients(
    kind: Kind,
    A: Tensor,
    B: Tensor,
    R: Tensor,
    C: Tensor,
    grad_R: Tensor,
    grad_C: Tensor,
    *,
    a2: Tensor | None = None,
    w: Tensor | None = None,
    t: Tensor | None = None,
    offset: Tensor | None = None,
    row_ids: Tensor | None = None,
    column_ids: Tensor | None = None,
    shift: int = 0,
    grad_row_totals: Tensor | None = None,
    grad_column_totals: Tensor | None = None,
    _plan: Plan | None = None,
    _bytes: int = SCRATCH,
) -> Gradients:
    """Gradients of `log_sums`, given those of its results.

    The inner products' gradients are rounded to the type of A; sums are in float32.

    Args:
        kind: what the scores are.
        A: (q, d).
        B: (k, n, d).
        R: (q,) the log-sums of the rows, from `log_sums`.
        C: (n,) the log-sums of the columns.
        grad_R: (q,).
        grad_C: (n,).
        a2: (q,).
        w: (n,).
        t: (n, k), which has no gradient.
        offset: (n,).
        row_ids: (q,).
        column_ids: (n,).
        shift: the column that matches row 0.
        grad_row_totals: (q,), where the totals were asked for.
        grad_column_totals: (n,).

    Returns:
        The gradients of A, B, a2, w and offset, in the shape of each.
    """
    table = _operands(kind, A, B, a2, w, t, offset, row_ids, column_ids, shift)
    (q, d), (k, n, _) = A.shape, B.shape
    zeros = A.new_zeros
    dA, dB = zeros(q, d, dtype=torch.float32), zeros(k, n, d, dtype=torch.float32)
    d_row = zeros(q, dtype=torch.float32) if kind == "residual" else None
    d_column = None if kind == "linear" and offset is None else zeros(n, dtype=torch.float32)
    plan = _plan or _choose(A, k)
    row_parts = [_flat(part) for part in (R, grad_R, grad_row_totals)]
    column_parts = [_flat(part) for part in (C, grad_C, grad_column_totals)]
    scale = None
    if A.dtype == torch.float16 and q and n:
        scale = _scale(kind, w, *row_parts[1:], *column_parts[1:])
    with torch.no_grad(), torch.cuda.device(A.get_device()), torch.autocast(A.device.type, enabled=False):
        for rows, columns in _strips(q, n, _bytes // (k * A.element_size()), plan, k):
            high, wide = rows.stop - rows.start, columns.stop - columns.start
            down, across = triton.cdiv(high, plan.rows), triton.cdiv(wide, plan.columns)
            # Whole multiples of 16 columns keep stores and cuBLAS' loads wide whatever n is.
            Y = A.new_empty(high, k, triton.cdiv(wide, 16) * 16)
            row_found = None if d_row is None else A.new_empty(across, high, dtype=torch.float32)
            column_found = None if d_column is None else A.new_empty(down, wide, dtype=torch.float32)
            _backward[(down * across,)](
                *table.strip(rows, columns).arguments(),
                *(_part(part, rows) for part in row_parts),
                *(_part(part, columns) for part in column_parts),
                scale,
                Y,
                row_found,
                column_found,
                Y.stride(0),
                Y.stride(1),
                PIECES=plan.pieces,
                **_constants(kind, A, B, plan),
            )
            for basis in range(k):
                dA[rows] += _product(Y[:, basis, :wide], B[basis, columns])
            dB[:, columns] += _product(Y.flatten(1).T, A[rows]).view(k, -1, d)[:, :wide]
            if d_row is not None and row_found is not None:
                d_row[rows] += row_found.sum(0)
            if d_column is not None and column_found is not None:
                d_column[columns] += column_found.sum(0)
    if scale is not None:
        dA, dB = dA / scale, dB / scale
    weighs = kind != "linear"
    return Gradients(dA, dB, d_row, d_column if weighs else None, None if weighs else d_column)


@triton.jit(do_not_specialize=["shift"])  # type: ignore[untyped-decorator,unused-ignore]
def _forward(
    A: tl.tensor,
    B: tl.tensor,
    a2: tl.tensor,
    w: tl.tensor,
    t: tl.tensor,
    offset: tl.tensor,
    row_ids: tl.tensor,
    column_ids: tl.tensor,
    q: tl.tensor,
    n: tl.tensor,
    d: tl.tensor,
    shift: tl.tensor,
    stride_aq: tl.tensor,
    stride_ad: tl.tensor,
    stride_bk: tl.tensor,
    stride_bn: tl.tensor,
    stride_bd: tl.tensor,
    row_sums: tl.tensor,
    column_sums: tl.tensor,
    row_totals: tl.tensor,
    column_totals: tl.tensor,
    KIND: tl.constexpr,
    K: tl.constexpr,
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
) -> None:
    """The log-sums of one tile: `row_sums` (tiles across, q), `column_sums` (tiles down, n), and the totals alike."""
    down, across, rows, columns = _place(q, n, ROWS, COLUMNS, GROUP)
    # Beyond the edge a tile repeats the table's last row and column, which are always there to be read.
    row, column = tl.minimum(rows, q - 1), tl.minimum(columns, n - 1)
    x0, x1, x2, x3 = _products(
        A,
        B,
        row,
        column,
        d,
        stride_aq,
        stride_ad,
        stride_bk,
        stride_bn,
        stride_bd,
        K,
        EVEN,
        PRECISION,
        WIDEN,
        ROWS,
        COLUMNS,
        DEPTH,
    )
    scores, _, _ = _scores(x0, x1, x2, x3, a2, w, t, offset, row, column, KIND, K)
    allowed = _allowed(row_ids, column_ids, rows, columns, row, column, q, n, shift)
    row_at, column_at = across.to(tl.int64) * q + rows, down.to(tl.int64) * n + columns
    if row_totals is not None:
        counted = tl.where(allowed, scores, 0.0)
        tl.store(row_totals + row_at, tl.sum(counted, 1), rows < q)
        tl.store(column_totals + column_at, tl.sum(counted, 0), columns < n)
    scores = tl.where(allowed, scores, float("-inf"))
    row_top, column_top = tl.max(scores, 1), tl.max(scores, 0)
    row_some, column_some = row_top > float("-inf"), column_top > float("-inf")
    top = tl.max(row_top, 0)
    lowest_row = tl.min(tl.where(row_some, row_top, float("inf")), 0)
    lowest_column = tl.min(tl.where(column_some, column_top, float("inf")), 0)
    # A second exponential of every score would cost half as much as the products do.
    if top - tl.minimum(lowest_row, lowest_column) < SAFE:
        top = tl.where(top > float("-inf"), top, 0.0)
        powers = tl.exp(scores - top)
        row_powers, column_powers = tl.sum(powers, 1), tl.sum(powers, 0)
        row_top, column_top = tl.zeros_like(row_top) + top, tl.zeros_like(column_top) + top
    else:
        row_top, column_top = tl.where(row_some, row_top, 0.0), tl.where(column_some, column_top, 0.0)
        row_powers = tl.sum(tl.exp(scores - row_top[:, None]), 1)
        column_powers = tl.sum(tl.exp(scores - column_top[None, :]), 0)
    row_found, column_found = _log(row_powers) + row_top, _log(column_powers) + column_top
    tl.store(row_sums + row_at, row_found, rows < q)
    tl.store(column_sums + column_at, column_found, columns < n)


@triton.jit(do_not_specialize=["shift"])  # type: ignore[untyped-decorator,unused-ignore]
def _backward(
    A: tl.tensor,
    B: tl.tensor,
    a2: tl.tensor,
    w: tl.tensor,
    t: tl.tensor,
    offset: tl.tensor,
    row_ids: tl.tensor,
    column_ids: tl.tensor,
    q: tl.tensor,
    n: tl.tensor,
    d: tl.tensor,
    shift: tl.tensor,
    stride_aq: tl.tensor,
    stride_ad: tl.tensor,
    stride_bk: tl.tensor,
    stride_bn: tl.tensor,
    stride_bd: tl.tensor,
    R: tl.tensor,
    grad_R: tl.tensor,
    grad_row_totals: tl.tensor,
    C: tl.tensor,
    grad_C: tl.tensor,
    grad_column_totals: tl.tensor,
    scale: tl.tensor,
    Y: tl.tensor,
    row_out: tl.tensor,
    column_out: tl.tensor,
    stride_yq: tl.tensor,
    stride_yk: tl.tensor,
    KIND: tl.constexpr,
    K: tl.constexpr,
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
    PIECES: tl.constexpr,
) -> None:
    """One tile of Y (q, k, n): the products' gradients; its sums for a2 (tiles across, q), w or offset (tiles down, n)."""
    down, across, rows, columns = _place(q, n, ROWS, COLUMNS, GROUP)
    row, column = tl.minimum(rows, q - 1), tl.minimum(columns, n - 1)
    x0, x1, x2, x3 = _products(
        A,
        B,
        row,
        column,
        d,
        stride_aq,
        stride_ad,
        stride_bk,
        stride_bn,
        stride_bd,
        K,
        EVEN,
        PRECISION,
        WIDEN,
        ROWS,
        COLUMNS,
        DEPTH,
    )
    row_log, column_log = tl.load(R + row), tl.load(C + column)
    row_some, column_some = row_log > float("-inf"), column_log > float("-inf")
    high = tl.maximum(tl.max(row_log, 0), tl.max(column_log, 0))
    # Where nothing counts, exp(l − ∞) = 0.
    row_log, column_log = tl.where(row_some, row_log, float("inf")), tl.where(column_some, column_log, float("inf"))
    low = tl.minimum(tl.min(row_log, 0), tl.min(column_log, 0))
    close = high - low < SAFE
    low = tl.where(low < float("inf"), low, 0.0)
    row_grad = tl.load(grad_R + row)
    row_factor = row_grad * tl.exp(low - row_log)
    row_sums = tl.zeros((ROWS,), tl.float32)
    WIDTH: tl.constexpr = COLUMNS // PIECES
    # Products, scores, slopes and gradients of the whole tile would not fit the registers together.
    for piece in tl.static_range(PIECES):
        columns = across * COLUMNS + piece * WIDTH + tl.arange(0, WIDTH)
        column = tl.minimum(columns, n - 1)
        y0 = _piece(x0, piece, PIECES)
        y1 = y0
        y2 = y0
        y3 = y0
        if K > 1:
            y1 = _piece(x1, piece, PIECES)
        if K > 2:
            y2 = _piece(x2, piece, PIECES)
        if K > 3:
            y3 = _piece(x3, piece, PIECES)
        scores, root, slope = _scores(y0, y1, y2, y3, a2, w, t, offset, row, column, KIND, K)
        allowed = _allowed(row_ids, column_ids, rows, columns, row, column, q, n, shift)
        scores = tl.where(allowed, scores, float("-inf"))
        column_log, column_grad = tl.load(C + column), tl.load(grad_C + column)
        column_log = tl.where(column_log > float("-inf"), column_log, float("inf"))
        if close:
            # exp(l − r) and exp(l − c) share exp(l − low): no score exceeds its row's log-sum or its column's.
            column_factor = column_grad * tl.exp(low - column_log)
            grad = tl.exp(scores - low) * (row_factor[:, None] + column_factor[None, :])
        else:
            grad = tl.exp(scores - row_log[:, None]) * row_grad[:, None]
            grad += tl.exp(scores - column_log[None, :]) * column_grad[None, :]
        if grad_row_totals is not None:
            grad += tl.where(allowed, tl.load(grad_row_totals + row)[:, None], 0.0)
        if grad_column_totals is not None:
            grad += tl.where(allowed, tl.load(grad_column_totals + column)[None, :], 0.0)
        if column_out is not None:
            weighed = grad
            if KIND != "linear":
                weighed = grad * root
            tl.store(column_out + down.to(tl.int64) * n + columns, tl.sum(weighed, 0), columns < n)
        if KIND != "linear":
            grad = grad * slope
        if row_out is not None:
            row_sums += tl.sum(grad, 1)
        if scale is not None:
            grad = grad * tl.load(scale)
        at = Y + rows.to(tl.int64)[:, None] * stride_yq + columns[None, :]
        inside = (rows < q)[:, None] & (columns < stride_yk)[None, :]
        if KIND == "linear":
            _put(at, grad, inside)
        else:
            _put(at, grad * y0, inside)
            if K > 1:
                _put(at + stride_yk, grad * y1, inside)
            if K > 2:
                _put(at + 2 * stride_yk, grad * y2, inside)
            if K > 3:
                _put(at + 3 * stride_yk, grad * y3, inside)
    if row_out is not None:
        # A product's slope is −2x times that of a2.
        tl.store(row_out + across.to(tl.int64) * q + rows, -0.5 * row_sums, rows < q)


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _piece(x: tl.tensor, INDEX: tl.constexpr, COUNT: tl.constexpr) -> tl.tensor:
    """The columns of one of 1, 2, 4 or 8 parts of a tile."""
    if COUNT > 1:
        x = _half(x, 2 * INDEX // COUNT)
    if COUNT > 2:
        x = _half(x, 4 * INDEX // COUNT % 2)
    if COUNT > 4:
        x = _half(x, 8 * INDEX // COUNT % 2)
    return x


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _half(x: tl.tensor, RIGHT: tl.constexpr) -> tl.tensor:
    """The left or the right half of a tile."""
    left, right = tl.split(tl.permute(tl.reshape(x, (x.shape[0], 2, x.shape[1] // 2)), (0, 2, 1)))
    half = left
    if RIGHT:
        half = right
    return half


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _place(q: tl.tensor, n: tl.tensor, ROWS: tl.constexpr, COLUMNS: tl.constexpr, GROUP: tl.constexpr) -> Any:
    """This program's tile: its number from the top and from the left, its rows and its columns.

    Programs that run at the same time work on a nearly square patch of tiles, GROUP high, whose features stay in the cache.
    """
    program = tl.program_id(0)
    tiles_down, tiles_across = tl.cdiv(q, ROWS), tl.cdiv(n, COLUMNS)
    band = program // (GROUP * tiles_across)
    within = program - band * GROUP * tiles_across
    height = tl.minimum(tiles_down - band * GROUP, GROUP)
    down, across = band * GROUP + within % height, within // height
    return down, across, down * ROWS + tl.arange(0, ROWS), across * COLUMNS + tl.arange(0, COLUMNS)


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _products(
    A: tl.tensor,
    B: tl.tensor,
    row: tl.tensor,
    column: tl.tensor,
    d: tl.tensor,
    stride_aq: tl.tensor,
    stride_ad: tl.tensor,
    stride_bk: tl.tensor,
    stride_bn: tl.tensor,
    stride_bd: tl.tensor,
    K: tl.constexpr,
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
) -> Any:
    """The tile's k ≤ 4 inner products, all of one pass over A; those beyond k are meaningless."""
    features = tl.arange(0, DEPTH)
    a_at = A + row.to(tl.int64)[:, None] * stride_aq + features[None, :] * stride_ad
    b_at = B + column.to(tl.int64)[None, :] * stride_bn + features[:, None] * stride_bd
    stride_bk = tl.full((), stride_bk, tl.int64)
    x0 = tl.zeros((ROWS, COLUMNS), tl.float32)
    x1 = x0
    x2 = x0
    x3 = x0
    for start in range(0, d, DEPTH):
        there = features < d - start
        a = _read(a_at, there[None, :], EVEN, WIDEN)
        x0 = tl.dot(a, _read(b_at, there[:, None], EVEN, WIDEN), x0, input_precision=PRECISION)
        if K > 1:
            x1 = tl.dot(a, _read(b_at + stride_bk, there[:, None], EVEN, WIDEN), x1, input_precision=PRECISION)
        if K > 2:
            x2 = tl.dot(a, _read(b_at + 2 * stride_bk, there[:, None], EVEN, WIDEN), x2, input_precision=PRECISION)
        if K > 3:
            x3 = tl.dot(a, _read(b_at + 3 * stride_bk, there[:, None], EVEN, WIDEN), x3, input_precision=PRECISION)
        a_at += DEPTH * stride_ad
        b_at += DEPTH * stride_bd
    return x0, x1, x2, x3


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _read(at: tl.tensor, there: tl.tensor, EVEN: tl.constexpr, WIDEN: tl.constexpr) -> tl.tensor:
    """Some features of the tile's rows or columns, 0 beyond the last."""
    features = tl.load(at) if EVEN else tl.load(at, there, 0.0)
    if WIDEN:
        features = features.to(tl.float32)
    return features


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _scores(
    x0: tl.tensor,
    x1: tl.tensor,
    x2: tl.tensor,
    x3: tl.tensor,
    a2: tl.tensor,
    w: tl.tensor,
    t: tl.tensor,
    offset: tl.tensor,
    row: tl.tensor,
    column: tl.tensor,
    KIND: tl.constexpr,
    K: tl.constexpr,
) -> Any:
    """The scores; their slope in w; their slope in each product, over that product. Only the scores where they are linear."""
    scores = x0
    root = x0
    slope = x0
    if KIND == "linear":
        if offset is not None:
            scores += tl.load(offset + column)[None, :]
    else:
        weight = tl.load(w + column)[None, :]
        squares = x0 * x0
        if K > 1:
            squares += x1 * x1
        if K > 2:
            squares += x2 * x2
        if K > 3:
            squares += x3 * x3
        if KIND == "residual":
            rest = tl.load(a2 + row)[:, None] - squares
            # One reciprocal root serves √r above ε, r/√ε below, and both slopes.
            inverse = tl.rsqrt(tl.maximum(rest, EPS))
            root = tl.where(rest < 0.0, 0.0, rest) * inverse
            slope = -weight * tl.where(rest > EPS, inverse, tl.where(rest >= 0.0, 2.0 * inverse, 0.0))
        else:
            # Where all products are 0 so is what this is multiplied with.
            inverse = tl.rsqrt(tl.maximum(squares, TINY))
            root = tl.where(squares > 1.0, 1.0, squares * inverse)
            slope = tl.where(squares > 1.0, 0.0, inverse)
            if t is not None:
                side = x0 * tl.load(t + column * K)[None, :]
                if K > 1:
                    side += x1 * tl.load(t + column * K + 1)[None, :]
                if K > 2:
                    side += x2 * tl.load(t + column * K + 2)[None, :]
                if K > 3:
                    side += x3 * tl.load(t + column * K + 3)[None, :]
                root = tl.where(side < 0.0, -root, root)
                slope = tl.where(side < 0.0, -slope, slope)
            slope = weight * slope
        scores = weight * root
    return scores, root, slope


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _allowed(
    row_ids: tl.tensor,
    column_ids: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    row: tl.tensor,
    column: tl.tensor,
    q: tl.tensor,
    n: tl.tensor,
    shift: tl.tensor,
) -> Any:
    """Which pairs of the tile are in the table and count."""
    allowed = (rows < q)[:, None] & (columns < n)[None, :]
    if row_ids is not None:
        other = tl.load(row_ids + row)[:, None] != tl.load(column_ids + column)[None, :]
        allowed = allowed & (other | (columns[None, :] == (rows + shift)[:, None]))
    return allowed


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _log(x: tl.tensor) -> Any:
    """Log x, −∞ at 0."""
    return tl.where(x == 0.0, float("-inf"), tl.log(tl.where(x == 0.0, 1.0, x)))


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _put(at: tl.tensor, values: tl.tensor, inside: tl.tensor) -> None:
    """Store in the type of the target; in float16 values out of range become the largest number."""
    if at.dtype.element_ty == tl.float16:
        values = tl.where(values > HALF_MAX, HALF_MAX, tl.where(values < -HALF_MAX, -HALF_MAX, values))
    tl.store(at, values.to(at.dtype.element_ty), inside)


def _operands(
    kind: Kind,
    A: Tensor,
    B: Tensor,
    a2: Tensor | None,
    w: Tensor | None,
    t: Tensor | None,
    offset: Tensor | None,
    row_ids: Tensor | None,
    column_ids: Tensor | None,
    shift: int,
) -> _Operands:
    """The operands in the layout of the kernels, without those that the kind of score does not use."""
    linear, residual, projection = (kind == other for other in ("linear", "residual", "projection"))
    assert A.dtype == B.dtype and A.shape[1] == B.shape[2] and 1 <= len(B) <= (1 if linear else MOST_BASES)
    assert (w is not None or linear) and (a2 is not None or not residual)
    if row_ids is None or column_ids is None:
        row_ids = column_ids = None
    return _Operands(
        A.detach(),
        B.detach(),
        _flat(a2) if residual else None,
        None if linear else _flat(w),
        _flat(t) if projection else None,
        _flat(offset) if linear else None,
        None if row_ids is None else row_ids.contiguous(),
        None if column_ids is None else column_ids.contiguous(),
        shift,
    )


def _flat(part: Tensor | None) -> Tensor | None:
    return None if part is None else part.detach().float().contiguous()


def _part(part: Tensor | None, where: slice) -> Tensor | None:
    return None if part is None else part[where]


def _choose(A: Tensor, k: int) -> Plan:
    """The largest tiles whose products fit the registers, with as many stages as fit the shared memory.

    Chosen by compiling for compute capability 9.0, where none of them spills registers noticeably. In float32 there are no
    tensor cores to keep busy, and smaller tiles suffice.
    """
    if A.element_size() == 4:
        return Plan(128 if k < 3 else 64, 64, 16, 8, 2)
    columns = 256 // triton.next_power_of_2(k)
    shared = SHARED
    if A.is_cuda:
        shared = getattr(torch.cuda.get_device_properties(A.device), "shared_memory_per_block_optin", SHARED)
    stage = 64 * (128 + k * columns) * A.element_size()
    return Plan(128, columns, 64, 8, max(1, min(4, shared // stage)), columns // 32)


def _constants(kind: Kind, A: Tensor, B: Tensor, plan: Plan) -> dict[str, Any]:
    """The compile-time constants of the kernels."""
    return {
        "KIND": kind,
        "K": len(B),
        "EVEN": A.shape[1] % plan.depth == 0,
        "PRECISION": "ieee" if A.dtype == torch.float32 else "tf32",
        # The interpreter, which alone sees the CPU, takes the bits of bfloat16 for integers when it multiplies.
        "WIDEN": A.dtype == torch.bfloat16 and not A.is_cuda,
        "ROWS": plan.rows,
        "COLUMNS": plan.columns,
        "DEPTH": plan.depth,
        "GROUP": 8,
        "num_warps": plan.warps,
        "num_stages": plan.stages,
        "enable_fp_fusion": True,
    }


def _strips(q: int, n: int, pairs: int, plan: Plan, aspect: int = 1) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of parts of the table with about `pairs` pairs, `aspect` times as many rows as columns if possible."""
    if not q or not n:
        return
    padded = triton.cdiv(q, plan.rows) * plan.rows
    columns = _cuts(n, max(math.isqrt(pairs // aspect), pairs // padded), plan.columns)
    rows = _cuts(q, pairs // (columns[0].stop - columns[0].start), plan.rows)
    for high in rows:
        for wide in columns:
            yield high, wide


def _cuts(size: int, most: int, block: int) -> list[slice]:
    """`size` cut into nearly equal parts of whole blocks, each at most `most` if that is at least one block."""
    count = 1 if size <= most else triton.cdiv(size, max(block, most // block * block))
    each = triton.cdiv(triton.cdiv(size, count), block) * block
    return [slice(start, min(start + each, size)) for start in range(0, size, each)]


def _scale(kind: Kind, *parts: Tensor | None) -> Tensor:
    """(1,) the power of two that puts the products' gradients into float16's range, which is narrower than theirs.

    The parts are w and the gradients of the results. A residual's slope reaches 2/√ε ≈ 5800.
    """
    w, *grads = parts
    bound = torch.stack([grad.abs().amax() for grad in grads if grad is not None]).sum()
    if w is not None:
        bound = bound * w.detach().abs().amax()
    reach = 8 if kind == "residual" else 2**14
    return torch.exp2((reach / bound).log2().floor().clamp(-100, 100)).reshape(1).float()


def _product(X: Tensor, Y: Tensor) -> Tensor:
    """X Y in float32. On a GPU, torch before 2.8 has to convert 16-bit factors first."""
    if X.is_cuda and X.dtype != torch.float32 and hasattr(torch.ops.aten.mm, "dtype"):
        product: Tensor = torch.mm(X, Y, out_dtype=torch.float32)
        return product
    return X.float() @ Y.float()
