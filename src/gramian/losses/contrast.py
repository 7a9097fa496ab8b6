"""`Contrast`: a softmax over any score of one modality against the others; GRAM and three rivals set its defaults."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, Unpack

import torch
from torch import Tensor, nn

from gramian.bundle import Bundle
from gramian.errors import InputError, check_choice, check_number, check_type
from gramian.geometry import check_curvature
from gramian.kernels import Exchange, Form, Given
from gramian.losses.base import LossOutput
from gramian.losses.softmax import SoftmaxLoss, SoftmaxOptions
from gramian.papers import CENTROBIND, GRAM, HYPERGRAM, TRIANGLE, Paper
from gramian.scores import SCORES, Items, Score, ScoreName
from gramian.scores.angles import centroid_form
from gramian.scores.sides import sides
from gramian.scores.volumes import hyperbolic_form, triangle_form

__all__ = ["Centroid", "Contrast", "Gram", "HyperGram", "Triangle"]

EACH, RANDOM = "each", "random"
ANCHORED = "the anchor and another modality"


class Contrast(SoftmaxLoss):
    """Cross-entropy, both directions, of score(anchor of item i, other modalities of item j) / τ; a scalar ≥ 0.

    An item takes part if it has the anchor and at least one other modality. With `anchor="each"` every modality is the anchor
    in turn and the losses are averaged: then a score that rewards the best matching part (`span`, `cone`, `volume`) cannot be
    satisfied by aligning one modality and ignoring the rest.

    Args:
        score: how an anchor is compared with the other modalities of an item: a name from `gramian.scores.SCORES`, or a
            function from two Bundles of n items to (n, n).
        anchor: the name of a modality; "each"; or "random": one per batch in training, each in evaluation mode.
        **options: see `SoftmaxOptions`.

    Raises:
        InputError: an unknown score or option, or a value out of its range.

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
        **options: Unpack[SoftmaxOptions],
    ) -> None:
        super().__init__(**options)
        if not callable(score):
            check_choice("score", score, SCORES)
        check_type("anchor", anchor, str)
        self.score = score
        self.anchor = anchor
        self.function: Callable[[Items, Items], Tensor] = score if callable(score) else SCORES[score]
        if isinstance(self.function, Score):
            self.papers: tuple[Paper, ...] = self.papers or self.function.papers

    @property
    def sign_blind(self) -> bool:
        """Whether the score is; a function of your own counts as sign-aware."""
        return isinstance(self.function, Score) and not self.function.sign_aware

    def compute(self, bundle: Bundle, exchange: Exchange) -> LossOutput:
        """The mean over the anchors; one part per anchor, named after it. An anchor with fewer than two items is left out."""
        anchors = anchors_of(self.anchor, bundle, type(self).__name__)
        self.temperature.check(anchors)
        if self.anchor == RANDOM and self.training:
            anchors = [draw_anchor(anchors, bundle, exchange)]
        return self.contrast(bundle, against_others(anchors, bundle), ANCHORED, exchange)

    def form(self, usable: Bundle, query: str, targets: Sequence[str]) -> Form:
        """The score of each anchor with each item's other modalities."""
        anchors, others = usable.apart((query,), targets)
        if isinstance(self.function, Score):
            return self.function.of(anchors, others)
        return Given.form(self.function(anchors, others))

    def extra_repr(self) -> str:
        """The options."""
        return f"score={getattr(self.score, '__name__', self.score)!r}, {self._shared_repr()}"

    def _shared_repr(self) -> str:
        return f"anchor={self.anchor!r}, {super().extra_repr()}"


