"""How a score of one pair follows from inner products, written once for the plain and the blocked form.

A `Form` is a score of q queries × n items: parts with one row per query, parts with one row per item, and the `Rule` that
makes any tile of the (q, n) table from rows of both. A rule also carries a tile's gradient back to those rows. Most rules do
so by autograd (`Traced`); the rules of the most-trained scores do it by hand, in a few passes over the tile.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gramian.factorisations import safe_sqrt, safe_sqrt_slope
from gramian.memory import Scratch

__all__ = [
    "Form",
    "Given",
    "Into",
    "Linear",
    "Parts",
    "Projection",
    "Residual",
    "Rule",
    "Tile",
    "Traced",
    "self_products",
]

Parts = tuple[Tensor, ...]
Into = tuple[Sequence[Tensor | None], Sequence[Tensor | None]]
"""Where the gradients of the queries' parts and of the items' parts are accumulated; None where none is needed."""


class Tile(NamedTuple):
    """What a (b, c) tile of the table is made from.

    Attributes:
        products: the rule's inner products, (b, c) each.
        queries: b rows of the queries' parts.
        items: c rows of the items' parts.
        scratch: memory for what is computed from the products.
    """

    products: Sequence[Tensor]
    queries: Parts
    items: Parts
    scratch: Scratch | None = None

    def new(self) -> Tensor | None:
        """Where to write a (b, c) result: None for a tensor of its own, as under autograd."""
        return self.scratch.new() if self.scratch else None


class Rule(ABC):
    """From b rows of the queries' parts and c rows of the items' parts to a (b, c) tile, and back.

    Attributes:
        width: inner products per pair, where they may be kept for the backward pass; 0 where the tile is recomputed.
        entries: numbers per pair that a tile holds at once; the more, the smaller `tiles.tile_size`.
    """

    width: int = 0
    entries: int = 1

    @abstractmethod
    def products(self, queries: Parts, items: Parts, scratch: Scratch | None = None) -> list[Tensor]:
        """`width` (b, c) tiles of inner products: the expensive part, from which the scores follow."""

    @abstractmethod
    def scores(self, tile: Tile, *, trace: bool) -> tuple[Tensor, Any]:
        """The (b, c) scores, and with `trace` whatever else `pull` needs."""

    @abstractmethod
    def pull(self, trace: Any, tile: Tile, grad: Tensor, into: Into) -> None:
        """Carry the gradient of Σ grad · scores back: to the products, in their place, and past them to the rows in `into`."""

    def pull_products(self, slopes: Sequence[Tensor], queries: Parts, items: Parts, into: Into) -> None:
        """Add to the rows in `into` the gradient that reaches them through the products, given the gradient of each product."""
        del slopes, queries, items, into  # by default nothing: `pull` has reached them

    @abstractmethod
    def scaled(self, queries: Parts, items: Parts, scale: Tensor) -> Form:
        """The form of `scale` times the score."""


@dataclass(frozen=True)
class Form:
    """A score of all pairs: each of `queries` has one row per query, each of `items` one row per item.

    Attributes:
        rule: makes a tile of scores from rows of both sides.
        queries: the parts of the queries' side.
        items: the parts of the items' side.
        low: the lowest value of the score itself, which rounding may exceed: `bounded` clamps scores before they are ranked or
            shown.
        high: the highest value.
    """

    rule: Rule
    queries: Parts
    items: Parts
    low: float = -math.inf
    high: float = math.inf

    @property
    def shape(self) -> tuple[int, int]:
        """(q, n)."""
        return len(self.queries[0]), len(self.items[0])

    def over(self, temperature: Tensor) -> Form:
        """The form of the score divided by a temperature, a scalar."""
        return self.rule.scaled(self.queries, self.items, 1 / temperature.to(self.queries[0].dtype))

    def plain(self) -> Tensor:
        """All scores at once, (q, n), under autograd where the rule allows."""
        tile = Tile(self.rule.products(self.queries, self.items), self.queries, self.items)
        return self.rule.scores(tile, trace=False)[0]


class Linear(Rule):
    """⟨a, b⟩, or ⟨a, b⟩ + c with a third part: queries (a,), items (b,) or (b, c)."""

    width = 1

    def products(self, queries: Parts, items: Parts, scratch: Scratch | None = None) -> list[Tensor]:
        """The one product."""
        return [_product(queries[0], items[0], scratch)]

    def scores(self, tile: Tile, *, trace: bool) -> tuple[Tensor, Any]:
        """The product itself, or with the offset."""
        del trace
        product, offset = tile.products[0], tile.items[1:]
        return (torch.add(product, offset[0], out=tile.new()) if offset else product), None

    def pull(self, trace: Any, tile: Tile, grad: Tensor, into: Into) -> None:
        """The gradient of the score is that of the product."""
        del trace
        tile.products[0].copy_(grad)
        if len(tile.items) > 1 and into[1][1] is not None:
            into[1][1].add_(grad.sum(0))

    def pull_products(self, slopes: Sequence[Tensor], queries: Parts, items: Parts, into: Into) -> None:
        """Two products."""
        _pull_product(slopes[0], queries[0], items[0], into[0][0], into[1][0])

    def scaled(self, queries: Parts, items: Parts, scale: Tensor) -> Form:
        """The query takes the factor."""
        offset = tuple(part * scale for part in items[1:])
        return Form(self, (queries[0] * scale,), (items[0], *offset))


class _OfSpan(Rule):
    """A function of the products with an orthonormal basis, times one factor per item: items (w, b (n, k, d), …)."""

    def __init__(self, width: int) -> None:
        self.width = width

    def products(self, queries: Parts, items: Parts, scratch: Scratch | None = None) -> list[Tensor]:
        """⟨a, bₖ⟩ for every k: a contiguous tile each."""
        return [_product(queries[0], basis, scratch) for basis in items[1].unbind(1)]

    def pull_products(self, slopes: Sequence[Tensor], queries: Parts, items: Parts, into: Into) -> None:
        """Two products for each basis vector."""
        into_a, into_b = into[0][0], into[1][1]
        for k, slope in enumerate(slopes):
            _pull_product(slope, queries[0], items[1][:, k], into_a, None if into_b is None else into_b[:, k])

    def scaled(self, queries: Parts, items: Parts, scale: Tensor) -> Form:
        """The item's factor takes the scale."""
        return Form(self, queries, (items[0] * scale, *items[1:]))


