"""Filters on metadata columns: which entries of a column's dictionary pass a test, and which ordinals have them.

An entry is a kind and a value. The value of a text or a list is a slice of ``heap`` or ``members``: it starts at
``value >> LENGTH_BITS``, and the lower bits are its length. Every slice is checked against its array, because columns
read from a file may be damaged.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bqstore.kernels.jit import leaf, root

ABSENT, NULL, FALSE, TRUE, INT, FLOAT, BIG, STRING, LIST, DICT = range(10)
LENGTH_BITS = 24
LENGTH_MASK = (1 << LENGTH_BITS) - 1
ANY_RUN, ANY_CHARACTER = -1, -2
ASK = 2  # result of `strings_like`: the entry has non-ASCII letters, whose case is not folded here

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]


@root
def spread(codes: npt.NDArray[np.uint8], table: U8, out: npt.NDArray[np.uint64]) -> int:
    """Write the bitmap of ``table[codes]``; return how many bits are set.

    Parameters
    ----------
    codes : uint8, uint16 or uint32 (n,)
    table : uint8 (d,)      0 or 1; codes beyond it are 0
    out : uint64 (ceil(n / 64),)    written: bit i % 64 of word i // 64; those past n are 0
    """
    n = codes.shape[0]
    d = np.uint64(table.shape[0])
    total = np.int64(0)
    for w in range(out.shape[0]):
        word = np.uint64(0)
        start = w << 6
        stop = min(64, n - start)
        for j in range(stop):
            code = np.uint64(codes[start + j])
            bit = np.uint64(table[code]) if code < d else np.uint64(0)
            word |= bit << np.uint64(j)
            total += np.int64(bit)
        out[w] = word
    return int(total)


@root
def sift(marks: npt.NDArray[np.uint32], wanted: U8, out: npt.NDArray[np.int32]) -> int:
    """Write the indices of the entries whose mark's lower 16 bits are wanted; return how many.

    Parameters
    ----------
    marks : uint32 (d,)
    wanted : uint8 (65536,)
    out : int32 (d,)        written
    """
    count = 0
    for i in range(marks.shape[0]):
        if count < out.shape[0]:
            out[count] = i
        count += int(wanted[marks[i] & np.uint32(0xFFFF)])
    return min(count, out.shape[0])


@root
def numbers_between(kinds: U8, values: I64, low: int, high: int, ends: npt.NDArray[np.float64], table: U8) -> None:
    """Set ``table`` to 1 for an INT in [low, high] or a FLOAT in [ends[0], ends[1]], otherwise to 0."""
    lowest, highest = ends[0], ends[1]
    floats = values.view(np.float64)
    for i in range(min(kinds.shape[0], table.shape[0])):
        whole = (kinds[i] == INT) & (values[i] >= low) & (values[i] <= high)
        broken = (kinds[i] == FLOAT) & (floats[i] >= lowest) & (floats[i] <= highest)
        table[i] = 1 if whole | broken else 0


@leaf
def order(heap: U8, start: int, length: int, other: U8) -> int:
    """Compare a slice of the heap with other bytes: return -1, 0 or 1."""
    shared = min(length, other.shape[0])
    for j in range(shared):
        a = heap[start + j]
        b = other[j]
        if a != b:
            return -1 if a < b else 1
    if length == other.shape[0]:
        return 0
    return -1 if length < other.shape[0] else 1


@root
def strings_between(kinds: U8, values: I64, heap: U8, low: U8, least: int, high: U8, most: int, table: U8) -> None:
    """Set ``table`` to 1 for a STRING between two others, in byte order (that of code points), otherwise to 0.

    least : int     the smallest `order` against ``low`` that passes: 0; 1 to exclude ``low``; -1 for no lower bound
    most : int      the largest `order` against ``high`` that passes: 0; -1 to exclude ``high``; 1 for no upper bound
    """
    for i in range(min(kinds.shape[0], table.shape[0])):
        passes = 0
        if kinds[i] == STRING:
            start = values[i] >> LENGTH_BITS
            length = values[i] & LENGTH_MASK
            if start >= 0 and start + length <= heap.shape[0]:
                above = least < 0 or order(heap, start, length, low) >= least
                passes = 1 if above and (most > 0 or order(heap, start, length, high) <= most) else 0
        table[i] = passes


@leaf
def lower(byte: int) -> int:
    """Return a byte with ASCII upper case folded to lower case."""
    return byte + 32 if 65 <= byte <= 90 else byte


@leaf
def is_like(heap: U8, start: int, length: int, pattern: npt.NDArray[np.int16], folded: bool) -> bool:
    """Whether a slice of the heap matches a pattern; backtracks to the last run only, so time is never exponential."""
    i = j = 0
    run = -1
    mark = 0
    m = pattern.shape[0]
    while i < length:
        part = pattern[j] if j < m else np.int16(-3)
        if part == ANY_RUN:
            if j + 1 == m:
                return True
            run = j
            mark = i
            j += 1
        elif part == ANY_CHARACTER:
            i += 1
            while i < length and (heap[start + i] & 0xC0) == 0x80:
                i += 1
            j += 1
        elif part >= 0 and part == (lower(heap[start + i]) if folded else heap[start + i]):
            i += 1
            j += 1
        elif run >= 0:
            mark += 1
            while mark < length and (heap[start + mark] & 0xC0) == 0x80:
                mark += 1
            i = mark
            j = run + 1
        else:
            return False
    while j < m and pattern[j] == ANY_RUN:
        j += 1
    return j == m


@leaf
def is_at(heap: U8, start: int, letters: U8) -> bool:
    """Whether the heap holds these bytes at ``start``, where at least as many must follow.

    Compares from the end, since strings often share a beginning, such as URLs of one host.
    """
    j = letters.shape[0] - 1
    while j >= 0 and heap[start + j] == letters[j]:
        j -= 1
    return j < 0


@leaf
def contains(heap: U8, start: int, stop: int, letters: U8, skips: U8, folded: bool) -> bool:
    """Whether a slice of the heap contains these bytes (Horspool 1980).

    skips : uint8 (256,)    shift of the window, by its last byte
    """
    m = letters.shape[0]
    if m == 0:
        return True
    at = start
    while at + m <= stop:
        last = heap[at + m - 1]
        if folded:
            last = np.uint8(lower(last))
        if last == letters[m - 1]:
            j = m - 2
            while j >= 0 and (lower(heap[at + j]) if folded else heap[at + j]) == letters[j]:
                j -= 1
            if j < 0:
                return True
        at += skips[last]
    return False


@root
def strings_like(kinds: U8, values: I64, heap: U8, pattern: npt.NDArray[np.int16], folded: bool, table: U8) -> None:
    """Set ``table`` to 1 for a STRING that matches a pattern, to `ASK` if that is undecided here, otherwise to 0.

    Parameters
    ----------
    pattern : int16 (m,)    bytes, `ANY_RUN`, `ANY_CHARACTER`
    folded : bool           ignore case; a string with non-ASCII letters gives `ASK`
    """
    m = pattern.shape[0]
    plain = m >= 2 and pattern[0] == ANY_RUN and pattern[m - 1] == ANY_RUN
    for j in range(1, m - 1):
        plain &= pattern[j] >= 0
    first = 1 if plain else 0
    leading = first
    while leading < m and pattern[leading] >= 0:
        leading += 1
    letters = pattern[first:leading].astype(np.uint8)
    skips = np.full(256, min(255, max(1, letters.shape[0])), np.uint8)
    for j in range(letters.shape[0] - 1):
        skips[letters[j]] = min(255, letters.shape[0] - 1 - j)
    open_end = leading + 1 == m and pattern[leading] == ANY_RUN
    for i in range(min(kinds.shape[0], table.shape[0])):
        table[i] = 0
        if kinds[i] != STRING:
            continue
        start = values[i] >> LENGTH_BITS
        length = values[i] & LENGTH_MASK
        if start < 0 or start + length > heap.shape[0]:
            continue
        if folded:
            high = np.uint8(0)
            for j in range(start, start + length):
                high |= heap[j]
            if high & 0x80:
                table[i] = ASK
                continue
        elif not plain:
            if length < leading or not is_at(heap, start, letters):
                continue
            if open_end:
                table[i] = 1
                continue
        if plain:
            table[i] = 1 if contains(heap, start, start + length, letters, skips, folded) else 0
        else:
            table[i] = 1 if is_like(heap, start, length, pattern, folded) else 0


@root
def any_member(kinds: U8, values: I64, members: npt.NDArray[np.int32], own: U8, keep: bool, table: U8) -> None:
    """Set ``table`` to ``own``; for a LIST, to 1 if ``own`` is 1 for a member or, with ``keep``, for the list."""
    for i in range(min(kinds.shape[0], own.shape[0], table.shape[0])):
        passes = own[i]
        if kinds[i] == LIST:
            passes = own[i] if keep else np.uint8(0)
            start = values[i] >> LENGTH_BITS
            stop = start + (values[i] & LENGTH_MASK)
            if start >= 0 and stop <= members.shape[0]:
                for j in range(start, stop):
                    if 0 <= members[j] < own.shape[0]:
                        passes |= own[members[j]]
        table[i] = passes


@root
def every_member(
    kinds: U8,
    values: I64,
    members: npt.NDArray[np.int32],
    which: npt.NDArray[np.int32],
    stamps: npt.NDArray[np.int32],
    table: U8,
) -> None:
    """Set ``table`` to 1 where the members of a LIST, or the single value of another entry, include all m operands.

    Parameters
    ----------
    which : int32 (d,)      index of the operand equal to each entry, or -1
    stamps : int32 (m,)     initially -1; written
    """
    m = stamps.shape[0]
    for i in range(min(kinds.shape[0], which.shape[0], table.shape[0])):
        found = 0
        if kinds[i] == LIST:
            start = values[i] >> LENGTH_BITS
            stop = start + (values[i] & LENGTH_MASK)
            if start >= 0 and stop <= members.shape[0]:
                for j in range(start, stop):
                    operand = which[members[j]] if 0 <= members[j] < which.shape[0] else -1
                    if 0 <= operand < m and stamps[operand] != i:
                        stamps[operand] = i
                        found += 1
        elif kinds[i] != ABSENT and 0 <= which[i] < m:
            found = 1
        table[i] = 1 if found == m and kinds[i] != ABSENT else 0


ROOTS = (spread, sift, numbers_between, strings_between, strings_like, any_member, every_member)
