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

    def entries(self, entries: Entries, operands: tuple[Typed, ...]) -> list[int]:
        """The entries that equal one of the operands, of a dictionary that has grown since."""
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
        return found

    def count(self, found: list[int]) -> int:
        """How many ordinals have one of these entries, without those that were appended."""
        return sum(int(self._starts[entry + 1] - self._starts[entry]) for entry in found if entry < self._count)

    def ordinals(self, codes: NDArray[Any], found: list[int]) -> I64:
        """The ordinals that have one of these entries, of codes that have grown since."""
        parts = [np.zeros(0, np.int64)]
        late = codes[self.n :]
        for entry in found:
            if entry < self._count:
                parts.append(self._order[self._starts[entry] : self._starts[entry + 1]].astype(np.int64))
            if len(late):
                parts.append(np.flatnonzero(late == entry) + self.n)
        return parts[1] if len(parts) == 2 else np.concatenate(parts)


def bits_of(ordinals: I64, n: int) -> NDArray[np.uint64]:
    """The bitmap of ordinals, in any order."""
    bits = np.zeros(-(-n // 64), np.uint64)
    np.bitwise_or.at(bits, ordinals >> 6, np.uint64(1) << (ordinals & 63).astype(np.uint64))
    return bits
