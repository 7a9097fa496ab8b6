"""Objectives to train: each takes a Bundle (or a dict of tensors) and gives a scalar and its named parts.

| class | formula by default | paper |
| --- | --- | --- |
| `Gram` | cross-entropy of −V/τ, both directions, anchored | GRAM |
| `PMRL` | −log softmax(σ/τ₁)₁, and repulsion of leading directions | PMRL |
| `Pairwise` | InfoNCE or sigmoid of cosines, all pairs or anchored | CLIP, ImageBind, SigLIP |
| `Centroid` | InfoNCE of each modality against the centroid | CentroBind |
| `Triangle` | cross-entropy of −area/τ, both directions, anchored | TRIANGLE |
| `Symile` | cross-entropy of multilinear products | Symile |
| `HyperGram` | cross-entropy of −(αV + (1 − α)V_hyperbolic)/τ | HyperGRAM |
| `Contrast` | cross-entropy of any score, any anchor or each in turn | that of the score |
| `Matching` | binary cross-entropy of a matching head, hard negatives | GRAM, PMRL |
| `Sum` | `0.5 * Pairwise() + PMRL()` | those of its terms |

`Loss.papers` has the title, venue and BibTeX of each. The options that all softmax losses share are `SoftmaxOptions`.
"""

from gramian.losses.base import Loss, LossOutput, Sum
from gramian.losses.contrast import Centroid, Contrast, Gram, HyperGram, Triangle
from gramian.losses.functional import info_nce, sigmoid_loss
from gramian.losses.matching import Matching, hard_negatives
from gramian.losses.pairwise import Pairwise
from gramian.losses.pmrl import PMRL
from gramian.losses.softmax import SoftmaxLoss, SoftmaxOptions
from gramian.losses.symile import Symile

__all__ = [
    "LOSSES",
    "PMRL",
    "Centroid",
    "Contrast",
    "Gram",
    "HyperGram",
    "Loss",
    "LossOutput",
    "Matching",
    "Pairwise",
    "SoftmaxLoss",
    "SoftmaxOptions",
    "Sum",
    "Symile",
    "Triangle",
    "hard_negatives",
    "info_nce",
    "recommended",
    "sigmoid_loss",
]

LOSSES: dict[str, type[Loss]] = {
    loss.__name__: loss for loss in (Gram, PMRL, Pairwise, Centroid, Triangle, Symile, HyperGram, Contrast)
}
"""The losses by name, without those built from other modules: `Sum` from losses, `Matching` from a matching head."""


def recommended() -> Loss:
    """The best loss measured for new heads: all-pairs InfoNCE plus the cone with each modality as the anchor, both at τ = 0.2.

    docs/objectives.md has the study. It costs about twice what `Pairwise(temperature=0.2)` alone does.

    >>> recommended().weights
    (1.0, 1.0)
    """
    return Pairwise(temperature=0.2) + Gram(score="cone", anchor="each", temperature=0.2)
