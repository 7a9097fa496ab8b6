"""mteb's retrieval tasks in and out: tables of queries and candidates, and the folder of a data set that mteb loads."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gramian.data.cells import Cells, is_empty
from gramian.data.content import Unreadable, open_source
from gramian.data.media import MEDIA
from gramian.data.table import Table
from gramian.errors import InputError, check_choice, check_type, listing, require
from gramian.files import atomic, claimed, write_text

__all__ = ["task_tables", "write_task"]

PARTS = ("corpus", "queries", "qrels")


def task_tables(data: Mapping[str, Any], *, modalities: Iterable[str] | None = None) -> tuple[Table, Table]:
    """The queries and the corpus of a retrieval task, as `evaluate(corpus=…)` and `gramian evaluate --corpus` take them.

    A query and a document match where the task says that the document is relevant, whatever its grade: both get the same item.

    Args:
        data: one split of a task, after `task.load_data()`: `task.dataset["default"]["test"]`.
        modalities: mteb's names of those to keep; all of "text", "image", "audio" and "video" that the task has by default.

    Returns:
        The queries and the corpus, of raw cells.

    Raises:
        InputError: data of another kind; documents that are relevant to some of the queries of another document and not to
            all: what is relevant must fall into items.
    """
    require("mteb")
    try:
        relevant: Mapping[str, Mapping[str, int]] = data["relevant_docs"]
        parts = {name: data[name] for name in ("queries", "corpus")}
        columns = {name: list(part.column_names) for name, part in parts.items()}
    except (KeyError, TypeError, AttributeError):
        raise InputError(
            "`data` must be one split of a loaded retrieval task, as in task.dataset['default']['test'], with queries, corpus "
            "and relevant_docs."
        ) from None
    items = _items({query: [name for name, grade in of.items() if grade > 0] for query, of in relevant.items()})
    tables = []
    for side, part in parts.items():
        kept = [kind for kind in (modalities or MEDIA) if kind in columns[side]]
        if not kept:
            raise InputError(f"`modalities` must be among the columns of the {side}; got {listing(columns[side])}.")
        ids = [str(name) for name in part["id"]]
        plain = _undecoded(part)
        read = {kind: [None if is_empty(cell) else cell for cell in plain[kind]] for kind in kept}
        filled = {kind: Cells(cells) for kind, cells in read.items() if any(cell is not None for cell in cells)}
        if not filled:
            raise InputError(f"the {side} have no filled cell of {', '.join(kept)}.")
        names = [items.get((side, name), f"{side} {name}") for name in ids]
        tables.append(Table.from_columns(filled, ids=ids, item_ids=names))
    return tables[0], tables[1]


def write_task(folder: str | Path, queries: Table, corpus: Table, *, split: str = "test") -> Path:
    """Write a data set that mteb's retrieval tasks load: `corpus`, `queries` and `qrels` as parquet, and a README of them.

    A task then names the folder, or the hub id that it was uploaded to, as its `dataset["path"]`. Rows match where their items
    are equal, or their ids where a table has no items.

    Args:
        folder: new or empty.
        queries: raw cells in columns named "text", "image", "audio" or "video".
        corpus: the same, or others of these columns.
        split: the name of the split.

    Returns:
        The folder.

    Raises:
        InputError: columns of features or of other names, no query with a match, or a folder that holds something.
    """
    require("mteb", "pyarrow")
    for name, table in (("queries", queries), ("corpus", corpus)):
        check_type(name, table, Table, fix="Table.from_columns makes one.")
        for column in table.modalities:
            check_choice(name, column, MEDIA)
            if column not in table.raw:
                raise InputError(f"`{name}` must hold raw cells for mteb to read; column `{column}` holds features.")
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"`folder` must be new or empty; {str(folder)!r} holds something.")
    found: dict[str, list[str]] = {}
    for name, item in zip(corpus.ids, corpus.item_ids or corpus.ids, strict=True):
        found.setdefault(item, []).append(name)
    pairs = [
        {"query-id": name, "corpus-id": match, "score": 1}
        for name, item in zip(queries.ids, queries.item_ids or queries.ids, strict=True)
        for match in found.get(item, ())
    ]
    if not pairs:
        raise InputError("`corpus` must hold the item of some query; it holds none.")
    from datasets import Dataset

    with claimed(folder):
        parts = {"corpus": _dataset(corpus), "queries": _dataset(queries), "qrels": Dataset.from_list(pairs)}
        lines = []
        for name, part in parts.items():
            with atomic(folder / name / f"{split}.parquet") as partial:
                part.to_parquet(str(partial))
            config = "default" if name == "qrels" else name
            # datasets caches a folder by its name and this text alone: without the hash it would read another folder's rows.
            digest = hashlib.sha256((folder / name / f"{split}.parquet").read_bytes()).hexdigest()[:16]
            lines.append(f"- config_name: {config}\n  description: {digest}\n  data_files:\n")
            lines.append(f"  - split: {split}\n    path: {name}/{split}.parquet\n")
        write_text(folder / "README.md", f"---\nconfigs:\n{''.join(lines)}---\n\nA retrieval task in the format of mteb.\n")
    return folder


def _items(relevant: Mapping[str, list[str]]) -> dict[tuple[str, str], str]:
    """(side, id) → item: queries and documents that are relevant to each other."""
    of_document: dict[str, str] = {}
    of_query: dict[str, str] = {}
    documents: dict[str, frozenset[str]] = {}
    for query, matches in relevant.items():
        if not matches:
            continue
        known = {of_document[name] for name in matches if name in of_document}
        item = known.pop() if len(known) == 1 else f"item {query}"
        if known or documents.setdefault(item, frozenset(matches)) != frozenset(matches):
            raise InputError(
                f"the documents relevant to query {query!r} overlap with those of another and differ from them; items cannot "
                "express that. Leave such queries out."
            )
        of_query[query] = item
        of_document |= dict.fromkeys(matches, item)
    return {("queries", name): item for name, item in of_query.items()} | {
        ("corpus", name): item for name, item in of_document.items()
    }


def _undecoded(part: Any) -> Any:
    """The data set with the files of its media as they are."""
    features = {medium.feature for medium in MEDIA.values() if medium.feature}
    for name, feature in part.features.items():
        if type(feature).__name__ in features and feature.decode:
            part = part.cast_column(name, type(feature)(decode=False))
    return part


def _dataset(table: Table) -> Any:
    import datasets

    columns: dict[str, list[Any]] = {"id": list(table.ids)}
    features = {name: next(medium.feature for kind, medium in MEDIA.items() if kind == name) for name in table.modalities}
    for name, column in table.raw.items():
        cells = [None if is_empty(cell) else cell for cell in column]
        columns[name] = [None if cell is None else _file(cell, column.folder) for cell in cells] if features[name] else cells
    made = datasets.Dataset.from_dict(columns)
    for name, feature in features.items():
        if feature:
            made = made.cast_column(name, getattr(datasets, feature)(decode=False))
    return made


def _file(cell: Any, folder: Any) -> dict[str, Any]:
    """A medium with its bytes, which no longer depends on where its file lies."""
    if isinstance(cell, Mapping) and {"bytes", "path"} & {*cell}:
        cell = cell.get("path") if cell.get("bytes") is None else cell["bytes"]
    if not isinstance(cell, str | Path | bytes):
        raise InputError(f"a cell of media must be bytes or the path of a file to be written; got {cell!r:.60}.")
    try:
        source = open_source(cell, folder)
    except Unreadable as error:
        raise InputError(f"a file cannot be written into the task: {error}.") from None
    return {"bytes": source if isinstance(source, bytes) else source.read_bytes(), "path": None}
