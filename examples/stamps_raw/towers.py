"""The frozen encoders of the stamps as towers: their readers decode, and whole batches go through the weights.

What is read, how it is laid out and which weights must be there is `gramian.data.sets`'s.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from gramian.data.media import Unreadable
from gramian.data.readers import Reader
from gramian.data.sets import media
from gramian.data.sets.encoders import EFFICIENTNET, MINILM, WHISPER, frame_count, locate, pool_frames
from gramian.model import SentenceTransformers
from gramian.model.towers import Tower

__all__ = ["DrawingTower", "SpeechTower", "minilm"]

T = TypeVar("T")


def _read(function: Callable[[Path], T], cell: str, folder: Path | None) -> T:
    try:
        return function(Path(cell) if folder is None else folder / cell)
    except media.Unreadable as error:  # the stamps' own, which towers do not know
        raise Unreadable(str(error)) from None


class Drawing(Reader):
    """A PNG or SVG on white, in the range that EfficientNet-Lite reads: (n, 3, 224, 224)."""

    def read(self, cell: Any, *, folder: Path | None = None, generator: np.random.Generator | None = None) -> Tensor:
        del generator
        pixels = np.asarray(media.on_white(_read(media.read_image, cell, folder)), dtype=np.float32)
        return ((torch.from_numpy(pixels) - 127.0) / 128.0).permute(2, 0, 1)


class DrawingTower(Tower):
    """The mean of EfficientNet-Lite0's last feature map."""

    def __init__(self) -> None:
        super().__init__()
        (weights,) = locate(EFFICIENTNET)
        from efficientnet_lite_pytorch import EfficientNet

        self.network = EfficientNet.from_name("efficientnet-lite0")
        self.network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        self.network.requires_grad_(False)
        self.width = 1280
        self.reader = Drawing()

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.network.extract_features(inputs).mean((2, 3))
        return found


class Speech(Reader):
    """Whisper's spectrogram of a recording, padded to 30 s, and how many of its frames are heard."""

    def __init__(self) -> None:
        from transformers import WhisperFeatureExtractor

        self.spectrogram = WhisperFeatureExtractor()  # its defaults are Whisper-base's

    def read(self, cell: Any, *, folder: Path | None = None, generator: np.random.Generator | None = None) -> dict[str, Any]:
        del generator
        clip = _read(media.read_clip, cell, folder)
        mel = self.spectrogram(clip, sampling_rate=media.SAMPLE_RATE, return_tensors="np").input_features[0]
        return {"mel": mel, "frames": frame_count(len(clip))}


class SpeechTower(Tower):
    """Whisper's encoder in CTranslate2, which is no torch module: a tower may run anything.

    Args:
        folder: gets the model in one piece, as CTranslate2 reads it.
        threads: of the CPU.
    """

    def __init__(self, folder: Path, threads: int = 1) -> None:
        super().__init__()
        parts = locate(WHISPER)
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
    (weights,) = locate(MINILM)
    return SentenceTransformers(str(weights.parent), local_files_only=True)
