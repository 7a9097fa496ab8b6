"""What every loss shares: Bundle in, scalar and named parts out; the learned temperature."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gramian.bundle import Bundle, Vectors
from gramian.errors import InputError, TooSmallError

__all__ = ["Loss", "LossOutput", "Temperature"]


class LossOutput(NamedTuple):
    """A scalar to differentiate, and the named scalars it is made of."""

    total: Tensor
    parts: dict[str, Tensor]


class Loss(nn.Module, ABC):
    """An objective over a Bundle. Subclasses write `compute`; calling the module also accepts a dict of (n, d) tensors."""

    @property
    @abstractmethod
    def sign_blind(self) -> bool:
        """Whether −z serves as well as z: from random weights such an objective settles in antipodal solutions."""

    @abstractmethod
    def compute(self, bundle: Bundle) -> LossOutput:
        """The loss of one batch."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"

    def forward(self, items: Bundle | Mapping[str, Vectors]) -> LossOutput:
        """The loss of one batch: a Bundle, or what `Bundle.from_dict` takes.

        Raises:
            TooSmallError: the batch is too small to contrast: fewer than two items have what the loss compares.
        """
        bundle = items if isinstance(items, Bundle) else Bundle.from_dict(items)
        # Scores divided by a small temperature, and 1 − cos² above all, do not survive the 16-bit products of autocast.
        with torch.autocast(bundle.vectors.device.type, enabled=False):
            return self.compute(bundle)


class Temperature(nn.Module):
    """A positive temperature τ, learned as log τ; brought back to `minimum` whenever a step has taken it lower."""

    def __init__(self, initial: float, *, learned: bool, minimum: float = 0.01) -> None:
        super().__init__()
        if not initial >= minimum:
            raise InputError(f"`temperature` must be at least {minimum}; got {initial}.")
        log = torch.tensor(math.log(initial))
        self.initial = initial
        self.minimum = minimum
        if learned:
            self.log = nn.Parameter(log)
        else:
            self.register_buffer("log", log)

    def forward(self) -> Tensor:
        """τ, a scalar."""
        with torch.no_grad():
            self.log.clamp_(min=math.log(self.minimum))
        return self.log.exp()

    def __repr__(self) -> str:
        return f"temperature={self.initial}, learn_temperature={isinstance(self.log, nn.Parameter)}"


def too_small(count: int, what: str) -> TooSmallError:
    """The error of a batch that holds nothing to contrast."""
    return TooSmallError(f"`items` must hold at least two items with {what}; got {count}. Use a larger batch.")
