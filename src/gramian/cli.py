"""The command line: `gramian demo | train | evaluate | embed | check | bench`."""

from __future__ import annotations

import argparse
import difflib
import inspect
import json
import logging
import re
import sys
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, DefaultHelpFormatter  # type: ignore[attr-defined]
from jsonargparse.typing import register_type
from rich.console import Console
from rich.logging import RichHandler
from safetensors import SafetensorError

from gramian import __version__
from gramian.bench import bench
from gramian.building import Words, build
from gramian.bundle import Bundle
from gramian.checking import check_table
from gramian.data import ENDINGS, Table, load, stream
from gramian.data.sources import READERS
from gramian.demo import demo
from gramian.distributed import is_main_process
from gramian.embedding import TowerSet, embed_shards, encode_table
from gramian.errors import InputError, check_choice, some, wrong_choice
from gramian.evaluation import DEFAULT, evaluate
from gramian.files import write_text
from gramian.losses import LOSSES, Contrast, Loss, Matching, recommended
from gramian.model import Aligner
from gramian.model.batch import Broken
from gramian.model.card import run_card
from gramian.model.encoders import ENCODERS
from gramian.model.heads import HeadName
from gramian.model.towers import Custom, Tower
from gramian.scores import ScoreName
from gramian.sheets import unreadable
from gramian.training import Recipe, fit

__all__ = ["main"]

logger = logging.getLogger("gramian")

register_type(Words, serializer=lambda words: dict(words.given), deserializer=Words.read)

Module = TypeVar("Module", bound=torch.nn.Module)

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


def train(
    data: str,
    output: Path,
    loss: Loss | None = None,
    columns: list[str] | None = None,
    towers: Words | None = None,
    head: HeadName = "linear",
    dim: int = 512,
    recipe: Recipe = Recipe(),  # noqa: B008 (frozen)
    matching: float = 0.0,
    validation_share: float = 0.1,
    resume: bool = False,
    strict: bool = False,
    report_to: str | None = None,
) -> None:
    """Train an Aligner on a table and save the weights that are best on the validation split, with a report and a model card.

    A table with a column `split` is trained on "train" and chosen on "validation"; "test" is read once, at the end, for the
    report. Otherwise a share of the items is held out by the recipe's seed, and the report is of those.

    Args:
        data: the training table: "stamps", a file, a folder or a hub id.
        output: folder for the model, the report, the log and the checkpoints.
        loss: the objective, by name, its options behind it, as in --loss Gram --loss.score cone; as published by default.
            Without one, the sum of Pairwise and Gram's cone, each at temperature 0.2, which measured best.
        columns: the modalities to use; by default those of the towers and every column of features.
        towers: column → the encoder that reads its raw cells; in a YAML file.
        head: of every modality.
        dim: width of the shared space.
        recipe: how to train.
        matching: weight of a matching head beside the loss, which `gramian evaluate` re-ranks with; 0.1 in the papers, 0
            trains none. Its hard negatives come from the loss's own score, its anchor is the loss's.
        validation_share: share of the items to hold out where the table has no splits.
        resume: go on from the newest checkpoint in the output folder.
        strict: stop at a raw cell that cannot be read; otherwise it counts as missing and is listed in the report.
        report_to: a tracker for the log: tensorboard, wandb, trackio or another that accelerate knows.
    """
    console = _console()
    _check_folder(output)
    made = _of_columns(towers, columns, recipe.seed)
    table = load(data, columns=columns, raw=list(made))
    training, validation = _splits(table, validation_share, recipe.seed)
    if not resume and ((output / "aligner").exists() or any(output.glob("checkpoints/*"))):
        raise InputError(f"`output` {str(output)!r} holds a run already. Go on with --resume, or name another folder.")
    if not 0 <= matching < float("inf"):
        raise InputError(f"`matching` must be a finite weight, 0 for none; got {matching}.")
    loss = loss or recommended()
    anchor = _anchor(loss, training.modalities)
    matcher = {"anchor": anchor} if matching else None
    aligner = Aligner.for_table(training.has_any(), dim=dim, head=head, towers=made, matcher=matcher, seed=recipe.seed)
    console.print(f"training on {training}, choosing on {validation}", highlight=False)
    if aligner.matcher is not None:
        score = loss.score if isinstance(loss, Contrast) and not callable(loss.score) else "centroid"
        loss = loss + matching * Matching(aligner.matcher, score=score, anchor=anchor)
    options: dict[str, Any] = {"recipe": recipe, "output": output, "resume": resume, "strict": strict, "report_to": report_to}
    history = fit(aligner, loss, training, validation, **options)
    if not is_main_process():
        return
    aligner.save_pretrained(output / "aligner")
    write_text(output / "splits.json", json.dumps({"train": training.ids, "validation": validation.ids}))
    best = f"validation MRR {100 * history.best:.1f} %, " if history.best is not None else ""
    console.print(f"{best}epoch {history.best_epoch} of {len(history.records)}; wrote {output / 'aligner'}", highlight=False)
    tested = table.split is not None and "test" in table.split
    split, held_out = ("test", table.part("test").has_any()) if tested else ("validation", validation.has_any())
    if not _worth_a_report(held_out):
        logger.warning("no report: the %s split has no two items to tell apart.", split)
        return
    broken: list[Broken] = []
    bundle = aligner.embed(held_out, workers=recipe.workers, strict=strict, broken=broken)
    settings = {"data": data, "split": split, "model": str(output / "aligner"), "version": __version__}
    report = replace(evaluate(bundle, settings=settings), broken=tuple(broken))
    report.save(output)
    parts = {"train": training, "validation": validation} | ({"test": held_out} if tested else {})
    aligner.card = run_card(
        aligner,
        data=data,
        counts={name: {"items": len(part)} | part.counts() for name, part in parts.items()},
        loss=loss,
        recipe=asdict(recipe),
        figures=report.sheets()[:1],
        split=split,
        chosen=f"the validation split's mean reciprocal rank, epoch {history.best_epoch} of {len(history.records)}",
        broken=history.broken,
        version=__version__,
    )
    write_text(output / "aligner" / "README.md", aligner.card)
    console.print(report.sheets()[0].rich())
    if broken:
        console.print(unreadable(broken).rich())
    console.print(f"wrote {output / 'report.md'} and {output / 'aligner' / 'README.md'}", highlight=False)


