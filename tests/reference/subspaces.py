"""The angle between what two items' vectors span: linear subspaces, by volumes, and cones, by alternating projections."""

import math

import numpy as np
from scipy.optimize import nnls
from torch import cat

from reference import gram


def span(query, item):
    """√(1 − (V(Q ∪ M) / (V(Q) V(M)))²)."""
    ratio = gram.volume(cat([query, item])) / (gram.volume(query) * gram.volume(item))
    return math.sqrt(max(0.0, 1 - ratio**2))


def signed_span(query, item):
    """With the sign of the inner product of the two sums."""
    return span(query, item) if float(query.sum(0) @ item.sum(0)) >= 0 else -span(query, item)


def nearest(point, generators):
    """The unit vector of a cone that agrees with `point` best: its projection, or a generator where that is the apex."""
    weights, _ = nnls(generators.T, point)
    projection = generators.T @ weights
    length = np.linalg.norm(projection)
    return projection / length if length > 1e-12 else generators[np.argmax(generators @ point)]


def cones(query, item, starts=12):
    """Largest cosine between two cones: alternating projections from every generator and from random points inside."""
    A, Z = query.double().numpy(), item.double().numpy()
    inside = np.random.default_rng(0).exponential(size=(starts, len(A))) @ A
    best = -1.0
    for start in [*A, *(inside / np.linalg.norm(inside, axis=1, keepdims=True))]:
        a, value = start, -2.0
        for _ in range(5000):
            z = nearest(a, Z)
            a = nearest(z, A)
            value, before = float(a @ z), value
            if value - before < 1e-15:
                break
        best = max(best, value)
    return best


def on_a_grid(query, item, steps=600):
    """The same for two vectors on either side, at `steps` angles of each."""
    arcs = []
    for pair in (query, item):
        first, second = pair.double().numpy()
        share = np.linspace(0, 1, steps)[:, None]
        arc = (1 - share) * first + share * second
        arcs.append(arc / np.linalg.norm(arc, axis=1, keepdims=True))
    return float((arcs[0] @ arcs[1].T).max())
