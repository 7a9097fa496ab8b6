from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from gramian import Bundle, InputError
from gramian.geometry import volume as geometric_volume
from gramian.scores import SCORES, centroid, cone, cosine, span, volume
from reference import cone as reference_cone
from reference import gram as reference_gram

NAN = float("nan")
ALL = {
    "cosine": cosine,
    "largest cosine": partial(cosine, reduce="max"),
    "centroid": centroid,
    "volume": volume,
    "span": span,
    "unsigned span": partial(span, signed=False),
    "cone": cone,
}
every_score = pytest.mark.parametrize("score", ALL.values(), ids=ALL)
SIGN_AWARE = [name for name in ALL if name not in ("volume", "unsigned span")]


def units(seed, *shape, lean=1.0):
    """Random unit vectors in float64 that lean to one side, as the vectors of an item do."""
    raw = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    raw[..., 0] += lean
    return normalize(raw, dim=-1)


def bundle(vectors, present=None):
    n, m, _ = vectors.shape
    present = torch.ones(n, m, dtype=torch.bool) if present is None else present
    return Bundle(vectors, present, tuple("abcdefgh"[:m]))


def mixed(seed, n=12, m=4, d=7, lean=1.0):
    """Items with every number of modalities, and NaN where one is missing."""
    present = torch.rand(n, m, generator=torch.Generator().manual_seed(seed)) < 0.6
    present[torch.arange(n), torch.arange(n) % m] = True
    return bundle(units(seed, n, m, d, lean=lean).masked_fill(~present[..., None], NAN), present)


def subsets(items):
    """The present vectors of each item, (k, d)."""
    return [vectors[there] for vectors, there in zip(items.vectors, items.present, strict=True)]


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, torch.as_tensor(b, dtype=a.dtype), rtol=0, atol=tolerance)


def law(test):
    """The test over random seeds, 1 to 4 modalities in as many dimensions or up to 6 more, leaning together or not."""
    numbers = {"seed": st.integers(0, 2**32 - 1), "m": st.integers(1, 4), "spare": st.integers(0, 6)}
    return settings(max_examples=25, deadline=None)(given(**numbers, lean=st.sampled_from([0.0, 1.0, 4.0]))(test))


def sample(seed, m, spare, lean):
    d = m + spare
    return units(seed + 1, 4, d, lean=lean), bundle(units(seed, 5, m, d, lean=lean))


# --- laws. √(1 − ‖Pa‖²) is good to √ε = 1.5e-8 only where the query lies in the span, as it does for spare = 0.


@every_score
def test_the_order_of_the_modalities_does_not_matter(score):
    @law
    def holds(seed, m, spare, lean):
        a, items = sample(seed, m, spare, lean)
        order = torch.randperm(m, generator=torch.Generator().manual_seed(seed)).tolist()
        close(score(a, items.select(*(items.modalities[i] for i in order))), score(a, items), 1e-7)

    holds()


@every_score
def test_a_rotation_of_the_space_changes_nothing(score):
    @law
    def holds(seed, m, spare, lean):
        a, items = sample(seed, m, spare, lean)
        R = torch.linalg.qr(torch.randn(m + spare, m + spare, generator=torch.Generator().manual_seed(seed)).double()).Q
        close(score(a @ R, bundle(items.vectors @ R)), score(a, items), 1e-7)

    holds()


@every_score
def test_an_absent_modality_changes_nothing(score):
    @law
    def holds(seed, m, spare, lean):
        a, items = sample(seed, m, spare, lean)
        where = seed % (m + 1)
        hole, absent = torch.full((5, 1, m + spare), NAN, dtype=a.dtype), torch.zeros(5, 1, dtype=torch.bool)
        vectors = torch.cat([items.vectors[:, :where], hole, items.vectors[:, where:]], 1)
        present = torch.cat([items.present[:, :where], absent, items.present[:, where:]], 1)
        close(score(a, bundle(vectors, present)), score(a, items), 1e-7)

    holds()


