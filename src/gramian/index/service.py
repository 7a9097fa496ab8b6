"""`service`: an index over HTTP: /embed, /search, /items, /media, /health, /metrics. Needs the extra "serve".

A request holds texts, features, vectors and the bytes of media; it cannot name a file of this machine. Media of items are sent
only from folders that whoever starts the service has named.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import secrets
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, ClassVar, TypeVar

from fastapi import Depends, FastAPI, Header, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gramian import __version__
from gramian.bundle import Bundle
from gramian.errors import InputError, first_line
from gramian.index.asking import chosen, item_of, joined, lacking
from gramian.index.protocol import Index, SearchScore
from gramian.index.refusals import UnansweredError

__all__ = ["service"]

logger: logging.Logger = logging.getLogger(__name__)

Value = TypeVar("Value")
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Media(BaseModel):
    """Bytes of a file, in base64."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    base64: str


Cell = str | list[Finite] | Media
Id = Annotated[str, Field(min_length=1, max_length=4096)]


class Cells(BaseModel):
    """What to embed: modality → a text, features, or the bytes of a file."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    cells: dict[str, Cell] = Field(min_length=1, max_length=64)


class Query(BaseModel):
    """A search. At least one of cells, vectors and like; see `gramian.index.Index.search` for the rest."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    cells: dict[str, Cell] = Field(default_factory=dict, max_length=64)
    vectors: dict[str, list[Finite]] = Field(default_factory=dict, max_length=64)
    like: Id | None = None
    unlike: Id | None = None
    without: dict[str, Cell] = Field(default_factory=dict, max_length=64)
    weights: dict[str, Finite] = Field(default_factory=dict)
    k: int = Field(default=10, ge=1, le=1000)
    score: SearchScore | None = None
    beta: float = Field(default=1.0, ge=0, le=100)
    filter: dict[str, Any] | list[str] | str | None = None
    modalities: list[str] | None = None
    hubs: bool = False


class Found(BaseModel):
    """An answer; see `gramian.index.Hit`."""

    id: str
    score: float
    contributions: dict[str, float]
    cosines: dict[str, dict[str, float]]
    missing: list[str]
    metadata: dict[str, str | int | float | bool]


class FoundItems(BaseModel):
    """The answers to a query, best first."""

    score: str
    modalities: list[str]
    hits: list[Found]


class Refusal(BaseModel):
    """Why a request was refused, in one line."""

    error: str


def _refusals(*codes: int) -> dict[int | str, dict[str, Any]]:
    """How the schema tells what a request can be refused by."""
    return {code: {"model": Refusal} for code in (401, *codes, 503)}


