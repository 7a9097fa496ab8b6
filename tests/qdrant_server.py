"""A server that answers as Qdrant's REST interface does, out of the client's local mode; requests are read by its models."""

from __future__ import annotations

import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from qdrant_client import QdrantClient, models

KEY = "a secret"


class _Handler(BaseHTTPRequestHandler):
    def _answer(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        path = self.path.split("?")[0].strip("/").split("/")
        server = self.server
        server.asked.append((self.command, self.path, len(body)))
        for request, (status, answer) in server.faults.items():
            if re.fullmatch(request, f"{self.command} {'/'.join(path[2:])}".strip()):
                return self._send(status, answer)
        if server.key and self.headers.get("api-key") != server.key:
            return self._send(401, b"Must provide an API key or an Authorization bearer token")
        try:
            with server.lock:
                result = self._done(path[1], "/".join(path[2:]), json.loads(body or b"{}"))
        except ValueError as error:
            return self._refuse(404 if "not found" in str(error) else 400, str(error))
        except Exception as error:
            return self._refuse(500, repr(error))
        told = {"result": result, "status": "ok", "time": 0.001}
        return self._send(200, json.dumps(told).encode())

    do_GET = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815

    def _done(self, name, what, body):
        client, read = self.server.client, lambda kind: kind.model_validate(body)
        if what == "exists":
            return {"exists": client.collection_exists(name)}
        if what == "" and self.command == "PUT":
            made = read(models.CreateCollection)
            return client.create_collection(name, vectors_config=made.vectors)
        if what == "" and self.command == "DELETE":
            return client.delete_collection(name)
        if what == "index":
            read(models.CreateFieldIndex)
            return {"operation_id": 1, "status": "completed"}
        if what == "points" and self.command == "PUT":
            client.upsert(name, read(models.PointsList).points)
            return {"operation_id": 1, "status": "completed"}
        if what == "points/delete":
            client.delete(name, read(models.PointIdsList))
            return {"operation_id": 1, "status": "completed"}
        if what == "points/count":
            return {"count": client.count(name, exact=read(models.CountRequest).exact).count}
        if what == "points":
            asked = read(models.PointRequest)
            found = client.retrieve(name, asked.ids, with_payload=asked.with_payload, with_vectors=asked.with_vector)
            return [each.model_dump(mode="json") for each in found]
        if what == "points/scroll":
            asked = read(models.ScrollRequest)
            found, place = client.scroll(
                name, limit=asked.limit, offset=asked.offset, with_payload=asked.with_payload, with_vectors=asked.with_vector
            )
            return {"points": [each.model_dump(mode="json") for each in found], "next_page_offset": place}
        asked = read(models.QueryRequest)
        found = client.query_points(
            name,
            query=asked.query,
            prefetch=asked.prefetch,
            using=asked.using,
            limit=asked.limit,
            query_filter=asked.filter,
            with_payload=asked.with_payload,
            with_vectors=asked.with_vector,
        )
        return found.model_dump(mode="json")

    def _refuse(self, status, why):
        self._send(status, json.dumps({"status": {"error": why}, "time": 0.001}).encode())

    def _send(self, status, body):
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, key):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.client, self.key, self.lock = QdrantClient(":memory:"), key, threading.Lock()
        self.faults: dict[str, tuple[int, bytes]] = {}  # method and path in a collection → what it answers
        self.asked: list[tuple[str, str, int]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


@contextmanager
def served(key=None):
    """The server while the context lasts."""
    server = _Server(key)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
