"""What is wrong with `kv.db` is said: an emptied file, false checksums, a lost row, a commit in doubt."""

import errno
import re
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

import bqstore
from bqstore import CorruptionError, LockedError, StorageError
from bqstore.storage import key_value_tables as tables
from bqstore.storage.key_values import Held
from bqstore.storage.place import Place
from tests.engine.test_durability import small_disk


def made(path: Path) -> Path:
    """A collection with two entries; its `kv.db`."""
    with bqstore.open(path) as col, bqstore.open_key_values(path) as kv:
        col.add([[1.0, 0.0], [0.0, 1.0]], ids=["a", "b"])
        kv.put({"x": b"1", "y": b"2"})
    return path / "default/kv.db"


def changed(file: Path, statement: str, *given: object) -> None:
    with closing(sqlite3.connect(file)) as raw, raw:
        raw.create_function("crc", 1, lambda text: tables.zlib.crc32(text.encode()))
        raw.execute(statement, given)


def test_an_emptied_file_is_not_taken_for_one_without_entries(tmp_path):
    file = made(tmp_path / "store")
    file.write_bytes(b"")
    for read_only in (False, True):
        with pytest.raises(CorruptionError, match=r"kv\.db is empty, and entries had been written to it; restore it"):
            bqstore.open_key_values(tmp_path / "store", read_only=read_only)
    with bqstore.open(tmp_path / "store") as col:
        report = col.verify()
        assert not report.ok and any("kv.db is empty" in each for each in report.problems)
        with pytest.raises(CorruptionError, match=r"kv\.db is empty"):
            col.backup(tmp_path / "copy")
    repaired = bqstore.repair(tmp_path / "store", to=tmp_path / "repaired")
    assert repaired.documents == 2 and "kv.db" in repaired.problems[-1]
    file.unlink()
    with bqstore.open(tmp_path / "store") as col:  # without the file there are none, as in an older backup
        assert col.verify().ok
        col.backup(tmp_path / "copy")


@pytest.mark.parametrize("when", ["before its name", "in its commit"])
def test_making_the_file_is_interrupted_and_leaves_none(tmp_path, monkeypatch, when):
    def interrupted(*arguments, **keywords):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*((Place, "replace") if when == "before its name" else (tables, "write_about")), interrupted)
        with pytest.raises(KeyboardInterrupt):
            bqstore.open_key_values(tmp_path)
    folder = tmp_path / "default"
    assert not (folder / "kv.db").exists()
    with pytest.raises(bqstore.NotFoundError, match="there are no entries"):
        bqstore.open_key_values(tmp_path, read_only=True)
    (folder / "kv.db.new-journal").write_bytes(b"of a process that was killed")
    (folder / "kv.db-wal").write_bytes(b"of a file that is gone")
    with bqstore.open_key_values(tmp_path) as kv:
        kv.put({"x": b"1"})
    with bqstore.open_key_values(tmp_path) as kv:
        assert kv.items() == [("x", b"1")]
    assert not [each for each in folder.iterdir() if each.name.startswith("kv.db.new")]


@pytest.mark.parametrize(
    ("key", "value"), [("id", '"a"'), ("seq", "-1"), ("entries", "2.0"), ("time", "1"), ("time", "Infinity")]
)
def test_a_false_row_about_all_entries_is_refused(tmp_path, key, value):
    file = made(tmp_path)
    found = bqstore.open_key_values(tmp_path)
    about = {"id": 1, "seq": 1, "entries": 2, "time": 1.5} | {key: None}
    found.close()
    body = tables.json.dumps(about).replace("null", value)
    changed(file, "UPDATE about SET body = ?, crc = crc(?)", body, body)
    with pytest.raises(CorruptionError, match="has lost the row about its entries"):
        bqstore.open_key_values(tmp_path)


