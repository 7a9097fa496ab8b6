"""An index finds exactly what a float64 brute force finds, whatever was added, replaced, deleted, merged and read again."""

import json
import math
import os
import time
from argparse import Namespace
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gramian
import index_kills
from gramian.bundle import Bundle
from gramian.errors import InputError
from gramian.files import claimed
from gramian.index import FlatIndex, Index, diagnosis, search
from gramian.index.pages import Pages, pages_of
from gramian.index.protocol import SEARCHED, combined
from gramian.scores import SCORES, hub_scores
from gramian.tokens import Tokens

D = 12


def items(n, seed=0, names=("text", "image", "audio"), missing=0.3, d=D):
    draw = torch.Generator().manual_seed(seed)
    base = torch.randn(n, d, generator=draw)
    columns = {name: base + 0.7 * torch.randn(n, d, generator=draw) for name in names}
    present = {name: torch.rand(n, generator=draw) >= missing for name in names}
    present[names[0]] |= ~torch.stack(list(present.values())).any(0)
    return Bundle.from_dict(columns, present=present)


def built(path, bundle, step=40, metadata=None):
    index = FlatIndex.create(path, dim=bundle.dim)
    for start in range(0, len(bundle), step):
        rows = slice(start, start + step)
        part = None if metadata is None else {name: values[rows] for name, values in metadata.items()}
        index.add(bundle[rows], [f"i{i}" for i in range(len(bundle))[rows]], part)
    return index


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    bundle = items(160)
    metadata = {
        "year": [1900 + i if i % 5 else None for i in range(160)],
        "lang": [("en", "fr", "de")[i % 3] for i in range(160)],
        "weight": [i / 7 for i in range(160)],
        "ok": [i % 2 == 0 for i in range(160)],
    }
    return bundle, metadata, built(tmp_path_factory.mktemp("index") / "whole", bundle, metadata=metadata)


def literal(score, query, item, beta=1.0):
    """The score of one query and one item, (k, d) and (m, d) float64 arrays: from QR and plain sums."""
    cosines = query @ item.T
    if score == "max_cosine":
        return cosines.max()
    if score == "cosine":
        return cosines.mean()
    if score == "maxsim":
        return cosines.max(1).mean()
    a, z = query.sum(0), item.sum(0)
    if score == "centroid":
        return a @ z / np.linalg.norm(a) / np.linalg.norm(z)
    if score == "leading":
        u, v = (np.linalg.svd(each)[2][0] for each in (query, item))
        return (u @ v) * (1 if u @ a >= 0 else -1) * (1 if v @ z >= 0 else -1)
    if score == "weighted_centroid":
        a = a / np.linalg.norm(a)
        w = np.exp(item @ a / 0.1)
        return a @ (w @ item) / np.linalg.norm(w @ item)
    basis = np.linalg.qr(item.T)[0]
    asked = np.linalg.qr(query.T)[0]
    sine = math.sqrt(max(0.0, np.linalg.det(np.eye(len(query)) - (asked.T @ basis) @ (asked.T @ basis).T)))
    if score == "volume":
        own = math.sqrt(np.linalg.det(item @ item.T)) ** beta
        return -sine * own * math.sqrt(np.linalg.det(query @ query.T))
    return math.copysign(math.sqrt(max(0.0, 1 - sine**2)), a @ z)


LITERAL = ["centroid", "cosine", "max_cosine", "maxsim", "leading", "weighted_centroid", "volume", "span"]


@pytest.mark.parametrize("score", LITERAL)
@pytest.mark.parametrize("width", [1, 2, 3])
def test_a_search_finds_what_a_literal_brute_force_finds(whole, score, width):
    bundle, _, index = whole
    queries = items(3, seed=9, names=("text", "depth", "touch")[:width], missing=0.0)
    answers = index.search(queries, 7, score=score, beta=0.5)
    for query in range(3):
        table = [
            literal(score, queries.vectors[query].double().numpy(), bundle.vectors[i][bundle.present[i]].double().numpy(), 0.5)
            for i in range(len(bundle))
        ]
        order = np.argsort(-np.array(table), kind="stable")[:7]
        assert answers.ids[query] == [f"i{i}" for i in order]
        np.testing.assert_allclose(answers.scores[query], np.array(table)[order], atol=2e-6)


