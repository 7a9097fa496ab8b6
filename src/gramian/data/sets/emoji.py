"""Emoji: a name, keywords and three drawings each, by Microsoft (Fluent, 3D), Twitter (Twemoji) and OpenMoji (both flat)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gramian.data.cells import Cells
from gramian.data.sets.packages import Package, members
from gramian.data.sets.splitting import split_by_hash
from gramian.data.table import Table

__all__ = ["PACKAGES", "collect", "group_of"]

PACKAGES = (
    Package(
        "npm",
        "emojibase-data",
        "17.0.0",
        "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
        "MIT",
        "Emojibase, Miles Johnson; names and keywords of Unicode CLDR",
    ),
    Package(
        "npm",
        "@lobehub/fluent-emoji-3d",
        "1.1.0",
        "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        "MIT",
        "Fluent Emoji, Microsoft",
    ),
    Package(
        "npm",
        "@iconify-json/twemoji",
        "1.2.5",
        "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
        "CC-BY-4.0",
        "Twemoji, Twitter and contributors",
    ),
    Package(
        "npm",
        "@iconify-json/openmoji",
        "1.2.29",
        "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5",
        "CC-BY-SA-4.0",
        "OpenMoji, HfG Schwäbisch Gmünd",
    ),
)

_SKIN_TONES = {"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"}
_SIGNS = {"200D", "FE0F", "2640", "2642"}
"""Joiners and variants, and the signs of the two genders."""
_PEOPLE = {"1F468": "1F9D1", "1F469": "1F9D1"}
"""Man and woman, to person."""


def collect(archives: Mapping[str, Path]) -> Table:
    """The emoji that have a name and a Fluent drawing.

    Args:
        archives: package → archive.

    Returns:
        Raw columns `text` (the name), `tags` (keywords), `fluent` (WebP), `twemoji` and `openmoji` (SVG); ids are hexadecimal
        code points, as "1F468-200D-1F373". 60 % to train, 13 % for validation, 27 % to test, the forms of one emoji for
        several genders and skin tones (`group_of`) on one side.

    Raises:
        InputError: an archive without what is read.
    """
    entries: list[dict[str, Any]] = json.loads(dict(members(archives["emojibase-data"], "package/en/data.json"))[""])
    fluent = {
        _key(name.removesuffix(".webp")): content
        for name, content in members(archives["@lobehub/fluent-emoji-3d"], "package/assets/")
        if name.endswith(".webp")
    }
    flat = {name: _drawings(archives[f"@iconify-json/{name}"]) for name in ("twemoji", "openmoji")}
    entries = [entry for entry in entries if _key(entry["hexcode"]) in fluent]
    keys = [_key(entry["hexcode"]) for entry in entries]
    ids = [entry["hexcode"] for entry in entries]
    columns: dict[str, list[Any]] = {
        "text": [entry["label"] for entry in entries],
        "tags": [", ".join(entry.get("tags", ())) or None for entry in entries],
        "fluent": [fluent[key] for key in keys],
        **{name: [drawings.get(key) for key in keys] for name, drawings in flat.items()},
    }
    split = split_by_hash([group_of(name) for name in ids], "emoji-1", test=0.27, validation=0.13)
    return Table.from_columns({name: Cells(cells) for name, cells in columns.items()}, ids=ids, split=split)


def group_of(name: str) -> str:
    """What the forms of one emoji have in common: its code points without skin tones and genders.

    >>> group_of("1F469-1F3FD-200D-1F373") == group_of("1F468-200D-1F373") == group_of("1F9D1-200D-1F373")
    True
    """
    points = [_PEOPLE.get(point, point) for point in name.upper().split("-") if point not in _SKIN_TONES | _SIGNS]
    return "-".join(points) or name


def _key(hexcode: str) -> str:
    """Code points without the sign that asks for a coloured drawing, which some packages leave out."""
    return "-".join(point for point in hexcode.lower().split("-") if point != "fe0f")


def _drawings(archive: Path) -> dict[str, bytes]:
    """Key → SVG, of a package of Iconify's."""
    files = dict(members(archive, "package/"))
    icons = json.loads(files["icons.json"])
    drawings = {}
    for hexcode, name in json.loads(files["chars.json"]).items():
        icon = icons["icons"].get(name)
        if icon is not None:
            width, height = (icon.get(side, icons[side]) for side in ("width", "height"))
            drawings[_key(hexcode)] = (
                f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
                f'viewBox="0 0 {width} {height}" width="{width}" height="{height}">{icon["body"]}</svg>'
            ).encode()
    return drawings
