"""Weights of joint queries against a literal formula, and what they must and must not do."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from gramian import Aligner, Bundle, InputError, evaluate, train
from gramian.cli import main
from gramian.evaluation import all_weights, choose_weights, weighted
from gramian.evaluation.weighting import GRID, LEAST
from synthetic import world


def space(n=60, noise=(0.1, 0.4, 1.5), seed=0, missing=0.0):
    """An image, and modalities that resemble it ever less."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(n, 8, generator=generator)
    columns = {"image": image}
    for name, amount in zip(("clear", "middling", "noisy"), noise, strict=True):
        columns[name] = image + amount * torch.randn(n, 8, generator=generator)
    present = {name: torch.rand(n, generator=generator) >= missing for name in columns if name != "image"}
    return Bundle.from_dict(columns, present=present)


def literal_mrr(bundle, weights, target):
    """Mean MRR of both directions, in float64, item by item; items without a part take no part."""
    joined = {}
    for i in range(len(bundle)):
        total = sum(
            weight * bundle.column(name)[i].double().numpy() for name, weight in weights.items() if bool(bundle.has(name)[i])
        )
        if not isinstance(total, int):
            joined[i] = total / np.linalg.norm(total)
    aims = {i: bundle.column(target)[i].double().numpy() for i in range(len(bundle)) if bool(bundle.has(target)[i])}
    found = []
    for asks, answers in ((joined, aims), (aims, joined)):
        ranks = [
            1 / (1 + sum(asks[i] @ other > asks[i] @ answers[i] for j, other in answers.items() if j != i))
            for i in asks
            if i in answers
        ]
        found.append(np.mean(ranks))
    return float(np.mean(found))


@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_no_other_weights_of_the_grid_are_better_one_at_a_time_than_the_chosen(missing):
    bundle = space(missing=missing)
    chosen = choose_weights(bundle, "image")
    best = literal_mrr(bundle, chosen, "image")
    for name, weight in itertools.product(chosen, GRID):
        assert literal_mrr(bundle, {**chosen, name: weight}, "image") <= best + 1e-6
    for one in chosen:
        assert literal_mrr(bundle, {name: 1.0 if name == one else LEAST for name in chosen}, "image") <= best + 1e-6
    assert literal_mrr(bundle, dict.fromkeys(chosen, 1.0), "image") < best


def test_a_modality_counts_as_much_as_it_says():
    weights = choose_weights(space(400), "image")
    assert weights["clear"] > weights["noisy"]


def test_items_with_a_single_modality_ask_with_it():
    present = {"clear": torch.arange(60) >= 20}
    bundle = space()
    bundle = Bundle.from_dict({name: bundle.column(name) for name in ("image", "clear", "noisy")}, present=present)
    weights = choose_weights(bundle, "image")
    vectors, there = weighted(bundle, weights)
    assert bool(there.all())
    torch.testing.assert_close(vectors[:20], bundle.column("noisy")[:20])


def test_rows_of_one_item_are_no_rivals():
    bundle = space(40)
    twice = Bundle.from_dict(
        {name: torch.cat([bundle.column(name)] * 2) for name in bundle.modalities}, item_ids=[*range(40), *range(40)]
    )
    assert choose_weights(twice, "image") == choose_weights(bundle, "image")


@pytest.mark.parametrize(
    ("target", "queries", "message"),
    [
        ("smell", None, "`target`"),
        ("image", ["smell"], "`queries`"),
        ("image", ["image"], "other than 'image'"),
        ("image", [], "one or more"),
        ("image", ["clear", "clear"], "different"),
    ],
)
def test_what_is_refused(target, queries, message):
    with pytest.raises(InputError, match=message):
        choose_weights(space(), target, queries=queries)


def test_one_item_cannot_choose():
    with pytest.raises(InputError, match="`validation` must have two items"):
        choose_weights(space(1), "image")
    with pytest.raises(InputError, match=r"`weights\['clear'\]` must be a finite number"):
        weighted(space(), {"clear": float("nan")})


