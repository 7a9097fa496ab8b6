"""`gramian benchmark`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, Literal

from gramian.benchmark.alignment_metric import alignment_metric
from gramian.benchmark.attempts import attempts
from gramian.benchmark.learning_curve import learning_curve
from gramian.benchmark.modality_dropout import modality_dropout
from gramian.benchmark.objectives import objectives
from gramian.benchmark.scale import scale
from gramian.benchmark.stamps_selection import stamps_selection
from gramian.benchmark.standing import standing
from gramian.cli.terminal import console_of
from gramian.errors import InputError, listing
from gramian.files import claimed
from gramian.processes import is_main_process

__all__ = ["benchmark_command"]

STUDIES: dict[str, Callable[..., list[Path]]] = {
    "alignment_metric": alignment_metric,
    "attempts": attempts,
    "learning_curve": learning_curve,
    "modality_dropout": modality_dropout,
    "objectives": objectives,
    "scale": scale,
    "stamps_selection": stamps_selection,
    "standing": standing,
}


def benchmark_command(
    study: Literal[
        "alignment_metric",
        "attempts",
        "learning_curve",
        "modality_dropout",
        "objectives",
        "scale",
        "stamps_selection",
        "standing",
    ],
    output: Path | None = None,
    seeds: int | None = None,
    epochs: int | None = None,
    methods: Sequence[str] | None = None,
    sets: Sequence[str] | None = None,
    sizes: Sequence[int] | None = None,
    processes: int | None = None,
    external: Sequence[str] | None = None,
    merge: Sequence[Path] | None = None,
    quick: bool | None = None,
    page: Path | None = None,
    resume: bool = False,
) -> None:
    """Run a study: every method trained with several seeds, its figures compared in pairs.

    alignment_metric: whether GRAM's volume tells a good space from a bad one (docs/evaluation.md); half an hour.
    attempts: what may be better than the best family, judged on validation items (docs/benchmark.md); an hour.
    learning_curve: how many training items each method needs (docs/canonical.md); hours.
    modality_dropout: what dropout of modalities in training buys (docs/evaluation.md); a quarter of an hour.
    objectives: which objective to train, which to fine-tune, which score to serve (docs/objectives.md); half an hour.
    scale: where training overtakes the closed form, on tables drawn to resemble real ones (docs/canonical.md); an hour.
    stamps_selection: what `gramian demo` trains with, chosen on validation (docs/log.md); ten minutes.
    standing: every family of methods on every data set at hand, over repeated splits (docs/benchmark.md); hours.

    Args:
        study: alignment_metric, attempts, learning_curve, modality_dropout, objectives, scale, stamps_selection or standing.
        output: folder of the runs and of report.md; runs/STUDY by default.
        seeds: runs of each method; the study's own number by default.
        epochs: of every run, to try it; the study's own by default.
        methods: names of the methods in small letters, words joined by dashes, as in gram-cone-each; all by default.
        sets: data sets of the studies of several, by default stamps and what `gramian prepare` has made; of scale, digits.
        sizes: numbers of training items of learning_curve and scale.
        processes: that train in attempts, learning_curve and standing; each on its share of the cores.
        external: methods of somebody else in standing, as package.module:function, whose code runs; typed, never in a file.
        merge: results.parquet files of others, shown beside those of standing.
        quick: let standing only show that it works: stamps, two methods, two splits.
        page: a Markdown page with the study's markers, which gets its tables.
        resume: reuse the finished runs in the output folder that have the same settings.

    Raises:
        InputError: options of another study.
    """
    console = console_of()
    options: dict[str, Any] = {"epochs": epochs, "methods": methods, "page": page, "resume": resume, "console": console}
    own = {"sets": sets, "sizes": sizes, "processes": processes, "external": external, "merge": merge, "quick": quick}
    for name, value in own.items():
        takers = [each for each, function in STUDIES.items() if name in signature(function).parameters]
        if value is not None and study not in takers:
            raise InputError(f"`{name}` is an option of {listing(takers)}, not of {study}. Leave it out.")
    options |= {name: value for name, value in {**own, "seeds": seeds}.items() if value is not None}
    output = output or Path("runs") / study
    with claimed(output, is_main_process()):
        for path in STUDIES[study](output, **options):
            console.print(f"wrote {path}", highlight=False, markup=False)
