"""Bulk embedding: a table of any size to shards of vectors; batched, over several processes, resumable after a kill."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from gramian.data.batches import Batch, Collator, sequential_batches
from gramian.data.cells import Broken, Cells
from gramian.data.sources import MANIFEST, write_vectors
from gramian.data.table import Table
from gramian.errors import InputError, check_choice, listing, require
from gramian.files import atomic, write_text
from gramian.model.aligner import Aligner, device_of, evaluating
from gramian.model.encoders import Encoder, fingerprint
from gramian.model.towers import Encoded, Features, Tower

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Embedded", "TowerSet", "embed_batch", "embed_shards", "encode_table"]

_FORMAT = "gramian.embedding.v1"

Columns = dict[str, tuple[Tensor, Tensor]]
"""Modality → (n, width) float32 and (n,) bool."""


class Embedded(NamedTuple):
    """What `embed_shards` has written.

    Attributes:
        rows: in all shards.
        shards: number of files.
        kept: shards that were there already.
        broken: cells that could not be read, and are empty.
    """

    rows: int
    shards: int
    kept: int
    broken: tuple[Broken, ...]


class TowerSet(nn.Module):
    """Towers by modality, without heads: for features that are computed once and trained on often.

    Args:
        towers: modality → tower.
    """

    def __init__(self, towers: Mapping[str, Tower]) -> None:
        super().__init__()
        if not towers:
            raise InputError("`towers` must name at least one; got none.")
        self.names = tuple(towers)
        self.towers = nn.ModuleList(towers.values())

    def collator(self) -> Collator:
        """What makes `Batch`es for the towers."""
        return Collator({name: tower.reader for name, tower in self.items()})

    def items(self) -> Iterator[tuple[str, Tower]]:
        """Names and towers."""
        for name, tower in zip(self.names, self.towers, strict=True):
            assert isinstance(tower, Tower)
            yield name, tower

    def check(self, table: Table, argument: str = "columns") -> None:
        """Compare the columns of a table with the towers, without reading a cell.

        Raises:
            InputError: a column without a tower, or features where a tower reads raw cells.
        """
        for name, column in table.columns.items():
            tower = dict(self.items()).get(name)
            if tower is None:
                raise InputError(f"`{argument}` has a column `{name}` without a tower; there are {', '.join(self.names)}.")
            if isinstance(column, Cells) == isinstance(tower, Features):
                holds = "raw cells" if isinstance(column, Cells) else "features"
                raise InputError(f"column `{name}` holds {holds}, which its tower does not read.")

    def forward(self, batch: Batch) -> Columns:
        """The pooled vectors of the rows that are there, as the towers give them."""
        found: Columns = {}
        for name, tower in self.items():
            there = batch.present.get(name, torch.zeros(len(batch), dtype=torch.bool))
            vectors = torch.zeros(len(batch), tower.width)
            if name in batch.inputs:
                encoded = tower(batch.inputs[name])
                vectors[there] = (encoded.vectors if isinstance(encoded, Encoded) else encoded).float().cpu()
            found[name] = (vectors, there)
        return found


@torch.no_grad()
def embed_batch(model: Aligner | TowerSet, batch: Batch, names: Sequence[str] | None = None) -> Columns:
    """Vectors and masks of one Batch, on the CPU, in float32 whatever autocast computes in.

    Args:
        model: an Aligner or towers.
        batch: the items.
        names: the modalities to give, whether the Batch has them or not; by default those that it has, or the towers'.
    """
    found = model(batch.to(device_of(model)))
    if isinstance(model, TowerSet):
        columns: Columns = found
        return columns
    return {name: (found.column(name).float().cpu(), found.has(name).cpu()) for name in names or batch.present}


def embed_shards(
    model: Aligner | TowerSet,
    data: Table | Iterable[Table],
    output: Path,
    *,
    source: str = "",
    batch_size: int = 32,
    shard_size: int = 4096,
    workers: int = 0,
    precision: Literal["no", "bf16", "fp16"] = "no",
    strict: bool = False,
    progress: bool = True,
    cpu: bool = False,
) -> Embedded:
    """Embed a table, shard by shard: `output/part-00000.parquet` and so on, and `manifest.json`.

    A shard is there whole or not at all. Called again with the same table and model it goes on where it stopped, without a row
    lost or doubled; with others it refuses. Under torchrun or `accelerate launch` the shards are divided among the processes.

    Args:
        model: an Aligner, for vectors in its space; or towers, for features as they give them.
        data: the items; or tables of at most `shard_size` items one after the other, as from `gramian.data.stream`.
        output: folder.
        source: name of the data, for the manifest; it tells streamed data apart, which cannot be hashed beforehand.
        batch_size: items a forward pass.
        shard_size: items a file.
        workers: processes that read raw cells ahead, for each that embeds.
        precision: of the forward pass.
        strict: stop at a cell that cannot be read, which otherwise is empty and listed in the manifest.
        progress: show a progress bar.
        cpu: stay on the CPU where there is an accelerator.

    Raises:
        InputError: a folder that holds another embedding, or columns that do not fit.
    """
    require("accelerate", "datasets")
    from accelerate import PartialState

    check_choice("precision", precision, ("no", "bf16", "fp16"))
    for name, value in (("batch_size", batch_size), ("shard_size", shard_size)):
        if value < 1:
            raise InputError(f"`{name}` must be at least 1; got {value}.")
    state = PartialState(cpu=cpu or not torch.accelerator.is_available())
    if precision == "fp16" and state.device.type == "cpu":
        raise InputError("`precision` 'fp16' needs an accelerator; on the CPU use 'bf16' or 'no'.")
    model.to(state.device)
    folder = _Shards(output, _description(model, data, source, shard_size, precision))
    if state.is_main_process:
        folder.begin()
    state.wait_for_everyone()
    folder.check()
    if folder.complete():
        return folder.read()
    total = len(data) if isinstance(data, Table) else None
    every = tuple(model.modalities) if isinstance(model, Aligner) and not isinstance(data, Table) else None
    kept = 0
    with _progress(progress and state.is_main_process) as bar:
        task = bar.add_task("embedding", total=total)
        for number, part in enumerate(_parts(data, shard_size)):
            mine = number % state.num_processes == state.process_index
            if mine and not folder.has(number):
                broken: list[Broken] = []
                if every is not None:  # of a stream each part may lack other columns
                    part = _known(part, model)
                options = {"names": every, "workers": workers, "precision": precision, "strict": strict, "broken": broken}
                folder.write(number, part, encode_table(model, part, batch_size, **options), broken)  # type: ignore[arg-type]
            elif mine:
                kept += 1
            bar.update(task, advance=len(part))
    state.wait_for_everyone()
    if state.is_main_process:
        folder.finish()
    state.wait_for_everyone()
    return folder.read()._replace(kept=kept)


_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def _known(part: Table, model: Aligner | TowerSet) -> Table:
    """The columns of a part that an Aligner reads, or one of them that is empty in every row."""
    assert isinstance(model, Aligner)
    known = [name for name in part.modalities if name in model.modalities]
    if known:
        return part.select(*known)
    (name, given), *_ = model.modalities.items()
    nothing = torch.zeros(len(part), dtype=torch.bool)
    column = torch.zeros(len(part), given.width) if given.tower is None else Cells([None] * len(part))
    return Table({name: column}, {name: nothing}, part.ids, part.split, item_ids=part.item_ids)


def _parts(data: Table | Iterable[Table], shard_size: int) -> Iterator[Table]:
    if not isinstance(data, Table):
        yield from data
        return
    for start in range(0, len(data), shard_size):
        yield data[start : start + shard_size]


def encode_table(
    model: Aligner | TowerSet,
    table: Table,
    batch_size: int,
    *,
    workers: int = 0,
    precision: Literal["no", "bf16", "fp16"] = "no",
    strict: bool = False,
    broken: list[Broken] | None = None,
    names: Sequence[str] | None = None,
) -> Columns:
    """Vectors and masks of a whole table, in memory; arguments as for `embed_shards`.

    Args:
        model: see there.
        table: the items.
        batch_size: items a forward pass.
        workers: see there.
        precision: see there.
        strict: see there.
        broken: a list that is given what could not be read.
        names: see `embed_batch`.
    """
    model.check(table)
    found: list[Columns] = []
    mixed = nullcontext() if precision == "no" else torch.autocast(device_of(model).type, _DTYPES[precision])
    with evaluating(model), mixed:
        for batch in sequential_batches(table, model.collator(), batch_size, workers=workers, strict=strict):
            found.append(embed_batch(model, batch, names))
            if broken is not None:
                broken.extend(batch.broken)
    return {
        name: (torch.cat([some[name][0] for some in found]), torch.cat([some[name][1] for some in found])) for name in found[0]
    }


class _Shards:
    """The folder: shards with a note each of what could not be read, and at last a manifest that takes the notes in."""

    def __init__(self, path: Path, description: dict[str, Any]) -> None:
        self.path = path
        self.description = description

    @property
    def manifest(self) -> Path:
        return self.path / MANIFEST

    def shard(self, number: int) -> Path:
        return self.path / f"part-{number:05d}.parquet"

    def begin(self) -> None:
        if self.path.is_file():
            raise InputError(f"`output` must be a folder; {str(self.path)!r} is a file.")
        if not self.manifest.exists():
            names = sorted(path.name for path in self.path.glob("*")) if self.path.exists() else []
            strangers = [name for name in names if not name.endswith(".partial")]  # of a run that was killed at its start
            if strangers:
                raise InputError(f"`output` {str(self.path)!r} holds other files ({listing(strangers)}). Name another folder.")
            write_text(self.manifest, json.dumps(self.description | {"complete": False}, indent=2) + "\n")

    def check(self) -> None:
        there = self._load()
        changed = [
            f"{name} {there.get(name)} → {value}" for name, value in self.description.items() if there.get(name) != value
        ]
        if changed:
            raise InputError(
                f"`output` {str(self.path)!r} holds another embedding; changed are {listing(changed)}. Name another folder."
            )

    def complete(self) -> bool:
        return bool(self._load()["complete"])

    def has(self, number: int) -> bool:
        return self.shard(number).exists()

    def write(self, number: int, part: Table, columns: Columns, broken: Sequence[Broken]) -> None:
        # The note first: a shard that is there has its note.
        write_text(self.shard(number).with_suffix(".json"), json.dumps({"rows": len(part), "broken": broken}))
        names = {"id": part.ids, "split": part.split, "item": part.item_ids}
        strings = {name: list(values) for name, values in names.items() if values is not None}
        with atomic(self.shard(number)) as partial:
            write_vectors(
                strings,
                {name: values for name, (values, _) in columns.items()},
                {name: there for name, (_, there) in columns.items()},
                partial,
            )

    def finish(self) -> None:
        shards, broken = [], []
        for path in sorted(self.path.glob("part-*.parquet")):
            note = json.loads(path.with_suffix(".json").read_text())
            shards.append({"file": path.name, "rows": note["rows"]})
            broken += note["broken"]
        rows = sum(shard["rows"] for shard in shards)
        whole_manifest = self.description | {"complete": True, "rows": rows, "shards": shards, "broken": broken}
        write_text(self.manifest, json.dumps(whole_manifest, indent=2, ensure_ascii=False) + "\n")
        for path in [*self.path.glob("part-*.json"), *self.path.glob(".part-*.partial")]:
            path.unlink()

    def read(self) -> Embedded:
        made = self._load()
        broken = tuple(Broken(*one) for one in made["broken"])
        return Embedded(made["rows"], len(made["shards"]), len(made["shards"]), broken)

    def _load(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self.manifest.read_text(encoding="utf-8"))
            if found["format"] != _FORMAT:
                raise ValueError("another format")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{str(self.manifest)!r} is damaged ({error}). Delete the folder, or name another.") from None
        return found


def _description(
    model: Aligner | TowerSet, data: Table | Iterable[Table], source: str, shard_size: int, precision: str
) -> dict[str, Any]:
    towers = model.items() if isinstance(model, TowerSet) else zip(model.modalities, model.towers, strict=True)
    described: dict[str, Any] = {}
    for name, tower in towers:
        described[name] = {"class": type(tower).__name__, "width": tower.width, "hash": fingerprint(tower)}
        if isinstance(tower, Encoder):
            described[name] |= {"source": tower.source, "options": tower.options}
    return {
        "format": _FORMAT,
        "source": source,
        "data": data.digest() if isinstance(data, Table) else "streamed",
        "model": "aligner" if isinstance(model, Aligner) else "towers",
        "weights": fingerprint(model) if isinstance(model, Aligner) else None,
        "towers": described,
        "shard_size": shard_size,
        "precision": precision,
    }


def _progress(show: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), disable=not show
    )
