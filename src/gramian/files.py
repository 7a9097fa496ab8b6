"""Files of our own and of strangers: writes are atomic and do not collide; reads stay inside a folder and hold plain data."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gramian.errors import InputError, first_line

__all__ = ["atomic", "atomic_folder", "check_folder", "inside", "read_json", "write_text"]

LARGEST_JSON = 2**26
"""Bytes of a JSON file that is read."""


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path to write to, and move the file to `path` in one step; on an error leave nothing behind.

    Parent folders are created. The file gets the mode that a plain write would give it, and is on the disk before it has its
    name. Of several writers of one path the last one wins, whole.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path), suffix=".partial")
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        partial.chmod(0o666 & ~_umask())  # temporary files, and those of safetensors, are private to their owner
        _sync(partial)
        partial.replace(path)
        _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder to write into, and move it to `path` once it is complete; on an error leave nothing behind.

    An existing folder at `path` is replaced as a whole; between the two moves it is absent for a moment.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=path.parent, prefix=_prefix(path), suffix=".partial"))
    try:
        yield partial
        partial.chmod(0o777 & ~_umask())
        for inner in [*partial.rglob("*"), partial]:
            _sync(inner)
        if path.exists():
            older = Path(tempfile.mkdtemp(dir=path.parent, prefix=_prefix(path), suffix=".older"))
            path.replace(older)
            partial.replace(path)
            shutil.rmtree(older)
        else:
            partial.replace(path)
        _sync(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_text(path: str | Path, text: str) -> Path:
    """Write `text` to `path` as UTF-8, whole or not at all; return the path."""
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return Path(path)


def read_json(path: str | Path) -> Any:
    """The content of a JSON file from anywhere: names are unique, numbers are finite, and nothing is nested too deeply.

    Raises:
        InputError: it is no such JSON, or too large.
        OSError: it cannot be read.
    """
    path = Path(path)
    size = path.stat().st_size
    if size > LARGEST_JSON:
        raise InputError(f"{path.name} must have at most {LARGEST_JSON:,} bytes; it has {size:,}.")
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique, parse_constant=_finite)
    except (ValueError, RecursionError) as error:  # neither UTF-8 nor JSON, or a number of thousands of digits
        raise InputError(f"{path.name} is no JSON that can be used: {first_line(error):.100}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a name occurs twice")
    return values


def _finite(text: str) -> float:
    raise ValueError(f"{text} is no number")


def inside(folder: str | Path, name: str, root: Path | None = None) -> Path:
    """The path of `name` in a folder from anywhere, which may not lead out of it: by `..`, from the root, or by a link.

    Args:
        folder: it may be a link itself, which is the user's.
        name: relative to the folder.
        root: where links may lead; the folder by default.

    Raises:
        InputError: a `name` that leads out of the folder.
    """
    folder = Path(folder).resolve()
    try:
        path = (folder / name).resolve()
    except (OSError, RuntimeError, ValueError):  # a circle of links, a null character
        path = folder.parent
    if not path.is_relative_to(root or folder):
        raise InputError(f"{str(folder)!r} points to files outside of itself ({name!r}): it is damaged or foreign.")
    return path


def check_folder(output: Path) -> None:
    """Refuse an output folder that cannot be one, before any work is done.

    Raises:
        InputError: it, or a folder above it, is a file.
    """
    for path in (output, *output.parents):
        if path.exists():
            if not path.is_dir():
                raise InputError(f"`output` must be a folder; {str(path)!r} is a file. Name another.")
            break


def _prefix(path: Path) -> str:
    """Hidden, and short enough for a file system that allows the name itself."""
    return f".{path.name[:40]}."


def _umask() -> int:
    """The umask of the process, which only Linux reports without setting it."""
    with suppress(OSError, StopIteration, ValueError), open("/proc/self/status", encoding="ascii", errors="replace") as status:
        return int(next(line for line in status if line.startswith("Umask:")).split()[1], 8)
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    with suppress(PermissionError):  # a folder that may be written but not read, and all folders on Windows
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
