"""`gramian check`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gramian.cli.terminal import console_of
from gramian.data import load
from gramian.data.checking import check_table
from gramian.errors import InputError
from gramian.model.specs import Spec, build_towers
from gramian.model.towers import Tower, collator_for

__all__ = ["check"]


def check(
    data: str,
    towers: Mapping[str, Tower | Spec] | None = None,
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
        columns: the modalities to read; by default those of the towers and every column of features.
        workers: processes that read raw media.
        strict: fail if a cell cannot be read.
        trust_code: let `towers` name classes of other modules, whose code then runs; typed, never in a file.
        media_root: folders outside of the table's own that its cells may name files in; typed, never in a file.

    Raises:
        InputError: a table or towers that cannot be used; with `strict`, a cell that cannot be read.
    """
    console = console_of()
    encoders = build_towers(towers, columns, trust_code=trust_code)
    table = load(data, columns=columns, raw=list(encoders), media_root=media_root)
    checked = check_table(table, collator_for(table, encoders), workers=workers)
    for sheet in checked.sheets():
        console.print(sheet.rich())
    if strict and checked.broken:
        row, modality, reason = checked.broken[0]
        raise InputError(
            f"{len(checked.broken)} cells cannot be read, the first in column `{modality}`, id {row!r}: {reason}. Fix them."
        )
