"""Weights of joint queries against a literal formula, and what they must and must not do."""

import itertools

import numpy as np
import pytest
import torch

from gramian import Bundle, InputError
from gramian.evaluation import choose_weights, weighted
from gramian.evaluation.weighting import GRID, LEAST


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
    with pytest.raises(InputError, match="`weights` must be finite"):
        weighted(space(), {"clear": float("nan")})
