"""Objects from the words of a YAML file."""

from __future__ import annotations

import pytest
import yaml
from torch import nn

import tiny
from gramian.cli import main
from gramian.errors import InputError
from gramian.model import Aligner, Custom
from gramian.model.encoders import ENCODERS
from gramian.model.specs import build

KNOWN = {**ENCODERS, "Custom": Custom}


def test_nested_objects_are_made_first():
    words = {"module": {"class_path": "torch.nn.Linear", "init_args": {"in_features": 3, "out_features": 2}}, "width": 2}
    tower = build({"class_path": "Custom", "init_args": words}, "towers.sensor", KNOWN)
    assert isinstance(tower.module, nn.Linear)
    assert isinstance(build("torch.nn.Identity", "x", {}), nn.Identity)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "`towers.x` must have a `class_path` and `init_args`; got 3"),
        ({"class_path": "Custom", "width": 3}, "put width into `init_args`"),
        ({"class_path": "Custum"}, "`towers.x.class_path` must be one of HuggingFace, .* Did you mean 'Custom'?"),
        ({"class_path": "no.such.Thing"}, "`towers.x.class_path` 'no.such.Thing' cannot be imported"),
        ({"class_path": "math.pi"}, "must be a class or a function; it is a float"),
        ({"class_path": "Custom"}, "`towers.x.init_args` must give module, width, which Custom needs"),
        ({"class_path": "Custom", "init_args": [1]}, "`towers.x.init_args` must map options to values"),
        (
            {"class_path": "HuggingFace", "init_args": {"modle": "a"}},
            "`towers.x.init_args` must be one of model, .* Did you mean 'mode'",
        ),
        (
            {"class_path": "Custom", "init_args": {"module": None, "width": "a"}},
            "`towers.x.init_args` cannot be used by Custom",
        ),
    ],
)
def test_words_that_make_nothing(given, message):
    with pytest.raises(InputError, match=message):
        build(given, "towers.x", KNOWN)


def test_two_columns_share_a_tower_in_yaml(tmp_path, capsys):
    pytest.importorskip("transformers")
    (tmp_path / "t.jsonl").write_text("\n".join(f'{{"title": "a cat {w}", "subtitle": "the {w}"}}' for w in tiny.WORDS[4:]))
    text = {"class_path": "HuggingFace", "init_args": {"model": tiny.build("bert", tmp_path), "kind": "text", "mode": "train"}}
    config = {"data": str(tmp_path / "t.jsonl"), "dim": 4, "towers": {"title": text, "subtitle": {"same_as": "title"}}}
    config["recipe"] = {"epochs": 1, "batch_size": 8}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    words = ["train", "--config", str(path), "--output"]
    assert main([*words, str(tmp_path / "run")]) == 0
    first, second = Aligner.from_pretrained(tmp_path / "run" / "aligner").towers
    assert first is second
    config["towers"]["subtitle"] = {"same_as": "text"}
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    assert main([*words, str(tmp_path / "other")]) == 2
    assert "`towers.subtitle.same_as` must be one of title; got 'text'" in capsys.readouterr().err
    config["towers"] = [text]
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    assert main([*words, str(tmp_path / "other")]) == 2
    assert "`towers` must map columns to encoders" in capsys.readouterr().err
