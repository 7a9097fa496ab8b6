"""Queries × items → (q, n), higher is better: how well one vector agrees with all the vectors of an item.

Every score takes `queries` (q, d) and `items`, a Bundle of n items with m modalities or an (n, d) tensor (one modality). An
item's missing vectors are never read; an item with nothing present scores −∞. Queries are scaled to unit length here. Work
is done in float32 or better. No (q, n, m, m) tensor is built and no determinant is taken per pair.

| score | range | best | sign-aware | own volume of the item |
| --- | --- | --- | --- | --- |
| `cosine` | [−1, 1] | mean or largest cosine is 1 | yes | – |
| `centroid` | [−1, 1] | query = direction of the item's sum | yes | – |
| `volume` (GRAM) | [−1, 0] | linearly dependent tuple | no | a factor: biases the ranking |
| `span` | [−1, 1] | query in the span, on the centroid's side | yes (it jumps) | divided out |
| `cone` | [−1, 1] | query is a non-negative combination | yes (continuous) | divided out |

Items with different numbers of modalities: every further vector widens an item's span and its cone, so `span` and `cone` (and
`volume`) can only rise with it and favour complete items; `centroid` and the mean `cosine` do not.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from gramian.bundle import Bundle
from gramian.errors import InputError, check_choice
from gramian.geometry import direction, full_precision, gram_matrix, orthogonalize, safe_sqrt, unit

__all__ = ["SCORES", "Score", "ScoreName", "centroid", "cone", "cosine", "span", "volume"]

Score: TypeAlias = Callable[[Tensor, "Bundle | Tensor"], Tensor]
"""Queries (q, d) × n items → (q, n), higher is better."""

ScoreName: TypeAlias = Literal["span", "cone", "centroid", "cosine", "volume"]


@full_precision
def cosine(queries: Tensor, items: Bundle | Tensor, *, reduce: Literal["mean", "max"] = "mean") -> Tensor:
    """Mean or largest cosine between the query and the item's present vectors.

    Args:
        queries: (q, d).
        items: n items.
        reduce: over the modalities of an item.

    Returns:
        (q, n) in [−1, 1].

    >>> cosine(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]))
    tensor([[1.0000, 0.6000, 0.0000]])
    """
    check_choice("reduce", reduce, ("mean", "max"))
    a, Z, present = _read(queries, items)
    cosines = _products(a, Z)
    if reduce == "max":
        return cosines.masked_fill(~present, -torch.inf).amax(-1)
    mean = cosines.sum(-1) / present.sum(-1).clamp(min=1)
    return _hide_empty(mean, present)


@full_precision
def centroid(queries: Tensor, items: Bundle | Tensor) -> Tensor:
    """Cosine between the query and the sum of the item's present vectors; 0 where that sum vanishes.

    Args:
        queries: (q, d).
        items: n items.

    Returns:
        (q, n) in [−1, 1].
    """
    a, Z, present = _read(queries, items)
    return _hide_empty(a @ direction(Z.sum(1)).T, present)


@full_precision
def volume(queries: Tensor, items: Bundle | Tensor) -> Tensor:
    """GRAM: minus the volume of the parallelotope of the query and the item's vectors.

    V(a, M) = V(M) · √(1 − ‖P_M a‖²) by the Schur complement, with P_M the projector on the span of the item's vectors. The
    factor V(M) knows nothing of the query: it puts the same few items first for every query. Sign-blind: −a scores as a.

    Args:
        queries: (q, d).
        items: n items.

    Returns:
        (q, n) in [−1, 0]; 0 when query and item are linearly dependent.

    Source: GRAM (arXiv 2412.11959).

    >>> volume(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.6, 0.8, 0.0]]))
    tensor([[-0.8000]])
    """
    a, Z, present = _read(queries, items)
    basis, distances = orthogonalize(Z, present)
    inside = _products(a, basis).square().sum(-1)
    return _hide_empty(-distances.prod(-1) * safe_sqrt(1 - inside), present)


@full_precision
def span(queries: Tensor, items: Bundle | Tensor, *, signed: bool = True) -> Tensor:
    """Cosine between the query and the span of the item's vectors, ‖P_M a‖: the volume without the item's own factor.

    √(1 − span²) is V(a, M) / V(M). The sign is that of the agreement with the sum of the item's vectors, so that one modality
    gives the cosine; it jumps where that agreement vanishes: a score to rank by, not to train.

    Args:
        queries: (q, d).
        items: n items.
        signed: False leaves the sign out: the same ranking as the volume divided by the item's own.

    Returns:
        (q, n) in [−1, 1] ([0, 1] unsigned).
    """
    a, Z, present = _read(queries, items)
    projected = torch.linalg.vector_norm(_products(a, orthogonalize(Z, present).basis), dim=-1).clamp(max=1)
    if signed:
        projected = torch.where(a @ Z.sum(1).T < 0, -projected, projected)
    return _hide_empty(projected, present)


@full_precision
def cone(queries: Tensor, items: Bundle | Tensor) -> Tensor:
    """Cosine between the query and the convex cone of the item's vectors: the best non-negative combination of them.

    max over w ≥ 0 of aᵀ(Zᵀw) / ‖Zᵀw‖. Exact, by trying every linearly independent subset of the m vectors as the active set
    (2^m − 1 of them). At least the largest cosine and at most the span's ‖P_M a‖. Gradients hold the best weights fixed, which
    is exact at a maximum; second derivatives are not defined.

    Args:
        queries: (q, d).
        items: n items.

    Returns:
        (q, n) in [−1, 1]; the cosine for one modality.

    >>> item = Bundle.from_dict({"a": [[1.0, 0.0, 0.0]], "b": [[0.0, 1.0, 0.0]]})
    >>> cone(torch.tensor([[0.6, 0.8, 0.0], [0.6, -0.8, 0.0]]), item)
    tensor([[1.0000],
            [0.6000]])
    """
    a, Z, present = _read(queries, items)
    G = gram_matrix(Z, present)
    cosines = _products(a, Z)
    with torch.no_grad():
        weights = _cone_weights(cosines, G, present)
    length = safe_sqrt(((weights.unsqueeze(-2) @ G).squeeze(-2) * weights).sum(-1))
    length = length.masked_fill(length == 0, 1)  # nothing present: 0/0 has a NaN gradient even where it is hidden
    return _hide_empty((weights * cosines).sum(-1) / length, present)


SCORES: dict[str, Score] = {"span": span, "cone": cone, "centroid": centroid, "cosine": cosine, "volume": volume}
"""The scores by name."""

SIGN_BLIND: frozenset[str] = frozenset({"volume"})
"""Scores that do not tell a vector from its negative."""


def _read(queries: Tensor, items: Bundle | Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Unit queries (q, d), item vectors (n, m, d), mask (n, m), all in one floating type of at least 32 bits."""
    if queries.ndim != 2 or not queries.is_floating_point():
        raise InputError(
            f"`queries` must be floating point of shape (q, d); got {queries.dtype} of shape {tuple(queries.shape)}."
        )
    if isinstance(items, Tensor):
        if items.ndim != 2:
            raise InputError(f"`items` must be a Bundle or a tensor of shape (n, d); got shape {tuple(items.shape)}.")
        vectors, present = unit(_promote(items)).unsqueeze(1), items.new_ones(len(items), 1, dtype=torch.bool)
    else:
        vectors, present = items.vectors, items.present
    if vectors.shape[-1] != queries.shape[1]:
        raise InputError(f"`queries` and `items` must share the width d; got {queries.shape[1]} and {vectors.shape[-1]}.")
    dtype = torch.promote_types(torch.promote_types(queries.dtype, vectors.dtype), torch.float32)
    return unit(queries.to(dtype)), vectors.to(dtype).masked_fill(~present[..., None], 0), present


