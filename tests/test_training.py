import importlib
import json
import logging
import math
import random
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

import forked
from gramian.data import Table
from gramian.data.batches import Collator, Loader
from gramian.data.cells import Cells
from gramian.data.readers import Reader
from gramian.errors import InputError, TooSmallError
from gramian.losses import PMRL, Contrast, Gram, Pairwise
from gramian.model import Aligner
from gramian.training import Recipe, fit
from gramian.training.checkpoints import RunFolder
from gramian.training.objective import Objective, parameter_groups, rate_factor
from synthetic import world

training = importlib.import_module("gramian.training.fit")  # the name itself is the function

QUICK = Recipe(epochs=6, batch_size=32, learning_rate=0.02, evaluate_every=2, checkpoint_every=2)


def _train(loss=None, *, recipe=QUICK, head="linear", missing=0.2, **options):
    table = world(missing=missing)
    aligner = Aligner.for_table(table.part("train"), dim=8, head=head)
    history = fit(
        aligner,
        loss or Pairwise(),
        table.part("train"),
        table.part("validation"),
        recipe=recipe,
        progress=False,
        cpu=True,
        **options,
    )
    return aligner, history


def _same(one: Aligner, other: Aligner) -> bool:
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize(
    "loss",
    [
        Pairwise(),
        Contrast("cone"),
        Contrast("centroid"),
        Gram(score="cone", anchor="each"),
        PMRL(signed=True, alignment_temperature=0.5),
    ],
)
def test_sign_aware_objectives_learn(loss):
    """From 1.4 % by chance and MRR 12 % to a space where most matches come first."""
    recipe = Recipe(epochs=40, batch_size=80, learning_rate=0.02, evaluate_every=10)
    _, history = _train(loss, recipe=recipe, missing=0.0)
    first, last = history.records[0], history.records[-1]
    assert last["loss"] < first["loss"]
    assert history.best > 0.6


def test_history_and_log_tell_the_same(tmp_path):
    _, history = _train(output=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == history.records
    assert [record["epoch"] for record in lines] == [1, 2, 3, 4, 5, 6]
    assert {"loss", "loss/text-image", "temperature"} <= set(lines[0])
    assert [("validation/mrr" in record) for record in lines] == [False, True] * 3
    assert history.best == max(record.get("validation/mrr", 0) for record in lines)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["000006"]


def test_one_seed_gives_one_result_and_leaves_the_global_generator_alone():
    state = torch.random.get_rng_state()
    one, same, other = _train()[0], _train()[0], _train(recipe=Recipe(**{**vars(QUICK), "seed": 1}))[0]
    assert torch.equal(state, torch.random.get_rng_state())
    assert _same(one, same)
    assert not _same(one, other)


def _by_hand(aligner, loss, table, recipe):
    """What `fit` does, written out: AdamW on mean gradients, scaled down to a length, at a rate that rises and falls."""
    parameters = [*aligner.heads.parameters(), *loss.parameters()]
    decayed = [p for p in parameters if p.ndim > 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": recipe.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0},
        ]
    )
    batches = len(table) // recipe.batch_size
    steps = recipe.epochs * math.ceil(batches / recipe.accumulate)
    rising, step, skipped = round(recipe.warmup * steps), 0, 0
    for epoch in range(1, recipe.epochs + 1):
        order = torch.randperm(len(table), generator=torch.Generator().manual_seed(1_000_003 * recipe.seed + epoch))
        for first in range(0, batches, recipe.accumulate):
            gradients = []
            for batch in range(first, min(first + recipe.accumulate, batches)):
                rows = order[batch * recipe.batch_size : (batch + 1) * recipe.batch_size]
                try:
                    total = loss(aligner(table[rows.tolist()])).total
                except TooSmallError:
                    skipped += 1
                    continue
                gradients.append(torch.autograd.grad(total, parameters))
            if not gradients:
                continue
            mean = [sum(parts) / len(gradients) for parts in zip(*gradients, strict=True)]
            length = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in mean))
            for parameter, gradient in zip(parameters, mean, strict=True):
                parameter.grad = gradient * min(1.0, recipe.max_gradient_norm / length)
            risen = (step + 1) / rising if step < rising else (1 + math.cos(math.pi * (step - rising) / (steps - rising))) / 2
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * risen
            optimizer.step()
            step += 1
    return skipped


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("norm", [2.0, 1e3])  # half of the gradients are longer, or none
@pytest.mark.parametrize("rare", [False, True])
def test_every_step_is_the_one_worked_out_by_hand(accumulate, norm, rare):
    """Schedule, warm-up, clipping, decay, and gradients averaged over the batches that held something to contrast."""
    table = world(missing=0.0)
    if rare:
        table = type(table)(table.columns, table.present | {"audio": torch.arange(160) % 8 == 0}, table.ids)
    recipe = Recipe(
        epochs=3, batch_size=16, accumulate=accumulate, learning_rate=0.02, warmup=0.4, max_gradient_norm=norm, weight_decay=0.3
    )
    expected, loss = Aligner.for_table(table, dim=8), Gram(score="cone", anchor="audio")
    skipped = _by_hand(expected, loss, table, recipe)
    assert (skipped > 0) == rare
    aligner = Aligner.for_table(table, dim=8)
    history = fit(aligner, Gram(score="cone", anchor="audio"), table, recipe=recipe, progress=False, cpu=True)
    assert sum(record["skipped"] for record in history.records) == skipped
    for name, value in aligner.state_dict().items():
        torch.testing.assert_close(value, expected.state_dict()[name], rtol=1e-4, atol=1e-5, msg=name)  # 30 steps of float32


