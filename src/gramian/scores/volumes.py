"""Scores from volumes: of the joint tuple, of its edges, of its lift to hyperbolic space.

All of them factorise. With P the projector on the span of an item's vectors, V(a, M) = V(M) · √(1 − ‖Pa‖²) for one vector a;
for several, the second factor is the root of the determinant of their k×k residual Gram matrix. The volume of the edges
zᵢ − z₁ of a tuple factorises in the same way over the item's own edges. So one matrix product with the items' orthonormal
bases gives all pairs, without an m×m determinant per pair.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gramian.errors import check_number
from gramian.factorisations import full_precision, safe_sqrt
from gramian.geometry import check_triangle, edges_of, lorentz, orthogonalize
from gramian.kernels import Form, Projection, Residual, Traced
from gramian.scores.sides import Items, Side, products, scored, sides, traced

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["negative_hyperbolic_volume", "negative_triangle_area", "negative_volume", "span"]


@full_precision
def negative_volume(queries: Items, items: Items) -> Float[Tensor, "q n"]:
    """GRAM: minus the volume of the parallelotope of the vectors of query and item.

    V(a, M) = V(M) · √(1 − ‖P_M a‖²) by the Schur complement, with P_M the projector on the span of the item's vectors. The
    factor V(M) does not depend on the query: it ranks the same few items first for every query. Sign-blind: −a scores like a.

    Args:
        queries: q items.
        items: n items.

    Returns:
        (q, n) in [−1, 0]; 0 when query and item are linearly dependent.

    Source: GRAM.

    >>> negative_volume(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.6, 0.8, 0.0]]))
    tensor([[-0.8000]])
    """
    Q, M = sides(queries, items)
    return scored(volume_form(Q, M), Q, M)


def volume_form(Q: Side, M: Side) -> Form:
    """The form of `negative_volume`."""
    if Q.width > 1:
        return traced(lambda Q, M: -safe_sqrt(_own(Q, M)), Q, M, -1, 0, entries=Q.width * (Q.width + M.width))
    own = orthogonalize(M.vectors, M.present)
    return Form(Residual(M.width), (Q.vectors.squeeze(1),), (-own.volume, own.basis), -1, 0)


@full_precision
def span(queries: Items, items: Items, *, signed: bool = True) -> Float[Tensor, "q n"]:
    """Cosine between the query and the span of the item's vectors, ‖P_M a‖: the volume without the item's own factor.

    √(1 − span²) is V(Q, M) / (V(Q) V(M)), also for a query of several vectors, where it is the product of the sines of the
    principal angles between the two spans. The sign is that of the inner product of the two sums, so that one modality gives
    the cosine; it jumps where that product vanishes: a score to rank by, not to train.

    Args:
        queries: q items.
        items: n items.
        signed: False omits the sign: the same ranking as the volume divided by the item's own.

    Returns:
        (q, n) in [−1, 1] ([0, 1] unsigned).

    >>> from gramian import Bundle
    >>> item = Bundle.from_dict({"a": [[1.0, 0.0, 0.0]], "b": [[0.0, 1.0, 0.0]]})
    >>> span(torch.tensor([[0.36, 0.48, 0.8]]), item)
    tensor([[0.6000]])
    """
    Q, M = sides(queries, items)
    return scored(span_form(Q, M, signed=signed), Q, M)


def span_form(Q: Side, M: Side, *, signed: bool = True) -> Form:
    """The form of `span`."""
    basis, low = orthogonalize(M.vectors, M.present).basis, -1 if signed else 0
    if Q.width == 1:
        # The sum lies in the span, so ⟨a, Σz⟩ = Σ ⟨a, bₖ⟩⟨bₖ, Σz⟩ costs no further product.
        side = ((basis @ M.sum.unsqueeze(-1)).squeeze(-1).detach(),) if signed else ()
        return Form(Projection(M.width), (Q.vectors.squeeze(1),), (basis.new_ones(len(basis)), basis, *side), low, 1)

    def between_spans(queries: tuple[Tensor, ...], items: tuple[Tensor, ...]) -> Tensor:
        B = products(queries[0], items[0])
        identity = torch.eye(B.shape[-2], dtype=B.dtype, device=B.device)
        projected = safe_sqrt(1 - determinant(identity - B @ B.mT).clamp(max=1))
        return torch.where(queries[1] @ items[1].T < 0, -projected, projected) if signed else projected

    rule = Traced(between_spans, entries=Q.width * (Q.width + M.width))
    return Form(rule, (orthogonalize(Q.vectors, Q.present).basis, Q.sum), (basis, M.sum), low, 1)


@full_precision
def negative_triangle_area(queries: Items, items: Items, *, squared: bool = False) -> Float[Tensor, "q n"]:
    """TRIANGLE: minus the area of the triangle whose corners are the end points of three vectors of query and item.

    ½ √(‖u‖²‖v‖² − (u·v)²) with u, v two sides. It is 0 as soon as two of the three vectors coincide, whatever the third does.
    Where only two vectors are present, the third counts as orthogonal to both, like a missing one in the volume; the ranking
    is then that of the cosine.

    Args:
        queries: q items.
        items: n items; query and item have at most three vectors together.
        squared: whether to give 2·area², which the published code optimises.

    Returns:
        (q, n) in [−¾√3, 0]; squared in [−27/8, 0].

    Raises:
        InputError: more than three vectors in a tuple.

    Source: TRIANGLE.

    >>> from gramian import Bundle
    >>> item = Bundle.from_dict({"a": [[0.0, 1.0]], "b": [[-1.0, 0.0]]})
    >>> negative_triangle_area(torch.tensor([[1.0, 0.0]]), item).round(decimals=4)
    tensor([[-1.]])
    """
    Q, M = sides(queries, items)
    return scored(triangle_form(Q, M, squared=squared), Q, M)


def triangle_form(Q: Side, M: Side, *, squared: bool = False) -> Form:
    """The form of `negative_triangle_area`."""
    if len(Q.present) and len(M.present):
        check_triangle(Q.number.max() + M.number.max())

    def area(Q: Side, M: Side) -> Tensor:
        two = Q.number[:, None] + M.number == 2
        area = (_edge_residual(Q, M) + _own(Q, M) * two).clamp(min=0)  # 4·area²
        return -area / 2 if squared else -safe_sqrt(area) / 2

    low = -27 / 8 if squared else -0.75 * 3**0.5
    return traced(area, Q, M, low, 0, entries=Q.width * (Q.width + M.width))


@full_precision
def negative_hyperbolic_volume(
    queries: Items, items: Items, *, alpha: float | Float[Tensor, ""] = 0.5, curvature: float = 1.0
) -> Float[Tensor, "q n"]:
    """HyperGRAM: minus α times the Euclidean volume and 1 − α times that of the tuple lifted to hyperbolic space.

    The second is `gramian.geometry.lorentz_volume`. It distinguishes a vector from its negative, and so does the mixture unless
    α is 1. Both parts carry factors of the item's own.

    Args:
        queries: q items.
        items: n items.
        alpha: weight of the Euclidean volume, in [0, 1]; learned in the paper.
        curvature: minus the curvature of the hyperbolic space. The vectors have unit length here, so every point lies at
            distance 1 from the origin.

    Returns:
        (q, n), at most 0.

    Raises:
        InputError: α outside [0, 1], or a curvature outside (0, 400].

    Source: HyperGRAM (CVPR 2026).

    >>> vector = torch.tensor([[1.0, 0.0]])
    >>> negative_hyperbolic_volume(vector, vector), negative_hyperbolic_volume(vector, -vector) < -1
    (tensor([[-0.]]), tensor([[True]]))
    """
    if not isinstance(alpha, Tensor):
        check_number("alpha", alpha, "[0, 1]")
    Q, M = sides(queries, items)
    return scored(hyperbolic_form(Q, M, alpha=alpha, curvature=curvature), Q, M)


def hyperbolic_form(Q: Side, M: Side, *, alpha: float | Float[Tensor, ""] = 0.5, curvature: float = 1.0) -> Form:
    """The form of `negative_hyperbolic_volume`."""
    alpha = torch.as_tensor(alpha, dtype=M.vectors.dtype, device=M.vectors.device)

    def mixed(queries: tuple[Tensor, ...], items: tuple[Tensor, ...]) -> Tensor:
        Q, M, alpha = Side(*queries), Side(*items[:2]), items[2]
        own = _own(Q, M)
        lifted = lorentz(_edge_residual(Q, M), own, Q.number[:, None] + M.number, curvature)
        return -(alpha * safe_sqrt(own) + (1 - alpha) * lifted)

    rule = Traced(mixed, entries=Q.width * (Q.width + M.width))
    return Form(rule, tuple(Q), (*M, alpha.expand(len(M.vectors))), -math.inf, 0)


def _own(Q: Side, M: Side) -> Tensor:
    """Squared volume of the joint tuple, (q, n)."""
    own = orthogonalize(M.vectors, M.present)
    return _residual(Q, own.basis) * own.volume.square()


def _residual(Q: Side, basis: Tensor) -> Tensor:
    """V(Q, M)² / V(M)², (q, n): determinant of the query's Gram matrix less its projection on the span of `basis`."""
    B = products(Q.vectors, basis)
    return determinant(_unit_where_missing(Q.gram()[:, None] - B @ B.mT, Q))


