"""`Index`: items that any subset of modalities finds by any other; what every kind of index does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor

from gramian.bundle import Bundle
from gramian.data.table import Table
from gramian.errors import InputError, check_choice, check_choices, check_number, check_type, listing
from gramian.evaluation.weighting import weighted
from gramian.index.answers import Answers, Diagnosis
from gramian.index.checks import checked_ids
from gramian.index.fields import Condition, FieldType, Filter, Metadata, read_filter
from gramian.model.aligner import Aligner
from gramian.model.encoders import fingerprint

__all__ = [
    "DEFAULT",
    "SEARCHED",
    "Index",
    "Options",
    "Queries",
    "SearchScore",
    "combined",
    "embed_table",
]

Queries: TypeAlias = "Bundle | Tensor"
"""q items: a Bundle of any modalities, or a (q, d) tensor with one vector each."""

SearchScore: TypeAlias = Literal[
    "centroid",
    "span",
    "cone",
    "volume",
    "cosine",
    "max_cosine",
    "softmax_cosine",
    "weighted_centroid",
    "leading",
    "spectral_gain",
    "maxsim",
]
SEARCHED: tuple[SearchScore, ...] = get_args(SearchScore)
"""The scores to search by. The others of `gramian.scores.SCORES` rank items by how many modalities they have."""

DEFAULT: SearchScore = "centroid"
"""Of an index for which no other was chosen (`gramian.index.choosing`) or set."""


@dataclass(frozen=True)
class Options:
    """The arguments of a search, checked; see `Index.search`."""

    k: int
    score: SearchScore
    modalities: tuple[str, ...]
    conditions: tuple[Condition, ...] = ()
    beta: float = 1.0
    hubs: bool = False
    exclude: frozenset[str] = frozenset()


class Index(ABC):
    """Items with any subset of modalities in one space, found by queries with any subset.

    Attributes:
        dim: width d of the vectors.
        space: fingerprint of the model whose space this is, or None.
    """

    dim: int
    space: str | None
    _model: Aligner | Callable[[], Aligner] | None = None

    @property
    def model(self) -> Aligner | None:
        """Embeds cells of queries: that of the run, read when it is first needed.

        Raises:
            InputError: its space is another than that of the index.
        """
        if callable(self._model) and not isinstance(self._model, Aligner):
            self._model = self._model()
        if self._model is not None and self.space is not None and fingerprint(self._model) != self.space:
            raise InputError(f"{self._where()} holds vectors of another model. Open it with its own model, or build it again.")
        return self._model

    @abstractmethod
    def _where(self) -> str:
        """The index, in an error."""

    @classmethod
    def open(cls, path: str | Path, *, model: Aligner | None = None) -> Index:
        """Open an index, or the one in a run's folder together with the run's model.

        Args:
            path: a folder that `gramian index`, `FlatIndex.create` or `QdrantIndex.edge` wrote.
            model: embeds cells of queries; by default that of the run, read when it is first needed.

        Returns:
            The index.

        Raises:
            InputError: a folder without an index, one that is damaged, of a newer version, or of another model's space.
        """
        for kind in cls.__subclasses__():
            if kind.found(Path(path)):
                return kind.open(path, model=model)
        raise InputError(f"{str(path)!r} holds no index. Make one: gramian index {path} --data TABLE")

    @staticmethod
    def found(path: Path) -> bool:
        """Whether a folder holds an index of this kind."""
        del path
        return False

    def latest(self) -> Index:
        """The index with what others have committed: itself, or another object, so that no search under way is disturbed."""
        return self

    @property
    @abstractmethod
    def modalities(self) -> tuple[str, ...]:
        """The modalities that items have."""

    @property
    @abstractmethod
    def fields(self) -> Mapping[str, FieldType]:
        """Metadata field → its type."""

    @property
    @abstractmethod
    def score(self) -> SearchScore:
        """The score of a search that names none: the one that was set, or the centroid."""

    @property
    @abstractmethod
    def score_is_set(self) -> bool:
        """Whether somebody has set the score, so that none is chosen by validation items."""

    @abstractmethod
    def set_score(self, score: SearchScore | None, *, chosen: bool = False) -> None:
        """Set the score of searches that name none, for good.

        Args:
            score: its name; None for the centroid, or what is chosen later.
            chosen: by validation items, which may choose again.

        Raises:
            InputError: an unknown score.
        """

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def add(self, bundle: Bundle, ids: Sequence[str], metadata: Metadata | None = None) -> int:
        """Add items; those whose id is known are replaced.

        Args:
            bundle: n items; each has a vector at least. Several vectors of a modality come as its `Tokens`.
            ids: n different names.
            metadata: field → n values, or one mapping per item.

        Returns:
            How many items were replaced.

        Raises:
            InputError: vectors of another width or not finite, ids that repeat, values of another type than the field's.
        """

    @abstractmethod
    def delete(self, ids: Sequence[str]) -> int:
        """Delete items; return how many of the ids were known."""

    @abstractmethod
    def known(self, ids: Sequence[str]) -> list[bool]:
        """Which of some ids are in the index."""

    @abstractmethod
    def items(self, ids: Sequence[str]) -> tuple[Bundle, list[dict[str, Any]]]:
        """The vectors and the metadata of some items.

        Raises:
            InputError: an unknown id, or none.
        """

    def vectors(self, ids: Sequence[str]) -> Bundle:
        """The vectors of some items; errors as of `items`."""
        return self.items(ids)[0]

    def search(
        self,
        queries: Queries | None = None,
        k: int = 10,
        *,
        score: SearchScore | None = None,
        filter: Filter | None = None,
        modalities: Sequence[str] | None = None,
        weights: Mapping[str, float] | None = None,
        without: Queries | Mapping[str, Any] | None = None,
        beta: float = 1.0,
        hubs: bool = False,
        exclude: Sequence[str] = (),
        **cells: Any,
    ) -> Answers:
        """The k best items for each query.

        Args:
            queries: q items with any of their modalities, of any names, in the space of the index; or (q, d) vectors.
            k: how many; fewer are found where fewer pass the filter.
            score: how an item is compared with a query, docs/scores.md and docs/search.md; by default that of the index.
            filter: conditions on the metadata that all must hold: {"lang": "fr", "year": {"gte": 1990}}, or texts "year>=1990".
            modalities: of the items, to search in; all by default. An item with none of them is not found.
            weights: query's modality → its weight, negative for what the answers should lack; the query is then one vector, the
                weighted sum.
            without: q items, or one for all queries, whose vectors are subtracted from the query's; or cells of one.
            beta: of the score "volume": the exponent of the item's own volume; 1 as published, 0 for none.
            hubs: correct the scores for hubs, by the training items that the model keeps.
            exclude: ids that are not to be found.
            cells: instead of `queries`: modality → the cell of one query, or a list of q cells, that the index's model embeds,
                as in text="a bird singing", image="bird.png".

        Returns:
            The answers, best first; of equal scores the item that was added first.

        Raises:
            InputError: a query without any vector or of another width, options that the index does not have, an unknown field,
                cells without a model, or that it cannot read.
        """
        if cells and queries is not None:
            raise InputError("`queries` and cells cannot be combined. Embed all of them, or none.")
        if queries is None and not cells:
            raise InputError("`queries` must be given: a Bundle, (q, d) vectors, or cells such as text='a bird'.")
        bundle = self.embed(cells) if queries is None else _as_bundle("queries", queries)
        score = self.score if score is None else score
        names = _checked(self, bundle, k, score, modalities, beta)
        minus = (
            self.embed(without) if isinstance(without, Mapping) else None if without is None else _as_bundle("without", without)
        )
        conditions = read_filter(filter, self.fields)
        options = Options(k, score, names, conditions, beta, hubs, frozenset(checked_ids(exclude)))
        return self._search(combined(bundle, weights, minus), options)

    @abstractmethod
    def _search(self, queries: Bundle, options: Options) -> Answers:
        """`search` after its arguments are checked."""

    def embed(self, cells: Mapping[str, Any]) -> Bundle:
        """Raw cells, or features, in the space of the index.

        Args:
            cells: modality → the cell of one item, or a list of cells of several, `None` where one has none.

        Returns:
            The items.

        Raises:
            InputError: the index has no model, or the model another modality; a cell that cannot be read.
        """
        if self.model is None:
            raise InputError("the index has no model to embed cells with. Open it with `model=`, or pass vectors.")
        for name in cells:
            check_choice("cells", name, self.model.modalities)
        raw = self.model.raw_modalities()
        filled = {name: cell for name, cell in cells.items() if cell is not None and not (isinstance(cell, str) and not cell)}
        columns = {name: cell if _several(cell, name in raw) else [cell] for name, cell in filled.items()}
        if not columns:
            raise InputError(f"a query needs a cell of {', '.join(self.model.modalities)}; got none.")
        return embed_table(self.model, self.model.collator().table(columns))

    @abstractmethod
    def save(self, path: str | Path) -> None:
        """Write all items as a FlatIndex to another folder, which holds no index until the copy is whole.

        Args:
            path: a folder that is empty or does not exist.

        Raises:
            InputError: a folder that holds files.
        """

    @abstractmethod
    def diagnose(self) -> Diagnosis:
        """Measure what makes answers bad: spread of the items' own volumes, duplicates, hubs, numbers of modalities."""


