"""One pass of `Moments` over a memory-mapped file, and the solution: seconds and memory, in one process or several.

    OMP_NUM_THREADS=2 python benchmarks/moments.py --items 1000000
    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 benchmarks/moments.py --items 1000000

The file, three float32 modalities that share 64 components, is written on the first run: 6 GB for a million items of width 512.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from gramian.canonical import Moments, solve

NAMES = ("a", "b", "c")
BLOCK = 32_768


def written(path: Path, items: int, width: int) -> Path:
    if path.exists():
        return path
    partial = path.with_suffix(".partial")
    array = np.lib.format.open_memmap(partial, "w+", np.float32, (len(NAMES), items, width))
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(len(NAMES), 64, width, generator=generator)
    for start in range(0, items, BLOCK):
        shared = torch.randn(min(BLOCK, items - start), 64, generator=generator)
        for number, each in enumerate(maps):
            noise = torch.randn(len(shared), width, generator=generator)
            array[number, start : start + len(shared)] = (shared @ each + 8 * noise).numpy()
    array.flush()
    return partial.rename(path)


def own_memory() -> int:
    """MB of memory that is no page of a file."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    path = options.folder / f"moments_{options.items}_{options.width}.npy"
    if size > 1:
        dist.init_process_group("gloo")
    if rank == 0:
        written(path, options.items, options.width)
    if size > 1:
        dist.barrier()

    array = np.load(path, mmap_mode="r")
    first, last = options.items * rank // size, options.items * (rank + 1) // size
    before, most = own_memory(), 0
    start = time.perf_counter()
    moments = Moments(dict.fromkeys(NAMES, options.width))
    for row in range(first, last, BLOCK):
        rows = slice(row, min(row + BLOCK, last))
        moments.add({name: torch.from_numpy(array[number, rows].copy()) for number, name in enumerate(NAMES)})
        most = max(most, own_memory() - before)
    if size > 1:
        moments = moments.over_processes()
    summed = time.perf_counter()
    if rank == 0:
        solve(moments, options.dim)
    solved = time.perf_counter()

    product, rows = torch.zeros(options.width, options.width, dtype=torch.float64), torch.randn(4096, options.width).double()
    for _ in range(100):
        product.addmm_(rows.mT, rows)
    products = (time.perf_counter() - solved) / 100 * 6 * (last - first) / 4096
    if rank == 0:
        figures = {
            "items": options.items,
            "width": options.width,
            "processes": size,
            "threads": torch.get_num_threads(),
            "moments_s": round(summed - start, 1),
            "solve_s": round(solved - summed, 1),
            "bare_products_s": round(products, 1),
            "own_memory_mb": most,
            "load": round(os.getloadavg()[0], 1),
        }
        print(json.dumps(figures))
    if size > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
