import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from gramian.data import Cells, Table, length, load
from gramian.errors import InputError
from synthetic import world


@pytest.fixture
def table():
    return Table.from_columns(
        {
            "image": [[1.0, 2.0, 3.0], None, [0.5, 0.25, 4.0], [1.0, 1.0, 1.0]],
            "sensor.left": [[0.1, 7.0], [2.0, 3.0], None, None],
        },
        ids=["a", "b", "c", "ü"],
        split=["train", "train", "test", "validation"],
    )


def _same(one: Table, other: Table) -> None:
    assert one.ids == other.ids
    assert one.split == other.split
    assert one.modalities == other.modalities
    for name in one.columns:
        assert torch.equal(one.present[name], other.present[name])
        assert torch.equal(one.columns[name].float(), other.columns[name].float())


@pytest.mark.parametrize("ending", [".safetensors", ".parquet"])
def test_saved_tables_come_back_as_they_were(table, tmp_path, ending):
    path = tmp_path / f"table{ending}"
    table.save(path)
    _same(load(path), table)
    assert list(tmp_path.iterdir()) == [path]


def test_safetensors_keep_the_type_and_the_metadata(tmp_path):
    half = Table({"x": torch.randn(2, 3).half()}, {"x": torch.tensor([True, True])}, ("a", "b"), metadata={"source": "here"})
    half.save(tmp_path / "half.safetensors")
    read = Table.load(tmp_path / "half.safetensors")
    assert read.columns["x"].dtype == torch.float16
    assert read.metadata == {"source": "here"}
    assert torch.equal(read.columns["x"], half.columns["x"])


def test_rows_splits_and_columns(table):
    assert table.part("train").ids == ("a", "b")
    assert table[[2, 0]].ids == ("c", "a")
    assert table[torch.tensor([False, True, False, True])].ids == ("b", "ü")
    assert table[1:3].ids == ("b", "c")
    assert table[3].ids == ("ü",)
    assert table.select("sensor.left").widths == {"sensor.left": 2}
    assert table.select("sensor.left").has_any().ids == ("a", "b")
    assert table.counts() == {"image": 3, "sensor.left": 2}


def test_csv_and_json_lines_read_as_the_parquet_does(table, tmp_path):
    rows = []
    for i, name in enumerate(table.ids):
        cells = {c: table.columns[c][i].tolist() if table.present[c][i] else None for c in table.columns}
        rows.append({"id": name, "split": table.split[i], "caption": "not a feature"} | cells)
    lines = tmp_path / "rows.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    _same(load(lines), table)
    sheet = tmp_path / "rows.csv"
    quoted = [",".join(f'"{value}"' if isinstance(value, list) else str(value or "") for value in row.values()) for row in rows]
    sheet.write_text("id,split,caption,image,sensor.left\n" + "\n".join(quoted) + "\n")
    _same(load(sheet), table)


def test_other_columns_are_left_out_and_named(tmp_path, caplog):
    path = _jsonl(tmp_path, {"x": [1.0], "caption": "z", "nested": [["a"]], "nobody": None})
    assert load(path).modalities == ("x",)
    assert "left out columns that are not lists of floats: caption (string), nested (list" in caplog.text
    assert "nobody (" in caplog.text
    caplog.clear()
    assert load(path, raw=["caption"]).modalities == ("x", "caption")  # what towers do not read is left out on purpose
    assert "left out columns that are not lists of floats: nobody (empty)" in caplog.text


