"""The matching head, its place in the Aligner and in training, re-ranking by it; poolings with weights."""

import importlib
import json

import numpy as np
import pytest
import torch

from gramian.bundle import Bundle
from gramian.cli import main
from gramian.data import load
from gramian.errors import InputError
from gramian.evaluation import evaluate, reranked_directions
from gramian.losses import Gram, Matching, Pairwise
from gramian.model import Aligner, Matcher
from gramian.scores import SCORES
from gramian.tokens import Tokens
from gramian.training import Recipe, fit
from gramian.training.checkpoints import RunFolder
from synthetic import world

training = importlib.import_module("gramian.training.fit")  # the name itself is the function

NAMES = ("text", "image", "audio")
SMALL = {"width": 16, "layers": 1, "heads": 2, "dropout": 0.0}


def _matcher(**options):
    torch.manual_seed(0)
    return Matcher(NAMES, 8, **(SMALL | options)).eval()


def _bundle(n=12, *, missing=0.0, tokens=(), seed=0, ids=None):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 8, generator=generator)
    columns = {name: z + 0.5 * torch.randn(n, 8, generator=generator) for name in NAMES}
    present = {name: torch.rand(n, generator=generator) >= missing for name in NAMES}
    present["text"] |= True
    for name in tokens:
        values = torch.randn(n, 4, 8, generator=generator)
        there = torch.rand(n, 4, generator=generator) < 0.7
        there[:, 0] = True
        columns[name] = Tokens(values, there)
    return Bundle.from_dict(columns, present=present, item_ids=ids)


# --- the head


@pytest.mark.parametrize("tokens", [(), ("text", "audio")])
def test_rows_do_not_see_each_other_and_masks_hide(tokens):
    bundle, matcher = _bundle(missing=0.4, tokens=tokens), _matcher()
    queries, items = bundle.select("text"), bundle.select("image", "audio")
    whole = matcher(queries, items)
    alone = torch.cat([matcher(queries[i], items[i]) for i in range(12)])
    torch.testing.assert_close(whole, alone, rtol=0, atol=1e-5)
    poisoned = items.vectors.masked_fill(~items.present[..., None], 7.0)
    torch.testing.assert_close(matcher(queries, Bundle(poisoned, items.present, items.modalities, None, items.tokens)), whole)
    assert whole.std() > 0


def test_an_absent_modality_is_as_if_it_were_not_there():
    bundle, matcher = _bundle(), _matcher()
    present = bundle.present.clone()
    present[:, 2] = False
    lacking = Bundle(bundle.vectors, present, NAMES)
    expected = matcher(bundle.select("text"), bundle.select("image"))
    torch.testing.assert_close(matcher(lacking.select("text"), lacking.select("image", "audio")), expected, rtol=0, atol=1e-6)


def test_the_head_knows_modalities_and_sides_apart_and_not_the_order_of_the_modalities():
    bundle, matcher = _bundle(), _matcher()
    text, others = bundle.select("text"), bundle.select("image", "audio")
    logits = matcher(text, others)
    torch.testing.assert_close(matcher(text, bundle.select("audio", "image")), logits, rtol=0, atol=1e-5)
    renamed = Bundle(others.vectors, others.present, ("audio", "image"))
    assert (matcher(text, renamed) - logits).abs().max() > 1e-4
    assert (matcher(others, text) - logits).abs().max() > 1e-4


