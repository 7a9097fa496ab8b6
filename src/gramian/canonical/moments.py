"""`Moments`: what canonical analysis reads of the data: counts, sums and cross products of columns with missing cells."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations_with_replacement
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gramian.data.table import Table
from gramian.distributed import summed
from gramian.errors import InputError, check_choice, listing
from gramian.processes import Group
from gramian.rows import read_mask
from gramian.tensors import read_tensors, write_tensors

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

__all__ = ["Moments"]

ROWS = 1024  # taken at a time: float64 copies of them are all that `add` holds beside the sums, and stay in the cache
SUMS = ("counts", "shift", "sums", "products")
_FORMAT = "gramian.moments.v1"


class Moments:
    """Counts, sums and cross products of named columns of features, over the rows that have both columns of each pair.

    They grow with the square of the widths and not with the rows, so any number of rows goes through in one pass: in parts, in
    any order, in several processes (`a + b`, `over_processes`). Everything is float64, and each column is shifted by the mean
    of its first rows, so that a large mean does not cancel the digits of a small variance.

    Args:
        widths: column → number of entries.
        device: where the sums are kept and computed.

    Attributes:
        rows: how many rows were added; each counts once, whatever its weight.
        counts: (m, m), rows that have both columns, by weight.
        shift: (D,) what is subtracted from the columns, side by side, before they are summed.
        sums: (D, m) of each entry, over the rows that have its column and that of the second axis.
        products: (D, D) of each pair of entries, over the rows that have both.

    Raises:
        InputError: no column, or a width below 1.

    >>> moments = Moments({"text": 2, "audio": 1})
    >>> moments.add({"text": torch.tensor([[1.0, 0.0], [3.0, 4.0]]), "audio": torch.tensor([[2.0], [8.0]])})
    >>> moments.mean("text").tolist(), moments.covariance("text", "audio").tolist()
    ([2.0, 2.0], [[3.0], [6.0]])
    """

    def __init__(self, widths: Mapping[str, int], device: torch.device | str = "cpu") -> None:
        if not widths or min(widths.values()) < 1:
            raise InputError(f"`widths` must name at least one column, each of width 1 or more; got {dict(widths)}.")
        self.widths: dict[str, int] = dict(widths)
        ends = np.cumsum(list(self.widths.values())).tolist()
        self.places: dict[str, slice[Any, Any, Any]] = {
            name: slice(end - width, end) for (name, width), end in zip(self.widths.items(), ends, strict=True)
        }
        m, D = len(self.widths), ends[-1]
        options: Any = {"dtype": torch.float64, "device": device}
        self.rows: int = 0
        self.counts: Tensor = torch.zeros(m, m, **options)
        self.shift: Tensor = torch.zeros(D, **options)
        self.sums: Tensor = torch.zeros(D, m, **options)
        self.products: Tensor = torch.zeros(D, D, **options)

    @classmethod
    def of(
        cls,
        columns: Table | Mapping[str, Tensor],
        *,
        present: Mapping[str, Bool[Tensor, " n"]] | None = None,
        weights: Float[Tensor, " n"] | None = None,
    ) -> Moments:
        """The moments of one table; arguments as for `add`.

        Returns:
            Moments of all its columns, on the device of the first.

        Raises:
            InputError: see `add`.
        """
        values = _columns(columns)
        first = next(iter(values.values()), torch.empty(0))
        moments = cls({name: column.shape[-1] if column.ndim else 0 for name, column in values.items()}, first.device)
        moments.add(columns, present=present, weights=weights)
        return moments

    @property
    def names(self) -> tuple[str, ...]:
        """The columns."""
        return tuple(self.widths)

    def __repr__(self) -> str:
        columns = ", ".join(
            f"{name} {count:g} × {width}"
            for (name, width), count in zip(self.widths.items(), self.counts.diagonal().tolist(), strict=True)
        )
        return f"Moments({self.rows} rows; {columns})"

    def add(
        self,
        columns: Table | Mapping[str, Tensor],
        *,
        present: Mapping[str, Bool[Tensor, " n"]] | None = None,
        weights: Float[Tensor, " n"] | None = None,
    ) -> None:
        """Add rows.

        Args:
            columns: a Table of features, or column → (n, width); columns that are left out are missing in these rows.
            present: column → (n,) bool, where not all of them are; a Table has masks of its own.
            weights: (n,) how often each row counts; once by default.

        Raises:
            InputError: an unknown column, another width, unequal lengths, values that are not finite, negative weights.
        """
        values = _columns(columns)
        if isinstance(columns, Table):
            present = columns.present
        n = len(next(iter(values.values()), ()))
        for name, column in values.items():
            check_choice("columns", name, self.widths)
            if column.ndim != 2 or column.shape != (n, self.widths[name]):
                raise InputError(f"`columns[{name!r}]` must have shape ({n}, {self.widths[name]}); got {tuple(column.shape)}.")
        masks = {
            name: read_mask(name, mask, n) for name, mask in (present or {}).items() if check_choice("present", name, values)
        }
        if weights is not None and (weights.shape != (n,) or not bool((weights.isfinite() & (weights >= 0)).all())):
            raise InputError(f"`weights` must be {n} finite numbers of at least 0; got shape {tuple(weights.shape)}.")
        for start in range(0, n, ROWS):
            rows = slice(start, start + ROWS)
            self._add(
                {name: column[rows] for name, column in values.items()},
                {name: mask[rows] for name, mask in masks.items()},
                None if weights is None else weights[rows],
            )

    def _add(self, values: Mapping[str, Tensor], masks: Mapping[str, Tensor], weights: Tensor | None) -> None:
        where = self.counts.device
        n = len(next(iter(values.values())))
        once = torch.ones(n, dtype=torch.float64, device=where)
        weight = once if weights is None else weights.to(once)
        shifted: dict[str, Tensor] = {}
        share: dict[str, Tensor] = {}  # 1 where the row has the column
        for name, column in values.items():
            mask = masks.get(name)
            read = column.to(once)
            if mask is not None:
                mask = mask.to(where)
                read = read.masked_fill(~mask[:, None], 0)
            share[name] = once if mask is None else mask.double()
            total = read.sum(0)  # one pass, where a test of every value is four: NaN and infinity carry through a sum
            wrong = 0 if bool(total.isfinite().all()) else int((~read.isfinite().all(1)).sum())
            if wrong:
                raise InputError(
                    f"column `{name}` holds NaN or infinite values in {wrong} of {n} rows. Correct them, or mask those cells."
                )
            place, i = self.places[name], self.names.index(name)
            filled = share[name].sum()
            if not filled:
                continue
            if not self.counts[i, i]:
                self.shift[place] = total / filled
            # A column in float64 is the caller's own; what was converted is not.
            read = read - self.shift[place] if read is column else read.sub_(self.shift[place])
            shifted[name] = read if mask is None else read.mul_(share[name][:, None])
        for first, second in combinations_with_replacement(shifted, 2):
            i, j = self.names.index(first), self.names.index(second)
            a, b = self.places[first], self.places[second]
            both = weight * share[first] * share[second]
            self.counts[i, j] += both.sum()
            self.sums[a, j] += both @ shifted[first]
            left = shifted[first] if weights is None else shifted[first] * weight[:, None]
            self.products[a, b].addmm_(left.mT, shifted[second])
            if i != j:
                self.counts[j, i] = self.counts[i, j]
                self.sums[b, i] += both @ shifted[second]
                self.products[b, a] = self.products[a, b].mT
        self.rows += n

    def _spread(self, values: Tensor) -> Tensor:
        """(m,) values of columns, repeated for their entries: (D,)."""
        return values.repeat_interleave(torch.tensor(list(self.widths.values()), device=values.device))

    def _about(self, first: str, second: str, shift: Tensor) -> Tensor:
        """The products of two columns about another shift: Σ(x + s)(y + t)ᵀ = Σxyᵀ + s(Σy)ᵀ + (Σx)tᵀ + n stᵀ."""
        i, j, a, b = self.names.index(first), self.names.index(second), self.places[first], self.places[second]
        step = self.shift - shift
        crossed = torch.outer(step[a], self.sums[b, i] + self.counts[i, j] * step[b])
        return self.products[a, b] + crossed + torch.outer(self.sums[a, j], step[b])

    def _moved(self, shift: Tensor) -> Moments:
        """The same moments about another shift."""
        moved = Moments(self.widths, self.counts.device)
        moved.rows, moved.counts, moved.shift = self.rows, self.counts.clone(), shift.clone()
        for i, (name, place) in enumerate(self.places.items()):
            moved.sums[place] = self.sums[place] + torch.outer(self.shift[place] - shift[place], self.counts[i])
            for other, beside in self.places.items():
                moved.products[place, beside] = self._about(name, other, shift)
        return moved

    def __add__(self, other: Moments) -> Moments:
        """The moments of the rows of both.

        Raises:
            InputError: other columns or widths.
        """
        if not isinstance(other, Moments):
            return NotImplemented
        if other.widths != self.widths:
            raise InputError(f"moments can be added if they have the same columns; got {self!r} and {other!r}.")
        seen = self._spread(self.counts.diagonal()) > 0
        shift = torch.where(seen, self.shift, other.shift.to(self.shift))
        first, second = self._moved(shift), other.to(self.counts.device)._moved(shift)
        first.rows += second.rows
        first.counts += second.counts
        first.sums += second.sums
        first.products += second.products
        return first

    def over_processes(self, group: Group = None) -> Moments:
        """The moments of the rows of all processes, the same in each.

        Args:
            group: the processes that take part; all by default.

        Returns:
            Their sum; with one process the moments themselves.

        Raises:
            InputError: the columns of the processes differ. Every process raises it.
        """
        weights = self._spread(self.counts.diagonal())
        own = weights * self.shift + torch.cat([self.sums[place, i] for i, place in enumerate(self.places.values())])
        kind = repr(list(self.widths.items()))
        total, weights = summed([own, weights], kind, group)
        moved = self._moved(total / weights.clamp(min=torch.finfo(torch.float64).tiny))
        rows = torch.tensor(self.rows, device=self.counts.device)
        parts = summed([rows, moved.counts, moved.sums, moved.products], kind, group)
        moved.rows, moved.counts, moved.sums, moved.products = int(parts[0]), *parts[1:]
        return moved

    def to(self, device: torch.device | str) -> Moments:
        """The same moments on a device."""
        moved = Moments(self.widths, device)
        moved.rows = self.rows
        for name in SUMS:
            setattr(moved, name, getattr(self, name).to(device))
        return moved

    def count(self, first: str, second: str | None = None) -> float:
        """How many rows have a column, or both of two, by weight.

        Raises:
            InputError: no such column.
        """
        i, j = (self.names.index(check_choice("column", name, self.widths)) for name in (first, second or first))
        return float(self.counts[i, j])

    def mean(self, name: str) -> Float[Tensor, " width"]:
        """The mean of a column over the rows that have it, (width,); zero where none has.

        Raises:
            InputError: no such column.
        """
        i, place = self.names.index(check_choice("column", name, self.widths)), self.places[name]
        return self.shift[place] + self.sums[place, i] / self.counts[i, i].clamp(min=torch.finfo(torch.float64).tiny)

    def covariance(self, first: str, second: str) -> Float[Tensor, "width other"]:
        """The covariance of two columns over the rows that have both, about the mean of each over all rows that have it.

        Args:
            first: a column.
            second: another, or the same.

        Returns:
            (width of the first, width of the second); divided by the number of rows, and zero where no row has both.

        Raises:
            InputError: no such column.
        """
        for name in (first, second):
            check_choice("column", name, self.widths)
        mean = torch.cat([self.mean(name) for name in self.names])
        return self._about(first, second, mean) / max(self.count(first, second), torch.finfo(torch.float64).tiny)

    def save(self, path: str | Path) -> None:
        """Write them to a `.safetensors` file, whole or not at all."""
        header = {"widths": list(self.widths.items()), "rows": self.rows}
        write_tensors(path, {name: getattr(self, name) for name in SUMS}, _FORMAT, header)

    @classmethod
    def load(cls, path: str | Path) -> Moments:
        """Read what `save` wrote.

        Raises:
            InputError: no such file, or one that is damaged or holds something else.
        """
        tensors, header = read_tensors(path, _FORMAT)
        try:
            moments = cls({str(name): int(width) for name, width in header["widths"]})
            moments.rows = int(header["rows"])
            for name in SUMS:
                value, wanted = tensors[name], getattr(moments, name)
                if value.shape != wanted.shape or value.dtype != wanted.dtype:
                    raise ValueError(f"{name} {tuple(value.shape)}")
                setattr(moments, name, value)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"`path` must be a file that `Moments.save` wrote; {str(path)!r} is not ({error}).") from None
        return moments


def _columns(columns: Table | Mapping[str, Tensor]) -> dict[str, Tensor]:
    if isinstance(columns, Table):
        return {name: columns.features(name) for name in columns.modalities}
    wrong = [name for name, column in columns.items() if not isinstance(column, Tensor)]
    if wrong:
        raise InputError(f"`columns` must be a Table, or map names to tensors (n, width); {listing(wrong)} is no tensor.")
    return dict(columns)
