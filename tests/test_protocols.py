"""Protocols: directions by pattern, a corpus of its own, several matches, the mixed pool, and figures equal to trec_eval's."""

import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gramian import Bundle
from gramian.cli import main
from gramian.errors import InputError
from gramian.evaluation import evaluate, mixed
from gramian.evaluation.metrics import Matches, Ranks, average_precision, discounted_gain, hits_at_k, mean_reciprocal_rank
from gramian.evaluation.patterns import directions_of
from gramian.kernels import Given
from gramian.kernels.ranks import Candidates, pair_ranks

NAMES = ("text", "image", "audio")


def bundle(n=30, noise=0.8, seed=0, missing=0.0, items=None, names=NAMES):
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(n if items is None else int(items.max()) + 1, 8, generator=generator)
    latent = latent if items is None else latent[items]
    columns = {name: latent + noise * torch.randn(n, 8, generator=generator) for name in names}
    present = {name: torch.rand(n, generator=generator) >= missing for name in names}
    present[names[0]] |= ~torch.stack(list(present.values())).any(0)
    return Bundle.from_dict(columns, present=present, item_ids=items)


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["text->*"], ["text>image", "text>audio"]),
        (["image + audio → text"], ["image,audio>text"]),
        (["*->others"], ["text>image,audio", "image>text,audio", "audio>text,image"]),
        (["text->image", "*->image"], ["text>image", "audio>image"]),
        (["**->text"], ["image>text", "audio>text", "image,audio>text"]),
    ],
)
def test_patterns_stand_for_directions(patterns, expected):
    found = directions_of([pattern.replace(" + ", "+") for pattern in patterns], NAMES, NAMES)
    assert [f"{','.join(query)}>{','.join(target)}" for query, target in found] == expected


def test_all_is_every_subset_into_every_other_and_names_may_hold_the_signs():
    assert len(directions_of(["all"], NAMES, NAMES)) == 12  # 6 + 3 + 3
    assert len(directions_of(["all"], (*NAMES, "depth"), (*NAMES, "depth"))) == 3**4 - 2 * 2**4 + 1
    odd = ("a+b", "a", "b->c")
    assert directions_of(["a+b->a"], odd, odd) == [(("a+b",), ("a",))]
    assert directions_of(["a+b+a->b->c"], odd, odd) == [(("a+b", "a"), ("b->c",))]
    assert directions_of(["*->*"], ("text",), ("text", "image"), disjoint=False) == [
        (("text",), ("text",)),
        (("text",), ("image",)),
    ]


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["text"], r"must be patterns such as 'text->\*'"),
        (["text->video"], "'video' must be '\\*', '\\*\\*', 'others' or different ones of text, image, audio"),
        (["text+text->image"], r"'text\+text' must be"),
        (["text->text"], "stands for no direction .* may not ask for itself"),
        ("text->*", "must be a list of patterns"),
        ([], "must be a list of patterns"),
    ],
)
def test_patterns_that_are_none_are_refused(patterns, message):
    with pytest.raises(InputError, match=message):
        directions_of(patterns, NAMES, NAMES)


def test_chosen_directions_are_those_of_the_whole_report():
    data = bundle(missing=0.3)
    whole, some = evaluate(data, scores=["span"]), evaluate(data, scores=["span"], directions=["text->*", "others->text"])
    ranks = {(one.query, one.target): one for one in (*whole.singles, *whole.joints)}
    found = [*some.singles, *some.joints]
    assert [one.name for one in found] == ["text → image", "text → audio", "image+audio → text"]
    for one in found:
        assert (
            np.array_equal(one.ranks, ranks[one.query, one.target].ranks)
            and one.gallery == ranks[one.query, one.target].gallery
        )
    assert some.gains[0].difference == next(g for g in whole.gains if g.joint.name == "image+audio → text").difference


def test_several_modalities_ask_for_several():
    data = bundle(n=20, missing=0.3, names=(*NAMES, "depth"))
    (gain,) = evaluate(data, scores=["centroid"], directions=["text+image->audio+depth"]).gains
    sums = [data.select(*names).vectors.sum(1) for names in (("text", "image"), ("audio", "depth"))]
    cosines = torch.nn.functional.normalize(sums[0], dim=1) @ torch.nn.functional.normalize(sums[1], dim=1).T
    asked = [i for i in range(20) if data.has("text", "image")[i] and data.has("audio", "depth")[i]]
    gallery = [j for j in range(20) if data.has("audio", "depth")[j]]
    assert gain.joint.rows.tolist() == asked and gain.joint.gallery == gain.single.gallery == len(gallery)
    assert gain.joint.ranks.better.tolist() == [int((cosines[i, gallery] > cosines[i, i]).sum()) for i in asked]
    assert gain.best_single in {f"{a} → {b}" for a, b in itertools.product(("text", "image"), ("audio", "depth"))}


