"""The ids of all ordinals, which searches look up without reading documents. Floor 3: knows ordinals, no SQL.

They only grow: an older state goes on reading the part it knows while newer ones are appended behind it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_KNOWN = 1 << 16  # ids kept as strings, some 6 MB


def room(array: NDArray[Any], n: int, end: int) -> NDArray[Any]:
    """The array, or a copy of its first n with room for ``end``."""
    if end <= len(array):
        return array
    grown = np.empty(max(end, n + n // 2, 64), array.dtype)
    grown[:n] = array[:n]
    return grown


class Ids:
    """The ids of all ordinals, as one run of bytes; those of dead rows are empty."""

    def __init__(self) -> None:
        self.n = 0
        self._known: dict[int, str | None] = {-1: None}  # some that were asked for before, most of which will be again
        self._bytes = np.empty(64, np.uint8)
        self._ends = np.zeros(1, np.int64)

    def extended(self, ids: Sequence[str]) -> "Ids":
        """These and, behind them, more."""
        encoded = [id_.encode() for id_ in ids]
        new, start = Ids(), int(self._ends[self.n])
        new.n, new._known = self.n + len(ids), self._known
        new._ends = room(self._ends, self.n + 1, new.n + 1)
        np.cumsum([len(e) for e in encoded], out=new._ends[self.n + 1 : new.n + 1])
        new._ends[self.n + 1 : new.n + 1] += start
        end = int(new._ends[new.n])
        new._bytes = room(self._bytes, start, end)
        new._bytes[start:end] = np.frombuffer(b"".join(encoded), np.uint8)
        return new

    @classmethod
    def restored(cls, data: NDArray[np.uint8], ends: NDArray[np.int64], n: int) -> "Ids":
        """Those that `parts` gave; the arrays are kept, not copied. Raises ValueError if they do not fit."""
        if data.dtype != np.uint8 or ends.dtype != np.int64 or data.ndim != 1 or ends.shape != (n + 1,):
            raise ValueError(f"the ids are {data.dtype} {data.shape} and {ends.dtype} {ends.shape}")
        if ends[0] != 0 or ends[n] != len(data) or (ends[1:] < ends[:-1]).any():
            raise ValueError("the ids overlap")
        new = cls()
        new.n, new._bytes, new._ends = n, data, ends
        return new

    def parts(self, n: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The bytes of the first n ids, and where each begins, and the last ends."""
        return self._bytes[: int(self._ends[n])], self._ends[: n + 1]

    def take(self, ordinals: NDArray[np.int32]) -> NDArray[np.object_]:
        """Object array of str in the shape of the ordinals; None where one is -1."""
        known, out = self._known, np.empty(ordinals.shape, object)
        rows = ordinals[None] if ordinals.ndim == 1 else ordinals
        for line, wanted in zip(out[None] if ordinals.ndim == 1 else out, rows.tolist(), strict=True):
            try:
                line[:] = [known[ordinal] for ordinal in wanted]
            except KeyError:
                line[:] = [self._text(ordinal) for ordinal in wanted]
        return out

    def _text(self, ordinal: int) -> str | None:
        text = self._known.get(ordinal)
        if text is None and ordinal >= 0:
            start, end = self._ends.data[ordinal : ordinal + 2]
            text = str(self._bytes.data[start:end], "utf-8")
            if len(self._known) > _KNOWN:
                self._known.clear()
                self._known[-1] = None
            self._known[ordinal] = text
        return text
