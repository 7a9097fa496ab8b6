"""The search for better, made small: the terms against their formulas, joined spaces, what the page says."""

import math
from dataclasses import replace

import pytest
import torch

from gramian.benchmark import attempts, families
from gramian.benchmark.study import Method
from gramian.bundle import Bundle
from gramian.data import Table
from gramian.errors import TooSmallError
from gramian.model import Aligner
from gramian.rows import read_ids
from synthetic import world

pytest.importorskip("accelerate")


@pytest.fixture(scope="module")
def table():
    return world(80)


@pytest.fixture(scope="module")
def batch():
    """Six items that lack a cell each way, in another order than the table, and the Aligner whose features are compared."""
    generator = torch.Generator().manual_seed(0)
    columns = {name: torch.randn(8, width, generator=generator) for name, width in (("a", 5), ("b", 3))}
    train = Table.from_columns(columns, ids=list("stuvwxyz"))
    order = [7, 2, 5, 0, 3, 1]
    present = torch.ones(6, 2, dtype=torch.bool)
    present[1, 0] = present[4, 1] = False
    vectors = torch.nn.functional.normalize(torch.randn(6, 2, 4, generator=generator), dim=-1) * present[..., None]
    ids = read_ids([train.ids[row] for row in order], 6)
    return Aligner.for_table(train, dim=4), train, order, Bundle(vectors, present, ("a", "b"), ids)


def similarities(rows):
    """Cosines of the rows, as lists."""
    unit = torch.nn.functional.normalize(rows.double(), dim=-1)
    return (unit @ unit.T).tolist()


def raw(train, order, name):
    """What the head reads of the batch's items: features standardised by the training rows."""
    values = train.columns[name].double()
    return ((values - values.mean(0)) / values.std(0, correction=0))[order]


def softmax(row, temperature):
    powers = [math.exp(value / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def test_structure_is_the_divergence_of_similarities_before_and_after(batch):
    aligner, train, order, bundle = batch
    expected = []
    for i, name in enumerate(bundle.modalities):
        rows = bundle.present[:, i].nonzero().flatten().tolist()
        before = similarities(raw(train, [order[row] for row in rows], name))
        after = similarities(bundle.vectors[rows, i])
        total = 0.0
        for x, z in zip(before, after, strict=True):
            p, q = softmax(x, 0.1), softmax(z, 0.1)
            total += sum(a * math.log(2 * a / (a + b)) + b * math.log(2 * b / (a + b)) for a, b in zip(p, q, strict=True)) / 2
        expected.append(total / len(rows))
    term = attempts.Structure(aligner, train)
    assert term(bundle).total.item() == pytest.approx(sum(expected) / 2, rel=1e-4)


def test_soft_targets_are_the_similarities_to_the_match(batch):
    aligner, train, order, bundle = batch
    rows = bundle.present.all(1).nonzero().flatten().tolist()
    a, b = bundle.vectors[rows].double().unbind(1)
    total = 0.0
    for logits, name in (((a @ b.T).tolist(), "b"), ((b @ a.T).tolist(), "a")):
        own = similarities(raw(train, [order[row] for row in rows], name))
        for row, similar in zip(logits, own, strict=True):
            targets = softmax(similar, 0.1)
            total -= sum(t * math.log(p) for t, p in zip(targets, softmax(row, 0.2), strict=True)) / (2 * len(rows))
    vectors = bundle.vectors.clone().requires_grad_()
    found = attempts.SoftTargets(aligner, train)(Bundle(vectors, bundle.present, bundle.modalities, bundle.item_ids)).total
    assert found.item() == pytest.approx(total, rel=1e-4)
    found.backward()
    assert vectors.grad.isfinite().all() and vectors.grad.abs().sum() > 0


def test_items_without_ids_have_no_features_to_compare_with(batch):
    aligner, train, _, bundle = batch
    with pytest.raises(TooSmallError, match="ids of training items"):
        attempts.Structure(aligner, train)(Bundle(bundle.vectors, bundle.present, bundle.modalities))


def test_attempts_are_compared_with_the_reference_on_validation(table, tmp_path, monkeypatch):
    monkeypatch.setattr(families, "load", lambda *_, **__: table)
    page = tmp_path / "page.md"
    page.write_text("<!-- attempts -->\n<!-- /attempts -->\n")
    methods = ["infonce-mlp-heads", "soft-targets-weight-0-1", "one-temperature-per-pair"]
    options = {"seeds": 2, "epochs": 1, "methods": methods, "sets": ["world"], "page": page}
    report, _ = attempts.attempts(replace(attempts.attempts.plan, output=tmp_path, **options))
    rows = [line for line in report.read_text().splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows[2:]] == [
        families.STARTED,
        families.MLP,
        "one temperature per pair",
        "soft targets, weight 0.1",
        f"{families.STARTED} + {families.MLP}",
    ]
    assert families.STARTED in page.read_text()


def test_names_of_attempts_are_those_of_methods():
    every = attempts.tried(["text", "image"])
    assert all(isinstance(method, Method) and method.name == name for name, method in every.items())
    assert repr(every["one temperature per pair"].loss()).count("text-image")
