"""The Aligner and the loss as one module; which of its parameters decay, at which rates, on which schedule."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from gramian.bundle import Bundle
from gramian.data.batches import Batch
from gramian.losses.base import Loss
from gramian.model.aligner import Aligner
from gramian.tokens import Tokens
from gramian.training.recipe import Recipe, Schedule
from gramian.training.token_matching import TokenMatching

__all__ = ["Objective", "divide_gradients", "drop_modalities", "parameter_groups", "rate_factor", "tied_parameters"]


class Objective(nn.Module):
    """The Aligner and the loss as one module, so that one backward pass, one clip and one checkpoint serve both.

    Args:
        aligner: the model.
        loss: the objective.
        spread: the objective over the items of all processes; by default `loss` itself.
        dropout: probability that a modality of an item is left out; see `drop_modalities`.
        matching: of the tokens of a batch, beside the loss; none by default.
    """

    def __init__(
        self,
        aligner: Aligner,
        loss: Loss,
        spread: Loss | None = None,
        dropout: float = 0.0,
        matching: TokenMatching | None = None,
    ) -> None:
        super().__init__()
        self.matching = matching
        self.dropout = dropout
        self.aligner = aligner
        self.loss = loss
        # Its parameters are those of `loss`, which are registered once.
        self.contrast: Callable[..., Any] = (spread or loss).__call__
        # A matching head is part of both, and a tower may serve two modalities: their weights are stored once.
        self.shared: dict[str, str] = tied_parameters(self)
        # A checkpoint omits what training cannot change.
        self.fixed: set[str] = {f"aligner.{name}" for name in aligner.state_dict().keys() - aligner.trainable_state().keys()}

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Every tensor once, but for the weights of frozen towers."""
        state = super().state_dict(*args, **kwargs)
        return {name: value for name, value in state.items() if name not in self.shared and name not in self.fixed}

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load what `state_dict` returned."""
        own = super().state_dict()
        whole = {name: own[name] for name in self.fixed} | dict(state_dict)
        tied = {later: whole[name] for later, name in self.shared.items() if name in whole}
        return super().load_state_dict({**whole, **tied}, *args, **kwargs)

    def forward(self, items: Batch | Bundle, *, encode: bool = False) -> Any:
        """The loss of a batch, or of its Bundle; with `encode` the Bundle of a batch.

        Every stage comes through here: a wrapper that shares parameters or gradients among processes watches this call.
        """
        if self.matching is not None and isinstance(items, Batch) and not encode:
            batch = items.to(self.aligner.device)
            encodings = self.aligner.towers(batch)
            bundle = drop_modalities(self.aligner.project(batch, encodings), self.dropout)
            return self.matching.added(self.contrast(bundle), bundle, batch, encodings)
        bundle = items if isinstance(items, Bundle) else drop_modalities(self.aligner(items), self.dropout)
        if not encode:
            return self.contrast(bundle)
        if not torch.is_grad_enabled():
            return bundle
        # The loss's parameters have their gradients already; a wrapper that exchanges them has to see them in this graph.
        tie = sum(parameter.sum() for parameter in self.loss.parameters()) * 0
        return replace(bundle, vectors=bundle.vectors + tie)


def drop_modalities(bundle: Bundle, share: float) -> Bundle:
    """The Bundle without some of its modalities, drawn from torch's own generator.

    Args:
        bundle: n items.
        share: probability that a modality of an item is left out. Two of the item's modalities, drawn at random, are always
            kept, for a loss has to compare some.

    Returns:
        The same items with fewer modalities.
    """
    if not share:
        return bundle
    draws = torch.rand(bundle.present.shape).to(bundle.present.device).masked_fill(~bundle.present, -1)
    kept = draws.argsort(1, descending=True)[:, :2]
    present = ((draws >= share).scatter(1, kept, True)) & bundle.present
    tokens = {
        name: Tokens(column.values, column.present & present[:, bundle.position(name), None])
        for name, column in bundle.tokens.items()
    }
    return replace(bundle, vectors=bundle.vectors.masked_fill(~present[..., None], 0), present=present, tokens=tokens)


def tied_parameters(module: nn.Module) -> dict[str, str]:
    """Parameters and buffers with several names: each later name → the first."""
    first: dict[int, str] = {}
    named = itertools.chain(module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False))
    return {name: first[id(tensor)] for name, tensor in named if first.setdefault(id(tensor), name) != name}


def parameter_groups(objective: Objective, recipe: Recipe) -> list[dict[str, Any]]:
    """Weight matrices, which decay, and the rest, by learning rate."""
    rates = {
        id(parameter): tower.learning_rate or recipe.learning_rate
        for tower in objective.aligner.towers.values()
        for parameter in tower.parameters()
    }
    parameters = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    groups = []
    for rate in dict.fromkeys([recipe.learning_rate, *rates.values()]):
        members = [p for p in parameters if rates.get(id(p), recipe.learning_rate) == rate]
        groups += [
            {"params": [p for p in members if p.ndim > 1], "weight_decay": recipe.weight_decay, "lr": rate},
            {"params": [p for p in members if p.ndim <= 1], "weight_decay": 0.0, "lr": rate},
        ]
    return groups


def divide_gradients(parameters: Iterable[nn.Parameter], batches: int) -> None:
    """Divide gradients that were added up over several batches by their number."""
    if batches > 1:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad /= batches


def rate_factor(warmup: float, steps: int, schedule: Schedule = "cosine") -> Any:
    """The factor of the rate at each step: a linear rise over a share `warmup` of the steps, then a cosine or a line to 0."""
    rising = max(1, round(warmup * steps))

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        done = min(1.0, (step - rising) / max(1, steps - rising))
        return 1 - done if schedule == "linear" else (1 + math.cos(math.pi * done)) / 2

    return factor
