"""What `gramian evaluate --classify` and `--regress` do: embed the items to learn from, and predict classes and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from gramian.bundle import Bundle
from gramian.data import Reading, Table, load
from gramian.data.cells import Broken, Cells
from gramian.errors import InputError, renamed
from gramian.evaluation import Report
from gramian.evaluation.classification import Classified, nearest, probe, zero_shot
from gramian.evaluation.regression import regress
from gramian.model import Aligner
from gramian.scores import ScoreName

__all__ = ["Predictor", "embed_items"]


def embed_items(
    table: Table,
    aligner: Aligner | None,
    columns: Sequence[str] | None,
    reading: Reading,
    broken: list[Broken],
) -> tuple[Table, Bundle]:
    """The items that can be embedded, and their vectors: by an Aligner, or as they stand; `columns` must be among them."""
    if aligner is None:
        items = table.has_any()
        return items, items.to_bundle()
    items = aligner.towers.known(table, columns).has_any()
    bundle = aligner.embed(items, reading=reading, broken=broken).select(*items.modalities)
    readable = bundle.has()
    if not bool(readable.all()):
        items, bundle = items[readable], bundle[readable]
    return items, bundle


@dataclass(frozen=True)
class Predictor:
    """Predicts classes and numbers of embedded items.

    Attributes:
        aligner: the model; None for vectors as they are.
        columns: the modalities to use.
        reading: of raw cells.
        broken: gets the cells that cannot be read.
        scores: of class prompts, for several modalities together.
        neighbours: that vote on a class.
        every: predict by every subset of the modalities, and not by each alone and all together.
    """

    aligner: Aligner | None
    columns: Sequence[str] | None
    reading: Reading
    broken: list[Broken]
    scores: Sequence[ScoreName]
    neighbours: int
    every: bool = False

    def of(
        self,
        report: Report,
        table: Table,
        split: str,
        items: Table,
        bundle: Bundle,
        label: str | None,
        number: str | None,
        prompts: tuple[Bundle, Sequence[str | None]] | None,
    ) -> Report:
        """The report with what is predicted of the items.

        Args:
            report: of the same items.
            table: all items, with the splits to learn from.
            split: the evaluated one.
            items: the evaluated rows.
            bundle: their vectors.
            label: the column of classes.
            number: the column of numbers.
            prompts: of the classes, and the class of each.

        Returns:
            The Report.

        Raises:
            InputError: nothing to learn from, or columns that cannot be predicted.
        """
        learnt = {
            name: embed_items(table.part(name), self.aligner, self.columns, self.reading, self.broken)
            for name in ("train", "validation")
            if table.split is not None and name in table.split and split not in (name, "all")
        }
        if "train" not in learnt and (number is not None or prompts is None):
            raise InputError(
                "`classify` and `regress` learn from the split 'train', which must not be evaluated itself; got split "
                f"{split!r}. Give the table a column `split`, or name the classes by `prompts`."
            )
        m = len(bundle.modalities)
        sizes = range(1, m + 1) if self.every else sorted({1, m})
        sets = [names for size in sizes for names in combinations(bundle.modalities, size)]
        classified: list[Classified] = []
        if label is not None:
            for names in sets:
                if prompts is not None:
                    scores: Sequence[ScoreName] = ("cosine",) if len(names) == 1 else self.scores
                    classified += [
                        zero_shot(bundle, items.labels[label], *prompts, modalities=names, score=score) for score in scores
                    ]
                if "train" in learnt:
                    (seen, vectors), rest = learnt["train"], learnt.get("validation")
                    by = vectors, seen.labels[label], bundle, items.labels[label]
                    validation = None if rest is None else (rest[1], rest[0].labels[label])
                    alone: ScoreName = "cosine" if len(names) == 1 else "centroid"
                    classified.append(nearest(*by, modalities=names, score=alone, k=self.neighbours))
                    classified.append(probe(*by, modalities=names, validation=validation))
        regressed = []
        if number is not None:
            (seen, vectors), rest = learnt["train"], learnt.get("validation")
            validation = None if rest is None else (rest[1], rest[0].labels[number])
            for names in sets:
                by = vectors, seen.labels[number], bundle, items.labels[number]
                regressed.append(regress(number, *by, modalities=names, validation=validation))
        return replace(report, label=label or "", classified=tuple(classified), regressed=tuple(regressed))

    def prompts(
        self, prompts: Sequence[str], label: str, table: Table, media_root: Sequence[Path] | None
    ) -> tuple[Bundle, list[str | None]]:
        """The vectors of prompts, and the class of each.

        Args:
            prompts: sentences with {} for the class, or the name of a table.
            label: the column of classes.
            table: all items, whose classes the sentences are about.
            media_root: see `load`.

        Returns:
            n prompts and n classes.

        Raises:
            InputError: sentences for a model that does not read text, or without a place for the class.
        """
        raw = () if self.aligner is None else self.aligner.raw_modalities()
        if len(prompts) == 1 and "{}" not in prompts[0]:
            with renamed(labels=f"`prompts` and its column `{label}`", data="prompts"):
                described = load(prompts[0], raw=raw, labels=[label], media_root=media_root)
        else:
            if self.aligner is None or "text" not in raw:
                raise InputError(
                    "`prompts` in words need a model whose modality `text` reads text. Name a table with the prompts' features."
                )
            wrong = [prompt for prompt in prompts if "{}" not in prompt]
            if wrong:
                raise InputError(f"`prompts` must hold {{}} where the class stands; {wrong[0]!r:.60} does not.")
            classes = sorted({name for name in table.labels[label] if name is not None})
            texts = [prompt.replace("{}", name) for name in classes for prompt in prompts]
            names: list[str | None] = [name for name in classes for _ in prompts]
            described = Table.from_columns({"text": Cells(texts)}, labels={label: names})
        seen, vectors = embed_items(described, self.aligner, None, self.reading, self.broken)
        return vectors, list(seen.labels[label])
