"""`gramian index` and `gramian search`: from a table to answers by one, two and three modalities, and back after a stop."""

import json
import socket

import pytest
import torch

from gramian.cli import main
from gramian.data import load
from gramian.errors import InputError
from gramian.index import FlatIndex, Index
from gramian.index.building import index_tables
from gramian.model import Aligner, Custom
from gramian.scores import SCORES
from synthetic import world


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    table = world(96, missing=0.3)
    table.save(folder / "world.parquet")
    aligner = Aligner.for_table(table, dim=8, seed=1).eval()
    aligner.bank = aligner.embed(table[:20])
    aligner.save_pretrained(folder / "run" / "aligner")
    assert main(["index", str(folder / "run"), "--data", str(folder / "world.parquet"), "--metadata", "split"]) == 0
    return folder


def search(capsys, run, *words):
    capsys.readouterr()
    code = main(["search", str(run / "run"), *words])
    told = capsys.readouterr()
    return code, told.out, told.err


@pytest.mark.parametrize("by", ["text", "text,audio", "text,image,audio"])
def test_the_command_line_finds_what_the_library_scores_highest(run, capsys, by):
    table = load(run / "world.parquet")
    aligner = Aligner.from_pretrained(run / "run" / "aligner")
    everything = aligner.embed(table)
    complete = next(i for i in range(96) if bool(everything.present[i].all()))
    code, out, _ = search(
        capsys, run, "--data", str(run / "world.parquet"), "--row", table.ids[complete], "--by", by, "-k", "5", "--json"
    )
    assert code == 0
    answers = json.loads(out)
    assert answers["query"] == by.split(",")
    best = SCORES["centroid"](everything[complete].select(*by.split(",")), everything)[0].topk(5)
    assert [hit["id"] for hit in answers["hits"]] == [table.ids[i] for i in best.indices.tolist()]
    assert [hit["metadata"]["split"] for hit in answers["hits"]] == [table.split[i] for i in best.indices.tolist()]
    assert answers["hits"][0]["missing"] == [n for n in table.modalities if not bool(everything[best.indices[0]].has(n))]


def test_more_of_the_same_with_filters_and_weights(run, capsys):
    code, out, _ = search(
        capsys, run, "--like", "item-3", "--filter", "split=test", "--weights.text", "2", "--hubs", "--score=span", "-k", "3"
    )
    assert code == 0
    assert "test" in out and "train" not in out and "item-3 " not in out
    code, out, _ = search(capsys, run, "--like", "item-4", "--data", str(run / "world.parquet"), "--row", "item-8", "--json")
    assert code == 0
    assert any(name.startswith("row ") for name in json.loads(out)["query"])
    code, out, _ = search(capsys, run, "--like", "item-4", "--unlike", "item-8", "--json", "-k", "96")
    index = Index.open(run / "run")
    like, unlike = index.vectors(["item-4"]), index.vectors(["item-8"]).vectors.sum(1)
    wanted = index.search(like, 96, without=torch.nn.functional.normalize(unlike, dim=1), exclude=["item-4", "item-8"])
    assert [hit["id"] for hit in json.loads(out)["hits"]] == wanted.ids[0]


def test_indexing_goes_on_where_it_stopped_and_refuses_another_model(run, capsys, tmp_path):
    words = [
        "index",
        str(run / "run"),
        "--data",
        str(run / "world.parquet"),
        "--output",
        str(tmp_path / "i"),
        "--part-size",
        "32",
    ]
    half = load(run / "world.parquet")[:40]
    aligner = Aligner.from_pretrained(run / "run" / "aligner")
    index = FlatIndex.create(tmp_path / "i", dim=8, model=aligner)
    index_tables(index, aligner, [half], progress=False)
    assert main(words) == 0
    assert "56 items added, 40 were there already; 96 in all" in capsys.readouterr().out
    assert main([*words, "--replace", "--split", "test"]) == 0
    assert "0 items added, 24 replaced" in capsys.readouterr().out
    assert main([*words[:2], "--output", str(tmp_path / "i"), "--delete", "item-1,item-2", "--compact", "--diagnose"]) == 0
    told = capsys.readouterr().out
    assert "2 items deleted; 94 remain" in told and "spread of log D" in told
    assert main([*words[:2], "--output", str(tmp_path / "i"), "--compact", "--int8"]) == 0
    assert FlatIndex.open(tmp_path / "i").int8
    assert main(["index", str(run / "run"), "--compact", "--output", str(tmp_path / "i")]) == 0
    assert FlatIndex.open(tmp_path / "i").int8
    assert main(["index", str(run / "run"), "--delete", "nobody", "--int8"]) == 2
    assert "has no vectors in 8 bits. Add --compact" in capsys.readouterr().err
    Aligner.for_table(half, dim=8, seed=2).save_pretrained(tmp_path / "other" / "aligner")
    assert main(["index", str(tmp_path / "other"), *words[2:]]) == 2
    assert "holds vectors of another model" in capsys.readouterr().err
    with pytest.raises(InputError, match="another model"):
        Index.open(tmp_path / "i", model=Aligner.from_pretrained(tmp_path / "other" / "aligner")).search(text=[0.0] * 12)


