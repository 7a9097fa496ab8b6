import json
from itertools import permutations

import numpy as np
import pytest
import torch

from gramian import evaluation
from gramian.bundle import Bundle
from gramian.errors import InputError
from gramian.evaluation import DEFAULT, diagnostics, evaluate, hits, single_directions, subset_directions
from gramian.scores import SCORES


def _bundle(n=40, *, missing=0.3, noise=0.5, names=("text", "image", "audio"), seed=0):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 8, generator=generator)
    columns = {name: z + noise * torch.randn(n, 8, generator=generator) for name in names}
    present = {name: torch.rand(n, generator=generator) >= missing for name in names}
    present[names[0]] |= ~torch.stack(list(present.values())).any(0)
    return Bundle.from_dict(columns, present=present)


def _rank(values, own):
    better = sum(value > own for value in values)
    tied = sum(value == own for value in values) - 1
    return 1 + better + tied / 2


def test_single_directions_against_loops():
    bundle = _bundle()
    found = {(d.query, d.target): d for d in single_directions(bundle)}
    assert set(found) == {((a,), (b,)) for a, b in permutations(bundle.modalities, 2)}
    for a, b in permutations(bundle.modalities, 2):
        gallery = [j for j in range(40) if bundle.has(b)[j]]
        asked = [i for i in range(40) if bundle.has(a)[i] and bundle.has(b)[i]]
        expected = []
        for i in asked:
            values = {j: float(bundle.column(a)[i] @ bundle.column(b)[j]) for j in gallery}
            expected.append(_rank(values.values(), values[i]))
        direction = found[(a,), (b,)]
        assert direction.rows.tolist() == asked
        assert direction.ranks.mean.tolist() == expected
        assert (direction.gallery, direction.unasked) == (len(gallery), 40 - len(asked))


@pytest.mark.parametrize("score", DEFAULT)
def test_subset_directions_against_loops(score):
    bundle = _bundle(n=24)
    gains = list(subset_directions(bundle, [score]))
    assert len(gains) == 6
    for gain in gains:
        joint = gain.joint
        to_anchor = len(joint.query) > 1
        subset, (anchor,) = (joint.query, joint.target) if to_anchor else (joint.target, joint.query)
        asked = [i for i in range(24) if bundle.has(anchor)[i] and bundle.has(*subset)[i]]
        gallery = [j for j in range(24) if (bundle.has(anchor) if to_anchor else bundle.has(*subset))[j]]
        for i, rank in zip(asked, joint.ranks.mean, strict=True):
            values = {}
            for j in gallery:
                vector, item = (j, i) if to_anchor else (i, j)
                values[j] = SCORES[score](bundle.column(anchor)[[vector]], bundle[[item]].select(*subset)).item()
            close = sum(abs(value - values[i]) < 1e-5 for value in values.values()) - 1
            assert abs(rank - _rank(values.values(), values[i])) <= close
        assert joint.rows.tolist() == asked
        assert joint.gallery == len(gallery)
        side = asked if to_anchor else gallery
        assert joint.incomplete == sum(not bundle.select(*subset).present[j].all() for j in side)


def test_ranking_in_blocks_changes_nothing(monkeypatch):
    whole = evaluate(_bundle())
    monkeypatch.setattr(evaluation.directions, "BLOCK", 7)
    blocks = evaluate(_bundle())
    for one, other in zip(whole.singles + whole.joints, blocks.singles + blocks.joints, strict=True):
        assert (one.name, one.score, one.gallery) == (other.name, other.score, other.gallery)
        assert np.abs(one.ranks.mean - other.ranks.mean).max() <= 0.5  # two candidates level to rounding


def test_best_single_modality_is_measured_on_the_same_gallery():
    bundle = _bundle(n=200, missing=0.3)
    for gain in subset_directions(bundle, ["span"]):
        assert gain.single.gallery == gain.joint.gallery
        assert gain.single.rows.tolist() == gain.joint.rows.tolist()
        assert gain.best_single in gain.joint.query + gain.joint.target
        assert gain.difference.value == pytest.approx(gain.joint.recall(1).value - gain.single.recall(1).value)
        assert gain.difference.low <= gain.difference.value <= gain.difference.high


