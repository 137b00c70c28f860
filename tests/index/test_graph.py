"""Building a graph: the same on any number of threads, whole however it was added, its levels drawn by a hash."""

import numpy as np
import pytest

from bqstore.index import HnswGraph
from bqstore.index.graph import SEED, levels_of
from bqstore.index.threads import ALONE
from bqstore.kernels import api
from tests import naive
from tests.index.given import (
    bytes_of,
    data_of,
    distances_of,
    encode,
    grow,
    lists_of,
    lists_of_codes,
    reached,
    recall,
    searchable,
    walk,
)

N, DIM = 3000, 128


@pytest.fixture(scope="module")
def data():
    vectors, queries = data_of(N, DIM)
    return encode(vectors), queries


def test_any_number_of_threads_gives_the_same_bytes(data):
    words, _ = data
    expected = bytes_of(grow(words))
    for threads in (2, 5):
        assert bytes_of(grow(words, threads=threads)) == expected
    assert bytes_of(grow(words)) == expected


def test_threads_and_pieces_of_the_same_calls_give_the_same_bytes(data):
    words, _ = data
    assert bytes_of(grow(words, step=700)) == bytes_of(grow(words, step=700, threads=3))


def test_another_seed_gives_another_graph(data):
    words, _ = data
    other = grow(words[:500], graph=HnswGraph(16, 64, seed=1))
    assert bytes_of(other) != bytes_of(grow(words[:500]))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("step", [None, 1, 7, 1000])
def test_at_once_one_by_one_and_in_pieces_are_equal(data, step):
    words, queries = data
    graph = grow(words, step=step)
    assert len(graph) == N
    assert api.check_graph(graph.view) == 0
    assert reached(graph).all()
    found = walk(searchable(words, DIM, graph), queries, 10, 32)
    assert recall(words, queries, found) > 0.99


def test_a_small_graph_is_that_of_the_rules(data):
    words = data[0][:300]
    graph = grow(words, m=4, ef=20)
    assert api.check_graph(graph.view) == 0 == naive.faults(graph.view)
    view = graph.view
    assert view.levels[:300].tolist() == levels_of(SEED, 0, 300, 4).tolist()
    assert view.top == view.levels[:300].max() == view.levels[view.entry]
    degrees = (view.links[:300] >= 0).sum(1)
    assert degrees.min() >= 1 and degrees.max() <= 8


@pytest.mark.parametrize("dim", [2, 6, 64])
def test_added_one_by_one_it_is_the_graph_of_the_naive_version(dim):
    """In batches equal codes do not see each other; one by one, every link and every list is as defined."""
    n = 150
    words = encode(np.random.default_rng(dim).standard_normal((n, dim)).astype(np.float32))
    view = grow(words, m=4, ef=12, step=1).view
    rows, same, entry, top = naive.grow(naive.Signs(words), 4, 12, levels_of(SEED, 0, n, 4))
    assert (view.n, view.entry, view.top) == (n, entry, top)
    copies = {copy for each in same.values() for copy in each}
    for node in range(n):
        if node not in copies:
            assert naive.copies_of(view, node) == same.get(node, []), node
        for level in range(int(view.levels[node]) + 1):
            assert naive.row_of(view, node, level) == rows[node, level], (node, level)


