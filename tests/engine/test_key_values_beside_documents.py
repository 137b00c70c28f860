"""Keys and values go where the documents of their collection go: copied, backed up, verified, repaired, erased."""

import random
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

import bqstore
from bqstore import InvalidInputError
from bqstore.storage import backup as storage_backup
from bqstore.storage import open_key_values as storage_key_values
from bqstore.storage.head_table import STATEMENTS
from tests.conftest import often

from ..storage.damage import flip


def make(path: Path, **pairs: bytes) -> None:
    with bqstore.open(path) as col, bqstore.open_key_values(path) as kv:
        col.add([[1.0, 0.0], [0.0, 1.0]], ids=["a", "b"], texts=["one", "two"])
        kv.put(pairs or {"x": b"1", "y": b"2"}, "s", groups=["g"] * len(pairs or "xy"))


def pairs_of(path: Path, collection: str = "default") -> dict[str, bytes]:
    with bqstore.open_key_values(path, collection, read_only=True) as kv:
        return dict(kv.items("s"))


def test_the_catalogue_is_as_earlier_releases_know_it_whichever_is_opened_first(tmp_path):
    bqstore.open_key_values(tmp_path).close()
    assert bqstore.collections(tmp_path) == []  # keys and values are no collection
    make(tmp_path)
    with closing(sqlite3.connect(tmp_path / "default/meta.db")) as raw:
        found = raw.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    assert {row[0] for row in found} == set(STATEMENTS)
    with bqstore.open(tmp_path, distance="cosine", read_only=True) as col:
        assert len(col) == 2 and col.verify().ok


def test_copies_renamed_and_dropped_collections_take_their_entries_along(tmp_path):
    make(tmp_path)
    bqstore.copy(tmp_path, "default", "second")
    with bqstore.open(tmp_path) as col:
        col.save(tmp_path / "saved")
        col.clear()
    assert pairs_of(tmp_path) == pairs_of(tmp_path, "second") == pairs_of(tmp_path / "saved") == {"x": b"1", "y": b"2"}
    bqstore.rename(tmp_path, "second", "third")
    assert pairs_of(tmp_path, "third") == {"x": b"1", "y": b"2"}
    bqstore.drop(tmp_path, "third")
    with pytest.raises(bqstore.NotFoundError):
        pairs_of(tmp_path, "third")


def test_a_backup_has_the_entries_and_is_brought_up_to_date_with_what_differs(tmp_path):
    make(tmp_path / "store", x=b"1" * 9000, y=b"2", z=b"3")
    with bqstore.open(tmp_path / "store") as col, bqstore.open_key_values(tmp_path / "store") as kv:
        col.backup(tmp_path / "copy")
        kv.put({"y": b"two"}, "s")
        kv.delete(["z"], "s")
        col.add([[1.0, 1.0]], ids=["c"])
        assert col.backup(tmp_path / "copy", incremental=True).bytes_written < 1000
        assert pairs_of(tmp_path / "copy") == {"x": b"1" * 9000, "y": b"two"} == dict(kv.items("s"))
        with bqstore.open_key_values(tmp_path / "copy") as theirs, bqstore.open(tmp_path / "copy") as copy:
            assert theirs.keys("s", groups=["g"]) == ["x"] and len(copy) == 3 and copy.verify().ok
            theirs.put({"own": b""}, "s")
            theirs.put({"own": b"2"}, "s")
        kv.put({"w": b"4"}, "s")
        with pytest.raises(InvalidInputError, match="was written since it was copied"):
            col.backup(tmp_path / "copy", incremental=True)
        assert pairs_of(tmp_path / "copy")["own"] == b"2"


def test_a_backup_has_a_document_for_each_entry_while_both_are_written(tmp_path, monkeypatch):
    """An entry is put after its document. A commit between the two moments that are chosen makes it choose again."""
    make(tmp_path / "store")
    with bqstore.open(tmp_path / "store") as col, bqstore.open_key_values(tmp_path / "store") as kv:
        real, calls = storage_backup.last_commit, []

        def late(store):
            calls.append(store)
            if len(calls) < 3:  # after the entries were chosen
                kv.put({f"new {len(calls)}": b""}, "s")
            return real(store)

        monkeypatch.setattr(storage_backup, "last_commit", late)
        col.backup(tmp_path / "copy")
        assert len(calls) == 3 and {"new 1", "new 2"} <= pairs_of(tmp_path / "copy").keys()
        monkeypatch.undo()
        stop = threading.Event()

        def write() -> None:
            i = 0
            while not stop.is_set():
                col.add([[1.0, i]], ids=[f"d{i}"])
                kv.put({f"d{i}": b""}, "docs")
                i += 1

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for i in range(4):
                col.backup(tmp_path / f"copy {i}")
        finally:
            stop.set()
            writer.join()
    for i in range(4):
        with bqstore.open(tmp_path / f"copy {i}") as copy, bqstore.open_key_values(tmp_path / f"copy {i}") as theirs:
            assert {*theirs.keys("docs")} <= {*copy.ids()}


def test_the_bytes_of_a_collection_are_those_of_its_entries_too(tmp_path):
    make(tmp_path)
    with bqstore.open(tmp_path) as col:
        before = col.info().disk_bytes
        with bqstore.open_key_values(tmp_path) as kv:
            kv.put({"large": b"x" * 100_000})
            assert 100_000 < col.info().disk_bytes - before < 200_000


def test_a_stale_log_of_an_interrupted_backup_is_no_part_of_the_copy(tmp_path):
    make(tmp_path / "store")
    growing = tmp_path / "copy" / ".default.partial"
    growing.mkdir(parents=True)
    for name in ("kv.db", "kv.db-wal"):
        (growing / name).write_bytes(b"half of something")
    (tmp_path / "store/default/kv.db").unlink()
    with bqstore.open(tmp_path / "store") as col:
        col.backup(tmp_path / "copy")
    with bqstore.open_key_values(tmp_path / "copy") as kv:
        assert kv.keys("s") == []


