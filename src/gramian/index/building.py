"""From a table of any size to an index, part by part: what was read is committed before the next part is."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gramian.bundle import Bundle
from gramian.data.batches import Loader, Reading
from gramian.data.cells import Broken
from gramian.data.content import Folder, Unreadable
from gramian.data.table import Table
from gramian.errors import InputError, check_choice, check_type, listing
from gramian.index.choosing import Choice, chosen_by
from gramian.index.protocol import Index
from gramian.model.aligner import Aligner
from gramian.sheets import progress_bar

__all__ = ["Indexed", "index_tables"]

LONGEST = 1000  # characters of a text that is kept with its item
ABOUT = ("split", "item")  # what a table says of its rows besides their ids


class Indexed(NamedTuple):
    """What `index_tables` did.

    Attributes:
        added: items that are new.
        replaced: items whose id was known, and that were embedded again.
        kept: items that were in the index already.
        empty: rows without anything that could be read.
        broken: cells that could not be read.
        choice: of the index's score, if there were items to choose by.
    """

    added: int
    replaced: int
    kept: int
    empty: int
    broken: tuple[Broken, ...]
    choice: Choice | None = None


def index_tables(
    index: Index,
    model: Aligner,
    tables: Iterable[Table],
    *,
    columns: Sequence[str] | None = None,
    metadata: Sequence[str] = (),
    replace: bool = False,
    validation: Collection[str] = (),
    batch_size: int | None = None,
    reading: Reading = Reading(),
    total: int | None = None,
    progress: bool = True,
) -> Indexed:
    """Embed tables and add their rows to an index; started again, it goes on where it was stopped.

    Beside its vectors an item keeps the columns of `metadata`, and of its raw cells the texts and the paths.

    Args:
        index: to add to.
        model: whose space it is.
        tables: one after the other, as from `gramian.data.stream`; each is committed before the next is embedded.
        columns: the modalities to embed; by default all that the model reads.
        metadata: columns to keep, which the first table has; "split" and "item" are those of the table.
        replace: embed items again whose id is known; by default they are kept as they are.
        validation: ids of items that the model was validated on, never of those that it is tested on. Those that are in the
            index choose its score (`gramian.index.choosing.choose_score`), unless one is set.
        batch_size: items per forward pass; by default 4,096 of features, 32 with raw cells.
        reading: how raw cells are read.
        total: of the rows, where it is known, for the progress bar.
        progress: show it.

    Returns:
        What was done.

    Raises:
        InputError: columns that do not fit, or a cell that cannot be read, if the reading is strict.
    """
    check_type("index", index, Index)
    check_type("model", model, Aligner)
    for name in columns or ():
        check_choice("columns", name, model.modalities)
    added = replaced = kept = rows = 0
    broken: list[Broken] = []
    validation = dict.fromkeys(validation)
    items: dict[str, str] = {}
    with progress_bar(progress) as bar:
        task = bar.add_task("indexing", total=total)
        for table in tables:
            if not rows:
                _check_kept(table, metadata)
            rows += len(table)
            if table.item_ids is not None:
                items |= {name: item for name, item in zip(table.ids, table.item_ids, strict=True) if name in validation}
            known = index.known(table.ids)
            fresh = table if replace or not any(known) else table[[i for i, has in enumerate(known) if not has]]
            kept += len(table) - len(fresh)
            for bundle, part in _embedded(model, fresh, columns, batch_size, reading, broken):
                again = index.add(bundle, part.ids, _kept(part, model, metadata)) if len(bundle) else 0
                replaced += again
                added += len(bundle) - again
            bar.update(task, advance=len(table))
    if not rows:
        raise InputError("`tables` must hold at least one row; got none.")
    choice = None if index.score_is_set else chosen_by(index, list(validation), items)
    if choice is not None:
        index.set_score(choice.score, chosen=True)
    return Indexed(added, replaced, kept, rows - kept - added - replaced, tuple(broken), choice)


def _check_kept(table: Table, metadata: Sequence[str]) -> None:
    """Check that there is what is to be kept."""
    about = {"split": table.split, "item": table.item_ids}
    known = [*table.raw, *(name for name, values in about.items() if values is not None)]
    for name in metadata:
        if name not in known:
            has = f"it has {listing(known)}" if known else "it has features alone"
            raise InputError(f"`metadata` must name columns of texts, numbers or truth values; no row has {name!r}: {has}.")


def _embedded(
    model: Aligner,
    table: Table,
    columns: Sequence[str] | None,
    batch_size: int | None,
    reading: Reading,
    broken: list[Broken],
) -> Iterator[tuple[Bundle, Table]]:
    """The items of a table that have something to embed, and their rows."""
    names = [name for name in table.modalities if name in (columns or model.modalities)]
    if not names or not len(table):
        return
    read = table.select(*names)
    filled = read.mask().any(1)
    if not bool(filled.any()):
        return
    read, table = read[filled], table[filled]
    model.check(read)
    bundle = model.embed(Loader(read, model.collator(), reading), batch_size=batch_size, broken=broken)
    bundle = bundle.select(*names).to("cpu")
    has = bundle.has()
    yield bundle[has], table[has]


def _kept(table: Table, model: Aligner, metadata: Sequence[str]) -> dict[str, list[Any]]:
    """What the items of a table keep beside their vectors."""
    fields: dict[str, list[Any]] = {}
    for name, values in (("split", table.split), ("item", table.item_ids)):
        if name in metadata and values is not None:
            fields[name] = list(values)
    read = model.raw_modalities()
    for name, column in table.raw.items():
        if name in read:
            text = getattr(model.towers[name].reader, "kind", "text") == "text"
            fields[name] = [_text(cell) if text else _path(cell, column.folder) for cell in column]
        elif name in metadata:
            fields[name] = list(column)
    return {name: values for name, values in fields.items() if any(value is not None for value in values)}


def _text(cell: Any) -> str | None:
    return cell[:LONGEST] if isinstance(cell, str) and cell else None


def _path(cell: Any, folder: Any) -> str | None:
    """The file that a cell names, links followed; None for bytes, and for a part of an archive."""
    if isinstance(cell, dict):
        cell = cell.get("path") if cell.get("bytes") is None and cell.get("offset") is None else None
    if not isinstance(cell, str | Path) or not str(cell):
        return None
    try:
        path = folder.find(cell) if isinstance(folder, Folder) else (Path(folder or "") / cell).resolve()
        return str(path) if path.is_file() else None
    except (OSError, ValueError, RuntimeError, Unreadable):
        return None
