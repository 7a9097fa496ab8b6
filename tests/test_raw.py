"""Raw media from tables of every format to a trained aligner: `check`, `train`, `evaluate`, `embed`, by the command line."""

from __future__ import annotations

import io
import json
import os
import tarfile
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image

import forked
import tiny
from gramian.cli import main
from gramian.data import Cells, Table, load, stream
from gramian.data.checking import check_table
from gramian.data.content import Folder, open_source
from gramian.data.readers import Media
from gramian.embedding import embed_table
from gramian.errors import InputError
from gramian.model import Aligner, Custom, Features, HuggingFace, Towers

pytest.importorskip("transformers")
datasets = pytest.importorskip("datasets")
soundfile = pytest.importorskip("soundfile")

COLOURS = {"red": (230, 20, 20), "green": (20, 230, 20), "blue": (20, 20, 230)}
PITCHES = {"cat": 300, "dog": 1200, "bird": 4000}


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def media(tmp_path_factory):
    """36 items: a caption, a picture and a sound that agree on a colour and an animal; three of the files are broken."""
    folder = tmp_path_factory.mktemp("media")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(36):
        colour, animal = list(COLOURS)[i % 3], list(PITCHES)[i // 3 % 3]
        noise = rng.integers(-20, 20, (24, 24, 3))
        Image.fromarray((np.array(COLOURS[colour]) + noise).clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
        wave = 0.3 * np.sin(2 * np.pi * PITCHES[animal] * np.arange(4000) / 16000) + 0.01 * rng.normal(size=4000)
        soundfile.write(folder / f"{i}.wav", wave, 16000)
        rows.append(
            {
                "id": f"item-{i}",
                "text": f"a {colour} {animal}",
                "image": f"{i}.png",
                "audio": f"{i}.wav" if i % 6 else None,
                "split": ["train", "train", "train", "validation", "test", "train"][i % 6],
            }
        )
    (folder / "2.png").write_bytes(b"")
    (folder / "7.png").write_bytes((folder / "7.png").read_bytes()[:50])
    (folder / "8.wav").write_text("not a sound")
    return folder, rows


BROKEN = {("item-2", "image"): "0 bytes", ("item-7", "image"): "truncated", ("item-8", "audio"): "no audio"}
RAW = ["text", "image", "audio"]
FILE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.fixture
def parquet(media, tmp_path):
    """The same as one file with the media inside, as Hugging Face datasets writes them."""
    folder, rows = media
    inside = [{**row, **{name: _bytes(folder, row[name]) for name in ("image", "audio")}} for row in rows]
    kinds = {"image": {"_type": "Image"}, "audio": {"_type": "Audio"}}
    kinds |= {name: {"dtype": "string", "_type": "Value"} for name in ("id", "text", "split")}
    table = pa.Table.from_pylist(
        inside, pa.schema([pa.field(name, FILE if name in RAW[1:] else pa.string()) for name in rows[0]])
    )
    path = tmp_path / "clips.parquet"
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": kinds}})}), path)
    return path


def _bytes(folder, name):
    return None if name is None else {"bytes": (folder / name).read_bytes(), "path": None}


@pytest.fixture
def config(models, parquet, tmp_path):
    towers = {
        "text": {
            "class_path": "HuggingFace",
            "init_args": {"model": tiny.build("bert", models), "kind": "text", "mode": "train"},
        },
        "image": {"class_path": "HuggingFace", "init_args": {"model": tiny.build("dinov2", models), "kind": "image"}},
        "audio": {"class_path": "HuggingFace", "init_args": {"model": tiny.build("whisper", models), "kind": "audio"}},
    }
    path = tmp_path / "run.yaml"
    recipe = {"epochs": 2, "batch_size": 8, "evaluate_every": 1}
    path.write_text(yaml.safe_dump({"data": str(parquet), "towers": towers, "dim": 8, "recipe": recipe}))
    return path


def formats(media, parquet, tmp_path):
    folder, rows = media
    for ending in ("csv", "jsonl"):
        path = folder / f"table.{ending}"
        frame = datasets.Dataset.from_list(rows)
        frame.to_csv(path) if ending == "csv" else frame.to_json(path)
        yield path
    yield parquet
    with tarfile.open(tmp_path / "clips.tar", "w") as tar:
        for row in rows:
            for ending, name in (("png", row["image"]), ("wav", row["audio"])):
                if name is not None:
                    tar.add(folder / name, f"{row['id']}.{ending}")
            text = row["text"].encode()
            entry = tarfile.TarInfo(f"{row['id']}.txt")
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text))
    yield tmp_path / "clips.tar"


