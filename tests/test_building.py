"""Objects from the descriptions of a YAML file: typed values, a closed list of classes, one line for what is wrong."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from torch import nn

import tiny
from gramian.cli import COMMANDS, main
from gramian.errors import InputError
from gramian.losses import LOSSES, Loss, Pairwise, Sum
from gramian.model import Aligner
from gramian.model.encoders import ENCODERS
from gramian.model.options import Word, convert, docs_of, options_of, parse_yaml
from gramian.model.specs import build, build_loss, build_towers
from gramian.model.towers import Tower
from gramian.training import Recipe


def _nothing(value, kind, argument):
    raise AssertionError((value, kind, argument))


@pytest.mark.parametrize(
    ("value", "hint", "wanted"),
    [
        (3, int, 3),
        (3, float, 3.0),
        (True, bool, True),
        ("a", str, "a"),
        (None, int | None, None),
        ("x", Path | None, Path("x")),
        ("no", Literal["no", "bf16"], "no"),
        (["a", "b"], list[str] | None, ["a", "b"]),
        ([["a", "b"]], Sequence[tuple[str, str]] | None, [("a", "b")]),
        ({"a": 1}, float | Mapping[str, float], {"a": 1.0}),
        ({"epochs": 3}, Recipe, Recipe(epochs=3)),
        (Word("3"), int, 3),
        (Word("007"), int, 7),
        (Word("1e-3"), float, 1e-3),
        (Word("5"), str, "5"),
        (Word("none"), str | None, None),
        (Word("None"), float | None, None),
        (Word("no"), Literal["no", "bf16"], "no"),
        (Word("true"), bool, True),
        (Word("1,2"), list[int], [1, 2]),
        (Word("[1, 2]"), list[int] | None, [1, 2]),
        (Word("a, b"), Sequence[str], ["a", "b"]),
        (Word("[[a, b], [b, c]]"), Sequence[tuple[str, str]] | None, [("a", "b"), ("b", "c")]),
        (Word("{a-b: 0.1}"), float | Mapping[str, float], {"a-b": 0.1}),
        (Word("cone"), Literal["cone"] | Callable[[], int], "cone"),
        (Word("{epochs: 3}"), Recipe, Recipe(epochs=3)),
        (Word("{a: [1]}"), Any, {"a": [1]}),
    ],
)
def test_values_become_what_is_wanted(value, hint, wanted):
    result = convert(value, hint, "x", _nothing)
    assert result == wanted
    assert type(result) is type(wanted)


@pytest.mark.parametrize(
    ("value", "hint", "message"),
    [
        ("3", int, "`x` must be an integer; got '3'"),
        (True, int, "`x` must be an integer; got True"),
        (1.5, int, "`x` must be an integer; got 1.5"),
        (1, bool, "`x` must be true or false; got 1"),
        (3, str | None, "`x` must be text or none; got 3"),
        (None, float, "`x` must be a number; got nothing"),
        ("text", list[str], "`x` must be a list of text; got 'text'"),
        ([1], list[str], r"`x\[0\]` must be text; got 1"),
        ([["a"]], Sequence[tuple[str, str]], r"`x\[0\]` must be a list of text; got a list"),
        ({"a": "b"}, Mapping[str, float], "`x.a` must be a number; got 'b'"),
        ("con", Literal["cone"], "`x` must be one of cone; got 'con'. Did you mean 'cone'?"),
        ("con", Literal["cone"] | Callable[[], int], "`x` must be one of cone; got 'con'"),
        (["cone", "con"], list[Literal["cone"]], "`x` must be one of cone; got 'con'"),
        ({"epoch": 3}, Recipe, "`x.epoch` is not an option of Recipe. Did you mean 'x.epochs'?"),
        ({"epochs": "a"}, Recipe, "`x.epochs` must be an integer; got 'a'"),
        (Word("nan"), float, "`x` must be a number; got 'nan'"),
        (Word("1_000"), int, "`x` must be an integer; got '1_000'"),
        (Word("x"), Callable[[], int] | None, "`x` must be none; got 'x'"),
    ],
)
def test_values_of_another_type_are_one_line(value, hint, message):
    with pytest.raises(InputError, match=message):
        convert(value, hint, "x", _nothing)


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("a: no\nb: on\nc: yes", {"a": "no", "b": "on", "c": "yes"}),
        ("[1e-3, 1.0e-3, .5, 1e3, -2, +3, 010, 1:30]", [1e-3, 1e-3, 0.5, 1e3, -2, 3, 10, "1:30"]),
        ("[true, False, null, ~, 2024-01-02]", [True, False, None, None, "2024-01-02"]),
        ("a: &one {x: 1}\nb: *one", {"a": {"x": 1}, "b": {"x": 1}}),
        ("a:", {"a": None}),
        ("", None),
    ],
)
def test_yaml_holds_text_numbers_and_truth_values(text, data):
    assert parse_yaml(text) == data


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("!!python/object/apply:os.system [touch pwned]", "could not determine a constructor"),
        ("!!timestamp 2024-01-02", "could not determine a constructor"),
        ("!!binary aGVsbG8=", "could not determine a constructor"),
        ("a: 1\na: 2", "the key 'a' occurs twice"),
        ("{[1, 2]: 3}", "keys must be text"),
        ("a: [1", "not YAML: .* in line"),
        ("a: &a [*a]", "an alias that holds itself"),
        ("[" * 5000, "nested too deeply|recursion"),
        ("x" * (2**20 + 1), "at most 1,048,576 characters"),
        (
            "\n".join(
                ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
                + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
            ),
            "at most 100,000 values",
        ),
    ],
    ids=["python", "timestamp", "binary", "twice", "keys", "open", "itself", "deep", "long", "laughs"],
)
def test_yaml_that_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        parse_yaml(text)


@pytest.mark.parametrize(
    "owner",
    [*LOSSES.values(), Sum, *ENCODERS.values(), *(c.options or c.run for c in COMMANDS.values())],
    ids=lambda o: o.__name__,
)
def test_every_option_of_ours_has_a_type_and_a_line(owner):
    options = options_of(owner)
    assert set(options) >= {n for n, p in inspect.signature(owner).parameters.items() if p.kind is not p.VAR_KEYWORD}
    assert not [name for name, option in options.items() if option.hint is Any]
    assert not [name for name, option in options.items() if not option.help]


def test_the_recipe_is_documented():
    assert set(docs_of(Recipe)) == set(options_of(Recipe))


def test_nested_objects_are_made_first():
    description = {"class_path": "torch.nn.Linear", "init_args": {"in_features": 3, "out_features": 2}}
    sensor = {"class_path": "Custom", "init_args": {"module": description, "width": 2}}
    tower = build(sensor, Tower, "towers.sensor", trust_code=True)
    assert isinstance(tower.module, nn.Linear)
    loss = build_loss({"class_path": "Sum", "init_args": {"losses": ["Pairwise", {"class_path": "PMRL"}], "weights": [1, 2]}})
    assert loss.weights == (1.0, 2.0)
    assert build_loss(loss) is loss
    assert build_loss(None).weights == (1.0, 1.0)


def test_objects_may_stand_for_their_descriptions():
    loss = Pairwise()
    assert build_loss({"class_path": "Sum", "init_args": {"losses": [loss]}}).losses[0] is loss


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "`towers.x` must be a name, or have `class_path: NAME` and `init_args`; got 3"),
        ({"class_path": "Custom", "width": 3}, "put width into `init_args`"),
        ({"class_path": "Custum"}, r"`towers.x` must be one of HuggingFace, .* Did you mean 'Custom'?"),
        ({"class_path": "no.such.Thing"}, "`towers.x` 'no.such.Thing' cannot be imported"),
        ({"class_path": "math.pi"}, "must name a class derived from Tower; 'math.pi' is not one"),
        ({"class_path": "subprocess.check_output"}, "must name a class derived from Tower"),
        ({"class_path": "torch.nn.Identity"}, "must name a class derived from Tower"),
        ({"class_path": "Custom"}, "`towers.x.module` must be given: Custom needs module, width"),
        ({"class_path": "Custom", "init_args": [1]}, "`towers.x.init_args` must map options to values"),
        ({"init_args": {"model": "x"}}, "`towers.x.model` needs the name of what it is an option of"),
        ({"class_path": "HuggingFace", "init_args": {"modle": "a"}}, r"`towers.x.modle` is not .* Did you mean 'towers.x.mode"),
        ({"class_path": "Custom", "init_args": {"module": None, "width": 1}}, "`towers.x.module` must be a Module"),
        (
            {"class_path": "Custom", "init_args": {"module": {"class_path": "torch.nn.Identity"}, "width": "a"}},
            "`towers.x.width` must be an integer; got 'a'",
        ),
        (
            {"class_path": "Custom", "init_args": {"width": 1, "module": {"class_path": "subprocess.Popen", "init_args": {}}}},
            "`towers.x.module` must name a class derived from Module",
        ),
        (
            {
                "class_path": "Custom",
                "init_args": {
                    "width": 1,
                    "module": {"class_path": "torch.nn.Linear", "init_args": {"in_features": "a", "out_features": 1}},
                },
            },
            "`towers.x.module.in_features` must be an integer",
        ),
        (
            {
                "class_path": "Custom",
                "init_args": {
                    "width": 1,
                    "module": {
                        "class_path": "torch.nn.Conv1d",
                        "init_args": {"in_channels": 3, "out_channels": 2, "kernel_size": 1, "groups": 7},
                    },
                },
            },
            "`towers.x.module` cannot be made: torch.nn.Conv1d says",
        ),
    ],
)
def test_descriptions_that_make_nothing(given, message):
    with pytest.raises(InputError, match=message):
        build(given, Tower, "towers.x", trust_code=True)


@pytest.mark.parametrize(
    "path", ["subprocess.check_output", "Custom", "torch.nn.Identity", "gramian.model.Custom", "os.system"]
)
@pytest.mark.parametrize("kind", [Tower, Loss, nn.Module])
def test_without_trust_nothing_is_imported(path, kind, monkeypatch):
    monkeypatch.setattr("importlib.import_module", _nothing)
    with pytest.raises(InputError, match=r"--trust-code|must be one of"):
        build(path, kind, "x")


ATTACKS = {
    "function": {"towers": {"text": {"class_path": "subprocess.check_output", "init_args": {"args": ["touch", "pwned"]}}}},
    "nested": {
        "towers": {
            "text": {
                "class_path": "HuggingFace",
                "init_args": {"model": {"class_path": "os.system", "init_args": {"command": "touch pwned"}}, "kind": "text"},
            }
        }
    },
    "mapping": {
        "towers": {
            "text": {
                "class_path": "HuggingFace",
                "init_args": {
                    "model": "m",
                    "kind": "text",
                    "lora": {"r": {"class_path": "pathlib.Path.touch", "init_args": {"self": "pwned"}}},
                },
            }
        }
    },
    "loss": {"loss": {"class_path": "subprocess.check_output", "init_args": {"args": ["touch", "pwned"]}}},
    "sum": {"loss": {"class_path": "Sum", "init_args": {"losses": [{"class_path": "pathlib.Path", "init_args": {}}]}}},
    "vouches": {"trust_code": True, "towers": {"text": {"class_path": "subprocess.check_output"}}},
    "scalar": {"dim": {"class_path": "subprocess.check_output", "init_args": {"args": ["touch", "pwned"]}}},
    "score": {"loss": {"class_path": "Contrast", "init_args": {"score": "os.getcwd"}}},
}


@pytest.mark.parametrize("command", ["train", "check", "embed"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_file_runs_nothing(attack, command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = {"data": "stamps", "output": "out"} | ATTACKS[attack]
    known = COMMANDS[command].table() | (options_of(COMMANDS[command].reads) if COMMANDS[command].reads else {})
    if set(options) - set(known):
        pytest.skip("the command has no such option")
    if command == "check":
        del options["output"]
        if not set(options) & {"towers", "trust_code"}:
            pytest.skip("the command does not read this option")
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(options))
    assert main([command, "c.yaml"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("gramian: ") and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


def test_trust_is_typed_and_lets_towers_alone_through(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    attack = {"data": "stamps", "output": "out"} | ATTACKS["function"]
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(attack))
    assert main(["train", "c.yaml", "--trust-code"]) == 2
    assert "must name a class derived from Tower; 'subprocess.check_output' is not one" in capsys.readouterr().err
    assert not (tmp_path / "pwned").exists()


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
    first, second = Aligner.from_pretrained(tmp_path / "run" / "aligner").towers.values()
    assert first is second
    config["towers"]["subtitle"] = {"same_as": "text"}
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    assert main([*words, str(tmp_path / "other")]) == 2
    assert "`towers.subtitle.same_as` must be one of title; got 'text'" in capsys.readouterr().err
    config["towers"] = [text]
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    assert main([*words, str(tmp_path / "other")]) == 2
    assert "`towers` must map columns to encoders" in capsys.readouterr().err


def test_towers_of_unused_columns_are_not_made():
    assert build_towers({"text": "HuggingFace"}, ["image"]) == {}
