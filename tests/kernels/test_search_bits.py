from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bqstore.kernels import api, layout, nearest, scan
from tests import naive
from tests.kernels.given import (
    DIMS,
    ENCODINGS,
    FORMS,
    INTERPRETED,
    METRICS,
    assert_code_hits,
    assert_hits,
    codes_of,
    damage,
    examples,
    make_accept,
    make_candidates,
    make_codes,
    make_hits,
    make_list,
    make_settings,
    no_originals,
    whole_vectors,
)


def assert_candidates(candidates, query, expected):
    count = len(expected)
    assert candidates.counts[query] == count
    assert candidates.distances[query, :count].tolist() == [d for d, _ in expected]
    assert candidates.ordinals[query, :count].tolist() == [o for _, o in expected]
    assert (candidates.ordinals[query, count:] == -1).all()


def check(vectors, queries, accept, c, k, metric, form=None, encoding=layout.BINARY):
    """Search and compare candidates and hits with the naive version's."""
    m, dim = queries.shape
    codes = make_codes(vectors, spare=3)
    candidates, hits = make_candidates(m, c), make_hits(m, k)
    originals = no_originals(dim, metric) if form is None else naive.make_originals(vectors, form, metric)
    way = make_settings(rescoring=int(form is not None), encoding=encoding)
    status, read = api.search_bits(queries, codes, originals, accept, way, candidates, hits)
    assert (status, read) == (layout.OK, int(candidates.counts.sum()) if way.rescoring else 0)
    for i, query in enumerate(queries):
        near = naive.nearest_codes(query, codes, accept, c, encoding)
        assert_candidates(candidates, i, near)
        if way.rescoring:
            assert_hits(hits, i, naive.best_scores(query, originals, [o for _, o in near], k))
        else:
            assert_code_hits(hits, i, query, codes, [o for _, o in near[:k]], encoding, metric)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", DIMS)
def test_codes_alone(dim, metric, encoding):
    rng = np.random.default_rng(dim)
    vectors, queries = whole_vectors(rng, 20, dim), whole_vectors(rng, 2, dim)
    check(vectors, queries, make_accept(None), 12, 5, metric, encoding=encoding)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("metric", METRICS)
def test_rescored(metric, form, encoding):
    for dim in DIMS[:-1]:
        rng = np.random.default_rng(dim)
        accept = make_accept(rng.random(20) < 0.7)
        vectors, queries = whole_vectors(rng, 20, dim), whole_vectors(rng, 2, dim)
        check(vectors, queries, accept, 9, 4, metric, form, encoding)


