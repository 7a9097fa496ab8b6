"""`Contrast`: a softmax over any score of one modality against the others."""

from __future__ import annotations

import torch

from gramian.bundle import Bundle
from gramian.errors import InputError, check_choice
from gramian.losses.base import Loss, LossOutput, Temperature, too_small
from gramian.losses.functional import info_nce
from gramian.scores import SCORES, SIGN_BLIND, ScoreName

__all__ = ["Contrast"]

EACH = "each"


class Contrast(Loss):
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
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise InputError(f"`label_smoothing` must lie in [0, 1); got {label_smoothing}.")
        self.score = check_choice("score", score, SCORES)
        self.anchor = anchor
        self.label_smoothing = label_smoothing
        self.temperature = Temperature(temperature, learned=learn_temperature)

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
        tau = self.temperature()
        parts, most = {}, 0
        for anchor in names if self.anchor == EACH else [self.anchor]:
            others = [name for name in names if name != anchor]
            usable = bundle[bundle.has(anchor) & bundle.has(*others)]
            most = max(most, len(usable))
            if len(usable) > 1:
                scores = SCORES[self.score](usable.column(anchor), usable.select(*others))
                parts[anchor] = info_nce(scores / tau, label_smoothing=self.label_smoothing)
        if not parts:
            raise too_small(most, "the anchor and another modality")
        return LossOutput(torch.stack(list(parts.values())).mean(), parts)

    def extra_repr(self) -> str:
        """The options."""
        return f"score={self.score!r}, anchor={self.anchor!r}, {self.temperature}, label_smoothing={self.label_smoothing}"
