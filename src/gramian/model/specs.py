"""The one builder: towers and losses from their descriptions, a short name or `class_path` and `init_args`, as YAML has them.

A description may come from a stranger. What it names is one of our own classes (`NAMES`), built from values that are checked
against their types; nothing is imported, and nothing is called that is not on the list. Only `trust_code=True`, which the
command line takes as `--trust-code` and never from a file, lets it name other classes: towers, losses and modules alone.
"""

from __future__ import annotations

import importlib
import re
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

from torch import nn

from gramian.errors import InputError, check_choice, first_line, listing, renamed, wrong_choice
from gramian.losses import LOSSES, Loss, Sum, recommended
from gramian.model.encoders import ENCODERS, Encoder
from gramian.model.options import converted
from gramian.model.towers import Custom, Tower, seeded

__all__ = ["NAMES", "Spec", "build", "build_loss", "build_towers"]

Spec: TypeAlias = str | Mapping[str, Any]
"""A short name, or {"class_path": NAME, "init_args": {…}}."""

NAMES: Mapping[type, Mapping[str, Callable[..., Any]]] = {
    Tower: ENCODERS,
    Loss: ChainMap(LOSSES, {"Sum": Sum}),  # type: ignore[arg-type]  # a view that is only read
    nn.Module: {},
}
"""What a description may name without `trust_code`, by what is wanted."""

TRUSTED: Mapping[str, Callable[..., Any]] = {"Custom": Custom}
"""Short names of classes that run code of the description's choice."""


def build(spec: Any, kind: type, argument: str, *, trust_code: bool = False) -> Any:
    """Make the object that a description names; descriptions among its arguments are made first.

    Args:
        spec: a `Spec`; an object of the kind is returned as it is.
        kind: `Tower`, `Loss` or `nn.Module`.
        argument: what to call it in errors.
        trust_code: also import classes of that kind from anywhere, which runs their code.

    Returns:
        An instance of `kind`.

    Raises:
        InputError: no such class, or one that is not on the list; arguments that it does not take, or lacks.

    >>> build({"class_path": "Pairwise", "init_args": {"temperature": 0.2}}, Loss, "loss").label_smoothing
    0.0
    """
    if isinstance(spec, kind):
        return spec
    description = {"class_path": spec} if isinstance(spec, str) else spec
    if not isinstance(description, Mapping) or not isinstance(description.get("class_path", ""), str):
        raise InputError(f"`{argument}` must be a name, or have `class_path: NAME` and `init_args`; got {spec!r:.80}.")
    unknown = sorted(set(description) - {"class_path", "init_args"})
    if unknown:
        raise InputError(f"`{argument}` must have `class_path` and `init_args` alone; put {listing(unknown)} into `init_args`.")
    options = description.get("init_args") or {}
    if not isinstance(options, Mapping):
        raise InputError(f"`{argument}.init_args` must map options to values; got {options!r:.80}.")
    if "class_path" not in description:
        name = next(iter(options), "class_path")
        raise InputError(f"`{argument}.{name}` needs the name of what it is an option of, as in `{argument}: NAME`.")
    path = str(description["class_path"])
    maker = _class_of(path, kind, argument, trust_code)
    arguments = converted(maker, options, argument, path, partial(build, trust_code=trust_code))
    try:
        with renamed(**{name: f"{argument}.{name}" for name in arguments}):
            return maker(**arguments)
    except InputError as error:
        raise error if f"`{argument}." in str(error) else InputError(f"`{argument}`: {error}") from error
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise InputError(f"`{argument}` cannot be made: {path} says {first_line(error)!r}. Look at `init_args`.") from error


def _class_of(path: str, kind: type, argument: str, trust_code: bool) -> Callable[..., Any]:
    """The class that `path` names: one of the list or, with `trust_code`, any class of the kind."""
    names = NAMES[next(each for each in NAMES if issubclass(kind, each))]
    if path in names:
        return names[path]
    if path == "Matching" and kind is Loss:
        raise InputError("`loss` Matching trains a head beside another loss: name that one, and add --matching 0.1.")
    module, _, name = path.rpartition(".")
    if path not in TRUSTED and not re.fullmatch(r"\w+(\.\w+)+", path):
        raise wrong_choice(argument, path, (*names, *(TRUSTED if kind is Tower else ())))
    if not trust_code:
        own = f"; {', '.join(names)} do not need it" if names else ""
        raise InputError(
            f"`{argument}` names {path!r}, which runs code: allow it with --trust-code on the command line (`trust_code=True` "
            f"in Python), if you trust who wrote it{own}."
        )
    if path in TRUSTED:
        return TRUSTED[path]
    try:
        target = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"`{argument}` {path!r} cannot be imported ({first_line(error)}). The folder it lies in must be on PYTHONPATH."
        ) from None
    if not (isinstance(target, type) and issubclass(target, kind)):
        raise InputError(f"`{argument}` must name a class derived from {kind.__name__}; {path!r} is not one.")
    return target


def build_loss(spec: Loss | Spec | None, *, trust_code: bool = False) -> Loss:
    """A loss from its description; without one `gramian.losses.recommended()`.

    Raises:
        InputError: see `build`.

    >>> build_loss({"class_path": "Gram", "init_args": {"score": "cone"}}).score
    'cone'
    """
    loss: Loss = recommended() if spec is None else build(spec, Loss, "loss", trust_code=trust_code)
    return loss


def build_towers(
    specs: Mapping[str, Tower | Spec] | None,
    columns: Sequence[str] | None = None,
    seed: int = 0,
    *,
    trust_code: bool = False,
) -> dict[str, Tower]:
    """The towers of the columns that are used.

    Args:
        specs: column → a tower, its description, or `{"same_as": column}` for the tower of an earlier column; one with other
            options of reading is its twin, `{"twin_of": column, "init_args": {…}}`.
        columns: those that are used; all by default.
        seed: of the initial weights of towers that are trained from scratch.
        trust_code: see `build`.

    Returns:
        Column → tower.

    Raises:
        InputError: see `build`.
    """
    if not isinstance(specs or {}, Mapping):
        raise InputError(
            "`towers` must map columns to encoders, as in `text: {class_path: HuggingFace, init_args: {model: …, kind: text}}` "
            f"in a YAML file; got {specs!r:.40}. See docs/media.md."
        )
    towers: dict[str, Tower] = {}
    with seeded(seed):
        for name, spec in (specs or {}).items():
            if columns is not None and name not in columns:
                continue
            if isinstance(spec, Mapping) and list(spec) == ["same_as"]:
                towers[name] = towers[check_choice(f"towers.{name}.same_as", spec["same_as"], towers)]
            elif isinstance(spec, Mapping) and "twin_of" in spec:
                towers[name] = _twin(name, spec, towers)
            else:
                towers[name] = build(spec, Tower, f"towers.{name}", trust_code=trust_code)
    return towers


def _twin(name: str, spec: Mapping[str, Any], towers: Mapping[str, Tower]) -> Tower:
    """A tower with the weights of an earlier column's, which reads its cells otherwise."""
    options = spec.get("init_args") or {}
    if set(spec) - {"twin_of", "init_args"} or not isinstance(options, Mapping):
        raise InputError(f"`towers.{name}` must have `twin_of: COLUMN` and `init_args` alone; got {spec!r:.80}.")
    tower = towers[check_choice(f"towers.{name}.twin_of", spec["twin_of"], towers)]
    if not isinstance(tower, Encoder):
        raise InputError(f"`towers.{name}.twin_of` must name a pretrained encoder; got {spec['twin_of']!r}.")
    return tower.twin(**options)
