"""Encodes queries as bit planes, and converts distances between codes and queries to scores.

In every dimension a query of b planes has a level u from 0 to 2^b - 1; plane p holds bit p of the levels. The distance
of a code c is the sum over p of popcount(c ^ plane p) << p. That adds u for every 0 of the code and 2^b - 1 - u for
every 1: smaller is nearer. With one plane, the query's own code, it is the Hamming distance.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from bqstore.kernels.bits import factor_of, rank_to_estimate
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
    EncodedQuery,
    Quantizer,
)
from bqstore.kernels.quantize import dot, pack_one, scale_to_unit
from bqstore.kernels.rotate import rotate_row

MAGNITUDE = np.uint32(0x7FFF_FFFF)
MAX_RMS = np.float32(3)  # the levels cover at most this many root mean squares of the query
BOUND_DEVIATIONS = 4.0  # a score bound is the estimate plus this many standard deviations of its error


@leaf
def max_magnitude(query: npt.NDArray[np.float32]) -> np.float32:
    """Return the largest absolute value of a finite vector, float32 (dim,).

    The bits of non-negative floats have the same order as integers. A maximum of floats is not vectorized, because of
    NaN, and takes 1.3 us for 1,536 values.
    """
    bits = query.view(np.uint32)
    top = np.uint32(0)
    for j in range(bits.shape[0]):
        top = max(top, bits[j] & MAGNITUDE)
    return as_float32(top)


@float_leaf
def write_levels(query: npt.NDArray[np.float32], top: np.float32, steps: int, levels: npt.NDArray[np.uint8]) -> None:
    """Write the level of every value: [-top, top] in ``steps`` equal steps, rounded and clipped.

    Parameters
    ----------
    query : float32 (dim,)
    levels : uint8 (>= dim,)    its first dim values are written
    """
    scale = np.float32(0.5 * steps) / top if top > 0 else np.float32(0)
    middle = np.float32(0.5 * steps + 0.5)
    for j in range(query.shape[0]):
        level = np.int32(query[j] * scale + middle)
        levels[j] = np.uint8(min(max(level, np.int32(0)), np.int32(steps)))


@leaf
def squared_norm_of_levels(levels: npt.NDArray[np.uint8], dim: int, steps: int) -> float:
    """Return the squared length of the vector of ``2 * level - steps``."""
    ones = np.int32(0)
    squares = np.int32(0)  # at most 2 * MAX_DIM * 255^2, just below 2^31: two bits have two lanes a value
    for j in range(dim):
        level = np.int32(levels[j])
        ones += level
        squares += level * level
    total = 4 * np.int64(squares) - 4 * steps * np.int64(ones) + np.int64(dim) * steps * steps
    return float(total)


@leaf
def repeat_for_levels(query: npt.NDArray[np.float32], kind: int, out: npt.NDArray[np.float32]) -> None:
    """Write a query in the lanes of Qdrant's three-level codes: the values, then a part for the second bits.

    For TWO_BITS that part repeats the values; for ONE_AND_HALF_BITS, where two neighboring values share a second bit,
    it holds the larger of each pair. query : float32 (dim,); out : float32 (>= lanes,), written.
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


@leaf
def share_of_mean(query: npt.NDArray[np.float32], mean: npt.NDArray[np.float32], metric: int) -> np.float32:
    """Return the multiple of the mean that is subtracted from a query before encoding; both float32 (dim,).

    Under DOT it is the multiple that leaves the smallest residual, rounded to a power of two: then estimates do not
    depend on the length of the query, as the order of products does not. With the whole mean subtracted, the levels of
    a short query would be those of the mean. It is 1 for a query about as long as the vectors.
    """
    if metric != DOT:
        return np.float32(1)
    square, product = dot(mean, mean), dot(query, mean)
    if not square > np.float32(SHORTEST * SHORTEST) or not product > 0:
        return np.float32(0)
    return np.float32(2.0 ** math.floor(math.log2(float(product) / float(square)) + 0.5))