def _edge_residual(Q: Side, M: Side) -> Tensor:
    """Squared volume of the edges of the joint tuple, (q, n), taken from the item's first vector b.

    The item's own edges give one factor; the query's edges q − b give the determinant of the Gram matrix of their residuals.
    """
    base, edges, mask = edges_of(M.vectors, M.present)
    basis, distances = orthogonalize(edges, mask)
    to_base = products(Q.vectors, base.unsqueeze(1)).squeeze(-1)  # (q, n, k)
    length = (base * base).sum(-1)
    gram = Q.gram()[:, None] - to_base.unsqueeze(-1) - to_base.unsqueeze(-2) + length[:, None, None]
    B = products(Q.vectors, basis) - (basis @ base.unsqueeze(-1)).mT
    return determinant(_unit_where_missing(gram - B @ B.mT, Q)) * distances.prod(-1).square()


def _unit_where_missing(gram: Tensor, Q: Side) -> Tensor:
    """(q, n, k, k) with the row and column of the identity where the query lacks the vector."""
    mask = (Q.present[:, :, None] & Q.present[:, None, :])[:, None]
    return gram.where(mask, torch.eye(Q.width, dtype=gram.dtype, device=gram.device))


def determinant(R: Float[Tensor, "... k k"]) -> Float[Tensor, "..."]:
    """Determinants of small positive semidefinite matrices (..., k, k) by elimination; pivots within rounding of 0 are 0.

    It works elementwise over the pairs, and its gradient is finite at singular matrices, unlike that of a general determinant.
    """
    tolerance = 32 * torch.finfo(R.dtype).eps
    product = R[..., 0, 0]
    for _ in range(R.shape[-1] - 1):
        pivot, rest = R[..., :1, :1], R[..., 1:, :1]
        usable = pivot > tolerance
        R = R[..., 1:, 1:] - (rest @ rest.mT).where(usable, 0) / pivot.where(usable, 1)
        product = product.clamp(min=0) * R[..., 0, 0]
    return product
