"""Pictures, drawn into the caller's Axes. Needs the extra `plots` (matplotlib, scikit-learn)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from gramian.bundle import Bundle
from gramian.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["cost_curves", "recall_matrix", "tsne"]


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
    ax.imshow(np.ma.masked_invalid(values), vmin=0, vmax=top, cmap="viridis")
    for i, j in np.argwhere(np.isfinite(values)):
        dark = values[i, j] < 0.6 * top
        ax.text(j, i, f"{100 * values[i, j]:.1f}", ha="center", va="center", color="white" if dark else "black", fontsize=8)
    ax.set_xticks(range(len(names)), names, rotation=45, ha="right")
    ax.set_yticks(range(len(names)), names)
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
    from matplotlib.figure import Figure

    panels = sorted({(str(row["task"]), int(row["m"])) for row in rows})
    if not panels:
        raise InputError("`rows` must hold at least one measurement; got none.")
    columns = min(4, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(3.6 * columns, 3.2 * lines))
    for place, (task, m) in enumerate(panels, 1):
        ax = figure.add_subplot(lines, columns, place)
        panel = [row for row in rows if (row["task"], row["m"]) == (task, m)]
        work = max((str(row["work"]) for row in panel), key=len)
        for form in dict.fromkeys(str(row["form"]) for row in panel):
            points = sorted((row["n"], row["seconds"]) for row in panel if row["form"] == form and row["work"] == work)
            ax.loglog(*zip(*points, strict=True), marker="o", markersize=3, label=form)
        ax.set_title(f"{task}, m = {m}, {work}", fontsize=8)
        sizes = sorted({int(row["n"]) for row in panel})
        ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
        ax.set_xticks([], minor=True)
        ax.set_xlabel("n")
        ax.set_ylabel("seconds")
        ax.grid(visible=True, which="both", linewidth=0.3)
        ax.legend(fontsize=7)
    figure.set_layout_engine("tight")
    return figure


def tsne(bundle: Bundle, ax: Axes, *, seed: int = 0) -> Axes:
    """All present vectors of a Bundle in two dimensions (t-SNE of cosine distances), one colour per modality.

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
    for name, part in zip(names, parts, strict=True):
        x, y = points[start : start + len(part)].T
        ax.scatter(x, y, s=6, label=name, alpha=0.8)
        start += len(part)
    ax.set_xticks([])
    ax.set_yticks([])
    return ax
