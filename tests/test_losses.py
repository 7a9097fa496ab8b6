import math
from functools import partial
from itertools import combinations, product

import pytest
import torch
from torch.nn.functional import logsigmoid, normalize

from gramian import PMRL, Bundle, Centroid, Contrast, Gram, HyperGram, InputError, Pairwise, Symile, Triangle, scores
from gramian.losses import LOSSES, LossOutput, Sum, info_nce, sigmoid_loss
from gramian.losses.softmax import Temperature
from gramian.scores import SCORES
from reference import cone as reference_cone
from reference import gram as reference_gram
from reference import hyperbolic, symile
from reference import pairwise as reference_pairwise
from reference import pmrl as reference_pmrl
from reference import triangle as reference_triangle

NAN = float("nan")
NAMES = ("text", "image", "audio", "video")
# What has arithmetic of its own. Laws of a score are asked of the score, and that a loss reads it, in one test of every score.
FORMS = {
    "Gram": Gram,
    "Gram by cone, each": lambda: Gram(score="cone", anchor="each"),
    "PMRL": PMRL,
    "PMRL signed": lambda: PMRL(signed=True, alignment_temperature=0.5),
    "Pairwise": Pairwise,
    "Pairwise anchored": lambda: Pairwise(anchor="text", negatives=2),
    "Pairwise of weighted pairs": lambda: Pairwise(pairs=[("audio", "text"), ("text", "image")], weights={"text-image": 3.0}),
    "Pairwise, a temperature per pair": lambda: Pairwise(
        temperature={"text-image": 0.1, "audio-text": 0.2, "image-audio": 0.3}
    ),
    "Pairwise sigmoid": lambda: Pairwise(objective="sigmoid"),
    "Contrast by softmax cosine, hard": lambda: Contrast("softmax_cosine", negatives=2, label_smoothing=0.1),
    "Contrast by a function": lambda: Contrast(lambda queries, items: scores.cone(queries, items) - 0.1),
    "Contrast, random anchor": lambda: Contrast(anchor="random").eval(),
    "Centroid": Centroid,
    "Triangle squared": lambda: Triangle(squared=True, anchor="each"),
    "HyperGram, each": lambda: HyperGram(alpha=0.2, curvature=2.0, anchor="each"),
    "Symile": lambda: Symile().eval(),
    "Symile n squared": lambda: Symile(negatives="n_squared"),
    "sum": lambda: 0.5 * Pairwise() + PMRL(signed=True),
}
BASIS = ("Symile", "Symile n squared")
"""Products along the axes: tied to them, and as high for matched vectors as their signs allow."""
PRECISE = ("Gram", "PMRL", "PMRL signed", "Pairwise sigmoid", "HyperGram, each", "Symile n squared", "sum")
"""Enough to see where 16 bits would get in: each has a path of its own from the vectors to the total."""


def every_loss_but(*names):
    assert set(names) <= set(FORMS)
    return pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in FORMS.items() if name not in names])


every_loss = every_loss_but()
precise = every_loss_but(*(set(FORMS) - set(PRECISE)))


def batch(seed, n=6, d=8, names=NAMES[:3], missing=0.0, spread=0.8):
    """n items whose vectors scatter about one direction each; float64.

    Text is always there, and an image in the first five; where any may be missing, the last item is text alone.
    """
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randn(n, 1, d, generator=generator, dtype=torch.float64)
    vectors = normalize(centre + spread * torch.randn(n, len(names), d, generator=generator, dtype=torch.float64), dim=-1)
    present = torch.rand(n, len(names), generator=generator) >= missing
    present[:, 0] = True
    present[:5, 1] = True
    present[-1, 1:] = not missing
    return Bundle(vectors.masked_fill(~present[..., None], NAN), present, names)


def tau_of(loss):
    return float(loss.temperature().detach())


def usable(items, anchor, others=None):
    """The anchor vectors, and the present vectors among the others, of the items that have both."""
    a = items.modalities.index(anchor)
    rest = [i for i in range(len(items.modalities)) if i != a] if others is None else others
    anchors, tuples = [], []
    for vectors, there in zip(items.vectors, items.present.tolist(), strict=True):
        kept = [i for i in rest if there[i]]
        if there[a] and kept:
            anchors.append(vectors[a])
            tuples.append(vectors[kept])
    return anchors, tuples


