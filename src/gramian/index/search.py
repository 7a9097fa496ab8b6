"""The best items of all segments for each query: a scan in float32, candidates scored again in float64.

The scan takes the candidates from every segment by the kernels' top-k. As many are taken as it needs to be sure: until the
worst candidate lies further below the k-th answer than rounding can reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from gramian.bundle import Bundle
from gramian.errors import InputError
from gramian.geometry import full_precision
from gramian.index.protocol import Options
from gramian.index.scan import Scorer, pairs, scan, scorer_of
from gramian.index.segments import Segment
from gramian.kernels.ranks import top_k
from gramian.kernels.rules import Parts
from gramian.scores import SCORES, hub_scores
from gramian.scores.sides import Side
from gramian.tokens import Tokens

__all__ = ["Found", "best"]

Found: TypeAlias = "list[tuple[float, int, int]]"
"""(score, segment, row), best first."""

MORE = 24  # candidates beyond k
MOST = 4096  # candidates per query, where that many tie to rounding
FEW = 0.25  # the share of visible items below which they are gathered first
GATHERED = 2**14  # items gathered at a time
RECOVERED = 2**12  # items whose vectors are recovered at a time
GROUP = 8  # queries of a slow score at a time
PAIRS = 2**24  # numbers of chosen pairs' bases held at a time
WIDE, SQUARE = 2**17, 2**10  # columns of a tile for a few queries, and for many


@full_precision
@torch.no_grad()
def best(
    segments: Sequence[Segment], visible: Sequence[Tensor], queries: Bundle, options: Options, bank: Bundle | None = None
) -> list[Found]:
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
    k = min(options.k, sum(int(mask.sum()) for mask in visible))
    if not k:
        return [[] for _ in range(len(queries))]
    count = k + max(MORE, k // 2)
    scorer = (
        None
        if options.score == "maxsim" and any(len(each.sides.tokens) for each in segments)
        else scorer_of(options.score, options.beta)
    )
    if bank is not None and (scorer is None or scorer.residual):
        raise InputError(f"`hubs` does not correct the score {options.score}. Use centroid, span or cosine.")
    while True:
        parts = [
            _scan(number, segment, mask, queries, options, scorer, count, bank)
            for number, (segment, mask) in enumerate(zip(segments, visible, strict=True))
            if mask.any()
        ]
        values, numbers, rows = (torch.cat([part[i] for part in parts], 1) for i in range(3))
        order = values.argsort(dim=1, descending=True, stable=True)[:, :count]
        values, numbers, rows = (table.gather(1, order) for table in (values, numbers, rows))
        scores = _again(segments, numbers, rows, values, queries, options, scorer, bank)
        scores = scores.masked_fill(values.isinf(), -torch.inf)
        order = _order(scores, numbers, rows)
        if values.shape[1] < count or count >= MOST:
            break
        kth = scores.gather(1, order)[:, k - 1]
        margin = 4 * (queries.dim + 8) * torch.finfo(torch.float32).eps
        kth = kth if scorer is None else scorer.gauge(kth)
        if bool((values[:, -1].double() <= kth - margin).all()):
            break
        count *= 4
    answers = []
    for query in range(len(queries)):
        chosen = [(float(scores[query, i]), int(numbers[query, i]), int(rows[query, i])) for i in order[query, :k].tolist()]
        answers.append([answer for answer in chosen if answer[0] > -torch.inf])
    return answers


def _order(scores: Tensor, numbers: Tensor, rows: Tensor) -> Tensor:
    """Columns by falling score; of equal scores the first item comes first."""
    order = (numbers * 2**40 + rows).argsort(dim=1, stable=True)
    return order.gather(1, scores.gather(1, order).argsort(dim=1, descending=True, stable=True))


def _axis(segment: Segment, modalities: Sequence[str]) -> list[int]:
    return [i for i, name in enumerate(segment.modalities) if name in modalities]


def _parts(segment: Segment, options: Options, scorer: Scorer) -> Parts:
    """What a scorer needs of the items of a segment, made once."""
    key = (options.score, options.beta, options.modalities)
    if key not in segment.cache:
        axis = _axis(segment, options.modalities)
        sides = segment.sides
        segment.cache[key] = scorer.items(sides.coordinates[:, axis], sides.present[:, axis])
    parts: Parts = segment.cache[key]
    return parts


def _hubs(number: int, segment: Segment, queries: Bundle, options: Options, bank: Bundle) -> Tensor:
    """The items' `hub_scores` for the queries' modalities, made once."""
    del number
    asked = tuple(name for name in queries.modalities if name in bank.modalities) or bank.modalities
    key = ("hubs", options.score, options.beta, options.modalities, asked, id(bank))
    if key not in segment.cache:
        axis, parts = _axis(segment, options.modalities), []
        for start in range(0, len(segment), RECOVERED):
            rows = slice(start, start + RECOVERED)
            names = tuple(segment.modalities[i] for i in axis)
            items = Bundle(segment.sides.vectors(rows)[:, axis], segment.sides.present[rows][:, axis], names)
            parts.append(hub_scores(SCORES[options.score], bank.select(*asked), items))
        segment.cache[key] = torch.cat(parts)
    hubs: Tensor = segment.cache[key]
    return hubs


def _scan(
    number: int,
    segment: Segment,
    mask: Tensor,
    queries: Bundle,
    options: Options,
    scorer: Scorer | None,
    count: int,
    bank: Bundle | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The candidates of one segment: values that rank them, (q, c), the segment's number and their rows."""
    axis = _axis(segment, options.modalities)
    mask = mask & segment.sides.present[:, axis].any(1)
    index = mask.nonzero().flatten()
    if not len(index):
        nothing = torch.zeros(len(queries), 0, dtype=torch.int64)
        return torch.zeros(len(queries), 0), nothing, nothing
    if scorer is None:
        found = _slow(segment, index, axis, queries, options, count)
    else:
        found = _fast(number, segment, mask, index, queries, options, scorer, count, bank)
    values, rows = found
    return values, torch.full_like(rows, number), rows


