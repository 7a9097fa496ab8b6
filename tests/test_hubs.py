"""Scores corrected for hubs by a bank of training vectors: 2 s − the mean of the item's highest scores with the bank."""

import shutil
from fnmatch import fnmatch

import pytest
import torch

from gramian import Aligner, Bundle, evaluate, train
from gramian.cli import main
from gramian.errors import InputError
from gramian.evaluation.rankings import Rankings
from gramian.geometry import unit
from gramian.kernels import log_sums
from gramian.model.encoders import folders
from gramian.scores import SCORES, corrected, hub_scores
from synthetic import world

NAMES = ("text", "image", "audio")


def bundle(n, seed, missing=0.2):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(n, 3, 6, generator=generator)
    present = torch.rand(n, 3, generator=generator) >= missing
    present[:, 0] |= ~present.any(1)
    return Bundle.from_dict(
        {name: values[:, i] for i, name in enumerate(NAMES)}, present={n_: present[:, i] for i, n_ in enumerate(NAMES)}
    )


def table_by_hand(score, queries, items, bank, nearest):
    """Entry by entry."""
    plain, banked = SCORES[score](queries, items), SCORES[score](bank[bank.has()], items)
    penalties = [sum(sorted(column.tolist(), reverse=True)[:nearest]) / nearest for column in banked.T]
    return torch.stack([2 * row - torch.tensor(penalties) for row in plain])


@pytest.mark.parametrize("score", ["cosine", "span", "cone", "centroid", "volume"])
@pytest.mark.parametrize("nearest", [1, 4])
def test_a_corrected_score_is_the_formula(score, nearest):
    queries, items, bank = bundle(5, 0, 0).select("text"), bundle(7, 1).select("image", "audio"), bundle(9, 2).select("text")
    items = items[items.has()]
    hubs = hub_scores(SCORES[score], bank, items, nearest=nearest)
    form = corrected(SCORES[score].of(queries, items), hubs)
    torch.testing.assert_close(form.plain(), table_by_hand(score, queries, items, bank, nearest), rtol=1e-5, atol=1e-5)


def test_its_gradient_is_that_of_the_formula():
    queries, items = (torch.nn.functional.normalize(torch.randn(4, 3, dtype=torch.float64), dim=1) for _ in range(2))
    hubs = torch.randn(4, dtype=torch.float64)
    grads = []
    for make in (
        lambda q, i, h: torch.logsumexp(2 * unit(q) @ unit(i).T - h, 1).sum(),
        lambda q, i, h: log_sums(corrected(SCORES["cosine"].of(q, i), h), block_size=3).rows.sum(),
    ):
        leaves = [part.clone().requires_grad_() for part in (queries, items, hubs)]
        grads.append(torch.autograd.grad(make(*leaves), leaves))
    torch.testing.assert_close(*grads)


def test_rankings_with_a_bank_are_those_of_the_corrected_table():
    items, bank = bundle(20, 3, 0), bundle(15, 4)
    for query, target in ((("text",), ("image",)), (("text",), ("image", "audio")), (("image", "audio"), ("text",))):
        scores = table_by_hand("span", items.select(*query), items.select(*target), bank.select(*query), 10)
        wanted = (scores > scores.diagonal()[:, None]).sum(1)
        ranked = Rankings(items, bank).rows(query, target, "span")
        assert ranked.better.tolist() == wanted.tolist()


def test_hubs_are_taken_off():
    """One item near every query wins without the correction, and not with it."""
    generator = torch.Generator().manual_seed(0)
    centre = torch.nn.functional.normalize(torch.ones(1, 8), dim=1)
    rows = torch.nn.functional.normalize(centre + 0.25 * torch.randn(60, 8, generator=generator), dim=1)
    image = torch.nn.functional.normalize(rows + 0.2 * torch.randn(60, 8, generator=generator), dim=1)
    image[0] = centre
    whole = Bundle.from_dict({"text": rows, "image": image})
    plain, with_bank = (evaluate(whole[:30], subsets="none", bank=bank) for bank in (None, whole[30:]))
    assert with_bank.matrix(1)[0, 1] > plain.matrix(1)[0, 1] + 0.05
    assert with_bank.settings["hubs"] == "corrected by 30 training items" and "hubs" not in plain.settings


def test_a_bank_of_another_space_is_refused():
    with pytest.raises(InputError, match="`bank` must have the modalities and the width"):
        evaluate(bundle(5, 0), bank=bundle(5, 0).select("text", "image"))
    assert float(hub_scores(SCORES["cosine"], bundle(4, 0)[:0], bundle(3, 0)).abs().sum()) == 0


def test_a_bank_is_kept_with_the_aligner(tmp_path, capsys):
    table = world(60, missing=0.1)
    path = tmp_path / "table.safetensors"
    table.save(path)
    run = train(str(path), tmp_path / "run", method="canonical", head="linear", dim=5, bank=12, progress=False)
    again = Aligner.from_pretrained(tmp_path / "run" / "aligner")
    assert len(again.bank) == 12 and torch.equal(again.bank.vectors, run.aligner.bank.vectors)
    words = ["evaluate", "--data", str(path), "--model", str(tmp_path / "run" / "aligner"), "--output"]
    assert main([*words, str(tmp_path / "plain")]) == main([*words, str(tmp_path / "hubs"), "--hubs"]) == 0
    assert "corrected by 12 training items" in (tmp_path / "hubs" / "report.md").read_text()
    again.bank = None
    again.save_pretrained(tmp_path / "run" / "aligner")  # the bank goes with it
    assert main([*words, str(tmp_path / "none"), "--hubs"]) == 2
    assert "`hubs` needs a model that keeps training items" in capsys.readouterr().err
    again.bank = bundle(4, 0)
    again.save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match=r"bank\.safetensors is of another space"):
        Aligner.from_pretrained(tmp_path / "other")


def test_a_download_brings_the_bank(tmp_path, monkeypatch):
    aligner = Aligner(dict.fromkeys(NAMES, 3), dim=6)
    aligner.bank = bundle(4, 0)
    aligner.save_pretrained(tmp_path / "hub")

    def fetched(_model, *, allow_patterns, **_options):
        for path in (tmp_path / "hub").iterdir():
            if any(fnmatch(path.name, pattern) for pattern in allow_patterns):
                shutil.copy(path, tmp_path)
        return tmp_path

    monkeypatch.setattr(folders, "snapshot_download", fetched)
    again = Aligner.from_pretrained("me/aligner")
    assert torch.equal(again.bank.vectors, aligner.bank.vectors)
