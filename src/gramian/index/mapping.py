"""A map of an index: its items in two dimensions, with queries and answers in it; and its columns for other viewers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gramian.bundle import Bundle
from gramian.errors import InputError, check_number, require
from gramian.files import atomic
from gramian.geometry import direction
from gramian.index.fields import Value
from gramian.index.flat import FlatIndex

__all__ = ["HAS", "Map", "export", "places_of", "sample"]

SAMPLE = 2000
"""Items that a map is made of."""
NEIGHBOURS = 15
HAS = "modalities of the item"
"""In place of a field of the metadata, to colour a map by."""
PART = 4096  # items read at a time
COSINES = 2**26  # held at a time


def places_of(items: Bundle) -> Tensor:
    """One unit vector per item, (n, d): the direction of the sum of its vectors, by which the score `centroid` compares."""
    return direction(items.vectors.float().sum(1))


def sample(index: FlatIndex, count: int, seed: int = 0) -> list[str]:
    """The ids of at most `count` items, drawn by a seed, in the order in which they were added."""
    drawn = torch.randperm(len(index), generator=torch.Generator().manual_seed(seed))[:count].sort().values
    names, first = [], 0
    for segment in index.segments:
        rows = segment.live.nonzero().flatten()
        chosen = drawn[(drawn >= first) & (drawn < first + len(rows))] - first
        names += [segment.id(row) for row in rows[chosen].tolist()]
        first += len(rows)
    return names


class Map:
    """The two directions in which a sample of an index's items differs most, by principal component analysis.

    An item is one point, the direction of the sum of its vectors. A query is put on the same two axes, which were not made
    for it. Two directions hold a part of the variance, `shares`: items that are close here need not be close in the space.

    Args:
        index: not empty.
        count: items of the sample.
        seed: that it is drawn by.

    Attributes:
        ids: of the sample.
        metadata: of each of its items.
        modalities: what each of its items has, as a text.
        points: (n, 2).
        shares: of the variance, of both axes.

    Raises:
        InputError: the index is empty, or a count below 1.
    """

    def __init__(self, index: FlatIndex, count: int = SAMPLE, seed: int = 0) -> None:
        check_number("count", count, "[1, inf)", integer=True)
        if not len(index):
            raise InputError("the index is empty. Add items first.")
        self.ids: list[str] = sample(index, count, seed)
        self.metadata: list[dict[str, Any]]
        bundle, self.metadata = index.items(self.ids)
        self.modalities: list[str] = [" + ".join(names) for names in _names(bundle)]
        vectors = places_of(bundle).double()
        self._mean = vectors.mean(0)
        _, values, axes = torch.linalg.svd(vectors - self._mean, full_matrices=False)
        signs = axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()  # of both ends of an axis always the same one is up
        self._axes = torch.zeros(2, index.dim, dtype=torch.float64)
        self._axes[: len(axes)] = (signs * axes)[:2]
        energies = values.square()
        shares = (energies / energies.sum().clamp_min(torch.finfo(torch.float64).tiny)).tolist()
        self.shares: tuple[float, float] = (shares[0], shares[1] if len(shares) > 1 else 0.0)
        self.points: Tensor = self.place(vectors)

    def place(self, vectors: Tensor) -> Tensor:
        """(n, d) unit vectors on the map, (n, 2)."""
        return (vectors.double() - self._mean) @ self._axes.T

    def groups(self, field: str, most: int = 7) -> list[str]:
        """For each item of the sample its value of a field as text: the most frequent ones, "other" for the rest, "none".

        The field `HAS` is what the items have.
        """
        values = self.modalities if field == HAS else [_word(one.get(field)) for one in self.metadata]
        counts = Counter(word for word in values if word != "none")
        kept = {*sorted(counts, key=lambda word: (-counts[word], word))[:most], "none"}
        return [word if word in kept else "other" for word in values]


def _names(bundle: Bundle) -> list[list[str]]:
    """The modalities that each item has."""
    return [[name for name, has in zip(bundle.modalities, mask, strict=True) if has] for mask in bundle.present.tolist()]


def _word(value: Value | None) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def export(index: FlatIndex, path: Path, count: int = 20_000, neighbours: int = NEIGHBOURS) -> int:
    """Write the map of an index as a parquet file, in the columns that embedding-atlas reads.

    `id`, `projection_x`, `projection_y`, `neighbors` ({"ids": rows of the file, "distances": 1 − cosine}), `modalities`, and
    one column per field of the metadata.

    Args:
        index: not empty.
        path: the file; its folder exists or is made.
        count: items at most, drawn by a seed.
        neighbours: of each, among them.

    Returns:
        How many items were written.

    Raises:
        InputError: the index is empty, numbers below 1, another ending than .parquet, or pyarrow is not installed.
    """
    require("pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_number("neighbours", neighbours, "[1, inf)", integer=True)
    check_number("count", count, "[1, inf)", integer=True)
    if path.suffix.lower() != ".parquet":
        raise InputError(f"`path` must end in .parquet, which is what is written; got {str(path)!r}.")
    drawn = Map(index, min(count, SAMPLE))
    ids = sample(index, count)
    vectors, modalities, metadata = torch.empty(len(ids), index.dim), [], []
    for start in range(0, len(ids), PART):
        bundle, values = index.items(ids[start : start + PART])
        vectors[start : start + len(bundle)] = places_of(bundle)
        modalities += _names(bundle)
        metadata += values
    points = drawn.place(vectors)
    near: list[dict[str, list[Any]]] = []
    size = max(1, COSINES // len(ids))
    for start in range(0, len(ids), size):
        cosines = vectors[start : start + size] @ vectors.T
        cosines[torch.arange(len(cosines)), torch.arange(start, start + len(cosines))] = -torch.inf
        best = cosines.topk(min(neighbours, len(ids) - 1), dim=1)
        near += [
            {"ids": rows, "distances": [1 - cosine for cosine in values]}
            for rows, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
    columns: dict[str, Any] = {
        "id": ids,
        "projection_x": points[:, 0].tolist(),
        "projection_y": points[:, 1].tolist(),
        "neighbors": pa.array(near, pa.struct([("ids", pa.list_(pa.int64())), ("distances", pa.list_(pa.float64()))])),
        "modalities": modalities,
    }
    for name in index.fields:
        columns.setdefault(name, [one.get(name) for one in metadata])
    with atomic(path) as part:
        pq.write_table(pa.table(columns), part)
    return len(ids)
