"""Which objective to train, which to fine-tune, which score to serve: the tables of docs/objectives.md.

Every objective trains new heads on a synthetic task and on stamps, and fine-tunes an aligned space on stamps. The test splits
choose nothing: epochs, and the candidate that challenges all-pairs InfoNCE, are chosen on validation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from gramian.benchmark.plan import Plan, study_of
from gramian.benchmark.study import Method, Run, Task, chosen, difference, recall
from gramian.data import Table, load
from gramian.errors import InputError
from gramian.evaluation import evaluate
from gramian.evaluation.metrics import recall_at_k
from gramian.losses import PMRL, Centroid, Contrast, Gram, HyperGram, Pairwise, Symile, Triangle
from gramian.scores import ScoreName
from gramian.sheets import Sheet
from gramian.training import Recipe

__all__ = ["METHODS", "REFERENCE", "objectives"]

MARKERS = ("synthetic", "stamps", "tuned", "served", "challenge")
"""The markers in docs/objectives.md."""

_PAIRWISE = partial(Pairwise, temperature=0.2)

REFERENCE = Method("Pairwise, τ = 0.2", _PAIRWISE, "corrected")
"""What the others are compared with, and what trains the spaces that are then fine-tuned."""

METHODS: tuple[Method, ...] = (
    Method("Pairwise (CLIP), all pairs", Pairwise, "published"),
    Method("Pairwise, anchored on text", lambda: Pairwise(anchor="text"), "published"),
    Method("Pairwise, sigmoid (SigLIP)", lambda: Pairwise(objective="sigmoid"), "published"),
    Method("Gram", Gram, "published"),
    Method("PMRL", PMRL, "published"),
    Method("Centroid (CentroBind)", Centroid, "published"),
    Method("Triangle", Triangle, "published"),
    Method("Triangle, squared", lambda: Triangle(squared=True), "published"),
    Method("Symile, n", Symile, "published"),
    Method("Symile, n²", lambda: Symile(negatives="n_squared"), "published"),
    Method("HyperGram", HyperGram, "published"),
    REFERENCE,
    Method("Gram, cone, each", lambda: Gram(score="cone", anchor="each", temperature=0.2), "corrected"),
    Method("PMRL, signed", lambda: PMRL(signed=True, alignment_temperature=0.5), "corrected"),
    Method("Centroid of the others", lambda: Centroid(own=False, temperature=0.2), "corrected"),
    Method("Triangle, each", lambda: Triangle(anchor="each", temperature=0.2), "corrected"),
    Method("HyperGram, each", lambda: HyperGram(anchor="each", temperature=0.2), "corrected"),
    Method("Contrast, weighted centroid", lambda: Contrast("weighted_centroid", temperature=0.2), "corrected"),
    Method("Contrast, softmax cosine", lambda: Contrast("softmax_cosine", temperature=0.2), "corrected"),
    Method("Contrast, leading", lambda: Contrast("leading", temperature=0.2), "corrected"),
    Method("Pairwise + PMRL, signed", lambda: _PAIRWISE() + PMRL(signed=True, alignment_temperature=0.5), "combined"),
    Method(
        "Pairwise + Gram, cone, each",
        lambda: _PAIRWISE() + Gram(score="cone", anchor="each", temperature=0.2),
        "combined",
    ),
    Method("Pairwise + Centroid of the others", lambda: _PAIRWISE() + Centroid(own=False, temperature=0.2), "combined"),
)

SERVED: tuple[ScoreName, ...] = (
    "cosine",
    "max_cosine",
    "softmax_cosine",
    "centroid",
    "weighted_centroid",
    "cone",
    "span",
    "leading",
    "spectral_gain",
    "volume",
    "triangle",
    "hyperbolic_volume",
    "multilinear",
)

SPACES = (REFERENCE.name, "Gram, cone, each", "PMRL, signed", "Gram", "PMRL", "Symile, n")
"""The objectives whose spaces are evaluated with each of `SERVED`."""


def synthetic(seed: int) -> Table:
    """Three modalities of one latent of 16 dimensions.

    Each is a random linear map of it into 32 dimensions, with standard deviation 1, plus noise with standard deviation 0.4.
    3,840 items to train (300 steps of 64), 500 to validate, 1,000 to test.
    """
    generator = torch.Generator().manual_seed(1000 + seed)
    n = 3840 + 500 + 1000
    z = torch.randn(n, 16, generator=generator)
    columns = {}
    for name in ("text", "image", "audio"):
        signal = z @ torch.randn(16, 32, generator=generator) / 4
        columns[name] = signal + 0.4 * torch.randn(n, 32, generator=generator)
    return Table.from_columns(columns, split=["train"] * 3840 + ["validation"] * 500 + ["test"] * 1000)


@cache
def _stamps() -> Table:
    return load("stamps", columns=["image", "text", "speech_fr"])


SYNTHETIC = Task("synthetic", synthetic, 16, Recipe(epochs=5, batch_size=64, learning_rate=3e-3, evaluate_every=1))
STAMPS = Task("stamps", lambda _: _stamps())
TUNED = Task(
    "stamps-tuned",
    STAMPS.table,
    recipe=Recipe(epochs=20, learning_rate=3e-4, evaluate_every=1),
    start=replace(REFERENCE, recipe=STAMPS.recipe),
)


@study_of(Plan("objectives", seeds=5), *MARKERS)
def objectives(plan: Plan, console: Console | None) -> list[Path]:
    """Train every objective, and write the tables; half an hour on two cores.

    Raises:
        InputError: a page together with `methods` or `epochs`.
    """
    if plan.page is not None and (plan.methods is not None or plan.epochs is not None):
        raise InputError("`page` shows whole studies: leave `methods` and `epochs` out, or the page.")
    trained = chosen(METHODS, None if plan.methods is None else [*plan.methods, REFERENCE.name])
    tuned = [method for method in trained if method.kind != "combined"]
    tasks = [_short(task, plan.epochs) for task in (SYNTHETIC, STAMPS, TUNED)]
    results = plan.results(tasks[:2], trained, console) | plan.results(tasks[2:], tuned, console)
    before = results["stamps"][REFERENCE.name]
    tables = {
        "synthetic": training_table("One latent, three modalities, from new heads", results["synthetic"]).markdown(),
        "stamps": training_table("Stamps, from new heads", results["stamps"]).markdown(),
        "tuned": training_table("Stamps, an aligned space fine-tuned", results["stamps-tuned"], before).markdown(),
        "served": "\n".join(serving_table(name, results[name]).markdown() for name in ("synthetic", "stamps")),
        "challenge": "\n".join(challenge(name, results[name]) for name in ("synthetic", "stamps")),
    }
    return plan.write("Which objective to train, which score to serve", tables)


def _short(task: Task, epochs: int | None) -> Task:
    if epochs is None:
        return task
    start = task.start and replace(task.start, recipe=replace(task.start.recipe or task.recipe, epochs=epochs))
    return replace(task, recipe=replace(task.recipe, epochs=epochs), start=start)


def training_table(title: str, results: Mapping[str, Sequence[Run]], before: Sequence[Run] | None = None) -> Sheet:
    """Validation MRR, test R@1 with its interval, and the paired difference to a reference.

    Args:
        title: of the sheet.
        results: name of the objective → its runs.
        before: the runs that these started from, which are then the reference.
    """
    reference = results[REFERENCE.name] if before is None else before
    rows = [] if before is None else [_row("(before)", "", before, "–")]
    for name, runs in results.items():
        gap = "–" if runs is reference else difference(runs, reference).percent()
        rows.append(_row(name, runs[0].method.kind, runs, gap))
    first = reference[0].report
    gallery, missing = first.singles[0].gallery, sum(first.n - count for count in first.present.values())
    note = (
        f"Mean R@1 in % of the six directions between two modalities, {len(reference)} seeds, lowest and highest seed; test "
        f"gallery {gallery} items, {missing} missing cells; 95 % intervals over items and seeds, differences to "
        f"{REFERENCE.name if before is None else 'the space before'} paired. Epochs are chosen by validation MRR."
    )
    return Sheet(title, ("objective", "options", "validation MRR", "R@1 [95 %]", "seeds", "Δ [95 %]"), tuple(rows), note)


def _row(name: str, kind: str, runs: Sequence[Run], gap: str) -> tuple[str, ...]:
    by_seed = [100 * recall([run]).value for run in runs]
    return name, kind, f"{100 * _mrr(runs):.1f}", recall(runs).percent(), f"{min(by_seed):.0f}–{max(by_seed):.0f}", gap


def _mrr(runs: Sequence[Run]) -> float:
    return float(np.mean([run.best for run in runs]))


def serving_table(task: str, results: Mapping[str, Sequence[Run]]) -> Sheet:
    """R@1 of one modality ↔ the two others together, by score."""
    spaces = {name: results[name] for name in SPACES if name in results}
    gains = {name: [evaluate(run.embedded, scores=SERVED).gains for run in runs] for name, runs in spaces.items()}

    def mean(name: str, score: str, single: bool) -> str:
        """R@1 in one space: the mean over directions, then over seeds."""
        shares = [
            np.mean(
                [recall_at_k((gain.single if single else gain.joint).ranks, 1) for gain in run if gain.joint.score == score]
            )
            for run in gains[name]
        ]
        return f"{100 * np.mean(shares):.1f}"

    rows = [(f"`{score}`", *(mean(name, score, False) for name in spaces)) for score in SERVED]
    rows.append(("best single modality", *(mean(name, SERVED[0], True) for name in spaces)))
    seeds = len(results[REFERENCE.name])
    note = (
        f"R@1 in % of the six directions between one modality and the other two together, {seeds} seeds, the same test "
        "gallery; columns are what was trained, rows what serves. The best single modality is picked on the test queries."
    )
    return Sheet(f"{task.capitalize()}: which score to serve", ("score", *spaces), tuple(rows), note)


def challenge(task: str, results: Mapping[str, Sequence[Run]]) -> str:
    """The candidate that validation ranks first beside all-pairs InfoNCE, and its difference on the test split."""
    candidates = {name: _mrr(runs) for name, runs in results.items() if not name.startswith("Pairwise,") and "CLIP" not in name}
    if not candidates:
        return f"On {task} nothing but Pairwise itself was trained.\n"
    best = max(candidates, key=lambda name: candidates[name])
    reference = results[REFERENCE.name]
    gap = difference(results[best], reference)
    verdict = "beats" if gap.low > 0 else "loses to" if gap.high < 0 else "does not differ from"
    return (
        f"On {task} validation prefers *{best}* among all but Pairwise itself (MRR {100 * candidates[best]:.1f} against "
        f"{100 * _mrr(reference):.1f} for {REFERENCE.name}). On the test split it {verdict} it: ΔR@1 {gap.percent()}.\n"
    )
