"""Reductions of a (q, n) table of scores that is never held whole: each tile is made, used and dropped.

The backward pass recomputes the tiles, or uses the inner products that the forward pass kept where they fit.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor

from gramian.kernels.rules import Form, Given, Into, Parts, Rule, Tile
from gramian.memory import ALLOCATOR, Scratch

__all__ = ["Differentiable", "Pairs", "Place", "Reduction", "all_pairs", "backward", "forward", "reduced", "tile_size"]

Part = TypeVar("Part", Tensor, Tensor | None)

KEEP = 2**28  # bytes of inner products that are kept for the backward pass
PLAIN = 2**20  # pairs up to which autograd over the whole table is used
TILE = 1024  # rows and columns of a tile on the CPU
TILE_KEPT = 2048  # of one whose products are kept, so that they take no more memory for being larger
TILE_CUDA = 8192
ENTRIES = 2**24  # numbers that a tile of a rule with many per pair holds at a time on the CPU
ENTRIES_CUDA = 2**28
# Pairs of a tile that the elementwise passes take at a time on the CPU: what they read and write then stays in the caches.
BAND = 2**18


@dataclass(frozen=True)
class Pairs:
    """Which pairs of the table count, and which match.

    Attributes:
        row_ids: (q,), or None: every pair counts.
        column_ids: (n,). A pair of equal ids is left out unless it is a match.
        shift: the column that matches row 0; row i matches column i + shift. NOWHERE for a table without matches.
    """

    row_ids: Tensor | None = None
    column_ids: Tensor | None = None
    shift: int = 0

    NOWHERE: ClassVar[int] = 2**40

    def matches(self, tile: Tensor, rows: slice, columns: slice) -> tuple[Tensor, slice]:
        """A view of the tile's matches, and the rows of the table that they are in."""
        offset = rows.start + self.shift - columns.start
        diagonal = torch.diagonal(tile, offset) if -tile.shape[0] < offset < tile.shape[1] else tile.new_empty(0)
        first = rows.start + max(0, -offset)
        return diagonal, slice(first, first + len(diagonal))

    def excluded(self, rows: slice, columns: slice) -> Tensor | None:
        """(b, c) bool; None where every pair counts."""
        if self.row_ids is None or self.column_ids is None:
            return None
        same = self.row_ids[rows, None] == self.column_ids[columns]
        self.matches(same, rows, columns)[0].fill_(False)
        return same


class Place(NamedTuple):
    """Where a tile, or a band of its rows, lies in the table, and the memory that it is computed in."""

    rows: slice
    columns: slice
    scratch: Scratch

    @property
    def shape(self) -> tuple[int, int]:
        """(b, c): its rows and columns."""
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start


@dataclass(frozen=True)
class Reduction(ABC):
    """What the tiles are reduced to: tensors that are updated tile by tile."""

    @abstractmethod
    def start(self, q: int, n: int, like: Tensor) -> list[Tensor]:
        """The tensors before the first tile."""

    @abstractmethod
    def add(self, totals: list[Tensor], scores: Tensor, at: Place) -> None:
        """Add one tile, which is left unchanged."""

    def reads(self, at: Place) -> bool:
        """Whether the reduction needs the tile; others are not computed."""
        del at
        return True


@dataclass(frozen=True)
class Differentiable(Reduction):
    """A reduction with the gradient of each tile from those of its tensors.

    Attributes:
        pairs: which count and which match.
        of_items: which of the tensors have one row per item; the others have one row per query.
    """

    pairs: Pairs = Pairs()
    of_items: ClassVar[tuple[int, ...]] = ()

    def finish(self, totals: Sequence[Tensor], like: Tensor) -> list[Tensor]:
        """The tensors after the last tile, in the type of `like`."""
        return [total.to(like.dtype) for total in totals]

    def prepare(self, totals: Sequence[Tensor], grads: Sequence[Tensor]) -> Any:
        """What the gradients of all tiles need, from the finished tensors and their gradients."""
        return totals, grads

    @abstractmethod
    def gradient(self, prepared: Any, scores: Tensor, at: Place) -> Tensor:
        """The gradient of one tile; it may be written over."""


@dataclass(frozen=True)
class _Table(Differentiable):
    """The table itself."""

    def start(self, q: int, n: int, like: Tensor) -> list[Tensor]:
        return [like.new_empty(q, n)]

    def add(self, totals: list[Tensor], scores: Tensor, at: Place) -> None:
        totals[0][at.rows, at.columns] = scores

    def gradient(self, prepared: Any, scores: Tensor, at: Place) -> Tensor:
        del scores
        return prepared[1][0][at.rows, at.columns]  # type: ignore[no-any-return]


def all_pairs(form: Form, *, block_size: int | None = None) -> Tensor:
    """The (q, n) scores themselves, computed in the memory of one tile beside them."""
    if block_size is None and _serves_whole(form):
        return form.plain()
    return reduced(form, _Table(), block_size)[0]


def reduced(form: Form, reduction: Differentiable, block_size: int | None) -> list[Tensor]:
    """The finished tensors of a reduction of all pairs, under autograd; with a `block_size` no tile is kept."""
    rule, (q, n) = form.rule, form.shape
    parts = (*form.queries, *form.items)
    graph = torch.is_grad_enabled() and any(part.requires_grad for part in parts)
    keep = graph and block_size is None and 0 < rule.width * q * n * parts[0].element_size() <= KEEP
    tile = tile_size(form, block_size, kept=keep)
    if not graph:
        totals = reduction.start(q, n, parts[0])
        forward(rule, reduction, totals, form.queries, form.items, tile=tile)
        return reduction.finish(totals, parts[0])
    if (
        block_size is None and rule.width == 0 and _serves_whole(form)
    ):  # autograd over the whole avoids computing the tiles twice
        return reduced(Given.form(form.plain()), reduction, None)
    return list(_Reduce.apply(rule, reduction, tile, keep, len(form.queries), *parts))  # type: ignore[no-untyped-call]


