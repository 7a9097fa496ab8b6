"""A scan in 8 bits finds what scoring every item in float64 finds: its bounds hold, whatever the items are."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.bundle import Bundle
from gramian.errors import InputError
from gramian.index import FlatIndex, codes, search
from gramian.index.codes import coded, codes_of, products
from gramian.index.protocol import SEARCHED
from gramian.index.segments import Segment
from gramian.scores import SCORES

NAMES = ("text", "image", "audio")


def exactly(a, b):
    return a.int() @ b.int()


@pytest.fixture(scope="module", autouse=True)
def anywhere():
    """Where the processor adds 8-bit products up in 16 bits, they are made otherwise; and scans begin with few candidates."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codes, "_multiply", exactly)
        patch.setattr(search, "multiplies_exactly", lambda: True)
        patch.setattr(search, "MORE_CODED", 0)
        yield


def catalogue(draw, d, n):
    """Items of which some lack modalities, nearly coincide with others, or have nearly dependent vectors; a query like one."""
    seed = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    vectors = torch.randn(n, 3, d, generator=seed)
    vectors[:, 0, 0] *= draw(st.sampled_from([1.0, 30.0]))  # large steps
    close = draw(st.sampled_from([0.0, 1e-7, 1e-4, 1e-2]))
    some, same, line = n // 3, n // 6, n // 8
    vectors[:some] = vectors[:1] + close * torch.randn(some, 3, d, generator=seed)
    vectors[some : some + same] = vectors[some]
    vectors[-line:, 1] = draw(st.sampled_from([-1, 1])) * vectors[-line:, 0] + close * torch.randn(line, d, generator=seed)
    present = torch.rand(n, 3, generator=seed) > draw(st.sampled_from([0.0, 0.4]))
    present[:, 0] |= ~present.any(1)
    width = draw(st.integers(1, 3))
    queries = torch.randn(2, width, d, generator=seed)
    queries[0, 0] = vectors[draw(st.integers(0, n - 1)), 0]
    asked = Bundle.from_dict({f"q{i}": queries[:, i] for i in range(width)})
    columns = {name: vectors[:, i] for i, name in enumerate(NAMES)}
    return Bundle.from_dict(columns, present={name: present[:, i] for i, name in enumerate(NAMES)}), asked


@settings(max_examples=20)
@given(st.data())
def test_a_scan_in_8_bits_finds_what_scoring_everything_finds(tmp_path_factory, data):
    n, d = 60, data.draw(st.sampled_from([3, 16, 200]))
    bundle, queries = catalogue(data.draw, d, n)
    index = FlatIndex.create(tmp_path_factory.mktemp("codes") / "i", dim=d, int8=True)
    half = data.draw(st.sampled_from([30, 60]))
    for rows in (slice(0, half), slice(half, n)):
        if len(bundle[rows]):
            index.add(bundle[rows], [f"i{i}" for i in range(n)][rows], {"even": [i % 2 == 0 for i in range(n)][rows]})
    options = {
        "score": data.draw(st.sampled_from(SEARCHED)),
        "beta": data.draw(st.sampled_from([0.0, 0.5, 1.0])),
        "modalities": data.draw(st.sampled_from([None, ["text"], ["audio", "image"]])),
        "filter": data.draw(st.sampled_from([None, "even=true"])),
    }
    k = data.draw(st.integers(1, 12))
    found = index.search(queries, k, **options)
    everything = FlatIndex.open(index.path)
    everything.segments = tuple(_without_codes(segment) for segment in everything.segments)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "MORE", n)
        exact = everything.search(queries, k, **options)
    assert found.ids == exact.ids
    assert found.scores == exact.scores
    if options["score"] in ("centroid", "span", "volume", "max_cosine") and options["beta"] == 1:
        kept = bundle if options["modalities"] is None else bundle.select(*options["modalities"])
        table = SCORES[options["score"]](queries.to(dtype=torch.float64), kept.to(dtype=torch.float64))
        if options["filter"]:
            table[:, 1::2] = -torch.inf
        for row, scores in zip(table, found.scores, strict=True):
            best = row.sort(descending=True).values[: len(scores)]
            gauge = np.square if options["score"] == "volume" else np.asarray  # its root magnifies what float32 has rounded
            np.testing.assert_allclose(gauge(np.array(scores)), gauge(best.numpy()), atol=2e-5)


