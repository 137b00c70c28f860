"""A walk finds what brute force finds: on bits and floats, under filters and deletions, in every query encoding."""

import hashlib
from itertools import pairwise, product

import numpy as np
import pytest

import bqstore
from tests.conftest import exact_scores
from tests.engine.given import BITS, SCAN, data_of, filled, hammings, let_walk, recall, recall_on_bits

N, DIM, K = 2500, 100, 10
SETS = ("openai_3small_1536", "openai_ada002_1536", "openai_3large_3072", "minilm_l6_v2_384", "mpnet_base_v2_768")
ENCODINGS = ("binary", "scalar4bits", "scalar8bits")


@pytest.fixture(autouse=True)
def walk(monkeypatch):
    let_walk(monkeypatch)


def where(name, tmp_path):
    return None if name == "memory" else tmp_path / "store"


def ordinals_of(ids):
    return np.array([[-1 if id_ is None else int(id_[1:]) for id_ in row] for row in ids])


@pytest.fixture(scope="module")
def whole():
    """A collection that everything is asked of, its vectors and queries."""
    base, queries = data_of(N, DIM)
    with filled(None, base) as col:
        yield col, base, queries


# ---- what is found


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("distance", "originals", "place"),
    [
        *product(["cosine", "dot", "euclid"], ["float32", "float16", "int8", "none"], ["memory"]),
        *product(["cosine"], ["float32", "float16", "int8", "none"], ["disk"]),
        *product(["dot", "euclid"], ["float32"], ["disk"]),
    ],
)
def test_a_walk_finds_the_nearest_codes_and_scores_their_originals(tmp_path, distance, originals, place):
    base, queries = data_of(N, DIM, queries=40)
    with filled(where(place, tmp_path), base, distance=distance, originals=originals) as col:
        assert (col.info().way, col.info().linked) == ("walk", N)
        ids, scores = col.search_ids(queries, K, rescore=False)
        assert recall_on_bits(ids, hammings(base, queries)) >= 0.99
        signs = exact_scores(np.where(base > 0, 1.0, -1.0), np.where(queries > 0, 1.0, -1.0), distance)
        np.testing.assert_allclose(scores, np.take_along_axis(signs, ordinals_of(ids), 1), rtol=1e-5, atol=1e-6)
        if originals == "none":
            return
        truth, _ = col.search_ids(queries, K, exact=True)
        ids, scores = col.search_ids(queries, K)
        scanned, _ = col.search_ids(queries, K, **SCAN)
        assert recall(ids, scanned) >= 0.99
        assert recall(ids, truth) >= recall(scanned, truth) - 0.01
        exact = np.take_along_axis(exact_scores(base, queries, distance), ordinals_of(ids), 1)
        tolerance = {"float32": 1e-5, "float16": 1e-3, "int8": 2e-2}[originals]
        np.testing.assert_allclose(scores, exact, rtol=tolerance, atol=tolerance * np.abs(exact).max())
        assert (np.diff(scores, axis=1) <= 0).all()


@pytest.mark.sampled(3)
@pytest.mark.parametrize("dim", [1, 5, 63, 64, 65, 200])
def test_any_dimension_is_walked(dim):
    base, queries = data_of(2100, dim, queries=20, seed=dim)
    with filled(None, base) as col:
        for k in (1, 30):
            ids, _ = col.search_ids(queries, k, rescore=False)
            assert recall_on_bits(ids, hammings(base, queries)) >= (0.98 if dim > 5 else 0.9)  # most codes are equal
        assert col.search(queries[0], explain=True).explanation.way == "walk"


