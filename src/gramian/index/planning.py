"""How Qdrant is asked: the searches for candidates, the products that a score needs of them, and the formula over these."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import Tensor

from gramian.bundle import Bundle
from gramian.geometry import direction, orthogonalize
from gramian.index.engines import Expression, Nearest, Plan
from gramian.index.points import axis_name, several_name, slot_name
from gramian.index.protocol import Options

__all__ = ["plan"]


def plan(query: Bundle, options: Options, modalities: Sequence[str], several: Collection[str] = ()) -> Plan:
    """How one query is asked.

    Args:
        query: one item.
        options: of the search.
        modalities: of the index.
        several: those of which an item may have several vectors.

    Returns:
        The plan; without a formula where the engine cannot compute the score.
    """
    every = set(options.modalities) == set(modalities)
    total = direction(query.vectors.sum(1))[0]
    parts = [query.vectors[0, i] for i in range(len(query.modalities)) if bool(query.present[0, i])]
    asked = [*parts, total] if len(parts) > 1 else parts
    axes = [axis_name(modalities.index(name)) for name in options.modalities]
    candidates: list[Nearest] = [(vector.tolist(), axis) for vector in asked for axis in axes]
    if every:
        candidates += [(vector.tolist(), "centroid") for vector in asked]
    if options.score == "maxsim":
        names = [several_name(modalities.index(name)) for name in options.modalities if name in several]
        candidates += [(rows.tolist(), name) for rows in _rows(query) for name in names]
    basis = orthogonalize(query.vectors.double(), query.present).basis[0]
    basis = basis[basis.any(-1)]
    in_engine = ("centroid", "cosine", "max_cosine", *(("span",) if len(basis) <= 2 else ()))
    if not every or options.score not in in_engine:
        return Plan(candidates, [], None, {})
    products: list[Nearest]
    if options.score == "centroid":
        return Plan(candidates, [(total.tolist(), "centroid")], "$score[0]", {"$score[0]": 0.0})
    if options.score == "span":
        m = len(modalities)
        products = [(vector.tolist(), slot_name(slot)) for vector in basis for slot in range(m)]
        variables = _variables(products)
        shares = (basis @ total.double()).tolist()  # of the query's sum, which decides the sign
        side = ("sum", [("mult", [shares[i // m], f"r{i % m}", variable]) for i, variable in enumerate(variables)])
        defaults = dict.fromkeys([*variables, *(f"r{slot}" for slot in range(m))], 0.0)
        length = ("sqrt", _squared_length([variables[i : i + m] for i in range(0, len(variables), m)]))
        return Plan(candidates, products, ("mult", [length, ("div", side, ("abs", side), 1.0)]), defaults)
    if options.score == "cosine":
        mean = query.vectors[0].sum(0) / query.present.sum()
        products = [(mean.tolist(), axis) for axis in axes]
        variables = _variables(products)
        defaults = dict.fromkeys(variables, 0.0) | {"number": 1.0}
        return Plan(candidates, products, ("div", ("sum", variables), "number", 0.0), defaults)
    products = [(vector.tolist(), axis) for vector in parts for axis in axes]
    variables = _variables(products)
    return Plan(candidates, products, _largest(variables), dict.fromkeys(variables, -1.0))


def _variables(products: Sequence[Nearest]) -> list[str]:
    return [f"$score[{i}]" for i in range(len(products))]


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
