"""What losses have in common beyond a batch of different items: ids, empty rows, sums, temperatures, anchors, negatives."""

import copy
import inspect
import math
from itertools import combinations
from typing import Unpack, get_args

import pytest
import torch

from gramian import PMRL, Bundle, Centroid, Contrast, Gram, HyperGram, InputError, Pairwise, Symile, Triangle
from gramian.errors import TooSmallError
from gramian.evaluation import saturation
from gramian.losses import LOSSES, Loss, LossOutput, Matching, SoftmaxLoss, Sum, info_nce
from gramian.losses.softmax import SoftmaxOptions, Temperature
from gramian.tokens import Tokens
from reference import angles, hyperbolic, pairwise, siglip
from reference import cone as reference_cone
from reference import gram as reference_gram
from reference import pmrl as reference_pmrl
from reference import triangle as reference_triangle
from test_losses import FORMS, NAMES, batch, close, every_loss, every_loss_but, missing, tau_of, with_ids

IDS = [0, 0, 1, 2, 3, 4, 4, 5, 0]


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def scarce(items, modality=2, rows=1):
    """The same items, the first `rows` of which alone have one of the modalities."""
    present = items.present.clone()
    present[rows:, modality] = False
    return Bundle(items.vectors, present, items.modalities, items.item_ids)


# --- references of batches where several rows are one item


def contrast(scores, tau, ids, smoothing=0.0, negatives=None):
    """½ [rows + columns] of −log softmax at the match, over the match and its hardest negatives of other items."""
    total, n = 0.0, len(scores)
    for matrix in (scores, [list(column) for column in zip(*scores, strict=True)]):
        for i, row in enumerate(matrix):
            rivals = sorted((row[j] for j in range(n) if ids[j] != ids[i]), reverse=True)[:negatives]
            logs = pairwise.log_softmax([value / tau for value in (row[i], *rivals)])
            total -= ((1 - smoothing) * logs[0] + smoothing * sum(logs) / len(logs)) / (2 * n)
    return total


def compared(items, query, targets):
    """Query vectors, tuples of the present targets and ids of the items that have both."""
    names = items.modalities
    rows = [
        (vectors[names.index(query)], vectors[[names.index(name) for name in targets if there[names.index(name)]]], name)
        for vectors, there, name in zip(items.vectors, items.present.tolist(), items.item_ids.tolist(), strict=True)
        if there[names.index(query)] and any(there[names.index(name)] for name in targets)
    ]
    return zip(*rows, strict=True)


def joint(function, factor=-1.0, power=1):
    return lambda query, item: factor * function(torch.cat([query[None], item])) ** power


def one(function):
    return lambda query, item: function(query[None], item)


REFERENCES = {
    "Gram": (Gram, joint(reference_gram.volume), {"smoothing": 0.1}),
    "Gram of the hardest": (
        lambda: Gram(negatives=3, anchor="each"),
        joint(reference_gram.volume),
        {"negatives": 3, "smoothing": 0.1},
    ),
    "Contrast": (Contrast, reference_cone.cone, {}),
    "Contrast of the hardest": (lambda: Contrast("max_cosine", negatives=1), one(angles.largest), {"negatives": 1}),
    "Contrast smoothed": (lambda: Contrast("softmax_cosine", label_smoothing=0.3), one(angles.weighted), {"smoothing": 0.3}),
    "Contrast by weighted centroid": (lambda: Contrast("weighted_centroid"), one(angles.weighted_centroid), {}),
    "Contrast by multilinear": (lambda: Contrast("multilinear"), one(angles.multilinear), {}),
    "Centroid": (Centroid, one(angles.centroid), {}),
    "Centroid of the others": (lambda: Centroid(own=False), one(angles.centroid), {}),
    "Triangle": (Triangle, joint(reference_triangle.area), {"smoothing": 0.1}),
    "Triangle squared": (
        lambda: Triangle(squared=True, anchor="each"),
        joint(reference_triangle.area, -2, 2),
        {"smoothing": 0.1},
    ),
    "HyperGram": (lambda: HyperGram(alpha=0.25), lambda q, m: hyperbolic.score(q[None], m, 0.25), {"smoothing": 0.1}),
    "Pairwise": (lambda: Pairwise(label_smoothing=0.2), one(angles.mean), {"smoothing": 0.2}),
    "Pairwise of the hardest": (lambda: Pairwise(negatives=2), one(angles.mean), {"negatives": 2}),
}


