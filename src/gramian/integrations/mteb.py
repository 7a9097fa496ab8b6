"""An Aligner as an encoder for mteb: retrieval tasks between text, images, audio and video, under any score of this library.

results = mteb.evaluate(AlignerEncoder(aligner, "span"), mteb.get_tasks(["Flickr30kT2IRetrieval"]))
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from gramian.bundle import Bundle
from gramian.data.cells import Broken, is_empty
from gramian.data.media import MEDIA
from gramian.errors import InputError, check_choice, listing, require
from gramian.model.aligner import Aligner
from gramian.scores import SCORES, ScoreName

__all__ = ["AlignerEncoder"]

logger: logging.Logger = logging.getLogger("gramian")


class AlignerEncoder:
    """What mteb calls an encoder: its EncoderProtocol, around an Aligner.

    mteb keeps one vector per item. It holds the item's modality vectors one after the other, zero where missing, followed by a
    1 or a 0 for each, present or missing; `similarity` splits them again. Embeddings must therefore reach `similarity`
    unchanged: no quantisation, no index with a similarity of its own.

    Texts, images, recordings and videos are read by the Aligner's towers, from the files where the task holds files, so that
    neither torchcodec nor torchaudio is needed. Empty cells and what cannot be read are missing; an item with nothing left
    comes last in every ranking. Prompts and instructions of tasks are not used, except what mteb writes into the text.

    Args:
        aligner: the model; it is evaluated where its weights are.
        score: how queries and items are compared, by name.
        modalities: mteb's "text", "image", "audio", "video" → the Aligner's name of it; by default those with equal names.
        name: for mteb's records, "organisation/model".
        revision: for mteb's records.

    Raises:
        InputError: mteb is not installed; an unknown score or modality; no modality in common.
    """

    def __init__(
        self,
        aligner: Aligner,
        score: ScoreName = "span",
        *,
        modalities: Mapping[str, str] | None = None,
        name: str = "gramian/aligner",
        revision: str = "local",
    ) -> None:
        require("mteb")
        check_choice("score", score, SCORES)
        for kind, own in (modalities or {}).items():
            check_choice("modalities", kind, MEDIA)
            check_choice("modalities", own, aligner.modalities)
        self.aligner = aligner
        self.score: ScoreName = score
        self.modalities: dict[str, str] = dict(modalities or {kind: kind for kind in MEDIA if kind in aligner.modalities})
        if not self.modalities:
            raise InputError(
                f"`modalities` must say which of {', '.join(aligner.modalities)} reads text, image, audio or video, as in "
                f"{{'text': {next(iter(aligner.modalities))!r}}}."
            )
        self.mteb_model_meta: Any = self._meta(name, revision)

    def encode(
        self,
        inputs: DataLoader[Any],
        *,
        task_metadata: Any = None,
        hf_split: str = "",
        hf_subset: str = "",
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> Tensor:
        """The items of a loader of mteb.

        Args:
            inputs: batches: mteb's name of a modality → n cells.
            task_metadata: not used, like those that follow.
            hf_split: which part of the task.
            hf_subset: which part of the task.
            prompt_type: whether these are queries or documents.
            kwargs: options of mteb for encoders.

        Returns:
            (n, m·d + m) on the CPU: m modality vectors of width d, and which of them are present.
        """
        del task_metadata, hf_split, hf_subset, prompt_type, kwargs
        broken: list[Broken] = []
        parts = [self._encode(batch, broken) for batch in _undecoded(inputs)]
        if broken:
            reasons = listing(f"{cell.modality}: {cell.reason}" for cell in broken)
            logger.warning("%d cells cannot be read and count as missing (%s)", len(broken), reasons)
        width = len(self.aligner.modalities) * (self.aligner.dim + 1)
        flat = torch.cat(parts) if parts else torch.zeros(0, width)
        nothing = int((flat[:, -len(self.aligner.modalities) :] == 0).all(1).sum())
        if nothing:
            logger.warning("%d of %d items have nothing that the Aligner reads, and come last", nothing, len(flat))
        return flat

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """The score of queries (q, w) with items (n, w), as `encode` makes them → (q, n).

        An item with nothing present scores below all others, but not −∞, because mteb averages scores.
        """
        return self._score(self.bundle(embeddings1), self.bundle(embeddings2))

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """The score of each row with the row beside it, (n, w) and (n, w) → (n,).

        Raises:
            InputError: different numbers of rows, or another width.
        """
        first, second = self.bundle(embeddings1), self.bundle(embeddings2)
        if len(first) != len(second):
            raise InputError(f"`embeddings2` must have as many rows as `embeddings1`; got {len(second)} and {len(first)}.")
        parts = [slice(start, start + 64) for start in range(0, max(1, len(first)), 64)]
        return torch.cat([self._score(first[part], second[part]).diagonal() for part in parts])

    def bundle(self, embeddings: Any) -> Bundle:
        """The Bundle behind embeddings (n, m·d + m), or behind one of them (m·d + m,).

        Raises:
            InputError: embeddings of another shape.
        """
        flat = torch.as_tensor(embeddings, dtype=torch.float32)
        flat = flat[None] if flat.ndim == 1 else flat
        names = tuple(self.aligner.modalities)
        m, d = len(names), self.aligner.dim
        if flat.ndim != 2 or flat.shape[1] != m * (d + 1):
            raise InputError(f"`embeddings` must have shape (n, {m * (d + 1)}), as `encode` makes; got {tuple(flat.shape)}.")
        return Bundle(flat[:, : m * d].reshape(-1, m, d), flat[:, m * d :] > 0.5, names)

    def _score(self, queries: Bundle, items: Bundle) -> Tensor:
        score = SCORES[self.score]
        return score(queries, items).clamp(min=max(score.low, -1e3) - 1)

    def _encode(self, batch: Mapping[str, Any], broken: list[Broken]) -> Tensor:
        columns = {own: list(batch[kind]) for kind, own in self.modalities.items() if kind in batch}
        if not columns:
            raise InputError(
                f"`inputs` must hold one of {', '.join(self.modalities)}; the task has {listing(batch)}. "
                "`modalities` says what the Aligner reads."
            )
        n, m = len(next(iter(columns.values()))), len(self.aligner.modalities)
        flat = torch.zeros(n, m * (self.aligner.dim + 1))
        filled = [row for row in range(n) if not all(is_empty(cells[row]) for cells in columns.values())]
        if not filled:
            return flat
        table = self.aligner.collator().table({own: [cells[row] for row in filled] for own, cells in columns.items()})
        bundle = self.aligner.embed(table, broken=broken).to("cpu").select(*self.aligner.modalities)
        flat[filled] = torch.cat([bundle.vectors.flatten(1).float(), bundle.present.float()], 1)
        return flat

    def _meta(self, name: str, revision: str) -> Any:
        from mteb.models import ModelMeta
        from mteb.models.model_meta import ScoringFunction

        return ModelMeta(
            loader=None,
            name=name,
            revision=revision,
            release_date=None,
            languages=None,
            n_parameters=sum(parameter.numel() for parameter in self.aligner.parameters()),
            memory_usage_mb=None,
            max_tokens=None,
            embed_dim=self.aligner.dim,
            license=None,
            open_weights=None,
            public_training_code=None,
            public_training_data=None,
            framework=["PyTorch"],
            similarity_fn_name=ScoringFunction.CUSTOM,
            use_instructions=False,
            training_datasets=None,
            modalities=cast(Any, list(self.modalities)),
            experiment_kwargs={"score": self.score},
        )


def _undecoded(inputs: Iterable[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
    """The batches of a loader, with the files of recordings and videos instead of the decoders of datasets."""
    data = getattr(inputs, "dataset", None)
    features = getattr(data, "features", None)
    if not isinstance(inputs, DataLoader) or data is None or not features:
        return inputs
    decoders = {medium.feature for kind, medium in MEDIA.items() if kind != "image"}  # Pillow decodes alike everywhere
    for name, feature in features.items():
        if type(feature).__name__ in decoders and feature.decode:
            data = data.cast_column(name, type(feature)(decode=False))
    return DataLoader(data, inputs.batch_size, collate_fn=inputs.collate_fn, num_workers=inputs.num_workers)
