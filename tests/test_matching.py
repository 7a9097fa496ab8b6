"""The matching loss, with a small head that records what it was asked: three groups, hard negatives, missing modalities."""

import math

import pytest
import torch

from gramian import Bundle, Gram, InputError, Matching
from gramian.errors import TooSmallError
from gramian.evaluation import saturation
from gramian.losses import hard_negatives
from gramian.scores import SCORES
from gramian.tokens import Tokens
from reference import angles
from reference import gram as reference_gram
from reference import matching as reference
from test_losses import KINDS, NAMES, batch, close, degenerate, missing

IDS = [0, 0, 1, 2, 3, 4, 4, 5]


class Head(torch.nn.Module):
    """w times the inner product of the sums of both sides' present vectors; it keeps the pairs it is given."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(1.5))
        self.seen = []

    def forward(self, queries, items):
        self.seen.append((queries, items))
        first, second = (side.vectors.masked_fill(~side.present[..., None], 0).sum(1) for side in (queries, items))
        return self.w * (first * second).sum(-1)


def numbered(n=8, missing=0.0, seed=1, ids=IDS, names=NAMES[:3]):
    """A batch of several rows an item, and the row that a vector is of."""
    items = batch(seed, n=n, missing=missing, names=names)
    return Bundle(items.vectors, items.present, items.modalities, None if ids is None else torch.tensor(ids))


def rows_of(bundle, side):
    """The row of `bundle` that each row of `side`, some of its modalities, was taken from."""
    whole = bundle.select(*side.modalities)
    equal = (torch.nan_to_num(side.vectors)[:, None] == torch.nan_to_num(whole.vectors)).flatten(2).all(-1)
    assert (equal.sum(1) == 1).all()
    return equal.int().argmax(1).tolist()


def seeded(seed):
    return torch.Generator().manual_seed(seed)


# --- three groups


@missing
@pytest.mark.parametrize("anchor", ["text", "audio"])
@pytest.mark.parametrize("ids", [None, IDS], ids=["rows", "ids"])
def test_the_head_is_asked_for_matches_for_wrong_items_and_for_wrong_anchors(missing, anchor, ids):
    items, head = numbered(missing=missing, ids=ids), Head().double()
    total, parts, empty = Matching(head, anchor=anchor, score="cone")(items)
    ((queries, found),) = head.seen
    others = tuple(name for name in items.modalities if name != anchor)
    assert queries.modalities == (anchor,) and found.modalities == others
    asked, given = rows_of(items, queries), rows_of(items, found)
    usable = (items.has(anchor) & items.has(*others)).nonzero().flatten().tolist()
    n = len(usable)
    assert missing == 0 or n < len(items)
    assert asked[: 2 * n] == usable * 2 and given[:n] == usable == given[2 * n :]
    item = ids or list(range(len(items)))
    assert all(item[i] != item[j] for i, j in zip(asked[n:], given[n:], strict=True))
    logits = head(queries, found).tolist()
    close(total, reference.loss(logits[:n], logits[n:]))
    assert list(parts) == [anchor] and empty == 0
    close(parts[anchor], total, 0)


@missing
def test_each_modality_takes_its_turn_and_the_loss_is_their_mean(missing):
    items, head = numbered(missing=missing), Head().double()
    total, parts, _ = Matching(head, anchor="each")(items)
    assert list(parts) == list(items.modalities) == [queries.modalities[0] for queries, _ in head.seen]
    for part, (queries, found) in zip(parts.values(), list(head.seen), strict=True):
        logits = head(queries, found).tolist()
        close(part, reference.loss(logits[: len(logits) // 3], logits[len(logits) // 3 :]))
    close(total, sum(parts.values()) / 3)


def test_ids_tokens_and_masks_travel_to_the_head():
    values = torch.randn(5, 4, 8, generator=seeded(2))
    there = torch.rand(5, 4, generator=seeded(3)) < 0.6
    there[:, 0] = True
    bundle = Bundle.from_dict({"text": Tokens(values, there), "image": torch.randn(5, 8)}, item_ids=["a", "b", "c", "d", "a"])
    head = Head()
    Matching(head)(bundle)
    ((queries, found),) = head.seen
    rows = rows_of(bundle, queries)
    assert torch.equal(queries.tokens["text"].values, bundle.tokens["text"].values[rows])
    assert torch.equal(queries.tokens["text"].present, there[rows]) and not found.tokens
    assert torch.equal(queries.item_ids, bundle.item_ids[rows]) and found.item_ids is not None


# --- what the negatives are drawn from


def shares(drawn, n):
    """How often each of n columns was drawn in each row; drawn is (times, rows)."""
    return torch.stack([(drawn == column).double().mean(0) for column in range(n)], 1)


@pytest.mark.parametrize("score", ["volume", "max_cosine"])
def test_negatives_are_drawn_by_the_softmax_of_the_score_over_other_items(score):
    items, times, tau = numbered(n=5, ids=[0, 0, 1, 2, 3], seed=4), 900, 0.3
    head = Head().double()
    loss, generator = Matching(head, score=score, temperature=tau), seeded(4)
    for _ in range(times):
        loss(items, generator=generator)
    rows = {tuple(vector.tolist()): row for row, vector in enumerate(items.column("text"))}
    asked = [[rows[tuple(vector)] for vector in queries.column("text").tolist()] for queries, _ in head.seen]
    rows = {tuple(vector.tolist()): row for row, vector in enumerate(items.column("image"))}
    found = [[rows[tuple(vector)] for vector in given.column("image").tolist()] for _, given in head.seen]

    def value(query, item):
        return -reference_gram.volume(torch.cat([query, item])) if score == "volume" else angles.largest(query, item)

    scores = [[value(vectors[:1], item[1:]) for item in items.vectors] for vectors in items.vectors]
    turned = [list(column) for column in zip(*scores, strict=True)]
    for drawn, table in ((torch.tensor(found)[:, 5:10], scores), (torch.tensor(asked)[:, 10:], turned)):
        expected = torch.tensor(reference.chances(table, tau, items.item_ids.tolist()), dtype=torch.float64)
        deviation = (expected * (1 - expected) / times).sqrt()
        assert ((shares(drawn, 5) - expected).abs() <= 4.5 * deviation).all()  # 50 shares: one in 3,000 runs would fail
        assert (expected.std(1) > 0.02).all()  # a uniform draw would not pass


def test_hard_negatives_are_of_the_softmax_whatever_its_scale():
    logits = torch.tensor([[0.0, 1.0, 2.0, 99.0], [5.0, 0.0, 5.0, 4.0], [-300.0, -301.0, 0.0, -300.0], [0.0] * 4])
    ids, times, generator = [0, 1, 2, 0], 4000, seeded(5)
    same = torch.tensor([[a == b for b in ids] for a in ids])
    drawn = torch.stack([hard_negatives(logits, same, generator) for _ in range(times)])
    expected = torch.tensor(reference.chances(logits.tolist(), 1.0, ids), dtype=torch.float64)
    deviation = (expected * (1 - expected) / times).sqrt()
    assert ((shares(drawn, 4) - expected).abs() <= 4.5 * deviation).all()
    assert not same[torch.arange(4).expand(times, 4), drawn].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_hard_negatives_of_one_generator_are_the_same_and_never_the_same_item(dtype):
    logits = torch.randn(40, 40, generator=seeded(6)).mul(20).to(dtype)
    ids = torch.randint(6, (40,), generator=seeded(7))
    same = ids[:, None] == ids
    first, second = (hard_negatives(logits, same, seeded(8)) for _ in range(2))
    assert torch.equal(first, second) and first.dtype == torch.int64
    assert (ids[first] != ids).all()
    assert not torch.equal(first, hard_negatives(logits, same, seeded(9)))


def test_a_row_without_another_item_has_no_negative():
    minus = -math.inf
    logits = torch.tensor([[0.0, minus, minus], [0.0, 0.0, minus], [1.0, 2.0, 3.0]])
    assert hard_negatives(logits, torch.eye(3, dtype=torch.bool)).tolist()[:2] == [-1, 0]
    assert hard_negatives(torch.zeros(3, 3), torch.ones(3, 3, dtype=torch.bool)).tolist() == [-1, -1, -1]
    assert hard_negatives(torch.full((1, 1), minus), torch.zeros(1, 1, dtype=torch.bool)).tolist() == [-1]


def test_rows_that_nothing_can_be_drawn_for_are_left_out():
    """By late interaction a text without tokens scores −∞ with every item."""
    there = torch.ones(5, 2, dtype=torch.bool)
    there[1] = False
    plain, head = batch(10, n=5, names=NAMES[:2]), Head().double()
    tokens = {"text": Tokens(plain.vectors[:, :1].expand(5, 2, 8), there)}
    items = Bundle(plain.vectors, plain.present, plain.modalities, None, tokens)
    for _ in range(10):
        total = Matching(head, score="maxsim")(items).total
        queries, found = head.seen.pop()
        asked, given = rows_of(items, queries), rows_of(items, found)
        assert asked[:9] == [0, 1, 2, 3, 4, 0, 2, 3, 4] and given[:5] == [0, 1, 2, 3, 4] == given[9:]
        assert 1 not in asked[9:]
        logits = head(queries, found).tolist()
        close(total, reference.loss(logits[:5], logits[5:]))
        head.seen.clear()


# --- draws, gradients, precision


def test_training_draws_from_the_generator_and_evaluation_draws_nothing():
    items, loss = numbered(ids=None), Matching(Head(), anchor="each", temperature=0.5)
    assert len({loss(items, generator=seeded(11)).total.item() for _ in range(3)}) == 1
    assert len({loss(items, generator=seeded(seed)).total.item() for seed in range(5)}) > 1
    state = torch.random.get_rng_state()
    assert len({loss.eval()(items, generator=seeded(seed)).total.item() for seed in range(5)}) == 1
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_random_anchor_is_drawn_in_training_and_each_in_evaluation():
    items, loss = numbered(), Matching(Head(), anchor="random")
    drawn = [list(loss(items, generator=seeded(seed)).parts) for seed in range(24)]
    assert {len(names) for names in drawn} == {1} and {name for (name,) in drawn} == set(items.modalities)
    assert list(loss.eval()(items).parts) == list(items.modalities)


@pytest.mark.parametrize("rows", [1, 2], ids=["one row", "two rows of one item"])
def test_a_random_anchor_that_one_item_alone_has_is_not_drawn(rows):
    items = numbered()
    present = items.present.clone()
    present[rows:, 2] = False
    items, loss = Bundle(items.vectors, present, items.modalities, items.item_ids), Matching(Head(), anchor="random")
    assert {name for seed in range(24) for name in loss(items, generator=seeded(seed)).parts} == {"text", "image"}


@missing
@pytest.mark.parametrize("anchor", ["text", "each"])
def test_the_gradient_reaches_the_head_and_every_vector_that_takes_part(missing, anchor):
    items, head = numbered(missing=missing), Head().double()
    vectors = items.vectors.clone().requires_grad_()
    loss = Matching(head, anchor=anchor).eval()
    loss(Bundle(vectors, items.present, items.modalities, items.item_ids)).total.backward()
    takes_part = items.present & (items.present.sum(1) > 1)[:, None]
    assert torch.equal((vectors.grad != 0).any(-1), takes_part) and vectors.grad.isfinite().all()
    assert head.w.grad.isfinite() and head.w.grad != 0
    assert set(loss.state_dict()) == {"matcher.w"} and list(loss.parameters()) == [head.w]


def test_gradients_are_exact():
    items, head = numbered(n=4, ids=None), Head().double()
    loss = Matching(head, anchor="each").eval()

    def total(vectors, w):
        head.seen.clear()
        return torch.func.functional_call(loss, {"matcher.w": w}, (Bundle(vectors, items.present, items.modalities),)).total

    w = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(total, (items.vectors.clone().requires_grad_(), w))


@pytest.mark.parametrize("score", SCORES)
def test_every_score_draws_and_values_are_finite_everywhere(score):
    for kind in KINDS:
        raw = degenerate(kind).clone().requires_grad_()
        present = torch.ones(4, 3, dtype=torch.bool)
        present[1, 2] = present[2, 1] = False
        total = Matching(Head(), score=score, anchor="each")(Bundle(raw, present, NAMES[:3])).total
        total.backward()
        assert total.isfinite() and total >= 0 and raw.grad.isfinite().all(), kind


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_half_precision_and_autocast_give_a_finite_loss_in_float32(dtype):
    items = numbered().to(dtype=dtype)
    vectors = items.vectors.clone().requires_grad_()
    loss = Matching(Head(), temperature=100.0).eval()  # all but uniform: rounding of the scores turns no draw
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total = loss(Bundle(vectors, items.present, items.modalities, items.item_ids)).total
    total.backward()
    assert vectors.grad.isfinite().all() and vectors.grad.any()
    expected = loss.double()(items.to(dtype=torch.float64)).total
    close(total, expected, {torch.float32: 1e-6}.get(dtype, 2e-2))  # this head works in the type of the vectors


# --- what it is part of


def test_the_head_is_the_same_module_with_other_losses_and_by_itself():
    items, head = numbered(), Head().double()
    loss = Gram() + 0.1 * Matching(head)
    total, parts, _ = loss.eval()(items)
    close(total, parts["Gram/text"] + 0.1 * parts["Matching/text"])
    assert any(parameter is head.w for parameter in loss.parameters()) and loss.sign_blind
    assert repr(loss).endswith("0.1 * Matching(Head(), score='volume', anchor='text', temperature=0.07)")
    assert saturation(Matching(head), items)["text"] > 0


def test_empty_rows_are_counted_and_left_out():
    items, head = numbered(), Head().double()
    present = items.present.clone()
    present[[1, 6]] = False
    kept = [0, 2, 3, 4, 5, 7]
    empty = Bundle(items.vectors.masked_fill(~present[..., None], math.nan), present, items.modalities, items.item_ids)
    total, _, empty = Matching(head).eval()(empty)
    assert empty == 2
    close(total, Matching(head).eval()(items[kept]).total, 0)


# --- errors


@pytest.mark.parametrize(
    ("options", "items", "message"),
    [
        ({}, numbered()[:1], "at least two items with the anchor and another modality; got 1. Use a larger batch"),
        ({}, numbered()[:0], "at least two items with the anchor and another modality; got 0"),
        ({"anchor": "each"}, numbered()[:2], "at least two items with the anchor and another modality; got 1"),
    ],
)
def test_batches_of_one_item_are_too_small(options, items, message):
    with pytest.raises(TooSmallError, match=message):
        Matching(Head(), **options)(items)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Matching(Head(), score="volum"), "`score` must be one of span, cone, .*; got 'volum'. Did you mean 'volume'"),
        (lambda: Matching(Head(), temperature=0.0), r"`temperature` must lie in \(0, 100\]; got 0.0"),
        (lambda: Matching(Head(), temperature=math.nan), r"`temperature` must lie in \(0, 100\]; got nan"),
        (
            lambda: Matching(Head(), anchor="txt")(numbered()),
            r"`anchor` must be one of text, image, audio, 'each' or 'random'; got 'txt'\. .* as in Matching\(anchor='text'\)",
        ),
        (lambda: Matching(Head())(numbered().select("text")), "`items` must have at least two modalities; got text"),
        (lambda: Matching(Head(), score="triangle")(numbered(names=NAMES)), "`triangle` needs tuples of at most three vectors"),
    ],
)
def test_bad_options_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()
