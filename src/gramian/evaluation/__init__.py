"""Measure how aligned a space is: ranks, intervals, directions of retrieval, the shape of the space, reports and plots."""

from gramian.evaluation.directions import (
    DEFAULT,
    Direction,
    Gain,
    Reranked,
    hits,
    reranked_directions,
    single_directions,
    subset_directions,
)
from gramian.evaluation.evaluate import evaluate
from gramian.evaluation.report import Report
from gramian.evaluation.shape import diagnostics

__all__ = [
    "DEFAULT",
    "Direction",
    "Gain",
    "Report",
    "Reranked",
    "diagnostics",
    "evaluate",
    "hits",
    "reranked_directions",
    "single_directions",
    "subset_directions",
]
