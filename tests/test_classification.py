"""Classes told by prompts, neighbours and probes; numbers told by a probe; what cannot be told is one line."""

from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gramian import Aligner, Bundle
from gramian.cli import main
from gramian.data import Table, load
from gramian.errors import InputError
from gramian.evaluation.classification import Classified, nearest, probe, zero_shot
from gramian.evaluation.regression import regress

pytest.importorskip("sklearn")

CLASSES = ("cat", "dog", "owl")


@cache
def world(n=90, noise=0.9, missing=0.0, seed=1):
    """Items of three classes, known by an image and a sound; the first modality tells the classes better."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    numbers = torch.randint(3, (n,), generator=generator)
    columns = {
        name: centres[numbers] + factor * noise * torch.randn(n, 6, generator=generator)
        for name, factor in (("image", 1.0), ("sound", 1.6))
    }
    present = {name: torch.rand(n, generator=generator) >= missing for name in columns}
    present["image"] |= ~present["sound"]
    return Bundle.from_dict(columns, present=present), [CLASSES[i] for i in numbers]


def prompts(each=2):
    generator = torch.Generator().manual_seed(2)
    centres = torch.randn(3, 6, generator=torch.Generator().manual_seed(0)).repeat(each, 1)
    return Bundle.from_dict({"text": centres + 0.3 * torch.randn(3 * each, 6, generator=generator)}), list(CLASSES) * each


def test_zero_shot_is_the_cosine_to_the_mean_of_a_class_s_prompts():
    bundle, labels = world()
    described, names = prompts()
    result = zero_shot(bundle, labels, described, names, modalities=["image"], score="cosine")
    vectors = {name: described.column("text")[[i for i, each in enumerate(names) if each == name]].mean(0) for name in CLASSES}
    hits = [
        max(CLASSES, key=lambda name: torch.cosine_similarity(row, vectors[name], 0)) == label
        for row, label in zip(bundle.column("image"), labels, strict=True)
    ]
    assert result.accuracy().value == pytest.approx(np.mean(hits)) and result.settings == {"prompts per class": 2}
    by_class = [np.mean([hit for hit, label in zip(hits, labels, strict=True) if label == name]) for name in CLASSES]
    assert result.balanced_accuracy().value == pytest.approx(np.mean(by_class))
    assert result.confusion().trace() == sum(hits) and result.confusion().sum() == 90
    assert zero_shot(bundle, labels, described, names, score="span").modalities == ("image", "sound")


def test_neighbours_vote():
    train, of_train = world(seed=3)
    bundle, labels = world()
    result = nearest(train, of_train, bundle, labels, modalities=["image"], score="cosine", k=5)
    right = 0
    for row, label in zip(bundle.column("image"), labels, strict=True):
        order = (train.column("image") @ row).argsort(descending=True)[:5].tolist()
        votes = [of_train[i] for i in order]
        best = max(votes.count(name) for name in CLASSES)
        level = [name for name in CLASSES if votes.count(name) == best]
        near = [sum(2.0**-place for place, name in enumerate(votes) if name == each) for each in level]
        right += level[int(np.argmax(near))] == label
    assert result.accuracy().value == pytest.approx(right / 90)


def test_the_probe_learns_and_chooses_on_validation():
    train, of_train = world(seed=3, missing=0.3)
    bundle, labels = world(missing=0.3)
    both = probe(train, of_train, bundle, labels, validation=world(seed=4, missing=0.3))
    folds = probe(train, of_train, bundle, labels)
    assert both.accuracy().low > 0.5 and folds.accuracy().low > 0.5
    assert both.settings["C"] in (1e-3, 1e-2, 1e-1, 1, 10, 100)
    shuffled = [of_train[i] for i in np.random.default_rng(0).permutation(90)]
    assert probe(train, shuffled, bundle, labels).accuracy().low < 1 / 3 + 0.1


def test_several_rows_of_an_item_count_once_and_top_k_covers_ties():
    items = np.arange(6) // 3
    values = np.array([[2.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]] * 2)
    result = Classified("zero-shot", ("image",), "cosine", CLASSES, np.zeros(6, int), values, np.arange(6), items, 0, {})
    assert result.accuracy().value == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert result.accuracy(2).value == pytest.approx((1 + 1 + 2 / 3) / 3)
    assert result.accuracy().high - result.accuracy().low > 0.4


def test_a_number_is_told():
    train, bundle = world(noise=0.5, seed=3)[0], world(noise=0.5)[0]
    direction = torch.randn(6, generator=torch.Generator().manual_seed(5))
    numbers = [[str(float(row @ direction)) for row in each.column("image")] for each in (train, bundle)]
    result = regress("size", train, numbers[0], bundle, [None, *numbers[1][1:]], modalities=["image"])
    truth, predicted = result.truth, result.predicted
    assert result.unlabelled == 1
    assert result.r2.value == pytest.approx(1 - ((truth - predicted) ** 2).sum() / ((truth - truth.mean()) ** 2).sum())
    assert result.r2.low < result.r2.value < result.r2.high and result.r2.value > 0.99
    worse = regress("size", train, numbers[0], bundle, numbers[1], modalities=["sound"])
    assert worse.r2.value < result.r2.low and worse.rank_correlation < result.rank_correlation


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda b, y, p: zero_shot(b, y, p[0], ["cat"] * 6), "at least two classes; got cat"),
        (lambda b, y, p: zero_shot(b, ["cow", *y[1:]], *p), "3 classes that a prompt has; 1 items are of cow"),
        (lambda b, y, _: nearest(b, ["cat"] * 90, b, y), "`train_labels` must hold at least two classes"),
        (lambda b, y, _: nearest(b, y, b, [None] * 90), "must name the class of an item that has image or sound; none does"),
        (lambda b, y, _: probe(b, y[1:], b, y), "`train_labels` must name the class of each of 90 rows; got 89"),
        (lambda b, y, _: probe(b, y, b, y, modalities=["smell"]), "`modalities` must be one of image, sound"),
        (lambda b, y, _: regress("size", b, y, b, y), "`size` must hold numbers .* got 'cat'|got 'dog'|got 'owl'"),
        (lambda b, *_: regress("size", b, ["1"] * 90, b, ["1"] * 90), "is 1 in every training item"),
    ],
)
def test_what_cannot_be_told_is_one_line(call, message):
    with pytest.raises(InputError, match=message):
        call(*world(), prompts())


def test_handwritten_digits():
    """UCI's optical digits, 10 classes, seen by their upper and lower halves."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    halves = {"upper": digits.images[:, :4].reshape(-1, 32), "lower": digits.images[:, 4:].reshape(-1, 32)}
    labels = [str(name) for name in digits.target]
    whole = Bundle.from_dict({name: torch.from_numpy(half - half.mean(0)).float() for name, half in halves.items()})
    train, bundle, of_train, rest = whole[:500], whole[1000:1300], labels[:500], labels[1000:1300]
    results = {
        (method.__name__, names): method(train, of_train, bundle, rest, modalities=names)
        for method in (nearest, probe)
        for names in (("upper",), ("upper", "lower"))
    }
    assert {len(one.classes) for one in results.values()} == {10}
    for method in ("nearest", "probe"):
        alone, both = results[method, ("upper",)], results[method, ("upper", "lower")]
        assert both.accuracy().value > alone.accuracy().value > 0.5 and both.accuracy().low > 0.8
        assert both.accuracy(5).value >= both.accuracy().value
    shown = zero_shot(bundle, rest, train, of_train, modalities=("upper", "lower"))  # drawings are the prompts
    assert shown.accuracy().low > 0.7 and shown.chance() < 0.13


