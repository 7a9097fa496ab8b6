"""The engine of every comparison: methods × seeds × tasks, each run trained once, stored, and compared in pairs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import lru_cache
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from gramian.benchmark.trial import SPLITS, Embeds, Method, Task, Trial, path_of, same, slug
from gramian.bundle import Bundle
from gramian.errors import InputError, check_choice, check_number, require
from gramian.evaluation import Report, evaluate, hits
from gramian.evaluation.stats import Interval, difference_interval, share_interval
from gramian.files import has_run
from gramian.scores import ScoreName

__all__ = ["Embeds", "Method", "Results", "Run", "Task", "chosen", "difference", "recall", "same", "study"]


@dataclass(frozen=True, eq=False)
class Run:
    """One method, trained on one task with one seed.

    Attributes:
        method: what was trained.
        seed: of heads, batches and, where the task draws it, the table.
        path: its file of embeddings.
        report: their figures, without the vectors.
        best: best validation MRR.
        best_epoch: the epoch of `best`, from which the embeddings come.
        seconds: that training took, on whatever else the machine did; None of a run stored without it.
        memory: at most, beyond what was held before, in 10⁶ bytes; None where it is not known.
    """

    method: Method
    seed: int
    path: Path
    report: Report
    best: float
    best_epoch: int
    seconds: float | None = None
    memory: float | None = None

    @property
    def embedded(self) -> Bundle:
        """The items of the evaluated split in the shared space, read from the disk: a study has hundreds of runs."""
        return Bundle.load(self.path)


Results: TypeAlias = dict[str, dict[str, tuple[Run, ...]]]
"""Name of the task → name of the method → runs by seed."""


def study(
    tasks: Sequence[Task],
    methods: Sequence[Method],
    folder: Path,
    *,
    seeds: int,
    split: str = "test",
    scores: Sequence[ScoreName] = (),
    resume: bool = False,
    cpu: bool = False,
    processes: int = 1,
    console: Console | None = None,
) -> Results:
    """Train every method on every task with every seed, and evaluate each run.

    A finished run is stored as two files, `TASK/METHOD-SEED.json` with its settings and `….safetensors` with its embeddings.
    Its settings determine a run, so a resumed study gives the same figures as an uninterrupted one.

    Args:
        tasks: with different names.
        methods: with different names.
        folder: of the stored runs.
        seeds: runs of a method on a task, with seeds 0, 1, ….
        split: what is evaluated: "validation" to choose by, "test" to report.
        scores: joint scores of the reports; by default they cover directions between two modalities only.
        resume: reuse the stored runs with the same settings; others, and damaged ones, are trained again. Without it all are.
        cpu: stay on the CPU even where there is an accelerator.
        processes: that train, each on its share of the cores; with more than one, tasks and methods must be picklable.
        console: of the progress bar.

    Returns:
        The runs, by task and method.

    Raises:
        InputError: no seeds, methods or tasks, or two with one name.
    """
    check_number("seeds", seeds, "[1, inf)", integer=True)
    check_number("processes", processes, "[1, 256]", integer=True)
    check_choice("split", split, SPLITS)
    for argument, names in (("tasks", [slug(task.name) for task in tasks]), ("methods", [slug(one.name) for one in methods])):
        if not names or len(set(names)) < len(names):
            raise InputError(f"`{argument}` must be one or more with different names; got {', '.join(names) or 'none'}.")
    require("accelerate")
    has_run(folder, ["*/*-[0-9]*.json"], resume=resume)
    results: Results = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        row = bar.add_task("training", total=len(tasks) * len(methods) * seeds)
        if processes > 1:
            _train_in(processes, _Cells(tuple(tasks), folder, split, cpu, resume), methods, seeds, bar, row)
            bar.reset(row)
        for task in tasks:
            trials = [Trial(task, seed, split, cpu) for seed in range(seeds)]
            results[task.name] = {}
            for method in methods:
                runs = []
                for trial in trials:
                    bar.update(row, description=f"{task.name}: {method.name}, seed {trial.seed}")
                    path = path_of(folder, task, method, trial.seed)
                    embedded, outcome = (trial.stored(method, path) if resume or processes > 1 else None) or trial.train(
                        method, path
                    )
                    report = evaluate(embedded, scores=scores, subsets="others" if scores else "none")
                    report = replace(report, space=None)
                    figures: dict[str, Any] = {name: outcome.get(name) for name in ("best", "best_epoch", "seconds", "memory")}
                    runs.append(Run(method, trial.seed, path.with_suffix(".safetensors"), report, **figures))
                    bar.advance(row)
                results[task.name][method.name] = tuple(runs)
        bar.update(row, description="trained")
    return results


@dataclass(frozen=True)
class _Cells:
    """What every process of a study knows."""

    tasks: tuple[Task, ...]
    folder: Path
    split: str
    cpu: bool
    resume: bool

    def train(self, number: int, method: Method, seed: int) -> None:
        """Train one cell, unless it is stored."""
        task = self.tasks[number]
        trial, path = self.trial(number, seed), path_of(self.folder, task, method, seed)
        if not self.resume or trial.stored(method, path) is None:
            trial.train(method, path)

    @lru_cache(maxsize=2)  # noqa: B019 (one object in each process)
    def trial(self, number: int, seed: int) -> Trial:
        """One task with one seed, whose table is read once for its methods."""
        return Trial(self.tasks[number], seed, self.split, self.cpu)


_CELLS: list[_Cells] = []
"""Of this process, if it is one of a study's."""


