"""Pages of an SQLite file read without SQLite: all records as SQLite reads them, of a damaged file only true ones."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from bqstore.storage.sqlite_pages import Pages

NUMBERS = [0, 1, -1, 127, -129, 40_000, -(2**23), 2**31, -(2**46), 2**62, -(2**63)]
VALUES = [None, "", "é", b"", b"\0" * 70, *NUMBERS, "w" * 600, "x" * 300, "y" * 5000, b"z" * 70_000]


def written(path: Path, page: int) -> list[tuple[object, ...]]:
    """A table of two columns beside the number of the row; what is in it."""
    rows = [(number, VALUES[i], VALUES[-i]) for i, number in enumerate([*range(1, len(VALUES)), 2**62])]
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(f"PRAGMA page_size = {page}")
        db.execute("CREATE TABLE some (number INTEGER PRIMARY KEY, one, two)")
        db.executemany("INSERT INTO some VALUES (?, ?, ?)", rows)
        db.execute("INSERT INTO some VALUES (-1, 0.5, 'a float, which no table of ours holds')")
    return rows


def read(path: Path) -> list[tuple[object, ...]]:
    with Pages(path) as pages:
        return sorted(pages.records(3), key=lambda row: row[0])


@pytest.mark.parametrize("page", [512, 4096, 65536])
def test_every_record_is_read_as_sqlite_reads_it(tmp_path, page):
    assert written(tmp_path / "a.db", page) == read(tmp_path / "a.db")


def test_of_a_file_that_was_cut_only_true_records_are_read(tmp_path):
    rows, data = written(tmp_path / "a.db", 512), (tmp_path / "a.db").read_bytes()
    found = []
    for pages in range(0, len(data) // 512 + 1, 7):
        (tmp_path / "cut.db").write_bytes(data[: pages * 512])
        some = read(tmp_path / "cut.db")
        assert all(row in rows for row in some)
        found.append(len(some))
    assert found == sorted(found) and found[0] == 0 < found[-1]


def test_of_a_page_alone_only_what_is_whole_on_it_is_read(tmp_path):
    """The rest of a long record lies on pages that are gone."""
    rows, data = written(tmp_path / "a.db", 512), (tmp_path / "a.db").read_bytes()
    leaves = [data[at : at + 512] for at in range(512, len(data), 512) if data[at] == 0x0D]
    found = []
    for leaf in leaves:
        (tmp_path / "one.db").write_bytes(data[:512] + leaf)
        found += read(tmp_path / "one.db")
    assert all(row in rows for row in found) and 0 < len(found) < len(rows)


def test_frames_of_the_log_before_its_last_beginning_are_older(tmp_path):
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE some (number INTEGER PRIMARY KEY, one, two)")
        db.executemany("INSERT INTO some VALUES (?, 'old', NULL)", ((i,) for i in range(20)))
        assert db.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()[0] == 0
        db.execute("UPDATE some SET one = 'new' WHERE number = 3")  # into the first frame; others stay behind it
        for name in ("a.db", "a.db-wal"):
            shutil.copy(tmp_path / name, tmp_path / f"copy-{name}")
        (tmp_path / "copy-a.db-wal").rename(tmp_path / "copy.db-wal")
        (tmp_path / "copy-a.db").rename(tmp_path / "copy.db")
    assert read(tmp_path / "copy.db") == [(i, "new" if i == 3 else "old", None) for i in range(20)]
