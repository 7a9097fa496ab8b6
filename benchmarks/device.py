"""GRAM's contrastive step on one device in every form: published, plain, in blocks by cuBLAS in three precisions, Triton.

`benchmarks/device.sh` runs it. The verdict compares the Triton kernels with the strongest rival, blocks by cuBLAS in bfloat16:
below 1.3 times faster they are to be deleted. All forms of a size take turns; medians are compared. `error` is that of the
anchors' gradient, relative to the plain form in float64.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gramian.benchmark.environment import environment
from gramian.benchmark.published import gram_loss
from gramian.geometry import orthogonalize
from gramian.kernels import Form, Residual
from gramian.kernels.rules import Into, Parts
from gramian.losses import info_nce
from gramian.memory import Scratch

ENOUGH = 1.3
M, TEMPERATURE, SMOOTHING = 4, 0.07, 0.1


class InBfloat16(Residual):
    """`Residual` whose products take factors in bfloat16 and add up in float32, as the Triton kernels do."""

    def products(self, queries: Parts, items: Parts, scratch: Scratch | None = None) -> list[Tensor]:
        """CuBLAS'."""
        del scratch
        a, bases = queries[0].bfloat16(), items[1].bfloat16()
        return [_mm(a, basis.T) for basis in bases.unbind(1)]

    def pull_products(self, slopes: Sequence[Tensor], queries: Parts, items: Parts, into: Into) -> None:
        """Likewise."""
        a, bases = queries[0].bfloat16(), items[1].bfloat16()
        for k, slope in enumerate(slope.bfloat16() for slope in slopes):
            if into[0][0] is not None:
                into[0][0].add_(_mm(slope, bases[:, k]))
            if into[1][1] is not None:
                into[1][1][:, k].add_(_mm(slope.T, a))


def _mm(first: Tensor, second: Tensor) -> Tensor:
    if first.is_cuda and hasattr(torch.ops.aten.mm, "dtype"):  # torch 2.8
        return torch.mm(first, second, out_dtype=torch.float32)
    return (first @ second).float()


def step(Z: Tensor, *, rule: type[Residual] = Residual, precision: str = "highest", **options: Any) -> tuple[Tensor, Tensor]:
    """The loss of (n, m, d) unit vectors and its gradient."""
    torch.set_float32_matmul_precision(precision)
    Z = Z.detach().requires_grad_()
    a, own = Z[:, 0], orthogonalize(Z[:, 1:])
    form = Form(rule(M - 1), (a, (a * a).sum(-1)), (-own.volume / TEMPERATURE, own.basis))
    loss = info_nce(form.plain() if options.pop("whole", False) else form, label_smoothing=SMOOTHING, **options)
    return loss, torch.autograd.grad(loss, Z)[0]


def published(Z: Tensor) -> tuple[Tensor, Tensor]:
    """As published: a determinant for each pair."""
    torch.set_float32_matmul_precision("highest")
    Z = Z.detach().requires_grad_()
    loss = gram_loss(Z, TEMPERATURE, SMOOTHING)
    return loss, torch.autograd.grad(loss, Z)[0]


def forms(n: int, block: int, room: float) -> dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]]:
    """The forms whose tables fit into `room` bytes."""
    found: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {}
    if n * n * 4 * (8 * M * M + 12) < room:
        found["published"] = published
    if n * n * 4 * (4 * M + 12) < room:
        found["plain"] = lambda Z: step(Z, whole=True)
    for name, precision in (("fp32", "highest"), ("tf32", "high")):
        found[f"blocked {name}"] = lambda Z, precision=precision: step(Z, precision=precision, block_size=block)  # type: ignore[misc]
        found[f"library {name}"] = lambda Z, precision=precision: step(Z, precision=precision)  # type: ignore[misc]
    found["blocked bf16"] = lambda Z: step(Z, rule=InBfloat16, block_size=block)
    found["library bf16"] = lambda Z: step(Z, rule=InBfloat16)
    found["triton"] = lambda Z: step(Z, backend="triton")
    return found


def wait(device: torch.device) -> None:
    """Until the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(n: int, d: int, rounds: int, block: int, device: torch.device) -> list[dict[str, Any]]:
    """One row per form."""
    Z = F.normalize(torch.randn(n, M, d, generator=torch.Generator().manual_seed(0)), dim=-1).to(device)
    room = 0.4 * torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 2**30
    exact = step(Z.double(), block_size=block)[1][:, 0]
    runs, rows, times = forms(n, block, room), [], {}
    for name, run in list(runs.items()):  # warms up and compiles, too
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
        try:
            grad = run(Z)[1][:, 0]
        except Exception as error:  # one form that fails is a result, too
            print(f"n = {n:,}: {name} FAILED: {type(error).__name__}: {str(error).splitlines()[0]}")
            del runs[name]
            continue
        peak = (torch.cuda.max_memory_allocated(device) - held) / 1e6 if device.type == "cuda" else None
        difference = float((grad.double() - exact).norm() / exact.norm())
        rows.append({"task": "gram", "form": name, "n": n, "m": M, "d": d, "error": difference, "peak_mb": peak})
        times[name] = []
    for _ in range(rounds):
        for name, run in runs.items():
            wait(device)
            started = time.perf_counter()
            run(Z)
            wait(device)
            times[name].append(time.perf_counter() - started)
    for row in rows:
        values = times[row["form"]]
        row |= {"rounds": rounds, "seconds": median(values), "fastest": min(values), "slowest": max(values)}
        row |= environment(device)
        print(f"n = {n:,}: {row['form']:13s} {1e3 * row['seconds']:10.3f} ms   gradient off by {row['error']:.1e}")
    return rows


def main() -> None:
    """Measure, write, decide."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--cpu", action="store_true", help="small sizes, on the CPU")
    arguments = parser.parse_args()
    device = torch.device("cpu" if arguments.cpu else "cuda")
    sizes, d, rounds, block = ((32, 48), 16, 2, 16) if arguments.cpu else ((1024, 4096, 8192, 16384, 32768), 512, 10, 8192)
    rows: list[dict[str, Any]] = []
    verdict = []
    for n in sizes:
        rows += measure(n, d, rounds, block, device)
        with open(arguments.output, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            for row in rows:
                writer.writerow({key: f"{value:.5g}" if isinstance(value, float) else value for key, value in row.items()})
        seconds = {row["form"]: row["seconds"] for row in rows if row["n"] == n}
        if "triton" in seconds:
            rival = min(seconds[name] for name in ("blocked bf16", "library bf16") if name in seconds)
            verdict.append((n, rival / seconds["triton"]))
    print(
        "triton against cuBLAS in bfloat16, times faster:", ", ".join(f"n = {n:,}: {ratio:.2f}" for n, ratio in verdict) or "–"
    )
    large = [ratio for n, ratio in verdict if n >= 4096]
    if device.type == "cuda":
        keep = bool(large) and median(large) >= ENOUGH
        print(f"VERDICT: {'keep' if keep else 'DELETE'} the Triton kernels: median {median(large or [0]):.2f}, {ENOUGH} asked")
    else:
        print("dry run: no verdict")


if __name__ == "__main__":
    main()
