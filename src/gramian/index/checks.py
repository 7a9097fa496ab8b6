"""What every kind of index checks of items, of their names, and of the port that it is asked on."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import replace

from gramian.bundle import Bundle
from gramian.errors import InputError, check_number, check_type, listing

__all__ = ["check_port", "check_version", "checked_ids", "checked_items"]


def check_version(what: str, version: object, newest: int) -> None:
    """Check that this gramian reads a version of a format.

    Raises:
        InputError: it is newer.
    """
    if isinstance(version, int) and version > newest:
        raise InputError(f"{what} was written by a newer gramian (version {version} of the format). Upgrade.")


def check_port(port: int, host: str) -> None:
    """Check that a port is free.

    Raises:
        InputError: it is none, or in use, or the host is not of this machine.
    """
    check_number("port", port, "[1, 65535]", integer=True)
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"`port` {port} of {host} cannot be used: {reason}. Name another.") from None


def checked_ids(ids: Sequence[str], n: int | None = None) -> list[str]:
    """Ids as a list.

    Raises:
        InputError: a single text, ids that are no text, are empty or repeat, or another number than `n`.
    """
    if isinstance(ids, str):
        raise InputError(f"`ids` must be a list of names; got {ids!r:.60}. Write [{ids!r:.60}].")
    listed = list(ids)
    wrong = next((name for name in listed if not isinstance(name, str) or not name), None)
    if wrong is not None or (listed and not isinstance(listed[0], str)):
        raise InputError(f"`ids` must be non-empty texts; got {wrong!r:.60}. Write str(id).")
    if n is not None and len(listed) != n:
        raise InputError(f"`ids` must name the {n} items; got {len(listed)}.")
    if n is not None and len(set(listed)) < n:
        seen: set[str] = set()
        repeated = next(name for name in listed if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise InputError(f"`ids` must be different; {repeated!r:.60} occurs twice.")
    return listed


def checked_items(bundle: Bundle, ids: Sequence[str], dim: int) -> tuple[Bundle, list[str]]:
    """Items that are to be added, of unit length, on the CPU, and their ids.

    Raises:
        InputError: vectors of another width or not finite, items without a vector, ids that do not fit.
    """
    check_type("bundle", bundle, Bundle)
    names = checked_ids(ids, len(bundle))
    bundle = bundle.detach().to("cpu")
    if bundle.dim != dim:
        raise InputError(f"`bundle` must have the width {dim} of the index; got {bundle.dim}. Use the same model.")
    if not bool(bundle.vectors.isfinite().all()):
        raise InputError("`bundle` must be finite; got NaN or infinite numbers.")
    empty = (~bundle.has()).nonzero().flatten().tolist()
    if empty:
        raise InputError(f"`bundle` has {len(empty)} of {len(bundle)} items without a vector (rows {listing(empty)}).")
    present = {name: bundle.has(name) for name in bundle.modalities}
    whole = Bundle.from_dict({name: bundle.column(name) for name in bundle.modalities}, present=present)
    if bundle.tokens:
        pooled = {name: bundle.tokens.get(name, bundle.column(name)) for name in bundle.modalities}
        whole = replace(whole, tokens=Bundle.from_dict(pooled, present=present).tokens)
    return whole, names
