"""What modality dropout in training buys when items lack modalities: docs/evaluation.md."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from gramian.benchmark.families import data_sets
from gramian.benchmark.plan import Plan, study_of
from gramian.benchmark.study import Method, Task, same
from gramian.evaluation.robustness import dropped_hits
from gramian.evaluation.stats import difference_interval, share_interval
from gramian.losses import Centroid, Gram, Loss, Pairwise
from gramian.scores import ScoreName
from gramian.sheets import Sheet
from gramian.training import Recipe

__all__ = ["modality_dropout"]

SHARES = (0.0, 0.3, 0.6)
"""Probabilities of the dropout in training."""

DROPS = (0.0, 0.3, 0.6)
"""Shares of the cells that are dropped from the test items."""

SCORE: ScoreName = "centroid"
COLUMNS = {"stamps": ("image", "text", "speech_fr", "speech_es"), "digits": ("fou", "fac", "kar", "zer")}


def losses() -> dict[str, Callable[[], Loss]]:
    """The objectives that are trained with and without."""
    return {
        "Pairwise": partial(Pairwise, temperature=0.2),
        "Centroid": partial(Centroid, temperature=0.2),
        "GRAM, cone, each": partial(Gram, score="cone", anchor="each", temperature=0.2),
    }


@study_of(Plan("modality_dropout"), "modality-dropout", takes=("sets",))
def modality_dropout(plan: Plan, console: Console | None) -> list[Path]:
    """Train objectives with three probabilities of dropout and measure R@1 as modalities of the test items are dropped."""
    flat = {
        (name, share): Method(
            f"{name}, dropout {share:g}", losses()[name], recipe=Recipe(epochs=plan.epochs or 30, modality_dropout=share)
        )
        for name in plan.names(losses())
        for share in SHARES
    }
    sheets = []
    for name, table in data_sets(plan.sets, COLUMNS, only=True):
        task = Task(name, partial(same, table), dim=128)
        runs = plan.results([task], list(flat.values()), console)[name]
        found = {
            key: np.stack([dropped_hits(run.embedded, SCORE, DROPS) for run in runs[one.name]]) for key, one in flat.items()
        }
        items = next(iter(runs.values()))[0].report.items
        sheets.append(_sheet(name, found, items, len(table.part("test")), plan.seeds))
    return plan.write("Modality dropout", {"modality-dropout": "\n".join(sheet.markdown() for sheet in sheets)})


def _sheet(
    name: str,
    found: dict[tuple[str, float], NDArray[np.float64]],
    items: NDArray[np.int64] | None,
    n: int,
    seeds: int,
) -> Sheet:
    """`found` holds (seeds, drops, directions, n)."""
    rows = []
    for (loss, share), hits in found.items():
        cells = []
        for i in range(len(DROPS)):
            cell = share_interval(hits[:, i], items).percent()
            if share:
                cell += f" ({difference_interval(hits[:, i] - found[loss, 0.0][:, i], items).percent()})"
            cells.append(cell)
        rows.append((loss, f"{share:g}", *cells))
    note = (
        f"R@1 in % by {SCORE}, mean of {next(iter(found.values())).shape[2]} directions between one modality and the others "
        f"together, {n} test items, {seeds} seeds; p of the others' cells are dropped at test time. 95 % intervals over items "
        "and seeds, in brackets the paired difference to training without dropout."
    )
    return Sheet(
        f"{name}: dropout in training", ("objective", "dropout", *(f"p = {drop:g}" for drop in DROPS)), tuple(rows), note
    )
