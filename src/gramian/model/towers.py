"""A tower encodes one modality: a vector per item and, where the encoder has them, token vectors.

A tower has two halves. Its `reader` (`gramian.data.readers`) turns cells into tensors, in any process and without the weights:
decoding, tokenising, resizing. The tower itself, a module, turns those tensors into vectors. Encoders of other libraries are in
`gramian.model.encoders`. `Towers` are those of several modalities, for an `Aligner` or for features that are computed once.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor, nn

from gramian.data.batches import Batch, Collator
from gramian.data.readers import CustomReader, FeatureReader, Reader
from gramian.data.table import Table
from gramian.errors import InputError, check_choice, check_number, check_type
from gramian.tokens import Tokens

__all__ = [
    "Columns",
    "Custom",
    "Encoded",
    "Features",
    "Tower",
    "Towers",
    "collator_for",
    "device_of",
    "evaluating",
    "seeded",
]

Columns: TypeAlias = dict[str, tuple[Tensor, Tensor]]
"""Modality → vectors (n, width), float32 and zero where missing, and (n,) bool; on the CPU."""


class Encoded(NamedTuple):
    """The output of a tower for n items.

    Attributes:
        vectors: (n, width).
        tokens: n sequences of width `width`, or None.
    """

    vectors: Tensor
    tokens: Tokens | None = None


class Tower(nn.Module, ABC):
    """A module that turns what its reader collates into (n, width) vectors.

    Derive from it for an encoder of your own, or wrap a module in `Custom`.

    Attributes:
        width: of the vectors.
        reader: from cells to inputs.
        learning_rate: peak of the optimiser's rate for this tower; None for the recipe's.
    """

    width: int
    reader: Reader
    learning_rate: float | None = None

    @abstractmethod
    def forward(self, inputs: Any) -> Encoded | Tensor:
        """Vectors (n, width), or `Encoded` with tokens as well."""

    def frozen(self) -> bool:
        """Whether no parameter is trained."""
        return not any(parameter.requires_grad for parameter in self.parameters())


class Features(Tower):
    """Precomputed features, standardised: each of the `width` entries to mean 0 and deviation 1 over the training rows.

    Without `adapt` the features pass through as they are.

    Raises:
        InputError: a `width` below 1.

    >>> tower = Features(2)
    >>> tower.adapt(torch.tensor([[0.0, 5.0], [2.0, 5.0]]))
    >>> tower(torch.tensor([[2.0, 5.0]]))
    tensor([[1., 0.]])
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width: int = check_number("width", width, "[1, inf)", integer=True)
        self.reader: FeatureReader = FeatureReader()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))

    @torch.no_grad()
    def adapt(self, values: Tensor) -> None:
        """Take mean and standard deviation from the rows of `values` (n, width); a constant entry keeps deviation 1."""
        values = values.double()
        deviation = values.std(0, correction=0)
        self.mean.copy_(values.mean(0))
        self.deviation.copy_(torch.where(deviation > 1e-6 * values.abs().amax(0).clamp(min=1e-12), deviation, 1))

    def forward(self, values: Tensor) -> Tensor:
        """(n, width) → (n, width), in the type of the tower.

        Raises:
            InputError: features of another shape.
        """
        if values.ndim != 2 or values.shape[1] != self.width:
            raise InputError(f"features must have shape (n, {self.width}); got {tuple(values.shape)}.")
        return (values.to(self.mean.dtype) - self.mean) / self.deviation


class Custom(Tower):
    """Any module as a tower, for sensors, tables, graphs: whatever a cell may hold.

    Args:
        module: inputs → (n, width), or `Encoded`. All its parameters are trained; freeze what should not be.
        width: of the vectors.
        read: one cell → what `collate` takes; a ValueError marks the cell as unreadable, any other error is raised. By default
            a list becomes a float32 tensor and anything else stays as it is.
        collate: n of those → the module's input; torch's `default_collate` by default.
        learning_rate: of this tower; None for the recipe's.

    Raises:
        InputError: a `width` below 1.

    >>> tower = Custom(nn.Sequential(nn.Flatten(), nn.Linear(6, 4)), width=4)
    >>> cells = [tower.reader.read([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])]
    >>> tower(tower.reader.collate(cells)).shape
    torch.Size([1, 4])
    """

    def __init__(
        self,
        module: nn.Module,
        width: int,
        *,
        read: Callable[[Any], Any] | None = None,
        collate: Callable[[list[Any]], Any] | None = None,
        learning_rate: float | None = None,
    ) -> None:
        super().__init__()
        check_type("module", module, nn.Module)
        self.module = module
        self.width: int = check_number("width", width, "[1, inf)", integer=True)
        self.reader: CustomReader = CustomReader(read, collate)
        self.learning_rate = learning_rate

    def forward(self, inputs: Any) -> Encoded | Tensor:
        """The output of the module."""
        encoded: Encoded | Tensor = self.module(inputs)
        return encoded


