"""`gramian evaluate`."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from gramian import __version__
from gramian.bundle import Bundle
from gramian.cli.predicting import Predictor, embed_items
from gramian.cli.shared import Checkpoint, Trust, run_settings, split_ids
from gramian.cli.terminal import console_of
from gramian.data import Reading, Table, load
from gramian.data.cells import Broken, summary
from gramian.data.sets.corpora import whole
from gramian.distributed import device, is_main_process
from gramian.errors import InputError, check_choice, check_number, listing, renamed
from gramian.evaluation import DEFAULT, Reranker, Subsets, evaluate
from gramian.evaluation.released import askable, paper_row
from gramian.evaluation.report import CHOSEN
from gramian.files import claimed
from gramian.model import Aligner, Matcher, ReleasedMatcher
from gramian.model.contexts import PackedReranker, Stage, embed_with_contexts
from gramian.scores import ScoreName

__all__ = ["evaluate_table"]

logger: logging.Logger = logging.getLogger("gramian")


def evaluate_table(
    data: str,
    model: str | None = None,
    split: str | None = None,
    columns: list[str] | None = None,
    scores: list[ScoreName] | None = None,
    ks: list[int] | None = None,
    subsets: Subsets = "others",
    directions: list[str] | None = None,
    corpus: str | None = None,
    mixed: bool = False,
    robustness: bool = False,
    classify: str | None = None,
    prompts: list[str] | None = None,
    neighbours: int = 20,
    regress: str | None = None,
    output: Path | None = None,
    diagnose: bool = False,
    rerank: int = 50,
    hubs: bool = False,
    checkpoint: Checkpoint = Checkpoint(),
    trust: Trust = Trust(),
    reading: Reading = Reading(),
) -> None:
    """Measure every direction of retrieval between the modalities of a table, and between subsets of them and one.

    Args:
        data: the table: "stamps", or a file; features for a model, or vectors that share one space already.
        model: a saved Aligner, a folder or a hub id; without one the columns are compared as they are.
        split: the split to evaluate, or "all"; "test" by default where the table has splits.
        columns: the modalities to use; all by default.
        scores: of the joint directions; span, cone, centroid, cosine and volume by default.
        ks: cut-offs of the recall; 1, 5 and 10 by default.
        subsets: which subsets of modalities are compared with a single one: all others together ("others"), every subset of
            two or more ("all"), whose number doubles with each modality, or "none".
        directions: what asks for what, in place of `subsets`: text->*, image+speech->text, *->others or all, in quotation
            marks. * is each modality, ** every subset, others all that the other side does not name.
        corpus: a second table that holds the candidates; its rows match those of `data` with the same item, or id.
        mixed: rank each modality against one gallery of the vectors of all modalities, too, and show which come first.
        robustness: show what is left when modalities are missing, too: with ever more cells dropped, without each modality, and
            for complete and incomplete items.
        classify: predict the class of each item, a column of text, by nearest neighbours and a linear probe that learn from the
            split "train", and by `prompts`; of each modality alone and of all together, with --subsets all of every subset.
        prompts: of the classes: sentences with {} for the class, in quotation marks, for a model that reads text; or a table
            with the same column of classes, several rows for a class where there are several prompts.
        neighbours: training items that vote on a class.
        regress: predict a number, a column, by a linear probe that learns from the split "train".
        output: folder for report.json, report.md and ranks.parquet, which `gramian compare` reads; nothing is written without
            one.
        diagnose: show the shape of the space, too: uniformity, effective rank, modality gap, antipodal pairs, hubness, volume,
            the spectrum of a tuple, and how hard each objective would still pull.
        rerank: how many of the best candidates the model's matching head re-ranks, where it was trained with one.
        hubs: correct every score for hubs, by the training items that the model keeps (`gramian train --bank 1000`).
        checkpoint: in place of `model`.
        trust: towers, and what they may do.
        reading: of raw cells.

    Raises:
        InputError: a table, a model or options that cannot be used; an output folder that holds a run.
    """
    console = console_of()
    check_number("rerank", rerank, "[1, inf)", integer=True)
    if output is not None and (output / "aligner").exists():
        raise InputError(
            f"`output` {str(output)!r} holds a run, and its report. Name another folder, as {str(output / 'test')!r}."
        )
    with nullcontext() if output is None else claimed(output, is_main_process()):
        aligner: Aligner | None = None
        stage: Stage = "volume"
        task = checkpoint.task
        loaded = checkpoint.load(columns, model=model, towers=trust.towers)
        if loaded is not None:
            aligner, stage = loaded.aligner.to(device()), loaded.task.stage
        elif model is not None:
            aligner = trust.aligner(model).to(device())
        bank = None if aligner is None else aligner.bank
        if hubs and bank is None:
            raise InputError("`hubs` needs a model that keeps training items. Train it with --bank 1000.")
        raw = () if aligner is None else aligner.raw_modalities()
        labels = [name for name in (classify, regress) if name is not None]
        if prompts and classify is None:
            raise InputError("`prompts` are of the classes that `classify` names. Add --classify COLUMN.")
        told_by = " or ".join(
            f"`{name}`" for name, label in (("classify", classify), ("regress", regress)) if label is not None
        )
        with renamed(labels=told_by):
            whole_table = table = load(data, columns=columns, raw=raw, labels=labels, media_root=trust.media_root)
        if split is None:
            split = "all" if table.split is None else "test"
            if table.split is not None and split not in table.split:
                there = listing(sorted(set(table.split)))
                raise InputError(f"`data` has no rows of split 'test', only of {there}. Name one with --split; all takes all.")
        elif split != "all" and table.split is not None:
            check_choice("split", split, [*sorted(set(table.split)), "all"])
        count = whole(table, split)
        if split != "all":
            table = table.part(split)
        broken: list[Broken] = []
        found, candidates = None, None
        if corpus is not None:
            table = _named(table)
            with renamed(data="corpus"):
                others = _named(load(corpus, raw=raw, media_root=trust.media_root))
                found, candidates = embed_items(others, aligner, None, reading, broken)
        asks = columns is None or "text" in columns  # without a text there is nothing to re-rank
        if aligner is not None and isinstance(aligner.matcher, ReleasedMatcher) and candidates is None and asks:
            items = askable(aligner.towers.known(table, columns))
            embedded = _with_contexts(aligner, items, stage, output, reading, broken, progress=console.is_terminal)
        else:
            items, bundle = embed_items(table, aligner, columns, reading, broken)
            head = None if aligner is None or candidates is not None else aligner.matcher
            embedded = _Embedded(bundle, head if isinstance(head, Matcher) else None)
        embedded = embedded.checked()
        bundle, matcher = embedded.bundle, embedded.matcher
        seen = _trained_on(items, model)
        if seen:
            logger.warning("%d of the %d evaluated items were trained on: the figures flatter the model.", seen, len(items))
        named = model or checkpoint.released or "none, vectors as they are"
        settings = {"data": data, "split": split, "model": named, "version": __version__}
        settings |= _method(model) | ({} if task is None else {"task": task, "release": checkpoint.release})
        settings |= {} if corpus is None else {"corpus": corpus}
        with renamed(bundle="data", missing="robustness", best="rerank"):
            report = evaluate(
                bundle,
                scores=scores or (("volume",) if isinstance(matcher, PackedReranker) else DEFAULT),
                ks=ks or (1, 5, 10),
                subsets=subsets,
                directions=directions,
                corpus=candidates,
                corpus_ids=None if found is None else found.ids,
                mixed=mixed,
                missing=robustness,
                settings=settings,
                broken=broken,
                diagnose=diagnose,
                rerank=matcher,
                best=rerank,
                stage=embedded.stage,
                bank=bank if hubs else None,
                weights=None if aligner is None else aligner.query_weights,
                progress=True,
                ids=items.ids,
                whole=count if count > len(set(items.item_ids or items.ids)) else None,
            )
        console.print(f"{data}, split {split}: {bundle}")
        if isinstance(matcher, PackedReranker):
            how = "the volume" if embedded.stage is None else "the fused head"
            console.print(paper_row(report, task or data, None if task is None else checkpoint.release, how).rich())
        if labels:
            predictor = Predictor(aligner, columns, reading, broken, scores or DEFAULT, neighbours, subsets == "all")
            names = {"train_labels": "classify", "classes": "prompts", "modalities": "columns", "k": "neighbours"}
            with renamed(labels="classify", **names):
                described = None if not prompts else predictor.prompts(prompts, str(classify), whole_table, trust.media_root)
                report = predictor.of(report, whole_table, split, items, bundle, classify, regress, described)
        for sheet in report.sheets():
            console.print(sheet.rich())
        for path in report.save(output) if output is not None and is_main_process() else ():
            console.print(f"wrote {path}")


@dataclass(frozen=True)
class _Embedded:
    """Items in the shared space, the head that re-ranks them, and the vectors whose candidates it re-ranks, if others."""

    bundle: Bundle
    matcher: Matcher | Reranker | None = None
    stage: Bundle | None = None

    def checked(self) -> _Embedded:
        """The same without a head that reads modalities which are not there."""
        if self.matcher is None or self.stage is not None or not set(self.matcher.modalities) - set(self.bundle.modalities):
            return self
        logger.warning("not re-ranked: the matching head reads %s.", ", ".join(self.matcher.modalities))
        return replace(self, matcher=None)


def _with_contexts(
    aligner: Aligner,
    items: Table,
    stage: Stage,
    folder: Path | None,
    reading: Reading,
    broken: list[Broken],
    *,
    progress: bool,
) -> _Embedded:
    """Items as a released model embeds them, with what its matching head reads."""
    found = embed_with_contexts(aligner, items, stage=stage, folder=folder, reading=reading, broken=broken, progress=progress)
    if broken and not bool(found.bundle.has(*(name for name in items.modalities if name != "text")).any()):
        raise InputError(f"no video or recording of `data` can be read: {summary(broken)}.")
    return _Embedded(found.bundle, found.reranker, None if found.stage is found.bundle else found.stage)


def _named(table: Table) -> Table:
    """The table with the items that its rows are about: their own names, where it has no column of them."""
    return table if table.item_ids is not None else replace(table, item_ids=table.ids)


def _method(model: str | None) -> dict[str, str]:
    """The objective of the run that a model lies in, and what was chosen for it, by the report of `gramian train`."""
    return {} if model is None else run_settings(model, "method", CHOSEN)


def _trained_on(table: Table, model: str | None) -> int:
    """How many of the items the model was trained on, by the `splits.json` beside a model that `gramian train` wrote."""
    if model is None:
        return 0
    ids = set(split_ids(model, "train"))
    return sum(name in ids for name in table.ids)
