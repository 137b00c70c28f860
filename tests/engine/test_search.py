"""Every search path against brute force."""

import math

import numpy as np
import pytest

import bqstore
from tests.conftest import clustered, exact_scores

N, DIM, K = 600, 96, 7


@pytest.fixture(params=["memory", "disk"])
def path(request, tmp_path):
    return None if request.param == "memory" else tmp_path / "store"


def made(path, base, collection="default", **settings):
    col = bqstore.open_flat(path, collection, **settings)
    ids = [f"d{i}" for i in range(len(base))]
    col.add(base, ids, [f"text {i}" for i in range(len(base))], [{"i": i, "mod": i % 7} for i in range(len(base))])
    return col


def kept(base, originals):
    """What each form keeps of the vectors, in float64."""
    if originals == "float16":
        return base.astype(np.float16).astype(np.float64)
    if originals == "int8":
        scale = np.abs(base).max(axis=1, keepdims=True) / np.float32(127)
        return np.rint(base / scale).astype(np.float64) * scale
    return base.astype(np.float64)


@pytest.mark.sampled(12)
@pytest.mark.parametrize("distance", ["cosine", "dot", "euclid"])
@pytest.mark.parametrize("originals", ["float32", "float16", "int8"])
@pytest.mark.parametrize("threshold", [0, 10_000])
def test_exact_is_brute_force(path, distance, originals, threshold):
    base, queries = clustered(N, DIM), clustered(5, DIM, seed=1)
    with made(path, base, distance=distance, originals=originals, full_scan_threshold=threshold) as col:
        truth = exact_scores(kept(base, originals), queries, distance)
        for query, scores in zip(queries, truth, strict=True):
            hits = col.search(query, K, exact=True)
            order = np.argsort(-scores, kind="stable")[:K]
            assert [hit.id for hit in hits] == [f"d{i}" for i in order]
            np.testing.assert_allclose([hit.score for hit in hits], scores[order], rtol=2e-5, atol=2e-5)
            assert [hit.text for hit in hits] == [f"text {i}" for i in order]
            assert hits[0].metadata == {"i": order[0], "mod": order[0] % 7} and hits[0].vector is None


@pytest.mark.parametrize("distance", ["cosine", "dot", "euclid"])
@pytest.mark.parametrize("oversampling", [1, 2.5, 1000])
def test_bits_then_rescoring_is_its_definition(path, distance, oversampling):
    base, queries = clustered(N, DIM), clustered(5, DIM, seed=1)
    with made(path, base, distance=distance, full_scan_threshold=0) as col:
        hamming = ((base > 0)[None] != (queries > 0)[:, None]).sum(axis=2)
        truth = exact_scores(base, queries, distance)
        for query, bits, scores in zip(queries, hamming, truth, strict=True):
            candidates = np.lexsort((np.arange(N), bits))[: math.ceil(K * oversampling)]
            best = candidates[np.lexsort((candidates, -scores[candidates].astype(np.float32)))][:K]
            hits = col.search(query, K, oversampling=oversampling)
            np.testing.assert_allclose([hit.score for hit in hits], scores[best], rtol=2e-5, atol=2e-5)
            assert {hit.id for hit in hits} == {f"d{i}" for i in best}


@pytest.mark.parametrize("originals", ["float32", "none"])
def test_without_rescoring_the_score_is_that_of_the_signs(path, originals):
    base, queries = clustered(N, DIM), clustered(3, DIM, seed=1)
    signs, query_signs = np.where(base > 0, 1.0, -1.0), np.where(queries > 0, 1.0, -1.0)
    for distance in ("cosine", "dot", "euclid"):
        name = f"by_{distance}" if path else "default"
        settings = {"distance": distance, "originals": originals, "full_scan_threshold": 0, "rescore": False}
        with made(path, base, collection=name, **settings) as col:
            for query, scores in zip(queries, exact_scores(signs, query_signs, distance), strict=True):
                got = [hit.score for hit in col.search(query, K)]
                np.testing.assert_allclose(got, np.sort(scores)[::-1][:K], rtol=1e-5, atol=1e-6)


def test_zero_is_bit_zero(path):
    with made(path, np.array([[0.0, -0.0, 1e-30, 1.0], [1, 1, 1, 1]]), full_scan_threshold=0, originals="none") as col:
        assert [hit.score for hit in col.search([-1.0, -1, 1, 1])] == [1.0, 0.0]


def test_as_many_hits_as_match(path):
    with made(path, clustered(N, DIM), full_scan_threshold=0) as col:
        query = clustered(1, DIM, seed=3)[0]
        for condition, matches in (({"mod": 3}, 86), ({"i": 17}, 1), ({"i": -1}, 0), ({"mod": [1, 2]}, 172), (None, N)):
            for k in (1, 10, 86, 500, 10_000):
                for settings in ({}, {"exact": True}, {"rescore": False}, {"oversampling": 1.0}):
                    hits = col.search(query, k, filter=condition, **settings)
                    assert len(hits) == min(k, matches)
                    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
            assert col.count(condition) == matches


