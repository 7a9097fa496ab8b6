"""Unit lengths and two factorisations of each tuple's matrix, with hand-written backward passes, and the root of all scores.

Under autograd the same formulas take several times as long, and their gradients are infinite at dependent vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from gramian.memory import ALLOCATOR

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

__all__ = ["full_precision", "gram_schmidt", "normalized", "safe_sqrt", "safe_sqrt_slope", "spectral"]

P = ParamSpec("P")
R = TypeVar("R")


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Run `function` outside autocast, whose 16-bit products are too coarse for 1 − cos²."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        # A Bundle has vectors, Tokens have values.
        operands = (getattr(value, "vectors", getattr(value, "values", value)) for value in (*args, *kwargs.values()))
        tensor = next((value for value in operands if isinstance(value, Tensor)), None)
        with torch.autocast("cpu" if tensor is None else tensor.device.type, enabled=False):
            return function(*args, **kwargs)

    return run


def safe_sqrt(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """√x where x ≥ ε; the chord x/√ε on [0, ε), where a squared length is rounding noise; 0 below. Finite slope everywhere."""
    eps = torch.finfo(x.dtype).eps
    chord: Tensor = x.clamp(min=0) / eps**0.5
    return torch.where(x > eps, x.clamp(min=eps).sqrt(), chord)


def safe_sqrt_slope(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The slope of `safe_sqrt`: 1/(2√x) where x > ε, 1/√ε on [0, ε], 0 below."""
    eps = torch.finfo(x.dtype).eps
    return torch.where(x > eps, 0.5 / x.clamp(min=eps).sqrt(), (x >= 0) / eps**0.5)


def normalized(x: Float[Tensor, "... d"]) -> tuple[Float[Tensor, "... d"], Float[Tensor, "... 1"]]:
    """Rows scaled to unit length however long or short they are, and their lengths. A zero row stays zero.

    Where a length exceeds the type's range, it is infinite and its row still right.
    """
    y, length = _Normalized.apply(x)  # type: ignore[no-untyped-call]
    return y, length


def gram_schmidt(Z: Float[Tensor, "n m d"], mask: Bool[Tensor, "n m"]) -> tuple[Float[Tensor, "n m d"], Float[Tensor, "n m"]]:
    """Orthonormal basis of the rows of Z that `mask` has, in their order, and each row's distance to those before it.

    A row that is missing, or within rounding of the span of those before it, has a zero row in the basis; it neither receives
    nor passes on a gradient. The distance is 1 for a missing row and 0 for a dependent one.
    """
    basis, distances = _GramSchmidt.apply(Z, mask)  # type: ignore[no-untyped-call]
    return basis, distances


def spectral(Z: Float[Tensor, "... m d"], *, scaled: bool) -> tuple[Float[Tensor, "... m"], Float[Tensor, "... d"]]:
    """Singular values of Z, largest first; with `scaled` those of Z with its rows at unit length, and the leading direction.

    Without `scaled` the direction is empty. Its sign is as `gramian.geometry.leading_direction` says.
    """
    sigma, u = _Spectrum.apply(Z, scaled)  # type: ignore[no-untyped-call]
    return sigma, u


