"""A tower encodes one modality: a vector per item and, where the encoder has them, token vectors.

A tower has two halves. Its `reader` (`gramian.data.readers`) turns cells into tensors, in any process and without the weights:
decoding, tokenising, resizing. The tower itself, a module, turns those tensors into vectors. Encoders of other libraries are in
`gramian.model.encoders`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gramian.data.readers import CustomReader, FeatureReader, Reader
from gramian.errors import InputError
from gramian.tokens import Tokens

__all__ = ["Custom", "Encoded", "Features", "Tower"]


class Encoded(NamedTuple):
    """What a tower makes of n items.

    Attributes:
        vectors: (n, width).
        tokens: n sequences of width `width`, or None.
    """

    vectors: Tensor
    tokens: Tokens | None = None


class Tower(nn.Module):
    """A module from what its reader collates to (n, width) vectors.

    Derive from it for an encoder of your own, or wrap a module in `Custom`.

    Attributes:
        width: of the vectors.
        reader: from cells to inputs.
        learning_rate: peak of the optimiser's rate for this tower; None for the recipe's.
    """

    width: int
    reader: Reader
    learning_rate: float | None = None

    def forward(self, inputs: Any) -> Encoded | Tensor:
        """Vectors (n, width), or `Encoded` with tokens besides."""
        raise NotImplementedError

    def frozen(self) -> bool:
        """Whether no parameter is trained."""
        return not any(parameter.requires_grad for parameter in self.parameters())


class Features(Tower):
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
        self.reader = FeatureReader()
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


class Custom(Tower):
    """Any module as a tower, for sensors, tables, graphs: whatever a cell may hold.

    Args:
        module: inputs → (n, width), or `Encoded`. All its parameters are trained; freeze what should not be.
        width: of what it gives.
        read: one cell → what `collate` takes; a ValueError marks the cell as unreadable, any other error ends the run. By
            default a list becomes a float32 tensor and anything else stays as it is.
        collate: n of those → the module's input; torch's `default_collate` by default.
        learning_rate: of this tower; None for the recipe's.

    >>> tower = Custom(nn.Sequential(nn.Flatten(), nn.Linear(6, 4)), width=4)
    >>> cells = [tower.reader.read([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])]
    >>> tower(tower.reader.collate(cells)).shape
    torch.Size([1, 4])
    """

    def __init__(
        self,
        module: nn.Module,
        width: int,
        *,
        read: Callable[[Any], Any] | None = None,
        collate: Callable[[list[Any]], Any] | None = None,
        learning_rate: float | None = None,
    ) -> None:
        super().__init__()
        if width < 1:
            raise InputError(f"`width` must be at least 1; got {width}.")
        self.module = module
        self.width = width
        self.reader = CustomReader(read, collate)
        self.learning_rate = learning_rate

    def forward(self, inputs: Any) -> Encoded | Tensor:
        """What the module makes of them."""
        found: Encoded | Tensor = self.module(inputs)
        return found
