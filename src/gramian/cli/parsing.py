"""From the words of the command line, and a YAML file, to the options of a command: the parameters of a function.

`--dim 512`, `--dim=512`, `--resume`, `--no-resume`, `--columns a,b` or `--columns a b`, `--recipe.epochs 4`,
`--loss Gram --loss.score cone`, `--towers.text.mode lora`, `--weights.text 2`, `-k 5`; `--config FILE.yaml`, or the file's
name alone. What is typed overrides the file.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from rich.console import Console
from torch import nn

from gramian.cli.shared import SHARED
from gramian.errors import InputError, check_choice, unknown_option
from gramian.losses import Loss
from gramian.model.options import Option, Word, alternatives, convert, options_of, parse_yaml
from gramian.model.specs import NAMES

__all__ = ["Command", "help_of", "parse"]

TYPED = ("trust_code", "media_root", "external", "qdrant", "qdrant_key")
"""Options that widen what a file from anyone may do: it may not set them itself."""

YAML = (".yaml", ".yml")

CALLED = {"bundle": "data", "location": "qdrant", "modalities": "columns", "path": "run", "train": "data", "validation": "data"}
"""Arguments of the library → the options that commands hand to them."""

FEW = 5
"""As many choices are listed in the help instead of a type."""


@dataclass(frozen=True)
class Command:
    """A command of the command line.

    Attributes:
        run: what it does, called with the options by name.
        help: a line for the list of commands.
        options: the function whose parameters and `Args:` are its options; `run` by default.
        reads: a function whose options a YAML file may hold as well, without effect here.
        bare: the option that a word by itself sets; a list takes several.
    """

    run: Callable[..., None]
    help: str
    options: Callable[..., Any] | None = None
    reads: Callable[..., Any] | None = None
    bare: str | None = None

    def table(self) -> dict[str, Option]:
        """Its options by name; the fields of a parameter of a `SHARED` type are options."""
        options: dict[str, Option] = {}
        for name, option in self.parameters().items():
            options |= (options_of(option.hint) or {}) if option.hint in SHARED else {name: option}
        return options

    def called(self) -> dict[str, str]:
        """Arguments of the library, where no option has their name → the option as it is typed."""
        options = self.table()
        losses = NAMES[Loss].values() if "loss" in options else ()
        names = {name: f"loss.{name}" for loss in losses for name in options_of(loss) or ()}
        names |= {name: option for name, option in CALLED.items() if option in options}
        for option in options.values():
            for field in fields(_record(option.hint)) if _record(option.hint) else ():
                names[field.name] = f"{option.name}.{field.name}"
        return {name: option for name, option in names.items() if name not in options}

    def parameters(self) -> dict[str, Option]:
        """The parameters of the function, but for its console."""
        every = options_of(self.options or self.run) or {}
        return {name: option for name, option in every.items() if Console not in alternatives(option.hint)}


def parse(name: str, command: Command, words: Sequence[str]) -> dict[str, Any]:
    """The options of a command from the words after its name.

    Args:
        name: of the command, for errors.
        command: the command.
        words: of the command line.

    Returns:
        Parameter → value of its type; only of options that were typed or stand in the file.

    Raises:
        InputError: an option that the command does not have; a value of another type; one that is missing.
    """
    options = command.table()
    owner = f"`gramian {name}`"
    typed: list[tuple[list[str], Any]] = []
    files: list[str] = []
    rest = [f"-{word}" if len(word) == 2 and word[0] == "-" and word[1] in options else word for word in words]  # -k is --k
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            if command.bare is not None and not word.endswith(YAML):
                earlier = next((value for path, value in typed if path == [command.bare]), None)
                if earlier is None:
                    typed.append(([command.bare], Word(word)))
                    continue
                if _is_list(options[command.bare].hint):
                    typed = [(path, value) for path, value in typed if path != [command.bare]]
                    typed.append(([command.bare], Word(f"{earlier},{word}")))
                    continue
            if not word.endswith(YAML):
                table = f" A table: --data {word}" if "data" in options and not word.startswith("-") else ""
                raise InputError(
                    f"{word!r} belongs to no option: {owner} takes --NAME VALUE, and the name of a YAML file.{table}"
                )
            files.append(word)
            continue
        key, equals, text = word[2:].partition("=")
        path, yes = _path(key, options)
        if path == ["config"]:
            files.append(text if equals else _next("config", rest))
            continue
        hint = _hint(options, path, owner)
        value = _value(".".join(path), text if equals else None, rest, hint, yes)
        earlier = next((entry for entry in typed if entry[0] == path), None)
        if earlier is not None:
            if not _is_list(hint):
                raise InputError(f"`{'.'.join(path)}` is given twice. Leave one out.")
            typed.remove(earlier)
            value = Word(f"{earlier[1]},{value}")
        typed.append((path, value))
    values = _read(files, command, owner)
    for path, value in sorted(typed, key=lambda entry: len(entry[0]) > 1):  # the name of an object before its options
        values[path[0]] = _placed(values.get(path[0]), path[1:], value, options[path[0]].hint)
    missing = [f"--{option.name}" for option in options.values() if option.required and option.name not in values]
    if missing:
        raise InputError(f"{' and '.join(missing)} must be given. See gramian {name} --help.")
    values = {key: _converted(value, options[key]) for key, value in values.items()}
    for parameter in command.parameters().values():
        if parameter.hint in SHARED:
            own = {key: values.pop(key) for key in options_of(parameter.hint) or () if key in values}
            values[parameter.name] = parameter.hint(**own)
    return values


def _path(key: str, options: Mapping[str, Option]) -> tuple[list[str], bool]:
    """The parts of a name after `--`, and whether it says yes: `--no-x` is x, and says no."""
    path = key.split(".")
    root = path[0].replace("-", "_")
    yes = root in options or not root.startswith("no_")
    root = root if yes else root.removeprefix("no_")
    named = root in options and (_holds_objects(options[root].hint) or _values_of(options[root].hint) is not None)
    columns = path[1:2] if named else []  # the user's names, as they are
    return [root, *columns, *(part.replace("-", "_") for part in path[1 + len(columns) :])], yes


def _value(key: str, value: str | None, rest: list[str], hint: Any, yes: bool) -> Any:
    """What follows an option: nothing for a flag, several words for a list, otherwise one."""
    if not yes and value is not None:
        raise InputError(f"--no-{key} takes no value; got {value!r}.")
    if not yes or (value is None and bool in alternatives(hint)):
        return yes
    if value is None and hint is Any and (not rest or rest[0].startswith("--") or rest[0].endswith(YAML)):
        return yes  # an option of a named object, whose type is known when that is built
    if value is None and _is_list(hint):
        several = []
        while rest and not rest[0].startswith("--") and not rest[0].endswith(YAML):
            several.append(rest.pop(0))
        value = (" " if several and several[0].startswith("[") else ",").join(several) if several else _next(key, rest)
    if value is None:
        value = _next(key, rest)
    if not value.strip() or (_is_list(hint) and not all(part.strip() for part in value.split(","))):
        raise InputError(f"`{key}` must not be empty; got {value!r}. Write a value, or leave the option out.")
    return Word(value)


def _next(key: str, rest: list[str]) -> str:
    if not rest or rest[0].startswith("--"):
        raise InputError(f"--{key} needs a value after it; got {rest[0] if rest else 'nothing'}.")
    return rest.pop(0)


def _hint(options: Mapping[str, Option], path: Sequence[str], owner: str) -> Any:
    """The type of an option, or of the part of one that `path` leads to; Any where an object's class decides.

    Raises:
        InputError: no such option.
    """
    unknown = unknown_option(".".join(path), _keys(options), owner)
    if path[0] not in options:
        raise unknown
    hint = options[path[0]].hint
    record = _record(hint)
    if len(path) == 1 or _names_object(hint):
        return hint if len(path) == 1 else Any
    if len(path) == 2 and _values_of(hint) is not None:
        return _values_of(hint)
    inner = options_of(record) if record else None
    if inner is None or len(path) > 2 or path[1] not in inner:
        raise unknown
    return inner[path[1]].hint


def _placed(old: Any, path: Sequence[str], value: Any, hint: Any) -> Any:
    """The value of an option with one part set: a field of a record, an argument of an object, an object of a mapping."""
    if not path:
        return value
    if _names_object(hint) and not _holds_objects(hint):
        spec = old if isinstance(old, dict) else {} if old is None else {"class_path": old}
        return spec | {"init_args": (spec.get("init_args") or {}) | {".".join(path): value}}
    inner = {} if old is None else old
    if not isinstance(inner, dict):
        return old  # which is refused for its type
    return inner | {path[0]: _placed(inner.get(path[0]), path[1:], value, Loss if _holds_objects(hint) else Any)}


def _read(files: Sequence[str], command: Command, owner: str) -> dict[str, Any]:
    """The options in a YAML file."""
    if len(files) > 1:
        raise InputError(f"`config` must be one YAML file; got {', '.join(files)}.")
    values: dict[str, Any] = {}
    options, unused = command.table(), options_of(command.reads) or {} if command.reads else {}
    for name in files:
        try:
            data = parse_yaml(Path(name).read_text(encoding="utf-8"))
        except OSError as error:
            reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
            raise InputError(f"`config` must be an existing YAML file; {name!r} {reason}.") from None
        except (InputError, UnicodeDecodeError) as error:
            raise InputError(f"`config` must be a YAML file in UTF-8; {name!r} cannot be read ({error}).") from None
        if not isinstance(data, dict):
            kind = "nothing" if data is None else "a list" if isinstance(data, list) else f"{data!r:.40}"
            raise InputError(f"`config` must map options to values, as in `dim: 512`; {name!r} holds {kind}.")
        for key, value in data.items():
            if key in TYPED:
                raise InputError(
                    f"`{key}` may not be set in a file: a file cannot vouch for itself. Type --{key.replace('_', '-')}."
                )
            if key not in options and key not in unused:
                raise unknown_option(str(key), _keys(options | unused), owner)
            if key in options:
                values[key] = value
                if Path in alternatives(options[key].hint):
                    _check_written(str(key), value, name)
            else:
                _converted(value, unused[key])
    return values


def _check_written(key: str, value: Any, file: str) -> None:
    """A path that a command writes to: set in a file, it may not lead out of the working folder and of the file's own."""
    homes = Path.cwd(), Path(file).resolve().parent
    try:
        path = Path(str(value)).resolve()
    except (OSError, RuntimeError, ValueError):  # a circle of links, a null character
        path = Path("/")
    if not any(path.is_relative_to(home) for home in homes):
        option = f"--{key.replace('_', '-')}"
        raise InputError(f"`{key}` in a file must lie in the working folder; got {str(value)!r:.100}. Type {option}.")


