"""The processes of a run, as torchrun starts them: ranks and devices, and a watch that makes the end of one the end of all."""

from __future__ import annotations

import itertools
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from typing import Any, TextIO, TypeVar

import torch
import torch.distributed as dist

from gramian.errors import InputError, check_choice, first_line, listing, require

__all__ = [
    "Group",
    "check_others",
    "check_precision",
    "device",
    "is_main_process",
    "join",
    "rank",
    "share",
    "wait_for_others",
    "watched",
    "world_size",
]

Value = TypeVar("Value")

Group = Any
"""A process group; None for all processes."""


def world_size(group: Group = None) -> int:
    """How many processes take part: 1 where torch.distributed is not set up."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def rank(group: Group = None) -> int:
    """The number of this process, from 0; torchrun's before torch.distributed is set up, 0 without it."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(group)
    return int(os.environ.get("RANK", "0"))


def is_main_process() -> bool:
    """Whether this is the process that writes and prints: the first."""
    return rank() == 0


def device(cpu: bool = False) -> torch.device:
    """The accelerator of this machine if it has one that knows float64, and the CPU otherwise.

    Apple's GPU does not, and closed-form solutions and sums over all items are float64.

    Args:
        cpu: stay on the CPU even so.

    Returns:
        The device, without an index.
    """
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return torch.device("cpu") if cpu or accelerator is None or accelerator.type == "mps" else accelerator


def join(cpu: bool = False) -> torch.device:
    """Set up torch.distributed where torchrun or `accelerate launch` started this process.

    Args:
        cpu: stay on the CPU even if the machine has an accelerator.

    Returns:
        The device for this process to work on.

    Raises:
        InputError: accelerate is not installed.
    """
    require("accelerate")
    from accelerate import PartialState

    # On a machine without an accelerator, accelerate joins torchrun's processes only if `cpu` is set.
    where: torch.device = PartialState(cpu=device(cpu).type == "cpu").device
    return where


def wait_for_others() -> None:
    """Wait until all processes are here; `join` comes first."""
    if world_size() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def check_precision(precision: str, where: torch.device) -> None:
    """Refuse a precision that the device does not support.

    Args:
        precision: "no" for float32, "bf16" or "fp16" for mixed precision.
        where: the device to compute on.

    Raises:
        InputError: another precision, or "fp16" on the CPU.
    """
    check_choice("precision", precision, ("no", "bf16", "fp16"))
    if precision == "fp16" and where.type == "cpu":
        raise InputError("`precision` 'fp16' needs an accelerator; on the CPU use 'bf16' or 'no'.")


def share(values: Sequence[Value], group: Group = None) -> Sequence[Value]:
    """The part of `values` that is this process's: consecutive, and as long as the others' or one longer."""
    whole, rest = divmod(len(values), world_size(group))
    number = rank(group) if world_size(group) > 1 else 0
    start = number * whole + min(number, rest)
    return values[start : start + whole + (number < rest)]


