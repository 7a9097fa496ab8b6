"""The files of a FlatIndex: its manifest, and segments joined into one."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from gramian.errors import InputError, check_number, first_line, listing
from gramian.files import claimed, inside, read_json, write_text
from gramian.index.checks import check_version
from gramian.index.fields import FieldType, Values, read_metadata
from gramian.index.protocol import SearchScore
from gramian.index.segments import Entry, Segment, Sides
from gramian.model.options import convert

__all__ = ["MANIFEST", "check_new", "file_name", "joined", "read_manifest", "write_copy", "write_manifest"]

FORMAT, VERSION = "gramian.index", 1
MANIFEST = "index.json"
Part: TypeAlias = "tuple[Sequence[str], Sides, Mapping[str, Values]]"
"""Items as they are written: ids, vectors, fields."""
_NAME = re.compile(r"\d{10}-[0-9a-f]{8}(\.deleted)?\.safetensors")


def file_name(change: int, kind: str = "") -> str:
    """A name of its own for a file that a change writes."""
    return f"{change:010d}-{secrets.token_hex(4)}{kind}.safetensors"


def check_new(folder: Path) -> None:
    """Check that an index can be made in a folder, whose owner this process is; remove what a killed one began there.

    Raises:
        InputError: it holds files.
    """
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    strangers = sorted(entry.name for entry in entries if not _NAME.fullmatch(entry.name))
    if strangers:
        raise InputError(f"`path` {str(folder)!r} holds files ({listing(strangers)}). Name another folder, or open it.")
    for entry in entries:
        entry.unlink()


def write_copy(folder: Path, state: Mapping[str, Any], parts: Iterable[Part]) -> None:
    """Make an index of items that come part by part: a segment for each, and then the manifest.

    Args:
        folder: empty, or none yet.
        state: of the manifest; its modalities are those of the parts.
        parts: the items.

    Raises:
        InputError: a folder that holds files.
    """
    with claimed(folder):
        check_new(folder)
        entries = [
            Segment.write(folder / file_name(0), ids, state["modalities"], sides, fields, int8=state["int8"])
            for ids, sides, fields in parts
        ]
        write_manifest(folder, {**state, "changes": 0}, entries)


def write_manifest(folder: Path, state: Mapping[str, Any], entries: Sequence[Entry]) -> None:
    """Make a state, and the segments that it names, the index of a folder, in one step."""
    about = {"format": FORMAT, "version": VERSION}
    written = {**state, **about, "segments": [entry._asdict() for entry in entries]}
    write_text(folder / MANIFEST, json.dumps(written, ensure_ascii=False) + "\n")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an index, which may be somebody else's.

    Raises:
        InputError: it is missing, damaged, or of a newer version.
    """
    try:
        state: dict[str, Any] = read_json(inside(folder, MANIFEST))
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise InputError("it is another kind of file")
    except FileNotFoundError:
        raise InputError(f"{str(folder)!r} holds no index: it has no {MANIFEST}.") from None
    except (InputError, OSError) as error:
        raise _damaged(folder, error) from None
    check_version(f"`path` {str(folder)!r}", state.get("version"), VERSION)
    try:
        hints: dict[str, Any] = {
            "version": int,
            "dim": int,
            "space": str | None,
            "modalities": list[str],
            "fields": dict[str, FieldType],
            "changes": int,
            "segments": list[Any],
            "int8": bool,
            "score": SearchScore | None,
            "score_chosen": bool,
        }
        for name, value in (("int8", False), ("score", None), ("score_chosen", False)):  # which older ones lack
            state.setdefault(name, value)
        state |= {name: convert(state[name], hint, name) for name, hint in hints.items()}
        check_number("dim", state["dim"], "[1, 1048576]", integer=True)
        state["segments"] = [_entry(segment) for segment in state["segments"]]
        return state
    except (InputError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(folder, error) from None


def _damaged(folder: Path, error: Exception) -> InputError:
    return InputError(f"{str(folder / MANIFEST)!r} is damaged ({first_line(error):.120}). Build the index again.")


def _entry(segment: Any) -> Entry:
    entry = Entry(**segment)
    hints = {"file": str, "rows": int, "size": int, "hash": str, "token": str, "deleted": str | None, "gone": int}
    return Entry(**{name: convert(getattr(entry, name), hint, name) for name, hint in hints.items()})


def joined(segments: Sequence[Segment], modalities: Sequence[str]) -> Part | None:
    """The live items of some segments as they are written: ids, vectors over `modalities`, fields; None if there is none."""
    rows = [segment.live.nonzero().flatten() for segment in segments]
    n = sum(map(len, rows))
    if not n:
        return None
    rank = max(len(segment.sides.basis) for segment in segments)
    dim = segments[0].sides.basis.shape[2]
    sides = Sides(
        torch.zeros(rank, n, dim),
        torch.zeros(n, len(modalities), rank),
        torch.zeros(n, len(modalities), dtype=torch.bool),
        *(torch.cat(parts) for parts in zip(*_tokens(segments, rows, modalities), strict=True)),
    )
    ids: list[str] = []
    metadata: dict[str, list[Any]] = {}
    kinds: dict[str, FieldType] = {}
    for segment, live in zip(segments, rows, strict=True):
        place, axis = slice(len(ids), len(ids) + len(live)), [modalities.index(name) for name in segment.modalities]
        r = len(segment.sides.basis)
        for slot in range(r):
            sides.basis[slot, place] = segment.sides.basis[slot, live]
        block = torch.zeros(len(live), len(modalities), r)
        block[:, axis] = segment.sides.coordinates[live]
        sides.coordinates[place, :, :r] = block
        mask = torch.zeros(len(live), len(modalities), dtype=torch.bool)
        mask[:, axis] = segment.sides.present[live]
        sides.present[place] = mask
        for name, column in segment.fields.items():
            kinds[name] = column.kind
            values = metadata.setdefault(name, [None] * n)
            values[place] = [column[row] for row in live.tolist()]
        ids += [segment.id(row) for row in live.tolist()]
        segment.give_back()
    return ids, sides, read_metadata(metadata, n, kinds)


def _tokens(
    segments: Sequence[Segment], rows: Sequence[Tensor], modalities: Sequence[str]
) -> list[tuple[Tensor, Tensor, Tensor]]:
    parts, first = [], 0
    for segment, live in zip(segments, rows, strict=True):
        place = torch.full((len(segment),), -1, dtype=torch.int32)
        place[live] = torch.arange(first, first + len(live), dtype=torch.int32)
        items = place[segment.sides.token_items.long()]
        kept = items >= 0
        axis = torch.tensor([modalities.index(name) for name in segment.modalities], dtype=torch.uint8)
        parts.append((segment.sides.tokens[kept], items[kept], axis[segment.sides.token_modalities[kept].long()]))
        first += len(live)
    return parts
