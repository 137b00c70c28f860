"""Regressions of trained quantization: each test is named after what went wrong."""

from __future__ import annotations

import numpy as np
import pytest

import bqstore
from bqstore.quality import tune
from tests.conftest import FULL
from tests.engine.given import BITS, data_of, recall

BITS_OF = {"full_scan_threshold": 0}


def found(col, queries, **keywords):
    return recall(col.search_ids(queries, 10, **keywords)[0], col.search_ids(queries, 10, exact=True)[0])


@pytest.mark.sampled(2)
@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_requantizing_a_few_documents_divided_by_zero(n):
    with bqstore.open() as col:
        col.add(data_of(n, 8)[0])
        assert (col.requantize().encoding, col.info().choice) == ("one_bit", None)
        col.add(data_of(2100, 8)[0])
        assert col.info().choice.vectors > 1000  # not the few of before


@pytest.mark.sampled(1)
@pytest.mark.parametrize("offset", [0, 300, 3000])
def test_vectors_far_from_the_origin_lost_their_mean(offset):
    base, queries = data_of(2500, 64)
    base, queries = base + np.float32(offset), queries + np.float32(offset)
    with bqstore.open(distance="euclid", hnsw=BITS_OF) as col:
        col.add(base)
        assert max(trial.recall for trial in col.info().choice.trials) > 0.95
        assert found(col, queries, oversampling=4) > 0.95
        col.requantize(encoding="one_bit", estimator="rabitq")
        assert found(col, queries, oversampling=10) > 0.8


@pytest.mark.sampled(1)
@pytest.mark.parametrize("dim", [3, 6])
@pytest.mark.parametrize("encoding", ["two_bits", "four_bits"])
def test_documents_of_equal_signs_hid_each_other_from_walks(dim, encoding):
    rng = np.random.default_rng(dim)
    base, queries = rng.standard_normal((6000, dim)), rng.standard_normal((50, dim))
    with bqstore.open(hnsw=BITS, quantization={"encoding": encoding, "estimator": "rabitq"}) as col:
        col.add(base)
        scanned = found(col, queries, oversampling=10, hnsw_ef=100_000)
        assert found(col, queries, oversampling=10, hnsw_ef=400) >= scanned - 0.02


def test_settings_tuned_for_other_codes_stayed(monkeypatch):
    monkeypatch.setattr(tune, "_HALF", 1000 if FULL else 300)
    with bqstore.open(hnsw=BITS_OF, quantization={"encoding": "four_bits", "estimator": "rabitq"}) as col:
        col.add(data_of(3000, 48)[0])
        before = col.info().search
        assert col.tune(0.9) == col.info().search != before
        col.requantize(encoding="one_bit", estimator="rabitq")
        assert col.info().search == before


def test_what_was_trained_on_deleted_documents_stayed(tmp_path):
    rng = np.random.default_rng(0)
    one, two = rng.standard_normal((2100, 32)) + 5, rng.standard_normal((2100, 32)) - 5
    with bqstore.open(tmp_path, hnsw=BITS_OF) as col:
        ids = col.add(one)
        first = col.info().choice
        col.delete(ids)
        col.add(two)
        assert col.info().generation == 1 and col.info().choice != first and len(col) == 2100
        assert found(col, two[:50], oversampling=4) > 0.9
        assert col.verify().ok


@pytest.mark.sampled(3)
@pytest.mark.parametrize("encoding", ["one_bit", "two_bits", "four_bits"])
@pytest.mark.parametrize("query_encoding", ["binary", "scalar4bits", "scalar8bits"])
def test_reads_were_spared_by_a_bound_that_does_not_hold(encoding, query_encoding):
    base, queries = data_of(2500, 96)
    settings = {"encoding": encoding, "estimator": "rabitq", "query_encoding": query_encoding}
    with bqstore.open(hnsw=BITS_OF, quantization=settings) as col:
        ids = col.add(base)
        place = {id_: i for i, id_ in enumerate(ids)}
        unit = base / np.linalg.norm(base, axis=1, keepdims=True)
        for query in queries:
            candidates = [place[hit.id] for hit in col.search(query, 80, rescore=False, hnsw_ef=10_000)]
            best = sorted(candidates, key=lambda i: -float(unit[i] @ query))[:10]
            assert [place[hit.id] for hit in col.search(query, 10, oversampling=8, hnsw_ef=10_000)] == best
