"""Bulk embedding as a stage of Ray Data: in process, and by the example on a local cluster of two workers."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import tiny
from gramian.canonical import Moments
from gramian.data import Table
from gramian.errors import InputError
from gramian.integrations.ray import Embed, SumMoments, add_moments
from gramian.model import Aligner, HuggingFace

pytest.importorskip("transformers")

EXAMPLE = Path(__file__).parents[1] / "examples" / "ray" / "run.py"


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    tower = HuggingFace(tiny.build("bert", tmp_path), "text")
    Aligner({"text": tower, "image": 3}, dim=8).save_pretrained(tmp_path / "aligner", towers="value")
    return str(tmp_path / "aligner")


def test_the_stage_gives_what_the_aligner_gives(saved):
    texts = [b"a red cat", None, b"two dog", b"\xff"]
    images = [[0.1, 0.2, 0.3], None, [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    batch = pa.table({"id": list(range(4)), "text": texts, "image": images})
    found = Embed(saved)(batch).to_pydict()
    assert found["id"] == [0, 1, 2, 3]
    assert list(Embed(saved, keep=["id"])(batch).column_names) == ["id", "text_vector", "image_vector", "unreadable"]
    bundle = Aligner.from_pretrained(saved).embed(Table.from_columns({"text": texts[:1], "image": images[:1]}))
    np.testing.assert_allclose(found["text_vector"][0], bundle.column("text")[0].numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["image_vector"][0], bundle.column("image")[0].numpy(), rtol=1e-5, atol=1e-6)
    assert [row is None for row in found["text_vector"]] == [False, True, False, True]
    assert [row is None for row in found["image_vector"]] == [False, True, False, False]
    assert list(found["unreadable"])[:3] == ["", "", ""]
    assert found["unreadable"][3].startswith("text: not UTF-8")
    with pytest.raises(InputError, match=r"the batch must have at least one of the columns text, image; it has other"):
        Embed(saved)(pa.table({"other": [1, 2]}))


def test_moments_of_batches_add_up_to_those_of_the_table():
    generator = torch.Generator().manual_seed(0)
    columns = {"text": torch.randn(30, 3, generator=generator), "image": torch.randn(30, 2, generator=generator)}
    present = {name: torch.rand(30, generator=generator) > 0.3 for name in columns}
    present["text"][:10] = False  # a batch without
    cells = {
        name: [row if has else None for row, has in zip(value.tolist(), present[name], strict=True)]
        for name, value in columns.items()
    }
    stage = SumMoments({"text": 3, "image": 2})
    rows = [row for start in (20, 0, 10) for row in stage(pa.table(cells).slice(start, 10)).to_pylist()]
    total, whole = add_moments(rows), Moments.of(columns, present=present)
    assert total.rows == 30 and len(rows) == 3
    for first, second in (("text", "text"), ("text", "image"), ("image", "image")):
        assert total.count(first, second) == whole.count(first, second)
        torch.testing.assert_close(total.covariance(first, second), whole.covariance(first, second), rtol=1e-10, atol=1e-12)
    with pytest.raises(InputError, match="`widths` must be one of text, image; got 'sound'"):
        SumMoments({"sound": 3})(pa.table(cells))
    with pytest.raises(InputError, match="`rows` must hold the moments of at least one batch"):
        add_moments([])


def test_one_of_model_and_towers(saved):
    with pytest.raises(InputError, match="one of `model` and `towers` must be given"):
        Embed()
    with pytest.raises(InputError, match="`columns` must be one of text, image; got 'sound'"):
        Embed(saved, columns=["sound"])


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray")
def test_the_example_on_two_workers(saved, tmp_path):
    rows = [{"id": f"n{i}", "text": None if i % 5 == 4 else f"a red cat {'and ' * i}"} for i in range(30)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    words = ["--data", str(tmp_path / "rows.parquet"), "--model", saved, "--output", str(tmp_path / "out"), "--batch-size", "8"]
    done = subprocess.run([sys.executable, str(EXAMPLE), *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = {row["id"]: row for row in pq.read_table(tmp_path / "out").to_pylist()}
    assert sorted(found) == sorted(row["id"] for row in rows)
    expected = Aligner.from_pretrained(saved).embed(Table.from_columns({"text": ["a red cat " + "and " * 7]}))
    np.testing.assert_allclose(found["n7"]["text_vector"], expected.column("text")[0].numpy(), rtol=1e-4, atol=1e-5)
    assert [row["id"] for row in rows if found[row["id"]]["text_vector"] is None] == [
        "n4",
        "n9",
        "n14",
        "n19",
        "n24",
        "n29",
    ]
