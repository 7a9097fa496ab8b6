"""Pictures of figures, drawn into the caller's Axes; those of vectors are in `clouds`. Needs the extra `plots`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gramian.errors import InputError
from gramian.evaluation.stats import Interval
from gramian.sheets import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "STYLES",
    "Look",
    "confusion_matrix",
    "cost_curves",
    "differences",
    "matrix",
    "panels",
    "recall_matrix",
    "robustness_curves",
    "short",
    "size_curves",
    "training_curves",
]

STYLES = tuple(
    zip(("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000"), "o^sDvPX*", strict=True)
)
"""Colours that the colour-blind tell apart (Okabe and Ito, 2008), each with a marker of its own."""


def panels(count: int, width: float, height: float, *, across: int = 4, **options: Any) -> tuple[Figure, list[Axes]]:
    """A Figure of `count` panels, and their Axes in order.

    Args:
        count: panels.
        width: of one, in inches.
        height: of one, in inches.
        across: panels in a row, at most.
        **options: of `Figure.subplots`.

    Returns:
        The Figure, whose layout keeps titles, labels and legends apart, and the Axes.
    """
    from matplotlib.figure import Figure

    columns = min(across, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="compressed")
    every = figure.subplots(rows, columns, squeeze=False, **options).flatten().tolist()
    for ax in every[count:]:
        ax.remove()
    return figure, every[:count]


def recall_matrix(values: NDArray[np.float64], names: Sequence[str], ax: Axes, *, top: float | None = None) -> Axes:
    """Recall of every direction as a matrix: queries in rows, targets in columns.

    Args:
        values: (m, m) shares in [0, 1]; NaN where a direction was not measured, as on the diagonal.
        names: the m modalities.
        ax: where to draw.
        top: the share at the bright end of the colour scale; the largest of `values` by default.

    Returns:
        The Axes.

    Raises:
        InputError: a matrix that is not (m, m).
    """
    top = float(np.nanmax(values, initial=0.0)) if top is None else top
    matrix(100 * values, names, ax, top=100 * top)
    ax.set_xlabel("target")
    ax.set_ylabel("query")
    return ax


def confusion_matrix(counts: NDArray[Any], classes: Sequence[str], ax: Axes) -> Axes:
    """How often each class, in rows, was taken for each, in columns: in % of the row, empty where it never was.

    Args:
        counts: (c, c), at least 0.
        classes: their names.
        ax: where to draw.

    Returns:
        The Axes.

    Raises:
        InputError: a matrix that is not (c, c).
    """
    rows = np.asarray(counts, float).sum(-1, keepdims=True)
    shares = np.where(np.asarray(counts) > 0, 100 * np.asarray(counts) / np.maximum(rows, 1e-9), np.nan)
    matrix(shares, classes, ax, top=100.0, digits=0)
    ax.set_xlabel("predicted")
    ax.set_ylabel("true")
    return ax


def matrix(values: NDArray[np.float64], names: Sequence[str], ax: Axes, *, top: float | None = None, digits: int = 1) -> Axes:
    """Numbers of every ordered pair of names, as colours and as text.

    Args:
        values: (m, m), at least 0; NaN where there is none.
        names: the m names of rows and columns.
        ax: where to draw.
        top: the number at the bright end of the colour scale; the largest by default.
        digits: after the point.

    Returns:
        The Axes.

    Raises:
        InputError: a matrix that is not (m, m).
    """
    if values.shape != (len(names), len(names)):
        raise InputError(f"`values` must have shape ({len(names)}, {len(names)}); got {values.shape}.")
    top = float(np.nanmax(values, initial=0.0)) if top is None else top
    top = max(top, 1e-7)  # all zero is drawn dark, too
    ax.imshow(np.ma.masked_invalid(values), vmin=0, vmax=top, cmap="viridis")
    cell = ax.get_window_extent().transformed(ax.figure.dpi_scale_trans.inverted()).width * 72 / len(names)  # in points
    size = min(8.0, cell / 3.2)  # of five digits and a point
    for i, j in np.argwhere(np.isfinite(values)) if size >= 3 else ():
        colour = "#ffffff" if values[i, j] < 0.6 * top else "#000000"
        ax.text(j, i, f"{values[i, j]:.{digits}f}", ha="center", va="center", color=colour, fontsize=size)
    label = min(9.0, 0.9 * cell)
    ax.set_xticks(range(len(names)), map(short, names), rotation=45, ha="right", fontsize=label, parse_math=False)
    ax.set_yticks(range(len(names)), map(short, names), fontsize=label, parse_math=False)
    return ax


def short(name: str, width: int = 24) -> str:
    """A user's name as a label: one line of printable characters, its end left out where it is long."""
    name = visible(name)
    return name if len(name) <= width else name[: width - 1] + "…"


