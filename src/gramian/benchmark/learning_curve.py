"""How many items does each method need? R@1 of the test items against the number of training items: docs/canonical.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from gramian.benchmark.curves import Curves, draw_curves, gains_sheet, overtaking
from gramian.benchmark.study import Method, Run, Task, chosen, difference, read_page, recall, study, write_tables
from gramian.canonical.features import Kernel
from gramian.data import Table, load
from gramian.data.sets import SETS, prepared
from gramian.errors import InputError, require
from gramian.losses import PMRL, Gram, Loss, Pairwise
from gramian.sheets import Sheet
from gramian.training import Recipe, Search

__all__ = ["REFERENCE", "best_settings", "curve_sheet", "families", "learning_curve", "of_items"]

SIZES = (25, 50, 100, 200, 441, 800, 1300)
REFERENCE = "InfoNCE, linear heads"
PICTURE = "learning_curve.png"
TRIED = ((0.2, 1e-3), (0.1, 1e-3), (0.2, 1e-2), (0.1, 1e-2))
"""Temperatures and learning rates among which validation chooses for every loss and seed."""

SEARCH = Search(
    kernels=(Kernel(power=2), Kernel(power=4), Kernel("rbf", power=1)), ridges=(0.1, 0.3, 1.0, 3.0), powers=(0.5, 1.0, 2.0)
)
"""What the closed form tries: less than by default, for it is solved at every size and seed."""

COLUMNS = {"stamps": ("image", "text", "speech_fr"), "digits": ("fou", "fac", "zer")}
"""The columns of a data set that are used, where it is not all of them."""


def families(anchor: str = "text") -> dict[str, tuple[Method, ...]]:
    """What is compared: each entry's methods are one method with several settings, among which validation chooses.

    Args:
        anchor: the modality that published GRAM contrasts with the others.

    Returns:
        Name → methods. Those in closed form have one, which tries its settings itself.
    """
    linear, kernel = (replace(SEARCH, heads=(head,)) for head in ("linear", "kernel"))
    cone = partial(Gram, score="cone", anchor="each")
    losses: dict[str, tuple[dict[str, Any], Callable[[float], Loss]]] = {
        REFERENCE: ({}, lambda tau: Pairwise(temperature=tau)),
        "InfoNCE, MLP heads": ({"head": "mlp"}, lambda tau: Pairwise(temperature=tau)),
        "InfoNCE, kernel heads": ({"head": "kernel"}, lambda tau: Pairwise(temperature=tau)),
        "InfoNCE from MAXVAR, kernel heads": ({"search": kernel}, lambda tau: Pairwise(temperature=tau)),
        "GRAM, published": ({}, lambda tau: Gram(anchor=anchor, temperature=tau)),
        "GRAM, cone, each": ({}, lambda tau: cone(temperature=tau)),
        "PMRL, published": ({}, lambda tau: PMRL(instance_temperature=tau)),
        "PMRL, signed": ({}, lambda tau: PMRL(signed=True, alignment_temperature=0.5, instance_temperature=tau)),
    }
    tried: dict[str, tuple[Method, ...]] = {
        "MAXVAR, linear heads": (Method("MAXVAR, linear heads", None, search=linear),),
        "MAXVAR, kernel heads": (Method("MAXVAR, kernel heads", None, search=kernel),),
    }
    for name, (options, loss) in losses.items():
        tried[name] = tuple(
            Method(f"{name}, τ {tau:g}, rate {rate:g}", partial(loss, tau), recipe=Recipe(learning_rate=rate), **options)
            for tau, rate in TRIED
        )
    return tried


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
    for name in sets or ("stamps", *(name for name in SETS if prepared(name).is_file())):
        columns = COLUMNS.get(name)
        table = load(name, columns=None if columns is None else list(columns))
        if table.split is None:
            raise InputError(f"`sets` names {name!r}, which has no splits.")
        tried = families("text" if "text" in table.modalities else table.modalities[0])
        if epochs is not None:
            tried = {
                name: tuple(replace(one, recipe=replace(one.recipe or Recipe(), epochs=epochs)) for one in several)
                for name, several in tried.items()
            }
        most = int((table.part("train").mask().all(1)).sum())
        steps = [size for size in sizes if size < most] + [most] * (most <= max(sizes))
        tasks = [Task(f"{name} {size}", cache(partial(of_items, table, size))) for size in steps]
        flat = [method for each in names for method in tried[each]]
        results = study(tasks, flat, output, seeds=seeds, resume=resume, cpu=True, console=console)
        curves = {task: best_settings(runs, names, tried) for task, runs in results.items()}
        drawn[name] = dict(zip(steps, curves.values(), strict=True))
        shown = curve_sheet(name, steps, curves, "four temperatures and rates of each loss, a grid of the closed form")
        gains, sentence = gains_sheet(name, drawn[name]), overtaking(name, drawn[name])
        texts += [shown.markdown(), *([] if gains is None else [gains.markdown()]), *([sentence + "\n"] if sentence else [])]
    pictures = draw_curves(drawn, [beside.with_name(PICTURE) for beside in (output / "report.md", *([page] if page else []))])
    tables = {"learning-curve": "\n".join([f"![R@1 by the number of training items]({PICTURE})\n", *texts])}
    return [*write_tables("R@1 against the number of training items", tables, output, page), *pictures]


def best_settings(
    runs: Mapping[str, tuple[Run, ...]], names: Sequence[str], tried: Mapping[str, Sequence[Method]]
) -> dict[str, tuple[Run, ...]]:
    """For each seed, the run of the setting with the best validation MRR."""
    return {
        name: tuple(
            max(of_seed, key=lambda run: run.best) for of_seed in zip(*(runs[one.name] for one in tried[name]), strict=True)
        )
        for name in names
    }


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
