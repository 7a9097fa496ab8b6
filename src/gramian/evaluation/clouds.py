"""Pictures of vectors: a space in two dimensions, the spectra of its tuples, its hubs. Needs the extra `plots`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from gramian.bundle import Bundle
from gramian.errors import InputError, check_choice
from gramian.evaluation.plots import STYLES, short
from gramian.geometry import singular_values
from gramian.kernels.ranks import top_k
from gramian.scores import SCORES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Projection", "cloud", "hub_counts", "hubs", "links", "project", "spectra", "spectrum", "tsne"]

Projection: TypeAlias = Literal["pca", "tsne"]

LINES = 40
"""Items whose vectors `links` joins, at most: more are a tangle."""


def project(bundle: Bundle, method: Projection = "pca", *, seed: int = 0) -> dict[str, NDArray[np.float64]]:
    """All present vectors of a Bundle in two dimensions.

    Args:
        bundle: at least four vectors in all.
        method: "pca", the two directions of largest variance, in which distances between modalities can be read; or "tsne", of
            cosine distances, in which neighbours can.
        seed: of t-SNE.

    Returns:
        Modality → (n, 2), NaN where an item lacks it.

    Raises:
        InputError: fewer than four vectors.
    """
    check_choice("method", method, ("pca", "tsne"))
    present = bundle.present.cpu().numpy().T
    vectors = bundle.vectors.detach().float().cpu().numpy().transpose(1, 0, 2)[present]
    if len(vectors) < 4:
        raise InputError(f"`bundle` must hold at least four vectors to draw; got {len(vectors)}.")
    if method == "pca":
        centred = vectors - vectors.mean(0)
        _, _, axes = np.linalg.svd(centred, full_matrices=False)
        flat = centred @ axes[:2].T
        if flat.shape[1] < 2:
            flat = np.pad(flat, ((0, 0), (0, 2 - flat.shape[1])))
    else:
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (len(vectors) - 1) / 3)
        flat = TSNE(metric="cosine", init="random", perplexity=perplexity, random_state=seed).fit_transform(vectors)
    points = np.full((*present.shape, 2), np.nan)
    points[present] = flat
    return dict(zip(bundle.modalities, points, strict=True))


def cloud(points: Mapping[str, NDArray[np.float64]], ax: Axes, *, labels: Sequence[str] | None = None) -> Axes:
    """Points in two dimensions: one colour and marker per modality, or colours by label and markers by modality.

    Where modalities are aligned the colours mix; a modality gap separates them into islands. The points are labelled for a
    legend, which is left to the caller, since several panels share one.

    Args:
        points: modality → (n, 2), NaN where missing.
        ax: where to draw.
        labels: n classes of the items; the eight most frequent have a colour, the others are grey.

    Returns:
        The Axes.
    """
    size = 12 if sum(len(each) for each in points.values()) < 1500 else 5
    groups: list[str] = [] if labels is None else sorted(set(labels), key=lambda each: (-list(labels).count(each), each))
    for i, (name, place) in enumerate(points.items()):
        colour, marker = STYLES[i % len(STYLES)]
        if labels is None:
            x, y = place[np.isfinite(place).all(1)].T
            ax.scatter(
                x,
                y,
                s=size,
                label=short(name),
                alpha=0.7,
                color=colour,
                marker=marker,
                linewidths=0,
                gid=f"points {i}",
            )
            continue
        known = {group: STYLES[j][0] for j, group in enumerate(groups[: len(STYLES)])}
        for group in groups:
            rows = [row for row, label in enumerate(labels) if label == group]
            label = short(group) if i == 0 and group in known else None
            ax.scatter(
                place[rows, 0],
                place[rows, 1],
                s=size,
                label=label,
                alpha=0.7,
                color=known.get(group, "#999999"),
                marker=marker,
                linewidths=0,
            )
    ax.set_xticks([])
    ax.set_yticks([])
    return ax


def links(points: Mapping[str, NDArray[np.float64]], ax: Axes) -> Axes:
    """Lines between the modalities of one item, of at most 40 items, evenly from the first to the last.

    Args:
        points: modality → (n, 2), NaN where missing.
        ax: where to draw, as `cloud` did.

    Returns:
        The Axes.
    """
    stacked = np.stack(list(points.values()), 1)
    rows = np.flatnonzero(np.isfinite(stacked[..., 0]).sum(1) > 1)
    for row in rows[np.unique(np.linspace(0, len(rows) - 1, min(LINES, len(rows))).round().astype(int))]:
        path = stacked[row][np.isfinite(stacked[row, :, 0])]
        ax.plot(*path.T, color="#888888", linewidth=0.6, alpha=0.8, zorder=0)
    return ax


def tsne(bundle: Bundle, ax: Axes, *, seed: int = 0) -> Axes:
    """All present vectors of a Bundle by t-SNE, one colour and marker per modality: `cloud` of `project`.

    Args:
        bundle: at least four vectors in all.
        ax: where to draw.
        seed: of the embedding.

    Returns:
        The Axes.

    Raises:
        InputError: fewer than four vectors.
    """
    return cloud({name: place for name, place in project(bundle, "tsne", seed=seed).items() if np.isfinite(place).any()}, ax)


def spectra(bundle: Bundle) -> NDArray[np.float64]:
    """σᵢ²/m of each item with all modalities, (items, m), the largest first: its tuple's energy, and how it is spread.

    Args:
        bundle: items of m modalities.

    Returns:
        Rows that sum to 1. (1, 0, …) is a tuple on one line, aligned up to signs; (1/m, …) an orthogonal one.
    """
    whole = bundle.vectors.detach().float()[bundle.present.all(1)]
    shares: NDArray[np.float64] = (singular_values(whole).square() / whole.shape[1]).double().cpu().numpy()
    return shares


def spectrum(shares: NDArray[np.float64], ax: Axes) -> Axes:
    """A histogram of each singular value's share of a tuple's energy.

    Args:
        shares: (items, m), of `spectra`.
        ax: where to draw.

    Returns:
        The Axes, its histograms labelled for a legend.

    Raises:
        InputError: no items.
    """
    if not len(shares):
        raise InputError("`shares` must hold at least one item with all modalities; got none.")
    edges = np.linspace(0, 1, 41)
    for i, column in enumerate(shares.T):
        colour = STYLES[i % len(STYLES)][0]
        heights = np.histogram(column.clip(0, 1), edges)[0] / len(column)
        ax.stairs(100 * heights, edges, color=colour, fill=True, alpha=0.25)
        ax.stairs(100 * heights, edges, color=colour, linewidth=1.3, linestyle=("-", "--", ":", "-.")[i % 4], label=f"σ{i + 1}")
    ax.axvline(1 / shares.shape[1], color="#888888", linewidth=0.8, linestyle=":")
    ax.set_xlabel("share of the tuple's energy, σ²/m")
    ax.set_ylabel("items, in %")
    ax.set_xlim(0, 1)
    return ax


@torch.no_grad()
def hub_counts(bundle: Bundle, query: str, target: str, *, k: int = 10) -> NDArray[np.int64]:
    """How often each candidate is among the best k of a query, by cosine.

    Args:
        bundle: items.
        query: modality that asks.
        target: modality of the candidates.
        k: length of the lists.

    Returns:
        (candidates,), in the order of the items that have the target.
    """
    queries, items = (bundle.column(name)[bundle.has(name)].detach().float() for name in (query, target))
    _, best = top_k(SCORES["cosine"].of(queries, items), k)
    counts: NDArray[np.int64] = torch.bincount(best.flatten(), minlength=len(items)).cpu().numpy()
    return counts


def hubs(counts: Mapping[str, NDArray[np.int64]], ax: Axes) -> Axes:
    """Which share of the candidates is on at least so many lists: without hubs the curves fall off steeply.

    Args:
        counts: direction → how often each candidate is listed, of `hub_counts`.
        ax: where to draw.

    Returns:
        The Axes, its curves labelled for a legend.

    Raises:
        InputError: no candidates.
    """
    if not any(len(each) for each in counts.values()):
        raise InputError("`counts` must hold at least one candidate; got none.")
    lines = ("-", "--", ":", "-.")
    for i, (name, each) in enumerate(counts.items()):
        times = np.arange(1, each.max(initial=1) + 1)
        shares = 100 * (each[None] >= times[:, None]).mean(1)
        colour = STYLES[i % len(STYLES)][0]
        ax.plot(times, shares, color=colour, linestyle=lines[i // 2 % 4], linewidth=1.3, label=short(name, 32))
    ax.set_yscale("log")
    ticks = [each for each in (0.1, 1, 10, 100) if each >= 50 / max(len(each) for each in counts.values())]
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.set_yticks([], minor=True)
    ax.set_xlabel("on at least so many lists of the best 10")
    ax.set_ylabel("candidates, in %")
    ax.grid(visible=True, linewidth=0.3)
    return ax
