"""Searches whose hits a function of the user's scores anew."""

import math

import numpy as np
import pytest

import bqstore
from bqstore import InvalidInputError, UnknownKeywordError

N, DIM = 60, 4


@pytest.fixture(scope="module")
def col():
    with bqstore.open(text_index=True) as col:
        vectors = np.random.default_rng(0).standard_normal((N, DIM), dtype=np.float32)
        col.add(vectors, [str(i) for i in range(N)], [f"word w{i}" for i in range(N)], [{"n": i} for i in range(N)])
        yield col


QUERY = np.ones(DIM, np.float32)


def by_number(text, hits):
    return [int(hit.id) for hit in hits]


def test_the_best_of_the_candidates_come_in_the_order_of_the_function(col):
    for given, k, fetch_k, wide in [({}, 5, None, 20), ({}, 10, None, 40), ({}, 3, 7, 7), ({}, 5, 1000, N)]:
        for mode in ("vector", "hybrid", "text"):
            seen = []

            def rerank(text, hits, seen=seen):
                seen.append((text, hits))
                return np.array(by_number(text, hits), np.float32)

            vector = None if mode == "text" else QUERY
            before = col.search(vector, k=fetch_k or wide, text="word w7", mode=mode)
            hits = col.search(vector, k, text="word w7", mode=mode, rerank=rerank, fetch_k=fetch_k, **given)
            assert seen == [("word w7", before)] and len(before) == min(wide, N)
            wanted = sorted(before, key=lambda hit: -int(hit.id))[:k]
            assert [hit.id for hit in hits] == [hit.id for hit in wanted]
            for hit, old in zip(hits, wanted, strict=True):
                assert hit.score == int(hit.id) and (hit.text, hit.metadata) == (old.text, old.metadata)
                assert hit.scores == {**(old.scores or {"vector": old.score}), "rerank": hit.score}


def test_equal_scores_leave_the_order_and_a_threshold_is_of_the_new_ones(col):
    before = [hit.id for hit in col.search(QUERY, k=20)]
    assert [hit.id for hit in col.search(QUERY, k=20, rerank=lambda text, hits: [0] * len(hits))] == before[:20]
    hits = col.search(QUERY, k=20, rerank=by_number, score_threshold=30)
    assert hits and all(hit.score >= 30 for hit in hits)
    assert not col.search(QUERY, k=5, rerank=by_number, score_threshold=10**6)


def test_many_queries_each_with_its_own_text(col):
    seen = []

    def rerank(text, hits):
        seen.append(text)
        return iter(by_number(text, hits))

    queries = np.stack([QUERY, -QUERY])
    found = col.search_batch(queries, k=3, texts=["one", "two"], mode="vector", rerank=rerank)
    assert seen == ["one", "two"]
    assert found == [col.search(each, k=3, rerank=by_number) for each in queries]
    assert col.search_batch(texts="word", k=2, rerank=by_number) == [col.search(text="word", k=2, rerank=by_number)]
    col.search_batch(queries, k=3, rerank=rerank)
    assert seen[2:] == [None, None]
    with pytest.raises(InvalidInputError, match="texts has 1, vectors 2"):
        col.search_batch(queries, k=3, texts=["one"], mode="vector", rerank=rerank)


def test_what_else_a_search_tells_is_kept(col):
    hits = col.search(QUERY, k=3, rerank=by_number, explain=True, with_vectors=True, filter={"n": {"$lt": 10}})
    assert hits.explanation.accepted == 10 and [hit.id for hit in hits] == ["9", "8", "7"]
    assert all(hit.vector is not None for hit in hits)
    assert col.search(QUERY, k=3, rerank=by_number, allow_damaged=True).left_out == ()


def test_nothing_found_is_not_reranked(col):
    def never(text, hits):
        raise AssertionError

    assert col.search(QUERY, rerank=never, filter={"n": -1}) == []


async def later(text, hits):
    return [0.0] * len(hits)


@pytest.mark.parametrize(
    ("rerank", "said"),
    [
        (7, "rerank is an int; expected a function"),
        (lambda text, hits: [1.0], r"array of shape \(1,\); expected 20 numbers"),
        (lambda text, hits: [[1.0]] * 20, r"array of shape \(20, 1\)"),
        (lambda text, hits: None, "rerank returned None; expected 20 numbers"),
        (lambda text, hits: ["high"] * 20, "rerank returned a list of what are no numbers; expected 20 numbers"),
        (lambda text, hits: ["1.0"] * 20, "a list of what are no numbers"),
        (lambda text, hits: [None] * 20, "a list of what are no numbers"),
        (lambda text, hits: [10**400] * 20, "a list of what are no numbers"),
        (lambda text, hits: np.full(20, 1j), "a ndarray of what are no numbers"),
        (lambda text, hits: np.zeros(20, "m8[s]"), "a ndarray of what are no numbers"),
        (lambda text, hits: [1.0] * 19 + [math.nan], "rerank returned NaN for hit 19"),
        (later, "rerank is an async function"),
    ],
)
def test_what_are_no_scores_is_refused_by_name(col, rerank, said):
    with pytest.raises(InvalidInputError, match=said):
        col.search(QUERY, k=5, rerank=rerank)


def test_a_function_must_be_there_and_its_candidates_be_enough(col):
    for given, said in [
        ({"fetch_k": 20}, "fetch_k belongs to max_marginal_relevance"),
        ({"fetch_k": 2, "rerank": by_number}, "fetch_k is 2; expected"),
        ({"k": 0, "rerank": by_number}, "k is 0"),
        ({"oversampling": -1, "rerank": by_number}, "oversampling is -1"),
    ]:
        for call in (col.search, col.search_batch):
            with pytest.raises((InvalidInputError, UnknownKeywordError), match=said):
                call(QUERY if call == col.search else QUERY[None], **given)


def test_an_error_of_the_function_is_the_callers(col):
    with pytest.raises(ZeroDivisionError):
        col.search(QUERY, rerank=lambda text, hits: 1 / 0)