@settings(max_examples=examples(80), deadline=None)
@given(
    n=st.integers(0, 90 if INTERPRETED else 1200),
    m=st.integers(0, 3),
    c=st.integers(0, 300),
    k=st.integers(0, 12),
    density=st.sampled_from([None, 0.0, 0.02, 0.5, 1.0]),
    encoding=st.sampled_from(ENCODINGS),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_sizes_and_filters(n, m, c, k, density, encoding, seed):
    rng = np.random.default_rng(seed)
    accept = make_accept(None if density is None else rng.random(n) < density)
    check(whole_vectors(rng, n, 5), whole_vectors(rng, m, 5), accept, c, k, layout.DOT, encoding=encoding)


@pytest.mark.skipif(INTERPRETED, reason="too many codes")
@pytest.mark.parametrize("c", [1, 10, 500, 5000, 6000])
def test_buffers_are_cut_back_many_times(c):
    rng = np.random.default_rng(c)
    vectors = whole_vectors(rng, 5000, 20)
    # nearer and nearer: the worst case for the buffer
    order = np.argsort([-naive.hamming(code, [0]) for code in naive.pack_signs(vectors)])
    query = -np.ones((1, 20), np.float32)
    check(vectors[order], query, make_accept(None), c, 10, layout.COSINE)
    check(np.ascontiguousarray(vectors[order[::-1]]), query, make_accept(None), c, 10, layout.COSINE)


@pytest.mark.skipif(not INTERPRETED, reason="a compiled kernel has its constants built in")
@pytest.mark.parametrize("share", [1, 0.1])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_small_buffers_and_caches(monkeypatch, encoding, share):
    """What compiled kernels do with thousands of codes: buffers are cut back, and scattered codes are prefetched."""
    monkeypatch.setattr(nearest, "SLACK", 1)
    monkeypatch.setattr(scan, "CACHED_WORDS", 0)
    rng = np.random.default_rng(0)
    accept = make_accept(rng.random(600) < share)
    check(whole_vectors(rng, 600, 5), whole_vectors(rng, 2, 5), accept, 20, 5, layout.DOT, encoding=encoding)


def test_a_cut_keeps_the_lowest_ordinals_of_a_tie():
    size = 700
    state = nearest.make_nearest(1, 3, size, 64)
    rows, distances = np.empty(nearest.BLOCK, np.int32), np.full(nearest.BLOCK, 7, np.int32)
    for first in range(0, 512, nearest.BLOCK):
        rows[:] = np.arange(first, first + nearest.BLOCK)
        nearest.offer_block(state, 0, 3, rows, distances, nearest.BLOCK)
    candidates = make_candidates(1, 4)
    nearest.write_candidates(state, 3, candidates)
    assert_candidates(candidates, 0, [(7, 0), (7, 1), (7, 2)])


def test_an_accept_bitmap_shorter_than_the_codes_accepts_no_more():
    vectors = whole_vectors(np.random.default_rng(0), 150, 8)
    check(vectors, vectors[:1].copy(), make_accept(np.ones(64, bool)), 100, 100, layout.DOT)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_list_of_ordinals_takes_the_place_of_a_bitmap(encoding):
    """A few, and more than a block of them; those that are none are left out: they would be read from beyond."""
    n = 70 if INTERPRETED else 700
    rng = np.random.default_rng(0)
    vectors, queries = whole_vectors(rng, n, 8), whole_vectors(rng, 3, 8)
    few, most = [0, 9, n - 1], np.flatnonzero(rng.random(n) < 0.9).tolist()
    for rows in (few, most, [-5, *few, n + 3, n + 4, 2**31 - 1], [-1], [n + 3]):
        check(vectors, queries, make_list(rows), 20, 5, layout.DOT, encoding=encoding)
    check(vectors, queries, make_list(most), 20, 5, layout.COSINE, FORMS[0], encoding)


def test_bits_past_n_are_ignored():
    vectors = whole_vectors(np.random.default_rng(0), 70, 8)
    accept = layout.Accept(np.full(4, 0xFFFF_FFFF_FFFF_FFFF, np.uint64), 0)
    check(vectors, vectors[:1].copy(), accept, 200, 200, layout.DOT)
    accept.words[1] -= np.uint64(1)
    check(vectors, vectors[:1].copy(), accept, 200, 200, layout.DOT)


@pytest.mark.parametrize("n", [200, 10**9])
def test_n_past_the_array_is_not_believed(n):
    vectors = whole_vectors(np.random.default_rng(0), 20, 8)
    candidates, hits = make_candidates(1, 50), make_hits(1, 5)
    codes = make_codes(vectors)._replace(n=n)
    api.search_bits(
        vectors[:1].copy(), codes, no_originals(8, layout.DOT), make_accept(None), make_settings(), candidates, hits
    )
    assert candidates.counts[0] == 20


def test_rescoring_without_originals_is_out_of_range():
    vectors = whole_vectors(np.random.default_rng(0), 20, 8)
    originals = no_originals(8, layout.DOT)
    args = (vectors[:1].copy(), make_codes(vectors), originals, make_accept(None))
    status, read = api.search_bits(*args, make_settings(rescoring=1), make_candidates(1, 5), make_hits(1, 5))
    assert (status, read) == (layout.OUT_OF_RANGE, 0)


@pytest.mark.parametrize("form", FORMS)
def test_damage_is_reported_when_a_candidate_and_only_then(form):
    rng = np.random.default_rng(1)
    vectors = whole_vectors(rng, 40, 24)
    query = vectors[:1].copy()
    codes, accept = make_codes(vectors), make_accept(None)
    chosen = [o for _, o in naive.nearest_codes(query[0], codes, accept, 6)]
    sound = naive.make_originals(vectors, form, layout.COSINE)
    for ordinal in range(40):
        bad = damage(sound, ordinal, ordinal % sound.records.shape[1], ordinal % 32)
        status, _ = api.search_bits(
            query, codes, bad, accept, make_settings(rescoring=1), make_candidates(1, 6), make_hits(1, 3)
        )
        assert status == (ordinal if ordinal in chosen else layout.OK)


@pytest.mark.skipif(INTERPRETED, reason="8 MB of codes take minutes without compilation; run without NUMBA_DISABLE_JIT")
@pytest.mark.parametrize("share", [1, 0.9, 0.1, 0.001])
def test_a_scan_that_asks_ahead_finds_the_same(share):
    """Past 8 MB of codes the scan prefetches, also codes that lie apart: the same answer as counting with numpy."""
    rng = np.random.default_rng(5)
    n, words = 20_000, 64
    codes = codes_of(rng.integers(0, 2**64, (n, words), dtype=np.uint64), 64 * words)
    queries = rng.standard_normal((2, 64 * words)).astype(np.float32)
    candidates, hits = make_candidates(2, 50), make_hits(2, 10)
    empty = no_originals(64 * words, layout.DOT)
    flags = rng.random(n) < share
    accept = make_accept(None if share == 1 else flags)
    status, _ = api.search_bits(queries, codes, empty, accept, make_settings(), candidates, hits)
    assert status == layout.OK
    for i, query in enumerate(queries):
        bits = np.packbits(query > 0, bitorder="little").view(np.uint64)
        distances = np.unpackbits((codes.words ^ bits).view(np.uint8), axis=1).sum(axis=1)
        order = np.lexsort((np.arange(n), distances))
        order = order[flags[order]][:50]
        found = candidates.counts[i]
        assert found == len(order) and candidates.ordinals[i, :found].tolist() == order.tolist()
        assert candidates.distances[i, :found].tolist() == distances[order].tolist()
