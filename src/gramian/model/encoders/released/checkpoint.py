"""Released checkpoints: found in a file, a folder or on the hub, and mapped into memory; tensors alone, never code."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gramian.errors import InputError, check_type, first_line, is_exhausted, listing
from gramian.model.encoders.folders import CONTROL, fetch, is_hub_id
from gramian.model.encoders.released.keys import current_name

__all__ = ["Checkpoint", "open_checkpoint"]

CHOOSE = "Name the file itself (in Python `filename` chooses one)."

_FILES = ("*.pt", "*.pth", "*.bin", "*.safetensors")
_NOT_WEIGHTS = ("*optimizer*", "*scheduler*", "*training_args*", "*rng_state*")
_WRAPPERS = ("model", "state_dict", "module")
"""Names under which some programs put the weights into a file."""


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a release.

    Attributes:
        source: file, folder or hub id.
        tensors: by their current names, on the CPU; still on the disk where the file could be mapped.
    """

    source: str
    tensors: Mapping[str, Tensor]


def open_checkpoint(
    model: str | Path | Checkpoint, *, filename: str | None = None, revision: str | None = None, local_files_only: bool = False
) -> Checkpoint:
    """Open a released checkpoint; the tensors stay on the disk until they are used.

    Args:
        model: a file; a folder with one, or as the authors' programs write it (`ckpt/model_step_N.pt`, or
            `checkpoint-N/pytorch_model.bin`, in shards or whole); else a hub id. One that is open is returned as it is.
        filename: of several files in a folder or on the hub.
        revision: on the hub.
        local_files_only: use the cache alone.

    Returns:
        The checkpoint.

    Raises:
        InputError: no such file, several, one that is cut off, one that is no dict of tensors.
    """
    if isinstance(model, Checkpoint):
        return model
    check_type("model", model, str, Path)
    path = Path(model)
    source = str(path.resolve()) if path.exists() else str(model)
    if not path.exists():
        if any(path.match(pattern) for pattern in _FILES):  # no hub is asked for a file
            raise InputError(f"`model` must be a released checkpoint; there is no file {str(model)!r}.")
        patterns = (filename,) if filename else _one_on_hub(str(model), revision, local_files_only)
        options: dict[str, Any] = {"revision": revision, "local_files_only": local_files_only}
        expected = "`model` must be a released checkpoint: a file, a folder, or a hub id"
        path = fetch(str(model), expected, patterns, ignore_patterns=list(_NOT_WEIGHTS), **options)
    files = _files_in(path, filename, source) if path.is_dir() else [path]
    tensors: dict[str, Tensor] = {}
    for file in files:
        for name, tensor in _read(file):
            tensors[current_name(name)] = tensor
    return Checkpoint(source, tensors)


def _one_on_hub(model: str, revision: str | None, local_files_only: bool) -> tuple[str, ...]:
    """Patterns of the files to fetch; several checkpoints are refused before gigabytes of them arrive."""
    if local_files_only or not is_hub_id(model):
        return _FILES
    try:
        names = [Path(name) for name in HfApi().list_repo_files(model, revision=revision)]
    except Exception:  # of the hub's client or of its HTTP library: what is in the cache will do; or fetching says why not
        return _FILES
    found = [name for name in names if _is_weights(name)]
    if len(found) > 1 and not all(map(_is_shard, found)):
        raise InputError(f"`model` {model!r} holds several checkpoints: {listing(found)}. {CHOOSE}")
    return _FILES


def _is_weights(path: Path) -> bool:
    return any(path.match(pattern) for pattern in _FILES) and not any(path.match(other) for other in _NOT_WEIGHTS)


def _is_shard(path: Path) -> bool:
    return re.search(r"-\d+-of-\d+\.", path.name) is not None


