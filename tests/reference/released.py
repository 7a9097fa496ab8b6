"""The released towers and readers, literally and slowly, in float64.

EVA01-CLIP-g/14 (arXiv 2303.15389), BEATs (arXiv 2212.09058), BERT with cross-attention (arXiv 1810.04805), as VAST, GRAM and
PMRL put them together; Kaldi's filterbank; torchaudio's windowed sinc; bilinear interpolation between pixel centres. Weights
are those of a checkpoint, by its own keys.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

Weights = Mapping[str, Tensor]


def norm(x: Tensor, w: Weights, name: str, eps: float) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + eps) * w[f"{name}.weight"] + w[f"{name}.bias"]


def linear(x: Tensor, w: Weights, name: str) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    """One sequence: (t, d), (s, d), (s, d) → (t, d); `bias` (heads, t, s)."""
    size = q.shape[1] // heads
    parts = []
    for head in range(heads):
        own = slice(head * size, (head + 1) * size)
        scores = q[:, own] @ k[:, own].T / math.sqrt(size)
        scores = scores if bias is None else scores + bias[head]
        weights = torch.exp(scores - scores.max(1, keepdim=True).values)
        parts.append(weights / weights.sum(1, keepdim=True) @ v[:, own])
    return torch.cat(parts, 1)


def eva(w: Weights, pixels: Tensor) -> Tensor:
    """One frame (3, side, side) → (1 + patches, d)."""
    before = "vision_encoder.visual."
    kernel = w[before + "patch_embed.proj.weight"]
    width, _, patch, _ = kernel.shape
    side = pixels.shape[1] // patch
    rows = [w[before + "cls_token"][0, 0]]
    for i in range(side):
        for j in range(side):
            square = pixels[:, i * patch : (i + 1) * patch, j * patch : (j + 1) * patch]
            rows.append((kernel * square).sum((1, 2, 3)) + w[before + "patch_embed.proj.bias"])
    x = torch.stack(rows) + w[before + "pos_embed"][0]
    layer = 0
    while f"{before}blocks.{layer}.norm1.weight" in w:
        block = f"{before}blocks.{layer}"
        y = norm(x, w, f"{block}.norm1", 1e-6)
        q, k, v = (y @ w[f"{block}.attn.qkv.weight"].T).split(width, 1)
        x = x + linear(
            attend(q + w[f"{block}.attn.q_bias"], k, v + w[f"{block}.attn.v_bias"], width // 88), w, f"{block}.attn.proj"
        )
        y = norm(x, w, f"{block}.norm2", 1e-6)
        x = x + linear(gelu(linear(y, w, f"{block}.mlp.fc1")), w, f"{block}.mlp.fc2")
        layer += 1
    return norm(x, w, before + "norm", 1e-6)


def bucket(offset: int, buckets: int = 320, distance: int = 800) -> int:
    """Of a key that stands `offset` places after the query."""
    half = buckets // 2
    exact = half // 2
    first = half if offset > 0 else 0
    far = abs(offset)
    if far < exact:
        return first + far
    return first + min(half - 1, exact + int(math.log(far / exact) / math.log(distance / exact) * (half - exact)))


def beats(w: Weights, bank: Tensor) -> Tensor:
    """One slice (frames, bands) → (patches, d)."""
    before = "audio_encoder."
    kernel = w[before + "patch_embedding.weight"]
    patch = kernel.shape[2]
    squares = [
        bank[i * patch : (i + 1) * patch, j * patch : (j + 1) * patch]
        for i in range(bank.shape[0] // patch)
        for j in range(bank.shape[1] // patch)
    ]
    rows = [(kernel[:, 0] * square).sum((1, 2)) for square in squares]
    x = linear(norm(torch.stack(rows), w, before + "layer_norm", 1e-5), w, before + "post_extract_proj")
    t, width = x.shape
    # Positions: a convolution over the patches in groups; its kernel is scaled to a length of its own at each of its places.
    direction = w[before + "encoder.pos_conv.0.weight_v"]
    length = torch.sqrt((direction**2).sum((0, 1), keepdim=True))
    weights = direction / length * w[before + "encoder.pos_conv.0.weight_g"]
    reach = weights.shape[2]
    per_group = weights.shape[1]
    padded = torch.zeros(t + reach, width, dtype=x.dtype)
    padded[reach // 2 : reach // 2 + t] = x
    groups = torch.arange(width) // per_group
    columns = groups[:, None] * per_group + torch.arange(per_group)  # (width, per_group) inputs of each output
    conv = torch.stack([(padded[i : i + reach].T[columns] * weights).sum((1, 2)) for i in range(t)])
    x = norm(x + gelu(conv + w[before + "encoder.pos_conv.0.bias"]), w, before + "encoder.layer_norm", 1e-5)
    table = w[before + "encoder.layers.0.self_attn.relative_attention_bias.weight"]
    of = torch.tensor([[bucket(j - i, len(table)) for j in range(t)] for i in range(t)])
    layers = 0
    while f"{before}encoder.layers.{layers}.fc1.weight" in w:
        layers += 1
    alpha = (2 * layers) ** 0.25
    for layer in range(layers):
        block = f"{before}encoder.layers.{layer}"
        q, k, v = (linear(x, w, f"{block}.self_attn.{name}_proj") for name in "qkv")
        gain = w[f"{block}.self_attn.grep_a"].flatten()
        size = width // len(gain)
        biases = []
        for head in range(len(gain)):
            gates = linear(q[:, head * size : (head + 1) * size], w, f"{block}.self_attn.grep_linear")
            a, b = 1 / (1 + torch.exp(-gates[:, :4].sum(1))), 1 / (1 + torch.exp(-gates[:, 4:].sum(1)))
            biases.append((a * (b * gain[head] - 1) + 2)[:, None] * table[:, head][of])
        attended = linear(attend(q, k, v, len(gain), torch.stack(biases)), w, f"{block}.self_attn.out_proj")
        x = norm(alpha * x + attended, w, f"{block}.self_attn_layer_norm", 1e-5)
        x = norm(
            alpha * x + linear(gelu(linear(x, w, f"{block}.fc1")), w, f"{block}.fc2"), w, f"{block}.final_layer_norm", 1e-5
        )
    return x


def bert(w: Weights, ids: Tensor, mask: Tensor, context: Tensor | None = None) -> Tensor:
    """One text (t,) with its mask, and what it attends to (s, d) → (t, d)."""
    before = "multimodal_encoder.bert."
    x = w[before + "embeddings.word_embeddings.weight"][ids] + w[before + "embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + w[before + "embeddings.token_type_embeddings.weight"][0], w, before + "embeddings.LayerNorm", 1e-12)
    heads = x.shape[1] // 64
    bias = torch.where(mask.bool(), 0.0, -10000.0).double().expand(heads, len(ids), -1)
    layer = 0
    while f"{before}encoder.layer.{layer}.output.dense.weight" in w:
        block = f"{before}encoder.layer.{layer}"
        for name, memory in (("attention", x), ("crossattention", context)):
            if memory is None:
                continue
            memory = x if name == "attention" else memory
            q = linear(x, w, f"{block}.{name}.self.query")
            k, v = (linear(memory, w, f"{block}.{name}.self.{part}") for part in ("key", "value"))
            y = attend(q, k, v, heads, bias if name == "attention" else None)
            x = norm(x + linear(y, w, f"{block}.{name}.output.dense"), w, f"{block}.{name}.output.LayerNorm", 1e-12)
        y = linear(gelu(linear(x, w, f"{block}.intermediate.dense")), w, f"{block}.output.dense")
        x = norm(x + y, w, f"{block}.output.LayerNorm", 1e-12)
        layer += 1
    return x


def context(w: Weights, kind: str, tokens: Tensor) -> Tensor:
    """The tokens (parts, t, d) of one modality, projected: (parts · t, d)."""
    before = f"hidden_trans_{kind}_multimodal"
    x = norm(linear(tokens, w, f"{before}.0"), w, f"{before}.1", 1e-12)
    if kind != "subtitle":
        places = w[f"{kind}_frame_embedding"][0]
        for part in range(len(x)):
            x[part] += places[part * len(places) // len(x)]
    return (x + w[f"{kind}_type_embeddings"][0]).flatten(0, 1)


def answer(w: Weights, state: Tensor) -> Tensor:
    """The two logits of a first token's state."""
    hidden = norm(gelu(linear(state, w, "itm_head.linear1")), w, "itm_head.layernorm", 1e-12)
    return linear(hidden, w, "itm_head.linear2")


