"""The ids of all ordinals in memory, so that searches report ids without reading documents.

The arrays are append-only: an older state reads its first n ids while newer ones are appended.
"""

import codecs
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PIECE = 1 << 20  # bytes decoded at a time
_DECODED = 1 << 16  # ids kept as strings, some 6 MB


def room(array: NDArray[Any], n: int, end: int) -> NDArray[Any]:
    """The array, or a copy of its first n with room for ``end``."""
    if end <= len(array):
        return array
    grown = np.empty(max(end, n + n // 2, 64), array.dtype)
    grown[:n] = array[:n]
    return grown


def check_text(data: NDArray[np.uint8], starts: NDArray[np.int64], what: str) -> None:
    """Raise ValueError unless bytes are UTF-8, and each piece starts (so the one before it ends) between characters."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    for at in range(0, len(data), _PIECE):
        decoder.decode(data[at : at + _PIECE].tobytes())
    decoder.decode(b"", final=True)
    inside = starts[starts < len(data)]
    if (data[inside] & 0xC0 == 0x80).any():
        raise ValueError(f"{what} are cut inside of a character")


class Ids:
    """The ids of all ordinals in one array of bytes; those of deleted rows are empty."""

    def __init__(self) -> None:
        self.n = 0
        self._decoded: dict[int, str | None] = {-1: None}  # a cache: what was asked for is asked for again
        self._bytes = np.empty(64, np.uint8)
        self._ends = np.zeros(1, np.int64)

    def extended(self, ids: Sequence[str]) -> "Ids":
        """These ids, and more appended."""
        encoded = [id_.encode() for id_ in ids]
        new, start = Ids(), int(self._ends[self.n])
        new.n, new._decoded = self.n + len(ids), self._decoded
        new._ends = room(self._ends, self.n + 1, new.n + 1)
        np.cumsum([len(e) for e in encoded], out=new._ends[self.n + 1 : new.n + 1])
        new._ends[self.n + 1 : new.n + 1] += start
        end = int(new._ends[new.n])
        new._bytes = room(self._bytes, start, end)
        new._bytes[start:end] = np.frombuffer(b"".join(encoded), np.uint8)
        return new

    @classmethod
    def restored(cls, data: NDArray[np.uint8], ends: NDArray[np.int64], n: int) -> "Ids":
        """The ids from the arrays of `parts`, which are kept, not copied. Raises ValueError if they do not fit."""
        if data.dtype != np.uint8 or ends.dtype != np.int64 or data.ndim != 1 or ends.shape != (n + 1,):
            raise ValueError(f"the ids are {data.dtype} {data.shape} and {ends.dtype} {ends.shape}")
        if ends[0] != 0 or ends[n] != len(data) or (ends[1:] < ends[:-1]).any():
            raise ValueError("the ids overlap")
        check_text(data, ends[:-1], "the ids")
        new = cls()
        new.n, new._bytes, new._ends = n, data, ends
        return new

    def parts(self, n: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The bytes of the first n ids, uint8, and their ends, int64 (n + 1,), the first of which is 0."""
        return self._bytes[: int(self._ends[n])], self._ends[: n + 1]

    def take(self, ordinals: NDArray[np.int32]) -> NDArray[np.object_]:
        """Object array of str in the shape of the ordinals, (n,) or (m, n); None where one is -1."""
        decoded = self._decoded
        try:
            texts = map(decoded.__getitem__, ordinals.ravel().tolist())
            return np.fromiter(texts, object, ordinals.size).reshape(ordinals.shape)
        except KeyError:
            pass
        out = np.empty(ordinals.shape, object)
        rows, lists = (out[None], ordinals[None]) if ordinals.ndim == 1 else (out, ordinals)
        for row, wanted in zip(rows, lists.tolist(), strict=True):
            try:
                row[:] = [decoded[ordinal] for ordinal in wanted]
            except KeyError:
                row[:] = self._texts(wanted)
        return out

    def _texts(self, wanted: list[int]) -> list[str | None]:
        """The ids of ordinals, None for -1, read from the bytes, as another thread may empty the cache."""
        there = [ordinal for ordinal in wanted if ordinal >= 0]
        places, data = np.array(there, np.int64), self._bytes.data
        pieces = zip(there, self._ends[places].tolist(), self._ends[places + 1].tolist(), strict=True)
        texts: dict[int, str | None] = {ordinal: str(data[start:end], "utf-8") for ordinal, start, end in pieces}
        if len(self._decoded) > _DECODED:
            self._decoded.clear()
            self._decoded[-1] = None
        self._decoded.update(texts)
        return [texts.get(ordinal) for ordinal in wanted]
