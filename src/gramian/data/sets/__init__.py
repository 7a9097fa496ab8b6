"""Data sets by name: one that ships with the package, and those that `gramian prepare` makes from packages of registries.

"digits" has the one split that figures are quoted for; "digits@1" to "digits@10" are ten others of the same items, of the same
shares and by the same groups, for what must hold on more than one split.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gramian.data.sets import digits, emoji, furniture
from gramian.data.sets.packages import Package
from gramian.data.sets.splitting import resplit
from gramian.data.table import Table
from gramian.errors import check_choice

__all__ = ["REPEATS", "SETS", "DataSet", "another_split", "cache_folder", "prepared", "set_of"]

REPEATS = 10
"""Splits of each set besides its own."""


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
        ways: the name of a further split to what it groups by, as in "furniture@author".
    """

    about: str
    packages: tuple[Package, ...]
    collect: Callable[[Mapping[str, Path]], Table]
    encoders: Mapping[str, str] = field(default_factory=dict)
    group: Callable[[str], str] = str
    stratum: Callable[[str], str] | None = None
    ways: Mapping[str, Callable[[str], str]] = field(default_factory=dict)


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
    "furniture": DataSet(
        "820 pieces of furniture: a name, a picture and a view as depth, as features of frozen encoders; the dimensions",
        furniture.PACKAGES,
        furniture.collect,
        encoders={"text": "text", "image": "image", "depth": "image"},
        group=furniture.group_of,
        ways={"author": furniture.author_of},
    ),
}


def cache_folder() -> Path:
    """Where prepared data sets lie: `$GRAMIAN_CACHE`, or `gramian` in `$XDG_CACHE_HOME` or `~/.cache`."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("GRAMIAN_CACHE") or Path(home) / "gramian")


def prepared(name: str) -> Path:
    """The table of features of a data set, which exists once `gramian prepare` has made it."""
    return cache_folder() / f"{name}.safetensors"


def set_of(data: str) -> tuple[str, str]:
    """The set and the split that a name such as "digits@3" stands for; the split is "" for the set's own.

    >>> set_of("digits@3"), set_of("digits"), set_of("some/file@home.parquet")
    (('digits', '3'), ('digits', ''), ('some/file@home.parquet', ''))
    """
    name, _, way = data.partition("@")
    return (name, way) if name in ("stamps", *SETS) else (data, "")


def another_split(table: Table, name: str, way: str) -> Table:
    """A set under another of its splits.

    Args:
        table: the set.
        name: of the set.
        way: "1" to "10", or what the set can be grouped by besides.

    Returns:
        The table. The rows of stamps that share a caption with others stay apart; each of the rest has a caption of its own.

    Raises:
        InputError: no such split.
    """
    data_set = SETS.get(name)
    ways = dict(data_set.ways) if data_set else {}
    way = check_choice("data", way, (*map(str, range(1, REPEATS + 1)), *ways))
    group = ways.get(way, data_set.group if data_set else str)
    return resplit(table, f"{name}@{way}", group=group, stratum=data_set.stratum if data_set else None)
