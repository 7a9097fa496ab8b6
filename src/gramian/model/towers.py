"""Towers: from one modality's cells to one vector an item, and where there are some to its tokens.

A tower has two halves. Its `reader` turns cells into tensors, in any process and without the weights: decoding, tokenising,
resizing. The tower itself, a module, turns those tensors into vectors. Encoders of other libraries are in
`gramian.model.encoders`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from gramian.data.media import Unreadable, audio_seconds, read_audio, read_image, read_text, read_video
from gramian.errors import InputError, check_choice
from gramian.tokens import Tokens

__all__ = ["KINDS", "Custom", "Encoded", "Features", "Kind", "Media", "Reader", "Tower"]

Kind: TypeAlias = Literal["text", "image", "audio", "video"]

KINDS: tuple[Kind, ...] = ("text", "image", "audio", "video")
"""What `Media` decodes."""

SHORTEST = 0.025  # seconds of audio: one frame of what spectra and convolutions are taken over


class Encoded(NamedTuple):
    """What a tower makes of n items.

    Attributes:
        vectors: (n, width).
        tokens: n sequences of width `width`, or None.
    """

    vectors: Tensor
    tokens: Tokens | None = None


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


class Tower(nn.Module):
    """A module from what its reader collates to (n, width) vectors.

    Derive from it for an encoder of your own, or wrap a module in `Custom`.

    Attributes:
        width: of the vectors.
        reader: from cells to inputs.
        learning_rate: peak of the optimiser's rate for this tower; None for the recipe's.
    """

    width: int
    reader: Reader
    learning_rate: float | None = None

    def forward(self, inputs: Any) -> Encoded | Tensor:
        """Vectors (n, width), or `Encoded` with tokens besides."""
        raise NotImplementedError

    def frozen(self) -> bool:
        """Whether no parameter is trained."""
        return not any(parameter.requires_grad for parameter in self.parameters())


class _Rows(Reader):
    def collate(self, cells: list[Any]) -> Any:
        return torch.stack([torch.as_tensor(cell, dtype=torch.float32) for cell in cells])


class Features(Tower):
    """Precomputed features, standardised: each of the `width` entries to mean 0 and deviation 1 over the training rows.

    Without `adapt` the features pass through as they are.

    >>> tower = Features(2)
    >>> tower.adapt(torch.tensor([[0.0, 5.0], [2.0, 5.0]]))
    >>> tower(torch.tensor([[2.0, 5.0]]))
    tensor([[1., 0.]])
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        if width < 1:
            raise InputError(f"`width` must be at least 1; got {width}.")
        self.width = width
        self.reader = _Rows()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))

    @torch.no_grad()
    def adapt(self, values: Tensor) -> None:
        """Take mean and standard deviation from the rows of `values` (n, width); a constant entry keeps deviation 1."""
        values = values.double()
        deviation = values.std(0, correction=0)
        self.mean.copy_(values.mean(0))
        self.deviation.copy_(torch.where(deviation > 1e-6 * values.abs().amax(0).clamp(min=1e-12), deviation, 1))

    def forward(self, values: Tensor) -> Tensor:
        """(n, width) → (n, width), in the type of the tower."""
        if values.ndim != 2 or values.shape[1] != self.width:
            raise InputError(f"features must have shape (n, {self.width}); got {tuple(values.shape)}.")
        return (values.to(self.mean.dtype) - self.mean) / self.deviation


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


class _Given(Reader):
    """Functions of the user's own; they are told apart from reading errors by `Unreadable` and ValueError."""

    def __init__(self, read: Callable[[Any], Any] | None, collate: Callable[[list[Any]], Any] | None) -> None:
        self._read, self._collate = read, collate

    def read(self, cell: Any, *, folder: Path | None = None, generator: np.random.Generator | None = None) -> Any:
        del folder, generator
        try:
            if self._read is not None:
                return self._read(cell)
            return torch.as_tensor(cell, dtype=torch.float32) if isinstance(cell, list | np.ndarray) else cell
        except (ValueError, TypeError) as error:
            raise Unreadable(str(error)) from None

    def collate(self, cells: list[Any]) -> Any:
        return default_collate(cells) if self._collate is None else self._collate(cells)


class Custom(Tower):
    """Any module as a tower, for sensors, tables, graphs: whatever a cell may hold.

    Args:
        module: inputs → (n, width), or `Encoded`. All its parameters are trained; freeze what should not be.
        width: of what it gives.
        read: one cell → what `collate` takes; a ValueError or TypeError marks the cell as unreadable. By default a list
            becomes a float32 tensor and anything else stays as it is.
        collate: n of those → the module's input; torch's `default_collate` by default.
        learning_rate: of this tower; None for the recipe's.

    >>> tower = Custom(nn.Sequential(nn.Flatten(), nn.Linear(6, 4)), width=4)
    >>> cells = [tower.reader.read([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])]
    >>> tower(tower.reader.collate(cells)).shape
    torch.Size([1, 4])
    """

    def __init__(
        self,
        module: nn.Module,
        width: int,
        *,
        read: Callable[[Any], Any] | None = None,
        collate: Callable[[list[Any]], Any] | None = None,
        learning_rate: float | None = None,
    ) -> None:
        super().__init__()
        if width < 1:
            raise InputError(f"`width` must be at least 1; got {width}.")
        self.module = module
        self.width = width
        self.reader = _Given(read, collate)
        self.learning_rate = learning_rate

    def forward(self, inputs: Any) -> Encoded | Tensor:
        """What the module makes of them."""
        found: Encoded | Tensor = self.module(inputs)
        return found