def test_every_format_holds_the_same_cells(media, parquet, tmp_path):
    _, rows = media
    for path in formats(media, parquet, tmp_path):
        names = {"text": "txt", "image": "png", "audio": "wav"} if path.suffix == ".tar" else {name: name for name in RAW}
        table = load(path, raw=list(names.values()), columns=list(names.values()))
        assert list(table.ids) == [row["id"] for row in rows], path
        assert table.present[names["audio"]].tolist() == [row["audio"] is not None for row in rows], path
        column = table.columns[names["image"]]
        assert np.array(Media("image").read(column[5], folder=column.folder)).shape == (24, 24, 3)
        assert [str(cell) for cell in table.columns[names["text"]]][:2] == [row["text"] for row in rows[:2]]
        assert sum(map(len, stream_ids(path, names))) == len(rows), path


def test_data_sets_saved_to_disk(media, tmp_path):
    folder, rows = media
    held = [
        {name: cell for name, cell in row.items() if name != "split"} | {"image": str(folder / row["image"])} for row in rows
    ]
    datasets.Dataset.from_list(held).save_to_disk(tmp_path / "saved")
    table = load(tmp_path / "saved", raw=["text", "image"])
    assert list(table.ids) == [row["id"] for row in rows]
    assert Media("image").read(table.columns["image"][0]).size == (24, 24)
    assert [len(part) for part in stream(tmp_path / "saved", 10, raw=["text"])] == [10, 10, 10, 6]
    parts = {"train": datasets.Dataset.from_list(held[:5]), "test": datasets.Dataset.from_list(held[5:7])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "parts")
    assert load(tmp_path / "parts", raw=["text"]).part("test").ids == tuple(row["id"] for row in held[5:7])


def test_archives_with_more_in_them(tmp_path):
    def archive(name, **files):
        with tarfile.open(tmp_path / name, "w") as tar:
            for file, content in files.items():
                entry = tarfile.TarInfo(file.replace("__", "."))
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        return tmp_path / name

    vector = io.BytesIO()
    np.save(vector, np.arange(3.0))
    whole = archive(
        "a.tar", x__json=b'{"caption": "a cat", "year": 2020}', x__npy=vector.getvalue(), y__json=b'{"caption": "a dog"}'
    )
    table = load(whole, raw=["caption"])
    assert list(table.columns["caption"]) == ["a cat", "a dog"]
    assert table.columns["npy"].tolist() == [[0, 1, 2], [0, 0, 0]]
    assert load(tmp_path, raw=["caption"]).ids == ("x", "y")
    (tmp_path / "b.tar").write_bytes(whole.read_bytes()[:2000])
    for path, message in (
        (tmp_path / "b.tar", "cannot be read as webdataset"),
        (archive("c.tar", x__json=b"[1]"), "x.json does not hold an object"),
        (archive("d.tar", readme=b"nothing"), "is empty: no rows"),
        (archive("e.tar", x__txt=b"\xff\xfe\xfd"), "cannot be read as webdataset"),
    ):
        with pytest.raises(InputError, match=message):
            load(path, raw=["caption"])


def stream_ids(path, names):
    return [part.ids for part in stream(path, 10, raw=list(names.values()), columns=list(names.values()))]


