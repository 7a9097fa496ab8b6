"""Work across processes: ranks and devices, and Bundles and losses over the items of all processes.

Two ways to contrast the items of every process with each other:

- `Gathered(loss)`: every process collects all items, with gradient, and computes the whole loss. Any loss; n² work each.
- `Ring(loss)`: every process keeps its own queries, and the items pass from one to the next. No process ever holds all items
  or all pairs, and the work is shared; for losses that are softmaxes or sigmoids over pairs, and for PMRL.

Both give the value and the gradient that one process would have with all the items, under the rule of data-parallel training
that gradients are averaged over the processes (as DistributedDataParallel and FSDP do). Processes may hold different numbers
of items, or none.

Over 400 lines because every exchange between processes is here.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from gramian.bundle import Bundle, Vectors
from gramian.errors import InputError
from gramian.kernels import Backend, Exchange, Form, LogSums, Pairs, SoftplusSums, tiles
from gramian.losses.base import Loss, LossOutput, Sum
from gramian.losses.pmrl import PMRL
from gramian.losses.softmax import SoftmaxLoss
from gramian.processes import Group, check_precision, device, is_main_process, join, rank, share, world_size
from gramian.tokens import Tokens

__all__ = [
    "Gathered",
    "Ring",
    "average_gradients",
    "check_precision",
    "device",
    "gather",
    "is_main_process",
    "join",
    "rank",
    "share",
    "summed",
    "world_size",
]


def gather(bundle: Bundle, group: Group = None) -> Bundle:
    """The items of all processes, in the order of their ranks, with masks, ids and tokens; the same Bundle everywhere.

    Gradients flow back: each process's vectors get the sum of their gradients in all processes. A process may have no items,
    as long as its Bundle has the modalities and the width of the others.

    Args:
        bundle: the items of this process.
        group: the processes that take part; all by default.

    Returns:
        A Bundle of as many items as all processes have together, on the device of `bundle`.

    Raises:
        InputError: the Bundles of the processes differ in modalities, width, type, ids or tokens. Every process raises it.
    """
    return _gather(bundle, group, 0)[0]


def _gather(bundle: Bundle, group: Group, seed: int) -> tuple[Bundle, int]:
    """The gathered Bundle, and the seed of the first process."""
    if world_size(group) == 1:
        return bundle, seed
    device = bundle.vectors.device
    named = sorted(bundle.tokens)
    kind = (bundle.modalities, bundle.dim, str(bundle.vectors.dtype), bundle.item_ids is not None, named)
    lengths = [bundle.tokens[name].values.shape[1] for name in named]
    head = torch.tensor([len(bundle), _digest(repr(kind)), seed, len(named)], device=device)
    heads = torch.stack(_all_gather(head, group))
    if (heads[:, 1] != heads[0, 1]).any():
        raise InputError(
            "`bundle` must have the same modalities, width, type, ids and tokens in every process; got otherwise. "
            f"Here: {bundle!r}, {'without' if bundle.item_ids is None else 'with'} ids, tokens of {', '.join(named) or 'none'}."
        )
    counts = heads[:, 0].tolist()
    if named:
        longest = torch.stack(_all_gather(torch.tensor(lengths, device=device), group)).amax(0).tolist()
        tokens = {name: bundle.tokens[name].padded(size) for name, size in zip(named, longest, strict=True)}
    else:
        tokens = {}
    # One collective for tensors with a gradient, one for the rest: their order cannot differ between processes.
    values = [bundle.vectors, *(part.values.to(bundle.vectors.dtype) for part in tokens.values())]
    masks = [bundle.present, *(part.present for part in tokens.values())]
    ids = [] if bundle.item_ids is None else [bundle.item_ids[:, None]]
    gathered = _unpack(_Gather.apply(_pack(values), counts, group), values)  # type: ignore[no-untyped-call]
    flags = _unpack(_join(_pack([*(mask.long() for mask in masks), *ids]), counts, group), [*masks, *ids])
    present = [flag.bool() for flag in flags[: len(masks)]]
    whole = Bundle(
        gathered[0],
        present[0],
        bundle.modalities,
        flags[-1][:, 0] if ids else None,
        {name: Tokens(*pair) for name, pair in zip(tokens, zip(gathered[1:], present[1:], strict=True), strict=True)},
    )
    return whole, int(heads[0, 2])


def summed(tensors: Sequence[Tensor], kind: str, group: Group = None) -> list[Tensor]:
    """The sum of each tensor over the processes, the same in each.

    Args:
        tensors: those of this process.
        kind: what they are; it has to be the same in every process.
        group: the processes that take part; all by default.

    Returns:
        New tensors; with one process those that were passed.

    Raises:
        InputError: the `kind` differs. Every process raises it.
    """
    if world_size(group) == 1:
        return list(tensors)
    kinds = torch.stack(_all_gather(torch.tensor(_digest(kind), device=tensors[0].device), group))
    if (kinds != kinds[0]).any():
        raise InputError(f"sums over processes need the same parts in each; got otherwise. Here: {kind}.")
    totals = [tensor.clone() for tensor in tensors]
    for total in totals:
        dist.all_reduce(total, group=group)
    return totals


def average_gradients(parameters: Iterable[Tensor], group: Group = None) -> None:
    """Replace gradients by their mean over the processes: for parameters that no wrapper exchanges, such as a loss's own.

    Args:
        parameters: the same in every process; one without a gradient counts as zero where others have one.
        group: the processes that take part; all by default.
    """
    size = world_size(group)
    for parameter in parameters if size > 1 else ():
        grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        dist.all_reduce(grad, group=group)
        parameter.grad = grad / size


class _OverAll(Loss):
    """A loss over the items of all processes of `group`; its description is that of the loss itself."""

    def __init__(self, loss: Loss, group: Group = None) -> None:
        super().__init__()
        self.loss = loss
        self.papers = loss.papers
        self.group = group

    @property
    def sign_blind(self) -> bool:
        """As the loss."""
        return self.loss.sign_blind

    def extra_repr(self) -> str:
        """The loss."""
        return repr(self.loss)


class Gathered(_OverAll):
    """A loss over the items of all processes, which each of them computes in full.

    Draws, of anchors or of negatives, follow a seed that the first process draws, so that all compute the same value.

    Args:
        loss: any loss.
        group: the processes that take part; all by default.

    >>> from gramian import Gram
    >>> Gathered(Gram())({"text": torch.eye(3), "image": torch.eye(3)}).parts.keys()  # one process: the loss itself
    dict_keys(['text'])
    """

    def forward(self, items: Bundle | Mapping[str, Vectors], *, generator: torch.Generator | None = None) -> LossOutput:
        """The loss of the items of all processes; arguments as for the loss."""
        bundle = items if isinstance(items, Bundle) else Bundle.from_dict(items)
        seed = int(torch.randint(2**62, (1,), generator=generator))
        whole, seed = _gather(bundle, self.group, seed)
        result: LossOutput = self.loss(whole, generator=torch.Generator().manual_seed(seed))
        return result

    def compute(self, bundle: Bundle, generator: torch.Generator | None) -> LossOutput:
        """As `forward`."""
        return self.forward(bundle, generator=generator)


class Ring(_OverAll):
    """A loss over the items of all processes; each computes the share of its own queries as the items pass by.

    A process holds its own items and those of one other; pairs are made and dropped in blocks. The backward pass
    sends the items round once more, with their gradients.

    Args:
        loss: one that contrasts pairs (`Gram`, `Pairwise`, `Centroid`, `Triangle`, `HyperGram`, `Contrast` over a score by
            name), `PMRL`, or a sum of such.
        group: the processes that take part; all by default.

    Raises:
        InputError: a loss that cannot be computed in shares; use `Gathered`.
    """

    def __init__(self, loss: Loss, group: Group = None) -> None:
        super().__init__(loss, group)
        self._terms = [part for part in loss.modules() if isinstance(part, Loss) and not isinstance(part, Sum)]
        for part in self._terms:
            if not isinstance(part, SoftmaxLoss | PMRL) or getattr(part, "negatives", None) is not None:
                raise InputError(f"`loss` must contrast pairs without choosing among them; got {part!r}. Use Gathered.")
            if getattr(part, "backend", "torch") != "torch":
                raise InputError(f"`loss` must have the backend 'torch' to pass round a ring; got {part!r}. Use Gathered.")
            if getattr(part, "anchor", None) == "random":
                raise InputError(f"`loss` must have an anchor that is the same in every process; got {part!r}. Use Gathered.")

    def compute(self, bundle: Bundle, generator: torch.Generator | None) -> LossOutput:
        """The loss of the items of all processes; the value is the same in each, its gradient is this process's share."""
        for part in self._terms:
            part.exchange = _RingExchange(self.group)
        try:
            return self.loss.compute(bundle, generator)
        finally:
            for part in self._terms:
                del part.exchange