@contextmanager
def watched(patience: float | None = None) -> Iterator[None]:
    """Within the context, the end of one process is the end of all, each with an error that says which one it was.

    A collective by itself waits for a lost process forever, or fails without its name. Every process has a connection to the
    first, which the system closes when a process dies, however it dies; the first tells the others. A process that does not
    notice within `_Watch.GRACE` seconds, because it waits in a collective, is ended with exit code 2.

    A context within a context is one with it. A single process is not watched, nor are processes that were started without
    the environment that torchrun sets: RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT.

    Args:
        patience: seconds to wait for the others to come here; by default as long as torch waits, half an hour.

    Raises:
        InputError: another process has died, raised or not come.
    """
    global _watch
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    if _watch is not None or not all(map(os.environ.get, names)) or os.environ["WORLD_SIZE"] == "1":
        yield
        return
    _watch = watch = _Watch(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    try:
        watch.sign_in(patience or 1800.0)
        yield
    except BaseException as error:
        news = watch.leave(error)
        if news is not None:
            raise InputError(_advice(news)) from error
        raise
    else:
        watch.leave(None)
    finally:
        _watch = None


def check_others() -> None:
    """Look whether a process is gone, in a long stretch of work without the others.

    Raises:
        InputError: one is.
    """
    if _watch is not None and _watch.news is not None:
        raise InputError(_advice(_watch.news))


_watch: _Watch | None = None
_visits = itertools.count()
_DONE, _GO = "done\n", "go\n"


class _Watch:
    """One line each way over each connection: the first process's "go", then "done", or news of a process that is gone."""

    GRACE = 8.0
    """Seconds in which a process that has heard the news may end by itself."""

    def __init__(self, number: int, size: int) -> None:
        self.number, self.size = number, size
        self.news: str | None = None
        self._told = threading.Event()
        self._left = False
        self._lock = threading.Lock()
        self._links: dict[int, tuple[socket.socket, TextIO]] = {}

    def sign_in(self, patience: float) -> None:
        """Connect all processes; none goes on before all have come."""
        deadline = time.monotonic() + patience
        key = f"gramian/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{next(_visits)}"
        try:
            if self.number == 0:
                self._gather(_store(patience), key, deadline, patience)
            else:
                # Torch's own attempts end in pages of frames, after up to three times as long as they are given.
                _connected(int(os.environ["MASTER_PORT"]), deadline).close()
                self._report(_store(min(patience, 6.0)), key, deadline)
        except (RuntimeError, OSError) as error:  # of the store; of a connection
            what = f"process 0 of {self.size} cannot be reached" if self.number else "the other processes cannot be met"
            raise InputError(f"{what} ({first_line(error):.120}). Start all of them again.") from error
        for number, (link, lines) in self._links.items():
            link.settimeout(None)
            threading.Thread(target=self._listen, args=(number, lines), daemon=True).start()

    def _gather(self, store: Any, key: str, deadline: float, patience: float) -> None:
        token = secrets.token_hex(8)
        with socket.create_server(("", 0), backlog=self.size) as server:
            store.set(key, f"{server.getsockname()[1]} {token}")
            while len(self._links) < self.size - 1:
                server.settimeout(max(0.01, deadline - time.monotonic()))
                try:
                    link, _ = server.accept()
                except TimeoutError:
                    missing = listing(number for number in range(1, self.size) if number not in self._links)
                    raise InputError(
                        f"process {missing} of {self.size} has not come within {patience:.0f} s. Start all of them again."
                    ) from None
                link.settimeout(5.0)
                lines = link.makefile(encoding="utf-8")
                with suppress(OSError, ValueError):  # a stranger
                    secret, number = lines.readline().split()
                    if secrets.compare_digest(secret, token):
                        self._links[int(number)] = (link, lines)
        self._tell(_GO)

    def _report(self, store: Any, key: str, deadline: float) -> None:
        while not store.check([key]):  # `get` would not be interrupted
            if time.monotonic() > deadline:
                raise TimeoutError("it has not come")
            time.sleep(0.02)
        port, token = store.get(key).decode().split()
        link = _connected(int(port), deadline)
        self._links[0] = (link, link.makefile(encoding="utf-8"))
        self._tell(f"{token} {self.number}\n")
        answer = self._links[0][1].readline()
        if answer != _GO:
            raise InputError(_advice(answer.strip() or f"process 0 of {self.size} is gone"))

    def _listen(self, number: int, lines: TextIO) -> None:
        try:
            line = lines.readline()
        except (OSError, ValueError):
            line = ""
        if line != _DONE:
            self._hear(line.strip() or f"process {number} of {self.size} is gone")

    def _hear(self, news: str) -> None:
        with self._lock:
            if self._left or self.news is not None:
                return
            self.news = news
        self._told.set()
        if self.number == 0:
            self._tell(news + "\n")
        time.sleep(self.GRACE)
        with self._lock:
            if not self._left:
                os.write(2, f"gramian: {_advice(news)}\n".encode())
                os._exit(2)

    def leave(self, error: BaseException | None) -> str | None:
        """Tell the others how this process ends; return the news that `error` is a consequence of."""
        interrupted = isinstance(error, KeyboardInterrupt)
        if isinstance(error, RuntimeError) or interrupted:
            # Of a lost process, torch says only that a connection is closed, and torchrun interrupts the rest.
            self._told.wait(0.5 if interrupted else 5.0)
        with self._lock:
            self._left = True
        me = f"process {self.number} of {self.size}"
        if error is None:
            self._tell(_DONE)
        elif interrupted:
            self._tell(f"{me} {_INTERRUPTED}\n")
        elif isinstance(error, InputError | OSError):
            self._tell(f"{me} has stopped: {first_line(error)}\n")
        else:
            self._tell(f"{me} has failed: {type(error).__name__}: {first_line(error)}\n")
        for link, _ in self._links.values():
            with suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
            link.close()
        if isinstance(error, RuntimeError) or (interrupted and not str(self.news).endswith(_INTERRUPTED)):
            return self.news
        return None

    def _tell(self, line: str) -> None:
        for link, _ in self._links.values():
            with suppress(OSError):
                link.sendall(line.encode())

    def forget(self) -> None:
        """In a forked child: the connections are its parent's, and must not outlive it."""
        for link, _ in self._links.values():
            os.close(link.detach())


_INTERRUPTED = "was interrupted"


def _advice(news: str) -> str:
    return f"{news.rstrip('.')}. Start all of them again; finished work is kept."


def _connected(port: int, deadline: float) -> socket.socket:
    """A connection to the first process, once it listens."""
    while True:
        try:
            return socket.create_connection((os.environ["MASTER_ADDR"], port), timeout=max(1.0, deadline - time.monotonic()))
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@cache
def _store(patience: float) -> Any:
    """A connection of its own to the store that torch's processes meet at; in the first process it may be that store."""
    return dist.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=rank() == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True",
        timeout=timedelta(seconds=patience),
        wait_for_workers=False,
        multi_tenant=True,
    )


def _forget_watch() -> None:
    global _watch
    if _watch is not None:
        _watch.forget()
    _watch = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_watch)
