"""The command line: `gramian COMMAND`, one of `COMMANDS`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from safetensors import SafetensorError

from gramian import __version__
from gramian.benchmark import costs
from gramian.benchmark.plan import Plan
from gramian.cli.bench import bench_command
from gramian.cli.benchmark import benchmark_command
from gramian.cli.check import check
from gramian.cli.compare import compare_command
from gramian.cli.demo import demo_command
from gramian.cli.embed import embed
from gramian.cli.evaluate import evaluate_table
from gramian.cli.explore import explore_command
from gramian.cli.index import index_command
from gramian.cli.parsing import Command, help_of, parse
from gramian.cli.prepare import prepare_command
from gramian.cli.report import report_command
from gramian.cli.search import search_command
from gramian.cli.serve import serve_command
from gramian.cli.terminal import fail, log_to_stderr, stoppable
from gramian.cli.train import train_command
from gramian.errors import InputError, check_choice, first_line, is_exhausted, renamed
from gramian.processes import watched
from gramian.training import train

__all__ = ["main"]

PATIENCE = 20.0
"""Seconds to wait for the other processes of a run where no torchrun looks after them, and ends all when one fails."""


PAGE = """\
usage: gramian COMMAND [options]

Align any number of modalities in one space: train, measure, retrieve and report.

commands:
{commands}

  gramian COMMAND --help lists the options of a command; gramian --version shows the version.

start with:
  gramian demo

then:
  gramian train --data stamps --output runs/stamps
  gramian evaluate --data stamps --model runs/stamps/aligner --output runs/stamps/test
  gramian embed --data stamps --model runs/stamps/aligner --output vectors.parquet
  gramian index runs/stamps --data stamps --metadata split
  gramian search runs/stamps --data stamps --row animals/birds/owl --by text

Data are tables with one column per modality: parquet, Arrow, CSV, JSON lines, safetensors, webdataset, folders, hub
ids. A cell is a list of floats, or text, a path or bytes for a tower to read; empty where the modality is missing. A
column "id" names the items, a column "split" says train, validation or test.

To read raw media, name towers in a YAML file:
  gramian check table.yaml
  gramian train table.yaml --output runs/media

Every option can be set in the YAML file; what is typed overrides the file. A file names encoders and losses of gramian
alone; for classes of other modules, whose code then runs, type --trust-code.
"""


COMMANDS: dict[str, Command] = {
    "demo": Command(demo_command, "align by six methods and compare them on the embedded data set"),
    "check": Command(check, "read a table once: what is present, missing, unreadable", reads=train),
    "prepare": Command(prepare_command, "make a data set: of public packages, or of a public set's files", bare="data"),
    "train": Command(train_command, "train an aligner on a table, with a report and a model card", options=train),
    "evaluate": Command(evaluate_table, "measure every direction of retrieval", reads=train),
    "compare": Command(compare_command, "say which of several evaluations is better, and how sure that is", bare="runs"),
    "report": Command(report_command, "write one page on a run, compared with others", bare="run"),
    "embed": Command(embed, "write a table's vectors: of an aligner, or of towers", reads=train),
    "index": Command(index_command, "embed a table and add its items to a run's index", reads=train, bare="run"),
    "search": Command(search_command, "search a run's index by any modalities together", bare="run"),
    "serve": Command(serve_command, "serve a run's index over HTTP, on this machine", bare="run"),
    "explore": Command(explore_command, "explore a run's index on a page of this machine", bare="run"),
    "benchmark": Command(
        benchmark_command,
        "compare methods over data sets, seeds and splits: the studies behind the docs",
        options=Plan,
        bare="study",
    ),
    "bench": Command(bench_command, "time the forms of losses and scores against the published formulas", options=costs.bench),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, or 2 for bad input, which is reported in one line on stderr."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    patience = None if "TORCHELASTIC_RUN_ID" in os.environ else PATIENCE
    try:
        log_to_stderr()
        if not words or words[0] in ("-h", "--help", "help"):
            print(PAGE.format(commands="\n".join(f"  {name:<10}{one.help}" for name, one in COMMANDS.items())), end="")
        elif words[0] == "--version":
            print(f"gramian {__version__}")
        else:
            with stoppable(), watched(patience):
                _run(words[0], words[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # who reads the output has had enough of it, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left would be written at the end
        return 128 + signal.SIGPIPE
    except InputError as error:
        return fail(str(error))
    except OSError as error:
        reason = error.strerror or (os.strerror(error.errno) if error.errno else str(error))
        return fail(f"{error.filename or 'a file'} cannot be used: {reason}. Free it, or name another.")
    except SafetensorError as error:
        return fail(f"a file cannot be written: {error}. Free some space, or name another folder.")
    except (MemoryError, RuntimeError) as error:
        if not is_exhausted(error):
            raise
        return fail(f"memory ran out: {first_line(error) or 'no more of it'}. Use a smaller batch, or fewer items.")
    except KeyboardInterrupt as stop:
        number = stop.args[0] if stop.args else signal.SIGINT
        how = "interrupted" if number == signal.SIGINT else "terminated"
        return fail(f"{how}. Finished work is kept; train, demo and benchmark resume with --resume.", 128 + number)
    return 0


def _run(name: str, words: Sequence[str]) -> None:
    command = COMMANDS[check_choice("COMMAND", name, COMMANDS)]
    if {"-h", "--help"} & set(words):
        print(help_of(name, command, words), end="")
    else:
        with renamed(**command.called()):
            command.run(**parse(name, command, words))