@pytest.mark.parametrize("score", SEARCHED)
@pytest.mark.parametrize("modalities", [None, ("audio", "image")])
def test_a_search_is_the_top_of_the_library_s_own_score(whole, score, modalities):
    bundle, _, index = whole
    queries = items(3, seed=5, names=("text", "depth"), missing=0.4)
    answers = index.search(queries, 9, score=score, modalities=modalities)
    kept = bundle if modalities is None else bundle.select(*modalities)
    table = SCORES[score](queries.to(dtype=torch.float64), kept.to(dtype=torch.float64))
    best = table.topk(9, dim=1)
    assert answers.ids == [[f"i{i}" for i in row] for row in best.indices.tolist()]
    torch.testing.assert_close(torch.tensor(answers.scores).double(), best.values, atol=2e-6, rtol=0)


@settings(max_examples=8)
@given(st.data())
def test_an_index_holds_the_last_of_what_was_added_and_nothing_that_was_deleted(tmp_path_factory, data):
    index = FlatIndex.create(tmp_path_factory.mktemp("index") / "a", dim=D)
    state: dict[str, torch.Tensor] = {}
    for _ in range(data.draw(st.integers(1, 6))):
        act = data.draw(st.sampled_from(["add", "add", "delete", "compact", "open"]))
        if act == "add":
            names = data.draw(st.lists(st.sampled_from("abcdefghijk"), min_size=1, max_size=6, unique=True))
            bundle = items(len(names), seed=data.draw(st.integers(0, 99)), missing=0.5)
            assert index.add(bundle, names) == len(state.keys() & set(names))
            state |= {name: bundle[i] for i, name in enumerate(names)}
        elif act == "delete":
            names = data.draw(st.lists(st.sampled_from("abcdefghijk"), max_size=4, unique=True))
            assert index.delete(names) == len(state.keys() & set(names))
            state = {name: one for name, one in state.items() if name not in names}
        elif act == "compact":
            index.compact()
        else:
            index = FlatIndex.open(index.path)
    assert len(index) == len(state)
    assert set(index.ids()) == set(state)
    if not state:
        return
    everything = Bundle.cat([one.select("text", "image", "audio") for one in state.values()])
    query = torch.randn(2, D)
    k = data.draw(st.integers(1, 12))
    for score in ("centroid", "span", "volume"):
        table = SCORES[score](query.double(), everything.to(dtype=torch.float64))
        best = table.topk(min(k, len(state)), dim=1).values
        answers = index.search(query, k, score=score)
        torch.testing.assert_close(torch.tensor(answers.scores).double(), best, atol=3e-6, rtol=0)
        for row, ids in enumerate(answers.ids):
            own = [float(table[row, list(state).index(name)]) for name in ids]
            np.testing.assert_allclose(own, best[row].numpy(), atol=3e-6)


def test_near_the_span_and_among_duplicates_nothing_is_lost(tmp_path):
    torch.manual_seed(1)
    a = torch.nn.functional.normalize(torch.randn(1, D), dim=1)
    first = a + 1e-4 * torch.randn(30, D)
    bundle = Bundle.from_dict({"x": first, "y": first + 1e-5 * torch.randn(30, D)})  # nearly dependent, nearly the query
    same = Bundle.from_dict({"x": a.repeat(200, 1), "y": a.repeat(200, 1)})
    index = built(tmp_path / "i", bundle)
    index.add(same, [f"same{i}" for i in range(200)])
    for score in ("span", "volume"):
        found = index.search(a, 230, score=score)
        assert len(set(found.ids[0])) == 230
        same = [name for name in found.ids[0] if name.startswith("same")]
        assert same == [f"same{i}" for i in range(200)]  # of equal scores what was added first
        ours = dict(zip(found.ids[0], found.scores[0], strict=True))
        table = SCORES[score](a.double(), bundle.to(dtype=torch.float64))[0]
        np.testing.assert_allclose([ours[f"i{i}"] for i in range(30)], table.numpy(), atol=1e-6)
    figures = index.diagnose()
    assert figures.figures["duplicates"] == 199
    assert figures.figures["items whose vectors are dependent"] >= 200
    assert any("same vectors as another: 199" in warning for warning in figures.warnings)


