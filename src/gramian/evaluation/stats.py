"""How sure a figure is: bootstrap intervals over items, widened by the spread of several runs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gramian.errors import InputError

__all__ = ["Interval", "bootstrap_mean", "student_quantile"]


class Interval(NamedTuple):
    """An estimate and the ends of its confidence interval."""

    value: float
    low: float
    high: float

    def percent(self) -> str:
        """As percentages, for tables.

        >>> Interval(0.181, 0.15, 0.2149).percent()
        '18.1 [15.0, 21.5]'
        """
        return f"{100 * self.value:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def bootstrap_mean(values: NDArray[np.float64], *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval:
    """Mean over runs and strata of the mean over items, with an interval over items and runs.

    Items are drawn with replacement, the same draw in every run and stratum (one item's successes in different directions
    depend on each other); the interval's ends are percentiles of the draws. Three or five runs are too few to be drawn from:
    where there are several, Student's half-width of the mean of the runs, t·s/√runs, is added in quadrature.

    Args:
        values: (items,), (strata, items) or (runs, strata, items); NaN where an item does not take part. A stratum is
            something to average over with equal weight, such as a retrieval direction.
        level: share of such intervals that hold the true value.
        resamples: number of draws.
        seed: of the draws.

    Returns:
        The estimate and its interval; NaN if nothing takes part.

    >>> bootstrap_mean(np.array([0.0, 1.0, 1.0, 1.0])).value
    0.75
    """
    if not 0 < level < 1:
        raise InputError(f"`level` must lie in (0, 1); got {level}.")
    if values.ndim not in (1, 2, 3):
        raise InputError(f"`values` must have 1 to 3 axes; got shape {values.shape}.")
    data = np.asarray(values, dtype=np.float64).reshape((1,) * (3 - values.ndim) + values.shape)
    runs, strata, items = data.shape
    there = ~np.isnan(data)
    if not there.any():
        return Interval(float("nan"), float("nan"), float("nan"))
    # Items with the same values in every run and stratum are interchangeable: draw how often each kind comes up.
    kinds, counts = np.unique(
        np.concatenate([np.nan_to_num(data), there]).reshape(2 * runs * strata, items), axis=1, return_counts=True
    )
    sums, members = kinds.reshape(2, runs, strata, -1)

    def estimates(weights: NDArray[np.int64]) -> NDArray[np.float64]:
        """(draws, kinds) weights → (draws, runs): a run's mean over strata; NaN where a draw holds nobody that takes part."""
        total, count = (np.einsum("rsk,bk->brs", x, weights, optimize=True) for x in (sums, members))
        means = np.divide(total, count, out=np.zeros_like(total), where=count > 0)
        filled = (count > 0).sum(2)
        mean: NDArray[np.float64] = np.divide(means.sum(2), filled, out=np.full(filled.shape, np.nan), where=filled > 0)
        return mean

    draws = estimates(np.random.default_rng(seed).multinomial(items, counts / items, size=resamples))
    drawn = draws[~np.isnan(draws).any(1)].mean(1)
    by_run = estimates(counts[None])[0]
    by_run = by_run[~np.isnan(by_run)]
    value = float(by_run.mean())
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]) if len(drawn) else (value, value)
    width = 0.0
    if len(by_run) > 1:
        width = student_quantile((1 + level) / 2, len(by_run) - 1) * float(by_run.std(ddof=1)) / len(by_run) ** 0.5
    return Interval(value, value - float(np.hypot(value - low, width)), value + float(np.hypot(high - value, width)))


def student_quantile(p: float, degrees: int) -> float:
    """Quantile of Student's t distribution.

    With t = √ν·tan φ the density is proportional to cos(φ)^(ν−1), which a fine grid integrates to six digits.

    Args:
        p: in [0.5, 1).
        degrees: ν ≥ 1, degrees of freedom.

    >>> round(student_quantile(0.975, 2), 3), round(student_quantile(0.975, 100), 3)
    (4.303, 1.984)
    """
    if not 0.5 <= p < 1 or degrees < 1:
        raise InputError(f"`p` must lie in [0.5, 1) and `degrees` be at least 1; got {p} and {degrees}.")
    angle = np.linspace(0, np.pi / 2, 200_001)
    density = np.cos(angle) ** (degrees - 1)
    share = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return float(degrees**0.5 * np.tan(np.interp(2 * p - 1, share / share[-1], angle)))
