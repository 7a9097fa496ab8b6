"""Folders of encoders, from the hub or from anybody: fetched if need be, and checked before any other library reads them.

This is the one place that decides what such a folder may hold: safetensors, tokenizers and JSON, whose values name no code and
no file outside, and describe no more than the weights can fill. What passes is read without a connection.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.modules import module as hooks

from gramian.errors import InputError, first_line, is_exhausted, listing
from gramian.files import inside, read_json

__all__ = ["admit", "fetch", "folder_of", "is_hub_id", "loading", "no_larger_than", "offline", "refused", "shapes"]

FETCHED = ("*.json", "*model.safetensors", "*model-*-of-*.safetensors", "*.txt", "*.model", "*.jinja")
"""Files of an encoder on the hub that are fetched; code and pickles are not."""

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill")

CODE = (
    *("auto_map", "backbone", "custom_pipelines", "kernel_config", "quantization_config", "trust_remote_code"),
    *("use_kernels", "use_pretrained_backbone", "use_timm_backbone"),
)
"""Settings by which a config names code, or weights of another place."""

KERNELS = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal", "experts_implementation")
OWN_KERNELS = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
"""Implementations of attention that are in the installed packages; others are fetched."""

ELSEWHERE = re.compile(r"(hf[-_]hub|local-dir|file|https?):", re.IGNORECASE)
"""Beginnings of a model's name that timm fetches."""

CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")

LIMITS: tuple[tuple[str, int], ...] = (
    (r".*(layer|depth|block|stage|expert).*", 2**12),
    (r"((crop|pad|image|patch)_)?size|height|width|.*edge|(num_)?frames|feature_size|num_mel_bins", 2**12),
    (r"chunk_length|max_length_s", 300),
    (r"n_fft|fft_window_size|hop_length|max_length|.*num_patches", 2**16),
    (r"sampling_rate|nb_max_frames", 2**18),
    (r".*samples", 2**26),
    (r"model_max_length", 2**200),  # a name for infinity
    (r".*", 2**31),
)
"""Names of numbers, and the largest that is read: larger ones fill the memory before anything can be compared."""

NAMES = ("id2label", "label2id", "_name_or_path", "name_or_path", "base_model_name_or_path")  # load nothing
VOCABULARIES = ("tokenizer.json", "vocab.json", "added_tokens.json")  # data of the tokenizer, and large


def folder_of(model: str, revision: str | None, local_files_only: bool) -> Path:
    """The checked folder of an encoder.

    Args:
        model: a folder, or else a hub id.
        revision: on the hub.
        local_files_only: use the cache alone.

    Returns:
        Its path in full.

    Raises:
        InputError: neither; or a folder that is not admitted.
    """
    if Path(model).is_dir():
        folder = Path(model).resolve()
    else:
        options = {"revision": revision, "local_files_only": local_files_only}
        folder = fetch(model, "`model` must be a folder, or a hub id", FETCHED, **options)
    admit(folder)
    return folder


def is_hub_id(name: str) -> bool:
    """Whether a name may be one on the hub, and not a path.

    >>> is_hub_id("google/siglip2"), is_hub_id("../siglip2"), is_hub_id("/models/siglip2")
    (True, False, False)
    """
    return re.fullmatch(r"(\w[\w.-]*/)?\w[\w.-]*", name, re.ASCII) is not None and ".." not in name and "--" not in name


def fetch(model: str, expected: str, patterns: tuple[str, ...], **options: Any) -> Path:
    """The folder in the cache that holds the files of a model on the hub.

    Args:
        model: a hub id.
        expected: how the error begins.
        patterns: of the files.
        options: of `huggingface_hub.snapshot_download`.

    Returns:
        Its path in full.

    Raises:
        InputError: a name that is no hub id, an unknown one, or a hub that cannot be reached.
    """
    if not is_hub_id(model):
        raise InputError(f"{expected}; {model!r} is neither: no such folder.")
    try:
        return Path(snapshot_download(model, allow_patterns=list(patterns), **options)).resolve()
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise InputError(f"{expected}; {model!r} is no folder here and cannot be fetched ({first_line(error):.200}).") from None


def admit(folder: Path, adapter: bool = False) -> None:
    """Check every file of an encoder's folder; of what a config says only what is known to be harmless passes.

    Args:
        folder: in full.
        adapter: whether it is one of peft.

    Raises:
        InputError: pickles without safetensors beside them, links that lead out, code that is named, paths that lead out,
            numbers that fill the memory, JSON that is none.
    """
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(parent, name)
            if path.is_symlink() and (path.is_dir() or not inside(folder, str(path.relative_to(folder))).is_file()):
                raise _refused(folder, f"{name} is a link to a folder, or to nothing")
        pickles = [name for name in names if name.lower().endswith(PICKLES)]
        if pickles and not any(name.endswith(".safetensors") for name in names):
            raise _refused(
                folder, f"its weights are pickles ({listing(sorted(pickles))}), which can run code; safetensors are read"
            )
        if "adapter_config.json" in names and not adapter:
            raise _refused(folder, "it is an adapter of another model; merge the two and save them")
        for name in names:
            if name.endswith(".json") and name not in VOCABULARIES:
                _admit_json(folder, Path(parent, name))
    if not any(folder.rglob("*.safetensors")):
        raise _refused(
            folder, "it holds no safetensors. Give the `revision` of a converted copy, such as refs/pr/1, or convert it"
        )


