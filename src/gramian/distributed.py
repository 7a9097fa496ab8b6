"""Work across processes: ranks and devices, and Bundles and losses over the items of all processes.

Two ways to contrast the items of every process with each other:

- `Gathered(loss)`: every process collects all items, with gradient, and computes the whole loss. Any loss; n² work each.
- `Ring(loss)`: every process keeps its own queries, and the items pass from one to the next. No process ever holds all items
  or all pairs, and the work is shared; for losses that are softmaxes or sigmoids over pairs, and for PMRL.

Both give the value and the gradient that one process would have with all the items, under the rule of data-parallel training
that gradients are averaged over the processes (as DistributedDataParallel and FSDP do). Processes may hold different numbers
of items, or none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from gramian.bundle import Bundle, Vectors
from gramian.errors import InputError
from gramian.kernels import Exchange
from gramian.losses.base import Loss, LossOutput, Sum
from gramian.losses.pmrl import PMRL
from gramian.losses.softmax import SoftmaxLoss
from gramian.papers import Paper
from gramian.processes import Group, check_precision, device, is_main_process, join, rank, share, world_size
from gramian.ring import RingExchange, all_gather, join_rows, pack, unpack
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
    heads = torch.stack(all_gather(head, group))
    if (heads[:, 1] != heads[0, 1]).any():
        raise InputError(
            "`bundle` must have the same modalities, width, type, ids and tokens in every process; got otherwise. "
            f"Here: {bundle!r}, {'without' if bundle.item_ids is None else 'with'} ids, tokens of {', '.join(named) or 'none'}."
        )
    counts = heads[:, 0].tolist()
    if named:
        longest = torch.stack(all_gather(torch.tensor(lengths, device=device), group)).amax(0).tolist()
        tokens = {name: bundle.tokens[name].padded(size) for name, size in zip(named, longest, strict=True)}
    else:
        tokens = {}
    # One collective for tensors with a gradient, one for the rest: their order cannot differ between processes.
    values = [bundle.vectors, *(part.values.to(bundle.vectors.dtype) for part in tokens.values())]
    masks = [bundle.present, *(part.present for part in tokens.values())]
    ids = [] if bundle.item_ids is None else [bundle.item_ids[:, None]]
    gathered = unpack(_Gather.apply(pack(values), counts, group), values)  # type: ignore[no-untyped-call]
    flags = unpack(join_rows(pack([*(mask.long() for mask in masks), *ids]), counts, group), [*masks, *ids])
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
    kinds = torch.stack(all_gather(torch.tensor(_digest(kind), device=tensors[0].device), group))
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
        self.papers: tuple[Paper, ...] = loss.papers
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

    def compute(self, bundle: Bundle, exchange: Exchange) -> LossOutput:
        """As `forward`."""
        return self.forward(bundle, generator=exchange.generator)


class Ring(_OverAll):
    """A loss over the items of all processes; each computes the share of its own queries as the items pass by.

    A process holds its own items and those of one other; pairs are made and dropped in blocks. The backward pass
    sends the items round once more, with their gradients.

    Args:
        loss: one that contrasts pairs (`Gram`, `Pairwise`, `Centroid`, `Triangle`, `HyperGram`, `Contrast` over a score by
            name), `PMRL`, or a sum of such. The hardest negatives, Symile's tuples and the pairs of `Matching` are chosen from
            all items at once: these need `Gathered`.
        group: the processes that take part; all by default.

    Raises:
        InputError: a loss that cannot be computed in shares; use `Gathered`.
    """

    def __init__(self, loss: Loss, group: Group = None) -> None:
        super().__init__(loss, group)
        for part in loss.modules():
            if isinstance(part, Sum) or not isinstance(part, Loss):
                continue
            if not isinstance(part, SoftmaxLoss | PMRL) or getattr(part, "negatives", None) is not None:
                raise InputError(f"`loss` must contrast pairs without choosing among them; got {part!r}. Use Gathered.")
            if getattr(part, "backend", "torch") != "torch":
                raise InputError(f"`loss` must have the backend 'torch' to pass round a ring; got {part!r}. Use Gathered.")

    def compute(self, bundle: Bundle, exchange: Exchange) -> LossOutput:
        """The loss of the items of all processes; the value is the same in each, its gradient is this process's share."""
        return self.loss.compute(bundle, RingExchange(self.group, bundle.vectors.device, exchange.generator))


class _Gather(torch.autograd.Function):
    """Rows of all processes, one below the other; the gradient of a process's rows is the sum over all processes."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int], group: Group) -> Tensor:
        ctx.counts, ctx.group = counts, group
        return join_rows(rows, counts, group)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        grad = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad, group=ctx.group)  # gloo has no reduce-scatter for uneven shares
        here = rank(ctx.group)
        start = sum(ctx.counts[:here])
        return grad[start : start + ctx.counts[here]], None, None


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")
