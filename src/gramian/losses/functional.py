"""Logits → scalar."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gramian.errors import InputError
from gramian.kernels import Exchange, Form, LogSums

__all__ = ["info_nce", "sigmoid_loss"]

LOCAL = Exchange()


def info_nce(
    logits: Tensor, *, same: Tensor | None = None, label_smoothing: float = 0.0, negatives: int | None = None
) -> Tensor:
    """Symmetric cross-entropy of an (n, n) matrix whose diagonal holds the matches: ½ [CE(L, i) + CE(Lᵀ, i)].

    Args:
        logits: (n, n), scores divided by the temperature; row i is query i, column j candidate j.
        same: (n, n) bool, which rows are one item; off the diagonal they are no negatives and leave the softmax.
        label_smoothing: share of the target spread evenly over all candidates of the softmax.
        negatives: keep the match and this many of the highest negatives of each query; all by default.

    Returns:
        Scalar ≥ 0; log n when all n logits of each softmax are equal.

    Source: InfoNCE (arXiv 1807.03748); the symmetric form is CLIP's (arXiv 2103.00020).

    >>> info_nce(torch.zeros(2, 2))
    tensor(0.6931)
    """
    _check_square(logits, same)
    check_negatives(negatives)
    rows = _cross_entropy(logits, same, label_smoothing, negatives)
    columns = _cross_entropy(logits.T, None if same is None else same.T, label_smoothing, negatives)
    return (rows + columns) / 2


def sigmoid_loss(logits: Tensor, *, same: Tensor | None = None) -> Tensor:
    """Every pair on its own: −Σᵢⱼ log σ(±Lᵢⱼ)/n, plus on the diagonal and minus elsewhere.

    Args:
        logits: (n, n), scores divided by the temperature, with a bias.
        same: (n, n) bool, which rows are one item; off the diagonal they are left out.

    Returns:
        Scalar ≥ 0.

    Source: SigLIP (arXiv 2303.15343).

    >>> sigmoid_loss(torch.zeros(2, 2))
    tensor(1.3863)
    """
    _check_square(logits, same)
    match = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    terms = F.logsigmoid(torch.where(match, logits, -logits))
    if same is not None:
        terms = terms.masked_fill(same & ~match, 0)
    return -terms.sum() / len(logits)


def info_nce_of(
    logits: Form,
    ids: Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
    block_size: int | None = None,
    exchange: Exchange = LOCAL,
) -> Tensor:
    """`info_nce` of a form, which never holds all logits; `ids` (n,) say which rows are one item."""
    sums = exchange.log_sums(logits, ids, totals=label_smoothing > 0, block_size=block_size)
    n, device = logits.shape[0], sums.rows.device
    counted = None if label_smoothing == 0 else exchange.contrasted(ids, n, device)
    return exchange.mean(cross_entropies(sums, label_smoothing, counted))


def sigmoid_loss_of(
    logits: Form, ids: Tensor | None = None, *, block_size: int | None = None, exchange: Exchange = LOCAL
) -> Tensor:
    """`sigmoid_loss` of a form, which never holds all logits; `ids` (n,) say which rows are one item."""
    sums = exchange.softplus_sums(logits, ids, block_size=block_size)
    return exchange.mean(sums.rows - F.logsigmoid(sums.matches))


def cross_entropies(sums: LogSums, smoothing: float, counted: Tensor | int | None) -> Tensor:
    """(n,) mean over both directions of row i's and column i's cross-entropy, from sums over the pairs that count."""
    entropies = (sums.rows + sums.columns) / 2 - sums.matches * (1 - smoothing)
    if counted is not None:
        entropies = entropies - smoothing * (sums.row_totals + sums.column_totals) / (2 * counted)
    return entropies


def check_negatives(negatives: int | None) -> None:
    """Raise where no negative would be kept."""
    if negatives is not None and negatives < 1:
        raise InputError(f"`negatives` must be at least 1, or None for all; got {negatives}.")


def check_block_size(block_size: int | None) -> int | None:
    """`block_size`, or an error where it is none."""
    if block_size is not None and block_size < 1:
        raise InputError(f"`block_size` must be at least 1, or None to pick by size; got {block_size}.")
    return block_size


def _check_square(logits: Tensor, same: Tensor | None) -> None:
    if logits.ndim != 2 or logits.shape[0] != logits.shape[1]:
        raise InputError(f"`logits` must be square, (n, n); got {tuple(logits.shape)}.")
    if same is not None and (same.dtype != torch.bool or same.shape != logits.shape):
        raise InputError(f"`same` must be bool of shape {tuple(logits.shape)}; got {same.dtype} of shape {tuple(same.shape)}.")


def _cross_entropy(logits: Tensor, same: Tensor | None, smoothing: float, negatives: int | None) -> Tensor:
    """Of the rows against the diagonal; what the row may not contrast with leaves its softmax."""
    target = torch.arange(len(logits), device=logits.device)
    if same is None and (negatives is None or negatives >= len(logits) - 1):
        return F.cross_entropy(logits, target, label_smoothing=smoothing)
    match = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    out = torch.zeros_like(match) if same is None else same & ~match
    if negatives is not None and negatives < len(logits) - 1:
        others = logits.detach().masked_fill(match | out, -torch.inf)
        kept = torch.zeros_like(match).scatter_(1, others.topk(negatives, dim=1).indices, True)
        out = out | ~(kept | match)
    # Finite, so that smoothing's 0 · log 0 is 0 and not NaN; its exponential is 0 all the same.
    logits = logits.masked_fill(out, torch.finfo(logits.dtype).min / 4)
    allowed = (~out).to(logits.dtype)
    share = allowed / allowed.sum(1, keepdim=True) * smoothing + match.to(logits.dtype) * (1 - smoothing)
    return F.cross_entropy(logits, share)
