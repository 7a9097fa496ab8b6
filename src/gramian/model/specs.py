"""Objects from words: `class_path` and `init_args`, as YAML files name them."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gramian.errors import InputError, check_choice, listing, wrong_choice
from gramian.model.encoders import ENCODERS
from gramian.model.towers import Custom, Tower

__all__ = ["Words", "build", "build_towers"]


@dataclass(frozen=True)
class Words:
    """A part of a YAML file as it stands, for `build` to make objects from: a mapping.

    Attributes:
        given: the mapping.
    """

    given: Mapping[str, Any]

    @classmethod
    def read(cls, given: Any) -> Words:
        """The words of a mapping; a ValueError for anything else."""
        if not isinstance(given, Mapping):
            raise ValueError("it must be a mapping")
        return cls(dict(given))


def build(given: Any, argument: str, known: Mapping[str, Callable[..., Any]]) -> Any:
    """Make an object.

    Args:
        given: {"class_path": NAME, "init_args": {…}}, or the name alone; arguments of that form are made first.
        argument: what to call it in errors.
        known: classes that go by their short names. Others are named by import path, and may be functions.

    Raises:
        InputError: no such class; arguments that it does not take, or lacks.

    >>> build({"class_path": "torch.nn.Flatten", "init_args": {"start_dim": 2}}, "module", {})
    Flatten(start_dim=2, end_dim=-1)
    """
    if isinstance(given, str):
        given = {"class_path": given}
    if not isinstance(given, Mapping) or not isinstance(given.get("class_path"), str):
        raise InputError(f"`{argument}` must have a `class_path` and `init_args`; got {given!r:.80}.")
    unknown = sorted(set(given) - {"class_path", "init_args"})
    if unknown:
        raise InputError(f"`{argument}` must have `class_path` and `init_args` alone; put {listing(unknown)} into `init_args`.")
    maker = _maker(given["class_path"], argument, known)
    options = given.get("init_args") or {}
    if not isinstance(options, Mapping):
        raise InputError(f"`{argument}.init_args` must map options to values; got {options!r:.80}.")
    try:
        parameters = dict(inspect.signature(maker).parameters)
        open_ended = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    except ValueError:  # of a class that is not written in Python
        parameters, open_ended = {}, True
    for name in options:
        if not open_ended:
            check_choice(f"{argument}.init_args", name, parameters)
    required = [
        name
        for name, one in parameters.items()
        if one.default is inspect.Parameter.empty
        and one.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        and name not in options
    ]
    if required:
        raise InputError(f"`{argument}.init_args` must give {listing(required)}, which {given['class_path']} needs.")
    made = dict(options)
    for name, value in options.items():
        if isinstance(value, Mapping) and "class_path" in value:
            made[name] = build(value, f"{argument}.init_args.{name}", {})
    try:
        return maker(**made)
    except InputError as error:
        raise InputError(f"`{argument}`: {error}") from error
    except (TypeError, AttributeError) as error:
        raise InputError(f"`{argument}.init_args` cannot be used by {given['class_path']}: {error}.") from error


def _maker(path: str, argument: str, known: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    if path in known:
        return known[path]
    module, dot, name = path.rpartition(".")
    if not dot:
        raise (
            wrong_choice(f"{argument}.class_path", path, known)
            if known
            else InputError(f"`{argument}.class_path` must be an import path, as in torch.nn.Identity; got {path!r}.")
        )
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"`{argument}.class_path` {path!r} cannot be imported ({error}). The folder it lies in must be on PYTHONPATH."
        ) from None
    if not callable(found):
        raise InputError(f"`{argument}.class_path` {path!r} must be a class or a function; it is a {type(found).__name__}.")
    made: Callable[..., Any] = found
    return made


def build_towers(towers: Words | None, columns: Sequence[str] | None, seed: int = 0) -> dict[str, Tower]:
    """The towers of the columns that are used; `{same_as: text}` is the tower of another column."""
    made: dict[str, Tower] = {}
    with torch.random.fork_rng():  # of the first weights of towers that are trained from scratch
        torch.manual_seed(seed)
        for name, given in ({} if towers is None else towers.given).items():
            if columns is not None and name not in columns:
                continue
            if isinstance(given, dict) and list(given) == ["same_as"]:
                made[name] = made[check_choice(f"towers.{name}.same_as", given["same_as"], made)]
            else:
                tower = build(given, f"towers.{name}", {**ENCODERS, "Custom": Custom})
                if not isinstance(tower, Tower):
                    raise InputError(f"`towers.{name}` must be a tower; {given!r:.80} makes a {type(tower).__name__}.")
                made[name] = tower
    return made
