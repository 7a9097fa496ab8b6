"""`gramian train`."""

from __future__ import annotations

from typing import Any

from gramian.cli.terminal import console_of
from gramian.sheets import unreadable
from gramian.training import train

__all__ = ["train_command"]


def train_command(**options: Any) -> None:
    """Call `gramian.training.train` with these options and print the result."""
    run = train(**options)
    console = console_of()
    best = f"validation MRR {100 * run.history.best:.1f} %, " if run.history.best is not None else ""
    console.print(f"{best}{run.history.chosen}")
    broken = list(run.history.broken)
    if run.report is not None:
        console.print(run.report.sheets()[0].rich())
        broken += run.report.broken
    if broken:
        console.print(unreadable(broken).rich())
    console.print("wrote " + " and ".join(map(str, run.written)))