@missing
@pytest.mark.parametrize(("make", "score", "options"), REFERENCES.values(), ids=REFERENCES)
def test_rows_of_one_item_leave_each_other_s_softmax(make, score, options, missing):
    items, loss = with_ids(batch(1, n=9, missing=missing), IDS), make()
    total, parts, _ = loss(items)
    for name, part in parts.items():
        query, *targets = name.split("-")
        targets = targets or [other for other in items.modalities if other != query]
        queries, tuples, ids = compared(items, query, targets)
        if isinstance(loss, Centroid) and loss.own:
            tuples = [torch.cat([query[None], item]) for query, item in zip(queries, tuples, strict=True)]
        scores = [[score(query, item) for item in tuples] for query in queries]
        close(part, contrast(scores, tau_of(loss), ids, **options), 1e-7)
    close(total, sum(parts.values()) / len(parts))


@missing
def test_rows_of_one_item_are_no_negatives_of_siglip(missing):
    items, loss = with_ids(batch(2, n=9, missing=missing), IDS), Pairwise(objective="sigmoid", temperature=0.3)
    loss.bias.data.fill_(-2.0)
    parts = loss(items).parts
    for first, second in combinations(items.modalities, 2):
        a, b, ids = compared(items, first, [second])
        close(parts[f"{first}-{second}"], siglip.loss(a, [z[0] for z in b], tau_of(loss), -2.0, ids))


@missing
@pytest.mark.parametrize("signed", [False, True])
def test_rows_of_one_item_do_not_repel_each_other_in_pmrl(missing, signed):
    items = with_ids(batch(3, n=9, missing=missing), IDS)
    tuples = [vectors[there] for vectors, there in zip(items.vectors, items.present, strict=True)]
    parts = PMRL(signed=signed)(items).parts
    close(parts["alignment"], reference_pmrl.alignment([item for item in tuples if len(item) > 1], 0.05, signed))
    directions = [reference_pmrl.direction(item, signed) for item in tuples]
    scores = [[float(u @ v) for v in directions] for u in directions]
    close(parts["instance"], contrast(scores, 0.1, IDS))


def test_a_triangle_of_two_modalities_has_a_third_corner_orthogonal_to_both():
    items, loss = with_ids(batch(4).select("text", "audio"), range(6)), Triangle()
    queries, tuples, ids = compared(items, "text", ["audio"])
    scores = [[-reference_triangle.area(torch.cat([query[None], item])) for item in tuples] for query in queries]
    close(loss(items).total, contrast(scores, tau_of(loss), ids, 0.1), 1e-7)


# --- ids and empty rows, of every form


@every_loss_but("Symile", "Symile n squared")  # without ids a missing vector makes copies of the match among its negatives
def test_ids_that_all_differ_change_nothing(make):
    items, loss = batch(5, n=8, missing=0.3), make()
    close(loss(with_ids(items, [7, -1, 3, 40, 2, 0, 9, 5])).total, loss(items).total)


@every_loss
def test_only_which_ids_are_equal_counts(make):
    items, loss = batch(6, n=9, missing=0.3), make()
    close(loss(with_ids(items, [2**40 - 3 * each for each in IDS])).total, loss(with_ids(items, IDS)).total, 0)


@every_loss
def test_a_batch_of_one_item_cannot_be_contrasted(make):
    with pytest.raises(TooSmallError, match=r"`items` must hold at least two items with .*; got [01]\. Use a larger batch"):
        make()(with_ids(batch(7), [3] * 6))


@every_loss_but("Symile")  # in evaluation no tuple comes from one item alone
def test_a_second_caption_costs_less_with_its_id_than_without(make):
    """Otherwise either copy is the other's hardest negative."""
    items = batch(8, spread=0.2)
    items = Bundle(items.vectors.abs(), items.present, items.modalities)  # of one sign, for products along the axes
    twice, loss = Bundle.cat([items, items]), make()
    assert loss(with_ids(twice, [*range(6)] * 2)).total < loss(twice).total - 1e-3


