"""A graph that is not as it should be: counted by check_graph, survived by a walk; also with NUMBA_BOUNDSCHECK=1.

What an intrinsic reads is not bounds-checked. So codes lie between rows that are nearer to the query than any: a walk
that left its bounds would find them. Interpreted, it would be an IndexError.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bqstore.kernels import api, layout
from tests import naive
from tests.kernels.given import (
    ENCODINGS,
    assert_code_hits,
    corrected,
    encoded_as,
    examples,
    fenced_scratch,
    grown,
    link_one,
    make_accept,
    make_codes,
    make_hits,
    make_scratch,
    make_settings,
    no_originals,
    signs,
    some_levels,
    whole_vectors,
)

N, M, DIM, SPARE = 40, 4, 70, 6
EXAMPLES = examples(400)
NUMBERS = (-(2**31), -2, -1, 0, 1, N - 1, N, N + 1, N + SPARE - 1, N + SPARE, 1000, 2**31 - 2, 2**31 - 1)


def trapped(words, query, margin=3000):
    """The same codes, between codes that are the query's own."""
    around = np.empty((len(words) + 2 * margin, words.shape[1]), np.uint64)
    around[:] = naive.pack_signs(query)
    around[margin : margin + len(words)] = words
    return around[margin : margin + len(words)]


def sound():
    """A query, codes of which the last few are not linked, and their graph."""
    rng = np.random.default_rng(0)
    query = whole_vectors(rng, 1, DIM)
    words = trapped(naive.pack_signs(whole_vectors(rng, N + SPARE, DIM)), query)
    levels = some_levels(rng, N + SPARE, 2)
    codes = layout.Codes(words, N + SPARE, signs(DIM))
    return query, codes, grown(codes, M, 20, levels, N)


def survive(query, codes, graph, encoding, accept=None, ef=30, lists=True):
    """Search; whatever the status, nothing is written or read that should not be.

    Where ``lists`` of copies are damaged, nodes may be found twice, and with the score of others.
    """
    accept = make_accept(None) if accept is None else accept
    way = make_settings(ef, ef + 10, 8, encoding=encoding)
    scratch = make_scratch(len(codes.words), codes.words.shape[1], M, way.max_beam, 8, dim=DIM)
    scratch, untouched = fenced_scratch(scratch)
    hits = make_hits(1, 8)
    status = api.search_graph(query, codes, graph, no_originals(DIM, layout.DOT), accept, way, scratch, hits)
    assert untouched()
    assert status in (layout.OK, layout.OUT_OF_RANGE, layout.TOO_FEW)
    if status == layout.OK:
        found = hits.ordinals[0].tolist()
        assert set(found) <= set(naive.accepted(accept, min(codes.n, len(codes.words))))
        if lists:
            assert len(set(found)) == 8
            assert_code_hits(hits, 0, query[0], codes, found, encoding, layout.DOT)
    return status


def copied(graph):
    return layout.Graph(*(part.copy() if isinstance(part, np.ndarray) else part for part in graph))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_sound_graph_is_searched(encoding):
    query, codes, graph = sound()
    assert api.check_graph(graph) == 0
    assert survive(query, codes, graph, encoding) == layout.OK


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    changes=st.lists(
        st.tuples(st.sampled_from(["links", "upper"]), st.integers(0, 10**6), st.sampled_from(NUMBERS)),
        min_size=1,
        max_size=30,
    ),
    encoding=st.sampled_from(ENCODINGS),
    density=st.sampled_from([None, 0.5]),
)
def test_any_links(changes, encoding, density):
    query, codes, graph = sound()
    for name, place, number in changes:
        flat = getattr(graph, name).reshape(-1)
        flat[place % len(flat)] = number
    assert api.check_graph(graph) == naive.faults(graph)
    accept = make_accept(None if density is None else np.random.default_rng(1).random(N + SPARE) < density)
    survive(query, codes, graph, encoding, accept)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    levels=st.lists(st.tuples(st.integers(0, N - 1), st.integers(0, 255)), max_size=8),
    firsts=st.lists(st.tuples(st.integers(0, N - 1), st.sampled_from(NUMBERS)), max_size=8),
    top=st.sampled_from([None, -1, 0, 1, 3, 24, 255, 300]),
)
def test_any_levels_and_first_rows(levels, firsts, top):
    query, codes, graph = sound()
    for node, level in levels:
        graph.levels[node] = level
    for node, first in firsts:
        graph.first[node] = first
    graph = graph if top is None else graph._replace(top=top)
    assert api.check_graph(graph) == naive.faults(graph)
    for encoding in ENCODINGS:
        survive(query, codes, graph, encoding)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    changes=st.lists(
        st.tuples(st.integers(0, N + SPARE - 1), st.one_of(st.sampled_from(NUMBERS), st.integers(0, N + SPARE))),
        min_size=1,
        max_size=N,
    ),
    encoding=st.sampled_from(ENCODINGS),
    density=st.sampled_from([None, 0.5]),
)
def test_any_lists_of_copies(changes, encoding, density):
    query, codes, graph = sound()
    for node, number in changes:
        graph.same[node] = number
    assert api.check_graph(graph) == naive.faults(graph)
    accept = make_accept(None if density is None else np.random.default_rng(1).random(N + SPARE) < density)
    for ef in (8, 30, N + SPARE):
        survive(query, codes, graph, encoding, accept, ef, lists=False)


