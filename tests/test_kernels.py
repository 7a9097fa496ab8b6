"""The blocked forms against the plain ones: values and gradients, uneven blocks, masks, ids; and that nothing grows as q·n."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gramian import PMRL, Bundle, Gram, Pairwise
from gramian.kernels import Form, Given, Linear, Pairs, all_pairs, log_sums, softplus_sums, tiles
from gramian.losses import Centroid, Contrast, HyperGram, Triangle, info_nce, sigmoid_loss
from gramian.scores import SCORES
from gramian.scores.sides import sides

FORMS = list(SCORES)
NAMES = ("text", "image", "audio")


def units(seed, *shape, lean=0.0):
    """Unit vectors that lean towards one direction."""
    vectors = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return F.normalize(vectors + lean * vectors[:1, :1], dim=-1)


def bundle(seed, n, m=3, d=8, missing=0.0, dtype=torch.float64, ids=None):
    """n items that lean towards a common direction of their own, some without some modality but the first."""
    vectors = units(seed, n, m, d, lean=1.0).to(dtype)
    present = torch.rand(n, m, generator=torch.Generator().manual_seed(seed)) >= missing
    present[:, 0] = True
    if m > 1:
        present[:, 1] |= ~present[:, 1:].any(1)
    vectors = vectors.masked_fill(~present[..., None], 0).requires_grad_()
    return Bundle(vectors, present, NAMES[:m], None if ids is None else torch.as_tensor(ids))


def pair(name, seed, q, n, wide, missing, dtype=torch.float64):
    """Queries of one vector, or of two where `wide`, and items; a triangle has three vectors at most."""
    m = 2 if wide and name != "triangle" else 1
    first = bundle(seed, q, m, missing=missing, dtype=dtype)
    second = bundle(seed + 1, n, 2 if name == "triangle" else 3, missing=missing, dtype=dtype)
    return first, second


def gradients(value, *bundles):
    return torch.autograd.grad(value, [items.vectors for items in bundles], retain_graph=True)


def literal(form, ids=None, shift=0):
    """The log-sums, matches and totals of a form from its whole table."""
    table = form.plain()
    q, n = table.shape
    match = torch.arange(q)[:, None] + shift == torch.arange(n)
    out = torch.zeros_like(match) if ids is None else (ids[0][:, None] == ids[1]) & ~match
    hidden = table.masked_fill(out, -torch.inf)
    return (
        hidden.logsumexp(1),
        hidden.logsumexp(0),
        (table * match).sum(1),
        table.masked_fill(out, 0).sum(1),
        table.masked_fill(out, 0).sum(0),
    )


def weigh(outputs):
    """A scalar in which every entry of every output counts differently."""
    return sum((output * torch.linspace(-1, 2, output.numel(), dtype=output.dtype).view_as(output)).sum() for output in outputs)


def close(got, expected, rtol=1e-9, atol=1e-10):
    torch.testing.assert_close(got, expected, rtol=rtol, atol=atol)


def small_tiles(monkeypatch, tile, plain=0, keep=2**28):
    monkeypatch.setattr(tiles, "TILE", tile)
    monkeypatch.setattr(tiles, "TILE_KEPT", tile)
    monkeypatch.setattr(tiles, "PLAIN", plain)
    monkeypatch.setattr(tiles, "KEEP", keep)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(("wide", "missing"), [(False, 0.0), (False, 0.4), (True, 0.4)])
@pytest.mark.parametrize("keep", [0, 2**28])
def test_tiles_of_every_score_are_the_whole_table(monkeypatch, name, wide, missing, keep):
    first, second = pair(name, 3, 7, 11, wide, missing)
    expected = SCORES[name](first, second)
    weights = torch.linspace(-1, 1, expected.numel(), dtype=torch.float64).view_as(expected)
    expected_grads = gradients((expected * weights).sum(), first, second)
    small_tiles(monkeypatch, 4, keep=keep)
    got = SCORES[name](first, second)
    close(got, expected)
    for grad, wanted in zip(gradients((got * weights).sum(), first, second), expected_grads, strict=True):
        close(grad, wanted)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("tile", [3, 64])
@pytest.mark.parametrize(("keep", "shift", "repeated"), [(0, 0, True), (2**28, 2, True), (2**28, -1, False)])
def test_log_sums_of_every_score(monkeypatch, name, tile, keep, shift, repeated):
    first, second = pair(name, 5, 7, 10, False, 0.3)
    form = SCORES[name].form(*sides(first, second)).over(torch.tensor(0.3))
    ids = (torch.tensor([0, 1, 0, 2, 3, 3, 4]), torch.tensor([9, 0, 1, 0, 2, 3, 3, 4, 1, 9])) if repeated else None
    expected = literal(form, ids, shift)
    expected_grads = gradients(weigh(expected), first, second)
    small_tiles(monkeypatch, tile, keep=keep)
    got = log_sums(form, Pairs(*(ids or (None, None)), shift), totals=True)
    for value, wanted in zip(got, expected, strict=True):
        close(value, wanted)
    for grad, wanted in zip(gradients(weigh(got), first, second), expected_grads, strict=True):
        close(grad, wanted)


def table_info_nce(logits, excluded=None, smoothing=0.0):
    """Symmetric cross-entropy against the diagonal by autograd over the whole table."""
    total, match = 0.0, torch.eye(len(logits), dtype=torch.bool)
    excluded = torch.zeros_like(match) if excluded is None else excluded
    for table, out in ((logits, excluded), (logits.T, excluded.T)):
        logs = table - table.masked_fill(out, -torch.inf).logsumexp(1, keepdim=True)
        share = (~out).to(logs.dtype) / (~out).sum(1, keepdim=True) * smoothing + match.to(logs.dtype) * (1 - smoothing)
        total = total - (logs * share).sum(1).mean() / 2
    return total


@pytest.mark.parametrize("name", FORMS)
def test_float32_agrees_to_a_hundred_thousandth(monkeypatch, name):
    """fp32 at a small temperature, uneven blocks and masks: within 1e-5 relative of the plain form in float64."""
    first, second = pair(name, 7, 45, 45, False, 0.3)
    tau = torch.tensor(0.05)
    expected = table_info_nce(SCORES[name].form(*sides(first, second)).over(tau).plain())
    expected_grads = gradients(expected, first, second)
    single = [
        Bundle(items.vectors.detach().float().requires_grad_(), items.present, items.modalities) for items in (first, second)
    ]
    small_tiles(monkeypatch, 16, keep=0)
    sums = log_sums(SCORES[name].form(*sides(*single)).over(tau))
    got = ((sums.rows + sums.columns) / 2 - sums.matches).mean()
    close(got.double(), expected, rtol=1e-5, atol=0)
    for grad, wanted in zip(gradients(got, *single), expected_grads, strict=True):
        assert (grad.double() - wanted).norm() <= 1e-5 * wanted.norm()


LOSSES = {
    "Gram": lambda size: Gram(block_size=size),
    "Gram, span": lambda size: Gram(score="span", anchor="each", block_size=size),
    "Gram, cone": lambda size: Gram(score="cone", anchor="each", block_size=size),
    "Pairwise": lambda size: Pairwise(block_size=size),
    "Pairwise, smoothed": lambda size: Pairwise(label_smoothing=0.2, temperature=0.02, block_size=size),
    "Pairwise, sigmoid": lambda size: Pairwise(objective="sigmoid", block_size=size),
    "Centroid": lambda size: Centroid(block_size=size),
    "Triangle": lambda size: Triangle(block_size=size),
    "HyperGram": lambda size: HyperGram(block_size=size),
    "Contrast, maxsim": lambda size: Contrast("maxsim", block_size=size),
    "Contrast, own": lambda size: Contrast(lambda a, b: a.column("text") @ b.vectors.mean(1).T, anchor="text", block_size=size),
    "PMRL": lambda size: PMRL(block_size=size),
    "PMRL, signed": lambda size: PMRL(signed=True, block_size=size),
    "Sum": lambda size: Gram(block_size=size) + 0.5 * Pairwise(block_size=size),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("ids", [None, [0, 1, 2, 3, 3, 5, 6, 7, 0, 9, 0]])
@pytest.mark.parametrize("size", [4, 100])
def test_losses_in_blocks_are_the_losses(name, ids, size):
    items = bundle(11, 11, missing=0.3, ids=ids)
    results = []
    for block_size in (None, size):
        loss = LOSSES[name](block_size)
        total = loss(items).total
        results.append((total, *torch.autograd.grad(total, [items.vectors, *loss.parameters()])))
    for plain, blocks in zip(*results, strict=True):
        close(blocks, plain, rtol=1e-6 if plain.dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("ids", [None, [0, 1, 0, 3, 4, 4, 0]])
def test_losses_of_a_table_or_its_form_are_those_of_autograd(smoothing, ids):
    logits = torch.randn(7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    ids = None if ids is None else torch.tensor(ids)
    match = torch.eye(7, dtype=torch.bool)
    excluded = ~match & False if ids is None else (ids[:, None] == ids) & ~match
    pairs = torch.nn.functional.logsigmoid(torch.where(match, logits, -logits)).masked_fill(excluded, 0)
    for plain, of in (
        (table_info_nce(logits, excluded, smoothing), info_nce(logits, ids, label_smoothing=smoothing)),
        (-pairs.sum() / 7, sigmoid_loss(Given.form(logits), ids)),
    ):
        close(of, plain)
        close(*(torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (of, plain)))


@pytest.mark.parametrize("spread", [1.0, 50.0, 200.0, 1e4])
@pytest.mark.parametrize("centre", [0.0, -300.0, 1e4])
def test_log_sums_survive_any_range(monkeypatch, spread, centre):
    """Rows and columns whose sums lie worlds apart, in float32: as good as torch's own logsumexp."""
    generator = torch.Generator().manual_seed(2)
    table = torch.randn(9, 9, generator=generator) * spread + centre + torch.linspace(0, spread, 9)[:, None]
    small_tiles(monkeypatch, 4)
    outputs = []
    for dtype in (torch.float32, torch.float64):
        logits = table.to(dtype, copy=True).requires_grad_()
        expected = (logits.logsumexp(1), logits.logsumexp(0)) if dtype == torch.float64 else log_sums(Given.form(logits))[:2]
        outputs.append((*expected, torch.autograd.grad(weigh(expected), logits)[0]))
    rounding = 4 * torch.finfo(torch.float32).eps * float(table.abs().max())  # of a score, and so relative in its exponential
    for got, wanted in zip(*outputs, strict=True):
        close(got.double(), wanted, rtol=max(rounding, 2e-6), atol=rounding)


