"""Keeps the best of many scores: a bounded heap of int64 keys, a rank in the high and an ordinal in the low 32 bits.

A smaller key is better, so one comparison orders by rank, then by ordinal. A new heap is filled with EMPTY, which is
worse than any key, so the only operation is to replace the worst key.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bqstore.kernels.intrinsics import as_float32, as_int32
from bqstore.kernels.jit import leaf

EMPTY = np.int64(0x7FFF_FFFF_FFFF_FFFF)
LOW_31 = 0x7FFF_FFFF
LOW_32 = np.int64(0xFFFF_FFFF)
SHIFT = np.int64(32)


@leaf
def make_key(rank: int, ordinal: int) -> np.int64:
    """Return the key of an ordinal >= 0 and a rank, an int32 of which smaller is better."""
    return (np.int64(rank) << SHIFT) | np.int64(ordinal)


@leaf
def key_rank(key: np.int64) -> np.int64:
    """Return the rank in a key."""
    return key >> SHIFT


@leaf
def key_ordinal(key: np.int64) -> np.int64:
    """Return the ordinal in a key."""
    return key & LOW_32


@leaf
def score_to_rank(score: np.float32) -> int:
    """Return the rank of a score, an int32 that falls as the score rises; -0 counts as 0, NaN as -infinity."""
    if score == 0:
        return -1
    bits = as_int32(score if score == score else np.float32(-np.inf))  # noqa: PLR0124
    # the bits of non-negative floats have the order of integers, those of negative floats the reverse order
    return -1 - (bits if bits >= 0 else bits ^ LOW_31)


@leaf
def rank_to_score(rank: np.int64) -> np.float32:
    """Return the score of a rank."""
    bits = -1 - rank
    if bits < 0:
        bits = bits ^ LOW_31
    return as_float32(np.uint32(bits & LOW_32))


@leaf
def sift(heap: npt.NDArray[np.int64], row: int, size: int, key: np.int64) -> None:
    """Replace the worst key, ``heap[row, 0]``, of the first ``size`` keys of a row by ``key``."""
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and heap[row, child + 1] > heap[row, child]:
            child += 1
        if heap[row, child] <= key:
            break
        heap[row, at] = heap[row, child]
        at = child
    heap[row, at] = key


@leaf
def offer(heap: npt.NDArray[np.int64], row: int, key: np.int64) -> None:
    """Keep ``key`` in ``heap[row]``, int64 (m, size > 0), if it is better than the worst there."""
    if key < heap[row, 0]:
        sift(heap, row, heap.shape[1], key)


@leaf
def sort_row(heap: npt.NDArray[np.int64], row: int) -> int:
    """Sort ``heap[row]``, best first (it is no heap any more); return how many keys are not EMPTY."""
    size = heap.shape[1]
    for end in range(size - 1, 0, -1):
        last = heap[row, end]
        heap[row, end] = heap[row, 0]
        sift(heap, row, end, last)
    count = 0
    while count < size and heap[row, count] != EMPTY:
        count += 1
    return count