def test_of_a_volume_that_would_be_dominated_a_diagnosis_warns(tmp_path):
    bundle = items(200, missing=0)
    close = bundle.vectors.clone()
    close[:2, 1] = torch.nn.functional.normalize(close[:2, 0] + 1e-4 * torch.randn(2, D), dim=1)
    index = built(tmp_path / "i", Bundle(close, bundle.present, bundle.modalities), step=200)
    told = index.diagnose()
    assert any("β = 1" in warning for warning in told.warnings)
    assert told.figures["items"] == 200
    assert "log D" in told.sheet().markdown()
    x, y = torch.randn(2, 200, 64)
    far = Bundle.from_dict({"x": x, "y": y - x * (x * y).sum(1, keepdim=True) / x.square().sum(1, keepdim=True)})
    assert not built(tmp_path / "j", far, step=200).diagnose().warnings


FILTERS = [
    ({"lang": "fr"}, lambda m, i: m["lang"][i] == "fr"),
    ({"lang": ["fr", "de"], "ok": True}, lambda m, i: m["lang"][i] in ("fr", "de") and m["ok"][i]),
    ({"lang": {"not": ["fr"]}}, lambda m, i: m["lang"][i] != "fr"),
    ({"year": {"gte": 1950, "lt": 1971}}, lambda m, i: m["year"][i] is not None and 1950 <= m["year"][i] < 1971),
    ({"year": {"exists": False}}, lambda m, i: m["year"][i] is None),
    (
        ["year>1950", "lang!=en,fr", "weight<=20"],
        lambda m, i: (m["year"][i] or 0) > 1950 and m["lang"][i] == "de" and i / 7 <= 20,
    ),
    ("ok=false", lambda m, i: not m["ok"][i]),
    ("year=1911", lambda m, i: m["year"][i] == 1911),
]


@pytest.mark.parametrize(("filter", "holds"), FILTERS, ids=[str(each) for each, _ in FILTERS])
def test_filters_hide_everything_else(whole, filter, holds):
    bundle, metadata, index = whole
    queries = torch.randn(2, D)
    allowed = torch.tensor([holds(metadata, i) for i in range(160)])
    table = SCORES["span"](queries.double(), bundle.to(dtype=torch.float64)).masked_fill(~allowed, -torch.inf)
    k = min(12, int(allowed.sum()))
    answers = index.search(queries, 12, score="span", filter=filter)
    assert answers.ids == [[f"i{i}" for i in row] for row in table.topk(k, dim=1).indices.tolist()]
    hit = answers[0][0]
    assert hit.metadata["lang"] == metadata["lang"][int(hit.id[1:])]


def test_every_answer_says_what_contributed_and_what_is_missing(whole):
    bundle, _, index = whole
    query = items(1, seed=3, names=("text", "depth"), missing=0)
    for hit in index.search(query, 20)[0]:
        row = bundle[int(hit.id[1:])]
        has = [name for name in bundle.modalities if bool(row.has(name))]
        assert hit.missing == tuple(name for name in bundle.modalities if name not in has)
        assert set(hit.contributions) == set(has)
        for name in has:
            pair = float(query.column("depth")[0] @ row.column(name)[0])
            assert hit.cosines["depth"][name] == pytest.approx(pair, abs=1e-5)
            whole_query = torch.nn.functional.normalize(query.vectors[0].sum(0), dim=0)
            assert hit.contributions[name] == pytest.approx(float(whole_query @ row.column(name)[0]), abs=1e-5)
        assert json.loads(json.dumps(hit.to_dict()))["id"] == hit.id


def test_weights_and_what_to_lack_make_one_signed_vector(whole):
    _, _, index = whole
    query = items(2, seed=3, names=("text", "image"), missing=0)
    lack = items(1, seed=4, names=("text",), missing=0)
    vector = 2 * query.column("text") - 0.5 * query.column("image") - lack.column("text")
    plain = index.search(vector, 5, score="cone")
    signed = index.search(query, 5, score="cone", weights={"text": 2, "image": -0.5}, without=lack)
    assert plain.ids == signed.ids
    assert combined(query) is query
    with pytest.raises(InputError, match="the query cancels"):
        index.search(query, without=query)


