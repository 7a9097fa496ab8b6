"""One tuple at a time: the Gram matrix of an item's modality vectors and what is read off it.

All functions take `vectors` (..., m, d) with unit rows and an optional `present` (..., m) bool mask, and work in float32 or
better. Rows that are not present are never read. Values and gradients are finite everywhere: identical, orthogonal,
antipodal, missing vectors and m = d included.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor

from gramian.errors import InputError

__all__ = ["gram_matrix", "leading_direction", "singular_values", "span_basis", "volume"]


P = ParamSpec("P")
R = TypeVar("R")


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Run `function` outside of autocast, whose 16-bit products 1 − cos² does not survive."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        tensor = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
        with torch.autocast("cpu" if tensor is None else tensor.device.type, enabled=False):
            return function(*args, **kwargs)

    return run


@full_precision
def gram_matrix(vectors: Tensor, present: Tensor | None = None) -> Tensor:
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


def volume(vectors: Tensor, present: Tensor | None = None) -> Tensor:
    """Volume of the parallelotope that the vectors span: V = √det(Z Zᵀ).

    For unit vectors V lies in [0, 1]: 0 when they are linearly dependent, 1 when they are orthogonal; |sin θ| for two. It is
    the product of each vector's distance to the span of those before it, which keeps full precision near 0, where the
    determinant loses half the digits. A missing vector contributes the factor 1.

    Args:
        vectors: (..., m, d).
        present: (..., m) bool.

    Returns:
        (...).

    Source: GRAM (arXiv 2412.11959).

    >>> volume(torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]]))
    tensor(0.8000)
    """
    return orthogonalize(vectors, present).volume


def span_basis(vectors: Tensor, present: Tensor | None = None) -> Tensor:
    """Orthonormal basis of the span of the vectors.

    Args:
        vectors: (..., m, d).
        present: (..., m) bool.

    Returns:
        (..., m, d): orthonormal rows; a zero row where the vector is missing or depends on those before it.

    >>> span_basis(torch.tensor([[1.0, 0.0], [0.6, 0.8]]))
    tensor([[1., 0.],
            [0., 1.]])
    """
    return orthogonalize(vectors, present).basis


@full_precision
def singular_values(vectors: Tensor, present: Tensor | None = None) -> Tensor:
    """Singular values of each tuple's matrix Z, largest first: square roots of the eigenvalues of Z Zᵀ.

    For k unit vectors Σσ² = k; σ = (√k, 0, …) when they all coincide (up to sign), all ones when they are orthogonal.
    Values below √ε of the working type are rounding noise.

    Args:
        vectors: (..., m, d).
        present: (..., m) bool.

    Returns:
        (..., m); the last m − k are zero where k vectors are present.

    Source: PMRL (arXiv 2507.17343).

    >>> singular_values(torch.tensor([[1.0, 0.0], [0.28, 0.96]]))
    tensor([1.1314, 0.8485])
    """
    eigenvalues, _ = _symmetric_eigen(gram_matrix(vectors, present))
    sigma = safe_sqrt(eigenvalues)
    if present is None:
        return sigma
    beyond = torch.arange(sigma.shape[-1], device=sigma.device) >= present.sum(-1, keepdim=True)
    return sigma.masked_fill(beyond, 0)


@full_precision
def leading_direction(vectors: Tensor, present: Tensor | None = None) -> Tensor:
    """Direction the tuple agrees on most: the right singular vector of Z that belongs to σ₁.

    u = Zᵀ w₁ / σ₁ with w₁ the leading eigenvector of Z Zᵀ. A singular vector has no sign of its own; this one is chosen to
    agree with the sum of the vectors, or where it is orthogonal to the sum, as for any two vectors at an obtuse angle, with
    the first of them.

    Args:
        vectors: (..., m, d).
        present: (..., m) bool.

    Returns:
        (..., d), unit length; zero where nothing is present.

    Source: PMRL (arXiv 2507.17343).

    >>> leading_direction(torch.tensor([[0.6, 0.8], [0.6, 0.8], [0.8, -0.6]]))
    tensor([0.6000, 0.8000])
    """
    Z = _masked(vectors, present)
    _, eigenvectors = _symmetric_eigen(Z @ Z.mT)
    u = (eigenvectors[..., :, 0].unsqueeze(-2) @ Z).squeeze(-2)
    with torch.no_grad():
        earlier_first = 0.5 ** torch.arange(Z.shape[-2], dtype=Z.dtype, device=Z.device)
        along = (Z @ u.unsqueeze(-1)).squeeze(-1)
        agreement = along.sum(-1, keepdim=True)
        undecided = agreement.abs() < torch.finfo(Z.dtype).eps ** 0.5
        agreement = torch.where(undecided, (along * earlier_first).sum(-1, keepdim=True), agreement)
    return direction(torch.where(agreement < 0, -u, u))


class Orthogonalization(NamedTuple):
    """Gram–Schmidt of each tuple: (..., m, d) orthonormal basis and (..., m) distances to the span of the vectors before."""

    basis: Tensor
    distances: Tensor

    @property
    def volume(self) -> Tensor:
        """(...), the product of the distances."""
        product: Tensor = self.distances.prod(-1)
        return product


@full_precision
def orthogonalize(vectors: Tensor, present: Tensor | None = None) -> Orthogonalization:
    """Gram–Schmidt over the m vectors, masked; a vector within rounding of the span before it counts as dependent."""
    Z = _masked(vectors, present)
    there = torch.ones(Z.shape[:-1], dtype=torch.bool, device=Z.device) if present is None else present
    # Unit vectors carry rounding errors of a few ε; a residual below this is noise and has no direction.
    tolerance = 32 * torch.finfo(Z.dtype).eps
    basis: list[Tensor] = []
    distances: list[Tensor] = []
    for i in range(Z.shape[-2]):
        residual = Z[..., i, :]
        if basis:
            Q = torch.stack(basis, -2)
            for _ in range(2):  # one pass leaves errors of ε/distance; twice is enough (Kahan, Parlett)
                residual = residual - ((Q @ residual.unsqueeze(-1)) * Q).sum(-2)
        distance = torch.linalg.vector_norm(residual, dim=-1)
        independent = distance > tolerance
        basis.append(residual.where(independent[..., None], 0) / distance.where(independent, 1)[..., None])
        distances.append(distance.where(independent, 0).where(there[..., i], 1))
    return Orthogonalization(torch.stack(basis, -2), torch.stack(distances, -1))


def safe_sqrt(x: Tensor) -> Tensor:
    """√x where x ≥ ε; the chord x/√ε on [0, ε), where a squared length is rounding noise; 0 below. Finite slope everywhere."""
    eps = torch.finfo(x.dtype).eps
    chord: Tensor = x.clamp(min=0) / eps**0.5
    return torch.where(x > eps, x.clamp(min=eps).sqrt(), chord)


def direction(x: Tensor) -> Tensor:
    """A sum of unit vectors `x` (..., d) scaled to unit length; the zero vector where its length is rounding noise."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    noise = length <= 32 * torch.finfo(x.dtype).eps
    scaled: Tensor = x.masked_fill(noise, 0) / length.masked_fill(noise, 1)
    return scaled


