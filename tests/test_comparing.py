"""Comparing evaluations: ranks that are kept, differences and their p-values, groups, and what cannot be compared."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gramian import Bundle
from gramian.cli import main
from gramian.errors import InputError
from gramian.evaluation import compare, evaluate
from gramian.evaluation.classification import nearest
from gramian.evaluation.metrics import Ranks, hits_at_k
from gramian.evaluation.ranks_file import RankedDirection, Way, read_ranks, write_ranks
from gramian.evaluation.significance import bootstrap_p, groups, holm, interval_p, permutation_p
from gramian.evaluation.stats import difference_interval

pytest.importorskip("pyarrow")
pytest.importorskip("scipy")


def bundle(noise, n=40, seed=0, items=None):
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(n, 8, generator=generator)
    columns = {name: latent + noise * torch.randn(n, 8, generator=generator) for name in ("text", "image", "audio")}
    return Bundle.from_dict(columns, item_ids=items)


def saved(folder, noise, **options):
    ids = [f"id{i}" for i in range(40)]
    report = evaluate(bundle(noise, **options), ids=ids, scores=("span",))
    report.save(folder)
    return report


def one(better, gallery=10, items=None):
    """A run of one direction."""
    ids = np.array([str(i) for i in range(len(better))], object)
    ranks = Ranks(np.asarray(better), np.zeros(len(better), np.int64))
    return {
        Way(("a",), ("b",), "cosine"): RankedDirection(ids, ids if items is None else np.array(items, object), ranks, gallery)
    }


def test_ranks_come_back_as_they_were(tmp_path):
    items = torch.arange(40) // 2
    report = saved(tmp_path, 1.0, items=items)
    ways = read_ranks(tmp_path)
    assert len(ways) == 6 + 6
    for direction in (*report.singles, *report.joints):
        kept = ways[Way(direction.query, direction.target, direction.score)]
        assert np.array_equal(kept.ranks.better, direction.ranks.better) and np.array_equal(
            kept.ranks.tied, direction.ranks.tied
        )
        assert kept.ids.tolist() == [f"id{i}" for i in direction.rows]
        assert kept.items.tolist() == [f"id{i // 2 * 2}" for i in direction.rows]
        assert kept.gallery == direction.gallery
    assert read_ranks(tmp_path / "ranks.parquet").keys() == ways.keys()


def test_modalities_of_any_name_come_back(tmp_path):
    whole = bundle(1.0).vectors
    names = ("a\0b", "c+d", "e\\+\\")
    named = Bundle.from_dict({name: whole[:, i] for i, name in enumerate(names)})
    evaluate(named, scores=("span",)).save(tmp_path)
    ways = list(read_ranks(tmp_path))
    assert {way.query for way in ways if not way.joint} == {(name,) for name in names}
    assert {way.query + way.target for way in ways if way.joint} >= {(names[1], names[2], names[0])}


def test_differences_are_those_of_the_reports(tmp_path):
    reports = {name: saved(tmp_path / name, noise) for name, noise in (("near", 0.5), ("far", 2.5))}
    result = compare({name: tmp_path / name for name in reports})
    assert list(result.recall) == ["near", "far"] and len(result.ways) == 6
    for name, report in reports.items():
        assert result.recall[name].value == pytest.approx(report.mean_recall(1).value)
    gap = reports["near"].mean_recall(1).value - reports["far"].mean_recall(1).value
    (pair,) = result.pairs
    assert pair.difference.value == pytest.approx(gap) and pair.differ
    assert result.letters == {"near": "a", "far": "b"}
    assert result.sentences()[0].startswith("near beats far: ")
    first = result.ways[0]
    ours, theirs = (
        next(each for each in report.singles if (each.query, each.target) == first[:2]) for report in reports.values()
    )
    expected = difference_interval(hits_at_k(ours.ranks, 1) - hits_at_k(theirs.ranks, 1))
    assert result.by_way[first, "near", "far"].value == pytest.approx(expected.value)
    assert {way.joint for way in compare({n: tmp_path / n for n in reports}, directions="joint").ways} == {True}


def literal_p(values, items):
    """Every way of swapping the two runs' results of whole items."""
    totals = [sum(v for v, i in zip(values, items, strict=True) if i == item) for item in sorted(set(items))]
    observed = abs(sum(totals))
    signs = list(itertools.product((-1, 1), repeat=len(totals)))
    return sum(abs(sum(s * t for s, t in zip(sign, totals, strict=True))) >= observed - 1e-12 for sign in signs) / len(signs)


