import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
import torch
import yaml

from gramian.benchmark import demo as drawing
from gramian.benchmark.demo import demo, methods
from gramian.cli import COMMANDS, main
from gramian.cli.parsing import Command, parse
from gramian.data import Table, load
from gramian.errors import InputError
from gramian.losses import LOSSES
from gramian.model import Aligner
from gramian.model.options import options_of
from gramian.model.specs import build_loss
from gramian.training import Recipe, train
from synthetic import world

FAST = ["--recipe.epochs", "2", "--recipe.batch_size", "32", "--dim", "8"]


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "world.parquet"
    world(missing=0.2).save(path)
    return str(path)


@pytest.fixture
def model(data, tmp_path):
    assert main(["train", "--data", data, "--output", str(tmp_path / "run"), *FAST]) == 0
    return str(tmp_path / "run" / "aligner")


def _fails(capsys, *words):
    code = main([str(word) for word in words])
    err = capsys.readouterr().err
    assert code == 2
    assert err.startswith("gramian: ")
    assert err.count("\n") == 1, err
    return err


@pytest.mark.parametrize("words", [[], ["--help"]])
def test_help_is_a_page_that_names_the_commands(capsys, words):
    assert main(words) == 0
    page = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert f"\n  {name:<10}{command.help}\n" in page
    assert max(map(len, page.splitlines())) <= 120


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_its_options(capsys, command):
    assert main([command, "--help"]) == 0
    page = capsys.readouterr().out
    assert "--config FILE" in page
    assert "class '" not in page
    for name, option in COMMANDS[command].table().items():
        assert f"  --{name}" in page.replace("-", "_").replace("__", "--"), name
        assert option.help or name == "recipe", name
    assert max(map(len, page.splitlines())) <= 128


def greet(name: str, times: int = 1, size: Literal["small", "large"] = "small", loud: bool = False) -> None:
    """Say hello.

    Args:
        name: of whom.
        times: how often.
        size: of the letters.
        loud: with capitals.
    """
    print(" ".join([name.upper() if loud else name] * times), size)


def test_a_command_is_a_function_and_a_line_in_the_table(monkeypatch, capsys):
    monkeypatch.setitem(COMMANDS, "greet", Command(greet, "say hello"))
    assert main(["greet", "--name", "you", "--times=2", "--loud"]) == 0
    assert main(["greet", "--help"]) == 0
    assert main([]) == 0
    out = capsys.readouterr().out
    assert "YOU YOU small\n" in out and "  greet     say hello\n" in out
    assert "  --times INT\n      how often. (default: 1)\n" in out and "  --size small|large\n" in out and "  --loud\n" in out
    assert "`size` must be one of small, large; got 'huge'" in _fails(capsys, "greet", "--size", "huge", "--name", "x")


def test_train_evaluate_embed_hand_over(data, model, tmp_path, capsys):
    report = tmp_path / "report"
    assert main(["evaluate", "--data", data, "--model", model, "--output", str(report)]) == 0
    out = capsys.readouterr().out
    assert "text → image" in out
    figures = json.loads((report / "report.json").read_text())
    assert figures["settings"]["split"] == "test"
    assert figures["items"] == 40

    vectors = tmp_path / "vectors.parquet"
    assert main(["embed", "--data", data, "--model", model, "--split", "test", "--output", str(vectors)]) == 0
    table = load(vectors)
    assert table.widths == {"text": 8, "image": 8, "audio": 8}
    test = load(data).part("test")
    assert table.ids == test.ids
    assert torch.equal(table.mask(), test.mask())
    assert torch.allclose(table.to_bundle().vectors, Aligner.from_pretrained(model).embed(test).vectors, atol=1e-6)

    again = tmp_path / "again"
    assert main(["evaluate", "--data", str(vectors), "--output", str(again)]) == 0
    directions = json.loads((again / "report.json").read_text())["directions"]
    before = [row for row in figures["directions"] if row["score"] != "weights"]  # which the vectors do not come with
    assert [row["recall"] for row in directions] == [row["recall"] for row in before]


def test_the_test_split_is_never_read_in_training(data, tmp_path):
    table = load(data)
    spoiled = {name: column.clone() for name, column in table.columns.items()}
    test = torch.tensor([split == "test" for split in table.split])
    for name in spoiled:
        spoiled[name][test] = 1e4
    path = tmp_path / "spoiled.safetensors"
    type(table)(spoiled, table.present, table.ids, table.split).save(path)
    for name, source in (("clean", data), ("spoiled", str(path))):
        assert main(["train", "--data", source, "--output", str(tmp_path / name), *FAST]) == 0
    clean, spoiled = (Aligner.from_pretrained(tmp_path / name / "aligner").state_dict() for name in ("clean", "spoiled"))
    assert all(torch.equal(clean[name], spoiled[name]) for name in clean)