@pytest.mark.slow  # `test_recall_on_bits_grows_with_the_beam` is its like on clusters
@pytest.mark.parametrize("name", SETS)
def test_recall_never_falls_as_the_beam_or_oversampling_grows(embeddings, name):
    """Each point lies above the one before, or within two hits in a thousand: DESIGN, A1, A7 and A12."""
    base, queries = embeddings(f"{name}.npz")
    queries = queries[:300]
    with filled(None, base[:5000]) as col:
        truth, _ = col.search_ids(queries, K, exact=True)

        def of(**settings):
            return recall(col.search_ids(queries, K, threads=2, **settings)[0], truth)

        beams = [of(oversampling=o, hnsw_ef=ef) for o in (1, 3) for ef in (16, 32, 64, 128, 256, 512)]
        samples = [of(oversampling=o, hnsw_ef=ef) for ef in (None, 16, 512) for o in (1, 2, 3, 4, 6, 8, 10)]
        for line in (beams[:6], beams[6:], samples[:7], samples[7:14], samples[14:]):
            assert all(after >= before - 0.002 for before, after in pairwise(line)), line
            assert line[-1] > line[0]
        for oversampling, line in ((1, beams[:6]), (3, beams[6:])):
            scanned = of(oversampling=oversampling, **SCAN)
            assert line[-1] >= scanned - 0.002 and line[3] >= scanned - 0.005 and line[0] >= scanned - 0.03


def test_recall_on_bits_grows_with_the_beam(whole):
    col, base, queries = whole
    distances = hammings(base, queries)
    found = [
        recall_on_bits(col.search_ids(queries, K, rescore=False, hnsw_ef=ef)[0], distances)
        for ef in (16, 32, 64, 128, 256, 512, N - 1)
    ]
    assert all(after >= before - 0.002 for before, after in pairwise(found)), found
    assert found[0] >= 0.9 and found[-1] == 1


# ---- as many as match


