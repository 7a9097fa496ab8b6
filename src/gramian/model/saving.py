"""An Aligner as a folder: config, weights, the files of its encoders and a card; to and from the disk and the hub."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from huggingface_hub import HfApi
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gramian.bundle import Bundle
from gramian.canonical.features import Kernel
from gramian.errors import InputError, check_choice, check_number, first_line, listing
from gramian.files import atomic_folder, inside, read_json
from gramian.model.card import Described, bare_card
from gramian.model.encoders import ENCODERS, Encoder, Writing
from gramian.model.encoders.folders import FETCHED, fetch
from gramian.model.heads import Modality, Part
from gramian.model.matcher import AnyMatcher
from gramian.model.options import convert
from gramian.model.towers import Features, Tower

__all__ = ["Saved", "download", "load_weights", "push", "read", "write"]

CONFIG, WEIGHTS, CARD, BANK = "config.json", "model.safetensors", "README.md", "bank.safetensors"
FORMAT, VERSION = "gramian.aligner", 3
DESCRIBED = ("width", "source", "mode", "fingerprint", "options")  # of an encoder, whatever its class


class Savable(Described, Protocol):
    """The parts of an Aligner that are written."""

    matcher: AnyMatcher | None
    tokens: tuple[str, ...]
    card: str | None
    bank: Bundle | None
    query_weights: dict[str, dict[str, float]]

    def state_dict(self) -> dict[str, Any]:
        """Names and weights."""

    def load_state_dict(self, weights: Mapping[str, Any], strict: bool, assign: bool) -> Any:
        """Load weights."""


@dataclass(frozen=True)
class Saved:
    """What a saved Aligner is made from; `load_weights` comes after it.

    Attributes:
        modalities: name → width, head and tower.
        dim: of the shared space.
        matcher: options of the matching head, or None.
        tokens: modalities whose tokens are projected.
        card: the model card, or None.
        bank: training items in the shared space, or None.
        query_weights: modality asked for → modality → its weight.
    """

    modalities: dict[str, Modality]
    dim: int
    matcher: dict[str, Any] | None
    tokens: tuple[str, ...]
    card: str | None
    bank: Bundle | None
    query_weights: dict[str, dict[str, float]]


def write(aligner: Savable, folder: Path, how: Writing) -> None:
    """Write an Aligner, whole or not at all. Other files in the folder stay.

    Args:
        aligner: the model.
        folder: created if needed; an Aligner in it is replaced.
        how: see `Aligner.save_pretrained`.

    Raises:
        InputError: trained towers by "reference"; a `folder` that is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"`save_directory` must be a folder; {str(folder)!r} is a file. Name another.")
    with atomic_folder(folder.resolve()) as partial:
        _write(aligner, partial, how)
        for entry in folder.iterdir() if folder.exists() else ():
            if entry.name not in (CONFIG, WEIGHTS, CARD, BANK, "towers"):
                _link(entry, partial / entry.name)


def _write(aligner: Savable, folder: Path, how: Writing) -> None:
    towers = _write_towers(aligner, folder, how)
    config = {
        "format": FORMAT,
        "version": VERSION,
        "dim": aligner.dim,
        "modalities": {name: _described(entry) for name, entry in aligner.modalities.items()},
        "towers": towers,
        "tokens": aligner.tokens,
        "matcher": None if aligner.matcher is None else aligner.matcher.options,
        "query_weights": aligner.query_weights,
    }
    outside = _outside(aligner)
    weights = {
        name: value.detach().cpu().clone().contiguous()
        for name, value in aligner.state_dict().items()
        if not name.startswith(outside)
    }
    save_file(weights, folder / WEIGHTS, {"format": "pt"})
    if aligner.bank is not None:
        aligner.bank.to("cpu").save(folder / BANK)
    (folder / CARD).write_text(aligner.card or bare_card(aligner), encoding="utf-8", errors="backslashreplace")
    (folder / CONFIG).write_text(
        json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", errors="backslashreplace"
    )


def _described(entry: Modality) -> dict[str, Any]:
    kernel = {"kernel": asdict(entry.kernel)} if entry.head == "kernel" else {}
    parts = {"parts": [asdict(part) for part in entry.parts]} if entry.parts else {}
    return {"width": entry.width, "head": entry.head} | kernel | parts


def _link(path: Path, other: Path) -> None:
    """Give a file, or every file of a folder, a second name."""
    if path.is_dir() and not path.is_symlink():
        shutil.copytree(path, other, symlinks=True, copy_function=os.link)
    else:
        os.link(path, other, follow_symlinks=False)


