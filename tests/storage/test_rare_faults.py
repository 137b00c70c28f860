"""Faults that come seldom: a file is cut while it is read, a folder moved under a lock, a system lies."""

import errno
import os
import resource
import shutil
import sqlite3
import threading
import zlib
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import bqstore
from bqstore import InvalidInputError, LockedError, StorageError
from bqstore.storage import folders, platform, reserve, verify
from bqstore.storage import graph_snapshot as snapshots
from bqstore.storage.key_values import EntryFile
from bqstore.storage.lock import WriterLock
from bqstore.storage.place import Place
from bqstore.storage.snapshot_format import UnusableError


def made(path: Path, n: int = 6) -> Path:
    """A collection of d0, d1, ...; its folder."""
    with bqstore.open(path) as col:
        col.add(np.eye(n), [f"d{i}" for i in range(n)], [f"text {i}" for i in range(n)])
    return path / "default"


def changed(folder: Path, *statements: str) -> None:
    with closing(sqlite3.connect(folder / "meta.db")) as raw, raw:
        raw.create_function("crc", 1, lambda text: zlib.crc32(text.encode()))
        for statement in statements:
            raw.execute(statement)


def fails(number: int):
    def fail(*arguments, **keywords):
        raise OSError(number, os.strerror(number))

    return fail


# ---- folders


def test_a_name_that_is_no_text_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="which is not text"):
        bqstore.open(tmp_path, "a\ud800")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_qdrant_is_refused(tmp_path):
    (tmp_path / "meta.json").write_text("{}")
    (tmp_path / "collection").mkdir()
    with pytest.raises(InvalidInputError, match="a folder of Qdrant's"):
        bqstore.open(tmp_path)
    assert not (tmp_path / "default").exists()
    folders.check_store_folder(tmp_path, made(tmp_path / "other"))  # another process has made the collection meanwhile


def test_a_collection_that_is_moved_while_its_lock_is_waited_for_is_not_dropped(tmp_path, monkeypatch):
    folder, wait = made(tmp_path), WriterLock.wait

    def moved(self, file, timeout, whole=False):
        wait(self, file, timeout, whole)
        folder.rename(tmp_path / "moved")

    monkeypatch.setattr(WriterLock, "wait", moved)
    with pytest.raises(LockedError, match="was dropped, renamed or replaced by somebody else"):
        bqstore.drop(tmp_path, "default")
    monkeypatch.undo()
    with bqstore.open(tmp_path, "moved") as col:
        assert len(col) == 6


def test_a_copy_that_somebody_else_is_making_is_left_to_him(tmp_path, monkeypatch):
    made(tmp_path)

    def copying(store, target, incremental, report):
        raise LockedError("another copy is being made")

    monkeypatch.setattr(folders, "back_up", copying)
    growing = folders.unfinished(tmp_path / "second")
    growing.mkdir()
    with pytest.raises(LockedError):
        bqstore.copy(tmp_path, "default", "second")
    assert growing.exists()


def test_a_file_that_cannot_be_looked_at_is_an_error_by_name(tmp_path, monkeypatch):
    made(tmp_path)
    monkeypatch.setattr(Place, "identity", fails(errno.EACCES))
    with pytest.raises(StorageError, match=r"cannot look at .*: Permission denied"):
        bqstore.open(tmp_path)
    monkeypatch.undo()
    bqstore.open(tmp_path).close()


# ---- snapshots


def test_a_snapshot_that_is_cut_while_it_is_read_is_not_used(tmp_path):
    with bqstore.open(tmp_path) as col:
        col.add(np.eye(4), list("abcd"))
        store = col._engine.store
        store.write_snapshot(4, store.head.seq, {}, {"some": np.arange(1000, dtype=np.int64)})
        path = tmp_path / f"default/snap-{store.head.generation}-{store.head.seq}.bin"
        size = path.stat().st_size
        with path.open("rb") as file:
            (section,) = snapshots._read_header(file.fileno(), size).sections
            os.truncate(path, section.offset + 100)
            with pytest.raises(UnusableError, match="while being read"):
                list(snapshots._words(file.fileno(), section))
            os.truncate(path, 100)
            with pytest.raises(UnusableError, match="ended at byte 100 while being read"):
                snapshots._read_header(file.fileno(), size)
        path.unlink()


