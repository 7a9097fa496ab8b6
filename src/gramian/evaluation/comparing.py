"""`compare`: which of several evaluations of the same items is better, and how sure that is.

Recall, or MRR, is averaged over the directions that all runs have, and compared in pairs of one query each; accuracy over the
methods and sets of modalities by which all runs tell the classes, in pairs of one item each. Differences have Bonett and
Price's interval over items; p-values are those of a permutation test that swaps the two runs' results item by item, corrected
by Holm (1979) for the number of pairs. Runs that cannot be told apart share a letter (Piepho 2004).

A run may be several, one per seed. On the same test items the seeds are a level above the items; p is then the larger of the
permutation's and of that which the interval over items and seeds implies. On splits of their own, which overlap, the mean of
the splits' differences has the variance of Nadeau and Bengio (2003).

Over 400 lines, most of them docstrings: the comparison of runs, with the records and sheets that it makes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gramian.errors import InputError, check_choice, check_number, listing, require
from gramian.evaluation.metrics import Ranks, hits_at_k, reciprocal_ranks
from gramian.evaluation.ranks_file import CLASSES, NAME, RankedDirection, Way, read_ranks
from gramian.evaluation.significance import TESTS, Test, bootstrap_p, groups, holm, interval_p, permutation_p
from gramian.evaluation.stats import Interval, difference_interval, resampled_interval, share_interval
from gramian.files import read_json, write_text
from gramian.sheets import Sheet

__all__ = ["DIRECTIONS", "METRICS", "Comparison", "Directions", "Metric", "Pair", "compare"]

Directions: TypeAlias = Literal["singles", "joint", "all"]
DIRECTIONS: tuple[Directions, ...] = ("singles", "joint", "all")

Metric: TypeAlias = Literal["recall", "mrr", "accuracy"]
METRICS: tuple[Metric, ...] = ("recall", "mrr", "accuracy")
"""R@k and the mean of 1/rank of retrieval; the share of the items whose class is among the best k."""

LEVEL = 0.05


@dataclass(frozen=True)
class Pair:
    """Two runs on the same queries.

    Attributes:
        better: the run with the higher mean.
        worse: the other.
        difference: of the means, paired by query, with its 95 % interval over items.
        p: of the test, corrected for the number of pairs that are compared.
    """

    better: str
    worse: str
    difference: Interval
    p: float

    @property
    def differ(self) -> bool:
        """Whether the two can be told apart at the 5 % level."""
        return self.p < LEVEL

    def sentence(self, measure: str, items: int) -> str:
        """What the figures allow to say.

        Args:
            measure: what was compared: `Comparison.measure`.
            items: number of different items.

        Returns:
            One sentence.
        """
        if self.differ:
            return (
                f"{self.better} beats {self.worse}: {self.difference.percent()} points of {measure} on {items} items "
                f"(p {_p(self.p)})."
            )
        most = 100 * max(abs(self.difference.low), abs(self.difference.high))
        return (
            f"{self.better} and {self.worse} cannot be told apart on {items} items: {self.difference.percent()} points of "
            f"{measure} (p {_p(self.p)}). They may differ by up to {most:.1f}."
        )


@dataclass(frozen=True)
class Comparison:
    """Several runs, compared in pairs.

    Attributes:
        recall: run → mean over the directions of R@k, or of `metric`, with its interval; the best first.
        pairs: every two of them.
        letters: run → letters, of which runs that cannot be told apart share one.
        ways: the directions that were averaged.
        by_way: for each direction and pair, the better run's R@k minus the worse one's.
        k: cut-off of the recall or of the accuracy.
        items: number of different items.
        galleries: smallest and largest gallery.
        seeds: of each run.
        splits: different splits that the seeds have.
        test: by which the pairs were tested, in words.
        metric: what was compared.
    """

    recall: dict[str, Interval]
    pairs: tuple[Pair, ...]
    letters: dict[str, str]
    ways: tuple[Way, ...]
    by_way: dict[tuple[Way, str, str], Interval]
    k: int
    items: int
    galleries: tuple[int, int]
    seeds: int = 1
    splits: int = 1
    test: str = "a permutation test over items"
    metric: Metric = "recall"

    @property
    def measure(self) -> str:
        """What was compared, in words: R@1, MRR, accuracy."""
        if self.metric == "accuracy":
            return "accuracy" if self.k == 1 else f"top-{self.k} accuracy"
        return "MRR" if self.metric == "mrr" else f"R@{self.k}"

    def sheets(self) -> list[Sheet]:
        """The comparison as tables, for the terminal and for Markdown."""
        sizes = dict.fromkeys(self.galleries)
        ends = "–".join(map(str, sizes))
        told = self.metric == "accuracy"
        over = f"Mean {self.measure} in % over {len(self.ways)} {'ways to tell the class' if told else 'directions'}"
        over += f", {self.items} items, {f'{ends} classes' if told else f'gallery {ends}'}"
        rows = tuple((name, value.percent(), self.letters[name]) for name, value in self.recall.items())
        above = (
            ""
            if self.seeds == 1
            else f" and {self.seeds} seeds"
            if self.splits == 1
            else f" of {self.splits} splits that overlap"
        )
        note = f"{over}; 95 % intervals over items{above}. Runs that share a letter cannot be told apart."
        sheets = [Sheet("Runs", ("run", f"{self.measure} [95 %]", "group"), rows, note)]
        compared = tuple((p.better, p.worse, p.difference.percent(), _p(p.p), "yes" if p.differ else "no") for p in self.pairs)
        note = (
            f"Differences are paired by query; p of {self.test}, corrected by Holm for {len(self.pairs)} "
            f"{'pair' if len(self.pairs) == 1 else 'pairs'}."
        )
        sheets.append(Sheet("Pairs", ("run", "against", f"Δ {self.measure} [95 %]", "p", "differ"), compared, note))
        if len(self.pairs) == 1:
            each = tuple((str(way), value.percent()) for (way, _, _), value in self.by_way.items())
            note = (
                f"{self.pairs[0].better} minus {self.pairs[0].worse}; intervals are not corrected for the number of directions."
            )
            sheets.append(Sheet("Directions", ("direction", f"Δ {self.measure} [95 %]"), each, note))
        return sheets

    def sentences(self) -> list[str]:
        """What the figures allow to say of each pair."""
        return [pair.sentence(self.measure, self.items) for pair in self.pairs]

    def to_dict(self) -> dict[str, object]:
        """Everything as plain numbers, lists and dicts; shares in [0, 1]."""
        return {
            "metric": self.metric,
            "k": self.k,
            "items": self.items,
            "seeds": self.seeds,
            "splits": self.splits,
            "test": self.test,
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
                    "sentence": pair.sentence(self.measure, self.items),
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


Ranked: TypeAlias = Mapping[Way, RankedDirection]
"""One evaluation: its directions."""


def compare(
    runs: Mapping[str, str | Path | Ranked | Sequence[Ranked]],
    *,
    metric: Metric = "recall",
    k: int = 1,
    directions: Directions | None = None,
    scores: Sequence[str] | None = None,
    test: Test = "permutation",
    train_items: int | None = None,
    seed: int = 0,
) -> Comparison:
    """Compare evaluations of the same queries and galleries in pairs.

    Args:
        runs: name → the folder of an evaluation or a training run, or its ranks; or a folder that holds several of them, or
            their ranks one after the other, one per seed. All runs have as many seeds, paired in the order of their names, or
            one.
        metric: "recall" (R@k), "mrr" (mean of 1/rank), or "accuracy" of a classification, which `gramian evaluate --classify`
            keeps in `classes.parquet`.
        k: cut-off of the recall; for accuracy how many classes may be named.
        directions: which of the directions that all runs have are averaged: between two modalities ("singles"), those of
            several modalities together ("joint"), or all. By default the singles, of accuracy all.
        scores: of the directions that are averaged, such as "span", or methods that tell classes, such as "linear probe"; all
            by default.
        test: of the differences, over items: "permutation" or "bootstrap".
        train_items: that each seed was trained on, where every seed has a split of its own; by default what the `splits.json`
            of `gramian train` says.
        seed: of the test.

    Returns:
        The Comparison.

    Raises:
        InputError: fewer than two runs, runs without a common direction, of other queries or galleries, or of other numbers of
            seeds.
    """
    require("scipy")
    check_number("k", k, "[1, inf)", integer=True)
    check_choice("metric", metric, METRICS)
    directions = directions or ("all" if metric == "accuracy" else "singles")
    check_choice("directions", directions, DIRECTIONS)
    check_choice("test", test, TESTS)
    check_number("train_items", train_items, "[1, inf)", integer=True, optional=True)
    if len(runs) < 2:
        raise InputError(f"`runs` must be two or more to compare; got {', '.join(runs) or 'none'}.")
    file = CLASSES if metric == "accuracy" else NAME
    read = {name: _read(run, file) for name, run in runs.items()}
    ranked = {name: [one for one, _ in seeds] for name, seeds in read.items()}
    first = next(iter(ranked.values()))[0]
    ways = tuple(
        way
        for way in first
        if all(way in one for seeds in ranked.values() for one in seeds)
        and directions in ("all", ("singles", "joint")[way.joint])
        and (scores is None or way.score in scores or way.score.partition(",")[0] in scores)
    )
    if not ways:
        what = "" if directions == "all" else f" ({directions})"
        if scores is not None:
            what += f" by {' or '.join(scores)}"
        own = [f"{name} {listing(dict.fromkeys(way.score for way in seeds[0]))}" for name, seeds in ranked.items()]
        raise InputError(f"`runs` must have a direction{what} in common; they have directions by: {'; '.join(own)}.")
    value = reciprocal_ranks if metric == "mrr" else partial(hits_at_k, k=k)
    counts = {name: len(seeds) for name, seeds in ranked.items()}
    most = max(counts.values())
    if {*counts.values()} - {1, most}:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise InputError(f"`runs` must have as many seeds each, or one; got {listed}. Leave some out.")
    apart = most > 1 and any({*one[ways[0]].ids} != {*seeds[0][ways[0]].ids} for seeds in ranked.values() for one in seeds[1:])
    if apart and min(counts.values()) < most:
        raise InputError(
            "`runs` must have a split for each seed, or all the same; one has a single split. Evaluate it on each."
        )
    sizes = _Sizes.of(first, ways)
    if apart:
        parts = []
        for place in range(most):
            of_split = {name: [seeds[place]] for name, seeds in ranked.items()}
            parts.append(_tables(of_split, ways, value))
            sizes = sizes.joined(_Sizes.of(next(iter(of_split.values()))[0], ways))
        ratio = sizes.items / (train_items or _trained_on([path for _, path in next(iter(read.values()))]))
        means = {name: np.array([_by_way(tables[name]) for tables, _ in parts]) for name in ranked}
        recall = {name: resampled_interval(values.mean(1), ratio, low=0, high=1)[0] for name, values in means.items()}
    else:
        tables, items = _tables(ranked, ways, value)
        recall = {name: share_interval(table, items) for name, table in tables.items()}
    order = sorted(recall, key=lambda name: -recall[name].value)
    pairs = list(combinations(order, 2))
    by_way: dict[tuple[Way, str, str], Interval] = {}
    tested: list[tuple[Interval, float]] = []
    for a, b in pairs:
        if apart:
            values = means[a] - means[b]
            tested.append(resampled_interval(values.mean(1), ratio, low=-1, high=1))
            by_way |= {(way, a, b): resampled_interval(values[:, i], ratio, low=-1, high=1)[0] for i, way in enumerate(ways)}
        else:
            values = tables[a] - tables[b]
            p = (bootstrap_p if test == "bootstrap" else permutation_p)(values, items, seed)
            if most > 1:
                p = max(p, interval_p(values, items))
            tested.append((difference_interval(values, items), p))
            by_way |= {(way, a, b): difference_interval(values[:, [i]], items) for i, way in enumerate(ways)}
    corrected = holm([p for _, p in tested])
    compared = tuple(Pair(a, b, difference, p) for (a, b), (difference, _), p in zip(pairs, tested, corrected, strict=True))
    return Comparison(
        recall={name: recall[name] for name in order},
        pairs=compared,
        letters=groups(order, {(pair.better, pair.worse) for pair in compared if pair.differ}),
        ways=ways,
        by_way=by_way,
        k=k,
        items=sizes.items,
        galleries=sizes.galleries,
        seeds=most,
        splits=most if apart else 1,
        test="Student's t of Nadeau and Bengio over splits" if apart else f"a {test} test over items",
        metric=metric,
    )


class _Sizes(NamedTuple):
    """How many items there are, and the smallest and largest gallery."""

    items: int
    galleries: tuple[int, int]

    @staticmethod
    def of(run: Ranked, ways: Sequence[Way]) -> _Sizes:
        galleries = [run[way].gallery for way in ways]
        return _Sizes(len({item for way in ways for item in run[way].items}), (min(galleries), max(galleries)))

    def joined(self, other: _Sizes) -> _Sizes:
        ends = (*self.galleries, *other.galleries)
        return _Sizes(max(self.items, other.items), (min(ends), max(ends)))


def _read(run: str | Path | Ranked | Sequence[Ranked], file: str) -> list[tuple[Ranked, Path | None]]:
    """The evaluations of a run, one per seed, and their folders."""
    if isinstance(run, Mapping):
        return [(run, None)]
    if not isinstance(run, str | Path):
        return [(one, None) for one in run]
    folder = Path(run)
    if folder.is_dir() and not (folder / file).exists():
        seeds = sorted(path for path in folder.iterdir() if (path / file).is_file())
        if seeds:
            return [(read_ranks(path, file), path) for path in seeds]
    return [(read_ranks(run, file), folder)]


def _trained_on(folders: Sequence[Path | None]) -> float:
    """The mean number of items that the seeds were trained on, by what `gramian train` wrote beside their ranks or above."""
    counts = []
    for folder in folders:
        for place in () if folder is None else (folder, folder.parent):
            try:
                counts.append(len(read_json(place / "splits.json")["train"]))
                break
            except (InputError, OSError, KeyError, TypeError):
                continue
    if len(counts) < len(folders) or not min(counts, default=0):
        raise InputError(
            "`train_items` must say how many items each seed was trained on, for its splits overlap; there is no splits.json. "
            "Add --train-items NUMBER."
        )
    return float(np.mean(counts))


def _tables(
    ranked: Mapping[str, Sequence[Ranked]], ways: Sequence[Way], value: Callable[[Ranks], NDArray[np.float64]]
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.int64]]:
    """Run → the value of each query, (seeds, directions, queries); and the item of each query."""
    flat = {f"{name}, seed {i}" if i else name: run for name, seeds in ranked.items() for i, run in enumerate(seeds)}
    rows, items = _queries(flat, ways)
    most = max(map(len, ranked.values()))
    tables = {name: np.stack([_values(run, ways, rows, value) for run in seeds]) for name, seeds in ranked.items()}
    return {name: np.broadcast_to(table, (most, *table.shape[1:])) for name, table in tables.items()}, items


def _by_way(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """(directions,) the mean of one seed's queries."""
    means: NDArray[np.float64] = np.nanmean(table[0], axis=1)
    return means


