"""GRAM (arXiv 2412.11959): the volume by a determinant for every pair, and the two contrastive terms."""

import math

import torch

from reference import pairwise


def volume(vectors):
    """√|det G| of the Gram matrix of the rows, entry by entry."""
    k = len(vectors)
    G = torch.zeros(k, k, dtype=torch.float64)
    for r in range(k):
        for c in range(k):
            G[r, c] = (vectors[r].double() * vectors[c].double()).sum()
    return math.sqrt(abs(float(torch.linalg.det(G))))


def volumes(anchors, items):
    """V of anchor i stacked on the vectors of item j, for every pair."""
    return [[volume(torch.cat([anchor[None], item])) for item in items] for anchor in anchors]


def loss(anchors, items, tau, smoothing=0.1):
    """½ [CE(−V(aᵢ, M_·)/τ, i) + CE(−V(a_·, Mᵢ)/τ, i)]."""
    negative = [[-value for value in row] for row in volumes(anchors, items)]
    return pairwise.symmetric(negative, tau, smoothing)
