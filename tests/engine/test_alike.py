"""Where many documents share the signs of their codes and no more, a walk would miss some: they are scanned."""

import warnings

import numpy as np
import pytest

import bqstore
from bqstore.index import HnswGraph, quantizer
from tests.conftest import clustered
from tests.engine.given import SCAN, data_of, filled, let_walk, recall

N, K = 20_000, 10
CORRECTED = {"encoding": "one_bit", "estimator": "rabitq"}


def way_of(col, query, **settings):
    return col.search(query, K, explain=True, **settings).explanation.way


@pytest.fixture
def of_old(monkeypatch):
    """Graphs as older versions linked them: of one bit by signs alone, under euclid too."""
    monkeypatch.setattr(quantizer, "_linking", lambda *_: np.zeros(3, np.float32))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("distance", ["cosine", "euclid"])
@pytest.mark.long
def test_vectors_of_six_dimensions_are_scanned(of_old, distance):
    """Sixty-four lists: a walk finds .6 of them under cosine, and .15 under euclid."""
    base, queries = data_of(N, 6)
    with filled(None, base, distance=distance, **CORRECTED) as col:
        info = col.info()
        assert (info.way, info.linked) == ("scan", N)
        told = col.search(queries[0], K, explain=True).explanation
        assert (told.way, told.linked, told.hnsw_ef, told.tail, told.distances) == ("scan", N, 0, 0, N)
        half = {"filter": {"m": {"$lt": 100}}}
        for settings in ({}, {"hnsw_ef": 64}, {"rescore": False}, {**half, "oversampling": 3.0}):
            assert way_of(col, queries[0], **settings) == "scan"
        assert way_of(col, queries[0], **half) in ("scan", "exact")  # by originals, where bits tell too little
        for settings in ({}, {"rescore": False}, {"oversampling": 10}):
            found, scanned = (col.search_ids(queries, K, **settings, **way)[0] for way in ({}, SCAN))
            assert recall(found, scanned) == 1
        truth, _ = col.search_ids(queries, K, exact=True)
        assert recall(col.search_ids(queries, K, oversampling=200)[0], truth) >= 0.95
        truth, _ = col.search_ids(queries, K, **half, exact=True)
        assert recall(col.search_ids(queries, K, **half, oversampling=200)[0], truth) >= 0.95


@pytest.mark.parametrize("distance", ["dot", "euclid"])
def test_linked_by_estimates_vectors_of_few_dimensions_are_walked_and_found(monkeypatch, distance):
    let_walk(monkeypatch)
    base, queries = data_of(3000, 8)
    base = base * np.random.default_rng(0).uniform(0.5, 2, (len(base), 1)).astype(np.float32)
    with filled(None, base, distance=distance, **CORRECTED) as col:
        assert col._engine.graph.builder.graph.alike == 0
        assert way_of(col, queries[0]) == "walk"
        walked, scanned = (col.search_ids(queries, K, rescore=False, **way)[1] for way in ({}, SCAN))
        assert (walked >= scanned[:, -1:]).mean() > 0.98


@pytest.mark.sampled(1)
@pytest.mark.parametrize("distance", ["cosine", "dot", "euclid"])
def test_equal_documents_are_walked_all_the_same(distance):
    """Nine of ten: blank pages, and what is on every page."""
    both, rng = clustered(N // 10 + 50, 96, 1), np.random.default_rng(0)
    base, queries = both[: N // 10], np.ascontiguousarray(both[N // 10 :])
    vectors = np.concatenate([base, base[rng.integers(0, len(base), N - len(base))]])[rng.permutation(N)]
    with filled(None, vectors, distance=distance, **CORRECTED) as col:
        assert (col.info().way, col.info().linked) == ("walk", N)
        assert way_of(col, queries[0]) == way_of(col, queries[0], filter={"m": {"$lt": 180}}) == "walk"
        found, scanned = (col.search_ids(queries, K, **way)[1] for way in ({}, SCAN))
        assert (found >= scanned[:, -1:] - 1e-6).mean() >= 0.95  # copies are as good as each other


def test_the_way_changes_with_what_is_added_and_compacted(of_old, monkeypatch):
    let_walk(monkeypatch)
    base, queries = data_of(2500, 64)
    base -= base.mean(0)
    with filled(None, base, distance="euclid", **CORRECTED) as col:
        assert col.info().way == way_of(col, queries[0]) == "walk"
        ids = [f"long{i}" for i in range(len(base))]
        col.add(2 * base, ids)
        assert col._engine.graph.builder.graph.alike > 1000
        assert col.info().way == way_of(col, queries[0]) == "scan"
        col.delete(ids)
        assert col.info().way == "scan"  # they are in the graph, still
        col.compact()
        assert col._engine.graph.builder.graph.alike == 0
        assert col.info().way == way_of(col, queries[0]) == "walk"


@pytest.mark.parametrize("told", [True, False])
def test_a_snapshot_tells_or_they_are_counted(tmp_path, monkeypatch, told):
    """One of a version that did not count them is read, too."""
    let_walk(monkeypatch)
    base, queries = data_of(2500, 6)
    parts = HnswGraph.parts

    def of_old(graph):
        numbers, arrays = parts(graph)
        return {name: number for name, number in numbers.items() if told or name != "alike"}, arrays

    monkeypatch.setattr(HnswGraph, "parts", of_old)
    with filled(tmp_path / "store", base, **CORRECTED) as col:
        expected = col._engine.graph.builder.graph.alike
        ids = col.search_ids(queries, K)[0].tolist()

    def fail(*_):
        raise AssertionError("a graph was built")

    monkeypatch.setattr(HnswGraph, "link", fail)
    for read_only in (True, False):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            col = bqstore.open(tmp_path / "store", hnsw={"full_scan_threshold": 0}, read_only=read_only)
        with col:
            assert col._engine.graph.builder.graph.alike == expected > 1000
            assert (col.info().way, col.info().linked, way_of(col, queries[0])) == ("scan", 2500, "scan")
            assert col.search_ids(queries, K)[0].tolist() == ids
