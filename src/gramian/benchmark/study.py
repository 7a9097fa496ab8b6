"""The engine of every comparison: methods × seeds × tasks, each run trained once, stored, and compared in pairs."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from gramian.benchmark.environment import versions
from gramian.bundle import Bundle
from gramian.canonical.features import Kernel
from gramian.data import Table
from gramian.errors import InputError, check_choice, check_number, require
from gramian.evaluation import Report, evaluate, hits
from gramian.evaluation.directions import all_ranks
from gramian.evaluation.metrics import mean_reciprocal_rank
from gramian.evaluation.stats import Interval, difference_interval, share_interval
from gramian.files import read_json, write_text
from gramian.losses import Loss
from gramian.model import Aligner
from gramian.model.heads import HeadName
from gramian.model.options import convert
from gramian.scores import ScoreName
from gramian.training import History, Recipe, Search, fit, fit_canonical

__all__ = ["Method", "Results", "Run", "Task", "chosen", "difference", "recall", "study"]

SPLITS = ("train", "validation", "test")


class Embeds(Protocol):
    """What a method gives: an `Aligner`, or anything that embeds tables."""

    def embed(self, table: Table, /) -> Bundle:
        """The rows of a table in the shared space."""


@dataclass(frozen=True)
class Method:
    """A way to train.

    Attributes:
        name: for tables and, in plain letters, for files.
        loss: builds the objective; None solves in closed form.
        kind: the origin of its options, for tables: "published", "corrected", "combined".
        dim: width of the shared space; the task's by default.
        recipe: the task's by default. Each run replaces its seed.
        head: of every modality, where a loss trains new ones.
        kernel: of heads "kernel".
        search: what the closed form tries on validation; with a loss, the closed form that training starts from.
        train: a method of somebody else, instead of all of these but the name: (training items, validation items, seed) → an
            object whose `embed` gives the Bundle of a table.
    """

    name: str
    loss: Callable[[], Loss] | None
    kind: str = ""
    dim: int | None = None
    recipe: Recipe | None = None
    head: HeadName = "linear"
    kernel: Kernel = Kernel()  # noqa: RUF009 (frozen)
    search: Search | None = None
    train: Callable[[Table, Table, int], Embeds] | None = None

    @property
    def objective(self) -> str:
        """The loss, or the criterion of the closed form, in words."""
        if self.train is not None:
            return f"{self.train.__module__}:{self.train.__qualname__}"
        return repr(self.loss()) if self.loss is not None else (self.search or Search()).criterion


@dataclass(frozen=True)
class Task:
    """What the methods are trained on.

    Attributes:
        name: for tables and files.
        table: seed → table with the splits "train", "validation" and "test".
        dim: width of the shared space.
        recipe: how to train.
        start: the method that trains the space from which every other method starts, by its own recipe; None for new heads.
    """

    name: str
    table: Callable[[int], Table]
    dim: int = 512
    recipe: Recipe = field(default_factory=Recipe)
    start: Method | None = None


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
    """

    method: Method
    seed: int
    path: Path
    report: Report
    best: float
    best_epoch: int
    seconds: float | None = None

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
    for argument, names in (("tasks", [_slug(task.name) for task in tasks]), ("methods", [_slug(one.name) for one in methods])):
        if not names or len(set(names)) < len(names):
            raise InputError(f"`{argument}` must be one or more with different names; got {', '.join(names) or 'none'}.")
    require("accelerate")
    results: Results = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        row = bar.add_task("training", total=len(tasks) * len(methods) * seeds)
        if processes > 1:
            _train_in(processes, _Cells(tuple(tasks), folder, split, cpu, resume), methods, seeds, bar, row)
            bar.reset(row)
        for task in tasks:
            trials = [_Trial(task, seed, split, cpu) for seed in range(seeds)]
            results[task.name] = {}
            for method in methods:
                runs = []
                for trial in trials:
                    bar.update(row, description=f"{task.name}: {method.name}, seed {trial.seed}")
                    path = _path(folder, task, method, trial.seed)
                    embedded, outcome = (trial.stored(method, path) if resume or processes > 1 else None) or trial.train(
                        method, path
                    )
                    report = evaluate(embedded, scores=scores, subsets="others" if scores else "none")
                    report = replace(report, space=None)
                    best, epoch = outcome["best"], outcome["best_epoch"]
                    runs.append(
                        Run(method, trial.seed, path.with_suffix(".safetensors"), report, best, epoch, outcome.get("seconds"))
                    )
                    bar.advance(row)
                results[task.name][method.name] = tuple(runs)
        bar.update(row, description="trained")
    return results


def _path(folder: Path, task: Task, method: Method, seed: int) -> Path:
    return folder / _slug(task.name) / f"{_slug(method.name)}-{seed}.json"


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
        trial, path = self.trial(number, seed), _path(self.folder, task, method, seed)
        if not self.resume or trial.stored(method, path) is None:
            trial.train(method, path)

    @lru_cache(maxsize=2)  # noqa: B019 (one object in each process)
    def trial(self, number: int, seed: int) -> _Trial:
        """One task with one seed, whose table is read once for its methods."""
        return _Trial(self.tasks[number], seed, self.split, self.cpu)


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
            raise


