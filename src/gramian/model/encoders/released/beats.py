"""BEATs, the audio transformer of the released models: patches of a filterbank in, one state per patch out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

__all__ = ["BEATs", "BEATsSizes"]

MAX_DISTANCE = 800
"""Patches that are further apart share the last bucket of the relative positions."""


@dataclass(frozen=True)
class BEATsSizes:
    """Sizes of a BEATs, all of which show in the shapes of its weights.

    Attributes:
        width: of the states.
        layers: how many.
        heads: of the attention.
        hidden: width inside the feed-forward blocks.
        embedding: width of a patch before it is projected.
        patch: side of a square patch, in frames and in bands.
        kernel: of the convolution that encodes positions, in patches.
        groups: of that convolution.
        buckets: of relative positions.
    """

    width: int
    layers: int
    heads: int
    hidden: int
    embedding: int
    patch: int
    kernel: int
    groups: int
    buckets: int


class BEATs(nn.Module):
    """BEATs iter3+ without a classifier, as published.

    Post-norm layers `LN(α x + f(x))`, α = (2 layers)^¼; their attention has a bias by relative position, shared by all layers,
    times a gate that each layer computes from its queries.

    Args:
        sizes: of the layers.
        gradient_scale: factor on the gradient at the input of each layer; 0.6 in the release, 1 leaves it as it is.

    Source: BEATs, arXiv 2212.09058; names of the weights as in its files.
    """

    def __init__(self, sizes: BEATsSizes, gradient_scale: float = 1.0) -> None:
        super().__init__()
        self.patch_embedding: nn.Conv2d = nn.Conv2d(1, sizes.embedding, sizes.patch, stride=sizes.patch, bias=False)
        self.layer_norm: nn.LayerNorm = nn.LayerNorm(sizes.embedding)
        self.post_extract_proj: nn.Linear = nn.Linear(sizes.embedding, sizes.width)
        self.encoder: _Layers = _Layers(sizes, gradient_scale)

    def forward(self, filterbank: Tensor) -> Tensor:
        """Normalised log energies (n, frames, bands) → states (n, patches, width), in the order of time."""
        patches: Tensor = self.patch_embedding(filterbank[:, None].to(self.patch_embedding.weight.dtype))
        states: Tensor = self.encoder(self.post_extract_proj(self.layer_norm(patches.flatten(2).transpose(1, 2))))
        return states

    def gradient_checkpointing_enable(self, options: Any = None) -> None:
        """Recompute each layer in the backward pass; as models of transformers have it."""
        del options  # only the form without re-entry is used
        self.encoder.recomputes = True

    def enable_input_require_grads(self) -> None:
        """As models of transformers have it: recomputing without re-entry needs no gradient of the input."""


class _Layers(nn.Module):
    def __init__(self, sizes: BEATsSizes, gradient_scale: float) -> None:
        super().__init__()
        self.pos_conv = nn.Sequential(_positions(sizes))
        self.layer_norm = nn.LayerNorm(sizes.width)
        self.relative_attention_bias = nn.Embedding(sizes.buckets, sizes.heads)
        self.layers = nn.ModuleList([_Layer(sizes) for _ in range(sizes.layers)])
        self.gradient_scale = gradient_scale
        self.recomputes = False

    def forward(self, states: Tensor) -> Tensor:
        # An even kernel gives one position too many at the end.
        positions = F.gelu(self.pos_conv(states.transpose(1, 2))[..., : states.shape[1]])
        states = self.layer_norm(states + positions.transpose(1, 2))
        bias = self.relative_attention_bias(
            _buckets(states.shape[1], self.relative_attention_bias.num_embeddings, states.device)
        )
        bias = bias.permute(2, 0, 1)
        for layer in self.layers:
            if torch.is_grad_enabled() and self.gradient_scale != 1:
                fixed = states.detach()
                states = fixed + self.gradient_scale * (states - fixed)  # the same states to the last bit
            if self.recomputes and self.training and torch.is_grad_enabled():
                states = checkpoint(layer, states, bias, use_reentrant=False)
            else:
                states = layer(states, bias)
        return states


def _positions(sizes: BEATsSizes) -> nn.Module:
    convolution = nn.Conv1d(sizes.width, sizes.width, sizes.kernel, padding=sizes.kernel // 2, groups=sizes.groups)
    normed: nn.Module = weight_norm(convolution, dim=2)
    return normed


class _Layer(nn.Module):
    def __init__(self, sizes: BEATsSizes) -> None:
        super().__init__()
        self.self_attn = _Attention(sizes)
        self.self_attn_layer_norm = nn.LayerNorm(sizes.width)
        self.fc1 = nn.Linear(sizes.width, sizes.hidden)
        self.fc2 = nn.Linear(sizes.hidden, sizes.width)
        self.final_layer_norm = nn.LayerNorm(sizes.width)
        self.alpha = (2 * sizes.layers) ** 0.25  # of DeepNorm

    def forward(self, states: Tensor, bias: Tensor) -> Tensor:
        states = self.self_attn_layer_norm(self.alpha * states + self.self_attn(states, bias))
        normal: Tensor = self.final_layer_norm(self.alpha * states + self.fc2(F.gelu(self.fc1(states))))
        return normal


class _Attention(nn.Module):
    def __init__(self, sizes: BEATsSizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.q_proj, self.k_proj = nn.Linear(sizes.width, sizes.width), nn.Linear(sizes.width, sizes.width)
        self.v_proj, self.out_proj = nn.Linear(sizes.width, sizes.width), nn.Linear(sizes.width, sizes.width)
        self.grep_linear = nn.Linear(sizes.width // sizes.heads, 8)
        self.grep_a = nn.Parameter(torch.ones(1, sizes.heads, 1, 1))

    def forward(self, states: Tensor, bias: Tensor) -> Tensor:
        q, k, v = (
            projected(states).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for projected in (self.q_proj, self.k_proj, self.v_proj)
        )
        gate = self.gate(q)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=(gate * bias).to(q.dtype))
        projected: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return projected

    def gate(self, queries: Tensor) -> Tensor:
        """The factor on each query's biases, (n, heads, patches, 1), from the projected query."""
        two = torch.sigmoid(self.grep_linear(queries).unflatten(-1, (2, 4)).sum(-1))
        update, reset = two[..., :1], two[..., 1:]
        gate: Tensor = update * (reset * self.grep_a - 1) + 2
        return gate


def _buckets(count: int, buckets: int, device: torch.device) -> Tensor:
    """(count, count) the bucket of key j seen from query i.

    Half of them for each direction; in each a half for single distances, the rest by their logarithm up to `MAX_DISTANCE`.
    """
    places = torch.arange(count, device=device)
    offset = places[None] - places[:, None]
    half = buckets // 2
    exact = half // 2
    distance = offset.abs()
    scaled = torch.log(distance.clamp(min=1).float() / exact) / math.log(MAX_DISTANCE / exact) * (half - exact)
    far = (exact + scaled.long()).clamp(max=half - 1)
    return (offset > 0) * half + torch.where(distance < exact, distance, far)
