"""Prefetching records: when, which ones, and that it changes no answer."""

import numpy as np
import pytest

import bqstore
from bqstore.storage import platform, readahead
from bqstore.storage.readahead import SEARCHES, ReadAhead
from tests.conftest import clustered


@pytest.fixture
def no_faults(monkeypatch):
    """On a busy machine any search may wait for the disk, and prefetching would begin again."""
    monkeypatch.setattr(platform, "major_faults", lambda: 0)


def test_prefetching_stops_on_a_warm_disk_and_begins_again_on_a_cold_one(monkeypatch):
    faults = 0
    monkeypatch.setattr(readahead.platform, "major_faults", lambda: faults)
    watch = ReadAhead()
    for _ in range(2):
        asked = 0
        while (before := watch.begin()) is None:
            watch.end(before)
            asked += 1
        assert asked == SEARCHES
        for _ in range(5):  # warm
            watch.end(before)
            before = watch.begin()
            assert before is not None
        faults += 3
        watch.end(before)  # cold: the disk was waited for


@pytest.mark.usefixtures("no_faults")
@pytest.mark.parametrize("batch", [False, True])
def test_prefetching_changes_no_answer(tmp_path, batch, monkeypatch):
    base, queries = clustered(400, 70), clustered(40, 70, seed=1)
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(platform, "will_need", lambda fd, offset, length: asked.append((offset, length)))
    with bqstore.open_flat(tmp_path, full_scan_threshold=0) as col:
        col.add(base)
        file = col._engine.store.vectors
        answers = []
        for left in (10**6, 0):
            file.read_ahead.left = left
            asked.clear()
            if batch:
                answers.append([part.tolist() for part in col.search_ids(queries, 5, threads=2)])
            else:
                answers.append([[part.tolist() for part in col.search_ids(query, 5)] for query in queries])
            assert bool(asked) == bool(left)
            if left:  # whole records, of this collection
                size = file.layout.record_bytes
                assert all(
                    length == size and (offset - 64) % size == 0 and offset < 64 + 400 * size
                    for offset, length in asked
                )
                assert batch or len(asked) == 15 * len(queries)
        assert answers[0] == answers[1]


@pytest.mark.usefixtures("no_faults")
def test_the_first_queries_of_a_large_batch_prefetch(tmp_path, monkeypatch):
    base, queries = clustered(400, 70), clustered(100, 70, seed=1)
    asked: list[int] = []
    monkeypatch.setattr(platform, "will_need", lambda fd, offset, length: asked.append(offset))
    with bqstore.open_flat(tmp_path, full_scan_threshold=0) as col:
        col.add(base)
        one_by_one = [col.search_ids(query, 5, exact=True)[0][0].tolist() for query in queries]
        ids, _ = col.search_ids(queries, 5, oversampling=80)
        assert ids.tolist() == one_by_one and asked
        assert col._engine.store.vectors.read_ahead.left == 0
        asked.clear()
        assert col.search_ids(queries, 5, oversampling=80)[0].tolist() == one_by_one and not asked


def test_a_search_without_rescoring_prefetches_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(platform, "will_need", lambda *_: pytest.fail("nothing is to be read"))
    with bqstore.open_flat(tmp_path, full_scan_threshold=0) as col:
        col.add(np.eye(5) + 0.1)
        assert len(col.search([1.0, 0, 0, 0, 0], rescore=False)) == 5


def test_a_system_without_these_calls_searches_all_the_same(monkeypatch, tmp_path):
    monkeypatch.delattr(platform.os, "posix_fadvise", raising=False)
    monkeypatch.setattr(platform, "resource", None)
    assert platform.major_faults() == 0
    with bqstore.open_flat(tmp_path, full_scan_threshold=0) as col:
        col.add(np.eye(5) + 0.1)
        assert [col.search([1.0, 0, 0, 0, 0], 1)[0].score for _ in range(70)] == pytest.approx(
            [col.search([1.0, 0, 0, 0, 0], 1, exact=True)[0].score] * 70
        )