def test_yaml_and_overrides_behind_it(data, tmp_path):
    config = tmp_path / "train.yaml"
    options = {
        "data": data,
        "dim": 8,
        "loss": {"class_path": "PMRL", "init_args": {"signed": True}},
        "recipe": {"epochs": 3, "batch_size": 32},
    }
    config.write_text(yaml.safe_dump(options))
    assert main(["train", "--config", str(config), "--recipe.epochs=1", "--output", str(tmp_path / "run")]) == 0
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(records) == 1
    assert "loss/alignment" in records[0]


@pytest.mark.parametrize("name", LOSSES)
def test_the_help_lists_the_options_of_a_named_loss(name, capsys):
    assert main(["train", "--loss", name, "--help"]) == 0
    page = capsys.readouterr().out
    for option in options_of(LOSSES[name]):
        assert re.search(rf"^  --loss\.{option}\b", page, flags=re.MULTILINE), option


def test_evaluating_what_was_trained_on_is_pointed_out(data, model, caplog):
    assert main(["evaluate", "--data", data, "--model", model]) == 0
    assert not caplog.messages
    assert main(["evaluate", "--data", data, "--model", model, "--split", "train"]) == 0
    assert caplog.messages == ["80 of the 80 evaluated items were trained on: the figures flatter the model."]


def test_asked_for_columns_are_not_dropped_silently(data, tmp_path, capsys):
    run = tmp_path / "two"
    assert main(["train", "--data", data, "--columns", "text,image", "--output", str(run), *FAST]) == 0
    capsys.readouterr()
    error = _fails(capsys, "evaluate", "--data", data, "--model", run / "aligner", "--columns", "text,audio")
    assert "`columns` must be one of text, image; got 'audio'" in error


def test_a_modality_that_no_embedded_item_has_is_left_out_of_what_is_read_back(model, tmp_path, capsys):
    table = world(items=24)
    nobody = torch.zeros(24, dtype=torch.bool)
    type(table)(table.columns, table.present | {"audio": nobody}, table.ids).save(tmp_path / "w[1].safetensors")
    for ending in ("parquet", "safetensors"):
        out = str(tmp_path / f"v[1].{ending}")
        assert main(["embed", "--data", str(tmp_path / "w[1].safetensors"), "--model", model, "--output", out]) == 0
        assert main(["evaluate", "--data", out]) == 0
    assert "text → image" in capsys.readouterr().out


def test_columns_and_scores_are_written_with_commas(data, tmp_path, capsys):
    assert main(["train", "--data", data, "--columns", "image,audio", "--output", str(tmp_path / "run"), *FAST]) == 0
    assert Aligner.from_pretrained(tmp_path / "run" / "aligner").modalities.keys() == {"image", "audio"}
    model = str(tmp_path / "run" / "aligner")
    capsys.readouterr()
    assert main(["evaluate", "--data", data, "--model", model, "--ks=1,3", "--scores", "span", "cone", "--diagnose"]) == 0
    out = capsys.readouterr().out
    assert "R@3" in out
    assert "uniformity, image" in out
    assert main(["evaluate", "--data", data, "--model", model, "--subsets", "none"]) == 0
    assert "by joint score" not in capsys.readouterr().out
    assert main(["evaluate", "--data", data, "--model", model, "--subsets", "every"]) == 2
    assert "subsets" in capsys.readouterr().err


def test_a_table_without_splits_is_split_by_the_seed(tmp_path):
    table = world()
    path = tmp_path / "plain.safetensors"
    type(table)(table.columns, table.present, table.ids).save(path)
    assert main(["train", "--data", str(path), "--output", str(tmp_path / "run"), "--validation_share", "0.25", *FAST]) == 0
    assert "validation/mrr" in (tmp_path / "run" / "metrics.jsonl").read_text()


