"""What every loss shares: Bundle in, scalar and named parts out; sums of losses; the learned temperature."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gramian.bundle import Bundle, Vectors
from gramian.errors import InputError, TooSmallError, check_choice
from gramian.kernels import Exchange, Form, all_pairs
from gramian.losses.functional import LOCAL, check_block_size, check_negatives, info_nce, info_nce_of

__all__ = ["Loss", "LossOutput", "SoftmaxLoss", "Sum", "Temperature"]


class LossOutput(NamedTuple):
    """A scalar to differentiate, the named scalars it is made of, and the number of rows that had nothing present."""

    total: Tensor
    parts: dict[str, Tensor]
    empty_rows: int = 0


class Loss(nn.Module, ABC):
    """An objective over a Bundle. Subclasses write `compute`; calling the module also accepts a dict of (n, d) tensors.

    Losses add up and take factors: `0.5 * Pairwise() + PMRL()` is a `Sum`.

    Attributes:
        exchange: whose items are contrasted with whose; a process's own with its own unless `gramian.distributed` says so.
    """

    exchange: Exchange = LOCAL

    @property
    @abstractmethod
    def sign_blind(self) -> bool:
        """Whether −z serves as well as z: from random weights such an objective settles in antipodal solutions."""

    @abstractmethod
    def compute(self, bundle: Bundle, generator: torch.Generator | None) -> LossOutput:
        """The loss of one batch whose rows all have something present."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"

    def forward(self, items: Bundle | Mapping[str, Vectors], *, generator: torch.Generator | None = None) -> LossOutput:
        """The loss of one batch: a Bundle, or what `Bundle.from_dict` takes.

        Rows with nothing present are left out and counted. Rows with equal `Bundle.item_ids` are one item and no negatives of
        each other.

        Args:
            items: the batch.
            generator: of the draws of a loss that draws in training; torch's own by default. In evaluation mode none draws.

        Raises:
            TooSmallError: the batch is too small to contrast: fewer than two items have what the loss compares.
        """
        bundle = items if isinstance(items, Bundle) else Bundle.from_dict(items)
        there = bundle.has()
        empty_rows = len(bundle) - int(there.sum())
        # Scores divided by a small temperature, and 1 − cos² above all, do not survive the 16-bit products of autocast.
        with torch.autocast(bundle.vectors.device.type, enabled=False):
            return self.compute(bundle[there] if empty_rows else bundle, generator)._replace(empty_rows=empty_rows)

    def __add__(self, other: Loss) -> Sum:
        if not isinstance(other, Loss):
            return NotImplemented
        return Sum([*_terms(self)[0], *_terms(other)[0]], [*_terms(self)[1], *_terms(other)[1]])

    def __radd__(self, other: int) -> Loss:
        """So that `sum` of a list of losses works: it starts from 0."""
        return self if other == 0 else NotImplemented

    def __mul__(self, weight: float) -> Sum:
        losses, weights = _terms(self)
        return Sum(losses, [weight * each for each in weights])

    __rmul__ = __mul__


class Sum(Loss):
    """A weighted sum of losses; what `0.5 * Pairwise() + PMRL()` makes.

    Args:
        losses: the terms.
        weights: a factor each; 1 by default. 0 switches a term off but keeps its parts to look at.

    Its parts are those of the terms without their factors, named "Pairwise/text-image". A term that has nothing to contrast
    in a batch is left out; a batch in which none has is an error.

    >>> from gramian.losses import PMRL, Pairwise
    >>> loss = 0.5 * Pairwise() + PMRL(signed=True)
    >>> loss.weights
    (0.5, 1.0)
    >>> sorted(loss({"text": torch.eye(3), "image": torch.eye(3)}).parts)
    ['PMRL/alignment', 'PMRL/instance', 'Pairwise/text-image']
    """

    def __init__(self, losses: Sequence[Loss], weights: Sequence[float] | None = None) -> None:
        super().__init__()
        weights = [1.0] * len(losses) if weights is None else weights
        if not losses or len(losses) != len(weights):
            raise InputError(f"`weights` must give each of the losses one factor; got {len(weights)} for {len(losses)}.")
        if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
            raise InputError(f"`weights` must be finite and not negative; got {', '.join(map(str, weights))}.")
        self.losses = nn.ModuleList(losses)
        self.weights = tuple(float(weight) for weight in weights)

    @property
    def sign_blind(self) -> bool:
        """True if every term is."""
        return all(loss.sign_blind for loss in self._losses())

    def compute(self, bundle: Bundle, generator: torch.Generator | None) -> LossOutput:
        """The weighted sum over the terms that have something to contrast."""
        names = [type(loss).__name__ for loss in self._losses()]
        often = {name for name, count in Counter(names).items() if count > 1}
        total = bundle.vectors.new_zeros(())
        parts: dict[str, Tensor] = {}
        for i, (name, loss, weight) in enumerate(zip(names, self._losses(), self.weights, strict=True)):
            try:
                result = loss.compute(bundle, generator)
            except TooSmallError as error:
                small = error
                continue
            total = total + weight * result.total
            label = f"{name} {i + 1}" if name in often else name
            parts |= {f"{label}/{part}": value for part, value in result.parts.items()}
        if not parts:
            raise small
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


