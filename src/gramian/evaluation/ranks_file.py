"""The rank of every query of an evaluation as a table in a file, from which anybody can test again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gramian.errors import InputError, first_line, require
from gramian.evaluation.directions import Direction
from gramian.evaluation.metrics import Ranks
from gramian.files import atomic

__all__ = ["CLASSES", "NAME", "RankedDirection", "Way", "read_ranks", "write_ranks"]

NAME = "ranks.parquet"
CLASSES = "classes.parquet"
"""The rank of each item's own class among the classes, by every method, and that class: a file of the same form."""

LABEL = "label"

_COLUMNS = ("query", "target", "score", "id", "item", "better", "tied", "gallery")


class Way(NamedTuple):
    """What is asked by what, and how: the names of a direction."""

    query: tuple[str, ...]
    target: tuple[str, ...]
    score: str

    @property
    def joint(self) -> bool:
        """Whether a side holds several modalities."""
        return len(self.query) + len(self.target) > 2

    def __str__(self) -> str:
        return f"{'+'.join(self.query)} → {'+'.join(self.target)}" + (
            f" by {self.score}" if self.joint or self.score != "cosine" else ""
        )


@dataclass(frozen=True)
class RankedDirection:
    """One direction: the rank of each query's match. Of a classification: of each item's class.

    Attributes:
        ids: (q,) of the queries.
        items: (q,) what they are about.
        ranks: of their matches.
        gallery: number of candidates.
        labels: (q,) the class that each item is of; None for retrieval.
    """

    ids: NDArray[np.str_]
    items: NDArray[np.str_]
    ranks: Ranks
    gallery: int
    labels: NDArray[np.str_] | None = None


def write_ranks(
    path: str | Path,
    directions: Sequence[Direction],
    ids: Sequence[str],
    items: Sequence[str],
    labels: Sequence[Sequence[str]] | None = None,
) -> Path:
    """Write one row per direction and query: `query`, `target`, `score`, `id`, `item`, `better`, `tied`, `gallery`.

    `better` candidates score higher than the match and `tied` others score the same; sides of several modalities are joined
    by "+". A "+" or backslash in a name has a backslash before it.

    Args:
        path: of the parquet file.
        directions: of one evaluation.
        ids: n names of the rows.
        items: n names of what they are about.
        labels: for each direction the class that each of its queries is of, for a column `label`.

    Returns:
        The path.

    Raises:
        InputError: pyarrow is not installed.
    """
    require("pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    name, item = np.asarray(ids, object), np.asarray(items, object)
    parts = []
    for number, one in enumerate(directions):
        q = len(one.rows)
        words = (_joined(one.query), _joined(one.target), one.score)
        columns = [pa.DictionaryArray.from_arrays(np.zeros(q, np.int32), [word]) for word in words]
        columns += [pa.array(name[one.rows], pa.string()), pa.array(item[one.rows], pa.string())]
        columns += [pa.array(part) for part in (one.ranks.better, one.ranks.tied, np.full(q, one.gallery))]
        columns += [] if labels is None else [pa.array(labels[number], pa.string())]
        parts.append(pa.table(columns, names=[*_COLUMNS, *(() if labels is None else (LABEL,))]))
    with atomic(path) as partial:
        pq.write_table(pa.concat_tables(parts).unify_dictionaries(), partial)
    return Path(path)


def read_ranks(run: str | Path, name: str = NAME) -> dict[Way, RankedDirection]:
    """Read what `write_ranks` wrote.

    Args:
        run: the file, or the folder of an evaluation or training run.
        name: of the file in the folder: `NAME` or `CLASSES`.

    Returns:
        Way → its queries, in the order of the file.

    Raises:
        InputError: no such file, or one that does not hold the ranks of an evaluation.
    """
    require("pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(run) / name if Path(run).is_dir() else Path(run)
    if not path.is_file():
        how = "Evaluate with --output, or train again." if name == NAME else "Evaluate with --classify COLUMN and --output."
        if not Path(run).exists():
            raise InputError(f"`runs` must be folders that hold {name}; {str(run)!r} does not exist.")
        raise InputError(f"`runs` must be folders that hold {name}; {str(run)!r} has none. {how}")
    try:
        names = pq.read_schema(path).names
        lacking = [name for name in _COLUMNS if name not in names]
        if lacking:
            raise pa.ArrowInvalid(f"no column {lacking[0]}")
        there = LABEL in names
        table = pq.read_table(path, columns=[*_COLUMNS, *([LABEL] if there else [])])
        label = table[LABEL].cast(pa.string()).to_numpy() if there else None
        words = [table[name].cast(pa.string()).to_numpy() for name in _COLUMNS[:5]]
        numbers = [table[name].cast(pa.int64()).to_numpy() for name in _COLUMNS[5:]]
    except (OSError, pa.ArrowException, KeyError) as error:
        raise InputError(
            f"`runs` must hold the ranks of an evaluation; {str(path)!r} does not ({first_line(error)})."
        ) from None
    better, tied, gallery = numbers
    if (
        any(None in column for column in (*words, *(() if label is None else (label,))))
        or min(part.min(initial=0) for part in numbers) < 0
    ):
        raise InputError(f"`runs` must hold the ranks of an evaluation; {str(path)!r} has empty cells or negative ranks.")
    rows_of: dict[tuple[str, str, str], list[int]] = {}
    for row, names in enumerate(zip(*words[:3], strict=True)):
        rows_of.setdefault(names, []).append(row)
    return {
        Way(_apart(query), _apart(target), score): RankedDirection(
            words[3][rows],
            words[4][rows],
            Ranks(better[rows], tied[rows]),
            int(gallery[rows].max()),
            None if label is None else label[rows],
        )
        for (query, target, score), rows in rows_of.items()
    }


def _joined(names: Sequence[str]) -> str:
    r"""Names as one text.

    >>> print(_joined(["a+b", "c"]))
    a\+b+c
    """
    return "+".join(re.sub(r"([\\+])", r"\\\1", name) for name in names)


def _apart(text: str) -> tuple[str, ...]:
    r"""The names that `_joined` joined.

    >>> _apart("a\\+b+c")
    ('a+b', 'c')
    """
    names, characters = [""], iter(text)
    for character in characters:
        if character == "+":
            names.append("")
        else:
            names[-1] += next(characters, "") if character == "\\" else character
    return tuple(names)