@pytest.mark.usefixtures("model")
def test_resume_goes_on_and_a_full_folder_is_not_overwritten(data, tmp_path, capsys, caplog):
    run = tmp_path / "run"
    before = (run / "aligner" / "model.safetensors").read_bytes()
    error = _fails(capsys, "train", "--data", data, "--output", run, *FAST)
    assert "holds a run already. Go on with --resume" in error
    with caplog.at_level("INFO", "gramian"):
        assert main(["train", "--data", data, "--output", str(run), *FAST, "--resume"]) == 0
        assert "nothing to resume" not in caplog.text
        _fails(capsys, "train", "--data", tmp_path / "no.parquet", "--output", tmp_path / "new", "--resume")
        assert f"nothing to resume in {tmp_path / 'new'}: starting from the beginning" in caplog.text
    assert (run / "aligner" / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("command", ["check", "embed", "evaluate", "index"])
def test_one_file_serves_training_and_what_comes_before_and_after(tmp_path, command):
    path = tmp_path / "run.yaml"
    path.write_text("data: x\nrecipe: {epochs: 3}\nhead: linear\n")
    typed = {"embed": ["--output", "out"], "index": ["run"]}.get(command, [])
    assert parse(command, COMMANDS[command], [*typed, str(path)])["data"] == "x"


def test_lists_may_be_typed_together_or_one_by_one():
    for words in (["a", "b"], ["a,b"], ["a", "--media-root", "b"], ["a", "--media_root=b"]):
        options = parse("check", COMMANDS["check"], ["--data", "x", "--media-root", *words])
        assert options["trust"].media_root == [Path("a"), Path("b")]


@pytest.fixture
def checked(data, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"data": data, "output": "unused", "dim": 8, "recipe": {"epochs": 3}, "columns": ["text"]}))
    return str(path)


@pytest.mark.parametrize(
    "words",
    [
        ["{file}"],
        ["--strict", "{file}"],
        ["{file}", "--strict"],
        ["--config={file}"],
        ["--config", "{file}"],
        ["--workers", "0", "{file}"],
        ["--workers=0", "--no-strict", "{file}"],
        ["{file}", "--columns", "text"],
        ["--columns", "text", "{file}"],
        ["--data", "{data}", "--columns", "text", "--strict"],
    ],
)
def test_check_reads_the_file_wherever_it_stands(data, checked, words, capsys):
    assert main(["check", *(word.format(file=checked, data=data) for word in words)]) == 0
    page = capsys.readouterr().out
    assert "text" in page and "image" not in page


