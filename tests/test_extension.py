"""A score, a loss, an encoder, a kind of media and a command from a package of one's own, each an entry in one table."""

import importlib
import json
import sys

import numpy as np
import pyarrow.parquet
import pytest
import torch

from gramian import Aligner, evaluate, load
from gramian.cli import COMMANDS, main
from gramian.data.content import Unreadable
from gramian.data.media import MEDIA
from gramian.data.readers import Media
from gramian.losses import LOSSES, Contrast
from gramian.model.encoders import ENCODERS
from gramian.scores import SCORES
from synthetic import world

PACKAGE = {
    "__init__": "",
    "score": """
from gramian.scores.catalogue import Score
from gramian.scores.sides import products, scored, sides, traced


def worst_cosine(queries, items):
    Q, M = sides(queries, items)
    return scored(worst_form(Q, M), Q, M)


def worst_form(Q, M):
    def worst(Q, M):
        table = products(Q.vectors, M.vectors)
        there = Q.present[:, None, :, None] & M.present[None, :, None, :]
        return table.masked_fill(~there, 1).flatten(2).amin(-1).clamp(-1, 1)

    return traced(worst, Q, M)


SCORE = Score(
    function=worst_cosine,
    form=worst_form,
    formula="min of ⟨a, z⟩",
    low=-1,
    high=1,
    best="all vectors coincide",
    sign_aware=True,
    pair="c",
    arity="falls with every further vector",
    own_factor=False,
    trains="yes",
)
""",
    "loss": """
from typing import ClassVar, Unpack

from gramian.losses import Contrast, SoftmaxLoss, SoftmaxOptions


class Worst(Contrast):
    '''The worst cosine, each modality in turn.'''

    defaults: ClassVar[SoftmaxOptions] = SoftmaxLoss.defaults | {"temperature": 0.2}

    def __init__(self, **options: Unpack[SoftmaxOptions]) -> None:
        super().__init__("worst_cosine", anchor="each", **options)
""",
    "encoder": """
from pathlib import Path
from typing import Literal, Unpack

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from gramian.data.readers import Media
from gramian.model.encoders.base import Encoder, EncoderOptions
from gramian.model.encoders.folders import loading
from gramian.model.towers import Encoded


class _Reader(Media):
    def collate(self, cells):
        counts = torch.zeros(len(cells), 26)
        for row, text in zip(counts, cells, strict=True):
            for letter in text.lower():
                if "a" <= letter <= "z":
                    row[ord(letter) - ord("a")] += 1
        return counts


class Letters(Encoder):
    '''A linear map of how often each letter stands in a text.'''

    def __init__(self, model: str, kind: Literal["text"] = "text", **options: Unpack[EncoderOptions]) -> None:
        super().__init__(model, {"kind": kind}, options)

    def _open(self, folder):
        with loading(f"`model` {self.source!r}"):
            weights = load_file(folder / "letters.safetensors")
        self.model = nn.Linear(26, len(weights["bias"]))
        self.model.load_state_dict(weights)
        self.reader = _Reader("text")

    def _measure(self):
        return self.model.out_features

    def forward(self, inputs):
        return Encoded(self.model(inputs))

    def _write_files(self, model, folder):
        folder.mkdir(parents=True, exist_ok=True)
        save_file(model.state_dict(), folder / "letters.safetensors")
""",
    "medium": """
import numpy as np

from gramian.data.media import Medium
from gramian.data.content import Unreadable


def read(cell, _sampling, folder, _generator):
    if not isinstance(cell, bytes | str):
        return np.asarray(cell)
    content = cell if isinstance(cell, bytes) else (folder / cell).read_bytes()
    if not content.startswith(b"PULSE"):
        raise Unreadable("no pulse")
    return np.frombuffer(content[5:], np.uint8).astype(np.float32)


MEDIUM = Medium(
    read=read,
    blank=lambda _: np.zeros(4, np.float32),
    example='["a.pulse"]',
    argument="pulses",
    processors=("AutoFeatureExtractor",),
    endings=".pulse",
)
""",
    "command": """
from gramian.cli.parsing import Command


def count(letters: str, times: int = 1) -> None:
    '''Count letters.

    Args:
        letters: to count.
        times: how often.
    '''
    print(len(letters) * times)


COMMAND = Command(count, "count letters")
""",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The modules of the package by name."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, text in PACKAGE.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield {name: importlib.import_module(f"mine.{name}") for name in PACKAGE if name != "__init__"}
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]


