"""Canonical alignment: moments in one pass, and what is solved from them."""

import pytest
import scipy.linalg
import torch

from gramian.canonical import Analysis, Moments, criteria, solve
from gramian.canonical.moments import ROWS
from gramian.data import Table
from gramian.errors import InputError
from reference import canonical as reference

WIDTHS = {"text": 3, "image": 5, "audio": 2}


def columns(rows=40, *, missing=0.3, mean=0.0, seed=0):
    """Three columns of one latent, some cells missing; what masked cells hold must not matter."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(rows, 2, dtype=torch.float64, generator=generator)
    values, present = {}, {}
    for name, width in WIDTHS.items():
        noise = torch.randn(rows, width, dtype=torch.float64, generator=generator)
        values[name] = mean + z @ torch.randn(2, width, dtype=torch.float64, generator=generator) + 0.5 * noise
        present[name] = torch.rand(rows, generator=generator) >= missing
        values[name][~present[name]] = torch.nan
    return values, present


def part(data, rows):
    return tuple({name: value[rows] for name, value in one.items()} for one in data)


def moments_of(data, weights=None):
    return Moments.of(data[0], present=data[1], weights=weights)


def same(got, wanted, tolerance=1e-10):
    for name in WIDTHS:
        torch.testing.assert_close(got.mean(name), wanted.mean(name), rtol=tolerance, atol=tolerance)
        for other in WIDTHS:
            assert got.count(name, other) == pytest.approx(wanted.count(name, other))
            torch.testing.assert_close(
                got.covariance(name, other), wanted.covariance(name, other), rtol=tolerance, atol=tolerance
            )


@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_moments_are_the_plain_formula_however_the_rows_are_split(mean):
    data = columns(mean=mean)
    split = [part(data, slice(0, 7)), part(data, slice(7, 8)), part(data, slice(8, 40))]
    at_once, added = moments_of(data), Moments(WIDTHS)
    for values, present in reversed(split):
        added.add(values, present=present)
    merged = moments_of(split[2]) + moments_of(split[0]) + moments_of(split[1])
    for got in (at_once, added, merged):
        assert got.rows == 40
        for name in WIDTHS:
            torch.testing.assert_close(got.mean(name), reference.mean(data, name), rtol=1e-10, atol=0)
            for other in WIDTHS:
                wanted = reference.covariance(data, name, other)
                torch.testing.assert_close(got.covariance(name, other), wanted, rtol=0, atol=1e-10 * float(wanted.abs().max()))


def test_moments_of_more_rows_than_are_taken_at_a_time():
    values = {"text": torch.randn(2 * ROWS + 3, 2, dtype=torch.float64) + 5, "image": torch.randn(2 * ROWS + 3, 3)}
    moments = Moments.of(values)
    centred = {name: value.double() - value.double().mean(0) for name, value in values.items()}
    wanted = centred["text"].T @ centred["image"] / len(values["text"])
    torch.testing.assert_close(moments.covariance("text", "image"), wanted, rtol=1e-10, atol=1e-13)


def test_the_columns_are_left_as_they_are():
    values, present = columns(mean=3.0, missing=0.0)
    before = {name: value.clone() for name, value in values.items()}
    Moments.of(values)
    Moments.of(values, present=present)
    assert all(torch.equal(values[name], before[name]) for name in WIDTHS)


def test_duplicate_rows_are_weights():
    data = columns(12)
    times = torch.tensor([1, 2, 0, 3] * 3)
    repeated = moments_of(part(data, torch.arange(12).repeat_interleave(times)))
    same(moments_of(data, times.double()), repeated)


def test_a_column_that_comes_late_is_shifted_by_its_own_first_rows():
    data = columns(30, mean=1e4)
    first = ({"text": data[0]["text"][:10]}, {"text": data[1]["text"][:10]})
    added = Moments(WIDTHS)
    added.add(first[0], present=first[1])
    rest = part(data, slice(10, 30))
    merged = added + moments_of(rest)
    added.add(rest[0], present=rest[1])
    masked = {name: mask & ((torch.arange(30) >= 10) | (name == "text")) for name, mask in data[1].items()}
    for got in (merged, added):
        same(got, moments_of((data[0], masked)), 1e-9)
    assert float(added.shift.min()) > 9_000


def test_a_table_gives_the_moments_of_its_features():
    values, present = columns()
    table = Table.from_columns({name: value.nan_to_num() for name, value in values.items()}, present=present)
    same(Moments.of(table), moments_of((values, present)))


def test_moments_saved_are_those_loaded(tmp_path):
    moments = moments_of(columns())
    moments.save(tmp_path / "moments.safetensors")
    loaded = Moments.load(tmp_path / "moments.safetensors")
    assert (loaded.widths, loaded.rows, repr(loaded)) == (moments.widths, moments.rows, repr(moments))
    assert torch.equal(loaded.products, moments.products) and torch.equal(loaded.shift, moments.shift)
    (tmp_path / "text").write_text("no moments")
    Table.from_columns({"a": torch.ones(2, 2)}).save(tmp_path / "table.safetensors")
    wrong = {
        "text": "cannot be read as safetensors",
        "table.safetensors": "that `Moments.save` wrote",
        "none": "does not exist",
    }
    for path, match in wrong.items():
        with pytest.raises(InputError, match=match):
            Moments.load(tmp_path / path)


@pytest.mark.parametrize(
    ("values", "options", "match"),
    [
        ({"words": torch.ones(2, 3)}, {}, "`columns` must be one of text, image, audio; got 'words'"),
        ({"text": torch.ones(2, 4)}, {}, r"`columns\['text'\]` must have shape \(2, 3\)"),
        ({"text": torch.ones(2, 3), "image": torch.ones(3, 5)}, {}, r"`columns\['image'\]` must have shape \(2, 5\)"),
        ({"text": [[1.0]]}, {}, "`columns` must be a Table, or map names to tensors"),
        ({"text": torch.tensor([[0.0, 1.0, torch.inf]])}, {}, "column `text` holds NaN or infinite values in 1 of 1 rows"),
        ({"text": torch.ones(2, 3)}, {"weights": torch.tensor([1.0, -1.0])}, "`weights` must be 2 finite numbers"),
        ({"text": torch.ones(2, 3)}, {"present": {"text": torch.ones(3).bool()}}, r"`present\['text'\]` must be bool"),
    ],
)
def test_rows_that_do_not_fit_the_moments(values, options, match):
    with pytest.raises(InputError, match=match):
        Moments(WIDTHS).add(values, **options)


def test_moments_of_other_columns_do_not_add():
    with pytest.raises(InputError, match="the same columns"):
        Moments(WIDTHS) + Moments({"text": 3})
    with pytest.raises(InputError, match="`widths` must name at least one column"):
        Moments({})


def complete(rows=40, seed=0):
    values, _ = columns(rows, missing=0.0, seed=seed)
    return values, {name: torch.ones(rows, dtype=torch.bool) for name in WIDTHS}


def stacked(solution, names=WIDTHS):
    """The components of all modalities side by side, of unit length, their largest entry positive."""
    A = torch.cat([solution.directions[name] for name in names])
    return oriented(A)


def oriented(A):
    A = A / A.norm(dim=0)
    return A * A.gather(0, A.abs().argmax(0, keepdim=True)).sign()


@pytest.mark.parametrize("ridge", [0.1, 1.0])
@pytest.mark.parametrize("rows", [6, 40])  # fewer and more than the dimensions
def test_maxvar_is_the_eigenproblem_of_the_summed_projectors(rows, ridge):
    data = complete(rows)
    solution = solve(moments_of(data), ridge=ridge)
    values, directions = reference.maxvar(data, ridge)
    k = len(solution.values)
    assert k == min(rows - 1, sum(WIDTHS.values()))
    torch.testing.assert_close(solution.values, values[:k], rtol=1e-9, atol=1e-12)
    wanted = oriented(torch.cat([directions[name] for name in WIDTHS])[:, :k])
    torch.testing.assert_close(stacked(solution), wanted, rtol=1e-7, atol=1e-7)


def blocks(moments, names, ridge):
    """C and blockdiag(C_cc + ρ_c I) as arrays."""
    C = torch.cat([torch.cat([moments.covariance(a, b) for b in names], 1) for a in names])
    own = [moments.covariance(a, a) for a in names]
    B = torch.block_diag(*(S + ridge * S.diagonal().mean() * torch.eye(len(S), dtype=torch.float64) for S in own))
    return C.numpy(), B.numpy()


@pytest.mark.parametrize("ridge", [0.0, 0.5])
def test_two_modalities_are_regularised_canonical_correlation(ridge):
    names = ("text", "image")
    values, present = complete()
    moments = moments_of(({name: values[name] for name in names}, {name: present[name] for name in names}))
    C, B = blocks(moments, names, ridge)
    spectrum, vectors = scipy.linalg.eigh(C, B)
    maxvar = solve(moments, 3, ridge=ridge)
    torch.testing.assert_close(2 * maxvar.values, torch.tensor(spectrum[::-1][:3].copy()), rtol=1e-8, atol=0)
    wanted = oriented(torch.tensor(vectors[:, ::-1][:, :3].copy()))
    torch.testing.assert_close(stacked(maxvar, names), wanted, rtol=1e-8, atol=1e-8)
    C[:3, :3], C[3:, 3:] = 0, 0
    correlations, vectors = scipy.linalg.eigh(C, B)
    objective = {"sumcor": 2 * correlations[-3:].sum(), "genvar": -torch.tensor(1 - correlations[-3:] ** 2).log().sum()}
    for criterion, most in objective.items():
        solution = solve(moments, 3, ridge=ridge, criterion=criterion)
        assert solution.objective[-1] == pytest.approx(float(most), rel=1e-8)
        for name, place in (("text", slice(0, 3)), ("image", slice(3, 8))):
            own = solution.directions[name]
            projector = torch.tensor(vectors[place, -3:])
            torch.testing.assert_close(
                own @ own.T / 2, projector @ projector.T, rtol=1e-3, atol=1e-4
            )  # at the tolerance of GAIN


@pytest.mark.parametrize("shrinkage", [0.0, 0.3])
def test_maxvar_is_the_generalised_analysis_of_cca_zoo(shrinkage):
    """Whose ridge is (1 − s) C + s I, of covariances over n − 1."""
    zoo = pytest.importorskip("cca_zoo.linear")
    values, present = complete()
    moments, n = moments_of((values, present)), 40
    model = zoo.GCCA(n_components=2, shrinkage=shrinkage).fit([value.numpy() for value in values.values()])
    ridge = {
        name: shrinkage / (1 - shrinkage) * (n - 1) / n / float(moments.covariance(name, name).diagonal().mean())
        for name in WIDTHS
    }
    wanted = oriented(torch.cat([torch.from_numpy(weight) for weight in model.weights_]))
    torch.testing.assert_close(stacked(solve(moments, 2, ridge=ridge)), wanted, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("criterion", ["sumcor", "genvar"])
@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_iterations_only_rise_and_their_maps_are_whitened(criterion, missing):
    data = columns(60, missing=missing, seed=3)
    moments = moments_of(data)
    solution = solve(moments, 2, ridge=0.1, criterion=criterion)
    objective = torch.tensor(solution.objective)
    assert len(objective) > 2 and bool((objective.diff() >= -1e-12 * objective.abs().max()).all())
    assert objective[-1] > objective[0] + 1e-6
    assert bool((solution.values.diff() <= 0).all())
    for name, A in solution.directions.items():
        C = moments.covariance(name, name)
        within = A.T @ (C + 0.1 * C.diagonal().mean() * torch.eye(len(C), dtype=torch.float64)) @ A
        torch.testing.assert_close(within, torch.eye(2).double(), rtol=0, atol=1e-10)


def test_the_criteria_agree_where_all_modalities_share_one_component():
    """One strong shared direction: each finds it, with the sign that agrees."""
    z = torch.randn(200, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values, present = complete(200, seed=1)
    values = {name: 0.3 * value + z * torch.tensor([1.0, -1.0] * 3)[: value.shape[1]] for name, value in values.items()}
    found = {}
    for criterion in ("maxvar", "sumcor", "genvar"):
        solution = solve(moments_of((values, present)), 1, ridge=0.01, criterion=criterion)
        outputs = torch.cat([values[name] @ A for name, A in solution.directions.items()], 1)
        assert bool((torch.corrcoef(outputs.T) > 0.5).all())
        found[criterion] = outputs.sum(1)
    corr = torch.corrcoef(torch.stack(list(found.values()))).abs()
    assert bool((corr > 0.99).all())


def test_laws_of_the_solution():
    data = columns(50)
    wanted = solve(moments_of(data), 4)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    names = ("audio", "text", "image")
    moved = ({name: data[0][name][order] for name in names}, {name: data[1][name][order] for name in names})
    got = solve(moments_of(moved), 4)
    torch.testing.assert_close(got.values, wanted.values, rtol=1e-10, atol=0)
    torch.testing.assert_close(stacked(got), stacked(wanted), rtol=1e-8, atol=1e-8)
    empty = Moments({**WIDTHS, "depth": 7})
    empty.add(data[0], present=data[1])
    got = solve(empty, 4)
    torch.testing.assert_close(got.values, wanted.values, rtol=1e-10, atol=0)
    assert set(got.directions) == set(WIDTHS)


def test_an_invertible_map_of_one_modality_changes_nothing_without_a_ridge():
    values, present = complete()
    mixed = dict(values, image=values["image"] @ torch.randn(5, 5, dtype=torch.float64) + 3)
    outputs = []
    for each in (values, mixed):
        solution = solve(moments_of((each, present)), 4, ridge=0)
        heads = {name: solution.head(name, power=1.0) for name in WIDTHS}
        outputs.append(oriented(torch.cat([each[name] @ A + b for name, (A, b) in heads.items()])))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-7, atol=1e-7)


def test_heads_are_scaled_by_the_values_and_centred():
    data = complete()
    solution = solve(moments_of(data), 3)
    plain, scaled = solution.head("text", power=0), solution.head("text", power=2, dim=2)
    torch.testing.assert_close(scaled.weight, plain.weight[:, :2] * solution.values[:2] ** 2)
    torch.testing.assert_close(
        reference.mean(data, "text") @ scaled.weight + scaled.bias, torch.zeros(2).double(), atol=1e-12, rtol=0
    )


def test_few_rows_and_large_matrices_take_other_paths_to_the_same(monkeypatch):
    data = complete(6)
    roots = Analysis(moments_of(data))
    assert roots._root is not None
    direct = Analysis(moments_of(data))
    direct.__dict__["_root"] = None
    torch.testing.assert_close(roots.solve(3).values, direct.solve(3).values, rtol=1e-10, atol=0)
    torch.testing.assert_close(stacked(roots.solve(3)), stacked(direct.solve(3)), rtol=1e-8, atol=1e-8)
    monkeypatch.setattr(criteria, "DENSE", 4)
    calls = []
    lobpcg = torch.lobpcg
    monkeypatch.setattr(torch, "lobpcg", lambda *a, **k: calls.append(1) or lobpcg(*a, **k))
    moments = moments_of(complete())
    leading = solve(moments, 1)
    assert calls
    torch.testing.assert_close(leading.values, solve(moments).values[:1], rtol=1e-10, atol=0)


def constant():
    values, present = complete()
    return moments_of((dict(values, text=torch.full_like(values["text"], 3.7)), present))


def apart():
    values, _ = complete()
    return moments_of(
        (values, {"text": torch.arange(40) < 21, "image": torch.arange(40) >= 20, "audio": torch.arange(40) < 20})
    )


@pytest.mark.parametrize(
    ("moments", "options", "match"),
    [
        (lambda: moments_of(complete()), {"dim": 11}, r"`dim` must lie in \[1, 10\], the rank"),
        (
            lambda: moments_of(complete(5)),
            {"dim": 7},
            "`dim` must be at most 4, the rank of the modalities' rows together; got 7",
        ),
        (lambda: moments_of(complete()), {"dim": 3, "criterion": "sumcor"}, r"`dim` must lie in \[1, 2\]"),
        (lambda: moments_of(complete()), {"ridge": -1.0}, "`ridge` must be a finite number of at least 0"),
        (lambda: moments_of(complete()), {"ridge": {"text": 1.0}}, "or one for each of text, image, audio"),
        (
            lambda: moments_of(complete(4)),
            {"ridge": 0},
            "`ridge` must be positive: column `image` has width 5, its rows span 3",
        ),
        (lambda: moments_of(complete()), {"criterion": "minvar"}, "`criterion` must be one of maxvar, sumcor, genvar"),
        (constant, {}, "column `text` is the same in every row"),
        (apart, {}, "column `image` shares fewer than two rows with every other"),
        (lambda: Moments.of({"text": torch.randn(4, 2)}), {}, "`moments` must be of at least two columns"),
    ],
)
def test_what_cannot_be_solved_says_why(moments, options, match):
    with pytest.raises(InputError, match=match):
        solve(moments(), **options)
