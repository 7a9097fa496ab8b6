"""`ReleasedMatcher`: the matching head of GRAM, PMRL and VAST, a BERT that attends from a text to the towers' own tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gramian.errors import InputError, check_choice, check_number
from gramian.geometry import unit
from gramian.model.encoders.released.towers import ReleasedText
from gramian.model.towers import Encoded, Towers
from gramian.tokens import Tokens

__all__ = ["ReleasedMatcher"]

ORDER: Mapping[str, str] = {"video": "vision", "audio": "audio", "subtitle": "subtitle", "depth": "vision"}
"""The modalities of a context in the released order, and whose projection each goes through."""


class ReleasedMatcher(nn.Module):
    """Logits of texts and contexts, and the fused heads of the first stage; both as released.

    A context is what the towers of an item's modalities give before any pooling, projected to the width of the BERT, with an
    embedding of the frame or slice and one of the kind. The BERT is that of the text tower and is not part of this module.

    Args:
        towers: of the Aligner: "text", a `ReleasedText`, and any of "video", "audio", "subtitle", "depth".
        dim: width d of the shared space.
        vision: width of the tokens of videos.
        audio: width of the tokens of recordings.
        frames: places that a frame has an embedding for; more frames share them.
        slices: the same of recordings.

    Attributes:
        modalities: the text and those of a context, in the released order.
        anchor: "text".
        options: what it was made with, for the config of an Aligner.

    Raises:
        InputError: towers that it cannot read.

    Source: GRAM; PMRL; VAST (arXiv 2305.18500).
    """

    anchor = "text"

    def __init__(self, towers: Towers, dim: int, *, vision: int, audio: int, frames: int = 1, slices: int = 1) -> None:
        super().__init__()
        if "text" not in towers or not isinstance(towers["text"], ReleasedText):
            raise InputError("a ReleasedMatcher needs the tower of `text` to be a ReleasedText.")
        for name in towers:
            check_choice("modalities", name, ("text", *ORDER))
        for name, value in (("vision", vision), ("audio", audio), ("frames", frames), ("slices", slices)):
            check_number(name, value, "[1, 65536]", integer=True)
        self._towers = (towers,)  # in a tuple: they belong to the Aligner
        self.modalities: tuple[str, ...] = ("text", *(name for name in ORDER if name in towers))
        self.options: dict[str, Any] = {"class": "ReleasedMatcher", "vision": vision, "audio": audio}
        self.options |= {"frames": frames, "slices": slices}
        width = towers["text"].width
        widths = {"vision": vision, "audio": audio, "subtitle": width}
        self.places: nn.ParameterDict = nn.ParameterDict(
            {"vision": torch.zeros(1, frames, width), "audio": torch.zeros(1, slices, width)}
        )
        self.kinds: nn.ParameterDict = nn.ParameterDict({name: torch.zeros(1, 1, width) for name in widths})
        self.projections: nn.ModuleDict = nn.ModuleDict(
            {name: nn.Sequential(nn.Linear(size, width), nn.LayerNorm(width, eps=1e-12)) for name, size in widths.items()}
        )
        self.fusions: nn.ModuleDict = nn.ModuleDict(
            {
                "va": nn.Linear(vision + audio, dim),
                "vs": nn.Linear(vision + width, dim),
                "vas": nn.Linear(vision + audio + width, dim),
            }
        )
        self.answers: nn.Sequential = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width, eps=1e-12), nn.Linear(width, 2)
        )

    @property
    def anchors(self) -> tuple[str, ...]:
        """The text."""
        return (self.anchor,)

    @property
    def towers(self) -> Towers:
        """Those of the Aligner."""
        return self._towers[0]

    @property
    def text(self) -> ReleasedText:
        """The tower whose BERT reads the pairs."""
        return cast(ReleasedText, self.towers[self.anchor])

    @property
    def bert(self) -> Any:
        """The BERT, shared with the text tower; with its adapter, if it has one."""
        return self.text.model

    def context(self, encodings: Mapping[str, tuple[Encoded, Tensor]], modalities: Sequence[str] | None = None) -> Tokens:
        """What the BERT attends to of each item.

        Args:
            encodings: as `aligner.towers(batch)` gives them: modality → the k present items' vectors and tokens, and the (n,)
                mask of the rows that they belong to.
            modalities: those that count, in any order; all but the text by default.

        Returns:
            (n, t, width) projected tokens in the released order; those of a modality that a row lacks are masked.

        Raises:
            InputError: a modality that is no part of a context, or none that is there.
        """
        for name in modalities or ():
            check_choice("modalities", name, self.modalities[1:])
        parts = []
        for name in self.modalities[1:]:
            if name not in encodings or name not in (modalities or self.modalities):
                continue
            encoded, mask = encodings[name]
            if encoded.tokens is None:
                raise InputError(f"`encodings` must have the tokens of {name!r}.")
            values = self._projected(name, encoded.tokens.values)
            rows = mask.to(values.device).nonzero().flatten()
            spread = values.new_zeros(len(mask), *values.shape[1:]).index_put((rows,), values)
            parts.append(Tokens(spread, mask.to(values.device)[:, None].expand(-1, values.shape[1])))
        if not parts:
            raise InputError(f"`encodings` must hold one of {', '.join(self.modalities[1:])}; got {', '.join(encodings)}.")
        return Tokens.cat(parts, dim=1)

    def _projected(self, name: str, values: Tensor) -> Tensor:
        kind = ORDER[name]
        values = self.projections[kind](values)
        if kind in self.places:
            own: Tensor = self.places[kind].to(values.dtype)
            count = values.shape[1] // cast(Any, self.towers[name]).tokens_of_part
            stretched = F.interpolate(own.transpose(1, 2), size=count, mode="nearest").transpose(1, 2)
            values = values + stretched.repeat_interleave(values.shape[1] // count, 1)
        placed: Tensor = values + self.kinds[kind].to(values.dtype)
        return placed

    def forward(self, texts: Mapping[str, Tensor], context: Tokens) -> Tensor:
        """(n,) logits: does text i belong to context i? Their sigmoid is the released score.

        Args:
            texts: "input_ids" and "attention_mask", each (n, t).
            context: of n items.

        Returns:
            (n,), the second logit of the file minus the first.
        """
        logits = self.pair_logits(texts, context)
        return logits[:, 1] - logits[:, 0]

    def pair_logits(self, texts: Mapping[str, Tensor], context: Tokens) -> Tensor:
        """(n, 2) logits of no match and of a match; arguments as of `forward`.

        Raises:
            InputError: different numbers of texts and contexts.
        """
        ids = texts["input_ids"]
        if len(ids) != len(context):
            raise InputError(f"`texts` and `context` must have one number of rows; got {len(ids)} and {len(context)}.")
        return self.answer(self.states(ids, texts["attention_mask"], context)[:, 0])

    def answer(self, states: Tensor) -> Tensor:
        """States of first tokens (…, width) → (…, 2) logits of no match and of a match."""
        logits: Tensor = self.answers(states)
        return logits

    def states(
        self, input_ids: Tensor, mask: Tensor, context: Tokens | None = None, position_ids: Tensor | None = None
    ) -> Tensor:
        """The states of the BERT's last layer.

        Args:
            input_ids: (n, t).
            mask: (n, t) which tokens are no padding, or (n, 1, t, t) which token attends to which.
            context: of n items; without one there is no cross-attention.
            position_ids: (n, t) or (1, t); counted from 0 by default.

        Returns:
            (n, t, width).
        """
        return self.text.states(input_ids, mask, context, position_ids)

    def fused(self, vectors: Mapping[str, Tensor]) -> Tensor:
        """The first stage of PMRL and VAST: one vector of several modalities, by the head that was trained on these.

        Args:
            vectors: modality → (n, width) vectors of its tower: video with audio, subtitle or both.

        Returns:
            (n, d) unit vectors, to be compared with those of texts by cosine.

        Raises:
            InputError: modalities that no head fuses.
        """
        letters = "".join(name[0] for name in ORDER if name in vectors)
        if letters not in self.fusions or len(letters) != len(vectors):
            raise InputError(f"`vectors` must be of video with audio, subtitle or both; got {', '.join(vectors)}.")
        names = [name for name in ORDER if name in vectors]
        return unit(self.fusions[letters](torch.cat([vectors[name] for name in names], 1)))

    def extra_repr(self) -> str:
        """The options."""
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items() if name != "class")
