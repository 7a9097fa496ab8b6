"""`JointHeads`: items of several modalities as single vectors, by the regression of what all heads of an Aligner share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gramian.canonical import Moments
from gramian.canonical.criteria import Affine
from gramian.canonical.regression import joint
from gramian.data.batches import Reading
from gramian.data.table import Table
from gramian.errors import check_choice, check_type
from gramian.geometry import unit
from gramian.model.aligner import Aligner
from gramian.model.heads import features_of, linear_of
from gramian.model.starts import EncodedRows, moments_of

__all__ = ["JointHeads"]


class JointHeads:
    """One vector for all that an item has of some modalities: to ask with a picture and a sentence together.

    The centroid of the modalities' vectors counts what they say alike twice, and weighs a noisy modality like a clear one. The
    ridge regression of what all heads share on the joined features does not (`gramian.canonical.joint`). It is solved from the
    covariances of the training items, which are read once, for each subset of modalities that is asked for.

    Args:
        aligner: with heads "linear", "kernel" or "residual", of which the linear map is used; trained in any way.
        train: its training items.
        ridge: see `gramian.canonical.joint`; in closed form that of the heads.
        reading: how raw cells are read.

    Attributes:
        moments: of what the heads read.

    Raises:
        InputError: a head without a linear map, or columns that do not fit.

    >>> table = Table.from_columns({"a": torch.eye(4), "b": torch.eye(4).flip(1)})
    >>> aligner = Aligner.canonical(table, head="linear")
    >>> vectors, present = JointHeads(aligner, table)(table)
    >>> vectors.shape, bool(present.all()), bool(torch.allclose(vectors, aligner(table).column("a"), atol=1e-4))
    (torch.Size([4, 3]), True, True)
    """

    def __init__(
        self,
        aligner: Aligner,
        train: Table,
        *,
        ridge: float = 1.0,
        reading: Reading = Reading(),
    ) -> None:
        check_type("aligner", aligner, Aligner)
        check_type("train", train, Table, fix="Table.from_columns makes one.")
        aligner.check(train, "train")
        self.aligner = aligner
        self.ridge = ridge
        self.reading = reading
        heads = aligner.named_heads()
        self._weights = {name: linear_of(head).weight.detach().mT for name, head in heads.items()}
        self.moments: Moments = moments_of(EncodedRows(aligner.towers, train.select(*self._read(train)), reading), heads)
        self._maps: dict[tuple[str, ...], dict[str, Affine]] = {}

    def _read(self, table: Table) -> list[str]:
        return [name for name in self.aligner.modalities if name in table.modalities]

    @torch.no_grad()
    def __call__(self, table: Table, names: Sequence[str] | None = None) -> tuple[Tensor, Tensor]:
        """The items' vectors in the Aligner's space.

        Args:
            table: the items.
            names: the modalities to join; by default all that the table has. An item that lacks some is joined from the rest.

        Returns:
            (n, dim) unit vectors, zero where an item has none of the modalities, and the (n,) bool mask of the others. A
            process has those of its share of the rows.

        Raises:
            InputError: an unknown modality, or columns that do not fit.
        """
        check_type("table", table, Table, fix="Table.from_columns makes one.")
        names = [check_choice("names", name, self._read(table)) for name in names or self._read(table)]
        self.aligner.check(table)
        heads, outputs, masks = self.aligner.named_heads(), [], []
        for columns in EncodedRows(self.aligner.towers, table.select(*names), self.reading):
            values = {name: features_of(heads[name])(columns[name][0].to(self.aligner.device)).double() for name in names}
            present = torch.stack([columns[name][1].to(self.aligner.device) for name in names], 1)
            total = torch.zeros(len(present), self.aligner.dim, dtype=torch.float64, device=present.device)
            for kind in torch.unique(present, dim=0):
                rows = (present == kind).all(1)
                for name, (weight, bias) in self._of(tuple(name for name, has in zip(names, kind, strict=True) if has)).items():
                    total[rows] += values[name][rows] @ weight + bias
            outputs.append(unit(total).float())
            masks.append(present.any(1))
        return torch.cat(outputs), torch.cat(masks)

    def _of(self, names: tuple[str, ...]) -> dict[str, Affine]:
        """The maps of a subset, solved once."""
        if names and names not in self._maps:
            self._maps[names] = joint(self.moments, self._weights, names, ridge=self.ridge)
        return self._maps.get(names, {})
