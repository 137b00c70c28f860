"""The vectors of a job as they come: from the cache, or line by line from results. It knows no server and no state."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..cache import EmbeddingCache, cache_key
from ..openai.requester import NATIVE_DIM, of_unit_length
from ..openai.responses import decode
from .job import Line

Vectors = npt.NDArray[np.float32]

_CODE = re.compile(r"[a-z_]{1,40}")  # what the API's codes look like; a key or a sentence does not
_CACHED_AT_ONCE = 2_048


class Rows:
    """The vectors of the texts that differ.

    Attributes
    ----------
    first : list of int     the index, among all texts, of each that differs
    have : bool (n,)        which of them are here
    """

    def __init__(
        self, texts: Sequence[str], endpoint: str, model: str, dimensions: int | None, cache: EmbeddingCache | None
    ) -> None:
        place: dict[bytes, int] = {}
        keys = [cache_key(endpoint, model, dimensions, text) for text in texts]
        self._order = [place.setdefault(key, len(place)) for key in keys]
        self._keys = list(place)
        self.first: list[int] = np.unique(self._order, return_index=True)[1].tolist()
        self._native, self._dimensions, self._cache = NATIVE_DIM.get(model), dimensions, cache
        self._dim = dimensions or self._native
        self._rows: Vectors | None = None
        self.have = np.zeros(len(place), bool)

    def take_cached(self) -> None:
        """What the cache has."""
        for part in _portions(np.flatnonzero(~self.have).tolist()):
            found = {} if self._cache is None else self._cache.get([self._keys[i] for i in part])
            for i in part:
                vector = found.get(self._keys[i])
                if vector is not None and vector.size == (self._dim or vector.size):
                    self._dim = vector.size
                    self._put([i], vector[None])

    def take(self, line: Line, answer: dict[str, Any]) -> str:
        """The vectors of a line from its answer; or why they cannot be taken."""
        n = line[1] - line[0]
        vectors = decode(answer.get("data"), n)
        if vectors is None:
            return f"the answer is not {n} finite vectors of one dimension"
        self._dim = self._dim or vectors.shape[1]
        if vectors.shape[1] != self._dim:
            return f"the answer has {vectors.shape[1]} dimensions instead of {self._dim}"
        if self._dimensions not in (None, self._native):
            vectors = of_unit_length(vectors)
            if vectors is None:
                return "the answer has a vector without a direction, such as zeros"
        self._put(slice(*line), vectors)
        return ""

    def to_cache(self, places: list[int]) -> None:
        """Keep what has come at these places."""
        if self._cache is not None and self._rows is not None:
            for part in _portions(places):
                self._cache.put([self._keys[i] for i in part], self._rows[part])

    def lacks(self, line: Line) -> bool:
        """Whether a text of the line has no vector here."""
        return not self.have[slice(*line)].all()

    def hand_over(self) -> Vectors:
        """All, float32 (n, dim), in the order of all texts; they are not held here any longer."""
        rows = np.empty((0, self._dim or 0), np.float32) if self._rows is None else self._rows
        self._rows, self.have = None, np.zeros(len(self._keys), bool)
        return rows if len(self._order) == len(rows) else rows[self._order]

    def _put(self, where: slice | list[int], vectors: Vectors) -> None:
        if self._rows is None:
            self._rows = np.empty((len(self._keys), vectors.shape[1]), np.float32)
        self._rows[where], self.have[where] = vectors, True


def parse(said: bytes) -> tuple[str, dict[str, Any], str]:
    """A line of results: the id we gave it, the answer, and why there is none."""
    try:
        result = json.loads(said)
        name, response = str(result["custom_id"]), result.get("response") or {}
        status, body = int(response.get("status_code") or 0), response.get("body") or {}
        error = result.get("error") or body.get("error") or {}
        if status == 200 and not error:
            return name, body if isinstance(body, dict) else {}, ""
        return name, {}, (f"HTTP {status}, " if status else "") + word(error.get("code"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "", {}, "unreadable"


def word(said: object) -> str:
    """A code of the server, if it is one."""
    return said if isinstance(said, str) and _CODE.fullmatch(said) else "unknown"


def _portions(places: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(places), _CACHED_AT_ONCE):
        yield places[start : start + _CACHED_AT_ONCE]
