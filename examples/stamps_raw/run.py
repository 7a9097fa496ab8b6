"""The stamps from raw media to a comparison of objectives: what `make demo` does on features, begun with the files.

    python examples/stamps_raw/run.py --output runs/stamps_raw

Three steps: a table of captions and paths, features of three frozen encoders in shards, and `gramian demo` on those. The second
takes about 2 s a recording, half an hour in all; when it is cut short, the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from towers import DrawingTower, SpeechTower, minilm

from gramian.benchmark.demo import demo
from gramian.data import load
from gramian.data.sets.media import (
    SOURCE_FOLDER,
    Stamp,
    Unreadable,
    assign_splits,
    discover,
    read_caption,
    read_clip,
)
from gramian.embedding import embed_shards
from gramian.errors import InputError
from gramian.model import Towers
from gramian.training import Recipe

COLUMNS = ("image", "text", "speech_fr")


def write_table(stamps: Sequence[Stamp], path: Path, limit: int | None = None) -> None:
    """Write the stamps that are in a split: `id`, `split`, the caption, and paths of the drawing and the recording.

    Args:
        stamps: all of the collection, for the splits depend on all captions.
        path: of the table, .parquet.
        limit: so many PNG stamps that lack nothing: half to train, a quarter to choose, a quarter to test.
    """
    captions = [_caption(stamp) for stamp in stamps]
    complete = [caption is not None and _is_heard(stamp) for stamp, caption in zip(stamps, captions, strict=True)]
    split = assign_splits(captions, complete)
    room = dict.fromkeys(("train", "validation", "test"), len(stamps))
    if limit is not None:
        room = {"train": limit - limit // 4 * 2, "validation": limit // 4, "test": limit // 4}
    rows = []
    for stamp, caption, whole, home in zip(stamps, captions, complete, split, strict=True):
        plain = whole and stamp.files["image"].suffix == ".png"
        if room.get(home, 0) and (plain or limit is None):
            room[home] -= 1
            files = {name: str(stamp.files[name]) if name in stamp.files else None for name in ("image", "speech_fr")}
            rows.append({"id": stamp.id, "split": home, "text": caption, **files})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def _caption(stamp: Stamp) -> str | None:
    try:
        return read_caption(stamp.files["text"])
    except (KeyError, Unreadable):
        return None


def _is_heard(stamp: Stamp) -> bool:
    try:
        return len(read_clip(stamp.files["speech_fr"])) > 0
    except (KeyError, Unreadable):
        return False


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("runs/stamps_raw"), help="folder (default: %(default)s)")
    parser.add_argument("--limit", type=int, help="take so many stamps, at least 12, to try it (default: all)")
    parser.add_argument("--stamps", type=Path, default=SOURCE_FOLDER, help="stamps folder (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="runs an objective (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=Recipe().epochs, help="epochs of a run (default: %(default)s)")
    arguments = parser.parse_args()
    output = arguments.output
    try:
        table = output / "stamps.parquet"
        write_table(discover(arguments.stamps), table, arguments.limit)
        stamps = load(table, columns=COLUMNS, raw=COLUMNS)
        print(f"wrote {table}: {stamps}")

        speech = SpeechTower(output / "whisper-base", threads=os.cpu_count() or 1)
        towers = Towers({"image": DrawingTower(), "text": minilm(), "speech_fr": speech})
        made = embed_shards(towers, stamps, output / "features", batch_size=8, shard_size=16)
        print(
            f"{made.rows} rows in {made.shards} shards, {made.kept} of them there already; {len(made.broken)} unreadable cells"
        )

        # A folder of shards is a table like any other.
        demo(
            output / "demo",
            data=str(output / "features"),
            columns=COLUMNS,
            seeds=arguments.seeds,
            recipe=Recipe(epochs=arguments.epochs),
            resume=True,
        )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
