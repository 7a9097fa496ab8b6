"""Kill gramian, start it again, and compare every byte it leaves with those of a run that was left alone.

    python tests/kills.py --count 200

Every run is a fork of this process, which has imported what they import: a trial takes a second or two. Faults come before the
n-th operation on files, seen by an audit hook, and at random moments: SIGKILL, SIGTERM, SIGINT, or a full disk. Of a job of two
processes, without a launcher, one gets the fault: the other has to end within 30 seconds by itself, in one line that names it.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import importlib
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import tiny
from gramian.cli import main
from synthetic import world

LIMIT = 60.0
"""Seconds after which a run counts as hanging; of a second process whose first is gone, 30."""


@dataclass(frozen=True)
class Job:
    """A command that can be started again; `more` is what is typed then."""

    words: tuple[str, ...]
    more: tuple[str, ...] = ()
    processes: int = 1


_RECIPE = ("--recipe.epochs", "4", "--recipe.batch_size", "16", "--recipe.checkpoint_every", "1", "--dim", "8")
_EMBED = ("embed", "--data", "../world.parquet", "--model", "../model", "--output", "run", "--shard-size", "16")
JOBS = {
    "features": Job(("train", "--data", "../world.parquet", "--output", "run", *_RECIPE), ("--resume",)),
    "features2": Job(("train", "--data", "../world.parquet", "--output", "run", *_RECIPE), ("--resume",), processes=2),
    "media": Job(("train", "../media.yaml", "--output", "run", *_RECIPE), ("--resume",)),
    "embed": Job(_EMBED),
    "embed2": Job(_EMBED, processes=2),
    "report": Job(("evaluate", "--data", "../world.parquet", "--model", "../model", "--output", "run")),
    "file": Job((*_EMBED[:5], "--output", "run/vectors.parquet")),
}


KINDS = ("SIGKILL", "SIGTERM", "SIGINT", "full")


@dataclass(frozen=True)
class Fault:
    """What happens to a process of a job: before an operation on files, or after some seconds."""

    kind: str
    operation: int | None = None
    seconds: float | None = None
    process: int = 0


@dataclass
class Ended:
    """How the processes of a run ended: exit codes, what they said, when; and their operations on files."""

    codes: list[int]
    errors: list[str]
    times: list[float]
    operations: list[int]


class Kills:
    """The data of the jobs in a folder, and what each leaves in peace.

    Args:
        folder: to work in.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.whole: dict[str, tuple[dict[str, str], Ended]] = {}
        _forked(lambda: _write_features(folder))

    def peace(self, name: str, again: bool = False) -> tuple[dict[str, str], Ended]:
        """The bytes that a job leaves, and how it ended."""
        if name == "media" and name not in self.whole:
            _forked(lambda: _write_media(self.folder))
        if again or name not in self.whole:
            trial = self._trial()
            ended = self._run(trial, JOBS[name].words, JOBS[name].processes)
            assert not any(ended.codes), ended
            for module in (trial / "modules").read_text().split():  # once here, and not in each fork
                with suppress(Exception):
                    importlib.import_module(module)
            left = _bytes(trial / "run")
            assert left == self.whole.get(name, [left])[0], f"{name} does not repeat itself"
            self.whole[name] = left, ended
            shutil.rmtree(trial)
        return self.whole[name]

    def kill(self, name: str, fault: Fault) -> Ended:
        """Run a job with a fault, run it again, and check what is left."""
        job = JOBS[name]
        whole, _ = self.peace(name)
        trial = self._trial()
        ended = self._run(trial, job.words, job.processes, fault)
        again = self._run(trial, (*job.words, *job.more), job.processes)
        left = _bytes(trial / "run")
        where = f"{name}, {fault}: {ended}, again {again}; {trial}"
        assert not any(again.codes), f"cannot be resumed. {where}"
        changed = [path for path in left.keys() | whole.keys() if left.get(path) != whole.get(path)]
        assert not changed, f"{sorted(changed)} differ. {where}"
        for code, error in zip(ended.codes, ended.errors, strict=True):
            assert code in _allowed(fault, job, error), f"exit code {code}. {where}"
            assert "Traceback" not in error and error.count("gramian: ") <= 1, f"more than one line. {where}"
        if job.processes > 1 and ended.codes[fault.process] != 0:
            other = 1 - fault.process
            assert _later(ended, fault) < 30, f"the other process went on for {_later(ended, fault):.0f} s. {where}"
            assert ended.codes[other] == 0 or f"process {fault.process} of 2" in ended.errors[other], f"no name. {where}"
        shutil.rmtree(trial)
        return ended

    def _trial(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.folder))

    def _run(self, trial: Path, words: tuple[str, ...], processes: int, fault: Fault | None = None) -> Ended:
        """Start the processes of a command, one of them with the fault, and wait for their end."""
        place = {}
        if processes > 1:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(processes)}
        pids = []
        for number in range(processes):
            own = place and place | {"RANK": str(number), "LOCAL_RANK": str(number)}
            pids.append(_fork(trial, words, number, own, fault if fault is not None and number == fault.process else None))
        if fault is not None and fault.seconds is not None:
            time.sleep(fault.seconds)
            os.kill(pids[fault.process], signal.Signals[fault.kind])
        codes, times = {}, {}
        start = time.monotonic()
        while len(codes) < processes:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid in pids:
                codes[pid], times[pid] = os.waitstatus_to_exitcode(status), time.monotonic()
            elif time.monotonic() - start > LIMIT:
                for pid in pids:
                    if pid not in codes:
                        os.kill(pid, signal.SIGKILL)
            else:
                time.sleep(0.005)
        errors = [(trial / f"error-{number}").read_text() for number in range(processes)]
        counts = [trial / f"operations-{number}" for number in range(processes)]
        operations = [int(path.read_text()) if path.exists() else 0 for path in counts]
        return Ended([codes[pid] for pid in pids], errors, [times[pid] for pid in pids], operations)


