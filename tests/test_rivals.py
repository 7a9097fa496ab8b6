"""Centroid, Triangle, Symile, HyperGram, SigLIP and sums of losses against their papers' formulas in plain loops."""

import math
from itertools import combinations

import pytest
import torch
from torch.nn.functional import logsigmoid

from gramian import PMRL, Bundle, Centroid, Contrast, Gram, HyperGram, InputError, Matching, Pairwise, Symile, Triangle
from gramian.errors import TooSmallError
from gramian.losses import LOSSES, Sum, hard_negatives, info_nce, recommended, saturation, sigmoid_loss
from reference import gram as reference_gram
from reference import hyperbolic, pairwise, pmrl, symile
from reference import triangle as reference_triangle
from test_losses import KINDS, NAMES, batch, close, degenerate, tau_of, usable

missing = pytest.mark.parametrize("missing", [0.0, 0.4])


def with_ids(items, ids):
    return Bundle(items.vectors, items.present, items.modalities, torch.as_tensor(ids))


def table(queries, tuples, score):
    return [[score(query, item) for item in tuples] for query in queries]


def stack(query, item):
    return torch.cat([query[None], item])


# --- references


@missing
@pytest.mark.parametrize("anchor", ["text", "audio"])
@pytest.mark.parametrize("squared", [False, True])
def test_triangle_is_the_loss_of_its_paper(missing, anchor, squared):
    items, loss = batch(1, n=9, missing=missing), Triangle(anchor=anchor, squared=squared)

    def score(query, item):
        area = reference_triangle.area(stack(query, item))
        return -2 * area**2 if squared else -area

    queries, tuples = usable(items, anchor)
    close(loss(items).total, pairwise.symmetric(table(queries, tuples, score), tau_of(loss), 0.1), 1e-8)
    with pytest.raises(InputError, match="at most three modalities for Triangle; got text, image, audio, video"):
        loss(batch(1, names=NAMES))


@missing
@pytest.mark.parametrize(("alpha", "curvature"), [(0.5, 1.0), (0.2, 0.5)])
def test_hypergram_is_the_loss_of_its_paper(missing, alpha, curvature):
    items, loss = batch(2, n=8, names=NAMES, missing=missing), HyperGram(alpha=alpha, curvature=curvature)

    def score(query, item):
        both = stack(query, item)
        return -alpha * reference_gram.volume(both) - (1 - alpha) * hyperbolic.volume(both, curvature)

    queries, tuples = usable(items, "text")
    close(loss(items).total, pairwise.symmetric(table(queries, tuples, score), tau_of(loss), 0.1), 1e-5)  # α, τ in float32
    loss(items).total.backward()
    assert loss.logit.grad.isfinite() and loss.logit.grad != 0
    assert not list(HyperGram(learn_alpha=False, learn_temperature=False).parameters())


@missing
@pytest.mark.parametrize("own", [True, False])
def test_centroid_compares_each_modality_with_the_centroid(missing, own):
    items, loss = batch(3, n=8, missing=missing), Centroid(own=own)
    total, parts, _ = loss(items)
    assert len(parts) > 1
    for anchor in parts:
        queries, tuples = usable(items, anchor)
        if own:
            tuples = [stack(query, item) for query, item in zip(queries, tuples, strict=True)]
        scores = table(queries, tuples, lambda query, item: float(query @ item.sum(0) / item.sum(0).norm()))
        close(parts[anchor], pairwise.symmetric(scores, tau_of(loss)))
    close(total, torch.stack(list(parts.values())).mean())
    if not own:
        close(total, Contrast("centroid", anchor="each")(items).total)


@missing
def test_sigmoid_is_siglip(missing):
    items, loss = batch(4, n=8, missing=missing), Pairwise(objective="sigmoid")
    close(tau_of(loss), 0.1, 1e-6)
    total, parts, _ = loss(items)
    for first, second in combinations(items.modalities, 2):
        a, b = usable(items, first, [items.modalities.index(second)])
        expected = 0.0
        for i, x in enumerate(a):
            for j, (y,) in enumerate(b):
                logit = float(x @ y) / tau_of(loss) - 10
                expected -= math.log(1 / (1 + math.exp(-logit if i == j else logit)))
        close(parts[f"{first}-{second}"], expected / len(a), 1e-8)
    total.backward()
    assert loss.bias.grad.isfinite() and loss.bias.grad != 0


