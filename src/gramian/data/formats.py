"""One reader per file format, part by part: parquet, Arrow, CSV and JSON lines; nothing about a cell is guessed.

Types are those that a file declares. CSV and JSON declare none: all cells of a CSV are text, and each cell of JSON has a type
of its own. A file may come from anyone: how much it unpacks to is found before it is unpacked.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gramian.data.arrow import Column, plain
from gramian.data.content import Folder
from gramian.data.room import check_arrow, check_columns, check_parquet, check_room, is_encoded, unpacked_bytes
from gramian.data.tars import read_tar
from gramian.errors import InputError, first_line, listing, shown
from gramian.files import atomic, parse_json

if TYPE_CHECKING:
    import pyarrow

__all__ = [
    "READERS",
    "Part",
    "in_split",
    "joined",
    "read_file",
    "rebatched",
]

Wanted = Callable[[Sequence[str]], list[str]]
"""The names of a file's columns → those to read."""

IN_MEMORY = 2**28
"""A parquet file with raw columns and more bytes than this, unpacked, is mapped from the cache."""

_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"

_BLOCK = 2**24  # bytes of a CSV, or rows' worth of it, that are parsed at a time: no row may be longer
_ROWS = 2**14  # rows of a part of parquet or JSON lines, at most
_PART = 2**26  # bytes of a part, about


@dataclass
class Part:
    """Some rows of a source.

    Attributes:
        columns: name → n cells.
        rows: n.
        names: of all columns that the source has, whether they were read or not.
        origin: the file, for errors.
        folder: where paths in the cells may lead.
    """

    columns: dict[str, Column]
    rows: int
    names: tuple[str, ...]
    origin: str
    folder: Folder | None = field(default=None)

    @property
    def nbytes(self) -> int:
        """About what the cells take in memory; of lists, what points to them."""
        return sum(8 * self.rows if isinstance(column, list) else column.nbytes for column in self.columns.values())


