"""Closing, copying and forking an open collection."""

import copy
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import bqstore
from bqstore import InvalidInputError, LockedError
from bqstore.engine import fetch
from bqstore.engine.state import ChangedError
from tests.conftest import HANGS


def test_a_copy_of_a_collection_closed_its_files_under_it(tmp_path):
    with bqstore.open(tmp_path) as col:
        col.add([[1.0, 2.0], [3.0, 4.0]], ["a", "b"])
        assert copy.copy(col) is col and copy.deepcopy({"x": col})["x"] is col
        col.add([[5.0, 6.0]], ["c"])
        with pickle.loads(pickle.dumps(col)) as again:
            assert again is not col and [r.id for r in again.scroll()] == ["a", "b", "c"]
    with bqstore.open(tmp_path) as col:
        assert [r.id for r in col.scroll()] == ["a", "b", "c"]


def test_a_store_that_is_closed_takes_no_write_and_makes_no_files(tmp_path):
    col = bqstore.open(tmp_path)
    col.add([[1.0, 2.0]], ["a"])
    col._engine.store.close()
    with pytest.raises(bqstore.ClosedError):
        col.add([[5.0, 6.0]], ["c"])
    col.close()
    with bqstore.open(tmp_path) as again:
        assert len(again) == 1 and again.verify().ok


def test_a_closed_collection_is_not_entered(tmp_path):
    col = bqstore.open(tmp_path)
    col.close()
    with pytest.raises(bqstore.ClosedError), col:
        pass


def test_a_collection_is_made_by_open():
    for given, keywords in (((), {}), (("store",), {}), (("store", "default"), {}), ((), {"dim": 3})):
        with pytest.raises(InvalidInputError, match=r"use bqstore\.open"):
            bqstore.Collection(*given, **keywords)


def test_a_filter_function_may_read_the_collection_but_not_write_to_it_while_writers_are_held_off(monkeypatch):
    """A delete calls it from inside a write: nothing is let through. The last try of a search holds writers off."""
    with bqstore.open() as col:
        col.add(np.eye(3), ["a", "b", "c"], metadatas=[{"n": i} for i in range(3)])
        for call in (lambda: len(col), lambda: col.add([[1.0, 1, 1]]), col.close):
            with pytest.raises(LockedError, match="inside a write"):
                col.delete(filter=lambda record, call=call: call() is None)
        assert len(col) == 3
        real = fetch.rows
        tries = []

        def changed_three_times(*arguments):
            tries.append(1)
            if len(tries) <= 3:
                raise ChangedError
            return real(*arguments)

        monkeypatch.setattr(fetch, "rows", changed_three_times)
        assert [h.id for h in col.search([1.0, 0, 0], filter=lambda record: col.count({"n": 0}) == 1)] == [
            "a",
            "b",
            "c",
        ]
        for call in (lambda: col.add([[1.0, 1, 1]]), col.close, col.flush):
            tries.clear()
            with pytest.raises(LockedError, match="a read that holds writers off"):
                col.search([1.0, 0, 0], filter=lambda record, call=call: call() is None)
        assert len(col) == 3 and col.verify().ok


def test_a_read_that_held_the_connection_crashed_when_it_was_closed(tmp_path, monkeypatch):
    """The fourth try of a search, begun before the end and late: it reads through the connection of the writer."""
    with bqstore.open(tmp_path) as col, ThreadPoolExecutor(1) as pool:
        col.add([[1.0, 2.0]], ["a"])
        store, begun, reads = col._engine.store, threading.Event(), []
        wait_for_lock = store.wait_for_lock

        def slow(state):
            begun.set()
            time.sleep(0.5)
            return [row.id for row in store.rows("rid", [0])]

        def read_first(*arguments):
            reads.append(pool.submit(col._engine.publisher.at_one_commit, slow))
            assert begun.wait(HANGS)
            wait_for_lock(*arguments)

        monkeypatch.setattr(store, "wait_for_lock", read_first)
        col.close()
        assert [read.result() for read in reads] == [["a"]]
