"""Canonical alignment: moments in one pass, and what is solved from them."""

import pytest
import torch

from gramian.canonical import Moments
from gramian.canonical.moments import ROWS
from gramian.data import Table
from gramian.errors import InputError
from reference import canonical as reference

WIDTHS = {"text": 3, "image": 5, "audio": 2}


def columns(rows=40, *, missing=0.3, mean=0.0, seed=0):
    """Three columns of one latent, some cells missing; what masked cells hold must not matter."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(rows, 2, dtype=torch.float64, generator=generator)
    values, present = {}, {}
    for name, width in WIDTHS.items():
        noise = torch.randn(rows, width, dtype=torch.float64, generator=generator)
        values[name] = mean + z @ torch.randn(2, width, dtype=torch.float64, generator=generator) + 0.5 * noise
        present[name] = torch.rand(rows, generator=generator) >= missing
        values[name][~present[name]] = torch.nan
    return values, present


def part(data, rows):
    return tuple({name: value[rows] for name, value in one.items()} for one in data)


def moments_of(data, weights=None):
    return Moments.of(data[0], present=data[1], weights=weights)


def same(got, wanted, tolerance=1e-10):
    for name in WIDTHS:
        torch.testing.assert_close(got.mean(name), wanted.mean(name), rtol=tolerance, atol=tolerance)
        for other in WIDTHS:
            assert got.count(name, other) == pytest.approx(wanted.count(name, other))
            torch.testing.assert_close(
                got.covariance(name, other), wanted.covariance(name, other), rtol=tolerance, atol=tolerance
            )


@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_moments_are_the_plain_formula_however_the_rows_are_split(mean):
    data = columns(mean=mean)
    split = [part(data, slice(0, 7)), part(data, slice(7, 8)), part(data, slice(8, 40))]
    at_once, added = moments_of(data), Moments(WIDTHS)
    for values, present in reversed(split):
        added.add(values, present=present)
    merged = moments_of(split[2]) + moments_of(split[0]) + moments_of(split[1])
    for got in (at_once, added, merged):
        assert got.rows == 40
        for name in WIDTHS:
            torch.testing.assert_close(got.mean(name), reference.mean(data, name), rtol=1e-10, atol=0)
            for other in WIDTHS:
                wanted = reference.covariance(data, name, other)
                torch.testing.assert_close(got.covariance(name, other), wanted, rtol=0, atol=1e-10 * float(wanted.abs().max()))


def test_moments_of_more_rows_than_are_taken_at_a_time():
    values = {"text": torch.randn(2 * ROWS + 3, 2, dtype=torch.float64) + 5, "image": torch.randn(2 * ROWS + 3, 3)}
    moments = Moments.of(values)
    centred = {name: value.double() - value.double().mean(0) for name, value in values.items()}
    wanted = centred["text"].T @ centred["image"] / len(values["text"])
    torch.testing.assert_close(moments.covariance("text", "image"), wanted, rtol=1e-10, atol=1e-13)


def test_duplicate_rows_are_weights():
    data = columns(12)
    times = torch.tensor([1, 2, 0, 3] * 3)
    repeated = moments_of(part(data, torch.arange(12).repeat_interleave(times)))
    same(moments_of(data, times.double()), repeated)


def test_a_column_that_comes_late_is_shifted_by_its_own_first_rows():
    data = columns(30, mean=1e4)
    first = ({"text": data[0]["text"][:10]}, {"text": data[1]["text"][:10]})
    added = Moments(WIDTHS)
    added.add(first[0], present=first[1])
    rest = part(data, slice(10, 30))
    merged = added + moments_of(rest)
    added.add(rest[0], present=rest[1])
    masked = {name: mask & ((torch.arange(30) >= 10) | (name == "text")) for name, mask in data[1].items()}
    for got in (merged, added):
        same(got, moments_of((data[0], masked)), 1e-9)
    assert float(added.shift.min()) > 9_000


def test_a_table_gives_the_moments_of_its_features():
    values, present = columns()
    table = Table.from_columns({name: value.nan_to_num() for name, value in values.items()}, present=present)
    same(Moments.of(table), moments_of((values, present)))


def test_moments_saved_are_those_loaded(tmp_path):
    moments = moments_of(columns())
    moments.save(tmp_path / "moments.safetensors")
    loaded = Moments.load(tmp_path / "moments.safetensors")
    assert (loaded.widths, loaded.rows, repr(loaded)) == (moments.widths, moments.rows, repr(moments))
    assert torch.equal(loaded.products, moments.products) and torch.equal(loaded.shift, moments.shift)
    (tmp_path / "text").write_text("no moments")
    for path, match in (("text", "`path` must be a file that `Moments.save` wrote"), ("none", "does not exist")):
        with pytest.raises(InputError, match=match):
            Moments.load(tmp_path / path)


@pytest.mark.parametrize(
    ("values", "options", "match"),
    [
        ({"words": torch.ones(2, 3)}, {}, "`columns` must be one of text, image, audio; got 'words'"),
        ({"text": torch.ones(2, 4)}, {}, r"`columns\['text'\]` must have shape \(2, 3\)"),
        ({"text": torch.ones(2, 3), "image": torch.ones(3, 5)}, {}, r"`columns\['image'\]` must have shape \(2, 5\)"),
        ({"text": [[1.0]]}, {}, "`columns` must be a Table, or map names to tensors"),
        ({"text": torch.tensor([[0.0, 1.0, torch.inf]])}, {}, "column `text` holds NaN or infinite values in 1 of 1 rows"),
        ({"text": torch.ones(2, 3)}, {"weights": torch.tensor([1.0, -1.0])}, "`weights` must be 2 finite numbers"),
        ({"text": torch.ones(2, 3)}, {"present": {"text": torch.ones(3).bool()}}, r"`present\['text'\]` must be bool"),
    ],
)
def test_rows_that_do_not_fit_the_moments(values, options, match):
    with pytest.raises(InputError, match=match):
        Moments(WIDTHS).add(values, **options)


def test_moments_of_other_columns_do_not_add():
    with pytest.raises(InputError, match="the same columns"):
        Moments(WIDTHS) + Moments({"text": 3})
    with pytest.raises(InputError, match="`widths` must name at least one column"):
        Moments({})
