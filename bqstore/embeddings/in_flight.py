"""Which texts are being asked for just now, in all threads of this process: equal ones are asked for once.

Whoever needs a text claims it. A text that another has claimed is not asked for but waited for; if the other gave up,
the waiting one asks for it itself, and gets its own error. A claim is never waited for while one's own requests
are still unsent, so no two can wait for each other.
"""

import os
import threading
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]


class Claim:
    """The keys that one call has taken upon itself."""

    def __init__(self, table: "InFlight") -> None:
        self._table = table
        self.open: set[bytes] = set()
        self.wanted: set[bytes] = set()  # by others; only their vectors are kept here
        self._came: dict[bytes, tuple[Vector, str | None]] = {}

    def take(self, keys: Iterable[bytes]) -> "dict[bytes, Claim]":
        """Take what nobody has; the claims of others on the rest. `give_up` gives back what was taken, whenever."""
        others = {}
        with self._table.changed:
            for key in keys:
                self.open.add(key)  # first: Ctrl-C may come between any two of these steps
                other = self._table.claims.setdefault(key, self)
                if other is not self:
                    self.open.discard(key)
                    other.wanted.add(key)
                    others[key] = other
        return others

    def settle(self, keys: Iterable[bytes], vectors: Sequence[Vector] | Vector, how: str | None = None) -> None:
        """The vectors of some keys are there; ``how`` names what was done to the texts, if anything was."""
        with self._table.changed:
            for key, vector in zip(keys, vectors, strict=True):
                if key in self.wanted:
                    self._came[key] = vector.copy(), how
                self._table.drop(key, self)
            self._table.changed.notify_all()

    def give_up(self) -> None:
        """What is still open, others may ask for."""
        with self._table.changed:
            for key in list(self.open):
                self._table.drop(key, self)
            self._table.changed.notify_all()

    def wait(self, key: bytes, until: float | None, stopped: Callable[[], bool], now: Callable[[], float]) -> bool:
        """Wait until a key is settled or given up; False if ``until``, a time of ``now``, or ``stopped`` came first."""
        with self._table.changed:
            while key in self.open:
                left = None if until is None else until - now()
                if stopped() or (left is not None and left <= 0):
                    return False
                self._table.changed.wait(0.5 if left is None else min(0.5, left))
        return True

    def get(self, key: bytes, how: str | None = None) -> Vector | None:
        """The vector of a key that was waited for; None if it was given up, or the text cut in another way."""
        vector, done = self._came.get(key, (None, None))
        return vector if done in (None, how) else None


class InFlight:
    """The table of claims."""

    def __init__(self) -> None:
        self.begin_anew()

    def begin_anew(self) -> None:
        """Without claims, and without waiting for whoever holds the lock: in a fork nobody does any more."""
        self.changed = threading.Condition()
        self.claims: dict[bytes, Claim] = {}

    def drop(self, key: bytes, claim: Claim) -> None:
        """Take a key out; the caller holds ``changed``."""
        claim.open.discard(key)
        if self.claims.get(key) is claim:
            del self.claims[key]


TABLE = InFlight()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=TABLE.begin_anew)
