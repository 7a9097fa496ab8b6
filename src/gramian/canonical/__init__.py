"""Alignment in closed form: canonical analysis of any number of modalities, of moments that one pass over the data gives."""

from gramian.canonical.criteria import PAPERS, Affine, Analysis, Criterion, Solution, solve
from gramian.canonical.moments import Moments
from gramian.canonical.regression import joint

__all__ = ["PAPERS", "Affine", "Analysis", "Criterion", "Moments", "Solution", "joint", "solve"]
