"""Flat files: short writes, growth, maps that outlive growth, and errors that are StorageErrors."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from bqstore.errors import CorruptionError, StorageError
from bqstore.storage import files, platform
from bqstore.storage.files import DiskFile, MemoryFile
from bqstore.storage.format import HEADER_BYTES, Layout

LAYOUT = Layout("codes", 64, 1)
WORDS = LAYOUT.record_bytes // 4


def records(n: int, first: int = 0) -> np.ndarray:
    return np.arange(first * WORDS, (first + n) * WORDS, dtype=np.uint32).reshape(n, WORDS)


@pytest.fixture(params=["disk", "memory"])
def file(request, tmp_path):
    if request.param == "memory":
        return MemoryFile(LAYOUT)
    return DiskFile.create(tmp_path / "codes-0.bin", LAYOUT, 0, 1)


def test_what_is_written_is_read_and_seen(file):
    for at in range(0, 3000, 300):
        file.write(at, records(300, at))
        file.sync()
        assert (file.read(at, 300) == records(300, at)).all()
        assert (file.view(at + 300)[: at + 300] == records(at + 300)).all()
    file.check_size(3000)
    assert file.read(5, 0).shape == (0, WORDS)


def test_a_view_stays_as_it_was_while_the_file_grows(file):
    file.write(0, records(10))
    views = [(10, file.view(10))]
    for n in (20, 500, 5000):
        file.write(views[-1][0], records(n - views[-1][0], views[-1][0]))
        views.append((n, file.view(n)))
    for n, view in views:
        assert (view[:n] == records(n)).all()
        with pytest.raises(ValueError):
            view[0, 0] = 1


def test_a_rewritten_slot_past_the_committed_ones_is_seen(file):
    file.write(0, records(4))
    view = file.view(4)
    file.write(2, records(2, 7))  # a write that was not committed is written over
    assert (file.read(2, 2) == records(2, 7)).all() and (view[:2] == records(2)).all()


def test_writes_in_pieces_and_short_writes_arrive_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_PIECE", 100)
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[: max(1, len(data) // 2)], at))
    file = DiskFile.create(tmp_path / "codes-0.bin", LAYOUT, 0, 1)
    file.write(0, records(50))
    monkeypatch.setattr(os, "pwrite", real)
    monkeypatch.setattr(os, "preadv", short(os.preadv))
    assert (file.read(0, 50) == records(50)).all()


def short(real):
    return lambda fd, buffers, at: real(fd, [buffers[0][:7]], at)


def test_a_disk_that_fills_up_in_the_middle_of_a_write(tmp_path, monkeypatch):
    file = DiskFile.create(tmp_path / "codes-0.bin", LAYOUT, 0, 1)
    file.write(0, records(3))
    real, left = os.pwrite, [40]

    def pwrite(fd, data, at):
        if left[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = real(fd, data[: left[0]], at)
        left[0] -= done
        return done

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(StorageError, match="No space left on device; nothing was changed") as caught:
        file.write(3, records(10, 3))
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert (file.read(0, 3) == records(3)).all()
    file.write(3, records(10, 3))
    assert (file.read(0, 13) == records(13)).all()


@pytest.mark.parametrize("call", ["pwrite", "ftruncate", "open", "fdatasync", "fsync"])
def test_a_file_that_cannot_be_created_is_a_storage_error(tmp_path, monkeypatch, call):
    def fail(*arguments, **keywords):
        raise OSError(errno.EIO, "Input/output error")

    path = tmp_path / "codes-0.bin"
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        if call == "ftruncate":
            file = DiskFile.create(path, LAYOUT, 0, 1)
            with pytest.raises(StorageError, match="Input/output error"):
                file.write(0, records(1))
        else:
            with pytest.raises(StorageError, match="Input/output error"):
                DiskFile.create(path, LAYOUT, 0, 1)
    file = DiskFile.create(path, LAYOUT, 0, 1)  # what was left behind is replaced
    file.write(0, records(1))
    assert (file.read(0, 1) == records(1)).all()


def test_a_file_that_cannot_be_read_is_a_storage_error(tmp_path, monkeypatch):
    file = DiskFile.create(tmp_path / "codes-0.bin", LAYOUT, 0, 1)
    file.write(0, records(9))

    def fail(*arguments, **keywords):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(StorageError, match="Input/output error"):
        file.read(0, 9)
    monkeypatch.setattr(os, "preadv", lambda *arguments: 0)
    with pytest.raises(CorruptionError, match="ended at byte"):
        file.read(0, 9)
    monkeypatch.setattr(platform, "map_file", fail)
    with pytest.raises(StorageError, match="cannot map"):
        file.view(9)


def test_growth_is_ahead_of_the_records_and_trimming_takes_it_back(tmp_path):
    path = tmp_path / "codes-0.bin"
    file = DiskFile.create(path, LAYOUT, 0, 1)
    assert path.stat().st_size == HEADER_BYTES and path.stat().st_mode & 0o777 == 0o600
    file.write(0, records(100))
    file.write(100, records(1, 100))
    assert path.stat().st_size > HEADER_BYTES + 101 * LAYOUT.record_bytes
    file.trim(101)
    assert path.stat().st_size == HEADER_BYTES + 101 * LAYOUT.record_bytes
    file.trim(200)  # never grows
    assert path.stat().st_size == HEADER_BYTES + 101 * LAYOUT.record_bytes
    again = DiskFile.open(path, LAYOUT, 0, 1, 101, True)
    assert (again.read(0, 101) == records(101)).all()
    with pytest.raises(CorruptionError, match="102 committed records"):
        DiskFile.open(path, LAYOUT, 0, 1, 102, True)
    with pytest.raises(CorruptionError, match="cut short"):
        again.read(100, 2)


def test_a_file_that_another_process_trimmed_while_it_was_mapped_could_not_be_opened(tmp_path, monkeypatch):
    """Whoever closes cuts off the space grown ahead: between the look at the size and the map of another process."""
    file = DiskFile.create(tmp_path / "codes-0.bin", LAYOUT, 0, 1)
    file.write(0, records(100))
    file.write(100, records(1, 100))
    other, map_file = DiskFile.open(file.path, LAYOUT, 0, 1, 101, True), platform.map_file
    cuts = [101]

    def cut_first(*arguments, **more):
        if cuts:
            file.trim(cuts.pop())
        return map_file(*arguments, **more)

    monkeypatch.setattr(platform, "map_file", cut_first)
    assert (other.view(101)[:101] == records(101)).all() and len(other.view(101)) == 101
    cuts.append(50)  # below what was committed: that is damage
    with pytest.raises(CorruptionError, match="cut short"):
        DiskFile.open(file.path, LAYOUT, 0, 1, 101, True).view(101)


def test_descriptors_end_with_the_last_that_holds_the_file(tmp_path):
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        pytest.skip("descriptors are counted in /proc")

    def count() -> int:
        return sum(str(fd.readlink()).startswith(str(tmp_path)) for fd in folder.iterdir() if fd.is_symlink())

    file = DiskFile.create(tmp_path / "codes-0.bin", LAYOUT, 0, 1)
    file.write(0, records(10))
    view = file.view(10)
    del file
    assert (view[:10] == records(10)).all()
    del view
    assert count() == 0
    for _ in range(5):
        with pytest.raises(CorruptionError):
            DiskFile.open(tmp_path / "codes-0.bin", LAYOUT, 1, 1, 0, True)
    assert count() == 0
