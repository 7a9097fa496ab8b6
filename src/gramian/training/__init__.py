"""Train an Aligner: the recipe, one visible loop on accelerate, or a closed form; checkpoints, cached gradients, whole runs."""

from gramian.training.canonical import Choice, Search, fit_canonical
from gramian.training.finishing import Run
from gramian.training.fit import fit
from gramian.training.joining import join
from gramian.training.leash import Leash, fit_leashed
from gramian.training.recipe import History, Recipe
from gramian.training.run import train

__all__ = ["Choice", "History", "Leash", "Recipe", "Run", "Search", "fit", "fit_canonical", "fit_leashed", "join", "train"]
