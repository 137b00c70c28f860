"""Walks under a filter: as many as there are and none that is rejected, by every plan; and how many are right."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bqstore.errors import CorruptionError
from bqstore.index import ENCODINGS, Plan, Search, Work, plan, search
from bqstore.index.threads import ALONE, Workers
from bqstore.kernels import layout
from tests.index.given import bitmap, data_of, encode, grow, recall, records_of, searchable
from tests.kernels.given import examples

N, DIM, TAIL, QUERIES = 4000, 64, 60, 40
EVERY = tuple(ENCODINGS.values())

# the beams that there are, each with the others left out
PLANS = {
    "inside": Plan("walk", False, 10, 64, 64, accepted_only=True),
    "through": Plan("walk", False, 10, 64, 640),
    "against": Plan("walk", False, 10, 64, 640, ef_sparse=128, sparse_below=2000),
    "against, or a scan": Plan("walk", False, 10, 64, 640, sparse_below=200),
    "along": Plan("walk", False, 10, 64, 64, accepted_only=True, ef_dense=128, sparse_below=1),
    "all of them": Plan("walk", False, 10, 64, 640, ef_sparse=128, ef_dense=128, sparse_below=100),
    "all of them, inside": Plan(
        "walk", False, 10, 64, 64, accepted_only=True, ef_sparse=128, ef_dense=128, sparse_below=100
    ),
}
WALKS = [name for name in PLANS if "scan" not in name]


@pytest.fixture(scope="module")
def state():
    """Clustered vectors, of which some are there twice; all but the last are linked."""
    vectors, queries = data_of(N, DIM, queries=QUERIES, clusters=40)
    vectors[::9] = vectors[4 : 4 + len(vectors[::9])]
    words = encode(vectors)
    return searchable(words, DIM, grow(words, stop=N - TAIL), records_of(vectors)), queries, vectors


def nearest(state, planned, flags, k, encoding=layout.BINARY, workers=ALONE, queries=None, **more):
    """Ordinals and scores."""
    data, own, _ = state
    search = Search(data, bitmap(flags), int(flags.sum()), k, planned, encoding)
    return search.nearest(own if queries is None else queries, workers, **more)


def same(found, expected):
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


def some(share, seed=0):
    return np.random.default_rng(seed).random(N) < share


def along(vectors, query, share):
    """The part of the vectors that is nearest to a query; the farthest, if it is negative."""
    order = np.argsort(-(vectors @ query) * np.sign(share), kind="stable")
    return np.isin(np.arange(N), order[: int(abs(share) * N)])


def assert_right(found, flags, k):
    """As many as there are, each once, accepted, best first, and then nothing."""
    ordinals, scores = found
    count = min(k, int(flags.sum()))
    assert (ordinals[:, count:] == -1).all() and np.isnan(scores[:, count:]).all()
    assert flags[ordinals[:, :count]].all() and (ordinals[:, :count] >= 0).all()
    assert all(len(set(row)) == count for row in ordinals[:, :count].tolist())
    assert (np.diff(scores[:, :count], axis=1) <= 0).all()


@settings(max_examples=examples(150), deadline=None)
@given(
    share=st.sampled_from([0, 0.0003, 0.001, 0.003, 0.01, 0.05, 0.2, 0.5, 0.9, 1]),
    where=st.sampled_from(["anywhere", "along", "against", "one word", "the tail", "copies"]),
    name=st.sampled_from(list(PLANS)),
    k=st.sampled_from([1, 3, 10]),
    rescoring=st.booleans(),
    encoding=st.sampled_from(EVERY),
    seed=st.integers(0, 2**32 - 1),
)
def test_as_many_as_are_accepted_and_none_that_is_not(state, share, where, name, k, rescoring, encoding, seed):
    _, queries, vectors = state
    rng = np.random.default_rng(seed)
    flags = some(share, seed)
    query = queries[rng.integers(QUERIES)][None].copy()
    if where in ("along", "against"):
        flags = along(vectors, query[0], share if where == "along" else -share)
    elif where == "one word":
        flags = np.arange(N) // 64 == rng.integers(N // 64)
    elif where == "the tail":
        flags[: N - TAIL] = False
    elif where == "copies":
        flags &= np.arange(N) % 9 == 0
    planned = replace(PLANS[name], rescoring=rescoring, max_candidates=int(rng.choice([0, 40])))
    assert_right(nearest(state, planned, flags, k, encoding, queries=query), flags, k)


@pytest.mark.parametrize("name", PLANS)
def test_fewer_than_were_asked_for_are_all_that_there_are(state, name):
    rng = np.random.default_rng(0)
    for count in (0, 1, 2, 9, 10, 11, 70):
        flags = np.isin(np.arange(N), rng.permutation(N)[:count])
        for planned in (PLANS[name], replace(PLANS[name], candidates=30, rescoring=True)):
            found = nearest(state, planned, flags, 10)
            assert_right(found, flags, 10)
            if count <= 10:
                expected = np.broadcast_to(np.flatnonzero(flags), (QUERIES, count))
                np.testing.assert_array_equal(np.sort(found[0][:, :count], axis=1), expected)


# ---- how many of the nearest are found, of those that a scan of the same codes finds

# beams so narrow that they miss some
NARROW = {
    "inside": Plan("walk", False, 10, 14, 14, accepted_only=True),
    "through": Plan("walk", False, 10, 14, 140),
    "against": Plan("walk", False, 10, 10, 100, ef_sparse=14, sparse_below=2000),
    "along": Plan("walk", False, 10, 14, 14, accepted_only=True, ef_dense=14, sparse_below=1),
    "all of them": Plan("walk", False, 10, 14, 140, ef_sparse=28, ef_dense=28, sparse_below=100),
}
# independent at .5, .2 and .05, then the nearest and the farthest fifth: some .015 below what was measured
FLOORS = {
    "inside": (0.985, 0.98, 0.96, 0.985, 0.94),
    "through": (0.975, 0.98, 0.985, 0.985, 0.985),
    "against": (0.985, 0.98, 0.96, 0.985, 0.94),
    "along": (0.975, 0.98, 0.96, 0.985, 0.94),
    "all of them": (0.98, 0.98, 0.975, 0.985, 0.975),
}


def measured(state, name):
    """Recall under filters that have nothing to do with the query, go along with it and go against it."""
    data, queries, vectors = state
    found = []
    for share in (0.5, 0.2, 0.05):
        flags = some(share)
        found.append(recall(data.words, queries, nearest(state, NARROW[name], flags, 10)[0], flags))
    for share in (0.2, -0.2):
        each = []
        for query in queries:
            flags = along(vectors, query, share)
            one = query[None].copy()
            each.append(recall(data.words, one, nearest(state, NARROW[name], flags, 10, queries=one)[0], flags))
        found.append(float(np.mean(each)))
    return found


@pytest.mark.parametrize("name", NARROW)
def test_recall_under_filters(state, name):
    found = measured(state, name)
    assert all(share >= floor for share, floor in zip(found, FLOORS[name], strict=True)), found


def test_a_wider_accepted_only_beam_finds_more(state):
    data, queries, _ = state
    flags = some(0.2)
    found = []
    for ef in (10, 20, 40, 80, 160):
        planned = Plan("walk", False, 10, ef, ef, accepted_only=True)
        found.append(recall(data.words, queries, nearest(state, planned, flags, 10)[0], flags))
    assert found[-1] > 0.99 and all(more >= less - 0.01 for less, more in pairwise(found)), found


@pytest.fixture(scope="module")
def topics():
    """Forty tight topics, and queries of the first ones."""
    rng = np.random.default_rng(2)
    centers, topic = rng.standard_normal((40, DIM)), np.arange(N) % 40
    vectors = (centers[topic] + 0.3 * rng.standard_normal((N, DIM))).astype(np.float32)
    queries = (centers[:QUERIES] + 0.3 * rng.standard_normal((QUERIES, DIM))).astype(np.float32)
    words = encode(vectors)
    return searchable(words, DIM, grow(words), records_of(vectors)), queries, topic


def of_each(topics, planned, flags_of):
    """Hits of each query under a filter of its own, and the work for all of them."""
    data, queries, _ = topics
    hits, total = [], [Work() for _ in queries]
    for i, query in enumerate(queries):
        one = query[None].copy()
        hits.append(nearest((data, one, None), planned, flags_of(i), 10, queries=one, work=total[i])[0][0])
    return np.array(hits), total


def test_a_walk_went_on_among_what_is_equally_far_where_it_had_found_a_topic(topics):
    """Some fifteen of a query's topic are accepted, and of others most: these were met one after the other."""
    topic, chance = topics[2], np.random.default_rng(3).random(N)
    against = Plan("walk", False, 10, 64, 640, ef_sparse=128, sparse_below=2000)

    def few(i):
        return np.where(topic == i, chance < 0.15, chance < 0.7)

    whole, all_of_it = of_each(topics, against, few)
    found, work = of_each(topics, replace(against, settled=10), few)
    np.testing.assert_array_equal(found, whole)
    assert all(each.way == "walk" for each in work)
    assert sum(each.distances for each in work) < 0.6 * sum(each.distances for each in all_of_it)


