"""`gramian explore`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from gramian.cli.index import named_model
from gramian.cli.terminal import console_of
from gramian.data import load
from gramian.data.sets.stamps import FOLDER, raw
from gramian.data.table import Table
from gramian.errors import InputError, require
from gramian.evaluation.previews import Previews
from gramian.index import FlatIndex
from gramian.index.mapping import export as export_map
from gramian.model.specs import Spec
from gramian.model.towers import Tower

__all__ = ["explore_command"]


def explore_command(
    run: Path,
    port: int = 7860,
    media: str | None = None,
    media_root: list[Path] | None = None,
    model: str | None = None,
    towers: Mapping[str, Tower | Spec] | None = None,
    trust_code: bool = False,
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
        media_root: folders outside of the table's own whose files may be shown, where the table or the index names them; typed,
            never in a file.
        model: a saved Aligner that embeds queries, instead of the run's.
        towers: modality → the tower of a class of your own that the model was trained with.
        trust_code: let `towers` name classes of other modules, whose code then runs; typed, never in a file.
        export: a parquet file to write the map to instead, in the columns that embedding-atlas reads.
        items: of that file at most, drawn by a seed.

    Raises:
        InputError: an index that cannot be used, a port in use, a table without raw cells, Gradio that is not installed.
    """
    index = FlatIndex.open(run, model=named_model(run, model, towers, trust_code))
    if export is not None:
        count = export_map(index, export, items)
        console_of().print(f"wrote {export}, {count} items of {len(index)}")
        return
    require("gradio", "jinja2")
    for root in media_root or ():
        if not root.is_dir():
            raise InputError(f"`media_root` must name existing folders; {str(root)!r} is none.")
    from gramian.index.explorer import Explorer
    from gramian.index.explorer_page import check_port, opened

    check_port(port)
    previews = None if media is None else Previews(_media(media, index, media_root))
    explorer = Explorer(index, previews=previews, media_root=media_root or ())
    with opened(explorer, port, title=f"{run.resolve().name} · gramian explore") as address:
        console_of().print(f"{index!r} on {address}; Ctrl-C ends it")
        with suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)


def _media(media: str, index: FlatIndex, roots: list[Path] | None) -> Table:
    """The table of raw cells."""
    if media == "stamps":
        return raw(FOLDER)
    return load(media, raw=index.modalities, media_root=roots)