def test_several_vectors_of_a_modality_are_found_by_the_nearest(tmp_path):
    draw = torch.Generator().manual_seed(0)
    tokens = Tokens(torch.randn(30, 4, D, generator=draw), torch.rand(30, 4, generator=draw) > 0.4)
    text = torch.randn(30, D, generator=draw)
    has = {"frames": tokens.has_any(), "text": torch.ones(30, dtype=torch.bool)}
    bundle = Bundle.from_dict({"frames": tokens, "text": text}, present=has)
    index = built(tmp_path / "i", bundle, step=10)
    index.add(items(5, names=("audio",), missing=0), [f"more{i}" for i in range(5)])
    query = Bundle.from_dict({"a": torch.randn(2, D), "b": torch.randn(2, D)})
    table = SCORES["maxsim"](query.to(dtype=torch.float64), bundle.to(dtype=torch.float64))
    for _ in range(2):
        answers = index.search(query, 6, score="maxsim", modalities=["frames", "text"])
        assert answers.ids == [[f"i{i}" for i in row] for row in table.topk(6, dim=1).indices.tolist()]
        stored = index.vectors(["i3", "more1"])
        assert torch.allclose(
            stored.tokens["frames"].values[0][stored.tokens["frames"].present[0]],
            bundle.tokens["frames"].values[3][bundle.tokens["frames"].present[3]],
            atol=1e-6,
        )
        index.compact()
    assert len(index.segments) == 1


def test_a_vector_beside_its_tokens_is_kept_as_it_is(tmp_path):
    """A model's own vector of a text is not the mean of its tokens."""
    tokens = Tokens(torch.randn(3, 4, D), torch.ones(3, 4, dtype=torch.bool))
    plain = Bundle.from_dict({"text": torch.randn(3, D)})
    index = FlatIndex.create(tmp_path / "i", dim=D)
    index.add(replace(plain, tokens={"text": tokens}), list("abc"))
    stored = index.vectors(list("abc"))
    assert torch.allclose(stored.vectors, plain.vectors, atol=1e-6)
    assert torch.allclose(stored.tokens["text"].values, torch.nn.functional.normalize(tokens.values, dim=-1), atol=1e-6)


def test_what_ties_to_rounding_is_told_apart_however_it_is_read(tmp_path, monkeypatch):
    torch.manual_seed(1)
    a = torch.nn.functional.normalize(torch.randn(1, D), dim=1)
    near = Bundle.from_dict({"x": a + 1e-5 * torch.randn(300, D)})  # more than the candidates of one part
    index = FlatIndex.create(tmp_path / "i", dim=D)
    names = [str(i) for i in range(1500)]
    index.add(
        Bundle.cat([near, Bundle.from_dict({"x": torch.randn(1200, D)})]), names, {"near": [i < 300 for i in range(1500)]}
    )
    stored = index.vectors(names[:300]).to(dtype=torch.float64)
    monkeypatch.setattr(search, "GATHERED", 100)
    monkeypatch.setattr(search, "RECOVERED", 100)
    for score in ("volume", "spectral_gain"):
        best = SCORES[score](a.double(), stored)[0].topk(10).indices
        assert index.search(a, 10, score=score, filter="near=true").ids == [[str(i) for i in best.tolist()]]


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps"), reason="needs /proc")
def test_pages_of_a_large_index_are_given_back(tmp_path, monkeypatch):
    def resident(path):
        """KB of the index's files in this process."""
        found, total = False, 0
        with open("/proc/self/smaps", encoding="utf-8") as file:
            for line in file:
                if "-" in line.split()[0]:
                    found = str(path) in line
                elif found and line.startswith("Rss:"):
                    total += int(line.split()[1])
        return total

    path, n, part = tmp_path / "i", 2000, 150
    bundle = items(n, d=512)
    index = built(path, bundle, step=n)
    index.compact(int8=True)
    size = sum(file.stat().st_size for file in path.glob("*.safetensors")) // 1024
    queries = bundle[5].select("text")
    monkeypatch.setattr(search, "PIECE", 4 * 3 * 512 * part)
    monkeypatch.setattr(search, "RECOVERED", part)
    monkeypatch.setattr(diagnosis, "BLOCK", part)
    monkeypatch.setattr(diagnosis, "SAMPLE", 5)
    monkeypatch.setattr(FlatIndex, "model", Namespace(bank=items(9, seed=8, d=512)))
    works = [
        *(lambda i, score=score: i.search(queries, 1, score=score).scores for score in ("span", "volume", "spectral_gain")),
        lambda i: i.search(queries, 1, score="span", hubs=True).scores,
        looked := lambda i: i.items(["i1", "i1999"])[0].vectors.tolist(),
        lambda i: diagnosis._read(i.segments)[2:4],
    ]
    given, give_back = [], Pages.give_back
    monkeypatch.setattr(Pages, "give_back", lambda pages: given.append(pages) or give_back(pages))
    told = {}
    for stays in (None, 0):
        told[stays] = []
        for work in works:
            del given[:]
            index = FlatIndex.open(path, resident=stays)
            told[stays].append(work(index))
            if stays == 0:
                assert resident(path) < 0.05 * size
                assert len(given) == 1 if work is looked else len(given) > n / part  # after every part of a walk
        assert stays == 0 or resident(path) > 0.5 * size
    assert told[0] == told[None]
    one = index.segments[0]
    assert pages_of(path / one.entry.file, one.sides.basis.clone()) is None  # given back it would be zero


