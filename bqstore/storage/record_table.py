"""The records of a record manager, in `meta.db`: what was written of which source, and when.

They are written in the transactions of the documents that they are about, and deleted with them. A record has a
namespace, a key in it, which is the id of a document, perhaps the group it is in (its source), and a time, later than
that of every earlier record of the namespace. One is *begun* as long as its group is a guess, made when its document
was added: who knows the source tells it only afterwards.

The table is made with the first record, so that older releases go on opening a collection that has none. Times are in
microseconds since 1970: whole numbers, which `sqlite_pages.py` reads. Knows connections, no files and no locks.
"""

import sqlite3
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from ..errors import RESTORE, CorruptionError
from .row_table import AT_ONCE

Connection = sqlite3.Connection  # as `engine` names it
TABLES_VERSION: Final = 2  # `user_version`, as with a text index: releases that know neither refuse both
_SCHEMA: Final = """
CREATE TABLE records (
    number INTEGER PRIMARY KEY, namespace TEXT NOT NULL, key TEXT NOT NULL, part TEXT, time INTEGER NOT NULL,
    begun INTEGER NOT NULL, crc INTEGER NOT NULL, UNIQUE (key, namespace));
CREATE INDEX records_by_time ON records (namespace, time);
CREATE INDEX records_by_part ON records (namespace, part, time) WHERE part IS NOT NULL;
CREATE INDEX records_begun ON records (namespace, time) WHERE begun;
"""
STATEMENTS: Final = [statement.strip() for statement in _SCHEMA.split(";")[:-1]]
COLUMNS: Final = "namespace, key, part, time, begun, crc"
RAW: Final = 1 + len(COLUMNS.split(", "))  # columns with the number
SECOND: Final = 1_000_000


class KeyRecord(NamedTuple):
    """One record; a time of 0 is that of the commit which will write it."""

    namespace: str
    key: str
    group: str | None
    time: int = 0
    begun: int = 0

    def stored(self) -> tuple[object, ...]:
        """The columns of its row."""
        return (*self, _crc(*self))


def _crc(namespace: str, key: str, group: str | None, time: int, begun: int) -> int:
    sizes = f"{len(namespace)},{len(key)},{'-' if group is None else len(group)},{time:d},{begun:d}:"
    return zlib.crc32(f"{sizes}{namespace}{key}{group or ''}".encode())


def record_of(row: Sequence[Any], name: str) -> KeyRecord:
    """The record of its columns; CorruptionError if the CRC does not match."""
    try:
        if _crc(*row[:-1]) == row[-1]:
            return KeyRecord(*row[:-1])
    except (TypeError, ValueError):  # a column of another type
        pass
    raise CorruptionError(f"record {row[1]!r} of {row[0]!r} in {name} is damaged; {RESTORE}")


def create(connection: sqlite3.Connection) -> None:
    """Make the table, empty."""
    for statement in STATEMENTS:
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {TABLES_VERSION}")


# ---- writing


def now(connection: sqlite3.Connection, namespace: str) -> int:
    """The time, later than that of every record of a namespace: whatever the clocks of those who have written."""
    last = connection.execute("SELECT max(time) FROM records WHERE namespace = ?", (namespace,)).fetchone()[0]
    return clock() if last is None else max(clock(), int(last) + 1)


def clock() -> int:
    """What the clock of this machine says."""
    return int(time.time() * SECOND)


def write(connection: sqlite3.Connection, records: Iterable[KeyRecord]) -> None:
    """Write records, in the place of those with the same keys."""
    given = list({record[:2]: record for record in records}.values())  # of equal keys the last
    if not given:  # there may be no table
        return
    at = {namespace: now(connection, namespace) for namespace in {record.namespace for record in given}}
    rows = [(each if each.time else each._replace(time=at[each.namespace])).stored() for each in given]
    connection.executemany(  # no upsert, which came with SQLite 3.24
        "UPDATE records SET part = ?, time = ?, begun = ?, crc = ? WHERE namespace = ? AND key = ?",
        ((*row[2:], *row[:2]) for row in rows),
    )
    connection.executemany(f"INSERT OR IGNORE INTO records ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)", rows)  # noqa: S608


