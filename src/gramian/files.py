"""Files: writes that are whole or absent, output folders with one owner, reads that stay inside a folder and hold plain data.

Every file and folder that gramian writes goes through `atomic` or `atomic_folder`: written under a hidden name beside its own,
put on the disk, then renamed. `claimed` keeps a second run out of an output folder, and clears what killed runs left there.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import secrets
import shutil
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from gramian.errors import InputError, first_line

try:
    import fcntl
except ImportError:  # Windows: outputs are not locked there
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "LOCK",
    "atomic",
    "atomic_folder",
    "check_folder",
    "claimed",
    "has_run",
    "inside",
    "parse_json",
    "read_json",
    "write_lines",
    "write_text",
]

logger: logging.Logger = logging.getLogger("gramian")

LARGEST_JSON = 2**26  # bytes

LOCK = ".gramian.lock"
"""In an output folder while a process writes there: its number and host, and the system's lock on them."""

_LEFT = re.compile(r"\..*\.(?P<pid>\d+)@(?P<host>[\w-]*)\.[0-9a-f]{8}\.[a-z]+")
_HOST = re.sub(r"[^\w-]", "-", socket.gethostname())[:40]
_claims: dict[Path, tuple[int, int]] = {}
"""Folder → the thread that has claimed it, and the descriptor that holds the lock."""


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path to write to, and move the file to `path` in one step; on an error leave nothing behind.

    Parent folders are created. The file gets the mode that a plain write would give it, and is on the disk before it has its
    name. Of several writers of one path the last one wins, whole.
    """
    path = Path(path)
    with _beside(path, lambda partial: partial.touch(exist_ok=False)) as partial:
        mode = partial.stat().st_mode
        yield partial
        partial.chmod(mode)  # safetensors writes files that only their owner may read
        _sync(partial)
        partial.replace(path)
        _sync(path.parent)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder to write into, and move it to `path` once it is complete; on an error leave nothing behind.

    An existing folder at `path` is replaced as a whole; between the two moves it is absent for a moment.
    """
    path = Path(path)
    with _beside(path, Path.mkdir) as partial:
        yield partial
        for inner in [*partial.rglob("*"), partial]:
            if not inner.is_symlink():
                if inner.is_file() and inner.stat().st_nlink == 1:
                    inner.chmod(partial.stat().st_mode & 0o666)
                _sync(inner)
        if path.exists():
            older = _hidden(path, "older")
            older.mkdir()
            path.replace(older / path.name)
            try:
                partial.replace(path)
            except OSError:
                (older / path.name).replace(path)
                raise
            finally:
                shutil.rmtree(older)
        else:
            partial.replace(path)
        _sync(path.parent)


def write_text(path: str | Path, text: str) -> Path:
    """Write `text` to `path` as UTF-8, whole or not at all; return the path. Bytes of a path that are none are escaped."""
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
    return Path(path)


def write_lines(path: str | Path, records: Iterable[Mapping[str, Any]]) -> Path:
    """Write records as lines of JSON, whole or not at all.

    Args:
        path: of the file.
        records: one per line.

    Returns:
        The path.
    """
    return write_text(path, "".join(json.dumps(record) + "\n" for record in records))


def read_json(path: str | Path, *, finite: bool = True) -> Any:
    """The content of a JSON file from anywhere: names are unique, and nothing is nested too deeply.

    Args:
        path: of at most 64 MiB.
        finite: refuse the infinite and NaN, which are no JSON but which Python writes.

    Returns:
        Plain data.

    Raises:
        InputError: it is no such JSON, or too large.
        OSError: it cannot be read.
    """
    path = Path(path)
    size = path.stat().st_size
    if size > LARGEST_JSON:
        raise InputError(f"{path.name} must have at most {LARGEST_JSON:,} bytes; it has {size:,}.")
    try:
        return parse_json(path.read_text(encoding="utf-8"), finite=finite)
    except (ValueError, RecursionError) as error:  # neither UTF-8 nor JSON, or a number of thousands of digits
        raise InputError(f"{path.name} is no JSON that can be used: {first_line(error):.100}") from None


def parse_json(text: str, *, finite: bool = True) -> Any:
    """Text as JSON in which the names of an object are unique.

    Args:
        text: one value.
        finite: see `read_json`.

    Returns:
        Plain data.

    Raises:
        ValueError: it is no such JSON.
        RecursionError: it is nested too deeply.
    """
    return (_STRICT if finite else _LENIENT).decode(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        name = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"a name occurs twice: {name!r:.40}")
    return values


def _refuse(text: str) -> float:
    raise ValueError(f"{text} is no number")


_STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse)
_LENIENT = json.JSONDecoder(object_pairs_hook=_unique)


def inside(folder: str | Path, name: str) -> Path:
    """The path of `name` in a folder from anywhere, which may not lead out of it: by `..`, from the root, or by a link.

    Args:
        folder: it may be a link itself, which is the user's. In the cache of the hub links lead to the repository's blobs.
        name: relative to the folder.

    Returns:
        The path, without links.

    Raises:
        InputError: a `name` that leads out of the folder.
    """
    folder = Path(folder).resolve()
    repositories = [path.parent for path in (folder, *folder.parents) if path.name == "snapshots"]
    allowed = [folder, *(path / "blobs" for path in repositories if path.name.startswith("models--"))]
    try:
        path = (folder / name).resolve()
    except (OSError, RuntimeError, ValueError):  # a circle of links, a null character
        path = folder.parent
    if not any(path.is_relative_to(each) for each in allowed):
        raise InputError(f"{str(folder)!r} points to files outside of itself ({name!r:.100}): it is damaged or foreign.")
    return path


