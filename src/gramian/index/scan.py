"""Scores of queries and stored items, from the products of the queries with the items' bases.

With an item's vectors Z = C B, B orthonormal, everything that a score needs of a query a is p = B a: ⟨a, z⟩ = (C p), ‖P a‖ =
‖p‖, and what is left outside of the span is 1 − ‖p‖². So one set of products serves every score, over all of an item's
modalities or some; each is a few operations on tables of products, the same for whole tiles and for chosen pairs.

A scan ranks by an upper bound: the largest value that the score's gauge can have if p is off by up to E, the rounding of
float32 or of `codes`.

Over 400 lines: a score, its bound and the proof of the bound are read side by side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from gramian.factorisations import safe_sqrt
from gramian.geometry import direction, leading_direction, orthogonalize
from gramian.index.codes import Coded, Codes, products
from gramian.kernels import Form, Rule
from gramian.kernels.rules import Into, Parts, Tile
from gramian.memory import Scratch
from gramian.scores.sides import Side
from gramian.scores.volumes import determinant

__all__ = ["SCORERS", "Scorer", "pairs", "scan", "scan_codes"]

Tables = list[list[Tensor]]
"""Products of each vector of the queries with each slot of the bases: (b, c) each."""

Off: TypeAlias = "float | Tensor"
"""E: how far the products of a query and an item can be off, as a vector; (b, c) where it differs."""

ROUNDING = 16 * torch.finfo(torch.float32).eps
"""What the operations on a tile lose, beside the products."""


def _same(score: Tensor) -> Tensor:
    """The score itself."""
    return score


@dataclass(frozen=True)
class Scorer:
    """A score in terms of products with bases.

    Attributes:
        queries: its vectors (q, k, d), none longer than 1, and what else is needed of it, one row per query.
        items: what is needed of items, from coordinates (n, m, r) and the mask of present vectors: one row per item. The scores
            take it as (c, …) for a tile and (b, c, …) for pairs.
        score: (products, left over, queries' parts, items' parts) → (b, c). `left` is the Gram matrix of what is left of the
            query's vectors outside of the span.
        upper: (products, how far they are off, queries' parts, items' parts) → (b, c), no less than the gauge of the score;
            by default the score, which moves no faster than the products, plus E.
        gauge: an increasing function of the score, which the scan ranks by.
        residual: whether `left` is used.
        turned: whether the first of the items' parts turns products with an item's basis into those with the basis of the
            modalities that are searched; None there turns nothing.
        coarse: whether the bound says something where products are off by a hundredth.
        high: the largest score.
        low: the smallest.
    """

    queries: Callable[[Side], Parts]
    items: Callable[[Tensor, Tensor], Parts]
    score: Callable[[Tables, Callable[[], Tables], Parts, Parts], Tensor]
    upper: Callable[[Tables, Off, Parts, Parts], Tensor] | None = None
    gauge: Callable[[Tensor], Tensor] = _same
    residual: bool = False
    turned: bool = False
    coarse: bool = True
    low: float = -1
    high: float = 1

    def bound(self, P: Tables, off: Off, queries: Parts, items: Parts) -> Tensor:
        """An upper bound of the gauge, (b, c)."""
        if self.upper is not None:
            return self.upper(P, off, queries, items)
        return self.score(P, _unused, queries, items).add_(off)


def _unused() -> Tables:
    raise AssertionError


def _weighted(tables: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Σ over the slots of products times the items' weights (…, r)."""
    total = tables[0] * weights[..., 0]
    for slot, table in enumerate(tables[1:], 1):
        total = total.addcmul_(table, weights[..., slot])
    return total


def _squares(tables: Sequence[Tensor]) -> Tensor:
    """Σ over the slots of the squared products."""
    total = tables[0].square()
    for table in tables[1:]:
        total = total.addcmul_(table, table)
    return total


def _linear(queries: Callable[[Side], Tensor], items: Callable[[Tensor, Tensor], Tensor]) -> Scorer:
    """The inner product of one direction of the query with one of the item."""
    return Scorer(
        queries=lambda Q: (queries(Q).unsqueeze(1),),
        items=lambda C, present: (items(C, present),),
        score=lambda P, left, queries, items: _weighted(P[0], items[0]),  # noqa: ARG005
    )


def _mean(side: Side) -> Tensor:
    return side.sum / side.number.clamp(min=1)[:, None]


def _cosines(P: Tables, C: Tensor) -> Tables:
    """The cosines of each vector of the queries with each of the items'."""
    return [[_weighted(tables, C[..., i, :]) for i in range(C.shape[-2])] for tables in P]


