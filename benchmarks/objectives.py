"""Which objective to train, which to fine-tune, which score to serve: the tables of docs/objectives.md.

    python benchmarks/objectives.py [--seeds 5] [--resume]

About twenty minutes on two cores. Trains every objective from new heads on a synthetic task and on stamps, fine-tunes an
aligned space with each, and writes the tables into docs/objectives.md between their markers. What was trained is kept in
runs/objectives; with --resume finished runs are taken from there. The test splits choose nothing: epochs and the candidate
that challenges all-pairs InfoNCE are chosen on validation.
"""

import argparse
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from gramian.bundle import Bundle
from gramian.data import Table, load
from gramian.evaluation import Report, evaluate, hits
from gramian.evaluation.metrics import hits_at_k
from gramian.evaluation.stats import bootstrap_mean
from gramian.files import write_text
from gramian.losses import PMRL, Centroid, Contrast, Gram, HyperGram, Loss, Pairwise, Symile, Triangle
from gramian.model import Aligner
from gramian.scores import ScoreName
from gramian.sheets import Sheet
from gramian.training import Recipe, fit

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "objectives.md"

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


@dataclass(frozen=True)
class Objective:
    name: str
    loss: Callable[[], Loss]
    kind: str = "published"


REFERENCE = "Pairwise, τ = 0.2"

OBJECTIVES: tuple[Objective, ...] = (
    Objective("Pairwise (CLIP), all pairs", Pairwise),
    Objective("Pairwise, anchored on text", lambda: Pairwise(anchor="text")),
    Objective("Pairwise, sigmoid (SigLIP)", lambda: Pairwise(objective="sigmoid")),
    Objective("Gram", Gram),
    Objective("PMRL", PMRL),
    Objective("Centroid (CentroBind)", Centroid),
    Objective("Triangle", Triangle),
    Objective("Triangle, squared", lambda: Triangle(squared=True)),
    Objective("Symile, n", Symile),
    Objective("Symile, n²", lambda: Symile(negatives="n_squared")),
    Objective("HyperGram", HyperGram),
    Objective(REFERENCE, lambda: Pairwise(temperature=0.2), "mended"),
    Objective("Gram, cone, each", lambda: Gram(score="cone", anchor="each", temperature=0.2), "mended"),
    Objective("PMRL, signed", lambda: PMRL(signed=True, alignment_temperature=0.5), "mended"),
    Objective("Centroid of the others", lambda: Centroid(own=False, temperature=0.2), "mended"),
    Objective("Triangle, each", lambda: Triangle(anchor="each", temperature=0.2), "mended"),
    Objective("HyperGram, each", lambda: HyperGram(anchor="each", temperature=0.2), "mended"),
    Objective("Contrast, weighted centroid", lambda: Contrast("weighted_centroid", temperature=0.2), "mended"),
    Objective("Contrast, softmax cosine", lambda: Contrast("softmax_cosine", temperature=0.2), "mended"),
    Objective("Contrast, leading", lambda: Contrast("leading", temperature=0.2), "mended"),
    Objective("Pairwise + PMRL, signed", lambda: _pairwise() + PMRL(signed=True, alignment_temperature=0.5), "combined"),
    Objective(
        "Pairwise + Gram, cone, each", lambda: _pairwise() + Gram(score="cone", anchor="each", temperature=0.2), "combined"
    ),
    Objective("Pairwise + Centroid of the others", lambda: _pairwise() + Centroid(own=False, temperature=0.2), "combined"),
)


def _pairwise() -> Loss:
    return Pairwise(temperature=0.2)


@dataclass(frozen=True)
class Task:
    """Data and recipe; the splits of `table` are train, validation and test."""

    name: str
    table: Callable[[int], Table]
    dim: int
    recipe: Recipe


def synthetic(seed: int) -> Table:
    """Three modalities of one latent of 16 dimensions.

    Each is a random linear map of it into 32 dimensions, of deviation 1, and noise of deviation 0.4. 3,840 items to train (300
    steps of 64), 500 to validate, 1,000 to test.
    """
    generator = torch.Generator().manual_seed(1000 + seed)
    n = 3840 + 500 + 1000
    z = torch.randn(n, 16, generator=generator)
    columns = {}
    for name in ("text", "image", "audio"):
        seen = z @ torch.randn(16, 32, generator=generator) / 4
        columns[name] = seen + 0.4 * torch.randn(n, 32, generator=generator)
    return Table.from_columns(columns, split=["train"] * 3840 + ["validation"] * 500 + ["test"] * 1000)


@cache
def stamps(seed: int) -> Table:
    del seed
    return load("stamps", columns=["image", "text", "speech_fr"])


TASKS = (
    Task("synthetic", synthetic, 16, Recipe(epochs=5, batch_size=64, learning_rate=3e-3, evaluate_every=1)),
    Task("stamps", stamps, 512, Recipe()),
)
TUNING = Recipe(epochs=20, learning_rate=3e-4, evaluate_every=1)