def evaluate_table(
    data: str,
    model: str | None = None,
    split: str | None = None,
    columns: list[str] | None = None,
    scores: list[ScoreName] | None = None,
    ks: list[int] | None = None,
    output: Path | None = None,
    diagnose: bool = False,
    rerank: int = 50,
    workers: int = 0,
    strict: bool = False,
    towers: Words | None = None,
) -> None:
    """Measure every direction of retrieval between the modalities of a table, and between subsets of them and one.

    Args:
        data: the table: "stamps", or a file; features for a model, or vectors that share one space already.
        model: a saved Aligner, a folder or a hub id; without one the columns are compared as they are.
        split: the split to evaluate, or "all"; "test" by default where the table has splits.
        columns: the modalities to use; all by default.
        scores: of the joint directions; span, cone, centroid, cosine and volume by default.
        ks: cut-offs of the recall; 1, 5 and 10 by default.
        output: folder for report.json and report.md; nothing is written without one.
        diagnose: show the shape of the space, too: uniformity, effective rank, modality gap, antipodal pairs, hubness, volume,
            the spectrum of a tuple, and how hard each objective would still pull.
        rerank: how many of the best the model's matching head puts in order, where it was trained with one.
        workers: processes that read raw media.
        strict: stop at a raw cell that cannot be read; otherwise it counts as missing and is listed in the report.
        towers: modality → the tower of a class of your own that the model was trained with.
    """
    console = _console()
    if output is not None:
        _check_folder(output)
    aligner = None if model is None else _on_device(Aligner.from_pretrained(model, towers=_of_columns(towers, None)))
    table = load(data, columns=columns, raw=() if aligner is None else aligner.raw())
    if split is None:
        split = "all" if table.split is None else "test"
    if split != "all":
        table = table.part(split)
    broken: list[Broken] = []
    kept, bundle = _embed(table, aligner, columns, workers=workers, strict=strict, broken=broken)
    matcher = None if aligner is None else aligner.matcher
    if matcher is not None and set(matcher.modalities) - set(bundle.modalities):
        logger.warning("not re-ranked: the matching head reads %s.", ", ".join(matcher.modalities))
        matcher = None
    seen = _trained_on(kept, model)
    if seen:
        logger.warning("%d of the %d evaluated items were trained on: the figures flatter the model.", seen, len(kept))
    settings = {"data": data, "split": split, "model": model or "none, vectors as they are", "version": __version__}
    report = evaluate(
        bundle,
        scores=scores or DEFAULT,
        ks=ks or (1, 5, 10),
        settings=settings,
        diagnose=diagnose,
        matcher=matcher,
        rerank=rerank,
        progress=True,
    )
    report = replace(report, broken=tuple(broken))
    console.print(f"{data}, split {split}: {bundle}", highlight=False)
    for sheet in report.sheets(every_subset=False):
        console.print(sheet.rich())
    for path in report.save(output) if output is not None else ():
        console.print(f"wrote {path}", highlight=False)


