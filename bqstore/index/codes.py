"""Codes in memory: kept in an array that grows. Knows words of 64 bits, not what they mean, and no files."""

import numpy as np
from numpy.typing import NDArray

from .memory import allocate

U64 = NDArray[np.uint64]


def new_codes(words: int) -> U64:
    """An array for codes of so many words, with none in it."""
    return np.zeros((0, words), np.uint64)


def append_codes(words: U64, n: int, codes: U64) -> U64:
    """The array with codes written behind its first ``n``; a larger copy if there is no room.

    Searches of an earlier state go on with the array they have: its first ``n`` codes never change.
    """
    end = n + len(codes)
    if end > len(words):
        rows = end if n == 0 else max(end, n + n // 2)
        grown = allocate(rows, words.shape[1], np.uint64)
        grown[:n] = words[:n]
        words = grown
    words[n:end] = codes
    return words
