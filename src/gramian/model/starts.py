"""How the linear maps of heads start: solved in closed form from the moments of what they read, or at the identity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from gramian.canonical import Moments, Solution
from gramian.data.batches import Loader, Reading
from gramian.data.cells import Broken
from gramian.data.table import Table
from gramian.distributed import share
from gramian.errors import InputError
from gramian.model.heads import KernelHead, features_of, linear_of
from gramian.model.towers import Columns, Features, Towers, evaluating

__all__ = ["EncodedRows", "adapt_heads", "fill_heads", "identity_heads", "moments_of"]


class EncodedRows:
    """The rows of a table as towers encode them, in batches, as often as they are asked for.

    Of several processes each has its share of the rows. Raw cells are read and encoded once, and kept.

    Args:
        towers: frozen.
        table: with columns that the towers read.
        reading: how raw cells are read.

    Attributes:
        towers: frozen.
        table: the rows.
        broken: the cells that could not be read in the last pass.
    """

    def __init__(self, towers: Towers, table: Table, reading: Reading = Reading()) -> None:
        self.towers: Towers = towers
        self.table: Table = table
        self._loader = Loader(table, towers.collator(), reading)
        self._rows = range(len(table))
        self._kept: list[Columns] | None = None
        self._few: dict[tuple[str, bytes], Tensor] = {}
        self.broken: list[Broken] = []

    def __iter__(self) -> Iterator[Columns]:
        if self._kept is not None:
            return iter(self._kept)
        if self._loader.raw:
            self._kept = list(self._encoded())
            return iter(self._kept)
        return self._encoded()

    def of(self, name: str, index: Tensor) -> Tensor:
        """The vectors of one modality at some rows, without the cells that cannot be read; in every process all of them.

        Args:
            name: of the modality.
            index: (k,) row numbers.

        Returns:
            (k, width) or fewer rows.
        """
        key = name, index.numpy().tobytes()
        if key in self._few:
            return self._few[key]
        loader = Loader(self.table.select(name)[index], self.towers.collator())
        with evaluating(self.towers):
            parts = [self.towers.encode(batch, [name])[name] for batch in loader.in_order()]
        vectors = torch.cat([vectors[mask] for vectors, mask in parts])
        if self._loader.raw:
            self._few[key] = vectors
        return vectors

    def _encoded(self) -> Iterator[Columns]:
        names = self._loader.table.modalities
        self.broken.clear()
        with evaluating(self.towers):
            for batch in self._loader.in_order(rows=share(self._rows)):  # type: ignore[arg-type]  # of a range
                self.broken.extend(batch.broken)
                yield self.towers.encode(batch, names)


@torch.no_grad()
def adapt_heads(rows: EncodedRows, heads: Mapping[str, nn.Module], seed: int) -> None:
    """Take the landmarks of kernel heads from the rows of a table, the same in every process.

    Args:
        rows: the training items.
        heads: modality → head.
        seed: of the choice of rows.

    Raises:
        InputError: no row of a modality can be read.
    """
    for name, head in heads.items():
        if not isinstance(head, KernelHead):
            continue
        filled = rows.table.present[name].nonzero().flatten()
        order = torch.randperm(len(filled), generator=torch.Generator().manual_seed(seed))
        few = head.features.kernel.landmarks * (8 if head.features.kernel.choice == "kmeans" else 1)
        vectors = rows.of(name, filled[order[:few]])
        if not len(vectors):
            raise InputError(f"column `{name}` has no cell that can be read. Leave it out, or fix its cells.")
        head.features.adapt(vectors.to(rows.towers.device), seed=seed)


@torch.no_grad()
def moments_of(rows: EncodedRows, heads: Mapping[str, nn.Module]) -> Moments:
    """The moments of what the linear maps of heads read, over the rows of all processes.

    Args:
        rows: the training items.
        heads: modality → a head with a linear map.

    Returns:
        The same Moments in every process.

    Raises:
        InputError: a head without a linear map.
    """
    moments = Moments({name: linear_of(head).in_features for name, head in heads.items()}, rows.towers.device)
    for columns in rows:
        filled = {name: columns[name] for name in heads if name in columns}
        values = {name: features_of(heads[name])(vectors.to(rows.towers.device)) for name, (vectors, _) in filled.items()}
        moments.add(values, present={name: mask for name, (_, mask) in filled.items()})
    return moments.over_processes()


@torch.no_grad()
def fill_heads(heads: Mapping[str, nn.Module], solution: Solution, power: float) -> None:
    """Give heads the linear maps of a `Solution`, each scaled to the size of new weights, which unit length makes up for.

    Args:
        heads: modality → a head with a linear map.
        solution: with at least as many components as the heads have.
        power: see `Solution.head`.

    Raises:
        InputError: a head without a linear map, or a solution of fewer components.
    """
    for name, head in heads.items():
        linear = linear_of(head)
        if linear.out_features > len(solution.values):
            raise InputError(
                f"`dim` must be at most {len(solution.values)}, the components solved for; got {linear.out_features}."
            )
        weight, bias = solution.head(name, power=power, dim=linear.out_features)
        _fill(linear, weight.mT, bias)


@torch.no_grad()
def identity_heads(towers: Towers, heads: Mapping[str, nn.Module]) -> None:
    """Start the linear maps where the vectors stand: for modalities that share one space already.

    Features come out of the heads as they went into their towers, which standardise them, but for one factor.

    Args:
        towers: of the heads.
        heads: modality → head.

    Raises:
        InputError: a head of another width than the space, or without a linear map of the vector itself.
    """
    for name, head in heads.items():
        linear = linear_of(head)
        if isinstance(head, KernelHead) or linear.in_features != linear.out_features:
            raise InputError(
                f"`start` 'identity' needs heads 'linear' or 'residual' of width `dim` = {linear.out_features}; column "
                f"`{name}` has width {towers[name].width} and {'a kernel' if isinstance(head, KernelHead) else 'a linear map'}."
            )
        tower = towers[name]
        if isinstance(tower, Features):
            _fill(linear, torch.diag(tower.deviation), tower.mean)
        else:
            _fill(linear, torch.eye(linear.in_features), torch.zeros(linear.in_features))


def _fill(linear: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    """Set a map but for its scale, which is that of a new one: its entries have the variance 1/(3 · width)."""
    size = (3 * linear.in_features) ** -0.5 / weight.square().mean().sqrt().clamp(min=torch.finfo(weight.dtype).tiny)
    linear.weight.copy_(weight * size)
    linear.bias.copy_(bias * size)
