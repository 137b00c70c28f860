"""Queries as bit planes: what a code is compared with, and what that distance says about the score.

A query of b planes has a level u from 0 to 2^b - 1 in every dimension, and plane p holds bit p of the levels. Against a
code c, sum over p of popcount(c ^ plane p) << p is the sum over the dimensions of u where the code has a 0 and of
2^b - 1 - u where it has a 1: smaller is nearer. One plane is the query's own code, and that sum the Hamming distance.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from bqstore.kernels.bits import estimate_of, factor_of
from bqstore.kernels.intrinsics import as_float32, byte_plane
from bqstore.kernels.jit import float_leaf, leaf
from bqstore.kernels.layout import (
    BINARY,
    COSINE,
    DOT,
    EUCLID,
    ONE_BIT,
    RABITQ,
    SHORTEST,
    TWO_BITS,
    Encoded,
    Quantizer,
)
from bqstore.kernels.quantize import dot, pack_one, scale_to_unit
from bqstore.kernels.rotate import rotate_row

MAGNITUDE = np.uint32(0x7FFF_FFFF)
WIDEST = np.float32(3)
SURE = 4.0  # standard deviations beyond which no candidate's score is expected


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
def extend(query: npt.NDArray[np.float32], kind: int, out: npt.NDArray[np.float32]) -> None:
    """Write a query as Qdrant holds it against three levels a value: once more, or the larger of each two, behind it.

    query : float32 (dim,); out : float32 (>= lanes,), written.
    """
    dim = query.shape[0]
    for j in range(dim):
        out[j] = query[j]
    if kind == TWO_BITS:
        for j in range(dim):
            out[dim + j] = query[j]
        return
    for j in range(0, dim, 2):
        out[dim + j // 2] = max(query[j], query[j + 1]) if j + 1 < dim else query[j]


@float_leaf
def take_off(query: npt.NDArray[np.float32], mean: npt.NDArray[np.float32], out: npt.NDArray[np.float32]) -> None:
    """Write ``query - mean`` to ``out``; float32 (dim,), the last at least as long."""
    for j in range(query.shape[0]):
        out[j] = query[j] - mean[j]


@float_leaf
def lost_of(query: npt.NDArray[np.float32], levels: npt.NDArray[np.uint8], half: np.float32, steps: int) -> np.float32:
    """Return the squared length of what the levels lose of a query, float32 (dim,)."""
    total = np.float32(0)
    for j in range(query.shape[0]):
        apart = query[j] - half * np.float32(2 * np.int32(levels[j]) - steps)
        total += apart * apart
    return total


@float_leaf
def absolute_sum(query: npt.NDArray[np.float32]) -> np.float32:
    """Return the sum of the magnitudes of a vector, float32 (dim,)."""
    total = np.float32(0)
    for j in range(query.shape[0]):
        total += abs(query[j])
    return total


@leaf
def write_planes(levels: npt.NDArray[np.uint8], bits: int, width: int, planes: npt.NDArray[np.uint64]) -> None:
    """Write bit p of the levels, uint8 (64 * width,), to ``planes[p, :width]``, p < bits."""
    for w in range(width):
        for p in range(bits):
            planes[p, w] = byte_plane(levels, 64 * w, 1 << p)


@leaf
def encode_query(
    query: npt.NDArray[np.float32],
    quantizer: Quantizer,
    encoding: int,
    metric: int,
    levels: npt.NDArray[np.uint8],
    turned: npt.NDArray[np.float32],
    planes: npt.NDArray[np.uint64],
) -> Encoded:
    """Write the planes of one query, and return what codes are compared with.

    Parameters
    ----------
    query : float32 (>= quantizer.dim,) whole, of unit length under COSINE
    encoding : int                      planes; BINARY encodes the query as a vector
    levels : uint8 (64 * width,)        scratch
    turned : float32 (64 * width,)      scratch
    planes : uint64 (>= encoding, width)    written

    Notes
    -----
    Qdrant's scalar query encoding: 2^b levels on [-max |q|, max |q|], in bit planes; but no wider than three times the
    root of the mean square. ada-002 has a few values of thirty times that, beside which all others fall in the two
    middle levels: recall@10 of the codes alone was that of signs, .797, and is .844 so. The other sets are as before.

    RABITQ: of the query beside the mean (Gao and Long, arXiv 2405.12497, section 3.3), so that what is estimated, and
    with it the error, is small; the product with the mean itself, exact, lies in each code's ``add``.
    """
    kind, lanes, width, dim = quantizer.kind, quantizer.lanes, quantizer.width, quantizer.dim
    steps = (1 << encoding) - 1
    whole = dim == query.shape[0]
    part = query[:dim]
    if metric == COSINE and not whole:
        scale_to_unit(part, turned)
        part = turned[:dim]
    view = part
    offset = 0.0
    if kind == RABITQ:
        take_off(part, quantizer.mean, turned)
        view = turned[:dim]
        offset = float(dot(view, view)) if metric == EUCLID else float(dot(view, quantizer.mean))
        rotate_row(view, quantizer.turns)
    elif kind != ONE_BIT and encoding != BINARY:
        extend(part, kind, turned)
        view = turned[:lanes]
    if encoding == BINARY and kind != RABITQ:
        pack_one(part, quantizer, planes, 0)
        return Encoded(planes, encoding, 1, width, 0, np.float32(1), lanes, offset, 0.0, float(lanes))
    top = largest_of(view)
    total = dot(view, view)
    if encoding == BINARY:
        top = absolute_sum(view) / np.float32(dim)  # the length that signs fit best at
    elif total > np.float32(SHORTEST * SHORTEST):  # below, squares are lost
        top = min(top, WIDEST * np.float32(math.sqrt(total / lanes)))
    if encoding == BINARY:
        for j in range(lanes):
            levels[j] = np.uint8(1 if view[j] > 0 else 0)
    else:
        write_levels(view, top, steps, levels)
    for j in range(levels.shape[0] - lanes):
        levels[j + lanes] = 0
    write_planes(levels, encoding, width, planes)
    half = top / np.float32(steps)
    bits = quantizer.bits
    product = ((1 << bits) - 1) * steps * lanes
    if kind != RABITQ:
        return Encoded(planes, encoding, 1, width, 0, half, product, offset, 0.0, square_of(levels, lanes, steps))
    error = np.inf  # what lies behind the part may change a score by anything
    if whole:
        error = error_of(np.float64(total), np.float64(lost_of(view, levels, half, steps)), quantizer.spread)
    return Encoded(planes, encoding, bits, width, 1, half, product, offset, error, 0.0)


@leaf
def error_of(square: float, lost: float, spread: npt.NDArray[np.float32]) -> float:
    """Return the standard deviation of an estimate, but for the code's factor.

    Parameters
    ----------
    square, lost : float        squared lengths of the query beside the mean, and of what its levels lose
    spread : float32 (2,)       of a code v: ``|v| sqrt(1 - cos(v, residual)^2) / sqrt(dim)``, and ``|v| / sqrt(dim)``

    Notes
    -----
    What the code lost of the vector and the query's part across it are at random angles: Gao and Long, lemma B.3, the
    deviation of ``factor * <q, v>``. What the levels lost of the query likewise, against the whole of v.
    """
    return math.sqrt(square * spread[0] * spread[0] + lost * spread[1] * spread[1])


@leaf
def code_score(distance: int, query: Encoded, metric: int) -> np.float32:
    """Return the score that a distance stands for.

    Of corrected codes the estimate of the true score, or of that of the part that is encoded. Of others, the metric
    applied to the encoded query and the code read as a vector of +-1.
    """
    if query.corrected:
        return estimated_score(float(estimate_of(distance)), query, metric)
    product = query.top - 2 * distance  # of the code and the query in units of half a step
    lanes = query.top // ((1 << query.encoding) - 1)
    if metric == COSINE:
        length = math.sqrt(query.square * lanes)
        return np.float32(product / length) if length > 0 else np.float32(0)
    half = float(query.half)
    if metric == DOT:
        return np.float32(half * product)
    apart = half * half * query.square + lanes - 2 * half * product
    return np.float32(-math.sqrt(apart if apart > 0 else 0.0))


@leaf
def estimated_score(estimate: float, query: Encoded, metric: int) -> np.float32:
    """Return the score that an estimate of corrected codes stands for."""
    if metric == EUCLID:  # the estimate is of <q, r> - |r|^2 / 2, r the vector beside the mean
        apart = query.offset - 2 * estimate
        return np.float32(-math.sqrt(apart if apart > 0 else 0.0))
    score = estimate + query.offset
    if metric == COSINE:
        score = min(max(score, -1.0), 1.0)
    return np.float32(score)


@leaf
def reach_of(
    words: npt.NDArray[np.uint64], ordinal: int, distance: int, query: Encoded, metric: int, sparing: int
) -> np.float32:
    """Return the best score a candidate may have by its estimate; infinite where nothing is known.

    Of a query of signs nothing is: what they lose of it is no matter of chance beside a code that is like it. Nor is it
    of codes of a part of each vector.
    """
    if not (query.corrected and sparing) or query.encoding == BINARY or query.error == np.inf:
        return np.float32(np.inf)
    error = SURE * query.error * float(factor_of(words, ordinal, words.shape[1] - 1))
    return estimated_score(float(estimate_of(distance)) + error, query, metric)
