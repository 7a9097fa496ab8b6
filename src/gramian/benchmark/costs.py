"""`bench`: times and peak memory of every form of a computation, interleaved in one process."""

from __future__ import annotations

import csv
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from math import ceil
from pathlib import Path
from statistics import median

import torch
from rich.console import Console

from gramian.benchmark.cases import NAMES, TASKS, Case, cases
from gramian.benchmark.environment import environment
from gramian.benchmark.memory import PeakMemory, free_bytes
from gramian.distributed import device as best_device
from gramian.errors import check_choice, check_choices, check_number, require
from gramian.evaluation.plots import cost_curves
from gramian.files import atomic
from gramian.sheets import Sheet

__all__ = ["Measurement", "bench"]

LONGEST = 60.0  # seconds after which a case is not repeated
TURN = 0.5  # seconds that a form is called for in its turn, as the steps of a run follow each other


@dataclass(frozen=True)
class Measurement:
    """One form of one computation at one size.

    Attributes:
        task: "gram" (contrastive step), "pmrl" (step), "scoring" (no gradient) or "moments" (canonical analysis of n items).
        form: "published"; "plain", the factorised formula under autograd; "kept" and "blocked", this library's step with the
            pair products kept and recomputed; "library", its default; "solve", MAXVAR of the moments; "epoch", all-pairs
            InfoNCE of linear heads over the same items; "products", the matrix products alone.
        work: "forward" or "forward+backward".
        q: queries.
        n: items.
        m: modalities.
        d: width.
        rounds: how often it was timed.
        seconds: of a call, the median over the turns.
        fastest: seconds.
        slowest: seconds.
        to_products: its median over that of the bare products; None where these were not timed.
        published_to: the published form's median over this one's, the speed-up; None where that was not timed.
        peak_mb: peak memory beyond what was held before, in 10⁶ bytes; None where it cannot be read.
        device: name of the processor or accelerator.
        threads: of torch on the CPU.
        torch: release.
        gramian: release.
        commit: of the source tree; "" outside one.
        date: UTC.
    """

    task: str
    form: str
    work: str
    q: int
    n: int
    m: int
    d: int
    rounds: int
    seconds: float
    fastest: float
    slowest: float
    to_products: float | None
    published_to: float | None
    peak_mb: float | None
    device: str
    threads: int
    torch: str
    gramian: str
    commit: str
    date: str


def bench(
    output: Path = Path("runs/bench"),
    *,
    tasks: Sequence[str] = TASKS[:3],
    sizes: Sequence[int] = (256, 1024, 2048, 4096),
    modalities: Sequence[int] = (2, 3, 4, 5),
    galleries: Sequence[int] = (10_000, 100_000),
    dim: int = 512,
    rounds: int = 5,
    device: str | None = None,
    console: Console | None = None,
) -> list[Measurement]:
    """Time the published formulas, the plain forms, the blocked forms and the bare matrix products.

    The forms of a case take turns in one process, so that other load on the machine affects all of them; medians are compared.
    A form that needs more than half of the free memory is left out. `costs.csv` grows case by case.

    Args:
        output: folder for costs.csv and costs.png.
        tasks: gram, pmrl, scoring; moments, canonical analysis against an epoch of training, on request.
        sizes: batches of the contrastive steps.
        modalities: numbers of modalities.
        galleries: items that 1,000 queries are scored against, and those of the moments.
        dim: width of the vectors.
        rounds: how often each form is timed; fewer where it takes long.
        device: cpu or cuda; cuda by default where it is available.
        console: where the table goes; nowhere by default.

    Returns:
        One measurement per case and form.

    Raises:
        InputError: an unknown task, or sizes that are too small or too many.
    """
    require("matplotlib")
    check_choices("tasks", tasks, TASKS)
    for name, values, interval in (
        ("sizes", sizes, "[2, 1048576]"),
        ("modalities", modalities, f"[2, {len(NAMES)}]"),
        ("galleries", galleries, "[1, 1e9]"),
        ("dim", [dim], "[1, 1048576]"),
        ("rounds", [rounds], "[1, inf)"),
    ):
        for value in values:
            check_number(name, value, interval, integer=True)
    best = best_device()
    where = best if device is None else torch.device(check_choice("device", device, dict.fromkeys([best.type, "cpu"])))
    console = console or Console(quiet=True)
    rows: list[Measurement] = []
    for case in cases(tasks, sizes, modalities, galleries, dim, where):
        console.print(f"{case.task}: {case.q:,} × {case.n:,}, m = {case.m}, {case.work}", highlight=False)
        rows += _measure(case, rounds, where)
        _write(output / "costs.csv", rows)
    for sheet in _sheets(rows):
        console.print(sheet.rich())
    figure = cost_curves([asdict(row) for row in rows])
    with atomic(output / "costs.png") as partial:
        figure.savefig(partial, dpi=120, format="png", bbox_inches="tight")
    console.print(f"wrote {output / 'costs.csv'} and costs.png", highlight=False)
    return rows


