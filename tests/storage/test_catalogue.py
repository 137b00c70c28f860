"""The catalogue: rows in and out, one commit or none, and SQLite's errors as BqstoreErrors."""

import json
import sqlite3
import threading
import zlib
from contextlib import closing
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
from hypothesis import strategies as st

import bqstore
from bqstore.errors import ClosedError, CorruptionError, LockedError, StorageError
from bqstore.storage import catalogue as catalogue_module
from bqstore.storage import head_table, row_table
from bqstore.storage.catalogue import Catalogue
from bqstore.storage.flat import layouts
from bqstore.storage.head import Head, Row, Settings
from bqstore.storage.sqlite_connection import let_write, translate
from bqstore.storage.text_index import TextIndex

from .depth import examples, for_all

HEAD = Head(store_id=5, dim=3, settings={"é": [1, None, {"x": 0.5}]})


def opened(path=None) -> Catalogue:
    catalogue = Catalogue(path)
    catalogue.start_writing()
    catalogue.create(HEAD)
    return catalogue


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
rows = st.builds(
    Row,
    st.integers(0, 2**62),
    st.integers(0, 2**62),
    texts,
    st.none() | texts,
    texts,
    st.none() | texts,
    st.none() | texts,
)


@examples
def test_rows_come_back_as_they_were(n):
    for_all(n, st.lists(rows, unique_by=(lambda r: r.rid, lambda r: r.id), max_size=8))(check_rows)


def check_rows(given_rows):
    catalogue = opened()
    with catalogue.writing() as connection:
        row_table.insert_rows(connection, given_rows)
    with catalogue.reading() as connection:
        for key in ("rid", "id"):
            found = row_table.read_rows(connection, key, [getattr(row, key) for row in given_rows], "meta.db")
            assert sorted(found) == sorted(given_rows, key=lambda r: r.rid)
        assert row_table.rids_by_id(connection, [r.id for r in given_rows], "x") == {r.id: r.rid for r in given_rows}
        ordered = sorted(given_rows, key=lambda r: r.rid)
        for column in ("id", "metadata", "ref_doc_id"):
            found = list(chain(*row_table.read_column(connection, column, "rows.rid >= ?", 0, "meta.db")))
            assert found == [(row.rid, getattr(row, column)) for row in ordered]
    catalogue.close()


def row(rid: int, id_: str, seq: int = 1) -> Row:
    return Row(rid, seq, id_, "text", "{}", None, None)


def test_more_rows_than_one_statement_takes():
    catalogue = opened()
    many = [row(i, f"id{i}") for i in range(1203)]
    with catalogue.writing() as connection:
        row_table.insert_rows(connection, many)
    with catalogue.reading() as connection:
        assert sorted(row_table.read_rows(connection, "rid", range(2000), "meta.db")) == many
    catalogue.close()


def test_the_head_comes_back_and_every_change_of_it_is_damage():
    version, body, crc = HEAD.stored()
    assert Head.from_stored(version, body, crc, "meta.db") == HEAD
    for place in range(len(body)):
        changed = body[:place] + chr(ord(body[place]) ^ 1) + body[place + 1 :]
        with pytest.raises(CorruptionError):
            Head.from_stored(version, changed, crc, "meta.db")
    for wrong in ("[]", "5", "{}", '{"store_id": 1}'):
        with pytest.raises(CorruptionError):
            Head.from_stored(version, wrong, zlib.crc32(wrong.encode()), "meta.db")


@pytest.mark.parametrize("on_disk", [True, False])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_transaction_that_is_left_by_an_exception_leaves_nothing(tmp_path, on_disk, error):
    catalogue = opened(tmp_path / "meta.db" if on_disk else None)
    with pytest.raises(error), catalogue.writing() as connection:
        row_table.insert_rows(connection, [row(1, "a")])
        raise error
    with catalogue.reading() as connection:
        assert row_table.read_rows(connection, "rid", [1], "meta.db") == []
    with catalogue.writing() as connection:
        row_table.insert_rows(connection, [row(1, "a")])
    with catalogue.reading() as connection:
        assert row_table.read_rows(connection, "rid", [1], "meta.db") == [row(1, "a")]
    catalogue.close()


@pytest.mark.parametrize("on_disk", [True, False])
def test_a_transaction_that_an_interrupt_left_open_does_not_stop_the_next(tmp_path, on_disk):
    """Ctrl-C between BEGIN and the block that would end it: the collection could not be used any more."""
    catalogue = opened(tmp_path / "meta.db" if on_disk else None)
    catalogue.main().execute("BEGIN")
    catalogue.main().execute("SELECT * FROM head").fetchall()
    with catalogue.writing() as connection:
        row_table.insert_rows(connection, [row(1, "a")])
    catalogue.main().execute("BEGIN IMMEDIATE")
    row_table.insert_rows(catalogue.main(), [row(2, "b")])
    with catalogue.snapshot():
        assert row_table.read_rows(catalogue.main(), "rid", [1, 2], "meta.db") == [row(1, "a")]
    catalogue.close()


