"""Videos: files or bytes in; a few upright RGB frames out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gramian.data.content import MAX_PIXELS, Source, Unreadable, known_stream, open_container, open_source, until_end
from gramian.errors import InputError, require

__all__ = ["read_video"]


def read_video(
    source: Source,
    frames: int = 8,
    *,
    generator: np.random.Generator | None = None,
    folder: Path | None = None,
) -> NDArray[np.uint8]:
    """RGB frames of a video: the middle one of each of `frames` equal parts, turned upright.

    With a generator one frame is drawn from each part. A video with fewer frames repeats some.

    Args:
        source: a path, bytes or a cell of datasets.
        frames: how many.
        generator: draws the frames.
        folder: what relative paths are relative to.

    Returns:
        (frames, height, width, 3) uint8.

    Raises:
        InputError: `frames` below 1; PyAV is not installed.
        Unreadable: no video track (a still image or a cover is none), no frame, frames that change size, or ones of more
            than `MAX_PIXELS` pixels.
    """
    require("av")
    import av

    if frames < 1:
        raise InputError(f"`frames` must be at least 1; got {frames}.")
    places = (np.arange(frames) + (0.5 if generator is None else generator.uniform(size=frames))) / frames
    opened = open_source(source, folder)
    with open_container(opened, "video") as container:
        kind, brand = container.format.name, container.metadata.get("major_brand")
        if kind.endswith("_pipe") or kind in ("image2", "ico") or brand in ("avif", "heic", "heix", "mif1"):
            raise Unreadable("a still image, no video")
        streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not streams:
            raise Unreadable("no video track")
        stream = known_stream(streams[0])
        index = stream.index  # read while the container is open
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > MAX_PIXELS:
            raise Unreadable(f"frames of {width} × {height} pixels, more than {MAX_PIXELS:,}")
        stream.thread_type = "AUTO"
        total = _shown(until_end(container.demux(stream)))
        if not total:
            raise Unreadable("no frames")
    wanted = np.minimum((places * total).astype(int), total - 1)
    images: dict[int, NDArray[np.uint8]] = {}
    last = None
    with open_container(opened, "video") as container:
        stream = container.streams[index]
        stream.thread_type = "AUTO"
        chosen, end = set(wanted.tolist()), int(wanted.max())
        for number, frame in enumerate(until_end(container.decode(stream))):
            if last is not None and (frame.width, frame.height) != (last[1].width, last[1].height):
                raise Unreadable("frames that change size")
            last = (number, frame)
            if number in chosen:
                images[number] = _upright(frame)
            if number >= end:
                break
        if last is None:
            raise Unreadable("no frame can be decoded")
        if not images.keys() >= chosen:  # fewer frames than packets: the last one stands for those behind it
            images[last[0]] = _upright(last[1])
    numbers = np.array(sorted(images))
    return np.stack([images[int(numbers[max(0, np.searchsorted(numbers, place, side="right") - 1)])] for place in wanted])


def _shown(packets: Iterator[Any]) -> int:
    """Count the packets that become frames; headers cannot be relied on.

    Packets before the first key frame cannot be decoded, and those that an edit list cuts off are decoded only for others.
    """
    kinds = [(packet.is_keyframe, packet.is_discard) for packet in packets if packet.size > 0]
    first = next((number for number, (is_key, _) in enumerate(kinds) if is_key), 0)
    return sum(not is_cut for _, is_cut in kinds[first:])


def _upright(frame: Any) -> NDArray[np.uint8]:
    """RGB as the display matrix shows it, rotated by quarter turns and mirrored; `frame.rotation` ignores mirrors."""
    from av.sidedata.sidedata import Type

    image = frame.to_ndarray(format="rgb24")
    side = frame.side_data.get(Type.DISPLAYMATRIX)
    if side is not None:
        (a, b), (c, d) = np.sign(np.rint(np.frombuffer(bytes(side), np.int32)[[[0, 1], [3, 4]]] / 65536))
        if not a and not d:  # x is shown as y
            image = image.swapaxes(0, 1)
        down, right = (d, a) if a or d else (b, c)
        image = image[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1]
    return np.ascontiguousarray(image)
