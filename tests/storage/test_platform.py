"""What other systems do instead of what this one does."""

import contextlib
import errno
import importlib.util
import mmap
import os
import socket
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import bqstore
from bqstore import forks
from bqstore.errors import LockedError, StorageError
from bqstore.storage import format as record_format
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


def on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """For this module alone: pathlib, too, asks for the name of the system."""
    monkeypatch.setattr(platform, "os", types.SimpleNamespace(**{**vars(os), "name": "nt"}))


def test_windows_syncs_no_folder_and_knows_no_modes(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    with (tmp_path / "file").open("rb") as file:
        before = os.fstat(file.fileno()).st_mode
        on_windows(monkeypatch)
        platform.sync_folder(tmp_path / "nowhere")
        platform.share_as(file.fileno(), os.stat_result([0o100666, *[0] * 9]))
        platform.share_with_group(file.fileno(), os.stat_result([0o040777, *[0] * 9]))
        assert platform.may_be_new(file.fileno()) and os.fstat(file.fileno()).st_mode == before


def test_a_module_of_unix_that_is_not_there_is_done_without(tmp_path, monkeypatch):
    for name in ("fcntl", "resource"):
        monkeypatch.setitem(sys.modules, name, None)
    spec = importlib.util.spec_from_file_location("platform_elsewhere", platform.__file__)
    elsewhere = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(elsewhere)
    assert elsewhere.fcntl is None and elsewhere.major_faults() == 0
    with (tmp_path / "file").open("wb") as file:
        elsewhere.share_bytes(file.fileno(), 0, 1)
        elsewhere.unlock(file.fileno())
        elsewhere.sync_file(file.fileno())


def test_only_root_gives_files_to_others(tmp_path, monkeypatch):
    given: list = []
    recorded(monkeypatch, given, os, "fchown")
    for user in (1000, 0):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        with (tmp_path / str(user)).open("wb") as file:
            platform.share_as(file.fileno(), os.stat_result([0o100640, 0, 0, 0, 7, 8, *[0] * 4]))
            assert os.fstat(file.fileno()).st_mode & 0o777 == 0o640
    assert [(name, user, group) for name, _, user, group in given] == [("fchown", 7, 8)]


def test_a_folder_that_another_process_makes_at_the_same_time(tmp_path, monkeypatch):
    real = Path.mkdir

    def mkdir(path, *arguments, **keywords):
        real(path, *arguments, **keywords)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(Path, "mkdir", mkdir)
    platform.make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_without_proc_there_is_a_name_of_the_host_and_no_more(tmp_path, monkeypatch):
    def missing(path, *arguments):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))

    monkeypatch.setattr(Path, "read_text", missing)
    assert platform.kernel_id() == socket.gethostname()
    assert platform.file_system(tmp_path) == "" and platform.started(os.getpid()) is None


def test_where_names_are_not_looked_up_in_a_descriptor_a_store_is_kept_by_its_path(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "supports_dir_fd", frozenset())
    with bqstore.open(tmp_path / "a") as col, bqstore.open_key_values(tmp_path / "a") as kv:
        col.add([[1.0, 2.0], [2.0, 1.0]], ["a", "b"])
        kv.put({"x": b"1"})
        col.delete(["b"])
        col.compact()
        assert col._engine.store.flat.entries.held() is None and not col._engine.store.rest() and col.verify().ok
        col.backup(tmp_path / "b")
    with bqstore.open(tmp_path / "b") as col:
        assert [record.id for record in col.scroll()] == ["a"]


def test_forks_are_not_waited_for_where_there_are_none(monkeypatch):
    monkeypatch.delattr(os, "register_at_fork", raising=False)
    forks.in_forks(lambda: pytest.fail("there are no forks"))


def test_a_machine_that_stores_numbers_the_other_way_round_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "byteorder", "big")
    with pytest.raises(ImportError, match="needs a little-endian machine"):
        importlib.reload(record_format)


@pytest.mark.skipif(os.name == "nt", reason="maps of the C library")
@pytest.mark.parametrize("access", [mmap.ACCESS_READ, mmap.ACCESS_COPY])
def test_maps_keep_no_descriptor_and_end_with_the_last_that_refers_to_them(tmp_path, access):
    file = tmp_path / "file"
    file.write_bytes(b"abcd" * 4096)
    fd = os.open(file, os.O_RDWR)
    try:
        with pytest.raises(ValueError, match="length"):
            platform.map_file(fd, 4 * 4096 + 1)
        data = platform.map_file(fd, 4 * 4096, access)
    finally:
        os.close(fd)
    if sys.platform == "linux":
        assert file not in {Path("/proc/self/fd", each.name).resolve() for each in Path("/proc/self/fd").iterdir()}
        assert str(file) in Path("/proc/self/maps").read_text()
    words = np.frombuffer(data, np.uint32, 2, 4096)
    copied = access == mmap.ACCESS_COPY
    assert bytes(data[:8]) == b"abcdabcd" and (data.readonly, words.flags.writeable) == (not copied, copied)
    if copied:
        words[:] = 0
    del data
    assert words.tobytes() == (bytes(8) if copied else b"abcdabcd")
    assert file.read_bytes() == b"abcd" * 4096
    del words
    if sys.platform == "linux":
        assert str(file) not in Path("/proc/self/maps").read_text()


@pytest.mark.skipif(os.name == "nt", reason="maps of the C library")
def test_a_map_that_the_system_refuses_is_an_error_with_its_number(tmp_path):
    (tmp_path / "file").write_bytes(bytes(4096))
    fd = os.open(tmp_path / "file", os.O_WRONLY)  # what is mapped must be readable
    try:
        with pytest.raises(OSError) as caught:
            platform.map_file(fd, 4096)
    finally:
        os.close(fd)
    assert caught.value.errno == errno.EACCES


def test_without_the_c_library_and_without_limits_those_of_python_do(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"abcd" * 1024)
    monkeypatch.setattr(platform, "_libc", None)
    with (tmp_path / "file").open("rb") as file:
        data = platform.map_file(file.fileno(), 4096, mmap.ACCESS_COPY)
    data[:4] = b"xxxx"
    platform.forget(data, 0, 4096)
    assert bytes(data[:4]) == (b"abcd" if hasattr(mmap, "MADV_DONTNEED") else b"xxxx")
    monkeypatch.setattr(platform, "resource", None)
    assert platform.most_descriptors() == 512


@pytest.mark.skipif(platform.resource is None, reason="no such limits")
def test_no_limit_of_descriptors_is_no_bound(monkeypatch):
    monkeypatch.setattr(platform.resource, "getrlimit", lambda which: (platform.resource.RLIM_INFINITY,) * 2)
    assert platform.most_descriptors() == sys.maxsize
