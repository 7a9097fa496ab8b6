"""The service: the index's answers over HTTP, limits, a key, no file that was not allowed; many clients at once."""

import asyncio
import base64
import time
from collections import Counter

import pytest
import torch

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

import httpx

from gramian.cli import main
from gramian.index import FlatIndex
from gramian.index.service import service
from gramian.model import Aligner, Custom
from test_index import D, items


class Letters(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, inputs):
        return torch.stack([one.float().mean(0, keepdim=True).expand(4) for one in inputs]) * self.scale


def lengths(cell):
    assert isinstance(cell, bytes), cell
    return torch.tensor([float(len(cell))])


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("service")
    (folder / "media").mkdir()
    (folder / "media" / "a.bin").write_bytes(b"media of a")
    (folder / "secret").write_text("secret")
    paths = [str(folder / "media" / "a.bin"), str(folder / "secret"), None]
    bundle = items(60)
    ids = [f"dir/i{i}" for i in range(60)]
    index = FlatIndex.create(folder / "i", dim=D)
    index.add(bundle, ids, {"n": list(range(60)), "blob": [paths[i % 3] for i in range(60)]})
    model = Aligner({"blob": Custom(Letters(), 4, read=lengths), "features": 3}, dim=D).eval()
    return FlatIndex.open(folder / "i", model=model), folder


def ask(app, *requests):
    async def all_of_them():
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await asyncio.gather(*(client.request(method, path, **options) for method, path, options in requests))

    return asyncio.run(all_of_them())


def test_a_search_over_http_is_the_index_s_own(index):
    index, _ = index
    query = torch.randn(1, D)
    body = {"vectors": {"query": query[0].tolist()}, "k": 4, "filter": "n<50", "score": "span"}
    likes = {"like": "dir/i3", "k": 2, "weights": {"text": 2}}
    feature = {"cells": {"features": [1, 2, 3]}, "without": {"features": [0, 1, 0]}, "k": 1}
    found, like, embedded, signed, item = ask(
        service(index),
        ("POST", "/search", {"json": body}),
        ("POST", "/search", {"json": likes}),
        ("POST", "/embed", {"json": {"cells": {"features": [1, 2, 3], "blob": {"base64": base64.b64encode(b"abc").decode()}}}}),
        ("POST", "/search", {"json": feature}),
        ("GET", "/items/dir/i3", {}),
    )
    assert [hit["id"] for hit in found.json()["hits"]] == index.search(query, 4, filter="n<50", score="span").ids[0]
    assert "dir/i3" not in [hit["id"] for hit in like.json()["hits"]] and len(like.json()["hits"]) == 2
    assert set(embedded.json()["vectors"]) == {"features", "blob"}
    assert signed.status_code == 200
    assert item.json()["metadata"]["n"] == 3


WRONG = [
    ({}, 422, "a query needs"),
    ({"k": 0}, 422, "greater than or equal"),
    ({"like": "nobody"}, 422, "it has no 'nobody'"),
    ({"vectors": {"a": [1.0]}}, 422, "width"),
    ({"vectors": {"a": [1.0] * D, "b": [1.0]}}, 422, "width"),
    ({"vectors": {"a": [0.0] * D}}, 422, "no direction"),
    ({"cells": {"smell": [1]}}, 422, "must be one of"),
    ({"cells": {"blob": "/etc/passwd"}}, 422, "must be bytes of a file"),
    ({"cells": {"features": "/etc/passwd"}}, 422, "must be a list of features"),
    ({"cells": {"blob": {"base64": "~"}}}, 422, "must be base64"),
    ({"cells": {"blob": {"path": "/etc/passwd"}}}, 422, ""),
    ({"like": "dir/i1", "filter": "x=1"}, 422, "names the field"),
    ({"like": "dir/i1", "filter": {"n": {"gt": "a"}}}, 422, "must be a whole number"),
    ({"like": "dir/i1", "modalities": []}, 422, "at least one"),
    ({"like": "dir/i1", "hubs": True}, 422, "`hubs` needs"),
    ({"like": "dir/i1", "score": "x"}, 422, ""),
    ({"like": "dir/i1", "colour": 1}, 422, "`colour` is not a field of this request"),
    ({"like": "dir/i1", "unlike": "nobody"}, 422, "it has no 'nobody'"),
]


def test_bad_requests_are_told_why_and_never_fail_inside(index):
    answers = ask(service(index[0]), *(("POST", "/search", {"json": body}) for body, _, _ in WRONG))
    for (body, code, words), answer in zip(WRONG, answers, strict=True):
        assert answer.status_code == code and words in answer.text, (body, answer.text)
    plain = ("POST", "/search", {"content": b'{"like": "dir/i1"}'})
    broken = ("POST", "/search", {"content": b"{", "headers": {"content-type": "application/json"}})
    lost, text, cut = ask(service(index[0]), ("GET", "/items/x", {}), plain, broken)
    assert (lost.status_code, text.status_code, cut.status_code) == (404, 422, 422)
    (home,) = ask(service(index[0]), ("GET", "/", {}))
    assert (home.status_code, home.json()) == (404, {"error": "no such path. /docs lists them."})
    assert "content-type: application/json" in text.text and "the body is not JSON" in cut.text


