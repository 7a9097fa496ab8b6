"""`gramian train`."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from gramian import __version__
from gramian.cli.terminal import check_folder, console_of
from gramian.data import Table, load
from gramian.data.cells import Broken
from gramian.distributed import is_main_process
from gramian.errors import InputError, listing
from gramian.evaluation import evaluate
from gramian.files import write_text
from gramian.losses import Contrast, Loss, Matching, recommended
from gramian.model import Aligner
from gramian.model.card import run_card
from gramian.model.heads import HeadName
from gramian.model.specs import Words, build_towers
from gramian.sheets import unreadable
from gramian.training import Recipe, fit

__all__ = ["train"]

logger = logging.getLogger("gramian")


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
    console = console_of()
    check_folder(output)
    made = build_towers(towers, columns, recipe.seed)
    table = load(data, columns=columns, raw=list(made))
    training, validation = split_table(table, validation_share, recipe.seed)
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


def split_table(table: Table, share: float, seed: int) -> tuple[Table, Table]:
    """Training and validation items: the splits of those names, or a share held out at random."""
    if table.split is not None:
        absent = {"train", "validation"} - set(table.split)
        if absent:
            raise InputError(
                f"column `split` must name train and validation items; it has {listing(sorted(set(table.split)))}. "
                "Rename them, or leave the column out to hold out a share at random."
            )
        return table.part("train"), table.part("validation")
    if not 0 < share < 1:
        raise InputError(f"`validation_share` must lie in (0, 1); got {share}.")
    names = table.item_ids or table.ids  # rows of one item go to one side
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


def _worth_a_report(table: Table) -> bool:
    mask = table.mask().double()
    return bool((mask.T @ mask).fill_diagonal_(0).amax() >= 2)
