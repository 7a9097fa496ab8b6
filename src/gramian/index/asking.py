"""From what is asked to a query: cells that a model embeds, the vectors of an item, a row of a table, or all together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from gramian.bundle import Bundle
from gramian.data import load
from gramian.errors import InputError, check_choice, listing
from gramian.files import parse_json
from gramian.index.mapping import places_of
from gramian.index.protocol import Index, embed_table
from gramian.model.aligner import Aligner

__all__ = ["chosen", "embedded", "item_of", "joined", "lacking", "row_of"]


def embedded(index: Index, cells: Mapping[str, Any]) -> Bundle:
    """One item in an index's space, with the modalities of its cells alone.

    Args:
        index: with a model.
        cells: modality → a raw cell as the model reads it; features as numbers, or as a text such as "[0.1, 0.2]".

    Returns:
        One item.

    Raises:
        InputError: the index has no model, or the model another modality; a cell that cannot be read.
    """
    model = _model(index, "query")
    read: dict[str, Any] = {}
    for name, value in cells.items():
        check_choice("cells", name, model.modalities)
        features = isinstance(value, str) and name not in model.raw_modalities()
        read[name] = _features(name, value, model.modalities[name].width) if features else value
    bundle = index.embed(read)
    return bundle.select(*(name for name in bundle.modalities if name in cells))


def row_of(
    index: Index,
    data: str | Path,
    row: str | None = None,
    by: Sequence[str] | None = None,
    media_root: Sequence[Path] | None = None,
) -> Bundle:
    """The cells of one row of a table, in an index's space.

    Args:
        index: with a model.
        data: the table, as of `gramian.data.load`.
        row: its id; the first by default.
        by: the modalities that count; all by default.
        media_root: folders outside of the table's own that its cells may name files in.

    Returns:
        One item.

    Raises:
        InputError: the index has no model, the table no such row or column, the row nothing to embed.
    """
    model = _model(index, "row")
    table = load(data, raw=model.raw_modalities(), media_root=media_root)
    for name in by or ():
        check_choice("by", name, model.modalities)
    table = model.towers.known(table, by)
    row = table.ids[0] if row is None else row
    if row not in table.ids:
        raise InputError(f"`row` must be the id of a row of {str(data)!r}, such as {table.ids[0]!r}; got {row!r:.80}.")
    one = table[[table.ids.index(row)]]
    names = [name for name in one.modalities if bool(one.present[name][0])]
    lacks = [name for name in by or () if name not in names]
    if names and lacks:
        raise InputError(
            f"`row` {row!r} of {str(data)!r} is empty in {listing(lacks)}. Leave that out of --by; it has {listing(names)}."
        )
    if not names:
        what = ", ".join(by or one.modalities)
        raise InputError(f"`row` {row!r} of {str(data)!r} is empty in {what}. Choose another with --by.")
    return embed_table(model, one.select(*names)).select(*names)


def item_of(index: Index, name: str, argument: str) -> tuple[Bundle, dict[str, Any]]:
    """One item of an index.

    Args:
        index: that has it.
        name: its id.
        argument: that names it, for the error.

    Returns:
        Its vectors and its metadata.

    Raises:
        InputError: an unknown item.
    """
    if not index.known([name])[0]:
        raise InputError(f"`{argument}` must be the id of an item of the index; it has no {name!r:.80}.")
    bundle, metadata = index.items([name])
    return bundle, metadata[0]


def chosen(item: Bundle, by: Sequence[str] | None = None) -> Bundle:
    """Those of an item's modalities that it has and that count.

    Raises:
        InputError: an unknown modality, or none that it has.
    """
    for name in by or ():
        check_choice("by", name, item.modalities)
    names = [name for name in item.modalities if name in (by or item.modalities) and bool(item.has(name)[0])]
    if not names:
        raise InputError(f"the item lacks {', '.join(by or ())}. Choose another modality with --by.")
    return item.select(*names)


def joined(parts: Iterable[tuple[str, Bundle]]) -> Bundle:
    """The vectors of several items as one query; a name that occurs twice says where it is from.

    >>> one = Bundle.from_dict({"text": [[1.0, 0.0]]})
    >>> joined([("", one), ("like ", one)]).modalities
    ('text', 'like text')
    """
    columns: dict[str, torch.Tensor] = {}
    for source, part in parts:
        for name in part.modalities:
            columns[f"{source}{name}" if name in columns else name] = part.column(name)
    return Bundle.from_dict(columns)


def lacking(index: Index, part: Bundle | None = None, unlike: str | None = None) -> Bundle | None:
    """What answers should lack, as `without` of a search: embedded cells, and an item as one vector; None for neither.

    Raises:
        InputError: an unknown item.
    """
    parts = [] if part is None else [("", part)]
    if unlike:
        parts.append(("the sum of ", Bundle.from_dict({"item": places_of(item_of(index, unlike, "unlike")[0])})))
    return joined(parts) if parts else None


def _model(index: Index, what: str) -> Aligner:
    if index.model is None:
        raise InputError(f"the index has no model to embed the {what} with. Pass --model, or search with --like.")
    return index.model


def _features(name: str, text: str, width: int) -> Any:
    try:
        values = parse_json(text)
        if isinstance(values, list) and all(isinstance(value, int | float) for value in values):
            return values
    except (ValueError, RecursionError):
        pass
    raise InputError(
        f"`{name}` must be {width} features, as in [0.1, 0.2]: this model reads no raw {name}; got {text!r:.40}. "
        "Search by `like`, an item of the index, or by `data` and `row`, a row of a table."
    )
