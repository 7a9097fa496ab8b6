"""Train an Aligner: the recipe, one visible loop on accelerate, checkpoints, cached gradients, whole runs."""

from gramian.training.fit import fit
from gramian.training.recipe import History, Recipe
from gramian.training.run import Run, train

__all__ = ["History", "Recipe", "Run", "fit", "train"]