def test_perfect_alignment_is_found_perfectly_and_noise_is_not():
    perfect = evaluate(_bundle(n=60, noise=0.0, missing=0.0), scores=["cone", "centroid"])
    assert perfect.mean_recall(1) == (1.0, 1.0, 1.0)
    assert all(direction.recall(1).value == 1 for direction in perfect.joints)
    names = ("a", "b", "c")
    noise = Bundle.from_dict(
        {name: torch.randn(200, 8, generator=torch.Generator().manual_seed(i)) for i, name in enumerate(names)}
    )
    assert evaluate(noise).mean_recall(1).value < 0.03


def test_missing_modalities_are_counted_and_do_not_help():
    """An item without the asked modality is at best a guess among those that lack it too."""
    columns = {"text": torch.eye(6), "image": torch.eye(6), "audio": torch.eye(6)}
    mask = torch.tensor([True, True, True, False, False, False])
    bundle = Bundle.from_dict(columns, present={"audio": mask})
    report = evaluate(bundle, scores=["span"])
    assert report.present == {"text": 6, "image": 6, "audio": 3}
    audio = next(d for d in report.singles if d.query == ("audio",) and d.target == ("text",))
    assert (len(audio.rows), audio.gallery, audio.unasked) == (3, 6, 3)
    gain = next(gain for gain in report.gains if gain.joint.query == ("text",) and gain.joint.target == ("image", "audio"))
    assert gain.joint.incomplete == 3
    assert gain.joint.recall(1).value == 1


def test_hits_mark_who_was_not_asked():
    bundle = _bundle()
    directions = list(single_directions(bundle))
    table = hits(directions, len(bundle), 5)
    for row, direction in zip(table, directions, strict=True):
        assert np.isnan(row).sum() == direction.unasked
        assert np.nanmean(row) == pytest.approx(direction.recall(5).value)


def test_report_says_the_same_in_json_markdown_and_matrix(tmp_path):
    report = evaluate(_bundle(), ks=(1, 5), settings={"data": "synthetic"})
    paths = report.save(tmp_path)
    assert [path.name for path in paths] == ["report.json", "report.md"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "report.md"]
    data = json.loads(paths[0].read_text())
    assert data["items"] == 40
    assert data["missing"] == {name: 40 - count for name, count in report.present.items()}
    assert len(data["directions"]) == 6 + 6 * len(DEFAULT)
    page = paths[1].read_text()
    assert "- data: synthetic" in page
    first = report.singles[0]
    assert f"| {first.name} | {len(first.rows)} | {first.gallery} | {first.recall(1).percent()} |" in page
    assert report.matrix(1)[0, 1] == pytest.approx(first.recall(1).value)
    assert np.isnan(np.diag(report.matrix(1))).all()
    assert data["mean_recall"]["1"]["value"] == pytest.approx(np.nanmean(report.matrix(1)))


def test_four_modalities_have_every_subset():
    report = evaluate(_bundle(names=("a", "b", "c", "d"), missing=0.0), scores=["span"])
    assert len(report.singles) == 12
    assert len(report.gains) == 4 * (3 + 1) * 2


def test_two_modalities_have_no_joint_directions():
    assert evaluate(_bundle(names=("a", "b"), missing=0.0)).gains == ()


@pytest.mark.parametrize(
    ("bundle", "options", "message"),
    [
        (Bundle.from_dict({"a": torch.eye(3)}), {}, "`bundle` must have at least two modalities to evaluate; got a"),
        (_bundle(), {"scores": ["volum"]}, "`scores` must be one of .*Did you mean 'volume'"),
        (_bundle(), {"ks": (0,)}, "`ks` must be positive"),
        (Bundle.from_dict({"a": [[1.0], None], "b": [None, [1.0]]}), {}, "no two modalities that share at least two items"),
    ],
)
def test_evaluate_refuses(bundle, options, message):
    with pytest.raises(InputError, match=message):
        evaluate(bundle, **options)