@dataclass(frozen=True)
class Run:
    """One trained Aligner: its test items, embedded, and its best validation MRR."""

    test: Bundle
    mrr: float

    @property
    def report(self) -> Report:
        return _report(self.test)


@cache
def _report(test: Bundle) -> Report:
    return evaluate(test, subsets=False)


class Study:
    def __init__(self, folder: Path, seeds: int, resume: bool) -> None:
        self.folder, self.seeds, self.resume = folder, seeds, resume
        self.found: dict[tuple[str, str, int], Run] = {}

    def run(self, task: Task, objective: Objective, seed: int) -> Run:
        """From new heads."""
        recipe = replace(task.recipe, seed=seed)

        def train() -> tuple[Aligner, float]:
            train, validation, _ = parts(task, seed)
            aligner = Aligner.for_table(train, dim=task.dim, seed=seed)
            history = fit(aligner, objective.loss(), train, validation, recipe=recipe, progress=False, cpu=True)
            return aligner, history.best or 0.0

        return self._kept(task, f"{task.name}", objective, seed, recipe, train)

    def tune(self, task: Task, objective: Objective, seed: int) -> Run:
        """From the space that the reference aligned."""
        recipe = replace(TUNING, seed=seed)

        def train() -> tuple[Aligner, float]:
            train, validation, _ = parts(task, seed)
            aligner = Aligner.for_table(train, dim=task.dim, seed=seed)
            by_name = {each.name: each for each in OBJECTIVES}
            fit(
                aligner,
                by_name[REFERENCE].loss(),
                train,
                validation,
                recipe=replace(task.recipe, seed=seed),
                progress=False,
                cpu=True,
            )
            history = fit(aligner, objective.loss(), train, validation, recipe=recipe, progress=False, cpu=True)
            return aligner, history.best or 0.0

        return self._kept(task, f"{task.name}-tuned", objective, seed, recipe, train)

    def _kept(
        self,
        task: Task,
        label: str,
        objective: Objective,
        seed: int,
        recipe: Recipe,
        train: Callable[[], tuple[Aligner, float]],
    ) -> Run:
        key = (label, objective.name, seed)
        if key not in self.found:
            slug = re.sub(r"[^a-z0-9]+", "-", f"{label} {objective.name} {seed}".lower().replace("²", "2"))
            path = self.folder / f"{slug}.json"
            made = {"loss": repr(objective.loss()), "recipe": repr(recipe), "data": task.table(seed).digest(), "dim": task.dim}
            stored = json.loads(path.read_text()) if self.resume and path.exists() else {}
            if stored.get("made") != made:
                aligner, mrr = train()
                aligner.embed(parts(task, seed)[2]).save(path.with_suffix(".safetensors"))
                stored = {"made": made, "mrr": mrr}
                write_text(path, json.dumps(stored, ensure_ascii=False))
            self.found[key] = Run(Bundle.load(path.with_suffix(".safetensors")), stored["mrr"])
        return self.found[key]

    def all(self, of: Callable[[Task, Objective, int], Run], task: Task, objective: Objective) -> list[Run]:
        return [of(task, objective, seed) for seed in range(self.seeds)]


def parts(task: Task, seed: int) -> tuple[Table, Table, Table]:
    table = task.table(seed)
    train, validation, test = (table.part(split).has_any() for split in ("train", "validation", "test"))
    return train, validation, test


def found_at_1(runs: Sequence[Run]) -> NDArray[np.float64]:
    """(seeds, directions, items), whether each found its match first."""
    return np.stack([hits(run.report.singles, run.report.n, 1) for run in runs])


def training_table(
    study: Study, task: Task, of: Callable[[Task, Objective, int], Run], objectives: Iterable[Objective]
) -> Sheet:
    """Validation MRR, test R@1 with its interval, and the paired difference to all-pairs InfoNCE at τ = 0.2."""
    by_name = {each.name: each for each in OBJECTIVES}
    tuned = of == study.tune
    # In the tuned table the reference is the space that all started from.
    reference = found_at_1(study.all(study.run, task, by_name[REFERENCE]))
    rows = []
    if tuned:
        start = study.all(study.run, task, by_name[REFERENCE])
        rows.append(("(before)", "", mean_mrr(start), bootstrap_mean(reference).percent(), spread(start), "–"))
    for objective in objectives:
        runs = study.all(of, task, objective)
        found = found_at_1(runs)
        same = objective.name == REFERENCE and not tuned
        difference = "–" if same else bootstrap_mean(found - reference).percent()
        rows.append((objective.name, objective.kind, mean_mrr(runs), bootstrap_mean(found).percent(), spread(runs), difference))
    first = study.run(task, by_name[REFERENCE], 0).report
    gallery, missing = first.singles[0].gallery, sum(first.n - count for count in first.present.values())
    note = (
        f"Mean R@1 in % of the six directions between two modalities, {study.seeds} seeds, lowest and highest seed; test "
        f"gallery {gallery} items, {missing} missing cells; 95 % intervals over items and seeds, differences to "
        f"{'the space before' if tuned else REFERENCE} paired. Epochs are chosen by validation MRR."
    )
    header = ("objective", "options", "validation MRR", "R@1 [95 %]", "seeds", "Δ [95 %]")
    title = {"synthetic": "One latent, three modalities, from new heads", "stamps": "Stamps, from new heads"}[task.name]
    return Sheet(f"{task.name.capitalize()}, an aligned space fine-tuned" if tuned else title, header, tuple(rows), note)


