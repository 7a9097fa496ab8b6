"""Kernel features, heads that canonical analysis solves for, and the Aligner in closed form."""

import pytest
import torch

from gramian import Aligner, Pairwise, Recipe, Table, evaluate, fit
from gramian.canonical.features import Kernel, Nystroem
from gramian.errors import InputError
from gramian.model import Custom, Modality
from gramian.model.heads import linear_of
from gramian.model.starts import EncodedRows, fill_heads, identity_heads, moments_of
from reference import canonical as reference
from synthetic import world

NAMES = ("text", "image", "audio")


def rows(n=30, width=6, seed=0):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


def cosine(x, y, power):
    cosines = torch.nn.functional.normalize(x.double(), dim=1) @ torch.nn.functional.normalize(y.double(), dim=1).T
    return ((1 + cosines) / 2) ** power


def rbf(x, y, power, landmarks):
    pairs = torch.pdist(landmarks.double()).square()
    return torch.exp(-power * torch.cdist(x.double(), y.double()).square() / pairs.median())


@pytest.mark.parametrize("name", ["cosine", "rbf"])
@pytest.mark.parametrize("power", [1.0, 3.0])
def test_nystroem_features_are_exact_where_one_side_is_a_landmark(name, power):
    x, y = rows(), rows(12, seed=1)
    features = Nystroem(6, Kernel(name, power=power, landmarks=30))
    features.adapt(x)
    wanted = cosine(x, y, power) if name == "cosine" else rbf(x, y, power, x)
    torch.testing.assert_close((features(x) @ features(y).T).double(), wanted, rtol=0, atol=1e-3)


def test_whitened_features_of_the_landmarks_are_orthonormal():
    features = Nystroem(6, Kernel("rbf", landmarks=30, whiten=True))
    features.adapt(rows())
    torch.testing.assert_close(features(rows()).T @ features(rows()), torch.eye(30), rtol=0, atol=1e-3)


def test_fewer_rows_than_landmarks_and_equal_rows_leave_zeros():
    features = Nystroem(6, Kernel(landmarks=50))
    few = rows(8)
    features.adapt(torch.cat([few, few]))
    phi = features(few)
    assert int((phi.abs().sum(0) > 0).sum()) == 8 and bool(phi.isfinite().all())
    torch.testing.assert_close((phi @ phi.T).double(), cosine(few, few, 4), rtol=0, atol=1e-4)


def test_kmeans_takes_the_centres_of_the_rows():
    centres = torch.tensor([[5.0, 0.0], [0.0, 5.0], [-5.0, -5.0]])
    values = centres.repeat(40, 1) + 0.1 * rows(120, 2)
    features = Nystroem(2, Kernel("rbf", landmarks=3, choice="kmeans"))
    for seed in range(20):
        features.adapt(values, seed=seed)
        if float(torch.cdist(features.landmarks, centres).amin(0).max()) < 0.1:
            return
    pytest.fail("no start found the centres")


def test_kernels_that_cannot_be():
    with pytest.raises(InputError, match=r"`kernel\.name` must be one of cosine, rbf"):
        Kernel("linear")
    with pytest.raises(InputError, match=r"`kernel\.power` must lie in"):
        Kernel(power=0)
    with pytest.raises(InputError, match="must be a whole number for the cosine"):
        Kernel(power=2.5)
    with pytest.raises(InputError, match=r"`kernel\.landmarks` must be an integer"):
        Kernel(landmarks=0)
    with pytest.raises(InputError, match="no landmarks yet"):
        Nystroem(3)(torch.ones(1, 3))
    with pytest.raises(InputError, match=r"must be finite and of shape \(n, 3\)"):
        Nystroem(3).adapt(torch.ones(2, 4))
    with pytest.raises(InputError, match="the kernel has no landmarks"):
        Aligner({"text": Modality(3, "kernel")}, dim=2)({"text": torch.ones(1, 3)})


