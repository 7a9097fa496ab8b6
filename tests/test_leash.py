"""A leash on heads that start in closed form: its value, what it holds, and the choice of its weight on validation."""

import json
import math

import pytest
import torch

from gramian import Aligner, Pairwise, Recipe, fit, train
from gramian.cli import main
from gramian.errors import InputError
from gramian.evaluation.directions import all_ranks
from gramian.evaluation.metrics import mean_reciprocal_rank
from gramian.model.heads import features_of, linear_of
from gramian.model.starts import EncodedRows, moments_of
from gramian.training import Leash, Search, fit_leashed
from synthetic import world

SEARCH = Search(heads=("linear",), ridges=(1.0,), powers=(1.0,), dims=(6,))
RECIPE = Recipe(epochs=6, batch_size=32, learning_rate=0.02)


@pytest.fixture(scope="module")
def table():
    return world(120, missing=0.2, noise=1.0)


def started(table, head="linear"):
    aligner = Aligner.canonical(table, head=head, dim=6)
    return aligner, moments_of(EncodedRows(aligner.towers, table), aligner.named_heads())


@pytest.mark.parametrize("head", ["linear", "kernel", "residual"])
def test_a_leash_is_how_far_the_outputs_have_moved(table, head):
    rows = table.part("train").has_any()
    aligner, moments = started(rows, head)
    heads = aligner.named_heads()
    leash = Leash(heads, moments)
    assert leash(aligner.embed(rows)).total.item() == 0
    reads = {name: features_of(heads[name])(aligner.towers[name](rows.features(name)))[rows.present[name]] for name in heads}
    before = {name: linear_of(heads[name])(x).double().detach() for name, x in reads.items()}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in heads:
            for parameter in linear_of(heads[name]).parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    total, parts, _ = leash(aligner.embed(rows))
    total.backward()
    assert all(bool(linear_of(one).weight.grad.isfinite().all()) for one in heads.values())
    for name, x in reads.items():
        moved = (linear_of(heads[name])(x).double().detach() - before[name]).square().sum(1).mean()
        spread = (before[name] - before[name].mean(0)).square().sum(1).mean()
        assert parts[name].item() == pytest.approx(float(moved / spread), rel=1e-3)
    assert total.item() == pytest.approx(sum(part.item() for part in parts.values()) / 3, rel=1e-6)
    if head == "residual":
        with torch.no_grad():
            heads["text"].rest[-1].bias += 1
        assert leash(aligner.embed(rows)).parts["text"].item() > parts["text"].item()
    assert not leash.state_dict().keys() - {f"heads.{name}" for name in leash.heads.state_dict()}


def test_a_strong_leash_holds_and_none_lets_go(table):
    rows = table.part("train").has_any()
    distances = {}
    for weight in (0.0, 1e3):
        aligner, moments = started(rows)
        start = aligner.embed(rows).vectors
        loss = Pairwise() + weight * Leash(aligner.named_heads(), moments)
        fit(aligner, loss, rows, recipe=Recipe(epochs=3, batch_size=32, learning_rate=1e-3, weight_decay=0), progress=False)
        distances[weight] = float((aligner.embed(rows).vectors - start).norm(dim=-1).mean())
    assert distances[1e3] < 0.5 * distances[0.0]


def test_the_best_leash_is_no_worse_on_validation_than_either_end(table, tmp_path):
    rows, held_out = table.part("train").has_any(), table.part("validation").has_any()
    aligner, _ = started(rows)
    solved = mean_reciprocal_rank(all_ranks(aligner.embed(held_out)))
    history = fit_leashed(
        aligner, Pairwise(), rows, held_out, [1.0, 0.1], recipe=RECIPE, output=tmp_path, progress=False, cpu=True
    )
    assert list(history.tried) == [math.inf, 0, 0.1, 1] and history.tried[math.inf] == pytest.approx(solved)
    assert history.best == max(history.tried.values()) == history.tried[history.leash]
    assert mean_reciprocal_rank(all_ranks(aligner.embed(held_out))) == pytest.approx(history.best)
    assert history.chosen.endswith("the best of 4 leashes") and not aligner.training
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == history.records and (tmp_path / "leash-0.1" / "checkpoints").is_dir()
    alone = fit(started(rows)[0], Pairwise(), rows, held_out, recipe=RECIPE, progress=False, cpu=True)
    assert history.tried[0] == alone.best  # each begins from the start, the loss too


def test_where_training_only_harms_the_closed_form_stays(table):
    rows, held_out = table.part("train").has_any(), table.part("validation").has_any()
    aligner, _ = started(rows)
    start = aligner.embed(held_out).vectors
    recipe = Recipe(epochs=1, batch_size=8, learning_rate=5.0)
    history = fit_leashed(aligner, Pairwise(), rows, held_out, [1.0], recipe=recipe, progress=False, cpu=True)
    assert history.leash == math.inf and history.chosen == "the closed form, the best of 3 leashes"
    assert torch.equal(aligner.embed(held_out).vectors, start)


def test_a_leash_on_the_command_line(table, tmp_path, capsys):
    path = tmp_path / "table.safetensors"
    table.save(path)
    words = [
        "train",
        "--data",
        str(path),
        "--output",
        str(tmp_path / "run"),
        "--leash",
        "0.5",
        "--head",
        "linear",
        "--dim",
        "6",
    ]
    words += ["--recipe.epochs", "1"]
    assert main(words) == 2
    assert "`leash` is for `start` 'canonical'" in capsys.readouterr().err
    assert main([*words, "--start", "canonical"]) == 0
    assert "the best of 3 leashes" in capsys.readouterr().out
    assert main([*words, "--start", "canonical"]) == 2
    assert "holds a run already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("leash", "match"),
    [
        ([], "`leash` must hold at least one weight"),
        ([0.0], "`leash` must be a finite number above 0"),
        ([-1.0], "`leash` must"),
    ],
)
def test_leashes_that_cannot_be(table, tmp_path, leash, match):
    path = tmp_path / "table.safetensors"
    table.save(path)
    with pytest.raises(InputError, match=match):
        train(path, tmp_path / "run", start="canonical", leash=leash, dim=6, search=SEARCH, progress=False)
