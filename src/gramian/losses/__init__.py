"""Objectives to train: each takes a Bundle (or a dict of tensors) and gives a scalar and its named parts.

| class | formula by default | paper |
| --- | --- | --- |
| `Gram` | cross-entropy of −V/τ, both directions, anchored | GRAM (arXiv 2412.11959) |
| `PMRL` | −log softmax(σ/τ₁)₁, and repulsion of leading directions | PMRL (arXiv 2507.17343) |
| `Pairwise` | InfoNCE of cosines, all pairs or anchored | CLIP (2103.00020), ImageBind (2305.05665) |
| `Contrast` | cross-entropy of any score, any anchor or each in turn | – |
"""

from gramian.losses.base import Loss, LossOutput
from gramian.losses.contrast import Contrast
from gramian.losses.functional import info_nce
from gramian.losses.gram import Gram
from gramian.losses.pairwise import Pairwise
from gramian.losses.pmrl import PMRL

__all__ = ["LOSSES", "PMRL", "Contrast", "Gram", "Loss", "LossOutput", "Pairwise", "info_nce"]

LOSSES: dict[str, type[Loss]] = {"Gram": Gram, "PMRL": PMRL, "Pairwise": Pairwise, "Contrast": Contrast}
"""The losses by name."""
