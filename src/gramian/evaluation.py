"""Every direction of retrieval in a Bundle: one modality → another, and subsets of modalities ↔ one; → `Report`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, permutations
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress, TaskID
from torch import Tensor

from gramian.bundle import Bundle
from gramian.errors import InputError, check_choice, some
from gramian.files import write_text
from gramian.geometry import volume
from gramian.metrics import (
    Ranks,
    antipodal_share,
    effective_rank,
    hits_at_k,
    hubness,
    mean_reciprocal_rank,
    median_rank,
    modality_gap,
    ranks,
    recall_at_k,
    uniformity,
)
from gramian.model.matcher import Matcher
from gramian.scores import SCORES, ScoreName, cosine
from gramian.sheets import Sheet
from gramian.stats import Interval, bootstrap_mean

__all__ = [
    "Direction",
    "Gain",
    "Report",
    "Reranked",
    "diagnostics",
    "evaluate",
    "hits",
    "reranked_directions",
    "single_directions",
    "subset_directions",
]

Names = tuple[str, ...]

T = TypeVar("T")

DEFAULT: tuple[ScoreName, ...] = ("span", "cone", "centroid", "cosine", "volume")
"""The scores of the joint directions that `evaluate` shows unless told otherwise; `SCORES` has more."""

DIAGNOSTICS_NOTE = (
    "Uniformity: 0 when all coincide, lower is more even. Modality gap: 0 when the centres coincide. Antipodal share: matched "
    "pairs with a negative cosine. Hubness: skewness of how often a candidate is among the best 10, 0 is none. 1 − volume: 1 "
    "when aligned up to signs; matched should be far above mismatched."
)

PAIRS = 4096  # of query and candidate that the matching head reads at a time
BLOCK = 1024  # queries ranked at a time: (BLOCK, n, m) products are what evaluation holds at most


@dataclass(frozen=True)
class Direction:
    """How the items with `query` find their own `target` among all items that have a target.

    Attributes:
        query: modalities of the queries, known together.
        target: modalities of the candidates, known together.
        score: name of the score.
        items: (q,) row numbers of the queries in the evaluated Bundle.
        ranks: of the q matches.
        gallery: number of candidates.
        incomplete: candidates or queries of the joint side with some of its modalities missing.
        left_out: items of the Bundle that cannot be asked: query or target missing.
    """

    query: Names
    target: Names
    score: str
    items: NDArray[np.int64]
    ranks: Ranks
    gallery: int
    incomplete: int
    left_out: int

    @property
    def name(self) -> str:
        """Such as "image+speech → text"."""
        return f"{'+'.join(self.query)} → {'+'.join(self.target)}"

    def recall(self, k: int) -> Interval:
        """R@k with its 95 % bootstrap interval over the queries."""
        return bootstrap_mean(hits_at_k(self.ranks, k))


@dataclass(frozen=True)
class Gain:
    """What a joint score finds beyond the best single modality, on the same queries and gallery.

    Attributes:
        joint: the direction under the joint score.
        single: the direction with that modality of the subset whose cosine alone finds most. It is chosen on these very
            queries, which flatters it: the gain is a cautious figure. Items without the modality cannot be found by it.
    """

    joint: Direction
    single: Direction

    @property
    def difference(self) -> Interval:
        """R@1 of the joint score minus that of the best single modality, paired by query."""
        return bootstrap_mean(hits_at_k(self.joint.ranks, 1) - hits_at_k(self.single.ranks, 1))

    @property
    def best_single(self) -> str:
        """The name of the best single modality."""
        return (self.single.query if len(self.joint.query) > 1 else self.single.target)[0]


@dataclass(frozen=True)
class Reranked:
    """What a matching head makes of the best k of a score, on the same queries and gallery.

    Attributes:
        first: the direction by the score alone.
        final: the best k of each query put in the order of the head; the others stay behind them as they were.
        k: how many were put in order; all candidates where there are fewer.
    """

    first: Direction
    final: Direction
    k: int

    @property
    def difference(self) -> Interval:
        """R@1 after minus before, paired by query."""
        return bootstrap_mean(hits_at_k(self.final.ranks, 1) - hits_at_k(self.first.ranks, 1))


@dataclass(frozen=True)
class Report:
    """The figures of one evaluation.

    Attributes:
        items: number of items in the Bundle.
        present: name → items that have the modality.
        ks: cut-offs of the recall.
        singles: directions between two modalities, by cosine.
        gains: directions between a subset and one modality, by each joint score.
        settings: what was evaluated, for the reader: data, split, model.
        diagnostics: the shape of the space, by name; see `diagnostics`.
        reranked: directions between an anchor and all other modalities, before and after a matching head.
    """

    items: int
    present: dict[str, int]
    ks: tuple[int, ...]
    singles: tuple[Direction, ...]
    gains: tuple[Gain, ...]
    settings: dict[str, str] = field(default_factory=dict)
    diagnostics: dict[str, float] = field(default_factory=dict)
    reranked: tuple[Reranked, ...] = ()

    @property
    def joints(self) -> tuple[Direction, ...]:
        """The directions of `gains`."""
        return tuple(gain.joint for gain in self.gains)

    def mean_recall(self, k: int) -> Interval:
        """Mean R@k over the single-modality directions, each weighing the same, with a 95 % interval over items."""
        return bootstrap_mean(hits(self.singles, self.items, k))

    def matrix(self, k: int) -> NDArray[np.float64]:
        """R@k of every direction between two modalities, (m, m): queries in rows; NaN where there is none."""
        names = list(self.present)
        values = np.full((len(names), len(names)), np.nan)
        for direction in self.singles:
            values[names.index(direction.query[0]), names.index(direction.target[0])] = recall_at_k(direction.ranks, k)
        return values

    def to_dict(self) -> dict[str, object]:
        """Everything as plain numbers, lists and dicts; shares in [0, 1]."""
        return {
            "settings": self.settings,
            "items": self.items,
            "present": self.present,
            "missing": {name: self.items - count for name, count in self.present.items()},
            "diagnostics": self.diagnostics,
            "mean_recall": {str(k): self.mean_recall(k)._asdict() for k in self.ks},
            "directions": [self._row(direction) for direction in self.singles]
            + [
                self._row(gain.joint)
                | {
                    "best_single": gain.best_single,
                    "best_single_recall_at_1": gain.single.recall(1).value,
                    "gain_at_1": gain.difference._asdict(),
                }
                for gain in self.gains
            ],
            "reranked": [
                self._row(each.final)
                | {
                    "best_k": each.k,
                    "embedding_only": {str(k): each.first.recall(k)._asdict() for k in self.ks},
                    "gain_at_1": each.difference._asdict(),
                }
                for each in self.reranked
            ],
        }

    def sheets(self, *, every_subset: bool = True) -> list[Sheet]:
        """The report as tables, for the terminal and for Markdown.

        Args:
            every_subset: False shows only the joint directions between one modality and all the others.
        """
        sizes = [direction.gallery for direction in self.singles]
        gallery = f"{min(sizes)}–{max(sizes)}" if min(sizes) < max(sizes) else str(sizes[0])
        means = [self.mean_recall(k) for k in self.ks]
        mean = ("mean", "", gallery, means[0].percent(), *(f"{100 * value.value:.1f}" for value in means[1:]), "")
        header = ("queries", "gallery", f"R@{self.ks[0]} [95 %]", *(f"R@{k}" for k in self.ks[1:]), "MdR")
        missing = ", ".join(f"{name} {self.items - count}" for name, count in self.present.items())
        sheets = [
            Sheet(
                "One modality → another, by cosine",
                ("direction", *header),
                (*((direction.name, *self._cells(direction)) for direction in self.singles), mean),
                f"{self.items} items; missing: {missing}. Recall in %, intervals over the queries; MdR is the median rank.",
            )
        ]
        size = len(self.present) if not every_subset else None
        gains = [gain for gain in self.gains if size in (None, len(gain.joint.query) + len(gain.joint.target))]
        if gains:
            rows = [
                (
                    gain.joint.name,
                    gain.joint.score,
                    *self._cells(gain.joint),
                    f"{gain.joint.incomplete}",
                    gain.best_single,
                    gain.difference.percent(),
                )
                for gain in gains
            ]
            note = (
                "Incomplete items lack some modality of the subset. The gain is R@1 over the best single modality on the same "
                "queries and gallery, paired."
            )
            if len(gains) < len(self.gains):
                note += f" {len(self.gains) - len(gains)} directions with smaller subsets stand in the saved report."
            joint_header = ("direction", "score", *header, "incomplete", "best single", "gain [95 %]")
            sheets.append(Sheet("Subsets of modalities ↔ one, by joint score", joint_header, tuple(rows), note))
        if self.reranked:
            sheets.append(self._reranked_sheet())
        if self.diagnostics:
            shape = tuple((name, f"{value:.3f}") for name, value in self.diagnostics.items())
            sheets.append(Sheet("The shape of the space", ("diagnostic", "value"), shape, DIAGNOSTICS_NOTE))
        return sheets

    def _reranked_sheet(self) -> Sheet:
        rows = tuple(
            (
                each.first.name,
                each.first.score,
                str(len(each.first.items)),
                str(each.first.gallery),
                each.first.recall(1).percent(),
                each.final.recall(1).percent(),
                each.difference.percent(),
                *(f"{100 * recall_at_k(each.final.ranks, k):.1f}" for k in self.ks if k > 1),
            )
            for each in self.reranked
        )
        header = ("direction", "score", "queries", "gallery", "R@1 [95 %]", "re-ranked", "gain [95 %]")
        title = f"The best {self.reranked[0].k} re-ranked by the matching head"
        note = "R@1 by the embeddings alone and re-ranked; then re-ranked alone. Every candidate costs a pass through the head."
        return Sheet(title, (*header, *(f"R@{k}" for k in self.ks if k > 1)), rows, note)

    def _cells(self, direction: Direction) -> tuple[str, ...]:
        """Queries, gallery, R@k with the first one's interval, median rank."""
        return (
            str(len(direction.items)),
            str(direction.gallery),
            direction.recall(self.ks[0]).percent(),
            *(f"{100 * recall_at_k(direction.ranks, k):.1f}" for k in self.ks[1:]),
            f"{median_rank(direction.ranks):g}",
        )

    def markdown(self) -> str:
        """The report as a Markdown page."""
        settings = "".join(f"- {name}: {value}\n" for name, value in self.settings.items())
        return "\n".join(["# Evaluation\n", *([settings] if settings else []), *(sheet.markdown() for sheet in self.sheets())])

    def save(self, folder: str | Path) -> list[Path]:
        """Write `report.json` and `report.md` into `folder`; return their paths."""
        folder = Path(folder)
        return [
            write_text(folder / "report.json", json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"),
            write_text(folder / "report.md", self.markdown()),
        ]

    def _row(self, direction: Direction) -> dict[str, object]:
        return {
            "query": list(direction.query),
            "target": list(direction.target),
            "score": direction.score,
            "queries": len(direction.items),
            "gallery": direction.gallery,
            "incomplete": direction.incomplete,
            "left_out": direction.left_out,
            "recall": {str(k): direction.recall(k)._asdict() for k in self.ks},
            "median_rank": median_rank(direction.ranks),
            "mean_reciprocal_rank": mean_reciprocal_rank(direction.ranks),
        }


def evaluate(
    bundle: Bundle,
    *,
    scores: Sequence[ScoreName] = DEFAULT,
    ks: Sequence[int] = (1, 5, 10),
    subsets: bool = True,
    diagnose: bool = False,
    matcher: Matcher | None = None,
    rerank: int = 50,
    progress: bool = False,
    settings: Mapping[str, str] | None = None,
) -> Report:
    """Rank every direction of a Bundle whose row i is one item in all modalities.

    Args:
        bundle: n items, m ≥ 2 modalities. Every candidate that has the target is in the gallery; queries need the query and
            the target. Missing modalities of a joint side are left to the score.
        scores: how a subset of modalities is compared with one, each by name.
        ks: cut-offs of the recall.
        subsets: False leaves the joint directions out.
        diagnose: add the figures of `diagnostics` to the Report.
        matcher: a trained matching head; the directions that it answers for are re-ranked by it, too, and shown beside the
            figures of the embeddings alone, by the first of `scores`.
        rerank: how many of the best it puts in order.
        progress: show a progress bar.
        settings: kept in the Report.

    Raises:
        InputError: one modality only, an unknown score, no two modalities that share two items.
    """
    if len(bundle.modalities) < 2:
        raise InputError(f"`bundle` must have at least two modalities to evaluate; got {', '.join(bundle.modalities)}.")
    for name in scores:
        check_choice("scores", name, SCORES)
    if rerank < 1:
        raise InputError(f"`rerank` must be at least 1; got {rerank}.")
    if not ks or min(ks) < 1:
        raise InputError(f"`ks` must be positive cut-offs such as 1, 5, 10; got {some(ks) or 'none'}.")
    m = len(bundle.modalities)
    joint = m * (2 ** (m - 1) - m) * 2 * len(scores) if subsets else 0
    with Progress(transient=True, disable=not progress) as bar:
        task = bar.add_task("ranking", total=m * (m - 1) + joint)
        singles = tuple(_counted(single_directions(bundle), bar, task))
        if not singles:
            raise InputError("`bundle` has no two modalities that share at least two items; there is nothing to retrieve.")
        gains = tuple(_counted(subset_directions(bundle, scores), bar, task)) if subsets else ()
        reranked: tuple[Reranked, ...] = ()
        if matcher is not None:
            task = bar.add_task("re-ranking", total=2 * len(matcher.anchors))
            score = scores[0] if scores else DEFAULT[0]
            reranked = tuple(_counted(reranked_directions(bundle, matcher, score, rerank), bar, task))
    shape = diagnostics(bundle) if diagnose else {}
    return Report(len(bundle), bundle.counts(), tuple(ks), singles, gains, dict(settings or {}), shape, reranked)


def diagnostics(bundle: Bundle) -> dict[str, float]:
    """What shape the space has, whatever it retrieves.

    A modality: "uniformity" and "effective rank". A pair: "modality gap" over all vectors; "antipodal share" over the items
    that have both; "hubness" of each direction's cosines (k = 10). Over the items with all modalities: GRAM's alignment
    metric, the mean of 1 − volume, of matched tuples and of tuples whose modalities come from different items.

    Args:
        bundle: n items; at least two of them with two modalities.

    Returns:
        Name → value. What too few items take part in is left out.
    """
    found: dict[str, float] = {}
    vectors = {name: bundle.column(name)[bundle.has(name)].detach() for name in bundle.modalities}
    vectors = {name: rows for name, rows in vectors.items() if len(rows) > 1}
    for name, rows in vectors.items():
        found[f"uniformity, {name}"] = uniformity(rows)
        found[f"effective rank, {name}"] = effective_rank(rows)
    for first, second in combinations(vectors, 2):
        found[f"modality gap, {first} – {second}"] = modality_gap(vectors[first], vectors[second])
        both = bundle.has(first) & bundle.has(second)
        if bool(both.any()):
            share = antipodal_share(bundle.column(first)[both], bundle.column(second)[both])
            found[f"antipodal share, {first} – {second}"] = share
    for query, target in permutations(vectors, 2):
        found[f"hubness, {query} → {target}"] = hubness(cosine(vectors[query], vectors[target]))
    whole = bundle[bundle.present.all(1)].vectors.detach()
    if len(whole) > bundle.present.shape[1]:
        mixed = torch.stack([whole[:, i].roll(i, 0) for i in range(whole.shape[1])], 1)
        found["1 − volume, matched"] = float(1 - volume(whole).mean())
        found["1 − volume, mismatched"] = float(1 - volume(mixed).mean())
    return found


def _counted(found: Iterator[T], bar: Progress, task: TaskID) -> Iterator[T]:
    for one in found:
        bar.advance(task)
        yield one


def single_directions(bundle: Bundle) -> Iterator[Direction]:
    """One modality → another, by cosine, for all ordered pairs that at least two items share."""
    for query, target in permutations(bundle.modalities, 2):
        asked = bundle.has(query) & bundle.has(target)
        if int(asked.sum()) > 1:
            yield _direction(bundle, (query,), (target,), "cosine", asked, bundle.has(target))


def subset_directions(bundle: Bundle, scores: Sequence[ScoreName] = DEFAULT) -> Iterator[Gain]:
    """Every subset of two or more modalities → another modality and back, by each of `scores`."""
    for anchor in bundle.modalities:
        others = [name for name in bundle.modalities if name != anchor]
        for size in range(2, len(others) + 1):
            for subset in combinations(others, size):
                asked = bundle.has(anchor) & bundle.has(*subset)
                if int(asked.sum()) > 1:
                    yield from _gains(bundle, subset, (anchor,), scores, asked)
                    yield from _gains(bundle, (anchor,), subset, scores, asked)


def reranked_directions(bundle: Bundle, matcher: Matcher, score: ScoreName = "span", k: int = 50) -> Iterator[Reranked]:
    """Each anchor of `matcher` → all other modalities and back: the sets of modalities that it was trained on.

    Raises:
        InputError: the Bundle lacks a modality that the head reads.
    """
    absent = [name for name in matcher.modalities if name not in bundle.modalities]
    if absent:
        raise InputError(f"`bundle` lacks the modalities {some(absent)} that the matching head was trained on.")
    for anchor in matcher.anchors:
        others = tuple(name for name in matcher.modalities if name != anchor)
        asked = bundle.has(anchor) & bundle.has(*others)
        if int(asked.sum()) < 2:
            continue
        for query, target in (((anchor,), others), (others, (anchor,))):
            gallery = bundle.has(*target)
            first = _direction(bundle, query, target, score, asked, gallery)
            refine = _by_matcher(matcher, k, anchor_asks=query == (anchor,))
            final = _direction(bundle, query, target, score, asked, gallery, refine)
            yield Reranked(first, final, min(k, first.gallery))


def _by_matcher(matcher: Matcher, k: int, *, anchor_asks: bool) -> Callable[[Bundle, Bundle, Tensor], Tensor]:
    """A function of queries, candidates and their scores that puts the best k of each query in the order of the head."""

    @torch.no_grad()
    def refine(queries: Bundle, candidates: Bundle, scores: Tensor) -> Tensor:
        training = matcher.training
        matcher.eval()
        best = scores.topk(min(k, scores.shape[1]), dim=1).indices
        asked = torch.arange(len(scores), device=scores.device).repeat_interleave(best.shape[1])
        logits = []
        for rows, found in zip(torch.split(asked, PAIRS), torch.split(best.flatten(), PAIRS), strict=True):
            pair = queries[rows], candidates[found]
            logits.append(matcher(*(pair if anchor_asks else pair[::-1])))
        front = torch.cat(logits).double().reshape(best.shape)
        front = front - front.amin(1, keepdim=True)  # at least 0; the others at most −1, in their order
        behind = scores.double() - scores.double().amax(1, keepdim=True) - 1
        matcher.train(training)
        return behind.scatter(1, best, front)

    return refine


def _gains(bundle: Bundle, query: Names, target: Names, scores: Sequence[ScoreName], asked: Tensor) -> Iterator[Gain]:
    """The joint direction by each score, against the best modality of the joint side alone: same queries, same gallery."""
    gallery = bundle.has(*target)
    if len(query) > 1:
        alone = [_direction(bundle, (name,), target, "cosine", asked, gallery) for name in query]
    else:
        alone = [_direction(bundle, query, (name,), "cosine", asked, gallery) for name in target]
    best = max(alone, key=lambda direction: recall_at_k(direction.ranks, 1))
    for score in scores:
        yield Gain(_direction(bundle, query, target, score, asked, gallery), best)


def _direction(
    bundle: Bundle,
    query: Names,
    target: Names,
    score: ScoreName,
    asked: Tensor,
    gallery: Tensor,
    refine: Callable[[Bundle, Bundle, Tensor], Tensor] | None = None,
) -> Direction:
    """Rank block by block; `asked` and `gallery` are the (n,) masks of the queries and the candidates."""
    candidates = bundle[gallery].select(*target)
    match = gallery.long().cumsum(0) - 1
    blocks = []
    for rows in torch.split(asked.nonzero().flatten(), BLOCK):
        queries = bundle[rows].select(*query)
        relevant = match[rows] if bundle.ids is None else queries.same(candidates)
        table = SCORES[score](queries, candidates)
        blocks.append(ranks(table if refine is None else refine(queries, candidates, table), relevant))
    joint = query if len(query) > 1 else target
    incomplete = (asked if joint == query else gallery) & ~bundle.select(*joint).present.all(1)
    return Direction(
        query=query,
        target=target,
        score=score,
        items=asked.nonzero().flatten().cpu().numpy(),
        ranks=Ranks(*(np.concatenate(parts) for parts in zip(*blocks, strict=True))),
        gallery=int(gallery.sum()),
        incomplete=int(incomplete.sum()),
        left_out=int((~asked).sum()),
    )


def hits(directions: Sequence[Direction], items: int, k: int) -> NDArray[np.float64]:
    """Whether each item was found among the best k, (directions, items): see `hits_at_k`; NaN where it was not asked."""
    found = np.full((len(directions), items), np.nan)
    for row, direction in zip(found, directions, strict=True):
        row[direction.items] = hits_at_k(direction.ranks, k)
    return found