def _converted(value: Any, option: Option) -> Any:
    """A value converted to its option's type; descriptions of objects are left to their builder."""
    if _names_object(option.hint):
        return value
    return convert(value, option.hint, option.name)


def _record(hint: Any) -> Any:
    """The dataclass among the types of an option, whose fields are options with a dot."""
    return next((member for member in alternatives(hint) if is_dataclass(member)), None)


def _names_object(hint: Any) -> bool:
    """Whether an option names an object, or holds some."""
    return (isinstance(hint, type) and issubclass(hint, nn.Module)) or any(_names_object(member) for member in get_args(hint))


def _holds_objects(hint: Any) -> bool:
    """Whether an option is a mapping of names to objects."""
    return any(get_origin(member) is Mapping and _names_object(member) for member in alternatives(hint))


def _values_of(hint: Any) -> Any:
    """The type of the values of an option that maps the user's names to plain values; None for another option."""
    kinds = [
        get_args(member)[1] for member in alternatives(hint) if get_origin(member) is Mapping and len(get_args(member)) == 2
    ]
    return kinds[0] if kinds and not _names_object(hint) else None


def _is_list(hint: Any) -> bool:
    return any(get_origin(member) in (list, tuple, Sequence) for member in alternatives(hint))


def _keys(options: Mapping[str, Option]) -> list[str]:
    """Every option, and those with a dot."""
    records = {name: _record(option.hint) for name, option in options.items()}
    inner = [f"{name}.{field.name}" for name, record in records.items() if record for field in fields(record)]
    return ["config", *options, *inner]