def test_what_is_typed_goes_before_what_the_file_says(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(
        "data: a\noutput: b\nloss: {class_path: PMRL, init_args: {signed: true, instance_temperature: 0.2}}\n"
        "recipe: {epochs: 3, seed: 5}\n"
        "towers: {text: HuggingFace, image: {class_path: HuggingFace, init_args: {kind: image}}}\n"
    )
    command = COMMANDS["train"]
    options = parse(
        "train", command, ["--recipe.epochs", "4", "--no-loss.signed", str(file), "--towers.image.mode=lora", "--resume"]
    )
    assert options["recipe"] == Recipe(epochs=4, seed=5)
    assert options["loss"] == {"class_path": "PMRL", "init_args": {"signed": False, "instance_temperature": 0.2}}
    assert options["towers"] == {
        "text": "HuggingFace",
        "image": {"class_path": "HuggingFace", "init_args": {"kind": "image", "mode": "lora"}},
    }
    assert options["resume"] is True and options["output"] == Path("b")
    options = parse("train", command, [str(file), "--loss.score", "cone", "--loss", "Gram", "--data", "c", "--no-resume"])
    assert options["loss"] == {"class_path": "Gram", "init_args": {"score": "cone"}}
    assert options["data"] == "c" and options["resume"] is False
    options = parse("train", command, [str(file), "--loss", "PMRL", "--loss.signed", "--columns", "a", "b", "--dim", "4"])
    assert build_loss(options["loss"]).signed is True
    assert options["columns"] == ["a", "b"] and options["dim"] == 4
    options = parse("train", command, [str(file), "--towers.my-col.gradient-checkpointing", "--columns", "[a,", "b]"])
    assert options["towers"]["my-col"] == {"init_args": {"gradient_checkpointing": True}}
    assert options["columns"] == ["a", "b"]


def test_names_with_markup_and_control_characters_are_shown(tmp_path, capsys):
    names = ("audio[mel]", "text[/en]", "b\x1b[31mold")
    columns = dict(zip(names, world(missing=0.0).columns.values(), strict=True))
    Table.from_columns(columns).save(tmp_path / "w.safetensors")
    run = tmp_path / "run[/test]"
    assert main(["train", "--data", str(tmp_path / "w.safetensors"), "--output", str(run), *FAST]) == 0
    out = capsys.readouterr().out
    assert "audio[mel] → text[/en]" in out
    assert "\x1b" not in out and "b\\x1b[31mold" in out
    assert f"{run / 'aligner'}" in out.replace("\n", "")


def test_a_reader_that_has_had_enough_ends_a_command_quietly(monkeypatch, capsys):
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert main(["--help"]) == 128 + 13
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("tested", [False, True])
def test_the_card_says_when_the_figures_flatter(tmp_path, tested):
    table = world()
    split = tuple(name if tested or name != "test" else "train" for name in table.split)
    type(table)(table.columns, table.present, table.ids, split).save(tmp_path / "t.safetensors")
    assert main(["train", "--data", str(tmp_path / "t.safetensors"), "--output", str(tmp_path / "run"), *FAST]) == 0
    card = (tmp_path / "run" / "aligner" / "README.md").read_text(encoding="utf-8")
    assert ("These items chose the epoch, which flatters the figures." in card) == (not tested)
    assert f"Retrieval on the {'test' if tested else 'validation'} split" in card
    assert "Data: `t.safetensors`." in card and str(tmp_path) not in card


def test_training_is_one_line_of_python(data, tmp_path, capsys):
    run = train(data, tmp_path / "run", "PMRL", dim=8, recipe=Recipe(epochs=2, batch_size=32), progress=False)
    assert [path.name for path in run.written] == ["aligner", "report.md"]
    assert all(path.exists() for path in run.written)
    assert run.report.settings["split"] == "test"
    assert len(run.history.records) == 2
    assert "PMRL" in run.aligner.card and run.aligner.card == (tmp_path / "run" / "aligner" / "README.md").read_text("utf-8")
    assert not capsys.readouterr().out.strip()  # rich 13 ends a hidden bar with a newline


def test_evaluating_vectors_reads_no_record_of_the_working_directory(data, model, tmp_path, monkeypatch, caplog):
    out = str(tmp_path / "v.parquet")
    assert main(["embed", "--data", data, "--model", model, "--split", "train", "--output", out]) == 0
    (tmp_path / "here").mkdir()
    (tmp_path / "splits.json").write_text(json.dumps({"train": load(data).ids}))
    monkeypatch.chdir(tmp_path / "here")
    caplog.clear()
    assert main(["evaluate", "--data", out, "--split", "all"]) == 0
    assert not caplog.messages


@pytest.mark.usefixtures("model")
def test_a_damaged_checkpoint_is_one_line(data, tmp_path, capsys):
    checkpoint = next((tmp_path / "run" / "checkpoints").glob("*/state.safetensors"))
    checkpoint.write_bytes(b"junk")
    error = _fails(capsys, "train", "--data", data, "--output", tmp_path / "run", *FAST, "--resume")
    assert "cannot be resumed" in error


def test_a_run_that_failed_before_its_first_checkpoint_may_be_started_anew(data, tmp_path, monkeypatch, capsys):
    words = ["train", "--data", data, "--output", str(tmp_path / "run"), *FAST]
    monkeypatch.setattr(Recipe, "__post_init__", lambda _self: None)  # or it would refuse this rate
    assert "the loss is not finite" in _fails(capsys, *words, "--recipe.learning_rate", "1e30")
    assert main(words) == 0


def test_a_failing_write_leaves_nothing_half_done(data, model, tmp_path, monkeypatch, capsys):
    import safetensors.torch

    def broken(_tensors, path, _metadata=None):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(safetensors.torch, "save_file", broken)
    error = _fails(capsys, "embed", "--data", data, "--model", model, "--output", tmp_path / "x.safetensors")
    assert "No space left on device" in error
    assert not list(tmp_path.glob("*x.safetensors*"))


def test_the_installed_command_runs_and_speaks_utf_8_in_any_locale(tmp_path):
    """Of names that are right to left, in markup or no UTF-8 at all, to the terminal and to files."""
    names = ("צילום\u202e", "a|b`c*d<i>", "text[/b]")
    columns = dict(zip(names, world(40).columns.values(), strict=True))
    table = tmp_path / os.fsdecode(b"t\xff.jsonl")
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    table.write_text(
        "".join(json.dumps(dict(zip(names, row, strict=True)) | {"id": f"ид {i}"}) + "\n" for i, row in enumerate(rows))
    )
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    words = ["train", "--data", table, "--output", tmp_path / "run", *FAST, "--loss", "Pairwise"]
    done = subprocess.run([sys.executable, "-m", "gramian", *words], capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "text[/b] → a|b`c*d<i>" in done.stdout.decode()
    assert "צילום\\u202e" in done.stdout.decode()
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert any(names[0] in row["query"] for row in report["directions"])
    assert os.fsencode(report["settings"]["data"]).endswith(b"/t\xff.jsonl")
    for page in ("report.md", "aligner/README.md"):
        assert "t\\udcff.jsonl" in (tmp_path / "run" / page).read_text(encoding="utf-8")


@pytest.mark.usefixtures("rough_maps")
def test_demo_compares_every_method_and_resumes(data, tmp_path, monkeypatch, caplog):
    pytest.importorskip("matplotlib")
    options = {
        "data": data,
        "columns": ("text", "image", "audio"),
        "seeds": 2,
        "dim": 8,
        "recipe": Recipe(epochs=2, batch_size=32),
    }
    written = demo(tmp_path / "demo", **options)
    assert [path.name for path in written] == ["report.md", "report.json", "recall.png", "tsne.png", "report.html"]
    assert all(path.stat().st_size > 500 for path in written)
    figures = json.loads(written[1].read_text())
    assert [method["name"] for method in figures["methods"]] == [method.name for method in methods()]
    for method in figures["methods"]:
        means = [run["mean_recall"]["1"]["value"] for run in method["runs"]]
        assert len(means) == 2
        assert method["mean_recall"]["1"]["value"] == pytest.approx(sum(means) / 2, abs=1e-9)
        row = re.search(rf"^\| {method['name']} \|.*", written[0].read_text(), flags=re.M)[0].split(" | ")
        joint = [
            {r["score"]: r for r in run["directions"] if r["query"] == ["text"] and r["target"] == ["image", "audio"]}
            for run in method["runs"]
        ]
        assert float(row[3]) == pytest.approx(50 * sum(run["span"]["recall"]["1"]["value"] for run in joint), abs=0.06)
        assert float(row[4]) == pytest.approx(50 * sum(run["volume"]["recall"]["1"]["value"] for run in joint), abs=0.06)
        assert float(row[5].strip(" |")) == pytest.approx(
            50 * sum(r["span"]["best_single_recall_at_1"] for r in joint), abs=0.06
        )
    page = written[0].read_text()
    for method in methods():
        assert f"| {method.name} |" in page

    kept = tmp_path / "demo" / "runs" / "demo" / "gram-published-0.safetensors"
    lost = tmp_path / "demo" / "runs" / "demo" / "pmrl-published-1.safetensors"
    stamp, content = kept.stat().st_mtime_ns, lost.read_bytes()
    lost.write_bytes(content[:50])
    monkeypatch.setattr(drawing, "_draw", lambda *_: [])  # the same pictures again
    with caplog.at_level("INFO", "gramian"):
        demo(tmp_path / "demo", **options, resume=True)
        assert "nothing to resume" not in caplog.text
    assert kept.stat().st_mtime_ns == stamp
    assert lost.read_bytes() == content
    assert json.loads(written[1].read_text()) == figures
    assert not list((tmp_path / "demo").rglob("*.partial"))


def test_demo_refuses():
    with pytest.raises(InputError, match="`anchor` must be one of the columns image, text"):
        demo("nowhere", columns=("image", "text"), anchor="audio")


@pytest.mark.parametrize(("names", "counts"), [("train val test", (80, 40)), ("TRAIN Dev held", (80, 40)), ("train", (72, 8))])
def test_splits_by_their_usual_names(names, counts, tmp_path, caplog):
    table = world()
    names = dict(zip(("train", "validation", "test"), names.split(), strict=False))
    kept = torch.tensor([name in names for name in table.split])
    split = [names[name] for name in table.split if name in names]
    Table(table[kept].columns, table[kept].present, table[kept].ids, split).save(tmp_path / "t.parquet")
    run = train(tmp_path / "t.parquet", tmp_path / "run", "PMRL", dim=8, recipe=Recipe(epochs=1), progress=False)
    splits = json.loads((tmp_path / "run" / "splits.json").read_text())
    assert (len(splits["train"]), len(splits["validation"])) == counts
    assert ("not used: 40 rows of split 'held'" in caplog.messages) == ("held" in split)
    assert run.report.settings["split"] == ("test" if "test" in split else "validation")


def test_lines_are_whole_where_output_is_piped(data, tmp_path, capsys):
    folder = tmp_path / ("long name " * 20).strip()
    assert main(["train", "--data", data, "--output", str(folder), *FAST]) == 0
    assert f"wrote {folder / 'aligner'} and {folder / 'report.md'}\n" in capsys.readouterr().out
