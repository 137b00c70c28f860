"""The search by a graph as a whole: the nearest there are, whatever is accepted, linked, or rescored."""

from __future__ import annotations

import numpy as np
import pytest

from bqstore.kernels import api, layout
from bqstore.kernels.layout import COUNT_EPOCH, COUNT_RESCORED
from tests import naive
from tests.kernels.given import (
    ENCODINGS,
    FORMS,
    INTERPRETED,
    METRICS,
    assert_code_hits,
    assert_hits,
    codes_of,
    damage,
    empty_graph,
    grown,
    make_accept,
    make_codes,
    make_hits,
    make_scratch,
    make_settings,
    no_originals,
    some_levels,
    unit_vectors,
    whole_vectors,
)

BAD_QUERY = ((np.nan, True), (np.inf, True), (-np.inf, True), (2e18, True), (9e17, False))
TOO_FEW = ((0, True), (9e-16, True), (2e-15, False))  # too short to be scaled
N = 40 if INTERPRETED else 300
M = 4


def linked(rng, n, dim, tail=0, m=M):
    """Vectors, their codes, and a graph of all but the last ``tail``."""
    vectors = whole_vectors(rng, n, dim)
    codes = make_codes(vectors)
    return vectors, codes, grown(codes, m, 30, some_levels(rng, n, 3), n - tail)


def search(queries, codes, graph, originals, accept, way, k, scratch=None):
    """Status and hits."""
    hits = make_hits(len(queries), k)
    if scratch is None:
        m = graph.links.shape[1] // 2
        scratch = make_scratch(
            len(codes.words), codes.words.shape[1], m, way.max_beam, way.candidates, k, queries.shape[1]
        )
    return api.search_graph(queries, codes, graph, originals, accept, way, scratch, hits), hits


def nearest(query, codes, accept, c, encoding):
    return [o for _, o in naive.nearest_codes(query, codes, accept, c, encoding)]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("tail", [0, 7])
def test_a_beam_as_wide_as_the_graph_finds_what_a_scan_finds(metric, encoding, tail):
    rng = np.random.default_rng(tail)
    _, codes, graph = linked(rng, N, 70, tail)
    queries = unit_vectors(rng, 3, 70)
    way = make_settings(N, N, 12, encoding=encoding)
    status, hits = search(queries, codes, graph, no_originals(70, metric), make_accept(None), way, 5)
    assert status == layout.OK
    for i, query in enumerate(queries):
        expected = nearest(query, codes, make_accept(None), 5, encoding)
        assert_code_hits(hits, i, query, codes, expected, encoding, metric)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("metric", METRICS)
def test_the_candidates_are_rescored(metric, form, encoding):
    rng = np.random.default_rng(1)
    vectors, codes, graph = linked(rng, N, 33, 5)
    queries = unit_vectors(rng, 2, 33)
    originals = naive.make_originals(vectors, form, metric)
    accept = make_accept(rng.random(N) < 0.6)
    scratch = make_scratch(N, 1, M, N, 12, 5, 33)
    way = make_settings(N, N, 12, 1, encoding)
    status, hits = search(queries, codes, graph, originals, accept, way, 5, scratch)
    assert status == layout.OK
    assert scratch.counters[COUNT_RESCORED] == 24
    for i, query in enumerate(queries):
        chosen = nearest(query, codes, accept, 12, encoding)
        assert_hits(hits, i, naive.best_scores(naive.prepare(query, metric), originals, chosen, 5))


@pytest.mark.parametrize("density", [0.5, 0.1, 0.02])
def test_what_is_not_accepted_is_walked_through_and_never_a_result(density):
    """Filters that take the far side of the data: the walk begins among rejected nodes and must go through them."""
    rng = np.random.default_rng(0)
    n = N if INTERPRETED else 1000
    _, codes, graph = linked(rng, n, 24, m=8)
    query = whole_vectors(rng, 1, 24)
    by_distance = [o for _, o in naive.nearest_codes(query[0], codes, make_accept(None), n)]
    count = max(2, int(density * n))
    for chosen in (by_distance[-count:], by_distance[:count], rng.permutation(n)[:count]):
        flags = np.zeros(n, bool)
        flags[chosen] = True
        way = make_settings(count, n, count)
        status, hits = search(query, codes, graph, no_originals(24, 1), make_accept(flags), way, count)
        assert status == layout.OK
        expected = nearest(query[0], codes, make_accept(flags), count, 1)
        assert_code_hits(hits, 0, query[0], codes, expected, 1, layout.DOT)