CONDITIONS = {
    "half": {"m": list(range(100))},
    "a twentieth": {"m": list(range(10))},
    "a two hundredth": {"m": 7},
    "all but one": {"i": [i for i in range(N) if i != 5]},
    "one": {"i": 5},
    "none": {"i": -1},
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("deleted", [False, True], ids=["all", "half deleted"])
def test_as_many_hits_as_match_come_back(tmp_path, deleted):
    base, queries = data_of(N, DIM, queries=6)
    with filled(tmp_path, base) as col:
        live = np.ones(N, bool)
        if deleted:
            gone = np.random.default_rng(1).permutation(N)[: N // 2]
            live[gone] = False
            assert col.delete([f"d{i}" for i in gone]) == N // 2
        of_m = np.arange(N) % 200
        masks = {
            "half": of_m < 100,
            "a twentieth": of_m < 10,
            "a two hundredth": of_m == 7,
            "all but one": np.arange(N) != 5,
            "one": np.arange(N) == 5,
            "none": np.zeros(N, bool),
        }
        distances = hammings(base, queries)
        walked = 0
        for name, condition in [*CONDITIONS.items(), ("everything", None)]:
            accepted = np.flatnonzero(live & masks.get(name, True))
            for k in (1, 10, 200, 2000, 10_000):
                for settings in ({}, {"rescore": False}, {"oversampling": 1.0, "hnsw_ef": 16}):
                    ids, scores = col.search_ids(queries, k, filter=condition, **settings)
                    expected = min(k, len(accepted))
                    assert (ids != None).sum(1).tolist() == [expected] * len(queries)  # noqa: E711
                    assert np.isfinite(scores[:, :expected]).all() and np.isnan(scores[:, expected:]).all()
                    assert (np.diff(scores[:, :expected], axis=1) <= 0).all()
                    found = ordinals_of(ids[:, :expected])
                    assert np.isin(found, accepted).all()
                    assert all(len(set(row)) == expected for row in found.tolist())
                hits = col.search(queries[0], k, filter=condition, explain=True)
                assert len(hits) == expected and hits.explanation.accepted == len(accepted)
                assert [hit.text for hit in hits] == [f"text {hit.metadata['i']}" for hit in hits]
                walked += hits.explanation.way == "walk"
            if len(accepted) >= K:
                ids, _ = col.search_ids(queries, K, filter=condition, rescore=False)
                among = np.where(np.isin(np.arange(N), accepted), distances, 10**6)
                assert recall_on_bits(ids, among) >= 0.95, name
        assert walked >= 8


@pytest.mark.sampled(1)
@pytest.mark.parametrize("correlated", [True, False], ids=["near the query", "far from it"])
@pytest.mark.parametrize("part", [0.5, 0.05, 0.005])
def test_filters_that_go_with_the_query_or_against_it(part, correlated):
    """Accepted documents that lie all on one side: the hardest for a graph, whose walk begins on the other."""
    base, queries = data_of(N, DIM, queries=8)
    distances = hammings(base, queries)
    for row, query in enumerate(queries[:4]):
        order = np.argsort(distances[row] if correlated else -distances[row], kind="stable")
        accepted = np.sort(order[: int(N * part)])
        inside = np.isin(np.arange(N), accepted)
        with bqstore.open_flat(full_scan_threshold=0, encoding="one_bit") as col:
            col.add(base, [f"d{i}" for i in range(N)], metadatas=[{"in": bool(x)} for x in inside])
            for k in (1, 10, 100, 5000):
                ids, _ = col.search_ids(query, k, filter={"in": True})
                found = ordinals_of(ids)[0]
                found = found[found >= 0]
                assert len(found) == min(k, len(accepted)) and np.isin(found, accepted).all()
            ids, _ = col.search_ids(query, K, filter={"in": True}, rescore=False)
            assert recall_on_bits(ids, np.where(inside, distances[row], 10**6)[None]) >= 0.9


def test_everything_around_the_query_deleted(whole):
    """The walk must get out of a region of the dead, which route and are never found."""
    base, queries = data_of(N, DIM, queries=3)
    distances = hammings(base, queries)
    for row in range(3):
        with filled(None, base) as col:
            near = np.argsort(distances[row])[: N // 2]
            col.delete([f"d{i}" for i in near])
            distances_left = distances[row].copy()
            distances_left[near] = 10**6
            for k in (1, 10, 500, N):
                ids, _ = col.search_ids(queries[row], k, rescore=False)
                found = ordinals_of(ids)[0]
                assert (found >= 0).sum() == min(k, N - N // 2) and not np.isin(found, near).any()
            ids, _ = col.search_ids(queries[row], K, rescore=False)
            assert recall_on_bits(ids, distances_left[None]) >= 0.9


def test_few_are_left_of_many(whole):
    base, queries = data_of(N, DIM, queries=3)
    with filled(None, base) as col:
        col.delete(filter={"i": list(range(3, N))})
        assert {hit.id for hit in col.search(queries[0], 100)} == {"d0", "d1", "d2"}
        assert len(col.search(queries[0], 2)) == 2
        col.delete(["d0", "d1", "d2"])
        assert col.search(queries[0], 5) == [] and col.search_ids(queries, 5)[0].tolist() == [[None] * 5] * 3
        col.add(queries, ["a", "b", "c"])
        assert [hit.id for hit in col.search(queries[1], 1)] == ["b"] and len(col.search(queries[1], 9)) == 3


def test_a_thousand_equal_codes():
    """Ties are everything: the same document many times over, and a few others."""
    base, queries = data_of(2200, 64, queries=5)
    base[:1500] = base[0]
    with filled(None, base) as col:
        ids, scores = col.search_ids(base[0], 1000)
        assert len(set(ids[0])) == 1000 and set(ordinals_of(ids)[0]) <= set(range(1500))
        np.testing.assert_allclose(scores, 1, atol=1e-5)
        for query in queries:
            assert len({hit.id for hit in col.search(query, 2200)}) == 2200


# ---- which way, and how much


def test_explain_says_what_was_done(whole):
    col, _, queries = whole
    base = {"query_encoding": "binary", "accepted": N, "linked": N, "tail": 0}
    for k, settings, expected in (
        (10, {}, {"way": "walk", "hnsw_ef": 128, "candidates": 30, "rescored": 30}),
        (10, {"hnsw_ef": 50}, {"way": "walk", "hnsw_ef": 50, "candidates": 30, "rescored": 30}),
        (10, {"hnsw_ef": 5}, {"way": "walk", "hnsw_ef": 30, "candidates": 30, "rescored": 30}),
        (100, {}, {"way": "walk", "hnsw_ef": 600, "candidates": 300, "rescored": 300}),
        (7, {"oversampling": 1.5}, {"way": "walk", "hnsw_ef": 128, "candidates": 11, "rescored": 11}),
        (10, {"rescore": False}, {"way": "walk", "hnsw_ef": 128, "candidates": 10, "rescored": 0}),
        (10, SCAN, {"way": "scan", "hnsw_ef": 0, "candidates": 30, "rescored": 30, "distances": N, "hops": 0}),
        (10, {"exact": True}, {"way": "exact", "hnsw_ef": 0, "rescored": 0, "distances": N, "hops": 0}),
        (10, {"ignore_quantization": True}, {"way": "exact", "distances": N}),
    ):
        hits = col.search(queries[0], k, explain=True, **settings)
        got = hits.explanation
        for name, value in {**base, **expected}.items():
            assert getattr(got, name) == value, (name, settings)
        if got.way == "walk":
            assert got.hnsw_ef <= got.hops <= got.distances <= N + 100  # the descent sees some twice
        assert hits == col.search(queries[0], k, **settings) and isinstance(hits, list)


def test_more_is_done_for_a_wider_beam(whole):
    col, _, queries = whole
    done = [col.search(queries[1], explain=True, hnsw_ef=ef).explanation for ef in (30, 60, 120, 240, 480)]
    for less, more in pairwise(done):
        assert less.distances < more.distances and less.hops < more.hops
    assert done[0].distances < N / 4


def test_explain_of_a_filter_says_what_was_accepted(whole):
    col, _, queries = whole
    for condition, accepted, way in (
        ({"m": list(range(100))}, 1300, "walk"),
        ({"m": 7}, 13, "scan"),
        ({"m": -1}, 0, "exact"),
    ):
        got = col.search(queries[0], 5, filter=condition, explain=True).explanation
        assert (got.accepted, got.way) == (accepted, way)
        if way == "scan":
            assert got.distances == 13
    with pytest.raises(bqstore.InvalidInputError, match="explain"):
        col.search(queries[0], explain=1)


def test_no_more_are_rescored_than_were_found(whole):
    col, _, queries = whole
    assert col.search(queries[0], 5, filter={"m": 7}, explain=True).explanation.rescored == 13


def test_the_planner_walks_when_it_pays_and_scans_when_not(monkeypatch, whole):
    monkeypatch.undo()
    col, _, queries = whole
    assert col.search(queries[0], filter={"m": list(range(200))}, explain=True).explanation.way == "scan"  # a small set


# ---- the same by every call


@pytest.mark.sampled(3)
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("settings", [{}, {"rescore": False}, {"hnsw_ef": 40, "oversampling": 2}], ids=str)
@pytest.mark.parametrize("condition", [None, {"m": list(range(120))}], ids=["all", "some"])
def test_every_call_gives_the_same(encoding, settings, condition):
    base, queries = data_of(2100, 70, queries=37)
    with filled(None, base, query_encoding=encoding) as col:
        col.delete([f"d{i}" for i in range(0, 2100, 9)])
        settings = {**settings, "filter": condition}
        ids, scores = col.search_ids(queries, K, **settings)
        for threads in (1, 2, 5):
            again, values = col.search_ids(queries, K, threads=threads, **settings)
            assert again.tolist() == ids.tolist()
            np.testing.assert_array_equal(values, scores)
            for line, row, of in zip(
                col.search_batch(queries, K, threads=threads, **settings), ids, scores, strict=True
            ):
                assert [hit.id for hit in line] == row.tolist()
                np.testing.assert_array_equal(np.float32([hit.score for hit in line]), of)
        for query, row, of in zip(queries, ids, scores, strict=True):
            for hits in (col.search(query, K, **settings), col.search(query, K, explain=True, **settings)):
                assert [hit.id for hit in hits] == row.tolist()
                np.testing.assert_array_equal(np.float32([hit.score for hit in hits]), of)
            one, _ = col.search_ids(query, K, **settings)
            assert one.tolist() == [row.tolist()]


@pytest.mark.sampled(5)
@pytest.mark.parametrize("distance", ["cosine", "dot", "euclid"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_walk_and_scan_give_a_document_the_same_score(distance, encoding):
    base, queries = data_of(2100, 70, queries=10)
    with filled(None, base * 3, distance=distance, query_encoding=encoding) as col:
        for settings in ({"rescore": False}, {}):
            walked, values = col.search_ids(queries, 50, **settings)
            scanned, others = col.search_ids(queries, 50, **settings, **SCAN)
            for row, of, other_row, other in zip(walked, values, scanned, others, strict=True):
                known = dict(zip(other_row, other, strict=True))
                both = [(score, known[id_]) for id_, score in zip(row, of, strict=True) if id_ in known]
                assert len(both) >= 45
                np.testing.assert_array_equal(*np.array(both).T)


# ---- query encodings


def stored(path):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in path.rglob("*.bin")}


def test_query_encodings_differ_at_each_open_and_nothing_stored_changes(tmp_path):
    base, queries = data_of(N, DIM, queries=100)
    queries *= np.random.default_rng(0).lognormal(0, 1, queries.shape).astype(np.float32)
    filled(tmp_path, base).close()
    before, found = stored(tmp_path), {}
    for encoding in (*ENCODINGS, "binary"):
        with bqstore.open(tmp_path, quantization={"encoding": "one_bit", "query_encoding": encoding}, hnsw=BITS) as col:
            assert col.info().quantization.query_encoding == encoding and col.info().linked == N
            assert col.search(queries[0], explain=True).explanation.query_encoding == encoding
            truth, _ = col.search_ids(queries, K, exact=True)
            found[encoding] = recall(col.search_ids(queries, K, rescore=False)[0], truth)
            with bqstore.open(
                tmp_path,
                quantization={"query_encoding": "scalar4bits"},
                hnsw=BITS,
                read_only=True,
            ) as reader:
                assert reader.search(queries[0], explain=True).explanation.query_encoding == "scalar4bits"
    assert stored(tmp_path) == before
    assert found["binary"] + 0.05 < found["scalar4bits"] <= found["scalar8bits"] + 0.02
    with bqstore.open(tmp_path) as col:
        assert col.info().quantization.query_encoding == "binary"  # as stored


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_finer_queries_rank_better_on_real_embeddings(embeddings, tmp_path, name):
    base, queries = embeddings(f"{name}.npz")
    queries, found = queries[:200], {}
    with filled(tmp_path, base[:4000]):
        pass
    for encoding in ENCODINGS:
        with bqstore.open(tmp_path, hnsw=BITS, quantization={"query_encoding": encoding}) as col:
            truth, _ = col.search_ids(queries, K, exact=True)
            found[encoding] = [
                recall(col.search_ids(queries, K, threads=2, **settings)[0], truth)
                for settings in ({"rescore": False}, {}, {"rescore": False, **SCAN})
            ]
            assert found[encoding][0] >= found[encoding][2] - 0.01  # the walk loses nothing by them
    for finer in ENCODINGS[1:]:
        # ada-002 has a few values ten times the others: of 16 levels these are left two
        gain = -0.002 if (name, finer) == ("openai_ada002_1536", "scalar4bits") else 0.02
        assert found[finer][0] > found["binary"][0] + gain
        assert found[finer][1] >= found["binary"][1] - 0.002
