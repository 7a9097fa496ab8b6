"""`Encoder`: what pretrained encoders share: frozen, with an adapter or trained; written to a folder and restored."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import inspect
import string
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, TypedDict

import numpy as np
import torch
from torch import Tensor, nn

from gramian.data.readers import Media
from gramian.errors import InputError, check_choice, check_number, check_type, listing
from gramian.files import inside
from gramian.model.encoders.adapters import adapted, restored
from gramian.model.encoders.folders import FETCHED, fetch, folder_of, is_hub_id, offline, refused
from gramian.model.options import convert, converted, plain
from gramian.model.towers import Encoded, Tower
from gramian.tokens import Tokens

__all__ = ["Encoder", "EncoderOptions", "Mode", "Writing", "fingerprint"]


Mode: TypeAlias = Literal["freeze", "lora", "train"]


Writing: TypeAlias = Literal["auto", "reference", "value"]


MODES: tuple[Mode, ...] = ("freeze", "lora", "train")


RATES: Mapping[str, float] = {"lora": 1e-4, "train": 1e-5}
"""Default learning rates of a tower: low, because the weights are pretrained."""


def fingerprint(module: nn.Module, *, spread: bool = True) -> str:
    """A hash of the names and shapes of a module's weights, and of 64 values of each.

    Args:
        module: the module.
        spread: take the values from all over a weight; otherwise its first, which reads less of a file that is mapped.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} ".encode())
        flat = value.detach().flatten()
        digest.update(flat[:: max(1, flat.numel() // 64) if spread else 1][:64].double().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


class EncoderOptions(TypedDict, total=False):
    """Options of every encoder.

    Attributes:
        mode: "freeze", the default, computes no gradient and stays in evaluation mode; "lora" trains an adapter (peft) beside
            the frozen weights; "train" trains everything.
        revision: on the hub.
        learning_rate: of this tower; 1e-4 for "lora", 1e-5 for "train".
        lora: options of `peft.LoraConfig`, of those in `LORA_OPTIONS`; rank 16 on all linear layers by default.
        max_length: tokens of a text; the model's own limit by default.
        gradient_checkpointing: recompute activations in the backward pass.
        local_files_only: never contact the hub.
    """

    mode: Mode
    revision: str | None
    learning_rate: float | None
    lora: Mapping[str, Any] | None
    max_length: int | None
    gradient_checkpointing: bool
    local_files_only: bool


_DEFAULTS: EncoderOptions = {
    "mode": "freeze",
    "revision": None,
    "learning_rate": None,
    "lora": None,
    "max_length": None,
    "gradient_checkpointing": False,
    "local_files_only": False,
}


LARGEST_LENGTH = 2**17  # tokens

_WRITTEN = ("revision", "learning_rate", "max_length", "gradient_checkpointing")  # into the description


class Encoder(Tower):
    """A pretrained encoder that knows where it came from, and can be written and restored.

    Args:
        model: hub id or folder.
        own: the options of the class itself.
        options: those of every encoder.

    Attributes:
        source: hub id, or a folder in full.
        options: what it was made with, for its description.
        mode: "freeze", "lora" or "train".

    Raises:
        InputError: an unknown option, or options that do not go together; a model that cannot be loaded.
    """

    mode: Mode = "freeze"
    model: Any
    reader: Media
    lora_modules: tuple[str, ...] = ()
    """The linear layers of a model that is not of transformers, for an adapter of all of them."""

    _copied = False  # whether the weights came from a saved Aligner, and may differ from the source's
    _by_value = False  # whether the source holds more than this encoder, so that an Aligner always holds a copy

    def __init__(self, model: str, own: Mapping[str, Any], options: EncoderOptions) -> None:
        super().__init__()
        for name in options:
            check_choice("option", name, [*own, *_DEFAULTS])
        chosen: dict[str, Any] = {**_DEFAULTS, **options}
        mode, lora, rate, length = (chosen[name] for name in ("mode", "lora", "learning_rate", "max_length"))
        check_choice("mode", mode, MODES)
        if lora is not None and mode != "lora":
            raise InputError(f"`lora` are the options of an adapter and go with mode='lora'; got mode={mode!r}.")
        if check_number("learning_rate", rate, "(0, 10]", optional=True) is not None and mode == "freeze":
            raise InputError(f"`learning_rate` goes with mode 'lora' or 'train'; got {rate} and {mode!r}.")
        reason = "for a text has a beginning and an end"
        check_number("max_length", length, f"[2, {LARGEST_LENGTH}]", integer=True, optional=True, why=reason)
        self.source: str
        self.source, folder = self._find(model, chosen["revision"], chosen["local_files_only"])
        self.options: dict[str, Any] = {**own, **{name: chosen[name] for name in _WRITTEN}}
        with offline():
            self._open(folder)
        if chosen["gradient_checkpointing"]:
            with refused(f"`gradient_checkpointing` cannot be used with {self.source!r}"):
                enable = (
                    getattr(self.model, "activation_checkpointing_enable", None) or self.model.gradient_checkpointing_enable
                )
                enable({"use_reentrant": False})
        self._loaded = self._fingerprint(self.model)  # before any training
        self.width: int = self._measure()
        self.mode: Mode = mode
        self.learning_rate: float | None = rate or RATES.get(mode)
        if mode == "freeze":
            self.model.requires_grad_(False)
        if mode == "lora":
            everything = {"target_modules": list(self.lora_modules)} if self.lora_modules else {}
            self.model = adapted(self.model, everything | dict(lora or {}), self.source)
            if chosen["gradient_checkpointing"]:
                with refused(f"`gradient_checkpointing` cannot be used with an adapter of {self.source!r}"):
                    self.model.enable_input_require_grads()
        self.train(self.training)

    def _find(self, model: Any, revision: str | None, local_files_only: bool) -> tuple[str, Any]:
        """What to call the source, valid in any working directory, and the checked folder of its files."""
        check_type("model", model, str, Path)
        folder = folder_of(model, revision, local_files_only)
        return str(folder) if Path(model).is_dir() else model, folder

    @abstractmethod
    def _open(self, folder: Any) -> None:
        """Set `model` and `reader` from the files of a checked folder, by the `options`."""

    def _fingerprint(self, model: nn.Module) -> str:
        return fingerprint(model)

    @abstractmethod
    def _measure(self) -> int:
        """The width of the vectors."""

    @property
    def summary(self) -> str:
        """One line for a model card."""
        how = {"freeze": "frozen", "lora": "with a LoRA adapter", "train": "fine-tuned"}[self.mode]
        revision = f" at {self.options['revision']}" if self.options["revision"] else ""
        return f"{type(self).__name__}: {self.source}{revision}, {self.reader.kind}, {how}"

    def train(self, mode: bool = True) -> Encoder:
        """As for any module; a frozen encoder stays in evaluation mode."""
        super().train(mode and self.mode != "freeze")
        return self

    def write(self, folder: Path, below: str, how: Writing) -> dict[str, Any]:
        """Write what is needed to make the encoder again.

        Args:
            folder: of the Aligner.
            below: where this encoder's files go, relative to `folder`.
            how: see `Aligner.save_pretrained`.

        Returns:
            The description that `restore` reads: class, width, source, mode, options and fingerprint, and where the files or
            the adapter are.

        Raises:
            InputError: trained weights, or those of a folder, by "reference".
        """
        options = dict(self.options)
        described: dict[str, Any] = {
            "class": type(self).__name__,
            "width": self.width,
            "source": self.source,
            "mode": self.mode,
        }
        learned = self.mode == "train" or self._copied
        here = self._by_value or Path(self.source).is_dir()  # a path of this machine, which an Aligner's folder may not name
        if how == "reference" and (learned or here):
            kind = "a checkpoint of several towers" if self._by_value else "a folder"
            loss = "would lose what a trained tower has learned" if learned else f"cannot name {kind}, as {self.source!r} is"
            raise InputError(f"`towers` 'reference' {loss}. Use 'auto' or 'value'.")
        by_value = how == "value" or learned or here
        model, files = self.model, below
        described["fingerprint"] = self._loaded
        if self.mode == "lora" and how != "value":
            described["adapter"], files = below, f"{below}-base"
            model.save_pretrained(folder / below)
            model = copy.deepcopy(model).unload() if by_value else model
        elif self.mode == "lora":
            model = copy.deepcopy(model).merge_and_unload()
            described["mode"] = "freeze"  # the adapter is part of the weights now
            options["learning_rate"] = None
        if by_value:
            self._write_files(model, folder / files)
            described |= {"files": files, "fingerprint": self._fingerprint(model)}
        return described | {"options": options}

    @classmethod
    def restore(cls, described: Mapping[str, Any], folder: Path) -> Encoder:
        """Make the encoder that `write` described.

        Raises:
            InputError: weights by reference that cannot be loaded, or that have changed since.
        """
        options = dict(described["options"])
        known = {*inspect.signature(cls).parameters, *_WRITTEN} - {"model", "options"}
        unknown = options.keys() - known
        if unknown:
            raise InputError(f"{str(folder)!r} names options that {cls.__name__} does not take: {listing(sorted(unknown))}.")
        where = str(described["source"])
        if "files" in described:
            where, options["revision"] = str(inside(folder, str(described["files"]))), None
        elif cls._by_value or not is_hub_id(where):
            raise InputError(
                f"{str(folder)!r} names an encoder outside of itself, {where!r:.100}, which is not read. Give it yourself: "
                "`from_pretrained(…, towers={…})`; `save_pretrained` writes it into the folder."
            )
        elif Path(where).exists():  # of that name in the working folder, which is not what was meant
            where = str(fetch(where, "an encoder must be on the hub", FETCHED, revision=options["revision"]))
        mode, rate = described["mode"], convert(options.pop("learning_rate", None), float | None, "learning_rate")
        values = {"model": where} | options | {"mode": "freeze" if mode == "lora" else mode}
        values |= {"learning_rate": rate if mode == "train" else None}
        encoder: Encoder = cls(**converted(cls, values, "options", cls.__name__, plain))
        if encoder._loaded != described["fingerprint"]:
            raise InputError(
                f"the weights of {where!r} are not those that the Aligner was made with. Give the `revision` it was made with."
            )
        if "adapter" in described:
            encoder.model = restored(encoder.model, inside(folder, str(described["adapter"])))
            encoder.mode, encoder.learning_rate = "lora", rate or RATES["lora"]
            encoder.options["learning_rate"] = rate
        if encoder.width != described["width"]:
            raise InputError(
                f"{where!r} gives vectors of width {encoder.width}; the Aligner was made for {described['width']}."
            )
        encoder.source, encoder._copied = described["source"], "files" in described
        return encoder

    def twin(self, **options: Any) -> Self:
        """Another tower with the same weights, in one module, which reads its cells otherwise.

        Args:
            options: of the class itself, as in `subtitle=True`, or `max_length`.

        Returns:
            The tower. An Aligner that holds both saves their weights once.

        Raises:
            InputError: an option that is no option of the reading.
        """
        for name in options:
            check_choice("option", name, sorted(self.reading()))
        other = copy.copy(self)
        other._modules = dict(self._modules)
        other.options = self.options | converted(type(self), {"model": "", **options}, "", type(self).__name__, plain)
        other.options.pop("model")
        with offline():
            other._read()
        return other

    def reading(self) -> dict[str, Any]:
        """The options by which a twin may differ."""
        names = ({*inspect.signature(type(self)).parameters} - {"kind"}) | {"max_length"}
        return {name: value for name, value in self.options.items() if name in names}

    def _read(self) -> None:
        """Set the reader by the options, of a model that is loaded."""
        raise InputError(f"a {type(self).__name__} has no twins.")

    @abstractmethod
    def _write_files(self, model: Any, folder: Path) -> None:
        """Weights, config and processor, as the encoder's own library writes them."""

    def _graph(self) -> Any:
        return torch.no_grad() if self.mode == "freeze" else contextlib.nullcontext()


def check_tokenizer(tokenizer: Any, model: str) -> None:
    """Refuse a tokenizer to which every text is the same: transformers makes one where its files are missing.

    Raises:
        InputError: it tells no letters or digits apart.
    """
    ids = {tuple(tokenizer(text, verbose=False)["input_ids"]) for text in string.ascii_letters + string.digits}
    if len(ids) < 2:
        raise InputError(
            f"`model` {model!r} has no words: every text is the same to its tokenizer, whose files are missing or empty. "
            "Write them beside the weights: tokenizer.save_pretrained(folder)."
        )


MAX_ASPECT = 32
"""The longer side of an image over its shorter one: CLIP's processor would resize 1 × 4000 pixels to 224 × 896,000."""


def trimmed(image: Any, processor: Any) -> Any:
    """The middle of an image of extreme shape, where its shorter side is resized and the longer follows without bound."""
    size = dict(getattr(processor, "size", None) or {})
    if not size.get("shortest_edge") or size.get("longest_edge"):
        return image
    array = np.asarray(image)
    short, long = sorted(array.shape[:2])
    kept = MAX_ASPECT * short + (long - MAX_ASPECT * short) % 2  # as many on either side
    if long <= kept:
        return image
    start = (long - kept) // 2
    return array[start : start + kept] if array.shape[0] == long else array[:, start : start + kept]


def by_length(encode: Callable[[Mapping[str, Any]], Encoded], inputs: Mapping[str, Any], mask: Tensor) -> Encoded:
    """Encode the items of one length together, for a model whose vectors padding would change.

    Args:
        encode: inputs → their encodings.
        inputs: of n items, padded.
        mask: (n, t) which of the entries of a sequence are not padding.

    Returns:
        The encodings of the n items, in order.
    """
    lengths = mask.sum(1)
    groups = [(lengths == length).nonzero().flatten() for length in sorted(set(lengths.tolist()))]
    parts = []
    for rows in groups:
        kept = mask[rows[0]].bool()
        own = {name: value[rows] if isinstance(value, Tensor) else value for name, value in inputs.items()}
        sequences = [name for name, value in own.items() if isinstance(value, Tensor) and value.shape[1:2] == kept.shape]
        parts.append(encode(own | {name: own[name][:, kept] for name in sequences}))
    back = torch.cat(groups).argsort()
    tokens = [part.tokens for part in parts if part.tokens is not None]
    return Encoded(torch.cat([part.vectors for part in parts])[back], Tokens.cat(tokens)[back] if tokens else None)


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Hide transformers' progress bars for the files it reads; downloads still show theirs."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
