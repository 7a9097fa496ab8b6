"""The one error type for bad input, and the voice it speaks in.

Every message names the argument in backticks, what was expected, what came and how to fix it. The command line prints an
`InputError` as a single line and exits with code 2; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterable
from typing import TypeVar

__all__ = ["InputError", "TooSmallError", "check_choice", "first_line", "listing", "require", "unknown_option", "wrong_choice"]


Name = TypeVar("Name", bound=str)


class InputError(ValueError):
    """An argument, a file or data that cannot be used; the message says why and how to fix it."""


def check_choice(argument: str, value: Name, choices: Iterable[str]) -> Name:
    """Return `value` if it is one of `choices`.

    Raises:
        InputError: it is not; the error lists the choices and suggests the nearest.

    >>> check_choice("score", "volume", ["volume", "span"])
    'volume'
    >>> check_choice("score", "volum", ["volume", "span"])
    Traceback (most recent call last):
    ...
    gramian.errors.InputError: `score` must be one of volume, span; got 'volum'. Did you mean 'volume'?
    """
    names = list(choices)
    if value in names:
        return value
    raise wrong_choice(argument, value, names)


def wrong_choice(argument: str, value: str, choices: Iterable[str]) -> InputError:
    """The error of a `value` that is none of `choices`."""
    names = list(choices)
    return InputError(f"`{argument}` must be one of {', '.join(names)}; got {value!r}.{_nearest(str(value), names, 0.6)}")


def unknown_option(name: str, options: Iterable[str], owner: str) -> InputError:
    """The error of an option that `owner` does not have; it names the nearest one.

    >>> print(unknown_option("smoothing", ["score", "label_smoothing"], "Gram"))
    `smoothing` is not an option of Gram. Did you mean 'label_smoothing'?
    """
    return InputError(f"`{name}` is not an option of {owner}.{_nearest(name, options, 0.5)}")


def _nearest(name: str, names: Iterable[str], cutoff: float) -> str:
    near = difflib.get_close_matches(name, list(names), n=1, cutoff=cutoff)
    return f" Did you mean {near[0]!r}?" if near else ""


class TooSmallError(InputError):
    """A batch that holds nothing to contrast."""


EXTRAS = {
    "accelerate": "train",
    "av": "media",
    "datasets": "train",
    "matplotlib": "plots",
    "mteb": "mteb",
    "peft": "hf",
    "PIL": "media",
    "pyarrow": "train",
    "ray": "ray",
    "sentence_transformers": "hf",
    "sklearn": "plots",
    "soundfile": "media",
    "soxr": "media",
    "transformers": "hf",
}


def first_line(error: object) -> str:
    """The first line of an error's message; empty if it has none."""
    return (str(error).strip().splitlines() or [""])[0]


def require(*packages: str) -> None:
    """Check that packages are installed, without importing them.

    Raises:
        InputError: one is missing; the error says how to install it.
    """
    for name in packages:
        if importlib.util.find_spec(name) is None:
            what = f"'gramian[{EXTRAS[name]}]'" if name in EXTRAS else name
            raise InputError(f"this needs the package {name}: pip install {what}.")


def listing(values: Iterable[object]) -> str:
    """The first five of `values` as text, and how many more follow.

    >>> listing(range(3)), listing(range(9))
    ('0, 1, 2', '0, 1, 2, 3, 4 and 4 more')
    """
    listed = list(values)
    head = ", ".join(str(value) for value in listed[:5])
    return head if len(listed) <= 5 else f"{head} and {len(listed) - 5} more"
