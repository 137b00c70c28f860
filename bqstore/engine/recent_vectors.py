"""Some of the vectors that this process has added and not linked yet, where no originals are kept.

Walks are tried with them (`index/trial_walks.py`). They are kept in memory only, and bounded: such a collection stores
no originals, so they must never be written.
For the thread that holds the writer's lock.
"""

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

MOST = 2048  # vectors held of each add, and about of all; of 1,024, too few were left for the last trial


def some_of(start: int, stop: int) -> I64:
    """The slots from ``start`` to ``stop`` whose vectors are held, int64 (at most `MOST`,), ascending."""
    n = stop - start
    some = np.arange(n) if n <= MOST else np.sort(np.random.default_rng(start).choice(n, MOST, replace=False))
    return start + some


class RecentVectors:
    """Vectors by slot, of one generation."""

    def __init__(self) -> None:
        self._generation, self._slots = -1, np.zeros(0, np.int64)
        self._parts: list[F32] = []  # in the order of the slots

    def take(self, vectors: F32, start: int, generation: int) -> None:
        """Hold some of what has come to the slots from ``start`` on, float32 (n, dim); copied."""
        slots = some_of(start, start + len(vectors))
        self.hold(vectors[slots - start], slots, generation)

    def hold(self, vectors: F32, slots: I64, generation: int) -> None:
        """Hold the vectors of slots that come after those held already, float32 (m, dim) and int64 (m,)."""
        if generation != self._generation:
            self._generation = generation
            self._slots, self._parts = self._slots[:0], []
        self._slots = np.concatenate([self._slots, slots])
        self._parts.append(vectors)
        if len(self._slots) > 2 * MOST:  # many adds wait for the kernels
            self._slots, self._parts = self._slots[::2].copy(), [np.concatenate(self._parts)[::2].copy()]

    def forget(self, linked: int) -> None:
        """Let go of what is linked, the slots before ``linked``."""
        while self._parts and (last := int(self._slots[len(self._parts[0]) - 1])) < linked:
            self._slots = self._slots[self._slots > last]
            self._parts.pop(0)

    def slots(self, generation: int) -> I64:
        """The slots whose vectors are held, int64 (m,) ascending."""
        return self._slots if generation == self._generation else self._slots[:0]

    def read(self, slots: I64) -> F32:
        """The vectors of slots that are held, float32 (m, dim)."""
        return np.concatenate(self._parts)[np.searchsorted(self._slots, slots)]