def test_folders_of_images_with_metadata_and_splits(media, tmp_path):
    folder, rows = media
    for part in ("train", "test"):
        (tmp_path / "images" / part).mkdir(parents=True)
        lines = []
        for row in [row for row in rows if row["split"] == part and row["id"] != "item-2"][:4]:
            (tmp_path / "images" / part / row["image"]).write_bytes((folder / row["image"]).read_bytes())
            lines.append(json.dumps({"file_name": row["image"], "text": row["text"]}))
        (tmp_path / "images" / part / "metadata.jsonl").write_text("\n".join(lines))
    table = load(tmp_path / "images", raw=["image", "text"])
    assert sorted(table.split) == ["test"] * 4 + ["train"] * 4
    assert table.modalities == ("image", "text")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nothing.parquet", "`data` must be a file, a folder, a hub id or one of stamps.* does not exist"),
        ("empty.tar", "is empty: 0 bytes"),
        ("broken.tar", "cannot be read as webdataset"),
        ("folder", "cannot be read as a folder"),
    ],
)
def test_sources_that_hold_nothing(tmp_path, source, message):
    (tmp_path / "empty.tar").touch()
    (tmp_path / "broken.tar").write_bytes(b"x" * 2000)
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=message):
        load(tmp_path / source, raw=["image"])


def test_cells_know_what_is_empty():
    cells = Cells(["a", "", None, b"", {"bytes": None, "path": None}, {"bytes": b"", "path": None}, [], ["a"], {"path": "x"}])
    assert cells.present.tolist() == [True, False, False, True, False, True, False, True, True]


def test_digest_tells_tables_apart(media):
    folder, rows = media
    first = Table.from_columns({"image": Cells([row["image"] for row in rows], folder)})
    assert first.digest() == Table.from_columns({"image": Cells([row["image"] for row in rows], folder)}).digest()
    assert first.digest() != Table.from_columns({"image": Cells([row["image"] for row in rows[::-1]], folder)}).digest()
    with pytest.raises(InputError, match="column `image` holds raw cells, no features"):
        first.save(folder / "table.parquet")


def test_check_finds_what_is_there_missing_broken_and_cut(models, media):
    folder, rows = media
    (folder / "raw.jsonl").write_text("\n".join(json.dumps(row | {"text": row["text"] * 30}) for row in rows))
    table = load(folder / "raw.jsonl", raw=RAW)
    towers = {
        "text": HuggingFace(tiny.build("bert", models), "text"),
        "image": HuggingFace(tiny.build("dinov2", models), "image"),
    }
    towers["audio"] = HuggingFace(tiny.build("whisper", models), "audio", seconds=0.1)
    collator = Towers(towers).collator()
    checked = check_table(table, collator, progress=False)
    assert checked.filled == {"text": 36, "image": 36, "audio": 30}
    assert {(row, name) for row, name, _ in checked.broken} == set(BROKEN)
    for row, name, reason in checked.broken:
        assert BROKEN[row, name] in reason
    assert len(checked.cut["text"]) == 36
    assert checked.cut["audio"]["item-1"] == "0.2 s cut to 0.1"
    assert checked.empty == 0
    assert checked.splits == {"train": 24, "validation": 6, "test": 6}
    assert check_table(table, collator, workers=2, progress=False) == checked


def test_check_on_the_command_line(config, capsys):
    assert main(["check", str(config)]) == 0
    out = capsys.readouterr().out
    assert "item-7" in out
    assert "24" in out
    assert main(["check", str(config), "--workers", "-1"]) == 2
    assert "`workers` must be an integer in" in capsys.readouterr().err
    assert main(["check", str(config), "--strict"]) == 2
    assert "3 cells cannot be read, the first in column `image`, id 'item-2': 0 bytes" in capsys.readouterr().err


def test_media_outside_of_the_table_are_read_from_the_roots_that_are_typed(config, media, tmp_path, capsys):
    folder, rows = media
    table = tmp_path / "elsewhere" / "t.jsonl"
    table.parent.mkdir()
    table.write_text("".join(json.dumps({"id": row["id"], "image": str(folder / row["image"])}) + "\n" for row in rows))
    check = ["check", str(config), "--data", str(table), "--columns", "image", "--strict"]
    assert main(check) == 2
    assert "36 cells cannot be read" in (err := capsys.readouterr().err)
    assert f"outside of the table's folder; --media-root {folder} (in Python `media_root`) allows it" in err
    assert main([*check, "--media-root", str(folder), "--media-root", str(tmp_path)]) == 2
    assert "2 cells cannot be read, the first in column `image`, id 'item-2': 0 bytes" in capsys.readouterr().err
    assert main([*check, "--media-root", str(folder / "nothing")]) == 2
    assert "`media_root` must name existing folders" in capsys.readouterr().err
    config.write_text(config.read_text() + f"media_root: [{folder}]\n")
    assert main(check) == 2
    assert "`media_root` may not be set in a file" in capsys.readouterr().err
    whole = load(table, raw=["image"], media_root=folder)
    parts = list(stream(table, 36, raw=["image"], media_root=[folder]))
    assert parts[0].columns["image"].folder == whole.columns["image"].folder == Folder.of(table.parent, [folder, table])


