"""Readers turn the cells of one column into the tensors that its tower takes; they hold no weights and run in any process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

from gramian.data.media import MEDIA, Kind, Place, Sampling, Unreadable
from gramian.errors import InputError, check_choice, first_line, is_exhausted

__all__ = ["CustomReader", "FeatureReader", "Media", "Reader"]


class Reader:
    """Turns cells into a tower's inputs. It holds no weights and can be pickled, because it runs in the loading processes.

    Attributes:
        fills: whether an empty cell is read too, as `None`, and counts; otherwise the item lacks the modality.
    """

    fills = False

    def read(self, cell: Any, *, folder: Place | None = None, generator: np.random.Generator | None = None) -> Any:
        """One cell, decoded: the cell itself unless a class says otherwise.

        Args:
            cell: what the table holds; never an empty one.
            folder: what relative paths are relative to, and where paths may lead: `open_source(cell, folder)` checks.
            generator: for what is drawn in training: the window of a recording, the frames of a video. Without one the
                same cell is always read the same way.

        Returns:
            What `collate` takes.

        Raises:
            Unreadable: the cell holds nothing to encode.
        """
        del folder, generator
        return cell

    def collate(self, cells: list[Any]) -> Any:
        """The tower's input for decoded cells, at least one: tensors, or a mapping of them. By default torch's own.

        Raises:
            ValueError: the cells do not go into one batch.
        """
        return stacked(cells)

    def cut(self, cell: Any, decoded: Any, *, folder: Place | None = None) -> str | None:
        """What the tower will not see of a cell, in words; None if it sees all of it."""
        del cell, decoded, folder
        return None


class FeatureReader(Reader):
    """Vectors of features, stacked."""

    def collate(self, cells: list[Any]) -> Any:
        """(n, width) float32."""
        return torch.stack([torch.as_tensor(cell, dtype=torch.float32) for cell in cells])


class Media(Reader):
    """Decodes one kind of media (`gramian.data.media.MEDIA`); subclasses collate it for their encoder.

    Args:
        kind: "text", "image", "audio" or "video".
        rate: of audio, in hertz.
        seconds: longest window of audio; all of it by default.
        frames: of a video.

    Raises:
        InputError: a `kind` that is none of these; see `Sampling`.
    """

    def __init__(self, kind: Kind, *, rate: int = 16_000, seconds: float | None = None, frames: int = 8) -> None:
        self.kind: Kind = check_choice("kind", kind, MEDIA)
        self.sampling: Sampling = Sampling(rate, seconds, frames)

    def read(self, cell: Any, *, folder: Place | None = None, generator: np.random.Generator | None = None) -> Any:
        """A str, a Pillow image in RGB, (samples,) float32 or (frames, height, width, 3) uint8.

        From a list of texts, such as several captions, a generator draws one; without it the first is taken. Decoded images,
        recordings and videos are read as their files would be: Pillow images, arrays and tensors, samples with their rate or at
        `rate`.
        """
        return MEDIA[self.kind].read(cell, self.sampling, folder, generator)

    def blank(self) -> Any:
        """A decoded cell with nothing to see or hear, to try an encoder on."""
        return MEDIA[self.kind].blank(self.sampling)

    def cut(self, cell: Any, decoded: Any, *, folder: Place | None = None) -> str | None:
        """How much of a recording lies outside the window."""
        return MEDIA[self.kind].cut(cell, decoded, self.sampling, folder)


class CustomReader(Reader):
    """Functions of the user's own. A ValueError says that a cell cannot be read; any other error is a bug in the function."""

    def __init__(self, read: Callable[[Any], Any] | None, collate: Callable[[list[Any]], Any] | None) -> None:
        self._read, self._collate = read, collate

    def read(self, cell: Any, *, folder: Place | None = None, generator: np.random.Generator | None = None) -> Any:
        """The result of the user's function; without one a list becomes a float32 tensor and anything else stays as it is.

        Raises:
            Unreadable: the function raised a ValueError, or a list holds no numbers of one shape.
        """
        del folder, generator
        if self._read is None:
            return _as_tensor(cell) if isinstance(cell, list | np.ndarray) else cell
        try:
            return self._read(cell)
        except InputError:  # of gramian's own functions: an argument is wrong, not the cell
            raise
        except ValueError as error:
            raise Unreadable(str(error)) from None

    def collate(self, cells: list[Any]) -> Any:
        """The result of the user's function; of torch's `default_collate` without one."""
        return stacked(cells) if self._collate is None else self._collate(cells)


def stacked(cells: list[Any]) -> Any:
    """Cells stacked by torch's `default_collate`: tensors of one shape, numbers, or mappings of them.

    Raises:
        ValueError: unequal shapes, or cells that are neither. Memory that runs out is not caught.
    """
    try:
        return default_collate(cells)
    except (RuntimeError, TypeError) as error:
        if is_exhausted(error):
            raise
        raise ValueError(first_line(error)) from error


def _as_tensor(cell: Any) -> torch.Tensor:
    try:
        return torch.as_tensor(cell, dtype=torch.float32)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists, words among the numbers, numbers that are too large
        if is_exhausted(error):
            raise
        raise Unreadable(f"not numbers of one shape: {first_line(error)}") from None
