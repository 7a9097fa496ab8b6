"""How hard an objective still pulls: the length of the gradient of each of its parts."""

from __future__ import annotations

import torch

from gramian.bundle import Bundle
from gramian.losses.base import Loss

__all__ = ["saturation"]


def saturation(loss: Loss, bundle: Bundle) -> dict[str, float]:
    """Length of the gradient of each part of `loss` with respect to the unit vectors, summed over the items.

    Only the component along the sphere counts: it is what can turn a vector. A part that is a mean over n items gives each
    1/n, so that the sum does not depend on the size of the batch. Near 0 a part is saturated: nothing is left to learn from
    it, whether the vectors agree or not.

    Args:
        loss: in evaluation mode nothing is drawn; it is put into it here and back afterwards.
        bundle: a batch of n items. A part that reads the tokens in place of a modality's vectors has no gradient in these.

    Returns:
        Part → Σᵢ ‖∂part/∂vectorsᵢ‖ ≥ 0.

    >>> from gramian.losses import PMRL
    >>> aligned = {"text": torch.eye(3), "image": torch.eye(3)}
    >>> round(saturation(PMRL(), Bundle.from_dict(aligned))["alignment"], 3)
    0.0
    """
    modes = {module: module.training for module in loss.modules()}
    loss.eval()
    try:
        vectors = bundle.vectors.detach().masked_fill(~bundle.present[..., None], 0).requires_grad_()
        parts = loss(Bundle(vectors, bundle.present, bundle.modalities, bundle.item_ids, bundle.tokens)).parts
        found = {}
        for name, part in parts.items():
            (gradient,) = torch.autograd.grad(part, vectors, retain_graph=True, allow_unused=True, materialize_grads=True)
            radial = (gradient * vectors.detach()).sum(-1, keepdim=True) * vectors.detach()
            found[name] = float((gradient - radial).flatten(1).norm(dim=1).sum())
        return found
    finally:
        for module, training in modes.items():
            module.training = training