@law
def test_bounds_and_their_order(seed, m, spare, lean):
    a, items = sample(seed, m, spare, lean)
    values = {name: score(a, items) for name, score in ALL.items()}
    for name, value in values.items():
        low, high = {"volume": (-1, 0), "unsigned span": (0, 1)}.get(name, (-1, 1))
        assert (value >= low - 1e-12).all() and (value <= high + 1e-12).all(), name
    assert (values["cosine"] <= values["largest cosine"] + 1e-12).all()
    assert (values["largest cosine"] <= values["cone"] + 1e-12).all()
    assert (values["centroid"] <= values["cone"] + 1e-12).all()
    assert (values["cone"] <= values["unsigned span"] + 1e-12).all()
    close(values["span"].abs(), values["unsigned span"])


@law
def test_one_modality_reduces_every_score_to_the_cosine(seed, m, spare, lean):
    d = m + spare + 1
    a, z = units(seed, 4, d, lean=lean), units(seed + 1, 5, d, lean=lean)
    expected = a @ z.T
    for name in SIGN_AWARE:
        close(ALL[name](a, bundle(z[:, None])), expected)
        close(ALL[name](a, z), expected)
    close(ALL["unsigned span"](a, z), expected.abs())
    close(volume(a, z), -(1 - expected.square()).clamp(min=0).sqrt(), 3e-8)


@law
def test_signs_flip_the_sign_aware_scores_and_nothing_else(seed, m, spare, lean):
    a, items = sample(seed, m, spare, lean)
    negative = bundle(-items.vectors)
    for name, score in ALL.items():
        if name in ("volume", "unsigned span"):
            close(score(-a, items), score(a, items))
            signs = torch.randint(0, 2, (5, m, 1), generator=torch.Generator().manual_seed(seed)) * 2 - 1
            close(score(a, bundle(items.vectors * signs)), score(a, items), 1e-7)
        else:
            close(score(-a, negative), score(a, items))
        if name in ("cosine", "centroid", "span"):
            close(score(-a, items), -score(a, items))


@law
def test_the_length_of_a_query_or_of_a_plain_item_does_not_matter(seed, m, spare, lean):
    a, items = sample(seed, m, spare, lean)
    lengths = 10.0 ** torch.linspace(-12, 12, 4, dtype=torch.float64)[:, None]
    for score in ALL.values():
        close(score(a * lengths, items), score(a, items), 1e-7)
        close(score(a, items.vectors[:4, 0] * lengths), score(a, items.vectors[:4, 0]), 1e-7)


@law
def test_the_volume_is_the_own_volume_of_the_item_times_the_sine_to_its_span(seed, m, spare, lean):
    a, items = sample(seed, m, spare, lean)
    sine = (1 - span(a, items).square()).clamp(min=0).sqrt()
    close(volume(a, items), -geometric_volume(items.vectors) * sine, 3e-8)
    together = torch.cat([a[:, None, None].expand(4, 5, 1, m + spare), items.vectors.expand(4, 5, m, m + spare)], 2)
    close(volume(a, items), -geometric_volume(together), 3e-8)


# --- references