def test_labels_stay_with_their_rows(tmp_path):
    table = Table.from_columns({"a": torch.eye(3)}, split=["train", "test", "test"], labels={"kind": ["x", None, "z"]})
    assert table.part("test").labels == {"kind": (None, "z")}
    for ending in ("safetensors", "parquet"):
        table.save(tmp_path / f"t.{ending}")
        assert load(tmp_path / f"t.{ending}", labels=["kind"]).labels == {"kind": ("x", None, "z")}
    assert table.digest() != Table.from_columns({"a": torch.eye(3)}, split=table.split).digest()
    with pytest.raises(InputError, match=r"`labels` must be columns of .*: kind; got 'size'"):
        load(tmp_path / "t.safetensors", labels=["size"])
    with pytest.raises(InputError, match="`labels` must be one of"):
        load(tmp_path / "t.parquet", labels=["size"])
    with pytest.raises(InputError, match=r"`labels\['kind'\]` must hold"):
        Table.from_columns({"a": torch.eye(3)}, labels={"kind": ["x"]})


def test_stamps_have_a_category():
    table = load("stamps", columns=["image", "speech_fr"], labels=["category"])
    assert (
        table.labels["category"][table.ids.index("animals/birds/owl")] == "animals" and len(set(table.labels["category"])) == 16
    )
    assert load("stamps").labels == {}
    train, test = table.part("train").has_any(), table.part("test").has_any()
    vectors = [Bundle.from_dict({"image": part.features("image")}) for part in (train, test)]
    result = nearest(vectors[0], train.labels["category"], vectors[1], test.labels["category"], modalities=["image"])
    assert result.accuracy().low > result.chance() + 0.2
    ranks = result.direction("category")
    assert (ranks.query, ranks.target, ranks.gallery) == (("image",), ("category",), 16)
    assert ranks.recall(1).value == result.accuracy().value and ranks.score == "nearest neighbours, centroid"