def with_ids(items, ids):
    return Bundle(items.vectors, items.present, items.modalities, torch.as_tensor(ids))


def table(queries, tuples, score):
    return [[score(query, item) for item in tuples] for query in queries]


def stack(query, item):
    return torch.cat([query[None], item])


def close(value, expected, tolerance=1e-10):
    value, expected = (x.item() if isinstance(x, torch.Tensor) else x for x in (value, expected))
    assert value == pytest.approx(expected, rel=0, abs=tolerance)


# --- references, complete and incomplete batches. The defaults are the papers'.

missing = pytest.mark.parametrize("missing", [0.0, 0.4])


@missing
@pytest.mark.parametrize("anchor", ["text", "audio", "video"])
def test_gram_is_the_loss_of_its_paper(missing, anchor):
    items, loss = batch(1, n=9, names=NAMES, missing=missing), Gram(anchor=anchor)
    expected = reference_gram.loss(*usable(items, anchor), tau=tau_of(loss), smoothing=0.1)
    close(tau_of(loss), 0.07, 1e-8)  # held in float32
    close(loss(items).total, expected)


@missing
def test_gram_by_default_is_anchored_on_the_text(missing):
    items = batch(2, missing=missing)
    shuffled = items.select("image", "text", "audio")
    expected = reference_gram.loss(*usable(items, "text"), tau=tau_of(Gram()))
    close(Gram()(items).total, expected)
    close(Gram()(shuffled).total, expected)


@missing
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("taus", [(0.05, 0.1), (0.5, 0.2)])
@pytest.mark.parametrize("names", [NAMES[:2], NAMES])
def test_pmrl_is_the_loss_of_its_paper(missing, signed, taus, names):
    items = batch(3, n=9, names=names, missing=missing)
    loss = PMRL(signed=signed, alignment_temperature=taus[0], instance_temperature=taus[1])
    tuples = [vectors[there] for vectors, there in zip(items.vectors, items.present, strict=True)]
    several = [item for item in tuples if len(item) > 1]
    assert missing == 0 or len(several) < len(tuples)
    total, parts, _ = loss(items)
    close(parts["alignment"], reference_pmrl.alignment(several, taus[0], signed))
    close(parts["instance"], reference_pmrl.instance(tuples, taus[1], signed))
    close(total, parts["alignment"] + parts["instance"])


def test_pmrl_defaults_are_the_paper_s():
    items = batch(4)
    tuples = list(items.vectors)
    close(PMRL()(items).total, reference_pmrl.alignment(tuples, 0.05) + reference_pmrl.instance(tuples, 0.1))


def test_signed_pmrl_never_credits_more_than_unsigned_and_as_much_when_signs_agree():
    for seed in range(5):
        tuples = batch(seed, spread=1.0 if seed else 1e-9).vectors
        pairs = [(reference_pmrl.spectrum(z, True)[0], reference_pmrl.spectrum(z)[0]) for z in tuples]
        assert all(signed <= unsigned + 1e-12 for signed, unsigned in pairs)
        if seed == 0:
            assert all(signed == pytest.approx(unsigned, abs=1e-12) for signed, unsigned in pairs)