def _fast(
    number: int,
    segment: Segment,
    mask: Tensor,
    index: Tensor,
    queries: Bundle,
    options: Options,
    scorer: Scorer,
    count: int,
    bank: Bundle | None,
) -> tuple[Tensor, Tensor]:
    asked = scorer.queries(_side(queries, torch.float32))
    basis, parts = segment.sides.basis, _parts(segment, options, scorer)
    n = len(segment)
    scale = torch.ones(n) if bank is None else torch.full((n,), 2.0)
    offset = torch.zeros(n) if bank is None else -_hubs(number, segment, queries, options, bank)
    size = SQUARE if len(queries) * asked[0].shape[1] > 16 else WIDE
    if len(index) >= FEW * n:
        offset = offset.masked_fill(~mask, -torch.inf)
        form = scan(scorer, asked, basis, parts, scale, offset)
        return top_k(form, count, block_size=size)
    tables = []
    for start in range(0, len(index), GATHERED):
        rows = index[start : start + GATHERED]
        taken = tuple(part[rows] for part in parts)
        values, places = top_k(scan(scorer, asked, basis[:, rows], taken, scale[rows], offset[rows]), count, block_size=size)
        tables.append((values, rows[places]))
    return torch.cat([values for values, _ in tables], 1), torch.cat([rows for _, rows in tables], 1)


def _side(items: Bundle, dtype: torch.dtype) -> Side:
    return Side(items.vectors.to(dtype), items.present)


def _slow(
    segment: Segment, index: Tensor, axis: list[int], queries: Bundle, options: Options, count: int
) -> tuple[Tensor, Tensor]:
    """By the library's own form of the score, from vectors that are recovered block by block."""
    tables = []
    for start in range(0, len(index), RECOVERED):
        rows = index[start : start + RECOVERED]
        form = SCORES[options.score].of(queries, _items(segment, rows, axis, options))
        values, places = top_k(form, count)
        tables.append((values.float(), rows[places]))
    return torch.cat([values for values, _ in tables], 1), torch.cat([rows for _, rows in tables], 1)


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


def _again(
    segments: Sequence[Segment],
    numbers: Tensor,
    rows: Tensor,
    values: Tensor,
    queries: Bundle,
    options: Options,
    scorer: Scorer | None,
    bank: Bundle | None,
) -> Tensor:
    """The scores of the candidates, (q, c), in float64."""
    q, count = rows.shape
    if scorer is None:
        return torch.cat(
            [
                _again_slow(segments, numbers[i : i + GROUP], rows[i : i + GROUP], queries[i : i + GROUP], options)
                for i in range(0, q, GROUP)
            ]
        )
    asked = scorer.queries(_side(queries, torch.float64))
    rank, m = max(len(each.sides.basis) for each in segments), len(options.modalities)
    chunk = max(1, PAIRS // max(1, count * rank * queries.dim))
    tables = []
    for start in range(0, q, chunk):
        part = slice(start, start + chunk)
        shape = rows[part].shape
        basis = torch.zeros(rank, *shape, queries.dim, dtype=torch.float64)
        coordinates = torch.zeros(*shape, m, rank, dtype=torch.float64)
        present = torch.zeros(*shape, m, dtype=torch.bool)
        twice, offset = 1, torch.zeros(shape, dtype=torch.float64)
        for number in torch.unique(numbers[part]).tolist():
            segment, where = segments[number], numbers[part] == number
            chosen = rows[part][where]
            sides, r = segment.sides, len(segment.sides.basis)
            basis[:r, where] = sides.basis[:, chosen].double()
            axis = _axis(segment, options.modalities)
            places = [options.modalities.index(segment.modalities[i]) for i in axis]
            block = torch.zeros(len(chosen), m, rank, dtype=torch.float64)
            block[:, places, :r] = sides.coordinates[chosen][:, axis].double()
            coordinates[where] = block
            mask = torch.zeros(len(chosen), m, dtype=torch.bool)
            mask[:, places] = sides.present[chosen][:, axis]
            present[where] = mask
            if bank is not None:
                twice = 2
                offset[where] = -_hubs(number, segment, queries, options, bank)[chosen].double()
        scores = pairs(scorer, tuple(each[part] for each in asked), basis, coordinates, present)
        tables.append(twice * scores + offset)
    del values
    return torch.cat(tables)


def _again_slow(segments: Sequence[Segment], numbers: Tensor, rows: Tensor, queries: Bundle, options: Options) -> Tensor:
    """By the library's own score: a few queries against the candidates of all of them."""
    several = any(len(segment.sides.tokens) for segment in segments)
    keys, where = torch.unique(numbers * 2**40 + rows, return_inverse=True)
    parts = []
    for number in torch.unique(keys >> 40).tolist():
        chosen = keys[keys >> 40 == number] & (2**40 - 1)
        axis = _axis(segments[number], options.modalities)
        items = _items(segments[number], chosen, axis, options, torch.float64)
        parts.append(_over(items, options.modalities, several))
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
