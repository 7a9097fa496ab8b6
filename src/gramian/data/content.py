"""Opens the content of a media cell without its file name, or says why it cannot be read.

Decoding depends on the content, never on a file's name, and is deterministic: the same source gives the same array, and with a
generator of the same seed the same window. A source that cannot be read is never replaced by anything.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedReader, BytesIO, FileIO
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from gramian.data.containers import declared_size
from gramian.errors import first_line, is_exhausted

__all__ = [
    "MAX_BYTES",
    "MAX_PIXELS",
    "Folder",
    "Place",
    "Source",
    "Unreadable",
    "chosen_track",
    "decoder_reason",
    "open_container",
    "open_content",
    "open_recording",
    "open_source",
    "state_of",
    "until_end",
]

Source: TypeAlias = "str | Path | bytes | Mapping[str, Any]"
"""A path, the bytes of a file, or a cell of Hugging Face datasets: {"bytes": … or None, "path": … or None}.

With "offset" and "size" it is that part of the file at "path", as of an archive."""

MAX_PIXELS = 2**27
"""Images and video frames with more pixels are refused before they are decoded: half a gigabyte of RGBA each."""


MAX_BYTES = 2**31
"""A longer file in an archive is refused: it would be read whole."""


class Unreadable(Exception):  # noqa: N818 (names the state of a file, not a fault of the program)
    """A source that holds nothing to encode; the message says why."""


@dataclass(frozen=True)
class Folder:
    """Where the paths in a table's cells may lead: a table may come from anyone, and names no other files of this machine.

    Attributes:
        path: what relative paths are relative to.
        roots: resolved folders, or single files, that hold whatever a cell may name, links followed.
    """

    path: Path
    roots: tuple[Path, ...]

    @classmethod
    def of(cls, path: Path, roots: Iterable[Path] = ()) -> Folder:
        """A folder whose cells may name what lies in it and in `roots`."""
        return cls(path.absolute(), tuple(dict.fromkeys(root.resolve() for root in (path, *roots))))

    def find(self, name: str | Path) -> Path:
        """The path that a cell names, links followed.

        Raises:
            Unreadable: it leads elsewhere, or is no possible name.
        """
        try:
            path = (self.path / name).resolve()
        except (OSError, ValueError, RuntimeError) as error:  # a name that is too long or holds a null byte, links in a circle
            raise Unreadable(f"no possible path: {first_line(error)}") from None
        if not any(path.is_relative_to(root) for root in self.roots):
            raise Unreadable(f"outside of the table's folder; --media-root {path.parent} (in Python `media_root`) allows it")
        return path


def state_of(path: Path) -> os.stat_result | None:
    """What lies at a path, links followed; None if nothing does.

    Raises:
        OSError: a name that is too long, or a folder that may not be entered; `Path.exists` says no to them since Python 3.14.
    """
    try:
        return path.stat()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        return None


Place: TypeAlias = "Path | Folder"
"""What relative paths are relative to. From a plain path, which Python code gives, a cell may lead anywhere."""


def open_source(source: Source, folder: Place | None = None) -> bytes | Path:
    """The bytes, or the existing file, that a cell names.

    Args:
        source: the cell.
        folder: what relative paths are relative to, and where paths may lead; by default the working directory, and anywhere.

    Returns:
        The content itself, or the path of a file that is not empty.

    Raises:
        Unreadable: no such file, 0 bytes, a URL, a pipe or device, a path that leads out of the `folder`.
    """
    part = None
    content: Any = source
    if isinstance(source, Mapping):
        content, path = source.get("bytes"), source.get("path")
        if content is None and not path:
            raise Unreadable("neither bytes nor a path")
        if content is None and source.get("offset") is not None:
            part = source["offset"], source.get("size")
        content = path if content is None else content
    if isinstance(content, bytes | bytearray | memoryview):
        if not len(content):
            raise Unreadable("0 bytes")
        return bytes(content)
    if not isinstance(content, str | Path):
        raise Unreadable(f"neither a path nor bytes: {type(content).__name__}")
    if "://" in str(content):
        raise Unreadable("a URL; download the file and give its path")
    try:
        path = folder.find(content) if isinstance(folder, Folder) else Path(folder or "") / content
        state = state_of(path)
        if state is None or not stat.S_ISREG(state.st_mode):
            raise Unreadable("no such file" if state is None else "a folder" if path.is_dir() else "a pipe or a device")
        if state.st_size == 0:
            raise Unreadable("0 bytes")
        return path if part is None else _part_of(path, state.st_size, *part)
    except (OSError, ValueError) as error:  # a name that is too long or holds a null byte
        if is_exhausted(error):
            raise
        raise Unreadable(first_line(error)) from None


def _part_of(path: Path, total: int, offset: Any, size: Any) -> bytes:
    if type(offset) is not int or type(size) is not int or offset < 0 or size < 0:
        raise Unreadable(f"`offset` and `size` must be numbers of bytes; got {offset!r:.20} and {size!r:.20}")
    if offset + size > total:
        raise Unreadable("its archive is cut off")
    if size > MAX_BYTES:
        raise Unreadable(f"{size:,} bytes in an archive, more than {MAX_BYTES:,}")
    with path.open("rb") as archive:
        archive.seek(offset)
        return archive.read(size)


@contextmanager
def open_content(opened: bytes | Path) -> Iterator[BinaryIO]:
    """Open a file without a name, so that no library judges it by its ending or takes a colon in it for a protocol.

    Raises:
        Unreadable: a file that may not be opened.
    """
    if isinstance(opened, bytes):
        yield BytesIO(opened)
        return
    try:
        raw = FileIO(opened)
    except OSError as error:
        if is_exhausted(error):
            raise
        raise Unreadable(error.strerror or str(error)) from None
    raw.name = ""
    with BufferedReader(raw) as file:
        yield file


def open_recording(source: Source, folder: Place | None = None) -> bytes | Path:
    """`open_source` for audio and video, whose decoders read a file up to where it is cut off and say nothing.

    Raises:
        Unreadable: see `open_source`; a file that is cut off.
    """
    opened = open_source(source, folder)
    with open_content(opened) as content:
        declared, size = declared_size(content), content.seek(0, os.SEEK_END)
    if declared > size:
        raise Unreadable(f"cut off: {size:,} bytes of at least {declared:,}")
    return opened


@contextmanager
def open_container(opened: bytes | Path, what: str) -> Iterator[Any]:
    """PyAV's container of a source.

    Raises:
        Unreadable: nothing of the kind `what` that FFmpeg can read.
    """
    import av

    alone = {"protocol_whitelist": "none"}  # so that a playlist cannot open other files
    try:
        with open_content(opened) as content, av.open(content, options=alone, metadata_errors="replace") as container:
            yield container
    except av.FFmpegError as error:
        raise Unreadable(f"no {what} that FFmpeg can read ({error.strerror or error})") from None


def chosen_track(container: Any, kind: str) -> Any:
    """The track of a kind, "audio" or "video", that the file marks as its default; the first if it marks none.

    Raises:
        Unreadable: no such track (a cover is none), or FFmpeg does not know its codec.
    """
    from av.stream import Disposition

    tracks = [s for s in getattr(container.streams, kind) if not s.disposition & Disposition.attached_pic]
    if not tracks:
        raise Unreadable(f"no {kind} track")
    track = max(tracks, key=lambda each: bool(each.disposition & Disposition.default))
    if track.codec_context is None:
        raise Unreadable(f"a codec of {kind} that FFmpeg does not know")
    return track


def until_end(items: Iterator[Any]) -> Iterator[Any]:
    """The packets or frames of PyAV, which may fail at their end on tracks that FFmpeg finds only while it reads."""
    with suppress(IndexError):
        yield from items


def decoder_reason(error: Exception) -> str:
    """A decoder's own reason why it cannot read a source, in one line."""
    return first_line(error)[:160] or type(error).__name__
