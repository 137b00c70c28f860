"""Metadata columns: one field of all ordinals, dictionary-encoded, so that filters read no documents.

A column is a `Dictionary` of values and for each ordinal a code, the number of its entry. A test is evaluated once per
entry and looked up for each ordinal. Codes are append-only, so that an older state goes on reading its part; a row
changed in place gets a copy of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bitmap import Rows
from .dictionary import NOTHING, Dictionary, Entries
from .id_column import room
from .postings import Postings
from .values import Typed

_ASKED = 16  # postings are made after so many filters by equality on the field
_FEW = 16  # at most one ordinal in so many is given as a list; more are given as a bitmap
_LATE = 4  # postings are made anew when one in so many ordinals has been appended since


def _narrow(count: int) -> type[Any]:
    """The smallest type of codes for ``count`` entries."""
    return np.uint8 if count <= 1 << 8 else np.uint16 if count <= 1 << 16 else np.uint32


class Column:
    """One metadata field of all ordinals at a moment. Immutable: a change gives a new column."""

    def __init__(self, key: str, dictionary: Dictionary | None = None) -> None:
        self.key = key
        self.n = 0
        self.dictionary = Dictionary() if dictionary is None else dictionary
        self._codes: NDArray[Any] = np.zeros(64, np.uint8)
        self._postings: Postings | None = None
        self._asked = 0

    @property
    def codes(self) -> NDArray[Any]:
        """The entry of each ordinal, uint8, uint16 or uint32 (n,)."""
        return self._codes[: self.n]

    @property
    def is_blank(self) -> bool:
        """Whether no document has ever had the field."""
        return len(self.dictionary) == 1

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return int(self._codes.nbytes) + self.dictionary.nbytes + (self._postings.nbytes if self._postings else 0)

    def equal(self, operands: tuple[Typed, ...]) -> tuple[list[int], Rows | None] | None:
        """The entries that have one of these values, by postings, and their ordinals, ascending, if these are few.

        None if there are no postings yet, or they are of no use.
        """
        postings = self._postings  # read before the entries: another thread may make postings of newer entries
        entries, codes = self.dictionary.entries, self.codes
        if len(operands) > _ASKED or len(entries.members):  # elements of lists count, too
            return None
        if postings is None or self.n - postings.n > self.n // _LATE:
            self._asked += 1
            if self._asked < _ASKED:
                return None
            postings = Postings(codes, entries)
            self._asked, self._postings = 0, postings
        found = postings.entries(entries, operands)
        few = postings.count(found) <= self.n // _FEW
        return found, postings.ordinals(codes, found) if few else None

    def extended(self, values: Iterable[object]) -> "Column":
        """This column with more values appended."""
        numbers = self.dictionary.enter(values)
        new = Column(self.key, self.dictionary)
        new.n = self.n + len(numbers)
        new._codes = room(self._wide(), self.n, new.n)
        new._codes[self.n : new.n] = numbers
        new._postings, new._asked = self._postings, self._asked
        return new

    def replaced(self, ordinals: Sequence[int], values: Iterable[object]) -> "Column":
        """A copy with other values at some ordinals."""
        numbers = self.dictionary.enter(values)
        new = Column(self.key, self.dictionary)
        new.n = self.n
        new._codes = self._wide()[: self.n].copy()
        new._codes[list(ordinals)] = numbers
        return new._compacted() if len(self.dictionary) > 2 * self.n + 1000 else new

    def _wide(self) -> NDArray[Any]:
        """The codes in a type that holds the numbers of all entries."""
        wanted = _narrow(len(self.dictionary))
        fits = self._codes.dtype.itemsize >= np.dtype(wanted).itemsize
        return self._codes if fits else self._codes.astype(wanted)

    def _compacted(self) -> "Column":
        """This column without entries that no longer occur, for a field that changes all the time."""
        dictionary, numbers = self.dictionary.only(np.unique(self.codes).astype(np.int64))
        new = Column(self.key, dictionary)
        new.n = self.n
        new._codes = numbers[self.codes].astype(_narrow(len(dictionary)))
        return new

    def parts(self, n: int) -> dict[str, NDArray[Any]]:
        """The arrays of its first n ordinals, for a file."""
        return {"codes": self._codes[:n], **self.dictionary.entries._asdict()}

    @classmethod
    def restored(cls, key: str, arrays: Mapping[str, NDArray[Any]], n: int) -> "Column":
        """The column from the arrays of `parts`, which are kept. Raises ValueError or KeyError if they do not fit."""
        new = cls(key, Dictionary.restored(Entries(*(arrays[name] for name in Entries._fields))))
        codes = arrays["codes"]
        if codes.shape != (n,) or codes.dtype not in (np.uint8, np.uint16, np.uint32):
            raise ValueError(f"a column's codes are {codes.dtype} {codes.shape}")
        if n and int(codes.max()) >= len(new.dictionary):
            raise ValueError("a column's codes are of entries that are not there")
        new.n, new._codes = n, codes
        return new


def field_of(metadata: dict[str, Any], key: str) -> object:
    """The value of the exact top-level key, else of the dotted path; `NOTHING` if there is none."""
    if key in metadata:
        return metadata[key]
    value: Any = metadata
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            return NOTHING
        value = value[part]
    return value