def test_rows_without_a_pair_have_no_sum_and_no_gradient():
    table = torch.randn(3, 4, generator=torch.Generator().manual_seed(3), requires_grad=True)
    ids = torch.tensor([7, 7, 1]), torch.tensor([7, 7, 7, 7])
    sums = log_sums(Given.form(table), Pairs(*ids, shift=4), totals=True, block_size=2)  # no column matches a row
    assert sums.rows[:2].tolist() == [-math.inf] * 2 and sums.row_totals[:2].tolist() == [0, 0]
    assert sums.matches.tolist() == [0, 0, 0]
    close(sums.columns, table[2].detach())
    (grad,) = torch.autograd.grad(sums.rows[2] + sums.columns.sum(), table)
    assert (grad[:2] == 0).all() and grad.isfinite().all()


def test_softplus_sums_leave_matches_and_equal_ids_out():
    table = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(4), requires_grad=True)
    ids = torch.tensor([0, 1, 0, 2])
    sums = softplus_sums(Given.form(table), Pairs(ids, ids), block_size=3)
    counts = (ids[:, None] != ids).double()
    close(sums.rows, (F.softplus(table) * counts).sum(1))
    close(
        *(
            torch.autograd.grad(weigh(value), table)[0]
            for value in (sums, ((F.softplus(table) * counts).sum(1), table.diagonal()))
        )
    )


