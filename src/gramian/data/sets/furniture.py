"""Furniture: 820 models of Sweet Home 3D, each with a name, a picture, a view of its mesh as depth, and its dimensions."""

from __future__ import annotations

import io
import re
import unicodedata
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gramian.data.cells import Cells
from gramian.data.sets.meshes import depth_image, read_obj
from gramian.data.sets.packages import Package, members
from gramian.data.sets.splitting import split_by_hash
from gramian.data.table import Table
from gramian.errors import InputError

__all__ = ["PACKAGES", "author_of", "collect", "group_of"]

PACKAGES = (
    Package(
        "debian",
        "sweethome3d-furniture",
        "1.8-1",
        "3ccb90c63f9525e887a767b9cd5c8b6933b8b6b2973a615a5359ee68a2118668",
        "CC0-1.0 AND CC-BY-3.0 AND CC-BY-3.0-US",
        "Scopia, Andrew Kator and Jennifer Legaz, Reallusion, contributors of Blend Swap; for Sweet Home 3D, eTeks",
    ),
)

COLOURS = frozenset(
    {
        "beige",
        "black",
        "blue",
        "brown",
        "cream",
        "dark",
        "gold",
        "gray",
        "green",
        "grey",
        "ivory",
        "light",
        "orange",
        "pink",
        "purple",
        "red",
        "silver",
        "violet",
        "white",
        "yellow",
    }
)


def collect(archives: Mapping[str, Path]) -> Table:
    """The models of all five collections.

    Args:
        archives: package → archive.

    Returns:
        Raw columns `text` (name and category), `image` (the catalogue's picture) and `depth` (see `depth_image`), and features
        `dimensions`: the logarithms of width, depth and height in cm, and the height above the floor in m. Ids are collection,
        creator, a number and the name: "Scopia/Scopia/0007/Armchair". 60 % to train, 13 % for validation, 27 % to test, models
        of one name (`group_of`) on one side.

    Raises:
        InputError: an archive without what is read, or a mesh that is none.
    """
    ids: list[str] = []
    cells: dict[str, list[Any]] = {"text": [], "image": [], "depth": []}
    sensors: list[list[float]] = []
    for name, content in members(archives["sweethome3d-furniture"], "./usr/share/sweethome3d/furniture/"):
        collection, ending, _ = name.partition(".sh3f")
        if not ending:
            continue
        with zipfile.ZipFile(io.BytesIO(content)) as files:
            for number, entry in _entries(files.read("PluginFurnitureCatalog.properties")):
                ids.append(f"{collection}/{entry['creator']}/{number:04d}/{entry['name']}")
                width, depth, height = (float(entry[side]) for side in ("width", "depth", "height"))
                vertices, faces = read_obj(files.read(entry["model"].lstrip("/")))
                if "modelRotation" in entry:
                    vertices = vertices @ np.array(entry["modelRotation"].split(), dtype=np.float64).reshape(3, 3).T
                cells["text"].append(f"{entry['name']}, {entry['category'].lower()}")
                cells["image"].append(files.read(entry["icon"].lstrip("/")))
                cells["depth"].append(np.repeat(depth_image(vertices, faces, (width, height, depth))[..., None], 3, axis=-1))
                sensors.append([np.log(width), np.log(depth), np.log(height), float(entry.get("elevation", 0)) / 100])
    if not ids:
        raise InputError("the archive of sweethome3d-furniture must hold collections (.sh3f); it has none.")
    split = split_by_hash([group_of(name) for name in ids], "furniture-1", test=0.27, validation=0.13)
    columns: dict[str, Any] = {name: Cells(column) for name, column in cells.items()}
    return Table.from_columns({**columns, "dimensions": torch.tensor(sensors)}, ids=ids, split=split)


def group_of(name: str) -> str:
    """What models of one thing have in common: the name without numbers, colours and plural.

    >>> group_of("Scopia/Scopia/0007/White armchair 2") == group_of("BlendSwap-CC-0/Absfrm/0001/Armchair")
    True
    """
    plain = unicodedata.normalize("NFKD", name.rpartition("/")[2]).casefold()
    words = [word for word in re.findall(r"[^\W\d_]+", plain) if word not in COLOURS]
    return " ".join(word.removesuffix("s") for word in words) or plain


def author_of(name: str) -> str:
    """Who made a model: one collection's models look alike, so that a split by authors is the harder one.

    >>> author_of("BlendSwap-CC-0/Absfrm/0001/Armchair")
    'BlendSwap-CC-0/Absfrm'
    """
    return "/".join(name.split("/")[:2])


def _entries(properties: bytes) -> Iterator[tuple[int, dict[str, str]]]:
    """Number and entries of each model in a catalogue, a Java properties file."""
    models: dict[int, dict[str, str]] = {}
    for line in properties.decode("latin-1").splitlines():
        match = re.match(r"(\w+)#(\d+)\s*=(.*)", line)
        if match:
            value = re.sub(r"\\u([0-9a-fA-F]{4})", lambda code: chr(int(code[1], 16)), match[3].strip())
            models.setdefault(int(match[2]), {})[match[1]] = value
    for number, entry in sorted(models.items()):
        lost = [key for key in ("name", "category", "creator", "icon", "model", "width", "depth", "height") if key not in entry]
        if lost:
            raise InputError(f"model {number} of the catalogue must have {', '.join(lost)}.")
        yield number, entry
