"""What a source is and which files it holds: a file, a folder that is listed here, or a data set on the hub.

Every file of a folder is read, refused, or named in a warning: none is chosen by its name.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from gramian.data.arrow import RESERVED
from gramian.data.content import Folder, Unreadable, state_of
from gramian.data.formats import READERS, Part, Wanted, in_split, joined, read_file, rebatched
from gramian.data.hub import hub_folder, read_hub
from gramian.data.media import MEDIA
from gramian.data.room import check_room
from gramian.data.sets import SETS
from gramian.errors import InputError, check_choice, first_line, listing, require
from gramian.files import read_json

__all__ = ["MANIFEST", "SPLITS", "files_of", "files_state", "read_rows", "stream_rows"]

logger: logging.Logger = logging.getLogger("gramian")

Listed = TypeVar("Listed")

MANIFEST = "manifest.json"
"""The file beside the shards in a folder of embeddings."""

SPLITS = {name: name for name in ("train", "validation", "test")} | dict.fromkeys(("valid", "val", "dev"), "validation")
"""What tables, folders and files call a split → its name."""

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
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
    roots: Sequence[Path] = (),
) -> Part:
    """The rows of a source. Media are not decoded; raw columns of Arrow, and of large parquet, are mapped from the disk.

    Args:
        source: a file, a folder or a hub id.
        raw: the columns that are read as they are.
        columns: the columns to read in addition to those of `raw` and those about the rows; all by default.
        id_column: holds the rows' names.
        revision: of a data set on the hub.
        roots: folders that cells may name files in, and links may lead to, besides the source's own.

    Returns:
        All rows in one part; if the source has several splits, with a column "split".

    Raises:
        InputError: no such source, one that cannot be read, or files whose columns do not go together.
    """
    parts = list(_bounded(source, _parts(source, _wanted(columns, raw, id_column), revision, roots, mapped=bool(raw))))
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
    roots: Sequence[Path] = (),
) -> Iterator[Part]:
    """The same rows in parts of `rows`, one after the other, without a copy on the disk.

    Args:
        source: see `read_rows`.
        rows: of a part; the last one may have fewer.
        raw: see `read_rows`.
        columns: see `read_rows`.
        id_column: see `read_rows`.
        revision: see `read_rows`.
        roots: see `read_rows`.

    Yields:
        Parts with at least one row.
    """
    yield from rebatched(_parts(source, _wanted(columns, raw, id_column), revision, roots, streaming=True), rows)


def _bounded(source: str, parts: Iterator[Part]) -> Iterator[Part]:
    """The same parts, as long as all of them together have room in memory."""
    path = Path(source)
    size = sum(file.stat().st_size for file in files_of(path))
    rows = taken = 0
    names: set[str] = set()
    for part in parts:
        names.update(part.columns)
        rows, taken = rows + part.rows, taken + part.nbytes
        if size:  # those of the hub have been unpacked already
            check_room(source, size, rows, max(taken, 8 * rows * len(names)))
        yield part


def files_of(path: Path) -> list[Path]:
    """The files of a source; none of one on the hub."""
    if path.is_dir():
        return [path / name for name in _names(path) if (path / name).is_file()]
    return [path] if path.is_file() else []


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
    states = [(str(file.relative_to(path)), file.stat().st_size, file.stat().st_mtime_ns) for file in files_of(path)]
    return hashlib.sha256(json.dumps(states).encode()).hexdigest()[:16]


def _wanted(columns: Sequence[str] | None, raw: Sequence[str], id_column: str) -> Wanted:
    if columns is None:
        return list
    chosen = {*columns, *raw, *RESERVED, id_column}
    return lambda names: [name for name in names if name in chosen]


def _parts(
    source: str,
    wanted: Wanted,
    revision: str | None,
    roots: Sequence[Path],
    *,
    mapped: bool = False,
    streaming: bool = False,
) -> Iterator[Part]:
    require("pyarrow")
    path = Path(source)
    if not source:
        raise InputError("`data` must name a file, a folder or a hub id; got ''.")
    if path.is_file():
        check_choice("data", path.suffix.lower(), (*READERS, ".safetensors"))
        if path.stat().st_size == 0:
            raise InputError(f"{source!r} is empty: 0 bytes.")
        folder = Folder.of(path.parent, (*roots, path))  # an archive, which its cells name, may be a link
        parts = read_file(path, wanted, mapped=mapped)
    elif path.is_dir():
        folder = Folder.of(path, roots)
        parts = _of_folder(path, folder, wanted, mapped)
    elif state_of(path) is None and _HUB_ID.fullmatch(source) and path.suffix not in (*READERS, ".safetensors"):
        folder, parts = hub_folder(source, roots), read_hub(source, revision, wanted, streaming)
    else:
        kinds = f"a file, a folder, a hub id or one of {', '.join(('stamps', *SETS))}"
        raise InputError(
            f"`data` must be {kinds}; {source!r} {'is a pipe or a device' if state_of(path) else 'does not exist'}."
        )
    for part in parts:
        yield replace(part, folder=folder)


def _of_folder(folder: Path, own: Folder, wanted: Wanted, mapped: bool) -> Iterator[Part]:
    if (folder / "config.json").exists() and (folder / "model.safetensors").exists():
        raise InputError(f"{str(folder)!r} holds a model, no table.")
    shards = _of_embedding(folder, own) or _of_saved(folder, own)
    names = [] if shards else _names(folder)
    kept = [name for name in names if not any(step.startswith("_") for step in name.parts[:-1])]  # no `_temporary` of Spark
    tables = [name for name in kept if name.suffix.lower() in READERS and not _ASIDE.fullmatch(name.name)]
    media = {
        name: kind
        for name in kept
        for kind, medium in MEDIA.items()
        if kind != "text" and name.suffix.lower() in medium.endings.split()
    }
    for file in shards or [_File(folder / name) for name in tables]:
        _file_of(own, file.path)
    if media and all(name.name in _METADATA for name in tables):
        yield from _of_media(folder, names, media, tables, wanted)
        return
    _warn_of_others(folder, [name for name in names if name not in tables and name not in media])  # tables may name the media
    for file in shards or _of_tables(folder, names, tables):
        for part in read_file(file.path, wanted, mapped=mapped):
            yield in_split(part, file.split)


def _file_of(own: Folder, path: Path) -> Path:
    """A file of a folder.

    Raises:
        InputError: it is none, or a link that leads out of the folder and the media roots.
    """
    try:
        own.find(path.absolute())
    except Unreadable as error:
        raise InputError(f"{str(path)!r} is a link to a file {error}.") from None
    if not path.is_file():
        raise InputError(f"{str(path)!r} is no file, but a pipe, a device or a link to nothing. Remove it.")
    return path


def _names(folder: Path) -> list[Path]:
    """What lies below a folder, relative to it, in order: all but folders, and what is hidden. Links are not followed."""
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return [name for name in names if not any(step.startswith(".") for step in name.parts)]


def _of_embedding(folder: Path, own: Folder) -> list[_File]:
    """The shards of `gramian embed`, all of those that its manifest names."""
    manifest = folder / MANIFEST
    if not manifest.exists() or not (shards := sorted(folder.glob("part-*.parquet"))):
        return []
    complete, names = _listed(own, manifest, lambda it: (it["complete"], [each["file"] for each in it.get("shards", [])]))
    if not complete:
        raise InputError(f"the embedding in {str(folder)!r} was not finished. Run the same `gramian embed` again.")
    if names != [shard.name for shard in shards]:
        missing = [name for name in names if name not in {shard.name for shard in shards}]
        strange = [shard.name for shard in shards if shard.name not in names]
        what = f"lacks {listing(missing)}, which" if missing else f"holds {listing(strange)}, which none of the shards that"
        raise InputError(f"the embedding in {str(folder)!r} {what} its manifest names. Embed again.")
    return [_File(shard) for shard in shards]


def _of_saved(folder: Path, own: Folder) -> list[_File]:
    """The Arrow files of a data set of Hugging Face datasets that was saved to disk."""
    splits: list[Any] = [None]
    if (folder / "dataset_dict.json").exists():
        splits = _listed(own, folder / "dataset_dict.json", lambda it: list(map(str, it["splits"])))
        strange = [split for split in splits if Path(split).name != split]
        if strange:
            raise InputError(f"{str(folder / 'dataset_dict.json')!r} points to a folder outside of its own ({strange[0]!r}).")
    elif not (folder / "state.json").exists():
        return []
    files = []
    for split in splits:
        home = folder / split if split else folder
        for name in _listed(own, home / "state.json", lambda it: [str(each["filename"]) for each in it["_data_files"]]):
            if Path(name).name != name:
                raise InputError(f"{str(home / 'state.json')!r} points to a file outside of its folder ({name!r}).")
            files.append(_File(home / name, split if len(splits) > 1 else None))
    if not files:
        raise InputError(f"{str(folder)!r} is empty: no rows.")
    missing = [str(file.path) for file in files if not file.path.is_file()]
    if missing:
        raise InputError(f"{str(folder)!r} lacks {listing(missing)}, which its state names. Save it again.")
    return files


def _listed(own: Folder, path: Path, names: Callable[[Any], Listed]) -> Listed:
    """What a file of bookkeeping lists."""
    _file_of(own, path)
    try:
        return names(read_json(path, finite=False))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{str(path)!r} is damaged ({first_line(error)}). Write it again.") from None


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
    homes = [next((step for step in name.parts[:-1] if step in SPLITS), None) for name in names]
    splits = [SPLITS[home] for home in homes if home is not None]
    return splits if len(splits) == len(names) else None


def _splits_of_files(names: Sequence[Path]) -> list[str] | None:
    """The splits of tables that are all named after one, `train.csv`, or are its shards, `train-00000-of-00002.parquet`."""
    stems = [match[1] if (match := _SHARD.fullmatch(name.stem)) else name.stem for name in names]
    splits = [SPLITS[stem] for stem in stems if stem in SPLITS]
    return splits if len(splits) == len(names) else None


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
            yield in_split(_with_media(part, name.parent, media, named, wanted), split)
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
