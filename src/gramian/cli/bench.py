"""`gramian bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gramian.benchmark import bench
from gramian.cli.terminal import console_of
from gramian.files import claimed

__all__ = ["bench_command"]


def bench_command(output: Path = Path("runs/bench"), **options: Any) -> None:
    """Call `gramian.benchmark.bench` with these options."""
    with claimed(output):
        bench(output, **options, console=console_of())
