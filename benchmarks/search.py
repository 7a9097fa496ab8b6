"""Search against exact answers: recall, time, build, disk, memory; beside what a user would pick instead.

    python benchmarks/search.py                                     # benchmarks/results/search.csv, an hour on two busy cores
    python benchmarks/search.py --sizes 10000 --modalities 3 --output runs/search.csv
    python benchmarks/search.py --sizes 100000 --modalities 3 --indices edge --edge 100000 --merge
    python benchmarks/search.py --sizes 1000000 --indices flat int8 --scores "volume β=1" --merge --keep --folder runs

Synthetic catalogues, d = 512: each item is a latent seen through two or three modalities, 20 % of them missing; a query is
the latent of one item, its true item, seen through another modality. Recall@10 is against the top 10 by float64; `true` is the
share of queries whose true item is among the ten. `flat` is a FlatIndex, `int8` the same with 8-bit codes, `edge` Qdrant Edge
with C candidates of each search. faiss ranks by the largest cosine (union) and by the cosine to the normalised sum (fused);
its recall is against the exact answers by that score.

Times are of the processor, not of the clock: medians of one thread, all in turns with the bare matrix product of the queries
with all bases (`product`), so that what else the machine does matters less. `own MB` and `mapped MB` are what another process
holds after it has opened the index and asked one query ten times: its own memory, and pages of the files, which the system
may drop; `peak MB` is the most that it held of both, with its libraries.
"""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gramian.bundle import Bundle
from gramian.files import write_text
from gramian.geometry import direction
from gramian.index import FlatIndex, QdrantIndex
from gramian.scores import SCORES, span

D, QUERIES, K = 512, 100, 10
PART, ADDED = 2**14, 2**17  # items made, and added, at a time
KINDS = {"centroid": ("centroid", 1.0), "span": ("span", 1.0), "volume β=0": ("volume", 0.0), "volume β=1": ("volume", 1.0)}
INDICES = ("flat", "int8", "edge", "faiss")
HEADER = ["items", "modalities", "index", "score", "recall@10", "true", "query ms", "product ms", "1000 queries s"]
HEADER += ["1000 products s", "build s", "disk MB", "own MB", "mapped MB", "peak MB"]
Row = dict[str, Any]


def catalogue(n: int, m: int) -> Iterator[tuple[Bundle, torch.Tensor]]:
    """N items of m modalities, part by part, and their latents."""
    names = ("text", "image", "audio")[:m]
    for start in range(0, n, PART):
        draw, size = torch.Generator().manual_seed(start), min(PART, n - start)
        latent = torch.randn(size, D, generator=draw)
        columns = {name: latent + 1.6 * torch.randn(size, D, generator=draw) for name in names}
        present = {name: torch.rand(size, generator=draw) > 0.2 for name in names}
        present["text"] |= ~torch.stack(list(present.values())).any(0)
        yield Bundle.from_dict(columns, present=present), latent


def asked(n: int, m: int) -> torch.Tensor:
    """Queries; the true item of the i-th is the i-th of the catalogue, all of whose items are alike."""
    latent = next(catalogue(n, m))[1][:QUERIES]
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.normalize(latent + 2.5 * noise, dim=1)


def exact(kinds: list[tuple[str, float]], queries: torch.Tensor, parts: Iterator[Bundle]) -> list[list[list[int]]]:
    """The top 10 by float64, by each kind of score."""
    best: list[tuple[torch.Tensor, torch.Tensor]] = [(torch.zeros(QUERIES, 0), torch.zeros(QUERIES, 0)) for _ in kinds]
    start = 0
    for part in parts:
        part = part.to(dtype=torch.float64)
        for number, (score, beta) in enumerate(kinds):
            if (score, beta) == ("volume", 0.0):  # ranks by what the item's span holds of the query
                table = span(queries.double(), part, signed=False)
            else:
                table = SCORES[score](queries.double(), part)  # type: ignore[index]
            top = table.topk(min(K, len(part)), dim=1)
            values, rows = (torch.cat(pair, 1) for pair in zip(best[number], (top.values, top.indices + start), strict=True))
            chosen = values.topk(K, dim=1)
            best[number] = chosen.values, rows.gather(1, chosen.indices)
        start += len(part)
    return [rows.long().tolist() for _, rows in best]


