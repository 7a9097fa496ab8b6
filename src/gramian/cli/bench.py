"""`gramian bench`."""

from __future__ import annotations

from pathlib import Path

from gramian.benchmark import bench
from gramian.cli.terminal import console_of
from gramian.files import claimed

__all__ = ["bench_command"]


def bench_command(
    output: Path = Path("runs/bench"),
    tasks: list[str] = ["gram", "pmrl", "scoring"],  # noqa: B006 (the parser copies it)
    sizes: list[int] = [256, 1024, 2048, 4096],  # noqa: B006
    modalities: list[int] = [2, 3, 4, 5],  # noqa: B006
    galleries: list[int] = [10_000, 100_000],  # noqa: B006
    dim: int = 512,
    rounds: int = 5,
    device: str | None = None,
) -> None:
    """Time the published formulas, the plain forms, the blocked forms and the bare matrix products, in turns.

    Args:
        output: folder for costs.csv and costs.png.
        tasks: gram, pmrl, scoring; moments, canonical analysis against an epoch of training, on request.
        sizes: batches of the contrastive steps.
        modalities: numbers of modalities.
        galleries: items that 1,000 queries are scored against, and those of the moments.
        dim: width of the vectors.
        rounds: how often each form is timed.
        device: cpu or cuda; cuda by default where it is available.
    """
    options = {"tasks": tasks, "sizes": sizes, "modalities": modalities, "galleries": galleries}
    with claimed(output):
        bench(output, **options, dim=dim, rounds=rounds, device=device, console=console_of())  # type: ignore[arg-type]