def damage(file: Path, text: bytes) -> None:
    data = file.read_bytes()
    assert data.count(text) == 1
    file.write_bytes(flip(data, data.index(text) + 3))


def test_verify_and_repair_know_damaged_entries(tmp_path):
    make(tmp_path / "store", x=b"a value of x", y=b"a value of y", z=b"a value of z")
    damage(tmp_path / "store/default/kv.db", b"a value of y")
    with bqstore.open(tmp_path / "store") as col:
        report = col.verify()
        assert not report.ok and any("entry 'y' of 's' in kv.db is damaged" in each for each in report.problems)
        with pytest.raises(bqstore.CorruptionError, match="not whole"):
            col.backup(tmp_path / "copy")
    repaired = bqstore.repair(tmp_path / "store", to=tmp_path / "repaired")
    assert repaired.documents == 2 and not repaired.lost
    assert "kv.db: 1 of 3 entries are lost" in repaired.problems
    assert pairs_of(tmp_path / "repaired") == {"x": b"a value of x", "z": b"a value of z"}
    with bqstore.open_key_values(tmp_path / "repaired") as kv:
        assert kv.keys("s", groups=["g"]) == ["x", "z"]
    with bqstore.open(tmp_path / "repaired") as col:
        assert col.verify().ok


def test_repair_saves_the_documents_where_the_entries_cannot_be_read_at_all(tmp_path):
    make(tmp_path / "store")
    (tmp_path / "store/default/kv.db").write_bytes(b"no database at all" * 300)
    with bqstore.open(tmp_path / "store") as col:
        assert any(each.startswith("kv.db: ") for each in col.verify().problems)
    repaired = bqstore.repair(tmp_path / "store", to=tmp_path / "repaired")
    assert repaired.documents == 2 and "none of its entries could be saved" in repaired.problems[-1]


@pytest.mark.parametrize("place", range(often(20)))
def test_repair_saves_entries_from_any_damage_and_none_that_is_wrong(tmp_path, place):
    whole = {f"key {i}": (f"value {i} " * (1 + i % 40 * 20)).encode() for i in range(60)}
    make(tmp_path / "store", **whole)
    file = tmp_path / "store/default/kv.db"
    data = bytearray(file.read_bytes())
    rng = random.Random(place)
    at = rng.randrange(2, len(data) // 4096) * 4096  # not the first two: one says what the tables are
    if place % 3:
        data[at : at + 4096] = bytes(4096) if place % 3 == 1 else rng.randbytes(4096)
    else:
        del data[at:]
    file.write_bytes(data)
    with bqstore.open(tmp_path / "store") as col:
        sound = col.verify().ok
    repaired = bqstore.repair(tmp_path / "store", to=tmp_path / "repaired")
    saved = pairs_of(tmp_path / "repaired")
    assert saved.items() <= whole.items() and sound == (saved == whole) == (not repaired.problems)
    assert len(saved) > (0 if place % 3 == 0 else 20)
    assert [each.name for each in (tmp_path / "repaired").iterdir()] == ["default"]


@pytest.mark.parametrize("exclusive", [False, True])
def test_deleted_entries_are_gone_from_every_byte_after_compact(tmp_path, exclusive, monkeypatch):
    real = storage_key_values._Entries.start_writing

    def start_writing(self):
        real(self)
        self._main.execute("PRAGMA secure_delete = OFF")  # as some systems compile SQLite

    monkeypatch.setattr(storage_key_values._Entries, "start_writing", start_writing)
    with bqstore.open(tmp_path, exclusive=exclusive) as col, bqstore.open_key_values(tmp_path) as kv:
        col.add([[1.0, 0.0]], ids=["a"])
        kv.put({"kept": b"kept-canary", "gone": b"gone-canary" * 900, "new": b"old-canary"})
        kv.put({"new": b"new-canary"})
        kv.delete(["gone"])
        col.compact()
        data = b"".join(file.read_bytes() for file in tmp_path.rglob("kv.db*") if not file.name.endswith("-shm"))
        assert b"kept-canary" in data and b"new-canary" in data
        assert b"gone-canary" not in data and b"old-canary" not in data
        assert kv.get(["kept", "gone", "new"]) == [b"kept-canary", None, b"new-canary"]


def test_two_threads_that_made_the_entries_of_an_exclusive_collection_emptied_each_others(tmp_path, monkeypatch):
    """The lock of the folder is theirs both: one removed the file that the other was making."""
    found: list = []

    def put(key: str) -> None:
        with bqstore.open_key_values(tmp_path) as entries:
            entries.put({key: b"value"})
            found.append(key)

    other, begun, ended = threading.Thread(target=put, args=("b",)), threading.Event(), threading.Event()
    create, sync = storage_key_values.tables.create, storage_key_values.platform.sync_file

    def meanwhile(fd: int) -> None:  # the file of the first is whole, and about to get its name
        monkeypatch.setattr(storage_key_values.platform, "sync_file", sync)
        monkeypatch.setattr(storage_key_values.tables, "create", slowly)
        other.start()
        begun.wait(0.3)
        sync(fd)

    def slowly(*arguments):
        begun.set()
        ended.wait(5)
        create(*arguments)

    monkeypatch.setattr(storage_key_values.platform, "sync_file", meanwhile)
    with bqstore.open(tmp_path, exclusive=True):
        try:
            put("a")
        finally:
            ended.set()
            other.join()
        with bqstore.open_key_values(tmp_path) as entries:
            assert sorted(found) == sorted(entries.keys()) == ["a", "b"]