def test_search_ids_and_search_batch_agree_with_search(path):
    queries = clustered(37, DIM, seed=5)
    with made(path, clustered(N, DIM), full_scan_threshold=0) as col:
        ids, scores = col.search_ids(queries, K, filter={"mod": [0, 1, 2]})
        batch = col.search_batch(queries, K, filter={"mod": [0, 1, 2]}, threads=2)
        assert ids.shape == scores.shape == (37, K) and ids.dtype == object and scores.dtype == np.float32
        for row, query in enumerate(queries):
            hits = col.search(query, K, filter={"mod": [0, 1, 2]})
            assert [hit.id for hit in hits] == list(ids[row]) == [hit.id for hit in batch[row]]
            np.testing.assert_array_equal(np.float32([hit.score for hit in hits]), scores[row])
        one, score = col.search_ids(queries[0], 3, filter={"i": 5})
        assert one.tolist() == [["d5", None, None]] and np.isnan(score[0, 1:]).all()


def test_score_threshold_drops_what_is_below(path):
    with made(path, clustered(N, DIM)) as col:
        query = clustered(1, DIM, seed=3)[0]
        scores = [hit.score for hit in col.search(query, 50)]
        hits = col.search(query, 50, score_threshold=scores[9])
        assert [hit.score for hit in hits] == scores[:10]
        ids, values = col.search_ids(query, 50, score_threshold=scores[9])
        assert [i is None for i in ids[0]] == [False] * 10 + [True] * 40 and np.isnan(values[0, 10:]).all()
        assert col.search(query, score_threshold=2.0) == []


def test_vectors_come_back_as_they_were_added(path):
    base = clustered(50, DIM) * 3
    with made(path, base) as col:
        for hit in col.search(base[4], 5, with_vectors=True):
            np.testing.assert_array_equal(hit.vector, base[int(hit.id[1:])])
            assert hit.vector.dtype == np.float32
        assert col.get(["d7", "no", "d2"], with_vectors=True)[1].vector.tolist() == base[2].tolist()
        assert col.get(["d7"])[0].vector is None


def test_an_empty_collection_has_no_hits(path):
    with bqstore.open(path) as col:
        assert col.search([1.0, 2.0]) == [] and col.search_batch([[1.0], [2.0]]) == [[], []]
        ids, scores = col.search_ids([[1.0, 0.0]], 3)
        assert ids.tolist() == [[None] * 3] and np.isnan(scores).all()
        assert len(col) == 0 and list(col.scroll()) == [] and col.count({"a": 1}) == 0 and "x" not in col
        assert col.add([], [], [], []) == [] and col.info().dim is None
        col.add([[1.0, 2.0]], ["x"])
        col.delete(["x"])
        assert col.search([1.0, 2.0], filter={"a": 1}) == [] and len(col) == 0


@pytest.mark.parametrize("dim", [1, 2, 63, 64, 65, 1000, 16_384])
def test_any_dimension(path, dim):
    base = clustered(40, dim, seed=dim)
    with made(path, base, full_scan_threshold=0, originals="float16") as col:
        assert col.search(base[3], 1, oversampling=40)[0].score == pytest.approx(1, abs=1e-3)
        info = col.info()
        assert info.code_bytes == -(-dim // 64) * 8 and info.vector_bytes == dim * 4


def test_info_counts_what_is_kept(path):
    with made(path, clustered(10, 1536)) as col:
        col.delete(["d3"])
        info = col.info()
        assert (info.code_bytes, info.vector_bytes, info.compression) == (192, 6144, 32.0)
        assert (info.count, info.deleted, info.memory_bytes) == (9, 1, 1920)
        files = sum(file.stat().st_size for file in path.rglob("*.*")) if path else 0
        assert info.disk_bytes <= files if path else info.disk_bytes == 0


def test_the_same_input_gives_the_same_answer_on_any_number_of_threads():
    base, queries = np.sign(clustered(3000, 64)), clustered(64, 64, seed=9)
    with made(None, base, full_scan_threshold=0, threads=2) as col:
        ids = [col.search_ids(queries, 20, threads=threads)[0].tolist() for threads in (1, 2, 7)]
        assert ids[0] == ids[1] == ids[2]
        assert ids[0][5] == col.search_ids(queries[5], 20)[0].tolist()[0]


def test_each_first_search_behind_a_commit_made_a_bitmap_of_all_that_may_be_found():
    """53 us of a million, where nothing is deleted and nothing is left out."""
    with bqstore.open() as col:
        col.add(np.eye(4), list("abcd"))
        col.search(np.eye(4)[0])
        assert "live_bits" not in vars(col._engine.publisher.state)
        col.delete(["a"])
        assert [hit.id for hit in col.search(np.eye(4)[0])] == ["b", "c", "d"]
        assert "live_bits" in vars(col._engine.publisher.state)
