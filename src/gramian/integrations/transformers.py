"""An Aligner, or any model that makes Bundles, under `transformers.Trainer`: `ForTrainer` is its model, `collate` its collator.

model = ForTrainer(aligner, Pairwise(temperature=0.2))
arguments = TrainingArguments("runs/trainer", remove_unused_columns=False)
Trainer(model, arguments, train_dataset=rows, data_collator=collate(aligner)).train()
aligner.save_pretrained("runs/aligner")
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gramian.bundle import Bundle
from gramian.data.batches import Batch, Collator
from gramian.data.cells import is_empty
from gramian.distributed import Gathered
from gramian.errors import InputError, TooSmallError, listing
from gramian.losses.base import Loss
from gramian.model.aligner import Aligner
from gramian.training.objective import tied_parameters

__all__ = ["ForTrainer", "collate"]

logger: logging.Logger = logging.getLogger("gramian")


class ForTrainer(nn.Module):
    """A model and its loss as one module, which `transformers.Trainer` trains and evaluates as it is.

    `TrainingArguments` need `remove_unused_columns=False`: the columns are known to the aligner, not to a signature. With a
    `weight_decay` Trainer decays a learned temperature, too, towards 1; fix it (`learn_temperature=False`) or do without.
    A batch that holds nothing to contrast, as a last batch of one row, costs 0 and is logged.

    Checkpoints hold weights that several modules share once; `aligner.save_pretrained` writes the model for use.

    Args:
        aligner: an Aligner, or a module that makes a Bundle of one argument: a Batch, or a dict of columns.
        loss: what is minimised.
        gather: whether the items of all processes are contrasted with each other.

    Raises:
        InputError: a `loss` that is not gramian's.
    """

    accepts_loss_kwargs = False
    """Trainer divides the loss by the number of accumulated steps, and passes no number of items."""

    def __init__(self, aligner: nn.Module, loss: Loss, *, gather: bool = True) -> None:
        super().__init__()
        if not isinstance(loss, Loss):
            raise InputError(f"`loss` must be a loss of gramian, such as Pairwise(); got {type(loss).__name__}.")
        self.aligner = aligner
        self.loss: Loss = Gathered(loss) if gather else loss
        self.register_state_dict_post_hook(_drop_twins)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(_excuse_twins)  # type: ignore[no-untyped-call]

    def forward(self, return_loss: bool = True, **columns: Any) -> dict[str, Tensor]:
        """The loss of one batch.

        Args:
            return_loss: not used; Trainer evaluates the loss only of models that have this argument.
            columns: `batch`, as `collate` makes it; or name → (n, width) features.

        Returns:
            {"loss": a scalar}.

        Raises:
            InputError: an `aligner` whose output is no Bundle; columns that it does not read.
        """
        del return_loss
        batch = columns.get("batch")
        bundle = self.aligner(batch if isinstance(batch, Batch) else columns)
        if not isinstance(bundle, Bundle):
            raise InputError(f"`aligner` must make a Bundle; got {type(bundle).__name__}.")
        try:
            return {"loss": self.loss(bundle).total}
        except TooSmallError as error:
            logger.warning("a batch was left out: %s", error)
            return {"loss": bundle.vectors.sum() * 0}


def collate(
    aligner: Aligner, *, items: str | None = None, draw: bool = False
) -> Callable[[Sequence[Mapping[str, Any]]], dict[str, Batch]]:
    """The collator for rows of a data set whose columns are named as the Aligner's modalities; other columns are left alone.

    Cells are features or raw, as the Aligner's towers read them; None, "" and [] are empty. Rows without a filled cell are
    left out. The collator holds no weights and works in the loading processes.

    Args:
        aligner: whose readers are used.
        items: a column that says what a row is about; rows with one value are no negatives of each other.
        draw: draw windows of recordings and frames of videos, as in training; otherwise a cell is always read the same way.

    Returns:
        Rows → {"batch": their Batch}; it raises an InputError if no row has a filled cell.
    """
    return partial(_collate, aligner.collator(), items, draw)


def _collate(collator: Collator, items: str | None, draw: bool, rows: Sequence[Mapping[str, Any]]) -> dict[str, Batch]:
    filled = [row for row in rows if not all(is_empty(row.get(name)) for name in collator.readers)]
    if not filled:
        raise InputError(
            f"`rows` must hold a filled cell of {', '.join(collator.readers)}; they have {listing(rows[0]) or 'no columns'}. "
            "Trainer drops columns unless `remove_unused_columns=False`."
        )
    columns = {name: [row.get(name) for row in filled] for name in collator.readers}
    table = collator.table(columns, item_ids=None if items is None else [str(row[items]) for row in filled])
    return {"batch": collator(table, seed=int(torch.randint(2**62, ())) if draw else None)}


def _drop_twins(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """safetensors, which Trainer writes, refuses one tensor under two names."""
    del metadata
    for name in tied_parameters(module):
        state.pop(prefix + name, None)


def _excuse_twins(module: nn.Module, keys: Any) -> None:
    known = tuple(tied_parameters(module))
    keys.missing_keys[:] = [name for name in keys.missing_keys if not name.endswith(known)]
