"""`Sheet`: a small table of text, for the terminal and for Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as RichTable
from rich.text import Text

__all__ = ["LISTED", "Sheet", "progress_bar", "unreadable", "visible"]

LISTED = 20
"""Rows of a sheet that lists cells one by one."""


@dataclass(frozen=True)
class Sheet:
    """Rows of text under a header; the first column is left-aligned, the others right.

    >>> print(Sheet("Fruit", ("kind", "number"), (("apples", "3"),), "Counted once.").markdown())
    ### Fruit
    <BLANKLINE>
    | kind | number |
    | :--- | ---: |
    | apples | 3 |
    <BLANKLINE>
    Counted once.
    <BLANKLINE>
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def markdown(self) -> str:
        """A heading, the table and the note."""
        return f"### {visible(self.title)}\n\n{self._body()}"

    def _repr_markdown_(self) -> str:
        """What Jupyter shows."""
        return f"**{visible(self.title)}**\n\n{self._body()}"

    def _body(self) -> str:
        lines = [_line(self.header), _line((":---", *("---:" for _ in self.header[1:])))]
        lines += [_line(row) for row in self.rows]
        if self.note:
            lines += ["", self.note]
        return "\n".join(lines) + "\n"

    def rich(self) -> RichTable:
        """For a rich console."""
        table = RichTable(
            title=Text(visible(self.title)),
            caption=Text(visible(self.note)) if self.note else None,
            title_justify="left",
            caption_justify="left",
            box=SIMPLE_HEAD,
            pad_edge=False,
            padding=(0, 1, 0, 0),
            show_edge=False,
        )
        for i, name in enumerate(self.header):
            table.add_column(Text(visible(name)), justify="right" if i else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(visible(cell)) for cell in row))
        return table


def unreadable(broken: Sequence[tuple[str, str, str]]) -> Sheet:
    """The first of the cells (id, column, reason) that could not be read.

    >>> unreadable([("7", "image", "no such file")]).rows
    (('image', '7', 'no such file'),)
    """
    rows = tuple((column, row, reason) for row, column, reason in broken[:LISTED])
    note = f"{len(broken)} in all." if len(broken) > LISTED else ""
    return Sheet("Unreadable, counted as missing", ("column", "id", "reason"), rows, note)


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(visible(cell).replace("|", "\\|") for cell in cells) + " |"


_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    r"""A user's text with its control characters escaped: line breaks, terminal sequences, changes of direction.

    >>> print(visible("a\nb"), visible("\x1b[31mred"))
    a\nb \x1b[31mred
    """
    return _UNSEEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def progress_bar(show: bool, *, note: bool = False, transient: bool = False) -> Progress:
    """A progress bar with the number of steps done and the time that remains.

    Args:
        show: whether anything is shown.
        note: end with the task's field "note".
        transient: whether it goes away in the end.

    Returns:
        The bar, to be used as a context.
    """
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    notes = [TextColumn("{task.fields[note]}")] if note else []
    return Progress(*columns, *notes, disable=not show, transient=transient)