class Gram(Contrast):
    """GRAM: cross-entropy of −V(aᵢ, Mⱼ)/τ over tuples, and of −V(aⱼ, Mᵢ)/τ over anchors, averaged; a scalar ≥ 0.

    The defaults are the paper's: the volume, text as the anchor, τ = 0.07 learned, label smoothing 0.1. Its matching head is
    a separate loss: `Gram() + 0.1 * Matching(matcher)`. As published, the objective is sign-blind and favours items whose own
    vectors are dependent; from random weights it settles in antipodal or partly aligned solutions. `Gram(score="cone",
    anchor="each")` corrects all three faults: it is sign-aware, has no factor of the item's own, and makes every modality the
    anchor in turn.

    Args:
        score: "volume" as published; "span" without the item's own volume; "cone" sign-aware as well.
        anchor: a modality, "text" in the paper; "each" in turn; or "random", one per batch.
        **options: see `SoftmaxOptions`; `label_smoothing` is 0.1 as in the paper.

    Raises:
        InputError: an unknown score or option, or a value out of its range.

    Source: GRAM, the contrastive terms of its section on the loss.

    >>> loss = Gram()
    >>> loss({"text": [[1.0, 0.0], [0.0, 1.0]], "image": [[1.0, 0.0], [0.0, 1.0]]}).parts.keys()
    dict_keys(['text'])
    """

    papers: tuple[Paper, ...] = (GRAM,)
    defaults: ClassVar[SoftmaxOptions] = SoftmaxLoss.defaults | {"label_smoothing": 0.1}

    def __init__(
        self,
        *,
        score: Literal["volume", "span", "cone"] = "volume",
        anchor: str = "text",
        **options: Unpack[SoftmaxOptions],
    ) -> None:
        super().__init__(check_choice("score", score, ("volume", "span", "cone")), anchor=anchor, **options)


class Centroid(Contrast):
    """CentroBind: InfoNCE of the cosines between each modality and the centroid of all, averaged; a scalar ≥ 0.

    The centroid takes the place of the anchor, and each modality is compared with it in turn. The centroid is scaled to unit
    length here; the paper's augmented views are left to the towers.

    Args:
        own: whether the centroid includes the vector that is compared with it, as in the paper. Without it the loss is
            `Contrast("centroid", anchor="each")`, which no modality can lower by itself.
        anchor: "each" modality in turn, as in the paper; "random"; or the name of one.
        **options: see `SoftmaxOptions`.

    Raises:
        InputError: an unknown option, or a value out of its range.

    Source: CentroBind.

    >>> sorted(Centroid()({"text": torch.eye(3), "image": torch.eye(3), "audio": torch.eye(3)}).parts)
    ['audio', 'image', 'text']
    """

    papers: tuple[Paper, ...] = (CENTROBIND,)

    def __init__(self, *, own: bool = True, anchor: str = EACH, **options: Unpack[SoftmaxOptions]) -> None:
        super().__init__("centroid", anchor=anchor, **options)
        check_type("own", own, bool)
        self.own = own

    def form(self, usable: Bundle, query: str, targets: Sequence[str]) -> Form:
        """The cosine of each vector to each item's centroid."""
        return centroid_form(*sides(usable.select(query), usable.select(*targets, *([query] if self.own else []))))

    def extra_repr(self) -> str:
        """The options."""
        return f"own={self.own}, {self._shared_repr()}"


class Triangle(Contrast):
    """TRIANGLE: cross-entropy, both directions, of −area/τ of the triangle of the anchor and an item's two other vectors.

    A scalar ≥ 0. The defaults are the paper's: the area, text as the anchor, label smoothing 0.1. The area is 0 as soon as
    two of the three vectors coincide, so the third is free; `anchor="each"` makes each of them the anchor in turn.

    Args:
        squared: whether to use 2·area², which the published code optimises, in place of the area.
        anchor: a modality, "text" in the paper; "each" or "random".
        **options: see `SoftmaxOptions`; `label_smoothing` is 0.1 as in the published code.

    Raises:
        InputError: an unknown option, or a value out of its range; when called, more than three modalities.

    Source: TRIANGLE.

    >>> list(Triangle()({"text": torch.eye(3), "image": torch.eye(3), "audio": torch.eye(3)}).parts)
    ['text']
    """

    papers: tuple[Paper, ...] = (TRIANGLE,)
    defaults: ClassVar[SoftmaxOptions] = SoftmaxLoss.defaults | {"label_smoothing": 0.1}

    def __init__(self, *, squared: bool = False, anchor: str = "text", **options: Unpack[SoftmaxOptions]) -> None:
        super().__init__("triangle", anchor=anchor, **options)
        check_type("squared", squared, bool)
        self.squared = squared

    def compute(self, bundle: Bundle, exchange: Exchange) -> LossOutput:
        """As for any anchor, over at most three modalities.

        Raises:
            InputError: more than three modalities.
        """
        if len(bundle.modalities) > 3:
            raise InputError(
                f"`items` must have at most three modalities for Triangle; got {', '.join(bundle.modalities)}. Select three."
            )
        return super().compute(bundle, exchange)

    def form(self, usable: Bundle, query: str, targets: Sequence[str]) -> Form:
        """Minus the areas."""
        return triangle_form(*sides(usable.select(query), usable.select(*targets)), squared=self.squared)

    def extra_repr(self) -> str:
        """The options."""
        return f"squared={self.squared}, {self._shared_repr()}"


