import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gramian import InputError
from gramian.geometry import (
    gram_matrix,
    leading_direction,
    lorentz_volume,
    singular_values,
    span_basis,
    spectral_entropy_rank,
    triangle_area,
    volume,
)
from reference import gram, hyperbolic, pmrl, spectral, triangle

NAN = float("nan")
FUNCTIONS = {
    "gram_matrix": gram_matrix,
    "volume": volume,
    "span_basis": span_basis,
    "singular_values": singular_values,
    "leading_direction": leading_direction,
    "spectral_entropy_rank": spectral_entropy_rank,
    "triangle_area": triangle_area,
    "lorentz_volume": lorentz_volume,
    "lorentz_volume, curved": partial(lorentz_volume, curvature=2.5),
}
NUMBERS = {"volume", "spectral_entropy_rank", "triangle_area", "lorentz_volume", "lorentz_volume, curved"}
every_number = pytest.mark.parametrize("name", sorted(NUMBERS))
every_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


def units(seed, *shape, dtype=torch.float64):
    """Random unit vectors, not orthogonal: they lean to one side as the vectors of an item do."""
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randn(*shape, generator=generator, dtype=torch.float64)
    raw[..., 0] += 1.0
    return torch.nn.functional.normalize(raw, dim=-1).to(dtype)


def rotation(seed, d):
    return torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).Q


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


def law(test):
    """The test over random seeds, 1 to 5 vectors in as many dimensions or up to 6 more."""
    return given(seed=st.integers(0, 2**32 - 1), m=st.integers(1, 5), spare=st.integers(0, 6))(test)


def fit(function, Z, present=None):
    """The tuples, cut to the three vectors that a triangle has."""
    m = 3 if function is triangle_area else Z.shape[-2]
    return Z[..., :m, :], None if present is None else present[..., :m]


# --- laws. Near a singular tuple the volume is good to ε and σ to √ε, which is where 1e-7 comes from.


@law
def test_the_order_of_the_modalities_does_not_matter(seed, m, spare):
    Z = units(seed, 3, m, m + spare)
    order = torch.randperm(m, generator=torch.Generator().manual_seed(seed))
    close(volume(Z[:, order]), volume(Z))
    close(singular_values(Z[:, order]), singular_values(Z), 1e-7)
    close(gram_matrix(Z[:, order]), gram_matrix(Z)[:, order][:, :, order])


@law
def test_a_rotation_of_the_space_changes_nothing_but_the_directions(seed, m, spare):
    Z, R = units(seed, 3, m, m + spare), rotation(seed, m + spare)
    close(gram_matrix(Z @ R), gram_matrix(Z))
    close(volume(Z @ R), volume(Z))
    close(singular_values(Z @ R), singular_values(Z), 1e-7)
    close(span_basis(Z @ R), span_basis(Z) @ R, 1e-9)


@law
def test_volume_and_singular_values_are_blind_to_signs(seed, m, spare):
    Z = units(seed, 3, m, m + spare)
    signs = torch.randint(0, 2, (3, m, 1), generator=torch.Generator().manual_seed(seed)) * 2 - 1
    close(volume(Z * signs), volume(Z))
    close(singular_values(Z * signs), singular_values(Z), 1e-7)


@law
def test_bounds(seed, m, spare):
    Z = units(seed, 4, m, m + spare)
    V, sigma = volume(Z), singular_values(Z)
    assert (V >= 0).all() and (V <= 1 + 1e-15).all()
    assert (sigma >= 0).all() and (sigma.diff(dim=-1) <= 1e-12).all()
    close(sigma.square().sum(-1), torch.full((4,), float(m), dtype=torch.float64))
    close(sigma.prod(-1), V, 1e-7)
    close(leading_direction(Z).norm(dim=-1), torch.ones(4, dtype=torch.float64))


@law
def test_the_basis_is_orthonormal_and_reproduces_every_vector(seed, m, spare):
    Z = units(seed, 3, m, m + spare)
    Q = span_basis(Z)
    close(Q @ Q.mT, torch.eye(m, dtype=torch.float64).expand(3, m, m))
    close(Z @ Q.mT @ Q, Z)


