"""Rows of other processes: collectives, and the `Exchange` by which items pass from one process to the next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

from gramian.errors import InputError
from gramian.kernels import Backend, Exchange, Form, LogSums, Pairs, SoftplusSums, tiles
from gramian.kernels.sums import ToLogSums, ToSoftplusSums
from gramian.processes import Group, rank, world_size

__all__ = ["RingExchange", "all_gather", "join_rows", "pack", "unpack"]


class RingExchange(Exchange):
    """The queries of one process against the items of all; no process holds more items than its own and those of one other.

    Args:
        group: the processes that take part.
        device: of the vectors.
        generator: what the first process draws the seed of all draws from.
    """

    local: ClassVar[bool] = False

    def __init__(self, group: Group, device: torch.device, generator: torch.Generator | None = None) -> None:
        super().__init__(generator)
        self.group = group
        self.device = device

    @cached_property
    def generator(self) -> torch.Generator:
        """Seeded by the first process."""
        seed = torch.randint(2**62, (1,), generator=self._generator).to(self.device)
        return torch.Generator().manual_seed(int(all_gather(seed, self.group)[0]))

    def log_sums(
        self, form: Form, ids: Tensor | None, *, totals: bool, block_size: int | None, backend: Backend = "torch"
    ) -> LogSums:
        """As for one process with all the items; the gradient is this process's share."""
        del backend  # `Ring` refuses losses with another backend
        return LogSums(*self._reduce(form, ToLogSums(totals=totals), ids, block_size))

    def softplus_sums(self, form: Form, ids: Tensor | None, *, block_size: int | None) -> SoftplusSums:
        """As for one process with all the items; the gradient is this process's share."""
        return SoftplusSums(*self._reduce(form, ToSoftplusSums(), ids, block_size))

    def _reduce(
        self, form: Form, reduction: tiles.Differentiable, ids: Tensor | None, block_size: int | None
    ) -> tuple[Tensor, ...]:
        if not all(part.is_floating_point() or part.dtype == torch.bool for part in form.items):
            raise InputError("`loss` must score by a name of gramian.scores to pass round a ring; use Gathered.")
        ring = _Neighbours(self.group, form.shape[1], self.device)
        theirs = None if ids is None else torch.split(join_rows(ids[:, None], ring.counts, self.group)[:, 0], ring.counts)
        tile = tiles.tile_size(form, block_size)
        sums: tuple[Tensor, ...] = _RingReduce.apply(  # type: ignore[no-untyped-call]
            form.rule, reduction, ring, theirs, tile, len(form.queries), *form.queries, *form.items
        )
        return sums

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes' items, with the gradient of this process's share times their number."""
        size = world_size(self.group)
        share = values.sum()
        total = torch.stack([share.detach(), share.new_tensor(float(len(values)))])
        if size > 1:
            dist.all_reduce(total, group=self.group)
        share = share * (size / total[1])
        return share + (total[0] / total[1] - share.detach())

    def everyone(self, ids: Tensor) -> Tensor:
        """The ids of the items of all processes, in the order of their ranks."""
        return join_rows(ids[:, None], _counts(len(ids), self.device, self.group), self.group)[:, 0]

    def total(self, n: int) -> int:
        """How many items all processes have together."""
        return sum(_counts(n, self.device, self.group))


class _Neighbours:
    """A ring of processes: how many items each has, and a way to pass rows on to the next."""

    def __init__(self, group: Group, n: int, device: torch.device) -> None:
        self.group: Group = group
        self.size = world_size(group)
        self.rank = rank(group) if self.size > 1 else 0
        self.counts = _counts(n, device, group)

    def owner(self, step: int) -> int:
        """Whose items are here after `step` passes."""
        return (self.rank - step) % self.size

    def pass_on(self, rows: Tensor, step: int) -> Tensor:
        """Send the rows that are here after `step` passes to the next process; return those of the previous one."""
        if self.size == 1:
            return rows
        longest = max(1, *self.counts)
        sent = rows.new_zeros(longest, rows.shape[1])
        sent[: len(rows)] = rows
        received = torch.empty_like(sent)
        next_rank, last_rank = ((self.rank + side) % self.size for side in (1, -1))
        if self.group is not None:
            next_rank, last_rank = (dist.get_global_rank(self.group, rank) for rank in (next_rank, last_rank))
        operations = [
            dist.P2POp(dist.isend, sent, next_rank, self.group),
            dist.P2POp(dist.irecv, received, last_rank, self.group),
        ]
        for work in dist.batch_isend_irecv(operations):
            work.wait()
        return received[: self.counts[self.owner(step + 1)]]


class _RingReduce(torch.autograd.Function):
    """A reduction over own queries × everyone's items; the items' sums and gradients travel with them, and return."""

    @staticmethod
    def forward(
        ctx: Any,
        rule: Any,
        reduction: tiles.Differentiable,
        ring: _Neighbours,
        ids: Sequence[Tensor] | None,
        tile: int,
        split: int,
        *parts: Tensor,
    ) -> tuple[Tensor, ...]:
        queries, items = parts[:split], parts[split:]
        totals = reduction.start(len(queries[0]), len(items[0]), queries[0])
        for step in range(ring.size):
            here = replace(reduction, pairs=_pairs(ring, step, ids))
            tiles.forward(rule, here, totals, queries, items, tile=tile)
            ours = [totals[place][:, None] for place in reduction.of_items]
            packed = pack([*items, *ours], queries[0].dtype)
            back = unpack(ring.pass_on(packed, step), [*items, *ours])
            items = tuple(back[: len(items)])
            for place, column in zip(reduction.of_items, back[len(items) :], strict=True):
                totals[place] = column[:, 0].contiguous()
        totals = reduction.finish(totals, queries[0])
        ctx.rule, ctx.reduction, ctx.ring, ctx.tile, ctx.split, ctx.ids = rule, reduction, ring, tile, split, ids
        ctx.save_for_backward(*parts, *totals)
        return tuple(totals)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        ring, reduction, split = ctx.ring, ctx.reduction, ctx.split
        count = len(ctx.needs_input_grad) - 6
        parts, totals = ctx.saved_tensors[:count], list(ctx.saved_tensors[count:])
        queries, items = parts[:split], parts[split:]
        grads_here = list(grads)
        wanted = ctx.needs_input_grad[6:]
        into = [torch.zeros_like(part) if wants else None for part, wants in zip(queries, wanted[:split], strict=True)]
        travelling = [torch.zeros_like(part) if wants else None for part, wants in zip(items, wanted[split:], strict=True)]
        with torch.autocast(queries[0].device.type, enabled=False):
            for step in range(ring.size):
                here = replace(reduction, pairs=_pairs(ring, step, ctx.ids))
                tiles.backward(ctx.rule, here, totals, grads_here, queries, items, (into, travelling), tile=ctx.tile)
                columns = [values[place][:, None] for values in (totals, grads_here) for place in reduction.of_items]
                item_grads = [part for part in travelling if part is not None]
                parcel = [*items, *item_grads, *columns]
                back = unpack(ring.pass_on(pack(parcel, queries[0].dtype), step), parcel)
                items, back = tuple(back[: len(items)]), back[len(items) :]
                arrivals = iter(part.contiguous() for part in back[: len(item_grads)])
                travelling = [None if part is None else next(arrivals) for part in travelling]
                arrivals = iter(column[:, 0].contiguous() for column in back[len(item_grads) :])
                for values in (totals, grads_here):
                    for place in reduction.of_items:
                        values[place] = next(arrivals)
        return (*[None] * 6, *into, *travelling)


def _pairs(ring: _Neighbours, step: int, ids: Sequence[Tensor] | None) -> Pairs:
    """Own queries against the items that are here after `step` passes; `ids` has the ids of each process's items."""
    owner = ring.owner(step)
    shift = 0 if owner == ring.rank else Pairs.NOWHERE
    return Pairs(shift=shift) if ids is None else Pairs(ids[ring.rank], ids[owner], shift)


