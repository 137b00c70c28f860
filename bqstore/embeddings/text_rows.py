"""The vectors of some texts as they come, from the cache or a model: of equal texts only one. It knows no model."""

import threading
from collections.abc import Iterator, Sequence

import numpy as np

from .disk_cache import EmbeddingCache, KeyMaker
from .protocol import Vectors

_AT_ONCE = 2_000  # looked up, stored or copied at once, so that no more vectors than that are held twice


class TextRows:
    """The different texts among some, and a row for the vector of each; threads may put vectors at the same time.

    Attributes
    ----------
    texts : list of str         in the order in which they come first
    first : list of int         the index of each among all texts
    keys : list of bytes        of each, in the cache
    has_vector : bool (m,)      which of them have one
    vectors : float32 or None   (n, dim), as many rows as there are texts; None before the first comes
    dim : int or None           of the vectors, if it is known; those of another are not taken from a cache
    """

    def __init__(self, texts: Sequence[str], key_of: KeyMaker, dim: int | None = None) -> None:
        row_of: dict[bytes, int] = {}
        self._rows = np.array([row_of.setdefault(key_of(text), len(row_of)) for text in texts], np.int64)
        self.first: list[int] = np.unique(self._rows, return_index=True)[1].tolist()
        self.texts, self.keys = [texts[at] for at in self.first], list(row_of)
        self.has_vector = np.zeros(len(row_of), bool)
        self.vectors: Vectors | None = None
        self.dim, self._key_of = dim, key_of
        self._allocating = threading.Lock()  # of several that come at once, the first allocates

    def lacking(self) -> list[int]:
        """The rows without a vector."""
        return np.flatnonzero(~self.has_vector).tolist()

    def take_cached(
        self, cache: EmbeddingCache | None, rows: Sequence[int] | None = None, variant: str | None = None
    ) -> Sequence[int]:
        """Take the vectors that a cache has of these rows, or all that lack one; returns the rows that it lacks.

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
        """How many texts from the first on have a vector."""
        return int(np.argmin([*self.has_vector[self._rows], False]))

    def hand_over(self) -> Vectors:
        """The vectors of all texts, float32 (n, dim), in their order; they are no longer held here."""
        vectors, self.vectors = self.vectors, None
        self.has_vector = np.zeros(len(self.keys), bool)
        if vectors is None:
            return np.empty((0, self.dim or 0), np.float32)
        if len(self.keys) < len(vectors):  # from the end: a row is read before another is written over it
            for stop in range(len(vectors), 0, -_AT_ONCE):
                part = slice(max(0, stop - _AT_ONCE), stop)
                vectors[part] = vectors[self._rows[part]]
        return vectors


def portions(rows: Sequence[int], size: int = _AT_ONCE) -> Iterator[list[int]]:
    """Rows, so many at a time."""
    for start in range(0, len(rows), size):
        yield list(rows[start : start + size])
