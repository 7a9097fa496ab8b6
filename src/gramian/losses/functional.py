"""Logits → scalar."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gramian.errors import InputError

__all__ = ["info_nce"]


def info_nce(logits: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Symmetric cross-entropy of an (n, n) matrix whose diagonal holds the matches: ½ [CE(L, i) + CE(Lᵀ, i)].

    Args:
        logits: (n, n), scores divided by the temperature; row i is query i, column j candidate j.
        label_smoothing: share of the target spread evenly over all n candidates.

    Returns:
        Scalar ≥ 0; log n when all logits are equal.

    Source: InfoNCE (arXiv 1807.03748); the symmetric form is CLIP's (arXiv 2103.00020).

    >>> info_nce(torch.zeros(2, 2))
    tensor(0.6931)
    """
    if logits.ndim != 2 or logits.shape[0] != logits.shape[1]:
        raise InputError(f"`logits` must be square, (n, n); got {tuple(logits.shape)}.")
    target = torch.arange(len(logits), device=logits.device)
    rows = F.cross_entropy(logits, target, label_smoothing=label_smoothing)
    columns = F.cross_entropy(logits.T, target, label_smoothing=label_smoothing)
    return (rows + columns) / 2
