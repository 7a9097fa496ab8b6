"""SigLIP (arXiv 2303.15343): every pair of two modalities on its own, in plain loops."""

import math


def loss(first, second, tau, bias, ids=None):
    """−1/n Σᵢⱼ log σ(±(xᵢ·yⱼ/τ + b)), plus where i = j; pairs of different rows with one id are left out."""
    n, total = len(first), 0.0
    for i in range(n):
        for j in range(n):
            if i != j and ids is not None and ids[i] == ids[j]:
                continue
            logit = sum(float(x) * float(y) for x, y in zip(first[i], second[j], strict=True)) / tau + bias
            total += math.log(1 + math.exp(-logit if i == j else logit))
    return total / n
