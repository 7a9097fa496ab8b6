"""Reading images, audio and video: files or bytes in, Pillow images and arrays out; what cannot be read says why.

Decoding is by content, never by a file's name, and deterministic: the same source gives the same array, unless a generator
is given, which then draws the same window for the same seed. Nothing is put in the place of a source that cannot be read.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BufferedReader, BytesIO, FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gramian.errors import InputError, first_line, require

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "MAX_PIXELS",
    "Source",
    "Unreadable",
    "audio_seconds",
    "open_source",
    "read_audio",
    "read_image",
    "read_text",
    "read_video",
]

Source: TypeAlias = "str | Path | bytes | Mapping[str, Any]"
"""A path, the bytes of a file, or a cell of Hugging Face datasets: {"bytes": … or None, "path": … or None}.

With "offset" and "size" it is that part of the file at "path", as of an archive."""

MAX_PIXELS = 2**27
"""Images and video frames with more pixels are refused before they are decoded: half a gigabyte of RGBA each."""

MAX_SECONDS = 3600.0
"""Audio is decoded up to here where no window is asked for; what is longer is refused."""


class Unreadable(Exception):  # noqa: N818 (names the state of a file, not a fault of the program)
    """A source that holds nothing to encode; the message says why."""


def open_source(source: Source, folder: Path | None = None) -> bytes | Path:
    """The bytes, or the existing file, that a cell names.

    Args:
        source: the cell.
        folder: what relative paths are relative to; the working directory by default.

    Raises:
        Unreadable: no such file, 0 bytes, a URL.
    """
    if isinstance(source, Mapping):
        content, path = source.get("bytes"), source.get("path")
        if content is None and path and source.get("offset") is not None:
            try:
                with Path(path).open("rb") as archive:
                    archive.seek(source["offset"])
                    content = archive.read(source["size"])
            except OSError as error:
                raise Unreadable(f"its archive cannot be read: {error.strerror}") from None
            if len(content) < source["size"]:
                raise Unreadable("its archive is cut off")
        if content is not None:
            source = content
        elif path:
            source = path
        else:
            raise Unreadable("neither bytes nor a path")
    if isinstance(source, bytes | bytearray | memoryview):
        if not len(source):
            raise Unreadable("0 bytes")
        return bytes(source)
    if not isinstance(source, str | Path):
        raise Unreadable(f"neither a path nor bytes: {type(source).__name__}")
    if "://" in str(source):
        raise Unreadable("a URL; download the file and give its path")
    path = Path(source) if folder is None else folder / source
    try:
        if not path.is_file():
            raise Unreadable("a folder" if path.is_dir() else "no such file")
        if path.stat().st_size == 0:
            raise Unreadable("0 bytes")
    except (OSError, ValueError) as error:  # a name too long, or with a zero in it
        raise Unreadable(str(error)) from None
    return path


def read_text(source: Source) -> str:
    """A text cell, without the white space around it.

    Raises:
        Unreadable: nothing but white space, or no text.
    """
    if isinstance(source, bytes):
        try:
            source = source.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise Unreadable(f"not UTF-8: {error}") from None
    if not isinstance(source, str):
        raise Unreadable(f"no text: {type(source).__name__}")
    text = source.strip()
    if not text:
        raise Unreadable("an empty text")
    return text


def read_image(source: Source, folder: Path | None = None) -> Image:
    """An image as RGB: turned upright by its EXIF orientation, transparency laid on white, 16 bits scaled to 8.

    Of an animation the first frame is taken.

    Args:
        source: a path, bytes or a cell of datasets, in any format that Pillow reads.
        folder: what relative paths are relative to.

    Raises:
        Unreadable: no image, a truncated one, or one of more than `MAX_PIXELS` pixels.
    """
    require("PIL")
    from PIL import Image, ImageOps, UnidentifiedImageError

    opened = open_source(source, folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own warnings of size and of odd EXIF: the limit below is ours
            with _content(opened) as content, Image.open(content, formats=_formats()) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise Unreadable(f"{width} × {height} pixels, more than {MAX_PIXELS:,}")
                image.load()
                upright = ImageOps.exif_transpose(image)
                return _rgb(upright)
    except UnidentifiedImageError:
        raise Unreadable("not an image that Pillow knows") from None
    except Image.DecompressionBombError as error:
        raise Unreadable(str(error)) from None
    except Unreadable:
        raise
    except Exception as error:  # Pillow's decoders fail in as many ways as there are formats
        raise Unreadable(_reason(error)) from None


def _formats() -> list[str]:
    """What Pillow reads by itself: PostScript would be given to another program to run."""
    from PIL import Image

    Image.init()
    return [name for name in Image.ID if name != "EPS"]


def _rgb(image: Image) -> Image:
    from PIL import Image

    if image.mode in ("I;16", "I;16B", "I;16L", "I;16N", "I", "F"):
        values = np.asarray(image).astype(np.float64)
        if not np.isfinite(values).all():
            raise Unreadable("pixels that are not finite")
        top = 65535.0 if image.mode.startswith("I;16") or (image.mode == "I" and values.max(initial=0) > 255) else 255.0
        image = Image.fromarray((values.clip(0, top) * (255 / top)).round().astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        opaque = Image.new("RGBA", layer.size, "white")
        opaque.alpha_composite(layer)
        image = opaque
    return image.convert("RGB")


def read_audio(
    source: Source,
    rate: int = 16_000,
    *,
    seconds: float | None = None,
    generator: np.random.Generator | None = None,
    folder: Path | None = None,
) -> NDArray[np.float32]:
    """A recording as (samples,) float32, mono, at `rate` hertz; the audio track of a video as well.

    soundfile reads what it knows (WAV, FLAC, Ogg, MP3), PyAV the rest.

    Args:
        source: a path, bytes or a cell of datasets.
        rate: in hertz.
        seconds: length of the window that is taken where the recording is longer: from its start, or with a generator from
            anywhere. Everything by default.
        generator: draws the window's place.
        folder: what relative paths are relative to.

    Raises:
        Unreadable: no audio, no samples, samples that are not finite, or, without a window, more than `MAX_SECONDS`.
    """
    require("soundfile", "soxr", "av")
    import soxr

    if rate < 1 or (seconds is not None and not seconds > 0):
        raise InputError(f"`rate` and `seconds` must be positive; got {rate} and {seconds}.")
    opened = open_source(source, folder)
    samples, own_rate = _soundfile_samples(opened, seconds, generator) or _av_samples(opened, seconds, generator)
    if not np.isfinite(samples).all():
        raise Unreadable("samples that are not finite")
    if own_rate != rate and len(samples):
        samples = soxr.resample(samples, own_rate, rate)
    if not len(samples):
        raise Unreadable("no samples")
    if seconds is not None:
        samples = samples[: max(1, round(seconds * rate))]
    return np.ascontiguousarray(samples, dtype=np.float32)


def audio_seconds(source: Source, folder: Path | None = None) -> float:
    """How long a recording is by its header; infinite where that does not say.

    Raises:
        Unreadable: no audio.
    """
    require("soundfile", "av")
    import soundfile

    opened = open_source(source, folder)
    with _content(opened) as content, suppress(soundfile.SoundFileError):
        info = soundfile.info(content)
        if info.frames < _UNKNOWN:
            return float(info.duration)
    with _container(opened, "audio") as container:
        return _length(container, _audio_track(container))


_UNKNOWN = 2**62
"""libsndfile gives at least so many frames to a FLAC stream whose header does not say how many it has."""


def _soundfile_samples(
    opened: bytes | Path, seconds: float | None, generator: np.random.Generator | None
) -> tuple[NDArray[np.float32], int] | None:
    """Mono samples and their rate; None where libsndfile does not know the format, or its header is wrong."""
    import soundfile

    with _content(opened) as content, suppress(soundfile.SoundFileError), soundfile.SoundFile(content) as file:
        if file.frames >= _UNKNOWN:
            return None
        start, count = _window(file.frames / file.samplerate, seconds, generator, file.samplerate)
        if start:
            file.seek(start)
        samples = file.read(file.frames if count < 0 else count, dtype="float32", always_2d=True)
        return None if start and len(samples) < count else (_mean(samples, 1), file.samplerate)
    return None


def _av_samples(
    opened: bytes | Path, seconds: float | None, generator: np.random.Generator | None
) -> tuple[NDArray[np.float32], int]:
    import av

    with _container(opened, "audio") as container:
        stream = _audio_track(container)
        rate = int(stream.rate or 0)
        if rate < 1:
            raise Unreadable("an audio track without a sample rate")
        start, count = _window(_length(container, stream), seconds, generator, rate)
        # Decoded from the start, so that a window does not hang on how well a container seeks. Of what lies before the
        # window as much is kept as fills it, should the recording be shorter than its header says.
        parts: deque[NDArray[np.float32]] = deque()
        first = have = 0
        resampler, kind = None, None
        for frame in _all(container.decode(stream)):
            if resampler is None or kind != _kind(frame):
                resampler, kind = av.AudioResampler(format="fltp", rate=rate), _kind(frame)
            for part in resampler.resample(frame):
                parts.append(_mean(part.to_ndarray(), 0))
                have += len(parts[-1])
            while count >= 0 and parts and first + len(parts[0]) <= min(start, have - count):
                first += len(parts.popleft())
            if count >= 0 and have >= start + count:
                break
            if count < 0 and have > MAX_SECONDS * rate:
                raise Unreadable(f"more than {MAX_SECONDS:.0f} s; take a window with `seconds`")
    samples = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    if count < 0:
        return samples, rate
    start = max(0, min(start, have - count)) - first
    return samples[start : start + count], rate


def _kind(frame: Any) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate


def _mean(samples: NDArray[Any], channels: int) -> NDArray[np.float32]:
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is refused later
        mean: NDArray[np.float32] = samples.mean(channels)
    return mean


def _audio_track(container: Any) -> Any:
    if not container.streams.audio:
        raise Unreadable("no audio track")
    return _known(container.streams.audio[0])


def _known(stream: Any) -> Any:
    if stream.codec_context is None:
        raise Unreadable(f"a codec of {stream.type} that FFmpeg does not know")
    return stream


def _all(items: Iterator[Any]) -> Iterator[Any]:
    """The packets or frames of PyAV, which at their end may stumble over tracks that FFmpeg finds only while it reads."""
    with suppress(IndexError):
        yield from items


def _length(container: Any, stream: Any) -> float:
    """Seconds by the header; infinite where it does not say."""
    import av

    if stream.duration:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else math.inf


def _window(length: float, seconds: float | None, generator: np.random.Generator | None, rate: int) -> tuple[int, int]:
    """First sample and number of samples of the window; −1 for all."""
    if seconds is None:
        if length > MAX_SECONDS and math.isfinite(length):
            raise Unreadable(f"{length:.0f} s, more than {MAX_SECONDS:.0f}; take a window with `seconds`")
        return 0, -1
    spare = length - seconds
    start = generator.uniform(0, spare) if generator is not None and 0 < spare < math.inf else 0.0
    return int(start * rate), math.ceil(seconds * rate)


def read_video(
    source: Source,
    frames: int = 8,
    *,
    generator: np.random.Generator | None = None,
    folder: Path | None = None,
) -> NDArray[np.uint8]:
    """(frames, height, width, 3) RGB frames: the middles of as many equal parts of the video, turned upright.

    With a generator one frame is drawn from each part. A video with fewer frames repeats some.

    Args:
        source: a path, bytes or a cell of datasets.
        frames: how many.
        generator: draws the frames.
        folder: what relative paths are relative to.

    Raises:
        Unreadable: no video track (a still image or a cover is none), no frame, frames that change size, or ones of more
            than `MAX_PIXELS` pixels.
    """
    require("av")
    import av

    if frames < 1:
        raise InputError(f"`frames` must be at least 1; got {frames}.")
    places = (np.arange(frames) + (0.5 if generator is None else generator.uniform(size=frames))) / frames
    opened = open_source(source, folder)
    with _container(opened, "video") as container:
        kind, brand = container.format.name, container.metadata.get("major_brand")
        if kind.endswith("_pipe") or kind in ("image2", "ico") or brand in ("avif", "heic", "heix", "mif1"):
            raise Unreadable("a still image, no video")
        streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not streams:
            raise Unreadable("no video track")
        stream = _known(streams[0])
        index = stream.index  # read while the container is open
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > MAX_PIXELS:
            raise Unreadable(f"frames of {width} × {height} pixels, more than {MAX_PIXELS:,}")
        stream.thread_type = "AUTO"
        total = sum(packet.size > 0 for packet in _all(container.demux(stream)))  # headers cannot be relied on
        if not total:
            raise Unreadable("no frames")
    wanted = np.minimum((places * total).astype(int), total - 1)
    found: dict[int, NDArray[np.uint8]] = {}
    last = None
    with _container(opened, "video") as container:
        stream = container.streams[index]
        stream.thread_type = "AUTO"
        chosen, end = set(wanted.tolist()), int(wanted.max())
        for number, frame in enumerate(_all(container.decode(stream))):
            if last is not None and (frame.width, frame.height) != (last[1].width, last[1].height):
                raise Unreadable("frames that change size")
            last = (number, frame)
            if number in chosen:
                found[number] = _upright(frame)
            if number >= end:
                break
        if last is None:
            raise Unreadable("no frame can be decoded")
        if not found.keys() >= chosen:  # fewer frames than packets: the last one stands for those behind it
            found[last[0]] = _upright(last[1])
    there = np.array(sorted(found))
    return np.stack([found[int(there[there <= place][-1] if (there <= place).any() else there[0])] for place in wanted])


def _upright(frame: Any) -> NDArray[np.uint8]:
    image = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(image, round(getattr(frame, "rotation", 0) / 90)))


@contextmanager
def _container(opened: bytes | Path, what: str) -> Iterator[Any]:
    import av

    alone = {"protocol_whitelist": "none"}  # a playlist opens no other files
    try:
        with _content(opened) as content, av.open(content, options=alone, metadata_errors="replace") as container:
            yield container
    except av.FFmpegError as error:
        raise Unreadable(f"no {what} that FFmpeg can read ({error.strerror or error})") from None


@contextmanager
def _content(opened: bytes | Path) -> Iterator[BinaryIO]:
    """A file without a name, so that no library can judge it by its ending or take a colon in it for a protocol."""
    if isinstance(opened, bytes):
        yield BytesIO(opened)
        return
    try:
        raw = FileIO(opened)
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from None
    raw.name = ""
    with BufferedReader(raw) as file:
        yield file


def _reason(error: Exception) -> str:
    return first_line(error)[:160] or type(error).__name__
