"""How certain a figure is: intervals over items, and over runs where there are several. Nothing is drawn at random.

Standard errors are those of a ratio of sums over items, linearised ("ultimate clusters", Woodruff 1971): rows of one item
depend on each other, and so do one item's successes in several directions. Shares have Wilson's interval, with the effective
number of items that this error implies (Korn and Graubard 1998; Dean and Pagano 2015): it stays within [0, 1] and has a width
at both ends. Paired differences have the interval of Bonett and Price (2012), which adds one success and one failure: it has
a width even where no pair differs.

Several runs on the same items are a second, crossed sample, as readers of the same cases are in radiology. The variance of the
mean is that between the runs' means over their number, which holds the runs and what is left, plus the covariance of two runs,
which is what the items have in common; its degrees of freedom are Satterthwaite's (Hillis 2007).
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gramian.errors import InputError, check_number, require

__all__ = ["Interval", "difference_interval", "resampled_interval", "share_interval", "student_quantile"]


class Interval(NamedTuple):
    """An estimate and the ends of its confidence interval."""

    value: float
    low: float
    high: float

    def percent(self) -> str:
        """The estimate and its interval in percent, for tables.

        >>> Interval(0.181, 0.15, 0.2149).percent()
        '18.1 [15.0, 21.5]'
        """
        return f"{100 * self.value:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


UNKNOWN = Interval(math.nan, math.nan, math.nan)


def share_interval(values: NDArray[np.float64], items: NDArray[np.int64] | None = None, *, level: float = 0.95) -> Interval:
    """Mean over runs and strata of the share of rows, each in [0, 1], with its interval over items and runs.

    Wilson's interval, with the effective number of independent items that the standard error of the mean implies; where all
    rows agree, which says nothing about their dependence, the number of items. Several runs are a sample, too: see the module.

    Args:
        values: (rows,), (strata, rows) or (runs, strata, rows) in [0, 1]; NaN where a row does not take part. Strata, such as
            retrieval directions, are averaged with equal weight.
        items: (rows,) the item of each row; every row is an item of its own by default.
        level: share of such intervals that hold the true value.

    Returns:
        The mean and its interval within [0, 1]; NaN if nothing takes part.

    Raises:
        InputError: values of another shape or range, another number of items, or a level outside (0, 1).

    Source: Wilson 1927; Korn and Graubard, "Confidence intervals for proportions with small expected number of positive
    counts estimated from survey data", 1998; Dean and Pagano, "Evaluating confidence interval methods for binomial
    proportions in clustered surveys", 2015. For runs Hillis, "A comparison of denominator degrees of freedom methods for
    multiple observer ROC analysis", 2007.

    >>> share_interval(np.ones(20)).percent(), share_interval(np.array([0.0, 1.0, 1.0, 1.0])).value
    ('100.0 [83.9, 100.0]', 0.75)
    """
    mean = _mean(values, items, level, 0, 1)
    if mean is None:
        return UNKNOWN
    p, z = mean.value, mean.quantile
    n = mean.independent(p * (1 - p))  # of zeros and ones that are equally uncertain
    centre, width = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = ((centre + side * width) / (1 + z * z / n) for side in (-1, 1))
    return Interval(p, min(p, max(0.0, low)), max(p, min(1.0, high)))


def difference_interval(
    values: NDArray[np.float64], items: NDArray[np.int64] | None = None, *, level: float = 0.95
) -> Interval:
    """Mean over runs and strata of paired differences of two shares, each in [−1, 1], with its interval over items and runs.

    Bonett and Price's interval: that of the mean after adding one item with difference 1 and one with difference −1, with the
    effective number of independent items that the standard error implies.

    Args:
        values: as for `share_interval`, in [−1, 1].
        items: as for `share_interval`.
        level: as for `share_interval`.

    Returns:
        The mean and its interval within [−1, 1]; NaN if nothing takes part.

    Raises:
        InputError: as for `share_interval`.

    Source: Bonett and Price, "Adjusted Wald confidence interval for a difference of binomial proportions based on paired
    data", 2012.

    >>> difference_interval(np.zeros(100)).percent()
    '0.0 [-2.7, 2.7]'
    """
    mean = _mean(values, items, level, -1, 1)
    if mean is None:
        return UNKNOWN
    n = mean.independent(mean.square - mean.value**2)
    centre, square = n * mean.value / (n + 2), (n * mean.square + 2) / (n + 2)
    width = mean.quantile * math.sqrt(max(0.0, square - centre**2) / (n + 2))
    low, high = max(-1.0, centre - width), min(1.0, centre + width)
    return Interval(mean.value, min(low, mean.value), max(high, mean.value))


def resampled_interval(
    differences: NDArray[np.float64],
    tested: float,
    *,
    level: float = 0.95,
    low: float = -math.inf,
    high: float = math.inf,
) -> tuple[Interval, float]:
    """Mean of a figure, or of a difference, over repeated splits, with an interval and a p that know of the overlap.

    The splits share most of their items, so their differences are not independent. The variance of the mean is taken as
    ``(1/J + tested) s²``, s² that of the J differences, with J − 1 degrees of freedom.

    Args:
        differences: (J,) one of each split.
        tested: items to test per item to train and choose with.
        level: of the interval.
        low: the lowest possible value, at which the interval ends.
        high: the highest.

    Returns:
        The mean with its interval, and the two-sided p of the mean being 0.

    Raises:
        InputError: fewer than two splits.

    Source: Nadeau and Bengio, "Inference for the generalization error", 2003.

    >>> interval, p = resampled_interval(np.array([0.02, 0.03, 0.04]), 0.25)
    >>> interval.percent(), round(p, 3)
    ('3.0 [-0.3, 6.3]', 0.059)
    """
    require("scipy")
    from scipy.stats import t

    check_number("tested", tested, "[0, inf)")
    check_number("level", level, "(0, 1)")
    if differences.ndim != 1 or len(differences) < 2:
        raise InputError(f"`differences` must hold one number for each of two or more splits; got shape {differences.shape}.")
    mean, number = float(differences.mean()), len(differences)
    error = math.sqrt((1 / number + tested) * float(differences.var(ddof=1)))
    if error <= 1e-12 * max(abs(mean), 1e-300):  # all splits agree
        return Interval(mean, mean, mean), float(mean == 0)
    width = float(t.ppf((1 + level) / 2, number - 1)) * error
    return Interval(mean, max(low, mean - width), min(high, mean + width)), float(2 * t.sf(abs(mean) / error, number - 1))


class _Mean(NamedTuple):
    """A mean, the mean square, the standard error over items and runs and its quantile, and numbers of items.

    `most` is the largest number of independent ones: all observations of one run. Several runs that agree by luck have a larger
    quantile instead.
    """

    value: float
    square: float
    error: float
    items: int
    most: float
    quantile: float

    def independent(self, variance: float) -> float:
        """The number of independent observations with this variance whose mean is equally uncertain.

        It is no more than that of independent rows with the variance that the values have.
        """
        own = self.square - self.value**2
        if min(variance, own) <= 1e-12 or self.error <= 1e-9 or self.items < 2:  # all agree
            return float(self.items)
        return min(variance / self.error**2, self.most * variance / own)


def _mean(values: NDArray[np.float64], items: NDArray[np.int64] | None, level: float, low: float, high: float) -> _Mean | None:
    check_number("level", level, "(0, 1)")
    if values.ndim not in (1, 2, 3):
        raise InputError(f"`values` must have 1 to 3 axes; got shape {values.shape}.")
    data = np.asarray(values, dtype=np.float64).reshape((1,) * (3 - values.ndim) + values.shape)
    if items is not None and items.shape != data.shape[2:]:
        raise InputError(f"`items` must name the item of each of {data.shape[2]} rows; got shape {items.shape}.")
    if np.nanmin(data, initial=low) < low or np.nanmax(data, initial=high) > high:
        raise InputError(f"`values` must lie in [{low}, {high}]; got {np.nanmin(data)} to {np.nanmax(data)}.")
    data = data[~np.isnan(data).all((1, 2))]
    if not data.size:
        return None
    present, data = ~np.isnan(data), np.nan_to_num(data)
    counts = present.sum(2)
    strata = (counts > 0).sum(1)  # of each run that have anyone
    weight = present / np.maximum(counts, 1)[..., None] / strata[:, None, None] / len(data)  # of each row in the mean
    means = data.sum(2) / np.maximum(counts, 1)
    influence = (weight * (data - means[..., None])).sum(1)  # (runs, rows) of each row in the mean, through each run
    taking_part = present.any((0, 1))
    if items is not None:
        names = np.unique(items, return_inverse=True)[1].reshape(-1)
        influence = np.stack([np.bincount(names, row) for row in influence])
        taking_part = np.bincount(names, taking_part) > 0
    by_run = means.sum(1) / strata
    variance = float(np.square(influence.sum(0)).sum())
    quantile = NormalDist().inv_cdf((1 + level) / 2)
    if len(by_run) > 1:
        variance, degrees = _crossed(by_run, influence)
        quantile = quantile if math.isinf(degrees) else student_quantile((1 + level) / 2, degrees)
    square = float((weight * np.square(data)).sum())
    most = float(present.sum()) if len(by_run) == 1 else math.inf
    return _Mean(float(by_run.mean()), square, math.sqrt(variance), int(taking_part.sum()), most, quantile)


def _crossed(by_run: NDArray[np.float64], influence: NDArray[np.float64]) -> tuple[float, float]:
    """The variance of the mean over runs and items that cross, and its degrees of freedom.

    Args:
        by_run: (runs,) the mean of each run.
        influence: (runs, items) of each item in the mean over the runs, through each run.
    """
    runs = len(by_run)
    between = float(by_run.var(ddof=1)) / runs
    of_items = float(np.square(influence.sum(0)).sum())  # if the runs were no sample
    if between <= 1e-24:  # all runs agree
        return of_items, math.inf
    products = of_items - float(np.square(influence).sum())  # of different runs
    shared = max(0.0, products * runs / (runs - 1))
    return between + shared, min((runs - 1) * ((between + shared) / between) ** 2, 1e6)


def student_quantile(p: float, degrees: float) -> float:
    """Quantile of Student's t distribution, by bisection of its distribution function.

    Args:
        p: in [0.5, 1).
        degrees: ν ≥ 1, degrees of freedom; not only whole numbers.

    Returns:
        t with P(T ≤ t) = p.

    Raises:
        InputError: p outside [0.5, 1), or ν below 1.

    >>> round(student_quantile(0.975, 2), 3), round(student_quantile(0.975, 100), 3)
    (4.303, 1.984)
    """
    check_number("p", p, "[0.5, 1)")
    check_number("degrees", degrees, "[1, inf)")
    half = math.exp(math.lgamma(degrees / 2) - math.lgamma((degrees + 1) / 2)) * math.sqrt(math.pi) / 2

    def within(angle: float) -> float:
        """P(|T| ≤ √ν tan φ), the integral of cos^(ν−1) from 0 to φ over that to π/2, by Gauss's rule."""
        cosines = np.cos(angle / 2 * (_NODES + 1))
        return angle / 2 * float((_WEIGHTS * cosines ** (degrees - 1)).sum()) / half

    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle) < 2 * p - 1 else (low, middle)
    return math.sqrt(degrees) * math.tan((low + high) / 2)


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)
