"""Vectors and queries that are very long or very short: found as others are, or refused by name."""

import pickle
import shutil

import numpy as np
import pytest

import bqstore
from bqstore import CorruptionError, InvalidInputError
from bqstore.engine.stored_settings import check_stored
from tests.conftest import clustered
from tests.engine.given import ENOUGH, let_walk, settle_early

N, DIM, K = 3000, 48, 10
VECTORS, QUERIES = clustered(N, DIM, 1), clustered(20, DIM, 1)
CODES = {
    "exact": {},
    "signs": {"quantization": {"encoding": "one_bit"}, "hnsw": {"full_scan_threshold": 0}},
    "corrected": {
        "quantization": {"encoding": "two_bits", "estimator": "rabitq"},
        "hnsw": {"full_scan_threshold": 0},
    },
}


def opened(distance, vectors, path=None, **settings):
    col = bqstore.open(path, distance=distance, **settings)
    col.add(vectors, [str(i) for i in range(len(vectors))])
    return col


@pytest.mark.parametrize("distance", ["cosine", "dot", "euclid"])
@pytest.mark.parametrize("limit", [1e18, 1e-15])
def test_a_query_next_to_a_limit_was_an_error_without_name_or_words(limit, distance):
    """Kernel and check add up squares in another order, in float32."""
    rng, refused = np.random.default_rng(0), 0
    with bqstore.open(distance=distance) as col:
        col.add(np.eye(DIM, dtype=np.float32))
        for _ in range(300):
            query = rng.standard_normal(DIM)
            query = (query * (limit * rng.uniform(1 - 2e-7, 1 + 2e-7) / np.linalg.norm(query))).astype(np.float32)
            try:
                assert len(col.search(query, 3)) == 3
            except InvalidInputError as error:
                refused += 1
                assert "has length" in str(error) and f"{limit:g}" in str(error)
    assert refused > 0 or (limit == 1e-15 and distance != "cosine")


@pytest.mark.sampled(3)  # each way and each kind of codes
@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("way", ["search", "batch", "ids"])
def test_a_tiny_query_of_dot_is_answered_as_a_long_one(way, codes):
    """Squares underflow from 1e-19 on, and the values themselves from 1e-38 on; it was answered at random."""

    def ask(queries, **more):
        if way == "ids":
            return [list(zip(*each, strict=True)) for each in zip(*col.search_ids(queries, K, **more), strict=True)]
        lists = [col.search(query, K, **more) for query in queries] if way == "search" else None
        lists = col.search_batch(queries, K, **more) if lists is None else lists
        return [[(hit.id, hit.score) for hit in hits] for hits in lists]

    with opened("dot", VECTORS, **CODES[codes]) as col:
        expected = ask(QUERIES)
        for exponent in (-40, -60, -100, -120):
            times = np.float32(2.0**exponent)
            some = QUERIES.copy()
            some[::2] *= times
            for i, hits in enumerate(ask(some)):
                by = 1 if i % 2 else times
                assert [(id_, np.float32(score)) for id_, score in hits] == [
                    (id_, np.float32(score) * by) for id_, score in expected[i]
                ]
        threshold = float(np.float32(expected[0][4][1]) * np.float32(2.0**-100))
        assert len(ask(QUERIES[:1] * np.float32(2.0**-100), score_threshold=threshold)[0]) in (5, K)
        for hits in ask(np.zeros((2, DIM), np.float32)):
            assert len(hits) == K and {float(score) for _, score in hits} == {0.0}
        if codes != "exact":
            assert col.recall(QUERIES, K).recall == col.recall(QUERIES * np.float32(1e-25), K).recall


@pytest.mark.parametrize("encoding", ["two_bits", "one_and_half_bits"])
def test_a_binary_query_of_three_levels_fell_into_the_middle_ones_where_it_was_short(encoding):
    """Of products none of the nearest was found at a hundredth of the length, .09 of them at the vectors' own."""
    truth = np.argsort(-(QUERIES @ VECTORS[:1000].T), axis=1, kind="stable")[:, :K]
    with opened("dot", VECTORS[:1000], originals="none", encoding=encoding, query_encoding="binary") as col:
        found, scores = col.search_ids(QUERIES, K)
        part = np.mean([len(set(map(int, a)) & set(b)) / K for a, b in zip(found, truth.tolist(), strict=True)])
        assert part > 0.2
        for exponent in (-60, -7, 5):
            times = np.float32(2.0**exponent)
            again, others = col.search_ids(QUERIES * times, K)
            assert (np.array(again) == np.array(found)).all()
            np.testing.assert_array_equal(np.float32(others), np.float32(scores) * times)


