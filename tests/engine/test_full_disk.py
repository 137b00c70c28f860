"""A disk that is full: what makes room works all the same, and what cannot work says how much it takes."""

import contextlib
import errno
import os
import re
import shutil
import subprocess
import warnings

import numpy as np
import pytest

import bqstore
from bqstore.errors import StorageError
from bqstore.storage import reserve, sigbus_guard
from bqstore.storage.place import Entries

from .test_durability import small_disk

TEXT = "y" * 3000


@pytest.fixture
def disk(tmp_path):
    path = small_disk(tmp_path, "6m")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def fill(disk) -> None:
    """Leave not one byte free."""
    with pytest.raises(OSError, match="No space"), (disk / "filler").open("ab", buffering=0) as file:
        while True:
            file.write(b"z" * 4096)


def vectors(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 64)).astype(np.float32)


def add(col, count) -> None:
    col.add(vectors(count), [f"d{i}" for i in range(count)], [TEXT] * count)


def test_deleting_to_make_room_failed_on_a_full_disk_and_so_did_opening(disk):
    with bqstore.open(disk) as col:
        add(col, 200)
        assert (disk / "default" / reserve.NAME).stat().st_size >= 128 << 10
        fill(disk)
        with pytest.raises(StorageError) as caught:
            add(col, 400)
        assert caught.value.errno == errno.ENOSPC and len(col) == 200 and (disk / "default" / reserve.NAME).exists()
        assert len(col.search(vectors(1)[0], 3)) == 3
    fill(disk)
    with bqstore.open(disk, read_only=True) as col:  # SQLite cannot make its files, and the reserve is not a reader's
        assert len(col.search(vectors(1)[0], 3)) == len(col.get(["d1", "d2", "d3"])) == 3
    assert (disk / "default" / reserve.NAME).exists()
    (disk / "default/meta.db-shm").unlink()  # else what SQLite has left is enough to open
    fill(disk)
    with bqstore.open(disk) as col:
        assert len(col) == 200 and col.search(vectors(1)[0])[0].id == "d0"
        assert not (disk / "default" / reserve.NAME).exists()
        fill(disk)
        assert [record.id for record in col.scroll()] == [f"d{i}" for i in range(200)] and col.verify().ok
    (disk / "filler").unlink()
    with bqstore.open(disk):
        assert (disk / "default" / reserve.NAME).exists()
    fill(disk)
    with bqstore.open(disk) as col:
        assert col.delete(["d0", "d1"]) == 2 and len(col) == 198
        for at in range(2, 190, 4):
            assert col.delete([f"d{i}" for i in range(at, at + 4)]) == 4
        col.compact()
        assert col.info().catalogue_bytes < 150_000
        add(col, 20)  # there is room again
        assert len(col) == 30 and col.verify().ok
        assert (disk / "default" / reserve.NAME).exists()


def test_copying_a_long_log_took_the_room_that_the_reserve_had_for_a_deletion(disk):
    with bqstore.open(disk) as col:
        for at in range(0, 300, 20):
            col.add(vectors(20), [f"d{i}" for i in range(at, at + 20)], [TEXT] * 20)
        assert (disk / "default" / "meta.db-wal").stat().st_size > 8 * (disk / "default" / reserve.NAME).stat().st_size
        fill(disk)
        assert col.delete(["d0"]) == 1 and col.delete(["d1", "d2"]) == 2
        assert len(col) == 297 and col.verify().ok


def test_a_copy_that_does_not_fit_says_how_much_it_takes(disk):
    with bqstore.open(disk) as col:
        col.add(vectors(4000))
        col.delete([record.id for record in list(col.scroll())[:400]])
        fill(disk)
        with pytest.raises(
            StorageError, match=r"copies what is live, which takes ([\d,]+) bytes, and [\d,]+ are"
        ) as caught:
            col.compact()
        assert caught.value.errno == errno.ENOSPC
        takes = int(re.search(r"takes ([\d,]+)", str(caught.value))[1].replace(",", ""))
        assert takes > 3600 * 256
        assert len(col) == 3600 and col.verify().ok
        (disk / "filler").unlink()
        col.clear()
        add(col, 5)
        assert len(col) == 5


def test_deleting_more_than_the_reserve_allows_says_so(disk, monkeypatch):
    with bqstore.open(disk) as col:
        add(col, 400)
        col.flush()
        reserve.give_up(col._engine.store.flat.entries)
        fill(disk)
        with pytest.raises(
            StorageError, match=r"deleting 400 documents takes up to [\d,]+ bytes meanwhile; delete fewer"
        ):
            col.delete([f"d{i}" for i in range(400)])
        assert len(col) == 400
        (disk / "filler").unlink()
        assert col.delete([f"d{i}" for i in range(400)]) == 400  # it was not poisoned
        assert col.verify().ok


