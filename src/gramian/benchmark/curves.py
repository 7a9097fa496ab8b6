"""What learning curves say: how much the head and how much the criterion gives, where training overtakes, and the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from gramian.benchmark.families import CLOSED, CLOSED_LINEAR, MLP, REFERENCE, STARTED
from gramian.benchmark.study import Run, difference, recall
from gramian.evaluation.plots import Look, size_curves
from gramian.files import atomic
from gramian.sheets import Sheet

__all__ = ["Curves", "draw_curves", "gains_sheet", "overtaking"]

Curves: TypeAlias = Mapping[int, Mapping[str, Sequence[Run]]]
"""Number of training items → method → its runs."""

GAINS = (
    ("kernel for linear heads, InfoNCE", "InfoNCE, kernel heads", REFERENCE),
    ("kernel for linear heads, MAXVAR", CLOSED, CLOSED_LINEAR),
    ("MAXVAR for InfoNCE, linear heads", CLOSED_LINEAR, REFERENCE),
    ("MAXVAR for InfoNCE, kernel heads", CLOSED, "InfoNCE, kernel heads"),
    ("MAXVAR, kernel heads for InfoNCE, MLP heads", CLOSED, MLP),
    ("InfoNCE from MAXVAR for MAXVAR, kernel heads", STARTED, CLOSED),
)
"""What replaces what: a line, the method, and the one it is compared with."""

MAXVAR, INFONCE, GRAM, PMRL = "#0072B2", "#D55E00", "#009E73", "#CC79A7"  # colours of Okabe and Ito, one per objective
LOOKS = {
    CLOSED: Look(MAXVAR, "o", "-"),
    CLOSED_LINEAR: Look(MAXVAR, "s", "--"),
    "InfoNCE, kernel heads": Look(INFONCE, "o", "-"),
    REFERENCE: Look(INFONCE, "s", "--"),
    MLP: Look(INFONCE, "^", ":"),
    STARTED: Look("#000000", "o", "-"),
    "GRAM, cone, each": Look(GRAM, "s", "--"),
    "GRAM, published": Look(GRAM, "X", ":"),
    "PMRL, signed": Look(PMRL, "s", "--"),
    "PMRL, published": Look(PMRL, "X", ":"),
}
"""A colour for each objective; a marker and a line for each kind of head, or for the formula as published."""


def gains_sheet(name: str, curves: Curves) -> Sheet | None:
    """How much of the gain is the head's and how much the criterion's.

    Args:
        name: of the data set.
        curves: its runs.

    Returns:
        Paired differences by size; None where no two methods of a line were run.
    """
    methods = next(iter(curves.values()))
    rows = [
        (line, *(difference(runs[method], runs[other]).percent() for runs in curves.values()))
        for line, method, other in GAINS
        if method in methods and other in methods
    ]
    note = "Paired differences of R@1 in points, 95 % intervals over items and draws."
    return Sheet(f"{name}: what replaces what", ("gain", *map(str, curves)), tuple(rows), note) if rows else None


def overtaking(name: str, curves: Curves) -> str:
    """From how many items on training by a loss finds more than the closed form with kernel heads.

    Args:
        name: of the data set.
        curves: its runs.

    Returns:
        A sentence; "" without the closed form or a loss.
    """
    sizes = list(curves)
    rivals = [method for method in curves[sizes[0]] if method.startswith("InfoNCE")]
    if CLOSED not in curves[sizes[0]] or not rivals:
        return ""
    said = []
    for method in rivals:
        ahead = {size: difference(runs[method], runs[CLOSED]) for size, runs in curves.items()}
        sure = next((size for i, size in enumerate(sizes) if all(ahead[later].low > 0 for later in sizes[i:])), None)
        last = f"{ahead[sizes[-1]].percent()} at {sizes[-1]:,}"
        said.append(f"{method}, {f'from {sure:,} items on' if sure else f'not by {sizes[-1]:,} items'} ({last})")
    return f"On {name}, training overtakes {CLOSED}: {'; '.join(said)}."


def draw_curves(curves: Mapping[str, Curves], paths: Sequence[Path]) -> list[Path]:
    """Draw R@1 against the number of training items, one panel per data set.

    Args:
        curves: data set → its runs.
        paths: of the pictures, all the same.

    Returns:
        The paths.
    """
    lines = {
        name: {
            method: {size: recall(runs[method]) for size, runs in by_size.items()} for method in next(iter(by_size.values()))
        }
        for name, by_size in curves.items()
    }
    figure = size_curves(lines, LOOKS)
    for path in paths:
        with atomic(path) as partial:
            figure.savefig(partial, dpi=130, format="png", bbox_inches="tight")
    return list(paths)