def differences(rows: Mapping[str, Interval], ax: Axes, *, unit: str = "points of R@1") -> Axes:
    """Differences with their intervals, one below the other, and a line at no difference.

    Args:
        rows: name → difference of shares.
        ax: where to draw.
        unit: of a hundredth, for the axis.

    Returns:
        The Axes, with the numbers beside it. Filled points are those whose interval excludes 0.

    Raises:
        InputError: no rows.
    """
    if not rows:
        raise InputError("`rows` must hold at least one difference; got none.")
    colour = STYLES[0][0]
    beside = ax.get_yaxis_transform()
    for place, one in enumerate(rows.values()):
        ax.text(1.02, place, one.percent(), transform=beside, va="center", fontsize=8)
        clear = one.low > 0 or one.high < 0
        ax.plot([100 * one.low, 100 * one.high], [place, place], color=colour, linewidth=1.4)
        ax.plot(100 * one.value, place, "o", color=colour, markersize=5, markerfacecolor=colour if clear else "none")
    ax.axvline(0, color="#888888", linewidth=0.8)
    ax.set_yticks(range(len(rows)), [short(name, 40) for name in rows], fontsize=9, parse_math=False)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlabel(unit)
    ax.grid(visible=True, axis="x", linewidth=0.3)
    return ax


def robustness_curves(curves: Mapping[str, Mapping[float, Interval]], ax: Axes) -> Axes:
    """R@1 against the share of each modality that was dropped, one curve per method with its interval as a band.

    Args:
        curves: method → share dropped → a share with its interval.
        ax: where to draw.

    Returns:
        The Axes, its curves labelled for a legend.

    Raises:
        InputError: no curves.
    """
    if not any(curves.values()):
        raise InputError("`curves` must hold at least one curve with a point; got none.")
    for i, (name, curve) in enumerate(curves.items()):
        colour, marker = STYLES[i % len(STYLES)]
        places = sorted(curve)
        low, value, high = ([100 * getattr(curve[place], part) for place in places] for part in ("low", "value", "high"))
        ax.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
        ax.plot(places, value, color=colour, marker=marker, markersize=4, linewidth=1.4, label=short(name, 40))
    ax.set_xlabel("share of each modality that is dropped")
    ax.set_ylabel("R@1 in %")
    ax.set_ylim(bottom=0)
    ax.grid(visible=True, linewidth=0.3)
    return ax


PANELS: tuple[tuple[str, tuple[str, ...], float], ...] = (
    ("loss", ("loss", "validation/loss"), 1),
    ("what validation finds, in %", ("validation/mrr", "validation/recall@1"), 100),
    ("validation R@1 by direction, in %", ("validation/recall@1/*",), 100),
    ("temperature", ("temperature", "*/temperature", "*.temperature"), 1),
    ("modality gap", ("validation/gap/*",), 1),
    ("antipodal pairs, in %", ("validation/antipodal/*",), 100),
)
"""Panels of `training_curves`: title, patterns of the records' names, factor."""

