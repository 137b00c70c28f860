"""`backup()`: whatever goes on meanwhile and however it ends, the copy is one commit, or no collection."""

import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import bqstore
from bqstore import CorruptionError, InvalidInputError, LockedError
from bqstore.storage import files
from tests.conftest import HANGS, child, clustered

from ..storage.damage import bytes_of, flip
from ..storage.known_collection import BITS, add, documents, make_store, questions
from .test_durability import small_disk

ROOT = Path(bqstore.__file__).parents[1]


def check_copy(path: Path, truth, collection: str = "default") -> None:
    """A copy answers all questions as the truth does, read-only and for a writer, and is whole."""
    for read_only in (True, False):
        with bqstore.open(path, collection, read_only=read_only) as col:
            for _, ask in questions(truth):
                ask(col)
            assert col.verify().ok


def check_same(path: Path, other: Path) -> None:
    """Two stores hold the same documents."""
    with bqstore.open(path) as one, bqstore.open(other) as two:
        assert list(one.scroll()) == list(two.scroll()) and one.info().dim == two.info().dim
        ids = [record.id for record in one.scroll()]
        mine, theirs = one.get(ids, with_vectors=True), two.get(ids, with_vectors=True)
        assert all(np.array_equal(a.vector, b.vector) for a, b in zip(mine, theirs, strict=True))
        assert two.verify().ok


@pytest.mark.parametrize("settings", [{}, {"originals": "none"}, {"quantization": {"estimator": "rabitq"}}])
def test_a_copy_opens_and_answers_as_the_collection(tmp_path, settings):
    truth = make_store(tmp_path / "store", 30, **settings)
    with bqstore.open(tmp_path / "store") as col:
        report = col.backup(tmp_path / "deep" / "copy")
        assert (report.documents, report.collection) == (len(truth), "default") and report.bytes_written > 0
    if "originals" not in settings:
        check_copy(tmp_path / "deep/copy", truth)
    else:
        with bqstore.open(tmp_path / "deep/copy") as copy:
            assert len(copy) == len(truth) and copy.verify().ok
    assert not [name for name in (tmp_path / "deep/copy").iterdir() if name.name != "default"]


def test_a_collection_in_memory_is_kept_by_a_backup(tmp_path):
    truth = documents(12)
    with bqstore.open(hnsw=BITS) as col:
        add(col, truth)
        col.backup(tmp_path / "copy", incremental=True)
        gone = next(iter(truth))
        col.delete([gone])
        del truth[gone]
        col.compact()
        col.backup(tmp_path / "copy", incremental=True)
    check_copy(tmp_path / "copy", truth)


def test_an_empty_collection_and_one_that_was_cleared_can_be_copied(tmp_path):
    with bqstore.open(tmp_path / "store") as col:
        col.backup(tmp_path / "first")
        add(col, documents(4))
        col.backup(tmp_path / "first", incremental=True)
        col.clear()
        col.backup(tmp_path / "first", incremental=True)
        col.backup(tmp_path / "second")
    for name in ("first", "second"):
        with bqstore.open(tmp_path / name) as copy:
            assert len(copy) == 0 and copy.verify().ok


def change(col: bqstore.Collection, step: int) -> None:
    """One of all ways to change a collection."""
    if step == 0:
        add(col, documents(7, 20))
    elif step == 1:
        col.delete([next(col.scroll()).id])
    elif step == 2:
        col.update_metadata([next(col.scroll()).id], {"n": 100 + step})
    elif step == 3:
        col.compact()
    elif step == 4:
        col.requantize(encoding="two_bits", estimator="rabitq")
    elif step == 5:
        col.clear()
        add(col, documents(5, 21))
    elif step == 6:
        add(col, documents(3, 20))  # again, under the same ids


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4, 5, 6), (6, 4, 3, 1, 2, 0, 5), (3, 3, 1, 1, 5, 2, 4)])
def test_an_older_copy_is_brought_up_to_date_after_any_change(tmp_path, order):
    make_store(tmp_path / "store", 12)
    with bqstore.open(tmp_path / "store") as col:
        col.backup(tmp_path / "copy")
        with bqstore.open(tmp_path / "copy", read_only=True) as reader:  # follows as a reader of any writer does
            for step in order:
                change(col, step)
                col.backup(tmp_path / "copy", incremental=True)
                assert [record.id for record in reader.scroll()] == [record.id for record in col.scroll()]
                assert len(reader.search(np.ones(reader.info().dim), 3)) == min(3, len(col))
                check_same(tmp_path / "store", tmp_path / "copy")


