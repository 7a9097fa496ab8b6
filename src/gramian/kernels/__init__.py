"""Scores of all pairs and their reductions for losses, tile by tile: exact, in memory that grows with q + n, not with q·n.

Private: `gramian.scores` and `gramian.losses` are the public interface.
"""

from gramian.kernels.exchange import Exchange
from gramian.kernels.rules import Form, Given, Linear, Projection, Residual, Rule, Traced, self_products
from gramian.kernels.sums import Backend, LogSums, SoftplusSums, log_sums, softplus_sums
from gramian.kernels.tiles import PLAIN, Pairs, all_pairs

__all__ = [
    "PLAIN",
    "Backend",
    "Exchange",
    "Form",
    "Given",
    "Linear",
    "LogSums",
    "Pairs",
    "Projection",
    "Residual",
    "Rule",
    "SoftplusSums",
    "Traced",
    "all_pairs",
    "log_sums",
    "self_products",
    "softplus_sums",
]
