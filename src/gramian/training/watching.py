"""What `fit` reports while it trains: figures of the validation items, speed and time left, and trouble in one line."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from itertools import combinations

import torch
from torch import Tensor

from gramian.bundle import Bundle
from gramian.errors import InputError, TooSmallError
from gramian.evaluation.directions import all_ranks, single_directions
from gramian.evaluation.metrics import antipodal_share, mean_reciprocal_rank, modality_gap, recall_at_k
from gramian.evaluation.rankings import Rankings
from gramian.losses.base import Loss
from gramian.model.towers import evaluating
from gramian.training.recipe import Recipe

__all__ = ["Clock", "Watch", "check_finite", "clock_face", "validation_figures", "validation_loss"]

logger: logging.Logger = logging.getLogger("gramian")

COLLAPSED = 0.99
"""Mean cosine of a modality's different items from which on they count as one point."""

TURNED = 0.75
"""Share of antipodal pairs from which on two modalities count as turned away from each other; ½ is chance."""

LEAST = 8
"""Validation items, or pairs, from which trouble is reported."""


def validation_figures(bundle: Bundle) -> dict[str, float]:
    """How the validation items lie and what they find, as `History.records` names it.

    Args:
        bundle: all of them, embedded.

    Returns:
        "validation/mrr" and "validation/recall@1", over the queries of all directions between two modalities, so that one with
        few queries weighs little; "validation/recall@1/text-image" for each direction; "validation/gap/text-image" and
        "validation/antipodal/text-image" for each pair; "validation/cosine/text", the mean cosine of a modality's different
        items. Empty where no two items share two modalities.
    """
    rankings = Rankings(bundle)
    ranks = all_ranks(rankings)
    if not len(ranks.better):
        return {}
    figures = {"validation/mrr": mean_reciprocal_rank(ranks), "validation/recall@1": recall_at_k(ranks, 1)}
    for one in single_directions(rankings):
        figures[f"validation/recall@1/{one.query[0]}-{one.target[0]}"] = recall_at_k(one.ranks, 1)
    vectors = {name: bundle.column(name)[bundle.has(name)].detach() for name in bundle.modalities}
    for first, second in combinations(bundle.modalities, 2):
        both = bundle.has(first) & bundle.has(second)
        if bool(both.any()):
            figures[f"validation/gap/{first}-{second}"] = modality_gap(vectors[first], vectors[second])
            share = antipodal_share(bundle.column(first)[both], bundle.column(second)[both])
            figures[f"validation/antipodal/{first}-{second}"] = share
    for name, rows in vectors.items():
        if len(rows) > 1:
            total = rows.double().sum(0).square().sum()
            figures[f"validation/cosine/{name}"] = float((total - len(rows)) / (len(rows) * (len(rows) - 1)))
    return figures