@pytest.mark.parametrize("lean", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("d", [6, 32])
def test_every_score_matches_its_definition_pair_by_pair(lean, d):
    a, items = units(1, 9, d, lean=lean), mixed(0, d=d, lean=lean)
    tuples = subsets(items)
    volumes = reference_gram.volumes(a, tuples)
    active = set()
    for i, query in enumerate(a):
        for j, Z in enumerate(tuples):
            cosines = [float(query @ z) for z in Z]
            total = Z.sum(0)
            length = reference_cone.span(query, Z)
            expected = {
                "cosine": sum(cosines) / len(cosines),
                "largest cosine": max(cosines),
                "centroid": float(query @ total / total.norm()),
                "volume": -volumes[i][j],
                "unsigned span": length,
                "span": length if query @ total >= 0 else -length,
                "cone": reference_cone.cone(query, Z),
            }
            active.add(expected["cone"] > expected["largest cosine"] + 1e-6)
            for name, value in expected.items():
                assert float(ALL[name](query[None], items[j])) == pytest.approx(value, abs=1e-11, rel=0), name
    assert active == {True, False}  # the cone was met in its interior and at a single vector
    close(volume(a, items), [[-value for value in row] for row in volumes], 1e-11)


@pytest.mark.parametrize("m", [1, 2, 3, 4, 5])
def test_the_cone_reaches_every_combination_of_its_vectors(m):
    Z = units(2, 6, m, 8, lean=1.0)
    weights = torch.rand(40, m, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    weights[::3] *= torch.rand(14, m, generator=torch.Generator().manual_seed(3)) < 0.5
    weights[(weights == 0).all(1)] = 1
    for j in range(6):
        inside = weights @ Z[j]
        close(cone(inside, bundle(Z[j : j + 1])), torch.ones(40, 1))
        close(span(inside, bundle(Z[j : j + 1]), signed=False), torch.ones(40, 1))


def test_the_cone_is_continuous_where_the_span_jumps():
    items = bundle(units(3, 1, 3, 6))
    angle = torch.linspace(0, torch.pi, 20001, dtype=torch.float64)[:, None]
    start, turn = units(4, 6), units(5, 6)
    path = angle.cos() * start + angle.sin() * normalize(turn - (turn @ start) * start, dim=-1)
    step = torch.pi / 20000
    for score, largest in ((cone, step), (span, 2.0)):
        jump = score(path, items).diff(dim=0).abs().max()
        assert jump <= largest * (1 + 1e-6)
    assert span(path, items).diff(dim=0).abs().max() > 0.1


@every_score
def test_masks_of_their_own_for_each_item_match_a_loop_over_what_is_there(score):
    a, items = units(6, 5, 7), mixed(6)
    got = score(a, items)
    for j, Z in enumerate(subsets(items)):
        close(got[:, j : j + 1], score(a, bundle(Z[None])))


@every_score
def test_an_item_with_nothing_present_comes_last_and_has_no_gradient(score):
    a, items = units(7, 3, 7).requires_grad_(), mixed(7, n=3)
    vectors, present = items.vectors.clone(), items.present.clone()
    vectors[1], present[1] = NAN, False
    vectors.requires_grad_()
    got = score(a, bundle(vectors, present))
    assert (got[:, 1] == -torch.inf).all() and got[:, [0, 2]].isfinite().all()
    got[:, [0, 2]].sum().backward()
    assert a.grad.isfinite().all() and a.grad.any()
    assert vectors.grad.isfinite().all() and not vectors.grad[~present].any()


@every_score
def test_no_queries_or_no_items_give_an_empty_matrix(score):
    a, items = units(8, 3, 7), mixed(8)
    assert score(a[:0], items).shape == (0, 12)
    assert score(a, items[:0]).shape == (3, 0)


# --- precision


@every_score
@pytest.mark.parametrize("lean", [0.0, 2.0, 6.0])
def test_float32_agrees_with_float64(score, lean):
    a, items = units(90, 20, 16, lean=lean).float(), mixed(9, n=40, d=16, lean=lean).to(dtype=torch.float32)
    got = score(a, items)
    assert got.dtype == torch.float32
    # A few ε = 1.2e-7. Once the vectors lean together the basis loses ε/distance and the sine ε/2sine; the cone leaves out
    # combinations of vectors within 1024 ε of dependence.
    tolerance = 1e-6 if lean == 0 else {cone: 2e-5, volume: 5e-6}.get(score, 5e-6)
    close(got.double(), score(a.double(), items.to(dtype=torch.float64)), tolerance)


@pytest.mark.parametrize("m", [2, 3, 4, 5])
@pytest.mark.parametrize("spread", [0.02, 0.1, 0.2, 0.4])
def test_the_cone_of_well_aligned_vectors_keeps_its_digits_in_float32(m, spread):
    aligned = normalize(units(10, 300, 1, 32) + spread * units(11, 300, m, 32, lean=0.0), dim=-1)
    a, items = normalize(aligned[:20].sum(1), dim=-1), bundle(aligned)
    error = cone(a.float(), items.to(dtype=torch.float32)) - cone(a, items)
    assert error.abs().max() < 2e-4  # candidates are compared to ε/distance², and left out below a distance² of 1024 ε


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e-2, 1e-4, 1e-7, 1e-12])
def test_the_cone_of_a_query_all_but_orthogonal_to_it_is_as_small(dtype, size):
    item = bundle(torch.eye(3, dtype=dtype)[None, :2])
    query = torch.tensor([[size, size, 1.0]], dtype=dtype)
    torch.testing.assert_close(cone(query, item), span(query, item), rtol=1e-5, atol=0)