@every_loss
def test_rows_with_nothing_present_are_counted_and_left_out(make):
    items, loss, kept = batch(9, n=9, missing=0.3), make(), [0, 2, 3, 5, 6, 7]
    items = with_ids(items, IDS)
    present = items.present.clone()
    present[[1, 4, 8]] = False
    vectors = items.vectors.masked_fill(~present[..., None], math.nan).requires_grad_()
    total, _, empty = loss(Bundle(vectors, present, items.modalities, items.item_ids))
    assert empty == 3 and loss(items).empty_rows == 0
    close(total.detach(), loss(items[kept]).total.detach(), 1e-14)
    total.backward()
    assert vectors.grad.isfinite().all() and not vectors.grad[~present].any()


def test_a_batch_with_nothing_present_is_too_small():
    items = batch(10)
    for make in FORMS.values():
        with pytest.raises(TooSmallError, match=r"at least two items with .*; got 0"):
            make()(Bundle(items.vectors, torch.zeros_like(items.present), items.modalities))


# --- sums


def test_sums_nest_and_a_shared_loss_is_found_once():
    items, shared = batch(11), Pairwise()
    flat = 2 * (0.5 * shared + PMRL()) + Gram() * 3
    assert flat.weights == (1.0, 2.0, 3.0) and [type(loss) for loss in flat.losses] == [Pairwise, PMRL, Gram]
    nested = Sum([0.5 * shared + PMRL(), Gram()], [2.0, 3.0])
    close(nested(items).total, flat(items).total)
    assert list(nested(items).parts)[3:] == ["Sum/PMRL/alignment", "Sum/PMRL/instance", "Gram/text"]
    twice = shared + 2 * shared
    assert len(list(twice.parameters())) == 1
    close(twice(items).total, 3 * shared(items).total)
    twice(items).total.backward()
    gradient, shared.temperature.log.grad = shared.temperature.log.grad.clone(), None
    shared(items).total.backward()
    close(gradient, 3 * shared.temperature.log.grad, 1e-5)  # float32


def test_a_list_of_losses_adds_up_and_numbers_do_not():
    items, losses = batch(12), [Pairwise(), Gram(), Symile().eval()]
    total = sum(losses)
    assert isinstance(total, Sum) and total.weights == (1.0, 1.0, 1.0)
    close(total(items).total, sum(loss(items).total for loss in losses))
    for wrong in (lambda: PMRL() + 1, lambda: 1 + PMRL(), lambda: sum([PMRL()], 1), lambda: PMRL() + torch.nn.Identity()):
        with pytest.raises(TypeError, match="unsupported operand"):
            wrong()


def test_parts_of_a_sum_are_those_of_its_terms_without_their_factors():
    items = batch(13)
    terms = {"Gram 1": Gram(), "Gram 2": Gram(score="cone", anchor="each"), "PMRL": PMRL()}
    total, parts, empty = Sum(list(terms.values()), [0.3, 0.0, 2.0])({name: items.column(name) for name in NAMES[:3]})
    expected = {f"{label}/{name}": part for label, loss in terms.items() for name, part in loss(items).parts.items()}
    assert list(parts) == list(expected) and empty == 0
    for name, value in expected.items():
        close(parts[name], value)
    close(total, 0.3 * expected["Gram 1/text"] + 2 * (expected["PMRL/alignment"] + expected["PMRL/instance"]))


def test_a_term_of_weight_0_is_shown_and_does_not_pull():
    items, off = batch(14), Pairwise()
    vectors = [items.vectors.clone().requires_grad_() for _ in range(2)]
    for loss, raw in zip((0 * off + PMRL(), PMRL()), vectors, strict=True):
        loss(Bundle(raw, items.present, items.modalities)).total.backward()
    torch.testing.assert_close(vectors[0].grad, vectors[1].grad, rtol=0, atol=1e-15)
    assert off.temperature.log.grad == 0
    close((0 * off + PMRL())(items).parts["Pairwise/text-image"], off(items).parts["text-image"])


