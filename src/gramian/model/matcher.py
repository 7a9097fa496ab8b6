"""`Matcher`: a cross-attention head that reads a query's tokens and an item's, and predicts whether they belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from gramian.bundle import Bundle
from gramian.errors import InputError, check_choice, check_number
from gramian.model.encoders.released import ReleasedMatcher
from gramian.model.options import converted, plain
from gramian.model.towers import Towers
from gramian.tokens import Tokens

__all__ = ["AnyMatcher", "Matcher", "build_matcher"]


class Matcher(nn.Module):
    """A transformer decoder over the query's tokens that attends to the item's; one logit per pair.

    A modality is represented by its tokens in the Bundle, or by its vector if it has none. Each is projected to `width` and
    gets the embedding of its modality. The first position of the decoder holds a learned vector that the logit is read from.

    It compares one set of modalities with another: an anchor with all others, which is what `gramian.losses.Matching` trains
    and what `gramian.evaluation.evaluate` re-ranks by. A modality that an item lacks is masked.

    Args:
        modalities: names of all modalities, two or more.
        dim: width d of the shared space.
        anchor: the modality that is alone on one side; "each": every one in turn.
        width: of the transformer.
        layers: of the decoder.
        heads: of its attention; they divide `width`.
        dropout: in the decoder.

    Raises:
        InputError: fewer than two modalities, an anchor that is none of them, sizes that do not go together.

    Source: the data-anchor matching head of GRAM, which is a BERT with cross-attention.

    >>> matcher = Matcher(("text", "image"), 8, width=16)
    >>> bundle = Bundle.from_dict({"text": torch.randn(3, 8), "image": torch.randn(3, 8)})
    >>> matcher(bundle.select("text"), bundle.select("image")).shape
    torch.Size([3])
    """

    def __init__(
        self,
        modalities: Sequence[str],
        dim: int,
        *,
        anchor: str = "each",
        width: int = 256,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if len(modalities) < 2:
            raise InputError(f"`modalities` must name at least two; got {', '.join(modalities) or 'none'}.")
        if anchor != "each" and anchor not in modalities:
            raise InputError(f"`anchor` must be one of {', '.join(modalities)} or 'each'; got {anchor!r}.")
        for name, value, most in (("layers", layers, 1000), ("heads", heads, 1000), ("width", width, 2**14)):
            check_number(name, value, f"[1, {most}]", integer=True)
        if width % heads:
            raise InputError(f"`heads` must divide `width`; got {heads} and {width}.")
        check_number("dropout", dropout, "[0, 1)")
        self.modalities: tuple[str, ...] = tuple(modalities)
        self.dim = dim
        self.anchor = anchor
        self.options: dict[str, Any] = {"anchor": anchor, "width": width, "layers": layers, "heads": heads, "dropout": dropout}
        self.project: nn.Linear = nn.Linear(dim, width)
        self.kind: nn.Embedding = nn.Embedding(len(modalities), width)
        nn.init.normal_(self.kind.weight, std=0.02)
        self.answer: nn.Parameter = nn.Parameter(0.02 * torch.randn(width))
        self.nothing: nn.Parameter = nn.Parameter(0.02 * torch.randn(width))  # something to attend to, whatever is masked
        layer = nn.TransformerDecoderLayer(width, heads, 4 * width, dropout, "gelu", batch_first=True, norm_first=True)
        self.decoder: nn.TransformerDecoder = nn.TransformerDecoder(layer, layers, nn.LayerNorm(width))
        self.logit: nn.Linear = nn.Linear(width, 1)

    @property
    def anchors(self) -> tuple[str, ...]:
        """The modalities that take the anchor's place."""
        return self.modalities if self.anchor == "each" else (self.anchor,)

    def forward(self, queries: Bundle, items: Bundle) -> Tensor:
        """Logits (n,): does row i of `queries` belong to row i of `items`?

        Raises:
            InputError: different numbers of rows, a modality that the head does not know, another width.
        """
        if len(queries) != len(items):
            raise InputError(f"`queries` and `items` must have one number of rows; got {len(queries)} and {len(items)}.")
        target, target_mask = self._read("queries", queries, self.answer)
        memory, memory_mask = self._read("items", items, self.nothing)
        states = self.decoder(target, memory, tgt_key_padding_mask=~target_mask, memory_key_padding_mask=~memory_mask)
        logits: Tensor = self.logit(states[:, 0]).squeeze(-1)
        return logits

    def _read(self, argument: str, bundle: Bundle, first: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens of one side after `first`, (n, 1 + t, width), and their mask."""
        unknown = [name for name in bundle.modalities if name not in self.modalities]
        if unknown or bundle.dim != self.dim:
            raise InputError(
                f"`{argument}` must have width {self.dim} and modalities among {', '.join(self.modalities)}; "
                f"got {bundle.dim} and {', '.join(bundle.modalities)}."
            )
        parts = []
        for name in bundle.modalities:
            tokens = bundle.tokens.get(name)
            if tokens is None:
                tokens = Tokens(bundle.column(name)[:, None], bundle.has(name)[:, None])
            # The entries of a unit vector are of the order of 1/√d; a linear map wants them of the order of 1.
            projected = self.project(tokens.values.to(self.project.weight.dtype) * self.dim**0.5)
            parts.append(Tokens(projected + self.kind.weight[self.modalities.index(name)], tokens.present))
        together = Tokens.cat(parts, dim=1)
        head = first.to(together.values.dtype).expand(len(bundle), 1, -1)
        present = together.present.new_ones(len(bundle), 1)
        return torch.cat([head, together.values], 1), torch.cat([present, together.present], 1)

    def extra_repr(self) -> str:
        """The options."""
        return f"{', '.join(self.modalities)}; " + ", ".join(f"{name}={value!r}" for name, value in self.options.items())


AnyMatcher: TypeAlias = Matcher | ReleasedMatcher
"""A matching head that an Aligner may hold: of Bundles, or of the towers' own tokens."""


def build_matcher(options: Mapping[str, Any], towers: Towers, dim: int) -> AnyMatcher:
    """The matching head of an Aligner.

    Args:
        options: of a `Matcher`; of a `ReleasedMatcher` with {"class": "ReleasedMatcher"}.
        towers: of the Aligner.
        dim: width d of its space.

    Returns:
        The head, not trained.

    Raises:
        InputError: options that the head does not take.
    """
    own = dict(options)
    kind = check_choice("matcher.class", own.pop("class", "Matcher"), ("Matcher", "ReleasedMatcher"))
    if kind == "Matcher":
        return Matcher(tuple(towers), dim, **own)
    values = converted(ReleasedMatcher, {"towers": towers, "dim": dim, **own}, "matcher", kind, plain)
    return ReleasedMatcher(**values)
