"""Encodes vectors: signs, Qdrant's three levels per value, and RaBitQ's residuals with their corrections."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from bqstore.kernels import layout
from bqstore.kernels.bits import pack_row
from bqstore.kernels.intrinsics import as_int32, byte_plane
from bqstore.kernels.jit import float_leaf, leaf
from bqstore.kernels.layout import COSINE, EUCLID, ONE_BIT, RABITQ, TWO_BITS, Quantizer
from bqstore.kernels.rotate import rotate_row

SIGMAS = np.float32(2.0 / 3.0)  # Qdrant's bounds of the middle level, in standard deviations
ONE = np.uint64(1)
BITS = np.uint64(63)
HALF = np.uint64(32)
LOW_32 = 0xFFFF_FFFF
# Steps tried for codes of 2 and of 4 bits, in units of 1 / root mean square: 12 from 0.6 to 1.7, and 20 from 2.2 to 8.
# Trying every step at which a value changes its level (arXiv 2409.09913, algorithm 1) gained nothing.
TRIES_2 = 0.6 * (1.7 / 0.6) ** (np.arange(12) / 11.0)
TRIES_4 = 2.2 * (8.0 / 2.2) ** (np.arange(20) / 19.0)


@float_leaf
def dot(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> np.float32:
    """Return the dot product of two vectors, float32 (dim,), summed in float32, in any order."""
    total = np.float32(0)
    for j in range(a.shape[0]):
        total += a[j] * b[j]
    return total


@float_leaf
def scale_and_subtract(
    vector: npt.NDArray[np.float32], scale: np.float32, mean: npt.NDArray[np.float32], out: npt.NDArray[np.float32]
) -> None:
    """Write ``scale * vector - mean`` to ``out``; float32 (dim,), the last at least as long."""
    for j in range(vector.shape[0]):
        out[j] = scale * vector[j] - mean[j]


@leaf
def scale_to_unit(vector: npt.NDArray[np.float32], out: npt.NDArray[np.float32]) -> None:
    """Write a vector at unit length; a zero vector stays zero; float32 (dim,)."""
    length = math.sqrt(dot(vector, vector))
    scale = np.float32(1.0 / length) if length > 0 else np.float32(0)
    for j in range(vector.shape[0]):
        out[j] = scale * vector[j]


@leaf
def pack_three_levels(
    vector: npt.NDArray[np.float32], quantizer: Quantizer, out: npt.NDArray[np.uint64], place: int
) -> None:
    """Write Qdrant's code of three levels per value: 00 below the middle level, 10 in it, 11 above it.

    The first bit of dimension j is bit j. The second is bit dim + j; in one and a half bits two neighboring dimensions
    share bit dim + j // 2.
    """
    dim = vector.shape[0]
    for w in range(quantizer.width):
        out[place, w] = 0
    for j in range(dim):
        deviation = quantizer.deviation[j]
        first, second = vector[j] > 0, False
        if deviation > 0:
            apart = (vector[j] - quantizer.mean[j]) / deviation
            first, second = apart > -SIGMAS, apart >= SIGMAS
        if first:
            out[place, j >> 6] |= ONE << (np.uint64(j) & BITS)
        if second:
            bit = dim + (j if quantizer.kind == TWO_BITS else j >> 1)
            out[place, bit >> 6] |= ONE << (np.uint64(bit) & BITS)


@float_leaf
def fit_of(residual: npt.NDArray[np.float32], step: np.float32, top: int) -> tuple[np.float32, np.float32]:
    """Return <|r|, v> and |v|^2, where v holds the odd magnitudes, at most ``top``, of a residual r for a step."""
    last = np.int32(top // 2)
    product = np.float32(0)
    squares = np.int32(0)
    for j in range(residual.shape[0]):
        size = abs(residual[j])
        value = 2 * min(np.int32(size * step), last) + 1
        product += size * np.float32(value)
        squares += value * value
    return product, np.float32(squares)


@leaf
def best_step(residual: npt.NDArray[np.float32], square: np.float32, bits: int) -> np.float32:
    """Return the step for which the code's values have the largest cosine with the residual."""
    tries = TRIES_2 if bits == 2 else TRIES_4
    unit = np.float32(math.sqrt(residual.shape[0] / square))
    best, found = np.float32(-1), np.float32(0)
    for i in range(tries.shape[0]):
        step = np.float32(tries[i]) * unit
        product, squares = fit_of(residual, step, (1 << bits) - 1)
        fit = product / np.float32(math.sqrt(squares))
        if fit > best:
            best, found = fit, step
    return found


