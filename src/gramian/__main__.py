"""`gramian` and `python -m gramian`: the command line."""

import sys


def run() -> None:
    """Run the command line and leave with its exit code."""
    try:
        from gramian.cli import main  # takes seconds, for torch
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(main())


if __name__ == "__main__":
    run()