class _RingExchange(Exchange):
    def __init__(self, group: Group) -> None:
        self.group = group

    def log_sums(
        self, form: Form, ids: Tensor | None, *, totals: bool, block_size: int | None, backend: Backend = "torch"
    ) -> LogSums:
        del backend  # `Ring` refuses losses with another backend
        return LogSums(*self._reduce(form, tiles.ToLogSums(totals=totals), ids, block_size))

    def softplus_sums(self, form: Form, ids: Tensor | None, *, block_size: int | None) -> SoftplusSums:
        return SoftplusSums(*self._reduce(form, tiles.ToSoftplusSums(), ids, block_size))

    def _reduce(
        self, form: Form, reduction: tiles.Differentiable, ids: Tensor | None, block_size: int | None
    ) -> tuple[Tensor, ...]:
        if not all(part.is_floating_point() or part.dtype == torch.bool for part in form.items):
            raise InputError("`loss` must score by a name of gramian.scores to pass round a ring; use Gathered.")
        ring = _Neighbours(self.group, form.shape[1], form.queries[0].device)
        theirs = None if ids is None else torch.split(_join(ids[:, None], ring.counts, self.group)[:, 0], ring.counts)
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
        return _join(ids[:, None], _counts(len(ids), ids.device, self.group), self.group)[:, 0]

    def total(self, n: int, device: torch.device) -> int:
        return sum(_counts(n, device, self.group))


