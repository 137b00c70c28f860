"""Maximal marginal relevance against the same, step by step, in numpy."""

import numpy as np
import pytest

import bqstore
from tests.conftest import clustered, exact_scores
from tests.engine.given import BITS, SIGNS

N, DIM = 300, 12
DISTANCES = ("cosine", "dot", "euclid")
BASE, QUERIES = clustered(N, DIM, seed=5), clustered(8, DIM, seed=6)
PARTS = np.arange(N) % 7
SIZES = [(1, 1), (2, 9), (5, 20), (10, 40), (6, 6), (4, 4), (8, 30), (3, 300)]


@pytest.fixture(scope="module", params=DISTANCES)
def col(request):
    with bqstore.open(distance=request.param) as col:
        metadatas = [{"part": int(part), "i": i} for i, part in enumerate(PARTS)]
        col.add(BASE, [f"d{i}" for i in range(N)], [f"text {i}" for i in range(N)], metadatas)
        yield col


def slow(candidates, scores, distance, relevance, taken):
    """What each candidate that is not taken yet is worth: float64 by candidate."""
    out = {}
    for candidate in candidates:
        if candidate not in taken:
            one = BASE[[candidate]]
            similar = [exact_scores(BASE[[other]], one, distance)[0, 0] for other in taken]
            out[candidate] = relevance * scores[candidate] - (1 - relevance) * max(similar)
    return out


def check(hits, query, distance, k, fetch_k, relevance, mask=None):
    """Each hit is worth as much as any that was left, up to the rounding of float32."""
    mask = np.ones(N, bool) if mask is None else mask
    scores = exact_scores(BASE, query[None], distance)[0]
    candidates = [int(i) for i in np.argsort(-scores, kind="stable") if mask[i]][:fetch_k]
    found = [int(hit.id[1:]) for hit in hits]
    assert len(found) == len(set(found)) == min(k, len(candidates)) and set(found) <= set(candidates)
    np.testing.assert_allclose([hit.score for hit in hits], scores[found], rtol=1e-5, atol=1e-5)
    assert not found or found[0] == candidates[0]
    for place in range(1, len(found)):
        worth = slow(candidates, scores, distance, relevance, found[:place])
        assert worth[found[place]] >= max(worth.values()) - 1e-4, (place, found)


@pytest.mark.parametrize("relevance", [0, 0.3, 0.5, 0.9, 1.0])
def test_each_next_is_the_most_worthwhile_of_those_left(col, relevance):
    distance = col.info().distance
    for query, (k, fetch_k) in zip(QUERIES, SIZES, strict=True):
        hits = col.max_marginal_relevance(query, k, fetch_k, relevance)
        check(hits, query, distance, k, fetch_k, relevance)


def test_the_defaults(col):
    for k, fetch_k in ((1, 20), (5, 20), (6, 24), (10, 40)):
        hits = col.max_marginal_relevance(QUERIES[0], k)
        check(hits, QUERIES[0], col.info().distance, k, fetch_k, 0.5)
        assert hits == col.max_marginal_relevance(QUERIES[0], k=k, fetch_k=fetch_k, lambda_mult=0.5)
    assert hits == col.max_marginal_relevance(QUERIES[0])


def test_relevance_alone_is_search(col):
    for query in QUERIES:
        for k in (1, 7, 50):
            for filter in (None, {"part": 3}, {"part": {"$gt": 8}}):
                hits = col.max_marginal_relevance(query, k, lambda_mult=1, filter=filter)
                assert hits == col.search(query, k, filter=filter)
                assert hits == col.max_marginal_relevance(query, k, lambda_mult=1.0, filter=filter, fetch_k=100)


def test_diversity_spreads():
    """Ten copies of one, and two that are different: at 0 these come next, at 1 the copies do."""
    vectors = np.array([[10.0, 1, 0]] * 10 + [[5.0, 5, 0], [3.0, 0, 5]])
    with bqstore.open() as col:
        col.add(vectors + np.arange(12)[:, None] * 1e-4, [f"d{i}" for i in range(12)])
        query = [10.0, 1, 0]
        assert {hit.id for hit in col.max_marginal_relevance(query, 3, lambda_mult=0.0)[1:]} == {"d10", "d11"}
        assert not {hit.id for hit in col.max_marginal_relevance(query, 3, lambda_mult=1.0)} & {"d10", "d11"}
        # of the ten nearest, only: the different ones are not among them
        assert not {hit.id for hit in col.max_marginal_relevance(query, 3, 10, lambda_mult=0.0)} & {"d10", "d11"}


def test_the_filter_comes_before(col):
    distance = col.info().distance
    for tree, mask in (
        ({"part": 2}, PARTS == 2),
        ({"part": {"$in": [1, 5]}, "i": {"$lt": 20}}, np.isin(PARTS, [1, 5]) & (np.arange(N) < 20)),
        ({"i": {"$gte": N}}, np.zeros(N, bool)),
        (lambda record: record.metadata["part"] == 6, PARTS == 6),
    ):
        for k, fetch_k in ((4, 12), (10, 200), (3, 3)):
            hits = col.max_marginal_relevance(QUERIES[1], k, fetch_k, 0.4, filter=tree)
            check(hits, QUERIES[1], distance, k, fetch_k, 0.4, mask)
            assert all(mask[hit.metadata["i"]] and hit.text == f"text {hit.metadata['i']}" for hit in hits)


