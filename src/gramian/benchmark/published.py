"""The published computations, step by step as described, as the baseline of measurements. Nothing else should use them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["gram_loss", "pmrl_loss", "volumes"]


def volumes(anchors: Tensor, others: Sequence[Tensor]) -> Tensor:
    """√|det G| of every anchor with every item: a (q, n, m, m) tensor of Gram matrices, one determinant per pair.

    Args:
        anchors: (q, d).
        others: m − 1 modalities, (n, d) each.

    Returns:
        (q, n).

    Source: GRAM.
    """
    q, n, m = len(anchors), len(others[0]), len(others) + 1
    entries = [[anchors.new_empty(0)] * m for _ in range(m)]
    entries[0][0] = (anchors * anchors).sum(1)[:, None].expand(q, n)
    for i, first in enumerate(others, 1):
        entries[0][i] = entries[i][0] = anchors @ first.T
        for j, second in enumerate(others, 1):
            entries[i][j] = (first * second).sum(1).expand(q, n)
    gram = torch.stack([torch.stack(row, -1) for row in entries], -2)
    volume: Tensor = torch.linalg.det(gram).abs().sqrt()
    return volume


def gram_loss(vectors: Tensor, temperature: float = 0.07, smoothing: float = 0.1) -> Tensor:
    """GRAM's contrastive term; the volumes are computed once for each direction, as in the published training step.

    Args:
        vectors: (n, m, d), the anchor first.
        temperature: τ.
        smoothing: label smoothing.

    Returns:
        A scalar.
    """
    anchor, *others = vectors.unbind(1)
    target = torch.arange(len(vectors), device=vectors.device)
    rows = F.cross_entropy(-volumes(anchor, others) / temperature, target, label_smoothing=smoothing)
    columns = F.cross_entropy(-volumes(anchor, others).T / temperature, target, label_smoothing=smoothing)
    return (rows + columns) / 2


def pmrl_loss(vectors: Tensor, alignment_temperature: float = 0.05, instance_temperature: float = 0.1) -> Tensor:
    """PMRL's two terms from a full singular value decomposition of each item's (d, m) matrix, its left factor (d, d).

    Args:
        vectors: (n, m, d).
        alignment_temperature: τ₁.
        instance_temperature: τ₂.

    Returns:
        A scalar.

    Source: PMRL.
    """
    left, values, _ = torch.linalg.svd(vectors.mT, full_matrices=True)
    leading = left[:, :, 0]
    first = torch.zeros(len(vectors), dtype=torch.long, device=vectors.device)
    own = torch.arange(len(vectors), device=vectors.device)
    alignment = F.cross_entropy(values / alignment_temperature, first)
    return alignment + F.cross_entropy(leading @ leading.T / instance_temperature, own)
