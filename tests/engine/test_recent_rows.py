"""Documents that were found lately are not read again, and are never older than what was committed."""

import copy
import pickle
from dataclasses import FrozenInstanceError, replace
from datetime import datetime, timezone

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


def test_the_catalogue_was_asked_for_no_rows_where_all_were_about_to_be_dropped(tmp_path, reads):
    with bqstore.open(tmp_path) as col:
        col.add(np.eye(4, 8), list("abcd"), list("ABCD"))
        found = col.search(np.eye(8)[0], 2)
        recent = col._engine.publisher.state.recent
        recent._older, recent._newer = recent._newer, {}
        assert col.search(np.eye(8)[0], 2) == found and reads == [[0, 1]]


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


def test_metadata_that_is_shown_again_is_the_callers_own():
    when = datetime(2026, 1, 2, tzinfo=timezone.utc)
    given = {"text": "t", "n": 1, "part": 0.5, "is": True, "nothing": None, "when": when}
    with bqstore.open() as col:
        col.add(np.eye(2), ["plain", "nested"], metadatas=[given, {"list": [{"deep": [1]}], "dict": {"a": {}}}])
        for _ in range(3):
            plain, nested = col.search([1.0, 0.5])
            assert plain.metadata == given and list(plain.metadata) == list(given)
            assert nested.metadata == {"list": [{"deep": [1]}], "dict": {"a": {}}}
            plain.metadata["n"] = plain.metadata.pop("text")
            nested.metadata["list"][0]["deep"].append(2)
            nested.metadata["dict"]["a"]["b"] = 3


def test_a_hit_that_is_made_in_few_steps_is_a_hit():
    with bqstore.open() as col:
        col.add([[1.0, 0.0]], ["a"], ["one"], [{"n": 1}])
        (hit,) = col.search([1.0, 0.0])
    made = bqstore.Hit("a", 1.0, "one", {"n": 1})
    assert (
        type(hit) is bqstore.Hit and hit == made and repr(hit) == repr(made) and pickle.loads(pickle.dumps(hit)) == made
    )
    assert replace(hit, score=0.5) == bqstore.Hit("a", 0.5, "one", {"n": 1}) and copy.copy(hit) == made
    with pytest.raises(FrozenInstanceError):
        hit.score = 2.0


def test_what_recent_rows_take_is_told():
    with bqstore.open() as col:
        col.add(np.eye(4), list("abcd"), ["t" * 1000] * 4, [{"n": n} for n in range(4)])
        assert col.info().recent_bytes == 0
        col.search(np.eye(4)[0], 2)
        assert 2000 < col.info().recent_bytes < 4000
        col.search(np.eye(4)[0], 4)
        assert 4000 < col.info().recent_bytes < 8000