def test_a_query_with_nothing_present_has_a_finite_answer_and_gradient():
    bundle, matcher = _bundle(), _matcher()
    vectors = bundle.vectors.clone().requires_grad_()
    empty = Bundle(vectors, bundle.present & (torch.arange(12) > 0)[:, None], NAMES)
    logits = matcher(empty.select("text"), empty.select("image", "audio"))
    logits.sum().backward()
    assert logits.isfinite().all() and vectors.grad.isfinite().all() and not vectors.grad[0].any()
    assert all(parameter.grad.isfinite().all() for parameter in matcher.parameters() if parameter.grad is not None)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Matcher(("text",), 8), "`modalities` must name at least two; got text"),
        (lambda: _matcher(anchor="txt"), "`anchor` must be one of text, image, audio or 'each'; got 'txt'"),
        (lambda: _matcher(heads=3), "`heads` must divide `width`; got 3 and 16"),
        (lambda: _matcher(layers=0), r"`layers` must be an integer in \[1, 1000\]; got 0"),
        (lambda: _matcher(dropout=1.0), r"`dropout` must lie in \[0, 1\); got 1.0"),
        (lambda: _matcher()(_bundle()[:3], _bundle()), "must have one number of rows; got 3 and 12"),
        (
            lambda: _matcher()(Bundle.from_dict({"depth": torch.eye(8)}), _bundle(8)),
            "`queries` must have width 8 and modalities among text, image, audio; got 8 and depth",
        ),
        (lambda: _matcher()(_bundle(4), Bundle.from_dict({"text": torch.eye(4)})), "`items` must have width 8 .*; got 4"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


# --- re-ranking


class Oracle(torch.nn.Module):
    """Knows a match by the items' own vectors; counts the pairs it reads."""

    modalities, anchors, anchor = NAMES, ("text",), "text"

    def __init__(self, bundle, scale=1.0):
        super().__init__()
        self.text, self.image, self.scale, self.read = bundle.column("text"), bundle.column("image"), scale, 0

    def forward(self, queries, items):
        self.read += len(queries)
        assert queries.modalities == ("text",) and items.modalities == ("image", "audio")
        asked = torch.cdist(queries.column("text"), self.text).argmin(1)
        found = torch.cdist(items.column("image"), self.image).argmin(1)
        return self.scale * (asked == found).float()


@pytest.mark.parametrize("k", [1, 5, 12, 50])
def test_the_best_k_are_put_in_order_and_the_others_stay_behind(k):
    bundle = _bundle(seed=3)
    for each in reranked_directions(bundle, Oracle(bundle), "cosine", k):
        before, after = each.first.ranks.expected, each.final.ranks.expected
        assert each.k == min(k, 12)
        assert np.array_equal(after[before <= k], np.ones((before <= k).sum()))  # the oracle puts it first
        assert np.array_equal(after[before > k], before[before > k])
    wrong = list(reranked_directions(bundle, Oracle(bundle, scale=-1.0), "cosine", k))
    for each in wrong:
        before, after = each.first.ranks.expected, each.final.ranks.expected
        assert np.array_equal(after[before <= k], np.full((before <= k).sum(), min(k, 12)))


def test_only_the_best_k_are_read_and_the_anchor_always_asks():
    bundle = _bundle(seed=3)
    oracle = Oracle(bundle)
    assert len(list(reranked_directions(bundle, oracle, "cosine", 5))) == 2
    assert oracle.read == 2 * 12 * 5


class Table:
    """Orders pairs by a table of its own: any object of this shape re-ranks."""

    modalities, anchors = ("text", "image"), ("text",)

    def __init__(self, scores):
        self.scores = scores

    def pairs(self, query, target, queries, candidates):
        assert {query, target} == {("text",), ("image",)}
        texts, images = (queries, candidates) if query == ("text",) else (candidates, queries)
        return self.scores[texts, images]


def test_any_object_that_orders_pairs_reranks():
    bundle = _bundle(seed=3)
    report = evaluate(bundle, scores=["cosine"], subsets="none", rerank=Table(torch.eye(12)), best=5)
    for each in report.reranked:
        assert each.first.query + each.first.target in (("text", "image"), ("image", "text"))
        before = each.first.ranks.expected
        assert np.array_equal(each.final.ranks.expected, np.where(before <= 5, 1, before))


def test_two_rows_of_one_item_both_count_as_found():
    bundle = _bundle(seed=3, ids=[i // 2 for i in range(12)])
    for each in reranked_directions(bundle, Oracle(bundle, scale=-1.0), "cosine", 12):
        assert (each.final.ranks.expected <= 11).all()  # the other row of the item is never put last


def test_the_report_shows_both_and_replaces_nothing(tmp_path):
    bundle, matcher = _bundle(40, missing=0.3), _matcher(anchor="text")
    plain, report = evaluate(bundle), evaluate(bundle, rerank=matcher, best=7)
    assert plain.reranked == () and len(report.reranked) == 2
    assert plain.to_dict()["directions"] == report.to_dict()["directions"]
    data = json.loads(report.save(tmp_path)[0].read_text())["reranked"]
    for row, each in zip(data, report.reranked, strict=True):
        assert row["best_k"] == 7 and row["score"] == "span"
        assert row["embedding_only"]["1"]["value"] == each.first.recall(1).value
        assert row["recall"]["1"]["value"] == each.final.recall(1).value
        assert each.difference.value == pytest.approx(each.final.recall(1).value - each.first.recall(1).value)
    assert "The best 7 re-ranked by the matching head" in (tmp_path / "report.md").read_text()


def test_reranking_leaves_the_mode_of_the_head_and_draws_nothing():
    bundle, matcher = _bundle(30), _matcher(dropout=0.5).train()
    one, same = (evaluate(bundle, subsets="none", rerank=matcher) for _ in range(2))
    assert matcher.training
    for a, b in zip(one.reranked, same.reranked, strict=True):
        assert np.array_equal(a.final.ranks.expected, b.final.ranks.expected)


def test_evaluate_refuses_what_the_head_does_not_know():
    with pytest.raises(InputError, match="`bundle` lacks the modalities audio that the matching head was trained on"):
        evaluate(_bundle().select("text", "image"), rerank=_matcher())
    with pytest.raises(InputError, match="`best` must be an integer of at least 1; got 0"):
        evaluate(_bundle(), rerank=_matcher(), best=0)


# --- training


def _fit(tmp_path=None, *, epochs=4, resume=False, weight=1.0, batch_size=32, items=160, rate=0.01):
    table = world(items, missing=0.2)
    aligner = Aligner.for_table(table.part("train"), dim=8, matcher=SMALL | {"dropout": 0.1})
    loss = Pairwise() + weight * Matching(aligner.matcher, score="centroid", anchor="each")
    recipe = Recipe(epochs=epochs, batch_size=batch_size, learning_rate=rate, checkpoint_every=1)
    parts = table.part("train"), table.part("validation")
    history = fit(aligner, loss, *parts, recipe=recipe, output=tmp_path, resume=resume, progress=False, cpu=True)
    return aligner, history


def _same(one, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_killed_and_resumed_equals_uninterrupted_and_stores_the_head_once(tmp_path, monkeypatch, caplog):
    whole, expected = _fit()
    log = RunFolder.log

    def killed(self, history, speed):
        log(self, history, speed)
        if len(history.records) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "log", killed)
        with pytest.raises(KeyboardInterrupt):
            _fit(tmp_path)
    resumed, history = _fit(tmp_path, resume=True)
    assert _same(whole, resumed)
    assert history.records == expected.records
    assert not caplog.records


def test_the_head_is_trained_saved_and_read_with_the_aligner(tmp_path):
    aligner, _ = _fit()
    fresh = Aligner.for_table(world(missing=0.2).part("train"), dim=8, matcher=SMALL | {"dropout": 0.1})
    assert not torch.equal(aligner.matcher.project.weight, fresh.matcher.project.weight)
    aligner.save_pretrained(tmp_path / "aligner")
    read = Aligner.from_pretrained(tmp_path / "aligner")
    assert read.matcher.options == aligner.matcher.options and read.matcher.modalities == NAMES
    assert _same(aligner, read)
    Aligner.for_table(world(), dim=8).save_pretrained(tmp_path / "plain")
    assert Aligner.from_pretrained(tmp_path / "plain").matcher is None


def test_a_trained_head_finds_far_more_than_chance():
    """Ranked by the head alone, k = the whole gallery of 200: 0.5 % by chance."""
    table = world(800)
    head = {"anchor": "text", "width": 64, "layers": 1, "heads": 4, "dropout": 0.0}
    aligner = Aligner.for_table(table.part("train"), dim=8, matcher=head)
    loss = Pairwise() + Matching(aligner.matcher, score="centroid")
    recipe = Recipe(epochs=24, batch_size=50, learning_rate=4e-3)
    history = fit(aligner, loss, table.part("train"), recipe=recipe, progress=False, cpu=True)
    losses = [record["loss/Matching/text"] for record in history.records]
    assert losses[-1] < 0.3 < 0.5 < losses[0]
    report = evaluate(aligner.embed(table.part("test")), scores=["volume"], rerank=aligner.matcher, best=200)
    assert min(each.final.recall(1).value for each in report.reranked) > 0.5


def test_the_published_loss_is_a_sum():
    aligner = Aligner.for_table(world(), dim=8, matcher=SMALL)
    loss = Gram() + 0.1 * Matching(aligner.matcher)
    total, parts, left_out = loss(aligner(world()))
    assert total.item() == pytest.approx((parts["Gram/text"] + 0.1 * parts["Matching/text"]).item(), abs=1e-6)
    assert left_out == 0 and loss.sign_blind
    assert "0.1 * Matching(Matcher(text, image, audio; anchor='each'" in repr(loss)


def test_the_command_line_trains_and_reranks(tmp_path, capsys, caplog):
    data, run = tmp_path / "world.parquet", tmp_path / "run"
    world(missing=0.2).save(data)
    fast = ["--recipe.epochs", "2", "--recipe.batch_size", "32", "--dim", "8"]
    words = ["train", "--data", str(data), "--output", str(run), "--loss", "Gram", "--matching", "0.1", *fast]
    assert main(words) == 0
    assert Aligner.from_pretrained(run / "aligner").matcher.anchor == "text"
    assert "loss/Matching/text" in json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert main([*words, "--resume"]) == 0
    report = tmp_path / "report"
    words = ["evaluate", "--data", str(data), "--model", str(run / "aligner"), "--output", str(report)]
    capsys.readouterr()
    assert main([*words, "--rerank", "3"]) == 0
    assert "The best 3 re-ranked by the matching head" in capsys.readouterr().out
    assert [row["best_k"] for row in json.loads((report / "report.json").read_text())["reranked"]] == [3, 3]
    assert main([*words, "--columns", "text,image"]) == 0
    assert "re-ranked" not in capsys.readouterr().out.replace("not re-ranked", "")
    assert "not re-ranked: the matching head reads text, image, audio" in caplog.text
    assert main(["train", "--data", str(data), "--output", str(run / "2"), "--matching", "-1"]) == 2
    assert "`matching` must be a finite number of at least 0; got -1.0" in capsys.readouterr().err
    assert main(["train", "--data", str(data), "--output", str(run / "2"), "--loss", "Matching"]) == 2
    assert "--matching 0.1" in capsys.readouterr().err


# --- rows that are one item


def test_captions_of_one_film_stay_together_and_count_together(tmp_path, capsys):
    """Two rows an item, whose images are the same: as items of their own each hides the other half the time."""
    table = world(80)
    twice = torch.arange(80).repeat_interleave(2)
    columns = {name: column[twice] for name, column in table.columns.items()}
    columns["text"] = columns["text"] + 0.05 * torch.randn(160, 12, generator=torch.Generator().manual_seed(1))
    items = [f"film {i // 2}" for i in range(160)]
    one = type(table).from_columns(columns, item_ids=items)
    path = tmp_path / "films.parquet"
    one.save(path)
    read = load(path)
    assert read.item_ids == tuple(items) and read.digest() == one.digest() != type(table).from_columns(columns).digest()
    run = ["--output", str(tmp_path / "run"), "--recipe.epochs", "30", "--recipe.batch_size", "64", "--dim", "8"]
    assert main(["train", "--data", str(path), *run, "--validation_share", "0.25", "--recipe.learning_rate", "0.02"]) == 0
    splits = json.loads((tmp_path / "run" / "splits.json").read_text())
    halves = [{int(name) // 2 for name in splits[half]} for half in ("train", "validation")]
    assert not halves[0] & halves[1] and len(halves[1]) == 20
    aligner = Aligner.from_pretrained(tmp_path / "run" / "aligner")
    together, apart = evaluate(aligner.embed(read)), evaluate(aligner.embed(type(table).from_columns(columns)))
    assert together.mean_recall(1).value > apart.mean_recall(1).value + 0.2
    vectors = tmp_path / "vectors.safetensors"
    assert main(["embed", "--data", str(path), "--model", str(tmp_path / "run" / "aligner"), "--output", str(vectors)]) == 0
    assert load(vectors).item_ids == tuple(items)
    capsys.readouterr()


def test_every_score_ranks_bundles_of_tokens_by_their_pooled_vectors_but_maxsim():
    bundle = _bundle(tokens=("text", "image"), seed=5)
    bare = Bundle(bundle.vectors, bundle.present, bundle.modalities)
    for name, score in SCORES.items():
        one, other = (score(b.select("text"), b.select("image")) for b in (bundle, bare))
        assert torch.equal(one, other) != (name == "maxsim"), name
