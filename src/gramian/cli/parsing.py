"""From the words of the command line, and YAML files, to the options of a command; errors in our own words."""

from __future__ import annotations

import argparse
import difflib
import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, DefaultHelpFormatter  # type: ignore[attr-defined]
from jsonargparse.typing import register_type

from gramian import __version__
from gramian.errors import InputError, check_choice, wrong_choice
from gramian.losses import LOSSES
from gramian.model.specs import Words

register_type(Words, serializer=lambda words: dict(words.given), deserializer=Words.read)

__all__ = ["Command", "build_parser", "check_config", "explain", "normalise_argv", "shared_with_train"]


@dataclass(frozen=True)
class Command:
    """A command: the function that runs it, whose parameters are its options, and a line of help."""

    run: Callable[..., None]
    help: str


FLAGS = ("--resume", "--diagnose", "--strict", "--streaming")


LISTS = ("--columns", "--scores", "--ks", "--tasks", "--sizes", "--modalities", "--galleries")


class _Help(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keep the lines of the description."""


def build_parser(commands: Mapping[str, Command]) -> tuple[ArgumentParser, dict[str, ArgumentParser]]:
    """The parser of all commands, and each command's own."""
    parser = ArgumentParser(prog="gramian", version=__version__, exit_on_error=False, allow_abbrev=False)
    added = parser.add_subcommands(dest="command", required=True, title="commands", metavar="COMMAND")
    subparsers = {}
    for name, command in commands.items():
        description = inspect.cleandoc(command.run.__doc__ or "").split("Args:")[0]
        subparser = ArgumentParser(description=description, exit_on_error=False, allow_abbrev=False, formatter_class=_Help)
        subparser.add_argument("--config", action=ActionConfigFile, help="YAML file with any of the options below")
        subparser.add_function_arguments(command.run, as_group=False)
        added.add_subcommand(name, subparser, help=command.help)
        subparsers[name] = subparser
    return parser, subparsers


def normalise_argv(words: list[str]) -> list[str]:
    """Write `--columns a,b` or `--columns a b` as the list, and a bare `--resume` as the yes, that the parser reads."""
    expanded: list[str] = []
    rest = list(words)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if name.startswith("--"):
            name = "--" + name[2:].replace("-", "_")
        values = [value] if equals else []
        while name in (*LISTS, *FLAGS) and not equals and rest and not rest[0].startswith("--"):
            values.append(rest.pop(0))
        if name in FLAGS:
            values = values or ["true"]
        elif name in LISTS and values and not values[0].startswith("["):
            values = [f"[{','.join(values)}]"]
        expanded += [f"{name}={values[0]}", *values[1:]] if values else [name]
    return expanded


def shared_with_train(words: list[str], check: Callable[..., None], train: Callable[..., None]) -> list[str]:
    """The words of `check`, with those options of a training run's YAML file that it has as well; the file may stand alone."""
    if len(words) > 1 and not words[1].startswith("-"):
        words = [words[0], "--config", *words[1:]]
    if "--config" not in words[:-1]:
        return words
    place = words.index("--config")
    check_config(words)
    config = yaml.safe_load(Path(words[place + 1]).read_text(encoding="utf-8"))
    known = inspect.signature(check).parameters
    given = []
    for name, value in config.items():
        check_choice("config", name, dict.fromkeys([*known, *inspect.signature(train).parameters]))
        if name in known:
            given.append(f"--{name}={value if isinstance(value, str) else json.dumps(value)}")
    return [*words[:place], *given, *words[place + 2 :]]


def check_config(words: Sequence[str]) -> None:
    """Read the YAML files named among `words` and say what is wrong with their shape, key by key."""
    given = [word.partition("=")[2] for word in words if word.startswith("--config=")]
    given += [after for word, after in pairwise(words) if word == "--config"]
    for name in given:
        path = Path(name)
        if not path.is_file():
            raise InputError(f"`config` must be an existing YAML file; there is no file {name!r}.")
        try:
            config = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InputError(f"`config` must be a YAML file in UTF-8; {name!r} cannot be read ({error}).") from None
        if not isinstance(config, dict):
            raise InputError(f"`config` must map options to values, as in `dim: 512`; {name!r} holds {_kind(config)}.")
        if "recipe" in config and not isinstance(config["recipe"], dict):
            raise InputError(f"`recipe` must map options to values, as in `epochs: 40`; got {_kind(config['recipe'])}.")
        if not isinstance(config.get("towers", {}), dict):
            raise InputError(
                "`towers` must map columns to encoders, as in `text: {class_path: HuggingFace, init_args: {model: …, kind: "
                f"text}}}}`; got {_kind(config['towers'])}."
            )
        loss = config.get("loss", "")
        if not (isinstance(loss, str) or (isinstance(loss, dict) and "class_path" in loss)):
            raise InputError(f"`loss` must be a name, or have `class_path: NAME` and `init_args`; got {_kind(loss)}.")
        for option in (word.removeprefix("--") for word in LISTS):
            if config.get(option) is not None and not isinstance(config[option], list):
                raise InputError(f"`{option}` must be a list, as in `{option}: [a, b]`; got {_kind(config[option])}.")


def _kind(value: object) -> str:
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    return "nothing" if value is None else f"{value!r:.40}"


def explain(message: str, command: str | None, subparsers: Mapping[str, ArgumentParser]) -> str:
    """Say in our own words what the parser complains of, naming the nearest real key."""
    flat = " ".join(message.split())
    keys = re.findall(r'[Pp]arser key "([^"]+)"', message)
    unknown = re.search(r"(?:option|Option) '([^']+)'", message) or re.search(
        r"[Uu]nrecognized arguments: -*([^\s=]+)", message
    )
    if unknown and command:
        key = ".".join([*keys[:1], unknown[1]]) if keys else unknown[1]
        loss = re.search(r"class_path '(?:\w+\.)*(\w+)'", message)
        near = difflib.get_close_matches(key, _keys(subparsers[command], loss[1] if loss else None), n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return f"`{key}` is not an option of `gramian {command}`.{hint} See gramian {command} --help."
    if "import path" in message and keys[:1] == ["loss"]:
        given = re.search(r"import path string: (\S+)", message)
        return str(wrong_choice("loss", given[1] if given else "", LOSSES))
    if keys[:1] == ["towers"]:
        return "`towers` must be a mapping of columns to encoders, in a YAML file: --config FILE. See docs/media.md."
    wrong = re.search(r"Expected an? (?:<class '(\w+)'>|typing\.Literal\[([^]]*)\])\.? (?:Got|Given) value: (\S+)", flat)
    if wrong and keys:
        expected = wrong[1] or f"one of {wrong[2]}"
        return f"`{'.'.join(keys)}` must be {expected}; got {wrong[3]!r}. See gramian {command} --help."
    missing = re.search(r"following arguments are required: (.+)", message)
    if missing and missing[1].strip() == "matcher":
        return "`loss` Matching trains a head beside another loss: name that one, and add --matching 0.1."
    if missing:
        names = missing[1].replace(f"{command}.", "--")
        return f"{names} must be given. See gramian {command} --help."
    return flat


def _keys(parser: ArgumentParser, loss: str | None) -> list[str]:
    """Every option of a command, those of the chosen loss included."""
    keys = [str(action.dest) for action in parser._actions]
    options = inspect.signature(LOSSES[loss]).parameters if loss in LOSSES else ()
    return [*keys, *(f"loss.{name}" for name in options)]