class Residual(_OfSpan):
    """w √(‖a‖² − Σ ⟨a, bₖ⟩²): the part of a outside the span of the orthonormal b; queries (a,), items (w, b (n, k, d)).

    The root is `safe_sqrt`. Where little is left, r = ‖a‖² − Σ ⟨a, bₖ⟩² is a difference of nearly equal numbers with the
    rounding error of the larger: the root is off by about ε/√r and its slope, relatively, by ε/r, whatever the order in which
    the products are added up. So gradients of two ways to cut the table agree to ε/r, and not at all where r is near ε.
    """

    def scores(self, tile: Tile, *, trace: bool) -> tuple[Tensor, Any]:
        """The residual's root; its slope where the residual is rounding noise and the chord replaces the root."""
        a, w = tile.queries[0], tile.items[0]
        rest = _squares(tile, torch.linalg.vector_norm(a, dim=-1, keepdim=True).square(), sign=-1)
        if torch.is_grad_enabled():
            return safe_sqrt(rest) * w, None
        if not rest.numel() or rest.amin() > torch.finfo(rest.dtype).eps:  # as nearly always
            root = rest.sqrt_()
            return torch.mul(root, w, out=tile.new() if trace else root), (root, None)
        root = safe_sqrt(rest)
        return root * w, (root, safe_sqrt_slope(rest) if trace else None)

    def pull(self, trace: Any, tile: Tile, grad: Tensor, into: Into) -> None:
        """With f = −w/√…, every product has the slope f ⟨a, bₖ⟩, and a itself −f a."""
        root, slope = trace
        if into[1][0] is not None:
            into[1][0].add_(torch.mul(grad, root, out=tile.new()).sum(0))
        factor = torch.div(grad, root, out=root) if slope is None else slope.mul_(grad).mul_(2)
        factor.mul_(-tile.items[0])
        if into[0][0] is not None:
            into[0][0].addcmul_(tile.queries[0], factor.sum(1, keepdim=True), value=-1)
        _slopes(factor, tile)


class Projection(_OfSpan):
    """± w √(Σ ⟨a, bₖ⟩²), at most w: the part of a in the span of the orthonormal b.

    queries (a,), items (w, b (n, k, d)), or (w, b, t (n, k)) for the sign of Σ tₖ⟨a, bₖ⟩, + where it is 0.
    """

    def scores(self, tile: Tile, *, trace: bool) -> tuple[Tensor, Any]:
        """The length with its sign; the factor that takes a product to its slope."""
        products, items = tile.products, tile.items
        squared = _squares(tile, products[0].new_zeros(1))
        length = safe_norm(squared)
        signed = length.clamp(max=1)
        if len(items) > 2:
            side = products[0] * items[2][:, 0]
            for k, product in enumerate(products[1:], 1):
                side = side + product * items[2][:, k]
            signed = torch.where(side < 0, -signed, signed)
        slope = None
        if trace:
            inside = (length > 0) & (length <= 1)
            slope = torch.where(inside, signed / squared.where(inside, 1), 0)
        return signed * items[0], (signed, slope)

    def pull(self, trace: Any, tile: Tile, grad: Tensor, into: Into) -> None:
        """Every product has the slope ± w ⟨a, bₖ⟩/√…."""
        signed, slope = trace
        if into[1][0] is not None:
            into[1][0].add_(torch.mul(grad, signed, out=tile.new()).sum(0))
        _slopes(slope.mul_(grad).mul_(tile.items[0]), tile)


