"""Towers: from one modality's data to one vector an item."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gramian.errors import InputError

__all__ = ["Features"]


class Features(nn.Module):
    """Precomputed features, standardised: each of the `width` entries to mean 0 and deviation 1 over the training rows.

    Without `adapt` the features pass through as they are.

    >>> tower = Features(2)
    >>> tower.adapt(torch.tensor([[0.0, 5.0], [2.0, 5.0]]))
    >>> tower(torch.tensor([[2.0, 5.0]]))
    tensor([[1., 0.]])
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        if width < 1:
            raise InputError(f"`width` must be at least 1; got {width}.")
        self.width = width
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))

    @torch.no_grad()
    def adapt(self, values: Tensor) -> None:
        """Take mean and standard deviation from the rows of `values` (n, width); a constant entry keeps deviation 1."""
        values = values.double()
        deviation = values.std(0, correction=0)
        self.mean.copy_(values.mean(0))
        self.deviation.copy_(torch.where(deviation > 1e-6 * values.abs().amax(0).clamp(min=1e-12), deviation, 1))

    def forward(self, values: Tensor) -> Tensor:
        """(n, width) → (n, width), in the type of the tower."""
        if values.ndim != 2 or values.shape[1] != self.width:
            raise InputError(f"features must have shape (n, {self.width}); got {tuple(values.shape)}.")
        return (values.to(self.mean.dtype) - self.mean) / self.deviation