@leaf
def write_values(residual: npt.NDArray[np.float32], step: np.float32, bits: int, levels: npt.NDArray[np.uint8]) -> None:
    """Write the levels of a residual, 0 to 2^bits - 1; the upper half is for positive values."""
    middle = np.int32(1 << (bits - 1))
    for j in range(residual.shape[0]):
        size = min(np.int32(abs(residual[j]) * step), middle - 1)
        levels[j] = np.uint8(middle + size if residual[j] > 0 else middle - 1 - size)


@leaf
def pack_residual(
    vector: npt.NDArray[np.float32],
    quantizer: Quantizer,
    metric: int,
    residual: npt.NDArray[np.float32],
    levels: npt.NDArray[np.uint8],
    out: npt.NDArray[np.uint64],
    place: int,
) -> None:
    """Write the RABITQ code of a vector: the planes of its residual, and the two corrections.

    Parameters
    ----------
    vector : float32 (dim,)
    residual : float32 (64 * width,)    scratch
    levels : uint8 (64 * width,)        scratch
    out : uint64 (m, bits * width + 1)  written

    Notes
    -----
    The residual r is the vector minus the mean, rotated; under COSINE the vector is scaled to unit length first. If v
    is the code's values, ``factor = |r|^2 / <r, v>`` makes ``factor * <q, v>`` an unbiased estimate of <q, r> over
    random rotations (Gao and Long, arXiv 2405.12497, theorem 3.2; for several bits 2409.09913, section 4). ``add`` is
    <mean, vector>, or ``-|r|^2 / 2`` under EUCLID.
    """
    dim, width, bits = vector.shape[0], quantizer.width, quantizer.bits
    scale = np.float32(1)
    if metric == COSINE:
        length = math.sqrt(dot(vector, vector))
        scale = np.float32(1.0 / length) if length > 0 else np.float32(0)
    rest = residual[:dim]
    scale_and_subtract(vector, scale, quantizer.mean, rest)
    square = dot(rest, rest)
    add = np.float32(-0.5) * square if metric == EUCLID else scale * dot(vector, quantizer.mean)
    rotate_row(rest, quantizer.rotation_signs)
    step = np.float32(0)
    if bits > 1 and square > 0:
        step = best_step(rest, square, bits)
    write_values(rest, step, bits, levels)
    product, _ = fit_of(rest, step, (1 << bits) - 1)
    factor = square / product if product > 0 else np.float32(0)
    for j in range(levels.shape[0] - dim):
        levels[j + dim] = 0
    for p in range(bits):
        for w in range(width):
            out[place, p * width + w] = byte_plane(levels, 64 * w, 1 << (bits - 1 - p))
    low = np.uint64(as_int32(add) & LOW_32)
    high = np.uint64(as_int32(factor) & LOW_32)
    out[place, bits * width] = low | (high << HALF)


@leaf
def pack_one(vector: npt.NDArray[np.float32], quantizer: Quantizer, out: npt.NDArray[np.uint64], place: int) -> None:
    """Write the code of one vector, for all kinds but RABITQ."""
    if quantizer.kind == ONE_BIT:
        pack_row(vector, out, place)
    else:
        pack_three_levels(vector, quantizer, out, place)


@leaf
def pack_vectors(
    vectors: npt.NDArray[np.float32], quantizer: Quantizer, metric: int, out: npt.NDArray[np.uint64]
) -> None:
    """Write the codes of vectors; see ``api.encode``."""
    residual = np.empty(64 * quantizer.width, np.float32)
    levels = np.zeros(64 * quantizer.width, np.uint8)
    for row in range(min(vectors.shape[0], out.shape[0])):
        part = vectors[row][: quantizer.dim]
        if quantizer.kind == RABITQ:
            pack_residual(part, quantizer, metric, residual, levels, out, row)
        elif quantizer.kind == ONE_BIT or metric != COSINE:  # scaling changes no sign
            pack_one(part, quantizer, out, row)
        else:
            unit = residual[: quantizer.dim]
            scale_to_unit(part, unit)
            pack_one(unit, quantizer, out, row)


quantizer_fits = leaf(layout.quantizer_fits)  # layout does not import numba
