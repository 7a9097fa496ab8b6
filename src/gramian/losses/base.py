"""What every loss shares: Bundle in, scalar and named parts out; the learned temperature."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gramian.bundle import Bundle, Vectors
from gramian.errors import InputError, TooSmallError
from gramian.losses.functional import info_nce

__all__ = ["Loss", "LossOutput", "SoftmaxLoss", "Temperature"]


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


class SoftmaxLoss(Loss):
    """A loss that contrasts one modality with others, in one comparison or several: the mean of their `info_nce`.

    Args:
        temperature: initial τ.
        learn_temperature: whether τ is a parameter.
        label_smoothing: see `info_nce`.
    """

    def __init__(self, *, temperature: float, learn_temperature: bool, label_smoothing: float) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise InputError(f"`label_smoothing` must lie in [0, 1); got {label_smoothing}.")
        self.label_smoothing = label_smoothing
        self.temperature = Temperature(temperature, learned=learn_temperature)

    @abstractmethod
    def scores(self, usable: Bundle, query: str, targets: Sequence[str]) -> Tensor:
        """Scores (n, n) of every item's `query` against every item's `targets`."""

    def contrast(self, bundle: Bundle, comparisons: Mapping[str, tuple[str, Sequence[str]]], what: str) -> LossOutput:
        """The mean over `comparisons` (name → query, targets); one part each, over the items that have what it compares.

        A comparison with fewer than two such items is left out; `what` says in the error what they would have needed.
        """
        tau = self.temperature()
        parts, most = {}, 0
        for name, (query, targets) in comparisons.items():
            usable = bundle[bundle.has(query) & bundle.has(*targets)]
            most = max(most, len(usable))
            if len(usable) > 1:
                parts[name] = info_nce(self.scores(usable, query, targets) / tau, label_smoothing=self.label_smoothing)
        if not parts:
            raise too_small(most, what)
        return LossOutput(torch.stack(list(parts.values())).mean(), parts)

    def extra_repr(self) -> str:
        """The options that all of them share."""
        return f"{self.temperature}, label_smoothing={self.label_smoothing}"


def too_small(count: int, what: str) -> TooSmallError:
    """The error of a batch that holds nothing to contrast."""
    return TooSmallError(f"`items` must hold at least two items with {what}; got {count}. Use a larger batch.")
