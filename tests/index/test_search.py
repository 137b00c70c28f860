"""Search: every way to the same answer, what it says of its work, and what it does when a way fails."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from bqstore.errors import CorruptionError
from bqstore.index import ENCODINGS, DoubtfulError, HnswGraph, Plan, Search, Work
from bqstore.index.scratch import ScratchPool, Sizes
from bqstore.index.threads import ALONE, Workers
from bqstore.kernels import api, layout
from tests.index.given import bitmap, data_of, encode, grow, records_of, searchable

N, DIM, TAIL = 1200, 70, 50
EVERY = tuple(ENCODINGS.values())
WALK = Plan("walk", True, 40, N, N)  # a beam that holds all
SCAN = Plan("scan", True, 40)


@pytest.fixture(scope="module")
def state():
    vectors, queries = data_of(N, DIM, queries=20)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    words = encode(vectors)
    return searchable(words, DIM, grow(words, stop=N - TAIL), records_of(vectors)), queries


def same(found, expected):
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


def some(count, seed=0):
    flags = np.zeros(N, bool)
    flags[np.random.default_rng(seed).permutation(N)[:count]] = True
    return flags


@pytest.mark.parametrize("encoding", EVERY)
@pytest.mark.parametrize("rescoring", [True, False])
@pytest.mark.parametrize("accepted", [N, N // 2, 60])
def test_a_wide_walk_is_a_scan(state, encoding, rescoring, accepted):
    data, queries = state
    accept = None if accepted == N else bitmap(some(accepted))
    ways = [Plan(way, rescoring, 40, N, N) for way in ("walk", "scan")]
    searches = [Search(data, accept, accepted, 10, plan, encoding) for plan in ways]
    same(*(search.nearest(queries, ALONE) for search in searches))


@pytest.mark.parametrize("plan", [WALK, SCAN, Plan("exact", False, 0)])
@pytest.mark.parametrize("encoding", EVERY)
def test_one_by_one_at_once_and_in_threads_are_the_same(state, plan, encoding):
    data, queries = state
    search = Search(data, None, N, 10, plan, encoding)
    expected = search.nearest(queries, ALONE)
    assert expected[0].shape == expected[1].shape == (20, 10)
    with ThreadPoolExecutor(3) as pool:
        same(search.nearest(queries, Workers(3, lambda: pool)), expected)
    for i in range(20):
        one = search.one(queries[i : i + 1])
        same(one, (expected[0][i : i + 1], expected[1][i : i + 1]))
    empty = search.nearest(queries[:0], ALONE)
    assert empty[0].shape == (0, 10)


@pytest.mark.parametrize("plan", [WALK, SCAN])
def test_originals_asked_for_ahead_change_nothing(state, plan):
    data, queries = state
    search, asked = Search(data, None, N, 10, plan, 1), []
    same(search.nearest(queries, ALONE, asked.append), search.nearest(queries, ALONE))
    asked = np.concatenate(asked)
    assert asked.shape == (20, 40) and asked.dtype == np.int32
    assert (np.sort(asked)[:, 1:] > np.sort(asked)[:, :-1]).all()
    assert all(set(found) <= set(row) for found, row in zip(search.nearest(queries, ALONE)[0], asked, strict=True))
    unscored = Search(data, None, N, 10, Plan(plan.way, False, 40, N, N), 1)
    unscored.nearest(queries, ALONE, pytest.fail)


def test_what_lies_in_the_tail_is_found(state):
    data, _ = state
    late = np.arange(N - TAIL, N)
    queries = data.records.view(np.float32)[late, 8 : 8 + DIM].copy()
    found, _ = Search(data, None, N, 1, Plan("walk", True, 20, 40, 40), 1).nearest(queries, ALONE)
    assert found[:, 0].tolist() == late.tolist()


def test_fewer_than_there_should_be_are_found_by_a_scan(state):
    data, queries = state
    flags = some(60)
    # room for eight nodes: the walk cannot meet forty accepted ones
    search = Search(data, bitmap(flags), 60, 10, Plan("walk", True, 40, 8, 8), 4)
    expected = Search(data, bitmap(flags), 60, 10, SCAN, 4).nearest(queries, ALONE)
    work = Work()
    same(search.nearest(queries, ALONE, None, work), expected)
    assert (work.way, work.hops) == ("scan", 0)
    same(search.one(queries[:1]), (expected[0][:1], expected[1][:1]))


def test_what_was_done_is_reported(state):
    data, queries = state
    work = Work()
    Search(data, None, N, 10, Plan("walk", True, 40, 50, 50), 1).nearest(queries, ALONE, None, work)
    assert work.way == "walk"
    assert 20 * (50 + TAIL) < work.distances < 20 * N  # fewer than a scan
    assert 20 * 50 <= work.hops < work.distances
    assert work.rescored == 20 * 40
    for plan, rescored in ((SCAN, 800), (Plan("exact", False, 0), 0), (Plan("scan", False, 10), 0)):
        work = Work()
        Search(data, None, N, 10, plan, 1).nearest(queries[:20], ALONE, None, work)
        assert work == Work(plan.way, 20 * N, 0, rescored)


def test_work_of_one_search_is_not_that_of_those_before(state):
    data, queries = state
    search = Search(data, None, N, 10, Plan("walk", True, 40, 50, 50), 1)
    told = []
    for _ in range(3):
        told.append(Work())
        search.nearest(queries[:1], ALONE, None, told[-1])
    assert told[0] == told[1] == told[2]


@pytest.mark.parametrize("plan", [WALK, SCAN, Plan("exact", False, 0)])
def test_a_damaged_record_is_an_error_and_not_a_hit(state, plan):
    data, _ = state
    vector = data.records.view(np.float32)[42:43, 8 : 8 + DIM].copy()  # writable, as queries are
    records = data.records.copy()
    records[42, 20] ^= 1
    records.flags.writeable = False
    bad = replace(data, records=records)
    search = Search(bad, None, N, 5, plan, 1)
    for call in (
        lambda: search.nearest(vector, ALONE),
        lambda: search.one(vector),
        lambda: search.nearest(vector, ALONE, lambda _: None),
    ):
        with pytest.raises(CorruptionError, match="slot 42 "):
            call()
    codes = Search(bad, None, N, 5, Plan(plan.way if plan.way != "exact" else "scan", False, 5, N, N), 1)
    assert codes.one(vector)[0][0, 0] == 42  # the codes alone do not touch it


def test_one_way_serves_more_searches_than_there_are_epochs(state):
    data, queries = state
    search = Search(data, None, N, 10, Plan("walk", True, 20, 30, 30), 1)
    expected = search.nearest(queries, ALONE)
    for turn in range(600):
        at = turn % 20
        same(search.one(queries[at : at + 1]), (expected[0][at : at + 1], expected[1][at : at + 1]))


@pytest.mark.parametrize("plan", [WALK, SCAN, Plan("exact", False, 0)])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_a_query_that_cannot_be_computed_with_is_an_error(state, plan, value):
    data, queries = state
    bad = queries.copy()
    bad[7, 3] = value
    search = Search(data, None, N, 5, plan, 4)
    with pytest.raises(DoubtfulError):
        search.nearest(bad, ALONE)
    with pytest.raises(DoubtfulError):
        search.one(bad[7:8])
    assert search.one(bad[6:7])[0].min() >= 0


@pytest.mark.parametrize("plan", [WALK, SCAN, Plan("exact", False, 0)])
def test_the_length_of_a_query_is_nothing_to_a_cosine(state, plan):
    data, queries = state
    search = Search(replace(data, metric=layout.COSINE), None, N, 5, plan, 1)
    expected = search.nearest(queries, ALONE)
    assert np.abs(expected[1]).max() <= 1
    same(search.nearest(queries * np.float32(1024), ALONE), expected)
    same(search.nearest(queries[:1] / np.float32(4096), ALONE), (expected[0][:1], expected[1][:1]))


# ---- scratch


def test_a_scratch_is_used_again_and_not_by_two_at_once(state):
    data, queries = state
    search = Search(data, None, N, 10, WALK, 1)
    free = data.pool.free(search._sizes)
    search.one(queries[:1])
    count = len(free)
    for _ in range(5):
        search.one(queries[:1])
        search.nearest(queries, ALONE)
    assert len(free) == count >= 1
    assert Search(data, None, N, 10, WALK, 4)._free is free


def test_sizes_not_in_use_are_forgotten():
    pool = ScratchPool()
    sizes = [Sizes(n, 1, 1, 1, 2, 8, 1, 1) for n in range(1, 30)]
    for each in sizes:
        assert pool.free(each) is pool.free(each)
    assert len(pool._free) == 8
    assert pool.free(sizes[-1]) is pool.free(sizes[-1])


class Raced(list):
    """A list whose last set is taken by another thread between the look and the taking."""

    def __bool__(self):
        return True

    def __len__(self):
        return 1


def test_a_scratch_that_another_thread_takes_first_is_made_anew(state):
    data, queries = state
    search = Search(data, None, N, 10, WALK, 1)
    expected = search.nearest(queries, ALONE)
    search._free = Raced()
    same(search.one(queries[:1]), (expected[0][:1], expected[1][:1]))
    search._free = Raced()
    same(search.nearest(queries, ALONE), expected)


# ---- the one version of every root


def test_every_root_has_one_version_after_all_kinds_of_work(state):
    """`direct` calls the first version without a look at the types: a second one would be called by the first's."""
    data, queries = state
    vectors = data.records.view(np.float32)[:, 8 : 8 + DIM].copy()
    graph = grow(data.words, step=300, threads=2)
    again = HnswGraph(16, 64)
    numbers, arrays = graph.parts()
    for array in arrays.values():
        array.flags.writeable = False
    again.restore(numbers, arrays, N)
    grow(data.words, graph=again)
    for form in (0, 1, 2):
        records = records_of(vectors, form)
        for view in (graph.view, again.view):
            for accept in (None, bitmap(some(N // 2))):
                for encoding in EVERY:
                    for plan in (WALK, SCAN, Plan("walk", False, 10, 20, 40), Plan("exact", False, 0)):
                        made = replace(data, records=records, form=form, metric=form, graph=view)
                        search = Search(made, accept, N if accept is None else N // 2, 10, plan, encoding)
                        search.one(queries[3:4])
                        search.nearest(queries, ALONE, lambda _: None, Work())
    assert [len(root.signatures) for root in api.ROOTS] == [1] * len(api.ROOTS)
