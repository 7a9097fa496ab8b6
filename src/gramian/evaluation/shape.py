"""What shape a space has, whatever it retrieves, and how hard each objective would still pull at it."""

from __future__ import annotations

from itertools import combinations, permutations

import torch

from gramian.bundle import Bundle
from gramian.evaluation.metrics import antipodal_share, effective_rank, hubness, modality_gap, uniformity
from gramian.geometry import singular_values, spectral_entropy_rank, volume
from gramian.losses import PMRL, Gram, Loss, Pairwise, saturation
from gramian.scores import cosine

__all__ = ["DIAGNOSTICS_NOTE", "diagnostics"]

BATCH = 256
"""Items of the batch that gradients are taken over: what an objective sees in training is of that order."""


DIAGNOSTICS_NOTE = (
    "Uniformity: 0 when all coincide, lower is more even. Modality gap: 0 when the centres coincide. Antipodal share: matched "
    "pairs with a negative cosine. Hubness: skewness of how often a candidate is among the best 10, 0 is none. 1 − volume: 1 "
    "when aligned up to signs; matched should be far above mismatched. Energy share: all on σ1 when aligned up to signs. "
    "Gradient: how hard each part of an objective with its published options still pulls; near 0 it is saturated."
)


def diagnostics(bundle: Bundle) -> dict[str, float]:
    """What shape the space has, whatever it retrieves.

    A modality: "uniformity" and "effective rank". A pair: "modality gap" over all vectors; "antipodal share" over the items
    that have both; "hubness" of each direction's cosines (k = 10). Over the items with all modalities: GRAM's alignment
    metric, the mean of 1 − volume, of matched tuples and of tuples whose modalities come from different items; the mean share
    of each singular value in a tuple's energy, σᵢ²/m, and the mean effective rank of a tuple. Over a batch of at most 256 of
    them: the length of the gradient of each part of each objective, see `gramian.losses.saturation`.

    Args:
        bundle: n items; at least two of them with two modalities.

    Returns:
        Name → value. What too few items take part in is left out.
    """
    found: dict[str, float] = {}
    vectors = {name: bundle.column(name)[bundle.has(name)].detach() for name in bundle.modalities}
    vectors = {name: rows for name, rows in vectors.items() if len(rows) > 1}
    for name, rows in vectors.items():
        found[f"uniformity, {name}"] = uniformity(rows)
        found[f"effective rank, {name}"] = effective_rank(rows)
    for first, second in combinations(vectors, 2):
        found[f"modality gap, {first} – {second}"] = modality_gap(vectors[first], vectors[second])
        both = bundle.has(first) & bundle.has(second)
        if bool(both.any()):
            share = antipodal_share(bundle.column(first)[both], bundle.column(second)[both])
            found[f"antipodal share, {first} – {second}"] = share
    for query, target in permutations(vectors, 2):
        found[f"hubness, {query} → {target}"] = hubness(cosine(vectors[query], vectors[target]))
    complete = bundle[bundle.present.all(1)]
    whole = complete.vectors.detach()
    if len(whole) > bundle.present.shape[1]:
        mixed = torch.stack([whole[:, i].roll(i, 0) for i in range(whole.shape[1])], 1)
        found["1 − volume, matched"] = float(1 - volume(whole).mean())
        found["1 − volume, mismatched"] = float(1 - volume(mixed).mean())
        shares = singular_values(whole).square().mean(0) / whole.shape[1]
        found |= {f"energy share, σ{i}": float(share) for i, share in enumerate(shares, 1)}
        found["effective rank of a tuple"] = float(spectral_entropy_rank(whole).mean())
        for label, loss in _objectives(bundle.modalities).items():
            for part, length in saturation(loss, complete[:BATCH]).items():
                found[f"gradient, {label}: {part}"] = length
    return found


def _objectives(modalities: tuple[str, ...]) -> dict[str, Loss]:
    anchor = "text" if "text" in modalities else modalities[0]
    return {
        "Pairwise": Pairwise(),
        "Gram": Gram(anchor=anchor),
        "Gram, cone, each": Gram(score="cone", anchor="each"),
        "PMRL": PMRL(),
        "PMRL, signed": PMRL(signed=True, alignment_temperature=0.5),
    }
