"""On Qdrant, in the client's local mode and embedded, a search finds what a FlatIndex finds, by the same filters."""

import json
import os
from argparse import Namespace
from uuid import uuid4

import pytest
import torch

pytest.importorskip("qdrant_client")
pytest.importorskip("qdrant_edge")
from qdrant_client import models
from qdrant_client.http import SyncApis

from gramian.cli import main
from gramian.data import load
from gramian.errors import InputError
from gramian.index import FlatIndex, Index, QdrantIndex, edge, engines, qdrant
from gramian.index.building import index_tables
from gramian.index.planning import plan
from gramian.index.protocol import Options
from gramian.index.refusals import check_location
from gramian.model import Aligner
from gramian.scores import SCORES
from gramian.tokens import Tokens
from qdrant_server import KEY, served
from synthetic import world
from test_index import Bundle, D, built, items

N = 60
UNASKED = "the index cannot be asked at the moment. Try again later."
METADATA = {
    "year": [1900 + i if i % 5 else None for i in range(N)],
    "lang": [("en", "fr", "de")[i % 3] for i in range(N)],
    "ok": [i % 2 == 0 for i in range(N)],
    "weight": [i / 7 for i in range(N)],
}
FILTERS = [
    None,
    "year>1920",
    {"lang": ["fr", "de"], "ok": True},
    {"year": {"exists": False}},
    "lang!=en",
    {"weight": [1.0, 2.0]},
]


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    return built(tmp_path_factory.mktemp("flat") / "i", items(N), metadata=METADATA)


@pytest.fixture(scope="module")
def server():
    with served(KEY) as server:
        yield server


@pytest.fixture(
    scope="module",
    params=[
        "local",
        "edge",
        "loopback",
        pytest.param("server", marks=pytest.mark.skipif("QDRANT_URL" not in os.environ, reason="needs a server: QDRANT_URL")),
    ],
)
def index(request, tmp_path_factory):
    bundle = items(N)
    options = {"dim": D, "modalities": bundle.modalities}
    if request.param == "edge":
        made = QdrantIndex.edge(tmp_path_factory.mktemp("edge") / "i", **options)
    elif request.param == "local":
        made = QdrantIndex.connect(**options)
    elif request.param == "loopback":
        server = request.getfixturevalue("server")
        made = QdrantIndex.connect(server.url, "tests", key=server.key, **options)
    else:
        name = f"gramian-tests-{uuid4()}"  # of this run alone
        made = QdrantIndex.connect(os.environ["QDRANT_URL"], name, key=os.environ.get("QDRANT_KEY"), **options)
    made.add(bundle, [f"i{i}" for i in range(N)], METADATA)
    made.optimize()
    yield made
    if request.param == "server":
        made._engine._ask("delete_collection")
    made.close()


@pytest.mark.parametrize("score", ["centroid", "span", "cosine", "max_cosine", "cone", "volume"])
@pytest.mark.parametrize("width", [1, 2])
def test_answers_are_those_of_a_flat_index(index, flat, score, width):
    queries = items(2, seed=9, names=("text", "depth")[:width], missing=0)
    for filter in FILTERS if (score, width) == ("span", 1) else FILTERS[:1]:
        ours, exact = (one.search(queries, 7, score=score, filter=filter) for one in (index, flat))
        assert ours.ids == exact.ids
        for row, other in zip(ours, exact, strict=True):
            for hit, same in zip(row, other, strict=True):
                assert hit.score == pytest.approx(same.score, abs=2e-6)
                assert (hit.missing, dict(hit.metadata)) == (same.missing, dict(same.metadata))
                assert hit.contributions == pytest.approx(same.contributions, abs=1e-5)