def test_a_term_too_small_is_left_out_of_the_total_and_other_errors_are_not_swallowed():
    items = scarce(batch(15))
    loss = 3 * Contrast("cosine", anchor="audio") + 2 * Pairwise(anchor="text")
    close(loss(items).total, 2 * Pairwise(anchor="text")(items).total)
    with pytest.raises(TooSmallError, match="at least two items with the same two modalities; got 1"):
        loss(items[:1])
    with pytest.raises(InputError, match="at most three modalities for Triangle"):
        (Pairwise() + Triangle())(batch(15, names=NAMES))


@pytest.mark.parametrize(
    ("make", "blind"),
    [
        (lambda: Gram() + PMRL(), True),
        (lambda: Gram() + PMRL(signed=True), False),
        (lambda: Gram(score="cone") + Symile(), False),
        (lambda: 2 * (Contrast("spectral") + Gram(score="span")), False),
        (lambda: 2 * (Contrast("spectral") + Symile()), True),
        (lambda: Contrast("spectral_gain") + Matching(torch.nn.Identity()), True),
    ],
)
def test_a_sum_is_blind_to_signs_when_every_term_is(make, blind):
    assert make().sign_blind is blind


@pytest.mark.parametrize("weights", [[1.0, math.nan], [math.inf, 1.0], [1.0, -0.5]])
def test_weights_of_a_sum_are_finite_and_not_negative(weights):
    with pytest.raises(InputError, match=r"`weights\[[01]\]` must be a finite number of at least 0; got (nan|inf|-0.5)"):
        Sum([PMRL(), Gram()], weights)
    with pytest.raises(InputError, match=r"`weights\[0\]` must be a finite number of at least 0"):
        weights[0] * PMRL() + weights[1] * Gram()


@every_loss
def test_state_dict_and_copies_give_the_same_loss_back(make):
    items, loss = batch(16), make()
    with torch.no_grad():
        for i, parameter in enumerate(loss.parameters()):
            parameter.add_(0.1 * (i + 1))
    fresh = make()
    fresh.load_state_dict(loss.state_dict())
    for same in (fresh, copy.deepcopy(loss)):
        close(same(items).total.detach(), loss(items).total.detach(), 0)
    assert repr(fresh) == repr(make())
    assert all(parameter.ndim < 2 for parameter in loss.parameters())  # optimisers that decay matrices leave them alone


def test_reprs_tell_every_option():
    shown = repr(0.5 * HyperGram(alpha=0.25) + Symile(negatives="n_squared") + Pairwise(pairs=[("a", "b")], negatives=3))
    assert shown == (
        "0.5 * HyperGram(alpha=0.25, learn_alpha=True, curvature=1.0, anchor='text', temperature=0.07, learn_temperature=True, "
        "label_smoothing=0.1) + Symile(negatives='n_squared', temperature=0.07, learn_temperature=True) + "
        "Pairwise(anchor=None, pairs=(('a', 'b'),), temperature=0.07, learn_temperature=True, label_smoothing=0.0, negatives=3)"
    )
    assert repr(Centroid(own=False)).startswith("Centroid(own=False, anchor='each', temperature=0.07")
    assert repr(Triangle(squared=True)).startswith("Triangle(squared=True, anchor='text', temperature=0.07")
    assert repr(Contrast(angles.mean)).startswith("Contrast(score='mean', anchor='each'")
    weighted = Pairwise(objective="sigmoid", weights={"a-b": 2.0}, temperature={"a-b": 0.2}, learn_temperature=False)
    assert repr(weighted) == (
        "Pairwise(anchor=None, objective='sigmoid', weights={'a-b': 2.0}, temperature={'a-b': 0.2}, learn_temperature=False, "
        "label_smoothing=0.0)"
    )


# --- what is learned