def embed(
    data: str,
    output: Path,
    model: str | None = None,
    towers: Words | None = None,
    split: str | None = None,
    columns: list[str] | None = None,
    batch_size: int | None = None,
    shard_size: int = 4096,
    workers: int = 0,
    precision: Literal["no", "bf16", "fp16"] = "no",
    streaming: bool = False,
    strict: bool = False,
) -> None:
    """Embed a table: with a trained Aligner into its shared space, or with towers into the features that they give.

    Into a folder it goes shard by shard, with a manifest; a killed run goes on where it stopped when it is started again, and
    several processes (torchrun, accelerate launch) share the work. `gramian train --data FOLDER` reads such a folder.

    Args:
        data: the table: "stamps", a file, a folder or a hub id.
        output: a folder for shards; or one file, .parquet or .safetensors. Vectors a modality, empty where missing.
        model: a saved Aligner: a folder or a hub id.
        towers: column → the encoder that reads its raw cells, in a YAML file; in place of a model, or beside one that was
            trained with towers of a class of your own.
        split: the split to embed; all by default.
        columns: the modalities to embed; all by default.
        batch_size: items a forward pass; 4,096 of features, 32 with raw cells.
        shard_size: items a file of the folder.
        workers: processes that read raw media.
        precision: of the forward pass.
        streaming: read the table as it arrives, without a copy of it on the disk; into a folder.
        strict: stop at a raw cell that cannot be read; otherwise it is left empty and listed.
    """
    console = _console()
    if model is None and towers is None:
        raise InputError("one of `model` and `towers` must be given: an Aligner, or encoders for its features.")
    made = _of_columns(towers, columns)
    aligner = None if model is None else Aligner.from_pretrained(model, towers=made)
    raw = list(made) if aligner is None else list(aligner.raw())
    embedder = TowerSet(made) if aligner is None else aligner
    names = list(columns or (made if aligner is None else ())) or None
    if output.suffix in ENDINGS:
        if output.exists() and Path(data).exists() and output.samefile(data):
            raise InputError(f"`output` must be another file than `data`; both are {data!r}.")
        if streaming:
            raise InputError("`streaming` writes shards: `output` must be a folder.")
        table = load(data, split=split, columns=names, raw=raw)
        if aligner is not None:
            for name in columns or ():
                check_choice("columns", name, aligner.modalities)
            table = table.select(*_known(table, aligner))
        broken: list[Broken] = []
        size = batch_size or (32 if raw else 4096)
        options: dict[str, Any] = {"workers": workers, "precision": precision, "strict": strict, "broken": broken}
        found = encode_table(_on_device(embedder), table, size, **options)
        readable = torch.stack([there for _, there in found.values()]).any(0)
        if not bool(readable.any()):
            raise InputError(f"`data` {data!r} has no cell that can be read{_first(broken)}.")
        kept = table[readable]
        vectors = {name: values[readable] for name, (values, _) in found.items()}
        present = {name: there[readable] for name, (_, there) in found.items()}
        Table({**vectors}, present, kept.ids, kept.split, items=kept.items).save(output)
        left = len(table) - len(kept)
        note = f" ({left} items with nothing to embed left out)" if left else ""
        counts = ", ".join(f"{name} {int(mask.sum())}" for name, mask in present.items())
        console.print(f"wrote {output}: {len(kept)} items; {counts}{note}", highlight=False)
        _tell(broken)
        return
    if output.suffix in (*READERS, ".npy", ".npz", ".pt"):
        check_choice("output", output.suffix, ENDINGS)
    parts: Table | Iterator[Table]
    if streaming:
        if split is not None:
            raise InputError("`split` cannot be taken from a stream. Embed all of it, and pick the split afterwards.")
        parts = stream(data, shard_size, columns=names, raw=raw)
    else:
        parts = load(data, split=split, columns=names, raw=raw)
        if aligner is not None:
            parts = parts.select(*_known(parts, aligner))
    size = batch_size or (32 if raw else 4096)
    written = embed_shards(
        embedder,
        parts,
        output,
        source=data,
        batch_size=size,
        shard_size=shard_size,
        workers=workers,
        precision=precision,
        strict=strict,
    )
    kept_note = f", {written.kept} of them there already" if written.kept else ""
    console.print(f"wrote {output}: {written.rows} items in {written.shards} shards{kept_note}", highlight=False)
    _tell(written.broken)


