"""`gramian compare`."""

from __future__ import annotations

from os.path import commonpath
from pathlib import Path

from gramian.cli.terminal import console_of
from gramian.errors import InputError
from gramian.evaluation.comparing import Directions, Metric, compare
from gramian.evaluation.significance import Test
from gramian.files import claimed
from gramian.processes import is_main_process

__all__ = ["compare_command", "named"]


def compare_command(
    runs: list[str],
    metric: Metric = "recall",
    k: int = 1,
    directions: Directions | None = None,
    scores: list[str] | None = None,
    test: Test = "permutation",
    train_items: int | None = None,
    output: Path | None = None,
) -> None:
    """Say which of several evaluations of the same items is better, and how sure that is.

    It reads the ranks.parquet that `gramian evaluate --output` and `gramian train` write, and prints means, differences
    with intervals and corrected p-values, and the sentences that they allow. Runs that cannot be told apart are one group.

    Args:
        runs: two or more folders; one that holds several evaluations, one per seed, is one run.
        metric: recall, mrr (the mean of 1/rank), or accuracy, of `gramian evaluate --classify`.
        k: cut-off of the recall; for accuracy, how many classes may be named.
        directions: which are averaged: between two modalities (singles), of several modalities together (joint), or all; by
            default singles, for accuracy all.
        scores: of the directions, such as span, or methods that predict classes, such as "linear probe"; all by default.
        test: of the differences over items: permutation or bootstrap.
        train_items: that each seed was trained on, where every seed has a split of its own; by default as splits.json says.
        output: folder for comparison.json and comparison.md; nothing is written without one.

    Raises:
        InputError: a run that is named twice, and what `gramian.evaluation.compare` refuses.
    """
    if len(set(runs)) < len(runs):
        raise InputError(f"`runs` must be different folders; got {', '.join(runs)}.")
    comparison = compare(
        named(runs), metric=metric, k=k, directions=directions, scores=scores, test=test, train_items=train_items
    )
    console = console_of()
    for sheet in comparison.sheets():
        console.print(sheet.rich())
    for sentence in comparison.sentences():
        console.print(sentence)
    if output is not None:
        with claimed(output, is_main_process()):
            for path in comparison.save(output):
                console.print(f"wrote {path}")


def named(runs: list[str]) -> dict[str, str]:
    """The runs by what tells their paths apart: runs/a/test and runs/b/test are a and b."""
    parts = [Path(run).parts for run in runs]
    shared = len(Path(commonpath(runs)).parts) if len({Path(run).is_absolute() for run in runs}) == 1 else 0
    after = 0
    while all(len(path) - shared > after + 1 for path in parts) and len({path[-after - 1] for path in parts}) == 1:
        after += 1
    return {"/".join(path[shared : len(path) - after]) or run: run for path, run in zip(parts, runs, strict=True)}