def test_each_temperature_of_several_is_held_and_learned_on_its_own():
    items = batch(17)
    loss = Pairwise(temperature={"text-image": 0.1, "image-audio": 0.2, "text-audio": 0.3})
    log = loss.temperature.log
    log.data[1] = -9.0
    total = loss(items).total
    assert loss.temperature.values() == pytest.approx({"text-image": 0.1, "image-audio": 0.01, "text-audio": 0.3})
    total.backward()
    assert log.grad.shape == (3,) and log.ndim == 1
    for i, (name, tau) in enumerate({"text-image": 0.1, "image-audio": 0.01, "text-audio": 0.3}.items()):
        alone = Pairwise(pairs=[tuple(name.split("-"))], temperature=tau)
        alone(items).total.backward()
        assert float(log.grad[i]) == pytest.approx(float(alone.temperature.log.grad) / 3, rel=1e-5)
    fixed = Pairwise(temperature={"a-b": 0.1}, learn_temperature=False)
    assert not list(fixed.parameters()) and fixed.state_dict()["temperature.log"].shape == (1,)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Temperature({"a-b": 0.1}, learned=True)("b-c"), "`temperature` must be one of a-b; got 'b-c'"),
        (lambda: Temperature({"a-b": 0.1, "b-c": 0.001}, learned=True), r"`temperature` must lie in \[0.01, 100\]; got 0.001"),
        (lambda: Temperature({"a-b": math.nan}, learned=False), r"`temperature` must lie in \[0.01, 100\]; got nan"),
        (lambda: Symile(temperature=0.0005), r"`temperature` must lie in \[0.001, 100\]; got 0.0005"),
        (
            lambda: Pairwise(temperature={"text-image": 0.1, "text-audio": 0.1, "image-video": 0.1})(batch(1)),
            "`temperature` must name each of text-image, text-audio, image-audio; got text-image, text-audio, im",
        ),
        (lambda: HyperGram(alpha=0.0), r"`alpha` must lie in \(0, 1\), for α = 1 use Gram\(\); got 0.0"),
        (lambda: HyperGram(alpha=math.nan), r"`alpha` must lie in \(0, 1\), for α = 1 use Gram\(\); got nan"),
        (lambda: Pairwise(anchor="text", pairs=[("text", "image")]), "`pairs` and `anchor` both choose the pairs"),
        (lambda: Pairwise(pairs=[("text", "text")]), "`pairs` must hold pairs of two modalities"),
        (lambda: Pairwise(pairs=[("text", "txt")])(batch(1)), "`pairs` must be of the modalities text, image, audio; got txt"),
        (lambda: Pairwise(objective="sigmod"), "`objective` must be one of softmax, sigmoid; got 'sigmod'"),
        (
            lambda: Pairwise(objective="sigmoid", negatives=3),
            "`label_smoothing`, `negatives` and `backend` belong to `objective` 'softmax'",
        ),
        (lambda: Pairwise(weights={"text-image": -1.0}), r"`weights\['text-image'\]` must be a finite number of at least 0"),
        (lambda: Pairwise(weights={"text-imag": 1.0})(batch(1)), "`weights` must name pairs such as .*; got text-imag"),
        (
            lambda: Pairwise(weights=dict.fromkeys(("text-image", "text-audio", "image-audio"), 0.0))(batch(1)),
            "`weights` must leave some pair a positive factor",
        ),
        (
            lambda: Pairwise(temperature={"text-image": 0.1})(batch(1)),
            "`temperature` must name each of text-image, text-a",
        ),
        (lambda: Pairwise(temperature={}), "`temperature` must hold one per comparison; got none"),
        (lambda: Contrast(negatives=0), "`negatives` must be an integer of at least 1 or None; got 0"),
        (lambda: info_nce(torch.zeros(2, 2), negatives=0), "`negatives` must be an integer of at least 1 or None; got 0"),
        (lambda: HyperGram(curvature=0.0), r"`curvature` must lie in \(0, 400\]; got 0.0"),
        (lambda: Symile(negatives="n²"), "`negatives` must be one of n, n_squared; got 'n²'"),
        (lambda: Symile()(batch(1).select("text")), "`items` must have at least two modalities; got text"),
        (lambda: Symile(negatives="n_squared")(batch(1, n=420)), "'n_squared' takes n\\^m = 420\\^3 products"),
        (lambda: Sum([]), "`losses` must hold at least one loss; got none"),
        (lambda: Sum([PMRL()], [1.0, 2.0]), "one factor; got 2 for 1"),
        (lambda: -1 * PMRL(), r"`weights\[0\]` must be a finite number of at least 0; got -1.0"),
        *(
            (
                lambda make=make: make(label_smothing=0.1),
                f"`label_smothing` is not an option of {make.__name__}. Did you mean 'lab",
            )
            for make in (Gram, Pairwise, Contrast, Centroid, Triangle, HyperGram)
        ),
        (lambda: Gram(scor="cone"), "`scor` is not an option of Gram. Did you mean 'score'"),
        (lambda: Contrast(negatives=2, block_size=4), "`negatives` needs all scores at once"),
        (lambda: Triangle(block_size=0), "`block_size` must be an integer of at least 1 or None; got 0"),
        (lambda: Gram(backend="cuda"), "`backend` must be one of torch, triton; got 'cuda'"),
        (lambda: Gram(backend="triton", negatives=2), "`backend` 'triton' cuts blocks of its own"),
        (lambda: Contrast(temperature={"text": 0.1})(batch(1)), "`temperature` must name each of text, image, audio; got text"),
    ],
)
def test_bad_options_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "name"),
    [(HyperGram, "logit"), (lambda: HyperGram(alpha=0.9, anchor="each"), "logit"), (FORMS["Pairwise sigmoid"], "bias")],
)
def test_alpha_and_bias_are_learned_down_their_slope(make, name):
    items, loss = batch(18), make().double()
    parameter, step = getattr(loss, name), 1e-5
    loss(items).total.backward()
    values = []
    with torch.no_grad():
        for change in (step, -2 * step):
            parameter += change
            values.append(loss(items).total.item())
    assert abs(float(parameter.grad)) > 1e-4
    assert float(parameter.grad) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-6)