def test_twelve_directions_of_three_modalities_average_to_one_figure():
    report = evaluate(bundle(), scores=["span", "centroid"])
    ways = [*report.singles, *(one for one in report.joints if one.score == "span")]
    assert len(ways) == 12
    assert report.average_recall("span", 1).value == pytest.approx(np.mean([one.recall(1).value for one in ways]))
    assert report.to_dict()["average_recall"]["span"]["5"]["value"] == pytest.approx(
        np.mean([one.recall(5).value for one in ways])
    )
    assert "Mean R@1 of all 12 directions: span" in report.markdown()


def test_candidates_come_from_a_corpus_of_its_own():
    """Queries of text alone, several of one item; a corpus with distractors and several rows of one item."""
    of_query, of_row = torch.tensor([3, 0, 3, 7, 1, 99]), torch.tensor([0, 1, 2, 3, 3, 4, 5])
    queries = bundle(6, items=of_query, names=("text",))
    corpus = bundle(7, seed=1, missing=0.2, items=of_row, names=("image", "audio"))
    report = evaluate(queries, scores=["span"], corpus=corpus)
    assert report.n == 6 and report.corpus["rows"] == 7
    assert [one.name for one in (*report.singles, *report.joints)] == ["text → image", "text → audio", "text → image+audio"]
    for one in report.singles:
        gallery = [j for j in range(7) if corpus.has(one.target[0])[j]]
        scores = queries.column("text") @ corpus.column(one.target[0])[gallery].T
        matches = of_query[:, None] == of_row[gallery]
        asked = matches.any(1).nonzero().flatten().tolist()
        assert one.rows.tolist() == asked and one.gallery == len(gallery)
        best = scores.masked_fill(~matches, -9).amax(1, keepdim=True)
        assert one.ranks.better.tolist() == ((scores > best) & ~matches).sum(1)[asked].tolist()
    same = evaluate(bundle(8, items=torch.arange(8)), corpus=bundle(9, seed=1, items=torch.arange(9)), subsets="none")
    assert ("text",) in {one.target for one in same.singles if one.query == ("text",)}  # captions may look for captions


