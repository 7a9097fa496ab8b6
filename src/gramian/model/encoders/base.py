"""`Encoder`: what pretrained encoders share: frozen, with an adapter or trained; written to a folder and restored."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import inspect
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from gramian.data.readers import Media
from gramian.errors import InputError, check_choice, listing, require
from gramian.model.towers import Tower, seeded

__all__ = ["Encoder", "Mode", "Writing", "fingerprint"]


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
        require("peft")
        import peft

        with without_peft_warnings(), seeded(0):  # the adapter's first weights are the same in every run
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
        unknown = options.keys() - inspect.signature(cls).parameters.keys()
        if unknown:
            raise InputError(f"{str(folder)!r} names options that {cls.__name__} does not take: {listing(sorted(unknown))}.")
        where = str(inside(folder, described["files"])) if "files" in described else described["source"]
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
            require("peft")
            import peft

            adapter = str(inside(folder, described["adapter"]))
            with without_peft_warnings():
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


def resolved(model: str) -> str:
    """A hub id as it is; a folder in full, so that it is found from anywhere on this machine."""
    return str(Path(model).resolve()) if Path(model).exists() else model


def inside(folder: Path, name: str) -> Path:
    """A folder below another; a saved Aligner may not point outside of itself."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise InputError(f"{str(folder)!r} points to files outside of itself ({name!r}): it is damaged or foreign.")
    return path


def checkpoint_activations(model: Any) -> None:
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


@contextlib.contextmanager
def without_peft_warnings() -> Iterator[None]:
    """No warnings of peft about what it itself calls in transformers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """No progress bar of transformers for every file it reads; downloads still show theirs."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
