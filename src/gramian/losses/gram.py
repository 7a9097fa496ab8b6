"""`Gram`: the contrastive loss of GRAM (arXiv 2412.11959), and its mended forms."""

from __future__ import annotations

from typing import Literal

from gramian.errors import check_choice
from gramian.losses.contrast import Contrast

__all__ = ["Gram"]


class Gram(Contrast):
    """GRAM: cross-entropy of −V(aᵢ, Mⱼ)/τ over tuples, and of −V(aⱼ, Mᵢ)/τ over anchors, averaged.

    The defaults are the paper's (text as the anchor, τ = 0.07 learned, label smoothing 0.1). Its matching head is a loss of
    its own: `Gram() + 0.1 * Matching(matcher)`. As published the objective is sign-blind and favours items whose own vectors
    are dependent; from random weights it settles in antipodal or partly aligned solutions. `Gram(score="cone",
    anchor="each")` mends all three: it knows the sign, has no factor of the item's own, and gives every modality its turn as
    the anchor.

    Args:
        score: "volume" as published; "span" without the item's own volume; "cone" sign-aware as well.
        anchor: a modality; "text" in the paper. "each" takes every one in turn, "random" one a batch.
        temperature: initial τ; 0.07 in the paper.
        learn_temperature: as in the paper. Kept at or above 0.01, a bound that the paper does not have.
        label_smoothing: 0.1 in the paper.
        negatives: contrast with this many of the hardest negatives; all of the batch, as in the paper, by default.
        block_size: make the scores in blocks of this many rows and columns, and anew in the backward pass; picked by size
            by default.

    Source: GRAM (arXiv 2412.11959), the contrastive terms of its section on the loss.

    >>> loss = Gram()
    >>> loss({"text": [[1.0, 0.0], [0.0, 1.0]], "image": [[1.0, 0.0], [0.0, 1.0]]}).parts.keys()
    dict_keys(['text'])
    """

    def __init__(
        self,
        *,
        score: Literal["volume", "span", "cone"] = "volume",
        anchor: str = "text",
        temperature: float = 0.07,
        learn_temperature: bool = True,
        label_smoothing: float = 0.1,
        negatives: int | None = None,
        block_size: int | None = None,
    ) -> None:
        check_choice("score", score, ("volume", "span", "cone"))
        super().__init__(
            score,
            anchor=anchor,
            temperature=temperature,
            learn_temperature=learn_temperature,
            label_smoothing=label_smoothing,
            negatives=negatives,
            block_size=block_size,
        )
