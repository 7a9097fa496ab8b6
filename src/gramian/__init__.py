"""gramian: align any number of modalities in one space; train, measure, retrieve and report.

A score ranks tuples; a loss turns scores of candidate tuples into a softmax; a metric ranks the same scores.
"""

from gramian.bundle import Bundle
from gramian.errors import InputError
from gramian.losses import PMRL, Centroid, Contrast, Gram, HyperGram, Matching, Pairwise, Symile, Triangle
from gramian.tokens import Tokens

__all__ = [
    "PMRL",
    "Bundle",
    "Centroid",
    "Contrast",
    "Gram",
    "HyperGram",
    "InputError",
    "Matching",
    "Pairwise",
    "Symile",
    "Tokens",
    "Triangle",
    "__version__",
]

__version__ = "0.1.0"
