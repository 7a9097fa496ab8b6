"""What is on disk is what was read: tables by pandas, polars and pyarrow in every format come back as they were put in."""

from __future__ import annotations

import datetime
import io
import json
import math
import types
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gramian.data import formats, hub, load, room, stream
from gramian.data.arrow import read_vectors, vector_array
from gramian.data.content import Unreadable, open_source
from gramian.errors import InputError

pa = pytest.importorskip("pyarrow")
pd = pytest.importorskip("pandas")
pl = pytest.importorskip("polars")
import pyarrow.csv as pc  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

NAMES = st.text("ab é日[]%#. /'\",:\n", min_size=1, max_size=6).filter(
    lambda name: name not in ("id", "split", "item") and not name.isspace()
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=12)
FLOATS = st.floats(-1e6, 1e6, width=32)
CELLS: dict[str, Any] = {
    "text": TEXTS,
    "whole": st.integers(-(2**63), 2**63 - 1),
    "truth": st.booleans(),
    "date": st.dates(datetime.date(1900, 1, 1), datetime.date(2100, 1, 1)),
    "captions": st.lists(TEXTS, max_size=3),
}
TYPES: dict[str, Any] = {
    "text": pa.string(),
    "whole": pa.int64(),
    "truth": pa.bool_(),
    "date": pa.date32(),
    "captions": pa.list_(pa.string()),
}
POLARS: dict[str, Any] = {
    "text": pl.String,
    "whole": pl.Int64,
    "truth": pl.Boolean,
    "date": pl.Date,
    "captions": pl.List(pl.String),
}


@dataclass
class Sample:
    """n rows: features of one width, one raw column of some kind, ids."""

    ids: list[str]
    features: str
    vectors: list[list[float] | None]
    raw: str
    kind: str
    cells: list[Any]


IDS = TEXTS.filter(bool)


@st.composite
def samples(draw, kinds=tuple(CELLS)):
    n = draw(st.integers(1, 6))
    features, raw = draw(st.lists(NAMES, min_size=2, max_size=2, unique=True))
    width = draw(st.integers(1, 3))
    vector = st.lists(FLOATS, min_size=width, max_size=width)
    vectors = draw(st.lists(st.none() | vector, min_size=n, max_size=n).filter(lambda rows: any(rows)))
    kind = draw(st.sampled_from(kinds))
    cells = draw(st.lists(st.none() | CELLS[kind], min_size=n, max_size=n))
    return Sample(draw(st.lists(IDS, min_size=n, max_size=n, unique=True)), features, vectors, raw, kind, cells)


def arrow(sample: Sample) -> Any:
    columns = {
        "id": pa.array(sample.ids, pa.string()),
        sample.features: pa.array(sample.vectors, pa.list_(pa.float32())),
        sample.raw: pa.array(sample.cells, TYPES[sample.kind]),
    }
    return pa.table(columns)


def polars(sample: Sample) -> Any:
    kinds = {"id": pl.String, sample.features: pl.List(pl.Float32), sample.raw: POLARS[sample.kind]}
    return pl.DataFrame({"id": sample.ids, sample.features: sample.vectors, sample.raw: sample.cells}, schema=kinds)


def pandas(sample: Sample) -> Any:
    columns = {"id": sample.ids, sample.features: sample.vectors, sample.raw: sample.cells}
    return pd.DataFrame({name: pd.Series(column, dtype=object) for name, column in columns.items()})


def ipc(table: Any, path: Path, options: Any = None) -> None:
    with pa.ipc.new_file(str(path), table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=2)


def ipc_stream(table: Any, path: Path) -> None:
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table)


def encoded(sample: Sample) -> Any:
    """The same table in Arrow's other types: dictionaries, views, lists of fixed size, runs."""
    table = arrow(sample)
    width = max(len(row) for row in sample.vectors if row)
    table = table.set_column(1, sample.features, pa.array(sample.vectors, pa.list_(pa.float64(), width)))
    if sample.kind == "text":
        table = table.set_column(2, sample.raw, table.column(2).dictionary_encode())
    return table.set_column(0, "id", table.column(0).cast(pa.string_view()))


