"""How much a file unpacks to, found before it is unpacked: a few bytes may stand for more than any memory holds."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from gramian.errors import InputError, listing

if TYPE_CHECKING:
    import pyarrow

__all__ = ["check_arrow", "check_columns", "check_parquet", "check_room", "is_encoded", "unpacked_bytes"]

_ROOM, _RATIO = 2**30, 200  # bytes in memory that any source may take; times its size on the disk that it may take
_COLUMNS = 10_000
_ROWS = 2**24  # rows of any source; a larger one has at least a byte for each


def check_room(origin: str, size: int, rows: int, taken: int) -> None:
    """Compare what a source takes in memory with its size on the disk.

    Args:
        origin: the source, for errors.
        size: in bytes, on the disk.
        rows: of its table.
        taken: bytes in memory.

    Raises:
        InputError: it unpacks to so much more than it is that it was made to fill the memory, or is better written otherwise.
    """
    if rows > max(_ROWS, size) or taken > max(_ROOM, _RATIO * size):
        raise InputError(
            f"{origin!r} is refused: its {size:,} bytes unpack to {rows:,} rows and {taken:,} bytes. "
            "Leave out the columns that repeat or are nearly empty, or split it."
        )


def check_columns(names: Iterable[str], origin: str) -> list[str]:
    """The names of a table's columns, each of which can be written.

    Raises:
        InputError: more than a table can have, two of one name, or characters that are none.
    """
    names = list(names)
    if len(names) > _COLUMNS:
        raise InputError(
            f"{origin!r} has {len(names):,} columns, more than {_COLUMNS:,}. Write a vector as a list, in one column."
        )
    repeats = [name for name, count in Counter(names).items() if count > 1]
    if repeats:
        raise InputError(f"{origin!r} has several columns {listing(map(repr, repeats))}. Give each a name of its own.")
    try:
        "".join(names).encode()
    except UnicodeEncodeError:
        raise InputError(f"{origin!r} has a column whose name is no Unicode text. Rename it.") from None
    return names


def is_encoded(kind: pyarrow.DataType) -> bool:
    """Whether values of a type, or in it, may stand there many times and take space once."""
    import pyarrow as pa

    if isinstance(kind, pa.BaseExtensionType):
        return is_encoded(kind.storage_type)
    tests = ("dictionary", "run_end_encoded", "string_view", "binary_view", "list_view", "large_list_view")
    if any(getattr(pa.types, f"is_{test}")(kind) for test in tests):
        return True
    return any(is_encoded(kind.field(i).type) for i in range(kind.num_fields))


def unpacked_bytes(array: pyarrow.Array) -> int:
    """What an array takes without encodings, where one value may stand for any number of cells; found without decoding it."""
    import pyarrow as pa

    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return unpacked_bytes(array.storage)
    if pa.types.is_dictionary(kind):
        return int(_sizes(array.dictionary)[array.indices.drop_null().to_numpy(zero_copy_only=False)].sum())
    if pa.types.is_run_end_encoded(kind):
        runs = np.diff(array.run_ends.to_numpy(zero_copy_only=False), prepend=0)
        return int((_sizes(array.values) * runs[: len(array.values)]).sum())
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        return int(array.sizes.to_numpy(zero_copy_only=False).astype(np.int64).sum()) * int(_sizes(array.values).max(initial=0))
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        views = np.frombuffer(array.buffers()[1] or b"", np.int32)[::4]  # of 16 bytes; the first four are the length
        return int(views[array.offset :][: len(array)].astype(np.int64).sum())
    if pa.types.is_struct(kind):
        return sum((unpacked_bytes(array.field(i)) for i in range(kind.num_fields)), 0)
    if pa.types.is_map(kind):
        return unpacked_bytes(array.keys) + unpacked_bytes(array.items)
    if pa.types.is_nested(kind) and hasattr(array, "values"):
        return int(array.nbytes) + unpacked_bytes(array.values)
    return int(array.nbytes)


def _sizes(values: pyarrow.Array) -> np.ndarray:
    """The bytes of each value; of lists and the like the bytes of all, since none has more."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if (
        pa.types.is_binary(values.type)
        or pa.types.is_large_binary(values.type)
        or pa.types.is_string(values.type)
        or pa.types.is_large_string(values.type)
    ):
        sizes: np.ndarray = pc.binary_length(values).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        return sizes
    width = unpacked_bytes(values) if pa.types.is_nested(values.type) else max(1, values.type.bit_width // 8)
    return np.full(len(values), width, np.int64)


def check_parquet(path: Path, chosen: set[str]) -> int:
    """Check what columns take once they are read, page by page; texts that a dictionary may repeat are looked up there.

    The footer is read here: where it is damaged, pyarrow's own view of a column ends the process.

    Args:
        path: of the file.
        chosen: the columns.

    Returns:
        Bytes.

    Raises:
        InputError: see `check_room`.
        ValueError: a footer or page headers that cannot be read.
    """
    try:
        return _parquet_bytes(path, chosen)
    except (LookupError, TypeError, AttributeError):
        raise ValueError("its footer or a page is damaged") from None


def _parquet_bytes(path: Path, chosen: set[str]) -> int:
    import pyarrow.parquet as pq

    size, taken = path.stat().st_size, 0
    with path.open("rb") as file:
        file.seek(max(0, size - 8))
        length = int.from_bytes(file.read(4), "little")
        file.seek(max(0, size - 8 - length))
        footer, _ = _struct(file.read(length), 0)
        leaves = [element for element in footer[2] if not element.get(5)]  # without children
        for number, group in enumerate(footer[4]):
            for leaf, column in zip(leaves, group[1], strict=True):
                chunk = column[3]
                name = b".".join(chunk[3]).decode()
                if name not in chosen and name.split(".")[0] not in chosen:
                    continue
                values, unpacked, dictionary = _pages(file, chunk, size)
                width = leaf.get(2, 1) if leaf[1] == _FIXED else _WIDTHS[leaf[1]]
                taken += max(unpacked, values * width)
                if leaf[1] == _TEXT and values * dictionary > max(_ROOM, _RATIO * size):
                    check_room(str(path), size, footer[3], taken)
                    with pq.ParquetFile(path, read_dictionary=[name]) as again:
                        entries = again.read_row_group(number, columns=[name])
                        taken += sum(unpacked_bytes(part) for each in entries.columns for part in each.chunks)
    check_room(str(path), size, footer[3], taken)
    return taken


_WIDTHS = (1, 4, 8, 8, 4, 8, 4)  # of values in memory, by parquet's physical types
_TEXT, _FIXED = 6, 7


def _pages(file: BinaryIO, chunk: Mapping[int, Any], size: int) -> tuple[int, int, int]:
    """The values of a column chunk, the bytes of its pages without compression, and those of the dictionary among them."""
    if not chunk[5]:  # an empty one may name no page
        return 0, 0, 0
    at = min(chunk[9], chunk.get(11) or chunk[9])
    end = at + chunk[7]
    if not 0 <= at <= end <= size:
        raise ValueError("a column lies outside of the file")
    values = unpacked = dictionary = 0
    while at < end:
        file.seek(at)
        header, length = _struct(file.read(min(_HEADER, end - at)), 0)
        held = (header.get(5) or header.get(8) or {}).get(1, 0)
        if min(header[2], header[3], held) < 0:
            raise ValueError("a page of negative size")
        values, unpacked = values + held, unpacked + header[2]
        dictionary += header[2] if header[1] == 2 else 0
        at += length + header[3]
    return values, unpacked, dictionary


_HEADER = 2**16  # bytes of a page's header, with the least and the largest value of the page


def _struct(data: bytes, at: int) -> tuple[dict[int, Any], int]:
    """A struct of Thrift's compact protocol: field → value; and where it ends."""
    fields: dict[int, Any] = {}
    number = 0
    while head := data[at]:
        at += 1
        if head >> 4:
            number += head >> 4
        else:
            number, at = _whole(data, at)
        fields[number], at = (head & 15 == 1, at) if head & 15 in (1, 2) else _value(data, at, head & 15)
    return fields, at + 1


def _value(data: bytes, at: int, kind: int) -> tuple[Any, int]:
    if at > len(data):
        raise ValueError("the footer is cut off")
    if kind in (1, 2, 3):  # truth values in a list, and bytes
        return data[at], at + 1
    if kind in (4, 5, 6):
        return _whole(data, at)
    if kind == 7:
        return None, at + 8
    if kind == 8:
        length, at = _varint(data, at)
        return data[at : at + length], at + length
    if kind in (9, 10):
        count, inner = data[at] >> 4, data[at] & 15
        count, at = _varint(data, at + 1) if count == 15 else (count, at + 1)
        values = []
        for _ in range(count):
            value, at = _value(data, at, inner)
            values.append(value)
        return values, at
    if kind == 12:
        return _struct(data, at)
    raise ValueError("the footer is damaged")


def _whole(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return value >> 1 ^ -(value & 1), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while data[at] & 0x80:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return value | data[at] << shift, at + 1


def check_arrow(source: pyarrow.MemoryMappedFile, path: Path) -> None:
    """Check what the batches of an Arrow file or stream take, by the sizes that stand before what is compressed.

    Args:
        source: the file, open, at its beginning.
        path: of it.

    Raises:
        InputError: see `check_room`.
        ValueError: no Arrow file.
    """
    rows = taken = 0
    try:
        for message in _messages(source):
            held, size = _of_message(message)
            rows, taken = rows + held, taken + size
    except (struct.error, EOFError):
        raise ValueError("it is cut off, or no Arrow file.") from None
    check_room(str(path), source.size(), rows, taken)
    source.seek(0)


def _messages(source: pyarrow.MemoryMappedFile) -> Iterator[pyarrow.Message]:
    """Every batch, in a file as its footer lists them."""
    import pyarrow as pa

    if source.read(6) != b"ARROW1":
        source.seek(0)
        yield from pa.ipc.MessageReader.open_stream(source)
        return
    source.seek(max(0, source.size() - 10))
    (size,) = struct.unpack("<i", source.read(4))
    source.seek(max(0, source.size() - 10 - max(0, size)))
    footer = source.read(max(0, size))
    for number in (2, 3):  # of dictionaries, of rows
        start = _vector(footer, _number("<I", footer, 0), number)
        for entry in range(_number("<I", footer, start) if start else 0):
            source.seek(_number("<q", footer, start + 4 + 24 * entry))
            yield pa.ipc.read_message(source)


def _of_message(message: pyarrow.Message) -> tuple[int, int]:
    """The rows of a batch, and the bytes that it takes without compression."""
    head, body = message.metadata.to_pybytes(), message.body
    if body is None:
        return 0, 0
    table = _vector(head, _number("<I", head, 0), 2)
    if message.type == "dictionary":
        table = _vector(head, table, 1)
    rows = _number("<q", head, at) if (at := _field(head, table, 0)) else 0
    if not _field(head, table, 3):
        return rows, body.size
    start = _vector(head, table, 2)
    buffers = [struct.unpack_from("<qq", head, start + 4 + 16 * i) for i in range(_number("<I", head, start))]
    return rows, sum(max(size, _number("<q", body, at)) for at, size in buffers if size > 0)


def _number(kind: str, data: Any, at: int) -> int:
    if at < 0:
        raise struct.error("before the beginning")
    return int(struct.unpack_from(kind, data, at)[0])


def _field(data: bytes, table: int, number: int) -> int:
    """Where the field of a flatbuffer's table stands; 0 if it has none."""
    fields = table - _number("<i", data, table)
    known = 4 + 2 * number < _number("<H", data, fields)
    offset = _number("<H", data, fields + 4 + 2 * number) if known else 0
    return table + offset if offset else 0


def _vector(data: bytes, table: int, number: int) -> int:
    """Where the table or vector that a field refers to begins; 0 if there is none."""
    at = _field(data, table, number)
    return at + _number("<I", data, at) if at else 0
