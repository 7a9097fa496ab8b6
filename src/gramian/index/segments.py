"""`Segment`: some items of a FlatIndex in one file that never changes, read through a memory map.

An item's unit vectors Z (m, d) are kept as Z = C B: an orthonormal basis B of their span, (r, d), and coordinates C (m, r). All
scores follow from the products B a with a query a, and these lose nothing where vectors nearly coincide, as products with Z
itself would. The bases are factorised in float64 and stored in float32, slot by slot, so that one slot of all items is one
matrix.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gramian.bundle import Bundle
from gramian.errors import InputError, first_line
from gramian.files import atomic, inside
from gramian.geometry import orthogonalize, unit
from gramian.index.codes import Codes, codes_of
from gramian.index.fields import FieldType, Values
from gramian.index.pages import Pages, pages_of

__all__ = ["Entry", "Segment", "Sides", "hash_ids", "sides_of"]

FORMAT = "gramian.index.segment.v1"
BLOCK = 4096  # items factorised at a time: float64 copies
DEPENDENT = 32 * torch.finfo(torch.float32).eps
"""A vector this close to the span of those before it adds no direction, as for the scores in float32."""


class Sides(NamedTuple):
    """n items as they are stored.

    Attributes:
        basis: (r, n, d) float32, orthonormal in each item; zero beyond the item's rank.
        coordinates: (n, m, r) float32: the vectors in the basis; zero where missing.
        present: (n, m) bool.
        tokens: (t, d) float32, the tokens of all items one after the other, where modalities have several vectors.
        token_items: (t,) int32, ascending: the item of each.
        token_modalities: (t,) uint8: its modality.
    """

    basis: Tensor
    coordinates: Tensor
    present: Tensor
    tokens: Tensor
    token_items: Tensor
    token_modalities: Tensor

    def __len__(self) -> int:
        return len(self.present)

    def vectors(self, rows: Tensor | slice, dtype: torch.dtype = torch.float32) -> Tensor:
        """The (n, m, d) unit vectors of some items."""
        return unit(torch.einsum("nmr,rnd->nmd", self.coordinates[rows].to(dtype), self.basis[:, rows].to(dtype)))

    def tokens_of(self, row: int, modality: int) -> Tensor:
        """The (t, d) tokens of one item in one modality."""
        first, last = torch.searchsorted(self.token_items, torch.tensor([row, row + 1], dtype=torch.int32)).tolist()
        return self.tokens[first:last][self.token_modalities[first:last] == modality]


def sides_of(bundle: Bundle) -> Sides:
    """The items of a Bundle as they are stored."""
    parts = []
    for start in range(0, max(1, len(bundle)), BLOCK):
        vectors, present = bundle.vectors[start : start + BLOCK].double(), bundle.present[start : start + BLOCK]
        done = orthogonalize(vectors, present)
        dependent = present & (done.distances < DEPENDENT) & (done.distances > 0)
        if dependent.any():
            done = orthogonalize(vectors, present & ~dependent)
        order = (~done.basis.any(-1)).long().argsort(dim=1, stable=True)  # the basis first, then the empty slots
        basis = done.basis.gather(1, order[..., None].expand_as(done.basis))
        parts.append((basis.float(), torch.einsum("nmd,nrd->nmr", vectors, basis).float()))
    basis, coordinates = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    rank = max(1, int(basis.any(-1).sum(1).max())) if len(basis) else 1
    tokens, items, modalities = [], [], []
    for name, column in bundle.tokens.items():
        where = (column.present & bundle.has(name)[:, None]).nonzero()
        tokens.append(unit(column.values[where[:, 0], where[:, 1]].float()))
        items.append(where[:, 0].int())
        modalities.append(torch.full((len(where),), bundle.position(name), dtype=torch.uint8))
    token_items = torch.cat(items) if items else torch.zeros(0, dtype=torch.int32)
    order = token_items.argsort(stable=True)
    return Sides(
        basis[:, :rank].transpose(0, 1).contiguous(),
        coordinates[:, :, :rank].contiguous(),
        bundle.present.clone(),
        torch.cat(tokens)[order] if tokens else torch.zeros(0, bundle.dim),
        token_items[order],
        torch.cat(modalities)[order] if modalities else torch.zeros(0, dtype=torch.uint8),
    )


def hash_ids(ids: Sequence[str]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """64-bit hashes that are the same everywhere, (n,)."""
    digests = b"".join(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest() for name in ids)
    return np.frombuffer(digests, dtype="<i8")


class Entry(NamedTuple):
    """A segment in the manifest.

    Attributes:
        file: its name.
        rows: its items, deleted ones included.
        size: bytes.
        hash: of the whole file.
        token: also in the file's header: a foreign file of the same name is noticed at once.
        deleted: name of the file that marks deleted items, or None.
        gone: how many are deleted.
    """

    file: str
    rows: int
    size: int
    hash: str
    token: str
    deleted: str | None = None
    gone: int = 0


@dataclass(eq=False)
class Segment:
    """Some items of an index.

    Attributes:
        entry: its line in the manifest.
        modalities: names of the axis m.
        sides: the vectors.
        fields: field → values.
        live: (n,) bool: items that are not deleted.
        codes: the bases in 8 bits, if the index has them.
        pages: where the file is mapped.
        stays: whether pages that were read stay in memory; `walk` gives them back otherwise.
        cache: what scores have prepared from the sides.
    """

    entry: Entry
    modalities: tuple[str, ...]
    sides: Sides
    fields: dict[str, Values]
    live: Tensor
    text: Tensor
    ends: Tensor
    hashes: Any
    order: Any
    codes: Codes | None = None
    pages: Pages | None = None
    stays: bool = True
    cache: dict[Any, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.entry.rows

    def give_back(self) -> None:
        """Let go of the pages that were read, unless they stay."""
        if self.pages is not None and not self.stays:
            self.pages.give_back()

    def walk(self, rows: Tensor, size: int) -> Iterator[Tensor]:
        """Some rows, so many at a time; the pages that were read for them are given back after each part."""
        for part in torch.split(rows, size):
            yield part
            self.give_back()

    def id(self, row: int) -> str:
        """The id of one item."""
        start, end = (int(self.ends[row - 1]) if row else 0), int(self.ends[row])
        return bytes(self.text[start:end].numpy()).decode("utf-8", "surrogatepass")

    def find(self, ids: Sequence[str], hashes: Any) -> list[tuple[int, int]]:
        """(position in `ids`, row) of those that are live here."""
        places = np.searchsorted(self.hashes, hashes)
        found = []
        for position, place in enumerate(places.tolist()):
            while place < len(self.hashes) and self.hashes[place] == hashes[position]:
                row = int(self.order[place])
                if self.live[row] and self.id(row) == ids[position]:
                    found.append((position, row))
                place += 1
        return found

    def metadata(self, row: int) -> dict[str, Any]:
        """The fields of one item that have a value."""
        values = {name: column[row] for name, column in self.fields.items()}
        return {name: value for name, value in values.items() if value is not None}

    @staticmethod
    def write(
        path: Path,
        ids: Sequence[str],
        modalities: Sequence[str],
        sides: Sides,
        fields: Mapping[str, Values],
        *,
        int8: bool = False,
    ) -> Entry:
        """Write a segment, whole or not at all; return its line for the manifest."""
        encoded = [name.encode("utf-8", "surrogatepass") for name in ids]
        hashes = hash_ids(ids)
        order = np.argsort(hashes, kind="stable")
        tensors = {
            **sides._asdict(),
            "id.text": _bytes(encoded),
            "id.ends": torch.tensor([len(name) for name in encoded], dtype=torch.int64).cumsum(0),
            "id.hashes": torch.from_numpy(hashes[order].astype(np.int64)),
            "id.order": torch.from_numpy(order.astype(np.int64)),
        }
        if int8:
            tensors |= {f"code.{name}": part for name, part in codes_of(sides.basis)._asdict().items()}
        for number, column in enumerate(fields.values()):
            tensors |= {f"field.{number}.values": column.values, f"field.{number}.known": column.known}
            if column.kind == "text":
                words = [word.encode("utf-8", "surrogatepass") for word in column.words]
                tensors[f"field.{number}.text"] = _bytes(words)
                tensors[f"field.{number}.ends"] = torch.tensor([len(word) for word in words], dtype=torch.int64).cumsum(0)
        token = secrets.token_hex(8)
        kinds = {name: column.kind for name, column in fields.items()}
        header = {"token": token, "rows": len(ids), "modalities": list(modalities), "fields": kinds}
        with atomic(path) as partial:
            save_file({name: value.contiguous() for name, value in tensors.items()}, partial, {FORMAT: json.dumps(header)})
            size, digest = partial.stat().st_size, file_hash(partial)
        return Entry(path.name, len(ids), size, digest, token)

    @classmethod
    def open(cls, folder: Path, entry: Entry, dim: int, *, verify: bool = False) -> Segment:
        """Map a segment into memory.

        Args:
            folder: of the index.
            entry: its line in the manifest.
            dim: width of the vectors.
            verify: read all of it and compare its hash.

        Returns:
            The segment.

        Raises:
            InputError: a file that is missing, cut off, damaged or of another index.
        """
        path = inside(folder, entry.file)
        try:
            if path.stat().st_size != entry.size:
                raise InputError(f"it has {path.stat().st_size:,} bytes of {entry.size:,}")
            if verify and file_hash(path) != entry.hash:
                raise InputError("its content has changed")
            with safe_open(path, framework="pt") as file:
                header = json.loads((file.metadata() or {}).get(FORMAT, "{}"))
                if header.get("token") != entry.token or header.get("rows") != entry.rows:
                    raise InputError("it belongs to another index")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            segment = cls._of(entry, header, tensors, dim, _live(folder, entry))
            segment.pages = pages_of(path, segment.sides.basis)
            return segment
        except FileNotFoundError:
            raise
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise InputError(
                f"{str(path)!r} is damaged: {first_line(error):.120}. Restore it, or build the index again."
            ) from None

    @classmethod
    def _of(cls, entry: Entry, header: Any, tensors: dict[str, Tensor], dim: int, live: Tensor) -> Segment:
        sides = Sides(*(tensors[name] for name in Sides._fields))
        modalities, n = tuple(header["modalities"]), entry.rows
        shapes = {"present": (n, len(modalities)), "basis": (len(sides.basis), n, dim), "tokens": (len(sides.tokens), dim)}
        shapes["coordinates"] = (n, len(modalities), len(sides.basis))
        wrong = [name for name, shape in shapes.items() if tuple(tensors[name].shape) != shape]
        if wrong or len(live) != n or len(tensors["id.ends"]) != n:
            raise InputError(f"shapes that do not fit ({', '.join(wrong) or 'ids'})")
        fields: dict[str, Values] = {}
        for number, (name, kind) in enumerate(header["fields"].items()):
            column: dict[str, Tensor] = {
                part: tensors[f"field.{number}.{part}"] for part in ("values", "known", *(("text", "ends") * (kind == "text")))
            }
            words = _texts(column["text"], column["ends"]) if kind == "text" else ()
            known_kind: FieldType = kind
            fields[name] = Values(known_kind, column["values"], column["known"], words)
        codes = Codes(*(tensors[f"code.{name}"] for name in Codes._fields)) if "code.numbers" in tensors else None
        if codes is not None and (codes.numbers.shape, codes.steps.shape, codes.errors.shape) != (
            sides.basis.shape,
            sides.basis.shape[:2],
            (n,),
        ):
            raise InputError("shapes that do not fit (codes)")
        hashes, order = tensors["id.hashes"].numpy(), tensors["id.order"].numpy()
        return cls(entry, modalities, sides, fields, live, tensors["id.text"], tensors["id.ends"], hashes, order, codes)


def _live(folder: Path, entry: Entry) -> Tensor:
    live = torch.ones(entry.rows, dtype=torch.bool)
    if entry.deleted is not None:
        with safe_open(inside(folder, entry.deleted), framework="pt") as file:
            live = file.get_tensor("live")
    if int((~live).sum()) != entry.gone:
        raise InputError("the marks of deleted items do not fit")
    return live


def write_live(path: Path, live: Tensor) -> None:
    """Write which items of a segment are not deleted."""
    with atomic(path) as partial:
        save_file({"live": live}, partial)


def file_hash(path: Path) -> str:
    """A hash of a whole file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def _bytes(words: Sequence[bytes]) -> Tensor:
    return torch.frombuffer(bytearray(b"".join(words)), dtype=torch.uint8) if any(words) else torch.zeros(0, dtype=torch.uint8)


def _texts(text: Tensor, ends: Tensor) -> tuple[str, ...]:
    content, places = bytes(text.numpy()), [0, *ends.tolist()]
    return tuple(content[start:end].decode("utf-8", "surrogatepass") for start, end in pairwise(places))