def test_a_false_checksum_is_told_by_what_reads_it(tmp_path):
    file = made(tmp_path)
    changed(file, "UPDATE entries SET key_crc = 0 WHERE key = 'x'")
    said = r"entry 'x' of '' in kv\.db is damaged"
    with bqstore.open_key_values(tmp_path) as kv:
        for ask in (kv.keys, kv.items, lambda: kv.get(["x"]), lambda: kv.exist(["x"])):
            with pytest.raises(CorruptionError, match=said):
                ask()
        assert kv.get(["y"]) == [b"2"]
    with pytest.raises(CorruptionError, match="entry 'x' of None"):  # where a page holds what its schema does not allow
        tables.entry_of((None, "x", None, 1.0, 0, b"1", 0), "kv.db")
    changed(file, "UPDATE about SET crc = crc + 1")
    with pytest.raises(CorruptionError, match="has lost the row about its entries"):
        bqstore.open_key_values(tmp_path)
    repaired = bqstore.repair(tmp_path, to=tmp_path / "repaired")
    assert any("has lost the row about its entries" in each for each in repaired.problems)
    with bqstore.open_key_values(tmp_path / "repaired") as kv:
        assert kv.items() == [("y", b"2")]


def test_repair_takes_all_of_sound_entries(tmp_path):
    made(tmp_path / "store")
    assert not bqstore.repair(tmp_path / "store", to=tmp_path / "repaired").problems
    with bqstore.open_key_values(tmp_path / "repaired") as kv:
        assert kv.items() == [("x", b"1"), ("y", b"2")]


def test_verify_counts_what_the_table_has(tmp_path):
    file = made(tmp_path)
    changed(file, "DELETE FROM entries WHERE key = 'x'")
    with closing(sqlite3.connect(file)) as raw:
        assert tables.problems_of(raw, "kv.db") == ["kv.db: its own row counts 2 entries, there are 1"]


FIRST = {  # what is put at a place of the first page
    "the name of the format": (0, bytes(16)),
    "the size of a page": (16, b"\xff\xff"),
    "the version that may write": (18, b"\xff"),
    "the version that may read": (19, b"\xff"),
    "the number of pages": (28, b"\0\0\0\x7f"),
    "the form of the schema": (44, b"\0\0\0\xff"),
    "the encoding of text": (56, b"\0\0\0\3"),
    "the kind of the page": (100, b"\5"),
    "the statements": (3600, bytes(300)),
    "a byte of a statement": (3703, b"\xee"),
    "all of it": (0, bytes(range(256)) * 16),
}


@pytest.mark.parametrize("what", FIRST)
def test_damage_of_the_first_page_is_said_to_be_damage_and_repair_saves_the_entries(tmp_path, what):
    """It was a StorageError without advice, and a bare UnicodeDecodeError of `repair`, which saved nothing."""
    file = made(tmp_path / "store")
    at, bad = FIRST[what]
    data = file.read_bytes()
    assert data[18:20] == b"\2\2" and len(data) > 4096
    file.write_bytes(data[:at] + bad + data[at + len(bad) :])
    said = r"kv\.db .*(damage|UTF-8).*restore it from a copy, or save what is intact with `bqstore repair`"
    for read_only in (False, True):
        try:
            with bqstore.open_key_values(tmp_path / "store", read_only=read_only) as kv:
                assert kv.items() == [("x", b"1"), ("y", b"2")]
            assert what in ("the number of pages", "the version that may write")  # which reading does not use
        except CorruptionError as error:
            assert re.search(said, str(error), re.DOTALL), error
    repaired = bqstore.repair(tmp_path / "store", to=tmp_path / "repaired")
    assert repaired.documents == 2 and not repaired.lost
    with bqstore.open_key_values(tmp_path / "repaired") as kv:
        assert kv.items() == [("x", b"1"), ("y", b"2")]


