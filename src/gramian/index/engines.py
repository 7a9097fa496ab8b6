"""Where the points of a QdrantIndex are: what adapters to Qdrant have in common, and the one to qdrant-client; Edge: `edge.py`.

A search is candidates (searches whose results are united), products of these with named vectors (nested prefetches) and a
formula over the products: text for a variable, a number, or an operator with its operands.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from json import JSONDecodeError
from typing import Any, NamedTuple, TypeAlias

from gramian.errors import InputError, first_line
from gramian.index.fields import Condition, FieldType
from gramian.index.refusals import UnansweredError, check_location, refusal

__all__ = [
    "PAGE",
    "ClientEngine",
    "Engine",
    "Expression",
    "Makers",
    "Nearest",
    "Plan",
    "Points",
    "Put",
    "Vector",
    "read_points",
]

PAGE = 256  # points that are read at a time
PARCEL = 2**19  # numbers of a request: as text 11 MB, and a server takes 32 MB
SECONDS = 60  # until a server has to answer
Expression: TypeAlias = Any
"""A name, a number, or ("sum", [...]), ("mult", [...]), ("sqrt", x), ("abs", x), ("div", x, y, if y is 0): what Qdrant has had
since 1.14."""

Vector: TypeAlias = "list[float] | list[list[float]]"
"""One vector, or several of one name."""
Put: TypeAlias = "tuple[str, dict[str, Any], dict[str, Any]]"
"""(point, vectors, payload); of a name with several vectors, a list of them."""
Points: TypeAlias = "list[Put]"
"""Best first."""


Nearest: TypeAlias = "tuple[Vector, str]"
"""A search by a named vector: what is near to which vector, by which name."""


class Plan(NamedTuple):
    """How one query is asked.

    Attributes:
        candidates: searches whose results are united.
        products: searches over the candidates, whose scores are the variables $score[0], $score[1] … of the formula.
        formula: that ranks them; None for all candidates as they are.
        defaults: what a variable is where an item lacks it.
    """

    candidates: list[Nearest]
    products: list[Nearest]
    formula: Expression | None
    defaults: dict[str, float]


class Engine(ABC):
    """A collection of points.

    Attributes:
        where: it is, in an error.
    """

    where: str

    @abstractmethod
    def exists(self) -> bool:
        """Whether the collection is there."""

    @abstractmethod
    def create(self, dim: int, searched: Sequence[str], plain: Sequence[str], several: Sequence[str]) -> None:
        """Make it, with named vectors that have a graph, others without, and names of several vectors each."""

    @abstractmethod
    def put(self, points: Sequence[Put]) -> None:
        """Add points, or replace those that are there."""

    @abstractmethod
    def get(self, points: Sequence[str], vectors: Sequence[str]) -> Points:
        """Those of some points that are there."""

    @abstractmethod
    def delete(self, points: Sequence[str]) -> None:
        """Delete points."""

    @abstractmethod
    def count(self) -> int:
        """How many points there are."""

    def pages(self, vectors: Sequence[str]) -> Iterator[Points]:
        """All points, a page at a time, by rising point id."""
        found, place = self._page(None, vectors)
        while place is not None:
            yield found
            found, place = self._page(place, vectors)
        yield found

    @abstractmethod
    def _page(self, place: Any, vectors: Sequence[str]) -> tuple[Points, Any]:
        """The points of one page, and where the next begins, if there is one."""

    @abstractmethod
    def index_field(self, key: str, kind: FieldType) -> None:
        """Make filters by a field of the payload fast."""

    def search(self, plan: Plan, each: int, limit: int, conditions: Sequence[Condition], vectors: Sequence[str]) -> Points:
        """The best points of a plan, or all its candidates.

        Args:
            plan: of a query.
            each: what each search for candidates gives.
            limit: what the formula gives.
            conditions: on the metadata.
            vectors: names of those to read.

        Returns:
            The points, best first.
        """
        chosen = _filtered(conditions, self._makers())
        if plan.formula is None:
            return _united([self._nearest(vector, name, each, chosen, vectors) for vector, name in plan.candidates])
        firsts = [self._prefetch(vector, name, each, chosen, None) for vector, name in plan.candidates]
        nested = [self._prefetch(vector, name, each * len(firsts), None, firsts) for vector, name in plan.products]
        return self._ranked(nested, plan.formula, plan.defaults, limit, vectors)

    @abstractmethod
    def _makers(self) -> Makers:
        """How filters are written."""

    @abstractmethod
    def _nearest(self, vector: Vector, name: str, limit: int, chosen: Any, vectors: Sequence[str]) -> Points:
        """The nearest points that a filter lets through."""

    @abstractmethod
    def _prefetch(self, vector: Vector, name: str, limit: int, chosen: Any, inner: list[Any] | None) -> Any:
        """The same as the part of a query: of all points that a filter lets through, or of what inner parts find."""

    @abstractmethod
    def _ranked(
        self, parts: list[Any], formula: Expression, defaults: dict[str, float], limit: int, vectors: Sequence[str]
    ) -> Points:
        """What the parts find, the best by the formula."""

    @abstractmethod
    def optimize(self) -> None:
        """Build graphs, where the engine does not by itself."""

    @abstractmethod
    def close(self) -> None:
        """Write everything to the disk and let go of it."""

    def payload(self, point: str) -> dict[str, Any] | None:
        """The payload of one point, or None."""
        found = self.get([point], [])
        return found[0][2] if found else None


def read_points(points: Sequence[Any]) -> Points:
    """What a client gives, as it is used here."""
    return [(str(each.id), dict(each.vector or {}), dict(each.payload or {})) for each in points]


def _united(searches: Sequence[Points]) -> Points:
    """The points of several searches, each once."""
    seen: dict[str, Any] = {}
    for found in searches:
        for each in found:
            seen.setdefault(each[0], each)
    return list(seen.values())


def _parcels(points: Sequence[Put]) -> Iterator[list[Put]]:
    """Points in parts of not too many numbers."""
    part: list[Put] = []
    total = 0
    for point in points:
        numbers = sum(sum(map(len, each)) if each and isinstance(each[0], list) else len(each) for each in point[1].values())
        if part and total + numbers > PARCEL:
            yield part
            part, total = [], 0
        part.append(point)
        total += numbers
    if part:
        yield part


class ClientEngine(Engine):
    """A collection of a server, a cluster, or the client's local mode.

    Raises:
        InputError: here and in every method: a location that is none, a server that cannot be reached, that refuses the key or
            what it is asked, a collection that is gone, an answer that is not Qdrant's.
    """

    def __init__(self, location: str, collection: str, key: str | None, half: bool, shards: int | None) -> None:
        from qdrant_client import QdrantClient, models

        self._models: Any = models
        self._remote = check_location(location, collection, key)
        self._location, self._name, self._half, self._shards = location, collection, half, shards
        self.where = f"collection {collection!r} of {location!r}"
        place: dict[str, Any] = {"location": location} if location == ":memory:" else {"path": location}
        if self._remote:
            headers = {"api-key": key} if key else {}  # as `api_key` it would warn of http, on this machine too
            place = {"url": location, "headers": headers, "timeout": SECONDS, "check_compatibility": False}
        try:
            self._client: Any = QdrantClient(**place)
        except (ValueError, RuntimeError, OSError) as error:
            raise InputError(f"`location` {location!r} cannot be opened: {first_line(error):.160}.") from None

    def _ask(self, what: str, *words: Any, **options: Any) -> Any:
        """What a method of the client answers."""
        from qdrant_client.common.client_exceptions import QdrantException
        from qdrant_client.http.exceptions import ApiException

        try:
            return getattr(self._client, what)(self._name, *words, **options)
        except (
            ApiException,
            QdrantException,
            AssertionError,
            JSONDecodeError,
            UnicodeDecodeError,
        ) as error:  # asserts a result
            raise refusal(error, self._location, self._name) from None
        except ValueError as error:
            if self._remote or "not found" not in str(error):
                raise
            raise UnansweredError(f"{self.where} is not there, or no longer.") from None

    def exists(self) -> bool:
        """Whether the collection is there."""
        return bool(self._ask("collection_exists"))

    def create(self, dim: int, searched: Sequence[str], plain: Sequence[str], several: Sequence[str]) -> None:
        """Make it."""
        models = self._models
        kind = models.Datatype.FLOAT16 if self._half else models.Datatype.FLOAT32
        vectors = {name: models.VectorParams(size=dim, distance=models.Distance.DOT, datatype=kind) for name in searched}
        none = models.HnswConfigDiff(m=0)
        vectors |= {
            name: models.VectorParams(size=dim, distance=models.Distance.DOT, datatype=kind, hnsw_config=none, on_disk=True)
            for name in plain
        }
        largest = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
        vectors |= {
            name: models.VectorParams(size=dim, distance=models.Distance.DOT, datatype=kind, multivector_config=largest)
            for name in several
        }
        more = {"shard_number": self._shards} if self._shards else {}
        self._ask("create_collection", vectors_config=vectors, **more)

    def put(self, points: Sequence[Put]) -> None:
        """Add points, or replace them."""
        for part in _parcels(points):
            structs = [self._models.PointStruct(id=point, vector=vectors, payload=payload) for point, vectors, payload in part]
            self._ask("upsert", structs, wait=True)

    def get(self, points: Sequence[str], vectors: Sequence[str]) -> Points:
        """Those of some points that are there."""
        if not points:
            return []
        return read_points(self._ask("retrieve", list(points), with_payload=True, with_vectors=list(vectors) or False))

    def delete(self, points: Sequence[str]) -> None:
        """Delete points."""
        self._ask("delete", self._models.PointIdsList(points=list(points)), wait=True)

    def count(self) -> int:
        """How many points there are."""
        return int(self._ask("count", exact=True).count)

    def _page(self, place: Any, vectors: Sequence[str]) -> tuple[Points, Any]:
        found, place = self._ask("scroll", limit=PAGE, offset=place, with_payload=True, with_vectors=list(vectors) or False)
        return read_points(found), place

    def index_field(self, key: str, kind: FieldType) -> None:
        """Make filters by a field fast."""
        if self._remote:  # the local mode has no such indices
            schema = {"text": "keyword", "int": "integer", "float": "float", "bool": "keyword"}[kind]
            self._ask("create_payload_index", key, field_schema=schema)

    def _nearest(self, vector: Vector, name: str, limit: int, chosen: Any, vectors: Sequence[str]) -> Points:
        return self._queried(vectors, query=vector, using=name, limit=limit, query_filter=chosen)

    def _prefetch(self, vector: Vector, name: str, limit: int, chosen: Any, inner: list[Any] | None) -> Any:
        return self._models.Prefetch(prefetch=inner, query=vector, using=name, limit=limit, filter=chosen)

    def _ranked(
        self, parts: list[Any], formula: Expression, defaults: dict[str, float], limit: int, vectors: Sequence[str]
    ) -> Points:
        query = self._models.FormulaQuery(formula=self._expression(formula), defaults=defaults)
        return self._queried(vectors, prefetch=parts, query=query, limit=limit)

    def _queried(self, vectors: Sequence[str], **options: Any) -> Points:
        return read_points(self._ask("query_points", with_payload=True, with_vectors=list(vectors), **options).points)

    def _expression(self, node: Expression) -> Any:
        models = self._models
        if isinstance(node, str | float | int):
            return node
        kind, *inner = node
        if kind in ("sum", "mult"):
            make = {"sum": models.SumExpression, "mult": models.MultExpression}[kind]
            return make(**{kind: [self._expression(each) for each in inner[0]]})
        if kind == "div":
            left, right = map(self._expression, inner[:2])
            return models.DivExpression(div=models.DivParams(left=left, right=right, by_zero_default=inner[2]))
        make = {"sqrt": models.SqrtExpression, "abs": models.AbsExpression}[kind]
        return make(**{kind: self._expression(inner[0])})

    def _makers(self) -> Makers:
        models = self._models
        return Makers(
            lambda key: models.IsEmptyCondition(is_empty=models.PayloadField(key=key)),
            lambda key, value: models.FieldCondition(key=key, match=models.MatchValue(value=value)),
            lambda key, limits: models.FieldCondition(key=key, range=models.Range(**limits)),
            lambda several: models.Filter(should=several),
            lambda must, must_not: models.Filter(must=must, must_not=must_not),
        )

    def optimize(self) -> None:
        """Nothing: the engine does so by itself."""

    def close(self) -> None:
        """Write everything to the disk."""
        self._client.close()


def _filtered(conditions: Sequence[Condition], make: Makers) -> Any:
    """A filter of an engine: all conditions must hold."""
    if not conditions:
        return None
    must: list[Any] = []
    must_not: list[Any] = []
    for one in conditions:
        key, negated = f"fields.{one.field}", one.negated
        if one.operator == "exists":
            condition, negated = make.empty(key), one.operand != one.negated
        elif one.operator != "in":
            condition = make.within(key, {one.operator: one.operand})
        else:
            condition = make.either([_equal(one.field, value, make) for value in one.operand])
        (must_not if negated else must).append(condition)
    return make.all(must or None, must_not or None)


def _equal(field: str, value: Any, make: Makers) -> Any:
    if isinstance(value, bool):  # Edge takes a truth value for a number: they are kept as words as well
        return make.equal(f"flags.{field}", str(value).lower())
    if isinstance(value, str):
        return make.equal(f"fields.{field}", value)
    return make.within(f"fields.{field}", {"gte": value, "lte": value})  # a float has no equality there


class Makers(NamedTuple):
    """How an engine writes conditions: empty(key), equal(key, text), within(key, limits), either([…]), all(must, must_not)."""

    empty: Callable[[str], Any]
    equal: Callable[[str, str], Any]
    within: Callable[[str, dict[str, float]], Any]
    either: Callable[[list[Any]], Any]
    all: Callable[[list[Any] | None, list[Any] | None], Any]
