"""`bench`: times and peak memory of every form of a computation, interleaved in one process."""

from __future__ import annotations

import csv
import ctypes
import ctypes.util
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from itertools import combinations_with_replacement
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor

from gramian.benchmark.environment import environment
from gramian.benchmark.published import gram_loss, pmrl_loss, volumes
from gramian.bundle import Bundle
from gramian.canonical import Moments, solve
from gramian.distributed import device as best_device
from gramian.errors import check_choice, check_choices, check_number, require
from gramian.evaluation.plots import cost_curves
from gramian.factorisations import safe_sqrt
from gramian.files import atomic
from gramian.geometry import orthogonalize
from gramian.losses import PMRL, Gram, Pairwise
from gramian.scores import negative_volume
from gramian.sheets import Sheet

__all__ = ["Measurement", "bench"]

NAMES = ("text", "image", "audio", "depth", "video", "touch", "smell", "taste")
TASKS = ("gram", "pmrl", "scoring", "moments")
LONGEST = 60.0  # seconds after which a case is not repeated


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
        seconds: median.
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


@dataclass(frozen=True)
class _Case:
    """Forms of one computation, to be timed in turn: form → (function, bytes it is known to need)."""

    task: str
    work: str
    q: int
    n: int
    m: int
    d: int
    forms: dict[str, tuple[Callable[[], object], int]]


