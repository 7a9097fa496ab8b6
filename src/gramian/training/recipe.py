"""`Recipe`: how to train; `History`: what happened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args, get_type_hints

from gramian.data.cells import Broken
from gramian.errors import check_choice, check_number, check_type
from gramian.model.options import convert

__all__ = ["History", "Precision", "Recipe"]

Precision: TypeAlias = Literal["no", "bf16", "fp16"]
Schedule: TypeAlias = Literal["cosine", "linear"]


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: passes over the training items.
        batch_size: items that are contrasted with each other, over all processes; the whole table where it is smaller. The
            incomplete last batch of an epoch is left out.
        micro_batch: items that a process encodes at a time, with the gradient cached (`gramian.training.caching`); all by
            default.
        accumulate: batches per step of the optimiser: their gradients are averaged. Items of different batches are not
            contrasted.
        modality_dropout: probability that a modality of an item is left out of a step, drawn anew each time; two are always
            kept. It trains for items that lack some (docs/evaluation.md).
        ring: whether processes pass their items round instead of gathering all (see `gramian.distributed.Ring`).
        learning_rate: peak of AdamW's rate, after a linear warm-up and before a decay to 0. A tower may have its own.
        schedule: the decay: "cosine", or "linear" as in the released models.
        beta2: how slowly AdamW forgets the size of gradients.
        epsilon: AdamW's guard against division by 0.
        weight_decay: on weight matrices alone; never on biases or temperatures.
        warmup: share of the steps spent warming up.
        max_gradient_norm: gradients are scaled down to this length.
        precision: "no" for float32, "bf16" or "fp16" for mixed precision.
        seed: of the batches and of dropout; one seed gives one result on the CPU. The heads' initial weights have a seed of
            their own, in `Aligner.for_table`.
        evaluate_every: epochs between validations.
        patience: stop after this many validations without improvement; None never stops early.
        checkpoint_every: epochs between checkpoints, if an output folder is given.
        workers: processes that decode raw media ahead of the model, in each process that trains; 0 decodes in between steps.
            The result does not depend on it.

    Raises:
        InputError: a value of another type or outside its range.
    """

    epochs: int = 40
    batch_size: int = 128
    micro_batch: int | None = None
    accumulate: int = 1
    modality_dropout: float = 0.0
    ring: bool = False
    learning_rate: float = 1e-3
    schedule: Schedule = "cosine"
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    warmup: float = 0.1
    max_gradient_norm: float = 1.0
    precision: Precision = "no"
    seed: int = 0
    evaluate_every: int = 2
    patience: int | None = None
    checkpoint_every: int = 10
    workers: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "accumulate", "evaluate_every", "checkpoint_every"):
            check_number(name, getattr(self, name), "[1, inf)", integer=True)
        for name in ("micro_batch", "patience"):
            check_number(name, getattr(self, name), "[1, inf)", integer=True, optional=True)
        check_number("batch_size", self.batch_size, "[2, inf)", integer=True, why="for one item has nothing to contrast with")
        check_number("workers", self.workers, "[0, 1024]", integer=True)
        check_number("seed", self.seed, "[0, 4294967296)", integer=True)
        check_number("learning_rate", self.learning_rate, "(0, 10]")
        check_choice("schedule", self.schedule, get_args(Schedule))
        check_number("beta2", self.beta2, "[0, 1)")
        check_number("epsilon", self.epsilon, "(0, 1]")
        check_number("weight_decay", self.weight_decay, "[0, 100]")
        check_number("modality_dropout", self.modality_dropout, "[0, 1)")
        check_number("warmup", self.warmup, "[0, 1)")
        check_number("max_gradient_norm", self.max_gradient_norm, "(0, inf)")
        check_type("ring", self.ring, bool)
        check_choice("precision", self.precision, get_args(Precision))


@dataclass
class History:
    """What happened in `fit`.

    Attributes:
        records: one dict per epoch: "epoch", "skipped" (batches that held nothing to contrast), "loss", a "loss/…" for each
            part, "temperature" where the loss has one, and at each validation "validation/loss" and the figures of
            `gramian.training.watching.validation_figures`: MRR, recall by direction, gap, antipodal share.
        best_epoch: the epoch whose weights the Aligner ends with: the best validation MRR, or the last without validation.
        best: that validation MRR; None without validation.
        looks_since_best: validations since.
        broken: the cells that could not be read, each once; they counted as missing.
    """

    records: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best: float | None = None
    looks_since_best: int = 0
    broken: list[Broken] = field(default_factory=list)

    @property
    def chosen(self) -> str:
        """What was chosen, in words."""
        return f"epoch {self.best_epoch} of {len(self.records)}"

    def note(self, broken: Iterable[Broken]) -> None:
        """Add cells that could not be read, each once."""
        new = tuple(broken)
        if new:
            self.broken = list({(cell.modality, cell.id): cell for cell in (*self.broken, *new)}.values())

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints: plain data."""
        return vars(self) | {"broken": [tuple(cell) for cell in self.broken]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """From a checkpoint.

        Raises:
            InputError: data of another type.
        """
        hints = get_type_hints(History) | {"records": list[dict[str, int | float]], "broken": list[tuple[str, str, str]]}
        values = {name: convert(state[name], hint, name) for name, hint in hints.items()}
        vars(self).update(values | {"broken": [Broken(*cell) for cell in values["broken"]]})
