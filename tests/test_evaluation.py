import json
import pickle
from itertools import permutations

import numpy as np
import pytest
import torch

from gramian.bundle import Bundle
from gramian.data.cells import Broken
from gramian.errors import InputError
from gramian.evaluation import DEFAULT, diagnostics, evaluate, hits, rankings, single_directions, subset_directions
from gramian.evaluation.metrics import ranks
from gramian.scores import SCORES
from gramian.tokens import Tokens


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
        assert direction.ranks.expected.tolist() == expected
        assert (direction.gallery, direction.unasked) == (len(gallery), 40 - len(asked))


@pytest.mark.parametrize("score", DEFAULT)
def test_subset_directions_against_loops(score):
    n = 16
    bundle = _bundle(n=n)
    gains = list(subset_directions(bundle, [score]))
    assert len(gains) == 6
    for gain in gains:
        joint = gain.joint
        to_anchor = len(joint.query) > 1
        subset, (anchor,) = (joint.query, joint.target) if to_anchor else (joint.target, joint.query)
        asked = [i for i in range(n) if bundle.has(anchor)[i] and bundle.has(*subset)[i]]
        gallery = [j for j in range(n) if (bundle.has(anchor) if to_anchor else bundle.has(*subset))[j]]
        for i, rank in zip(asked, joint.ranks.expected, strict=True):
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


def test_vectors_whose_hashes_agree_are_alike_only_if_they_are_equal(monkeypatch):
    monkeypatch.setattr(rankings, "_hashes", lambda parts: np.zeros(len(parts[0]), np.int64))
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert rankings._alike([vectors], np.arange(3)).tolist() == [0, 1, 0]


def test_ranking_in_tiles_changes_nothing(monkeypatch):
    whole = evaluate(_bundle())
    monkeypatch.setattr("gramian.kernels.tiles.TILE", 7)
    blocks = evaluate(_bundle())
    for one, other in zip(whole.singles + whole.joints, blocks.singles + blocks.joints, strict=True):
        assert (one.name, one.score, one.gallery) == (other.name, other.score, other.gallery)
        assert np.abs(one.ranks.expected - other.ranks.expected).max() <= 0.5  # two candidates level to rounding


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
    value, low, high = perfect.mean_recall(1)
    assert value == high == 1 > low > 0.9
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
    assert [path.name for path in paths] == ["report.json", "report.md", "space.safetensors", "ranks.parquet"]
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in paths}
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
    bundle = _bundle(names=("a", "b", "c", "d"), missing=0.0)
    report, others = (evaluate(bundle, scores=["span"], subsets=subsets) for subsets in ("all", "others"))
    assert len(report.singles) == len(others.singles) == 12
    assert len(report.gains) == 4 * (3 + 1) * 2 and len(others.gains) == 4 * 2
    whole = {gain.joint.name: gain for gain in report.gains}
    for gain in others.gains:
        assert gain.joint.ranks.expected.tolist() == whole[gain.joint.name].joint.ranks.expected.tolist()


def test_two_modalities_have_no_joint_directions():
    assert evaluate(_bundle(names=("a", "b"), missing=0.0)).gains == ()