def bench(
    output: Path,
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
    """Measure, and write `costs.csv` and `costs.png` to `output`; the CSV grows case by case.

    The forms of a case take turns in one process, so that other load on the machine affects all of them; medians are compared.
    A form that needs more than half of the free memory is left out.

    Args:
        output: folder.
        tasks: of "gram", "pmrl", "scoring", "moments".
        sizes: batches n = q of the contrastive steps.
        modalities: m.
        galleries: items that 1,000 queries are scored against, and those of the moments.
        dim: d.
        rounds: how often each form is timed; fewer where it takes long.
        device: "cpu" or "cuda"; CUDA by default if there is one.
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
    for case in _cases(tasks, sizes, modalities, galleries, dim, where):
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


def _cases(
    tasks: Sequence[str],
    sizes: Sequence[int],
    modalities: Sequence[int],
    galleries: Sequence[int],
    dim: int,
    device: torch.device,
) -> Iterator[_Case]:
    for m in modalities:
        for n in sizes:
            for work in ("forward", "forward+backward"):
                if "gram" in tasks:
                    yield _gram(n, m, dim, work, device)
                if "pmrl" in tasks:
                    yield _pmrl(n, m, dim, work, device)
        if "scoring" in tasks:
            for n in galleries:
                yield _scoring(1000, n, m, dim, device)
        if "moments" in tasks:
            for n in galleries:
                yield _moments(n, m, dim, device)


def _vectors(n: int, m: int, d: int, device: torch.device, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, m, d, generator=generator), dim=-1).to(device)


def _gram(n: int, m: int, d: int, work: str, device: torch.device) -> _Case:
    Z = _vectors(n, m, d, device)
    anchors, others = Z[:, 0].contiguous(), Z[:, 1:].reshape(-1, d).contiguous()
    back = work != "forward"

    def products() -> object:
        C = anchors @ others.T
        return (C @ others, C.T @ anchors) if back else C

    def plain(bundle: Bundle) -> Tensor:
        # The factorised formula, written out over the whole table, under autograd.
        a, M = bundle.column("text"), bundle.select(*bundle.modalities[1:])
        own = orthogonalize(M.vectors)
        x = (a @ own.basis.reshape(-1, d).T).reshape(n, n, m - 1)
        scores = -safe_sqrt(1 - x.square().sum(-1)) * own.volume
        logits, target = scores / 0.07, torch.arange(n, device=device)
        rows, columns = (F.cross_entropy(table, target, label_smoothing=0.1) for table in (logits, logits.T))
        return (rows + columns) / 2

    table = 4 * n * n
    forms = {
        "published": (_step(gram_loss, Z, back), table * (m * m * (8 if back else 4) + 12)),
        "plain": (_step_of(plain, Z, back), table * (4 * m + 12)),
        "kept": (_step_of(lambda bundle: Gram()(bundle).total, Z, back), table * m),
        "blocked": (_step_of(lambda bundle: Gram(block_size=1024)(bundle).total, Z, back), 0),
        "products": (products, table * m),
    }
    return _Case("gram", work, n, n, m, d, forms)


def _pmrl(n: int, m: int, d: int, work: str, device: torch.device) -> _Case:
    Z = _vectors(n, m, d, device)
    back = work != "forward"
    loss = PMRL()

    def plain(bundle: Bundle) -> Tensor:
        vectors = bundle.vectors
        eigenvalues, W = torch.linalg.eigh(vectors @ vectors.mT)
        sigma = eigenvalues.flip(-1).clamp(min=1e-12).sqrt()
        u = (W[..., -1:].mT @ vectors).squeeze(1) / sigma[:, :1]
        own = torch.arange(n, device=device)
        return F.cross_entropy(sigma / 0.05, torch.zeros_like(own)) + F.cross_entropy(u @ u.T / 0.1, own)

    def products() -> object:
        G, u = Z @ Z.mT, Z[:, 0].contiguous()
        C = u @ u.T
        return (G @ Z, C @ u) if back else C

    forms = {
        "published": (_step(pmrl_loss, Z, back), 4 * n * d * d * (3 if back else 1)),
        "plain": (_step_of(plain, Z, back), 4 * n * n * 6),
        "library": (_step_of(lambda bundle: loss(bundle).total, Z, back), 4 * n * n * 6),
        "products": (products, 4 * n * n),
    }
    return _Case("pmrl", work, n, n, m, d, forms)


def _scoring(q: int, n: int, m: int, d: int, device: torch.device) -> _Case:
    items = _vectors(n, m - 1, d, device)
    queries = _vectors(q, 1, d, device, seed=1)[:, 0]
    gallery = Bundle(items, torch.ones(n, m - 1, dtype=torch.bool, device=device), NAMES[1:m])
    others = items.unbind(1)
    flat = items.reshape(-1, d)

    def published() -> object:
        # In parts: the whole table of Gram matrices does not fit in memory.
        return torch.cat([volumes(part, others) for part in queries.split(max(1, 2**24 // (n * m * m)))])  # type: ignore[no-untyped-call]

    forms = {
        "published": (published, 4 * (q * n + 2**26)),
        "library": (lambda: negative_volume(queries, gallery), 4 * q * n),
        "products": (lambda: queries @ flat.T, 4 * q * n * (m - 1)),
    }
    return _Case("scoring", "forward", q, n, m, d, {form: (torch.no_grad()(run), size) for form, (run, size) in forms.items()})


def _moments(n: int, m: int, d: int, device: torch.device) -> _Case:
    columns = {
        name: torch.randn(n, d, generator=torch.Generator().manual_seed(i)).to(device) for i, name in enumerate(NAMES[:m])
    }
    moments = cache(lambda: Moments.of(columns))
    heads = [torch.nn.Linear(d, d, device=device) for _ in columns]
    loss = Pairwise()

    def products() -> object:
        total = torch.zeros(d, d, dtype=torch.float64, device=device)
        for start in range(0, n, 4096):
            parts = [column[start : start + 4096].double() for column in columns.values()]
            for a, b in combinations_with_replacement(parts, 2):
                total.addmm_(a.T, b)
        return total

    def epoch() -> object:
        for start in range(0, n, 1024):
            parts = [head(column[start : start + 1024]) for head, column in zip(heads, columns.values(), strict=True)]
            if len(parts[0]) > 1:
                loss(dict(zip(columns, parts, strict=True))).total.backward()
        return heads[0].weight.grad

    forms: dict[str, tuple[Callable[[], object], int]] = {
        "library": (lambda: Moments.of(columns), 8 * (m * d) ** 2),
        "solve": (lambda: solve(moments(), max(1, d // 2)), 32 * (m * d) ** 2),
        "epoch": (epoch, 0),
        "products": (products, 8 * d * d),
    }
    return _Case("moments", "forward", n, n, m, d, forms)


def _step(loss: Callable[[Tensor], Tensor], Z: Tensor, back: bool) -> Callable[[], object]:
    def run() -> object:
        vectors = Z.detach().requires_grad_(back)
        with torch.set_grad_enabled(back):
            total = loss(vectors)
        return torch.autograd.grad(total, vectors) if back else total

    return run


def _step_of(loss: Callable[[Bundle], Tensor], Z: Tensor, back: bool) -> Callable[[], object]:
    present = torch.ones(Z.shape[:2], dtype=torch.bool, device=Z.device)
    names = NAMES[: Z.shape[1]]
    return _step(lambda vectors: loss(Bundle(vectors, present, names)), Z, back)


def _measure(case: _Case, rounds: int, device: torch.device) -> list[Measurement]:
    room = _free_bytes(device) // 2
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
    _wait(device)
    started = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak(run: Callable[[], object], device: torch.device) -> float | None:
    """Peak memory of one run beyond what is held before it, in 10⁶ bytes."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    run()  # what a first call allocates permanently does not count
    name = ctypes.util.find_library("c")
    try:
        ctypes.CDLL(name).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # Linux: resets the high-water mark
    except (AttributeError, OSError):
        return None
    before = _bytes("/proc/self/status", "VmRSS")
    run()
    return (_bytes("/proc/self/status", "VmHWM") - before) / 1e6


def _bytes(path: str, key: str) -> int:
    """An entry in kB of a file below /proc."""
    lines = Path(path).read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        return _bytes("/proc/meminfo", "MemAvailable")
    except OSError:
        return 2**33


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