def test_hubs_are_corrected_by_the_training_items_of_the_model(whole, monkeypatch):
    bundle, _, index = whole
    bank = items(40, seed=8, names=("text", "image"), missing=0)

    class Model:
        pass

    Model.bank = bank
    monkeypatch.setattr(FlatIndex, "model", Model())
    query = items(2, seed=3, names=("text",), missing=0)
    found = index.search(query, 8, hubs=True, score="span")
    table = 2 * SCORES["span"](query, bundle) - hub_scores(SCORES["span"], bank.select("text"), bundle)
    assert found.ids == [[f"i{i}" for i in row] for row in table.topk(8, dim=1).indices.tolist()]
    with pytest.raises(InputError, match="`hubs` does not correct the score volume"):
        index.search(query, hubs=True, score="volume")


def test_many_small_additions_become_few_segments(tmp_path):
    bundle = items(40)
    index = built(tmp_path / "i", bundle, step=1)
    assert len(index.segments) < 16
    assert list(index.ids()) == [f"i{i}" for i in range(40)]
    other = FlatIndex.open(index.path)
    index.compact()
    assert other.search(torch.randn(1, D), 3).ids[0]  # a reader keeps the state that it has opened
    other.refresh()
    assert len(other.segments) == 1
    index.delete([f"i{i}" for i in range(40)])
    index.compact()
    assert len(index) == 0 and not index.segments
    assert not list(index.path.glob("*.safetensors"))


def test_a_saved_copy_is_an_index_of_its_own(whole, tmp_path):
    _, _, index = whole
    index.save(tmp_path / "copy")
    copy = Index.open(tmp_path / "copy")
    query = torch.randn(2, D)
    assert copy.search(query, 5, filter="ok=true").ids == index.search(query, 5, filter="ok=true").ids
    assert gramian.Index is Index
    with pytest.raises(InputError, match="holds files"):
        index.save(tmp_path / "copy")