EVERY = np.arange(N)
LISTS = {
    "every node leads to itself": EVERY,
    "a circle of two": EVERY ^ 1,
    "a circle of all, ascending": (EVERY + 1) % N,
    "a circle of all, descending": (EVERY - 1) % N,
    "all ascend": np.minimum(EVERY + 1, N - 1),
    "all descend": EVERY - 1,
    "all to the last": np.full(N, N - 1),
    "past the end": np.full(N, N),
    "in the tail": np.full(N, N + SPARE - 1),
    "past the arrays": np.full(N, N + SPARE),
    "far past the arrays": np.full(N, 2**31 - 1),
    "as a batch marks copies": -2 - EVERY,
    "as low as can be": np.full(N, -(2**31)),
}


@pytest.mark.parametrize("kind", LISTS)
def test_lists_of_copies_that_do_not_lead_to_copies(kind):
    """Every walk ends; check_graph counts what leads out of the graph, which no search needs to be told."""
    query, codes, graph = sound()
    graph.same[:N] = LISTS[kind]
    outside = int(((LISTS[kind] < -1) | (LISTS[kind] >= N)).sum())
    assert api.check_graph(graph) == naive.faults(graph) == outside
    for encoding in ENCODINGS:
        for ef in (8, 30, N + SPARE):
            assert survive(query, codes, graph, encoding, None, ef, lists=False) == layout.OK
            if outside:  # such lists are empty
                survive(query, codes, graph, encoding, None, ef)


def corrected_state(bits):
    """As `sound`, of corrected codes, between codes that are better than any."""
    rng = np.random.default_rng(0)
    query, vectors = whole_vectors(rng, 1, DIM), whole_vectors(rng, N + SPARE, DIM)
    vectors[20:24] = vectors[20]
    vectors[22] *= 2
    codes = encoded_as(corrected(bits, np.zeros(DIM, np.float32)), vectors, layout.DOT)
    around = np.full((N + SPARE + 6000, codes.words.shape[1]), np.uint64(0x7149_F2CA), np.uint64)  # 1e30, and no factor
    inside = around[3000 : 3000 + N + SPARE]
    inside[:] = codes.words
    codes = codes._replace(words=inside)
    return query, codes, grown(codes, M, 20, some_levels(rng, N + SPARE, 2), N)


def survive_corrected(query, codes, graph, encoding, ef, accept=None):
    """Search; whatever the status, nothing is written or read that should not be."""
    accept = make_accept(None) if accept is None else accept
    way = make_settings(ef, ef + 10, 8, encoding=encoding)
    scratch, untouched = fenced_scratch(make_scratch(N + SPARE, 2, M, way.max_beam, 8, 8, DIM, codes.quantizer.bits))
    hits, empty = make_hits(1, 8), no_originals(DIM, layout.DOT)
    status = api.search_graph(query, codes, graph, empty, accept, way, scratch, hits)
    assert untouched() and status in (layout.OK, layout.OUT_OF_RANGE, layout.TOO_FEW)
    if status == layout.OK:
        assert set(hits.ordinals[0].tolist()) <= set(naive.accepted(accept, N + SPARE))
        assert hits.scores[0].max() < 1e29
    return status


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("kind", LISTS)
def test_lists_of_corrected_codes_that_do_not_lead_to_copies(kind, bits):
    """Each has a distance of its own: a list is read to its end, and has one."""
    query, codes, graph = corrected_state(bits)
    for encoding in ENCODINGS:
        assert survive_corrected(query, codes, graph, encoding, 30) == layout.OK
    graph.same[:N] = LISTS[kind]
    for encoding in ENCODINGS:
        for ef in (8, 30, N + SPARE):
            assert survive_corrected(query, codes, graph, encoding, ef) == layout.OK


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    changes=st.lists(
        st.tuples(
            st.sampled_from(["links", "upper", "same"]),
            st.integers(0, 10**6),
            st.one_of(st.sampled_from(NUMBERS), st.integers(0, N + SPARE)),
        ),
        min_size=1,
        max_size=40,
    ),
    bits=st.sampled_from([1, 2, 4]),
    encoding=st.sampled_from(ENCODINGS),
    density=st.sampled_from([None, 0.5]),
)
def test_any_links_between_corrected_codes(changes, bits, encoding, density):
    query, codes, graph = corrected_state(bits)
    for name, place, number in changes:
        flat = getattr(graph, name).reshape(-1)
        flat[place % len(flat)] = number
    accept = make_accept(None if density is None else np.random.default_rng(1).random(N + SPARE) < density)
    for ef in (8, 30):
        survive_corrected(query, codes, graph, encoding, ef, accept)


