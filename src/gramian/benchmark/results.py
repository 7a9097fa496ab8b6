"""Results of the standing benchmark, one row per data set, split and method, as a parquet file that others can merge."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, get_type_hints

from gramian.errors import InputError, first_line, require
from gramian.files import atomic
from gramian.model.options import convert

__all__ = ["DROPS", "Result", "matching", "read_results", "write_results"]

DROPS = (0.0, 0.3, 0.6)
"""Shares of the cells that are dropped from the test items."""


class Result(NamedTuple):
    """What one method reached on one split of one data set.

    Attributes:
        data: name of the data set.
        digest: of its table with this split, so that only results on the same items are compared.
        split: number of the split.
        method: name of the family.
        setting: what validation chose; empty where the method chooses by itself.
        recall: mean R@1 over the directions between two modalities, on the test items.
        dropped: mean R@1 of `centroid` between each modality and all others together, as each of `DROPS` of the cells is
            dropped; none with two modalities.
        gain: mean R@1 that `centroid` over all other modalities adds to the best single one; None with two modalities.
        seconds: that training the chosen setting took, if it is known.
        tested: test items per item to train and choose with.
        memory: that training the chosen setting needed at most, in 10⁶ bytes, if it is known.
    """

    data: str
    digest: str
    split: int
    method: str
    setting: str
    recall: float
    dropped: tuple[float, ...]
    gain: float | None
    seconds: float | None
    tested: float
    memory: float | None = None


def write_results(path: Path, results: Sequence[Result]) -> Path:
    """Write one row per result.

    Args:
        path: of the parquet file.
        results: to write.

    Returns:
        The path.

    Raises:
        InputError: pyarrow is not installed.
    """
    require("pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {str: pa.string(), int: pa.int64(), float: pa.float64(), float | None: pa.float64()}
    hints = get_type_hints(Result)
    schema = pa.schema([(name, kinds.get(hint, pa.list_(pa.float64()))) for name, hint in hints.items()])
    with atomic(path) as partial:
        pq.write_table(pa.Table.from_pylist([result._asdict() for result in results], schema), partial)
    return path


def read_results(path: Path) -> list[Result]:
    """The results of somebody else.

    Args:
        path: of the parquet file.

    Returns:
        What it holds.

    Raises:
        InputError: a file that is not as `write_results` writes it; pyarrow is not installed.
    """
    require("pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    hints = get_type_hints(Result)
    try:
        rows = pq.read_table(path).to_pylist()
        return [Result(**{name: convert(row.get(name), hint, name) for name, hint in hints.items()}) for row in rows]
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise InputError(f"`merge` {str(path)!r} is not a results.parquet of the benchmark ({first_line(error)}).") from None


def matching(merged: Sequence[Result], ours: Sequence[Result]) -> list[Result]:
    """Results of others, on the same items or on data sets of their own.

    Args:
        merged: of others.
        ours: of this run.

    Returns:
        `merged`.

    Raises:
        InputError: other items under the same name, other splits than those of the set's other methods, or a method that is
            there already.
    """
    digests: dict[tuple[str, int], str] = {}
    splits: dict[tuple[str, str], set[int]] = {}
    for result in (*ours, *merged):
        where = f"`merge` holds {result.method!r} on {result.data}, split {result.split}"
        if digests.setdefault((result.data, result.split), result.digest) != result.digest:
            raise InputError(f"{where}, which is of other items than here. Run it on the same table, or leave it out.")
        seen = splits.setdefault((result.data, result.method), set())
        if result.split in seen:
            raise InputError(f"{where}, which was run here as well. Rename it in the file, or leave it out of `methods`.")
        seen.add(result.split)
    expected: dict[str, set[int]] = {}
    for (data, method), seen in splits.items():
        if expected.setdefault(data, seen) != seen:
            raise InputError(
                f"`merge` holds {method!r} on splits {_numbers(seen)} of {data}; the other methods are on "
                f"{_numbers(expected[data])}. Run it on the same splits (`seeds`)."
            )
    return list(merged)


def _numbers(splits: set[int]) -> str:
    return ", ".join(map(str, sorted(splits)))
