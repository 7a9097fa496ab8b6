"""Canonical analysis of several sets of variates, in plain float64: moments by two passes, MAXVAR by the sum of projectors."""

import torch


def mean(data, name):
    values, present = data
    return values[name].double()[present[name]].mean(0)


def covariance(data, name, other):
    """About the mean of each column, over the rows that have both; divided by their number."""
    values, present = data
    both = present[name] & present[other]
    x = values[name].double()[both] - mean(data, name)
    y = values[other].double()[both] - mean(data, other)
    return sum(torch.outer(a, b) for a, b in zip(x, y, strict=True)) / int(both.sum())