def test_the_rate_rises_and_falls():
    factor = rate_factor(0.25, 8)
    assert [round(factor(step), 4) for step in range(9)] == [0.5, 1.0, 1.0, 0.933, 0.75, 0.5, 0.25, 0.067, 0.0]


def test_what_is_drawn_for_a_cell_depends_on_seed_row_and_column():
    class Draws(Reader):
        def read(self, cell, *, folder=None, generator=None):
            del cell, folder
            return torch.tensor(generator.random(4))

    table = Table.from_columns({"one": Cells(["x", "x"]), "two": Cells(["x", "x"])})
    collator = Collator({"one": Draws(), "two": Draws()})
    drawn = collator(table, seed=3).inputs
    values = [*drawn["one"], *drawn["two"], *collator(table, seed=4).inputs["one"]]
    assert len({tuple(value.tolist()) for value in values}) == 6
    assert torch.equal(collator(table[[1, 0]], seed=3).inputs["two"], drawn["two"].flip(0))


def test_the_dry_run_takes_a_few_items_without_a_graph(monkeypatch):
    sizes = []
    forward = Aligner.forward

    def watched(self, columns, **options):
        sizes.append((len(columns), torch.is_grad_enabled()))
        return forward(self, columns, **options)

    monkeypatch.setattr(Aligner, "forward", watched)
    _train(recipe=Recipe(epochs=1, batch_size=32))
    assert sizes[0] == (8, False)
    assert sizes[1] == (32, True)


def test_no_data_is_hashed_without_an_output(monkeypatch):
    monkeypatch.setattr(Table, "digest", lambda _: pytest.fail("hashed"))
    _train(recipe=Recipe(epochs=1, batch_size=32))


def test_a_checkpoint_is_tensors_and_json(tmp_path):
    _train(output=tmp_path)
    folder = tmp_path / "checkpoints" / "000006"
    assert sorted(path.name for path in folder.iterdir()) == ["run.json", "state.safetensors"]
    state = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert len(state["history"]["records"]) == 6


class Killed(BaseException):
    pass


