"""Tests of paired differences over items: permutation and bootstrap, correction for their number, and groups of equals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gramian.evaluation.stats import difference_interval

__all__ = ["TESTS", "Test", "bootstrap_p", "groups", "holm", "interval_p", "permutation_p"]

Test: TypeAlias = Literal["permutation", "bootstrap"]
TESTS: tuple[Test, ...] = ("permutation", "bootstrap")

SWAPS = 9999
"""Random swaps of the permutation test; where fewer are possible, all of them are tried. As many resamples of the bootstrap."""

CHUNK = 500
"""Resamples that are drawn at a time."""


def permutation_p(values: NDArray[np.float64], items: NDArray[np.int64], seed: int) -> float:
    """Two-sided p of the mean of paired differences if each item's sign were a toss of a coin.

    Args:
        values: (seeds, directions, queries) or (directions, queries), NaN where a query was not asked. The results of an item
            are swapped together, those of all seeds and directions.
        items: (queries,) the number of each query's item.
        seed: of the random swaps, where not all of them are tried.

    Returns:
        p in (0, 1].
    """
    from scipy.stats import permutation_test

    totals = _totals(values, items).sum(0)
    totals = totals[totals != 0] / np.abs(totals).max(initial=np.finfo(float).tiny)  # swapping equals changes nothing
    if len(totals) < 2:
        return 1.0
    test = permutation_test(
        (totals, np.zeros_like(totals)),
        lambda a, b, axis: np.abs((a - b).sum(axis)).round(9),  # sums that are equal but for rounding tie
        permutation_type="samples",
        alternative="greater",
        vectorized=True,
        n_resamples=SWAPS,
        batch=max(1, 10**6 // len(totals)),
        rng=np.random.default_rng(seed),
    )
    return float(test.pvalue)


def bootstrap_p(values: NDArray[np.float64], items: NDArray[np.int64], seed: int) -> float:
    """Two-sided p of the mean of paired differences by the bootstrap: how often a resample strays from it by as much as 0 does.

    Seeds are drawn first, then items, each with replacement; an item brings all its queries.

    Args:
        values: see `permutation_p`.
        items: see `permutation_p`.
        seed: of the draws.

    Returns:
        p in (0, 1].

    Source: Efron and Tibshirani, "An introduction to the bootstrap", 1993, chapter 16.
    """
    totals = _totals(values, items)
    seeds, n = totals.shape
    mean = totals.sum(1).mean()
    rng = np.random.default_rng(seed)
    strayed = 0
    for _ in range(0, SWAPS + 1, CHUNK):
        weights = rng.multinomial(n, np.full(n, 1 / n), CHUNK)
        of_seeds = weights @ totals.T  # (CHUNK, seeds)
        drawn = (
            of_seeds.mean(1) if seeds == 1 else np.take_along_axis(of_seeds, rng.integers(0, seeds, (CHUNK, seeds)), 1).mean(1)
        )
        strayed += int((np.abs(drawn - mean) >= np.abs(mean) - 1e-12).sum())
    draws = -(-(SWAPS + 1) // CHUNK) * CHUNK
    return (strayed + 1) / (draws + 1)


def interval_p(values: NDArray[np.float64], items: NDArray[np.int64]) -> float:
    """1 − the highest level at which `difference_interval` leaves out 0: a test over items and seeds.

    Args:
        values: see `permutation_p`.
        items: see `permutation_p`.

    Returns:
        p in (0, 1].
    """
    low, high = 0.0, 1.0
    for _ in range(40):
        level = (low + high) / 2
        interval = difference_interval(values, items, level=level)
        if interval.low > 0 or interval.high < 0:
            low = level
        else:
            high = level
    return 1 - low


def _totals(values: NDArray[np.float64], items: NDArray[np.int64]) -> NDArray[np.float64]:
    """(seeds, items) what each item adds to each seed's mean over directions."""
    data = values.reshape((1,) * (3 - values.ndim) + values.shape)
    counts = np.maximum((~np.isnan(data)).sum(2, keepdims=True), 1)
    shares = (np.nan_to_num(data) / counts).sum(1) / data.shape[1]
    return np.stack([np.bincount(items, row, items.max() + 1) for row in shares])


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected by Holm's step-down procedure: the family's error rate stays at the level of the test.

    Args:
        p: of each test.

    Returns:
        The corrected values, in the same order, at most 1.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p, kind="stable")
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(1, np.maximum.accumulate(np.asarray(p)[order] * np.arange(len(p), 0, -1)))
    return [float(value) for value in corrected]


def groups(names: Sequence[str], different: set[tuple[str, str]]) -> dict[str, str]:
    """Letters of groups: two names share one exactly where they cannot be told apart.

    Args:
        names: the best first.
        different: pairs that can be told apart.

    Returns:
        Name → letters, "a" the group of the best.

    Source: Piepho, "An algorithm for a letter-based representation of all-pairwise comparisons", 2004.

    >>> groups(["x", "y", "z"], {("x", "z")})
    {'x': 'a', 'y': 'ab', 'z': 'b'}
    """
    columns = [set(names)]
    for first, second in different:
        for column in [column for column in columns if {first, second} <= column]:
            columns.remove(column)
            columns += [column - {first}, column - {second}]
        columns = [
            column
            for i, column in enumerate(columns)
            if not any(column < other or (column == other and i > j) for j, other in enumerate(columns))
        ]
    place = {name: i for i, name in enumerate(names)}
    columns.sort(key=lambda column: sorted(place[name] for name in column))
    return {name: "".join(_letter(i) for i, column in enumerate(columns) if name in column) for name in names}


def _letter(i: int) -> str:
    return "abcdefghijklmnopqrstuvwxyz"[i] if i < 26 else f"({i + 1})"