@pytest.mark.parametrize("entry", [number for number in NUMBERS if not 0 <= number < N])
def test_an_entry_point_that_is_not_linked_is_out_of_range(entry):
    query, codes, graph = sound()
    graph = graph._replace(entry=entry)
    assert api.check_graph(graph) == -1 == naive.faults(graph)
    assert survive(query, codes, graph, layout.BINARY) == layout.OUT_OF_RANGE


@pytest.mark.parametrize("n", [-1, -(2**31), 0, 1, 7, N - 1])
def test_fewer_nodes_than_are_linked(n):
    """As a search sees a graph that grows under it: links to later nodes are passed over."""
    query, codes, graph = sound()
    levels = graph.levels[: max(n, 1)]
    graph = graph._replace(n=n, entry=int(levels.argmax()), top=int(levels.max()))
    assert api.check_graph(graph) == naive.faults(graph)
    for encoding in ENCODINGS:
        status = survive(query, codes, graph, encoding)
        assert (status == layout.OUT_OF_RANGE) == (n <= 0)


def test_what_is_linked_beyond_the_codes_is_not_found():
    """A state of fewer codes than are linked, all the arrays being longer."""
    query, codes, graph = sound()
    for n in (1, 5, 20, N - 1):
        survive(query, codes._replace(n=n), graph, layout.BINARY)


@pytest.mark.parametrize("n", [1, 2, 9, N - 1])
def test_copies_beyond_the_codes_are_not_found(n):
    """The lists of a graph that grows lead to its newest copies first: those are passed over, not what follows them."""
    query, codes, graph = sound()
    codes.words[:] = codes.words[np.arange(N + SPARE) % 3]
    graph = grown(codes, M, 20, np.zeros(N + SPARE, np.uint8), N)
    assert naive.copies_of(graph, 1) == list(range(N - 3, 1, -3))
    flags = np.arange(N + SPARE) % 3 == 1
    flags[:3] = True
    for seen, limit in ((graph, n), (graph._replace(n=n), n), (graph._replace(n=min(n + 3, N)), n)):
        for ef in (1, N):
            accept = make_accept(flags)
            count = min(ef, int(flags[:limit].sum()))
            way, hits = make_settings(ef, N, count), make_hits(1, count)
            scratch = make_scratch(len(codes.words), 2, M, N, N, dim=DIM, bits=codes.quantizer.bits)
            few = codes._replace(n=limit)
            empty = no_originals(DIM, layout.DOT)
            assert api.search_graph(query, few, seen, empty, accept, way, scratch, hits) == layout.OK
            expected = naive.nearest_codes(query[0], few, accept, count)
            levels = naive.levels_of(query[0], 1)
            found = hits.ordinals[0].tolist()
            assert len(set(found)) == count and all(o < limit and flags[o] for o in found)
            assert [naive.distance(levels, 1, codes.words[o]) for o in found] == [far for far, _ in expected]


@pytest.mark.parametrize("entry", [-1, 1, 30, 2**31 - 1])
def test_nothing_is_linked_to_a_graph_without_its_entry_point(entry):
    _, codes, graph = sound()
    graph = copied(graph)._replace(n=1, entry=entry)
    before = copied(graph)
    api.find_links(codes, graph, 1, 20, 10, make_scratch(N + SPARE, 2, M))
    for array, old in zip(graph[:5], before[:5], strict=True):
        assert (array == old).all()