def _promote(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _products(a: Tensor, rows: Tensor) -> Tensor:
    """Inner products of (q, d) with (n, m, d) → (q, n, m), as one matrix product."""
    n, m, d = rows.shape
    return (a @ rows.reshape(n * m, d).T).reshape(len(a), n, m)


def _hide_empty(scores: Tensor, present: Tensor) -> Tensor:
    return scores.masked_fill(~present.any(-1), -torch.inf)


def _cone_weights(cosines: Tensor, G: Tensor, present: Tensor) -> Tensor:
    """Non-negative weights (q, n, m), the largest of them 1, of the combination of each item's vectors nearest to each query.

    The projection on a cone lies inside the cone of some linearly independent subset S of the generators, where it is the
    projection on span S: w = G_S⁻¹ c_S, w > 0, squared length c_Sᵀ w. Every subset with w > 0 gives a point of the cone, so
    the largest is the maximum. Where no vector agrees with the query, the nearest generator is.
    """
    m = cosines.shape[-1]
    tolerance = 1024 * torch.finfo(G.dtype).eps
    best, nearest = cosines.masked_fill(~present, -torch.inf).max(-1)
    weights = torch.nn.functional.one_hot(nearest, m).to(cosines.dtype)
    best = best.clamp(min=0).square()
    for size in range(2, m + 1):
        for subset in combinations(range(m), size):
            S = list(subset)
            inverse, failed = torch.linalg.inv_ex(G[:, S][:, :, S])
            # Its diagonal holds 1/distance² of each vector to the span of the others: unlike the determinant, a measure of
            # independence that does not shrink with the number of well-aligned vectors.
            distance_squared = 1 / inverse.diagonal(dim1=-2, dim2=-1)
            usable = present[:, S].all(-1) & (failed == 0) & (distance_squared > tolerance).all(-1)
            c = cosines[..., S]
            w = (c.unsqueeze(-2) @ inverse).squeeze(-2)
            squared = (c * w).sum(-1)
            better = usable & (w > 0).all(-1) & (squared > best)
            best = torch.where(better, squared, best)
            candidate = torch.zeros_like(weights)
            candidate[..., S] = w
            weights = torch.where(better[..., None], candidate, weights)
    return weights / weights.amax(-1, keepdim=True)