@pytest.mark.parametrize(("size", "expected"), [(0, 128), (1 << 20, 256), (3 << 20, 768), (1 << 30, 1024)])
def test_the_reserve_is_in_proportion_to_the_collection(tmp_path, size, expected):
    entries = bqstore.storage.place.Place(tmp_path)
    reserve.keep(entries, lambda: size)
    assert entries.size(reserve.NAME) == expected << 10
    reserve.keep(entries, lambda: 0)  # it does not shrink
    assert entries.size(reserve.NAME) == expected << 10
    assert reserve.give_up(entries) and not reserve.give_up(entries)
    entries.close()


def test_a_disk_that_is_nearly_full_gets_no_reserve(tmp_path, monkeypatch):
    monkeypatch.setattr("bqstore.storage.platform.free_bytes", lambda folder: 900_000)
    with bqstore.open(tmp_path) as col:
        add(col, 3)
        assert not (tmp_path / "default" / reserve.NAME).exists()


def test_a_file_that_could_not_be_looked_at_for_the_size_of_the_reserve_ended_the_opening(tmp_path, monkeypatch):
    """A bare OSError of `open`, though no more than the reserve went by it."""
    with bqstore.open(tmp_path) as col:
        col.add([[1.0, 2.0]], ["a"])
    real = Entries.size

    def refused(self, name):
        if name.startswith("kv.db"):
            raise PermissionError(errno.EACCES, "Permission denied", name)
        return real(self, name)

    monkeypatch.setattr(Entries, "size", refused)
    with bqstore.open(tmp_path) as col:
        col.add([[2.0, 1.0]], ["b"])
        with pytest.raises(StorageError, match=r"cannot look at the files of .*default: Permission denied"):
            col.info()
        assert len(col) == 2


def test_a_disk_that_is_full_ended_the_process_where_blocks_are_written_once(disk, monkeypatch):
    """SQLite's -shm could not be written through its map on btrfs: SIGBUS in the middle of a commit."""
    monkeypatch.setattr(sigbus_guard.platform, "file_system", lambda folder: "btrfs")
    with bqstore.open(disk) as col:
        add(col, 200)
        col.flush()
        col.update_metadata(["d0"], {"n": 0})
        fill(disk)
        with pytest.raises(StorageError, match=r"meta\.db: No space left") as caught:  # before SQLite's log is written
            col.update_metadata(["d0"], {"n": 1})
        assert caught.value.errno == errno.ENOSPC and col.get(["d0"])[0].metadata == {"n": 0}
        with pytest.raises(StorageError, match="No space left"):
            col.flush()
        assert col.delete(["d1"]) == 1 and len(col.search(vectors(1)[0], 3)) == 3  # by the reserve
        (disk / "filler").unlink()
        col.update_metadata(["d0"], {"n": 1})
        assert len(col) == 199 and col.verify().ok


@pytest.mark.parametrize("make", [["mkfs.btrfs", "-q"], ["mkfs.ext4", "-q", "-b", "1024"]], ids=["btrfs", "ext4"])
def test_a_map_that_could_not_be_written_ended_the_process(tmp_path, make):
    if not shutil.which(make[0]) or os.geteuid() != 0:
        pytest.skip("needs this file system, and root")
    with (tmp_path / "image").open("wb") as image:
        image.truncate((128 if "btrfs" in make[0] else 12) << 20)
    subprocess.run([*make, tmp_path / "image"], check=True)
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-o", "loop", tmp_path / "image", disk], check=False, capture_output=True).returncode:
        pytest.skip("this system forbids mounting")
    try:
        with bqstore.open(disk) as col:
            add(col, 300)
        for _ in range(2):
            with bqstore.open(disk) as col, bqstore.open_key_values(disk) as pages:
                fill(disk)
                os.sync()
                for act in (
                    lambda col=col: col.update_metadata([f"d{i}" for i in range(300)], {"long": "z" * 5000}),
                    lambda pages=pages: pages.put({f"k{i}": b"v" * 5000 for i in range(300)}),
                ):
                    with contextlib.suppress(StorageError):
                        act()
                    fill(disk)
                    assert len(col) >= 296 and len(col.search(vectors(1)[0], 3)) == 3
                with contextlib.suppress(StorageError):
                    col.delete([col.ids()[-1]])
            with contextlib.suppress(StorageError), bqstore.open(disk) as col:
                assert col.delete([col.ids()[-1]]) == 1
            (disk / "filler").unlink()
        with bqstore.open(disk) as col:
            assert len(col) >= 296 and col.verify().ok
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_opening_gave_up_the_whole_reserve_and_the_next_opening_found_none(disk):
    """Whatever fills the disk fills what is given up, too."""
    file = disk / "default" / reserve.NAME
    with bqstore.open(disk) as col:
        add(col, 400)
    with bqstore.open(disk):
        size = file.stat().st_size
        assert size >= 3 * 128 << 10
    for _ in range(5):
        fill(disk)
        with bqstore.open(disk) as col:
            assert file.stat().st_size >= size - (192 << 10)
            with pytest.raises(StorageError):
                add(col, 200)
        assert file.stat().st_size >= size - (64 << 10)  # all but SQLite's shared memory, if that is still there
    with bqstore.open(disk) as col:
        fill(disk)
        assert col.delete([f"d{i}" for i in range(20)]) == 20  # there is enough for that, still
    (disk / "filler").unlink()
    with bqstore.open(disk) as col:
        col.compact()
        assert len(col) == 380 and col.verify().ok


