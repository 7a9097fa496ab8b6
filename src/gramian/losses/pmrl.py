"""`PMRL`: principled multimodal representation learning (arXiv 2507.17343), and its sign-aware form."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gramian.bundle import Bundle
from gramian.errors import InputError
from gramian.geometry import direction, leading_direction, singular_values
from gramian.losses.base import Loss, LossOutput, too_small

__all__ = ["PMRL"]


class PMRL(Loss):
    """PMRL: make σ₁ of each item's tuple dominate, and keep the leading directions of different items apart.

    L = mean over items of −log softmax(σ/τ₁)₁ + cross-entropy of U Uᵀ/τ₂ against the diagonal. The second term compares unit
    vectors with themselves on the diagonal, so it is pure repulsion. The defaults are the paper's; its matching head is a loss
    of its own: `PMRL() + 0.1 * Matching(matcher)`. As published the objective is sign-blind, and at τ₁ = 0.05 the first term
    is all but zero long before the vectors agree.

    Args:
        signed: replace σ₁ by ‖Σz‖/√k, its value when all k vectors point one way, and the leading direction by the normalised
            sum. It never exceeds σ₁ and reaches it exactly when the item is fully aligned, signs included.
        alignment_temperature: τ₁; 0.05 in the paper. 0.5 or more does not saturate.
        instance_temperature: τ₂; 0.1 in the paper.

    Items with one modality take part in the second term alone.

    Source: PMRL (arXiv 2507.17343).

    >>> loss = PMRL(signed=True, alignment_temperature=0.5)
    >>> sorted(loss({"text": torch.eye(3), "image": torch.eye(3)}).parts)
    ['alignment', 'instance']
    """

    def __init__(self, *, signed: bool = False, alignment_temperature: float = 0.05, instance_temperature: float = 0.1) -> None:
        super().__init__()
        for name, value in (
            ("alignment_temperature", alignment_temperature),
            ("instance_temperature", instance_temperature),
        ):
            if not value > 0:
                raise InputError(f"`{name}` must be positive; got {value}.")
        self.signed = signed
        self.alignment_temperature = alignment_temperature
        self.instance_temperature = instance_temperature

    @property
    def sign_blind(self) -> bool:
        """True unless `signed`: −z for every z of a modality leaves the alignment term as it is."""
        return not self.signed

    def compute(self, bundle: Bundle, generator: torch.Generator | None) -> LossOutput:
        """The plain sum of the parts "alignment" and "instance"."""
        del generator
        several = bundle[bundle.present.sum(1) > 1]
        if not len(several) or bundle.distinct() < 2:
            raise too_small(several.distinct(), "two or more modalities")
        parts = {
            "alignment": F.cross_entropy(*self._spectrum(several)),
            "instance": self._instance(bundle),
        }
        return LossOutput(parts["alignment"] + parts["instance"], parts)

    def _spectrum(self, bundle: Bundle) -> tuple[Tensor, Tensor]:
        """Logits (n, m) of σ₁ against the others, −∞ beyond an item's number of vectors; the target, class 0."""
        sigma = singular_values(bundle.vectors, bundle.present)
        count = bundle.present.sum(1, keepdim=True)
        if self.signed:
            resultant = torch.linalg.vector_norm(_masked_sum(bundle), dim=-1, keepdim=True) / count.to(sigma.dtype).sqrt()
            sigma = torch.cat([resultant, sigma[:, 1:]], 1)
        beyond = torch.arange(sigma.shape[1], device=sigma.device) >= count
        logits = (sigma / self.alignment_temperature).masked_fill(beyond, -torch.inf)
        return logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device)

    def _instance(self, bundle: Bundle) -> Tensor:
        u = direction(_masked_sum(bundle)) if self.signed else leading_direction(bundle.vectors, bundle.present)
        logits = u @ u.T / self.instance_temperature
        if bundle.ids is not None:
            logits = logits.masked_fill(bundle.same() & ~torch.eye(len(u), dtype=torch.bool, device=u.device), -torch.inf)
        return F.cross_entropy(logits, torch.arange(len(u), device=u.device))

    def extra_repr(self) -> str:
        """The options."""
        return (
            f"signed={self.signed}, alignment_temperature={self.alignment_temperature}, "
            f"instance_temperature={self.instance_temperature}"
        )


def _masked_sum(bundle: Bundle) -> Tensor:
    vectors = bundle.vectors.to(torch.promote_types(bundle.vectors.dtype, torch.float32))
    return vectors.masked_fill(~bundle.present[..., None], 0).sum(1)
