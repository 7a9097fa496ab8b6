"""`gramian benchmark`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from gramian.benchmark.learning_curve import learning_curve
from gramian.benchmark.objectives import objectives
from gramian.benchmark.scale import scale
from gramian.benchmark.stamps_selection import stamps_selection
from gramian.cli.terminal import console_of
from gramian.errors import InputError
from gramian.files import claimed
from gramian.processes import is_main_process

__all__ = ["benchmark_command"]

STUDIES = {"learning_curve": learning_curve, "objectives": objectives, "scale": scale, "stamps_selection": stamps_selection}


def benchmark_command(
    study: Literal["learning_curve", "objectives", "scale", "stamps_selection"],
    output: Path | None = None,
    seeds: int | None = None,
    epochs: int | None = None,
    methods: Sequence[str] | None = None,
    sets: Sequence[str] | None = None,
    sizes: Sequence[int] | None = None,
    page: Path | None = None,
    resume: bool = False,
) -> None:
    """Run a study: every method trained with several seeds, its figures compared in pairs.

    learning_curve: how many training items each method needs (docs/canonical.md); hours.
    objectives: which objective to train, which to fine-tune, which score to serve (docs/objectives.md); half an hour.
    scale: where training overtakes the closed form, on tables drawn to resemble real ones (docs/canonical.md); an hour.
    stamps_selection: what `gramian demo` trains with, chosen on validation (docs/log.md); ten minutes.

    Args:
        study: learning_curve, objectives, scale or stamps_selection.
        output: folder of the runs and of report.md; runs/STUDY by default.
        seeds: runs of each method; the study's own number by default.
        epochs: of every run, to try it; the study's own by default.
        methods: names of the methods in small letters, words joined by dashes, as in gram-cone-each; all by default.
        sets: data sets of learning_curve, by default stamps and those that `gramian prepare` has made; and of scale, digits.
        sizes: numbers of training items of learning_curve and scale.
        page: a Markdown page with the study's markers, which gets its tables.
        resume: reuse the finished runs in the output folder that have the same settings.

    Raises:
        InputError: options of another study.
    """
    console = console_of()
    options: dict[str, Any] = {"epochs": epochs, "methods": methods, "page": page, "resume": resume, "console": console}
    extra = {name: value for name, value in {"sets": sets, "sizes": sizes}.items() if value is not None}
    if extra and study not in ("learning_curve", "scale"):
        raise InputError(f"`{next(iter(extra))}` is an option of learning_curve and scale; {study} has its own. Leave it out.")
    options |= extra | ({} if seeds is None else {"seeds": seeds})
    output = output or Path("runs") / study
    with claimed(output, is_main_process()):
        for path in STUDIES[study](output, **options):
            console.print(f"wrote {path}", highlight=False, markup=False)