def test_repair_was_advised_and_refused_where_there_are_no_documents_beside_the_entries(tmp_path):
    with bqstore.open_key_values(tmp_path / "store") as kv:
        kv.put({"x": b"1", "y": b"2"})
    file = tmp_path / "store/default/kv.db"
    file.write_bytes(bytes(4096) + file.read_bytes()[4096:])
    with pytest.raises(CorruptionError, match="bqstore repair"):
        bqstore.open_key_values(tmp_path / "store")
    repaired = bqstore.repair(tmp_path / "store", to=tmp_path / "repaired")
    assert repaired.documents == 0 and repaired.problems == ["kv.db: its first page is damaged"]
    assert [each.name for each in (tmp_path / "repaired").iterdir()] == ["default"]
    with bqstore.open_key_values(tmp_path / "repaired") as kv:
        assert kv.items() == [("x", b"1"), ("y", b"2")]
    (tmp_path / "store/default/vectors-0.bin").touch()
    with pytest.raises(CorruptionError, match=r"holds no meta\.db"):
        bqstore.repair(tmp_path / "store", to=tmp_path / "again")


def test_on_a_full_disk_entries_can_be_deleted_and_what_does_not_fit_says_what_it_takes(tmp_path):
    disk = small_disk(tmp_path, "3m")

    def fill() -> None:
        with pytest.raises(OSError, match="No space"), (disk / "filler").open("ab", buffering=0) as file:
            while True:
                file.write(b"z" * 4096)

    try:
        fill()
        with pytest.raises(StorageError, match="No space left") as caught:
            bqstore.open_key_values(disk)
        assert caught.value.errno == errno.ENOSPC
        with (disk / "filler").open("r+b") as file:
            file.truncate(file.seek(0, 2) - (30 << 10))
        with pytest.raises(StorageError, match=r"kv\.db.* No space left"):
            bqstore.open_key_values(disk)
        assert not [each for each in (disk / "default").iterdir() if each.name.startswith("kv.db.new")]
        (disk / "filler").unlink()
        with bqstore.open_key_values(disk) as kv:
            kv.put({f"k{i}": b"v" * 3000 for i in range(300)})
            fill()
            with pytest.raises(StorageError, match=r"kv\.db: No space left") as caught:
                kv.put({"new": b"v" * 3000})
            assert caught.value.errno == errno.ENOSPC
            assert kv.delete([f"k{i}" for i in range(5)]) == 5
            with pytest.raises(
                StorageError, match=r"deleting 300 entries takes up to [\d,]+ bytes meanwhile; delete fewer"
            ):
                kv.delete([f"k{i}" for i in range(300)])
        fill()
        with bqstore.open_key_values(disk) as kv, bqstore.open_key_values(disk, read_only=True) as reader:
            assert len(kv.keys()) == len(reader.items()) == 295
            (disk / "filler").unlink()
            kv.put({"new": b"v"})
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


class FailingCommit:
    """A connection whose COMMIT meets a failing disk."""

    def __init__(self, real):
        self.real = real

    def execute(self, statement, *arguments):
        if statement == "COMMIT":
            raise sqlite3.OperationalError("disk I/O error")
        return self.real.execute(statement, *arguments)

    def __getattr__(self, name):
        return getattr(self.real, name)


def test_after_a_commit_in_doubt_nothing_is_written_until_the_entries_are_opened_again(tmp_path):
    made(tmp_path)
    with bqstore.open_key_values(tmp_path) as kv:
        catalogue = kv._entries.catalogue
        real, catalogue._main = catalogue._main, FailingCommit(catalogue._main)
        with pytest.raises(StorageError, match="disk I/O error"):
            kv.put({"z": b"3"})
        catalogue._main = real
        with pytest.raises(StorageError, match=r"an earlier write failed .*open them again"):
            kv.put({"z": b"3"})
        assert kv.keys() == ["x", "y"]
    with bqstore.open_key_values(tmp_path) as kv:
        kv.put({"z": b"3"})
        assert kv.keys() == ["x", "y", "z"]


def test_a_signal_handler_inside_a_write_is_told_so(tmp_path):
    made(tmp_path)
    with bqstore.open_key_values(tmp_path) as kv:
        with Held(kv._entries._turn), pytest.raises(LockedError, match="inside a write of these entries"):
            kv.put({"z": b"3"})
        kv.put({"z": b"3"})
