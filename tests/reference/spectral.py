"""Spectral scores of a pair of items, by a singular value decomposition of its stacked vectors."""

import math

import torch

from reference import pmrl


def energy(vectors):
    """λ₁ = σ₁² of the rows."""
    return float(torch.linalg.svdvals(vectors.double())[0]) ** 2


def leading(query, item):
    return float(pmrl.direction(query) @ pmrl.direction(item))


def spectral(query, item):
    """σ₁ of query and item together over √k."""
    together = torch.cat([query, item])
    return math.sqrt(energy(together) / len(together))


def gain(query, item):
    """(λ₁(Q ∪ M) − max(λ₁(Q), λ₁(M))) / min(λ₁(Q), λ₁(M))."""
    first, second = energy(query), energy(item)
    return (energy(torch.cat([query, item])) - max(first, second)) / min(first, second)


def effective_rank(vectors):
    """exp of the entropy of σᵢ²/Σσ²."""
    energies = [float(sigma) ** 2 for sigma in torch.linalg.svdvals(vectors.double())]
    shares = [value / sum(energies) for value in energies]
    return math.exp(-sum(share * math.log(share) for share in shares if share > 1e-15))