@torch.no_grad()
def embed_table(model: Aligner, table: Table) -> Bundle:
    """The rows of a table that asks, in a model's space.

    Raises:
        InputError: columns that the model does not read, or a cell that cannot be read.
    """
    model.check(table)
    batch = model.collator()(table)
    for cell in batch.broken:
        row = f" of {cell.id!r:.60}" if len(table) > 1 else ""
        raise InputError(f"`{cell.modality}`{row} cannot be read: {cell.reason}. Name another, or leave it out.")
    bundle: Bundle = model(batch)
    return bundle.to("cpu")


def combined(queries: Bundle, weights: Mapping[str, float] | None = None, without: Bundle | None = None) -> Bundle:
    """The queries as they are, or, with weights or what they should lack, as one vector each: the normalised signed sum.

    Args:
        queries: q items.
        weights: modality → weight; 1 for the others.
        without: q items, or one, to subtract.

    Returns:
        q items.

    Raises:
        InputError: an unknown modality, a weight that is no number, vectors that cancel.

    >>> query = Bundle.from_dict({"text": [[1.0, 0.0]], "image": [[0.0, 1.0]]})
    >>> combined(query, {"image": -1.0}).vectors
    tensor([[[ 0.7071, -0.7071]]])
    """
    if not weights and without is None:
        return queries
    q, kind = len(queries), torch.promote_types(queries.vectors.dtype, torch.float32)
    names, vectors, present = list(queries.modalities), [queries.vectors.to(kind)], [queries.present]
    if without is not None:
        if without.dim != queries.dim or len(without) not in (1, q):
            raise InputError(
                f"`without` must hold {q} items of width {queries.dim}, or one; got {len(without)} of {without.dim}."
            )
        names += [f"without {name}" for name in without.modalities]
        vectors.append(without.vectors.to(kind).expand(q, -1, -1))
        present.append(without.present.expand(q, -1))
    for name in weights or {}:
        check_choice("weights", name, queries.modalities)
    signs = {name: 1.0 if name in queries.modalities else -1.0 for name in names} | dict(weights or {})
    vector, has = weighted(Bundle(torch.cat(vectors, 1), torch.cat(present, 1), tuple(names)), signs)
    if (queries.has() & ~has).any():
        raise InputError("the query cancels: its weighted parts sum to zero. Change `weights`, or leave a part out.")
    return Bundle(vector.unsqueeze(1), has.unsqueeze(1), ("query",))