@law
def test_an_absent_modality_changes_nothing(seed, m, spare):
    Z = units(seed, 3, m, m + spare)
    where = seed % (m + 1)
    wider = torch.cat([Z[:, :where], torch.full((3, 1, m + spare), NAN, dtype=Z.dtype), Z[:, where:]], 1)
    present = torch.ones(3, m + 1, dtype=torch.bool)
    present[:, where] = False
    close(volume(wider, present), volume(Z))
    close(singular_values(wider, present)[:, :m], singular_values(Z), 1e-7)
    assert (singular_values(wider, present)[:, m] < 1e-7).all()
    close(leading_direction(wider, present), leading_direction(Z), 1e-7)
    kept = [i for i in range(m + 1) if i != where]
    close(span_basis(wider, present)[:, kept], span_basis(Z))
    assert not span_basis(wider, present)[:, where].any()


@law
def test_leading_direction_agrees_with_the_tuple_best_and_with_its_sum(seed, m, spare):
    Z = units(seed, 3, m, m + spare)
    u = leading_direction(Z)
    close((Z @ u[..., None]).norm(dim=(-2, -1)), singular_values(Z)[:, 0])
    assert ((u * Z.sum(1)).sum(-1) >= -1e-12).all()


# A root is good to √ε = 1.5e-8 near 0, and the lift multiplies it by up to 20.


@every_number
def test_numbers_do_not_change_with_the_order_a_rotation_or_an_absent_modality(name):
    @law
    def holds(seed, m, spare):
        Z, _ = fit(FUNCTIONS[name], units(seed, 3, m, m + spare))
        m = Z.shape[1]
        expected = FUNCTIONS[name](Z)
        close(FUNCTIONS[name](Z[:, torch.randperm(m, generator=torch.Generator().manual_seed(seed))]), expected, 1e-6)
        close(FUNCTIONS[name](Z @ rotation(seed, Z.shape[2])), expected, 1e-6)
        where = seed % (m + 1)
        wider = torch.cat([Z[:, :where], torch.full_like(Z[:, :1], NAN), Z[:, where:]], 1)
        close(FUNCTIONS[name](wider, ~wider[..., 0].isnan()), expected, 1e-6)

    holds()


@law
def test_ranks_areas_and_lifted_volumes_keep_to_their_bounds(seed, m, spare):
    Z = units(seed, 3, m, m + spare)
    rank = spectral_entropy_rank(Z)
    assert (rank >= 1 - 1e-12).all() and (rank <= m + 1e-12).all()
    signs = torch.randint(0, 2, (3, m, 1), generator=torch.Generator().manual_seed(seed)) * 2 - 1
    close(spectral_entropy_rank(Z * signs), rank, 1e-7)
    area = triangle_area(Z[:, :3])
    assert (area >= 0).all() and (area <= 0.75 * 3**0.5 + 1e-12).all() and (m > 1 or not area.any())
    lifted, flat = lorentz_volume(Z), volume(Z)
    assert (lifted >= flat - 1e-12).all()  # D ≥ V², sinh 1 > 1
    close(lorentz_volume(Z, curvature=1e-8) * 1e-4, volume_of_edges(Z), 1e-6)


def volume_of_edges(Z):
    """The volume of the edges zᵢ − z₁ by a determinant: what the lift becomes as the curvature vanishes, but for a factor."""
    edges = Z[:, 1:] - Z[:, :1]
    return torch.linalg.det(edges @ edges.mT).clamp(min=0).sqrt()


# --- references


@pytest.mark.parametrize("m", [1, 2, 3, 4])
@pytest.mark.parametrize("d", [4, 9, 64])
def test_ranks_areas_and_lifted_volumes_match_their_definitions(m, d):
    Z = units(m * d, 6, m, d)
    close(spectral_entropy_rank(Z), torch.tensor([spectral.effective_rank(z) for z in Z], dtype=torch.float64))
    for curvature in (0.3, 1.0, 4.0):
        expected = torch.tensor([hyperbolic.volume(z, curvature) for z in Z], dtype=torch.float64)
        torch.testing.assert_close(lorentz_volume(Z, curvature=curvature), expected, rtol=1e-9, atol=0)
    if m in (2, 3):
        close(triangle_area(Z), torch.tensor([triangle.area(z) for z in Z], dtype=torch.float64))


