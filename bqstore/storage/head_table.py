"""The tables of `meta.db`, and its head row: created, looked at, read and replaced, through a connection."""

import sqlite3
from dataclasses import replace
from typing import Any, Final

from ..errors import CorruptionError
from . import record_table, text_index
from .format import newer_format
from .head import Head
from .text_index import TextIndex

APPLICATION_ID: Final = 0x42515354  # "BQST"
TABLES_VERSION: Final = 1  # in `user_version`; the format version of a collection is in its head row
_SCHEMA: Final = """
CREATE TABLE head (
    one INTEGER PRIMARY KEY CHECK (one = 1), format INTEGER NOT NULL, body TEXT NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE rows (
    rid INTEGER PRIMARY KEY, seq INTEGER NOT NULL, id TEXT NOT NULL UNIQUE, ref_doc_id TEXT, metadata TEXT NOT NULL,
    key_crc INTEGER NOT NULL, text TEXT, private TEXT, crc INTEGER NOT NULL);
CREATE INDEX rows_by_ref_doc_id ON rows (ref_doc_id) WHERE ref_doc_id IS NOT NULL;
CREATE TABLE dead (rid INTEGER PRIMARY KEY, seq INTEGER NOT NULL);
CREATE INDEX dead_by_seq ON dead (seq);
CREATE TABLE changed (rid INTEGER PRIMARY KEY, seq INTEGER NOT NULL);
CREATE INDEX changed_by_seq ON changed (seq);
"""
STATEMENTS: Final = [statement.strip() for statement in _SCHEMA.split(";")[:-1]]
_OTHER_COMMITS: Final = """
SELECT EXISTS (SELECT 1 FROM rows NOT INDEXED WHERE seq > :seq)
    OR EXISTS (SELECT 1 FROM dead NOT INDEXED WHERE seq > :seq)
    OR EXISTS (SELECT 1 FROM changed WHERE seq > :meta_seq)
    OR EXISTS (SELECT 1 FROM changed CROSS JOIN rows USING (rid) WHERE changed.seq <> rows.seq)
"""


def create_tables(connection: sqlite3.Connection, head: Head) -> None:
    """Create the tables and the first head row, inside of a transaction."""
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {TABLES_VERSION}")
    for statement in STATEMENTS:
        connection.execute(statement)
    index = TextIndex.of(head.settings)
    if index is not None:
        index.create(connection)
    if head.settings.get("records"):
        record_table.create(connection)
    write_head(connection, head)


def tables_version(settings: dict[str, Any]) -> int:
    """The `user_version` of a collection with these settings: another where it has tables beside those of all."""
    if settings.get("records"):
        return record_table.TABLES_VERSION
    return TABLES_VERSION if TextIndex.of(settings) is None else text_index.TABLES_VERSION


def read_head(connection: sqlite3.Connection, name: str) -> Head | None:
    """The head row, verified; None if there are no tables yet."""
    if connection.in_transaction:
        return _read_head(connection, name)
    connection.execute("BEGIN")  # the tables are those of the head: a text index may come between two statements
    try:
        return _read_head(connection, name)
    finally:
        connection.rollback()


def _read_head(connection: sqlite3.Connection, name: str) -> Head | None:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > text_index.TABLES_VERSION:
        raise newer_format(name, version, text_index.TABLES_VERSION)
    schema = [row for row in connection.execute("SELECT name, sql FROM sqlite_master") if row[1] is not None]
    if not schema:
        return None
    if {sql for _, sql in schema}.issuperset(STATEMENTS):
        head = reread_head(connection, name, None)
        expected = STATEMENTS + (record_table.STATEMENTS if head.settings.get("records") else [])
        others = {table: sql for table, sql in schema if sql not in expected}
        whole = len(schema) - len(others) == len(expected) and version == tables_version(head.settings)
        if whole and text_index.are_tables(others, TextIndex.of(head.settings)):
            return head
    raise CorruptionError(
        f"{name} does not have the tables of a collection: damaged, or another program's; restore it from a copy"
    )


def reread_head(connection: sqlite3.Connection, name: str, known: Head | None) -> Head:
    """The head row, verified; ``known`` itself if it is still stored. The tables were looked at when it was opened."""
    row = connection.execute("SELECT format, body, crc FROM head").fetchone()
    if row is None:  # it was created in one commit with the tables
        raise CorruptionError(f"{name} has lost its head row; restore the collection from a copy")
    if known is not None and row == known.stored():
        return known
    head = Head.from_stored(row[0], row[1], row[2], name)
    same = known is not None and known.settings == head.settings
    return replace(head, settings=known.settings) if known is not None and same else head


def check_commits(connection: sqlite3.Connection, head: Head, name: str) -> None:
    """Raise CorruptionError where rows and lists of them are not of one commit: pages of several, in a copy.

    No page's checksum tells that, and no count need. The lists know the commits of rows, and the head knows the last.
    """
    if connection.execute(_OTHER_COMMITS, {"seq": head.seq, "meta_seq": head.meta_seq}).fetchone()[0]:
        raise CorruptionError(
            f"{name} holds rows of several commits: the folder was copied while it was written; make another copy with "
            "backup(), or with `cp` when nobody writes"
        )


def write_head(connection: sqlite3.Connection, head: Head) -> None:
    """Replace the head row."""
    connection.execute("INSERT OR REPLACE INTO head VALUES (1, ?, ?, ?)", head.stored())
