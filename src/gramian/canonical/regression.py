"""Several modalities of one item as one vector: the ridge regression of what all heads share on the modalities at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gramian.canonical.criteria import RANK, Affine
from gramian.canonical.moments import Moments
from gramian.errors import InputError, check_choice, check_number

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["joint"]


def joint(
    moments: Moments, weights: Mapping[str, Float[Tensor, "width dim"]], names: Sequence[str], *, ridge: float = 1.0
) -> dict[str, Affine]:
    """Linear maps of several modalities whose outputs are added up and scaled to unit length.

    The heads x_c ↦ W_cᵀ x_c share g = Σ_c t_c W_cᵀ (x_c − μ_c), each scaled by t_c to the same total variance. With S the
    modalities at hand, C their covariances and ρ_c the ridges,

        B = (C_SS + blockdiag(ρ_c I))⁻¹ cov(x_S, g) diag(1/λ),    λ_i = var(g_i) / Σ_c t_c² w_ciᵀ (C_cc + ρ_c I) w_ci.

    Dividing by λ, the eigenvalues of MAXVAR, keeps the weights that the heads give to the components: of two modalities solved
    by MAXVAR without a ridge, B of one of them is its head.

    Args:
        moments: of what the heads read, over the training rows.
        weights: of the linear map of each modality.
        names: the modalities at hand, S.
        ridge: of each modality, in units of the mean non-zero eigenvalue of its covariance.

    Returns:
        Modality of S → its map.

    Raises:
        InputError: no modality, an unknown one, weights of another width, or a ridge of 0 with singular covariances.

    >>> x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> maps = joint(Moments.of({"a": x, "b": x}), {"a": torch.eye(2), "b": torch.eye(2)}, ["a", "b"], ridge=1)
    >>> (x.double() @ (maps["a"].weight + maps["b"].weight)).round(decimals=4).tolist()[0]  # towards (1, 0)
    [0.9428, 0.0]
    """
    for name, weight in weights.items():
        check_choice("weights", name, moments.widths)
        if weight.ndim != 2 or len(weight) != moments.widths[name]:
            raise InputError(f"`weights[{name!r}]` must have shape ({moments.widths[name]}, dim); got {tuple(weight.shape)}.")
    known = {name: weight.double() for name, weight in weights.items() if moments.count(name)}
    names = tuple(dict.fromkeys(check_choice("names", name, known) for name in names))
    if not names:
        raise InputError(f"`names` must hold at least one of {', '.join(known)}; got none.")
    check_number("ridge", ridge, "[0, inf)")
    C = {(a, b): _covariance(moments, a, b) for a in known for b in known}
    ridges, scaled = {}, {}
    own = moments.shift.new_zeros(())
    for name, weight in known.items():
        spectrum = torch.linalg.eigvalsh(C[name, name])
        ridges[name] = ridge * float(spectrum[spectrum > RANK * spectrum[-1]].mean())
        variance = (weight * (C[name, name] @ weight + ridges[name] * weight)).sum(0)
        t = variance.sum().clamp(min=torch.finfo(torch.float64).tiny).rsqrt()
        scaled[name] = t * weight
        own = own + t**2 * variance
    shared = {a: torch.stack([C[a, b] @ W for b, W in scaled.items()]).sum(0) for a in known}  # cov(x_a, g)
    values = torch.stack([(W * shared[a]).sum(0) for a, W in scaled.items()]).sum(0) / own
    within = torch.cat([torch.cat([C[a, b] for b in names], 1) for a in names])
    diagonal = torch.cat([within.new_full((moments.widths[name],), ridges[name]) for name in names])
    spectrum, basis = torch.linalg.eigh(within + torch.diag(diagonal))
    # Of incomplete rows the covariances can be indefinite: no direction has less than the smallest ridge.
    least = max(float(diagonal.min()), RANK * float(spectrum[-1]))
    if not ridge and float(spectrum[0]) < least:
        raise InputError(f"`ridge` must be positive: the rows of {', '.join(names)} do not span all of their dimensions.")
    B = basis @ ((basis.mT @ torch.cat([shared[name] for name in names])) / spectrum.clamp(min=least)[:, None])
    parts = torch.split(torch.where(values > RANK, B / values, 0), [moments.widths[name] for name in names])
    return {name: Affine(part, -moments.mean(name) @ part) for name, part in zip(names, parts, strict=True)}


def _covariance(moments: Moments, first: str, second: str) -> Tensor:
    """The covariance of two modalities; zero where they share fewer than two rows."""
    return moments.covariance(first, second) * float(moments.count(first, second) >= 2)
