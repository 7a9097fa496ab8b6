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


def maxvar(data, ridge):
    """λ/m, and A_c with G = Σ X_c A_c of variance 1, of complete rows: eigenvectors of the mean of the ridged projectors."""
    values, _ = data
    n, m = len(next(iter(values.values()))), len(values)
    centred = {name: x.double() - x.double().mean(0) for name, x in values.items()}
    inverse, total = {}, torch.zeros(n, n, dtype=torch.float64)
    for name, x in centred.items():
        C = x.T @ x / n
        spectrum = torch.linalg.eigvalsh(C)
        shrink = ridge * spectrum[spectrum > 1e-12 * spectrum[-1]].mean()
        inverse[name] = torch.linalg.inv(C + shrink * torch.eye(len(C), dtype=torch.float64))
        total += x @ inverse[name] @ x.T / n / m
    spectrum, G = torch.linalg.eigh(total)
    G = G.flip(1)
    return spectrum.flip(0), {name: inverse[name] @ x.T @ G for name, x in centred.items()}
