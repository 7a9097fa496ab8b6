"""Files and folders are whole or not there, whoever else writes; an output folder has one owner."""

import ast
import errno
import os
import shutil
import signal
import socket
import stat
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

import gramian
from gramian import files
from gramian.cli import main
from gramian.cli.terminal import stoppable
from gramian.errors import InputError
from gramian.files import LOCK, atomic, atomic_folder, claimed, write_text
from synthetic import world

pytestmark = pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")  # the forks end at once


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


@pytest.mark.parametrize("writer", [atomic, atomic_folder])
def test_what_is_renamed_is_on_the_disk(tmp_path, monkeypatch, writer):
    happened, opened = [], {}
    sync, rename, opening = os.fsync, os.replace, os.open

    def remembered(path, *options, **more):
        handle = opening(path, *options, **more)
        opened[handle] = str(path)
        return handle

    monkeypatch.setattr(os, "open", remembered)
    monkeypatch.setattr(os, "fsync", lambda handle: (happened.append(opened[handle]), sync(handle)))
    monkeypatch.setattr(os, "rename", lambda *paths: (happened.append("rename"), rename(*paths)))
    monkeypatch.setattr(os, "replace", lambda *paths: (happened.append("rename"), rename(*paths)))
    with writer(tmp_path / "new" / "thing") as partial:
        written = partial / "a" if partial.is_dir() else partial
        written.write_text("x")
    at = happened.index("rename")
    assert str(tmp_path) in happened[:at]  # the name of the new folder
    assert {str(written), str(partial)} <= set(happened[:at])
    assert happened[at + 1 :] == [str(tmp_path / "new")]


@pytest.mark.parametrize("refused", [False, True], ids=["asked", "refused"])
def test_on_macos_the_drive_empties_its_cache(tmp_path, monkeypatch, refused):
    asked = []

    def fcntl(handle, command):
        asked.append((os.path.samestat(os.fstat(handle), tmp_path.stat()), command))
        if refused:
            raise OSError(errno.ENOTSUP, "no such command on this file system")

    monkeypatch.setattr(files, "fcntl", SimpleNamespace(F_FULLFSYNC=51, fcntl=fcntl))
    assert write_text(tmp_path / "x", "x").read_text() == "x"
    assert asked == [(False, 51), (True, 51)]  # the file, and then its name in the folder


def in_a_child(work):
    """How a fork that does `work` ends."""
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_folder_has_one_owner(tmp_path):
    folder = tmp_path / "runs" / "one"
    refused = []

    def second():
        try:
            with claimed(folder):
                pass
        except InputError as error:
            refused.append(str(error))

    with claimed(folder), claimed(folder):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        assert (folder / LOCK).read_text() == f"process {os.getpid()} on host {socket.gethostname()}\n"
        write_text(folder / "x", "x")
    assert len(refused) == 1 and f"is in use by process {os.getpid()} on host {socket.gethostname()}. Wait until" in refused[0]
    assert [path.name for path in folder.iterdir()] == ["x"]


def test_a_folder_that_nothing_was_written_to_is_gone_again(tmp_path):
    with claimed(tmp_path / "a" / "b"):
        pass
    with claimed(tmp_path / "c", by=False):
        pass
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"`output` must be a folder; .*file' is a file"), claimed(tmp_path / "file" / "a"):
        pass


def test_a_dead_owner_does_not_block_and_what_it_left_is_removed(tmp_path):
    def killed():
        with claimed(tmp_path), atomic(tmp_path / "a") as partial, atomic_folder(tmp_path / "b" / "c") as folder:
            partial.write_text("half")
            (folder / "half").write_text("half")
            die()

    assert in_a_child(killed) == -signal.SIGKILL
    assert len(list(tmp_path.rglob("*.partial"))) == 2 and (tmp_path / LOCK).exists()
    with claimed(tmp_path):
        assert sorted(path.name for path in tmp_path.rglob("*")) == [LOCK, "b"]


def test_the_lock_does_not_outlive_its_owner_in_a_fork(tmp_path):
    held, end = os.pipe()

    def owner():
        with claimed(tmp_path):
            if not os.fork():  # as a loading process
                os.read(held, 1)
                os._exit(0)
            die()

    assert in_a_child(owner) == -signal.SIGKILL
    with claimed(tmp_path):
        pass
    os.write(end, b"x")


def test_a_kill_between_the_two_moves_of_a_folder_loses_nothing(tmp_path, monkeypatch):
    with atomic_folder(tmp_path / "model") as partial:
        (partial / "old").touch()

    def killed():
        rename = os.replace
        moves = iter([rename, lambda *_: die()])
        for name in ("rename", "replace"):
            monkeypatch.setattr(os, name, lambda *paths: next(moves)(*paths))
        with atomic_folder(tmp_path / "model") as partial:
            (partial / "new").touch()

    assert in_a_child(killed) == -signal.SIGKILL
    assert not (tmp_path / "model").exists()
    with claimed(tmp_path):
        assert (tmp_path / "model" / "old").exists()
        assert sorted(path.name for path in tmp_path.iterdir()) == [LOCK, "model"]