def help_of(name: str, command: Command, words: Sequence[str] = ()) -> str:
    """The page of `gramian NAME --help`: what the function's docstring says, and each option with type, default and help.

    Args:
        name: of the command.
        command: the command.
        words: of the command line; after `--loss NAME` the options of that loss are listed, too.

    Returns:
        The page, ending in a line break.

    Raises:
        InputError: a NAME after `--loss` that is no loss.
    """
    options = command.table()
    text = inspect.getdoc(command.options or command.run) or ""
    bare = f"{command.bare.upper()} " if command.bare else ""
    lines = [
        f"usage: gramian {name} {bare}[FILE.yaml] [options]",
        "",
        re.split("\n(?:Args|Attributes):", text)[0].strip(),
        "",
        "options:",
    ]
    lines += _entry("config", "FILE", "YAML file with any of the options below, but those that run code.")
    for option in options.values():
        if _record(option.hint):
            lines += _of_record(option)
        elif _values_of(option.hint) is not None:
            lines += _of_option(f"{option.name}.NAME", replace(option, hint=_values_of(option.hint)))
        else:
            lines += _of_option(option.name, option)
    if "loss" in options:
        chosen = next((after for before, after in pairwise(words) if before == "--loss"), None)
        if chosen is None:
            lines += ["", f"losses: {', '.join(NAMES[Loss])}", f"gramian {name} --loss NAME --help lists the options of one."]
        else:
            lines += ["", f"options of {chosen}:"]
            for option in (options_of(NAMES[Loss][check_choice("loss", chosen, NAMES[Loss])]) or {}).values():
                lines += _of_option(f"loss.{option.name}", option)
    return "\n".join(lines) + "\n"


