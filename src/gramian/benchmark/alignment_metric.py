"""Does GRAM's volume tell a good space from a bad one? Its rank correlation with R@1 beside that of other figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from gramian.benchmark.families import COLUMNS as OF_SETS
from gramian.benchmark.families import data_sets
from gramian.benchmark.plan import Plan, study_of
from gramian.benchmark.study import Method, Run, Task, same
from gramian.bundle import Bundle
from gramian.evaluation.metrics import effective_rank, modality_gap, uniformity
from gramian.geometry import volume
from gramian.losses import PMRL, Centroid, Gram, Loss, Pairwise, Symile
from gramian.sheets import Sheet
from gramian.training import Recipe

__all__ = ["EPOCHS", "alignment_metric", "figures_of"]

EPOCHS = (1, 3, 10, 30)
"""Lengths of training: from hardly any to enough."""

COLUMNS = OF_SETS | {"emoji": ("text", "fluent", "openmoji")}

RESAMPLES = 2000
"""Of the bootstrap over runs."""


def losses() -> dict[str, Callable[[], Loss]]:
    """The objectives whose spaces are compared; the sign-blind ones reach bad spaces with small volumes."""
    return {
        "Pairwise": partial(Pairwise, temperature=0.2),
        "Centroid": partial(Centroid, temperature=0.2),
        "GRAM, published": partial(Gram, anchor="each"),
        "GRAM, cone, each": partial(Gram, score="cone", anchor="each", temperature=0.2),
        "PMRL, published": PMRL,
        "PMRL, signed": partial(PMRL, signed=True, alignment_temperature=0.5),
        "Symile": Symile,
    }


def figures_of(bundle: Bundle) -> dict[str, float]:
    """What a space looks like without a query: GRAM's metric and its rivals, over the items with all modalities.

    Args:
        bundle: n items.

    Returns:
        Name → value. Mismatched tuples take each modality from another item: that of item i, i + 1, i + 2 and so on.
    """
    whole = bundle[bundle.present.all(1)].vectors.detach().double()
    m = whole.shape[1]
    mixed = torch.stack([whole[:, i].roll(i, 0) for i in range(m)], 1)
    volumes = [1 - volume(each) for each in (whole, mixed)]
    cosines = [(each @ each.mT)[:, *np.triu_indices(m, 1)].mean(1) for each in (whole, mixed)]
    columns = [whole[:, i] for i in range(m)]
    return {
        "1 − volume, matched": float(volumes[0].mean()),
        "1 − volume, mismatched": float(volumes[1].mean()),
        "1 − volume, separation": float(volumes[0].mean() - volumes[1].mean()),
        "1 − volume, AUC": _above(volumes[0], volumes[1]),
        "cosine, matched": float(cosines[0].mean()),
        "cosine, separation": float(cosines[0].mean() - cosines[1].mean()),
        "cosine, AUC": _above(cosines[0], cosines[1]),
        "uniformity": float(np.mean([uniformity(column) for column in columns])),
        "modality gap": float(np.mean([modality_gap(*pair) for pair in combinations(columns, 2)])),
        "effective rank": float(np.mean([effective_rank(column) for column in columns])),
    }


def _above(matched: torch.Tensor, mismatched: torch.Tensor) -> float:
    """The share of pairs of a matched and a mismatched tuple in which the matched one has the higher value; ties count half."""
    order = mismatched.sort().values
    below, upto = (torch.searchsorted(order, matched, right=right) for right in (False, True))
    return float((below + upto).double().mean() / (2 * len(order)))


@study_of(Plan("alignment_metric"), "alignment-metric", takes=("sets",), needs=("scipy",))
def alignment_metric(plan: Plan, console: Console | None) -> list[Path]:
    """Train seven objectives for four lengths on each data set, and correlate what their spaces look like with R@1."""
    epochs = plan.epochs
    lengths = [length for length in EPOCHS if epochs is None or length <= epochs] or [epochs or 1]
    tried = {
        name: [
            Method(f"{name}, {length} epochs", losses()[name], recipe=Recipe(epochs=length, evaluate_every=length))
            for length in lengths
        ]
        for name in plan.names(losses())
    }
    runs: dict[str, list[tuple[str, Run]]] = {}
    for name, table in data_sets(plan.sets, COLUMNS, only=True):
        flat = [one for each in tried.values() for one in each]
        task = Task(name, partial(same, table), dim=128)
        results = plan.results([task], flat, console)
        runs[name] = [(family, run) for family, each in tried.items() for one in each for run in results[name][one.name]]
    tables = {"alignment-metric": "\n".join(sheet.markdown() for sheet in _sheets(runs, lengths, plan.seeds))}
    return plan.write("Which figure tells a good space?", tables)


def _sheets(runs: Mapping[str, Sequence[tuple[str, Run]]], lengths: Sequence[int], seeds: int) -> list[Sheet]:
    figures = {name: [figures_of(run.embedded) for _, run in each] for name, each in runs.items()}
    found = {name: np.array([run.report.mean_recall(1).value for _, run in each]) for name, each in runs.items()}
    rows = []
    for figure in next(iter(figures.values()))[0]:
        cells: list[str] = []
        for name, each in runs.items():
            values = np.array([one[figure] for one in figures[name]])
            families = np.array([family for family, _ in each])
            cells += [_correlation(values, found[name], families), _within(values, found[name], families)]
        rows.append((figure, *cells))
    count, objectives = len(next(iter(runs.values()))), len({family for family, _ in next(iter(runs.values()))})
    note = (
        f"Spearman's correlation with R@1 (mean over the directions between two modalities, test split) over {count} runs: "
        f"{objectives} objectives, trained for {', '.join(map(str, lengths))} epochs, "
        f"{seeds} seeds each; 95 % intervals by a bootstrap over objectives, whose runs depend on each other. Then the mean "
        "over the objectives of the correlation among their own runs: over the checkpoints of one training."
    )
    header = ("figure", *(cell for name in runs for cell in (f"{name}, all runs", "within one objective")))
    sheets = [Sheet("Rank correlation with R@1", header, tuple(rows), note)]
    for name, each in runs.items():
        lines = []
        for family in dict.fromkeys(family for family, _ in each):
            last = [i for i, (own, run) in enumerate(each) if own == family and f", {lengths[-1]} epochs" in run.method.name]
            mean = {figure: np.mean([figures[name][i][figure] for i in last]) for figure in figures[name][0]}
            lines.append(
                (
                    family,
                    f"{100 * found[name][last].mean():.1f}",
                    *(f"{mean[f'1 − volume, {what}']:.3f}" for what in ("matched", "mismatched", "separation", "AUC")),
                    *(f"{mean[f'cosine, {what}']:.3f}" for what in ("matched", "separation", "AUC")),
                    *(f"{mean[what]:.2f}" for what in ("uniformity", "modality gap", "effective rank")),
                )
            )
        header = ("objective", "R@1", "matched", "mismatched", "separation", "AUC", "cosine", "separation", "AUC")
        header = (*header, "uniformity", "gap", "effective rank")
        note = f"After {lengths[-1]} epochs, mean of {seeds} seeds; first 1 − volume, then the mean cosine of a tuple."
        sheets.append(Sheet(f"{name}: the spaces", header, tuple(lines), note))
    return sheets


def _correlation(values: NDArray[np.float64], recall: NDArray[np.float64], families: NDArray[np.str_]) -> str:
    from scipy.stats import spearmanr

    names = np.unique(families)
    members = {name: np.flatnonzero(families == name) for name in names}
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(RESAMPLES):
        rows = np.concatenate([members[name] for name in rng.choice(names, len(names))])
        if np.ptp(values[rows]) and np.ptp(recall[rows]):
            draws.append(spearmanr(values[rows], recall[rows]).statistic)
    low, high = np.quantile(draws, [0.025, 0.975]) if draws else (np.nan, np.nan)
    return f"{spearmanr(values, recall).statistic:.2f} [{low:.2f}, {high:.2f}]"


def _within(values: NDArray[np.float64], recall: NDArray[np.float64], families: NDArray[np.str_]) -> str:
    from scipy.stats import spearmanr

    each = [
        spearmanr(values[families == name], recall[families == name]).statistic
        for name in np.unique(families)
        if np.ptp(values[families == name]) and np.ptp(recall[families == name])
    ]
    return f"{np.mean(each):.2f}" if each else "–"