TYPED = {
    "pyarrow parquet": (".parquet", lambda s, path: pq.write_table(arrow(s), path, row_group_size=2)),
    "pyarrow parquet, other types": (".parquet", lambda s, path: pq.write_table(encoded(s), path)),
    "pyarrow file": (".arrow", lambda s, path: ipc(arrow(s), path)),
    "pyarrow file, compressed": (
        ".feather",
        lambda s, path: ipc(arrow(s), path, pa.ipc.IpcWriteOptions(compression="zstd")),
    ),
    "pyarrow stream": (".arrow", lambda s, path: ipc_stream(encoded(s), path)),
    "polars parquet": (".parquet", lambda s, path: polars(s).write_parquet(path)),
    "polars file": (".arrow", lambda s, path: polars(s).write_ipc(path)),
    "pandas parquet": (".parquet", lambda s, path: pandas(s).to_parquet(path)),
    "pandas parquet, an index": (
        ".parquet",
        lambda s, path: pandas(s).set_index(pd.Index(range(7, 7 + len(s.ids)), dtype="int64")).iloc[::1].to_parquet(path),
    ),
}


def check(sample: Sample, path: Path, of_cell=lambda cell: cell) -> None:
    """Whole, and streamed row by row."""
    expected = [None if cell in (None, "", []) else of_cell(cell) for cell in sample.cells]
    whole = load(path, raw=[sample.raw])
    parts = list(stream(path, 1, raw=[sample.raw]))
    for rows in (whole, *parts):
        assert set(rows.columns) <= {sample.features, sample.raw}
    assert whole.ids == tuple(sample.ids)
    assert [part.ids[0] for part in parts] == sample.ids
    cells = list(whole.columns[sample.raw])
    assert cells == expected
    assert [part.columns[sample.raw][0] if sample.raw in part.columns else None for part in parts] == expected
    for row, vector in enumerate(sample.vectors):
        found = whole.columns[sample.features][row] if whole.present[sample.features][row] else None
        assert (found is None) == (vector is None)
        streamed = parts[row].columns.get(sample.features)
        assert (streamed is None or not parts[row].present[sample.features][0]) == (vector is None)
        if vector is not None:
            assert found.tolist() == vector == streamed[0].tolist()


@pytest.mark.parametrize("writer", TYPED)
@given(sample=samples())
def test_typed_formats_come_back_equal(tmp_path_factory, writer, sample):
    ending, write = TYPED[writer]
    path = tmp_path_factory.mktemp("typed") / f"table{ending}"
    write(sample, path)
    check(sample, path)


@given(sample=samples(kinds=("text", "whole", "truth", "captions")))
def test_json_lines_come_back_equal(tmp_path_factory, sample):
    folder = tmp_path_factory.mktemp("json")
    rows = [
        {"id": row, sample.features: vector, sample.raw: cell}
        for row, vector, cell in zip(sample.ids, sample.vectors, sample.cells, strict=True)
    ]
    (folder / "a.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n\n" for row in rows), encoding="utf-8-sig")
    (folder / "b.json").write_text(json.dumps(rows, indent=1))
    for name in ("a.jsonl", "b.json"):
        check(sample, folder / name)
    polars(sample).write_ndjson(folder / "polars.jsonl")
    check(sample, folder / "polars.jsonl")
    if sample.kind != "whole" or all(cell is None or abs(cell) < 2**53 for cell in sample.cells):
        pandas(sample).to_json(folder / "pandas.jsonl", orient="records", lines=True, double_precision=15)
        found = load(folder / "pandas.jsonl", raw=[sample.raw])
        assert found.ids == tuple(sample.ids)
        assert found.present[sample.features].tolist() == [vector is not None for vector in sample.vectors]


@given(sample=samples(kinds=("text", "whole")))
def test_csv_comes_back_as_text(tmp_path_factory, sample):
    folder = tmp_path_factory.mktemp("csv")
    texts = [None if vector is None else json.dumps(vector) for vector in sample.vectors]
    columns = {"id": sample.ids, sample.features: texts, sample.raw: sample.cells}
    frame = polars(sample).with_columns(pl.Series(sample.features, texts, pl.String))
    frame.write_csv(folder / "polars.csv")
    pd.DataFrame({name: pd.Series(cells, dtype=object) for name, cells in columns.items()}).to_csv(
        folder / "pandas.csv", index=False
    )
    pc.write_csv(pa.table({name: pa.array(cells) for name, cells in columns.items()}), folder / "pyarrow.csv")
    for name in ("polars.csv", "pandas.csv", "pyarrow.csv"):
        check(sample, folder / name, str)


FILE_NAMES = st.lists(
    st.text("aé日[]%# -_", min_size=1, max_size=4).map(str.strip).filter(lambda name: name and name[0] != ".")
    | st.sampled_from(["train", "test", "part-test", "img_train", "val-00000-of-00001", "validation", "eval", "a.test", "dev"]),
    min_size=1,
    max_size=5,
    unique=True,
)


