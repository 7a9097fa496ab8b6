"""Encoders of Hugging Face transformers as towers."""

from __future__ import annotations

import contextlib
import copy
import inspect
import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np
import torch
from torch import Tensor

from gramian.data.media import MEDIA, Kind, Place, Sampling
from gramian.data.readers import Media
from gramian.errors import InputError, check_choice, first_line, is_exhausted, listing, require
from gramian.files import read_json
from gramian.model.encoders.base import Encoder, EncoderOptions, by_length, check_tokenizer, trimmed, without_bars
from gramian.model.encoders.families import (
    encoder_of,
    family_of,
    method_of,
    mixes,
    present_tokens,
    reads_videos,
    seconds_limit,
    takes,
    token_limit,
)
from gramian.model.encoders.folders import loading, no_larger_than
from gramian.model.towers import Encoded, seeded
from gramian.tokens import Tokens, pool

__all__ = ["HuggingFace"]

_PIXELS: Mapping[str, Any] = {"return_tensors": "pt", "input_data_format": "channels_last"}
"""Processors take channels for rows where a picture has no more than four pixels, and rows for channels."""


class _HuggingFaceReader(Media):
    """Decodes and runs the processor of one kind.

    Args:
        kind: of media.
        processor: tokenizer, image processor or feature extractor.
        length: tokens a text is cut to.
        padding: of texts: "longest" or "max_length".
        media: options of `Media`.
        per_frame: whether a video's frames go through an image processor one by one.
    """

    def __init__(
        self,
        kind: Kind,
        processor: Any,
        *,
        length: int | None,
        padding: str,
        per_frame: bool,
        **media: Any,
    ) -> None:
        super().__init__(kind, **media)
        self.processor = processor
        self.length = length
        self.padding = padding
        self.per_frame = per_frame

    def collate(self, cells: list[Any]) -> dict[str, Tensor]:
        """What the model takes."""
        if self.kind == "text":
            options: dict[str, Any] = {"padding": self.padding, "truncation": True, "max_length": self.length}
            return dict(self.processor(cells, return_tensors="pt", return_attention_mask=True, **options))
        if self.kind == "audio":
            return self._audio(cells)
        if self.kind == "video" and not self.per_frame:
            return dict(self.processor([[trimmed(frame, self.processor) for frame in cell] for cell in cells], **_PIXELS))
        images = [frame for cell in cells for frame in cell] if self.per_frame else cells
        inputs = dict(self.processor(images=[trimmed(image, self.processor) for image in images], **_PIXELS))
        return {name: value.unflatten(0, (len(cells), -1)) for name, value in inputs.items()} if self.per_frame else inputs

    def _audio(self, cells: list[Any]) -> dict[str, Tensor]:
        options: dict[str, Any] = {"sampling_rate": self.sampling.rate, "return_tensors": "pt"}
        call = inspect.signature(self.processor.__call__).parameters
        if "return_attention_mask" in call:
            options["return_attention_mask"] = True
        if "padding" in call and not call["padding"].default:  # others pad by themselves
            options["padding"] = True
        # CLAP's processor draws from NumPy's global generator: seed it for each batch, then restore the process's own state.
        state = np.random.get_state()  # noqa: NPY002
        try:
            np.random.seed(0)  # noqa: NPY002
            inputs = dict(self.processor(cells, **options))
        finally:
            np.random.set_state(state)  # noqa: NPY002
        if "is_longer" in inputs:  # never: they are cut; it calls one of them so, drawn at random
            inputs["is_longer"] = torch.zeros_like(inputs["is_longer"])
        return inputs

    def cut(self, cell: Any, decoded: Any, *, folder: Place | None = None) -> str | None:
        """How much of a text or a recording is cut off."""
        if self.kind == "text" and self.length is not None:
            count = len(self.processor(decoded, truncation=False, verbose=False)["input_ids"])
            return f"{count} tokens cut to {self.length}" if count > self.length else None
        return super().cut(cell, decoded, folder=folder)