def test_a_score_is_an_entry_that_ranks_and_trains(package, monkeypatch):
    monkeypatch.setitem(SCORES, "worst_cosine", package["score"].SCORE)
    test = world(items=60).part("test")
    bundle = Aligner.for_table(test, dim=8, seed=0).embed(test)
    report = evaluate(bundle, scores=["worst_cosine"])
    (first, *_) = report.gains
    table = SCORES["worst_cosine"](bundle.select(*first.joint.query), bundle.select(*first.joint.target))
    assert table.shape == (len(bundle), len(bundle)) and first.joint.score == "worst_cosine"
    places = [1 + int((row > row[i]).sum()) for i, row in enumerate(table)]
    assert first.joint.ranks.expected.tolist() == places
    leaf = bundle.vectors.clone().requires_grad_()
    loss = Contrast("worst_cosine")
    loss(dict(zip(bundle.modalities, leaf.unbind(1), strict=True))).total.backward()
    assert loss.sign_blind is False and leaf.grad.isfinite().all() and leaf.grad.abs().sum() > 0


def test_a_loss_is_an_entry_that_the_command_line_trains_with(package, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(SCORES, "worst_cosine", package["score"].SCORE)
    monkeypatch.setitem(LOSSES, "Worst", package["loss"].Worst)
    world(items=80).save(tmp_path / "w.safetensors")
    words = ["train", "--data", str(tmp_path / "w.safetensors"), "--recipe.epochs", "1", "--loss", "Worst", "--dim", "8"]
    assert main([*words, "--loss.label_smoothing", "0.1", "--output", str(tmp_path / "run")]) == 0
    assert "Worst(" in (tmp_path / "run" / "aligner" / "README.md").read_text(encoding="utf-8")
    assert main([*words, "--loss.smoothing", "0.1", "--output", str(tmp_path / "other")]) == 2
    assert "Did you mean 'loss.label_smoothing'?" in " ".join(capsys.readouterr().err.split())


def test_an_encoder_is_an_entry_that_is_named_in_yaml_saved_and_read_back(package, monkeypatch, tmp_path):
    monkeypatch.setitem(ENCODERS, "Letters", package["encoder"].Letters)
    torch.manual_seed(0)
    pretrained = tmp_path / "pretrained"
    pretrained.mkdir()
    package["encoder"].save_file(torch.nn.Linear(26, 6).state_dict(), pretrained / "letters.safetensors")
    texts = [chr(ord("a") + i % 26) * (1 + i % 3) for i in range(40)]
    columns = {"text": texts, "other": torch.eye(40).tolist(), "split": ["train"] * 28 + ["validation"] * 12}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "both.parquet")
    config = {
        "data": str(tmp_path / "both.parquet"),
        "dim": 8,
        "towers": {"text": {"class_path": "Letters", "init_args": {"model": str(pretrained)}}},
        "recipe": {"epochs": 1, "batch_size": 8},
    }
    (tmp_path / "train.yaml").write_text(json.dumps(config))
    assert main(["train", str(tmp_path / "train.yaml"), "--output", str(tmp_path / "run")]) == 0
    aligner = Aligner.from_pretrained(tmp_path / "run" / "aligner")
    table = load(tmp_path / "both.parquet", raw=["text"])
    assert aligner.towers["text"].summary.startswith("Letters: ")
    assert aligner.embed(table).has("text").all()


def test_a_kind_of_media_is_an_entry_that_folders_are_read_by(package, monkeypatch, tmp_path):
    monkeypatch.setitem(MEDIA, "pulse", package["medium"].MEDIUM)
    folder = tmp_path / "pulses"
    folder.mkdir()
    (folder / "a.pulse").write_bytes(b"PULSE" + bytes([1, 2, 3]))
    (folder / "b.pulse").write_bytes(b"noise")
    table = load(folder, raw=["pulse"])
    reader = Media("pulse")
    assert np.array_equal(reader.read(table.columns["pulse"][0], folder=folder), np.array([1, 2, 3], np.float32))
    with pytest.raises(Unreadable, match="no pulse"):
        reader.read(table.columns["pulse"][1], folder=folder)


def test_a_command_is_an_entry(package, monkeypatch, capsys):
    monkeypatch.setitem(COMMANDS, "count", package["command"].COMMAND)
    assert main(["count", "--letters", "abc", "--times", "2"]) == 0
    assert capsys.readouterr().out == "6\n"
    assert main(["count", "--times", "2"]) == 2
    assert "--letters must be given" in capsys.readouterr().err
