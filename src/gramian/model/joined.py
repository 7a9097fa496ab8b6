"""`joined`: several Aligners as one, whose cosines are the weighted means of theirs."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace

import torch
from torch import nn

from gramian.errors import InputError, check_number, check_type, listing
from gramian.model.aligner import Aligner
from gramian.model.heads import Joined, Modality, parts_of
from gramian.model.towers import Features, Tower

__all__ = ["check_alike", "joined"]


def joined(aligners: Sequence[Aligner], shares: Sequence[float] | None = None) -> Aligner:
    """One Aligner of several that read the same vectors: an ensemble whose cosines are the weighted means of theirs.

    Heads of different kinds err on different items. `gramian.training.join` chooses the shares on validation items.

    Args:
        aligners: two or more with the same modalities and the same towers or feature statistics, as `Aligner.for_table`
            makes them from one table. Their heads are copied and towers shared; matching heads, tokens and banks are left
            behind.
        shares: how much each counts, positive; divided by their sum. All alike by default.

    Returns:
        The Aligner, as wide as all of them together, on the CPU, in evaluation mode.

    Raises:
        InputError: fewer than two, other modalities or towers, shares that are not one positive number for each.

    >>> from gramian.data import Table
    >>> table = Table.from_columns({"a": torch.eye(4), "b": 2 * torch.eye(4).flip(1)})
    >>> joined([Aligner.canonical(table, head="linear"), Aligner.for_table(table, dim=5, head="mlp")])(table)
    Bundle(4 items, 8 dimensions, torch.float32; a 4, b 4)
    """
    check_type("aligners", aligners, list, tuple)
    shares = [1.0] * len(aligners) if shares is None else shares
    if len(aligners) < 2 or len(shares) != len(aligners):
        raise InputError(
            f"`aligners` must be two or more, with a share for each; got {len(aligners)} and {len(shares)} shares."
        )
    for i, share in enumerate(shares):
        check_number(f"shares[{i}]", share, "(0, inf)")
    check_alike(aligners)
    first = aligners[0]
    modalities, heads = {}, []
    for name, entry in first.modalities.items():
        every = [
            (replace(part, share=part.share * share / sum(shares)), head)
            for aligner, share in zip(aligners, shares, strict=True)
            for part, head in parts_of(aligner.modalities[name], aligner.named_heads()[name], aligner.dim)
        ]
        parts = tuple(part for part, _ in every)
        own = None if isinstance(entry.tower, Features) else entry.tower
        modalities[name] = Modality(entry.width, "joined", own, parts=parts)
        heads.append(Joined([deepcopy(head) for _, head in every], [part.share for part in parts]))
    result = Aligner(modalities, sum(aligner.dim for aligner in aligners))
    result.towers.load_state_dict(first.towers.state_dict())
    result.heads = nn.ModuleList(heads)
    return result.to("cpu").eval()


def check_alike(aligners: Sequence[Aligner]) -> None:
    """Check that Aligners can be joined.

    Args:
        aligners: at least one.

    Raises:
        InputError: something else among them, other modalities or towers.
    """
    for i, aligner in enumerate(aligners):
        check_type(f"aligners[{i}]", aligner, Aligner)
    first = aligners[0]
    for i, aligner in enumerate(aligners[1:], 1):
        if tuple(aligner.modalities) != tuple(first.modalities):
            raise InputError(
                f"`aligners` must have the modalities {', '.join(first.modalities)}, in this order; number {i} has "
                f"{listing(aligner.modalities)}."
            )
        for name, tower in first.towers.items():
            if not _reads_alike(tower, aligner.towers[name]):
                raise InputError(
                    f"`aligners` must read `{name}` with one tower, or with the same statistics of its features; number {i} "
                    "reads it otherwise. Make them from one table."
                )


def _reads_alike(one: Tower, other: Tower) -> bool:
    """Whether two towers give the same vectors."""
    if one is other:
        return True
    if not isinstance(one, Features) or not isinstance(other, Features) or one.width != other.width:
        return False
    theirs = other.state_dict()
    return all(
        torch.allclose(value.cpu(), theirs[name].cpu(), rtol=1e-4, atol=1e-6) for name, value in one.state_dict().items()
    )
