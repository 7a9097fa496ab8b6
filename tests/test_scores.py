from dataclasses import replace
from functools import partial
from typing import get_args

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from gramian import Bundle, InputError
from gramian.geometry import direction, leading_direction
from gramian.geometry import volume as geometric_volume
from gramian.scores import (
    SCORES,
    ScoreName,
    cone,
    cosine,
    maxsim,
    negative_hyperbolic_volume,
    negative_triangle_area,
    negative_volume,
    score_table,
    span,
    weighted_centroid,
)
from gramian.tokens import Tokens
from reference import angles, hyperbolic, subspaces
from reference import cone as reference_cone
from reference import gram as reference_gram
from reference import spectral as reference_spectral
from reference import triangle as reference_triangle

NAN = float("nan")
HYPERBOLIC = SCORES["hyperbolic_volume"]
ALL = {
    **SCORES,
    "span, unsigned": replace(SCORES["span"], function=partial(span, signed=False), low=0, sign_aware=False, pair="|c|"),
    "weighted_centroid, hot": replace(SCORES["weighted_centroid"], function=partial(weighted_centroid, temperature=1.0)),
    "softmax_cosine, cold": replace(
        SCORES["softmax_cosine"], function=partial(cosine, reduce="softmax", temperature=0.02), best="one vector coincides"
    ),
    "triangle, squared": replace(
        SCORES["triangle"], function=partial(negative_triangle_area, squared=True), low=-27 / 8, pair="−½(1 − c)(3 + c)"
    ),
    "hyperbolic_volume, lifted": replace(HYPERBOLIC, function=partial(negative_hyperbolic_volume, alpha=0.0)),
    "hyperbolic_volume, flat": replace(
        HYPERBOLIC, function=partial(negative_hyperbolic_volume, alpha=1.0), low=-1, sign_aware=False, pair="−√(1 − c²)"
    ),
    "hyperbolic_volume, curved": replace(HYPERBOLIC, function=partial(negative_hyperbolic_volume, alpha=0.3, curvature=0.5)),
}
LIFTS = {
    "hyperbolic_volume": (0.5, 1.0),
    "hyperbolic_volume, lifted": (0.0, 1.0),
    "hyperbolic_volume, flat": (1.0, 1.0),
    "hyperbolic_volume, curved": (0.3, 0.5),
}
REFERENCES = {
    "span": subspaces.signed_span,
    "cone": subspaces.cones,
    "centroid": angles.centroid,
    "weighted_centroid": angles.weighted_centroid,
    "cosine": angles.mean,
    "max_cosine": angles.largest,
    "softmax_cosine": angles.weighted,
    "leading": reference_spectral.leading,
    "spectral": reference_spectral.spectral,
    "spectral_gain": reference_spectral.gain,
    "volume": lambda query, item: -reference_gram.volume(torch.cat([query, item])),
    "triangle": lambda query, item: -reference_triangle.area(torch.cat([query, item])),
    "multilinear": angles.multilinear,
    "maxsim": angles.maxsim,
    "span, unsigned": subspaces.span,
    "weighted_centroid, hot": partial(angles.weighted_centroid, temperature=1.0),
    "softmax_cosine, cold": partial(angles.weighted, temperature=0.02),
    "triangle, squared": lambda query, item: -2 * reference_triangle.area(torch.cat([query, item])) ** 2,
    **{name: partial(hyperbolic.score, alpha=alpha, curvature=curvature) for name, (alpha, curvature) in LIFTS.items()},
}
every_score = pytest.mark.parametrize("name", ALL)
# √x is good to √ε = 1.5e-8 only near 0, as the volumes are for spare = 0, and the lift to hyperbolic space multiplies it; a
# leading direction is good to ε over its gap, the weights of a cone to ε over the distances of its vectors.
ROOTS = {name for name in ALL if name.split(",")[0] in ("span", "volume", "triangle", "hyperbolic_volume")}
TOLERANCES = {**dict.fromkeys(ALL, 1e-12), **dict.fromkeys(ROOTS, 1e-7), **dict.fromkeys(LIFTS, 5e-7)}
TOLERANCES |= {"leading": 1e-7, "cone": 1e-9}


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


def fit(name, k, m):
    """k and m, cut to the three vectors that a triangle has."""
    return (min(k, 2), min(m, 3 - max(1, min(k, 2)))) if name.startswith("triangle") else (k, m)


def samples(name, seed, n=12, d=7, lean=1.0):
    """Queries and items of mixed modalities: plain queries, then queries of several vectors."""
    plain, several = [(units(seed + 50, 5, d, lean=lean), mixed(seed, n, fit(name, 0, 4)[1], d, lean))], []
    for k, m in ((2, 1), (1, 2)) if name.startswith("triangle") else ((3, 4),):
        several.append((mixed(seed + 60, 5, k, d, lean), mixed(seed, n, m, d, lean)))
    return plain + several


def subsets(items):
    """The present vectors of each item, (k, d)."""
    if isinstance(items, torch.Tensor):
        return list(items.unsqueeze(1))
    return [vectors[there] for vectors, there in zip(items.vectors, items.present, strict=True)]


def change(items, function):
    """The plain vectors, or those of the Bundle, with `function` applied."""
    if isinstance(items, torch.Tensor):
        return function(items)
    return Bundle(function(items.vectors), items.present, items.modalities)


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, torch.as_tensor(b, dtype=a.dtype), rtol=0, atol=tolerance)