def test_damaged_and_poisoned_tables_are_refused(table, tmp_path):
    poisoned = {name: column.clone() for name, column in table.columns.items()}
    poisoned["image"][0, 0] = torch.nan
    Table(poisoned, table.present, table.ids).save(tmp_path / "nan.safetensors")
    with pytest.raises(InputError, match="column `image` holds NaN or infinite values in 1 of 4"):
        load(tmp_path / "nan.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "header.safetensors", {"gramian.table.v1": '{"columns": ["x"]}'})
    with pytest.raises(InputError, match="is a damaged table"):
        load(tmp_path / "header.safetensors")


def test_digest_tells_tables_apart(table):
    assert table.digest() == table[:].digest()
    changed = {name: column.clone() for name, column in table.columns.items()}
    changed["image"][0, 0] += 1e-6
    digests = {table.digest(), table[1:].digest(), Table(changed, table.present, table.ids).digest()}
    assert len(digests) == 3


def test_plain_matrices_in_safetensors_are_a_table(tmp_path):
    path = tmp_path / "vectors.safetensors"
    save_file({"text": torch.randn(4, 3), "audio": torch.randn(4, 3).half()}, path)
    assert load(path).counts() == {"text": 4, "audio": 4}
    assert len(load(path).to_bundle()) == 4


def test_missing_cells_of_every_kind_are_missing(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"x": [1.0, 2.0], "y": [3.0]}\n{"x": null, "y": [4.0]}\n{"y": [5.0]}\n{"x": [], "y": [6.0]}\n')
    read = load(path)
    assert read.present["x"].tolist() == [True, False, False, False]
    assert read.columns["x"][1:].abs().sum() == 0


def _jsonl(tmp_path, *rows):
    path = tmp_path / "bad.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (
            [{"x": [1.0, 2.0]}, {"x": [1.0]}, {"x": [3.0, 4.0]}],
            {},
            r"column `x` must hold vectors of one width; got 1 \(1 rows\), 2 \(2",
        ),
        ([{"x": [1.0, float("nan")]}, {"x": [1.0, 2.0]}], {}, "column `x` holds NaN or infinite values in 1 of 2 rows"),
        ([{"id": "a", "x": [1.0]}, {"id": "a", "x": [2.0]}], {}, "column `id` must all be different; 1 repeat"),
        ([{"x": [1.0]}], {"columns": ["y"]}, "`columns` must be one of x; got 'y'"),
        (
            [{"x": [1.0], "caption": "z"}],
            {"columns": ["caption"]},
            "column `caption` must hold lists of floats; it holds string",
        ),
        ([{"caption": "z"}], {}, r"no column that holds lists of floats; its columns are caption \(string\)"),
        ([{"x": [1.0]}], {"split": "test"}, "`split` 'test' cannot be taken: the table has no column `split`"),
        ([{"x": [1.0], "split": "train"}], {"split": "test"}, "`split` must be one of train; got 'test'"),
        (
            [{"x": [1.0, None]}],
            {},
            r"bad.jsonl': column `x`, row 0: \[1.0, None\] is not a list of numbers .*; some values are empty",
        ),
        ([{"id": "a", "x": [1.0]}, {"x": [2.0]}], {}, "column `id` is empty in 1 of 2 rows"),
        ([{"split": "train", "x": [1.0]}, {"x": [2.0]}], {}, "column `split` is empty in 1 of 2 rows"),
    ],
)
def test_bad_rows_are_told_apart(tmp_path, rows, options, message):
    with pytest.raises(InputError, match=message):
        load(_jsonl(tmp_path, *rows), **options)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.parquet", b"", "is empty: 0 bytes"),
        ("a.csv", b"id,x\n", "is empty"),
        ("a.parquet", b"not parquet at all", "cannot be read as parquet"),
        ("a.safetensors", b"junk", "cannot be read as safetensors"),
        ("a.csv", b'x,y\n"[1.0]","[2.0]",\n', "has a row of 3 fields, not 2: .* Its header must name every field"),
        ("a.txt", b"x", "`data` must be one of .parquet, .arrow, .csv"),
        ("a.csv", b'id,x\n1,"[0.1, zebra]"\n', "row 0: .* is not a list of numbers"),
    ],
)
def test_bad_files_are_told_apart(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        load(path)


def test_no_such_source_names_the_embedded_sets():
    with pytest.raises(
        InputError,
        match="`data` must be a file, a folder, a hub id or one of stamps, digits, emoji, furniture; 'stamp' does not exist",
    ):
        load("stamp")


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({}, {}, "the table is empty"),
        ({"x": torch.zeros(0, 3)}, {}, "the table is empty"),
        ({"x": torch.zeros(2, 3), "y": torch.zeros(3, 3)}, {}, "`columns` must have one length; got x 2, y 3"),
        ({"x": torch.zeros(2)}, {}, r"must have shape \(n, d\)"),
        ({"x": [None, None]}, {}, "column `x` is empty in every row"),
        ({"x": "hello"}, {}, r"`columns\['x'\]` must be a list with one cell per item; got 'hello'. Write \['hello'\]"),
        ({"x": 3}, {}, r"`columns\['x'\]` must be a list with one cell per item; got 3"),
        ({"x": torch.zeros(2, 3)}, {"ids": "ab"}, "`ids` must be a list with one name per item; got the text 'ab'"),
        ({"x": torch.zeros(2, 3)}, {"split": "ab"}, "`split` must be a list with one name per item; got the text 'ab'"),
        ({"x": [[1.0, 2.0], "a"]}, {}, "column `x` must hold vectors of one width; row 1 is not one"),
        ({"x": torch.zeros(2, 3)}, {"split": ["train"]}, "`split` must name a split for each of the 2 items; got 1"),
        ({"x": torch.zeros(2, 3)}, {"present": {"y": torch.ones(2, dtype=torch.bool)}}, "`present` must be one of x; got 'y'"),
        ({"x": torch.zeros(2, 3)}, {"present": {"x": torch.ones(3, dtype=torch.bool)}}, r"bool of shape \(2,\)"),
    ],
)
def test_from_columns_refuses(columns, options, message):
    with pytest.raises(InputError, match=message):
        Table.from_columns(columns, **options)