def _basis_and_sum(Q: Side) -> Parts:
    if Q.width == 1:
        return (Q.vectors,)
    return (torch.cat([orthogonalize(Q.vectors, Q.present).basis, direction(Q.sum)[:, None]], 1),)


def _sub_basis(C: Tensor, present: Tensor) -> Tensor:
    """An orthonormal basis of the present rows of C, in the same coordinates: (n, m, r)."""
    return orthogonalize(C, present).basis


def _turned(P: Tables, turn: Tensor | None) -> Tables:
    """Products with the basis of some of the modalities, from those with the basis of all."""
    if turn is None:
        return P
    return [[_weighted(tables, turn[..., i, :]) for i in range(turn.shape[-2])] for tables in P]


def _span_items(C: Tensor, present: Tensor) -> Parts:
    return _sub_basis(C, present), direction(C.sum(1))


def _span(P: Tables, left: Callable[[], Tables], queries: Parts, items: Parts) -> Tensor:
    del left, queries
    turn, total = items
    side = _weighted(P[-1], total)
    length = _length(_turned(P if len(P) == 1 else P[:-1], turn))
    return torch.where(side < 0, -length, length)


def _span_upper(P: Tables, off: Off, queries: Parts, items: Parts) -> Tensor:
    del queries
    turn, total = items
    side = _weighted(P[-1], total).add_(off)  # positive where the true side may be
    T = _turned(P if len(P) == 1 else P[:-1], turn)
    return torch.copysign(_length(T), side).add_(off * _slope(T))


def _length(T: Tables) -> Tensor:
    """√(1 − det(I − B Bᵀ)): of one vector, that of its projection."""
    if len(T) == 1:
        return _squares(T[0]).sqrt_()
    return safe_sqrt(1 - _left(T).clamp(0, 1))


def _slope(T: Tables) -> float:
    """How much faster the length can move than the products: √k at most.

    With the singular values σ of B, u = σ² and rᵢ = Πⱼ≠ᵢ(1 − uⱼ): (Σᵢ σᵢ rᵢ)² ≤ k Σᵢ uᵢ rᵢ ≤ k (1 − Πᵢ(1 − uᵢ)), as exactly one
    of several independent events is no likelier than at least one. The left side is (length · Σᵢ ∂length/∂σᵢ)².
    """
    return math.sqrt(min(len(T), len(T[0])))


def _left(T: Tables) -> Tensor:
    """The squared volume that an orthonormal query keeps outside of the span: det(I − B Bᵀ)."""
    return _det(_rest(T))


def _rest(T: Tables) -> Tables:
    """I − B Bᵀ, as a table of tables."""
    k = len(T)
    rest: Tables = [[T[0][0]] * k for _ in range(k)]
    for i in range(k):
        for j in range(i, k):
            inner = T[i][0] * T[j][0]
            for first, second in zip(T[i][1:], T[j][1:], strict=True):
                inner = torch.addcmul(inner, first, second)
            rest[i][j] = rest[j][i] = (1.0 if i == j else 0.0) - inner
    return rest


def _det(rest: Tables) -> Tensor:
    if len(rest) == 1:
        return rest[0][0]
    return determinant(torch.stack([torch.stack(row, -1) for row in rest], -2))


def _volume(beta: float) -> Scorer:
    """−√(D^β det(I − B Bᵀ)) V(Q): GRAM's volume for β = 1, the sine to the item's span for β = 0."""

    def queries(Q: Side) -> Parts:
        done = orthogonalize(Q.vectors, Q.present)
        return done.basis, done.volume

    def items(C: Tensor, present: Tensor) -> Parts:
        done = orthogonalize(C, present)
        return done.basis, done.volume ** (2 * beta) if beta else torch.ones_like(done.volume)

    def score(P: Tables, left: Callable[[], Tables], queries: Parts, items: Parts) -> Tensor:
        del P
        return -(_det(left()).clamp(min=0) * items[1]).sqrt() * queries[0][:, None]

    def upper(P: Tables, off: Off, queries: Parts, items: Parts) -> Tensor:
        T = _turned(P, items[0])
        length = _length(T).add_(off * _slope(T)).clamp_(max=1)
        return length.square_().sub_(1).mul_(items[1]).mul_(queries[0].square()[:, None])

    return Scorer(queries, items, score, upper, gauge=lambda s: -s.square(), residual=True, turned=True, high=0)


def _max_items(C: Tensor, present: Tensor) -> Parts:
    # An item with nothing present is hidden by its offset; here it must not turn into NaN.
    return C, torch.zeros_like(C[..., 0]).masked_fill(~present & present.any(1, keepdim=True), -torch.inf)


