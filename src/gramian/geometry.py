"""One tuple at a time: the Gram matrix of an item's modality vectors and what follows from it.

All functions take `vectors` (..., m, d) with unit rows and an optional `present` (..., m) bool mask, and work in float32 or
better. Rows that are not present are never read. Values and gradients are finite everywhere: identical, orthogonal,
antipodal, missing vectors and m = d included.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from gramian.errors import InputError
from gramian.factorisations import full_precision, gram_schmidt, normalized, safe_sqrt, spectral

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

__all__ = [
    "gram_matrix",
    "leading_direction",
    "lorentz_volume",
    "singular_values",
    "span_basis",
    "spectral_entropy_rank",
    "triangle_area",
    "volume",
]


@full_precision
def gram_matrix(vectors: Float[Tensor, "... m d"], present: Bool[Tensor, "... m"] | None = None) -> Float[Tensor, "... m m"]:
    """Inner products of the vectors of each tuple: G = Z Zᵀ.

    Args:
        vectors: (..., m, d).
        present: (..., m) bool; rows and columns of missing vectors are zero.

    Returns:
        (..., m, m), symmetric; ones on the diagonal where unit vectors are present.

    >>> gram_matrix(torch.tensor([[1.0, 0.0], [0.6, 0.8]]))
    tensor([[1.0000, 0.6000],
            [0.6000, 1.0000]])
    """
    Z = _masked(vectors, present)
    return Z @ Z.mT


def volume(vectors: Float[Tensor, "... m d"], present: Bool[Tensor, "... m"] | None = None) -> Float[Tensor, "..."]:
    """Volume of the parallelotope that the vectors span: V = √det(Z Zᵀ).

    For unit vectors V lies in [0, 1]: 0 when they are linearly dependent, 1 when they are orthogonal; |sin θ| for two. It is
    the product of each vector's distance to the span of those before it, which keeps full precision near 0, where the
    determinant loses half the digits. A missing vector contributes the factor 1.

    Args:
        vectors: (..., m, d).
        present: (..., m) bool.

    Returns:
        (...).

    Source: GRAM.

    >>> volume(torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]]))
    tensor(0.8000)
    """
    return orthogonalize(vectors, present).volume


def span_basis(vectors: Float[Tensor, "... m d"], present: Bool[Tensor, "... m"] | None = None) -> Float[Tensor, "... m d"]:
    """Orthonormal basis of the span of the vectors.

    Args:
        vectors: (..., m, d).
        present: (..., m) bool.

    Returns:
        (..., m, d): orthonormal rows; a zero row where the vector is missing or depends on those before it.

    >>> span_basis(torch.tensor([[1.0, 0.0], [0.6, 0.8]])).round(decimals=4)
    tensor([[1., 0.],
            [0., 1.]])
    """
    return orthogonalize(vectors, present).basis


@full_precision
def singular_values(vectors: Float[Tensor, "... m d"], present: Bool[Tensor, "... m"] | None = None) -> Float[Tensor, "... m"]:
    """Singular values of each tuple's matrix Z, largest first: square roots of the eigenvalues of Z Zᵀ.

    For k unit vectors Σσ² = k; σ = (√k, 0, …) when they all coincide (up to sign), all ones when they are orthogonal.
    Values below √ε of the working type are rounding noise.

    Args:
        vectors: (..., m, d).
        present: (..., m) bool.

    Returns:
        (..., m); the last m − k are zero where k vectors are present.

    Source: PMRL.

    >>> singular_values(torch.tensor([[1.0, 0.0], [0.28, 0.96]]))
    tensor([1.1314, 0.8485])
    """
    sigma = spectral(_masked(vectors, present), scaled=False)[0]
    if present is None:
        return sigma
    beyond = torch.arange(sigma.shape[-1], device=sigma.device) >= present.sum(-1, keepdim=True)
    return sigma.masked_fill(beyond, 0)


@full_precision
def leading_direction(
    vectors: Float[Tensor, "... m d"], present: Bool[Tensor, "... m"] | None = None
) -> Float[Tensor, "... d"]:
    """Direction on which the tuple agrees most: the right singular vector of Z for σ₁.

    u = Zᵀ w₁ / σ₁ with w₁ the leading eigenvector of Z Zᵀ. The sign of a singular vector is arbitrary; here it agrees with
    the sum of the vectors or, where u is orthogonal to the sum, as for any two vectors at an obtuse angle, with the first
    vector.

    Args:
        vectors: (..., m, d).
        present: (..., m) bool.

    Returns:
        (..., d), unit length; zero where nothing is present.

    Source: PMRL.

    >>> leading_direction(torch.tensor([[0.6, 0.8], [0.6, 0.8], [0.8, -0.6]]))
    tensor([0.6000, 0.8000])
    """
    return spectrum(vectors, present)[1]


@full_precision
def spectrum(
    vectors: Float[Tensor, "... m d"], present: Bool[Tensor, "... m"] | None = None
) -> tuple[Float[Tensor, "... m"], Float[Tensor, "... d"]]:
    """`singular_values` (..., m) and `leading_direction` (..., d) by one factorisation, of rows scaled to unit length."""
    return spectral(_masked(vectors, present), scaled=True)


@full_precision
def spectral_entropy_rank(
    vectors: Float[Tensor, "... m d"], present: Bool[Tensor, "... m"] | None = None
) -> Float[Tensor, "..."]:
    """How many directions the tuple spreads over: exp of the entropy of its energy shares σᵢ²/Σσ².

    For k unit vectors in [1, k]: 1 when they coincide up to sign, k when they are orthogonal.

    Args:
        vectors: (..., m, d).
        present: (..., m) bool.

    Returns:
        (...); 1 where nothing is present.

    Source: Roy and Vetterli, "The effective rank", EUSIPCO 2007, take the entropy of the shares of σ; shares of energy weigh
    small singular values less.

    >>> spectral_entropy_rank(torch.eye(3)).round(decimals=4)
    tensor(3.)
    """
    energy = singular_values(vectors, present).square()
    share = energy / energy.sum(-1, keepdim=True).clamp(min=torch.finfo(energy.dtype).tiny)
    # x log x has an infinite slope at 0, where its value is 0: there the share is a constant.
    positive = share > torch.finfo(share.dtype).eps
    entropy: Tensor = -(share * share.where(positive, 1).log()).sum(-1)
    return entropy.exp()


def triangle_area(vectors: Float[Tensor, "... m d"], present: Bool[Tensor, "... m"] | None = None) -> Float[Tensor, "..."]:
    """Area of the triangle between the end points of three vectors: ½ √(‖u‖²‖v‖² − (u·v)²), u and v two of its sides.

    For unit vectors in [0, ¾√3]: 0 when two of them coincide, largest when they point 120° apart in one plane. A missing
    third vector counts as orthogonal to the other two, as in the volume.

    Args:
        vectors: (..., m, d).
        present: (..., m) bool, at most three per tuple.

    Returns:
        (...); 0 where fewer than two vectors are present.

    Raises:
        InputError: a tuple of more than three vectors.

    Source: TRIANGLE.

    >>> triangle_area(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])).round(decimals=4)
    tensor(1.)
    """
    Z = _masked(vectors, present)
    mask = torch.ones(Z.shape[:-1], dtype=torch.bool, device=Z.device) if present is None else present
    count = mask.sum(-1)
    check_triangle(count)
    squared = edge_volume(Z, mask).square()
    squared = squared + (count == 2) * orthogonalize(Z, mask).volume.square()
    return safe_sqrt(squared).masked_fill(count < 2, 0) / 2


def check_triangle(count: Int[Tensor, "..."]) -> None:
    """Check that no tuple has more than three vectors.

    Raises:
        InputError: one has.
    """
    if count.numel() and int(count.max()) > 3:
        raise InputError(f"`triangle` needs tuples of at most three vectors; got one of {int(count.max())}. Select modalities.")


def lorentz_volume(
    vectors: Float[Tensor, "... m d"], present: Bool[Tensor, "... m"] | None = None, *, curvature: float = 1.0
) -> Float[Tensor, "..."]:
    """Volume of the tuple lifted to hyperbolic space: √|det G_L|, G_L the Lorentz inner products of the lifted vectors.

    A unit vector z becomes the point (cosh r, z sinh r)/r with r = √curvature, its image under the exponential map at the
    origin. With D the squared volume of the parallelotope of the edges zᵢ − z₁ and V that of the vectors themselves,
    |det G_L| = (sinh²r)^(k−1) (D cosh²r − V² sinh²r) / r^2k, which needs no Lorentz product and is never negative. It is 0
    when two vectors coincide and, unlike V, not when one is the negative of another.

    Args:
        vectors: (..., m, d).
        present: (..., m) bool.
        curvature: minus the curvature of the space.

    Returns:
        (...), ≥ 0; 1/r where one vector is present, 1 where none is.

    Raises:
        InputError: a curvature outside (0, 400].

    Source: HyperGRAM (CVPR 2026), which mixes it with the Euclidean volume.

    >>> lorentz_volume(torch.tensor([[1.0, 0.0], [1.0, 0.0]])), lorentz_volume(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])) > 2
    (tensor(0.), tensor(True))
    """
    Z = _masked(vectors, present)
    mask = torch.ones(Z.shape[:-1], dtype=torch.bool, device=Z.device) if present is None else present
    edges, own = edge_volume(Z, mask).square(), orthogonalize(Z, mask).volume.square()
    return lorentz(edges, own, mask.sum(-1), curvature)


def check_curvature(curvature: float) -> None:
    """Check that the hyperbolic sine stays within the range of float32.

    Raises:
        InputError: a curvature outside (0, 400].
    """
    if not 0 < curvature <= 400:
        raise InputError(f"`curvature` must lie in (0, 400]; got {curvature}.")


def lorentz(
    edges: Float[Tensor, "..."], own: Float[Tensor, "..."], count: Int[Tensor, "..."], curvature: float
) -> Float[Tensor, "..."]:
    """`lorentz_volume` of tuples of `count` vectors from the squared volumes of their edges and of the vectors themselves."""
    check_curvature(curvature)
    r = curvature**0.5
    sinh, cosh = math.sinh(r), math.cosh(r)
    scale = (sinh / r) ** (count - 1).to(edges.dtype) / r
    lifted: Tensor = scale * safe_sqrt(edges * cosh**2 - own * sinh**2)
    return lifted.masked_fill(count == 0, 1)


@full_precision
def edge_volume(vectors: Float[Tensor, "... m d"], present: Bool[Tensor, "... m"]) -> Float[Tensor, "..."]:
    """Volume of the parallelotope of the edges from a tuple's first vector to its others; (k − 1)! times the simplex's."""
    _, edges, mask = edges_of(_masked(vectors, present), present)
    return orthogonalize(edges, mask).volume


def edges_of(
    Z: Float[Tensor, "... m d"], present: Bool[Tensor, "... m"]
) -> tuple[Float[Tensor, "... d"], Float[Tensor, "... m d"], Bool[Tensor, "... m"]]:
    """First present vector (..., d) of each tuple, the others minus it (..., m, d), and the mask (..., m) of these edges."""
    first = torch.cumsum(present, -1).eq(1) & present
    base = (Z * first[..., None]).sum(-2)
    mask = present & ~first
    return base, (Z - base.unsqueeze(-2)).masked_fill(~mask[..., None], 0), mask


class Orthogonalization(NamedTuple):
    """Gram–Schmidt of each tuple: (..., m, d) orthonormal basis and (..., m) distances to the span of the vectors before."""

    basis: Float[Tensor, "... m d"]
    distances: Float[Tensor, "... m"]

    @property
    def volume(self) -> Float[Tensor, "..."]:
        """(...), the product of the distances."""
        product: Tensor = self.distances.prod(-1)
        return product


@full_precision
def orthogonalize(vectors: Float[Tensor, "... m d"], present: Bool[Tensor, "... m"] | None = None) -> Orthogonalization:
    """Gram–Schmidt over the m vectors, masked; a vector within rounding of the span before it counts as dependent."""
    Z = _masked(vectors, present)
    mask = torch.ones(Z.shape[:-1], dtype=torch.bool, device=Z.device) if present is None else present
    batch, (m, d) = Z.shape[:-2], Z.shape[-2:]
    basis, distances = gram_schmidt(Z.reshape(-1, m, d), mask.reshape(-1, m))
    return Orthogonalization(basis.reshape(*batch, m, d), distances.reshape(*batch, m))


def widened(values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """`values` in float32 at least: 16-bit types are too coarse for lengths and long sums."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def direction(x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
    """A sum of unit vectors `x` (..., d) scaled to unit length; the zero vector where its length is rounding noise."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    noise = length <= 32 * torch.finfo(x.dtype).eps
    scaled: Tensor = x.masked_fill(noise, 0) / length.masked_fill(noise, 1)
    return scaled


def unit(vectors: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
    """`vectors` (..., d) scaled to unit length however long or short they are; zero where they are zero."""
    return normalized(vectors)[0]


def _masked(vectors: Tensor, present: Tensor | None) -> Tensor:
    if vectors.ndim < 2 or not vectors.is_floating_point():
        raise InputError(
            f"`vectors` must be floating point of shape (..., m, d); got {vectors.dtype} of shape {tuple(vectors.shape)}."
        )
    Z = widened(vectors)
    if present is None:
        return Z
    if present.dtype != torch.bool or present.shape != Z.shape[:-1]:
        raise InputError(
            f"`present` must be bool of shape {tuple(Z.shape[:-1])}; got {present.dtype} of shape {tuple(present.shape)}."
        )
    return Z if present.all() else Z.masked_fill(~present[..., None], 0)