def test_a_threshold_comes_before_too(col):
    scores = np.sort(exact_scores(BASE, QUERIES[2:3], col.info().distance)[0])[::-1]
    threshold = float(scores[6] + scores[7]) / 2
    hits = col.max_marginal_relevance(QUERIES[2], 20, 100, 0.2, score_threshold=threshold)
    assert len(hits) == 7
    check(hits, QUERIES[2], col.info().distance, 20, 7, 0.2)


def test_more_than_there_are(col):
    for k in (299, 300, 301, 3000, 10_000):
        hits = col.max_marginal_relevance(QUERIES[3], k)
        assert len({hit.id for hit in hits}) == len(hits) == min(k, N)
    assert [len(col.max_marginal_relevance(QUERIES[3], 5, filter={"i": {"$lt": i}})) for i in range(7)] == [
        *range(6),
        5,
    ]
    with bqstore.open(dim=3) as empty:
        assert empty.max_marginal_relevance([1.0, 2, 3]) == []


def test_vectors_come_when_asked_for(col):
    for hit in col.max_marginal_relevance(QUERIES[4], 5, with_vectors=True):
        np.testing.assert_array_equal(hit.vector, BASE[int(hit.id[1:])])
    assert all(hit.vector is None for hit in col.max_marginal_relevance(QUERIES[4], 5))


@pytest.mark.parametrize("originals", ["float16", "int8"])
@pytest.mark.parametrize("given", [{}, {"exact": True}, {"ignore_quantization": True}, {"rescore": False}])
def test_by_bits_and_by_what_is_kept_of_the_originals(originals, given):
    with bqstore.open(originals=originals, hnsw=BITS, quantization=SIGNS) as col:
        col.add(BASE, [f"d{i}" for i in range(N)])
        for query in QUERIES:
            relevant = col.max_marginal_relevance(query, 10, 30, 1.0, oversampling=5, **given)
            assert relevant == col.search(query, 30, oversampling=5, **given)[:10]
            mixed = col.max_marginal_relevance(query, 10, 30, 0.5, oversampling=5, **given)
            assert {hit.id for hit in mixed} <= {hit.id for hit in col.search(query, 30, oversampling=5, **given)}
            assert mixed[0] == relevant[0] and len({hit.id for hit in mixed}) == 10


def test_the_same_vector_many_times():
    with bqstore.open() as col:
        col.add(np.ones((30, 4)), [f"d{i}" for i in range(30)])
        for relevance in (0, 0.5, 1):
            hits = col.max_marginal_relevance(np.ones(4), 10, lambda_mult=relevance)
            assert len({hit.id for hit in hits}) == 10


def test_vectors_of_length_zero():
    for distance in ("dot", "euclid"):
        with bqstore.open(distance=distance) as col:
            col.add(np.vstack([np.zeros((2, 3)), np.eye(3)]), list("abcde"))
            assert {hit.id for hit in col.max_marginal_relevance(np.zeros(3), 5)} == set("abcde")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"lambda_mult": -0.01}, "lambda_mult is -0.01"),
        ({"lambda_mult": 1.5}, "lambda_mult is 1.5"),
        ({"lambda_mult": float("nan")}, "lambda_mult is nan"),
        ({"lambda_mult": "0.5"}, "lambda_mult is '0.5'"),
        ({"lambda_mult": True}, "lambda_mult is True"),
        ({"lambda_mult": None}, "lambda_mult is None"),
        ({"fetch_k": 9}, "fetch_k is 9; expected"),
        ({"fetch_k": 0}, "fetch_k is 0"),
        ({"fetch_k": 10.5}, "fetch_k is 10.5"),
        ({"k": 0}, "k is 0"),
        ({"k": 10_001}, "k is 10001"),
        ({"oversampling": 0.5}, "oversampling is 0.5"),
        ({"filter": {"part": {"$gtt": 1}}}, r"\$gtt"),
        ({"vector": [1.0]}, "the query vector has 1 dimension;"),
        ({"vector": np.zeros((1, DIM))}, "shape"),
        ({"with_vectors": 1}, "with_vectors is 1"),
    ],
)
def test_mistakes(col, arguments, words):
    with pytest.raises(bqstore.InvalidInputError, match=words):
        col.max_marginal_relevance(**{"vector": QUERIES[0], "k": 10, **arguments})


def test_an_unknown_keyword_names_the_nearest(col):
    with pytest.raises(bqstore.UnknownKeywordError, match="lambda_mult"):
        col.max_marginal_relevance(QUERIES[0], lambda_mul=0.5)


def test_without_originals_it_says_so():
    with bqstore.open(originals="none") as col:
        col.add(BASE)
        with pytest.raises(bqstore.InvalidInputError, match="keeps none"):
            col.max_marginal_relevance(QUERIES[0])
