"""How much each modality of a joint query counts: weights chosen on validation items, one set for each modality asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from gramian.bundle import Bundle
from gramian.errors import InputError, check_choice, check_type
from gramian.evaluation.metrics import mean_reciprocal_rank
from gramian.evaluation.rankings import WEIGHTS, Ranking, Rankings
from gramian.geometry import direction

__all__ = ["all_weights", "choose_weights", "weighted"]

LEAST = 0.01
"""Above zero: an item that has nothing else still asks with it."""

GRID = (LEAST, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
SWEEPS = 2


def choose_weights(validation: Bundle, target: str, *, queries: Sequence[str] | None = None) -> dict[str, float]:
    """The weights with which several modalities together find one other, and are found by it, best.

    The centroid lets every modality count alike, which costs recall where they are of unequal worth: a good one is better
    alone. Weights are searched one at a time, from equal ones, over a grid from 0.01 to 4, for the mean MRR of both
    directions. Equal weights, and each modality all but alone, are among what is tried.

    Args:
        validation: n items in the shared space, with or without missing modalities; not those that the weights are tested on.
        target: the modality asked for.
        queries: the modalities that ask; all others by default.

    Returns:
        Modality → weight, above zero. `weighted` and the search of an index take it.

    Raises:
        InputError: an unknown modality, a target among the queries, fewer than two items that have both sides.

    >>> clear, noisy = torch.eye(3), torch.eye(3).roll(1, 0)
    >>> choose_weights(Bundle.from_dict({"image": torch.eye(3), "text": clear, "audio": noisy}), "image")
    {'text': 1.0, 'audio': 0.01}
    """
    check_type("validation", validation, Bundle)
    check_choice("target", target, validation.modalities)
    asking = tuple(queries) if queries is not None else tuple(name for name in validation.modalities if name != target)
    for name in asking:
        check_choice("queries", name, validation.modalities)
    if not asking or target in asking or len(set(asking)) < len(asking):
        raise InputError(f"`queries` must be one or more different modalities other than {target!r}; got {list(asking)}.")
    validation = validation.detach()
    if not len(Rankings(validation).asked(asking, (target,))):
        raise InputError(f"`validation` must have two items with {target!r} and one of {', '.join(asking)}; it has not.")
    tried: dict[tuple[float, ...], float] = {}

    def found(weights: Mapping[str, float]) -> float:
        key = tuple(weights.values())
        if key not in tried:
            tried[key] = _mrr(validation, weights, target)
        return tried[key]

    starts = [dict.fromkeys(asking, 1.0), *({name: 1.0 if name == one else LEAST for name in asking} for one in asking)]
    best = max(starts, key=found)
    for _ in range(SWEEPS):
        for name in asking:
            best = max([best, *({**best, name: weight} for weight in GRID)], key=found)
    return best


def all_weights(validation: Bundle) -> dict[str, dict[str, float]]:
    """`choose_weights` for each modality that two or more others ask for together: what `Aligner.query_weights` keeps.

    Args:
        validation: n items in the shared space; not those that the weights are tested on.

    Returns:
        Modality asked for → modality → weight; without those that no two items can be asked for.

    Raises:
        InputError: something else than a Bundle.
    """
    check_type("validation", validation, Bundle)
    known = [name for name, count in validation.counts().items() if count]
    if len(known) < 3:
        return {}
    rankings = Rankings(validation)
    others = {target: tuple(name for name in known if name != target) for target in known}
    return {
        target: choose_weights(validation, target, queries=queries)
        for target, queries in others.items()
        if len(rankings.asked(queries, (target,)))
    }


def weighted(bundle: Bundle, weights: Mapping[str, float]) -> tuple[Tensor, Tensor]:
    """One unit vector for what each item has of several modalities: the direction of their weighted sum.

    Args:
        bundle: n items.
        weights: modality → weight.

    Returns:
        (n, d) vectors and (n,) which of them there are: items that lack every modality with a weight, or whose weighted
        vectors cancel, have none.

    Raises:
        InputError: an unknown modality, or a weight that is no finite number.
    """
    for name, weight in weights.items():
        check_choice("weights", name, bundle.modalities)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
            raise InputError(f"`weights[{name!r}]` must be a finite number; got {weight!r:.40}.")
    chosen = bundle.select(*weights)
    factors = torch.tensor(list(weights.values()), dtype=torch.float64)
    vectors = direction(torch.einsum("nmd,m->nd", chosen.vectors.double(), factors.to(chosen.vectors.device)))
    return vectors.to(chosen.vectors.dtype), vectors.any(1)


def _mrr(bundle: Bundle, weights: Mapping[str, float], target: str) -> float:
    """The mean MRR of both directions between the joined query and the target."""
    rankings, asking = Rankings(bundle, weights={target: weights}), tuple(weights)
    score: Ranking = WEIGHTS if len(asking) > 1 else "centroid"
    both = []
    for query, asked in ((asking, (target,)), ((target,), asking)):
        both.append(mean_reciprocal_rank(rankings.rows(query, asked, score).at(rankings.asked(query, asked))))
    return float(np.mean(both))
