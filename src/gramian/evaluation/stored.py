"""`Stored`: what the folder of an evaluation or a training run holds, as plain data. It may be a stranger's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gramian.bundle import Bundle
from gramian.data.table import Table
from gramian.errors import InputError, first_line
from gramian.evaluation.examples import Example
from gramian.evaluation.report import REPORT, SPACE, START
from gramian.evaluation.stats import Interval
from gramian.files import inside, parse_json, read_json
from gramian.model.options import convert
from gramian.sheets import Sheet

__all__ = ["Confusion", "Stored", "StoredDirection", "read_run"]


@dataclass(frozen=True)
class StoredDirection:
    """The figures of a direction.

    Attributes:
        query: modalities that ask.
        target: modalities of the candidates.
        score: name of the score.
        queries: number of them.
        gallery: number of candidates.
        recall: cut-off → R@k with its interval.
    """

    query: tuple[str, ...]
    target: tuple[str, ...]
    score: str
    queries: int
    gallery: int
    recall: dict[int, Interval]

    @property
    def name(self) -> str:
        """Such as "image+speech → text"."""
        return f"{'+'.join(self.query)} → {'+'.join(self.target)}"

    @property
    def joint(self) -> bool:
        """Whether a side holds several modalities."""
        return len(self.query) + len(self.target) > 2


class Confusion(NamedTuple):
    """What is taken for what.

    Attributes:
        name: of the method.
        classes: their names.
        counts: (c, c) items of the class in the row, by what they are taken for.
        accuracy: of the method.
    """

    name: str
    classes: tuple[str, ...]
    counts: NDArray[np.int64]
    accuracy: Interval


@dataclass(frozen=True)
class Stored:
    """A run as its folder tells it.

    Attributes:
        folder: of the run.
        settings: what was evaluated.
        rows: of the split.
        items: different ones.
        present: modality → rows that have it.
        mean: cut-off → mean recall over the directions between two modalities.
        directions: all of them.
        broken: cells that could not be read.
        diagnostics: the shape of the space, by name.
        sheets: the report's tables.
        examples: hardest and best queries.
        epochs: records of training; empty for an evaluation or the closed form.
        speeds: of the epochs.
        curves: score → share of the cells that was dropped → mean R@1; empty where it was not measured.
        label: by what the items were classified; "" where they were not.
        confusion: of the most accurate method; None without classification.
        space: vectors of some items; None where none were kept.
        ids: of those items.
        start: their vectors before training; None where none were kept.
    """

    folder: Path
    settings: dict[str, str]
    rows: int
    items: int
    present: dict[str, int]
    mean: dict[int, Interval]
    directions: tuple[StoredDirection, ...]
    broken: int
    diagnostics: dict[str, float]
    sheets: tuple[Sheet, ...]
    examples: tuple[Example, ...]
    epochs: tuple[dict[str, Any], ...]
    speeds: tuple[dict[str, Any], ...]
    curves: dict[str, dict[float, Interval]]
    label: str
    confusion: Confusion | None
    space: Bundle | None
    ids: tuple[str, ...]
    start: Bundle | None

    @property
    def singles(self) -> tuple[StoredDirection, ...]:
        """The directions between two modalities."""
        return tuple(one for one in self.directions if not one.joint)


def read_run(folder: str | Path) -> Stored:
    """Read what `Report.save`, `gramian evaluate --output` and `gramian train` wrote.

    Args:
        folder: of a run.

    Returns:
        Its content.

    Raises:
        InputError: no report in the folder, or one that is damaged or of an older version.
    """
    folder = Path(folder)
    path = folder / REPORT
    if not path.is_file():
        raise InputError(
            f"`run` must be a folder that holds {REPORT}; {str(folder)!r} has none. Evaluate with --output, or train, first."
        )
    data = read_json(inside(folder, REPORT), finite=False)
    try:
        stored = _stored(folder, data)
    except (InputError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"`run` must hold the report of an evaluation; {str(path)!r} is damaged or of another version "
            f"({first_line(error):.120}). Evaluate again."
        ) from None
    return stored


def _stored(folder: Path, data: Mapping[str, Any]) -> Stored:
    space, start = (Table.load(inside(folder, name)) if (folder / name).is_file() else None for name in (SPACE, START))
    if start is not None and (space is None or start.ids != space.ids):  # of another evaluation
        start = None
    best = {int(k): _interval(value) for k, value in dict(data["mean_recall"]).items()}
    if not best:
        raise InputError("no recall")
    return Stored(
        folder=folder,
        settings=convert(data["settings"], dict[str, str], "settings"),
        rows=convert(data["rows"], int, "rows"),
        items=convert(data["items"], int, "items"),
        present=convert(data["present"], dict[str, int], "present"),
        mean=best,
        directions=tuple(_direction(one) for one in data["directions"]),
        broken=len(convert(data["unreadable"], list[dict[str, str]], "unreadable")),
        diagnostics={name: float(value) for name, value in data["diagnostics"].items()},
        sheets=tuple(_sheet(one) for one in data["sheets"]),
        examples=tuple(_example(one) for one in data["examples"]),
        epochs=_records(folder, "metrics.jsonl"),
        speeds=_records(folder, "speed.jsonl"),
        curves=_curves(data["robustness"]),
        label=convert(data["label"], str, "label"),
        confusion=_confusion(data["classified"]),
        space=None if space is None else space.to_bundle(),
        ids=() if space is None else space.ids,
        start=None if start is None else start.to_bundle(),
    )


def _interval(value: Mapping[str, Any]) -> Interval:
    return Interval(*(float(value[part]) for part in ("value", "low", "high")))


def _direction(one: Mapping[str, Any]) -> StoredDirection:
    return StoredDirection(
        query=tuple(convert(one["query"], list[str], "query")),
        target=tuple(convert(one["target"], list[str], "target")),
        score=convert(one["score"], str, "score"),
        queries=convert(one["queries"], int, "queries"),
        gallery=convert(one["gallery"], int, "gallery"),
        recall={int(k): _interval(value) for k, value in one["recall"].items()},
    )


def _curves(robustness: Mapping[str, Any] | None) -> dict[str, dict[float, Interval]]:
    curves = {}
    for one in () if robustness is None else robustness["curves"]:
        drops, values = convert(one["drops"], list[float], "drops"), list(map(_interval, one["recall"]))
        curves[convert(one["score"], str, "score")] = dict(zip(drops, values, strict=True))
    return curves


def _confusion(classified: Sequence[Mapping[str, Any]]) -> Confusion | None:
    """That of the most accurate method."""
    if not classified:
        return None
    one = max(classified, key=lambda each: float(each["accuracy"]["value"]))
    classes = tuple(convert(one["classes"], list[str], "classes"))
    counts = np.array(convert(one["confusion"], list[list[int]], "confusion"))
    if counts.shape != (len(classes), len(classes)) or counts.min(initial=0) < 0:
        raise InputError(f"a confusion matrix that is not one of {len(classes)} classes")
    words = (convert(one["method"], str, "method"), "+".join(convert(one["modalities"], list[str], "modalities")))
    score = convert(one["score"], str, "score")
    return Confusion(", ".join(words) + (f" by {score}" if score else ""), classes, counts, _interval(one["accuracy"]))


def _sheet(one: Mapping[str, Any]) -> Sheet:
    header = tuple(convert(one["header"], list[str], "header"))
    rows = tuple(tuple(row) for row in convert(one["rows"], list[list[str]], "rows"))
    if any(len(row) != len(header) for row in rows):
        raise InputError("a table whose rows do not have the columns of its header")
    return Sheet(convert(one["title"], str, "title"), header, rows, convert(one["note"], str, "note"))


def _example(one: Mapping[str, Any]) -> Example:
    return Example(
        query=convert(one["query"], str, "query"),
        target=convert(one["target"], str, "target"),
        kind="best" if one["kind"] == "best" else "hardest",
        id=convert(one["id"], str, "id"),
        rank=float(one["rank"]),
        gallery=convert(one["gallery"], int, "gallery"),
        found=tuple(convert(one["found"], list[str], "found")),
        right=tuple(convert(one["right"], list[bool], "right")),
    )


def _records(folder: Path, name: str) -> tuple[dict[str, Any], ...]:
    """The numbers of a log's lines; lines of something else are left out."""
    try:
        text = inside(folder, name).read_text("utf-8", errors="replace")
    except OSError:
        return ()
    records = []
    for line in text.splitlines():
        with suppress(ValueError, RecursionError):
            record = parse_json(line)
            if isinstance(record, dict) and isinstance(record.get("epoch"), int):
                records.append({key: value for key, value in record.items() if type(value) in (int, float)})
    return tuple(records)
