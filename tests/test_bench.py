"""`gramian bench`: the published formulas are those of the references, the forms agree, the files are whole."""

import csv
import math
import os

import pytest
import torch
import torch.nn.functional as F

from gramian import PMRL, Bundle, Gram
from gramian.benchmark import cases, costs, published
from gramian.benchmark.memory import PeakMemory
from gramian.cli import main
from reference import gram as reference_gram
from reference import pmrl as reference_pmrl


def vectors(n=6, m=3, d=5):
    return F.normalize(torch.randn(n, m, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=-1)


@pytest.fixture(autouse=True)
def short_turns(monkeypatch):
    monkeypatch.setattr(costs, "TURN", 0.001)


def test_published_formulas_are_those_of_the_references():
    Z = vectors()
    close = {"rtol": 1e-9, "atol": 1e-9}
    expected = torch.tensor(reference_gram.volumes(list(Z[:, 0]), [item[1:] for item in Z]), dtype=torch.float64)
    torch.testing.assert_close(published.volumes(Z[:, 0], list(Z[:, 1:].unbind(1))), expected, **close)
    wanted = reference_gram.loss(list(Z[:, 0]), [item[1:] for item in Z], 0.07)
    assert float(published.gram_loss(Z)) == pytest.approx(wanted, rel=1e-9)
    # The sign of a singular vector is the factorisation's; it decides the instance term, so that only the first is compared.
    alone = published.pmrl_loss(Z) - published.pmrl_loss(Z, alignment_temperature=1e9) + math.log(3)
    assert float(alone) == pytest.approx(reference_pmrl.alignment(list(Z)), rel=1e-6)


def test_all_forms_of_a_case_give_one_value():
    device = torch.device("cpu")
    for case in (cases._gram(12, 3, 8, "forward", device), cases._scoring(5, 9, 3, 8, device)):
        values = [torch.as_tensor(run()) for name, (run, _) in case.forms.items() if name != "products"]
        for value in values[1:]:
            torch.testing.assert_close(value.abs(), values[0].abs(), rtol=1e-4, atol=1e-5)
    Z = cases._vectors(12, 3, 8, device)
    bundle = Bundle(Z, torch.ones(12, 3, dtype=torch.bool), cases.NAMES[:3])
    torch.testing.assert_close(published.gram_loss(Z), Gram()(bundle).total.detach(), rtol=1e-5, atol=1e-6)
    assert PMRL()(bundle).total.isfinite()


def test_the_command_writes_a_row_a_form(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(costs.gc, "collect", int)  # slow in a process that has imported all that the tests need
    words = ["bench", "--output", str(tmp_path), "--sizes", "8,16", "--modalities", "2", "--galleries", "20", "--rounds", "2"]
    assert main([*words, "--dim", "4", "--device", "cpu"]) == 0
    rows = list(csv.DictReader((tmp_path / "costs.csv").read_text().splitlines()))
    steps = {(row["task"], row["form"], row["work"], row["n"]) for row in rows}
    assert len(steps) == len(rows) == 2 * 2 * (5 + 4) + 3
    assert all(float(row["seconds"]) > 0 and row["torch"] == torch.__version__ and row["date"] for row in rows)
    assert {row["form"] for row in rows if row["task"] == "gram"} == {"published", "plain", "kept", "blocked", "products"}
    assert (tmp_path / "costs.png").stat().st_size > 1000
    assert "forward+backward" in capsys.readouterr().out


def test_what_does_not_fit_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "free_bytes", lambda _: 2000)
    rows = costs.bench(tmp_path, tasks=["gram"], sizes=[16], modalities=[2], dim=4, rounds=1)
    assert {row.form for row in rows} == {"blocked"} and rows[0].published_to is None


def test_moments_are_timed_against_an_epoch(tmp_path):
    rows = costs.bench(tmp_path, tasks=["moments"], modalities=[2], galleries=[30], dim=4, rounds=1, device="cpu")
    assert [row.form for row in rows] == ["library", "solve", "epoch", "products"]
    assert all(row.seconds > 0 and row.n == 30 for row in rows)


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="peaks are read on Linux alone")
def test_peak_memory_is_that_of_the_block_alone():
    def block(megabytes):
        return torch.ones(megabytes, 250_000)

    block(100)
    with PeakMemory() as small:
        block(20)
    with PeakMemory() as large:
        kept = block(60)
        block(60)
    with PeakMemory() as none:
        kept.add_(1)
    assert 15 < small.megabytes < 45 < 110 < large.megabytes < 160 and none.megabytes < 15
