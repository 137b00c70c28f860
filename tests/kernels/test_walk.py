"""The walk against its naive version: which nodes it keeps, in which order, how often it looks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bqstore.kernels import api, layout, walk
from bqstore.kernels.layout import COUNT_DISTANCES, COUNT_EPOCH, COUNT_HOPS
from tests import naive
from tests.kernels.given import (
    ENCODINGS,
    INTERPRETED,
    examples,
    make_accept,
    make_codes,
    make_hits,
    make_scratch,
    make_settings,
    no_originals,
    of_planes,
    random_graph,
    whole_vectors,
    with_seeds,
)

EXAMPLES = examples(120)


def kept(scratch):
    """The beam that a walk has left: [(distance, ordinal)], accepted flags, and whether all were expanded."""
    keys = [int(key) for key in scratch.keys]
    keys = keys[: keys.index(int(walk.NO_KEY))]
    assert keys == sorted(keys)
    pairs = [(key >> 33, key >> 2 & 0x7FFF_FFFF) for key in keys]
    return pairs, [key >> 1 & 1 for key in keys], all(key & 1 for key in keys)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    n=st.integers(1, 50),
    tail=st.integers(0, 12),
    m=st.integers(2, 5),
    dim=st.sampled_from([1, 5, 64, 100]),
    ef=st.integers(1, 30),
    slack=st.integers(0, 20),
    density=st.sampled_from([None, 1.0, 0.5, 0.1]),
    encoding=st.sampled_from(ENCODINGS),
    seeds=st.sampled_from([0, 1, 3, 20]),
    seed=st.integers(0, 2**32 - 1),
)
# the one node is as near as can be: the tail is not measured
@example(n=1, tail=1, m=2, dim=1, ef=1, slack=0, density=None, encoding=1, seeds=0, seed=226)
def test_the_beam_is_that_of_the_naive_version(n, tail, m, dim, ef, slack, density, encoding, seeds, seed):
    rng = np.random.default_rng(seed)
    codes = make_codes(whole_vectors(rng, n + tail, dim), spare=3)
    query = whole_vectors(rng, 1, dim)
    graph = random_graph(rng, n, m, codes.words, len(codes.words))
    graph = with_seeds(rng, graph, codes.words, seeds)
    accept = make_accept(None if density is None else rng.random(n + tail) < density)
    way = make_settings(ef, ef + slack, 0, encoding=encoding)
    scratch = make_scratch(len(codes.words), codes.words.shape[1], m, way.max_beam, dim=dim)
    status = api.search_graph(query, codes, graph, no_originals(dim, layout.DOT), accept, way, scratch, make_hits(1, 1))
    assert status == layout.OK
    expected = naive.walk(query[0], codes, graph, accept, way)
    pairs, flags, _ = kept(scratch)
    assert pairs == expected.kept
    assert flags == [int(expected.accepts(o)) for _, o in expected.kept]
    assert scratch.counters[COUNT_HOPS] == expected.hops
    # those of the way down come on top
    assert scratch.counters[COUNT_DISTANCES] > expected.distances
    assert scratch.counters[COUNT_EPOCH] == 1


@settings(max_examples=EXAMPLES, deadline=None)
@given(n=st.integers(1, 40), m=st.integers(2, 4), dim=st.sampled_from([3, 40]), seed=st.integers(0, 2**32 - 1))
@pytest.mark.long
def test_the_greedy_walk_ends_where_the_naive_version_ends(n, m, dim, seed):
    rng = np.random.default_rng(seed)
    codes = make_codes(whole_vectors(rng, n, dim))
    graph = random_graph(rng, n, m)
    for encoding in ENCODINGS:
        levels = naive.levels_of(whole_vectors(rng, 1, dim)[0], encoding)
        scratch = make_scratch(n, codes.words.shape[1], m)
        scratch.planes[:encoding] = naive.planes_of(levels, encoding)
        query = of_planes(scratch.planes, encoding)

        def measure(o, levels=levels, encoding=encoding):
            return naive.distance(levels, encoding, codes.words[o])

        for last in range(graph.top + 1):
            found = walk.descend(codes.words, graph, last, query, scratch)
            node = naive.descend(measure, graph, last)
            assert tuple(found) == (node, measure(node))


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    arrivals=st.lists(st.tuples(st.integers(0, 30), st.booleans()), min_size=1, max_size=60),
    ef=st.integers(1, 20),
    slack=st.integers(0, 10),
)
def test_what_is_beyond_the_efth_accepted_falls_out(arrivals, ef, slack):
    beam = naive.Beam(lambda o: arrivals[o][0], lambda o: arrivals[o][1], ef, ef + slack)
    keys = np.full(ef + slack + 8, walk.NO_KEY)
    size, accepted, bound = 0, 0, walk.FARTHEST
    for o, (distance, good) in enumerate(arrivals):
        assert bound == min(beam.bound(), walk.FARTHEST)
        if distance >= bound:
            continue
        size, accepted, place, bound = walk.offer(keys, ef + slack, size, accepted, ef, distance, o, int(good))
        beam.offer(o)
        assert [(int(key) >> 33, int(key) >> 2) for key in keys[:size] & ~np.int64(3)] == [
            (far, far << 31 | node) for far, node in beam.kept
        ]
        assert accepted == beam.count()
        assert (keys[size:] == walk.NO_KEY).all()
        if (distance, o) in beam.kept:
            assert beam.kept.index((distance, o)) == place


@settings(max_examples=EXAMPLES, deadline=None)
@given(size=st.integers(0, 600), seed=st.integers(0, 2**32 - 1))
def test_a_place_is_found_in_short_and_long_beams(size, seed):
    rng = np.random.default_rng(seed)
    keys = np.full(size + 8, walk.NO_KEY)
    keys[:size] = np.sort(rng.integers(0, 900, size))
    for key in [0, 900, *keys[:size:50].tolist(), *rng.integers(0, 900, 5).tolist()]:
        assert walk.insertion_point(keys, size, np.int64(key)) == int((keys[:size] < key).sum())


def test_an_ordinal_past_the_bitmap_is_not_accepted():
    flags = np.zeros(128, bool)
    flags[[0, 63, 64, 127]] = True
    accept = make_accept(flags)
    assert [o for o in range(400) if walk.is_accepted(accept, o)] == [0, 63, 64, 127]
    assert walk.is_accepted(accept, 2**31 - 1) == 0
    assert walk.is_accepted(make_accept(None), 2**31 - 1) == 1


def test_epochs_begin_again_after_the_last():
    scratch = make_scratch(5, 1, 2)
    for search in range(600):
        epoch = walk.new_epoch(scratch)
        assert epoch == search % 255 + 1
        assert not (scratch.visited == epoch).any()
        scratch.visited[search % 5] = epoch


@pytest.mark.skipif(INTERPRETED, reason="thousands of codes")
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_beam_longer_than_one_that_is_counted_through_keeps_the_same(encoding):
    """Past 128 keys a place is found by halving: the same beam as the naive version's."""
    rng = np.random.default_rng(3)
    codes = make_codes(rng.standard_normal((700, 70)).astype(np.float32))
    query = rng.integers(-2, 3, (1, 70)).astype(np.float32)
    graph = random_graph(rng, 700, 8, codes.words, least=8)
    way = make_settings(400, 500, 0, encoding=encoding)
    accept = make_accept(rng.random(700) < 0.9)
    scratch = make_scratch(700, 2, 8, way.max_beam, dim=70)
    api.search_graph(query, codes, graph, no_originals(70, layout.DOT), accept, way, scratch, make_hits(1, 1))
    pairs, _, done = kept(scratch)
    assert len(pairs) > 300 and done
    assert pairs == naive.walk(query[0], codes, graph, accept, way).kept