def symile_columns(items, anchor):
    """Anchors and columns of vectors or None over the items that take part, and their row numbers."""
    others = [name for name in items.modalities if name != anchor]
    rows = (items.has(anchor) & items.has(*others)).nonzero().flatten().tolist()
    anchors = [items.column(anchor)[row] for row in rows]
    columns = [[items.column(name)[row] if items.has(name)[row] else None for row in rows] for name in others]
    return anchors, columns, rows


@missing
@pytest.mark.parametrize("mode", ["n, training", "n, evaluation", "n_squared"])
@pytest.mark.parametrize("ids", [None, [0, 0, 1, 2, 3, 4, 5]])
def test_symile_is_the_loss_of_its_paper(missing, mode, ids):
    items = batch(5, n=7, missing=missing)
    loss = Symile(negatives=mode.split(",")[0], temperature=0.3)
    loss.train("training" in mode)
    given = items if ids is None else with_ids(items, ids)
    _, parts, _ = loss(given, generator=torch.Generator().manual_seed(5))
    draws = torch.Generator().manual_seed(5)
    for anchor in items.modalities:
        anchors, columns, rows = symile_columns(items, anchor)
        n, tuples = len(rows), None
        if "training" in mode:
            tuples = list(zip(*(torch.randperm(n, generator=draws).tolist() for _ in columns), strict=True))
        elif "evaluation" in mode:
            tuples = [tuple((j - place) % n for place in range(len(columns))) for j in range(n)]
        own = None if ids is None else [ids[row] for row in rows]
        close(parts[anchor], symile.loss(anchors, columns, 0.3, tuples, own), 1e-6)  # τ is held in float32


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
@pytest.mark.parametrize("negatives", [None, 1, 3, 6])
@pytest.mark.parametrize("ids", [None, [0, 1, 1, 2, 3, 0, 4]])
def test_info_nce_leaves_out_the_same_item_and_easy_negatives(smoothing, negatives, ids):
    logits = 3 * torch.randn(7, 7, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    ids = torch.tensor(ids or list(range(7)))
    same = ids[:, None] == ids
    expected = 0.0
    for matrix in (logits, logits.T):
        for i, row in enumerate(matrix.tolist()):
            others = sorted((row[j] for j in range(7) if j != i and not same[i, j]), reverse=True)[:negatives]
            logs = pairwise.log_softmax([row[i], *others])
            expected -= ((1 - smoothing) * logs[0] + smoothing * sum(logs) / len(logs)) / 14
    close(info_nce(logits, ids, label_smoothing=smoothing, negatives=negatives), expected)
    if len(ids.unique()) == 7:
        close(info_nce(logits, label_smoothing=smoothing, negatives=negatives), expected)


def test_sigmoid_loss_leaves_out_the_same_item():
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    ids = torch.tensor([0, 1, 0, 2])
    kept = [(i, j) for i in range(4) for j in range(4) if i == j or ids[i] != ids[j]]
    expected = -sum(logsigmoid(logits[i, j] if i == j else -logits[i, j]) for i, j in kept) / 4
    close(sigmoid_loss(logits, ids), expected)
    with pytest.raises(InputError, match=r"`ids` must have one entry per row, \(4,\); got \(3,\)"):
        sigmoid_loss(logits, ids[:3])


# --- rows that are one item

EVERY = dict(LOSSES) | {"recommended": recommended}


@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
def test_ids_that_all_differ_change_nothing_and_one_item_cannot_be_contrasted(make):
    items, loss = batch(8, n=7, missing=0.3), make().eval()
    if make is not Symile:  # as published it takes tuples of the anchor's own item for negatives
        close(loss(with_ids(items, range(7))).total, loss(items).total)
    with pytest.raises(TooSmallError, match="at least two items with"):
        loss(with_ids(items, [3] * 7))


@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
def test_a_second_caption_is_no_negative(make):
    """The same item twice: without ids each copy repels the other, with ids it costs nothing."""
    items = batch(9, n=6, spread=0.2)
    loss = Symile(negatives="n_squared") if make is Symile else make()
    items = Bundle(items.vectors.abs(), items.present, items.modalities)  # of one sign, for Symile's products
    twice = Bundle.cat([items, items])
    assert loss(with_ids(twice, [*range(6)] * 2)).total < loss(twice).total - 1e-3


def test_pmrl_s_repulsion_leaves_out_the_same_item():
    items = with_ids(batch(10, n=6), [0, 0, 1, 2, 3, 3])
    directions = [pmrl.direction(item) for item in items.vectors]
    expected = 0.0
    for i, u in enumerate(directions):
        logits = [float(u @ u) / 0.1]
        logits += [float(u @ v) / 0.1 for j, v in enumerate(directions) if items.item_ids[j] != items.item_ids[i]]
        expected -= pairwise.log_softmax(logits)[0] / 6
    close(PMRL()(items).parts["instance"], expected)


# --- rows with nothing, sums, options


@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
def test_empty_rows_are_counted_and_left_out(make):
    items, loss = batch(11, n=6), make().eval()
    present = items.present.clone()
    present[[1, 4]] = False
    vectors = items.vectors.masked_fill(~present[..., None], float("nan")).requires_grad_()
    total, _, empty = loss(Bundle(vectors, present, items.modalities))
    assert empty == 2
    close(total.detach(), loss(items[[0, 2, 3, 5]]).total.detach())
    total.backward()
    assert vectors.grad.isfinite().all() and not vectors.grad[[1, 4]].any()


def test_losses_add_up():
    items = batch(12)
    first, second = Pairwise(), PMRL(signed=True)
    loss = 0.5 * first + second * 2
    total, parts, _ = loss(items)
    close(total, 0.5 * first(items).total + 2 * second(items).total)
    assert list(parts) == [
        "Pairwise/text-image",
        "Pairwise/text-audio",
        "Pairwise/image-audio",
        "PMRL/alignment",
        "PMRL/instance",
    ]
    assert loss.weights == (0.5, 2.0) and (2 * loss + first).weights == (1.0, 4.0, 1.0)
    assert list((Pairwise() + Pairwise())(items.select("text", "image")).parts) == [
        "Pairwise 1/text-image",
        "Pairwise 2/text-image",
    ]
    close(sum([first, second])(items).total, first(items).total + second(items).total)
    assert repr(loss).startswith("0.5 * Pairwise(") and " + 2 * PMRL(signed=True" in repr(loss)
    assert not loss.sign_blind and (Gram() + PMRL()).sign_blind
    assert len(list(loss.parameters())) == 1
    fresh = 0.5 * Pairwise(temperature=0.3) + 2 * PMRL(signed=True)
    fresh.load_state_dict(loss.state_dict())
    close(fresh(items).total, total)


def test_a_term_with_nothing_to_contrast_is_left_out_and_all_of_them_are_an_error():
    items = batch(13)
    present = items.present.clone()
    present[1:, 2] = False
    items = Bundle(items.vectors, present, items.modalities)
    loss = Contrast("cosine", anchor="audio") + Pairwise()
    assert list(loss(items).parts) == ["Pairwise/text-image"]
    with pytest.raises(TooSmallError, match="at least two items"):
        loss(items[:1])


def test_pairs_weights_and_temperatures_are_a_pair_s_own():
    items = batch(14, names=NAMES)
    chosen = Pairwise(pairs=[("image", "text"), ("image", "audio")])(items)
    assert list(chosen.parts) == ["image-text", "image-audio"]
    close(chosen.parts["image-text"], Pairwise()(items).parts["text-image"])
    weighted, plain = Pairwise(weights={"text-image": 3.0, "text-audio": 0.0})(items), Pairwise()(items)
    kept = {name: part for name, part in plain.parts.items() if name != "text-audio"}
    assert list(weighted.parts) == list(kept)
    close(weighted.total, sum((3 if name == "text-image" else 1) * part for name, part in kept.items()) / 7)
    pair = items.select("text", "image", "audio")
    taus = {"text-image": 0.1, "audio-text": 0.3, "image-audio": 0.05}
    loss = Pairwise(temperature=taus)
    total, parts, _ = loss(pair)
    assert list(parts) == ["text-image", "audio-text", "image-audio"]
    for name, tau in taus.items():
        close(parts[name], Pairwise(pairs=[tuple(name.split("-"))], temperature=tau)(pair).total, 1e-6)
    total.backward()
    assert loss.temperature.log.grad.shape == (3,) and (loss.temperature.log.grad != 0).all()
    assert loss.temperature.values() == pytest.approx(taus)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pairwise(anchor="text", pairs=[("text", "image")]), "`pairs` and `anchor` both choose the pairs"),
        (lambda: Pairwise(pairs=[("text", "text")]), "`pairs` must hold pairs of two modalities"),
        (lambda: Pairwise(pairs=[("text", "txt")])(batch(1)), "`pairs` must be of the modalities text, image, audio; got txt"),
        (lambda: Pairwise(objective="sigmod"), "`objective` must be one of softmax, sigmoid; got 'sigmod'"),
        (
            lambda: Pairwise(objective="sigmoid", negatives=3),
            "`label_smoothing` and `negatives` belong to `objective` 'softmax'",
        ),
        (lambda: Pairwise(weights={"text-image": -1.0}), "`weights` must be finite and not negative"),
        (lambda: Pairwise(weights={"text-imag": 1.0})(batch(1)), "`weights` must name pairs such as .*; got text-imag"),
        (
            lambda: Pairwise(weights=dict.fromkeys(("text-image", "text-audio", "image-audio"), 0.0))(batch(1)),
            "`weights` must leave some pair a positive factor",
        ),
        (
            lambda: Pairwise(temperature={"text-image": 0.1})(batch(1)),
            "`temperature` must name each of text-image, text-a",
        ),
        (lambda: Pairwise(temperature={}), "`temperature` must be at least 0.01; got none"),
        (lambda: Contrast(negatives=0), "`negatives` must be at least 1, or None for all; got 0"),
        (lambda: info_nce(torch.zeros(2, 2), negatives=0), "`negatives` must be at least 1, or None for all; got 0"),
        (lambda: HyperGram(alpha=1.0), r"`alpha` must lie in \(0, 1\); got 1.0"),
        (lambda: HyperGram(curvature=0.0), r"`curvature` must lie in \(0, 400\]; got 0.0"),
        (lambda: Symile(negatives="n²"), "`negatives` must be one of n, n_squared; got 'n²'"),
        (lambda: Symile()(batch(1).select("text")), "`items` must have at least two modalities; got text"),
        (lambda: Symile(negatives="n_squared")(batch(1, n=420)), "'n_squared' takes n\\^m = 420\\^3 products"),
        (lambda: Sum([]), "`weights` must give each of the losses one factor; got 0 for 0"),
        (lambda: Sum([PMRL()], [1.0, 2.0]), "one factor; got 2 for 1"),
        (lambda: -1 * PMRL(), "`weights` must be finite and not negative; got -1.0"),
        (lambda: Matching(torch.nn.Identity(), score="volum"), "`score` must be one of .*; got 'volum'"),
        (lambda: Matching(torch.nn.Identity(), temperature=0), "`temperature` must be positive; got 0"),
        (lambda: Matching(torch.nn.Identity())(batch(1)[:1]), "at least two items with the anchor and another modality; got 1"),
    ],
)
def test_bad_options_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_a_random_anchor_is_one_of_those_that_can_be_and_each_in_evaluation():
    items = batch(15)
    present = items.present.clone()
    present[1:, 2] = False
    scarce, loss = Bundle(items.vectors, present, items.modalities), Contrast(anchor="random")
    drawn = [list(loss(items, generator=torch.Generator().manual_seed(seed)).parts) for seed in range(30)]
    assert {len(names) for names in drawn} == {1} and {name for (name,) in drawn} == {"text", "image", "audio"}
    assert {next(iter(loss(scarce).parts)) for _ in range(30)} == {"text", "image"}
    close(loss.eval()(items).total, Contrast(anchor="each")(items).total)