@float_leaf
def subtract(
    query: npt.NDArray[np.float32], share: np.float32, mean: npt.NDArray[np.float32], out: npt.NDArray[np.float32]
) -> None:
    """Write ``query - share * mean`` to ``out``; float32 (dim,), the last at least as long."""
    for j in range(query.shape[0]):
        out[j] = query[j] - share * mean[j]


@float_leaf
def squared_rounding_error(
    query: npt.NDArray[np.float32], levels: npt.NDArray[np.uint8], half: np.float32, steps: int
) -> np.float32:
    """Return the squared length of the rounding error of a query's levels, float32 (dim,)."""
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
    """Write bit p of the levels, uint8 (64 * width,), to ``planes[p]``, p < bits, repeated to the end of the row."""
    for w in range(width):
        for p in range(bits):
            word = byte_plane(levels, 64 * w, 1 << p)
            for at in range(w, planes.shape[1], width):
                planes[p, at] = word


@leaf
def encode_query(
    query: npt.NDArray[np.float32],
    quantizer: Quantizer,
    encoding: int,
    metric: int,
    levels: npt.NDArray[np.uint8],
    rotated: npt.NDArray[np.float32],
    planes: npt.NDArray[np.uint64],
) -> EncodedQuery:
    """Encode one query: write its planes and return the query in the form that codes are compared with.

    Parameters
    ----------
    query : float32 (>= quantizer.dim,)     whole, of unit length under COSINE
    encoding : int                          number of planes; BINARY encodes the query as a vector is encoded, but for
                                            three-level codes under DOT by its signs, independent of its length
    levels : uint8 (64 * width,)            scratch
    rotated : float32 (64 * width,)         scratch
    planes : uint64 (>= encoding, quantizer.bits * width)   written

    Notes
    -----
    Qdrant's scalar query encoding: 2^b levels on [-max |q|, max |q|], as bit planes. Here the interval is limited to
    three times the root mean square: vectors of ada-002 have a few values of thirty times that, so that all others
    fell into the two middle levels, and recall@10 of the codes alone was .797, as with signs only; with the limit it
    is .844. Other models are not affected.

    RABITQ encodes the query minus the mean (Gao and Long, arXiv 2405.12497, section 3.3): the estimated product, and
    so its error, is small; the exact product with the mean is part of each code's ``add``. Under DOT a multiple of the
    mean is subtracted (`share_of_mean`).
    """
    kind, lanes, width, dim = quantizer.kind, quantizer.lanes, quantizer.width, quantizer.dim
    steps = (1 << encoding) - 1
    whole = dim == query.shape[0]
    part = query[:dim]
    if metric == COSINE and not whole:
        scale_to_unit(part, rotated)
        part = rotated[:dim]
    view = part
    offset = 0.0
    share, one, lift, linking = np.float32(1), np.float32(1), np.float32(0), quantizer.linking
    shifts = quantizer.shifts
    if kind == RABITQ:
        share = share_of_mean(part, quantizer.mean, metric)
        subtract(part, share, quantizer.mean, rotated)
        view = rotated[:dim]
        offset = float(dot(view, view)) if metric == EUCLID else float(dot(view, quantizer.mean))
        rotate_row(view, quantizer.rotation_signs)
    elif kind != ONE_BIT and (encoding != BINARY or metric == DOT):
        repeat_for_levels(part, kind, rotated)
        view = rotated[:lanes]
    if encoding == BINARY and kind != RABITQ and (kind == ONE_BIT or metric != DOT):
        pack_one(part, quantizer, planes, 0)
        square = float(lanes)
        return EncodedQuery(
            planes, encoding, 1, width, 0, one, lanes, offset, 0.0, square, share, lift, linking, shifts
        )
    top = max_magnitude(view)
    total = dot(view, view)
    if encoding == BINARY:
        top = absolute_sum(view) / np.float32(lanes)  # the length at which the signs fit best
        for j in range(lanes):
            levels[j] = np.uint8(1 if view[j] > 0 else 0)
    else:
        if total > np.float32(SHORTEST * SHORTEST):  # below, squares underflow
            top = min(top, MAX_RMS * np.float32(math.sqrt(total / lanes)))
        write_levels(view, top, steps, levels)
    for j in range(levels.shape[0] - lanes):
        levels[j + lanes] = 0
    write_planes(levels, encoding, width, planes)
    half = top / np.float32(steps)
    bits = quantizer.bits
    product = ((1 << bits) - 1) * steps * lanes
    if kind != RABITQ:
        square = squared_norm_of_levels(levels, lanes, steps)
        return EncodedQuery(
            planes, encoding, 1, width, 0, half, product, offset, 0.0, square, share, lift, linking, shifts
        )
    error = np.inf  # if only a part is encoded: the other values may change the score by any amount
    if whole:
        lost = squared_rounding_error(view, levels, half, steps)
        error = estimate_deviation(np.float64(total), np.float64(lost), quantizer.error_scales)
    return EncodedQuery(
        planes, encoding, bits, width, 1, half, product, offset, error, 0.0, share, lift, linking, shifts
    )


