"""How Qdrant is asked: the searches for candidates, the products that a score needs of them, and the formula over these."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import Tensor

from gramian.bundle import Bundle
from gramian.geometry import direction, orthogonalize
from gramian.index.engines import Expression, Lane, Vector
from gramian.index.points import axis_name, several_name, slot_name
from gramian.index.protocol import Options

__all__ = ["plan"]


def plan(
    query: Bundle, options: Options, modalities: Sequence[str], several: Collection[str] = ()
) -> tuple[list[Lane], Expression | None, dict[str, float]]:
    """How one query is asked.

    Args:
        query: one item.
        options: of the search.
        modalities: of the index.
        several: those of which an item may have several vectors.

    Returns:
        The searches for candidates as the first lane, those for the products that a formula needs, the formula, or None to
        score all candidates, and what its variables are where an item lacks them.
    """
    every = set(options.modalities) == set(modalities)
    total = direction(query.vectors.sum(1))[0]
    asked = [query.vectors[0, i] for i in range(len(query.modalities)) if bool(query.present[0, i])]
    if len(asked) > 1:
        asked.append(total)
    axes = [axis_name(modalities.index(name)) for name in options.modalities]
    candidates: list[tuple[Vector, str]] = [(vector.tolist(), axis) for vector in asked for axis in axes]
    if every:
        candidates += [(vector.tolist(), "centroid") for vector in asked]
    if options.score == "maxsim":
        names = [several_name(modalities.index(name)) for name in options.modalities if name in several]
        candidates += [(rows.tolist(), name) for rows in _rows(query) for name in names]
    lanes = [Lane(candidates)]
    basis = orthogonalize(query.vectors.double(), query.present).basis[0]
    basis = basis[basis.any(-1)]
    in_engine = ("centroid", "cosine", "max_cosine", *(("span",) if len(basis) <= 2 else ()))
    if not every or options.score not in in_engine:
        return lanes, None, {}
    if options.score == "centroid":
        return [*lanes, Lane([(total.tolist(), "centroid")])], "$score[0]", {"$score[0]": 0.0}
    if options.score == "span":
        m = len(modalities)
        lanes += [Lane([(vector.tolist(), slot_name(slot))]) for vector in basis for slot in range(m)]
        products = [f"$score[{lane}]" for lane in range(len(basis) * m)]
        shares = (basis @ total.double()).tolist()  # of the query's sum, which decides the sign
        side = ("sum", [("mult", [shares[i // m], f"r{i % m}", product]) for i, product in enumerate(products)])
        defaults = dict.fromkeys([*products, *(f"r{slot}" for slot in range(m))], 0.0)
        length = ("sqrt", _squared_length([products[i : i + m] for i in range(0, len(products), m)]))
        return lanes, ("mult", [length, ("div", side, ("abs", side), 1.0)]), defaults
    if options.score == "cosine":
        mean = query.vectors[0].sum(0) / query.present.sum()
        lanes += [Lane([(mean.tolist(), axis)]) for axis in axes]
        products = [f"$score[{i}]" for i in range(len(axes))]
        return lanes, ("div", ("sum", products), "number", 0.0), dict.fromkeys(products, 0.0) | {"number": 1.0}
    parts = asked[:-1] if len(asked) > 1 else asked
    lanes += [Lane([(vector.tolist(), axis)]) for vector in parts for axis in axes]
    products = [f"$score[{i}]" for i in range(len(parts) * len(axes))]
    return lanes, _largest(products), dict.fromkeys(products, -1.0)


def _rows(query: Bundle) -> list[Tensor]:
    """The (t, d) vectors of each modality that a query has."""
    rows = []
    for i, name in enumerate(query.modalities):
        if bool(query.present[0, i]):
            tokens = query.tokens.get(name)
            rows.append(query.vectors[0, i : i + 1] if tokens is None else tokens.values[0, tokens.present[0]])
    return rows


def _squared_length(rows: Sequence[Sequence[str]]) -> Expression:
    """What an item's span holds of one or two orthonormal vectors, from their products with its basis.

    1 − det(I − P) with P the projections' Gram matrix: P₁₁, or 1 − [(1 − P₁₁)(1 − P₂₂) − P₁₂²] = P₁₁ + P₂₂ − P₁₁P₂₂ + P₁₂².
    """

    def inner(a: Sequence[str], b: Sequence[str]) -> Expression:
        return ("sum", [("mult", list(pair)) for pair in zip(a, b, strict=True)])

    first = inner(rows[0], rows[0])
    if len(rows) == 1:
        return first
    second, both = inner(rows[1], rows[1]), inner(*rows)
    return ("sum", [first, second, ("mult", [-1.0, first, second]), ("mult", [both, both])])


def _largest(parts: Sequence[Expression]) -> Expression:
    """max(a, b) = (a + b + |a − b|) / 2, in halves."""
    if len(parts) == 1:
        return parts[0]
    a, b = _largest(parts[: len(parts) // 2]), _largest(parts[len(parts) // 2 :])
    return ("mult", [0.5, ("sum", [a, b, ("abs", ("sum", [a, ("mult", [-1.0, b])]))])])