def forward(
    rule: Rule, reduction: Reduction, totals: list[Tensor], queries: Parts, items: Parts, *, tile: int, keep: bool = False
) -> list[list[Tensor]]:
    """Reduce all tiles into `totals`; return the inner products of each tile with `keep`."""
    kept = []
    scratch = Scratch(queries[0])
    with torch.no_grad():
        for at in tiles(queries, items, tile):
            if not reduction.reads(at):
                continue
            others = cut(items, at.columns)
            own = at.scratch
            if keep:
                own = Scratch(queries[0])
                own.start(*at.shape)
            products = rule.products(cut(queries, at.rows), others, own)
            for rows, band in bands(rule, at, scratch):
                part = Tile(cut(products, rows), cut(queries, band.rows), others, band.scratch)
                reduction.add(totals, rule.scores(part, trace=False)[0], band)
            if keep:
                kept.append(products)
    return kept


def backward(
    rule: Rule,
    reduction: Differentiable,
    totals: Sequence[Tensor],
    grads: Sequence[Tensor],
    queries: Parts,
    items: Parts,
    into: Into,
    *,
    tile: int,
    kept: Sequence[list[Tensor]] | None = None,
) -> None:
    """Add the gradient of the parts to the tensors in `into`; it is written over the `kept` products."""
    scratch = Scratch(queries[0])
    with torch.no_grad():
        prepared = reduction.prepare(totals, grads)
        for number, at in enumerate(tiles(queries, items, tile)):
            own, others = cut(queries, at.rows), cut(items, at.columns)
            into_items = cut(into[1], at.columns)
            products = kept[number] if kept else rule.products(own, others, at.scratch)
            for rows, band in bands(rule, at, scratch):
                part = Tile(cut(products, rows), cut(own, rows), others, band.scratch)
                scores, trace = rule.scores(part, trace=True)
                grad = reduction.gradient(prepared, scores, band)
                rule.pull(trace, part, grad, (cut(into[0], band.rows), into_items))
            rule.pull_products(products, own, others, (cut(into[0], at.rows), into_items))


def tiles(queries: Parts, items: Parts, size: int) -> Iterator[Place]:
    """Where each tile of the table lies; all share the same memory."""
    q, n = len(queries[0]), len(items[0])
    scratch = Scratch(queries[0])
    for row in range(0, q, size):
        for column in range(0, n, size):
            rows, columns = slice(row, min(row + size, q)), slice(column, min(column + size, n))
            at = Place(rows, columns, scratch)
            scratch.start(*at.shape)
            yield at


def bands(rule: Rule, at: Place, scratch: Scratch) -> Iterator[tuple[slice, Place]]:
    """A tile by bands of its rows: where each lies within the tile and in the table; all share the memory of `scratch`.

    One band where the rule has no products, and on other devices than the CPU.
    """
    high, wide = at.shape
    size = max(1, BAND // max(1, wide)) if rule.width and scratch.on_cpu else high
    for first in range(0, high, size):
        rows = slice(first, min(first + size, high))
        scratch.start(rows.stop - rows.start, wide)
        yield rows, Place(slice(at.rows.start + rows.start, at.rows.start + rows.stop), at.columns, scratch)


def cut(parts: Sequence[Part], rows: slice) -> tuple[Part, ...]:
    """The same rows of every part that is not None."""
    return tuple(part if part is None else part[rows] for part in parts)


def tile_size(form: Form, block_size: int | None, *, kept: bool = False) -> int:
    """Rows and columns of a tile: `block_size`, or what suits the device and the numbers per pair."""
    if block_size is not None:
        return block_size
    size, entries = (TILE_CUDA, ENTRIES_CUDA) if form.queries[0].is_cuda else (TILE_KEPT if kept else TILE, ENTRIES)
    return max(1, min(size, math.isqrt(entries // form.rule.entries)))


def _serves_whole(form: Form) -> bool:
    """Whether all pairs together are no more than a tile or two."""
    q, n = form.shape
    return q * n <= PLAIN and q * n * form.rule.entries <= ENTRIES


class _Reduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rule: Rule, reduction: Differentiable, tile: int, keep: bool, split: int, *parts: Tensor) -> Any:
        queries, items = parts[:split], parts[split:]
        totals = reduction.start(len(queries[0]), len(items[0]), queries[0])
        ctx.kept = forward(rule, reduction, totals, queries, items, tile=tile, keep=keep)
        totals = reduction.finish(totals, queries[0])
        ctx.rule, ctx.reduction, ctx.tile, ctx.split = rule, reduction, tile, split
        # The table itself need not be kept: its gradient does not depend on it.
        ctx.save_for_backward(*parts, *(() if isinstance(reduction, _Table) else totals))
        return tuple(totals)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        count = len(ctx.needs_input_grad) - 5
        parts, totals = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        wanted = ctx.needs_input_grad[5:]
        into = [ALLOCATOR.empty(part, part.shape).zero_() if wants else None for part, wants in zip(parts, wanted, strict=True)]
        kept, ctx.kept = ctx.kept, None  # a second backward pass makes them again
        with torch.autocast(parts[0].device.type, enabled=False):
            backward(
                ctx.rule,
                ctx.reduction,
                totals,
                grads,
                parts[: ctx.split],
                parts[ctx.split :],
                (into[: ctx.split], into[ctx.split :]),
                tile=ctx.tile,
                kept=kept,
            )
        return None, None, None, None, None, *into