def _write_towers(aligner: Savable, folder: Path, how: Writing) -> dict[str, Any]:
    """Each tower's description."""
    described: dict[str, Any] = {}
    owners = aligner.towers.owners()
    models: dict[int, str] = {}
    for i, (name, tower) in enumerate(aligner.towers.items()):
        if isinstance(tower, Features):
            continue
        if owners[name] != name:  # written once, with the first
            described[name] = {"same_as": owners[name]}
        elif isinstance(tower, Encoder) and models.setdefault(id(tower.model), name) != name:
            described[name] = {"twin_of": models[id(tower.model)], "options": tower.reading()}
        elif isinstance(tower, Encoder):
            described[name] = tower.write(folder, f"towers/{i}", how)
        else:
            described[name] = {"class": type(tower).__name__, "width": tower.width}
    return described


def _outside(aligner: Savable) -> tuple[str, ...]:
    """The prefixes of weights that are not in the Aligner's own file: those of encoders, and second names of shared towers."""
    owners = aligner.towers.owners()
    return tuple(
        f"towers.{i}."
        for i, (name, tower) in enumerate(aligner.towers.items())
        if isinstance(tower, Encoder) or (owners[name] != name and not isinstance(tower, Features))
    )


def push(
    aligner: Savable, repo_id: str, *, private: bool | None, token: str | bool | None, branch: str | None, commit_message: str
) -> str:
    """Write an Aligner for other machines and upload it; arguments and result as of `Aligner.push_to_hub`.

    Raises:
        InputError: a repository that cannot be written to.
    """
    api = HfApi(token=token)
    with TemporaryDirectory() as folder:
        _write(aligner, Path(folder), "auto")
        try:
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            if branch is not None:
                api.create_branch(repo_id, branch=branch, exist_ok=True)
            commit = api.upload_folder(repo_id=repo_id, folder_path=folder, revision=branch, commit_message=commit_message)
        except Exception as error:  # of the hub's client or of its HTTP library, which differs from release to release
            raise InputError(
                f"`repo_id` {repo_id!r} cannot be uploaded to ({first_line(error):.200}). Check the name, the network, and "
                "that `hf auth login` was run or `token` may write there."
            ) from error
    return str(commit)


def download(model_id: str, **options: Any) -> Path:
    """The folder of an Aligner on the hub.

    Args:
        model_id: on the hub.
        options: of `huggingface_hub.snapshot_download`.

    Returns:
        The folder in the cache.

    Raises:
        InputError: an unknown id, or a hub that cannot be reached.
    """
    patterns = (CONFIG, WEIGHTS, CARD, BANK, *(f"towers/{pattern}" for pattern in FETCHED))
    return fetch(model_id, "`model` must be a folder written by `save_pretrained`, or a hub id", patterns, **options)


def read(folder: Path, towers: Mapping[str, Tower]) -> Saved:
    """Read what `write` wrote, except for the weights of the Aligner's own file.

    Args:
        folder: of the Aligner.
        towers: modality → a tower to use instead of the one that was written.

    Returns:
        What the Aligner is made from; its encoders have their weights.

    Raises:
        InputError: files that are missing, damaged, of another kind or of another version; `towers` that do not fit.
    """
    config = _read_config(folder)
    restored: dict[str, Tower] = {}
    try:
        modalities = {
            name: (
                convert(entry["width"], int, "width"),
                convert(entry["head"], str, "head"),
                convert(entry.get("kernel", {}), Kernel, "kernel"),
                convert(entry.get("parts", []), tuple[Part, ...], "parts"),
            )
            for name, entry in config["modalities"].items()
        }
        described = {name: dict(entry) for name, entry in config["towers"].items()}
        dim, tokens = convert(config["dim"], int, "dim"), convert(config["tokens"], tuple[str, ...], "tokens")
        matcher = convert(config["matcher"], dict[str, int | float | str] | None, "matcher")
        query_weights = convert(config.get("query_weights", {}), dict[str, dict[str, float]], "query_weights")
        for target, weights in query_weights.items():
            for name, weight in weights.items():
                check_choice("query_weights", name, [other for other in modalities if other != target])
                check_number(f"query_weights[{name!r}]", weight, "(0, inf)")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _damaged(folder, f"{CONFIG}: {error if isinstance(error, InputError) else repr(error)}") from None
    unknown = [name for name in towers if name not in described]
    if unknown:
        raise InputError(f"`towers` names {listing(unknown)}, which the saved Aligner has no tower for.")
    for name, entry in described.items():
        restored[name] = _tower(name, entry, folder, towers.get(name), restored)
    entries = {
        name: Modality(width, head, restored.get(name), kernel, parts)
        for name, (width, head, kernel, parts) in modalities.items()
    }
    card = inside(folder, CARD)
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else None
    path = inside(folder, BANK)
    bank = Bundle.load(path) if path.is_file() else None
    if bank is not None and (bank.dim != dim or bank.modalities != tuple(entries)):
        raise _damaged(folder, f"{BANK} is of another space, {bank!r}")
    return Saved(entries, dim, matcher, tokens, text, bank, query_weights)


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = read_json(inside(folder, CONFIG))
    except FileNotFoundError:
        raise _missing(folder, CONFIG) from None
    except InputError as error:
        raise _damaged(folder, str(error)) from None
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise InputError(f"{str(folder)!r} holds another kind of model: its {CONFIG} is not an Aligner's.")
    version = config.get("version")
    if version != VERSION:
        newer = isinstance(version, int) and version > VERSION
        raise InputError(
            f"{str(folder)!r} was written in version {version!r} of the format; this gramian reads version {VERSION}. "
            + ("Upgrade gramian." if newer else "Train and save it again.")
        )
    return config


