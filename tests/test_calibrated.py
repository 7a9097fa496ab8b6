"""Tables that resemble a real one."""

from dataclasses import replace

import pytest
import torch

from gramian.benchmark import calibrated, families, scale
from gramian.benchmark.calibrated import HELD_OUT, calibrate
from gramian.canonical import Moments
from gramian.data import Table
from gramian.errors import InputError
from synthetic import world


@pytest.fixture(scope="module")
def table():
    return world(600, noise=0.5)


def test_a_drawn_table_has_the_means_covariances_and_correlations_of_the_real_one(table):
    family = calibrate(table, 4, tail=None)
    drawn = Moments.of(family.draw(20_000).part("train"))
    real = Moments.of(table)
    for name in table.modalities:
        scale_of = real.covariance(name, name).norm()
        assert (drawn.mean(name) - real.mean(name)).norm() < 0.05 * real.covariance(name, name).trace().sqrt()
        assert (drawn.covariance(name, name) - real.covariance(name, name)).norm() < 0.05 * scale_of
    # Four of the six latent variates are shared; those directions agree as far as on the real items.
    cross, real_cross = drawn.covariance("text", "image"), real.covariance("text", "image")
    assert torch.tensordot(cross, real_cross) > 0.5 * real_cross.square().sum()
    for name, loading in family.loadings.items():
        frame = family.frames[name]
        torch.testing.assert_close(frame.mT @ frame, torch.eye(4, dtype=frame.dtype), atol=1e-8, rtol=0)
        assert bool(((loading >= 0) & (loading < 1)).all())


def test_loadings_are_the_factor_of_the_correlations_of_held_out_items():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(8000, 1, generator=generator)
    loadings = {"a": 0.9, "b": 0.7, "c": 0.5}
    columns = {
        name: load * z + (1 - load**2) ** 0.5 * torch.randn(8000, 1, generator=generator) for name, load in loadings.items()
    }
    table = Table.from_columns(columns, split=["train", "test"] * 4000)
    family = calibrate(table, 1)
    for name, load in loadings.items():
        assert float(family.loadings[name]) == pytest.approx(load, abs=0.04)


def test_a_longer_draw_begins_with_a_shorter_one_and_keeps_its_test_items(table):
    family = calibrate(table, 4, bend=0.5)
    short, long = family.draw(50), family.draw(8200)
    for name in table.modalities:
        torch.testing.assert_close(long.features(name)[: len(short)], short.features(name), rtol=1e-4, atol=1e-4)
    assert len(short.part("test")) == len(short.part("validation")) == HELD_OUT
    assert not torch.equal(family.draw(50, seed=1).features("text"), short.features("text"))


def test_noise_has_heavy_tails_and_the_same_variance(table):
    normal, heavy = (calibrate(table, 1, tail=tail).draw(20_000).features("image") for tail in (None, 4.0))
    assert float(heavy.var() / normal.var()) == pytest.approx(1, abs=0.1)

    def kurtosis(x):
        return float(((x - x.mean(0)) ** 4).mean() / x.var() ** 2)

    assert kurtosis(heavy) > 1.5 * kurtosis(normal)


def test_a_bend_hides_variates_from_linear_maps(table):
    straight, bent = (calibrate(table, 4, tail=None, bend=bend).draw(5000).part("train") for bend in (0.0, 1.0))

    def shared(drawn):
        return float(Moments.of(drawn).covariance("text", "image").norm())

    assert 0.3 < shared(bent) / shared(straight) < 0.7


@pytest.mark.parametrize(
    ("options", "message"),
    [({"components": 0}, "`components`"), ({"tail": 2}, "`tail`"), ({"bend": -1}, "`bend`"), ({"components": 99}, "`dim`")],
)
def test_what_cannot_be_calibrated_is_named(table, options, message):
    with pytest.raises(InputError, match=message):
        calibrate(table, **options)


def test_a_table_without_splits_cannot_be_calibrated_on():
    table = world(40)
    with pytest.raises(InputError, match="at least 8 complete items"):
        calibrate(Table.from_columns({name: table.features(name) for name in table.modalities}))


def test_the_study_covers_both_worlds(table, tmp_path, monkeypatch):
    monkeypatch.setattr(families, "load", lambda *_, **__: table)
    monkeypatch.setattr(scale, "COMPONENTS", 4)
    monkeypatch.setattr(calibrated, "HELD_OUT", 60)
    options = {"sizes": (64,), "epochs": 1, "methods": ["maxvar-linear-heads", "infonce-linear-heads"], "sets": ["world"]}
    report, picture = scale.scale(replace(scale.scale.plan, output=tmp_path, **options))
    assert picture.name == "scale.png" and picture.stat().st_size > 10_000
    text = report.read_text()
    assert "like world, straight" in text and "like world, bent" in text and text.count("| MAXVAR, linear heads |") == 2
