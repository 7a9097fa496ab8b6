"""`Table`: what the towers read. n items, a column a modality: features of one width, or raw cells; some cells empty."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gramian.bundle import Bundle, read_mask, row_index
from gramian.data.cells import Cells, is_empty
from gramian.data.sources import read_rows, stream_rows, write_vectors
from gramian.errors import InputError, check_choice, listing
from gramian.files import atomic

if TYPE_CHECKING:
    import pyarrow

__all__ = ["EMBEDDED", "ENDINGS", "Table", "load", "stream"]

logger = logging.getLogger("gramian")

EMBEDDED: dict[str, Path] = {"stamps": Path(__file__).parent / "sets" / "stamps.safetensors"}
"""Data sets that come with the package, by name."""

ENDINGS = (".safetensors", ".parquet")
"""What `Table.save` writes."""

_FORMAT = "gramian.table.v1"


@dataclass(frozen=True, eq=False, repr=False)
class Table:
    """n items with one column a modality.

    Attributes:
        columns: name → features, (n, width) floating point, finite where present, zero where not; or raw `Cells`, n of them.
        present: name → (n,) bool.
        ids: n different strings.
        split: the n split names, or None.
        metadata: string → string, kept in the safetensors header.
        item_ids: the n names of what the rows are about, or None where every row is an item of its own. Rows with one name are
            one item, as two captions of a film are: no negatives of each other, and either counts as found.

    >>> table = Table.from_columns({"text": [[1.0, 2.0], [0.5, 1.0]], "audio": [None, [3.0]]})
    >>> table
    Table(2 items; text 2 × 2, audio 1 × 1)
    """

    columns: dict[str, Tensor | Cells]
    present: dict[str, Tensor]
    ids: tuple[str, ...]
    split: tuple[str, ...] | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    item_ids: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", tuple(self.ids))
        n = len(self.ids)
        if not self.columns:
            raise InputError("`columns` must hold at least one column; got none.")
        if set(self.columns) != set(self.present):
            raise InputError(
                f"`present` must have a mask for each of {', '.join(self.columns)}; got {listing(self.present) or 'none'}."
            )
        for argument, what in (("split", "a split"), ("item_ids", "what it is about")):
            names = getattr(self, argument)
            if names is not None:
                object.__setattr__(self, argument, tuple(names))
                if len(names) != n:
                    raise InputError(f"`{argument}` must name {what} for each of the {n} items; got {len(names)}.")
        for name, column in self.columns.items():
            if isinstance(column, Cells):
                if len(column) != n:
                    raise InputError(f"`columns[{name!r}]` must hold {n} cells; got {len(column)}.")
            elif column.ndim != 2 or not column.is_floating_point() or len(column) != n:
                raise InputError(
                    f"`columns[{name!r}]` must be floating point of shape ({n}, width); "
                    f"got {column.dtype} of shape {tuple(column.shape)}."
                )
            if self.present[name].shape != (n,) or self.present[name].dtype != torch.bool:
                raise InputError(f"`present[{name!r}]` must be bool of shape ({n},).")

    @classmethod
    def from_columns(
        cls,
        columns: Mapping[str, Tensor | np.ndarray | Cells | Sequence[Any]],
        *,
        present: Mapping[str, Tensor | np.ndarray | Sequence[bool]] | None = None,
        ids: Sequence[str] | None = None,
        split: Sequence[str] | None = None,
        item_ids: Sequence[str] | None = None,
    ) -> Table:
        """Build and check a Table from arrays (n, width), or sequences of n vectors or raw cells, `None` where empty.

        Args:
            columns: name → features; or raw cells: `Cells`, or a sequence of texts, paths, bytes, Pillow images or arrays.
            present: name → (n,) bool mask; what a masked row holds is never read.
            ids: n different names of the items; their row numbers by default.
            split: n split names.
            item_ids: n names of what the rows are about, where several rows may be one item.

        Raises:
            InputError: no items, unequal lengths, rows of different widths, values that are not finite, repeated ids.
        """
        read = {name: _cells(name, column) for name, column in columns.items()}
        lengths = {name: len(mask) for name, (_, mask) in read.items()}
        if len(set(lengths.values())) > 1:
            raise InputError(
                f"`columns` must have one length; got {', '.join(f'{name} {n}' for name, n in lengths.items())}. "
                "Mark empty cells with `None`."
            )
        n = next(iter(lengths.values()), 0)
        if n == 0:
            raise InputError("the table is empty: no items. Give it at least one row.")
        for name, given in (present or {}).items():
            check_choice("present", name, read)
            values, there = read[name]
            there = there & read_mask(name, given, n).to(there.device)
            read[name] = (values if isinstance(values, Cells) else values.masked_fill(~there[:, None], 0), there)
        return cls._checked(read, ids, split, item_ids)

    @classmethod
    def _checked(
        cls,
        read: Mapping[str, tuple[Tensor | Cells, Tensor]],
        ids: Sequence[str] | None,
        split: Sequence[str] | None,
        item_ids: Sequence[str] | None,
    ) -> Table:
        """The table of columns that were read, name → values and mask, at least one; numbered where there are no ids."""
        n = len(next(iter(read.values()))[1])
        table = cls(
            {name: values for name, (values, _) in read.items()},
            {name: mask for name, (_, mask) in read.items()},
            tuple(map(str, range(n))) if ids is None else tuple(ids),
            None if split is None else tuple(split),
            item_ids=None if item_ids is None else tuple(item_ids),
        )
        table.check()
        return table

    def check(self) -> None:
        """Read every value once.

        Raises:
            InputError: repeated ids, an item in two splits, or features that are not finite, counted by column.
        """
        if len(set(self.ids)) < len(self.ids):
            seen: set[str] = set()
            repeated = [name for name in self.ids if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
            raise InputError(f"`ids` must all be different; {len(repeated)} repeat an earlier one ({listing(repeated)}).")
        if self.item_ids is not None and self.split is not None:
            homes: dict[str, set[str]] = {}
            for name, home in zip(self.item_ids, self.split, strict=True):
                homes.setdefault(name, set()).add(home)
            torn = [name for name, found in homes.items() if len(found) > 1]
            if torn:
                raise InputError(f"`item_ids` must each lie in one split; {len(torn)} lie in several ({listing(torn)}).")
        for name, column in self.columns.items():
            if isinstance(column, Cells):
                continue
            wrong = self.present[name] & ~column.isfinite().all(1)
            if wrong.any():
                rows = listing(self.ids[i] for i in wrong.nonzero().flatten().tolist())
                raise InputError(
                    f"column `{name}` holds NaN or infinite values in {int(wrong.sum())} of {len(self)} rows (ids {rows}). "
                    "Mend them, or leave those cells empty."
                )

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        columns = ", ".join(f"{name} {n} × {self.widths.get(name, 'raw')}" for name, n in self.counts().items())
        return f"Table({len(self)} items; {columns})"

    @property
    def modalities(self) -> tuple[str, ...]:
        """The column names."""
        return tuple(self.columns)

    @property
    def widths(self) -> dict[str, int]:
        """Width of each column of features."""
        return {name: column.shape[1] for name, column in self.columns.items() if isinstance(column, Tensor)}

    def features(self, name: str) -> Tensor:
        """The features of one column, (n, width), zero where missing.

        Raises:
            InputError: no such column, or one of raw cells.
        """
        column = self.columns[check_choice("name", name, self.columns)]
        if isinstance(column, Cells):
            raise InputError(f"column `{name}` holds raw cells, no features. A tower reads it: see `gramian.model`.")
        return column

    def counts(self) -> dict[str, int]:
        """How many items have each modality."""
        return {name: int(mask.sum()) for name, mask in self.present.items()}

    def mask(self) -> Tensor:
        """(n, m) bool, in the order of `modalities`."""
        return torch.stack([self.present[name] for name in self.columns], 1)

    def __getitem__(self, rows: int | slice | Sequence[int] | Tensor | np.ndarray) -> Table:
        """The items at `rows`: a slice, an index, indices or a boolean mask; always a Table."""
        kept = torch.arange(len(self))[rows if isinstance(rows, slice) else row_index(rows)].tolist()
        return replace(
            self,
            columns={
                name: column.take(kept) if isinstance(column, Cells) else column[kept] for name, column in self.columns.items()
            },
            present={name: mask[kept] for name, mask in self.present.items()},
            ids=tuple(self.ids[i] for i in kept),
            split=None if self.split is None else tuple(self.split[i] for i in kept),
            item_ids=None if self.item_ids is None else tuple(self.item_ids[i] for i in kept),
        )

    def select(self, *modalities: str) -> Table:
        """The same items with `modalities` alone, in the order given."""
        for name in modalities:
            check_choice("modalities", name, self.columns)
        if not modalities:
            raise InputError(f"`modalities` must name at least one of {', '.join(self.columns)}; got none.")
        return replace(
            self,
            columns={name: self.columns[name] for name in modalities},
            present={name: self.present[name] for name in modalities},
        )

    def part(self, split: str) -> Table:
        """The items of one split.

        Raises:
            InputError: the table has no splits, or no such split.
        """
        if self.split is None:
            raise InputError(f"`split` {split!r} cannot be taken: the table has no column `split`. Add one, or pass no split.")
        check_choice("split", split, sorted(set(self.split)))
        return self[[i for i, name in enumerate(self.split) if name == split]]

    def has_any(self) -> Table:
        """The items with at least one modality present."""
        mask = self.mask().any(1)
        return self if bool(mask.all()) else self[mask]

    def digest(self) -> str:
        """A hash of the ids, the items, the masks, the features and the raw cells: equal for equal tables."""
        found = hashlib.sha256(json.dumps(self.ids if self.item_ids is None else [self.ids, self.item_ids]).encode())
        for name, column in self.columns.items():
            found.update(name.encode())
            found.update(self.present[name].cpu().numpy().tobytes())
            if isinstance(column, Cells):
                found.update(column.fingerprint())
            else:
                found.update(column.cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return found.hexdigest()[:16]

    def to_bundle(self) -> Bundle:
        """The columns as they stand, for vectors that already share one space; rows are scaled to unit length."""
        columns = {name: self.features(name).float() for name in self.columns}
        return Bundle.from_dict(columns, present=self.present, item_ids=self.item_ids)

    def save(self, path: str | Path) -> None:
        """Write the table, whole or not at all; the ending of `path` picks the format.

        `.safetensors` keeps the types and stores rows that are present alone; `.parquet` has a column a modality with lists of
        float32, empty where missing, and `id`, `split` and `item`.
        """
        path = Path(path)
        check_choice("path", path.suffix, ENDINGS)
        columns = {name: self.features(name) for name in self.columns}
        with atomic(path) as partial:
            if path.suffix == ".parquet":
                data: dict[str, list[Any]] = {"id": list(self.ids)}
                data |= {} if self.split is None else {"split": list(self.split)}
                data |= {} if self.item_ids is None else {"item": list(self.item_ids)}
                write_vectors(data, columns, self.present, partial)
                return
            tensors = {f"values.{name}": column[self.present[name]].contiguous() for name, column in columns.items()}
            tensors |= {f"present.{name}": mask.contiguous() for name, mask in self.present.items()}
            header = {"columns": self.modalities, "ids": self.ids, "split": self.split, "metadata": self.metadata}
            header |= {} if self.item_ids is None else {"items": self.item_ids}
            save_file(tensors, partial, {_FORMAT: json.dumps(header, ensure_ascii=False)})  # one entry: the order is ours

    @classmethod
    def load(cls, path: str | Path) -> Table:
        """Read a `.safetensors` table that `save` wrote, or one that holds plain (n, width) matrices, all present."""
        try:
            with safe_open(path, framework="pt") as file:
                metadata = dict(file.metadata() or {})
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except FileNotFoundError:
            raise InputError(f"`path` must be an existing file; there is no {str(path)!r}.") from None
        except (SafetensorError, OSError) as error:
            raise InputError(f"`path` must be a safetensors file; {str(path)!r} cannot be read ({error}).") from None
        if _FORMAT not in metadata:
            if not tensors or any(tensor.ndim != 2 for tensor in tensors.values()):
                raise InputError(f"`path` must hold a table or (n, width) matrices; {str(path)!r} holds something else.")
            return cls.from_columns(tensors)
        try:
            header = json.loads(metadata[_FORMAT])
            columns: dict[str, Tensor | Cells] = {}
            present = {}
            for name in header["columns"]:
                present[name] = tensors[f"present.{name}"]
                values = tensors[f"values.{name}"]
                filled = values.new_zeros(len(header["ids"]), values.shape[1])
                filled[present[name]] = values
                columns[name] = filled
            table = cls(columns, present, header["ids"], header["split"], header["metadata"], header.get("items"))
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
            raise InputError(f"{str(path)!r} is a damaged table ({error}). Write it anew.") from None
        table.check()
        return table


def load(
    data: str | Path,
    *,
    split: str | None = None,
    columns: Sequence[str] | None = None,
    raw: Sequence[str] = (),
    id_column: str = "id",
    revision: str | None = None,
) -> Table:
    """Load a table: one that ships with the package, by name, a file, a folder, or a data set on the hub.

    Hugging Face datasets reads `.parquet`, `.arrow`, `.csv`, `.jsonl`/`.json`, `.tar` (webdataset), folders (of images, of
    audio, of any of these files, of `save_to_disk`) and hub ids: a column a modality. A cell of features is a list of floats,
    in CSV written `[0.1, 0.2]`; a raw cell is text, a path (relative to the table's folder), bytes or a list; either may be
    empty. `.safetensors` holds features alone.

    Args:
        data: "stamps", a path, or a hub id.
        split: keep the items whose `split` column says so; all by default. Data sets in several splits get such a column.
        columns: the columns to read; by default every column that holds lists of floats, and those in `raw`.
        raw: the columns that towers read as they are; names that the table lacks are passed over.
        id_column: holds the rows' names; row numbers where there is no such column. A column `item` says what a row is about,
            where several rows are one item.
        revision: of a data set on the hub.

    Raises:
        InputError: no such file or column, an empty file, rows of different widths, NaN, an unknown split.

    >>> load("stamps", split="test").select("image", "text").widths
    {'image': 1280, 'text': 384}
    """
    path = EMBEDDED.get(str(data), Path(data))
    if path.suffix == ".safetensors" and path.is_file():
        table = Table.load(path)
        if columns is not None:
            table = table.select(*columns)
    else:
        rows, folder = read_rows(str(data), raw, revision=revision)
        table = _table_of(rows, folder, str(data), columns, raw, id_column)
    return table if split is None else table.part(split)


def stream(
    data: str | Path,
    rows: int,
    *,
    columns: Sequence[str] | None = None,
    raw: Sequence[str] = (),
    id_column: str = "id",
    revision: str | None = None,
) -> Iterator[Table]:
    """A table part by part, as it arrives: for embedding what does not fit on the disk. Arguments as for `load`.

    Args:
        data: a file, a folder or a hub id.
        rows: of a part, at most. Rows without ids are numbered through.
        columns: see `load`.
        raw: see `load`.
        id_column: see `load`.
        revision: see `load`.
    """
    seen = 0
    for part, folder in stream_rows(str(data), rows, raw, revision=revision):
        table = _table_of(part, folder, str(data), columns, raw, id_column, first=seen, partial=True)
        seen += len(table)
        yield table


def _table_of(
    data: pyarrow.Table,
    folder: Path | None,
    source: str,
    columns: Sequence[str] | None,
    raw: Sequence[str],
    id_column: str,
    first: int = 0,
    partial: bool = False,
) -> Table:
    """The Table of rows, numbered from `first` if they have no ids. In a part columns may be empty that are not elsewhere."""
    names = data.column_names
    if data.num_rows == 0:
        raise InputError(f"{source!r} is empty: no rows.")
    if any(name.startswith("__index_level_") for name in names):
        raise InputError(f"{source!r} has rows with more fields than its header names. Give every field a name.")
    clash = [name for name in raw if name in (id_column, "split", "item")]
    if clash:
        raise InputError(f"`raw` must not name column `{clash[0]}`, which tells the rows apart. Rename it for a modality.")
    for name in (id_column, "split", "item"):
        empty = sum(not value for value in data.column(name).to_pylist() if value != 0) if name in names else 0
        if empty:
            raise InputError(f"column `{name}` is empty in {empty} of {data.num_rows} rows. Fill it, or leave it out.")
    for name in columns or ():
        check_choice("columns", name, names)
    reserved = {id_column, "split", "item"}
    found: dict[str, tuple[Tensor | Cells, Tensor]] = {}
    ignored = []
    for name in columns or [name for name in names if name not in reserved]:
        if name in raw:
            cells = Cells(data.column(name), folder)
            found[name] = (cells, cells.present)
            continue
        column = data.column(name)
        if (columns is None or partial) and column.null_count == len(column):
            ignored.append(f"{name} (empty)")
            continue
        features = _feature_cells(name, column.combine_chunks()) if _may_hold_vectors(column) else None
        if features is not None:
            found[name] = features
        elif columns is not None:
            raise InputError(
                f"column `{name}` must hold lists of floats; it holds {_kind(data, name)}. A tower could read it as it is."
            )
        else:
            ignored.append(f"{name} ({_kind(data, name)})")
    if not found and partial and raw:
        found = {raw[0]: _cells(raw[0], Cells([None] * data.num_rows))}
    if not found:
        kinds = ", ".join(f"{name} ({_kind(data, name)})" for name in names)
        if raw:
            raise InputError(f"{source!r} has no column `{raw[0]}`; its columns are {kinds}.")
        raise InputError(
            f"{source!r} has no column that holds lists of floats; its columns are {kinds}. Towers read text and media."
        )
    if ignored and not raw and not partial:
        logger.warning("%s: left out what is no lists of floats: %s", source, listing(ignored))
    ids, split, items = (
        [str(value) for value in data.column(name).to_pylist()] if name in names else None
        for name in (id_column, "split", "item")
    )
    if ids is None and first:
        ids = [str(first + row) for row in range(data.num_rows)]
    return Table._checked(found, ids, split, items)


def _may_hold_vectors(column: pyarrow.ChunkedArray) -> bool:
    """Whether it is worth bringing a column together: lists of numbers, or text that begins as one in its first filled cell."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        cells = (cell for chunk in column.chunks for cell in chunk)
        first = next((text for text in (cell.as_py() for cell in cells) if text), "")
        return bool(first.lstrip().startswith("["))
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _kind(data: pyarrow.Table, name: str) -> str:
    kind = str(data.schema.field(name).type)
    return "media files" if kind.startswith("struct<bytes") else kind


def _feature_cells(name: str, cells: pyarrow.Array) -> tuple[Tensor | Cells, Tensor] | None:
    """One Arrow column as (n, width) float32 and its mask; None if it does not hold lists of numbers."""
    import pyarrow as pa

    kind = cells.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _parse_cells(name, cells.to_pylist())
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        return None
    if not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
        return None
    lengths = cells.value_lengths().to_numpy(zero_copy_only=False)
    filled = np.nan_to_num(lengths.astype(np.float64))  # null and empty lists alike are missing
    present = torch.from_numpy(filled > 0)
    widths = _one_width(name, filled[filled > 0].astype(int).tolist())
    flat = cells.filter(pa.array(filled > 0)).flatten()
    if flat.null_count:
        raise InputError(
            f"column `{name}` holds lists with {flat.null_count} empty values. Mend them, or leave those cells empty."
        )
    values = torch.zeros(len(cells), widths)
    values[present] = torch.from_numpy(flat.to_numpy(zero_copy_only=False).astype(np.float32)).reshape(-1, widths)
    return values, present


def _parse_cells(name: str, cells: Sequence[str | None]) -> tuple[Tensor | Cells, Tensor] | None:
    """Text cells like "[0.1, 0.2]"; None if the first filled one does not look like a list."""
    filled = next((cell for cell in cells if cell), "")
    if not filled.lstrip().startswith("["):
        return None
    rows: list[list[float] | None] = []
    for i, cell in enumerate(cells):
        try:
            rows.append([float(x) for x in json.loads(cell)] if cell else None)
        except (ValueError, TypeError):
            raise InputError(f"column `{name}`, row {i}: {cell!r:.60} is not a list of numbers such as [0.1, 0.2].") from None
    return _cells(name, rows)


def _cells(name: str, column: Tensor | np.ndarray | Cells | Sequence[Any]) -> tuple[Tensor | Cells, Tensor]:
    if isinstance(column, Cells):
        return column, column.present
    if isinstance(column, Tensor | np.ndarray):
        values = torch.as_tensor(column)
        if values.ndim != 2:
            raise InputError(f"`columns[{name!r}]` must have shape (n, width); got {tuple(values.shape)}.")
        values = values if values.is_floating_point() else values.float()
        return values, torch.ones(len(values), dtype=torch.bool, device=values.device)
    first = next((cell for cell in column if not is_empty(cell)), None)
    if not _is_vector(first):
        cells = Cells(list(column))
        return cells, cells.present
    rows = [None if cell is None or len(cell) == 0 else torch.as_tensor(cell, dtype=torch.float32) for cell in column]
    width = _one_width(name, [len(row) for row in rows if row is not None])
    present = torch.tensor([row is not None for row in rows])
    return torch.stack([torch.zeros(width) if row is None else row for row in rows]), present


def _is_vector(cell: Any) -> bool:
    """Whether a cell is one vector of features: a flat list of numbers; None is taken for one."""
    if isinstance(cell, Tensor | np.ndarray):
        return cell.ndim == 1
    return cell is None or (isinstance(cell, Sequence) and not isinstance(cell, str | bytes) and np.ndim(cell[0]) == 0)


def _one_width(name: str, widths: Sequence[int]) -> int:
    kinds = sorted(set(widths))
    if len(kinds) > 1:
        counts = listing(f"{width} ({widths.count(width)} rows)" for width in kinds)
        raise InputError(f"column `{name}` must hold lists of one width; got {counts}.")
    if not kinds:
        raise InputError(f"column `{name}` is empty in every row. Leave it out.")
    return kinds[0]
