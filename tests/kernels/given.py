"""What the kernel tests are given: arrays of the production types, small under NUMBA_DISABLE_JIT."""

from __future__ import annotations

import numba
import numpy as np

from bqstore.kernels import layout

INTERPRETED = bool(numba.config.DISABLE_JIT)
DIMS = (1, 2, 63, 64, 65, 127) if INTERPRETED else (1, 2, 63, 64, 65, 127, 384, 1536, 3072, 16384)
METRICS = (layout.COSINE, layout.DOT, layout.EUCLID)
FORMS = (layout.FLOAT32, layout.FLOAT16, layout.INT8)


def whole_vectors(rng, n, dim):
    """float32 (n, dim) of small whole numbers: their sums are exact, and many tie."""
    return rng.integers(-2, 3, (n, dim)).astype(np.float32)


def make_codes(vectors, spare=0):
    from tests import naive

    words = naive.pack_signs(vectors)
    rest = np.full((spare, words.shape[1]), 0xFFFF_FFFF_FFFF_FFFF, np.uint64)
    return layout.Codes(np.concatenate([words, rest]), len(vectors))


def make_accept(flags):
    """The bitmap of bool (n,); None accepts everything."""
    if flags is None:
        return layout.Accept(np.zeros(0, np.uint64), 1)
    padded = np.zeros(-(-len(flags) // 64) * 64, bool)
    padded[: len(flags)] = flags
    return layout.Accept(np.packbits(padded, bitorder="little").view(np.uint64), 0)


def make_candidates(m, c):
    return layout.Candidates(np.full((m, c), 77, np.int32), np.full((m, c), 77, np.int32), np.full(m, 77, np.int64))


def make_hits(m, k):
    return layout.Hits(np.full((m, k), 77, np.int32), np.full((m, k), 77, np.float32))


def no_originals(dim, metric):
    records = np.zeros((0, layout.RECORD_HEADER_WORDS), np.uint32)
    records.flags.writeable = False
    return layout.Originals(records, dim, layout.FLOAT32, metric)


def damage(originals, ordinal, word, bit):
    """The same originals with one bit of one record turned over."""
    records = originals.records.copy()
    records[ordinal, word] ^= np.uint32(1 << bit)
    records.flags.writeable = False
    return originals._replace(records=records)


def assert_hits(hits, query, expected):
    """Row ``query`` of ``hits`` is the expected [(score, ordinal)], then padding."""
    count = len(expected)
    assert hits.ordinals[query, :count].tolist() == [o for _, o in expected]
    np.testing.assert_array_equal(hits.scores[query, :count], np.array([s for s, _ in expected], np.float32))
    assert (hits.ordinals[query, count:] == -1).all()
    assert np.isnan(hits.scores[query, count:]).all()
