"""Calls of a server: repeated until a deadline where that may help, and its errors as ours, with its words in them.

Every call of this package may be made twice: points are written by their ids. A key is never shown: it is taken out of
all words, and errors are not chained to those of the client.
"""

from __future__ import annotations

import errno
import json
import random
import threading
import time
from contextlib import nullcontext
from typing import Any, Final, NamedTuple

from ..errors import (
    BqstoreError,
    ClosedError,
    InvalidInputError,
    NotFoundError,
    ReadOnlyError,
    ServerError,
)
from .library import NEWEST, is_local

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
_UNREACHED: Final = 3.0  # seconds to go on trying to reach a server that never answered: the address may be wrong
_AGAIN: Final = (408, 425, 429, 500, 502, 503, 504)
_AGAIN_GRPC: Final = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "INTERNAL", "UNKNOWN")
_HTTP_OF_GRPC: Final = {
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
}
_READING: Final = frozenset(
    ["get_collection", "collection_exists", "query_points", "query_batch_points", "retrieve", "scroll", "count", "info"]
)


class _Failed(NamedTuple):
    """An error of the client: HTTP's status where there is one, the server's words, whether to try again, and when."""

    status: int | None
    words: str
    again: bool
    after: float = 0.0


class Server:
    """A client, and how its calls are made.

    Parameters
    ----------
    client : QdrantClient
    where : str         the address, for messages
    timeout : float     seconds that one call may take, all tries together
    key : str or None   which is never shown
    owned : bool        whether `close` closes the client
    """

    def __init__(self, client: Any, where: str, timeout: float, key: str | None = None, owned: bool = False) -> None:
        self.client, self.where, self.timeout = client, where, timeout
        self._key, self._owned = key, owned
        self.is_local = is_local(client)
        self._turn: Any = threading.RLock() if self.is_local else nullcontext()  # its arrays know nothing of threads
        self._reached = self.is_local
        self.closed = False
        self._version: tuple[int, ...] | None = NEWEST if self.is_local else None

    def version(self) -> tuple[int, ...]:
        """The server's version, its first two numbers; `NEWEST` where it does not tell it."""
        if self._version is None:
            try:
                self._version = tuple(int(part) for part in str(self.call("info").version).split(".")[:2])
            except (InvalidInputError, NotFoundError, ValueError):  # a key for one collection need not see it
                self._version = NEWEST
        return self._version

    def call(self, method: str, /, **given: Any) -> Any:
        """What a method of the client returns."""
        if self.closed:
            raise ClosedError("this collection is closed; open it again")
        begun, pause, tries = time.monotonic(), _FIRST_PAUSE, 0
        while True:
            tries += 1
            try:
                with self._turn:
                    found = getattr(self.client, method)(**given)
                self._reached = True
                return found
            except BqstoreError:
                raise
            except Exception as error:
                failed = _failed(error)
            self._reached |= failed.status is not None
            spent = time.monotonic() - begun
            wait = max(failed.after, pause * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
            most = self.timeout if self._reached else min(self.timeout, _UNREACHED)
            if not failed.again or spent + wait > most:
                raise self._error(method, failed, tries, spent) from None
            time.sleep(wait)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _error(self, method: str, failed: _Failed, tries: int, spent: float) -> BqstoreError:
        words = self.without_key(failed.words)
        tried = f", tried {tries} times in {spent:.1f} s" if tries > 1 else ""
        told = f"{self.where}: {method}{tried}: {words}"
        status = failed.status
        if status == 401 or (status == 403 and method in _READING):
            return InvalidInputError(f"{told}: the server takes another key; give it as api_key=, or as QDRANT_API_KEY")
        if status == 403:
            return ReadOnlyError(f"{told}: this key may not write")
        if status == 404:
            return NotFoundError(told)
        if status is not None and status < 500 and not failed.again:
            return InvalidInputError(told)
        reached = "" if self._reached else "; is the address right, and does the server run?"
        full = "no space left" in words.lower() or "out of disk" in words.lower()
        written = "" if method in _READING else "; of a write parts may be stored: make the call again"
        return ServerError(errno.ENOSPC if full else errno.EIO, f"{told}{reached}{written}")

    def without_key(self, text: str) -> str:
        """A text in which the key does not occur."""
        return text.replace(self._key, "***") if self._key else text

    def close(self) -> None:
        """Close the client, if it was made here."""
        if not self.closed:
            self.closed = True
            if self._owned:
                self.client.close()


def _failed(error: Exception) -> _Failed:
    """What an error of qdrant-client, httpx or gRPC says."""
    status = getattr(error, "status_code", None)
    if isinstance(status, int):  # UnexpectedResponse
        words = _words(getattr(error, "content", b"")) or getattr(error, "reason_phrase", "") or str(status)
        again = status in _AGAIN and not _lasts(words)
        return _Failed(status, f"{words} ({status})", again)
    after = getattr(error, "retry_after_s", None)
    if after is not None:  # ResourceExhaustedResponse
        return _Failed(429, str(error), not _lasts(str(error)), float(after))
    code = getattr(error, "code", None)
    if callable(code):  # grpc.RpcError
        name = getattr(code(), "name", str(code()))
        details = getattr(error, "details", None)
        words = str(details()) if callable(details) else str(error)
        again = name in _AGAIN_GRPC and not _lasts(words)
        reached = _HTTP_OF_GRPC.get(name, None if name == "UNAVAILABLE" else 500)
        return _Failed(reached, f"{words} ({name})", again)
    source = getattr(error, "source", None)
    if source is not None:  # ResponseHandlingException: no connection, no answer in time, or none that can be read
        words = f"{type(source).__name__}: {source}"
        return _Failed(None, words, not isinstance(source, ValueError))
    words = str(error) or type(error).__name__
    missing = isinstance(error, ValueError) and words.startswith("Collection ") and "not found" in words  # local mode
    if isinstance(error, RuntimeError) and "closed" in words:
        return _Failed(400, "the client is closed", False)
    return _Failed(404 if missing else 400, words, False)


def _lasts(words: str) -> bool:
    """Whether the same call will fail again, whatever its status says."""
    return any(each in words.lower() for each in ("no space left", "larger than rate limiter capacity"))


def _words(content: bytes) -> str:
    """The error in the body of an answer."""
    try:
        told = json.loads(content)
        found = told["status"]["error"] if isinstance(told.get("status"), dict) else told.get("error")
        return str(found)
    except (ValueError, KeyError, TypeError, AttributeError):
        return content[:500].decode(errors="replace").strip()
