"""The matching loss of a head that reads more of an item than its vectors: the towers' own tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gramian.bundle import Bundle
from gramian.data.batches import Batch
from gramian.errors import InputError, check_number
from gramian.losses.base import LossOutput
from gramian.losses.matching import matching_pairs
from gramian.model.aligner import Aligner
from gramian.model.encoders.released import ReleasedMatcher
from gramian.model.towers import Encoded
from gramian.scores import SCORES, ScoreName

__all__ = ["TokenMatching"]


class TokenMatching:
    """`gramian.losses.Matching` for a `ReleasedMatcher`; its hard negatives are items of the same process.

    Args:
        aligner: with such a head, which is trained as part of it.
        weight: beside the loss; 0.1 in the papers.
        score: by which hard negatives are drawn.
        temperature: of the softmax that they are drawn from.

    Raises:
        InputError: an Aligner with another head, or none; a weight below 0.

    Source: GRAM, where the head reads the BERT's states of a text with an item's tokens.
    """

    def __init__(self, aligner: Aligner, weight: float, score: ScoreName = "volume", temperature: float = 0.07) -> None:
        if not isinstance(aligner.matcher, ReleasedMatcher):
            raise InputError("`matching` is for the head of a released model; another is trained by the loss Matching.")
        self.matcher: ReleasedMatcher = aligner.matcher
        self.weight: float = check_number("matching", weight, "[0, inf)")
        self.score = score
        self.temperature: float = check_number("temperature", temperature, "(0, 100]")

    def added(
        self, output: LossOutput, bundle: Bundle, batch: Batch, encodings: Mapping[str, tuple[Encoded, Tensor]]
    ) -> LossOutput:
        """The loss of a batch with that of its pairs.

        Args:
            output: of the loss.
            bundle: the items.
            batch: what the towers read of them.
            encodings: what they made of it.

        Returns:
            The weighted sum, and the part "Matching/text"; `output` where fewer than two items have a text and more.
        """
        matched = self(bundle, batch, encodings)
        if matched is None:
            return output
        parts = output.parts | {f"Matching/{self.matcher.anchor}": matched}
        return output._replace(total=output.total + self.weight * matched, parts=parts)

    def __call__(self, bundle: Bundle, batch: Batch, encodings: Mapping[str, tuple[Encoded, Tensor]]) -> Tensor | None:
        """The binary cross-entropy; None where fewer than two items have a text and more."""
        anchor = self.matcher.anchor
        others = [name for name in bundle.modalities if name != anchor]
        rows = (bundle.has(anchor) & bundle.has(*others)).nonzero().flatten()
        usable = bundle[rows].detach()
        same = usable.same()
        if len(rows) < 2 or bool(same.all()):
            return None
        with torch.autocast(bundle.vectors.device.type, enabled=False):
            scores = SCORES[self.score](usable.select(anchor), usable.select(*others)) / self.temperature
        left, right, truth = matching_pairs(scores, same)
        context = self.matcher.context(encodings)[rows]
        places = batch.present[anchor].to(rows.device).cumsum(0)[rows] - 1  # texts that are missing have no inputs
        inputs: Any = batch.inputs[anchor]
        words = {name: inputs[name][places[left]] for name in ("input_ids", "attention_mask")}
        logits = self.matcher(words, context[right]).float()
        return F.binary_cross_entropy_with_logits(logits, truth.to(logits.dtype))
