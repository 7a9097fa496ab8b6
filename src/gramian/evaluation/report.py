"""`Report`: the figures of one evaluation, as tables, Markdown and JSON."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gramian.data.cells import Broken
from gramian.data.table import Table
from gramian.evaluation.classification import Classified, classified_sheets
from gramian.evaluation.directions import Direction, Gain, hits
from gramian.evaluation.examples import Example
from gramian.evaluation.metrics import median_rank, recall_at_k
from gramian.evaluation.mixed import Mixed, mixed_sheet
from gramian.evaluation.ranks_file import CLASSES, NAME, write_ranks
from gramian.evaluation.regression import Regressed, regressed_sheet
from gramian.evaluation.reranking import Reranked
from gramian.evaluation.robustness import Robustness
from gramian.evaluation.shape import DIAGNOSTICS_NOTE
from gramian.evaluation.stats import Interval, share_interval
from gramian.files import write_text
from gramian.sheets import Sheet, unreadable

__all__ = ["CHOSEN", "REPORT", "SPACE", "START", "Report"]

REPORT, SPACE, START = "report.json", "space.safetensors", "start.safetensors"
"""What `Report.save` writes for `gramian report`: the figures, and the vectors of some items after and before training."""

CHOSEN = "chosen on validation"
"""The setting of a Report that tells the epoch, or the heads, of the model."""


@dataclass(frozen=True)
class Report:
    """The figures of one evaluation.

    Attributes:
        n: number of rows of the Bundle.
        present: name → rows that have the modality.
        ks: cut-offs of the recall.
        singles: directions between two modalities, by cosine.
        gains: directions between a subset and one modality, for each joint score.
        settings: what was evaluated, for the reader: data, split, model.
        diagnostics: the shape of the space, by name; see `diagnostics`.
        reranked: directions between an anchor and all other modalities, before and after a matching head.
        broken: cells that could not be read and counted as missing.
        mixed: each modality against one gallery of the vectors of all of them; see `mixed_pool`.
        robustness: what is left when modalities are missing, where it was asked for.
        label: by what the items were classified.
        classified: by each method, of each set of modalities.
        regressed: numbers that were predicted.
        corpus: rows, and rows of each modality, of the table that the candidates come from, where it is another.
        items: (n,) the item of each row; every row is an item of its own by default. Intervals are over items.
        ids: n names of the rows, for `ranks.parquet`; their numbers by default.
        whole: how many items the set has, where some of them are not among the rows; shown beside the size of every gallery.
        examples: the hardest and the best queries of each direction between two modalities.
        space: the vectors of at most 1,000 items, for pictures.
        start: the vectors of the same items before training, where known.
    """

    n: int
    present: dict[str, int]
    ks: tuple[int, ...]
    singles: tuple[Direction, ...]
    gains: tuple[Gain, ...]
    settings: dict[str, str] = field(default_factory=dict)
    diagnostics: dict[str, float] = field(default_factory=dict)
    reranked: tuple[Reranked, ...] = ()
    broken: tuple[Broken, ...] = ()
    mixed: tuple[Mixed, ...] = ()
    robustness: Robustness | None = None
    label: str = ""
    classified: tuple[Classified, ...] = ()
    regressed: tuple[Regressed, ...] = ()
    corpus: dict[str, int] = field(default_factory=dict)
    items: NDArray[np.int64] | None = field(default=None, repr=False)
    ids: tuple[str, ...] | None = field(default=None, repr=False)
    whole: int | None = None
    examples: tuple[Example, ...] = field(default=(), repr=False)
    space: Table | None = field(default=None, repr=False)
    start: Table | None = field(default=None, repr=False)
    _means: dict[int, Interval] = field(default_factory=dict, repr=False, compare=False)

    @property
    def distinct(self) -> int:
        """The number of different items."""
        return self.n if self.items is None else len(np.unique(self.items))

    @property
    def joints(self) -> tuple[Direction, ...]:
        """The directions of `gains`."""
        return tuple(gain.joint for gain in self.gains)

    def size(self, gallery: int) -> str:
        """The size of a gallery, as in "884 of 1,000" where it does not hold all items of the set."""
        return str(gallery) if self.whole is None or gallery >= self.whole else f"{gallery:,} of {self.whole:,}"

    def mean_recall(self, k: int) -> Interval:
        """Mean R@k over the single-modality directions, equally weighted, with a 95 % interval over items."""
        if k not in self._means:
            self._means[k] = share_interval(hits(self.singles, self.n, k), self.items)
        return self._means[k]

    def average_recall(self, score: str, k: int) -> Interval:
        """Mean R@k over the directions between two modalities and those of several by one score, with a 95 % interval.

        For three modalities, each set against the two others together, these are the twelve directions of OmniRetriever-Bench
        (arXiv 2605.26641), and their mean R@1 is its AVG-all.
        """
        joint = [one for one in self.joints if one.score == score]
        return share_interval(hits([*self.singles, *joint], self.n, k), self.items)

    def matrix(self, k: int) -> NDArray[np.float64]:
        """R@k of every direction between two modalities, (m, m), queries in rows; NaN where there is no direction."""
        names = list(self.present)
        values = np.full((len(names), len(names)), np.nan)
        for direction in self.singles:
            if direction.target[0] in names:
                values[names.index(direction.query[0]), names.index(direction.target[0])] = recall_at_k(direction.ranks, k)
        return values

    def to_dict(self) -> dict[str, object]:
        """Everything as plain numbers, lists and dicts; shares in [0, 1]."""
        return {
            "settings": self.settings,
            "rows": self.n,
            "items": self.distinct,
            "whole": self.whole,
            "present": self.present,
            "missing": {name: self.n - count for name, count in self.present.items()},
            "unreadable": [{"id": row, "modality": name, "reason": reason} for row, name, reason in self.broken],
            "diagnostics": self.diagnostics,
            "mean_recall": {str(k): self.mean_recall(k)._asdict() for k in self.ks},
            "average_recall": {
                score: {str(k): self.average_recall(score, k)._asdict() for k in self.ks}
                for score in dict.fromkeys(one.score for one in self.joints)
            },
            "corpus": self.corpus,
            "mixed": [one.to_dict() for one in self.mixed],
            "label": self.label,
            "classified": [one.to_dict() for one in self.classified],
            "regressed": [one.to_dict() for one in self.regressed],
            "robustness": None if self.robustness is None else self.robustness.to_dict(),
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
            "examples": [asdict(example) for example in self.examples],
            "sheets": [asdict(sheet) for sheet in self.sheets()],
        }

    def sheets(self, *, detail: bool = False) -> list[Sheet]:
        """The report as tables, for the terminal and for Markdown.

        Args:
            detail: with the further figures of every direction: mean rank, MRR, nDCG@10, mAP.

        Returns:
            The tables that the report has anything for.
        """
        header = ("queries", "gallery", f"R@{self.ks[0]} [95 %]", *(f"R@{k}" for k in self.ks[1:]), "MdR")
        missing = ", ".join(f"{name} {self.n - count}" for name, count in self.present.items())
        rows, over = f"{self.n} items", "the queries"
        if self.distinct < self.n:
            rows, over = f"{self.n} rows of {self.distinct} items", "items"
        if self.corpus:
            rows += f", {self.corpus['rows']} rows in the corpus"
        note = f"{rows}; missing: {missing}. Recall in %, intervals over {over}; MdR is the median rank."
        sheets = []
        if self.singles:
            lines = [(direction.name, *self._cells(direction)) for direction in self.singles]
            lines += [("mean", *self._mean())] * (len(lines) > 1)
            sheets.append(Sheet("One modality → another, by cosine", ("direction", *header), tuple(lines), note))
        if self.gains:
            lines = [
                (
                    gain.joint.name,
                    gain.joint.score,
                    *self._cells(gain.joint),
                    f"{gain.joint.incomplete}",
                    gain.best_single,
                    gain.difference.percent(),
                )
                for gain in self.gains
            ]
            note = "" if sheets else f"{note} "
            note += (
                "Incomplete items lack some modality of the subset. The gain is R@1 over the best single modality on the same "
                "queries and gallery, paired."
            )
            if self.singles:
                counts = Counter(one.score for one in self.joints)
                most = max(counts.values())
                whole = [score for score, count in counts.items() if count == most]  # weights are not for every direction
                listed = ", ".join(f"{score} {self.average_recall(score, 1).percent()}" for score in whole)
                note += f" Mean R@1 of all {len(self.singles) + most} directions: {listed}."
            joint_header = ("direction", "score", *header, "incomplete", "best single", "gain [95 %]")
            sheets.append(Sheet("Subsets of modalities ↔ one, by joint score", joint_header, tuple(lines), note))
        if self.reranked:
            sheets.append(self._reranked_sheet())
        if self.mixed:
            sheets.append(mixed_sheet(self.mixed))
        if self.robustness is not None:
            sheets += self.robustness.sheets()
        if self.classified:
            sheets += classified_sheets(self.label, self.classified)
        if self.regressed:
            sheets.append(regressed_sheet(self.regressed))
        if detail:
            sheets.append(self._detail_sheet())
        if self.diagnostics:
            shape = tuple((name, f"{value:.3f}") for name, value in self.diagnostics.items())
            sheets.append(Sheet("The shape of the space", ("diagnostic", "value"), shape, DIAGNOSTICS_NOTE))
        if self.broken:
            sheets.append(unreadable(self.broken))
        return sheets

    def _reranked_sheet(self) -> Sheet:
        rows = tuple(
            (
                each.first.name,
                each.first.score,
                str(len(each.first.rows)),
                self.size(each.first.gallery),
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

    def _detail_sheet(self) -> Sheet:
        """The further figures of every direction."""
        rows = []
        for one in (*self.singles, *self.joints):
            figures = one.figures()
            ranks = (f"{figures[name]:.1f}" for name in ("median_rank", "mean_rank"))
            shares = (
                f"{100 * figures[name]:.1f}"
                for name in ("mean_reciprocal_rank", "ndcg_at_10", "mean_average_precision", "mean_recall")
            )
            rows.append((one.name, one.score, *ranks, *shares))
        note = (
            "MdR and MnR are the median and the mean rank of the best match, MRR the mean of 1/rank; nDCG@10 and mAP count "
            "every match; mR is the mean of R@1, R@5 and R@10. All but the ranks in %."
        )
        return Sheet("Further figures", ("direction", "score", "MdR", "MnR", "MRR", "nDCG@10", "mAP", "mR"), tuple(rows), note)

    def _mean(self) -> tuple[str, ...]:
        """Like `_cells`, of the directions between two modalities together."""
        sizes = [direction.gallery for direction in self.singles]
        gallery = f"{min(sizes)}–{max(sizes)}" if min(sizes) < max(sizes) else self.size(sizes[0])
        means = [self.mean_recall(k) for k in self.ks]
        return ("", gallery, means[0].percent(), *(f"{100 * value.value:.1f}" for value in means[1:]), "")

    def _cells(self, direction: Direction) -> tuple[str, ...]:
        """Queries, gallery, R@k with the first one's interval, median rank."""
        return (
            str(len(direction.rows)),
            self.size(direction.gallery),
            direction.recall(self.ks[0]).percent(),
            *(f"{100 * recall_at_k(direction.ranks, k):.1f}" for k in self.ks[1:]),
            f"{median_rank(direction.ranks):g}",
        )

    def markdown(self) -> str:
        """The report as a Markdown page."""
        settings = "".join(f"- {name}: {value}\n" for name, value in self.settings.items())
        return "\n".join(
            ["# Evaluation\n", *([settings] if settings else []), *(sheet.markdown() for sheet in self.sheets(detail=True))]
        )

    def save(self, folder: str | Path) -> list[Path]:
        """Write what `gramian report` and `gramian compare` read.

        That is `report.json`; `report.md`; `space.safetensors`, the vectors of at most 1,000 items; and, where pyarrow is
        installed, `ranks.parquet`, the rank of every query, and of a classification `classes.parquet`.

        Args:
            folder: created if needed.

        Returns:
            The paths written.
        """
        folder = Path(folder)
        written = [
            write_text(folder / REPORT, json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"),
            write_text(folder / "report.md", self.markdown()),
        ]
        for name, vectors in ((SPACE, self.space), (START, self.start)):
            if vectors is not None:
                vectors.save(folder / name)
                written.append(folder / name)
        if importlib.util.find_spec("pyarrow"):
            ids = np.array(self.ids or [str(row) for row in range(self.n)], object)
            items = np.arange(self.n) if self.items is None else self.items
            _, first, inverse = np.unique(items, return_index=True, return_inverse=True)
            named = ids[first[inverse.reshape(-1)]]  # an item by the id of its first row
            written.append(write_ranks(folder / NAME, [*self.singles, *self.joints], ids.tolist(), named.tolist()))
            (folder / CLASSES).unlink(missing_ok=True)  # of an earlier evaluation
            if self.classified:
                told = [one.direction(self.label) for one in self.classified]
                truth = [[one.classes[number] for number in one.truth] for one in self.classified]
                written.append(write_ranks(folder / CLASSES, told, ids.tolist(), named.tolist(), truth))
        return written

    def _row(self, direction: Direction) -> dict[str, object]:
        return {
            "query": list(direction.query),
            "target": list(direction.target),
            "score": direction.score,
            "queries": len(direction.rows),
            "gallery": direction.gallery,
            "incomplete": direction.incomplete,
            "unasked": direction.unasked,
            "recall": {str(k): direction.recall(k)._asdict() for k in self.ks},
        } | direction.figures()
