"""`compare`: which of several evaluations of the same items is better, and how sure that is.

Recall is averaged over the directions that all runs have, and compared in pairs of one query each. Differences have Bonett and
Price's interval over items; p-values are those of a permutation test that swaps the two runs' results item by item, corrected
by Holm (1979) for the number of pairs. Runs that cannot be told apart share a letter (Piepho 2004).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gramian.errors import InputError, check_choice, check_number, listing, require
from gramian.evaluation.metrics import hits_at_k
from gramian.evaluation.ranks_file import RankedDirection, Way, read_ranks
from gramian.evaluation.stats import Interval, difference_interval, share_interval
from gramian.files import write_text
from gramian.sheets import Sheet

__all__ = ["DIRECTIONS", "Comparison", "Directions", "Pair", "compare", "groups", "holm"]

Directions: TypeAlias = Literal["singles", "joint", "all"]
DIRECTIONS: tuple[Directions, ...] = ("singles", "joint", "all")

LEVEL = 0.05
SWAPS = 9999
"""Random swaps of the permutation test; where fewer are possible, all of them are tried."""


@dataclass(frozen=True)
class Pair:
    """Two runs on the same queries.

    Attributes:
        better: the run with the higher mean recall.
        worse: the other.
        difference: of the mean recall, paired by query, with its 95 % interval over items.
        p: of the permutation test, corrected for the number of pairs that are compared.
    """

    better: str
    worse: str
    difference: Interval
    p: float

    @property
    def differ(self) -> bool:
        """Whether the two can be told apart at the 5 % level."""
        return self.p < LEVEL

    def sentence(self, k: int, items: int) -> str:
        """What the figures allow to say."""
        if self.differ:
            return (
                f"{self.better} beats {self.worse}: {self.difference.percent()} points of R@{k} on {items} items "
                f"(p {_p(self.p)})."
            )
        most = 100 * max(abs(self.difference.low), abs(self.difference.high))
        return (
            f"{self.better} and {self.worse} cannot be told apart on {items} items: {self.difference.percent()} points of "
            f"R@{k} (p {_p(self.p)}). They may differ by up to {most:.1f}."
        )


@dataclass(frozen=True)
class Comparison:
    """Several runs, compared in pairs.

    Attributes:
        recall: run → mean R@k over the directions, with its interval; the best first.
        pairs: every two of them.
        letters: run → letters, of which runs that cannot be told apart share one.
        ways: the directions that were averaged.
        by_way: for each direction and pair, the better run's R@k minus the worse one's.
        k: cut-off of the recall.
        items: number of different items.
        galleries: smallest and largest gallery.
    """

    recall: dict[str, Interval]
    pairs: tuple[Pair, ...]
    letters: dict[str, str]
    ways: tuple[Way, ...]
    by_way: dict[tuple[Way, str, str], Interval]
    k: int
    items: int
    galleries: tuple[int, int]

    def sheets(self) -> list[Sheet]:
        """The comparison as tables, for the terminal and for Markdown."""
        sizes = dict.fromkeys(self.galleries)
        over = f"Mean R@{self.k} in % over {len(self.ways)} directions, {self.items} items, gallery {'–'.join(map(str, sizes))}"
        rows = tuple((name, value.percent(), self.letters[name]) for name, value in self.recall.items())
        note = f"{over}; 95 % intervals over items. Runs that share a letter cannot be told apart."
        sheets = [Sheet("Runs", ("run", f"R@{self.k} [95 %]", "group"), rows, note)]
        compared = tuple((p.better, p.worse, p.difference.percent(), _p(p.p), "yes" if p.differ else "no") for p in self.pairs)
        note = (
            f"Differences are paired by query; p of a permutation test over items, corrected by Holm for {len(self.pairs)} "
            f"{'pair' if len(self.pairs) == 1 else 'pairs'}."
        )
        sheets.append(Sheet("Pairs", ("run", "against", f"Δ R@{self.k} [95 %]", "p", "differ"), compared, note))
        if len(self.pairs) == 1:
            each = tuple((str(way), value.percent()) for (way, _, _), value in self.by_way.items())
            note = (
                f"{self.pairs[0].better} minus {self.pairs[0].worse}; intervals are not corrected for the number of directions."
            )
            sheets.append(Sheet("Directions", ("direction", f"Δ R@{self.k} [95 %]"), each, note))
        return sheets

    def sentences(self) -> list[str]:
        """What the figures allow to say of each pair."""
        return [pair.sentence(self.k, self.items) for pair in self.pairs]

    def to_dict(self) -> dict[str, object]:
        """Everything as plain numbers, lists and dicts; shares in [0, 1]."""
        return {
            "k": self.k,
            "items": self.items,
            "galleries": list(self.galleries),
            "directions": [way._asdict() for way in self.ways],
            "runs": {name: {"recall": value._asdict(), "group": self.letters[name]} for name, value in self.recall.items()},
            "pairs": [
                {
                    "better": pair.better,
                    "worse": pair.worse,
                    "difference": pair.difference._asdict(),
                    "p": pair.p,
                    "differ": pair.differ,
                    "sentence": pair.sentence(self.k, self.items),
                }
                for pair in self.pairs
            ],
        }

    def markdown(self) -> str:
        """The comparison as a Markdown page."""
        said = "".join(f"- {sentence}\n" for sentence in self.sentences())
        return "\n".join(["# Comparison\n", said, *(sheet.markdown() for sheet in self.sheets())])

    def save(self, folder: str | Path) -> list[Path]:
        """Write `comparison.json` and `comparison.md` into `folder`; return their paths."""
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"
        return [
            write_text(Path(folder) / "comparison.json", text),
            write_text(Path(folder) / "comparison.md", self.markdown()),
        ]


def compare(
    runs: Mapping[str, str | Path | Mapping[Way, RankedDirection]],
    *,
    k: int = 1,
    directions: Directions = "singles",
    seed: int = 0,
) -> Comparison:
    """Compare evaluations of the same queries and galleries in pairs.

    Args:
        runs: name → the folder of an evaluation or a training run, or its ranks.
        k: cut-off of the recall.
        directions: which of the directions that all runs have are averaged: between two modalities ("singles"), those of
            several modalities together ("joint"), or all.
        seed: of the permutation test.

    Returns:
        The Comparison.

    Raises:
        InputError: fewer than two runs, runs without a common direction, or of other queries or galleries.
    """
    require("scipy")
    check_number("k", k, "[1, inf)", integer=True)
    check_choice("directions", directions, DIRECTIONS)
    if len(runs) < 2:
        raise InputError(f"`runs` must be two or more to compare; got {', '.join(runs) or 'none'}.")
    ranked = {name: run if isinstance(run, Mapping) else read_ranks(run) for name, run in runs.items()}
    first = next(iter(ranked.values()))
    ways = tuple(
        way
        for way in first
        if all(way in run for run in ranked.values()) and directions in ("all", ("singles", "joint")[way.joint])
    )
    if not ways:
        what = "" if directions == "all" else f" ({directions})"
        raise InputError(f"`runs` must have a direction{what} in common; {listing(runs)} have none.")
    rows, items = _queries(ranked, ways)
    tables = {name: _hits(run, ways, rows, k) for name, run in ranked.items()}
    recall = {name: share_interval(table, items) for name, table in tables.items()}
    order = sorted(recall, key=lambda name: -recall[name].value)
    pairs = list(combinations(order, 2))
    differences = [tables[a] - tables[b] for a, b in pairs]
    corrected = holm([_permutation_p(values, items, seed) for values in differences])
    compared = tuple(
        Pair(a, b, difference_interval(values, items), p)
        for (a, b), values, p in zip(pairs, differences, corrected, strict=True)
    )
    galleries = [first[way].gallery for way in ways]
    return Comparison(
        recall={name: recall[name] for name in order},
        pairs=compared,
        letters=groups(order, {(pair.better, pair.worse) for pair in compared if pair.differ}),
        ways=ways,
        by_way={
            (way, a, b): difference_interval(values[i], items)
            for (a, b), values in zip(pairs, differences, strict=True)
            for i, way in enumerate(ways)
        },
        k=k,
        items=len(np.unique(items)),
        galleries=(min(galleries), max(galleries)),
    )


def _queries(
    ranked: Mapping[str, Mapping[Way, RankedDirection]], ways: Sequence[Way]
) -> tuple[dict[str, int], NDArray[np.int64]]:
    """Id → column of every query, and the item of each column; the runs have the same queries and galleries."""
    (name, first), *others = ranked.items()
    for way in ways:
        for other, run in others:
            ids, own = set(first[way].ids), set(run[way].ids)
            if ids != own:
                raise InputError(
                    f"`runs` must be of the same test items: of {way}, {name} has {len(ids)} queries and {other} {len(own)}, "
                    f"{len(ids & own)} of them in both. Evaluate both on one table and split."
                )
            if first[way].gallery != run[way].gallery:
                raise InputError(
                    f"`runs` must have the same candidates: of {way}, {name} has a gallery of {first[way].gallery} and {other} "
                    f"of {run[way].gallery}. Evaluate both on one table and split."
                )
    item_of: dict[str, str] = {}
    for way in ways:
        item_of.update(zip(first[way].ids, first[way].items, strict=True))
    return {query: i for i, query in enumerate(item_of)}, np.unique(list(item_of.values()), return_inverse=True)[1].reshape(-1)


def _hits(run: Mapping[Way, RankedDirection], ways: Sequence[Way], rows: Mapping[str, int], k: int) -> NDArray[np.float64]:
    """Whether each query found its match among the best k, (directions, queries); NaN where it was not asked."""
    table = np.full((len(ways), len(rows)), np.nan)
    for i, way in enumerate(ways):
        table[i, [rows[query] for query in run[way].ids]] = hits_at_k(run[way].ranks, k)
    return table


def _permutation_p(values: NDArray[np.float64], items: NDArray[np.int64], seed: int) -> float:
    """Two-sided p of the mean of paired differences (directions, queries) if each item's sign were a toss of a coin."""
    from scipy.stats import permutation_test

    counts = np.maximum((~np.isnan(values)).sum(1, keepdims=True), 1)
    totals = np.bincount(items, (np.nan_to_num(values) / counts).sum(0))
    totals = totals[totals != 0] / np.abs(totals).max(initial=np.finfo(float).tiny)  # swapping equals changes nothing
    if len(totals) < 2:
        return 1.0
    test = permutation_test(
        (totals, np.zeros_like(totals)),
        lambda a, b, axis: np.abs((a - b).sum(axis)).round(9),  # sums that are equal but for rounding tie
        permutation_type="samples",
        alternative="greater",
        vectorized=True,
        n_resamples=SWAPS,
        batch=max(1, 10**6 // len(totals)),
        rng=np.random.default_rng(seed),
    )
    return float(test.pvalue)


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected by Holm's step-down procedure: the family's error rate stays at the level of the test.

    Args:
        p: of each test.

    Returns:
        The corrected values, in the same order, at most 1.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p, kind="stable")
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(1, np.maximum.accumulate(np.asarray(p)[order] * np.arange(len(p), 0, -1)))
    return [float(value) for value in corrected]


def groups(names: Sequence[str], different: set[tuple[str, str]]) -> dict[str, str]:
    """Letters of groups: two names share one exactly where they cannot be told apart.

    Args:
        names: the best first.
        different: pairs that can be told apart.

    Returns:
        Name → letters, "a" the group of the best.

    Source: Piepho, "An algorithm for a letter-based representation of all-pairwise comparisons", 2004.

    >>> groups(["x", "y", "z"], {("x", "z")})
    {'x': 'a', 'y': 'ab', 'z': 'b'}
    """
    columns = [set(names)]
    for first, second in different:
        for column in [column for column in columns if {first, second} <= column]:
            columns.remove(column)
            columns += [column - {first}, column - {second}]
        columns = [
            column
            for i, column in enumerate(columns)
            if not any(column < other or (column == other and i > j) for j, other in enumerate(columns))
        ]
    place = {name: i for i, name in enumerate(names)}
    columns.sort(key=lambda column: sorted(place[name] for name in column))
    return {name: "".join(_letter(i) for i, column in enumerate(columns) if name in column) for name in names}


def _letter(i: int) -> str:
    return "abcdefghijklmnopqrstuvwxyz"[i] if i < 26 else f"({i + 1})"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
