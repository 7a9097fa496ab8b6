"""Objectives to train: each takes a Bundle (or a dict of tensors) and gives a scalar and its named parts.

| class | formula by default | paper |
| --- | --- | --- |
| `Gram` | cross-entropy of −V/τ, both directions, anchored | GRAM (arXiv 2412.11959) |
| `PMRL` | −log softmax(σ/τ₁)₁, and repulsion of leading directions | PMRL (arXiv 2507.17343) |
| `Pairwise` | InfoNCE or sigmoid of cosines, all pairs or anchored | CLIP (2103.00020), ImageBind, SigLIP (2303.15343) |
| `Centroid` | InfoNCE of each modality against the centroid | CentroBind (arXiv 2410.02086) |
| `Triangle` | cross-entropy of −area/τ, both directions, anchored | TRIANGLE (arXiv 2509.24734) |
| `Symile` | cross-entropy of multilinear products | Symile (arXiv 2411.01053) |
| `HyperGram` | cross-entropy of −(αV + (1 − α)V_hyperbolic)/τ | HyperGRAM (CVPR 2026) |
| `Contrast` | cross-entropy of any score, any anchor or each in turn | – |
| `Matching` | binary cross-entropy of a matching head, hard negatives | GRAM, PMRL |
| `Sum` | `0.5 * Pairwise() + PMRL()` | – |
"""

from gramian.losses.anchored import Centroid, HyperGram, Triangle
from gramian.losses.base import Loss, LossOutput, Sum
from gramian.losses.contrast import Contrast
from gramian.losses.diagnosis import saturation
from gramian.losses.functional import info_nce, sigmoid_loss
from gramian.losses.gram import Gram
from gramian.losses.matching import Matching, hard_negatives
from gramian.losses.pairwise import Pairwise
from gramian.losses.pmrl import PMRL
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
    "Sum",
    "Symile",
    "Triangle",
    "hard_negatives",
    "info_nce",
    "recommended",
    "saturation",
    "sigmoid_loss",
]

LOSSES: dict[str, type[Loss]] = {
    "Gram": Gram,
    "PMRL": PMRL,
    "Pairwise": Pairwise,
    "Centroid": Centroid,
    "Triangle": Triangle,
    "Symile": Symile,
    "HyperGram": HyperGram,
    "Contrast": Contrast,
}
"""The losses by name, without those made of others: `Sum` of losses, `Matching` of a matching head."""


def recommended() -> Loss:
    """What measured best from new heads: all-pairs InfoNCE plus the cone with each modality as the anchor, both at τ = 0.2.

    docs/objectives.md has the study. It costs about twice what `Pairwise(temperature=0.2)` alone does.

    >>> recommended().weights
    (1.0, 1.0)
    """
    return Pairwise(temperature=0.2) + Gram(score="cone", anchor="each", temperature=0.2)
