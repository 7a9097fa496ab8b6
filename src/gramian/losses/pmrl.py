"""`PMRL`: principled multimodal representation learning, and its sign-aware form."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gramian.bundle import Bundle
from gramian.errors import check_number, check_type
from gramian.geometry import direction, spectrum, widened
from gramian.kernels import PLAIN, Exchange, Form, Linear, self_products
from gramian.losses.base import Loss, LossOutput, too_small
from gramian.losses.functional import info_nce
from gramian.papers import PMRL as PAPER
from gramian.papers import Paper

__all__ = ["PMRL"]


class PMRL(Loss):
    """PMRL: make σ₁ of each item's tuple dominate, and keep the leading directions of different items apart.

    L = mean over items of −log softmax(σ/τ₁)₁ + cross-entropy of U Uᵀ/τ₂ against the diagonal, both ≥ 0; the first at most
    log m unless `signed`, the second at most log n. The diagonal of the second term compares unit vectors with themselves, so
    the term is pure repulsion. The defaults are the paper's; its matching head is a separate loss: `PMRL() + 0.1 *
    Matching(matcher)`. As published, the objective is sign-blind, and at τ₁ = 0.05 the first term all but vanishes long before
    the vectors agree. Items with one modality take part in the second term alone.

    Args:
        signed: False as published. True replaces σ₁ by ‖Σz‖/√k, its value when all k vectors point the same way, and the
            leading direction by the normalised sum. It never exceeds σ₁, and equals it for items that agree, signs included.
        alignment_temperature: τ₁; 0.05 in the paper. 0.5 or more does not saturate.
        instance_temperature: τ₂; 0.1 in the paper.
        block_size: see `SoftmaxOptions`; for the second term.

    Raises:
        InputError: a temperature that is not positive, or a block size below 1.

    Source: PMRL.

    >>> loss = PMRL(signed=True, alignment_temperature=0.5)
    >>> sorted(loss({"text": torch.eye(3), "image": torch.eye(3)}).parts)
    ['alignment', 'instance']
    """

    papers: tuple[Paper, ...] = (PAPER,)

    def __init__(
        self,
        *,
        signed: bool = False,
        alignment_temperature: float = 0.05,
        instance_temperature: float = 0.1,
        block_size: int | None = None,
    ) -> None:
        super().__init__()
        check_type("signed", signed, bool)
        for name, value in (
            ("alignment_temperature", alignment_temperature),
            ("instance_temperature", instance_temperature),
        ):
            check_number(name, value, "(0, 100]")
        self.block_size: int | None = check_number("block_size", block_size, "[1, inf)", integer=True, optional=True)
        self.signed = signed
        self.alignment_temperature = alignment_temperature
        self.instance_temperature = instance_temperature

    @property
    def sign_blind(self) -> bool:
        """True unless `signed`: negating every vector of a modality does not change the alignment term."""
        return not self.signed

    def compute(self, bundle: Bundle, exchange: Exchange) -> LossOutput:
        """The plain sum of the parts "alignment" and "instance".

        Raises:
            TooSmallError: no item has two modalities, or all rows are one item.
        """
        several = bundle.present.sum(1) > 1
        distinct = exchange.distinct(bundle if several.all() else bundle[several])
        if not distinct or exchange.distinct(bundle) < 2:
            raise too_small(distinct, "two or more modalities")
        sigma, u = spectrum(bundle.vectors, bundle.present)
        if self.signed:
            total = _masked_sum(bundle)
            count = bundle.present.sum(1, keepdim=True)
            resultant = torch.linalg.vector_norm(total, dim=-1, keepdim=True) / count.to(sigma.dtype).sqrt()
            sigma, u = torch.cat([resultant, sigma[:, 1:]], 1), direction(total)
        alignment = exchange.mean(self._alignments(sigma, bundle.present, several))
        parts = {"alignment": alignment, "instance": self._instance(u, bundle, exchange)}
        return LossOutput(parts["alignment"] + parts["instance"], parts)

    def _alignments(self, sigma: Tensor, present: Tensor, several: Tensor) -> Tensor:
        """−log softmax of σ₁ of the items with several vectors; an item with k vectors has k singular values in its softmax."""
        logits = sigma / self.alignment_temperature
        if not present.all():
            beyond = torch.arange(sigma.shape[1], device=sigma.device) >= present.sum(1, keepdim=True)
            logits = logits.masked_fill(beyond, -torch.inf)[several]
        return -logits.log_softmax(1)[:, 0]

    def _instance(self, u: Tensor, bundle: Bundle, exchange: Exchange) -> Tensor:
        """Cross-entropy of a symmetric table: its rows and its columns give the same."""
        if exchange.local and self.block_size is None and len(u) ** 2 <= PLAIN:
            logits = self_products(u, 1 / self.instance_temperature)
            if bundle.item_ids is not None:
                logits = logits.masked_fill(bundle.same() & ~torch.eye(len(u), dtype=torch.bool, device=u.device), -torch.inf)
            return F.cross_entropy(logits, torch.arange(len(u), device=u.device))
        blocks = Form(Linear(), (u / self.instance_temperature,), (u,))
        return info_nce(blocks, bundle.item_ids, block_size=self.block_size, exchange=exchange)

    def extra_repr(self) -> str:
        """The options."""
        text = (
            f"signed={self.signed}, alignment_temperature={self.alignment_temperature}, "
            f"instance_temperature={self.instance_temperature}"
        )
        return text if self.block_size is None else f"{text}, block_size={self.block_size}"


def _masked_sum(bundle: Bundle) -> Tensor:
    vectors = widened(bundle.vectors)
    return vectors.masked_fill(~bundle.present[..., None], 0).sum(1)
