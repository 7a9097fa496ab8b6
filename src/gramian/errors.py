"""The one error type for bad input, and the voice it speaks in.

Every message names the argument in backticks, what was expected, what came and how to fix it. The command line prints an
`InputError` as a single line and exits with code 2; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
import errno
import importlib.util
import math
import re
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar

__all__ = [
    "InputError",
    "TooSmallError",
    "check_choice",
    "check_choices",
    "check_number",
    "check_type",
    "first_line",
    "listing",
    "renamed",
    "require",
    "shown",
    "unknown_option",
    "wrong_choice",
]


Name = TypeVar("Name", bound=str)
Number = TypeVar("Number", bound=float | None)


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


def check_choices(argument: str, values: Sequence[Name], choices: Iterable[str]) -> Sequence[Name]:
    """Return `values` if each is one of `choices`, and none occurs twice.

    Raises:
        InputError: see `check_choice`; a repeated value.

    >>> check_choices("scores", ["span", "span"], ["volume", "span"])
    Traceback (most recent call last):
    ...
    gramian.errors.InputError: `scores` must not repeat an entry; got span, span.
    """
    names = list(choices)
    for value in values:
        check_choice(argument, value, names)
    if len(set(values)) < len(values):
        raise InputError(f"`{argument}` must not repeat an entry; got {listing(values)}.")
    return values


def check_number(
    argument: str, value: Number, interval: str, *, integer: bool = False, optional: bool = False, why: str = ""
) -> Number:
    """Return `value` if it is a number in an interval.

    Args:
        argument: what to call it in the error.
        value: to check; NaN is no number, nor is True.
        interval: as in mathematics: "[0, 1)" holds 0 but not 1; "[1, inf)" has no upper end.
        integer: accept whole numbers alone.
        optional: accept None as well.
        why: a reason, or what to do instead; follows the interval.

    Returns:
        `value`.

    Raises:
        InputError: it is not.

    >>> check_number("epochs", 3, "[1, inf)", integer=True)
    3
    >>> check_number("warmup", 2, "[0, 1)")
    Traceback (most recent call last):
    ...
    gramian.errors.InputError: `warmup` must lie in [0, 1); got 2.
    """
    if value is None and optional:
        return value
    low, high = map(float, interval[1:-1].split(","))
    number: Any = value if isinstance(value, Integral if integer else Real) and not isinstance(value, bool) else math.nan
    above = low < number or (low == number and interval[0] == "[")
    below = number < high or (number == high and interval[-1] == "]")
    if above and below and not (integer and number >= LARGEST):
        return value
    what = "be an integer" if integer else "be a finite number" if high == math.inf else "lie"
    place = f"in {interval}" if high < math.inf else f"{'of at least' if interval[0] == '[' else 'above'} {low:g}"
    limit = " and below 2⁶³" if integer and number >= LARGEST else ""
    reason = f", {why}" if why else ""
    raise InputError(f"`{argument}` must {what} {place}{limit}{' or None' * optional}{reason}; got {value!r:.60}.")


LARGEST = 2**63  # what torch and NumPy cannot count


def check_type(argument: str, value: object, *kinds: type, fix: str = "") -> None:
    """Check that `value` is an instance of one of `kinds`.

    Args:
        argument: what to call it in the error.
        value: to check.
        kinds: classes; `type(None)` where None stands for a default.
        fix: a sentence on what to do instead.

    Raises:
        InputError: it is not.

    >>> check_type("table", [1, 2], dict, fix="Name the columns.")
    Traceback (most recent call last):
    ...
    gramian.errors.InputError: `table` must be a dict; got a list. Name the columns.
    """
    if isinstance(value, kinds):
        return
    named = {bool: "True or False", type(None): "None", int: "an int"}
    names = " or ".join(named.get(kind, f"a {kind.__name__}") for kind in kinds)
    plain = isinstance(value, str | bytes | int | float | Path | None)
    got = (
        f"the class {value.__name__}" if isinstance(value, type) else f"{value!r:.60}" if plain else f"a {type(value).__name__}"
    )
    raise InputError(f"`{argument}` must be {names}; got {got}.{' ' * bool(fix)}{fix}")


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


@contextmanager
def renamed(**names: str) -> Iterator[None]:
    """Within the context errors name an argument as the caller knows it.

    Args:
        names: the argument where the error is raised → what the caller gave it by; in backticks, unless it has some.

    Raises:
        InputError: the same, in other words.

    >>> with renamed(labels="classify"):
    ...     raise InputError("`labels` must be one of kind, size; got 'colour'.")
    Traceback (most recent call last):
    ...
    gramian.errors.InputError: `classify` must be one of kind, size; got 'colour'.
    """

    def given(name: re.Match[str]) -> str:
        known = names.get(name[1], name[1])
        return known if "`" in known else f"`{known}`"

    try:
        yield
    except InputError as error:
        raise type(error)(re.sub(r"`(\w+)`", given, str(error))) from error


class TooSmallError(InputError):
    """A batch that holds nothing to contrast."""


EXTRAS = {
    "accelerate": "train",
    "av": "media",
    "datasets": "train",
    "jinja2": "report",
    "fastapi": "serve",
    "gradio": "explore",
    "matplotlib": "plots",
    "mteb": "mteb",
    "peft": "hf",
    "PIL": "media",
    "pyarrow": "train",
    "qdrant_client": "search",
    "qdrant_edge": "search",
    "ray": "ray",
    "sentence_transformers": "hf",
    "sklearn": "plots",
    "soundfile": "media",
    "soxr": "media",
    "transformers": "hf",
    "uvicorn": "serve",
}


def first_line(error: object) -> str:
    """The first line of an error's message; empty if it has none."""
    return (str(error).strip().splitlines() or [""])[0]


def is_exhausted(error: BaseException) -> bool:
    """Whether an error says that the machine ran out of memory or of open files, which is no fault of the input."""
    return (
        isinstance(error, MemoryError)
        or "OutOfMemoryError" in type(error).__name__  # of torch, on an accelerator
        or "DefaultCPUAllocator" in str(error)
        or getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
    )


def require(*packages: str) -> None:
    """Check that packages are installed, without importing them.

    Raises:
        InputError: one is missing; the error says how to install it.
    """
    for name in packages:
        if importlib.util.find_spec(name) is None:
            what = f"'gramian[{EXTRAS[name]}]'" if name in EXTRAS else name
            raise InputError(f"this needs the package {name}: pip install {what}.")


def shown(value: object) -> str:
    """A value in a message: not all of a long one, and not all levels of a nested one.

    >>> shown([[1.5] * 99] * 99)
    '[[1.5, 1.5, 1.5, ...], [1.5, 1.5, 1.5, ...], [1.5, 1.5, 1.5, ...], ...]'
    """
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 3
_SHORT.maxstring = _SHORT.maxother = 60


def listing(values: Iterable[object]) -> str:
    """The first five of `values` as text, and how many more follow.

    >>> listing(range(3)), listing(range(9))
    ('0, 1, 2', '0, 1, 2, 3, 4 and 4 more')
    """
    listed = list(values)
    head = ", ".join(f"{value!s:.300}" for value in listed[:5])
    return head if len(listed) <= 5 else f"{head} and {len(listed) - 5} more"
