"""`cone`: the best non-negative combination of an item's vectors, exact by active sets."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import torch
from torch import Tensor

from gramian.geometry import full_precision, safe_sqrt
from gramian.kernels import Form
from gramian.scores.sides import Items, Side, bounded, products, scored, sides, traced

__all__ = ["cone"]


@full_precision
def cone(queries: Items, items: Items) -> Tensor:
    """Cosine between the query and the convex cone of the item's vectors: the best non-negative combination of them.

    max over w ≥ 0 of aᵀ(Zᵀw) / ‖Zᵀw‖; for a query of several vectors the cosine of the angle between the two cones. Exact,
    by trying every linearly independent subset of the m vectors as the active set (2^m − 1 of them, and every pair of
    subsets for queries of several vectors). At least the largest cosine and at most the span's ‖P_M a‖. Gradients hold the
    best weights fixed, which is exact at a maximum; second derivatives are not defined. Vectors within a distance of √(1024 ε)
    of each other's span, 0.011 in float32, count as dependent: combinations of them are left out.

    Args:
        queries: q items.
        items: n items.

    Returns:
        (q, n) in [−1, 1]; the cosine for one modality.

    >>> from gramian import Bundle
    >>> item = Bundle.from_dict({"a": [[1.0, 0.0, 0.0]], "b": [[0.0, 1.0, 0.0]]})
    >>> cone(torch.tensor([[0.6, 0.8, 0.0], [0.6, -0.8, 0.0]]), item)
    tensor([[1.0000],
            [0.6000]])
    """
    Q, M = sides(queries, items)
    return scored(cone_form(Q, M), Q, M)


def cone_form(Q: Side, M: Side) -> Form:
    """The form of `cone`; the side of fewer vectors asks."""
    return traced(_cone if Q.width <= M.width else lambda Q, M: _cone(M, Q).T, Q, M)


def _cone(Q: Side, M: Side) -> Tensor:
    cosines, G = products(Q.vectors, M.vectors), M.gram()
    if Q.width == 1:
        with torch.no_grad():
            w = _weights(cosines.squeeze(2), G, M.present)
        inner = (w * cosines.squeeze(2)).sum(-1)
        length = safe_sqrt(((w.unsqueeze(-2) @ G).squeeze(-2) * w).sum(-1))
    else:
        H = Q.gram()
        with torch.no_grad():
            v, w = _pair_weights(cosines, H, G, Q.present, M.present)
        inner = torch.einsum("qni,qnij,qnj->qn", v, cosines, w)
        length = safe_sqrt(torch.einsum("qni,qij,qnj->qn", v, H, v)) * safe_sqrt(torch.einsum("qni,nij,qnj->qn", w, G, w))
    length = length.masked_fill(length == 0, 1)  # nothing present: 0/0 has a NaN gradient even where it is hidden
    return bounded(inner / length)


def _weights(cosines: Tensor, G: Tensor, present: Tensor) -> Tensor:
    """Non-negative weights (q, n, m), the largest of them 1, of the combination of each item's vectors nearest to each query.

    The projection on a cone lies inside the cone of some linearly independent subset S of the generators, where it is the
    projection on span S: w = G_S⁻¹ c_S, w > 0, squared length c_Sᵀ w. Every subset with w > 0 gives a point of the cone, so
    the largest is the maximum. Where no vector agrees with the query, the nearest generator is.
    """
    m = cosines.shape[-1]
    best, nearest = cosines.masked_fill(~present, -torch.inf).max(-1)
    weights = torch.nn.functional.one_hot(nearest, m).to(cosines.dtype)
    best = best.clamp(min=0).square()
    for S, inverse, usable in _independent(G, present, 2):
        c = cosines[..., S]
        w = (c.unsqueeze(-2) @ inverse).squeeze(-2)
        squared = (c * w).sum(-1)
        better = usable & (w > 0).all(-1) & (squared > best)
        best = torch.where(better, squared, best)
        candidate = torch.zeros_like(weights)
        candidate[..., S] = w
        weights = torch.where(better[..., None], candidate, weights)
    return weights / weights.amax(-1, keepdim=True)


def _pair_weights(cosines: Tensor, H: Tensor, G: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (q, n, k) and (q, n, m) of the two nearest points of two cones, by every pair of active sets.

    Inside the cones of S and T the nearest directions are the leading canonical pair of their spans: v = H_S⁻¹ C w / σ with
    (σ², w) the leading eigenpair of G_T⁻¹ Cᵀ H_S⁻¹ C. It counts where all its weights have one sign. A bilinear form on two
    spheres has no local maximum but the global one, so that the largest such σ is the maximum; where no pair of vectors
    agrees, the nearest pair is.
    """
    k, m = cosines.shape[-2:]
    there = first[:, None, :, None] & second[:, None, :]
    best, nearest = cosines.masked_fill(~there, -torch.inf).flatten(2).max(-1)
    v = torch.nn.functional.one_hot(nearest // m, k).to(cosines.dtype)
    w = torch.nn.functional.one_hot(nearest % m, m).to(cosines.dtype)
    best = best.clamp(min=0)
    for S, H_inverse, S_usable in _independent(H, first, 1):
        for T, G_inverse, T_usable in _independent(G, second, 1):
            if len(S) == len(T) == 1:
                continue
            C = cosines[..., S, :][..., T]
            safe = torch.where((S_usable[:, None] & T_usable)[..., None, None], C, 0)
            left = torch.linalg.cholesky_ex(H_inverse.where(S_usable[:, None, None], 0)).L  # H⁻¹ = L Lᵀ
            right = torch.linalg.cholesky_ex(G_inverse.where(T_usable[:, None, None], 0)).L
            whitened = left.mT[:, None].nan_to_num() @ safe @ right.nan_to_num()
            _, U = torch.linalg.eigh(whitened.mT @ whitened)
            lead = U[..., -1:]
            other = whitened @ lead
            sigma = torch.linalg.vector_norm(other, dim=-2, keepdim=True)
            a = (left[:, None].nan_to_num() @ (other / sigma.masked_fill(sigma == 0, 1))).squeeze(-1)
            b = (right.nan_to_num() @ lead).squeeze(-1)
            sign = torch.where(b.sum(-1, keepdim=True) < 0, -1, 1)
            a, b, sigma = a * sign, b * sign, sigma[..., 0, 0]
            better = (S_usable[:, None] & T_usable) & (a > 0).all(-1) & (b > 0).all(-1) & (sigma > best)
            best = torch.where(better, sigma, best)
            v_new, w_new = torch.zeros_like(v), torch.zeros_like(w)
            v_new[..., S], w_new[..., T] = a, b
            v, w = torch.where(better[..., None], v_new, v), torch.where(better[..., None], w_new, w)
    return v / v.amax(-1, keepdim=True), w / w.amax(-1, keepdim=True)


def _independent(G: Tensor, present: Tensor, least: int) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Subsets S of at least `least` vectors, the inverses of their Gram matrices (n, s, s), and whether to use them (n,)."""
    m = G.shape[-1]
    tolerance = 1024 * torch.finfo(G.dtype).eps
    for size in range(least, m + 1):
        for subset in combinations(range(m), size):
            S = list(subset)
            inverse, failed = torch.linalg.inv_ex(G[:, S][:, :, S])
            # Its diagonal holds 1/distance² of each vector to the span of the others: unlike the determinant, a measure of
            # independence that does not shrink with the number of well-aligned vectors.
            distance_squared = 1 / inverse.diagonal(dim1=-2, dim2=-1)
            yield S, inverse, present[:, S].all(-1) & (failed == 0) & (distance_squared > tolerance).all(-1)
