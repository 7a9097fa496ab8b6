"""Moving pictures and sound, from files to classes: 708 animated emoji, each with its name spoken by one of twelve voices.

    python examples/moving_emoji/run.py --output runs/moving

Four steps: media and a table, features of frozen encoders in shards, `gramian train`, and `gramian evaluate --classify` by the
animation, by the sound and by both. The second takes about 2 s a recording; when it is cut short, the same command goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

sys.path.append(str(Path(__file__).parents[1] / "stamps_raw"))  # the encoder of recordings
from towers import SpeechTower

from gramian.benchmark.frozen import DrawingTower, minilm
from gramian.cli import main as gramian
from gramian.data import load
from gramian.data.content import Place
from gramian.data.readers import Reader
from gramian.data.sets import cache_folder, emoji
from gramian.data.sets.packages import Package, fetch, members
from gramian.data.sets.splitting import split_by_hash
from gramian.data.video import read_video
from gramian.embedding import embed_table
from gramian.errors import InputError, require
from gramian.files import write_text
from gramian.model.towers import Tower, Towers

COLUMNS = ("video", "speech", "text")
FRAMES = 8

PACKAGES = tuple(
    Package("npm", f"@lobehub/fluent-emoji-anim-{part}", "1.0.0", digest, "MIT", "Fluent Emoji, Microsoft")
    for part, digest in enumerate(
        (
            "4c03ac178c1eabf2e2a16dd498f3cc2b92dc30ec3466ae38fdc497d4774c99ea",
            "e431da8172e394036c330faa77648d6fbbae1fd3b0be95637c4497c9075019c0",
            "3624d0c34c819c1794b74ccf6ae9034adff7c4cb6318dd2a645145f0196feb43",
            "3d4c08f1e321f70808ef4996aba0ab575a9d97b6c56ffffc92cf6161a7836aa3",
        ),
        1,
    )
)
"""Each archive has some of the emoji. About half of the drawings move; the others are still pictures in the same format."""

GROUPS = {"smileys & emotion": "faces", "people & body": "people", "animals & nature": "animals", "travel & places": "places"}
"""The groups of Unicode of which enough emoji move, by the word that stands in prompts."""

FEWEST = 12
"""Items of a kind, or the kind is left empty: too few to learn and to test."""

VOICES = [f"{accent}+{voice}" for accent in ("en-gb", "en-us") for voice in ("m1", "m3", "m5", "f1", "f3", "f5")]
PROMPTS = ("{}", "an emoji of {}", "something about {}")


class Emoji(NamedTuple):
    """One moving emoji."""

    id: str
    name: str
    group: str
    kind: str
    drawing: bytes


def discover() -> Iterator[Emoji]:
    """The emoji that move, of the four groups, with what Unicode says of them."""
    names = fetch(emoji.PACKAGES[0], cache_folder() / "packages")
    entries: list[dict[str, Any]] = json.loads(dict(members(names, "package/en/data.json"))[""])
    words = json.loads(dict(members(names, "package/en/messages.json"))[""])
    group_of, kind_of = ({each["order"]: each["message"] for each in words[level]} for level in ("groups", "subgroups"))
    by_code = {entry["hexcode"].lower().replace("-fe0f", ""): entry for entry in entries}
    for package in PACKAGES:
        for name, content in members(fetch(package, cache_folder() / "packages"), "package/assets/"):
            entry = by_code.get(name.removesuffix(".webp").replace("-fe0f", ""))
            if entry is None or group_of.get(entry.get("group")) not in GROUPS or not moves(content):
                continue
            group = GROUPS[group_of[entry["group"]]]
            yield Emoji(entry["hexcode"], entry["label"], group, kind_of[entry["subgroup"]], content)


def moves(content: bytes) -> bool:
    """Whether a drawing is an animation and no still picture."""
    with Image.open(BytesIO(content)) as drawing:
        return getattr(drawing, "n_frames", 1) > 1


def speak(name: str, path: Path) -> None:
    """Write a name as speech, in a voice that its hash chooses, so that the voice says nothing of the class."""
    voice = VOICES[hashlib.sha256(name.encode()).digest()[0] % len(VOICES)]
    try:
        subprocess.run(["espeak-ng", "-v", voice, "-w", path, "--", name], check=True, capture_output=True)
    except FileNotFoundError:
        raise InputError("this needs the command espeak-ng: apt-get install espeak-ng.") from None


def write_table(folder: Path, limit: int | None) -> Path:
    """Animations, recordings, and a table of their paths, names, classes and splits."""
    path = folder / "emoji.jsonl"
    if path.exists():
        return path
    for name in ("video", "speech"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    found = list(discover())
    found = found[:: max(1, len(found) // (limit or len(found)))]
    sizes = Counter(one.kind for one in found)
    groups = [emoji.group_of(one.id) for one in found]  # forms of one emoji for several genders stay together
    lines = []
    for one, split in zip(found, split_by_hash(groups, "moving-1", test=0.3, validation=0.1), strict=True):
        video, speech = folder / "video" / f"{one.id}.webp", folder / "speech" / f"{one.id}.wav"
        video.write_bytes(one.drawing)
        speak(one.name, speech)
        cells = {"video": f"video/{video.name}", "speech": f"speech/{speech.name}", "text": one.name}
        kind = one.kind if sizes[one.kind] >= FEWEST else None
        lines.append(json.dumps({"id": one.id, "split": split, **cells, "group": one.group, "kind": kind}) + "\n")
    write_text(path, "".join(lines))
    return path


class Moving(Reader):
    """Frames of an animation, as `DrawingTower` reads a drawing."""

    def __init__(self, drawing: Reader) -> None:
        self.drawing = drawing

    def read(self, cell: Any, *, folder: Place | None = None, generator: Any = None) -> Tensor:
        frames = read_video(cell, FRAMES, generator=generator, folder=folder)
        return torch.stack([self.drawing.read(Image.fromarray(frame)) for frame in frames])


class MovingTower(Tower):
    """What is seen and what moves: mean and standard deviation over the frames of EfficientNet-Lite0's features."""

    def __init__(self) -> None:
        super().__init__()
        self.drawing = DrawingTower()
        self.width = 2 * self.drawing.width
        self.reader = Moving(self.drawing.reader)

    def forward(self, inputs: Tensor) -> Tensor:
        """(n, frames, 3, 224, 224) → (n, 2560)."""
        frames = self.drawing(inputs.flatten(0, 1)).unflatten(0, inputs.shape[:2])
        return torch.cat([frames.mean(1), frames.std(1, unbiased=False)], 1)


