"""What `evaluate` and `diagnostics` cost: benchmarks/results/evaluation.csv.

    python benchmarks/evaluation.py                     # all four, about ten minutes on two cores
    python benchmarks/evaluation.py --only default

Expected on two cores: the default of 10,000 items × 4 modalities in under 60 s and 1 GB beyond the inputs, directions between
two modalities of 100,000 × 3 in under 10 minutes and 2 GB. Each runs in a process of its own, whose peak is its own.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

from gramian import Bundle, __version__
from gramian.evaluation import diagnostics, evaluate
from gramian.files import write_text

RESULTS = Path(__file__).parent / "results" / "evaluation.csv"
CASES = {
    "default": (10_000, 4, 512),
    "captions": (20_000, 4, 512),
    "singles": (100_000, 3, 512),
    "diagnose": (50_000, 3, 512),
}
"""Name → n rows, m modalities, d dimensions. "captions": each item stands for two rows, with captions of their own."""


def space(n: int, m: int, d: int, *, rows_per_item: int = 1) -> Bundle:
    """Items whose modalities are noisy views of one latent, one in ten vectors missing."""
    generator = torch.Generator().manual_seed(0)
    items = torch.arange(n) // rows_per_item
    latent = torch.randn(n // rows_per_item, d, generator=generator)
    vectors = torch.empty(n, m, d)
    for i in range(m):
        noise = torch.randn(n if i == 0 else len(latent), d, generator=generator)
        vectors[:, i] = latent[items] + 2 * (noise if i == 0 else noise[items])
    vectors /= vectors.norm(dim=-1, keepdim=True)
    present = torch.rand(n, m, generator=generator) >= 0.1
    present[:, 0] |= ~present.any(1)
    vectors.masked_fill_(~present[..., None], 0)
    return Bundle(vectors, present, tuple("abcdefgh"[:m]), items if rows_per_item > 1 else None)


def measure(name: str) -> dict[str, object]:
    """Seconds on the clock and of the CPU, and how far the peak of memory rose above the inputs."""
    n, m, d = CASES[name]
    bundle = space(n, m, d, rows_per_item=2 if name == "captions" else 1)
    held = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is held
    before = resource.getrusage(resource.RUSAGE_SELF)
    start = time.perf_counter()
    if name == "diagnose":
        diagnostics(bundle)
    else:
        evaluate(bundle, subsets="none" if name == "singles" else "others").to_dict()
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "case": name,
        "n": n,
        "m": m,
        "d": d,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(used, 1),
        "peak_growth_mb": round(_memory("VmHWM") - held),
        "load": round(os.getloadavg()[0], 1),
        "device": "cpu",
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "gramian": __version__,
        "commit": _commit(),
    }


def _memory(name: str) -> float:
    """Megabytes of this process's memory, by its name in Linux's status file."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=CASES, nargs="+", default=list(CASES))
    parser.add_argument("--measure", choices=CASES, help="this one, here: prints one line of JSON")
    options = parser.parse_args(words)
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    rows = {row["case"]: row for row in csv.DictReader(RESULTS.open(encoding="utf-8"))} if RESULTS.exists() else {}
    for name in options.only:
        command = [sys.executable, __file__, "--measure", name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows[name] = json.loads(done.stdout)
        print(done.stdout, end="")
        lines = [",".join(rows[name]), *(",".join(map(str, rows[case].values())) for case in CASES if case in rows)]
        write_text(RESULTS, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