def test_a_snapshot_that_is_replaced_while_it_is_verified_is_no_problem(tmp_path, monkeypatch):
    made(tmp_path)
    monkeypatch.setattr(verify, "found", lambda entries, generation: [(0, f"snap-{generation}-0.bin")])
    with bqstore.open(tmp_path) as col:
        assert col.verify().ok


# ---- rows


def test_verify_finds_a_false_checksum_of_keys(tmp_path):
    changed(made(tmp_path), "UPDATE rows SET key_crc = key_crc + 1 WHERE id = 'd2'")
    with bqstore.open(tmp_path) as col:
        assert [line for line in col.verify().problems if "row 2 of meta.db is damaged" in line]


def test_repair_says_what_the_head_counts_and_is_not_there(tmp_path):
    folder = made(tmp_path / "store")
    with bqstore.open(tmp_path / "store") as col:
        col.delete(["d0", "d1"])
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "store", copy)
    changed(folder, "DELETE FROM rows WHERE id = 'd3'")
    report = bqstore.repair(tmp_path / "store", tmp_path / "new")
    assert report.documents == 3 and len(report.lost) == 1
    more = "json_set(body, '$.n_live', 6)"  # as the head row is written, without spaces
    changed(copy / "default", f"UPDATE head SET body = {more}, crc = crc({more})")
    report = bqstore.repair(copy, tmp_path / "newer")
    assert report.documents == 4 and "its head row counts 6 documents, there are traces of 4" in report.problems[-1]


# ---- space


@pytest.mark.parametrize("free", ["none", "unknown"])
def test_compacting_takes_the_reserve_or_does_not_ask_how_much_is_free(tmp_path, monkeypatch, free):
    made(tmp_path)
    given_up, real = [], reserve.give_up
    monkeypatch.setattr(reserve, "give_up", lambda entries: (given_up.append(1), real(entries))[1])
    with bqstore.open(tmp_path) as col:
        col.delete(["d0"])
        monkeypatch.setattr(platform, "free_bytes", (lambda folder: 0) if free == "none" else fails(errno.ENOSYS))
        col.compact()
        assert bool(given_up) == (free == "none")
        assert len(col) == 5 and col.info().deleted == 0 and col.verify().ok


# ---- copies


def test_entries_that_change_all_the_time_are_not_copied(tmp_path, monkeypatch):
    made(tmp_path / "store")
    with bqstore.open_key_values(tmp_path / "store") as kv:
        kv.put({"a": b"1"})
    numbers = iter(range(1000, 9000))
    monkeypatch.setattr(EntryFile, "seq", lambda self: next(numbers))
    with bqstore.open(tmp_path / "store") as col:
        with pytest.raises(LockedError, match="change all the time; try again"):
            col.backup(tmp_path / "copy")
        assert not (tmp_path / "copy" / "default").exists()
        monkeypatch.undo()
        col.backup(tmp_path / "copy")


def test_a_disk_that_takes_no_more_of_the_catalogue_ends_a_copy_by_name(tmp_path):
    made(tmp_path / "store")
    with bqstore.open(tmp_path / "store") as col:
        col.add(np.eye(6), texts=["x" * 100_000] * 6)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
        try:
            with pytest.raises(StorageError, match=r"meta\.db, or its copy,"):
                col.backup(tmp_path / "copy")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert not (tmp_path / "copy" / "default").exists() and col.verify().ok
        col.backup(tmp_path / "copy")
    with bqstore.open(tmp_path / "copy") as col:
        assert len(col) == 12 and col.verify().ok


# ---- readers


def test_a_connection_that_an_interrupt_left_pinned_and_closed_is_not_read_from(tmp_path):
    made(tmp_path)
    with bqstore.open(tmp_path) as col:
        store, thread = col._engine.store, threading.get_ident()
        closed = sqlite3.connect(":memory:")
        closed.close()
        store._pinned[thread] = (closed,)
        assert col.get(["d1"])[0].text == "text 1"
        with store._pin(store.catalogue.main()):
            store._pinned[thread] = newer = (closed,)  # of a newer one, which the late end of this one must leave
        assert store._pinned.pop(thread) is newer
        assert col.get(["d2"])[0].text == "text 2"
