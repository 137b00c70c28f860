"""Scan, exact scores, and rescoring with verified checksums."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from bqstore.kernels.layout import (
    BAD_QUERY,
    CHECKSUM_FACTOR,
    CHECKSUM_SEED,
    COSINE,
    DOT,
    EUCLID,
    FLOAT16,
    FLOAT32,
    LONGEST,
    OK,
    OUT_OF_RANGE,
    RECORD_HEADER_WORDS,
    SHORTEST,
    WORD_NORM,
    WORD_SCALE,
    Accept,
    Candidates,
    Codes,
    Hits,
    Originals,
    SearchSettings,
    quantizer_fits,
    records_fit,
)
from bqstore.kernels.plain.codes import blocks, dots, unpacked
from bqstore.kernels.plain.distances import code_scores, distances_of, encode_queries, score_bounds

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

_KEY_SHIFT = 32
_LOW_31 = 0x7FFF_FFFF


def _accepted(accept: Accept, n: int) -> npt.NDArray[np.int64]:
    """The accepted ordinals below n, ascending."""
    if len(accept.rows):
        return accept.rows[(accept.rows >= 0) & (accept.rows < n)].astype(np.int64)
    if accept.everything:
        return np.arange(n)
    return np.flatnonzero(unpacked(accept.words[None, : (n + 63) // 64])[0][:n])


def _smallest(keys: I64, count: int) -> I64:
    """The smallest keys of each row, in order."""
    if keys.shape[-1] > count:
        keys = np.partition(keys, count - 1, axis=-1)[..., :count] if count else keys[..., :0]
    return np.sort(keys, axis=-1)


def search_bits(
    queries: F32,
    codes: Codes,
    originals: Originals,
    accept: Accept,
    settings: SearchSettings,
    candidates: Candidates,
    hits: Hits,
) -> tuple[int, int]:
    """Scan all codes for the nearest to each query, and order these (`api.search_bits`)."""
    words, quantizer, metric = codes.words, codes.quantizer, originals.metric
    if not quantizer_fits(quantizer, queries.shape[1], words.shape[1]):
        return OUT_OF_RANGE, 0
    encoded = encode_queries(queries, quantizer, settings.encoding, metric)
    n = max(0, min(codes.n, len(words)))
    wide, k = candidates.ordinals.shape[1], hits.ordinals.shape[1]
    best = np.zeros((len(queries), 0), np.int64)
    for block in blocks(_accepted(accept, n), 8 * 64 * quantizer.width + 32 * len(queries)) if encoded else ():
        dense = len(block) == block[-1] - block[0] + 1
        some = words[block[0] : block[-1] + 1] if dense else words[block]
        keys = (distances_of(some, encoded) << _KEY_SHIFT) | block
        best = _smallest(np.concatenate([best, keys], axis=1), min(wide, n))
    bounds = np.empty((len(queries) if settings.rescoring else 0, wide), np.float32)
    candidates.ordinals[:], candidates.distances[:] = -1, -1
    for i, keys in enumerate(best):
        ordinals, distances = keys & 0xFFFF_FFFF, keys >> _KEY_SHIFT
        candidates.ordinals[i, : len(keys)], candidates.distances[i, : len(keys)] = ordinals, distances
        candidates.counts[i] = len(keys)
        if settings.rescoring:
            bounds[i, : len(keys)] = score_bounds(words[ordinals], distances, encoded[i], metric, settings.prune)
            continue
        ordinals, distances = ordinals[:k], distances[:k]
        if settings.prune:
            scores = score_bounds(words[ordinals], distances, encoded[i], metric, 1)
        else:
            scores = code_scores(distances, encoded[i], metric)
        _write_hits(hits, i, ordinals, scores)
    if settings.rescoring:
        first = settings.candidates if settings.max_candidates > 0 else wide
        return rescore(queries, originals, codes.n, candidates, bounds, first, hits)
    return OK, 0


def _decoded(records: npt.NDArray[np.uint32], dim: int, form: int) -> F32:
    """The vectors of records, float32 (n, dim)."""
    payload = np.ascontiguousarray(records[:, RECORD_HEADER_WORDS:])
    if form == FLOAT32:
        return payload.view(np.float32)[:, :dim]
    kept = payload.view(np.float16 if form == FLOAT16 else np.int8)[:, :dim].astype(np.float32)
    return records[:, WORD_SCALE, None].view(np.float32) * kept


def _are_sound(records: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
    """Whether each record's checksum is correct (`record_words` has the formula)."""
    places = np.arange(1, records.shape[1] + 1, dtype=np.uint64)
    keys = (places * np.uint64(CHECKSUM_FACTOR) & np.uint64(0xFFFF_FFFF)) | np.uint64(1)
    sums = (records[:, 2:] * keys[2:]).sum(1, dtype=np.uint64) + np.uint64(CHECKSUM_SEED)
    return np.asarray(sums == records[:, 0] | (records[:, 1].astype(np.uint64) << np.uint64(32)))


def _exact_scores(query: F32, vectors: F32, norms: F32, metric: int) -> F32:
    """The scores of vectors for a query (`exact_scores.vector_score`)."""
    if metric == EUCLID:
        apart = query - vectors
        return -np.sqrt(dots(apart, apart))
    scores = dots(vectors, query)
    if metric == DOT:
        return scores
    out = np.divide(scores, norms, out=np.zeros_like(scores), where=norms > 0)
    return np.clip(out, -1, 1)


def _portions(ordinals: npt.NDArray[np.int64], originals: Originals) -> Iterator[npt.NDArray[np.int64]]:
    return blocks(ordinals, 20 * originals.records.shape[1])


