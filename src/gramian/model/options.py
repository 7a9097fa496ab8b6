"""Options from plain data: what a signature takes, values by its types, YAML that holds data and no code.

A word of the command line and a value of a YAML file take the same path: `options_of` reads names, types, defaults and help
from a signature and its docstring, and `convert` makes a value of that type or reports what was expected and what came.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from torch import nn

from gramian.errors import InputError, first_line, unknown_option, wrong_choice

__all__ = ["Option", "Word", "alternatives", "convert", "describe", "docs_of", "options_of", "parse_yaml"]

LARGEST_FILE = 2**20  # characters of YAML
LARGEST_TREE = 100_000  # values, those behind aliases counted each time

Build: TypeAlias = Callable[[Any, type, str], Any]
"""From a description, the class that is wanted and the argument's name to an object."""


class Word(str):
    """A value as typed on the command line: what it means depends on the type that is wanted."""


@dataclass(frozen=True)
class Option:
    """One parameter of a function or class.

    Attributes:
        name: of the parameter.
        hint: its type.
        default: `inspect.Parameter.empty` if it must be given, or if only the class itself knows it.
        required: whether it must be given.
        help: what the docstring says of it.
    """

    name: str
    hint: Any
    default: Any
    required: bool
    help: str = ""


def options_of(owner: Callable[..., Any]) -> dict[str, Option] | None:
    """The options of a function or class by name; None if it takes any, or has no signature.

    >>> def crop(side: int, *, centre: bool = True) -> None: ...
    >>> [(name, option.required) for name, option in options_of(crop).items()]
    [('side', True), ('centre', False)]
    """
    try:
        parameters = inspect.signature(owner).parameters.values()
    except ValueError:  # a class that is not written in Python
        return None
    function = owner.__init__ if isinstance(owner, type) and not is_dataclass(owner) else owner  # type: ignore[misc]
    try:
        hints = typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError):  # foreign types that cannot be resolved here
        hints = {}
    docs = docs_of(owner)
    for shared in [typing.get_args(hint)[0] for hint in hints.values() if typing.get_origin(hint) is typing.Unpack]:
        # A TypedDict: options that several classes share, which the signature may spell out.
        docs, hints = docs_of(shared) | docs, typing.get_type_hints(shared) | hints
    options: dict[str, Option] = {}
    for parameter in parameters:
        hint, empty = hints.get(parameter.name, Any), inspect.Parameter.empty
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            if typing.get_origin(hint) is not typing.Unpack:
                return None
            for name in typing.get_type_hints(typing.get_args(hint)[0]):
                options[name] = Option(name, hints[name], empty, False, docs.get(name, ""))
        elif parameter.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY):
            default, text = parameter.default, docs.get(parameter.name, "")
            options[parameter.name] = Option(parameter.name, hint, default, default is empty, text)
    return options


def docs_of(owner: Callable[..., Any] | type) -> dict[str, str]:
    """What a docstring says of each of its `Args:` or `Attributes:`.

    Returns:
        Name → text in one line; empty for a docstring without such a section.

    >>> docs_of(docs_of), docs_of(Option)["required"]
    ({}, 'whether it must be given.')
    """
    section = re.search(r"^(?:Args|Attributes):\n((?:[ ]{4}.*\n?|\n)+)", inspect.getdoc(owner) or "", flags=re.MULTILINE)
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section[1] if section else "", flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The members of a union; a type alone is one."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(each for member in typing.get_args(hint) for each in alternatives(member))
    return (hint,)


def plain(value: Any, kind: type, argument: str) -> Any:
    """A `Build` that refuses: where data are wanted, and no objects."""
    raise InputError(f"`{argument}` must be plain data; got a description of a {kind.__name__}, {value!r:.40}.")


