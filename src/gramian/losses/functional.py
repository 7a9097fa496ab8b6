"""Logits → scalar: a table of them, or a form that never holds them all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from gramian.errors import InputError, check_number
from gramian.kernels import Backend, Exchange, Form, Given, LogSums, all_pairs

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = ["info_nce", "sigmoid_loss"]

LOCAL = Exchange()


def info_nce(
    logits: Float[Tensor, "n n"] | Form,
    ids: Int[Tensor, " n"] | None = None,
    *,
    label_smoothing: float = 0.0,
    negatives: int | None = None,
    block_size: int | None = None,
    backend: Backend = "torch",
    exchange: Exchange = LOCAL,
) -> Float[Tensor, ""]:
    """Symmetric cross-entropy of an (n, n) matrix whose diagonal holds the matches: ½ [CE(L, i) + CE(Lᵀ, i)].

    Args:
        logits: (n, n), scores divided by the temperature, as a table or a form; row i is query i, column j candidate j.
        ids: (n,), equal where rows are one item; off the diagonal such pairs are not negatives and leave the softmax.
        label_smoothing: share of the target spread evenly over all candidates of the softmax, in [0, 1).
        negatives: keep the match and this many of the highest negatives of each query; all by default.
        block_size: see `SoftmaxOptions`.
        backend: see `SoftmaxOptions`.
        exchange: which items are candidates.

    Returns:
        Scalar ≥ 0; log n when all n logits of each softmax are equal.

    Raises:
        InputError: logits that are not square, ids of another length, or fewer than one negative.

    Source: InfoNCE (arXiv 1807.03748); the symmetric form is CLIP's.

    >>> info_nce(torch.zeros(2, 2)).round(decimals=4)
    tensor(0.6931)
    """
    form = _square(logits, ids)
    check_number("negatives", negatives, "[1, inf)", integer=True, optional=True)
    n, device = form.shape[0], form.queries[0].device
    if negatives is not None and negatives < n - 1:
        table = all_pairs(form)
        match = torch.eye(n, dtype=torch.bool, device=device)
        same = match if ids is None else ids[:, None] == ids
        rows = _cross_entropy(table, match, same & ~match, label_smoothing, negatives)
        columns = _cross_entropy(table.T, match, same & ~match, label_smoothing, negatives)
        return (rows + columns) / 2
    sums = exchange.log_sums(form, ids, totals=label_smoothing > 0, block_size=block_size, backend=backend)
    counted = None if label_smoothing == 0 else exchange.contrasted(ids, n)
    return exchange.mean(cross_entropies(sums, label_smoothing, counted))


def sigmoid_loss(
    logits: Float[Tensor, "n n"] | Form,
    ids: Int[Tensor, " n"] | None = None,
    *,
    block_size: int | None = None,
    exchange: Exchange = LOCAL,
) -> Float[Tensor, ""]:
    """Logistic loss of every pair separately: −Σᵢⱼ log σ(±Lᵢⱼ)/n, plus on the diagonal and minus elsewhere.

    Args:
        logits: (n, n), scores divided by the temperature, with a bias, as a table or a form.
        ids: (n,), equal where rows are one item; off the diagonal such pairs are left out.
        block_size: see `SoftmaxOptions`.
        exchange: which items are candidates.

    Returns:
        Scalar ≥ 0.

    Raises:
        InputError: logits that are not square, or ids of another length.

    Source: SigLIP.

    >>> sigmoid_loss(torch.zeros(2, 2)).round(decimals=4)
    tensor(1.3863)
    """
    sums = exchange.softplus_sums(_square(logits, ids), ids, block_size=block_size)
    return exchange.mean(sums.rows - F.logsigmoid(sums.matches))


def cross_entropies(sums: LogSums, smoothing: float, counted: Int[Tensor, " n"] | int | None) -> Float[Tensor, " n"]:
    """(n,) mean over both directions of row i's and column i's cross-entropy, from sums over the pairs that count."""
    entropies = (sums.rows + sums.columns) / 2 - sums.matches * (1 - smoothing)
    if counted is not None:
        entropies = entropies - smoothing * (sums.row_totals + sums.column_totals) / (2 * counted)
    return entropies


def _square(logits: Tensor | Form, ids: Tensor | None) -> Form:
    shape = tuple(logits.shape)
    if len(shape) != 2 or shape[0] != shape[1]:
        raise InputError(f"`logits` must be square, (n, n); got {shape}.")
    if ids is not None and ids.shape != shape[:1]:
        raise InputError(f"`ids` must have one entry per row, ({shape[0]},); got {tuple(ids.shape)}.")
    return logits if isinstance(logits, Form) else Given.form(logits)


def _cross_entropy(logits: Tensor, match: Tensor, excluded: Tensor, smoothing: float, negatives: int) -> Tensor:
    """Cross-entropy of the rows against the diagonal, over the match and the hardest negatives that are not `excluded`."""
    others = logits.detach().masked_fill(match | excluded, -torch.inf)
    hardest = torch.zeros_like(match).scatter_(1, others.topk(negatives, dim=1).indices, True)
    allowed = match | (hardest & ~excluded)
    # Finite, so that smoothing's 0 · log 0 is 0 and not NaN; its exponential is still 0.
    logits = logits.masked_fill(~allowed, torch.finfo(logits.dtype).min / 4)
    count = allowed.to(logits.dtype)
    share = count / count.sum(1, keepdim=True) * smoothing + match.to(logits.dtype) * (1 - smoothing)
    return F.cross_entropy(logits, share)