class Temperature(nn.Module):
    """A positive temperature τ, learned as log τ; brought back to `minimum` whenever a step has taken it lower.

    Args:
        initial: first τ, or one for each of several names.
        learned: whether log τ is a parameter. It has at most one axis: optimisers that decay weight matrices leave it alone.
        minimum: the lowest τ.

    >>> tau = Temperature({"text-image": 0.07, "text-audio": 0.2}, learned=True)
    >>> round(tau("text-audio").item(), 3)
    0.2
    """

    def __init__(self, initial: float | Mapping[str, float], *, learned: bool, minimum: float = 0.01) -> None:
        super().__init__()
        values = list(initial.values()) if isinstance(initial, Mapping) else [initial]
        if not values or not all(value >= minimum for value in values):
            raise InputError(f"`temperature` must be at least {minimum}; got {', '.join(map(str, values)) or 'none'}.")
        self.names = tuple(initial) if isinstance(initial, Mapping) else None
        self.initial = dict(initial) if isinstance(initial, Mapping) else initial
        self.minimum = minimum
        logs = [math.log(value) for value in values]
        log = torch.tensor(logs if isinstance(initial, Mapping) else logs[0])
        if learned:
            self.log = nn.Parameter(log)
        else:
            self.register_buffer("log", log)

    def forward(self, name: str | None = None) -> Tensor:
        """τ, a scalar; that of `name` where there are several."""
        with torch.no_grad():
            self.log.clamp_(min=math.log(self.minimum))
        tau = self.log.exp()
        if self.names is None:
            return tau
        return tau[self.names.index(check_choice("temperature", str(name), self.names))]

    def values(self) -> dict[str, float]:
        """Every τ as a number, by name: "" where there is one."""
        return {name: float(self(name).detach()) for name in self.names or ("",)}

    def __repr__(self) -> str:
        return f"temperature={self.initial}, learn_temperature={isinstance(self.log, nn.Parameter)}"


class SoftmaxLoss(Loss):
    """A loss that contrasts one modality with others, in one comparison or several: the mean of their `info_nce`.

    Args:
        temperature: initial τ.
        learn_temperature: whether τ is a parameter.
        label_smoothing: see `info_nce`.
        negatives: see `info_nce`.
        block_size: rows and columns of the blocks in which the (n, n) scores are made, used and made anew in the backward
            pass, so that memory grows with n and not with n². By default the form is picked by size: what fits is kept.
    """

    def __init__(
        self,
        *,
        temperature: float | Mapping[str, float],
        learn_temperature: bool,
        label_smoothing: float,
        negatives: int | None = None,
        block_size: int | None = None,
    ) -> None:
        super().__init__()
        if block_size is not None and negatives is not None:
            raise InputError("`negatives` needs all scores at once to find the hardest; got `block_size` too. Leave one out.")
        if not 0 <= label_smoothing < 1:
            raise InputError(f"`label_smoothing` must lie in [0, 1); got {label_smoothing}.")
        check_negatives(negatives)
        self.label_smoothing = label_smoothing
        self.negatives = negatives
        self.block_size = check_block_size(block_size)
        self.temperature = Temperature(temperature, learned=learn_temperature)

    @abstractmethod
    def form(self, usable: Bundle, query: str, targets: Sequence[str]) -> Form:
        """Scores (n, n) of every item's `query` against every item's `targets`, as a form."""

    def penalty(self, logits: Form, usable: Bundle) -> Tensor:
        """What one comparison costs: `info_nce` with this loss's options."""
        if self.negatives is None:
            return info_nce_of(
                logits,
                usable.item_ids,
                label_smoothing=self.label_smoothing,
                block_size=self.block_size,
                exchange=self.exchange,
            )
        same = None if usable.item_ids is None else usable.same()
        return info_nce(all_pairs(logits), same=same, label_smoothing=self.label_smoothing, negatives=self.negatives)

    def contrast(
        self,
        bundle: Bundle,
        comparisons: Mapping[str, tuple[str, Sequence[str]]],
        what: str,
        weights: Mapping[str, float] | None = None,
    ) -> LossOutput:
        """The mean over `comparisons` (name → query, targets); one part each, over the items that have what it compares.

        A comparison with fewer than two such items is left out; `what` says in the error what they would have needed.
        """
        parts = {}
        for name, usable in comparable(bundle, comparisons, what, self.exchange):
            query, targets = comparisons[name]
            parts[name] = self.penalty(self.form(usable, query, targets).over(self.temperature(name)), usable)
        if weights is None:
            return LossOutput(torch.stack(list(parts.values())).mean(), parts)
        factors = [weights[name] for name in parts]
        total = sum(factor * part for factor, part in zip(factors, parts.values(), strict=True))
        return LossOutput(torch.as_tensor(total) / sum(factors), parts)

    def extra_repr(self) -> str:
        """The options that all of them share."""
        text = f"{self.temperature}, label_smoothing={self.label_smoothing}"
        given = {"negatives": self.negatives, "block_size": self.block_size}
        return ", ".join([text, *(f"{name}={value}" for name, value in given.items() if value is not None)])


def comparable(
    bundle: Bundle, comparisons: Mapping[str, tuple[str, Sequence[str]]], what: str, exchange: Exchange = LOCAL
) -> Iterator[tuple[str, Bundle]]:
    """Each comparison (name → query, targets) that two different items have both sides of, and the items that do.

    Raises:
        TooSmallError: there is none; `what` says what the items would have needed.
    """
    most = 0
    for name, (query, targets) in comparisons.items():
        both = bundle.has(query) & bundle.has(*targets)
        usable = bundle if both.all() else bundle[both]
        distinct = exchange.distinct(usable.item_ids, len(usable), usable.vectors.device)
        most = max(most, distinct)
        if distinct > 1:
            yield name, usable
    if most < 2:
        raise too_small(most, what)


def too_small(count: int, what: str) -> TooSmallError:
    """The error of a batch that holds nothing to contrast."""
    return TooSmallError(f"`items` must hold at least two items with {what}; got {count}. Use a larger batch.")
