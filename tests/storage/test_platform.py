"""What other systems do instead of what this one does."""

import contextlib
import errno
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

import bqstore
from bqstore.errors import LockedError, StorageError
from bqstore.storage import platform

ROOT = Path(bqstore.__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def test_a_system_that_cannot_lock_says_so(tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(platform.fcntl, "flock", fail)
    with pytest.raises(StorageError, match="No locks available; use a local disk"):
        bqstore.open(tmp_path)


class Windows(types.ModuleType):
    """As much of msvcrt as is used, over flock."""

    LK_NBLCK = 2

    def locking(self, fd, mode, size):
        import fcntl

        assert (mode, size) == (self.LK_NBLCK, 1)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_without_fcntl_the_lock_is_that_of_windows(tmp_path, monkeypatch):
    monkeypatch.setattr(platform, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", Windows("msvcrt"))
    with bqstore.open(tmp_path, exclusive=True) as col:
        col.add([[1.0, 2.0]], ["a"])
        with pytest.raises(LockedError):
            bqstore.open(tmp_path)
    with bqstore.open(tmp_path) as col:
        assert "a" in col


def recorded(monkeypatch, calls: list, module: object, name: str) -> None:
    monkeypatch.setattr(module, name, lambda *arguments: calls.append((name, *arguments)), raising=False)


def test_syncing_goes_through_the_drives_cache_where_the_system_offers_it(monkeypatch):
    calls: list = []
    for name in ("fsync", "fdatasync"):
        recorded(monkeypatch, calls, os, name)
    platform.sync_file(3)
    assert calls.pop() == ("fdatasync", 3)
    mac = types.SimpleNamespace(F_FULLFSYNC=51, fcntl=lambda *arguments: calls.append(arguments))
    with monkeypatch.context() as patch:
        patch.setattr(platform, "fcntl", mac)
        platform.sync_file(3)
    assert calls.pop() == (3, 51)
    monkeypatch.delattr(os, "fdatasync")
    platform.sync_file(3)
    assert calls == [("fsync", 3)]


def test_the_fallbacks_keep_a_store(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "fdatasync")
    monkeypatch.setattr(platform, "sync_folder", lambda folder: None)
    with bqstore.open(tmp_path) as col:
        col.add([[1.0, 2.0], [2.0, 1.0]], ["a", "b"])
    with bqstore.open(tmp_path) as col:
        assert len(col) == 2 and col.verify().ok


def test_folders_are_private_and_their_entries_synced(tmp_path, monkeypatch):
    synced: list = []
    real = platform.sync_folder
    monkeypatch.setattr(platform, "sync_folder", lambda folder: (synced.append(folder), real(folder)))
    platform.make_folder(tmp_path / "a/b/c")
    assert synced == [tmp_path, tmp_path / "a", tmp_path / "a/b"]
    assert all((tmp_path / name).stat().st_mode & 0o777 == 0o700 for name in ("a", "a/b", "a/b/c"))
    platform.make_folder(tmp_path / "a/b/c")
    assert len(synced) == 3


def test_files_are_private(tmp_path):
    with contextlib.closing(bqstore.open(tmp_path / "store")) as col:
        col.add([[1.0, 2.0]])
    for file in (tmp_path / "store").rglob("*"):
        assert file.stat().st_mode & 0o077 == 0, file


def test_importing_the_storage_does_not_load_numba():
    code = "import sys, bqstore.storage; sys.exit('numba' in sys.modules or 'llvmlite' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=True)
