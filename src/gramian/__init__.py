"""gramian: align any number of modalities in one space; train, measure, retrieve and report.

A score ranks tuples; a loss turns scores of candidate tuples into a softmax; a metric ranks the same scores.
"""

import importlib
from typing import TYPE_CHECKING, Any

from gramian.bundle import Bundle
from gramian.errors import InputError
from gramian.losses import PMRL, Centroid, Contrast, Gram, HyperGram, Matching, Pairwise, Symile, Triangle
from gramian.tokens import Tokens

if TYPE_CHECKING:
    from gramian.data import Table, load
    from gramian.evaluation import evaluate
    from gramian.model import Aligner
    from gramian.training import Recipe, train
    from gramian.training.fit import fit

__all__ = [
    "PMRL",
    "Aligner",
    "Bundle",
    "Centroid",
    "Contrast",
    "Gram",
    "HyperGram",
    "InputError",
    "Matching",
    "Pairwise",
    "Recipe",
    "Symile",
    "Table",
    "Tokens",
    "Triangle",
    "__version__",
    "evaluate",
    "fit",
    "load",
    "train",
]

__version__ = "0.1.0"

_LATER = {
    "Aligner": "gramian.model",
    "Recipe": "gramian.training",
    "Table": "gramian.data",
    "evaluate": "gramian.evaluation",
    "fit": "gramian.training",
    "load": "gramian.data",
    "train": "gramian.training",
}
"""What is imported when it is first asked for: a loss alone needs none of it."""


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'gramian' has no attribute {name!r}")
    value = getattr(importlib.import_module(_LATER[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