def test_a_key_and_a_limit_of_bytes(index):
    app = service(index[0], key="open", most_bytes=2000)
    body = {"like": "dir/i1"}

    async def chunks():
        for _ in range(10):
            yield b" " * 1000

    none, wrong, right, long, streamed, health = ask(
        app,
        ("POST", "/search", {"json": body}),
        ("POST", "/search", {"json": body, "headers": {"X-API-Key": "shut"}}),
        ("POST", "/search", {"json": body, "headers": {"X-API-Key": "open"}}),
        ("POST", "/search", {"content": b" " * 3000, "headers": {"X-API-Key": "open"}}),
        ("POST", "/search", {"content": chunks(), "headers": {"X-API-Key": "open"}}),
        ("GET", "/health", {}),
    )
    assert [each.status_code for each in (none, wrong, right, long, streamed, health)] == [401, 401, 200, 413, 413, 200]
    assert health.json()["items"] == 60


def test_media_come_from_the_folders_that_are_served_alone(index):
    index, folder = index
    requests = [("GET", f"/media/blob/dir/i{i}", {}) for i in range(3)] + [("GET", "/media/n/dir/i0", {})]
    shut = ask(service(index), *requests)
    assert {each.status_code for each in shut} == {404}
    served = ask(service(index, media_root=[folder / "media"]), *requests)
    assert [each.status_code for each in served] == [200, 404, 404, 404]
    assert served[0].content == b"media of a"


def test_what_another_process_commits_is_served(tmp_path):
    bundle = items(4)
    FlatIndex.create(tmp_path / "i", dim=D).add(bundle, list("abcd"))
    app = service(FlatIndex.open(tmp_path / "i"))
    like = ("POST", "/search", {"json": {"like": "a"}})
    before = ask(app, like, ("GET", "/health", {}))
    FlatIndex.open(tmp_path / "i").add(bundle[:1], ["twin"])
    FlatIndex.open(tmp_path / "i").delete(["b"])
    after = ask(app, like, ("GET", "/health", {}))
    (tmp_path / "i" / "index.json").write_text("{}")
    (last,) = ask(app, like)
    assert [health.json()["items"] for _, health in (before, after)] == [4, 4]
    assert [sorted(hit["id"] for hit in each.json()["hits"]) for each in (before[0], after[0], last)] == [
        ["b", "c", "d"],
        ["c", "d", "twin"],
        ["c", "d", "twin"],
    ]


def test_what_takes_too_long_is_given_up(index, monkeypatch):
    running, most = Counter(), []

    def search(*_, **__):
        running["now"] += 1
        most.append(running["now"])
        time.sleep(0.3)
        running["now"] -= 1

    monkeypatch.setattr(FlatIndex, "search", search)
    answers = ask(service(index[0], seconds=0.05, at_once=2), *[("POST", "/search", {"json": {"like": "dir/i1"}})] * 6)
    assert {answer.status_code for answer in answers} == {504}
    assert max(most, default=0) <= 2  # a search that was given up holds its place until it ends


def test_of_many_clients_at_once_none_gets_another_s_answer(index):
    index, _ = index
    app = service(index)
    ids = [f"dir/i{i}" for i in range(50)] * 4
    answers = ask(app, *(("POST", "/search", {"json": {"like": name, "k": 3}}) for name in ids))
    for name, answer in zip(ids[:50], answers[:50], strict=True):
        own = index.vectors([name])
        has = own.select(*(each for each in own.modalities if bool(own.has(each)[0])))
        assert [hit["id"] for hit in answer.json()["hits"]] == index.search(has, 3, exclude=[name]).ids[0]
    assert [answer.json() for answer in answers[:50]] * 4 == [answer.json() for answer in answers]
    (metrics,) = ask(app, ("GET", "/metrics", {}))
    assert 'gramian_requests_total{path="/search",status="200"} 200' in metrics.text


def test_the_command_refuses_what_is_unsafe_or_missing(index, capsys, tmp_path):
    folder = str(index[1] / "i")
    for words, message in [
        ([str(tmp_path)], "holds no index"),
        ([folder, "--host", "0.0.0.0"], "that needs --key"),
        ([folder, "--port", "0"], "`port` must be an integer"),
        ([folder, "--media-root", "nowhere"], "`media_root` must name existing folders"),
    ]:
        assert main(["serve", *words]) == 2
        assert message in capsys.readouterr().err
