"""Readers: from the cells of one column to the tensors that its tower takes; without weights, in any process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch.utils.data import default_collate

from gramian.data.media import Unreadable, audio_seconds, read_audio, read_image, read_text, read_video
from gramian.errors import check_choice

__all__ = ["KINDS", "CustomReader", "FeatureReader", "Kind", "Media", "Reader"]


Kind: TypeAlias = Literal["text", "image", "audio", "video"]


KINDS: tuple[Kind, ...] = ("text", "image", "audio", "video")
"""What `Media` decodes."""


SHORTEST = 0.025  # seconds of audio: one frame of what spectra and convolutions are taken over


class Reader:
    """From cells to a tower's inputs. It holds no weights and can be pickled, for it works in the loading processes."""

    def read(self, cell: Any, *, folder: Path | None = None, generator: np.random.Generator | None = None) -> Any:
        """One cell, decoded: the cell itself unless a class says otherwise.

        Args:
            cell: what the table holds; never an empty one.
            folder: what relative paths are relative to.
            generator: for what is drawn in training: the window of a recording, the frames of a video. Without one the
                same cell is always read the same way.

        Raises:
            Unreadable: there is nothing in it to encode.
        """
        del folder, generator
        return cell

    def collate(self, cells: list[Any]) -> Any:
        """The tower's input for decoded cells, at least one: tensors, or a mapping of them. By default torch's own."""
        return default_collate(cells)

    def cut(self, cell: Any, decoded: Any, *, folder: Path | None = None) -> str | None:
        """What of a cell the tower will not see, in words; None if it sees all."""
        del cell, decoded, folder
        return None


class FeatureReader(Reader):
    """Vectors of features, stacked."""

    def collate(self, cells: list[Any]) -> Any:
        """(n, width) float32."""
        return torch.stack([torch.as_tensor(cell, dtype=torch.float32) for cell in cells])


class Media(Reader):
    """Decodes a kind of media; classes derived from it collate what they want of it.

    Args:
        kind: "text", "image", "audio" or "video".
        rate: of audio, in hertz.
        seconds: longest window of audio; all of it by default.
        frames: of a video.
    """

    def __init__(self, kind: Kind, *, rate: int = 16_000, seconds: float | None = None, frames: int = 8) -> None:
        self.kind = check_choice("kind", kind, KINDS)
        self.rate, self.seconds, self.frames = rate, seconds, frames

    def read(self, cell: Any, *, folder: Path | None = None, generator: np.random.Generator | None = None) -> Any:
        """A str, a Pillow image in RGB, (samples,) float32 or (frames, height, width, 3) uint8.

        Of a list of texts, as several captions are, a generator draws one; without it the first counts. Pillow images and
        arrays that are decoded already pass through.
        """
        if self.kind == "text":
            if isinstance(cell, list | tuple):
                texts = [text for text in cell if text]
                cell = texts[0 if generator is None else int(generator.integers(len(texts)))] if texts else ""
            return read_text(cell)
        if self.kind == "image":
            return cell.convert("RGB") if hasattr(cell, "convert") else read_image(cell, folder)
        if isinstance(cell, np.ndarray):
            if not np.isfinite(cell).all():
                raise Unreadable("values that are not finite")
            return self._long_enough(cell)
        if isinstance(cell, Mapping) and "array" in cell:
            raise Unreadable("decoded audio without a promise of its rate; give the file, or its bytes")
        if self.kind == "audio":
            return self._long_enough(read_audio(cell, self.rate, seconds=self.seconds, generator=generator, folder=folder))
        return read_video(cell, self.frames, generator=generator, folder=folder)

    def _long_enough(self, decoded: Any) -> Any:
        if self.kind == "audio" and len(decoded) < self.rate * SHORTEST:
            raise Unreadable(f"{len(decoded)} samples: shorter than {1000 * SHORTEST:.0f} ms")
        return decoded

    def cut(self, cell: Any, decoded: Any, *, folder: Path | None = None) -> str | None:
        """What of a recording lies outside of the window."""
        if self.kind != "audio" or self.seconds is None or isinstance(cell, np.ndarray):
            return None
        if len(decoded) < round(self.seconds * self.rate):
            return None
        length = audio_seconds(cell, folder)
        return f"{length:.1f} s cut to {self.seconds:g}" if length > self.seconds else None


class CustomReader(Reader):
    """Functions of the user's own; they are told apart from reading errors by `Unreadable` and ValueError."""

    def __init__(self, read: Callable[[Any], Any] | None, collate: Callable[[list[Any]], Any] | None) -> None:
        self._read, self._collate = read, collate

    def read(self, cell: Any, *, folder: Path | None = None, generator: np.random.Generator | None = None) -> Any:
        """What the user's function makes of a cell; without one a list becomes a float32 tensor."""
        del folder, generator
        try:
            if self._read is not None:
                return self._read(cell)
            return torch.as_tensor(cell, dtype=torch.float32) if isinstance(cell, list | np.ndarray) else cell
        except (ValueError, TypeError) as error:
            raise Unreadable(str(error)) from None

    def collate(self, cells: list[Any]) -> Any:
        """What the user's function makes of them; torch's own without one."""
        return default_collate(cells) if self._collate is None else self._collate(cells)