class HuggingFace(Encoder):
    """A model of transformers as a tower: `AutoModel` and the processor that belongs to it.

    Models with towers of their own (CLIP, SigLIP, CLAP, PE-AV) give their projected features; of encoder–decoders (Whisper, T5)
    the encoder is taken; others give their last hidden state, pooled. An image model reads a video frame by frame, and gives
    the mean. Tokens are returned if they have the vectors' width. Differences between families are in `encoders.families`.

    Args:
        model: hub id or folder.
        kind: "text", "image", "audio" or "video".
        pooling: of the last hidden state: "mean", "max", "first"; "auto" takes the model's own where it was trained (images,
            spectrograms) and the mean elsewhere.
        seconds: of audio; a longer recording gives a window, its first seconds or, in training, any. None reads all of it.
        frames: of a video; the model's own number by default, or 8.
        options: see `EncoderOptions`.

    Raises:
        InputError: no such model, a processor that is missing, a kind that the model does not read.
    """

    def __init__(
        self,
        model: str,
        kind: Kind,
        *,
        pooling: Literal["auto", "mean", "max", "first"] = "auto",
        seconds: float | None = 30.0,
        frames: int | None = None,
        **options: Unpack[EncoderOptions],
    ) -> None:
        require("transformers")
        check_choice("kind", kind, MEDIA)
        check_choice("pooling", pooling, ("auto", "mean", "max", "first"))
        Sampling(seconds=seconds, frames=8 if frames is None else frames)
        super().__init__(model, {"kind": kind, "pooling": pooling, "seconds": seconds, "frames": frames}, options)

    def _open(self, folder: Path) -> None:
        kind: Kind = self.options["kind"]
        whole, self._own_pooling = _load(folder, self.source)
        self.model: Any = encoder_of(whole, kind)
        # An encoder–decoder; in a tuple, so that it does not become a submodule of the tower.
        self._whole = None if whole is self.model else (whole,)
        self._per_frame = kind == "video" and not reads_videos(self.model)
        self._method = method_of(self.model, "image" if self._per_frame else kind)
        self._processor = processor = _processor(folder, "image" if self._per_frame else kind, self.source)
        if kind == "text":
            check_tokenizer(processor, self.source)
        config = self.model.config
        self.reader: _HuggingFaceReader = _HuggingFaceReader(
            kind,
            processor,
            length=token_limit(processor, self.model, self.options["max_length"]) if kind == "text" else None,
            padding=family_of(config).padding,
            per_frame=self._per_frame,
            rate=int(getattr(processor, "sampling_rate", 16_000)),
            seconds=seconds_limit(processor, self.options["seconds"]),
            frames=self.options["frames"] or int(getattr(config, "num_frames", 8)),
        )

    def forward(self, inputs: Mapping[str, Tensor]) -> Encoded:
        """Vectors and tokens of what the reader collated."""
        with self._graph():
            if self._per_frame:
                n, frames = next(iter(inputs.values())).shape[:2]
                flat = {name: value.flatten(0, 1) for name, value in inputs.items()}
                vectors = self._encode(flat).vectors.reshape(n, frames, -1)
                present = torch.ones(n, frames, dtype=torch.bool, device=vectors.device)
                return Encoded(vectors.mean(1), Tokens(vectors, present))
            return self._encode(inputs)

    def _encode(self, inputs: Mapping[str, Tensor]) -> Encoded:
        if self._method:
            method = getattr(self.model, self._method)
            return _projected(method(**{name: value for name, value in inputs.items() if takes(method, name)}), inputs)
        mask = inputs.get("attention_mask")
        if mask is not None and mixes(self.model.config) and not bool(mask.all()):
            return by_length(self._encode, inputs, mask)
        # Spectrograms of a fixed window, as of Whisper, are padded with silence, and their encoders take no mask.
        is_masked = takes(self.model.forward, "attention_mask") and not hasattr(self._processor, "nb_max_frames")
        out = self.model(**{name: value for name, value in inputs.items() if is_masked or name != "attention_mask"})
        hidden = out.last_hidden_state
        if hidden.ndim == 4:  # (n, d, height, width)
            hidden = hidden.flatten(2).transpose(1, 2)
        tokens = Tokens(hidden, present_tokens(self.model, hidden, mask))
        pooling, pooled = self.options["pooling"], getattr(out, "pooler_output", None)
        if pooling == "auto" and pooled is not None and self.options["kind"] != "text" and self._own_pooling:
            pooled = pooled.flatten(1)
            return Encoded(pooled, tokens if pooled.shape[1] == hidden.shape[2] else None)
        return Encoded(pool(tokens, "mean" if pooling == "auto" else pooling), tokens)

    def _measure(self) -> int:
        """The width of the vectors, measured by encoding one blank cell; a model and a kind that do not fit fail here."""
        training = self.model.training
        try:
            with torch.no_grad(), seeded(0):
                self.model.eval()
                width = self.forward(self.reader.collate([self.reader.blank()])).vectors.shape[1]
        except Exception as error:
            if is_exhausted(error):
                raise
            raise InputError(
                f"`kind` {self.options['kind']!r} is not what {self.source!r} ({self.model.config.model_type}) reads: "
                f"{first_line(error):.160}"
            ) from error
        self.model.train(training)
        return int(width)

    def _write_files(self, model: Any, folder: Path) -> None:
        if self._whole is not None:
            whole = copy.deepcopy(self._whole[0])
            whole.encoder = model  # where `get_encoder` took it from
            model = whole
        with without_bars():
            model.save_pretrained(folder)
        self._processor.save_pretrained(folder)


