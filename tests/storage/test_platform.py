"""What other systems do instead of what this one does."""

import concurrent.futures
import contextlib
import ctypes
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


def windows(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """What `platform` finds on Windows, as far as that can be had here: what is missing, and what is in its place."""
    seen = types.SimpleNamespace(opened=[], error=0)

    def create(path, access, share, security, how, attributes, template):
        assert (share, security, attributes, template) == (7, None, 0x80, None)
        flags = {1: os.O_CREAT | os.O_EXCL, 2: os.O_CREAT | os.O_TRUNC, 3: 0, 4: os.O_CREAT, 5: os.O_TRUNC}[how]
        flags |= {0x80000000: os.O_RDONLY, 0xC0000000: os.O_RDWR}[access]
        try:
            fd = os.open(path, flags, 0o600)
        except OSError as error:
            seen.error = error.errno
            return platform._NO_HANDLE
        seen.opened.append(Path(path).name)
        return fd + 1000

    library = types.SimpleNamespace(CreateFileW=create)
    there = {
        "WinDLL": lambda name, use_last_error: library,
        "get_last_error": lambda: seen.error,
        "WinError": lambda code: OSError(code, os.strerror(code)),
    }
    monkeypatch.setattr(platform, "ctypes", types.SimpleNamespace(**{**vars(ctypes), **there}))
    c_library = Windows("msvcrt")
    c_library.open_osfhandle = lambda handle, flags: handle - 1000
    monkeypatch.setitem(sys.modules, "msvcrt", c_library)
    left_out = ("pread", "preadv", "pwrite", "fdatasync", "posix_fadvise", "register_at_fork")
    there = {name: value for name, value in vars(os).items() if name not in left_out}
    monkeypatch.setattr(platform, "os", types.SimpleNamespace(**{**there, "name": "nt"}))
    monkeypatch.setattr(os, "supports_dir_fd", frozenset())
    for name in ("fcntl", "resource", "_libc"):
        monkeypatch.setattr(platform, name, None)
    return seen


def test_a_store_is_kept_by_what_windows_has(tmp_path, monkeypatch):
    seen = windows(monkeypatch)
    with bqstore.open(tmp_path / "a") as col, bqstore.open_key_values(tmp_path / "a") as kv:
        col.add(np.eye(8), [str(i) for i in range(8)], texts=["text"] * 8)
        kv.put({"x": b"1"})
        col.delete(["1"])
        col.compact()
        assert [hit.id for hit in col.search(np.eye(8)[3], k=1)] == ["3"] and col.verify().ok
        col.backup(tmp_path / "b")
    for name in ("a", "b"):
        with bqstore.open(tmp_path / name) as col, bqstore.open_key_values(tmp_path / name) as kv:
            assert len(col) == 7 and col.verify().ok and kv.get(["x"]) == [b"1"]
            assert np.array_equal(col.get(["5"], with_vectors=True)[0].vector, np.eye(8)[5])
    assert {"codes-0.bin", "codes-1.bin", "vectors-1.bin", "LOCK"} <= set(seen.opened)


def test_opening_a_file_on_windows_says_what_is_wrong(tmp_path, monkeypatch):
    windows(monkeypatch)
    with pytest.raises(FileNotFoundError):
        platform.open_file(tmp_path / "nothing", os.O_RDONLY)
    os.close(platform.open_file(tmp_path / "file", os.O_RDWR | os.O_CREAT | os.O_EXCL))
    with pytest.raises(FileExistsError):
        platform.open_file(tmp_path / "file", os.O_RDWR | os.O_CREAT | os.O_EXCL)
    (tmp_path / "file").write_bytes(b"full")
    for flags, size in ((os.O_RDWR | os.O_CREAT, 4), (os.O_RDWR | os.O_TRUNC, 0)):
        os.close(platform.open_file(tmp_path / "file", flags))
        assert (tmp_path / "file").stat().st_size == size


def test_without_reads_and_writes_at_an_offset_threads_do_not_take_each_others_place(tmp_path, monkeypatch):
    for name in ("pread", "preadv", "pwrite"):
        monkeypatch.delattr(os, name, raising=False)
    with (tmp_path / "file").open("w+b") as file:
        fd = file.fileno()

        def fill(number: int) -> None:
            for at in range(number, 400, 4):
                assert platform.write_at(fd, bytes([at % 251]) * 8, at * 8) == 8
                assert platform.read_at(fd, 8, at * 8) == bytes([at % 251]) * 8

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(fill, range(4)))
        out = np.zeros(3300, np.uint8)
        assert platform.read_into(fd, out.data, 0) == 3200
        assert np.array_equal(out[:3200].reshape(-1, 8)[:, 0], np.arange(400) % 251)


def refusing(times: int, action):
    """A call that Windows refuses some times, as long as somebody else has the file open."""
    left = [times]

    def call(*arguments, **keywords):
        if left[0] > 0:
            left[0] -= 1
            raise PermissionError(errno.EACCES, "The process cannot access the file because it is being used")
        return action(*arguments, **keywords)

    return call


def test_a_file_that_is_open_elsewhere_for_a_moment_is_renamed_and_removed_after_it(tmp_path, monkeypatch):
    windows(monkeypatch)
    monkeypatch.setattr(platform, "_PAUSE", 0)
    (tmp_path / "new").write_bytes(b"new")
    (tmp_path / "old").write_bytes(b"old")
    monkeypatch.setattr(platform.os, "replace", refusing(3, os.replace))
    platform.replace(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old").read_bytes() == b"new" and not (tmp_path / "new").exists()
    monkeypatch.setattr(platform.os, "unlink", refusing(3, os.unlink))
    platform.remove(tmp_path / "old")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_stays_open_elsewhere_goes_out_of_the_way_of_the_new_one(tmp_path, monkeypatch):
    windows(monkeypatch)
    monkeypatch.setattr(platform, "_PAUSE", 0)
    (tmp_path / "new").write_bytes(b"new")
    (tmp_path / "old").write_bytes(b"old")
    monkeypatch.setattr(platform.os, "replace", refusing(platform._TRIES + 1, os.replace))
    platform.replace(tmp_path / "new", tmp_path / "old")
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"new"]
    monkeypatch.setattr(platform.os, "unlink", refusing(10**6, os.unlink))
    with pytest.raises(PermissionError):
        platform.remove(tmp_path / "old")


def test_a_file_was_gone_where_the_new_one_stayed_open_elsewhere(tmp_path, monkeypatch):
    windows(monkeypatch)
    monkeypatch.setattr(platform, "_PAUSE", 0)
    (tmp_path / "new").write_bytes(b"new")
    (tmp_path / "old").write_bytes(b"old")
    monkeypatch.setattr(platform.os, "replace", refusing(10**6, os.replace))
    with pytest.raises(PermissionError):
        platform.replace(tmp_path / "new", tmp_path / "old")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"new": b"new", "old": b"old"}
