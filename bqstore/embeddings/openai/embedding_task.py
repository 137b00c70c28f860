"""One list of texts on its way to vectors: looked up in the cache, packed, requested, stored, put in order.

It is made in the thread of its caller, or in a worker; its requests run on the event loop of `background`.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from queue import SimpleQueue

import numpy as np
import numpy.typing as npt

from ...errors import EmbeddingError
from ..disk_cache import EmbeddingCache, KeyMaker
from ..texts import with_prefix
from .background import background, give_memory_back
from .packing import count_tokens, plan_requests
from .requester import Call, PendingText, Requester

Vectors = npt.NDArray[np.float32]
Report = Callable[[int, int], None]

_LARGE = 1 << 26  # bytes of vectors, behind which giving memory back, some 20 ms, does not count
_KEYS_A_LOOK = 2_000  # looked up at once, so that no more vectors than that are held twice


class EmbeddingTask:
    """The texts of one call, or of one batch of a stream.

    ``prefix`` : of each text, as it is sent

    Raises
    ------
    InvalidInputError   a text cannot be embedded; nothing was sent
    EmbeddingError      a text is known to be too long, and on_too_long is "error"; nothing was sent
    """

    def __init__(
        self,
        requester: Requester,
        cache: EmbeddingCache | None,
        key_of: KeyMaker,
        texts: Sequence[str],
        indices: Sequence[int],
        call: Call,
        prefix: str = "",
    ) -> None:
        self.texts, self.call = texts, call
        self._requester, self._cache, self._key_of, self._indices = requester, cache, key_of, indices
        self._sent, sizes = with_prefix(prefix, texts, indices[0] if indices else 0)
        self._keys = [key_of(text) for text in self._sent]
        self._row_of: dict[bytes, int] = {}
        for row, key in enumerate(self._keys):
            self._row_of.setdefault(key, row)
        self._vectors: Vectors | None = None
        self._has_vector = np.zeros(len(texts), bool)
        self._allocating = threading.Lock()  # of several requests that come back at once, the first allocates
        self.future: Future[None] | None = None
        self._news: SimpleQueue[int] = SimpleQueue()
        self.requests = self._plan(sizes)
        self.done = len(texts) - sum(len(request) for request in self.requests)

    def submit(self) -> "Future[None] | None":
        """Send the requests; the result is set when all are answered or one has failed. None: there are none."""
        if self.requests:
            self.future, news = background().submit(self._run()), self._news
            # not of this task itself: a future keeps its callbacks, and texts and vectors would wait for the collector
            self.future.add_done_callback(lambda _: news.put(0))
        return self.future

    def finish(self, report: Report | None = None) -> Vectors:
        """Wait for all vectors, float32 (n, dim). Raises the error of the first request that failed."""
        total = len(self.texts)
        report = report or (lambda done, total: None)
        report(self.done, total)
        if self.future is not None:
            while n := self._news.get():
                self.done += n
                report(self.done, total)
            self.future.result()
        return self.in_order()

    def cancel(self) -> None:
        """Send nothing more; what is under way is stored when it comes."""
        self.call.cancelled.set()
        if self.future is not None and not self.future.done():
            background().loop.call_soon_threadsafe(self._requester.limiter.wake)

    def settle(self) -> None:
        """Wait until nothing is under way any more."""
        if self.future is not None:
            wait([self.future])

    def whole_batches(self, batch: int) -> Vectors:
        """After `finish` has failed: the vectors of the batches that are complete, float32 (m, dim)."""
        has_vector = [self._has_vector[self._row_of[key]] for key in self._keys]
        return self.in_order()[: int(np.argmin([*has_vector, False])) // batch * batch]

    def in_order(self) -> Vectors:
        """The vectors in the order of the texts, float32 (n, dim)."""
        if self._vectors is None:
            return np.empty((0, self._requester.dim or 0), np.float32)
        if len(self._row_of) < len(self.texts):
            first = [self._row_of[key] for key in self._keys]
            repeated = [row for row, other in enumerate(first) if row != other]
            self._vectors[repeated] = self._vectors[[first[row] for row in repeated]]
        return self._vectors

    def _plan(self, sizes: list[int]) -> list[list[PendingText]]:
        """The requests for what is not in the cache."""
        settings = self._requester.settings
        rows = self._look_up(list(self._row_of.values()))
        if settings.variant is not None:
            rows = self._look_up(rows, settings.variant)
        self._requester.meter.add(cached=len(self._row_of) - len(rows))
        texts = [self._sent[row] for row in rows]
        tokens = count_tokens(texts, [sizes[row] for row in rows], settings.limits, settings.counter)
        pending = [
            PendingText(self._indices[row], row, self._keys[row], text, n)
            for row, text, n in zip(rows, texts, tokens, strict=True)
        ]
        long = [text for text in pending if self._requester.is_too_long(text)]
        if long and settings.on_too_long == "error":
            raise self._requester.too_long(long[0])
        short = [text for text in pending if not self._requester.is_too_long(text)]
        runs = plan_requests([text.tokens for text in short], settings.limits)
        return [[short[i] for i in run] for run in runs] + [[text] for text in long]

    def _look_up(self, rows: list[int], variant: str | None = None) -> list[int]:
        """Fill the rows that are in the cache, of long texts under a ``variant``; returns the others."""
        if self._cache is None:
            return rows
        missing = []
        for start in range(0, len(rows), _KEYS_A_LOOK):
            some = rows[start : start + _KEYS_A_LOOK]
            part = {self._keys[r] if variant is None else self._key_of(self._sent[r], variant): r for r in some}
            found = self._cache.get(list(part))
            if found and self._requester.dim is None:
                self._requester.dim = next(iter(found.values())).size
            found = {key: vector for key, vector in found.items() if vector.size == self._requester.dim}
            if found:
                self._fill([part[key] for key in found], list(found.values()))
            missing += [row for key, row in part.items() if key not in found]
        return missing

    async def _run(self) -> None:
        """Send the requests, as many at once as may be, and raise the first error when nothing is under way."""
        left = iter(self.requests)
        workers = [
            asyncio.ensure_future(self._work(left))
            for _ in range(min(self._requester.settings.max_concurrency, len(self.requests)))
        ]
        try:
            _, others = await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
            self.call.failed = bool(others)
            first = next((error for worker in workers if worker.done() and (error := worker.exception())), None)
            if others:
                self._requester.limiter.wake()
                await asyncio.gather(*others, return_exceptions=True)
        finally:
            for worker in workers:
                if not worker.cancel() and not worker.cancelled():  # it runs no more, unless Python is ending
                    worker.exception()  # seen: asyncio would log it
            if self._vectors is not None and self._vectors.nbytes >= _LARGE:
                with suppress(RuntimeError):  # Python is ending
                    background().workers.submit(give_memory_back)
        if first is not None:
            raise first
        if self.call.cancelled.is_set() and not self._has_vector[list(self._row_of.values())].all():
            raise EmbeddingError("the call was cancelled")

    async def _work(self, left: Iterator[list[PendingText]]) -> None:
        for request in left:
            if self.call.stopped():
                return
            await self._requester.embed(request, self._store, self.call)
            self._news.put(len(request))

    def _store(self, texts: Sequence[PendingText], vectors: Vectors, whole: bool) -> None:
        """Write vectors to the cache before anybody sees them."""
        variant = None if whole else self._requester.settings.variant
        if self._cache is not None:
            keys = [text.key if whole else self._key_of(text.text, variant) for text in texts]
            self._cache.put(keys, vectors)
        self._fill([text.row for text in texts], vectors)
        self._requester.meter.add(texts=len(texts))

    def _fill(self, rows: list[int], vectors: Sequence[Vectors] | Vectors) -> None:
        with self._allocating:
            if self._vectors is None:
                self._vectors = np.empty((len(self.texts), len(vectors[0])), np.float32)
        for row, vector in zip(rows, vectors, strict=True):
            self._vectors[row] = vector
        self._has_vector[rows] = True