def read_file(path: Path, wanted: Wanted, *, mapped: bool = False) -> Iterator[Part]:
    """The parts of one file, at least one, which may be without rows; errors name the file.

    Args:
        path: of the file; its ending is among `READERS`.
        wanted: see `Wanted`.
        mapped: whether a large parquet file is unpacked into the cache, as Arrow, and mapped from it.

    Yields:
        The rows, in order.

    Raises:
        InputError: a file that cannot be read in the format of its ending.
    """
    import pyarrow as pa

    kind, reader = READERS[path.suffix.lower()]
    if path.stat().st_size == 0:
        raise InputError(f"{str(path)!r} is empty: 0 bytes.")
    try:
        yield from _unpacked(path, wanted) if mapped and reader is _parquet and _is_large(path) else reader(path, wanted)
    except InputError:
        raise
    except UnicodeDecodeError as error:
        raise InputError(f"{str(path)!r} is not in UTF-8 (byte {error.start}). Save it as UTF-8.") from None
    except (pa.ArrowException, csv.Error, OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise InputError(f"{str(path)!r} cannot be read as {kind}: {first_line(error) or type(error).__name__}") from error


def _part(table: pyarrow.Table, names: Sequence[str], path: Path) -> Part:
    for kind in table.schema.types:
        _decode_names(kind)
    table.validate()
    if any(map(is_encoded, table.schema.types)):  # before a full look, which reads what stands there many times as often
        taken = sum(unpacked_bytes(chunk) for column in table.columns for chunk in column.chunks)
        check_room(str(path), path.stat().st_size, table.num_rows, taken)
    table.validate(full=True)
    return Part({name: plain(table.column(name)) for name in table.column_names}, table.num_rows, tuple(names), str(path))


def _decode_names(kind: pyarrow.DataType) -> None:
    """Decode the names of nested fields, which Arrow does on access: here an error names the file."""
    for i in range(kind.num_fields):
        field = kind.field(i)
        str(field.name)
        _decode_names(field.type)


def _parquet(path: Path, wanted: Wanted) -> Iterator[Part]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        names = check_columns(file.schema_arrow.names, str(path))
        chosen = wanted(names)
        kinds = pa.schema([file.schema_arrow.field(name) for name in chosen])
        yield _part(kinds.empty_table(), names, path)  # a file without rows, or of empty row groups, still has its types
        rows = file.metadata.num_rows
        taken = check_parquet(path, set(chosen))
        for batch in file.iter_batches(max(1, min(_ROWS, _PART * rows // max(1, taken))), columns=chosen):
            table = pa.Table.from_batches([batch]).select(chosen)  # "a" brings "a.b" along
            yield _part(table, names, path)


def _is_large(path: Path) -> bool:
    import pyarrow.parquet as pq

    metadata = pq.read_metadata(path)
    return bool(sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)) > IN_MEMORY)


def _unpacked(path: Path, wanted: Wanted) -> Iterator[Part]:
    """Parquet as an Arrow file in the cache, mapped; written once per path, size and time of the file."""
    import pyarrow as pa

    parts = _parquet(path, wanted)
    first = next(parts)
    about = [str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns, list(first.columns)]
    copy = _cache() / f"{hashlib.sha256(json.dumps(about).encode(errors='surrogateescape')).hexdigest()[:32]}.arrow"
    if not copy.exists():
        kinds = pa.schema([(name, column.type) for name, column in first.columns.items() if not isinstance(column, list)])
        with atomic(copy) as partial, pa.ipc.new_file(str(partial), kinds) as writer:
            for part in parts:
                writer.write_table(pa.table(part.columns))
    for part in _arrow(copy, list):
        yield Part(part.columns, part.rows, first.names, str(path))


def _cache() -> Path:
    home = os.environ.get("GRAMIAN_CACHE")
    return Path(home) if home else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gramian"


def _arrow(path: Path, wanted: Wanted) -> Iterator[Part]:
    """Mapped from the disk where it is not compressed."""
    import pyarrow as pa

    source = pa.memory_map(str(path))
    check_arrow(source, path)
    try:
        table = pa.ipc.open_file(source).read_all()
    except pa.ArrowInvalid:
        source.seek(max(0, source.size() - len(_END_OF_STREAM)))
        if source.read() != _END_OF_STREAM:  # a stream cut off between two batches would be read without an error
            raise InputError(f"{str(path)!r} cannot be read as Arrow: it is cut off, or no Arrow file.") from None
        source.seek(0)
        table = pa.ipc.open_stream(source).read_all()
    names = check_columns(table.column_names, str(path))
    yield _part(table.select(wanted(names)), names, path)


def _csv(path: Path, wanted: Wanted) -> Iterator[Part]:
    import pyarrow as pa
    import pyarrow.csv as pc

    with path.open(encoding="utf-8-sig", newline="") as file:
        names = check_columns(next(csv.reader(iter(lambda: file.readline(_BLOCK), "")), []), str(path))
    if len(names) == 1 and (separator := next((each for each in ";\t" if each in names[0]), None)):
        raise InputError(f"{str(path)!r} separates its cells by {separator!r}. Save it with commas.")
    chosen = wanted(names)
    options = pc.ConvertOptions(
        column_types=dict.fromkeys(names, pa.large_string()), strings_can_be_null=False, include_columns=chosen
    )
    wrong: list[str] = []

    def refuse(row: Any) -> str:
        wrong.append(f"{row.actual_columns} fields, not {row.expected_columns}: {row.text!r:.60}")
        return "error"

    block = min(_BLOCK, path.stat().st_size + 1)
    try:
        with pc.open_csv(
            path,
            read_options=pc.ReadOptions(block_size=block, use_threads=False),
            parse_options=pc.ParseOptions(
                newlines_in_values=True,
                invalid_row_handler=refuse,
                ignore_empty_lines=len(names) > 1,  # in a file of one column an empty line is an empty cell
            ),
            convert_options=options,
        ) as reader:
            yield _part(reader.schema.empty_table(), names, path)
            for batch in reader:
                yield _part(pa.Table.from_batches([batch]), names, path)
    except pa.ArrowInvalid as error:
        if wrong:
            raise InputError(f"{str(path)!r} has a row of {wrong[0]}. Its header must name every field.") from None
        if "invalid UTF8" in str(error):
            raise InputError(f"{str(path)!r} is not UTF-8. Save it as UTF-8.") from None
        if "straddl" in str(error):
            raise InputError(f"{str(path)!r} has a row of more than {_BLOCK:,} bytes. Write it as parquet.") from None
        raise


def _json(path: Path, wanted: Wanted) -> Iterator[Part]:
    """One row per line, or one list of rows; a field that a row lacks is empty."""
    with path.open("rb") as file:
        start = file.read(3)
        file.seek(3 if start == b"\xef\xbb\xbf" else 0)
        first = file.read(4096).lstrip()[:1]
        file.seek(3 if start == b"\xef\xbb\xbf" else 0)
        if first == b"[":
            rows = parse_json(_decoded(path, 1, file.read()), finite=False)
            yield _of_objects(path, [(f"row {number}", row) for number, row in enumerate(rows, 1)], wanted)
            return
        rows = []
        names: set[str] = set()
        for number, line in enumerate(file, 1):
            if not line.isspace():
                rows.append((f"line {number}", _loaded(path, number, line)))
                names.update(rows[-1][1] if isinstance(rows[-1][1], dict) else ())
            if len(rows) >= min(_ROWS, _PART // (8 * max(1, len(names)))):
                yield _of_objects(path, rows, wanted)
                rows, names = [], set()
        yield _of_objects(path, rows, wanted)


def _decoded(path: Path, number: int, line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{str(path)!r}, line {number}: not UTF-8. Save it as UTF-8.") from None


def _loaded(path: Path, number: int, line: bytes) -> Any:
    text = _decoded(path, number, line)
    try:
        return parse_json(text, finite=False)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{str(path)!r}, line {number}: no JSON ({first_line(error)}).") from None


def _of_objects(path: Path, rows: Sequence[tuple[str, Any]], wanted: Wanted) -> Part:
    for place, row in rows:
        if not isinstance(row, dict):
            raise InputError(f"{str(path)!r}, {place}: must be an object, a row; got {shown(row)}.")
    names = check_columns(dict.fromkeys(name for _, row in rows for name in row), str(path))
    return Part({name: [row.get(name) for _, row in rows] for name in wanted(names)}, len(rows), tuple(names), str(path))


def _tar(path: Path, wanted: Wanted) -> Iterator[Part]:
    columns = read_tar(path)
    yield Part({name: columns[name] for name in wanted(list(columns))}, len(columns["id"]), tuple(columns), str(path))


READERS: dict[str, tuple[str, Callable[[Path, Wanted], Iterator[Part]]]] = {
    ".parquet": ("parquet", _parquet),
    ".arrow": ("Arrow", _arrow),
    ".csv": ("CSV", _csv),
    ".json": ("JSON", _json),
    ".jsonl": ("JSON lines", _json),
    ".feather": ("Arrow", _arrow),
    ".tar": ("webdataset", _tar),
}
"""Ending of a file → what it is, and its reader."""


def in_split(part: Part, split: str | None) -> Part:
    """The same rows, with a column `split` that says which split they are in, unless they say so themselves."""
    if split is None or "split" in part.names:
        return part
    import pyarrow as pa

    column = pa.chunked_array([pa.array([split] * part.rows, pa.large_string())])
    return replace(part, columns=part.columns | {"split": column}, names=(*part.names, "split"))


def joined(parts: Sequence[Part]) -> Part:
    """All rows, one part below the other; a column that a part lacks is empty there.

    Raises:
        InputError: a column of kinds that do not go together, with the files that hold them.
    """
    names = list(dict.fromkeys(name for part in parts for name in part.columns))
    columns = {name: _column(name, parts) for name in names}
    every = tuple(dict.fromkeys(name for part in parts for name in part.names))
    return Part(columns, sum(part.rows for part in parts), every, parts[0].origin, parts[0].folder)


def _column(name: str, parts: Sequence[Part]) -> Column:
    import pyarrow as pa

    cells = [part.columns.get(name) for part in parts]
    if any(isinstance(column, list) for column in cells):
        rows: list[Any] = []
        for column, part in zip(cells, parts, strict=True):
            rows += [None] * part.rows if column is None else column if isinstance(column, list) else column.to_pylist()
        return rows
    arrow: list[tuple[Part, Any]] = [(part, column) for part, column in zip(parts, cells, strict=True)]
    kind = _one_kind(name, {part.origin: column.type for part, column in arrow if column is not None})
    arrays: list[Any] = []
    for part, column in arrow:
        if column is None:
            arrays.append(pa.nulls(part.rows, kind))
        else:
            arrays += column.chunks if column.type == kind else column.cast(kind).chunks
    return pa.chunked_array([array for array in arrays if len(array)], kind)


def _one_kind(name: str, kinds: Mapping[str, pyarrow.DataType]) -> pyarrow.DataType:
    """The type that holds the cells of all files."""
    import pyarrow as pa

    different = list(dict.fromkeys(kinds.values()))
    if len(different) == 1:
        return different[0]
    try:
        fields = [pa.schema([(name, kind)]) for kind in different]
        return pa.unify_schemas(fields, promote_options="permissive").field(0).type
    except pa.ArrowException:
        places = {kind: Path(origin).name for origin, kind in kinds.items()}
        listed = listing(f"{kind} in {place!r}" for kind, place in places.items())
        raise InputError(f"column `{name}` must hold one kind of cell; got {listed}.") from None


def rebatched(parts: Iterator[Part], rows: int) -> Iterator[Part]:
    """The same rows in parts of `rows` each; the last one may have fewer."""
    pending: list[Part] = []
    for part in parts:
        pending.append(part)
        if sum(each.rows for each in pending) >= rows:
            whole = joined(pending)
            end = whole.rows // rows * rows
            for start in range(0, end, rows):
                yield _cut(whole, start, start + rows)
            pending = [_cut(whole, end, whole.rows)]
    if pending and (rest := joined(pending)).rows:
        yield rest


def _cut(part: Part, start: int, end: int) -> Part:
    columns: dict[str, Column] = {
        name: column[start:end] if isinstance(column, list) else column.slice(start, end - start)
        for name, column in part.columns.items()
    }
    return Part(columns, end - start, part.names, part.origin, part.folder)
