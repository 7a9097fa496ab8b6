"""The engine of studies: what a run is, what is resumed, how two methods are compared; the studies on it, made small."""

from __future__ import annotations

import json
import multiprocessing
import re
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import forked
from gramian.benchmark import curves, families, learning_curve, objectives, pages, stamps_selection, study
from gramian.benchmark.study import Method, Task
from gramian.bundle import Bundle
from gramian.cli import main
from gramian.errors import InputError
from gramian.evaluation import evaluate, hits
from gramian.evaluation.stats import difference_interval, share_interval
from gramian.losses import Gram, Pairwise
from gramian.model import Aligner
from gramian.training import Recipe, Search, fit, fit_canonical
from synthetic import world

pytest.importorskip("accelerate")

ROOT = Path(__file__).parents[1]
SHORT = Recipe(epochs=2, batch_size=32, evaluate_every=1)
PAIRWISE = Method("Pairwise", Pairwise)
GRAM = Method("Gram, τ = 0.2", lambda: Gram(temperature=0.2))
WORLD = Task("world", lambda seed: world(seed=seed), 8, SHORT)
TUNED = replace(WORLD, name="tuned", start=replace(PAIRWISE, recipe=replace(SHORT, epochs=3)))


def run(folder: Path, tasks=(WORLD,), methods=(PAIRWISE, GRAM), **options) -> study.Results:
    return study.study(tasks, methods, folder, **({"seeds": 2, "cpu": True, "resume": True} | options))


def figures(results: study.Results) -> list[object]:
    return [
        (task, name, one.seed, one.best, one.best_epoch, one.report.to_dict(), one.embedded.vectors.tolist())
        for task, methods in results.items()
        for name, runs in methods.items()
        for one in runs
    ]


def written(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}


def test_a_run_is_what_fit_gives_by_hand(tmp_path):
    (one,) = run(tmp_path, tasks=[TUNED], methods=[GRAM], seeds=1)["tuned"][GRAM.name]
    train, validation, test = (world(seed=0).part(split).has_any() for split in ("train", "validation", "test"))
    aligner = Aligner.for_table(train, dim=8, seed=0)
    fit(aligner, Pairwise(), train, validation, recipe=replace(SHORT, epochs=3), progress=False, cpu=True)
    history = fit(aligner, Gram(temperature=0.2), train, validation, recipe=SHORT, progress=False, cpu=True)
    torch.testing.assert_close(one.embedded.vectors, aligner.embed(test).vectors, rtol=0, atol=0)
    assert (one.best, one.best_epoch) == (history.best, history.best_epoch)
    assert one.report.to_dict() == evaluate(aligner.embed(test), subsets="none").to_dict()


def test_the_split_and_what_a_method_says_for_itself_are_used(tmp_path):
    narrow = replace(PAIRWISE, name="narrow", dim=4, recipe=replace(SHORT, epochs=1))
    (one,) = run(tmp_path, methods=[narrow], seeds=1, split="validation")["world"]["narrow"]
    assert one.embedded.dim == 4 and one.best_epoch == 1
    assert len(one.embedded) == len(world().part("validation").has_any())


def test_a_resumed_study_gives_the_figures_of_an_unbroken_one(tmp_path):
    whole = figures(run(tmp_path / "whole", tasks=[WORLD, TUNED]))
    run(tmp_path / "broken", tasks=[WORLD], seeds=1)
    assert figures(run(tmp_path / "broken", tasks=[WORLD, TUNED])) == whole

    # Lost, cut short, of other settings, of an older format.
    folder = tmp_path / "broken"
    before = written(folder / "world")
    (folder / "world" / "pairwise-0.json").unlink()
    damaged = folder / "world" / "pairwise-1.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:50])
    for name, change in (("gram-0-2-0", {"torch": "1.0"}), ("gram-0-2-1", None)):
        path = folder / "world" / f"{name}.json"
        outcome = json.loads(path.read_text(encoding="utf-8"))
        outcome = {"mrr": 1.0} if change is None else outcome | {"settings": outcome["settings"] | change, "best": 1.0}
        path.write_text(json.dumps(outcome), encoding="utf-8")
    kept = written(folder / "tuned")
    assert figures(run(folder, tasks=[WORLD, TUNED])) == whole
    assert written(folder / "tuned") == kept
    assert all(written(folder / "world")[name] != stamp for name, stamp in before.items())
    assert not list(folder.rglob("*.partial*"))


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": replace(SHORT, learning_rate=1e-4)},
        {"dim": 6},
        {"table": lambda seed: world(seed=seed + 5)},
        {"start": PAIRWISE},
        {"start": replace(PAIRWISE, recipe=replace(SHORT, epochs=1))},
    ],
)
def test_other_settings_are_another_run(tmp_path, change):
    run(tmp_path, methods=[GRAM], seeds=1)
    before = written(tmp_path)
    run(tmp_path, methods=[GRAM], seeds=1)
    assert written(tmp_path) == before
    run(tmp_path, tasks=[replace(WORLD, **change)], methods=[GRAM], seeds=1)
    assert written(tmp_path) != before


