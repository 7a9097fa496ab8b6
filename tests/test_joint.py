"""Several modalities as one vector: the regression of the shared variates, and what an Aligner makes of it."""

import pytest
import torch

from gramian import Aligner, Bundle, Pairwise, Recipe, Table, evaluate, fit
from gramian.canonical import Moments, joint, solve
from gramian.errors import InputError
from gramian.evaluation.metrics import mean_reciprocal_rank
from gramian.model import JointHeads
from reference import canonical as reference
from synthetic import world

WIDTHS = {"text": 3, "image": 5, "audio": 2}


def features(rows=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(rows, 2, dtype=torch.float64, generator=generator)
    return {
        name: 3 + z @ torch.randn(2, width, dtype=torch.float64, generator=generator)
        + 0.5 * torch.randn(rows, width, dtype=torch.float64, generator=generator)
        for name, width in WIDTHS.items()
    }  # fmt: skip


def random_weights(dim=4):
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(width, dim, dtype=torch.float64, generator=generator) for name, width in WIDTHS.items()}


@pytest.mark.parametrize("names", [("text",), ("image", "text"), ("text", "image", "audio")])
@pytest.mark.parametrize("ridge", [0.0, 0.7])
def test_joint_maps_are_the_regularised_least_squares(names, ridge):
    values, weights = features(), random_weights()
    maps = joint(Moments.of(values), weights, names, ridge=ridge)
    got = sum(values[name] @ weight + bias for name, (weight, bias) in maps.items())
    wanted = reference.joint((values, None), weights, names, ridge)
    torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-8)


def test_one_modality_of_two_is_its_head():
    """MAXVAR of two modalities without a ridge gives both the same variance: the regression is the head, up to one factor."""
    moments = Moments.of({name: value for name, value in features().items() if name != "audio"})
    solution = solve(moments, 3, ridge=0)
    heads = {name: solution.head(name, power=1.5).weight for name in ("text", "image")}
    weight = joint(moments, heads, ["image"], ridge=0)["image"].weight
    torch.testing.assert_close(weight / weight.norm(), heads["image"] / heads["image"].norm(), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"names": []}, "`names` must hold at least one of text, image, audio; got none"),
        ({"names": ["smell"]}, "`names` must be one of text, image, audio; got 'smell'"),
        ({"names": ["text"], "ridge": -1.0}, r"`ridge` must be a finite number of at least 0"),
        ({"names": ["text"], "weights": {"text": torch.ones(4, 2)}}, r"`weights\['text'\]` must have shape \(3, dim\)"),
        ({"names": ["text"], "weights": {"words": torch.ones(4, 2)}}, "`weights` must be one of text, image, audio"),
    ],
)
def test_joints_that_cannot_be(options, match):
    with pytest.raises(InputError, match=match):
        joint(Moments.of(features()), **{"weights": random_weights()} | options)


def test_without_a_ridge_the_rows_must_span_all_dimensions():
    with pytest.raises(InputError, match="`ridge` must be positive: the rows of image do not span"):
        joint(Moments.of(features(4)), random_weights(), ["image"], ridge=0)


@pytest.fixture(scope="module")
def table():
    return world(200, missing=0.3, noise=1.0)


@pytest.mark.parametrize("trained", [False, True])
def test_joint_vectors_find_more_than_a_single_modality(table, trained):
    train, test = table.part("train").has_any(), table.part("test").has_any()
    if trained:
        aligner = Aligner.for_table(train, dim=16)
        recipe = Recipe(epochs=10, batch_size=32)
        fit(aligner, Pairwise(), train, recipe=recipe, progress=False, cpu=True)
    else:
        aligner = Aligner.canonical(train, head="linear", dim=6)
    heads = JointHeads(aligner, train)
    vectors, present = heads(test, ["image", "audio"])
    assert bool((vectors.norm(dim=1) - present.float()).abs().max() < 1e-5)
    assert present.tolist() == (test.present["image"] | test.present["audio"]).tolist() and not bool(present.all())
    bundle = aligner.embed(test)
    columns = {name: bundle.column(name) for name in bundle.modalities} | {"both": vectors}
    masks = {name: bundle.has(name) for name in bundle.modalities} | {"both": present}
    complete = Bundle.from_dict(columns, present=masks)[test.mask().all(1)]
    report = evaluate(complete, subsets="none")
    recall = {one.query[0]: mean_reciprocal_rank(one.ranks) for one in report.singles if one.target == ("text",)}
    assert recall["both"] > max(recall["image"], recall["audio"])


def test_an_item_that_lacks_a_modality_is_joined_from_the_rest(table):
    train, test = table.part("train").has_any(), table.part("test").has_any()
    heads = JointHeads(Aligner.canonical(train, head="kernel", dim=6), train, ridge=0.3)
    whole, _ = heads(test)
    lone = test.present["text"] & ~test.present["image"] & ~test.present["audio"]
    assert bool(lone.any())
    single, _ = heads(test.select("text"))
    torch.testing.assert_close(whole[lone], single[lone])
    with pytest.raises(InputError, match="`names` must be one of text, image, audio; got 'smell'"):
        heads(test, ["smell"])
    with pytest.raises(InputError, match="canonical analysis solves for a linear map"):
        JointHeads(Aligner.for_table(train, dim=4, head="mlp"), train)
    with pytest.raises(InputError, match="`train` must be a Table"):
        JointHeads(Aligner.for_table(train, dim=4), Table)