def validation_loss(loss: Loss, bundle: Bundle, batch_size: int) -> dict[str, float]:
    """The loss of validation items, in batches of the size that is trained on, in the order of the table.

    Args:
        loss: in training mode, and back afterwards.
        bundle: the items, embedded.
        batch_size: where there are fewer items the loss is of fewer, and so lower.

    Returns:
        "validation/loss"; empty where no batch holds two items to contrast, or it is not finite.
    """
    totals = []
    with evaluating(loss), torch.no_grad():
        for start in range(0, max(1, len(bundle) // batch_size) * batch_size, batch_size):
            try:
                totals.append(float(loss(bundle[start : start + batch_size]).total))
            except TooSmallError:
                continue
    mean = sum(totals) / len(totals) if totals else math.nan
    return {"validation/loss": mean} if math.isfinite(mean) else {}


def check_finite(losses: Sequence[Tensor], epoch: int, recipe: Recipe) -> None:
    """Refuse to go on once a loss is not finite.

    Raises:
        InputError: one is not; where it began, and what to try.
    """
    values = torch.stack(list(losses))
    wrong = (~values.isfinite()).nonzero().flatten()
    if len(wrong):
        step = int(wrong[0])
        fixes = [f"lower `learning_rate` (now {recipe.learning_rate:g})", "raise `warmup` or the loss's temperature"]
        if recipe.precision != "no":
            fixes.append(f"train with `precision` 'no' (now {recipe.precision!r})")
        raise InputError(
            f"the loss is not finite in epoch {epoch}, from batch {step + 1} of {len(values)} on ({float(values[step])}). "
            f"Try one of: {'; '.join(fixes)}."
        )


class Watch:
    """Tells of a collapse once, with the epoch and what to try.

    Args:
        items: of the validation table; with fewer than eight nothing is reported.
        sign_blind: whether the loss does not distinguish a vector from its negative.
    """

    def __init__(self, items: int, *, sign_blind: bool) -> None:
        self.enough: bool = items >= LEAST
        self.sign_blind = sign_blind
        self.reported: set[str] = set()

    def look(self, record: dict[str, float]) -> None:
        """Warn of what a record with validation figures shows."""
        for kind, message in self._trouble(record) if self.enough else ():
            if kind not in self.reported:
                self.reported.add(kind)
                logger.warning("epoch %d: %s", record["epoch"], message)

    def _trouble(self, record: dict[str, float]) -> Iterator[tuple[str, str]]:
        collapsed = _worst(record, "validation/cosine/", COLLAPSED)
        if collapsed:
            yield (
                "collapsed",
                f"{collapsed[0]} has collapsed to one point: its different validation items have a mean cosine of "
                f"{collapsed[1]:.3f}. Lower `learning_rate`, raise `batch_size`, or pick a loss with negatives, as Pairwise().",
            )
        turned = _worst(record, "validation/antipodal/", TURNED)
        if turned:
            fix = (
                "Pick a loss that distinguishes signs: Pairwise(), Gram(score='cone', anchor='each') or PMRL(signed=True)."
                if self.sign_blind
                else "Check that the rows of the two columns are of the same items, or lower `learning_rate`."
            )
            yield (
                "turned",
                f"{100 * turned[1]:.0f} % of the matched pairs {turned[0]} point away from each other (chance: 50 %). {fix}",
            )


def _worst(record: dict[str, float], prefix: str, limit: float) -> tuple[str, float] | None:
    """The largest figure of a kind and what it is of, if it reaches the limit."""
    figures = {name.removeprefix(prefix): value for name, value in record.items() if name.startswith(prefix)}
    name = max(figures, key=lambda each: figures[each], default=None)
    return None if name is None or not figures[name] >= limit else (name, figures[name])


class Clock:
    """The speed of training and the time that is left. It is kept out of `History`: no two runs take the same time.

    Args:
        epochs: of the whole run.
        done: that a resumed run has behind it.
    """

    def __init__(self, epochs: int, done: int) -> None:
        self.epochs: int = epochs
        self.done: int = done
        self.start: float = time.perf_counter()
        self.began: float = self.start
        self.trained: float = self.start

    def rest(self) -> None:
        """Training of the epoch ends here; what follows is validation and files."""
        self.trained = time.perf_counter()

    def tick(self, epoch: int, items: int) -> dict[str, float]:
        """An epoch is over.

        Args:
            epoch: its number.
            items: trained on in it.

        Returns:
            "epoch", "seconds" of the epoch with its validation, "items_per_second" of training, "seconds_left" of the run at
            the mean pace so far.
        """
        now = time.perf_counter()
        pace = (now - self.began) / max(1, epoch - self.done)
        speed = {
            "epoch": epoch,
            "seconds": now - self.start,
            "items_per_second": items / max(self.trained - self.start, 1e-9),
            "seconds_left": pace * (self.epochs - epoch),
        }
        self.start = now
        return {name: value if name == "epoch" else round(value, 3) for name, value in speed.items()}


def clock_face(seconds: float) -> str:
    """A time to wait, in words.

    >>> clock_face(4.2), clock_face(75), clock_face(7380), clock_face(math.nan)
    ('4 s', '1:15 min', '2:03 h', '?')
    """
    if not math.isfinite(seconds):
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60}:{whole % 60:02d} min" if whole < 3600 else f"{whole // 3600}:{whole % 3600 // 60:02d} h"
