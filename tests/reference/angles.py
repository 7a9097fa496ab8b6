"""Scores made of inner products, a pair of items at a time: loops over the vectors of both."""

import math


def dot(a, b):
    return sum(x * y for x, y in zip(a.double().tolist(), b.double().tolist(), strict=True))


def softmax(values, temperature):
    top = max(values)
    exponentials = [math.exp((value - top) / temperature) for value in values]
    return [value / sum(exponentials) for value in exponentials]


def cosines(query, item):
    return [dot(a, z) for a in query for z in item]


def mean(query, item):
    return sum(cosines(query, item)) / (len(query) * len(item))


def largest(query, item):
    return max(cosines(query, item))


def weighted(query, item, temperature=0.1):
    """Σ w⟨a, z⟩ over all pairs, w = softmax of ⟨a, z⟩/τ."""
    values = cosines(query, item)
    return sum(w * value for w, value in zip(softmax(values, temperature), values, strict=True))


def centroid(query, item):
    a, z = query.sum(0), item.sum(0)
    return dot(a, z) / math.sqrt(dot(a, a) * dot(z, z))


def weighted_centroid(query, item, temperature=0.1):
    """SCALAR: the cosine of a, the query's normalised sum, and Σ wz, w = softmax of ⟨a, z⟩/τ."""
    a = query.sum(0) / query.sum(0).norm()
    weights = softmax([dot(a, z) for z in item], temperature)
    total = sum(w * z for w, z in zip(weights, item, strict=True))
    return dot(a, total) / math.sqrt(dot(total, total))


def multilinear(query, item):
    """Symile (arXiv 2411.01053): Σ over the dimensions of the product of every vector's entry."""
    return sum(math.prod(entries) for entries in zip(*query.tolist(), *item.tolist(), strict=True))


def maxsim(query, item):
    """ColBERT (arXiv 2004.12832), as the mean over the query's tokens of the largest cosine to one of the item's."""
    return sum(max(dot(a, z) for z in item) for a in query) / len(query)
