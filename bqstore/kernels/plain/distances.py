"""Queries as bit planes, their distances from codes, and the scores that follow."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from bqstore.kernels.encode_query import BOUND_DEVIATIONS, MAX_RMS
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
from bqstore.kernels.plain.codes import codes_of, dots, packed, rotated, unit_scales, unpacked

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

_FEW = 4  # up to so many queries are compared by popcounts; more by a matrix product
_SIGNIFICAND = 1 << 24  # integers up to this are exact in float32
_LOW_31 = 0x7FFF_FFFF
_SET_BITS = np.unpackbits(np.arange(1 << 16, dtype=np.uint16).view(np.uint8).reshape(-1, 2), axis=1).sum(1, np.uint8)


def encode_queries(queries: F32, quantizer: Quantizer, encoding: int, metric: int) -> list[EncodedQuery]:
    """Queries as bit planes (`encode_query.encode_query`)."""
    kind, lanes, width, dim = quantizer.kind, quantizer.lanes, quantizer.width, quantizer.dim
    m, steps, bits = len(queries), (1 << encoding) - 1, quantizer.bits
    whole, of_codes = dim == queries.shape[1], (quantizer.linking, quantizer.shifts)
    part = queries[:, :dim]
    if metric == COSINE and not whole:
        part = unit_scales(part)[:, None] * part
    if encoding == BINARY and kind != RABITQ and (kind == ONE_BIT or metric != DOT):
        codes = codes_of(part, quantizer, DOT)  # already at unit length
        one = np.float32(1)
        rest = (encoding, 1, width, 0, one, lanes, 0.0, 0.0, float(lanes), one, np.float32(0), *of_codes)
        return [EncodedQuery(code[None], *rest) for code in codes]
    offsets, view, shares = np.zeros(m), part, np.ones(m, np.float32)
    if kind == RABITQ:
        square = dots(quantizer.mean[None], quantizer.mean)[0]
        if metric == DOT:
            products = dots(part, quantizer.mean).astype(np.float64)
            some = (products > 0) & bool(square > np.float32(SHORTEST * SHORTEST))
            ratios = np.divide(products, float(square), out=np.ones(m), where=some)
            shares = np.where(some, np.exp2(np.floor(np.log2(ratios) + 0.5)), 0).astype(np.float32)
        view = part - shares[:, None] * quantizer.mean
        offsets = dots(view, view if metric == EUCLID else quantizer.mean).astype(np.float64)
        view = rotated(view, quantizer.rotation_signs)
    elif kind == TWO_BITS:
        view = np.concatenate([part, part], axis=1)
    elif kind != ONE_BIT:  # with an odd number of values, the last is paired with itself
        pairs = np.maximum(part[:, ::2], np.concatenate([part, part[:, -1:]], axis=1)[:, 1::2])
        view = np.concatenate([part, pairs], axis=1)
    totals, sizes = dots(view, view), np.abs(view)
    if encoding == BINARY:
        tops = sizes.sum(1, dtype=np.float32) / np.float32(lanes)
        levels = (view > 0).astype(np.uint8)
    else:
        tops, limits = sizes.max(1), MAX_RMS * np.sqrt(totals.astype(np.float64) / lanes).astype(np.float32)
        tops = np.where(totals > np.float32(SHORTEST * SHORTEST), np.minimum(tops, limits), tops)
        scales = np.divide(np.float32(0.5 * steps), tops, out=np.zeros(m, np.float32), where=tops > 0)
        rounded = (view * scales[:, None] + np.float32(0.5 * steps + 0.5)).astype(np.int32)
        levels = np.clip(rounded, 0, steps).astype(np.uint8)
    planes = np.stack([np.tile(packed((levels >> p) & 1 == 1, width), bits) for p in range(encoding)], axis=1)
    halves = tops / np.float32(steps)
    apart = 2 * levels.astype(np.int32) - steps
    errors, squares = np.full(m, np.inf), np.zeros(m)
    if kind != RABITQ:
        squares = (apart.astype(np.int64) ** 2).sum(1).astype(np.float64)
        errors[:] = 0
    elif whole:
        lost = view - halves[:, None] * apart.astype(np.float32)
        first, second = quantizer.error_scales.astype(np.float64) ** 2
        errors = np.sqrt(totals * first + dots(lost, lost) * second)
    product, corrected = ((1 << bits) - 1) * steps * lanes, int(kind == RABITQ)
    numbers = (offsets.tolist(), errors.tolist(), squares.tolist(), shares)
    return [
        EncodedQuery(planes[i], encoding, bits, width, corrected, halves[i], product, *each, np.float32(0), *of_codes)
        for i, each in enumerate(zip(*numbers, strict=True))
    ]


def _popcounts(words: U64) -> npt.NDArray[np.int64]:
    """The number of set bits in each row of words, uint64 (n, width)."""
    if hasattr(np, "bitwise_count"):
        return np.bitwise_count(words).sum(1, dtype=np.int64)
    return _SET_BITS[words.view(np.uint16)].sum(1, dtype=np.int64)  # numpy 1.26


def distances_of(words: U64, queries: list[EncodedQuery]) -> I64:
    """The distances of codes, uint64 (n, columns), from m queries: int64 (m, n) (`bits.measure`)."""
    first, m = queries[0], len(queries)
    bits, width, encoding = first.bits, first.width, first.encoding
    out = np.zeros((m, len(words)), np.int64)
    if m <= _FEW:
        for i, p in np.ndindex(m, bits):
            plane = words[:, p * width : (p + 1) * width]
            out[i] *= 2
            for q in range(encoding):
                out[i] += _popcounts(plane ^ queries[i].planes[q, :width]) << q
    else:
        # with u a query's levels and c those of a code, a sum of u (2^bits - 1) + c (2^encoding - 1 - 2 u)
        most, steps = (1 << bits) - 1, (1 << encoding) - 1
        exact: Any = np.float32 if most * steps * 64 * width < _SIGNIFICAND else np.float64
        values = np.zeros((len(words), 64 * width), np.uint8)
        for p in range(bits):
            values |= unpacked(words[:, p * width : (p + 1) * width]) << (bits - 1 - p)
        planes = unpacked(np.concatenate([query.planes[:encoding, :width] for query in queries]))
        levels = np.packbits(planes.reshape(m, encoding, -1), axis=1, bitorder="little")[:, 0]
        np.copyto(out, (steps - 2 * levels.astype(exact)) @ values.astype(exact).T, casting="unsafe")
        out += most * levels.sum(1, dtype=np.int64)[:, None]
    if first.corrected:
        add, factor = _corrections(words)
        halves = np.array([query.half for query in queries], np.float32)[:, None]
        shares = np.array([query.share for query in queries], np.float32)[:, None]
        out = _rank_of_estimate(shares * add + factor * (halves * (first.top - 2 * out).astype(np.float32)))
    return out


def _corrections(words: U64) -> tuple[F32, F32]:
    """The two floats at the end of a code: ``add`` and ``factor``."""
    floats = np.ascontiguousarray(words[:, -1:]).astype("<u8").view("<f4")
    return floats[:, 0], floats[:, 1]


def _rank_of_estimate(estimates: F32) -> I64:
    bits = (-estimates).view(np.int32)
    return ((bits ^ ((bits >> 31) & _LOW_31)) >> 2).astype(np.int64) + 0x2000_0000


def _estimate_of_rank(ranks: I64) -> F32:
    ordered = (ranks - 0x2000_0000) << 2
    return -(ordered ^ ((ordered >> 63) & _LOW_31)).astype(np.uint32).view(np.float32)


def _estimated_scores(estimates: npt.NDArray[np.float64], query: EncodedQuery, metric: int) -> F32:
    if metric == EUCLID:
        return (-np.sqrt(np.maximum(query.offset - 2 * estimates, 0))).astype(np.float32)
    scores = estimates + query.offset
    return (np.clip(scores, -1, 1) if metric == COSINE else scores).astype(np.float32)


def code_scores(distances: I64, query: EncodedQuery, metric: int) -> F32:
    """The scores for distances (`encode_query.code_score`)."""
    if query.corrected:
        return _estimated_scores(_estimate_of_rank(distances).astype(np.float64), query, metric)
    products = query.top - 2 * distances
    lanes = query.top // ((1 << query.encoding) - 1)
    if metric == COSINE:
        length = math.sqrt(query.square * lanes)
        return (products / length if length > 0 else np.zeros(len(products))).astype(np.float32)
    half = float(query.half)
    if metric == DOT:
        return (half * products).astype(np.float32)
    apart = half * half * query.square + lanes - 2 * half * products
    return (-np.sqrt(np.maximum(apart, 0))).astype(np.float32)


def score_bounds(words: U64, distances: I64, query: EncodedQuery, metric: int, prune: int) -> F32:
    """Upper bounds of the exact scores of codes (`encode_query.score_bound`)."""
    if not (query.corrected and prune) or query.encoding == BINARY or query.error == np.inf:
        return np.full(len(distances), np.inf, np.float32)
    errors = BOUND_DEVIATIONS * query.error * _corrections(words)[1].astype(np.float64)
    return _estimated_scores(_estimate_of_rank(distances).astype(np.float64) + errors, query, metric)
