"""How many items does each method need? R@1 of the test items against the number of training items: docs/canonical.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from gramian.benchmark.curves import Curves, draw_curves, gains_sheet, overtaking
from gramian.benchmark.families import REFERENCE, anchor_of, best_settings, data_sets, families, short
from gramian.benchmark.plan import Plan, study_of
from gramian.benchmark.study import Run, Task, difference, recall
from gramian.data import Table
from gramian.errors import InputError
from gramian.sheets import Sheet

__all__ = ["curve_sheet", "learning_curve", "of_items"]

PICTURE = "learning_curve.png"


def of_items(table: Table, items: int, seed: int) -> Table:
    """The table with `items` of its complete training items, drawn by the seed; smaller draws are parts of larger ones."""
    split = table.split or ()
    complete = table.mask().all(1)
    rows = torch.tensor([i for i, name in enumerate(split) if name == "train" and bool(complete[i])])
    drawn = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:items]]
    kept = torch.tensor([i for i, name in enumerate(split) if name in ("validation", "test")])
    return table[torch.cat([drawn.sort().values, kept])]


@study_of(
    Plan("learning_curve", seeds=5, sizes=(25, 50, 100, 200, 441, 800, 1300)),
    "learning-curve",
    takes=("sets", "sizes", "processes"),
    needs=("matplotlib",),
)
def learning_curve(plan: Plan, console: Console | None) -> list[Path]:
    """Train every method on ever more items of each data set, and write R@1 on the test items.

    Raises:
        InputError: a data set without splits.
    """
    names = plan.names(families())
    texts: list[str] = []
    drawn: dict[str, Curves] = {}
    for name, table in data_sets(plan.sets):
        if table.split is None:
            raise InputError(f"`sets` names {name!r}, which has no splits.")
        tried = short(families(anchor_of(table)), plan.epochs)
        most = int((table.part("train").mask().all(1)).sum())
        steps = [size for size in plan.sizes if size < most] + [most] * (most <= max(plan.sizes))
        tasks = [Task(f"{name} {size}", partial(of_items, table, size)) for size in steps]
        flat = [method for each in names for method in tried[each]]
        results = plan.results(tasks, flat, console)
        curves = {task: best_settings(runs, names, tried) for task, runs in results.items()}
        drawn[name] = dict(zip(steps, curves.values(), strict=True))
        shown = curve_sheet(name, steps, curves, "four temperatures and rates of each loss, a grid of the closed form")
        gains, sentence = gains_sheet(name, drawn[name]), overtaking(name, drawn[name])
        texts += [shown.markdown(), *([] if gains is None else [gains.markdown()]), *([sentence + "\n"] if sentence else [])]
    pictures = draw_curves(drawn, plan.beside(PICTURE))
    tables = {"learning-curve": "\n".join([f"![R@1 by the number of training items]({PICTURE})\n", *texts])}
    return [*plan.write("R@1 against the number of training items", tables), *pictures]


def curve_sheet(name: str, sizes: Sequence[int], curves: Mapping[str, Mapping[str, tuple[Run, ...]]], settings: str) -> Sheet:
    """R@1 by method and size.

    Args:
        name: of the data set.
        sizes: numbers of training items.
        curves: for each size, the runs of each method.
        settings: among what validation chose, in words.

    Returns:
        The sheet.
    """
    rows = []
    first = next(iter(curves.values()))
    for method in first:
        row = [method]
        for runs in curves.values():
            cell = recall(runs[method]).percent()
            if REFERENCE in runs and method != REFERENCE:
                cell += f" ({difference(runs[method], runs[REFERENCE]).percent()})"
            row.append(cell)
        rows.append(tuple(row))
    (shown, *_) = first.values()
    report = shown[0].report
    note = (
        f"R@1 in %, mean of {len(report.singles)} directions between two modalities, {report.n} test items, {len(shown)} draws "
        f"of the training items; 95 % intervals over items and draws, in brackets the paired difference to {REFERENCE}. "
        f"Settings are chosen on the validation split: {settings}."
    )
    return Sheet(f"{name}: R@1 by the number of training items", ("method", *map(str, sizes)), tuple(rows), note)
