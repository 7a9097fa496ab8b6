"""A bounded load on `gramian.index.service` over loopback: no lost or mixed answers, memory that stays flat, a clean end.

    python benchmarks/serving.py --clients 200 --requests 2000

A server with a made-up index runs in this process; the clients ask for the likes of items whose answers are known beforehand.
It prints requests per second, latencies, resident memory after each quarter, and fails if an answer is lost or another's.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx
import torch
import uvicorn

from gramian.bundle import Bundle
from gramian.index import FlatIndex
from gramian.index.service import service

K = 5


def resident() -> float:
    """Megabytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


async def load(address: str, wanted: dict[str, list[str]], clients: int, requests: int) -> tuple[list[float], int, list[float]]:
    """Latencies, wrong answers and memory."""
    names, times, memory = list(wanted), [], []
    wrong = 0
    queue: asyncio.Queue[int] = asyncio.Queue()
    for number in range(requests):
        queue.put_nowait(number)

    async def client(session: httpx.AsyncClient) -> None:
        nonlocal wrong
        while not queue.empty():
            number = queue.get_nowait()
            name = names[number % len(names)]
            start = time.perf_counter()
            answer = await session.post(f"{address}/search", json={"like": name, "k": K})
            times.append(time.perf_counter() - start)
            wrong += answer.status_code != 200 or [hit["id"] for hit in answer.json()["hits"]] != wanted[name]
            if len(times) % max(1, requests // 4) == 0:
                memory.append(resident())

    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(limits=limits, timeout=120) as session:
        await asyncio.gather(*(client(session) for _ in range(clients)))
    return times, wrong, memory


def run() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--items", type=int, default=5000)
    options = parser.parse_args()
    bundle = Bundle.from_dict({"text": torch.randn(options.items, 64), "image": torch.randn(options.items, 64)})
    with tempfile.TemporaryDirectory() as folder:
        index = FlatIndex.create(Path(folder) / "index", dim=64)
        index.add(bundle, [f"i{i}" for i in range(options.items)])
        asked = [f"i{i}" for i in range(100)]
        wanted = {name: index.search(index.vectors([name]), K, exclude=[name]).ids[0] for name in asked}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server = uvicorn.Server(
            uvicorn.Config(service(index, seconds=100), port=port, log_level="warning", timeout_keep_alive=75, backlog=4096)
        )
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            time.sleep(0.05)
        start = time.perf_counter()
        times, wrong, memory = asyncio.run(load(f"http://127.0.0.1:{port}", wanted, options.clients, options.requests))
        seconds = time.perf_counter() - start
        server.should_exit = True
        thread.join(20)
    slow = statistics.quantiles(times, n=100)[98]
    print(f"{len(times)} of {options.requests} answered, {wrong} wrong; {len(times) / seconds:.0f} requests per second")
    print(f"latency: median {statistics.median(times):.3f} s, 99 % below {slow:.3f} s, {options.clients} clients")
    print(f"resident after each quarter: {', '.join(f'{value:.0f} MB' for value in memory)}; ended {not thread.is_alive()}")
    return int(wrong or len(times) != options.requests or thread.is_alive())


if __name__ == "__main__":
    sys.exit(run())