@given(names=FILE_NAMES)
def test_no_file_of_a_folder_is_left_out_for_its_name(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("folder")
    (folder / "shards" / "deeper").mkdir(parents=True)
    (folder / "pictures" / "test").mkdir(parents=True)
    for number, name in enumerate(names):
        home = folder / "shards" / ("deeper" if number == 1 else "")
        pq.write_table(pa.table({"id": [name], "v": [[1.0, 2.0]]}), home / f"{name}.parquet")
        home = folder / "pictures" / ("test" if number == 1 else "")
        (home / f"{name}.png").write_bytes(b"x")
    assert sorted(load(folder / "shards").ids) == sorted(names)
    assert sorted(part.ids[0] for part in stream(folder / "shards", 1)) == sorted(names)
    pictures = load(folder / "pictures", raw=["image"])
    assert sorted(Path(cell).stem for cell in pictures.columns["image"]) == sorted(names)


def test_splits_are_what_whole_names_of_all_files_say(tmp_path):
    def write(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table({"id": [name], "v": [[1.0]]}), tmp_path / name)

    write("a/train.parquet", "a/dev.parquet")
    assert load(tmp_path / "a").split == ("validation", "train")
    write("b/data/train-00000-of-00002.parquet", "b/data/train-00001-of-00002.parquet", "b/data/test-00000-of-00001.parquet")
    assert load(tmp_path / "b").split == ("test", "train", "train")
    write("c/train/1.parquet", "c/validation/deep/1.parquet")
    assert load(tmp_path / "c", split="validation").ids == ("c/validation/deep/1.parquet",)
    write("d/train.parquet", "d/more.parquet")
    assert load(tmp_path / "d").split is None
    pq.write_table(pa.table({"id": ["x"], "split": ["test"], "v": [[1.0]]}), tmp_path / "a" / "train.parquet")
    assert load(tmp_path / "a").split == ("validation", "test")


def test_files_that_are_no_part_of_a_folder_are_named(tmp_path, caplog):
    pq.write_table(pa.table({"v": [[1.0]]}), tmp_path / "a.parquet")
    for name in ("README.md", "LICENSE", "notes.txt", "_SUCCESS", ".hidden", "dataset_infos.json"):
        (tmp_path / name).write_text("x")
    assert len(load(tmp_path)) == 1
    assert "left out what is neither a table nor a media file: notes.txt\n" in caplog.text
    (tmp_path / "_temporary").mkdir()
    for name in ("_b.parquet", "_temporary/c.parquet"):
        pq.write_table(pa.table({"v": [[1.0]]}), tmp_path / name)
    assert len(load(tmp_path)) == 2
    assert "a media file: _temporary/c.parquet, notes.txt\n" in caplog.text
    (tmp_path / "_b.parquet").unlink()
    (tmp_path / "b.csv").write_text("v\n[1]\n")
    with pytest.raises(InputError, match=r"holds tables of several formats \(a.parquet, b.csv\)\. Name one file"):
        load(tmp_path)


def test_folders_of_media_with_and_without_metadata(tmp_path, caplog):
    for name in ("a.png", "b.PNG", "c d.png"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "metadata.csv").write_text('file_name,text\nb.PNG,"two, or more"\na.png,\n')
    table = load(tmp_path, raw=["image", "text"])
    assert list(table.columns["image"]) == ["b.PNG", "a.png"]
    assert list(table.columns["text"]) == ["two, or more", None]
    assert "left out files that no row of its metadata names: c d.png" in caplog.text
    (tmp_path / "metadata.csv").write_text("file,text\nb.PNG,x\n")
    with pytest.raises(InputError, match="must have a column `file_name`; it has file, text"):
        load(tmp_path, raw=["image"])
    (tmp_path / "metadata.csv").write_text("file_name,image\nb.PNG,x\n")
    with pytest.raises(InputError, match="has a column `image` beside the files of that kind"):
        load(tmp_path, raw=["image"])
    (tmp_path / "metadata.csv").unlink()
    assert list(load(tmp_path, raw=["image"]).columns["image"]) == ["a.png", "b.PNG", "c d.png"]
    (tmp_path / "a.wav").write_bytes(b"x")
    with pytest.raises(InputError, match=r"holds media of several kinds \(image, audio\)"):
        load(tmp_path, raw=["image"])


def test_columns_may_be_empty_at_first_and_files_without_rows(tmp_path):
    kinds = pa.schema([("id", pa.string()), ("v", pa.list_(pa.float64())), ("w", pa.null())])
    pq.write_table(kinds.empty_table(), tmp_path / "0.parquet")
    pq.write_table(pa.table({"id": ["a"], "v": [[1.0]], "w": [None]}, schema=kinds), tmp_path / "1.parquet")
    with pq.ParquetWriter(tmp_path / "2.parquet", pa.schema([("id", pa.string()), ("w", pa.large_list(pa.float32()))])) as file:
        file.write_table(pa.table({"id": pa.array([], pa.string()), "w": pa.array([], pa.large_list(pa.float32()))}))
        file.write_table(pa.table({"id": ["b"], "w": pa.array([[2.0, 3.0]], pa.large_list(pa.float32()))}))
    table = load(tmp_path)
    assert table.ids == ("a", "b")
    assert table.counts() == {"v": 1, "w": 1}
    assert load(tmp_path, columns=["w"]).columns["w"].tolist() == [[0, 0], [2, 3]]
    assert [part.modalities for part in stream(tmp_path, 1)] == [("v",), ("w",)]
    (tmp_path / "1.parquet").unlink(), (tmp_path / "2.parquet").unlink()
    with pytest.raises(InputError, match="is empty: no rows"):
        load(tmp_path)


def test_files_whose_columns_do_not_go_together_are_named(tmp_path):
    pq.write_table(pa.table({"v": [[1.0]], "x": ["text"]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"v": [[1]], "x": [[3.0]]}), tmp_path / "2.parquet")
    with pytest.raises(InputError, match=r"`x` must hold one kind of cell; got string in '1.parquet', list<.*> in '2.parquet'"):
        load(tmp_path)
    assert load(tmp_path, columns=["v"]).columns["v"].tolist() == [[1], [1]]


@pytest.mark.parametrize("kind", [pa.list_view(pa.float32()), pa.large_list_view(pa.float64()), pa.list_(pa.float16())])
def test_lists_of_every_type_are_features(tmp_path, kind):
    column = pa.array(
        [[1, 2], None, [], [3, 4]] if "16" not in str(kind) else np.array([[1, 2]] * 4, np.float16).tolist(), kind
    )
    ipc(pa.table({"v": column}), tmp_path / "t.arrow")
    values = load(tmp_path / "t.arrow").columns["v"]
    assert values[0].tolist() == [1, 2]
    assert values.shape == (4, 2)


def test_runs_and_extensions_are_read_as_what_they_stand_for():
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([1, 3], pa.int32()), pa.array(["a", "b"]))
    assert formats.plain(pa.chunked_array([runs])).to_pylist() == ["a", "b", "b"]
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(6, dtype=np.float32).reshape(3, 2))
    values, present = read_vectors("v", formats.plain(pa.chunked_array([tensors])), requested=False)
    assert values.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert present.all()


