"""The raw side of the stamps: which files belong to one, its caption, its split, and its pictures and recordings as arrays."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gramian.data.media import Unreadable
from gramian.errors import InputError

__all__ = [
    "Stamp",
    "Unreadable",
    "assign_splits",
    "discover",
    "normalise_caption",
    "on_white",
    "read_caption",
    "read_clip",
    "read_image",
    "sha256_of",
]

Vector: TypeAlias = NDArray[np.float32]

SOURCE_PACKAGE = "tuxpaint-stamps-default"
SOURCE_FOLDER = Path("/usr/share/tuxpaint/stamps")
SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "image": (".png", ".svg"),
    "text": (".txt",),
    "speech_fr": ("_desc_fr.ogg", "_desc_fr.wav"),
    "speech_es": ("_desc_es.ogg", "_desc_es.wav"),
    "sound": (".ogg", ".wav"),
}
"""Column → what follows the stem of a stamp's files, in order of preference."""

TEST_ITEMS = 150
VALIDATION_FRACTION = 0.12

IMAGE_SIDE = 224  # pixels: what EfficientNet-Lite0 was trained at
SVG_WIDTH = 2 * IMAGE_SIDE  # drawn larger than needed, then reduced as the PNGs are
SVG_DPI = 96.0  # CSS pixels per inch; resvg-py's own default of 0 collapses drawings measured in pt, mm or cm
SAMPLE_RATE = 16_000  # Hz: Whisper's
LONGEST_CLIP = 30 * SAMPLE_RATE  # samples: Whisper's window


@dataclass(frozen=True)
class Stamp:
    """One item: its id, and the file of each column that has one.

    Attributes:
        id: path below the stamps folder without a suffix, with forward slashes: `animals/birds/parrot`.
        files: column → path.
    """

    id: str
    files: Mapping[str, Path]


def discover(folder: Path) -> list[Stamp]:
    """List the stamps below `folder`, sorted by id.

    Every PNG or SVG is a stamp, except an `X_mirror` or `X_flip` beside an `X`: the artwork that Tux Paint shows when a child
    mirrors `X`. A file belongs to a stamp if its name is exactly the stem and one of `SUFFIXES`, so `car` never takes
    `car2_desc_fr.ogg`.
    """
    if not folder.is_dir():
        raise InputError(
            f"`stamps` must be the folder of the stamps; there is none at {folder}. "
            f"Install the Debian package {SOURCE_PACKAGE} or pass its folder with --stamps."
        )
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    stems = {name.removesuffix(suffix) for suffix in SUFFIXES["image"] for name in names if name.endswith(suffix)}
    if not stems:
        raise InputError(f"`stamps` must hold PNG or SVG images; {folder} and the folders below it have none.")
    return [Stamp(stem, _files(folder, stem, names)) for stem in sorted(stems) if not _is_mirrored(stem, stems)]


def _is_mirrored(stem: str, stems: set[str]) -> bool:
    original = stem.removesuffix("_flip").removesuffix("_mirror")
    return original != stem and original in stems


def _files(folder: Path, stem: str, names: set[str]) -> dict[str, Path]:
    files = {}
    for column, suffixes in SUFFIXES.items():
        found = [stem + suffix for suffix in suffixes if stem + suffix in names]
        if found:
            files[column] = folder / found[0]
    return files


def sha256_of(*paths: Path) -> str:
    """Hash files joined in order, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def read_caption(path: Path) -> str:
    """Read the English caption: the first line of the file; the others are translations, `fr.utf8=…`."""
    try:
        first = path.read_text(encoding="utf-8-sig").partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Unreadable(str(error)) from error
    if not first:
        raise Unreadable("the first line is empty")
    return first


def normalise_caption(caption: str) -> str:
    """Fold what does not make two captions different: case, spacing, Unicode form and final punctuation.

    >>> normalise_caption("  A  Red apple. ")
    'a red apple'
    >>> normalise_caption("A “Stop” sign!") == normalise_caption("a “stop” sign")
    True
    """
    folded = " ".join(unicodedata.normalize("NFC", caption.casefold()).split())
    kept = folded
    while kept and (kept[-1] == " " or unicodedata.category(kept[-1]).startswith("P")):
        kept = kept[:-1]
    return kept or folded


def assign_splits(
    captions: Sequence[str | None],
    complete: Sequence[bool],
    *,
    test: int = TEST_ITEMS,
    validation: float = VALIDATION_FRACTION,
) -> list[str]:
    """Assign each item to `train`, `validation`, `test` or `shared`, so that no caption is on two sides.

    Items whose normalised caption occurs once are put in the order of sha256("stamps-1:" + caption), which depends on nothing
    but the caption. The first `test` complete ones are the test gallery; of the rest, the first are for validation and the
    others for training. Items that share a caption, or have none, are `shared`: no split uses them.

    Args:
        captions: n captions, `None` where there is none.
        complete: n flags: may the item be in the test gallery?
        test: size of the test gallery.
        validation: fraction of the items with a caption of their own.

    Returns:
        n names of splits.

    >>> assign_splits(["A cat.", "A dog", "a CAT", None], [True] * 4, test=1, validation=0.0)
    ['shared', 'test', 'shared', 'shared']
    """
    keys = [None if caption is None else normalise_caption(caption) for caption in captions]
    counts = Counter(keys)
    own = {key: item for item, key in enumerate(keys) if key is not None and counts[key] == 1}
    order = [own[key] for key in sorted(own, key=lambda key: hashlib.sha256(f"stamps-1:{key}".encode()).digest())]
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


def read_image(path: Path) -> Any:
    """Read a PNG, or draw an SVG, as a Pillow image.

    Lettering inside an SVG is drawn only if it is outlined: fonts of the machine are not used, so that the drawing is the
    same everywhere.
    """
    from PIL import Image

    try:
        if path.suffix == ".svg":
            import resvg_py

            content = resvg_py.svg_to_bytes(svg_path=str(path), width=SVG_WIDTH, dpi=SVG_DPI, skip_system_fonts=True)
        else:
            content = path.read_bytes()
        image = Image.open(BytesIO(content))
        image.load()
    except (OSError, ValueError, SyntaxError) as error:  # Pillow calls a broken PNG a SyntaxError
        raise Unreadable(str(error)) from error
    return image


def on_white(image: Any, side: int = IMAGE_SIDE) -> Any:
    """Lay a Pillow image on white, fit it to a square by its longer side and pad the rest with white.

    Transparency is resolved before the image is resized, so no hidden colour bleeds over an edge.

    Returns:
        an RGB image of `side` × `side` pixels.
    """
    from PIL import Image

    opaque = Image.new("RGBA", image.size, "white")
    opaque.alpha_composite(image.convert("RGBA"))
    scale = side / max(image.size)
    width, height = (max(1, round(scale * length)) for length in image.size)
    fitted = opaque.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    square = Image.new("RGB", (side, side), "white")
    square.paste(fitted, ((side - width) // 2, (side - height) // 2))
    return square


def read_clip(path: Path) -> Vector:
    """Read a recording as (samples,) mono at 16 kHz."""
    import soundfile
    import soxr

    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.SoundFileError) as error:
        raise Unreadable(str(error)) from error
    if not samples.any():
        raise Unreadable("the recording is empty or digital silence")
    clip: Vector = soxr.resample(samples.mean(axis=1), rate, SAMPLE_RATE)
    if len(clip) > LONGEST_CLIP:
        raise Unreadable(f"the recording lasts {len(clip) / SAMPLE_RATE:.1f} s, over Whisper's window of 30 s")
    return clip