def test_check_reads_the_file_of_a_training_run(config, tmp_path, capsys):
    for words, message in (
        (["nothing.yaml"], "`config` must be an existing YAML file; 'nothing.yaml' does not exist"),
        ([str(config), "--colums", "text"], "`colums` is not an option of `gramian check`"),
        (["--config", str(tmp_path / "odd.yaml")], "`spleen` is not an option of `gramian check`"),
    ):
        (tmp_path / "odd.yaml").write_text("data: x\nspleen: 3\n")
        assert main(["check", *words]) == 2
        assert message in capsys.readouterr().err
    assert main(["check", "--config", str(config), "--columns", "text"]) == 0
    assert "image" not in capsys.readouterr().out


def test_one_yaml_gives_an_aligner_a_report_and_a_card(config, tmp_path, capsys):
    output = tmp_path / "run"
    assert main(["train", "--config", str(config), "--output", str(output)]) == 0
    assert "wrote" in capsys.readouterr().out
    report = json.loads((output / "report.json").read_text())
    assert report["items"] == 6
    assert report["settings"]["split"] == "test"
    assert {direction["gallery"] for direction in report["directions"]} <= {5, 6}
    card = (output / "aligner" / "README.md").read_text()
    meta = yaml.safe_load(card.split("---")[1])
    assert meta["library_name"] == "gramian"
    for expected in (
        "fine-tuned",
        "frozen",
        "| train | 24 | 24 | 24 | 18 |",
        "arXiv 2412.11959",
        "R@1 [95 %]",
        "0 bytes",
        "from_pretrained",
    ):
        assert expected in card, expected
    aligner = Aligner.from_pretrained(output / "aligner")
    assert aligner.card == card
    bundle = aligner({"text": ["a red cat", None], "image": [None, Image.new("RGB", (8, 8))]})
    assert bundle.counts() == {"text": 1, "image": 1, "audio": 0}
    assert (
        main(
            [
                "evaluate",
                "--data",
                yaml.safe_load(config.read_text())["data"],
                "--model",
                str(output / "aligner"),
                "--split",
                "all",
                "--output",
                str(tmp_path / "all"),
            ]
        )
        == 0
    )
    found = json.loads((tmp_path / "all" / "report.json").read_text())["unreadable"]
    assert {(one["id"], one["modality"]) for one in found} == set(BROKEN)
    assert "item-8" in (tmp_path / "all" / "report.md").read_text()
    assert main(["train", "--config", str(config), "--output", str(tmp_path / "strict"), "--strict"]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_report_to_tensorboard(config, tmp_path):
    pytest.importorskip("tensorboard")
    output = tmp_path / "run"
    assert main(["train", "--config", str(config), "--output", str(output), "--report-to", "tensorboard"]) == 0
    assert list(output.rglob("events.out.tfevents*"))
    assert main(["train", "--config", str(config), "--output", str(tmp_path / "other"), "--report-to", "paper"]) == 2


def test_embed_writes_shards_that_load_reads(config, parquet, tmp_path, capsys):
    for output, more in (("first", []), ("second", ["--workers", "1"]), ("third", ["--streaming"])):
        words = [
            "embed",
            "--config",
            str(towers_of(config, tmp_path)),
            "--data",
            str(parquet),
            "--output",
            str(tmp_path / output),
        ]
        assert main([*words, "--shard-size", "10", *more]) == 0
    tables = [load(tmp_path / name) for name in ("first", "second", "third")]
    for table in tables:
        assert table.ids == tables[0].ids == tuple(f"item-{i}" for i in range(36))
        assert table.split == tables[0].split
        assert table.counts() == {"text": 36, "image": 34, "audio": 29}
        for name in table.modalities:
            torch.testing.assert_close(table.columns[name], tables[0].columns[name], rtol=1e-4, atol=1e-5)
    manifest = json.loads((tmp_path / "first" / "manifest.json").read_text())
    assert [shard["rows"] for shard in manifest["shards"]] == [10, 10, 10, 6]
    assert {(row, name) for row, name, _ in manifest["broken"]} == set(BROKEN)
    assert manifest["towers"]["image"]["hash"]
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == [
        "manifest.json",
        *(f"part-{i:05d}.parquet" for i in range(4)),
    ]
    capsys.readouterr()
    words = ["embed", "--config", str(towers_of(config, tmp_path)), "--data", str(parquet), "--output", str(tmp_path / "first")]
    assert main([*words, "--shard-size", "10"]) == 0
    assert "4 of which existed already" in capsys.readouterr().out
    assert main([*words, "--shard-size", "12"]) == 2
    assert "holds another embedding; changed are shard_size 10 → 12" in capsys.readouterr().err
    assert (
        main(
            [
                "train",
                "--data",
                str(tmp_path / "first"),
                "--dim",
                "8",
                "--recipe.epochs",
                "1",
                "--recipe.batch-size",
                "8",
                "--output",
                str(tmp_path / "run"),
            ]
        )
        == 0
    )


def towers_of(config, tmp_path):
    path = tmp_path / "towers.yaml"
    path.write_text(yaml.safe_dump({"towers": yaml.safe_load(config.read_text())["towers"]}))
    return path


def test_a_killed_embedding_goes_on_without_loss_or_doubles(models, media, tmp_path, monkeypatch):
    rows = media[1]
    table = Table.from_columns({"text": [row["text"] for row in rows]}, ids=[row["id"] for row in rows])
    model = Towers({"text": HuggingFace(tiny.build("bert", models), "text")})
    whole = embed_table(model, table, tmp_path / "whole", shard_size=5, progress=False)
    assert whole[:3] == (36, 8, 0)
    from gramian import embedding

    real, calls = embedding._encode, []

    def killed(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(embedding, "_encode", killed)
    with pytest.raises(KeyboardInterrupt):
        embed_table(model, table, tmp_path / "killed", shard_size=5, progress=False)
    with pytest.raises(InputError, match=r"was not finished\. Run the same `gramian embed` again"):
        load(tmp_path / "killed")
    (tmp_path / "killed" / ".part-00003.parquet.7@there.0123abcd.partial").write_bytes(b"half")
    again = embed_table(model, table, tmp_path / "killed", shard_size=5, progress=False)
    assert again[:3] == (36, 8, 3)
    assert load(tmp_path / "killed").digest() == load(tmp_path / "whole").digest()
    assert {path.name for path in (tmp_path / "killed").iterdir()} == {path.name for path in (tmp_path / "whole").iterdir()}
    nn = model["text"].model.embeddings.word_embeddings.weight
    with torch.no_grad():
        nn.mul_(2)
    with pytest.raises(InputError, match="holds another embedding; changed are towers"):
        embed_table(model, table, tmp_path / "killed", shard_size=5, progress=False)


def test_embedding_is_killed_for_real_and_by_two_processes(config, parquet, tmp_path):
    words = ["embed", "--config", str(towers_of(config, tmp_path)), "--data", str(parquet), "--shard-size", "3"]
    words += ["--output", str(tmp_path / "shards"), "--batch-size", "1"]
    process, _ = forked.start(main, words)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "shards").glob("part-*.parquet")) and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.join()
    assert len(list((tmp_path / "shards").glob("part-*.parquet"))) >= 1
    assert forked.values(forked.together(main, words, processes=2)) == [0, 0]
    assert load(tmp_path / "shards").ids == tuple(f"item-{i}" for i in range(36))


