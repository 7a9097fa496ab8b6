"""Where tables come from: files, folders and hub data sets, all read by Hugging Face datasets into one Arrow table."""

from __future__ import annotations

import glob
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from gramian.data.tars import read_tars
from gramian.errors import InputError, check_choice, first_line, require

if TYPE_CHECKING:
    import pyarrow

__all__ = ["MANIFEST", "READERS", "read_rows", "stream_rows", "write_vectors"]

MANIFEST = "manifest.json"
"""What a folder of embedded shards holds beside them."""

READERS = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".tar": "webdataset",
}
"""Ending of a file → the reader of Hugging Face datasets; webdataset archives have one of our own."""


def read_rows(source: str, raw: Sequence[str] = (), *, revision: str | None = None) -> tuple[pyarrow.Table, Path | None]:
    """The rows of a source, and the folder that relative paths in them are relative to.

    Media are not decoded. Where there are raw columns the rows lie in the cache of Hugging Face datasets and are mapped from
    there; a table of features alone is read into memory and leaves nothing behind.

    Args:
        source: a file, a folder or a hub id.
        raw: the columns that are read as they are.
        revision: of a data set on the hub.

    Raises:
        InputError: no such source, or one that cannot be read.
    """
    datasets = _datasets()
    path, kind, options = _options(source, raw, revision)
    if options["path"] == "webdataset":
        return read_tars(options["tars"]), path
    with tempfile.TemporaryDirectory() as cache, _told(source, kind), _quiet():
        if not raw and path is not None:
            options |= {"cache_dir": cache, "keep_in_memory": True}
        saved = options["path"] == "saved"
        found = datasets.load_from_disk(source) if saved else datasets.load_dataset(**options)
        parts = found if isinstance(found, Mapping) else {"train": found}
        return _one_table(parts), path


def _options(source: str, raw: Sequence[str], revision: str | None) -> tuple[Path | None, str, dict[str, Any]]:
    """The folder of relative paths, what the source is, and the options of `load_dataset`."""
    path = Path(source)
    if path.is_file():
        kind = READERS[check_choice("data", path.suffix, READERS)]
        if path.stat().st_size == 0:
            raise InputError(f"{source!r} is empty: 0 bytes.")
        if kind == "webdataset":
            return path.parent, kind, {"path": kind, "tars": [path]}
        options: dict[str, Any] = {"path": kind, "data_files": {"train": glob.escape(source)}}
        if kind == "csv":  # names and texts as they stand: "01" is no number, and "NA" is a word
            options |= {"converters": dict.fromkeys((*raw, "id", "split", "item"), str)}
            options |= {"keep_default_na": False, "na_values": [""]}
        return path.parent, kind, options
    if path.is_dir():
        return path, "a folder", _folder_options(path)
    if source.count("/") == 1 and path.suffix not in (*READERS, ".safetensors") and not source.startswith((".", "/")):
        return None, "a hub data set", {"path": source, "revision": revision}
    raise InputError(f"`data` must be a file, a folder, a hub id or one of stamps; there is no {source!r}.")


