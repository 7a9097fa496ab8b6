"""Losses for `SentenceTransformerTrainer`: every column of the training data is a modality, under any loss of this library.

`AlignmentLoss` embeds a batch at once; `CachedAlignmentLoss` a few rows at a time, for batches that do not fit in memory. Both
take two columns or more, and count empty texts as missing:

    loss = AlignmentLoss(model, Gram(score="cone", anchor="each"), columns=("title", "abstract", "query"))
    SentenceTransformerTrainer(model, arguments, train_dataset=rows, loss=loss).train()
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gramian.bundle import Bundle
from gramian.distributed import Gathered
from gramian.errors import InputError, TooSmallError, check_number
from gramian.geometry import widened
from gramian.losses.base import Loss
from gramian.papers import GRADCACHE, Paper
from gramian.training.caching import carry_gradients, encode_parts

__all__ = ["AlignmentLoss", "CachedAlignmentLoss"]

logger: logging.Logger = logging.getLogger("gramian")

Features = Mapping[str, Any]
"""What a Sentence Transformer's tokeniser makes of one column: names → tensors of n rows, and options."""


class AlignmentLoss(nn.Module):
    """Any loss over a Bundle, as a loss of Sentence Transformers.

    The columns of the data set are the modalities, in their order; a column `label` of whole numbers says which rows are one
    item, and so no negatives of each other. The parameters of `loss`, such as temperatures, are trained with the model's.

    A text that is empty ("", or nothing but white space) is a missing modality. Sentence Transformers' collator refuses None:
    write "" instead. Columns that are not text have no missing cells. A batch that holds nothing to contrast, as a last batch
    of one row, costs 0 and is logged.

    Args:
        model: the Sentence Transformer.
        loss: what is minimised.
        columns: names of the modalities, for losses that name an anchor; "0", "1", … by default.
        gather: whether the items of all processes are contrasted with each other. Without it, and with several processes,
            each of them follows its own gradient for the parameters of `loss`.

    Raises:
        InputError: a `loss` that is not gramian's; `columns` that are not at least two different names.
    """

    def __init__(self, model: Any, loss: Loss, *, columns: Sequence[str] | None = None, gather: bool = True) -> None:
        super().__init__()
        if not isinstance(loss, Loss):
            raise InputError(f"`loss` must be a loss of gramian, such as Pairwise(); got {type(loss).__name__}.")
        if isinstance(columns, str) or (columns is not None and len(set(columns)) != max(2, len(columns))):
            raise InputError(f"`columns` must be at least two different names, one per column of the data; got {columns!r}.")
        self.model = model
        self.loss: Loss = Gathered(loss) if gather else loss
        self.columns: tuple[str, ...] | None = None if columns is None else tuple(columns)
        self.gather = gather
        self._empty = _empty_text(model)

    def forward(self, sentence_features: Iterable[Features], labels: Tensor | None = None) -> Tensor:
        """The loss of one batch.

        Args:
            sentence_features: one mapping of tokenised inputs per column, n rows each.
            labels: (n,) whole numbers, equal where rows are one item; others are not used.

        Returns:
            A scalar.

        Raises:
            InputError: fewer than two columns, or other columns than `columns` names.
        """
        features = list(sentence_features)
        present = self._present(features)
        return self.calculate_loss([[self._embed(column)] for column in features], labels, present=present)

    def calculate_loss(
        self,
        reps: Sequence[Sequence[Tensor]],
        labels: Tensor | None = None,
        *,
        present: Sequence[Tensor | None] | None = None,
        with_backward: bool = False,
    ) -> Tensor:
        """The loss of embeddings.

        Args:
            reps: for each column its embeddings, (n, d) in parts.
            labels: see `forward`.
            present: for each column an (n,) mask, or None where nothing is missing.
            with_backward: differentiate it here, and give back its value alone.

        Returns:
            A scalar.
        """
        names = self._names(len(reps))
        # Unit length and scores need more than the 16 bits of autocast.
        columns = {name: widened(torch.cat(list(parts))) for name, parts in zip(names, reps, strict=True)}
        masks = {name: mask for name, mask in zip(names, present or (), strict=present is not None) if mask is not None}
        self.loss.train(self.model.training)
        try:
            bundle = Bundle.from_dict(columns, present=masks, item_ids=_ids(labels), check=False)
            total: Tensor = self.loss(bundle).total
        except TooSmallError as error:
            logger.warning("a batch was left out: %s", error)
            total = torch.stack([values.sum() for values in columns.values()]).sum() * 0
        if with_backward and total.requires_grad:
            total.backward()  # type: ignore[no-untyped-call]
        return total.detach() if with_backward else total

    def get_config_dict(self) -> dict[str, Any]:
        """What the model card says of this loss."""
        return {"loss": repr(self._objective()), "columns": self.columns, "gather": self.gather}

    @property
    def citation(self) -> str:
        """BibTeX of the papers that the loss is from, and of GradCache where gradients are cached."""
        return "".join(f"\n{paper.bibtex()}\n" for paper in self._papers())

    def _papers(self) -> Sequence[Paper]:
        return self.loss.papers

    def _objective(self) -> Loss:
        return self.loss.loss if isinstance(self.loss, Gathered) else self.loss

    def _names(self, count: int) -> tuple[str, ...]:
        if count < 2:
            raise InputError(f"`sentence_features` must hold at least two columns to align; got {count}.")
        if self.columns is not None and len(self.columns) != count:
            raise InputError(
                f"`columns` must name the {count} columns of the data; got {len(self.columns)}: {', '.join(self.columns)}."
            )
        return self.columns or tuple(map(str, range(count)))

    def _embed(self, features: Features) -> Tensor:
        embeddings: Tensor = self.model(dict(features))["sentence_embedding"]
        return embeddings

    def _present(self, features: Sequence[Features]) -> list[Tensor | None]:
        """For each column which rows hold a text; None where it is no text. Call it before the model changes the masks."""
        return [self._empty.filled(column) for column in features]


