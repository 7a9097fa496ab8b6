"""The stamps from raw media to a comparison of objectives: what `make demo` does on features, begun with the files.

    python examples/stamps_raw/run.py --output runs/stamps_raw

Three steps: a table of captions and paths, features of three frozen encoders in shards, and `gramian demo` on those. The second
takes about 2 s a recording, half an hour in all; when it is cut short, the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

from towers import SpeechTower

from gramian.benchmark.demo import demo
from gramian.benchmark.frozen import DrawingTower, minilm
from gramian.data import Table, load
from gramian.data.sets.stamps import FOLDER, discover, provenance, raw, source_sha256
from gramian.embedding import embed_table
from gramian.errors import InputError
from gramian.model.towers import Towers
from gramian.training import Recipe

COLUMNS = ("image", "text", "speech_fr")


def used(stamps: Table, limit: int | None = None) -> Table:
    """The stamps that are in a split, in the columns of the comparison.

    Args:
        stamps: the collection.
        limit: so many PNG stamps that lack nothing: half to train, a quarter to choose, a quarter to test.
    """
    stamps = stamps.select(*COLUMNS)
    complete = stamps.mask().all(1).tolist()
    room = dict.fromkeys(("train", "validation", "test"), len(stamps))
    if limit is not None:
        room = {"train": limit - limit // 4 * 2, "validation": limit // 4, "test": limit // 4}
    rows = []
    for row, split in enumerate(stamps.split or ()):
        plain = complete[row] and str(stamps.columns["image"][row]).endswith(".png")
        if room.get(split, 0) and (plain or limit is None):
            room[split] -= 1
            rows.append(row)
    return stamps[rows]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("runs/stamps_raw"), help="folder (default: %(default)s)")
    parser.add_argument("--limit", type=int, help="take so many stamps, at least 12, to try it (default: all)")
    parser.add_argument("--stamps", type=Path, default=FOLDER, help="stamps folder (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each objective (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=Recipe().epochs, help="epochs of a run (default: %(default)s)")
    parser.add_argument("--ship", action="store_true", help="every stamp and column into stamps.safetensors, and no comparison")
    arguments = parser.parse_args()
    output = arguments.output
    try:
        ids = set(load("stamps").ids)
        stamps = raw(arguments.stamps, ids=ids)
        source = provenance()["source"]
        files = {name: listed for name, listed in discover(arguments.stamps).items() if name in ids}
        if source_sha256(files) != source["sha256"]:
            print(f"these are not the files of {source['package']} {source['version']}; features may differ", file=sys.stderr)
        if not arguments.ship:
            stamps = used(stamps, arguments.limit)
        print(stamps)

        speech = SpeechTower(output / "whisper-base", threads=os.cpu_count() or 1)
        towers = {"image": DrawingTower(), "text": minilm(), "speech_fr": speech}
        if arguments.ship:
            towers |= {"speech_es": speech, "sound": speech}
        made = embed_table(Towers(towers), stamps, output / "features", batch_size=8, shard_size=16)
        print(
            f"{made.rows} rows in {made.shards} shards, {made.kept} of which existed already; "
            f"{len(made.broken)} unreadable cells"
        )

        # A folder of shards is a table like any other.
        if arguments.ship:
            table = load(output / "features", columns=list(towers))
            replace(table, columns={name: table.features(name).half() for name in towers}).save(output / "stamps.safetensors")
            return 0
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
