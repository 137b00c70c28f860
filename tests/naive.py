"""The slow, obvious twin of every kernel: pure NumPy and Python, written from the definitions, for tests to compare."""

from __future__ import annotations

import math

import numpy as np

from bqstore.kernels import layout


def pack_signs(vectors):
    """uint64 (m, W): bit j % 64 of word j // 64 is 1 iff the value is > 0."""
    out = np.zeros((len(vectors), -(-vectors.shape[1] // 64)), np.uint64)
    for i, vector in enumerate(vectors):
        for j in np.flatnonzero(vector > 0):
            out[i, j // 64] |= np.uint64(1 << (int(j) % 64))
    return out


def hamming(a, b):
    """The number of bits in which two codes differ."""
    return sum((int(x) ^ int(y)).bit_count() for x, y in zip(a, b, strict=True))


def code_score(distance, dim, metric):
    """The metric of two vectors of +1 and -1 that differ in ``distance`` places."""
    if metric == layout.COSINE:
        return np.float32((dim - 2 * distance) / dim)
    if metric == layout.DOT:
        return np.float32(dim - 2 * distance)
    return np.float32(-math.sqrt(4 * distance))


def sum64(record):
    """The checksum of a record, from its words 2 on."""
    total = 0x6271_7374_6F72_6531
    for j in range(2, len(record)):
        total += ((0x9E37_79B1 * (j + 1)) % 2**32 | 1) * int(record[j])
    return total % 2**64


def seal(records):
    """Write the checksum of every record into its first two words."""
    for record in records:
        total = sum64(record)
        record[0], record[1] = total % 2**32, total >> 32


def make_originals(vectors, form, metric):
    """The read-only records of vectors, float32 (n, dim)."""
    n, dim = vectors.shape
    records = np.zeros((n, layout.words_per_record(dim, form)), np.uint32)
    floats = records.view(np.float32)
    scale = np.ones(n, np.float32)
    if form == layout.FLOAT32:
        kept = vectors
        floats[:, 8 : 8 + dim] = vectors
    elif form == layout.FLOAT16:
        halves = vectors.astype(np.float16)
        records.view(np.float16)[:, 16 : 16 + dim] = halves
        kept = halves.astype(np.float32)
    else:
        scale = np.maximum(np.abs(vectors).max(axis=1), np.float32(1e-20)) / np.float32(127)
        # a power of two keeps whole numbers whole, so that tests may ask for exact scores
        scale = np.exp2(np.ceil(np.log2(scale))).astype(np.float32)
        small = np.rint(vectors / scale[:, None]).astype(np.int8)
        records.view(np.int8)[:, 32 : 32 + dim] = small
        kept = scale[:, None] * small
    records[:, 2] = np.arange(n)
    floats[:, 4] = np.sqrt((kept.astype(np.float64) ** 2).sum(axis=1))
    floats[:, 5] = scale
    seal(records)
    records.flags.writeable = False
    return layout.Originals(records, dim, form, metric)


def read_vector(originals, ordinal):
    """float32 (dim,): the vector that a record holds."""
    record, dim = originals.records[ordinal], originals.dim
    if originals.form == layout.FLOAT32:
        return record.view(np.float32)[8 : 8 + dim]
    if originals.form == layout.FLOAT16:
        return record.view(np.float16)[16 : 16 + dim].astype(np.float32)
    return record.view(np.float32)[5] * record.view(np.int8)[32 : 32 + dim]


def score(query, originals, ordinal):
    """The exact score of a query and a record, summed in float64."""
    vector = read_vector(originals, ordinal).astype(np.float64)
    query = query.astype(np.float64)
    if originals.metric == layout.EUCLID:
        return np.float32(-math.sqrt(((query - vector) ** 2).sum()))
    product = np.float32(query @ vector)
    if originals.metric == layout.DOT:
        return product
    norm = originals.records[ordinal].view(np.float32)[4]
    return np.clip(product / norm, np.float32(-1), np.float32(1)) if norm > 0 else np.float32(0)


def accepted(accept, n):
    """The accepted ordinals below n, ascending."""
    if accept.everything:
        return list(range(n))
    limit = min(n, 64 * len(accept.words))
    return [o for o in range(limit) if int(accept.words[o // 64]) >> (o % 64) & 1]


def nearest_codes(query, codes, accept, c):
    """The c nearest (distance, ordinal), ascending."""
    packed = pack_signs(query[None])[0]
    return sorted((hamming(packed, codes.words[o]), o) for o in accepted(accept, codes.n))[:c]


def best_scores(query, originals, ordinals, k):
    """The k best (score, ordinal) among some ordinals, by score descending, then ordinal."""
    scored = [(score(query, originals, o), o) for o in ordinals]
    return sorted(scored, key=lambda pair: (-pair[0], pair[1]))[:k]
