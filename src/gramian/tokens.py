"""`Tokens`: one modality of n items, each with up to t vectors; poolings from tokens to one vector per item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from gramian.errors import InputError, check_choice
from gramian.geometry import widened
from gramian.rows import read_rows

__all__ = ["PoolName", "Tokens", "pool"]

PoolName: TypeAlias = Literal["mean", "max", "first"]
"""Poolings of `pool` by name."""


@dataclass(frozen=True, eq=False, repr=False)
class Tokens:
    """n sequences of up to t vectors: word pieces, patches, frames.

    Attributes:
        values: (n, t, d) floating point; what a masked token holds is never read.
        present: (n, t) bool; a row without a token is an item that lacks the modality.

    Raises:
        InputError: shapes that do not go together.

    >>> tokens = Tokens.from_rows([[[1.0, 0.0], [0.0, 2.0]], [[3.0, 0.0]], None])
    >>> tokens
    Tokens(3 sequences, at most 2 tokens, 2 dimensions; 3 tokens in all)
    >>> pool(tokens, "mean")
    tensor([[0.5000, 1.0000],
            [3.0000, 0.0000],
            [0.0000, 0.0000]])
    """

    values: Tensor
    present: Tensor

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or not self.values.is_floating_point():
            raise InputError(
                "`values` must be a floating-point tensor of shape (n, t, d); "
                f"got {self.values.dtype} of shape {tuple(self.values.shape)}."
            )
        if self.present.dtype != torch.bool or self.present.shape != self.values.shape[:2]:
            raise InputError(
                f"`present` must be a bool tensor of shape {tuple(self.values.shape[:2])}; "
                f"got {self.present.dtype} of shape {tuple(self.present.shape)}."
            )
        object.__setattr__(self, "values", self.values.masked_fill(~self.present[..., None], 0))

    @classmethod
    def from_rows(cls, rows: Sequence[Tensor | Sequence[Sequence[float]] | None]) -> Tokens:
        """Pad n sequences of (tokens, d) vectors, `None` or empty where an item has none, to the longest.

        Raises:
            InputError: no vector at all, or vectors of different widths.
        """
        return cls(*read_rows("`rows`", rows, ndim=2))

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        n, t, d = self.values.shape
        return f"Tokens({n} sequences, at most {t} tokens, {d} dimensions; {int(self.present.sum())} tokens in all)"

    def __getitem__(self, rows: slice | Tensor) -> Tokens:
        """The sequences at `rows`."""
        return Tokens(self.values[rows], self.present[rows])

    def has_any(self) -> Tensor:
        """Which sequences hold a token, (n,) bool."""
        return self.present.any(1)

    def to(self, device: torch.device | str | None = None, *, dtype: torch.dtype | None = None) -> Tokens:
        """The same tokens on another device or in another floating-point type."""
        return Tokens(self.values.to(device=device, dtype=dtype), self.present.to(device=device))

    def padded(self, length: int) -> Tokens:
        """The same tokens, padded with masked ones to `length`.

        Raises:
            InputError: a `length` below that of the longest sequence.
        """
        more = length - self.values.shape[1]
        if more < 0:
            raise InputError(
                f"`length` must be at least the {self.values.shape[1]} tokens of the longest sequence; got {length}."
            )
        pad = torch.nn.functional.pad
        return Tokens(pad(self.values, (0, 0, 0, more)), pad(self.present, (0, more)))

    @staticmethod
    def cat(parts: Sequence[Tokens], dim: Literal[0, 1] = 0) -> Tokens:
        """Concatenate the sequences, padded to the longest (`dim` 0), or the tokens of the same items (`dim` 1).

        Raises:
            InputError: no part, or parts of several widths or, for `dim` 1, lengths.
        """
        shapes = [tuple(part.values.shape) for part in parts]
        if not parts or len({shape[2] for shape in shapes}) > 1 or (dim == 1 and len({shape[0] for shape in shapes}) > 1):
            raise InputError(f"`parts` must hold Tokens of one width, and for `dim` 1 of one length n; got {shapes or 'none'}.")
        if dim == 0:
            longest = max(part.values.shape[1] for part in parts)
            parts = [part.padded(longest) for part in parts]
        return Tokens(torch.cat([part.values for part in parts], dim), torch.cat([part.present for part in parts], dim))


def pool(tokens: Tokens, how: PoolName = "mean") -> Tensor:
    """One vector per sequence.

    Args:
        tokens: n sequences.
        how: "mean", or "max" of each entry, over the present tokens; "first", the first present one.

    Returns:
        (n, d), zero for a sequence without a token.

    Raises:
        InputError: another `how`.

    >>> pool(Tokens.from_rows([[[1.0, 0.0], [0.0, 2.0]]]), "max")
    tensor([[1., 2.]])
    """
    check_choice("how", how, get_args(PoolName))
    values, present = tokens.values, tokens.present[..., None]
    if how == "mean":
        return (widened(values).sum(1) / present.sum(1).clamp(min=1)).to(values.dtype)
    if how == "max":
        return (
            values.masked_fill(~present, -torch.inf).amax(1).masked_fill(~present.any(1), 0)
            if values.shape[1]
            else values.sum(1)
        )
    first = torch.cumsum(present, 1).eq(1) & present
    return (values * first).sum(1)
