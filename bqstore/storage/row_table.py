"""The rows of `meta.db`: read by their keys, checked; added, replaced and deleted, through a connection."""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from .head import Row, check_keys

AT_ONCE: Final = 500  # parameters of one statement; older SQLite takes 999
_PORTION, _PORTION_LENGTH = 4096, 8 << 20  # rows, and characters, of a column in memory at a time
WHOLE: Final = "rid, seq, id, text, metadata, private, ref_doc_id, crc"  # the order of `Row.from_stored`
KEYS: Final = ("rid", "seq", "id", "ref_doc_id", "metadata", "key_crc")  # the order of `check_keys`
_INSERT: Final = f"INTO rows ({WHOLE}, key_crc) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"


def read_rows(connection: sqlite3.Connection, key: str, values: Sequence[object], name: str) -> list[Row]:
    """The rows whose ``key`` ("rid" or "id") is among the values, unordered, CRCs verified."""
    found: list[Row] = []
    for at in range(0, len(values), AT_ONCE):
        some = values[at : at + AT_ONCE]
        marks = ",".join("?" * len(some))
        sql = f"SELECT {WHOLE} FROM rows WHERE {key} IN ({marks})"  # noqa: S608 - names of our own
        found.extend(Row.from_stored(row, name) for row in connection.execute(sql, some))
    return found


def read_column(
    connection: sqlite3.Connection, column: str, condition: str, value: object, name: str
) -> Iterator[list[tuple[int, Any]]]:
    """(rid, value) of one of the columns that `key_crc` covers, ordered by rid, CRCs verified; in portions."""
    place = KEYS.index(column)
    tables = "rows"
    if condition.startswith("changed."):  # CROSS: begin with the few changed rows; SQLite would scan all, for the order
        tables = "changed CROSS JOIN rows USING (rid)"
    columns = ", ".join(f"rows.{key}" for key in KEYS)
    rows = connection.execute(f"SELECT {columns} FROM {tables} WHERE {condition} ORDER BY rows.rid", (value,))  # noqa: S608
    portion: list[tuple[int, Any]] = []
    size = 0
    for row in rows:
        found = check_keys(row, name)[place]
        portion.append((row[0], found))
        size += len(found or "")
        if len(portion) == _PORTION or size > _PORTION_LENGTH:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


def read_keys(connection: sqlite3.Connection, rids: Sequence[int], name: str) -> list[tuple[Any, ...]]:
    """The columns that `key_crc` covers of the rows with these rids, at most AT_ONCE, unordered, CRCs verified."""
    sql = f"SELECT {', '.join(KEYS)} FROM rows WHERE rid IN ({','.join('?' * len(rids))})"  # noqa: S608
    return [check_keys(row, name) for row in connection.execute(sql, rids)]


def rids_by_id(connection: sqlite3.Connection, ids: Iterable[str], name: str) -> dict[str, int]:
    """The rids of those ids that exist.

    CRCs are verified: a damaged index entry that leads to another row would have that row deleted.
    """
    found = {}
    for id_ in ids:
        row = connection.execute(f"SELECT {', '.join(KEYS)} FROM rows WHERE id = ?", (id_,)).fetchone()  # noqa: S608
        if row is not None:
            found[id_] = int(check_keys(row, name)[0])
    return found


def rids_by_ref(connection: sqlite3.Connection, refs: Iterable[str], name: str) -> set[int]:
    """The rids of the rows with these source documents, through their index; CRCs verified as in `rids_by_id`."""
    found = set()
    for ref in refs:
        sql = f"SELECT {', '.join(KEYS)} FROM rows WHERE ref_doc_id = ?"  # noqa: S608
        for row in connection.execute(sql, (ref,)):
            found.add(int(check_keys(row, name)[0]))
    return found


def insert_rows(connection: sqlite3.Connection, rows: Iterable[Row]) -> None:
    """Add rows with new ids."""
    connection.executemany(f"INSERT {_INSERT}", (row.stored() for row in rows))


def replace_rows(connection: sqlite3.Connection, rows: Iterable[Row]) -> None:
    """Replace the rows with the same rids, and list them in ``changed``."""
    rows = list(rows)
    connection.executemany(f"REPLACE {_INSERT}", (row.stored() for row in rows))
    connection.executemany("REPLACE INTO changed VALUES (?, ?)", ((row.rid, row.seq) for row in rows))


def bury(connection: sqlite3.Connection, rids: Iterable[int], seq: int) -> None:
    """Delete rows and add a tombstone for each."""
    rids = list(rids)
    if not rids:
        return
    connection.executemany("DELETE FROM changed WHERE rid = ?", ((rid,) for rid in rids))
    connection.executemany("DELETE FROM rows WHERE rid = ?", ((rid,) for rid in rids))
    connection.executemany("INSERT INTO dead VALUES (?, ?)", ((rid, seq) for rid in rids))


def empty(connection: sqlite3.Connection, *tables: str) -> None:
    """Delete everything in tables."""
    for table in tables:
        connection.execute(f"DELETE FROM {table}")  # noqa: S608 - names of our own