def _nearest(P: Tables, C: Tensor, hidden: Tensor) -> list[Tensor]:
    """For each vector of the queries the largest cosine."""
    nearest = []
    for tables in _cosines(P, C):
        best = tables[0].add_(hidden[..., 0])
        for i, table in enumerate(tables[1:], 1):
            best = torch.maximum(best, table.add_(hidden[..., i]))
        nearest.append(best)
    return nearest


def _max_cosine(P: Tables, left: Callable[[], Tables], queries: Parts, items: Parts) -> Tensor:
    del left
    best = [table + queries[0][:, i, None] for i, table in enumerate(_nearest(P, *items))]
    return torch.stack(best).amax(0) if len(best) > 1 else best[0]


def _maxsim(P: Tables, left: Callable[[], Tables], queries: Parts, items: Parts) -> Tensor:
    del left
    share = queries[0]
    total = _nearest(P, *items)
    return sum((table * share[:, i, None] for i, table in enumerate(total)), start=torch.zeros_like(total[0]))


TAU = 0.1  # of the weights


def _weighted_parts(P: Tables, items: Parts) -> tuple[Tensor, Tensor]:
    """The product with the weighted sum of an item's vectors, and the length of the sum."""
    C, hidden = items
    cosines = torch.stack(_cosines(P, C)[0], -1)
    w = (cosines / TAU + hidden).softmax(-1)
    length = torch.linalg.vector_norm(torch.einsum("...m,...mr->...r", w, C.expand(*w.shape[:-1], *C.shape[-2:])), dim=-1)
    return (w * cosines).sum(-1), length


def _weighted_centroid(P: Tables, left: Callable[[], Tables], queries: Parts, items: Parts) -> Tensor:
    del left, queries
    product, length = _weighted_parts(P, items)
    vanishes = length <= 32 * torch.finfo(length.dtype).eps
    score: Tensor = (product / length.masked_fill(vanishes, 1)).masked_fill(vanishes, 0)
    return score


def _weighted_upper(P: Tables, off: Off, queries: Parts, items: Parts) -> Tensor:
    # The weights move by at most E/τ in all: the product by E + E/τ, the length by E/τ.
    del queries
    product, length = _weighted_parts(P, items)
    least = length - off / TAU
    upper = product / length + (1 + 2 / TAU) * off / least
    return upper.masked_fill(least <= 0, 1)


def _vectors_and_mask(Q: Side) -> Parts:
    return Q.vectors, torch.zeros_like(Q.vectors[..., 0]).masked_fill(~Q.present, -torch.inf)


def _vectors_and_shares(Q: Side) -> Parts:
    return Q.vectors, Q.present / Q.number.clamp(min=1)[:, None]


def _number(present: Tensor) -> Tensor:
    return present.sum(1).clamp(min=1)[:, None]


SCORERS: dict[str, Scorer] = {
    "centroid": _linear(lambda Q: direction(Q.sum), lambda C, present: direction(C.sum(1))),  # noqa: ARG005
    "cosine": _linear(_mean, lambda C, present: C.sum(1) / _number(present)),
    "leading": _linear(lambda Q: leading_direction(Q.vectors, Q.present), leading_direction),
    "span": Scorer(_basis_and_sum, _span_items, _span, _span_upper, turned=True),
    "volume": _volume(1),
    "max_cosine": Scorer(_vectors_and_mask, _max_items, _max_cosine),
    "maxsim": Scorer(_vectors_and_shares, _max_items, _maxsim),
    "weighted_centroid": Scorer(
        lambda Q: (direction(Q.sum)[:, None],), _max_items, _weighted_centroid, _weighted_upper, coarse=False
    ),
}
"""The scores that need nothing but products; the others are computed from the vectors themselves."""


def scorer_of(score: str, beta: float) -> Scorer | None:
    """The scorer of a score, or None for one that needs the vectors."""
    return _volume(beta) if score == "volume" and beta != 1 else SCORERS.get(score)


