"""`PeakMemory`: what a block of code needs beyond what was held before it."""

from __future__ import annotations

import ctypes
import ctypes.util
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from gramian.memory import ALLOCATOR

__all__ = ["PeakMemory", "free_bytes"]

STATUS = "/proc/self/status"


class PeakMemory:
    """Measures the peak memory of a `with` block: of a GPU, or of the process on Linux.

    Within another block the outer one misses what came before the inner one's end.

    Args:
        device: on which the block works; the CPU by default.

    Attributes:
        megabytes: beyond what was held before, in 10⁶ bytes, after the block; None where it cannot be read.

    >>> with PeakMemory() as peak:
    ...     _ = torch.ones(1000)
    >>> peak.megabytes is None or peak.megabytes >= 0
    True
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.device: torch.device = device or torch.device("cpu")
        self.megabytes: float | None = None
        self._before: int | None = None

    def __enter__(self) -> Self:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
            return self
        ALLOCATOR.clear()  # what waits for its next use is not needed
        try:
            ctypes.CDLL(ctypes.util.find_library("c")).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")  # Linux: resets the high-water mark
            self._before = _bytes(STATUS, "VmRSS")
        except (AttributeError, OSError):
            self._before = None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._before is None:
            return
        cuda = self.device.type == "cuda"
        peak = torch.cuda.max_memory_allocated(self.device) if cuda else _bytes(STATUS, "VmHWM")
        self.megabytes = max(0, peak - self._before) / 1e6


def free_bytes(device: torch.device) -> int:
    """The memory that is free on a device; 8 GiB where it cannot be read."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        return _bytes("/proc/meminfo", "MemAvailable")
    except OSError:
        return 2**33


def _bytes(path: str, key: str) -> int:
    """An entry in kB of a file below /proc."""
    lines = Path(path).read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))
