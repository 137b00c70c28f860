"""Vectors as bits: packing the signs, counting the bits that differ, and the score in that count."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from bqstore.kernels.intrinsics import popcount, prefetch
from bqstore.kernels.jit import leaf
from bqstore.kernels.layout import COSINE, DOT

BIT = (np.uint64(1) << np.arange(64, dtype=np.uint64)).astype(np.uint64)
ZERO = np.uint64(0)


@leaf
def pack_row(vectors: npt.NDArray[np.float32], row: int, out: npt.NDArray[np.uint64]) -> None:
    """Write the signs of ``vectors[row]`` to ``out[row]``: bit j % 64 of word j // 64 is 1 iff value j > 0.

    Parameters
    ----------
    vectors : float32 (m, dim)
    row : int
    out : uint64 (m, W)     written; the bits past dim are 0
    """
    dim = vectors.shape[1]
    for w in range(out.shape[1]):
        word = ZERO
        first = 64 * w
        if first + 64 <= dim:
            for b in range(64):  # a constant count: this loop becomes compares and masks
                word |= BIT[b] if vectors[row, first + b] > 0 else ZERO
        else:
            for b in range(dim - first):
                word |= BIT[b] if vectors[row, first + b] > 0 else ZERO
        out[row, w] = word


@leaf
def hamming_rows(
    words: npt.NDArray[np.uint64],
    rows: npt.NDArray[np.int32],
    count: int,
    query: npt.NDArray[np.uint64],
    ahead: int,
    out: npt.NDArray[np.int32],
) -> None:
    """Write the Hamming distances between ``query`` and ``words[rows[:count]]`` to ``out[:count]``.

    Parameters
    ----------
    words : uint64 (n, W)       codes
    rows : int32 (block,)       ordinals, each < n
    query : uint64 (W,)
    ahead : int                 ask for codes this many ordinals ahead; 0 when the codes are in the cache already
    out : int32 (block,)        written; bits
    """
    for i in range(count):
        row = rows[i]
        for w in range(0, words.shape[1] if ahead else 0, 8):
            prefetch(words, row + ahead, w)
        distance = 0
        for w in range(words.shape[1]):
            distance += popcount(words[row, w] ^ query[w])
        out[i] = distance


@leaf
def code_score(distance: int, dim: int, metric: int) -> np.float32:
    """Return the metric applied to two codes, read as vectors of +-1, that differ in ``distance`` bits."""
    if metric == COSINE:
        return np.float32((dim - 2 * distance) / dim)
    if metric == DOT:
        return np.float32(dim - 2 * distance)
    return np.float32(-2.0 * math.sqrt(distance))
