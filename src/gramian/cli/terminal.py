"""What commands say and where: the console, one line for an error, warnings of unreadable cells."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from gramian.data.cells import Broken, summary
from gramian.distributed import is_main_process
from gramian.errors import InputError

__all__ = ["check_folder", "console_of", "fail", "warn_unreadable"]

logger = logging.getLogger("gramian")


def console_of() -> Console:
    """The terminal, or a page wide enough not to break tables where the output is piped."""
    quiet = not is_main_process()
    console = Console(quiet=quiet)
    return console if console.is_terminal else Console(width=160, quiet=quiet)


def check_folder(output: Path) -> None:
    """Refuse an output folder that cannot be one, before any work is done."""
    for path in (output, *output.parents):
        if path.exists():
            if not path.is_dir():
                raise InputError(f"`output` must be a folder; {str(path)!r} is a file. Name another.")
            break


def fail(message: str, code: int = 2) -> int:
    """Say in one line on stderr what went wrong; return the exit code."""
    print("gramian: " + " ".join(message.split()), file=sys.stderr)
    return code


def warn_unreadable(broken: Sequence[Broken]) -> None:
    """Warn once of the cells that could not be read."""
    if broken and is_main_process():
        logger.warning("%d cells could not be read and are empty (%s)", len(broken), summary(broken))
