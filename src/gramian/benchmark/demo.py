"""The whole task on real data: align by six methods, several seeds each, and compare them on the test split."""

from __future__ import annotations

import importlib.util
import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich.console import Console

from gramian.benchmark.demo_page import demo_page
from gramian.benchmark.environment import versions
from gramian.benchmark.study import Method, Run, Task, difference, recall, study
from gramian.data import Table, load
from gramian.errors import InputError, require
from gramian.evaluation import Report, hits
from gramian.evaluation.metrics import recall_at_k
from gramian.evaluation.stats import Interval, difference_interval
from gramian.files import atomic, write_text
from gramian.losses import PMRL, Gram, Pairwise
from gramian.scores import ScoreName
from gramian.sheets import Sheet
from gramian.training import Recipe, Search

__all__ = ["compare", "demo", "methods"]


def methods(anchor: str = "text") -> tuple[Method, ...]:
    """What `gramian demo` compares. Temperatures that no paper fixes were chosen on validation: docs/log.md.

    Args:
        anchor: of GRAM as published.

    Returns:
        Six methods; `REFERENCE`, all-pairs InfoNCE, is what the others are compared with.
    """
    return (
        Method("MAXVAR, kernel heads", None, search=Search(heads=("kernel",))),
        Method(REFERENCE, lambda: Pairwise(temperature=0.2)),
        Method("GRAM, published", lambda: Gram(anchor=anchor)),
        Method("GRAM, cone, each", lambda: Gram(score="cone", anchor="each", temperature=0.2)),
        Method("PMRL, published", PMRL),
        Method("PMRL, signed", lambda: PMRL(signed=True, alignment_temperature=0.5)),
    )


REFERENCE = "Pairwise InfoNCE"

JOINT: tuple[ScoreName, ...] = ("span", "volume")


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
    command: str = "",
) -> list[Path]:
    """Train `methods` on a table with splits, and print and write one comparison.

    Args:
        output: folder for the report, the pictures and the embedded test items of each run.
        data: a table with the splits "train", "validation" and "test"; see `gramian.data.load`.
        columns: its modalities to use.
        anchor: the query modality of the joint scores, and the anchor of GRAM as published.
        seeds: runs of each method, with seeds 0, 1, ….
        dim: width of the shared space.
        recipe: how to train; each run replaces its seed.
        resume: reuse the finished runs in `output` with the same settings.
        console: where to print.
        command: that makes the page again, for the page.

    Returns:
        The paths of the report and the pictures, and of `report.html`, one page with everything, where Jinja2 is installed.

    Raises:
        InputError: no seeds, a single column, or an anchor that is not one of the columns.
    """
    if anchor not in columns or len(columns) < 2:
        raise InputError(
            f"`anchor` must be one of the columns {', '.join(columns)}, of which there must be two; got {anchor!r}."
        )
    console = console or Console()
    require("matplotlib", "sklearn")
    output, recipe = Path(output), recipe or Recipe()
    table = load(data, columns=list(columns))
    task = Task("demo", lambda _: table, dim, recipe)
    compared = methods(anchor)
    (runs,) = study([task], compared, output / "runs", seeds=seeds, scores=JOINT, resume=resume, console=console).values()
    settings: dict[str, object] = versions() | {"data": data, "columns": list(columns), "dim": dim, "recipe": asdict(recipe)}
    sheet = compare(runs, anchor)
    console.print(sheet.rich())
    written = [
        write_text(output / "report.md", _page(sheet, settings, table, runs, anchor)),
        write_text(output / "report.json", json.dumps(_plain(runs, settings, anchor), indent=2, ensure_ascii=False) + "\n"),
        *_draw(runs, output),
    ]
    if importlib.util.find_spec("jinja2"):
        tables = [sheet, *([aggregation(runs, anchor)] if len(columns) > 2 else [])]
        described = settings | {"recipe": recipe}
        written.append(demo_page(runs, tables, described, table, command).save(output / "report.html"))
    for path in written:
        console.print(f"wrote {path}", highlight=False)
    return written


def compare(runs: Mapping[str, Sequence[Run]], anchor: str) -> Sheet:
    """One row per method: mean recall over the single-modality directions, the difference to `REFERENCE`, joint scores.

    Args:
        runs: name of the method → its runs.
        anchor: the query modality of the joint scores.

    Returns:
        The table; without joint scores where there are two modalities.
    """
    reference = runs.get(REFERENCE) or next(iter(runs.values()))
    first = reference[0].report
    others = _others(first, anchor)
    joint = len(others) > 1
    header = ["objective", "R@1 [95 %]", "Δ pairwise [95 %]", *((*JOINT, "single") if joint else ())]
    rows = []
    for name, own in runs.items():
        row = [name, recall(own).percent(), "–" if own is reference else difference(own, reference).percent()]
        if joint:
            by_score, single, _ = _joint(own, anchor, others)
            row += [*(f"{100 * by_score[score]:.1f}" for score in JOINT), f"{100 * single:.1f}"]
        rows.append(tuple(row))
    gallery = max(direction.gallery for direction in first.singles)
    missing = ", ".join(f"{name} {first.n - count}" for name, count in first.present.items())
    note = (
        f"Mean R@1 in % of {len(first.singles)} directions between two modalities, {_seeds(reference)}; "
        f"test gallery {gallery} items (missing: {missing}); 95 % intervals over items and seeds, differences paired. "
    )
    if joint:
        note += (
            f"Then R@1 of {anchor} → {'+'.join(others)} by joint score and by the best single modality, which is picked on "
            "the test queries. "
        )
    return Sheet("Alignment from new heads", tuple(header), tuple(rows), note + "The test split chose nothing else.")


