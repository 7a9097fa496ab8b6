"""Large contrastive batches on one device: the loss sees every item, the encoders a few at a time.

The gradient of a contrastive loss reaches the encoders through the embeddings alone. So the embeddings are computed without a
graph, part by part; the loss is differentiated with respect to them; and each part is encoded once more, with a graph, to
carry its embeddings' gradient on. The result is the gradient of the whole batch, to rounding, in the memory of one part, for
one more forward pass. Source: GradCache, here for any number of towers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from gramian.bundle import Bundle
from gramian.errors import InputError
from gramian.losses.base import LossOutput
from gramian.tokens import Tokens

__all__ = ["cached_backward", "carry_gradients", "encode_parts"]

Part = TypeVar("Part")
Output = TypeVar("Output")

RandomState: TypeAlias = tuple[Tensor, Tensor | None]
"""State of the CPU's generator and, where CUDA is in use, of the current device's."""


def cached_backward(
    encode: Callable[[Part], Bundle],
    parts: Sequence[Part],
    loss: Callable[[Bundle], LossOutput],
    *,
    backward: Callable[[Tensor], Any] = torch.Tensor.backward,
    no_sync: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> LossOutput:
    """The loss of all parts together, and its gradient added to the parameters of the encoders and of the loss.

    Random numbers, as of dropout, are the same in the second pass over a part as in the first. Under DistributedDataParallel
    or FSDP let `encode` go through the wrapped module, `loss` gather the items of the other processes
    (`gramian.distributed.Gathered`) and `no_sync` be the module's: gradients are exchanged with the last part alone. A
    parameter of the wrapped module that `encode` does not reach is then not exchanged.

    Args:
        encode: a part → its Bundle; for example an Aligner. Called twice per part.
        parts: of the batch: tables, dicts of features, whatever `encode` takes.
        loss: all embeddings → LossOutput.
        backward: how a scalar is differentiated: `accelerator.backward`, where it scales losses of half precision.
        no_sync: a context in which gradients are added up and not exchanged.

    Returns:
        The output of `loss`, detached.

    Raises:
        InputError: no parts.
        TooSmallError: from `loss`, before anything is differentiated.

    >>> from gramian import Pairwise
    >>> from gramian.model import Aligner, Modality
    >>> aligner = Aligner({"text": Modality(4), "image": Modality(3)}, 8)
    >>> parts = [{"text": torch.randn(5, 4), "image": torch.randn(5, 3)} for _ in range(2)]
    >>> output = cached_backward(aligner, parts, Pairwise())  # a batch of 10 in the memory of 5
    >>> all(parameter.grad is not None for parameter in aligner.parameters())
    True
    """
    if not len(parts):
        raise InputError("`parts` must hold at least one part of the batch; got none.")
    bundles, states = encode_parts(encode, parts)
    bundle = Bundle.cat(bundles)
    values = [bundle.vectors, *(tokens.values for tokens in bundle.tokens.values())]
    leaves = [value.detach().requires_grad_() for value in values]
    tokens = {name: Tokens(leaf, old.present) for (name, old), leaf in zip(bundle.tokens.items(), leaves[1:], strict=True)}
    with no_sync():
        output = loss(Bundle(leaves[0], bundle.present, bundle.modalities, bundle.item_ids, tokens))
        backward(output.total)
    grads = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
    ends = list(accumulate(map(len, bundles), initial=0))

    def carried(place: int, part: Part) -> Tensor:
        again, rows = encode(part).select(*bundle.modalities), slice(ends[place], ends[place + 1])
        total = (again.vectors * grads[0][rows]).sum()
        for name, grad in zip(bundle.tokens, grads[1:], strict=True):
            values = again.tokens[name].values
            total = total + (values * grad[rows, : values.shape[1]]).sum()
        return total

    carry_gradients(carried, parts, states, no_sync=no_sync)
    return LossOutput(output.total.detach(), {name: value.detach() for name, value in output.parts.items()}, output.empty_rows)


def encode_parts(encode: Callable[[Part], Output], parts: Sequence[Part]) -> tuple[list[Output], list[RandomState]]:
    """The first pass: what `encode` makes of each part, without a graph, and the random state that it started from."""
    outputs, states = [], []
    with torch.no_grad():
        for part in parts:
            on_cuda = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
            states.append((torch.get_rng_state(), torch.cuda.get_rng_state() if on_cuda else None))
            outputs.append(encode(part))
    return outputs, states


def carry_gradients(
    carried: Callable[[int, Part], Tensor],
    parts: Sequence[Part],
    states: Sequence[RandomState],
    *,
    no_sync: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> None:
    """The second pass: from the embeddings' gradients to those of the encoders, part by part.

    Args:
        carried: number and part → the inner product of its embeddings, encoded once more, with their gradient.
        parts: as in the first pass.
        states: from `encode_parts`.
        no_sync: the context of every part but the last, in which processes do not exchange gradients.
    """
    devices = [torch.cuda.current_device()] if any(cuda is not None for _, cuda in states) else []
    with torch.enable_grad(), torch.random.fork_rng(devices):
        for place, (part, (cpu, cuda)) in enumerate(zip(parts, states, strict=True)):
            torch.set_rng_state(cpu)
            if cuda is not None:
                torch.cuda.set_rng_state(cuda)
            with no_sync() if place < len(parts) - 1 else nullcontext():
                scalar = carried(place, part)
                if scalar.requires_grad:
                    scalar.backward()  # type: ignore[no-untyped-call]