def _measure(case: Case, rounds: int, device: torch.device) -> list[Measurement]:
    room = free_bytes(device) // 2
    forms = {name: run for name, (run, size) in case.forms.items() if size <= room}
    peaks = {name: _peak(run, device) for name, run in forms.items()}  # the first run of each warms up, too
    times: dict[str, list[float]] = {name: [] for name in forms}
    started = time.perf_counter()
    for turn in range(rounds):
        for name, run in forms.items():
            times[name].append(_time(run, device))
        if time.perf_counter() - started > LONGEST and turn:
            break
    medians = {name: median(values) for name, values in times.items()}
    common = environment(device)
    return [
        Measurement(
            case.task,
            name,
            case.work,
            case.q,
            case.n,
            case.m,
            case.d,
            len(values),
            medians[name],
            min(values),
            max(values),
            medians[name] / medians["products"] if "products" in medians else None,
            medians["published"] / medians[name] if "published" in medians else None,
            peaks[name],
            **common,
        )
        for name, values in times.items()
    ]


def _time(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call, the mean of those of a turn: the first tells what the form before it has left in caches and memory."""
    first = _seconds(run, 1, device)
    return first if first >= TURN else _seconds(run, ceil(TURN / first), device)


def _seconds(run: Callable[[], object], calls: int, device: torch.device) -> float:
    _wait(device)
    started = time.perf_counter()
    for _ in range(calls):
        run()
    _wait(device)
    return (time.perf_counter() - started) / calls


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak(run: Callable[[], object], device: torch.device) -> float | None:
    """Peak memory of one run beyond what is held before it, in 10⁶ bytes."""
    gc.collect()
    if device.type != "cuda":
        run()  # what a first call allocates permanently does not count
    with PeakMemory(device) as peak:
        run()
    return peak.megabytes


def _write(path: Path, rows: Sequence[Measurement]) -> None:
    with atomic(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Measurement)], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            values = {name: f"{value:.5g}" if isinstance(value, float) else value for name, value in asdict(row).items()}
            writer.writerow(values)


def _sheets(rows: Sequence[Measurement]) -> Iterator[Sheet]:
    """One table per task: one line per case, one column per form."""
    for task in dict.fromkeys(row.task for row in rows):
        cases: dict[tuple[int, int, int, str], dict[str, Measurement]] = {}
        for row in rows:
            if row.task == task:
                cases.setdefault((row.m, row.q, row.n, row.work), {})[row.form] = row
        forms = list(dict.fromkeys(form for case in cases.values() for form in case))
        lines = tuple(
            (f"{q:,} × {n:,}", str(m), work, *(_cell(case.get(form)) for form in forms))
            for (m, q, n, work), case in cases.items()
        )
        note = "Median milliseconds; in brackets the peak memory in MB beyond what was held. –: not enough memory."
        yield Sheet(task, ("pairs", "m", "work", *forms), lines, note)


def _cell(row: Measurement | None) -> str:
    if row is None:
        return "–"
    memory = "" if row.peak_mb is None else f" ({row.peak_mb:,.0f})"
    return f"{1000 * row.seconds:,.1f}{memory}"