@contextmanager
def _told(source: str, kind: str) -> Iterator[None]:
    """Errors of Hugging Face datasets in our own words."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # readers fail in as many ways as there are formats
        reason = first_line(error.__cause__ or error) or type(error).__name__
        if "corresponds to no data" in reason or "BatchSize must be greater" in reason:
            raise InputError(f"{source!r} is empty: no rows.") from None
        raise InputError(f"{source!r} cannot be read as {kind}: {reason}") from error


def stream_rows(
    source: str, rows: int, raw: Sequence[str] = (), *, revision: str | None = None
) -> Iterator[tuple[pyarrow.Table, Path | None]]:
    """Parts of at most `rows` rows of a source, one after the other, without a copy on the disk; see `read_rows`."""
    import pyarrow as pa

    datasets = _datasets()
    path, kind, options = _options(source, raw, revision)
    if options["path"] == "saved":
        raise InputError(f"`data` {source!r} lies on this disk already and is read as it is: it cannot be streamed.")
    if options["path"] == "webdataset":
        table = read_tars(options["tars"])
        for start in range(0, table.num_rows, rows):
            yield table.slice(start, rows), path
        return
    with _told(source, kind), _quiet():
        found = datasets.load_dataset(**options, streaming=True)
        for name, part in (found if isinstance(found, Mapping) else {"train": found}).items():
            for chunk in _undecoded(part).with_format("arrow").iter(batch_size=rows):
                if len(found) > 1 and "split" not in chunk.column_names:
                    chunk = chunk.append_column("split", pa.array([name] * chunk.num_rows))
                yield chunk, path


def _folder_options(path: Path) -> dict[str, Any]:
    manifest = path / MANIFEST
    shards = [str(file) for file in sorted(path.glob("part-*.parquet"))]
    if manifest.exists() and shards:
        try:
            complete = json.loads(manifest.read_text(encoding="utf-8"))["complete"]
        except (ValueError, KeyError, OSError):
            raise InputError(f"{str(manifest)!r} is damaged. Embed anew, into another folder.") from None
        if not complete:
            raise InputError(f"the embedding in {str(path)!r} was not finished. Run the same `gramian embed` again.")
        return {"path": "parquet", "data_files": {"train": [glob.escape(file) for file in shards]}}
    if (path / "state.json").exists() or (path / "dataset_dict.json").exists():
        return {"path": "saved"}
    tars = sorted(path.glob("*.tar"))
    if tars:
        return {"path": "webdataset", "tars": tars}
    return {"path": str(path)}


def _one_table(parts: Mapping[str, Any]) -> pyarrow.Table:
    """All splits one below the other; a column `split` tells which where there are several and none says so."""
    import pyarrow as pa

    tables = []
    for name, part in parts.items():
        plain = _undecoded(part)
        table = plain.with_format("arrow")[:] if plain._indices is not None else plain.data.table
        if len(parts) > 1 and "split" not in table.column_names:
            table = table.append_column("split", pa.array([name] * table.num_rows))
        tables.append(table)
    return tables[0] if len(tables) == 1 else pa.concat_tables(tables, promote_options="default")


def _undecoded(rows: Any) -> Any:
    """The same data set with media as bytes or paths; `__key__` of a webdataset named `id`."""
    datasets = _datasets()
    for name, feature in dict(rows.features).items():
        if isinstance(feature, datasets.Image | datasets.Audio | datasets.Video) and feature.decode:
            rows = rows.cast_column(name, type(feature)(decode=False))
    if "__key__" in rows.column_names and "id" not in rows.column_names:
        rows = rows.rename_column("__key__", "id")
    return rows


def write_vectors(
    data: Mapping[str, list[Any]], columns: Mapping[str, Tensor], present: Mapping[str, Tensor], path: Path
) -> None:
    """Write columns of strings, and of features as lists of float32, to a parquet file."""
    datasets = _datasets()
    clash = [name for name in columns if name in ("id", "split", "item")]
    if clash:
        raise InputError(f"`columns` must not name a modality {clash[0]!r}: tables keep that name for the rows. Rename it.")
    data = dict(data)
    kinds: dict[str, Any] = {name: datasets.Value("string") for name in data}
    for name, column in columns.items():
        rows, mask = column.float().numpy(), present[name].tolist()
        data[name] = [row if there else None for row, there in zip(rows, mask, strict=True)]
        kinds[name] = datasets.Sequence(datasets.Value("float32"))
    with _quiet():
        datasets.Dataset.from_dict(data, features=datasets.Features(kinds)).to_parquet(path)


def _datasets() -> Any:
    require("datasets")
    import datasets

    return datasets


@contextmanager
def _quiet() -> Iterator[None]:
    """Hugging Face datasets without its progress bars and messages."""
    datasets = _datasets()
    shown, level = datasets.is_progress_bar_enabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)  # what fails is told by our own error
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if shown:
            datasets.enable_progress_bars()
