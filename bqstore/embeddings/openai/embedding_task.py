"""Embeds one list of texts: cache look-up, packing into requests, requests, storing, restoring the order.

A task is created in the caller's thread or in a worker; its requests run on the event loop of `background`.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from ...arguments import shown
from ...errors import EmbeddingError, InvalidInputError
from ..disk_cache import EmbeddingCache, KeyMaker
from ..protocol import Vectors
from ..text_rows import TextRows
from ..texts import check_texts
from .background import background, give_memory_back
from .packing import count_tokens, plan_requests
from .request_parts import RequestParts
from .requester import Requester, Send

Progress = Callable[[int, int], None]

_LARGE = 1 << 26  # bytes of vectors; for so many, the 20 ms of releasing memory are negligible


class Side:
    """How passages, or queries, are sent, and their cache keys."""

    def __init__(
        self, endpoint: str, prefix: str, model: str, dimensions: int | None, extra: Mapping[str, Any]
    ) -> None:
        if not isinstance(prefix, str):
            raise InvalidInputError(f"the prefix of texts is {shown(prefix)}; expected a string")
        asked = {} if dimensions is None else {"dimensions": dimensions}
        self.prefix, self.extra, self.body = prefix, extra, {"model": model, **asked, **extra}
        # without extra fields the keys are those of older versions
        self.key_of = KeyMaker(endpoint, model, dimensions, dict(extra) or None)

    def rows_of(self, texts: Sequence[str], start: int = 0, dim: int | None = None) -> tuple[TextRows, list[int]]:
        """The texts with their prefix, and an upper bound of each one's tokens. Raises as `check_texts`."""
        sizes, more = check_texts(texts, start), len(self.prefix.encode())
        rows = TextRows([self.prefix + text for text in texts], self.key_of, dim)
        return rows, [sizes[at] + more for at in rows.first]


class EmbeddingTask:
    """The texts of one call, or of some batches of a stream, whose tasks share ``cancelled``.

    Requests refer to texts by row: ``texts`` are the distinct texts, ``tokens`` upper bounds of their tokens.
    ``start`` is the index of the first text among all of the caller's. Raises as `OpenAIEmbedder.embed`; nothing was
    sent then.
    """

    def __init__(
        self,
        requester: Requester,
        cache: EmbeddingCache | None,
        side: Side,
        texts: Sequence[str],
        start: int,
        send: Send,
        cancelled: threading.Event,
    ) -> None:
        self.given, self.start, self.send = texts, start, send
        self.cancelled = cancelled
        self._failed: Exception | None = None
        seconds = requester.settings.deadline
        self.until = None if seconds is None else time.monotonic() + seconds
        self._requester, self._cache = requester, cache
        self._rows, self.tokens = side.rows_of(texts, start, requester.dim)
        self.texts = self._rows.texts
        self._news: SimpleQueue[int] = SimpleQueue()
        self.requests = self._plan()
        self.done = len(texts) - sum(len(request) for request in self.requests)
        self.future: Future[None] = Future()  # done until submitted: there is nothing to wait for
        self.future.set_result(None)

    def submit(self) -> "Future[None]":
        """Send the requests; the future is done when all are answered, or one failed and the others have ended."""
        if self.requests:
            self.future = background().submit(self._run())
        news = self._news  # a callback that refers to the task would form a reference cycle, which delays its release
        self.future.add_done_callback(lambda _: news.put(0))
        return self.future

    def finish(self, report: Progress | None = None) -> Vectors:
        """Wait for all vectors and return them, float32 (n, dim). Raises the error of the first failed request."""
        report = report or (lambda done, total: None)
        report(self.done, len(self.given))
        while n := self._news.get():
            self.done += n
            report(self.done, len(self.given))
        self.future.result()
        return self._rows.hand_over()

    def cancel(self) -> None:
        """Send no more requests; answers to those already sent are stored."""
        self.cancelled.set()
        if not self.future.done():
            background().loop.call_soon_threadsafe(self._requester.limiter.wake)

    def stopped(self) -> bool:
        """Whether no more requests are to be sent."""
        return self._failed is not None or self.cancelled.is_set()

    def whole_batches(self, batch: int) -> Vectors:
        """After `finish` has failed: the vectors of the leading complete batches, float32 (m, dim)."""
        complete = self._rows.complete() // batch * batch
        return self._rows.hand_over()[:complete]

    def index_of(self, row: int) -> int:
        """The index of a text among all of the caller's."""
        return self.start + self._rows.first[row]

    def store(self, rows: Sequence[int], vectors: Vectors, whole: bool) -> None:
        """Write vectors, float32 (n, dim), to the cache, then make them available; in a worker if there is a cache.

        ``whole`` : the texts were sent whole, neither truncated nor split
        """
        if self._cache is not None:
            variant = None if whole else self._requester.settings.variant
            self._cache.put([self._rows.key(row, variant) for row in rows], vectors)
        self._rows.put(rows, vectors)
        self._requester.meter.add(texts=len(rows))

    def _plan(self) -> list[list[int]]:
        """The requests for the texts that are not in the cache, as lists of rows."""
        settings, rows, tokens = self._requester.settings, self._rows, self.tokens
        missing = rows.take_cached(self._cache)
        if settings.variant is not None:
            missing = rows.take_cached(self._cache, variant=settings.variant)
        self._requester.dim = self._requester.dim or rows.dim
        self._requester.meter.add(cached=len(rows.keys) - len(missing))
        some, bounds = [self.texts[row] for row in missing], [tokens[row] for row in missing]
        counts = count_tokens(some, bounds, settings.limits, settings.counter)
        for row, count in zip(missing, counts, strict=True):
            tokens[row] = count
        long = [row for row in missing if settings.is_too_long(tokens[row])]
        if long and settings.on_too_long == "error":
            raise settings.too_long(self.index_of(long[0]))
        short = [row for row in missing if not settings.is_too_long(tokens[row])]
        runs = plan_requests([tokens[row] for row in short], settings.limits)
        return [short[run.start : run.stop] for run in runs] + [[row] for row in long]

    async def _run(self) -> None:
        """Send the requests concurrently, and raise the first error after all have ended."""
        left, most = iter(self.requests), min(self._requester.settings.max_concurrency, len(self.requests))
        try:
            await asyncio.gather(*(self._work(left) for _ in range(most)))
        finally:
            if self._rows.vectors is not None and self._rows.vectors.nbytes >= _LARGE:
                with suppress(RuntimeError):  # Python is ending
                    background().workers.submit(give_memory_back)
        if self._failed is not None:
            raise self._failed
        if self.cancelled.is_set() and not self._rows.has_vector.all():
            raise EmbeddingError("the call was cancelled")

    async def _work(self, left: Iterator[list[int]]) -> None:
        for request in left:
            if self.stopped():
                return
            try:
                await RequestParts(self._requester, self).embed_all(request)
            except Exception as error:
                self._failed = self._failed or error
                self._requester.limiter.wake()  # wake waiting requests, which stop now
                return
            self._news.put(len(request))


def stop(tasks: Collection[EmbeddingTask], error: BaseException) -> None:
    """Send no more requests, and wait until running ones are stored; after Ctrl-C, wait in a thread instead."""
    for task in tasks:
        task.cancel()
    left = [task.future for task in tasks if not task.future.done()]
    if isinstance(error, Exception):
        wait(left)
    elif left:
        threading.Thread(target=wait, args=(left,), name="bqstore-embedding-rest").start()
