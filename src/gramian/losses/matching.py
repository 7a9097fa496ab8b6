"""`Matching`: the data-anchor matching loss (DAM) of GRAM and PMRL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gramian.bundle import Bundle
from gramian.errors import check_choice, check_number
from gramian.kernels import Exchange
from gramian.losses.base import Loss, LossOutput, comparable
from gramian.losses.contrast import ANCHORED, RANDOM, against_others, anchors_of, draw_anchor
from gramian.papers import GRAM, PMRL, Paper
from gramian.scores import SCORES, ScoreName

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

__all__ = ["Matching", "hard_negatives", "matching_pairs"]


class Matching(Loss):
    """Binary cross-entropy of a matching head on three groups of pairs per batch; a scalar ≥ 0, log 2 where every logit is 0.

    (anchorᵢ, Mᵢ) is a match; (anchorᵢ, a hard M) and (a hard anchor, Mᵢ) are not. A hard negative is one draw from the softmax
    of the contrastive scores over the other items; in evaluation mode the draws are fixed.

    Args:
        matcher: a module that maps two Bundles of n rows to n logits, row i of one against row i of the other; see
            `gramian.model.Matcher`. It is trained with the loss.
        score: by which hard negatives are drawn; "volume" in the papers.
        anchor: a modality, "text" in the papers; "each" or "random".
        temperature: τ of the softmax; 0.07 as in GRAM at the start.

    Raises:
        InputError: an unknown score, or a temperature that is not positive.

    Source: GRAM, weight 0.1 in its loss and in PMRL's: `Gram() + 0.1 * Matching(matcher)`.
    """

    papers: tuple[Paper, ...] = (GRAM, PMRL)

    def __init__(
        self, matcher: nn.Module, *, score: ScoreName = "volume", anchor: str = "text", temperature: float = 0.07
    ) -> None:
        super().__init__()
        check_choice("score", score, SCORES)
        check_number("temperature", temperature, "(0, 100]")
        self.matcher = matcher
        self.score = score
        self.anchor = anchor
        self.temperature = temperature

    @property
    def sign_blind(self) -> bool:
        """True: the head can learn any sign, so it does not determine those of the space."""
        return True

    def compute(self, bundle: Bundle, exchange: Exchange) -> LossOutput:
        """The mean over the anchors; one part per anchor, named after it. An anchor with fewer than two items is left out."""
        generator = exchange.generator if self.training else torch.Generator().manual_seed(0)
        anchors = anchors_of(self.anchor, bundle, "Matching")
        if self.anchor == RANDOM and self.training:
            anchors = [draw_anchor(anchors, bundle, exchange)]
        comparisons = against_others(anchors, bundle)
        parts = {}
        for anchor, usable in comparable(bundle, comparisons, ANCHORED, exchange):
            queries, items = usable.select(anchor), usable.select(*comparisons[anchor][1])
            with torch.no_grad():
                scores = SCORES[self.score](queries, items) / self.temperature
            left, right, truth = matching_pairs(scores, usable.same(), generator)
            logits = self.matcher(queries[left], items[right])
            parts[anchor] = F.binary_cross_entropy_with_logits(logits, truth.to(logits.dtype))
        return LossOutput(torch.stack(list(parts.values())).mean(), parts)

    def extra_repr(self) -> str:
        """The options."""
        matcher = f"{type(self.matcher).__name__}({self.matcher.extra_repr()})"
        return f"{matcher}, score={self.score!r}, anchor={self.anchor!r}, temperature={self.temperature}"


def matching_pairs(
    scores: Float[Tensor, "n n"], same: Bool[Tensor, "n n"], generator: torch.Generator | None = None
) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"], Bool[Tensor, " p"]]:
    """The pairs of a batch that a matching head learns from: each match, each anchor with a hard item, a hard anchor with each.

    Args:
        scores: (n, n) of anchors with items, divided by the temperature.
        same: (n, n) bool, which rows are one item.
        generator: for the draws, on the CPU.

    Returns:
        Rows of the anchors and of the items, (p,) each, and which are matches: the first n.
    """
    with torch.no_grad():
        wrong_item = hard_negatives(scores, same, generator)
        wrong_anchor = hard_negatives(scores.T, same, generator)
    rows = torch.arange(len(scores), device=scores.device)
    left, right = torch.cat([rows, rows, wrong_anchor]), torch.cat([rows, wrong_item, rows])
    drawn = (left >= 0) & (right >= 0)
    truth = torch.arange(len(drawn), device=scores.device) < len(rows)
    return left[drawn], right[drawn], truth[drawn]


def hard_negatives(
    logits: Float[Tensor, "n n"], same: Bool[Tensor, "n n"], generator: torch.Generator | None = None
) -> Int[Tensor, " n"]:
    """One draw per row from the softmax over the columns of other items.

    Args:
        logits: (n, n).
        same: (n, n) bool, which rows are one item; they are never drawn.
        generator: for the draws, on the CPU.

    Returns:
        (n,) columns; −1 for a row that has no other item to draw.

    >>> hard_negatives(torch.tensor([[0.0, 9.0], [9.0, 0.0]]), torch.eye(2, dtype=torch.bool))
    tensor([1, 0])
    """
    allowed = ~same & (logits > -torch.inf)
    has_negative = allowed.any(1)
    weights = torch.where(has_negative[:, None], logits.masked_fill(~allowed, -torch.inf), 0).softmax(1)
    columns = torch.multinomial(weights.double().cpu(), 1, generator=generator).squeeze(1)
    return columns.to(logits.device).where(has_negative, -1)
