"""HyperGRAM (CVPR 2026): the volume of vectors lifted to the hyperboloid, by Lorentz inner products."""

import math

import torch

from reference import gram


def lift(vector, curvature=1.0):
    """exp₀(z) = (cosh √c‖z‖, sinh √c‖z‖ z/‖z‖)/√c."""
    z, root = vector.double(), math.sqrt(curvature)
    length = float(z.norm())
    time = math.cosh(root * length) / root
    return torch.cat([torch.tensor([time], dtype=torch.float64), math.sinh(root * length) / (root * length) * z])


def inner(x, y):
    """⟨x, y⟩_L = −x₀y₀ + x₁y₁ + …"""
    return float(-x[0] * y[0] + x[1:] @ y[1:])


def volume(vectors, curvature=1.0):
    """√|det| of the Lorentz inner products of the lifted vectors."""
    points = [lift(vector, curvature) for vector in vectors]
    G = torch.tensor([[inner(x, y) for y in points] for x in points], dtype=torch.float64)
    return math.sqrt(abs(float(torch.linalg.det(G))))


def score(query, item, alpha=0.5, curvature=1.0):
    together = torch.cat([query, item])
    return -(alpha * gram.volume(together) + (1 - alpha) * volume(together, curvature))
