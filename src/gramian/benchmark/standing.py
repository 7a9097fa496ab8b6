"""The standing benchmark: which method to take for frozen features. Families of methods × data sets × repeated splits.

Every method has the same budget of settings, chosen on validation items; the test items of a split are looked at once. What
others have measured can be merged, and methods of others take part (CONTRIBUTING.md).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from gramian.benchmark.families import (
    MLP,
    REFERENCE,
    Families,
    anchor_of,
    best_settings,
    data_sets,
    ensembles,
    families,
    rivals,
    short,
)
from gramian.benchmark.plan import Plan, study_of
from gramian.benchmark.results import DROPS, Result, matching, read_results, write_results
from gramian.benchmark.study import Embeds, Method, Run, Task, recall
from gramian.data import Table
from gramian.data.sets import REPEATS, another_split
from gramian.errors import InputError, check_number, first_line, listing
from gramian.evaluation.robustness import dropped_hits
from gramian.evaluation.significance import groups, holm
from gramian.evaluation.stats import Interval, resampled_interval
from gramian.scores import ScoreName
from gramian.sheets import Sheet

__all__ = ["GROUP", "check_splits", "signed_percent", "split_of", "split_task", "standing"]

GROUP = "gramian.methods"
"""Entry points of this group are methods of installed packages."""

JOINT: ScoreName = "centroid"
QUICK = ("maxvar-linear-heads", "infonce-linear-heads")
LEVEL = 0.05


@study_of(
    Plan("standing", seeds=5),
    "standing",
    takes=("sets", "processes", "external", "merge", "quick"),
    needs=("scipy",),
)
def standing(plan: Plan, console: Console | None) -> list[Path]:
    """Compare all families of methods on all data sets at hand."""
    if plan.quick:
        plan = replace(plan, sets=plan.sets or ["stamps"], methods=plan.methods or QUICK)
        plan = replace(plan, seeds=min(plan.seeds, 2), epochs=plan.epochs or 5)
    check_splits(plan.seeds)
    theirs = {name: (Method(name, None, train=train),) for name, train in _theirs(plan.external).items()}
    merged = [result for path in plan.merge for result in read_results(path)]
    names = plan.names([*families(), *ensembles(), *rivals("", 3), *theirs])
    results: list[Result] = []
    for name, table in data_sets(plan.sets):
        anchor = anchor_of(table)
        tried = short(families(anchor) | ensembles() | rivals(anchor, len(table.modalities)), plan.epochs) | theirs
        results += _measured(name, table, {each: tried[each] for each in names if each in tried}, plan, console)
    ours = write_results(plan.folder / "results.parquet", results)
    text = "\n".join(sheet.markdown() for sheet in _sheets([*results, *matching(merged, results)]))
    return [ours, *plan.write("The standing benchmark", {"standing": text})]


def _measured(name: str, table: Table, tried: Families, plan: Plan, console: Console | None) -> list[Result]:
    """Every family on the repeated splits of one data set."""
    task = split_task(name, table)
    flat = [method for several in tried.values() for method in several]
    scores = (JOINT,) if len(table.modalities) > 2 else ()
    runs = plan.results([task], flat, console, scores=scores)[name]
    found = []
    for seed in range(plan.seeds):
        split = task.table(seed)
        digest = split.digest()
        assert split.split is not None
        tested = split.split.count("test") / (split.split.count("train") + split.split.count("validation"))
        for family, own in best_settings(runs, list(tried), tried).items():
            run = own[seed]
            setting = run.method.name.removeprefix(family).removeprefix(", ")
            dropped = tuple(np.nanmean(hits) for hits in dropped_hits(run.embedded, JOINT, DROPS)) if scores else ()
            means = tuple(map(float, dropped))
            found.append(
                Result(
                    name,
                    digest,
                    seed,
                    family,
                    setting,
                    recall([run]).value,
                    means,
                    _gain(run),
                    run.seconds,
                    tested,
                    run.memory,
                )
            )
    return found


def check_splits(seeds: int) -> None:
    """Check a number of repeated splits.

    Raises:
        InputError: one split, or more than there are.
    """
    check_number("seeds", seeds, f"[2, {REPEATS + 1}]", integer=True, why="for one split has no spread")


def split_task(name: str, table: Table) -> Task:
    """A data set whose splits, heads and batches change with the seed.

    Args:
        name: of the data set.
        table: with splits.

    Returns:
        The task.
    """
    return Task(name, partial(split_of, table, name), dim=256)


def split_of(table: Table, name: str, seed: int) -> Table:
    """The table under one of its splits.

    Args:
        table: with splits.
        name: of the data set.
        seed: 0 keeps the table's own split; up to 10.

    Returns:
        The table.
    """
    return another_split(table, name, str(seed)) if seed else table


def _gain(run: Run) -> float | None:
    return _mean([gain.difference.value for gain in run.report.gains])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _sheets(results: Sequence[Result]) -> list[Sheet]:
    """A table for each data set, and one over all of them."""
    sheets, ranks = [], {}
    for data in dict.fromkeys(result.data for result in results):
        own: dict[str, list[Result]] = {}
        for result in sorted((each for each in results if each.data == data), key=lambda each: each.split):
            own.setdefault(result.method, []).append(result)
        means = {name: float(np.mean([each.recall for each in several])) for name, several in own.items()}
        order = sorted(means, key=lambda name: -means[name])
        ranks[data] = {name: place for place, name in enumerate(order, 1)}
        sheets.append(_sheet(data, {name: own[name] for name in order}))
    shared = [name for name in next(iter(ranks.values()), {}) if all(name in of_set for of_set in ranks.values())]
    if len(ranks) > 1 and shared:
        rows = sorted(
            ((float(np.mean([of_set[name] for of_set in ranks.values()])), name) for name in shared), key=lambda row: row[0]
        )
        shown = tuple((name, f"{mean:.1f}", *(str(of_set[name]) for of_set in ranks.values())) for mean, name in rows)
        sheets.insert(0, Sheet("Places", ("method", "mean", *ranks), shown, "1 is the best mean R@1 over the splits."))
    return sheets


def _sheet(data: str, own: Mapping[str, Sequence[Result]]) -> Sheet:
    names = list(own)
    recalls = {name: np.array([each.recall for each in several]) for name, several in own.items()}
    tested = own[names[0]][0].tested
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    tests = [resampled_interval(recalls[a] - recalls[b], tested) for a, b in pairs]
    corrected = dict(zip(pairs, holm([p for _, p in tests]), strict=True))
    letters = groups(names, {pair for pair, p in corrected.items() if p < LEVEL})
    against = [name for name in (REFERENCE, MLP) if name in own]
    weighed = any(each.memory is not None for several in own.values() for each in several)
    rows = []
    for name, several in own.items():
        gain = _mean([each.gain for each in several])
        seconds, memory = _mean([each.seconds for each in several]), _mean([each.memory for each in several])
        lost = [each.dropped or (None,) * len(DROPS) for each in several]
        rows.append(
            (
                name,
                f"{100 * recalls[name].mean():.1f}",
                *(_against(recalls, name, rival, tested) for rival in against),
                letters[name],
                "–" if gain is None else f"{100 * gain:+.1f}",
                *("–" if mean is None else f"{100 * mean:.1f}" for mean in map(_mean, zip(*lost, strict=True))),
                "–" if seconds is None else f"{seconds:.1f}",
                *(["–" if memory is None else f"{memory:.0f}"] if weighed else []),
            )
        )
    number = len(own[names[0]])
    paired = f" the paired difference to {' and to '.join(against)} with its 95 % interval;" if against else ""
    note = (
        f"Mean R@1 in % over the directions between two modalities and {number} splits;{paired} methods that share a letter "
        "cannot be told apart (all pairs, Holm's correction); Nadeau and Bengio's variance throughout, as splits overlap; "
        f"what `{JOINT}` over all other modalities adds to the best single one; R@1 of `{JOINT}` between each modality and all "
        "others together as p of the cells are dropped; seconds to train the chosen setting, on a machine that was not idle"
        + (", and the megabytes that it takes beyond the data." if weighed else ".")
    )
    return Sheet(
        data,
        (
            "method",
            "R@1",
            *(f"to {name}" for name in against),
            "group",
            "gain",
            *(f"p = {drop:g}" for drop in DROPS),
            "s",
            *(["MB"] if weighed else []),
        ),
        tuple(rows),
        note,
    )


def _against(recalls: Mapping[str, NDArray[np.float64]], name: str, rival: str, tested: float) -> str:
    if name == rival:
        return "–"
    interval, _ = resampled_interval(recalls[name] - recalls[rival], tested)
    return signed_percent(interval)


def signed_percent(interval: Interval) -> str:
    """A difference of shares in points, with its interval."""
    return f"{100 * interval.value:+.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def _theirs(external: Sequence[str]) -> dict[str, Callable[[Table, Table, int], Embeds]]:
    """Methods of others: entry points, and those named."""
    found = {point.name: point for point in entry_points(group=GROUP)}
    methods: dict[str, Callable[[Table, Table, int], Embeds]] = {}
    for name in external:
        module, _, function = name.partition(":")
        try:
            methods[name] = found[name].load() if name in found else getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError, ValueError) as error:
            raise InputError(
                f"`external` names {name!r}, which cannot be imported ({first_line(error)}). Write package.module:function, or "
                f"the name of an entry point of {GROUP}: {listing(found) or 'there are none'}."
            ) from None
        if not callable(methods[name]):
            raise InputError(f"`external` must name functions; {name!r} is none.")
    return methods
