"""The matching loss of GRAM (arXiv 2412.11959) and PMRL: what its negatives are drawn from, and the loss of three groups."""

import math

from reference.pairwise import log_softmax


def chances(scores, tau, ids):
    """For each row the chance of each column: softmax of the row's scores/τ over the columns with another id."""
    table = []
    for i, row in enumerate(scores):
        others = [j for j in range(len(row)) if ids[j] != ids[i]]
        logs = log_softmax([row[j] / tau for j in others]) if others else []
        table.append([math.exp(logs[others.index(j)]) if j in others else 0.0 for j in range(len(row))])
    return table


def loss(matched, unmatched):
    """Mean of −log σ(l) over the logits of matched pairs and of −log(1 − σ(l)) over those of unmatched ones."""
    terms = [-math.log(1 / (1 + math.exp(-logit))) for logit in matched]
    terms += [-math.log(1 - 1 / (1 + math.exp(-logit))) for logit in unmatched]
    return sum(terms) / len(terms)