class _Normalized(torch.autograd.Function):
    """y = x/‖x‖, ∂L/∂x = (g − ⟨g, y⟩ y)/‖x‖: one new tensor each way, which may be differentiated again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        y = torch.div(x, length, out=ALLOCATOR.out(x.shape, x, length))
        # The squares of other rows may leave the type's range: those are divided by their largest entry first.
        short = torch.finfo(x.dtype).tiny ** 0.25
        unsafe = ~((length > short) & (length < 1 / short)).squeeze(-1)
        if unsafe.any():
            rows = x[unsafe]
            largest = rows.abs().amax(-1, keepdim=True)
            scaled = rows / largest.where(largest != 0, 1)
            rest = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
            y[unsafe], length[unsafe] = scaled / rest.where(rest != 0, 1), largest * rest
        ctx.save_for_backward(y, length)
        return y, length

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, grad_length: Tensor | None) -> Tensor | None:
        y, length = ctx.saved_tensors
        along = None if grad_length is None else grad_length * y
        if grad is None:
            return along
        inverse = 1 / length.where(length != 0, 1).clamp(min=torch.finfo(length.dtype).tiny)
        along_y = torch.linalg.vecdot(grad, y).unsqueeze(-1)
        turn = torch.addcmul(grad, y, along_y, value=-1, out=ALLOCATOR.out(y.shape, y, grad)).mul_(inverse)
        return turn if along is None else turn + along


class _GramSchmidt(torch.autograd.Function):
    """Z = L Q with L lower triangular: the basis Q and the diagonal of L, with the gradient of a triangular factorisation."""

    @staticmethod
    def forward(ctx: Any, Z: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        # Unit vectors carry rounding errors of a few ε; a residual below this is noise and has no direction.
        tolerance = 32 * torch.finfo(Z.dtype).eps
        Q = ALLOCATOR.empty(Z, Z.shape)
        L = torch.eye(Z.shape[-2], dtype=Z.dtype, device=Z.device).repeat(*Z.shape[:-2], 1, 1)
        distances = Z.new_ones(Z.shape[:-1])
        independent = torch.zeros_like(mask)
        for i in range(Z.shape[-2]):
            residual = Q[..., i : i + 1, :].copy_(Z[..., i : i + 1, :])  # in place: new memory costs more than the products
            before = Q[..., :i, :]
            along = torch.zeros_like(L[..., i : i + 1, :i])
            for _ in range(2 if i else 0):  # one pass leaves errors of ε/distance; twice is enough (Kahan, Parlett)
                more = residual @ before.mT
                for j in range(i):  # in place as well, where one product of all would be a new tensor
                    residual.addcmul_(more[..., j : j + 1], before[..., j : j + 1, :], value=-1)
                along += more
            distance = torch.linalg.vector_norm(residual, dim=-1)
            usable = distance > tolerance
            independent[..., i] = usable[..., 0]
            scale = torch.where(usable, 1 / distance.where(usable, 1), 0)
            residual *= scale.unsqueeze(-1)
            L[..., i : i + 1, :i] = along.where(usable.unsqueeze(-1), 0)
            L[..., i, i] = distance.where(usable, 1)[..., 0]
            distances[..., i] = distance.where(usable, 0)[..., 0].where(mask[..., i], 1)
        ctx.save_for_backward(Q, L, distances, independent)
        return Q, distances

    @staticmethod
    @torch.autograd.function.once_differentiable
    @full_precision
    def backward(ctx: Any, grad_basis: Tensor, grad_distances: Tensor) -> tuple[Tensor, None]:
        Q, L, distances, independent = ctx.saved_tensors
        # Within its span Q may only turn against the rows before it, which fix the triangle; outside it L⁻¹ dZ moves Q.
        turn = (grad_basis @ Q.mT).where(independent[..., None], 0)
        along = (grad_distances * distances).where(independent, 0) + turn.diagonal(dim1=-2, dim2=-1)
        turn = torch.diag_embed(along) - turn.tril() - turn.tril().mT
        identity = torch.eye(Q.shape[-2], dtype=Q.dtype, device=Q.device).expand_as(L)
        inverse = torch.linalg.solve_triangular(L, identity, upper=False).mT
        grad = torch.bmm(inverse * independent.unsqueeze(-2), grad_basis, out=ALLOCATOR.out(Q.shape, Q, grad_basis))
        return grad.baddbmm_(inverse @ turn, Q), None


class _Spectrum(torch.autograd.Function):
    """`spectral` from the eigenvectors W of the Gram matrix G.

    u = Zᵀw/σ₁, w = w₁ with its sign. The backward pass makes no (d, d) matrix, and no derivative of an eigenvector but that of
    w: with g the gradient of u and q = Zg/σ₁,

    ∂L/∂Z = S Z + w gᵀ/σ₁,  S = W diag(∂L/∂λ) Wᵀ·2 + v wᵀ + w vᵀ,  v = Σⱼ wⱼ ⟨wⱼ, q⟩ / (λ₁ − λⱼ) − w ⟨w, q⟩ / 2λ₁.

    Eigenvectors whose eigenvalues agree to rounding are defined up to a rotation, so the derivative along it is taken as zero.
    The lengths of vectors rounded to 16 bits differ slightly, and then the sum of two is not orthogonal to their difference:
    that is why the lengths are divided out here.
    """

    @staticmethod
    def forward(ctx: Any, Z: Tensor, scaled: bool) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        G = Z @ Z.mT
        if not scaled:
            eigenvalues, W = torch.linalg.eigh(G)
            ctx.save_for_backward(Z, eigenvalues, W)
            return safe_sqrt(eigenvalues).flip(-1), Z.new_empty(0)
        length = G.diagonal(dim1=-2, dim2=-1).sqrt()
        shorten = length.reciprocal().masked_fill_(length == 0, 0)
        G *= shorten.unsqueeze(-1) * shorten.unsqueeze(-2)
        eigenvalues, W = torch.linalg.eigh(G)
        sigma = safe_sqrt(eigenvalues)
        largest = sigma[..., -1:]  # at least 1 where a vector is present
        w = W[..., -1]
        agreement = w.sum(-1, keepdim=True)
        undecided = (agreement * largest).abs() < torch.finfo(Z.dtype).eps ** 0.5
        if undecided.any():
            earlier_first = 0.5 ** torch.arange(Z.shape[-2], dtype=Z.dtype, device=Z.device)
            agreement = torch.where(undecided, (w * earlier_first).sum(-1, keepdim=True), agreement)
        w = w * (1 - 2 * (agreement < 0).to(w.dtype))
        inverse = largest.reciprocal().masked_fill_(largest < 0.5, 0)
        ctx.save_for_backward(Z, eigenvalues, W, G, w, shorten, inverse)
        return sigma.flip(-1), ((w * shorten * inverse).unsqueeze(-2) @ Z).squeeze(-2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    @full_precision
    def backward(ctx: Any, grad_sigma: Tensor | None, grad_u: Tensor | None) -> tuple[Tensor | None, None]:
        Z, eigenvalues, W, *leading = ctx.saved_tensors
        if grad_sigma is None and (grad_u is None or not leading):
            return None, None
        S = torch.zeros_like(W)
        if grad_sigma is not None:
            S = (W * (2 * grad_sigma.flip(-1) * safe_sqrt_slope(eigenvalues)).unsqueeze(-2)) @ W.mT
        if not leading:
            return torch.matmul(S, Z, out=ALLOCATOR.out(Z.shape, Z, S)), None
        G, w, shorten, inverse = leading
        if grad_u is not None:
            q = (grad_u.unsqueeze(-2) @ Z.mT).squeeze(-2) * shorten * inverse
            gaps = eigenvalues[..., -1:] - eigenvalues
            inverse_gaps = gaps.reciprocal().masked_fill_(gaps <= 128 * torch.finfo(Z.dtype).eps, 0)
            inverse_gaps[..., -1:] = inverse.square() / -2
            v = (W @ (inverse_gaps.unsqueeze(-1) * (W.mT @ q.unsqueeze(-1)))).squeeze(-1)
            turn = v.unsqueeze(-1) * w.unsqueeze(-2)
            S = S + turn + turn.mT
        # Vectors scaled to unit length have no gradient along themselves.
        radial = (S * G).sum(-1) if grad_u is None else torch.addcmul((S * G).sum(-1), w, q)
        S = (S - torch.diag_embed(radial)) * shorten.unsqueeze(-1) * shorten.unsqueeze(-2)
        grad = torch.matmul(S, Z, out=ALLOCATOR.out(Z.shape, Z, S))
        return grad if grad_u is None else grad.addcmul_((w * shorten * inverse).unsqueeze(-1), grad_u.unsqueeze(-2)), None