class _Trial:
    """One task with one seed."""

    def __init__(self, task: Task, seed: int, split: str, cpu: bool) -> None:
        self.task, self.seed, self.split, self.cpu = task, seed, split, cpu
        table = task.table(seed)
        self.digest = table.digest()
        self.parts = {name: table.part(name).has_any() for name in SPLITS}

    @cached_property
    def start(self) -> Aligner | None:
        """The space from which every method starts, trained once."""
        if self.task.start is None:
            return None
        return self._fit(None, self.task.start)[0]

    def settings(self, method: Method) -> dict[str, Any]:
        """Everything that determines a run's result, as plain JSON values."""
        start = self.task.start
        settings = versions() | {
            "data": self.digest,
            "split": self.split,
            "dim": method.dim or self.task.dim,
            "recipe": asdict(self._recipe(method)),
            "loss": method.objective,
            "head": (method.head, asdict(method.kernel)),
            "search": None if method.search is None else asdict(method.search),
            "start": None if start is None else {"recipe": asdict(self._recipe(start)), "loss": start.objective},
        }
        plain: dict[str, Any] = json.loads(json.dumps(settings))
        return plain

    def stored(self, method: Method, path: Path) -> tuple[Bundle, dict[str, Any]] | None:
        """The finished run at `path`; None where there is none, or it is damaged or has other settings."""
        try:
            outcome: dict[str, Any] = read_json(path)
            figures = {
                "best": convert(outcome["best"], float, "best"),
                "best_epoch": convert(outcome["best_epoch"], int, "epoch"),
                "seconds": convert(outcome.get("seconds"), float | None, "seconds"),
            }
            if outcome["settings"] == self.settings(method):
                return Bundle.load(path.with_suffix(".safetensors")), outcome | figures
        except (OSError, ValueError, KeyError, TypeError, RuntimeError):  # damaged, or somebody else's
            pass
        return None

    def train(self, method: Method, path: Path) -> tuple[Bundle, dict[str, Any]]:
        """Train and embed, and store the result at `path`; the settings last, so that they never describe other embeddings."""
        start = deepcopy(self.start)
        started = perf_counter()
        if method.train is not None:
            embeds, best, epoch = method.train(self.parts["train"], self.parts["validation"], self.seed), None, 0
        else:
            embeds, history = self._fit(start, method)
            best, epoch = history.best, history.best_epoch
        seconds = perf_counter() - started
        embedded = embeds.embed(self.parts[self.split]).to("cpu")
        if method.train is not None:
            best = mean_reciprocal_rank(all_ranks(embeds.embed(self.parts["validation"]).to("cpu")))
        outcome = {"settings": self.settings(method), "best": best or 0.0, "best_epoch": epoch, "seconds": seconds}
        path.unlink(missing_ok=True)
        embedded.save(path.with_suffix(".safetensors"))
        write_text(path, json.dumps(outcome, ensure_ascii=False, indent=2) + "\n")
        return embedded, outcome

    def _recipe(self, method: Method) -> Recipe:
        return replace(method.recipe or self.task.recipe, seed=self.seed)

    def _fit(self, aligner: Aligner | None, method: Method) -> tuple[Aligner, History]:
        """The Aligner as the method leaves it, from new heads where there is none."""
        train, validation = self.parts["train"], self.parts["validation"]
        solved: float | None = None
        if method.search is not None or method.loss is None:
            aligner, choice = fit_canonical(train, validation, search=method.search, seed=self.seed, progress=False)
            solved = choice.best
        elif aligner is None:
            dim = method.dim or self.task.dim
            aligner = Aligner.for_table(train, dim=dim, head=method.head, kernel=method.kernel, seed=self.seed)
        if method.loss is None:
            return aligner, History(best=solved)
        recipe = self._recipe(method)
        return aligner, fit(aligner, method.loss(), train, validation, recipe=recipe, progress=False, cpu=self.cpu)


def recall(runs: Sequence[Run], k: int = 1) -> Interval:
    """Mean R@k over the directions between two modalities, with a 95 % interval over items and seeds."""
    return share_interval(_hits(runs, k), runs[0].report.items)


def difference(runs: Sequence[Run], reference: Sequence[Run], k: int = 1) -> Interval:
    """Mean R@k of `runs` minus that of `reference`, paired by item and seed, with its 95 % interval.

    Raises:
        InputError: the two differ in seeds, directions or items.
    """
    ours, theirs = _hits(runs, k), _hits(reference, k)
    if ours.shape != theirs.shape or [run.seed for run in runs] != [run.seed for run in reference]:
        raise InputError(
            "`reference` must have the seeds, directions and items of `runs` to be compared in pairs; "
            f"got {theirs.shape} and {ours.shape}."
        )
    return difference_interval(ours - theirs, runs[0].report.items)


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
    known = {_slug(method.name): method for method in methods}
    slugs = [check_choice("methods", _slug(name), known) for name in names or known]
    return [method for slug, method in known.items() if slug in slugs]


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower().replace("²", "2")).strip("-")
