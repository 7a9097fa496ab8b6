"""How the released GRAM, PMRL and VAST models read media, and their settings per data set; no default elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from gramian.data.audio import Channels, audio_seconds, read_audio
from gramian.data.content import Place, Unreadable
from gramian.data.media import as_frames, as_recording, long_enough
from gramian.data.readers import Media
from gramian.data.video import Colours, read_frames
from gramian.errors import InputError, check_choice, check_number, require

__all__ = [
    "RELEASES",
    "TASKS",
    "FilterbankReader",
    "FrameReader",
    "Release",
    "Resize",
    "Task",
    "TaskName",
    "filterbank",
    "middles",
    "released_pixels",
    "task_settings",
]

Release: TypeAlias = Literal["gram", "pmrl", "vast"]
RELEASES: tuple[Release, ...] = ("gram", "pmrl", "vast")

Resize: TypeAlias = Literal["squash", "crop"]

TaskName: TypeAlias = Literal["msrvtt", "didemo", "activitynet", "vatex", "audiocaps", "vggsound", "youcook2", "clotho"]

MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's pixels

RATE, BANDS, SLICE = 16_000, 64, 1024  # hertz, bands of the filterbank, frames of 10 ms of a slice
WINDOW, HOP = 400, 160  # samples of a frame, and from one to the next
FULL_SCALE = 2.0**15  # 16-bit samples, which the mean and the deviation are of
ENERGY_MEAN, ENERGY_DEVIATION = 15.41663, 6.55582


@dataclass(frozen=True)
class Task:
    """How the authors read a data set.

    Attributes:
        name: of the data set.
        modalities: of a query and of a context, in the released order; "text" first.
        frames: of a video in evaluation.
        train_frames: of a video in training.
        slices: of a recording.
        resize: of frames.
        caption_tokens: that a text is cut to.
        subtitle_tokens: that a subtitle is cut to.
        colours: of frames; see `gramian.data.video.Colours`.
        channels: of recordings; see `gramian.data.audio.Channels`.
        missing_audio: what an item without a recording is given: nothing, or a spectrogram of zeros.
        stage: the first stage of retrieval: the volume, or the fused head.
        rerank: candidates that are re-ranked.

    Raises:
        InputError: numbers below 1, or other choices.
    """

    name: str
    modalities: tuple[str, ...]
    frames: int = 8
    train_frames: int = 8
    slices: int = 1
    resize: Resize = "squash"
    caption_tokens: int = 40
    subtitle_tokens: int = 70
    colours: Colours = "bt601"
    channels: Channels = "mean"
    missing_audio: Literal["missing", "zeros"] = "missing"
    stage: Literal["volume", "fused"] = "volume"
    rerank: int = 50

    def __post_init__(self) -> None:
        for name in ("frames", "train_frames", "slices", "caption_tokens", "subtitle_tokens", "rerank"):
            check_number(name, getattr(self, name), "[1, 4096]", integer=True)
        if not self.modalities or self.modalities[0] != "text":
            raise InputError(f"`modalities` must begin with text; got {', '.join(self.modalities) or 'none'}.")
        for modality in self.modalities:
            check_choice("modalities", modality, ("text", "video", "audio", "subtitle", "depth"))
        choices = {"resize": RESIZES, "colours": COLOURS, "channels": CHANNELS}
        choices |= {"missing_audio": ("missing", "zeros"), "stage": ("volume", "fused")}
        for option, values in choices.items():
            check_choice(option, getattr(self, option), values)


RESIZES, COLOURS, CHANNELS = ("squash", "crop"), ("file", "bt601"), ("mean", "left")

_TVA, _TVAS = ("text", "video", "audio"), ("text", "video", "audio", "subtitle")

TASKS: Mapping[TaskName, Task] = {
    "msrvtt": Task("msrvtt", _TVAS, train_frames=4, resize="crop"),
    "didemo": Task("didemo", _TVA, slices=2, caption_tokens=70),
    "activitynet": Task("activitynet", _TVA, slices=2, caption_tokens=70),
    "vatex": Task("vatex", _TVAS),
    "audiocaps": Task("audiocaps", _TVA),
    "vggsound": Task("vggsound", _TVA),  # without settings of its own; as the other set of sounds
    "youcook2": Task("youcook2", _TVAS),
    "clotho": Task("clotho", ("text", "audio"), slices=3),
}
"""Settings of GRAM per data set; those of the other releases by `task_settings`.