def test_raw_cells_are_asked_for_by_their_text_and_kept_with_their_items(tmp_path):
    aligner = Aligner({"text": Custom(_Letters(), 26)}, dim=6).eval()
    table = aligner.collator().table({"text": ["a bird", "a cat", "a bird sings", None]})
    index = FlatIndex.create(tmp_path / "i", dim=6, model=aligner)
    done = index_tables(index, aligner, [table], progress=False)
    assert (done.added, done.empty) == (3, 1)
    best = index.search(text="a cat")[0][0]
    assert best.metadata == {"text": "a cat"} and best.score > 0.999
    two = index.search(text=["a cat", "a bird"], k=1)
    assert [hits[0].metadata["text"] for hits in two] == ["a cat", "a bird"]
    signed = index.search(text="a cat", without={"text": "a bird sings"})[0]
    plain = {hit.id: hit.score for hit in index.search(text="a cat")[0]}
    assert all(hit.score < plain[hit.id] for hit in signed)  # all of them are like "a bird sings"
    with pytest.raises(InputError, match="`cells` must be one of text; got 'image'"):
        index.search(image="x.png")


class _Letters(torch.nn.Module):
    """A text by its letters."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, texts):
        rows = [[float(text.count(chr(97 + i))) + 0.01 * i for i in range(26)] for text in texts]
        return torch.tensor(rows) * self.scale


WRONG = [
    ([], "there is nothing to search by"),
    (["--text", "a bird"], "`text` must be 12 features"),
    (["--image", "x.png"], "`image` must be 16 features"),
    (["--video", "x.mp4"], "`cells` must be one of"),
    (["--cells.text", "[1, 2]"], "must have width 12; got 2"),
    (["--cells.smell", "[1]"], "`cells` must be one of"),
    (["--like", "nobody"], "it has no 'nobody'"),
    (["--like", "item-3", "--by", "smell"], "`by` must be one of"),
    (["--like", "item-3", "-k", "0"], "`k` must be an integer of at least 1"),
    (["--like", "item-3", "--filter", "size>3"], "`filter` names the field 'size'; the index has split"),
    (["--like", "item-3", "--score", "spann"], "Did you mean 'span'"),
    (["--like", "item-3", "--weights.text", "much"], "must be a number"),
    (["--like", "item-3", "--modalities", "smell"], "`modalities` must be one of"),
    (["--row", "item-3"], "--data and --row go together"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_bad_input_is_one_line_and_exit_code_2(run, capsys, words, message):
    code, out, err = search(capsys, run, *words)
    assert (code, out) == (2, "")
    assert message in err and err.count("\n") == 1


def test_what_is_no_run_is_one_line(run, capsys, tmp_path):
    assert main(["search", str(tmp_path), "--like", "a"]) == 2
    assert "holds no index. Make one: gramian index" in capsys.readouterr().err
    assert main(["index", str(run / "run")]) == 2
    assert "--data must be given" in capsys.readouterr().err
    made = ["index", str(run / "run"), "--data", str(run / "world.parquet"), "--output", str(tmp_path / "made")]
    assert main([*made, "--metadata", "split,colour"]) == 2
    assert "no row has 'colour': it has split" in capsys.readouterr().err
    assert main(made) == 0 == main(["index", str(tmp_path / "made"), "--diagnose"])  # an index without its run
    assert main(["search", str(run / "run"), "--like", "item-1", "--filter", "split=none"]) == 0
    assert "passes the filter" in " ".join(capsys.readouterr().out.split())
    assert main(["index", str(tmp_path), "--data", "stamps"]) == 2
    assert "is not a saved Aligner" in capsys.readouterr().err
    assert main(["search", str(run / "run"), "--data", str(run / "world.parquet"), "--row", "x"]) == 2
    assert "must be the id of a row" in capsys.readouterr().err
    table = load(run / "world.parquet")
    names = table.modalities
    gap = next(i for i in range(len(table)) if 0 < sum(bool(table.present[name][i]) for name in names) < len(names))
    ask = ["search", str(run / "run"), "--data", str(run / "world.parquet"), "--row", table.ids[gap], "--by"]
    assert main([*ask, ",".join(names)]) == 2
    assert f"`row` {table.ids[gap]!r} of " in (error := capsys.readouterr().err) and "Leave that out of --by" in error
    assert main([*ask, "smell"]) == 2
    assert "`by` must be one of" in capsys.readouterr().err
    assert main([*made, "--metadata", "split"]) == 0
    assert "keep the metadata that they had; --replace" in " ".join(capsys.readouterr().out.split())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", str(run / "run"), "--port", str(port)]) == 2
    assert f"`port` {port} of 127.0.0.1 cannot be used" in capsys.readouterr().err
