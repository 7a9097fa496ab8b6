"""Items as the points of Qdrant, and back; and the point that says what a collection is."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from gramian.bundle import Bundle
from gramian.errors import InputError, first_line
from gramian.geometry import direction, unit
from gramian.index.checks import check_version
from gramian.index.engines import Put
from gramian.index.fields import FieldType
from gramian.index.protocol import SearchScore
from gramian.index.segments import sides_of
from gramian.model.options import convert
from gramian.tokens import Tokens

__all__ = [
    "ABOUT",
    "VERSION",
    "axis_name",
    "bundle_of",
    "cat",
    "point_of",
    "points_of",
    "read_about",
    "several_name",
    "slot_name",
]

SPACE = uuid.UUID("6a5f3a0e-3f0c-5d57-9a1f-0d8e5d5c1c11")
ABOUT = str(uuid.uuid5(SPACE, "about the collection"))
VERSION = 1  # of how items are laid out


def axis_name(modality: int) -> str:
    """The named vector of a modality."""
    return f"m{modality}"


def slot_name(slot: int) -> str:
    """The named vector of one direction of an item's basis."""
    return f"b{slot}"


def several_name(modality: int) -> str:
    """The named vectors of a modality of which an item has several."""
    return f"t{modality}"


def point_of(name: str) -> str:
    """The point of an item."""
    return str(uuid.uuid5(SPACE, f"item {name}"))


def points_of(
    bundle: Bundle, ids: Sequence[str], metadata: Sequence[Mapping[str, Any]], modalities: Sequence[str]
) -> list[Put]:
    """Some items as points.

    Args:
        bundle: n items.
        ids: of them.
        metadata: field → value of each.
        modalities: of the collection.

    Returns:
        n points.
    """
    bundle = bundle.to(dtype=torch.float32)
    axes = [modalities.index(name) for name in bundle.modalities]
    sides, centroid = sides_of(bundle), direction(bundle.vectors.sum(1))
    total = sides.coordinates.sum(1)
    points: list[Put] = []
    for i, (name, values) in enumerate(zip(ids, metadata, strict=True)):
        present = bundle.present[i].tolist()
        vectors: dict[str, Any] = {
            axis_name(axis): bundle.vectors[i, column].tolist() for column, axis in enumerate(axes) if present[column]
        }
        if bool(centroid[i].any()):
            vectors["centroid"] = centroid[i].tolist()
        for modality, tokens in bundle.tokens.items():
            if bool(tokens.present[i].any()):
                vectors[several_name(modalities.index(modality))] = tokens.values[i, tokens.present[i]].tolist()
        slots = [slot for slot in range(len(sides.basis)) if bool(sides.basis[slot, i].any())]
        vectors |= {slot_name(slot): sides.basis[slot, i].tolist() for slot in slots}
        payload: dict[str, Any] = {"id": name, "number": sum(present)} | {f"r{slot}": float(total[i, slot]) for slot in slots}
        payload["fields"] = {field: value for field, value in values.items() if value is not None}
        payload["flags"] = {field: str(value).lower() for field, value in values.items() if isinstance(value, bool)}
        points.append((point_of(name), vectors, payload))
    return points


def bundle_of(rows: Sequence[Mapping[str, Any]], modalities: Sequence[str], dim: int) -> Bundle:
    """The items of points.

    Args:
        rows: the named vectors of each.
        modalities: of the collection.
        dim: its width.

    Returns:
        The items; with tokens of the modalities of which one of them has several vectors.
    """
    vectors = torch.zeros(len(rows), len(modalities), dim)
    present = torch.zeros(len(rows), len(modalities), dtype=torch.bool)
    for axis in range(len(modalities)):
        for i, row in enumerate(rows):
            values = row.get(axis_name(axis))
            if values is not None:
                vectors[i, axis] = torch.tensor(values)
                present[i, axis] = True
    vectors = unit(vectors)
    tokens = {}
    for axis, name in enumerate(modalities):
        own = [row.get(several_name(axis)) for row in rows]
        if any(each is not None for each in own):
            whole = [
                torch.tensor(each) if each is not None else vectors[i, axis][None] if present[i, axis] else None
                for i, each in enumerate(own)
            ]
            made = Tokens.from_rows(whole)
            tokens[name] = Tokens(unit(made.values), made.present)
    return Bundle(vectors, present, tuple(modalities), None, tokens)


def cat(bundles: Sequence[Bundle]) -> Bundle:
    """All their items; a modality of which some have several vectors has them in all."""
    names = {name for bundle in bundles for name in bundle.tokens}
    return Bundle.cat(
        replace(
            bundle,
            tokens={
                name: bundle.tokens.get(name) or Tokens(bundle.column(name)[:, None], bundle.has(name)[:, None])
                for name in names
            },
        )
        for bundle in bundles
    )


def read_about(payload: Mapping[str, Any]) -> dict[str, Any]:
    """What a collection says of itself, which may be somebody else's.

    Raises:
        InputError: it is damaged, or of a newer version.
    """
    hints: dict[str, Any] = {
        "dim": int,
        "modalities": list[str],
        "several": list[str],
        "space": str | None,
        "fields": dict[str, FieldType],
        "score": SearchScore | None,
        "score_chosen": bool,
    }
    about = payload.get("about")
    if isinstance(about, dict):
        check_version("the collection", about.get("version"), VERSION)
    try:
        whole: dict[str, Any] = {"several": [], "score": None, "score_chosen": False} | about  # type: ignore[operator]
        return whole | {name: convert(whole[name], hint, name) for name, hint in hints.items()}
    except (InputError, KeyError, TypeError) as error:
        raise InputError(f"the collection's own description is damaged ({first_line(error):.120}). Build it again.") from None
