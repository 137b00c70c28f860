"""Codes in memory: an array of 64-bit words that grows. Does not know what the words mean."""

import numpy as np
from numpy.typing import NDArray

from .memory import allocate

U64 = NDArray[np.uint64]


def new_codes(words: int) -> U64:
    """An empty array for codes of so many words."""
    return np.zeros((0, words), np.uint64)


def append_codes(words: U64, n: int, codes: U64) -> U64:
    """Write codes behind the first ``n``; return the array, or a larger copy if they do not fit.

    Searches of an earlier state keep their array, whose first ``n`` codes never change.
    """
    end = n + len(codes)
    if end > len(words):
        rows = end if n == 0 else max(end, n + n // 2)
        grown = allocate(rows, words.shape[1], np.uint64)
        grown[:n] = words[:n]
        words = grown
    words[n:end] = codes
    return words
