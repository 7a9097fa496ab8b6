"""Heads: from a tower's vector to the shared space. Their output is scaled to unit length by the `Aligner`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from gramian.canonical.features import Kernel, Nystroem
from gramian.errors import InputError, check_choice, check_number
from gramian.geometry import unit, widened
from gramian.model.towers import Tower

__all__ = [
    "HEADS",
    "HeadName",
    "Joined",
    "KernelHead",
    "Modality",
    "Part",
    "Residual",
    "build_head",
    "features_of",
    "head_of",
    "linear_of",
    "parts_of",
]

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


class Joined(nn.Module):
    """Several heads side by side: their outputs, each of unit length times √share, one after the other.

    The cosine of two joined vectors is then the mean of the heads' own cosines, weighted by the shares.

    Args:
        heads: (n, width) → (n, dim), each of its own dim.
        shares: of the heads; non-negative, with sum 1.
    """

    def __init__(self, heads: Sequence[nn.Module], shares: Sequence[float]) -> None:
        super().__init__()
        self.heads: nn.ModuleList = nn.ModuleList(heads)
        self.shares: tuple[float, ...] = tuple(shares)

    def forward(self, vectors: Tensor) -> Tensor:
        """(..., width) → (..., the sum of all dims)."""
        parts = zip(self.heads, self.shares, strict=True)
        return torch.cat([share**0.5 * unit(widened(head(vectors))) for head, share in parts], -1)


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
class Part:
    """One of several heads of a modality that are joined; see `Joined`.

    Attributes:
        head: "linear", "projection", "mlp", "residual", "kernel" or "identity".
        dim: of its output.
        share: of the joined vectors' cosine.
        kernel: of a head "kernel".
    """

    head: HeadName
    dim: int
    share: float
    kernel: Kernel = Kernel()


@dataclass(frozen=True)
class Modality:
    """How one modality enters the shared space.

    Attributes:
        width: number of entries of a feature vector; with a tower the tower's own, which is the default.
        head: "linear", "projection", "mlp", "residual", "kernel" or "identity" (width and dim agree).
        tower: reads raw cells; without one the cells are features. One tower may serve several modalities.
        kernel: of a head "kernel".
        parts: of a head "joined", which `Aligner.joined` makes.

    Raises:
        InputError: a width that is not the tower's.
    """

    width: int = 0
    head: HeadName | Literal["joined"] = "linear"
    tower: Tower | None = field(default=None, compare=False)
    kernel: Kernel = Kernel()
    parts: tuple[Part, ...] = ()

    def __post_init__(self) -> None:
        if self.tower is not None:
            if self.width not in (0, self.tower.width):
                raise InputError(f"`width` must be that of the tower, {self.tower.width}, or left out; got {self.width}.")
            object.__setattr__(self, "width", self.tower.width)

    @property
    def kind(self) -> str:
        """The head, or the heads that are joined, in words."""
        return " + ".join(part.head for part in self.parts) or self.head


def build_head(name: HeadName, width: int, dim: int, kernel: Kernel = Kernel()) -> nn.Module:
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


def head_of(modality: Modality, dim: int) -> nn.Module:
    """The new head of a modality.

    Args:
        modality: with its width.
        dim: of the shared space.

    Returns:
        (n, width) → (n, dim).

    Raises:
        InputError: parts that do not fill the space, or that have no shares of it; see `build_head`.
    """
    if modality.head != "joined":
        return build_head(modality.head, modality.width, dim, modality.kernel)
    parts = modality.parts
    if sum(part.dim for part in parts) != dim:
        raise InputError(f"`parts` must have widths whose sum is `dim`, {dim}; got {[part.dim for part in parts]}.")
    for part in parts:
        check_number("parts.share", part.share, "(0, 1]")
    if abs(sum(part.share for part in parts) - 1) > 1e-6:
        raise InputError(f"`parts` must have shares whose sum is 1; got {[part.share for part in parts]}.")
    heads = [build_head(part.head, modality.width, part.dim, part.kernel) for part in parts]
    return Joined(heads, [part.share for part in parts])


def parts_of(modality: Modality, head: nn.Module, dim: int) -> list[tuple[Part, nn.Module]]:
    """The parts of a joined head with their modules; of any other head that head alone."""
    if isinstance(head, Joined):
        return list(zip(modality.parts, head.heads, strict=True))
    assert modality.head != "joined"
    return [(Part(modality.head, dim, 1.0, modality.kernel), head)]


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
