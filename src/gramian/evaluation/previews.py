"""Small previews of media for a page: a text's beginning, a thumbnail, some seconds of sound or video, as data URIs."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gramian.data.cells import Cells
from gramian.data.media import MEDIA, Kind, Place, Sampling, Unreadable
from gramian.data.table import Table
from gramian.errors import InputError, check_number

__all__ = ["Preview", "Previews", "kind_of", "preview"]

logger: logging.Logger = logging.getLogger("gramian")

LETTERS = 280
SIDE = 128  # pixels of a thumbnail's longer side
SOUND, SOUND_RATE = 4.0, 16_000  # seconds, hertz
FRAMES, FRAME_RATE, VIDEO_SIDE = 16, 4, 160  # of a video: frames, evenly from all of it, and pixels


@dataclass(frozen=True)
class Preview:
    """A small part of a cell.

    Attributes:
        kind: "text", "image", "audio", "video", or "none" for one that cannot be shown.
        text: of a text; of others what they are, in words; why there is none.
        uri: of other kinds, a data URI.
    """

    kind: str
    text: str
    uri: str = ""


def kind_of(cell: Any, folder: Place | None = None) -> Kind | None:
    """What kind of media a raw cell holds: by the ending of its path, else by trying; None for anything else.

    Args:
        cell: not empty.
        folder: of relative paths.

    Returns:
        "text" for a text that names no file of media.
    """
    kinds: tuple[Kind, ...] = ("image", "audio", "video")
    path = cell.get("path") if isinstance(cell, Mapping) else cell
    if isinstance(path, str | Path):
        ending = Path(str(path)[-200:]).suffix.lower()
        for kind in kinds:
            if ending and ending in MEDIA[kind].endings.split():
                return kind
    if isinstance(cell, str) or (isinstance(cell, list) and all(isinstance(each, str) for each in cell)):
        return "text"
    for kind in kinds:
        try:
            MEDIA[kind].read(cell, Sampling(SOUND_RATE, 1.0, 1), folder, None)
        except (Unreadable, InputError, TypeError, AttributeError):
            continue
        return kind
    return None


def preview(cell: Any, kind: Kind, folder: Place | None = None) -> Preview:
    """A small preview of a raw cell.

    Args:
        cell: not empty.
        kind: of media.
        folder: of relative paths.

    Returns:
        A text's first 280 characters; a thumbnail of 128 pixels as WebP; four seconds of sound as Ogg Vorbis; 16 frames, evenly
        from the whole of a video, as four seconds of H.264. Of a cell that cannot be read the reason.
    """
    try:
        decoded = MEDIA[kind].read(cell, Sampling(SOUND_RATE, SOUND, FRAMES), folder, None)
        if kind == "text":
            return Preview("text", decoded if len(decoded) <= LETTERS else decoded[: LETTERS - 1] + "…")
        if kind == "image":
            return _thumbnail(decoded)
        return _sound(decoded) if kind == "audio" else _clip(decoded)
    except Unreadable as error:
        return Preview("none", str(error))


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _thumbnail(image: Any) -> Preview:
    words = f"{image.width} × {image.height} pixels"
    image.thumbnail((SIDE, SIDE))
    content = io.BytesIO()
    image.save(content, "WEBP", quality=75, method=4)
    return Preview("image", words, _uri("image/webp", content.getvalue()))


def _sound(samples: Any) -> Preview:
    import soundfile

    content = io.BytesIO()
    soundfile.write(content, samples, SOUND_RATE, format="OGG", subtype="VORBIS")
    return Preview("audio", f"{len(samples) / SOUND_RATE:.1f} s", _uri("audio/ogg", content.getvalue()))


def _clip(frames: Any) -> Preview:
    import av
    from PIL import Image

    height, width = frames.shape[1:3]
    scale = min(1.0, VIDEO_SIDE / max(height, width))
    size = tuple(max(2, round(scale * side / 2) * 2) for side in (width, height))  # H.264 halves the colours' sides
    content = io.BytesIO()
    with av.open(content, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FRAME_RATE, options={"crf": "32", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for frame in frames:
            small = np.asarray(Image.fromarray(frame).resize(size))
            for packet in stream.encode(av.VideoFrame.from_ndarray(small, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return Preview("video", f"{len(frames)} frames, {width} × {height} pixels", _uri("video/mp4", content.getvalue()))


class Previews:
    """The previews of a table's raw cells, up to a size in all.

    Args:
        table: with raw columns.
        megabytes: of data URIs; what comes after is named alone.

    Raises:
        InputError: a table of features alone, or a size outside [0, 100].
    """

    def __init__(self, table: Table, megabytes: float = 8.0) -> None:
        check_number("media_mb", megabytes, "[0, 100]")
        self.columns: dict[str, Cells] = table.raw
        self.rows: dict[str, int] = {name: row for row, name in enumerate(table.ids)}
        self.kinds: dict[str, Kind | None] = {}
        for name, column in self.columns.items():
            first = next((column[int(row)] for row in column.present.nonzero().flatten()[:1]), None)
            self.kinds[name] = None if first is None else kind_of(first, column.folder)
        if not any(self.kinds.values()):
            raise InputError(
                "`media` must have columns of raw cells, texts or paths of media; it has features alone: "
                f"{', '.join(table.modalities)}."
            )
        self.left: float = megabytes * 1e6
        self.octets: int = 0
        self.left_out: int = 0
        self._made: dict[tuple[str, str], Preview] = {}

    def made(self, modality: str, row: str) -> Preview | None:
        """The preview of a cell by the row's id, made anew, whatever the size in all; None where the table has none."""
        column, kind = self.columns.get(modality), self.kinds.get(modality)
        if column is None or kind is None or row not in self.rows or not column.present[self.rows[row]]:
            return None
        return preview(column[self.rows[row]], kind, column.folder)

    def of(self, modality: str, row: str) -> Preview | None:
        """The preview of a cell by the row's id; None where the table has none, or its size would be too much."""
        key = modality, row
        if key not in self._made:
            made = self.made(modality, row)
            if made is None:
                return None
            self._made[key] = made
        made = self._made[key]
        if len(made.uri) > self.left:
            self.left_out += 1
            return None
        self.left -= len(made.uri)
        self.octets += len(made.uri)
        return made
