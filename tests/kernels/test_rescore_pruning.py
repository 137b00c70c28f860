"""Leaving originals unread that cannot be among the hits: the same hits of fewer records; nothing unread matters."""

from __future__ import annotations

import numpy as np
import pytest

from bqstore.kernels import api, layout
from bqstore.kernels.layout import COSINE, COUNT_RESCORED, DOT
from tests import naive
from tests.conftest import clustered
from tests.kernels.given import (
    ENCODINGS,
    FORMS,
    INTERPRETED,
    METRICS,
    corrected,
    damage,
    encoded_as,
    grown,
    make_accept,
    make_candidates,
    make_hits,
    make_scratch,
    make_settings,
    measured_spread,
    signs,
    some_levels,
    some_turns,
)

BITS = (1, 2, 4)
N, DIM = (60, 64) if INTERPRETED else (600, 192)
QUERIES = 2 if INTERPRETED else 15
WIDE, K = 40, 5
every_encoding = pytest.mark.parametrize("encoding", ENCODINGS)
every_metric = pytest.mark.parametrize("metric", METRICS)
every_bits = pytest.mark.parametrize("bits", BITS)


class Given:
    """Clustered vectors, queries from the same clusters, and codes whose quantizer knows how wrong they are."""

    def __init__(self, bits, metric, rounds=4, form=layout.FLOAT32):
        rng = np.random.default_rng(bits)
        both = clustered(N + QUERIES, DIM, 1, 6) / np.float32(np.sqrt(DIM))
        self.vectors, queries = both[:N], np.ascontiguousarray(both[N:])
        self.queries = np.array([naive.prepare(query, metric) for query in queries])
        units = np.array([naive.unit(vector, metric) for vector in self.vectors])
        mean, turns = units.mean(0).astype(np.float32), some_turns(rng, DIM, rounds)
        quantizer = corrected(bits, mean, turns)
        codes = encoded_as(quantizer, self.vectors, metric)
        rests = (units - mean) @ naive.rotation(turns).T
        self.codes = codes._replace(quantizer=quantizer._replace(error_scales=measured_spread(codes, rests)))
        self.originals = naive.make_originals(self.vectors, form, metric)

    def scan(self, way, originals=None, queries=None):
        """(status, read), candidates and hits of a scan."""
        queries = self.queries if queries is None else queries
        candidates, hits = make_candidates(len(queries), WIDE), make_hits(len(queries), K if way.rescoring else WIDE)
        originals = self.originals if originals is None else originals
        found = api.search_bits(queries, self.codes, originals, make_accept(None), way, candidates, hits)
        return found, candidates, hits


def same(found, expected):
    np.testing.assert_array_equal(found.ordinals, expected.ordinals)
    np.testing.assert_array_equal(found.scores, expected.scores)


@every_bits
@every_encoding
@every_metric
def test_a_scan_with_pruning_finds_the_same(metric, encoding, bits):
    given = Given(bits, metric)
    (status, read), _, all_read = given.scan(make_settings(rescoring=1, encoding=encoding))
    assert (status, read) == (layout.OK, QUERIES * WIDE)
    (status, read), _, spared = given.scan(make_settings(rescoring=1, encoding=encoding, prune=1))
    assert status == layout.OK and QUERIES * K <= read <= QUERIES * WIDE
    same(spared, all_read)
    if bits == 4 and encoding != layout.BINARY and not INTERPRETED:
        assert read < QUERIES * WIDE


@every_bits
@every_encoding
@every_metric
def test_a_walk_with_pruning_finds_the_same(metric, encoding, bits):
    given = Given(bits, metric)
    graph = grown(given.codes, 4, 40, some_levels(np.random.default_rng(0), N, 3), N - 9)
    found = []
    for prune in (0, 1):
        way = (
            make_settings(3 * WIDE, 3 * WIDE, WIDE, 1, encoding, prune)
            if N > 3 * WIDE
            else make_settings(N, N, WIDE, 1)
        )
        way = way._replace(encoding=encoding, prune=prune)
        scratch = make_scratch(
            N, given.codes.quantizer.width, 4, way.max_beam, WIDE, K, DIM, given.codes.quantizer.bits
        )
        hits, arrays = make_hits(QUERIES, K), (given.codes, graph, given.originals, make_accept(None))
        assert api.search_graph(given.queries, *arrays, way, scratch, hits) == layout.OK
        found.append((int(scratch.counters[COUNT_RESCORED]), hits))
    assert found[0][0] == QUERIES * WIDE and QUERIES * K <= found[1][0] <= found[0][0]
    same(found[1][1], found[0][1])
    if bits == 4 and encoding != layout.BINARY and not INTERPRETED:
        assert found[1][0] < found[0][0]