class _Neighbours:
    """A ring of processes: how many items each has, and a way to pass rows on to the next."""

    def __init__(self, group: Group, n: int, device: torch.device) -> None:
        self.group = group
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
            packed = _pack([*items, *ours], queries[0].dtype)
            back = _unpack(ring.pass_on(packed, step), [*items, *ours])
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
                back = _unpack(ring.pass_on(_pack(parcel, queries[0].dtype), step), parcel)
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


class _Gather(torch.autograd.Function):
    """Rows of all processes, one below the other; the gradient of a process's rows is the sum over all processes."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int], group: Group) -> Tensor:
        ctx.counts, ctx.group = counts, group
        return _join(rows, counts, group)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        grad = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad, group=ctx.group)  # gloo has no reduce-scatter for uneven shares
        here = rank(ctx.group)
        start = sum(ctx.counts[:here])
        return grad[start : start + ctx.counts[here]], None, None


def _join(rows: Tensor, counts: list[int], group: Group) -> Tensor:
    """(n, f) rows of every process, one below the other."""
    padded = rows.new_zeros(max(1, *counts), rows.shape[1])
    padded[: len(rows)] = rows.detach()
    return torch.cat([part[:count] for part, count in zip(_all_gather(padded, group), counts, strict=True)])


def _counts(n: int, device: torch.device, group: Group) -> list[int]:
    """How many items each process has."""
    return [int(count) for count in _all_gather(torch.tensor([n], device=device), group)]


def _all_gather(tensor: Tensor, group: Group) -> list[Tensor]:
    if world_size(group) == 1:
        return [tensor]
    tensors = [torch.empty_like(tensor) for _ in range(world_size(group))]
    dist.all_gather(tensors, tensor.contiguous(), group=group)
    return tensors


def _pack(parts: list[Tensor], dtype: torch.dtype | None = None) -> Tensor:
    """Tensors of n rows as one (n, f) matrix."""
    return torch.cat([part.reshape(len(part), _width(part)).to(dtype or parts[0].dtype) for part in parts], 1)


def _unpack(rows: Tensor, like: list[Tensor]) -> list[Tensor]:
    """Undo `_pack` for a matrix of any number of rows; shapes and types are those of `like`."""
    parts = torch.split(rows, [_width(part) for part in like], 1)
    return [part.reshape(len(rows), *other.shape[1:]).to(other.dtype) for part, other in zip(parts, like, strict=True)]


def _width(part: Tensor) -> int:
    return math.prod(part.shape[1:])


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")