@pytest.mark.parametrize("name", ["cosine", "rbf"])
def test_kernel_maxvar_is_the_exact_dual_form(name):
    table = world(60)
    train, test = table.part("train"), table.part("test")
    aligner = Aligner.canonical(train, head="kernel", kernel=Kernel(name, power=2), dim=5, ridge=0.5, power=1.5)
    standard = [{each: aligner.towers[each](part.features(each)) for each in NAMES} for part in (train, test)]
    kernels, queries = (
        {each: cosine(side[each], x, 2) if name == "cosine" else rbf(side[each], x, 2, x) for each, x in standard[0].items()}
        for side in standard
    )
    wanted = reference.kernel_maxvar(kernels, queries, 0.5, 1.5, 5)
    got = aligner.embed(test)
    signs = torch.ones(5, dtype=torch.float64)
    for each in NAMES:
        product = got.column(each).double().T @ wanted[each]
        signs = product.diagonal().sign() if each == NAMES[0] else signs
        torch.testing.assert_close(got.column(each).double() * signs, wanted[each], rtol=0, atol=2e-3)


@pytest.mark.parametrize("head", ["linear", "residual", "kernel", {"text": "linear", "image": "kernel", "audio": "residual"}])
def test_the_closed_form_gives_an_aligner_like_any_other(tmp_path, head):
    table = world(200, missing=0.2)
    test = table.part("test").has_any()
    aligner = Aligner.canonical(table.part("train"), head=head, dim=6, ridge=0.01)
    assert not aligner.training
    bundle = aligner.embed(test)
    recall = evaluate(bundle, subsets="none").matrix(1)
    assert float(torch.tensor(recall).nan_to_num(1).min()) > 0.25  # of 42 candidates
    aligner.save_pretrained(tmp_path)
    again = Aligner.from_pretrained(tmp_path)
    assert torch.equal(again.embed(test).vectors, bundle.vectors)
    assert {name: one.head for name, one in again.modalities.items()} == (
        head if isinstance(head, dict) else dict.fromkeys(NAMES, head)
    )


def test_the_width_of_the_space_is_what_the_items_have():
    assert Aligner.canonical(world(20).part("train"), head="linear").dim == 9  # of ten items
    with pytest.raises(InputError, match="`dim` must be at most 9"):
        Aligner.canonical(world(20).part("train"), head="linear", dim=10)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"head": "mlp"}, "`head` must be 'linear', 'residual' or 'kernel'"),
        ({"head": {"text": "linear"}}, "name one for each of text, image, audio; got text"),
        ({"head": "linaer"}, "Did you mean 'linear'"),
        ({"ridge": -1}, "`ridge` must be a finite number"),
    ],
)
def test_closed_forms_that_cannot_be(options, match):
    with pytest.raises(InputError, match=match):
        Aligner.canonical(world(40).part("train"), **options)


@pytest.mark.parametrize("head", ["linear", "kernel"])
def test_a_constant_modality_is_refused(head):
    table = Table.from_columns({"a": rows(20, 4), "b": torch.full((20, 3), 0.7), "c": rows(20, 5, seed=1)})
    with pytest.raises(InputError, match="column `b` is the same in every row"):
        Aligner.canonical(table, head=head)


def test_raw_cells_are_encoded_once():
    reads = []

    def read(cell):
        reads.append(cell)
        return torch.tensor([float(cell), float(cell) ** 2, 1.0])

    numbers = [f"{i}" for i in range(12)]
    table = Table.from_columns({"digit": numbers, "code": torch.tensor([[float(n), -(float(n) ** 2)] for n in numbers])})
    tower = Custom(torch.nn.Identity(), 3, read=read)
    aligner = Aligner.canonical(table, head="linear", towers={"digit": tower}, dim=2)
    assert len(reads) == 12
    passes = EncodedRows(aligner.towers, table)
    assert [len(list(passes)), len(list(passes)), len(reads)] == [1, 1, 24]