def test_known_ranks_areas_and_lifted_volumes():
    e, corner = torch.eye(4, dtype=torch.float64), torch.arange(3, dtype=torch.float64) * 2 * math.pi / 3
    one = torch.tensor(1.0, dtype=torch.float64)
    close(spectral_entropy_rank(e), 4 * one)
    close(spectral_entropy_rank(torch.stack([e[0], -e[0], e[0]])), one)
    close(spectral_entropy_rank(e[[0, 0, 1, 1]]), 2 * one)
    close(triangle_area(torch.stack([corner.cos(), corner.sin()], -1)), one * 0.75 * 3**0.5)
    close(triangle_area(e[:3]), one * 3**0.5 / 2)
    close(triangle_area(e[:2]), one * 3**0.5 / 2)  # the third counts as orthogonal
    assert triangle_area(e[[0, 1, 0]]) == 0 and triangle_area(e[:1]) == 0
    assert lorentz_volume(e[[0, 1, 0]]) == 0 and lorentz_volume(torch.stack([e[0], -e[0]])) > 2
    close(lorentz_volume(e[:1], curvature=4.0), one / 2)


@pytest.mark.parametrize("m", [1, 2, 3, 4])
@pytest.mark.parametrize("d", [4, 9, 64])
def test_volume_and_spectrum_match_the_papers(m, d):
    Z = units(m * d, 6, m, d)
    close(volume(Z), torch.tensor([gram.volume(z) for z in Z], dtype=torch.float64), 1e-11)  # the reference loses √ε near 0
    close(singular_values(Z), torch.tensor([pmrl.spectrum(z) for z in Z], dtype=torch.float64))
    close(leading_direction(Z), torch.stack([pmrl.direction(z) for z in Z]), 1e-10)  # rounding over the gap σ₁ − σ₂


def test_known_volumes():
    angle = torch.linspace(0, math.pi, 9, dtype=torch.float64)
    pair = torch.stack([torch.stack([torch.ones(9), torch.zeros(9)], -1), torch.stack([angle.cos(), angle.sin()], -1)], 1)
    close(volume(pair), angle.sin().abs())
    assert volume(torch.eye(4)) == 1 and volume(torch.eye(4)[[0, 1, 0]]) == 0
    assert volume(torch.eye(3)[:, :2].contiguous()) == 0  # more vectors than dimensions


@every_function
def test_masks_of_their_own_for_each_item_match_a_loop_over_what_is_there(function):
    present = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 1], [0, 0, 1, 1], [0, 1, 0, 0], [1, 1, 1, 0]], dtype=torch.bool)
    present[:, 3] &= function is not triangle_area
    Z = units(0, 5, 4, 7).masked_fill(~present[..., None], NAN)
    got = function(Z, present)
    for i, there in enumerate(present):
        alone = function(Z[i, there])
        if function is gram_matrix:
            close(got[i][there][:, there], alone)
            assert got[i].count_nonzero() == there.sum() ** 2
        elif function is span_basis:
            close(got[i][there], alone)
        elif function is singular_values:
            close(got[i][: len(alone)], alone)
        else:
            close(got[i], alone)


@every_function
def test_leading_axes_are_batch_axes(function):
    Z, present = fit(function, units(1, 2, 3, 4, 6), torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(1)) < 0.7)
    close(function(Z, present).flatten(0, 1), function(Z.flatten(0, 1), present.flatten(0, 1)))
    close(function(Z, present)[1, 2], function(Z[1, 2], present[1, 2]))


# --- precision


