"""Remake the embedded data set "stamps": raw drawings, captions and recordings in, a table of frozen-encoder features out.

    python -m gramian.data.sets.build --output src/gramian/data/sets --cache build/stamps

The raw media are Tux Paint's stamps (Debian package `tuxpaint-stamps-default`); NOTICE lists the packages to install. With two
threads it takes about half an hour, nearly all of it Whisper's; every feature is cached by the content of its file, so a run
that was cut short goes on where it stopped.

What becomes what, for a stamp `X`:

| column      | width | file                        | encoder                                                            |
|-------------|-------|-----------------------------|--------------------------------------------------------------------|
| `image`     | 1280  | `X.png`, or else `X.svg`    | EfficientNet-Lite0, mean over the last feature map                 |
| `text`      | 384   | first line of `X.txt`       | all-MiniLM-L6-v2, unit length                                      |
| `speech_fr` | 1024  | `X_desc_fr.ogg` or `.wav`   | Whisper-base encoder, mean and maximum over the frames of the clip |
| `speech_es` | 1024  | `X_desc_es.ogg` or `.wav`   | the same                                                           |
| `sound`     | 1024  | `X.ogg` or `.wav`           | the same                                                           |

A file that cannot be read, and a recording of pure digital silence, count as missing; they are listed at the end and in the
table's provenance, and nothing takes their place.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from rich.progress import track

from gramian.data.sets.encoders import WEIGHTS, Encoder, open_encoders
from gramian.data.sets.media import (
    SOURCE_FOLDER,
    SOURCE_PACKAGE,
    Stamp,
    Unreadable,
    Vector,
    assign_splits,
    discover,
    read_caption,
    sha256_of,
)
from gramian.data.table import Table
from gramian.errors import InputError

__all__ = ["build", "encode", "main", "provenance", "table_of"]

Features: TypeAlias = dict[str, list[Vector | None]]
"""Column → the n items' features, `None` where there are none."""

Reasons: TypeAlias = dict[str, dict[str, str]]
"""Column → id of a stamp whose file could not be read → why."""


def encode(stamps: Sequence[Stamp], encoders: Mapping[str, Encoder]) -> tuple[Features, Reasons]:
    """Encode every file of every column, with a progress bar; return the features and what could not be read."""
    features: Features = {name: [None] * len(stamps) for name in encoders}
    unreadable: Reasons = {name: {} for name in encoders}
    for name, encoder in encoders.items():
        for item, stamp in enumerate(track(stamps, description=f"{name:>9}")):
            if name in stamp.files:
                try:
                    features[name][item] = encoder(stamp.files[name])
                except Unreadable as error:
                    unreadable[name][stamp.id] = str(error)
    return features, unreadable


def table_of(stamps: Sequence[Stamp], features: Features, split: Sequence[str]) -> Table:
    """Lay the features out as a float16 table, with zeros where a stamp lacks the column."""
    table = Table.from_columns(features, ids=[stamp.id for stamp in stamps], split=split)
    table = replace(table, columns={name: table.features(name).half() for name in table.columns})
    table.check()  # again: float16 holds less
    return table


def split_of(stamps: Sequence[Stamp], features: Features) -> list[str]:
    """Assign the items to splits; those with an image, a caption and French speech may be in the test gallery."""
    captions = [
        None if row is None else read_caption(stamp.files["text"]) for stamp, row in zip(stamps, features["text"], strict=True)
    ]
    needed = zip(features["image"], features["text"], features["speech_fr"], strict=True)
    return assign_splits(captions, [all(row is not None for row in rows) for rows in needed])


def provenance(stamps: Sequence[Stamp], table: Table, unreadable: Reasons) -> dict[str, Any]:
    """Describe where every column comes from, as the table's metadata keeps it."""
    present = table.counts()
    libraries = {"numpy", "safetensors"}.union(*(weights.libraries for weights in WEIGHTS.values()))
    return {
        "source": {
            "package": SOURCE_PACKAGE,
            "version": _source_version(),
            "licence": "GPL-2.0-or-later as the package states it; see NOTICE",
            "sha256": _source_digest(stamps),
        },
        "columns": {
            name: {
                "encoder": WEIGHTS[name].encoder,
                "packages": dict(WEIGHTS[name].packages),
                "sha256": WEIGHTS[name].sha256,
                "licence": WEIGHTS[name].licence,
                "width": width,
                "present": present[name],
                "unreadable": unreadable[name],
            }
            for name, width in table.widths.items()
        },
        "splits": Counter(table.split),
        "libraries": {name: importlib.metadata.version(name) for name in libraries},
        "command": "python -m gramian.data.sets.build",
    }


def _source_version() -> str:
    """The installed version of the Debian package, or "unknown" where Debian's tools know of none."""
    command = ["dpkg-query", "--show", "--showformat=${Version}", SOURCE_PACKAGE]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _source_digest(stamps: Sequence[Stamp]) -> str:
    """One SHA-256 over the id, column and content of every file."""
    lines = [f"{stamp.id}\t{name}\t{sha256_of(path)}\n" for stamp in stamps for name, path in stamp.files.items()]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def build(folder: Path, output: Path, cache: Path, *, threads: int = 1) -> None:
    """Encode the stamps, write `stamps.safetensors` into `output` and print what it holds and what could not be read.

    Args:
        folder: the stamps folder of the Debian package.
        output: folder of the table; made if need be.
        cache: folder of features, see `open_encoders`.
        threads: CPU threads.
    """
    torch.set_num_threads(threads)
    stamps = discover(folder)
    features, unreadable = encode(stamps, open_encoders(cache, threads=threads))
    table = table_of(stamps, features, split_of(stamps, features))
    origin = provenance(stamps, table, unreadable)
    path = output / "stamps.safetensors"
    replace(table, metadata={"provenance": json.dumps(origin, sort_keys=True)}).save(path)
    for name, reasons in unreadable.items():
        for stamp, reason in reasons.items():
            print(f"{name}: {stamp}: {reason}")
    sizes = ", ".join(f"{name} {count}" for name, count in sorted(origin["splits"].items()))
    print(f"{path}: {table}; {sizes}; {path.stat().st_size / 1e6:.2f} MB")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, or 2 for an input that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m gramian.data.sets.build", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="folder that gets stamps.safetensors")
    parser.add_argument("--cache", type=Path, required=True, help="folder for features and the joined model; resumes a run")
    parser.add_argument("--stamps", type=Path, default=SOURCE_FOLDER, help="stamps folder (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    arguments = parser.parse_args(argv)
    try:
        build(arguments.stamps, arguments.output, arguments.cache, threads=arguments.threads)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(f"error: `{error.name}` is needed to remake the stamps; NOTICE lists what to install.", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