@pytest.mark.parametrize(
    ("bundle", "options", "message"),
    [
        (Bundle.from_dict({"a": torch.eye(3)}), {}, "`bundle` must have at least two modalities to evaluate; got a"),
        (_bundle(), {"scores": ["volum"]}, "`scores` must be one of .*Did you mean 'volume'"),
        (_bundle(), {"ks": (0,)}, "`ks` must be an integer of at least 1; got 0"),
        (_bundle(), {"subsets": "every"}, "`subsets` must be one of others, all, none; got 'every'"),
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


@pytest.mark.parametrize("ids", [None, [0, 0, *range(1, 29)]])
def test_a_direction_holds_the_vectors_only_while_there_are_further_matches_to_rank(ids):
    vectors = {name: torch.randn(30, 4096, generator=torch.Generator().manual_seed(i)) for i, name in enumerate("ab")}
    bundle = Bundle.from_dict(vectors, item_ids=ids)
    found = list(single_directions(bundle))
    assert (len(pickle.dumps(found)) > bundle.vectors.nbytes) == (ids is not None)


def test_rows_of_one_item_are_each_other_s_matches():
    """Every item twice: as items of their own each twin hides the other half the time."""
    bundle = _bundle(n=40, noise=0.1, missing=0.0)
    twice = Bundle.cat([bundle, bundle])
    known = Bundle(twice.vectors, twice.present, twice.modalities, torch.arange(40).repeat(2))
    assert evaluate(twice, subsets="none").mean_recall(1).value == pytest.approx(0.5, abs=0.02)
    assert evaluate(known, subsets="none").mean_recall(1).value > 0.95


# --- candidates are items, not rows


def _captions(*, films=30, seed=0, copies=0.0, dtype=torch.float64):
    """Films with one to six captions each, as many rows; some captions stand twice, some rows lack the audio or the film."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(1, 7, (films,), generator=generator)
    film = torch.randn(films, 8, generator=generator, dtype=torch.float64)
    item = torch.arange(films).repeat_interleave(counts)
    n = len(item)
    text = film[item] + 0.9 * torch.randn(n, 8, generator=generator, dtype=torch.float64)
    for row in range(1, n, 4):
        if item[row] == item[row - 1]:
            text[row] = text[row - 1]  # a caption that stands twice
    video = film[item] + copies * torch.randn(n, 8, generator=generator, dtype=torch.float64)
    audio = (film + 0.7 * torch.randn(films, 8, generator=generator, dtype=torch.float64))[item]
    order = torch.randperm(n, generator=generator)
    columns = {"text": text, "video": video, "audio": audio}
    present = {"audio": item % 4 != 0, "video": torch.rand(n, generator=generator) < 0.9}
    bundle = Bundle.from_dict(columns, present=present, item_ids=item)[order]
    return Bundle(bundle.vectors.to(dtype), bundle.present, bundle.modalities, bundle.item_ids)


def _places(bundle, query, target, score):
    """By loops over rows: (rows asked, expected ranks, different candidates)."""
    items, n = bundle.item_ids.tolist(), len(bundle)
    gallery = []
    for j in range(n):
        if not bundle.has(*target)[j]:
            continue
        vectors, present = bundle[[j]].select(*target).vectors, bundle[[j]].select(*target).present
        for item, other, there in gallery:
            if item == items[j] and torch.equal(there, present) and torch.equal(other[there], vectors[present]):
                break
        else:
            gallery.append((items[j], vectors, present))
    asked, places = [], []
    for i in range(n):
        if bundle.has(*query)[i] and bundle.has(*target)[i]:
            values = {True: [], False: []}
            for item, vectors, present in gallery:
                candidate = Bundle(vectors, present, target)
                values[item == items[i]].append(SCORES[score](bundle[[i]].select(*query), candidate).item())
            best = max(values[True])
            close = sum(abs(value - best) < 1e-12 for value in values[False])
            places.append(1 + sum(value > best + 1e-12 for value in values[False]) + close / 2)
            asked.append(i)
    return asked, places, len(gallery)


@pytest.mark.parametrize("seed", range(2))
def test_copies_of_a_film_are_one_candidate_in_both_directions_against_loops(seed):
    bundle = _captions(films=7, seed=seed)
    report = evaluate(bundle, scores=["span", "cosine"])
    assert len(report.singles) == 6 and len(report.gains) == 12
    for direction in (*report.singles, *report.joints):
        asked, places, gallery = _places(bundle, direction.query, direction.target, direction.score)
        assert direction.rows.tolist() == asked and direction.gallery == gallery
        assert direction.ranks.expected.tolist() == places
    for gain in report.gains:
        assert gain.single.rows.tolist() == gain.joint.rows.tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_many_rows_per_item_score_as_the_benchmark_s_protocol(dtype):
    """Every film with as many captions, all the same: the figures are those of one row per film, but for the intervals."""
    generator = torch.Generator().manual_seed(5)
    film = torch.randn(50, 16, generator=generator, dtype=dtype)
    caption = film + 1.6 * torch.randn(50, 16, generator=generator, dtype=dtype)
    one = Bundle.from_dict({"text": caption, "video": film})
    twenty = torch.arange(50).repeat_interleave(20)
    rows = Bundle.from_dict({"text": caption[twenty], "video": film[twenty]}, item_ids=twenty)
    few, many = evaluate(one), evaluate(rows)
    assert (many.n, many.distinct) == (1000, 50) and "1000 rows of 50 items" in many.markdown()
    for a, b in zip(few.singles, many.singles, strict=True):
        assert (a.gallery, b.gallery) == (50, 50)
        assert b.ranks.expected.tolist() == np.repeat(a.ranks.expected, 20).tolist()
        for k in (1, 5, 10):
            assert b.recall(k) == pytest.approx(a.recall(k))
    assert many.mean_recall(1) == pytest.approx(few.mean_recall(1))
    assert json.loads(json.dumps(many.to_dict()))["rows"] == 1000


def test_copies_count_once_though_their_last_bits_differ():
    """As those of a film that was embedded in batches of different sizes."""
    exact = _captions(copies=0.0, dtype=torch.float32)
    noisy = Bundle(
        exact.vectors * (1 + 3e-7 * torch.randn(exact.vectors.shape, generator=torch.Generator().manual_seed(0))),
        exact.present,
        exact.modalities,
        exact.item_ids,
    )
    apart = _captions(copies=0.05, dtype=torch.float32)
    galleries = [[d.gallery for d in single_directions(bundle)] for bundle in (exact, noisy, apart)]
    assert galleries[0] == galleries[1] != galleries[2]


def test_the_same_caption_of_two_films_stays_two_candidates_that_tie(monkeypatch):
    """In whatever tiles they stand."""
    monkeypatch.setattr("gramian.kernels.tiles.TILE", 3)
    z = torch.nn.functional.normalize(torch.randn(9, 6, generator=torch.Generator().manual_seed(0)), dim=1)
    text = z.clone()
    text[8] = text[0]  # "a man plays the guitar"
    bundle = Bundle.from_dict({"text": text, "video": z})
    there, back = single_directions(bundle)
    assert (there.gallery, back.gallery) == (9, 9)
    assert back.ranks.tied.tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 1]  # film 8 asks for its caption, which is film 0's, too
    assert there.ranks.tied.tolist() == [0] * 9
    # Known as one film's, they are one candidate.
    ids = torch.arange(9).where(torch.arange(9) < 8, 0)
    one = list(single_directions(Bundle(bundle.vectors, bundle.present, bundle.modalities, ids)))[1]
    assert one.gallery == 8 and one.ranks.tied.tolist() == [0] * 9


def test_rows_of_one_item_are_no_retrieval():
    """Three rows, one film: nothing to tell apart."""
    bundle = Bundle.from_dict({"text": torch.eye(3), "video": torch.ones(3, 3)}, item_ids=[4, 4, 4])
    assert list(single_directions(bundle)) == []
    with pytest.raises(InputError, match="no two modalities that share at least two items"):
        evaluate(bundle)


def test_tokens_tell_candidates_of_maxsim_apart():
    tokens = Tokens(torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(0)), torch.ones(6, 3).bool())
    bundle = Bundle.from_dict({"a": tokens, "b": torch.eye(6, 4) + 0.1, "c": torch.ones(6, 4)})
    pooled = torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, 1, 1]]).expand(6, 3, 4) / 2
    alike = Bundle(pooled, bundle.present, bundle.modalities, None, bundle.tokens)
    maxsim = [gain.joint for gain in subset_directions(alike, ["maxsim"]) if gain.joint.query == ("c",)]
    assert maxsim[0].gallery == 6 and not maxsim[0].ranks.tied.any()


def test_the_single_modality_alone_is_ranked_as_if_by_itself():
    """Against ranking tables with −∞ for what lacks the modality."""
    bundle = _bundle(n=50, missing=0.4, names=("a", "b", "c"))
    for gain in subset_directions(bundle, ["span"], "all"):
        single, asks = gain.single, len(gain.joint.query) > 1
        gallery = bundle.has(*gain.joint.target)
        table = SCORES["cosine"](bundle[single.rows].select(*single.query), bundle[gallery].select(*single.target))
        match = (gallery.long().cumsum(0) - 1)[torch.from_numpy(single.rows)]
        expected = ranks(table, match)
        assert single.ranks.better.tolist() == expected.better.tolist()
        assert single.ranks.tied.tolist() == expected.tied.tolist()
        assert single.incomplete == (0 if asks else int((gallery & ~bundle.has(*single.target)).sum()))


def test_each_ranking_is_made_once(monkeypatch):
    from gramian.evaluation import rankings

    made = []
    ranked = rankings.Rankings._ranked

    def counted(self, first, second, query, target, score, *, both):
        made.append((query, target, score))
        return ranked(self, first, second, query, target, score, both=both)

    monkeypatch.setattr(rankings.Rankings, "_ranked", counted)
    bundle = _bundle(names=("a", "b", "c", "d"))
    evaluate(bundle, scores=["span", "weighted_centroid"], subsets="all")
    pairs = [(query, target) for query, target, score in made if score == "cosine"]
    assert len(made) == len(set(made)) and len({frozenset(map(tuple, pair)) for pair in pairs}) == len(pairs) == 6
    assert sum(score == "span" for *_, score in made) == 16  # of 32 directions: both ways by one table
    assert sum(score == "weighted_centroid" for *_, score in made) == 32  # which is not symmetric


def test_unreadable_cells_stand_in_the_report(tmp_path):
    report = evaluate(_bundle(), broken=[Broken("7", "image", "no such file")])
    assert json.loads(report.save(tmp_path)[0].read_text())["unreadable"] == [
        {"id": "7", "modality": "image", "reason": "no such file"}
    ]


def test_diagnostics_of_many_vectors_are_of_a_sample_and_say_so(monkeypatch):
    bundle = _bundle(n=60, missing=0.0)
    whole = diagnostics(bundle)
    monkeypatch.setattr("gramian.evaluation.shape.SAMPLE", 40)
    found = diagnostics(bundle)
    marked = {name for name in found if name.endswith(" (40 of 60)")}
    assert {name.removesuffix(" (40 of 60)") for name in found} == set(whole)
    assert "uniformity, text (40 of 60)" in marked and "hubness, text → image (40 of 60)" in marked
    assert found["effective rank, text"] == whole["effective rank, text"]
    assert found["uniformity, text (40 of 60)"] == pytest.approx(whole["uniformity, text"], abs=0.2)
    assert diagnostics(bundle) == found  # the same sample each time


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

    from gramian.evaluation.clouds import tsne
    from gramian.evaluation.plots import recall_matrix

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
