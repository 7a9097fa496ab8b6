"""`Contrast`: a softmax over any score of one modality against the others."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from gramian.bundle import Bundle
from gramian.errors import InputError, check_choice
from gramian.losses.base import LossOutput, SoftmaxLoss
from gramian.scores import SCORES, SIGN_BLIND, ScoreName

__all__ = ["Contrast"]

EACH = "each"


class Contrast(SoftmaxLoss):
    """Cross-entropy, both directions, of score(anchor of item i, other modalities of item j) / τ.

    An item takes part when it has the anchor and at least one other modality. With `anchor="each"` every modality is the
    anchor in turn and the losses are averaged: a score of the "best matching part" kind (`span`, `cone`, `volume`) then
    cannot be satisfied by aligning one modality and forgetting the rest.

    Args:
        score: how an anchor is compared with the other modalities of an item.
        anchor: the name of a modality, or "each".
        temperature: initial τ.
        learn_temperature: whether τ is a parameter (as log τ, at least 0.01).
        label_smoothing: see `info_nce`.

    >>> import torch
    >>> loss = Contrast("cone", anchor="each")
    >>> batch = {"text": torch.eye(4), "image": torch.eye(4), "audio": torch.eye(4)}
    >>> sorted(loss(batch).parts)
    ['audio', 'image', 'text']
    """

    def __init__(
        self,
        score: ScoreName = "cone",
        *,
        anchor: str = EACH,
        temperature: float = 0.07,
        learn_temperature: bool = True,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(temperature=temperature, learn_temperature=learn_temperature, label_smoothing=label_smoothing)
        self.score = check_choice("score", score, SCORES)
        self.anchor = anchor

    @property
    def sign_blind(self) -> bool:
        """True for the volume."""
        return self.score in SIGN_BLIND

    def compute(self, bundle: Bundle) -> LossOutput:
        """The mean over the anchors; one part an anchor, named after it. An anchor with fewer than two items is left out."""
        names = bundle.modalities
        if len(names) < 2:
            raise InputError(f"`items` must have at least two modalities; got {', '.join(names)}.")
        if self.anchor != EACH and self.anchor not in names:
            raise InputError(
                f"`anchor` must be one of {', '.join(names)} or 'each'; got {self.anchor!r}. "
                f"Name one of the modalities, as in {type(self).__name__}(anchor={names[0]!r})."
            )
        anchors = names if self.anchor == EACH else [self.anchor]
        comparisons = {anchor: (anchor, [name for name in names if name != anchor]) for anchor in anchors}
        return self.contrast(bundle, comparisons, "the anchor and another modality")

    def scores(self, usable: Bundle, query: str, targets: Sequence[str]) -> Tensor:
        """The score of each anchor with each item's other modalities, (n, n)."""
        return SCORES[self.score](usable.column(query), usable.select(*targets))

    def extra_repr(self) -> str:
        """The options."""
        return f"score={self.score!r}, anchor={self.anchor!r}, {super().extra_repr()}"