def test_the_kept_form_can_be_differentiated_again():
    items = bundle(13, 9)
    total = Gram()(items).total
    first, second = (torch.autograd.grad(total, items.vectors, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_graphs_that_are_alive_together_share_no_memory(order):
    batches = [bundle(13, 9), bundle(14, 9)]
    alone = [torch.autograd.grad(Gram()(items).total, items.vectors)[0] for items in batches]
    totals = [Gram()(items).total for items in batches]
    for i in order:
        close(torch.autograd.grad(totals[i], batches[i].vectors)[0], alone[i])


@pytest.mark.parametrize(("q", "n"), [(0, 0), (0, 5), (3, 0), (3, 5)])
def test_empty_sides(q, n):
    form = Form(Linear(), (torch.zeros(q, 4, requires_grad=True),), (torch.zeros(n, 4),))
    assert all_pairs(form, block_size=2).shape == (q, n)
    sums = log_sums(form, block_size=2)
    close(sums.rows, torch.full((q,), math.log(n) if n else -math.inf))
    sums.rows.sum().backward()


class Largest(TorchDispatchMode):
    """The most elements of any tensor that an operation has made."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        sizes = [
            leaf.untyped_storage().nbytes() // leaf.element_size()
            for leaf in tree_leaves(made)
            if isinstance(leaf, torch.Tensor)
        ]
        self.elements = max([self.elements, *sizes])
        return made


@pytest.mark.parametrize("name", [name for name in LOSSES if "maxsim" not in name and "own" not in name])
def test_no_tensor_grows_with_all_pairs(name):
    n, m, d = 192, 3, 4
    items, loss = bundle(17, n, m, d, dtype=torch.float32), LOSSES[name](16)
    with Largest() as largest:
        loss(items).total.backward()
    assert largest.elements <= 16 * 16 * 64 + 8 * n * m * d < n * n
    with Largest() as largest:
        LOSSES[name](None)(items).total.backward()
    assert largest.elements >= n * n  # what fits is kept


@pytest.mark.parametrize("rest", [1.0, 1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("size", [5, 33])
def test_near_the_span_gradients_are_good_to_rounding_over_what_is_left(rest, size):
    """All vectors lie within √rest of one plane, so that 1 − ‖Qᵀa‖² ≈ rest for every pair: see `Residual`."""
    generator = torch.Generator().manual_seed(0)
    plane = torch.linalg.qr(torch.randn(65, 2, generator=generator, dtype=torch.float64)).Q
    within, beyond = (F.normalize(torch.randn(61, 3, k, generator=generator, dtype=torch.float64), dim=-1) for k in (2, 65))
    vectors = F.normalize(within @ plane.T + rest**0.5 * beyond, dim=-1).float()
    results = []
    for dtype, block_size in ((torch.float64, None), (torch.float32, None), (torch.float32, size)):
        leaf = vectors.to(dtype).requires_grad_()
        total = Gram(block_size=block_size)(Bundle(leaf, torch.ones(61, 3, dtype=torch.bool), NAMES)).total
        results.append((total.item(), torch.autograd.grad(total, leaf)[0].double()))
    (value, exact), *others = results
    eps = torch.finfo(torch.float32).eps
    for got, grad in others:  # as many roundings as a product has features would allow far more than four
        assert abs(got - value) <= 4 * eps / (rest**0.5 * 0.07) + 8 * eps * value
        assert (grad - exact).norm() <= (4 * eps / rest + 16 * eps) * exact.norm()
    assert (others[0][1] - others[1][1]).norm() <= (4 * eps / rest + 16 * eps) * exact.norm()


@pytest.mark.parametrize("spread", [0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2])
@pytest.mark.parametrize("m", [2, 3])
def test_collapsed_tuples_have_at_most_the_error_that_residual_states(spread, m):
    """Each item's vectors lie within `spread` of each other, so that matches leave about spread²: in blocks as in the whole.

    Below √ε nothing of a match's slope is certain, but it never exceeds what it would be for any other pair.
    """
    eps = torch.finfo(torch.float32).eps
    vectors = F.normalize(units(0, 61, 1, 65) + spread * units(1, 61, m, 65), dim=-1).float()
    results = []
    for dtype, block_size in ((torch.float64, None), (torch.float32, None), (torch.float32, 9)):
        leaf = vectors.to(dtype).requires_grad_()
        total = Gram(block_size=block_size)(Bundle(leaf, torch.ones(61, m, dtype=torch.bool), NAMES[:m])).total
        results.append((total.item(), torch.autograd.grad(total, leaf)[0].double()))
    (value, exact), *others = results
    for got, grad in others:
        assert abs(got - value) <= eps**0.5 / 0.07
        assert (grad - exact).norm() <= 1.5 * min(1.0, eps / max(spread, eps) ** 2) * exact.norm() + eps**0.5


def test_block_size_is_checked():
    from gramian.errors import InputError

    for make in (Gram, Pairwise, Centroid, Triangle, HyperGram, Contrast, PMRL):
        with pytest.raises(InputError, match="`block_size` must be an integer of at least 1 or None; got 0"):
            make(block_size=0)
    with pytest.raises(InputError, match="`negatives` needs all scores at once"):
        Gram(negatives=3, block_size=16)
    assert "block_size=64" in repr(Gram(block_size=64)) and "block_size" not in repr(Gram())
    assert "block_size=64" in repr(PMRL(block_size=64))


def test_backend_is_checked(monkeypatch):
    from gramian.distributed import Ring
    from gramian.errors import InputError

    assert "backend='triton'" in repr(Gram(backend="triton")) and "backend" not in repr(Gram())
    with pytest.raises(InputError, match="`backend` must be one of torch, triton; got 'cuda'"):
        Gram(backend="cuda")
    for name in ("negatives", "block_size"):
        with pytest.raises(InputError, match="`backend` 'triton' cuts blocks of its own, of all negatives"):
            Contrast("span", backend="triton", **{name: 3})
    with pytest.raises(InputError, match="`negatives` and `backend` belong to `objective` 'softmax'; got 'sigmoid'"):
        Pairwise(objective="sigmoid", backend="triton")
    with pytest.raises(InputError, match="`loss` must have the backend 'torch' to pass round a ring"):
        Ring(Gram(backend="triton"))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    for loss in (Gram(backend="triton"), Pairwise(backend="triton"), HyperGram(backend="triton")):
        with pytest.raises(InputError, match="`backend` 'triton' cannot serve here"):
            loss(bundle(3, 5, dtype=torch.float32))
