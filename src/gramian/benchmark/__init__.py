"""What the objectives and scores cost: the published formulas, the plain forms, the blocked forms and the bare products."""

from gramian.benchmark.costs import Measurement, bench

__all__ = ["Measurement", "bench"]
