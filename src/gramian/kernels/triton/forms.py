"""The fused Triton kernels as a differentiable form of `log_sums`: `backend="triton"` of the softmax losses.

Nothing but that argument leads here: below some 8,192 items, where launches bound a step, the blocked form is faster
(benchmarks/results/device.csv).
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from gramian.errors import InputError
from gramian.factorisations import safe_sqrt
from gramian.kernels.rules import Form, Linear, Projection, Residual, safe_norm
from gramian.kernels.triton import MOST_BASES

__all__ = ["check_triton", "fused_sums"]


def check_triton(form: Form) -> None:
    """Check that the kernels can take the form.

    Raises:
        InputError: Triton is not installed, no kernel has the score, an item has too many vectors, or they are not in float32
            on a CUDA GPU.
    """
    queries = form.queries[0]
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"  # Triton's own switch: slowly, and on the CPU
    if find_spec("triton") is None:
        reason = "Triton is not installed"
    elif not isinstance(form.rule, Linear | Residual | Projection):
        reason = "no kernel has this score; cosine, volume and span of one vector have"
    elif form.rule.width > MOST_BASES:
        reason = f"the kernels take items of at most {MOST_BASES} vectors; got {form.rule.width}"
    elif not queries.is_cuda and not interpreted:
        reason = f"the kernels need a CUDA GPU; the vectors are on {queries.device}"
    elif queries.dtype != torch.float32:
        reason = f"the kernels take vectors of at most 32 bits; got {queries.dtype}"
    else:
        return
    raise InputError(f"`backend` 'triton' cannot serve here: {reason}. Use backend='torch'.")


def fused_sums(
    form: Form,
    row_ids: Tensor | None,
    column_ids: Tensor | None,
    shift: int,
    *,
    totals: bool,
    dtype: torch.dtype = torch.bfloat16,
    plan: Any = None,
) -> tuple[Tensor, ...]:
    """The five tensors of `LogSums`, with products of features in `dtype` and all sums in float32.

    Args:
        form: of a `Linear`, `Residual` or `Projection`.
        row_ids: (q,) or None.
        column_ids: (n,) or None.
        shift: the column that matches row 0.
        totals: whether to sum the scores as well.
        dtype: of the features in the products.
        plan: of the kernels; picked by default.

    Returns:
        Log-sums of rows (q,) and columns (n,), matching scores (q,), sums of rows (q,) and columns (n,); zeros for the last two
        without `totals`.

    Raises:
        InputError: see `check_triton`.
    """
    check_triton(form)
    kind, operands = _operands(form)
    pairs = (row_ids, column_ids, shift)
    sums = _Fused.apply(kind, pairs, totals, dtype, plan, *operands)  # type: ignore[no-untyped-call]
    rows = torch.arange(form.shape[0], device=sums[0].device)
    has = (rows + shift >= 0) & (rows + shift < form.shape[1])
    matches = sums[0].new_zeros(form.shape[0]).index_put((rows[has],), _matches(form, rows[has], rows[has] + shift))
    return sums[0], sums[1], matches, sums[2], sums[3]


def _operands(form: Form) -> tuple[str, tuple[Tensor | None, ...]]:
    """The kind, and A, B (k, n, d), a2, w, t, offset."""
    queries, items = form.queries, form.items
    if isinstance(form.rule, Linear):
        return "linear", (queries[0], items[0][None], None, None, None, items[1] if len(items) > 1 else None)
    B = items[1].transpose(0, 1)
    if isinstance(form.rule, Residual):
        return "residual", (queries[0], B, queries[0].square().sum(-1), items[0], None, None)
    return "projection", (queries[0], B, None, items[0], items[2] if len(items) > 2 else None, None)


def _matches(form: Form, rows: Tensor, columns: Tensor) -> Tensor:
    """The scores of some pairs one by one, in float32."""
    _, (A, B, a2, w, t, offset) = _operands(form)
    assert A is not None and B is not None
    x = (A[rows] * B[:, columns]).sum(-1)  # (k, pairs)
    if isinstance(form.rule, Linear):
        return x[0] if offset is None else x[0] + offset[columns]
    assert w is not None
    if a2 is not None:
        return safe_sqrt(a2[rows] - x.square().sum(0)) * w[columns]
    length = safe_norm(x.square().sum(0)).clamp(max=1)
    if t is not None:
        length = torch.where((x * t[columns].T).sum(0) < 0, -length, length)
    return length * w[columns]


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kind: Any, pairs: Any, totals: bool, dtype: torch.dtype, plan: Any, *operands: Any) -> Any:
        from gramian.kernels.triton import programs

        A, B, a2, w, t, offset = operands
        ctx.options = {"row_ids": pairs[0], "column_ids": pairs[1], "shift": pairs[2], "_plan": plan}
        parts: dict[str, Any] = {"a2": a2, "w": w, "t": t, "offset": offset}
        A16, B16 = A.to(dtype), B.to(dtype)
        sums = programs.log_sums(kind, A16, B16, **parts, **ctx.options, totals=totals)
        if not totals:
            sums = (*sums, A.new_zeros(len(A)), A.new_zeros(B.shape[1]))
        ctx.kind, ctx.totals = kind, totals
        ctx.save_for_backward(A16, B16, a2, w, t, offset, *sums[:2])
        return sums

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        from gramian.kernels.triton import programs

        A, B, a2, w, t, offset, R, C = ctx.saved_tensors
        shared: dict[str, Any] = {"grad_row_totals": grads[2], "grad_column_totals": grads[3]} if ctx.totals else {}
        parts: dict[str, Any] = {"a2": a2, "w": w, "t": t, "offset": offset}
        gradients = programs.gradients(ctx.kind, A, B, R, C, grads[0], grads[1], **parts, **ctx.options, **shared)
        return *[None] * 5, gradients.dA, gradients.dB, gradients.da2, gradients.dw, None, gradients.doffset
