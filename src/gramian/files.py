"""Files that are whole or not there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["atomic", "write_text"]


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Give another name to write under, and move what was written to `path` in one step; on an error leave nothing behind.

    Folders are made. The file gets the mode that a plain write would give it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.touch()
    mode = partial.stat().st_mode
    try:
        yield partial
        partial.chmod(mode)  # safetensors writes files that nobody else may read
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> Path:
    """Write `text` to `path` as UTF-8, whole or not at all; return the path."""
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return Path(path)
