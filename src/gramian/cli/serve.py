"""`gramian serve`."""

from __future__ import annotations

import os
from pathlib import Path

from gramian.cli.shared import Server, Trust
from gramian.cli.terminal import console_of
from gramian.errors import InputError, check_number, require
from gramian.index.checks import check_port

__all__ = ["serve_command"]

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve_command(
    run: Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    key: str | None = None,
    most_bytes: int = 2**24,
    seconds: float = 30.0,
    at_once: int = 2,
    model: str | None = None,
    server: Server = Server(),
    trust: Trust = Trust(),
) -> None:
    """Serve a run's index over HTTP: /search, /embed, /items, /media, /health, /metrics; /docs describes them.

    It listens on this machine alone unless another host is typed, which then needs a key.

    Args:
        run: folder that `gramian index` wrote to, or of an index.
        host: to listen on.
        port: to listen on.
        key: that requests must have in their header X-API-Key; by default that of the variable GRAMIAN_API_KEY, if it is set.
        most_bytes: of a request.
        seconds: that a request may take.
        at_once: searches at the same time; others wait.
        model: a saved Aligner that embeds queries, instead of the run's.
        server: Qdrant, where the index is, if not in the run's folder.
        trust: towers, and folders whose files may be sent.

    Raises:
        InputError: an index that cannot be used, a port that is none or in use, or another host without a key.
    """
    require("fastapi", "uvicorn")
    check_number("port", port, "[1, 65535]", integer=True)
    check_number("most_bytes", most_bytes, "[1024, inf)", integer=True)
    check_number("seconds", seconds, "(0, inf)")
    check_number("at_once", at_once, "[1, 1024]", integer=True)
    key = key or os.environ.get("GRAMIAN_API_KEY") or None
    if host not in LOOPBACK and key is None:
        raise InputError(f"`host` {host!r} can be reached from other machines: that needs --key, or GRAMIAN_API_KEY.")
    roots = trust.roots()
    check_port(port, host)
    import uvicorn

    from gramian.index.service import service

    index = server.index(run, model, trust)
    _ = index.model  # one of another space is refused before anything listens
    app = service(index, key=key, media_root=roots, most_bytes=most_bytes, seconds=seconds, at_once=at_once)
    console_of().print(f"{index!r} on http://{host}:{port}; Ctrl-C ends it")
    uvicorn.run(app, host=host, port=port, log_level="warning", timeout_keep_alive=75, timeout_graceful_shutdown=10)