def test_a_walk_that_a_scan_is_quicker_than_goes_on_where_the_nearest_stand_out(topics):
    """And the scan comes at once where nothing near is accepted."""
    topic, chance = topics[2], np.random.default_rng(3).random(N)
    planned = Plan("walk", False, 10, 64, 640, settled=10, ef_settled=128, sparse_below=2000)

    def few(i):
        return np.where(topic == i, chance < 0.2, chance < 0.4)

    found, work = of_each(topics, planned, few)
    scanned, _ = of_each(topics, Plan("scan", False, 10), few)
    np.testing.assert_array_equal(found, scanned)
    assert np.mean([each.way == "walk" for each in work]) > 0.6
    found, work = of_each(topics, planned, lambda i: (topic != i) & (chance < 0.4))
    assert np.mean([each.way == "scan" for each in work]) > 0.8


@pytest.mark.parametrize("encoding", EVERY)
@pytest.mark.parametrize("share", [0.9, 0.5, 0.3])
def test_a_beam_that_holds_all_is_a_scan(state, encoding, share):
    """Of fewer accepted, some are met by no two steps."""
    flags = some(share)
    count = int(flags.sum())
    expected = nearest(state, Plan("scan", False, 10), flags, 10, encoding)
    for planned in (
        Plan("walk", False, 10, count, count, accepted_only=True),
        Plan("walk", False, 10, 10, 10, ef_sparse=count, sparse_below=2000),
        Plan("walk", False, 10, count, N, ef_dense=count, sparse_below=1),
    ):
        same(nearest(state, planned, flags, 10, encoding), expected)


