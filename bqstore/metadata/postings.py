"""Where each value of a column stands: a filter on one of many values, a tenant say, need not read all codes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dictionary import Entries, mark_of
from .values import Typed

I64 = NDArray[np.int64]


class Postings:
    """The first ordinals and entries of a column, sorted; what was appended later is looked through.

    Parameters
    ----------
    codes : uint8, uint16 or uint32 (n,)    the entry of each ordinal
    entries : Entries                       those that the codes name, without lists
    """

    def __init__(self, codes: NDArray[Any], entries: Entries) -> None:
        self.n, self._count = len(codes), len(entries.kinds)
        self._order = np.argsort(codes, kind="stable").astype(np.uint32)  # so ordinals of an entry ascend
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=self._count))])
        self._by_mark = np.argsort(entries.marks, kind="stable").astype(np.uint32)
        self._marks = entries.marks[self._by_mark]

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return int(self._order.nbytes + self._starts.nbytes + self._by_mark.nbytes + self._marks.nbytes)

    def ordinals(self, codes: NDArray[Any], entries: Entries, operands: tuple[Typed, ...]) -> I64:
        """The ordinals whose value is among the operands, of codes and entries that have grown since."""
        found = [np.zeros(0, np.int64)]
        late, late_marks = codes[self.n :], entries.marks[self._count :]
        for operand in operands:
            mark = mark_of(operand)
            first = int(np.searchsorted(self._marks, np.uint32(mark)))
            last = int(np.searchsorted(self._marks, np.uint32(mark), "right"))
            likely = self._by_mark[first:last].tolist()
            if len(late_marks):
                likely += (np.flatnonzero(late_marks == mark) + self._count).tolist()
            for entry in likely:
                if not entries.equals(entry, operand):
                    continue
                if entry < self._count:
                    found.append(self._order[self._starts[entry] : self._starts[entry + 1]].astype(np.int64))
                if len(late):
                    found.append(np.flatnonzero(late == entry) + self.n)
        return np.concatenate(found)


def bits_of(ordinals: I64, n: int) -> NDArray[np.uint64]:
    """The bitmap of ordinals, in any order."""
    bits = np.zeros(-(-n // 64), np.uint64)
    np.bitwise_or.at(bits, ordinals >> 6, np.uint64(1) << (ordinals & 63).astype(np.uint64))
    return bits
