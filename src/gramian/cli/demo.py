"""`gramian demo`."""

from __future__ import annotations

import shlex
from pathlib import Path

from gramian.benchmark.demo import demo
from gramian.cli.terminal import console_of
from gramian.files import claimed
from gramian.processes import is_main_process
from gramian.training import Recipe

__all__ = ["demo_command"]


def demo_command(output: Path = Path("runs/demo"), seeds: int = 3, recipe: Recipe = Recipe(), resume: bool = False) -> None:
    """Train and compare Pairwise, GRAM and PMRL, as published and corrected, on the embedded data set.

    Args:
        output: folder for the pages, report.html and report.md, and the pictures.
        seeds: runs of each objective.
        recipe: how to train; its seed is replaced by the run's.
        resume: reuse the finished runs in the output folder that have the same settings.
    """
    words = ["gramian", "demo", "--output", str(output), "--seeds", str(seeds)]
    for name, value in vars(recipe).items():
        if value != getattr(Recipe(), name):
            words += [f"--recipe.{name}", str(value)]
    with claimed(output, is_main_process()):
        demo(output, seeds=seeds, recipe=recipe, resume=resume, console=console_of(), command=shlex.join(words))
