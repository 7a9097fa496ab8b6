"""The shape of a space, apart from what it retrieves, and how hard each objective would still pull at it."""

from __future__ import annotations

from itertools import combinations, permutations

import torch
from torch import Tensor

from gramian.bundle import Bundle
from gramian.evaluation.metrics import antipodal_share, effective_rank, hubness, modality_gap, uniformity
from gramian.geometry import singular_values, spectral_entropy_rank, volume
from gramian.losses import PMRL, Gram, Loss, Pairwise
from gramian.scores import SCORES

__all__ = ["DIAGNOSTICS_NOTE", "diagnostics", "saturation"]

BATCH = 256
"""Items of the batch that gradients are taken over, of the order of a training batch."""

SAMPLE = 10_000
"""How many vectors of a modality, or complete items, stand for all in figures whose cost grows with n² or memory per item."""

DIAGNOSTICS_NOTE = (
    "Uniformity: 0 when all coincide, lower is more even. Modality gap: 0 when the centres coincide. Antipodal share: matched "
    "pairs with a negative cosine. Hubness: skewness of how often a candidate is among the best 10, 0 is none. 1 − volume: 1 "
    "when aligned up to signs; matched should be far above mismatched. Energy share: all on σ1 when aligned up to signs. "
    f"What is marked so is of {SAMPLE:,} vectors or items, drawn at random with a fixed seed. "
    "Gradient: how hard each part of an objective with its published options still pulls; near 0 it is saturated."
)


def diagnostics(bundle: Bundle) -> dict[str, float]:
    """The shape of the space, apart from what it retrieves.

    Per modality: "uniformity" and "effective rank". Per pair: "modality gap" over all vectors; "antipodal share" over the
    items that have both; "hubness" of each direction's cosines (k = 10). Over the items with all modalities: GRAM's alignment
    metric, the mean of 1 − volume, for matched tuples and for tuples whose modalities come from different items; the mean
    share of each singular value in a tuple's energy, σᵢ²/m; and the mean effective rank of a tuple. Over a batch of at most
    256 of them: the length of the gradient of each part of each objective, see `saturation`.

    Uniformity, hubness and the figures of tuples are taken over at most 10,000 vectors or items, drawn at random with a fixed
    seed where there are more; their names say so, as in "uniformity, text (10,000 of 50,000)".

    Args:
        bundle: n items; at least two of them with two modalities.

    Returns:
        Name → value. A figure with too few items is left out.
    """
    figures: dict[str, float] = {}
    vectors = {name: bundle.column(name)[bundle.has(name)].detach() for name in bundle.modalities}
    vectors = {name: rows for name, rows in vectors.items() if len(rows) > 1}
    samples = {name: rows[_sample(len(rows))] for name, rows in vectors.items()}
    for name, rows in vectors.items():
        figures[f"uniformity, {name}{_marked(rows)}"] = uniformity(samples[name])
        figures[f"effective rank, {name}"] = effective_rank(rows)
    for first, second in combinations(vectors, 2):
        figures[f"modality gap, {first} – {second}"] = modality_gap(vectors[first], vectors[second])
        both = bundle.has(first) & bundle.has(second)
        if bool(both.any()):
            share = antipodal_share(bundle.column(first)[both], bundle.column(second)[both])
            figures[f"antipodal share, {first} – {second}"] = share
    for query, target in permutations(vectors, 2):
        name = f"hubness, {query} → {target}{_marked(max(vectors[query], vectors[target], key=len))}"
        figures[name] = hubness(SCORES["cosine"].of(samples[query], samples[target]))
    rows = bundle.present.all(1).nonzero().flatten()
    mark = _marked(rows)
    complete = bundle[rows[_sample(len(rows))]]
    whole = complete.vectors.detach()
    if len(whole) > bundle.present.shape[1]:
        mixed = torch.stack([whole[:, i].roll(i, 0) for i in range(whole.shape[1])], 1)
        figures[f"1 − volume, matched{mark}"] = float(1 - volume(whole).mean())
        figures[f"1 − volume, mismatched{mark}"] = float(1 - volume(mixed).mean())
        shares = singular_values(whole).square().mean(0) / whole.shape[1]
        figures |= {f"energy share, σ{i}{mark}": float(share) for i, share in enumerate(shares, 1)}
        figures[f"effective rank of a tuple{mark}"] = float(spectral_entropy_rank(whole).mean())
        for label, loss in _objectives(bundle.modalities).items():
            for part, length in saturation(loss, complete[:BATCH]).items():
                figures[f"gradient, {label}: {part}"] = length
    return figures


def _sample(n: int) -> Tensor:
    """The numbers of all n rows, or of a random sample of them, in order."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(0))[:SAMPLE].sort().values


def _marked(rows: Tensor) -> str:
    return f" ({SAMPLE:,} of {len(rows):,})" if len(rows) > SAMPLE else ""


def _objectives(modalities: tuple[str, ...]) -> dict[str, Loss]:
    anchor = "text" if "text" in modalities else modalities[0]
    return {
        "Pairwise": Pairwise(),
        "Gram": Gram(anchor=anchor),
        "Gram, cone, each": Gram(score="cone", anchor="each"),
        "PMRL": PMRL(),
        "PMRL, signed": PMRL(signed=True, alignment_temperature=0.5),
    }


def saturation(loss: Loss, bundle: Bundle) -> dict[str, float]:
    """Length of the gradient of each part of `loss` with respect to the unit vectors, summed over the items.

    Only the component tangent to the sphere counts, since only it can turn a vector. A part that is a mean over n items weighs
    each by 1/n, so the sum does not depend on the batch size. Near 0 a part is saturated: there is nothing left to learn from
    it, whether the vectors agree or not.

    Args:
        loss: put into evaluation mode, in which nothing is drawn, and back afterwards.
        bundle: a batch of n items. A part that reads tokens instead of a modality's vectors has no gradient there.

    Returns:
        Part → Σᵢ ‖∂part/∂vectorsᵢ‖ ≥ 0.

    >>> from gramian.losses import PMRL
    >>> aligned = {"text": torch.eye(3), "image": torch.eye(3)}
    >>> round(saturation(PMRL(), Bundle.from_dict(aligned))["alignment"], 3)
    0.0
    """
    modes = {module: module.training for module in loss.modules()}
    loss.eval()
    try:
        vectors = bundle.vectors.detach().masked_fill(~bundle.present[..., None], 0).requires_grad_()
        parts = loss(Bundle(vectors, bundle.present, bundle.modalities, bundle.item_ids, bundle.tokens)).parts
        lengths = {}
        for name, part in parts.items():
            (gradient,) = torch.autograd.grad(part, vectors, retain_graph=True, allow_unused=True, materialize_grads=True)
            radial = (gradient * vectors.detach()).sum(-1, keepdim=True) * vectors.detach()
            lengths[name] = float((gradient - radial).flatten(1).norm(dim=1).sum())
        return lengths
    finally:
        for module, training in modes.items():
            module.training = training
