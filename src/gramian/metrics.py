"""Arrays in, numbers out: where the matches rank among the scores.

Ties count half: a match that shares its score with t others ranks t/2 places lower, so that a constant score gives chance.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gramian.errors import InputError

__all__ = ["mean_reciprocal_rank", "median_rank", "ranks", "recall_at_k"]

Ranks = NDArray[np.float64]


def ranks(scores: Tensor, relevant: Tensor) -> Ranks:
    """Rank of the best match of each query, 1 the best.

    Args:
        scores: (q, n), higher is better; −∞ for what cannot be found.
        relevant: (q,) index of the match, or (q, n) bool of all matches.

    Returns:
        (q,) float64 in [1, n]; halves where scores tie.

    Raises:
        InputError: NaN among the scores, a query without a match.

    >>> ranks(torch.tensor([[0.9, 0.1, 0.5], [0.2, 0.2, 0.1]]), torch.tensor([2, 0]))
    array([2. , 1.5])
    """
    if scores.ndim != 2 or scores.shape[1] == 0:
        raise InputError(f"`scores` must have shape (q, n) with n ≥ 1; got {tuple(scores.shape)}.")
    q, n = scores.shape
    nan = int(scores.isnan().any(1).sum())
    if nan:
        raise InputError(f"`scores` holds NaN for {nan} of {q} queries.")
    if relevant.dtype != torch.bool:
        if relevant.shape != (q,) or (q and not 0 <= int(relevant.min()) <= int(relevant.max()) < n):
            raise InputError(f"`relevant` must hold {q} indices in [0, {n}), or be bool of shape ({q}, {n}).")
        relevant = torch.zeros(q, n, dtype=torch.bool, device=scores.device).scatter(1, relevant[:, None], True)
    if relevant.shape != (q, n):
        raise InputError(f"`relevant` must be bool of shape ({q}, {n}); got {tuple(relevant.shape)}.")
    without = int((~relevant.any(1)).sum())
    if without:
        raise InputError(f"`relevant` has no match for {without} of {q} queries. Leave them out.")
    best = scores.masked_fill(~relevant, -torch.inf).amax(1, keepdim=True)
    better = ((scores > best) & ~relevant).sum(1)
    tied = ((scores == best) & ~relevant).sum(1)
    return np.asarray((1 + better + tied / 2).double().cpu())


def recall_at_k(ranks: Ranks, k: int) -> float:
    """Share of queries whose match is among the best k, in [0, 1]; NaN for no queries.

    >>> recall_at_k(np.array([1.0, 3.0, 8.0, 1.5]), 1)
    0.25
    """
    if k < 1:
        raise InputError(f"`k` must be at least 1; got {k}.")
    return float(np.mean(ranks <= k)) if len(ranks) else float("nan")


def median_rank(ranks: Ranks) -> float:
    """Median rank of the match, 1 the best; NaN for no queries.

    >>> median_rank(np.array([1.0, 3.0, 8.0]))
    3.0
    """
    return float(np.median(ranks)) if len(ranks) else float("nan")


def mean_reciprocal_rank(ranks: Ranks) -> float:
    """Mean of 1/rank, in (0, 1]; NaN for no queries.

    >>> mean_reciprocal_rank(np.array([1.0, 2.0, 4.0]))
    0.5833333333333334
    """
    return float(np.mean(1 / ranks)) if len(ranks) else float("nan")
