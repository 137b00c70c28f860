"""How much of what a scan finds a walk finds, on clustered data, and that a wider beam never finds less."""

import numpy as np
import pytest

from bqstore.index import ENCODINGS, Plan, Search, Work, plan
from bqstore.index.threads import ALONE
from tests.index.given import (
    bitmap,
    data_of,
    distances_of,
    encode,
    grow,
    reached,
    recall,
    searchable,
    walk,
)

N, DIM, K = 12_000, 256, 10


@pytest.fixture(scope="module")
def state():
    vectors, queries = data_of(N, DIM, queries=200, clusters=100)
    words = encode(vectors)
    graph = grow(words, ef=100, threads=2)
    assert reached(graph).all()
    return words, queries, searchable(words, DIM, graph)


def scanned(data, queries, flags, encoding):
    accepted = N if flags is None else int(flags.sum())
    accept = None if flags is None else bitmap(flags)
    search = Search(data, accept, accepted, K, Plan("scan", False, K), encoding)
    return search.nearest(queries, ALONE)[0]


def shared(found, expected):
    return float(np.mean([len(set(a) & set(b)) / K for a, b in zip(found.tolist(), expected.tolist(), strict=True)]))


@pytest.mark.parametrize(("ef", "floor"), [(16, 0.9), (32, 0.97), (64, 0.995), (128, 0.999), (256, 0.9999)])
def test_a_beam_of_ef_finds_so_much(state, ef, floor):
    words, queries, data = state
    assert recall(words, queries, walk(data, queries, K, ef)) >= floor


@pytest.mark.parametrize("encoding", ENCODINGS.values())
def test_a_wider_beam_never_finds_less(state, encoding):
    _, queries, data = state
    expected = scanned(data, queries, None, encoding)
    found = [
        shared(walk(data, queries, K, ef, encoding=encoding), expected)
        for ef in (16, 20, 24, 32, 40, 48, 64, 96, 128, 192, 256, 384, 512)
    ]
    assert found[0] > 0.8 and found[-1] > 0.999
    assert np.diff(found).min() > -0.002, found


@pytest.mark.parametrize(("encoding", "floor"), [("binary", 0), ("scalar4bits", 0.7), ("scalar8bits", 0.95)])
def test_one_huge_value_does_not_make_more_bits_worthless(encoding, floor):
    """As in ada-002: on levels up to that value all others have the two middle ones, and say no more than signs."""
    vectors, queries = data_of(3000, DIM, seed=3)
    vectors[:, 7], queries[:, 7] = 30, 30
    nearest = np.argsort(-queries @ np.sign(vectors).T, axis=1)[:, :K]
    search = Search(searchable(encode(vectors), DIM), None, 3000, K, Plan("scan", False, K), ENCODINGS[encoding])
    found = shared(search.nearest(queries, ALONE)[0], nearest)
    assert found > floor, found
    assert encoding != "binary" or found < 0.6


def test_a_walk_looks_at_a_small_part(state):
    _, queries, data = state
    work = Work()
    walk(data, queries, K, 64, work=work)
    assert work.way == "walk"
    assert work.distances < len(queries) * N / 5


@pytest.mark.parametrize("part", [0.9, 0.5, 0.1, 0.02])
@pytest.mark.parametrize("kind", ["random", "near", "far", "clusters"])
def test_filters_of_every_kind_and_size(state, kind, part):
    """Also those that go with the query or against it: the plan's way finds what a scan finds."""
    words, queries, data = state
    count = int(part * N)
    distances = distances_of(words, queries[:1])[0]
    order = {
        "random": np.random.default_rng(0).permutation(N),
        "near": np.argsort(distances, kind="stable"),
        "far": np.argsort(-distances.astype(int), kind="stable"),
        # whole clusters: whoever is nearest to some nodes
        "clusters": np.argsort(distances_of(words, queries[5:15]).min(0), kind="stable"),
    }[kind]
    flags = np.zeros(N, bool)
    flags[order[:count]] = True
    way = plan(
        **{"n": N, "linked": N, "accepted": count, "dim": DIM, "k": K, "oversampling": 1.0, "rescore": False},
        **{"hnsw_ef": 64, "planes": 1, "bits": 1, "width": DIM // 64, "m": 16, "ef_construct": 100},
        **{"exact": False, "full_scan_threshold": 0, "originals": False},
    )
    forced = Plan("walk", False, K, 64, min(N, 2 * -(-64 * N // count)))
    for each in (way, forced):
        search = Search(data, bitmap(flags), count, K, each, 1)
        for some in (queries, queries[:1], queries[5:15].copy()):
            found, _ = search.nearest(some, ALONE)
            assert flags[found].all()
            assert recall(words, some, found, flags) >= 0.97, (each, len(some))


def test_a_tail_and_deletions_at_once(state):
    """A third is deleted and a tenth not linked: nothing deleted is found, and the nearest of the rest is."""
    words, queries, _ = state
    data = searchable(words, DIM, grow(words, stop=N - N // 10))
    flags = np.random.default_rng(2).random(N) > 1 / 3
    found = walk(data, queries, K, 64, flags)
    assert flags[found].all()
    assert recall(words, queries, found, flags) >= 0.99
    late = found[found >= N - N // 10]
    assert 0.05 < len(late) / found.size < 0.2