WRONG = [
    (lambda i: i.search(torch.randn(1, 5)), r"`queries` must have the width 12 of the index; got 5"),
    (lambda i: i.search(torch.randn(5)), r"`queries` must be a Bundle or have shape \(q, d\)"),
    (lambda i: i.search(torch.randn(1, D), 0), r"`k` must be an integer of at least 1; got 0"),
    (lambda i: i.search(torch.randn(1, D), score="spn"), r"`score` must be one of .*Did you mean 'span'"),
    (lambda i: i.search(torch.randn(1, D), score="triangle"), r"`score` must be one of"),
    (lambda i: i.search(torch.randn(1, D), filter={"yer": 1}), r"`filter` names the field 'yer'; the index has lang, ok"),
    (lambda i: i.search(torch.randn(1, D), filter={"year": "x"}), r"`filter\['year'\]` must be a whole number"),
    (lambda i: i.search(torch.randn(1, D), filter={"lang": {"gt": "a"}}), r"has no order here"),
    (lambda i: i.search(torch.randn(1, D), filter={"lang": {"near": "a"}}), r"must be one of in, not"),
    (lambda i: i.search(torch.randn(1, D), filter={"lang": []}), r"must list at least one value"),
    (lambda i: i.search(torch.randn(1, D), filter={"year": {"exists": 1}}), r"must be True or False"),
    (lambda i: i.search(torch.randn(1, D), filter="lang"), r"`filter` must read as in"),
    (lambda i: i.search(torch.randn(1, D), filter="year>1; ok"), r"`filter` must read as in .*; got ' ok'"),
    (lambda i: i.search(torch.randn(1, D), filter=" ; "), r"`filter` must read as in"),
    (lambda i: i.search(torch.randn(1, D), filter=["year>1", 3]), r"`filter` must be"),
    (lambda i: i.search(torch.randn(1, D), filter="ok=maybe"), r"must be true or false; got 'maybe'"),
    (lambda i: i.search(torch.randn(1, D), modalities=["smell"]), r"`modalities` must be one of text, image, audio"),
    (lambda i: i.search(torch.randn(1, D), modalities=[]), r"`modalities` must name at least one"),
    (lambda i: i.search(torch.randn(1, D), modalities="text"), r"`modalities` must be a list"),
    (lambda i: i.search(torch.randn(1, D), weights={"text": 2}), r"`weights` must be one of query"),
    (lambda i: i.search(torch.randn(1, D), weights={"query": math.nan}), r"must be a finite number"),
    (lambda i: i.search(torch.randn(2, D), without=torch.randn(3, D)), r"`without` must hold 2 items of width 12, or one"),
    (lambda i: i.search(text="a bird"), r"the index has no model to embed cells with"),
    (lambda i: i.search(torch.randn(1, D), text="a bird"), r"cannot be combined"),
    (lambda i: i.search(), r"`queries` must be given"),
    (lambda i: i.search(torch.randn(1, D), hubs=True), r"`hubs` needs a model"),
    (lambda i: i.search(torch.full((1, D), math.nan)), r"not finite"),
    (lambda i: i.search(items(2, missing=0.9).select("audio")), r"`queries` must have a vector each; 0, 1 of 2 have none"),
    (lambda i: i.add(items(2), ["a"]), r"`ids` must name the 2 items; got 1"),
    (lambda i: i.add(items(2), "ab"), r"`ids` must be a list of names"),
    (lambda i: i.add(items(2), ["a", "a"]), r"`ids` must be different; 'a' occurs twice"),
    (lambda i: i.add(items(2), [1, 2]), r"`ids` must be non-empty texts"),
    (lambda i: i.add(items(2, d=5), ["a", "b"]), r"`bundle` must have the width 12"),
    (lambda i: i.add(items(2, missing=0.9).select("audio"), ["a", "b"]), r"items without a vector"),
    (lambda i: i.add(items(2), ["a", "b"], {"year": ["x", 2]}), r"must hold values of one type"),
    (lambda i: i.add(items(2), ["a", "b"], {"year": ["x", "y"]}), r"must hold a whole number, as earlier items do"),
    (lambda i: i.add(items(2), ["a", "b"], {"year": [1]}), r"one value for each of the 2 items"),
    (lambda i: i.add(items(2), ["a", "b"], {"year": [[1], 2]}), r"must hold text, finite numbers or truth values"),
    (lambda i: i.add(items(2), ["a", "b"], {"a/b": [1, 2]}), r"`metadata` must name fields by"),
    (lambda i: i.add(items(2), ["a", "b"], [{"year": 1}]), r"`metadata` must describe the 2 items"),
    (lambda i: i.vectors(["none"]), r"`ids` must be in the index; it has no 'none'"),
]  # fmt: skip


@pytest.mark.parametrize(("act", "message"), WRONG, ids=[message[:50] for _, message in WRONG])
def test_bad_input_ends_in_one_line(whole, act, message):
    before = len(whole[2])
    with pytest.raises(InputError, match=message):
        act(whole[2])
    assert len(whole[2]) == before


