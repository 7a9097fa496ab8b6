"""What a source is and which files it holds: a file, a folder that is listed here, or a data set on the hub.

Every file of a folder is read, refused, or named in a warning: none is chosen by its name.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gramian.data.arrow import RESERVED, Column, plain
from gramian.data.formats import READERS, Part, Wanted, joined, read_file, rebatched
from gramian.data.media import MEDIA
from gramian.data.tars import read_tars
from gramian.errors import InputError, check_choice, first_line, listing, require

__all__ = ["MANIFEST", "READABLE", "files_state", "read_rows", "stream_rows"]

logger = logging.getLogger("gramian")

MANIFEST = "manifest.json"
"""The file beside the shards in a folder of embeddings."""

READABLE = (*READERS, ".tar")
"""Endings of the files that `read_rows` reads."""

_SPLITS = {name: name for name in ("train", "validation", "test")} | dict.fromkeys(("valid", "val", "dev"), "validation")
"""Names of folders and files that say, as a whole, which split is in them → its name."""

_SHARD = re.compile(r"(\w+)-\d{5}-of-\d{5}")
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_ASIDE = re.compile(r"(readme|licen[cs]e|notice|changelog)\b.*|dataset_infos?\.json|_[^.]*", re.IGNORECASE)
"""Files beside a table: about it, or bookkeeping such as `_SUCCESS`."""


@dataclass(frozen=True)
class _File:
    """A file of a source, and the split that its rows are in, if files say."""

    path: Path
    split: str | None = None


def read_rows(
    source: str,
    raw: Sequence[str] = (),
    *,
    columns: Sequence[str] | None = None,
    id_column: str = "id",
    revision: str | None = None,
) -> Part:
    """The rows of a source. Media are not decoded; raw columns of Arrow, and of large parquet, are mapped from the disk.

    Args:
        source: a file, a folder or a hub id.
        raw: the columns that are read as they are.
        columns: the columns to read in addition to those of `raw` and those about the rows; all by default.
        id_column: holds the rows' names.
        revision: of a data set on the hub.

    Returns:
        All rows in one part; if the source has several splits, with a column "split".

    Raises:
        InputError: no such source, one that cannot be read, or files whose columns do not go together.
    """
    parts = list(_parts(source, _wanted(columns, raw, id_column), revision, mapped=bool(raw)))
    whole = joined([part for part in parts if part.rows] or parts)
    return replace(whole, names=tuple(dict.fromkeys(name for part in parts for name in part.names)))


def stream_rows(
    source: str,
    rows: int,
    raw: Sequence[str] = (),
    *,
    columns: Sequence[str] | None = None,
    id_column: str = "id",
    revision: str | None = None,
) -> Iterator[Part]:
    """The same rows in parts of `rows`, one after the other, without a copy on the disk.

    Args:
        source: see `read_rows`.
        rows: of a part; the last one may have fewer.
        raw: see `read_rows`.
        columns: see `read_rows`.
        id_column: see `read_rows`.
        revision: see `read_rows`.

    Yields:
        Parts with at least one row.
    """
    yield from rebatched(_parts(source, _wanted(columns, raw, id_column), revision, streaming=True), rows)


def files_state(source: str) -> str:
    """A hash of the names, sizes and times of a source's files; empty for one on the hub.

    Args:
        source: a file, a folder or a hub id.

    Returns:
        16 hexadecimal digits, which change if a file is added, removed or rewritten.
    """
    path = Path(source)
    if not source or not path.exists():
        return ""
    files = [path / name for name in _names(path)] if path.is_dir() else [path]
    states = [(str(file.relative_to(path)), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps(states).encode()).hexdigest()[:16]


def _wanted(columns: Sequence[str] | None, raw: Sequence[str], id_column: str) -> Wanted:
    if columns is None:
        return list
    chosen = {*columns, *raw, *RESERVED, id_column}
    return lambda names: [name for name in names if name in chosen]


def _parts(
    source: str, wanted: Wanted, revision: str | None, *, mapped: bool = False, streaming: bool = False
) -> Iterator[Part]:
    require("pyarrow")
    path = Path(source)
    if path.is_file():
        check_choice("data", path.suffix.lower(), READABLE)
        if path.stat().st_size == 0:
            raise InputError(f"{source!r} is empty: 0 bytes.")
        parts = iter([_of_tars([path])]) if path.suffix.lower() == ".tar" else read_file(path, wanted, mapped=mapped)
        folder = path.parent
    elif path.is_dir():
        parts, folder = _of_folder(path, wanted, mapped), path
    elif source.count("/") == 1 and path.suffix not in (*READABLE, ".safetensors") and not source.startswith((".", "/")):
        yield from _of_hub(source, revision, wanted, streaming)
        return
    else:
        raise InputError(f"`data` must be a file, a folder, a hub id or one of stamps; {source!r} does not exist.")
    for part in parts:
        yield replace(part, folder=folder)


def _of_tars(paths: Sequence[Path]) -> Part:
    columns = read_tars(paths)
    return Part(columns, len(columns["id"]), tuple(columns), str(paths[0]))


def _of_folder(folder: Path, wanted: Wanted, mapped: bool) -> Iterator[Part]:
    tars = sorted(folder.glob("*.tar"))
    if tars:
        yield _of_tars(tars)
        return
    shards = _of_embedding(folder) or _of_saved(folder)
    names = [] if shards else _names(folder)
    own = [name for name in names if not any(step.startswith("_") for step in name.parts[:-1])]  # no `_temporary` of Spark
    tables = [name for name in own if name.suffix.lower() in READERS and not _ASIDE.fullmatch(name.name)]
    media = {
        name: kind
        for name in own
        for kind, medium in MEDIA.items()
        if kind != "text" and name.suffix.lower() in medium.endings.split()
    }
    if media and all(name.name in _METADATA for name in tables):
        yield from _of_media(folder, names, media, tables, wanted)
        return
    _warn_of_others(folder, [name for name in names if name not in tables and name not in media])  # tables may name the media
    for file in shards or _of_tables(folder, names, tables):
        for part in read_file(file.path, wanted, mapped=mapped):
            yield _in_split(part, file.split)


def _names(folder: Path) -> list[Path]:
    """The files below a folder, relative to it, in order, without hidden ones."""
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return [name for name in names if not any(step.startswith(".") for step in name.parts)]


def _of_embedding(folder: Path) -> list[_File]:
    """The shards of `gramian embed`, all of those that its manifest names."""
    manifest = folder / MANIFEST
    if not manifest.exists() or not (shards := sorted(folder.glob("part-*.parquet"))):
        return []
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        complete, names = content["complete"], [shard["file"] for shard in content.get("shards", [])]
    except (ValueError, KeyError, TypeError, OSError):
        raise InputError(f"{str(manifest)!r} is damaged. Embed again, into another folder.") from None
    if not complete:
        raise InputError(f"the embedding in {str(folder)!r} was not finished. Run the same `gramian embed` again.")
    if names != [shard.name for shard in shards]:
        missing = [name for name in names if name not in {shard.name for shard in shards}]
        strange = [shard.name for shard in shards if shard.name not in names]
        what = f"lacks {listing(missing)}, which" if missing else f"holds {listing(strange)}, which none of the shards that"
        raise InputError(f"the embedding in {str(folder)!r} {what} its manifest names. Embed again.")
    return [_File(shard) for shard in shards]


def _of_saved(folder: Path) -> list[_File]:
    """The Arrow files of a data set of Hugging Face datasets that was saved to disk."""
    splits: list[Any] = [None]
    if (folder / "dataset_dict.json").exists():
        splits = list(_json_of(folder / "dataset_dict.json", "splits"))
    elif not (folder / "state.json").exists():
        return []
    files = []
    for split in splits:
        home = folder / split if split else folder
        for entry in _json_of(home / "state.json", "_data_files"):
            name = str(entry["filename"])
            if Path(name).name != name or Path(str(split or "a")).name != str(split or "a"):
                raise InputError(f"{str(home / 'state.json')!r} points to a file outside of its folder ({name!r}).")
            files.append(_File(home / name, split if len(splits) > 1 else None))
    if not files:
        raise InputError(f"{str(folder)!r} is empty: no rows.")
    missing = [str(file.path) for file in files if not file.path.is_file()]
    if missing:
        raise InputError(f"{str(folder)!r} lacks {listing(missing)}, which its state names. Save it again.")
    return files


def _json_of(path: Path, key: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))[key]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{str(path)!r} is damaged ({first_line(error)}). Save it again.") from None


def _of_tables(folder: Path, names: Sequence[Path], tables: Sequence[Path]) -> list[_File]:
    """Every table below a folder; all of one format."""
    if not tables:
        entries = listing(map(str, names)) or "nothing at all"
        raise InputError(f"{str(folder)!r} cannot be read as a folder: it holds no table and no media ({entries}).")
    endings = dict.fromkeys(name.suffix.lower() for name in tables)
    if len(endings) > 1:
        firsts = listing(str(next(name for name in tables if name.suffix.lower() == ending)) for ending in endings)
        raise InputError(
            f"{str(folder)!r} holds tables of several formats ({firsts}). Name one file, or keep one format there."
        )
    splits: Sequence[str | None] = _splits_of_folders(tables) or _splits_of_files(tables) or [None] * len(tables)
    return [_File(folder / name, split) for name, split in zip(tables, splits, strict=True)]


def _warn_of_others(folder: Path, names: Sequence[Path]) -> None:
    others = [str(name) for name in names if not _ASIDE.fullmatch(name.name)]
    if others:
        logger.warning("%s: left out what is neither a table nor a media file: %s", folder, listing(others))


def _splits_of_folders(names: Sequence[Path]) -> list[str] | None:
    """The splits of files that all lie in folders named after one; None if any does not."""
    homes = [next((step for step in name.parts[:-1] if step in _SPLITS), None) for name in names]
    splits = [_SPLITS[home] for home in homes if home is not None]
    return splits if len(splits) == len(names) else None


def _splits_of_files(names: Sequence[Path]) -> list[str] | None:
    """The splits of tables that are all named after one, `train.csv`, or are its shards, `train-00000-of-00002.parquet`."""
    stems = [match[1] if (match := _SHARD.fullmatch(name.stem)) else name.stem for name in names]
    splits = [_SPLITS[stem] for stem in stems if stem in _SPLITS]
    return splits if len(splits) == len(names) else None


def _in_split(part: Part, split: str | None) -> Part:
    if split is None or "split" in part.names:
        return part
    import pyarrow as pa

    column = pa.chunked_array([pa.array([split] * part.rows, pa.large_string())])
    return replace(part, columns=part.columns | {"split": column}, names=(*part.names, "split"))


def _of_media(
    folder: Path, names: Sequence[Path], media: Mapping[Path, str], metadata: Sequence[Path], wanted: Wanted
) -> Iterator[Part]:
    """One row per media file; or the rows of tables named metadata, if the folder holds any."""
    _warn_of_others(folder, [name for name in names if name not in media and name not in metadata])
    kinds = list(dict.fromkeys(media.values()))
    if not metadata:
        if len(kinds) > 1:
            raise InputError(
                f"{str(folder)!r} holds media of several kinds ({', '.join(kinds)}). Say in a table which files are one row: a "
                "column of paths for each kind."
            )
        splits = _splits_of_folders(list(media))
        columns: dict[str, Any] = {kinds[0]: [str(name) for name in media]} | ({"split": splits} if splits else {})
        columns = {name: columns[name] for name in wanted(list(columns))}
        yield Part(columns, len(media), tuple(columns), str(folder))
        return
    named: set[Path] = set()
    homes: Sequence[str | None] = _splits_of_folders(metadata) or [None] * len(metadata)
    for name, split in zip(metadata, homes, strict=True):
        for part in read_file(folder / name, lambda names: list(names)):
            yield _in_split(_with_media(part, name.parent, media, named, wanted), split)
    strangers = [str(name) for name in media if name not in named]
    if strangers:
        logger.warning("%s: left out files that no row of its metadata names: %s", folder, listing(strangers))


def _with_media(part: Part, home: Path, media: Mapping[Path, str], named: set[Path], wanted: Wanted) -> Part:
    """A part of metadata with the column `file_name` as a column of media."""
    if "file_name" not in part.columns:
        if part.rows:
            raise InputError(f"{part.origin!r} must have a column `file_name`; it has {listing(part.names) or 'none'}.")
        return part
    column = part.columns["file_name"]
    cells = column if isinstance(column, list) else column.to_pylist()
    paths = [home / str(cell) if cell else None for cell in cells]
    named |= {path for path in paths if path is not None}
    kinds = dict.fromkeys(media[path] for path in paths if path is not None and path in media)
    if len(kinds) > 1:
        raise InputError(f"{part.origin!r} names media of several kinds ({', '.join(kinds)}). Give each a column of paths.")
    kind = next(iter(kinds), next(iter(media.values())))
    if kind in part.columns:
        raise InputError(f"{part.origin!r} has a column `{kind}` beside the files of that kind. Rename it.")
    renamed = {kind if name == "file_name" else name: cells for name, cells in part.columns.items()}
    renamed[kind] = [None if path is None else str(path) for path in paths]
    names = tuple(renamed)
    return replace(part, columns={name: renamed[name] for name in wanted(names)}, names=names)


def _of_hub(source: str, revision: str | None, wanted: Wanted, streaming: bool) -> Iterator[Part]:
    """A data set on the hub, as Hugging Face datasets reads it, with media as bytes or paths."""
    require("datasets")
    import datasets
    import pyarrow as pa

    with _quiet(), _retold(source):
        loaded = datasets.load_dataset(source, revision=revision, streaming=streaming)
        parts = loaded if isinstance(loaded, Mapping) else {"train": loaded}
        for split, rows in parts.items():
            rows = _undecoded(rows)
            if streaming:
                tables = rows.with_format("arrow").iter(batch_size=1024)
            else:
                tables = iter([rows.with_format("arrow")[:] if rows._indices is not None else rows.data.table])
            for table in tables:
                names = tuple(table.column_names)
                table = pa.table(table)
                columns: dict[str, Column] = {name: plain(table.column(name)) for name in wanted(names)}
                part = Part(columns, table.num_rows, names, source)
                yield _in_split(part, split if len(parts) > 1 else None)


def _undecoded(rows: Any) -> Any:
    """The same data set with media as bytes or paths; `__key__` of a webdataset named `id`."""
    features = {medium.feature for medium in MEDIA.values()}
    for name, feature in dict(rows.features or {}).items():
        if type(feature).__name__ in features and feature.decode:
            rows = rows.cast_column(name, type(feature)(decode=False))
    if "__key__" in (rows.column_names or ()) and "id" not in rows.column_names:
        rows = rows.rename_column("__key__", "id")
    return rows


@contextmanager
def _retold(source: str) -> Iterator[None]:
    """Errors of Hugging Face datasets in our own words."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # it fails in many ways
        reason = first_line(error.__cause__ or error) or type(error).__name__
        raise InputError(f"{source!r} cannot be read as a hub data set: {reason}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Hugging Face datasets without its progress bars and messages."""
    import datasets

    shown, level = datasets.is_progress_bar_enabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)  # what fails is reported by our own error
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if shown:
            datasets.enable_progress_bars()
