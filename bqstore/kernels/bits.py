"""Vectors as bits: packing the signs, and counting the bits that differ."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bqstore.kernels.intrinsics import distance_1, distance_4, distance_8, prefetch
from bqstore.kernels.jit import leaf
from bqstore.kernels.layout import BINARY, SCALAR_4_BITS

BIT = (np.uint64(1) << np.arange(64, dtype=np.uint64)).astype(np.uint64)
ZERO = np.uint64(0)


@leaf
def pack_row(vectors: npt.NDArray[np.float32], row: int, out: npt.NDArray[np.uint64], place: int) -> None:
    """Write the signs of ``vectors[row]`` to ``out[place]``: bit j % 64 of word j // 64 is 1 iff value j > 0.

    Parameters
    ----------
    vectors : float32 (m, dim)
    row, place : int
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
        out[place, w] = word


@leaf
def measure(
    words: npt.NDArray[np.uint64],
    rows: npt.NDArray[np.int32],
    count: int,
    planes: npt.NDArray[np.uint64],
    encoding: int,
    out: npt.NDArray[np.int32],
) -> None:
    """Write the distances between an encoded query and ``words[rows[:count]]`` to ``out[:count]``.

    Parameters
    ----------
    words : uint64 (n, W)       codes
    rows : int32 (>= count,)    ordinals, each < n
    planes : uint64 (>= encoding, W)
    encoding : int              planes of the query; what a distance is, `encode` says
    out : int32 (>= count,)     written
    """
    width = words.shape[1]
    if encoding == BINARY:
        for i in range(count):
            out[i] = distance_1(words, rows[i], planes, 0, width)
    elif encoding == SCALAR_4_BITS:
        for i in range(count):
            out[i] = distance_4(words, rows[i], planes, 0, width)
    else:
        for i in range(count):
            out[i] = distance_8(words, rows[i], planes, 0, width)


@leaf
def measure_block(
    words: npt.NDArray[np.uint64],
    rows: npt.NDArray[np.int32],
    count: int,
    planes: npt.NDArray[np.uint64],
    encoding: int,
    ahead: int,
    out: npt.NDArray[np.int32],
) -> None:
    """Do what `measure` does, asking for the codes that lie ``ahead`` rows behind each; 0: they are in the cache."""
    if ahead == 0:
        measure(words, rows, count, planes, encoding, out)
        return
    width = words.shape[1]
    for i in range(count):
        for w in range(0, width, 8):
            prefetch(words, rows[i] + ahead, w)
        if encoding == BINARY:
            out[i] = distance_1(words, rows[i], planes, 0, width)
        elif encoding == SCALAR_4_BITS:
            out[i] = distance_4(words, rows[i], planes, 0, width)
        else:
            out[i] = distance_8(words, rows[i], planes, 0, width)