# ---- one, many and threads


@pytest.mark.parametrize("rescoring", [False, True])
@pytest.mark.parametrize("name", PLANS)
def test_one_by_one_at_once_and_in_threads_are_the_same(state, name, rescoring):
    data, queries, _ = state
    planned = replace(PLANS[name], rescoring=rescoring, max_candidates=40 if rescoring else 0)
    for share in (0.5, 0.1):
        flags = some(share)
        search = Search(data, bitmap(flags), int(flags.sum()), 10, planned, 4)
        expected = search.nearest(queries, ALONE)
        for threads in (2, 3, 5):
            with ThreadPoolExecutor(threads) as pool:
                same(search.nearest(queries, Workers(threads, lambda pool=pool: pool)), expected)
        for i in range(0, QUERIES, 7):
            same(search.one(queries[i : i + 1]), (expected[0][i : i + 1], expected[1][i : i + 1]))


@pytest.mark.parametrize("name", [*PLANS, "scan"])
@pytest.mark.parametrize("most", [0, 20, 60])
def test_originals_asked_for_ahead_change_nothing(state, name, most):
    """And are asked for before they are read, but those beyond the candidates."""
    planned = (
        Plan("scan", True, 12, max_candidates=most)
        if name == "scan"
        else replace(PLANS[name], rescoring=True, candidates=12)
    )
    planned = replace(planned, max_candidates=max(12, most))
    flags, asked = some(0.3), []
    found = nearest(state, planned, flags, 5, prefetch=asked.append)
    same(found, nearest(state, planned, flags, 5))
    asked = np.concatenate(asked)
    assert asked.shape == (QUERIES, 12) and flags[asked].all()


# ---- more candidates