def test_a_writer_removes_what_killed_writers_of_its_path_left_and_nothing_else(tmp_path):
    def killed():
        with atomic(tmp_path / "a"), atomic(tmp_path / "ab"):
            die()

    assert in_a_child(killed) == -signal.SIGKILL
    elsewhere = tmp_path / ".a.1@elsewhere.01234567.partial"
    elsewhere.touch()
    with atomic(tmp_path / "a") as living:
        write_text(tmp_path / "a", "x")
        assert living.exists()
    left = [path.name for path in tmp_path.iterdir() if path not in (elsewhere, tmp_path / "a")]
    assert len(left) == 1 and left[0].startswith(".ab.")


def test_a_folder_that_vanishes_is_not_made_again(tmp_path):
    folder = tmp_path / "run"
    with claimed(folder):
        shutil.rmtree(folder)
        with pytest.raises(FileNotFoundError, match="the output folder has vanished") as raised:
            write_text(folder / "deep" / "x", "x")
        assert raised.value.filename == str(folder)
    assert not folder.exists()


@pytest.fixture
def small_files():
    """A limit on the size of files, which holds for root, too."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def text(path):
    path.write_text("x" * 10_000)


def tensors(path):
    save_file({"x": torch.zeros(5_000)}, path)


@pytest.mark.parametrize("write", [text, tensors])
@pytest.mark.usefixtures("small_files")
def test_a_write_that_fails_names_the_file_and_keeps_the_old_one(tmp_path, write):
    path = write_text(tmp_path / "x", "old")
    with pytest.raises(OSError) as raised, atomic(path) as partial:
        write(partial)
    assert raised.value.errno == errno.EFBIG and raised.value.filename == str(path)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


@pytest.fixture
def train(tmp_path):
    pytest.importorskip("accelerate")
    world(40).save(tmp_path / "world.parquet")
    words = ["train", "--data", str(tmp_path / "world.parquet"), "--output", str(tmp_path / "run"), "--dim", "4"]
    return [*words, "--recipe.epochs", "1", "--recipe.batch_size", "8"]


def one_line(capsys):
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(("training on", "epoch "))]
    assert len(lines) == 1
    return lines[0]


def test_a_command_on_a_full_disk_ends_in_one_line_and_goes_on_later(train, small_files, tmp_path, capsys):
    del small_files
    assert main(train) == 2
    checkpoint = tmp_path / "run" / "checkpoints" / "000001"
    assert one_line(capsys) == f"gramian: {checkpoint} cannot be used: File too large. Free it, or name another."
    assert sorted(path.name for path in (tmp_path / "run").rglob("*")) == ["checkpoints", "metrics.jsonl", "speed.jsonl"]


def test_a_second_run_on_a_folder_is_refused_in_one_line(train, tmp_path, capsys):
    with claimed(tmp_path / "run"):
        refused = []
        thread = threading.Thread(target=lambda: refused.append(main(train)))
        thread.start()
        thread.join()
        assert refused == [2]
        assert f"run' is in use by process {os.getpid()} on host" in one_line(capsys)
    assert main(train) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_an_extension_turns_into_its_own_error_is_heard(number):
    def extension():
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            raise ValueError("could not determine the shape") from None

    inherited = signal.signal(number, signal.SIG_DFL)  # jobs in the background of a shell ignore SIGINT
    try:
        with pytest.raises(KeyboardInterrupt) as raised, stoppable():
            extension()
        assert raised.value.args == (number,)
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, inherited)


SOURCE = Path(gramian.__file__).parent
WRITERS = {"write_bytes", "save_file", "savefig", "write_table", "new_file", "dump", "to_parquet", "to_csv", "savez"}
GIVEN = {"model/saving.py", "model/encoders", "data/arrow.py"}  # write to a path that `atomic` or `atomic_folder` gave
ELSEWHERE = {"/proc/self/clear_refs"}
MEMORY = "content"  # what a BytesIO is called


def unsafe_writes(path):
    """Lines that write a file outside of `with atomic(…)`, `with atomic_folder(…)` and folders that vanish."""
    lines = []

    def visit(node, inside):
        if isinstance(node, ast.With):
            names = [ast.unparse(item.context_expr).partition("(")[0] for item in node.items]
            inside = inside or bool({"atomic", "atomic_folder", "TemporaryDirectory"} & set(names))
        if isinstance(node, ast.Call) and not inside:
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            text = ast.unparse(node)
            opened = name == "open" and any(mode in text for mode in ("'w", "'a", "'x", "+'", "'wb"))
            method = name == "write_text" and isinstance(node.func, ast.Attribute)
            kept = bool(node.args) and ast.unparse(node.args[0]) == MEMORY
            if (name in WRITERS or opened or method) and not kept and not any(where in text for where in ELSEWHERE):
                lines.append(node.lineno)
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(ast.parse(path.read_text(encoding="utf-8")), inside=False)
    return lines


def test_every_file_is_written_through_this_module(tmp_path):
    paths = {path.relative_to(SOURCE).as_posix(): path for path in SOURCE.rglob("*.py")}
    named = {name: unsafe_writes(path) for name, path in paths.items() if not any(name.startswith(given) for given in GIVEN)}
    assert {name: lines for name, lines in named.items() if lines and name != "files.py"} == {}
    module = tmp_path / "module.py"
    lines = ["path.write_text(x)", "with atomic(p) as q:", "  q.write_text(x)", "write_text(p, x)", "open(p, 'w')", "open(p)"]
    module.write_text("\n".join([*lines, "pq.write_table(t, p)"]))
    assert unsafe_writes(module) == [1, 5, 7]
