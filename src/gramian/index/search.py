"""The best items of all segments for each query: a scan bounds every score, and what the bounds leave is scored in float64.

The scan ranks by upper bounds, from products in float32 or in 8 bits, by the kernels' top-k. Its candidates are scored exactly,
best bound first, until no bound is left that reaches the k-th answer. Where the bound of the worst candidate still does, the
query is scanned again for more candidates. So an answer is missed only if its bound is wrong, and none is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from gramian.bundle import Bundle
from gramian.errors import InputError
from gramian.factorisations import full_precision
from gramian.index.codes import Coded, coded, multiplies_exactly
from gramian.index.protocol import Options
from gramian.index.scan import Scorer, pairs, scan, scan_codes, scorer_of
from gramian.index.segments import Segment
from gramian.kernels import Form
from gramian.kernels.ranks import top_k
from gramian.kernels.rules import Parts
from gramian.scores import SCORES, hub_scores
from gramian.scores.sides import Side
from gramian.tokens import Tokens

__all__ = ["Ranking", "best"]

Ranking: TypeAlias = "list[tuple[float, int, int]]"
"""(score, segment, row), best first."""

MORE, MORE_CODED = 24, 246  # candidates beyond k: of 100,000 items, 8 bits leave some dozens
AGAIN = 4  # times as many for the queries that need more
MOST_CODED = 2**13  # candidates from which on a scan in float32 is cheaper
MOST = 2**16  # candidates per query, where that many tie to rounding
FEW_VECTORS = 16  # of queries, up to which the codes pay: more candidates each, and many products cost more than reading
FEW = 0.25  # the share of visible items below which they are gathered first
GATHERED = 2**14  # items gathered at a time
PIECE = 2**28  # bytes that a scan reads before it gives pages back, where they do not stay
RECOVERED = 2**12  # items whose vectors are recovered at a time
GROUP = 8  # queries of a slow score at a time
NUMBERS = 2**24  # numbers of chosen pairs' bases, or of candidates, held at a time
WIDE, SQUARE = 2**17, 2**10  # columns of a tile for a few queries, and for many
ROUNDING = 64 * torch.finfo(torch.float32).eps  # of bounds, and of their order


@full_precision
@torch.no_grad()
def best(
    segments: Sequence[Segment], visible: Sequence[Tensor], queries: Bundle, options: Options, bank: Bundle | None = None
) -> list[Ranking]:
    """The k best visible items for each query.

    Args:
        segments: of an index.
        visible: which items of each may be found.
        queries: q items.
        options: of the search.
        bank: training items, to correct scores for hubs.

    Returns:
        One list per query.

    Raises:
        InputError: a score that cannot be corrected for hubs.
    """
    tokens = any(len(each.sides.tokens) for each in segments)
    scorer = None if options.score == "maxsim" and tokens else scorer_of(options.score, options.beta)
    if bank is not None and (scorer is None or scorer.residual):
        raise InputError(f"`hubs` does not correct the score {options.score}. Use centroid, span or cosine.")
    k = min(options.k, sum(int(mask.sum()) for mask in visible))
    answers: list[Ranking] = [[] for _ in range(len(queries))]
    codes = scorer is not None and scorer.coarse and all(each.codes is not None for each in segments)
    codes = codes and len(queries) * (len(queries.modalities) + 1) <= FEW_VECTORS and multiplies_exactly()
    rounds = [(torch.arange(len(queries)), k + max(MORE_CODED if codes else MORE, k // 2), codes)] if k else []
    while rounds:
        left, count, codes = rounds.pop()
        unsure = []
        for which in torch.split(left, max(1, NUMBERS // count)):
            found, sure = _Search(segments, visible, queries[which], options, scorer, bank, codes).run(k, count)
            unsure.append(which[~sure])
            for query, answer in zip(which.tolist(), found, strict=True):
                answers[query] = answer
        left = torch.cat(unsure)
        if len(left) and count < MOST:
            rounds.append((left, k + MORE, False) if codes and count >= MOST_CODED else (left, count * AGAIN, codes))
    return answers


class _Search:
    """One scan for some queries, and the exact scores of what it finds."""

    def __init__(
        self,
        segments: Sequence[Segment],
        visible: Sequence[Tensor],
        queries: Bundle,
        options: Options,
        scorer: Scorer | None,
        bank: Bundle | None,
        codes: bool,
    ) -> None:
        self.segments, self.visible, self.queries = segments, visible, queries
        self.options, self.scorer, self.bank = options, scorer, bank
        self.asked: Parts = ()
        self.coded: Coded | None = None
        if scorer is not None:
            self.asked = scorer.queries(Side(queries.vectors.double(), queries.present))
            self.coded = coded(self.asked[0]) if codes else None

    def run(self, k: int, count: int) -> tuple[list[Ranking], Tensor]:
        """The k best of `count` candidates for each query, and whether no other item can be among them, (q,)."""
        parts = [self._scan(number, count) for number, mask in enumerate(self.visible) if mask.any()]
        values, numbers, rows = (torch.cat([part[i] for part in parts], 1) for i in range(3))
        if len(parts) > 1 or values.shape[1] > count:
            order = values.argsort(dim=1, descending=True, stable=True)[:, :count]
            values, numbers, rows = (table.gather(1, order) for table in (values, numbers, rows))
        scores = self._exact(k, values, numbers, rows)
        order = _order(scores, numbers, rows)[:, :k]
        best = scores.gather(1, order)
        sure = torch.ones(len(best), dtype=torch.bool)
        if values.shape[1] == count:
            sure = (values[:, -1] == -torch.inf) | (values[:, -1] < self._bar(best))
        table = (best.tolist(), numbers.gather(1, order).tolist(), rows.gather(1, order).tolist())
        found = [[each for each in zip(*row, strict=True) if each[0] > -torch.inf] for row in zip(*table, strict=True)]
        return found, sure

    def _bar(self, best: Tensor) -> Tensor:
        """(q,): what has a bound below it is worse than the k best."""
        kth = best[:, -1]
        return (kth if self.scorer is None else self.scorer.gauge(kth)) - ROUNDING

    def _exact(self, k: int, values: Tensor, numbers: Tensor, rows: Tensor) -> Tensor:
        """The scores of the candidates that may be among the k best, (q, c), in float64; −∞ for the others."""
        if self.scorer is None:
            return self._exact_slow(numbers, rows).masked_fill(values.isinf(), -torch.inf)
        scores = torch.full(values.shape, -torch.inf, dtype=torch.float64)
        wanted = values > -torch.inf
        first = wanted.clone()
        first[:, k:] = False
        scores[first] = self._pairs(first, numbers, rows)
        bar = self._bar(scores.topk(min(k, scores.shape[1]), dim=1).values)
        second = wanted & ~first & (values >= bar[:, None])
        scores[second] = self._pairs(second, numbers, rows)
        return scores

    def _scan(self, number: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """The candidates of one segment: bounds that rank them, (q, c), the segment's number and their rows."""
        segment, mask = self.segments[number], self.visible[number]
        axis = _axis(segment, self.options.modalities)
        if len(axis) < len(segment.modalities):
            mask = mask & segment.sides.present[:, axis].any(1)
        index = mask.nonzero().flatten()
        if not len(index):
            rows = torch.zeros(len(self.queries), 0, dtype=torch.int64)
            return torch.zeros(len(self.queries), 0), rows, rows
        if self.scorer is None:
            values, rows = self._scan_slow(number, index, axis, count)
        elif len(index) >= FEW * len(segment):
            values, rows = self._scan_all(number, None if mask.all() else mask, count)
        else:
            tables = []
            for part in segment.walk(index, GATHERED):
                values, places = top_k(self._form(number, part, None), count, block_size=self._size())
                tables.append((values, part[places]))
            values, rows = _beside(tables)
        return values, torch.full_like(rows, number), rows

    def _scan_all(self, number: int, mask: Tensor | None, count: int) -> tuple[Tensor, Tensor]:
        """All items of a segment, but for those that a mask hides; at once where its pages stay, else piece by piece."""
        segment = self.segments[number]
        r, n, d = segment.sides.basis.shape
        size = max(1, n if segment.stays else PIECE // (4 * r * d))
        tables = []
        for start in range(0, n, size):
            rows = slice(start, min(n, start + size))
            offset = None if mask is None else torch.zeros(rows.stop - start).masked_fill(~mask[rows], -torch.inf)
            values, places = top_k(self._form(number, rows, offset), count, block_size=self._size())
            tables.append((values, places + start))
            segment.give_back()
        return _beside(tables)

    def _size(self) -> int:
        return SQUARE if len(self.queries) * self.asked[0].shape[1] > FEW_VECTORS else WIDE

    def _form(self, number: int, rows: Tensor | slice, offset: Tensor | None) -> Form:
        """The bounds of the queries' scores with some items of a segment, plus an offset of each of these."""
        assert self.scorer is not None
        segment = self.segments[number]
        parts = tuple(part if part is None else part[rows] for part in _parts(segment, self.options, self.scorer))
        scale = None
        if self.bank is not None:
            hubs = _hubs(segment, self.queries, self.options, self.bank)[rows]
            scale = torch.full_like(hubs, 2.0)
            offset = -hubs if offset is None else offset - hubs
        asked = tuple(part.float() for part in self.asked)
        if self.coded is not None and segment.codes is not None:
            return scan_codes(self.scorer, asked, self.coded, segment.codes.of(rows), parts, scale, offset)
        return scan(self.scorer, asked, segment.sides.basis[:, rows], parts, scale, offset)

    def _pairs(self, wanted: Tensor, numbers: Tensor, rows: Tensor) -> Tensor:
        """The scores of the candidates that are wanted, in float64."""
        assert self.scorer is not None
        segments, options = self.segments, self.options
        rank, m, d = max(len(each.sides.basis) for each in segments), len(options.modalities), self.queries.dim
        which = wanted.nonzero()[:, 0]
        tables = [torch.zeros(0, dtype=torch.float64)]
        step = max(1, NUMBERS // (rank * d))
        chunks = (torch.split(each, step) for each in (which, numbers[wanted], rows[wanted]))
        for part, number, row in zip(*chunks, strict=True):
            p = len(part)
            basis = torch.zeros(rank, p, d, dtype=torch.float64)
            coordinates = torch.zeros(p, m, rank, dtype=torch.float64)
            present = torch.zeros(p, m, dtype=torch.bool)
            offset = torch.zeros(p, dtype=torch.float64)
            for each in torch.unique(number).tolist():
                segment, where = segments[each], (number == each).nonzero().flatten()
                chosen, sides = row[where], segment.sides
                axis = _axis(segment, options.modalities)
                places = [options.modalities.index(segment.modalities[i]) for i in axis]
                for slot, own in enumerate(sides.basis):
                    basis[slot, where] = own[chosen].double()
                block = torch.zeros(len(chosen), m, rank, dtype=torch.float64)
                block[:, places, : len(sides.basis)] = sides.coordinates[chosen][:, axis].double()
                coordinates[where] = block
                mask = torch.zeros(len(chosen), m, dtype=torch.bool)
                mask[:, places] = sides.present[chosen][:, axis]
                present[where] = mask
                if self.bank is not None:
                    offset[where] = -_hubs(segment, self.queries, options, self.bank)[chosen].double()
                segment.give_back()
            asked = tuple(each[part] for each in self.asked)
            scores = pairs(self.scorer, asked, basis[:, :, None], coordinates[:, None], present[:, None]).flatten()
            tables.append(scores if self.bank is None else 2 * scores + offset)
        return torch.cat(tables)

    def _scan_slow(self, number: int, index: Tensor, axis: list[int], count: int) -> tuple[Tensor, Tensor]:
        """By the library's own form of the score, from vectors that are recovered block by block."""
        tables = []
        for rows in self.segments[number].walk(index, RECOVERED):
            form = SCORES[self.options.score].of(self.queries, _items(self.segments[number], rows, axis, self.options))
            values, places = top_k(form, count)
            tables.append((values.float(), rows[places]))
        margin = 4 * (self.queries.dim + 8) * torch.finfo(torch.float32).eps
        values, rows = _beside(tables)
        return values.add_(margin), rows

    def _exact_slow(self, numbers: Tensor, rows: Tensor) -> Tensor:
        """By the library's own score: a few queries against the candidates of all of them."""
        return torch.cat(
            [
                _scores(self.segments, numbers[i : i + GROUP], rows[i : i + GROUP], self.queries[i : i + GROUP], self.options)
                for i in range(0, len(numbers), GROUP)
            ]
        )


def _beside(tables: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The candidates of several parts, one after the other."""
    if len(tables) == 1:
        return tables[0]
    return torch.cat([values for values, _ in tables], 1), torch.cat([rows for _, rows in tables], 1)


def _order(scores: Tensor, numbers: Tensor, rows: Tensor) -> Tensor:
    """Columns by falling score; of equal scores the first item comes first."""
    order = (numbers * 2**40 + rows).argsort(dim=1, stable=True)
    return order.gather(1, scores.gather(1, order).argsort(dim=1, descending=True, stable=True))


def _axis(segment: Segment, modalities: Sequence[str]) -> list[int]:
    return [i for i, name in enumerate(segment.modalities) if name in modalities]


def _parts(segment: Segment, options: Options, scorer: Scorer) -> Parts:
    """What a scorer needs of the items of a segment, made once: in float64, which decides what is dependent as `pairs` does."""
    key = (options.score, options.beta, options.modalities)
    if key not in segment.cache:
        axis, sides = _axis(segment, options.modalities), segment.sides
        tables: list[list[Tensor]] = []
        for start in range(0, max(1, len(segment)), GATHERED):
            rows = slice(start, start + GATHERED)
            made = scorer.items(sides.coordinates[rows][:, axis].double(), sides.present[rows][:, axis])
            tables.append([part.float() for part in made])
        parts: list[Tensor | None] = [_by_column(torch.cat(column)) for column in zip(*tables, strict=True)]
        if scorer.turned and len(axis) == len(segment.modalities):
            parts[0] = None
        segment.cache[key] = tuple(parts)
    found: Parts = segment.cache[key]
    return found


def _by_column(part: Tensor) -> Tensor:
    """The same (n, …) table, with what is used together one after the other in memory."""
    return part.movedim(0, -1).contiguous().movedim(-1, 0)


def _hubs(segment: Segment, queries: Bundle, options: Options, bank: Bundle) -> Tensor:
    """The items' `hub_scores` for the queries' modalities, made once."""
    asked = tuple(name for name in queries.modalities if name in bank.modalities) or bank.modalities
    key = ("hubs", options.score, options.beta, options.modalities, asked, id(bank))
    if key not in segment.cache:
        axis, parts = _axis(segment, options.modalities), []
        for start in range(0, len(segment), RECOVERED):
            rows = slice(start, start + RECOVERED)
            names = tuple(segment.modalities[i] for i in axis)
            items = Bundle(segment.sides.vectors(rows)[:, axis], segment.sides.present[rows][:, axis], names)
            parts.append(hub_scores(SCORES[options.score], bank.select(*asked), items))
            segment.give_back()
        segment.cache[key] = torch.cat(parts)
    hubs: Tensor = segment.cache[key]
    return hubs


def _items(segment: Segment, rows: Tensor, axis: list[int], options: Options, dtype: torch.dtype = torch.float32) -> Bundle:
    """Some items as a Bundle; with their tokens where the score reads them."""
    names = tuple(segment.modalities[i] for i in axis)
    vectors, present = segment.sides.vectors(rows, dtype)[:, axis], segment.sides.present[rows][:, axis]
    tokens = {}
    if options.score == "maxsim" and len(segment.sides.tokens):
        for place, (i, name) in enumerate(zip(axis, names, strict=True)):
            listed = [segment.sides.tokens_of(row, i) for row in rows.tolist()]
            if any(map(len, listed)):
                whole = [
                    several if len(several) else vectors[j, place][None].float() if bool(present[j, place]) else None
                    for j, several in enumerate(listed)
                ]
                made = Tokens.from_rows(whole)
                tokens[name] = made.to(dtype=dtype)
    return Bundle(vectors, present, names, None, tokens)


def _scores(segments: Sequence[Segment], numbers: Tensor, rows: Tensor, queries: Bundle, options: Options) -> Tensor:
    """By the library's own score: a few queries against the candidates of all of them."""
    several = any(len(segment.sides.tokens) for segment in segments)
    keys, where = torch.unique(numbers * 2**40 + rows, return_inverse=True)
    parts = []
    for number in torch.unique(keys >> 40).tolist():
        chosen = keys[keys >> 40 == number] & (2**40 - 1)
        axis = _axis(segments[number], options.modalities)
        items = _items(segments[number], chosen, axis, options, torch.float64)
        parts.append(_over(items, options.modalities, several))
        segments[number].give_back()
    scores: Tensor = SCORES[options.score](queries.to(dtype=torch.float64), Bundle.cat(parts))
    return scores.gather(1, where)


def _over(items: Bundle, modalities: Sequence[str], several: bool) -> Bundle:
    """The same items over other modalities, empty where they lack one; with `several` every modality has tokens."""
    known = [items.position(name) for name in modalities if name in items.modalities]
    places = [place for place, name in enumerate(modalities) if name in items.modalities]
    vectors = items.vectors.new_zeros(len(items), len(modalities), items.dim)
    present = torch.zeros(len(items), len(modalities), dtype=torch.bool)
    vectors[:, places], present[:, places] = items.vectors[:, known], items.present[:, known]
    tokens = {
        name: items.tokens[name] if name in items.tokens else Tokens(vectors[:, place, None], present[:, place, None])
        for place, name in enumerate(modalities if several else ())
    }
    return Bundle(vectors, present, tuple(modalities), None, tokens)
