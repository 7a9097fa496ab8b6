"""The Triton kernels give what the formulas give; without a GPU in Triton's interpreter, with small tiles to be quick."""

import os

import pytest
import torch

triton = pytest.importorskip("triton")

from gramian.kernels.triton import programs  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SMALL = None if DEVICE == "cuda" else programs.Plan(16, 32, 16, 4, 1, 2)
Q, N, D = 37, 53, 24
EPS = 2.0**-23
KINDS = [("linear", 1), *((kind, k) for kind in ("residual", "projection") for k in (1, 2, 3))]

pytestmark = pytest.mark.skipif(
    DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1", reason="needs a CUDA GPU or Triton's interpreter"
)


def scores_of(kind, A, B, a2=None, w=None, t=None, offset=None):
    """The definitions, all pairs at once."""
    products = torch.einsum("id,kjd->kij", A, B)
    if kind == "linear":
        return products[0] if offset is None else products[0] + offset
    squares = products.square().sum(0)
    if kind == "residual":
        rest = a2[:, None] - squares
        return w * torch.where(rest > EPS, rest.clamp(min=EPS).sqrt(), rest.clamp(min=0) / EPS**0.5)
    positive = squares > 0
    length = torch.where(positive, squares.where(positive, 1).sqrt(), 0)
    length = torch.where(length > 1, 1, length)
    if t is not None:
        length = torch.where(torch.einsum("kij,jk->ij", products, t) < 0, -length, length)
    return w * length


def sums_of(scores, row_ids=None, column_ids=None, shift=0):
    allowed = torch.ones_like(scores, dtype=torch.bool)
    if row_ids is not None:
        i, j = torch.meshgrid(*(torch.arange(size, device=scores.device) for size in scores.shape), indexing="ij")
        allowed = (row_ids[:, None] != column_ids) | (j == i + shift)
    masked, counted = scores.masked_fill(~allowed, -torch.inf), scores.masked_fill(~allowed, 0)
    return masked.logsumexp(1), masked.logsumexp(0), counted.sum(1), counted.sum(0)


