"""What a study is made of: methods, tasks, and trials, which train one method on one task with one seed and store it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple, Protocol

import torch

from gramian.benchmark.environment import versions
from gramian.benchmark.memory import PeakMemory
from gramian.bundle import Bundle
from gramian.canonical.features import Kernel
from gramian.data import Table
from gramian.distributed import device
from gramian.evaluation.directions import all_ranks
from gramian.evaluation.metrics import mean_reciprocal_rank
from gramian.files import read_json, write_text
from gramian.losses import Loss
from gramian.model import Aligner
from gramian.model.heads import HeadName
from gramian.model.options import convert
from gramian.training import History, Recipe, Search, fit, fit_canonical

__all__ = ["SPLITS", "Embeds", "Method", "Task", "Trial", "path_of", "same", "slug"]

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
        beside: the weight of a term beside the loss, and what makes it from the Aligner and the training items.
    """

    name: str
    loss: Callable[[], Loss] | None
    kind: str = ""
    dim: int | None = None
    recipe: Recipe | None = None
    head: HeadName = "linear"
    kernel: Kernel = Kernel()
    search: Search | None = None
    train: Callable[[Table, Table, int], Embeds] | None = None
    beside: tuple[float, Callable[[Aligner, Table], Loss]] | None = None

    @property
    def objective(self) -> str:
        """The loss, or the criterion of the closed form, in words."""
        if self.train is not None:
            name = getattr(self.train, "__qualname__", None)
            return repr(self.train) if name is None else f"{self.train.__module__}:{name}"
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


def same(table: Table, seed: int) -> Table:
    """The table itself, whatever the seed: `partial(same, table)` is a task's table that other processes can be sent."""
    del seed
    return table


class _Solved(NamedTuple):
    """What the closed form gives, its validation MRR, and what it took."""

    aligner: Aligner
    best: float
    seconds: float
    megabytes: float | None


class Trial:
    """One task with one seed."""

    def __init__(self, task: Task, seed: int, split: str, cpu: bool) -> None:
        self.task = task
        self.seed = seed
        self.split = split
        self.cpu = cpu
        self.device: torch.device = torch.device("cpu") if cpu else device()
        self._solved: dict[Search | None, _Solved] = {}
        table = task.table(seed)
        self.digest: str = table.digest()
        self.parts: dict[str, Table] = {name: table.part(name).has_any() for name in SPLITS}

    @cached_property
    def start(self) -> Aligner | None:
        """The space from which every method starts, trained once."""
        if self.task.start is None:
            return None
        return self._fit(None, self.task.start)[0]

    def solved(self, search: Search | None) -> tuple[Aligner, float]:
        """What the closed form gives and its validation MRR: found once for all methods that begin there."""
        if search not in self._solved:
            train, validation = self.parts["train"], self.parts["validation"]
            started = perf_counter()
            with PeakMemory(self.device) as peak:
                aligner, choice = fit_canonical(train, validation, search=search, seed=self.seed, progress=False)
            self._solved[search] = _Solved(aligner, choice.best, perf_counter() - started, peak.megabytes)
        found = self._solved[search]
        return deepcopy(found.aligner), found.best

    def _begun(self, method: Method) -> _Solved | None:
        """The closed form that the method begins with, if it is known."""
        uses = method.train is None and (method.search is not None or method.loss is None)
        return self._solved.get(method.search) if uses else None

    def settings(self, method: Method) -> dict[str, Any]:
        """Everything that determines a run's result, as plain JSON values."""
        start = self.task.start
        settings: dict[str, Any] = versions() | {
            "data": self.digest,
            "split": self.split,
            "dim": method.dim or self.task.dim,
            "recipe": asdict(self._recipe(method)),
            "loss": method.objective,
            "head": (method.head, asdict(method.kernel)),
            "search": None if method.search is None else asdict(method.search),
            "start": None if start is None else {"recipe": asdict(self._recipe(start)), "loss": start.objective},
        }
        if method.beside is not None:
            settings["beside"] = f"{method.beside[0]:g} {method.beside[1].__qualname__}"
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
                "memory": convert(outcome.get("memory"), float | None, "memory"),
            }
            if outcome["settings"] == self.settings(method):
                return Bundle.load(path.with_suffix(".safetensors")), outcome | figures
        except (OSError, ValueError, KeyError, TypeError, RuntimeError):  # damaged, or somebody else's
            pass
        return None

    def train(self, method: Method, path: Path) -> tuple[Bundle, dict[str, Any]]:
        """Train and embed, and store the result at `path`; the settings last, so that they never describe other embeddings."""
        start = deepcopy(self.start)
        known = self._begun(method)
        started = perf_counter() - (0.0 if known is None else known.seconds)  # which another method has taken already
        with PeakMemory(self.device) as peak:
            if method.train is not None:
                embeds, best, epoch = method.train(self.parts["train"], self.parts["validation"], self.seed), None, 0
            else:
                embeds, history = self._fit(start, method)
                best, epoch = history.best, history.best_epoch
        seconds = perf_counter() - started
        begun = self._begun(method)
        memory = max((one for one in (peak.megabytes, begun and begun.megabytes) if one is not None), default=None)
        embedded = embeds.embed(self.parts[self.split]).to("cpu")
        if method.train is not None:
            best = mean_reciprocal_rank(all_ranks(embeds.embed(self.parts["validation"]).to("cpu")))
        outcome = {"settings": self.settings(method), "best": best or 0.0, "best_epoch": epoch}
        outcome |= {"seconds": seconds, "memory": memory}
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
            aligner, solved = self.solved(method.search)
        elif aligner is None:
            dim = method.dim or self.task.dim
            aligner = Aligner.for_table(train, dim=dim, head=method.head, kernel=method.kernel, seed=self.seed)
        if method.loss is None:
            return aligner, History(best=solved)
        recipe, loss = self._recipe(method), method.loss()
        if method.beside is not None:
            weight, term = method.beside
            train = train if train.item_ids is not None else replace(train, item_ids=train.ids)
            loss = loss + weight * term(aligner, train)
        return aligner, fit(aligner, loss, train, validation, recipe=recipe, progress=False, cpu=self.cpu)


def path_of(folder: Path, task: Task, method: Method, seed: int) -> Path:
    """The file of a run's settings and outcome."""
    return folder / slug(task.name) / f"{slug(method.name)}-{seed}.json"


def slug(name: str) -> str:
    """A name in lower-case letters, digits and dashes, as files and the command line have it."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower().replace("²", "2")).strip("-")