class _Limited:
    """Refuses a body that is longer than allowed, whatever its header says."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        parts, length, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            parts.append(message.get("body", b""))
            length, more = length + len(parts[-1]), message.get("more_body", False)
            if length > self.most:
                answer = JSONResponse({"error": f"the body must have at most {self.most:,} bytes."}, 413)
                await answer(scope, receive, send)
                return
        body = b"".join(parts)
        sent = False

        async def again() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, again, send)


def service(
    index: Index,
    *,
    key: str | None = None,
    media_root: Sequence[Path] = (),
    most_bytes: int = 2**24,
    seconds: float = 30.0,
    at_once: int = 2,
) -> FastAPI:
    """An ASGI application that serves an index, with what other processes add to it and delete from it.

    Args:
        index: with a model, if it is to embed cells.
        key: that every request but /health must have in its header X-API-Key; none by default.
        media_root: folders whose files may be sent, where items name them; none by default.
        most_bytes: of a request.
        seconds: that a request may take.
        at_once: searches at the same time; others wait.

    Returns:
        The application.

    Raises:
        HTTPException: within a request; the client is told 401, 404, 503 or 504.
    """
    app = FastAPI(title="gramian", version=__version__, description="Search an index by any modalities together.")
    app.add_middleware(_Limited, most=most_bytes)
    counts: Counter[tuple[str, int]] = Counter()
    spent: defaultdict[str, float] = defaultdict(float)
    turn, one = asyncio.Semaphore(at_once), Lock()
    roots = tuple(root.resolve() for root in media_root)

    async def allowed(x_api_key: Annotated[str | None, Header()] = None) -> None:
        if key is not None and not secrets.compare_digest((x_api_key or "").encode(), key.encode()):
            raise HTTPException(401, "a key is needed, in the header X-API-Key.")

    async def in_time(work: Callable[[], Value]) -> Value:
        late = HTTPException(504, f"it takes more than {seconds:g} seconds.")
        given_up = False

        async def queued() -> Value:
            async with turn:  # until the work has ended: a thread cannot be stopped
                if given_up:
                    raise late
                return await run_in_threadpool(work)

        task = asyncio.ensure_future(queued())
        try:
            return await asyncio.wait_for(asyncio.shield(task), seconds)
        except TimeoutError:
            given_up = True
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody waits for it
            raise late from None

    def live() -> Index:
        nonlocal index
        try:
            index = index.latest()
        except UnansweredError:
            raise
        except InputError:  # of a folder that is gone or damaged the last state is served
            pass
        return index

    def embed(cells: dict[str, Cell]) -> Bundle:
        raw = () if index.model is None else index.model.raw_modalities()
        read = {name: _cell(index, name, cell, name in raw) for name, cell in cells.items()}
        with one:  # a model is not shared by threads
            bundle = index.embed(read)
        return bundle.select(*(name for name in bundle.modalities if name in cells))

    def search(query: Query) -> FoundItems:
        now = live()
        parts: list[tuple[str, Bundle]] = []
        if query.cells:
            parts.append(("", embed(query.cells)))
        if query.like is not None:
            parts.append(("like ", chosen(item_of(now, query.like, "like")[0])))
        if query.vectors:
            if {len(vector) for vector in query.vectors.values()} != {now.dim}:
                raise InputError(f"`vectors` must have the width {now.dim} of the index.")
            parts.append(("vector ", Bundle.from_dict({name: [vector] for name, vector in query.vectors.items()})))
        if not parts:
            raise InputError("a query needs `cells`, `vectors` or `like`.")
        answers = now.search(
            joined(parts),
            query.k,
            score=query.score,
            beta=query.beta,
            filter=query.filter,
            modalities=query.modalities,
            weights=query.weights or None,
            without=lacking(now, embed(query.without) if query.without else None, query.unlike),
            hubs=query.hubs,
            exclude=[name for name in (query.like, query.unlike) if name is not None],
        )
        hits = [Found(**hit.to_dict()) for hit in answers[0]]
        return FoundItems(score=answers.score, modalities=list(answers.modalities), hits=hits)

    def item(name: str) -> dict[str, Any]:
        now = live()
        if not now.known([name])[0]:
            raise HTTPException(404, "no such item.")
        bundle, metadata = now.items([name])
        has = [each for each in bundle.modalities if bool(bundle.has(each)[0])]
        return {"id": name, "modalities": has, "metadata": metadata[0]}

    @app.middleware("http")
    async def counted(request: Request, follow: Callable[[Request], Awaitable[Any]]) -> Any:
        start = time.perf_counter()
        answer = await follow(request)
        route = request.scope.get("route")
        path = getattr(route, "path", "other")
        counts[path, answer.status_code] += 1
        spent[path] += time.perf_counter() - start
        return answer

    @app.exception_handler(InputError)
    async def refused(request: Request, error: InputError) -> JSONResponse:
        del request
        return JSONResponse({"error": str(error)}, 422)

    @app.exception_handler(UnansweredError)  # what it says, where the server is, is for whoever runs this
    async def unanswered(request: Request, error: UnansweredError) -> JSONResponse:
        del request
        logger.warning("%s", error)
        return JSONResponse({"error": "the index cannot be asked at the moment. Try again later."}, 503)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        del request
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return JSONResponse({"error": f"the body is not JSON: {first['ctx']['error']}"}, 422)
        if first["loc"] == ("body",) and first["type"] == "model_attributes_type":
            return JSONResponse(
                {"error": "the body must be a JSON object, under the header content-type: application/json."}, 422
            )
        where = ".".join(str(part) for part in first["loc"][1:])
        if first["type"] == "extra_forbidden":
            return JSONResponse({"error": f"`{where}` is not a field of this request. /docs lists them."}, 422)
        return JSONResponse({"error": f"`{where}`: {first['msg']}" if where else str(first["msg"])}, 422)

    @app.exception_handler(StarletteHTTPException)  # those of the framework, too
    async def told(request: Request, error: StarletteHTTPException) -> JSONResponse:
        missing = error.status_code == 404 and "route" not in request.scope
        return JSONResponse({"error": "no such path. /docs lists them." if missing else error.detail}, error.status_code)

    def state() -> dict[str, Any]:
        now = live()
        about = {"items": len(now), "modalities": list(now.modalities), "score": now.score}
        return {"status": "ok", "version": __version__} | about

    @app.get("/health", responses={503: {"model": Refusal}})
    async def health() -> dict[str, Any]:
        """Whether it serves, and what."""
        return await run_in_threadpool(state)

    @app.get("/metrics", dependencies=[Depends(allowed)], response_class=PlainTextResponse, responses=_refusals())
    async def metrics() -> PlainTextResponse:
        """Counters, as Prometheus reads them."""
        items = (await run_in_threadpool(state))["items"]
        lines = ["# TYPE gramian_items gauge", f"gramian_items {items}", "# TYPE gramian_requests_total counter"]
        lines += [f'gramian_requests_total{{path="{path}",status="{code}"}} {n}' for (path, code), n in sorted(counts.items())]
        lines += ["# TYPE gramian_seconds_total counter"]
        lines += [f'gramian_seconds_total{{path="{path}"}} {value:.6f}' for path, value in sorted(spent.items())]
        return PlainTextResponse("\n".join(lines) + "\n")

    @app.post("/embed", dependencies=[Depends(allowed)], responses=_refusals(400, 413, 422, 504))
    async def embedded(cells: Cells) -> dict[str, Any]:
        """The vectors of cells in the space of the index."""
        bundle = await in_time(lambda: embed(cells.cells))
        return {"vectors": {name: bundle.column(name)[0].tolist() for name in bundle.modalities}}

    @app.post("/search", dependencies=[Depends(allowed)], responses=_refusals(400, 413, 422, 504))
    async def searched(query: Query) -> FoundItems:
        """The best items for a query."""
        return await in_time(lambda: search(query))

    @app.get("/items/{name:path}", dependencies=[Depends(allowed)], responses=_refusals(404, 422, 504))
    async def described(name: str) -> dict[str, Any]:
        """What is known of an item."""
        return await in_time(lambda: item(name))

    @app.get(
        "/media/{modality}/{name:path}",
        dependencies=[Depends(allowed)],
        response_class=FileResponse,
        responses=_refusals(404, 422, 504) | {200: {"content": {"*/*": {}}}},
    )
    async def media(modality: str, name: str) -> FileResponse:
        """The file of an item's modality, if it lies in a folder that is served."""
        values = (await in_time(lambda: item(name)))["metadata"]
        path = values.get(modality)
        raw = index.model is not None and modality in index.model.raw_modalities()
        try:
            found = Path(path).resolve() if raw and isinstance(path, str) else None
        except (OSError, ValueError, RuntimeError):
            found = None
        if found is None or not any(found.is_relative_to(root) for root in roots) or not found.is_file():
            raise HTTPException(404, "no such file, or not in a folder that is served.")
        return FileResponse(found)

    return app


def _cell(index: Index, name: str, cell: Cell, raw: bool) -> Any:
    """A cell of a request as the model reads it: never a path."""
    if isinstance(cell, Media):
        try:
            return base64.b64decode(cell.base64, validate=True)
        except (binascii.Error, ValueError) as error:
            raise InputError(f"`cells.{name}` must be base64; {first_line(error):.80}.") from None
    if isinstance(cell, str):
        model = index.model
        kind = getattr(model.towers[name].reader, "kind", None) if model is not None and raw else None
        if kind != "text":
            raise InputError(
                f"`cells.{name}` must be {'bytes of a file, as base64' if raw else 'a list of features'}; got text."
            )
    return cell
