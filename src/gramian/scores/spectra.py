"""`spectral`: the largest singular value of the joint tuple."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gramian.factorisations import full_precision, safe_sqrt
from gramian.geometry import singular_values
from gramian.kernels import Form
from gramian.scores.sides import Items, Side, products, scored, sides, traced

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["spectral"]


@full_precision
def spectral(queries: Items, items: Items, *, normalized: bool = False) -> Float[Tensor, "q n"]:
    """Share of the joint tuple's energy along its leading direction: σ₁/√k, with k vectors in query and item together.

    1 when all vectors lie on one line, 1/√k when they are orthogonal. Like PMRL's alignment it is sign-blind, and it rises
    with the agreement of the item's vectors among themselves: a factor of the item's own. `normalized` removes that factor:
    what the union adds to the larger of the two leading eigenvalues, (λ₁(Q ∪ M) − max(λ₁(Q), λ₁(M))) / min(λ₁(Q), λ₁(M)).

    Args:
        queries: q items.
        items: n items.
        normalized: whether to give the gain instead; |cosine| for one vector against one.

    Returns:
        (q, n) in (0, 1]; normalized in [0, 1], 1 when the two leading directions coincide up to sign.

    Gradients hold the leading eigenvector fixed (Hellmann–Feynman), which is exact; second derivatives are not defined.

    Source: PMRL maximises σ₁ of each item's tuple.

    >>> vector = torch.tensor([[1.0, 0.0]])
    >>> spectral(vector, torch.tensor([[-1.0, 0.0], [0.28, 0.96]])).round(decimals=4)
    tensor([[1.0000, 0.8000]])
    """
    Q, M = sides(queries, items)
    return scored(spectral_form(Q, M, normalized=normalized), Q, M)


def spectral_form(Q: Side, M: Side, *, normalized: bool = False) -> Form:
    """The form of `spectral`."""
    return traced(lambda Q, M: _spectral(Q, M, normalized), Q, M, 0, 1, entries=(Q.width + M.width) ** 2)


def _spectral(Q: Side, M: Side, normalized: bool) -> Tensor:
    first, second, cosines = Q.gram(), M.gram(), products(Q.vectors, M.vectors)
    v, w = _leading_weights(cosines, first, second)
    largest = (
        torch.einsum("qni,qij,qnj->qn", v, first, v)
        + 2 * torch.einsum("qni,qnij,qnj->qn", v, cosines, w)
        + torch.einsum("qni,nij,qnj->qn", w, second, w)
    )
    if not normalized:
        count = (Q.number[:, None] + M.number).clamp(min=1)
        return safe_sqrt(largest / count)
    alone = [singular_values(side.vectors, side.present)[:, 0].square() for side in (Q, M)]
    larger, smaller = torch.maximum(alone[0][:, None], alone[1]), torch.minimum(alone[0][:, None], alone[1])
    gain: Tensor = (largest - larger).clamp(min=0) / smaller.masked_fill(smaller == 0, 1)
    return gain


@torch.no_grad()
def _leading_weights(cosines: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Leading eigenvector of each joint Gram matrix, (q, n, k) and (q, n, m)."""
    q, n, k, m = cosines.shape
    if not cosines.numel():
        return cosines.new_zeros(q, n, k), cosines.new_zeros(q, n, m)
    top = torch.cat([first[:, None].expand(-1, n, -1, -1), cosines], -1)
    bottom = torch.cat([cosines.mT, second.expand(q, -1, -1, -1)], -1)
    lead = torch.linalg.eigh(torch.cat([top, bottom], -2)).eigenvectors[..., -1]
    return lead[..., :k], lead[..., k:]
