"""The embedded data set "stamps": the shipped table, and its raw side as a table."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from gramian.data import EMBEDDED, Table, load
from gramian.data.sets import stamps as collection
from gramian.data.sets.stamps import FOLDER, assign_splits, discover, normalise_caption, raw, read_caption, source_sha256
from gramian.errors import InputError

ITEMS = 950
USED = ("train", "validation", "test")


# ------------------------------------------------------------------------------------------------------- the shipped table


@pytest.fixture(scope="module")
def stamps() -> Table:
    return load("stamps")


@pytest.fixture(scope="module")
def provenance():
    origin = collection.provenance()
    assert origin["source"]["package"] == "tuxpaint-stamps-default"
    return origin


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
    for name, origin in provenance["columns"].items():
        assert (origin["width"], origin["present"]) == (stamps.widths[name], stamps.counts()[name])
        assert not set(origin["unreadable"]) & {i for i, there in zip(stamps.ids, stamps.present[name], strict=True) if there}
    assert {"torch", "ctranslate2", "transformers"} <= set(provenance["libraries"])


def test_notice_names_every_encoder_and_source(notice, provenance):
    words = " ".join(notice.split())
    for origin in provenance["columns"].values():
        assert origin["sha256"] in words
        assert origin["licence"] in words
        for package, version in origin["packages"].items():
            assert f"{package} {version}" in words
    for fact in (provenance["source"]["package"], provenance["source"]["version"], "GPL-2", provenance["command"]):
        assert fact in words


def test_shipped_table_follows_from_the_source(stamps, provenance):
    if not FOLDER.is_dir():
        pytest.skip(f"needs the Debian package {provenance['source']['package']}")
    table = raw(ids=set(stamps.ids))  # tuxpaint-data puts six more there
    assert (table.ids, table.split) == (stamps.ids, stamps.split)
    unreadable = {name: set(origin["unreadable"]) for name, origin in provenance["columns"].items()}
    assert table.counts() == {name: count + len(unreadable[name]) for name, count in stamps.counts().items()}
    assert (
        source_sha256({name: files for name, files in discover(FOLDER).items() if name in stamps.ids})
        == (provenance["source"]["sha256"])
    )


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


def test_caption_that_is_empty_or_cannot_be_read(tmp_path):
    path = tmp_path / "x.txt"
    for content in (b"", b"\nfr.utf8=Un chat.\n"):
        path.write_bytes(content)
        assert read_caption(path) is None
    path.write_bytes(b"\xff\xfe\xfa\n")
    with pytest.raises(InputError, match=r"captions must be UTF-8; '.*x.txt' is not"):
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
    stamps = discover(tmp_path)
    assert {name: set(files) for name, files in stamps.items()} == {
        "a/car": {"image", "text"},
        "a/car2": {"image", "speech_fr", "sound"},
    }
    assert stamps["a/car2"]["sound"] == tmp_path / "a/car2.ogg"


def test_png_comes_before_svg_and_ogg_before_wav(tmp_path):
    touch(tmp_path, "x.svg", "x.png", "x.wav", "x.ogg", "x_desc_fr.wav")
    (files,) = discover(tmp_path).values()
    assert {name: path.name for name, path in files.items()} == {
        "image": "x.png",
        "sound": "x.ogg",
        "speech_fr": "x_desc_fr.wav",
    }


def test_mirrored_artwork_is_no_stamp_of_its_own(tmp_path):
    touch(tmp_path, "x.png", "x_mirror.png", "x_flip.svg", "x_mirror_flip.png", "hall_of_mirror.png")
    assert list(discover(tmp_path)) == ["hall_of_mirror", "x"]


def test_recordings_and_captions_without_an_image_are_left_out(tmp_path):
    touch(tmp_path, "b/x.png", "b/y.txt", "b/y_desc_fr.ogg", "b/z.dat", "a.svg")
    assert list(discover(tmp_path)) == ["a", "b/x"]


def test_folder_without_stamps_says_what_to_install(tmp_path):
    with pytest.raises(InputError, match=r"does not exist\. .*tuxpaint-stamps-default"):
        discover(tmp_path / "nothing")
    with pytest.raises(InputError, match="must hold PNG or SVG"):
        discover(tmp_path)


def test_the_source_is_known_by_its_files(tmp_path):
    """By hand: sha256 of "x\timage\t" + sha256("x") and so on, a line per file."""
    touch(tmp_path, "x.png", "x.txt")
    digest = hashlib.sha256(b"x").hexdigest()
    lines = f"x\timage\t{digest}\nx\ttext\t{digest}\n"
    assert source_sha256(discover(tmp_path)) == hashlib.sha256(lines.encode()).hexdigest()
    (tmp_path / "x.png").write_bytes(b"y")
    assert source_sha256(discover(tmp_path)) != hashlib.sha256(lines.encode()).hexdigest()


def test_the_collection_is_a_table_of_captions_and_paths(tmp_path):
    touch(tmp_path, "a.png", "a.txt", "a_desc_fr.ogg", "b.png", "b.txt", "b_desc_fr.ogg", "b.wav", "c.svg", "d.png", "d.txt")
    for name, caption in {"a": "A cat.", "b": "A dog.", "d": "a CAT"}.items():
        (tmp_path / f"{name}.txt").write_text(f"{caption}\nfr.utf8=…\n", encoding="utf-8")
    table = raw(tmp_path, test=1)
    assert table.ids == ("a", "b", "c", "d")
    assert table.split == ("shared", "test", "shared", "shared")
    assert list(table.columns["text"]) == ["A cat.", "A dog.", None, "a CAT"]
    assert list(table.columns["sound"]) == [None, str(tmp_path / "b.wav"), None, None]
    assert table.counts() == {"image": 4, "text": 3, "speech_fr": 2, "speech_es": 0, "sound": 1}
    # Of some ids alone, before the captions are compared.
    assert raw(tmp_path, ids={"a", "b"}, test=2).split == ("test", "test")
    with pytest.raises(InputError, match=r"`test` must be at most .* 1; got 2"):
        raw(tmp_path, test=2)
