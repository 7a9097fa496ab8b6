"""Files and folders are whole or not there, whoever else writes."""

import os
import stat
import threading

import pytest

from gramian.files import atomic, atomic_folder, write_text


def test_two_writers_of_one_path_do_not_collide(tmp_path):
    path = tmp_path / "x.json"
    texts = ["a" * 50_000, "b" * 60_000]
    errors = []

    def write(text):
        try:
            for _ in range(200):
                write_text(path, text)
                assert path.read_text() in texts
        except Exception as error:  # a thread's own errors are lost
            errors.append(error)

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert path.read_text() in texts
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("writer", [atomic, atomic_folder])
def test_an_error_leaves_what_was_there(tmp_path, writer):
    path = tmp_path / "new" / "thing"
    with pytest.raises(RuntimeError, match="stop"), writer(path) as partial:  # noqa: PT012
        (partial / "a" if partial.is_dir() else partial).write_text("half")
        raise RuntimeError("stop")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_modes_are_those_of_plain_writes(tmp_path, umask):
    before = os.umask(umask)
    try:
        (tmp_path / "plain").write_text("x")
        (tmp_path / "folder").mkdir()
        write_text(tmp_path / "atomic", "x")
        with atomic_folder(tmp_path / "folders") as partial:
            (partial / "x").write_text("x")
    finally:
        os.umask(before)
    mode = lambda name: stat.S_IMODE((tmp_path / name).stat().st_mode)  # noqa: E731
    assert mode("atomic") == mode("plain")
    assert mode("folders") == mode("folder")


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "model"
    for name in ("first", "second"):
        with atomic_folder(path) as partial:
            (partial / "deep").mkdir()
            (partial / "deep" / name).write_text(name)
    assert [file.name for file in (path / "deep").iterdir()] == ["second"]
    assert list(tmp_path.iterdir()) == [path]


def test_long_names_can_be_written(tmp_path):
    path = tmp_path / ("ü" * 120 + ".json")
    assert write_text(path, "x") == path
    assert path.read_text() == "x"