def test_folders_that_hold_something_else_are_left_alone(models, tmp_path):
    table = Table.from_columns({"text": ["a cat", "a dog"]})
    model = Towers({"text": HuggingFace(tiny.build("bert", models), "text")})
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds other files \(notes.txt\). Name another folder"):
        embed_table(model, table, tmp_path, progress=False)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="`output` must be a folder"):
        embed_table(model, table, tmp_path / "file", progress=False)
    for options in ({"batch_size": 0}, {"shard_size": 0}, {"shard_size": 1.5}, {"precision": "fp8"}):
        with pytest.raises(InputError, match="must be"):
            embed_table(model, table, tmp_path / "other", progress=False, **options)


def test_two_processes_train_on_media_as_one_does(config, tmp_path):
    config.write_text(config.read_text().replace("mode: train", "mode: freeze"))  # each process draws its own dropout
    found = []
    for processes in (1, 2):
        output = tmp_path / str(processes)
        words = ["train", "--config", str(config), "--output", str(output), "--recipe.micro-batch", "3"]
        assert forked.values(forked.together(main, words, processes=processes)) == [0] * processes
        records = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
        found.append([record["loss"] for record in records])
        assert "0 bytes" in (output / "aligner" / "README.md").read_text()
    assert found[0] == pytest.approx(found[1], abs=1e-3)