def _files_in(folder: Path, filename: str | None, source: str) -> list[Path]:
    """The file, or the shards, that hold the weights."""
    if filename is not None:
        chosen = folder / filename
        if not chosen.is_file():
            raise InputError(f"`filename` {filename!r} is not in {source!r}; it holds {listing(_names(folder)) or 'none'}.")
        return [chosen]
    files = _weights_in(folder)
    if not files:
        raise InputError(f"`model` {source!r} holds no checkpoint ({', '.join(_FILES)}).")
    shards = {file.parent for file in files}
    is_sharded = all(map(_is_shard, files))
    if len(shards) > 1 or (len(files) > 1 and not is_sharded):
        raise InputError(f"`model` {source!r} holds several checkpoints: {listing(_names(folder))}. {CHOOSE}")
    if is_sharded:
        count = int(re.search(r"-of-(\d+)\.", files[0].name)[1])  # type: ignore[index]  # as just matched
        if len(files) != count:
            raise InputError(f"`model` {source!r} holds {len(files)} of {count} shards. Copy the others as well.")
    return files


def _weights_in(folder: Path) -> list[Path]:
    """The weights of the latest step, as the authors' programs look for them: a Trainer's folder first."""
    for pattern in ("pytorch_model*.bin", "model*.safetensors"):
        for place in (folder, *_by_step(folder, "checkpoint-*")):
            if found := sorted(place.glob(pattern)):
                return found
    for place in (folder / "ckpt", folder):
        if steps := _by_step(place, "model_step_*.pt"):
            return steps[:1]
    return sorted(path for path in folder.rglob("*") if _is_weights(path) and path.is_file())


def _by_step(folder: Path, pattern: str) -> list[Path]:
    """The latest first."""
    steps = [(int(match[0]), path) for path in folder.glob(pattern) if (match := re.search(r"\d+(?=\D*$)", path.name))]
    return [path for _, path in sorted(steps, reverse=True)]


def _names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for pattern in _FILES for path in folder.rglob(pattern))


def _read(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of one file."""
    if path.suffix == ".safetensors":
        try:
            content: Any = load_file(path)
        except (SafetensorError, OSError) as error:
            raise _unread(path, first_line(error)) from None
    else:
        content = _unpickled(path)
    while isinstance(content, Mapping):
        inner = next((content[name] for name in _WRAPPERS if isinstance(content.get(name), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not content:
        raise _unread(path, "it must hold a dict of tensors")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise _unread(path, f"it must hold a dict of tensors; {name!r:.60} is a {type(value).__name__}")
        if CONTROL.search(name):
            raise _unread(path, f"the name {name!r:.60} holds control characters, which a terminal would obey")
        if (
            value.device.type != "cpu"
            or value.layout != torch.strided
            or value.numel() * value.element_size() > value.untyped_storage().nbytes()
        ):
            raise _unread(path, f"{name!r:.60} is larger than what the file holds of it")
        yield name, value.detach()


def _unpickled(path: Path) -> Any:
    """The content of a file of `torch.save`, without running anything that it names."""
    try:
        with path.open("rb") as file:
            if file.read(4) != b"PK\x03\x04":
                raise _unread(path, "it is no file of torch.save, or one of before torch 1.6, which is to be saved again")
            if not zipfile.is_zipfile(file):
                raise _unread(path, "it is cut off; fetch it again")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        names = re.findall(r"GLOBAL ([\w.]+)", str(error))
        raise _unread(path, f"it names {names[0]}, which may run code" if names else first_line(error)[:120]) from None
    except InputError:
        raise
    except Exception as error:  # a file that is cut off or damaged fails in many ways
        if is_exhausted(error):
            raise
        reason = first_line(error)
        if "PytorchStreamReader" in reason:
            reason = f"it is damaged; fetch it again ({reason:.100})"
        raise _unread(path, reason[:160] or type(error).__name__) from None


def _unread(path: Path, reason: str) -> InputError:
    return InputError(f"the checkpoint {str(path)!r} is not read: {reason}.")
