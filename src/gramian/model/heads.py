"""Heads: from a tower's vector to the shared space. Their output is scaled to unit length by the `Aligner`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

from torch import nn

from gramian.errors import check_choice

__all__ = ["HEADS", "HeadName", "build_head"]

HeadName: TypeAlias = Literal["identity", "linear", "mlp"]


def _linear(width: int, dim: int) -> nn.Module:
    return nn.Linear(width, dim)


def _mlp(width: int, dim: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 2 * dim), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * dim, dim))


def _identity(width: int, dim: int) -> nn.Module:
    del width, dim
    return nn.Identity()


HEADS: dict[str, Callable[[int, int], nn.Module]] = {"identity": _identity, "linear": _linear, "mlp": _mlp}
"""Builders (width, dim) → module, by name: "linear" is one map, "mlp" has one hidden layer of 2·dim, GELU and dropout 0.1."""


def build_head(name: HeadName, width: int, dim: int) -> nn.Module:
    """A new head (n, width) → (n, dim).

    >>> build_head("linear", 384, 128)
    Linear(in_features=384, out_features=128, bias=True)
    """
    return HEADS[check_choice("head", name, HEADS)](width, dim)
