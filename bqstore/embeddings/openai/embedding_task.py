"""One list of texts on its way to vectors: claimed, looked up, planned, asked for, kept, put in order.

It knows no threads of its own: whoever has a pool submits the requests to it.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, Future, as_completed
from time import monotonic

import numpy as np
import numpy.typing as npt

from ..cache import EmbeddingCache, KeyMaker
from ..in_flight import TABLE, Claim
from .packing import check_texts, measure, plan_requests
from .requester import Asker, Call, Item

Vectors = npt.NDArray[np.float32]
Report = Callable[[int, int], None]

_KEYS_A_LOOK = 2_000  # so that vectors are not held twice


class Work:
    """The texts of one call, or of one batch of a stream. Call `close` in the end, whatever happens.

    Raises
    ------
    InvalidInputError   a text cannot be embedded; nothing was sent
    EmbeddingError      a text is known to be too long, and on_too_long is "error"; nothing was sent
    """

    def __init__(
        self,
        asker: Asker,
        cache: EmbeddingCache | None,
        key_of: KeyMaker,
        texts: Sequence[str],
        indices: Sequence[int],
        call: Call,
    ) -> None:
        self._claim = Claim(TABLE)
        self.texts = texts
        self._asker, self._cache, self._key_of, self._indices, self._call = asker, cache, key_of, indices, call
        sizes = check_texts(texts, indices[0] if indices else 0)
        self._keys = [key_of(text) for text in texts]
        self._row_of: dict[bytes, int] = {}
        for row, key in enumerate(self._keys):
            self._row_of.setdefault(key, row)
        self._out: Vectors | None = None
        self._there = np.zeros(len(texts), bool)
        self._making_room = threading.Lock()  # several requests come back at once; the first makes it
        self._futures: list[Future[int]] = []
        try:
            self._others = self._claim.take(self._row_of)
            self.requests = self._plan(sizes)
        except BaseException:
            self._claim.give_up()
            raise
        waiting = sum(len(request) for request in self.requests) + len(self._others)
        self.done = len(texts) - waiting

    def __del__(self) -> None:
        self.close()  # Ctrl-C may come before anybody has it, to close it

    def close(self) -> None:
        """Leave to others what has not come."""
        self._claim.give_up()

    def submit(self, pool: Executor) -> None:
        """Hand the requests to a pool."""
        self._futures = [pool.submit(self._ask, request) for request in self.requests]

    def finish(self, report: Report | None = None) -> Vectors:
        """Wait for all of it: float32 (n, dim). Raises the error of the first request that failed."""
        total = len(self.texts)
        if report is not None:
            report(self.done, total)
        came: Iterable[int]
        if self._futures:
            came = (future.result() for future in as_completed(self._futures))
        else:  # no pool: a query, say; Ctrl-C breaks the request itself off
            came = (self._ask(request) for request in self.requests)
        for n in came:
            self.done += n
            if report is not None:
                report(self.done, total)
        self._from_others()
        if report is not None and self._others:
            report(total, total)
        return self._whole()

    def beginning(self, batch: int) -> Vectors:
        """After `finish` has failed: as many whole batches as came before what did not, float32 (m, dim)."""
        there = np.fromiter((self._there[self._row_of[key]] for key in self._keys), bool, len(self._keys))
        there = np.append(there, False)
        return self._whole()[: int(np.argmin(there)) // batch * batch]

    def _whole(self) -> Vectors:
        if self._out is None:
            return np.empty((0, self._asker.dim or 0), np.float32)
        if len(self._row_of) < len(self.texts):
            first = [self._row_of[key] for key in self._keys]
            twice = [row for row, other in enumerate(first) if row != other]
            self._out[twice] = self._out[[first[row] for row in twice]]
        return self._out

    def _plan(self, sizes: list[int]) -> list[list[Item]]:
        """The requests for what is neither in the cache nor claimed by others."""
        rows = [row for key, row in self._row_of.items() if key in self._claim.open]
        rows = self._look_up(rows)
        settings = self._asker.settings
        if settings.how is not None:
            rows = self._look_up(rows, settings.how)
        self._asker.meter.add(cached=len(self._row_of) - len(self._others) - len(rows))
        texts = [self.texts[row] for row in rows]
        tokens = measure(texts, [sizes[row] for row in rows], settings.limits, settings.counter)
        items = [
            Item(self._indices[row], row, self._keys[row], text, n)
            for row, text, n in zip(rows, texts, tokens, strict=True)
        ]
        long = [item for item in items if self._asker.is_too_long(item)]
        if long and settings.on_too_long == "error":
            raise self._asker.too_long(long[0])
        alone = {item.row for item in long}
        items = [item for item in items if item.row not in alone]
        runs = plan_requests([item.tokens for item in items], settings.limits)
        return [[items[i] for i in run] for run in runs] + [[item] for item in long]

    def _look_up(self, rows: list[int], how: str | None = None) -> list[int]:
        """Fill the rows that are in the cache, as texts that were shortened if ``how`` says so; the rest of them."""
        if self._cache is None:
            return rows
        missing = []
        for start in range(0, len(rows), _KEYS_A_LOOK):
            some = rows[start : start + _KEYS_A_LOOK]
            part = {self._keys[row] if how is None else self._key_of(self.texts[row], how): row for row in some}
            found = self._cache.get(list(part))
            if found and self._asker.dim is None:
                self._asker.dim = next(iter(found.values())).size
            found = {key: vector for key, vector in found.items() if vector.size == self._asker.dim}
            for key, vector in found.items():
                self._fill([part[key]], vector[None, :])
            self._claim.settle([self._keys[part[key]] for key in found], list(found.values()), how)
            missing += [row for key, row in part.items() if key not in found]
        return missing

    def _ask(self, request: list[Item]) -> int:
        if not self._call.over.is_set():
            self._asker.ask(request, self._keep, self._call)
        return len(request)

    def _keep(self, items: Sequence[Item], vectors: Vectors, whole: bool) -> None:
        """What came is written to the cache before anybody sees it."""
        how = None if whole else self._asker.settings.how
        if self._cache is not None:
            keys = [item.key if whole else self._key_of(item.text, how) for item in items]
            self._cache.put(keys, vectors)
        self._fill([item.row for item in items], vectors)
        self._claim.settle([item.key for item in items], vectors, how)
        self._asker.meter.add(texts=len(items))

    def _fill(self, rows: list[int], vectors: Vectors) -> None:
        with self._making_room:
            if self._out is None:
                self._out = np.empty((len(self.texts), vectors.shape[1]), np.float32)
        self._out[rows] = vectors
        self._there[rows] = True

    def _from_others(self) -> None:
        """What other threads asked for; what they gave up is asked for here."""
        left: list[int] = []
        for key, other in self._others.items():
            vector = _waited_for(other, key, self._call, self._asker.settings.how)
            if vector is not None and vector.size == (self._asker.dim or vector.size):
                self._fill([self._row_of[key]], vector[None, :])
                self._asker.meter.add(cached=1)
            else:
                left.append(self._row_of[key])
        if left:
            indices = [self._indices[row] for row in left]
            texts = [self.texts[row] for row in left]
            again = Work(self._asker, self._cache, self._key_of, texts, indices, self._call)
            try:
                self._fill(left, again.finish())
            finally:
                again.close()


def _waited_for(claim: Claim, key: bytes, call: Call, how: str | None) -> Vectors | None:
    claim.wait(key, call.until, call.over.is_set, monotonic)
    return claim.get(key, how)
