"""`load` and `stream`: tables from a file, a folder, the hub, or the package."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from safetensors import SafetensorError, safe_open
from torch import Tensor

from gramian.data.arrow import Column, kind_of, read_vectors
from gramian.data.cells import Cells, is_empty
from gramian.data.formats import Part
from gramian.data.sets import SETS, another_split, prepared, set_of
from gramian.data.sources import SPLITS, files_of, read_rows, stream_rows
from gramian.data.table import Table
from gramian.errors import InputError, check_choice, check_type, listing, renamed, shown

__all__ = ["EMBEDDED", "length", "load", "stream"]

logger: logging.Logger = logging.getLogger("gramian")

Paths: TypeAlias = "str | Path | Sequence[str | Path]"

CATEGORY = "category"
"""A label of the stamps."""

EMBEDDED: dict[str, Path] = {"stamps": Path(__file__).parent / "sets" / "stamps.safetensors"}
"""Data sets that come with the package, by name."""


def load(
    data: str | Path,
    *,
    split: str | None = None,
    columns: Sequence[str] | None = None,
    raw: Sequence[str] = (),
    labels: Sequence[str] = (),
    id_column: str = "id",
    revision: str | None = None,
    media_root: Paths | None = None,
) -> Table:
    """Load a table: one that ships with the package, by name, a file, a folder, or a data set on the hub.

    One column per modality, from `.parquet`, `.arrow`/`.feather`, `.csv`, `.jsonl`/`.json`, `.tar` (webdataset), folders of any
    of these files, of media, or of `save_to_disk` of Hugging Face datasets, and hub ids. Every file of a folder is read: none
    is left out for its name. A cell of features is a list of floats, in CSV written `[0.1, 0.2]`; a raw cell is text, a path
    (relative to the table's folder), bytes or a list; either may be empty. `.safetensors` holds features alone.

    Cells are what the file says: those of a CSV are text ("007" is no number, "NA" a word), and of JSON lines what each is.

    Args:
        data: "stamps", a set that `gramian prepare` has made (`gramian.data.sets.SETS`), a path, or a hub id. "digits@1" to
            "digits@10" are other splits of a set.
        split: keep the items whose `split` column says so; all by default. A hub data set in several splits
            gets such a column, and so does a folder where every file lies in a folder named `train`, `validation` or `test`.
        columns: the columns to read; by default every column that holds lists of floats, and those in `raw`.
        raw: the columns that towers read as they are; names that the table lacks are ignored.
        labels: columns of text or numbers about the rows, such as their class, that are kept beside the modalities.
        id_column: holds the rows' names; a table without it has row numbers. A column `item` says what a row is about, where
            several rows are one item.
        revision: of a data set on the hub.
        media_root: folders that cells may name files in besides the table's own; a cell that names any other is unreadable.

    Returns:
        The rows, in the order of the files' names.

    Raises:
        InputError: no such file or column, a file that cannot be read or has no rows, rows of different widths, NaN, an unknown
            split.

    >>> load("stamps", split="test").select("image", "text").widths
    {'image': 1280, 'text': 384}
    """
    _check_types(data, columns, raw)
    path = _safetensors(data)
    if path is not None:
        table, (name, way) = Table.load(path), set_of(str(data))
        if way:
            table = another_split(table, name, way)
        if name == "stamps" and CATEGORY in labels:  # the folder of the collection that a stamp is in
            table = replace(table, labels={**table.labels, CATEGORY: tuple(row.partition("/")[0] for row in table.ids)})
        known = [*table.labels, *([CATEGORY] if name == "stamps" and CATEGORY not in labels else ())]
        for label in labels:
            if label not in known:
                raise InputError(
                    f"`labels` must be columns of {str(data)!r}: {', '.join(known) or 'it has none'}; got {label!r}."
                )
        if columns is not None:
            for column in columns:
                check_choice("columns", column, table.columns)
            table = table.select(*columns)
    else:
        roots, kept = _roots(media_root), [*raw, *labels]
        rows = read_rows(str(data), kept, columns=columns, id_column=id_column, revision=revision, roots=roots)
        table = _table_of(rows, str(data), columns, raw, id_column, labels=labels)
    return table if split is None else table.part(split)


def stream(
    data: str | Path,
    rows: int,
    *,
    columns: Sequence[str] | None = None,
    raw: Sequence[str] = (),
    labels: Sequence[str] = (),
    id_column: str = "id",
    revision: str | None = None,
    media_root: Paths | None = None,
) -> Iterator[Table]:
    """A table part by part, as it arrives: for embedding what does not fit on the disk. Arguments as for `load`.

    Args:
        data: a file, a folder or a hub id.
        rows: of a part; the last one may have fewer. Rows without ids are numbered across the parts.
        columns: see `load`.
        raw: see `load`.
        labels: see `load`.
        id_column: see `load`.
        revision: see `load`.
        media_root: see `load`.

    Yields:
        Tables. A column that is empty in all rows of a part is not in its table.

    Raises:
        InputError: see `load`.
    """
    _check_types(data, columns, raw)
    if _safetensors(data) is not None:
        whole = load(data, columns=columns, labels=labels)
        yield from (whole[start : start + rows] for start in range(0, len(whole), rows))
        return
    seen = 0
    known: set[str] = set()
    for part in stream_rows(
        str(data), rows, [*raw, *labels], columns=columns, id_column=id_column, revision=revision, roots=_roots(media_root)
    ):
        table = _table_of(part, str(data), columns, raw, id_column, first=seen, known=known, labels=labels)
        seen += len(table)
        known |= set(table.widths)
        yield table
    if not seen:
        raise InputError(f"{str(data)!r} is empty: no rows.")


def length(data: str | Path) -> int | None:
    """How many rows a table has, where its files tell without being read: safetensors and parquet.

    Args:
        data: see `load`.

    Returns:
        The number; None where only reading tells, or where reading would fail.

    >>> length("stamps")
    950
    """
    try:
        path = _safetensors(data)
        if path is not None:
            with safe_open(path, framework="pt") as file:
                names = list(file.keys())
                masks = [name for name in names if name.startswith("present.")]
                return int(file.get_slice((masks or names)[0]).get_shape()[0])
        files = files_of(Path(data))
        if not files or any(file.suffix.lower() != ".parquet" for file in files):
            return None
        from pyarrow.parquet import read_metadata

        return sum(int(read_metadata(file).num_rows) for file in files)
    except (InputError, OSError, ValueError, IndexError, ImportError, SafetensorError):
        return None


def _check_types(data: str | Path, columns: Sequence[str] | None, raw: Sequence[str]) -> None:
    check_type("data", data, str, Path, fix="Table.from_columns takes what is in memory.")
    for argument, names in (("columns", columns), ("raw", raw)):
        if isinstance(names, str):
            raise InputError(f"`{argument}` must be a list of names; got {names!r}. Write [{names!r}].")


def _safetensors(data: str | Path) -> Path | None:
    """The file of a table that is one: a set of the package, one that was prepared, or a path."""
    if Path(data).exists() and str(data) not in EMBEDDED:
        name = str(data)
    else:
        name, _ = set_of(str(data))
    path = EMBEDDED.get(name, Path(name))
    if name in SETS and not path.exists():
        path = prepared(name)
        if not path.is_file():
            raise InputError(f"`data` {str(data)!r} is not on this machine yet. Make it: gramian prepare {name}")
    return path if path.suffix == ".safetensors" and path.is_file() else None


def _roots(folders: Paths | None) -> tuple[Path, ...]:
    roots = tuple(map(Path, [folders] if isinstance(folders, str | Path) else folders or ()))
    for root in roots:
        if not root.is_dir():
            raise InputError(f"`media_root` must name existing folders; {str(root)!r} is none.")
    return roots


def _table_of(
    part: Part,
    source: str,
    columns: Sequence[str] | None,
    raw: Sequence[str],
    id_column: str,
    first: int = 0,
    known: Collection[str] | None = None,
    labels: Sequence[str] = (),
) -> Table:
    """The Table of rows, numbered from `first` if they have no ids.

    In a stream, `known` are the columns that held features in earlier parts; one that is empty in this part is skipped.
    """
    partial = known is not None
    if part.rows == 0:
        raise InputError(f"{source!r} is empty: no rows.")
    reserved = dict.fromkeys((id_column, "split", "item"))
    if id_column != "id":
        check_choice("id_column", id_column, part.names)
    clash = [name for name in raw if name in reserved]
    if clash:
        raise InputError(f"`raw` must not name column `{clash[0]}`, which is about the rows. Rename it if it is a modality.")
    ids, split, items = (
        _names(name, part.columns[name], part.rows) if name in part.columns else None for name in (id_column, "split", "item")
    )
    split = None if split is None else [SPLITS.get(name.lower(), name) for name in split]
    for name in columns or ():
        if not partial or name not in raw:
            check_choice("columns", name, part.names)
    read: dict[str, tuple[Tensor | Cells, Tensor]] = {}
    ignored, empty = [], []
    for name in labels:
        check_choice("labels", name, part.names)
    for name in columns or [name for name in part.columns if name not in reserved and name not in labels]:
        if name not in part.columns:
            continue
        column = part.columns[name]
        if name in raw:
            cells = Cells(column, part.folder)
            read[name] = (cells, cells.present)
            continue
        if (columns is None or partial) and _is_empty(column):
            ignored.append(f"{name} (empty)")
            empty.append(name)
            continue
        requested = columns is not None or name in (known or ())
        try:
            features = read_vectors(name, column, requested)
        except InputError as error:
            raise InputError(f"{source!r}: {error}") from None
        if features is not None:
            read[name] = features
        elif requested:
            raise InputError(
                f"column `{name}` must hold lists of floats; it holds {kind_of(column)}. A tower could read it as it is."
            )
        else:
            ignored.append(f"{name} ({kind_of(column)})")
    if not read and partial and (raw or empty):  # other parts have something
        name = [*raw, *empty][0]
        nothing = Cells([None] * part.rows)
        read = {name: (nothing, nothing.present)}
    if not read:
        kinds = ", ".join(f"{name} ({kind_of(column)})" for name, column in part.columns.items())
        if raw:
            raise InputError(f"{source!r} has no column `{raw[0]}`; its columns are {kinds}.")
        raise InputError(
            f"{source!r} has no column that holds lists of floats; its columns are {kinds}. Text and media need towers "
            "that read them: name one per column under `towers` in a YAML file."
        )
    if raw:  # what towers do not read is left out on purpose; a column without a single cell hardly is
        ignored = [f"{name} (empty)" for name in empty]
    if ignored and not partial:
        logger.warning("%s: left out columns that are not lists of floats: %s", source, listing(ignored))
    if ids is None and first:
        ids = [str(first + row) for row in range(part.rows)]
    about = {name: _labels(name, part.columns[name]) for name in labels}
    with renamed(ids=f"column `{id_column}`", item_ids="column `item`", split="column `split`"):
        return Table.of_columns(read, ids, split, items, about)


def _is_empty(column: Column) -> bool:
    return all(map(is_empty, column)) if isinstance(column, list) else not bool(Cells(column).present.any())


def _names(name: str, column: Column, rows: int) -> list[str]:
    """What a column says about the rows, as text: ids, splits or items; no cell may be empty."""
    values: list[Any] = column if isinstance(column, list) else _values(column)
    empty = sum(value is None or value == "" or (isinstance(value, float) and math.isnan(value)) for value in values)
    if empty:
        raise InputError(f"column `{name}` is empty in {empty} of {rows} rows. Fill it, or leave it out.")
    wrong = [value for value in values if isinstance(value, list | dict | bytes)]
    if wrong:
        raise InputError(f"column `{name}` must hold text or numbers; got {shown(wrong[0])}. Name the rows by another column.")
    return [str(value) for value in values]


def _labels(name: str, column: Column) -> list[str | None]:
    """A column that says something of the rows, as text; None where it says nothing."""
    values: list[Any] = column if isinstance(column, list) else _values(column)
    wrong = [value for value in values if isinstance(value, list | dict | bytes)]
    if wrong:
        raise InputError(f"column `{name}` must hold text or numbers to be a label; got {shown(wrong[0])}.")
    empty = (None, "")
    return [None if value in empty or (isinstance(value, float) and math.isnan(value)) else str(value) for value in values]


def _values(column: Any) -> list[Any]:
    import pyarrow as pa

    if pa.types.is_temporal(column.type):  # Python's own types have no nanoseconds
        column = column.cast(pa.string())
    values: list[Any] = column.to_pylist()
    return values
