"""Webdataset archives as tables: files with one name before the first dot make one row, each ending one column.

The archives are indexed, not unpacked: a media cell says where its bytes lie. (The reader of Hugging Face datasets wants
every modality in every row, and decodes audio with a package that is not available everywhere.)
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from gramian.errors import InputError, listing

__all__ = ["read_tars"]

_TEXT = {"txt", "text", "cls", "cls2"}


def read_tars(paths: Sequence[Path]) -> dict[str, list[Any]]:
    """The rows of all archives: `id`, then one column per ending.

    `.txt` and `.cls` are text, the fields of a `.json` are columns of their own, `.npy` holds one vector; anything else is
    {"path", "offset", "size"}, for `gramian.data.media.open_source`.

    Raises:
        InputError: no tar archive, a truncated one, two files of one row with one ending, or no file at all.
    """
    rows: dict[str, dict[str, Any]] = {}
    for path in paths:
        added: dict[str, dict[str, Any]] = {}
        try:
            with tarfile.open(path, "r:") as archive:
                size = path.stat().st_size
                for member in archive:
                    if member.isfile():
                        if member.offset_data + member.size > size:
                            raise tarfile.ReadError(f"{member.name} is cut off")
                        _add(added, path, archive, member)
        except (tarfile.TarError, OSError, ValueError) as error:
            raise InputError(f"{str(path)!r} cannot be read as webdataset: {error}.") from None
        repeats = [name for name in added if name in rows]
        if repeats:
            raise InputError(
                f"`ids` must all be different: {listing(repeats)} of {str(path)!r} also occur in an earlier archive."
            )
        rows |= added
    if not rows:
        raise InputError(f"{str(paths[0])!r} is empty: no rows.")
    names = dict.fromkeys(name for row in rows.values() for name in row)
    return {"id": list(rows)} | {name: [row.get(name) for row in rows.values()] for name in names}


def _add(rows: dict[str, dict[str, Any]], path: Path, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    folder, _, name = member.name.rpartition("/")
    stem, _, ending = name.partition(".")
    if not stem or not ending:  # hidden files, and files without an ending
        return
    row = rows.setdefault(f"{folder}/{stem}" if folder else stem, {})
    if ending in row:
        raise ValueError(f"{member.name} occurs in the archive twice")
    if ending in _TEXT:
        row[ending] = _content(archive, member).decode("utf-8-sig")
    elif ending == "json":
        fields = json.loads(_content(archive, member))
        if not isinstance(fields, dict):
            raise ValueError(f"{member.name} does not hold an object")
        clash = [key for key in fields if key in row]
        if clash:
            raise ValueError(f"{member.name} has a field {clash[0]!r}, which another file of the row has, too")
        row.update({key: value for key, value in fields.items() if key != "id"})
    elif ending == "npy":
        row[ending] = np.load(BytesIO(_content(archive, member)), allow_pickle=False).astype(np.float32).ravel().tolist()
    else:
        row[ending] = {"path": str(path.resolve()), "offset": member.offset_data, "size": member.size}


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return b"" if file is None else file.read()
