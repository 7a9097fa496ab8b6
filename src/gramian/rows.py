"""Rows with holes: vectors of which some are missing, read into one tensor and a mask; masks, ids and indices of rows."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import reduce
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from gramian.errors import InputError, first_line, listing

__all__ = ["one_width", "read_ids", "read_mask", "read_rows", "row_index"]


def read_rows(subject: str, rows: Tensor | np.ndarray | Sequence[Any], ndim: Literal[1, 2] = 1) -> tuple[Tensor, Tensor]:
    """Vectors, or sequences of vectors, in one tensor, with a mask of those that are present.

    Args:
        subject: what is read, for errors.
        rows: n vectors (d,), or with `ndim` 2 n sequences (tokens, d); `None` or empty where missing. An array (n, d) has all.
        ndim: of one row.

    Returns:
        Values (n, d) and mask (n,); with `ndim` 2, padded to the longest, (n, t, d) and (n, t). Zero where missing, and of the
        widest floating-point type among the rows that are tensors; lists and arrays in a sequence are read as float32.

    Raises:
        InputError: rows of several widths, a row that is no vector, or nothing in any row.

    >>> read_rows("`x`", [[1.0, 2.0], None])
    (tensor([[1., 2.],
            [0., 0.]]), tensor([ True, False]))
    """
    if ndim == 1 and isinstance(rows, Tensor | np.ndarray):
        values = torch.as_tensor(rows)
        if values.ndim != 2 or values.is_complex():
            raise InputError(
                f"{subject} must have shape (n, d) and hold real numbers; got {tuple(values.shape)}, {values.dtype}."
            )
        values = values if values.is_floating_point() else values.float()
        return values, torch.ones(len(values), dtype=torch.bool, device=values.device)
    what = "vectors" if ndim == 1 else "sequences of vectors"
    read = [_read(subject, what, number, row) for number, row in enumerate(rows)]
    filled = [row for row in read if row is not None]
    if any(row.ndim != ndim for row in filled):
        shapes = Counter(tuple(row.shape) for row in filled)
        counts = listing(f"shape {shape} ({count} rows)" for shape, count in sorted(shapes.items()))
        raise InputError(f"{subject} must hold {what} of one width; got {counts}.")
    width = one_width(subject, [row.shape[-1] for row in filled], what)
    dtype = reduce(torch.promote_types, (row.dtype for row in filled))
    dtype = dtype if dtype.is_floating_point else torch.float32
    device = filled[0].device
    hole = torch.zeros(*([0] * (ndim - 1)), width, dtype=dtype, device=device)
    padded = [hole if row is None else row.to(dtype) for row in read]
    lengths = torch.tensor([0 if row is None else len(row) for row in read], device=device)
    if ndim == 1:
        return torch.stack(padded), lengths > 0
    values = pad_sequence(padded, batch_first=True)
    return values, torch.arange(values.shape[1], device=device) < lengths[:, None]


def _read(subject: str, what: str, number: int, row: Any) -> Tensor | None:
    if row is None:
        return None
    try:
        values = torch.as_tensor(row, dtype=None if isinstance(row, Tensor) else torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{subject} must hold {what} of one width; row {number} is not one: {first_line(error)}.") from None
    return values if values.numel() or values.ndim == 0 else None


def one_width(subject: str, widths: Sequence[int], what: str = "vectors") -> int:
    """The width that the filled rows share.

    Raises:
        InputError: several widths, counted, or no row at all.
    """
    kinds = Counter(widths)
    if len(kinds) > 1:
        counts = listing(f"{width} ({count} rows)" for width, count in sorted(kinds.items()))
        raise InputError(f"{subject} must hold {what} of one width; got {counts}.")
    if not kinds:
        raise InputError(f"{subject} is empty in every row. Leave it out.")
    return int(next(iter(kinds)))


def row_index(rows: int | Sequence[int] | Tensor | np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """`rows` as an index tensor of one dimension, or as the boolean mask that it is."""
    index = torch.as_tensor(rows, device=device).reshape(-1)
    return index if index.numel() else index.long()


def read_mask(name: str, mask: Tensor | np.ndarray | Sequence[bool], n: int) -> Tensor:
    """`mask` as an (n,) bool tensor.

    Raises:
        InputError: another type or shape; the error names the entry of `present`.
    """
    read = torch.as_tensor(mask)
    if read.dtype != torch.bool or read.shape != (n,):
        raise InputError(f"`present[{name!r}]` must be bool of shape ({n},); got {read.dtype} of shape {tuple(read.shape)}.")
    return read


def read_ids(ids: Tensor | Sequence[int] | Sequence[str], n: int) -> Tensor:
    """`item_ids` as an (n,) int64 tensor; names become the first 64 bits of a hash that is the same everywhere.

    Raises:
        InputError: another number of them, or neither whole numbers nor names.
    """
    if not isinstance(ids, Tensor):
        if not isinstance(ids, Iterable):
            raise InputError(f"`item_ids` must be {n} whole numbers or {n} names; got {ids!r}.")
        listed = [_hash(value) if isinstance(value, str) else value for value in ids]
        whole_numbers = (isinstance(value, int | np.integer) and not isinstance(value, bool) for value in listed)
        if not all(whole_numbers) or not all(-(2**63) <= value < 2**63 for value in listed):
            raise InputError(f"`item_ids` must be {n} whole numbers or {n} names; got {listing(map(repr, ids))}.")
        ids = torch.tensor(listed, dtype=torch.int64)
    if ids.shape != (n,) or ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise InputError(f"`item_ids` must be {n} whole numbers or {n} names; got {ids.dtype} of shape {tuple(ids.shape)}.")
    return ids.long()


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big", signed=True)