def test_deleted_nodes_are_passed_through():
    """Every node but the last of a chain is deleted; the chain is walked to its end."""
    n = 30
    words = np.zeros((n, 1), np.uint64)
    words[:, 0] = [2**o - 1 for o in range(n)]
    graph = empty_graph(np.zeros(n, np.uint8), 2)
    graph.links[:] = -1
    graph.links[:-1, 0] = np.arange(1, n)
    flags = np.zeros(n, bool)
    flags[-1] = True
    codes, accept, query = codes_of(words, 64), make_accept(flags), -np.ones((1, 64), np.float32)
    graph = graph._replace(n=n)
    status, hits = search(query, codes, graph, no_originals(64, 1), accept, make_settings(1, n, 1), 1)
    assert (status, hits.ordinals[0, 0]) == (layout.OK, n - 1)
    # the beam holds fewer: the others crowd it out, which is said
    status, _ = search(query, codes, graph, no_originals(64, 1), accept, make_settings(1, 8, 1), 1)
    assert status == layout.TOO_FEW


@pytest.mark.parametrize("accepted", [0, 3, 4])
def test_fewer_than_the_candidates_are_too_few(accepted):
    rng = np.random.default_rng(0)
    _, codes, graph = linked(rng, N, 24, 4)
    flags = np.zeros(N, bool)
    flags[rng.permutation(N)[:accepted]] = True
    query = whole_vectors(rng, 1, 24)
    status, _ = search(query, codes, graph, no_originals(24, 1), make_accept(flags), make_settings(N, N, 4), 4)
    assert status == (layout.OK if accepted == 4 else layout.TOO_FEW)


def test_an_island_has_too_few():
    rng = np.random.default_rng(0)
    _, codes, graph = linked(rng, N, 24)
    graph.links[graph.entry] = -1
    query, way = whole_vectors(rng, 1, 24), make_settings(N, N, 2)
    status, _ = search(query, codes, graph._replace(top=0), no_originals(24, 1), make_accept(None), way, 2)
    assert status == layout.TOO_FEW


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("dim", [1, 64])
@pytest.mark.parametrize("m", [2, 512])
def test_graphs_of_a_few_nodes(n, dim, m):
    rng = np.random.default_rng(n)
    _, codes, graph = linked(rng, n, dim, m=m)
    assert api.check_graph(graph) == 0
    query = whole_vectors(rng, 1, dim)
    for encoding in ENCODINGS:
        way = make_settings(n, n, n, encoding=encoding)
        status, hits = search(query, codes, graph, no_originals(dim, 1), make_accept(None), way, 5)
        assert status == layout.OK
        everything = nearest(query[0], codes, make_accept(None), n, encoding)
        assert_code_hits(hits, 0, query[0], codes, everything, encoding, layout.DOT)


def test_a_query_of_zeros_under_dot():
    rng = np.random.default_rng(0)
    vectors, codes, graph = linked(rng, N, 24)
    query = np.zeros((1, 24), np.float32)
    originals = naive.make_originals(vectors, layout.FLOAT32, layout.DOT)
    for encoding in ENCODINGS:
        for rescoring in (0, 1):
            way = make_settings(N, N, 8, rescoring, encoding)
            status, hits = search(query, codes, graph, originals, make_accept(None), way, 8)
            assert status == layout.OK
            chosen = nearest(query[0], codes, make_accept(None), 8, encoding)
            assert hits.ordinals[0].tolist() == (sorted(chosen) if rescoring else chosen)
            if rescoring or encoding != layout.BINARY:  # whose signs are -1 throughout
                assert (hits.scores[0] == 0).all()