def _admit_json(folder: Path, path: Path) -> None:
    content = read_json(path, finite=False)
    if path.name.endswith(".index.json"):
        files = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(files, dict) or not all(isinstance(file, str) and Path(file).name == file for file in files.values()):
            raise _refused(folder, f"{path.name} names other files than those beside it")
        return
    stack = [("", content)]
    while stack:
        name, value = stack.pop()
        if name in NAMES:
            continue
        if name in CODE and value:
            raise _refused(folder, f"{path.name} sets `{name}`, which may run code or fetch files")
        if name in KERNELS and not isinstance(value, dict) and value not in (None, *OWN_KERNELS):
            raise _refused(folder, f"{path.name} sets `{name}` to {value!r:.40}, which may run code")
        if CONTROL.search(name) or (isinstance(value, str) and CONTROL.search(value)):
            raise _refused(folder, f"`{name:.40}` in {path.name} holds control characters, which a terminal would obey")
        if isinstance(value, dict):
            stack += [(name if name in KERNELS else inner, each) for inner, each in value.items()]
        elif isinstance(value, list):
            stack += [(name, each) for each in value]
        elif isinstance(value, str) and (ELSEWHERE.match(value) or _leads_out(folder, value)):
            raise _refused(folder, f"`{name}` in {path.name} is {value!r:.80}, which is outside of the folder")
        elif isinstance(value, int):
            limit = next(limit for pattern, limit in LIMITS if re.fullmatch(pattern, name))
            if abs(value) > limit:
                raise _refused(folder, f"`{name}` in {path.name} is {value!r:.20}; at most {limit:,} are read")


def _leads_out(folder: Path, text: str) -> bool:
    """Whether a text of a config is the path of something that is there, and not in the folder."""
    if len(text) > 4096 or "/" not in text.replace(os.sep, "/") or not re.search(r"\w", text):
        return False
    for start in (folder, Path()):
        path = start / os.path.expanduser(text)
        try:
            if os.path.lexists(path) and not path.resolve().is_relative_to(folder):
                return True
        except (OSError, RuntimeError, ValueError):  # a circle of links, a null character
            continue
    return False


def _refused(folder: Path, reason: str) -> InputError:
    return InputError(f"the encoder in {str(folder)!r} is not read: {reason}. See docs/security.md.")


def shapes(folder: Path) -> Mapping[str, tuple[int, ...]]:
    """Name → shape of every tensor in the safetensors of a folder, by their headers.

    Raises:
        InputError: a file that is damaged.
    """
    sizes: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                sizes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except (SafetensorError, OSError) as error:
            raise _refused(folder, f"{path.name} is damaged: {first_line(error):.100}") from None
    if CONTROL.search("".join(sizes)):
        raise _refused(folder, "names of its weights hold control characters, which a terminal would obey")
    return sizes


@contextlib.contextmanager
def no_larger_than(folder: Path) -> Iterator[None]:
    """Stop a model that is built, still without memory, once its config describes far more than the folder's weights.

    Raises:
        InputError: parameters and buffers of more than four times the weights' elements, or modules without end.
    """
    weights = shapes(folder)
    elements = 4 * sum(map(math.prod, weights.values())) + 2**26  # of encoder–decoders the encoder may be all that is there
    modules = 16 * len(weights) + 2**10

    def count(_module: Any, name: str, value: Tensor | None) -> None:
        nonlocal elements
        if value is not None and value.device.type == "meta":
            elements -= value.numel()
            if elements < 0:
                raise _refused(
                    folder, f"its config describes more than its weights hold, as with `{name}` of {tuple(value.shape)}"
                )

    def count_module(_module: Any, name: str, _child: Any) -> None:
        nonlocal modules
        modules -= 1
        if modules < 0:
            raise _refused(folder, f"its config describes more modules than its weights fill, as with `{name}`")

    handles = [
        hooks.register_module_parameter_registration_hook(count),
        hooks.register_module_buffer_registration_hook(count),
        hooks.register_module_module_registration_hook(count_module),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Let huggingface_hub connect to nothing: everything that may be read lies in a folder."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextlib.contextmanager
def refused(what: str) -> Iterator[None]:
    """Report any error in one line: other libraries refuse models, options and files in many ways.

    Raises:
        InputError: what cannot be done, and why. Errors of memory pass.
    """
    try:
        yield
    except Exception as error:
        if is_exhausted(error):
            raise
        reason = first_line(error)[: 500 if isinstance(error, InputError) else 200].rstrip(".") or type(error).__name__
        raise InputError(f"{what} ({reason}).") from None


def loading(what: str) -> contextlib.AbstractContextManager[None]:
    """`refused` for `what` is loaded from files, which may be foreign or damaged."""
    return refused(f"{what} cannot be loaded")
