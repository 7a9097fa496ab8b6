"""Large contrastive batches on one device: the loss sees every item, the encoders a few at a time.

The gradient of a contrastive loss reaches the encoders through the embeddings alone. So the embeddings are computed without a
graph, part by part; the loss is differentiated with respect to them; and each part is encoded once more, with a graph, to
carry its embeddings' gradient on. The result is the gradient of the whole batch, to rounding, in the memory of one part, for
one more forward pass. Source: GradCache (arXiv 2101.06983), here for any number of towers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor

from gramian.bundle import Bundle
from gramian.errors import InputError
from gramian.losses.base import LossOutput
from gramian.tokens import Tokens

__all__ = ["cached_backward", "random_state", "set_random_state"]

Part = TypeVar("Part")


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
        encode: a part → its Bundle; an Aligner, for one. Called twice a part.
        parts: of the batch: tables, dicts of features, whatever `encode` takes.
        loss: all embeddings → LossOutput.
        backward: how a scalar is differentiated: `accelerator.backward`, where it scales losses of half precision.
        no_sync: a context in which gradients are added up and not exchanged.

    Returns:
        What `loss` gave, detached.

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
    states, found = [], []
    with torch.no_grad():
        for part in parts:
            states.append(random_state())
            found.append(encode(part))
    bundle = Bundle.cat(found)
    values = [bundle.vectors, *(tokens.values for tokens in bundle.tokens.values())]
    leaves = [value.detach().requires_grad_() for value in values]
    tokens = {name: Tokens(leaf, old.present) for (name, old), leaf in zip(bundle.tokens.items(), leaves[1:], strict=True)}
    with no_sync():
        output = loss(Bundle(leaves[0], bundle.present, bundle.modalities, bundle.item_ids, tokens))
        backward(output.total)
    grads = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
    start = 0
    with torch.random.fork_rng():
        for place, (part, state) in enumerate(zip(parts, states, strict=True)):
            set_random_state(state)
            last = place == len(parts) - 1
            with nullcontext() if last else no_sync():
                again = encode(part).select(*bundle.modalities)
                rows = slice(start, start + len(again))
                carried = (again.vectors * grads[0][rows]).sum()
                for name, grad in zip(bundle.tokens, grads[1:], strict=True):
                    part_tokens = again.tokens[name].values
                    carried = carried + (part_tokens * grad[rows, : part_tokens.shape[1]]).sum()
                carried.backward()  # type: ignore[no-untyped-call]
            start = rows.stop
    return LossOutput(output.total.detach(), {name: value.detach() for name, value in output.parts.items()}, output.empty_rows)


def random_state() -> tuple[Tensor, Tensor | None]:
    """Of the CPU, and of the current CUDA device."""
    on_cuda = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return torch.get_rng_state(), torch.cuda.get_rng_state() if on_cuda else None


def set_random_state(state: tuple[Tensor, Tensor | None]) -> None:
    """Put back what `random_state` gave."""
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])
