"""Queries as bit planes: what a code is compared with, and what that distance says about the score.

A query of b planes has a level u from 0 to 2^b - 1 in every dimension, and plane p holds bit p of the levels. Against a
code c, sum over p of popcount(c ^ plane p) << p is the sum over the dimensions of u where the code has a 0 and of
2^b - 1 - u where it has a 1: smaller is nearer. One plane is the query's own code, and that sum the Hamming distance.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from bqstore.kernels.bits import pack_row
from bqstore.kernels.intrinsics import as_float32, byte_plane
from bqstore.kernels.jit import float_leaf, leaf
from bqstore.kernels.layout import BINARY, COSINE, DOT, SHORTEST

MAGNITUDE = np.uint32(0x7FFF_FFFF)
WIDEST = np.float32(3)


@float_leaf
def dot(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> np.float32:
    """Return the dot product of two vectors, float32 (dim,), summed in float32, in any order."""
    total = np.float32(0)
    for j in range(a.shape[0]):
        total += a[j] * b[j]
    return total


@leaf
def largest_of(query: npt.NDArray[np.float32]) -> np.float32:
    """Return the largest absolute value of a finite vector, float32 (dim,).

    Of its bits, as whole numbers, which order as the values do: a maximum of floats waits for every compare, 1.3 us for
    1,536 values, since none may be NaN and the compiler cannot know.
    """
    bits = query.view(np.uint32)
    top = np.uint32(0)
    for j in range(bits.shape[0]):
        top = max(top, bits[j] & MAGNITUDE)
    return as_float32(top)


@float_leaf
def write_levels(query: npt.NDArray[np.float32], top: np.float32, steps: int, levels: npt.NDArray[np.uint8]) -> None:
    """Write the level of every value: [-top, top] in ``steps`` equal steps, rounded to the nearest; beyond, the last.

    Parameters
    ----------
    query : float32 (dim,)
    levels : uint8 (at least dim,)      written; what lies behind is 0
    """
    scale = np.float32(0.5 * steps) / top if top > 0 else np.float32(0)
    middle = np.float32(0.5 * steps + 0.5)
    for j in range(query.shape[0]):
        level = np.int32(query[j] * scale + middle)
        levels[j] = np.uint8(min(max(level, np.int32(0)), np.int32(steps)))


@leaf
def square_of(levels: npt.NDArray[np.uint8], dim: int, steps: int) -> float:
    """Return the squared length of the vector of ``2 * level - steps``."""
    ones = np.int32(0)
    squares = np.int32(0)  # at most 16,384 * 255^2
    for j in range(dim):
        level = np.int32(levels[j])
        ones += level
        squares += level * level
    total = 4 * np.int64(squares) - 4 * steps * np.int64(ones) + np.int64(dim) * steps * steps
    return float(total)


@leaf
def encode_query(
    queries: npt.NDArray[np.float32],
    row: int,
    encoding: int,
    levels: npt.NDArray[np.uint8],
    planes: npt.NDArray[np.uint64],
) -> tuple[float, float]:
    """Write the planes of one query.

    Parameters
    ----------
    queries : float32 (m, dim)
    encoding : int                  planes; BINARY takes the signs
    levels : uint8 (64 * W,)        scratch
    planes : uint64 (>= encoding, W)    written

    Returns
    -------
    step : float        one level of the query, in units of its values; 2 for signs, which are read as -1 and 1
    square : float      squared length of the encoded query in units of half a step: a whole number

    Notes
    -----
    Qdrant's scalar query encoding: 2^b levels on [-max |q|, max |q|], in bit planes; but no wider than three times the
    root of the mean square. ada-002 has a few values of thirty times that, beside which all others fall in the two
    middle levels: recall@10 of the codes alone was that of signs, .797, and is .844 so. The other sets are as before.
    """
    dim = queries.shape[1]
    if encoding == BINARY:
        pack_row(queries, row, planes, 0)
        return 2.0, float(dim)
    query = queries[row]
    steps = (1 << encoding) - 1
    top = largest_of(query)
    total = dot(query, query)
    if total > np.float32(SHORTEST * SHORTEST):  # below, squares are lost
        top = min(top, WIDEST * np.float32(math.sqrt(total / dim)))
    write_levels(query, top, steps, levels)
    for j in range(levels.shape[0] - dim):
        levels[j + dim] = 0
    for w in range(planes.shape[1]):
        for p in range(encoding):
            planes[p, w] = byte_plane(levels, 64 * w, 1 << p)
    return 2.0 * float(top) / steps, square_of(levels, dim, steps)


@leaf
def code_score(distance: int, dim: int, encoding: int, step: float, square: float, metric: int) -> np.float32:
    """Return the metric applied to the encoded query and a code read as a vector of +-1, at this distance."""
    steps = (1 << encoding) - 1
    product = steps * dim - 2 * distance  # of the code and the query in units of half a step
    if metric == COSINE:
        length = math.sqrt(square * dim)
        return np.float32(product / length) if length > 0 else np.float32(0)
    half = 0.5 * step
    if metric == DOT:
        return np.float32(half * product)
    apart = half * half * square + dim - 2 * half * product
    return np.float32(-math.sqrt(apart if apart > 0 else 0.0))
