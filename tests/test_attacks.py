"""Input from strangers: each attack ends in one line and exit code 2, and has read, written, run and fetched nothing.

An attack is a function of a fresh working folder that puts a stranger's files there and returns the words of the command line.
It runs in this process, where an audit hook sees what Python opens, imports, unpickles, starts and connects to.

    work/       the working folder, and the attacker's: commands may write here
    outside/    the user's other files: none may be read or changed, and none may appear
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from gramian.cli import main

pytestmark = pytest.mark.filterwarnings("ignore")  # a warning that becomes an error must not be what stops an attack

SECRET = "the-secret-of-outside"
SECONDS, MEMORY = 20, 2 << 30
ATTACKS: dict[str, Callable[[Path], list[str]]] = {}

NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.sendto")
CODE = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "os.forkpty",
    "subprocess.Popen",
    "pickle.find_class",
    "os.startfile",
)


def attack(function: Callable[..., list[str]]) -> Callable[..., list[str]]:
    """Add an attack, by its name."""
    ATTACKS[function.__name__] = function
    return function


def attacks(**cases: object) -> Callable[[Callable[..., list[str]]], Callable[..., list[str]]]:
    """Add one attack per case: a function of the folder and the case."""

    def add(function: Callable[..., list[str]]) -> Callable[..., list[str]]:
        for name, case in cases.items():
            ATTACKS[f"{function.__name__}[{name}]"] = partial(function, case=case)
        return function

    return add


class _Watch:
    """Sees and refuses, while it is on, what no attack may do. A hook stays for the life of the process, so there is one."""

    def __init__(self) -> None:
        self.outside: str | None = None
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[object, ...]) -> None:
        if self.outside is None:
            return
        touched = event in NETWORK or event in CODE
        if event in (
            "open",
            "os.mkdir",
            "os.rename",
            "os.remove",
            "os.symlink",
            "os.link",
            "os.listdir",
            "os.scandir",
            "import",
        ):
            names = [os.fspath(each) for each in args[:2] if isinstance(each, str | os.PathLike)]
            touched = any(self.outside in os.path.realpath(name) for name in names)
        if touched:
            self.seen.append(f"{event} {args!r:.200}")
            raise PermissionError(f"refused by the test: {event}")

    @contextmanager
    def on(self, outside: Path) -> Iterator[None]:
        self.outside, self.seen = str(outside), []
        try:
            yield
        finally:
            self.outside = None


WATCH = _Watch()


class TooSlow(BaseException):
    """An attack that keeps the process busy."""


@contextmanager
def limits() -> Iterator[None]:
    """Seconds and bytes that an attack may take."""

    def stop(*_: object) -> None:
        raise TooSlow(f"over {SECONDS} s")

    status = Path("/proc/self/statm")
    used = int(status.read_text().split()[0]) * resource.getpagesize() if status.exists() else 0
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    if used:
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def state(folder: Path) -> dict[str, object]:
    """Every file and link below a folder, with its content."""
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def rows(path: Path, *records: dict[str, object]) -> str:
    """Write JSON lines, and give the file's name."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path.name


def edit(path: Path, **values: object) -> None:
    """Set values of a JSON object in a file."""
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")


@pytest.fixture(scope="session")
def honest(tmp_path_factory):
    """What the user has: tables, models of each kind and a run, none of them hostile."""
    folder = tmp_path_factory.mktemp("honest")
    texts = ("a red cat", "a blue dog", "two birds", "a green house")
    rows(folder / "t.jsonl", *({"text": text, "feat": [i % 3, 1, 2, i % 5 + 1]} for i, text in enumerate(texts)))
    rows(folder / "u.jsonl", *({"id": f"r{i}", "a": [i % 5, 1.0 + i % 3, 2], "b": [1, i % 7, 1]} for i in range(40)))
    return folder


@pytest.fixture
def world(honest, tmp_path, monkeypatch):
    """A working folder with the user's files, beside a folder that nothing may touch."""
    shutil.copytree(honest, tmp_path / "work")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text(SECRET)
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def run(world: Path, words: list[str], capsys) -> tuple[object, str]:
    """The exit code and what was printed, watched and limited."""
    before = state(world / "outside")
    capsys.readouterr()
    with WATCH.on(world / "outside"), limits():
        code = main([str(word) for word in words])
    printed = "".join(capsys.readouterr())
    assert state(world / "outside") == before
    assert WATCH.seen == []
    assert SECRET not in printed
    assert not [char for char in printed if char < " " and char != "\n"], printed
    return code, printed


def test_the_watch_sees_and_refuses(world):
    outside = world / "outside"
    with WATCH.on(outside):
        for trial in (
            lambda: (outside / "secret.txt").read_text(),
            lambda: (world / "work" / ".." / "outside" / "new").write_text(""),
            lambda: os.system("true"),
            lambda: __import__("socket").create_connection(("127.0.0.1", 9)),
            lambda: __import__("pickle").loads(b"cos\nsystem\n."),
        ):
            with pytest.raises(PermissionError, match="refused by the test"):
                trial()
    assert len(WATCH.seen) == 5


@attack
def yaml_calls_a_function(work):
    (work / "y.yaml").write_text(
        "data: t.jsonl\ntowers:\n  text: {class_path: os.system, init_args: {command: touch ../outside/x}}\n"
    )
    return ["check", "y.yaml"]


@attack
def yaml_imports_a_module(work):
    (work / "evil_module.py").write_text("open('../outside/x', 'w')\n")
    (work / "y.yaml").write_text("data: stamps\nloss: {class_path: evil_module.Loss}\n")
    return ["train", "y.yaml", "--output", "o"]


@pytest.mark.parametrize("name", list(ATTACKS))
def test_an_attack_fails_closed(world, name, capsys):
    words = ATTACKS[name](world / "work")
    code, printed = run(world, words, capsys)
    assert code == 2, printed
    assert printed.startswith("gramian: "), printed
    assert printed.count("\n") == 1, printed
