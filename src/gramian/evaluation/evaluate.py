"""The directions of retrieval in a Bundle, one modality → another and subsets of modalities ↔ one, as a `Report`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import torch
from rich.progress import Progress, TaskID

from gramian.bundle import Bundle
from gramian.data.cells import Broken, Cells
from gramian.data.table import Table
from gramian.errors import InputError, check_choice, check_choices, check_number, check_type
from gramian.evaluation.directions import (
    DEFAULT,
    SUBSETS,
    Direction,
    Gain,
    Subsets,
    chosen_directions,
    single_directions,
    subset_directions,
)
from gramian.evaluation.examples import examples
from gramian.evaluation.mixed import mixed_pool
from gramian.evaluation.patterns import directions_of
from gramian.evaluation.rankings import Rankings
from gramian.evaluation.report import Report
from gramian.evaluation.reranking import Reranked, Reranker, reranked_directions
from gramian.evaluation.robustness import DROPS, robustness
from gramian.evaluation.shape import diagnostics
from gramian.model.matcher import Matcher
from gramian.scores import SCORES, ScoreName
from gramian.sheets import progress_bar

__all__ = ["evaluate", "kept_vectors", "sample_rows"]

T = TypeVar("T")

SAMPLE = 1000
"""Items whose vectors a Report keeps for pictures."""


def evaluate(
    bundle: Bundle,
    *,
    scores: Sequence[ScoreName] = DEFAULT,
    ks: Sequence[int] = (1, 5, 10),
    subsets: Subsets = "others",
    directions: Sequence[str] | None = None,
    corpus: Bundle | None = None,
    corpus_ids: Sequence[str] | None = None,
    mixed: bool = False,
    missing: bool = False,
    diagnose: bool = False,
    rerank: Matcher | Reranker | None = None,
    best: int = 50,
    stage: Bundle | None = None,
    bank: Bundle | None = None,
    weights: Mapping[str, Mapping[str, float]] | None = None,
    progress: bool = False,
    settings: Mapping[str, str] | None = None,
    broken: Sequence[Broken] = (),
    ids: Sequence[str] | None = None,
    whole: int | None = None,
) -> Report:
    """Rank the directions of a Bundle whose row i is one item in all modalities.

    Each ranking is computed once, in memory that grows with n. Candidates are items, not rows: rows that share an item
    (`Bundle.item_ids`) and the target's vectors, up to rounding, are one candidate, and any row of the item is a match.

    Args:
        bundle: n rows, m ≥ 2 modalities. Every candidate that has the target is in the gallery; a row is a query if it has both
            the query and the target. How a joint side with missing modalities is treated depends on the score.
        scores: names of the scores that compare a subset of modalities with one.
        ks: cut-offs of the recall.
        subsets: which subsets of modalities are set against one: "others" takes all others together, "all" every subset of
            two or more, 2^(m−1) − m of them for each modality, "none" leaves the joint directions out.
        directions: patterns of the directions to rank, such as "text->*", "image+speech->text" or "all", in place of `subsets`;
            see `gramian.evaluation.patterns.directions_of`. Any set of modalities may ask for any other.
        corpus: the candidates, where they are not the items of the Bundle: in the same space, with any of its modalities. Rows
            of the two match where their `item_ids` are equal; candidates that match no query are distractors. A query whose
            item is not in the corpus is not asked.
        corpus_ids: names of the rows of the corpus; "corpus 0" and so on by default.
        mixed: rank each modality against one gallery of the vectors of all modalities, too: `mixed_pool`.
        missing: measure what is left when modalities are missing, too: `gramian.evaluation.robustness`.
        diagnose: add the figures of `diagnostics` to the Report.
        rerank: a trained matching head, or any `Reranker`; the directions that it was trained on are also re-ranked by it and
            shown beside the figures of the embeddings alone, by the first of `scores`.
        best: how many of the best candidates it re-ranks.
        stage: another Bundle of the same rows, whose candidates it re-ranks by cosine, as of fused vectors.
        bank: training items in the same space, never test queries: every score s becomes 2 s − h, h the mean of the item's ten
            highest scores with the bank's vectors of the modality that asks (CSLS), which takes off the hubs.
        weights: modality asked for → modality → how much it counts where several ask, as `choose_weights` finds them on other
            items: `Aligner.query_weights`. The joint directions are ranked by them, too, as score "weights".
        progress: show a progress bar.
        settings: kept in the Report.
        broken: cells that could not be read and count as missing; listed in the Report.
        ids: n names of the rows, by which evaluations are compared later; their numbers by default.
        whole: how many items the set has, where the Bundle lacks some: every gallery is shown as so many of them.

    Returns:
        The Report.

    Raises:
        InputError: a single modality, an unknown score or name of subsets, a cut-off below 1, or no two modalities that share
            two items; patterns or a corpus that cannot be used.
    """
    check_type("bundle", bundle, Bundle, fix="An Aligner embeds a Table: aligner.embed(table).")
    check_type("ks", ks, list, tuple)
    check_type("scores", scores, list, tuple)
    if len(bundle.modalities) < 2 and corpus is None:
        raise InputError(f"`bundle` must have at least two modalities to evaluate; got {', '.join(bundle.modalities)}.")
    check_choices("scores", scores, SCORES)
    check_number("best", best, "[1, inf)", integer=True)
    if not ks:
        raise InputError("`ks` must hold at least one cut-off, such as 1, 5, 10; got none.")
    for k in ks:
        check_number("ks", k, "[1, inf)", integer=True)
    check_choice("subsets", subsets, SUBSETS)
    if ids is not None and len(ids) != len(bundle):
        raise InputError(f"`ids` must name each of {len(bundle)} rows; got {len(ids)}.")
    check_type("corpus", corpus, Bundle, type(None), fix="An Aligner embeds a Table: aligner.embed(table).")
    if corpus is not None:
        corpus_ids = corpus_ids or [f"corpus {row}" for row in range(len(corpus))]
        if len(corpus_ids) != len(corpus):
            raise InputError(f"`corpus_ids` must name each of {len(corpus)} rows; got {len(corpus_ids)}.")
    own = {"mixed": mixed, "missing": missing, "rerank": rerank is not None}
    if corpus is not None and any(own.values()):
        used = next(name for name, wanted in own.items() if wanted)
        raise InputError(f"`{used}` is for items that are their own candidates. Leave `corpus` out.")
    rankings = Rankings(bundle, bank, corpus, weights)
    if directions is None and corpus is not None:
        directions = _of_corpus(rankings, subsets)
    m = len(bundle.modalities)
    count = {"others": int(m > 2), "all": 2 ** (m - 1) - m, "none": 0}[subsets]
    singles: tuple[Direction, ...]
    gains: tuple[Gain, ...]
    with progress_bar(progress, transient=True) as bar:
        if directions is None:
            task = bar.add_task("ranking", total=m * (m - 1) + m * count * 2 * (len(scores) + bool(weights)))
            singles = tuple(_counted(single_directions(rankings), bar, task))
            if not singles:
                raise InputError("`bundle` has no two modalities that share at least two items; there is nothing to retrieve.")
            gains = tuple(_counted(subset_directions(rankings, scores, subsets), bar, task))
        else:
            ways = directions_of(directions, rankings.queries, rankings.targets, disjoint=corpus is None)
            joint = sum(len(query) + len(target) > 2 for query, target in ways)
            task = bar.add_task("ranking", total=len(ways) - joint + joint * len(scores))
            found = list(_counted(chosen_directions(rankings, ways, scores), bar, task))
            singles = tuple(one for one in found if isinstance(one, Direction))
            gains = tuple(one for one in found if isinstance(one, Gain))
            if not found:
                raise InputError(
                    "`directions` name none that two items can be asked in: "
                    + ("no two queries have their item in the corpus." if corpus is not None else "too few have both sides.")
                )
        reranked: tuple[Reranked, ...] = ()
        if rerank is not None:
            task = bar.add_task("re-ranking", total=2 * len(rerank.anchors))
            first, score = (rankings, scores[0] if scores else DEFAULT[0]) if stage is None else (Rankings(stage), "cosine")
            reranked = tuple(_counted(reranked_directions(first, rerank, score, best), bar, task))
        robust = None
        if missing:
            task = bar.add_task("dropping modalities", total=len(DROPS) + m + 1)
            robust = robustness(bundle, scores=scores or DEFAULT, step=lambda: bar.advance(task))
    shape = diagnostics(bundle) if diagnose else {}
    settings = dict(settings or {}) | ({} if bank is None else {"hubs": f"corrected by {len(bank)} training items"})
    shown = sample_rows(len(bundle))
    return Report(
        n=len(bundle),
        present=bundle.counts(),
        ks=tuple(ks),
        singles=singles,
        gains=gains,
        settings=settings,
        diagnostics=shape,
        reranked=reranked,
        broken=tuple(broken),
        items=rankings.items[: len(bundle)],
        mixed=mixed_pool(bundle) if mixed else (),
        robustness=robust,
        corpus={} if corpus is None else {"rows": len(corpus)} | corpus.counts(),
        ids=None if ids is None else tuple(ids),
        whole=whole,
        examples=tuple(examples(rankings, singles, [*(ids or map(str, range(len(bundle)))), *(corpus_ids or ())])),
        space=kept_vectors(
            bundle[shown.to(bundle.vectors.device)], [str(row) if ids is None else ids[row] for row in shown.tolist()]
        ),
    )


def sample_rows(n: int) -> torch.Tensor:
    """The numbers of at most `SAMPLE` of n rows, in order: all of them, or some drawn with a fixed seed."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(0))[:SAMPLE].sort().values


def kept_vectors(bundle: Bundle, ids: Sequence[str]) -> Table:
    """A Bundle's vectors as a Table in half precision, for pictures.

    Args:
        bundle: n rows.
        ids: n names of them.

    Returns:
        The table.
    """
    bundle = bundle.detach().to("cpu", dtype=torch.float16)
    columns: dict[str, torch.Tensor | Cells] = {name: bundle.column(name).contiguous() for name in bundle.modalities}
    items = None if bundle.item_ids is None else tuple(map(str, bundle.item_ids.tolist()))
    return Table(columns, {name: bundle.has(name) for name in bundle.modalities}, tuple(ids), item_ids=items)


def _of_corpus(rankings: Rankings, subsets: Subsets) -> list[str]:
    """The default directions into a corpus: each modality → each, and what all modalities together add on either side."""
    if subsets == "all":
        return ["all"]
    joint = ["others->*"] * (len(rankings.queries) > 1) + ["*->others"] * (len(rankings.targets) > 1)
    return ["*->*", *(joint if subsets == "others" else ())]


def _counted(results: Iterator[T], bar: Progress, task: TaskID) -> Iterator[T]:
    for one in results:
        bar.advance(task)
        yield one
