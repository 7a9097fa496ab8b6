"""Stages of Ray Data: bulk embedding, and the sums that canonical analysis reads, over the workers of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch

from gramian import distributed
from gramian.canonical import Moments
from gramian.data.arrow import vector_array
from gramian.data.table import Table
from gramian.errors import InputError, check_choice
from gramian.model.aligner import Aligner
from gramian.model.towers import Tower, Towers

if TYPE_CHECKING:
    import pyarrow

__all__ = ["Embed", "SumMoments", "add_moments"]


class Embed:
    """A stage for `ray.data.Dataset.map_batches`; each worker makes its encoders once.

    `ds.map_batches(Embed, fn_constructor_kwargs={"model": "runs/media/aligner"}, batch_format="pyarrow",
    compute=ActorPoolStrategy(size=2))` adds one vector per modality to every row, under the modality's name and `suffix`:
    float32, empty where the cell is missing or unreadable. The column "unreadable" lists what could not be read:
    "modality: reason", one after the other.

    Args:
        model: a saved Aligner, a folder or a hub id that every worker can reach.
        towers: instead of a model, a function that makes the towers by modality. It is called in the worker, so that weights
            do not travel.
        columns: the columns to embed; by default those of the batch that the model reads.
        keep: the columns of the batch that stay; all by default.
        suffix: of the new columns.
        device: "cpu", "cuda" and so on; the accelerator by default, where the worker has one.

    Raises:
        InputError: not one of `model` and `towers`; a batch with none of the columns.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        towers: Callable[[], Mapping[str, Tower]] | None = None,
        columns: Sequence[str] | None = None,
        keep: Sequence[str] | None = None,
        suffix: str = "_vector",
        device: str | None = None,
    ) -> None:
        if (model is None) == (towers is None):
            raise InputError("one of `model` and `towers` must be given: an Aligner, or a function that makes its encoders.")
        self.model: Towers | Aligner = Towers(towers()) if towers is not None else Aligner.from_pretrained(str(model))
        known = self.model.modalities
        for name in columns or ():
            check_choice("columns", name, known)
        self.columns: tuple[str, ...] = tuple(columns or known)
        self.model.to(device or distributed.device()).eval()
        self.keep = keep
        self.suffix = suffix

    def __call__(self, batch: pyarrow.Table) -> pyarrow.Table:
        """The batch with the vectors, as lists of float32 (`large_list`)."""
        import pyarrow as pa

        names = [name for name in self.columns if name in batch.column_names]
        if not names and batch.num_rows:
            raise InputError(
                f"the batch must have at least one of the columns {', '.join(self.columns)}; "
                f"it has {', '.join(batch.column_names)}."
            )
        filled = [name for name in names if batch.column(name).null_count < batch.num_rows]
        nothing = torch.zeros(batch.num_rows, 1), torch.zeros(batch.num_rows, dtype=torch.bool)
        vectors = dict.fromkeys(names, nothing)
        notes: list[list[str]] = [[] for _ in range(batch.num_rows)]
        if filled:
            collator = self.model.collator()
            prepared = collator(collator.table({name: batch.column(name).to_pylist() for name in filled}))
            vectors |= self.model.encode(prepared, filled)
            for row, modality, reason in prepared.broken:
                notes[int(row)].append(f"{modality}: {reason}")
        table = batch if self.keep is None else batch.select([name for name in self.keep if name in batch.column_names])
        for name in names:
            table = table.append_column(name + self.suffix, vector_array(*vectors[name]))
        return table.append_column("unreadable", pa.array(["; ".join(note) for note in notes], pa.string()))


class SumMoments:
    """A stage for `ray.data.Dataset.map_batches`: of a batch of features, one row with its `Moments`, for `add_moments`.

    `ds.map_batches(SumMoments, fn_constructor_kwargs={"widths": {"text": 384, "image": 512}}, batch_format="pyarrow",
    batch_size=65536, compute=ActorPoolStrategy(size=2))`. Only sums travel to the driver, as large as the square of the widths
    however many rows they are of: let batches be large.

    Args:
        widths: column → number of entries; its cells are lists of numbers, empty where missing.

    Raises:
        InputError: no columns; a batch that lacks one, or in which it holds something else.
    """

    def __init__(self, widths: Mapping[str, int]) -> None:
        self.widths: dict[str, int] = Moments(widths).widths  # checked

    def __call__(self, batch: pyarrow.Table) -> pyarrow.Table:
        """One row: "moments", the bytes of a file that `Moments.load` reads."""
        import pyarrow as pa

        for name in self.widths:
            check_choice("widths", name, batch.column_names)
        moments = Moments(self.widths)
        filled = [name for name in self.widths if batch.column(name).null_count < batch.num_rows]
        if filled:
            moments.add(Table.from_columns({name: batch.column(name).to_pylist() for name in filled}))
        with TemporaryDirectory() as folder:
            moments.save(Path(folder) / "moments")
            content = (Path(folder) / "moments").read_bytes()
        return pa.table({"moments": pa.array([content], pa.large_binary())})


def add_moments(rows: Iterable[Mapping[str, bytes]]) -> Moments:
    """The moments of all batches that `SumMoments` has read, exact in any order.

    Args:
        rows: such as `ds.iter_rows()`; one is held at a time.

    Returns:
        Their sum.

    Raises:
        InputError: no rows, rows of different columns, or bytes of something else.
    """
    total: Moments | None = None
    for row in rows:
        with TemporaryDirectory() as folder:  # of its own: what was loaded may lie in the file
            (Path(folder) / "moments").write_bytes(row["moments"])
            part = Moments.load(Path(folder) / "moments")
        total = part if total is None else total + part
    if total is None:
        raise InputError("`rows` must hold the moments of at least one batch; got none.")
    return total