@pytest.mark.parametrize("name", [*WALKS, "scan"])
def test_more_candidates_are_read_where_they_bring_hits(state, name):
    """Between those that are read in any case and the most, and never for worse hits."""
    planned = Plan("scan", True, 10) if name == "scan" else PLANS[name]
    flags, work = some(0.5), {}
    scores = {}
    for most in (10, 20, 60):
        work[most] = Work()
        more = replace(planned, rescoring=True, max_candidates=most)
        found = nearest(state, more, flags, 10, work=work[most])
        assert_right(found, flags, 10)
        scores[most] = found[1]
        assert QUERIES * 10 <= work[most].rescored <= QUERIES * most
    assert work[10].rescored < work[20].rescored < work[60].rescored < QUERIES * 60
    assert (scores[10] <= scores[20]).all() and (scores[10] <= scores[60]).all()
    assert name == "scan" or (scores[20] <= scores[60]).all()  # what few candidates do not settle, originals may
    assert (scores[10] < scores[60]).any()


@pytest.mark.parametrize("name", ["inside", "through", "scan"])
def test_damage_is_reported_where_it_is_read(state, name):
    data, queries, _ = state
    planned = Plan("scan", True, 10) if name == "scan" else PLANS[name]
    planned, flags = replace(planned, rescoring=True), some(0.5)
    found, _ = nearest(state, planned, flags, 10, queries=queries[:1].copy())
    for bad in (int(found[0, 0]), int(np.flatnonzero(~flags)[0])):
        records = data.records.copy()
        records[bad, 9] ^= 1
        records.flags.writeable = False
        damaged = replace(data, records=records), queries, None
        if flags[bad]:
            with pytest.raises(CorruptionError, match=f"slot {bad}"):
                nearest(damaged, planned, flags, 10, queries=queries[:1].copy())
        else:
            same(nearest(damaged, planned, flags, 10), nearest(state, planned, flags, 10))


# ---- by the planner


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("share", [1, 0.9, 0.5, 0.2, 0.1, 0.05, 0.02, 0.001, 0])
def test_whatever_is_planned_is_done(state, share, adaptive):
    """A plan of many more, whose beams are as wide as they would be: this set is so small that it would be scanned."""
    flags = some(share) if share < 1 else np.ones(N, bool)
    settings = {"planes": 1, "bits": 1, "width": 1, "m": 16, "ef_construct": 64, "exact": False, "hnsw_ef": None}
    settings |= {"dim": DIM, "k": 10, "oversampling": 2.0, "rescore": True, "originals": True, "full_scan_threshold": 0}
    settings |= {"filtered": True, "adaptive": adaptive, "signs": True}
    for size in (N, 100 * N):
        count = int(flags.sum()) * (size // N)
        planned = plan(n=size, linked=size - TAIL, accepted=count, **settings)
        if planned.way == "walk":
            planned = replace(planned, max_beam=min(N, planned.max_beam), candidates=min(planned.candidates, N))
        assert_right(nearest(state, planned, flags, 10), flags, 10)


@pytest.mark.parametrize("soon", [True, False], ids=["all is read", "more first"])
@pytest.mark.parametrize("affordable", [True, False], ids=["then all", "no more"])
def test_what_bits_do_not_settle_originals_do(state, monkeypatch, soon, affordable):
    """Only the farthest are accepted, so that the best of them lie at a sharp cut among many that are alike."""
    data, queries, vectors = state
    monkeypatch.setattr(search, "_SOON_READ", 2**40 if soon else -1)
    monkeypatch.setattr(search, "_AFFORDABLE", 2**40 if affordable else 0)
    planned, found, ways = Plan("scan", True, 30, max_candidates=60), [], []
    for query in queries:
        flags, work = along(vectors, query, -0.5), Work()
        got = nearest((data, query[None], vectors), planned, flags, 10, work=work)
        assert_right(got, flags, 10)
        best = nearest((data, query[None], vectors), Plan("exact", False, 0), flags, 10)
        found.append(np.mean(got[1][0] >= best[1][0, -1]))
        ways.append(work.way)
        plain = nearest((data, query[None], vectors), Plan("scan", True, 30), flags, 10)
        assert (got[1] >= plain[1]).all()
    assert ("exact" in ways) == (soon or affordable)
    assert all(share == 1 for share, way in zip(found, ways, strict=True) if way == "exact")
    assert np.mean(found) > (0.95 if soon else 0.85 if affordable else 0.4), np.mean(found)
    together = nearest((data, queries, vectors), planned, some(0.5), 10)
    one = [nearest((data, query[None], vectors), planned, some(0.5), 10) for query in queries]
    same(together, tuple(np.concatenate([each[i] for each in one]) for i in range(2)))
