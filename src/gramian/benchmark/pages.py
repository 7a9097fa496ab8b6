"""Tables of a study, written between the markers of a page of documentation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from gramian.errors import InputError
from gramian.files import write_text

__all__ = ["read_page", "write_tables"]


def write_tables(title: str, tables: Mapping[str, str], output: Path, page: Path | None = None) -> list[Path]:
    """Write the tables of a study to `output/report.md`, and into a page of documentation.

    Args:
        title: of the report.
        tables: marker → Markdown.
        output: folder.
        page: has the lines `<!-- MARKER -->` and `<!-- /MARKER -->` for every marker; the text between them is replaced.

    Returns:
        The paths written.

    Raises:
        InputError: a page that does not exist or lacks a marker.
    """
    written = [write_text(output / "report.md", f"# {title}\n\n" + "\n".join(tables.values()))]
    if page is not None:
        text = read_page(page, tables)
        for marker, table in tables.items():
            text = re.sub(_between(marker), lambda match: f"{match[1]}\n{table}\n{match[2]}", text, flags=re.S)  # noqa: B023
        written.append(write_text(page, text))
    return written


def read_page(page: Path, markers: Iterable[str]) -> str:
    """The text of a page of documentation, checked for its markers.

    Raises:
        InputError: a page that does not exist or lacks a marker.
    """
    if not page.is_file():
        raise InputError(f"`page` must be an existing Markdown file; there is no {str(page)!r}.")
    text = page.read_text(encoding="utf-8")
    for marker in markers:
        if not re.search(_between(marker), text, flags=re.S):
            raise InputError(f"`page` must have the lines <!-- {marker} --> and <!-- /{marker} -->; {str(page)!r} lacks them.")
    return text


def _between(marker: str) -> str:
    return rf"(<!-- {re.escape(marker)} -->\n).*?(<!-- /{re.escape(marker)} -->)"