def test_without_resume_all_is_trained_again(tmp_path):
    first = figures(run(tmp_path, methods=[PAIRWISE]))
    before = written(tmp_path)
    assert figures(run(tmp_path, methods=[PAIRWISE], resume=False)) == first
    assert all(written(tmp_path)[name] != stamp for name, stamp in before.items())


def test_methods_are_compared_item_by_item_and_seed_by_seed(tmp_path):
    runs, reference = run(tmp_path)["world"].values()

    def by_hand(own, k):
        return np.stack([hits(evaluate(one.embedded, subsets="none").singles, len(one.embedded), k) for one in own])

    assert study.difference(runs, reference, 5) == difference_interval(by_hand(runs, 5) - by_hand(reference, 5))
    assert study.recall(runs, 5) == share_interval(by_hand(runs, 5))
    with pytest.raises(InputError, match="`reference` must have the seeds, directions and items"):
        study.difference(runs, reference[::-1])
    with pytest.raises(InputError, match="`reference` must have the seeds"):
        study.difference(runs, reference[:1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 0}, "`seeds` must be an integer of at least 1; got 0"),
        ({"split": "dev"}, "`split` must be one of train, validation, test; got 'dev'"),
        ({"methods": []}, "`methods` must be one or more with different names; got none"),
        ({"methods": [PAIRWISE, replace(GRAM, name="pairwise!")]}, "`methods` must be one or more with different names"),
        ({"tasks": [WORLD, WORLD]}, "`tasks` must be one or more with different names; got world, world"),
    ],
)
def test_a_study_that_cannot_be_is_refused(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        run(tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


def test_tables_go_between_the_markers_of_a_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("Über\n<!-- a -->\nold\n<!-- /a -->\nbetween\n<!-- b -->\n<!-- /b -->\nend\n", encoding="utf-8")
    for _ in range(2):
        paths = pages.write_tables("Title", {"b": r"two \1 |\n", "a": "one\n"}, tmp_path / "out", page)
    assert paths == [tmp_path / "out" / "report.md", page]
    expected = "Über\n<!-- a -->\n\none\n\n<!-- /a -->\nbetween\n<!-- b -->\n\n" + r"two \1 |\n" + "\n<!-- /b -->\nend\n"
    assert page.read_text(encoding="utf-8") == expected
    with pytest.raises(InputError, match="`page` must have the lines <!-- c --> and <!-- /c -->"):
        pages.read_page(page, ["a", "c"])
    with pytest.raises(InputError, match="`page` must be an existing Markdown file"):
        pages.read_page(tmp_path / "none.md", [])


@pytest.fixture
def small(monkeypatch):
    """The study of objectives on a small world, in three objectives."""
    names = ("Gram, cone, each", "Pairwise, τ = 0.2", "Pairwise + PMRL, signed")
    monkeypatch.setattr(objectives, "METHODS", tuple(one for one in objectives.METHODS if one.name in names))
    for name in ("SYNTHETIC", "STAMPS", "TUNED"):
        task = getattr(objectives, name)
        start = task.start and replace(task.start, recipe=SHORT)
        monkeypatch.setattr(objectives, name, replace(task, table=WORLD.table, dim=8, recipe=SHORT, start=start))
    return names


def test_the_study_of_objectives_fills_its_page_and_resumes(small, tmp_path, capsys):
    page = tmp_path / "objectives.md"
    page.write_text((ROOT / "docs" / "objectives.md").read_text(encoding="utf-8"), encoding="utf-8")
    words = ["benchmark", "objectives", "--output", str(tmp_path / "runs"), "--seeds", "2", "--page", str(page), "--resume"]
    assert main(words) == 0
    assert f"wrote {tmp_path / 'runs' / 'report.md'}" in capsys.readouterr().out
    report, filled = ((path).read_text(encoding="utf-8") for path in (tmp_path / "runs" / "report.md", page))
    assert all(f"| {name} |" in report for name in small)
    assert filled.count("\n| ") == report.count("\n| ")
    for path in (tmp_path / "runs" / "stamps-tuned").glob("*-1.json"):
        path.unlink()
    assert main(words) == 0
    assert tuple(path.read_text(encoding="utf-8") for path in (tmp_path / "runs" / "report.md", page)) == (report, filled)
    assert "| (before) |  |" in report
    assert len(re.findall("beats it|loses to it|does not differ from it", report)) == 2


@pytest.mark.usefixtures("small")
def test_a_part_of_the_study_has_the_reference_besides(tmp_path):
    words = ["benchmark", "objectives", "--output", str(tmp_path), "--seeds", "1", "--epochs", "1"]
    assert main([*words, "--methods", "gram-cone-each"]) == 0
    trained = sorted(path.name for path in (tmp_path / "stamps").glob("*.json"))
    assert trained == ["gram-cone-each-0.json", "pairwise-0-2-0.json"]
    assert json.loads((tmp_path / "stamps-tuned" / trained[0]).read_text())["settings"]["start"]["recipe"]["epochs"] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["objectives", "--methods", "gram-con-each"], "`methods` must be one of .* Did you mean 'gram-cone-each'"),
        (["objectives", "--page", "none.md"], "`page` must be an existing Markdown file"),
        (["objectives", "--page", str(ROOT / "docs" / "objectives.md"), "--epochs", "1"], "`page` shows whole studies"),
        (["objectives", "--seeds", "0"], "`seeds` must be an integer of at least 1"),
        (["stamps_selection", "--page", str(ROOT / "README.md")], "`page` must have the lines <!-- candidates -->"),
        (
            ["objektives"],
            "`study` must be one of alignment_metric, attempts, .*, standing; got 'objektives'",
        ),
        (["objectives", "--sizes", "25"], "`sizes` is not an option of objectives"),
        (["standing", "--seeds", "1"], "`seeds` must be an integer in .2, 11."),
        (["standing", "--external", "json:none"], "`external` names 'json:none', which cannot be imported"),
        (["standing", "--merge", "none.json"], "`merge` 'none.json' is not a results.parquet"),
        (["objectives", "stamps_selection"], "'stamps_selection' belongs to no option"),
        ([], "--study must be given"),
    ],
)
@pytest.mark.usefixtures("small")
def test_bad_studies_are_one_line(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(["benchmark", *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error), error
    assert not list(tmp_path.iterdir())


def test_the_selection_reads_validation_alone(tmp_path):
    words = ["--output", str(tmp_path), "--methods", "pairwise-dim-64,pmrl-as-published", "--seeds", "1", "--epochs", "1"]
    assert main(["benchmark", "stamps_selection", *words]) == 0
    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| Pairwise, dim 64 |" in page and "81 validation items" in page
    assert len(Bundle.load(tmp_path / "stamps" / "pairwise-dim-64-0.safetensors")) == 81
    names = [study.slug(candidate.name) for candidate in stamps_selection.candidates()]
    assert len(set(names)) == len(names) == 30


def test_the_closed_form_is_a_method_and_a_start(tmp_path):
    search = Search(heads=("linear",), ridges=(0.01, 1.0), powers=(1.0,), dims=(6,))
    solved, started = Method("MAXVAR", None, search=search), Method("started", Pairwise, search=search)
    runs = run(tmp_path, methods=[solved, started], seeds=1)["world"]
    train, validation, test = (world(seed=0).part(split).has_any() for split in ("train", "validation", "test"))
    aligner, choice = fit_canonical(train, validation, search=search, progress=False)
    assert runs["MAXVAR"][0].best == choice.best and solved.objective == "maxvar"
    torch.testing.assert_close(runs["MAXVAR"][0].embedded.vectors, aligner.embed(test).vectors, rtol=0, atol=0)
    fit(aligner, Pairwise(), train, validation, recipe=SHORT, progress=False, cpu=True)
    torch.testing.assert_close(runs["started"][0].embedded.vectors, aligner.embed(test).vectors, rtol=0, atol=0)


def runs_of(hit):
    """Two runs in which 100 items find their match or not, the same in both directions."""
    better = torch.where(torch.tensor(hit), 0, 1).numpy()
    ranks = SimpleNamespace(better=better, tied=0 * better)
    singles = [SimpleNamespace(rows=np.arange(100), ranks=ranks, items=np.arange(100))] * 2
    report = SimpleNamespace(singles=singles, n=100, items=np.arange(100))
    return tuple(SimpleNamespace(report=report, seed=seed) for seed in range(2))


def test_a_learning_curve_says_what_replaces_what_and_where_training_overtakes():
    def found(share):
        return runs_of([i < share for i in range(100)])

    shares = {
        "MAXVAR, kernel heads": (40, 50, 60),
        "MAXVAR, linear heads": (30, 40, 50),
        "InfoNCE, kernel heads": (10, 80, 90),
        "InfoNCE, linear heads": (90, 30, 30),
    }
    by_size = {size: {name: found(each[i]) for name, each in shares.items()} for i, size in enumerate((50, 100, 1000))}
    sentence = curves.overtaking("digits", by_size)
    assert sentence.startswith("On digits, training overtakes MAXVAR, kernel heads: InfoNCE, kernel heads, from 100 items on (")
    assert "InfoNCE, linear heads, not by 1,000 items (-30.0" in sentence and "at 1,000" in sentence
    sheet = curves.gains_sheet("digits", by_size)
    assert [row[0] for row in sheet.rows] == [line for line, *pair in curves.GAINS if set(pair) <= set(shares)]
    assert sheet.rows[1][1].startswith("10.0 [") and sheet.header == ("gain", "50", "100", "1000")
    assert curves.gains_sheet("x", {50: {"InfoNCE, MLP heads": found(1)}}) is None
    assert curves.overtaking("x", {50: {"MAXVAR, kernel heads": found(1)}}) == ""


def constant(train, validation, seed):
    """A method of somebody else: what all embed as one vector each."""
    del train, validation, seed
    return Constant()


class Constant:
    def embed(self, table, /):
        return Bundle.from_dict({name: torch.ones(len(table), 2) for name in table.modalities})


def test_methods_of_others_and_runs_in_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "get_context", lambda _: forked.FORKS)  # which have imported the library
    tasks = [Task("world", world_of, dim=8, recipe=Recipe(epochs=1))]
    methods = [Method("theirs", None, train=constant), Method("ours", partial(Pairwise, temperature=0.2))]
    options = {"seeds": 2, "cpu": True}
    (alone,) = study.study(tasks, methods, tmp_path / "alone", **options).values()
    (apart,) = study.study(tasks, methods, tmp_path / "apart", processes=2, **options).values()
    for name, runs in alone.items():
        for one, other in zip(runs, apart[name], strict=True):
            torch.testing.assert_close(one.embedded.vectors, other.embedded.vectors, rtol=1e-4, atol=1e-4)
            assert one.seconds > 0 and other.seconds > 0
            assert all(run.memory is None or run.memory >= 0 for run in (one, other))  # Linux alone tells
    assert alone["theirs"][0].report.singles[0].recall(1).value == pytest.approx(1 / alone["theirs"][0].report.n)
    assert json.loads((tmp_path / "apart" / "world" / "theirs-1.json").read_text())["settings"]["loss"].endswith(":constant")


def test_a_study_that_stops_does_not_wait_for_the_cells_that_are_being_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "get_context", lambda _: forked.FORKS)
    methods = [Method("endless", None, train=endless), Method("failing", None, train=failing)]
    with pytest.raises(InputError, match="broke"):
        study.study([Task("world", world_of, dim=8)], methods, tmp_path, seeds=1, cpu=True, processes=2)
    assert not multiprocessing.active_children()


