"""`Centroid`, `Triangle` and `HyperGram`: one anchor against the others, by scores with options of their own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gramian.bundle import Bundle
from gramian.errors import InputError
from gramian.geometry import check_curvature
from gramian.kernels import Form
from gramian.losses.base import LossOutput
from gramian.losses.contrast import EACH, AnchoredLoss
from gramian.scores.angles import centroid_form
from gramian.scores.sides import sides
from gramian.scores.volumes import hyperbolic_form, triangle_form

__all__ = ["Centroid", "HyperGram", "Triangle"]


class Centroid(AnchoredLoss):
    """CentroBind: InfoNCE of the cosines between each modality and the centroid of all, averaged over the modalities.

    There is no anchor modality; the centroid takes its place. The centroid is scaled to unit length here; the paper's
    augmented views are left to the towers.

    Args:
        own: whether the centroid that a vector is compared with holds the vector itself, as in the paper. Without it the
            loss is `Contrast("centroid", anchor="each")`, which a modality cannot lower by itself.
        temperature: initial τ.
        learn_temperature: whether τ is a parameter (as log τ, at least 0.01).
        label_smoothing: see `info_nce`.
        block_size: see `Gram`.

    Source: CentroBind (arXiv 2410.02086).

    >>> sorted(Centroid()({"text": torch.eye(3), "image": torch.eye(3), "audio": torch.eye(3)}).parts)
    ['audio', 'image', 'text']
    """

    def __init__(
        self,
        *,
        own: bool = True,
        temperature: float = 0.07,
        learn_temperature: bool = True,
        label_smoothing: float = 0.0,
        block_size: int | None = None,
    ) -> None:
        super().__init__(
            anchor=EACH,
            temperature=temperature,
            learn_temperature=learn_temperature,
            label_smoothing=label_smoothing,
            block_size=block_size,
        )
        self.own = own

    @property
    def sign_blind(self) -> bool:
        """False: the centroid knows the signs."""
        return False

    def form(self, usable: Bundle, query: str, targets: Sequence[str]) -> Form:
        """The cosine of each vector to each item's centroid."""
        return centroid_form(*sides(usable.select(query), usable.select(*targets, *([query] if self.own else []))))

    def extra_repr(self) -> str:
        """The options."""
        return f"own={self.own}, {super().extra_repr()}"


class Triangle(AnchoredLoss):
    """TRIANGLE: cross-entropy, both directions, of −area/τ of the triangle of the anchor and an item's two other vectors.

    The defaults are the paper's: text as the anchor, the area, label smoothing 0.1. The area is 0 as soon as two of the three
    vectors coincide, so that the third is free; `anchor="each"` gives each its turn.

    Args:
        squared: 2·area², which the published code optimises in the place of the area.
        anchor: a modality; "text" in the paper; "each" or "random".
        temperature: initial τ.
        learn_temperature: whether τ is a parameter (as log τ, at least 0.01).
        label_smoothing: 0.1 in the published code.
        block_size: see `Gram`.

    Raises:
        InputError: a Bundle of more than three modalities.

    Source: TRIANGLE (NeurIPS 2025, arXiv 2509.24734).

    >>> list(Triangle()({"text": torch.eye(3), "image": torch.eye(3), "audio": torch.eye(3)}).parts)
    ['text']
    """

    def __init__(
        self,
        *,
        squared: bool = False,
        anchor: str = "text",
        temperature: float = 0.07,
        learn_temperature: bool = True,
        label_smoothing: float = 0.1,
        block_size: int | None = None,
    ) -> None:
        super().__init__(
            anchor=anchor,
            temperature=temperature,
            learn_temperature=learn_temperature,
            label_smoothing=label_smoothing,
            block_size=block_size,
        )
        self.squared = squared

    @property
    def sign_blind(self) -> bool:
        """False: −z is another corner than z."""
        return False

    def compute(self, bundle: Bundle, generator: torch.Generator | None) -> LossOutput:
        """As for any anchor, over at most three modalities."""
        if len(bundle.modalities) > 3:
            raise InputError(
                f"`items` must have at most three modalities for Triangle; got {', '.join(bundle.modalities)}. Select three."
            )
        return super().compute(bundle, generator)

    def form(self, usable: Bundle, query: str, targets: Sequence[str]) -> Form:
        """Minus the areas."""
        return triangle_form(*sides(usable.select(query), usable.select(*targets)), squared=self.squared)

    def extra_repr(self) -> str:
        """The options."""
        return f"squared={self.squared}, {super().extra_repr()}"


class HyperGram(AnchoredLoss):
    """HyperGRAM: GRAM's loss over α times the Euclidean volume and 1 − α times that of the tuple lifted to hyperbolic space.

    α is learned as a logit. The hyperbolic volume knows the sign. The paper may lift vectors of any length; a Bundle holds
    unit vectors, which are all lifted to the same distance from the origin. Anchor, temperature and smoothing are GRAM's.

    Args:
        alpha: initial α, in (0, 1).
        learn_alpha: whether α is a parameter.
        curvature: minus the curvature of the hyperbolic space.
        anchor: a modality, "text" as in GRAM; "each" or "random".
        temperature: initial τ.
        learn_temperature: whether τ is a parameter (as log τ, at least 0.01).
        label_smoothing: 0.1 in GRAM.
        block_size: see `Gram`.

    Source: HyperGRAM (CVPR 2026).

    >>> float(HyperGram(alpha=0.25).alpha.detach())
    0.25
    """

    def __init__(
        self,
        *,
        alpha: float = 0.5,
        learn_alpha: bool = True,
        curvature: float = 1.0,
        anchor: str = "text",
        temperature: float = 0.07,
        learn_temperature: bool = True,
        label_smoothing: float = 0.1,
        block_size: int | None = None,
    ) -> None:
        super().__init__(
            anchor=anchor,
            temperature=temperature,
            learn_temperature=learn_temperature,
            label_smoothing=label_smoothing,
            block_size=block_size,
        )
        if not 0 < alpha < 1:
            raise InputError(f"`alpha` must lie in (0, 1); got {alpha}. For α = 1 use Gram().")
        check_curvature(curvature)
        logit = torch.tensor(alpha).logit()
        self.initial_alpha = alpha
        self.curvature = curvature
        if learn_alpha:
            self.logit = nn.Parameter(logit)
        else:
            self.register_buffer("logit", logit)

    @property
    def alpha(self) -> Tensor:
        """α, a scalar in (0, 1)."""
        return self.logit.sigmoid()

    @property
    def sign_blind(self) -> bool:
        """False: the hyperbolic volume knows the sign."""
        return False

    def form(self, usable: Bundle, query: str, targets: Sequence[str]) -> Form:
        """Minus the mixed volumes."""
        pair = sides(usable.select(query), usable.select(*targets))
        return hyperbolic_form(*pair, alpha=self.alpha, curvature=self.curvature)

    def extra_repr(self) -> str:
        """The options."""
        learned = isinstance(self.logit, nn.Parameter)
        return f"alpha={self.initial_alpha}, learn_alpha={learned}, curvature={self.curvature}, {super().extra_repr()}"
