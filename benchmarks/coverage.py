"""How often the intervals hold the true value, and how often equal runs are told apart: docs/results/coverage.md.

    python benchmarks/coverage.py

Five minutes on one core. Every row is a simulation whose true value is known; nothing of a model is in it.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gramian.evaluation.significance import bootstrap_p, holm, permutation_p
from gramian.evaluation.stats import Interval, difference_interval, resampled_interval, share_interval
from gramian.files import write_text
from gramian.sheets import Sheet

PAGE = Path(__file__).parent.parent / "docs" / "results" / "coverage.md"
DRAWS, TESTED = 1000, 200
SEEDS = (2, 3, 5, 10)


def share(
    rate: float, items: int, rows: int, seeds: int, spread: float, hard: bool, rng: np.random.Generator
) -> tuple[Interval, float]:
    """R@k of `items`; where some are harder, each with its own chance around `rate`; the seeds shift the rate."""
    concentration = 4.0
    chances = rng.beta(concentration * rate, concentration * (1 - rate), items) if hard else np.full(items, rate)
    shift = spread * rng.standard_normal((seeds, 1, 1)) * (chances / rate if hard else 1)
    hits = (rng.random((seeds, rows, items)) < np.clip(chances + shift, 0, 1)).astype(float)
    hits = hits.transpose(0, 2, 1).reshape(seeds, 1, items * rows)
    return share_interval(hits, np.repeat(np.arange(items), rows)), rate


def difference(rate: float, items: int, gap: float, rng: np.random.Generator) -> tuple[Interval, float]:
    """Two runs on the same items, whose results agree in part."""
    common = rng.random(items)
    noise = rng.random((2, items))
    alike = rng.random(items) < 0.6
    draws = np.where(alike, common, noise)
    hits = draws < np.array([[rate], [rate - gap]])
    return difference_interval(hits[0].astype(float) - hits[1]), gap


def difference_of_seeds(
    rate: float, items: int, gap: float, seeds: int, spread: float, rng: np.random.Generator
) -> tuple[Interval, float]:
    """Two methods, each with seeds of its own, on the same items, some of which are harder for both."""
    chances = rng.beta(4 * rate, 4 * (1 - rate), items)
    scale = np.array([1, 1 - gap / rate])[:, None, None] + spread / rate * rng.standard_normal((2, seeds, 1))
    hits = (rng.random((2, seeds, items)) < np.clip(chances * scale, 0, 1)).astype(float)
    return difference_interval((hits[0] - hits[1])[:, None]), gap


def overlapping(splits: int, correct: bool, rng: np.random.Generator) -> tuple[Interval, float]:
    """The mean error of a regression learnt on random splits of one sample: its expectation over samples is the true value."""
    n, tested, width, noise = 120, 30, 10, 1.0
    weights = np.ones(width)
    x = rng.standard_normal((n, width))
    y = x @ weights + noise * rng.standard_normal(n)
    errors = []
    for _ in range(splits):
        order = rng.permutation(n)
        seen, left = order[tested:], order[:tested]
        solution = np.linalg.lstsq(x[seen], y[seen], rcond=None)[0]
        errors.append(np.square(y[left] - x[left] @ solution).mean())
    truth = noise**2 * (1 + width / (n - tested - width - 1))
    ratio = tested / (n - tested) if correct else 0.0
    return resampled_interval(np.array(errors), ratio, low=0, high=np.inf)[0], truth


def covered(case: Callable[[np.random.Generator], tuple[Interval, float]], draws: int = DRAWS) -> tuple[str, ...]:
    rng = np.random.default_rng(0)
    inside, width = [], []
    for _ in range(draws):
        interval, truth = case(rng)
        inside.append(interval.low <= truth <= interval.high)
        width.append(interval.high - interval.low)
    return f"{100 * np.mean(inside):.1f}", f"{np.mean(width):.3f}"


def rejected(test: Callable[[NDArray[np.float64], NDArray[np.int64], int], float], items: int, rows: int) -> str:
    """How often two equal runs differ by the test at 5 %."""
    rng = np.random.default_rng(1)
    names = np.repeat(np.arange(items), rows)
    count = 0
    for draw in range(TESTED):
        effect = np.repeat(rng.standard_normal((2, items)), rows, 1)
        hits = effect + rng.standard_normal((2, items * rows)) > 0.5
        count += test((hits[0].astype(float) - hits[1])[None], names, draw) < 0.05
    return f"{100 * count / TESTED:.1f}"


def family(rng: np.random.Generator) -> bool:
    """Whether any two of five equal runs are told apart after Holm's correction."""
    hits = rng.random((5, 80)) < 0.4
    pairs = [(i, j) for i in range(5) for j in range(i)]
    p = [permutation_p((hits[i].astype(float) - hits[j])[None], np.arange(80), 0) for i, j in pairs]
    return min(holm(p)) < 0.05


