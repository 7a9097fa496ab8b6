"""What a Qdrant server says that cannot be asked, in one line: it is not there, refuses the key, has no such collection."""

from __future__ import annotations

import json
import logging
import re

from gramian.errors import InputError, first_line

__all__ = ["UnansweredError", "check_location", "refusal"]


logger: logging.Logger = logging.getLogger("gramian")


class UnansweredError(InputError):
    """A server that cannot be asked, or refuses what it is asked: no fault of a query."""


def check_location(location: str, collection: str, key: str | None = None) -> bool:
    """Whether a location is the address of a server, rather than ":memory:" or a folder. Warns of a key that all can read.

    Raises:
        InputError: neither, or an address with a key in it, which errors would print; a name that no collection can have.

    >>> check_location("https://host:6333", "gramian"), check_location(":memory:", "gramian")
    (True, False)
    """
    if not collection or "/" in collection or collection in (".", ".."):
        raise InputError(f"`collection` must be a name; got {collection!r:.60}.")
    if re.fullmatch(r"[\w.-]+:\d+/?", location):
        raise InputError(f"`location` {location!r} is no address and no folder. Write 'http://{location}', or https.")
    scheme, separator, rest = location.partition("://")
    if not separator:
        return False
    if "@" in rest or "?" in rest:
        raise InputError("`location` must be an address alone, as http://host:6333. Pass the key by itself.")
    if scheme not in ("http", "https") or not re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\s:/]+)(:\d{1,5})?(/\S*)?", rest):
        raise InputError(f"`location` must be an address, as http://host:6333; got {location!r:.80}.")
    if key and scheme == "http" and not re.match(r"(localhost|127\.[\d.]+|\[::1\])(:|/|$)", rest):
        logger.warning("the key goes to %s unencrypted; use https where others can listen", location)
    return True


def refusal(error: Exception, location: str, collection: str) -> UnansweredError:
    """The error of qdrant-client, in one line.

    Args:
        error: what it raised.
        location: that was asked.
        collection: of it.

    Returns:
        What to raise instead.
    """
    where = f"`location` {location!r}"
    source = getattr(error, "source", None)
    status = getattr(error, "status_code", None)
    if source is not None and "Timeout" in type(source).__name__:
        return UnansweredError(f"{where} did not answer in time. Try again, or check the address.")
    if source is not None and type(source).__module__.startswith("httpx"):
        return UnansweredError(
            f"{where} cannot be reached: {first_line(source):.120}. Check the address, and whether the server runs."
        )
    if type(error).__name__ == "ResourceExhaustedResponse" or status == 429:
        return UnansweredError(f"{where} takes no more requests at the moment. Try again later.")
    if status in (401, 403):
        return UnansweredError(f"{where} refuses the key, or wants one. Pass its own, or set the variable QDRANT_KEY.")
    reason = _reason(error)
    if reason is None:
        told = f"status {status}" if status is not None else "what came cannot be read"
        return UnansweredError(f"{where} does not answer as Qdrant does ({told}). Check the address.")
    if status == 404:
        return UnansweredError(f"{where} has no collection {collection!r}, or no longer ({reason:.120}). Check `collection`.")
    if isinstance(status, int) and status >= 500:
        return UnansweredError(f"{where} failed: {reason:.160}. Try again, or look into the server's log.")
    return UnansweredError(f"{where} refuses what collection {collection!r} is asked: {reason:.160}. Was it made by gramian?")


def _reason(error: Exception) -> str | None:
    """What Qdrant says of an error, in one line; None where the answer is not Qdrant's."""
    try:
        status = json.loads(getattr(error, "content", b""))["status"]
        return first_line(status["error"]).rstrip(".") if isinstance(status, dict) else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
