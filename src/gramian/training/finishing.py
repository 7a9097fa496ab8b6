"""What a run ends with: weights of joint queries, the report, the model card and the Aligner, written in this order."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from gramian import __version__
from gramian.canonical import PAPERS
from gramian.data import Reading, Table
from gramian.data.cells import Broken
from gramian.data.splits import drawn, hold_out, paired_items
from gramian.distributed import is_main_process
from gramian.evaluation import Report, all_weights, evaluate
from gramian.evaluation.report import CHOSEN
from gramian.files import write_text
from gramian.losses import Loss
from gramian.model.aligner import Aligner
from gramian.model.card import run_card
from gramian.training.canonical import Choice, Search
from gramian.training.recipe import History, Recipe

__all__ = ["Parts", "Run", "finish"]

logger = logging.getLogger("gramian")

WEIGHED = 1000
"""Validation items, at most, by which the weights of joint queries are chosen."""


@dataclass(frozen=True)
class Run:
    """The result of `train`.

    Attributes:
        aligner: with the best weights.
        history: of the training; a `Choice` of the closed form.
        report: of the test split, or of the validation split if the table has no test split; None if no two of its items share
            two modalities, and in processes other than the first.
        written: the folder of the Aligner, and the report.
    """

    aligner: Aligner
    history: History | Choice
    report: Report | None
    written: tuple[Path, ...]


@dataclass(frozen=True)
class Parts:
    """A table in parts: to train on, to choose on, and for the report.

    Attributes:
        training: the split "train", or what is not held out.
        validation: the split of that name, or what is held out.
        reported: the split "test", or else the validation items.
        tested: whether the report is of a test split.
    """

    training: Table
    validation: Table
    reported: Table
    tested: bool

    @classmethod
    def of(cls, table: Table, share: float, seed: int) -> Parts:
        """The splits of a table; where it has none, a share of its items is held out by a seed.

        Raises:
            InputError: too few items for one of them.
        """
        training, validation = hold_out(table, share, seed)
        tested = table.split is not None and "test" in table.split
        if is_main_process():
            logger.info("training on %s, choosing on %s", training, validation)
        return cls(training, validation, table.part("test") if tested else validation, tested)

    def held_out(self, aligner: Aligner) -> Table:
        """The items of the report, with the modalities of the Aligner."""
        return self.reported.has_any().select(*aligner.modalities).has_any()


def finish(
    aligner: Aligner,
    history: History | Choice,
    parts: Parts,
    output: Path,
    begun: Table | None,
    *,
    how: Search | Recipe,
    objective: Loss,
    data: str,
    reading: Reading,
    seed: int,
) -> Run:
    """Choose the weights of joint queries, write the report and the card, and last the Aligner: a folder that has one is whole.

    Args:
        aligner: as trained.
        history: how; of the closed form its `Choice`.
        parts: the table.
        output: folder of the run.
        begun: vectors of some items of the report before training.
        how: the recipe; the search of the closed form.
        objective: the loss, where there was one.
        data: the table's name, for the report.
        reading: of raw cells.
        seed: by which many validation items are sampled.

    Returns:
        The Run.
    """
    chosen_on = parts.validation.select(*aligner.modalities).has_any()
    unread: list[Broken] = []  # as in training, whose history lists them
    aligner.query_weights = all_weights(aligner.embed(drawn(chosen_on, WEIGHED, seed), reading=reading, broken=unread))
    held_out, split = parts.held_out(aligner), "test" if parts.tested else "validation"
    settings = {"data": data, "split": split, "columns": ", ".join(aligner.modalities), "model": str(output / "aligner")}
    settings |= _described(how, objective, history) | {"version": __version__}
    report: Report | None = None
    written = [output / "aligner"]
    if paired_items(held_out) < 2:
        logger.warning("no report: no two items of the %s split share two modalities.", split)
    else:
        broken: list[Broken] = []
        bundle = aligner.embed(held_out, reading=reading, broken=broken)
        weights = aligner.query_weights if parts.tested else None  # chosen on the validation items
        if not parts.tested:
            logger.info(
                "reporting on the validation items, which chose the settings; only items of a split 'test' are new to the model"
            )
        report = evaluate(bundle, settings=settings, broken=broken, ids=held_out.ids, weights=weights)
        splits = {"train": parts.training, "validation": parts.validation} | ({"test": held_out} if parts.tested else {})
        aligner.card = run_card(
            aligner,
            data=data,
            counts={name: {"items": len(part)} | part.counts() for name, part in splits.items()},
            objective=how.criterion if isinstance(how, Search) else repr(objective),
            papers=PAPERS[how.criterion] if isinstance(how, Search) else objective.papers,
            options=asdict(how),
            figures=report.sheets()[:1],
            split=split,
            chosen=history.chosen,
            broken=history.broken,
            version=__version__,
        )
        replace(report, start=begun).save(output)
        written.append(output / "report.md")
    write_text(output / "splits.json", json.dumps({"train": parts.training.ids, "validation": parts.validation.ids}))
    aligner.save_pretrained(output / "aligner")
    return Run(aligner, history, report, tuple(written))


def _described(how: Search | Recipe, objective: Loss, history: History | Choice) -> dict[str, str]:
    """How a run was trained, for its report: the objective, the options that are not the default, what was chosen."""
    default = type(how)()
    changed = {name: value for name, value in asdict(how).items() if value != asdict(default)[name]}
    return {
        "method": f"closed form, {how.criterion}" if isinstance(how, Search) else repr(objective),
        "search" if isinstance(how, Search) else "recipe": ", ".join(f"{name} {value}" for name, value in changed.items())
        or "the default",
        CHOSEN: history.chosen,
    }