def _later(ended: Ended, fault: Fault) -> float:
    """The seconds that the last process went on after the one with the fault."""
    return max(ended.times) - ended.times[fault.process]


def _allowed(fault: Fault, job: Job, error: str) -> set[int]:
    """The exit codes that a process may end with; 0 if the fault came too late, or met what does not matter."""
    others = {0, 2} if job.processes > 1 else {0}
    if fault.kind == "full":
        return others | {2}
    number = int(signal.Signals[fault.kind])
    early = {-number} if not error else set()  # before the command line listens
    return others | early | {-number if number == signal.SIGKILL else 128 + number}


def _fork(trial: Path, words: tuple[str, ...], number: int, environment: dict[str, str], fault: Fault | None) -> int:
    """The id of a child that runs the command in the folder of the trial; it returns once the child is about to begin."""
    ready, go = os.pipe()
    pid = os.fork()
    if pid:
        os.close(go)
        os.read(ready, 1)
        os.close(ready)
        return pid
    code, begun = 99, False
    try:
        os.chdir(trial)
        os.environ.update(environment)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for stream in (1, 2):
            name = f"output-{number}" if stream == 1 else f"error-{number}"
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1) for stream in (1, 2))
        before = set(sys.modules)
        operations = _watch_files(trial / "run", fault)
        os.close(go)
        begun = True
        code = main(words)
        (trial / "modules").write_text("\n".join(sorted(set(sys.modules) - before)))
        (trial / f"operations-{number}").write_text(str(operations["number"]))
    except BaseException as error:
        if begun or not isinstance(error, KeyboardInterrupt):
            traceback.print_exc()
        code = 99 if begun else 130
    finally:
        sys.stderr.flush()
        os._exit(code)
    return pid


CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.chmod", "os.truncate"}