def _of_record(option: Option) -> Iterator[str]:
    """The fields of a dataclass, each as an option with a dot."""
    for name, field in (options_of(_record(option.hint)) or {}).items():
        yield from _of_option(f"{option.name}.{name}", replace(field, default=getattr(option.default, name, field.default)))


def _of_option(name: str, option: Option) -> list[str]:
    """One option: its type, what the docstring says, what may be chosen, the default."""
    choices = _choices(option.hint)
    text = f"{option.help} One of {', '.join(choices)}." if len(choices) > FEW else option.help
    note = f"default; --no-{name} turns it off" if option.default is True else _default(option.default)
    return _entry(name, _metavar(option.hint), text, "required" if option.required else note)


def _entry(name: str, metavar: str, text: str, note: str = "") -> list[str]:
    head = f"  --{name.replace('_', '-') if '.' not in name else name} {metavar}".rstrip()
    body = f"{text} ({note})" if note else text
    wrapped = textwrap.wrap(body, 92, initial_indent=" " * 6, subsequent_indent=" " * 6, break_on_hyphens=False)
    return [head, *wrapped]


def _default(default: Any) -> str:
    if default in (None, (), inspect.Parameter.empty) or default is False:
        return ""
    shown = " ".join(map(str, default)) if isinstance(default, list | tuple) else str(default)
    return f"default: {shown}"


def _choices(hint: Any) -> list[str]:
    """What may be chosen from, of an option or of the entries of a list."""
    inner = [each for member in alternatives(hint) if _is_list(member) for each in get_args(member)]
    literals = [each for member in (*alternatives(hint), *inner) if get_origin(member) is Literal for each in get_args(member)]
    return [str(choice) for choice in literals]


def _metavar(hint: Any) -> str:
    """The placeholder for the value in the help: nothing for a flag, the choices if they are few."""
    members = [member for member in alternatives(hint) if member is not type(None)]
    if bool in members:
        return ""
    if _names_object(hint):
        return "MAPPING" if _holds_objects(hint) else "NAME"
    if _is_list(hint):
        inner = next(get_args(member)[0] for member in members if get_args(member))
        return f"{_metavar(inner)},…"
    choices = _choices(hint)
    if len(choices) > FEW:
        return "NAME"
    plain = [
        {int: "INT", float: "NUMBER", str: "TEXT" * (Path not in members), Path: "PATH"}.get(member, "") for member in members
    ]
    return "|".join([*choices, *dict.fromkeys(filter(None, plain))]) or "VALUE"