def unit(vectors: Tensor) -> Tensor:
    """`vectors` (..., d) scaled to unit length however long or short they are; zero where they are zero."""
    # Dividing by the largest entry first keeps the squares of very small and very large rows in range.
    largest = vectors.detach().abs().amax(-1, keepdim=True)
    scaled = vectors / torch.where(largest > 0, largest, 1)
    length = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    normal: Tensor = scaled / torch.where(length > 0, length, 1)
    return normal


def _masked(vectors: Tensor, present: Tensor | None) -> Tensor:
    if vectors.ndim < 2 or not vectors.is_floating_point():
        raise InputError(
            f"`vectors` must be floating point of shape (..., m, d); got {vectors.dtype} of shape {tuple(vectors.shape)}."
        )
    Z = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    if present is None:
        return Z
    if present.dtype != torch.bool or present.shape != Z.shape[:-1]:
        raise InputError(
            f"`present` must be bool of shape {tuple(Z.shape[:-1])}; got {present.dtype} of shape {tuple(present.shape)}."
        )
    return Z.masked_fill(~present[..., None], 0)


class _SymmetricEigen(torch.autograd.Function):
    """Eigenvalues, largest first, and eigenvectors of symmetric matrices, with a gradient that is finite at repeated ones.

    The derivative of an eigenvector divides by the differences of the eigenvalues. Between eigenvalues that agree to
    rounding any rotation of their eigenvectors serves as well, so that the derivative along it is taken as zero.
    """

    @staticmethod
    def forward(ctx: Any, G: Tensor) -> tuple[Tensor, Tensor]:
        eigenvalues, eigenvectors = torch.linalg.eigh(G)
        eigenvalues, eigenvectors = eigenvalues.flip(-1), eigenvectors.flip(-1)
        ctx.save_for_backward(eigenvalues, eigenvectors)
        return eigenvalues, eigenvectors

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_values: Tensor, grad_vectors: Tensor) -> Tensor:
        eigenvalues, W = ctx.saved_tensors
        gaps = eigenvalues.unsqueeze(-2) - eigenvalues.unsqueeze(-1)
        repeated = gaps.abs() <= 128 * torch.finfo(W.dtype).eps
        F = torch.where(repeated, 0, 1 / gaps.masked_fill(repeated, 1))
        inner = torch.diag_embed(grad_values) + F * (W.mT @ grad_vectors)
        grad: Tensor = W @ inner @ W.mT
        return (grad + grad.mT) / 2


def _symmetric_eigen(G: Tensor) -> tuple[Tensor, Tensor]:
    eigenvalues, eigenvectors = _SymmetricEigen.apply(G)  # type: ignore[no-untyped-call]
    return eigenvalues, eigenvectors
