"""Comparisons: studies of methods by several seeds, and what objectives and scores cost against the published formulas."""

from gramian.benchmark.costs import Measurement, bench

__all__ = ["Measurement", "bench"]