class Towers(nn.Module):
    """The towers of several modalities: the lower half of an `Aligner`, or on their own, to compute features once.

    Args:
        towers: modality → tower. One tower may serve several modalities.

    Raises:
        InputError: no towers.

    >>> towers = Towers({"text": Features(3), "audio": Features(2)})
    >>> batch = towers.collator()(Table.from_columns({"text": [[1.0, 2.0, 3.0], None], "audio": torch.ones(2, 2)}))
    >>> vectors, present = towers.encode(batch)["text"]
    >>> vectors.tolist(), present.tolist()
    ([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]], [True, False])
    """

    def __init__(self, towers: Mapping[str, Tower]) -> None:
        super().__init__()
        if not towers:
            raise InputError("`towers` must name at least one; got none.")
        self.modalities: tuple[str, ...] = tuple(towers)
        for i, tower in enumerate(towers.values()):
            self.add_module(str(i), tower)  # the name of a module may not hold a dot; that of a modality may

    @classmethod
    def for_table(cls, table: Table, towers: Mapping[str, Tower] | None = None) -> Towers:
        """A tower for every column of a table: that of `towers`, or `Features` with the table's statistics.

        Args:
            table: the training items.
            towers: modality → the tower of a column of raw cells; every such column needs one.

        Returns:
            The towers, in the order of the columns.

        Raises:
            InputError: a tower without a column, columns and towers that do not fit, a column that is empty in every row.
        """
        towers = towers or {}
        collator_for(table, towers)
        every: dict[str, Tower] = {}
        for name in table.modalities:
            if not bool(table.present[name].any()):
                raise InputError(f"column `{name}` is empty in every row. Leave it out.")
            if name in towers:
                every[name] = towers[name]
                continue
            every[name] = features = Features(table.widths[name])
            features.adapt(table.features(name)[table.present[name]])
        return cls(every)

    def __getitem__(self, modality: str) -> Tower:
        return cast(Tower, self._modules[str(self.modalities.index(check_choice("modality", modality, self.modalities)))])

    def __iter__(self) -> Iterator[str]:
        return iter(self.modalities)

    def __len__(self) -> int:
        return len(self.modalities)

    def __contains__(self, modality: str) -> bool:
        return modality in self.modalities

    def values(self) -> list[Tower]:
        """The towers, one per modality."""
        return [self[name] for name in self.modalities]

    def items(self) -> list[tuple[str, Tower]]:
        """Modalities and their towers."""
        return [(name, self[name]) for name in self.modalities]

    def owners(self) -> dict[str, str]:
        """Modality → the first modality with the same tower: itself, where it shares none."""
        first: dict[int, str] = {}
        return {name: first.setdefault(id(tower), name) for name, tower in self.items()}

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return device_of(self)

    def collator(self) -> Collator:
        """Makes `Batch`es for the towers from rows of a table, in any process."""
        return Collator({name: tower.reader for name, tower in self.items()})

    def raw_modalities(self) -> tuple[str, ...]:
        """The modalities whose cells are raw."""
        return self.collator().raw_modalities()

    def check(self, table: Table, argument: str = "columns") -> None:
        """Compare the columns of a table with what the towers read, without reading a cell.

        Raises:
            InputError: an unknown modality, a wrong width, raw cells for features or features for raw cells.
        """
        self.collator().check(table, argument)
        for name, width in table.widths.items():
            tower = self[name]
            if isinstance(tower, Features) and width != tower.width:
                raise InputError(f"column `{name}` must have width {tower.width}; got {width}.")

    def known(self, table: Table, columns: Sequence[str] | None = None) -> Table:
        """The table with only the columns that the towers read and, if given, that `columns` names.

        Raises:
            InputError: `columns` that the towers do not read, or none that they do.
        """
        for name in columns or ():
            check_choice("columns", name, self.modalities)
        names = [name for name in table.modalities if name in (columns or self.modalities)]
        if not names:
            raise InputError(
                f"`data` has none of the columns that the model reads ({', '.join(self.modalities)}); "
                f"it has {', '.join(table.modalities)}."
            )
        return table.select(*names)

    def forward(self, batch: Batch) -> dict[str, tuple[Encoded, Tensor]]:
        """Encode a Batch: for each modality with inputs, its k present items.

        Returns:
            Modality → k vectors (and tokens) on the device of the inputs, and the (n,) mask of the rows that they belong to.
        """
        encodings = {}
        for name, inputs in batch.inputs.items():
            encoded = self[name](inputs)
            encoded = encoded if isinstance(encoded, Encoded) else Encoded(encoded)
            encodings[name] = (encoded, batch.present[name].to(encoded.vectors.device))
        return encodings

    @torch.no_grad()
    def encode(self, batch: Batch, names: Sequence[str] | None = None) -> Columns:
        """Vectors and masks of one Batch, on the CPU, in float32 whatever autocast computes in.

        Args:
            batch: the items, on any device.
            names: the modalities to give; by default all, whether the Batch has them or not.

        Returns:
            Modality → (n, width) vectors, zero where missing, and the (n,) bool mask.
        """
        columns: Columns = {}
        encodings = self(batch.to(self.device))
        for name in names or self.modalities:
            vectors, mask = torch.zeros(len(batch), self[name].width), torch.zeros(len(batch), dtype=torch.bool)
            if name in encodings:
                encoded, mask = encodings[name][0], encodings[name][1].cpu()
                vectors[mask] = encoded.vectors.float().cpu()
            columns[name] = (vectors, mask)
        return columns


def collator_for(table: Table, towers: Mapping[str, Tower]) -> Collator:
    """The collator for a table: columns that have a tower are read as it wants them, the others as features.

    Args:
        table: the rows.
        towers: modality → the tower of a column of raw cells.

    Returns:
        A Collator for all columns of the table.

    Raises:
        InputError: a tower without a column; columns and towers that do not fit.
    """
    for name in towers:
        if name not in table.columns:
            raise InputError(f"`towers` reads a column {name!r} that the table lacks; it has {', '.join(table.columns)}.")
    readers = {name: towers[name].reader if name in towers else FeatureReader() for name in table.modalities}
    collator = Collator(readers)
    collator.check(table)
    return collator


def device_of(module: nn.Module) -> torch.device:
    """Where the weights of a module are; the CPU for one without."""
    return next((value.device for value in itertools.chain(module.parameters(), module.buffers())), torch.device("cpu"))


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode within the context; afterwards each submodule returns to its own mode."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw the CPU's random numbers from `seed` within the context, as for initial weights; accelerators draw on."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
