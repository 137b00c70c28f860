"""The c best of many keys: a buffer that is cut back to the best c whenever it is full, and sorted at the end.

A key is as in `heap`: smaller is better, and no two are equal. A heap of c keys sifts each new one through log c
levels, whose branches cannot be predicted; here a key is appended, and a cut takes a few steps for each in the buffer.
For 120 of 10,000 codes a scan takes a twelfth less (docs/design/filtered-search.md).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bqstore.kernels.jit import leaf


@leaf
def cut_to_best(keys: npt.NDArray[np.int64], row: int, size: int, c: int) -> np.int64:
    """Move the c smallest of ``keys[row, :size]`` to the front, in any order; return the largest of them.

    Hoare's quickselect (Algorithm 65), with a random pivot: for pivots at fixed places there are orders of keys that
    take the square of the time. The partition has no branch that depends on keys.

    keys : int64 (m, >= size), 1 <= c <= size
    """
    left, right, last, random = 0, size - 1, c - 1, 1
    while left < right:
        random = (random * 1103515245 + 12345) & 0x7FFF_FFFF
        at = left + (random >> 8) % (right - left + 1)
        pivot = keys[row, at]
        keys[row, at] = keys[row, right]
        keys[row, right] = pivot
        place = left
        for i in range(left, right):
            key = keys[row, i]
            keys[row, i] = keys[row, place]
            keys[row, place] = key
            place += key < pivot
        keys[row, right] = keys[row, place]
        keys[row, place] = pivot
        if place == last:
            break
        if place < last:
            left = place + 1
        else:
            right = place - 1
    return keys[row, last]


@leaf
def sort_keys(keys: npt.NDArray[np.int64], row: int, size: int) -> None:
    """Sort ``keys[row, :size]``, int64 (m, >= size), ascending: Shell's sort, with gaps of 1, 4, 11, 26, 60, 137 ..."""
    gap = 1
    while 9 * gap < 4 * size:
        gap = 9 * gap // 4 + 2
    while gap > 0:
        for i in range(gap, size):
            key, at = keys[row, i], i
            while at >= gap and keys[row, at - gap] > key:
                keys[row, at] = keys[row, at - gap]
                at -= gap
            keys[row, at] = key
        gap = 4 * gap // 9
