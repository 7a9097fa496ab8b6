"""`Contrast`: a softmax over any score of one modality against the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gramian.bundle import Bundle
from gramian.errors import InputError, check_choice
from gramian.kernels import Form, Given
from gramian.losses.base import LossOutput, SoftmaxLoss
from gramian.scores import SCORES, Items, Score, ScoreName

__all__ = ["AnchoredLoss", "Contrast"]

EACH, RANDOM = "each", "random"
ANCHORED = "the anchor and another modality"


class AnchoredLoss(SoftmaxLoss):
    """A softmax loss that compares an anchor of item i with the other modalities of item j.

    An item takes part when it has the anchor and at least one other modality. With `anchor="each"` every modality is the
    anchor in turn and the losses are averaged: a score of the "best matching part" kind (`span`, `cone`, `volume`) then
    cannot be satisfied by aligning one modality and forgetting the rest. `anchor="random"` draws one of them a batch, and
    takes each in evaluation mode.
    """

    def __init__(
        self,
        *,
        anchor: str,
        temperature: float,
        learn_temperature: bool,
        label_smoothing: float,
        negatives: int | None = None,
        block_size: int | None = None,
    ) -> None:
        super().__init__(
            temperature=temperature,
            learn_temperature=learn_temperature,
            label_smoothing=label_smoothing,
            negatives=negatives,
            block_size=block_size,
        )
        self.anchor = anchor

    def compute(self, bundle: Bundle, generator: torch.Generator | None) -> LossOutput:
        """The mean over the anchors; one part an anchor, named after it. An anchor with fewer than two items is left out."""
        anchors = anchors_of(self.anchor, bundle, type(self).__name__)
        if self.anchor == RANDOM and self.training:
            anchors = [draw_anchor(anchors, bundle, generator)]
        return self.contrast(bundle, against_others(anchors, bundle), ANCHORED)

    def extra_repr(self) -> str:
        """The options."""
        return f"anchor={self.anchor!r}, {super().extra_repr()}"


class Contrast(AnchoredLoss):
    """Cross-entropy, both directions, of score(anchor of item i, other modalities of item j) / τ.

    Args:
        score: how an anchor is compared with the other modalities of an item: a name of `gramian.scores.SCORES`, or a
            function of two Bundles.
        anchor: the name of a modality, "each", or "random": one of them a batch, each in evaluation mode.
        temperature: initial τ.
        learn_temperature: whether τ is a parameter (as log τ, at least 0.01).
        label_smoothing: see `info_nce`.
        negatives: contrast with this many of the hardest negatives; all of the batch by default.
        block_size: make the scores in blocks of this many rows and columns, and anew in the backward pass; picked by size
            by default. A function of your own is called on the whole batch all the same.

    >>> import torch
    >>> loss = Contrast("cone", anchor="each")
    >>> batch = {"text": torch.eye(4), "image": torch.eye(4), "audio": torch.eye(4)}
    >>> sorted(loss(batch).parts)
    ['audio', 'image', 'text']
    """

    def __init__(
        self,
        score: ScoreName | Callable[[Items, Items], Tensor] = "cone",
        *,
        anchor: str = EACH,
        temperature: float = 0.07,
        learn_temperature: bool = True,
        label_smoothing: float = 0.0,
        negatives: int | None = None,
        block_size: int | None = None,
    ) -> None:
        super().__init__(
            anchor=anchor,
            temperature=temperature,
            learn_temperature=learn_temperature,
            label_smoothing=label_smoothing,
            negatives=negatives,
            block_size=block_size,
        )
        if not callable(score):
            check_choice("score", score, SCORES)
        self.score = score
        self.function = score if callable(score) else SCORES[score]

    @property
    def sign_blind(self) -> bool:
        """Whether the score is; a function of your own is taken to know the sign."""
        return isinstance(self.function, Score) and not self.function.sign_aware

    def form(self, usable: Bundle, query: str, targets: Sequence[str]) -> Form:
        """The score of each anchor with each item's other modalities."""
        anchors, others = usable.select(query), usable.select(*targets)
        if isinstance(self.function, Score):
            return self.function.of(anchors, others)
        return Given.form(self.function(anchors, others))

    def extra_repr(self) -> str:
        """The options."""
        return f"score={getattr(self.score, '__name__', self.score)!r}, {super().extra_repr()}"


def anchors_of(anchor: str, bundle: Bundle, loss: str) -> list[str]:
    """The modalities that take the anchor's place: the one named, or every one."""
    names = bundle.modalities
    if len(names) < 2:
        raise InputError(f"`items` must have at least two modalities; got {', '.join(names)}.")
    if anchor in names:
        return [anchor]
    if anchor not in (EACH, RANDOM):
        raise InputError(
            f"`anchor` must be one of {', '.join(names)}, 'each' or 'random'; got {anchor!r}. "
            f"Name one of the modalities, as in {loss}(anchor={names[0]!r})."
        )
    return list(names)


def draw_anchor(anchors: Sequence[str], bundle: Bundle, generator: torch.Generator | None) -> str:
    """One of `anchors` at random, of those that at least two different items have beside another modality."""
    several = bundle.present.sum(1) > 1
    able = [name for name in anchors if bundle[bundle.has(name) & several].distinct() > 1] or anchors
    return able[int(torch.randint(len(able), (1,), generator=generator))]


def against_others(anchors: Sequence[str], bundle: Bundle) -> dict[str, tuple[str, list[str]]]:
    """Each anchor against all other modalities: comparisons named after it."""
    return {anchor: (anchor, [name for name in bundle.modalities if name != anchor]) for anchor in anchors}
