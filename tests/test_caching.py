"""Cached gradients against the plain step: any number of towers, dropout, tokens, mixed precision, learned temperatures."""

import pytest
import torch
from torch import nn

from gramian import PMRL, Bundle, Gram, Pairwise
from gramian.errors import InputError, TooSmallError
from gramian.losses import Contrast
from gramian.model import Aligner
from gramian.tokens import Tokens
from gramian.training import Recipe, fit
from gramian.training.caching import cached_backward
from synthetic import world


class Towers(nn.Module):
    """An MLP with dropout a modality, and one more whose tokens are kept."""

    def __init__(self, names, dropout=0.0, tokens=False):
        super().__init__()
        self.names, self.tokens = names, tokens
        self.towers = nn.ModuleList(
            nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 5)) for _ in names
        )

    def forward(self, part):
        encoded = [tower(part[:, i]) for i, tower in enumerate(self.towers)]
        columns = dict(zip(self.names, encoded, strict=True))
        if self.tokens:
            columns["words"] = Tokens(torch.stack(encoded, 1).flip(-1), torch.ones(len(part), len(encoded), dtype=torch.bool))
        return Bundle.from_dict(columns, check=False)


def inputs(n=13, m=3):
    return torch.randn(n, m, 6, generator=torch.Generator().manual_seed(5))


def gradients(*modules):
    return [None if p.grad is None else p.grad.clone() for module in modules for p in module.parameters()]


def build(make, **options):
    torch.manual_seed(3)
    return Towers(("text", "image", "audio"), **options), make()


@pytest.mark.parametrize(
    "make", [Gram, Pairwise, PMRL, lambda: Contrast("maxsim", anchor="text") + Gram(score="cone", anchor="each")]
)
@pytest.mark.parametrize("size", [1, 4, 13, 50])
@pytest.mark.parametrize("tokens", [False, True])
def test_cached_gradients_are_those_of_the_whole_batch(make, size, tokens):
    towers, loss = build(make, tokens=tokens)
    expected = loss(towers(inputs()))
    expected.total.backward()
    wanted = gradients(towers, loss)
    towers.zero_grad()
    loss.zero_grad()
    output = cached_backward(towers, inputs().split(size), loss)
    torch.testing.assert_close(output.total, expected.total.detach())
    assert output.parts.keys() == expected.parts.keys() and not output.total.requires_grad
    for got, want in zip(gradients(towers, loss), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_dropout_of_the_second_pass_is_that_of_the_first():
    towers, loss = build(Gram, dropout=0.5)
    parts = inputs().split(4)
    torch.manual_seed(9)
    whole = Bundle.cat([towers(part) for part in parts])  # one graph over the parts: the same draws
    after = torch.rand(3)
    loss(whole).total.backward()
    wanted = gradients(towers, loss)
    towers.zero_grad()
    loss.zero_grad()
    torch.manual_seed(9)
    cached_backward(towers, parts, loss)
    assert torch.equal(torch.rand(3), after)
    for got, want in zip(gradients(towers, loss), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_gradients_add_up_and_scale():
    towers, loss = build(Pairwise)
    cached_backward(towers, inputs().split(5), loss)
    once = gradients(towers, loss)
    cached_backward(towers, inputs().split(4), loss, backward=lambda total: (3 * total).backward())
    for got, want in zip(gradients(towers, loss), once, strict=True):
        torch.testing.assert_close(got, 4 * want, rtol=1e-4, atol=1e-5)


def test_mixed_precision():
    towers, loss = build(Gram)

    def encode(part):
        with torch.autocast("cpu", torch.bfloat16):
            return towers(part)

    loss(Bundle.cat([encode(part) for part in inputs().split(4)])).total.backward()
    wanted = gradients(towers, loss)
    towers.zero_grad()
    loss.zero_grad()
    cached_backward(encode, inputs().split(4), loss)
    for got, want in zip(gradients(towers, loss), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-2, atol=1e-4)


def test_too_small_batches_and_no_parts():
    towers, loss = build(Pairwise)
    with pytest.raises(InputError, match="`parts` must hold at least one part"):
        cached_backward(towers, [], loss)
    with pytest.raises(TooSmallError):
        cached_backward(towers, [inputs(1)], loss)
    assert gradients(towers, loss) == [None] * len(list(towers.parameters())) + [None]


@pytest.mark.parametrize("changed", [{"micro_batch": 7}, {"micro_batch": 100}, {"accumulate": 2, "micro_batch": 9}])
def test_fit_in_micro_batches_ends_with_the_same_weights(changed):
    table = world(90, missing=0.2)
    train, validation = table.part("train"), table.part("validation")
    weights = []
    for options in ({"accumulate": changed.get("accumulate", 1)}, changed):
        aligner = Aligner.for_table(train, dim=8, seed=1)
        recipe = Recipe(epochs=3, batch_size=20, **options)
        history = fit(aligner, Gram(score="cone", anchor="each"), train, validation, recipe=recipe, progress=False, cpu=True)
        weights.append((history.records[-1]["loss"], aligner.state_dict()))
    assert weights[0][0] == pytest.approx(weights[1][0], rel=1e-4)
    for name, value in weights[0][1].items():
        torch.testing.assert_close(weights[1][1][name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("accumulate", "steps"), [(1, 4), (2, 2), (3, 2), (100, 1)])
def test_accumulation_takes_a_step_for_several_batches(monkeypatch, accumulate, steps):
    taken = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *given, **named: (taken.append(1), step(*given, **named))[1])
    train = world(40).part("train")
    recipe = Recipe(epochs=1, batch_size=5, accumulate=accumulate)
    fit(Aligner.for_table(train, dim=8), Pairwise(), train, recipe=recipe, progress=False, cpu=True)
    assert len(taken) == steps
