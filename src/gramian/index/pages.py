"""Pages of a mapped file: what a process has read of it stays resident until the process gives it back.

The pages stay in the system's cache, so that reading them again loads nothing, but maps them again: a scan takes up to a half
longer. Otherwise an index of 6 GB is 6 GB of the process's resident memory, which whoever limits a container sees.
"""

from __future__ import annotations

import ctypes
import mmap
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

__all__ = ["Pages", "pages_of"]


class Pages(NamedTuple):
    """The addresses at which a file is mapped."""

    start: int
    stop: int

    def give_back(self) -> None:
        """Let go of all of them. What was read there can be read again; only what was written, which nothing is, is lost."""
        _madvise()(ctypes.c_void_p(self.start), ctypes.c_size_t(self.stop - self.start), mmap.MADV_DONTNEED)


def pages_of(path: Path, tensor: Tensor) -> Pages | None:
    """Where the file is mapped that a tensor is a part of.

    Args:
        path: of the file.
        tensor: read from it.

    Returns:
        The addresses; None where the system does not tell, or where the tensor is a copy, which must not be given back.
    """
    address = tensor.data_ptr()
    try:
        name, inode = str(path.resolve()), str(path.stat().st_ino)
        for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
            place, *about = line.split(maxsplit=5)
            start, stop = (int(part, 16) for part in place.split("-"))
            if start <= address and address + tensor.nbytes <= stop:
                # In a container the number may be that of the file below.
                return Pages(start, stop) if about[3] == inode or about[4:] == [name] else None
    except (OSError, ValueError):
        pass
    return None


@cache
def _madvise() -> Any:
    return ctypes.CDLL(None).madvise