@pytest.mark.parametrize("distance", ["dot", "euclid"])
def test_tiny_vectors_were_taken_and_then_found_at_random(distance):
    """Squares of what differs underflow. Zeros are no matter, nor is a tiny query beside vectors that are not."""
    with bqstore.open(distance=distance) as col:
        with pytest.raises(InvalidInputError, match=f"vector 1 has length 1e-25; {distance} needs zero, or at least"):
            col.add([[1.0, 0], [1e-25, 0]])
        assert len(col) == 0
        col.add([[1.0, 0], [0, 0], [2e-15, 0]], ["long", "zero", "short"])
        assert [hit.id for hit in col.search([1e-25, 0])] == (
            ["long", "short", "zero"] if distance == "dot" else ["zero", "short", "long"]
        )


@pytest.mark.sampled(6)
@pytest.mark.parametrize("distance", ["cosine", "dot", "euclid"])
@pytest.mark.parametrize("length", [1.0, 1e-3, 1e-5, 1e-6, 1e-9, 1e-14])
def test_short_vectors_kept_as_halves_were_not_told_apart(length, distance, tmp_path):
    """With .958 of the nearest found at a length of 1e-5, .784 at 1e-6, and zeros at 1e-8."""
    units = VECTORS[:800] / np.linalg.norm(VECTORS[:800], axis=1, keepdims=True)
    vectors = (units * length).astype(np.float32)
    queries = (QUERIES / np.linalg.norm(QUERIES, axis=1, keepdims=True) * length).astype(np.float32)
    with opened(distance, vectors, tmp_path / "s", originals="float16") as col:
        assert col.verify().ok
    with bqstore.open(tmp_path / "s") as col:
        found, _ = col.search_ids(queries, K, exact=True)
        scores = queries @ vectors.T.astype(np.float64)
        if distance == "euclid":
            scores -= 0.5 * (vectors.astype(np.float64) ** 2).sum(1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :K]
        shared = [len(set(map(int, a)) & set(b)) / K for a, b in zip(found, best.tolist(), strict=True)]
        assert np.mean(shared) > 0.985
        kept = np.stack([each.vector for each in col.get([str(i) for i in range(50)], with_vectors=True)])
        np.testing.assert_allclose(kept, vectors[:50], rtol=2**-11, atol=length * 2e-6)
        col.delete(["0"])
        col.compact()
        np.testing.assert_array_equal(col.get(["7"], with_vectors=True)[0].vector, kept[7])


@pytest.mark.sampled(1)
@pytest.mark.parametrize("form", ["float32", "int8", "none"])
def test_sparse_vectors_are_scanned_as_walks_are_tried_with_originals(form, tmp_path):
    """Those of the file that is read, by whatever way they came to it; walks found half of what scans did."""
    rng = np.random.default_rng(0)
    vectors = (rng.standard_normal((5000, 64)) * (rng.random((5000, 64)) < 0.05)).astype(np.float32)
    codes = {"encoding": "two_bits", "estimator": "rabitq", "hnsw": {"full_scan_threshold": 0}}
    with opened("euclid", vectors, tmp_path / "s", originals=form, **codes) as col:

        def how():
            return col.search(vectors[1], 3, oversampling=1.0, hnsw_ef=32, explain=True).explanation

        assert (how().way, how().missed > 0.1) == ("scan", True)
        col.delete(["7"])
        col.compact()
        assert (how().way, how().missed > 0.1) == ("scan", True)


def sparse(n, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, 64)) * (rng.random((n, 64)) < 0.05)).astype(np.float32)


def how_of(col, query):
    found = col.search(query, 3, oversampling=1.0, hnsw_ef=32, explain=True).explanation
    return found.way, found.missed > 0.1


@pytest.mark.sampled(1)
@pytest.mark.parametrize("step", [640, 2600])
def test_without_originals_walks_were_tried_with_what_codes_stand_for(step, tmp_path):
    """Which is found where queries are not: of sparse vectors a walk found .125, and a scan .397."""
    vectors = sparse(2600)
    codes = {"encoding": "two_bits", "estimator": "rabitq", "hnsw": {"full_scan_threshold": 0}}
    with bqstore.open(tmp_path / "s", distance="euclid", originals="none", **codes) as col:
        for at in range(0, 2600, step):
            col.add(vectors[at : at + step])
        assert how_of(col, vectors[1]) == ("scan", True)
        shutil.copytree(tmp_path / "s", tmp_path / "as after a crash")
    with bqstore.open(tmp_path / "s") as col:
        assert how_of(col, vectors[1]) == ("scan", True)
        col.delete(col.ids()[:5])
        col.compact()
        assert how_of(col, vectors[1]) == ("scan", True)
    with bqstore.open(tmp_path / "as after a crash") as col:
        col.flush()
        assert how_of(col, vectors[1]) == ("scan", True)
        kinder = clustered(1500, 64, 2)  # of which nothing is missed: a walk finds these, and few of the others
        col.add(kinder)
        assert how_of(col, vectors[1]) == ("scan", True)