def test_equal_vectors_come_by_ordinal():
    codes = make_codes(np.ones((N, 24), np.float32))
    rng = np.random.default_rng(0)
    graph = grown(codes, 8, 30, some_levels(rng, N, 3), 9)
    query = whole_vectors(rng, 1, 24)
    status, hits = search(query, codes, graph, no_originals(24, 1), make_accept(None), make_settings(N, N, 10), 10)
    assert status == layout.OK
    assert hits.ordinals[0].tolist() == list(range(10))


def written_again(rng, codes, times):
    """Of some different codes, each ``times`` in any order: all codes, and of each code its nodes."""
    order = rng.permutation(np.repeat(np.arange(codes), times))
    words = np.unique(rng.integers(0, 2**24, 4 * codes, dtype=np.uint64))
    words = rng.permutation(words)[:codes, None][order]
    return codes_of(words, 24), [np.flatnonzero(order == code) for code in range(codes)]


LIVE = {
    "the first": lambda rng, nodes: nodes[:1],
    "the last": lambda rng, nodes: nodes[-1:],
    "all but the first": lambda rng, nodes: nodes[1:],
    "all but the last": lambda rng, nodes: nodes[:-1],
    "one": lambda rng, nodes: rng.choice(nodes, 1),
    "any": lambda rng, nodes: nodes[rng.random(len(nodes)) < 0.5],
    "all": lambda rng, nodes: nodes,
}


@pytest.mark.parametrize("live", LIVE)
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("tail", [0, 11])
def test_copies_are_found_whichever_of_them_are_deleted(live, encoding, tail):
    """A node without links of its own, its first node gone; and the other way round."""
    rng = np.random.default_rng(tail)
    codes, groups = written_again(rng, 8 if INTERPRETED else 50, 6)
    n = len(codes.words)
    graph = grown(codes, 12, 50, some_levels(rng, n, 8), n - tail)
    assert api.check_graph(graph) == 0
    flags = np.zeros(n, bool)
    for nodes in groups:
        flags[LIVE[live](rng, nodes)] = True
    accept, query = make_accept(flags), whole_vectors(rng, 1, 24)
    count = int(flags.sum())
    for wanted in (count, 5):
        way = make_settings(wanted, n, wanted, encoding=encoding)
        status, hits = search(query, codes, graph, no_originals(24, 1), accept, way, wanted)
        assert status == layout.OK
        if wanted == count:
            expected = nearest(query[0], codes, accept, count, encoding)
            assert_code_hits(hits, 0, query[0], codes, expected, encoding, layout.DOT)
        else:  # of equal codes at the end of the beam, any
            expected = [far for far, _ in naive.nearest_codes(query[0], codes, accept, 5, encoding)]
            levels = naive.levels_of(query[0], encoding)
            found = hits.ordinals[0].tolist()
            assert len(set(found)) == 5 and flags[found].all()
            assert [naive.distance(levels, encoding, codes.words[o]) for o in found] == expected