@pytest.mark.parametrize("score", ["span", "centroid", "cosine", "max_cosine"])
@pytest.mark.parametrize("width", [1, 2])
def test_the_formulas_are_those_of_float64(index, monkeypatch, score, width):
    """The engine's own numbers for all items, before anything is scored again."""
    query = items(1, seed=9, names=("text", "depth")[:width], missing=0)
    told = {}
    read = engines.read_points
    for module in (engines, edge):
        monkeypatch.setattr(
            module, "read_points", lambda points: told.update({p.payload["id"]: p.score for p in points}) or read(points)
        )
    index._engine.search(plan(query, Options(9, score, index.modalities), index.modalities), N, N, (), index._names())
    table = SCORES[score](query.to(dtype=torch.float64), items(N).to(dtype=torch.float64))[0]
    assert len(told) == N and bool((table < 0).any())
    wanted = dict(zip([f"i{i}" for i in range(N)], table.tolist(), strict=True))
    assert told == pytest.approx(wanted, abs=3e-7)


def several(n, seed=0):
    """Items with several frames or one, texts, and some recordings."""
    draw = torch.Generator().manual_seed(seed)
    frames = Tokens(torch.randn(n, 4, D, generator=draw), torch.rand(n, 4, generator=draw) > 0.4)
    columns = {"frames": frames, "text": torch.randn(n, D, generator=draw), "audio": torch.randn(n, D, generator=draw)}
    present = {"frames": frames.has_any(), "audio": torch.rand(n, generator=draw) > 0.5}
    return Bundle.from_dict(columns, present=present)


@pytest.mark.parametrize("kind", ["local", "edge", "loopback"])
def test_several_vectors_of_a_modality_are_found_as_in_a_flat_index(kind, tmp_path, request):
    bundle, plain = several(30), items(10, seed=3, names=("text", "audio"))
    options = {"dim": D, "modalities": bundle.modalities, "several": ["frames"], "candidates": 25}
    if kind == "loopback":
        server = request.getfixturevalue("server")
        ours = QdrantIndex.connect(server.url, "several", key=server.key, **options)
    else:
        ours = QdrantIndex.connect(**options) if kind == "local" else QdrantIndex.edge(tmp_path / "e", **options)
    exact = FlatIndex.create(tmp_path / "flat", dim=D)
    for index in (exact, ours):
        index.add(bundle, [f"i{i}" for i in range(30)])
        index.add(plain, [f"p{i}" for i in range(10)])
    ours.optimize()
    queries = [items(1, seed=9, names=("a", "b"), missing=0), several(1, seed=4).select("frames", "text")]
    for query in queries:
        for score, modalities in (("maxsim", None), ("maxsim", ["text", "frames"]), ("span", None)):
            found, wanted = (index.search(query, 8, score=score, modalities=modalities) for index in (ours, exact))
            assert found.ids == wanted.ids
            for row, other in zip(found.scores, wanted.scores, strict=True):
                assert row == pytest.approx(other, abs=2e-6)
    names = ["i3", "p1", "i7"]
    stored, kept = ours.vectors(names), exact.vectors(names).select(*bundle.modalities)
    assert torch.allclose(stored.vectors, kept.vectors, atol=1e-6)
    assert torch.equal(stored.tokens["frames"].present, kept.tokens["frames"].present)
    assert torch.allclose(stored.tokens["frames"].values, kept.tokens["frames"].values, atol=1e-6)
    ours.save(tmp_path / "copy")
    copy = FlatIndex.open(tmp_path / "copy")
    assert copy.search(queries[1], 8, score="maxsim").ids == exact.search(queries[1], 8, score="maxsim").ids
    with pytest.raises(InputError, match="`bundle` has several vectors of text, of which the collection holds one"):
        ours.add(Bundle.from_dict({"text": Tokens(torch.randn(1, 2, D), torch.ones(1, 2, dtype=torch.bool))}), ["a"])
    ours.close()
    with pytest.raises(InputError, match="`several` must be one of text; got 'smell'"):
        QdrantIndex.connect(dim=D, modalities=["text"], several=["smell"])


