"""Scores from inner products alone: cosines, centroids, leading directions, the multilinear product."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from gramian.errors import check_choice, check_number
from gramian.factorisations import full_precision
from gramian.geometry import direction, leading_direction
from gramian.kernels import Form, Linear
from gramian.scores.sides import Items, Side, products, scored, sides, traced

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["centroid", "cosine", "leading", "multilinear", "weighted_centroid"]


@full_precision
def cosine(
    queries: Items, items: Items, *, reduce: Literal["mean", "max", "softmax"] = "mean", temperature: float = 0.1
) -> Float[Tensor, "q n"]:
    """Mean, largest or softmax-weighted cosine over all pairs of a present vector of the query and one of the item.

    Args:
        queries: q items.
        items: n items.
        reduce: "softmax" weighs the pairs by exp(cosine/temperature): between the mean (hot) and the maximum (cold).
        temperature: of the weights.

    Returns:
        (q, n) in [−1, 1].

    Raises:
        InputError: an unknown `reduce`, a temperature below 1e-6, or sides of different widths.

    >>> cosine(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]))
    tensor([[1.0000, 0.6000, 0.0000]])
    """
    check_choice("reduce", reduce, ("mean", "max", "softmax"))
    _check_temperature(temperature)
    Q, M = sides(queries, items)
    return scored(cosine_form(Q, M, reduce=reduce, temperature=temperature), Q, M)


def cosine_form(Q: Side, M: Side, *, reduce: str = "mean", temperature: float = 0.1) -> Form:
    """The form of `cosine`."""
    if reduce == "mean":
        return _inner(*(side.sum / side.number.clamp(min=1)[:, None] for side in (Q, M)))

    def best_or_weighted(Q: Side, M: Side) -> Tensor:
        cosines, mask = products(Q.vectors, M.vectors).flatten(2), _pairs(Q, M)
        if reduce == "max":
            return cosines.masked_fill(~mask & mask.any(-1, keepdim=True), -torch.inf).amax(-1)
        return (_weights(cosines, mask, temperature) * cosines).sum(-1)

    return traced(best_or_weighted, Q, M)


@full_precision
def centroid(queries: Items, items: Items) -> Float[Tensor, "q n"]:
    """Cosine between the sums of the present vectors of query and item; 0 where a sum vanishes.

    Args:
        queries: q items.
        items: n items.

    Returns:
        (q, n) in [−1, 1].

    Source: CentroBind takes the centroid as its anchor.

    >>> from gramian import Bundle
    >>> item = Bundle.from_dict({"a": [[1.0, 0.0]], "b": [[0.0, 1.0]]})
    >>> centroid(torch.tensor([[1.0, 0.0], [0.6, 0.8]]), item)
    tensor([[0.7071],
            [0.9899]])
    """
    Q, M = sides(queries, items)
    return scored(centroid_form(Q, M), Q, M)


def centroid_form(Q: Side, M: Side) -> Form:
    """The form of `centroid`."""
    return _inner(direction(Q.sum), direction(M.sum))


@full_precision
def weighted_centroid(queries: Items, items: Items, *, temperature: float = 0.1) -> Float[Tensor, "q n"]:
    """Cosine between the query and the item's centroid with weights w ∝ exp(cosine to the query / temperature).

    Σ w⟨a, z⟩ / ‖Σ w z‖: vectors unrelated to the query hardly count. A query of several vectors is represented by their
    normalised sum. The weighted centroid lies in the item's cone, so the score never exceeds `cone`. Where the item's vectors
    all but cancel, to within √ε, the direction of their sum is rounding noise.

    Args:
        queries: q items.
        items: n items.
        temperature: of the weights; 0.1 in the paper. The larger, the closer to `centroid`.

    Returns:
        (q, n) in [−1, 1]; 0 where the weighted sum vanishes.

    Raises:
        InputError: a temperature below 1e-6.

    Source: SCALAR (2026).

    >>> from gramian import Bundle
    >>> item = Bundle.from_dict({"a": [[1.0, 0.0]], "b": [[0.0, 1.0]]})
    >>> weighted_centroid(torch.tensor([[1.0, 0.0]]), item).round(decimals=4), centroid(torch.tensor([[1.0, 0.0]]), item)
    (tensor([[1.]]), tensor([[0.7071]]))
    """
    _check_temperature(temperature)
    Q, M = sides(queries, items)
    return scored(weighted_centroid_form(Q, M, temperature=temperature), Q, M)


def weighted_centroid_form(Q: Side, M: Side, *, temperature: float = 0.1) -> Form:
    """The form of `weighted_centroid`."""

    def weighted(Q: Side, M: Side) -> Tensor:
        cosines = products(Q.vectors, M.vectors).squeeze(2)
        w = _weights(cosines, M.present.expand_as(cosines), temperature)
        squared = torch.einsum("qni,nij,qnj->qn", w, M.gram(), w)
        vanishes = squared <= (32 * torch.finfo(squared.dtype).eps) ** 2
        length = squared.masked_fill(vanishes, 1).sqrt()
        return ((w * cosines).sum(-1) / length).masked_fill(vanishes, 0)

    return traced(weighted, Side(direction(Q.sum).unsqueeze(1), Q.present.any(1, keepdim=True)), M)


@full_precision
def leading(queries: Items, items: Items) -> Float[Tensor, "q n"]:
    """Cosine between the leading directions, on which PMRL takes an item's vectors to agree, with their signs.

    Args:
        queries: q items.
        items: n items.

    Returns:
        (q, n) in [−1, 1].

    Source: PMRL; see `gramian.geometry.leading_direction` for the sign.

    >>> from gramian import Bundle
    >>> item = Bundle.from_dict({"a": [[0.6, 0.8]], "b": [[0.6, 0.8]], "c": [[0.8, -0.6]]})
    >>> leading(torch.tensor([[0.6, 0.8]]), item).round(decimals=4)
    tensor([[1.]])
    """
    Q, M = sides(queries, items)
    return scored(leading_form(Q, M), Q, M)


def leading_form(Q: Side, M: Side) -> Form:
    """The form of `leading`."""
    return _inner(*(leading_direction(side.vectors, side.present) for side in (Q, M)))


@full_precision
def multilinear(queries: Items, items: Items) -> Float[Tensor, "q n"]:
    """Multilinear inner product: Σ over the dimensions of the product of all present vectors of query and item.

    Negating one vector negates the score, negating two leaves it: it rewards agreement of the vectors' signs in each
    coordinate, and so depends on the basis. Its magnitude shrinks with every further vector.

    Args:
        queries: q items.
        items: n items.

    Returns:
        (q, n) in [−1, 1].

    Source: Symile.

    >>> from gramian import Bundle
    >>> item = Bundle.from_dict({"a": [[0.6, 0.8]], "b": [[0.8, 0.6]]})
    >>> multilinear(torch.tensor([[1.0, 0.0]]), item)
    tensor([[0.4800]])
    """
    Q, M = sides(queries, items)
    return scored(multilinear_form(Q, M), Q, M)


def multilinear_form(Q: Side, M: Side) -> Form:
    """The form of `multilinear`."""
    return _inner(*(side.vectors.masked_fill(~side.present[..., None], 1).prod(1) for side in (Q, M)))


def _inner(first: Tensor, second: Tensor) -> Form:
    """The form of ⟨first, second⟩."""
    return Form(Linear(), (first,), (second,), -1, 1)


def _check_temperature(temperature: float) -> None:
    check_number("temperature", temperature, "[1e-6, inf)")


def _pairs(Q: Side, M: Side) -> Tensor:
    """(q, n, k·m): which pairs of vectors are present."""
    return (Q.present[:, None, :, None] & M.present[:, None, :]).flatten(2)


def _weights(cosines: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """Softmax over the present entries of the last axis; zeros where none is."""
    any_present = mask.any(-1, keepdim=True)
    logits = (cosines / temperature).masked_fill(~mask & any_present, -torch.inf)
    return logits.softmax(-1).masked_fill(~mask, 0)