def check(
    data: str,
    towers: Words | None = None,
    columns: list[str] | None = None,
    workers: int = 0,
    strict: bool = False,
) -> None:
    """Read every cell of a table once, as training would, and say what is there, missing, broken and cut off.

    It takes the YAML file of `gramian train`, as in: gramian check table.yaml. Exit code 2 with --strict and something broken.

    Args:
        data: the table: "stamps", a file, a folder or a hub id.
        towers: column → the encoder that reads its raw cells; in a YAML file.
        columns: the modalities to read; by default those of the towers and every column of features.
        workers: processes that read raw media.
        strict: fail if a cell cannot be read.
    """
    console = _console()
    made = _of_columns(towers, columns)
    table = load(data, columns=columns, raw=list(made))
    for name in made:
        check_choice("towers", name, table.columns)
    readers = {name: tower.reader for name, tower in made.items()}
    checked = check_table(table, readers, workers=workers)
    for sheet in checked.sheets():
        console.print(sheet.rich())
    if strict and checked.broken:
        row, modality, reason = checked.broken[0]
        raise InputError(
            f"{len(checked.broken)} cells cannot be read, the first in column `{modality}`, id {row!r}: {reason}. Mend them."
        )


def demo_command(output: Path = Path("runs/demo"), seeds: int = 3, recipe: Recipe = Recipe(), resume: bool = False) -> None:  # noqa: B008
    """Train and compare Pairwise, GRAM and PMRL, as published and mended, on the embedded data set.

    Args:
        output: folder for the report and the pictures.
        seeds: runs an objective.
        recipe: how to train; its seed is replaced by the run's.
        resume: take the finished runs in the output folder, made with the same settings.
    """
    demo(output, seeds=seeds, recipe=recipe, resume=resume, console=_console())


def bench_command(
    output: Path = Path("runs/bench"),
    tasks: list[str] = ["gram", "pmrl", "scoring"],  # noqa: B006 (the parser copies it)
    sizes: list[int] = [256, 1024, 2048, 4096],  # noqa: B006
    modalities: list[int] = [2, 3, 4, 5],  # noqa: B006
    galleries: list[int] = [10_000, 100_000],  # noqa: B006
    dim: int = 512,
    rounds: int = 5,
    device: str | None = None,
) -> None:
    """Time the published formulas, the plain forms, the blocked forms and the bare matrix products, in turns.

    Args:
        output: folder for costs.csv and costs.png.
        tasks: gram, pmrl, scoring.
        sizes: batches of the contrastive steps.
        modalities: numbers of modalities.
        galleries: items that 1,000 queries are scored against.
        dim: width of the vectors.
        rounds: how often each form is timed.
        device: cpu or cuda; cuda where there is one by default.
    """
    options = {"tasks": tasks, "sizes": sizes, "modalities": modalities, "galleries": galleries}
    bench(output, **options, dim=dim, rounds=rounds, device=device, console=_console())  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Command:
    run: Callable[..., None]
    help: str