def _queries(ranked: Mapping[str, Ranked], ways: Sequence[Way]) -> tuple[dict[str, int], NDArray[np.int64]]:
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
            _check_labels(way, name, first[way], other, run[way])
    item_of: dict[str, str] = {}
    for way in ways:
        item_of.update(zip(first[way].ids, first[way].items, strict=True))
    return {query: i for i, query in enumerate(item_of)}, np.unique(list(item_of.values()), return_inverse=True)[1].reshape(-1)


def _check_labels(way: Way, name: str, one: RankedDirection, other: str, another: RankedDirection) -> None:
    """That two runs call the same items the same."""
    if one.labels is None and another.labels is None:
        return
    own, theirs = ({} if each.labels is None else dict(zip(each.ids, each.labels, strict=True)) for each in (one, another))
    apart = [query for query, label in own.items() if theirs.get(query) != label]
    if apart or not own:
        if not own or not theirs:
            raise InputError(f"`runs` must keep the class of each item; {other if own else name} does not. Evaluate it again.")
        raise InputError(
            f"`runs` must be of the same labels: of {way}, {len(apart)} of {len(own)} items have another class in {other} than "
            f"in {name}, such as {apart[0]!r}: {theirs[apart[0]]!r} and {own[apart[0]]!r}. Evaluate both on one table."
        )


def _values(
    run: Ranked, ways: Sequence[Way], rows: Mapping[str, int], value: Callable[[Ranks], NDArray[np.float64]]
) -> NDArray[np.float64]:
    """The value of each query, (directions, queries); NaN where it was not asked."""
    table = np.full((len(ways), len(rows)), np.nan)
    for i, way in enumerate(ways):
        table[i, [rows[query] for query in run[way].ids]] = value(run[way].ranks)
    return table


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
