"""Equal codes, by the thousand: blank pages, and documents that were written again and again.

A node is as near to one equal code as to the next, and a row holds 32. What must not happen: that they keep a walk from
leaving them, or that one of them, the only one accepted, is not found.
"""

import numpy as np
import pytest

from bqstore.index import ENCODINGS
from bqstore.kernels import api
from tests.conftest import clustered
from tests.index.given import distances_of, encode, grow, recall, searchable, walk

DIM = 128


def state_of(vectors):
    words = encode(vectors)
    graph = grow(words)
    assert api.check_graph(graph.view) == 0
    return words, searchable(words, DIM, graph)


def blank(order):
    """Vectors of which half are the same, and which those are."""
    vectors, same = clustered(10_000, DIM, 1), np.zeros(10_000, bool)
    chosen = {"first": np.arange(5000), "last": np.arange(5000, 10_000)}
    same[chosen.get(order, np.random.default_rng(0).permutation(10_000)[:5000])] = True
    vectors[same] = vectors[same][0]
    return vectors, same


@pytest.mark.sampled(1)
@pytest.mark.parametrize("order", ["first", "last", "mixed"])
def test_all_the_others_are_found_among_five_thousand_blanks(order):
    vectors, same = blank(order)
    words, data = state_of(vectors)
    queries = vectors[~same][::25].copy()
    assert recall(words, queries, walk(data, queries, 10, 64)) > 0.98


@pytest.mark.sampled(2)
@pytest.mark.parametrize("count", [40, 100, 300, 1000])
def test_blanks_at_the_beginning_do_not_hide_what_comes_after(count):
    vectors = clustered(5000, DIM, 1)
    vectors[:count] = vectors[0]
    words, data = state_of(vectors)
    queries = vectors[count::20].copy()
    assert recall(words, queries, walk(data, queries, 10, 64)) > 0.98


@pytest.mark.sampled(1)
@pytest.mark.parametrize("order", ["first", "last", "mixed"])
def test_a_hundred_blanks_are_found_where_there_are_thousands(order):
    vectors, same = blank(order)
    words, data = state_of(vectors)
    query = vectors[same][:1].copy()
    found = walk(data, query, 100, 128)
    assert (distances_of(words, query, found) == 0).all()


@pytest.mark.sampled(1)
@pytest.mark.parametrize("order", ["first", "last", "mixed"])
def test_the_only_blank_that_is_accepted_is_found(order):
    vectors, same = blank(order)
    _, data = state_of(vectors)
    query = vectors[same][:1].copy()
    for blank_one in np.flatnonzero(same)[::500]:
        flags = ~same
        flags[blank_one] = True
        assert walk(data, query, 5, 64, flags)[0, 0] == blank_one


def test_a_filter_of_blanks_alone_is_answered():
    """No walk reaches fifty of those: a scan finds them."""
    vectors, same = blank("mixed")
    _, data = state_of(vectors)
    flags = np.zeros(10_000, bool)
    flags[np.flatnonzero(same)[-50:]] = True
    found = walk(data, vectors[same][:1].copy(), 50, 64, flags)
    assert sorted(found[0].tolist()) == np.flatnonzero(flags).tolist()


@pytest.mark.parametrize("times", [10, 100, 300])
def test_a_document_that_was_written_again_and_again_is_found(times):
    """An upsert deletes a slot and adds another: only the last of many equal ones is live."""
    vectors = clustered(5000, DIM, 1)
    vectors = np.concatenate([vectors, np.repeat(vectors[:1], times, axis=0)])
    _, data = state_of(vectors)
    flags = np.ones(len(vectors), bool)
    flags[0], flags[5000:-1] = False, False
    assert walk(data, vectors[:1].copy(), 10, 128, flags)[0, 0] == len(vectors) - 1


@pytest.mark.parametrize("rounds", [3, 10, 30])
def test_all_documents_written_again_and_again_are_found(rounds):
    vectors = np.concatenate([clustered(200, DIM, 1)] * rounds)
    _, data = state_of(vectors)
    flags = np.zeros(len(vectors), bool)
    flags[-200:] = True
    found = walk(data, vectors[:200].copy(), 10, 64, flags)
    assert flags[found].all()
    own = np.arange(len(vectors) - 200, len(vectors))
    assert (found == own[:, None]).any(1).mean() > 0.98


@pytest.mark.parametrize("first", [0, 2500, 4999])
@pytest.mark.parametrize("encoding", ENCODINGS.values())
def test_of_two_hundred_the_last_is_found_by_a_beam_of_any_width(first, encoding):
    vectors = clustered(5000, DIM, 1)
    vectors = np.concatenate([vectors, np.repeat(vectors[first : first + 1], 200, axis=0)])
    _, data = state_of(vectors)
    flags = np.ones(len(vectors), bool)
    flags[first] = flags[5000:-1] = False
    query = np.where(vectors[first : first + 1] > 0, 1, -1).astype(np.float32)  # nearest to its own code at any width
    for ef in (10, 11, 13, 16, 20, 32, 64, 128, 200, 201, 256, 512, 1000):
        found = walk(data, query, 10, ef, flags, encoding=encoding)
        assert found[0, 0] == len(vectors) - 1, ef
        assert len(set(found[0].tolist())) == 10 and flags[found].all()


@pytest.mark.parametrize("live", ["first", "last", "copies", "any"])
def test_whichever_copies_are_deleted_the_others_are_found(live):
    """Each of a thousand vectors five times: what a scan of the live ones finds."""
    vectors = np.concatenate([clustered(1000, DIM, 1)] * 5)
    words, data = state_of(vectors)
    turn = np.arange(5000) // 1000
    flags = {"first": turn == 0, "last": turn == 4, "copies": turn > 0}.get(
        live, np.random.default_rng(0).random(5000) < 0.3
    )
    queries = clustered(1100, DIM, 1)[1000:].copy()
    found = walk(data, queries, 10, 64, flags)
    assert flags[found].all()
    assert recall(words, queries, found, flags) > 0.98


@pytest.mark.parametrize("dim", [1, 3, 6])
def test_codes_of_a_few_bits(dim):
    """Two, eight or sixty-four different codes for two thousand vectors."""
    vectors = np.random.default_rng(0).standard_normal((2000, dim)).astype(np.float32)
    words = encode(vectors)
    data = searchable(words, dim, grow(words))
    queries = np.random.default_rng(1).standard_normal((50, dim)).astype(np.float32)
    assert recall(words, queries, walk(data, queries, 10, 64)) > 0.98
