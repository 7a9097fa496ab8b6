"""Pretrained encoders as towers: Hugging Face transformers and sentence-transformers; frozen, with an adapter, or trained."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import inspect
import json
import math
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from gramian.errors import InputError, check_choice, first_line, need, some
from gramian.model.towers import KINDS, Encoded, Kind, Media, Tower
from gramian.tokens import Tokens, pool

__all__ = ["ENCODERS", "Encoder", "HuggingFace", "Mode", "SentenceTransformer", "fingerprint"]

Mode: TypeAlias = Literal["freeze", "lora", "train"]
Writing: TypeAlias = Literal["auto", "reference", "value", "share"]
MODES: tuple[Mode, ...] = ("freeze", "lora", "train")
RATES: Mapping[str, float] = {"lora": 1e-4, "train": 1e-5}
"""Default learning rates of a tower: what is pretrained is moved with care."""

LORA: Mapping[str, Any] = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear"}


def fingerprint(module: nn.Module) -> str:
    """A hash of the names and shapes of a module's weights, and of 64 values of each."""
    found = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        found.update(f"{name} {tuple(value.shape)} ".encode())
        flat = value.detach().flatten()
        found.update(flat[:: max(1, flat.numel() // 64)][:64].double().cpu().numpy().tobytes())
    return found.hexdigest()[:16]


class Encoder(Tower):
    """A pretrained encoder that can say where it came from, and be written and read again.

    Attributes:
        source: hub id or folder.
        options: what it was made with, for its description.
        mode: "freeze", "lora" or "train".
    """

    source: str
    mode: Mode
    options: dict[str, Any]
    model: Any
    reader: Media
    _loaded: str  # fingerprint of the weights as they came
    _copied = False  # whether they came from a saved Aligner, and may be others than the source's

    @property
    def summary(self) -> str:
        """One line for a model card."""
        how = {"freeze": "frozen", "lora": "with a LoRA adapter", "train": "fine-tuned"}[self.mode]
        revision = f" at {self.options['revision']}" if self.options.get("revision") else ""
        return f"{type(self).__name__}: {self.source}{revision}, {getattr(self.reader, 'kind', 'text')}, {how}"

    def train(self, mode: bool = True) -> Encoder:
        """As for any module; a frozen encoder stays in evaluation mode."""
        super().train(mode and self.mode != "freeze")
        return self

    def _adopt(self, mode: Mode, lora: Mapping[str, Any] | None, learning_rate: float | None) -> None:
        """Freeze, adapt or train what `self.model` is."""
        self.mode = check_choice("mode", mode, MODES)
        if lora is not None and mode != "lora":
            raise InputError(f"`lora` are the options of an adapter and go with mode='lora'; got mode={mode!r}.")
        if learning_rate is not None and (mode == "freeze" or not learning_rate > 0):
            raise InputError(
                f"`learning_rate` must be positive, and goes with mode 'lora' or 'train'; got {learning_rate} and {mode!r}."
            )
        self.learning_rate = learning_rate or RATES.get(mode)
        if mode == "freeze":
            self.model.requires_grad_(False)
        if mode == "lora":
            self._adapt(dict(LORA) | dict(lora or {}))
        self.train(self.training)

    def _adapt(self, options: dict[str, Any]) -> None:
        need("peft")
        import peft

        with _without_peft_warnings(), torch.random.fork_rng():
            torch.manual_seed(0)  # the adapter's first weights are the same in every run
            self.model = peft.get_peft_model(self.model, peft.LoraConfig(**options))

    def write(self, folder: Path, below: str, how: Writing) -> dict[str, Any]:
        """Write what is needed to make the encoder again; return its description.

        Args:
            folder: of the Aligner.
            below: where this encoder's files go, relative to `folder`.
            how: see `Aligner.save_pretrained`; "share" is "auto" for another machine.
        """
        options = dict(self.options)
        described = {"class": type(self).__name__, "width": self.width, "source": self.source, "mode": self.mode}
        elsewhere = how == "share" and Path(self.source).exists()  # a folder of this machine says nothing to another
        learned = self.mode == "train" or self._copied
        by_value = how == "value" or elsewhere or learned
        if how == "reference" and learned:
            raise InputError("`towers` 'reference' would lose what a trained tower has learned. Use 'auto' or 'value'.")
        model = self.model
        described["fingerprint"] = self._loaded
        if self.mode == "lora" and by_value:
            model, described["mode"] = (
                copy.deepcopy(model).merge_and_unload(),
                "freeze",
            )  # the adapter is part of the weights now
            options["learning_rate"] = None
        elif self.mode == "lora":
            model.save_pretrained(folder / below)
            described["adapter"] = below
        if by_value:
            self._write_files(model, folder / below)
            described |= {"files": below, "fingerprint": fingerprint(model)}
        return described | {"options": options}

    @classmethod
    def restore(cls, described: Mapping[str, Any], folder: Path) -> Encoder:
        """What `write` described.

        Raises:
            InputError: weights by reference that are not to be had, or are others than they were.
        """
        options = dict(described["options"])
        where = str(_inside(folder, described["files"])) if "files" in described else described["source"]
        if "files" in described:
            options["revision"] = None
        mode, rate = described["mode"], options.pop("learning_rate", None)
        encoder = cls(
            where, **options, mode="freeze" if mode == "lora" else mode, learning_rate=rate if mode == "train" else None
        )
        if encoder._loaded != described["fingerprint"]:
            raise InputError(
                f"the weights of {where!r} are not those that the Aligner was made with. Give the `revision` it was made with."
            )
        if "adapter" in described:
            need("peft")
            import peft

            adapter = str(_inside(folder, described["adapter"]))
            with _without_peft_warnings():
                encoder.model = peft.PeftModel.from_pretrained(encoder.model, adapter, is_trainable=True)
            encoder.mode, encoder.learning_rate = "lora", rate or RATES["lora"]
            encoder.options["learning_rate"] = rate
        if encoder.width != described["width"]:
            raise InputError(
                f"{where!r} gives vectors of width {encoder.width}; the Aligner was made for {described['width']}."
            )
        encoder.source, encoder._copied = described["source"], "files" in described
        return encoder

    @abstractmethod
    def _write_files(self, model: Any, folder: Path) -> None:
        """Weights, config and processor, as the encoder's own library writes them."""

    def _graph(self) -> Any:
        return torch.no_grad() if self.mode == "freeze" else contextlib.nullcontext()


class _HuggingFaceReader(Media):
    """Decodes and runs the processor of one kind.

    Args:
        kind: of media.
        processor: tokenizer, image processor or feature extractor.
        length: tokens a text is cut to.
        padding: of texts: True to the longest, "max_length".
        media: options of `Media`.
        per_frame: whether a video's frames go through an image processor one by one.
    """

    def __init__(
        self,
        kind: Kind,
        processor: Any,
        *,
        length: int | None,
        padding: bool | str,
        per_frame: bool,
        **media: Any,
    ) -> None:
        super().__init__(kind, **media)
        self.processor = processor
        self.length, self.padding, self.per_frame = length, padding, per_frame

    def collate(self, cells: list[Any]) -> dict[str, Tensor]:
        """What the model takes."""
        if self.kind == "text":
            options: dict[str, Any] = {"padding": self.padding, "truncation": True, "max_length": self.length}
            return dict(self.processor(cells, return_tensors="pt", **options))
        if self.kind == "image":
            return dict(self.processor(images=cells, return_tensors="pt"))
        if self.kind == "audio":
            return self._audio(cells)
        if self.per_frame:
            frames = [frame for cell in cells for frame in cell]
            found = dict(self.processor(images=frames, return_tensors="pt"))
            return {name: value.reshape(len(cells), -1, *value.shape[1:]) for name, value in found.items()}
        return dict(self.processor([list(cell) for cell in cells], return_tensors="pt"))

    def _audio(self, cells: list[Any]) -> dict[str, Tensor]:
        options: dict[str, Any] = {"sampling_rate": self.rate, "return_tensors": "pt"}
        names = getattr(self.processor, "model_input_names", [])
        mel = hasattr(self.processor, "nb_max_frames")  # pads to a fixed window of frames, as Whisper's does
        if (mel or "attention_mask" in names) and _takes(self.processor.__call__, "return_attention_mask"):
            options["return_attention_mask"] = True
        if "input_values" in names:
            options["padding"] = True
        # CLAP's draws from NumPy's global generator: give it the same one each time, and the process its own back.
        state = np.random.get_state()  # noqa: NPY002
        try:
            np.random.seed(0)  # noqa: NPY002
            return dict(self.processor(cells, **options))
        finally:
            np.random.set_state(state)  # noqa: NPY002

    def cut(self, cell: Any, decoded: Any, *, folder: Path | None = None) -> str | None:
        """What of a text, or of a recording, is cut off."""
        if self.kind == "text" and self.length is not None:
            count = len(self.processor(decoded, truncation=False, verbose=False)["input_ids"])
            return f"{count} tokens cut to {self.length}" if count > self.length else None
        return super().cut(cell, decoded, folder=folder)


class HuggingFace(Encoder):
    """A model of transformers as a tower: `AutoModel` and the processor that belongs to it.

    Models with towers of their own (CLIP, SigLIP, CLAP, PE-AV) give their projected features; of encoder–decoders (Whisper, T5)
    the encoder is taken; others give their last hidden state, pooled. An image model reads a video frame by frame, and the
    mean counts. Tokens come out where they have the vectors' width.

    Args:
        model: hub id or folder.
        kind: "text", "image", "audio" or "video".
        mode: "freeze" computes no gradient and stays in evaluation mode; "lora" trains an adapter (peft) beside the frozen
            weights; "train" trains everything.
        revision: on the hub.
        learning_rate: of this tower; 1e-4 for "lora", 1e-5 for "train".
        lora: options of `peft.LoraConfig`; rank 16 on all linear layers by default.
        pooling: of the last hidden state: "mean", "max", "first"; "auto" takes the model's own where it was trained (images,
            spectrograms) and the mean elsewhere.
        seconds: of audio, longer recordings give a window: their first seconds, in training any; 30 by default.
        frames: of a video; the model's own number by default, or 8.
        max_length: tokens of a text; the model's own limit by default.
        gradient_checkpointing: recompute activations in the backward pass.
        local_files_only: ask no hub.

    Raises:
        InputError: no such model, a processor that is missing, a kind that the model does not read.
    """

    def __init__(
        self,
        model: str,
        kind: Kind,
        *,
        mode: Mode = "freeze",
        revision: str | None = None,
        learning_rate: float | None = None,
        lora: Mapping[str, Any] | None = None,
        pooling: Literal["auto", "mean", "max", "first"] = "auto",
        seconds: float | None = 30.0,
        frames: int | None = None,
        max_length: int | None = None,
        gradient_checkpointing: bool = False,
        local_files_only: bool = False,
    ) -> None:
        super().__init__()
        need("transformers")
        check_choice("kind", kind, KINDS)
        self.pooling = check_choice("pooling", pooling, ("auto", "mean", "max", "first"))
        self.source, self.kind = _place(model), kind
        self.options = {
            "kind": kind,
            "revision": revision,
            "learning_rate": learning_rate,
            "pooling": pooling,
            "seconds": seconds,
            "frames": frames,
            "max_length": max_length,
            "gradient_checkpointing": gradient_checkpointing,
        }
        hub = {"revision": revision, "local_files_only": local_files_only}
        self.model, whole, guessed = _load(model, kind, hub)
        self._whole = (
            None if whole is self.model else (whole,)
        )  # of an encoder–decoder; a tuple, for it is no part of the tower
        self._own_pooling = not guessed
        config = self.model.config
        video_model = any(hasattr(config, name) for name in ("tubelet_size", "num_frames", "video_config"))
        self._per_frame = kind == "video" and not video_model and not _getter(self.model, "video")
        self._getter = _getter(self.model, "image" if self._per_frame else kind)
        self._processor = processor = _processor(model, "image" if self._per_frame else kind, hub)
        self.reader = _HuggingFaceReader(
            kind,
            processor,
            length=max_length or _longest(processor, config) if kind == "text" else None,
            padding="max_length" if "siglip" in config.model_type else True,
            per_frame=self._per_frame,
            rate=int(getattr(processor, "sampling_rate", 16_000)),
            seconds=_window(processor, seconds),
            frames=frames or int(getattr(config, "num_frames", 8)),
        )
        if gradient_checkpointing:
            _checkpoint_activations(self.model)
        self._loaded = fingerprint(self.model)
        self.width = self._try(model)
        self._adopt(mode, lora, learning_rate)
        if gradient_checkpointing and mode == "lora":
            self.model.enable_input_require_grads()

    def forward(self, inputs: Mapping[str, Tensor]) -> Encoded:
        """Vectors and tokens of what the reader collated."""
        with self._graph():
            if self._per_frame:
                n, frames = next(iter(inputs.values())).shape[:2]
                flat = {name: value.flatten(0, 1) for name, value in inputs.items()}
                each = self._encode(flat)
                vectors = each.vectors.reshape(n, frames, -1)
                there = torch.ones(n, frames, dtype=torch.bool, device=vectors.device)
                return Encoded(vectors.mean(1), Tokens(vectors, there))
            return self._encode(inputs)

    def _encode(self, inputs: Mapping[str, Tensor]) -> Encoded:
        if self._getter:
            get = getattr(self.model, self._getter)
            return _projected(get(**{name: value for name, value in inputs.items() if _takes(get, name)}), inputs)
        options = dict(inputs)
        mask = (
            options.pop("attention_mask", None)
            if self.model.main_input_name == "input_features"
            else options.get("attention_mask")
        )
        out = self.model(**options)
        hidden = out.last_hidden_state
        if hidden.ndim == 4:  # (n, d, height, width)
            hidden = hidden.flatten(2).transpose(1, 2)
        there = self._present(hidden, mask)
        tokens = Tokens(hidden, there)
        pooled = getattr(out, "pooler_output", None)
        if self.pooling == "auto" and pooled is not None and self.kind != "text" and self._own_pooling:
            pooled = pooled.flatten(1)
            return Encoded(pooled, tokens if pooled.shape[1] == hidden.shape[2] else None)
        return Encoded(pool(tokens, "mean" if self.pooling == "auto" else self.pooling), tokens)

    def _present(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """(n, t) bool: the tokens that are no padding."""
        n, t = hidden.shape[:2]
        everything = torch.ones(n, t, dtype=torch.bool, device=hidden.device)
        if mask is None:
            return everything
        if mask.shape[1] == t:
            return mask.bool()
        base = getattr(self.model, "base_model", self.model)
        for owner in (self.model, getattr(base, "model", base)):
            if hasattr(owner, "_get_feature_vector_attention_mask"):  # samples → frames of wav2vec 2.0 and its kin
                found: Tensor = owner._get_feature_vector_attention_mask(t, mask)
                return found.bool()
        step = mask.shape[1] / t  # mel frames → frames of Whisper: every second
        index = (torch.arange(t, device=hidden.device) * step).long().clamp(max=mask.shape[1] - 1)
        there = mask[:, index].bool()
        return there | (~there.any(1, keepdim=True) & everything)

    def _try(self, name: str) -> int:
        """The width of the vectors, found by encoding one blank cell; whatever does not fit fails here."""
        blank: dict[str, Callable[[], Any]] = {
            "text": lambda: "a",
            "image": lambda: np.full((64, 64, 3), 255, np.uint8),
            "audio": lambda: np.random.default_rng(0).normal(size=self.reader.rate).astype(np.float32),
            "video": lambda: np.full((self.reader.frames, 64, 64, 3), 255, np.uint8),
        }
        cell: Any = blank[self.kind]()
        if self.kind == "image":
            from PIL import Image

            cell = Image.fromarray(cell)
        training = self.training
        try:
            with torch.no_grad(), torch.random.fork_rng():
                self.model.eval()
                self.mode = "freeze"
                width = self.forward(self.reader.collate([cell])).vectors.shape[1]
        except Exception as error:
            raise InputError(
                f"`kind` {self.kind!r} is not what {name!r} ({self.model.config.model_type}) reads: {first_line(error):.160}"
            ) from error
        self.model.train(training)
        return int(width)

    def _write_files(self, model: Any, folder: Path) -> None:
        if self._whole is not None:
            whole = copy.deepcopy(self._whole[0])
            whole.encoder = model  # where `get_encoder` took it from
            model = whole
        with _without_bars():
            model.save_pretrained(folder)
        self._processor.save_pretrained(folder)


def _getter(model: Any, kind: Kind) -> str | None:
    """The method that gives a kind's vectors in the model's own shared space, if it has one."""
    names = [f"get_{kind}_features", f"get_{kind}_embeds"]
    names += ["get_text_audio_video_embeds", "get_text_audio_embeds", "get_text_video_embeds"] if kind == "text" else []
    return next((name for name in names if hasattr(model, name)), None)


def _takes(function: Callable[..., Any], name: str) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return any(one.name == name or one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters)


def _place(model: str) -> str:
    """A hub id as it is; a folder in full, so that it is found from anywhere on this machine."""
    return str(Path(model).resolve()) if Path(model).exists() else model


def _inside(folder: Path, name: str) -> Path:
    """A folder below another; a saved Aligner may not point outside of itself."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise InputError(f"{str(folder)!r} points to files outside of itself ({name!r}): it is damaged or foreign.")
    return path


def _load(model: str, kind: Kind, hub: Mapping[str, Any]) -> tuple[Any, Any, bool]:
    """The encoder, the whole model, and whether its pooler is not in the files and was made up."""
    from transformers import AutoModel

    options = {"trust_remote_code": False, "dtype": torch.float32, "output_loading_info": True}
    try:
        with _without_bars(), torch.random.fork_rng():
            torch.manual_seed(0)  # of what the files do not hold
            found, info = AutoModel.from_pretrained(model, **hub, **options)
    except Exception as error:  # files that are foreign or damaged fail in many ways
        raise InputError(
            f"`model` must be a hub id or a folder of transformers; {model!r} cannot be loaded ({first_line(error):.200})."
        ) from None
    missing = sorted(info["missing_keys"])
    others = [name for name in missing if "pooler" not in name]
    if others:
        raise InputError(f"{model!r} does not hold all weights of {type(found).__name__}: {some(others)} are missing.")
    encoder = found
    if getattr(found.config, "is_encoder_decoder", False) and not _getter(found, kind):
        encoder = found.get_encoder()
    return encoder, found, bool(missing)


def _checkpoint_activations(model: Any) -> None:
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


@contextlib.contextmanager
def _without_peft_warnings() -> Iterator[None]:
    """No warnings of peft about what it itself calls in transformers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """No progress bar of transformers for every file it reads; downloads still show theirs."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _processor(model: str, kind: Kind, hub: Mapping[str, Any]) -> Any:
    import transformers

    names = {
        "text": ["AutoTokenizer"],
        "image": ["AutoImageProcessor"],
        "audio": ["AutoFeatureExtractor"],
        "video": ["AutoVideoProcessor", "AutoImageProcessor"] if find_spec("torchvision") else ["AutoImageProcessor"],
    }[kind]
    reasons = []
    for name in names:
        try:
            return getattr(transformers, name).from_pretrained(model, **hub, trust_remote_code=False)
        except (OSError, ValueError, KeyError, ImportError, TypeError) as error:
            reasons.append(first_line(error)[:160])
    if kind == "video":
        with contextlib.suppress(OSError, ValueError):
            return _FrameProcessor(model, hub)
    raise InputError(f"`kind` {kind!r} needs a {names[0]} that {model!r} does not have ({reasons[-1]}).")


def _window(processor: Any, seconds: float | None) -> float | None:
    """Seconds of audio, no more than the processor takes: some cut at random what is longer."""
    limits = [getattr(processor, name, None) for name in ("chunk_length", "max_length_s")]
    given = [float(limit) for limit in (seconds, *limits) if isinstance(limit, int | float) and limit > 0]
    return min(given) if given else None


class _FrameProcessor:
    """What a video processor does to every frame, by its config: those of transformers need torchvision."""

    def __init__(self, model: str, hub: Mapping[str, Any]) -> None:
        from transformers import CLIPImageProcessorPil
        from transformers.utils import cached_file

        path = cached_file(model, "video_preprocessor_config.json", **hub)
        self.config = json.loads(Path(path or "").read_text(encoding="utf-8"))
        defaults = {"do_center_crop": False, "do_convert_rgb": True}
        known = {"size", "crop_size", "image_mean", "image_std", "rescale_factor", "resample"}
        known |= {"do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"}
        self.images = CLIPImageProcessorPil(**(defaults | {k: v for k, v in self.config.items() if k in known}))

    def __call__(self, videos: list[list[Any]], return_tensors: str = "pt") -> dict[str, Tensor]:
        parts = [self.images(images=frames, return_tensors=return_tensors)["pixel_values"] for frames in videos]
        return {"pixel_values_videos": torch.stack(parts)}

    def save_pretrained(self, folder: Path) -> None:
        (folder / "video_preprocessor_config.json").write_text(json.dumps(self.config, indent=2) + "\n", encoding="utf-8")


def _longest(processor: Any, config: Any) -> int | None:
    """Tokens that the model can take; None where nothing limits them."""
    text = getattr(config, "text_config", config)
    limits = [processor.model_max_length, getattr(text, "max_position_embeddings", math.inf)]
    if text.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet"):  # positions begin behind the padding's index
        limits[1] -= text.pad_token_id + 1
    least = min(limits)
    return int(least) if least < 2**20 else None


def _projected(out: Any, inputs: Mapping[str, Tensor]) -> Encoded:
    """What get_…_features gave: a tensor, or an output with the projection in its `pooler_output`."""
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


class _SentenceReader(Media):
    def __init__(self, kind: Kind, prepare: _Preprocess, length: int | None, **media: Any) -> None:
        super().__init__(kind, **media)
        self.prepare, self.length = prepare, length

    def collate(self, cells: list[Any]) -> Any:
        return dict(self.prepare(cells))

    def cut(self, cell: Any, decoded: Any, *, folder: Path | None = None) -> str | None:
        tokenizer = getattr(self.prepare.first, "tokenizer", None)
        if self.kind != "text" or tokenizer is None or not self.length:
            return super().cut(cell, decoded, folder=folder)
        count = len(tokenizer(self.prepare.prompt + decoded, truncation=False, verbose=False)["input_ids"])
        return f"{count} tokens cut to {self.length}" if count > self.length else None


class _Preprocess:
    """What a model of sentence-transformers does to its inputs before its weights come in; it can be pickled without them."""

    def __init__(self, model: Any, prompt: str) -> None:
        self.first = copy.copy(model[0])
        self.first._modules = {}
        self.first.__dict__["model"] = SimpleNamespace(config=getattr(model[0], "config", None))  # all that is asked of it here
        self.prompt = prompt

    def __call__(self, cells: list[Any]) -> Any:
        return self.first.preprocess(cells, prompt=self.prompt or None)


class SentenceTransformer(Encoder):
    """A model of sentence-transformers as a tower, with its own pooling; tokens come out where it makes them.

    Args:
        model: hub id or folder.
        kind: "text", or "image" for a model that reads images.
        mode: see `HuggingFace`.
        revision: on the hub.
        learning_rate: of this tower; 1e-4 for "lora", 1e-5 for "train".
        lora: options of `peft.LoraConfig`.
        prompt: put before every text, as in "query: ".
        max_length: tokens of a text; the model's own limit by default.
        gradient_checkpointing: recompute activations in the backward pass.
        local_files_only: ask no hub.
    """

    def __init__(
        self,
        model: str,
        kind: Literal["text", "image"] = "text",
        *,
        mode: Mode = "freeze",
        revision: str | None = None,
        learning_rate: float | None = None,
        lora: Mapping[str, Any] | None = None,
        prompt: str = "",
        max_length: int | None = None,
        gradient_checkpointing: bool = False,
        local_files_only: bool = False,
    ) -> None:
        super().__init__()
        need("sentence_transformers")
        import sentence_transformers

        check_choice("kind", kind, ("text", "image"))
        self.source = _place(model)
        self.options = {
            "kind": kind,
            "revision": revision,
            "learning_rate": learning_rate,
            "prompt": prompt,
            "max_length": max_length,
            "gradient_checkpointing": gradient_checkpointing,
        }
        try:
            with _without_bars():
                self.model = sentence_transformers.SentenceTransformer(
                    model,
                    device="cpu",
                    revision=revision,
                    local_files_only=local_files_only,
                    trust_remote_code=False,
                    model_kwargs={"dtype": torch.float32},
                )
        except Exception as error:
            raise InputError(
                f"`model` must be a hub id or a folder of sentence-transformers; {model!r} cannot be loaded "
                f"({first_line(error):.200})."
            ) from None
        if max_length is not None:
            self.model.max_seq_length = max_length
        self.reader = _SentenceReader(kind, _Preprocess(self.model, prompt), self.model.max_seq_length)
        if gradient_checkpointing:
            _checkpoint_activations(self.model)
        dimension = getattr(self.model, "get_embedding_dimension", None) or self.model.get_sentence_embedding_dimension
        self.width = int(dimension() or 0)
        self._loaded = fingerprint(self.model)
        self._adopt(mode, lora, learning_rate)

    def forward(self, inputs: Mapping[str, Any]) -> Encoded:
        """Sentence embeddings, and token embeddings of the same width."""
        with self._graph():
            out = self.model(dict(inputs))
        vectors, tokens = out["sentence_embedding"], out.get("token_embeddings")
        if not isinstance(tokens, Tensor) or tokens.ndim != 3 or tokens.shape[2] != vectors.shape[1]:
            return Encoded(vectors)
        mask = out.get("attention_mask")
        there = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device) if mask is None else mask.bool()
        return Encoded(vectors, Tokens(tokens, there))

    def _write_files(self, model: Any, folder: Path) -> None:
        model.save_pretrained(str(folder), create_model_card=False)


ENCODERS: dict[str, type[Encoder]] = {"HuggingFace": HuggingFace, "SentenceTransformer": SentenceTransformer}
"""The encoders that a saved Aligner may name."""
