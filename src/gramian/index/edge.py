"""Qdrant Edge: the points of a QdrantIndex in this process, in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from gramian.errors import InputError, first_line
from gramian.index.engines import PAGE, Engine, Expression, Makers, Points, Put, Vector, read_points
from gramian.index.fields import FieldType

__all__ = ["EdgeEngine"]


class EdgeEngine(Engine):
    """A shard in this process, in a folder.

    Raises:
        InputError: a folder that holds something else, or that is open already.
    """

    def __init__(self, path: Path, half: bool) -> None:
        import qdrant_edge

        self._edge: Any = qdrant_edge
        self._path, self._half, self.where = path, half, repr(str(path))
        self._shard: Any = None
        if path.exists() and not path.is_dir():
            raise InputError(f"`path` must be a folder; {str(path)!r} is a file.")
        if path.is_dir() and any(path.iterdir()):
            try:
                self._shard = qdrant_edge.EdgeShard.load(str(path))
            except Exception as error:  # it raises nothing narrower
                reason = first_line(error)
                if "WouldBlock" in reason:
                    raise InputError(
                        f"`path` {str(path)!r} is open already, here or in another process. Close it there."
                    ) from None
                raise InputError(f"`path` {str(path)!r} holds no index of Qdrant Edge ({reason:.160}). Name another.") from None

    def exists(self) -> bool:
        """Whether the collection is there."""
        return self._shard is not None

    def create(self, dim: int, searched: Sequence[str], plain: Sequence[str], several: Sequence[str]) -> None:
        """Make it."""
        edge = self._edge
        kind = edge.VectorStorageDatatype.Float16 if self._half else edge.VectorStorageDatatype.Float32
        params = {name: edge.EdgeVectorParams(size=dim, distance=edge.Distance.Dot, datatype=kind) for name in searched}
        none = edge.HnswIndexConfig(m=0, ef_construct=16, full_scan_threshold=10)
        params |= {
            name: edge.EdgeVectorParams(size=dim, distance=edge.Distance.Dot, datatype=kind, hnsw_config=none, on_disk=True)
            for name in plain
        }
        largest = edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim)
        params |= {
            name: edge.EdgeVectorParams(size=dim, distance=edge.Distance.Dot, datatype=kind, multivector_config=largest)
            for name in several
        }
        self._path.mkdir(parents=True, exist_ok=True)
        self._shard = edge.EdgeShard.create(str(self._path), edge.EdgeConfig(vectors=params))

    def put(self, points: Sequence[Put]) -> None:
        """Add points, or replace them."""
        edge = self._edge
        made = [edge.Point(UUID(point), vectors, payload) for point, vectors, payload in points]
        self._shard.update(edge.UpdateOperation.upsert_points(made))

    def get(self, points: Sequence[str], vectors: Sequence[str]) -> Points:
        """Those of some points that are there."""
        if not points:
            return []
        found = self._shard.retrieve([UUID(point) for point in points], with_payload=True, with_vector=list(vectors) or False)
        return read_points(found)

    def delete(self, points: Sequence[str]) -> None:
        """Delete points."""
        self._shard.update(self._edge.UpdateOperation.delete_points([UUID(point) for point in points]))

    def count(self) -> int:
        """How many points there are."""
        return int(self._shard.count(self._edge.CountRequest(exact=True)))

    def _page(self, place: Any, vectors: Sequence[str]) -> tuple[Points, Any]:
        request = self._edge.ScrollRequest(place, PAGE, with_payload=True, with_vector=list(vectors) or False)
        found, place = self._shard.scroll(request)
        return read_points(found), place

    def index_field(self, key: str, kind: FieldType) -> None:
        """Make filters by a field fast."""
        names = {"text": "Keyword", "int": "Integer", "float": "Float", "bool": "Keyword"}
        schema = getattr(self._edge.PayloadSchemaType, names[kind])
        self._shard.update(self._edge.UpdateOperation.create_field_index(key, schema))

    def _nearest(self, vector: Vector, name: str, limit: int, chosen: Any, vectors: Sequence[str]) -> Points:
        query = self._edge.Query.Nearest(vector, using=name)
        return self._queried(vectors, query=query, limit=limit, filter=chosen)

    def _prefetch(self, vector: Vector, name: str, limit: int, chosen: Any, inner: list[Any] | None) -> Any:
        query = self._edge.Query.Nearest(vector, using=name)
        return self._edge.Prefetch(limit=limit, query=query, filter=chosen, prefetches=inner or [])

    def _ranked(
        self, parts: list[Any], formula: Expression, defaults: dict[str, float], limit: int, vectors: Sequence[str]
    ) -> Points:
        query = self._edge.Formula(self._expression(formula), defaults)
        return self._queried(vectors, query=query, limit=limit, prefetches=parts)

    def _queried(self, vectors: Sequence[str], **options: Any) -> Points:
        request = self._edge.QueryRequest(with_payload=True, with_vector=list(vectors), **options)
        return read_points(self._shard.query(request))

    def _expression(self, node: Expression) -> Any:
        make = self._edge.Expression
        if isinstance(node, str):
            return make.Variable(node)
        if isinstance(node, float | int):
            return make.Constant(float(node))
        kind, *inner = node
        if kind in ("sum", "mult"):
            return getattr(make, kind.capitalize())([self._expression(each) for each in inner[0]])
        if kind == "div":
            return make.Div(self._expression(inner[0]), self._expression(inner[1]), inner[2])
        return getattr(make, kind.capitalize())(self._expression(inner[0]))

    def _makers(self) -> Makers:
        edge = self._edge
        return Makers(
            edge.IsEmptyCondition,
            lambda key, value: edge.FieldCondition(key, match=edge.MatchValue(value)),
            lambda key, limits: edge.FieldCondition(key, range=edge.RangeFloat(**limits)),
            lambda several: edge.Filter(should=several),
            lambda must, must_not: edge.Filter(must=must, must_not=must_not),
        )

    def optimize(self) -> None:
        """Build the graphs."""
        self._shard.optimize()

    def close(self) -> None:
        """Write everything to the disk."""
        self._shard.flush()
        self._shard.close()
