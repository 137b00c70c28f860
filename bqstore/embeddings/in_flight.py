"""Which texts are being requested just now, in all threads of this process, so that equal ones are requested once.

A call claims the keys of the texts it needs. It does not request a key that another call has claimed, but waits for
it; if the other call releases the key without a vector, the waiting one requests the text itself and gets its own
error. No call waits for another's claim before its own requests are sent, so no two can wait for each other.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable
from math import inf

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]

_LOOK_AGAIN = 0.5  # seconds: nobody wakes a call that waits here when it is stopped


class InFlight:
    """The claims of one process, or of one embedder.

    One condition guards all of them: a Future for each key costs twice the time of its look-up in the cache.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all claims, without waiting for the lock: a forked child has none of the threads that hold it."""
        self.lock = threading.RLock()  # taken by ``with``: Ctrl-C comes between taking and giving back of a Condition
        self.changed = threading.Condition(self.lock)
        self.claims: dict[bytes, Claim] = {}


class Claim:
    """The keys that one call has claimed in a table; its threads may use it at the same time."""

    def __init__(self, table: InFlight) -> None:
        self._table = table
        self.open: set[bytes] = set()
        self._awaited: set[bytes] = set()  # by other calls; only their vectors are kept here
        self._vectors: dict[bytes, tuple[Vector, str | None]] = {}

    def take(self, keys: Iterable[bytes]) -> "dict[bytes, Claim]":
        """Claim the keys that are free; returns the claims of other calls on the rest."""
        others = {}
        with self._table.lock:
            for key in keys:
                self.open.add(key)  # first, for `release` to find it: Ctrl-C may come between any two steps
                other = self._table.claims.setdefault(key, self)
                if other is not self:
                    self.open.discard(key)
                    other._awaited.add(key)
                    others[key] = other
        return others

    def resolve(self, keys: Iterable[bytes], vectors: Iterable[Vector], variant: str | None = None) -> None:
        """Hand the vectors of some keys to whoever waits; ``variant`` as in `KeyMaker`."""
        with self._table.lock:
            for key, vector in zip(keys, vectors, strict=True):
                if key in self._awaited:
                    self._vectors[key] = vector.copy(), variant
                self._remove(key)
            self._table.changed.notify_all()

    def release(self) -> None:
        """Free the keys that have no vector yet."""
        with self._table.lock:
            for key in list(self.open):
                self._remove(key)
            self._table.changed.notify_all()

    def await_vector(
        self,
        key: bytes,
        variant: str | None = None,
        until: float = inf,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Vector | None:
        """The vector of a key that another call awaits; None if it was released, or its text shortened otherwise.

        Waits until ``until``, a time of `time.monotonic`, or until ``stopped()``.
        """
        with self._table.lock:
            while key in self.open and not stopped() and (left := until - time.monotonic()) > 0:
                self._table.changed.wait(min(_LOOK_AGAIN, left))
        vector, made = self._vectors.get(key, (None, None))
        return vector if made in (None, variant) else None

    def _remove(self, key: bytes) -> None:
        if self._table.claims.get(key) is self:
            del self._table.claims[key]
        self.open.discard(key)


TABLE = InFlight()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=TABLE.reset)
