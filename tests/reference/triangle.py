"""TRIANGLE (arXiv 2509.24734): the area between the end points of three vectors."""

import math

import torch


def area(vectors):
    """½ √(‖u‖²‖v‖² − (u·v)²), u = b − a, v = c − a; of two vectors with a third orthogonal to both, in one dimension more."""
    vectors = vectors.double()
    if len(vectors) == 2:
        wider = torch.cat([vectors, torch.zeros(2, 1, dtype=torch.float64)], 1)
        third = torch.zeros(1, wider.shape[1], dtype=torch.float64)
        third[0, -1] = 1
        vectors = torch.cat([wider, third])
    a, b, c = vectors
    u, v = b - a, c - a
    return math.sqrt(max(0.0, float((u @ u) * (v @ v) - (u @ v) ** 2))) / 2
