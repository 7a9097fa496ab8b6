"""Released checkpoints in small: weights by a formula, as in `tests/released/README.md`, and the media that they read."""

from __future__ import annotations

import math
import re
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a the red green blue cat dog bird house of and in runs sings two three".split()  # noqa: SIM905

VISION, VISION_HIDDEN, PATCH, POSITIONS = 176, 24, 14, 5
TEXT, TEXT_HIDDEN, LONGEST = 128, 24, 80
AUDIO, AUDIO_HIDDEN, AUDIO_HEADS, EMBEDDING, BUCKETS, KERNEL, GROUPS = 48, 24, 4, 16, 320, 128, 16
DIM, LAYERS = 32, 2


def noise(name: str, shape: tuple[int, ...], rows: int | None = None) -> np.ndarray:
    """Uniform numbers of mean 0 and variance 1, the same on any machine; the first `rows` of them alone, if given."""
    shape = shape if rows is None else (rows, *shape[1:])
    values = np.empty(math.prod(shape), np.float32)
    own = np.uint64(zlib.crc32(name.encode()) * 0xD1B54A32D192ED03 % 2**64)
    step, shifts = 2**15, (30, 27, 31)
    factors = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
    with np.errstate(over="ignore"):
        for start in range(0, len(values), step):
            z = np.arange(start + 1, min(len(values), start + step) + 1, dtype=np.uint64)
            z *= np.uint64(0x9E3779B97F4A7C15)
            z += own
            for shift, factor in zip(shifts, (*factors, None), strict=True):
                z ^= z >> np.uint64(shift)
                if factor is not None:
                    z *= np.uint64(factor)
            z >>= np.uint64(11)
            values[start : start + step] = (z.astype(np.float64) * 2.0**-53 - 0.5) * math.sqrt(12)
    return values.reshape(shape)


def weight(name: str, shape: tuple[int, ...], rows: int | None = None) -> Tensor:
    """The tensor of a key, by the formula."""
    if not shape:
        return torch.tensor(0.07)
    if name.endswith("position_ids"):
        return torch.arange(shape[1])[None]
    shared = "relative_attention_bias" in name  # one table in all layers
    x = noise("relative_attention_bias" if shared else name, shape, rows)
    if len(shape) == 1:
        x = 1 + 0.2 * x if name.endswith("weight") else 0.2 * x
    elif any(part in name for part in ("embeddings.weight", "_embedding", "pos_embed", "cls_token", "type_embeddings")):
        x = 0.3 * x
    elif "grep_a" in name:
        x = 1 + 0.5 * x
    elif "weight_g" in name:
        x = 1.5 + 0.3 * x
    elif not shared:
        x = x / np.float32(math.sqrt(math.prod(shape[1:])))
    return torch.from_numpy(np.asarray(x, np.float32))


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _linear(name: str, into: int, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (into, width), f"{name}.bias": (into,)}


