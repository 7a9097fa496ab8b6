"""Arrow ↔ features, both ways: lists of numbers, also written as text, into tensors; vectors into Arrow arrays and parquet."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from gramian.data.cells import is_empty
from gramian.errors import InputError, require, shown
from gramian.rows import one_width

if TYPE_CHECKING:
    import pyarrow

__all__ = ["Column", "kind_of", "plain", "read_vectors", "vector_array", "write_vectors"]

Column: TypeAlias = "pyarrow.ChunkedArray | list[Any]"
"""n cells as a format gives them: an Arrow column, or a list where a format has cells of several kinds."""

RESERVED = ("id", "split", "item")
"""Columns of a table that are about the rows; no modality has their names."""


def plain(column: pyarrow.ChunkedArray) -> pyarrow.ChunkedArray:
    """The same cells in a type without encodings: no dictionaries, views, runs or extensions."""
    import pyarrow as pa

    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return plain(pa.chunked_array([chunk.storage for chunk in column.chunks], kind.storage_type))
    if pa.types.is_run_end_encoded(kind):
        import pyarrow.compute as pc

        return plain(pc.run_end_decode(column))
    if pa.types.is_dictionary(kind):
        return plain(column.cast(kind.value_type))
    if pa.types.is_string_view(kind):
        return column.cast(pa.large_string())
    if pa.types.is_binary_view(kind):
        return column.cast(pa.large_binary())
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):  # casts of views give broken arrays
        return pa.chunked_array([pa.array(column.to_pylist(), pa.large_list(kind.value_type))])
    return column


def read_vectors(name: str, column: Column, requested: bool) -> tuple[Tensor, Tensor] | None:
    """A column of lists of numbers, or of their text "[0.1, 0.2]", as features.

    Text counts as features if more than half of the filled cells begin with a bracket, or if the column is requested.

    Args:
        name: of the column.
        column: its cells.
        requested: whether the column was named as one of features.

    Returns:
        (n, width) float32, zero where missing, and (n,) bool; None if the column holds something else.

    Raises:
        InputError: lists of several widths, with empty values in them, or no list in one of the rows.
    """
    if not isinstance(column, list):
        if _holds_lists(column.type):
            return _from_lists(name, column)
        if not _holds_text(column.type):
            return None
        column = column.to_pylist()
    cells: list[Any] = column
    filled = [cell for cell in cells if not is_empty(cell)]
    if not filled:
        return None
    vectors = sum(map(_looks_like_vector, filled))
    if not vectors or (2 * vectors <= len(filled) and not requested):
        return None
    return _from_cells(name, cells)


def _holds_lists(kind: pyarrow.DataType) -> bool:
    import pyarrow as pa

    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(lists and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)))


def _holds_text(kind: pyarrow.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _looks_like_vector(cell: Any) -> bool:
    """Judged by its first character, or its first value."""
    if isinstance(cell, str):
        return cell.lstrip().startswith("[")
    if isinstance(cell, np.ndarray):
        return cell.ndim == 1
    return isinstance(cell, list) and type(cell[0]) in (int, float, type(None))


def _from_lists(name: str, column: pyarrow.ChunkedArray) -> tuple[Tensor, Tensor]:
    """Chunk by chunk: together they may hold more values than Arrow's lists can count."""
    import pyarrow as pa

    lengths = [_lengths(chunk) for chunk in column.chunks]
    present = torch.from_numpy(np.concatenate([*lengths, np.zeros(0, np.int64)]) > 0)  # null and empty lists are missing
    width = one_width(f"column `{name}`", [int(n) for part in lengths for n in part[part > 0]])
    _check_density(name, present, width)
    values = torch.zeros(len(present), width)
    start = 0
    for chunk, sizes in zip(column.chunks, lengths, strict=True):
        flat = (chunk if (sizes > 0).all() else chunk.filter(pa.array(sizes > 0))).flatten()
        if flat.null_count:
            raise InputError(
                f"column `{name}` holds lists with {flat.null_count} empty values. Correct them, or leave those cells empty."
            )
        with np.errstate(over="ignore"):  # what is infinite is counted by `Table.check`
            rows = torch.from_numpy(flat.to_numpy(zero_copy_only=False).astype(np.float32)).reshape(-1, width)
        values[start : start + len(chunk)][torch.from_numpy(sizes > 0)] = rows
        start += len(chunk)
    return values, present