def timed(*works: Callable[[], object], rounds: int = 7) -> list[float]:
    """The median seconds of the processor for each, run in turns."""
    for work in works if rounds > 1 else ():
        work()
    times: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for work, own in zip(works, times, strict=True):
            start = time.process_time()
            work()
            own.append(time.process_time() - start)
    return [statistics.median(own) for own in times]


def recall(found: list[list[int]], wanted: list[list[int]]) -> float:
    return statistics.mean(len(set(a) & set(b)) / len(b) for a, b in zip(found, wanted, strict=True))


def held(found: list[list[int]]) -> float:
    """The share of queries whose true item is among the answers."""
    return statistics.mean(query in row for query, row in enumerate(found))


def _without_codes(index: FlatIndex) -> FlatIndex:
    """The same index, which scans in float32."""
    for segment in index.segments:
        segment.codes = None
    return index


def resident(path: Path, *, plain: bool = False) -> Row:
    """What another process holds after it has asked."""
    words = [sys.executable, __file__, "--resident", str(path), *(["--plain"] if plain else [])]
    told = subprocess.run(words, capture_output=True, text=True, check=True)
    return dict(zip(("own MB", "mapped MB", "peak MB"), map(float, told.stdout.split()), strict=True))


def hold(path: Path, plain: bool) -> None:
    """Ask an index, and print this process's own memory and its pages of files, less those before, and its peak, in MB."""
    before = _memory()
    index = _without_codes(FlatIndex.open(path)) if plain else FlatIndex.open(path)
    query = torch.nn.functional.normalize(torch.randn(1, index.dim, generator=torch.Generator().manual_seed(0)), dim=1)
    for _ in range(10):
        index.search(query, K)
    *held, peak = _memory()
    print(*(after - first for after, first in zip(held, before, strict=False)), peak)


def _memory() -> tuple[float, ...]:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return tuple(float(lines[name].split()[0]) / 1e3 for name in ("RssAnon", "RssFile", "VmHWM"))


def measure(n: int, m: int, folder: Path, kinds: set[str], scores: list[str], *, keep: bool) -> Iterator[Row]:
    base: Row = {"items": n, "modalities": m}
    queries = asked(n, m)
    wanted = exact([KINDS[kind] for kind in scores], queries, (bundle for bundle, _ in catalogue(n, m)))
    known = dict(zip(scores, wanted, strict=True))
    if kinds & {"flat", "int8"}:
        for row in _flat(folder / f"flat-{n}-{m}", n, m, queries, known, int8="int8" in kinds, keep=keep):
            if row["index"] in kinds:
                yield base | row
    if "edge" in kinds:
        for row in _edge(folder / "edge", n, m, queries, known):
            yield base | row
    if "faiss" in kinds and "centroid" in known:
        for row in _faiss(Bundle.cat([bundle for bundle, _ in catalogue(n, m)]), queries, known["centroid"]):
            yield base | row