@given(sizes=st.lists(st.integers(0, 4), min_size=1, max_size=4), data=st.data())
def test_vectors_in_chunks_go_there_and_back(sizes, data):
    n = sum(sizes)
    present = torch.tensor(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), dtype=torch.bool)
    values = torch.randn(n, 3).masked_fill(~present[:, None], 0)
    starts = np.cumsum([0, *sizes])
    chunks = [vector_array(values[a:b], present[a:b]) for a, b in pairwise(starts)]
    column = pa.chunked_array(chunks, pa.large_list(pa.float32()))
    assert column.is_valid().to_pylist() == present.tolist()
    if not present.any():
        with pytest.raises(InputError, match="column `v` is empty in every row"):
            read_vectors("v", column, requested=True)
        return
    again, mask = read_vectors("v", column, requested=True)
    assert torch.equal(again, values)
    assert torch.equal(mask, present)


def test_large_parquet_is_mapped_from_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "IN_MEMORY", 0)
    monkeypatch.setenv("GRAMIAN_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "t.parquet"
    for number, texts in enumerate([["a", None, "b"], ["c", "d"]], 1):
        pq.write_table(pa.table({"text": texts, "v": [[1.0]] * len(texts)}), path, row_group_size=2)
        for _ in range(2):
            table = load(path, raw=["text"])
            assert list(table.columns["text"]) == texts
            assert table.counts()["v"] == len(texts)
        assert len(list((tmp_path / "cache").iterdir())) == number
    assert load(path).modalities == ("v",)
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", ("id,v\n" + "a,[1]\n" * 9000 + "é,[1]\n").encode("latin-1"), "is not UTF-8"),
        ("a.csv", "é,v\n1,[1]\n".encode("latin-1"), "is not in UTF-8 .byte 0"),
        ("a.csv", b"v,v\n[1],[1]\n", "has several columns 'v'. Give each a name of its own"),
        ("a.csv", b'id,v\n1,"[1]"\n2\n', "has a row of 1 fields, not 2: '2'"),
        ("a.csv", b"\n", "is empty: no rows"),
        ("a.csv", b"id;v\n1;[0.1, 0.2]\n", "separates its cells by ';'. Save it with commas"),
        ("a.csv", b"id\tv\n1\t[0.1]\n", "separates its cells by '.t'. Save it with commas"),
        ("a.jsonl", b'{"v": [1], "v": [2]}\n', "line 1: no JSON .a name occurs twice: 'v'"),
        ("a.jsonl", b'{"v": [1]}\n{"v": \n', r"a.jsonl', line 2: no JSON \(Expecting value"),
        ("a.jsonl", b'{"v": [1]}\n\xff\n', "a.jsonl', line 2: not UTF-8"),
        ("a.jsonl", b'{"v": [1]}\n3\n', "a.jsonl', line 2: must be an object, a row; got 3"),
        ("a.json", b'[{"v": [1]}, 3]', "a.json', row 2: must be an object, a row; got 3"),
        ("a.json", b"[" * 100_000, "cannot be read as JSON"),
        ("a.jsonl", b'{"v": [1, true]}\n', "row 0: .* is not a list of numbers"),
        ("a.jsonl", b'{"v": [1, "2"]}\n', "row 0: .* is not a list of numbers"),
        ("a.jsonl", b'{"v": [1e39]}\n', "column `v` holds NaN or infinite values in 1 of 1"),
        ("a.jsonl", b'{"id": [1], "v": [1]}\n', r"column `id` must hold text or numbers; got \[1\]"),
        ("a.jsonl", b'{"id": NaN, "v": [1]}\n{"id": 1, "v": [1]}\n', "column `id` is empty in 1 of 2 rows"),
        ("a.arrow", b"ARROW1 but no more", "cannot be read as Arrow"),
        ("a.parquet", b"PAR1" * 10, "cannot be read as parquet"),
    ],
)
def test_damaged_files_are_named_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    for read in (load, lambda path: list(stream(path, 2))):
        with pytest.raises(InputError, match=message) as error:
            read(tmp_path / name)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_words_among_vectors_are_named_wherever_they_stand(tmp_path, place):
    cells = ['"[1, 2]"'] * 3
    cells.insert(place, "NaN")
    (tmp_path / "t.csv").write_text("v,w\n" + "".join(f"{cell},[1]\n" for cell in cells))
    with pytest.raises(InputError, match=f"t.csv': column `v`, row {place}: 'NaN' is not a list of numbers"):
        load(tmp_path / "t.csv")
    with pytest.raises(InputError, match="column `v`"):
        list(stream(tmp_path / "t.csv", 3))