def law(test):
    """The test over random seeds: queries that are plain (k = 0) or have up to 3 modalities, items of 1 to 4.

    In as many dimensions as the wider side has vectors, or up to 6 more; leaning together or not.
    """
    numbers = {name: st.integers(low, high) for name, low, high in (("k", 0, 3), ("m", 1, 4), ("spare", 0, 6))}
    return given(seed=st.integers(0, 2**32 - 1), **numbers, lean=st.sampled_from([0.0, 1.0, 4.0]))(test)


def sample(name, seed, k, m, spare, lean):
    k, m = fit(name, k, m)
    d = max(k, m) + spare
    queries = bundle(units(seed + 1, 4, k, d, lean=lean)) if k else units(seed + 1, 4, d, lean=lean)
    return queries, bundle(units(seed, 5, m, d, lean=lean))


# --- laws


@every_score
def test_the_order_of_the_modalities_does_not_matter(name):
    score = ALL[name]

    def shuffled(side, generator):
        if isinstance(side, torch.Tensor):
            return side
        return side.select(*(side.modalities[i] for i in torch.randperm(len(side.modalities), generator=generator)))

    @law
    def holds(seed, k, m, spare, lean):
        a, items = sample(name, seed, k, m, spare, lean)
        generator = torch.Generator().manual_seed(seed)
        found, expected = score(shuffled(a, generator), shuffled(items, generator)), score(a, items)
        if name == "leading" and 2 in (k, m):  # of two vectors at an obtuse angle the first gives the direction its sign
            found, expected = found.abs(), expected.abs()
        close(found, expected, TOLERANCES[name])

    holds()


@every_score
def test_a_rotation_of_the_space_changes_nothing_but_the_multilinear_product(name):
    score = ALL[name]

    @law
    def holds(seed, k, m, spare, lean):
        a, items = sample(name, seed, k, m, spare, lean)
        d = items.dim
        R = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).Q
        difference = (score(change(a, lambda z: z @ R), change(items, lambda z: z @ R)) - score(a, items)).abs().max()
        if name != "multilinear" or max(k, 1) + m == 2:
            assert difference <= TOLERANCES[name]
        elif d > 1:
            assert difference > 1e-6

    holds()


