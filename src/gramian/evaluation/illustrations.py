"""The pictures of a page: drawn by `plots` and `clouds`, each with a title and a caption."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, count, permutations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gramian.bundle import Bundle
from gramian.evaluation.clouds import cloud, hub_counts, hubs, links, project, spectra, spectrum
from gramian.evaluation.comparing import Comparison
from gramian.evaluation.drawing import drawn, svg_of
from gramian.evaluation.metrics import modality_gap
from gramian.evaluation.page import Picture
from gramian.evaluation.plots import (
    confusion_matrix,
    differences,
    matrix,
    panels,
    recall_matrix,
    robustness_curves,
    short,
    training_curves,
)
from gramian.evaluation.stats import Interval
from gramian.evaluation.stored import Confusion, StoredDirection

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Illustrations"]

UNCORRECTED = "95 % intervals over items, paired by query, not corrected for their number."

CLASSES = 60
"""Classes whose names can be read beside a matrix."""

DRAWN = 300
"""Items of a cloud of points: more hide each other, and make the page large."""


class Illustrations:
    """Draws pictures for one page, each with ids of its own."""

    def __init__(self) -> None:
        self._number = count(1)

    def _picture(
        self, title: str, figure: Figure, caption: str, *, label: str = "", titles: Mapping[str, Sequence[str]] | None = None
    ) -> Picture:
        return Picture(title, svg_of(figure, label or f"{title}. {caption}", f"p{next(self._number)}-", titles), caption)

    def differences(self, comparison: Comparison) -> list[Picture]:
        """Of every pair, and of every direction where there is one pair."""
        rows = {f"{pair.better} − {pair.worse}": pair.difference for pair in comparison.pairs}
        shown = [("Difference of every pair", rows, "")]
        if len(comparison.pairs) == 1:
            pair = comparison.pairs[0]
            by_way = {str(way): value for (way, _, _), value in comparison.by_way.items()}
            shown = [(f"{pair.better} minus {pair.worse}, by direction", {"mean": pair.difference, **by_way}, "")]
        return [self.forest(title, rows, unit=f"points of {comparison.measure}") for title, rows, _ in shown]

    def forest(
        self, title: str, rows: Mapping[str, Interval], *, unit: str = "points of R@1", intervals: str = UNCORRECTED
    ) -> Picture:
        """Differences with their intervals, and what these are."""
        with drawn():
            figure, (ax,) = panels(1, 7.5, 0.9 + 0.3 * len(rows))
            differences(rows, ax, unit=unit)
            caption = f"{intervals} A filled point is an interval that excludes no difference."
            return self._picture(title, figure, caption)

    def recall(self, names: Sequence[str], singles: Iterable[StoredDirection], k: int = 1) -> list[Picture]:
        """The recall of every direction between two modalities."""
        values = np.full((len(names), len(names)), np.nan)
        for one in singles:
            if k in one.recall and one.query[0] in names and one.target[0] in names:
                values[names.index(one.query[0]), names.index(one.target[0])] = one.recall[k].value
        if len(names) < 3 or not np.isfinite(values).any():
            return []
        return [self.matrices({"": values}, names, f"R@{k} of every direction, in %")]

    def matrices(self, values: Mapping[str, NDArray[np.float64]], names: Sequence[str], title: str) -> Picture:
        """Recall matrices side by side, on one scale."""
        with drawn():
            side = max(2.6, 0.5 * len(names) + 1.3)
            figure, axes = panels(len(values), side, side + 0.2, across=3)
            top = max(float(np.nanmax(each)) for each in values.values())
            for ax, (name, each) in zip(axes, values.items(), strict=True):
                recall_matrix(each, names, ax, top=top).set_title(name, fontsize=10)
            return self._picture(title, figure, "Queries in rows, what they look for in columns. Brighter is better.")

    def robustness(self, curves: Mapping[str, Mapping[float, Interval]], title: str, of: str = "score") -> Picture:
        """What is left as ever more cells are dropped: a curve per score, or whatever they are `of`."""
        with drawn():
            figure, (ax,) = panels(1, 6.8, 3.4)
            robustness_curves(curves, ax).legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False)
            caption = f"One curve per {of}, all by the same masks; bands are 95 % intervals over items."
            return self._picture(title, figure, caption)

    def confusion(self, found: Confusion) -> list[Picture]:
        """What is taken for what, in % of each class; nothing where there are too many classes to read."""
        count = len(found.classes)
        if not 2 <= count <= CLASSES:
            return []
        with drawn():
            side = min(8.5, max(2.8, 0.36 * count + 1.3))
            figure, (ax,) = panels(1, side, side)
            confusion_matrix(found.counts, found.classes, ax)
            caption = "Of the items of the class in the row. Bright on the diagonal is right."
            return [self._picture(f"What is taken for what, in %: {found.name}", figure, caption)]

    def space(self, space: Bundle, ids: Sequence[str], start: Bundle | None = None, *, flat: bool = True) -> list[Picture]:
        """Where the vectors lie before and after training, unless not `flat`; their gaps, spectra and hubs."""
        pictures = []
        if flat and int(space.present.sum()) >= 4:
            stages = {"after training": space} if start is None else {"before training": start, "after training": space}
            panes = {name: {"PCA": each[:DRAWN], "t-SNE": each[:DRAWN]} for name, each in stages.items()}
            pictures.append(self.clouds(panes, ids[:DRAWN]))
        pictures += self._gaps(space)
        with drawn():
            shares = spectra(space)
            ways = {
                f"{query} → {target}": hub_counts(space, query, target)
                for query, target in permutations(space.modalities, 2)
                if bool(space.has(query).any()) and bool(space.has(target).any())
            }
            if len(shares):
                figure, (ax,) = panels(1, 6.4, 3.2)
                spectrum(shares, ax).legend()
                caption = (
                    "All on σ1: the item's vectors lie on one line, aligned up to signs. The dotted line is where orthogonal "
                    f"vectors lie, 1/{shares.shape[1]}. PMRL reads σ1; GRAM's volume is the product of all."
                )
                pictures.append(self._picture("The spectrum of an item's vectors", figure, caption))
            if ways:
                figure, (ax,) = panels(1, 6.4, 3.2)
                hubs(ways, ax).legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False)
                caption = (
                    "How many candidates are on at least so many queries' lists of the best 10. A long tail is a hub: a "
                    "candidate that many queries find, rightly or not."
                )
                pictures.append(self._picture("Hubs", figure, caption))
        return pictures

    def clouds(self, stages: Mapping[str, Mapping[str, Bundle]], ids: Sequence[str], title: str = "") -> Picture:
        """Vectors in two dimensions: stage → "PCA" or "t-SNE" → Bundle; lines join some items in the first."""
        with drawn():
            panes = [(stage, kind, bundle) for stage, kinds in stages.items() for kind, bundle in kinds.items()]
            several = any(len(kinds) > 1 for kinds in stages.values())
            figure, axes = panels(len(panes), *((4.3, 3.6) if several else (3.2, 3.0)), across=2 if several else 3)
            names: tuple[str, ...] = ()
            for ax, (stage, kind, bundle) in zip(axes, panes, strict=True):
                points = project(bundle, "tsne" if kind == "t-SNE" else "pca")
                cloud(points, ax)
                if kind == "PCA":
                    links(points, ax)
                for side in ax.spines.values():
                    side.set_visible(True)
                ax.set_title(f"{kind}, {stage}" if several else short(stage, 32), fontsize=10)
                names = bundle.modalities
            handles, labels = axes[0].get_legend_handles_labels()
            figure.legend(
                handles, labels, loc="outside lower center", ncols=min(5, len(labels)), markerscale=1.6, frameon=False
            )
            first = panes[0][2]
            hover = {
                f"points {i}": [f"{row} ({name})" for row, has in zip(ids, first.has(name).tolist(), strict=True) if has]
                for i, name in enumerate(names)
            }
            caption = (
                f"Each point is a vector, of {len(ids)} items. Where the modalities are aligned the colours mix; a gap keeps "
                "them apart. Rest on a point to read its id."
            )
            if any("PCA" in kinds for kinds in stages.values()):
                caption += " Lines in the plots of principal components join the vectors of one item, of 40 at most."
            return self._picture(title or "The items in two dimensions", figure, caption, titles=hover)

    def _gaps(self, space: Bundle) -> list[Picture]:
        names = space.modalities
        values = np.full((len(names), len(names)), np.nan)
        for i, j in combinations(range(len(names)), 2):
            first, second = (space.column(names[each])[space.has(names[each])] for each in (i, j))
            if len(first) and len(second):
                values[i, j] = values[j, i] = modality_gap(first, second)
        if len(names) < 3 or not np.isfinite(values).any():
            return []
        with drawn():
            side = max(2.6, 0.5 * len(names) + 1.3)
            figure, (ax,) = panels(1, side, side)
            matrix(values, names, ax, top=max(1.0, float(np.nanmax(values))), digits=2)
            caption = (
                "Distance between the centres of two modalities' unit vectors: 0 is no gap, 2 the largest. Darker is better."
            )
            return [self._picture("Modality gap", figure, caption)]

    def training(self, epochs: Sequence[Mapping[str, Any]], speeds: Sequence[Mapping[str, Any]] = ()) -> list[Picture]:
        """The curves of a training run."""
        scored = [record for record in epochs if "validation/mrr" in record]
        best = max(scored, key=lambda record: record["validation/mrr"])["epoch"] if scored else None
        with drawn():
            figure = training_curves(epochs, best_epoch=best)
            caption = (
                ""
                if best is None
                else f"The dotted line is the epoch whose weights were kept, {best}: the best validation MRR. "
            )
            rates = [speed["items_per_second"] for speed in speeds if "items_per_second" in speed]
            seconds = sum(speed.get("seconds", 0.0) for speed in speeds)
            if rates:
                caption += (
                    f"{len(rates)} epochs took {seconds:,.0f} s; the median epoch trained on {np.median(rates):,.0f} items/s."
                )
            return [self._picture("Training and validation", figure, caption)]