# --- a random anchor


@pytest.mark.parametrize("make", [Contrast, Gram, Triangle, HyperGram], ids=lambda make: make.__name__)
def test_a_random_anchor_is_drawn_in_training_and_each_in_turn_in_evaluation(make):
    items, loss = batch(19), make(anchor="random")
    drawn = [loss(items, generator=seeded(seed)) for seed in range(24)]
    again = [loss(items, generator=seeded(seed)) for seed in range(24)]
    for first, second in zip(drawn, again, strict=True):
        assert len(first.parts) == 1 and first.parts.keys() == second.parts.keys()
        close(first.total, second.total, 0)
    assert {name for out in drawn for name in out.parts} == set(items.modalities)
    each = make(anchor="each")(items)
    for out in drawn:
        close(out.total, each.parts[next(iter(out.parts))])
    state = torch.random.get_rng_state()
    close(loss.eval()(items).total, each.total, 0)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("ids", [None, [0, 0, 1, 2, 3, 4]], ids=["one row", "two rows of one item"])
def test_an_anchor_that_one_item_alone_has_is_not_drawn(ids):
    items = scarce(batch(20), rows=1 if ids is None else 2)
    items = items if ids is None else with_ids(items, ids)
    loss = Contrast(anchor="random")
    drawn = {name for seed in range(24) for name in loss(items, generator=seeded(seed)).parts}
    assert drawn == {"text", "image"}


def test_a_sum_hands_its_generator_to_its_terms():
    items, loss = batch(21), Contrast(anchor="random") + Symile() + Gram(anchor="random")
    first, second = (loss(items, generator=seeded(5)) for _ in range(2))
    assert first.parts.keys() == second.parts.keys() and torch.equal(first.total, second.total)
    assert len({loss(items, generator=seeded(seed)).total.item() for seed in range(5)}) > 1


# --- the hardest negatives


@pytest.mark.parametrize("k", [5, 6, 100])
@pytest.mark.parametrize("make", [Contrast, Gram, Pairwise], ids=lambda make: make.__name__)
@pytest.mark.parametrize("ids", [None, [0, 0, 1, 2, 3, 4]])
def test_as_many_negatives_as_there_are_is_the_full_loss(make, k, ids):
    items = batch(22) if ids is None else with_ids(batch(22), ids)
    for smoothing in (0.0, 0.1):
        loss = make(label_smoothing=smoothing)
        close(make(negatives=k, label_smoothing=smoothing)(items).total, loss(items).total)


