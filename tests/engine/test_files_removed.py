"""A file of the folder is removed, replaced or cut under an open handle: nothing that was acknowledged is lost by it.

The handle reads on by its descriptor, and did not see it: what it added went into a file that nobody finds again, and
`verify` said that all was well.
"""

import os
import shutil
import sqlite3
import threading
from pathlib import Path

import numpy as np
import pytest

import bqstore
from bqstore import BqstoreError, CorruptionError, FolderReplacedError
from bqstore.storage import catalogue
from bqstore.storage import verify as verifying

X = np.random.default_rng(18).standard_normal((60, 16)).astype(np.float32)
IDS = [f"d{i}" for i in range(60)]


def copied(file):
    shutil.copy2(file, f"{file}.copy")
    Path(f"{file}.copy").replace(file)


def filled(path, **settings):
    with bqstore.open(path, **settings) as col:
        col.add(X, IDS)
    return path / "default"


@pytest.mark.parametrize("change", [os.unlink, copied], ids=["removed", "replaced"])
@pytest.mark.parametrize("name", ["vectors-0.bin", "codes-0.bin"])
def test_what_was_added_behind_a_file_that_is_gone_was_acknowledged_and_lost(tmp_path, name, change):
    folder = filled(tmp_path)
    with bqstore.open(tmp_path) as col, bqstore.open(tmp_path, read_only=True) as reader:
        change(folder / name)
        word = "removed" if change is os.unlink else "replaced"
        for each in (col, reader):
            assert [hit.id for hit in each.search(X[7], 1)] == ["d7"]
            assert any(f"{name} was {word} while open" in problem for problem in each.verify().problems)
        with pytest.raises(BqstoreError, match=name):
            col.add(X[:1] + 9, ["new"])
        assert "new" not in col and len(col) == 60
        if change is os.unlink:
            col.requantize()  # as the error says
            assert col.add(X[:1] + 9, ["new"]) == ["new"] and col.verify().ok
    with bqstore.open(tmp_path) as col:
        assert len(col) == (61 if change is os.unlink else 60) and col.verify().ok


@pytest.mark.parametrize("settings", [{}, {"originals": "none"}])
def test_an_add_made_up_for_what_had_been_cut_off_by_zeros(tmp_path, settings):
    folder = filled(tmp_path, **settings)
    file = folder / ("codes-0.bin" if settings else "vectors-0.bin")
    with bqstore.open(tmp_path) as col:
        os.truncate(file, file.stat().st_size // 2)
        with pytest.raises(CorruptionError, match="cut short"):
            col.add(X[:1], ["new"])
        assert any("cut short" in problem for problem in col.verify().problems)
    with pytest.raises(CorruptionError, match="cut short"):
        bqstore.open(tmp_path)


def test_files_that_a_compaction_has_removed_during_a_verify_are_not_missed(tmp_path, monkeypatch):
    filled(tmp_path)
    real = verifying._records

    def records(*given):
        if len(col) == 60:
            col.delete(["d0"])
            compacting = threading.Thread(target=col.compact)
            compacting.start()
            compacting.join()
        return real(*given)

    monkeypatch.setattr(verifying, "_records", records)
    with bqstore.open(tmp_path) as col:
        assert col.verify() == bqstore.VerifyReport(True, [], 60, 60)
        assert len(col) == 59 and col.verify().ok


@pytest.mark.parametrize("change", [os.unlink, copied], ids=["removed", "replaced"])
@pytest.mark.parametrize("call", ["add", "delete", "keys"])
def test_a_commit_in_a_log_that_had_lost_its_name_was_acknowledged(tmp_path, change, call):
    """After a kill nobody would have found it."""
    folder = filled(tmp_path)
    with bqstore.open(tmp_path) as col, bqstore.open_key_values(tmp_path) as keys:
        col.add(X[:1] + 5, ["before"])
        keys.put([("k", b"1")])
        change(folder / ("kv.db-wal" if call == "keys" else "meta.db-wal"))
        if call != "keys":
            assert any("meta.db-wal was removed or replaced" in problem for problem in col.verify().problems)
        with pytest.raises(FolderReplacedError, match="wal was removed or replaced"):
            if call == "add":
                col.add(X[:1] + 9, ["new"])
            elif call == "delete":
                col.delete(["d1"])
            else:
                keys.put([("l", b"2")])
    with bqstore.open(tmp_path) as col, bqstore.open_key_values(tmp_path) as keys:
        assert col.verify().ok and "before" in col and keys.get(["k"]) == [b"1"]


@pytest.mark.parametrize("can_be_seen", [True, False])
def test_a_log_that_could_not_be_looked_at_was_taken_for_the_one_before(tmp_path, monkeypatch, can_be_seen):
    """While the collection rested, the last connection of another process removed that one, as SQLite does."""
    real, left = catalogue._identity, [] if can_be_seen else [OSError(5, "a disk that fails for once")]

    def identity(path):
        if left:
            raise left.pop()
        return real(path)

    with bqstore.open(tmp_path) as col:
        col.add(X, IDS)
        assert col._engine.store.rest()
        with sqlite3.connect(tmp_path / "default/meta.db") as last:
            last.execute("SELECT count(*) FROM rows").fetchone()
        last.close()
        assert not (tmp_path / "default/meta.db-wal").exists()
        (tmp_path / "other").touch()  # has its inode
        monkeypatch.setattr(catalogue, "_identity", identity)
        col.add(X[:1] + 5, ["new"])
        assert not left and col.verify().ok