def _tower(name: str, entry: Mapping[str, Any], folder: Path, own: Tower | None, earlier: Mapping[str, Tower]) -> Tower:
    if own is not None:
        files = entry.get("files") or entry.get("adapter")
        if isinstance(own, Encoder) and files:
            raise InputError(
                f"`towers` replaces the encoder of `{name}`, whose weights lie in {str(folder / str(files))!r}. Leave it "
                "out, or load the encoder from there and build a new Aligner."
            )
        return own
    if str(entry.get("same_as")) in earlier:
        return earlier[entry["same_as"]]
    if "twin_of" in entry:
        twin, options = earlier.get(str(entry["twin_of"])), entry.get("options")
        if not isinstance(twin, Encoder) or not isinstance(options, dict):
            raise _damaged(folder, f"{CONFIG} names no tower that {name!r} could share its weights with")
        return twin.twin(**options)
    kind = entry.get("class")
    if not isinstance(kind, str):
        raise _damaged(folder, f"{CONFIG} does not say what the tower of {name!r} is")
    if kind not in ENCODERS:
        raise InputError(
            f"the tower of `{name}` is a {kind}, whose code {str(folder)!r} does not hold. Pass it: "
            f"`from_pretrained(…, towers={{{name!r}: …}})`, or --towers.{name} MODULE.{kind} --trust-code."
        )
    lacking = [key for key in DESCRIBED if key not in entry]
    if lacking or not isinstance(entry["options"], dict):
        raise _damaged(folder, f"{CONFIG}: the tower of {name!r} has no {listing(lacking) or 'options'}")
    return ENCODERS[kind].restore(entry, folder)


def load_weights(aligner: Savable, folder: Path) -> None:
    """Load the Aligner's own file, as `write` wrote it: all weights, each once, except those of encoders.

    Args:
        aligner: as `read` described it, its own weights still without memory ("meta"): a config that says more than the file
            holds cannot fill it.
        folder: of the Aligner.

    Raises:
        InputError: a file that is missing or damaged, or of another Aligner.
    """
    try:
        weights = load_file(inside(folder, WEIGHTS))
    except FileNotFoundError:
        raise _missing(folder, WEIGHTS) from None
    except (SafetensorError, OSError) as error:
        raise _damaged(folder, f"{WEIGHTS}: {first_line(error)}") from None
    outside = _outside(aligner)
    own: dict[str, Tensor] = {name: value for name, value in aligner.state_dict().items() if not name.startswith(outside)}
    missing, unknown = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    wrong = [name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape]
    if missing or unknown or wrong:
        kinds = {"missing": missing, "unknown": unknown, "of another shape": wrong}
        raise _damaged(folder, f"{WEIGHTS}: " + "; ".join(f"{what} {listing(names)}" for what, names in kinds.items() if names))
    aligner.load_state_dict({name: value.to(own[name].dtype) for name, value in weights.items()}, strict=False, assign=True)


def _missing(folder: Path, name: str) -> InputError:
    hint = f" Did you mean {str(folder / 'aligner')!r}?" if (folder / "aligner").is_dir() else ""
    return InputError(f"{str(folder)!r} is not a saved Aligner: it has no {name}.{hint}")


def _damaged(folder: Path, reason: str) -> InputError:
    return InputError(
        f"{str(folder)!r} is not a whole Aligner; a file is damaged or foreign ({' '.join(reason.split()):.160})."
    )