def _watch_files(folder: Path, fault: Fault | None) -> Counter[str]:
    """Count the operations on files below a folder, in this process for good; the fault comes before one of them."""
    counter: Counter[str] = Counter()

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not int(flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event in CHANGES:
            path = arguments[0]
        else:
            return
        if not isinstance(path, str | bytes) or not Path(os.path.abspath(os.fsdecode(path))).is_relative_to(folder):
            return
        counter["number"] += 1
        if fault is not None and fault.operation is not None and counter["number"] == fault.operation:
            if fault.kind == "full":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
            os.kill(os.getpid(), signal.Signals[fault.kind])

    sys.addaudithook(hook)
    return counter


def _forked(work: object) -> None:
    """Do work in a child, whose threads then are no matter to later forks."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            work()  # type: ignore[operator]
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


def _write_features(folder: Path) -> None:
    """A table of features, and an aligner of it."""
    from gramian.model import Aligner

    table = world(96, missing=0.2)
    table.save(folder / "world.parquet")
    Aligner.for_table(table, dim=8).save_pretrained(folder / "model")


def _write_media(folder: Path) -> None:
    """A table of texts and pictures, and towers for it."""
    import yaml
    from PIL import Image

    rng = np.random.default_rng(0)
    (folder / "media").mkdir()
    lines = ["id,text,image,split"]
    for i in range(24):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / "media" / f"{i}.png")
        lines.append(f"{i},a {tiny.WORDS[6 + i % 3]} {tiny.WORDS[9 + i % 3]},{i}.png,{['train', 'train', 'validation'][i % 3]}")
    (folder / "media" / "table.csv").write_text("\n".join(lines))
    towers = {
        name: {"class_path": "HuggingFace", "init_args": {"model": str(tiny.build(model, folder)), "kind": name, "mode": mode}}
        for name, model, mode in (("text", "bert", "train"), ("image", "dinov2", "freeze"))
    }
    (folder / "media.yaml").write_text(yaml.safe_dump({"data": "../media/table.csv", "towers": towers}))


def _bytes(folder: Path) -> dict[str, str]:
    """Every file below a folder, and its hash, but for the times of epochs."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "speed.jsonl"
    } | {str(path.relative_to(folder)) + "/": "" for path in folder.rglob("*") if path.is_dir()}


def faults(kills: Kills, name: str, count: int, moments: int, seed: int) -> list[Fault]:
    """Faults before operations on files, evenly spread, and at random moments."""
    rng = random.Random(f"{name} {seed}")
    ended, seconds = kills.peace(name)[1], 0.0
    if moments:
        start = time.monotonic()
        kills.peace(name, again=True)  # without the imports of the first time
        seconds = time.monotonic() - start
    places = [(process, place) for process, number in enumerate(ended.operations) for place in range(1, number + 1)]
    places = rng.sample(places, min(count - moments, len(places)))
    chosen = [Fault(KINDS[i % 4], operation=place, process=process) for i, (process, place) in enumerate(places)]
    times = [(rng.uniform(0, seconds), rng.randrange(JOBS[name].processes)) for _ in range(count - len(chosen))]
    chosen += [Fault(KINDS[i % 3], seconds=at, process=process) for i, (at, process) in enumerate(times)]
    return chosen if moments else chosen[: len(places)]


def run() -> int:
    """The command: one line per job; the exit code says whether all held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20, help="faults per job")
    parser.add_argument("--moments", type=int, help="how many of them at random moments; half by default")
    parser.add_argument("--jobs", nargs="*", choices=JOBS, default=list(JOBS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no trial after these")
    options = parser.parse_args()
    moments = options.count // 2 if options.moments is None else options.moments
    torch.set_num_threads(1)
    end = time.monotonic() + 60 * options.minutes
    failed = 0
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        kills = Kills(Path(folder))
        for name in options.jobs:
            outcomes: Counter[str] = Counter()
            slowest = 0.0
            for fault in faults(kills, name, options.count, moments, options.seed):
                if time.monotonic() > end:
                    break
                try:
                    ended = kills.kill(name, fault)
                    slowest = max(slowest, _later(ended, fault))
                    outcomes[f"{fault.kind} → {ended.codes[fault.process]}"] += 1
                except AssertionError as error:
                    outcomes["FAILED"] += 1
                    failed += 1
                    print(f"FAILED {name}: {error}", flush=True)
            total = sum(outcomes.values())
            listing = ", ".join(f"{key}: {value}" for key, value in sorted(outcomes.items()))
            others = f"; the other process ended {slowest:.1f} s later at most" if JOBS[name].processes > 1 else ""
            print(
                f"{name}: {total} faults, {total - outcomes['FAILED']} ended in the same bytes ({listing}){others}", flush=True
            )
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(run())
