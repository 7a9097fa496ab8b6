"""How sure a figure is: bootstrap intervals over items, and over seeds where there are several runs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gramian.errors import InputError

__all__ = ["Interval", "bootstrap_mean"]


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
    """Mean over strata of the mean over items, with a percentile bootstrap interval.

    Items are drawn with replacement, the same draw in every run and stratum (one item's successes in different directions
    depend on each other); where there are several runs, they are drawn with replacement as well.

    Args:
        values: (items,), (strata, items) or (runs, strata, items); NaN where an item does not take part. A stratum is
            something to average over with equal weight, such as a retrieval direction.
        level: share of resamples inside the interval.
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

    def estimate(run_weights: NDArray[np.int64], kind_weights: NDArray[np.int64]) -> NDArray[np.float64]:
        """(draws, runs) and (draws, kinds) weights → (draws,)."""
        total, count = (np.einsum("br,rsk,bk->bs", run_weights, x, kind_weights, optimize=True) for x in (sums, members))
        means = np.divide(total, count, out=np.zeros_like(total), where=count > 0)
        # A stratum of which a draw holds no item is left out of that draw.
        mean: NDArray[np.float64] = means.sum(1) / np.maximum((count > 0).sum(1), 1)
        whole: NDArray[np.float64] = mean[(count > 0).any(1)]
        return whole

    generator = np.random.default_rng(seed)
    drawn = estimate(
        generator.multinomial(runs, np.full(runs, 1 / runs), size=resamples),
        generator.multinomial(items, counts / items, size=resamples),
    )
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    value = estimate(np.ones((1, runs), dtype=np.int64), counts[None])[0]
    return Interval(float(value), float(low), float(high))