def test_a_kernel_head_trains_under_a_loss_and_its_landmarks_on_request():
    table = world(80)
    ends = {}
    for learnable in (False, True):
        aligner = Aligner.for_table(table.part("train"), dim=8, head="kernel", kernel=Kernel(landmarks=20, learnable=learnable))
        before = {name: value.clone() for name, value in aligner.state_dict().items()}
        fit(aligner, Pairwise(), table.part("train"), recipe=Recipe(epochs=1, batch_size=16), progress=False, cpu=True)
        ends[learnable] = {name for name, value in aligner.state_dict().items() if not torch.equal(before[name], value)}
    assert {"heads.0.linear.weight"} <= ends[False] and "heads.0.features.landmarks" not in ends[False]
    assert {"heads.0.features.landmarks", "heads.0.features.sharpness"} <= ends[True]
    assert not any("basis" in name for name in ends[True])


def test_a_residual_head_starts_as_its_linear_map():
    table = world(40).part("train")
    aligner = Aligner.for_table(table, dim=4, head="residual").eval()
    linear = Aligner.canonical(table, dim=4, head="linear", power=2)
    fill_heads(aligner.named_heads(), _solution(aligner, table), 2)
    torch.testing.assert_close(aligner.embed(table).vectors, linear.embed(table).vectors)


def _solution(aligner, table):
    from gramian.canonical import solve

    return solve(moments_of(EncodedRows(aligner.towers, table), aligner.named_heads()), 4)


def test_the_identity_start_leaves_vectors_where_they_stand():
    columns = {"a": 3 + rows(10, 4), "b": rows(10, 4, seed=1)}
    table = Table.from_columns(columns)
    aligner = Aligner.for_table(table, dim=4, head={"a": "linear", "b": "residual"}).eval()
    identity_heads(aligner.towers, aligner.named_heads())
    for name, column in columns.items():
        torch.testing.assert_close(aligner.embed(table).column(name), torch.nn.functional.normalize(column, dim=1))
        # A step of the optimiser weighs what it weighs on new weights.
        weight = linear_of(aligner.named_heads()[name]).weight.detach()
        assert float(weight.square().mean()) == pytest.approx(1 / (3 * 4), rel=1e-5)
    with pytest.raises(InputError, match="'identity' needs heads 'linear' or 'residual' of width `dim` = 5; column `a`"):
        identity_heads(aligner.towers, Aligner.for_table(table, dim=5).named_heads())


def _two(first=None, second=None, present=None):
    first, second = (rows(12, 5, seed) if value is None else value for seed, value in ((0, first), (1, second)))
    return Table.from_columns({"a": first, "b": second}, present=present)


@pytest.mark.parametrize("head", ["linear", "kernel"])
@pytest.mark.parametrize(
    ("make", "options", "match"),
    [
        (_two, {"dim": 4000}, r"`dim` must lie in \[1, \d+\], the rank"),
        (lambda: _two(torch.ones(12, 5)), {}, "is the same in every row. Leave it out"),
        (lambda: _two().select("a"), {}, "`moments` must be of at least two columns"),
        (
            lambda: _two(present={"a": torch.arange(12) < 7, "b": torch.arange(12) > 5}),
            {},
            "shares fewer than two rows with every other",
        ),
        (lambda: _two(torch.full((12, 5), torch.nan)), {}, "column `a` holds NaN or infinite values in 12 of 12 rows"),
        (lambda: _two(rows(4, 5), rows(4, 5, 1)), {"ridge": 0.0}, "`ridge` must be positive: column `a` has width"),
        (_two, {"ridge": -1.0}, "`ridge` must be a finite number of at least 0"),
    ],
)
def test_tables_that_have_no_closed_form_say_why_in_one_line(head, make, options, match):
    with pytest.raises(InputError, match=match) as error:
        Aligner.canonical(make(), head=head, **options)
    assert "\n" not in str(error.value)
