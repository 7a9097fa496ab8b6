"""The released models' row of their papers' tables: raw and re-ranked, beside the figures to expect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from gramian.data.released import Release
from gramian.data.table import Table
from gramian.errors import InputError
from gramian.evaluation.directions import Direction
from gramian.evaluation.metrics import recall_at_k
from gramian.evaluation.report import Report
from gramian.sheets import Sheet

__all__ = ["FIGURES", "Figures", "askable", "known_subtitles", "paper_row"]


@dataclass(frozen=True)
class Figures:
    """R@1 in %, text → items / items → text, after re-ranking.

    Attributes:
        measured: by others with the released file, and the size of the gallery; empty where nobody has published any.
        paper: in the paper, from the pretrained model.
        tuned: in the paper, fine-tuned on the set.
    """

    measured: str
    paper: str
    tuned: str = ""

    def __str__(self) -> str:
        parts = [f"measured again with the released file {self.measured}"] if self.measured else []
        parts += [f"in the paper {self.paper}"] + ([f"fine-tuned {self.tuned}"] if self.tuned else [])
        return "; ".join(parts)


FIGURES: Mapping[tuple[Release, str], Figures] = {
    ("gram", "msrvtt"): Figures("52.5/50.5 (884 items)", "54.8/52.9", "64.0/64.8"),
    ("gram", "didemo"): Figures("50.6/49.0 (1,003)", "54.2/52.2", "67.3/63.5"),
    ("gram", "activitynet"): Figures("56.4/49.7 (4,917)", "59.0/50.4", "69.9/66.9"),
    ("gram", "vatex"): Figures("88.4/86.5 (431), 77.3 (1,358)", "83.5", "87.7/84.2"),
    ("gram", "audiocaps"): Figures("33.4 (729)", "33.2"),
    ("gram", "vggsound"): Figures("41.0 and 38.3, accuracy (5,000)", "40.6, accuracy"),
    ("pmrl", "msrvtt"): Figures("54.3/52.9 (884)", "54.5/52.4", "61.2"),
    ("pmrl", "didemo"): Figures("52.5/49.3 (1,003)", "50.6/48.4", "70.2"),
    ("pmrl", "activitynet"): Figures("54.1/48.6 (4,917)", "56.0/49.6", "68.2"),
    ("pmrl", "vatex"): Figures("89.6/87.0 (431)", "80.5/75.2", "84.1"),
    ("pmrl", "audiocaps"): Figures("34.4 (729)", "36.1"),
    ("vast", "msrvtt"): Figures("50.7 (884)", "50.7/49.0"),
    ("vast", "didemo"): Figures("", "49.5/48.2"),
    ("vast", "activitynet"): Figures("", "51.4/46.8"),
    ("vast", "vatex"): Figures("", "82.1/78.7"),
}
"""What to expect of a released file, by release and data set; docs/released.md says where they are from."""


def known_subtitles(table: Table) -> Table:
    """The table without its column of subtitles, if that is empty in every row: nothing is known of them."""
    if "subtitle" not in table.modalities or len(table.modalities) == 1 or bool(table.present["subtitle"].any()):
        return table
    return table.select(*(name for name in table.modalities if name != "subtitle"))


def askable(table: Table, anchor: str = "text") -> Table:
    """The items that a released model can find or be asked for: with a recording or a video besides their text.

    Its empty subtitles count, so that an item without media would still be a candidate. A column of subtitles that is empty in
    every row is left out: nothing is known of them.

    Args:
        table: raw cells.
        anchor: the texts' column.

    Returns:
        The rows, in order.

    Raises:
        InputError: no row has both.
    """
    table = known_subtitles(table)
    names = table.modalities
    media = [table.present[name] for name in names if name not in (anchor, "subtitle")]
    if anchor not in names or not media:
        raise InputError(f"`data` must have columns text and video or audio; it has {', '.join(table.modalities)}.")
    filled = table.present[anchor] & torch.stack(media).any(0)
    if not bool(filled.any()):
        raise InputError("`data` has no row with a text and a video or recording. Look at what gramian prepare counted.")
    return table[filled]


def paper_row(report: Report, name: str, release: Release | None = None, stage: str = "the volume") -> Sheet:
    """The row of a paper's table, each way: by the embeddings alone, and with the best re-ranked.

    Args:
        report: with re-ranked directions.
        name: of the data set.
        release: whose file it is, for the figures to expect.
        stage: by what the candidates were found.

    Returns:
        A sheet with four lines.
    """
    rows = []
    for each in report.reranked:
        for how, direction in ((f"by {stage}", each.first), (f"best {each.k} re-ranked", each.final)):
            rows.append((direction.name, how, str(len(direction.rows)), report.size(direction.gallery), *_recalls(direction)))
    figures = FIGURES.get((release, name)) if release else None
    note = (
        ""
        if figures is None
        else f"To expect of R@1, re-ranked, text → items / items → text: {figures}. Another gallery gives others."
    )
    title = f"{name}: as in the papers' tables"
    return Sheet(title, ("direction", "", "queries", "gallery", "R@1 [95 %]", "R@5", "R@10"), tuple(rows), note)


def _recalls(direction: Direction) -> tuple[str, ...]:
    return direction.recall(1).percent(), *(f"{100 * recall_at_k(direction.ranks, k):.1f}" for k in (5, 10))
