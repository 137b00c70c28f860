"""Threads that walk while one links, on the same arrays."""

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from bqstore.index import HnswGraph, Plan, Quantizer, Search, Searchable, warm_up
from bqstore.index.scratch import ScratchPool
from bqstore.index.threads import ALONE, Workers
from bqstore.kernels import api, layout
from tests.index.given import data_of, encode, grow, recall, records_of

N, DIM, START, K = 12_000, 128, 1500, 10
SIGNS = Quantizer.signs(DIM)


@pytest.fixture(scope="module")
def given():
    warm_up()  # compiling takes as long as all these tests
    vectors, queries = data_of(N, DIM, queries=64)
    return encode(vectors), records_of(vectors), queries


def switch_often():
    """Threads that hold the GIL give it up every few bytecodes."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    return before


@pytest.mark.sampled(1)
@pytest.mark.parametrize("reserved", [False, True])
@pytest.mark.long
def test_searches_go_on_while_nodes_are_linked(given, reserved):
    """Every search has a state of its own: it finds its ordinals, and as much as ever; old states grow worse slowly.

    reserved: links in place, in memory for all of them; else arrays are outgrown and replaced on the way.
    """
    words, records, queries = given
    graph = HnswGraph(16, 64)
    with ThreadPoolExecutor(2) as pool:
        while len(graph) < START:
            graph.link(words, N if reserved else START, Workers(1, lambda: pool))
        first = graph.view
        pool_of_scratch, failures, seen, done = ScratchPool(), [], [], threading.Event()

        def check(view, turn):
            data = Searchable(words, records, view.n, DIM, 0, layout.DOT, SIGNS, view, pool_of_scratch)
            walk = Plan("walk", False, K, 64, 64)
            search = Search(data, None, view.n, K, walk, layout.BINARY)
            if turn % 2:
                found = search.nearest(queries, ALONE)[0]
            else:
                found = np.concatenate([search.one(queries[i : i + 1])[0] for i in range(len(queries))])
            assert (found >= 0).all() and (found < view.n).all()
            floor = 0.98 if view is not first else 0.9
            assert recall(words, queries, found, n=view.n) > floor, view.n
            seen.append(view.n)

        def searcher(own):
            turn = own
            try:
                while not done.is_set():
                    check(first if turn % 7 == 0 else graph.view, turn)
                    turn += 1
            except BaseException as error:
                failures.append(error)

        before = switch_often()
        threads = [threading.Thread(target=searcher, args=(own,)) for own in range(3)]
        try:
            for thread in threads:
                thread.start()
            while len(graph) < N:
                end = N if reserved else min(N, len(graph) + 500)
                graph.link(words, end, Workers(2, lambda: pool))
                while len(seen) < len(graph) // 1000 and not failures:
                    time.sleep(0.001)  # let the searches have their turn
        finally:
            done.set()
            for thread in threads:
                thread.join()
            sys.setswitchinterval(before)
    assert not failures, failures
    assert len(set(seen)) > 3
    assert api.check_graph(graph.view) == 0
    check(graph.view, 0)
    assert len(first.links) == (N if reserved else START)


def test_searches_beside_do_not_change_the_graph(given):
    words, records, queries = given
    expected = grow(words[:4000], threads=2).parts()[1]["links"].tobytes()
    graph, done = HnswGraph(16, 64), threading.Event()

    def searcher():
        while not done.is_set():
            view = graph.view
            if view.n > 100:
                data = Searchable(words, records, view.n, DIM, 0, layout.DOT, SIGNS, view)
                Search(data, None, view.n, K, Plan("walk", True, 30, 64, 64), 4).nearest(queries, ALONE)

    thread = threading.Thread(target=searcher)
    thread.start()
    try:
        grow(words[:4000], threads=2, graph=graph)
    finally:
        done.set()
        thread.join()
    assert graph.parts()[1]["links"].tobytes() == expected


def test_one_search_serves_many_threads_at_once(given):
    """Each call has a scratch of its own: the same answers as one after the other."""
    words, records, queries = given
    graph = grow(words[:4000])
    data = Searchable(words, records, 4500, DIM, 0, layout.COSINE, SIGNS, graph.view)
    search = Search(data, None, 4500, K, Plan("walk", True, 30, 48, 48), layout.SCALAR_4_BITS)
    expected = search.nearest(queries, ALONE)
    failures = []

    def searcher(own):
        try:
            for turn in range(60):
                at = (turn + own) % len(queries)
                found = search.one(queries[at : at + 1])
                assert (found[0] == expected[0][at]).all() and (found[1] == expected[1][at]).all()
        except BaseException as error:
            failures.append(error)

    before = switch_often()
    try:
        threads = [threading.Thread(target=searcher, args=(own,)) for own in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert not failures, failures