FLAGS = ("--resume", "--diagnose", "--strict", "--streaming")
LISTS = ("--columns", "--scores", "--ks", "--tasks", "--sizes", "--modalities", "--galleries")
COMMANDS: dict[str, _Command] = {
    "demo": _Command(demo_command, "train and compare five objectives on the embedded data set"),
    "check": _Command(check, "read a table once: what is there, missing, broken"),
    "train": _Command(train, "train an aligner on a table, with a report and a model card"),
    "evaluate": _Command(evaluate_table, "measure every direction of retrieval"),
    "embed": _Command(embed, "write a table's vectors: of an aligner, or of towers"),
    "bench": _Command(bench_command, "time the forms of losses and scores against the published formulas"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, or 2 for bad input, which is told in one line on stderr."""
    handler = RichHandler(console=Console(stderr=True), show_time=False, show_path=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    words = _expand(list(sys.argv[1:] if arguments is None else arguments))
    if not words or words[0] in ("-h", "--help", "help"):
        print(PAGE.format(commands="\n".join(f"  {name:<10}{command.help}" for name, command in COMMANDS.items())), end="")
        return 0
    parser, subparsers = _parser()
    try:
        if words[0] == "check":
            words = _of_training(words)
        _check_config(words)
        config = parser.parse_args(words)
        options = parser.instantiate(config)[config.command].as_dict()
        options.pop("config", None)
        COMMANDS[config.command].run(**options)
    except ArgumentError as error:
        command = next((word for word in words if word in subparsers), None)
        return _fail(_explain(str(error), command, subparsers))
    except InputError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"{error.filename or 'a file'} cannot be used: {error.strerror or error}. Free it, or name another.")
    except SafetensorError as error:
        return _fail(f"a file cannot be written: {error}. Free some space, or name another folder.")
    except KeyboardInterrupt:
        return _fail("interrupted. What was finished is kept; train and demo go on with --resume.", 130)
    return 0


class _Help(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keep the lines of the description."""


def _parser() -> tuple[ArgumentParser, dict[str, ArgumentParser]]:
    parser = ArgumentParser(prog="gramian", version=__version__, exit_on_error=False, allow_abbrev=False)
    commands = parser.add_subcommands(dest="command", required=True, title="commands", metavar="COMMAND")
    subparsers = {}
    for name, command in COMMANDS.items():
        description = inspect.cleandoc(command.run.__doc__ or "").split("Args:")[0]
        subparser = ArgumentParser(description=description, exit_on_error=False, allow_abbrev=False, formatter_class=_Help)
        subparser.add_argument("--config", action=ActionConfigFile, help="YAML file with any of the options below")
        subparser.add_function_arguments(command.run, as_group=False)
        commands.add_subcommand(name, subparser, help=command.help)
        subparsers[name] = subparser
    return parser, subparsers


def _expand(words: list[str]) -> list[str]:
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


def _of_training(words: list[str]) -> list[str]:
    """The words of `check`, with those options of a training run's YAML file that it has as well; the file may stand alone."""
    if len(words) > 1 and not words[1].startswith("-"):
        words = [words[0], "--config", *words[1:]]
    if "--config" not in words[:-1]:
        return words
    place = words.index("--config")
    _check_config(words)
    config = yaml.safe_load(Path(words[place + 1]).read_text(encoding="utf-8"))
    known = inspect.signature(check).parameters
    given = []
    for name, value in config.items():
        check_choice("config", name, dict.fromkeys([*known, *inspect.signature(train).parameters]))
        if name in known:
            given.append(f"--{name}={value if isinstance(value, str) else json.dumps(value)}")
    return [*words[:place], *given, *words[place + 2 :]]


def _check_config(words: Sequence[str]) -> None:
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


def _explain(message: str, command: str | None, subparsers: Mapping[str, ArgumentParser]) -> str:
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


def _console() -> Console:
    """The terminal, or a page wide enough not to break tables where the output is piped."""
    quiet = not is_main_process()
    console = Console(quiet=quiet)
    return console if console.is_terminal else Console(width=160, quiet=quiet)


def _check_folder(output: Path) -> None:
    for path in (output, *output.parents):
        if path.exists():
            if not path.is_dir():
                raise InputError(f"`output` must be a folder; {str(path)!r} is a file. Name another.")
            break


def _trained_on(table: Table, model: str | None) -> int:
    """How many of the items the model was trained on, where it lies beside the record of its training."""
    try:
        ids = set(json.loads((Path(model or "") / ".." / "splits.json").read_text())["train"])
    except (OSError, ValueError, KeyError):
        return 0
    return sum(name in ids for name in table.ids)


def _fail(message: str, code: int = 2) -> int:
    print("gramian: " + " ".join(message.split()), file=sys.stderr)
    return code


def _splits(table: Table, share: float, seed: int) -> tuple[Table, Table]:
    """Training and validation items: the splits of those names, or a share held out at random."""
    if table.split is not None:
        absent = {"train", "validation"} - set(table.split)
        if absent:
            raise InputError(
                f"column `split` must name train and validation items; it has {some(sorted(set(table.split)))}. "
                "Rename them, or leave the column out to hold out a share at random."
            )
        return table.part("train"), table.part("validation")
    if not 0 < share < 1:
        raise InputError(f"`validation_share` must lie in (0, 1); got {share}.")
    names = table.items or table.ids  # rows of one item go to one side
    distinct = list(dict.fromkeys(names))
    held_out = max(2, round(share * len(distinct)))
    if len(distinct) - held_out < 2:
        raise InputError(f"the table must hold at least 4 items to train and to choose on; got {len(distinct)}.")
    order = torch.randperm(len(distinct), generator=torch.Generator().manual_seed(seed)).tolist()
    held = {distinct[i] for i in order[:held_out]}
    chosen = torch.tensor([name in held for name in names])
    return table[~chosen], table[chosen]


def _anchor(loss: Loss, modalities: Sequence[str]) -> str:
    """The loss's own fixed anchor, or "each"."""
    anchor = getattr(loss, "anchor", None)
    return anchor if isinstance(anchor, str) and anchor in modalities else "each"


def _of_columns(towers: Words | None, columns: Sequence[str] | None, seed: int = 0) -> dict[str, Tower]:
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


def _worth_a_report(table: Table) -> bool:
    mask = table.mask().double()
    return bool((mask.T @ mask).fill_diagonal_(0).amax() >= 2)


def _tell(broken: Sequence[Broken]) -> None:
    if broken and is_main_process():
        logger.warning("%d cells could not be read and are empty%s", len(broken), _first(broken))


def _first(broken: Sequence[Broken]) -> str:
    told = "; ".join(f"{one.modality} of {one.id}: {one.reason}" for one in broken[:3])
    return f" ({told})" if told else ""


def _on_device(model: Module) -> Module:
    """On the accelerator, where there is one."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return model if device is None else model.to(device)


def _known(table: Table, aligner: Aligner) -> list[str]:
    """The columns that a model reads, at least one."""
    known = [name for name in table.modalities if name in aligner.modalities]
    if not known:
        raise InputError(
            f"`data` has none of the columns that the model reads ({', '.join(aligner.modalities)}); "
            f"it has {', '.join(table.modalities)}."
        )
    return known


def _embed(
    table: Table,
    aligner: Aligner | None,
    columns: Sequence[str] | None = None,
    *,
    workers: int = 0,
    strict: bool = False,
    broken: list[Broken] | None = None,
    batch_size: int | None = None,
) -> tuple[Table, Bundle]:
    """The items that can be embedded, and their vectors: by an Aligner, or as they stand; `columns` must be among them."""
    if aligner is None:
        kept = table.has_any()
        return kept, kept.to_bundle()
    for name in columns or ():
        check_choice("columns", name, aligner.modalities)
    known = _known(table, aligner)
    kept = table.select(*known).has_any()
    bundle = aligner.embed(kept, batch_size=batch_size, workers=workers, strict=strict, broken=broken).select(*known)
    readable = bundle.has()
    if not bool(readable.all()):
        kept, bundle = kept[readable], bundle[readable]
    return kept, bundle