def test_streams_know_which_columns_held_features(tmp_path):
    (tmp_path / "t.csv").write_text("v,w\n" + '"[1, 2]",[1]\n' * 4 + "NaN,[1]\n")
    parts = stream(tmp_path / "t.csv", 4)
    assert next(parts).modalities == ("v", "w")
    with pytest.raises(InputError, match="column `v` must hold lists of floats; it holds string"):
        next(parts)


def test_empty_lines_of_one_column_are_rows(tmp_path):
    cells = ["a", None, "b", None]
    for writer in ("polars", "pandas", "pyarrow"):
        path = tmp_path / f"{writer}.csv"
        if writer == "polars":
            pl.DataFrame({"text": cells}).write_csv(path)
        elif writer == "pandas":
            pd.DataFrame({"text": cells}).to_csv(path, index=False)
        else:
            pc.write_csv(pa.table({"text": cells}), path)
        assert list(load(path, raw=["text"]).columns["text"]) == cells, writer
    (tmp_path / "two.csv").write_text("a,text\n1,x\n\n2,y\n\n")
    assert list(load(tmp_path / "two.csv", raw=["text"]).columns["text"]) == ["x", "y"]


@pytest.mark.parametrize("size", [0.3, 0.5, 0.7, 0.9, 0.99])
@pytest.mark.parametrize("ending", ["file.arrow", "stream.arrow", "t.parquet"])
def test_files_that_are_cut_off_are_refused(tmp_path, ending, size):
    table = pa.table({"id": [str(i) for i in range(40)], "v": [[float(i)] for i in range(40)]})
    path = tmp_path / ending
    if ending == "t.parquet":
        pq.write_table(table, path, row_group_size=5)
    else:
        new = pa.ipc.new_file if ending == "file.arrow" else pa.ipc.new_stream
        with new(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=5)
    path.write_bytes(path.read_bytes()[: int(size * path.stat().st_size)])
    with pytest.raises(InputError, match=f"{ending}' cannot be read as"):
        load(path)


