"""`Exchange`: which items are candidates: this process's own, or those of all processes (`gramian.distributed`)."""

from __future__ import annotations

import torch
from torch import Tensor

from gramian.kernels.rules import Form
from gramian.kernels.tiles import Backend, LogSums, Pairs, SoftplusSums, log_sums, softplus_sums

__all__ = ["Exchange"]


class Exchange:
    """The queries of one process against its own items.

    `form` has one row per query and one per item, and row i of the one matches row i of the other; rows with equal `ids` (n,)
    are one item.
    """

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

    def total(self, n: int, device: torch.device) -> int:
        """How many items take part, given the number of this process's own."""
        del device
        return n

    def distinct(self, ids: Tensor | None, n: int, device: torch.device) -> int:
        """The number of different items."""
        return self.total(n, device) if ids is None else int(torch.unique(self.everyone(ids)).numel())

    def contrasted(self, ids: Tensor | None, n: int, device: torch.device) -> Tensor | int:
        """How many items each of the n is contrasted with, its match included: (n,), or one number for all."""
        if ids is None:
            return self.total(n, device)
        everyone = self.everyone(ids)
        distinct_ids, multiplicity = torch.unique(everyone, return_counts=True)
        counts: Tensor = len(everyone) + 1 - multiplicity[torch.searchsorted(distinct_ids, ids.contiguous())]
        return counts
