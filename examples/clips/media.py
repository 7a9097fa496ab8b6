"""Clips that are drawn and played here: a shape that moves over a dark ground, and the tone that belongs to it."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

SIDE, FRAMES, FPS, RATE = 64, 16, 16, 16_000

COLOURS = {
    "red": (230, 40, 40),
    "green": (40, 200, 60),
    "blue": (50, 80, 240),
    "yellow": (235, 220, 50),
    "purple": (170, 60, 200),
    "white": (240, 240, 240),
}
PITCHES = {"square": 300.0, "circle": 500.0, "triangle": 800.0, "cross": 1300.0, "bar": 2000.0}
"""Shape → hertz."""
STEPS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
RADII = {"small": 7, "large": 13}


class Clip(NamedTuple):
    """What is seen in one clip; its sound tells the shape and the direction."""

    size: str
    colour: str
    shape: str
    direction: str

    @property
    def caption(self) -> str:
        return f"a {self.size} {self.colour} {self.shape} moves {self.direction}"


def everything() -> list[Clip]:
    """All 240 clips, each with a caption of its own."""
    return [Clip(*parts) for parts in itertools.product(RADII, COLOURS, PITCHES, STEPS)]


def draw(clip: Clip, rng: np.random.Generator) -> NDArray[np.uint8]:
    """(FRAMES, SIDE, SIDE, 3): across the middle, give or take, on noise."""
    radius, step = RADII[clip.size], np.array(STEPS[clip.direction])
    middle = SIDE / 2 + rng.uniform(-6, 6, 2)
    frames = rng.integers(0, 40, (FRAMES, SIDE, SIDE, 3)).astype(np.uint8)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for frame, way in zip(frames, np.linspace(-22, 22, FRAMES), strict=True):
        x, y = (np.stack([columns, rows], -1) - (middle + way * step)).transpose(2, 0, 1)
        frame[_inside(clip.shape, x / radius, y / radius)] = COLOURS[clip.colour]
    return frames


def _inside(shape: str, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
    wide, high = abs(x), abs(y)
    inside: NDArray[np.bool_] = {
        "square": (wide < 0.9) & (high < 0.9),
        "circle": x**2 + y**2 < 1,
        "triangle": (high < 1) & (wide < (y + 1) / 2),
        "cross": (np.minimum(wide, high) < 0.3) & (np.maximum(wide, high) < 1),
        "bar": (wide < 1) & (high < 0.35),
    }[shape]
    return inside


def play(clip: Clip, rng: np.random.Generator) -> NDArray[np.float32]:
    """One second: the shape's tone, which rises upwards, falls downwards, fades to the left and swells to the right."""
    way = np.linspace(-1, 1, RATE * FRAMES // FPS)
    across, down = STEPS[clip.direction]
    pitch = PITCHES[clip.shape] * 1.2 ** (-down * way)
    tone = 0.2 * (1 + 0.9 * across * way) * np.sin(2 * np.pi * np.cumsum(pitch) / RATE)
    return (tone + 0.01 * rng.normal(size=len(way))).astype(np.float32)


def write_clip(path: Path, frames: NDArray[np.uint8], samples: NDArray[np.float32] | None) -> None:
    """An MP4 file with MPEG-4 video, and AAC audio where there are samples; the same bytes each time, unlike x264's."""
    with av.open(path, "w") as container:
        video = container.add_stream("mpeg4", rate=FPS, options={"qscale": "2", "flags": "+qscale"})
        video.width, video.height, video.pix_fmt = SIDE, SIDE, "yuv420p"
        audio = None if samples is None else container.add_stream("aac", rate=RATE, layout="mono")
        for frame in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode())
        if audio is not None and samples is not None:
            frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), 0
            container.mux(audio.encode(frame))
            container.mux(audio.encode())


def write_clips(folder: Path, items: int, *, seed: int = 0) -> Path:
    """Write `items` of the clips and a table of them; every sixth is silent. Return the table's path.

    The table's columns are `id`, `video` and `audio` (one and the same file, its path relative to the table), `text`,
    `split` (a fifth of the items to test, a tenth to choose on), and the classes `shape` and `direction`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    clips, rows = everything(), []
    for i, number in enumerate(rng.permutation(len(clips))[:items]):
        clip, silent = clips[number], i % 6 == 5
        name = f"clip-{i:03d}.mp4"
        frames, samples = draw(clip, rng), play(clip, rng)
        write_clip(folder / name, frames, None if silent else samples)
        split = "test" if i < items // 5 else "validation" if i < 3 * items // 10 else "train"
        sound = None if silent else name
        labels = {"shape": clip.shape, "direction": clip.direction}
        rows.append({"id": f"clip-{i:03d}", "video": name, "audio": sound, "text": clip.caption, "split": split} | labels)
    pq.write_table(pa.Table.from_pylist(rows), folder / "clips.parquet")
    return folder / "clips.parquet"