LABELS = {"loss": "train", "validation/loss": "validation", "validation/mrr": "MRR", "validation/recall@1": "R@1"}
_STEM = re.compile("^validation/((recall@1|gap|antipodal)/)?")


def training_curves(records: Sequence[Mapping[str, Any]], *, best_epoch: int | None = None) -> Figure:
    """What `fit` records against the epoch, one panel per kind of figure.

    Args:
        records: of `History`, or of the lines of `metrics.jsonl`.
        best_epoch: marked by a line.

    Returns:
        The Figure, with the panels that have something to show.

    Raises:
        InputError: no records with an epoch and a loss.
    """
    from matplotlib.ticker import MaxNLocator

    rows = [row for row in records if "epoch" in row and "loss" in row]
    if not rows:
        raise InputError("`records` must hold the epochs of a training run; got none. The closed form has no epochs.")
    names = dict.fromkeys(name for row in rows for name in row)
    kept = []
    for title, patterns, factor in PANELS:
        shown = [name for name in names if any(name == each or ("*" in each and fnmatchcase(name, each)) for each in patterns)]
        if shown:
            kept.append((title, shown, factor))
    figure, axes = panels(len(kept), 3.6, 3.1, across=3)
    for ax, (title, shown, factor) in zip(axes, kept, strict=True):
        for i, name in enumerate(shown[: len(STYLES)]):
            colour, marker = STYLES[i]
            epochs, values = zip(*((row["epoch"], factor * row[name]) for row in rows if name in row), strict=True)
            every = max(1, len(epochs) // 8)
            label = LABELS.get(name) or short(_STEM.sub("", name))
            ax.plot(epochs, values, color=colour, marker=marker, markevery=every, markersize=3.5, linewidth=1.3, label=label)
        if best_epoch:
            ax.axvline(best_epoch, color="#888888", linewidth=0.8, linestyle=":")
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("epoch", fontsize=9)
        ax.tick_params(labelsize=8)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(visible=True, linewidth=0.3)
        columns = 2 if len(shown) > 1 else 1
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=columns, fontsize=7.5, frameon=False)
    return figure


