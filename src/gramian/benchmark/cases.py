"""What `gramian bench` times: the forms of each computation at one size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations_with_replacement

import torch
import torch.nn.functional as F
from torch import Tensor

from gramian.benchmark.published import gram_loss, pmrl_loss, volumes
from gramian.bundle import Bundle
from gramian.canonical import Moments, solve
from gramian.factorisations import safe_sqrt
from gramian.geometry import orthogonalize
from gramian.losses import PMRL, Gram, Pairwise
from gramian.scores import negative_volume

__all__ = ["NAMES", "TASKS", "Case", "cases"]

NAMES = ("text", "image", "audio", "depth", "video", "touch", "smell", "taste")
TASKS = ("gram", "pmrl", "scoring", "moments")


@dataclass(frozen=True)
class Case:
    """Forms of one computation, to be timed in turn: form → (function, bytes it is known to need)."""

    task: str
    work: str
    q: int
    n: int
    m: int
    d: int
    forms: dict[str, tuple[Callable[[], object], int]]


def cases(
    tasks: Sequence[str],
    sizes: Sequence[int],
    modalities: Sequence[int],
    galleries: Sequence[int],
    dim: int,
    device: torch.device,
) -> Iterator[Case]:
    """Every computation of the tasks at every size; arguments as of `bench`."""
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


def _gram(n: int, m: int, d: int, work: str, device: torch.device) -> Case:
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
    return Case("gram", work, n, n, m, d, forms)


def _pmrl(n: int, m: int, d: int, work: str, device: torch.device) -> Case:
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
    return Case("pmrl", work, n, n, m, d, forms)


def _scoring(q: int, n: int, m: int, d: int, device: torch.device) -> Case:
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
    return Case("scoring", "forward", q, n, m, d, {form: (torch.no_grad()(run), size) for form, (run, size) in forms.items()})


def _moments(n: int, m: int, d: int, device: torch.device) -> Case:
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
    return Case("moments", "forward", n, n, m, d, forms)


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
