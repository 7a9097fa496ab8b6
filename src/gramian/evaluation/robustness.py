"""What is left of retrieval when modalities are missing: curves, one modality left out, and how complete items are favoured."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gramian.bundle import Bundle
from gramian.errors import InputError, check_choices, check_number, check_type
from gramian.evaluation.directions import DEFAULT
from gramian.evaluation.metrics import hits_at_k
from gramian.evaluation.rankings import Names, Rankings
from gramian.evaluation.stats import Interval, difference_interval, share_interval
from gramian.kernels.ranks import top_k
from gramian.scores import SCORES, ScoreName
from gramian.sheets import Sheet

__all__ = ["DROPS", "TITLES", "Arity", "Curve", "LeftOut", "Robustness", "dropped_hits", "robustness"]

DROPS = tuple(tenth / 10 for tenth in range(10))
"""The shares of the cells that are dropped by default: 0 to 0.9."""

TITLES = ("R@1 as modalities are dropped", "One modality left out", "Complete and incomplete items")
"""Of the tables, in order."""

HALF = 0.5
"""The share at which complete and incomplete items are compared."""


@dataclass(frozen=True)
class Curve:
    """One score, as ever more cells are dropped.

    Attributes:
        score: its name.
        drops: shares of the cells that were dropped.
        recall: mean R@1 at each of them, with its interval over items.
    """

    score: str
    drops: tuple[float, ...]
    recall: tuple[Interval, ...]


@dataclass(frozen=True)
class LeftOut:
    """One score without one modality.

    Attributes:
        score: its name.
        modality: what every item lacks.
        recall: mean R@1 without it.
        difference: to the mean R@1 with it, paired by query.
    """

    score: str
    modality: str
    recall: Interval
    difference: Interval


@dataclass(frozen=True)
class Arity:
    """How one score treats complete and incomplete items of one gallery.

    Attributes:
        score: its name.
        complete: R@1 of the queries whose item has all modalities.
        incomplete: R@1 of those whose item lacks some.
        first: share of the queries whose best candidate has all modalities.
        expected: the share of the gallery that has.
    """

    score: str
    complete: Interval
    incomplete: Interval
    first: Interval
    expected: float


@dataclass(frozen=True)
class Robustness:
    """What is left of retrieval when modalities are missing.

    Attributes:
        curves: one per score.
        left_out: one per score and modality.
        arity: one per score.
        drop: the share of the cells that is dropped for `arity`.
        directions: how many are averaged.
        items: number of different items.
        seed: of the masks.
    """

    curves: tuple[Curve, ...]
    left_out: tuple[LeftOut, ...]
    arity: tuple[Arity, ...]
    drop: float
    directions: int
    items: int
    seed: int

    def to_dict(self) -> dict[str, object]:
        """Everything as plain numbers, lists and dicts; shares in [0, 1]."""
        return {
            "curves": [
                {"score": one.score, "drops": list(one.drops), "recall": [value._asdict() for value in one.recall]}
                for one in self.curves
            ],
            "left_out": [
                {
                    "score": one.score,
                    "modality": one.modality,
                    "recall": one.recall._asdict(),
                    "difference": one.difference._asdict(),
                }
                for one in self.left_out
            ],
            "arity": [
                {
                    "score": one.score,
                    "complete": one.complete._asdict(),
                    "incomplete": one.incomplete._asdict(),
                    "first": one.first._asdict(),
                    "expected": one.expected,
                }
                for one in self.arity
            ],
            "drop": self.drop,
            "directions": self.directions,
            "items": self.items,
            "seed": self.seed,
        }

    def sheets(self) -> list[Sheet]:
        """The results as tables."""
        over = f"mean of the {self.directions} directions between one modality and the others together"
        drops = self.curves[0].drops if self.curves else ()
        lines = tuple((f"{p:g}", *(one.recall[i].percent() for one in self.curves)) for i, p in enumerate(drops))
        note = (
            f"R@1 in %, {over}, {self.items} items. Each cell of the side of several modalities is dropped with probability p, "
            "by the same seeded masks for every score and model; an item with nothing left is not found, and asks for nothing."
        )
        sheets = [Sheet(TITLES[0], ("p", *(one.score for one in self.curves)), lines, note)]
        names = list(dict.fromkeys(one.modality for one in self.left_out))
        rows = []
        for score in dict.fromkeys(one.score for one in self.left_out):
            cells = {one.modality: f"{one.difference.percent()}" for one in self.left_out if one.score == score}
            rows.append((score, *(cells[name] for name in names)))
        note = f"Change of R@1 in points when every item lacks the modality, paired by query; {over}."
        sheets.append(Sheet(TITLES[1], ("score", *(f"without {name}" for name in names)), tuple(rows), note))
        lines = tuple(
            (
                one.score,
                one.complete.percent(),
                one.incomplete.percent(),
                f"{one.first.percent()} ({100 * one.expected:.1f})",
            )
            for one in self.arity
        )
        note = (
            f"One modality asks for the others together; p = {self.drop:g} of the candidates' cells are dropped. R@1 in % of "
            "the queries whose item is complete, and incomplete; then the share of complete items at rank 1, in brackets "
            "their share of the gallery. Above it a score favours complete items."
        )
        header = ("score", "R@1, complete", "R@1, incomplete", "complete first")
        sheets.append(Sheet(TITLES[2], header, lines, note))
        return sheets


def robustness(
    bundle: Bundle,
    *,
    scores: Sequence[ScoreName] = DEFAULT,
    drops: Sequence[float] = DROPS,
    arity: Sequence[ScoreName] | None = None,
    seed: int = 0,
    step: Callable[[], object] | None = None,
) -> Robustness:
    """Measure retrieval between each modality and all others together while ever more of these are missing.

    The masks depend on the row's number, the modality's name and the seed alone, so that every score and every model sees the
    same; a cell that is dropped at p is dropped at every larger p. The single modality is never dropped. The queries are those
    of p = 0 throughout: an item that has lost everything counts as not found.

    Args:
        bundle: n rows, m ≥ 3 modalities.
        scores: of the curves, by name.
        drops: shares of the cells to drop, in [0, 1).
        arity: scores whose treatment of complete and incomplete items is measured; by default all of `SCORES` that take tuples
            of m vectors.
        seed: of the masks.
        step: called after each of the `len(drops) + m + 1` steps, as for a progress bar.

    Returns:
        The Robustness.

    Raises:
        InputError: fewer than three modalities, an unknown score, a share outside [0, 1), or items that share too little.
    """
    check_type("bundle", bundle, Bundle, fix="An Aligner embeds a Table: aligner.embed(table).")
    check_choices("scores", scores, SCORES)
    for drop in drops:
        check_number("drops", drop, "[0, 1)")
    if len(bundle.modalities) < 3:
        raise InputError(f"`bundle` must have three modalities, for some to be dropped; got {', '.join(bundle.modalities)}.")
    check_number("seed", seed, "[0, 4294967296)", integer=True)
    step = step or (lambda: None)
    bundle = bundle.detach()
    whole = Rankings(bundle)
    ways = list(_ways(whole))
    if not ways:
        raise InputError("`bundle` has no two items that share a modality and one of the others; there is nothing to retrieve.")
    draws = _draws(bundle, seed)
    before = _hits(bundle, whole, ways, scores)
    recalls: list[list[Interval]] = [[] for _ in scores]
    for drop in drops:
        hits = _hits(_masked(bundle, draws >= drop), whole, ways, scores, bundle) if drop else before
        for row, table in zip(recalls, hits, strict=True):
            row.append(share_interval(table, whole.items))
        step()
    left_out: list[LeftOut] = []
    for place, name in enumerate(bundle.modalities):
        keep = np.ones_like(draws, bool)
        keep[:, place] = False
        others = [i for i, (query, target) in enumerate(ways) if name in max(query, target, key=len)]
        hits = _hits(_masked(bundle, keep), whole, [ways[i] for i in others], scores, bundle)
        for score, table, full in zip(scores, hits, before, strict=True):
            change = difference_interval(table - full[others], whole.items)
            left_out.append(LeftOut(score, name, share_interval(table, whole.items), change))
        step()
    halved = _masked(bundle, draws >= HALF)
    able = [name for name, one in SCORES.items() if len(bundle.modalities) <= one.most] if arity is None else arity
    arities = tuple(_arity(bundle, halved, whole, ways, score) for score in able)
    step()
    return Robustness(
        curves=tuple(Curve(score, tuple(drops), tuple(row)) for score, row in zip(scores, recalls, strict=True)),
        left_out=tuple(left_out),
        arity=arities,
        drop=HALF,
        directions=len(ways),
        items=len(np.unique(whole.items)),
        seed=seed,
    )


def dropped_hits(bundle: Bundle, score: ScoreName, drops: Sequence[float], *, seed: int = 0) -> NDArray[np.float64]:
    """Whether each row finds its item at rank 1 as cells are dropped, to compare models in pairs; see `robustness`.

    Args:
        bundle: n rows, m ≥ 3 modalities.
        score: of the directions between each modality and all others together.
        drops: shares of the cells to drop.
        seed: of the masks.

    Returns:
        (drops, directions, n) in [0, 1]; NaN where a row is no query.
    """
    bundle = bundle.detach()
    whole, draws = Rankings(bundle), _draws(bundle, seed)
    ways = list(_ways(whole))
    return np.stack([_hits(_masked(bundle, draws >= drop), whole, ways, [score], bundle)[0] for drop in drops])


def _ways(rankings: Rankings) -> Iterator[tuple[Names, Names]]:
    """Each modality → all others together, and back."""
    for name in rankings.bundle.modalities:
        others = tuple(other for other in rankings.bundle.modalities if other != name)
        if len(rankings.asked((name,), others)):
            yield (name,), others
            yield others, (name,)


def _draws(bundle: Bundle, seed: int) -> NDArray[np.float64]:
    """(n, m) in [0, 1): a cell is dropped at every p above its draw. A modality's draws do not depend on the others."""
    columns = [np.random.default_rng([seed, zlib.crc32(name.encode())]).random(len(bundle)) for name in bundle.modalities]
    return np.stack(columns, 1)


