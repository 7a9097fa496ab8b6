"""`Table`: what the towers read. n items, one column per modality: features of one width, or raw cells; some cells empty."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gramian.bundle import Bundle
from gramian.data.arrow import write_vectors
from gramian.data.cells import Cells, read_column
from gramian.errors import InputError, check_choice, check_type, listing
from gramian.files import atomic
from gramian.rows import row_index
from gramian.tensors import read_tensors, write_tensors

__all__ = ["ENDINGS", "Table"]

ENDINGS = (".safetensors", ".parquet")
"""What `Table.save` writes."""

_FORMAT = "gramian.table.v1"

_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, eq=False, repr=False)
class Table:
    """n items with one column per modality.

    Attributes:
        columns: name → features, (n, width) floating point, finite where present, zero where not; or raw `Cells`, n of them.
        present: name → (n,) bool.
        ids: n different strings.
        split: the n split names, or None.
        metadata: string → string, kept in the safetensors header.
        item_ids: the n names of what the rows are about, or None where every row is an item of its own. Rows with one name are
            one item, as two captions of a film are: no negatives of each other, and either counts as found.
        labels: name → n texts or None: what else is known of the rows, such as their class; no modalities.

    Raises:
        InputError: no column, or lengths and shapes that do not go together.

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
    labels: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.ids, str):
            raise InputError(f"`ids` must be a list with one name per item; got the text {self.ids!r:.60}.")
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
            if isinstance(names, str):
                raise InputError(f"`{argument}` must be a list with one name per item; got the text {names!r:.60}.")
            if names is not None:
                object.__setattr__(self, argument, tuple(names))
                if len(names) != n:
                    raise InputError(f"`{argument}` must name {what} for each of the {n} items; got {len(names)}.")
        for name, labels in self.labels.items():
            if isinstance(labels, str) or len(labels) != n:
                raise InputError(f"`labels[{name!r}]` must hold a text or None for each of the {n} items; got {len(labels)}.")
        for name, cells in self.raw.items():
            if len(cells) != n:
                raise InputError(f"`columns[{name!r}]` must hold {n} cells; got {len(cells)}.")
        for name, column in self._features.items():
            if column.ndim != 2 or column.dtype not in _TYPES or len(column) != n:
                raise InputError(
                    f"`columns[{name!r}]` must be floating point of shape ({n}, width); "
                    f"got {column.dtype} of shape {tuple(column.shape)}."
                )
        for name, mask in self.present.items():
            if mask.shape != (n,) or mask.dtype != torch.bool:
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
        labels: Mapping[str, Sequence[str | None]] | None = None,
    ) -> Table:
        """Build and check a Table from arrays (n, width), or sequences of n vectors or raw cells, `None` where empty.

        Args:
            columns: name → features; or raw cells: `Cells`, or a sequence of texts, paths, bytes, Pillow images or arrays.
            present: name → (n,) bool mask; what a masked row holds is never read.
            ids: n different names of the items; their row numbers by default.
            split: n split names.
            item_ids: n names of what the rows are about, where several rows may be one item.
            labels: name → n texts, None where unknown.

        Returns:
            The table, with zeros where features are missing.

        Raises:
            InputError: no items, unequal lengths, rows of different widths, values that are not finite, repeated ids.
        """
        fix = "Map names to lists: table.to_pydict(), frame.to_dict('list') and dataset.to_dict() do."
        check_type("columns", columns, Mapping, fix=fix)
        for name in present or ():
            check_choice("present", name, columns)
        read = {name: read_column(name, column, (present or {}).get(name)) for name, column in columns.items()}
        lengths = {name: len(mask) for name, (_, mask) in read.items()}
        if len(set(lengths.values())) > 1:
            raise InputError(
                f"`columns` must have one length; got {', '.join(f'{name} {n}' for name, n in lengths.items())}. "
                "Mark empty cells with `None`."
            )
        n = next(iter(lengths.values()), 0)
        if n == 0:
            raise InputError("the table is empty: no items. Give it at least one row.")
        return cls.of_columns(read, ids, split, item_ids, labels)

    @classmethod
    def of_columns(
        cls,
        read: Mapping[str, tuple[Tensor | Cells, Tensor]],
        ids: Sequence[str] | None,
        split: Sequence[str] | None,
        item_ids: Sequence[str] | None,
        labels: Mapping[str, Sequence[str | None]] | None = None,
    ) -> Table:
        """The table of columns that were read, checked.

        Args:
            read: name → values and mask, at least one.
            ids: see `from_columns`.
            split: see `from_columns`.
            item_ids: see `from_columns`.
            labels: see `from_columns`.

        Returns:
            The table; rows without ids are numbered.

        Raises:
            InputError: see `check`.
        """
        n = len(next(iter(read.values()))[1])
        table = cls(
            {name: values for name, (values, _) in read.items()},
            {name: mask for name, (_, mask) in read.items()},
            tuple(map(str, range(n))) if ids is None else ids,  # type: ignore[arg-type]  # sequences become tuples
            split,  # type: ignore[arg-type]
            item_ids=item_ids,  # type: ignore[arg-type]
            labels={name: tuple(column) for name, column in (labels or {}).items()},
        )
        table.check()
        return table

    def check(self) -> None:
        """Read every value once.

        Raises:
            InputError: repeated ids, names that are no Unicode text, an item in two splits, or features that are not finite,
                counted by column.
        """
        if len(set(self.ids)) < len(self.ids):
            seen: set[str] = set()
            repeated = [name for name in self.ids if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
            raise InputError(f"`ids` must all be different; {len(repeated)} repeat an earlier one ({listing(repeated)}).")
        for argument in ("ids", "split", "item_ids"):
            try:
                "".join(map(str, getattr(self, argument) or ())).encode()
            except UnicodeEncodeError:
                raise InputError(
                    f"`{argument}` must be Unicode text, which can be written; one holds half of a surrogate."
                ) from None
        if self.item_ids is not None and self.split is not None:
            splits: dict[str, set[str]] = {}
            for name, split in zip(self.item_ids, self.split, strict=True):
                splits.setdefault(name, set()).add(split)
            leaks = [name for name, several in splits.items() if len(several) > 1]
            if leaks:
                raise InputError(f"`item_ids` must each lie in one split; {len(leaks)} lie in several ({listing(leaks)}).")
        for name, column in self._features.items():
            wrong = self.present[name] & ~column.isfinite().all(1)
            if wrong.any():
                rows = listing(self.ids[i] for i in wrong.nonzero().flatten().tolist())
                raise InputError(
                    f"column `{name}` holds NaN or infinite values in {int(wrong.sum())} of {len(self)} rows (ids {rows}). "
                    "Correct them, or leave those cells empty."
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
        return {name: column.shape[1] for name, column in self._features.items()}

    @property
    def raw(self) -> dict[str, Cells]:
        """The columns of raw cells, which towers read."""
        return {name: column for name, column in self.columns.items() if isinstance(column, Cells)}

    @property
    def _features(self) -> dict[str, Tensor]:
        return {name: column for name, column in self.columns.items() if isinstance(column, Tensor)}

    def features(self, name: str) -> Tensor:
        """The features of one column, (n, width), zero where missing.

        Raises:
            InputError: no such column, or one of raw cells.
        """
        if check_choice("name", name, self.columns) in self.raw:
            raise InputError(f"column `{name}` holds raw cells, no features. A tower reads it: see `gramian.model`.")
        return self._features[name]

    def counts(self) -> dict[str, int]:
        """How many items have each modality."""
        return {name: int(mask.sum()) for name, mask in self.present.items()}

    def mask(self) -> Tensor:
        """(n, m) bool, in the order of `modalities`."""
        return torch.stack([self.present[name] for name in self.columns], 1)

    def __getitem__(self, rows: int | slice | Sequence[int] | Tensor | np.ndarray) -> Table:
        """The items at `rows`: a slice, an index, indices or a boolean mask; always a Table."""
        if isinstance(rows, str):
            raise InputError(f"`rows` must be an index, a slice or a mask; got {rows!r}. For a column: select({rows!r}).")
        index = torch.arange(len(self))[rows if isinstance(rows, slice) else row_index(rows)].tolist()
        return replace(
            self,
            columns={name: column[index] for name, column in self.columns.items()},
            present={name: mask[index] for name, mask in self.present.items()},
            ids=tuple(self.ids[i] for i in index),
            split=None if self.split is None else tuple(self.split[i] for i in index),
            item_ids=None if self.item_ids is None else tuple(self.item_ids[i] for i in index),
            labels={name: tuple(column[i] for i in index) for name, column in self.labels.items()},
        )

    def select(self, *modalities: str) -> Table:
        """The same items with `modalities` alone, in the order given.

        Raises:
            InputError: no modality, or one that the table lacks.
        """
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
        """A hash of everything but the metadata: equal for equal tables.

        Media files that raw cells name enter by their size and time, so that one replaced under its name is noticed.

        Returns:
            16 hexadecimal digits.
        """
        about: list[Any] = [self.ids, self.item_ids, self.split]
        digest = hashlib.sha256(json.dumps(about + [self.labels] * bool(self.labels)).encode())
        raw = self.raw
        for name in self.columns:
            digest.update(json.dumps(name).encode() + self.present[name].cpu().numpy().tobytes())
            if name in raw:
                digest.update(raw[name].fingerprint())
            else:
                column = self.features(name)
                digest.update(f"{column.dtype}{tuple(column.shape)}".encode())
                digest.update(column.cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

    def to_bundle(self) -> Bundle:
        """The columns as they stand, for vectors that already share one space; rows are scaled to unit length."""
        columns = {name: self.features(name).float() for name in self.columns}
        return Bundle.from_dict(columns, present=self.present, item_ids=self.item_ids)

    def save(self, path: str | Path) -> None:
        """Write the table, whole or not at all; the ending of `path` picks the format.

        `.safetensors` keeps the types and stores rows that are present alone; `.parquet` has one column per modality with lists
        of float32, empty where missing, and `id`, `split`, `item` and the labels.

        Raises:
            InputError: another ending, or a column of raw cells.
        """
        path = Path(path)
        check_choice("path", path.suffix.lower(), ENDINGS)
        columns = {name: self.features(name) for name in self.columns}
        if path.suffix.lower() == ".parquet":
            data: dict[str, list[Any]] = {"id": list(self.ids)}
            data |= {} if self.split is None else {"split": list(self.split)}
            data |= {} if self.item_ids is None else {"item": list(self.item_ids)}
            data |= {name: list(column) for name, column in self.labels.items()}
            with atomic(path) as partial:
                write_vectors(data, columns, self.present, partial)
            return
        tensors = {f"values.{name}": column[self.present[name]] for name, column in columns.items()}
        tensors |= {f"present.{name}": mask for name, mask in self.present.items()}
        header = {"columns": self.modalities, "ids": self.ids, "split": self.split, "metadata": self.metadata}
        header |= {} if self.item_ids is None else {"items": self.item_ids}
        write_tensors(path, tensors, _FORMAT, header | ({"labels": self.labels} if self.labels else {}))

    @classmethod
    def load(cls, path: str | Path) -> Table:
        """Read a `.safetensors` table that `save` wrote, or one that holds plain (n, width) matrices, all present.

        Raises:
            InputError: no such file, or one that is damaged or holds something else.
        """
        tensors, header = read_tensors(path, _FORMAT)
        if header is None:
            if not tensors or any(tensor.ndim != 2 for tensor in tensors.values()):
                raise InputError(f"{str(path)!r} must hold a table, or matrices (n, width); it holds something else.")
            return cls.from_columns(tensors)
        try:
            columns: dict[str, Tensor | Cells] = {}
            present = {}
            for name in header["columns"]:
                present[name] = tensors[f"present.{name}"]
                values = tensors[f"values.{name}"]
                filled = values.new_zeros(len(header["ids"]), values.shape[1])
                filled[present[name]] = values
                columns[name] = filled
            labels = {name: tuple(column) for name, column in header.get("labels", {}).items()}
            table = cls(columns, present, header["ids"], header["split"], header["metadata"], header.get("items"), labels)
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
            raise InputError(f"{str(path)!r} is a damaged table ({error}). Write it again.") from None
        table.check()
        return table
