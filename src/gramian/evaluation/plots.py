"""Pictures, drawn into the caller's Axes. Needs the extra `plots` (matplotlib, scikit-learn)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gramian.bundle import Bundle
from gramian.errors import InputError
from gramian.evaluation.stats import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Look", "cost_curves", "panels", "recall_matrix", "size_curves", "tsne"]

STYLES = tuple(
    zip(("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000"), "o^sDvPX*", strict=True)
)
"""Colours that the colour-blind tell apart (Okabe and Ito, 2008), each with a marker of its own."""


def panels(count: int, width: float, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    """A Figure of `count` panels, four to a row, and their Axes in order.

    Args:
        count: panels.
        width: of one, in inches.
        height: of one, in inches.
        **options: of `Figure.subplots`.

    Returns:
        The Figure, whose layout keeps titles, labels and legends apart, and the Axes.
    """
    from matplotlib.figure import Figure

    columns = min(4, count)
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
    if values.shape != (len(names), len(names)):
        raise InputError(f"`values` must have shape ({len(names)}, {len(names)}); got {values.shape}.")
    top = float(np.nanmax(values, initial=0.0)) if top is None else top
    top = max(top, 1e-9)  # all zero is drawn dark, too
    ax.imshow(100 * np.ma.masked_invalid(values), vmin=0, vmax=100 * top, cmap="viridis")
    cell = ax.get_window_extent().transformed(ax.figure.dpi_scale_trans.inverted()).width * 72 / len(names)  # in points
    size = min(8.0, cell / 3.2)  # of five digits and a point
    for i, j in np.argwhere(np.isfinite(values)):
        dark = values[i, j] < 0.6 * top
        ax.text(j, i, f"{100 * values[i, j]:.1f}", ha="center", va="center", color="white" if dark else "black", fontsize=size)
    ax.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=9)
    ax.set_yticks(range(len(names)), names, fontsize=9)
    ax.set_xlabel("target")
    ax.set_ylabel("query")
    return ax


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


def tsne(bundle: Bundle, ax: Axes, *, seed: int = 0) -> Axes:
    """All present vectors of a Bundle in two dimensions (t-SNE of cosine distances), one colour and marker per modality.

    Where modalities are aligned the colours mix; a modality gap separates them into islands. The points are labelled for a
    legend, which is left to the caller, since several panels share one.

    Args:
        bundle: at least four vectors in all.
        ax: where to draw.
        seed: of the embedding.

    Returns:
        The Axes.

    Raises:
        InputError: fewer than four vectors.
    """
    from sklearn.manifold import TSNE

    names = [name for name in bundle.modalities if bool(bundle.has(name).any())]
    parts = [bundle.column(name)[bundle.has(name)].detach().float().cpu() for name in names]
    vectors = torch.cat(parts).numpy()
    if len(vectors) < 4:
        raise InputError(f"`bundle` must hold at least four vectors to draw; got {len(vectors)}.")
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    points = TSNE(metric="cosine", init="random", perplexity=perplexity, random_state=seed).fit_transform(vectors)
    start = 0
    for i, (name, part) in enumerate(zip(names, parts, strict=True)):
        x, y = points[start : start + len(part)].T
        colour, marker = STYLES[i % len(STYLES)]
        ax.scatter(x, y, s=12, label=name, alpha=0.7, color=colour, marker=marker, linewidths=0)
        start += len(part)
    ax.set_xticks([])
    ax.set_yticks([])
    return ax
