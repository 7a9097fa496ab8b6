"""`cone`: the best non-negative combination of an item's vectors, exact by active sets."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from gramian.factorisations import full_precision, safe_sqrt
from gramian.kernels import Form, Traced
from gramian.scores.sides import Items, Side, products, scored, sides

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["cone"]

BLOCK = 2**15
"""Pairs computed at a time where no graph is kept: the hundred or so passes over them stay in the cache."""

Parts: TypeAlias = tuple[Tensor, ...]
Subset: TypeAlias = tuple[list[int], Tensor]
"""Indices of s vectors, and an (n, s, s) matrix of each item."""


@full_precision
def cone(queries: Items, items: Items) -> Float[Tensor, "q n"]:
    """Cosine between the query and the convex cone of the item's vectors: the best non-negative combination of them.

    max over w ≥ 0 of aᵀ(Zᵀw) / ‖Zᵀw‖; for a query of several vectors the cosine of the angle between the two cones. Exact,
    by trying every linearly independent subset of the m vectors as the active set (2^m − 1 of them; for queries of several
    vectors, every pair of subsets). At least the largest cosine and at most the span's ‖P_M a‖. Gradients hold the
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
    """The form of `cone`; the side with fewer vectors is the query.

    What depends on one side alone, its Gram matrix and its active sets, is computed once and is a part of that side.
    """
    query, item, swapped = (Q, M, False) if Q.width <= M.width else (M, Q, True)
    H, G = query.gram(), item.gram()
    function: Callable[[Parts, Parts], Tensor]
    first: Parts
    second: Parts
    if query.width == 1:
        function, first, second = _of_one, (query.vectors[:, 0],), (*item, G, _active_sets(item, G, 2))
    else:
        function = partial(_of_several, query.width, item.width)
        first = (*query, H, _roots(_active_sets(query, H, 1), query.width))
        second = (*item, G, _roots(_active_sets(item, G, 1), item.width))
    entries = 4 * query.width * item.width
    if swapped:
        return Form(Traced(lambda queries, items: function(items, queries).T, entries=entries), second, first, -1, 1)
    return Form(Traced(function, entries=entries), first, second, -1, 1)