def _several(cell: Any, raw: bool) -> bool:
    """Whether a value holds the cells of several items: a list of texts, paths or vectors; a vector alone is one cell."""
    if isinstance(cell, Tensor | np.ndarray):
        return cell.ndim == 2
    return isinstance(cell, list | tuple) and (raw or not all(isinstance(value, int | float) for value in cell))


def _as_bundle(argument: str, queries: Queries) -> Bundle:
    check_type(argument, queries, Bundle, Tensor, fix="Bundle.from_dict makes one of vectors, `embed` of cells.")
    if isinstance(queries, Bundle):
        return queries.detach().to("cpu")
    if queries.ndim != 2:
        raise InputError(f"`{argument}` must be a Bundle or have shape (q, d); got {tuple(queries.shape)}.")
    return Bundle.from_dict({"query": queries.detach().cpu()})


def _checked(
    index: Index, queries: Bundle, k: int, score: str, modalities: Sequence[str] | None, beta: float
) -> tuple[str, ...]:
    """Check what every kind of index checks of a search; return the modalities to search in.

    Raises:
        InputError: see `Index.search`.
    """
    check_number("k", k, "[1, inf)", integer=True)
    check_choice("score", score, SEARCHED)
    check_number("beta", beta, "[0, inf)")
    if queries.dim != index.dim:
        raise InputError(
            f"`queries` must have the width {index.dim} of the index; got {queries.dim}. Embed them with its model."
        )
    if not len(index):
        raise InputError("the index is empty. Add items first.")
    if not bool(queries.vectors.isfinite().all()):
        raise InputError("`queries` must be finite; got NaN or infinite numbers.")
    empty = (~queries.has()).nonzero().flatten().tolist()
    if empty:
        raise InputError(f"`queries` must have a vector each; {listing(empty)} of {len(queries)} have none. Leave them out.")
    if modalities is None:
        return index.modalities
    if isinstance(modalities, str):
        raise InputError(f"`modalities` must be a list of names; got {modalities!r}. Write [{modalities!r}].")
    if not modalities:
        raise InputError(f"`modalities` must name at least one of {', '.join(index.modalities)}; got none.")
    return tuple(check_choices("modalities", modalities, index.modalities))
