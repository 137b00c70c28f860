"""The vectors of a list of texts, filled in as they arrive from the cache or a model; equal texts share one."""

import threading
from collections.abc import Iterator, Sequence

import numpy as np

from .disk_cache import EmbeddingCache, KeyMaker
from .protocol import Vectors

_AT_ONCE = 2_000  # looked up, stored or copied at a time: no more vectors than this are in memory twice


class TextRows:
    """The distinct texts of a list, and a row for the vector of each; threads may fill in vectors concurrently.

    Attributes
    ----------
    texts : list of str         the distinct texts, in order of first occurrence
    first : list of int         index of each one's first occurrence in the list
    keys : list of bytes        cache key of each
    has_vector : bool (m,)      whether each has a vector yet
    vectors : float32 or None   (n, dim), a row for every text of the list; None until the first vector arrives
    dim : int or None           dimension, if known; cached vectors of another dimension are ignored
    """

    def __init__(self, texts: Sequence[str], key_of: KeyMaker, dim: int | None = None) -> None:
        row_of: dict[bytes, int] = {}
        self._rows = np.array([row_of.setdefault(key_of(text), len(row_of)) for text in texts], np.int64)
        self.first: list[int] = np.unique(self._rows, return_index=True)[1].tolist()
        self.texts, self.keys = [texts[at] for at in self.first], list(row_of)
        self.has_vector = np.zeros(len(row_of), bool)
        self.vectors: Vectors | None = None
        self.dim, self._key_of = dim, key_of
        self._allocating = threading.Lock()  # of several concurrent calls, the first allocates

    def lacking(self) -> list[int]:
        """The rows that have no vector yet."""
        return np.flatnonzero(~self.has_vector).tolist()

    def take_cached(
        self, cache: EmbeddingCache | None, rows: Sequence[int] | None = None, variant: str | None = None
    ) -> Sequence[int]:
        """Fill in cached vectors of these rows, by default all without a vector; returns the rows not in the cache.

        ``variant`` : as `KeyMaker` takes it
        """
        rows = self.lacking() if rows is None else rows
        if cache is None:
            return rows
        missing = []
        for part in portions(rows):
            row_of = {self.key(row, variant): row for row in part}
            found = cache.get(list(row_of))
            self.dim = self.dim or next((vector.size for vector in found.values()), None)
            found = {key: vector for key, vector in found.items() if vector.size == self.dim}
            self.put([row_of[key] for key in found], list(found.values()))
            missing += [row for key, row in row_of.items() if key not in found]
        return missing

    def to_cache(self, cache: EmbeddingCache | None, rows: Sequence[int]) -> None:
        """Write the vectors of these rows to a cache."""
        if cache is not None and self.vectors is not None:
            for part in portions(rows):
                cache.put([self.keys[row] for row in part], self.vectors[part])

    def key(self, row: int, variant: str | None = None) -> bytes:
        """The key of a row in the cache."""
        return self.keys[row] if variant is None else self._key_of(self.texts[row], variant)

    def put(self, rows: Sequence[int], vectors: Sequence[Vectors] | Vectors) -> None:
        """Fill in the vectors of these rows."""
        if len(rows):
            with self._allocating:
                if self.vectors is None:
                    self.dim = len(vectors[0])
                    self.vectors = np.empty((len(self._rows), self.dim), np.float32)
            for row, vector in zip(rows, vectors, strict=True):
                self.vectors[row] = vector
            self.has_vector[rows] = True

    def complete(self) -> int:
        """The number of leading texts that all have a vector."""
        return int(np.argmin([*self.has_vector[self._rows], False]))

    def hand_over(self) -> Vectors:
        """The vectors of all texts, float32 (n, dim), in order; this object releases them."""
        vectors, self.vectors = self.vectors, None
        self.has_vector = np.zeros(len(self.keys), bool)
        if vectors is None:
            return np.empty((0, self.dim or 0), np.float32)
        if len(self.keys) < len(vectors):  # from the end, so that each row is read before it is overwritten
            for stop in range(len(vectors), 0, -_AT_ONCE):
                part = slice(max(0, stop - _AT_ONCE), stop)
                vectors[part] = vectors[self._rows[part]]
        return vectors


def portions(rows: Sequence[int], size: int = _AT_ONCE) -> Iterator[list[int]]:
    """The rows in lists of at most ``size``."""
    for start in range(0, len(rows), size):
        yield list(rows[start : start + size])