def test_copies_without_originals_were_walked_where_the_collection_was_scanned(tmp_path):
    """They have no snapshot, and nobody could find out again what walks miss."""
    vectors = sparse(2300)
    codes = {"encoding": "two_bits", "estimator": "rabitq", "hnsw": {"full_scan_threshold": 0}}
    with bqstore.open(distance="euclid", originals="none", **codes) as col:
        col.add(vectors)
        assert how_of(col, vectors[1]) == ("scan", True)
        with pickle.loads(pickle.dumps(col)) as copy:
            copy.flush()  # until it is linked
            assert how_of(copy, vectors[1]) == ("scan", True)
        col.save(tmp_path / "s")
    with bqstore.open(tmp_path / "s") as col:
        col.flush()
        assert how_of(col, vectors[1]) == ("scan", True)
        assert col._engine.store.head.settings["missed_by_walks"] > 100
        col._engine.graph.builder.graph.begin_with(0, 0)  # as after many vectors of which none is missed
        col.add(vectors[:1])
        assert col._engine.store.head.settings["missed_by_walks"] == 0
        assert how_of(col, vectors[1]) == ("walk", False)
        col.clear()
        assert "missed_by_walks" not in col._engine.store.head.settings


@pytest.mark.parametrize("missed", [-1, 1001, 0.5, "7", None])
def test_no_part_of_a_thousand(missed):
    with bqstore.open(originals="none") as col:
        settings = dict(col._engine.store.head.settings)
    check_stored(settings | {"missed_by_walks": 1000}, "meta.db")
    with pytest.raises(CorruptionError, match=r"the settings in meta\.db"):
        check_stored(settings | {"missed_by_walks": missed}, "meta.db")


def test_other_vectors_for_a_collection_without_originals_are_what_its_walks_are_tried_with():
    """`reembed` has them at hand."""
    vectors = sparse(2600)

    class Model:
        model = "other"

        def embed(self, texts):
            return vectors[list(map(int, texts))]

    codes = {"encoding": "two_bits", "estimator": "rabitq", "hnsw": {"full_scan_threshold": 0}}
    with bqstore.open(distance="euclid", originals="none", **codes) as col:
        col.add(clustered(2600, 64, 3), texts=list(map(str, range(2600))))
        assert how_of(col, VECTORS[1, :1].repeat(64)) == ("walk", False)
        col.reembed(Model())
        assert how_of(col, vectors[1]) == ("scan", True)


def test_where_walks_miss_much_codes_are_scanned_and_explain_says_so():
    """What the trial of a graph has found decides, at every width that is asked for."""
    ask = {"k": 1, "oversampling": 1.0, "hnsw_ef": 8, "explain": True}
    with opened("euclid", VECTORS, hnsw={"full_scan_threshold": 0}) as col:
        how = col.search(QUERIES[0], **ask).explanation
        assert (how.way, how.missed) == ("walk", 0.0)
        col._engine.graph.builder.graph.missed = 37
        col.add(VECTORS[:1], ["again"])
        how = col.search(QUERIES[0], **ask).explanation
        assert (how.way, how.missed) == ("scan", 0.037)


def ways_of(col, query):
    """How filters for the shorter, the longer and any three quarters are answered, and no filter."""
    asked = ({"order": {"$lt": 750}}, {"order": {"$gte": 250}}, {"any": {"$lt": 3}}, None)
    each = [col.search(query, 3, filter=tree, hnsw_ef=32, explain=True).explanation for tree in asked]
    return [(how.way, how.shorter) for how in each]


@pytest.mark.parametrize("sigma", [0.7, 0.0])
def test_filters_for_shorter_vectors_were_walked_for_among_longer_ones(sigma, tmp_path, monkeypatch):
    """Of 100,000 of many lengths walks found half of what scans did, under dot."""
    let_walk(monkeypatch)
    settle_early(monkeypatch, ENOUGH)
    vectors = VECTORS[:1000] / np.linalg.norm(VECTORS[:1000], axis=1, keepdims=True)
    vectors *= np.random.default_rng(1).lognormal(0, sigma, (1000, 1)).astype(np.float32)
    order = np.linalg.norm(vectors, axis=1).argsort().argsort()
    codes = {"encoding": "one_bit", "estimator": "rabitq", "hnsw": {"full_scan_threshold": 0}}
    walked, scanned = ("walk", False), ("scan", True) if sigma else ("walk", False)
    with bqstore.open(tmp_path / "s", distance="dot", **codes) as col:
        metadatas = [{"order": place, "any": i % 4} for i, place in enumerate(order.tolist())]
        col.add(vectors, [str(i) for i in range(1000)], metadatas=metadatas)
        assert ways_of(col, QUERIES[0]) == [scanned, walked, walked, walked]
    with bqstore.open(tmp_path / "s", read_only=True) as col:
        assert ways_of(col, QUERIES[0]) == [scanned, walked, walked, walked]
        truth = [hit.id for hit in col.search(QUERIES[0], 3, filter={"order": {"$lt": 750}}, exact=True)]
        assert [hit.id for hit in col.search(QUERIES[0], 3, filter={"order": {"$lt": 750}}, oversampling=30)] == truth
    with bqstore.open(tmp_path / "s") as col:
        col.delete(filter={"order": {"$gte": 850}})
        assert ways_of(col, QUERIES[0])[3] == scanned  # deleted ones are walked through, too
