"""The page of `gramian demo`: which method wins, by how much, and how sure that is; then everything behind it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from gramian import __version__
from gramian.benchmark.study import Run, difference, recall
from gramian.data import Table
from gramian.data.sets import stamps
from gramian.evaluation.examples import Example
from gramian.evaluation.illustrations import Illustrations
from gramian.evaluation.page import Block, Code, Facts, Page, Section, Tile
from gramian.evaluation.previews import Previews
from gramian.evaluation.run_page import example_blocks, leader
from gramian.evaluation.stats import Interval
from gramian.sheets import Sheet

__all__ = ["demo_page"]

LEVEL = 0.05
TOGETHER = "Intervals over items and seeds, paired, that hold together at 95 % (Bonferroni)."


def demo_page(
    runs: Mapping[str, Sequence[Run]], sheets: Sequence[Sheet], settings: Mapping[str, object], table: Table, command: str = ""
) -> Page:
    """The page of a comparison of methods by several seeds.

    Args:
        runs: method → its runs, one per seed.
        sheets: the tables that compare them.
        settings: data, versions and recipe, for the reader.
        table: with the splits that were used.
        command: that makes the page again.

    Returns:
        The Page.
    """
    pictures = Illustrations()
    order = sorted(runs, key=lambda name: -recall(runs[name]).value)
    best, test = order[0], table.part("test").has_any()
    report = runs[best][0].report
    names, ids = list(report.present), list(test.ids)
    against = {name: _against(runs[best], runs[name], len(order) - 1) for name in order[1:]}
    matrices = {
        textwrap.shorten(name, 28, placeholder="…"): np.mean([run.report.matrix(1) for run in runs[name]], axis=0)
        for name in order
    }
    clouds = {name: {"t-SNE": runs[name][0].embedded} for name in order}
    examples = [_named(one, ids) for one in report.examples]
    previews = Previews(stamps.raw(ids=set(ids))) if settings.get("data") == "stamps" and stamps.FOLDER.is_dir() else None
    comparison: list[Block] = [
        Facts({name: runs[name][0].method.objective for name in order}, "Methods"),
        *sheets,
        pictures.forest(f"{best} minus each other method", against, intervals=TOGETHER),
        pictures.matrices(matrices, names, f"R@1 of every direction, in %, mean of {_seeds(runs[best])}"),
    ]
    space = pictures.clouds(clouds, ids, "The test items in the shared space, seed 0")
    parts = {split: table.part(split).has_any() for split in ("train", "validation", "test")}
    rows = tuple((split, str(len(part)), *(str(n) for n in part.counts().values())) for split, part in parts.items())
    data = Sheet("Items by split", ("split", "items", *names), rows, "How many items have each modality.")
    made: list[Block] = [Facts({name: str(value) for name, value in settings.items()}, "Settings")]
    sections = [
        Section("Comparison", comparison),
        Section("The space", [space, *pictures.space(runs[best][0].embedded, ids, flat=False)]),
        Section(f"Retrieval by {best}, seed 0", report.sheets()),
        Section(f"Hardest and best queries by {best}, seed 0", example_blocks(examples, previews)),
        Section("Data", [data]),
        Section("How it was made", [*made, Code(command, "Made by")] if command else made),
    ]
    return Page(
        title=f"{settings.get('data', 'Items')}: {len(order)} ways to align {', '.join(names)}",
        subtitle=f"{len(parts['train'])} items to train, {len(parts['validation'])} to choose by, {len(test)} to test; "
        f"{_seeds(runs[best])} of each method",
        verdict=_verdict(runs, order, against, f"On {len(test)} test items of {settings.get('data', 'the table')}"),
        tiles=_tiles(runs, order, against),
        sections=sections,
        footer=f"Written by gramian {__version__}. One file: it loads nothing and sends nothing.",
    )


def _against(runs: Sequence[Run], other: Sequence[Run], comparisons: int) -> Interval:
    """The difference, with an interval that allows for the number of comparisons (Bonferroni)."""
    return difference(runs, other, level=1 - LEVEL / max(1, comparisons))


def _seeds(runs: Sequence[Run]) -> str:
    return f"{len(runs)} seeds" if len(runs) > 1 else "1 seed"


def _apart(value: Interval) -> bool:
    return value.low > 0 or value.high < 0


def _verdict(runs: Mapping[str, Sequence[Run]], order: Sequence[str], against: Mapping[str, Interval], where: str) -> list[str]:
    best, second = order[:2]
    top = recall(runs[best])
    directions = len(runs[best][0].report.singles)
    margin = against[second]
    values = top.value, recall(runs[second]).value
    sure = f"allowing for {len(against)} comparisons" if len(against) > 1 else "over items and seeds"
    said = [
        leader(
            where,
            best,
            second + (", the next best," if len(order) > 2 else ""),
            values,
            margin,
            "R@1",
            sure,
            decided=_apart(margin),
        ),
        f"R@1 is how often the match comes first, the mean of {directions} directions and {_seeds(runs[best])}; that of {best} "
        f"lies between {100 * top.low:.1f} and {100 * top.high:.1f} % (95 % interval).",
    ]
    beaten = [name for name, value in against.items() if _apart(value)]
    level = [name for name in against if name not in beaten]
    if beaten:
        said.append("It beats " + "; ".join(f"{name} by {_points(against[name])}" for name in beaten) + ".")
    if level:
        said.append("It cannot be told apart from " + "; ".join(f"{name}: {_points(against[name])}" for name in level) + ".")
    if len(against) > 1:
        said.append(
            f"Intervals of these differences hold for all {len(against)} together (Bonferroni, 95 %), paired, over items "
            "and seeds."
        )
    return said


def _points(value: Interval) -> str:
    return f"{value.percent()} points of R@1"


def _tiles(runs: Mapping[str, Sequence[Run]], order: Sequence[str], against: Mapping[str, Interval]) -> list[Tile]:
    best, (second, margin) = order[0], next(iter(against.items()))
    beaten = sum(map(_apart, against.values()))
    report = runs[best][0].report
    gallery = max(direction.gallery for direction in report.singles)
    value = f"{100 * recall(runs[best]).value:.1f} % R@1"
    return [
        Tile("Winner", best if _apart(margin) else "not decided", value if _apart(margin) else f"{best} is ahead with {value}"),
        Tile(
            "Margin", f"{100 * margin.value:+.1f} points", f"{100 * margin.low:.1f} to {100 * margin.high:.1f}, over {second}"
        ),
        Tile("Certainty", f"{beaten} of {len(against)} beaten", "differences whose interval excludes 0"),
        Tile("Gallery", f"{gallery}", f"candidates; guessing finds {100 / gallery:.1f} %"),
    ]


def _named(one: Example, ids: Sequence[str]) -> Example:
    """The example by the ids of the table: an embedded split has row numbers."""
    return replace(one, id=ids[int(one.id)], found=tuple(ids[int(row)] for row in one.found))
