"""One list of texts on its way to vectors: claimed, looked up in the cache, packed, requested, stored, put in order.

It has no threads of its own: whoever has a pool submits the requests to it.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, Future, as_completed
from math import inf

import numpy as np
import numpy.typing as npt

from ..disk_cache import EmbeddingCache, KeyMaker
from ..in_flight import TABLE, Claim
from ..texts import check_texts
from .packing import count_tokens, plan_requests
from .requester import Call, PendingText, Requester

Vectors = npt.NDArray[np.float32]
Report = Callable[[int, int], None]

_KEYS_A_LOOK = 2_000  # looked up at once, so that no more vectors than that are held twice


class EmbeddingTask:
    """The texts of one call, or of one batch of a stream. `close` must be called in the end, whatever happens.

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
    ) -> None:
        self._claim = Claim(TABLE)
        self.texts = texts
        self._requester, self._cache, self._key_of, self._indices, self._call = requester, cache, key_of, indices, call
        sizes = check_texts(texts, indices[0] if indices else 0)
        self._keys = [key_of(text) for text in texts]
        self._row_of: dict[bytes, int] = {}
        for row, key in enumerate(self._keys):
            self._row_of.setdefault(key, row)
        self._vectors: Vectors | None = None
        self._has_vector = np.zeros(len(texts), bool)
        self._allocating = threading.Lock()  # of several requests that come back at once, the first allocates
        self._futures: list[Future[int]] = []
        try:
            self._others = self._claim.take(self._row_of)
            self.requests = self._plan(sizes)
        except BaseException:
            self._claim.release()
            raise
        waiting = sum(len(request) for request in self.requests) + len(self._others)
        self.done = len(texts) - waiting

    def __del__(self) -> None:
        self.close()  # Ctrl-C may come before anybody holds it, to close it

    def close(self) -> None:
        """Release the claims on texts that have no vector."""
        self._claim.release()

    def submit(self, pool: Executor) -> None:
        """Submit the requests to a pool."""
        self._futures = [pool.submit(self._request, request) for request in self.requests]

    def finish(self, report: Report | None = None) -> Vectors:
        """Wait for all vectors, float32 (n, dim). Raises the error of the first request that failed."""
        total = len(self.texts)
        report = report or (lambda done, total: None)
        report(self.done, total)
        answered: Iterable[int]
        if self._futures:
            answered = (future.result() for future in as_completed(self._futures))
        else:  # no pool: a query, say; Ctrl-C interrupts the request itself
            answered = (self._request(request) for request in self.requests)
        for n in answered:
            self.done += n
            report(self.done, total)
        self._await_others()
        if self._others:
            report(total, total)
        return self._in_order()

    def whole_batches(self, batch: int) -> Vectors:
        """After `finish` has failed: the vectors of the batches that are complete, float32 (m, dim)."""
        has_vector = [self._has_vector[self._row_of[key]] for key in self._keys]
        return self._in_order()[: int(np.argmin([*has_vector, False])) // batch * batch]

    def _in_order(self) -> Vectors:
        if self._vectors is None:
            return np.empty((0, self._requester.dim or 0), np.float32)
        if len(self._row_of) < len(self.texts):
            first = [self._row_of[key] for key in self._keys]
            repeated = [row for row, other in enumerate(first) if row != other]
            self._vectors[repeated] = self._vectors[[first[row] for row in repeated]]
        return self._vectors

    def _plan(self, sizes: list[int]) -> list[list[PendingText]]:
        """The requests for what is neither in the cache nor claimed by others."""
        settings = self._requester.settings
        rows = self._look_up([row for key, row in self._row_of.items() if key in self._claim.open])
        if settings.variant is not None:
            rows = self._look_up(rows, settings.variant)
        self._requester.meter.add(cached=len(self._row_of) - len(self._others) - len(rows))
        texts = [self.texts[row] for row in rows]
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
            part = {self._keys[r] if variant is None else self._key_of(self.texts[r], variant): r for r in some}
            found = self._cache.get(list(part))
            if found and self._requester.dim is None:
                self._requester.dim = next(iter(found.values())).size
            found = {key: vector for key, vector in found.items() if vector.size == self._requester.dim}
            for key, vector in found.items():
                self._fill([part[key]], vector[None, :])
            self._claim.resolve((self._keys[part[key]] for key in found), found.values(), variant)
            missing += [row for key, row in part.items() if key not in found]
        return missing

    def _request(self, request: list[PendingText]) -> int:
        if not self._call.cancelled.is_set():
            self._requester.embed(request, self._store, self._call)
        return len(request)

    def _store(self, texts: Sequence[PendingText], vectors: Vectors, whole: bool) -> None:
        """Write vectors to the cache before anybody sees them."""
        variant = None if whole else self._requester.settings.variant
        if self._cache is not None:
            keys = [text.key if whole else self._key_of(text.text, variant) for text in texts]
            self._cache.put(keys, vectors)
        self._fill([text.row for text in texts], vectors)
        self._claim.resolve([text.key for text in texts], vectors, variant)
        self._requester.meter.add(texts=len(texts))

    def _fill(self, rows: list[int], vectors: Vectors) -> None:
        with self._allocating:
            if self._vectors is None:
                self._vectors = np.empty((len(self.texts), vectors.shape[1]), np.float32)
        self._vectors[rows] = vectors
        self._has_vector[rows] = True

    def _await_others(self) -> None:
        """Take the vectors that other calls requested; request here what they released without one."""
        left: list[int] = []
        variant, until, stopped = self._requester.settings.variant, self._call.until or inf, self._call.cancelled.is_set
        for key, other in self._others.items():
            vector = other.await_vector(key, variant, until, stopped)
            if vector is not None and vector.size == (self._requester.dim or vector.size):
                self._fill([self._row_of[key]], vector[None, :])
                self._requester.meter.add(cached=1)
            else:
                left.append(self._row_of[key])
        if left:
            indices = [self._indices[row] for row in left]
            texts = [self.texts[row] for row in left]
            again = EmbeddingTask(self._requester, self._cache, self._key_of, texts, indices, self._call)
            try:
                self._fill(left, again.finish())
            finally:
                again.close()
