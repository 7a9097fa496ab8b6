"""`Batch`: n items as the towers read them; made from rows of a Table in any process."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from gramian.data.cells import Broken, Cells
from gramian.data.media import Unreadable
from gramian.data.readers import Reader
from gramian.data.table import Table
from gramian.errors import InputError, listing

__all__ = ["Batch", "Collator", "Rows", "loader", "sequential_batches"]


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

    def to(self, device: torch.device | str) -> Batch:
        """The same with its inputs on `device`."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The same in memory that a GPU can copy from while the CPU goes on."""
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

    def __call__(self, table: Table, *, seed: int | None = None, strict: bool = False) -> Batch:
        """Read the rows of a table.

        Args:
            table: the rows; its modalities are among the readers'.
            seed: of what is drawn in training, for each cell anew; without one every cell is read the same way each time.
            strict: raise at the first cell that cannot be read.

        Raises:
            InputError: a cell that cannot be read, if `strict`.
        """
        inputs: dict[str, Any] = {}
        present: dict[str, Tensor] = {}
        broken: list[Broken] = []
        for name in table.modalities:
            column, there = table.columns[name], table.present[name]
            if not isinstance(column, Cells):
                present[name] = there
                if there.any():
                    inputs[name] = column[there]
                continue
            there = there.clone()
            reader, read = self.readers[name], []
            for row in there.nonzero().flatten().tolist():
                generator = None if seed is None else _generator(seed, table.ids[row], name)
                try:
                    read.append(reader.read(column[row], folder=column.folder, generator=generator))
                except Unreadable as error:
                    if strict:
                        raise InputError(
                            f"column `{name}`, id {table.ids[row]!r} cannot be read: {error}. Mend it, or allow such cells."
                        ) from None
                    there[row] = False
                    broken.append(Broken(table.ids[row], name, str(error)))
            present[name] = there
            if read:
                try:
                    inputs[name] = reader.collate(read)
                except (ValueError, TypeError, RuntimeError) as error:
                    rows = listing(table.ids[i] for i in there.nonzero().flatten().tolist())
                    reason = " ".join(str(error).split())
                    raise InputError(
                        f"column `{name}`, ids {rows}: `collate` cannot make a batch of these cells ({reason:.200})."
                    ) from error
        return Batch(inputs, present, table.ids, table.item_ids, tuple(broken))


def _generator(seed: int, row: str, modality: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(row.encode()), zlib.crc32(modality.encode())])


class Rows(torch.utils.data.Dataset[Any]):
    """Rows of a table as a map-style data set of Batches, for torch's DataLoader.

    Args:
        table: the items.
        prepare: makes the Batches.
        seed: see `Collator`.
        strict: see `Collator`.
        size: rows of one Batch at most: a batch of the sampler comes as a list of Batches.
    """

    def __init__(self, table: Table, prepare: Collator, *, seed: int | None, strict: bool, size: int | None = None) -> None:
        self.table, self.prepare, self.seed, self.strict, self.size = table, prepare, seed, strict, size

    def __len__(self) -> int:
        return len(self.table)

    def __getitems__(self, rows: Sequence[int]) -> list[Batch] | InputError:
        """The Batches of some rows, or why there are none."""
        size = self.size or len(rows)
        parts = [rows[start : start + size] for start in range(0, len(rows), size)]
        try:
            return [self.prepare(self.table[part], seed=self.seed, strict=self.strict) for part in parts]
        except InputError as error:  # a worker would raise it with its traceback for a message
            return error


def loader(rows: Rows, order: Sequence[Sequence[int]], *, workers: int) -> Iterator[list[Batch]]:
    """The Batches of each group of rows in `order`; in so many processes, two groups ahead each."""
    found = torch.utils.data.DataLoader(
        rows,
        batch_sampler=order,  # type: ignore[arg-type]  # any iterable of lists will do
        collate_fn=_same,
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        worker_init_fn=_quiet_worker,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(0),  # nothing is drawn: our seeds are per cell
    )
    for parts in found:
        if isinstance(parts, InputError):
            raise parts
        yield parts


def sequential_batches(
    table: Table, prepare: Collator, size: int, *, workers: int = 0, strict: bool = False
) -> Iterator[Batch]:
    """The Batches of a table, `size` rows each, as for embedding: nothing is drawn."""
    order = [range(start, min(start + size, len(table))) for start in range(0, len(table), size)]
    for parts in loader(Rows(table, prepare, seed=None, strict=strict), order, workers=workers):
        yield from parts


def _same(parts: list[Batch] | InputError) -> list[Batch] | InputError:
    return parts


def _quiet_worker(number: int) -> None:
    del number
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # these processes are the parallelism