@pytest.mark.parametrize("encoding", ENCODINGS[1:])
@pytest.mark.parametrize("form", FORMS)
def test_what_is_read_is_what_the_naive_version_reads(form, encoding):
    """In the order of the estimates, all that may be better than the worst of the best until then."""
    for metric in METRICS:
        given = Given(4, metric, form=form)
        (_, none), candidates, told = given.scan(make_settings(encoding=encoding, prune=1))
        assert none == 0
        (_, read), _, _ = given.scan(make_settings(rescoring=1, encoding=encoding, prune=1))
        expected = 0
        for i, query in enumerate(given.queries):
            order = candidates.ordinals[i].tolist()
            assert told.ordinals[i].tolist() == order
            scores = [naive.score(query, given.originals, o) for o in order]
            expected += len(naive.read_of(told.scores[i].tolist(), scores, K))
        assert abs(read - expected) <= 1  # scores that agree to the last bit or so


@pytest.mark.parametrize("encoding", ENCODINGS[1:])
def test_a_damaged_record_is_noticed_if_it_is_read_and_only_then(encoding):
    given = Given(4, COSINE)
    way = make_settings(rescoring=1, encoding=encoding, prune=1)
    query = given.queries[:1].copy()
    _, candidates, told = given.scan(make_settings(encoding=encoding, prune=1), queries=query)
    order = candidates.ordinals[0].tolist()
    scores = [naive.score(query[0], given.originals, o) for o in order]
    read = {order[i] for i in naive.read_of(told.scores[0].tolist(), scores, K)}
    assert len(read) >= K and (len(read) < WIDE or encoding == layout.SCALAR_4_BITS or INTERPRETED)
    _, _, sound = given.scan(way, queries=query)
    for at, ordinal in enumerate(order):
        bad = damage(given.originals, ordinal, at % given.originals.records.shape[1], at % 32)
        (status, _), _, hits = given.scan(way, bad, query)
        assert status == (ordinal if ordinal in read else layout.OK)
        if status == layout.OK:
            same(hits, sound)
        (status, _), _, _ = given.scan(way._replace(prune=0), bad, query)
        assert status == ordinal  # all are read


@every_encoding
def test_codes_without_a_known_error_prune_nothing(encoding):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((N, DIM)).astype(np.float32)
    codes, originals = encoded_as(signs(DIM), vectors), naive.make_originals(vectors, layout.FLOAT32, DOT)
    candidates, hits = make_candidates(1, WIDE), make_hits(1, K)
    way = make_settings(rescoring=1, encoding=encoding, prune=1)
    found = api.search_bits(vectors[:1].copy(), codes, originals, make_accept(None), way, candidates, hits)
    assert found == (layout.OK, WIDE)
    told = make_hits(1, WIDE)
    way = way._replace(rescoring=0)
    api.search_bits(vectors[:1].copy(), codes, originals, make_accept(None), way, candidates, told)
    assert (told.scores == np.inf).all()


# ---- rescoring what was told before


def rescored(originals, query, ordinals, bounds, k):
    candidates, hits = make_candidates(1, len(ordinals)), make_hits(1, k)
    candidates.ordinals[0], candidates.counts[0] = ordinals, len(ordinals)
    bounds = np.array(bounds, np.float32).reshape(1, -1)
    return api.rescore(query, originals, len(originals.records), candidates, bounds, 1000, hits), hits