@every_score
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_read_exactly_and_worked_on_in_float32(score, dtype):
    a, items = units(120, 10, 16).to(dtype), mixed(12, d=16).to(dtype=dtype)
    got = score(a, items)
    assert got.dtype == torch.float32 and got.isfinite().all()
    close(got, score(a.float(), items.to(dtype=torch.float32)), 0)
    close(got.double(), score(a.double(), items.to(dtype=torch.float64)), 2e-5)
    plain = score(a, items.vectors[:, 0].nan_to_num(1.0))
    assert plain.dtype == torch.float32 and plain.isfinite().all()
    # Rounding the unit vectors themselves costs half a unit of the last place, and up to √ of it near a dependent tuple.
    exact = score(units(120, 10, 16), mixed(12, d=16))
    close(got.double(), exact, 4 * torch.finfo(dtype).eps)


# --- gradients


@every_score
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_are_exact_at_generic_points(score, masked):
    raw = (2 * units(13, 3, 3, 5)).requires_grad_()
    a = (3 * units(14, 4, 5)).requires_grad_()
    mask = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0]], dtype=torch.bool) | (not masked)

    def scores(a, raw):
        names = "abc"
        columns = {name: raw[:, i] for i, name in enumerate(names)}
        return score(a, Bundle.from_dict(columns, present={name: mask[:, i] for i, name in enumerate(names)}))

    assert torch.autograd.gradcheck(scores, (a, raw))


def test_cone_gradients_are_exact_for_every_size_of_the_active_set():
    Z, many = units(15, 4, 6, lean=0.0), units(16, 200, 6, lean=0.0)
    active = [int((reference_cone.nnls(Z.numpy().T, q.numpy())[0] > 0.05).sum()) for q in many]
    a = many[[active.index(size) for size in range(5)]].requires_grad_()
    assert torch.autograd.gradcheck(lambda a, Z: cone(a, bundle(Z[None])), (a, Z.requires_grad_()))


def degenerate(kind):
    """(query, item vectors) at which a naive derivative breaks down, in float64."""
    e, g = torch.eye(4, dtype=torch.float64), units(17, 4, 4)
    near = kind.removesuffix(" apart")
    return {
        "identical": lambda: (g[0], g[[1, 1, 1]]),
        "identical, query too": lambda: (g[0], g[[0, 0, 0]]),
        "antipodal": lambda: (g[0], torch.stack([g[1], -g[1]])),
        "antipodal query": lambda: (-g[0], g[[0, 0, 0]]),
        "orthonormal": lambda: (e[3], e[:3]),
        "orthonormal, query inside": lambda: (e[0], e[:3]),
        "as many as dimensions": lambda: (g[0], e),
        "more than dimensions": lambda: (g[0, :3], units(18, 5, 3)),
        "query in the span": lambda: (normalize(g[1] + 2 * g[2], dim=-1), g[1:3]),
        "query is an item vector": lambda: (g[1], g[1:4]),
        "query is a lone vector": lambda: (g[1], g[1:2]),
        "query is minus an item vector": lambda: (-g[1], g[1:4]),
        "query orthogonal to all": lambda: (e[3], normalize(g[:3] * (1 - e[3]), dim=-1)),
        "zero query": lambda: (0 * g[0], g[1:3]),
        "zero row": lambda: (g[0], torch.stack([g[1], 0 * g[1], g[2]])),
        "all zero": lambda: (g[0], 0 * g[:2]),
    }.get(kind, lambda: (g[0], normalize(torch.stack([g[1], g[1] + float(near) * g[2], g[3]]), dim=-1)))()


