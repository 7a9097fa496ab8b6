"""Keys of the released checkpoints: which tensor of a file is which weight here, what is left out, and what is missing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gramian.errors import InputError, listing
from gramian.sheets import Sheet

__all__ = ["PARTS", "KeyReport", "Part", "current_name", "report_of", "weights_of"]

_NORM_OR_LINEAR = ("weight", "bias")


def _both(table: Mapping[str, str]) -> dict[str, str]:
    """The entries of weights and biases alike."""
    return {f"{old}.{kind}": f"{new}.{kind}" for old, new in table.items() for kind in _NORM_OR_LINEAR}


@dataclass(frozen=True)
class Part:
    """The keys of one module.

    Attributes:
        prefix: of its keys in a file.
        layers: where the keys of layer N begin in a file, after the prefix.
        table: key in a file → key of the module; "#" is the number of a layer.
        optional: keys in a file that a release may lack.
    """

    prefix: str
    layers: str
    table: Mapping[str, str]
    optional: frozenset[str] = frozenset()

    def depth(self, names: Iterable[str]) -> int:
        """The number of layers that a file has of it."""
        found = (re.match(re.escape(self.prefix + self.layers) + r"(\d{1,4})\.", name) for name in names)
        return 1 + max((int(match[1]) for match in found if match), default=0)

    def names(self, depth: int) -> dict[str, str]:
        """Key in a file → key of the module, with `depth` layers."""
        names = {}
        for old, new in self.table.items():
            for layer in range(depth) if "#" in old else (0,):
                names[self.prefix + old.replace("#", str(layer))] = new.replace("#", str(layer))
        return names


_VISION = Part(
    "vision_encoder.visual.",
    "blocks.",
    {
        "cls_token": "embeddings.class_embedding",
        "pos_embed": "embeddings.position_embedding",
        "blocks.#.attn.qkv.weight": "encoder.layers.#.self_attn.qkv.weight",
        "blocks.#.attn.q_bias": "encoder.layers.#.self_attn.qkv.bias",
        "blocks.#.attn.v_bias": "encoder.layers.#.self_attn.qkv.bias",
    }
    | _both(
        {
            "patch_embed.proj": "embeddings.patch_embedding",
            "norm": "post_layernorm",
            "blocks.#.norm1": "encoder.layers.#.layer_norm1",
            "blocks.#.norm2": "encoder.layers.#.layer_norm2",
            "blocks.#.attn.proj": "encoder.layers.#.self_attn.projection",
            "blocks.#.mlp.fc1": "encoder.layers.#.mlp.fc1",
            "blocks.#.mlp.fc2": "encoder.layers.#.mlp.fc2",
        }
    ),
)

_ATTENTION = {f"encoder.layers.#.self_attn.{name}": f"encoder.layers.#.self_attn.{name}" for name in ("q_proj", "k_proj")}
_ATTENTION |= {f"encoder.layers.#.self_attn.{name}": f"encoder.layers.#.self_attn.{name}" for name in ("v_proj", "out_proj")}

_AUDIO = Part(
    "audio_encoder.",
    "encoder.layers.",
    {
        "patch_embedding.weight": "patch_embedding.weight",
        "encoder.pos_conv.0.bias": "encoder.pos_conv.0.bias",
        "encoder.pos_conv.0.weight_g": "encoder.pos_conv.0.parametrizations.weight.original0",
        "encoder.pos_conv.0.weight_v": "encoder.pos_conv.0.parametrizations.weight.original1",
        "encoder.layers.#.self_attn.grep_a": "encoder.layers.#.self_attn.grep_a",
        # One table, which a file holds once per layer.
        "encoder.layers.#.self_attn.relative_attention_bias.weight": "encoder.relative_attention_bias.weight",
    }
    | _both(
        {name: name for name in ("layer_norm", "post_extract_proj", "encoder.layer_norm")}
        | _ATTENTION
        | {
            f"encoder.layers.#.{name}": f"encoder.layers.#.{name}"
            for name in ("self_attn.grep_linear", "self_attn_layer_norm", "fc1", "fc2", "final_layer_norm")
        }
    ),
)

_BLOCK = ("self.query", "self.key", "self.value", "output.dense", "output.LayerNorm")

_TEXT = Part(
    "multimodal_encoder.bert.",
    "encoder.layer.",
    {f"embeddings.{name}.weight": f"embeddings.{name}.weight" for name in ("word_embeddings", "position_embeddings")}
    | {"embeddings.token_type_embeddings.weight": "embeddings.token_type_embeddings.weight"}
    | _both(
        {"embeddings.LayerNorm": "embeddings.LayerNorm"}
        | {
            f"encoder.layer.#.{name}": f"encoder.layer.#.{name}"
            for name in (
                *(f"{attention}.{inner}" for attention in ("attention", "crossattention") for inner in _BLOCK),
                *("intermediate.dense", "output.dense", "output.LayerNorm"),
            )
        }
    ),
)

_HEADS = Part(
    "contra_head_",
    "",
    {f"{letter}.linear.weight": f"{letter}.weight" for letter in "tvasd"},
    frozenset({"contra_head_d.linear.weight"}),
)

_MATCHER = Part(
    "",
    "",
    {f"{name}_frame_embedding": f"places.{name}" for name in ("vision", "audio")}
    | {f"{name}_type_embeddings": f"kinds.{name}" for name in ("vision", "audio", "subtitle")}
    | _both(
        {
            f"hidden_trans_{name}_multimodal.{i}": f"projections.{name}.{i}"
            for name in ("vision", "audio", "subtitle")
            for i in (0, 1)
        }
        | {f"contra_head_{letters}": f"fusions.{letters}" for letters in ("va", "vs", "vas")}
        | {"itm_head.linear1": "answers.0", "itm_head.layernorm": "answers.2", "itm_head.linear2": "answers.3"}
    ),
)

PARTS: Mapping[str, Part] = {"vision": _VISION, "audio": _AUDIO, "text": _TEXT, "heads": _HEADS, "matcher": _MATCHER}
"""The modules of a release."""

_OTHERS = ("contra_temp",)  # used, and no weight of a module

_LEFT_OUT = re.compile(
    r"vision_encoder\.(visual\.head\.|text\.|logit_scale$)|multimodal_encoder\.(cls\.|bert\.embeddings\.position_ids$)"
)
"""CLIP's own head and text tower, captioning, positions that are counted anew."""