def cost_curves(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Seconds against n on logarithmic axes: one panel per task and number of modalities, one curve per form.

    Args:
        rows: measurements with the keys of `gramian.benchmark.Measurement`; the costliest `work` of each form is drawn.

    Returns:
        The Figure.

    Raises:
        InputError: no measurements.
    """
    cases = sorted({(str(row["task"]), int(row["m"])) for row in rows})
    if not cases:
        raise InputError("`rows` must hold at least one measurement; got none.")
    figure, axes = panels(len(cases), 3.4, 3.0, sharey=True)
    styles = dict(zip(dict.fromkeys(str(row["form"]) for row in rows), STYLES, strict=False))
    for ax, (task, m) in zip(axes, cases, strict=True):
        panel = [row for row in rows if (row["task"], row["m"]) == (task, m)]
        work = max((str(row["work"]) for row in panel), key=len)
        for form, (colour, marker) in styles.items():
            points = sorted((row["n"], row["seconds"]) for row in panel if row["form"] == form and row["work"] == work)
            if points:
                ax.loglog(*zip(*points, strict=True), color=colour, marker=marker, markersize=4, label=form)
        ax.set_title(f"{task}, m = {m}, {work}", fontsize=9)
        sizes = sorted({int(row["n"]) for row in panel})
        room = (sizes[-1] / sizes[0]) ** 0.17  # a label needs this much of the axis
        labels = [f"{n:,}" if n == sizes[0] or all(n >= m * room for m in sizes[:i]) else "" for i, n in enumerate(sizes)]
        ax.set_xticks(sizes, labels, fontsize=7)
        ax.set_xticks([], minor=True)
        ax.grid(visible=True, linewidth=0.3)
    entries = {label: line for ax in axes for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(entries.values(), entries, loc="outside upper center", ncols=len(entries))
    figure.supxlabel("items n", fontsize=10)
    figure.supylabel("median time in seconds", fontsize=10)
    return figure


class Look(NamedTuple):
    """How a curve is drawn.

    Attributes:
        colour: of line, marker and label.
        marker: of its points.
        line: its style.
    """

    colour: str
    marker: str
    line: str


def size_curves(
    curves: Mapping[str, Mapping[str, Mapping[int, Interval]]], looks: Mapping[str, Look], *, label: str = "R@1 in %"
) -> Figure:
    """A share against a number of items on a logarithmic axis: one panel per data set, one curve per method with its name.

    Args:
        curves: data set → method → number of items → the share and its interval, drawn as a bar.
        looks: of the methods; others are grey.
        label: of the shares.

    Returns:
        The Figure.

    Raises:
        InputError: no curves.
    """
    if not curves:
        raise InputError("`curves` must hold at least one data set; got none.")
    figure, axes = panels(len(curves), 5.6, 4.2)
    for ax, (name, lines) in zip(axes, curves.items(), strict=True):
        sizes = sorted({size for points in lines.values() for size in points})
        ends = []
        for i, (method, points) in enumerate(lines.items()):
            look = looks.get(method, Look("#777777", "o", "-"))
            aside = 1.015 ** (i - (len(lines) - 1) / 2)  # bars side by side
            x = [size * aside for size in points]
            y, low, high = (100 * np.array(part) for part in zip(*points.values(), strict=True))
            ax.errorbar(x, y, (y - low, high - y), color=look.colour, linewidth=0, elinewidth=0.7, alpha=0.45)
            ax.plot(x, y, look.line, color=look.colour, marker=look.marker, markersize=4.5, linewidth=1.5)
            ends.append((float(y[-1]), x[-1], method, look.colour))
        ax.set_xscale("log")
        if len(sizes) == 1:
            ax.set_xlim(sizes[0] / 2, sizes[0] * 2)
        room = (sizes[-1] / sizes[0]) ** 0.13  # a label needs this much of the axis; the last has the first claim
        labels = [f"{n:,}" if n == sizes[-1] or n * room <= sizes[-1] else "" for n in sizes]
        ax.set_xticks(sizes, labels, fontsize=8)
        ax.set_xticks([], minor=True)
        ax.set_ylim(bottom=0)
        ax.set_title(name, fontsize=10)
        ax.grid(visible=True, linewidth=0.3)
        ax.spines[["top", "right"]].set_visible(False)
        _label_ends(ax, ends, sizes[-1] * 1.02 ** len(lines))
    figure.supxlabel("training items", fontsize=10)
    figure.supylabel(label, fontsize=10)
    return figure


def _label_ends(ax: Axes, ends: Sequence[tuple[float, float, str, str]], x: float) -> None:
    """Labels right of the curves, as near to their ends as there is room, each with a thin line to its end."""
    from matplotlib.lines import Line2D

    low, high = ax.get_ylim()
    height = ax.get_window_extent().transformed(ax.figure.dpi_scale_trans.inverted()).height * 72  # in points
    room = (high - low) * 11 / height  # of a line of text of 8 points
    places: list[float] = []
    for y, *_ in sorted(ends):
        places.append(max(y, places[-1] + room) if places else max(y, low + room / 2))
    excess = places[-1] - (high - room / 2)
    if excess > 0:  # pushed out at the top: down again, as far as those below give way
        places[-1] -= excess
        for i in range(len(places) - 2, -1, -1):
            places[i] = min(places[i], places[i + 1] - room)
    for (y, end, name, colour), place in zip(sorted(ends), places, strict=True):
        ax.text(x * 1.06, place, name, fontsize=8, color=colour, va="center")
        ax.add_line(Line2D((end, x * 1.05), (y, place), color=colour, linewidth=0.5, alpha=0.6, clip_on=False))