def main() -> None:
    cases: list[tuple[str, Callable[[np.random.Generator], tuple[Interval, float]]]] = [
        (
            f"share {rate:g}, {items} items"
            + (", some harder" if hard and rows == 1 else "")
            + (f", {rows} rows each" if rows > 1 else "")
            + (f", {seeds} seeds ± {spread:g}" if seeds > 1 else ""),
            lambda rng, rate=rate, items=items, rows=rows, seeds=seeds, spread=spread, hard=hard: share(
                rate, items, rows, seeds, spread, hard, rng
            ),
        )
        for rate, items, rows, seeds, spread, hard in [
            (0.5, 50, 1, 1, 0.0, False),
            (0.1, 50, 1, 1, 0.0, False),
            (0.02, 50, 1, 1, 0.0, False),
            (0.98, 50, 1, 1, 0.0, False),
            (0.1, 1000, 1, 1, 0.0, False),
            (0.1, 50, 5, 1, 0.0, True),
            (0.5, 50, 20, 1, 0.0, True),
            *((0.3, 150, 1, seeds, spread, False) for seeds in SEEDS for spread in (0.0, 0.03)),
            *((0.3, 150, 1, seeds, spread, True) for seeds in SEEDS for spread in (0.0, 0.03)),
            *((0.05, 1000, 1, seeds, 0.01, True) for seeds in SEEDS),
        ]
    ]
    cases += [
        (
            f"difference {gap:g} of shares at {rate:g}, {items} items",
            lambda rng, rate=rate, gap=gap, items=items: difference(rate, items, gap, rng),
        )
        for rate, gap, items in [(0.5, 0.0, 50), (0.5, 0.2, 50), (0.1, 0.05, 50), (0.05, 0.0, 50), (0.3, 0.05, 1000)]
    ]
    cases += [
        (
            f"difference {gap:g} of shares at {rate:g}, {items} items, {seeds} seeds ± {spread:g}",
            lambda rng, rate=rate, gap=gap, items=items, seeds=seeds, spread=spread: difference_of_seeds(
                rate, items, gap, seeds, spread, rng
            ),
        )
        for rate, gap, items, spread in [(0.3, 0.0, 150, 0.0), (0.3, 0.05, 150, 0.03), (0.05, 0.01, 1000, 0.01)]
        for seeds in SEEDS
    ]
    cases += [
        (
            f"{splits} splits that overlap, " + ("corrected" if correct else "as if independent"),
            lambda rng, splits=splits, correct=correct: overlapping(splits, correct, rng),
        )
        for splits in (5, 20)
        for correct in (True, False)
    ]
    rows = tuple((name, *covered(case)) for name, case in cases)
    note = f"How often the 95 % interval holds the true value, in %, and its mean width; {DRAWS} draws, ± 1 point."
    sheets = [Sheet("Coverage of the intervals", ("case", "coverage", "width"), rows, note)]
    tests = tuple(
        (name, rejected(test, 60, 1), rejected(test, 60, 5))
        for name, test in (("permutation", permutation_p), ("bootstrap", bootstrap_p))
    )
    rng = np.random.default_rng(2)
    any_of_five = 100 * np.mean([family(rng) for _ in range(100)])
    note = (
        f"How often two equal runs on 60 items differ at the 5 % level, in %, {TESTED} draws, ± 2. Of five equal runs, in "
        f"ten pairs, any two were told apart in {any_of_five:.0f} % of 100 draws after Holm's "
        "correction."
    )
    sheets.append(Sheet("Equal runs that are told apart", ("test", "one row per item", "five rows per item"), tests, note))
    text = "\n".join(sheet.markdown() for sheet in sheets)
    write_text(PAGE, f"# Coverage\n\nWritten by `python benchmarks/coverage.py`.\n\n{text}")
    print(text, end="")


if __name__ == "__main__":
    main()
