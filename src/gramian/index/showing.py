"""What an `Explorer` found as HTML: cards of answers, the map. Every value passes an autoescaped template.

The templates take the macros of media from those of the report. Needs the package jinja2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from gramian.evaluation.page import environment
from gramian.index.explorer import Found, Mark
from gramian.index.mapping import Map

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["STYLE", "answers_html", "head_html", "map_html", "notice_html"]

TEMPLATES = Path(__file__).parent / "templates"
STYLE = TEMPLATES / "explore.css"
WIDTH, HEIGHT, MARGIN = 640, 460, 26


@cache
def _template(name: str) -> Template:
    from jinja2 import ChoiceLoader, FileSystemLoader

    shared = environment()
    assert shared.loader is not None
    return shared.overlay(loader=ChoiceLoader([FileSystemLoader(TEMPLATES), shared.loader])).get_template(name)


def answers_html(found: Found) -> str:
    """The query and the answers, one list per score, side by side."""
    return _template("answers.html").render(found=found)


def head_html(title: str, about: str) -> str:
    """The head of the page."""
    return _template("head.html").render(title=title, about=about)


def notice_html(message: str, *, alert: bool = False) -> str:
    """A line instead of answers; of an alert it says so to screen readers."""
    return _template("notice.html").render(message=message, alert=alert)


@dataclass(frozen=True)
class _Dots:
    """Points of one colour: a path of dots."""

    name: str
    path: str


@dataclass(frozen=True)
class _Placed:
    """A mark in the picture's own coordinates."""

    mark: Mark
    x: float
    y: float


def map_html(drawn: Map, found: Found | None = None, colour: str = "") -> str:
    """The map as a picture with a table beside it.

    Args:
        drawn: the items.
        found: the query and the answers in it.
        colour: the field that colours the items; none by default.

    Returns:
        HTML.
    """
    marks = found.marks if found else ()
    xs = [*drawn.points[:, 0].tolist(), *(mark.x for mark in marks)]
    ys = [*drawn.points[:, 1].tolist(), *(mark.y for mark in marks)]
    left, right, low, high = min(xs), max(xs), min(ys), max(ys)
    # One scale for both axes: distances on the map are comparable.
    scale = min((WIDTH - 2 * MARGIN) / max(right - left, 1e-9), (HEIGHT - 2 * MARGIN) / max(high - low, 1e-9))

    def place(x: float, y: float) -> tuple[float, float]:
        return WIDTH / 2 + scale * (x - (left + right) / 2), HEIGHT / 2 - scale * (y - (low + high) / 2)

    groups = drawn.groups(colour) if colour else ["items"] * len(drawn.ids)
    names = sorted(set(groups), key=lambda name: (name in ("other", "none"), -groups.count(name), name))
    points = [place(x, y) for x, y in drawn.points.tolist()]
    dots = [_Dots(name, _path([at for at, group in zip(points, groups, strict=True) if group == name])) for name in names]
    placed = [_Placed(mark, *place(mark.x, mark.y)) for mark in marks]
    return _template("map.html").render(
        dots=dots,
        placed=placed[::-1],  # the query and the best answers are drawn last, above the others
        marks=marks,
        scores=tuple(found.lists) if found else (),
        count=len(drawn.ids),
        shares=drawn.shares,
        colour=colour,
        size=(WIDTH, HEIGHT),
    )


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "".join(f"M{x:.1f} {y:.1f}h0" for x, y in points)