KINDS = [
    *("identical", "identical, query too", "antipodal", "antipodal query", "orthonormal", "orthonormal, query inside"),
    *("as many as dimensions", "more than dimensions", "query in the span", "query is an item vector"),
    *(
        "query is a lone vector",
        "query is minus an item vector",
        "query orthogonal to all",
        "zero query",
        "zero row",
        "all zero",
    ),
    *("1e-2 apart", "1e-4 apart", "1e-6 apart", "1e-9 apart"),
]


@every_score
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_finite_everywhere(score, kind, dtype):
    query, vectors = (x.to(dtype).requires_grad_() for x in degenerate(kind))
    value = score(query[None], bundle(vectors[None]))
    assert value.isfinite().all() and value.abs().max() <= 1 + 1e-6
    value.sum().backward()
    assert query.grad.isfinite().all() and vectors.grad.isfinite().all()
    # The span turns at the rate 1/distance of two near vectors; nothing else is steeper than a root at its rounding.
    eps = torch.finfo(dtype).eps
    assert vectors.grad.abs().max() <= (1 / (32 * eps) if "span" in str(score) else eps**-0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_degenerate_items_have_their_exact_scores(dtype):
    root = torch.finfo(dtype).eps ** 0.5
    expected = {
        "identical, query too": {"volume": 0, "span": 1, "cone": 1, "centroid": 1, "cosine": 1},
        "antipodal": {"volume": 0, "centroid": 0, "cosine": 0},
        "antipodal query": {"volume": 0, "span": -1, "cone": -1, "centroid": -1, "cosine": -1},
        "orthonormal": {"volume": -1, "span": 0, "cone": 0, "centroid": 0, "cosine": 0},
        "orthonormal, query inside": {"volume": 0, "span": 1, "cone": 1, "centroid": 3**-0.5, "cosine": 1 / 3},
        "query in the span": {"volume": 0, "span": 1, "cone": 1},
        "query is an item vector": {"volume": 0, "span": 1, "cone": 1, "largest cosine": 1},
        "query is minus an item vector": {"volume": 0, "unsigned span": 1},
    }
    for kind, values in expected.items():
        query, vectors = (x.to(dtype) for x in degenerate(kind))
        for name, value in values.items():
            got = float(ALL[name](query[None], bundle(vectors[None])))
            assert got == pytest.approx(value, abs=2 * root if name == "volume" else 8 * root**2), (kind, name)


# --- names and errors


def test_names_and_sign_blindness_tell_the_truth():
    a, items = units(19, 3, 6), bundle(units(20, 4, 2, 6))
    blind = {name for name, score in SCORES.items() if torch.allclose(score(-a, items), score(a, items))}
    assert blind == {name for name, score in SCORES.items() if not score.sign_aware}


@every_score
@pytest.mark.parametrize(
    ("queries", "items", "message"),
    [
        (
            torch.ones(3),
            torch.ones(2, 3),
            r"`queries` must be a Bundle, or floating point of shape \(q, d\); got torch.float32 of shape \(3,\)",
        ),
        (torch.ones(1, 3).long(), torch.ones(2, 3), "`queries` must be a Bundle, or floating point .*; got torch.int64"),
        (
            torch.ones(1, 3),
            torch.ones(3),
            r"`items` must be a Bundle, or floating point of shape \(n, d\); got .* of shape \(3,\)",
        ),
        (torch.ones(1, 3), torch.ones(2, 4), "`queries` and `items` must share the width d; got 3 and 4"),
    ],
)
def test_bad_input_is_named(score, queries, items, message):
    with pytest.raises(InputError, match=message):
        score(queries, items)


def test_an_unknown_reduction_is_an_error_with_the_choices():
    with pytest.raises(InputError, match=r"`reduce` must be one of mean, max, softmax; got 'maxx'. Did you mean 'max'\?"):
        cosine(torch.ones(1, 3), torch.ones(1, 3), reduce="maxx")


@pytest.mark.parametrize("name", SCORES)
def test_autocast_does_not_reach_the_scores(name, generator):
    z = torch.randn(3, 6, 16, generator=generator)
    items = Bundle.from_dict({"a": z[1] + z[0], "b": z[2] + z[0]})
    expected = SCORES[name](z[0], items)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = SCORES[name](queries=z[0], items=items)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