@pytest.mark.parametrize("step", [None, 1, 37])
@pytest.mark.parametrize("order", ["one after the other", "mixed", "in rounds"])
def test_of_equal_codes_the_first_has_the_links_and_a_list_of_the_others(order, step):
    n = 1200
    which = np.repeat(np.arange(n // 6), 6)
    which = {"mixed": np.random.default_rng(0).permutation(which), "in rounds": np.arange(n) % (n // 6)}.get(
        order, which
    )
    words = encode(data_of(n // 6, DIM)[0][which])
    graph = grow(words, step=step)
    assert api.check_graph(graph.view) == 0 == naive.faults(graph.view)
    assert bytes_of(grow(words, step=step, threads=3)) == bytes_of(graph)
    lists = lists_of(graph)
    assert lists == lists_of_codes(words, n)
    view, copies = graph.view, np.array([copy for each in lists.values() for copy in each])
    assert (view.links[copies] == -1).all()
    assert not view.levels[copies].any() and (view.first[copies] == -1).all()
    assert not np.isin(view.links[:n], copies).any() and not np.isin(view.upper, copies).any()
    seen = reached(graph)
    assert not seen[copies].any() and seen.sum() == n - len(copies)


def test_copies_do_not_make_batches_larger():
    """A batch is a part of the different codes, not of the nodes: where there are ten codes it stays small."""
    words = np.repeat(encode(data_of(10, DIM)[0]), 400, axis=0)
    graph, ends = HnswGraph(16, 64), []
    while len(graph) < len(words):
        ends.append(graph.link(words, len(words), ALONE))
    assert np.diff(ends).max() <= 64  # of 4000 nodes with codes of their own it is 250
    assert lists_of(graph) == lists_of_codes(words, 4000)


def test_the_nearest_few_are_linked(data):
    """Of each node's four nearest, most are among its links: what makes a walk arrive."""
    words, _ = data
    view = grow(words).view
    distances = distances_of_codes(words[:200], words)
    np.put_along_axis(distances, np.arange(200)[:, None], 10**6, axis=1)
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :4]
    linked = [(nearest[node, :, None] == view.links[node]).any(1).mean() for node in range(200)]
    assert np.mean(linked) > 0.9


def distances_of_codes(some, words):
    signs = np.unpackbits(some.view(np.uint8), axis=1, bitorder="little").astype(np.float32) - 0.5
    return distances_of(words, signs).astype(np.int64)


@pytest.mark.parametrize("m", [2, 512])
@pytest.mark.parametrize(("n", "dim"), [(1, 1), (2, 1), (3, 1), (1, 64), (2, 64), (3, 64), (40, 64)])
def test_few_nodes_and_extreme_degrees(n, dim, m):
    vectors, queries = data_of(n, dim, queries=5)
    words = encode(vectors)
    graph = grow(words, m=m, ef=4, threads=2)
    assert api.check_graph(graph.view) == 0
    found = walk(searchable(words, dim, graph), queries, min(n, 3), n)
    assert recall(words, queries, found) == 1


def test_nothing_more_to_link_is_no_work(data):
    words, _ = data
    graph = grow(words[:50])
    view = graph.view
    for stop in (0, 49, 50):
        assert graph.link(words, stop, ALONE) == 50
    assert graph.view is view


def test_a_search_keeps_the_arrays_it_has_when_the_graph_outgrows_them(data):
    words, queries = data
    graph = grow(words[:400])
    state = searchable(words[:400], DIM, graph)
    before = walk(state, queries, 5, 50)
    grow(words, graph=graph, stop=1000)
    assert len(graph.view.links) > len(state.graph.links)
    assert (walk(state, queries, 5, 50) == before).all()


# ---- levels


@pytest.mark.parametrize("m", [2, 3, 16, 512])
def test_each_level_is_m_times_rarer_than_the_one_below(m):
    n = 1_000_000
    levels = levels_of(SEED, 0, n, m)
    assert levels.dtype == np.uint8
    for level in range(1, 4):
        expected = n / m**level
        assert abs((levels >= level).sum() - expected) < 5 * np.sqrt(expected) + 1, level


def test_a_level_depends_on_seed_and_ordinal_alone():
    levels = levels_of(SEED, 0, 1000, 4)
    assert levels.tolist() == [int(levels_of(SEED, o, o + 1, 4)[0]) for o in range(1000)]
    assert levels_of(SEED, 300, 700, 4).tolist() == levels[300:700].tolist()
    assert levels_of(SEED + 1, 0, 1000, 4).tolist() != levels.tolist()
    assert len(levels_of(SEED, 5, 5, 4)) == 0


def test_levels_are_those_of_splitmix():
    def level(seed, ordinal, m):
        x = (0x9E3779B97F4A7C15 * (ordinal + 1) + seed) % 2**64
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        x ^= x >> 31
        found = 0
        while x < 2**64 // m ** (found + 1) and found < 24:
            found += 1
        return found

    for m in (2, 5, 16):
        assert levels_of(SEED, 10, 400, m).tolist() == [level(SEED, o, m) for o in range(10, 400)]