class _Scan(Rule):
    """A scorer's bound over tiles: queries (a (q, k, d), …), items (bases (n, r, d), …, scale and offset (n,) or None)."""

    def __init__(self, scorer: Scorer, k: int, r: int) -> None:
        self.scorer, self.k, self.r = scorer, k, r
        self.width = k * r

    def products(self, queries: Parts, items: Parts, scratch: Scratch | None = None) -> list[Tensor]:
        """⟨aᵢ, bⱼ⟩ for every vector of the queries and every slot."""
        return [
            torch.mm(a, b.T, out=scratch.new() if scratch else None) for a in queries[0].unbind(1) for b in items[0].unbind(1)
        ]

    def scores(self, tile: Tile, *, trace: bool) -> tuple[Tensor, Any]:
        """The bound, with the items' scale and offset."""
        del trace
        P = [list(tile.products[i * self.r : (i + 1) * self.r]) for i in range(self.k)]
        queries, parts, scale, offset, off = self._read(tile)
        upper = self.scorer.bound(P, off, queries, parts)
        if scale is not None:
            upper = upper.mul_(scale)
        return upper if offset is None else upper.add_(offset), None

    def _read(self, tile: Tile) -> tuple[Parts, Parts, Tensor | None, Tensor | None, Off]:
        """The parts of queries and items, scale, offset, and how far the products are off: by rounding."""
        *parts, scale, offset = tile.items[1:]
        d = tile.queries[0].shape[-1]
        off = (d + 8) * torch.finfo(torch.float32).eps * math.sqrt(self.width) + ROUNDING
        return tile.queries[1:], tuple(parts), scale, offset, off

    def pull(self, trace: Any, tile: Tile, grad: Tensor, into: Into) -> None:
        """Nothing is trained through an index."""
        raise NotImplementedError

    def scaled(self, queries: Parts, items: Parts, scale: Tensor) -> Form:
        """Nothing is trained through an index."""
        raise NotImplementedError


class _CodedScan(_Scan):
    """The same over codes: the queries' parts end with theirs, the items' with steps and errors."""

    def products(self, queries: Parts, items: Parts, scratch: Scratch | None = None) -> list[Tensor]:
        """The products of the codes."""
        del scratch
        return products(Coded(*queries[-3:]), items[0], items[-2])

    def _read(self, tile: Tile) -> tuple[Parts, Parts, Tensor | None, Tensor | None, Off]:
        *parts, scale, offset, _, lost = tile.items[1:]
        error = tile.queries[-1][:, None]
        off = torch.addcmul(error + ROUNDING, 1 + error, lost, out=tile.new())  # η + (1 + η) ‖e‖
        return tile.queries[1:-3], tuple(parts), scale, offset, off


def scan(
    scorer: Scorer, queries: Parts, basis: Tensor, parts: Parts, scale: Tensor | None = None, offset: Tensor | None = None
) -> Form:
    """Upper bounds of the gauge of a score, times `scale` plus `offset`, as a form.

    Args:
        scorer: the score.
        queries: of `Scorer.queries`, in float32.
        basis: (r, n, d).
        parts: of `Scorer.items`.
        scale: (n,).
        offset: (n,), −∞ for items that are hidden.

    Returns:
        The form of all pairs.
    """
    rule = _Scan(scorer, queries[0].shape[1], len(basis))
    return Form(rule, queries, (basis.transpose(0, 1), *parts, scale, offset))  # type: ignore[arg-type]


def scan_codes(
    scorer: Scorer,
    queries: Parts,
    asked: Coded,
    codes: Codes,
    parts: Parts,
    scale: Tensor | None = None,
    offset: Tensor | None = None,
) -> Form:
    """The same by the codes of queries and items."""
    rule = _CodedScan(scorer, queries[0].shape[1], len(codes.numbers))
    items = (codes.numbers.transpose(0, 1), *parts, scale, offset, codes.steps.T, codes.errors)
    return Form(rule, (*queries, *asked), items)  # type: ignore[arg-type]


def pairs(scorer: Scorer, queries: Parts, basis: Tensor, coordinates: Tensor, present: Tensor) -> Tensor:
    """The scores of chosen pairs, (q, c).

    Args:
        scorer: the score.
        queries: of `Scorer.queries`, in float64.
        basis: (r, q, c, d) of the items that each query is paired with.
        coordinates: (q, c, m, r).
        present: (q, c, m).

    Returns:
        (q, c) scores.
    """
    a = queries[0]
    P = torch.einsum("qkd,rqcd->krqc", a, basis)
    parts = tuple(
        part.reshape(*P.shape[2:], *part.shape[1:]) for part in scorer.items(coordinates.flatten(0, 1), present.flatten(0, 1))
    )

    def left() -> Tables:
        # Of vectors, not of 1 − ‖p‖², which loses everything near the span.
        sub = torch.einsum("qcmr,rqcd->qcmd", parts[0], basis)
        rest = a[:, None] - torch.einsum("qckm,qcmd->qckd", torch.einsum("qkd,qcmd->qckm", a, sub), sub)
        gram = rest @ rest.mT
        missing = ~a.any(-1)
        gram = gram + torch.diag_embed(missing.to(gram))[:, None]
        return [list(row.unbind(-1)) for row in gram.unbind(-2)]

    score = scorer.score([list(table.unbind(0)) for table in P.unbind(0)], left, queries[1:], parts)
    return score.clamp(scorer.low, scorer.high)
