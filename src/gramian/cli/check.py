"""`gramian check`."""

from __future__ import annotations

from gramian.cli.shared import Checkpoint, Trust
from gramian.cli.terminal import console_of
from gramian.data import Reading, load
from gramian.data.checking import check_table
from gramian.errors import InputError
from gramian.evaluation.released import known_subtitles
from gramian.model.towers import collator_for

__all__ = ["check"]


def check(
    data: str,
    columns: list[str] | None = None,
    checkpoint: Checkpoint = Checkpoint(),
    trust: Trust = Trust(),
    reading: Reading = Reading(),
) -> None:
    """Read every cell of a table once, as training would, and report what is present, missing, unreadable and cut off.

    It takes the YAML file of `gramian train`, as in: gramian check table.yaml. With --strict unreadable cells are an error.

    Args:
        data: the table: "stamps", a file, a folder or a hub id.
        columns: the modalities to read; by default those of the towers and every column of features.
        checkpoint: whose towers read the cells.
        trust: the towers, and what they may do.
        reading: of raw cells.

    Raises:
        InputError: a table or towers that cannot be used; with `strict`, a cell that cannot be read.
    """
    console = console_of()
    loaded = checkpoint.load(columns, towers=trust.towers)
    if loaded is None:
        encoders = trust.built(columns)
        table = load(data, columns=columns, raw=list(encoders), media_root=trust.media_root)
    else:
        every = loaded.aligner.towers
        table = load(data, columns=columns, raw=every.modalities, media_root=trust.media_root)
        table = known_subtitles(every.known(table, columns))
        encoders = {name: every[name] for name in table.modalities}
    checked = check_table(table, collator_for(table, encoders), workers=reading.workers)
    for sheet in checked.sheets():
        console.print(sheet.rich())
    if reading.strict and checked.broken:
        row, modality, reason = checked.broken[0]
        raise InputError(
            f"{len(checked.broken)} cells cannot be read, the first in column `{modality}`, id {row!r}: {reason}. Fix them."
        )
