"""Memory of large tensors on the CPU that is used again, instead of going back to the system after every step."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["ALLOCATOR", "CachingAllocator", "Scratch", "split", "stack"]

SMALLEST = 2**20  # bytes; the C library keeps smaller blocks by itself
ALIGNED = 64  # bytes: a cache line, as torch aligns its own memory
SLACK = 1.25  # how much larger a block may be than the tensor in it


class CachingAllocator:
    """Large blocks of memory that wait for their next use: touching new pages costs more than most arithmetic on them.

    A block comes back by itself when the last tensor that lies in it is gone. Of the CPU alone: other devices have allocators
    that do this. `ALLOCATOR.clear()` returns what waits to the system; `fit` does so at its end.

    Args:
        limit: bytes that wait at most; beyond, what has waited longest goes back to the system.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        # Blocks come back on any thread, and whenever garbage is collected: each step here is one operation of a dict.
        self._free: dict[int, np.ndarray] = {}
        self._numbers = count()

    @property
    def nbytes(self) -> int:
        """What waits."""
        return sum(block.nbytes for block in self._free.copy().values())

    def empty(self, like: Tensor, shape: Sequence[int]) -> Tensor:
        """An uninitialised tensor of `shape` with the dtype and device of `like`; `resize_` may not enlarge it."""
        return self._in_block(like, shape) if self._serves(shape, like) else like.new_empty(shape)

    def out(self, shape: Sequence[int], *operands: Tensor) -> Tensor | None:
        """`empty` for the `out` of an operation on `operands`, in the dtype of the first.

        None, and so memory that the operation takes by itself, where autograd records it or no block would serve.
        """
        if torch.is_grad_enabled() or not self._serves(shape, *operands):
            return None
        return self._in_block(operands[0], shape)

    def clear(self) -> None:
        """Return all that waits to the system."""
        self._free.clear()

    def _serves(self, shape: Sequence[int], *operands: Tensor) -> bool:
        size = math.prod(shape) * operands[0].element_size()
        return SMALLEST <= size <= self.limit - ALIGNED and not torch.compiler.is_compiling() and all(map(_is_plain, operands))

    def _in_block(self, like: Tensor, shape: Sequence[int]) -> Tensor:
        size = math.prod(shape) * like.element_size()
        block = self._take(size + ALIGNED)
        if block is None:
            return like.new_empty(shape)
        first = -block.ctypes.data % ALIGNED
        memory = block[first : first + size]
        weakref.finalize(memory, self._give, block).atexit = False
        return torch.empty(0, dtype=like.dtype).set_(torch.from_numpy(memory).untyped_storage()).resize_(*shape)

    def _take(self, size: int) -> np.ndarray | None:
        fitting = [(block.nbytes, -key) for key, block in self._free.copy().items() if size <= block.nbytes <= SLACK * size]
        block = self._free.pop(-min(fitting)[1], None) if fitting else None  # of equal ones the last, which caches may hold
        if block is not None:
            return block
        try:
            return np.empty(size, np.uint8)
        except MemoryError:
            self.clear()
            return None

    def _give(self, block: np.ndarray) -> None:
        self._free[next(self._numbers)] = block
        excess = self.nbytes - self.limit
        for key in self._free.copy():
            if excess <= 0:
                break
            dropped = self._free.pop(key, None)
            excess -= 0 if dropped is None else dropped.nbytes


ALLOCATOR = CachingAllocator(2**28)


class Scratch:
    """Memory that successive tiles of scores share within a pass.

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

    def start(self, b: int, c: int) -> None:
        """Begin a (b, c) tile: everything handed out before may be overwritten."""
        self._shape, self._taken = (b, c), 0

    def new(self) -> Tensor:
        """A (b, c) tensor, uninitialised."""
        b, c = self._shape
        if self._taken == len(self._memory):
            self._memory.append(self._like)
        if len(self._memory[self._taken]) < b * c:
            self._memory[self._taken] = ALLOCATOR.empty(self._like, (b * c,))
        self._taken += 1
        return self._memory[self._taken - 1][: b * c].view(b, c)


def stack(columns: Sequence[Float[Tensor, "n d"]]) -> Float[Tensor, "n m d"]:
    """`torch.stack` of m columns along the second axis."""
    stacked: Tensor = _Stack.apply(*columns)  # type: ignore[no-untyped-call]
    return stacked


def split(Z: Float[Tensor, "n m d"], k: int) -> tuple[Float[Tensor, "n k d"], Float[Tensor, "n l d"]]:
    """The first k vectors of every tuple and the l others, as views; the gradient of both is one tensor."""
    first, others = _Split.apply(Z, k)  # type: ignore[no-untyped-call]
    return first, others


class _Stack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *columns: Tensor) -> Tensor:
        del ctx
        n, d = columns[0].shape
        return torch.stack(columns, 1, out=ALLOCATOR.out((n, len(columns), d), *columns))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        del ctx
        return grad.unbind(1)


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, Z: Tensor, k: int) -> tuple[Tensor, Tensor]:
        ctx.shape = Z.shape
        return Z[:, :k], Z[:, k:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return torch.cat(grads, 1, out=ALLOCATOR.out(ctx.shape, *grads)), None


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor has memory of its own on the CPU: no subclass, and no batch of vmap."""
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.device.type != "cpu":
        return False
    try:
        tensor.data_ptr()
    except RuntimeError:
        return False
    return True
