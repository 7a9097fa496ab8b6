"""The page that `gramian report` writes: what it keeps, what it shows, and that nothing of the user's is HTML."""

import torch

from gramian import Bundle, evaluate


def _circle(degrees):
    angles = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([angles.cos(), angles.sin()], 1)


def test_the_hardest_come_last_and_the_best_lead_by_most():
    """Four items on a circle: c and d find each other; b leads the next item by most."""
    bundle = Bundle.from_dict({"text": _circle([0.0, 90, 200, 290]), "image": _circle([20.0, 90, 320, 200])})
    report = evaluate(bundle, ids=list("abcd"))
    shown = {(one.query, one.kind): [] for one in report.examples}
    for one in report.examples:
        shown[one.query, one.kind].append(one)
    hardest = shown["text", "hardest"]
    assert [(one.id, one.rank, one.found[0]) for one in hardest] == [("c", 3.0, "d"), ("d", 2.0, "c")]
    assert [(one.id, one.rank, one.found[0]) for one in shown["text", "best"]] == [("b", 1.0, "b"), ("a", 1.0, "a")]
    assert all(one.right == tuple(name == one.id for name in one.found) for one in report.examples)
    assert all(one.gallery == 4 and len(one.found) == 3 for one in report.examples)


def test_a_report_keeps_the_vectors_of_some_items(monkeypatch):
    import importlib

    monkeypatch.setattr(importlib.import_module("gramian.evaluation.evaluate"), "SAMPLE", 3)
    bundle = Bundle.from_dict({"text": torch.eye(5), "image": torch.eye(5)}, present={"image": [True, False, True, True, True]})
    space = evaluate(bundle, ids=list("abcde")).space
    assert len(space) == 3 and set(space.ids) < set("abcde")
    rows = ["abcde".index(name) for name in space.ids]
    assert torch.equal(space.features("text").float(), torch.eye(5)[rows])
    assert space.present["image"].tolist() == [row != 1 for row in rows]