def _load(folder: Path, model: str) -> tuple[Any, bool]:
    """The whole model, and whether its pooler was loaded from the files."""
    from transformers import AutoModel

    options = {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True, "dtype": torch.float32}
    what = f"`model` must be a hub id or a folder of transformers; {model!r}"
    with loading(what), without_bars(), seeded(0), no_larger_than(folder):
        whole, info = AutoModel.from_pretrained(str(folder), output_loading_info=True, **options)
    missing = sorted(info["missing_keys"])
    others = [name for name in missing if "pooler" not in name]
    if others:
        raise InputError(f"{model!r} does not hold all weights of {type(whole).__name__}: {listing(others)} are missing.")
    return whole, not missing


def _processor(folder: Path, kind: Kind, model: str) -> Any:
    import transformers

    # The video processors of transformers need torchvision.
    names = [name for name in MEDIA[kind].processors if name != "AutoVideoProcessor" or find_spec("torchvision")]
    reasons = []
    for name in names:
        try:
            return getattr(transformers, name).from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        except Exception as error:  # files that are foreign or damaged fail in many ways
            reasons.append(first_line(error)[:160])
    if kind == "video":
        with contextlib.suppress(OSError, ValueError):
            return _FrameProcessor(folder)
    raise InputError(f"`kind` {kind!r} needs a {names[0]} that {model!r} does not have ({reasons[-1]}).")


class _FrameProcessor:
    """Processes each frame as a video processor's config says; the video processors of transformers need torchvision."""

    def __init__(self, folder: Path) -> None:
        from transformers import CLIPImageProcessorPil

        self.config = read_json(folder / "video_preprocessor_config.json")
        defaults = {"do_center_crop": False, "do_convert_rgb": True}
        known = {"size", "crop_size", "image_mean", "image_std", "rescale_factor", "resample"}
        known |= {"do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"}
        self.images = CLIPImageProcessorPil(**(defaults | {k: v for k, v in self.config.items() if k in known}))

    @property
    def size(self) -> Any:
        return self.images.size

    def __call__(self, videos: list[list[Any]], **options: Any) -> dict[str, Tensor]:
        parts = [self.images(images=frames, **options)["pixel_values"] for frames in videos]
        return {"pixel_values_videos": torch.stack(parts)}

    def save_pretrained(self, folder: Path) -> None:
        (folder / "video_preprocessor_config.json").write_text(json.dumps(self.config, indent=2) + "\n", encoding="utf-8")


def _projected(out: Any, inputs: Mapping[str, Tensor]) -> Encoded:
    """From the output of `get_…_features`: a tensor, or an output with the projection in its `pooler_output`."""
    if isinstance(out, Tensor):
        return Encoded(out)
    vectors = out.pooler_output
    hidden = getattr(out, "last_hidden_state", None)
    if hidden is None or hidden.ndim != 3 or hidden.shape[2] != vectors.shape[1]:
        return Encoded(vectors)
    mask = inputs.get("attention_mask")
    if mask is None or mask.shape[1] != hidden.shape[1]:
        mask = torch.ones(hidden.shape[:2], device=hidden.device)
    return Encoded(vectors, Tokens(hidden, mask.bool()))
