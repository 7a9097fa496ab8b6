"""Arrays in, numbers out: where the matches rank among the scores.

Ties are broken at random, in expectation: a match that shares its score with t others is equally likely to stand at any of
the t + 1 places, so that a constant score gives chance, and never success.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gramian.errors import InputError

__all__ = ["Ranks", "hits_at_k", "mean_reciprocal_rank", "median_rank", "ranks", "recall_at_k"]


class Ranks(NamedTuple):
    """Where the best match of each of q queries stands.

    Attributes:
        better: (q,) candidates with a higher score.
        tied: (q,) other candidates with the same score.
    """

    better: NDArray[np.int64]
    tied: NDArray[np.int64]

    @property
    def mean(self) -> NDArray[np.float64]:
        """(q,) expected rank, 1 the best; halves where scores tie."""
        return 1 + self.better + self.tied / 2


def ranks(scores: Tensor, relevant: Tensor) -> Ranks:
    """Where the best match of each query stands among the candidates.

    Args:
        scores: (q, n), higher is better; −∞ for what cannot be found.
        relevant: (q,) index of the match, or (q, n) bool of all matches; one match does not push another down.

    Returns:
        (q,) candidates before the match, and level with it.

    Raises:
        InputError: NaN among the scores, a query without a match.

    >>> ranks(torch.tensor([[0.9, 0.1, 0.5], [0.2, 0.2, 0.1]]), torch.tensor([2, 0])).mean
    array([2. , 1.5])
    """
    if scores.ndim != 2 or scores.shape[1] == 0:
        raise InputError(f"`scores` must have shape (q, n) with n ≥ 1; got {tuple(scores.shape)}.")
    q, n = scores.shape
    nan = int(scores.isnan().any(1).sum())
    if nan:
        raise InputError(f"`scores` holds NaN for {nan} of {q} queries.")
    if relevant.dtype == torch.bool:
        if relevant.shape != (q, n):
            raise InputError(f"`relevant` must be bool of shape ({q}, {n}); got {tuple(relevant.shape)}.")
        without = int((~relevant.any(1)).sum())
        if without:
            raise InputError(f"`relevant` has no match for {without} of {q} queries. Leave them out.")
        best = scores.masked_fill(~relevant, -torch.inf).amax(1, keepdim=True)
        better, level = ((scores > best) & ~relevant).sum(1), ((scores == best) & ~relevant).sum(1)
    else:
        if relevant.shape != (q,) or (q and not 0 <= int(relevant.min()) <= int(relevant.max()) < n):
            raise InputError(f"`relevant` must hold {q} indices in [0, {n}), or be bool of shape ({q}, {n}).")
        best = scores.gather(1, relevant[:, None])
        better, level = (scores > best).sum(1), (scores == best).sum(1) - 1
    return Ranks(better.cpu().numpy(), level.cpu().numpy())


def hits_at_k(ranks: Ranks, k: int) -> NDArray[np.float64]:
    """Whether each query finds its match among the best k, (q,): 1, 0, or between where a tie decides.

    >>> hits_at_k(Ranks(np.array([0, 2, 4]), np.array([0, 3, 0])), 3)
    array([1.  , 0.25, 0.  ])
    """
    if k < 1:
        raise InputError(f"`k` must be at least 1; got {k}.")
    return np.clip((k - ranks.better) / (ranks.tied + 1), 0, 1)


def recall_at_k(ranks: Ranks, k: int) -> float:
    """Share of queries whose match is among the best k, in [0, 1]; NaN for no queries.

    >>> recall_at_k(Ranks(np.array([0, 2, 7, 0]), np.array([0, 0, 0, 1])), 1)
    0.375
    """
    found = hits_at_k(ranks, k)
    return float(found.mean()) if len(found) else float("nan")


def median_rank(ranks: Ranks) -> float:
    """Median of the expected ranks, 1 the best; NaN for no queries.

    >>> median_rank(Ranks(np.array([0, 2, 7]), np.array([0, 0, 0])))
    3.0
    """
    return float(np.median(ranks.mean)) if len(ranks.better) else float("nan")


def mean_reciprocal_rank(ranks: Ranks) -> float:
    """Mean of the expected 1/rank, in (0, 1]; NaN for no queries.

    >>> mean_reciprocal_rank(Ranks(np.array([0, 1]), np.array([0, 1])))
    0.7083333333333333
    """
    if not len(ranks.better):
        return float("nan")
    last = ranks.better + ranks.tied + 1
    harmonic = np.concatenate([[0], np.cumsum(1 / np.arange(1, last.max() + 1))])
    return float(np.mean((harmonic[last] - harmonic[ranks.better]) / (ranks.tied + 1)))