def embed(folder: Path, table: Path) -> Path:
    """Features of the frozen encoders, in shards, with the classes beside them."""
    towers = {"video": MovingTower(), "speech": SpeechTower(folder / "whisper-base", os.cpu_count() or 1), "text": minilm()}
    rows = load(table, columns=COLUMNS, raw=COLUMNS, labels=["group", "kind"])
    made = embed_table(Towers(towers), rows, folder / "features", batch_size=8, shard_size=16)
    print(
        f"{made.rows} rows in {made.shards} shards, {made.kept} of which existed already; {len(made.broken)} unreadable cells"
    )
    return folder / "features"


def write_prompts(folder: Path, label: str) -> Path:
    """Features of three sentences per class."""
    rows = load(folder / "features", columns=["text"], labels=[label])
    classes = sorted({name for name in rows.labels[label] if name})
    lines = [json.dumps({"text": prompt.format(name), label: name}) + "\n" for name in classes for prompt in PROMPTS]
    path = write_text(folder / f"prompts_{label}.jsonl", "".join(lines))
    prompts = load(path, columns=["text"], raw=["text"], labels=[label])
    shards = folder / f"prompts_{label}"
    embed_table(Towers({"text": minilm()}), prompts, shards, progress=False)
    return shards


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("runs/moving"), help="folder (default: %(default)s)")
    parser.add_argument("--limit", type=int, help="take about so many emoji to try it (default: all)")
    arguments = parser.parse_args()
    folder = arguments.output
    try:
        require("av", "PIL", "sklearn")
        features = embed(folder, write_table(folder, arguments.limit))
        run = folder / "run"
        words = ["--data", str(features), "--columns", ",".join(COLUMNS), "--method", "canonical", "--head", "linear"]
        words += ["--output", str(run)]
        code = 0 if (run / "aligner").exists() else gramian(["train", *words])
        for label in ("group", "kind"):
            words = ["--data", str(features), "--model", str(run / "aligner"), "--columns", "video,speech", "--subsets", "none"]
            words += ["--classify", label, "--prompts", str(write_prompts(folder, label)), "--scores", "centroid"]
            code = code or gramian(["evaluate", *words, "--output", str(folder / label)])
        words = [str(folder / "group"), "--media", str(folder / "emoji.jsonl")]
        return code or gramian(["report", *words])
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
