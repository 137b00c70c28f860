"""Errors of the system that came out as a bare OSError; `tests/torture/test_fault_sweep.py` has all of them."""

import errno
import io
import os
import sqlite3
from pathlib import Path

import numpy as np
import pytest

import bqstore
from bqstore.errors import ClosedError, StorageError
from bqstore.storage.catalogue import Catalogue
from bqstore.storage.files import DiskFile
from bqstore.storage.place import Place


def fails(number: int):
    def fail(*arguments: object, **keywords: object) -> None:
        raise OSError(number, os.strerror(number), "x")

    return fail


@pytest.fixture
def col(tmp_path):
    with bqstore.open(tmp_path, threads=1) as col:
        col.add(np.eye(4), ["a", "b", "c", "d"])
        yield col


def test_the_size_of_a_file_that_cannot_be_told(col, monkeypatch):
    """lseek; after the commit of an add it was reported as if nothing had been added."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "lseek", fails(errno.EIO))
        for call in (lambda: col.search([1.0, 0, 0, 0]), lambda: col.get(["a"], with_vectors=True)):
            with pytest.raises(StorageError, match=r"cannot look at .*bin: Input/output error"):
                call()
        assert col.add([[0.0, 0.0, 1.0, 1.0]], ["new"]) == ["new"]
        with pytest.raises(StorageError, match="cannot look at"):
            col.search([1.0, 0, 0, 0])
    assert len(col) == 5 and [hit.id for hit in col.search([0.0, 0.0, 1.0, 1.0], 1)] == ["new"]
    assert col.verify().ok


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE])
def test_a_folder_that_cannot_be_listed(col, tmp_path, monkeypatch, number):
    """getdents64: what is to be removed stays until the next opening."""
    col.delete(["a"])
    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", fails(number))
        col.compact()
        assert col.info().generation == 1 and (tmp_path / "default/vectors-0.bin").exists()
    col.close()
    with bqstore.open(tmp_path) as again:
        assert len(again) == 3 and not (tmp_path / "default/vectors-0.bin").exists()


def test_a_folder_that_cannot_be_looked_at(col, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(col._engine.store._place, "_paths", [Broken()])
        for call in (lambda: col.add(np.eye(4)), lambda: col.delete(["a"]), col.compact):
            with pytest.raises(StorageError, match="cannot look at"):
                call()
    assert len(col) == 4 and col.delete(["a"]) == 1


class Broken:
    """A path on a disk that fails."""

    def stat(self):
        raise OSError(errno.EIO, os.strerror(errno.EIO), "folder")


def test_closing_is_done_whatever_fails(tmp_path, monkeypatch):
    col = bqstore.open(tmp_path)
    col.add(np.eye(4), ["a", "b", "c", "d"])
    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", fails(errno.EIO))
        patch.setattr(Catalogue, "checkpoint", fails(errno.EIO))
        with pytest.raises(OSError, match="Input/output") as caught:
            col.close()
        assert isinstance(caught.value, StorageError) and "nothing is lost" in str(caught.value)
    with pytest.raises(ClosedError):
        col.count()
    col.close()
    with bqstore.open(tmp_path, exclusive=True) as again:  # nothing keeps the lock
        assert len(again) == 4


@pytest.mark.parametrize("name", ["SQLITE_FULL", "SQLITE_IOERR_WRITE"])
def test_a_commit_that_was_not_written_poisoned_the_writer(col, name):
    """A full disk, or a quota, which SQLite calls an error of writing; a sync that fails still poisons."""
    main = col._engine.store.catalogue._main

    class Failing:
        def execute(self, statement, *rest):
            if statement == "COMMIT":
                error = sqlite3.OperationalError(
                    "database or disk is full" if name == "SQLITE_FULL" else "disk I/O error"
                )
                error.sqlite_errorname = name
                raise error
            return main.execute(statement, *rest)

        def __getattr__(self, attribute):
            return getattr(main, attribute)

    col._engine.store.catalogue._main = Failing()
    with pytest.raises(StorageError, match=r"full|disk I/O error"):
        col.delete(["a"])
    col._engine.store.catalogue._main = main
    assert len(col) == 4 and col.delete(["a"]) == 1 and col.verify().ok


def failing_commits(col, name: str):
    """From now on a commit of this collection fails as SQLite says that the system has failed."""

    class Failing:
        def __init__(self, real):
            self.real = real

        def execute(self, statement, *rest):
            if statement == "COMMIT":
                error = sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorname = name
                raise error
            return self.real.execute(statement, *rest)

        def __getattr__(self, attribute):
            return getattr(self.real, attribute)

    catalogue = col._engine.store.catalogue
    catalogue._main = Failing(catalogue._main)
    return catalogue


@pytest.mark.parametrize("name", ["SQLITE_IOERR_WRITE", "SQLITE_IOERR_FSYNC", "SQLITE_IOERR_SHMSIZE"])
def test_a_quota_was_called_an_io_error(col, monkeypatch, name):
    catalogue = failing_commits(col, name)
    with monkeypatch.context() as patch:
        patch.setattr("tempfile.TemporaryFile", fails(errno.EDQUOT))
        words = r"meta\.db: Disk quota exceeded: .* make room within it, or have it raised.*; nothing of this call"
        with pytest.raises(StorageError, match=f"{words}.*deleting 1 document takes up to") as caught:
            col.delete(["a"])
        assert caught.value.errno == errno.EDQUOT
    catalogue._main = catalogue._main.real
    assert col._engine.store.sound == (name == "SQLITE_IOERR_WRITE")  # else it may be in the log as a whole
    if col._engine.store.sound:
        assert col.delete(["a"]) == 1 and col.verify().ok


@pytest.mark.parametrize(
    ("name", "number"),
    [("SQLITE_IOERR_WRITE", 0), ("SQLITE_IOERR_WRITE", errno.EIO), ("SQLITE_IOERR_READ", errno.EDQUOT)],
)
def test_a_failing_disk_is_not_called_a_full_one(col, monkeypatch, name, number):
    failing_commits(col, name)
    with monkeypatch.context() as patch:
        if number:
            patch.setattr("tempfile.TemporaryFile", fails(number))
        with pytest.raises(StorageError, match="disk I/O error") as caught:
            col.add(np.eye(4)[:1])
        assert caught.value.errno is None


@pytest.mark.parametrize("times", [1, 99])
def test_compacting_within_a_quota_gives_up_the_reserve_and_says_what_it_takes(col, tmp_path, monkeypatch, times):
    """What the system tells to be free is the disk's, and the quota is not known before it is used up."""
    col.delete(["a"])
    refused, real = [], DiskFile._pwrite

    def within(self, data, offset):
        if len(refused) < times:
            refused.append(data)
            fails(errno.EDQUOT)()
        real(self, data, offset)

    monkeypatch.setattr(DiskFile, "_pwrite", within)
    if times == 1:
        col.compact()
        assert not (tmp_path / "default/RESERVE").exists() or (tmp_path / "default/RESERVE").stat().st_size
    else:
        with pytest.raises(StorageError, match=r"quota .*; the copy takes 3\d\d bytes beside what there is") as caught:
            col.compact()
        assert caught.value.errno == errno.EDQUOT
    monkeypatch.undo()
    assert len(col) == 3 and col.verify().ok and len(refused) == min(times, 2)


