"""What all studies share: their options, and how they train, choose and write."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from rich.console import Console

from gramian.benchmark.pages import read_page, write_tables
from gramian.benchmark.study import Method, Results, Task, chosen, study
from gramian.errors import InputError, check_number, require
from gramian.scores import ScoreName

__all__ = ["Plan", "Study", "study_of"]

SHARED = ("output", "seeds", "epochs", "methods", "page", "resume")
"""Options of every study."""


@dataclass(frozen=True)
class Plan:
    """Run a study: every method trained with several seeds, its figures compared in pairs.

    alignment_metric: whether GRAM's volume tells a good space from a bad one (docs/evaluation.md); half an hour.
    attempts: what may be better than the best family, judged on validation items (docs/benchmark.md); an hour.
    learning_curve: how many training items each method needs (docs/canonical.md); hours.
    modality_dropout: what dropout of modalities in training buys (docs/evaluation.md); a quarter of an hour.
    objectives: which objective to train, which to fine-tune, which score to serve (docs/objectives.md); half an hour.
    scale: where training overtakes the closed form, on tables drawn to resemble real ones (docs/canonical.md); an hour.
    stamps_selection: what `gramian demo` trains with, chosen on validation (docs/log.md); ten minutes.
    standing: every family of methods on every data set at hand, over repeated splits (docs/benchmark.md); hours.

    Attributes:
        study: alignment_metric, attempts, learning_curve, modality_dropout, objectives, scale, stamps_selection or standing.
        output: folder of the runs and of report.md; runs/STUDY by default.
        seeds: runs of each method, each on draws or splits of its own where the study has them; learning_curve, objectives and
            standing have 5 by default, scale 1.
        epochs: of every run with a loss, to try it; the study's own by default.
        methods: names of the methods in small letters, words joined by dashes, as in gram-cone-each; all by default.
        sets: data sets of the studies of several, by default stamps and what `gramian prepare` has made; of scale, digits.
        sizes: numbers of training items of learning_curve and scale; those that a data set does not have are left out.
        processes: that train in attempts, learning_curve and standing; each on its share of the cores.
        external: methods of somebody else in standing, "package.module:function": (training items, validation items, seed) → an
            object whose `embed` gives the Bundle of a table; or entry points of the group "gramian.methods". Their code runs;
            typed, never in a file.
        merge: results.parquet files of others, shown beside those of standing.
        quick: let standing only show that it works: stamps, two methods, two splits, five epochs.
        page: a Markdown page with the study's markers, which gets its tables.
        resume: reuse the finished runs in the output folder that have the same settings.
    """

    study: str
    output: Path | None = None
    seeds: int = 3
    epochs: int | None = None
    methods: Sequence[str] | None = None
    sets: Sequence[str] | None = None
    sizes: Sequence[int] = ()
    processes: int = 1
    external: Sequence[str] = ()
    merge: Sequence[Path] = ()
    quick: bool = False
    page: Path | None = None
    resume: bool = False

    @property
    def folder(self) -> Path:
        """Of the runs and of the report."""
        return self.output or Path("runs") / self.study

    def names(self, every: Iterable[str]) -> list[str]:
        """The chosen ones of these names of methods.

        Raises:
            InputError: a chosen name that is not among them.
        """
        return [method.name for method in chosen([Method(name, None) for name in every], self.methods)]

    def results(
        self,
        tasks: Sequence[Task],
        methods: Sequence[Method],
        console: Console | None,
        *,
        split: str = "test",
        scores: Sequence[ScoreName] = (),
        cpu: bool = True,
    ) -> Results:
        """The runs of `study` in the plan's folder."""
        return study(
            tasks,
            methods,
            self.folder,
            seeds=self.seeds,
            split=split,
            scores=scores,
            resume=self.resume,
            cpu=cpu,
            processes=self.processes,
            console=console,
        )

    def write(self, title: str, tables: Mapping[str, str]) -> list[Path]:
        """Write the tables, by marker, to `report.md` and into the page."""
        return write_tables(title, tables, self.folder, self.page)

    def beside(self, name: str) -> list[Path]:
        """The paths of a picture beside the report, and beside the page."""
        return [folder / name for folder in (self.folder, *([] if self.page is None else [self.page.parent]))]


@dataclass(frozen=True)
class Study:
    """A study, called with a plan and the console of its progress bars; it returns the paths that it wrote.

    Attributes:
        run: what it does.
        plan: its own numbers.
        markers: of its page.
        takes: its options beside `SHARED`.
        needs: packages.

    Raises:
        InputError: an option of another study, an unknown method or data set, a page without the markers, a package that is
            not installed.
    """

    run: Callable[[Plan, Console | None], list[Path]]
    plan: Plan
    markers: tuple[str, ...]
    takes: tuple[str, ...]
    needs: tuple[str, ...]

    def __call__(self, plan: Plan, console: Console | None = None) -> list[Path]:
        """Check what all studies check, and run it."""
        for name in (field.name for field in fields(plan)):
            if name not in (*SHARED, *self.takes) and getattr(plan, name) != getattr(self.plan, name):
                raise InputError(f"`{name}` is not an option of {self.plan.study}. Leave it out.")
        for size in plan.sizes:
            check_number("sizes", size, "[4, inf)", integer=True)
        require(*self.needs)
        if plan.page is not None:
            read_page(plan.page, self.markers)
        return self.run(plan, console)


def study_of(
    plan: Plan, *markers: str, takes: tuple[str, ...] = (), needs: tuple[str, ...] = ()
) -> Callable[[Callable[[Plan, Console | None], list[Path]]], Study]:
    """Make a `Study` of the function below it; the arguments are its attributes."""
    return lambda run: Study(run, plan, markers, takes, needs)