def test_a_corpus_equal_to_the_queries_changes_nothing():
    data = bundle(missing=0.3, items=torch.arange(30) // 2)
    here, there = (
        evaluate(data, scores=["span"]),
        evaluate(data, scores=["span"], corpus=data, directions=["text->image", "text->audio", "image+audio->text"]),
    )
    ranks = {(one.query, one.target): one for one in (*here.singles, *here.joints)}
    for one in (*there.singles, *there.joints):
        assert one.gallery == ranks[one.query, one.target].gallery
        asked = np.isin(one.rows, ranks[one.query, one.target].rows)  # a row without the target has it in its item's other row
        assert np.array_equal(np.array(one.ranks)[:, asked], np.array(ranks[one.query, one.target].ranks))


def test_a_corpus_that_cannot_be_used_is_one_line():
    data = bundle(items=torch.arange(30))
    with pytest.raises(InputError, match="`corpus` needs `item_ids` on both sides"):
        evaluate(data, corpus=bundle())
    with pytest.raises(InputError, match="share the width 8 of the queries; got 4"):
        evaluate(data, corpus=Bundle.from_dict({"text": torch.eye(4)}, item_ids=torch.arange(4)))
    with pytest.raises(InputError, match="no two queries have their item in the corpus"):
        evaluate(data, corpus=bundle(items=torch.arange(100, 130)))
    with pytest.raises(InputError, match="`mixed` is for items that are their own candidates"):
        evaluate(data, corpus=data, mixed=True)
    with pytest.raises(InputError, match=r"'audio' must be .* of text, image"):
        evaluate(data, corpus=data.select("text", "image"), directions=["text->audio"])


scores_and_matches = st.tuples(st.integers(0, 2**31), st.integers(2, 12), st.integers(1, 5), st.booleans())


@given(scores_and_matches)
def test_figures_are_those_of_trec_eval(case):
    """On random scores and, where some tie, on the mean over the orders of those that tie."""
    import pytrec_eval

    seed, n, levels, tied = case
    rng = np.random.default_rng(seed)
    q = 4
    scores = (
        rng.integers(0, levels, (q, n)).astype(float) if tied else rng.permuted(np.arange(q * n, dtype=float)).reshape(q, n)
    )
    relevant = rng.random((q, n)) < 0.3
    relevant[np.arange(q), rng.integers(0, n, q)] = True
    items = Candidates(torch.arange(n), torch.from_numpy(np.arange(n)))
    measures = {"map", "ndcg_cut_10", "recip_rank", "success_1", "success_5"}
    for i in range(q):
        own = torch.where(torch.from_numpy(relevant[i]), 0, torch.arange(1, n + 1))
        form = Given.form(torch.from_numpy(scores[[i]]))
        pairs = pair_ranks(form, Candidates(torch.zeros(1).long(), torch.zeros(1).long()), Candidates(items.rows, own))
        matches = Matches(*(part.numpy() for part in (pairs.queries, pairs.better, pairs.tied)))
        runs = {}
        for draw in range(1 if not tied else 300):
            order = scores[i] + (0.5 * rng.random(n) if tied else 0)
            runs[f"q{draw}"] = {f"d{j}": float(order[j]) for j in range(n)}
        qrels = {name: {f"d{j}": int(relevant[i, j]) for j in range(n)} for name in runs}
        theirs = list(pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(runs).values())
        mean = {name: np.mean([each[name] for each in theirs]) for name in measures}
        close = 0.12 if tied else 1e-9
        assert average_precision(matches)[0] == pytest.approx(mean["map"], abs=close)
        assert discounted_gain(matches, 10)[0] == pytest.approx(mean["ndcg_cut_10"], abs=close)
        if not tied:
            best = scores[i][relevant[i]].max()
            ranks = Ranks(np.array([(scores[i] > best).sum()]), np.array([0]))
            assert mean_reciprocal_rank(ranks) == pytest.approx(mean["recip_rank"])
            assert [hits_at_k(ranks, k)[0] for k in (1, 5)] == [mean["success_1"], mean["success_5"]]


def literal_expectation(scores, relevant, figure):
    """Over every order of the candidates that agrees with the scores."""
    orders = [
        order
        for order in itertools.permutations(range(len(scores)))
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
    ]
    return np.mean([figure([relevant[j] for j in order]) for order in orders])


def literal_precision(places):
    return np.mean([sum(places[: i + 1]) / (i + 1) for i, hit in enumerate(places) if hit])


def literal_gain(places, k=3):
    ideal = sorted(places, reverse=True)
    dcg = [sum(hit / np.log2(i + 2) for i, hit in enumerate(row[:k])) for row in (places, ideal)]
    return dcg[0] / dcg[1]


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6))
def test_ties_are_the_mean_over_all_their_orders(rows):
    scores, relevant = (list(column) for column in zip(*rows, strict=True))
    relevant[0] = True
    own = [j for j, match in enumerate(relevant) if match]
    better = np.array([sum(score > scores[j] for score in scores) for j in own])
    tied = np.array([sum(score == scores[j] for score in scores) - 1 for j in own])
    matches = Matches(np.zeros(len(own), int), better, tied)
    assert average_precision(matches)[0] == pytest.approx(literal_expectation(scores, relevant, literal_precision))
    assert discounted_gain(matches, 3)[0] == pytest.approx(literal_expectation(scores, relevant, literal_gain))


@pytest.mark.parametrize("block_size", [None, 7])
def test_pairs_are_ranked_in_tiles_as_in_the_table(block_size):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 6, (20, 30), generator=generator).float()
    rows, columns = torch.arange(40) // 2, torch.arange(30)
    of_query, of_item = (torch.randint(0, 9, (n,), generator=generator) for n in (40, 30))
    pairs = pair_ranks(Given.form(scores), Candidates(rows, of_query), Candidates(columns, of_item), block_size=block_size)
    assert len(pairs.queries) == int((of_query[:, None] == of_item).sum())
    for query, item, better, tied in zip(*(part.tolist() for part in pairs), strict=True):
        assert of_query[query] == of_item[item]
        line = scores[rows[query]]
        assert better == int((line > line[item]).sum()) and tied == int((line == line[item]).sum()) - 1