def fail_to_close(failing: str, monkeypatch):
    """From now on closing a lock file of this name fails, and leaves it open, as an injected fault does."""
    left = []

    class Failing(io.FileIO):
        def close(self):
            if not self.closed:
                left.append(os.dup(self.fileno()))  # with the lock
                super().close()
                raise OSError(errno.EIO, os.strerror(errno.EIO))

    real = Place.open_lock
    monkeypatch.setattr(
        Place,
        "open_lock",
        lambda self, name: (
            Failing(self.open(name, os.O_RDWR | os.O_CREAT), "r+") if name == failing else real(self, name)
        ),
    )
    return left


@pytest.mark.parametrize("exclusive", [False, True])
def test_closing_raised_a_bare_error_where_the_lock_file_could_not_be_closed(tmp_path, monkeypatch, exclusive):
    """The descriptor is gone either way; the lock is given back first, should it not be."""
    with monkeypatch.context() as patch:
        left = fail_to_close("LOCK", patch)
        col = bqstore.open(tmp_path, threads=1, exclusive=exclusive)
        col.add(np.eye(4), ["a", "b", "c", "d"])
        col.close()
        assert left
    with bqstore.open(tmp_path, exclusive=True, lock_timeout=0) as again:
        assert len(again) == 4
    for fd in left:
        os.close(fd)


def test_a_lock_file_that_cannot_be_closed_is_an_error_by_name(col, monkeypatch):
    """The one of those who keep snapshots; clear() raised a bare OSError behind its commit."""

    fail_to_close("SAVE", monkeypatch)
    col.clear()
    assert len(col) == 0 and col.add(np.eye(4)[:1], ["a"]) == ["a"] and col.verify().ok


def test_entries_that_cannot_be_looked_at_were_a_bare_error_of_verify_and_compact(col, monkeypatch):
    real = Path.stat

    def stat(path, **options):
        return fails(errno.EACCES)() if path.name == "kv.db" else real(path, **options)

    col.delete(["a"])
    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", stat)
        assert [problem for problem in col.verify().problems if "cannot look at" in problem]
        with pytest.warns(RuntimeWarning, match=r"cannot look at .*kv\.db: Permission denied"):
            col.compact()
    assert len(col) == 3 and col.verify().ok
