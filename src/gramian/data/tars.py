"""Webdataset archives as tables: files with one name before the first dot make one row, each ending one column.

The archives are indexed, not unpacked: a media cell says where its bytes lie. (The reader of Hugging Face datasets wants
every modality in every row, and decodes audio with a package that is not available everywhere.)
"""

from __future__ import annotations

import logging
import math
import tarfile
from io import BufferedReader, BytesIO, FileIO
from pathlib import Path
from typing import Any

import numpy as np

from gramian.data.room import check_columns, check_room
from gramian.errors import InputError, first_line, listing
from gramian.files import parse_json

__all__ = ["read_tar"]

logger: logging.Logger = logging.getLogger("gramian")

_TEXT = {"txt", "text", "cls", "cls2"}

_LARGEST = 2**26
"""Bytes of a text, of JSON or of a vector in an archive; files of media are not read here."""


def read_tar(path: Path) -> dict[str, list[Any]]:
    """The rows of an archive: `id`, then one column per ending.

    `.txt` and `.cls` are text, the fields of a `.json` are columns of their own, `.npy` holds one vector; anything else is
    {"path", "offset", "size"}, for `gramian.data.content.open_source`. Files without an ending are named in a warning.

    Raises:
        InputError: no tar archive, a truncated one, one with links or with names that lead out of it, or two files of one row
            with one ending.
    """
    rows: dict[str, dict[str, Any]] = {}
    others = []
    size = path.stat().st_size
    try:
        with FileIO(path) as raw, tarfile.open(fileobj=_Bounded(raw, size), mode="r:") as archive:
            for member in archive:
                if member.isdir():
                    continue
                if not 0 <= member.size <= size - member.offset_data:  # before the next is sought there
                    raise tarfile.ReadError(f"{member.name} is cut off")
                if not member.isreg() or member.sparse is not None:
                    raise ValueError(f"{member.name} is a link, a device or a sparse file, where only files are read")
                if member.name.startswith("/") or ".." in member.name.split("/"):
                    raise ValueError(f"{member.name} leads out of the archive")
                if not _add(rows, path, archive, member):
                    others.append(member.name)
    except (tarfile.TarError, OSError, ValueError, OverflowError, RecursionError) as error:
        raise InputError(f"{str(path)!r} cannot be read as webdataset: {error}.") from None
    if others:
        logger.warning("%s: left out files without a name or an ending: %s", path, listing(others))
    names = check_columns(dict.fromkeys(name for row in rows.values() for name in row), str(path))
    check_room(str(path), size, len(rows), 8 * len(rows) * len(names))
    return {"id": list(rows)} | {name: [row.get(name) for row in rows.values()] for name in names}


class _Bounded(BufferedReader):
    """A file that reserves no memory for more than it holds, whatever a header asks for."""

    def __init__(self, raw: FileIO, size: int) -> None:
        super().__init__(raw)
        self.size = size

    def read(self, size: int | None = -1, /) -> bytes:
        """At most the whole file."""
        return super().read(self.size if size is None or size < 0 else min(size, self.size))


def _add(rows: dict[str, dict[str, Any]], path: Path, archive: tarfile.TarFile, member: tarfile.TarInfo) -> bool:
    """Add a file to its row; whether it belongs to one."""
    folder, _, name = member.name.rpartition("/")
    stem, _, ending = name.partition(".")
    if not stem or not ending:
        return False
    row = rows.setdefault(f"{folder}/{stem}" if folder else stem, {})
    if ending in row:
        raise ValueError(f"{member.name} occurs in the archive twice")
    if ending in _TEXT:
        row[ending] = _content(archive, member).decode("utf-8-sig")
    elif ending == "json":
        fields = parse_json(_content(archive, member).decode("utf-8-sig"), finite=False)
        if not isinstance(fields, dict):
            raise ValueError(f"{member.name} does not hold an object")
        clash = [key for key in fields if key in row]
        if clash:
            raise ValueError(f"{member.name} has a field {clash[0]!r}, which another file of the row has, too")
        row.update({key: value for key, value in fields.items() if key != "id"})
    elif ending == "npy":
        row[ending] = _vector(_content(archive, member), member.name)
    else:
        row[ending] = {"path": str(path.resolve()), "offset": member.offset_data, "size": member.size}
    return True


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > _LARGEST:
        raise ValueError(f"{member.name} has {member.size:,} bytes, more than {_LARGEST:,}")
    file = archive.extractfile(member)
    return b"" if file is None else file.read()


def _vector(content: bytes, name: str) -> np.ndarray:
    """The numbers of a .npy file, as many as its header says; nothing is unpickled, and nothing reserved on its word."""
    stream = BytesIO(content)
    first = np.lib.format.read_magic(stream) == (1, 0)
    read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
    try:
        shape, columns_first, kind = read(stream)
    except Exception as error:  # a header is parsed as Python, which fails in many ways
        raise ValueError(f"{name} has a header that cannot be read ({first_line(error)})") from None
    start = stream.tell()
    if kind.kind not in "fiub" or math.prod(shape) * kind.itemsize != len(content) - start:
        raise ValueError(f"{name} does not hold the numbers that its header declares")
    values = np.frombuffer(content, kind, offset=start).reshape(shape, order="F" if columns_first else "C")
    with np.errstate(over="ignore"):  # what is infinite is counted by `Table.check`
        return values.astype(np.float32).ravel()
