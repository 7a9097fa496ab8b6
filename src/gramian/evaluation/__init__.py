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
from gramian.evaluation.report import Report
from gramian.evaluation.reranking import Reranked, Reranker, reranked_directions
from gramian.evaluation.shape import diagnostics, saturation

__all__ = [
    "DEFAULT",
    "SUBSETS",
    "Comparison",
    "Direction",
    "Gain",
    "Report",
    "Reranked",
    "Reranker",
    "Subsets",
    "compare",
    "diagnostics",
    "evaluate",
    "hits",
    "reranked_directions",
    "saturation",
    "single_directions",
    "subset_directions",
]