def endless(train, validation, seed):
    del train, validation, seed
    time.sleep(1e6)


def failing(train, validation, seed):
    del train, validation, seed
    raise InputError("it broke")


def world_of(seed):
    return world(80, seed=seed)


def test_a_learning_curve_draws_nested_items_and_chooses_settings_on_validation(tmp_path, monkeypatch):
    table = world(120, missing=0.1)
    draws = [learning_curve.of_items(table, items, 0) for items in (5, 20)]
    parts = [set(draw.part("train").ids) for draw in draws]
    assert [len(part) for part in parts] == [5, 20] and parts[0] < parts[1]
    assert all(draw.part("test").ids == table.part("test").ids for draw in draws)
    assert all(bool(draw.part("train").mask().all()) for draw in draws)
    assert learning_curve.of_items(table, 20, 1).ids != draws[1].ids

    monkeypatch.setattr(families, "load", lambda *_, **__: table.select("image", "audio"))  # no text to anchor
    page = tmp_path / "page.md"
    page.write_text("<!-- learning-curve -->\n<!-- /learning-curve -->\n")
    names = ["maxvar-linear-heads", "infonce-linear-heads", "gram-published"]
    options = {"seeds": 2, "epochs": 1, "methods": names, "page": page, "sets": ["world"], "sizes": (8, 500)}
    (report, _, *pictures) = learning_curve.learning_curve(
        replace(learning_curve.learning_curve.plan, output=tmp_path / "out", **options)
    )
    assert "| method | 8 |" in report.read_text() and "MAXVAR, linear heads" in page.read_text()
    assert "| MAXVAR for InfoNCE, linear heads |" in page.read_text() and "![" in page.read_text()
    assert [path.read_bytes()[:4] for path in pictures] == [b"\x89PNG"] * 2 and pictures[1].parent == page.parent
    assert len({path.stem for path in (tmp_path / "out").rglob("*.json")}) == 2 * (1 + 2 * len(families.TRIED))