def test_an_easy_negative_has_no_pull_and_fewer_negatives_cost_less():
    items = batch(23, n=8).select("text", "image")
    text, image = items.vectors[:, 0].clone(), items.vectors[:, 1].clone().requires_grad_()
    values = [float(Pairwise(negatives=k)({"text": text, "image": image}).total.detach()) for k in range(1, 8)]
    assert values == sorted(values) and values[0] < values[-1]
    logits = (text @ image.T).detach()
    cosines = torch.stack([text @ row for row in image.unbind()], 1)
    part = Contrast(lambda *_: cosines, anchor="text", negatives=1, temperature=0.2)(items).total
    (gradient,) = torch.autograd.grad(part, cosines)
    kept = torch.eye(8, dtype=torch.bool)
    rivals = logits.masked_fill(kept, -torch.inf)
    kept[torch.arange(8), rivals.argmax(1)] = True
    kept[rivals.argmax(0), torch.arange(8)] = True
    assert (gradient[~kept].abs() < 1e-30).all() and gradient[kept].all()


# --- saturation


@pytest.mark.parametrize("name", ["Gram", "PMRL", "PMRL signed", "Pairwise sigmoid", "Centroid", "Symile", "sum"])
def test_saturation_is_the_slope_along_the_sphere_by_finite_differences(name):
    items, loss, h = batch(24, n=4, d=4), FORMS[name]().eval(), 1e-6
    found, n, m, d = saturation(loss, items), 4, 3, 4
    slopes = {part: torch.zeros(n, m, d, dtype=torch.float64) for part in found}
    for i in range(n):
        for j in range(m):
            frame = torch.linalg.qr(items.vectors[i, j][:, None], mode="complete").Q[:, 1:].T  # of the tangents
            for k, tangent in enumerate(frame):
                for sign in (1, -1):
                    moved = items.vectors.clone()
                    moved[i, j] += sign * h * tangent
                    with torch.no_grad():
                        for part, value in loss(Bundle(moved, items.present, items.modalities)).parts.items():
                            slopes[part][i, j, k] += sign * value / (2 * h)
    for part, slope in slopes.items():
        assert found[part] == pytest.approx(float(slope.flatten(1).norm(dim=1).sum()), rel=1e-5, abs=1e-8)


def test_saturation_is_nothing_for_aligned_items_and_does_not_depend_on_the_size_of_the_batch():
    one = batch(25, spread=0.3)
    aligned = Bundle(one.vectors[:, :1].expand(6, 3, 8), one.present, one.modalities)
    assert saturation(PMRL(), aligned)["alignment"] < 1e-6
    twice = Bundle.cat([one, one])
    assert saturation(PMRL(), twice)["alignment"] == pytest.approx(saturation(PMRL(), one)["alignment"], rel=1e-9)


def test_saturation_takes_missing_vectors_and_changes_nothing():
    items, loss = batch(26, n=9, missing=0.4), Contrast(anchor="random") + Symile()  # missing vectors hold NaN
    items = Bundle(items.vectors.requires_grad_(), items.present, items.modalities, torch.as_tensor(IDS))
    for training in (True, False):
        loss.train(training)
        state = torch.random.get_rng_state()
        found = saturation(loss, items)
        assert {name.split("/")[0] for name in found} == {"Contrast", "Symile"} and len(found) == 6
        assert all(math.isfinite(value) and value > 0 for value in found.values())
        assert torch.equal(state, torch.random.get_rng_state())
        assert loss.training is training and all(term.training is training for term in loss.losses)
        assert items.vectors.grad is None and all(parameter.grad is None for parameter in loss.parameters())
    with pytest.raises(TooSmallError, match="at least two items"):
        saturation(loss.train(), items[:1])
    assert loss.training


def test_saturation_puts_each_module_back_into_its_own_mode():
    frozen = Symile().eval()
    loss = Sum([Pairwise(), frozen]).train()
    frozen.eval()
    saturation(loss, batch(27))
    assert loss.training and not frozen.training


def test_saturation_of_a_part_that_reads_tokens_is_a_number():
    generator = seeded(28)
    tokens = {name: Tokens(torch.randn(5, 3, 8, generator=generator), torch.ones(5, 3, dtype=torch.bool)) for name in NAMES[:2]}
    found = saturation(Contrast("maxsim"), Bundle.from_dict(tokens))
    assert all(math.isfinite(value) for value in found.values())