Source: the configuration files of GRAM's and PMRL's repositories."""


def task_settings(task: TaskName | Task, release: Release = "gram") -> Task:
    """How a release reads a data set.

    Args:
        task: its name; a `Task` is returned as it is.
        release: "gram"; "pmrl" and "vast" take colours by the file and the left channel, and find first by the fused head;
            PMRL's zero-shot figures have captions of 40 tokens, and 16 frames of VATEX.

    Returns:
        The settings.

    Raises:
        InputError: an unknown task or release.
    """
    check_choice("release", release, RELEASES)
    if isinstance(task, Task):
        return task
    settings = TASKS[check_choice("task", task, TASKS)]
    if release == "gram":
        return settings
    settings = replace(settings, colours="file", channels="left", stage="fused" if "video" in settings.modalities else "volume")
    if release == "pmrl":
        settings = replace(settings, caption_tokens=40, frames=16 if task == "vatex" else 8)
    return settings


def middles(count: int, parts: int, generator: np.random.Generator | None = None) -> list[int]:
    """One number from each of `parts` nearly equal parts of 0 … count − 1, the earlier parts being the longer ones.

    Args:
        count: how many numbers; of fewer than `parts` the last is taken again.
        parts: how many are wanted.
        generator: draws from each part; without one the element ⌈length/2⌉ − 1 is taken.

    Returns:
        The numbers, in order.

    >>> middles(10, 4), middles(2, 4)
    ([1, 4, 6, 8], [0, 1, 1, 1])
    """
    length, longer = divmod(max(count, parts), parts)
    numbers, start = [], 0
    for part in range(parts):
        size = length + (part < longer)
        numbers.append(start + ((size + 1) // 2 - 1 if generator is None else int(generator.integers(size))))
        start += size
    return [min(number, count - 1) for number in numbers]


def released_pixels(frames: NDArray[np.uint8], size: int = 224, resize: Resize = "squash") -> Tensor:
    """Frames as the released vision tower takes them: bilinear without antialiasing, normalised as CLIP's pixels.

    Args:
        frames: (k, height, width, 3) uint8.
        size: of a side.
        resize: "squash" both sides to it; or scale the shorter one to it and "crop" the middle.

    Returns:
        (k, 3, size, size) float32.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).double() / 255
    height, width = pixels.shape[2:]
    if resize == "squash":
        target = (size, size)
    elif height <= width:
        target = (size, int(size * width / height))
    else:
        target = (int(size * height / width), size)
    if resize == "crop":  # only what the crop will keep, so that a strip of pixels cannot grow without bound
        check_aspect(height, width)
    pixels = F.interpolate(pixels, target, mode="bilinear", align_corners=False, antialias=False)
    top, left = (round((side - size) / 2) for side in target)
    pixels = pixels[:, :, top : top + size, left : left + size]
    mean, deviation = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (MEAN, DEVIATION))
    return ((pixels - mean) / deviation).float()


def check_aspect(height: int, width: int) -> None:
    """Refuse frames of a shape that grows without bound once the shorter side is scaled.

    Raises:
        Unreadable: one side is more than 32 times the other.
    """
    if max(height, width) > 32 * min(height, width):
        raise Unreadable(f"frames of {width} × {height} pixels; one side may be at most 32 times the other")


class FrameReader(Media):
    """Frames of a video as the releases read them, by their numbers.

    Args:
        frames: how many: the middle one of as many equal parts.
        train_frames: how many with a generator, which draws one of each part; as many by default.
        size: of a side.
        resize: see `released_pixels`.
        colours: see `read_frames`.

    Raises:
        InputError: a number below 1, another choice.
    """

    def __init__(
        self,
        frames: int = 8,
        *,
        train_frames: int | None = None,
        size: int = 224,
        resize: Resize = "squash",
        colours: Colours = "bt601",
    ) -> None:
        super().__init__("video", frames=frames)
        self.train_frames: int = check_number("train_frames", train_frames, "[1, 4096]", integer=True, optional=True) or frames
        self.size: int = check_number("size", size, "[1, 4096]", integer=True)
        self.resize: Resize = check_choice("resize", resize, RESIZES)
        self.colours: Colours = check_choice("colours", colours, COLOURS)

    def read(self, cell: Any, *, folder: Place | None = None, generator: np.random.Generator | None = None) -> Tensor:
        """(frames, 3, size, size) float32, of a file or of decoded frames."""

        def choose(count: int) -> list[int]:
            return middles(count, self.sampling.frames if generator is None else self.train_frames, generator)

        if isinstance(cell, np.ndarray | Tensor):
            frames = as_frames(cell)
            frames = frames[choose(len(frames))]
        else:
            frames = read_frames(cell, choose, colours=self.colours, folder=folder)
        return released_pixels(frames, self.size, self.resize)

    def blank(self) -> Tensor:
        """A white video."""
        return released_pixels(super().blank(), self.size, self.resize)


