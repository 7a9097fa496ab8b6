"""The search for better: what others recommend for few pairs on frozen features, each tried beside the best family we know.

An attempt changes one thing of the reference and is judged by validation items alone. What wins there joins the families of
the standing benchmark, whose test items are looked at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from gramian.benchmark.families import CLOSED, CLOSED_LINEAR, KERNEL, MLP, SEARCH, STARTED, data_sets, short
from gramian.benchmark.plan import Plan, study_of
from gramian.benchmark.standing import check_splits, signed_percent, split_task
from gramian.benchmark.study import Method, Run
from gramian.bundle import Bundle
from gramian.data import Table
from gramian.errors import TooSmallError
from gramian.evaluation.directions import all_ranks
from gramian.evaluation.metrics import mean_reciprocal_rank
from gramian.evaluation.stats import resampled_interval
from gramian.geometry import unit
from gramian.kernels import Exchange
from gramian.losses import PMRL, Centroid, Gram, Loss, LossOutput, Pairwise
from gramian.model import Aligner
from gramian.model.starts import EncodedRows
from gramian.rows import read_ids
from gramian.sheets import Sheet
from gramian.training import Recipe
from gramian.training.joining import SHARES, side_by_side

__all__ = ["attempts"]

SMALL = replace(KERNEL, kernels=KERNEL.kernels[:1], ridges=(1.0,), powers=(0.5, 1.0, 2.0), dims=(128,))
"""For criteria that are solved anew for every width."""

info_nce: partial[Pairwise] = partial(Pairwise, temperature=0.2)


class Beside(Loss):
    """A term that compares the shared space with the training items' own features.

    Args:
        aligner: whose towers encode the features.
        train: the training items.
        temperature: of the similarities.
    """

    def __init__(self, aligner: Aligner, train: Table, *, temperature: float = 0.1) -> None:
        super().__init__()
        self.temperature = temperature
        codes = read_ids(train.item_ids or train.ids, len(train))
        self.codes: Tensor
        self.codes, order = codes.sort()
        columns: dict[str, list[Tensor]] = {}
        for batch in EncodedRows(aligner.towers, train):
            for name, (vectors, _) in batch.items():
                columns.setdefault(name, []).append(unit(vectors))
        self.columns: dict[str, Tensor] = {name: torch.cat(parts)[order] for name, parts in columns.items()}

    @property
    def sign_blind(self) -> bool:
        """True: what it is added to determines the space."""
        return True

    def features(self, bundle: Bundle, name: str) -> Tensor:
        """(n, width) unit vectors of the items in the batch.

        Raises:
            TooSmallError: items without ids, as those of validation, which are not kept here.
        """
        if bundle.item_ids is None:
            raise TooSmallError("`bundle` must have the ids of training items.")
        return self.columns[name][torch.searchsorted(self.codes, bundle.item_ids)]


class Structure(Beside):
    """The Jensen–Shannon divergence of the similarities within a modality, before the head and after it (STRUCTURE, 2025)."""

    def compute(self, bundle: Bundle, exchange: Exchange) -> LossOutput:  # noqa: ARG002 (one process)
        """The mean over modalities and items, a scalar ≥ 0."""
        parts = {}
        for name in bundle.modalities:
            kept = bundle.has(name)
            before, after = self.features(bundle, name)[kept], bundle.column(name)[kept]
            p, q = ((rows @ rows.mT / self.temperature).log_softmax(1) for rows in (before, after))
            middle = torch.logaddexp(p, q) - np.log(2.0)
            parts[name] = ((p.exp() * (p - middle)).sum(1) + (q.exp() * (q - middle)).sum(1)).mean() / 2
        return LossOutput(torch.stack(list(parts.values())).mean(), parts)


class SoftTargets(Beside):
    """Cross-entropy of the candidates, whose targets are their similarities to the match within its own modality."""

    def compute(self, bundle: Bundle, exchange: Exchange) -> LossOutput:  # noqa: ARG002 (one process)
        """The mean over pairs of modalities, both ways, and items, a scalar ≥ 0."""
        parts = {}
        for first, second in combinations(bundle.modalities, 2):
            kept = bundle.has(first) & bundle.has(second)
            logits = bundle.column(first)[kept] @ bundle.column(second)[kept].mT / 0.2
            total = torch.zeros(())
            for rows, name in ((logits, second), (logits.mT, first)):
                own = self.features(bundle, name)[kept]
                targets = (own @ own.mT / self.temperature).softmax(1)
                total = total - (targets * rows.log_softmax(1)).sum(1).mean() / 2
            parts[f"{first}-{second}"] = total
        return LossOutput(torch.stack(list(parts.values())).mean(), parts)


def tried(modalities: Sequence[str]) -> dict[str, Method]:
    """Every attempt by its name, the reference first.

    Args:
        modalities: of the data set.

    Returns:
        Name → method.
    """
    base = Method(STARTED, info_nce, search=KERNEL)
    pairs = {f"{first}-{second}": 0.2 for first, second in combinations(modalities, 2)}
    losses: dict[str, Callable[[], Loss]] = {
        "label smoothing 0.1": partial(info_nce, label_smoothing=0.1),
        "16 hardest negatives": partial(info_nce, negatives=16),
        "one temperature per pair": partial(info_nce, temperature=pairs),
        "sigmoid": partial(Pairwise, objective="sigmoid"),
        "centroid term": partial(_plus, partial(Centroid, temperature=0.2)),
        "cone term": partial(_plus, partial(Gram, score="cone", anchor="each", temperature=0.2)),
        "signed PMRL term": partial(_plus, partial(PMRL, signed=True, alignment_temperature=0.5)),
    }
    recipes = {
        "rate 1e-4": Recipe(learning_rate=1e-4),
        "batches of 512": Recipe(batch_size=512),
        "weight decay 1": Recipe(weight_decay=1.0),
        "modality dropout 0.3": Recipe(modality_dropout=0.3),
    }
    searches = {
        "kernel trained as well": replace(KERNEL, kernels=tuple(replace(kernel, learnable=True) for kernel in KERNEL.kernels)),
        "from SUMCOR": replace(SMALL, criterion="sumcor"),
        "from GENVAR": replace(SMALL, criterion="genvar"),
        "from MAXVAR, the same small search": SMALL,
    }
    beside = {"STRUCTURE": (Structure, (1.0, 10.0)), "soft targets": (SoftTargets, (0.1, 0.5))}
    every = [
        base,
        Method(CLOSED, None, search=KERNEL),
        Method(CLOSED_LINEAR, None, search=replace(SEARCH, heads=("linear",))),
        Method(MLP, info_nce, head="mlp"),
        *(replace(base, name=name, loss=loss) for name, loss in losses.items()),
        *(replace(base, name=name, recipe=recipe) for name, recipe in recipes.items()),
        *(replace(base, name=name, search=search) for name, search in searches.items()),
        *(
            replace(base, name=f"{name}, weight {weight:g}", beside=(weight, term))
            for name, (term, weights) in beside.items()
            for weight in weights
        ),
    ]
    return {method.name: method for method in every}


def _plus(term: Callable[[], Loss]) -> Loss:
    return info_nce() + term()


@study_of(Plan("attempts"), "attempts", takes=("sets", "processes"), needs=("scipy",))
def attempts(plan: Plan, console: Console | None) -> list[Path]:
    """Try every attempt beside the reference on all data sets at hand; validation items alone are looked at."""
    check_splits(plan.seeds)
    found: dict[str, dict[str, NDArray[np.float64]]] = {}
    validated: dict[str, float] = {}
    for name, table in data_sets(plan.sets):
        every = tried(table.modalities)
        names = {STARTED, *plan.names(every)}
        shortened = short({each: (one,) for each, one in every.items() if each in names}, plan.epochs)
        flat = [one for (one,) in shortened.values()]
        runs = plan.results([split_task(name, table)], flat, console, split="validation")[name]
        found[name] = {each: np.array([run.best for run in own]) for each, own in runs.items()} | _joined(runs)
        validated[name] = len(table.part("validation")) / len(table.part("train"))
    text = _sheet(found, validated, plan.seeds).markdown()
    return plan.write("The search for better", {"attempts": text})


def _joined(runs: Mapping[str, Sequence[Run]]) -> dict[str, NDArray[np.float64]]:
    """Validation MRR of pairs of finished runs in one space, for the best of `SHARES` on each split."""
    found = {}
    for first, second in ((STARTED, MLP), (STARTED, CLOSED_LINEAR), (CLOSED, MLP)):
        if first in runs and second in runs:
            both = [(a.embedded, b.embedded) for a, b in zip(runs[first], runs[second], strict=True)]
            scores = [[mean_reciprocal_rank(all_ranks(side_by_side(a, b, share))) or 0.0 for share in SHARES] for a, b in both]
            found[f"{first} + {second}"] = np.array(scores).max(1)
    return found


def _sheet(found: Mapping[str, Mapping[str, NDArray[np.float64]]], validated: Mapping[str, float], seeds: int) -> Sheet:
    """A row per attempt, a column per data set: the difference to the reference, with its interval."""
    names = dict.fromkeys(name for of_set in found.values() for name in of_set)
    rows = []
    for name in names:
        cells = []
        for data, of_set in found.items():
            if name not in of_set:
                cells.append("–")
            elif name == STARTED:
                cells.append(f"{100 * of_set[name].mean():.1f}")
            else:
                interval, _ = resampled_interval(of_set[name] - of_set[STARTED], validated[data])
                cells.append(signed_percent(interval))
        rows.append((name, *cells))
    note = (
        f"MRR of the validation items in %, mean of {seeds} splits: the reference, and each attempt's paired difference to it "
        "with its 95 % interval (Nadeau and Bengio's variance, as splits overlap). All train with τ = 0.2 and rate 1e-3 unless "
        "the name says otherwise; the share of a joined space is chosen on the same items, which flatters it."
    )
    return Sheet("The search for better", ("attempt", *found), tuple(rows), note)
