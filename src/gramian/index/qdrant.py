"""`QdrantIndex`: the same searches on Qdrant: embedded (Edge), in qdrant-client's local mode, on a server or a cluster.

A point has one named vector per modality, the normalised sum of them ("centroid"), and one per direction of an orthonormal
basis of their span; the latter have no graph. A search takes C candidates: the union of searches by every modality and by the
centroid. Centroid, cosine, its maximum, and the span of queries of one or two vectors are then computed in the engine, by a
formula over nested prefetches; the best of these, and all candidates for the other scores, are fetched and scored by this
library's own forms. So the scores are those of a FlatIndex, and what may be missed are items that are no candidates.

Over 400 lines: one class, a third of them its docstrings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import torch

from gramian.bundle import Bundle
from gramian.errors import InputError, check_choice, check_choices, check_number, listing, require
from gramian.index.answers import Answers, Diagnosis, Hit
from gramian.index.checks import checked_ids, checked_items
from gramian.index.edge import EdgeEngine
from gramian.index.engines import ClientEngine, Engine
from gramian.index.explaining import compared
from gramian.index.fields import FieldType, Metadata, read_metadata
from gramian.index.flat import FlatIndex
from gramian.index.planning import plan
from gramian.index.points import (
    ABOUT,
    VERSION,
    axis_name,
    bundle_of,
    cat,
    point_of,
    points_of,
    read_about,
    several_name,
    slot_name,
)
from gramian.index.protocol import DEFAULT, SEARCHED, Index, Options, SearchScore
from gramian.index.refusals import UnansweredError
from gramian.index.segments import sides_of
from gramian.index.store import Part, write_copy
from gramian.model.aligner import Aligner
from gramian.model.encoders import fingerprint
from gramian.scores import SCORES

__all__ = ["QdrantIndex"]

Model: TypeAlias = "Aligner | Callable[[], Aligner] | None"

MORE = 16  # answers of the engine beyond k, which are scored again
BATCH = 256  # items made into points, and points made into items, at a time
PART = 2**14  # items of a copy that are held in memory
MEASURED = 10_000  # items of the sample that a diagnosis measures
CONFIG = "edge_config.json"  # of a folder of Qdrant Edge


class QdrantIndex(Index):
    """An index on Qdrant. Make one, or open what is there, with `QdrantIndex.edge` or `QdrantIndex.connect`.

    Args:
        engine: where the points are.
        about: what the collection holds: width, modalities, space and fields.
        model: embeds cells of queries.
        candidates: C, how many items each of the searches for candidates gives; recall against speed.
    """

    def __init__(self, engine: Engine, about: dict[str, Any], model: Model, candidates: int) -> None:
        self._engine = engine
        self._about = about
        self._model = model
        self.dim: int = about["dim"]
        self.space: str | None = about["space"]
        self.candidates: int = check_number("candidates", candidates, "[1, inf)", integer=True)

    @staticmethod
    def found(path: Path) -> bool:
        """Whether a folder, or the folder `index` in it, is an index of Qdrant Edge."""
        return any((folder / CONFIG).is_file() for folder in (path, path / "index"))

    @classmethod
    def open(cls, path: str | Path, *, model: Aligner | None = None) -> QdrantIndex:
        """Open an embedded index; arguments and result as of `Index.open`.

        Raises:
            InputError: see `Index.open`.
        """
        folder = Path(path)
        source: Model = model
        if not (folder / CONFIG).is_file():
            run, folder = folder, folder / "index"
            if model is None and (run / "aligner").is_dir():
                source = lambda: Aligner.from_pretrained(run / "aligner")  # noqa: E731
        return cls.edge(folder, model=source)

    @classmethod
    def edge(
        cls,
        path: str | Path,
        *,
        dim: int | None = None,
        modalities: Sequence[str] = (),
        several: Sequence[str] | None = None,
        model: Model = None,
        candidates: int = 500,
        half: bool = False,
    ) -> QdrantIndex:
        """An index embedded in this process, in a folder: Qdrant Edge.

        Args:
            path: of the folder; made if it does not exist.
            dim: width d of the vectors of a new index.
            modalities: of the items of a new index; they cannot be added to later.
            several: those of which an item of a new index may have several vectors, as `Tokens`; by default those of which the
                model gives them.
            model: embeds cells of queries, or what gives the model when it is needed; a new index is of the model's space.
            candidates: how many each search for candidates gives.
            half: keep the vectors of a new index in 16 bits.

        Returns:
            The index.

        Raises:
            InputError: a new index without width or modalities, or an index of another model.
        """
        require("qdrant_edge")
        return cls._opened(EdgeEngine(Path(path), half), dim, modalities, several, model, candidates)

    @classmethod
    def connect(
        cls,
        location: str = ":memory:",
        collection: str = "gramian",
        *,
        key: str | None = None,
        dim: int | None = None,
        modalities: Sequence[str] = (),
        several: Sequence[str] | None = None,
        model: Model = None,
        candidates: int = 500,
        half: bool = False,
        shards: int | None = None,
    ) -> QdrantIndex:
        """An index in a collection of a Qdrant server or cluster, or in the client's local mode.

        Args:
            location: address of the server, ":memory:", or a folder of the local mode.
            collection: its name; made if it does not exist.
            key: for the server.
            dim: width d of the vectors of a new index.
            modalities: of the items of a new index; they cannot be added to later.
            several: those of which an item of a new index may have several vectors, as `Tokens`; by default those of which the
                model gives them.
            model: embeds cells of queries, or what gives the model when it is needed; a new index is of the model's space.
            candidates: how many each search for candidates gives.
            half: keep the vectors of a new index in 16 bits.
            shards: of a new collection on a cluster.

        Returns:
            The index.

        Raises:
            InputError: a new index without width or modalities, or an index of another model.
        """
        require("qdrant_client")
        engine = ClientEngine(location, collection, key, half, shards)
        return cls._opened(engine, dim, modalities, several, model, candidates)

    @classmethod
    def _opened(
        cls,
        engine: Engine,
        dim: int | None,
        modalities: Sequence[str],
        several: Sequence[str] | None,
        model: Model,
        candidates: int,
    ) -> QdrantIndex:
        made = engine.exists()
        about = engine.payload(ABOUT) if made else None
        known = model if isinstance(model, Aligner) else None
        space = None if known is None else fingerprint(known)
        if made and about is None:
            raise InputError("the collection was not made by gramian, or that was cut off. Delete it, or name another.")
        if about is None:
            dim = known.dim if dim is None and known is not None else dim
            if dim is None or not modalities or isinstance(modalities, str):
                raise InputError(
                    f"{engine.where} is not there: `dim` and `modalities` must be given to make it, or gramian index makes it."
                )
            check_number("dim", dim, "[1, 65536]", integer=True)
            check_choices("modalities", modalities, modalities)
            if several is None:
                several = [name for name in modalities if known is not None and name in known.tokens]
            check_choices("several", several, modalities)
            about = {"version": VERSION, "dim": dim, "modalities": list(modalities), "space": space, "fields": {}}
            about |= {"several": list(several), "score": None, "score_chosen": False}
            names = [axis_name(i) for i in range(len(modalities))]
            more = [several_name(modalities.index(name)) for name in several]
            engine.create(dim, [*names, "centroid"], [slot_name(i) for i in range(len(modalities))], more)
            engine.put([(ABOUT, {}, {"about": about})])
        else:
            about = read_about(about)
            if dim is not None and dim != about["dim"]:
                raise InputError(f"`dim` must be the {about['dim']} of the collection that is there; got {dim}. Leave it out.")
            if modalities:
                check_choices("modalities", modalities, about["modalities"])
            check_choices("several", several or (), about["several"])
        index = cls(engine, about, model, candidates)
        if known is not None:
            _ = index.model  # of another space it is refused here
        return index

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that items have."""
        return tuple(self._about["modalities"])

    @property
    def fields(self) -> Mapping[str, FieldType]:
        """Metadata field → its type."""
        fields: dict[str, FieldType] = self._about["fields"]
        return fields

    @property
    def score(self) -> SearchScore:
        """The score of a search that names none."""
        score: SearchScore | None = self._about["score"]
        return score or DEFAULT

    @property
    def score_is_set(self) -> bool:
        """Whether somebody has set the score, so that none is chosen by validation items."""
        return self._about["score"] is not None and not self._about["score_chosen"]

    def set_score(self, score: SearchScore | None, *, chosen: bool = False) -> None:
        """Set the score of searches that name none; arguments as of `Index.set_score`.

        Raises:
            InputError: an unknown score.
        """
        if score is not None:
            check_choice("score", score, SEARCHED)
        self._tell(score=score, score_chosen=chosen)

    def _tell(self, **changes: Any) -> None:
        """Change what the collection says of itself."""
        about = self._about | changes
        self._engine.put([(ABOUT, {}, {"about": about})])
        self._about = about

    def _where(self) -> str:
        return self._engine.where

    def latest(self) -> QdrantIndex:
        """The index with the fields and the score that others have given it since: this one, or another object.

        Raises:
            InputError: a server that cannot be asked, or a collection that was built anew.
        """
        payload = self._engine.payload(ABOUT)
        about = self._about if payload is None else read_about(payload)
        if payload is None or any(about[name] != self._about[name] for name in ("dim", "space", "modalities", "several")):
            raise UnansweredError(f"{self._where()} was built anew. Open it again.")
        if about == self._about:
            return self
        other = copy(self)
        other._about = about
        return other

    def __repr__(self) -> str:
        return f"QdrantIndex({len(self)} items, {self.dim} dimensions; {', '.join(self.modalities)})"

    def __len__(self) -> int:
        return self._engine.count() - 1

    def add(self, bundle: Bundle, ids: Sequence[str], metadata: Metadata | None = None) -> int:
        """Add items; arguments and result as of `Index.add`. Called again with the same items it changes nothing.

        Raises:
            InputError: see `Index.add`; a modality that the collection lacks, or several vectors of one.
        """
        bundle, names = checked_items(bundle, ids, self.dim)  # Qdrant would take NaN silently
        check_choices("bundle.modalities", bundle.modalities, self.modalities)
        more = [name for name in bundle.tokens if name not in self._about["several"]]
        if more:
            raise InputError(
                f"`bundle` has several vectors of {listing(more)}, of which the collection holds one. Make it with `several`."
            )
        fields = read_metadata(metadata, len(bundle), self.fields)
        known = sum(self.known(names))
        if any(name not in self.fields for name in fields):
            for name, column in fields.items():
                self._engine.index_field(f"{'flags' if column.kind == 'bool' else 'fields'}.{name}", column.kind)
            self._tell(fields=dict(self.fields) | {name: column.kind for name, column in fields.items()})
        for start in range(0, len(bundle), BATCH):
            rows = slice(start, start + BATCH)
            values = [{name: column[i] for name, column in fields.items()} for i in range(len(bundle))[rows]]
            self._engine.put(points_of(bundle[rows], names[rows], values, self.modalities))
        return known

    def delete(self, ids: Sequence[str]) -> int:
        """Delete items; return how many of the ids were known."""
        names = list(dict.fromkeys(checked_ids(ids)))
        known = [name for name, has in zip(names, self.known(names), strict=True) if has]
        if known:
            self._engine.delete([point_of(name) for name in known])
        return len(known)

    def known(self, ids: Sequence[str]) -> list[bool]:
        """Which of some ids are in the index."""
        found = {point for point, _, _ in self._engine.get([point_of(name) for name in ids], [])}
        return [point_of(name) in found for name in ids]

    def optimize(self) -> None:
        """Build the graphs of an embedded index; once, after a bulk load. A server does so by itself."""
        self._engine.optimize()

    def close(self) -> None:
        """Write everything to the disk and let go of it."""
        self._engine.close()

    def items(self, ids: Sequence[str]) -> tuple[Bundle, list[dict[str, Any]]]:
        """The vectors and the metadata of some items.

        Raises:
            InputError: an unknown id, or none.
        """
        names = checked_ids(ids)
        points = self._engine.get([point_of(name) for name in names], self._names())
        found = {point: (vectors, payload) for point, vectors, payload in points}
        unknown = [name for name in names if point_of(name) not in found]
        if unknown or not names:
            raise InputError(f"`ids` must be in the index; it has no {listing(map(repr, unknown))}.")
        rows = [found[point_of(name)] for name in names]
        return bundle_of([vectors for vectors, _ in rows], self.modalities, self.dim), [
            dict(payload.get("fields", {})) for _, payload in rows
        ]

    def save(self, path: str | Path) -> None:
        """Write all items as a FlatIndex to a folder, some thousand at a time; arguments as of `Index.save`.

        Items that others add or replace meanwhile may be in the copy as they were or as they are.

        Raises:
            InputError: a folder that holds files.
        """
        self._save(Path(path), None)

    def diagnose(self) -> Diagnosis:
        """Measure what makes answers bad, by exact searches in a sample of the items; see `Index.diagnose`.

        The figures are those of a FlatIndex, a temporary one, of the sample, which "items measured" counts. The sample is the
        items of the smallest point ids, which are hashes: drawn at random, and the same each time.
        """
        with TemporaryDirectory(prefix="gramian-") as folder:
            self._save(Path(folder), MEASURED)
            told = FlatIndex.open(folder).diagnose()
        figures = {name: value for name, value in told.figures.items() if name not in ("items", "segments")}
        items = {"items": len(self), "items measured": told.figures["items"], "candidates": self.candidates}
        return Diagnosis(items | figures, told.warnings)

    def _save(self, folder: Path, most: int | None) -> None:
        state = {name: self._about[name] for name in ("dim", "space", "modalities", "fields", "score", "score_chosen")}
        write_copy(folder, state | {"int8": False}, self._parts(most))

    def _parts(self, most: int | None) -> Iterator[Part]:
        """The items, or the first so many, by rising point id, as a FlatIndex keeps them."""
        every = (each for page in self._engine.pages(self._names()) for each in page if "id" in each[2])
        points = islice(every, most)
        while True:
            ids: list[str] = []
            metadata: list[dict[str, Any]] = []
            bundles: list[Bundle] = []
            while len(ids) < PART and (few := list(islice(points, BATCH))):
                ids += [payload["id"] for _, _, payload in few]
                metadata += [payload.get("fields", {}) for _, _, payload in few]
                bundles.append(bundle_of([vectors for _, vectors, _ in few], self.modalities, self.dim))
            if not ids:
                return
            yield ids, sides_of(cat(bundles)), read_metadata(metadata, len(ids), self.fields)

    def _names(self, *, several: bool = True) -> list[str]:
        """The named vectors that an item's vectors are read from."""
        more = [several_name(self.modalities.index(name)) for name in self._about["several"] if several]
        return [*(axis_name(i) for i in range(len(self.modalities))), *more]

    def _search(self, queries: Bundle, options: Options) -> Answers:
        if options.hubs:
            raise InputError("`hubs` is for a FlatIndex: Qdrant keeps no scores of training items.")
        if options.beta != 1:
            raise InputError("`beta` is for a FlatIndex; on Qdrant the volume is that of GRAM.")
        hits = tuple(self._one(queries[query], options) for query in range(len(queries)))
        return Answers(hits, options.score, options.modalities)

    def _one(self, query: Bundle, options: Options) -> tuple[Hit, ...]:
        wanted = options.k + MORE + len(options.exclude)
        asked = plan(query, options, self.modalities, self._about["several"])
        names = self._names(several=options.score == "maxsim")
        found = self._engine.search(asked, max(wanted, self.candidates), wanted, options.conditions, names)
        found = [each for each in found if each[2].get("id") not in (None, *options.exclude)]  # None: a point of others
        if not found:
            return ()
        items = bundle_of([vectors for _, vectors, _ in found], self.modalities, self.dim).select(*options.modalities)
        has = items.has()
        scores = SCORES[options.score](query.to(dtype=torch.float64), items.to(dtype=torch.float64))[0]
        order = scores.masked_fill(~has, -torch.inf).argsort(descending=True, stable=True)[: options.k]
        order = order[has[order]]
        told = compared(query, items[order])
        return tuple(
            Hit(found[i][2]["id"], float(scores[i]), *parts, found[i][2].get("fields", {}))
            for i, parts in zip(order.tolist(), told, strict=True)
        )