def _scored(
    queries: F32 | list[F32], originals: Originals, ordinals: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.bool_], list[I64]]:
    """Whether each of these records is sound, and for each query the keys of their scores."""
    records = originals.records[ordinals]
    vectors, norms = _decoded(records, originals.dim, originals.form), records[:, WORD_NORM].view(np.float32)
    scores = (_exact_scores(query, vectors, norms, originals.metric) for query in queries)
    return _are_sound(records), [_keys_of(each, ordinals) for each in scores]


def _keys_of(scores: F32, ordinals: npt.NDArray[np.int64]) -> I64:
    """Scores and ordinals as keys that order by (score descending, ordinal) (`heap.score_to_rank`)."""
    scores = np.where(np.isnan(scores), np.float32(-np.inf), scores + np.float32(0))  # -0 counts as 0
    bits = scores.view(np.int32)
    ranks = -1 - np.where(bits >= 0, bits, bits ^ np.int32(_LOW_31)).astype(np.int64)
    return (ranks << _KEY_SHIFT) | ordinals


def _scores_of(keys: I64) -> F32:
    bits = -1 - (keys >> _KEY_SHIFT)
    return np.where(bits < 0, bits ^ _LOW_31, bits).astype(np.uint32).view(np.float32)


def _write_hits(hits: Hits, query: int, ordinals: npt.NDArray[Any], scores: F32) -> None:
    hits.ordinals[query], hits.scores[query] = -1, np.nan
    hits.ordinals[query, : len(ordinals)], hits.scores[query, : len(ordinals)] = ordinals, scores


def prepare(queries: F32, metric: int, out: F32) -> int:
    """Copy queries to ``out``, at unit length under COSINE (`api.prepare`)."""
    rows = min(len(queries), len(out))
    with np.errstate(over="ignore", invalid="ignore"):
        squares = dots(queries[:rows], queries[:rows])
    sound = squares < np.float32(LONGEST * LONGEST)
    long_enough = squares > np.float32(SHORTEST * SHORTEST)
    if metric == COSINE:
        sound &= long_enough
    elif metric == DOT:
        sound &= long_enough | ~queries[:rows].any(1)
    if not sound.all():
        return BAD_QUERY
    out[:rows] = queries[:rows]
    if metric == COSINE:
        out[:rows] *= (1.0 / np.sqrt(squares.astype(np.float64))).astype(np.float32)[:, None]
    return OK


def search_exact(queries: F32, originals: Originals, n: int, accept: Accept, hits: Hits) -> int:
    """Score every accepted record for each query and keep the k best (`api.search_exact`)."""
    records, k = originals.records, max(0, min(hits.ordinals.shape[1], n))
    if n > 0 and (n > len(records) or not records_fit(originals, queries.shape[1])):
        return OUT_OF_RANGE
    best = [np.zeros(0, np.int64) for _ in queries]
    for block in _portions(_accepted(accept, max(0, n)), originals) if k and len(queries) else ():
        sound, keys = _scored(queries, originals, block)
        if not sound.all():
            return int(block[np.argmin(sound)])
        for i, own in enumerate(keys):
            best[i] = _smallest(np.concatenate([best[i], own]), k)
    for i, own in enumerate(best):
        _write_hits(hits, i, own & 0xFFFF_FFFF, _scores_of(own))
    return OK


def rescore(
    queries: F32, originals: Originals, n: int, candidates: Candidates, bounds: F32, first: int, hits: Hits
) -> tuple[int, int]:
    """Order each query's candidates by exact score and keep the k best (`api.rescore`)."""
    wide = candidates.ordinals.shape[1]
    if len(bounds) < 1 or bounds.shape[1] < wide:
        return OUT_OF_RANGE, 0
    limit = min(n, len(originals.records)) if records_fit(originals, queries.shape[1]) else 0
    total = 0
    for i, query in enumerate(queries):
        ordinals = candidates.ordinals[i, : min(int(candidates.counts[i]), wide)].astype(np.int64)
        if ((ordinals < 0) | (ordinals >= limit)).any():
            return OUT_OF_RANGE, total
        own = bounds[min(i, len(bounds) - 1)]
        k = min(hits.ordinals.shape[1], wide)
        status, read, best = _rescored(query, originals, ordinals, own, first, k)
        total += read
        if status != OK:
            return status, total
        _write_hits(hits, i, best & 0xFFFF_FFFF, _scores_of(best))
    return OK, total


def _rescored(
    query: F32, originals: Originals, ordinals: npt.NDArray[np.int64], bounds: F32, first: int, k: int
) -> tuple[int, int, I64]:
    """The status, the records read, and the k best keys of one query's candidates (`exact_scores.rescore_row`)."""
    best = np.zeros(0, np.int64)
    read, start, last, stop = 0, 0, -1, min(len(ordinals), max(1, first))
    while start < stop:
        scored = [_scored([query], originals, part) for part in _portions(ordinals[start:stop], originals)]
        sound, keys = np.concatenate([each[0] for each in scored]), np.concatenate([each[1][0] for each in scored])
        for i, key in enumerate(keys, start):
            if len(best) == k and k > 0 and bounds[i] < _scores_of(best[-1:])[0]:
                continue
            read += 1
            if not sound[i - start]:
                return int(ordinals[i]), read, best
            if k > 0 and (len(best) < k or key < best[-1]):
                last = i
                best = np.insert(best, np.searchsorted(best, key), key)[:k]
        start = stop
        if last >= stop >> 1:
            stop = min(len(ordinals), stop + max(1, first))
    return OK, read, best
