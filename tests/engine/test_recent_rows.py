"""Documents that were found lately are not read again, and are never older than what was committed."""

import numpy as np
import pytest

import bqstore
from bqstore.engine import fetch
from bqstore.engine.recent_rows import RecentRows
from bqstore.storage import Row

from .other_process import other_process


@pytest.fixture
def reads(monkeypatch):
    """The rids that were read from SQLite, call by call."""
    calls, real = [], fetch.rows

    def noted(store, state, ordinals):
        calls.append(state.rids[ordinals].tolist())
        return real(store, state, ordinals)

    monkeypatch.setattr(fetch, "rows", noted)
    return calls


def test_a_document_that_was_found_is_not_read_again(tmp_path, reads):
    with bqstore.open(tmp_path) as col:
        col.add(np.eye(4, 8), list("abcd"), list("ABCD"), [{"n": [n]} for n in range(4)])
        first = col.search(np.eye(8)[0], 2)
        first[0].metadata["n"].append("a caller's own")
        assert reads == [[0, 1]]
        again = col.search(np.eye(8)[0], 3)
        assert reads == [[0, 1], [2]] and [hit.text for hit in again] == ["A", "B", "C"]
        assert again[0].metadata == {"n": [0]}
        col.add([np.eye(8)[4]], ["e"])  # nothing that was read has changed
        col.search(np.eye(8)[0], 3)
        assert len(reads) == 2


def test_a_document_changed_by_another_process_is_read_again(tmp_path):
    with bqstore.open(tmp_path) as col, other_process(tmp_path) as other:
        col.add(np.eye(2, 8), ["a", "b"], ["A", "B"])
        assert [hit.metadata for hit in col.search(np.eye(8)[0], 2)] == [{}, {}]
        other("col.update_metadata(['a'], [{'n': 1}])")
        assert [hit.metadata for hit in col.search(np.eye(8)[0], 2)] == [{"n": 1}, {}]
        other("col.delete(['a']); col.add([[0, 1.0] + [0] * 6], ['a'], ['newer'])")
        assert [(hit.id, hit.text) for hit in col.search(np.eye(8)[1], 2)] == [("b", "B"), ("a", "newer")]


def test_recent_rows_are_bounded_and_those_asked_for_stay():
    recent = RecentRows()
    recent.keep(Row(0, 1, "0", "wanted", "{}", None, None))
    for rid in range(1, 5000):
        recent.keep(Row(rid, 1, str(rid), "t" * 2000, "{}", None, None))
        if not rid % 500:
            assert recent.get(0) is not None
    kept = sum(len(recent.get(rid).text) for rid in range(1, 5000) if recent.get(rid))
    assert 1 << 20 < kept < 4 << 20
    recent.keep(Row(9999, 1, "9999", "t" * 70_000, "{}", None, None))
    assert recent.get(9999) is None
