"""gramian: align any number of modalities in one space; train, measure, retrieve and report.

A score ranks tuples; a loss turns scores of candidate tuples into a softmax; a metric ranks the same scores.
"""

import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from gramian.bundle import Bundle
    from gramian.data import Table, load
    from gramian.errors import InputError
    from gramian.evaluation import evaluate
    from gramian.index import Index
    from gramian.losses import PMRL, Centroid, Contrast, Gram, HyperGram, Matching, Pairwise, Symile, Triangle
    from gramian.model import Aligner
    from gramian.model.released import load_released
    from gramian.tokens import Tokens
    from gramian.training import Recipe, fit_canonical, train
    from gramian.training.fit import fit

__all__ = [
    "PMRL",
    "Aligner",
    "Bundle",
    "Centroid",
    "Contrast",
    "Gram",
    "HyperGram",
    "Index",
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
    "fit_canonical",
    "load",
    "load_released",
    "train",
]

_ROOMS = {
    "bundle": ("Bundle",),
    "data": ("Table", "load"),
    "errors": ("InputError",),
    "evaluation": ("evaluate",),
    "index": ("Index",),
    "losses": ("PMRL", "Centroid", "Contrast", "Gram", "HyperGram", "Matching", "Pairwise", "Symile", "Triangle"),
    "model": ("Aligner",),
    "model.released": ("load_released",),
    "tokens": ("Tokens",),
    "training": ("Recipe", "fit", "fit_canonical", "train"),
}
"""What is imported when it is first asked for: a loss needs no training, the command line hears Ctrl-C before torch comes."""

_LATER = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    value: Any
    if name == "__version__":
        value = _version()
    elif name in _LATER:
        value = getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
    elif name.isidentifier() and importlib.util.find_spec(f"{__name__}.{name}") and not name.startswith("_"):
        value = importlib.import_module(f"{__name__}.{name}")  # as in `import gramian; gramian.losses.LOSSES`
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def _version() -> str:
    """That of the installed package, which is made from git's tags."""
    from importlib import metadata

    try:
        return metadata.version("gramian")
    except metadata.PackageNotFoundError:  # a folder of sources that nobody installed
        return "0+unknown"


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