@pytest.mark.parametrize("first", [0, 20])
def test_of_a_vector_written_again_and_again_the_last_is_found_at_every_width(first):
    """An upsert deletes a node and adds another: only the last of two hundred is live, behind a list of dead ones."""
    rng = np.random.default_rng(first)
    times = 20 if INTERPRETED else 200
    vectors = whole_vectors(rng, 40, 24)
    vectors = np.concatenate([vectors, np.repeat(vectors[first : first + 1], times, axis=0)])
    n, codes = len(vectors), make_codes(vectors)
    graph = grown(codes, M, 30, some_levels(rng, n, 3))
    assert naive.copies_of(graph, first) == list(range(n - 1, 39, -1))
    flags = np.ones(n, bool)
    flags[first] = flags[40:-1] = False
    everywhere = make_accept(flags)
    alone = make_accept(np.arange(n) == n - 1)
    for encoding in ENCODINGS:
        query = np.where(vectors[first : first + 1] > 0, 1, -1).astype(np.float32)  # nearest to its own code
        for ef in range(2, 45):
            for accept, max_beam, count in ((everywhere, ef + 1, 2), (everywhere, n, ef // 2), (alone, n, 1)):
                way = make_settings(ef, max_beam, count, encoding=encoding)
                status, hits = search(query, codes, graph, no_originals(24, 1), accept, way, count)
                assert (status, hits.ordinals[0, 0]) == (layout.OK, n - 1), (encoding, ef, max_beam)


def test_damage_is_reported_when_a_candidate_and_only_then():
    rng = np.random.default_rng(1)
    vectors, codes, graph = linked(rng, 40, 24)
    query = vectors[:1].copy()
    accept, way = make_accept(None), make_settings(40, 40, 6, 1)
    chosen = nearest(query[0], codes, accept, 6, 1)
    sound = naive.make_originals(vectors, layout.FLOAT16, layout.COSINE)
    for ordinal in range(40):
        bad = damage(sound, ordinal, ordinal % sound.records.shape[1], ordinal % 32)
        status, _ = search(query, codes, graph, bad, accept, way, 3)
        assert status == (ordinal if ordinal in chosen else layout.OK)


def test_originals_that_do_not_fit_are_out_of_range():
    rng = np.random.default_rng(1)
    vectors, codes, graph = linked(rng, 40, 24)
    query, accept, way = vectors[:1].copy(), make_accept(None), make_settings(40, 40, 40, 1)
    sound = naive.make_originals(vectors, layout.FLOAT32, layout.DOT)
    fewer = naive.make_originals(vectors[:39], layout.FLOAT32, layout.DOT)
    for bad in (no_originals(24, 1), sound._replace(dim=25), sound._replace(form=7), fewer):
        assert search(query, codes, graph, bad, accept, way, 3)[0] == layout.OUT_OF_RANGE
    assert search(np.ones((1, 65), np.float32), codes, graph, sound, accept, way, 3)[0] == layout.OUT_OF_RANGE
    scratch = make_scratch(40, 1, M, 40, 40, 3, 23)  # made for other queries
    assert search(query, codes, graph, sound, accept, way, 3, scratch)[0] == layout.OUT_OF_RANGE


@pytest.mark.parametrize("metric", METRICS)
def test_a_query_that_cannot_be_computed_with_is_a_bad_query(metric):
    rng = np.random.default_rng(1)
    _, codes, graph = linked(rng, 40, 24)
    originals, accept, way = no_originals(24, metric), make_accept(None), make_settings(40, 40, 4)
    for value, doubtful in BAD_QUERY + (TOO_FEW if metric == layout.COSINE else ()):
        queries = whole_vectors(rng, 3, 24)
        queries[:, 3], queries[1] = 1, 0
        queries[1, 7] = value
        status, _ = search(queries, codes, graph, originals, accept, way, 3)
        assert status == (layout.BAD_QUERY if doubtful else layout.OK), value


def test_a_scratch_serves_more_searches_than_there_are_epochs():
    rng = np.random.default_rng(2)
    _, codes, graph = linked(rng, 30, 24, 3)
    scratch = make_scratch(30, 1, M, 30, 5, 5, 24)
    queries = whole_vectors(rng, 7, 24)
    first = None
    for turn in range(40 if INTERPRETED else 120):  # 280 and 840 walks
        encoding = ENCODINGS[turn % 3]
        way = make_settings(30, 30, 5, encoding=encoding)
        status, hits = search(queries, codes, graph, no_originals(24, 1), make_accept(None), way, 5, scratch)
        assert status == layout.OK
        if turn < 3:
            first = [*(first or []), hits]
        np.testing.assert_array_equal(hits.ordinals, first[turn % 3].ordinals)
        assert scratch.counters[COUNT_EPOCH] == (7 * (turn + 1) - 1) % 255 + 1
    for encoding, hits in zip(ENCODINGS, first, strict=True):
        for i, query in enumerate(queries):
            assert hits.ordinals[i].tolist() == nearest(query, codes, make_accept(None), 5, encoding)
