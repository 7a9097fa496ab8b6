"""`Codes`: the bases of items in 8 bits with a bound on what that loses, for scans that read a quarter of the memory.

Each row of a basis is a step times whole numbers of −127 … 127. With η = ‖B − B̂‖₂ of an item, kept beside its codes, and a
query a = â + e, ‖B a − B̂ â‖ ≤ η ‖a‖ + (1 + η) ‖e‖. So the products of the codes bound every score from above, and what the
bound cannot exclude is scored exactly.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from gramian.errors import InputError, check_type

__all__ = ["Coded", "Codes", "check_int8", "coded", "codes_of", "multiplies_exactly", "products"]

WIDEST = 2**17
"""The largest width d whose products, of at most 127² each, sum to less than 2³¹."""
COARSE = 0.1
"""Errors from which on a bound says nothing: they are set to `NOTHING`."""
NOTHING = 2.0
BLOCK = 4096  # items coded at a time: float64 copies


class Codes(NamedTuple):
    """The bases of n items in 8 bits.

    Attributes:
        numbers: (r, n, d) int8.
        steps: (r, n) float32: what one stands for.
        errors: (n,) float32: an upper bound of ‖B − B̂‖₂.
    """

    numbers: Tensor
    steps: Tensor
    errors: Tensor

    def of(self, rows: Tensor | slice) -> Codes:
        """Those of some items."""
        return Codes(self.numbers[:, rows], self.steps[:, rows], self.errors[rows])


class Coded(NamedTuple):
    """Vectors of q queries, each a sum of two in 8 bits, coarse and fine: two products cost no more than reading the codes.

    Attributes:
        numbers: (q, k, 2, d) int8.
        steps: (q, k, 2) float32.
        errors: (q,) float32: an upper bound of what is lost of all of a query's vectors together.
    """

    numbers: Tensor
    steps: Tensor
    errors: Tensor


def check_int8(int8: bool | None, dim: int) -> None:
    """Check that an index of `dim` dimensions can have codes.

    Raises:
        InputError: it cannot.
    """
    check_type("int8", int8, bool, type(None))
    if int8 and dim > WIDEST:
        raise InputError(f"`int8` takes at most {WIDEST:,} dimensions; got {dim:,}. Leave it out.")


def codes_of(basis: Tensor) -> Codes:
    """The codes of (r, n, d) bases.

    >>> codes = codes_of(torch.tensor([[[0.6, -0.8]]]))
    >>> codes.numbers.tolist(), round(float(codes.steps * 127), 4), float(codes.errors) < 0.005
    ([[[95, -127]]], 0.8, True)
    """
    numbers, steps, errors = [], [], []
    for part in torch.split(basis, BLOCK, 1):
        number, step, rest = _coded(part.double())
        gram = torch.einsum("rnd,snd->nrs", rest, rest)
        numbers.append(number)
        steps.append(step)
        errors.append(_above(gram.abs().sum(-1).amax(-1).sqrt()))  # no eigenvalue exceeds the largest sum of a row
    return Codes(torch.cat(numbers, 1), torch.cat(steps, 1), torch.cat(errors))


def coded(vectors: Tensor) -> Coded:
    """The codes of queries' (q, k, d) vectors, in float64."""
    coarse, first, rest = _coded(vectors)
    fine, second, rest = _coded(rest)
    lost = _above(torch.linalg.vector_norm(rest, dim=(1, 2)))
    return Coded(torch.stack([coarse, fine], 2), torch.stack([first, second], 2), lost)


def products(queries: Coded, numbers: Tensor, steps: Tensor) -> list[Tensor]:
    """The products of the queries' vectors with the rows of c bases: k · r tables (q, c), the rows of each vector in turn.

    Args:
        queries: q of them.
        numbers: (c, r, d), of `Codes`.
        steps: (c, r).

    Returns:
        The tables, in float32.
    """
    q, k, _, d = queries.numbers.shape
    asked = queries.numbers.reshape(-1, d).T.contiguous()
    tables: list[list[Tensor]] = []
    for slot in range(numbers.shape[1]):
        whole = _multiply(numbers[:, slot], asked).T
        table = torch.empty(whole.shape).copy_(whole).view(q, k, 2, -1)
        total = table[:, :, 0].mul_(queries.steps[:, :, :1]).addcmul_(table[:, :, 1], queries.steps[:, :, 1:])
        tables.append(list(total.mul_(steps[:, slot]).unbind(1)))
    return [tables[slot][vector] for vector in range(k) for slot in range(len(tables))]


def _multiply(a: Tensor, b: Tensor) -> Tensor:
    """(n, d) @ (d, q) of int8 in int32."""
    product: Tensor = torch._int_mm(a, b)  # type: ignore[no-untyped-call,unused-ignore]
    return product


@cache
def multiplies_exactly() -> bool:
    """Whether 8-bit products are exact here: without VNNI or the like they are added up in 16 bits, and are slow, too."""
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randint(-127, 128, (n, 512), generator=draw).to(torch.int8) for n in (48, 8))
    a[:2], a[2:4], b[0], b[1] = 127, -127, 127, -127
    try:
        return all(torch.equal(_multiply(a, b[:q].T.contiguous()).long(), a.long() @ b[:q].long().T) for q in (2, 4, 8))
    except (AttributeError, RuntimeError):
        return False


def _coded(vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Whole numbers, steps in float32, and what is left of (…, d) float64 vectors."""
    step = (vectors.abs().amax(-1) / 127).float()
    whole = (vectors / torch.where(step > 0, step, 1).double()[..., None]).round().clamp(-127, 127)
    return whole.to(torch.int8), step, vectors - whole * step.double()[..., None]


def _above(errors: Tensor) -> Tensor:
    """Errors in float32, no smaller than they are."""
    above = (errors * (1 + 1e-6) + 1e-9).float()
    return torch.where(above <= COARSE, above, NOTHING)