def mean_mrr(runs: Sequence[Run]) -> str:
    return f"{100 * np.mean([run.mrr for run in runs]):.1f}"


def spread(runs: Sequence[Run]) -> str:
    values = [100 * run.report.mean_recall(1).value for run in runs]
    return f"{min(values):.0f}–{max(values):.0f}"


def serving_table(study: Study, task: Task, objectives: Sequence[Objective]) -> Sheet:
    """R@1 of one modality ↔ the two others together, by the score that serves it."""
    gains = {
        objective.name: [evaluate(run.test, scores=SERVED).gains for run in study.all(study.run, task, objective)]
        for objective in objectives
    }

    def mean(name: str, score: str, single: bool) -> str:
        """R@1 of one column: the mean over directions, then over seeds."""
        found = [
            np.mean(
                [
                    hits_at_k((gain.single if single else gain.joint).ranks, 1).mean()
                    for gain in run
                    if gain.joint.score == score
                ]
            )
            for run in gains[name]
        ]
        return f"{100 * np.mean(found):.1f}"

    rows = [(f"`{score}`", *(mean(name, score, False) for name in gains)) for score in SERVED]
    rows.append(("best single modality", *(mean(name, SERVED[0], True) for name in gains)))
    note = (
        f"R@1 in % of the six directions between one modality and the other two together, {study.seeds} seeds, the same test "
        "gallery; columns are what was trained, rows what serves. The best single modality is picked on the test queries."
    )
    title = f"{task.name.capitalize()}: which score to serve"
    return Sheet(title, ("score", *(objective.name for objective in objectives)), tuple(rows), note)


def challenge(study: Study, task: Task) -> str:
    """The candidate that validation prefers to all-pairs InfoNCE, and what the test split says of it."""
    by_name = {each.name: each for each in OBJECTIVES}
    mrr = {each.name: np.mean([run.mrr for run in study.all(study.run, task, each)]) for each in OBJECTIVES}
    best = max((name for name in mrr if not name.startswith("Pairwise,") and "CLIP" not in name), key=lambda name: mrr[name])
    runs, reference = (study.all(study.run, task, by_name[name]) for name in (best, REFERENCE))
    difference = bootstrap_mean(found_at_1(runs) - found_at_1(reference))
    verdict = "beats" if difference.low > 0 else "loses to" if difference.high < 0 else "does not differ from"
    return (
        f"On {task.name} validation prefers *{best}* among all but Pairwise itself (MRR {100 * mrr[best]:.1f} against "
        f"{100 * mrr[REFERENCE]:.1f} for {REFERENCE}). On the test split it {verdict} it: ΔR@1 {difference.percent()}.\n"
    )


def insert(page: str, marker: str, text: str) -> str:
    """`page` with what stands between the marker's two comments replaced."""
    pattern = rf"(<!-- {marker} -->\n).*?(<!-- /{marker} -->)"
    if not re.search(pattern, page, flags=re.S):
        raise SystemExit(f"{PAGE} has no marker {marker}.")
    return re.sub(pattern, lambda match: f"{match[1]}\n{text}\n{match[2]}", page, flags=re.S)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--resume", action="store_true", help="take finished runs from runs/objectives")
    options = parser.parse_args()
    study = Study(ROOT / "runs" / "objectives", options.seeds, options.resume)
    by_name = {each.name: each for each in OBJECTIVES}
    served = [by_name[name] for name in (REFERENCE, "Gram, cone, each", "PMRL, signed", "Gram", "PMRL", "Symile, n")]
    tuned = [each for each in OBJECTIVES if each.kind != "combined"]
    jobs = [(study.run, task, each, seed) for task in TASKS for each in OBJECTIVES for seed in range(options.seeds)]
    jobs += [(study.tune, TASKS[1], each, seed) for each in tuned for seed in range(options.seeds)]
    for job, task, objective, seed in track(jobs, "training"):
        job(task, objective, seed)
    page = PAGE.read_text(encoding="utf-8")
    for task in TASKS:
        page = insert(page, task.name, training_table(study, task, study.run, OBJECTIVES).markdown())
    page = insert(page, "tuned", training_table(study, TASKS[1], study.tune, tuned).markdown())
    page = insert(page, "served", "\n".join(serving_table(study, task, served).markdown() for task in TASKS))
    page = insert(page, "challenge", "\n".join(challenge(study, task) for task in TASKS))
    write_text(PAGE, page)
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
