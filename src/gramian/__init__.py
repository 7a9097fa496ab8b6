"""gramian: align any number of modalities in one space; train, measure, retrieve and report.

A score ranks tuples; a loss turns scores of candidate tuples into a softmax; a metric ranks the same scores.
"""

from gramian.bundle import Bundle
from gramian.errors import InputError
from gramian.losses import PMRL, Contrast, Gram, Pairwise

__all__ = ["PMRL", "Bundle", "Contrast", "Gram", "InputError", "Pairwise", "__version__"]

__version__ = "0.1.0"