@leaf
def estimate_deviation(square: float, lost: float, scales: npt.NDArray[np.float32]) -> float:
    """Return the standard deviation of an estimate, divided by the code's factor.

    Parameters
    ----------
    square, lost : float        squared lengths of the encoded query, and of the rounding error of its levels
    scales : float32 (2,)       of a code v: ``|v| sqrt(1 - cos(v, residual)^2) / sqrt(dim)``, and ``|v| / sqrt(dim)``

    Notes
    -----
    Two independent errors, each at a random angle: that of the code against the query (Gao and Long, lemma B.3, the
    deviation of ``factor * <q, v>``), and the rounding error of the levels against the code v.
    """
    return math.sqrt(square * scales[0] * scales[0] + lost * scales[1] * scales[1])


@leaf
def code_score(distance: int, query: EncodedQuery, metric: int) -> np.float32:
    """Return the score for a distance.

    For corrected codes: the estimated score of the encoded part of the vectors. For others: the metric applied to the
    encoded query and to the code as a vector of +-1.
    """
    if query.corrected:
        return estimated_score(float(rank_to_estimate(distance)), query, metric)
    product = query.top - 2 * distance  # of the code and the query, in units of ``half``
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
def estimated_score(estimate: float, query: EncodedQuery, metric: int) -> np.float32:
    """Return the score for an estimate of corrected codes."""
    if metric == EUCLID:  # the estimate is of <q, r> - |r|^2 / 2, where r is the vector less the mean
        apart = query.offset - 2 * estimate
        return np.float32(-math.sqrt(apart if apart > 0 else 0.0))
    score = estimate + query.offset
    if metric == COSINE:
        score = min(max(score, -1.0), 1.0)
    return np.float32(score)


@leaf
def score_bound(
    words: npt.NDArray[np.uint64], ordinal: int, distance: int, query: EncodedQuery, metric: int, prune: int
) -> np.float32:
    """Return an upper bound of a candidate's exact score, from its estimate; infinity if there is none.

    There is none without corrections, or if only a part of each vector is encoded; nor for a BINARY query, whose error
    is correlated with that of a similar code.
    """
    if not (query.corrected and prune) or query.encoding == BINARY or query.error == np.inf:
        return np.float32(np.inf)
    error = BOUND_DEVIATIONS * query.error * float(factor_of(words, ordinal, words.shape[1] - 1))
    return estimated_score(float(rank_to_estimate(distance)) + error, query, metric)


@leaf
def unrescored_score(
    words: npt.NDArray[np.uint64], ordinal: int, distance: int, query: EncodedQuery, metric: int, prune: int
) -> np.float32:
    """Return the score of a code, or, with ``prune``, the upper bound of its exact score."""
    if prune:
        return score_bound(words, ordinal, distance, query, metric, 1)
    return code_score(distance, query, metric)
