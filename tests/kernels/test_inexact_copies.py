"""Nodes with the same signs and other floats: each is found with an estimate of its own, wherever it is in its list."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bqstore.kernels import api, encode_query, layout
from bqstore.kernels.layout import DOT, EUCLID
from tests import naive
from tests.kernels.given import (
    ENCODINGS,
    INTERPRETED,
    METRICS,
    corrected,
    distances_from,
    encoded_as,
    encoded_query,
    examples,
    grown,
    make_accept,
    make_hits,
    make_scratch,
    make_settings,
    no_originals,
    random_graph,
    some_levels,
    some_turns,
    whole_vectors,
)
from tests.kernels.test_walk import kept

DIM, M = 24, 4
BITS = (1, 2, 4)
SCALES = (1, 2, 3, 0.5, 5)
every_bits = pytest.mark.parametrize("bits", BITS)
every_encoding = pytest.mark.parametrize("encoding", ENCODINGS)


def scaled(rng, directions, dim=DIM, scales=SCALES):
    """Vectors of whole numbers, each in every length, in any order: as many signs as directions, or fewer."""
    vectors = whole_vectors(rng, directions, dim)
    vectors[(vectors == 0).all(1)] = 1
    return rng.permutation(np.concatenate([np.float32(scale) * vectors for scale in scales]))


def search(query, codes, graph, metric, way, k, accept=None):
    n, width = len(codes.words), codes.quantizer.width
    scratch, hits = (
        make_scratch(n, width, M, way.max_beam, way.candidates, k, codes.quantizer.lanes, codes.quantizer.bits),
        make_hits(1, k),
    )
    accept = make_accept(None) if accept is None else accept
    originals = no_originals(codes.quantizer.lanes, metric)
    return api.search_graph(query, codes, graph, originals, accept, way, scratch, hits), hits


@every_bits
@every_encoding
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.long
def test_each_is_found_with_its_own_estimate(metric, encoding, bits):
    """All of them, by a beam that holds all, and in the order of a scan; also those behind the graph.

    Of several bits lengths make other codes, and no lists; and by products few link to the short ones: not all are met.
    """
    rng = np.random.default_rng(bits)
    vectors = scaled(rng, 6 if INTERPRETED else 30)
    n = len(vectors)
    codes = encoded_as(corrected(bits, np.zeros(DIM, np.float32)), vectors, metric)
    graph = grown(codes, M, 40, some_levels(rng, n, 3), n - 3)
    assert api.check_graph(graph) == 0
    query = whole_vectors(rng, 1, DIM)
    all_met = bits == 1 or metric != DOT
    count = n if all_met else n // 4
    status, hits = search(query, codes, graph, metric, make_settings(n, n, count, encoding=encoding), count)
    assert status == layout.OK
    prepared = naive.prepare(query[0], metric)
    held = encoded_query(codes.quantizer, prepared, encoding, metric)
    ranks = distances_from(held, codes)
    assert len(set(hits.ordinals[0].tolist())) == count
    scores = [encode_query.code_score(int(ranks[o]), held, metric) for o in hits.ordinals[0]]
    np.testing.assert_allclose(hits.scores[0], scores, rtol=1e-5, atol=1e-5)
    if metric == DOT:
        assert len(set(ranks.tolist())) > n / 3  # the lengths tell
    found = list(zip(ranks[hits.ordinals[0]].tolist(), hits.ordinals[0].tolist(), strict=True))
    assert found == sorted(found)
    assert not all_met or [o for _, o in found] == np.lexsort((np.arange(n), ranks)).tolist()


LISTS = [order for size in (2, 3) for order in itertools.product((1.0, 3.0), repeat=size) if 3.0 in order]


@every_bits
@pytest.mark.parametrize("order", LISTS)
def test_the_longest_is_found_whatever_comes_before_it(order, bits):
    """Copies of the first node, as long or three times so, in a beam that is full: a list is read to its end."""
    rng = np.random.default_rng(0)
    vectors = whole_vectors(rng, 30, DIM)
    vectors[7] = rng.choice([-1, 1], DIM)
    query = vectors[7:8].copy()
    vectors = np.concatenate([vectors, [np.float32(scale) * query[0] for scale in order]])
    codes = encoded_as(corrected(bits, np.zeros(DIM, np.float32)), vectors, DOT)
    graph = grown(codes, M, 40, some_levels(rng, len(vectors), 3))
    longest = [30 + i for i, scale in enumerate(order) if scale == 3]
    if bits == 1:  # signs are all that counts; of several bits only whole copies are in a list
        assert naive.copies_of(graph, 7) == list(range(len(vectors) - 1, 29, -1))
    else:
        assert naive.copies_of(graph, 7) == [30 + i for i, scale in enumerate(order) if scale == 1][::-1]
        assert naive.copies_of(graph, longest[0]) == longest[:0:-1]
    for ef, encoding in itertools.product((1, 2, 3, 8), ENCODINGS):
        status, hits = search(query, codes, graph, DOT, make_settings(ef, ef, 1, encoding=encoding), 1)
        assert status == layout.OK and hits.ordinals[0, 0] in longest, (ef, encoding)


@every_bits
@pytest.mark.parametrize("scale", [0.25, 4.0])
def test_the_only_one_that_is_accepted_is_found(scale, bits):
    """Room for all, a beam of one: the walk goes through the others."""
    rng = np.random.default_rng(0)
    vectors = whole_vectors(rng, 20, DIM)
    copies = np.repeat(vectors[3:4], 6, axis=0)
    copies[2] *= scale
    codes = encoded_as(corrected(bits, np.zeros(DIM, np.float32)), np.concatenate([vectors, copies]), EUCLID)
    graph = grown(codes, M, 40, some_levels(rng, 26, 3))
    for only in range(20, 26):
        for encoding, ef in itertools.product(ENCODINGS, (1, 5)):
            way, accept = make_settings(ef, 26, 1, encoding=encoding), make_accept(np.arange(26) == only)
            status, hits = search(vectors[3:4].copy(), codes, graph, EUCLID, way, 1, accept)
            assert (status, hits.ordinals[0, 0]) == (layout.OK, only)


@settings(max_examples=examples(150), deadline=None)
@given(
    n=st.integers(1, 50),
    tail=st.integers(0, 12),
    m=st.integers(2, 5),
    dim=st.sampled_from([1, 4, 16]),
    ef=st.integers(1, 30),
    slack=st.integers(0, 20),
    density=st.sampled_from([None, 1.0, 0.5, 0.1]),
    bits=st.sampled_from(BITS),
    encoding=st.sampled_from(ENCODINGS),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_beam_of_estimates_is_that_of_the_naive_version(n, tail, m, dim, ef, slack, density, bits, encoding, seed):
    """Of whole numbers, so that every way to add them up gives the same; few dimensions make long lists."""
    rng = np.random.default_rng(seed)
    vectors = whole_vectors(rng, n + tail, dim)
    codes = encoded_as(corrected(bits, np.zeros(dim, np.float32)), vectors, DOT, spare=3)
    query = whole_vectors(rng, 1, dim)
    alike = codes.words[:, :1].copy() if bits == 1 else codes.words
    graph = random_graph(rng, n, m, alike, len(codes.words))
    accept = make_accept(None if density is None else rng.random(n + tail) < density)
    way = make_settings(ef, ef + slack, 0, encoding=encoding)
    scratch = make_scratch(len(codes.words), 1, m, way.max_beam, dim=dim, bits=bits)
    arrays = codes, graph, no_originals(dim, DOT), accept, way, scratch, make_hits(1, 1)
    with np.errstate(all="ignore"):  # of the spare ones, whose floats are nonsense
        assert api.search_graph(query, *arrays) == layout.OK
        ranks = distances_from(encoded_query(codes.quantizer, query[0], encoding), codes._replace(n=len(codes.words)))
    expected = naive.walk(query[0], codes, graph, accept, way, lambda o: int(ranks[o]))
    pairs, flags, _ = kept(scratch)
    assert pairs == expected.kept
    assert flags == [int(expected.accepts(o)) for _, o in expected.kept]


def test_rotated_vectors_of_one_direction_stay_in_one_list():
    """The signs after the rotation are those of the direction, however long a vector is."""
    rng = np.random.default_rng(0)
    direction = rng.standard_normal(DIM)
    vectors = np.array([scale * direction for scale in (1, 0.5, 2, 4, 0.25)], np.float32)
    codes = encoded_as(corrected(1, np.zeros(DIM, np.float32), some_turns(rng, DIM)), vectors, DOT)
    assert (codes.words[:, 0] == codes.words[0, 0]).all()
    graph = grown(codes, M, 10, np.zeros(5, np.uint8))
    assert naive.copies_of(graph, 0) == [4, 3, 2, 1]
    status, hits = search(vectors[:1].copy(), codes, graph, DOT, make_settings(5, 5, 5, encoding=4), 5)
    assert (status, hits.ordinals[0].tolist()) == (layout.OK, [3, 2, 0, 1, 4])
