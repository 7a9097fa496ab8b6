"""Data sets by name: one that ships with the package, and those that `gramian prepare` makes from packages of registries."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gramian.data.sets import digits, emoji
from gramian.data.sets.packages import Package
from gramian.data.table import Table

__all__ = ["SETS", "DataSet", "cache_folder", "prepared"]


@dataclass(frozen=True)
class DataSet:
    """A data set that is made once on each machine.

    Attributes:
        about: what it is, in a line.
        packages: what it is made from.
        collect: package → archive, to the table: features, or the raw cells that frozen encoders read.
        encoders: raw column → "image" or "text".
        group: the id of an item to that of its group, whose members stay on one side of every split.
        stratum: the id of an item to the class that is split like the others; none by default.
    """

    about: str
    packages: tuple[Package, ...]
    collect: Callable[[Mapping[str, Path]], Table]
    encoders: Mapping[str, str] = field(default_factory=dict)
    group: Callable[[str], str] = str
    stratum: Callable[[str], str] | None = None


SETS: Mapping[str, DataSet] = {
    "digits": DataSet(
        "2,000 handwritten numerals of ten classes, six kinds of features",
        digits.PACKAGES,
        digits.collect,
        stratum=lambda name: name.partition("/")[0],
    ),
    "emoji": DataSet(
        "1,852 emoji: a name, keywords and three drawings, as features of frozen encoders",
        emoji.PACKAGES,
        emoji.collect,
        encoders={"text": "text", "tags": "text", "fluent": "image", "twemoji": "image", "openmoji": "image"},
        group=emoji.group_of,
    ),
}


def cache_folder() -> Path:
    """Where prepared data sets lie: `$GRAMIAN_CACHE`, or `gramian` in `$XDG_CACHE_HOME` or `~/.cache`."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("GRAMIAN_CACHE") or Path(home) / "gramian")


def prepared(name: str) -> Path:
    """The table of features of a data set, which exists once `gramian prepare` has made it."""
    return cache_folder() / f"{name}.safetensors"
