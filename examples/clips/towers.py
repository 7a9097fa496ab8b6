"""The towers of the clips: two small networks, trained from scratch.

`train.yaml` names them by import path. A tower has a reader, which decodes in any process and holds no weights, and a module,
which turns what the reader collates into vectors.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from gramian.data.readers import Media
from gramian.model.towers import Tower


class Frames(Media):
    """Frames of one size: (n, 3, frames, side, side) in [0, 1]."""

    def __init__(self, frames: int, side: int) -> None:
        super().__init__("video", frames=frames)
        self.side = side

    def collate(self, cells: list[NDArray[np.uint8]]) -> Tensor:
        return torch.stack([self._small(torch.from_numpy(cell)) for cell in cells])

    def _small(self, video: Tensor) -> Tensor:
        return F.adaptive_avg_pool3d(video.permute(3, 0, 1, 2) / 255, (len(video), self.side, self.side))


class VideoTower(Tower):
    """Convolutions over time and place; what is strongest anywhere in a frame counts, in the mean over the frames.

    Args:
        frames: of a clip.
        side: to which a frame is reduced, in pixels.
        width: of the vectors.
    """

    def __init__(self, frames: int = 8, side: int = 32, width: int = 128) -> None:
        super().__init__()
        self.width = width
        self.reader = Frames(frames, side)
        sizes = [3, 24, 48, width]
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Conv3d(a, b, 3, stride=(1, 2, 2), padding=1), nn.GroupNorm(8, b), nn.GELU())
                for a, b in pairwise(sizes)
            )
        )

    def forward(self, inputs: Tensor) -> Tensor:
        maps: Tensor = self.layers(inputs)
        return maps.amax((3, 4)).mean(2)


class Sound(Media):
    """Samples, (n, longest), with zeros behind the shorter ones."""

    def __init__(self, seconds: float) -> None:
        super().__init__("audio", rate=16_000, seconds=seconds)

    def collate(self, cells: list[NDArray[np.float32]]) -> Tensor:
        return nn.utils.rnn.pad_sequence([torch.from_numpy(cell) for cell in cells], batch_first=True)


class AudioTower(Tower):
    """Convolutions over the time of a log-spectrogram up to 4 kHz; the mean and the maximum over time.

    Args:
        seconds: longest recording.
        width: of the vectors; even.
    """

    window: Tensor

    def __init__(self, seconds: float = 1.0, width: int = 128) -> None:
        super().__init__()
        self.width = width
        self.reader = Sound(seconds)
        self.register_buffer("window", torch.hann_window(512), persistent=False)
        self.layers = nn.Sequential(
            nn.Conv1d(128, 64, 5, stride=2, padding=2), nn.GELU(), nn.Conv1d(64, width // 2, 5, stride=2, padding=2), nn.GELU()
        )

    def forward(self, inputs: Tensor) -> Tensor:
        spectrum = torch.stft(inputs, 512, hop_length=160, window=self.window, return_complex=True)[:, :128]
        maps: Tensor = self.layers(torch.log1p(spectrum.abs()))
        return torch.cat([maps.mean(2), maps.amax(2)], 1)