def test_a_disk_without_a_byte_left_was_called_an_io_error(disk):
    with bqstore.open(disk) as col:
        add(col, 20)
        col.flush()  # so that SQLite's files are removed when it is closed
        fill(disk)
    (disk / "default" / reserve.NAME).unlink()
    fill(disk)
    for _ in range(3):
        with pytest.raises(StorageError, match=r"full|No space") as caught:
            bqstore.open(disk)
        assert caught.value.errno == errno.ENOSPC
    with bqstore.open(disk, read_only=True) as col:
        assert len(col.search(vectors(1)[0], 3)) == 3


def test_opening_wrote_a_page_to_the_log_and_so_failed_where_there_was_no_byte_for_it(disk):
    with bqstore.open(disk) as col:
        add(col, 20)
        fill(disk)
    (disk / "default" / reserve.NAME).unlink()
    fill(disk)
    size = (disk / "default/meta.db-wal").stat().st_size
    for _ in range(2):
        with bqstore.open(disk) as col:
            assert (disk / "default/meta.db-wal").stat().st_size == size > 0
            assert len(col.search(vectors(1)[0], 3)) == 3
    (disk / "filler").unlink()
    with bqstore.open(disk) as col:
        col.flush()
    with bqstore.open(disk):
        assert (disk / "default/meta.db-wal").stat().st_size == 0


def test_compacting_after_many_deletions_on_a_full_disk_found_the_room_in_the_log(disk):
    with bqstore.open(disk) as col:
        add(col, 600)
    with bqstore.open(disk) as col:
        fill(disk)
        for at in range(0, 500, 10):
            assert col.delete([f"d{i}" for i in range(at, at + 10)]) == 10
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # what was deleted cannot be erased yet
            col.compact()
        assert col.info().deleted == 0 and len(col) == 100 and col.verify().ok
        assert col.info().catalogue_bytes < 1_000_000  # a few pages at a time
        add(col, 20)


def test_closing_where_a_map_has_no_room_leaves_the_log_for_the_next_opening(disk, monkeypatch):
    monkeypatch.setattr(sigbus_guard.platform, "file_system", lambda folder: "btrfs")
    log = disk / "default" / "meta.db-wal"
    col = bqstore.open(disk)
    add(col, 50)
    (disk / "default" / reserve.NAME).unlink()
    fill(disk)
    size = log.stat().st_size
    col.close()
    assert log.stat().st_size == size > 0
    with bqstore.open(disk, read_only=True) as col:
        assert len(col) == 50
    (disk / "filler").unlink()
    with bqstore.open(disk) as col:
        assert len(col) == 50 and col.verify().ok
    assert not log.exists() or log.stat().st_size == 0


def test_where_room_cannot_be_asked_for_sqlite_is_asked(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EOPNOTSUPP, "no files without a name here")

    monkeypatch.setattr(sigbus_guard.platform, "file_system", lambda folder: "btrfs")
    monkeypatch.setattr(sigbus_guard.os, "O_TMPFILE", 0)  # opening a folder to write is refused, then
    with bqstore.open(tmp_path) as col:
        add(col, 5)
        assert len(col) == 5
    monkeypatch.setattr(sigbus_guard.os, "statvfs", refuse)
    assert sigbus_guard.maps_need_room(tmp_path)


def test_a_system_without_files_that_have_no_name_raised_attribute_error(tmp_path, monkeypatch):
    monkeypatch.setattr(sigbus_guard.platform, "file_system", lambda folder: "btrfs")
    monkeypatch.delattr(sigbus_guard.os, "O_TMPFILE")
    with bqstore.open(tmp_path) as col:
        add(col, 5)
        assert len(col) == 5