def remove(connection: sqlite3.Connection, namespace: str, keys: Iterable[str]) -> None:
    """Delete records."""
    connection.executemany("DELETE FROM records WHERE key = ? AND namespace = ?", ((key, namespace) for key in keys))


def forget(connection: sqlite3.Connection, rids: Iterable[int]) -> None:
    """Delete the records of rows that are about to be deleted, in every namespace."""
    sql = "DELETE FROM records WHERE key = (SELECT id FROM rows WHERE rid = ?)"
    connection.executemany(sql, ((rid,) for rid in rids))


# ---- reading


def find(connection: sqlite3.Connection, namespace: str, keys: Sequence[str], name: str) -> dict[str, KeyRecord]:
    """The records of those keys that have one."""
    found = {}
    for at in range(0, len(keys), AT_ONCE - 1):
        some = keys[at : at + AT_ONCE - 1]
        sql = f"SELECT {COLUMNS} FROM records WHERE namespace = ? AND key IN ({','.join('?' * len(some))})"  # noqa: S608
        for row in connection.execute(sql, (namespace, *some)):
            record = record_of(row, name)
            found[record.key] = record
    return found


def list_keys(
    connection: sqlite3.Connection,
    namespace: str,
    name: str,
    groups: Sequence[str] | None = None,
    before: int | None = None,
    after: int | None = None,
    begun: bool = False,
    limit: int | None = None,
) -> list[str]:
    """Keys in their order: of these groups, written before and after these times, at most so many."""
    where, shared = " AND begun" if begun else "", list[Any]([namespace])
    for condition, at in ((" AND time < ?", before), (" AND time > ?", after)):
        if at is not None:
            where += condition
            shared.append(at)
    parts: Iterator[Sequence[str] | None] = iter([None])
    if groups is not None:
        names = sorted(set(groups))
        parts = (names[at : at + AT_ONCE - 3] for at in range(0, len(names), AT_ONCE - 3))
    end = "" if limit is None else f" LIMIT {limit:d}"
    found: list[str] = []
    for part in parts:
        those = "" if part is None else f" AND part IN ({','.join('?' * len(part))})"
        sql = f"SELECT {COLUMNS} FROM records WHERE namespace = ?{where}{those} ORDER BY key{end}"  # noqa: S608
        found += [record_of(row, name).key for row in connection.execute(sql, (*shared, *(part or ())))]
    return sorted(found)[:limit]


# ---- whole


def drop(connection: sqlite3.Connection) -> None:
    """Remove the table with its indexes."""
    connection.execute("DROP TABLE records")


def copy_numbered(
    source: sqlite3.Connection, target: sqlite3.Connection, wanted: Iterable[int], doomed: Iterable[int], name: str
) -> None:
    """Delete records of the target by their numbers, and write those of the source in the place of others."""
    wanted = list(wanted)
    target.executemany("DELETE FROM records WHERE number = ?", ((number,) for number in [*doomed, *wanted]))
    for number in wanted:
        row = source.execute(f"SELECT {COLUMNS} FROM records WHERE number = ?", (number,)).fetchone()  # noqa: S608
        values = (number, *record_of(row, name).stored())
        target.execute(f"INSERT INTO records (number, {COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)", values)  # noqa: S608


def problems_of(connection: sqlite3.Connection, name: str) -> list[str]:
    """The records that do not match their checksums, one line each."""
    bad = []
    try:
        for row in connection.execute(f"SELECT {COLUMNS} FROM records"):  # noqa: S608 - names of our own
            try:
                record_of(row, name)
            except CorruptionError as error:
                bad.append(str(error))
    except (sqlite3.Error, UnicodeDecodeError) as error:
        bad.append(f"{name}: the records cannot be read ({error}); {RESTORE}")
    return bad


def newest(rows: Iterable[Sequence[Any]]) -> list[KeyRecord]:
    """The records among rows that match their checksums; of equal keys the newest."""
    found: dict[tuple[str, str], KeyRecord] = {}
    for row in rows:
        try:
            record = record_of(row, "")
        except CorruptionError:
            continue
        older = found.get(record[:2])
        if older is None or older.time < record.time:
            found[record[:2]] = record
    return list(found.values())