def filterbank(samples: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Kaldi's log-mel energies of 16 kHz samples, as BEATs was trained on.

    Frames of 25 ms every 10 ms; of each its mean subtracted, pre-emphasis 0.97, Povey's window, 512-point power spectrum, 64
    triangles between 20 Hz and 8 kHz, even in mel and in shape, natural logarithm.

    Args:
        samples: (n,) between −1 and 1, at least 400.

    Returns:
        (1 + ⌊(n − 400) / 160⌋, 64).

    Raises:
        InputError: transformers is not installed.
    """
    require("transformers")
    from transformers.audio_utils import spectrogram, window_function

    energies: NDArray[np.float32] = spectrogram(
        np.asarray(samples) * FULL_SCALE,
        window_function(WINDOW, "povey", periodic=False),
        frame_length=WINDOW,
        hop_length=HOP,
        fft_length=512,
        power=2.0,
        center=False,
        preemphasis=0.97,
        mel_filters=_triangles(),
        log_mel="log",
        mel_floor=float(np.finfo(np.float32).eps),
        remove_dc_offset=True,
    )
    return np.ascontiguousarray(energies.T, dtype=np.float32)


@cache
def _triangles() -> NDArray[np.float64]:
    """(257, 64) weights of the powers in each band."""
    from transformers.audio_utils import mel_filter_bank

    options: dict[str, Any] = {"norm": None, "mel_scale": "kaldi", "triangularize_in_mel_space": True}
    triangles: NDArray[np.float64] = mel_filter_bank(257, BANDS, 20, RATE / 2, RATE, **options)
    return triangles


class FilterbankReader(Media):
    """Slices of a recording's filterbank as the releases read them.

    Energies are normalised, then padded with at least one frame of zeros to whole slices of 10.24 s.

    Args:
        slices: how many: the middle one of as many equal parts, or with a generator any of each.
        channels: "mean" as in GRAM; "left" as in PMRL and VAST.
        missing: "zeros": an empty cell gives zeros, as in the release; "missing": the item has no audio.

    Attributes:
        shape: frames and bands of a slice.

    Raises:
        InputError: a number below 1, another choice.
    """

    shape: tuple[int, int] = (SLICE, BANDS)

    def __init__(
        self, slices: int = 1, *, channels: Channels = "mean", missing: Literal["missing", "zeros"] = "missing"
    ) -> None:
        super().__init__("audio", rate=RATE)
        self.slices: int = check_number("slices", slices, "[1, 4096]", integer=True)
        self.channels: Channels = check_choice("channels", channels, CHANNELS)
        self.fills: bool = check_choice("missing", missing, ("missing", "zeros")) == "zeros"

    def read(self, cell: Any, *, folder: Place | None = None, generator: np.random.Generator | None = None) -> Tensor:
        """(slices, 1024, 64) float32."""
        slices = torch.zeros(self.slices, *self.shape)
        if cell is None:
            return slices
        recording = as_recording(cell, RATE)
        samples = long_enough(read_audio(recording, RATE, folder=folder, channels=self.channels, resampler="sinc"), RATE)
        frames = 1 + (len(samples) - WINDOW) // HOP
        padded = max(self.slices * SLICE, (frames // SLICE + 1) * SLICE)
        for i, number in enumerate(middles(padded // SLICE, self.slices, generator)):
            # A frame depends on its own samples alone, so the other slices need no spectrum.
            own = samples[number * SLICE * HOP : (min(frames, (number + 1) * SLICE) - 1) * HOP + WINDOW]
            if number * SLICE < frames:
                energies = (filterbank(own).astype(np.float64) - ENERGY_MEAN) / (2 * ENERGY_DEVIATION)
                slices[i, : len(energies)] = torch.from_numpy(energies)
        return slices

    def blank(self) -> Tensor:
        """Zeros."""
        return torch.zeros(self.slices, *self.shape)

    def cut(self, cell: Any, decoded: Any, *, folder: Place | None = None) -> str | None:
        """How much of a recording lies outside the slices."""
        del decoded
        if cell is None:
            return None
        length, seen = audio_seconds(as_recording(cell, RATE), folder), self.slices * SLICE * HOP / RATE
        return f"{length:.1f} s cut to {seen:g}" if math.isfinite(length) and length > seen else None
