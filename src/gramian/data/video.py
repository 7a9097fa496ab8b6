"""Videos: files or bytes in; a few upright RGB frames on white out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

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
from gramian.errors import check_choice, check_number, require

__all__ = ["Colours", "read_frames", "read_video"]

Colours: TypeAlias = Literal["file", "bt601"]
"""How YUV becomes RGB: by the matrix that the file names, or by BT.601 whatever it says, as OpenCV does."""

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
    track = _track(opened)
    if track is None:
        return _at(*_webp(opened), *places)
    end, is_timed = _end(track.packets)
    with open_container(opened, "video") as container:
        shown = _decoded(container, container.streams[track.number], is_timed, track.most)
        return _at(shown, end, *places)


def read_frames(
    source: Source,
    choose: Callable[[int], Sequence[int]],
    *,
    colours: Colours = "file",
    folder: Place | None = None,
) -> NDArray[np.uint8]:
    """RGB frames of a video by their numbers, whenever they are shown; upright and on white.

    Args:
        source: a path, bytes or a cell of datasets.
        choose: number of frames → those that are wanted, in order; one may be wanted several times.
        colours: how YUV becomes RGB.
        folder: what relative paths are relative to.

    Returns:
        (frames, height, width, 3) uint8.

    Raises:
        InputError: unknown `colours`; PyAV is not installed.
        Unreadable: see `read_video`.
    """
    require("av")
    check_choice("colours", colours, ("file", "bt601"))
    opened = open_recording(source, folder)
    track = _track(opened)
    if track is None:
        pictures = [picture for _, picture in _webp(opened)[0]]
        return np.stack([pictures[number]() for number in choose(len(pictures))])
    wanted = list(choose(len(track.packets)))
    matrix = None if colours == "file" else "ITU601"
    chosen: list[NDArray[np.uint8]] = []
    last: Callable[[], NDArray[np.uint8]] | None = None
    with open_container(opened, "video") as container:
        shown = _decoded(container, container.streams[track.number], False, track.most, matrix)
        for number, (_, picture) in enumerate(shown):
            last = picture
            if count := wanted[len(chosen) :].count(number):
                chosen += [picture()] * count
            if len(chosen) == len(wanted):
                break
    if last is None:
        raise Unreadable("no frame can be decoded")
    return np.stack(chosen + [last()] * (len(wanted) - len(chosen)))  # headers may promise more than can be decoded


class _Track(NamedTuple):
    """The video track of a file: its number, the packets that are shown, and how many pixels are read of a frame."""

    number: int
    packets: list[_Packet]
    most: int


def _track(opened: bytes | Path) -> _Track | None:
    """The video track that is read; None for an animated WebP, which FFmpeg reads nothing of."""
    with open_container(opened, "video") as container:
        kind, brand = container.format.name, container.metadata.get("major_brand")
        if kind == "webp_pipe":
            return None
        if kind.endswith("_pipe") or kind in ("image2", "ico") or brand in ("avif", "heic", "heix", "mif1"):
            raise Unreadable("a still image, no video")
        stream = chosen_track(container, "video")
        index = stream.index  # read while the container is open
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > MAX_PIXELS:
            raise Unreadable(f"frames of {width} × {height} pixels, more than {MAX_PIXELS:,}")
        return _Track(index, _shown(until_end(container.demux(stream))), max(width * height, USUAL))


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


class _Packet(NamedTuple):
    pts: int | None
    dts: int | None
    duration: int
    is_key: bool
    is_discarded: bool


def _shown(packets: Iterator[Any]) -> list[_Packet]:
    """The packets whose frames are shown.

    Those before the first key frame cannot be decoded, and those that an edit list cuts off are decoded only for others.
    """
    kept = [_Packet(p.pts, p.dts, p.duration or 0, p.is_keyframe, p.is_discard) for p in packets if p.size > 0]
    first = next((number for number, packet in enumerate(kept) if packet.is_key), 0)
    shown = [packet for packet in kept[first:] if not packet.is_discarded]
    if not shown:
        raise Unreadable("no frames")
    return shown


def _end(shown: list[_Packet]) -> tuple[float, bool]:
    """When the last frame disappears, in ticks; without sound time stamps in frames, and False.

    Headers cannot be relied on.
    """
    order = [packet.dts for packet in shown if packet.dts is not None]
    times = [packet.pts for packet in shown if packet.pts is not None]
    if len(times) < len(shown) or order != sorted(order):  # unknown, or of files that were joined
        return len(shown), False
    last, duration = max((packet.pts, packet.duration) for packet in shown if packet.pts is not None)
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


def _decoded(container: Any, stream: Any, is_timed: bool, most: int, matrix: str | None = None) -> Iterator[Shown]:
    """When each frame appears, and its picture; of at most so many pixels, its colours by a `matrix` if one is given."""
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
        yield time, partial(_picture, frame, matrix)


def _picture(frame: Any, matrix: str | None = None) -> NDArray[np.uint8]:
    """RGB on white, upright."""
    from av.sidedata.sidedata import Type

    if frame.format.has_palette or any(part.is_alpha for part in frame.format.components):
        layer = frame.reformat(format="rgba", src_colorspace=matrix).to_ndarray().astype(np.uint16)
        alpha = layer[..., 3:]
        image = ((layer[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    else:
        image = frame.reformat(format="rgb24", src_colorspace=matrix).to_ndarray()
    side = frame.side_data.get(Type.DISPLAYMATRIX)
    return np.ascontiguousarray(image if side is None else _upright(image, np.frombuffer(bytes(side), np.int32)))


def _upright(image: NDArray[Any], matrix: NDArray[np.int32]) -> NDArray[Any]:
    """Rotated by quarter turns and mirrored by a display matrix of 9 fixed-point numbers; `frame.rotation` ignores mirrors."""
    (a, b), (c, d) = np.sign(np.rint(matrix[[[0, 1], [3, 4]]] / 65536))
    if not a and not d:  # x is shown as y
        image = image.swapaxes(0, 1)
    down, right = (d, a) if a or d else (b, c)
    return image[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1]
