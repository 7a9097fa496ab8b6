"""`gramian` and `python -m gramian`: the command line."""

import os
import sys


def run() -> None:
    """Run the command line and leave with its exit code."""
    try:
        from gramian.cli import main  # takes seconds, for torch
    except KeyboardInterrupt:
        sys.exit(130)
    code = main()
    if _among_others():
        # Threads of the process group may still run, and abort a process that takes itself apart around them.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _among_others() -> bool:
    """Whether the process has joined a group of others."""
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized()


if __name__ == "__main__":
    run()