def _lengths(chunk: pyarrow.Array) -> np.ndarray:
    lengths: np.ndarray = chunk.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return lengths


def _from_cells(name: str, cells: Sequence[Any]) -> tuple[Tensor, Tensor]:
    rows: list[np.ndarray | None] = []
    for number, cell in enumerate(cells):
        try:
            rows.append(_vector(cell))
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            hint = "; some values are empty" if isinstance(error, _EmptyValueError) else ""
            raise InputError(
                f"column `{name}`, row {number}: {shown(cell)} is not a list of numbers such as [0.1, 0.2]{hint}."
            ) from None
    width = one_width(f"column `{name}`", [len(row) for row in rows if row is not None])
    present = torch.tensor([row is not None for row in rows], dtype=torch.bool)
    _check_density(name, present, width)
    values = np.zeros((len(rows), width), np.float32)
    for number, row in enumerate(rows):
        if row is not None:
            values[number] = row
    return torch.from_numpy(values), present


def _check_density(name: str, present: Tensor, width: int) -> None:
    """A column is a matrix, which has room for the rows that lack it, too."""
    filled, rows = int(present.sum()), len(present)
    if 4 * rows * width > 2**30 and 100 * filled < rows:
        raise InputError(
            f"column `{name}` has {width:,} numbers in {filled:,} of {rows:,} rows: a matrix of {4 * rows * width:,} bytes for "
            "next to nothing. Put these rows into a table of their own."
        )


class _EmptyValueError(ValueError):
    pass


def _vector(cell: Any) -> np.ndarray | None:
    """One list of numbers, or its text, in float32; None for an empty cell."""
    if is_empty(cell):
        return None
    values = json.loads(cell) if isinstance(cell, str) else cell
    if not isinstance(values, list | np.ndarray):
        raise ValueError("no list")
    if isinstance(values, list) and (kinds := set(map(type, values)) - {int, float}):
        raise _EmptyValueError if kinds == {type(None)} else ValueError("no numbers")
    with np.errstate(over="ignore"):
        vector = np.asarray(values, np.float64).astype(np.float32)
    if vector.ndim != 1:
        raise ValueError("no vector")
    return vector if len(vector) else None


def kind_of(column: Column) -> str:
    """What a column holds, in a word or two."""
    if isinstance(column, list):
        kinds = dict.fromkeys(type(cell).__name__ for cell in column if not is_empty(cell))
        return " and ".join({"str": "string"}.get(kind, kind) for kind in kinds) or "empty"
    kind = str(column.type).replace("large_", "")
    return "media files" if kind.startswith("struct<bytes") else kind


def vector_array(values: Tensor, present: Tensor) -> pyarrow.Array:
    """Vectors as an Arrow array of lists of float32, null where missing.

    Args:
        values: (n, width) floating point.
        present: (n,) bool.

    Returns:
        n lists; only those that are present take space.
    """
    import pyarrow as pa

    mask = present.cpu().numpy()
    rows = values.detach().cpu().float().numpy()
    flat = rows if mask.all() else rows[mask]
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(mask, dtype=np.int64) * rows.shape[1]])
    return pa.LargeListArray.from_arrays(pa.array(ends), pa.array(flat.reshape(-1)), mask=pa.array(~mask))


def write_vectors(
    strings: Mapping[str, Iterable[str | None]], columns: Mapping[str, Tensor], present: Mapping[str, Tensor], path: str | Path
) -> None:
    """Write columns of strings, and of features as lists of float32, to a parquet file.

    Args:
        strings: name → n strings: "id", "split", "item", and labels, of which some may be None.
        columns: modality → (n, width).
        present: modality → (n,) bool.
        path: of the file.

    Raises:
        InputError: a modality with one of the names in `RESERVED`.
    """
    require("pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    clash = [name for name in columns if name in RESERVED or name in strings]
    if clash:
        raise InputError(f"`columns` must not name a modality {clash[0]!r}: tables keep that name for the rows. Rename it.")
    arrays = {name: pa.array(list(values), pa.large_string()) for name, values in strings.items()}
    arrays |= {name: vector_array(values, present[name]) for name, values in columns.items()}
    # Vectors do not repeat: a dictionary, and statistics of their entries, would cost time to no use.
    pq.write_table(pa.table(arrays), path, use_dictionary=list(strings), write_statistics=list(strings))
