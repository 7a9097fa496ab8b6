"""Regression in a shared space: a number that a linear probe predicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gramian.bundle import Bundle
from gramian.errors import InputError, require
from gramian.evaluation.classification import Labels, features_of, items_of, names_of
from gramian.evaluation.rankings import Names
from gramian.evaluation.stats import Interval
from gramian.sheets import Sheet

__all__ = ["Regressed", "regress", "regressed_sheet"]

PENALTIES = (1e-2, 1e-1, 1.0, 10.0, 100.0, 1e3, 1e4)
"""Penalties of the ridge regression, among which validation chooses."""

RESAMPLES = 2000
"""Of the bootstrap of R², whose items are drawn with a fixed seed."""


@dataclass(frozen=True)
class Regressed:
    """How well a number of some items is predicted.

    Attributes:
        target: what it is.
        modalities: what is known of the items.
        truth: (q,) the numbers.
        predicted: (q,) what the probe says.
        items: (q,) the item of each.
        unlabelled: rows of the Bundle that are left out.
        r2: share of the variance that is explained, with an interval over items; below 0 where the mean would do better.
        error: mean absolute error.
        rank_correlation: Spearman's.
        penalty: of the ridge regression.
    """

    target: str
    modalities: Names
    truth: NDArray[np.float64] = field(repr=False)
    predicted: NDArray[np.float64] = field(repr=False)
    items: NDArray[np.int64] = field(repr=False)
    unlabelled: int
    r2: Interval
    error: float
    rank_correlation: float
    penalty: float

    def to_dict(self) -> dict[str, object]:
        """Everything as plain numbers, lists and dicts."""
        return {
            "target": self.target,
            "modalities": list(self.modalities),
            "items": len(self.truth),
            "unlabelled": self.unlabelled,
            "r2": self.r2._asdict(),
            "mean_absolute_error": self.error,
            "rank_correlation": self.rank_correlation,
            "penalty": self.penalty,
        }


def regress(
    target: str,
    train: Bundle,
    train_values: Labels,
    bundle: Bundle,
    values: Labels,
    *,
    validation: tuple[Bundle, Labels] | None = None,
    modalities: Sequence[str] | None = None,
) -> Regressed:
    """Tell a number by ridge regression on the vectors of the modalities, one behind the other.

    Args:
        target: what the number is, for the table.
        train: items to learn from.
        train_values: their numbers, as text.
        bundle: n items in the same space.
        values: n numbers, as text; None where unknown.
        validation: items and numbers by whose error the penalty is chosen; otherwise by leaving out one training item at a
            time.
        modalities: what is known of the items; all by default.

    Returns:
        The Regressed.

    Raises:
        InputError: scikit-learn or scipy is not installed; values that are no numbers or all alike, an unknown modality.
    """
    require("sklearn", "scipy")
    from scipy.stats import spearmanr
    from sklearn.linear_model import Ridge, RidgeCV

    names = names_of(bundle, modalities)
    numbers, rows = _numbers(bundle, values, names, target)
    learnt, of_train = _numbers(train, train_values, names, target)
    if np.ptp(learnt) == 0:
        raise InputError(f"`{target}` is {learnt[0]:g} in every training item; there is nothing to predict.")
    masks = not bool(train[of_train].select(*names).present.all())
    features = features_of(train[of_train], names, masks)
    if validation is None:
        penalty = float(RidgeCV(PENALTIES).fit(features, learnt).alpha_)
    else:
        theirs, kept = _numbers(validation[0], validation[1], names, target)
        seen = features_of(validation[0][kept], names, masks)
        errors = [np.square(Ridge(each).fit(features, learnt).predict(seen) - theirs).mean() for each in PENALTIES]
        penalty = PENALTIES[int(np.argmin(errors))]
    predicted = Ridge(penalty).fit(features, learnt).predict(features_of(bundle[rows], names, masks))
    items = items_of(bundle)[rows]
    correlation = float(spearmanr(numbers, predicted).statistic) if np.ptp(predicted) and np.ptp(numbers) else float("nan")
    return Regressed(
        target,
        names,
        numbers,
        predicted,
        items,
        len(bundle) - len(rows),
        _explained(numbers, predicted, items),
        float(np.abs(numbers - predicted).mean()),
        correlation,
        penalty,
    )


def regressed_sheet(results: Sequence[Regressed]) -> Sheet:
    """The results as a table."""
    rows = tuple(
        (
            "+".join(one.modalities),
            one.target,
            str(len(one.truth)),
            f"{one.r2.value:.3f} [{one.r2.low:.3f}, {one.r2.high:.3f}]",
            f"{one.error:.4g}",
            f"{one.rank_correlation:.3f}",
        )
        for one in results
    )
    note = "R² with a 95 % interval over items (bootstrap, BCa); the mean absolute error; Spearman's correlation."
    header = ("modalities", "number", "items", "R² [95 %]", "error", "rank correlation")
    return Sheet("Regression by a linear probe", header, rows, note)


def _numbers(bundle: Bundle, values: Labels, names: Names, target: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The finite numbers, and their rows."""
    if isinstance(values, str) or len(values) != len(bundle):
        raise InputError(f"`{target}` must have a number for each of {len(bundle)} rows; got {len(values)}.")
    has = bundle.has(*names).tolist()
    rows = [row for row, value in enumerate(values) if value is not None and has[row]]
    try:
        numbers = np.array([float(str(values[row])) for row in rows])
    except ValueError:
        wrong = next(str(values[row]) for row in rows if not _is_number(str(values[row])))
        raise InputError(f"column `{target}` must hold numbers, for regression; got {wrong!r:.60}.") from None
    if len(numbers) < 2 or not np.isfinite(numbers).all():
        raise InputError(f"`{target}` must hold at least two numbers, all finite; got {len(numbers)}.")
    return numbers, np.array(rows, np.int64)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _explained(truth: NDArray[np.float64], predicted: NDArray[np.float64], items: NDArray[np.int64]) -> Interval:
    """R² and its bias-corrected bootstrap interval over items."""
    from scipy.stats import bootstrap

    names = np.unique(items, return_inverse=True)[1].reshape(-1)
    parts = np.stack(
        [np.bincount(names, weight) for weight in (np.ones(len(truth)), truth, truth**2, (truth - predicted) ** 2)]
    )

    def share(index: NDArray[np.int64], axis: int = -1) -> NDArray[np.float64]:
        count, total, square, error = parts[:, index.astype(int)].sum(axis)
        spread = np.maximum(square - total**2 / count, np.finfo(float).tiny)
        result: NDArray[np.float64] = 1 - error / spread
        return result

    every = np.arange(parts.shape[1])
    value = float(share(every))
    if len(every) < 3:
        return Interval(value, float("nan"), float("nan"))
    rng = np.random.default_rng(0)
    ends = bootstrap((every,), share, n_resamples=RESAMPLES, vectorized=True, rng=rng, batch=200).confidence_interval
    return Interval(value, float(ends.low), float(ends.high))