def filterbank(samples: np.ndarray) -> np.ndarray:
    """Kaldi's log-mel energies of 16 kHz samples in 16-bit scale: (frames, 64)."""

    def mel(hertz: float) -> float:
        return 1127 * math.log(1 + hertz / 700)

    low, high = mel(20), mel(8000)
    centres = [low + (high - low) * i / 65 for i in range(66)]
    weights = np.zeros((64, 257))
    for band in range(64):
        left, centre, right = centres[band : band + 3]
        for k in range(256):  # the last, at half the rate, has none
            m = mel(k * 16000 / 512)
            if left < m < right:
                weights[band, k] = (m - left) / (centre - left) if m <= centre else (right - m) / (right - centre)
    n = np.arange(400)
    window = (0.5 - 0.5 * np.cos(2 * np.pi * n / 399)) ** 0.85
    rows = []
    for start in range(0, len(samples) - 399, 160):
        frame = samples[start : start + 400].astype(np.float64)
        frame = frame - frame.mean()
        frame = np.concatenate([frame[:1] * (1 - 0.97), frame[1:] - 0.97 * frame[:-1]]) * window
        angles = -2j * np.pi * np.arange(257)[:, None] * n / 512
        power = np.abs(np.exp(angles) @ frame) ** 2
        rows.append(np.log(np.maximum(weights @ power, 2.0**-23)))
    return np.array(rows)


def resample(samples: np.ndarray, own: int, rate: int) -> np.ndarray:
    """A sinc of six zero crossings to either side under a squared cosine, cut off at 0.99 of the lower rate's half."""
    cutoff = 0.99 * min(own, rate)
    outputs = []
    for j in range(math.ceil(len(samples) * rate / own)):
        total = 0.0
        for i in range(len(samples)):
            time = cutoff * (i / own - j / rate)
            if abs(time) < 6:
                sinc = 1.0 if time == 0 else math.sin(math.pi * time) / (math.pi * time)
                total += samples[i] * sinc * math.cos(math.pi * time / 12) ** 2
        outputs.append(total * cutoff / own)
    return np.array(outputs)


def bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """(h, w) → (height, width), between the centres of four pixels, whatever lies between those of the output."""
    h, w = image.shape
    out = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            y = min(max((i + 0.5) * h / height - 0.5, 0), h - 1)
            x = min(max((j + 0.5) * w / width - 0.5, 0), w - 1)
            top, left = int(y), int(x)
            down, right = min(top + 1, h - 1), min(left + 1, w - 1)
            a, b = y - top, x - left
            upper = (1 - b) * image[top, left] + b * image[top, right]
            lower = (1 - b) * image[down, left] + b * image[down, right]
            out[i, j] = (1 - a) * upper + a * lower
    return out
