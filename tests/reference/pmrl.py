"""PMRL (arXiv 2507.17343): singular values and leading directions by an SVD of each item's (d, m) matrix."""

import math

import torch

from reference.pairwise import cross_entropy, log_softmax


def spectrum(item, signed=False):
    """σ₁ ≥ σ₂ ≥ … of the item, or with ‖Σz‖/√k in the place of σ₁."""
    sigma = torch.linalg.svd(item.double().T).S.tolist()
    if signed:
        sigma[0] = float(item.double().sum(0).norm()) / math.sqrt(len(item))
    return sigma


def direction(item, signed=False):
    """First left singular vector of the (d, m) matrix, or the normalised sum itself.

    An SVD leaves the sign open. It is the sum's, or where the two are orthogonal, as for any obtuse pair, the first vector's.
    """
    total = item.double().sum(0)
    if signed:
        return total / total.norm()
    u = torch.linalg.svd(item.double().T).U[:, 0]
    side = float(u @ total)
    if abs(side) < 1e-9:
        side = float(u @ item[0].double())
    return u if side > 0 else -u


def alignment(items, tau=0.05, signed=False):
    """Mean of −log softmax(σ/τ₁)₁."""
    terms = [-log_softmax([value / tau for value in spectrum(item, signed)])[0] for item in items]
    return sum(terms) / len(terms)


def instance(items, tau=0.1, signed=False):
    """Cross-entropy of U Uᵀ/τ₂ against the diagonal."""
    directions = [direction(item, signed) for item in items]
    return cross_entropy([[float(u @ v) / tau for v in directions] for u in directions])