def literal_ranks(scores):
    """The rank of each row's own item, by a table of scores."""
    return [1 + int((row > row[i]).sum()) for i, row in enumerate(scores)]


@pytest.mark.parametrize("bank", [False, True])
def test_evaluate_ranks_by_the_weights(bank):
    bundle, banked = space(40, seed=1), space(30, seed=2) if bank else None
    weights = {"image": {"clear": 2.0, "middling": 0.5, "noisy": 0.01}}
    report = evaluate(bundle, scores=["centroid"], weights=weights, bank=banked)
    found = {gain.joint.name: gain.joint for gain in report.gains if gain.joint.score == "weights"}
    assert list(found) == ["clear+middling+noisy → image", "image → clear+middling+noisy"]  # other modalities have no weights

    joined, images = weighted(bundle, weights["image"])[0], bundle.column("image")
    for (asks, answers), direction in zip(((joined, images), (images, joined)), found.values(), strict=True):
        scores = asks @ answers.T
        if banked is not None:
            bank_asks = weighted(banked, weights["image"])[0] if asks is joined else banked.column("image")
            scores = 2 * scores - (bank_asks @ answers.T).topk(10, dim=0).values.mean(0)
        assert (direction.ranks.better + 1).tolist() == literal_ranks(scores)


def test_subsets_take_their_part_of_the_weights():
    bundle = space(40)
    weights = {"image": {"clear": 1.0, "noisy": 0.25}}
    report = evaluate(bundle, directions=["all"], scores=["centroid"], weights=weights)
    names = {gain.joint.name for gain in report.gains if gain.joint.score == "weights"}
    assert names == {"clear+noisy → image", "image → clear+noisy"}
    assert "weights" not in report.sheets()[1].note  # its mean would be of fewer directions than the others'


@pytest.mark.parametrize("weight", [0.0, -1.0, float("inf")])
def test_weights_are_positive(weight):
    with pytest.raises(InputError, match=r"`weights\['image'\]\['clear'\]`"):
        evaluate(space(10), weights={"image": {"clear": weight}})


def test_each_modality_with_two_others_gets_weights():
    bundle = space(40)
    assert all_weights(bundle) == {name: choose_weights(bundle, name) for name in bundle.modalities}
    assert all_weights(bundle.select("image", "clear")) == {}
    lone = Bundle.from_dict({name: bundle.column(name) for name in bundle.modalities}, present={"noisy": torch.arange(40) == 0})
    assert set(all_weights(lone)) == {"image", "clear", "middling"}


def test_a_run_keeps_them_and_evaluate_shows_them(tmp_path, capsys):
    table = world(60, noise=0.3)
    path = tmp_path / "table.safetensors"
    table.save(path)
    run = train(str(path), tmp_path / "run", method="canonical", head="linear", dim=5, progress=False)
    kept = Aligner.from_pretrained(tmp_path / "run" / "aligner").query_weights
    assert kept == run.aligner.query_weights and set(kept) == set(table.modalities)
    assert "weights" in [gain.joint.score for gain in run.report.gains]
    replace(table, split=None).save(path)
    again = train(str(path), tmp_path / "again", method="canonical", head="linear", dim=5, progress=False)
    assert again.aligner.query_weights  # chosen on the items of the report, which therefore leaves them out
    assert "weights" not in [gain.joint.score for gain in again.report.gains]
    capsys.readouterr()
    assert main(["evaluate", "--data", str(path), "--model", str(tmp_path / "run" / "aligner")]) == 0
    assert " weights " in capsys.readouterr().out


@pytest.mark.parametrize(
    "weights", [{"image": {"smell": 1.0}}, {"image": {"image": 1.0}}, {"image": {"text": -1}}, [1], {"image": 2}]
)
def test_a_config_with_other_weights_is_damaged(tmp_path, weights):
    Aligner({"image": 3, "text": 2}, dim=4).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"query_weights": weights}))
    with pytest.raises(InputError, match="not a whole Aligner"):
        Aligner.from_pretrained(tmp_path)
