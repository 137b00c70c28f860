"""A random rotation in O(n log n): random sign flips, then a Walsh-Hadamard transform, repeated.

It preserves products and lengths, and spreads the variance of a few dimensions over all. If the dimension is no power
of two, transforms of the first and of the last values alternate, which overlap (like the Hadamard blocks of Ailon and
Chazelle 2009, in place).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from bqstore.kernels.jit import float_leaf, leaf


@float_leaf
def transform(row: npt.NDArray[np.float32], start: int, size: int) -> None:
    """Apply the unscaled Walsh-Hadamard transform to ``row[start : start + size]``; size is a power of two."""
    part = row[start : start + size]
    step = 1
    if size >= 8:  # the first three steps at once, in registers
        step = 8
        for j in range(0, size, 8):
            a, b, c, d = part[j], part[j + 1], part[j + 2], part[j + 3]
            e, f, g, h = part[j + 4], part[j + 5], part[j + 6], part[j + 7]
            a, b, c, d, e, f, g, h = a + b, a - b, c + d, c - d, e + f, e - f, g + h, g - h
            a, c, b, d, e, g, f, h = a + c, a - c, b + d, b - d, e + g, e - g, f + h, f - h
            part[j], part[j + 4] = a + e, a - e
            part[j + 1], part[j + 5] = b + f, b - f
            part[j + 2], part[j + 6] = c + g, c - g
            part[j + 3], part[j + 7] = d + h, d - h
    while step < size:
        for first in range(0, size, 2 * step):
            low, high = part[first : first + step], part[first + step : first + 2 * step]
            for j in range(low.shape[0]):
                a, b = low[j], high[j]
                low[j] = a + b
                high[j] = a - b
        step *= 2


@leaf
def rotate_row(row: npt.NDArray[np.float32], signs: npt.NDArray[np.float32]) -> None:
    """Rotate a vector in place.

    Parameters
    ----------
    row : float32 (>= dim,)             its first dim values are rotated
    signs : float32 (rounds, dim)       +1 or -1, the signs before each transform; even rounds transform the first
                                        values, odd ones the last; without rounds nothing changes

    Notes
    -----
    Each round has its own signs: with equal signs a transform would undo the one before it where the two overlap.
    """
    dim = signs.shape[1]
    size = 1
    while 2 * size <= dim:
        size *= 2
    scale = np.float32(1.0 / math.sqrt(size))
    for i in range(signs.shape[0]):
        start = (dim - size) * (i & 1)
        for j in range(size):
            row[start + j] *= signs[i, start + j] * scale
        transform(row, start, size)