def test_texts_and_names_of_a_csv_are_as_they_stand(tmp_path):
    (tmp_path / "t.csv").write_text('id,text,image\n01,NA,"[1, 2]"\n1,2024,"[3, 4]"\n2,,\n')
    table = load(tmp_path / "t.csv", raw=["text"])
    assert table.ids == ("01", "1", "2")
    assert list(table.columns["text"]) == ["NA", "2024", None]
    assert table.present["image"].tolist() == [True, True, False]


def test_modalities_may_not_be_called_as_the_rows_are(tmp_path):
    table = Table.from_columns({"split": torch.randn(2, 3)})
    with pytest.raises(InputError, match="`columns` must not name a modality 'split'"):
        table.save(tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_text("id,text\n1,a\n2,b\n")
    with pytest.raises(InputError, match="`raw` must not name column `id`"):
        load(tmp_path / "t.csv", raw=["id"])


def test_archives_that_number_their_rows_alike(tmp_path):
    for name, file in (("a.tar", "0.png"), ("b.tar", "0.txt")):
        with tarfile.open(tmp_path / name, "w") as tar:
            entry = tarfile.TarInfo(file)
            entry.size = 3
            tar.addfile(entry, io.BytesIO(b"abc"))
    with pytest.raises(InputError, match=r"column `id` must all be different; 1 repeat an earlier one \(0\)"):
        load(tmp_path, raw=["png"])


def test_archives_lie_in_any_folder_beside_nothing_that_is_not_named(tmp_path, caplog):
    for name in ("train/a.tar", "test/deep/B.TAR"):
        (tmp_path / name).parent.mkdir(parents=True)
        with tarfile.open(tmp_path / name, "w") as tar:
            for file in (f"{name[:4]}.png", "README", "sub/.hidden"):
                entry = tarfile.TarInfo(file)
                entry.size = 3
                tar.addfile(entry, io.BytesIO(b"abc"))
    (tmp_path / "notes.txt").write_text("x")
    table = load(tmp_path, raw=["png"])
    assert table.ids == ("test", "trai")
    assert table.split == ("test", "train")
    assert open_source(table.columns["png"][1], table.columns["png"].folder) == b"abc"
    assert "B.TAR: left out files without a name or an ending: README, sub/.hidden" in caplog.text
    assert "left out what is neither a table nor a media file: notes.txt" in caplog.text
    (tmp_path / "t.csv").write_text("a\nx\n")
    with pytest.raises(InputError, match="holds tables of several formats"):
        load(tmp_path, raw=["png"])


def test_towers_of_ones_own_are_told_apart(tmp_path):
    def custom(seed):
        torch.manual_seed(seed)
        return Towers({"x": Custom(torch.nn.Linear(2, 3), 3)})

    table = Table.from_columns({"x": Cells([[1.0, 2.0], [3.0, 4.0]])})
    embed_table(custom(0), table, tmp_path / "out", progress=False)
    with pytest.raises(InputError, match="holds another embedding; changed are towers"):
        embed_table(custom(1), table, tmp_path / "out", progress=False)
    with pytest.raises(InputError, match="`columns` has unknown modalities y; the model knows x"):
        embed_table(custom(0), Table.from_columns({"y": Cells(["a"])}), tmp_path / "y", progress=False)
    assert not (tmp_path / "y").exists()
    with pytest.raises(InputError, match="column `x` must hold raw cells, which its tower reads; it holds features"):
        embed_table(custom(0), Table.from_columns({"x": torch.randn(2, 2)}), tmp_path / "z", progress=False)


def test_the_columns_written_are_those_asked_for_or_those_of_the_table(tmp_path):
    towers = Towers({name: Custom(torch.nn.Identity(), 2) for name in ("x", "y", "z")})
    table = Table.from_columns({name: Cells([[1.0, 2.0], None]) for name in ("x", "y")})
    for columns in (None, ["y"]):
        folder = tmp_path / str(columns)
        embed_table(towers, table, folder, columns=columns, progress=False)
        assert list(load(folder).modalities) == (columns or ["x", "y"])


def test_another_table_in_a_finished_folder_is_refused(tmp_path):
    def table(cells=((1.0, 2.0), (3.0, 4.0)), **options):
        options = {"ids": ["a", "b"], "split": ["train", "test"], "item_ids": ["x", "y"]} | options
        return Table.from_columns({"x": Cells([list(cell) for cell in cells])}, **options)

    towers = Towers({"x": Custom(torch.nn.Identity(), 2)})
    embed_table(towers, table(), tmp_path / "out", progress=False)
    assert embed_table(towers, table(), tmp_path / "out", progress=False).kept == 1
    for other in (
        table(split=["train", "train"]),
        table(split=None),
        table(ids=["a", "c"]),
        table(item_ids=["x", "z"]),
        table(item_ids=None),
        table(((1.0, 2.0), (3.0, 5.0))),
        table(present={"x": [True, False]}),
    ):
        with pytest.raises(InputError, match="holds another embedding; changed are data"):
            embed_table(towers, other, tmp_path / "out", progress=False)


def test_a_digest_sees_the_middle_of_bytes_and_files_under_their_names(tmp_path):
    def digest(cells):
        return Table.from_columns({"image": Cells(cells, tmp_path)}).digest()

    content = bytes(100_000)
    assert digest([content]) != digest([content[:50_000] + b"x" + content[50_001:]])
    (tmp_path / "a.png").write_bytes(b"one")
    for cell in ("a.png", {"bytes": None, "path": "a.png"}, {"bytes": None, "path": str(tmp_path / "a.png")}, ["a.png"]):
        before = digest([cell])
        assert digest([cell]) == before
        os.utime(tmp_path / "a.png", ns=(0, 1))
        assert digest([cell]) != before
        before = digest([cell])
        (tmp_path / "a.png").write_bytes(b"other")
        os.utime(tmp_path / "a.png", ns=(0, 1))
        assert digest([cell]) != before
        (tmp_path / "a.png").write_bytes(b"one")
    assert digest(["a" * 5000, "a\0b", "\ud800"]) == digest(["a" * 5000, "a\0b", "\ud800"])


def test_one_file_holds_what_a_folder_holds_but_for_rows_with_nothing(tmp_path):
    table = Table.from_columns({"x": Cells(["1.5", "none", "2.5"]), "y": [[1.0], None, [2.0]]}, ids=["a", "b", "c"])
    read = lambda cell: torch.tensor([float(cell)])  # noqa: E731
    towers = Towers({"x": Custom(torch.nn.Linear(1, 2), 2, read=read), "y": Features(1)})
    folder = embed_table(towers, table, tmp_path / "out", progress=False)
    for ending in ("parquet", "safetensors"):
        one = embed_table(towers, table, tmp_path / f"v.{ending}", progress=False)
        assert one.broken == folder.broken
        assert one.rows == 2
        assert one.left_out == 1
        assert one.counts == {"x": 2, "y": 2}
        whole, kept = load(tmp_path / "out"), load(tmp_path / f"v.{ending}")
        assert kept.ids == ("a", "c")
        assert whole[[0, 2]].digest() == kept.digest()
    with pytest.raises(InputError, match="`output` must be a folder, since `streaming` writes shards"):
        embed_table(towers, [table], tmp_path / "w.parquet", progress=False)


def test_a_stream_of_other_files_is_another_embedding(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"x": [1.0, 2.0]}\n')
    towers = Towers({"x": Custom(torch.nn.Identity(), 2)})
    embed = lambda: embed_table(towers, stream(path, 4, raw=["x"]), tmp_path / "out", source=str(path), progress=False)  # noqa: E731
    assert embed().rows == 1
    assert embed().kept == 1
    path.write_text('{"x": [1.0, 2.0]}\n{"x": [1.0, 2.0]}\n')
    with pytest.raises(InputError, match="changed are data streamed"):
        embed()


def test_parts_of_a_stream_may_lack_columns(models, tmp_path):
    rows = [{"text": f"a cat {i}", "image": [1.0, float(i)] if i >= 5 else None, "other": [1.0]} for i in range(9)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    aligner = Aligner({"text": HuggingFace(tiny.build("bert", models), "text"), "image": 2}, dim=4)
    parts = stream(tmp_path / "t.jsonl", 4, raw=["text"])
    assert embed_table(aligner, parts, tmp_path / "out", progress=False).rows == 9
    assert load(tmp_path / "out").counts() == {"text": 9, "image": 4}


def test_digests_of_pictures_and_lists():
    def digest(*cells):
        return Table.from_columns({"x": Cells(list(cells))}).digest()

    assert digest(Image.new("RGB", (2, 2), "red")) == digest(Image.new("RGB", (2, 2), "red"))
    assert digest(Image.new("RGB", (2, 2), "red")) != digest(Image.new("RGB", (2, 2), "blue"))
    first, second = np.zeros(2000), np.zeros(2000)
    second[1000] = 1
    assert digest([first]) != digest([second])


@pytest.mark.parametrize("output", ["vectors.parquet", "shards", "streamed"])
def test_columns_that_the_model_does_not_read_are_an_error_wherever_it_writes(config, parquet, tmp_path, capsys, output):
    words = ["embed", "--data", str(parquet), "--output", str(tmp_path / output)]
    Aligner({"text": 4, "other": 3}, dim=8).save_pretrained(tmp_path / "aligner")
    more = ["--streaming"] if output == "streamed" else []
    assert main([*words, *more, "--model", str(tmp_path / "aligner"), "--columns", "text,audio"]) == 2
    assert "`columns` must be one of text, other; got 'audio'" in capsys.readouterr().err
    assert main([*words, *more, "--config", str(towers_of(config, tmp_path)), "--columns", "text,smell"]) == 2
    assert "`columns` must be one of text; got 'smell'" in capsys.readouterr().err
    assert main([*words, *more, "--config", str(towers_of(config, tmp_path)), "--workers", "-1"]) == 2
    assert "`workers` must be an integer in" in capsys.readouterr().err
    assert not (tmp_path / output).exists()


def test_a_stream_in_which_a_part_has_nothing(tmp_path):
    rows = [{"image": [1.0, float(i)] if i >= 4 else None} for i in range(8)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for model in (Aligner({"image": 2, "text": 3}, dim=4), Towers({"image": Features(2)})):
        output = tmp_path / type(model).__name__
        embed_table(model, stream(tmp_path / "t.jsonl", 4, columns=["image"]), output, columns=["image"], progress=False)
        assert set(pq.read_table(output / "part-00000.parquet").column_names) == {"id", "image"}
        assert load(output, columns=["image"]).present["image"].tolist() == [False] * 4 + [True] * 4


def test_nothing_that_can_be_read(config, tmp_path, capsys):
    (tmp_path / "t.jsonl").write_text('{"image": "nothing.png"}\n{"image": "nothing2.png"}\n')
    words = ["embed", "--config", str(towers_of(config, tmp_path)), "--data", str(tmp_path / "t.jsonl"), "--columns", "image"]
    assert main([*words, "--output", str(tmp_path / "out.parquet")]) == 2
    assert "has no cell that can be read (image of 0: no such file" in capsys.readouterr().err
