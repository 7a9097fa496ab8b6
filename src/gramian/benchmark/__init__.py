"""Comparisons: studies of methods over several seeds, and the cost of losses and scores against the published formulas."""

from gramian.benchmark.costs import Measurement, bench

__all__ = ["Measurement", "bench"]