class HyperGram(Contrast):
    """HyperGRAM: GRAM's loss over α times the Euclidean volume and 1 − α times that of the tuple lifted to hyperbolic space.

    A scalar ≥ 0. α is learned as a logit. The hyperbolic volume is sign-aware. The paper may lift vectors of any length; a
    Bundle holds unit vectors, all of which are lifted to the same distance from the origin. Anchor, temperature and smoothing
    are GRAM's.

    Args:
        alpha: initial α, in (0, 1).
        learn_alpha: whether α is a parameter.
        curvature: minus the curvature of the hyperbolic space, in (0, 400].
        anchor: a modality, "text" as in GRAM; "each" or "random".
        **options: see `SoftmaxOptions`; `label_smoothing` is 0.1 as in GRAM.

    Raises:
        InputError: an unknown option, or a value out of its range.

    Source: HyperGRAM.

    >>> float(HyperGram(alpha=0.25).alpha.detach())
    0.25
    """

    papers: tuple[Paper, ...] = (HYPERGRAM,)
    defaults: ClassVar[SoftmaxOptions] = SoftmaxLoss.defaults | {"label_smoothing": 0.1}

    def __init__(
        self,
        *,
        alpha: float = 0.5,
        learn_alpha: bool = True,
        curvature: float = 1.0,
        anchor: str = "text",
        **options: Unpack[SoftmaxOptions],
    ) -> None:
        super().__init__("hyperbolic_volume", anchor=anchor, **options)
        check_number("alpha", alpha, "(0, 1)", why="for α = 1 use Gram()")
        check_type("learn_alpha", learn_alpha, bool)
        check_curvature(curvature)
        logit = torch.tensor(alpha).logit()
        self.initial_alpha = alpha
        self.curvature = curvature
        if learn_alpha:
            self.logit: nn.Parameter = nn.Parameter(logit)
        else:
            self.register_buffer("logit", logit)

    @property
    def alpha(self) -> Tensor:
        """α, a scalar in (0, 1)."""
        return self.logit.sigmoid()

    def form(self, usable: Bundle, query: str, targets: Sequence[str]) -> Form:
        """Minus the mixed volumes."""
        pair = sides(usable.select(query), usable.select(*targets))
        return hyperbolic_form(*pair, alpha=self.alpha, curvature=self.curvature)

    def extra_repr(self) -> str:
        """The options."""
        learned = isinstance(self.logit, nn.Parameter)
        return f"alpha={self.initial_alpha}, learn_alpha={learned}, curvature={self.curvature}, {self._shared_repr()}"


def anchors_of(anchor: str, bundle: Bundle, loss: str) -> list[str]:
    """The modalities that serve as the anchor: the one named, or every one.

    Raises:
        InputError: fewer than two modalities, or an anchor that is not one of them.
    """
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


def draw_anchor(anchors: Sequence[str], bundle: Bundle, exchange: Exchange) -> str:
    """One of `anchors` at random, among those that at least two different items have together with another modality."""
    several = bundle.present.sum(1) > 1
    usable = [name for name in anchors if exchange.distinct(bundle[bundle.has(name) & several]) > 1] or anchors
    return usable[int(torch.randint(len(usable), (1,), generator=exchange.generator))]


def against_others(anchors: Sequence[str], bundle: Bundle) -> dict[str, tuple[str, list[str]]]:
    """Each anchor against all other modalities: comparisons named after it."""
    return {anchor: (anchor, [name for name in bundle.modalities if name != anchor]) for anchor in anchors}
