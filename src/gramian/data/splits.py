"""Training and validation items: the table's own splits, or a share held out by item."""

from __future__ import annotations

import logging
from collections import Counter

import torch

from gramian.data.table import Table
from gramian.errors import InputError, check_number, listing

__all__ = ["drawn", "hold_out", "paired_items", "shuffled_items"]

logger: logging.Logger = logging.getLogger("gramian")


def hold_out(table: Table, share: float, seed: int) -> tuple[Table, Table]:
    """Training and validation items: the splits "train" and "validation" of a table, or where it has none a random share.

    Without a validation split the share is of "train". Rows of one item go to one side.

    Args:
        table: of at least 4 items.
        share: of the items to hold out if the table has no validation split; at least 2 items are.
        seed: of the choice.

    Returns:
        The training items and the validation items, at least 2 of each where they are drawn.

    Raises:
        InputError: splits without "train", too few items, a share outside of (0, 1).

    >>> table = Table.from_columns({"text": torch.eye(10)})
    >>> [len(part) for part in hold_out(table, 0.3, seed=0)]
    [7, 3]
    """
    check_number("validation_share", share, "(0, 1)")
    if table.split is not None:
        if "train" not in table.split:
            raise InputError(
                f"column `split` must name train items; it has {listing(sorted(set(table.split)))}. "
                "Rename them, or leave the column out to hold out a share at random."
            )
        unused = Counter(name for name in table.split if name not in ("train", "validation", "test"))
        if unused:
            logger.info("not used: %s", listing(f"{count} rows of split {name!r}" for name, count in unused.items()))
        if "validation" in table.split:
            return table.part("train"), table.part("validation")
        table = table.part("train")
    items = shuffled_items(table, seed)
    count = max(2, round(share * len(items)))
    if len(items) - count < 2:
        raise InputError(f"the table must hold at least 4 items, 2 to train on and 2 to validate on; got {len(items)}.")
    chosen = set(items[:count])
    mask = torch.tensor([name in chosen for name in table.item_ids or table.ids])
    return table[~mask], table[mask]


def shuffled_items(table: Table, seed: int) -> list[str]:
    """The names of a table's items, each once, in random order."""
    distinct = list(dict.fromkeys(table.item_ids or table.ids))
    return [distinct[i] for i in torch.randperm(len(distinct), generator=torch.Generator().manual_seed(seed)).tolist()]


def drawn(table: Table, rows: int, seed: int) -> Table:
    """At most `rows` rows of a table, drawn at random, in its order."""
    if len(table) <= rows:
        return table
    chosen = torch.randperm(len(table), generator=torch.Generator().manual_seed(seed))[:rows]
    return table[chosen.sort().values]


def paired_items(table: Table) -> int:
    """The largest number of rows that have both modalities of any pair; retrieval needs at least 2."""
    mask = table.mask().double()
    return int((mask.T @ mask).fill_diagonal_(0).amax())
