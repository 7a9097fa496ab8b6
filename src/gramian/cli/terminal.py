"""Output of the commands: the console, one line for an error, warnings about unreadable cells."""

from __future__ import annotations

import logging
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from rich.console import Console
from rich.logging import RichHandler
from rich.text import Text

from gramian.data.cells import Broken, summary
from gramian.distributed import is_main_process
from gramian.sheets import visible

__all__ = ["console_of", "fail", "log_to_stderr", "stoppable", "warn_unreadable"]

logger: logging.Logger = logging.getLogger("gramian")


class _Terminal(Console):
    """Prints strings as they are: names and paths are the user's, and hold no markup."""

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich does, but text in whole lines: a path can be copied."""
        super().print(*objects, **{"soft_wrap": all(isinstance(each, str) for each in objects)} | options)

    def render_str(self, text: str, **options: Any) -> Text:
        """The text, its control characters shown."""
        del options
        return Text(visible(text))


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        label = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        return label + visible(super().format(record))


def log_to_stderr() -> None:
    """Log warnings of every package, and all messages of gramian, to stderr, unless the process has handlers already."""
    console = _console(stderr=True)
    handler: logging.Handler = logging.StreamHandler()  # whole lines, to be searched
    if console.is_terminal:
        handler = RichHandler(console=console, show_time=False, show_path=False, show_level=False)
    handler.setFormatter(_Formatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logger.setLevel(logging.INFO)


def console_of() -> Console:
    """The terminal, or a page wide enough not to break tables where the output is piped."""
    return _console(quiet=not is_main_process())


def _console(**options: Any) -> Console:
    console = _Terminal(**options)
    return console if console.is_terminal else _Terminal(**options, width=160)


def fail(message: str, code: int = 2) -> int:
    """Report an error in one line on stderr; return the exit code."""
    line = re.sub(r"(\S{80})\S{80,}(\S{40})", r"\1…\2", " ".join(message.split()))  # a path may be of any length
    print("gramian: " + visible(line), file=sys.stderr)
    return code


def warn_unreadable(broken: Sequence[Broken]) -> None:
    """Warn once about the cells that could not be read."""
    if broken and is_main_process():
        cells = "1 cell could not be read and is" if len(broken) == 1 else f"{len(broken)} cells could not be read and are"
        logger.warning("%s empty (%s)", cells, summary(broken))


@contextmanager
def stoppable() -> Iterator[None]:
    """Within the context SIGINT and SIGTERM raise `KeyboardInterrupt` with their number; a second one ends the process.

    Raises:
        KeyboardInterrupt: as well where an extension took the first one for an error of its own.
    """
    heard: list[int] = []

    def stop(number: int, _: object) -> NoReturn:
        heard.append(number)
        for other in before:
            signal.signal(other, signal.SIG_DFL)
        raise KeyboardInterrupt(number)

    main = threading.current_thread() is threading.main_thread()
    numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in numbers} if main else {}
    try:
        yield
    except Exception as error:
        if heard:
            raise KeyboardInterrupt(heard[0]) from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
