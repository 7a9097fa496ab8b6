"""Kill a process that changes an index, at any operation on files or any moment: what was committed is there, nothing else.

    python tests/index_kills.py --count 200

Each trial forks a child that adds, replaces, deletes, merges and copies; it says when it begins a change and when it is done.
Faults: SIGKILL before the n-th operation on files or after some milliseconds, or a full disk at an operation. Every other index
also keeps its vectors in 8 bits, and some merges add or drop them. Then another process opens the index: its items and vectors
are those after the last finished change, or, where one was under way, after that one; a copy is whole or none. All files are
read in full, a search is compared with brute force, and the next change works.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

from gramian.bundle import Bundle
from gramian.index import FlatIndex
from gramian.scores import SCORES
from kills import Fault, _watch_files

D = 8
NAMES = [f"i{i}" for i in range(24)]
State = dict[str, float]
"""Id → the seed of its vectors."""
Change = tuple[str, dict[str, float] | list[str]]


def vectors(seed: float) -> dict[str, torch.Tensor | None]:
    draw = torch.Generator().manual_seed(int(seed))
    text, image = torch.randn(2, D, generator=draw)
    return {"text": text, "image": None if seed % 3 == 0 else image}


def bundle_of(seeds: list[float]) -> Bundle:
    rows = [vectors(seed) for seed in seeds]
    columns = {name: [row[name] for row in rows] for name in ("text", "image")}
    return Bundle.from_dict({name: column for name, column in columns.items() if any(one is not None for one in column)})


def plan(rng: random.Random, steps: int) -> list[Change]:
    """Changes, the same in the parent, which knows what each leads to, and in the child."""
    changes: list[Change] = []
    for _ in range(steps):
        act = rng.choice(["add", "add", "add", "delete", "compact", "save"])
        names = rng.sample(NAMES, rng.randint(1, 5))
        changes.append((act, {name: float(rng.randrange(10**6)) for name in names} if act == "add" else names))
    return changes


def states(changes: list[Change]) -> list[State]:
    """What the index holds before and after each change."""
    reached: list[State] = [{}]
    for act, names in changes:
        state = dict(reached[-1])
        if act == "add":
            assert isinstance(names, dict)
            state |= names
        elif act == "delete":
            state = {name: seed for name, seed in state.items() if name not in names}
        reached.append(state)
    return reached


def work(folder: Path, changes: list[Change], said: int) -> None:
    """The child's part: one byte is written when a change begins, and one when it is done."""
    index = FlatIndex.open(folder / "index")
    for number, (act, names) in enumerate(changes):
        os.write(said, b"b")
        try:
            if act == "add":
                assert isinstance(names, dict)
                index.add(bundle_of(list(names.values())), list(names), {"seed": list(names.values())})
            elif act == "delete":
                index.delete(list(names))
            elif act == "compact":
                index.compact(int8=[None, True, False][len(names) % 3])
            else:
                index.save(folder / f"copy-{number}")
        except OSError:
            os._exit(3)
        os.write(said, b"d")
    os._exit(0)


def trial(folder: Path, changes: list[Change], fault: Fault | None, *, int8: bool = False) -> tuple[int, int, int]:
    """Run a child with a fault; return its exit code, and how many changes had begun and were done."""
    FlatIndex.create(folder / "index", dim=D, int8=int8)
    heard, said = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(heard)
        try:
            if fault is not None:
                _watch_files(folder, fault)
            work(folder, changes, said)
        finally:
            os._exit(99)
    os.close(said)
    if fault is not None and fault.seconds is not None:
        os.read(heard, 1)
        time.sleep(fault.seconds)
        os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    words = b"b" * (fault is not None and fault.seconds is not None)
    while part := os.read(heard, 4096):
        words += part
    os.close(heard)
    return code, words.count(b"b"), words.count(b"d")


def held(index: FlatIndex) -> State:
    """What an index holds, after all of its files were read in full and a search was compared with brute force."""
    index.verify()
    ids = list(index.ids())
    metadata = index.items(ids)[1] if ids else []
    state = {name: values["seed"] for name, values in zip(ids, metadata, strict=True)}
    assert len(ids) == len(state) == len(index), "ids repeat"
    if state:
        everything = bundle_of([state[name] for name in ids])
        query = torch.randn(1, D)
        best = SCORES["span"](query, everything)[0].topk(min(5, len(ids)))
        found = index.search(query, 5, score="span")
        torch.testing.assert_close(torch.tensor(found.scores[0]), best.values, atol=1e-5, rtol=0)
    return state


def check(folder: Path, changes: list[Change], begun: int, done: int) -> None:
    """That the index holds the state before or after the change under way, whole, and can be changed; copies as well."""
    reached = states(changes)
    index = FlatIndex.open(folder / "index")
    state = held(index)
    assert state in reached[done : begun + 1], f"{state} is none of {reached[done : begun + 1]}"
    for number, (act, _) in enumerate(changes[:begun]):
        copy = folder / f"copy-{number}"
        if act == "save" and FlatIndex.found(copy):
            assert held(FlatIndex.open(copy)) == reached[number], "a copy is not whole"
        elif act == "save":
            assert number >= done, "a copy is missing"
            index.save(copy)
            assert held(FlatIndex.open(copy)) == state
    index.add(bundle_of([1.0]), ["last"], {"seed": [1.0]})
    index.compact()
    assert all((segment.codes is not None) == index.int8 for segment in index.segments), "8 bits on some segments alone"
    assert set(FlatIndex.open(folder / "index").ids()) == {*state, "last"}
    left = {path.name for path in (folder / "index").iterdir() if not path.name.startswith(".")}
    assert left == {"index.json", *(segment.entry.file for segment in index.segments)}, f"files are left over: {left}"


def run(count: int, seed: int, minutes: float = float("inf")) -> tuple[int, Counter[str]]:
    """Trials; return how many failed, and how they ended."""
    torch.set_num_threads(1)
    end = time.monotonic() + 60 * minutes
    outcomes: Counter[str] = Counter()
    failed = 0
    for number in range(count):
        if time.monotonic() > end:
            break
        rng = random.Random(f"{seed} {number}")
        changes = plan(rng, 6)
        kind = "full" if number % 4 == 3 else "SIGKILL"
        fault = Fault(kind, operation=rng.randint(1, 60))
        if number % 4 == 2:
            fault = Fault("SIGKILL", seconds=rng.uniform(0, 0.15))
        folder = Path(tempfile.mkdtemp(prefix="index-kills-"))
        code, begun, done = trial(folder, changes, fault, int8=number // 4 % 2 == 1)
        try:
            assert code in ({0, 3} if kind == "full" else {0, -signal.SIGKILL}), f"exit code {code}"
            check(folder, changes, begun, done)
            outcomes[f"{kind} {'in a change' if begun > done else 'too late' if code == 0 else 'between changes'}"] += 1
        except Exception as error:  # all of them, and where
            failed += 1
            print(f"FAILED {number} {fault}: {type(error).__name__} {error}; {folder}", flush=True)
            continue
        shutil.rmtree(folder)
    return failed, outcomes


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no trial after these")
    options = parser.parse_args()
    failures, outcomes = run(options.count, options.seed, options.minutes)
    print(f"{sum(outcomes.values())} trials held, {failures} failed: {dict(sorted(outcomes.items()))}")
    sys.exit(min(failures, 1))
