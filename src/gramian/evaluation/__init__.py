"""Measure how well a space is aligned: ranks, intervals, directions of retrieval, the shape of the space, reports, plots."""

from gramian.evaluation.comparing import Comparison, compare
from gramian.evaluation.directions import (
    DEFAULT,
    SUBSETS,
    Direction,
    Gain,
    Subsets,
    hits,
    single_directions,
    subset_directions,
)
from gramian.evaluation.evaluate import evaluate
from gramian.evaluation.mixed import Mixed, mixed_pool
from gramian.evaluation.patterns import directions_of
from gramian.evaluation.report import Report
from gramian.evaluation.reranking import Reranked, Reranker, reranked_directions
from gramian.evaluation.robustness import Robustness, robustness
from gramian.evaluation.shape import diagnostics, saturation
from gramian.evaluation.weighting import all_weights, choose_weights, weighted

__all__ = [
    "DEFAULT",
    "SUBSETS",
    "Comparison",
    "Direction",
    "Gain",
    "Mixed",
    "Report",
    "Reranked",
    "Reranker",
    "Robustness",
    "Subsets",
    "all_weights",
    "choose_weights",
    "compare",
    "diagnostics",
    "directions_of",
    "evaluate",
    "hits",
    "mixed_pool",
    "reranked_directions",
    "robustness",
    "saturation",
    "single_directions",
    "subset_directions",
    "weighted",
]
