"""The settings of `gramian demo`: widths, rates and temperatures compared on the validation split of stamps; docs/log.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console

from gramian.benchmark.plan import Plan, study_of
from gramian.benchmark.study import Method, Run, Task, chosen, recall
from gramian.data import load
from gramian.losses import PMRL, Contrast, Gram, Pairwise
from gramian.sheets import Sheet
from gramian.training import Recipe

__all__ = ["candidates", "stamps_selection"]


def candidates() -> list[Method]:
    """The candidates, each of which differs from another in a single setting."""
    base = Recipe()
    return [
        *(Method(f"Pairwise, dim {dim}", Pairwise, dim=dim) for dim in (64, 128, 256, 512, 1024)),
        *(
            Method(f"Pairwise, learning rate {rate:g}", Pairwise, recipe=replace(base, learning_rate=rate))
            for rate in (3e-4, 3e-3)
        ),
        Method("Pairwise, batch 441", Pairwise, recipe=replace(base, batch_size=441)),
        *(Method(f"Pairwise, τ = {tau}", partial(Pairwise, temperature=tau)) for tau in (0.05, 0.1, 0.2, 0.4)),
        *(
            Method(
                f"Gram, cone, each, τ = {tau}, smoothing {smoothing}",
                partial(Gram, score="cone", anchor="each", temperature=tau, label_smoothing=smoothing),
            )
            for smoothing in (0.0, 0.1)
            for tau in (0.07, 0.2, 0.4)
        ),
        *(
            Method(f"Contrast, centroid, each, τ = {tau}", partial(Contrast, "centroid", temperature=tau))
            for tau in (0.07, 0.2)
        ),
        *(Method(f"Gram as published, τ = {tau}", partial(Gram, temperature=tau)) for tau in (0.07, 0.2)),
        Method("Gram, volume, each", partial(Gram, anchor="each")),
        Method("PMRL as published", PMRL),
        Method("PMRL, τ₁ = 0.5", partial(PMRL, alignment_temperature=0.5)),
        Method("PMRL, signed, τ₁ = 0.05", partial(PMRL, signed=True)),
        *(
            Method(
                f"PMRL, signed, τ₁ = {first}, τ₂ = {second}",
                partial(PMRL, signed=True, alignment_temperature=first, instance_temperature=second),
            )
            for first in (0.5, 1.0)
            for second in (0.1, 0.2)
        ),
    ]


@study_of(Plan("stamps_selection"), "candidates")
def stamps_selection(plan: Plan, console: Console | None) -> list[Path]:
    """Train every candidate and write a table of its figures on validation; ten minutes on two cores.

    The figures are over the six directions between image, text and French speech. The test split is not evaluated.
    """
    table = load("stamps", columns=["image", "text", "speech_fr"])
    task = Task("stamps", lambda _: table)
    trained = chosen(candidates(), plan.methods)
    if plan.epochs is not None:
        trained = [replace(method, recipe=replace(method.recipe or task.recipe, epochs=plan.epochs)) for method in trained]
    results = plan.results([task], trained, console, split="validation")["stamps"]
    note = f"Mean over {plan.seeds} seeds in %, {results[trained[0].name][0].report.n} validation items; range over the seeds."
    header = ("candidate", "validation MRR (range)", "R@1", "best epoch")
    sheet = Sheet("Candidates", header, tuple(_row(name, runs) for name, runs in results.items()), note)
    return plan.write("What the demo trains with, by validation", {"candidates": sheet.markdown()})


def _row(name: str, runs: Sequence[Run]) -> tuple[str, ...]:
    mrr = 100 * np.array([run.best for run in runs])
    epoch = np.mean([run.best_epoch for run in runs])
    return name, f"{mrr.mean():.1f} ({mrr.min():.1f}–{mrr.max():.1f})", f"{100 * recall(runs).value:.1f}", f"{epoch:.0f}"