@pytest.mark.parametrize("angle", [1e-2, 1e-3, 1e-4])
def test_small_volumes_keep_in_float32_the_digits_that_a_determinant_loses(angle):
    Z = units(2, 200, 3, 16)
    Z[:, 1] = torch.nn.functional.normalize(Z[:, 0] + angle * units(3, 200, 16), dim=-1)
    Z = Z.float()
    exact = volume(Z.double())
    by_distances = ((volume(Z) - exact) / exact).abs()
    by_determinant = ((torch.linalg.det(Z @ Z.mT).abs().sqrt() - exact) / exact).abs()
    assert by_distances.max() < 1e-6 / angle  # rounding of the vectors over their distance
    assert by_distances.mean() < 0.05 * by_determinant.mean()


@pytest.mark.parametrize("angle", [1e-2, 1e-3, 1e-4])
def test_the_basis_of_near_duplicates_is_orthonormal_in_float32(angle):
    Z = torch.nn.functional.normalize(units(2, 200, 1, 16) + angle * units(3, 200, 4, 16), dim=-1).float()
    Q = span_basis(Z)
    found = Q.bool().any(-1)
    assert found[:, :2].all()
    close(Q @ Q.mT, torch.diag_embed(found.float()), 1e-6)


@every_function
def test_float32_agrees_with_float64(function):
    Z = units(4, 50, 3, 16, dtype=torch.float32)
    # σ = √λ multiplies rounding by 1/2σ, the leading direction by 1/(λ₁ − λ₂); the rest stays within a few ε = 1.2e-7 of
    # what are numbers up to 3, and up to 12 where the curvature is 2.5.
    tolerance = {singular_values: 2e-6, leading_direction: 1e-5, FUNCTIONS["lorentz_volume, curved"]: 4e-6}.get(function, 1e-6)
    close(function(Z).double(), function(Z.double()), tolerance)


@every_function
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_read_exactly_and_worked_on_in_float32(function, dtype):
    Z = units(5, 20, 3, 16, dtype=dtype)
    got = function(Z)
    assert got.dtype == torch.float32
    close(got, function(Z.float()), 0)
    close(got.double(), function(Z.double()), 1e-5)


# --- gradients


@every_function
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_are_exact_at_generic_tuples(function, masked):
    Z = units(6, 3, 3, 5).requires_grad_()
    present = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0]], dtype=torch.bool) if masked else None
    assert torch.autograd.gradcheck(lambda Z: function(Z, present), Z)


def tuples(kind, dtype):
    """(vectors, present) of one tuple at which a naive derivative breaks down."""
    e, present = torch.eye(4, dtype=torch.float64), None
    g = units(7, 4, 4)
    if kind == "identical":
        Z = g[[0, 0, 0]]
    elif kind == "two of three identical":
        Z = g[[0, 0, 1]]
    elif kind == "antipodal":
        Z = g[[0, 0, 0]] * torch.tensor([[1.0], [-1.0], [1.0]])
    elif kind == "opposite pair":
        Z = torch.stack([g[0], -g[0]])
    elif kind == "orthonormal":
        Z = e[:3]
    elif kind == "orthonormal to rounding":
        Z = rotation(7, 4)[:3]
    elif kind == "as many as dimensions":
        Z = g
    elif kind == "orthonormal basis":
        Z = e
    elif kind == "more than dimensions":
        Z = units(8, 4, 3)
    elif kind == "dependent":
        Z = torch.stack([e[0], e[1], (e[0] + e[1]) / 2**0.5])
    elif kind == "equal angles":
        Z = torch.nn.functional.normalize(e[:3] + 1, dim=-1)
    elif kind == "zero row":
        Z = torch.stack([g[0], g[0] * 0, g[1]])
    elif kind.startswith("missing"):
        Z, present = g[:3].clone(), torch.ones(3, dtype=torch.bool)
        present[: int(kind[-1])] = False
        Z[~present] = NAN
    else:  # near duplicates: "1e-4 apart"
        Z = torch.nn.functional.normalize(torch.stack([g[0], g[0] + float(kind.split()[0]) * g[1], g[2]]), dim=-1)
    return Z.to(dtype).requires_grad_(), present


