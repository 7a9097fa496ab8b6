"""`fit_canonical`: an Aligner in closed form, its ridge, kernel, power and width chosen on validation items."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, get_args

import torch
from torch import Tensor

from gramian.bundle import Bundle
from gramian.canonical import Analysis, Criterion, Solution
from gramian.canonical.features import Kernel
from gramian.data.batches import Reading
from gramian.data.cells import Broken
from gramian.data.splits import drawn, paired_items, shuffled_items
from gramian.data.table import Table
from gramian.distributed import gather, is_main_process, share
from gramian.errors import InputError, check_choice, check_number
from gramian.evaluation.directions import all_ranks
from gramian.evaluation.metrics import mean_reciprocal_rank
from gramian.model.aligner import Aligner
from gramian.model.heads import HeadName, features_of
from gramian.model.starts import EncodedRows, fill_heads, moments_of
from gramian.model.towers import Tower, Towers
from gramian.rows import read_ids
from gramian.sheets import progress_bar

__all__ = ["STARTING", "Choice", "Search", "Settings", "fit_canonical"]

VALIDATED = 2000  # validation items ranked at most, drawn at random from more: ranking grows with their square


@dataclass(frozen=True)
class Settings:
    """What `Aligner.canonical` takes.

    Attributes:
        head: of every modality.
        kernel: of heads "kernel".
        ridge: see `gramian.canonical.solve`.
        power: see `gramian.canonical.Solution.head`.
        dim: width of the space, at most; fewer where the items have fewer components.
    """

    head: HeadName
    kernel: Kernel
    ridge: float
    power: float
    dim: int

    def __str__(self) -> str:
        landmarks = f", landmarks {self.kernel.landmarks:,}"
        kernel = f" {self.kernel.name}, kernel power {self.kernel.power:g}{landmarks}" if self.head == "kernel" else ""
        return f"head {self.head}{kernel}, ridge {self.ridge:g}, power {self.power:g}, dim {self.dim}"


@dataclass(frozen=True)
class Search:
    """What `fit_canonical` tries: every combination.

    Attributes:
        heads: "linear", "kernel" or "residual", each of every modality.
        kernels: of heads "kernel".
        ridges: in units of the mean eigenvalue of a modality.
        powers: of the components' agreement.
        dims: widths of the space; those beyond the rank of the training items are that rank.
        criterion: "maxvar", "sumcor" or "genvar".
        folds: into how many parts the items are divided where there is no validation split; each validates what the others
            give.

    Raises:
        InputError: an empty list, a number outside its range, another criterion.
    """

    heads: tuple[HeadName, ...] = ("linear", "kernel")
    kernels: tuple[Kernel, ...] = (Kernel(power=2), Kernel(power=4), Kernel("rbf", power=1), Kernel("rbf", power=0.3))
    ridges: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 3.0)
    powers: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    dims: tuple[int, ...] = (128, 256, 512)
    criterion: Criterion = "maxvar"
    folds: int = 4

    def __post_init__(self) -> None:
        for name in ("heads", "kernels", "ridges", "powers", "dims"):
            if not getattr(self, name):
                raise InputError(f"`search.{name}` must hold at least one value to try; got none.")
        check_choice("search.criterion", self.criterion, get_args(Criterion))
        check_number("search.folds", self.folds, "[2, 100]", integer=True)
        for ridge in self.ridges:
            check_number("search.ridges", ridge, "[0, inf)")
        for power in self.powers:
            check_number("search.powers", power, "[0, 100]")
        for dim in self.dims:
            check_number("search.dims", dim, "[1, 1048576]", integer=True)

    def maps(self, rows: int) -> Iterator[tuple[HeadName, Kernel]]:
        """Each kind of head with each of its kernels; of kernels that differ in landmarks beyond the rows the first."""
        for head in self.heads:
            different: dict[Kernel, Kernel] = {}
            for kernel in self.kernels if head == "kernel" else self.kernels[:1]:
                different.setdefault(replace(kernel, landmarks=min(kernel.landmarks, rows)), kernel)
            yield from ((head, kernel) for kernel in different.values())

    def of_landmarks(self, numbers: Sequence[int]) -> Search:
        """The search that tries each kernel with each of these numbers of landmarks.

        Args:
            numbers: of landmarks.

        Returns:
            The new search.

        Raises:
            InputError: none, or one outside the range of `Kernel`.
        """
        if not numbers:
            raise InputError("`landmarks` must hold at least one number to try; got none.")
        kernels = itertools.product(self.kernels, numbers)
        return replace(self, kernels=tuple(dict.fromkeys(replace(kernel, landmarks=number) for kernel, number in kernels)))


STARTING = Search(
    heads=("kernel",),
    kernels=(Kernel(power=2), Kernel(power=4), Kernel("rbf", power=1)),
    ridges=(0.1, 0.3, 1.0, 3.0),
    powers=(0.5, 1.0, 2.0),
)
"""A smaller search, for a start from which training goes on: the one that the learning curves of docs/canonical.md make."""


@dataclass(frozen=True)
class Choice:
    """What `fit_canonical` chose.

    Attributes:
        settings: the best.
        best: their mean reciprocal rank on validation items, over all queries of the directions between two modalities; the
            mean over the folds where there are folds.
        records: one per combination: the settings, and "validation/mrr".
        broken: the cells that could not be read, each once; they counted as missing.
    """

    settings: Settings
    best: float
    records: list[dict[str, Any]]
    broken: list[Broken] = field(default_factory=list)

    @property
    def chosen(self) -> str:
        """What was chosen, in words."""
        return f"{self.settings}, the best of {len(self.records)} settings"


def fit_canonical(
    train: Table,
    validation: Table | None = None,
    *,
    search: Search | None = None,
    towers: Mapping[str, Tower] | None = None,
    matcher: Mapping[str, Any] | None = None,
    reading: Reading = Reading(),
    seed: int = 0,
    progress: bool = True,
) -> tuple[Aligner, Choice]:
    """An Aligner solved in closed form, with the settings that rank validation items best.

    The decompositions of a kernel are shared by all ridges, and a solution by all powers and widths. Of several processes each
    reads its share of the rows.

    Args:
        train: the training items; the Aligner is solved from all of them.
        validation: never the test split; without it the training items are divided into folds, by item.
        search: what to try; see `Search`.
        towers: modality → the frozen tower of a column of raw cells; every such column needs one.
        matcher: options of a `Matcher`, see `Aligner.for_table`.
        reading: how raw cells are read.
        seed: of landmarks and folds.
        progress: show a progress bar.

    Returns:
        The Aligner, on the CPU, in evaluation mode; and the `Choice`.

    Raises:
        InputError: fewer than two items that share two modalities, columns and towers that do not fit.
    """
    search = search or Search()
    train = train.has_any()
    if validation is None:
        parts = list(_folds(train, search.folds, seed))
    else:
        parts = [(train, validation.select(*train.modalities).has_any())]
    options: dict[str, Any] = {"towers": towers, "seed": seed}
    scores: dict[Settings, list[float]] = defaultdict(list)
    broken: dict[tuple[str, str], Broken] = {}

    def encoded(table: Table, fitted: Table) -> EncodedRows:
        return EncodedRows(Towers.for_table(fitted, towers), table, reading)

    def note(*passes: EncodedRows) -> None:
        broken.update({(cell.modality, cell.id): cell for rows in passes for cell in rows.broken})

    with progress_bar(progress and is_main_process(), note=True) as bar:
        maps = list(search.maps(len(train)))
        winner: tuple[float, _Trial] | None = None  # where one split validates, so that nothing is analysed again
        task = bar.add_task("canonical", total=len(parts) * len(maps), note="")
        for fitted, held_out in parts:
            if paired_items(held_out) < 2:
                raise InputError("`validation` must hold two items that share two modalities. Pass more, or fewer folds.")
            shown = drawn(held_out, VALIDATED, seed)
            rows, shown_rows = encoded(fitted, fitted), encoded(shown, fitted)
            for head, kernel in maps:
                trial = _Trial(fitted, rows, head, kernel, options)
                trial.show(shown_rows, shown.item_ids)
                found = dict(trial.scores(search))
                for settings, score in found.items():
                    scores[settings].append(score)
                trial.batches.clear()
                if validation is not None and (winner is None or max(found.values()) > winner[0]):
                    winner = max(found.values()), trial
                bar.advance(task)
            note(rows, shown_rows)
        means = {settings: sum(of_folds) / len(of_folds) for settings, of_folds in scores.items()}
        best = max(means, key=lambda settings: means[settings])
        if winner is None:  # no fold has all training items
            rows = encoded(train, train)
            winner = means[best], _Trial(train, rows, best.head, best.kernel, options)
            note(rows)
        aligner = winner[1].aligner(best, search.criterion, matcher)
    records = [{**asdict(settings), "validation/mrr": mean} for settings, mean in means.items()]
    return aligner, Choice(best, means[best], records, list(broken.values()))


class _Trial:
    """One kind of head: the analysis of the training items, and what the heads read of the validation items."""

    def __init__(self, train: Table, rows: EncodedRows, head: HeadName, kernel: Kernel, options: dict[str, Any]) -> None:
        self.train, self.head, self.kernel = train, head, kernel
        self.options = options | {"head": head, "kernel": kernel, "rows": rows}
        self.heads = Aligner.for_table(train, dim=1, **self.options).named_heads()
        self.analysis = Analysis(moments_of(rows, self.heads))
        self.batches: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
        self.item_ids: Sequence[str] | None = None

    @torch.no_grad()
    def show(self, rows: EncodedRows, item_ids: Sequence[str] | None) -> None:
        """Keep what the heads read of this process's share of the validation items."""
        for columns in rows:
            values = {name: features_of(self.heads[name])(vectors).double() for name, (vectors, _) in columns.items()}
            self.batches.append((values, {name: mask for name, (_, mask) in columns.items()}))
        self.item_ids = None if item_ids is None else share(item_ids)

    def solution(self, ridge: float, dims: Sequence[int], criterion: Criterion) -> Iterator[tuple[int, Solution]]:
        """Widths, and a solution of at least as many components as it has."""
        if criterion == "maxvar":  # a narrower space has the leading components of a wider one
            solution = self.analysis.solve(ridge=ridge)
            yield from ((dim, solution) for dim in dims)
        else:
            most = min(len(spectrum) for spectrum in self.analysis.spectra.values())
            solutions = {
                dim: self.analysis.solve(dim, ridge=ridge, criterion=criterion) for dim in {min(d, most) for d in dims}
            }
            yield from ((dim, solutions[min(dim, most)]) for dim in dims)

    def scores(self, search: Search) -> Iterator[tuple[Settings, float]]:
        """Every combination with this kind of head, and its mean reciprocal rank."""
        for ridge in search.ridges:
            known: dict[tuple[int, float], float] = {}
            for (dim, solution), power in itertools.product(
                list(self.solution(ridge, search.dims, search.criterion)), search.powers
            ):
                key = min(dim, len(solution.values)), power
                if key not in known:
                    known[key] = self._score(solution, *key)
                yield Settings(self.head, self.kernel, ridge, power, dim), known[key]

    def _score(self, solution: Solution, dim: int, power: float) -> float:
        heads = {name: solution.head(name, power=power, dim=dim) for name in solution.directions}
        bundles = []
        for values, masks in self.batches:
            projected = {name: values[name] @ heads[name].weight + heads[name].bias for name in values}
            bundles.append(Bundle.from_dict(projected, present=masks, check=False))
        bundle = Bundle.cat(bundles)
        if self.item_ids is not None:
            bundle = replace(bundle, item_ids=read_ids(self.item_ids, len(bundle)).to(bundle.vectors.device))
        return mean_reciprocal_rank(all_ranks(gather(bundle)))

    def aligner(self, settings: Settings, criterion: Criterion, matcher: Mapping[str, Any] | None) -> Aligner:
        """The Aligner with these settings."""
        ((dim, solution),) = self.solution(settings.ridge, [settings.dim], criterion)
        dim = min(dim, len(solution.values))
        aligner = Aligner.for_table(self.train, dim=dim, matcher=matcher, **self.options)
        fill_heads(aligner.named_heads(), solution, settings.power)
        return aligner.eval()


def _folds(table: Table, folds: int, seed: int) -> Iterator[tuple[Table, Table]]:
    """Each part of the items, after the others."""
    items = shuffled_items(table, seed)
    if len(items) < 2 * folds:
        raise InputError(f"`train` must hold at least {2 * folds} items for {folds} folds; got {len(items)}. Lower `folds`.")
    fold_of = {name: place % folds for place, name in enumerate(items)}
    owner = torch.tensor([fold_of[name] for name in table.item_ids or table.ids])
    for fold in range(folds):
        yield table[owner != fold], table[owner == fold]
