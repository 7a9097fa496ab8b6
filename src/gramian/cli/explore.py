"""`gramian explore`."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from gramian.cli.shared import Trust, media_table
from gramian.cli.terminal import console_of
from gramian.errors import InputError, renamed, require
from gramian.evaluation.previews import Previews
from gramian.index import FlatIndex, Index
from gramian.index.checks import check_port
from gramian.index.mapping import export as export_map

__all__ = ["explore_command"]


def explore_command(
    run: Path,
    port: int = 7860,
    media: str | None = None,
    model: str | None = None,
    trust: Trust = Trust(),
    export: Path | None = None,
    items: int = 20_000,
) -> None:
    """Explore a run's index on a page of this machine: ask by any modalities together, see answers, media and a map.

    What the model reads from raw can be typed, dropped or recorded; every item can be asked for more of the same. The page can
    be reached from this machine alone, and loads nothing from elsewhere.

    Args:
        run: folder that `gramian index` wrote to, or of an index.
        port: to listen on.
        media: a table with the raw cells of the items, by their ids, whose small previews are shown; or "stamps", where the
            collection is installed.
        model: a saved Aligner that embeds queries, instead of the run's.
        trust: towers, and folders whose files may be shown.
        export: a parquet file to write the map to instead, in the columns that embedding-atlas reads.
        items: of that file at most, drawn by a seed.

    Raises:
        InputError: an index that cannot be used, a port in use, a table without raw cells, Gradio that is not installed.
    """
    index = Index.open(run, model=trust.named_model(run, model))
    if not isinstance(index, FlatIndex):
        raise InputError(f"{str(run)!r} holds an index of Qdrant, which the page does not read. Make one by gramian index.")
    if export is not None:
        with renamed(count="items", path="export"):
            count = export_map(index, export, items)
        console_of().print(f"wrote {export}, {count} items of {len(index)}")
        return
    require("gradio", "jinja2")
    roots = trust.roots()
    from gramian.index.explorer import Explorer
    from gramian.index.explorer_page import HOST, opened

    check_port(port, HOST)
    with renamed(data="media"):
        previews = None if media is None else Previews(media_table(media, index.modalities, roots))
    explorer = Explorer(index, previews=previews, media_root=roots)
    with opened(explorer, port, title=f"{run.resolve().name} · gramian explore") as address:
        console_of().print(f"{index!r} on {address}; Ctrl-C ends it")
        with suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)
