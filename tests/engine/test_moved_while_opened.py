"""The folder is moved while SQLite opens its files by their path: the log of one store beside the rows of another."""

import os
import shutil
import sqlite3
from contextlib import closing

import numpy as np
import pytest

import bqstore
from bqstore.storage import sqlite_connection
from bqstore.storage.open_store import _EMPTY

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows keeps a folder whose files are open where it is")
X = np.eye(8, dtype=np.float32)


def documents(path) -> list[tuple[str, str | None]]:
    with bqstore.open(path, read_only=True) as col:
        assert col.verify().ok
        return [(record.id, record.text) for record in col.scroll()]


@pytest.mark.parametrize("nth", [1, 2], ids=["to read", "to write"])
@pytest.mark.parametrize("is_new", [False, True], ids=["a store", "a new store"])
def test_the_log_of_the_store_that_came_in_its_place_was_copied_into_this_one(tmp_path, monkeypatch, is_new, nth):
    """And SQLite took the commits in it for copied, so that they were lost where they belong."""
    path, other, real = tmp_path / "store", tmp_path / "other", sqlite_connection.sqlite3.connect
    if not is_new:
        with bqstore.open(path) as col:
            col.add(X[:3], ["a", "b", "c"], ["ours"] * 3)
    with bqstore.open(tmp_path / "source") as col:  # as after a kill: its commits are in the log
        col.add(X, list("stuvwxyz"), ["theirs"] * 8)
        col.update(["s"], texts=["theirs, later"])
        shutil.copytree(tmp_path / "source", other)
        theirs = [(record.id, record.text) for record in col.scroll()]
    assert (other / "default" / "meta.db-wal").stat().st_size

    calls = []

    def connect(*given, **named):
        out = real(*given, **named)
        calls.append(out)
        if len(calls) == nth:  # its file is open, and its log is not
            path.rename(tmp_path / "moved")
            other.rename(path)
        return out

    monkeypatch.setattr(sqlite_connection.sqlite3, "connect", connect)
    with pytest.raises(bqstore.FolderReplacedError):
        bqstore.open(path)
    monkeypatch.undo()
    assert documents(path) == theirs
    if not is_new:
        assert documents(tmp_path / "moved") == [("a", "ours"), ("b", "ours"), ("c", "ours")]
    with bqstore.open(tmp_path / "moved") as col:
        assert len(col) == (0 if is_new else 3) and "s" not in col


def test_a_new_store_begins_with_a_page_as_sqlite_would_make_it(tmp_path):
    (tmp_path / "first.db").write_bytes(_EMPTY)
    with closing(sqlite3.connect(tmp_path / "first.db")) as db:
        asked = [db.execute(f"PRAGMA {each}").fetchone()[0] for each in ("journal_mode", "auto_vacuum", "page_count")]
        assert asked == ["wal", 2, 1] and db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_what_a_kill_has_left_of_that_page_is_overwritten(tmp_path):
    (tmp_path / "default").mkdir()
    (tmp_path / "default" / "meta.tmp").write_bytes(b"half of something" * 1000)
    with bqstore.open(tmp_path) as col:
        col.add(X[:2], ["a", "b"])
    assert documents(tmp_path) == [("a", None), ("b", None)]
    assert not (tmp_path / "default" / "meta.tmp").exists()