@given(st.lists(st.tuples(st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]), st.integers(0, 7)), min_size=1, max_size=12))
def test_p_is_the_share_of_all_swaps(rows):
    values, items = (list(column) for column in zip(*rows, strict=True))
    codes = np.unique(items, return_inverse=True)[1]
    assert permutation_p(np.array([values]), codes, 0) == pytest.approx(literal_p(values, items))


def test_equal_runs_cannot_be_told_apart():
    result = compare({"a": one([0, 3, 0, 1] * 10), "b": one([0, 3, 0, 1] * 10)})
    assert result.pairs[0].p == 1 and not result.pairs[0].differ and result.letters == {"a": "a", "b": "a"}
    assert "cannot be told apart on 40 items: 0.0 [" in result.sentences()[0]


def test_dependent_rows_count_once():
    """Twenty rows of two items say no more than two items do."""
    better, worse = [0] * 20, [5] * 20
    assert compare({"a": one(better), "b": one(worse)}).pairs[0].p < 0.001
    items = [str(i // 10) for i in range(20)]
    assert compare({"a": one(better, items=items), "b": one(worse, items=items)}).pairs[0].p == 0.5


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_the_step_down_procedure(p):
    corrected = holm(p)
    for level in (0.01, 0.05, 0.2):
        rejected, failed = set(), False
        for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
            failed = failed or p[i] * (len(p) - rank) > level
            if not failed:
                rejected.add(i)
        assert rejected == {i for i, value in enumerate(corrected) if value <= level}


@given(
    st.integers(2, 6).flatmap(
        lambda n: st.tuples(st.just(n), st.sets(st.sampled_from(list(itertools.combinations(range(n), 2)))))
    )
)
def test_names_share_a_letter_exactly_where_they_cannot_be_told_apart(case):
    n, different = case
    letters = groups([str(i) for i in range(n)], {(str(i), str(j)) for i, j in different})
    for i, j in itertools.combinations(range(n), 2):
        assert bool(set(letters[str(i)]) & set(letters[str(j)])) == ((i, j) not in different)
    assert letters["0"][0] == "a"


def test_more_than_two_runs_are_corrected_for_their_number():
    draw = np.random.default_rng(0).integers(0, 2, (3, 60))
    draw[2] = 3
    runs = {name: one(row) for name, row in zip("abc", draw, strict=True)}
    result = compare(runs)
    assert len(result.pairs) == 3 and len(result.by_way) == 3 and result.letters["c"] not in ("a", "ab")
    alone = compare({name: runs[name] for name in "ab"}).pairs[0].p
    together = next(pair.p for pair in result.pairs if {pair.better, pair.worse} == {"a", "b"})
    assert together >= alone
    assert [sheet.title for sheet in result.sheets()] == ["Runs", "Pairs"]


def test_what_cannot_be_compared_is_one_line(tmp_path):
    run = one([0, 1, 2])
    with pytest.raises(InputError, match="must be two or more to compare; got a"):
        compare({"a": run})
    with pytest.raises(InputError, match=r"same test items: of a → b, a has 3 queries and b 4, 3 of them in both"):
        compare({"a": run, "b": one([0, 1, 2, 3])})
    with pytest.raises(InputError, match=r"same candidates: of a → b, a has a gallery of 10 and b of 11"):
        compare({"a": run, "b": one([0, 1, 2], gallery=11)})
    with pytest.raises(InputError, match=r"direction \(joint\) in common"):
        compare({"a": run, "b": run}, directions="joint")
    with pytest.raises(InputError, match=r"`directions` must be one of singles, joint, all"):
        compare({"a": run, "b": run}, directions="both")
    with pytest.raises(InputError, match=r"must be folders that hold ranks\.parquet"):
        compare({"a": run, "b": tmp_path})
    (tmp_path / "ranks.parquet").write_bytes(b"PAR1 not")
    with pytest.raises(InputError, match="does not"):
        compare({"a": run, "b": tmp_path})
    with pytest.raises(InputError, match="`ids` must name each of 40 rows; got 3"):
        evaluate(bundle(1.0), ids=["a", "b", "c"])


def test_ranks_of_another_kind_of_file_are_refused(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    report = evaluate(bundle(1.0))
    path = write_ranks(tmp_path / "r.parquet", report.singles, [str(i) for i in range(40)], ["x"] * 40)
    table = pq.read_table(path)
    pq.write_table(table.set_column(5, "better", pa.array([-1] * table.num_rows)), path)
    with pytest.raises(InputError, match="negative ranks"):
        read_ranks(path)
    pq.write_table(table.drop_columns(["gallery"]), path)
    with pytest.raises(InputError, match="does not"):
        read_ranks(path)


def test_the_command_prints_and_writes_the_comparison(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, noise in (("a", 0.5), ("b", 2.5), ("c", 2.4)):
        saved(tmp_path / "runs" / name / "test", noise)
    assert main(["compare", "runs/a/test", "runs/b/test", "runs/c/test", "--output", "out"]) == 0
    printed = capsys.readouterr().out
    assert "a beats b" in printed and "wrote out/comparison.md" in printed
    written = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert next(iter(written["runs"])) == "a" and len(written["pairs"]) == 3
    assert main(["compare", "runs/a/test"]) == 2
    assert main(["compare", "runs/a/test", "runs/a/test"]) == 2
    assert main(["compare", "runs/a/test", "nowhere"]) == 2
    assert main(["compare"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 4 and all(line.startswith("gramian: ") for line in errors)


def test_runs_are_compared_by_reciprocal_ranks():
    a, b = one([0, 1, 3, 0] * 10), one([1, 1, 0, 3] * 10)
    result = compare({"a": a, "b": b}, metric="mrr")
    assert [value.value for value in result.recall.values()] == pytest.approx(
        [(2 + 1 / 2 + 1 / 4) / 4, (2 / 2 + 1 + 1 / 4) / 4]
    )
    assert result.measure == "MRR" and "points of MRR" in result.sentences()[0] and "Mean MRR in %" in result.sheets()[0].note


def test_classifications_are_compared_item_by_item(tmp_path, capsys):
    """Two runs that tell the classes of the same items by two methods."""
    words = ["cat", "dog", "owl"]
    labels = [words[i % 3] for i in range(40)]
    for name, strength in (("near", 2.0), ("far", 0.1)):
        space = bundle(1.0)
        vectors = space.vectors + torch.eye(8)[[words.index(label) for label in labels]][:, None] * strength
        told = Bundle(torch.nn.functional.normalize(vectors, dim=-1), space.present, space.modalities)
        results = [nearest(told, labels, told, labels, modalities=[way], k=5) for way in ("text", "image")]
        report = evaluate(space, ids=[f"id{i}" for i in range(40)], subsets="none")
        dataclasses.replace(report, label="kind", classified=tuple(results)).save(tmp_path / name)
        right = [one.accuracy().value for one in results]
        kept = read_ranks(tmp_path / name, "classes.parquet")
        assert [str(way) for way in kept] == [f"{way} → kind by nearest neighbours, centroid" for way in ("text", "image")]
        assert [hits_at_k(way.ranks, 1).mean() for way in kept.values()] == pytest.approx(right)
        assert all(way.labels.tolist() == labels for way in kept.values())
    folders = [str(tmp_path / name) for name in ("near", "far")]
    assert main(["compare", *folders, "--metric", "accuracy", "--scores", "nearest neighbours"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "near beats far: " in printed and "points of accuracy on 40 items" in printed and "3 classes" in printed
    assert main(["compare", *folders, "--metric", "accuracy", "--scores", "linear probe"]) == 2
    evaluate(bundle(1.0), ids=[f"id{i}" for i in range(40)], subsets="none").save(tmp_path / "far")  # no classes any more
    assert main(["compare", *folders, "--metric", "accuracy"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert "direction by linear probe in common" in errors[0] and "Evaluate with --classify COLUMN" in errors[1]
    kept = read_ranks(folders[0], "classes.parquet")
    result = compare({"a": kept, "b": kept}, metric="accuracy", k=2)
    renamed = {way: dataclasses.replace(one, labels=np.where(one.ids == "id3", "owl", one.labels)) for way, one in kept.items()}
    with pytest.raises(InputError, match="1 of 40 items have another class in b than in a, such as 'id3': 'owl' and 'cat'"):
        compare({"a": kept, "b": renamed}, metric="accuracy")
    unknown = {way: dataclasses.replace(one, labels=None) for way, one in kept.items()}
    with pytest.raises(InputError, match="must keep the class of each item; b does not"):
        compare({"a": kept, "b": unknown}, metric="accuracy")
    assert result.measure == "top-2 accuracy" and min(value.value for value in result.recall.values()) > 0.9


def seeded(draw, better, seeds, spread=0.0, ids=None):
    """Runs of one direction by seed: queries are found with a chance that the seeds share but for `spread`."""
    runs = []
    for seed in range(seeds):
        ranks = (draw.random(60) > better + spread * (-1) ** seed).astype(int)
        run = one(ranks)
        if ids is not None:
            way, found = next(iter(run.items()))
            names = np.array([f"{ids}-{seed}-{i}" for i in range(60)], object)
            run = {way: RankedDirection(names, names, found.ranks, found.gallery)}
        runs.append(run)
    return runs


def test_seeds_are_a_level_above_items(tmp_path):
    draw = np.random.default_rng(0)
    steady, wild = seeded(draw, 0.8, 3), seeded(draw, 0.5, 3, spread=0.3)
    result = compare({"steady": steady, "wild": wild})
    assert result.seeds == 3 and result.splits == 1 and "and 3 seeds" in result.sheets()[0].note
    tables = {
        name: np.stack([hits_at_k(run[Way(("a",), ("b",), "cosine")].ranks, 1) for run in runs])[:, None]
        for name, runs in (("steady", steady), ("wild", wild))
    }
    difference = tables["steady"] - tables["wild"]
    assert result.pairs[0].difference == difference_interval(difference)
    assert result.pairs[0].p == pytest.approx(
        max(permutation_p(difference, np.arange(60), 0), interval_p(difference, np.arange(60)))
    )
    pooled = compare({"steady": steady[:1], "wild": wild[:1]})
    assert pooled.seeds == 1
    with pytest.raises(InputError, match="as many seeds each, or one; got steady 3, wild 2"):
        compare({"steady": steady, "wild": wild[:2]})
    for seed in range(2):
        for name, noise in (("near", 0.5), ("far", 2.5)):
            saved(tmp_path / name / f"seed{seed}", noise, seed=0)
    folders = compare({name: tmp_path / name for name in ("near", "far")})
    assert folders.seeds == 2 and folders.letters == {"near": "a", "far": "b"}


def test_the_p_of_an_interval_is_where_it_reaches_nothing():
    values = np.random.default_rng(0).choice([-1.0, 0, 1], 50, p=[0.1, 0.5, 0.4])[None]
    p = interval_p(values, np.arange(50))
    edge = difference_interval(values, level=1 - p)
    assert edge.low == pytest.approx(0, abs=1e-6) and interval_p(np.zeros((1, 50)), np.arange(50)) == 1


def test_splits_that_overlap_have_nadeau_and_bengio_s_variance():
    from scipy.stats import t

    draw = np.random.default_rng(1)
    ours, theirs = seeded(draw, 0.7, 5, ids="x"), seeded(draw, 0.5, 5, ids="x")
    result = compare({"ours": ours, "theirs": theirs}, train_items=120)
    way = Way(("a",), ("b",), "cosine")
    change = np.array(
        [hits_at_k(a[way].ranks, 1).mean() - hits_at_k(b[way].ranks, 1).mean() for a, b in zip(ours, theirs, strict=True)]
    )
    error = np.sqrt((1 / 5 + 60 / 120) * change.var(ddof=1))
    assert result.splits == 5 and result.pairs[0].difference.value == pytest.approx(change.mean())
    assert result.pairs[0].difference.low == pytest.approx(change.mean() - t.ppf(0.975, 4) * error)
    assert result.pairs[0].p == pytest.approx(2 * t.sf(abs(change.mean()) / error, 4))
    with pytest.raises(InputError, match="`train_items` must say how many items"):
        compare({"ours": ours, "theirs": theirs})
    with pytest.raises(InputError, match="must have a split for each seed, or all the same"):
        compare({"ours": ours, "theirs": theirs[0]}, train_items=120)
    with pytest.raises(InputError, match="must be of the same test items"):
        compare({"ours": ours, "theirs": seeded(draw, 0.5, 5, ids="y")}, train_items=120)


def test_the_bootstrap_agrees_with_the_normal_law_where_there_are_many_items():
    from scipy.stats import norm

    values = np.random.default_rng(0).choice([-1.0, 0, 1], 400, p=[0.14, 0.66, 0.2])[None]
    z = values.mean() / (values.std() / np.sqrt(400))
    assert bootstrap_p(values, np.arange(400), 0) == pytest.approx(2 * norm.sf(abs(z)), abs=0.01)
    assert bootstrap_p(np.zeros((1, 9)), np.arange(9), 0) == 1
    twice = np.repeat(values, 2, 1), np.repeat(np.arange(400), 2)
    assert bootstrap_p(*twice, 0) == pytest.approx(bootstrap_p(values, np.arange(400), 0), abs=0.01)
    spread = np.stack([values - 0.05, values + 0.05, values + 0.15, values - 0.15])  # seeds that disagree
    assert bootstrap_p(spread, np.arange(400), 0) > bootstrap_p(values, np.arange(400), 0) + 0.02
    assert (
        compare({"a": one([0, 0, 1, 0] * 20), "b": one([0, 1, 1, 1] * 20)}, test="bootstrap").test
        == "a bootstrap test over items"
    )
