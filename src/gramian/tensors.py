"""Tensors and a header of plain data in one safetensors file: written whole, read without running anything."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gramian.errors import InputError, first_line
from gramian.files import atomic, parse_json

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["read_tensors", "write_tensors"]


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], kind: str, header: Mapping[str, Any]) -> None:
    """Write them, whole or not at all.

    Args:
        path: of the file.
        tensors: on any device; those that share memory are each written.
        kind: the name and version of what the file holds; `read_tensors` asks for it.
        header: plain data.
    """
    from safetensors.torch import save_file

    seen: set[int] = set()
    own: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        value = tensor.detach().contiguous()
        own[name] = value.clone() if value.untyped_storage().data_ptr() in seen else value
        seen.add(value.untyped_storage().data_ptr())
    with atomic(path) as partial:
        save_file(own, partial, {kind: json.dumps(header, ensure_ascii=False)})  # one entry: the order is ours


def read_tensors(path: str | Path, kind: str, *, device: str = "cpu") -> tuple[dict[str, Tensor], Any]:
    """Read what `write_tensors` wrote, or any safetensors file.

    Args:
        path: of the file.
        kind: of what it should hold.
        device: of the tensors.

    Returns:
        The tensors, in the order of their names, and the header; None where the file is of another kind.

    Raises:
        InputError: no such file, or one that cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device=device) as file:
            text = (file.metadata() or {}).get(kind)
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
        return tensors, None if text is None else parse_json(text)
    except FileNotFoundError:
        raise InputError(f"{str(path)!r} does not exist.") from None
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise InputError(f"{str(path)!r} cannot be read as safetensors ({first_line(error)}).") from None