class Given(Rule):
    """Scores that are already computed: queries (scores (q, n),), items (their columns (n,),)."""

    width = 1

    def products(self, queries: Parts, items: Parts, scratch: Scratch | None = None) -> list[Tensor]:
        """The columns of the tile."""
        del scratch
        return [queries[0].index_select(1, items[0])]

    def scores(self, tile: Tile, *, trace: bool) -> tuple[Tensor, Any]:
        """The scores, unchanged."""
        del trace
        return tile.products[0], None

    def pull(self, trace: Any, tile: Tile, grad: Tensor, into: Into) -> None:
        """The gradient, unchanged, added to the columns of the tile."""
        del trace
        if into[0][0] is not None:
            into[0][0].index_add_(1, tile.items[0], grad)

    def scaled(self, queries: Parts, items: Parts, scale: Tensor) -> Form:
        """Every score times the factor."""
        return Form(self, (queries[0] * scale,), items)

    @classmethod
    def form(cls, scores: Tensor) -> Form:
        """The form of a (q, n) table."""
        return Form(cls(), (scores,), (torch.arange(scores.shape[1], device=scores.device),))


class Traced(Rule):
    """Any function of the parts that gives the (b, c) scores, differentiated by autograd, tile by tile.

    Args:
        function: (queries' parts, items' parts) → (b, c).
        factor: whether the last part of the items is a factor of the scores.
        entries: see `Rule`.
    """

    def __init__(self, function: Callable[[Parts, Parts], Tensor], *, factor: bool = False, entries: int = 1) -> None:
        self.function = function
        self.factor = factor
        self.entries = entries

    def products(self, queries: Parts, items: Parts, scratch: Scratch | None = None) -> list[Tensor]:
        """None: the tile is recomputed in the backward pass."""
        del queries, items, scratch
        return []

    def scores(self, tile: Tile, *, trace: bool) -> tuple[Tensor, Any]:
        """The function's value, and with `trace` its graph over detached leaves."""
        if not trace:
            return self._evaluate(tile.queries, tile.items), None
        leaves = [[_leaf(part) for part in parts] for parts in (tile.queries, tile.items)]
        with torch.enable_grad():
            scores = self._evaluate(tuple(leaves[0]), tuple(leaves[1]))
        return scores.detach(), (scores, leaves)

    def pull(self, trace: Any, tile: Tile, grad: Tensor, into: Into) -> None:
        """By autograd through the traced graph."""
        del tile
        scores, leaves = trace
        wanted = [
            (leaf, row)
            for side, rows in zip(leaves, into, strict=True)
            for leaf, row in zip(side, rows, strict=True)
            if row is not None
        ]
        if not wanted or not scores.requires_grad:
            return
        gradients = torch.autograd.grad(scores, [leaf for leaf, _ in wanted], grad, allow_unused=True)
        for (_, row), value in zip(wanted, gradients, strict=True):
            if value is not None:
                row.add_(value)

    def scaled(self, queries: Parts, items: Parts, scale: Tensor) -> Form:
        """One factor per item, as the last of the items' parts."""
        if self.factor:
            return Form(self, queries, (*items[:-1], items[-1] * scale))
        return Form(Traced(self.function, factor=True, entries=self.entries), queries, (*items, scale.expand(len(items[0]))))

    def _evaluate(self, queries: Parts, items: Parts) -> Tensor:
        return self.function(queries, items[:-1]) * items[-1] if self.factor else self.function(queries, items)


class _SelfProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(u)
        ctx.scale = scale
        return torch.addmm(u.new_empty(()), u, u.T, beta=0, alpha=scale)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (u,) = ctx.saved_tensors
        return torch.addmm(u.new_empty(()), grad + grad.T, u, beta=0, alpha=ctx.scale), None


def self_products(u: Tensor, scale: float) -> Tensor:
    """`scale` U Uᵀ; its backward pass takes one product, where that of two separate factors takes two."""
    products: Tensor = _SelfProducts.apply(u, scale)  # type: ignore[no-untyped-call]
    return products


def safe_norm(squared: Tensor) -> Tensor:
    """√x with a slope of 0 at 0; NaN of NaN."""
    zero = squared <= 0
    return squared.masked_fill(zero, 1).sqrt().masked_fill(zero, 0)


def _leaf(part: Tensor) -> Tensor:
    return part.detach().requires_grad_() if part.is_floating_point() else part


def _product(a: Tensor, b: Tensor, scratch: Scratch | None) -> Tensor:
    return torch.mm(a, b.T, out=scratch.new() if scratch else None)


def _squares(tile: Tile, start: Tensor, sign: int = 1) -> Tensor:
    """`start` plus, or minus, the squares of the products."""
    total, out = start, tile.new()
    for product in tile.products:
        total = torch.addcmul(total, product, product, value=sign, out=out)
    return total


def _slopes(factor: Tensor, tile: Tile) -> None:
    """Replace every product by its gradient, where that is `factor` times the product."""
    for product in tile.products:
        product.mul_(factor)


def _pull_product(grad: Tensor, a: Tensor, b: Tensor, into_a: Tensor | None, into_b: Tensor | None) -> None:
    if into_a is not None:
        into_a.addmm_(grad, b)
    if into_b is not None:
        into_b.addmm_(grad.T, a)
