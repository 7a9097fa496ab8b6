"""The kinds of media in one table: how each is read, what a blank one is, and what other libraries call it.

A new kind takes a decoder of its own beside `image`, `audio` and `video`, and an entry in `MEDIA`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gramian.data.audio import audio_seconds, read_audio
from gramian.data.content import Folder, Place, Source, Unreadable, open_source
from gramian.data.image import read_image
from gramian.data.video import read_video
from gramian.errors import check_number, require

__all__ = [
    "MEDIA",
    "Folder",
    "Kind",
    "Medium",
    "Place",
    "Sampling",
    "Source",
    "Unreadable",
    "as_frames",
    "as_recording",
    "audio_seconds",
    "long_enough",
    "open_source",
    "read_audio",
    "read_image",
    "read_text",
    "read_video",
]

Kind: TypeAlias = Literal["text", "image", "audio", "video"]

SHORTEST = 0.025  # seconds of audio: one analysis frame of spectrograms and convolutions

LARGEST_FRAMES = 2**12


@dataclass(frozen=True)
class Sampling:
    """How much of a recording or a video is read.

    Attributes:
        rate: of audio, in hertz.
        seconds: longest window of audio; all of it by default.
        frames: of a video.

    Raises:
        InputError: a rate or a number of frames below 1, or a window in which nothing can be heard.
    """

    rate: int = 16_000
    seconds: float | None = None
    frames: int = 8

    def __post_init__(self) -> None:
        check_number("rate", self.rate, "[1, inf)")
        check_number("seconds", self.seconds, f"[{SHORTEST}, inf)", optional=True)
        check_number("frames", self.frames, f"[1, {LARGEST_FRAMES}]", integer=True)


def _nothing_cut(cell: Any, decoded: Any, sampling: Sampling, folder: Place | None) -> str | None:
    """An encoder sees all of it."""
    del cell, decoded, sampling, folder
    return None


@dataclass(frozen=True)
class Medium:
    """What the library knows of one kind of media.

    Attributes:
        read: (cell, sampling, folder of relative paths, generator or None) → the decoded cell; raises `Unreadable`.
        blank: sampling → a decoded cell with nothing to see or hear, to try an encoder on.
        example: how Python code writes a cell of it, for model cards.
        argument: what the processors of transformers call their input of this kind.
        processors: their classes, the first that a model has.
        feature: the feature of Hugging Face datasets that would decode it; empty if it has none.
        endings: of files of this kind in a folder, separated by spaces.
        cut: (cell, decoded cell, sampling, folder) → what an encoder will not see of it, in words, or None.
    """

    read: Callable[[Any, Sampling, Place | None, np.random.Generator | None], Any]
    blank: Callable[[Sampling], Any]
    example: str
    argument: str
    processors: tuple[str, ...]
    feature: str = ""
    endings: str = ""
    cut: Callable[[Any, Any, Sampling, Place | None], str | None] = _nothing_cut


def read_text(source: Any) -> str:
    """A text cell, without the white space around it.

    Args:
        source: a str, or UTF-8 bytes.

    Returns:
        At least one character.

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
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Unreadable("no Unicode text: half of a surrogate pair") from None
    return text


def _text(cell: Any, sampling: Sampling, folder: Place | None, generator: np.random.Generator | None) -> str:
    """From a list of texts, such as several captions, a generator draws one; without it the first is taken."""
    del sampling, folder
    if isinstance(cell, list | tuple):
        texts = [text for text in cell if text]
        cell = texts[0 if generator is None else int(generator.integers(len(texts)))] if texts else ""
    return read_text(cell)


def _image(cell: Any, sampling: Sampling, folder: Place | None, generator: np.random.Generator | None) -> Any:
    del sampling, generator
    return read_image(cell, folder)


def _audio(cell: Any, sampling: Sampling, folder: Place | None, generator: np.random.Generator | None) -> NDArray[np.float32]:
    recording = as_recording(cell, sampling.rate)
    samples = read_audio(recording, sampling.rate, seconds=sampling.seconds, generator=generator, folder=folder)
    return long_enough(samples, sampling.rate)


def long_enough(samples: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """The same samples.

    Raises:
        Unreadable: fewer than one analysis frame.
    """
    if len(samples) < rate * SHORTEST:
        raise Unreadable(f"{len(samples)} samples: shorter than {1000 * SHORTEST:.0f} ms")
    return samples


def as_recording(cell: Any, rate: int) -> Any:
    """What `read_audio` reads of a cell: bare samples are at the encoder's rate already."""
    return {"array": cell, "sampling_rate": rate} if isinstance(cell, np.ndarray | Tensor) else cell


def _video(cell: Any, sampling: Sampling, folder: Place | None, generator: np.random.Generator | None) -> NDArray[Any]:
    if not isinstance(cell, np.ndarray | Tensor):
        return read_video(cell, sampling.frames, generator=generator, folder=folder)
    return as_frames(cell)


def as_frames(cell: NDArray[Any] | Tensor) -> NDArray[np.uint8]:
    """Decoded frames as (frames, height, width, 3) uint8.

    Raises:
        Unreadable: an array of another shape.
    """
    if cell.ndim != 4 or not len(cell):
        raise Unreadable(f"an array of shape {tuple(cell.shape)}; frames have shape (frames, height, width, 1 to 4 channels)")
    if isinstance(cell, np.ndarray) and cell.dtype == np.uint8 and cell.shape[3] == 3:
        return cell
    return np.stack([np.asarray(read_image(frame)) for frame in cell])


def _outside_window(cell: Any, decoded: Any, sampling: Sampling, folder: Place | None) -> str | None:
    if sampling.seconds is None or len(decoded) < round(sampling.seconds * sampling.rate):
        return None
    length = audio_seconds(as_recording(cell, sampling.rate), folder)
    return f"{length:.1f} s cut to {sampling.seconds:g}" if length > sampling.seconds else None


def _white(*shape: int) -> NDArray[np.uint8]:
    return np.full((*shape, 3), 255, np.uint8)


def _blank_image(sampling: Sampling) -> Any:
    del sampling
    require("PIL")
    from PIL import Image

    return Image.fromarray(_white(64, 64))


MEDIA: dict[Kind, Medium] = {
    "text": Medium(
        read=_text,
        blank=lambda _: "a",
        example='["a caption"]',
        argument="text",
        processors=("AutoTokenizer",),
        endings=".txt",
    ),
    "image": Medium(
        read=_image,
        blank=_blank_image,
        example='["picture.jpg"]',
        argument="images",
        processors=("AutoImageProcessor",),
        feature="Image",
        endings=".avif .bmp .gif .jfif .jp2 .jpe .jpeg .jpg .pgm .png .ppm .tif .tiff .webp",
    ),
    "audio": Medium(
        read=_audio,
        blank=lambda sampling: np.random.default_rng(0).normal(size=sampling.rate).astype(np.float32),
        example='["sound.wav"]',
        argument="audio",
        processors=("AutoFeatureExtractor",),
        feature="Audio",
        endings=".aac .aif .aiff .au .flac .m4a .mp3 .oga .ogg .opus .wav .wma",
        cut=_outside_window,
    ),
    "video": Medium(
        read=_video,
        blank=lambda sampling: _white(sampling.frames, 64, 64),
        example='["clip.mp4"]',
        argument="videos",
        processors=("AutoVideoProcessor", "AutoImageProcessor"),
        feature="Video",
        endings=".3g2 .3gp .avi .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .webm .wmv",
    ),
}
"""Kind → its `Medium`."""
