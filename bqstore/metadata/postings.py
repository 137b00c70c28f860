"""The ordinals of each value of a column, so that a filter on one of many values (a tenant) need not read all codes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bitmap import Rows
from .dictionary import Entries, mark_of
from .values import Typed


class Postings:
    """Ordinals of a column, sorted by entry; those that were appended later are searched one by one.

    Parameters
    ----------
    codes : uint8, uint16 or uint32 (n,)    the entry of each ordinal
    entries : Entries                       those that the codes name, without lists
    """

    def __init__(self, codes: NDArray[Any], entries: Entries) -> None:
        self.n, self._count = len(codes), len(entries.kinds)
        self._order = np.argsort(codes, kind="stable").astype(np.int32)  # so ordinals of an entry ascend
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=self._count))])
        self._by_mark = np.argsort(entries.marks, kind="stable").astype(np.uint32)
        self._marks = entries.marks[self._by_mark]

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return int(self._order.nbytes + self._starts.nbytes + self._by_mark.nbytes + self._marks.nbytes)

    def entries(self, entries: Entries, operands: tuple[Typed, ...]) -> list[int]:
        """The entries that equal one of the operands; ``entries`` has those appended later, too."""
        found: list[int] = []
        late = entries.marks[self._count :]
        for operand in operands:
            mark = mark_of(operand)
            at, likely = int(self._marks.searchsorted(np.uint32(mark))), []
            while at < self._count and self._marks[at] == mark:
                likely.append(int(self._by_mark[at]))
                at += 1
            if len(late):
                likely += (np.flatnonzero(late == mark) + self._count).tolist()
            found += [entry for entry in likely if entries.equals(entry, operand)]
        return list(dict.fromkeys(found))  # operands may be equal, as 1 and 1.0 are

    def count(self, found: list[int]) -> int:
        """How many ordinals have one of these entries, not counting those appended later."""
        return sum(int(self._starts[entry + 1] - self._starts[entry]) for entry in found if entry < self._count)

    def ordinals(self, codes: NDArray[Any], found: list[int]) -> Rows:
        """The ordinals that have one of these entries, ascending; ``codes`` has those appended later, too."""
        parts = []
        late = codes[self.n :]
        for entry in found:
            if entry < self._count:
                parts.append(self._order[self._starts[entry] : self._starts[entry + 1]])
            if len(late):
                parts.append((np.flatnonzero(late == entry) + self.n).astype(np.int32))
        if len(parts) == 1:
            return parts[0]
        return np.sort(np.concatenate(parts)) if parts else np.zeros(0, np.int32)
