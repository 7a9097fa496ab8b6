"""Families of transformers' models: all differences between them, in one place.

Most show in a model's attributes, whatever its family: a method for projected features, a decoder to leave out, a number of
frames. Those that do not are entries of `FAMILIES`, by the `model_type` of the model's config.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor

from gramian.data.media import Kind
from gramian.errors import check_number

__all__ = [
    "FAMILIES",
    "Family",
    "encoder_of",
    "family_of",
    "method_of",
    "mixes",
    "present_tokens",
    "reads_videos",
    "seconds_limit",
    "takes",
    "token_limit",
]


@dataclass(frozen=True)
class Family:
    """What models of one family need and their attributes do not show.

    Attributes:
        text_methods: methods that give a text's vector in the space of all kinds that the model reads, the best first; by
            default `get_text_features` or `get_text_embeds`.
        padding: of texts: "longest" of the batch, or "max_length" where the model was trained on texts of that length.
        mixes: whether padding changes the vectors whatever the mask, so that only items of one length are encoded together.
    """

    text_methods: tuple[str, ...] = ()
    padding: Literal["longest", "max_length"] = "longest"
    mixes: bool = False


_MIX = ("convbert", "data2vec-audio", "fnet", "moonshine", "speech_to_text", "wav2vec2-conformer", "yoso")

FAMILIES: dict[str, Family] = {
    **dict.fromkeys(_MIX, Family(mixes=True)),
    **dict.fromkeys(("siglip", "siglip_text_model", "siglip2", "siglip2_text_model"), Family(padding="max_length")),
    "pe_audio": Family(text_methods=("get_text_audio_embeds",)),
    "pe_audio_video": Family(text_methods=("get_text_audio_video_embeds", "get_text_audio_embeds", "get_text_video_embeds")),
    "pe_video": Family(text_methods=("get_text_video_embeds",)),
}
"""Families by `model_type`; models of other families are read by their attributes alone."""


def family_of(config: Any) -> Family:
    """The entry of a model's family, or the default."""
    return FAMILIES.get(getattr(config, "model_type", ""), Family())


def method_of(model: Any, kind: Kind) -> str | None:
    """The method that gives a kind's vectors in the model's own shared space, if it has one."""
    names = [f"get_{kind}_features", f"get_{kind}_embeds", *(family_of(model.config).text_methods if kind == "text" else ())]
    return next((name for name in names if hasattr(model, name)), None)


def encoder_of(model: Any, kind: Kind) -> Any:
    """The part of a model that encodes: the encoder of an encoder–decoder, otherwise the whole model."""
    decodes = getattr(model.config, "is_encoder_decoder", False)
    return model.get_encoder() if decodes and not method_of(model, kind) else model


def reads_videos(model: Any) -> bool:
    """Whether a model takes whole videos; one of images takes their frames."""
    names = ("tubelet_size", "num_frames", "video_config")
    return any(hasattr(model.config, name) for name in names) or method_of(model, "video") is not None


def seconds_limit(processor: Any, seconds: float | None) -> float | None:
    """Seconds of audio, no more than the processor takes: some crop longer recordings at random."""
    limits = (seconds, *(getattr(processor, name, None) for name in ("chunk_length", "max_length_s")))
    return min((float(limit) for limit in limits if isinstance(limit, int | float) and limit > 0), default=None)


def mixes(config: Any) -> bool:
    """Whether padding changes a model's vectors: by its family, a norm over all of a recording, or convolutions at the end."""
    return (
        family_of(config).mixes
        or getattr(config, "feat_extract_norm", None) == "group"
        or bool(getattr(config, "add_adapter", False))
    )


def token_limit(tokenizer: Any, model: Any, asked: int | None = None) -> int | None:
    """The number of tokens to cut texts to: the one `asked` for, or what model and tokenizer state; None without a limit.

    Raises:
        InputError: more are asked for than the model has positions.
    """
    config = getattr(model.config, "text_config", model.config)
    stated = [getattr(config, name, None) for name in ("max_position_embeddings", "max_encoder_position_embeddings")]
    limit = min((number for number in stated if number and number > 0), default=math.inf)
    for module in model.modules():
        positions: Any = getattr(module, "position_embeddings", None)
        padding = getattr(positions, "padding_idx", None)
        if padding is not None:  # as in RoBERTa, whose positions are counted from behind the padding's
            limit = min(limit, positions.weight.shape[0] - padding - 1)
    if asked is not None:
        return check_number("max_length", asked, f"[2, {limit}]", integer=True, why=f"the positions of {config.model_type}")
    limit = min(tokenizer.model_max_length, limit)
    return int(limit) if limit < 2**20 else None


def present_tokens(model: Any, hidden: Tensor, mask: Tensor | None) -> Tensor:
    """Which states of an encoder are not padding.

    Args:
        model: the encoder.
        hidden: (n, t, d) states.
        mask: of its inputs: (n, t) as the states are, (n, samples) or (n, frames of a spectrogram); None if all count.

    Returns:
        (n, t) bool.
    """
    n, t = hidden.shape[:2]
    everything = torch.ones(n, t, dtype=torch.bool, device=hidden.device)
    if mask is None:
        return everything
    if mask.shape[1] == t:
        return mask.bool()
    base = getattr(model, "base_model", model)
    for owner in (model, getattr(base, "model", base)):
        if hasattr(owner, "_get_feature_vector_attention_mask"):  # samples → frames of wav2vec 2.0 and its kin
            return cast(Tensor, owner._get_feature_vector_attention_mask(t, mask)).bool()
        if hasattr(owner, "_get_output_attention_mask"):  # frames of a spectrogram → those of Conformers that thin them out
            return cast(Tensor, owner._get_output_attention_mask(mask, t)).bool()
    step = mask.shape[1] / t  # frames of a spectrogram → states of Whisper: every second
    index = (torch.arange(t, device=hidden.device) * step).long().clamp(max=mask.shape[1] - 1)
    present = mask[:, index].bool()
    return present | (~present.any(1, keepdim=True) & everything)


def takes(function: Callable[..., Any], name: str) -> bool:
    """Whether a function has a parameter of that name, or takes any."""
    parameters = inspect.signature(function).parameters.values()
    return any(each.name == name or each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters)