def _segment(path):
    return next(one for one in path.glob("*.safetensors") if "deleted" not in one.name)


def _cut(path):
    one = _segment(path)
    one.write_bytes(one.read_bytes()[:-10])


def _flip(path):
    one = _segment(path)
    content = bytearray(one.read_bytes())
    content[-5] ^= 255
    one.write_bytes(content)


def _swap(path):
    one = _segment(path)
    other = FlatIndex.create(path.parent / "other", dim=D)
    other.add(items(20), [f"i{i}" for i in range(20)])
    one.write_bytes(_segment(other.path).read_bytes())


def _manifest(**changes):
    def change(path):
        state = json.loads((path / "index.json").read_text())
        (path / "index.json").write_text(json.dumps(state | changes))

    return change


DAMAGE = [
    (_cut, r"is damaged: it has [\d,]+ bytes of"),
    (_swap, r"is damaged: it (belongs to another index|has)"),
    (_flip, r"is damaged: its content has changed"),
    (lambda path: _segment(path).unlink(), r"is damaged: .* is missing"),
    (lambda path: next(path.glob("*.deleted.*")).write_bytes(b"x"), r"is damaged"),
    (lambda path: next(path.glob("*.deleted.*")).unlink(), r"is damaged: a file of deleted items is missing"),
    (lambda path: (path / "index.json").write_text("{"), r"is damaged"),
    (lambda path: (path / "index.json").write_text("[]"), r"is another kind of file"),
    (_manifest(version=99), r"was written by a newer gramian"),
    (_manifest(dim=10**9), r"is damaged"),
    (_manifest(dim=5), r"is damaged"),
    (_manifest(segments=[{"file": "../x"}]), r"is damaged"),
    (_manifest(segments=[{"file": "../x", "rows": 1, "size": 1, "hash": "", "token": ""}]), r"outside of itself"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE, ids=[str(i) for i in range(len(DAMAGE))])
def test_a_damaged_index_is_refused_in_one_line(tmp_path, damage, message):
    index = FlatIndex.create(tmp_path / "i", dim=D)
    index.add(items(20), [f"i{i}" for i in range(20)])
    index.delete(["i3"])
    damage(index.path)
    with pytest.raises(InputError, match=message) as told:
        Index.open(index.path).refresh(verify=True)
    assert "\n" not in str(told.value)


def test_what_is_no_index_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no index"):
        Index.open(tmp_path)
    index = FlatIndex.create(tmp_path / "i", dim=3)
    with pytest.raises(InputError, match="the index is empty"):
        index.search(torch.eye(3))
    with pytest.raises(InputError, match=r"got a dict\. Bundle\.from_dict makes one of vectors, `embed` of cells"):
        index.search({"text": [0.1, 0.2]})
    with pytest.raises(InputError, match="holds files"):
        FlatIndex.create(tmp_path / "i", dim=3)
    assert index.diagnose().warnings == ("The index is empty.",)


def test_one_process_writes_and_others_read(tmp_path):
    index = built(tmp_path / "i", items(20))
    pid = os.fork()
    if not pid:
        try:
            with claimed(index.path):
                (tmp_path / "claimed").touch()
                while not (tmp_path / "done").exists():
                    time.sleep(0.005)
        finally:
            os._exit(0)
    while not (tmp_path / "claimed").exists():
        time.sleep(0.005)
    try:
        with pytest.raises(InputError, match="is in use by process"):
            index.add(items(1), ["a"])
        assert Index.open(index.path).search(torch.randn(1, D), 3).ids[0]
    finally:
        (tmp_path / "done").touch()
        os.waitpid(pid, 0)
    other = FlatIndex.open(index.path)
    index.add(items(1), ["a"])
    assert other.delete(["a"]) == 1  # a writer begins with the latest state


def test_a_kill_or_a_full_disk_leaves_what_was_committed():
    """A few of `python tests/index_kills.py --count 200`."""
    failed, outcomes = index_kills.run(4, seed=1)
    assert failed == 0 and outcomes.total() == 4
