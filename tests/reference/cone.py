"""Cosine to the convex cone of an item's vectors, by non-negative least squares; cosine to its span, by least squares."""

import numpy as np
from scipy.optimize import nnls


def cone(query, item):
    """max over w ≥ 0, w ≠ 0 of the cosine between a and Zᵀw.

    The nearest point p of the cone to a has the largest cosine, ‖p‖, unless it is the apex: then no combination agrees with
    a, and the best one is a single vector.
    """
    a, Z = query.double().numpy(), item.double().numpy()
    weights, _ = nnls(Z.T, a)
    p = Z.T @ weights
    if np.linalg.norm(p) > 1e-12:
        return float(a @ p / np.linalg.norm(p))
    return max(float(a @ z) for z in Z)


def span(query, item):
    """‖P_M a‖, the length of the least-squares fit of a by the item's vectors."""
    a, Z = query.double().numpy(), item.double().numpy()
    weights = np.linalg.lstsq(Z.T, a, rcond=None)[0]
    return float(np.linalg.norm(Z.T @ weights))
