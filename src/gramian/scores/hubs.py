"""Hubs: items that score high whatever is asked. CSLS takes off a score what the item gets from a bank of training vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gramian.bundle import Bundle
from gramian.errors import check_number
from gramian.kernels import Form
from gramian.kernels.rules import Into, Parts, Rule, Tile
from gramian.kernels.tiles import Place, Reduction, forward, tile_size
from gramian.memory import Scratch
from gramian.scores.catalogue import Score

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["corrected", "hub_scores"]

NEAREST = 10


@torch.no_grad()
def hub_scores(score: Score, bank: Bundle, items: Bundle, *, nearest: int = NEAREST) -> Float[Tensor, " n"]:
    """The mean of the highest scores that each item gets from a bank of vectors like the queries: one number per item.

    Args:
        score: one of `SCORES`.
        bank: training items with the query's modalities alone; rows with none of them are left out.
        items: with the modalities that are searched.
        nearest: how many of the highest scores; all of the bank's where it has fewer.

    Returns:
        (n,); zero where the bank has none of the modalities.

    Raises:
        InputError: `nearest` below 1.

    Source: Conneau et al., "Word translation without parallel data" (arXiv 1710.04087): CSLS.
    """
    check_number("nearest", nearest, "[1, inf)", integer=True)
    bank = bank[bank.has()]
    if not len(bank):
        return items.vectors.new_zeros(len(items))
    form = score.of(bank, items)
    reduction = _ToNearest(min(nearest, len(bank)), form.low, form.high)
    totals = reduction.start(*form.shape, form.queries[0])
    forward(form.rule, reduction, totals, form.queries, form.items, tile=tile_size(form, None))
    return totals[0].mean(1)


@dataclass(frozen=True)
class _ToNearest(Reduction):
    """The k highest scores of each item, (n, k) in no order, within the score's range."""

    k: int
    low: float
    high: float

    def start(self, q: int, n: int, like: Tensor) -> list[Tensor]:
        """No score yet."""
        del q
        return [like.new_full((n, self.k), -torch.inf)]

    def add(self, totals: list[Tensor], scores: Tensor, at: Place) -> None:
        """The best of those so far and of the tile's."""
        (best,) = totals
        seen = torch.cat([best[at.columns], scores.clamp(self.low, self.high).T], 1)
        best[at.columns] = seen.topk(self.k, sorted=False).values


def corrected(form: Form, hubs: Float[Tensor, " n"]) -> Form:
    """The form of 2 s − h, h the items' `hub_scores`."""
    low, high = 2 * form.low - form.high, 2 * form.high - form.low
    return Form(_Corrected(form.rule), form.queries, (*form.items, hubs.to(form.items[0])), low, high)


class _Corrected(Rule):
    """Twice the score of another rule, less the last of the items' parts."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.width, self.entries = rule.width, rule.entries + 1

    def products(self, queries: Parts, items: Parts, scratch: Scratch | None = None) -> list[Tensor]:
        """Those of the rule."""
        return self.rule.products(queries, items[:-1], scratch)

    def scores(self, tile: Tile, *, trace: bool) -> tuple[Tensor, Any]:
        """2 s − h."""
        scores, kept = self.rule.scores(tile._replace(items=tile.items[:-1]), trace=trace)
        return 2 * scores - tile.items[-1], kept

    def pull(self, trace: Any, tile: Tile, grad: Tensor, into: Into) -> None:
        """Twice the gradient goes on to the rule."""
        if into[1][-1] is not None:
            into[1][-1].sub_(grad.sum(0))
        self.rule.pull(trace, tile._replace(items=tile.items[:-1]), 2 * grad, (into[0], into[1][:-1]))

    def pull_products(self, slopes: Any, queries: Parts, items: Parts, into: Into) -> None:
        """As the rule."""
        self.rule.pull_products(slopes, queries, items[:-1], (into[0], into[1][:-1]))

    def scaled(self, queries: Parts, items: Parts, scale: Tensor) -> Form:
        """The rule and the hubs take the factor."""
        form = self.rule.scaled(queries, items[:-1], scale)
        return Form(_Corrected(form.rule), form.queries, (*form.items, items[-1] * scale))