@pytest.mark.parametrize("gone", [0, 11])
def test_a_node_without_rows_above_level_0_has_no_links_there(gone):
    """The entry point, which a walk meets, or the new node itself."""
    codes = make_codes(whole_vectors(np.random.default_rng(0), 12, 40))
    levels = np.where(np.isin(np.arange(12), (0, 11)), 1, 0).astype(np.uint8)
    graph = grown(codes, M, 10, levels, 11)
    row, graph.first[gone] = graph.first[11], -1
    graph.upper[row] = 5
    api.find_links(codes, graph, 11, 12, 10, make_scratch(12, 1, M, 20))
    assert graph.upper[row].tolist() == ([0] + [-1] * (M - 1) if gone == 0 else [5] * M)
    assert (graph.links[11] >= 0).any()


@pytest.mark.parametrize("number", [number for number in NUMBERS if not 0 <= number < N + SPARE])
def test_a_link_to_or_from_no_code_is_not_merged(number):
    """Neither as a source, nor where a row that is full holds one."""
    _, codes, graph = sound()
    scratch, row = make_scratch(N + SPARE, 2, M), graph.links[5]
    sources = np.array([number, 30, number, 31, 32, 33], np.int32)
    for held in (0, 3, 2 * M):
        row[:] = -1
        row[:held] = np.arange(6, 6 + held)
        if held:
            row[held - 1] = number
        arrays = np.array([5], np.int32), np.array([0, len(sources)])
        api.merge_links(codes, graph, 0, *arrays, sources, (0, 1), scratch)
        links = [o for o in row.tolist() if o != -1]
        assert set(links) <= {*range(6, 6 + held), 30, 31, 32, 33}
        assert len(set(links)) == len(links) >= 4


def test_more_nodes_than_there_are_codes_is_not_believed():
    query, codes, graph = sound()
    graph = copied(graph)
    graph.upper[graph.upper >= 0] = N + SPARE + 9
    graph.links[graph.links >= 0] = N + SPARE + 9
    for n in (N + SPARE + 10, 2**31 - 1):
        assert api.check_graph(graph._replace(n=n)) == -1
        survive(query, codes, graph._replace(n=n), layout.BINARY)


@pytest.mark.parametrize("short", ["links", "first", "levels", "same"])
def test_arrays_shorter_than_n_are_faulty(short):
    _, _, graph = sound()
    graph = graph._replace(**{short: getattr(graph, short)[: N - 1]})
    assert api.check_graph(graph) == -1 == naive.faults(graph)


def test_every_single_fault_is_counted():
    _, _, graph = sound()
    high = int(graph.levels[:N].argmax())
    assert graph.levels[high] >= 2
    row = int(graph.first[high])
    low = int((graph.levels[:N] == 0).argmax())
    for place, number in (
        (("links", (3, 0)), 3),  # to itself
        (("links", (3, 0)), N),
        (("links", (3, 0)), -2),
        (("links", (3, 0)), -1),  # the row goes on behind its end
        (("upper", (row, 0)), high),
        (("upper", (row, 0)), low),  # not on that level
        (("upper", (row + 1, 0)), -7),
        (("first", high), -1),
        (("first", high), len(graph.upper) - 1),
        (("levels", low), 1),  # no row above level 0
        (("levels", low), int(graph.top) + 1),
        (("same", 3), N),
        (("same", 3), N + SPARE - 1),  # of a batch that was broken off
        (("same", 3), -2),
        (("same", N - 1), 2**31 - 1),
    ):
        (name, index), bad = place, copied(graph)
        getattr(bad, name)[index] = number
        assert api.check_graph(bad) == naive.faults(bad) > 0, (place, number)
    for bad in (graph._replace(top=graph.top + 1), graph._replace(top=-1), graph._replace(n=N + SPARE + 1)):
        assert api.check_graph(bad) == -1


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    places=st.lists(st.integers(0, 10**6), min_size=1, max_size=20),
    later=st.integers(0, SPARE - 1),
)
def test_nodes_are_linked_to_a_graph_that_an_interrupted_batch_has_marked(places, later):
    """Rows that hold nodes to come are read and merged like any; what is linked then has no faults but those."""
    _, codes, graph = sound()
    flat = graph.links[:N].reshape(-1)
    for place in places:
        at = place % len(flat)
        if flat[at] >= 0:
            flat[at] = N + later
    scratch = make_scratch(N + SPARE, 2, M)
    while graph.n < N + SPARE:
        graph = link_one(codes, graph, 20, scratch)
    assert api.check_graph(graph) == naive.faults(graph)
    for node in range(N):
        row = [o for o in graph.links[node].tolist() if o >= 0]
        assert all(o < N + SPARE for o in row)
