"""A Figure as SVG that stands in a page: no styles, no scripts, no colours of its own for text and axes."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any, cast
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["INK", "drawn", "svg_of"]

INK = "#010203"
"""Stands for the colour of the page's text in a Figure that `drawn` surrounds."""

_SVG, _LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
_KEPT = {"svg", "g", "defs", "path", "use", "clipPath", "rect", "text", "tspan", "image", "title", "circle", "line"}
_LONG = re.compile(r"(?<!\w)(-?\d+\.\d\d)\d+")
_FONT = re.compile(r"(?:(?P<style>italic|oblique) )?(?:(?P<weight>bold|\d{3}) )?(?P<size>[\d.]+)px ")


@contextmanager
def drawn() -> Iterator[None]:
    """Figures made within are ready for `svg_of`: text stays text, names are no formulas, and the background is the page's."""
    import matplotlib

    named = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor", "axes.titlecolor")
    options = dict.fromkeys(named, INK) | {
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.framealpha": 0,
        "svg.fonttype": "none",
        "svg.hashsalt": "gramian",
        "text.parse_math": False,
    }
    with matplotlib.rc_context(cast(Any, options)), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the page's fonts may have it
        yield


def svg_of(figure: Figure, label: str, prefix: str, titles: Mapping[str, Sequence[str]] | None = None) -> str:
    """The Figure as an `svg` element. Markup in its texts is escaped.

    Args:
        figure: made and passed within `drawn`.
        label: what it shows, for those who do not see it.
        prefix: of its ids, which no other element of the page has.
        titles: id of a group of points, by `gid` → what to show where the mouse rests on each.

    Returns:
        SVG without a style, a script, or a link to anything but itself and the images inside.
    """
    content = BytesIO()
    figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(content.getvalue())
    _clean(root, prefix)
    for group in root.iter("g"):
        for use, text in zip(group.iter("use"), (titles or {}).get(group.attrib.get("data-gid", ""), ()), strict=False):
            ElementTree.SubElement(use, "title").text = text
        group.attrib.pop("data-gid", None)
    width, height = (float(root.attrib[side].removesuffix("pt")) for side in ("width", "height"))
    root.attrib |= {
        "role": "img",
        "aria-label": label,
        "width": f"{width * 4 / 3:.0f}",
        "height": f"{height * 4 / 3:.0f}",
        "stroke-linejoin": "round",
        "stroke-linecap": "butt",
    }
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)


def _clean(node: ElementTree.Element, prefix: str) -> None:
    """Keep the elements of `_KEPT`; styles become attributes, ids get a prefix, links lead inside."""
    node.tag = node.tag.removeprefix(_SVG)
    attributes = {}
    for name, value in node.attrib.items():
        if name == _LINK:
            attributes["href"] = f"#{prefix}{value[1:]}" if value.startswith("#") else value
        elif name == "style":
            attributes |= _presentation(value, prefix)
        elif name == "id" and node.tag == "g":
            attributes["data-gid"] = value
        elif name == "id":
            attributes["id"] = prefix + value
        elif not name.startswith("{") and not name.startswith("on"):
            attributes[name] = _local(value, prefix)
    if not attributes.get("href", "#").startswith(("#", "data:image/png;")):
        del attributes["href"]
    node.attrib.clear()
    node.attrib.update(attributes)
    for child in list(node):
        tag = child.tag.removeprefix(_SVG) if isinstance(child.tag, str) else ""
        if tag in _KEPT:
            _clean(child, prefix)
        else:
            node.remove(child)
    if node.tag != "text" and node.text and not node.text.strip():
        node.text = None
    node.tail = None


def _presentation(style: str, prefix: str) -> dict[str, str]:
    """The declarations of a style as attributes; the family of fonts is the page's."""
    attributes = {}
    for declaration in style.split(";"):
        name, _, value = (part.strip() for part in declaration.partition(":"))
        font = _FONT.match(value) if name == "font" else None
        if font:
            attributes["font-size"] = font["size"]
            attributes |= {f"font-{part}": font[part] for part in ("style", "weight") if font[part]}
        elif name and name not in ("font", "font-family"):
            attributes[name] = _local(value, prefix)
    return attributes


def _local(value: str, prefix: str) -> str:
    value = value.replace("url(#", f"url(#{prefix}").replace(INK, "currentColor")
    return _LONG.sub(r"\1", " ".join(value.split()))
