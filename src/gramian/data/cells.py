"""`Cells`: a column of raw cells, which towers read: text, media files, bytes, lists of numbers; and which columns are raw."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gramian.data.content import Folder, Place, Unreadable
from gramian.errors import InputError, first_line
from gramian.rows import read_mask, read_rows

if TYPE_CHECKING:
    import pyarrow

__all__ = ["Broken", "Cells", "is_empty", "read_column", "summary"]


class Broken(NamedTuple):
    """A cell that could not be read, and counts as missing.

    Attributes:
        id: of the row.
        modality: the column.
        reason: why.
    """

    id: str
    modality: str
    reason: str


def summary(broken: Sequence[Broken], limit: int = 3) -> str:
    """The first cells that could not be read, and how many more there are; empty if there are none.

    >>> summary([Broken("7", "image", "no such file"), Broken("8", "audio", "0 bytes")], limit=1)
    'image of 7: no such file; and 1 more'
    """
    parts = [f"{cell.modality} of {cell.id}: {cell.reason}" for cell in broken[:limit]]
    return "; ".join(parts if len(broken) <= limit else [*parts, f"and {len(broken) - limit} more"])


class Cells:
    """n cells, fetched on access and never changed.

    Args:
        values: n cells, `None` or empty where missing; an Arrow column stays on the disk it is mapped from.
        folder: what relative paths in them are relative to, and where paths may lead; see `gramian.data.content.Folder`.
        rows: (k,) which of `values` count, in order; all by default.
        present: (k,) which of them are filled; by default read off the values.

    Raises:
        InputError: a single text instead of a list.

    >>> cells = Cells(["a cat", None, "a dog"])
    >>> len(cells), cells[0], cells.present.tolist(), list(cells[[2, 1]])
    (3, 'a cat', [True, False, True], ['a dog', None])
    """

    def __init__(
        self,
        values: Sequence[Any] | pyarrow.ChunkedArray,
        folder: Place | None = None,
        rows: NDArray[np.int64] | None = None,
        present: Tensor | None = None,
    ) -> None:
        if isinstance(values, str | bytes):
            raise InputError(f"`values` must be a list with one cell per item; got {values!r:.60}. Write [{values!r:.60}].")
        self._values = values
        self.folder = folder
        self._rows = np.arange(len(values)) if rows is None else rows
        self.present: Tensor = _present(values) if present is None else present

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"Cells({len(self)}, {int(self.present.sum())} filled)"

    @overload
    def __getitem__(self, row: list[int]) -> Cells: ...
    @overload
    def __getitem__(self, row: int) -> Any: ...
    def __getitem__(self, row: int | list[int]) -> Any:
        """One cell, `None` where it is empty; or the cells at several rows.

        Raises:
            InputError: a date or time that Python's types do not reach.
        """
        if isinstance(row, list):
            return Cells(self._values, self.folder, self._rows[row], self.present[row])
        if not self.present[row]:
            return None
        value = self._values[int(self._rows[row])]
        try:
            return value.as_py() if hasattr(value, "as_py") else value
        except (OverflowError, ValueError) as error:
            raise InputError(
                f"row {self._rows[row]} holds a {value.type} that Python cannot hold ({first_line(error)})."
            ) from None

    def __iter__(self) -> Iterator[Any]:
        return (self[row] for row in range(len(self)))

    def fingerprint(self) -> bytes:
        """A hash of the cells in full; of a file that a cell names, of its size and time."""
        digest = hashlib.blake2b(digest_size=32)
        for cell in self:
            _feed(digest, cell, self.folder)
        return digest.digest()


def is_empty(cell: Any) -> bool:
    """Whether a cell holds nothing: None, "", [], or neither bytes nor a path. A file of 0 bytes is broken, not empty."""
    if cell is None:
        return True
    if isinstance(cell, Mapping):
        file = set(cell) <= {"bytes", "path", "offset", "size"}
        return cell.get("bytes") is None and not cell.get("path") if file else not cell
    return hasattr(cell, "__len__") and not isinstance(cell, bytes) and len(cell) == 0


def read_column(name: str, column: Any, present: Any = None) -> tuple[Tensor | Cells, Tensor]:
    """One column as features (n, width), zero where missing, or as raw cells, and the (n,) mask of its filled cells.

    Raises:
        InputError: a single text instead of a list, vectors of different widths, or a mask `present` that does not fit.
    """
    if isinstance(column, np.ndarray) and column.dtype.kind in "OSU":  # objects and texts
        column = column.tolist()
    if isinstance(column, str | bytes) or not isinstance(column, Cells | Tensor | np.ndarray | Sequence):
        raise InputError(
            f"`columns[{name!r}]` must be a list with one cell per item; got {column!r:.60}. Write [{column!r:.60}]."
        )
    if not isinstance(column, Cells | Tensor | np.ndarray) and _is_raw(column):
        column = Cells(list(column))
    if isinstance(column, Cells):
        return column, _masked(name, column.present, present)
    values, mask = read_rows(f"column `{name}`", column)
    if present is None:
        return values, mask
    mask = _masked(name, mask, present)
    return values.masked_fill(~mask[:, None], 0), mask


def _masked(name: str, mask: Tensor, present: Any) -> Tensor:
    return mask if present is None else mask & read_mask(name, present, len(mask)).to(mask.device)


def _is_raw(cells: Sequence[Any]) -> bool:
    """Whether cells are raw: the first filled one is no vector of features."""
    first = next((cell for cell in cells if not is_empty(cell)), None)
    return first is not None and not _is_vector(first)


def _is_vector(cell: Any) -> bool:
    """Whether a cell is one vector of features: a flat list of numbers."""
    if isinstance(cell, Tensor | np.ndarray):
        return cell.ndim == 1
    return isinstance(cell, list | tuple) and isinstance(cell[0], int | float | np.number | Tensor) and np.ndim(cell[0]) == 0


def _present(values: Any) -> Tensor:
    """Which cells are filled; of an Arrow column without fetching them."""
    if not hasattr(values, "chunks"):
        return torch.tensor([not is_empty(cell) for cell in values], dtype=torch.bool)
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = values.type
    if pa.types.is_struct(kind) and {"bytes", "path"} <= {field.name for field in kind}:
        content, path = (pc.struct_field(values, [name]) for name in ("bytes", "path"))
        filled = pc.is_valid(content)
        if not pa.types.is_null(path.type):
            filled = pc.or_(filled, pc.fill_null(pc.greater(pc.binary_length(path), 0), False))
        filled = pc.and_(pc.is_valid(values), filled)
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        filled = pc.fill_null(pc.greater(pc.binary_length(values), 0), False)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        filled = pc.fill_null(pc.greater(pc.list_value_length(values), 0), False)
    else:
        filled = pc.is_valid(values)
    return torch.from_numpy(filled.combine_chunks().to_numpy(zero_copy_only=False).astype(bool))


def _feed(digest: Any, cell: Any, folder: Place | None) -> None:
    if isinstance(cell, bytes):
        digest.update(b"b%d:" % len(cell) + cell)
    elif hasattr(cell, "tobytes") and hasattr(cell, "mode"):  # a Pillow image
        digest.update(f"{cell.mode}{cell.size}".encode())
        _feed(digest, cell.tobytes(), folder)
    elif isinstance(cell, list | tuple):
        digest.update(b"l%d:" % len(cell))
        for value in cell:
            _feed(digest, value, folder)
    elif isinstance(cell, Mapping):
        for name, value in cell.items():
            digest.update(f"{name}=".encode(errors="surrogatepass"))
            _feed(digest, value, folder)
    elif isinstance(cell, np.ndarray | Tensor):
        array = np.ascontiguousarray(np.asarray(cell))
        digest.update(f"a{array.dtype}{array.shape}".encode() + array.tobytes())
    else:
        text = repr(cell).encode()
        digest.update(b"t%d:" % len(text) + text)
        if isinstance(cell, str | Path):
            digest.update(_file_state(cell, folder))


def _file_state(name: str | Path, folder: Place | None) -> bytes:
    """Size and time of the file that a cell names; nothing if it is a text."""
    try:
        state = os.stat(folder.find(name) if isinstance(folder, Folder) else Path(folder or "") / name)
    except (OSError, ValueError, Unreadable):  # no such file, no possible name, or none of the table's
        return b""
    return b"f%d,%d:" % (state.st_size, state.st_mtime_ns) if stat.S_ISREG(state.st_mode) else b""
