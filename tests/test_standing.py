"""The standing benchmark, made small: splits, methods of others, merged results, what the page says."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gramian.benchmark import families, standing
from gramian.benchmark.results import Result, read_results, write_results
from gramian.bundle import Bundle
from gramian.errors import InputError
from gramian.evaluation.stats import resampled_interval
from synthetic import world

pytest.importorskip("accelerate")


class Oracle:
    """Embeds every item as the one that it is, by the features that all its modalities were made from."""

    def embed(self, table, /):
        rows = torch.tensor([int(name.removeprefix("item-")) for name in table.ids])
        vectors = torch.nn.functional.one_hot(rows, 400).float()
        return Bundle.from_dict(dict.fromkeys(table.modalities, vectors))


def oracle(train, validation, seed):
    assert train.split[0] == "train" and validation.split[0] == "validation" and seed in (0, 1)
    return Oracle()


@pytest.fixture(scope="module")
def table():
    return world(80)


@pytest.fixture
def run(table, tmp_path, monkeypatch):
    monkeypatch.setattr(families, "load", lambda *_, **__: table)
    monkeypatch.setattr(standing, "_theirs", lambda names: dict.fromkeys(names, oracle))
    options = {
        "seeds": 2,
        "epochs": 1,
        "methods": ["infonce-linear-heads", "oracle"],
        "sets": ["world"],
        "external": ["oracle"],
    }
    return lambda **more: standing.standing(replace(standing.standing.plan, output=tmp_path, **(options | more)))


def write(path, rows):
    return write_results(path, [Result(**row) for row in rows])


def test_methods_are_compared_over_splits_and_others_merged(run, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- standing -->\n<!-- /standing -->\n")
    results, report, _ = run(page=page)
    rows = [result._asdict() for result in read_results(results)]
    assert {(row["method"], row["split"]) for row in rows} == {
        (m, s) for m in ("InfoNCE, linear heads", "oracle") for s in (0, 1)
    }
    assert rows[0]["digest"] != rows[2]["digest"]  # another split holds other items
    assert all(row["recall"] == 1 for row in rows if row["method"] == "oracle")
    assert all(row["setting"].startswith("τ ") for row in rows if row["method"] != "oracle")
    assert report.read_text().index("| oracle |") < report.read_text().index("| InfoNCE, linear heads |")
    assert "| oracle |" in page.read_text()

    assert all(row["dropped"][0] == 1 > row["dropped"][2] for row in rows if row["method"] == "oracle")
    theirs = tmp_path / "theirs.parquet"
    write(theirs, [row | {"method": "theirs", "recall": 0.5} for row in rows if row["method"] == "oracle"])
    merged = run(merge=[theirs], resume=True)[1].read_text()
    assert "| theirs | 50.0 |" in merged
    write(theirs, [row | {"data": "elsewhere", "digest": "other"} for row in rows])
    merged = run(merge=[theirs], resume=True)[1].read_text()
    assert "### elsewhere" in merged and "| oracle | 1.0 | 1 | 1 |" in merged
    write(theirs, [row | {"method": "theirs"} for row in rows if row["method"] == "oracle" and row["split"] == 1])
    with pytest.raises(InputError, match=r"'theirs' on splits 1 of world; the other methods are on 0, 1"):
        run(merge=[theirs], resume=True)
    write(theirs, [row | {"digest": "other"} for row in rows])
    with pytest.raises(InputError, match="of other items than here"):
        run(merge=[theirs], resume=True)
    write(theirs, rows)
    with pytest.raises(InputError, match="was run here as well"):
        run(merge=[theirs], resume=True)
    for bad in (pa.table({"recall": ["high"]}), pa.table({**{name: [None] for name in Result._fields}})):
        pq.write_table(bad, theirs)
        with pytest.raises(InputError, match=r"is not a results\.parquet"):
            run(merge=[theirs])
    theirs.write_text("text")
    with pytest.raises(InputError, match=r"is not a results\.parquet"):
        run(merge=[theirs])


def test_places_are_of_methods_that_all_sets_have():
    def result(data, method, recall, split):
        return Result(data, "", split, method, "", recall, (), None, None, 0.25)

    results = [
        result(data, method, recall + 0.01 * split * (method == "a"), split)
        for split in (0, 1, 2)
        for data, method, recall in (("x", "a", 0.9), ("x", "b", 0.5), ("y", "b", 0.4), ("y", "a", 0.3), ("y", "c", 0.1))
    ]
    places, x, y = standing._sheets(results)
    assert {row[0] for row in places.rows} == {"a", "b"} and all(row[1] == "1.5" for row in places.rows)
    assert [row[0] for row in x.rows] == ["a", "b"] and [row[0] for row in y.rows] == ["b", "a", "c"]
    assert [row[2] for row in x.rows] == ["a", "b"]


def test_the_interval_over_splits_is_the_published_formula():
    differences = np.array([0.01, 0.03, 0.02, 0.05, -0.01])
    interval, p = resampled_interval(differences, 0.3)
    variance = (1 / 5 + 0.3) * sum((d - 0.02) ** 2 for d in differences) / 4
    assert interval.value == pytest.approx(0.02)
    assert interval.high - interval.value == pytest.approx(2.7764451 * variance**0.5)  # t of 4 degrees, 97.5 %
    assert 0.2 < p < 0.4
    assert resampled_interval(np.full(3, 0.125), 0.3) == ((0.125, 0.125, 0.125), 0.0)
    assert resampled_interval(np.zeros(3), 0.3)[1] == 1
    with pytest.raises(InputError, match="two or more splits"):
        resampled_interval(np.array([0.1]), 0.3)


def test_the_tables_show_the_difference_to_each_tuned_baseline():
    recalls = {"InfoNCE, linear heads": (0.1, 0.2, 0.3), "InfoNCE, MLP heads": (0.2, 0.2, 0.2), "ours": (0.3, 0.5, 0.4)}
    results = [
        Result("x", "", split, method, "", recall, (), None, None, 0.25)
        for method, several in recalls.items()
        for split, recall in enumerate(several)
    ]
    (sheet,) = standing._sheets(results)
    rows = {row[0]: row for row in sheet.rows}
    assert sheet.header[2:4] == ("to InfoNCE, linear heads", "to InfoNCE, MLP heads")
    for place, baseline in ((2, "InfoNCE, linear heads"), (3, "InfoNCE, MLP heads")):
        interval, _ = resampled_interval(np.subtract(recalls["ours"], recalls[baseline]), 0.25)
        assert rows["ours"][place] == standing.signed_percent(interval)
        assert rows[baseline][place] == "–"
