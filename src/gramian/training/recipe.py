"""`Recipe`: how to train; `History`: what happened."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from gramian.data.cells import Broken
from gramian.errors import InputError

if TYPE_CHECKING:
    pass


__all__ = ["History", "Recipe"]


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: passes over the training items.
        batch_size: items that are contrasted with each other, over all processes; the whole table where it is smaller. The
            incomplete last batch of an epoch is left out.
        micro_batch: items that a process encodes at a time, with the gradient cached (`gramian.training.caching`); all by
            default.
        accumulate: batches a step of the optimiser: their gradients are averaged. Items of different batches are not
            contrasted.
        ring: whether processes pass their items round in place of gathering all (see `gramian.distributed.Ring`).
        learning_rate: peak of AdamW's rate, reached by a linear warm-up and left by a cosine to 0. A tower may have its own.
        weight_decay: on weight matrices alone; never on biases or temperatures.
        warmup: share of the steps spent warming up.
        max_gradient_norm: gradients are scaled down to this length.
        precision: "no" for float32, "bf16" or "fp16" for mixed precision.
        seed: of the batches and of dropout; one seed gives one result on the CPU. The heads' first weights have a seed of
            their own, in `Aligner.for_table`.
        evaluate_every: epochs between two looks at the validation split.
        patience: stop after this many looks without a better one; None never stops early.
        checkpoint_every: epochs between checkpoints, where there is a folder to write to.
        workers: processes that decode raw media ahead of the model, in each process that trains; 0 decodes in between steps.
            The result does not hang on it.
    """

    epochs: int = 40
    batch_size: int = 128
    micro_batch: int | None = None
    accumulate: int = 1
    ring: bool = False
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    warmup: float = 0.1
    max_gradient_norm: float = 1.0
    precision: Literal["no", "bf16", "fp16"] = "no"
    seed: int = 0
    evaluate_every: int = 2
    patience: int | None = None
    checkpoint_every: int = 10
    workers: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "evaluate_every", "checkpoint_every", "accumulate"):
            if getattr(self, name) < 1:
                raise InputError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        if self.micro_batch is not None and self.micro_batch < 1:
            raise InputError(f"`micro_batch` must be at least 1 or None; got {self.micro_batch}.")
        if self.batch_size < 2:
            raise InputError(
                f"`batch_size` must be at least 2, for there is nothing to contrast one item with; got {self.batch_size}."
            )
        for name in ("learning_rate", "max_gradient_norm"):
            if not getattr(self, name) > 0:
                raise InputError(f"`{name}` must be positive; got {getattr(self, name)}.")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"`seed` must lie in [0, 2³²); got {self.seed}.")
        if not 0 <= self.warmup < 1:
            raise InputError(f"`warmup` must lie in [0, 1); got {self.warmup}.")
        if self.workers < 0:
            raise InputError(f"`workers` must not be negative; got {self.workers}.")
        if self.weight_decay < 0:
            raise InputError(f"`weight_decay` must not be negative; got {self.weight_decay}.")
        if self.patience is not None and self.patience < 1:
            raise InputError(f"`patience` must be at least 1 or None; got {self.patience}.")


@dataclass
class History:
    """What happened in `fit`.

    Attributes:
        records: one dict an epoch: "epoch", "skipped" (batches that held nothing to contrast), "loss", a "loss/…" for each
            part, "temperature" where there is one, and at each look at the validation split "validation/mrr" and
            "validation/recall@1", means over all queries of the directions between two modalities.
        best_epoch: the epoch whose weights the Aligner ends with: the best validation MRR, or the last without validation.
        best: that validation MRR; None without validation.
        looks_since_best: looks at the validation split since.
        broken: modality → id → why the cell could not be read; it counted as missing.
    """

    records: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best: float | None = None
    looks_since_best: int = 0
    broken: dict[str, dict[str, str]] = field(default_factory=dict)

    def note(self, broken: Iterable[Broken]) -> None:
        """Take down what could not be read."""
        for row, modality, reason in broken:
            self.broken.setdefault(modality, {})[row] = reason

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        for name, value in state.items():
            setattr(self, name, value)
