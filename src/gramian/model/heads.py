"""Heads: from a tower's vector to the shared space. Their output is scaled to unit length by the `Aligner`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from gramian.canonical.features import Kernel, Nystroem
from gramian.errors import InputError, check_choice
from gramian.model.towers import Tower

__all__ = ["HEADS", "HeadName", "KernelHead", "Modality", "Residual", "build_head", "features_of", "linear_of"]

LARGEST_HEAD = 2**30  # numbers, which a config can ask for in ten letters

HeadName: TypeAlias = Literal["identity", "linear", "projection", "mlp", "residual", "kernel"]


def _mlp(width: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 2 * dim), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * dim, dim))


class Residual(nn.Module):
    """A linear map plus an MLP that starts at zero."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.linear: nn.Linear = nn.Linear(width, dim)
        self.rest: nn.Sequential = _mlp(width, dim)
        for parameter in self.rest[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, vectors: Tensor) -> Tensor:
        """(..., width) → (..., dim)."""
        total: Tensor = self.linear(vectors) + self.rest(vectors)
        return total


class KernelHead(nn.Module):
    """A linear map of a kernel's Nyström features."""

    def __init__(self, width: int, dim: int, kernel: Kernel) -> None:
        super().__init__()
        self.features: Nystroem = Nystroem(width, kernel)
        self.linear: nn.Linear = nn.Linear(kernel.landmarks, dim)

    def forward(self, vectors: Tensor) -> Tensor:
        """(..., width) → (..., dim)."""
        projected: Tensor = self.linear(self.features(vectors))
        return projected


HEADS: dict[str, Callable[[int, int, Kernel], nn.Module]] = {
    "identity": nn.Identity,  # which takes any arguments
    "linear": lambda width, dim, _: nn.Linear(width, dim),
    "projection": lambda width, dim, _: nn.Linear(width, dim, bias=False),
    "mlp": lambda width, dim, _: _mlp(width, dim),
    "residual": lambda width, dim, _: Residual(width, dim),
    "kernel": KernelHead,
}
"""Builders (width, dim, kernel) → module, by name: "linear" is one map, "projection" one
without a bias, "mlp" has one hidden layer of 2·dim, GELU and dropout
0.1, "residual" is the sum of the two, the MLP zero at first, and "kernel" is a linear map of a kernel's features."""


@dataclass(frozen=True)
class Modality:
    """How one modality enters the shared space.

    Attributes:
        width: number of entries of a feature vector; with a tower the tower's own, which is the default.
        head: "linear", "projection", "mlp", "residual", "kernel" or "identity" (width and dim agree).
        tower: reads raw cells; without one the cells are features. One tower may serve several modalities.
        kernel: of a head "kernel".

    Raises:
        InputError: a width that is not the tower's.
    """

    width: int = 0
    head: HeadName = "linear"
    tower: Tower | None = field(default=None, compare=False)
    kernel: Kernel = Kernel()  # noqa: RUF009 (frozen)

    def __post_init__(self) -> None:
        if self.tower is not None:
            if self.width not in (0, self.tower.width):
                raise InputError(f"`width` must be that of the tower, {self.tower.width}, or left out; got {self.width}.")
            object.__setattr__(self, "width", self.tower.width)


def build_head(name: HeadName, width: int, dim: int, kernel: Kernel = Kernel()) -> nn.Module:  # noqa: B008 (frozen)
    """A new head (n, width) → (n, dim).

    Args:
        name: which.
        width: of its input.
        dim: of its output.
        kernel: of a head "kernel", whose landmarks it has yet to take from training rows.

    Returns:
        The module.

    Raises:
        InputError: no such head, or one of more than 2³⁰ numbers.

    >>> build_head("linear", 384, 128)
    Linear(in_features=384, out_features=128, bias=True)
    """
    make = HEADS[check_choice("head", name, HEADS)]
    with torch.device("meta"):
        size = sum(value.numel() for value in make(width, dim, kernel).state_dict().values())
    if size > LARGEST_HEAD:
        raise InputError(
            f"`dim` {dim:,} and a head {name!r} of width {width:,} would hold {size:,} numbers, over 2³⁰. Lower `dim`."
        )
    return make(width, dim, kernel)


def linear_of(head: nn.Module) -> nn.Linear:
    """The linear map of a head, which canonical analysis solves for.

    Raises:
        InputError: a head without one.
    """
    linear: Any = head if isinstance(head, nn.Linear) else getattr(head, "linear", None)
    if not isinstance(linear, nn.Linear) or linear.bias is None:
        raise InputError("`head` must be 'linear', 'residual' or 'kernel': canonical analysis solves for a linear map.")
    return linear


def features_of(head: nn.Module) -> nn.Module:
    """What the linear map of a head reads: the kernel's features, or the vector itself."""
    return head.features if isinstance(head, KernelHead) else nn.Identity()
