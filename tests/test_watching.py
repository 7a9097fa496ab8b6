"""What training tells: the figures of every epoch, its speed, and trouble in one line with the epoch and what to try."""

import json
import logging

import pytest
import torch

from gramian import Bundle
from gramian.errors import InputError
from gramian.losses import Pairwise
from gramian.model import Aligner
from gramian.training import Recipe, fit
from gramian.training.watching import Clock, Watch, check_finite, validation_figures, validation_loss
from synthetic import world


def _fit(loss, recipe, **options):
    table = world(missing=0.2)
    aligner = Aligner.for_table(table.part("train"), dim=8)
    return fit(aligner, loss, table.part("train"), table.part("validation"), recipe=recipe, cpu=True, **options)


def test_every_epoch_leaves_curves_and_a_line_where_output_is_piped(tmp_path, caplog):
    caplog.set_level(logging.INFO, "gramian")
    recipe = Recipe(epochs=3, batch_size=32, evaluate_every=2)
    history = _fit(Pairwise(), recipe, output=tmp_path, progress=True)
    second = history.records[1]
    pairs = ("text-image", "text-audio", "image-audio")
    assert {"validation/loss", *(f"validation/{what}/{pair}" for pair in pairs for what in ("gap", "antipodal"))} <= set(second)
    assert {f"validation/recall@1/{way}" for way in (*pairs, "audio-text")} <= set(second)
    assert not any(name.startswith("validation") for name in history.records[0])
    speeds = [json.loads(line) for line in (tmp_path / "speed.jsonl").read_text().splitlines()]
    assert [speed["epoch"] for speed in speeds] == [1, 2, 3] and speeds[-1]["seconds_left"] == 0
    assert all(speed["items_per_second"] > 0 for speed in speeds)
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("epoch")]
    assert [line.partition(":")[0] for line in lines] == ["epoch 1 of 3", "epoch 2 of 3", "epoch 3 of 3"]
    assert "validation MRR" in lines[1] and "items/s" in lines[1] and lines[2].endswith("0 s left")
    caplog.clear()
    _fit(Pairwise(), recipe, progress=False)
    assert not caplog.records


def test_figures_are_those_of_the_items():
    vectors = torch.nn.functional.normalize(torch.randn(3, 30, 8, generator=torch.Generator().manual_seed(0)), dim=2)
    bundle = Bundle.from_dict(
        dict(zip(("text", "image", "audio"), vectors, strict=True)), present={"audio": [True] * 20 + [False] * 10}
    )
    figures = validation_figures(bundle)
    text, image, audio = vectors.double()
    assert figures["validation/recall@1/text-image"] == pytest.approx(
        (torch.arange(30) == (text @ image.T).argmax(1)).double().mean()
    )
    assert figures["validation/gap/text-audio"] == pytest.approx(float((text.mean(0) - audio[:20].mean(0)).norm()), abs=1e-6)
    assert figures["validation/antipodal/image-audio"] == pytest.approx(
        float(((image[:20] * audio[:20]).sum(1) < 0).double().mean())
    )
    cosines = text @ text.T
    assert figures["validation/cosine/text"] == pytest.approx(float((cosines.sum() - 30) / (30 * 29)), abs=1e-6)
    loss = Pairwise(temperature=0.2)
    expected = sum(float(loss(bundle[start : start + 10]).total.detach()) for start in (0, 10, 20)) / 3
    assert validation_loss(loss, bundle, 10)["validation/loss"] == pytest.approx(expected, rel=1e-6)
    assert loss.training
    alone = Bundle.from_dict({"text": torch.eye(3), "image": [[1.0, 0, 0], None, None]})
    assert validation_figures(alone) == validation_loss(loss, alone, 8) == {}


def test_a_collapse_is_told_once_with_the_epoch_and_what_to_try(caplog):
    watch = Watch(50, sign_blind=True)
    for epoch in (4, 6):
        watch.look({"epoch": epoch, "validation/cosine/text": 0.2, "validation/cosine/image": 0.997})
        watch.look({"epoch": epoch + 1, "validation/antipodal/text-image": 0.9, "validation/antipodal/text-audio": 0.4})
    assert len(caplog.messages) == 2
    assert caplog.messages[0].startswith("epoch 4: image has collapsed to one point") and "Lower `learning_rate`" in caplog.text
    assert caplog.messages[1].startswith("epoch 5: 90 % of the matched pairs text-image") and "PMRL(signed=True)" in caplog.text
    caplog.clear()
    Watch(50, sign_blind=False).look({"epoch": 1, "validation/antipodal/text-image": 0.6, "validation/cosine/text": 0.9})
    Watch(5, sign_blind=False).look({"epoch": 1, "validation/cosine/text": 1.0})
    assert not caplog.messages


def test_a_run_that_collapses_says_so(caplog):
    """Heads that are driven by a huge rate with nothing but alignment to gain end in one point."""

    class Together(Pairwise):
        def compute(self, bundle, generator):
            result = super().compute(bundle, generator)
            return result._replace(total=-bundle.vectors.mean((0, 1)).square().sum() * 10)

    _fit(Together(), Recipe(epochs=8, batch_size=40, learning_rate=0.1, evaluate_every=1), progress=False)
    assert any("has collapsed to one point" in message for message in caplog.messages)


def test_a_loss_that_is_not_finite_says_where_and_what_to_try():
    losses = [torch.tensor(1.0), torch.tensor(float("nan")), torch.tensor(2.0)]
    recipe = Recipe(learning_rate=0.5, precision="fp16")
    with pytest.raises(
        InputError, match=r"not finite in epoch 7, from batch 2 of 3 on \(nan\). Try one of: lower `learning_rate` \(now 0.5\)"
    ):
        check_finite(losses, 7, recipe)
    with pytest.raises(InputError, match=r"train with `precision` 'no' \(now 'fp16'\)"):
        check_finite(losses, 7, recipe)
    check_finite(losses[::2], 7, recipe)


def test_the_time_left_is_that_of_the_epochs_left(monkeypatch):
    now = iter([0.0, 4.0, 5.0, 9.0, 10.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    clock = Clock(epochs=10, done=2)
    clock.rest()
    assert clock.tick(3, items=100) == {"epoch": 3, "seconds": 5.0, "items_per_second": 25.0, "seconds_left": 35.0}
    clock.rest()
    assert clock.tick(4, items=100)["seconds_left"] == 30.0
