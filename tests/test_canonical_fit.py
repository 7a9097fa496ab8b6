"""The closed form chosen on validation items, as a method of training and as its start."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from gramian import Aligner, Recipe, Table, train
from gramian.canonical.features import Kernel
from gramian.errors import InputError
from gramian.evaluation.directions import all_ranks
from gramian.evaluation.metrics import mean_reciprocal_rank
from gramian.model import Custom
from gramian.training import Search, canonical, fit_canonical
from gramian.training.run import _check_also
from synthetic import world

SMALL = Search(kernels=(Kernel(power=2),), ridges=(0.01, 1.0), powers=(0.5, 2.0), dims=(3, 500))


@pytest.fixture(scope="module")
def table():
    return world(120, missing=0.1)


@pytest.fixture(scope="module")
def chosen(table):
    return fit_canonical(table.part("train"), table.part("validation"), search=SMALL, progress=False)


def test_the_best_of_all_combinations_is_solved_from_all_training_items(table, chosen):
    aligner, choice = chosen
    assert len(choice.records) == 2 * 2 * 2 * 2
    assert choice.best == max(record["validation/mrr"] for record in choice.records)
    settings = choice.settings
    same = Aligner.canonical(
        table.part("train"),
        head=settings.head,
        kernel=settings.kernel,
        ridge=settings.ridge,
        power=settings.power,
        dim=aligner.dim,
    )
    test = table.part("test").has_any()
    torch.testing.assert_close(aligner.embed(test).vectors, same.embed(test).vectors, rtol=0, atol=1e-5)
    assert choice.chosen.startswith(f"head {settings.head}") and choice.chosen.endswith("the best of 16 settings")


def test_a_choice_is_by_what_the_aligner_does(table, chosen):
    aligner, choice = chosen
    bundle = aligner.embed(table.part("validation").has_any())
    assert mean_reciprocal_rank(all_ranks(bundle)) == pytest.approx(choice.best, abs=0.01)


def test_rows_of_one_item_count_as_one(table):
    part = table.part("train")
    twice = torch.arange(len(part)).repeat(2)
    doubled = Table.from_columns(
        {name: part.features(name)[twice] for name in part.modalities},
        present={name: part.present[name][twice] for name in part.modalities},
        item_ids=[part.ids[i] for i in twice.tolist()],
    )
    search = Search(heads=("linear",), ridges=(0.01,), powers=(1.0,), dims=(6,))
    scores = [fit_canonical(part, held_out, search=search, progress=False)[1].best for held_out in (part, doubled)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-9) and scores[0] > 0.6


def test_without_a_validation_split_items_are_folded_whole(table, monkeypatch):
    part = table.part("train").has_any()
    grouped = Table.from_columns(
        {name: part.features(name) for name in part.modalities},
        present=part.present,
        item_ids=[str(i // 2) for i in range(len(part))],
    )
    seen = []
    folds = canonical._folds
    monkeypatch.setattr(canonical, "_folds", lambda *a: (seen.append(pair) or pair for pair in folds(*a)))
    aligner, choice = fit_canonical(grouped, search=SMALL, progress=False)
    assert len(seen) == 4 and sum(len(held_out) for _, held_out in seen) == len(grouped)
    for fitted, held_out in seen:
        assert not set(fitted.item_ids) & set(held_out.item_ids)
        assert len(fitted) + len(held_out) == len(grouped)
    assert len(choice.records) == 16 and aligner.dim <= 500
    with pytest.raises(InputError, match="`train` must hold at least 8 items for 4 folds; got 3"):
        fit_canonical(part[:3], progress=False)


@pytest.mark.parametrize("criterion", ["sumcor", "genvar"])
def test_other_criteria_are_solved_anew_for_every_width(table, criterion):
    search = Search(heads=("linear",), ridges=(0.1,), powers=(1.0,), dims=(2, 6, 500), criterion=criterion)
    aligner, choice = fit_canonical(table.part("train"), table.part("validation"), search=search, progress=False)
    scores = {record["dim"]: record["validation/mrr"] for record in choice.records}
    assert scores[6] > scores[2] and aligner.dim in (6, 10)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"ridges": ()}, r"`search\.ridges` must hold at least one value"),
        ({"ridges": (-1.0,)}, r"`search\.ridges` must be a finite number of at least 0"),
        ({"powers": (-1.0,)}, r"`search\.powers` must lie in \[0, 100\]"),
        ({"folds": 1}, r"`search\.folds` must be an integer in \[2, 100\]"),
        ({"dims": (0,)}, r"`search\.dims` must be an integer in"),
        ({"criterion": "minvar"}, r"`search\.criterion` must be one of"),
    ],
)
def test_searches_that_cannot_be(options, match):
    with pytest.raises(InputError, match=match):
        Search(**options)


def test_more_validation_rows_than_are_ranked_are_drawn(table, monkeypatch):
    monkeypatch.setattr(canonical, "VALIDATED", 5)
    seen = []
    monkeypatch.setattr(canonical, "all_ranks", lambda bundle: seen.append(len(bundle)) or all_ranks(bundle))
    fit_canonical(table.part("train"), table.part("validation"), search=SMALL, progress=False)
    assert set(seen) == {5}


def test_nothing_is_analysed_twice(table, monkeypatch):
    made = []
    analysis = canonical.Analysis
    monkeypatch.setattr(canonical, "Analysis", lambda moments: made.append(1) or analysis(moments))
    search = Search(kernels=(Kernel(power=2), Kernel("rbf")), ridges=(0.1,), powers=(1.0,), dims=(4,))
    fit_canonical(table.part("train"), table.part("validation"), search=search, progress=False)
    assert len(made) == 3  # linear, and each kernel


def test_the_number_of_landmarks_is_chosen_on_validation(table, data, tmp_path):
    search = SMALL.of_landmarks([2, 20, 500, 900])
    assert [kernel.landmarks for kernel in search.kernels] == [2, 20, 500, 900]
    _, choice = fit_canonical(table.part("train"), table.part("validation"), search=search, progress=False)
    best = {}
    for record in choice.records:
        if record["head"] == "kernel":
            number = record["kernel"]["landmarks"]
            best[number] = max(best.get(number, 0), record["validation/mrr"])
    assert set(best) == {2, 20, 500}  # 60 rows: 900 are those of 500
    assert best[20] > best[2]
    run = train(data, tmp_path / "run", method="canonical", head="kernel", landmarks=[2, 20], search=SMALL, progress=False)
    assert "landmarks 20" in run.history.chosen
    for numbers, match in (([], "`landmarks` must hold at least one number"), ([0], r"`kernel\.landmarks` must be an integer")):
        with pytest.raises(InputError, match=match):
            SMALL.of_landmarks(numbers)


@pytest.fixture
def data(table, tmp_path):
    path = tmp_path / "table.safetensors"
    table.save(path)
    return str(path)


def test_train_by_the_closed_form_writes_what_training_writes(data, tmp_path):
    run = train(data, tmp_path / "run", method="canonical", search=SMALL, progress=False)
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"aligner", "report.md", "metrics.jsonl", "splits.json"}
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 16 and max(line["validation/mrr"] for line in lines) == run.history.best
    card = (tmp_path / "run" / "aligner" / "README.md").read_text()
    assert "Objective: `maxvar`" in card and "Biometrika 1971" in card and run.history.chosen in card
    again = Aligner.from_pretrained(tmp_path / "run" / "aligner")
    assert again.dim == run.aligner.dim
    fixed = train(data, tmp_path / "fixed", method="canonical", head="linear", dim=4, search=SMALL, progress=False)
    assert fixed.aligner.dim == 4 and {record["head"] for record in fixed.history.records} == {"linear"}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"loss": "Pairwise"}, "`loss` is for `method` 'contrast'"),
        ({"matching": 0.1}, "`matching` is for `method` 'contrast'"),
        ({"start": "identity"}, "`start` is for `method` 'contrast'"),
        ({"recipe": Recipe(epochs=3)}, "`recipe` is for `method` 'contrast'; 'canonical' reads its seed and workers alone"),
        ({"kernel": Kernel(), "head": "linear"}, "`kernel` is for heads 'kernel'; got 'linear'"),
        ({"method": "contrast", "kernel": Kernel()}, "`kernel` is for heads 'kernel'; got 'linear'"),
        (
            {"method": "contrast", "start": "random", "search": SMALL},
            "`search` is for `method` 'canonical' and `start` 'canonical'",
        ),
        (
            {"method": "contrast", "start": "random", "landmarks": [2]},
            "`landmarks` is for `method` 'canonical' and `start` 'canonical'",
        ),
        ({"method": "canonic"}, "Did you mean 'canonical'"),
        ({"method": "contrast", "start": "zero"}, "`start` must be one of random, canonical, identity"),
        ({"method": "contrast", "start": "canonical", "head": "mlp"}, "`head` must be 'linear', 'residual' or 'kernel'"),
        ({"method": "contrast", "start": "identity"}, "'identity' needs heads 'linear' or 'residual' of width `dim` = 512"),
    ],
)
def test_runs_that_cannot_be(data, tmp_path, options, match):
    with pytest.raises(InputError, match=match):
        train(data, tmp_path / "run", progress=False, **{"method": "canonical"} | options)


@pytest.mark.parametrize("head", ["linear", "residual", "kernel"])
def test_contrastive_training_starts_from_the_closed_form(data, table, tmp_path, head):
    recipe = Recipe(epochs=1, learning_rate=1e-9, batch_size=16)  # the start, but for rounding
    options = {"head": head, "dim": 6, "search": SMALL, "progress": False}
    solved = train(data, tmp_path / "solved", method="canonical", **options)
    with pytest.raises(InputError, match="`resume` needs checkpoints"):  # it would be written over
        train(data, tmp_path / "solved", resume=True, start="canonical", recipe=recipe, **options)
    started = train(data, tmp_path / "started", start="canonical", recipe=recipe, **options)
    test = table.part("test").has_any()
    torch.testing.assert_close(started.aligner.embed(test).vectors, solved.aligner.embed(test).vectors, rtol=0, atol=1e-4)
    assert started.history.records[0]["epoch"] == 1


def test_what_features_are_trained_by_where_nothing_is_named(data, table, tmp_path):
    options = {"recipe": Recipe(epochs=1, batch_size=16, checkpoint_every=1), "progress": False}
    ours = {"search": replace(SMALL, heads=("kernel",)), "dim": 6}

    def heads(name, **more):
        aligner = train(data, tmp_path / name, **options, **more).aligner
        return {one.kind for one in aligner.modalities.values()}

    run = train(data, tmp_path / "default", **options, **ours)
    share = max(run.history.shares, key=lambda share: run.history.shares[share])
    kinds = {0.0: "mlp", 1.0: "kernel"}
    assert {one.kind for one in run.aligner.modalities.values()} == {kinds.get(share, "kernel + mlp")}
    assert run.history.best == max(run.history.shares.values()) and "epoch 1 of 1" in run.history.chosen
    card = (tmp_path / "default" / "aligner" / "README.md").read_text()
    assert "Objective: `Pairwise(" in card and "Gram(" not in card and kinds.get(share, "kernel + mlp") in card

    shutil.rmtree(tmp_path / "default" / "aligner")  # as if it had been killed before its last write
    with pytest.raises(InputError, match="holds a run already"):
        train(data, tmp_path / "default", **options, **ours)
    again = train(data, tmp_path / "default", **options, **ours, resume=True)
    test = table.part("test").has_any()
    torch.testing.assert_close(again.aligner.embed(test).vectors, run.aligner.embed(test).vectors, rtol=0, atol=1e-5)
    for name, more in {"loss": {"loss": "Pairwise"}, "start": {"start": "random"}, "head": {"head": "linear"}}.items():
        assert heads(name, **more) == {"linear"}
    assert heads("also", loss="Pairwise", also="projection", dim=6) <= {"linear", "projection", "linear + projection"}


def test_heads_beside_others_are_refused_before_anything_is_trained(data, tmp_path):
    for more in ({"method": "canonical"}, {"matching": 0.1}, {"start": "canonical", "leash": [1.0]}):
        with pytest.raises(InputError, match="`also` joins heads that a loss trains"):
            train(data, tmp_path / "run", also="mlp", **more)
    part = Table.load(data)
    alone = Table.from_columns(
        {name: part.features(name)[:4] for name in ("text", "image")}, split=["train"] * 3 + ["validation"]
    )
    alone.save(tmp_path / "alone.safetensors")
    with pytest.raises(InputError, match="`also` needs validation items"):
        train(tmp_path / "alone.safetensors", tmp_path / "run", loss="Pairwise", also="mlp")
    tower = Custom(torch.nn.Linear(3, 2), width=2)
    with pytest.raises(InputError, match="`also` needs frozen towers; that of a is trained"):
        _check_also({"a": tower}, part)


def test_features_that_the_closed_form_refuses_are_trained_from_random_heads(table, tmp_path, caplog):
    part = table.select("text", "image")
    columns = {name: part.features(name) for name in part.modalities} | {"fixed": torch.ones(len(part), 3)}
    Table.from_columns(columns, split=part.split).save(tmp_path / "table.safetensors")
    options = {"recipe": Recipe(epochs=1, batch_size=16), "progress": False}
    result = train(tmp_path / "table.safetensors", tmp_path / "run", **options)
    assert {one.head for one in result.aligner.modalities.values()} == {"linear"}
    assert "column `fixed` is the same in every row" in caplog.text
    with pytest.raises(InputError, match="column `fixed` is the same in every row"):
        train(tmp_path / "table.safetensors", tmp_path / "asked", start="canonical", **options)


def test_raw_cells_are_read_once_for_all_kernels_and_broken_ones_are_listed():
    reads = []

    def read(cell):
        reads.append(cell)
        if cell == "7":
            raise ValueError("seven")
        return torch.tensor([float(cell), float(cell) ** 0.5, 1.0])

    numbers = [f"{i}" for i in range(24)]
    code = torch.tensor([[float(n), -(float(n) ** 0.5), 0.5] for n in numbers])
    table = Table.from_columns({"digit": numbers, "code": code}, split=["train", "validation"] * 12)
    tower = Custom(torch.nn.Identity(), 3, read=read)
    search = Search(heads=("linear", "residual"), ridges=(0.1, 1.0), powers=(1.0,), dims=(2,))
    parts = table.part("train"), table.part("validation")
    _, choice = fit_canonical(*parts, search=search, towers={"digit": tower}, progress=False)
    assert len(reads) == 24 and len(choice.records) == 4
    reads.clear()
    kernels = tuple(Kernel(power=power, landmarks=8) for power in (1, 2, 3))
    search = Search(heads=("kernel",), kernels=kernels, ridges=(0.1,), powers=(1.0,), dims=(2,))
    fit_canonical(*parts, search=search, towers={"digit": tower}, progress=False)
    assert len(reads) == 24 + 8  # landmarks once for all kernels
    assert [(cell.modality, cell.id) for cell in choice.broken] == [("digit", "7")]
