"""`Symile`: cross-entropy of multilinear inner products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gramian.bundle import Bundle
from gramian.errors import InputError, check_choice
from gramian.geometry import widened
from gramian.kernels import Exchange
from gramian.losses.base import Loss, LossOutput, comparable
from gramian.losses.contrast import ANCHORED, EACH, against_others, anchors_of
from gramian.losses.softmax import Temperature
from gramian.papers import SYMILE, Paper

__all__ = ["Symile"]

LARGEST = 2**26  # logits of the larger scheme


class Symile(Loss):
    """Symile: cross-entropy of the multilinear product of matched tuples against others, each modality in turn as the anchor.

    A scalar ≥ 0. A candidate is a tuple with one vector of each of the other modalities. The negatives are tuples assembled
    from different items:

    - "n": the vectors of each modality are shuffled, which gives n tuples; in the anchor's own column the match replaces the
      shuffled tuple. In evaluation mode the modalities are rolled by 0, 1, 2, … places instead, and nothing is drawn.
    - "n_squared": every combination, n^(m−1) tuples.

    A missing vector is a factor 1 of the product; a tuple with nothing present is not a negative. As published, a shuffle may
    pick the anchor's own item; with ids in the Bundle such tuples leave the softmax.

    Args:
        negatives: "n" or "n_squared"; "n" is the cheaper of the paper's two schemes.
        temperature: initial τ, or one per anchor by name. Products of m unit vectors are of the order of d^(1 − m/2), so τ may
            fall to 0.001.
        learn_temperature: whether τ is a parameter (as log τ), as in the paper.

    Raises:
        InputError: a value out of its range; when called, "n_squared" with more than 2²⁶ logits.

    Source: Symile.

    >>> sorted(Symile()({"text": torch.eye(3), "image": torch.eye(3), "audio": torch.eye(3)}).parts)
    ['audio', 'image', 'text']
    """

    papers: tuple[Paper, ...] = (SYMILE,)

    def __init__(
        self,
        *,
        negatives: Literal["n", "n_squared"] = "n",
        temperature: float | Mapping[str, float] = 0.07,
        learn_temperature: bool = True,
    ) -> None:
        super().__init__()
        self.negatives: Literal["n", "n_squared"] = check_choice("negatives", negatives, ("n", "n_squared"))
        self.temperature: Temperature = Temperature(temperature, learned=learn_temperature, minimum=0.001)

    @property
    def sign_blind(self) -> bool:
        """True: with more than two modalities, negating two of them changes nothing."""
        return True

    def compute(self, bundle: Bundle, exchange: Exchange) -> LossOutput:
        """The mean over the anchors; one part per anchor. An anchor with fewer than two items is left out."""
        anchors, parts = anchors_of(EACH, bundle, "Symile"), {}
        self.temperature.check(anchors)
        comparisons = against_others(anchors, bundle)
        for anchor, usable in comparable(bundle, comparisons, ANCHORED, exchange):
            products, candidates, target = self._products(usable, *comparisons[anchor], exchange.generator)
            logits = products / self.temperature(anchor)  # before the mask: −∞/τ has a NaN derivative in τ
            parts[anchor] = F.cross_entropy(logits.masked_fill(~candidates, -torch.inf), target)
        return LossOutput(torch.stack(list(parts.values())).mean(), parts)

    def _products(
        self, usable: Bundle, anchor: str, others: Sequence[str], generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Multilinear products (n, tuples), which of them are candidates, and the column of each row's match."""
        n, device = len(usable), usable.vectors.device
        a = widened(usable.column(anchor))
        masks = [usable.has(name) for name in others]
        factors = [widened(usable.column(name)).masked_fill(~has[:, None], 1) for name, has in zip(others, masks, strict=True)]
        rows = torch.arange(n, device=device)
        if self.negatives == "n":
            index = torch.stack([self._shuffle(n, place, generator).to(device) for place in range(len(others))])
        else:
            if n ** (len(others) + 1) > LARGEST:
                raise InputError(
                    f"`negatives` 'n_squared' takes n^m = {n}^{len(others) + 1} products; at most {LARGEST} are held. "
                    "Use 'n', or a smaller batch."
                )
            index = torch.cartesian_prod(*[rows] * len(others)).reshape(-1, len(others)).T
        tuples = torch.ones(index.shape[1], usable.dim, dtype=a.dtype, device=device)
        filled = torch.zeros(index.shape[1], dtype=torch.bool, device=device)
        own = torch.ones(n, index.shape[1], dtype=torch.bool, device=device)
        for factor, has, where in zip(factors, masks, index, strict=True):
            tuples = tuples * factor[where]
            filled = filled | has[where]
            if usable.item_ids is not None:
                own &= (usable.item_ids[:, None] == usable.item_ids[where]) | ~has[where]
        products = a @ tuples.T
        if self.negatives == "n":
            matches = a
            for factor in factors:
                matches = matches * factor
            target = rows
            match = torch.eye(n, dtype=torch.bool, device=device)
            products = torch.where(match, matches.sum(1), products)
        else:
            target = rows * sum(n**power for power in range(len(others)))
            match = F.one_hot(target, index.shape[1]).bool()
        candidates = filled.expand_as(products)
        if usable.item_ids is not None:
            candidates = candidates & ~own
        return products, candidates | match, target

    def _shuffle(self, n: int, place: int, generator: torch.Generator | None) -> Tensor:
        if self.training:
            return torch.randperm(n, generator=generator)
        return torch.arange(n).roll(place)

    def extra_repr(self) -> str:
        """The options."""
        return f"negatives={self.negatives!r}, {self.temperature}"
