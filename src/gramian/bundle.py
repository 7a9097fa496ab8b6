"""`Bundle`: n items, each with up to m modality vectors in one d-dimensional space, and a mask of what is present.

Over 400 lines, docstrings included: one value with its constructors, its cuts and joins, its file and its pytree registration.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import register_pytree_node

from gramian.errors import InputError, check_type, listing
from gramian.factorisations import normalized
from gramian.geometry import unit
from gramian.memory import split, stack
from gramian.rows import read_ids, read_mask, read_rows, row_index
from gramian.tensors import read_tensors, write_tensors
from gramian.tokens import PoolName, Tokens, pool

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

__all__ = ["Bundle", "Vectors"]

Vectors: TypeAlias = "Tensor | np.ndarray | Tokens | Sequence[Tensor | np.ndarray | Sequence[float] | None] | None"
"""One modality of n items: an (n, d) array, a sequence of n vectors with `None` where one is missing, or `None` for all; or
`Tokens`, several vectors per item."""

_FORMAT = "gramian.bundle.v1"


@dataclass(frozen=True, eq=False, repr=False)
class Bundle:
    """n items × m named modalities, with a mask.

    Build one with `Bundle.from_dict`, which normalises and checks; the plain constructor checks shapes only and trusts the
    values.

    Attributes:
        vectors: (n, m, d) floating point; unit rows where present, zero rows where not.
        present: (n, m) bool.
        modalities: the m names, all different.
        item_ids: (n,) int64, or None where every row is an item of its own. Rows with the same id are one item (two captions of
            one film): losses do not use them as each other's negatives, and evaluation accepts either as the match.
        tokens: modality → its tokens in the same space, of unit length, where known; the vectors are pooled from them.

    Raises:
        InputError: shapes that do not fit together.

    >>> bundle = Bundle.from_dict({"text": [[3.0, 4.0], [1.0, 0.0]], "audio": [[0.0, 2.0], None]})
    >>> bundle
    Bundle(2 items, 2 dimensions, torch.float32; text 2, audio 1)
    >>> bundle.column("text")
    tensor([[0.6000, 0.8000],
            [1.0000, 0.0000]])
    """

    vectors: Float[Tensor, "n m d"]
    present: Bool[Tensor, "n m"]
    modalities: tuple[str, ...]
    item_ids: Int[Tensor, " n"] | None = None
    tokens: Mapping[str, Tokens] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "modalities", _names(self.modalities))
        if self.vectors.ndim != 3 or not self.vectors.is_floating_point():
            raise InputError(
                "`vectors` must be a floating-point tensor of shape (n, m, d); "
                f"got {self.vectors.dtype} of shape {tuple(self.vectors.shape)}."
            )
        n, m, _ = self.vectors.shape
        if m != len(self.modalities):
            raise InputError(f"`modalities` must name the {m} modalities of `vectors`; got {len(self.modalities)} names.")
        if self.present.dtype != torch.bool or self.present.shape != (n, m):
            raise InputError(
                f"`present` must be a bool tensor of shape ({n}, {m}); "
                f"got {self.present.dtype} of shape {tuple(self.present.shape)}."
            )
        if self.item_ids is not None and (self.item_ids.dtype != torch.int64 or self.item_ids.shape != (n,)):
            raise InputError(
                f"`item_ids` must be an int64 tensor of shape ({n},); "
                f"got {self.item_ids.dtype} of shape {tuple(self.item_ids.shape)}. "
                "`Bundle.from_dict` takes names as well."
            )
        for name, tokens in self.tokens.items():
            self.position(name)
            if len(tokens) != n or tokens.values.shape[2] != self.dim:
                raise InputError(f"`tokens[{name!r}]` must hold {n} sequences of width {self.dim}; got {tokens!r}.")

    @classmethod
    def from_dict(
        cls,
        columns: Mapping[str, Vectors],
        *,
        present: Mapping[str, Bool[Tensor, " n"] | np.ndarray | Sequence[bool]] | None = None,
        item_ids: Int[Tensor, " n"] | Sequence[int] | Sequence[str] | None = None,
        pooling: PoolName = "mean",
        check: bool = True,
    ) -> Bundle:
        """Build a Bundle from one (n, d) array per modality; rows are scaled to unit length here.

        Args:
            columns: name → (n, d) array, or a sequence of n vectors with `None` for a missing one, or `None` if no item has
                that modality; or `Tokens`, which are pooled to one vector per item and kept.
            present: name → (n,) mask of the rows that count; what a masked row holds is never read. A modality without an
                entry is present wherever `columns` has a vector.
            item_ids: n whole numbers or names; rows with the same one are the same item. Names become 64-bit hashes.
            pooling: from tokens to vectors: "mean", "max" or "first".
            check: False skips the checks of the values (not of the shapes), which synchronise with the device.

        Returns:
            n items with unit rows where present and zero rows where not.

        Raises:
            InputError: unequal n or d, an unknown name in `present`, present rows that are not finite or have no length, an
                item with nothing present.

        >>> Bundle.from_dict({"a": torch.eye(3), "b": torch.ones(3, 4)})
        Traceback (most recent call last):
        ...
        gramian.errors.InputError: `columns` must share one width d; got a 3, b 4. Project them to one space first.
        """
        check_type("columns", columns, Mapping, fix="Name them: {'text': text, 'image': image}.")
        names = _names(columns)
        if not names:
            raise InputError("`columns` must hold at least one modality; got none.")
        unknown = sorted(set(present or {}) - set(names))
        if unknown:
            raise InputError(f"`present` has unknown modalities {listing(unknown)}; the columns are {', '.join(names)}.")
        tokens = {name: column for name, column in columns.items() if isinstance(column, Tokens)}
        read = {
            name: (pool(column, pooling), column.has_any())
            if isinstance(column, Tokens)
            else read_rows(f"`columns[{name!r}]`", column)
            for name, column in columns.items()
            if column is not None
        }
        if not read:
            raise InputError("`columns` must hold at least one modality that is not None; got only None.")
        _agree(
            "columns",
            "length n",
            {name: len(value) for name, (value, _) in read.items()},
            "Mark missing rows with `None`.",
        )
        _agree(
            "columns",
            "width d",
            {name: value.shape[1] for name, (value, _) in read.items()},
            "Project them to one space first.",
        )

        values = [value for value, _ in read.values()]
        n, d = values[0].shape
        dtype, device = values[0].dtype, values[0].device
        for value in values[1:]:
            dtype = torch.promote_types(dtype, value.dtype)
        absent = (torch.zeros(n, d, dtype=dtype, device=device), torch.zeros(n, dtype=torch.bool, device=device))
        rows, masks = [], []
        for name in names:
            value, mask = read.get(name, absent)
            if present is not None and name in present:
                mask = mask & read_mask(name, present[name], n).to(mask.device)
            rows.append(value.to(dtype))
            masks.append(mask)
        raw, mask = stack(rows), torch.stack(masks, 1)
        if not mask.all():
            raw = raw.masked_fill(~mask[..., None], 0)
        vectors, lengths = normalized(raw)
        if check:
            _check_rows(raw, lengths.detach().squeeze(-1), mask, names)
            for name, column in tokens.items():
                wrong = column.present & ~(column.values.isfinite().all(-1) & column.values.any(-1))
                if wrong.any():
                    where = listing(wrong.any(1).nonzero().flatten().tolist())
                    raise InputError(
                        f"`columns[{name!r}]` has {int(wrong.sum())} tokens that are zero or not finite (rows {where}). "
                        "Mask them in `Tokens.present`."
                    )
        token_masks = {name: column.present & mask[:, names.index(name), None] for name, column in tokens.items()}
        scaled = {name: Tokens(unit(column.values.to(dtype)), token_masks[name]) for name, column in tokens.items()}
        return cls(vectors, mask, names, None if item_ids is None else read_ids(item_ids, n).to(device), scaled)

    def __len__(self) -> int:
        return self.vectors.shape[0]

    @property
    def dim(self) -> int:
        """The width d of the shared space."""
        return self.vectors.shape[2]

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} {int(k)}" for name, k in self.counts().items())
        return f"Bundle({len(self)} items, {self.dim} dimensions, {self.vectors.dtype}; {counts})"

    def counts(self) -> dict[str, int]:
        """How many items have each modality."""
        return dict(zip(self.modalities, self.present.sum(0).tolist(), strict=True))

    def position(self, modality: str) -> int:
        """The index of `modality` along the second axis.

        Raises:
            InputError: the Bundle has no such modality.
        """
        if modality not in self.modalities:
            raise InputError(f"`modality` must be one of {', '.join(self.modalities)}; got {modality!r}.")
        return self.modalities.index(modality)

    def column(self, modality: str) -> Float[Tensor, "n d"]:
        """The vectors of one modality, (n, d), zero where missing."""
        return self.vectors[:, self.position(modality)]

    def has(self, *modalities: str) -> Bool[Tensor, " n"]:
        """Which items have at least one of `modalities` (all of the Bundle's by default), (n,) bool."""
        if not modalities:
            return self.present.any(1)
        return self.present[:, [self.position(name) for name in modalities]].any(1)

    def select(self, *modalities: str) -> Bundle:
        """The same items with `modalities` alone, in the order given. Some items may be left with nothing: see `has`.

        Raises:
            InputError: no modality, one twice, or one that the Bundle lacks.
        """
        if not modalities:
            raise InputError(f"`modalities` must name at least one of {', '.join(self.modalities)}; got none.")
        index = [self.position(name) for name in modalities]
        tokens = {name: column for name, column in self.tokens.items() if name in modalities}
        first, beyond = index[0], index[-1] + 1
        if index == list(range(first, beyond)):  # a view, and its gradient a plain copy
            vectors, present = self.vectors[:, first:beyond], self.present[:, first:beyond]
        else:
            vectors, present = self.vectors[:, index], self.present[:, index]
        return Bundle(vectors, present, modalities, self.item_ids, tokens)

    def apart(self, first: Sequence[str], second: Sequence[str]) -> tuple[Bundle, Bundle]:
        """`select` of both; where `first` and `second` are all modalities in order, the gradient of both is one tensor."""
        bundles = self.select(*first), self.select(*second)
        if (*first, *second) != self.modalities:
            return bundles
        parts = split(self.vectors, len(first))
        return replace(bundles[0], vectors=parts[0]), replace(bundles[1], vectors=parts[1])

    def same(self, other: Bundle | None = None) -> Bool[Tensor, "n p"]:
        """Which rows are one item, (n, p) bool: equal `item_ids`, against the p rows of `other`, or its own n by default.

        Raises:
            InputError: rows of two Bundles are compared and one of them has no ids.
        """
        if other is None and self.item_ids is None:
            return torch.eye(len(self), dtype=torch.bool, device=self.vectors.device)
        first, second = self.item_ids, (self if other is None else other).item_ids
        if first is None or second is None:
            raise InputError("`item_ids` must say which rows of two Bundles are one item; got a Bundle without.")
        return first[:, None] == second

    def distinct(self) -> int:
        """The number of different items: rows with the same id count once."""
        return len(self) if self.item_ids is None else int(torch.unique(self.item_ids).numel())

    def __getitem__(self, rows: int | slice | Sequence[int] | Int[Tensor, " p"] | Bool[Tensor, " n"] | np.ndarray) -> Bundle:
        """The items at `rows`: a slice, an index, indices or a boolean mask; always a Bundle, of one item for an index.

        Raises:
            InputError: a name in place of rows.
        """
        if isinstance(rows, str):
            raise InputError(f"a Bundle is indexed by rows; got {rows!r}. Use `.column({rows!r})` or `.select({rows!r})`.")
        index = rows if isinstance(rows, slice) else row_index(rows, self.vectors.device)
        return Bundle(
            self.vectors[index],
            self.present[index],
            self.modalities,
            None if self.item_ids is None else self.item_ids[index],
            {name: tokens[index] for name, tokens in self.tokens.items()},
        )

    @staticmethod
    def cat(bundles: Iterable[Bundle]) -> Bundle:
        """All items of `bundles`, which share their width and their modalities, in any order: that of the first is kept.

        Tokens are kept where every Bundle has them; either all Bundles have ids or none.

        Raises:
            InputError: no Bundle, different modalities or widths, or ids in only some of them.
        """
        parts = list(bundles)
        if not parts:
            raise InputError("`bundles` must hold at least one Bundle; got none.")
        names = parts[0].modalities
        for part in parts[1:]:
            if set(part.modalities) != set(names):
                raise InputError(
                    f"`bundles` must share their modalities; got {', '.join(names)} and {', '.join(part.modalities)}."
                )
        _agree(
            "bundles",
            "width d",
            {f"number {i}": part.dim for i, part in enumerate(parts)},
            "Embed them with one model.",
        )
        ids = [part.item_ids for part in parts if part.item_ids is not None]
        if ids and len(ids) < len(parts):
            raise InputError(f"`bundles` must all have ids, or none; got {len(ids)} of {len(parts)} with ids.")
        parts = [part.select(*names) for part in parts]
        shared = [name for name in names if all(name in part.tokens for part in parts)]
        return Bundle(
            torch.cat([part.vectors for part in parts]),
            torch.cat([part.present for part in parts]),
            names,
            torch.cat(ids) if ids else None,
            {name: Tokens.cat([part.tokens[name] for part in parts]) for name in shared},
        )

    def to(self, device: torch.device | str | None = None, *, dtype: torch.dtype | None = None) -> Bundle:
        """The same Bundle on another device or in another floating-point type."""
        return Bundle(
            self.vectors.to(device=device, dtype=dtype),
            self.present.to(device=device),
            self.modalities,
            None if self.item_ids is None else self.item_ids.to(device=device),
            {name: tokens.to(device, dtype=dtype) for name, tokens in self.tokens.items()},
        )

    def detach(self) -> Bundle:
        """The same Bundle without its graph."""
        tokens = {name: Tokens(tokens.values.detach(), tokens.present) for name, tokens in self.tokens.items()}
        return Bundle(self.vectors.detach(), self.present, self.modalities, self.item_ids, tokens)

    def save(self, path: str | Path) -> None:
        """Write the Bundle to one safetensors file, lossless and atomic."""
        tensors = {"vectors": self.vectors, "present": self.present}
        if self.item_ids is not None:
            tensors["ids"] = self.item_ids
        for i, name in enumerate(self.modalities):
            if name in self.tokens:
                tensors |= {f"tokens.{i}": self.tokens[name].values, f"tokens.{i}.present": self.tokens[name].present}
        write_tensors(path, tensors, _FORMAT, {"modalities": self.modalities})

    @classmethod
    def load(cls, path: str | Path, *, device: str = "cpu") -> Bundle:
        """Read a Bundle that `save` wrote.

        Raises:
            InputError: no such file, or a file that is not a Bundle.
        """
        tensors, header = read_tensors(path, _FORMAT, device=device)
        if header is None:
            raise InputError(f"`path` must be a Bundle written by `Bundle.save`; {str(path)!r} is another safetensors file.")
        try:
            names = tuple(header["modalities"])
            tokens = {
                name: Tokens(tensors[f"tokens.{i}"], tensors[f"tokens.{i}.present"])
                for i, name in enumerate(names)
                if f"tokens.{i}" in tensors
            }
            return cls(tensors["vectors"], tensors["present"], names, tensors.get("ids"), tokens)
        except (KeyError, TypeError) as error:
            raise InputError(f"`path` must be a Bundle written by `Bundle.save`; {str(path)!r} is damaged ({error}).") from None


def _flatten(bundle: Bundle) -> tuple[list[Any], tuple[tuple[str, ...], tuple[str, ...]]]:
    parts = [part for tokens in bundle.tokens.values() for part in (tokens.values, tokens.present)]
    return [bundle.vectors, bundle.present, bundle.item_ids, *parts], (bundle.modalities, tuple(bundle.tokens))


def _unflatten(leaves: Iterable[Any], context: tuple[tuple[str, ...], tuple[str, ...]]) -> Bundle:
    """A Bundle of the leaves, whatever a wrapper has turned them into: not checked."""
    vectors, mask, ids, *parts = leaves
    bundle, tokens = object.__new__(Bundle), {}
    for name, values, present in zip(context[1], parts[::2], parts[1::2], strict=True):
        tokens[name] = object.__new__(Tokens)
        tokens[name].__dict__.update(values=values, present=present)
    bundle.__dict__.update(vectors=vectors, present=mask, modalities=context[0], item_ids=ids, tokens=tokens)
    return bundle


# So that wrappers that act on the tensors a module returns, such as FSDP, find those of a Bundle.
register_pytree_node(Bundle, _flatten, _unflatten, serialized_type_name="gramian.Bundle")


def _names(names: Iterable[str]) -> tuple[str, ...]:
    listed = tuple(names)
    if not all(isinstance(name, str) and name for name in listed):
        raise InputError(f"`modalities` must be non-empty strings; got {listed!r}.")
    if len(set(listed)) != len(listed):
        raise InputError(f"`modalities` must all be different; got {', '.join(listed)}.")
    return listed


def _agree(argument: str, what: str, sizes: Mapping[str, int], hint: str) -> None:
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise InputError(f"`{argument}` must share one {what}; got {listed}. {hint}")


def _check_rows(vectors: Tensor, lengths: Tensor, present: Tensor, names: tuple[str, ...]) -> None:
    flat, infinite = present & (lengths == 0), torch.zeros_like(present)
    if not lengths.isfinite().all():  # which that of a finite vector need not be
        infinite = ~vectors.isfinite().all(-1)
    for wrong, what in ((infinite, "not finite"), (flat, "zero and so have no direction")):
        if wrong.any():
            counts = ", ".join(f"{name} {int(k)}" for name, k in zip(names, wrong.sum(0), strict=True) if k)
            rows = listing(wrong.any(1).nonzero().flatten().tolist())
            raise InputError(
                f"`columns` has present vectors that are {what}: {counts} (rows {rows}). "
                "Correct them, or mark them missing with `None` or `present`."
            )
    empty = ~present.any(1)
    if empty.any():
        rows = listing(empty.nonzero().flatten().tolist())
        raise InputError(
            f"`columns` has {int(empty.sum())} of {len(present)} items with no modality present (rows {rows}). Leave them out."
        )
