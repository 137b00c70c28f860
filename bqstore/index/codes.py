"""Codes in memory: made from vectors, kept in an array that grows. Knows signs, no scores and no files."""

import numpy as np
from numpy.typing import NDArray

from ..kernels.api import pack_signs
from .memory import allocate

F32 = NDArray[np.float32]
U64 = NDArray[np.uint64]


def words_of(dim: int) -> int:
    """The 64-bit words of a code of ``dim`` bits."""
    return -(-dim // 64)


def encode(vectors: F32) -> U64:
    """The one-bit codes of vectors: bit j is 1 where value j is > 0; bits past the dimension are 0.

    Parameters
    ----------
    vectors : float32 (n, dim), C-order

    Returns
    -------
    uint64 (n, ceil(dim / 64))      bit j of a code is bit j % 64 of word j // 64
    """
    codes = np.empty((len(vectors), words_of(vectors.shape[1])), np.uint64)
    pack_signs(vectors, codes)
    return codes


def new_codes(dim: int) -> U64:
    """An array for codes with none in it."""
    return np.zeros((0, words_of(dim)), np.uint64)


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
