"""Metadata of items: typed columns, each text, whole numbers, numbers or truth values; and filters over them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from gramian.errors import InputError, check_choice, check_type, listing, shown

__all__ = ["Condition", "FieldType", "Filter", "Metadata", "Value", "Values", "read_filter", "read_metadata", "type_of"]

Value: TypeAlias = str | int | float | bool
FieldType: TypeAlias = Literal["text", "int", "float", "bool"]
Metadata: TypeAlias = "Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]]"
"""Field → n values, `None` where unknown; or one mapping per item."""
Operator: TypeAlias = Literal["in", "gt", "gte", "lt", "lte", "exists"]
Filter: TypeAlias = "Mapping[str, Any] | Sequence[str | Mapping[str, Any]] | str"
"""Field → a value, a list of values, or {"gte": 1990, "not": "fr"}; a text such as "year>=1990; lang=fr,de; ok!=false"; or
several of these. All conditions must hold. In a text, values hold neither ";" nor "," nor a space at an end."""

TYPES: dict[FieldType, torch.dtype] = {"text": torch.int32, "int": torch.int64, "float": torch.float64, "bool": torch.bool}
WORDS = {"text": "text", "int": "a whole number", "float": "a number", "bool": "true or false"}
SIGNS: dict[str, Operator] = {">=": "gte", "<=": "lte", ">": "gt", "<": "lt", "!=": "in", "=": "in"}
LARGEST = 2**63


@dataclass(frozen=True)
class Values:
    """A field of n items.

    Attributes:
        kind: its type.
        values: (n,) values, of text the positions in `words`.
        known: (n,) bool, false where the item has no value.
        words: the different texts.
    """

    kind: FieldType
    values: Tensor
    known: Tensor
    words: tuple[str, ...] = ()

    def __getitem__(self, row: int) -> Value | None:
        """The value of one item, or None."""
        if not self.known[row]:
            return None
        value: Value = self.values[row].item()
        return self.words[int(value)] if self.kind == "text" else value


@dataclass(frozen=True)
class Condition:
    """A condition on one field; an item without a value meets none but `exists` false and negations.

    Attributes:
        field: its name.
        operator: "in" one of several values, "gt", "gte", "lt", "lte" than one, or "exists".
        operand: a tuple of values, a number, or whether a value exists.
        negated: whether the condition must not hold.
    """

    field: str
    operator: Operator
    operand: Any
    negated: bool = False

    def holds(self, column: Values | None, n: int) -> Tensor:
        """(n,) bool: which items meet it; `column` is None where no item has the field."""
        if column is None:
            met = torch.zeros(n, dtype=torch.bool)
        elif self.operator == "exists":
            met = column.known
        elif self.operator == "in":
            wanted: Sequence[Any] = self.operand
            if column.kind == "text":
                wanted = [position for position, word in enumerate(column.words) if word in set(self.operand)]
            values = column.values.int() if column.kind == "bool" else column.values  # isin takes no truth values
            met = torch.isin(values, torch.tensor(wanted, dtype=values.dtype)) & column.known
        else:
            compare = {"gt": torch.gt, "gte": torch.ge, "lt": torch.lt, "lte": torch.le}[self.operator]
            met = compare(column.values, self.operand) & column.known
        if self.operator == "exists" and not self.operand:
            met = ~met
        return ~met if self.negated else met


def type_of(field: str, values: Sequence[Any], known: FieldType | None = None) -> FieldType | None:
    """The type of a field's values: that of the index, if it has one, or theirs; None if there is no value.

    Raises:
        InputError: values of several types, or of another type than the index has.
    """
    kinds: set[FieldType] = set()
    for value in values:
        if value is None:
            continue
        kind = _kind(value)
        if kind is None:
            raise InputError(
                f"`metadata[{field!r}]` must hold text, finite numbers or truth values, None where unknown; got {shown(value)}."
            )
        kinds.add(kind)
    if kinds == {"int", "float"} or (known == "float" and kinds == {"int"}):
        kinds = {"float"}
    if len(kinds) > 1:
        raise InputError(f"`metadata[{field!r}]` must hold values of one type; got {listing(sorted(kinds))}.")
    kind = next(iter(kinds), known)
    if known is not None and kind != known:
        raise InputError(f"`metadata[{field!r}]` must hold {WORDS[known]}, as earlier items do; got {kind}.")
    return kind


def _kind(value: Any) -> FieldType | None:
    if isinstance(value, bool | np.bool_):
        return "bool"
    if isinstance(value, int | np.integer):
        return "int" if -LARGEST <= value < LARGEST else None
    if isinstance(value, float | np.floating):
        return "float" if math.isfinite(value) else None
    return "text" if isinstance(value, str) else None


def read_metadata(metadata: Metadata | None, n: int, types: Mapping[str, FieldType]) -> dict[str, Values]:
    """The fields of n items; fields without any value are left out.

    Args:
        metadata: see `Metadata`.
        n: the number of items.
        types: those that the fields of an index have.

    Returns:
        Field → its values.

    Raises:
        InputError: another number of values, or values that a field cannot hold.
    """
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        rows = list(metadata)
        if not all(isinstance(row, Mapping) for row in rows):
            raise InputError("`metadata` must map fields to values, or hold one mapping per item.")
        if len(rows) != n:
            raise InputError(f"`metadata` must describe the {n} items; got {len(rows)} entries.")
        metadata = {name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}
    columns = {}
    for name, column in metadata.items():
        check_type("metadata", name, str)
        if not re.fullmatch(r"\w[\w.\- ]*", name):
            raise InputError(f"`metadata` must name fields by letters, digits and . _ -; got {name!r:.60}.")
        values = list(column.tolist() if isinstance(column, Tensor | np.ndarray) else column)
        if isinstance(column, str) or len(values) != n:
            raise InputError(f"`metadata[{name!r}]` must hold one value for each of the {n} items; got {shown(column)}.")
        kind = type_of(name, values, types.get(name))
        if kind is not None:
            columns[name] = _column(kind, values)
    return columns


def _column(kind: FieldType, values: Sequence[Any]) -> Values:
    known = torch.tensor([value is not None for value in values], dtype=torch.bool)
    words: dict[str, int] = {}
    if kind == "text":
        words = {word: position for position, word in enumerate(dict.fromkeys(value for value in values if value is not None))}
        values = [None if value is None else words[value] for value in values]
    filled = [0 if value is None else value for value in values]
    return Values(kind, torch.tensor(filled, dtype=TYPES[kind]), known, tuple(words))


def read_filter(filter: Filter | None, types: Mapping[str, FieldType]) -> tuple[Condition, ...]:
    """The conditions of a filter, all of which must hold.

    Args:
        filter: see `Filter`.
        types: the fields of an index and their types.

    Returns:
        The conditions.

    Raises:
        InputError: an unknown field or operator, or an operand of another type than the field.

    >>> read_filter("year>=1990; year<2000", {"year": "int"})[1]
    Condition(field='year', operator='lt', operand=2000, negated=False)
    """
    if filter is None:
        return ()
    check_type("filter", filter, str, Mapping, list, tuple)
    if isinstance(filter, str):
        texts = [text for text in filter.split(";") if text.strip()]
        return tuple(_from_text(text, types) for text in texts or [filter])
    if not isinstance(filter, Mapping):
        return tuple(condition for one in filter for condition in read_filter(one, types))
    conditions = []
    for name, wanted in filter.items():
        kind = _known(name, types)
        for operator, operand in wanted.items() if isinstance(wanted, Mapping) else [("in", wanted)]:
            check_choice(f"filter[{name!r}]", operator, ("in", "not", "gt", "gte", "lt", "lte", "exists"))
            positive: Any = "in" if operator == "not" else operator
            conditions.append(_condition(name, kind, positive, operand, operator == "not"))
    return tuple(conditions)


def _known(name: str, types: Mapping[str, FieldType]) -> FieldType:
    if name not in types:
        raise InputError(f"`filter` names the field {name!r}; the index has {listing(sorted(types)) or 'none'}.")
    return types[name]


def _condition(name: str, kind: FieldType, operator: Operator, operand: Any, negated: bool) -> Condition:
    if operator == "exists":
        check_type(f"filter[{name!r}]", operand, bool)
        return Condition(name, operator, operand, negated)
    several = operator == "in" and isinstance(operand, list | tuple | set | frozenset)
    values = tuple(operand) if several else (operand,)
    if not values:
        raise InputError(f"`filter[{name!r}]` must list at least one value; got none.")
    if operator != "in" and kind not in ("int", "float"):
        raise InputError(f"`filter[{name!r}]` compares {WORDS[kind]}, which has no order here. Use equality.")
    for value in values:
        given = _kind(value)
        if given != kind and not (given in ("int", "float") and kind in ("int", "float")):
            raise InputError(f"`filter[{name!r}]` must be {WORDS[kind]}, as the field is; got {shown(value)}.")
    return Condition(name, operator, values if operator == "in" else values[0], negated)


def _from_text(text: str, types: Mapping[str, FieldType]) -> Condition:
    match = re.fullmatch(r"\s*(\w[\w.\- ]*?)\s*(>=|<=|!=|>|<|=)\s*(.*?)\s*", text)
    if match is None:
        raise InputError(f'`filter` must read as in "year>=1990", "lang=fr,de" or "lang!=en"; got {text!r:.80}.')
    name, sign, operand = match.groups()
    kind = _known(name, types)
    parts = [part.strip() for part in operand.split(",")] if SIGNS[sign] == "in" else [operand]
    values = [_parsed(name, kind, part) for part in parts]
    return _condition(name, kind, SIGNS[sign], values if SIGNS[sign] == "in" else values[0], sign == "!=")


def _parsed(name: str, kind: FieldType, text: str) -> Value:
    try:
        if kind == "bool":
            return {"true": True, "false": False}[text.lower()]
        if kind == "text":
            return text
        return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)
    except (KeyError, ValueError):
        raise InputError(f"`filter` on {name!r} must be {WORDS[kind]}; got {text!r:.60}.") from None