def _enter(cells: _Cells, threads: int) -> None:
    torch.set_num_threads(threads)
    _CELLS[:] = [cells]


def _train(number: int, method: Method, seed: int) -> None:
    _CELLS[0].train(number, method, seed)


def _train_in(processes: int, cells: _Cells, methods: Sequence[Method], seeds: int, bar: Progress, row: TaskID) -> None:
    """Train every cell in other processes; what is interrupted leaves the finished cells."""
    threads = max(1, (os.cpu_count() or 1) // processes)
    context = get_context("spawn")  # no state of this process's threads
    with ProcessPoolExecutor(processes, context, initializer=_enter, initargs=(cells, threads)) as pool:
        jobs = [(number, method, seed) for number in range(len(cells.tasks)) for seed in range(seeds) for method in methods]
        try:
            for done in as_completed([pool.submit(_train, *job) for job in jobs]):
                done.result()
                bar.advance(row)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in active_children():  # a cell may take minutes more, and is stored whole or not at all
                worker.terminate()
                worker.join()
            raise


def recall(runs: Sequence[Run], k: int = 1) -> Interval:
    """Mean R@k over the directions between two modalities, with a 95 % interval over items and seeds."""
    return share_interval(_hits(runs, k), runs[0].report.items)


def difference(runs: Sequence[Run], reference: Sequence[Run], k: int = 1, *, level: float = 0.95) -> Interval:
    """Mean R@k of `runs` minus that of `reference`, paired by item and seed, with its interval, of 95 % by default.

    Raises:
        InputError: the two differ in seeds, directions or items.
    """
    ours, theirs = _hits(runs, k), _hits(reference, k)
    if ours.shape != theirs.shape or [run.seed for run in runs] != [run.seed for run in reference]:
        raise InputError(
            "`reference` must have the seeds, directions and items of `runs` to be compared in pairs; "
            f"got {theirs.shape} and {ours.shape}."
        )
    return difference_interval(ours - theirs, runs[0].report.items, level=level)


def _hits(runs: Sequence[Run], k: int) -> NDArray[np.float64]:
    """Which items found their match among the best k, (seeds, directions, items)."""
    return np.stack([hits(run.report.singles, run.report.n, k) for run in runs])


def chosen(methods: Sequence[Method], names: Sequence[str] | None) -> list[Method]:
    """The methods with these names; all without names.

    Args:
        methods: to choose from.
        names: compared by their lower-case letters and digits: "gram-cone-each" is "Gram, cone, each".

    Returns:
        The chosen methods, in the order of `methods`.

    Raises:
        InputError: a name that no method has.
    """
    known = {slug(method.name): method for method in methods}
    slugs = [check_choice("methods", slug(name), known) for name in names or known]
    return [method for slug, method in known.items() if slug in slugs]
