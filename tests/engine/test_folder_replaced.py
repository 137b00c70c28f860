"""The folder is removed, replaced or moved under an open handle: a named error, and what stands there is left alone.

Before, `add` returned ids of documents that were lost, and the old handle's `clear`, `compact` or sweep destroyed the
new store.
"""

import contextlib
import os
import shutil
import time

import numpy as np
import pytest

import bqstore
from bqstore.storage.place import Place
from tests.conftest import clustered
from tests.engine.given import ENOUGH, settle_early

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows keeps a folder whose files are open where it is")
N, DIM = ENOUGH + 152, 16
VECTORS = clustered(2 * N, DIM)
IDS = [str(i) for i in range(2 * N)]


@pytest.fixture(autouse=True)
def chosen_and_linked_early(monkeypatch):
    settle_early(monkeypatch, ENOUGH)


def filled(path, n=N):
    with bqstore.open(path) as col:
        col.add(VECTORS[:n], ids=IDS[:n])
        col.delete(IDS[:10])


def other_at(path):
    """Another store, at the path: small, so that an add would make and sweep files."""
    with bqstore.open(path) as col:
        col.add(VECTORS[:5], ids=["a", "b", "c", "d", "e"], texts=["kept"] * 5)


def removed(path):
    shutil.rmtree(path)


def replaced(path):
    shutil.rmtree(path)
    other_at(path)


def moved(path):
    path.rename(path.with_name("elsewhere"))


def moved_and_replaced(path):
    moved(path)
    other_at(path)


def copied_into_place(path):
    copy = path.with_name("copy")
    shutil.copytree(path, copy)
    shutil.rmtree(path)
    copy.rename(path)


def turned(path):
    """The path is a link to a version, and now to another."""
    path.unlink()
    other_at(path.with_name("second"))
    path.symlink_to(path.with_name("second"))


def without_catalogue(path):
    for file in (path / "default").glob("meta.db*"):
        file.unlink()


CHANGES = [removed, replaced, moved, moved_and_replaced, copied_into_place, turned, without_catalogue]


def searched(col):
    """Within a second."""
    time.sleep(0.6)
    col.search(VECTORS[0])


CALLS = {
    "add": lambda col: col.add(VECTORS[:3], ids=["x", "y", "z"]),
    "add many": lambda col: col.add(VECTORS[N:], ids=IDS[N:]),
    "delete": lambda col: col.delete(["20"]),
    "update_metadata": lambda col: col.update_metadata(["20"], [{"a": 1}]),
    "clear": lambda col: col.clear(),
    "compact": lambda col: col.compact(),
    "flush": lambda col: col.flush(),
    "requantize": lambda col: col.requantize(encoding="two_bits", estimator="rabitq"),
    "tune": lambda col: col.tune(),
    "verify": lambda col: col.verify(),
    "search": searched,
}


def contents(path):
    """What is in a store, file by file and document by document."""
    files = {file.name: file.read_bytes() for file in (path / "default").iterdir() if file.name.endswith(".bin")}
    with bqstore.open(path, read_only=True) as col:
        assert col.verify().ok
        return files, [(hit.id, hit.text) for hit in col.search(VECTORS[0], k=5)], col.count()


@pytest.mark.sampled(9)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("call", CALLS)
def test_every_call_says_so_and_touches_nothing(tmp_path, call, change):
    path = tmp_path / "store"
    if change is turned:
        filled(tmp_path / "first")
        path.symlink_to(tmp_path / "first")
    else:
        filled(path)
    col = bqstore.open(path)
    try:
        col.add(VECTORS[N : N + 1], ids=["new"])
        change(path)
        there = path.exists() and change is not without_catalogue
        before = contents(path) if there else None
        for _ in range(2):
            with pytest.raises(bqstore.FolderReplacedError, match="open the path again"):
                CALLS[call](col)
    finally:
        col.close()
    if there:
        assert contents(path) == before
        with bqstore.open(path) as again:
            again.add(np.ones((1, DIM), np.float32), ids=["again"])
            assert again.verify().ok and again.get(["again"])[0].id == "again"
    elif change is turned or change is removed:
        with bqstore.open(path) as again:
            assert again.count() == 0


@pytest.mark.parametrize("change", [removed, moved_and_replaced])
def test_a_reader_says_so_within_a_second(tmp_path, change):
    filled(tmp_path / "store")
    with bqstore.open(tmp_path / "store", read_only=True) as reader:
        assert reader.search(VECTORS[20])
        change(tmp_path / "store")
        with pytest.raises(bqstore.FolderReplacedError):
            searched(reader)


def test_what_was_written_before_is_all_there_in_the_folder_that_was_moved(tmp_path):
    filled(tmp_path / "store")
    col = bqstore.open(tmp_path / "store")
    col.add(VECTORS[N : N + 1], ids=["new"])
    moved(tmp_path / "store")
    with pytest.raises(bqstore.FolderReplacedError):
        col.add(VECTORS[:1], ids=["lost"])
    col.close()
    with bqstore.open(tmp_path / "elsewhere") as found:
        assert found.get(["new"]) and not found.get(["lost"]) and found.verify().ok


def test_a_lock_that_is_removed_does_no_harm(tmp_path):
    """Two writers then follow each other, as before."""
    filled(tmp_path / "store")
    with bqstore.open(tmp_path / "store") as col:
        (tmp_path / "store" / "default" / "LOCK").unlink()
        col.add(VECTORS[N : N + 1], ids=["new"])
        assert col.verify().ok


def test_a_folder_that_goes_during_the_commit_is_noticed_before_the_answer(tmp_path, monkeypatch):
    """The documents are in a folder that nobody will open again: they must not count as stored."""
    from bqstore.storage import head_table

    filled(tmp_path / "store")
    col = bqstore.open(tmp_path / "store")
    write_head = head_table.write_head

    def last_moment(*arguments):
        write_head(*arguments)
        removed(tmp_path / "store")

    monkeypatch.setattr(head_table, "write_head", last_moment)
    with pytest.raises(bqstore.FolderReplacedError):
        col.add(VECTORS[:1], ids=["lost"])
    monkeypatch.undo()
    with pytest.raises(bqstore.StorageError):
        col.add(VECTORS[:1], ids=["lost"])
    col.close()


@pytest.mark.sampled(5)  # each call once
@pytest.mark.parametrize("change", [replaced, moved_and_replaced])
@pytest.mark.parametrize("call", ["add many", "clear", "compact", "flush", "requantize"])
def test_a_folder_that_goes_between_the_look_and_the_act(tmp_path, monkeypatch, call, change):
    """Files were made, renamed and swept by path: in the moment after the look it may lead to another store."""
    check, looks, store = Place.check, [0], tmp_path / "made"
    filled(store)
    for moment in range(1, 20):
        path = tmp_path / str(moment) / "store"
        shutil.copytree(store, path)

        def look_then_change(self, moment=moment, path=path):
            check(self)
            looks[0] += 1
            if looks[0] == moment:
                change(path)

        with bqstore.open(path) as col:
            col.add(VECTORS[N : N + 1], ids=["new"])
            looks[0] = 0
            with monkeypatch.context() as patch:
                patch.setattr(Place, "check", look_then_change)
                with contextlib.suppress(bqstore.StorageError):
                    CALLS[call](col)
            if looks[0] < moment:  # there is no such moment
                break
            before = contents(path)
            with pytest.raises(bqstore.StorageError):
                CALLS[call](col)
        assert contents(path) == before and before[2] == 5
    assert moment > 2
