"""`Exchange`: which items a batch is contrasted with: this process's own, or those of all processes (`gramian.distributed`)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from gramian.bundle import Bundle
from gramian.kernels.rules import Form
from gramian.kernels.sums import Backend, LogSums, SoftplusSums, log_sums, softplus_sums
from gramian.kernels.tiles import Pairs

__all__ = ["Exchange"]


class Exchange:
    """The queries of one process against its own items.

    `form` has one row per query and one per item, and row i of the one matches row i of the other; rows with equal `ids` (n,)
    are one item.

    Args:
        generator: what this process draws from; torch's own by default.

    Attributes:
        local: whether the items are this process's alone.
    """

    local: ClassVar[bool] = True

    def __init__(self, generator: torch.Generator | None = None) -> None:
        self._generator = generator

    @property
    def generator(self) -> torch.Generator | None:
        """What draws come from; those of all processes that take part are the same. None for torch's own."""
        return self._generator

    def log_sums(
        self, form: Form, ids: Tensor | None, *, totals: bool, block_size: int | None, backend: Backend = "torch"
    ) -> LogSums:
        """See `gramian.kernels.log_sums`."""
        return log_sums(form, Pairs(ids, ids), totals=totals, block_size=block_size, backend=backend)

    def softplus_sums(self, form: Form, ids: Tensor | None, *, block_size: int | None) -> SoftplusSums:
        """See `gramian.kernels.softplus_sums`."""
        return softplus_sums(form, Pairs(ids, ids), block_size=block_size)

    def mean(self, values: Tensor) -> Tensor:
        """The mean of (n,) over all items."""
        return values.mean()

    def everyone(self, ids: Tensor) -> Tensor:
        """The ids of all items that take part, given this process's own (n,)."""
        return ids

    def total(self, n: int) -> int:
        """How many items take part, given the number of this process's own."""
        return n

    def distinct(self, bundle: Bundle) -> int:
        """The number of different items, given those of this process."""
        if bundle.item_ids is None:
            return self.total(len(bundle))
        return int(torch.unique(self.everyone(bundle.item_ids)).numel())

    def contrasted(self, ids: Tensor | None, n: int) -> Tensor | int:
        """How many items each of the n is contrasted with, its match included: (n,), or one number for all."""
        if ids is None:
            return self.total(n)
        everyone = self.everyone(ids)
        distinct_ids, multiplicity = torch.unique(everyone, return_counts=True)
        counts: Tensor = len(everyone) + 1 - multiplicity[torch.searchsorted(distinct_ids, ids.contiguous())]
        return counts
