"""`gramian` and `python -m gramian`: the command line."""

import io
import os
import signal
import sys


def run() -> None:
    """Run the command line and leave with its exit code. It speaks UTF-8, whatever the locale says."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
    before = [signal.signal(number, _leave) for number in numbers]
    from gramian.cli import main  # takes seconds, for torch

    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)
    code = main()
    if _among_others():
        # Threads of the process group may still run, and abort a process that takes itself apart around them.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _leave(number: int, _: object) -> None:
    """Before the command has begun there is nothing to take apart."""
    os.write(2, b"gramian: interrupted.\n" if number == signal.SIGINT else b"gramian: terminated.\n")
    os._exit(128 + number)


def _among_others() -> bool:
    """Whether the process has joined a group of others."""
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized()


if __name__ == "__main__":
    run()