class CachedAlignmentLoss(AlignmentLoss):
    """`AlignmentLoss` for batches that do not fit in memory: the gradient of the whole batch in the memory of a part.

    Every column is embedded without a graph, `mini_batch_size` rows at a time; the loss is differentiated with respect to the
    embeddings; and when `backward` of the returned scalar is called, each part is embedded once more, with the same dropout,
    to carry its gradient on. The parameters of the loss get theirs like any others. Source: GradCache.

    Args:
        model: the Sentence Transformer.
        loss: what is minimised.
        mini_batch_size: rows that are embedded at a time.
        columns: see `AlignmentLoss`.
        gather: see `AlignmentLoss`.

    Raises:
        InputError: a `mini_batch_size` below 1; see `AlignmentLoss`.
    """

    uses_gradient_cache = True
    """For `MatryoshkaLoss`, which then cuts the embeddings that `calculate_loss` is given."""

    def __init__(
        self,
        model: Any,
        loss: Loss,
        *,
        mini_batch_size: int = 32,
        columns: Sequence[str] | None = None,
        gather: bool = True,
    ) -> None:
        super().__init__(model, loss, columns=columns, gather=gather)
        self.mini_batch_size: int = check_number("mini_batch_size", mini_batch_size, "[1, inf)", integer=True)

    def forward(self, sentence_features: Iterable[Features], labels: Tensor | None = None) -> Tensor:
        """The loss of one batch; arguments as for `AlignmentLoss`."""
        features = list(sentence_features)
        present = self._present(features)
        columns = [_parts(column, self.mini_batch_size) for column in features]
        parts = [part for column in columns for part in column]
        outputs, states = encode_parts(lambda part: widened(self._embed(part)), parts)
        learning = torch.is_grad_enabled()
        remaining = iter(output.requires_grad_(learning) for output in outputs)
        reps = [list(islice(remaining, len(column))) for column in columns]
        if not learning:
            return self.calculate_loss(reps, labels, present=present)
        # The gradients of the loss's own parameters are set aside here and return below, with the caller's scale.
        own = [parameter for parameter in self.loss.parameters() if parameter.requires_grad]
        before = [parameter.grad for parameter in own]
        for parameter in own:
            parameter.grad = None
        try:
            total = self.calculate_loss(reps, labels, present=present, with_backward=True)
            shares = [(parameter * parameter.grad.clone()).sum() for parameter in own if parameter.grad is not None]
        finally:
            for parameter, grad in zip(own, before, strict=True):
                parameter.grad = grad
        if shares:
            share = torch.stack(shares).sum()
            total = total + (share - share.detach())
        else:
            total = total.detach().requires_grad_()
        grads = [torch.zeros_like(output) if output.grad is None else output.grad for output in outputs]
        device = grads[0].device.type
        autocast = partial(
            torch.autocast, device, dtype=torch.get_autocast_dtype(device), enabled=torch.is_autocast_enabled(device)
        )
        model = getattr(self.model, "_orig_mod", self.model)
        no_sync = model.no_sync if isinstance(model, DistributedDataParallel) else nullcontext

        def replay(scale: Tensor) -> None:
            def carried(place: int, part: Features) -> Tensor:
                with autocast():
                    embeddings = self._embed(part)
                return (widened(embeddings) * (grads[place] * scale)).sum()

            carry_gradients(carried, parts, states, no_sync=no_sync)

        total.register_hook(replay)  # type: ignore[no-untyped-call]
        return total

    def get_config_dict(self) -> dict[str, Any]:
        """What the model card says of this loss."""
        return super().get_config_dict() | {"mini_batch_size": self.mini_batch_size}

    def _papers(self) -> Sequence[Paper]:
        return [*super()._papers(), GRADCACHE]