def test_items_are_replaced_deleted_and_excluded(index, flat):
    query = items(1, seed=2, names=("text",), missing=0)
    first = index.search(query, 3).ids[0]
    assert index.search(query, 2, exclude=first[:1]).ids[0] == first[1:]
    assert index.add(items(1, seed=77, missing=0), ["new"]) == 0
    assert index.add(items(1, seed=78, missing=0), ["new"]) == 1
    assert (len(index), index.known(["new", "old"])) == (N + 1, [True, False])
    assert torch.allclose(index.vectors(["new"]).vectors, items(1, seed=78, missing=0).vectors, atol=1e-5)
    assert index.delete(["new", "old"]) == 1
    assert len(index) == N
    assert index.search(query, 4, modalities=["audio"]).ids == flat.search(query, 4, modalities=["audio"]).ids


def test_a_saved_copy_is_a_flat_index_of_the_same_items(index, flat, tmp_path, monkeypatch):
    monkeypatch.setattr(qdrant, "PART", 25)
    monkeypatch.setattr(qdrant, "BATCH", 10)
    monkeypatch.setattr(engines, "PAGE", 7)
    monkeypatch.setattr(edge, "PAGE", 7)
    index.save(tmp_path / "copy")
    copy = Index.open(tmp_path / "copy")
    assert isinstance(copy, FlatIndex) and len(copy.segments) == 2
    assert (len(copy), copy.modalities, copy.fields, copy.score) == (N, flat.modalities, flat.fields, flat.score)
    ids = [f"i{i}" for i in range(N)]
    (ours, metadata), (wanted, kept) = copy.items(ids), flat.items(ids)
    assert metadata == kept and torch.equal(ours.present, wanted.present)
    assert torch.allclose(ours.vectors, wanted.vectors, atol=1e-6)
    queries = items(3, seed=9, names=("text",), missing=0)
    assert copy.search(queries, 7, filter="ok=true").ids == flat.search(queries, 7, filter="ok=true").ids
    with pytest.raises(InputError, match="holds files"):
        index.save(tmp_path / "copy")
    monkeypatch.setattr(index._engine, "_page", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        index.save(tmp_path / "cut")
    assert not FlatIndex.found(tmp_path / "cut")


def test_a_copy_keeps_the_score_that_was_set(tmp_path):
    index = QdrantIndex.connect(dim=D, modalities=["text"])
    index.save(tmp_path / "empty")
    assert len(Index.open(tmp_path / "empty")) == 0
    for chosen in (False, True):
        index.set_score("span", chosen=chosen)
        index.save(tmp_path / f"{chosen}")
        copy = FlatIndex.open(tmp_path / f"{chosen}")
        assert (copy.score, copy.score_is_set) == ("span", not chosen)


def test_a_diagnosis_is_that_of_a_flat_index(tmp_path, monkeypatch):
    bundle = items(150)
    close, present = items(150, missing=0).vectors.clone(), bundle.present.clone()
    close[:2, 1] = torch.nn.functional.normalize(close[:2, 0] + 1e-3 * torch.randn(2, D), dim=1)
    present[:2] = True
    close[2], present[2] = close[3], present[3]
    bundle = Bundle(close * present[..., None], present, bundle.modalities)
    names = [f"i{i}" for i in range(150)]
    exact = built(tmp_path / "i", bundle, step=150).diagnose()
    index = QdrantIndex.connect(dim=D, modalities=bundle.modalities)
    assert index.diagnose().warnings == ("The index is empty.",)
    index.add(bundle, names)
    told = index.diagnose()
    assert told.warnings == exact.warnings and any("β = 1" in warning for warning in told.warnings)
    assert told.figures["duplicates"] == 1
    wanted = {name: value for name, value in exact.figures.items() if name != "segments"}
    assert told.figures == pytest.approx(wanted | {"items measured": 150, "candidates": 500}, rel=1e-4)
    monkeypatch.setattr(qdrant, "MEASURED", 40)
    assert {name: index.diagnose().figures[name] for name in ("items", "items measured")} == {
        "items": 150,
        "items measured": 40,
    }


def test_an_embedded_index_is_read_again(tmp_path):
    index = QdrantIndex.edge(tmp_path / "e", dim=D, modalities=["text", "image", "audio"])
    index.add(items(5), list("abcde"), {"year": [1, 2, 3, 4, 5]})
    query = torch.randn(1, D)
    found = index.search(query, 3).ids
    index.close()
    again = QdrantIndex.edge(tmp_path / "e")
    assert (again.search(query, 3).ids, again.fields, len(again)) == (found, {"year": "int"}, 5)
    again.close()


def test_commands_search_and_serve_an_embedded_index(tmp_path, capsys):
    index = QdrantIndex.edge(tmp_path / "run" / "index", dim=D, modalities=["text"])
    index.add(Bundle.from_dict({"text": torch.eye(D)}), [f"item {i}" for i in range(D)])
    index.close()
    for place in (tmp_path / "run", tmp_path / "run" / "index"):
        assert main(["search", str(place), "--like", "item 3", "-k", "2", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["score"] == "centroid" and len(found["hits"]) == 2
    assert main(["explore", str(tmp_path / "run")]) == 2
    assert "holds an index of Qdrant, which the page does not read" in capsys.readouterr().err


def test_16_bits_find_the_same_to_their_precision(flat, tmp_path):
    half = QdrantIndex.edge(tmp_path / "e", dim=D, modalities=["text", "image", "audio"], half=True)
    half.add(items(N), [f"i{i}" for i in range(N)])
    queries = items(2, seed=9, names=("text",), missing=0)
    for ours, exact in zip(half.search(queries, 7), flat.search(queries, 7), strict=True):
        scores = {hit.id: hit.score for hit in ours}
        assert len(scores.keys() & {hit.id for hit in exact}) >= 6
        assert [scores[hit.id] for hit in exact if hit.id in scores] != [hit.score for hit in exact if hit.id in scores]
        assert max(abs(scores[hit.id] - hit.score) for hit in exact if hit.id in scores) < 2e-3
    half.close()


def test_an_upload_that_was_stopped_goes_on():
    table = world(40, missing=0.3)
    model = Aligner.for_table(table, dim=8, seed=0).eval()
    index = QdrantIndex.connect(model=model, modalities=table.modalities)
    index_tables(index, model, [table[:25]], progress=False)
    done = index_tables(index, model, [table[:20], table[20:]], metadata=["split"], progress=False)
    assert (done.kept, done.added, len(index)) == (25, 15, 40)
    everything = model.embed(table)
    best = SCORES["centroid"](everything[:1].to(dtype=torch.float64), everything.to(dtype=torch.float64))[0].topk(5)
    assert index.search(everything[:1], 5).ids[0] == [table.ids[i] for i in best.indices.tolist()]


def test_bad_input_ends_in_one_line(index):
    with pytest.raises(InputError, match="`bundle` must have the width 12"):
        index.add(items(1, d=5), ["a"])
    broken = items(1)
    with pytest.raises(InputError, match="`bundle` must be finite"):
        index.add(Bundle(broken.vectors * float("nan"), broken.present, broken.modalities), ["a"])
    with pytest.raises(InputError, match="must be one of text, image, audio"):
        index.add(items(1, names=("smell",), missing=0), ["a"])
    with pytest.raises(InputError, match="of which the collection holds one"):
        index.add(Bundle.from_dict({"text": Tokens(torch.randn(1, 2, D), torch.ones(1, 2, dtype=torch.bool))}), ["a"])
    with pytest.raises(InputError, match="`filter` names the field 'x'"):
        index.search(torch.randn(1, D), filter="x=1")
    with pytest.raises(InputError, match="it has no 'none'"):
        index.vectors(["none"])
    with pytest.raises(InputError, match="`dim` and `modalities` must be given"):
        QdrantIndex.connect()
    with pytest.raises(InputError, match="`hubs` is for a FlatIndex"):
        index.search(torch.randn(1, D), hubs=True)
    with pytest.raises(InputError, match="the index has no model"):
        index.search(text="a bird")


def test_what_is_there_is_not_opened_as_something_else(tmp_path, monkeypatch):
    index = QdrantIndex.edge(tmp_path / "e", dim=D, modalities=["text"])
    index.close()
    with pytest.raises(InputError, match="`dim` must be the 12 of the collection that is there; got 5"):
        QdrantIndex.edge(tmp_path / "e", dim=5, modalities=["text"])
    with pytest.raises(InputError, match="`modalities` must be one of text; got 'image'"):
        QdrantIndex.edge(tmp_path / "e", modalities=["image"])
    monkeypatch.setattr("gramian.index.points.VERSION", 0)
    with pytest.raises(InputError, match=r"the collection was written by a newer gramian \(version 1 of the format\)"):
        QdrantIndex.edge(tmp_path / "e")


def test_what_cannot_be_opened_is_told_in_one_line(tmp_path):
    new = {"dim": D, "modalities": ["text"]}
    index = QdrantIndex.edge(tmp_path / "e", **new)
    with pytest.raises(InputError, match="is open already"):
        QdrantIndex.edge(tmp_path / "e")
    index.close()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds no index of Qdrant Edge"):
        QdrantIndex.edge(tmp_path / "foreign", **new)
    with pytest.raises(InputError, match="`path` must be a folder"):
        QdrantIndex.edge(tmp_path / "foreign" / "notes.txt", **new)
    with pytest.raises(InputError, match="`dim` must be an integer in"):
        QdrantIndex.edge(tmp_path / "new", dim=0, modalities=["text"])
    with pytest.raises(InputError, match="cannot be reached"):
        QdrantIndex.connect("http://127.0.0.1:1", **new)
    with pytest.raises(InputError, match="Write 'http://localhost:6333'"):
        QdrantIndex.connect("localhost:6333", **new)
    from qdrant_client import QdrantClient

    client = QdrantClient(path=str(tmp_path / "local"))
    client.create_collection("gramian", vectors_config={})
    client.close()
    with pytest.raises(InputError, match="was not made by gramian"):
        QdrantIndex.connect(str(tmp_path / "local"), **new)


ASKED = {
    "GET exists": lambda told: QdrantIndex.connect(told.url, "tests", key=KEY),
    "PUT": lambda told: QdrantIndex.connect(told.url, "new", key=KEY, dim=D, modalities=["text"]),
    "PUT points": lambda told: told.index.add(items(1), ["a"]),
    "PUT index": lambda told: told.index.add(items(1), ["a"], {"made": [True]}),
    "POST points": lambda told: told.index.items(["i1"]),
    "POST points/delete": lambda told: told.index.delete(["i1"]),
    "POST points/count": lambda told: len(told.index),
    "POST points/scroll": lambda told: told.index.save(told.folder / "copy"),
    "POST points/query": lambda told: told.index.search(torch.randn(1, D)),
}
FAULTS = {
    "down": (None, "cannot be reached: .*refused.*whether the server runs"),
    "key": ((401, b"Must provide an API key"), "refuses the key, or wants one. Pass its own, or set the variable QDRANT_KEY"),
    "gone": (
        (404, b'{"status": {"error": "Not found: Collection `tests` doesn\'t exist!"}, "time": 0}'),
        r"has no collection '(tests|new)', or no longer \(Not found: Collection `tests` doesn't exist!\). Check `collection`",
    ),
    "layout": (
        (400, b'{"status": {"error": "Wrong input: Not existing vector name error: m0"}, "time": 0}'),
        "refuses what collection '(tests|new)' is asked: Wrong input: Not existing vector name error: m0. Was it made by",
    ),
    "failure": ((500, b'{"status": {"error": "Service internal error: disk full"}}'), "failed: Service internal.*disk full"),
    "busy": ((429, b"{}"), "takes no more requests"),
    "another server": ((404, b"<html>nothing here</html>"), r"does not answer as Qdrant does \(status 404\)"),
    "malformed": ((200, b"<html>welcome</html>"), r"does not answer as Qdrant does \(what came cannot be read\)"),
    "empty": ((200, b'{"result": null, "status": "ok", "time": 0}'), r"does not answer as Qdrant does"),
}


@pytest.mark.parametrize("request_", ASKED)
def test_what_a_server_refuses_is_told_in_one_line(server, tmp_path, monkeypatch, request_):
    QdrantIndex.connect(server.url, "tests", key=KEY, dim=D, modalities=["text", "image", "audio"]).add(items(2), ["i1", "i2"])
    index = QdrantIndex.connect(server.url, "tests", key=KEY)
    told = Namespace(index=index, url=server.url, folder=tmp_path)
    for name, (answer, message) in FAULTS.items():
        with monkeypatch.context() as patched:
            if answer is None:
                told.url = "http://127.0.0.1:1"
                patched.setattr(index._engine._client._client, "openapi_client", SyncApis(host=told.url))
            else:
                patched.setitem(server.faults, request_, answer)
            with pytest.raises(InputError, match=message) as error:
                ASKED[request_](told)
        told.url = server.url
        assert KEY not in str(error.value) and "\n" not in str(error.value), name
    server.client.delete_collection("tests")
    if request_ not in ("GET exists", "PUT"):
        with pytest.raises(InputError, match="has no collection 'tests', or no longer"):
            ASKED[request_](told)


def test_a_key_is_refused_and_an_address_with_a_key_is_not_printed(server, caplog):
    for location, warned in (("http://host:6333", True), ("https://host", False), ("http://127.0.0.1:6333", False)):
        caplog.clear()
        check_location(location, "x", KEY)
        assert ("unencrypted" in caplog.text) == warned and KEY not in caplog.text
    for key in (None, "", "another"):
        with pytest.raises(InputError, match="refuses the key, or wants one"):
            QdrantIndex.connect(server.url, key=key)
    for location in ("http://me:password@host:6333", "http://host:6333?api-key=password"):
        with pytest.raises(InputError, match="Pass the key by itself") as error:
            QdrantIndex.connect(location)
        assert "password" not in str(error.value)
    for location in ("ftp://host", "http://", "http://a b:6333", "http://host:port"):
        with pytest.raises(InputError, match="`location` must be an address, as http://host:6333; got"):
            QdrantIndex.connect(location)
    for name in ("", ".", "a/b"):
        with pytest.raises(InputError, match="`collection` must be a name; got"):
            QdrantIndex.connect(server.url, name)


def test_a_description_that_is_damaged_is_told(server):
    for about in ({}, {"about": {"dim": "much"}}, {"about": None}):
        server.client.delete_collection("odd")
        server.client.create_collection("odd", vectors_config={})
        server.client.upsert("odd", [models.PointStruct(id=qdrant.ABOUT, vector={}, payload=about)])
        with pytest.raises(InputError, match="the collection's own description is damaged"):
            QdrantIndex.connect(server.url, "odd", key=KEY)


def test_points_of_others_in_a_collection_are_passed_over(server, tmp_path):
    index = QdrantIndex.connect(server.url, "shared", key=KEY, dim=D, modalities=["text"])
    index.add(items(3, names=("text",)), list("abc"))
    stranger = models.PointStruct(id=7, vector={"m0": [1.0] + [0.0] * (D - 1)}, payload={"mine": 1})
    server.client.upsert("shared", [stranger])
    assert set(index.search(torch.eye(D)[:1], 9).ids[0]) == set("abc")
    index.save(tmp_path / "copy")
    assert set(FlatIndex.open(tmp_path / "copy").ids()) == set("abc")


def test_an_upload_is_cut_to_what_a_server_takes(server, monkeypatch):
    monkeypatch.setattr(engines, "PARCEL", 10 * 3 * D)
    index = QdrantIndex.connect(server.url, "cut", key=KEY, dim=D, modalities=["text"])
    del server.asked[:]
    index.add(items(40, names=("text",)), [str(i) for i in range(40)])
    sizes = [size for method, path, size in server.asked if method == "PUT"]
    assert len(sizes) == 4 and len(index) == 40


def test_stamps_have_the_same_ten_answers_embedded_and_in_a_folder(tmp_path):
    table = load("stamps", split="test", columns=["text", "image", "speech_fr", "sound"])
    model = Aligner.for_table(table, dim=32, seed=0).eval()
    everything = model.embed(table)
    shown = everything.select("image", "speech_fr", "sound")
    exact = FlatIndex.create(tmp_path / "flat", model=model, dim=model.dim)
    ours = QdrantIndex.edge(tmp_path / "edge", model=model, modalities=shown.modalities)
    for index in (exact, ours):
        index.add(shown, table.ids, {"split": list(table.split)})
    ours.optimize()
    for by in (("text",), ("text", "speech_fr"), ("text", "speech_fr", "image")):
        queries = everything[:6].select(*by)
        for score in ("centroid", "span"):
            assert ours.search(queries, 10, score=score).ids == exact.search(queries, 10, score=score).ids
    ours.close()


def test_a_command_fills_qdrant_and_goes_on_where_it_stopped(tmp_path, capsys):
    table = world(40, missing=0.3)
    Aligner.for_table(table, dim=8, seed=1).eval().save_pretrained(tmp_path / "run" / "aligner")
    table[:25].save(tmp_path / "part.parquet")
    table.save(tmp_path / "world.parquet")
    words = ["index", str(tmp_path / "run"), "--metadata", "split", "--data"]
    assert main([*words, str(tmp_path / "part.parquet"), "--qdrant", "edge"]) == 0
    assert main([*words, str(tmp_path / "world.parquet")]) == 0  # it sees what is there
    assert "15 items added, 25 were there already; 40 in all, of text, image, audio" in " ".join(
        capsys.readouterr().out.split()
    )
    assert main([*words, str(tmp_path / "world.parquet"), "--output", str(tmp_path / "flat")]) == 0
    assert main([*words[:2], "--delete", "item-1", "--diagnose"]) == 0
    assert "1 items deleted; 39 remain" in capsys.readouterr().out
    flat, edge = FlatIndex.open(tmp_path / "flat"), Index.open(tmp_path / "run")
    query = torch.randn(1, 8)
    assert (
        edge.search(query, 5, filter="split=train").ids == flat.search(query, 5, filter="split=train", exclude=["item-1"]).ids
    )
    edge.close()

    for more, message in (
        (["--qdrant", "host"], "`qdrant` must be 'edge', or an address such as http://host:6333; got 'host'"),
        (["--qdrant", "http://127.0.0.1:1"], "`qdrant` 'http://127.0.0.1:1' cannot be reached"),
        (["--qdrant", "edge", "--output", str(tmp_path / "flat")], "holds a FlatIndex"),
        (["--compact"], "--int8 and --compact are for a FlatIndex"),
    ):
        assert main([*words, str(tmp_path / "world.parquet"), *more]) == 2
        told = capsys.readouterr().err
        assert message in told and told.count("\n") == 1
    assert main(["index", str(tmp_path / "none"), "--qdrant", "edge", "--diagnose"]) == 2
    assert "holds no index. Make one" in capsys.readouterr().err


def test_commands_fill_and_search_a_server(server, tmp_path, capsys, monkeypatch):
    table = world(40, missing=0.3)
    Aligner.for_table(table, dim=8, seed=1).eval().save_pretrained(tmp_path / "run" / "aligner")
    Aligner.for_table(table, dim=8, seed=2).eval().save_pretrained(tmp_path / "another" / "aligner")
    table.save(tmp_path / "world.parquet")
    run, place = str(tmp_path / "run"), ["--qdrant", server.url, "--collection", "world"]
    monkeypatch.setenv("QDRANT_KEY", KEY)
    fill = ["index", run, "--data", str(tmp_path / "world.parquet"), "--metadata", "split"]
    assert main([*fill, *place]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert f"{server.url} world: 40 items added" in told and KEY not in told
    assert main(fill) == 0
    capsys.readouterr()
    asked = ["--data", str(tmp_path / "world.parquet"), "--row", "item-3"]
    for words in (["--like", "item-3", "--filter", "split=train"], asked):
        found = []
        for where in (place, []):
            assert main(["search", run, *words, "--json", *where]) == 0
            found.append(json.loads(capsys.readouterr().out))
        assert [hit["id"] for hit in found[0]["hits"]] == [hit["id"] for hit in found[1]["hits"]]
    monkeypatch.delenv("QDRANT_KEY")
    assert main(["search", run, "--like", "item-3", *place, "--qdrant-key", KEY]) == 0
    assert "item-" in capsys.readouterr().out
    (tmp_path / "bare").mkdir()  # a run without its model
    assert main(["search", str(tmp_path / "bare"), "--like", "item-3", *place, "--qdrant-key", KEY]) == 0
    assert "item-" in capsys.readouterr().out
    (tmp_path / "file.yaml").write_text("qdrant: http://elsewhere:6333\n")
    wrong = [
        ([run, *place], "refuses the key, or wants one"),
        ([run, *place[:2], "--qdrant-key", KEY], "collection 'gramian' of 'http://127.0.0.1:"),
        ([run, "--qdrant", "http://127.0.0.1:1"], "`qdrant` 'http://127.0.0.1:1' cannot be reached"),
        ([run, "--qdrant", "edge"], "`qdrant` must be an address such as http://host:6333; got 'edge'"),
        ([run, "--collection", "world"], "--collection and --qdrant-key are of a server"),
        ([run, str(tmp_path / "file.yaml")], "`qdrant` may not be set in a file"),
        ([str(tmp_path / "none"), *place], "`run` must be a folder"),
        ([str(tmp_path / "bare"), *place, "--qdrant-key", KEY, "--text", "a bird"], "the index has no model"),
        ([str(tmp_path / "another"), *place, "--qdrant-key", KEY, *asked], "holds vectors of another model"),
    ]
    for words, message in wrong:
        assert main(["search", *words, "--like", "item-3"]) == 2
        told = capsys.readouterr().err
        assert message in told and told.count("\n") == 1 and KEY not in told


def test_a_service_over_a_server_tells_its_clients_what_is_theirs(server, monkeypatch, caplog):
    pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    from gramian.index.service import service

    index = QdrantIndex.connect(server.url, "served", key=KEY, dim=D, modalities=["text"])
    index.add(items(9, names=("text",)), [f"i{i}" for i in range(9)])
    with TestClient(service(QdrantIndex.connect(server.url, "served", key=KEY))) as client:
        assert client.get("/health").json()["items"] == 9
        index.add(items(1, seed=5, names=("text",)), ["later"], {"year": [1999]})
        found = client.post("/search", json={"like": "i1", "filter": "year=1999"}).json()
        assert [hit["id"] for hit in found["hits"]] == ["later"]
        assert client.post("/search", json={"like": "nobody"}).status_code == 422
        monkeypatch.setitem(server.faults, "POST points.*", (401, b""))
        for answer in (client.get("/health"), client.post("/search", json={"like": "i1"}), client.get("/items/i1")):
            assert (answer.status_code, answer.json()) == (503, {"error": UNASKED})
        assert "refuses the key" in caplog.text and KEY not in caplog.text
        monkeypatch.undo()
        server.client.delete_collection("served")
        QdrantIndex.connect(server.url, "served", key=KEY, dim=D, modalities=["text", "image"])
        assert client.get("/health").status_code == 503 and "was built anew" in caplog.text


def test_another_model_is_refused(tmp_path):
    first, second = Aligner({"text": 3}, dim=4), Aligner({"text": 3}, dim=4)
    QdrantIndex.edge(tmp_path / "e", model=first, modalities=["text"]).close()
    with pytest.raises(InputError, match="vectors of another model"):
        QdrantIndex.edge(tmp_path / "e", model=second)
