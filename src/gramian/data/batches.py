"""`Batch`: n items as the towers read them; made from rows of a Table in any process."""

from __future__ import annotations

import os
import sys
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pickle import PicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from gramian.data.cells import Broken, Cells, is_empty
from gramian.data.media import Unreadable
from gramian.data.readers import FeatureReader, Reader
from gramian.data.table import Table
from gramian.distributed import device
from gramian.errors import InputError, check_number, first_line, listing

__all__ = ["Batch", "Collator", "Loader", "Reading"]


@dataclass(frozen=True)
class Reading:
    """How raw cells are read.

    Attributes:
        workers: processes that read raw cells ahead of the model; 0 reads in this one. The result does not depend on it.
        strict: stop at a raw cell that cannot be read; otherwise it counts as missing and is listed.

    Raises:
        InputError: `workers` that is not an integer in [0, 1024].
    """

    workers: int = 0
    strict: bool = False

    def __post_init__(self) -> None:
        check_number("workers", self.workers, "[0, 1024]", integer=True)


@dataclass(frozen=True)
class Batch:
    """n items, ready for the towers.

    Attributes:
        inputs: modality → what its tower reads of the rows that are present; no entry where none is.
        present: modality → (n,) bool, on the CPU.
        ids: the rows' names.
        item_ids: what they are about, or None.
        broken: cells that could not be read; they are not present.
    """

    inputs: Mapping[str, Any]
    present: Mapping[str, Tensor]
    ids: tuple[str, ...]
    item_ids: tuple[str, ...] | None = None
    broken: tuple[Broken, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, where: torch.device | str) -> Batch:
        """The same batch with its inputs on a device."""
        return self._mapped(lambda tensor: tensor.to(where, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The same batch in pinned memory, which a GPU copies from while the CPU goes on."""
        return self._mapped(lambda tensor: tensor.pin_memory())

    def _mapped(self, function: Any) -> Batch:
        inputs = {
            name: tree_map(lambda leaf: function(leaf) if isinstance(leaf, Tensor) else leaf, value)
            for name, value in self.inputs.items()
        }
        return replace(self, inputs=inputs)


@dataclass(frozen=True)
class Collator:
    """Makes Batches; it holds no weights, so that it can work in other processes.

    Attributes:
        readers: modality → the reader of its tower.
    """

    readers: Mapping[str, Reader]

    def raw_modalities(self) -> tuple[str, ...]:
        """The modalities whose cells are raw; those of the others are features."""
        return tuple(name for name, reader in self.readers.items() if not isinstance(reader, FeatureReader))

    def table(
        self,
        columns: Mapping[str, Any],
        *,
        present: Mapping[str, Any] | None = None,
        item_ids: Sequence[str] | None = None,
    ) -> Table:
        """Build a Table of columns as users hold them: arrays of features, or sequences of features or raw cells.

        Args:
            columns: modality → n cells; one that is `None`, or has no filled cell, is left out.
            present: see `Table.from_columns`.
            item_ids: see `Table.from_columns`.

        Returns:
            The table of n items, with raw cells where a tower reads them.

        Raises:
            InputError: no filled cell, or columns that do not make a table.
        """
        raw = self.raw_modalities()
        filled = {
            name: Cells(column) if name in raw and isinstance(column, list | tuple) else column
            for name, column in columns.items()
            if column is not None and not (isinstance(column, list | tuple) and all(map(is_empty, column)))
        }
        if not filled:
            raise InputError(f"`columns` must hold a filled cell of {', '.join(self.readers)}; got none.")
        return Table.from_columns(filled, present=present, item_ids=item_ids)

    def check(self, table: Table, argument: str = "columns") -> None:
        """Compare the columns of a table with what the towers read, without reading a cell.

        Raises:
            InputError: a column of an unknown modality, of raw cells where features are read, or the other way round.
        """
        unknown = [name for name in table.modalities if name not in self.readers]
        if unknown:
            raise InputError(
                f"`{argument}` has unknown modalities {listing(unknown)}; the model knows {', '.join(self.readers)}."
            )
        raw = self.raw_modalities()
        for name in table.modalities:
            if name in table.raw and name not in raw:
                raise InputError(
                    f"column `{name}` holds raw cells and needs a tower that reads them: "
                    f"`towers={{{name!r}: HuggingFace(…)}}`. Without one it must hold features."
                )
            if name in raw and name not in table.raw:
                raise InputError(f"column `{name}` must hold raw cells, which its tower reads; it holds features.")

    def __call__(self, table: Table, *, seed: int | None = None, strict: bool = False) -> Batch:
        """Read the rows of a table.

        Args:
            table: the rows; its modalities are among the readers'.
            seed: of the random draws of training, combined with each cell's id; without one a cell is always read the same way.
            strict: raise at the first cell that cannot be read.

        Returns:
            A Batch of all rows; cells that cannot be read are not present, and are listed in it.

        Raises:
            InputError: a cell that cannot be read, if `strict`; cells that do not go into one batch. Any other error of a
                reader is a bug in it, and is raised with a note of the column and the id.
        """
        inputs: dict[str, Any] = {}
        present: dict[str, Tensor] = {}
        broken: list[Broken] = []
        raw = table.raw
        for name in table.modalities:
            mask = table.present[name]
            if name not in raw:
                present[name] = mask
                if mask.any():
                    inputs[name] = table.features(name)[mask]
                continue
            column, reader, read = raw[name], self.readers[name], []
            mask = torch.ones_like(mask) if reader.fills else mask.clone()
            for row in mask.nonzero().flatten().tolist():
                generator = None if seed is None else _generator(seed, table.ids[row], name)
                try:
                    read.append(reader.read(column[row], folder=column.folder, generator=generator))
                except Unreadable as error:
                    if strict:
                        raise InputError(
                            f"column `{name}`, id {table.ids[row]!r} cannot be read: {error}. Fix it, or allow such cells."
                        ) from None
                    mask[row] = False
                    broken.append(Broken(table.ids[row], name, str(error)))
                except Exception as error:
                    error.add_note(f"column `{name}`, id {table.ids[row]!r}")
                    raise
            present[name] = mask
            if read:
                rows = listing(table.ids[i] for i in mask.nonzero().flatten().tolist())
                try:
                    inputs[name] = reader.collate(read)
                except ValueError as error:
                    reason = " ".join(str(error).split())
                    raise InputError(
                        f"column `{name}`, ids {rows}: `collate` cannot make a batch of these cells ({reason:.200})."
                    ) from error
                except Exception as error:
                    error.add_note(f"column `{name}`, ids {rows}")
                    raise
        return Batch(inputs, present, table.ids, table.item_ids, tuple(broken))


def _generator(seed: int, row: str, modality: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(row.encode()), zlib.crc32(modality.encode())])


def one_pass(loader: torch.utils.data.DataLoader[Any]) -> Iterator[Any]:
    """What a loader gives in one pass.

    Yields:
        What its processes return.

    Raises:
        InputError: one that they return; processes that start anew (`START`), and readers that they cannot be sent.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Got pickle error")  # torch's words on what follows
            results = iter(loader)
    except (PicklingError, AttributeError, TypeError) as error:
        if loader.num_workers == 0 or "pickle" not in str(error):
            raise
        raise InputError(
            f"`workers` must be 0 here, as new processes cannot be given these readers ({first_line(error)}). Functions "
            "defined at the top of a module can be."
        ) from None
    try:
        for result in results:
            if isinstance(result, InputError):
                raise result
            yield result
    except Exception:
        # An error holds on to the processes. The garbage collector would take their queues first, and then wait for each of
        # them for five seconds.
        getattr(results, "_shutdown_workers", lambda: None)()
        raise


START: str | None = "fork" if sys.platform == "linux" else None
"""How processes start. By fork they share the table's memory and any function, and are there at once; elsewhere than on Linux
it is not safe, and Python's default, a new process, is sent all it needs. They use no thread or device of this process."""


class Loader:
    """Reads the Batches of a table any number of times; its worker processes live as long as it does.

    Args:
        table: the items.
        collator: makes the Batches.
        reading: how raw cells are read. Columns of features need no processes.

    >>> table = Table.from_columns({"text": [[1.0], [2.0], [3.0]]})
    >>> loader = Loader(table, Collator({"text": FeatureReader()}))
    >>> [batch.ids for batch in loader.in_order(2)]
    [('0', '1'), ('2',)]
    """

    def __init__(self, table: Table, collator: Collator, reading: Reading = Reading()) -> None:
        self.table = table
        self.raw: bool = bool(table.raw)
        self._rows = _Rows(table, collator, reading.strict)
        self._groups = _Groups()
        self._workers = reading.workers if self.raw else 0
        self._loader = self._new_loader()

    def _new_loader(self) -> torch.utils.data.DataLoader[Any]:
        return torch.utils.data.DataLoader(
            self._rows,
            batch_sampler=self._groups,  # type: ignore[arg-type]  # any iterable of `_Rows`' keys will do
            collate_fn=_same,
            num_workers=self._workers,
            prefetch_factor=2 if self._workers else None,
            persistent_workers=self._workers > 0,
            worker_init_fn=_quiet_worker,
            multiprocessing_context=START if self._workers else None,
            pin_memory=device().type == "cuda",
            generator=torch.Generator().manual_seed(0),  # nothing is drawn: our seeds are per cell
        )

    def __call__(
        self, order: Iterable[Sequence[int]], *, seed: int | None = None, size: int | None = None
    ) -> Iterator[list[Batch]]:
        """The Batches of each group of rows in `order`, read two groups ahead by each process.

        Args:
            order: the rows of each group.
            seed: see `Collator`.
            size: rows of one Batch at most; all rows of a group make one by default.

        Yields:
            The Batches of one group.

        Raises:
            InputError: a cell that cannot be read, if the reading is strict.
        """
        self._groups.groups = ((seed, size, list(rows)) for rows in order)
        try:
            yield from one_pass(self._loader)
        except Exception:
            self._loader = self._new_loader()  # the processes of the old one have ended
            raise

    def in_order(self, size: int | None = None, rows: range | None = None) -> Iterator[Batch]:
        """The Batches of the table in its own order, without random draws; an empty table gives one Batch without rows.

        Args:
            size: items of a Batch; by default 32 where cells are raw, and 4,096 of features.
            rows: a part of the rows; all by default.

        Yields:
            Batches of `size` items, the last of the rest.

        Raises:
            InputError: a `size` below 1; a cell that cannot be read, if the reading is strict.
        """
        size = check_number("batch_size", (32 if self.raw else 4096) if size is None else size, "[1, inf)", integer=True)
        rows = range(len(self.table)) if rows is None else rows
        for parts in self(rows[start : start + size] for start in range(0, max(1, len(rows)), size)):
            yield from parts


class _Groups:
    """What the processes read next."""

    groups: Iterable[tuple[int | None, int | None, list[int]]] = ()

    def __iter__(self) -> Iterator[tuple[int | None, int | None, list[int]]]:
        return iter(self.groups)


class _Rows(torch.utils.data.Dataset[Any]):
    """Rows of a table as a map-style data set of Batches, for torch's DataLoader."""

    def __init__(self, table: Table, collator: Collator, strict: bool) -> None:
        self.table, self.collator, self.strict = table, collator, strict

    def __len__(self) -> int:
        return len(self.table)

    def __getitems__(self, group: tuple[int | None, int | None, list[int]]) -> list[Batch] | InputError:
        """The Batches of a group, or the error that prevents them."""
        seed, size, rows = group
        size = size or max(1, len(rows))
        parts = [rows[start : start + size] for start in range(0, max(1, len(rows)), size)]
        try:
            return [self.collator(self.table[part], seed=seed, strict=self.strict) for part in parts]
        except InputError as error:  # raised in a worker process, it would have a traceback for its message
            return error


def _same(parts: list[Batch] | InputError) -> list[Batch] | InputError:
    return parts


def _quiet_worker(number: int) -> None:
    del number
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # these processes are the parallelism