@every_metric
@pytest.mark.parametrize("k", [1, 3, 12, 20])
def test_candidates_that_cannot_be_hits_are_not_read(metric, k):
    """Any bounds that are true: the same hits, and as many records read as by the naive version."""
    rng = np.random.default_rng(k)
    vectors = rng.integers(-3, 4, (30, 20)).astype(np.float32)
    originals = naive.make_originals(vectors, layout.FLOAT32, metric)
    query = np.array([naive.prepare(rng.integers(-3, 4, 20).astype(np.float32), metric)])
    for _ in range(20):
        ordinals = rng.permutation(30)[:12].tolist()
        scores = [float(naive.score(query[0], originals, o)) for o in ordinals]
        slack = rng.choice([0.001, 0.5, 5, np.inf], 12)
        bounds = [score + more for score, more in zip(scores, slack, strict=True)]
        (status, read), hits = rescored(originals, query, ordinals, bounds, k)
        _, expected = rescored(originals, query, ordinals, [np.inf] * 12, k)
        assert (status, read) == (layout.OK, len(naive.read_of(bounds, scores, k)))
        same(hits, expected)


def test_what_may_be_just_as_good_is_read():
    """Of equal scores the lowest ordinal is the hit, and it may come last."""
    originals = naive.make_originals(np.ones((9, 4), np.float32), layout.FLOAT32, DOT)
    query = np.ones((1, 4), np.float32)
    (status, read), hits = rescored(originals, query, [8, 7, 6, 3, 5], [4] * 5, 2)
    assert (status, read, hits.ordinals[0].tolist()) == (layout.OK, 5, [3, 5])
    (status, read), hits = rescored(originals, query, [8, 7, 6, 3, 5], [4, 4, 3.999, 3.999, 4], 2)
    assert (status, read, hits.ordinals[0].tolist()) == (layout.OK, 3, [5, 7])


@pytest.mark.parametrize("bound", [np.nan, np.inf, -np.inf])
def test_bounds_that_are_no_numbers_end_nothing(bound):
    """The first k are always read; a bound that is NaN says nothing."""
    vectors = np.arange(36, dtype=np.float32).reshape(9, 4)
    originals = naive.make_originals(vectors, layout.FLOAT32, DOT)
    (status, read), hits = rescored(originals, np.ones((1, 4), np.float32), [0, 1, 2, 3, 8], [bound] * 5, 2)
    assert status == layout.OK
    assert (read, hits.ordinals[0].tolist()) == ((2, [1, 0]) if bound == -np.inf else (5, [8, 3]))


def test_an_ordinal_that_is_not_read_is_still_compared_with_n():
    originals = naive.make_originals(np.ones((9, 4), np.float32), layout.FLOAT32, DOT)
    for ordinal in (-1, 9, 2**31 - 1):
        found, _ = rescored(originals, np.ones((1, 4), np.float32), [0, 1, ordinal], [9, 9, -np.inf], 1)
        assert found == (layout.OUT_OF_RANGE, 0)


@pytest.mark.parametrize("shape", [(0, 5), (1, 4), (1, 0), (2, 2)])
def test_too_few_bounds_are_out_of_range(shape):
    originals = naive.make_originals(np.ones((9, 4), np.float32), layout.FLOAT32, DOT)
    candidates, hits = make_candidates(2, 5), make_hits(2, 2)
    candidates.ordinals[:], candidates.counts[:] = np.arange(5), 5
    queries, bounds = np.ones((2, 4), np.float32), np.full(shape, np.inf, np.float32)
    assert api.rescore(queries, originals, 9, candidates, bounds, 1000, hits) == (layout.OUT_OF_RANGE, 0)


def test_one_row_of_bounds_serves_all_queries_and_each_has_its_own_if_there_are_more():
    originals = naive.make_originals(np.ones((9, 4), np.float32), layout.FLOAT32, DOT)
    candidates, hits = make_candidates(2, 3), make_hits(2, 1)
    candidates.ordinals[:], candidates.counts[:] = [5, 6, 7], 3
    queries = np.ones((2, 4), np.float32)
    low, high = [9, -1, -1], [9, 9, -1]
    for bounds, read in (([low], 2), ([high], 4), ([low, high], 3), ([high, low], 3)):
        assert api.rescore(queries, originals, 9, candidates, np.array(bounds, np.float32), 1000, hits) == (
            layout.OK,
            read,
        )
