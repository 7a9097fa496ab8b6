"""Memory for tiles of scores that is used again: within a pass, and from one step to the next."""

from __future__ import annotations

from torch import Tensor

__all__ = ["Scratch", "Spare"]


class Scratch:
    """Memory that successive tiles share: touching new pages costs more than the arithmetic on their contents.

    Args:
        like: a tensor of the tiles' dtype and device.
    """

    def __init__(self, like: Tensor) -> None:
        self._like = like.new_empty(0)
        self._memory: list[Tensor] = []
        self._taken = 0
        self._shape = (0, 0)

    @property
    def on_cpu(self) -> bool:
        """Whether the tiles are computed on the CPU."""
        return self._like.device.type == "cpu"

    @property
    def nbytes(self) -> int:
        """What it holds."""
        return sum(memory.nbytes for memory in self._memory)

    def fits(self, like: Tensor) -> bool:
        """Whether it is of the dtype and device of `like`."""
        return self._like.dtype == like.dtype and self._like.device == like.device

    def start(self, b: int, c: int) -> None:
        """Begin a (b, c) tile: everything handed out before may be overwritten."""
        self._shape, self._taken = (b, c), 0

    def new(self) -> Tensor:
        """A (b, c) tensor, uninitialised."""
        b, c = self._shape
        if self._taken == len(self._memory):
            self._memory.append(self._like.new_empty(0))
        if len(self._memory[self._taken]) < b * c:
            self._memory[self._taken] = self._like.new_empty(b * c)
        self._taken += 1
        return self._memory[self._taken - 1][: b * c].view(b, c)


class Spare:
    """Memory of kept products for the next step: touching as many new pages every step costs a fifth of its arithmetic.

    Of the CPU alone: other devices have allocators that do this.

    Args:
        limit: bytes that it holds at most.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._free: list[Scratch] = []

    @property
    def nbytes(self) -> int:
        """What is free for the next."""
        return sum(scratch.nbytes for scratch in self._free)

    def take(self, like: Tensor, b: int, c: int) -> Scratch:
        """Memory of the dtype and device of `like` for a (b, c) tile; nobody else writes to it until it is given back."""
        index = next((i for i, scratch in enumerate(self._free) if scratch.fits(like)), None)
        taken = Scratch(like) if index is None else self._free.pop(index)
        taken.start(b, c)
        return taken

    def give(self, scratch: Scratch) -> None:
        """Leave the memory to the next who takes it."""
        if scratch.on_cpu and self.nbytes + scratch.nbytes <= self.limit:
            self._free.append(scratch)

    def clear(self) -> None:
        """Free all that nobody uses."""
        self._free.clear()