def test_a_transaction_that_is_cleaned_up_late_does_not_end_a_newer_one():
    """A context that an exception's traceback keeps alive is closed at some time, perhaps amid another write."""
    catalogue = opened()
    abandoned = catalogue.snapshot()
    abandoned.__enter__()
    with catalogue.writing() as connection:
        row_table.insert_rows(connection, [row(1, "a")])
        abandoned.gen.close()
        row_table.insert_rows(connection, [row(2, "b")])
    with catalogue.reading() as connection:
        assert len(row_table.read_rows(connection, "rid", [1, 2], "meta.db")) == 2
    catalogue.close()


def test_a_snapshot_sees_one_commit(tmp_path):
    writer = opened(tmp_path / "meta.db")
    reader = Catalogue(tmp_path / "meta.db")
    with reader.snapshot():
        before = head_table.read_head(reader.main(), "meta.db")
        with writer.writing() as connection:
            row_table.insert_rows(connection, [row(1, "a")])
        assert head_table.read_head(reader.main(), "meta.db") == before == HEAD
        assert reader.main().execute("SELECT count(*) FROM rows").fetchone() == (0,)
    assert reader.main().execute("SELECT count(*) FROM rows").fetchone() == (1,)
    reader.close()
    writer.close()


def test_data_version_changes_with_commits_of_others(tmp_path):
    writer, reader = opened(tmp_path / "meta.db"), Catalogue(tmp_path / "meta.db")
    before = reader.data_version()
    assert reader.data_version() == before
    with writer.writing() as connection:
        row_table.insert_rows(connection, [row(1, "a")])
    assert reader.data_version() != before
    reader.close()
    writer.close()


def test_a_reader_leaves_the_log_to_the_writer(tmp_path):
    writer = opened(tmp_path / "meta.db")
    size = (tmp_path / "meta.db-wal").stat().st_size
    reader = Catalogue(tmp_path / "meta.db")
    assert head_table.read_head(reader.main(), "meta.db") == HEAD
    reader.close()
    assert (tmp_path / "meta.db-wal").stat().st_size == size
    writer.checkpoint()
    assert (tmp_path / "meta.db-wal").stat().st_size == 0
    writer.close()
    assert not (tmp_path / "meta.db-wal").exists()


def test_connections_are_used_again_and_by_one_thread_at_a_time(tmp_path):
    catalogue = opened(tmp_path / "meta.db")
    inside = threading.Barrier(4)

    def read() -> None:
        with catalogue.reading() as connection:
            inside.wait()
            assert head_table.read_head(connection, "meta.db") == HEAD

    for _ in range(5):
        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(catalogue._idle) <= 5
    catalogue.close()
    with pytest.raises(ClosedError), catalogue.reading():
        pass
    with pytest.raises(ClosedError), catalogue.writing():
        pass
    with pytest.raises(ClosedError):
        catalogue.data_version()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (sqlite3.DatabaseError("database disk image is malformed"), CorruptionError),
        (sqlite3.DatabaseError("file is not a database"), CorruptionError),
        (sqlite3.OperationalError("no such table: rows"), CorruptionError),
        (sqlite3.OperationalError("Could not decode to UTF-8 column 'text' with text 'secret'"), CorruptionError),
        (sqlite3.IntegrityError("UNIQUE constraint failed: rows.rid"), CorruptionError),
        (sqlite3.OperationalError("database is locked"), LockedError),
        (sqlite3.OperationalError("database or disk is full"), StorageError),
        (sqlite3.OperationalError("disk I/O error"), StorageError),
        (sqlite3.OperationalError("locking protocol"), StorageError),
        (sqlite3.OperationalError("attempt to write a readonly database"), StorageError),
        (sqlite3.DataError("string or blob too big"), StorageError),
        (sqlite3.OperationalError("unable to open database file"), StorageError),
        (sqlite3.ProgrammingError("Cannot operate on a closed database."), ClosedError),
    ],
)
def test_errors_of_sqlite_are_translated(error, expected):
    found = translate(error, "meta.db")
    assert type(found) is expected and "secret" not in str(found)


def test_changed_rows_are_found_without_a_scan_of_all_rows(tmp_path):
    """SQLite walked every row, to have them in order, after each change of metadata: 43 ms among a million."""
    with bqstore.open(tmp_path) as col:
        col.add(np.eye(3), ["a", "b", "c"], metadatas=[{"x": 1}] * 3)
        col.count({"x": 1})
        asked: list[str] = []
        connection = col._engine.store.catalogue.main()
        connection.set_trace_callback(asked.append)
        col.update_metadata(["b"], {"x": 2})
        connection.set_trace_callback(None)
        (question,) = [sql for sql in asked if "changed.seq >" in sql and sql.startswith("SELECT")]
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {question}")]
        assert not [step for step in plan if step.startswith("SCAN")], plan
        assert col.count({"x": 2}) == 1


