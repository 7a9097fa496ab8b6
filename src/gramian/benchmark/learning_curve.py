"""How many items does each method need? R@1 of the test items against the number of training items: docs/canonical.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from gramian.benchmark.curves import Curves, draw_curves, gains_sheet, overtaking
from gramian.benchmark.families import REFERENCE, anchor_of, best_settings, data_sets, families, short
from gramian.benchmark.pages import read_page, write_tables
from gramian.benchmark.study import Method, Run, Task, chosen, difference, recall, study
from gramian.data import Table
from gramian.errors import InputError, require
from gramian.sheets import Sheet

__all__ = ["curve_sheet", "learning_curve", "of_items"]

SIZES = (25, 50, 100, 200, 441, 800, 1300)
PICTURE = "learning_curve.png"


def of_items(table: Table, items: int, seed: int) -> Table:
    """The table with `items` of its complete training items, drawn by the seed; smaller draws are parts of larger ones."""
    split = table.split or ()
    complete = table.mask().all(1)
    rows = torch.tensor([i for i, name in enumerate(split) if name == "train" and bool(complete[i])])
    drawn = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:items]]
    kept = torch.tensor([i for i, name in enumerate(split) if name in ("validation", "test")])
    return table[torch.cat([drawn.sort().values, kept])]


def learning_curve(
    output: Path = Path("runs/learning_curve"),
    *,
    seeds: int = 5,
    epochs: int | None = None,
    methods: Sequence[str] | None = None,
    page: Path | None = None,
    resume: bool = False,
    processes: int = 1,
    console: Console | None = None,
    sets: Sequence[str] | None = None,
    sizes: Sequence[int] = SIZES,
) -> list[Path]:
    """Train every method on ever more items of each data set, and write R@1 on the test items.

    Args:
        output: folder of the runs and of `report.md`.
        seeds: draws of the training items, and of heads and batches.
        epochs: of every run with a loss, for a trial; 40 by default.
        methods: names of entries of `families`; all by default.
        page: a Markdown page with the marker "learning-curve", which gets the tables.
        resume: reuse the finished runs with the same settings.
        processes: that train; each on its share of the cores.
        console: of the progress bar.
        sets: names of data sets; by default stamps and those that `gramian prepare` has made.
        sizes: numbers of training items; those that a data set does not have are left out.

    Returns:
        The paths written: the report, the page, and beside each the picture.

    Raises:
        InputError: an unknown method or data set, a page without the marker.
    """
    require("matplotlib")
    if page is not None:
        read_page(page, ["learning-curve"])
    names = [method.name for method in chosen([Method(name, None) for name in families()], methods)]
    texts: list[str] = []
    drawn: dict[str, Curves] = {}
    for name, table in data_sets(sets):
        if table.split is None:
            raise InputError(f"`sets` names {name!r}, which has no splits.")
        tried = short(families(anchor_of(table)), epochs)
        most = int((table.part("train").mask().all(1)).sum())
        steps = [size for size in sizes if size < most] + [most] * (most <= max(sizes))
        tasks = [Task(f"{name} {size}", partial(of_items, table, size)) for size in steps]
        flat = [method for each in names for method in tried[each]]
        results = study(tasks, flat, output, seeds=seeds, resume=resume, cpu=True, processes=processes, console=console)
        curves = {task: best_settings(runs, names, tried) for task, runs in results.items()}
        drawn[name] = dict(zip(steps, curves.values(), strict=True))
        shown = curve_sheet(name, steps, curves, "four temperatures and rates of each loss, a grid of the closed form")
        gains, sentence = gains_sheet(name, drawn[name]), overtaking(name, drawn[name])
        texts += [shown.markdown(), *([] if gains is None else [gains.markdown()]), *([sentence + "\n"] if sentence else [])]
    pictures = draw_curves(drawn, [beside.with_name(PICTURE) for beside in (output / "report.md", *([page] if page else []))])
    tables = {"learning-curve": "\n".join([f"![R@1 by the number of training items]({PICTURE})\n", *texts])}
    return [*write_tables("R@1 against the number of training items", tables, output, page), *pictures]


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
