"""What searches look up without reading documents: the ids, and the metadata fields that filters have named.

Columns only grow: an older state goes on reading the part it knows while newer rows are appended behind it. A row
changed in place gets a copy of the column. Knows ordinals and values, no SQL.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .filters import Among, Mask, Token, token

MISSING = -1
_KNOWN = 1 << 16  # ids kept as strings, some 6 MB
ABSENT = object()


def field_of(metadata: dict[str, Any], key: str) -> object:
    """The value of the exact top-level key, else of the dotted path; a private object if there is none."""
    if key in metadata:
        return metadata[key]
    value: Any = metadata
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            return ABSENT
        value = value[part]
    return value


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


class Column:
    """One metadata field of all ordinals, dictionary-encoded by whole value.

    A condition is answered once per distinct value and spread over the ordinals by one look-up each.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self.n = 0
        self._codes = np.empty(64, np.int32)
        self._next = [0]  # the next code; never given twice, not even when an interrupt leaves one half entered
        self._whole: dict[Token, int] = {}  # value -> its code
        self._holding: dict[Token, list[int]] = {}  # scalar -> codes of the values that are it or have it in their list

    def _code(self, value: object) -> int:
        if value is ABSENT:
            return MISSING
        return self._enter(token(value))

    def _enter(self, whole: Token) -> int:
        code = self._whole.get(whole)
        if code is None:
            code = self._next[0]
            self._next[0] = code + 1
            for member in {whole, *(whole[1] if whole[0] == "list" else ())}:
                self._holding.setdefault(member, []).append(code)
            self._whole[whole] = code
        return code

    def extended(self, values: Iterable[object]) -> "Column":
        """This and, behind it, more values."""
        codes = np.fromiter((self._code(v) for v in values), np.int32)
        new = self._twin(self.n + len(codes))
        new._codes = room(self._codes, self.n, new.n)
        new._codes[self.n : new.n] = codes
        return new

    def replaced(self, ordinals: Sequence[int], values: Iterable[object]) -> "Column":
        """A copy with other values at some ordinals."""
        new = self._twin(self.n)
        new._codes = self._codes[: self.n].copy()
        new._codes[list(ordinals)] = [self._code(v) for v in values]
        return new._compacted() if self._next[0] > 2 * self.n + 1000 else new

    def _compacted(self) -> "Column":
        """The same with the values that still occur: a field that changes all the time must not keep them all."""
        new, codes = Column(self.key), self._codes[: self.n]
        new.n = self.n
        values = {code: whole for whole, code in self._whole.items()}
        used = np.unique(codes)
        table = np.full(self._next[0] + 1, MISSING, np.int32)  # the last entry answers for MISSING
        for code in used[used >= 0].tolist():
            table[code] = new._enter(values[code])
        new._codes = table[codes]
        return new

    def _twin(self, n: int) -> "Column":
        new = Column(self.key)
        new.n, new._next, new._whole, new._holding = n, self._next, self._whole, self._holding  # these only grow
        return new

    def mask(self, condition: Among) -> Mask:
        """bool (n,): where the condition holds."""
        wanted: set[int] = set()
        for operand in condition.operands:
            if condition.whole:
                wanted.update([self._whole[operand]] if operand in self._whole else [])
            else:
                wanted.update(self._holding.get(operand, ()))
        codes = self._codes[: self.n]
        if len(wanted) <= 1:
            return np.asarray(codes == (wanted.pop() if wanted else MISSING - 1))
        # the last entry answers for MISSING; a writer may be adding codes past those of this state
        table = np.zeros(self._next[0] + 1, bool)
        table[list(wanted)] = True
        return table[codes]


def values_of(key: str, metadata: Iterable[str]) -> Iterable[object]:
    """One field of each JSON text."""
    return (field_of(json.loads(text), key) for text in metadata)