def join_rows(rows: Tensor, counts: list[int], group: Group) -> Tensor:
    """(n, f) rows of every process, one below the other."""
    padded = rows.new_zeros(max(1, *counts), rows.shape[1])
    padded[: len(rows)] = rows.detach()
    return torch.cat([part[:count] for part, count in zip(all_gather(padded, group), counts, strict=True)])


def _counts(n: int, device: torch.device, group: Group) -> list[int]:
    """How many items each process has."""
    return [int(count) for count in all_gather(torch.tensor([n], device=device), group)]


def all_gather(tensor: Tensor, group: Group) -> list[Tensor]:
    """The tensors of all processes, of one shape, in the order of their ranks."""
    if world_size(group) == 1:
        return [tensor]
    tensors = [torch.empty_like(tensor) for _ in range(world_size(group))]
    dist.all_gather(tensors, tensor.contiguous(), group=group)
    return tensors


def pack(parts: list[Tensor], dtype: torch.dtype | None = None) -> Tensor:
    """Tensors of n rows as one (n, f) matrix."""
    return torch.cat([part.reshape(len(part), _width(part)).to(dtype or parts[0].dtype) for part in parts], 1)


def unpack(rows: Tensor, like: list[Tensor]) -> list[Tensor]:
    """Undo `_pack` for a matrix of any number of rows; shapes and types are those of `like`."""
    parts = torch.split(rows, [_width(part) for part in like], 1)
    return [part.reshape(len(rows), *other.shape[1:]).to(other.dtype) for part, other in zip(parts, like, strict=True)]


def _width(part: Tensor) -> int:
    return math.prod(part.shape[1:])
