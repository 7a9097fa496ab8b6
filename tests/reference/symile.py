"""Symile (arXiv 2411.01053): multilinear products of an anchor with tuples of the other modalities, in plain loops."""

from itertools import product

from reference.pairwise import log_softmax


def multilinear(vectors):
    """Σ over the dimensions of the product of the vectors; a missing one (None) is a factor 1."""
    there = [vector for vector in vectors if vector is not None]
    total = 0.0
    for d in range(len(there[0])):
        term = 1.0
        for vector in there:
            term *= float(vector[d])
        total += term
    return total


def loss(anchors, others, tau, tuples=None, ids=None):
    """Mean over i of −log softmax at the own tuple; `others` holds a column of vectors or None a modality.

    `tuples` lists the rows that each of n candidates takes its vectors from, the i-th of which is replaced by the match in row
    i; without it every combination is a candidate. Candidates with nothing present, and those made of the anchor's own item
    alone where there are ids, are left out.
    """
    n, terms = len(anchors), []
    ids = ids or [None] * n
    for i in range(n):
        match = multilinear([anchors[i], *(column[i] for column in others)]) / tau
        logits = [match]
        for j, rows in enumerate(tuples or product(range(n), repeat=len(others))):
            if (j == i) if tuples else (set(rows) == {i}):
                continue
            vectors = [column[row] for column, row in zip(others, rows, strict=True)]
            from_items = {ids[row] for vector, row in zip(vectors, rows, strict=True) if vector is not None}
            if from_items and not (ids[i] is not None and from_items == {ids[i]}):
                logits.append(multilinear([anchors[i], *vectors]) / tau)
        terms.append(-log_softmax(logits)[0])
    return sum(terms) / n
