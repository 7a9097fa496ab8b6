"""LoRA adapters of peft: their options, which may come from anywhere, and their files."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from gramian.errors import InputError, check_choice, listing, require
from gramian.files import read_json
from gramian.model.encoders.folders import admit, loading, no_larger_than, offline, refused
from gramian.model.options import convert
from gramian.model.towers import seeded

__all__ = ["adapted", "lora_options", "restored"]

LORA: Mapping[str, Any] = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear"}

LORA_OPTIONS: Mapping[str, Any] = {
    "r": int,
    "lora_alpha": int | float,
    "lora_dropout": float,
    "target_modules": Literal["all-linear"] | list[str],
    "exclude_modules": list[str] | None,
    "modules_to_save": list[str] | None,
    "layers_to_transform": list[int] | int | None,
    "bias": Literal["none", "all", "lora_only"],
    "use_rslora": bool,
    "use_dora": bool,
    "init_lora_weights": bool,
}
"""The options of `peft.LoraConfig` that may be set, and their types: others name code, files, or patterns without end."""

LARGEST_RANK = 2**10

_ABOUT = ("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision", "task_type")
"""Entries of an adapter's config that say what it was made of, and load nothing where the model is at hand."""


def lora_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Options of an adapter from anywhere, checked.

    Raises:
        InputError: an option that is not of `LORA_OPTIONS`, or of another type; modules that are no plain names.
    """
    options = {}
    for name, value in values.items():
        check_choice("lora", name, LORA_OPTIONS)
        options[name] = convert(value, LORA_OPTIONS[name], f"lora.{name}")
    names = [name for value in options.values() if isinstance(value, list) for name in value if isinstance(name, str)]
    wrong = [name for name in names if not re.fullmatch(r"[\w.-]+", name)]
    if wrong:
        raise InputError(f"`lora` must name modules as they are, without patterns; got {wrong[0]!r:.60}.")
    if not 1 <= options.get("r", 1) <= LARGEST_RANK:
        raise InputError(f"`lora.r` must lie in [1, {LARGEST_RANK}]; got {options['r']}.")
    return options


def adapted(model: Any, options: Mapping[str, Any], source: str) -> Any:
    """The model with a new adapter, which starts with the same weights in every run.

    Args:
        model: of transformers.
        options: of the adapter; those of `LORA` where they are left out.
        source: the model's name, for errors.

    Returns:
        peft's model.

    Raises:
        InputError: an option that may not be set; what peft refuses.
    """
    require("peft")
    import peft

    options = dict(LORA) | lora_options(options)
    with _without_warnings(), seeded(0), refused(f"`lora` cannot be applied to {source!r}"):
        return peft.get_peft_model(model, peft.LoraConfig(**options))


def restored(model: Any, folder: Path) -> Any:
    """The model with a trained adapter. Of its config only `LORA_OPTIONS` count, and nothing else may be set.

    Args:
        model: of transformers.
        folder: of the adapter.

    Returns:
        peft's model, which can be trained further.

    Raises:
        InputError: a folder that is not admitted, or holds no plain LoRA for this model.
    """
    require("peft")
    import peft

    with loading(f"the adapter in {str(folder)!r}"), _without_warnings(), offline():
        admit(folder, adapter=True)
        config = read_json(folder / "adapter_config.json")
        usual = peft.LoraConfig().to_dict() | dict.fromkeys(_ABOUT)
        others = [name for name, value in config.items() if name not in (*LORA_OPTIONS, *_ABOUT) and value != usual.get(name)]
        if config.get("peft_type") != "LORA" or others:
            raise InputError(f"it is no plain LoRA: its config sets {listing(others) or 'another type'}")
        options = lora_options({name: value for name, value in config.items() if name in LORA_OPTIONS})
        with no_larger_than(folder):
            return peft.PeftModel.from_pretrained(model, str(folder), config=peft.LoraConfig(**options), is_trainable=True)


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence peft's warnings about its own calls of transformers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