class _EmptyText(NamedTuple):
    """The tokens that a tokeniser adds to an empty text.

    Attributes:
        length: how many they are.
        behind: how many of them follow the text.
    """

    length: int
    behind: int

    def filled(self, features: Features) -> Tensor | None:
        """(n,) bool: which texts have a token of their own; None where the features are no text."""
        lengths = _lengths(features)
        if lengths is None or features.get("modality", "text") != "text":
            return None
        if "offsets" in features:
            return lengths > 0
        prompt = features.get("prompt_length")
        if prompt is None:
            return lengths > self.length
        prompt = int(prompt.reshape(-1)[0]) if isinstance(prompt, Tensor) else int(prompt)
        return lengths > prompt + self.behind


def _empty_text(model: Any) -> _EmptyText:
    tokenizer = getattr(model, "tokenizer", None)
    if not callable(tokenizer):
        return _EmptyText(0, 0)
    ids = list(tokenizer("")["input_ids"])
    return _EmptyText(len(ids), int(bool(ids) and ids[-1] in tokenizer.all_special_ids))


def _lengths(features: Features) -> Tensor | None:
    """(n,) tokens of each row, padding aside; None where that is not known."""
    if "cu_seq_lens_q" in features:  # rows one after the other
        return torch.as_tensor(features["cu_seq_lens_q"]).diff()
    if "offsets" in features:  # rows of an EmbeddingBag
        ends = features["offsets"].new_tensor([len(features["input_ids"])])
        return torch.cat([features["offsets"], ends]).diff()
    mask = features.get("attention_mask")
    return mask.sum(1) if isinstance(mask, Tensor) and mask.ndim == 2 else None


def _parts(features: Features, size: int) -> list[dict[str, Any]]:
    """The features of `size` rows at a time, without the padding that none of them needs."""
    tensors = {name: value for name, value in features.items() if isinstance(value, Tensor) and value.ndim}
    rows = {len(value) for name, value in tensors.items() if name != "prompt_length"}
    if len(rows) != 1 or {"cu_seq_lens_q", "offsets"} & set(features):
        raise InputError(
            "`sentence_features` must hold tensors of n rows each to be cut into mini-batches; "
            f"got {', '.join(f'{name} {tuple(value.shape)}' for name, value in tensors.items())}. Use AlignmentLoss."
        )
    n = rows.pop()
    parts = []
    for start in range(0, n, size):
        part = {
            name: value[start : start + size].clone() if name in tensors and len(value) == n else value
            for name, value in features.items()
        }
        mask = part.get("attention_mask")
        if isinstance(mask, Tensor) and mask.ndim == 2 and mask.any():
            width, needed = mask.shape[1], int(mask.any(0).nonzero().max()) + 1
            for name, value in part.items():
                if isinstance(value, Tensor) and not value.is_floating_point() and value.shape[1:] == (width,):
                    part[name] = value[:, :needed]
        parts.append(part)
    return parts


def _ids(labels: Tensor | None) -> Tensor | None:
    whole = labels is not None and labels.ndim == 1 and not labels.is_floating_point() and labels.dtype != torch.bool
    return labels if whole else None