def test_a_sign_that_8_bits_cannot_tell_costs_no_answer(tmp_path):
    """Items with one vector along the query and one against it: their span holds it, and which is longer decides the sign."""
    draw = torch.Generator().manual_seed(0)
    query = torch.randn(1, 64, generator=draw)
    along, against = (query + 0.3 * torch.randn(200, 64, generator=draw) for _ in range(2))
    bundle = Bundle.from_dict({"text": along, "image": -against})
    index = FlatIndex.create(tmp_path / "i", dim=64, int8=True)
    index.add(bundle, [f"i{i}" for i in range(200)])
    best = SCORES["span"](query.double(), bundle.to(dtype=torch.float64))[0].topk(20).indices
    assert index.search(query, 20, score="span").ids == [[f"i{i}" for i in best.tolist()]]


def _without_codes(segment: Segment) -> Segment:
    segment.codes = None
    return segment


@settings(max_examples=15)
@given(st.integers(0, 2**16), st.sampled_from([1, 5, 300]), st.sampled_from([1e-20, 1.0]), st.integers(1, 3))
def test_products_of_codes_are_off_by_no_more_than_they_say(seed, d, small, r):
    draw = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(20, d, min(r, d), generator=draw)).Q.mT.transpose(0, 1).contiguous()
    basis[:, 0] = 0
    queries = torch.nn.functional.normalize(torch.randn(3, 2, d, generator=draw).double(), dim=-1)
    queries[0, 1] *= small
    held, asked = codes_of(basis), coded(queries)
    tables = products(asked, held.numbers.transpose(0, 1), held.steps.T)
    made = torch.stack(tables).view(2, len(basis), 3, 20)
    true = torch.einsum("qkd,rnd->krqn", queries, basis.double())
    off = torch.linalg.vector_norm(true - made, dim=1).amax(0)
    bound = held.errors + asked.errors[:, None] * (1 + held.errors)
    assert bool((off <= bound + 1e-6).all())
    assert d == 1 or bool((held.errors < 0.1).all())
    assert bool((asked.errors < 1e-3).all())


def test_an_index_gains_and_loses_its_codes_and_keeps_its_answers(tmp_path):
    bundle = Bundle.from_dict({"text": torch.randn(40, 8), "image": torch.randn(40, 8)})
    index = FlatIndex.create(tmp_path / "i", dim=8)
    for start in (0, 20):
        index.add(bundle[start : start + 20], [f"i{i}" for i in range(start, start + 20)])
    query = torch.randn(1, 8)
    before = index.search(query, 5)
    for int8 in (True, False, True):
        index.compact(int8=int8)
        assert index.int8 is int8 and all((segment.codes is not None) is int8 for segment in index.segments)
        assert index.search(query, 5) == before
    index.add(bundle[:3], ["a", "b", "c"])
    index.save(tmp_path / "copy")
    assert FlatIndex.open(tmp_path / "copy").int8
    assert all(segment.codes is not None for segment in FlatIndex.open(tmp_path / "copy").segments)
    with pytest.raises(InputError, match="`int8` takes at most 131,072 dimensions; got 131,073"):
        FlatIndex.create(tmp_path / "wide", dim=2**17 + 1, int8=True)


def test_processors_that_add_up_in_16_bits_are_noticed(monkeypatch):
    assert codes.multiplies_exactly() in (True, False)
    monkeypatch.setattr(codes, "_multiply", lambda a, b: exactly(a, b).clamp(-(2**15), 2**15 - 1))
    assert not codes.multiplies_exactly.__wrapped__()
    monkeypatch.setattr(codes, "_multiply", exactly)
    assert codes.multiplies_exactly.__wrapped__()
