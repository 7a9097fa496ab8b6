"""`maxsim`: late interaction over tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gramian.bundle import Bundle
from gramian.factorisations import full_precision
from gramian.geometry import unit, widened
from gramian.kernels import Form
from gramian.scores.sides import Items, Side, products, scored, sides, traced
from gramian.tokens import Tokens

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["maxsim"]


@full_precision
def maxsim(queries: Items | Tokens, items: Items | Tokens) -> Float[Tensor, "q n"]:
    """Mean over the query's tokens of the largest cosine to any token of the item.

    The tokens of all present modalities count together; a modality without tokens counts as one, its vector. Late
    interaction sums over the query's tokens; the mean ranks identically and keeps the range. It is not symmetric: every token
    of the query has to be found in the item, but not vice versa.

    Args:
        queries: q items, or the tokens of q items.
        items: n items, or the tokens of n items.

    Returns:
        (q, n) in [−1, 1]; for one token each the cosine, for one query token the largest cosine.

    Source: ColBERT.

    >>> words = Tokens.from_rows([[[1.0, 0.0], [0.0, 1.0]]])
    >>> patches = Tokens.from_rows([[[0.0, 1.0], [1.0, 0.0]], [[1.0, 0.0]]])
    >>> maxsim(words, patches)
    tensor([[1.0000, 0.5000]])
    """
    Q, M = token_sides(queries, items)
    return scored(maxsim_form(Q, M), Q, M)


def maxsim_form(Q: Side, M: Side) -> Form:
    """The form of `maxsim`; one vector per token."""
    return traced(_maxsim, Q, M)


def token_sides(queries: Items | Tokens, items: Items | Tokens) -> tuple[Side, Side]:
    """`sides` with one vector per token."""
    return sides(_as_items(queries), _as_items(items))


def _maxsim(Q: Side, M: Side) -> Tensor:
    if not M.width:
        return Q.vectors.new_zeros(len(Q.vectors), len(M.vectors))
    hidden = (~M.present & M.present.any(1, keepdim=True))[:, None]
    nearest = products(Q.vectors, M.vectors).masked_fill(hidden, -torch.inf).amax(-1)  # (b, c, k)
    return nearest.masked_fill(~Q.present[:, None], 0).sum(-1) / Q.number.clamp(min=1)[:, None]


def _as_items(side: Items | Tokens) -> Items:
    """A Bundle with one modality per token."""
    if isinstance(side, Bundle) and side.tokens:
        parts = [
            side.tokens[name] if name in side.tokens else Tokens(side.column(name)[:, None], side.has(name)[:, None])
            for name in side.modalities
        ]
        side = Tokens.cat(parts, dim=1)
    if isinstance(side, Tokens):
        values = unit(widened(side.values))
        return Bundle(values, side.present, tuple(f"token {i}" for i in range(values.shape[1])))
    return side
