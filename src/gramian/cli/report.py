"""`gramian report`."""

from __future__ import annotations

import shlex
from pathlib import Path

from gramian.cli.compare import named
from gramian.cli.shared import media_table
from gramian.cli.terminal import console_of
from gramian.errors import InputError, check_number, listing, renamed
from gramian.evaluation.page import size_of
from gramian.evaluation.previews import Previews
from gramian.evaluation.run_page import run_page
from gramian.evaluation.stored import read_run

__all__ = ["report_command"]


def report_command(
    run: str,
    compare: list[str] | None = None,
    output: Path | None = None,
    media: str | None = None,
    columns: list[str] | None = None,
    media_mb: float = 8.0,
    media_root: list[Path] | None = None,
) -> None:
    """Write one page on a run: figures with intervals, pictures, hardest and best queries, training, how it was made.

    The page is a single HTML file that loads nothing from elsewhere. It reads the folder that `gramian evaluate --output` or
    `gramian train` wrote, and compares it with others on the same items.

    Args:
        run: the folder of an evaluation or a training run.
        compare: folders of other runs on the same items.
        output: the page; report.html in the folder of the run by default.
        media: a table with the raw cells of the items, by the ids of the run, whose small previews become part of the page; or
            "stamps", where the collection is installed.
        columns: the raw columns of that table to show; those that the run names by default.
        media_mb: of previews at most, in MB; 0 shows texts alone.
        media_root: folders outside of the table's own that its cells may name files in; typed, never in a file.

    Raises:
        InputError: a folder without a report, runs of other items, a table without raw cells.
    """
    check_number("media_mb", media_mb, "[0, 100]")
    folders = [run, *(compare or [])]
    if len(set(folders)) < len(folders):
        raise InputError(f"`compare` must name other folders than `run`; got {', '.join(folders)}.")
    with renamed(runs="`run` and `compare`"):
        runs = named(folders) if compare else {Path(run).name or run: run}
    previews = None
    if media is not None:
        stored = read_run(run)
        names = columns or list(stored.present)
        with renamed(folder="media", data="media", labels="columns"):
            previews = Previews(media_table(media, names, media_root, columns), media_mb)
        asked = [example.id for example in stored.examples]
        if asked and not set(asked) & set(previews.rows):
            raise InputError(
                f"`media` must name its rows as the run does, such as {asked[0]!r}; it has {listing(previews.rows)}. Give it a "
                "column `id`."
            )
    words = ["gramian", "report", run]
    for name, value in (("compare", compare), ("output", output), ("media", media), ("columns", columns)):
        for each in value if isinstance(value, list) else [] if value is None else [value]:
            words += [f"--{name}", str(each)]
    with renamed(runs="`run` and `compare`"):
        page = run_page(runs, previews=previews, command=shlex.join(words))
    path = page.save(output or Path(run) / "report.html")
    console_of().print(f"wrote {path}, {size_of(path.stat().st_size)}")
