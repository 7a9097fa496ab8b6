"""Arrays in, numbers out: where the matches rank among the scores, and what shape the space has.

Ties are broken at random, in expectation: a match that shares its score with t others is equally likely to take any of the
t + 1 places, so that a constant score gives chance level, never success.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gramian.errors import InputError, check_number
from gramian.kernels import Form, Given, Linear, log_sums
from gramian.kernels.ranks import top_k

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

__all__ = [
    "Matches",
    "Ranks",
    "antipodal_share",
    "average_precision",
    "discounted_gain",
    "effective_rank",
    "hits_at_k",
    "hubness",
    "mean_rank",
    "mean_reciprocal_rank",
    "median_rank",
    "modality_gap",
    "ranks",
    "recall_at_k",
    "reciprocal_ranks",
    "uniformity",
]


class Ranks(NamedTuple):
    """The rank of the best match of each of q queries.

    Attributes:
        better: (q,) candidates with a higher score.
        tied: (q,) other candidates with the same score.
    """

    better: NDArray[np.int64]
    tied: NDArray[np.int64]

    @property
    def expected(self) -> NDArray[np.float64]:
        """(q,) expected rank, 1 the best; halves where scores tie."""
        return 1 + self.better + self.tied / 2


class Matches(NamedTuple):
    """The rank of every match of q queries, one row per query and match.

    Attributes:
        query: (p,) the query of each, 0 to q − 1; every query has at least one.
        better: (p,) candidates with a higher score, the query's other matches included.
        tied: (p,) other candidates with the same score, the query's other matches included.
    """

    query: NDArray[np.int64]
    better: NDArray[np.int64]
    tied: NDArray[np.int64]

    @staticmethod
    def of(ranks: Ranks) -> Matches:
        """Those of queries with one match each."""
        return Matches(np.arange(len(ranks.better)), ranks.better, ranks.tied)


def ranks(scores: Float[Tensor, "q n"], relevant: Int[Tensor, " q"] | Bool[Tensor, "q n"]) -> Ranks:
    """The rank of the best match of each query among the candidates.

    Args:
        scores: (q, n), higher is better; −∞ for what cannot be found.
        relevant: (q,) index of the match, or (q, n) bool of all matches; one match does not push another down.

    Returns:
        For each query, (q,), how many candidates score more than the match, and how many tie with it.

    Raises:
        InputError: wrong shapes, NaN among the scores, an index outside the gallery, or a query without a match.

    >>> ranks(torch.tensor([[0.9, 0.1, 0.5], [0.2, 0.2, 0.1]]), torch.tensor([2, 0])).expected
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

    Raises:
        InputError: k below 1.

    >>> hits_at_k(Ranks(np.array([0, 2, 4]), np.array([0, 3, 0])), 3)
    array([1.  , 0.25, 0.  ])
    """
    check_number("k", k, "[1, inf)", integer=True)
    return np.clip((k - ranks.better) / (ranks.tied + 1), 0, 1)


def recall_at_k(ranks: Ranks, k: int) -> float:
    """Share of queries whose match is among the best k, in [0, 1]; NaN for no queries.

    Raises:
        InputError: k below 1.

    >>> recall_at_k(Ranks(np.array([0, 2, 7, 0]), np.array([0, 0, 0, 1])), 1)
    0.375
    """
    hits = hits_at_k(ranks, k)
    return float(hits.mean()) if len(hits) else float("nan")


def median_rank(ranks: Ranks) -> float:
    """Median of the expected ranks, 1 the best; NaN for no queries.

    >>> median_rank(Ranks(np.array([0, 2, 7]), np.array([0, 0, 0])))
    3.0
    """
    return float(np.median(ranks.expected)) if len(ranks.better) else float("nan")


def mean_reciprocal_rank(ranks: Ranks) -> float:
    """Mean of the expected 1/rank, in (0, 1]; NaN for no queries.

    >>> round(mean_reciprocal_rank(Ranks(np.array([0, 1]), np.array([0, 1]))), 3)
    0.708
    """
    return float(reciprocal_ranks(ranks).mean()) if len(ranks.better) else float("nan")


def reciprocal_ranks(ranks: Ranks) -> NDArray[np.float64]:
    """The expected 1/rank of each query's match, (q,), in (0, 1].

    >>> reciprocal_ranks(Ranks(np.array([0, 1]), np.array([0, 1]))).round(3)
    array([1.   , 0.417])
    """
    last = ranks.better + ranks.tied + 1
    harmonic = np.concatenate([[0], np.cumsum(1 / np.arange(1, last.max(initial=0) + 1))])
    values: NDArray[np.float64] = (harmonic[last] - harmonic[ranks.better]) / (ranks.tied + 1)
    return values


def mean_rank(ranks: Ranks) -> float:
    """Mean of the expected ranks, 1 the best; NaN for no queries.

    >>> mean_rank(Ranks(np.array([0, 2, 7]), np.array([0, 1, 0])))
    4.166666666666667
    """
    return float(ranks.expected.mean()) if len(ranks.better) else float("nan")


def average_precision(matches: Matches) -> NDArray[np.float64]:
    """Average precision of each query, (q,): the mean over its matches of the precision at the place of each.

    Candidates that tie are in every order equally often, and the mean over the orders is taken.

    Args:
        matches: the rank of every match.

    Returns:
        (q,) in (0, 1]; 1 where all matches come before all others. Their mean is mAP.

    Source: McSherry and Najork, "Computing information retrieval performance measures efficiently in the presence of tied
    scores", ECIR 2008.

    >>> average_precision(Matches(np.array([0, 0]), np.array([0, 3]), np.array([0, 0])))
    array([0.75])
    """
    query, better, tied = matches
    if not len(query):
        return np.zeros(0)
    order = np.lexsort((better, query))
    _, group, of_pair, size = np.unique(
        np.stack([query, better])[:, order], axis=1, return_index=True, return_inverse=True, return_counts=True
    )
    start = np.searchsorted(query[order], query[order])  # the query's first pair
    before, level = group[of_pair.reshape(-1)] - start, size[of_pair.reshape(-1)]
    first, count = better[order], tied[order] + 1.0
    last = better + tied + 1
    harmonic = np.concatenate([[0], np.cumsum(1 / np.arange(1, last.max() + 1))])
    reciprocal = harmonic[last[order]] - harmonic[first]  # Σ 1/(first + i) over the places i = 1 … count of the tie
    later = (level - 1) / np.maximum(count - 1, 1)  # of the tie's other places, the share that matches hold
    value = ((before + 1) * reciprocal + later * (count - (first + 1) * reciprocal)) / count
    return np.bincount(query[order], value) / np.bincount(query)


def discounted_gain(matches: Matches, k: int = 10) -> NDArray[np.float64]:
    """Normalised discounted cumulative gain among the best k of each query, (q,), with a gain of 1 for every match.

    A match at place i counts 1/log₂(1 + i); where candidates tie, the mean over their places.

    Args:
        matches: the rank of every match.
        k: how many places count.

    Returns:
        (q,) in [0, 1]; 1 where the first places, as many as there are matches and at most k, all hold matches. Their mean is
        nDCG@k.

    Raises:
        InputError: k below 1.

    Source: Järvelin and Kekäläinen 2002; ties as in McSherry and Najork 2008.

    >>> discounted_gain(Matches(np.array([0, 1]), np.array([0, 2]), np.array([0, 0]))).round(3)
    array([1. , 0.5])
    """
    check_number("k", k, "[1, inf)", integer=True)
    query, better, tied = matches
    discounts = np.concatenate([[0], np.cumsum(1 / np.log2(np.arange(2, k + 2)))])
    gain = (discounts[np.minimum(better + tied + 1, k)] - discounts[np.minimum(better, k)]) / (tied + 1)
    normalised: NDArray[np.float64] = np.bincount(query, gain) / discounts[np.minimum(np.bincount(query), k)]
    return normalised


def uniformity(vectors: Float[Tensor, "n d"], *, t: float = 2.0) -> float:
    """How evenly unit vectors cover the sphere: log of the mean of exp(−t‖x − y‖²) over all pairs, tile by tile.

    Args:
        vectors: (n, d), n ≥ 2.
        t: sharpness of the kernel; 2 in the paper.

    Returns:
        In [−4t, 0]; 0 when all coincide, about −2t when they are spread over many dimensions. Lower is more even.

    Raises:
        InputError: vectors that are not floating point of shape (n, d), or fewer than two.

    Source: Wang and Isola (arXiv 2005.10242).

    >>> round(uniformity(torch.eye(3)), 3)
    -4.0
    """
    _check_vectors(vectors, 2)
    x, n = vectors.detach().double(), len(vectors)
    length = (x * x).sum(1)
    # −t‖x − y‖² − t‖x‖² + … = 2t⟨x, y⟩ − t‖y‖²: a linear form. Each row's sum holds the pair of a vector with itself.
    rows = log_sums(Form(Linear(), (2 * t * x,), (x, -t * length))).rows - t * length
    return float(torch.log(torch.expm1(rows.clamp(min=0)).sum() / (n * (n - 1))).item())


def modality_gap(first: Float[Tensor, "n d"], second: Float[Tensor, "p d"]) -> float:
    """Distance between the centroids of two modalities' unit vectors.

    Args:
        first: (n, d).
        second: (p, d).

    Returns:
        In [0, 2]; 0 when the two clouds share their centre.

    Raises:
        InputError: vectors that are not floating point with two axes, or none.

    Source: Liang et al. (arXiv 2203.02053).

    >>> modality_gap(torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0]]))
    2.0
    """
    _check_vectors(first, 1)
    _check_vectors(second, 1)
    return float(torch.linalg.vector_norm(first.double().mean(0) - second.double().mean(0)).item())


def antipodal_share(first: Float[Tensor, "n d"], second: Float[Tensor, "n d"]) -> float:
    """Share of matched pairs whose cosine is negative: how far a sign-blind objective went astray.

    Args:
        first: (n, d).
        second: (n, d), row i the match of row i of `first`.

    Returns:
        In [0, 1]; about ½ when the pairs are unrelated.

    Raises:
        InputError: vectors that are not floating point with two axes, or none; or two different shapes.

    >>> antipodal_share(torch.eye(2), torch.tensor([[0.6, 0.8], [0.0, -1.0]]))
    0.5
    """
    _check_vectors(first, 1)
    if first.shape != second.shape:
        raise InputError(f"`first` and `second` must have one shape; got {tuple(first.shape)} and {tuple(second.shape)}.")
    return float(((first * second).sum(1) < 0).double().mean().item())


def effective_rank(vectors: Float[Tensor, "n d"]) -> float:
    """Number of dimensions the vectors use: exp of the entropy of their singular values' shares.

    Args:
        vectors: (n, d).

    Returns:
        In [1, min(n, d)]; 1 when all lie on one line, d when all directions have equal weight.

    Raises:
        InputError: vectors that are not floating point of shape (n, d), or none.

    Source: Roy and Vetterli, "The effective rank", EUSIPCO 2007.

    >>> round(effective_rank(torch.eye(3)), 3)
    3.0
    """
    _check_vectors(vectors, 1)
    rest = vectors.new_empty(0, vectors.shape[1], dtype=torch.float64)
    for rows in torch.split(vectors.detach(), max(4096, vectors.shape[1])):  # the triangle of a QR has the singular values
        rest = torch.linalg.qr(torch.cat([rest, rows.double()]), mode="r").R
    sigma = torch.linalg.svdvals(rest)
    return float(torch.special.entr(sigma / sigma.sum()).sum().exp().item())


def hubness(scores: Float[Tensor, "q n"] | Form, *, k: int = 10) -> float:
    """Skewness of how often each candidate is among a query's best k; of equal scores the lower column comes first.

    Args:
        scores: (q, n), higher is better; a form is read tile by tile.
        k: length of the lists; all n where n is smaller.

    Returns:
        0 when every candidate comes up equally often, or the counts lie symmetrically about their mean; large when a few
        candidates are on every query's list.

    Raises:
        InputError: scores without two axes or without entries, or k below 1.

    Source: Radovanović et al., "Hubs in space", JMLR 2010.

    >>> hubness(torch.eye(4), k=1)
    0.0
    """
    if len(scores.shape) != 2 or not all(scores.shape) or k < 1:
        raise InputError(f"`scores` must have shape (q, n) and `k` be at least 1; got {tuple(scores.shape)} and {k}.")
    _, best = top_k(Given.form(scores) if isinstance(scores, Tensor) else scores, k)
    occurrence = torch.bincount(best.flatten(), minlength=scores.shape[1]).double()
    deviation = occurrence - occurrence.mean()
    spread = deviation.square().mean().sqrt()
    return float((deviation.pow(3).mean() / spread**3).item()) if spread > 0 else 0.0


def _check_vectors(vectors: Tensor, least: int) -> None:
    if vectors.ndim != 2 or not vectors.is_floating_point() or len(vectors) < least:
        raise InputError(
            f"`vectors` must be floating point of shape (n, d) with n ≥ {least}; "
            f"got {vectors.dtype} of shape {tuple(vectors.shape)}."
        )
