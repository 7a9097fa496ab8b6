"""Splits that depend on nothing but the names of items, and a count of what is on two sides."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch.nn.functional import normalize

from gramian.data.table import Table
from gramian.errors import InputError

__all__ = ["in_hash_order", "leaks", "resplit", "split_by_hash"]


def in_hash_order(names: Iterable[str], seed: str) -> list[str]:
    """Names in the order of sha256(seed + ":" + name), which depends on nothing but the names."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())


def split_by_hash(
    groups: Sequence[str], seed: str, *, test: float, validation: float, strata: Sequence[str] | None = None
) -> list[str]:
    """Assign items to `train`, `validation` and `test`, whole groups at a time, in the order of a hash (`in_hash_order`).

    Args:
        groups: n names; items of one group, such as the skin tones of one emoji, go to one side.
        seed: of the order; another one is another split.
        test: share of the items to test.
        validation: share of the items to choose with.
        strata: n names of classes, each of which is split alike; none by default.

    Returns:
        n names of splits. The items to test are at least the share, short of the last group; so are those to choose with.

    Raises:
        InputError: shares that leave nothing to train on.

    >>> split_by_hash(["a", "a", "b", "c", "d", "e"], "set-1", test=0.3, validation=0.3)
    ['train', 'train', 'validation', 'test', 'test', 'validation']
    """
    if not (test >= 0 and validation >= 0 and test + validation < 1):
        raise InputError(f"`test` and `validation` must be shares that leave some to train on; got {test} and {validation}.")
    members: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for item, group in enumerate(groups):
        members["" if strata is None else strata[item]][group].append(item)
    split = ["train"] * len(groups)
    for own in members.values():
        total = sum(map(len, own.values()))
        done = 0
        for group in in_hash_order(own, seed):
            share = done / total
            if share < test + validation:
                for item in own[group]:
                    split[item] = "test" if share < test else "validation"
            done += len(own[group])
    return split


def resplit(
    table: Table, seed: str, *, group: Callable[[str], str] = str, stratum: Callable[[str], str] | None = None
) -> Table:
    """The table under another split, with the shares that it has; rows of other splits than these three stay where they are.

    Args:
        table: with the splits "train", "validation" and "test".
        seed: of the order; another one is another split.
        group: the id of an item to that of its group.
        stratum: the id of an item to its class; none by default.

    Returns:
        The table.

    Raises:
        InputError: a table without splits.
    """
    if table.split is None:
        raise InputError("`table` must have a column `split`; it has none. Load one that is split.")
    rows = [i for i, side in enumerate(table.split) if side in ("train", "validation", "test")]
    counts = Counter(table.split)
    names = [table.ids[i] for i in rows]
    fresh = split_by_hash(
        [group(name) for name in names],
        seed,
        test=counts["test"] / len(rows),
        validation=counts["validation"] / len(rows),
        strata=None if stratum is None else [stratum(name) for name in names],
    )
    split = list(table.split)
    for i, side in zip(rows, fresh, strict=True):
        split[i] = side
    return replace(table, split=tuple(split))


def leaks(table: Table, near: float = 0.999) -> dict[str, tuple[int, int]]:
    """Count the test items that a training or validation item repeats.

    Args:
        table: features, with splits.
        near: cosine of two standardised features from which they count as nearly the same.

    Returns:
        Modality → how many test items have the very features of an item of the other splits, and how many have nearly those.

    Raises:
        InputError: a table without splits, or of raw cells.

    >>> table = Table.from_columns({"text": torch.eye(4)[[0, 1, 2, 0]]}, split=["train", "train", "test", "test"])
    >>> leaks(table)
    {'text': (1, 1)}
    """
    if table.split is None:
        raise InputError("`table` must have a column `split`; it has none. Load one that is split.")
    known, asked = (torch.tensor([name in sides for name in table.split]) for sides in (("train", "validation"), ("test",)))
    counts = {}
    for name in table.modalities:
        features, present = table.features(name).double(), table.present[name]
        spread = features[present].std(0)
        vectors = normalize((features - features[present].mean(0)) / spread.where(spread > 0, 1), dim=-1)
        cosines = vectors[asked & present] @ vectors[known & present].T
        nearest = cosines.amax(1) if cosines.shape[1] else cosines.new_full((len(cosines),), -1)
        identical = torch.cdist(features[asked & present], features[known & present]).eq(0).any(1)
        counts[name] = (int(identical.sum()), int((nearest >= near).sum()))
    return counts