def check_folder(output: Path) -> None:
    """Refuse an output folder that cannot be one, before any work is done.

    Raises:
        InputError: it, or a folder above it, is a file; a null character.
    """
    if "\0" in str(output):
        raise InputError(f"`output` must be a path, which holds no null character; got {str(output)!r}.")
    for path in (output, *output.parents):
        if path.exists():
            if not path.is_dir():
                raise InputError(f"`output` must be a folder; {str(path)!r} is a file. Name another.")
            break


@contextmanager
def claimed(output: str | Path, by: bool = True) -> Iterator[None]:
    """Own an output folder: a second run is refused until the context, or the process, ends.

    The folder is created if needed, and what killed writers left in it is removed. A context within a context is one with it.

    Args:
        output: the folder.
        by: whether this process is the one that claims; of several that share a run, the first.

    Raises:
        InputError: another process owns the folder, or it is a file.
    """
    check_folder(Path(output))
    folder = Path(output).resolve()
    if not by or _claims.get(folder, (0, 0))[0] == threading.get_ident():
        yield
        return
    created = _make_folders(folder)
    try:
        handle = _lock(folder / LOCK)
    except OSError as error:
        error.filename = str(folder)
        raise
    _claims[folder] = (threading.get_ident(), handle)
    try:
        _clear(folder)
        yield
    finally:
        del _claims[folder]
        with suppress(OSError):  # the folder may have vanished
            (folder / LOCK).unlink()
        os.close(handle)
        with suppress(OSError):  # one that nothing was written to
            for path in reversed(created):
                path.rmdir()


def has_run(output: Path, signs: Iterable[str], *, resume: bool) -> bool:
    """Whether an output folder holds a run, and a line where there is none that could be resumed.

    Args:
        output: the folder.
        signs: patterns of the files of which a run has one.
        resume: whether it is to be resumed.

    Returns:
        Whether any of the files is there.
    """
    found = any(any(output.glob(sign)) for sign in signs)
    if resume and not found:
        logger.info("nothing to resume in %s: starting from the beginning", output)
    return found


@contextmanager
def _beside(path: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """A hidden file or folder beside `path`, gone afterwards; errors of it name `path`."""
    partial = _hidden(path, "partial")
    try:
        _prepare(path)
        make(partial)
        yield partial
    except OSError as error:
        if error.errno is not None and (error.filename is None or str(error.filename).startswith(str(partial))):
            error.filename = str(path)
        raise
    except SafetensorError as error:  # a write that failed, in its own words
        code = re.search(r"os error (\d+)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error
    finally:
        _remove(partial)


def _hidden(path: Path, kind: str) -> Path:
    """A name of its own, short enough for a file system that allows the name itself; see `_LEFT`."""
    return path.with_name(f".{path.name[:40]}.{os.getpid()}@{_HOST}.{secrets.token_hex(4)}.{kind}")


def _prepare(path: Path) -> None:
    """Create the folder that `path` is to lie in, and remove what killed writers of `path` left there."""
    within = [folder for folder in _claims if folder in path.resolve().parents]
    for folder in within:
        if not (folder / LOCK).exists():
            raise FileNotFoundError(errno.ENOENT, "the output folder has vanished", str(folder))
    _make_folders(path.parent)
    for left in path.parent.glob(f".{escape(path.name[:40])}.*") if not within else ():
        match = _LEFT.fullmatch(left.name)
        if match and match["host"] == _HOST and not _alive(int(match["pid"])):
            _remove(left)


def _clear(folder: Path) -> None:
    """Remove what killed writers left in an output folder; a folder that one of them was about to replace comes back."""
    for pattern in (".*", "*/.*", "*/*/.*"):
        for left in list(folder.glob(pattern)):
            if _LEFT.fullmatch(left.name) and left.parent.resolve().is_relative_to(folder):
                _remove(left)


def _remove(left: Path) -> None:
    if left.is_symlink():  # of somebody else: what it leads to is not ours
        left.unlink()
        return
    if left.name.endswith(".older"):
        for whole in list(left.iterdir()):
            if not (left.parent / whole.name).exists():
                whole.replace(left.parent / whole.name)
    with suppress(OSError):
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()


def _make_folders(folder: Path) -> list[Path]:
    """Create a folder and those above it, each on the disk; return the new ones, outermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()][::-1]
    for path in missing:
        path.mkdir(exist_ok=True)
        _sync(path.parent)
    return missing


def _lock(path: Path) -> int:
    """The descriptor of a lock file that this process has locked; the lock ends with the descriptor or the process."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            _flock(handle)
            if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):  # not removed by an owner that ended
                os.ftruncate(handle, 0)
                os.write(handle, f"process {os.getpid()} on host {socket.gethostname()}\n".encode())
                return handle
        except BlockingIOError:
            owner = os.read(handle, 1000).decode(errors="replace").strip() or "another process"
            os.close(handle)
            raise InputError(
                f"`output` {str(path.parent)!r} is in use by {owner}. Wait until it ends, or name another folder."
            ) from None
        except OSError:
            os.close(handle)
            raise
        os.close(handle)


def _flock(handle: int) -> None:
    if fcntl is not None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):  # a file system without locks
                raise


def _forget_claims() -> None:
    """In a forked child: the lock is its parent's, and must not outlive it."""
    for _, handle in _claims.values():
        os.close(handle)
    _claims.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_claims)


def _alive(pid: int) -> bool:
    """Whether a process of this host runs."""
    if os.name == "nt":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    with suppress(PermissionError):  # a folder that may be written but not read, and all folders on Windows
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
            if hasattr(fcntl, "F_FULLFSYNC"):  # macOS, where `fsync` leaves the data in the drive's cache
                with suppress(OSError):  # a file system without it
                    fcntl.fcntl(handle, fcntl.F_FULLFSYNC)
        finally:
            os.close(handle)
