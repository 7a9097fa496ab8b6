"""Models of sentence-transformers as towers."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, Unpack

import numpy as np
import torch
from torch import Tensor

from gramian.data.media import Kind, Place
from gramian.data.readers import Media
from gramian.errors import InputError, check_choice, check_number, listing, require
from gramian.files import inside, read_json
from gramian.model.encoders.base import (
    LARGEST_LENGTH,
    Encoder,
    EncoderOptions,
    by_length,
    check_tokenizer,
    trimmed,
    without_bars,
)
from gramian.model.encoders.families import mixes, token_limit
from gramian.model.encoders.folders import loading, no_larger_than, shapes
from gramian.model.options import convert
from gramian.model.towers import Encoded
from gramian.tokens import Tokens

__all__ = ["SentenceTransformers"]


class _SentenceReader(Media):
    def __init__(self, kind: Kind, prepare: _Preprocess, length: int | None, **media: Any) -> None:
        super().__init__(kind, **media)
        self.prepare = prepare
        self.length = length

    def collate(self, cells: list[Any]) -> Any:
        if self.kind == "image":
            from PIL import Image

            processor = getattr(getattr(self.prepare.first, "processor", None), "image_processor", None)
            pictures = [trimmed(cell, processor) for cell in cells]
            cells = [Image.fromarray(each) if isinstance(each, np.ndarray) else each for each in pictures]
        return dict(self.prepare(cells))

    def cut(self, cell: Any, decoded: Any, *, folder: Place | None = None) -> str | None:
        tokenizer = getattr(self.prepare.first, "tokenizer", None)
        if self.kind != "text" or tokenizer is None or not self.length:
            return super().cut(cell, decoded, folder=folder)
        count = len(tokenizer(self.prepare.prompt + decoded, truncation=False, verbose=False)["input_ids"])
        return f"{count} tokens cut to {self.length}" if count > self.length else None


class _Preprocess:
    """The preprocessing of a model of sentence-transformers, which can be pickled without the weights."""

    def __init__(self, model: Any, prompt: str) -> None:
        self.first: Any = copy.copy(model[0])
        self.first._modules = {}
        self.first.__dict__["model"] = SimpleNamespace(config=getattr(model[0], "config", None))  # all that preprocessing reads
        self.prompt = prompt

    def __call__(self, cells: list[Any]) -> Any:
        return self.first.preprocess(cells, prompt=self.prompt or None)


MODULES = ("CLIPModel", "Dense", "Dropout", "LayerNorm", "Normalize", "Pooling", "StaticEmbedding", "Transformer")
"""Types of modules that a model may be made of; none holds others."""

_TYPE = re.compile(r"sentence_transformers\.(?:models|(?:base|sentence_transformer)\.modules\.\w+)\.(\w+)")
_ACTIVATION = re.compile(r"torch\.nn\.modules\.(activation\.(ELU|GELU|LeakyReLU|ReLU|SELU|SiLU|Sigmoid|Tanh)|linear\.Identity)")
_OPTIONS = {"dtype", "torch_dtype", "trust_remote_code"}  # of a config, which ours override


def _check_modules(folder: Path) -> Path:
    """Refuse a model of other modules than `MODULES`, or with settings that the weights do not bear out.

    Returns:
        The folder of its transformer.
    """
    home = folder
    modules = read_json(folder / "modules.json") if (folder / "modules.json").exists() else []
    for module in modules:
        kind = _TYPE.fullmatch(module["type"])
        if kind is None or kind[1] not in MODULES:
            raise InputError(f"its modules.json names {module['type']!r:.100}; read are {', '.join(MODULES)}")
        below = inside(folder, module["path"])
        if kind[1] == "Dense":
            _check_dense(below)
        if kind[1] == "LayerNorm" and shapes(below).get("norm.weight") != (read_json(below / "config.json")["dimension"],):
            raise InputError(f"the weights in {module['path']!r:.60} are not of the dimension that its config says")
        if kind[1] in ("Transformer", "CLIPModel", "StaticEmbedding"):
            home = below
    for path in folder.rglob("sentence_*_config.json"):
        _check_transformer(path)
    return home


def _check_dense(folder: Path) -> None:
    config = read_json(folder / "config.json")
    if shapes(folder).get("linear.weight") != (config["out_features"], config["in_features"]):
        raise InputError(f"the weights in {folder.name!r:.60} are not of the sizes that its config says")
    activation = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    if not _ACTIVATION.fullmatch(activation):
        raise InputError(f"{folder.name!r:.60} names the activation {activation!r:.80}; read are those of torch.nn")


def _check_transformer(path: Path) -> None:
    config = read_json(path)
    for name in ("model_args", "model_kwargs", "tokenizer_args", "processor_kwargs", "config_args", "config_kwargs"):
        others = set(config.get(name) or {}) - _OPTIONS
        if others:
            raise InputError(f"{path.name} passes {listing(sorted(others))} on by `{name}`, which may run code or read files")
    for name in ("tokenizer_name_or_path", "processing_kwargs"):
        if config.get(name):
            raise InputError(f"{path.name} sets `{name}`, which may read files or fill the memory")
    length = convert(config.get("max_seq_length"), int | None, "max_seq_length")
    check_number("max_seq_length", length, f"[1, {LARGEST_LENGTH}]", integer=True, optional=True)
    if config.get("transformer_task", "feature-extraction") != "feature-extraction":
        raise InputError(
            f"{path.name} must set `transformer_task` to feature-extraction; got {config['transformer_task']!r:.60}"
        )
    for params in (config.get("modality_config") or {}).values():
        if not re.fullmatch(r"forward|get_\w+_(features|embeds)", params["method"]):
            raise InputError(f"{path.name} names the method {params['method']!r:.60}; it must be one that gives features")


class SentenceTransformers(Encoder):
    """A model of sentence-transformers as a tower, with its own pooling, and with tokens if it returns them.

    Args:
        model: hub id or folder.
        kind: "text", or "image" for a model that reads images.
        prompt: put before every text, as in "query: ".
        options: see `EncoderOptions`.

    Raises:
        InputError: no such model.
    """

    def __init__(
        self, model: str, kind: Literal["text", "image"] = "text", *, prompt: str = "", **options: Unpack[EncoderOptions]
    ) -> None:
        require("sentence_transformers")
        check_choice("kind", kind, ("text", "image"))
        super().__init__(model, {"kind": kind, "prompt": prompt}, options)

    def _open(self, folder: Path) -> None:
        import sentence_transformers

        options = {"device": "cpu", "local_files_only": True, "trust_remote_code": False}
        weights = {"dtype": torch.float32, "use_safetensors": True}
        with loading(f"`model` must be a hub id or a folder of sentence-transformers; {self.source!r}"), without_bars():
            home = _check_modules(folder)
            with no_larger_than(home):
                self.model: Any = sentence_transformers.SentenceTransformer(str(folder), model_kwargs=weights, **options)
        asked = self.options["max_length"]
        if asked is not None:
            self.model.max_seq_length = asked
        inner = getattr(self.model[0], "auto_model", None) or getattr(self.model[0], "model", None)
        self._config = getattr(inner, "config", None)
        tokenizer = getattr(self.model[0], "tokenizer", None)
        if callable(tokenizer) and self.options["kind"] == "text":
            check_tokenizer(tokenizer, self.source)
        if tokenizer is not None and self._config is not None:  # it counts positions of RoBERTa that are the padding's
            limit = token_limit(tokenizer, inner, asked)
            self.model.max_seq_length = min(filter(None, (self.model.max_seq_length, limit)), default=None)
        preprocess = _Preprocess(self.model, self.options["prompt"])
        self.reader: _SentenceReader = _SentenceReader(self.options["kind"], preprocess, self.model.max_seq_length)

    def _measure(self) -> int:
        dimension = getattr(self.model, "get_embedding_dimension", None) or self.model.get_sentence_embedding_dimension
        return int(dimension() or 0)

    def forward(self, inputs: Mapping[str, Any]) -> Encoded:
        """Sentence embeddings, and token embeddings of the same width."""
        mask = inputs.get("attention_mask")
        if mask is not None and mixes(self._config) and not bool(mask.all()):
            return by_length(self.forward, inputs, mask)
        with self._graph():
            out = self.model(dict(inputs))
        vectors, tokens = out["sentence_embedding"], out.get("token_embeddings")
        if not isinstance(tokens, Tensor) or tokens.ndim != 3 or tokens.shape[2] != vectors.shape[1]:
            return Encoded(vectors)
        mask = out.get("attention_mask")
        present = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device) if mask is None else mask.bool()
        return Encoded(vectors, Tokens(tokens, present))

    def _write_files(self, model: Any, folder: Path) -> None:
        with without_bars():
            model.save_pretrained(str(folder), create_model_card=False)
