"""A leash: training by a loss that stays near heads solved in closed form, as near as is best on validation items."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gramian.bundle import Bundle
from gramian.canonical import Moments
from gramian.data.batches import Reading
from gramian.data.cells import Broken
from gramian.data.table import Table
from gramian.distributed import is_main_process
from gramian.errors import InputError, check_number
from gramian.files import write_lines
from gramian.kernels import Exchange
from gramian.losses.base import Loss, LossOutput
from gramian.model.aligner import Aligner
from gramian.model.heads import Residual, linear_of
from gramian.model.starts import EncodedRows, moments_of
from gramian.training.fit import fit
from gramian.training.recipe import History, Recipe
from gramian.training.watching import validation_figures

__all__ = ["Leash", "Leashed", "fit_leashed"]

logger: logging.Logger = logging.getLogger("gramian")


class Leash(Loss):
    """How far heads have moved from where they started: the mean over modalities of E‖h(x) − h⁰(x)‖² / E‖h⁰(x) − E h⁰(x)‖².

    x is what the linear map of the head reads, over the training rows, so that no batch is needed: of the map W x + b it is
    (tr ΔW C ΔWᵀ + ‖ΔW μ + Δb‖²) / tr W⁰ C W⁰ᵀ, C the covariance and μ the mean of x. A head "residual" adds ‖W₂‖² + ‖b₂‖² of
    the last layer of its MLP, which starts at zero.

    Args:
        heads: modality → a head with a linear map, as it starts.
        moments: of what their linear maps read.

    Raises:
        InputError: a head without a linear map.
    """

    def __init__(self, heads: Mapping[str, nn.Module], moments: Moments) -> None:
        super().__init__()
        self.names: list[str] = [name for name in heads if moments.count(name)]
        self.heads: nn.ModuleList = nn.ModuleList([heads[name] for name in self.names])
        for i, (name, head) in enumerate(zip(self.names, self.heads, strict=True)):
            linear = linear_of(head)
            start = {
                "weight": linear.weight.detach().clone(),
                "bias": linear.bias.detach().clone(),
                "covariance": moments.covariance(name, name).to(linear.weight),
                "mean": moments.mean(name).to(linear.weight),
            }
            for part, value in start.items():
                self.register_buffer(f"{part}_{i}", value, persistent=False)  # made anew by a run that is resumed

    @property
    def sign_blind(self) -> bool:
        """True: what it is added to determines the space, from this start."""
        return True

    def compute(self, bundle: Bundle, exchange: Exchange) -> LossOutput:  # noqa: ARG002 (the weights alone)
        """The mean over the modalities; one part for each. The batch is not read."""
        parts = {name: self._moved(i) for i, name in enumerate(self.names)}
        return LossOutput(torch.stack(list(parts.values())).mean(), parts)

    def _moved(self, i: int) -> Tensor:
        head = self.heads[i]
        linear = linear_of(head)
        W, b, C, mu = (getattr(self, f"{part}_{i}") for part in ("weight", "bias", "covariance", "mean"))
        step = linear.weight - W
        moved: Tensor = ((step @ C) * step).sum() + (step @ mu + linear.bias - b).square().sum()
        if isinstance(head, Residual):
            moved = moved + sum(parameter.square().sum() for parameter in head.rest[-1].parameters())
        share: Tensor = moved / ((W @ C) * W).sum().clamp(min=torch.finfo(W.dtype).tiny)
        return share


@dataclass
class Leashed(History):
    """The history of the best leash.

    Attributes:
        leash: its weight; 0 without a leash, infinity for the closed form itself, which no epoch follows.
        tried: weight → best validation MRR.
    """

    leash: float = 0.0
    tried: dict[float, float] = field(default_factory=dict)

    @property
    def chosen(self) -> str:
        """What was chosen, in words."""
        what = {0.0: "no leash", math.inf: "the closed form"}.get(self.leash, f"leash {self.leash:g}")
        epochs = "" if math.isinf(self.leash) else f", epoch {self.best_epoch} of {len(self.records)}"
        return f"{what}{epochs}, the best of {len(self.tried)} leashes"


def fit_leashed(
    aligner: Aligner,
    loss: Loss,
    train: Table,
    validation: Table,
    leashes: Sequence[float],
    *,
    recipe: Recipe | None = None,
    output: str | Path | None = None,
    reading: Reading = Reading(),
    **options: Any,
) -> Leashed:
    """Train from where the Aligner stands once for every leash, without one, and not at all; keep what is best on validation.

    Args:
        aligner: with heads solved in closed form; it ends with the best weights.
        loss: the objective, to which `Leash` is added.
        train: see `fit`.
        validation: see `fit`; it chooses among the leashes, too.
        leashes: weights of the leash, each positive.
        recipe: see `fit`.
        output: folder of the runs, each in a folder of its own; nothing is written without one.
        reading: how raw cells are read.
        **options: of `fit`.

    Returns:
        The history of the best.

    Raises:
        InputError: no leash, or one that is not positive; see `fit`.
    """
    if not leashes:
        raise InputError("`leash` must hold at least one weight to try; got none.")
    for weight in leashes:
        check_number("leash", weight, "(0, inf)")
    rows = EncodedRows(aligner.towers, train, reading)
    moments = moments_of(rows, aligner.named_heads())
    start, objective = _state(aligner.trainable_state()), _state(loss.state_dict())
    unread: list[Broken] = []
    held_out = validation.select(*aligner.modalities).has_any()
    solved = {"validation/mrr": 0.0} | validation_figures(aligner.embed(held_out, reading=reading, broken=unread))
    best = Leashed([{"epoch": 0, **solved}], 0, solved["validation/mrr"], leash=math.inf)
    best.note([*rows.broken, *unread])
    weights, tried = start, {math.inf: solved["validation/mrr"]}
    for weight in (0.0, *dict.fromkeys(sorted(leashes))):
        aligner.load_state_dict(start, strict=False)
        loss.load_state_dict(objective)
        leashed = loss + weight * Leash(aligner.named_heads(), moments) if weight else loss
        folder = None if output is None else Path(output) / f"leash-{weight:g}"
        history = fit(aligner, leashed, train, validation, recipe=recipe, output=folder, strict=reading.strict, **options)
        tried[weight] = float(history.best or 0.0)
        if is_main_process():
            logger.info("leash %g: validation MRR %.1f %%", weight, 100 * tried[weight])
        if tried[weight] > float(best.best or 0.0):
            best = Leashed(**vars(history), leash=weight)
            weights = _state(aligner.trainable_state())
    aligner.load_state_dict(weights, strict=False)
    best.tried = tried
    if output is not None and is_main_process():
        write_lines(Path(output) / "metrics.jsonl", best.records)
    return best


def _state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().to("cpu", copy=True) for name, value in state.items()}