def test_a_reader_opens_where_a_full_disk_leaves_no_room_for_files_of_sqlite(tmp_path, monkeypatch):
    opened(tmp_path / "meta.db").close()

    def connect(path, mode, immutable):
        if not immutable:
            raise sqlite3.OperationalError("database or disk is full")
        return real(path, mode, immutable)

    real = catalogue_module.connect
    with monkeypatch.context() as patch:
        patch.setattr(catalogue_module, "connect", connect)
        with pytest.raises(StorageError, match="full"):
            Catalogue(tmp_path / "meta.db")
        reader = Catalogue(tmp_path / "meta.db", read_only=True)
        assert head_table.read_head(reader.main(), "meta.db") == HEAD
    (tmp_path / "meta.db").rename(tmp_path / "moved.db")
    with pytest.raises(StorageError, match="cannot be read any more"):
        reader.data_version()
    (tmp_path / "moved.db").rename(tmp_path / "meta.db")
    reader.close()


def test_a_folder_that_may_be_written_after_all_is_written(tmp_path, monkeypatch):
    opened(tmp_path / "meta.db").close()
    with monkeypatch.context() as patch:
        patch.setattr(Catalogue, "_can_write", lambda self: False)
        catalogue = Catalogue(tmp_path / "meta.db")
    catalogue.start_writing()
    with catalogue.writing() as connection:
        row_table.insert_rows(connection, [row(1, "a")])
    catalogue.close()
    with closing(sqlite3.connect(tmp_path / "meta.db")) as raw:
        assert raw.execute("SELECT id FROM rows").fetchall() == [("a",)]


def test_another_collection_in_the_same_file_is_noticed(tmp_path):
    catalogue = opened(tmp_path / "meta.db")
    catalogue.store_id = HEAD.store_id + 1  # that of the file that was opened
    assert catalogue.rest()  # a new connection is looked at
    with pytest.raises(CorruptionError, match="was replaced while open"), catalogue.reading():
        pass
    catalogue.close()
    with bqstore.open(tmp_path / "store") as col:
        store = col._engine.store
        before, store.head = store.head, replace(store.head, store_id=store.head.store_id ^ 1)
        with pytest.raises(CorruptionError, match="was replaced while open"):
            store.reread()
        store.head = before


def test_a_commit_on_top_of_one_that_was_not_seen_is_refused(tmp_path):
    with bqstore.open(tmp_path) as col:
        store = col._engine.store
        before = store.head
        col.add([[1.0, 2.0]], ["a"])
        after, store.head = store.head, before  # as after an interrupt between a commit and its end
        with pytest.raises(StorageError, match="moved on under this write; nothing was written"):
            store.put_settings({**before.settings, "embedding_model": "m"}, before.dim)
        store.head = after
        assert col.info().embedding_model is None
        col.add([[2.0, 1.0]], ["b"])
        assert len(col) == 2


def test_a_schema_that_is_no_text_is_damage_by_name(tmp_path):
    opened(tmp_path / "meta.db").close()
    with closing(sqlite3.connect(tmp_path / "meta.db")) as raw, raw:
        raw.execute("PRAGMA writable_schema = ON")
        raw.execute("UPDATE sqlite_master SET name = CAST(x'ff' AS TEXT), sql = 'CREATE nothing' WHERE name = 'rows'")
    catalogue = Catalogue(tmp_path / "meta.db")
    with pytest.raises(CorruptionError, match=r"meta\.db"), catalogue.using_main() as main:
        main.execute("SELECT * FROM rows")
    catalogue.close()


def test_a_log_that_cannot_be_copied_at_the_start_of_writing_is_an_error(tmp_path):
    class Failing:
        """A connection whose checkpoint meets a failing disk."""

        def execute(self, statement):
            if "wal_checkpoint" in statement:
                raise sqlite3.OperationalError("disk I/O error")
            return self

        def fetchone(self):
            return None

    with pytest.raises(sqlite3.OperationalError, match="disk I/O error"):
        let_write(Failing(), tmp_path / "meta.db-wal", lambda: None)


@pytest.mark.parametrize("change", [{"dim": 0}, {"dim": 2.0}, {"dim": 1 << 40}, {"seq": -1}, {"n_live": 5}])
def test_a_head_of_impossible_numbers_with_a_right_checksum_is_damage(change):
    version, body, _ = HEAD.stored()
    body = json.dumps({**json.loads(body), **change})
    with pytest.raises(CorruptionError, match=r"the head row of meta\.db is damaged"):
        Head.from_stored(version, body, zlib.crc32(body.encode()), "meta.db")


def test_settings_that_no_release_has_stored_are_damage():
    with pytest.raises(CorruptionError, match="originals=5 is not known to this format"):
        layouts(replace(HEAD, settings=Settings({"originals": 5})))
    for given in (
        {"tokenize": "english"},
        {"tokenizer": "porter"},
        {"tokenize": "porter", "built": 3, "until": 2},
        {"tokenize": "porter", "built": -1, "until": 2},
    ):
        with pytest.raises(CorruptionError, match="is not known to this format"):
            TextIndex.of({"text_index": given})


def test_a_column_of_another_type_is_a_damaged_row():
    values = (1, 1, 5, None, "{}", None, None, 0)
    with pytest.raises(CorruptionError, match=r"row 1 of meta\.db is damaged"):
        Row.from_stored(values, "meta.db")
