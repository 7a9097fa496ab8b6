"""Search against exact answers: recall, latency, build, disk; beside faiss flat per modality with union, and one fused vector.

    python benchmarks/search.py --sizes 10000 100000 --output benchmarks/results/search.csv

Synthetic catalogues, d = 512: each item is a latent seen through two or three modalities, 20 % of them missing; a query is
the latent of one item, its true item, seen through another modality. Recall@10 is against the top 10 by float64; `true` is the
share of queries whose true item is among the ten; `product` is the time of the bare matrix product of the queries with all
bases, in turns with the search. Medians. faiss ranks by the largest cosine (union) and by the cosine to the normalised sum
(fused): what a user would pick instead; their recall is against the exact answers by that score.
"""

from __future__ import annotations

import argparse
import csv
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from gramian.bundle import Bundle
from gramian.geometry import direction
from gramian.index import FlatIndex, QdrantIndex
from gramian.scores import SCORES

D, QUERIES, K = 512, 100, 10


def catalogue(n: int, m: int, seed: int = 0) -> tuple[Bundle, torch.Tensor, torch.Tensor]:
    """N items of m modalities, queries, and the true item of each query."""
    draw = torch.Generator().manual_seed(seed)
    latent = torch.randn(n, D, generator=draw)
    names = ("text", "image", "audio")[:m]
    columns = {name: latent + 1.6 * torch.randn(n, D, generator=draw) for name in names}
    present = {name: torch.rand(n, generator=draw) > 0.2 for name in names}
    present["text"] |= ~torch.stack(list(present.values())).any(0)
    true = torch.randperm(n, generator=draw)[:QUERIES]
    queries = torch.nn.functional.normalize(latent[true] + 2.5 * torch.randn(QUERIES, D, generator=draw), dim=1)
    return Bundle.from_dict(columns, present=present), queries, true


def exact(score: str, queries: torch.Tensor, bundle: Bundle) -> list[list[int]]:
    """The top 10 by float64."""
    values, rows = [], []
    for start in range(0, len(bundle), 10000):
        part = bundle[start : start + 10000].to(dtype=torch.float64)
        best = SCORES[score](queries.double(), part).topk(K, dim=1)  # type: ignore[index]
        values.append(best.values)
        rows.append(best.indices + start)
    table, index = torch.cat(values, 1), torch.cat(rows, 1)
    return index.gather(1, table.topk(K, dim=1).indices).tolist()


def timed(*works: Callable[[], object], rounds: int = 7) -> list[float]:
    """The median seconds of each, run in turns."""
    for work in works:
        work()
    times: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for work, own in zip(works, times, strict=True):
            start = time.perf_counter()
            work()
            own.append(time.perf_counter() - start)
    return [statistics.median(own) for own in times]


def recall(found: list[list[int]], wanted: list[list[int]]) -> float:
    return statistics.mean(len(set(a) & set(b)) / len(b) for a, b in zip(found, wanted, strict=True))


def held(found: list[list[int]], true: torch.Tensor) -> float:
    return statistics.mean(int(t) in row for row, t in zip(found, true.tolist(), strict=True))


def measure(n: int, m: int, folder: Path, with_edge: bool) -> list[dict[str, object]]:
    bundle, queries, true = catalogue(n, m)
    ids = [str(i) for i in range(n)]
    start = time.perf_counter()
    flat = FlatIndex.create(folder / f"flat{n}-{m}", dim=D)
    for first in range(0, n, 16384):
        flat.add(bundle[first : first + 16384], ids[first : first + 16384])
    seconds = time.perf_counter() - start
    disk = sum(path.stat().st_size for path in flat.path.iterdir()) / 1e6
    bases = [segment.sides.basis for segment in flat.segments]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    base = {"items": n, "modalities": m}
    rows: list[dict[str, object]] = []

    def product(a: torch.Tensor) -> None:
        for basis in bases:
            for slot in basis.unbind(0):
                torch.mm(a, slot.T)

    for score in ("centroid", "span", "volume"):
        answers = [[int(name) for name in row] for row in flat.search(queries, K, score=score).ids]
        wanted = exact(score, queries, bundle)
        one = timed(lambda s=score: flat.search(queries[:1], K, score=s), lambda: product(queries[:1]))
        many = timed(lambda s=score: flat.search(queries, K, score=s), lambda: product(queries), rounds=3)
        rows.append(
            base
            | {"index": "flat", "score": score, "recall@10": recall(answers, wanted), "true": held(answers, true)}
            | {"query ms": one[0] * 1e3, "product ms": one[1] * 1e3, "100 queries s": many[0], "100 products s": many[1]}
            | {"build s": seconds, "disk MB": disk, "peak MB": memory}
        )
        if with_edge and score != "volume":
            rows.append(base | _edge(folder / f"edge{n}-{m}", bundle, ids, queries, true, wanted, score))
    rows += [base | row for row in _faiss(bundle, queries, true)]
    return rows