def test_a_stream_that_stops_between_batches_is_refused(tmp_path):
    sink = io.BytesIO()
    sizes = []
    with pa.ipc.new_stream(sink, pa.schema([("v", pa.list_(pa.float32()))])) as writer:
        for i in range(3):
            writer.write_batch(pa.record_batch({"v": pa.array([[float(i)]], pa.list_(pa.float32()))}))
            sizes.append(sink.tell())
    (tmp_path / "t.arrow").write_bytes(sink.getvalue()[: sizes[1]])
    with pytest.raises(InputError, match="it is cut off, or no Arrow file"):
        load(tmp_path / "t.arrow")
    (tmp_path / "t.arrow").write_bytes(sink.getvalue())
    assert len(load(tmp_path / "t.arrow")) == 3


def test_an_open_quote_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text('id,v\na,[1]\nb,"[2]\nc,[3]\n')
    with pytest.raises(InputError):
        load(tmp_path / "t.csv")


def test_an_id_column_that_is_not_there_is_an_error(tmp_path):
    (tmp_path / "t.csv").write_text("v\n[1]\n")
    with pytest.raises(InputError, match="`id_column` must be one of v; got 'key'"):
        load(tmp_path / "t.csv", id_column="key")


def test_pictures_beside_tables_are_theirs(tmp_path, caplog):
    (tmp_path / "images").mkdir()
    for name in ("logo.png", "images/1.png"):
        (tmp_path / name).write_bytes(b"x")
    pq.write_table(pa.table({"id": ["a", "b"], "image": ["images/1.png", None]}), tmp_path / "t.parquet")
    assert list(load(tmp_path, raw=["image"]).columns["image"]) == ["images/1.png", None]
    assert caplog.text == ""


def test_rows_longer_than_a_block_of_csv_are_refused_and_shorter_ones_read(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "_BLOCK", 2000)
    rows = "".join(f'{row},"[{row}, {"0" * 150}]"\n' for row in range(50)).replace("0" * 150, "0." + "0" * 148)
    (tmp_path / "t.csv").write_text("id,v\n" + rows)
    assert load(tmp_path / "t.csv").columns["v"][:, 0].tolist() == list(range(50))
    (tmp_path / "t.csv").write_text("id,v\n" + rows + f'"{"x" * 4000}","[1, 2]"\n')
    with pytest.raises(InputError, match="has a row of more than 2,000 bytes"):
        load(tmp_path / "t.csv")