_OLDER = (("video", "vision"), ("evaclip_model", "vision_encoder"), ("clip_model", "vision_encoder"))


def current_name(name: str) -> str:
    """A key as GRAM writes it, from one that DDP prefixed or an older VAST or PMRL named.

    >>> current_name("module.evaclip_model.visual.cls_token"), current_name("hidden_trans_video_multimodal.0.bias")
    ('vision_encoder.visual.cls_token', 'hidden_trans_vision_multimodal.0.bias')
    """
    name = re.sub(r"(^|\.)module\.", r"\1", name)
    for old, new in _OLDER:
        name = name.replace(old, new)
    return name


@dataclass(frozen=True)
class KeyReport:
    """What became of the keys of a checkpoint.

    Attributes:
        source: the file.
        used: loaded.
        ignored: known, and needed by nothing here.
        missing: needed, and not there; a model with any is not loaded.
        unexpected: not known; left out.
        layers: part → its number of layers.
    """

    source: str
    used: tuple[str, ...]
    ignored: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    layers: Mapping[str, int]

    def sheet(self) -> Sheet:
        """A row per kind of key."""
        kinds = {"used": self.used, "ignored": self.ignored, "missing": self.missing, "unexpected": self.unexpected}
        rows = tuple((kind, str(len(names)), listing(names[:3])) for kind, names in kinds.items())
        layers = ", ".join(f"{part} {depth}" for part, depth in self.layers.items())
        return Sheet("Keys", ("keys", "number", "such as"), rows, f"Layers: {layers}.")

    def check(self) -> None:
        """Refuse a file that lacks a key.

        Raises:
            InputError: it lacks one, or most: then it is of another model.
        """
        if not self.missing:
            return
        needed = len(self.missing) + len(self.used)
        if len(self.missing) > len(self.used):
            raise InputError(
                f"{self.source!r} is no checkpoint of GRAM, PMRL or VAST: of {needed} keys it lacks {len(self.missing)}, "
                f"such as {self.missing[0]!r}."
            )
        raise InputError(f"{self.source!r} lacks {len(self.missing)} of {needed} keys: {listing(self.missing)}.")


def report_of(source: str, tensors: Mapping[str, Tensor], parts: Iterable[str] = PARTS) -> KeyReport:
    """Compare the keys of a checkpoint with what its parts need.

    Args:
        source: the name of the file.
        tensors: by `current_name`.
        parts: those that are wanted; keys of others are ignored.

    Returns:
        The report.
    """
    parts = tuple(parts)
    wanted: set[str] = {*_OTHERS} if "heads" in parts else set()
    known: set[str] = set()
    optional: set[str] = set()
    layers = {}
    for name, part in PARTS.items():
        depth = part.depth(tensors) if part.layers else 0
        keys = part.names(depth).keys()
        known |= keys
        if name in parts:
            wanted |= keys
            optional |= part.optional
            if depth:
                layers[name] = depth
    used = tuple(sorted(wanted & tensors.keys()))
    missing = tuple(sorted(wanted - tensors.keys() - optional))
    ignored = tuple(sorted(name for name in tensors.keys() - wanted if name in known or _LEFT_OUT.match(name)))
    unexpected = tuple(sorted(tensors.keys() - {*used, *ignored}))
    return KeyReport(source, used, ignored, missing, unexpected, layers)


def weights_of(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The weights of one part under the names of its module, as float32; tensors are not copied.

    Args:
        tensors: of a checkpoint, by `current_name`; without the part's missing keys nothing is made of them.
        name: of the part.

    Returns:
        Key of the module → tensor.
    """
    part = PARTS[name]
    weights: dict[str, Tensor] = {}
    for old, new in part.names(part.depth(tensors) if part.layers else 0).items():
        if old in tensors and new not in weights and not old.endswith((".q_bias", ".v_bias")):
            weights[new] = tensors[old].float()
    if name == "vision":  # one bias for queries, keys and values; keys have none
        for old in [name for name in tensors if name.startswith(part.prefix) and name.endswith(".q_bias")]:
            q, v = tensors[old].float(), tensors[old.replace(".q_bias", ".v_bias")].float()
            new = part.table["blocks.#.attn.q_bias"].replace("#", old.removeprefix(part.prefix).split(".")[1])
            weights[new] = torch.cat([q, torch.zeros_like(q), v])
    return weights