@missing
@pytest.mark.parametrize("anchor", [None, "image"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_pairwise_is_info_nce_of_each_pair(missing, anchor, smoothing):
    items, loss = batch(5, n=10, names=NAMES, missing=missing), Pairwise(anchor=anchor, label_smoothing=smoothing)
    pairs = combinations(NAMES, 2) if anchor is None else [(anchor, other) for other in NAMES if other != anchor]
    expected = {}
    for first, second in pairs:
        a, b = usable(items, first, [NAMES.index(second)])
        expected[f"{first}-{second}"] = reference_pairwise.loss(a, [z[0] for z in b], tau_of(loss), smoothing)
    total, parts, _ = loss(items)
    assert list(parts) == list(expected)
    for name, value in expected.items():
        close(parts[name], value)
    close(total, sum(expected.values()) / len(expected))


@missing
@pytest.mark.parametrize("score", ["cone", "span"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_contrast_takes_each_modality_as_the_anchor(missing, score, smoothing):
    def reference(query, item):
        if score == "cone":
            return reference_cone.cone(query, item)
        return math.copysign(reference_cone.span(query, item), float(query @ item.sum(0)))

    items, loss = batch(6, n=8, missing=missing), Contrast(score, label_smoothing=smoothing)
    total, parts, _ = loss(items)
    assert list(parts) == list(items.modalities)
    for anchor in items.modalities:
        queries, tuples = usable(items, anchor)
        scores = [[reference(query, item) for item in tuples] for query in queries]
        close(parts[anchor], reference_pairwise.symmetric(scores, tau_of(loss), smoothing))
    close(total, torch.stack(list(parts.values())).mean())
    close(Contrast(score, anchor="audio", label_smoothing=smoothing)(items).total, parts["audio"])
    close(Gram(score=score, anchor="each", label_smoothing=smoothing)(items).total, total)


@missing
@pytest.mark.parametrize("anchor", ["text", "audio"])
@pytest.mark.parametrize("squared", [False, True])
def test_triangle_is_the_loss_of_its_paper(missing, anchor, squared):
    items, loss = batch(1, n=9, missing=missing), Triangle(anchor=anchor, squared=squared)

    def score(query, item):
        area = reference_triangle.area(stack(query, item))
        return -2 * area**2 if squared else -area

    queries, tuples = usable(items, anchor)
    close(loss(items).total, reference_pairwise.symmetric(table(queries, tuples, score), tau_of(loss), 0.1), 1e-8)
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
    close(
        loss(items).total, reference_pairwise.symmetric(table(queries, tuples, score), tau_of(loss), 0.1), 1e-5
    )  # α, τ in float32
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
        close(parts[anchor], reference_pairwise.symmetric(scores, tau_of(loss)))
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


@missing
@pytest.mark.parametrize("name", SCORES)
def test_contrast_is_the_cross_entropy_of_any_score(missing, name):
    items, loss = batch(6, n=8, missing=missing), Contrast(name, label_smoothing=0.1)
    vectors = items.vectors.clone().requires_grad_()
    total, parts, _ = loss(Bundle(vectors, items.present, items.modalities))
    assert list(parts) == list(items.modalities)
    for anchor in items.modalities:
        others = [other for other in items.modalities if other != anchor]
        usable = items[items.has(anchor) & items.has(*others)]
        values = SCORES[name](usable.select(anchor), usable.select(*others))
        close(parts[anchor], reference_pairwise.symmetric(values.tolist(), tau_of(loss), 0.1), 1e-9)
    total.backward()
    assert vectors.grad.isfinite().all() and vectors.grad.any() and not vectors.grad[~items.present].any()
    assert loss.sign_blind is not SCORES[name].sign_aware and loss.papers == SCORES[name].papers


def test_a_pair_or_an_anchor_with_fewer_than_two_items_is_left_out():
    items = batch(7)
    present = items.present.clone()
    present[1:, 2] = False
    items = Bundle(items.vectors, present, items.modalities)
    assert list(Pairwise()(items).parts) == ["text-image"]
    assert list(Contrast()(items).parts) == ["text", "image"]
    close(Pairwise()(items).total, Pairwise()(items.select("text", "image")).total)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_info_nce_is_the_symmetric_cross_entropy(smoothing):
    logits = 10 * torch.randn(7, 7, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    close(info_nce(logits, label_smoothing=smoothing), reference_pairwise.symmetric(logits.tolist(), 1.0, smoothing))
    close(info_nce(torch.zeros(5, 5), label_smoothing=smoothing), math.log(5), 1e-6)
    with pytest.raises(InputError, match=r"`logits` must be square, \(n, n\); got \(2, 3\)"):
        info_nce(torch.zeros(2, 3))


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
            logs = reference_pairwise.log_softmax([row[i], *others])
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


# --- laws


@every_loss
def test_total_is_a_scalar_made_of_its_parts(make):
    loss = make()
    out = loss(batch(9))
    assert isinstance(out, LossOutput) and out.total.shape == () and all(part.shape == () for part in out.parts.values())
    parts = torch.stack(list(out.parts.values()))
    if isinstance(loss, Sum):
        close(out.total, 0.5 * parts[:3].mean() + parts[3:].sum())
    elif isinstance(loss, PMRL):
        close(out.total, parts.sum())
    else:
        factors = [(getattr(loss, "weights", None) or {}).get(name, 1.0) for name in out.parts]
        close(out.total, (parts * torch.tensor(factors)).sum() / sum(factors))


@every_loss_but("Symile")  # in evaluation its negatives are the neighbours
def test_the_order_of_the_items_does_not_matter(make):
    items, loss = batch(10, n=9, missing=0.3), make()
    order = torch.randperm(9, generator=torch.Generator().manual_seed(10))
    close(loss(items[order]).total, loss(items).total)


@every_loss_but(*BASIS)
def test_a_rotation_of_the_space_does_not_matter(make):
    items, loss = batch(11), make()
    R = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(11), dtype=torch.float64)).Q
    close(loss(Bundle(items.vectors @ R, items.present, items.modalities)).total, loss(items).total)


@every_loss
def test_a_dict_of_raw_columns_is_the_bundle_of_them(make):
    items, loss = batch(12), make()
    lengths = torch.tensor([0.1, 1.0, 30.0], dtype=torch.float64)
    columns = {name: items.column(name) * length for name, length in zip(items.modalities, lengths, strict=True)}
    close(loss(columns).total, loss(items).total)
    some = {name: [None if i == j else row for i, row in enumerate(value)] for j, (name, value) in enumerate(columns.items())}
    close(loss(some).total, loss(Bundle.from_dict(some)).total, 0)


@every_loss
def test_what_a_masked_row_holds_is_never_read(make):
    items, values = batch(13, n=8, missing=0.4), []
    for garbage in (NAN, 7.0):
        vectors = items.vectors.masked_fill(~items.present[..., None], garbage).requires_grad_()
        loss = make()(Bundle(vectors, items.present, items.modalities)).total
        loss.backward()
        values.append((loss.detach(), vectors.grad))
        assert vectors.grad.isfinite().all() and not vectors.grad[~items.present].any()
    assert torch.equal(values[0][0], values[1][0]) and torch.equal(values[0][1], values[1][1])


@every_loss_but("Symile", "Symile n squared")  # blind to two vectors negated, not to one
def test_sign_blind_tells_the_truth(make):
    items, loss = batch(14), make()
    # The repulsion of PMRL sees the side that the sum gives a leading direction; its alignment is what is blind or not.
    part = "alignment" if isinstance(loss, PMRL) else next(iter(loss(items).parts))
    changes = []
    for i in range(3):
        flipped = items.vectors.clone()
        flipped[:, i] *= -1
        changed = loss(Bundle(flipped, items.present, items.modalities)).parts[part] - loss(items).parts[part]
        changes.append(changed.abs().item())
    assert max(changes) < 1e-10 if loss.sign_blind else max(changes) > 1e-2


@every_loss
def test_aligned_batches_score_better_than_shuffled_ones(make, request):
    items, loss = batch(15, n=8, d=32, spread=0.1), make()
    if request.node.callspec.id in BASIS:
        items = Bundle(items.vectors.abs(), items.present, items.modalities)
    shuffled = items.vectors.clone()
    shuffled[:, 0] = shuffled[:, 0].roll(1, 0)
    margin = 5e-4 if make is PMRL else 0.1  # at its published temperatures PMRL is saturated here
    assert loss(items).total < loss(Bundle(shuffled, items.present, items.modalities)).total - margin


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


def test_published_pmrl_is_saturated_long_before_the_vectors_agree():
    """METHODS: four modalities, τ₁ = 0.05, pairwise cosine 0.2."""
    G = torch.full((4, 4), 0.2, dtype=torch.float64).fill_diagonal_(1)
    rows = torch.linalg.cholesky(G)
    items = Bundle.cat([Bundle(rows.roll(i, 1)[None], torch.ones(1, 4, dtype=torch.bool), NAMES) for i in range(4)])
    published, warm = PMRL()(items).parts["alignment"], PMRL(alignment_temperature=0.5)(items).parts["alignment"]
    assert published < 0.003 < 0.5 < warm


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


# --- temperature


TEMPERED = {make.__name__: make for make in (Gram, Pairwise, Contrast, Centroid, Triangle)} | {
    "HyperGram": partial(HyperGram, learn_alpha=False),
    "sigmoid": partial(Pairwise, objective="sigmoid"),
    "Symile": partial(Symile, negatives="n_squared"),
}


@pytest.mark.parametrize("make", TEMPERED.values(), ids=TEMPERED)
def test_the_temperature_is_learned_down_to_its_bound_and_can_leave_it(make):
    items, loss = batch(16), make(temperature=0.05)
    parameter, lowest = loss.temperature.log, loss.temperature.minimum
    assert any(parameter is each for each in loss.parameters()) and lowest == (0.001 if isinstance(loss, Symile) else 0.01)
    for log, held in ((math.log(0.05), 0.05), (math.log(lowest), lowest), (math.log(lowest) - 1, lowest), (-40.0, lowest)):
        parameter.data.fill_(log)
        assert tau_of(loss) == pytest.approx(held, rel=1e-5)
        up, down = (float(torch.autograd.grad(sign * loss(items).total, parameter)[0]) for sign in (1, -1))
        below = log < math.log(lowest)  # there only a gradient that leads back passes
        assert min(up, down) < 0 and (max(up, down) == 0 if below else up == -down)
        assert parameter == torch.tensor(log)  # a forward pass does not write
        # The slope in log τ at the temperature in force, by a central difference of fixed temperatures.
        up, down = (make(temperature=held * 2**0.5 * math.exp(s), learn_temperature=False) for s in (1e-4, -1e-4))
        parameter.data.fill_(math.log(held * 2**0.5))
        parameter.grad = None
        loss(items).total.backward()
        slope = (up(items).total.item() - down(items).total.item()) / (math.log(tau_of(up)) - math.log(tau_of(down)))
        assert float(parameter.grad) == pytest.approx(slope, rel=1e-4)


def test_a_fixed_temperature_is_state_but_not_a_parameter():
    loss = Gram(learn_temperature=False, temperature=0.2)
    assert not list(loss.parameters()) and list(loss.state_dict()) == ["temperature.log"]
    fresh = Gram(learn_temperature=False)
    fresh.load_state_dict(loss.state_dict())
    assert tau_of(fresh) == pytest.approx(0.2) == tau_of(loss)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_at_the_lowest_temperature_the_published_logic_keeps_its_gradient(dtype):
    # Every item matches its neighbour: the true candidate is 100 or so logits behind, where exp(−100) is 0 in float32.
    items = batch(17, n=6, d=32, spread=0.01)
    vectors = items.vectors.clone()
    vectors[:, 0] = vectors[:, 0].roll(1, 0)
    wrong = Bundle(vectors.to(dtype).requires_grad_(), items.present, items.modalities)
    loss = Pairwise(anchor="text", temperature=0.01)
    total = loss(wrong).total
    first, second, third = items.modalities
    expected = sum(
        reference_pairwise.loss(wrong.column(first).tolist(), wrong.column(other).tolist(), tau_of(loss))
        for other in (second, third)
    )
    assert total > 50
    assert total.item() == pytest.approx(expected / 2, rel=1e-6 if dtype == torch.float32 else 1e-12)
    total.backward()
    assert wrong.vectors.grad.norm(dim=-1).min() > 1
    gram = Gram(temperature=0.01)
    close(gram(items).total, reference_gram.loss(*usable(items, "text"), tau=tau_of(gram)), 1e-8)


# --- gradients


@every_loss_but("Gram by cone, each", "Contrast by a function", "Contrast, random anchor", "Pairwise of weighted pairs", "sum")
def test_gradients_are_exact_at_generic_batches(make):
    items, loss = batch(18, n=4, d=4), make()
    mask = torch.ones(4, 3, dtype=torch.bool)
    mask[0, 2] = mask[1, 1] = False
    mask[3, 1:] = False
    for present in (torch.ones_like(mask), mask):

        def total(raw, present=present):
            columns = {name: raw[:, i] for i, name in enumerate(items.modalities)}
            masks = {name: present[:, i] for i, name in enumerate(items.modalities)}
            return loss(Bundle.from_dict(columns, present=masks)).total

        assert torch.autograd.gradcheck(total, (1.5 * items.vectors).requires_grad_(), fast_mode=True)


def degenerate(kind):
    """(n, 3, 4) batches at which a naive derivative breaks down."""
    e, g = torch.eye(4), batch(19, n=4, d=4).vectors.float()
    if kind == "identical within items":
        return g[:, :1].expand(4, 3, 4)
    if kind == "identical across items":
        return g[:1].expand(4, 3, 4)
    if kind == "all one vector":
        return g[:1, :1].expand(4, 3, 4)
    if kind == "orthonormal":
        return e[:3].expand(4, 3, 4)
    if kind == "aligned and orthogonal":
        return e[:, None].expand(4, 3, 4)
    if kind == "antipodal":
        return g[:, :1] * torch.tensor([1.0, -1.0, 1.0])[:, None]
    if kind == "opposite items":
        return g[:1, :1] * torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None, None].expand(4, 3, 1)
    return normalize(torch.stack([g[:, 0], g[:, 0] + float(kind.split()[0]) * g[:, 1], g[:, 2]], 1), dim=-1)


KINDS = [
    *("identical within items", "identical across items", "all one vector", "orthonormal", "aligned and orthogonal"),
    *("antipodal", "opposite items", "1e-2 apart", "1e-4 apart", "1e-6 apart"),
]


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_finite_everywhere(make, dtype):
    for kind, missing in product(KINDS, (False, True)):
        raw = degenerate(kind).to(dtype).requires_grad_()
        present = torch.ones(4, 3, dtype=torch.bool)
        present[1, 2] = present[2, 1] = not missing
        loss = make()
        total = loss(Bundle(raw, present, NAMES[:3])).total
        total.backward()
        assert total.isfinite() and total >= 0, kind
        assert raw.grad.isfinite().all() and all(each.grad.isfinite().all() for each in loss.parameters()), kind


@every_loss_but(*(set(FORMS) - {"Gram by cone, each", "PMRL signed", "Pairwise sigmoid", "sum"}))
def test_descent_from_a_scattered_batch_lowers_the_loss(make):
    loss = make()
    raw = batch(20, n=8, d=8, spread=1.0).vectors.float().requires_grad_()
    optimiser = torch.optim.Adam([raw], lr=0.02)
    values = []
    for _ in range(30):
        optimiser.zero_grad()
        total = loss({name: raw[:, i] for i, name in enumerate(NAMES[:3])}).total
        total.backward()
        optimiser.step()
        values.append(total.item())
    assert values[-1] < 0.8 * values[0]


# --- precision


@precise
def test_float32_agrees_with_float64(make):
    items, loss = batch(21, n=32, d=32, missing=0.2), make()
    got = loss(items.to(dtype=torch.float32)).total
    assert got.dtype == torch.float32
    close(got, loss(items).total, 2e-5)  # rounding of the scores, a few ε, over the temperature


@precise
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_read_exactly_and_worked_on_in_float32(make, dtype):
    items, loss = batch(22, n=16, d=32, missing=0.2).to(dtype=dtype), make()
    vectors = items.vectors.clone().requires_grad_()
    got = loss(Bundle(vectors, items.present, items.modalities)).total
    assert got.dtype == torch.float32
    close(got, loss(items.to(dtype=torch.float64)).total, 2e-5)
    got.backward()
    assert vectors.grad.dtype == dtype and vectors.grad.isfinite().all()


@precise
def test_autocast_leaves_the_loss_in_float32(make):
    items, loss = batch(23, n=16, d=32, missing=0.2).to(dtype=torch.float32), make()
    gradients, totals = [], []
    for enabled in (False, True):
        vectors = items.vectors.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            total = loss(Bundle(vectors, items.present, items.modalities)).total
        total.backward()
        totals.append(total.detach())
        gradients.append(vectors.grad)
    assert totals[1].dtype == torch.float32
    close(totals[1], totals[0], 1e-6)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=1e-6)


# --- errors


@pytest.mark.parametrize(
    ("make", "items", "message"),
    [
        (Gram, batch(24)[:1], "at least two items with the anchor and another modality; got 1. Use a larger batch"),
        (Contrast, batch(24)[:1], "at least two items with the anchor and another modality; got 1"),
        (Pairwise, batch(24)[:1], "at least two items with the same two modalities; got 1"),
        (PMRL, batch(24)[:1], "at least two items with two or more modalities; got 1"),
        (PMRL, batch(24)[:0], "at least two items with two or more modalities; got 0"),
        (Gram, batch(24).select("text"), "`items` must have at least two modalities; got text"),
        (Contrast, batch(24).select("text"), "`items` must have at least two modalities; got text"),
        (Pairwise, batch(24).select("text"), "at least two items with the same two modalities; got 0"),
        (PMRL, batch(24).select("text"), "at least two items with two or more modalities; got 0"),
        (
            Gram,
            batch(24).select("image", "audio"),
            r"`anchor` must be one of image, audio, 'each' or 'random'; got 'text'. .* as in Gram\(anchor='image'\)",
        ),
        (
            lambda: Contrast(anchor="txt"),
            batch(24),
            r"`anchor` must be one of text, image, audio, 'each' or 'random'; got 'txt'.*Contrast\(",
        ),
        (lambda: Pairwise(anchor="txt"), batch(24), "`anchor` must be one of text, image, audio or None; got 'txt'"),
        (Pairwise, {"a": torch.ones(3, 2), "b": torch.ones(2, 2)}, "share one length n; got a 3, b 2"),
        (PMRL, {"a": [[1.0, NAN], [1.0, 1.0]], "b": torch.ones(2, 2)}, r"not finite: a 1 \(rows 0\)"),
    ],
)
def test_batches_that_cannot_be_contrasted_are_named(make, items, message):
    with pytest.raises(InputError, match=message):
        make()(items)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gram(score="volum"), "`score` must be one of .*; got 'volum'. Did you mean 'volume'"),
        (lambda: Contrast("cosin"), "`score` must be one of span, cone, .*; got 'cosin'. Did you mean 'cosine'"),
        *(
            (lambda make=make: make(label_smoothing=1.0), r"`label_smoothing` must lie in \[0, 1\); got 1.0")
            for make in (Gram, Pairwise)
        ),
        *((lambda make=make: make(label_smoothing=-0.1), r"got -0.1") for make in (Contrast, Pairwise)),
        *(
            (lambda make=make: make(temperature=0.001), r"`temperature` must lie in \[0.01, 100\]; got 0.001")
            for make in (Gram, Pairwise)
        ),
        (lambda: Gram(temperature=NAN), r"`temperature` must lie in \[0.01, 100\]; got nan"),
        (lambda: Temperature(0.0, learned=True), r"`temperature` must lie in \[0.01, 100\]; got 0.0"),
        (lambda: PMRL(alignment_temperature=0.0), r"`alignment_temperature` must lie in \(0, 100\]; got 0.0"),
        (lambda: PMRL(instance_temperature=NAN), r"`instance_temperature` must lie in \(0, 100\]; got nan"),
    ],
)
def test_bad_options_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_names_and_reprs():
    assert all(LOSSES[name].__name__ == name for name in LOSSES)
    assert repr(Gram()) == "Gram(score='volume', anchor='text', temperature=0.07, learn_temperature=True, label_smoothing=0.1)"
    assert repr(PMRL()) == "PMRL(signed=False, alignment_temperature=0.05, instance_temperature=0.1)"
    assert repr(Pairwise()) == "Pairwise(anchor=None, temperature=0.07, learn_temperature=True, label_smoothing=0.0)"