def test_names_of_rows_are_exact_in_every_type(tmp_path):
    for cells, expected in (
        (pa.array([2**53 + 1, 2**53]), ("9007199254740993", "9007199254740992")),
        (pa.array([0, -1], pa.int8()), ("0", "-1")),
        (pa.array([1_000_000_001, 1], pa.timestamp("ns")), ("1970-01-01 00:00:01.000000001", "1970-01-01 00:00:00.000000001")),
        (pa.array(["a", "b"]).dictionary_encode(), ("a", "b")),
    ):
        pq.write_table(pa.table({"key": cells, "v": [[1.0], [2.0]]}), tmp_path / "t.parquet")
        assert load(tmp_path / "t.parquet", id_column="key").ids == expected
    for cells in (pa.array([1.0, math.nan]), pa.array(["a", ""]), pa.array([1, None])):
        pq.write_table(pa.table({"item": cells, "v": [[1.0], [2.0]]}), tmp_path / "t.parquet")
        with pytest.raises(InputError, match="column `item` is empty in 1 of 2 rows"):
            load(tmp_path / "t.parquet")
    pq.write_table(pa.table({"id": [b"a", b"b"], "v": [[1.0], [2.0]]}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match="column `id` must hold text or numbers; got b'a'"):
        load(tmp_path / "t.parquet")


def test_json_cells_of_several_kinds_stay_what_they_are(tmp_path):
    cells = ["a cat", ["a dog", "a puppy"], "", [], None, 3, {"path": "x.png", "bytes": None}, "2020-01-01"]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": cell}) + "\n" for cell in cells))
    table = load(tmp_path / "t.jsonl", raw=["text"])
    assert list(table.columns["text"]) == [*cells[:2], None, None, None, *cells[5:]]
    assert list(next(stream(tmp_path / "t.jsonl", 3, raw=["text"])).columns["text"]) == [*cells[:2], None]


def test_captions_that_begin_with_a_bracket_are_no_features(tmp_path, caplog):
    (tmp_path / "t.csv").write_text('v,text\n"[1]",[laughs] hello\n"[2]",hello\n"[3]",bye\n')
    assert load(tmp_path / "t.csv").modalities == ("v",)
    assert "text (string)" in caplog.text
    assert list(load(tmp_path / "t.csv", raw=["text"]).columns["text"]) == ["[laughs] hello", "hello", "bye"]
    with pytest.raises(InputError, match=r"column `text`, row 0: .* is not a list of numbers"):
        load(tmp_path / "t.csv", columns=["text"])


def test_pandas_written_index_is_left_out(tmp_path, caplog):
    frame = pd.DataFrame({"id": ["a", "b"], "v": [[1.0], [2.0]]}, index=pd.Index([5, 9]))
    frame.to_parquet(tmp_path / "t.parquet")
    assert load(tmp_path / "t.parquet").ids == ("a", "b")
    assert "__index_level_0__ (int64)" in caplog.text
    frame.to_csv(tmp_path / "t.csv")
    assert load(tmp_path / "t.csv").counts() == {"v": 2}


def test_the_hub_is_read_by_datasets(monkeypatch):
    datasets = pytest.importorskip("datasets")
    content = io.BytesIO()
    pytest.importorskip("PIL.Image").new("RGB", (2, 2)).save(content, "png")
    rows = {"id": ["a", "b"], "image": [{"bytes": content.getvalue(), "path": None}] * 2, "v": [[1.0], [2.0]]}
    features = datasets.Features(
        {"id": datasets.Value("string"), "image": datasets.Image(), "v": datasets.Sequence(datasets.Value("float32"))}
    )
    part = datasets.Dataset.from_dict(rows, features=features)

    def repository(*, card=(), files=("hf://datasets/owner/name@abc/a.parquet",), module="parquet"):
        class Builder:
            __module__ = f"datasets.packaged_modules.{module}.{module}"
            config = types.SimpleNamespace(data_files={"train": list(files)})

            def as_streaming_dataset(self):
                return {"train": part.to_iterable_dataset(), "test": part.to_iterable_dataset()}

            def download_and_prepare(self):
                pass

            def as_dataset(self):
                return {"train": part}

        def builder(source, revision):
            assert (source, revision) == ("owner/name", "abc")
            return Builder()

        monkeypatch.setattr(hub, "_configs", lambda source, revision: (revision, list(card)))  # noqa: ARG005
        monkeypatch.setattr(datasets, "load_dataset_builder", builder)

    repository(card=[{"configs": [{"config_name": "a", "data_files": [{"split": "train", "path": "data/*.parquet"}]}]}])
    table = load("owner/name", raw=["image"], revision="abc")
    assert table.columns["image"][0]["bytes"] == content.getvalue()
    assert table.split is None
    splits = [part.split for part in stream("owner/name", 1, columns=["v"], revision="abc")]
    assert splits == [("train",), ("train",), ("test",), ("test",)]
    for path in ("../secret.csv", "/etc/passwd", "https://other/x.csv", "zip://x::https://other/x.zip", "a/../../b", "~/x.csv"):
        shared = [path]  # as by an alias of YAML
        for card in (
            {"data_files": path},
            {"data_dir": path},
            {"data_files": {"train": shared}},
            {"x": shared, "data_files": shared},
        ):
            repository(card=[None, {"configs": [card]}])
            with pytest.raises(InputError, match="'owner/name' is refused: its card points out of the repository"):
                load("owner/name", revision="abc")
    repository(files=["/etc/passwd.csv"])
    with pytest.raises(InputError, match="is refused: it points out of its repository"):
        load("owner/name", revision="abc")
    repository(module="hdf5")
    with pytest.raises(InputError, match="'owner/name' holds hdf5; it must hold one of arrow, csv"):
        load("owner/name", revision="abc")
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *_, **__: 1 / 0)
    with pytest.raises(InputError, match="'owner/name' cannot be read as a hub data set: division by zero"):
        load("owner/name")


def test_cards_of_a_hub_data_set_are_read_before_it(monkeypatch, tmp_path):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    (tmp_path / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: a.csv\n---\n")
    (tmp_path / ".huggingface.yaml").write_text("configs:\n- config_name: default\n  data_files: https://other/a.csv\n")
    api = types.SimpleNamespace(dataset_info=lambda source, revision: types.SimpleNamespace(sha=f"sha of {revision}"))  # noqa: ARG005
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)

    def download(source, name, *, repo_type, revision):
        assert (source, repo_type, revision) == ("owner/name", "dataset", "sha of None")
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(InputError, match=r"'owner/name' is refused: its card points out .*\('https://other/a.csv'\)"):
        load("owner/name")


def test_paths_of_a_hub_data_set_lead_to_its_own_cache(monkeypatch, tmp_path):
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    own, other = tmp_path / "datasets--owner--name" / "a.png", tmp_path / "models--owner--name" / "a.png"
    for path in (own, other):
        path.parent.mkdir()
        path.write_bytes(b"x")
    folder = hub.hub_folder("owner/name", [])
    assert open_source({"bytes": None, "path": str(own)}, folder) == own
    for path in (str(other), "../models--owner--name/a.png", "/etc/passwd"):
        with pytest.raises(Unreadable, match="outside of the table's folder"):
            open_source(path, folder)


