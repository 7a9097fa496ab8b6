"""`Pool`: from tokens to one vector an item, by name."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from gramian.errors import InputError, check_choice
from gramian.tokens import Tokens, pool

__all__ = ["POOLINGS", "Pool", "PoolingName"]

PoolingName: TypeAlias = Literal["mean", "max", "first", "attention"]

POOLINGS: tuple[PoolingName, ...] = ("mean", "max", "first", "attention")
"""The poolings by name."""


class Pool(nn.Module):
    """Tokens → one vector an item.

    Args:
        how: "mean" or "max" over the present tokens; "first", as for a class token; "attention", a mean weighted by the
            softmax of a learned score of each token, which starts as the plain mean.
        dim: width of the tokens; for "attention".

    >>> tokens = Tokens.from_rows([[[1.0, 0.0], [0.0, 2.0]], None])
    >>> Pool("attention", 2)(tokens).detach()
    tensor([[0.5000, 1.0000],
            [0.0000, 0.0000]])
    """

    def __init__(self, how: PoolingName = "mean", dim: int | None = None) -> None:
        super().__init__()
        self.how = check_choice("how", how, POOLINGS)
        if how == "attention":
            if dim is None or dim < 1:
                raise InputError(f"`dim` must be the width of the tokens for 'attention'; got {dim}.")
            self.query = nn.Parameter(torch.zeros(dim))

    def forward(self, tokens: Tokens) -> Tensor:
        """(n, d), zero for a sequence without a token."""
        if self.how != "attention":
            return pool(tokens, self.how)
        if tokens.values.shape[2] != len(self.query):
            raise InputError(f"`tokens` must have width {len(self.query)}; got {tokens.values.shape[2]}.")
        some = tokens.present.any(1, keepdim=True)
        values = tokens.values.to(self.query.dtype)
        logits = (values @ self.query / len(self.query) ** 0.5).masked_fill(~tokens.present & some, -torch.inf)
        weights = logits.softmax(1).masked_fill(~tokens.present, 0)
        pooled: Tensor = weights.unsqueeze(1) @ values
        return pooled.squeeze(1)

    def extra_repr(self) -> str:
        """The options."""
        return repr(self.how)
