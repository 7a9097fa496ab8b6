"""Missing modalities: curves, one left out, how complete items are favoured, and dropout of modalities in training."""

import numpy as np
import pytest
import torch

from gramian import Aligner, Bundle, Pairwise, Recipe, fit
from gramian.errors import InputError
from gramian.evaluation import evaluate, robustness
from gramian.evaluation.robustness import _draws
from gramian.scores import SCORES
from gramian.training.objective import drop_modalities
from synthetic import world

NAMES = ("text", "image", "audio")


def bundle(n=14, noise=0.7, seed=0, names=NAMES, missing=0.0):
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(n, 8, generator=generator)
    columns = {name: latent + noise * torch.randn(n, 8, generator=generator) for name in names}
    present = {name: torch.rand(n, generator=generator) >= missing for name in names}
    present[names[0]] |= ~torch.stack(list(present.values())).any(0)
    return Bundle.from_dict(columns, present=present)


def literal_hits(data, keep, score, name, others, to_name):
    """Row → whether it finds its item at rank 1, of the rows that could at p = 0; ties count their share."""
    left = [
        [other for j, other in enumerate(data.modalities) if other in others and data.present[i, j] and keep[i, j]]
        for i in range(len(data))
    ]
    rows = [i for i in range(len(data)) if data.has(name)[i] and data.has(*others)[i]]
    hits = []
    for i in rows:
        gallery = [j for j in range(len(data)) if (data.has(name)[j] if to_name else left[j])]
        if not left[i]:
            hits.append(0.0)
            continue

        def value(j, i=i):
            vector, item = (j, i) if to_name else (i, j)
            return SCORES[score](data.column(name)[[vector]], data[[item]].select(*left[item])).item()

        values = {j: value(j) for j in gallery}
        better = sum(v > values[i] + 1e-6 for j, v in values.items() if j != i)
        hits.append(float(better == 0))
    return hits


@pytest.mark.parametrize("score", ["centroid", "cosine"])
def test_curves_against_loops(score):
    data = bundle(missing=0.1)
    result = robustness(data, scores=[score], drops=(0, 0.5), arity=[], seed=3)
    for place, drop in enumerate((0, 0.5)):
        keep = _draws(data, 3) >= drop
        means = []
        for name in NAMES:
            others = [other for other in NAMES if other != name]
            means += [np.mean(literal_hits(data, keep, score, name, others, to_name)) for to_name in (False, True)]
        assert result.curves[0].recall[place].value == pytest.approx(np.mean(means))
    whole = evaluate(data, scores=[score])
    assert result.curves[0].recall[0].value == pytest.approx(np.mean([one.recall(1).value for one in whole.joints]))


def test_masks_are_nested_and_the_same_for_every_model():
    one, other = bundle(), bundle(seed=1, names=("audio", "depth", "text"))
    draws, theirs = _draws(one, 7), _draws(other, 7)
    assert np.array_equal(draws[:, 0], theirs[:, 2]) and np.array_equal(draws[:, 2], theirs[:, 0])
    assert not np.array_equal(draws, _draws(one, 8)) and abs((draws < 0.3).mean() - 0.3) < 0.15


def test_what_is_left_out_is_what_a_smaller_bundle_has():
    data = bundle()
    result = robustness(data, scores=["centroid"], drops=(0,), arity=[])
    expected = {}
    for gone in NAMES:
        directions = evaluate(data.select(*(name for name in NAMES if name != gone))).singles
        expected[gone] = np.mean([one.recall(1).value for one in directions])
    full = {
        gone: np.mean(
            [
                one.recall(1).value
                for one in evaluate(data, scores=["centroid"]).joints
                if gone in max(one.query, one.target, key=len)
            ]
        )
        for gone in NAMES
    }
    for one in result.left_out:
        assert one.recall.value == pytest.approx(expected[one.modality])
        assert one.difference.value == pytest.approx(expected[one.modality] - full[one.modality])
        assert one.difference.low <= one.difference.value <= one.difference.high


def test_scores_that_grow_favour_complete_items_and_means_do_not():
    result = robustness(bundle(200, noise=2.0), scores=["span"], drops=(0,))
    first = {one.score: (one.first, one.expected) for one in result.arity}
    assert set(first) == set(SCORES)
    assert first["span"][0].low > first["span"][1] and first["volume"][0].low > 0.9
    assert first["cosine"][0].high < first["cosine"][1] + 0.1


def test_scores_of_three_vectors_are_left_out_of_four():
    four = bundle(20, names=(*NAMES, "depth"))
    assert {one.score for one in robustness(four, scores=["span"], drops=(0,)).arity} == {*SCORES} - {"triangle"}


def test_the_report_shows_what_is_left(tmp_path):
    report = evaluate(bundle(missing=0.2), scores=["span"], missing=True)
    assert [sheet.title for sheet in report.robustness.sheets()] == [
        "R@1 as modalities are dropped",
        "One modality left out",
        "Complete and incomplete items",
    ]
    written = report.to_dict()["robustness"]
    assert len(written["curves"][0]["recall"]) == len(written["curves"][0]["drops"]) == 10
    recall = [value["value"] for value in written["curves"][0]["recall"]]
    assert recall[0] > recall[-1]
    report.save(tmp_path)
    assert "R@1 as modalities are dropped" in (tmp_path / "report.md").read_text()


def test_robustness_refuses():
    with pytest.raises(InputError, match="three modalities, for some to be dropped; got text, image"):
        robustness(bundle(names=("text", "image")))
    with pytest.raises(InputError, match=r"`drops` must lie in \[0, 1\)"):
        robustness(bundle(), drops=(1.0,))
    with pytest.raises(InputError, match="`scores` must be"):
        robustness(bundle(), scores=["spam"])


def test_dropped_modalities_leave_two_and_the_drawn_share():
    data = bundle(4000, names=(*NAMES, "depth"), missing=0.1)
    kept = drop_modalities(data, 0.4)
    assert not (kept.present & ~data.present).any()
    assert (kept.present.sum(1) >= data.present.sum(1).clamp(max=2)).all()
    assert not kept.vectors[~kept.present].any()
    assert torch.equal(kept.vectors[kept.present], data.vectors[kept.present])
    # Of four modalities, each dropped with probability 0.4 but for the last two: (4 − Binomial) truncated at 2.
    complete = data.present.all(1)
    share = [0.6**4, 4 * 0.4 * 0.6**3]
    expected = 4 * share[0] + 3 * share[1] + 2 * (1 - sum(share))
    assert kept.present[complete].sum(1).double().mean().item() == pytest.approx(expected, abs=0.05)
    assert drop_modalities(data, 0.0) is data


def test_training_with_dropout_draws_alike_each_time():
    table = world(48)

    def trained(**options):
        aligner = Aligner.for_table(table, dim=8, seed=0)
        fit(aligner, Pairwise(), table, recipe=Recipe(epochs=2, batch_size=16, seed=1, **options), progress=False)
        return torch.cat([value.flatten() for value in aligner.state_dict().values()])

    once, again, parts, without = (
        trained(**options)
        for options in (
            {"modality_dropout": 0.5},
            {"modality_dropout": 0.5},
            {"modality_dropout": 0.5, "micro_batch": 16},
            {},
        )
    )
    assert torch.equal(once, again) and not torch.equal(once, without)
    assert torch.allclose(once, parts, atol=1e-5)  # the second pass over a part drops what the first did
    with pytest.raises(InputError, match=r"`modality_dropout` must lie in \[0, 1\)"):
        Recipe(modality_dropout=1.0)