def world(kind, k, *, q=Q, n=N, d=D, dtype=torch.float32, seed=0, **given):
    """Operands of one kind of score: lengths that leave residuals of all sizes and some projections longer than 1."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator).to(DEVICE)

    A = torch.nn.functional.normalize(draw(q, d), dim=-1)
    B = torch.linalg.qr(draw(n, d, k))[0].permute(2, 0, 1).contiguous()
    B[:, ::5] *= 4
    operands = {"A": A.to(dtype), "B": B.to(dtype)}
    if kind == "residual":
        # Far from 0, where float32 has no digits of it left, unless it is below.
        operands["a2"] = 1 + 0.2 * draw(q).abs()
    if kind != "linear":
        operands["w"] = 5 * draw(n)
    return operands | {name: value.to(DEVICE) if isinstance(value, torch.Tensor) else value for name, value in given.items()}


def extras(kind, k, seed=1):
    """All that is optional, at once."""
    generator = torch.Generator().manual_seed(seed)
    ids = {"row_ids": torch.randint(4, (Q,), generator=generator), "column_ids": torch.randint(4, (N,), generator=generator)}
    if kind == "linear":
        return {**ids, "shift": 7, "offset": torch.randn(N, generator=generator)}
    if kind == "projection":
        return {**ids, "shift": -5, "t": torch.randn(N, k, generator=generator)}
    return {**ids, "shift": 20}


def expected_of(kind, operands, totals):
    """Sums and gradients of a fixed combination of them, in float64."""
    pairs = {name: operands[name] for name in ("row_ids", "column_ids", "shift") if name in operands}
    leaves = {
        name: value.detach().double().requires_grad_(name != "t") for name, value in operands.items() if name not in pairs
    }
    sums = sums_of(scores_of(kind, **leaves), **pairs)
    weights = weights_of(sums, totals)
    used = [(sum_, weight) for sum_, weight in zip(sums, weights, strict=True) if weight is not None]
    total = sum((sum_.where(sum_ > -torch.inf, 0) * weight.double()).sum() for sum_, weight in used)
    total.backward()
    return [sum_.detach() for sum_ in sums], {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}


def weights_of(sums, totals):
    generator = torch.Generator().manual_seed(2)
    weights = [torch.randn(len(sum_), generator=generator).to(DEVICE) for sum_ in sums]
    return weights if totals else [*weights[:2], None, None]


def check(kind, operands, *, totals=False, plan=SMALL, sizes=(programs.PARTIALS, programs.SCRATCH), tolerance=2e-5):
    """The fused sums and gradients against the formulas; errors relative to the largest entry of each."""
    expected, slopes = expected_of(kind, operands, totals)
    A, B, rest = operands["A"], operands["B"], {name: value for name, value in operands.items() if name not in "AB"}
    found = programs.log_sums(kind, A, B, **rest, totals=totals, _plan=plan, _bytes=sizes[0])
    assert len(found) == (4 if totals else 2)
    for value, wanted in zip(found, expected, strict=False):
        assert value.dtype == torch.float32
        close(value, wanted, tolerance)
    grad_R, grad_C, grad_rows, grad_columns = weights_of(expected, totals)
    grads = {"grad_row_totals": grad_rows, "grad_column_totals": grad_columns}
    slope = programs.gradients(kind, A, B, *found[:2], grad_R, grad_C, **rest, **grads, _plan=plan, _bytes=sizes[1])
    assert {name[1:] for name, value in slope._asdict().items() if value is not None} == set(slopes)
    for name, wanted in slopes.items():
        value = getattr(slope, f"d{name}")
        assert value.dtype == torch.float32
        close(value, wanted, 10 * tolerance)
    return found, slope


def close(found, expected, tolerance):
    assert found.shape == expected.shape
    finite = expected.isfinite()
    assert torch.equal(found.isfinite(), finite) and torch.equal(found[~finite], expected[~finite].float())
    if finite.any():
        error = (found.double() - expected)[finite].abs().max() / expected[finite].abs().max().clamp(min=1e-30)
        assert error < tolerance


@pytest.mark.parametrize("totals", [False, True])
@pytest.mark.parametrize(("kind", "k"), KINDS)
def test_agrees_with_the_definition(kind, k, totals):
    check(kind, world(kind, k), totals=totals)


@pytest.mark.parametrize("totals", [False, True])
@pytest.mark.parametrize(("kind", "k"), KINDS)
def test_agrees_with_the_definition_with_all_options(kind, k, totals):
    check(kind, world(kind, k, **extras(kind, k)), totals=totals)


def test_four_bases_and_the_other_ways_to_cut_a_tile():
    for pieces in (1, 4, 8):
        plan = SMALL and programs.Plan(32, 16, 16, 4, 1, pieces)
        check("projection", world("projection", 4, **extras("projection", 4)), plan=plan)
        check("residual", world("residual", 4), plan=plan)


@pytest.mark.parametrize(("kind", "k"), [("linear", 1), ("residual", 2), ("projection", 3)])
def test_strips_change_nothing(kind, k):
    operands = world(kind, k, **extras(kind, k))
    whole, slopes = check(kind, operands, totals=True)
    parts, others = check(kind, operands, totals=True, sizes=(500, 3000))
    for value, other in zip((*whole, *slopes), (*parts, *others), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("aspect", [1, 3])
@pytest.mark.parametrize(("q", "n"), [(1, 1), (37, 53), (5000, 70), (70, 5000), (3000, 4000)])
def test_strips_cover_the_table_once_and_are_bounded(q, n, aspect):
    plan = programs.Plan(16, 32, 16, 4, 1)
    strips = list(programs._strips(q, n, 40_000, plan, aspect))
    assert len(strips) == 1 or q * n > 40_000
    seen = torch.zeros(q, n, dtype=torch.int32)
    for rows, columns in strips:
        seen[rows, columns] += 1
        assert rows.start % plan.rows == 0 and columns.start % plan.columns == 0
        assert (rows.stop - rows.start) * (columns.stop - columns.start) <= 40_000
    assert (seen == 1).all()
    assert len(strips) <= 2 + 2 * q * n / 40_000


@pytest.mark.parametrize(("kind", "k"), [("linear", 1), ("residual", 2), ("projection", 2)])
def test_scores_far_apart(kind, k):
    # Rows and columns whose sums are more than e^60 apart do not share an exponential.
    operands = world(kind, k, **extras(kind, k))
    if kind == "linear":
        operands["offset"] = operands["offset"] * 100
        operands["A"] = operands["A"] * torch.linspace(1, 300, Q, device=DEVICE)[:, None]
    else:
        operands["w"] = operands["w"] * 30
    check(kind, operands)


@pytest.mark.parametrize(("kind", "k"), [("linear", 1), ("residual", 2), ("projection", 3)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits(kind, k, dtype):
    # The reference sees the rounded features: what is left is the rounding of the products' gradients.
    operands = world(kind, k, dtype=dtype, **extras(kind, k))
    A, B, rest = operands["A"], operands["B"], {name: value for name, value in operands.items() if name not in "AB"}
    expected, slopes = expected_of(kind, operands, totals=False)
    found = programs.log_sums(kind, A, B, **rest, _plan=SMALL)
    for value, wanted in zip(found, expected, strict=False):
        close(value, wanted, 2e-5)
    weights = weights_of(expected, totals=False)
    slope = programs.gradients(kind, A, B, *found, *weights[:2], **rest, _plan=SMALL)
    for name, wanted in slopes.items():
        close(getattr(slope, f"d{name}"), wanted, 1e-2 if name in "AB" and dtype == torch.bfloat16 else 2e-3)


@pytest.mark.parametrize("size", [1e-12, 1e12])
def test_float16_holds_gradients_of_any_size(size):
    operands = world("residual", 2, dtype=torch.float16)
    A, B, rest = operands["A"], operands["B"], {name: value for name, value in operands.items() if name not in "AB"}
    R, C = programs.log_sums("residual", A, B, **rest, _plan=SMALL)
    ones = torch.ones_like(R), torch.ones_like(C)
    plain = programs.gradients("residual", A, B, R, C, *ones, **rest, _plan=SMALL)
    scaled = programs.gradients("residual", A, B, R, C, *(size * one for one in ones), **rest, _plan=SMALL)
    for value, other in zip(plain, scaled, strict=True):
        if value is not None:
            close(other / size, value.double(), 2e-3)


def test_strided_operands():
    operands = world("projection", 2, **extras("projection", 2))
    wide = torch.zeros(Q, 2 * D, device=DEVICE)
    wide[:, ::2] = operands["A"]
    items = operands["B"].permute(2, 1, 0).contiguous().permute(2, 1, 0)
    weight = torch.stack([operands["w"], operands["w"]], 1)[:, 0]
    strided = {**operands, "A": wide[:, ::2], "B": items, "w": weight, "t": operands["t"].T.contiguous().T}
    assert not any(strided[name].is_contiguous() for name in ("A", "B", "w", "t"))
    check("projection", strided)


def test_features_in_whole_blocks_and_a_single_pair():
    check("residual", world("residual", 2, d=32))
    check("linear", world("linear", 1, q=1, n=1, d=3), tolerance=1e-4)
    check("linear", world("linear", 1, q=1, n=70))
    check("projection", world("projection", 3, q=70, n=1))


@pytest.mark.parametrize(("kind", "k"), [("linear", 1), ("residual", 2), ("projection", 2)])
def test_rows_and_columns_with_nothing_left(kind, k):
    row_ids, column_ids = torch.zeros(Q, dtype=torch.int64), torch.zeros(N, dtype=torch.int64)
    row_ids[3] = 1
    row_ids[20:] = 2
    column_ids[:40] = 2
    # First every row keeps some columns; then most rows keep none; then nothing is left.
    check(kind, world(kind, k, row_ids=row_ids, column_ids=column_ids, shift=1000), totals=True)
    found, _ = check(
        kind,
        world(kind, k, row_ids=row_ids.clamp(max=1), column_ids=torch.zeros_like(column_ids), shift=-1000),
        totals=True,
    )
    assert torch.equal(found[0] > -torch.inf, (row_ids > 0).to(DEVICE)) and (found[2][row_ids.to(DEVICE) == 0] == 0).all()
    nothing, slopes = check(
        kind,
        world(kind, k, row_ids=torch.zeros_like(row_ids), column_ids=torch.zeros_like(column_ids), shift=1000),
        totals=True,
    )
    assert (nothing[0] == -torch.inf).all() and (nothing[1] == -torch.inf).all()
    assert all((slope == 0).all() for slope in slopes if slope is not None)


def test_matches_count_whatever_their_ids():
    ids = torch.zeros(Q, dtype=torch.int64)
    operands = world("linear", 1, n=Q, row_ids=ids, column_ids=ids, shift=0)
    R, C = programs.log_sums("linear", **operands, _plan=SMALL, _bytes=500)
    matches = (operands["A"] * operands["B"][0]).sum(1)
    torch.testing.assert_close(R, matches)
    torch.testing.assert_close(C, matches)


def test_one_kind_of_ids_alone_leaves_nothing_out():
    operands = world("linear", 1)
    ids = torch.zeros(Q, dtype=torch.int64, device=DEVICE)
    plain = programs.log_sums("linear", **operands, _plan=SMALL)
    for value, other in zip(plain, programs.log_sums("linear", **operands, row_ids=ids, _plan=SMALL), strict=True):
        assert torch.equal(value, other)


def test_identical_and_orthogonal_vectors():
    # Products of 0 and ±1 are exact: residuals of 0, lengths of 0 and 1 and sums of 0 are what they are.
    axes = torch.cat([torch.eye(8), -torch.eye(8)]).to(DEVICE)
    B = torch.stack([axes, axes.roll(1, 0)])
    w = torch.linspace(-3, 3, 16, device=DEVICE)
    a2 = torch.ones(16, device=DEVICE)
    a2[::3] = EPS / 2 + 1  # rounds to 1 + EPS or to 1; a residual of ε or of 0
    a2[1::3] = 0.5  # a negative one
    t = torch.tensor([[1.0, -1.0]], device=DEVICE).repeat(16, 1)
    t[::4] = 0  # no side at all: a positive one
    _, residual = check("residual", {"A": axes, "B": B, "a2": a2, "w": w}, totals=True)
    _, projection = check("projection", {"A": axes, "B": B, "w": w, "t": t}, totals=True)
    _, plain = check("projection", {"A": 0 * axes, "B": B, "w": w})
    assert (plain.dA == 0).all()
    for slope in (*residual, *projection):
        assert slope is None or slope.isfinite().all()


def test_residuals_within_rounding_of_zero():
    # Noise decides which side of 0 they fall on, so that only bounds can be asked for.
    operands = world("residual", 1, q=20, n=20)
    operands["A"] = torch.nn.functional.normalize(operands["B"][0], dim=-1)
    operands["B"] = operands["A"][None]
    operands["a2"] = operands["A"].square().sum(1)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        A, B, rest = operands["A"].to(dtype), operands["B"].to(dtype), {name: operands[name] for name in ("a2", "w")}
        R, C = programs.log_sums("residual", A, B, **rest, _plan=SMALL)
        slopes = programs.gradients("residual", A, B, R, C, torch.ones_like(R), torch.ones_like(C), **rest, _plan=SMALL)
        assert all(value.isfinite().all() for value in (R, C, *slopes[:4]))
        assert slopes.dA.abs().max() > 0


def test_empty_tables():
    for q, n in ((0, 5), (5, 0), (0, 0)):
        operands = world("residual", 2, q=q, n=n)
        A, B, rest = operands["A"], operands["B"], {name: operands[name] for name in ("a2", "w")}
        found = programs.log_sums("residual", A, B, **rest, totals=True)
        assert [len(value) for value in found] == [q, n, q, n]
        assert all((value == -torch.inf).all() for value in found[:2]) and all((value == 0).all() for value in found[2:])
        slopes = programs.gradients("residual", A, B, *found[:2], *found[2:], **rest)
        assert slopes.dA.shape == A.shape and slopes.dB.shape == B.shape and not slopes.dA.any() and not slopes.dB.any()


@pytest.mark.filterwarnings("ignore:All-NaN slice encountered:RuntimeWarning")  # the interpreter's maximum
@pytest.mark.parametrize(("kind", "k"), [("linear", 1), ("residual", 2), ("projection", 2)])
def test_a_missing_number_is_not_hidden(kind, k):
    operands = world(kind, k)
    operands["A"][3, 2] = torch.nan
    R, C = programs.log_sums(kind, **operands, _plan=SMALL)
    assert R.isnan().nonzero().tolist() == [[3]] and C.isnan().all()


def test_expanded_gradients_and_no_graph():
    operands = world("projection", 1)
    A, B, w = operands["A"].requires_grad_(), operands["B"].requires_grad_(), operands["w"].requires_grad_()
    R, C = programs.log_sums("projection", A, B, w=w, _plan=SMALL)
    one = torch.ones((), device=DEVICE)
    slopes = programs.gradients("projection", A, B, R, C, one.expand(Q), one.expand(N), w=w, _plan=SMALL)
    again = programs.gradients("projection", A, B, R, C, torch.ones_like(R), torch.ones_like(C), w=w, _plan=SMALL)
    assert torch.equal(slopes.dA, again.dA) and not R.requires_grad and not slopes.dA.requires_grad


@pytest.mark.parametrize("name", ["cosine", "volume", "span"])
@pytest.mark.parametrize(("shift", "totals", "repeated"), [(0, True, True), (2, False, False), (-1, True, True)])
def test_as_a_form_of_log_sums(name, shift, totals, repeated):
    """Behind the losses: the five outputs and their gradients are those of the blocked form."""
    from gramian import Bundle
    from gramian.kernels import Pairs, log_sums
    from gramian.kernels.triton.forms import fused_sums
    from gramian.scores import SCORES
    from gramian.scores.sides import sides

    results = []
    for wrap in ("blocked", "fused"):
        generator = torch.Generator().manual_seed(4)
        a, z = (
            torch.nn.functional.normalize(torch.randn(shape, generator=generator), dim=-1) for shape in ((19, 1, 9), (21, 2, 9))
        )
        a, z = (part.to(DEVICE).requires_grad_() for part in (a, z))
        there = [torch.ones(part.shape[:2], dtype=torch.bool, device=DEVICE) for part in (a, z)]
        items = Bundle(a, there[0], ("text",)), Bundle(z, there[1], ("image", "audio"))
        form = SCORES[name].form(*sides(*items)).over(torch.tensor(0.2, device=DEVICE))
        ids = (torch.arange(19, device=DEVICE) % 7, torch.arange(21, device=DEVICE) % 7) if repeated else (None, None)
        if wrap == "blocked":
            sums = tuple(log_sums(form, Pairs(*ids, shift), totals=totals, block_size=8))
        else:
            sums = fused_sums(form, *ids, shift, totals=totals, dtype=torch.float32, plan=SMALL)
        weights = [torch.linspace(-1, 2, len(part), device=DEVICE) for part in sums]
        total = sum((part * weight).sum() for part, weight in zip(sums, weights, strict=True))
        results.append((*sums, *torch.autograd.grad(total, (a, z))))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_behind_the_losses_by_an_argument_alone(monkeypatch, precision):
    """Torch's own settings lead nowhere; `backend="triton"` does, and agrees to the rounding of bfloat16's products."""
    from gramian import Bundle
    from gramian.kernels import log_sums
    from gramian.kernels.triton import forms
    from gramian.scores import SCORES
    from gramian.scores.sides import sides

    vectors = torch.nn.functional.normalize(torch.randn(9, 3, 16, generator=torch.Generator().manual_seed(5)), dim=-1).to(
        DEVICE
    )
    bundle = Bundle(vectors, torch.ones(9, 3, dtype=torch.bool, device=DEVICE), ("text", "image", "audio"))
    form = SCORES["volume"].form(*sides(bundle.select("text"), bundle.select("image", "audio")))
    asked = []
    monkeypatch.setattr(forms, "check_triton", asked.append)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        plain = log_sums(form)
        assert not asked
        fused = log_sums(form, backend="triton")
        assert asked == [form]
    finally:
        torch.set_float32_matmul_precision(before)
    for got, wanted in zip(fused, plain, strict=True):
        torch.testing.assert_close(got, wanted, rtol=2e-2, atol=2e-2)  # bfloat16 has eight bits


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rule": "cone"}, "no kernel has this score; cosine, volume and span of one vector have. Use backend='torch'"),
        ({"width": 5}, "the kernels take items of at most 4 vectors; got 5"),
        ({"dtype": torch.float64}, "the kernels take vectors of at most 32 bits; got torch.float64"),
        ({"triton": None}, "`backend` 'triton' cannot serve here: Triton is not installed"),
        ({"interpreted": "0"}, "the kernels need a CUDA GPU; the vectors are on cpu"),
    ],
)
def test_what_the_kernels_cannot_serve_is_an_error_that_says_why(monkeypatch, change, message):
    from gramian import Bundle, InputError
    from gramian.kernels import log_sums
    from gramian.kernels.triton import forms
    from gramian.scores import SCORES
    from gramian.scores.sides import sides

    if "triton" in change:
        monkeypatch.setattr(forms, "find_spec", lambda _: None)
    if "interpreted" in change:
        monkeypatch.setenv("TRITON_INTERPRET", change["interpreted"])
    m, dtype = change.get("width", 2), change.get("dtype", torch.float32)
    device = "cpu" if "interpreted" in change else DEVICE
    vectors = torch.nn.functional.normalize(torch.ones(3, m + 1, 8, dtype=dtype, device=device), dim=-1)
    present = torch.ones(3, m + 1, dtype=torch.bool, device=device)
    bundle = Bundle(vectors, present, tuple("abcdef"[: m + 1]))
    form = SCORES[change.get("rule", "volume")].form(*sides(bundle.select("a"), bundle.select(*bundle.modalities[1:])))
    with pytest.raises(InputError, match=message):
        log_sums(form, backend="triton")