@every_score
def test_an_absent_modality_changes_nothing_on_either_side(name):
    score = ALL[name]

    def widened(items, where):
        vectors = items.unsqueeze(1) if isinstance(items, torch.Tensor) else items.vectors
        there = torch.ones(vectors.shape[:2], dtype=torch.bool)
        where %= vectors.shape[1] + 1
        vectors = torch.cat([vectors[:, :where], torch.full_like(vectors[:, :1], NAN), vectors[:, where:]], 1)
        return bundle(vectors, torch.cat([there[:, :where], ~there[:, :1], there[:, where:]], 1))

    @law
    def holds(seed, k, m, spare, lean):
        a, items = sample(name, seed, k, m, spare, lean)
        expected = score(a, items)
        close(score(a, widened(items, seed)), expected, TOLERANCES[name])
        close(score(widened(a, seed // 5), items), expected, TOLERANCES[name])
        close(score(widened(a, seed // 5), widened(items, seed)), expected, TOLERANCES[name])

    holds()


@every_score
def test_scores_keep_to_their_range(name):
    score = ALL[name]

    @law
    def holds(seed, k, m, spare, lean):
        value = score(*sample(name, seed, k, m, spare, lean))
        assert (value >= score.low - 1e-12).all() and (value <= score.high + 1e-12).all()

    holds()


@law
def test_bounds_have_their_order(seed, k, m, spare, lean):
    a, items = sample("", seed, k, m, spare, lean)
    values = {name: ALL[name](a, items) for name in ALL if not name.startswith("triangle")}
    for lower, higher in [
        ("cosine", "softmax_cosine"),
        ("softmax_cosine", "softmax_cosine, cold"),
        ("softmax_cosine, cold", "max_cosine"),
        ("cosine", "maxsim"),
        ("maxsim", "max_cosine"),
        ("max_cosine", "cone"),
        ("centroid", "cone"),
        ("weighted_centroid", "cone"),
        ("weighted_centroid, hot", "cone"),
        ("cone", "span, unsigned"),
    ]:
        # The span of a query of several vectors is a root: good to √ε near 0.
        slack = 1e-7 if "span" in higher else 1e-12
        assert (values[lower] <= values[higher] + slack).all(), (lower, higher)
    close(values["span"].abs(), values["span, unsigned"])


PAIRS = {
    "c": lambda c: c,
    "|c|": torch.abs,
    "√((1 + |c|)/2)": lambda c: ((1 + c.abs()) / 2).sqrt(),
    "−√(1 − c²)": lambda c: -(1 - c**2).clamp(min=0).sqrt(),
    "−½√((1 − c)(3 + c))": lambda c: -((1 - c) * (3 + c)).clamp(min=0).sqrt() / 2,
    "−½(1 − c)(3 + c)": lambda c: -(1 - c) * (3 + c) / 2,
}


@every_score
def test_one_vector_against_one_gives_what_the_table_says(name):
    score = ALL[name]

    def expected(c):
        if score.pair in PAIRS:
            return PAIRS[score.pair](c)
        alpha, curvature = LIFTS[name]
        r = torch.tensor(curvature**0.5, dtype=torch.float64)
        lorentz = (r.cosh() ** 2 - c * r.sinh() ** 2).clamp(min=1)
        return -alpha * (1 - c**2).clamp(min=0).sqrt() - (1 - alpha) * (lorentz**2 - 1).sqrt() / curvature

    @law
    def holds(seed, k, m, spare, lean):  # noqa: ARG001
        a, z = units(seed, 4, spare + 1, lean=lean), units(seed + 1, 5, spare + 1, lean=lean)
        # 1 − c² loses half of the digits at c = ±1, in the score as in the formula.
        tolerance = 1e-7 if name in ROOTS - {"span", "span, unsigned"} else 1e-12
        for queries in (a, bundle(a[:, None])):
            for items in (z, bundle(z[:, None])):
                close(score(queries, items), expected(a @ z.T), tolerance)

    holds()


@pytest.mark.parametrize("name", [name for name, score in ALL.items() if score.pair.startswith("falls as c does")])
def test_a_score_said_to_fall_as_the_cosine_does_falls(name):
    angle = torch.linspace(0, 2.49, 200, dtype=torch.float64)  # cos 2.49 = −0.795
    values = ALL[name](torch.tensor([[1.0, 0.0]]).double(), torch.stack([angle.cos(), angle.sin()], -1))
    assert (values.diff() < 0).all()


@every_score
def test_one_modality_of_several_gives_what_the_plain_vector_does(name):
    a, z = units(21, 4, 6), units(22, 5, 6)
    expected = ALL[name](a, z)
    holes = torch.tensor([True, False, False])
    alone = [bundle(torch.stack([side, side * NAN, side * NAN], 1), holes.expand(len(side), 3)) for side in (a, z)]
    for queries in (a, bundle(a[:, None]), alone[0]):
        for items in (z, bundle(z[:, None]), alone[1]):
            close(ALL[name](queries, items), expected, TOLERANCES[name])


@every_score
def test_signs_matter_to_the_sign_aware_scores_and_to_nothing_else(name):
    score = ALL[name]

    @law
    def holds(seed, k, m, spare, lean):
        a, items = sample(name, seed, k, m, spare, lean)
        value, tolerance = score(a, items), TOLERANCES[name]
        odd = -1 if name == "multilinear" and (max(k, 1) + m) % 2 else 1
        close(score(change(a, torch.neg), change(items, torch.neg)), odd * value, tolerance)
        if name in ("cosine", "centroid", "span", "leading") or (name == "multilinear" and max(k, 1) % 2):
            close(score(change(a, torch.neg), items), -value, tolerance)
        if not score.sign_aware:
            generator = torch.Generator().manual_seed(seed)
            flipped = change(items, lambda z: z * (torch.randint(0, 2, (*z.shape[:-1], 1), generator=generator) * 2 - 1))
            close(score(change(a, torch.neg), flipped), value, tolerance)

    holds()
    for a, items in samples(name, 23, lean=2.0):
        one = change(items, lambda z: torch.cat([-z[:, :1], z[:, 1:]], 1))
        for changed in (score(change(a, torch.neg), items), score(a, one)):
            assert torch.allclose(changed, score(a, items), atol=1e-7) != score.sign_aware


@every_score
def test_the_two_sides_may_change_places_where_the_table_says_so(name):
    score = ALL[name]

    @law
    def holds(seed, k, m, spare, lean):
        a, items = sample(name, seed, k, m, spare, lean)
        if score.symmetric:
            close(score(items, a), score(a, items).T, TOLERANCES[name])

    holds()
    a, items = sample("", 24, 3, 2, 3, 1.0) if not name.startswith("triangle") else sample(name, 24, 2, 1, 3, 1.0)
    assert torch.allclose(score(items, a), score(a, items).T, atol=1e-7) == score.symmetric


@every_score
def test_a_query_orthogonal_to_all_tells_apart_only_items_with_a_factor_of_their_own(name):
    items = normalize(units(25, 6, 2, 4) * torch.tensor([1.0, 1.0, 1.0, 0.0]), dim=-1)
    scores = ALL[name](torch.eye(4, dtype=torch.float64)[3:], bundle(items))
    assert (scores.std() > 1e-3) == ALL[name].own_factor
    if not ALL[name].own_factor:
        close(scores, torch.zeros(1, 6), 1e-7)


@every_score
def test_the_length_of_a_query_or_of_a_plain_item_does_not_matter(name):
    score = ALL[name]

    @law
    def holds(seed, k, m, spare, lean):  # noqa: ARG001
        a, items = sample(name, seed, 0, m, spare, lean)
        lengths = 10.0 ** torch.linspace(-12, 12, 4, dtype=torch.float64)[:, None]
        close(score(a * lengths, items), score(a, items), TOLERANCES[name])
        close(score(a, items.vectors[:4, 0] * lengths), score(a, items.vectors[:4, 0]), TOLERANCES[name])

    holds()


TOWARDS = {
    "centroid": ("centroid", "cosine", "cone", "span", "span, unsigned", "volume"),
    "leading direction": ("leading", "spectral", "spectral_gain", "span", "volume"),
}


@pytest.mark.parametrize(("target", "name"), [(target, name) for target, names in TOWARDS.items() for name in names])
def test_a_query_on_its_way_to_where_the_item_points_rises(target, name):
    score = ALL[name]

    @law
    def holds(seed, k, m, spare, lean):  # noqa: ARG001
        a, items = sample(name, seed, 0, m, spare, lean)
        ends = direction(items.vectors.sum(1)) if target == "centroid" else leading_direction(items.vectors)
        # From further than a right angle the way may lead past the cone, or up the other side of a line.
        assume(((items.vectors @ ends[..., None]) > 0).all())
        for end, item in zip(ends, items.vectors, strict=True):
            share = torch.linspace(0, 1, 9, dtype=torch.float64)[:, None]
            for start in a[(a @ end >= 0) & ((item @ a.T) >= 0).any(0)]:
                rise = score((1 - share) * start + share * end, bundle(item[None])).diff(dim=0)
                assert (rise >= -TOLERANCES[name]).all()

    holds()


@pytest.mark.parametrize("name", ["cone", "max_cosine", "maxsim", "span, unsigned", "volume", "hyperbolic_volume, flat"])
def test_a_further_vector_of_the_item_never_lowers_the_score(name):
    @law
    def holds(seed, k, m, spare, lean):
        a, items = sample(name, seed, k, m + 1, spare, lean)
        fewer = items.select(*items.modalities[:-1])
        assert (ALL[name](a, items) >= ALL[name](a, fewer) - TOLERANCES[name]).all()

    holds()


@law
def test_the_volume_is_the_volumes_of_the_two_sides_times_the_sines_between_them(seed, k, m, spare, lean):
    a, items = sample("volume", seed, k, m, spare, lean)
    Q = a.vectors if k else a[:, None]
    sine = (1 - span(a, items).square()).clamp(min=0).sqrt()
    close(negative_volume(a, items), -geometric_volume(Q)[:, None] * geometric_volume(items.vectors) * sine, 3e-8)
    together = [Q[:, None].expand(4, 5, -1, -1), items.vectors.expand(4, 5, -1, -1)]
    close(negative_volume(a, items), -geometric_volume(torch.cat(together, 2)), 3e-8)


# --- extremes


def best(name):
    """(query, item) of which the table says that the score is at its highest."""
    e, g = torch.eye(4, dtype=torch.float64), units(26, 4, 4, lean=4.0)
    mean = normalize(g[1] + g[2], dim=-1)
    return {
        "span": ((g[1] + 0.5 * g[2])[None], g[1:3]),
        "cone": ((g[1] + 2 * g[2])[None], g[1:4]),
        "centroid": (g[:3], g[:3].flip(0)),
        "weighted_centroid": (mean[None], g[1:3]),
        "cosine": (g[[0, 0]], g[[0, 0, 0]]),
        "max_cosine": (g[[2]], g[1:4]),
        "softmax_cosine": (g[[0, 0]], g[[0, 0, 0]]),
        "leading": (mean[None], g[1:3]),
        "spectral": (g[[0]], torch.stack([g[0], -g[0]])),
        "spectral_gain": (-mean[None], g[1:3]),
        "volume": ((g[1] - 0.5 * g[2])[None], g[1:3]),
        "triangle": (g[[1]], g[1:3]),
        "multilinear": (e[:1], e[[0, 0]]),
        "hyperbolic_volume": (g[[1]], g[1:4]),
        "maxsim": (g[1:3], g[1:4]),
    }[name.split(",")[0]]


def as_query(vectors):
    """A plain vector where there is one, a Bundle where there are more."""
    return vectors if len(vectors) == 1 else bundle(vectors[None])


@every_score
def test_the_highest_score_is_reached_where_the_table_says(name):
    query, item = best(name)
    close(ALL[name](as_query(query), bundle(item[None])), [[ALL[name].high]], 3e-8)


def test_the_lowest_scores_are_reached():
    e, corners = torch.eye(3, dtype=torch.float64), torch.arange(3, dtype=torch.float64) * 2 * torch.pi / 3
    around = torch.stack([corners.cos(), corners.sin()], -1)
    for name, score in ALL.items():
        if name.startswith("triangle"):
            query, item = around[:1], around[1:]
        elif score.pair == "c":
            query, item = e[:1], -e[[0]]
        elif name in ("volume", "hyperbolic_volume, flat", "span, unsigned", "spectral_gain"):
            query, item = e[:1], e[1:]
        else:
            continue  # 1/√k and the volume of a lifted tuple have no last value
        close(score(query, bundle(item[None])), [[score.low]])


# --- references


@every_score
@pytest.mark.parametrize(("lean", "d"), [(0.0, 6), (1.0, 24), (3.0, 6)])
def test_every_score_matches_its_definition_pair_by_pair(name, lean, d):
    for a, items in samples(name, 0, n=9, d=d, lean=lean):
        expected = [[REFERENCES[name](query, item) for item in subsets(items)] for query in subsets(a)]
        close(ALL[name](a, items), expected, 1e-9 if name in ROOTS or name == "cone" else 1e-12)


@pytest.mark.parametrize("lean", [0.0, 1.0, 3.0])
def test_plain_queries_match_least_squares_with_and_without_signs(lean):
    a, items = units(1, 9, 6, lean=lean), mixed(0, d=6, lean=lean)
    tuples = subsets(items)
    expected = [[reference_cone.cone(query, Z) for Z in tuples] for query in a]
    close(cone(a, items), expected, 1e-11)
    close(span(a, items, signed=False), [[reference_cone.span(query, Z) for Z in tuples] for query in a], 1e-11)
    inside = torch.tensor(expected).double() > cosine(a, items, reduce="max") + 1e-6
    assert inside.any() and not inside.all()  # the cone was met in its interior and at a single vector


@pytest.mark.parametrize("lean", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("d", [2, 3, 5])
def test_the_angle_of_two_cones_is_the_smallest_on_a_grid(lean, d):
    a, z = units(27, 5, 2, d, lean=lean), units(28, 5, 2, d, lean=lean)
    found = cone(bundle(a), bundle(z))
    grid = torch.tensor([[subspaces.on_a_grid(query, item) for item in z] for query in a], dtype=torch.float64)
    assert (found >= grid - 1e-12).all() and (found <= grid + 1e-4).all()


@pytest.mark.parametrize(("k", "m"), [(2, 2), (3, 2), (2, 4), (3, 3), (4, 4)])
def test_the_angle_of_two_cones_is_no_larger_than_that_between_any_two_of_their_points(k, m):
    a, z = units(29, 6, k, 5, lean=0.0), units(30, 6, m, 5, lean=0.0)
    generator = torch.Generator().manual_seed(0)
    points = [
        normalize(torch.rand(200, side.shape[1], generator=generator, dtype=torch.float64) ** 3 @ side, dim=-1)
        for side in (a, z)
    ]
    sampled = (points[0][:, None] @ points[1].mT).amax((2, 3))
    assert (cone(bundle(a), bundle(z)) >= sampled - 1e-12).all()


@pytest.mark.parametrize("m", [1, 2, 3, 4, 5])
def test_the_cone_reaches_every_combination_of_its_vectors(m):
    Z = units(2, 6, m, 8, lean=1.0)
    weights = torch.rand(40, m, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    weights[::3] *= torch.rand(14, m, generator=torch.Generator().manual_seed(3)) < 0.5
    weights[(weights == 0).all(1)] = 1
    for j in range(6):
        inside, item = weights @ Z[j], bundle(Z[j : j + 1])
        close(cone(inside, item), torch.ones(40, 1))
        close(span(inside, item, signed=False), torch.ones(40, 1))
        outside = bundle(torch.stack([normalize(inside, dim=-1), -units(31, 40, 8)], 1))
        close(cone(outside, item), torch.ones(40, 1))


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


@pytest.mark.parametrize("known", [(True, True), (True, False), (False, True), (False, False)])
def test_late_interaction_matches_loops_over_the_tokens_that_are_there(known):
    def side(seed, n):
        """Two modalities of n items, the first as tokens, and the vectors that count in each item."""
        present = torch.rand(n, 4, generator=torch.Generator().manual_seed(seed)) < 0.5
        present[1:, 0] = True
        tokens = Tokens((3 * units(seed, n, 4, 6)).masked_fill(~present[..., None], NAN), present)
        given = Bundle.from_dict({"a": tokens, "b": units(seed + 1, n, 6)}, present={"b": [True, False] + [True] * (n - 2)})
        counted = [
            torch.cat([normalize(row[there], dim=-1), b[has][None][: int(has)].reshape(-1, 6)])
            for row, there, b, has in zip(tokens.values, present, given.column("b"), given.has("b"), strict=True)
        ]
        return tokens, given, counted

    (words, queries, asked), (patches, items, offered) = side(32, 4), side(33, 5)
    expected = [[angles.maxsim(a, z) for z in offered] for a in asked]
    close(maxsim(queries, items), expected)
    words_alone, patches_alone = (
        [vectors[there] for vectors, there in zip(side.tokens["a"].values, side.tokens["a"].present, strict=True)]
        for side in (queries, items)
    )
    expected = [[angles.maxsim(a, z) if len(a) and len(z) else -torch.inf for z in patches_alone] for a in words_alone]
    close(maxsim(words if known[0] else queries.select("a"), patches if known[1] else items.select("a")), expected)


def test_a_bundle_without_tokens_is_late_interaction_of_its_modalities():
    a, items = mixed(34, 4, 3), mixed(35, 5)
    expected = [[angles.maxsim(query, item) for item in subsets(items)] for query in subsets(a)]
    close(maxsim(a, items), expected)


# --- forms


@every_score
def test_tiles_of_few_entries_score_as_all_at_once(name, monkeypatch):
    for a, items in samples(name, 36):
        expected = ALL[name](a, items)
        monkeypatch.setattr("gramian.kernels.tiles.ENTRIES", 7)
        close(ALL[name](a, items), expected, TOLERANCES[name])
        monkeypatch.undo()


@pytest.mark.parametrize("name", SCORES)
def test_the_form_states_the_range_and_the_pair_counts_that_the_table_says(name):
    for a, items in samples(name, 36):
        form = SCORES[name].of(a, items)
        assert (form.low, form.high) == (SCORES[name].low, SCORES[name].high)
        assert form.shape == (len(a), len(items))


@every_score
def test_masks_of_their_own_match_a_loop_over_what_is_there(name):
    for a, items in samples(name, 6):
        got = ALL[name](a, items)
        for i, query in enumerate(subsets(a)):
            for j, item in enumerate(subsets(items)):
                alone = ALL[name](as_query(query), bundle(item[None]))
                close(got[i, j], alone[0, 0], TOLERANCES[name])


@every_score
def test_what_has_nothing_present_comes_last_and_has_no_gradient(name):
    k, m = fit(name, 2, 3)
    for width in (0, k):
        Q, M = units(7, 4, max(width, 1), 5), units(8, 4, m, 5)
        asks, there = torch.ones(4, max(width, 1), dtype=torch.bool), torch.ones(4, m, dtype=torch.bool)
        there[1] = asks[0 if width else 4 :][:1] = False
        Q = Q.masked_fill(~asks[..., None], NAN).requires_grad_()
        M = M.masked_fill(~there[..., None], NAN).requires_grad_()
        got = ALL[name](bundle(Q, asks) if width else Q[:, 0], bundle(M, there))
        lost = ~(asks.any(1)[:, None] & there.any(1))
        assert (got[lost] == -torch.inf).all() and got[~lost].isfinite().all()
        got[~lost].sum().backward()
        for vectors, present in ((Q, asks), (M, there)):
            assert vectors.grad.isfinite().all() and not vectors.grad[~present].any() and vectors.grad.any()


@every_score
def test_no_queries_or_no_items_give_an_empty_matrix(name):
    for a, items in samples(name, 8):
        assert ALL[name](a[:0], items).shape == (0, 12)
        assert ALL[name](a, items[:0]).shape == (5, 0)


# --- precision

# A few ε = 1.2e-7. Once the vectors lean together a root near 0 or a direction loses more: the basis ε/distance, the sine
# ε/2sine; the cone leaves out combinations of vectors within 1024 ε of dependence.
# The sum of two vectors at an obtuse angle is orthogonal to their leading direction: rounding gives it its sign.
SINGLE = dict.fromkeys(ALL, 1e-6) | dict.fromkeys(ROOTS, 5e-6) | {"cone": 2e-5, "leading": 2e-5, "spectral_gain": 4e-6}
SINGLE["hyperbolic_volume, lifted"] = 1e-5  # its values reach 7


def unsigned(name, scores):
    return scores.abs() if name == "leading" else scores


@every_score
@pytest.mark.parametrize("lean", [0.0, 2.0, 6.0])
def test_float32_agrees_with_float64(name, lean):
    for a, items in samples(name, 9, n=40, d=16, lean=lean):
        a, items = (side.to(dtype=torch.float32) for side in (a, items))
        got = ALL[name](a, items)
        assert got.dtype == torch.float32
        exact = ALL[name](a.to(dtype=torch.float64), items.to(dtype=torch.float64))
        close(unsigned(name, got.double()), unsigned(name, exact), SINGLE[name])


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
def test_half_precision_is_read_exactly_and_worked_on_in_float32(name, dtype):
    for a, items in samples(name, 12, d=16):
        halved = [side.to(dtype=dtype) for side in (a, items)]
        got = ALL[name](*halved)
        assert got.dtype == torch.float32 and got.isfinite().all()
        close(got, ALL[name](*(side.to(dtype=torch.float32) for side in halved)), 0)
        exact = ALL[name](*(side.to(dtype=torch.float64) for side in halved))
        close(unsigned(name, got.double()), unsigned(name, exact), 2e-5)
        # Rounding the unit vectors themselves costs half a unit of the last place, and more where it is multiplied.
        close(unsigned(name, got.double()), unsigned(name, ALL[name](a, items)), 4 * torch.finfo(dtype).eps)
    plain = ALL[name](units(120, 10, 16).to(dtype), items.vectors[:, 0].nan_to_num(1.0).to(dtype))
    assert plain.dtype == torch.float32 and plain.isfinite().all()


# --- gradients


@every_score
@pytest.mark.parametrize("width", [0, 2])
def test_gradients_are_exact_at_generic_points(name, width):
    k, m = fit(name, width, 3)
    raw, a = 2 * units(13, 3, m, 5), 3 * units(14, 2, max(k, 1), 5)
    mask = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0]], dtype=torch.bool)[:, :m]
    mask[:, 0] |= ~mask.any(1)
    asks = torch.tensor([[1, 1], [0, 1]], dtype=torch.bool)[:, : max(k, 1)]
    asks[:, 0] |= ~asks.any(1)

    def build(raw, mask):
        columns = dict(zip("abc", raw.unbind(1), strict=False))
        return Bundle.from_dict(columns, present=dict(zip("abc", mask.unbind(1), strict=False)))

    def scores(a, raw):
        return ALL[name](build(a, asks) if k else a[:, 0], build(raw, mask))

    assert torch.autograd.gradcheck(scores, (a.requires_grad_(), raw.requires_grad_()), fast_mode=True)


def test_cone_gradients_are_exact_for_every_size_of_the_active_set():
    Z, many = units(15, 4, 6, lean=0.0), units(16, 200, 6, lean=0.0)
    active = [int((reference_cone.nnls(Z.numpy().T, q.numpy())[0] > 0.05).sum()) for q in many]
    a = many[[active.index(size) for size in range(5)]].requires_grad_()
    assert torch.autograd.gradcheck(lambda a, Z: cone(a, bundle(Z[None])), (a, Z.requires_grad_()))


@pytest.mark.parametrize("lean", [0.0, 1.0])
def test_gradients_of_the_angle_of_two_cones_are_exact(lean):
    a, z = units(37, 1, 3, 5, lean=lean).requires_grad_(), units(38, 2, 3, 5, lean=lean).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, z: cone(bundle(a), bundle(z)), (a, z), fast_mode=True)


def degenerate(kind):
    """(query vectors, item vectors) at which a naive derivative breaks down, in float64."""
    e, g = torch.eye(4, dtype=torch.float64), units(17, 4, 4)
    single = {
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
        "query orthogonal to a lone vector": lambda: (e[0], e[1:2]),
        "zero query": lambda: (0 * g[0], g[1:3]),
        "zero row": lambda: (g[0], torch.stack([g[1], 0 * g[1], g[2]])),
        "all zero": lambda: (g[0], 0 * g[:2]),
    }
    several = {
        "one tuple on both sides": lambda: (g[:2], g[:2]),
        "opposite tuples": lambda: (g[:2], -g[:2]),
        "tuples within each other": lambda: (g[1:3], g[1:4]),
        "one span on both sides": lambda: (normalize(torch.stack([g[1] + 2 * g[2], 2 * g[1] - g[2]]), dim=-1), g[1:3]),
        "identical on both sides": lambda: (g[[0, 0]], g[[0, 0, 0]]),
        "identical in the query": lambda: (g[[0, 0]], g[1:4]),
        "antipodal in the query": lambda: (torch.stack([g[0], -g[0]]), g[1:3]),
        "antipodal on both sides": lambda: (torch.stack([g[0], -g[0]]), torch.stack([-g[0], g[0]])),
        "orthonormal sides": lambda: (e[:2], e[2:]),
        "orthonormal sides that share a vector": lambda: (e[:2], e[1:]),
        "the whole space on both sides": lambda: (e, e.flip(0)),
        "more together than dimensions": lambda: (units(18, 3, 3), units(39, 3, 3)),
        "zero row in the query": lambda: (torch.stack([g[0], 0 * g[0]]), g[1:3]),
        "zero on both sides": lambda: (0 * g[:2], 0 * g[:2]),
    }
    if kind in single:
        query, item = single[kind]()
        return query[None], item
    if kind in several:
        return several[kind]()
    size, how = float(kind.split()[0]), kind.split(maxsplit=1)[1]
    near = [normalize(torch.stack([g[i], g[i] + size * g[2], g[3]]), dim=-1) for i in (0, 1)]
    return {
        "apart": lambda: (g[:1], near[1]),
        "apart on both sides": lambda: (near[0][:2], near[1]),
        "apart from each other": lambda: (near[0][:1], near[0][1:]),
    }[how]()


SIZES = ("1e-2", "1e-4", "1e-6", "1e-9")
KINDS = [
    *("identical", "identical, query too", "antipodal", "antipodal query", "orthonormal", "orthonormal, query inside"),
    *("as many as dimensions", "more than dimensions", "query in the span", "query is an item vector"),
    *("query is a lone vector", "query is minus an item vector", "query orthogonal to all"),
    *("query orthogonal to a lone vector", "zero query", "zero row", "all zero"),
    *("one tuple on both sides", "opposite tuples", "tuples within each other", "one span on both sides"),
    *("identical on both sides", "identical in the query", "antipodal in the query", "antipodal on both sides"),
    *("orthonormal sides", "orthonormal sides that share a vector", "the whole space on both sides"),
    *("more together than dimensions", "zero row in the query", "zero on both sides"),
    *(f"{size} {how}" for how in ("apart", "apart on both sides", "apart from each other") for size in SIZES),
]


@every_score
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_finite_everywhere(name, dtype):
    """At every degenerate kind; a failure lists the kinds and what is wrong at each."""
    score, eps = ALL[name], torch.finfo(dtype).eps
    # A direction turns at the rate 1/distance or 1/gap of what it is made of; nothing else is steeper than a root at its
    # rounding.
    steepest = 1 / (32 * eps) if name.split(",")[0] in ("span", "leading") else 4 * eps**-0.5
    failures = []
    for kind in KINDS:
        query, item = degenerate(kind)
        k, m = fit(name, len(query), len(item))
        query, item = (x.to(dtype).requires_grad_() for x in (query[:k], item[:m]))
        try:
            value = score(as_query(query), bundle(item[None]))
            value.sum().backward()
        except Exception as error:
            error.add_note(f"at {kind!r}")
            raise
        if not value.isfinite().all():
            failures.append(f"{kind}: value {value.item()}")
        if not score.low - 8 * eps <= value.item() <= score.high + 8 * eps:
            failures.append(f"{kind}: value {value.item()} out of [{score.low}, {score.high}]")
        for side, vectors in (("query", query), ("item", item)):
            if not (vectors.grad.isfinite().all() and vectors.grad.abs().max() <= steepest):
                failures.append(f"{kind}: gradient of the {side} up to {vectors.grad.abs().max().item()}")
    assert not failures


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_degenerate_items_have_their_exact_scores(dtype):
    root = torch.finfo(dtype).eps ** 0.5
    third, half = 1 / 3, 0.5
    expected = {
        "identical, query too": dict.fromkeys(("span", "cone", "centroid", "cosine", "leading", "spectral"), 1)
        | {"volume": 0, "spectral_gain": 1, "hyperbolic_volume": 0, "weighted_centroid": 1},
        "antipodal": {"volume": 0, "centroid": 0, "cosine": 0},
        "antipodal query": dict.fromkeys(("span", "cone", "centroid", "cosine", "leading", "maxsim"), -1)
        | {"volume": 0, "spectral": 1, "spectral_gain": 1},
        "orthonormal": dict.fromkeys(("span", "cone", "centroid", "cosine", "maxsim"), 0)
        | {"volume": -1, "spectral": half, "spectral_gain": 0},
        "orthonormal, query inside": {"volume": 0, "span": 1, "cone": 1, "centroid": 3**-0.5, "cosine": third, "maxsim": 1},
        "query in the span": {"volume": 0, "span": 1, "cone": 1},
        "query is an item vector": {"volume": 0, "span": 1, "cone": 1, "max_cosine": 1, "hyperbolic_volume": 0},
        "query is minus an item vector": {"volume": 0, "span, unsigned": 1},
        "query orthogonal to a lone vector": {"triangle": -(3**0.5) / 2, "spectral": half**0.5, "multilinear": 0},
        "one tuple on both sides": {"volume": 0, "span": 1, "cone": 1, "centroid": 1, "leading": 1, "maxsim": 1},
        "opposite tuples": {"volume": 0, "span": -1, "centroid": -1, "leading": -1, "spectral_gain": 1},
        "orthonormal sides": dict.fromkeys(("span", "cone", "centroid", "cosine", "maxsim", "multilinear"), 0)
        | {"volume": -1, "spectral": half, "spectral_gain": 0},
        "orthonormal sides that share a vector": {"volume": 0, "span": 1, "cone": 1, "max_cosine": 1, "maxsim": half},
        "the whole space on both sides": {"volume": 0, "span": 1, "cone": 1, "centroid": 1, "maxsim": 1, "cosine": half / 2},
    }
    for kind, values in expected.items():
        query, item = (x.to(dtype) for x in degenerate(kind))
        for name, value in values.items():
            got = float(ALL[name](as_query(query), bundle(item[None])))
            tolerance = 2 * root if name in ROOTS and value == 0 else 16 * root**2
            assert got == pytest.approx(value, abs=tolerance), (kind, name)


@every_score
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-9])
def test_items_of_near_opposites_keep_to_the_range(name, dtype, size):
    eps = torch.finfo(dtype).eps
    along, middle, other = torch.linalg.qr(units(42, 20, 3, 5, lean=0.0).mT).Q.mT.unbind(1)
    items = bundle(normalize(torch.stack([middle * size + along, middle * size - along], 1), dim=-1).to(dtype))
    for asked in (middle, normalize(middle + other, dim=-1)):
        value = ALL[name](asked.to(dtype), items).diagonal()
        assert (value >= ALL[name].low - 8 * eps).all() and (value <= ALL[name].high + 8 * eps).all()


# --- names and errors


def test_the_table_has_a_row_for_every_name():
    assert get_args(ScoreName) == tuple(SCORES)
    assert [row[0] for row in score_table().rows] == [f"`{name}`" for name in SCORES]


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
        (bundle(torch.ones(1, 2, 3)), torch.ones(2, 4), "`queries` and `items` must share the width d; got 3 and 4"),
    ],
)
def test_bad_input_is_named(name, queries, items, message):
    with pytest.raises(InputError, match=message):
        ALL[name](queries, items)