def _of_one(queries: Parts, items: Parts) -> Tensor:
    """(b, c) cosines of one vector each with the items' cones."""
    (a,), (vectors, present, G, inverses) = queries, items
    cosines = [a @ z.T for z in vectors.unbind(1)]
    # The numbers of all items lie side by side: multiplying a table by rows is many times faster than by strided columns.
    present, inverses, G = present.T.contiguous(), inverses.T.contiguous(), G.permute(1, 2, 0).contiguous()
    if torch.is_grad_enabled():
        return _combined(cosines, present, G, inverses)
    rows = max(1, BLOCK // max(1, len(vectors)))
    blocks = zip(*(torch.split(table, rows) for table in cosines), strict=True)
    return torch.cat([_combined(list(block), present, G, inverses) for block in blocks])


def _combined(cosines: list[Tensor], present: Tensor, G: Tensor, inverses: Tensor) -> Tensor:
    """The best combination's cosine, (b, c), from those of the m vectors; all sums run over (b, c) tables, one per vector."""
    with torch.no_grad():
        w = _weights(cosines, present, inverses)
    inner, squared = torch.zeros_like(cosines[0]), torch.zeros_like(cosines[0])
    for i, w_i in enumerate(w):
        inner = inner + w_i * cosines[i]
        squared = squared + w_i * sum((G[i, j] * w_j for j, w_j in enumerate(w)), start=torch.zeros_like(inner))
    return _ratio(inner, safe_sqrt(squared))


def _of_several(k: int, m: int, queries: Parts, items: Parts) -> Tensor:
    """(b, c) cosines of the cones of k vectors with those of m."""
    (A, query_mask, H, H_roots), (Z, item_mask, G, G_roots) = queries, items
    cosines = products(A, Z)
    with torch.no_grad():
        v, w = _pair_weights(cosines, _unpack(H_roots, k, 1), _unpack(G_roots, m, 1), query_mask, item_mask)
    inner = torch.einsum("qni,qnij,qnj->qn", v, cosines, w)
    length = safe_sqrt(torch.einsum("qni,qij,qnj->qn", v, H, v)) * safe_sqrt(torch.einsum("qni,nij,qnj->qn", w, G, w))
    return _ratio(inner, length)


def _ratio(inner: Tensor, length: Tensor) -> Tensor:
    # Nothing present: 0/0 has a NaN gradient even where it is hidden.
    return inner / length.masked_fill(length == 0, 1)


def _weights(cosines: list[Tensor], present: Tensor, inverses: Tensor) -> list[Tensor]:
    """Non-negative weights, m tables (b, c), the largest of them 1, of the combination of an item's vectors nearest to a query.

    The projection on a cone lies inside the cone of some linearly independent subset S of the generators, where it is the
    projection on span S: w = G_S⁻¹ c_S, w > 0, squared length c_Sᵀ w. Every subset with w > 0 gives a point of the cone, so
    the largest is the maximum. Where no vector agrees with the query, the nearest generator is. The inverses of dependent
    subsets are zero, whose weights are not positive.
    """
    m = len(cosines)
    masked = [c.masked_fill(~mask, -torch.inf) for c, mask in zip(cosines, present, strict=True)]
    best = masked[0]
    for c in masked[1:]:
        best = torch.maximum(best, c)
    free, weights = torch.ones_like(best, dtype=torch.bool), []
    for c in masked:
        nearest = (c == best).logical_and_(free)
        free = free.logical_and_(~nearest)
        weights.append(nearest.to(best.dtype))
    best = best.clamp(min=0).square_()
    for S, inverse in _unpack(inverses.T, m, 2):
        solution = {}
        squared, better = torch.zeros_like(best), None
        for a, row in zip(S, inverse.permute(1, 2, 0), strict=True):
            w = cosines[S[0]] * row[0]
            for b, entry in zip(S[1:], row[1:], strict=True):
                w.addcmul_(cosines[b], entry)
            squared.addcmul_(cosines[a], w)
            better = w > 0 if better is None else better.logical_and_(w > 0)
            solution[a] = w
        assert better is not None
        taken = better.logical_and_(squared > best).to(best.dtype)  # 0 or 1, at which lerp is exact
        best.lerp_(squared, taken)
        for j, w in enumerate(weights):
            w.lerp_(solution[j], taken) if j in solution else w.addcmul_(w, taken, value=-1)
    largest = weights[0]
    for w in weights[1:]:
        largest = torch.maximum(largest, w)
    scale = largest.reciprocal()
    return [w * scale for w in weights]


def _pair_weights(
    cosines: Tensor, firsts: list[Subset], seconds: list[Subset], query_mask: Tensor, item_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Weights (b, c, k) and (b, c, m) of the two nearest points of two cones, by every pair of active sets.

    Inside the cones of S and T the nearest directions are the leading canonical pair of their spans: v = H_S⁻¹ C w / σ with
    (σ², w) the leading eigenpair of G_T⁻¹ Cᵀ H_S⁻¹ C. It counts where all its weights have one sign. A bilinear form on two
    spheres has no local maximum but the global one, so that the largest such σ is the maximum; where no pair of vectors
    agrees, the nearest pair is. The roots of dependent subsets are zero, whose weights are not positive.

    Args:
        cosines: (b, c, k, m).
        firsts: the subsets S of the query's vectors, and roots L of their inverses, H_S⁻¹ = L Lᵀ.
        seconds: the same for the item's.
        query_mask: (b, k), which vectors the queries have.
        item_mask: (c, m), which vectors the items have.
    """
    k, m = cosines.shape[-2:]
    mask = query_mask[:, None, :, None] & item_mask[:, None, :]
    best, nearest = cosines.masked_fill(~mask, -torch.inf).flatten(2).max(-1)
    v = torch.nn.functional.one_hot(nearest // m, k).to(cosines.dtype)
    w = torch.nn.functional.one_hot(nearest % m, m).to(cosines.dtype)
    best = best.clamp(min=0)
    for S, left in firsts:
        for T, right in seconds:
            if len(S) == len(T) == 1:
                continue
            whitened = left.mT[:, None] @ cosines[..., S, :][..., T] @ right
            _, U = torch.linalg.eigh(whitened.mT @ whitened)
            lead = U[..., -1:]
            other = whitened @ lead
            sigma = torch.linalg.vector_norm(other, dim=-2, keepdim=True)
            a = (left[:, None] @ (other / sigma.masked_fill(sigma == 0, 1))).squeeze(-1)
            b = (right @ lead).squeeze(-1)
            sign = torch.where(b.sum(-1, keepdim=True) < 0, -1, 1)
            a, b, sigma = a * sign, b * sign, sigma[..., 0, 0]
            better = (a > 0).all(-1) & (b > 0).all(-1) & (sigma > best)
            best = torch.where(better, sigma, best)
            v_new, w_new = torch.zeros_like(v), torch.zeros_like(w)
            v_new[..., S], w_new[..., T] = a, b
            v, w = torch.where(better[..., None], v_new, v), torch.where(better[..., None], w_new, w)
    return v / v.amax(-1, keepdim=True), w / w.amax(-1, keepdim=True)


@torch.no_grad()
def _active_sets(side: Side, G: Tensor, least: int) -> Tensor:
    """Inverses of the Gram matrices of all subsets of at least `least` vectors, side by side, (n, Σ s²).

    Zero where the subset is not all present, or not independent.
    """
    tolerance = 1024 * torch.finfo(G.dtype).eps
    inverses = [G.new_empty(len(G), 0)]
    for S in _subsets(G.shape[-1], least):
        inverse, failed = torch.linalg.inv_ex(G[:, S][:, :, S])
        # Its diagonal holds 1/distance² of each vector to the span of the others: unlike the determinant, a measure of
        # independence that does not shrink with the number of well-aligned vectors.
        distance_squared = 1 / inverse.diagonal(dim1=-2, dim2=-1)
        usable = side.present[:, S].all(-1) & (failed == 0) & (distance_squared > tolerance).all(-1)
        inverses.append(inverse.masked_fill(~usable[:, None, None], 0).flatten(1))
    return torch.cat(inverses, 1)


@torch.no_grad()
def _roots(inverses: Tensor, m: int) -> Tensor:
    """Cholesky factors of the inverses, laid out alike; zero for those that are zero."""
    roots = [torch.linalg.cholesky_ex(inverse).L.nan_to_num() for _, inverse in _unpack(inverses, m, 1)]
    return torch.cat([root.flatten(1) for root in roots], 1)


def _unpack(flat: Tensor, m: int, least: int) -> list[Subset]:
    """The subsets and their matrices, of the layout of `_active_sets`."""
    subsets = _subsets(m, least)
    parts = torch.split(flat, [len(S) ** 2 for S in subsets], 1) if subsets else ()
    return [(S, part.reshape(-1, len(S), len(S))) for S, part in zip(subsets, parts, strict=True)]


def _subsets(m: int, least: int) -> list[list[int]]:
    return [list(S) for size in range(least, m + 1) for S in combinations(range(m), size)]