def _masked(bundle: Bundle, keep: NDArray[np.bool_]) -> Bundle:
    present = bundle.present & torch.from_numpy(keep).to(bundle.present.device)
    vectors = bundle.vectors.masked_fill(~present[..., None], 0)
    tokens = {
        name: type(column)(column.values, column.present & present[:, bundle.position(name), None])
        for name, column in bundle.tokens.items()
    }
    return Bundle(vectors, present, bundle.modalities, bundle.item_ids, tokens)


def _with_column(bundle: Bundle, name: str, source: Bundle) -> Bundle:
    """The Bundle with one modality as it is in `source`."""
    place = bundle.position(name)
    vectors, present = bundle.vectors.clone(), bundle.present.clone()
    vectors[:, place], present[:, place] = source.vectors[:, place], source.present[:, place]
    tokens = dict(bundle.tokens) | ({name: source.tokens[name]} if name in source.tokens else {})
    return Bundle(vectors, present, bundle.modalities, bundle.item_ids, tokens)


def _hits(
    bundle: Bundle,
    whole: Rankings,
    ways: Sequence[tuple[Names, Names]],
    scores: Sequence[ScoreName],
    source: Bundle | None = None,
) -> list[NDArray[np.float64]]:
    """For each score whether each query of `whole` finds its item, (directions, n); NaN where a row is no query.

    The single modality of a direction is as in `source`.
    """
    tables = [np.full((len(ways), len(bundle)), np.nan) for _ in scores]
    rankings: dict[str, Rankings] = {}
    for i, (query, target) in enumerate(ways):
        (name,) = min(query, target, key=len)
        if name not in rankings:
            rankings[name] = whole if source is None else Rankings(_with_column(bundle, name, source))
        rows = whole.asked(query, target)
        for score, table in zip(scores, tables, strict=True):
            table[i, rows] = 0
            if bool(rankings[name].bundle.has(*query).any()) and bool(rankings[name].bundle.has(*target).any()):
                ranked = rankings[name].rows(query, target, score)
                asked = rows[ranked.better[rows] >= 0]
                table[i, asked] = hits_at_k(ranked.at(asked), 1)
    return tables


