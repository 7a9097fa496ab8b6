"""The command line: `gramian demo | check | train | evaluate | embed | bench`."""

from __future__ import annotations

import logging
import sys
from argparse import ArgumentError
from collections.abc import Sequence

from rich.console import Console
from rich.logging import RichHandler
from safetensors import SafetensorError

from gramian.cli.bench import bench_command
from gramian.cli.check import check
from gramian.cli.demo import demo_command
from gramian.cli.embed import embed
from gramian.cli.evaluate import evaluate_table
from gramian.cli.parsing import Command, build_parser, check_config, explain, normalise_argv, shared_with_train
from gramian.cli.terminal import fail
from gramian.cli.train import train
from gramian.errors import InputError

__all__ = ["main"]


PAGE = """\
usage: gramian COMMAND [options]

Align any number of modalities in one space: train, measure, retrieve and report.

commands:
{commands}

  gramian COMMAND --help lists a command's options; gramian --version the version.

start with:
  gramian demo

then:
  gramian train --data stamps --output runs/stamps
  gramian evaluate --data stamps --model runs/stamps/aligner --output runs/stamps/test
  gramian embed --data stamps --model runs/stamps/aligner --output vectors.parquet

Data are tables with a column a modality: parquet, Arrow, CSV, JSON lines, safetensors, webdataset, folders, hub ids.
A cell is a list of floats, or text, a path or bytes for a tower to read; empty where the modality is missing. A column
"id" names the items, a column "split" says train, validation or test.

With towers in a YAML file raw media are read:
  gramian check table.yaml
  gramian train --config table.yaml --output runs/media

Every option can stand in a YAML file, --config file.yaml, and be overridden behind it.
"""


COMMANDS: dict[str, Command] = {
    "demo": Command(demo_command, "train and compare five objectives on the embedded data set"),
    "check": Command(check, "read a table once: what is there, missing, broken"),
    "train": Command(train, "train an aligner on a table, with a report and a model card"),
    "evaluate": Command(evaluate_table, "measure every direction of retrieval"),
    "embed": Command(embed, "write a table's vectors: of an aligner, or of towers"),
    "bench": Command(bench_command, "time the forms of losses and scores against the published formulas"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, or 2 for bad input, which is told in one line on stderr."""
    handler = RichHandler(console=Console(stderr=True), show_time=False, show_path=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    words = normalise_argv(list(sys.argv[1:] if arguments is None else arguments))
    if not words or words[0] in ("-h", "--help", "help"):
        print(PAGE.format(commands="\n".join(f"  {name:<10}{command.help}" for name, command in COMMANDS.items())), end="")
        return 0
    parser, subparsers = build_parser(COMMANDS)
    try:
        if words[0] == "check":
            words = shared_with_train(words, check, train)
        check_config(words)
        config = parser.parse_args(words)
        options = parser.instantiate(config)[config.command].as_dict()
        options.pop("config", None)
        COMMANDS[config.command].run(**options)
    except ArgumentError as error:
        command = next((word for word in words if word in subparsers), None)
        return fail(explain(str(error), command, subparsers))
    except InputError as error:
        return fail(str(error))
    except OSError as error:
        return fail(f"{error.filename or 'a file'} cannot be used: {error.strerror or error}. Free it, or name another.")
    except SafetensorError as error:
        return fail(f"a file cannot be written: {error}. Free some space, or name another folder.")
    except KeyboardInterrupt:
        return fail("interrupted. What was finished is kept; train and demo go on with --resume.", 130)
    return 0