# --- options, as tools see them


@pytest.mark.parametrize("make", [make for make in LOSSES.values() if issubclass(make, SoftmaxLoss)])
def test_the_signature_spells_out_the_shared_options_with_the_class_s_defaults(make):
    parameters = inspect.signature(make).parameters
    smoothing = 0.1 if make in (Gram, Triangle, HyperGram) else 0.0
    shared = {
        "temperature": None if make is Pairwise else 0.07,
        "learn_temperature": True,
        "label_smoothing": smoothing,
        "negatives": None,
        "block_size": None,
        "backend": "torch",
    }
    assert {name: parameters[name].default for name in list(parameters)[-6:]} == shared
    assert get_args(parameters["backend"].annotation) == ("torch", "triton")
    loss = make(**{name: parameter.default for name, parameter in parameters.items()})
    assert repr(loss) == repr(make()) and loss.label_smoothing == smoothing
    assert tau_of(loss) == pytest.approx(0.07)


def test_a_class_of_one_s_own_states_its_defaults_and_takes_the_options():
    class Sharp(Contrast):
        """A cone at a temperature of its own."""

        defaults = Contrast.defaults | {"temperature": 0.02}

        def __init__(self, power: float = 1.0, **options: Unpack[SoftmaxOptions]) -> None:
            super().__init__("cone", **options)
            self.power = power

    assert list(inspect.signature(Sharp).parameters) == ["power", *SoftmaxOptions.__annotations__]
    assert tau_of(Sharp()) == pytest.approx(0.02) and tau_of(Sharp(temperature=0.3)) == pytest.approx(0.3)
    close(Sharp(temperature=0.07)(batch(1)).total, Contrast("cone")(batch(1)).total, 0)


@pytest.mark.parametrize("make", [Contrast, Gram, Centroid, Triangle, HyperGram])
def test_an_anchor_may_have_a_temperature_of_its_own(make):
    items, taus = batch(29), {"text": 0.1, "image": 0.3, "audio": 0.05}
    parts = make(anchor="each", temperature=taus)(items).parts
    for name, tau in taus.items():
        close(parts[name], make(anchor=name, temperature=tau)(items).total, 1e-6)  # τ is held in float32


def test_an_anchor_of_symile_may_have_a_temperature_of_its_own():
    items, taus = batch(29), {"text": 0.1, "image": 0.3, "audio": 0.05}
    loss = Symile(negatives="n_squared", temperature=taus)
    parts = loss(items).parts
    for name, tau in taus.items():
        close(parts[name], Symile(negatives="n_squared", temperature=tau)(items).parts[name], 1e-6)
    with pytest.raises(InputError, match="`temperature` must name each of text, image; got text, image, audio"):
        loss(items.select("text", "image"))


@pytest.mark.parametrize("make", [Centroid, Triangle, HyperGram])
def test_the_hardest_negatives_of_every_anchored_loss(make):
    items = batch(30, n=8)
    values = [make(negatives=k, label_smoothing=0.0)(items).total.item() for k in (1, 3, 7)]
    assert values == sorted(values) and values[0] < values[-1]
    close(values[-1], make(label_smoothing=0.0)(items).total)


def test_a_sum_of_losses_without_parts_has_a_total():
    class Nothing(Loss):
        sign_blind = False

        def compute(self, bundle, generator):
            del generator
            return LossOutput(bundle.vectors.sum() * 0, {})

    assert Sum([Nothing()])(batch(31)) == (0, {}, 0)


def test_every_loss_is_a_loss_with_papers():
    assert all(isinstance(make(), Loss) for make in FORMS.values())
    assert [
        str(paper) for paper in (0.5 * Pairwise(objective="sigmoid") + PMRL() + Gram() + Matching(torch.nn.Identity())).papers
    ] == [
        "SigLIP, arXiv 2303.15343",
        "PMRL, arXiv 2507.17343",
        "GRAM, arXiv 2412.11959",
    ]
    assert Contrast(lambda queries, items: queries @ items.T).papers == () == Contrast("cone").papers