_EDGES: dict[Path, tuple[QdrantIndex, float]] = {}


def _edge(
    path: Path, bundle: Bundle, ids: list[str], queries: torch.Tensor, true: torch.Tensor, wanted: list[list[int]], score: str
):
    if path not in _EDGES:
        start = time.perf_counter()
        made = QdrantIndex.edge(path, dim=D, modalities=bundle.modalities, candidates=200)
        made.add(bundle, ids)
        made.optimize()
        _EDGES[path] = made, time.perf_counter() - start
    index, seconds = _EDGES[path]
    answers = [[int(name) for name in row] for row in index.search(queries, K, score=score).ids]
    (one,) = timed(lambda: index.search(queries[:1], K, score=score))
    disk = sum(one.stat().st_size for one in path.rglob("*") if one.is_file()) / 1e6
    found = {"index": "edge, C = 200", "score": score, "recall@10": recall(answers, wanted), "true": held(answers, true)}
    return found | {"query ms": one * 1e3, "build s": seconds, "disk MB": disk}


def _faiss(bundle: Bundle, queries: torch.Tensor, true: torch.Tensor) -> list[dict[str, object]]:
    import faiss

    asked = queries.numpy()
    indices = []
    start = time.perf_counter()
    for name in bundle.modalities:
        rows = bundle.has(name).nonzero().flatten().numpy()
        index = faiss.IndexIDMap(faiss.IndexFlatIP(D))
        index.add_with_ids(np.ascontiguousarray(bundle.column(name)[rows].numpy()), rows)
        indices.append(index)
    union_seconds = time.perf_counter() - start
    start = time.perf_counter()
    fused = faiss.IndexFlatIP(D)
    fused.add(direction(bundle.vectors.sum(1)).numpy())
    fused_seconds = time.perf_counter() - start

    def union(a: np.ndarray) -> list[list[int]]:
        found = [index.search(a, K) for index in indices]
        answers = []
        for query in range(len(a)):
            best: dict[int, float] = {}
            for scores, rows in found:
                for score, row in zip(scores[query].tolist(), rows[query].tolist(), strict=True):
                    best[row] = max(best.get(row, -2.0), score)
            answers.append(sorted(best, key=best.__getitem__, reverse=True)[:K])
        return answers

    def one_vector(a: np.ndarray) -> list[list[int]]:
        answers: list[list[int]] = fused.search(a, K)[1].tolist()
        return answers

    rows: list[dict[str, object]] = []
    for name, search, seconds, score in (
        ("faiss, union", union, union_seconds, "max_cosine"),
        ("faiss, fused", one_vector, fused_seconds, "centroid"),
    ):
        one = timed(lambda s=search: s(asked[:1]))[0]
        many = timed(lambda s=search: s(asked), rounds=3)[0]
        answers = search(asked)
        row = {"index": name, "score": score, "recall@10": recall(answers, exact(score, queries, bundle))}
        rows.append(row | {"true": held(answers, true), "query ms": one * 1e3, "100 queries s": many, "build s": seconds})
    return rows


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--modalities", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--edge", type=int, default=10_000, help="the largest size that Qdrant Edge is measured at")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/search.csv"))
    options = parser.parse_args()
    names = ["items", "modalities", "index", "score", "recall@10", "true", "query ms", "product ms", "100 queries s"]
    names += ["100 products s", "build s", "disk MB", "peak MB"]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}")
    with tempfile.TemporaryDirectory() as folder, options.output.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        for n in options.sizes:
            for m in options.modalities:
                for row in measure(n, m, Path(folder), n <= options.edge):
                    shown = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in row.items()}
                    writer.writerow(shown)
                    file.flush()
                    print(shown, flush=True)


if __name__ == "__main__":
    run()