def _damaged(content: bytes, random: Random) -> bytes:
    data = bytearray(content)
    for _ in range(random.choice([1, 1, 2, 4, 8])):
        at = random.randrange(len(data))
        match random.randrange(5):
            case 0 | 1:
                data[at] = random.randrange(256)
            case 2:
                data[at:at] = random.randbytes(random.randrange(5))
            case 3:
                data[at : at + 4] = random.choice([b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\xff" * 4, b"\0\0\0\x80"])
            case 4:
                del data[at : at + random.randrange(1, 20)]
    return bytes(data)


@pytest.mark.parametrize("name", ["t.parquet", "file.arrow", "stream.arrow", "t.csv", "t.jsonl"])
def test_damaged_bytes_are_read_or_refused_in_one_line(tmp_path, name):
    n = 12
    table = pa.table(
        {
            "id": [f"row {i}" for i in range(n)],
            "v": pa.array([[float(i), 1.0] if i % 3 else None for i in range(n)], pa.list_(pa.float32())),
            "text": ["é", None, "", "x"] * 3,
            "captions": [["a", "b"], [], None] * 4,
            "word": pa.array(["u", None, "w"] * 4).dictionary_encode(),
            "image": pa.array([{"bytes": b"ab", "path": None}] * n, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        }
    )
    path = tmp_path / name
    if name == "t.parquet":
        pq.write_table(table, path, row_group_size=5)
    elif name.endswith("arrow"):
        (ipc if name == "file.arrow" else ipc_stream)(table, path)
    elif name == "t.csv":
        path.write_text("id,v,text\n" + "".join(f'{i},"[{i}, 1.0]","a, ""b"""\n' for i in range(n)))
    else:
        path.write_text(
            "".join(json.dumps({"id": i, "v": [1.0, i], "text": ["a"], "image": {"path": "x"}}) + "\n" for i in range(n))
        )
    content, random = path.read_bytes(), Random(0)
    reasons = []
    for _ in range(100):
        path.write_bytes(_damaged(content, random))
        try:
            load(path, raw=["text", "captions", "word", "image"]).digest()
        except InputError as error:
            reasons.append(str(error))
    assert reasons
    assert not [reason for reason in reasons if "\n" in reason]


def test_a_footer_that_says_less_than_its_pages_is_found_out(tmp_path, monkeypatch):
    path = tmp_path / "t.parquet"
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(2**16)), 2**10)
    pq.write_table(
        pa.table({"v": vectors, "id": [f"row {i}" for i in range(64)]}), path, compression="zstd", use_dictionary=False
    )
    content = path.read_bytes()
    size = int.from_bytes(content[-8:-4], "little")
    footer, _ = room._struct(content[-8 - size : -8], 0)
    chunk = footer[4][0][1][0][3]
    assert (footer[3], chunk[5]) == (64, 2**16)
    assert chunk[6] > 2**19
    assert room.check_parquet(path, {"v"}) > 2**19

    def said(value):  # as zigzag varints of the same length
        return bytes([value << 1 & 0x7F | 0x80, value >> 6 & 0x7F | 0x80, value >> 13 & 0x7F])

    less = content.replace(said(chunk[6]), said(2**13 + 1)).replace(said(chunk[5]), said(2**13 + 1))
    assert less != content
    path.write_bytes(less)
    monkeypatch.setattr(room, "_ROOM", 2**19)
    monkeypatch.setattr(room, "_RATIO", 1)
    with pytest.raises(InputError, match=r"is refused: its .* bytes unpack to 64 rows and"):
        load(path)


@pytest.mark.parametrize("dates", [pa.date32(), pa.timestamp("s"), pa.list_(pa.date32())])
def test_dates_that_python_cannot_hold_are_an_error(tmp_path, dates):
    cells = (
        pa.array([[2**30]], pa.list_(pa.int32()))
        if pa.types.is_list(dates)
        else pa.array([2**30 if dates == pa.date32() else 2**60])
    )
    with pa.ipc.new_file(str(tmp_path / "t.arrow"), pa.schema([("when", dates)])) as writer:
        writer.write_table(pa.table({"when": (cells.cast(pa.int32()) if dates == pa.date32() else cells).cast(dates)}))
    with pytest.raises(InputError, match=r"row 0 holds a .* that Python cannot hold"):
        load(tmp_path / "t.arrow", raw=["when"]).digest()


def test_no_name_is_no_source():
    with pytest.raises(InputError, match="`data` must name a file, a folder or a hub id; got ''"):
        load("")
