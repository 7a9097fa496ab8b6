"""The three towers of the released models: BERT for text and subtitle, EVA01-CLIP-g/14 for video and depth, BEATs for audio."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, Unpack, cast

import torch
from torch import Tensor, nn

from gramian.data.audio import Channels
from gramian.data.media import Place
from gramian.data.readers import Media
from gramian.data.released import FilterbankReader, FrameReader, Resize
from gramian.data.video import Colours
from gramian.errors import InputError, check_number, first_line, listing
from gramian.files import inside
from gramian.model.encoders.base import EncoderOptions
from gramian.model.encoders.folders import fetch
from gramian.model.encoders.released.base import ReleasedTower
from gramian.model.encoders.released.beats import BEATs, BEATsSizes
from gramian.model.encoders.released.checkpoint import Checkpoint
from gramian.model.towers import Encoded
from gramian.tokens import Tokens

__all__ = ["VOCABULARY", "ReleasedAudio", "ReleasedText", "ReleasedVision"]

VOCABULARY = "google-bert/bert-base-uncased"
"""A model on the hub with the words of the released BERT, which are not in the checkpoints."""

WORDS = "vocab.txt"

MASKED = -10_000.0
"""Added to the score of a token that is not attended to, as in the BERT of the time."""


def _number_of(names: Mapping[str, Any], before: str) -> int:
    """The number of layers whose names begin with `before` and their number."""
    numbers = {name.removeprefix(before).partition(".")[0] for name in names if name.startswith(before)}
    return len(numbers)


def _drop(share: float, module: nn.Module, inputs: Any, output: Any) -> Any:
    """The output of a residual branch, in training 0 for a share of the frames and larger for the others."""
    del inputs
    if not module.training or not share:
        return output
    branch, *others = output if isinstance(output, tuple) else (output,)
    kept = branch.new_empty(len(branch), 1, 1).bernoulli_(1 - share) / (1 - share)
    return (branch * kept, *others) if isinstance(output, tuple) else branch * kept


class ReleasedVision(ReleasedTower):
    """EVA01-CLIP-g/14 frame by frame: the mean of the frames' first tokens, and all tokens of all frames.

    Args:
        model: a checkpoint of GRAM, PMRL or VAST: a file, a folder or a hub id.
        frames: of a video, one from each of as many equal parts of its frames.
        train_frames: in training; as many by default.
        resize: "squash" both sides, or scale the shorter one and "crop" the middle.
        colours: "bt601" as OpenCV converts them, and with it GRAM; "file" by the file's own matrix, as decord, PMRL and VAST.
        drop_path: stochastic depth in training: the share of frames for which the last layer's branches are left out, those of
            other layers in proportion to their place; 0.4 in the release.
        options: see `EncoderOptions`.

    Raises:
        InputError: a checkpoint that cannot be read or lacks weights; an unknown option.
    """

    part = "vision"

    def __init__(
        self,
        model: str,
        *,
        frames: int = 8,
        train_frames: int | None = None,
        resize: Resize = "squash",
        colours: Colours = "bt601",
        drop_path: float = 0.4,
        **options: Unpack[EncoderOptions],
    ) -> None:
        own: dict[str, Any] = {"frames": frames, "train_frames": train_frames, "resize": resize, "colours": colours}
        FrameReader(**own)
        own["drop_path"] = check_number("drop_path", drop_path, "[0, 1)")
        super().__init__(model, own, options)

    def _build(self, shapes: Mapping[str, tuple[int, ...]]) -> nn.Module:
        from transformers import Blip2VisionConfig, Blip2VisionModel

        width, _, patch, _ = shapes["embeddings.patch_embedding.weight"]
        positions = shapes["embeddings.position_embedding"][1]
        config = Blip2VisionConfig(
            hidden_size=width,
            intermediate_size=shapes["encoder.layers.0.mlp.fc1.weight"][0],
            num_hidden_layers=_number_of(shapes, "encoder.layers."),
            num_attention_heads=max(1, width // 88),
            image_size=patch * math.isqrt(positions - 1),
            patch_size=patch,
            hidden_act="gelu",
            layer_norm_eps=1e-6,
            qkv_bias=True,
        )
        model: Any = Blip2VisionModel(config)
        layers = model.encoder.layers
        for i, layer in enumerate(layers):
            drop = partial(_drop, self.options["drop_path"] * i / max(1, len(layers) - 1))
            layer.self_attn.register_forward_hook(drop)
            layer.mlp.register_forward_hook(drop)
        return cast(nn.Module, model)

    def _read(self) -> None:
        size = self.model.config.image_size
        self.tokens_of_part: int = self.model.embeddings.num_positions
        own = {name: self.options[name] for name in ("frames", "train_frames", "resize", "colours")}
        self.reader: FrameReader = FrameReader(size=size, **own)

    def _measure(self) -> int:
        return int(self.model.config.hidden_size)

    def forward(self, inputs: Tensor) -> Encoded:
        """Pixels (n, frames, 3, height, width) → vectors (n, d), and tokens, frame by frame."""
        n, frames = inputs.shape[:2]
        with self._graph():
            states = self.model(pixel_values=inputs.flatten(0, 1)).last_hidden_state.unflatten(0, (n, frames))
        return Encoded(states[:, :, 0].mean(1), _all_tokens(states.flatten(1, 2)))


class ReleasedAudio(ReleasedTower):
    """BEATs on slices of a filterbank: the mean over the tokens of a slice and over the slices, and all tokens.

    Args:
        model: a checkpoint of GRAM, PMRL or VAST: a file, a folder or a hub id.
        slices: of 10.24 s, the middle one of each of as many equal parts of a recording.
        channels: "mean" as in GRAM; "left" alone, as in PMRL and VAST.
        missing: "zeros": an empty cell is a spectrogram of zeros, as in the release; "missing" leaves it out.
        gradient_scale: factor on the gradient at every layer, which all but freezes the lower ones; 0.6 in the release.
        options: see `EncoderOptions`.

    Raises:
        InputError: a checkpoint that cannot be read or lacks weights; an unknown option.
    """

    part = "audio"

    lora_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")

    def __init__(
        self,
        model: str,
        *,
        slices: int = 1,
        channels: Channels = "mean",
        missing: Literal["missing", "zeros"] = "missing",
        gradient_scale: float = 0.6,
        **options: Unpack[EncoderOptions],
    ) -> None:
        check_number("gradient_scale", gradient_scale, "(0, 1]")
        FilterbankReader(slices, channels=channels, missing=missing)
        own = {"slices": slices, "channels": channels, "missing": missing, "gradient_scale": gradient_scale}
        super().__init__(model, own, options)

    def _build(self, shapes: Mapping[str, tuple[int, ...]]) -> nn.Module:
        embedding, _, patch, _ = shapes["patch_embedding.weight"]
        width, per_group, kernel = shapes["encoder.pos_conv.0.parametrizations.weight.original1"]
        sizes = BEATsSizes(
            width=width,
            layers=_number_of(shapes, "encoder.layers."),
            heads=shapes["encoder.layers.0.self_attn.grep_a"][1],
            hidden=shapes["encoder.layers.0.fc1.weight"][0],
            embedding=embedding,
            patch=patch,
            kernel=kernel,
            groups=width // per_group,
            buckets=shapes["encoder.relative_attention_bias.weight"][0],
        )
        return BEATs(sizes, self.options["gradient_scale"])

    def _read(self) -> None:
        self.reader: FilterbankReader = FilterbankReader(
            **{name: self.options[name] for name in ("slices", "channels", "missing")}
        )
        patch = self.model.patch_embedding.kernel_size[0]
        self.tokens_of_part: int = math.prod(side // patch for side in self.reader.shape)

    def _measure(self) -> int:
        return int(self.model.post_extract_proj.out_features)

    def forward(self, inputs: Tensor) -> Encoded:
        """Filterbanks (n, slices, frames, bands) → vectors (n, d), and tokens, slice by slice."""
        n, slices = inputs.shape[:2]
        with self._graph():
            states = self.model(inputs.flatten(0, 1)).unflatten(0, (n, slices))
        return Encoded(states.mean(2).mean(1), _all_tokens(states.flatten(1, 2)))


class _WordReader(Media):
    """Texts as identifiers and a mask, padded to one length."""

    def __init__(self, tokenizer: Any, length: int, fills: bool) -> None:
        super().__init__("text")
        self.tokenizer = tokenizer
        self.length = length
        self.fills = fills

    def read(self, cell: Any, *, folder: Place | None = None, generator: Any = None) -> str:
        """A text; the empty one, where it counts."""
        if self.fills and (cell is None or (isinstance(cell, str) and not cell.strip())):
            return ""
        text: str = super().read(cell, folder=folder, generator=generator)
        return text

    def collate(self, cells: list[Any]) -> dict[str, Tensor]:
        """The tensors "input_ids" and "attention_mask", each (n, t)."""
        options: dict[str, Any] = {"padding": "max_length", "truncation": True, "max_length": self.length}
        tokens = self.tokenizer(cells, return_tensors="pt", **options)
        return {name: tokens[name] for name in ("input_ids", "attention_mask")}

    def cut(self, cell: Any, decoded: Any, *, folder: Place | None = None) -> str | None:
        """How many tokens of a text are cut off."""
        del cell, folder
        count = len(self.tokenizer(decoded, truncation=False, verbose=False)["input_ids"])
        return f"{count} tokens cut to {self.length}" if count > self.length else None


class ReleasedText(ReleasedTower):
    """BERT-base with cross-attention, without a context: its first token, and all of them.

    Args:
        model: a checkpoint of GRAM, PMRL or VAST: a file, a folder or a hub id.
        subtitle: read subtitles as released: 70 tokens; an empty cell is an empty text, which counts; padding is part of the
            context of a `ReleasedMatcher`.
        vocabulary: the words: `vocab.txt`, a folder that holds it, or a hub id; a folder of `save_pretrained` has its own.
        options: see `EncoderOptions`; `max_length` is 40, and 70 for subtitles.

    Raises:
        InputError: a checkpoint that cannot be read or lacks weights; a vocabulary that is missing or of another size; an
            unknown option.
    """

    part = "text"

    def __init__(
        self, model: str, *, subtitle: bool = False, vocabulary: str = VOCABULARY, **options: Unpack[EncoderOptions]
    ) -> None:
        self._vocabulary = vocabulary
        super().__init__(model, {"subtitle": subtitle}, options)

    def _build(self, shapes: Mapping[str, tuple[int, ...]]) -> nn.Module:
        from transformers import BertConfig, BertModel

        words, width = shapes["embeddings.word_embeddings.weight"]
        config = BertConfig(
            vocab_size=words,
            hidden_size=width,
            num_hidden_layers=_number_of(shapes, "encoder.layer."),
            num_attention_heads=max(1, width // 64),
            intermediate_size=shapes["encoder.layer.0.intermediate.dense.weight"][0],
            max_position_embeddings=shapes["embeddings.position_embeddings.weight"][0],
            type_vocab_size=shapes["embeddings.token_type_embeddings.weight"][0],
            is_decoder=True,
            add_cross_attention=True,
        )
        model: nn.Module = BertModel(config, add_pooling_layer=False)
        return model

    def _prepare(self, folder: Any) -> None:
        embeddings = self.model.embeddings  # what is counted, and not in a file
        embeddings.position_ids = torch.arange(self.model.config.max_position_embeddings)[None]
        embeddings.token_type_ids = torch.zeros_like(embeddings.position_ids)
        where = self._vocabulary if isinstance(folder, Checkpoint) else inside(folder, WORDS)
        self._words = _words(where, self.model.config.vocab_size)

    def _read(self) -> None:
        from transformers import BertTokenizer

        length = self.options["max_length"] or (70 if self.options["subtitle"] else 40)
        positions = self.model.config.max_position_embeddings
        check_number("max_length", length, f"[2, {positions}]", integer=True, why="the positions of the BERT")
        tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(self._words)}, do_lower_case=True)
        self.tokens_of_part = length
        self.reader: _WordReader = _WordReader(tokenizer, length, self.options["subtitle"])

    def _measure(self) -> int:
        return int(self.model.config.hidden_size)

    def forward(self, inputs: Mapping[str, Tensor]) -> Encoded:
        """Tokens → the state of the first, (n, d), and all states."""
        mask = inputs["attention_mask"]
        states = self.states(inputs["input_ids"], mask)
        return Encoded(states[:, 0], _all_tokens(states) if self.options["subtitle"] else Tokens(states, mask.bool()))

    def states(
        self, input_ids: Tensor, mask: Tensor, context: Tokens | None = None, position_ids: Tensor | None = None
    ) -> Tensor:
        """The states of the last layer; each token attends to all others that `mask` admits, before and after it.

        Args:
            input_ids: (n, t).
            mask: (n, t) which tokens are no padding, or (n, 1, t, t) which token attends to which.
            context: what the cross-attention reads; without one there is none.
            position_ids: (n, t) or (1, t); counted from 0 by default.

        Returns:
            (n, t, width).
        """
        mask = mask.bool() if mask.ndim == 4 else mask.bool()[:, None, None].expand(-1, 1, mask.shape[1], -1)
        dtype = next(self.model.parameters()).dtype
        options: dict[str, Any] = {"attention_mask": (~mask).to(dtype) * MASKED, "use_cache": False}
        if context is not None:
            options["encoder_hidden_states"] = context.values
            if not bool(context.present.all()):
                present = context.present[:, None, None].expand(-1, 1, input_ids.shape[1], -1)
                options["encoder_attention_mask"] = (~present).to(dtype) * MASKED
        # A frozen BERT still passes gradients on to the projections of a context.
        with self._graph() if context is None else contextlib.nullcontext():
            states: Tensor = self.model(input_ids=input_ids, position_ids=position_ids, **options).last_hidden_state
        return states

    def _write_files(self, model: Any, folder: Path) -> None:
        super()._write_files(model, folder)
        (folder / WORDS).write_text("\n".join(self._words) + "\n", encoding="utf-8")


def _words(vocabulary: str | Path, count: int) -> list[str]:
    """The words of a vocabulary, which belongs to a BERT of `count` of them."""
    path = Path(vocabulary)
    if not path.exists():
        try:
            path = fetch(str(vocabulary), "", (WORDS,))
        except InputError:
            raise InputError(
                f"`vocabulary` must be a {WORDS}, a folder that holds it, or a hub id that can be reached; got "
                f"{str(vocabulary)!r}. The words of the BERT are not in its checkpoint: give the {WORDS} of bert-base-uncased."
            ) from None
    path = path / WORDS if path.is_dir() else path
    try:
        words = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"`vocabulary` {str(path)!r} cannot be read ({first_line(error):.100}); it must be the {WORDS} of {VOCABULARY}."
        ) from None
    lacking = [word for word in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if word not in words]
    if len(words) != count or len(set(words)) != count or lacking:
        what = f"lacks {listing(lacking)}" if lacking else f"holds {len(set(words)):,} words"
        raise InputError(
            f"`vocabulary` must hold the {count:,} words of the BERT; {str(path)!r} {what}. Take that of {VOCABULARY}."
        )
    return words


def _all_tokens(states: Tensor) -> Tokens:
    """Tokens of which none is masked."""
    return Tokens(states, torch.ones(states.shape[:2], dtype=torch.bool, device=states.device))