def test_every_caption_of_a_clip_counts_for_precision():
    items = torch.arange(24) // 3
    data = bundle(24, items=items, noise=1.5, names=("text", "image"))
    films = Bundle.from_dict({"text": data.column("text"), "image": data.column("image")[items * 3]}, item_ids=items)
    one = next(each for each in evaluate(films).singles if each.name == "image → text")
    scores = films.column("image") @ films.column("text").T
    assert len(one.matches.query) == 3 * 24
    for i in range(24):
        order = scores[i].argsort(descending=True)
        places = (items[order] == items[i]).int().tolist()
        assert average_precision(one.matches)[i] == pytest.approx(literal_precision(places))
    assert one.figures()["mean_average_precision"] < one.figures()["mean_reciprocal_rank"]


@pytest.mark.parametrize("tied", [False, True])
def test_the_mixed_pool_against_loops(tied, monkeypatch):
    monkeypatch.setattr(mixed, "CHUNK", 100)  # several parts
    data = bundle(12, missing=0.2, noise=1.0)
    if tied:  # many of the same cosines, all exact; copies within an item are one vector
        corners = torch.eye(8)[torch.randint(0, 3, (12, 3), generator=torch.Generator().manual_seed(1))]
        data = Bundle(corners * data.present[..., None], data.present, data.modalities)
    pool = [(j, m) for j in range(12) for m in range(3) if data.present[j, m]]
    for result in mixed.mixed_pool(data):
        kind = data.position(result.query)
        rows = [i for i in range(12) if data.present[i, kind] and data.present[i].sum() > 1]
        first = np.zeros(3)
        placed = {name: {} for name in data.modalities}
        for i in rows:
            values = {key: float(data.vectors[i, kind] @ data.vectors[key]) for key in pool if key != (i, kind)}
            top = [m for (_, m), value in values.items() if value == max(values.values())]
            first += np.bincount(top, minlength=3) / len(top)
            others = np.array([value for (j, _), value in values.items() if j != i])
            for m, name in enumerate(data.modalities):
                own = [value for (j, k), value in values.items() if j == i and (k == m or m == kind)]
                if own:
                    placed[name][i] = sum(others > max(own)), sum(others == max(own))
        assert [result.first[name].value for name in data.modalities] == pytest.approx(first / len(rows))
        for name, (ranks, items) in (result.of_target | {result.query: (result.ranks, result.items)}).items():
            assert dict(zip(items.tolist(), zip(*ranks, strict=True), strict=True)) == placed[name]
        assert sum(map(result.expected, data.modalities)) == pytest.approx(1)


def test_a_gap_between_modalities_shows_in_the_mixed_pool():
    data = bundle(40, noise=0.2)
    offset = torch.zeros(3, 8)
    offset[0, 0] = 9.0
    apart = Bundle.from_dict({name: data.column(name) + offset[i] for i, name in enumerate(NAMES)})
    together, text = mixed.mixed_pool(data)[0], mixed.mixed_pool(apart)[0]
    assert text.query == "text" and text.first["text"].low > 0.9 > together.first["text"].high


def written(folder, name, data, ids):
    columns = {"id": ids, "item": [str(int(item)) for item in data.item_ids]}
    columns |= {of: [row.tolist() for row in data.column(of)] for of in data.modalities}
    pq.write_table(pa.table(columns), folder / name)
    return str(folder / name)


def test_the_command_asks_for_a_corpus(tmp_path, capsys):
    queries = written(tmp_path, "q.parquet", bundle(6, items=torch.arange(6), names=("text",)), [f"q{i}" for i in range(6)])
    corpus = bundle(20, items=torch.arange(20), names=("image", "audio"))
    corpus = written(tmp_path, "c.parquet", corpus, [f"c{i}" for i in range(20)])
    out = tmp_path / "out"
    assert main(["evaluate", "--data", queries, "--corpus", corpus, "--scores", "span", "--output", str(out)]) == 0
    assert "text → image+audio" in capsys.readouterr().out and "20 rows in the corpus" in (out / "report.md").read_text()
    assert main(["evaluate", "--data", corpus, "--directions", "image->*", "--mixed"]) == 0
    assert "The mixed pool" in capsys.readouterr().out
    assert main(["evaluate", "--data", queries, "--corpus", corpus, "--directions", "text->video"]) == 2
    assert "'video' must be" in capsys.readouterr().err
