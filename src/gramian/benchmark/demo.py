"""The main job, end to end, on real data: train by five objectives, several seeds each, and compare them on the test split."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gramian import __version__
from gramian.bundle import Bundle
from gramian.data import Table, load
from gramian.errors import InputError, require
from gramian.evaluation import Report, evaluate, hits
from gramian.evaluation.metrics import recall_at_k
from gramian.evaluation.stats import Interval, bootstrap_mean
from gramian.files import atomic, write_text
from gramian.losses import PMRL, Gram, Loss, Pairwise
from gramian.model import Aligner
from gramian.scores import ScoreName
from gramian.sheets import Sheet
from gramian.training import Recipe, fit

__all__ = ["METHODS", "Method", "compare", "demo"]


@dataclass(frozen=True)
class Method:
    """An objective of the comparison.

    Attributes:
        name: for the table.
        slug: for file names.
        loss: builds the objective, given the anchor of those that have a fixed one.
    """

    name: str
    slug: str
    loss: Callable[[str], Loss]


METHODS: tuple[Method, ...] = (
    Method("Pairwise InfoNCE", "pairwise", lambda _: Pairwise(temperature=0.2)),
    Method("GRAM, published", "gram", lambda anchor: Gram(anchor=anchor)),
    Method("GRAM, cone, each", "gram-cone-each", lambda _: Gram(score="cone", anchor="each", temperature=0.2)),
    Method("PMRL, published", "pmrl", lambda _: PMRL()),
    Method("PMRL, signed", "pmrl-signed", lambda _: PMRL(signed=True, alignment_temperature=0.5)),
)
"""What `gramian demo` compares. The temperatures of the forms that no paper fixes were chosen on validation: docs/log.md."""

JOINT: tuple[ScoreName, ...] = ("span", "volume")


@dataclass(frozen=True)
class Run:
    """One method with one seed, evaluated on the test split."""

    method: Method
    seed: int
    report: Report
    test: Bundle


def demo(
    output: str | Path = "runs/demo",
    *,
    data: str = "stamps",
    columns: Sequence[str] = ("image", "text", "speech_fr"),
    anchor: str = "text",
    seeds: int = 3,
    dim: int = 512,
    recipe: Recipe | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> list[Path]:
    """Train every method of `METHODS` on a table with splits, and print and write one comparison.

    Args:
        output: folder for the report, the pictures and the embedded test items of each run.
        data: a table with the splits "train", "validation" and "test"; see `gramian.data.load`.
        columns: its modalities to use.
        anchor: the modality that the joint scores ask with, and GRAM's anchor as published.
        seeds: runs a method, with seeds 0, 1, ….
        dim: width of the shared space.
        recipe: how to train; its seed is replaced by the run's.
        resume: take the finished runs that are in `output` already, if they were made with the same settings.
        console: where to print.

    Returns:
        The paths of what was written for the reader.
    """
    if seeds < 1:
        raise InputError(f"`seeds` must be at least 1; got {seeds}.")
    if anchor not in columns or len(columns) < 2:
        raise InputError(
            f"`anchor` must be one of the columns {', '.join(columns)}, of which there must be two; got {anchor!r}."
        )
    console = console or Console()
    require("accelerate", "matplotlib", "sklearn")
    output, recipe = Path(output), recipe or Recipe()
    table = load(data, columns=list(columns))
    train, validation, test = (table.part(split).has_any() for split in ("train", "validation", "test"))
    settings = {
        "gramian": __version__,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "data": data,
        "columns": list(columns),
        "dim": dim,
        "recipe": asdict(recipe),
    }
    digest = table.digest()
    runs: list[Run] = []
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    ) as bar:
        task = bar.add_task("training", total=len(METHODS) * seeds)
        for method in METHODS:
            for seed in range(seeds):
                bar.update(task, description=f"{method.name}, seed {seed}")
                folder = output / "runs" / f"{method.slug}-{seed}"
                loss = method.loss(anchor)
                made_with = settings | {"loss": repr(loss), "digest": digest}
                embedded = _finished(folder, made_with) if resume else None
                if embedded is None:
                    embedded = _train(loss, train, validation, test, dim=dim, recipe=recipe, seed=seed)
                    folder.mkdir(parents=True, exist_ok=True)
                    embedded.save(folder / "test.safetensors")
                    write_text(folder / "settings.json", json.dumps(made_with))
                runs.append(Run(method, seed, evaluate(embedded, scores=JOINT), embedded))
                bar.advance(task)
        bar.update(task, description="trained")
    sheet = compare(runs, anchor)
    console.print(sheet.rich())
    written = [
        write_text(output / "report.md", _page(sheet, settings, train, validation, test, runs, anchor)),
        write_text(output / "report.json", json.dumps(_plain(runs, settings, anchor), indent=2, ensure_ascii=False) + "\n"),
        *_draw(runs, output),
    ]
    for path in written:
        console.print(f"wrote {path}", highlight=False)
    return written


def compare(runs: Sequence[Run], anchor: str) -> Sheet:
    """One row a method: mean recall over the single-modality directions, the difference to the first method, joint scores."""
    first, methods = runs[0].report, _by_method(runs)
    reference = _found(next(iter(methods.values())))
    others = tuple(name for name in first.present if name != anchor)
    joint = len(others) > 1
    header = ["objective", "R@1 [95 %]", f"Δ {next(iter(methods)).slug} [95 %]", *((*JOINT, "single") if joint else ())]
    rows = []
    for method, mine in methods.items():
        found = _found(mine)
        difference = "–" if method is runs[0].method else bootstrap_mean(found - reference).percent()
        row = [method.name, bootstrap_mean(found).percent(), difference]
        if joint:
            by_score, single, _ = _joint(mine, anchor, others)
            row += [*(f"{100 * by_score[score]:.1f}" for score in JOINT), f"{100 * single:.1f}"]
        rows.append(tuple(row))
    gallery = max(direction.gallery for direction in first.singles)
    missing = ", ".join(f"{name} {first.n - count}" for name, count in first.present.items())
    note = (
        f"Mean R@1 in % of {len(first.singles)} directions between two modalities, {_seeds(runs)}; "
        f"test gallery {gallery} items (missing: {missing}); 95 % intervals over items and seeds, differences paired. "
    )
    if joint:
        note += (
            f"Then R@1 of {anchor} → {'+'.join(others)} by joint score and by the best single modality, which is picked on "
            "the test queries. "
        )
    return Sheet("Alignment from new heads", tuple(header), tuple(rows), note + "The test split chose nothing else.")


def aggregation(runs: Sequence[Run], anchor: str) -> Sheet:
    """What asking for all other modalities together gains over the best single one, by method."""
    others = tuple(name for name in runs[0].report.present if name != anchor)
    rows = []
    for method, mine in _by_method(runs).items():
        by_score, single, gain = _joint(mine, anchor, others)
        rows.append((method.name, f"{100 * by_score[JOINT[0]]:.1f}", f"{100 * single:.1f}", gain.percent()))
    title = f"{anchor} → {'+'.join(others)}: R@1 by {JOINT[0]} and by the best single modality"
    return Sheet(
        title, ("objective", JOINT[0], "single", "gain [95 %]"), tuple(rows), "Intervals over items and seeds, paired."
    )


def _seeds(runs: Sequence[Run]) -> str:
    count = len({run.seed for run in runs})
    return f"{count} seeds" if count > 1 else "1 seed"


def _by_method(runs: Sequence[Run]) -> dict[Method, list[Run]]:
    found: dict[Method, list[Run]] = {}
    for run in runs:
        found.setdefault(run.method, []).append(run)
    return found


def _found(runs: Sequence[Run], k: int = 1) -> NDArray[np.float64]:
    """Who was found among the best k, (seeds, directions, items)."""
    return np.stack([hits(run.report.singles, run.report.n, k) for run in runs])


def _train(loss: Loss, train: Table, validation: Table, test: Table, *, dim: int, recipe: Recipe, seed: int) -> Bundle:
    aligner = Aligner.for_table(train, dim=dim, seed=seed)
    fit(aligner, loss, train, validation, recipe=replace(recipe, seed=seed), progress=False)
    return aligner.embed(test).to("cpu")


def _finished(folder: Path, settings: dict[str, object]) -> Bundle | None:
    try:
        if json.loads((folder / "settings.json").read_text()) == json.loads(json.dumps(settings)):
            return Bundle.load(folder / "test.safetensors")
    except (OSError, ValueError):  # not there, or damaged: train it again
        pass
    return None


def _joint(runs: Sequence[Run], anchor: str, others: tuple[str, ...]) -> tuple[dict[ScoreName, float], float, Interval]:
    """Anchor → all others: R@1 by score, R@1 of the best single modality, and the gain of the first score over it."""
    gains = {
        score: [
            (run.report, gain)
            for run in runs
            for gain in run.report.gains
            if (gain.joint.query, gain.joint.target, gain.joint.score) == ((anchor,), others, score)
        ]
        for score in JOINT
    }
    by_score = {
        score: float(np.mean([recall_at_k(gain.joint.ranks, 1) for _, gain in found])) for score, found in gains.items()
    }
    first = gains[JOINT[0]]
    single = float(np.mean([recall_at_k(gain.single.ranks, 1) for _, gain in first]))
    paired = [hits([gain.joint], report.n, 1) - hits([gain.single], report.n, 1) for report, gain in first]
    return by_score, single, bootstrap_mean(np.stack(paired))


def _plain(runs: Sequence[Run], settings: dict[str, object], anchor: str) -> dict[str, object]:
    methods = []
    for method, mine in _by_method(runs).items():
        methods.append(
            {
                "name": method.name,
                "loss": repr(method.loss(anchor)),
                "mean_recall": {str(k): bootstrap_mean(_found(mine, k))._asdict() for k in (1, 5, 10)},
                "runs": [{"seed": run.seed, **run.report.to_dict()} for run in mine],
            }
        )
    return {"settings": settings, "anchor": anchor, "methods": methods}


def _page(
    sheet: Sheet,
    settings: dict[str, object],
    train: Table,
    validation: Table,
    test: Table,
    runs: Sequence[Run],
    anchor: str,
) -> str:
    rows = "".join(f"- {name}: {value}\n" for name, value in settings.items())
    splits = f"{len(train)} items to train, {len(validation)} to choose the epoch, {len(test)} to test"
    parts = [
        "# Comparison of objectives\n",
        f"Written by `gramian demo`; {splits}.\n",
        rows,
        sheet.markdown(),
        *([aggregation(runs, anchor).markdown()] if len(runs[0].report.present) > 2 else []),
        "![Recall matrices](recall.png)\n\n![t-SNE of the test items](tsne.png)\n",
    ]
    for run in runs:
        if run.seed == 0:
            parts.append(f"## {run.method.name}, seed 0\n")
            parts += [sheet.markdown() for sheet in run.report.sheets()]
    return "\n".join(parts)


def _draw(runs: Sequence[Run], output: Path) -> list[Path]:
    from matplotlib.figure import Figure

    from gramian.evaluation.plots import recall_matrix, tsne

    methods = _by_method(runs)
    matrices, clouds = (Figure(figsize=(3.2 * len(methods), 3.8), layout="constrained") for _ in range(2))
    top = max(float(np.nanmax(run.report.matrix(1))) for run in runs)
    for i, (method, mine) in enumerate(methods.items(), 1):
        mean = np.mean([run.report.matrix(1) for run in mine], axis=0)
        ax = matrices.add_subplot(1, len(methods), i, title=method.name)
        recall_matrix(mean, list(mine[0].report.present), ax, top=top)
        tsne(mine[0].test, clouds.add_subplot(1, len(methods), i, title=method.name))
    matrices.suptitle(f"R@1 in %, mean of {_seeds(runs)}")
    clouds.suptitle("Test items in the shared space, seed 0")
    written = []
    for name, figure in (("recall.png", matrices), ("tsne.png", clouds)):
        with atomic(output / name) as partial:
            figure.savefig(partial, dpi=110, format="png")
        written.append(output / name)
    return written