def test_the_command_tells_classes_and_numbers(tmp_path, capsys):
    (train, of_train), (bundle, labels) = world(seed=3), world()
    columns = {name: [*train.column(name).tolist(), *bundle.column(name).tolist()] for name in train.modalities}
    columns |= {"kind": [*of_train, *labels], "size": list(range(180)), "split": ["train"] * 90 + ["test"] * 90}
    data, described = str(tmp_path / "items.parquet"), str(tmp_path / "prompts.parquet")
    pq.write_table(pa.table(columns), data)
    pq.write_table(pa.table({"image": prompts()[0].column("text").tolist(), "kind": prompts()[1]}), described)
    words = ["evaluate", "--data", data, "--subsets", "none", "--classify", "kind"]
    out = tmp_path / "out"
    assert main([*words, "--prompts", described, "--scores", "span", "--regress", "size", "--output", str(out)]) == 0
    report = (out / "report.md").read_text()
    assert "| image+sound | zero-shot | span | 90 |" in report and "| image+sound | linear probe | – | 90 |" in report
    assert "Regression by a linear probe" in report and "What is taken for what" in report
    capsys.readouterr()
    pq.write_table(pa.table({"image": prompts()[0].column("text").tolist()}), tmp_path / "plain.parquet")
    assert main([*words, "--prompts", str(tmp_path / "plain.parquet")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("gramian: `prompts` and its column `kind` must be one of image; got 'kind'.")
    assert main(["evaluate", "--data", data, "--prompts", described]) == 2
    assert main([*words, "--prompts", "a photo of a {}"]) == 2
    assert main([*words, "--split", "all"]) == 2
    assert main(["evaluate", "--data", data, "--classify", "nothing"]) == 2
    pq.write_table(pa.table(columns | {"kind": ["cat"] * 180}), tmp_path / "one.parquet")
    assert main(["evaluate", "--data", str(tmp_path / "one.parquet"), "--classify", "kind"]) == 2
    pq.write_table(pa.table(columns | {"kind": ["cat", "dog"] * 89 + ["owl", "owl"]}), tmp_path / "unseen.parquet")
    assert main(["evaluate", "--data", str(tmp_path / "unseen.parquet"), "--classify", "kind"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert [line for line in errors if line.startswith("gramian: ")] == errors and len(errors) == 6
    assert errors[3].startswith("gramian: `classify` must be one of") and "labels" not in " ".join(errors)  # as typed
    assert "`classify` must hold at least two classes to tell apart; got cat." in errors[4]
    assert "`classify` must be among the 2 classes that a training item has; 2 items are of owl." in errors[5]
    assert "Add --classify COLUMN" in errors[0] and "reads text" in errors[1] and "learn from the split" in errors[2]


def test_embedded_vectors_keep_their_classes(tmp_path, capsys):
    (train, of_train), (bundle, labels) = world(seed=3), world()
    columns = {name: [*train.column(name).tolist(), *bundle.column(name).tolist()] for name in train.modalities}
    kinds = [None, *of_train[1:], *labels]
    columns |= {"kind": kinds, "size": [f"s{i % 4}" for i in range(180)], "split": ["train"] * 90 + ["test"] * 90}
    data, model = str(tmp_path / "items.parquet"), str(tmp_path / "model")
    pq.write_table(pa.table(columns), data)
    Aligner(dict.fromkeys(train.modalities, 6), dim=4).save_pretrained(model)
    words = ["embed", "--data", data, "--model", model, "--labels", "kind,size"]
    for output, more in (("file.parquet", ()), ("folder", ()), ("stream", ("--streaming", "--shard-size", "50"))):
        assert main([*words, "--output", str(tmp_path / output), *more]) == 0
        table = load(tmp_path / output, labels=["kind", "size"])
        assert table.labels == {"kind": tuple(kinds), "size": tuple(columns["size"])}
        assert set(table.modalities) == set(train.modalities)
    assert main(["evaluate", "--data", str(tmp_path / "folder"), "--subsets", "none", "--classify", "kind"]) == 0
    capsys.readouterr()
    assert main([*words[:-1], "nothing", "--output", str(tmp_path / "none")]) == 2
    error = capsys.readouterr().err
    assert "`labels` must be one of" in error and error.count("\n") == 1 and not (tmp_path / "none").exists()
