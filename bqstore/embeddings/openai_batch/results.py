"""The vectors of a job as they come: from the cache, or line by line from results. It knows no server and no files."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..disk_cache import EmbeddingCache, KeyMaker
from ..openai.responses import CODE, decode, normalized
from .job import Rows

Vectors = npt.NDArray[np.float32]

_CACHED_AT_ONCE = 2_048


class JobVectors:
    """The vectors of a job's texts, of equal texts only one.

    Attributes
    ----------
    first : list of int         the index, among all texts, of the first of each that are equal
    has_vector : bool (n,)      which of them have a vector
    keys : list of bytes        theirs, in the cache
    """

    def __init__(
        self,
        texts: Sequence[str],
        key_of: KeyMaker,
        native: int | None,
        dimensions: int | None,
        cache: EmbeddingCache | None,
    ) -> None:
        place = dict[bytes, int]()
        self._order = [place.setdefault(key_of(text), len(place)) for text in texts]
        self.keys = list(place)
        self.first: list[int] = np.unique(self._order, return_index=True)[1].tolist()
        self._native, self._dimensions, self._cache = native, dimensions, cache
        self._dim = dimensions or self._native
        self._rows: Vectors | None = None
        self.has_vector = np.zeros(len(place), bool)

    def take_cached(self) -> None:
        """Take what the cache has."""
        if self._cache is None:
            return
        for part in _portions(np.flatnonzero(~self.has_vector).tolist()):
            found = self._cache.get([self.keys[i] for i in part])
            for i in part:
                vector = found.get(self.keys[i])
                if vector is not None and vector.size == (self._dim or vector.size):
                    self._dim = vector.size
                    self._put([i], vector[None])

    def take(self, rows: Rows, answer: dict[str, Any]) -> str:
        """Take the vectors of a line from its answer, but for rows of -1; returns why they cannot be taken, or ""."""
        n = len(rows)
        found = decode(answer.get("data"), n)
        if found is None or found[1]:
            return f"the answer is not {n} finite vectors of one dimension"
        self._dim = self._dim or found[0].shape[1]
        if found[0].shape[1] != self._dim:
            return f"the answer has {found[0].shape[1]} dimensions instead of {self._dim}"
        if self._dimensions not in (None, self._native):
            restored = normalized(found[0])
            if restored is None:
                return "the answer has a vector without a direction, such as zeros"
            found = restored, []
        self._put(rows[rows >= 0], found[0][rows >= 0])
        return ""

    def to_cache(self, places: list[int]) -> None:
        """Write the vectors at these places to the cache."""
        if self._cache is not None and self._rows is not None:
            for part in _portions(places):
                self._cache.put([self.keys[i] for i in part], self._rows[part])

    def lacks(self, rows: Rows) -> bool:
        """Whether one of these texts has no vector."""
        return not self.has_vector[rows].all()

    def hand_over(self) -> Vectors:
        """All vectors, float32 (n, dim), in the order of all texts; they are no longer held here."""
        rows = np.empty((0, self._dim or 0), np.float32) if self._rows is None else self._rows
        self._rows, self.has_vector = None, np.zeros(len(self.keys), bool)
        return rows if len(self._order) == len(rows) else rows[self._order]

    def _put(self, where: Rows | list[int], vectors: Vectors) -> None:
        if self._rows is None:
            self._rows = np.empty((len(self.keys), vectors.shape[1]), np.float32)
        self._rows[where], self.has_vector[where] = vectors, True


def parse(result_line: bytes) -> tuple[str, dict[str, Any], str]:
    """A line of results: the name of its request, the answer, and why there is none, or ""."""
    try:
        result = json.loads(result_line)
        name, response = str(result["custom_id"]), result.get("response") or {}
        status, body = int(response.get("status_code") or 0), response.get("body") or {}
        error = result.get("error") or body.get("error") or {}
        if status == 200 and not error:
            return name, body if isinstance(body, dict) else {}, ""
        return name, {}, (f"HTTP {status}, " if status else "") + code_word(error.get("code"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "", {}, "unreadable"


def code_word(given: object) -> str:
    """A code of the server, or "unknown" for anything else: it could quote a text."""
    return given if isinstance(given, str) and CODE.fullmatch(given) else "unknown"


def _portions(places: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(places), _CACHED_AT_ONCE):
        yield places[start : start + _CACHED_AT_ONCE]
