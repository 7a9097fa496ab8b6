"""Recordings: files or bytes in; mono samples at one rate out."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gramian.data.containers import ogg_links
from gramian.data.content import (
    Place,
    Source,
    Unreadable,
    chosen_track,
    decoder_reason,
    open_container,
    open_content,
    open_recording,
    until_end,
)
from gramian.errors import check_number, require

__all__ = ["MAX_SECONDS", "Channels", "Resampler", "audio_seconds", "read_audio", "sinc_resample"]

Channels: TypeAlias = Literal["mean", "left"]
"""What a recording of several channels gives."""

Resampler: TypeAlias = Literal["soxr", "sinc"]
"""soxr's, or a windowed sinc as torchaudio's (`sinc_resample`)."""

MAX_SECONDS = 3600.0
"""Longer recordings are refused, unless a window of them is asked for."""

MAX_LINKS = 1000
"""Ogg files that join more recordings are refused."""


def read_audio(
    source: Source,
    rate: int = 16_000,
    *,
    seconds: float | None = None,
    generator: np.random.Generator | None = None,
    folder: Place | None = None,
    channels: Channels = "mean",
    resampler: Resampler = "soxr",
) -> NDArray[np.float32]:
    """A recording as (samples,) float32, mono, at `rate` hertz; the audio track of a video as well.

    soundfile reads what it knows (WAV, FLAC, Ogg, MP3), PyAV the rest.

    Args:
        source: a path, bytes or a cell of datasets; or decoded samples, {"array": (samples,) or (channels, samples),
            "sampling_rate": in hertz}.
        rate: in hertz.
        seconds: length of the window that is taken where the recording is longer: from its start, or with a generator from
            anywhere. Everything by default.
        generator: draws the window's place.
        folder: what relative paths are relative to.
        channels: the mean of all, or the left one alone.
        resampler: from the recording's own rate to `rate`.

    Returns:
        (samples,) float32, at least one.

    Raises:
        InputError: a `rate` or `seconds` that is not positive; a package that is not installed.
        Unreadable: no audio, no samples, samples that are not finite, a file that is cut off, or, without a window, more than
            `MAX_SECONDS`.
    """
    require("soundfile", "soxr", "av")
    import soxr

    check_number("rate", rate, "[1, inf)")
    check_number("seconds", seconds, "(0, inf)", optional=True)
    if isinstance(source, Mapping) and "array" in source:
        samples, own_rate = _decoded_samples(source, seconds, generator, channels)
    else:
        opened = open_recording(source, folder)
        links = _links(opened)
        if links:
            cell = {"array": _joined(links, rate, channels, resampler), "sampling_rate": rate}
            samples, own_rate = _decoded_samples(cell, seconds, generator)
        else:
            window = (opened, seconds, generator, channels)
            samples, own_rate = _soundfile_samples(*window) or _av_samples(*window)
    if not np.isfinite(samples).all():
        raise Unreadable("samples that are not finite")
    if own_rate != rate and len(samples):
        samples = soxr.resample(samples, own_rate, rate) if resampler == "soxr" else sinc_resample(samples, own_rate, rate)
    if not len(samples):
        raise Unreadable("no samples")
    if seconds is not None:
        samples = samples[: max(1, round(seconds * rate))]
    return np.ascontiguousarray(samples, dtype=np.float32)


WIDTH, ROLLOFF = 6, 0.99  # zero crossings of the sinc to either side, and its cut-off by the lower rate's half


def sinc_resample(samples: NDArray[np.float32], own_rate: int, rate: int) -> NDArray[np.float32]:
    """Resample by a sinc under a squared cosine, as torchaudio does by default.

    Output j is Σᵢ xᵢ · c·sinc(c(i/own − j/rate)) · cos²(π c(i/own − j/rate)/12) over the i where that argument lies within ±6,
    c = 0.99 · min(own, rate), and the sum is divided by the own rate; beyond its ends a recording is silent.

    Args:
        samples: (n,).
        own_rate: theirs, in hertz.
        rate: the one that is wanted.

    Returns:
        (⌈n · rate / own⌉,).

    >>> sinc_resample(np.ones(8, np.float32), 2, 1).shape
    (4,)
    """
    common = math.gcd(own_rate, rate)
    own, new = own_rate // common, rate // common
    cutoff = min(own, new) * ROLLOFF  # per unit of time, of which a sample lasts 1 / own
    reach = math.ceil(WIDTH * own / cutoff)
    count = -(-new * len(samples) // own)
    phases = np.arange(new)
    starts = phases * own // new - reach
    taps = starts[:, None] + np.arange(2 * reach + 2)
    time = np.clip((taps / own - phases[:, None] / new) * cutoff, -WIDTH, WIDTH)
    weights = (np.sinc(time) * np.cos(time * np.pi / WIDTH / 2) ** 2 * cutoff / own).astype(np.float32)
    padded = np.pad(samples, (reach, reach + 2 + own))
    windows = np.lib.stride_tricks.sliding_window_view(padded, taps.shape[1])
    resampled = np.empty(count, np.float32)
    for start in range(0, count, LARGEST_CHUNK):
        places = np.arange(start, min(count, start + LARGEST_CHUNK))
        turns, phase = places // new, places % new
        resampled[places] = np.einsum("ij,ij->i", windows[turns * own + starts[phase] + reach], weights[phase])
    return resampled


LARGEST_CHUNK = 2**16  # samples that are made at a time


def audio_seconds(source: Source, folder: Place | None = None) -> float:
    """The length of a recording by its header; infinite if the header does not give it.

    Args:
        source: see `read_audio`.
        folder: what relative paths are relative to.

    Returns:
        Seconds.

    Raises:
        Unreadable: no audio.
    """
    require("soundfile", "av")
    import soundfile

    if isinstance(source, Mapping) and "array" in source:
        samples, rate = _decoded_samples(source, None, None)
        return len(samples) / rate
    opened = open_recording(source, folder)
    links = _links(opened)
    if links:
        return sum(map(audio_seconds, links))
    with open_content(opened) as content, suppress(soundfile.SoundFileError):
        info = soundfile.info(content)
        if 0 < info.frames < _UNKNOWN and (info.format != "MP3" or _is_length(opened, info.duration)):
            return float(info.duration)
    with open_container(opened, "audio") as container:
        return _length(container, chosen_track(container, "audio"))


_UNKNOWN = 2**62
"""libsndfile reports at least this many frames for a FLAC stream whose header does not give their number."""


def _links(opened: bytes | Path) -> list[bytes]:
    """The files that a chained Ogg file joins, of which the decoders read the first; empty for any other."""
    with open_content(opened) as content:
        if content.read(4) != b"OggS":
            return []
        links = list(islice(ogg_links(content), MAX_LINKS + 1))
        if len(links) == 1:
            return []
        if len(links) > MAX_LINKS:
            raise Unreadable(f"more than {MAX_LINKS:,} joined recordings")
        content.seek(0)
        return [content.read(end - start) for start, end in links]


def _joined(links: list[bytes], rate: int, channels: Channels, resampler: Resampler) -> NDArray[np.float32]:
    parts: list[NDArray[np.float32]] = []
    for link in links:
        parts.append(read_audio(link, rate, channels=channels, resampler=resampler))
        if sum(map(len, parts)) > MAX_SECONDS * rate:
            raise Unreadable(f"joined recordings of more than {MAX_SECONDS:.0f} s")
    return np.concatenate(parts)


def _decoded_samples(
    cell: Mapping[str, Any], seconds: float | None, generator: np.random.Generator | None, channels: Channels = "mean"
) -> tuple[NDArray[np.float32], int]:
    """Mono samples and their rate from the cells of datasets and torchcodec, whose channels come first."""
    rate = int(cell.get("sampling_rate") or 0)
    if rate < 1:
        raise Unreadable("neither bytes nor a path, nor samples with their `sampling_rate`")
    array = cell["array"]
    if isinstance(array, Tensor):
        array = array.detach().cpu()
        array = array.float() if array.is_floating_point() else array
    try:
        values = np.asarray(array)
    except (ValueError, TypeError) as error:
        raise Unreadable(f"no samples: {decoder_reason(error)}") from None
    if values.ndim not in (1, 2) or values.dtype.kind not in "iuf":
        raise Unreadable(
            f"an array of {values.dtype} and shape {values.shape}; samples have shape (samples,) or (channels, samples)"
        )
    samples = values.astype(np.float32)
    if values.dtype.kind in "iu" and values.dtype.itemsize < 8:  # full scale is that of the type, as in a file
        middle = 2.0 ** (8 * values.dtype.itemsize - 1)
        samples = samples / np.float32(middle) - np.float32(values.dtype.kind == "u")
    samples = _mono(samples, 0, channels) if samples.ndim > 1 else samples
    start, count = _window(len(samples) / rate, seconds, generator, rate)
    return samples[start:] if count < 0 else samples[start : start + count], rate


def _is_length(opened: bytes | Path, seconds: float) -> bool:
    """Whether an MP3 is as long as libsndfile says: it guesses from the first bit rate, and counts one of joined files."""
    with open_container(opened, "audio") as container:
        return abs(_length(container, chosen_track(container, "audio")) - seconds) < 0.2  # with or without the encoder's delay


def _soundfile_samples(
    opened: bytes | Path, seconds: float | None, generator: np.random.Generator | None, channels: Channels
) -> tuple[NDArray[np.float32], int] | None:
    """Mono samples and their rate; None where libsndfile does not know the format, or its header is wrong."""
    import soundfile

    with open_content(opened) as content, suppress(soundfile.SoundFileError), soundfile.SoundFile(content) as file:
        if file.frames >= _UNKNOWN:
            return None
        if file.format == "MP3" and not _is_length(opened, file.frames / file.samplerate):
            return None
        start, count = _window(file.frames / file.samplerate, seconds, generator, file.samplerate)
        if file.format == "FLAC" and file.seek(max(0, file.frames - 1)) and not len(file.read(1)):
            return None  # it is cut off, or its header is that of a longer file
        if file.seekable():
            file.seek(start)
        samples = file.read(file.frames if count < 0 else count, dtype="float32", always_2d=True)
        if not len(samples) or (start and len(samples) < count):
            return None  # WAV written to a pipe may say that it holds nothing
        return _mono(samples, 1, channels), file.samplerate
    return None


def _av_samples(
    opened: bytes | Path, seconds: float | None, generator: np.random.Generator | None, channels: Channels
) -> tuple[NDArray[np.float32], int]:
    import av

    with open_container(opened, "audio") as container:
        stream = chosen_track(container, "audio")
        rate = int(stream.rate or 0)
        if rate < 1:
            raise Unreadable("an audio track without a sample rate")
        start, count = _window(_length(container, stream), seconds, generator, rate)
        # Decoded from the start, so that a window does not depend on how well a container seeks. Samples before the window
        # are kept, as many as fill it: the recording may be shorter than its header says.
        parts: deque[NDArray[np.float32]] = deque()
        first = have = 0
        resampler, kind = None, None
        for frame in _frames(container, stream):
            if resampler is None or kind != _kind(frame):
                resampler, kind = av.AudioResampler(format="flt", rate=rate), _kind(frame)
            for part in resampler.resample(frame):  # packed: of eight planes and more PyAV counts one too many
                parts.append(_mono(part.to_ndarray().reshape(-1, part.layout.nb_channels), 1, channels))
                have += len(parts[-1])
            while count >= 0 and parts and first + len(parts[0]) <= min(start, have - count):
                first += len(parts.popleft())
            if count >= 0 and have >= start + count and container.format.name != "flac":  # the length of such FLAC is wrong
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


def _mono(samples: NDArray[Any], axis: int, channels: Channels) -> NDArray[np.float32]:
    """One channel of those along an axis."""
    if channels == "left":
        left: NDArray[np.float32] = samples.take(0, axis)
        return left
    with np.errstate(invalid="ignore", over="ignore"):  # values that are not finite are refused later
        mean: NDArray[np.float32] = samples.mean(axis)
    return mean


def _length(container: Any, stream: Any) -> float:
    """Seconds by the header, for MP3 by all packets; infinite if unknown."""
    import av

    if _is_mp3(container):
        ticks = sum(packet.duration or 0 for packet in until_end(container.demux(stream)))
        container.seek(0)
        return float(ticks * stream.time_base)
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else math.inf


def _is_mp3(container: Any) -> bool:
    return bool(container.format.name == "mp3")


def _frames(container: Any, stream: Any) -> Iterator[Any]:
    """Decoded frames; data between joined MP3s is skipped, as FFmpeg's own programs do."""
    import av

    for packet in until_end(container.demux(stream)):
        try:
            yield from packet.decode()
        except av.InvalidDataError:
            if not _is_mp3(container):
                raise


def _window(length: float, seconds: float | None, generator: np.random.Generator | None, rate: int) -> tuple[int, int]:
    """First sample and number of samples of the window; −1 for all."""
    if seconds is None:
        if length > MAX_SECONDS and math.isfinite(length):
            raise Unreadable(f"{length:.0f} s, more than {MAX_SECONDS:.0f}; take a window with `seconds`")
        return 0, -1
    spare = length - seconds
    start = generator.uniform(0, spare) if generator is not None and 0 < spare < math.inf else 0.0
    return int(start * rate), math.ceil(seconds * rate)