def convert(value: Any, hint: Any, argument: str, build: Build = plain) -> Any:
    """Make `value` an instance of `hint`, without guessing: no text for a number, no number for a truth value.

    Args:
        value: plain data, an object that is one already, or a `Word`.
        hint: a type as signatures have them.
        argument: what to call it in errors.
        build: makes a module of its description; by default there are none.

    Returns:
        The value as the first type of a union that it fits.

    Raises:
        InputError: it is not of that type.

    >>> convert(Word("3,5"), list[int] | None, "ks"), convert(2, float, "rate")
    ([3, 5], 2.0)
    """
    members = alternatives(hint)
    if isinstance(value, Word):
        value = _spelt(value, members)
    for member in members:
        try:
            return _as(value, member, argument, build)
        except _MismatchError:
            continue
    choices = [choice for member in members for choice in typing.get_args(member) if _is_literal(member)]
    if choices and isinstance(value, str):
        raise wrong_choice(argument, str(value), map(str, choices))
    raise InputError(f"`{argument}` must be {describe(hint)}; got {_shown(value)}.")


class _MismatchError(Exception):
    """The value is not of this type, but may be of another one of a union."""


def _as(value: Any, hint: Any, argument: str, build: Build) -> Any:
    """`value` as one type that is no union."""
    origin, members = typing.get_origin(hint) or hint, typing.get_args(hint)
    if hint is Any or isinstance(hint, typing.TypeVar):
        described = isinstance(value, Mapping) and "class_path" in value
        return build(value, nn.Module, argument) if described else value
    if hint in (None, type(None)) and value is None:
        return None
    if _is_literal(hint) and value in members and type(value) in map(type, members):
        return value
    if origin in (str, bool, int) and type(value) is origin:
        return value
    if origin is float and type(value) in (int, float):
        return float(value)
    if origin is Path and isinstance(value, str | Path):
        return Path(value)
    if origin in _LISTS and isinstance(value, list | tuple):
        if origin is tuple and Ellipsis not in members:
            if len(value) != len(members):
                raise _MismatchError
            return tuple(
                _element(each, one, argument, i, build) for i, (each, one) in enumerate(zip(value, members, strict=True))
            )
        items = [_element(each, members[0] if members else Any, argument, i, build) for i, each in enumerate(value)]
        return tuple(items) if origin is tuple else items
    if origin in _MAPPINGS and isinstance(value, Mapping):
        key, each = members or (Any, Any)
        names = [convert(name, key, f"{argument} (a name)", build) for name in value]
        return {
            name: convert(item, each, f"{argument}.{name}", build) for name, item in zip(names, value.values(), strict=True)
        }
    if not isinstance(origin, type) or origin in (*_LISTS, *_MAPPINGS, str, bool, int, float, Path, type(None)):
        raise _MismatchError
    if isinstance(value, origin):
        return value
    if is_dataclass(origin) and isinstance(value, Mapping):
        return origin(**converted(origin, value, argument, origin.__name__, build))
    if issubclass(origin, nn.Module) and isinstance(value, str | Mapping):
        return build(value, origin, argument)
    raise _MismatchError


_LISTS = (list, tuple, Sequence, typing.get_origin(Iterable[int]))
_MAPPINGS = (dict, Mapping)


def _element(value: Any, hint: Any, argument: str, i: int, build: Build) -> Any:
    """One entry of a list; words of the command line and names need no number in the error."""
    return convert(value, hint, argument if isinstance(value, str) else f"{argument}[{i}]", build)


def converted(owner: Callable[..., Any], values: Mapping[str, Any], argument: str, named: str, build: Build) -> dict[str, Any]:
    """Every value, converted to the type that `owner` wants. In errors `argument` precedes their names; `named` is the owner.

    Raises:
        InputError: an option that it does not have or that is missing; a value of another type.
    """
    options = options_of(owner)
    before = f"{argument}." if argument else ""
    if options is None:
        return {name: convert(value, Any, f"{before}{name}", build) for name, value in values.items()}
    for name in values:
        if name not in options:
            raise unknown_option(f"{before}{name}", (f"{before}{each}" for each in options), named)
    missing = [name for name, option in options.items() if option.required and name not in values]
    if missing:
        raise InputError(f"`{before}{missing[0]}` must be given: {named} needs {', '.join(missing)}.")
    return {name: convert(value, options[name].hint, f"{before}{name}", build) for name, value in values.items()}


def describe(hint: Any) -> str:
    """A type in words.

    >>> describe(int | None), describe(list[str]), describe(typing.Literal["a", "b"])
    ('an integer or none', 'a list of text', 'one of a, b')
    """
    return " or ".join(dict.fromkeys(filter(None, map(_described, alternatives(hint)))))


