"""Models of sentence-transformers as towers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor

from gramian.data.media import Kind
from gramian.data.readers import Media
from gramian.errors import InputError, check_choice, first_line, require
from gramian.model.encoders.base import (
    Encoder,
    Mode,
    checkpoint_activations,
    fingerprint,
    resolved,
    without_bars,
)
from gramian.model.towers import Encoded
from gramian.tokens import Tokens

__all__ = ["SentenceTransformers"]


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


class SentenceTransformers(Encoder):
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
        require("sentence_transformers")
        import sentence_transformers

        check_choice("kind", kind, ("text", "image"))
        self.source = resolved(model)
        self.options = {
            "kind": kind,
            "revision": revision,
            "learning_rate": learning_rate,
            "prompt": prompt,
            "max_length": max_length,
            "gradient_checkpointing": gradient_checkpointing,
        }
        try:
            with without_bars():
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
            checkpoint_activations(self.model)
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
