"""Read every cell of a table once, as its towers would: what is present, missing, unreadable and cut off."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.progress import track

from gramian.data import batches
from gramian.data.batches import Collator, Reading
from gramian.data.cells import Broken
from gramian.data.media import Unreadable
from gramian.data.readers import Reader
from gramian.data.table import Table
from gramian.sheets import LISTED, Sheet, unreadable

__all__ = ["Checked", "check_table"]


@dataclass
class Checked:
    """What a table holds.

    Attributes:
        rows: number of rows.
        filled: modality → cells that are not empty.
        widths: modality → width of its features; of raw cells none.
        broken: cells that cannot be read.
        cut: modality → id → what the tower will not see of the cell.
        empty: rows with nothing that can be read.
        splits: split → rows.
    """

    rows: int
    filled: dict[str, int]
    broken: list[Broken] = field(default_factory=list)
    cut: dict[str, dict[str, str]] = field(default_factory=dict)
    empty: int = 0
    splits: dict[str, int] = field(default_factory=dict)
    widths: dict[str, int] = field(default_factory=dict)

    def sheets(self) -> list[Sheet]:
        """A sheet with one row per column; then the first of the cells that are unreadable or cut off."""
        count = Counter(modality for _, modality, _ in self.broken)
        rows = tuple(
            (
                name,
                f"{self.widths[name]} floats" if name in self.widths else "raw",
                str(filled),
                str(self.rows - filled),
                str(count[name]),
                str(len(self.cut.get(name, {}))),
            )
            for name, filled in self.filled.items()
        )
        splits = "".join(f" {name} {n}," for name, n in self.splits.items()).rstrip(",")
        note = f"{self.rows} rows{':' + splits if splits else ''}; {self.empty} with nothing that can be read."
        sheets = [Sheet("Columns", ("column", "cells", "filled", "missing", "unreadable", "cut"), rows, note)]
        if self.broken:
            sheets.append(unreadable(self.broken))
        cut = [(name, row, what) for name, cells in self.cut.items() for row, what in cells.items()]
        if cut:
            sheets.append(Sheet("Cut off", ("column", "id", "what"), tuple(cut[:LISTED]), f"{len(cut)} in all."))
        return sheets


def check_table(table: Table, collator: Collator, *, workers: int = 0, progress: bool = True) -> Checked:
    """Read every raw cell once.

    Args:
        table: the rows.
        collator: of the towers that are to read it.
        workers: processes that read; 0 reads in this one.
        progress: show a progress bar.

    Returns:
        What the table holds.

    Raises:
        InputError: columns and towers that do not fit; a number of processes below 0.
    """
    collator.check(table)
    checked = Checked(len(table), table.counts(), widths=dict(table.widths))
    if table.split is not None:
        checked.splits = dict(Counter(table.split))
    rows: torch.utils.data.DataLoader[Any] = torch.utils.data.DataLoader(
        _CheckedRows(table, collator.readers),
        batch_size=None,
        num_workers=Reading(workers).workers,
        multiprocessing_context=batches.START if workers else None,
        generator=torch.Generator(),
    )
    for result in track(batches.one_pass(rows), description="reading", total=len(table), disable=not progress):
        checked.empty += not result["readable"]
        checked.broken.extend(result["broken"])
        for modality, row, what in result["cut"]:
            checked.cut.setdefault(modality, {})[row] = what
    return checked


class _CheckedRows(torch.utils.data.Dataset[Any]):
    def __init__(self, table: Table, readers: Mapping[str, Reader]) -> None:
        self.table, self.readers = table, readers

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, row: int) -> dict[str, Any]:
        table, name = self.table, self.table.ids[row]
        broken, cut = [], []
        readable = 0
        raw = table.raw
        for modality in table.modalities:
            if not table.present[modality][row] and not self.readers[modality].fills:
                continue
            if modality not in raw:
                readable += 1
                continue
            reader, cell, folder = self.readers[modality], raw[modality][row], raw[modality].folder
            try:
                decoded = reader.read(cell, folder=folder)
                what = reader.cut(cell, decoded, folder=folder)
            except Unreadable as error:
                broken.append(Broken(name, modality, str(error)))
                continue
            readable += 1
            if what:
                cut.append((modality, name, what))
        return {"readable": readable, "broken": broken, "cut": cut}