def test_masked_rows_are_never_read():
    column = torch.tensor([[1.0, 2.0], [float("nan"), 1.0]])
    table = Table.from_columns({"x": column}, present={"x": torch.tensor([True, False])})
    assert table.columns["x"][1].tolist() == [0.0, 0.0]


def test_numpy_and_integers_are_taken():
    assert Table.from_columns({"x": np.arange(6).reshape(2, 3)}).columns["x"].dtype == torch.float32


def test_lists_of_texts_are_raw_cells():
    table = Table.from_columns({"text": [["a cat", "a kitten"], ["a dog"], [], None], "pair": [("a", "b"), None, None, None]})
    assert list(table.columns["text"]) == [["a cat", "a kitten"], ["a dog"], None, None]
    assert table.counts() == {"text": 2, "pair": 1}
    with pytest.raises(InputError, match="`values` must be a list with one cell per item"):
        Cells("a cat")


def test_unknown_ending_is_refused_before_anything_is_written(table, tmp_path):
    with pytest.raises(InputError, match=r"`path` must be one of .safetensors, .parquet; got '.npz'"):
        table.save(tmp_path / "table.npz")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_tells_its_length_is_not_read_for_it(tmp_path):
    table = world(7, missing=0.5)
    for name in ("a.safetensors", "b.parquet"):
        table.save(tmp_path / name)
        assert length(tmp_path / name) == 7
    (tmp_path / "shards").mkdir()
    for number in range(2):
        table.save(tmp_path / "shards" / f"{number}.parquet")
    assert length(tmp_path / "shards") == 14
    save_file({"text": torch.zeros(5, 2)}, tmp_path / "plain.safetensors")
    assert length(tmp_path / "plain.safetensors") == 5
    (tmp_path / "c.csv").write_text("id,text\n1,a\n")
    (tmp_path / "d.parquet").write_text("no parquet")
    assert [length(tmp_path / name) for name in ("c.csv", "d.parquet", "none.parquet", "hub/name")] == [None] * 4
