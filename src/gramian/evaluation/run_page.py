"""The page of a run: what `gramian report` writes from one folder, or from several on the same items."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from gramian import __version__
from gramian.errors import require
from gramian.evaluation.comparing import Comparison, compare
from gramian.evaluation.examples import Example
from gramian.evaluation.illustrations import Illustrations
from gramian.evaluation.page import Block, Card, Cards, Code, Entry, Facts, Page, Picture, Section, Tile, size_of
from gramian.evaluation.previews import Previews
from gramian.evaluation.report import CHOSEN
from gramian.evaluation.robustness import TITLES
from gramian.evaluation.stats import Interval
from gramian.evaluation.stored import Stored, read_run
from gramian.sheets import Sheet

__all__ = ["example_blocks", "leader", "run_page"]


def run_page(runs: Mapping[str, str | Path], *, previews: Previews | None = None, command: str = "") -> Page:
    """The page of a run, compared with others where there are any.

    Args:
        runs: name → folder; the first is the one that the page shows in full.
        previews: of the media of its items.
        command: that makes the page again.

    Returns:
        The Page.

    Raises:
        InputError: a folder without a report, runs of other items, a missing package.
    """
    require("jinja2", "matplotlib", "sklearn")
    name, *others = runs
    run = read_run(runs[name])
    comparison = compare(dict(runs)) if others else None
    stored = {name: run}
    pictures = Illustrations()
    sections = []
    if comparison is not None:
        stored = {other: run if other == name else read_run(folder) for other, folder in runs.items()}
        methods = {other: _described(each) for other, each in stored.items()}
        sheets = [sheet for sheet in comparison.sheets() if sheet.title != "Directions"]  # the picture has its numbers
        sections.append(
            Section("Comparison", [Facts(methods, "What was compared"), *sheets, *pictures.differences(comparison)])
        )
    by = "" if comparison is None else f" by {name}"
    missing, told = _titled(run, TITLES), _titled(run, CLASSIFIED)
    apart = {sheet.title for sheet in (*missing, *told)} | {"The shape of the space", "Unreadable, counted as missing"}
    found = [sheet for sheet in run.sheets if sheet.title not in apart]
    sections.append(Section(f"Retrieval{by}", [*found[:1], *pictures.recall(list(run.present), run.singles), *found[1:]]))
    if told:
        drawn = [] if run.confusion is None else pictures.confusion(run.confusion)
        sections.append(Section(f"Classification{by}", [*told[:1], *drawn, *told[1:]]))
    if missing:
        sections.append(Section("Missing modalities", [*_curves(pictures, run, stored), *missing]))
    if run.examples:
        sections.append(Section("Hardest and best queries", example_blocks(run.examples, previews)))
    if run.space is not None:
        sections.append(Section("The space", [*pictures.space(run.space, run.ids, run.start), *_shape(run)]))
    elif run.diagnostics:
        sections.append(Section("The space", _shape(run)))
    if run.epochs and any("loss" in record for record in run.epochs):
        sections.append(Section("Training", pictures.training(run.epochs, run.speeds)))
    sections.append(Section("Data", _data(run)))
    sections.append(Section("How it was made", _made(run, runs, command)))
    data, split = run.settings.get("data", "vectors"), run.settings.get("split", "all")
    subtitle = f"{data}, split {split}: {_items(run)} with {', '.join(run.present)}"
    first = name if comparison is None else " against ".join(runs) if len(runs) < 4 else f"{name} and {len(others)} other runs"
    return Page(
        title=first,
        subtitle=subtitle,
        verdict=_verdict(stored, comparison),
        tiles=_tiles(run, comparison),
        sections=sections,
        footer=f"Written by gramian {__version__}. One file: it loads nothing and sends nothing.",
    )


def _items(run: Stored) -> str:
    return f"{run.items} items" if run.items == run.rows else f"{run.rows} rows of {run.items} items"


def _chance(run: Stored) -> float:
    """R@1 of guessing, the mean over the directions between two modalities."""
    return float(np.mean([1 / max(1, one.gallery) for one in run.singles])) if run.singles else float("nan")


CLASSIFIED = ("Classification by", "What is taken for what", "Regression by")
"""How the titles of these tables begin."""


def _titled(run: Stored, starts: tuple[str, ...]) -> list[Sheet]:
    return [sheet for sheet in run.sheets if sheet.title.startswith(starts)]


def _curves(pictures: Illustrations, run: Stored, stored: Mapping[str, Stored]) -> list[Picture]:
    """By score, and of several runs by run."""
    drawn = [pictures.robustness(run.curves, "R@1 as modalities are dropped, by score")] if run.curves else []
    shared = [score for score in run.curves if all(score in other.curves for other in stored.values())]
    if len(stored) > 1 and shared:
        score = "centroid" if "centroid" in shared else shared[0]
        by_run = {name: other.curves[score] for name, other in stored.items()}
        drawn.append(pictures.robustness(by_run, f"R@1 by {score} as modalities are dropped, by run", "run"))
    return drawn


def leader(
    where: str, best: str, second: str, values: tuple[float, float], margin: Interval, measure: str, sure: str, *, decided: bool
) -> str:
    """Data, winner, margin and certainty in one sentence.

    Args:
        where: the items, as in "On 150 test items of stamps".
        best: the method that finds most, or tells most right.
        second: the next best.
        values: of both.
        margin: the first minus the second.
        measure: as in "R@1".
        sure: how sure the margin is: "p < 0.001".
        decided: whether the margin is told from nothing.

    Returns:
        The sentence.
    """
    ahead, behind = (f"{100 * value:.1f} %" for value in values)
    points = f"{100 * margin.value:.1f} points of {measure}"
    interval = f"95 % interval {100 * margin.low:.1f} to {100 * margin.high:.1f}"
    if decided:
        return f"{where}, {best} beats {second} by {points} ({interval}; {sure}): {ahead} against {behind}."
    return (
        f"{where} the winner is not decided: {best} is {points} ahead of {second} ({interval}; {sure}), "
        f"{ahead} against {behind}."
    )


def _method(run: Stored) -> str:
    """The objective without its options: "Pairwise + Gram"; "" where it is not known."""
    return re.sub(r"\([^()]*\)", "", run.settings.get("method", ""))


def _described(run: Stored) -> str:
    """The objective, and what was chosen for it."""
    return "; ".join(run.settings[key] for key in ("method", CHOSEN) if run.settings.get(key)) or "not known"


def _where(run: Stored) -> str:
    data, split = run.settings.get("data", ""), run.settings.get("split", "all")
    return f"On {_items(run)}" + (f" of {data}" if data else "") + (f" (split {split})" if split != "all" else "")


def _verdict(stored: Mapping[str, Stored], comparison: Comparison | None) -> list[str]:
    """What the figures allow to say, the most important first."""
    run = next(iter(stored.values()))
    mean = run.mean.get(1)
    method = _method(run)
    said = []
    if comparison is not None:
        best, second, *_ = comparison.recall
        lead = next(pair for pair in comparison.pairs if {pair.better, pair.worse} == {best, second})
        values = comparison.recall[best].value, comparison.recall[second].value
        methods = [_method(stored[name]) for name in (best, second)]
        if methods[0] == methods[1]:  # which tells them apart in nothing
            methods = ["", ""]
        winner, other = (name + (f" ({how})" if how else "") for name, how in zip((best, second), methods, strict=True))
        other += ", the next best," if len(stored) > 2 else ""
        sure, decided = _p(lead.p), lead.differ
        said.append(leader(_where(run), winner, other, values, lead.difference, comparison.measure, sure, decided=decided))
        rest = [pair for pair in comparison.pairs if pair is not lead and best in (pair.better, pair.worse)]
        said += [pair.sentence(comparison.measure, comparison.items) for pair in rest[:4]]
        shared = {_method(each) for each in stored.values()}
        if len(shared) == 1 and "" not in shared:
            said.append(f"The method of all is {shared.pop()}; what was chosen for each stands under Comparison.")
        many = len(comparison.ways)
        said.append(
            f"{comparison.measure} is the mean of {many} directions, each with {_galleries(comparison)} candidates; p is of "
            f"{comparison.test}" + (f", corrected for {len(comparison.pairs)} pairs." if len(comparison.pairs) > 1 else ".")
        )
    elif mean is not None and run.singles and mean.value == mean.value:
        said.append(
            f"{_where(run)}, {method + ' finds ' if method else ''}the match {'' if method else 'comes '}first for "
            f"{100 * mean.value:.1f} % of the queries (95 % interval {100 * mean.low:.1f} to {100 * mean.high:.1f}); guessing "
            f"would find {100 * _chance(run):.1f} %."
        )
    if run.singles and comparison is None:
        order = sorted(run.singles, key=lambda one: one.recall[min(one.recall)].value)
        k = min(order[0].recall)
        if len(order) > 1:
            said.append(
                f"That is the mean of {len(order)} directions. The easiest is {order[-1].name} (R@{k} "
                f"{100 * order[-1].recall[k].value:.1f} %), the hardest {order[0].name} "
                f"({100 * order[0].recall[k].value:.1f} %)."
            )
    if comparison is None and run.confusion is not None:
        right = run.confusion.accuracy
        said.append(
            f"Of {len(run.confusion.classes)} classes of `{run.label}`, {run.confusion.name} tells {100 * right.value:.1f} % "
            f"right (95 % interval {100 * right.low:.1f} to {100 * right.high:.1f}), the most of the methods that were tried."
        )
    if comparison is None and "method" in run.settings:
        said.append(f"Trained by {run.settings['method']}.")
    if run.broken:
        cells = "1 cell could not be read and counts" if run.broken == 1 else f"{run.broken} cells could not be read and count"
        said.append(f"{cells} as missing.")
    return said or [f"{_items(run)} were evaluated."]


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _galleries(comparison: Comparison) -> str:
    low, high = comparison.galleries
    return str(low) if low == high else f"{low} to {high}"


def _tiles(run: Stored, comparison: Comparison | None) -> list[Tile]:
    tiles = []
    if comparison is not None:
        best, second = list(comparison.recall)[:2]
        lead = next(pair for pair in comparison.pairs if {pair.better, pair.worse} == {best, second})
        low, high = 100 * lead.difference.low, 100 * lead.difference.high
        value = f"{100 * comparison.recall[best].value:.1f} % {comparison.measure}"
        winner = (best, value) if lead.differ else ("not decided", f"{best} is ahead with {value}")
        pairs = len(comparison.pairs)
        test = "permutation test over items" + (f", corrected for {pairs} comparisons" if pairs > 1 else "")
        tiles.append(Tile("Winner", *winner))
        tiles.append(Tile("Margin", f"{100 * lead.difference.value:+.1f} points", f"{low:.1f} to {high:.1f}, over {second}"))
        tiles.append(Tile("Certainty", _p(lead.p), test))
    else:
        for k, one in run.mean.items():
            if one.value == one.value:
                note = f"{100 * one.low:.1f} to {100 * one.high:.1f}, mean of {len(run.singles)} directions"
                tiles.append(Tile(f"R@{k}", f"{100 * one.value:.1f} %", note))
    sizes = sorted({one.gallery for one in run.singles})
    if sizes:
        size = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]}–{sizes[-1]}"
        tiles.append(Tile("Gallery", size, f"candidates; guessing finds {100 * _chance(run):.1f} %"))
    return tiles


def example_blocks(examples: Sequence[Example], previews: Previews | None = None) -> list[Block]:
    """Cards of the hardest and best queries, by direction.

    Args:
        examples: of a Report.
        previews: of the media of its items.

    Returns:
        A sentence, and one block of cards per direction.
    """
    groups: dict[str, dict[str, list[Card]]] = {}
    headings = {"hardest": "Hardest: the match came last", "best": "Best: the match led by most"}
    for one in examples:
        way = groups.setdefault(f"{one.query} → {one.target}", {})
        way.setdefault(headings[one.kind], []).append(_card(one, previews))
    blocks: list[Block] = [Cards(name, cards, opened=i == 0) for i, (name, cards) in enumerate(groups.items())]
    if previews is None:
        note = "Queries and candidates are named by their ids. With --media TABLE, a table of the raw cells, they are shown."
    else:
        size = size_of(previews.octets)
        note = f"Small previews, {size} in all, are part of this page: texts may be cut, sound is of the first seconds."
        note += f" {previews.left_out} more would have made it too large." if previews.left_out else ""
    return [f"Three queries of each kind in every direction, and the three candidates that were found first. {note}", *blocks]


def _card(one: Example, previews: Previews | None) -> Card:
    def entry(modality: str, row: str, mark: str = "") -> Entry:
        return Entry(modality, row, None if previews is None else previews.of(modality, row), mark)

    found = tuple(
        entry(one.target, row, "match" if right else "other") for row, right in zip(one.found, one.right, strict=True)
    )
    wanted = None if any(one.right) else entry(one.target, one.id)
    return Card(f"{one.query} → {one.target}: rank {one.rank:g} of {one.gallery}", entry(one.query, one.id), found, wanted)


def _shape(run: Stored) -> list[Block]:
    return [sheet for sheet in run.sheets if sheet.title == "The shape of the space"]


def _data(run: Stored) -> list[Block]:
    rows = tuple((name, str(n), str(run.rows - n), f"{100 * n / max(1, run.rows):.1f}") for name, n in run.present.items())
    sheet = Sheet("Modalities", ("modality", "rows that have it", "missing", "% present"), rows, f"{_items(run)}.")
    unread = [each for each in run.sheets if each.title == "Unreadable, counted as missing"]
    return [sheet, *unread] if unread else [sheet, "Every cell that is not empty could be read."]


def _made(run: Stored, runs: Mapping[str, str | Path], command: str) -> list[Block]:
    folders = {f"folder of {name}": str(folder) for name, folder in runs.items()}
    versions = {"gramian": __version__, "torch": torch.__version__, "python": platform.python_version()}
    blocks: list[Block] = [Facts(run.settings, "The run"), Facts(versions | folders, "This page")]
    return [*blocks, Code(command, "Made by")] if command else blocks
