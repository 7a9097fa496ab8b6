"""`Page`: tables, pictures and examples as one HTML file that needs nothing else and can call nobody.

Everything passes a Jinja2 template that escapes it; pictures are SVG elements that `svg_of` wrote and data URIs. The page's
content security policy allows its own style and script, by their hashes, and images and media inside the file: a browser
fetches nothing, whatever the page holds. Needs the extra `report`.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gramian.errors import require
from gramian.evaluation.previews import Preview
from gramian.evaluation.stats import Interval
from gramian.files import write_text
from gramian.sheets import Sheet, visible

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = [
    "Block",
    "Card",
    "Cards",
    "Cell",
    "Code",
    "Entry",
    "Facts",
    "Page",
    "Picture",
    "Section",
    "Tile",
    "environment",
    "grid",
]

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Picture:
    """A picture with its caption.

    Attributes:
        title: above it.
        svg: an element of `svg_of`: the one thing that a page does not escape.
        caption: what to see in it.
    """

    title: str
    svg: str
    caption: str = ""


@dataclass(frozen=True)
class Entry:
    """A row of a table as it lies in a modality.

    Attributes:
        modality: its name.
        id: of the row.
        preview: of the cell; None without media.
        mark: "match", "other", or nothing.
    """

    modality: str
    id: str
    preview: Preview | None = None
    mark: str = ""


@dataclass(frozen=True)
class Card:
    """A query and what was found for it.

    Attributes:
        title: as "rank 37 of 150".
        query: what was asked.
        found: the candidates, the first first.
        wanted: the match, where it is not among them.
    """

    title: str
    query: Entry
    found: tuple[Entry, ...]
    wanted: Entry | None = None


@dataclass(frozen=True)
class Cards:
    """Cards under a title that folds them away.

    Attributes:
        title: of them all.
        groups: heading → cards.
        opened: whether they are unfolded at first.
    """

    title: str
    groups: Mapping[str, Sequence[Card]]
    opened: bool = False


@dataclass(frozen=True)
class Facts:
    """Names and values."""

    values: Mapping[str, str]
    title: str = ""


@dataclass(frozen=True)
class Code:
    """Text of fixed width."""

    text: str
    title: str = ""


Block = Sheet | Picture | Cards | Facts | Code | str


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Tile:
    """One figure that a reader should not miss: its name, its value, and what it means."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Page:
    """What a page says.

    Attributes:
        title: of the page.
        subtitle: what it is about: data, split, items.
        verdict: sentences; the first is the most important one.
        tiles: figures beside it.
        sections: the rest, in order.
        footer: how it was made.
    """

    title: str
    subtitle: str
    verdict: Sequence[str]
    tiles: Sequence[Tile] = ()
    sections: Sequence[Section] = ()
    footer: str = ""

    def html(self) -> str:
        """The page as one file's text."""
        style, script = (TEMPLATES / "page.css").read_text("utf-8"), (TEMPLATES / "page.js").read_text("utf-8")
        policy = (
            f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; img-src data:; media-src data:; "
            "base-uri 'none'; form-action 'none'"
        )
        return environment().get_template("page.html").render(page=self, style=_raw(style), script=_raw(script), policy=policy)

    def save(self, path: str | Path) -> Path:
        """Write the page, whole or not at all; return the path."""
        return write_text(path, self.html())


@cache
def environment() -> Environment:
    """The templates, with every value escaped: `page.html`, and `cards.html` with the macros `card` and `preview`.

    Returns:
        Jinja2's Environment, which other pages may take.

    Raises:
        InputError: Jinja2 is not installed.
    """
    require("jinja2")
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    templates.filters |= {
        "shown": visible,
        "prose": _prose,
        "grid": grid,
        "kind": lambda block: type(block).__name__,
        "size": size_of,
    }
    return templates


def _prose(text: str) -> str:
    """A sentence, whose numbers stay with their unit where a line ends."""
    return re.sub(r"(?<=\d) (?=%)", "\u00a0", visible(text))


def _raw(text: str) -> Any:
    from markupsafe import Markup

    return Markup(text)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: as it is read.
        order: what the column is sorted by; None for text.
        interval: in per cent, where the text is one.
    """

    text: str
    order: float | None = None
    interval: Interval | None = None


@dataclass(frozen=True)
class Grid:
    """A Sheet whose cells know what they are.

    Attributes:
        header: names of the columns.
        rows: cells.
        ranges: for each column the ends of the scale that its intervals share; None without intervals.
        numeric: for each column whether it holds numbers.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    ranges: tuple[tuple[float, float] | None, ...] = field(default=())
    numeric: tuple[bool, ...] = field(default=())


_NUMBER = re.compile(r"\s*(?:[<>] ?)?(-?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?)\b")
_INTERVAL = re.compile(r"(-?\d+(?:\.\d+)?) \[(-?\d+(?:\.\d+)?), (-?\d+(?:\.\d+)?)\]")


def grid(sheet: Sheet) -> Grid:
    """The cells of a Sheet, read: numbers to sort by, intervals to draw.

    >>> grid(Sheet("", ("run", "R@1"), (("a", "12.5 [9.0, 16.0]"),))).rows[0][1].interval
    Interval(value=12.5, low=9.0, high=16.0)
    """
    rows = tuple(tuple(_cell(text) for text in row) for row in sheet.rows)
    columns = list(zip(*rows, strict=False)) or [() for _ in sheet.header]
    return Grid(
        header=sheet.header,
        rows=rows,
        ranges=tuple(_range(column) for column in columns),
        numeric=tuple(any(cell.order is not None for cell in column) and i > 0 for i, column in enumerate(columns)),
    )


def _cell(text: str) -> Cell:
    interval = _INTERVAL.fullmatch(text)
    number = _NUMBER.match(text)
    order = float(number[1].replace(",", "")) if number else None
    return Cell(text, order, Interval(*map(float, interval.groups())) if interval else None)


def _range(column: Iterable[Cell]) -> tuple[float, float] | None:
    intervals = [cell.interval for cell in column if cell.interval is not None]
    if not intervals:
        return None
    low, high = min(0.0, *(one.low for one in intervals)), max(0.0, *(one.high for one in intervals))
    return (low, high) if high > low else None


def size_of(octets: int) -> str:
    """A size in words.

    >>> size_of(900), size_of(20_480), size_of(3_000_000)
    ('900 bytes', '20 kB', '3.0 MB')
    """
    if octets < 1000:
        return f"{octets} bytes"
    return f"{octets / 1000:.0f} kB" if octets < 999_500 else f"{octets / 1e6:.1f} MB"