def test_diagnostics_tell_aligned_antipodal_and_random_spaces_apart():
    aligned = diagnostics(_bundle(noise=0.1, missing=0.0))
    assert aligned["antipodal share, text – image"] == 0
    assert aligned["1 − volume, matched"] > aligned["1 − volume, mismatched"] + 0.5
    bundle = _bundle(noise=0.1, missing=0.0)
    flipped = Bundle(bundle.vectors * torch.tensor([1.0, -1.0, 1.0])[:, None], bundle.present, bundle.modalities)
    found = diagnostics(flipped)
    assert found["antipodal share, text – image"] == 1
    assert found["antipodal share, text – audio"] == 0
    assert found["1 − volume, matched"] == pytest.approx(aligned["1 − volume, matched"], abs=1e-5)
    assert found["modality gap, text – image"] > aligned["modality gap, text – image"]


def test_diagnostics_show_the_spectrum_and_which_objective_is_saturated():
    aligned, scattered = (diagnostics(_bundle(n=60, noise=noise, missing=0.0)) for noise in (0.02, 3.0))
    assert aligned["energy share, σ1"] > 0.99 and sum(aligned[f"energy share, σ{i}"] for i in (1, 2, 3)) == pytest.approx(1)
    assert aligned["effective rank of a tuple"] < 1.05 < 2 < scattered["effective rank of a tuple"]
    assert aligned["gradient, PMRL: alignment"] < 1e-3 < scattered["gradient, PMRL: alignment"]
    assert {name for name in aligned if name.startswith("gradient, Gram, cone, each")} == {
        f"gradient, Gram, cone, each: {name}" for name in ("text", "image", "audio")
    }


def test_rows_of_one_item_are_each_other_s_matches():
    """Every item twice: as items of their own each twin hides the other half the time."""
    bundle = _bundle(n=40, noise=0.1, missing=0.0)
    twice = Bundle.cat([bundle, bundle])
    known = Bundle(twice.vectors, twice.present, twice.modalities, torch.arange(40).repeat(2))
    assert evaluate(twice, subsets=False).mean_recall(1).value == pytest.approx(0.5, abs=0.02)
    assert evaluate(known, subsets=False).mean_recall(1).value > 0.95


def test_diagnostics_leave_out_what_is_missing():
    bundle = Bundle.from_dict({"a": torch.eye(6), "b": torch.eye(6), "c": [[1.0] * 6, *[None] * 5]})
    found = diagnostics(bundle)
    assert not any("c" in name.split(", ")[-1].split(" ") for name in found)
    assert "1 − volume, matched" not in found
    assert found["effective rank, a"] == pytest.approx(6)
    missing = Bundle.from_dict({"a": torch.eye(6), "b": torch.eye(6)}, present={"b": torch.arange(6) < 3})
    assert diagnostics(missing)["effective rank, b"] == pytest.approx(3)


def test_report_carries_the_diagnostics_when_asked(tmp_path):
    bundle = _bundle()
    assert evaluate(bundle, scores=["span"]).diagnostics == {}
    report = evaluate(bundle, scores=["span"], diagnose=True)
    assert json.loads(report.save(tmp_path)[0].read_text())["diagnostics"] == report.diagnostics == diagnostics(bundle)
    assert "| hubness, text → image |" in (tmp_path / "report.md").read_text()


def test_plots_show_the_values():
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    from gramian.evaluation.plots import recall_matrix, tsne

    report = evaluate(_bundle(), scores=["span"])
    ax = recall_matrix(report.matrix(1), list(report.present), Figure().add_subplot())
    shown = {text.get_text() for text in ax.texts}
    assert shown == {f"{100 * value:.1f}" for value in report.matrix(1)[~np.eye(3, dtype=bool)]}
    assert [label.get_text() for label in ax.get_yticklabels()] == ["text", "image", "audio"]
    bundle = _bundle()
    cloud = tsne(bundle, Figure().add_subplot())
    assert cloud.get_legend_handles_labels()[1] == list(bundle.modalities)
    assert [len(points.get_offsets()) for points in cloud.collections] == list(bundle.counts().values())
    with pytest.raises(InputError, match="at least four vectors"):
        tsne(bundle[[0]], ax)
    with pytest.raises(InputError, match=r"`values` must have shape \(2, 2\)"):
        recall_matrix(np.zeros((3, 3)), ["a", "b"], ax)
