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


def kernel_maxvar(kernels, queries, ridge, power, dim):
    """Unit vectors of queries by the exact dual form, for complete rows.

    `kernels` has each modality's (n, n) kernel of the training rows, `queries` the (q, n) kernel of its queries with them.
    With C the centring matrix and C K C/n = U diag(ε) Uᵀ: H = U diag(ε/(ε + l)) Uᵀ, l = ridge · mean of the ε > 0; M is the
    mean of the H, M g = λ g, and z(x) = k(x)ᵀ C/n U diag(1/(ε + l)) Uᵀ g λ^(power − ½).
    """
    n = len(next(iter(kernels.values())))
    centre = torch.eye(n, dtype=torch.float64) - 1 / n
    inverse, total = {}, torch.zeros(n, n, dtype=torch.float64)
    for name, K in kernels.items():
        spectrum, U = torch.linalg.eigh(centre @ K.double() @ centre / n)
        spectrum = spectrum.clamp(min=0)
        shrink = ridge * spectrum[spectrum > 1e-12 * spectrum[-1]].mean()
        inverse[name] = U @ torch.diag(1 / (spectrum + shrink)) @ U.T
        total += U @ torch.diag(spectrum / (spectrum + shrink)) @ U.T / len(kernels)
    spectrum, g = torch.linalg.eigh(total)
    spectrum, g = spectrum.flip(0)[:dim], g.flip(1)[:, :dim]
    vectors = {}
    for name, k in queries.items():
        rows = k.double() - kernels[name].double().mean(0)  # what the mean feature vector takes off, but for a constant
        z = rows @ centre @ inverse[name] @ g * spectrum ** (power - 0.5)
        vectors[name] = z / z.norm(dim=1, keepdim=True)
    return vectors


def joint(data, weights, names, ridge):
    """Outputs of the joined rows: least squares of the shared variates on the features, with rows √(nρ) I below them."""
    values, _ = data
    n = len(next(iter(values.values())))
    centred = {name: x.double() - x.double().mean(0) for name, x in values.items()}
    rho, t, own = {}, {}, 0
    for name, x in centred.items():
        spectrum = torch.linalg.eigvalsh(x.T @ x / n)
        rho[name] = ridge * float(spectrum[spectrum > 1e-12 * spectrum[-1]].mean())
        variance = (x @ weights[name]).square().mean(0) + rho[name] * weights[name].square().sum(0)
        t[name] = float(variance.sum()) ** -0.5
        own = own + t[name] ** 2 * variance
    G = sum(t[name] * x @ weights[name] for name, x in centred.items())
    X = torch.cat([centred[name] for name in names], 1)
    below = torch.diag(torch.cat([X.new_full((centred[name].shape[1],), (n * rho[name]) ** 0.5) for name in names]))
    B = torch.linalg.lstsq(torch.cat([X, below]), torch.cat([G, torch.zeros(len(below), G.shape[1]).double()])).solution
    return X @ B / (G.square().mean(0) / own)
