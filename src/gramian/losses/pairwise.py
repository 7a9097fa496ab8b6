"""`Pairwise`: InfoNCE of cosines between pairs of modalities."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from torch import Tensor

from gramian.bundle import Bundle
from gramian.errors import InputError
from gramian.losses.base import LossOutput, SoftmaxLoss
from gramian.scores import cosine

__all__ = ["Pairwise"]


class Pairwise(SoftmaxLoss):
    """Symmetric InfoNCE of the cosines of two modalities, averaged over pairs of modalities.

    An item takes part in a pair when it has both. A pair with fewer than two such items in the batch is left out.

    Args:
        anchor: None for all pairs; the name of a modality for the pairs of which it is one (ImageBind, VAST).
        temperature: initial τ; 0.07 in CLIP.
        learn_temperature: whether τ is a parameter (as log τ, at least 0.01, CLIP's bound).
        label_smoothing: see `info_nce`.

    Source: CLIP (arXiv 2103.00020); anchored: ImageBind (arXiv 2305.05665).

    >>> import torch
    >>> loss = Pairwise(anchor="text")
    >>> batch = {"text": torch.eye(3), "image": torch.eye(3), "audio": torch.eye(3)}
    >>> sorted(loss(batch).parts)
    ['text-audio', 'text-image']
    """

    def __init__(
        self,
        *,
        anchor: str | None = None,
        temperature: float = 0.07,
        learn_temperature: bool = True,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(temperature=temperature, learn_temperature=learn_temperature, label_smoothing=label_smoothing)
        self.anchor = anchor

    @property
    def sign_blind(self) -> bool:
        """False: a cosine knows the sign."""
        return False

    def compute(self, bundle: Bundle) -> LossOutput:
        """The mean over the pairs; one part a pair, named "first-second"."""
        names = bundle.modalities
        if self.anchor is not None and self.anchor not in names:
            raise InputError(f"`anchor` must be one of {', '.join(names)} or None; got {self.anchor!r}.")
        pairs = combinations(names, 2) if self.anchor is None else ((self.anchor, b) for b in names if b != self.anchor)
        comparisons = {f"{first}-{second}": (first, [second]) for first, second in pairs}
        return self.contrast(bundle, comparisons, "the same two modalities")

    def scores(self, usable: Bundle, query: str, targets: Sequence[str]) -> Tensor:
        """The cosines of the two modalities, (n, n)."""
        return cosine(usable.column(query), usable.column(targets[0]))

    def extra_repr(self) -> str:
        """The options."""
        return f"anchor={self.anchor!r}, {super().extra_repr()}"
