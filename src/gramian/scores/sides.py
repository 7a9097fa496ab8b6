"""The input of every score: two sides, each of n items with up to m unit vectors, zero where missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import torch
from torch import Tensor

from gramian.bundle import Bundle
from gramian.errors import InputError
from gramian.geometry import gram_matrix, unit, widened
from gramian.kernels import Form, Traced, all_pairs

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

__all__ = ["Items", "Side", "scored", "sides", "traced"]

Items: TypeAlias = "Bundle | Tensor"
"""n items: a Bundle, or an (n, d) tensor with one vector per item, of any length."""


class Side(NamedTuple):
    """(n, m, d) vectors in float32 or better, zero where missing, and their (n, m) mask."""

    vectors: Float[Tensor, "n m d"]
    present: Bool[Tensor, "n m"]

    @property
    def number(self) -> Int[Tensor, " n"]:
        """(n,) present vectors."""
        return self.present.sum(1)

    @property
    def sum(self) -> Float[Tensor, "n d"]:
        """(n, d) sum of the present vectors."""
        return self.vectors.sum(1)

    @property
    def width(self) -> int:
        """m, the vectors an item may have."""
        return self.vectors.shape[1]

    def gram(self) -> Float[Tensor, "n m m"]:
        """(n, m, m) inner products within each item."""
        return gram_matrix(self.vectors, self.present)


def sides(queries: Items, items: Items) -> tuple[Side, Side]:
    """Both arguments of a score, checked, in one floating type of at least 32 bits; plain vectors scaled to unit length.

    Raises:
        InputError: an argument that is neither a Bundle nor a floating-point tensor with two axes, or two different widths.
    """
    first, second = _read("queries", "q", queries), _read("items", "n", items)
    if first.vectors.shape[-1] != second.vectors.shape[-1]:
        raise InputError(
            f"`queries` and `items` must share the width d; got {first.vectors.shape[-1]} and {second.vectors.shape[-1]}."
        )
    dtype = torch.promote_types(torch.promote_types(first.vectors.dtype, second.vectors.dtype), torch.float32)
    return _cast(first, dtype), _cast(second, dtype)


def products(first: Float[Tensor, "q k d"], second: Float[Tensor, "n m d"]) -> Float[Tensor, "q n k m"]:
    """Inner products of (q, k, d) with (n, m, d) → (q, n, k, m), as one matrix product."""
    q, k, d = first.shape
    n, m, _ = second.shape
    return (first.reshape(q * k, d) @ second.reshape(n * m, d).T).reshape(q, k, n, m).transpose(1, 2)


def traced(
    function: Callable[[Side, Side], Float[Tensor, "b c"]],
    first: Side,
    second: Side,
    low: float = -1,
    high: float = 1,
    *,
    entries: int = 0,
) -> Form:
    """The form of a function that maps a tile's rows of two sides to (b, c) scores in [low, high].

    `entries` is how many numbers per pair it holds; by default the number of products of the sides' vectors.
    """
    entries = entries or max(1, first.width * second.width)
    rule = Traced(lambda queries, items: function(Side(*queries), Side(*items)), entries=entries)
    return Form(rule, tuple(first), tuple(second), low, high)


def scored(form: Form, first: Side, second: Side) -> Float[Tensor, "q n"]:
    """The scores of a form, clamped to their closed range; −∞ where a side has nothing present."""
    return hide_empty(bounded(all_pairs(form), form.low, form.high), first, second)


def bounded(scores: Float[Tensor, "q n"], low: float, high: float) -> Float[Tensor, "q n"]:
    """Scores clamped to their range, which rounding may exceed; the gradient is unchanged."""
    within = scores.detach().clamp(low, high)
    return scores + (within - scores.detach()) if scores.requires_grad else within


def hide_empty(scores: Float[Tensor, "q n"], first: Side, second: Side) -> Float[Tensor, "q n"]:
    """`scores` (q, n) with −∞ where the query or the item has nothing present."""
    for present, axis in ((first.present.any(1), 1), (second.present.any(1), 0)):
        if not present.all():
            scores = scores.masked_fill(~present.unsqueeze(axis), -torch.inf)
    return scores


def _read(argument: str, letter: str, side: Items) -> Side:
    if isinstance(side, Bundle):
        return Side(side.vectors, side.present)
    if not isinstance(side, Tensor):
        raise InputError(f"`{argument}` must be a Bundle or a tensor; got {type(side).__name__}.")
    if side.ndim != 2 or not side.is_floating_point():
        raise InputError(
            f"`{argument}` must be a Bundle, or floating point of shape ({letter}, d); "
            f"got {side.dtype} of shape {tuple(side.shape)}."
        )
    return Side(unit(widened(side)).unsqueeze(1), side.new_ones(len(side), 1).bool())


def _cast(side: Side, dtype: torch.dtype) -> Side:
    vectors = side.vectors.to(dtype)
    return Side(vectors if side.present.all() else vectors.masked_fill(~side.present[..., None], 0), side.present)
