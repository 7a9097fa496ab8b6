"""`Pairwise`: InfoNCE or SigLIP's sigmoid of cosines between pairs of modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import ClassVar, Literal, Unpack

import torch
from torch import Tensor, nn

from gramian.bundle import Bundle
from gramian.errors import InputError, check_choice, check_number, check_type, listing
from gramian.kernels import Exchange, Form
from gramian.losses.base import LossOutput
from gramian.losses.functional import sigmoid_loss
from gramian.losses.softmax import SoftmaxLoss, SoftmaxOptions
from gramian.papers import CLIP, IMAGEBIND, SIGLIP, Paper
from gramian.scores.angles import cosine_form
from gramian.scores.sides import sides

__all__ = ["Pairwise"]


class Pairwise(SoftmaxLoss):
    """A loss on the cosines between two modalities, averaged over pairs of modalities; a scalar ≥ 0.

    An item takes part in a pair if it has both modalities. A pair with fewer than two such items in the batch is left out.

    Args:
        anchor: None for all pairs; the name of a modality for the pairs that contain it (ImageBind, VAST).
        pairs: the pairs to use, as in [("text", "image"), ("image", "audio")]; instead of `anchor`.
        objective: "softmax" is symmetric InfoNCE; "sigmoid" is SigLIP, −Σᵢⱼ log σ(±(cosᵢⱼ/τ + b))/n, b learned from −10.
        weights: how much each pair counts, as in {"text-image": 2.0}; 1 for those not named; 0 leaves a pair out.
        **options: see `SoftmaxOptions`. `temperature` is by default 0.07 (CLIP), and 0.1 for "sigmoid" (SigLIP);
            `label_smoothing`, `negatives` and `backend` are for "softmax" alone.

    Raises:
        InputError: an unknown option, a value out of its range, or options that exclude each other; when called, a pair or
            an anchor that is not among the modalities.

    Source: CLIP; anchored: ImageBind; "sigmoid": SigLIP.

    >>> loss = Pairwise(anchor="text")
    >>> batch = {"text": torch.eye(3), "image": torch.eye(3), "audio": torch.eye(3)}
    >>> sorted(loss(batch).parts)
    ['text-audio', 'text-image']
    """

    papers: tuple[Paper, ...] = (CLIP,)
    defaults: ClassVar[SoftmaxOptions] = SoftmaxLoss.defaults | {"temperature": None}

    def __init__(
        self,
        *,
        anchor: str | None = None,
        pairs: Sequence[tuple[str, str]] | None = None,
        objective: Literal["softmax", "sigmoid"] = "softmax",
        weights: Mapping[str, float] | None = None,
        **options: Unpack[SoftmaxOptions],
    ) -> None:
        check_choice("objective", objective, ("softmax", "sigmoid"))
        if objective == "sigmoid" and options.get("temperature") is None:
            options["temperature"] = 0.1
        super().__init__(**options)
        if anchor is not None and pairs is not None:
            raise InputError("`pairs` and `anchor` both choose the pairs; got both. Leave one out.")
        if pairs is not None and not (pairs and all(len(pair) == 2 and pair[0] != pair[1] for pair in pairs)):
            raise InputError(f"`pairs` must hold pairs of two modalities; got {listing(pairs) or 'none'}.")
        if objective == "sigmoid" and (self.label_smoothing or self.negatives is not None or self.backend != "torch"):
            raise InputError("`label_smoothing`, `negatives` and `backend` belong to `objective` 'softmax'; got 'sigmoid'.")
        check_type("weights", weights, Mapping, type(None))
        for name, weight in (weights or {}).items():
            check_number(f"weights[{name!r}]", weight, "[0, inf)")
        self.anchor = anchor
        self.pairs: tuple[tuple[str, str], ...] | None = (
            None if pairs is None else tuple((first, second) for first, second in pairs)
        )
        self.objective = objective
        self.weights: dict[str, float] | None = None if weights is None else dict(weights)
        self.bias: nn.Parameter | None = nn.Parameter(torch.tensor(-10.0)) if objective == "sigmoid" else None
        if objective == "sigmoid":
            self.papers = (SIGLIP,)
        elif anchor is not None:
            self.papers = (CLIP, IMAGEBIND)

    @property
    def sign_blind(self) -> bool:
        """False: cosines are sign-aware."""
        return False

    def compute(self, bundle: Bundle, exchange: Exchange) -> LossOutput:
        """The mean over the pairs; one part per pair, named "first-second".

        Raises:
            InputError: `anchor`, `pairs`, `weights` or `temperature` names what the Bundle lacks, or every weight is 0.
            TooSmallError: no pair has two items.
        """
        comparisons = {self._name(*pair): (pair[0], pair[1:]) for pair in self._pairs(bundle.modalities)}
        self.temperature.check(list(comparisons))
        weights = None
        if self.weights is not None:
            unknown = sorted(set(self.weights) - set(comparisons))
            if unknown:
                raise InputError(f"`weights` must name pairs such as {listing(comparisons)}; got {listing(unknown)}.")
            weights = {name: self.weights.get(name, 1.0) for name in comparisons}
            comparisons = {name: comparison for name, comparison in comparisons.items() if weights[name] > 0}
            if not comparisons:
                raise InputError("`weights` must leave some pair a positive factor; got zeros for all.")
        return self.contrast(bundle, comparisons, "the same two modalities", exchange, weights)

    def form(self, usable: Bundle, query: str, targets: Sequence[str]) -> Form:
        """The cosines of the two modalities."""
        return cosine_form(*sides(usable.select(query), usable.select(*targets)))

    def penalty(self, logits: Form, usable: Bundle, exchange: Exchange) -> Tensor:
        """The loss of one pair of modalities, a scalar ≥ 0."""
        if self.bias is None:
            return super().penalty(logits, usable, exchange)
        shifted = replace(logits, items=(*logits.items, self.bias.expand(len(usable))))
        return sigmoid_loss(shifted, usable.item_ids, block_size=self.block_size, exchange=exchange)

    def extra_repr(self) -> str:
        """The options."""
        options = {"pairs": self.pairs, "objective": "sigmoid" if self.bias is not None else None, "weights": self.weights}
        named = [f"{name}={value!r}" for name, value in options.items() if value is not None]
        return ", ".join([f"anchor={self.anchor!r}", *named, super().extra_repr()])

    def _name(self, first: str, second: str) -> str:
        """The two names joined by a dash, in the order in which an option names the pair, if one does."""
        turned = f"{second}-{first}"
        return turned if turned in (*(self.temperature.names or ()), *(self.weights or ())) else f"{first}-{second}"

    def _pairs(self, names: Sequence[str]) -> list[tuple[str, str]]:
        if self.pairs is not None:
            unknown = sorted({name for pair in self.pairs for name in pair} - set(names))
            if unknown:
                raise InputError(f"`pairs` must be of the modalities {', '.join(names)}; got {listing(unknown)}.")
            return list(self.pairs)
        if self.anchor is None:
            return list(combinations(names, 2))
        if self.anchor not in names:
            raise InputError(f"`anchor` must be one of {', '.join(names)} or None; got {self.anchor!r}.")
        return [(self.anchor, name) for name in names if name != self.anchor]