def test_bringing_up_to_date_writes_only_what_differs(tmp_path):
    with bqstore.open(tmp_path / "store") as col:
        col.add(clustered(2000, 64), texts=["a text"] * 2000)
        whole = col.backup(tmp_path / "copy").bytes_written
        col.add(clustered(10, 64, seed=1))
        col.update_metadata([next(col.scroll()).id], {"new": True})
        part = col.backup(tmp_path / "copy", incremental=True).bytes_written
        assert col.backup(tmp_path / "copy", incremental=True).bytes_written == 0
    assert 0 < part < whole / 50


@pytest.mark.long
def test_a_copy_holds_one_commit_while_another_process_writes_and_compacts(tmp_path):
    code = (
        "import sys, numpy as np, bqstore\n"
        "col = bqstore.open(sys.argv[1])\n"
        "n = 0\n"
        "while True:\n"
        "    ids = [f'{n}-{i}' for i in range(20)]\n"
        "    col.add(np.random.default_rng(n).standard_normal((20, 8)), ids, texts=ids)\n"
        "    if n: col.delete([f'{n - 1}-{i}' for i in range(10)])\n"
        "    if n % 5 == 4: col.compact()\n"
        "    n += 1\n"
        "    print(n, flush=True)\n"
    )
    with bqstore.open(tmp_path / "store") as col:
        col.add(clustered(400, 8))
        command = [sys.executable, "-c", code, str(tmp_path / "store")]
        with child(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            newest = []
            for i in range(6):
                assert process.stdout.readline()
                report = col.backup(tmp_path / ("copy" if i % 2 else f"copy{i}"), incremental=True)
                with bqstore.open(report.path, read_only=True) as copy:
                    mine = [record for record in copy.scroll() if record.text is not None]
                    batches = {}
                    for record in mine:
                        assert record.id == record.text
                        batches.setdefault(int(record.id.split("-")[0]), []).append(record.id)
                    # a batch is there as a whole, or as a whole without what one delete took away
                    assert all(len(batch) in (10, 20) for batch in batches.values())
                    assert all(len(batches[n]) == 10 for n in list(batches)[:-2])
                    newest.append(max(batches, default=-1))
                    assert copy.verify().ok
            process.kill()
        assert newest == sorted(newest) and newest[-1] > newest[0]


KILLED = """
import os, sys
from pathlib import Path
from bqstore.storage import backup, files, head_table, open_store, row_table
store, folder, count, incremental = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "yes"
left = count
def counted(function):
    def call(*arguments, **keywords):
        global left
        left -= 1
        if left == 0:
            os._exit(9)
        return function(*arguments, **keywords)
    return call
backup._PIECE = 64
steps = [(files.DiskFile, "write"), (files.DiskFile, "sync"), (backup, "_copy_catalogue"), (backup, "_read_back"),
         (row_table, "insert_rows"), (head_table, "write_head"), (backup, "_copy_snapshot"),
         (backup.Store, "reread"), (backup, "_check_whole"), (backup.Entries, "replace")]
for owner, name in steps:
    setattr(owner, name, counted(getattr(owner, name)))
backup.back_up(open_store(store, {}, None, read_only=True), folder, incremental, lambda done, n: None)
print(count - left)
"""


def killed(store: Path, copy: Path, count: int, incremental: bool) -> bool:
    """Make a copy in a process that ends at the count-th step, as by kill -9; whether it came to its end before."""
    command = [sys.executable, "-c", KILLED, str(store / "default"), str(copy / "default"), str(count)]
    done = subprocess.run(
        [*command, "yes" if incremental else "no"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 9), done.stderr
    return done.returncode == 0


@pytest.mark.sampled(2)
@pytest.mark.long
@pytest.mark.parametrize("count", [1, 2, 5, 9, 12, 16])
def test_a_first_copy_that_was_killed_is_no_collection_and_the_next_call_goes_on(tmp_path, count):
    truth = make_store(tmp_path / "store", 6)
    if not killed(tmp_path / "store", tmp_path / "copy", count, False):
        with pytest.raises(bqstore.NotFoundError):
            bqstore.open(tmp_path / "copy", read_only=True)
        with bqstore.open(tmp_path / "store") as col:
            col.backup(tmp_path / "copy")
    check_copy(tmp_path / "copy", truth)
    assert [each.name for each in (tmp_path / "copy").iterdir()] == ["default"]


def test_what_an_interrupted_copy_has_written_is_not_written_again(tmp_path, monkeypatch):
    with bqstore.open(tmp_path / "store") as col:
        col.add(clustered(500, 256))
        whole = col.backup(tmp_path / "whole").bytes_written
        with monkeypatch.context() as patch:
            patch.setattr("bqstore.storage.backup._read_back", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                col.backup(tmp_path / "copy")
        assert col.backup(tmp_path / "copy").bytes_written < whole - 500 * 1024
    check_same(tmp_path / "store", tmp_path / "copy")


@pytest.mark.long
@pytest.mark.parametrize("count", [2, 5, 8, 11])
def test_an_update_of_a_copy_that_was_killed_leaves_one_commit_or_the_other(tmp_path, count):
    before = make_store(tmp_path / "store", 6)
    with bqstore.open(tmp_path / "store", hnsw=BITS) as col:
        col.backup(tmp_path / "copy")
        more = documents(5, 30)
        add(col, more)
    after = {**before, **more}
    killed(tmp_path / "store", tmp_path / "copy", count, True)
    with bqstore.open(tmp_path / "copy", read_only=True) as copy:
        size = len(copy)
    check_copy(tmp_path / "copy", {len(before): before, len(after): after}[size])
    with bqstore.open(tmp_path / "store", read_only=True) as col:
        col.backup(tmp_path / "copy", incremental=True)
    check_copy(tmp_path / "copy", after)


def test_what_is_there_already_is_left_alone(tmp_path):
    make_store(tmp_path / "store")
    make_store(tmp_path / "other", seed=1)
    before = bytes_of(tmp_path / "other")
    with bqstore.open(tmp_path / "store") as col:
        for path, words, incremental in [
            ("other", "exists already; bring a copy in it up to date with incremental=True", False),
            ("other", "holds another collection", True),
            ("store", "is the folder of the collection itself", True),
            ("store/default", "is the folder of the collection itself", False),
            ("store/default/meta.db", "is a file; a store is a folder", False),
        ]:
            with pytest.raises(InvalidInputError, match=words):
                col.backup(tmp_path / path, incremental=incremental)
        with pytest.raises(InvalidInputError, match="path is 5; expected the folder"):
            col.backup(5)
        with pytest.raises(InvalidInputError, match="incremental is 'yes'"):
            col.backup(tmp_path / "copy", incremental="yes")
    assert bytes_of(tmp_path / "other") == before
    with bqstore.open(tmp_path / "store") as col:
        assert len(col) == 8 and col.verify().ok


def test_a_copy_that_was_written_to_is_not_overwritten(tmp_path):
    make_store(tmp_path / "store")
    with bqstore.open(tmp_path / "store") as col:
        col.backup(tmp_path / "copy")
        with bqstore.open(tmp_path / "copy") as copy:
            add(copy, documents(2, 40))
        with pytest.raises(InvalidInputError, match="was written since it was copied"):
            col.backup(tmp_path / "copy", incremental=True)
        add(col, documents(2, 41))
        add(col, documents(2, 42))  # its commits have the higher number now, and other contents
        with pytest.raises(InvalidInputError, match="of another history"):
            col.backup(tmp_path / "copy", incremental=True)
    with bqstore.open(tmp_path / "copy") as copy:
        assert len(copy) == 10 and copy.verify().ok


def test_a_copy_in_use_by_a_writer_is_waited_for_no_longer_than_at_once(tmp_path):
    make_store(tmp_path / "store")
    with bqstore.open(tmp_path / "store") as col:
        col.backup(tmp_path / "copy")
        with bqstore.open(tmp_path / "copy", exclusive=True), pytest.raises(LockedError):
            col.backup(tmp_path / "copy", incremental=True)


@pytest.mark.parametrize("name", ["vectors-0.bin", "meta.db"])
def test_a_damaged_collection_does_not_become_a_copy(tmp_path, name):
    truth = make_store(tmp_path / "store", 20)
    with bqstore.open(tmp_path / "store") as col:
        col.backup(tmp_path / "older")
        add(col, {"new": documents(1, 50)["id-50-0"]})
    file = tmp_path / "store/default" / name
    data = file.read_bytes()
    place = data.index(b"text 7") if name == "meta.db" else len(data) - 300
    file.write_bytes(flip(data, place))
    with bqstore.open(tmp_path / "store", read_only=True) as col:
        with pytest.raises(CorruptionError, match=r"restore|repair"):
            col.backup(tmp_path / "copy")
        with pytest.raises(bqstore.NotFoundError):
            bqstore.open(tmp_path / "copy", read_only=True)
        if name == "vectors-0.bin":  # a row that has not changed is not read again
            with pytest.raises(CorruptionError, match=r"restore|repair"):
                col.backup(tmp_path / "older", incremental=True)
            check_copy(tmp_path / "older", truth)


def test_a_damaged_older_copy_is_said_to_be_damaged(tmp_path):
    make_store(tmp_path / "store", 20)
    with bqstore.open(tmp_path / "store") as col:
        col.backup(tmp_path / "copy")
        file = tmp_path / "copy/default/vectors-0.bin"
        file.write_bytes(flip(file.read_bytes(), 500))
        with pytest.raises(InvalidInputError, match=r"record \d+ of vectors-0.bin in the older copy"):
            col.backup(tmp_path / "copy", incremental=True)
        file.write_bytes(b"")
        with pytest.raises(CorruptionError, match=r"the older copy .* is damaged, and was left as it is"):
            col.backup(tmp_path / "copy", incremental=True)


def test_a_full_disk_leaves_no_collection_and_the_next_call_goes_on(tmp_path, monkeypatch):
    truth = make_store(tmp_path / "store", 10)

    def full(*_):
        raise OSError(28, "No space left on device")

    with bqstore.open(tmp_path / "store") as col:
        with monkeypatch.context() as patch:
            patch.setattr(files.DiskFile, "_pwrite", full)
            with pytest.raises(bqstore.StorageError, match="No space left"):
                col.backup(tmp_path / "copy")
        col.backup(tmp_path / "copy")
    check_copy(tmp_path / "copy", truth)


@pytest.fixture
def disk(tmp_path):
    path = small_disk(tmp_path, "1200k")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def enlarge(disk):
    subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)


TAKES = (
    r"the copy takes [\d,]+ bytes; ([\d,]+ are there already, and )?[\d,]+ are free on the disk of .*: make room there"
)


@pytest.mark.parametrize("known", [True, False], ids=["before", "when it fails"])
def test_a_copy_that_does_not_fit_says_what_it_takes_and_the_next_call_goes_on(tmp_path, disk, monkeypatch, known):
    with bqstore.open(tmp_path / "store") as col, bqstore.open_key_values(tmp_path / "store") as pages:
        col.add(clustered(500, 256))
        pages.put({f"k{i}": b"v" * 1000 for i in range(200)})
        whole = col.backup(tmp_path / "whole").bytes_written
        before = bytes_of(tmp_path / "store")
        disk_of_copy = disk / "copy"
        (disk / "filler").write_bytes(b"z" * (500 << 10))
        with monkeypatch.context() as patch:
            if not known:  # a quota, say, or somebody else who fills the disk meanwhile
                patch.setattr("bqstore.storage.platform.free_bytes", lambda folder: 1 << 40)
            with pytest.raises(bqstore.StorageError, match=f"{TAKES}.*the next call goes on") as caught:
                col.backup(disk_of_copy)
        assert caught.value.errno == 28
        assert 0 <= int(re.search(r"takes ([\d,]+)", str(caught.value))[1].replace(",", "")) - whole < 100_000
        assert bytes_of(tmp_path / "store") == before and col.verify().ok
        with pytest.raises(bqstore.NotFoundError):
            bqstore.open(disk_of_copy, read_only=True)
        enlarge(disk)
        written = col.backup(disk_of_copy).bytes_written
        assert (written == whole) == known and written > whole // 10
    check_same(tmp_path / "store", disk_of_copy)
    with bqstore.open_key_values(disk_of_copy) as pages:
        assert len(pages.keys()) == 200


@pytest.mark.parametrize("known", [True, False], ids=["before", "when it fails"])
def test_an_older_copy_that_cannot_grow_says_what_it_takes_and_is_as_it_was(tmp_path, disk, monkeypatch, known):
    truth = make_store(tmp_path / "store", 20)
    with bqstore.open(tmp_path / "store") as col:
        col.backup(disk / "copy")
        add(col, documents(700, 5))  # more than the reserve of the copy has room for
        filler = disk / "filler"
        with pytest.raises(OSError, match="No space"), filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"z" * 4096)
        with monkeypatch.context() as patch:
            if not known:
                patch.setattr("bqstore.storage.platform.free_bytes", lambda folder: 1 << 40)
            with pytest.raises(bqstore.StorageError, match=f"{TAKES}.*the older copy is whole"):
                col.backup(disk / "copy", incremental=True)
        filler.unlink()
        check_copy(disk / "copy", truth)
        col.backup(disk / "copy", incremental=True)
    check_same(tmp_path / "store", disk / "copy")


@pytest.mark.parametrize("left", ["vectors-0.bin", "vectors-9.bin"], ids=["records", "a generation"])
def test_what_a_killed_call_had_written_was_counted_as_still_to_come(tmp_path, disk, left):
    """No later call went on, as that takes less room than there was, and none removed what was left."""
    enlarge(disk)
    vectors = clustered(1000, 512)
    with bqstore.open(tmp_path / "store", encoding="one_bit") as col:
        col.add(vectors[:10])
        col.backup(disk / "copy")
        col.add(vectors[10:])
        (disk / "copy" / "default" / left).write_bytes((tmp_path / "store/default/vectors-0.bin").read_bytes())
        (disk / "filler").write_bytes(b"z" * (shutil.disk_usage(disk).free - (1 << 20)))
        assert col.backup(disk / "copy", incremental=True).documents == 1000
    (disk / "filler").unlink()
    check_same(tmp_path / "store", disk / "copy")


@pytest.mark.long
def test_the_snapshot_of_the_graph_comes_along_and_a_damaged_one_does_not(tmp_path):
    with bqstore.open(tmp_path / "store") as col:
        col.add(clustered(2100, 16))
        col.flush()
        col.backup(tmp_path / "copy")
        snapshot = next((tmp_path / "store/default").glob("snap-*"))
        assert (tmp_path / "copy/default" / snapshot.name).read_bytes() == snapshot.read_bytes()
        snapshot.write_bytes(flip(snapshot.read_bytes(), 5000))
        col.backup(tmp_path / "other")
        assert not list((tmp_path / "other/default").glob("snap-*"))


def test_searches_and_writes_of_other_threads_go_on_during_a_backup(tmp_path, monkeypatch):
    make_store(tmp_path / "store", 10)
    with bqstore.open(tmp_path / "store") as col:

        def meanwhile(*arguments):
            thread = threading.Thread(target=lambda: add(col, documents(1, 60)))
            thread.start()
            thread.join(HANGS)
            assert not thread.is_alive() and len(col) == 9
            return real(*arguments)

        from bqstore.storage import backup

        real = backup._copy_records
        monkeypatch.setattr(backup, "_copy_records", meanwhile)
        assert col.backup(tmp_path / "copy").documents == 8