def _flat(
    path: Path, n: int, m: int, queries: torch.Tensor, known: dict[str, list[list[int]]], *, int8: bool, keep: bool
) -> Iterator[Row]:
    more = torch.cat([queries, torch.nn.functional.normalize(torch.randn(900, D), dim=1)])
    start = time.process_time()
    built: Row = {}
    if keep and path.is_dir():
        index = FlatIndex.open(path)
    else:
        index = FlatIndex.create(path, dim=D, int8=int8)
        parts = (bundle for bundle, _ in catalogue(n, m))
        for first in range(0, n, ADDED):
            bundle = Bundle.cat(list(itertools.islice(parts, ADDED // PART)))
            index.add(bundle, [str(i) for i in range(first, first + len(bundle))])
        del bundle
        built = {"build s": time.process_time() - start}
    assert (len(index), index.int8) == (n, int8)
    codes = sum(segment.sides.basis.numel() for segment in index.segments) if int8 else 0
    size = sum(file.stat().st_size for file in path.iterdir())
    indices = {"flat": _without_codes(FlatIndex.open(path))}
    about: dict[str, Row] = {"flat": {"disk MB": (size - codes) / 1e6} | resident(path, plain=True)}
    if int8:
        indices["int8"] = index
        about["int8"] = built | {"disk MB": size / 1e6} | resident(path)
    else:
        about["flat"] |= built
    print(n, m, about, flush=True)
    bases = [segment.sides.basis for segment in indices["flat"].segments]

    def product(a: torch.Tensor) -> None:
        for basis in bases:
            for slot in basis.unbind(0):
                torch.mm(a, slot.T)

    rounds = 7 if n < 10**6 else 3
    for kind, wanted in known.items():
        score, beta = KINDS[kind]
        searches = {
            name: lambda a, index=index, score=score, beta=beta: index.search(a, K, score=score, beta=beta)
            for name, index in indices.items()
        }
        product_ms, *one = timed(
            lambda: product(queries[:1]), *(lambda s=search: s(queries[:1]) for search in searches.values()), rounds=rounds
        )
        for (name, search), seconds in zip(searches.items(), one, strict=True):
            answers = [[int(each) for each in row] for row in search(queries).ids]
            if name == "int8":  # a search for all of them reads no codes
                answers = [[int(each) for each in search(queries[i : i + 1]).ids[0]] for i in range(QUERIES)]
            row: Row = {"index": name, "score": kind, "recall@10": recall(answers, wanted), "true": held(answers)}
            row |= {"query ms": seconds * 1e3, "product ms": product_ms * 1e3} | about[name]
            if name == "flat" and kind in ("centroid", "span"):
                many = timed(lambda: product(more), lambda s=search: s(more), rounds=3 if n < 10**6 else 1)
                row |= {"1000 products s": many[0], "1000 queries s": many[1]}
            yield row
    if not keep:
        shutil.rmtree(path)


def _edge(path: Path, n: int, m: int, queries: torch.Tensor, known: dict[str, list[list[int]]]) -> Iterator[Row]:
    start = time.process_time()
    names = ("text", "image", "audio")[:m]
    index = QdrantIndex.edge(path, dim=D, modalities=names)
    for number, (bundle, _) in enumerate(catalogue(n, m)):
        index.add(bundle, [str(i) for i in range(number * PART, number * PART + len(bundle))])
    index.optimize()
    seconds = time.process_time() - start
    size = sum(one.stat().st_size for one in path.rglob("*") if one.is_file()) / 1e6
    for kind, wanted in known.items():
        score, beta = KINDS[kind]
        if beta != 1:
            continue
        for candidates in (20, 50, 200, 1000):
            index.candidates = candidates
            answers = [[int(name) for name in row] for row in index.search(queries, K, score=score).ids]  # type: ignore[arg-type]
            (one,) = timed(lambda s=score: index.search(queries[:1], K, score=s), rounds=5)
            row = {"index": f"edge, C = {candidates}", "score": kind, "recall@10": recall(answers, wanted)}
            yield row | {"true": held(answers), "query ms": one * 1e3, "build s": seconds, "disk MB": size}
    index.close()
    shutil.rmtree(path)


def _faiss(bundle: Bundle, queries: torch.Tensor, by_centroid: list[list[int]]) -> Iterator[Row]:
    import faiss

    faiss.omp_set_num_threads(1)
    rows = queries.numpy()
    indices = []
    start = time.process_time()
    for name in bundle.modalities:
        own = bundle.has(name).nonzero().flatten().numpy()
        index = faiss.IndexIDMap(faiss.IndexFlatIP(D))
        index.add_with_ids(np.ascontiguousarray(bundle.column(name)[own].numpy()), own)
        indices.append(index)
    union_seconds = time.process_time() - start
    start = time.process_time()
    fused = faiss.IndexFlatIP(D)
    fused.add(direction(bundle.vectors.sum(1)).numpy())
    fused_seconds = time.process_time() - start

    def union(a: np.ndarray) -> list[list[int]]:
        found = [index.search(a, K) for index in indices]
        answers = []
        for query in range(len(a)):
            best: dict[int, float] = {}
            for scores, items in found:
                for score, item in zip(scores[query].tolist(), items[query].tolist(), strict=True):
                    best[item] = max(best.get(item, -2.0), score)
            answers.append(sorted(best, key=best.__getitem__, reverse=True)[:K])
        return answers

    def one_vector(a: np.ndarray) -> list[list[int]]:
        answers: list[list[int]] = fused.search(a, K)[1].tolist()
        return answers

    (by_largest,) = exact([("max_cosine", 1.0)], queries, (bundle[i : i + PART] for i in range(0, len(bundle), PART)))
    for name, search, seconds, score, wanted in (
        ("faiss, union", union, union_seconds, "max_cosine", by_largest),
        ("faiss, fused", one_vector, fused_seconds, "centroid", by_centroid),
    ):
        (one,) = timed(lambda s=search: s(rows[:1]))
        (hundred,) = timed(lambda s=search: s(rows), rounds=3)
        answers = search(rows)
        row = {"index": name, "score": score, "recall@10": recall(answers, wanted), "true": held(answers)}
        yield row | {"query ms": one * 1e3, "1000 queries s": 10 * hundred, "build s": seconds}


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--modalities", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--indices", nargs="+", choices=INDICES, default=list(INDICES))
    parser.add_argument("--scores", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--edge", type=int, default=10_000, help="the largest size that Qdrant Edge is measured at")
    parser.add_argument("--faiss", type=int, default=100_000, help="the largest size that faiss is measured at")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/search.csv"))
    parser.add_argument("--merge", action="store_true", help="keep what else the output has")
    parser.add_argument("--folder", type=Path, help="where the indices are made: 8 GB for a million items")
    parser.add_argument("--keep", action="store_true", help="leave flat indices in --folder, and take those that are there")
    parser.add_argument("--resident", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.resident is not None:
        hold(options.resident, options.plain)
        return
    print(f"torch {torch.__version__}, one thread, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}")
    rows: list[Row] = []
    if options.merge:
        with options.output.open(newline="") as file:
            rows += csv.DictReader(file)
    with nullcontext(options.folder) if options.keep else tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for n in options.sizes:
            for m in options.modalities if n < 10**6 else options.modalities[-1:]:
                largest = {"edge": options.edge, "faiss": options.faiss}
                kinds = {kind for kind in options.indices if n <= largest.get(kind, n)}
                for row in measure(n, m, Path(folder), kinds, options.scores, keep=options.keep):
                    shown = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in row.items()}
                    rows = merged(rows, shown)
                    save(options.output, rows)
                    print(shown, flush=True)


def merged(rows: list[Row], row: Row) -> list[Row]:
    """The rows with one more, over what the file had of the same; rows of one size stand together."""
    key = HEADER[: HEADER.index("recall@10")]
    same = [all(each[name] == row[name] for name in key) for each in rows]
    if any(same):
        return [each | row if is_same else each for each, is_same in zip(rows, same, strict=True)]
    return sorted([*rows, row], key=lambda each: (int(each["items"]), int(each["modalities"])))


def save(path: Path, rows: list[Row]) -> None:
    """The rows as CSV."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, HEADER)
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


if __name__ == "__main__":
    run()
