"""Building: what is selected, merged and linked, against the naive versions; and what a batch may and may not write."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bqstore.kernels import api, link, walk
from bqstore.kernels import bits as kernel_bits
from bqstore.kernels.layout import DOT, EUCLID
from tests import naive
from tests.kernels.given import (
    INTERPRETED,
    METRICS,
    as_kernels_have_it,
    corrected,
    distances_from,
    empty_graph,
    encoded_as,
    examples,
    grown,
    link_one,
    make_codes,
    make_scratch,
    random_graph,
    some_levels,
    some_turns,
    whole_vectors,
)

EXAMPLES = examples(100)
DIMS = (1, 6, 40, 100)


def rows_of(graph, node):
    """The row of every level of a node, as arrays."""
    first = int(graph.first[node])
    return [graph.links[node], *(graph.upper[first + v] for v in range(int(graph.levels[node])))]


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    n=st.integers(1, 45),
    degree=st.integers(1, 12),
    enough=st.integers(0, 12),
    dim=st.sampled_from(DIMS),
    seed=st.integers(0, 2**32 - 1),
)
@pytest.mark.long
def test_a_selection_is_that_of_the_naive_version(n, degree, enough, dim, seed):
    rng = np.random.default_rng(seed)
    codes = make_codes(whole_vectors(rng, n, dim))
    words = codes.words
    node = int(rng.integers(0, n))
    candidates = sorted((naive.hamming(words[node], words[o]), o) for o in range(n) if o != node)
    keys = np.array([far << 33 | o << 2 | 3 for far, o in candidates] + [walk.NO_KEY] * 8, np.int64)
    row = np.full(degree, 77, np.int32)
    planes = np.full((4, words.shape[1]), 77, np.uint64)
    link.select(codes, node, keys, len(candidates), min(enough, degree), row, planes)
    chosen = naive.select(naive.Signs(words), node, candidates, degree, min(enough, degree))
    assert row.tolist() == chosen + [-1] * (degree - len(chosen))


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("m", [2, 3, 5, 16])
def test_codes_added_one_by_one_make_the_graph_of_the_naive_version(m, dim):
    rng = np.random.default_rng(dim)
    n = 35 if INTERPRETED else 70
    codes = make_codes(whole_vectors(rng, n, dim))
    words = codes.words
    levels = some_levels(rng, n, 3)
    graph = grown(codes, m, 12, levels)
    rows, same, entry, top = naive.grow(naive.Signs(words), m, 12, levels)
    assert (graph.n, graph.entry, graph.top) == (n, entry, top)
    for node in range(n):
        for level, row in enumerate(rows_of(graph, node)):
            assert row.tolist() == rows[node, level] + [-1] * (len(row) - len(rows[node, level])), (node, level)
    for node, copies in same.items():
        assert naive.copies_of(graph, node) == copies
        assert not any(rows[copy, 0] or graph.levels[copy] for copy in copies)
    assert (graph.same >= 0).sum() == sum(map(len, same.values()))


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    m=st.integers(2, 6),
    held=st.integers(0, 12),
    count=st.integers(0, 60),
    level=st.integers(0, 1),
    dim=st.sampled_from(DIMS),
    seed=st.integers(0, 2**32 - 1),
)
def test_links_back_are_merged_as_the_naive_version_merges_them(m, held, count, level, dim, seed):
    """Also many sources at once, more than the scratch holds, and some that the row has already."""
    rng = np.random.default_rng(seed)
    n = 80
    codes = make_codes(whole_vectors(rng, n, dim))
    words = codes.words
    graph = empty_graph(np.ones(n, np.uint8), m)
    degree = 2 * m if level == 0 else m
    enough = degree - degree // 4 if level == 0 else 0
    others = rng.permutation(n - 1)
    row, sources = others[: min(held, degree)], rng.permutation(others[: min(held, degree) + count])[:count]
    target = n - 1  # its row of level 1 is the last
    kept = rows_of(graph, target)[level]
    kept[:] = -1
    kept[: len(row)] = row
    before = graph.links.copy(), graph.upper.copy()
    arrays = np.array([target], np.int32), np.array([0, count]), sources.astype(np.int32)
    api.merge_links(codes, graph, level, *arrays, (0, 1), make_scratch(n, words.shape[1], m))
    expected = naive.merge(naive.Signs(words), row.tolist(), target, sources.tolist(), degree, enough)
    assert kept.tolist() == expected + [-1] * (degree - len(expected))
    changed = (graph.links != before[0]).any(1).sum() + (graph.upper != before[1]).any(1).sum()
    assert changed <= 1


def quantized(rng, bits, vectors, metric, rounds=4):
    """Corrected codes beside the mean of their vectors."""
    dim = vectors.shape[1]
    return encoded_as(corrected(bits, vectors.mean(0), some_turns(rng, dim, rounds)), vectors, metric)


def of_links(codes):
    """What links of such codes go by: the signs, or the estimated products."""
    by_signs = codes.quantizer.linking[0] == 0
    return naive.Signs(codes.words, codes.quantizer.width) if by_signs else naive.Products(codes)


# codes of one bit by estimates, too; then with lifts, of which some are 0
LINKINGS = ((2 / np.pi, 0, 0), (1.0, 90.0, 0.5), (2 / np.pi, 1e4, 1.0), (2 / np.pi, 0, -1 / np.pi))


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("linking", LINKINGS, ids=["", "lifted", "far", "distances"])
@pytest.mark.parametrize("dim", [2, 16, 70])
def test_links_by_estimates_and_lifts_are_those_of_the_naive_version(dim, linking, bits):
    """Copies among them, and some that share no more than their signs."""
    rng = np.random.default_rng(dim)
    n, m = 30 if INTERPRETED else 60, 3
    vectors = (rng.standard_normal((n, dim)) * rng.lognormal(0, 0.5, (n, 1))).astype(np.float32)
    vectors[5::9] = vectors[4]
    vectors[6::9] = 2 * vectors[4]
    mean, turns = vectors.mean(0), some_turns(rng, dim, 4)
    codes = encoded_as(corrected(bits, mean, turns, linking=linking), vectors, DOT)
    levels = some_levels(rng, n, 3)
    graph = grown(codes, m, 12, levels)
    assert api.check_graph(graph) == 0
    naive_links = of_links(codes)
    rows, same, entry, top = naive.grow(naive_links, m, 12, levels)
    assert (graph.n, graph.entry, graph.top) == (n, entry, top)
    for node in range(n):
        for level, row in enumerate(rows_of(graph, node)):
            assert row.tolist() == rows[node, level] + [-1] * (len(row) - len(rows[node, level])), (node, level)
    assert {node: naive.copies_of(graph, node) for node in same} == same
    planes = np.full((8, len(codes.quantizer.shifts)), 77, np.uint64)
    for node in range(6):
        query = as_kernels_have_it(kernel_bits.code_as_query(codes.words, node, codes.quantizer, planes))
        found = distances_from(query, codes).tolist()
        assert found == [naive_links.far(node, o) for o in range(n)]
        assert found == [kernel_bits.distance_to(codes.words, o, query) for o in range(n)]


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", [3, 16, 70])
def test_corrected_codes_added_one_by_one_make_the_graph_of_the_naive_version(dim, metric, bits):
    """Those of a few dimensions share signs, and stand in lists."""
    rng = np.random.default_rng(dim)
    n, m = 30 if INTERPRETED else 60, 3
    codes = quantized(rng, bits, rng.standard_normal((n, dim)).astype(np.float32), metric)
    levels = some_levels(rng, n, 3)
    graph = grown(codes, m, 12, levels)
    assert api.check_graph(graph) == 0
    rows, same, entry, top = naive.grow(of_links(codes), m, 12, levels)
    assert (graph.n, graph.entry, graph.top) == (n, entry, top)
    for node in range(n):
        for level, row in enumerate(rows_of(graph, node)):
            assert row.tolist() == rows[node, level] + [-1] * (len(row) - len(rows[node, level])), (node, level)
    assert {node: naive.copies_of(graph, node) for node in same} == same
    assert (graph.same >= 0).sum() == sum(map(len, same.values()))


@pytest.mark.parametrize("bits", [1, 2, 4])
@settings(max_examples=EXAMPLES, deadline=None)
@given(
    held=st.integers(0, 12),
    count=st.integers(0, 40),
    level=st.integers(0, 1),
    dim=st.sampled_from([2, 40]),
    seed=st.integers(0, 2**32 - 1),
)
def test_links_back_of_corrected_codes_are_merged_as_the_naive_version_merges_them(bits, held, count, level, dim, seed):
    rng = np.random.default_rng(seed)
    n, m = 60, 4
    codes = quantized(rng, bits, whole_vectors(rng, n, dim), DOT)
    graph = empty_graph(np.ones(n, np.uint8), m)
    degree = 2 * m if level == 0 else m
    enough = degree - degree // 4 if level == 0 else 0
    others = rng.permutation(n - 1)
    row, sources = others[: min(held, degree)], rng.permutation(others[: min(held, degree) + count])[:count]
    kept = rows_of(graph, n - 1)[level]
    kept[:] = -1
    kept[: len(row)] = row
    arrays = np.array([n - 1], np.int32), np.array([0, count]), sources.astype(np.int32)
    api.merge_links(
        codes, graph, level, *arrays, (0, 1), make_scratch(n, codes.quantizer.width, m, bits=codes.quantizer.bits)
    )
    expected = naive.merge(of_links(codes), row.tolist(), n - 1, sources.tolist(), degree, enough)
    assert kept.tolist() == expected + [-1] * (degree - len(expected))


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("dim", [1, 7, 64, 100])
def test_a_code_as_a_query_is_that_of_the_naive_version(dim, bits):
    """From each of some codes the distance of every other, and one alone as many at once."""
    rng = np.random.default_rng(dim)
    codes = quantized(rng, bits, rng.standard_normal((12, dim)).astype(np.float32), EUCLID)
    naive_links, planes = of_links(codes), np.full((8, len(codes.quantizer.shifts)), 77, np.uint64)
    for node in range(12):
        query = as_kernels_have_it(kernel_bits.code_as_query(codes.words, node, codes.quantizer, planes))
        found = distances_from(query, codes).tolist()
        assert found == [naive_links.far(node, o) for o in range(12)]
        assert found == [kernel_bits.distance_to(codes.words, o, query) for o in range(12)]


def test_only_the_targets_of_the_span_are_done():
    codes = make_codes(whole_vectors(np.random.default_rng(0), 20, 9))
    graph = empty_graph(np.zeros(20, np.uint8), 2)
    graph.links[:] = -1
    targets, ends = np.arange(6, dtype=np.int32), np.arange(7) * 2
    sources = np.arange(6, 18, dtype=np.int32)
    api.merge_links(codes, graph, 0, targets, ends, sources, (2, 5), make_scratch(20, 1, 2))
    assert (graph.links[:, 0] >= 0).nonzero()[0].tolist() == [2, 3, 4]
    assert graph.links[2, :3].tolist() == [10, 11, -1]


@pytest.mark.parametrize("target", [-1, 20, 2**31 - 1, -(2**31)])
def test_a_target_outside_the_graph_is_left_alone(target):
    codes = make_codes(whole_vectors(np.random.default_rng(0), 20, 9))
    graph = empty_graph(np.zeros(20, np.uint8), 2)
    graph.links[:] = -1
    arrays = np.array([target], np.int32), np.array([0, 2]), np.array([3, 4], np.int32)
    for level in (0, 1):
        api.merge_links(codes, graph, level, *arrays, (0, 1), make_scratch(20, 1, 2))
    # a node that is not on the level has no row there
    api.merge_links(codes, graph, 1, np.array([7], np.int32), *arrays[1:], (0, 1), make_scratch(20, 1, 2))
    assert (graph.links == -1).all()


def test_a_batch_sees_the_graph_and_not_itself():
    """Nodes of one batch are found links as if each came alone, and only their rows are written."""
    rng = np.random.default_rng(4)
    n, m = 60, 4
    codes = make_codes(whole_vectors(rng, n, 40))
    words = codes.words
    levels = some_levels(rng, n, 3)
    levels[40:] = np.minimum(levels[40:], levels[:40].max())
    graph = empty_graph(levels, m)
    scratch = make_scratch(n, 1, m)
    while graph.n < 40:
        graph = link_one(codes, graph, 20, scratch)
    words[45], words[50:53] = words[7], words[8]  # copies, of each other too
    before = graph._replace(links=graph.links.copy(), upper=graph.upper.copy(), same=graph.same.copy())
    api.find_links(codes, graph, 40, n, 20, scratch)
    steps = int(levels[:40].sum())
    assert (graph.links[:40] == before.links[:40]).all()
    assert (graph.upper[:steps] == before.upper[:steps]).all()
    assert (graph.same[:40] == before.same[:40]).all()
    assert graph.same[[45, 50, 51, 52]].tolist() == [-9, -10, -10, -10]
    assert (graph.links[[45, 50, 51, 52]] == -1).all()
    for node in range(40, n):
        alone = before._replace(links=before.links.copy(), upper=before.upper.copy(), same=before.same.copy())
        api.find_links(codes, alone, node, node + 1, 20, scratch)
        for row, same in zip(rows_of(graph, node), rows_of(alone, node), strict=True):
            assert (row == same).all()
            assert (row < 40).all()
        assert graph.same[node] == alone.same[node] < 0


def test_a_node_above_the_top_has_empty_rows_there():
    codes = make_codes(whole_vectors(np.random.default_rng(0), 3, 9))
    graph = empty_graph(np.array([0, 1, 4], np.uint8), 2)
    scratch = make_scratch(3, 1, 2)
    graph = link_one(codes, graph, 8, scratch)
    graph = link_one(codes, graph, 8, scratch)
    assert (graph.entry, graph.top) == (2, 4)
    assert [row.tolist() for row in rows_of(graph, 2)][2:] == [[-1, -1]] * 3
    assert rows_of(graph, 2)[1].tolist() == [1, -1]
    assert api.check_graph(graph) == 0


@pytest.mark.parametrize("m", [2, 4, 16])
@pytest.mark.parametrize("dim", [1, 40])
def test_a_graph_of_equal_codes_is_one_that_a_walk_may_rely_on(m, dim):
    n = 30 if INTERPRETED else 200
    codes = make_codes(np.ones((n, dim), np.float32))
    graph = grown(codes, m, 10, some_levels(np.random.default_rng(0), n, 3))
    assert api.check_graph(graph) == 0 == naive.faults(graph)
    assert naive.copies_of(graph, 0) == list(range(n - 1, 0, -1))
    assert (graph.links == -1).all()
    assert (graph.entry, graph.top) == (0, int(graph.levels[0]))


@settings(max_examples=EXAMPLES, deadline=None)
@given(n=st.integers(1, 40), m=st.integers(2, 5), seed=st.integers(0, 2**32 - 1))
def test_a_grown_graph_has_no_faults(n, m, seed):
    rng = np.random.default_rng(seed)
    graph = grown(make_codes(whole_vectors(rng, n, 40)), m, 10, some_levels(rng, n, 3))
    assert api.check_graph(graph) == 0 == naive.faults(graph)
    for node in range(n):
        for row in rows_of(graph, node):
            links = row[row >= 0].tolist()
            assert len(set(links)) == len(links)


def test_links_to_a_later_state_are_faults_but_no_hindrance():
    graph = random_graph(np.random.default_rng(0), 20, 4, capacity=30)
    assert api.check_graph(graph) == naive.faults(graph) > 0
    assert api.check_graph(graph._replace(n=0)) == 0