@pytest.mark.parametrize("loss", [Pairwise, lambda: Gram(score="cone", anchor="each")])
@pytest.mark.parametrize("epoch", [3, 4])
def test_killed_and_resumed_equals_uninterrupted(tmp_path, monkeypatch, loss, epoch):
    """With dropout, momentum, schedule, learned temperature and the best weights so far, to the last bit."""
    whole, expected = _train(loss(), head="mlp", output=tmp_path / "whole")

    log = RunFolder.log

    def killed(self, history, speed):
        log(self, history, speed)
        if len(history.records) == epoch:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "log", killed)
        with pytest.raises(Killed):
            _train(loss(), head="mlp", output=tmp_path / "resumed")
    assert [path.name for path in (tmp_path / "resumed" / "checkpoints").iterdir()] == ["000002"]  # and not begun anew
    resumed, history = _train(loss(), head="mlp", output=tmp_path / "resumed", resume=True)
    assert _same(whole, resumed)
    for name in ("metrics.jsonl", "checkpoints/000006/state.safetensors", "checkpoints/000006/run.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "resumed" / name).read_bytes()
    speeds = [json.loads(line) for line in (tmp_path / "resumed" / "speed.jsonl").read_text().splitlines()]
    assert [speed["epoch"] for speed in speeds] == [1, 2, 3, 4, 5, 6]
    assert history.records == expected.records
    assert (history.best, history.best_epoch) == (expected.best, expected.best_epoch)


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    whole, expected = _train(output=tmp_path)
    again, history = _train(output=tmp_path, resume=True)
    assert _same(whole, again)
    assert history.records == expected.records


def test_best_validation_epoch_is_what_remains():
    aligner, history = _train(recipe=Recipe(epochs=6, batch_size=32, learning_rate=0.5, evaluate_every=1))
    validation = world(missing=0.2).part("validation")
    assert training._validate(aligner, Pairwise(), Loader(validation, aligner.collator()), 32, [])[
        "validation/mrr"
    ] == pytest.approx(history.best, abs=1e-12)
    assert history.best_epoch == max(history.records, key=lambda record: record["validation/mrr"])["epoch"]


def test_the_first_of_equal_epochs_remains(monkeypatch):
    monkeypatch.setattr(training, "_validate", lambda *_: {"validation/mrr": 0.5})
    assert _train(recipe=Recipe(epochs=3, batch_size=32, evaluate_every=1))[1].best_epoch == 1


def test_patience_stops_early_and_resume_does_not_go_on(tmp_path):
    recipe = Recipe(epochs=50, batch_size=32, learning_rate=0.5, evaluate_every=1, patience=2)
    _, history = _train(recipe=recipe, output=tmp_path)
    assert len(history.records) < 50
    assert history.looks_since_best == 2
    assert len(_train(recipe=recipe, output=tmp_path, resume=True)[1].records) == len(history.records)


def test_without_validation_the_last_epoch_remains():
    table = world()
    history = fit(Aligner.for_table(table, dim=8), Pairwise(), table, recipe=QUICK, progress=False, cpu=True)
    assert history.best is None
    assert history.best_epoch == 6


def test_small_tables_are_one_batch():
    table = world(items=24)
    history = fit(Aligner.for_table(table, dim=8), Gram(), table, recipe=Recipe(epochs=2), progress=False, cpu=True)
    assert [record["skipped"] for record in history.records] == [0, 0]


def test_mixed_precision_runs_and_does_not_mix_with_another_in_one_process():
    forked.alone(mixed_precision)  # accelerate keeps one precision a process


def mixed_precision():
    table = world(items=24)
    aligner = Aligner.for_table(table, dim=8)
    history = fit(aligner, Gram(), table, recipe=Recipe(epochs=2, precision="bf16"), progress=False, cpu=True)
    assert all(0 < record["loss"] < 9 for record in history.records)
    with pytest.raises(InputError, match="`precision` 'no' cannot be used: Ac"):
        fit(aligner, Gram(), table, recipe=Recipe(epochs=2), progress=False, cpu=True)


def test_batches_with_nothing_to_contrast_are_skipped_and_counted():
    table = world(items=160)
    rare = torch.zeros(160, dtype=torch.bool)
    rare[:24] = True
    table = type(table)(table.columns, table.present | {"audio": rare}, table.ids)
    recipe = Recipe(epochs=3, batch_size=8)
    history = fit(Aligner.for_table(table, dim=8), Gram(anchor="audio"), table, recipe=recipe, progress=False, cpu=True)
    assert all(0 < record["skipped"] < 20 for record in history.records)
    two = type(table)(table.columns, table.present | {"audio": torch.arange(160) == 0}, table.ids)
    with pytest.raises(InputError, match=r"no batch of epoch 1 held two items to contrast by Gram.*Raise `batch_size`"):
        fit(Aligner.for_table(two, dim=8), Gram(anchor="audio"), two, recipe=recipe, progress=False, cpu=True)


@pytest.mark.parametrize("variant", [{"fused": True}, {"foreach": True}, {"amsgrad": False}])
def test_every_form_of_the_optimiser_resumes(tmp_path, monkeypatch, variant):
    monkeypatch.setattr(torch.optim, "AdamW", partial(torch.optim.AdamW, **variant))
    whole, _ = _train(recipe=replace(QUICK, epochs=2))
    log = RunFolder.checkpoint

    def killed(self, history, best):
        log(self, history, best)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "checkpoint", killed)
        with pytest.raises(Killed):
            _train(recipe=replace(QUICK, epochs=2, checkpoint_every=1), output=tmp_path)
    assert _same(whole, _train(recipe=replace(QUICK, epochs=2), output=tmp_path, resume=True)[0])


def test_resuming_leaves_other_generators_alone(tmp_path):
    _train(output=tmp_path)
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    expected = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    _train(output=tmp_path, resume=True)
    assert expected == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002


def test_resuming_on_other_data_is_refused(tmp_path):
    _train(output=tmp_path)
    with pytest.raises(InputError, match=r"`resume` must go on with the settings and data of .*; changed are data"):
        _train(output=tmp_path, missing=0.3, resume=True)


@pytest.mark.parametrize(("loss", "warnings"), [(Gram(), 1), (PMRL(), 1), (Pairwise(), 0), (PMRL(signed=True), 0)])
def test_sign_blind_objectives_warn_once_and_say_what_to_pick(caplog, loss, warnings):
    training._warn_sign_blind.cache_clear()
    with caplog.at_level(logging.WARNING, logger="gramian"):
        for _ in range(2):
            _train(loss, recipe=Recipe(epochs=1, batch_size=32))
    messages = [record.getMessage() for record in caplog.records if record.name == "gramian"]
    assert len(messages) == warnings
    assert all(
        "does not distinguish a vector from its negative" in message and "PMRL(signed=True" in message for message in messages
    )