ONE, TWO = torch.ones(1, 3), bundle(torch.ones(1, 2, 3))


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda: cosine(ONE, ONE, reduce="maxx"),
            r"`reduce` must be one of mean, max, softmax; got 'maxx'. Did you mean 'max'",
        ),
        (
            lambda: cosine(ONE, ONE, reduce="softmax", temperature=0),
            "`temperature` must be a finite number of at least 1e-06; got 0",
        ),
        (
            lambda: weighted_centroid(ONE, ONE, temperature=-0.1),
            "`temperature` must be a finite number of at least 1e-06; got -0.1",
        ),
        (
            lambda: weighted_centroid(ONE, TWO, temperature=NAN),
            "`temperature` must be a finite number of at least 1e-06; got nan",
        ),
        (lambda: negative_hyperbolic_volume(ONE, ONE, alpha=1.5), r"`alpha` must lie in \[0, 1\]; got 1.5"),
        (lambda: negative_hyperbolic_volume(ONE, ONE, alpha=NAN), r"`alpha` must lie in \[0, 1\]; got nan"),
        (lambda: negative_hyperbolic_volume(ONE, ONE, curvature=0), r"`curvature` must lie in \(0, 400\]; got 0"),
        (lambda: negative_hyperbolic_volume(ONE, ONE, curvature=NAN), r"`curvature` must lie in \(0, 400\]; got nan"),
        (
            lambda: negative_triangle_area(TWO, TWO),
            "`triangle` needs tuples of at most three vectors; got one of 4. Select modalities",
        ),
        (lambda: negative_triangle_area(ONE, bundle(torch.ones(1, 3, 3))), "at most three vectors; got one of 4"),
        (lambda: maxsim(Tokens(torch.ones(1, 2, 3), torch.ones(1, 2) > 0), torch.ones(1, 4)), "width d; got 3 and 4"),
    ],
)
def test_bad_options_are_named(act, message):
    with pytest.raises(InputError, match=message):
        act()


def test_the_weight_of_the_hyperbolic_volume_can_be_learned():
    a, items = units(40, 3, 5), bundle(units(41, 4, 2, 5))
    weight = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    close(negative_hyperbolic_volume(a, items, alpha=weight), negative_hyperbolic_volume(a, items, alpha=0.3))
    assert torch.autograd.gradcheck(lambda alpha: negative_hyperbolic_volume(a, items, alpha=alpha), weight)


@pytest.mark.parametrize("name", SCORES)
def test_autocast_does_not_reach_the_scores(name, generator):
    z = torch.randn(4, 6, 16, generator=generator)
    items = Bundle.from_dict({"a": z[1] + z[0], "b": z[2] + z[0]})
    wider = items if name == "triangle" else Bundle.from_dict({"a": z[3] + z[0], "b": z[0]})
    for queries, gallery in ((z[0], items), (wider, items.select("a"))):
        expected = SCORES[name](queries, gallery)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = SCORES[name](queries=queries, items=gallery)
        assert found.dtype == torch.float32
        assert torch.equal(found, expected)
