"""The encoder of the recordings as a tower, which shows that a tower may run anything that gives vectors: here CTranslate2."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gramian.benchmark.frozen import locate
from gramian.data.audio import read_audio
from gramian.data.content import Place, Unreadable
from gramian.data.readers import Reader
from gramian.model.towers import Tower

__all__ = ["SpeechTower", "frame_count", "pool_frames"]

RATE = 16_000  # hertz: Whisper's
WINDOW = 30  # seconds: Whisper's
SAMPLES_PER_FRAME = 320  # a frame of Whisper's encoder is 20 ms: a hop of 160 samples, halved by the second convolution


class Speech(Reader):
    """Whisper's spectrogram of a recording, padded to 30 s, and how many of its frames are heard."""

    def __init__(self) -> None:
        from transformers import WhisperFeatureExtractor

        self.spectrogram = WhisperFeatureExtractor()  # its defaults are Whisper-base's

    def read(self, cell: Any, *, folder: Place | None = None, generator: np.random.Generator | None = None) -> dict[str, Any]:
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