def test_damaged_and_foreign_checkpoints_are_refused(tmp_path):
    _train(output=tmp_path / "a")
    weights = next((tmp_path / "a" / "checkpoints" / "000006").glob("state.safetensors"))
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(InputError, match=r"000006' cannot be resumed.*Delete it"):
        _train(output=tmp_path / "a", resume=True)
    _train(output=tmp_path / "b")
    other = Recipe(**{**vars(QUICK), "learning_rate": 0.01})
    with pytest.raises(InputError, match=r"changed are learning_rate 0.02 → 0.01. Put them back"):
        _train(output=tmp_path / "b", recipe=other, resume=True)
    with pytest.raises(InputError, match=r"changed are loss Pairwise\(.*→ PMRL\("):
        _train(PMRL(signed=True), output=tmp_path / "b", resume=True)


def test_a_diverging_run_is_stopped():
    class Diverging(Pairwise):
        def compute(self, bundle, generator):
            result = super().compute(bundle, generator)
            return result._replace(total=result.total * torch.inf)

    with pytest.raises(InputError, match="the loss is not finite in epoch 1"):
        _train(Diverging())


def test_a_loss_that_does_not_fit_is_told_before_anything_is_written(tmp_path, caplog):
    with pytest.raises(InputError, match="`anchor` must be one of text, image, audio"):
        _train(Gram(anchor="video"), output=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert not caplog.messages
    with pytest.raises(InputError, match=r"`precision` 'fp16' needs an accelerator|cannot be used"):
        _train(recipe=Recipe(precision="fp16"))


def test_tables_that_do_not_fit_are_refused():
    table = world()
    aligner = Aligner.for_table(table, dim=8)
    with pytest.raises(InputError, match="`train` lacks the columns audio that the Aligner reads"):
        fit(aligner, Pairwise(), table.select("text", "image"), progress=False)
    alone = {name: torch.zeros(160, dtype=torch.bool) for name in ("image", "audio")} | {
        "text": torch.ones(160, dtype=torch.bool)
    }
    single = type(table)(table.columns, alone, table.ids)
    with pytest.raises(InputError, match="`validation` must hold at least two items that share two modalities; 0 of 160 do"):
        fit(aligner, Pairwise(), table, single, progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "`epochs` must be an integer of at least 1; got 0"),
        ({"epochs": 1.5}, "`epochs` must be an integer of at least 1; got 1.5"),
        ({"epochs": True}, "`epochs` must be an integer"),
        ({"accumulate": None}, "`accumulate` must be an integer of at least 1; got None"),
        ({"micro_batch": 0}, "`micro_batch` must be an integer of at least 1 or None"),
        ({"workers": -1}, r"`workers` must be an integer in \[0, 1024\]"),
        ({"batch_size": 1}, "`batch_size` must be an integer of at least 2, for one item has nothing to contrast with"),
        ({"precision": "fp32"}, "`precision` must be one of no, bf16, fp16; got 'fp32'"),
        ({"weight_decay": float("nan")}, r"`weight_decay` must lie in \[0, 100\]; got nan"),
        ({"max_gradient_norm": float("inf")}, "`max_gradient_norm` must be a finite number above 0; got inf"),
        ({"warmup": float("nan")}, r"`warmup` must lie in \[0, 1\)"),
        ({"seed": 1.0}, "`seed` must be an integer"),
        ({"ring": 1}, "`ring` must be True or False"),
        ({"learning_rate": 0.0}, r"`learning_rate` must lie in \(0, 10\]"),
        ({"learning_rate": float("nan")}, r"`learning_rate` must lie in \(0, 10\]"),
        ({"warmup": 1.0}, r"`warmup` must lie in \[0, 1\)"),
        ({"weight_decay": -1.0}, r"`weight_decay` must lie in \[0, 100\]; got -1.0"),
        ({"seed": -1}, r"`seed` must be an integer in \[0, 4294967296\); got -1"),
        ({"patience": 0}, "`patience` must be an integer of at least 1 or None"),
        ({"max_gradient_norm": 0.0}, "`max_gradient_norm` must be a finite number above 0"),
    ],
)
def test_bad_recipes_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Recipe(**options)


def test_temperatures_and_biases_are_not_decayed():
    aligner = Aligner.for_table(world(), dim=8)
    decayed, free = parameter_groups(Objective(aligner, Pairwise()), Recipe(weight_decay=0.1))
    assert {parameter.ndim for parameter in decayed["params"]} == {2}
    assert free["weight_decay"] == 0
    assert sorted(parameter.ndim for parameter in free["params"]) == [0, 1, 1, 1]