KINDS = [
    *("identical", "two of three identical", "antipodal", "opposite pair", "orthonormal", "as many as dimensions"),
    *("orthonormal to rounding", "orthonormal basis", "more than dimensions", "dependent", "equal angles", "zero row"),
    *("missing 1", "missing 2", "missing 3", "1e-2 apart", "1e-4 apart", "1e-6 apart", "1e-9 apart"),
]


@every_function
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_finite_everywhere(function, kind, dtype):
    Z, present = tuples(kind, dtype)
    out = function(*fit(function, Z, present))
    assert out.isfinite().all()
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    (out * weights).sum().backward()
    # Nothing is divided by a distance below 32 ε or a gap below 128 ε.
    assert Z.grad.isfinite().all() and Z.grad.abs().max() < 1 / (8 * torch.finfo(dtype).eps)
    if present is not None:
        assert not Z.grad[~present].any()


def test_degenerate_tuples_have_their_exact_values():
    for dtype, eps in ((torch.float32, 1e-6), (torch.float64, 1e-14)):
        for kind in ("identical", "antipodal"):
            Z, _ = tuples(kind, dtype)
            assert volume(Z) == 0 and span_basis(Z).bool().any(-1).tolist() == [True, False, False]
            expected = torch.tensor([3**0.5, 0, 0], dtype=dtype)
            close(singular_values(Z), expected, (3 * torch.finfo(dtype).eps) ** 0.5)
            close(leading_direction(Z), Z[0], eps)
        close(singular_values(tuples("orthonormal", dtype)[0]), torch.ones(3, dtype=dtype), eps)
        Z, present = tuples("missing 3", dtype)
        assert volume(Z, present) == 1 and not singular_values(Z, present).any() and not leading_direction(Z, present).any()


def test_the_gradient_of_small_volumes_leads_towards_smaller_ones():
    Z = units(9, 3, 8, dtype=torch.float32)
    Z[1] = torch.nn.functional.normalize(Z[0] + 1e-3 * Z[1], dim=-1)
    Z.requires_grad_()
    V = volume(Z)
    (slope,) = torch.autograd.grad(V, Z)
    assert 0.5 < slope[1].norm() < 2  # a product of distances is 1-Lipschitz in each unit vector
    moved = torch.nn.functional.normalize(Z - 2e-4 * slope, dim=-1)
    assert volume(moved) < 0.9 * V


# --- errors


@every_function
@pytest.mark.parametrize(
    ("vectors", "present", "message"),
    [
        (torch.ones(3), None, r"`vectors` must be floating point of shape \(\.\.\., m, d\); got torch.float32 of shape \(3,\)"),
        (torch.ones(2, 3).long(), None, "got torch.int64"),
        (torch.ones(4, 2, 3), torch.ones(4, 2), r"`present` must be bool of shape \(4, 2\); got torch.float32"),
        (torch.ones(4, 2, 3), torch.ones(2) > 0, r"`present` must be bool of shape \(4, 2\); got torch.bool of shape \(2,\)"),
    ],
)
def test_bad_input_is_named(function, vectors, present, message):
    with pytest.raises(InputError, match=message):
        function(vectors, present)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: triangle_area(torch.eye(4)), "`triangle` needs tuples of at most three vectors; got one of 4. Select modal"),
        (lambda: lorentz_volume(torch.eye(2), curvature=0.0), r"`curvature` must lie in \(0, 400\]; got 0.0"),
        (lambda: lorentz_volume(torch.eye(2), curvature=-1.0), r"`curvature` must lie in \(0, 400\]; got -1.0"),
        (lambda: lorentz_volume(torch.eye(2), curvature=NAN), r"`curvature` must lie in \(0, 400\]; got nan"),
    ],
)
def test_bad_options_are_named(act, message):
    with pytest.raises(InputError, match=message):
        act()


def test_a_triangle_counts_the_vectors_that_are_there():
    Z, present = torch.eye(4), torch.tensor([True, False, True, True])
    close(triangle_area(Z, present), triangle_area(Z[present]))
    assert triangle_area(Z, torch.tensor([False, False, False, True])) == 0
    assert lorentz_volume(Z, present & False) == 1 and spectral_entropy_rank(Z, present & False) == 1
