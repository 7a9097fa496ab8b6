"""The stamps: where the embedded table comes from, and the raw collection as a table of captions and files.

The embedded table, `gramian.data.load("stamps")`, holds features of Tux Paint's stamp collection; NOTICE has the terms. Its
header names the package and the encoders that it was made with, with their versions and hashes (`provenance`). `raw` lists the
collection itself, where the Debian package is installed; `examples/stamps_raw` makes the features from it.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from gramian.data.cells import Cells
from gramian.data.load import EMBEDDED
from gramian.data.sets.splitting import in_hash_order
from gramian.data.table import Table
from gramian.errors import InputError

__all__ = ["FOLDER", "assign_splits", "discover", "normalise_caption", "provenance", "raw", "read_caption", "source_sha256"]

FOLDER = Path("/usr/share/tuxpaint/stamps")
"""Where the Debian package puts the collection."""

SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "image": (".png", ".svg"),
    "text": (".txt",),
    "speech_fr": ("_desc_fr.ogg", "_desc_fr.wav"),
    "speech_es": ("_desc_es.ogg", "_desc_es.wav"),
    "sound": (".ogg", ".wav"),
}
"""Column → what follows the stem of a stamp's files, in order of preference."""


def provenance() -> dict[str, Any]:
    """What the embedded table was made from, as its header says.

    Returns:
        "source": package, version, licence and SHA-256 (see `source_sha256`) of the collection; "columns": encoder, packages,
        SHA-256 and licence of the weights, width, counts and what could not be read, by column; "splits"; "libraries".
    """
    origin: dict[str, Any] = json.loads(Table.load(EMBEDDED["stamps"]).metadata["provenance"])
    return origin


def raw(folder: Path = FOLDER, *, ids: Collection[str] | None = None, test: int = 150, validation: float = 0.12) -> Table:
    """The collection as a table: captions, and paths of drawings, recordings and sounds; no file but the captions is read.

    Args:
        folder: of the stamps.
        ids: stamps to list; all by default. Other packages add stamps to that folder; `load("stamps").ids` are those of the
            embedded table.
        test: size of the test gallery, see `assign_splits`.
        validation: fraction for validation.

    Returns:
        Columns `text`, of captions, and `image`, `speech_fr`, `speech_es` and `sound`, of paths; ids in alphabetical order;
        the splits "train", "validation", "test" and "shared".

    Raises:
        InputError: no stamps in the folder, or too few for the test gallery.
    """
    stamps = {name: files for name, files in discover(folder).items() if ids is None or name in ids}
    columns: dict[str, list[str | None]] = {
        column: [str(files[column]) if column in files else None for files in stamps.values()] for column in SUFFIXES
    }
    columns["text"] = [read_caption(files["text"]) if "text" in files else None for files in stamps.values()]
    complete = [all(cells) for cells in zip(*(columns[name] for name in ("image", "text", "speech_fr")), strict=True)]
    split = assign_splits(columns["text"], complete, test=test, validation=validation)
    return Table.from_columns({name: Cells(cells) for name, cells in columns.items()}, ids=list(stamps), split=split)


def discover(folder: Path) -> dict[str, dict[str, Path]]:
    """The stamps below a folder: id → column → file, in alphabetical order.

    The id is the path below the folder without a suffix, with forward slashes: `animals/birds/parrot`. Every PNG or SVG is a
    stamp, except an `X_mirror` or `X_flip` beside an `X`: the artwork that Tux Paint shows when a child mirrors `X`. A file
    belongs to a stamp if its name is exactly the stem and one of `SUFFIXES`, so `car` never takes `car2_desc_fr.ogg`.

    Raises:
        InputError: no such folder, or no images in it.
    """
    if not folder.is_dir():
        raise InputError(
            f"`folder` must be that of the stamps; {str(folder)!r} does not exist. Install the Debian package "
            f"{provenance()['source']['package']}, or name its folder."
        )
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    stems = {name.removesuffix(suffix) for suffix in SUFFIXES["image"] for name in names if name.endswith(suffix)}
    if not stems:
        raise InputError(f"`folder` must hold PNG or SVG images; {str(folder)!r} and the folders below it have none.")
    return {stem: _files(folder, stem, names) for stem in sorted(stems) if not _is_mirrored(stem, stems)}


