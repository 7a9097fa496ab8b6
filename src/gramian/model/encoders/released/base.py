"""What the released towers share: weights from a checkpoint of several towers, or from a folder of `save_pretrained`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gramian.errors import InputError, first_line, listing, require
from gramian.model.encoders.base import Encoder, fingerprint
from gramian.model.encoders.folders import folder_of, loading
from gramian.model.encoders.released.checkpoint import Checkpoint, open_checkpoint
from gramian.model.encoders.released.keys import report_of, weights_of

__all__ = ["ReleasedTower", "fill"]

WEIGHTS = "model.safetensors"


class ReleasedTower(Encoder):
    """A tower of a release: read from its checkpoint, or from the folder that `save_pretrained` wrote.

    Attributes:
        part: of the keys.
        tokens_of_part: tokens of one frame, slice or text.
    """

    part: str
    tokens_of_part: int = 1

    _by_value = True

    def _find(self, model: Any, revision: str | None, local_files_only: bool) -> tuple[str, Any]:
        require("transformers")
        if isinstance(model, str | Path) and (Path(model) / WEIGHTS).is_file():
            folder = folder_of(str(model), revision, local_files_only)
            return str(folder), folder
        checkpoint = open_checkpoint(model, revision=revision, local_files_only=local_files_only)
        return checkpoint.source, checkpoint

    def _open(self, folder: Any) -> None:
        if isinstance(folder, Checkpoint):
            report_of(folder.source, folder.tensors, [self.part]).check()
            weights = weights_of(folder.tensors, self.part)
        else:
            try:
                weights = load_file(folder / WEIGHTS)
            except (SafetensorError, OSError) as error:
                raise InputError(f"the weights in {str(folder)!r} are damaged ({first_line(error):.100}).") from None
        with loading(f"the weights of {type(self).__name__} in {self.source!r}"), torch.device("meta"):
            self.model: Any = self._build({name: tuple(value.shape) for name, value in weights.items()})
        fill(self.model, weights, self.source)
        self._prepare(folder)
        self._read()

    @abstractmethod
    def _build(self, shapes: Mapping[str, tuple[int, ...]]) -> nn.Module:
        """The module whose weights have these shapes, without memory."""

    def _prepare(self, folder: Any) -> None:
        """Read what else the reader needs from the folder of a saved Aligner, or beside a Checkpoint."""

    @abstractmethod
    def _read(self) -> None:
        """Set `reader` and `tokens_of_part`."""

    def _fingerprint(self, model: nn.Module) -> str:
        return fingerprint(model, spread=False)

    def _write_files(self, model: Any, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / WEIGHTS, {"format": "pt"})


def fill(module: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Give a module without memory its weights, which are not copied.

    Args:
        module: on the device "meta".
        weights: by the module's own names.
        source: where they are from.

    Raises:
        InputError: weights that are missing, unknown, or of another shape.
    """
    own = module.state_dict()
    wrong = sorted(own.keys() ^ weights.keys())
    wrong += sorted(name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape)
    wrong += sorted(name for name, value in weights.items() if not value.numel())
    if wrong:
        raise InputError(f"{source!r} has {len(wrong)} weights that do not fit in name or shape: {listing(wrong)}.")
    module.load_state_dict(dict(weights), assign=True)
