"""The environment of a measurement: processor, versions, commit, date."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from gramian import __version__

__all__ = ["environment", "versions"]


def versions() -> dict[str, str]:
    """What a seed's result depends on: releases of gramian and torch, and the kind of machine."""
    return {"gramian": __version__, "torch": torch.__version__, "machine": platform.machine()}


def environment(device: torch.device) -> dict[str, Any]:
    """What to report beside a time or a size: "device", "threads", "torch", "gramian", "commit", "date" (UTC)."""
    return {
        "device": _processor(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "gramian": __version__,
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _commit() -> str:
    """The commit of the source tree; "" outside one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