def test_a_score_of_one_s_own_can_be_contrasted():
    items = batch(16)
    loss = Contrast(lambda queries, others: queries.vectors.sum(1) @ others.vectors.sum(1).T)
    assert list(loss(items).parts) == list(items.modalities) and not loss.sign_blind


# --- what is Symile's own: it is tied to the basis and, in evaluation, to the order of the items


@pytest.mark.parametrize("negatives", ["n", "n_squared"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_symile_has_finite_gradients_everywhere_and_never_reads_a_masked_row(negatives, kind, dtype):
    values = []
    for garbage in (float("nan"), 7.0):
        present = torch.ones(4, 3, dtype=torch.bool)
        present[1, 2] = present[2, 1] = False
        vectors = degenerate(kind).to(dtype).masked_fill(~present[..., None], garbage).requires_grad_()
        loss = Symile(negatives=negatives).eval()
        total = loss(Bundle(vectors, present, NAMES[:3])).total
        total.backward()
        assert total.isfinite() and total.dtype == torch.float32 and loss.temperature.log.grad.isfinite()
        assert vectors.grad.isfinite().all() and not vectors.grad[~present].any()
        values.append(total.item())
    assert values[0] == values[1]


@pytest.mark.parametrize("negatives", ["n", "n_squared"])
def test_symile_does_not_see_two_modalities_negated_and_sees_one(negatives):
    items, loss = batch(20), Symile(negatives=negatives).eval()
    both, one = torch.tensor([-1.0, -1.0, 1.0]), torch.tensor([-1.0, 1.0, 1.0])
    flipped = [Bundle(items.vectors * signs[:, None], items.present, items.modalities) for signs in (both, one)]
    close(loss(flipped[0]).total, loss(items).total)
    assert (loss(flipped[1]).total - loss(items).total).abs() > 1e-3
    assert loss.sign_blind


def test_symile_draws_in_training_and_not_in_evaluation():
    items, loss = batch(21, n=12), Symile()
    assert len({loss(items).total.item() for _ in range(4)}) > 1
    assert len({loss.eval()(items).total.item() for _ in range(4)}) == 1


# --- the matching loss


class Recorder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
        self.seen = []

    def forward(self, queries, items):
        self.seen.append((queries, items))
        return self.weight * (queries.vectors.sum(1) * items.vectors.sum(1)).sum(-1)


@missing
def test_matching_has_three_groups(missing):
    items, matcher = with_ids(batch(17, n=8, missing=missing), [0, 0, 1, 2, 3, 4, 5, 6]), Recorder()
    vectors = items.vectors.masked_fill(~items.present[..., None], 0).requires_grad_()
    given = Bundle(vectors, items.present, items.modalities, items.item_ids)
    total = Matching(matcher, score="cone")(given).total
    ((queries, found),) = matcher.seen
    n = int((items.has("text") & items.has("image", "audio")).sum())
    assert len(queries) == 3 * n
    truth = queries.item_ids == found.item_ids
    assert truth[:n].all() and not truth[n:].any()
    assert torch.equal(queries.item_ids[n : 2 * n], queries.item_ids[:n]) and torch.equal(
        found.item_ids[2 * n :], found.item_ids[:n]
    )
    logits = (queries.vectors.sum(1) * found.vectors.sum(1)).sum(-1)
    close(total, torch.nn.functional.binary_cross_entropy_with_logits(logits, truth.double()))
    total.backward()
    assert matcher.weight.grad != 0 and vectors.grad.isfinite().all() and vectors.grad.any()


def test_matching_draws_nothing_in_evaluation():
    items, loss = batch(18, n=10), Matching(Recorder(), anchor="each").eval()
    assert len({loss(items).total.item() for _ in range(4)}) == 1
    assert len({loss.train()(items).total.item() for _ in range(4)}) > 1
    assert list(loss(items).parts) == list(items.modalities)


def test_hard_negatives_follow_the_softmax_of_other_items():
    logits = torch.tensor([[9.0, 0.0, 1.0, 2.0], [0.0, 9.0, 9.0, 0.0], [0.0] * 4, [-torch.inf, 0.0, -torch.inf, 0.0]])
    same = torch.eye(4, dtype=torch.bool)
    same[1, 2] = same[2, 1] = True
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([hard_negatives(logits, same, generator) for _ in range(4000)])
    share = torch.stack([(drawn == column).double().mean(0) for column in range(4)], 1)
    expected = logits.masked_fill(same, -torch.inf).softmax(1).double()
    torch.testing.assert_close(share, expected, rtol=0, atol=0.03)  # four deviations of 4,000 draws
    assert not share[expected == 0].any()
    assert hard_negatives(torch.zeros(2, 2), torch.ones(2, 2, dtype=torch.bool)).tolist() == [-1, -1]


# --- saturation


def test_saturation_is_the_length_of_the_tangential_gradient():
    items, loss = batch(19), Pairwise(temperature=0.2).train()
    vectors = items.vectors.clone().requires_grad_()
    found = saturation(loss, items)
    assert loss.training
    for name, part in loss(Bundle(vectors, items.present, items.modalities)).parts.items():
        (gradient,) = torch.autograd.grad(part, vectors, retain_graph=True)
        total = 0.0
        for g, z in zip(gradient, items.vectors, strict=True):
            tangent = torch.stack([a - (a @ b) * b for a, b in zip(g, z, strict=True)])
            total += float(tangent.norm())
        assert found[name] == pytest.approx(total, rel=1e-9)


def test_published_pmrl_is_saturated_long_before_the_vectors_agree():
    """METHODS: four modalities, τ₁ = 0.05, pairwise cosine 0.2."""
    G = torch.full((4, 4), 0.2, dtype=torch.float64).fill_diagonal_(1)
    rows = torch.linalg.cholesky(G)
    items = Bundle.cat([Bundle(rows.roll(i, 1)[None], torch.ones(1, 4, dtype=torch.bool), NAMES) for i in range(4)])
    published, mended = PMRL()(items).parts["alignment"], PMRL(alignment_temperature=0.5)(items).parts["alignment"]
    assert published < 0.003 < 0.5 < mended
