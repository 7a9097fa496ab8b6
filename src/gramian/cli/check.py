"""`gramian check`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gramian.cli.checkpoint import checkpoint
from gramian.cli.terminal import console_of
from gramian.data import load
from gramian.data.checking import check_table
from gramian.data.released import Release, TaskName
from gramian.errors import InputError
from gramian.evaluation.released import known_subtitles
from gramian.model.encoders.released.towers import VOCABULARY
from gramian.model.specs import Spec, build_towers
from gramian.model.towers import Tower, collator_for

__all__ = ["check"]


def check(
    data: str,
    towers: Mapping[str, Tower | Spec] | None = None,
    released: str | None = None,
    task: TaskName | None = None,
    release: Release = "gram",
    vocabulary: str = VOCABULARY,
    columns: list[str] | None = None,
    workers: int = 0,
    strict: bool = False,
    trust_code: bool = False,
    media_root: list[Path] | None = None,
) -> None:
    """Read every cell of a table once, as training would, and report what is present, missing, unreadable and cut off.

    It takes the YAML file of `gramian train`, as in: gramian check table.yaml. With --strict unreadable cells are an error.

    Args:
        data: the table: "stamps", a file, a folder or a hub id.
        towers: column → the encoder that reads its raw cells; in a YAML file.
        released: in place of `towers` a checkpoint as the authors of GRAM, PMRL or VAST published it: a file, folder or hub id.
        task: the data set whose settings `released` is read with.
        release: whose checkpoint `released` is.
        vocabulary: the words of the BERT of `released`: vocab.txt, a folder or a hub id.
        columns: the modalities to read; by default those of the towers and every column of features.
        workers: processes that read raw media.
        strict: fail if a cell cannot be read.
        trust_code: let `towers` name classes of other modules, whose code then runs; typed, never in a file.
        media_root: folders outside of the table's own that its cells may name files in; typed, never in a file.

    Raises:
        InputError: a table or towers that cannot be used; with `strict`, a cell that cannot be read.
    """
    console = console_of()
    loaded = checkpoint(released, task, release, vocabulary, columns, towers=towers)
    if loaded is None:
        encoders = build_towers(towers, columns, trust_code=trust_code)
        table = load(data, columns=columns, raw=list(encoders), media_root=media_root)
    else:
        every = loaded.aligner.towers
        table = load(data, columns=columns, raw=every.modalities, media_root=media_root)
        table = known_subtitles(every.known(table, columns))
        encoders = {name: every[name] for name in table.modalities}
    checked = check_table(table, collator_for(table, encoders), workers=workers)
    for sheet in checked.sheets():
        console.print(sheet.rich())
    if strict and checked.broken:
        row, modality, reason = checked.broken[0]
        raise InputError(
            f"{len(checked.broken)} cells cannot be read, the first in column `{modality}`, id {row!r}: {reason}. Fix them."
        )