def _described(hint: Any) -> str:
    origin, members = typing.get_origin(hint) or hint, typing.get_args(hint)
    plain = {int: "an integer", float: "a number", bool: "true or false", str: "text", Path: "a path", type(None): "none"}
    if origin in plain:
        return plain[origin]
    if _is_literal(hint):
        return f"one of {', '.join(map(str, members))}"
    if origin in _LISTS:
        return f"a list of {describe(members[0])}" if members else "a list"
    if origin in _MAPPINGS or is_dataclass(origin):
        return "a mapping of names to values"
    if isinstance(origin, type) and issubclass(origin, nn.Module):
        return f"a {origin.__name__} (a name, or `class_path` and `init_args`)"
    return ""  # functions, and whatever else no text can name


def _is_literal(hint: Any) -> bool:
    return typing.get_origin(hint) is typing.Literal


def _shown(value: object) -> str:
    if isinstance(value, Mapping | list | tuple):
        return "a mapping" if isinstance(value, Mapping) else "a list"
    return "nothing" if value is None else f"{value!r:.60}"


def _spelt(word: Word, members: Sequence[Any]) -> Any:
    """The meaning of a word of the command line, where one of these types is wanted."""
    origins = [typing.get_origin(member) or member for member in members]
    if word.lower() in ("none", "null") and type(None) in origins:
        return None
    if any(_is_literal(member) and str(word) in typing.get_args(member) for member in members):
        return str(word)
    if any(origin in _LISTS for origin in origins) and not word.startswith("["):
        return [Word(part.strip()) for part in word.split(",")]
    if str in origins or Path in origins:
        return str(word)
    try:
        return parse_yaml(word)
    except InputError:
        return str(word)


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core types: `no` and `on` are text, 1e-3 is a number, dates are text; keys are unique."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """As SafeLoader does, but repeated keys and keys that are not text are refused."""
        keys = [key.value if isinstance(key, yaml.ScalarNode) else None for key, _ in node.value]
        wrong = [key for i, key in enumerate(keys) if key is None or key in keys[:i]]
        if wrong:
            raise yaml.YAMLError(f"the key {wrong[0]!r} occurs twice" if wrong[0] else "keys must be text")
        return super().construct_mapping(node, deep)


_CORE = ("str", "int", "float", "bool", "null", "seq", "map")
_Loader.yaml_implicit_resolvers = {}
_Loader.yaml_constructors = {
    tag: make for tag, make in yaml.SafeLoader.yaml_constructors.items() if tag is None or tag.rpartition(":")[2] in _CORE
}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), [*_first.replace("\0", ""), *[""] * ("\0" in _first)]
    )
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _loader, node: int(node.value))


def parse_yaml(text: str) -> Any:
    """Data from YAML: text, numbers, truth values, lists and mappings; no other tags, nothing recursive.

    Raises:
        InputError: it is no such YAML, or too large.

    >>> parse_yaml("{precision: no, learning_rate: 1e-3, layers: [1, 2]}")
    {'precision': 'no', 'learning_rate': 0.001, 'layers': [1, 2]}
    """
    if len(text) > LARGEST_FILE:
        raise InputError(f"YAML must have at most {LARGEST_FILE:,} characters; got {len(text):,}.")
    try:
        data = yaml.load(text, _Loader)
        size = _size(data, {}, ())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise InputError(f"not YAML: {getattr(error, 'problem', None) or first_line(error)}{where}") from None
    except (RecursionError, ValueError) as error:
        raise InputError(f"not YAML that can be used: {first_line(error) or 'nested too deeply'}") from None
    if size > LARGEST_TREE:
        raise InputError(f"YAML must hold at most {LARGEST_TREE:,} values; with its aliases it has {size:,}.")
    return data


def _size(value: Any, sizes: dict[int, int], above: tuple[int, ...]) -> int:
    """Values in a tree, those behind aliases counted each time they are named."""
    if not isinstance(value, list | dict):
        return 1
    if id(value) in above:
        raise ValueError("an alias that holds itself")
    if id(value) not in sizes:
        parts = value.values() if isinstance(value, dict) else value
        sizes[id(value)] = 1 + sum(_size(part, sizes, (*above, id(value))) for part in parts)
    return sizes[id(value)]