def aggregation(runs: Mapping[str, Sequence[Run]], anchor: str) -> Sheet:
    """What retrieving all other modalities together gains over the best single one, by method."""
    others = _others(next(iter(runs.values()))[0].report, anchor)
    rows = []
    for name, own in runs.items():
        by_score, single, gain = _joint(own, anchor, others)
        rows.append((name, f"{100 * by_score[JOINT[0]]:.1f}", f"{100 * single:.1f}", gain.percent()))
    title = f"{anchor} → {'+'.join(others)}: R@1 by {JOINT[0]} and by the best single modality"
    return Sheet(
        title, ("objective", JOINT[0], "single", "gain [95 %]"), tuple(rows), "Intervals over items and seeds, paired."
    )


def _others(report: Report, anchor: str) -> tuple[str, ...]:
    return tuple(name for name in report.present if name != anchor)


def _seeds(runs: Sequence[Run]) -> str:
    return f"{len(runs)} seeds" if len(runs) > 1 else "1 seed"


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
        score: float(np.mean([recall_at_k(gain.joint.ranks, 1) for _, gain in pairs])) for score, pairs in gains.items()
    }
    first = gains[JOINT[0]]
    single = float(np.mean([recall_at_k(gain.single.ranks, 1) for _, gain in first]))
    paired = [hits([gain.joint], report.n, 1) - hits([gain.single], report.n, 1) for report, gain in first]
    return by_score, single, difference_interval(np.stack(paired), runs[0].report.items)


def _plain(runs: Mapping[str, Sequence[Run]], settings: dict[str, object], anchor: str) -> dict[str, object]:
    listed = [
        {
            "name": name,
            "loss": own[0].method.objective,
            "mean_recall": {str(k): recall(own, k)._asdict() for k in (1, 5, 10)},
            "runs": [{"seed": run.seed, **run.report.to_dict()} for run in own],
        }
        for name, own in runs.items()
    ]
    return {"settings": settings, "anchor": anchor, "methods": listed}


def _page(sheet: Sheet, settings: dict[str, object], table: Table, runs: Mapping[str, Sequence[Run]], anchor: str) -> str:
    train, validation, test = (len(table.part(split).has_any()) for split in ("train", "validation", "test"))
    parts = [
        "# Comparison of objectives\n",
        f"Written by `gramian demo`; {train} items to train, {validation} to choose the epoch, {test} to test.\n",
        "".join(f"- {name}: {value}\n" for name, value in settings.items()),
        sheet.markdown(),
        *([aggregation(runs, anchor).markdown()] if len(table.modalities) > 2 else []),
        "![Recall matrices](recall.png)\n\n![t-SNE of the test items](tsne.png)\n",
    ]
    for name, own in runs.items():
        parts.append(f"## {name}, seed 0\n")
        parts += [sheet.markdown() for sheet in own[0].report.sheets()]
    return "\n".join(parts)


def _draw(runs: Mapping[str, Sequence[Run]], output: Path) -> list[Path]:
    from gramian.evaluation.clouds import tsne
    from gramian.evaluation.plots import panels, recall_matrix

    first = next(iter(runs.values()))
    names = list(first[0].report.present)
    side = max(3.0, 0.45 * len(names) + 1.2)  # in inches
    matrices, grids = panels(len(runs), side, side + 0.3)
    clouds, plots = panels(len(runs), 3.2, 3.4)
    top = max(float(np.nanmax(run.report.matrix(1))) for own in runs.values() for run in own)
    for grid, plot, (name, own) in zip(grids, plots, runs.items(), strict=True):
        title = textwrap.fill(name, 20)
        recall_matrix(np.mean([run.report.matrix(1) for run in own], axis=0), names, grid, top=top).set_title(
            title, fontsize=10
        )
        tsne(own[0].embedded, plot).set_title(title, fontsize=10)
    matrices.colorbar(grids[0].images[0], ax=grids, label="R@1 in %", shrink=0.8)
    clouds.legend(*plots[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(names), markerscale=1.5)
    matrices.suptitle(f"Recall of the matching item, mean of {_seeds(first)}")
    clouds.suptitle("Test items in the shared space (t-SNE), seed 0")
    written = []
    for name, figure in (("recall.png", matrices), ("tsne.png", clouds)):
        with atomic(output / name) as partial:
            figure.savefig(partial, dpi=110, format="png", bbox_inches="tight")
        written.append(output / name)
    return written
