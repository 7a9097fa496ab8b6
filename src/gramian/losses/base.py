"""`Loss`: a Bundle in, a scalar and its named parts out; `Sum`: a weighted sum of losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gramian.bundle import Bundle, Vectors
from gramian.errors import InputError, TooSmallError, check_number, check_type
from gramian.kernels import Exchange
from gramian.papers import Paper

__all__ = ["Loss", "LossOutput", "Sum"]


class LossOutput(NamedTuple):
    """What a loss gives for one batch.

    Attributes:
        total: the scalar to differentiate.
        parts: the named scalars it is made of.
        empty_rows: the number of rows with nothing present, which were left out.
    """

    total: Tensor
    parts: dict[str, Tensor]
    empty_rows: int = 0


class Loss(nn.Module, ABC):
    """An objective over a Bundle. Subclasses write `compute`; calling the module also accepts a dict of (n, d) tensors.

    Losses add up and take factors: `0.5 * Pairwise() + PMRL()` is a `Sum`.

    Attributes:
        papers: its sources; empty for this library's own losses.
    """

    papers: tuple[Paper, ...] = ()

    @property
    @abstractmethod
    def sign_blind(self) -> bool:
        """Whether −z is as good as z: from random weights such an objective settles in antipodal solutions."""

    @abstractmethod
    def compute(self, bundle: Bundle, exchange: Exchange) -> LossOutput:
        """The loss of one batch whose rows all have something present, contrasted with the items of `exchange`."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"

    def forward(self, items: Bundle | Mapping[str, Vectors], *, generator: torch.Generator | None = None) -> LossOutput:
        """The loss of one batch: a Bundle, or what `Bundle.from_dict` takes.

        Rows with nothing present are left out and counted. Rows with equal `Bundle.item_ids` are one item and no negatives of
        each other.

        Args:
            items: the batch.
            generator: for losses that draw at random in training; torch's own by default. In evaluation mode nothing is drawn
                from it.

        Returns:
            The scalar, its parts, and the number of empty rows.

        Raises:
            InputError: the loss cannot work with these modalities.
            TooSmallError: fewer than two items have what the loss compares.
        """
        bundle = items if isinstance(items, Bundle) else Bundle.from_dict(items)
        filled = bundle.has()
        empty_rows = len(bundle) - int(filled.sum())
        # Scores divided by a small temperature, and 1 − cos² above all, do not survive the 16-bit products of autocast.
        with torch.autocast(bundle.vectors.device.type, enabled=False):
            return self.compute(bundle[filled] if empty_rows else bundle, Exchange(generator))._replace(empty_rows=empty_rows)

    def __add__(self, other: Loss) -> Sum:
        if not isinstance(other, Loss):
            return NotImplemented
        return Sum([*_terms(self)[0], *_terms(other)[0]], [*_terms(self)[1], *_terms(other)[1]])

    def __radd__(self, other: int) -> Loss:
        """Makes `sum` of a list of losses work, which starts from 0."""
        return self if other == 0 else NotImplemented

    def __mul__(self, weight: float) -> Sum:
        losses, weights = _terms(self)
        return Sum(losses, [weight * each for each in weights])

    __rmul__ = __mul__


class Sum(Loss):
    """A weighted sum of losses; what `0.5 * Pairwise() + PMRL()` makes.

    Its parts are those of the terms without their factors, named "Pairwise/text-image". A term with nothing to contrast in a
    batch is left out; a batch in which no term has anything is an error.

    Args:
        losses: the terms.
        weights: one factor per term, finite and not negative; 1 by default. 0 switches a term off but still reports its parts.

    Raises:
        InputError: no terms, or weights that are not one per term, finite and not negative.

    >>> from gramian.losses import PMRL, Pairwise
    >>> loss = 0.5 * Pairwise() + PMRL(signed=True)
    >>> loss.weights
    (0.5, 1.0)
    >>> sorted(loss({"text": torch.eye(3), "image": torch.eye(3)}).parts)
    ['PMRL/alignment', 'PMRL/instance', 'Pairwise/text-image']
    """

    def __init__(self, losses: Sequence[Loss], weights: Sequence[float] | None = None) -> None:
        super().__init__()
        check_type("losses", losses, list, tuple)
        for loss in losses:
            check_type("losses", loss, Loss)
        weights = [1.0] * len(losses) if weights is None else weights
        if not losses:
            raise InputError("`losses` must hold at least one loss; got none.")
        if len(losses) != len(weights):
            raise InputError(f"`weights` must give each of the losses one factor; got {len(weights)} for {len(losses)}.")
        for i, weight in enumerate(weights):
            check_number(f"weights[{i}]", weight, "[0, inf)")
        self.papers: tuple[Paper, ...] = tuple(dict.fromkeys(paper for loss in losses for paper in loss.papers))
        self.losses: nn.ModuleList = nn.ModuleList(losses)
        self.weights: tuple[float, ...] = tuple(float(weight) for weight in weights)

    @property
    def sign_blind(self) -> bool:
        """True if every term is."""
        return all(loss.sign_blind for loss in self._losses())

    def compute(self, bundle: Bundle, exchange: Exchange) -> LossOutput:
        """The weighted sum over the terms that have something to contrast.

        Raises:
            TooSmallError: no term has.
        """
        names = [type(loss).__name__ for loss in self._losses()]
        repeated = {name for name, count in Counter(names).items() if count > 1}
        total = bundle.vectors.new_zeros(())
        parts: dict[str, Tensor] = {}
        failures: list[TooSmallError] = []
        for i, (name, loss, weight) in enumerate(zip(names, self._losses(), self.weights, strict=True)):
            try:
                result = loss.compute(bundle, exchange)
            except TooSmallError as error:
                failures.append(error)
                continue
            total = total + weight * result.total
            label = f"{name} {i + 1}" if name in repeated else name
            parts |= {f"{label}/{part}": value for part, value in result.parts.items()}
        if len(failures) == len(names):
            raise failures[-1]
        return LossOutput(total, parts)

    def _losses(self) -> list[Loss]:
        return [loss for loss in self.losses if isinstance(loss, Loss)]

    def __repr__(self) -> str:
        return " + ".join(
            repr(loss) if weight == 1 else f"{weight:g} * {loss!r}"
            for weight, loss in zip(self.weights, self._losses(), strict=True)
        )


def _terms(loss: Loss) -> tuple[list[Loss], list[float]]:
    return (loss._losses(), list(loss.weights)) if isinstance(loss, Sum) else ([loss], [1.0])


def comparable(
    bundle: Bundle, comparisons: Mapping[str, tuple[str, Sequence[str]]], what: str, exchange: Exchange
) -> Iterator[tuple[str, Bundle]]:
    """Each comparison (name → query, targets) for which two different items have both sides, and those items.

    Raises:
        TooSmallError: there is no such comparison; `what` says what the items lack.
    """
    most = 0
    for name, (query, targets) in comparisons.items():
        both = bundle.has(query) & bundle.has(*targets)
        usable = bundle if both.all() else bundle[both]
        distinct = exchange.distinct(usable)
        most = max(most, distinct)
        if distinct > 1:
            yield name, usable
    if most < 2:
        raise too_small(most, what)


def too_small(count: int, what: str) -> TooSmallError:
    """The error for a batch with nothing to contrast."""
    return TooSmallError(f"`items` must hold at least two items with {what}; got {count}. Use a larger batch.")
