"""Cross-entropy written out, and InfoNCE of cosines between two modalities (CLIP, ImageBind)."""

import math


def log_softmax(logits):
    """log(exp lᵢ / Σⱼ exp lⱼ) of a list of floats."""
    top = max(logits)
    log_sum = top + math.log(sum(math.exp(value - top) for value in logits))
    return [value - log_sum for value in logits]


def cross_entropy(rows, smoothing=0.0):
    """Mean over rows i of −Σⱼ yᵢⱼ log softmax(rows[i])ⱼ, with y = (1 − s) on the diagonal and s/n spread over all n."""
    losses = []
    for i, row in enumerate(rows):
        logs = log_softmax(row)
        spread = sum(logs) / len(logs)
        losses.append(-(1 - smoothing) * logs[i] - smoothing * spread)
    return sum(losses) / len(losses)


def symmetric(scores, tau, smoothing=0.0):
    """½ [CE over candidates for each query + CE over queries for each candidate] of scores[i][j]/τ."""
    n = len(scores)
    rows = [[scores[i][j] / tau for j in range(n)] for i in range(n)]
    columns = [[scores[j][i] / tau for j in range(n)] for i in range(n)]
    return (cross_entropy(rows, smoothing) + cross_entropy(columns, smoothing)) / 2


def loss(first, second, tau, smoothing=0.0):
    """Two lists of n unit vectors, paired by position."""
    cosines = [[sum(float(x) * float(y) for x, y in zip(a, b, strict=True)) for b in second] for a in first]
    return symmetric(cosines, tau, smoothing)
