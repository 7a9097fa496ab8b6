"""`join`: two trained Aligners as one space, with the share of each that is best on validation items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from gramian.bundle import Bundle
from gramian.data.batches import Reading
from gramian.data.splits import paired_items
from gramian.data.table import Table
from gramian.errors import InputError, check_number
from gramian.evaluation.directions import all_ranks
from gramian.evaluation.metrics import mean_reciprocal_rank
from gramian.model.aligner import Aligner
from gramian.model.joined import check_alike, joined
from gramian.training.recipe import History

__all__ = ["SHARES", "JoinedHistory", "join", "side_by_side"]

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass
class JoinedHistory(History):
    """The history of two Aligners that were trained one after the other and joined: that of the first, and the choice.

    Attributes:
        second: the history of the other.
        shares: share of the first → validation MRR of both together.
    """

    second: History = field(default_factory=History)
    shares: dict[float, float] = field(default_factory=dict)

    @classmethod
    def of(cls, first: History, second: History, shares: Mapping[float, float]) -> JoinedHistory:
        """Both histories and what `join` found.

        Args:
            first: of the first Aligner.
            second: of the other.
            shares: see `join`.

        Returns:
            The history, whose best is that of both together.
        """
        both = cls(**vars(first), second=second, shares=dict(shares))
        both.note(second.broken)
        both.best = max(shares.values())
        return both

    @property
    def chosen(self) -> str:
        """What was chosen, in words."""
        share = max(self.shares, key=lambda share: self.shares[share])
        ours, theirs = super().chosen, f"{self.second.chosen} of the heads beside it"
        if share in (0.0, 1.0):
            return f"{ours}, without the heads beside it" if share else f"{theirs}, without the first"
        return f"{100 * share:g} % {ours}, {100 - 100 * share:g} % {theirs}"


def join(
    first: Aligner,
    second: Aligner,
    validation: Table,
    *,
    shares: Sequence[float] = SHARES,
    reading: Reading = Reading(),
) -> tuple[Aligner, dict[float, float]]:
    """Two Aligners as one, if that ranks validation items better than either.

    Args:
        first: with the modalities and towers of the other; see `gramian.model.joined`.
        second: the other.
        validation: never the test split.
        shares: of the first that are tried, in [0, 1]; 0 and 1 are one of the two alone.
        reading: how raw cells are read.

    Returns:
        The Aligner, the joined one or either; and share → mean reciprocal rank of the validation items. Of equals the largest
        share wins.

    Raises:
        InputError: Aligners that cannot be joined, no share or one outside its range, validation items of which no two share
            two modalities.
    """
    for share in shares:
        check_number("shares", share, "[0, 1]")
    if not shares:
        raise InputError("`shares` must hold at least one to try; got none.")
    check_alike([first, second])
    held_out = validation.select(*first.modalities).has_any()
    if paired_items(held_out) < 2:
        raise InputError("`validation` must hold two items that share two modalities. Pass more.")
    ours, theirs = (aligner.embed(held_out, reading=reading).to("cpu") for aligner in (first, second))
    found: dict[float, float] = {}
    for share in sorted(set(shares), reverse=True):
        found[share] = mean_reciprocal_rank(all_ranks(side_by_side(ours, theirs, share)))
    best = max(found, key=lambda share: found[share])
    if best in (0.0, 1.0):
        return (first if best else second), found
    return joined([first, second], [best, 1 - best]), found


def side_by_side(first: Bundle, second: Bundle, share: float) -> Bundle:
    """Two embeddings of the same items in one space, whose cosines are the weighted means of the two cosines.

    Args:
        first: n items.
        second: the same.
        share: of the first, in [0, 1].

    Returns:
        A Bundle of n items, as wide as both together; without tokens.
    """
    vectors = torch.cat([share**0.5 * first.vectors, (1 - share) ** 0.5 * second.vectors], -1)
    return replace(first, vectors=vectors, tokens={})
