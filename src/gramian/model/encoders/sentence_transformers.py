"""Models of sentence-transformers as towers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, Unpack

import torch
from torch import Tensor

from gramian.data.media import Kind, Place
from gramian.data.readers import Media
from gramian.errors import check_choice, require
from gramian.model.encoders.base import Encoder, EncoderOptions, loading, without_bars
from gramian.model.towers import Encoded
from gramian.tokens import Tokens

__all__ = ["SentenceTransformers"]


class _SentenceReader(Media):
    def __init__(self, kind: Kind, prepare: _Preprocess, length: int | None, **media: Any) -> None:
        super().__init__(kind, **media)
        self.prepare, self.length = prepare, length

    def collate(self, cells: list[Any]) -> Any:
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
        self.first = copy.copy(model[0])
        self.first._modules = {}
        self.first.__dict__["model"] = SimpleNamespace(config=getattr(model[0], "config", None))  # all that preprocessing reads
        self.prompt = prompt

    def __call__(self, cells: list[Any]) -> Any:
        return self.first.preprocess(cells, prompt=self.prompt or None)


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

    def _open(self, model: str, hub: Mapping[str, Any]) -> None:
        import sentence_transformers

        options = {"device": "cpu", "trust_remote_code": False, "model_kwargs": {"dtype": torch.float32}}
        with loading(f"`model` must be a hub id or a folder of sentence-transformers; {model!r}"), without_bars():
            self.model = sentence_transformers.SentenceTransformer(model, **hub, **options)
        if self.options["max_length"] is not None:
            self.model.max_seq_length = self.options["max_length"]
        preprocess = _Preprocess(self.model, self.options["prompt"])
        self.reader = _SentenceReader(self.options["kind"], preprocess, self.model.max_seq_length)

    def _measure(self) -> int:
        dimension = getattr(self.model, "get_embedding_dimension", None) or self.model.get_sentence_embedding_dimension
        return int(dimension() or 0)

    def forward(self, inputs: Mapping[str, Any]) -> Encoded:
        """Sentence embeddings, and token embeddings of the same width."""
        with self._graph():
            out = self.model(dict(inputs))
        vectors, tokens = out["sentence_embedding"], out.get("token_embeddings")
        if not isinstance(tokens, Tensor) or tokens.ndim != 3 or tokens.shape[2] != vectors.shape[1]:
            return Encoded(vectors)
        mask = out.get("attention_mask")
        present = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device) if mask is None else mask.bool()
        return Encoded(vectors, Tokens(tokens, present))

    def _write_files(self, model: Any, folder: Path) -> None:
        model.save_pretrained(str(folder), create_model_card=False)