def _is_mirrored(stem: str, stems: set[str]) -> bool:
    original = stem.removesuffix("_flip").removesuffix("_mirror")
    return original != stem and original in stems


def _files(folder: Path, stem: str, names: set[str]) -> dict[str, Path]:
    present = {
        column: [stem + suffix for suffix in suffixes if stem + suffix in names] for column, suffixes in SUFFIXES.items()
    }
    return {column: folder / candidates[0] for column, candidates in present.items() if candidates}


def source_sha256(stamps: Mapping[str, Mapping[str, Path]]) -> str:
    """One hash over the id, column and content of every file that `discover` lists, to compare with `provenance`."""
    lines = [
        f"{name}\t{column}\t{hashlib.sha256(path.read_bytes()).hexdigest()}\n"
        for name, files in stamps.items()
        for column, path in files.items()
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_caption(path: Path) -> str | None:
    """The English caption, the first line of the file; None where it is empty. Translations follow as `fr.utf8=…`.

    Raises:
        InputError: a file that is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig").partition("\n")[0].strip() or None
    except UnicodeDecodeError as error:
        raise InputError(f"captions must be UTF-8; {str(path)!r} is not ({error}).") from None


def normalise_caption(caption: str) -> str:
    """A caption without what does not distinguish two: case, spacing, Unicode form and final punctuation.

    >>> normalise_caption("  A  Red apple. ")
    'a red apple'
    >>> normalise_caption("A “Stop” sign!") == normalise_caption("a “stop” sign")
    True
    """
    folded = " ".join(unicodedata.normalize("NFC", caption.casefold()).split())
    bare = folded
    while bare and (bare[-1] == " " or unicodedata.category(bare[-1]).startswith("P")):
        bare = bare[:-1]
    return bare or folded


def assign_splits(
    captions: Sequence[str | None], complete: Sequence[bool], *, test: int = 150, validation: float = 0.12
) -> list[str]:
    """Assign each item to `train`, `validation`, `test` or `shared`, so that no caption is on two sides.

    Items whose normalised caption occurs once are put in the order of sha256("stamps-1:" + caption), which depends on nothing
    but the caption. The first `test` complete ones are the test gallery; of the rest, the first are for validation and the
    others for training. Items that share a caption, or have none, are `shared`: no split uses them.

    Args:
        captions: n captions, `None` where missing.
        complete: n flags: may the item be in the test gallery?
        test: size of the test gallery.
        validation: fraction of the items with a caption of their own.

    Returns:
        n names of splits.

    Raises:
        InputError: fewer complete items with a caption of their own than the test gallery has.

    >>> assign_splits(["A cat.", "A dog", "a CAT", None], [True] * 4, test=1, validation=0.0)
    ['shared', 'test', 'shared', 'shared']
    """
    keys = [None if caption is None else normalise_caption(caption) for caption in captions]
    counts = Counter(keys)
    own = {key: item for item, key in enumerate(keys) if key is not None and counts[key] == 1}
    order = [own[key] for key in in_hash_order(own, "stamps-1")]
    gallery = [item for item in order if complete[item]][:test]
    if len(gallery) < test:
        raise InputError(
            f"`test` must be at most the number of complete items with a caption of their own, {len(gallery)}; got {test}."
        )
    rest = [item for item in order if item not in gallery]
    boundary = round(validation * len(order))
    split = ["shared"] * len(keys)
    for name, items in {"test": gallery, "validation": rest[:boundary], "train": rest[boundary:]}.items():
        for item in items:
            split[item] = name
    return split
