"""Train an Aligner: the recipe, one visible loop on accelerate, checkpoints, cached gradients for large batches."""

from gramian.training.fit import fit
from gramian.training.recipe import History, Recipe

__all__ = ["History", "Recipe", "fit"]
