"""Bulk embedding: a table to a file of vectors, or of any size to shards: over several processes, resumable after a kill."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import torch

from gramian.data.arrow import write_vectors
from gramian.data.batches import Batch, Loader, Reading
from gramian.data.cells import Broken, summary
from gramian.data.formats import READERS
from gramian.data.sources import MANIFEST, files_state
from gramian.data.table import ENDINGS, Table
from gramian.errors import InputError, check_choice, check_number, check_type, first_line, listing, require
from gramian.files import LOCK, atomic, check_folder, claimed, inside, read_json, write_text
from gramian.model.aligner import Aligner
from gramian.model.encoders import Encoder, fingerprint
from gramian.model.options import convert
from gramian.model.towers import Columns, Towers, evaluating
from gramian.processes import (
    check_others,
    check_precision,
    device,
    is_main_process,
    join,
    rank,
    wait_for_others,
    watched,
    world_size,
)
from gramian.sheets import progress_bar

__all__ = ["Embedded", "check_output", "embed_table", "encode_table"]

OTHERS = (".h5", ".hdf5", ".npy", ".npz", ".pkl", ".pt", ".txt", ".xlsx")
"""Endings of files, so that they name no folder; that of a folder may be anything else, as in runs/v1.2."""

_FORMAT = "gramian.embedding.v1"

Model: TypeAlias = Aligner | Towers
Precision: TypeAlias = Literal["no", "bf16", "fp16"]


class Embedded(NamedTuple):
    """What `embed_table` has written.

    Attributes:
        rows: in all files.
        shards: number of files.
        kept: shards that existed already.
        broken: cells that could not be read, and are empty.
        counts: modality → its vectors, of one file.
        left_out: items with nothing to embed, which one file does not have.
    """

    rows: int
    shards: int
    kept: int
    broken: tuple[Broken, ...]
    counts: dict[str, int] | None = None
    left_out: int = 0

    def __str__(self) -> str:
        if self.counts is None:
            note = f", {self.kept} of which existed already" if self.kept else ""
            return f"{self.rows} items in {self.shards} shards{note}"
        note = f" ({self.left_out} items with nothing to embed left out)" if self.left_out else ""
        return f"{self.rows} items; {', '.join(f'{name} {n}' for name, n in self.counts.items())}{note}"


def check_output(output: Path, source: str = "", *, streamed: bool = False) -> None:
    """Refuse what `embed_table` cannot write to, before any work is done.

    Args:
        output: a file or a folder.
        source: where the data are, if they are a file.
        streamed: whether they come part by part.

    Raises:
        InputError: a file of another format, the one that the data are in, or one for streamed data; a folder that cannot be.
    """
    if output.suffix.lower() in (*READERS, *OTHERS):
        check_choice("output", output.suffix.lower(), ENDINGS)
    one_file = _is_file(output)
    check_folder(output.parent if one_file else output)
    if one_file and output.exists() and Path(source).exists() and output.samefile(source):
        raise InputError(f"`output` must differ from `data`; both are {source!r}.")
    if one_file and streamed:
        raise InputError(f"`output` must be a folder, since `streaming` writes shards; got {str(output)!r}.")


def _is_file(output: Path) -> bool:
    return output.suffix.lower() in ENDINGS


def embed_table(
    model: Model,
    data: Table | Iterable[Table],
    output: Path,
    *,
    source: str = "",
    columns: Sequence[str] | None = None,
    batch_size: int | None = None,
    shard_size: int = 4096,
    reading: Reading = Reading(),
    precision: Precision = "no",
    progress: bool = True,
    cpu: bool = False,
) -> Embedded:
    """Embed a table into a folder, shard by shard: `part-00000.parquet` and so on, and `manifest.json`; or into one file.

    Each file is complete or absent. Called again with the same table and model a folder's work resumes where it stopped;
    another table or model raises. Under torchrun or `accelerate launch` the shards are divided among the processes; if one of
    them dies, the others stop within seconds. One file holds the items that have something to embed.

    Args:
        model: an Aligner, for vectors in its space; or towers, for features as they give them.
        data: the items; or tables of at most `shard_size` items one after the other, as from `gramian.data.stream`.
        output: a folder; or a file, .parquet or .safetensors, of a table.
        source: name of the data, for the manifest; it identifies streamed data, which cannot be hashed beforehand.
        columns: the modalities to write; by default those of a table, and of a stream, whose parts may lack some, all that the
            model reads.
        batch_size: items per forward pass; by default 4,096 of features, 32 with raw cells.
        shard_size: items per file of a folder.
        reading: how raw cells are read; those that cannot be are empty and listed in the result, and in the manifest.
        precision: of the forward pass.
        progress: show a progress bar.
        cpu: stay on the CPU even if the machine has an accelerator.

    Returns:
        What was written.

    Raises:
        InputError: a folder that holds another embedding, a file that cannot be written or would be empty, or columns that do
            not fit; a cell that cannot be read, if the reading is strict; another process that died.
    """
    check_type("model", model, Aligner, Towers)
    check_type("data", data, Table, Iterable)
    check_type("output", output, Path)
    check_number("batch_size", batch_size, "[1, inf)", integer=True, optional=True)
    check_number("shard_size", shard_size, "[1, inf)", integer=True)
    for name in columns or ():
        check_choice("columns", name, model.modalities)
    check_output(output, source, streamed=not isinstance(data, Table))
    if isinstance(data, Table):
        model.check(data)  # before anything is written
        columns = columns or data.modalities
        if _is_file(output):
            return _write_file(output, model.to(device(cpu)), data.select(*columns), source, batch_size, reading, precision)
    require("accelerate", "pyarrow")
    with watched(), claimed(output, is_main_process()):
        where = join(cpu)
        check_precision(precision, where)
        model.to(where)
        folder = _Shards(output, _description(model, data, source, shard_size, precision))
        if not isinstance(data, Table):
            data = _begun(model, data, columns)
        folder.begin()
        if not folder.complete():
            with progress_bar(progress and is_main_process()) as bar:
                task = bar.add_task("embedding", total=len(data) if isinstance(data, Table) else None)
                count = 0
                for number, (part, batches) in enumerate(_parts(model, data, columns, shard_size, batch_size, reading)):
                    count += 1
                    if number % world_size() == rank() and not folder.has(number):
                        broken: list[Broken] = []
                        folder.write(number, part, _encode(model, batches, columns, precision, broken), broken)
                    bar.update(task, advance=len(part))
            while not (folder.complete() or (is_main_process() and all(map(folder.has, range(count))))):
                check_others()
                time.sleep(0.05)
            if is_main_process():
                folder.finish(count)
        return folder.read()


def _write_file(
    path: Path, model: Model, table: Table, source: str, batch_size: int | None, reading: Reading, precision: Precision
) -> Embedded:
    """One table of the items that have something."""
    broken: list[Broken] = []
    columns = encode_table(model, table, batch_size=batch_size, reading=reading, precision=precision, broken=broken)
    readable = torch.stack([mask for _, mask in columns.values()]).any(0)
    if not bool(readable.any()):
        raise InputError(f"`data` {source!r} has no cell that can be read" + (f" ({summary(broken)})." if broken else "."))
    rows = table[readable]
    vectors = {name: values[readable] for name, (values, _) in columns.items()}
    present = {name: mask[readable] for name, (_, mask) in columns.items()}
    made = replace(rows, columns={**vectors}, present=present, metadata={})
    made.save(path)
    return Embedded(len(made), 1, 0, tuple(broken), made.counts(), len(table) - len(made))


def _begun(model: Model, data: Iterable[Table], columns: Sequence[str] | None) -> Iterable[Table]:
    """The parts of a stream, read and checked up to the first that has something to embed: before anything is written."""
    parts, read = iter(data), []
    for part in parts:
        read.append(part)
        if known := _known(model, part, columns):
            model.check(part.select(*known))
            return chain(read, parts)
    names, has = columns or model.modalities, dict.fromkeys(name for part in read for name in part.modalities)
    raise InputError(f"`data` has nothing in the columns that the model reads ({', '.join(names)}); it has {', '.join(has)}.")


def _known(model: Model, part: Table, columns: Sequence[str] | None) -> list[str]:
    """The columns of a part to embed, of those that have something."""
    wanted = columns or model.modalities
    return [name for name in part.modalities if name in wanted and bool(part.present[name].any())]


def _parts(
    model: Model,
    data: Table | Iterable[Table],
    columns: Sequence[str] | None,
    shard_size: int,
    batch_size: int | None,
    reading: Reading,
) -> Iterator[tuple[Table, Iterable[Batch]]]:
    """The items of each shard, and their Batches."""
    if isinstance(data, Table):
        loader = Loader(data, model.collator(), reading)  # its processes serve all shards
        for start in range(0, len(data), shard_size):
            rows = range(start, min(start + shard_size, len(data)))
            yield data[start : rows.stop], loader.in_order(batch_size, rows)
        return
    for part in data:
        if known := _known(model, part, columns):
            filled = part.select(*known)
            model.check(filled)
            yield part, Loader(filled, model.collator(), reading).in_order(batch_size)
        else:
            yield part, [Batch({}, {}, part.ids, part.item_ids)]


def encode_table(
    model: Model,
    table: Table,
    *,
    batch_size: int | None = None,
    reading: Reading = Reading(),
    precision: Precision = "no",
    broken: list[Broken] | None = None,
) -> Columns:
    """Vectors and masks of a whole table, in memory, for the columns that it has.

    Args:
        model: an Aligner, for vectors in its space; or towers, for features as they give them.
        table: the items.
        batch_size: items per forward pass; by default 4,096 of features, 32 with raw cells.
        reading: how raw cells are read.
        precision: of the forward pass.
        broken: a list that gets what could not be read.

    Returns:
        Modality → (n, width) float32 and (n,) bool, on the CPU.

    Raises:
        InputError: columns that do not fit; a cell that cannot be read, if the reading is strict.
    """
    model.check(table)
    check_precision(precision, model.device)
    batches = Loader(table, model.collator(), reading).in_order(batch_size)
    return _encode(model, batches, table.modalities, precision, [] if broken is None else broken)


def _encode(
    model: Model, batches: Iterable[Batch], names: Sequence[str] | None, precision: Precision, broken: list[Broken]
) -> Columns:
    mixed = nullcontext() if precision == "no" else torch.autocast(model.device.type, _DTYPES[precision])
    parts: list[Columns] = []
    with evaluating(model), mixed:
        for batch in batches:
            check_others()
            parts.append(model.encode(batch, names))
            broken.extend(batch.broken)
    return {
        name: (torch.cat([part[name][0] for part in parts]), torch.cat([part[name][1] for part in parts])) for name in parts[0]
    }


_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


_CELLS = list[tuple[str, str, str]]


class _Shards:
    """The folder: shards, each with a note of its unreadable cells, and at the end a manifest that collects the notes."""

    def __init__(self, path: Path, description: dict[str, Any]) -> None:
        self.path = path
        self.description = description
        self.earlier: set[str] = set()

    @property
    def manifest(self) -> Path:
        return self.path / MANIFEST

    def shard(self, number: int) -> Path:
        return self.path / f"part-{number:05d}.parquet"

    def begin(self) -> None:
        """Create the folder, or check that it holds the same embedding; note the shards in it."""
        if is_main_process() and not self.manifest.exists():
            names = sorted(path.name for path in self.path.glob("*"))
            strangers = [name for name in names if not name.startswith((LOCK, "part-"))]
            if strangers:
                raise InputError(f"`output` {str(self.path)!r} holds other files ({listing(strangers)}). Name another folder.")
            write_text(self.manifest, json.dumps(self.description | {"complete": False}, indent=2) + "\n")
        wait_for_others()
        self.earlier = {path.name for path in self.path.glob("part-*.parquet")}
        manifest = self._load()
        changed = [
            f"{name} {manifest.get(name)!s:.60} → {value!s:.60}"
            for name, value in self.description.items()
            if manifest.get(name) != value
        ]
        if changed:
            raise InputError(
                f"`output` {str(self.path)!r} holds another embedding; changed are {listing(changed)}. Name another folder."
            )
        if is_main_process() and manifest["complete"]:
            self._clear()  # as a process did that was killed before it could
        wait_for_others()

    def complete(self) -> bool:
        return bool(self._load()["complete"])

    def has(self, number: int) -> bool:
        return self.shard(number).exists()

    def write(self, number: int, part: Table, columns: Columns, broken: Sequence[Broken]) -> None:
        # The note first: a shard that exists has its note.
        write_text(self.shard(number).with_suffix(".json"), json.dumps({"rows": len(part), "broken": broken}))
        names = {"id": part.ids, "split": part.split, "item": part.item_ids}
        strings: dict[str, list[str | None]] = {name: list(values) for name, values in names.items() if values is not None}
        strings |= {name: list(values) for name, values in part.labels.items()}
        with atomic(self.shard(number)) as partial:
            write_vectors(
                strings,
                {name: values for name, (values, _) in columns.items()},
                {name: mask for name, (_, mask) in columns.items()},
                partial,
            )

    def finish(self, count: int) -> None:
        shards, broken = [], []
        for path in map(self.shard, range(count)):
            note = self._read(path.with_suffix(".json").name, {"rows": int, "broken": _CELLS})
            shards.append({"file": path.name, "rows": note["rows"]})
            broken += note["broken"]
        rows = sum(shard["rows"] for shard in shards)
        manifest = self.description | {"complete": True, "rows": rows, "shards": shards, "broken": broken}
        write_text(self.manifest, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
        self._clear()

    def _clear(self) -> None:
        """Remove the notes, which the manifest holds."""
        for path in self.path.glob("part-*.json"):
            path.unlink(missing_ok=True)

    def read(self) -> Embedded:
        manifest = self._read(MANIFEST, {"rows": int, "shards": list[Any], "broken": _CELLS})
        broken = tuple(Broken(*cell) for cell in manifest["broken"])
        shards = len(manifest["shards"])
        return Embedded(manifest["rows"], shards, len(self.earlier & {self.shard(i).name for i in range(shards)}), broken)

    def _load(self) -> dict[str, Any]:
        return self._read(MANIFEST, {"format": Literal[_FORMAT], "complete": bool})

    def _read(self, name: str, hints: Mapping[str, Any]) -> dict[str, Any]:
        """A file of the folder, which may be somebody else's, and in it values of these types."""
        try:
            content: dict[str, Any] = read_json(inside(self.path, name))
            return content | {key: convert(content[key], hint, key) for key, hint in hints.items()}
        except (OSError, ValueError, KeyError, TypeError) as error:
            path = str(self.path / name)
            raise InputError(f"{path!r} is damaged ({first_line(error):.100}). Delete the folder, or name another.") from None


def _description(
    model: Model, data: Table | Iterable[Table], source: str, shard_size: int, precision: Precision
) -> dict[str, Any]:
    described: dict[str, Any] = {}
    for name, tower in (model.towers if isinstance(model, Aligner) else model).items():
        described[name] = {"class": type(tower).__name__, "width": tower.width, "hash": fingerprint(tower)}
        if isinstance(tower, Encoder):
            described[name] |= {"source": tower.source, "options": tower.options}
    return {
        "format": _FORMAT,
        "source": source,
        "data": data.digest() if isinstance(data, Table) else f"streamed {files_state(source)}".strip(),
        "model": "aligner" if isinstance(model, Aligner) else "towers",
        "weights": fingerprint(model) if isinstance(model, Aligner) else None,
        "towers": described,
        "shard_size": shard_size,
        "precision": precision,
    }
