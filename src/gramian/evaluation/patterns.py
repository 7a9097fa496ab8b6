"""Which sets of modalities ask for which, by pattern: `text->*`, `image+speech->text`, `*->others`, `all`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import combinations

from gramian.errors import InputError

__all__ = ["ALL", "directions_of"]

ALL = "**->**"
"""What "all" stands for: every subset of the modalities → every subset of the others."""

ARROW = re.compile("->|→")


def directions_of(
    patterns: Sequence[str], queries: Sequence[str], targets: Sequence[str], *, disjoint: bool = True
) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """The directions that patterns stand for, each once, in their order.

    A pattern is `SIDE->SIDE`, or "all" for `**->**`. A side is one modality or several joined by "+", or

    - `*`: each modality by itself;
    - `**`: every subset of them;
    - `others`: all modalities that the other side does not name, together.

    Args:
        patterns: at least one.
        queries: the modalities that can ask.
        targets: the modalities that can be asked for.
        disjoint: whether no modality may stand on both sides, as where the candidates are the items that ask.

    Returns:
        (query, target) pairs of names.

    Raises:
        InputError: no pattern, one that is none, names an unknown modality or the same one on both sides, or stands for
            nothing.

    >>> directions_of(["text->*"], ("text", "image", "audio"), ("text", "image", "audio"))
    [(('text',), ('image',)), (('text',), ('audio',))]
    >>> directions_of(["others->text"], ("text", "image", "audio"), ("text", "image", "audio"))
    [(('image', 'audio'), ('text',))]
    """
    if isinstance(patterns, str) or not patterns:
        raise InputError(f"`directions` must be a list of patterns such as 'text->*'; got {patterns!r}.")
    found: dict[tuple[tuple[str, ...], tuple[str, ...]], None] = {}
    for pattern in patterns:
        sides = _sides(ALL if pattern == "all" else pattern, queries, targets)
        named = len(found)
        for query, target in _expanded(*sides, queries, targets, disjoint):
            found[query, target] = None
        if len(found) == named and not any(True for _ in _expanded(*sides, queries, targets, disjoint)):
            why = "a modality may not ask for itself" if disjoint else "there are not enough modalities"
            raise InputError(f"`directions` {pattern!r} stands for no direction between {', '.join(queries)}: {why}.")
    return list(found)


def _sides(pattern: str, queries: Sequence[str], targets: Sequence[str]) -> tuple[str | tuple[str, ...], str | tuple[str, ...]]:
    """What stands left and right of the arrow: a word, or names. A name may hold an arrow or a plus itself."""
    arrows = list(ARROW.finditer(pattern))
    if not arrows:
        raise InputError(f"`directions` must be patterns such as 'text->*', 'image+speech->text' or 'all'; got {pattern!r}.")
    for arrow in arrows:
        sides = _side(pattern[: arrow.start()].strip(), queries), _side(pattern[arrow.end() :].strip(), targets)
        if sides[0] is not None and sides[1] is not None:
            return sides[0], sides[1]
    arrow = arrows[0]
    wrong, names = (
        (pattern[arrow.end() :], targets)
        if _side(pattern[: arrow.start()].strip(), queries)
        else (pattern[: arrow.start()], queries)
    )
    raise InputError(
        f"`directions` {pattern!r}: {wrong.strip()!r} must be '*', '**', 'others' or different ones of {', '.join(names)}, "
        "joined by '+'."
    )


def _side(text: str, names: Sequence[str]) -> str | tuple[str, ...] | None:
    """A word or the names of one side; None if it is neither."""
    if text in names:
        return (text,)
    if text in ("*", "**", "others"):
        return text
    for name in names:
        if text.startswith(f"{name}+"):
            rest = _side(text[len(name) + 1 :], [other for other in names if other != name])
            if isinstance(rest, tuple):
                return (name, *rest)
    return None


def _expanded(
    query: str | tuple[str, ...],
    target: str | tuple[str, ...],
    queries: Sequence[str],
    targets: Sequence[str],
    disjoint: bool,
) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    firsts = [()] if query == "others" else _subsets(query, queries)
    for first in firsts:
        for second in [()] if target == "others" else _subsets(target, targets):
            left = first or tuple(name for name in queries if not (disjoint and name in second))
            right = second or tuple(name for name in targets if not (disjoint and name in first))
            if left and right and not (disjoint and {*left} & {*right}):
                yield left, right


def _subsets(side: str | tuple[str, ...], names: Sequence[str]) -> list[tuple[str, ...]]:
    if not isinstance(side, str):
        return [tuple(name for name in names if name in side)]
    sizes = range(1, 2 if side == "*" else len(names) + 1)
    return [subset for size in sizes for subset in combinations(names, size)]
