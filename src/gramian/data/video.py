"""Videos: files or bytes in; a few upright RGB frames on white out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gramian.data.content import (
    MAX_PIXELS,
    Place,
    Source,
    Unreadable,
    chosen_track,
    open_container,
    open_content,
    open_recording,
    until_end,
)
from gramian.data.image import decoding, read_image
from gramian.errors import check_number, require

__all__ = ["read_video"]

Shown: TypeAlias = "tuple[float, Callable[[], NDArray[np.uint8]]]"
"""When a frame appears, and its picture."""


def read_video(
    source: Source,
    frames: int = 8,
    *,
    generator: np.random.Generator | None = None,
    folder: Place | None = None,
) -> NDArray[np.uint8]:
    """RGB frames of a video: what is shown in the middle of each of `frames` equal parts of its time, upright and on white.

    With a generator a moment is drawn from each part. A video with fewer frames repeats some.

    Args:
        source: a path, bytes or a cell of datasets.
        frames: how many.
        generator: draws the moments.
        folder: what relative paths are relative to.

    Returns:
        (frames, height, width, 3) uint8.

    Raises:
        InputError: `frames` below 1; PyAV is not installed.
        Unreadable: no video track (a still image or a cover is none), no frame, frames that change size, ones of more than
            `MAX_PIXELS` pixels, or a file that is cut off.
    """
    require("av")
    check_number("frames", frames, "[1, inf)", integer=True)
    # Divided last, so that the middle of a part that begins or ends with a frame is not off by a rounding.
    places = (np.arange(frames) + (0.5 if generator is None else generator.uniform(size=frames)), frames)
    opened = open_recording(source, folder)
    with open_container(opened, "video") as container:
        kind, brand = container.format.name, container.metadata.get("major_brand")
        if kind == "webp_pipe":  # which FFmpeg reads no animations of
            return _at(*_webp(opened), *places)
        if kind.endswith("_pipe") or kind in ("image2", "ico") or brand in ("avif", "heic", "heix", "mif1"):
            raise Unreadable("a still image, no video")
        stream = chosen_track(container, "video")
        index = stream.index  # read while the container is open
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > MAX_PIXELS:
            raise Unreadable(f"frames of {width} × {height} pixels, more than {MAX_PIXELS:,}")
        end, is_timed = _end(until_end(container.demux(stream)))
    with open_container(opened, "video") as container:
        shown = _decoded(container, container.streams[index], is_timed, max(width * height, USUAL))
        return _at(shown, end, *places)


def _at(
    shown: Iterable[tuple[float, Callable[[], NDArray[np.uint8]]]], end: float, places: Any, parts: int
) -> NDArray[np.uint8]:
    """The pictures at some moments: of each the last that appears no later.

    Args:
        shown: when each picture appears, in order, and the picture.
        end: when the last disappears.
        places: (n,) the moments, in parts from the beginning of the first.
        parts: into which the time is divided.
    """
    chosen: list[NDArray[np.uint8]] = []
    last: Callable[[], NDArray[np.uint8]] | None = None
    moments = places
    for time, picture in shown:
        if last is None:
            moments = time + places * (end - time) / parts
        elif passed := int((moments < time).sum()) - len(chosen):
            chosen += [last()] * passed
            if len(chosen) == len(places):
                break
        last = picture
    if last is None:
        raise Unreadable("no frame can be decoded")
    if len(chosen) < len(places):
        chosen += [last()] * (len(places) - len(chosen))
    return np.stack(chosen)


def _end(packets: Iterator[Any]) -> tuple[float, bool]:
    """When the last frame disappears, in ticks; without sound time stamps in frames, and False.

    Headers cannot be relied on. Packets before the first key frame cannot be decoded, and those that an edit list cuts off
    are decoded only for others.
    """
    kept = [(p.pts, p.dts, p.duration or 0, p.is_keyframe, p.is_discard) for p in packets if p.size > 0]
    first = next((number for number, packet in enumerate(kept) if packet[3]), 0)
    shown = [packet for packet in kept[first:] if not packet[4]]
    if not shown:
        raise Unreadable("no frames")
    order = [dts for _, dts, *_ in shown if dts is not None]
    times = [pts for pts, *_ in shown if pts is not None]
    if len(times) < len(shown) or order != sorted(order):  # unknown, or of files that were joined
        return len(shown), False
    last, duration = max((pts, duration) for pts, _, duration, *_ in shown)
    return last + (duration or (last - min(times)) / max(1, len(times) - 1) or 1), True


def _webp(opened: bytes | Path) -> tuple[Iterator[Shown], float]:
    """When each picture of an animated WebP appears, and the picture; when the last disappears."""
    require("PIL")
    from PIL import Image, ImageSequence

    def frames() -> Iterator[tuple[float, Any]]:
        with decoding(), open_content(opened) as content, Image.open(content, formats=["WEBP"]) as image:
            if image.width * image.height > MAX_PIXELS or getattr(image, "n_frames", 1) < 2:
                raise Unreadable("a still image, no video")
            time = 0.0
            for frame in ImageSequence.Iterator(image):
                frame.load()
                yield time, frame
                time += frame.info.get("duration") or 0
            yield time, None

    *_, (end, _) = frames()
    return ((time, partial(np.asarray, read_image(frame))) for time, frame in frames() if frame is not None), end


ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""FFmpeg's own decoders of these leave the transparency out."""


USUAL = 2**22
"""Pixels of a frame, about 2K, that are read whatever the header says."""


def _decoded(container: Any, stream: Any, is_timed: bool, most: int) -> Iterator[Shown]:
    """When each frame appears, and its picture; of at most so many pixels."""
    import av

    decoder = stream.codec_context
    name = ALPHA.get(decoder.name, "") if stream.metadata.get("alpha_mode") == "1" else ""
    if name in av.codecs_available:
        decoder = av.CodecContext.create(name, "r")
    decoder.thread_type = "AUTO"
    size, time = None, 0.0
    frames = (frame for packet in container.demux(stream) for frame in decoder.decode(packet))
    for number, frame in enumerate(until_end(frames)):
        if size not in (None, (frame.width, frame.height)):
            raise Unreadable("frames that change size")
        if frame.width * frame.height > most:
            raise Unreadable(f"frames of {frame.width} × {frame.height} pixels, more than the header says")
        size = frame.width, frame.height
        time = number if not is_timed else time if frame.pts is None else frame.pts
        yield time, partial(_picture, frame)


def _picture(frame: Any) -> NDArray[np.uint8]:
    """RGB on white, upright."""
    from av.sidedata.sidedata import Type

    if frame.format.has_palette or any(part.is_alpha for part in frame.format.components):
        layer = frame.to_ndarray(format="rgba").astype(np.uint16)
        alpha = layer[..., 3:]
        image = ((layer[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    else:
        image = frame.to_ndarray(format="rgb24")
    side = frame.side_data.get(Type.DISPLAYMATRIX)
    return np.ascontiguousarray(image if side is None else _upright(image, np.frombuffer(bytes(side), np.int32)))


def _upright(image: NDArray[Any], matrix: NDArray[np.int32]) -> NDArray[Any]:
    """Rotated by quarter turns and mirrored by a display matrix of 9 fixed-point numbers; `frame.rotation` ignores mirrors."""
    (a, b), (c, d) = np.sign(np.rint(matrix[[[0, 1], [3, 4]]] / 65536))
    if not a and not d:  # x is shown as y
        image = image.swapaxes(0, 1)
    down, right = (d, a) if a or d else (b, c)
    return image[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1]
