"""Heads: from a tower's vector to the shared space. Their output is scaled to unit length by the `Aligner`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from torch import nn

from gramian.errors import InputError, check_choice
from gramian.model.towers import Tower

__all__ = ["HEADS", "HeadName", "Modality", "build_head"]

HeadName: TypeAlias = Literal["identity", "linear", "mlp"]

HEADS: dict[str, Callable[[int, int], nn.Module]] = {
    "identity": nn.Identity,  # which takes any arguments
    "linear": nn.Linear,
    "mlp": lambda width, dim: nn.Sequential(nn.Linear(width, 2 * dim), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * dim, dim)),
}
"""Builders (width, dim) → module, by name: "linear" is one map, "mlp" has one hidden layer of 2·dim, GELU and dropout 0.1."""


@dataclass(frozen=True)
class Modality:
    """How one modality enters the shared space.

    Attributes:
        width: number of entries of a feature vector; with a tower the tower's own, which is the default.
        head: "linear", "mlp" or "identity" (width and dim agree).
        tower: reads raw cells; without one the cells are features. One tower may serve several modalities.

    Raises:
        InputError: a width that is not the tower's.
    """

    width: int = 0
    head: HeadName = "linear"
    tower: Tower | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.tower is not None:
            if self.width not in (0, self.tower.width):
                raise InputError(f"`width` must be that of the tower, {self.tower.width}, or left out; got {self.width}.")
            object.__setattr__(self, "width", self.tower.width)


def build_head(name: HeadName, width: int, dim: int) -> nn.Module:
    """A new head (n, width) → (n, dim).

    Raises:
        InputError: no such head.

    >>> build_head("linear", 384, 128)
    Linear(in_features=384, out_features=128, bias=True)
    """
    return HEADS[check_choice("head", name, HEADS)](width, dim)
