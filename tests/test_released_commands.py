"""A released checkpoint from files to figures: prepare, embed, re-rank, evaluate and fine-tune, with tiny random weights."""

import json
import math
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import tiny_checkpoint as tiny
from gramian import load_released
from gramian.cli import main
from gramian.data import load
from gramian.data.cells import Cells
from gramian.data.table import Table
from gramian.errors import InputError
from gramian.evaluation import Reranker, evaluate
from gramian.evaluation.released import askable
from gramian.losses.matching import hard_negatives
from gramian.model import Aligner
from gramian.model.contexts import Contexts, embed_with_contexts
from gramian.scores import SCORES
from gramian.tokens import Tokens
from gramian.training import Recipe
from gramian.training.objective import rate_factor
from gramian.training.released import released_recipe
from gramian.training.token_matching import TokenMatching

RAW = ("text", "video", "audio", "subtitle")


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with a checkpoint, its vocabulary, eight clips and the table that `gramian prepare` makes of them."""
    folder = tmp_path_factory.mktemp("released")
    tiny.write_checkpoint(folder)
    media = tiny.write_media(folder / "media")
    files = [str(media / f"descs_ret_{split}.json") for split in ("train", "test")]
    words = ["prepare", "msrvtt", "--media", str(media), "--output", str(folder / "msrvtt.parquet"), "--annotations", *files]
    assert main(words) == 0
    return folder


@pytest.fixture(scope="module")
def released(here):
    return load_released(here / "gram.pt", "msrvtt", vocabulary=here / "vocab.txt")


@pytest.fixture(scope="module")
def table(here):
    return load(here / "msrvtt.parquet", raw=RAW)


def every_pair(n):
    return torch.arange(n).repeat_interleave(n), torch.arange(n).repeat(n)


def plain_logits(released, table, texts, rows):
    """Text by text with each context, as the head itself reads them."""
    batch = released.aligner.collator()(table)
    with torch.no_grad():
        context = released.matcher.context(released.aligner.towers(batch))
        inputs = {name: values[texts] for name, values in batch.inputs["text"].items()}
        return released.matcher(inputs, context[rows])


@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 1e-5), ("float16", 2e-2)])
def test_packed_texts_have_the_logits_of_each_alone(released, table, dtype, rtol):
    embedded = embed_with_contexts(released.aligner, table, dtype=dtype)
    assert isinstance(embedded.reranker, Reranker)
    texts, rows = every_pair(len(table))
    expected = plain_logits(released, table, texts, rows)
    for packed in (1, 30, 2048):
        embedded.reranker.packed = packed
        embedded.reranker._known.clear()
        logits = embedded.reranker.pairs(("text",), RAW[1:], texts, rows)
        torch.testing.assert_close(logits, expected, rtol=0, atol=rtol * float(expected.abs().max()))
    back = embedded.reranker.pairs(RAW[1:], ("text",), rows, texts)
    assert torch.equal(back, logits)
    bundle = released.aligner.embed(table)
    torch.testing.assert_close(embedded.bundle.vectors, bundle.vectors, rtol=0, atol=1e-6)
    assert embedded.bundle.modalities == bundle.modalities and embedded.stage is embedded.bundle


def test_an_item_without_a_modality_is_read_by_what_it_has(released, table):
    audio = list(table.columns["audio"])
    audio[2] = None
    lacking = replace(table, columns=table.columns | {"audio": Cells(audio, table.columns["audio"].folder)})
    lacking = replace(lacking, present=table.present | {"audio": lacking.columns["audio"].present})
    embedded = embed_with_contexts(released.aligner, lacking, dtype="float32")
    texts, rows = every_pair(len(table))
    expected = plain_logits(released, lacking, texts, rows)
    logits = embedded.reranker.pairs(("text",), RAW[1:], texts, rows)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert len(embedded.reranker.contexts[2]) < len(embedded.reranker.contexts[1])
    assert not embedded.bundle.has("audio")[2]


def test_captions_of_one_item_share_its_context(released, table):
    rows = [0, 0, 1, 1, 2]
    columns = {name: column[rows] for name, column in table.columns.items()}
    columns["text"] = Cells(["a red clip", "something red", "blue", "a dark clip", "white"])
    present = {name: column.present for name, column in columns.items()}
    doubled = Table(columns, present, tuple("abcde"), item_ids=("x", "x", "y", "y", "z"))
    embedded = embed_with_contexts(released.aligner, doubled, dtype="float32", batch_size=2)
    assert len(embedded.reranker.contexts) == 3
    texts, items = every_pair(5)
    expected = plain_logits(released, doubled, texts, items)
    logits = embedded.reranker.pairs(("text",), RAW[1:], texts, items)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    report = evaluate(embedded.bundle, scores=["volume"], rerank=embedded.reranker, best=2, subsets="none")
    assert [(len(each.first.rows), each.first.gallery) for each in report.reranked] == [(5, 3), (5, 5)]


def test_the_fused_head_finds_first_what_the_head_then_orders(released, table):
    audio = Cells([None, *list(table.columns["audio"])[1:]], table.columns["audio"].folder)
    lacking = replace(table, columns=table.columns | {"audio": audio}, present=table.present | {"audio": audio.present})
    embedded = embed_with_contexts(released.aligner, lacking, stage="fused")
    assert embedded.stage.modalities == ("text", "fused") == embedded.reranker.modalities
    with torch.no_grad():
        encodings = released.aligner.towers(released.aligner.collator()(lacking))
        vectors = {name: encodings[name][0].vectors for name in RAW[1:]}
        without = released.matcher.fused({name: vectors[name][:1] for name in ("video", "subtitle")})
        whole = released.matcher.fused(
            {"video": vectors["video"][1:], "audio": vectors["audio"], "subtitle": vectors["subtitle"][1:]}
        )
    torch.testing.assert_close(embedded.stage.column("fused"), torch.cat([without, whole]), rtol=0, atol=1e-5)
    report = evaluate(embedded.bundle, scores=["volume"], rerank=embedded.reranker, stage=embedded.stage, best=3)
    assert [each.first.name for each in report.reranked] == ["text → fused", "fused → text"]


def test_contexts_keep_what_is_not_masked(tmp_path):
    tokens = Tokens(torch.randn(4, 3, 5), torch.tensor([[1, 1, 1], [0, 0, 0], [0, 1, 0], [1, 0, 1]]).bool())
    contexts = Contexts(5, folder=tmp_path, dtype="float16")
    contexts.add(tokens[:2])
    assert contexts[1].shape == (0, 5)
    contexts.add(tokens[2:])
    for row in range(4):
        assert torch.equal(contexts[row], tokens.values[row][tokens.present[row]].half().float())
    assert contexts.nbytes == 6 * 5 * 2
    assert not list(tmp_path.iterdir())  # nobody finds the file, nothing is left behind


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _, table: (Aligner({"text": 3, "video": 2}, 4), table), "must have a ReleasedMatcher"),
        (lambda aligner, table: (aligner, table.select("video", "audio")), "must have texts and something to find"),
        (lambda aligner, table: (aligner, table.select("text")), "must have texts and something to find"),
    ],
)
def test_what_cannot_be_reranked_is_refused(released, table, change, message):
    with pytest.raises(InputError, match=message):
        embed_with_contexts(*change(released.aligner, table))
    with pytest.raises(InputError, match="`stage` must be one of volume, fused"):
        embed_with_contexts(released.aligner, table, stage="fuse")


def test_items_without_media_are_no_candidates(table):
    cells = {"text": ["a", "b", "c", None], "video": ["v", None, None, "w"], "subtitle": [None, "s", None, None]}
    made = Table.from_columns({name: Cells(column) for name, column in cells.items()})
    assert askable(made).ids == ("0",) and askable(made).modalities == ("text", "video", "subtitle")
    assert askable(made[[0, 2]]).modalities == ("text", "video")  # nothing is known of subtitles
    with pytest.raises(InputError, match="no row with a text and a video or recording"):
        askable(made[[1, 2]])
    with pytest.raises(InputError, match="must have columns text and video or audio"):
        askable(table.select("text", "subtitle"))


def test_an_item_whose_media_cannot_be_read_is_no_candidate(released, table):
    gone = [Cells(["gone", *list(table.columns[name])[1:]], table.columns[name].folder) for name in ("video", "audio")]
    columns = table.columns | dict(zip(("video", "audio"), gone, strict=True))
    broken = []
    for stage in ("volume", "fused"):
        embedded = embed_with_contexts(released.aligner, replace(table, columns=columns), stage=stage, broken=broken)
        assert embedded.bundle.present[0].tolist() == [True, False, False, False]
        assert embedded.bundle.present[1:].all()
        assert not embedded.stage.has(*embedded.stage.modalities[1:])[0]
        report = evaluate(embedded.bundle, scores=["volume"], rerank=embedded.reranker, stage=embedded.stage, subsets="none")
        assert {each.first.gallery for each in report.reranked} == {7, 8}  # its text is still a candidate
    assert len(broken) == 4


def test_media_that_lie_elsewhere_are_named_in_one_line(here, tmp_path, capsys):
    files = [str(here / "media" / "descs_ret_test.json")]
    made = ["prepare", "msrvtt", "--media", str(here / "media"), "--output", str(tmp_path / "t.parquet"), "--annotations"]
    assert main([*made, *files]) == 0
    words = released_words(here, "--task", "msrvtt")
    words[words.index("--data") + 1] = str(tmp_path / "t.parquet")
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "no video or recording of `data` can be read" in error and "--media-root" in error and error.count("\n") == 1
    assert main([*words, "--media-root", str(here / "media")]) == 0


def released_words(here, *more):
    words = ["evaluate", "--released", str(here / "gram.pt"), "--vocabulary", str(here / "vocab.txt")]
    return [*words, "--data", str(here / "msrvtt.parquet"), *more]


@pytest.mark.parametrize("release", ["gram", "pmrl"])
def test_the_papers_row_is_printed(here, tmp_path, capsys, release):
    words = released_words(here, "--task", "msrvtt", "--release", release, "--rerank", "2", "--output", str(tmp_path / "out"))
    assert main(words) == 0
    shown = capsys.readouterr().out
    first = "the volume" if release == "gram" else "the fused head"
    assert "msrvtt: as in the papers' tables" in shown and f"by {first}" in shown and "best 2 re-ranked" in shown
    assert {"gram": "52.5/50.5", "pmrl": "54.3/52.9"}[release] in shown
    saved = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [row["best_k"] for row in saved["reranked"]] == [2, 2] and saved["settings"]["release"] == release
    assert all(row["gallery"] == 4 for row in saved["reranked"])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "`released` needs the data set whose settings it is read with: --task msrvtt or"),
        (("--task", "msrvt"), "Did you mean 'msrvtt'"),
        (("--task", "msrvtt", "--model", "x"), "`model` does not go with `released`"),
        (("--task", "msrvtt", "--vocabulary", "gone"), "is given twice"),
    ],
)
def test_options_of_a_checkpoint_that_do_not_fit_are_refused(here, more, message, capsys):
    assert main(released_words(here, *more)) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_table_is_embedded_by_a_checkpoint(here, released, table, tmp_path, capsys):
    words = released_words(here, "--task", "msrvtt", "--output", str(tmp_path / "vectors.parquet"))
    assert main(["embed", *words[1:]]) == 0
    assert "8 items; text 8, video 8, audio 8, subtitle 8" in capsys.readouterr().out
    vectors = load(tmp_path / "vectors.parquet")
    expected = released.aligner.embed(table)
    for name in RAW:
        torch.testing.assert_close(vectors.features(name), expected.column(name), rtol=0, atol=1e-5)
    assert main(["embed", *words[1:], "--model", "x"]) == 2
    assert "`model` does not go with `released`" in capsys.readouterr().err


def test_what_a_checkpoint_cannot_read_is_listed_before(here, tmp_path, capsys):
    made = ["prepare", "msrvtt", "--media", str(here / "media"), "--output", str(tmp_path / "t.parquet"), "--annotations"]
    assert main([*made, str(here / "media" / "descs_ret_test.json")]) == 0
    words = ["check", *released_words(here, "--task", "msrvtt")[1:]]
    capsys.readouterr()
    assert main(words) == 0
    assert "8 rows" in capsys.readouterr().out
    words[words.index("--data") + 1] = str(tmp_path / "t.parquet")
    assert main(words) == 0
    assert "Unreadable" in capsys.readouterr().out


def test_a_task_needs_a_checkpoint(here, capsys):
    assert main(["evaluate", "--data", str(here / "msrvtt.parquet"), "--task", "msrvtt"]) == 2
    assert "`task` is for `released`" in capsys.readouterr().err


# --- fine-tuning


def test_a_recipe_of_the_authors_gives_way_to_what_is_said():
    recipe = released_recipe("msrvtt")
    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate, recipe.schedule) == (4, 32, 2e-5, "linear")
    assert (recipe.weight_decay, recipe.warmup, recipe.beta2, recipe.epsilon, recipe.max_gradient_norm) == (
        0.01,
        0.1,
        0.98,
        1e-6,
        2,
    )
    assert released_recipe("msrvtt", "pmrl").batch_size == 64
    own = released_recipe("didemo", recipe=Recipe(epochs=1, learning_rate=1e-4, precision="bf16"))
    assert (own.epochs, own.learning_rate, own.precision, own.batch_size) == (1, 1e-4, "bf16", 64)
    with pytest.raises(InputError, match="`task` must be one of"):
        released_recipe("lsmdc")


def test_the_rate_falls_in_a_line():
    factor = rate_factor(0.25, 8, "linear")
    assert [round(factor(step), 4) for step in range(9)] == [0.5, 1.0, 1.0, 0.8333, 0.6667, 0.5, 0.3333, 0.1667, 0.0]


def test_the_matching_loss_reads_each_pair_by_itself(released, table):
    """Each match, each text with one hard item and each item with one hard text, as logits of the head in float64."""
    matching = TokenMatching(released.aligner, 0.1)
    texts = Cells([None, *list(table.columns["text"])[1:]])  # the first has no text, and takes no part
    lacking = replace(table, columns=table.columns | {"text": texts}, present=table.present | {"text": texts.present})
    batch = released.aligner.collator()(lacking)
    with torch.no_grad():
        encodings = released.aligner.towers(batch)
        bundle = released.aligner.project(batch, encodings)
        torch.manual_seed(3)
        value = matching(bundle, batch, encodings)
        context = released.matcher.context(encodings)
        torch.manual_seed(3)
        usable = bundle[torch.arange(1, 8)]
        scores = SCORES["volume"](usable.select("text"), usable.select(*RAW[1:])) / 0.07
        wrong_item, wrong_text = (hard_negatives(each, torch.eye(7, dtype=torch.bool)) for each in (scores, scores.T))
        total = 0.0
        for row in range(7):
            for text, item, truth in ((row, row, 1), (row, int(wrong_item[row]), 0), (int(wrong_text[row]), row, 0)):
                words = {name: values[text][None] for name, values in batch.inputs["text"].items()}
                logit = released.matcher(words, context[torch.tensor([item + 1])]).double()
                total += math.log1p(math.exp(-float(logit) if truth else float(logit)))
    assert float(value) == pytest.approx(total / 21, rel=1e-5)


def test_a_batch_without_two_pairs_trains_no_matching(released, table):
    matching = TokenMatching(released.aligner, 0.1)
    alone = table[[0]]
    batch = released.aligner.collator()(alone)
    with torch.no_grad():
        encodings = released.aligner.towers(batch)
        assert matching(released.aligner.project(batch, encodings), batch, encodings) is None
    with pytest.raises(InputError, match="`matching` is for the head of a released model"):
        TokenMatching(Aligner({"text": 3, "video": 2}, 4, matcher={"layers": 1}), 0.1)


def train_words(here, output, *more):
    words = ["train", "--released", str(here / "gram.pt"), "--vocabulary", str(here / "vocab.txt"), "--task", "msrvtt"]
    return [*words, "--data", str(here / "msrvtt.parquet"), "--output", str(output), *more]


def test_a_checkpoint_is_tuned_saved_and_evaluated(here, tmp_path, capsys):
    step = ["--loss", "Gram", "--matching", "0.1", "--recipe.epochs", "1", "--recipe.batch_size", "2"]
    assert main(train_words(here, tmp_path / "run", *step)) == 0
    record = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert record["loss"] == pytest.approx(record["loss/text"] + 0.1 * record["loss/Matching/text"], rel=1e-5)
    before = load_released(here / "gram.pt", vocabulary=here / "vocab.txt").aligner
    tuned = Aligner.from_pretrained(tmp_path / "run" / "aligner")
    changes = {name: float((value - before.state_dict()[name]).abs().max()) for name, value in tuned.state_dict().items()}
    assert all(math.isfinite(change) for change in changes.values())
    vision = [change for name, change in changes.items() if name.startswith("towers.1.")]
    assert 0 < max(vision) < 1e-6 < max(changes.values())  # its rate is a fortieth of the others'
    assert max(change for name, change in changes.items() if "matcher.answers" in name) > 1e-6
    assert tuned.towers["video"].reader.sampling.frames == 8
    capsys.readouterr()
    words = ["evaluate", "--data", str(here / "msrvtt.parquet"), "--model", str(tmp_path / "run" / "aligner"), "--rerank", "2"]
    assert main(words) == 0
    assert "best 2 re-ranked" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--dim", "8"), "`dim` does not go with `released`"),
        (("--head", "mlp"), "`head` does not go with `released`"),
        (("--method", "canonical"), "`method` does not go with `released`"),
        (("--preset", "own"), "`preset` must be"),
        (("--mode", "tune"), "`mode` must be"),
        (("--matching", "0.1", "--recipe.micro_batch", "1"), "`recipe.micro_batch` does not go with `matching`"),
    ],
)
def test_options_of_training_that_do_not_fit_are_refused(here, tmp_path, more, message, capsys):
    assert main(train_words(here, tmp_path / "run", *more)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert message in error


def test_training_needs_the_task_of_a_checkpoint(here, tmp_path, capsys):
    words = train_words(here, tmp_path / "run")
    del words[words.index("--task") : words.index("--task") + 2]
    assert main(words) == 2
    assert "`released` needs the data set" in capsys.readouterr().err
    assert main(["train", "--data", "stamps", "--output", str(tmp_path / "run"), "--task", "msrvtt"]) == 2
    assert "`task` is for `released`" in capsys.readouterr().err


def test_depth_is_read_where_it_is_named(here, tmp_path, capsys):
    rows = pq.read_table(here / "msrvtt.parquet")
    videos = [str(here / name) for name in rows["video"].to_pylist()]
    for name in ("depth", "video", "audio"):
        own = videos if name == "depth" else [str(here / path) for path in rows[name].to_pylist()]
        rows = rows.drop([name]) if name in rows.column_names else rows
        rows = rows.append_column(name, pa.array(own))
    pq.write_table(rows, tmp_path / "t.parquet")
    columns = ["--columns", "text,video,audio,subtitle,depth", "--media-root", str(here)]
    words = released_words(here, "--task", "msrvtt", *columns)
    words[words.index("--data") + 1] = str(tmp_path / "t.parquet")
    assert main(words) == 0
    assert "+depth → text" in capsys.readouterr().out
    step = ["--recipe.epochs", "1", "--recipe.batch_size", "2", "--loss", "Gram", "--matching", "0.1"]
    words = train_words(here, tmp_path / "run", *columns, *step)
    words[words.index("--data") + 1] = str(tmp_path / "t.parquet")
    assert main(words) == 0
    assert "depth" in Aligner.from_pretrained(tmp_path / "run" / "aligner").modalities


def test_labels_are_told_by_their_names(here, tmp_path, capsys):
    csv = tmp_path / "vggsound.csv"
    csv.write_text("".join(f"video{n},0,{('red', 'green')[n % 2]},test\n" for n in range(4)))
    media = tmp_path / "media"
    media.mkdir()
    for n in range(4):
        (media / f"video{n}_000000.wav").write_bytes((here / "media" / "audios" / f"video{n}.wav").read_bytes())
        (media / f"video{n}_000000.mp4").write_bytes((here / "media" / "videos" / f"video{n}.mp4").read_bytes())
    data = str(tmp_path / "vggsound.parquet")
    assert main(["prepare", "vggsound", "--annotations", str(csv), "--media", str(media), "--output", data]) == 0
    words = released_words(here, "--task", "vggsound", "--columns", "video,audio", "--classify", "label", "--prompts", "{}")
    words[words.index("--data") + 1] = data
    capsys.readouterr()
    assert main([*words, "--scores", "volume"]) == 0
    shown = capsys.readouterr().out
    assert "video+audio" in shown and "label" in shown and "re-ranked" not in shown