@torch.no_grad()
def _arity(bundle: Bundle, halved: Bundle, whole: Rankings, ways: Sequence[tuple[Names, Names]], score: ScoreName) -> Arity:
    """Of the directions from one modality to the others, of which half are dropped."""
    complete, incomplete, first, shares = [], [], [], []
    for query, target in ways:
        if len(query) > 1:
            continue
        rankings = Rankings(_with_column(halved, query[0], bundle))
        rows = rankings.asked(query, target)
        if not len(rows):
            continue
        gallery = rankings.side(target)
        places = [halved.position(name) for name in target]
        whole_rows: NDArray[np.bool_] = np.all(rankings.bundle.present.cpu().numpy()[:, places], axis=1)
        hits = np.full((2, len(bundle)), np.nan)
        found = hits_at_k(rankings.rows(query, target, score).at(rows), 1)
        hits[0, rows], hits[1, rows] = np.where(whole_rows[rows], found, np.nan), np.where(whole_rows[rows], np.nan, found)
        complete.append(hits[0])
        incomplete.append(hits[1])
        queries, items = rankings.bundle[rows].select(*query), rankings.bundle[gallery.rows].select(*target)
        _, best = top_k(rankings.form(queries, items, score), 1)
        tops = np.full(len(bundle), np.nan)
        tops[rows] = whole_rows[gallery.rows[best[:, 0].cpu().numpy()]]
        first.append(tops)
        shares.append(float(whole_rows[gallery.rows].mean()))
    nothing = np.full(len(bundle), np.nan)
    found_whole, found_part, at_top = (
        share_interval(np.stack(each or [nothing]), whole.items) for each in (complete, incomplete, first)
    )
    return Arity(score, found_whole, found_part, at_top, float(np.mean(shares)) if shares else float("nan"))
