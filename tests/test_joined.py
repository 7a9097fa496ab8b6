"""Joined Aligners: their cosines, what is saved, what validation chooses, bad input."""

import json

import pytest
import torch

from gramian.data import Table
from gramian.errors import InputError
from gramian.evaluation.directions import all_ranks
from gramian.evaluation.metrics import mean_reciprocal_rank
from gramian.losses import Pairwise
from gramian.model import Aligner, joined
from gramian.training import History
from gramian.training.joining import JoinedHistory, join, side_by_side
from synthetic import world


@pytest.fixture(scope="module")
def table():
    return world(80, missing=0.2)


@pytest.fixture(scope="module")
def three(table):
    train = table.part("train")
    linear = Aligner.canonical(train, head="linear", dim=4)
    kernel = Aligner.canonical(train, head="kernel", dim=6)
    return linear, kernel, Aligner.for_table(train, head="mlp", dim=5).eval()


def cosines(bundle):
    """Of the first modality of every item with the second of every item; (n, n) in float64."""
    return bundle.vectors[:, 0].double() @ bundle.vectors[:, 1].double().T


def test_cosines_are_weighted_means_and_missing_cells_stay_missing(table, three):
    test = table.part("test").has_any()
    shares = [3.0, 1.0, 4.0]
    both = joined(three, shares).embed(test)
    alone = [aligner.embed(test) for aligner in three]
    assert both.dim == 15 and torch.equal(both.present, alone[0].present) and not both.present.all()
    expected = sum(share / 8 * cosines(bundle) for share, bundle in zip(shares, alone, strict=True))
    torch.testing.assert_close(cosines(both), expected, rtol=0, atol=1e-6)
    assert both.vectors[~both.present].abs().sum() == 0


def test_joining_what_is_joined_is_joining_all(table, three):
    test = table.part("test").has_any()
    first, second, third = three
    nested = joined([joined([first, second]), third], [2, 1])
    assert [round(part.share, 6) for part in nested.modalities["text"].parts] == [0.333333] * 3
    torch.testing.assert_close(nested.embed(test).vectors, joined(three).embed(test).vectors, rtol=0, atol=1e-6)


def test_the_parts_are_copies_and_train_on(table, three):
    both = joined(three[1:])
    before = three[2].heads[0][0].weight.clone()
    Pairwise()(both.train()(table.part("train").has_any())).total.backward()
    gradients = [parameter.grad for parameter in both.parameters() if parameter.requires_grad]
    assert gradients and all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert torch.equal(three[2].heads[0][0].weight, before) and three[2].heads[0][0].weight.grad is None


def test_saved_and_read_it_is_the_same_and_a_foreign_config_is_one_line(table, three, tmp_path):
    test = table.part("test").has_any()
    both = joined(three[:2], [1, 3])
    both.save_pretrained(tmp_path)
    again = Aligner.from_pretrained(tmp_path)
    assert again.modalities == both.modalities
    assert torch.equal(again.embed(test).vectors, both.embed(test).vectors)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    for change, what in (
        ({"dim": 3}, "widths whose sum"),
        ({"share": 0.5}, "shares whose sum is 1"),
        ({"share": 0.0}, "share"),
        ({"share": "all"}, "share"),
        ({"head": "joined"}, "head"),
        ({"colour": 1}, "colour"),
    ):
        broken = json.loads(json.dumps(config))
        broken["modalities"]["text"]["parts"][0].update(change)
        path.write_text(json.dumps(broken))
        with pytest.raises(InputError, match=what) as error:
            Aligner.from_pretrained(tmp_path)
        assert "\n" not in str(error.value)


def test_validation_chooses_the_share(table, three):
    validation = table.part("validation").has_any()
    linear, kernel, mlp = three
    both, found = join(linear, kernel, validation)
    assert list(found) == [1.0, 0.75, 0.5, 0.25, 0.0]
    ends = [mean_reciprocal_rank(all_ranks(aligner.embed(validation))) for aligner in (kernel, linear)]
    assert [found[0.0], found[1.0]] == pytest.approx(ends)
    assert mean_reciprocal_rank(all_ranks(both.embed(validation))) == pytest.approx(max(found.values()))
    assert join(kernel, mlp, validation, shares=[0.0, 1.0])[0] is kernel  # new MLP heads know nothing
    assert join(mlp, kernel, validation, shares=[0.0, 1.0])[0] is kernel
    assert join(kernel, mlp, validation, shares=[0.5])[0].dim == 11


def test_side_by_side_is_a_weighted_mean_of_cosines(table, three):
    test = table.part("test").has_any()
    first, second = (aligner.embed(test) for aligner in three[:2])
    expected = 0.25 * cosines(first) + 0.75 * cosines(second)
    torch.testing.assert_close(cosines(side_by_side(first, second, 0.25)), expected, rtol=0, atol=1e-6)


def test_what_cannot_be_joined_is_refused(table, three):
    linear = three[0]
    with pytest.raises(InputError, match="two or more, with a share for each; got 1 and 1"):
        joined([linear])
    with pytest.raises(InputError, match="two or more, with a share for each; got 3 and 2"):
        joined(three, [1, 2])
    with pytest.raises(InputError, match=r"`shares\[1\]`"):
        joined(three, [1, 0, 1])
    with pytest.raises(InputError, match=r"`aligners\[1\]`"):
        joined([linear, linear.heads])
    with pytest.raises(InputError, match="in this order; number 1 has text, image"):
        joined([linear, Aligner.canonical(table.select("text", "image"), head="linear")])
    with pytest.raises(InputError, match="must read `text` with one tower"):
        joined([linear, Aligner.canonical(table.part("test"), head="linear")])
    lonely = Table.from_columns({name: [table.features(name)[0].tolist()] for name in table.modalities})
    with pytest.raises(InputError, match="`validation` must hold two items"):
        join(linear, three[1], lonely)
    with pytest.raises(InputError, match="`shares`"):
        join(linear, three[1], table, shares=[])
    with pytest.raises(InputError, match="`shares`"):
        join(linear, three[1], table, shares=[1.5])


def test_what_was_chosen_in_words():
    first, second = History([{}] * 4, 3, 0.5), History([{}] * 4, 2, 0.4)

    def words(best):
        shares = {share: 0.6 if share == best else 0.5 for share in (1.0, 0.25, 0.0)}
        return JoinedHistory.of(first, second, shares).chosen

    assert words(1.0) == "epoch 3 of 4, without the heads beside it"
    assert words(0.0) == "epoch 2 of 4 of the heads beside it, without the first"
    assert words(0.25) == "25 % epoch 3 of 4, 75 % epoch 2 of 4 of the heads beside it"