def shapes(*, depth: bool = False) -> dict[str, tuple[int, ...]]:
    """Every key of a small checkpoint, as GRAM's of four modalities has them, or of five with `depth`."""
    eva, beats, bert = "vision_encoder.visual", "audio_encoder", "multimodal_encoder.bert"
    keys: dict[str, tuple[int, ...]] = {
        "contra_temp": (),
        "vision_frame_embedding": (1, 2, TEXT),
        "audio_frame_embedding": (1, 1, TEXT),
        **{f"{name}_type_embeddings": (1, 1, TEXT) for name in ("vision", "audio", "subtitle")},
        "vision_encoder.logit_scale": (),
        "vision_encoder.text.positional_embedding": (3, 4),
        **_linear(f"{eva}.head", 6, VISION),
        f"{eva}.cls_token": (1, 1, VISION),
        f"{eva}.pos_embed": (1, POSITIONS, VISION),
        f"{eva}.patch_embed.proj.weight": (VISION, 3, PATCH, PATCH),
        f"{eva}.patch_embed.proj.bias": (VISION,),
        **_norm(f"{eva}.norm", VISION),
        f"{beats}.patch_embedding.weight": (EMBEDDING, 1, 16, 16),
        **_norm(f"{beats}.layer_norm", EMBEDDING),
        **_linear(f"{beats}.post_extract_proj", AUDIO, EMBEDDING),
        **_norm(f"{beats}.encoder.layer_norm", AUDIO),
        f"{beats}.encoder.pos_conv.0.weight_g": (1, 1, KERNEL),
        f"{beats}.encoder.pos_conv.0.weight_v": (AUDIO, AUDIO // GROUPS, KERNEL),
        f"{beats}.encoder.pos_conv.0.bias": (AUDIO,),
        f"{bert}.embeddings.position_ids": (1, LONGEST),
        f"{bert}.embeddings.word_embeddings.weight": (len(WORDS), TEXT),
        f"{bert}.embeddings.position_embeddings.weight": (LONGEST, TEXT),
        f"{bert}.embeddings.token_type_embeddings.weight": (2, TEXT),
        **_norm(f"{bert}.embeddings.LayerNorm", TEXT),
        "multimodal_encoder.cls.predictions.bias": (len(WORDS),),
    }
    for layer in range(LAYERS):
        block = f"{eva}.blocks.{layer}"
        keys |= _norm(f"{block}.norm1", VISION) | _norm(f"{block}.norm2", VISION)
        keys |= {f"{block}.attn.q_bias": (VISION,), f"{block}.attn.v_bias": (VISION,)}
        keys |= {f"{block}.attn.qkv.weight": (3 * VISION, VISION)} | _linear(f"{block}.attn.proj", VISION, VISION)
        keys |= _linear(f"{block}.mlp.fc1", VISION_HIDDEN, VISION) | _linear(f"{block}.mlp.fc2", VISION, VISION_HIDDEN)
        block = f"{beats}.encoder.layers.{layer}"
        keys |= {f"{block}.self_attn.grep_a": (1, AUDIO_HEADS, 1, 1)}
        keys |= {f"{block}.self_attn.relative_attention_bias.weight": (BUCKETS, AUDIO_HEADS)}
        keys |= _linear(f"{block}.self_attn.grep_linear", 8, AUDIO // AUDIO_HEADS)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            keys |= _linear(f"{block}.self_attn.{name}", AUDIO, AUDIO)
        keys |= _norm(f"{block}.self_attn_layer_norm", AUDIO) | _norm(f"{block}.final_layer_norm", AUDIO)
        keys |= _linear(f"{block}.fc1", AUDIO_HIDDEN, AUDIO) | _linear(f"{block}.fc2", AUDIO, AUDIO_HIDDEN)
        block = f"{bert}.encoder.layer.{layer}"
        for attention in ("attention", "crossattention"):
            for name in ("query", "key", "value"):
                keys |= _linear(f"{block}.{attention}.self.{name}", TEXT, TEXT)
            keys |= _linear(f"{block}.{attention}.output.dense", TEXT, TEXT)
            keys |= _norm(f"{block}.{attention}.output.LayerNorm", TEXT)
        keys |= _linear(f"{block}.intermediate.dense", TEXT_HIDDEN, TEXT)
        keys |= _linear(f"{block}.output.dense", TEXT, TEXT_HIDDEN) | _norm(f"{block}.output.LayerNorm", TEXT)
    widths = {"t": TEXT, "s": TEXT, "v": VISION, "a": AUDIO} | ({"d": VISION} if depth else {})
    keys |= {f"contra_head_{letter}.linear.weight": (DIM, width) for letter, width in widths.items()}
    for letters in ("va", "vs", "vas"):
        keys |= _linear(f"contra_head_{letters}", DIM, sum(widths[letter] for letter in letters))
    keys |= _linear("itm_head.linear1", TEXT, TEXT) | _norm("itm_head.layernorm", TEXT) | _linear("itm_head.linear2", 2, TEXT)
    for name, letter in (("vision", "v"), ("audio", "a"), ("subtitle", "s")):
        keys |= _linear(f"hidden_trans_{name}_multimodal.0", TEXT, widths[letter])
        keys |= _norm(f"hidden_trans_{name}_multimodal.1", TEXT)
    return keys


def tensors(*, depth: bool = False) -> dict[str, Tensor]:
    """Key → tensor of a small checkpoint; EVA's residuals are faint, so that the epsilon of its norms shows."""
    faint = re.compile(r"vision_encoder\.visual\.(cls_token|pos_embed|patch_embed\.|blocks\.\d+\.(attn\.proj|mlp\.fc2)\.)")
    return {name: weight(name, shape) * (0.1 if faint.match(name) else 1) for name, shape in shapes(depth=depth).items()}


def write(folder: Path, *, depth: bool = False) -> Path:
    """Write a small checkpoint and, beside it, the vocabulary of its BERT; return the path of the checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    torch.save(tensors(depth=depth), folder / "model_step_7.pt")
    return folder / "model_step_7.pt"
