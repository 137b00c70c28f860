"""The tables of `kv.db`, and its entries as values: how each is stored, verified when read, listed and compared.

Knows connections, no files and no locks. An entry has a space, a key in it, a value of bytes, perhaps the name of a
group, and the time of the commit that wrote it, which is later than that of every commit before.
"""

import json
import math
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple

from ..errors import RESTORE_ENTRIES, CorruptionError
from .format import newer_format
from .row_table import AT_ONCE

APPLICATION_ID: Final = 0x42514B56  # "BQKV"
VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE about (
    one INTEGER PRIMARY KEY CHECK (one = 1), body TEXT NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE entries (
    space TEXT NOT NULL, key TEXT NOT NULL, part TEXT, time REAL NOT NULL, key_crc INTEGER NOT NULL,
    value BLOB NOT NULL, crc INTEGER NOT NULL, UNIQUE (space, key));
CREATE INDEX entries_by_time ON entries (space, time);
CREATE INDEX entries_by_part ON entries (space, part, time) WHERE part IS NOT NULL;
"""
_STATEMENTS: Final = [statement.strip() for statement in _SCHEMA.split(";")[:-1]]
COLUMNS: Final = "space, key, part, time, key_crc, value, crc"
_KEYS: Final = "space, key, part, time, key_crc"


@dataclass(frozen=True)
class About:
    """The state of the file at one commit: its random number, how many commits and entries, the last commit's time."""

    id: int
    seq: int = 0
    entries: int = 0
    time: float = 0.0

    def next(self, time: float, more: int) -> "About":
        """The state after one more commit, which has added so many entries."""
        return About(self.id, self.seq + 1, self.entries + more, time)


class Entry(NamedTuple):
    """One entry."""

    space: str
    key: str
    group: str | None
    time: float
    value: bytes

    def stored(self) -> tuple[object, ...]:
        """The columns of its row."""
        key_crc = _key_crc(*self[:4])
        return (*self[:4], key_crc, self.value, zlib.crc32(self.value, key_crc))


def _key_crc(space: str, key: str, group: str | None, time: float) -> int:
    sizes = f"{len(space)},{len(key)},{'-' if group is None else len(group)},{time!r}:"
    return zlib.crc32(f"{sizes}{space}{key}{group or ''}".encode())


def entry_of(row: Sequence[Any], name: str) -> Entry:
    """The entry of its columns; CorruptionError if a CRC does not match."""
    space, key, group, time, key_crc, value, crc = row
    if not isinstance(value, bytes) or not _is_intact(row[:4], key_crc) or crc != zlib.crc32(value, key_crc):
        raise _damaged(row, name)
    return Entry(space, key, group, time, value)


def _is_intact(about: Sequence[Any], key_crc: object) -> bool:
    try:
        return key_crc == _key_crc(*about)
    except TypeError:
        return False


def _damaged(about: Sequence[Any], name: str) -> CorruptionError:
    return CorruptionError(f"entry {about[1]!r} of {about[0]!r} in {name} is damaged; {RESTORE_ENTRIES}")


def create(connection: sqlite3.Connection, about: About) -> None:
    """Create the tables; in a transaction."""
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")
    for statement in _STATEMENTS:
        connection.execute(statement)
    write_about(connection, about)


def read_about(connection: sqlite3.Connection, name: str) -> About:
    """The state of the last commit, verified."""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > VERSION:
        raise newer_format(name, version, VERSION)
    schema = {row[0] for row in connection.execute("SELECT sql FROM sqlite_master") if row[0] is not None}
    if not schema:  # a file gets its name with its tables in it
        raise CorruptionError(f"{name} is empty, and entries had been written to it; restore it from a copy")
    if schema != set(_STATEMENTS):
        raise CorruptionError(
            f"{name} does not have the tables of entries: damaged, or another program's; {RESTORE_ENTRIES}"
        )
    return reread_about(connection, name)


def reread_about(connection: sqlite3.Connection, name: str) -> About:
    """The same, without a look at the tables, which were checked when the file was opened."""
    row = connection.execute("SELECT body, crc FROM about").fetchone()
    try:
        body, crc = row
        if zlib.crc32(body.encode()) != crc:
            raise ValueError
        about = About(**json.loads(body))
        if not all(type(each) is int and each >= 0 for each in (about.id, about.seq, about.entries)):
            raise ValueError
        if type(about.time) is not float or not math.isfinite(about.time):
            raise ValueError
        return about
    except (TypeError, ValueError, AttributeError) as error:
        raise CorruptionError(f"{name} has lost the row about its entries; {RESTORE_ENTRIES}") from error


def write_about(connection: sqlite3.Connection, about: About) -> None:
    """Replace the state."""
    body = json.dumps(asdict(about))
    connection.execute("INSERT OR REPLACE INTO about VALUES (1, ?, ?)", (body, zlib.crc32(body.encode())))


def put(connection: sqlite3.Connection, entries: Sequence[Entry]) -> int:
    """Write entries, with distinct places; how many of them are new."""
    there = remove(connection, ((entry.space, entry.key) for entry in entries))
    sql = f"INSERT INTO entries ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - names of our own
    connection.executemany(sql, (entry.stored() for entry in entries))
    return len(entries) - there


def remove(connection: sqlite3.Connection, places: Iterable[tuple[str, str]]) -> int:
    """Delete entries by space and key; how many there were."""
    return max(0, connection.executemany("DELETE FROM entries WHERE space = ? AND key = ?", places).rowcount)


def find(connection: sqlite3.Connection, space: str, keys: Sequence[str], name: str) -> dict[str, bytes]:
    """The values of those keys that there are."""
    found = {}
    for at in range(0, len(keys), AT_ONCE):
        some = keys[at : at + AT_ONCE]
        sql = f"SELECT {COLUMNS} FROM entries WHERE space = ? AND key IN ({','.join('?' * len(some))})"  # noqa: S608
        for row in connection.execute(sql, (space, *some)):
            entry = entry_of(row, name)
            found[entry.key] = entry.value
    return found


def present(connection: sqlite3.Connection, space: str, keys: Sequence[str], name: str) -> set[str]:
    """Those keys that there are, without reading their values."""
    found: set[str] = set()
    for at in range(0, len(keys), AT_ONCE):
        some = keys[at : at + AT_ONCE]
        sql = f"SELECT {_KEYS} FROM entries WHERE space = ? AND key IN ({','.join('?' * len(some))})"  # noqa: S608
        found.update(_key_of(row, name) for row in connection.execute(sql, (space, *some)))
    return found


def times_of(space: str, connection: sqlite3.Connection, name: str) -> list[tuple[str, str | None, float]]:
    """Key, group and time of all that a space has."""
    rows = connection.execute(f"SELECT {_KEYS} FROM entries WHERE space = ?", (space,))  # noqa: S608
    return [(_key_of(row, name), row[2], row[3]) for row in rows]


def _key_of(row: Sequence[Any], name: str) -> str:
    if not _is_intact(row[:-1], row[-1]):
        raise _damaged(row, name)
    return str(row[1])


def all_of(connection: sqlite3.Connection, space: str, prefix: str, name: str) -> dict[str, bytes]:
    """The values of a space by key, of the keys that begin so, in the order of their keys."""
    where, values = _beginning(prefix)
    sql = f"SELECT {COLUMNS} FROM entries WHERE space = ?{where} ORDER BY key"  # noqa: S608 - names of our own
    entries = (entry_of(row, name) for row in connection.execute(sql, (space, *values)))
    return {entry.key: entry.value for entry in entries}


def _beginning(prefix: str) -> tuple[str, list[str]]:
    """The condition that a key begins so, as bounds, so that an index finds it, and its values."""
    if not prefix:
        return "", []
    rest = prefix.rstrip("\U0010ffff")
    if not rest:
        return " AND key >= ?", [prefix]
    last = ord(rest[-1]) + 1
    after = rest[:-1] + chr(0xE000 if last == 0xD800 else last)  # past the surrogates, which are no text
    return " AND key >= ? AND key < ?", [prefix, after]


def list_keys(
    connection: sqlite3.Connection,
    space: str,
    name: str,
    prefix: str = "",
    groups: Sequence[str] | None = None,
    before: float | None = None,
    after: float | None = None,
    limit: int | None = None,
) -> list[str]:
    """Keys in order, at most ``limit``: of these groups, written before and after these times."""
    where, values = _beginning(prefix)
    found: list[str] = []
    shared: list[Any] = [*values]
    for condition, value in ((" AND time < ?", before), (" AND time > ?", after)):
        if value is not None:
            where += condition
            shared.append(value)
    parts: Iterator[Sequence[str] | None] = iter([None])
    if groups is not None:
        names = sorted(set(groups))
        parts = (names[at : at + AT_ONCE] for at in range(0, len(names), AT_ONCE))
    end = "" if limit is None else f" LIMIT {limit:d}"
    for part in parts:
        those = "" if part is None else f" AND part IN ({','.join('?' * len(part))})"
        sql = f"SELECT {_KEYS} FROM entries WHERE space = ?{where}{those} ORDER BY key{end}"  # noqa: S608
        found += [_key_of(row, name) for row in connection.execute(sql, (space, *shared, *(part or ())))]
    return (sorted(found) if groups is not None else found)[:limit]


def copy_differing(source: sqlite3.Connection, target: sqlite3.Connection, name: str) -> int:
    """Make the entries of the target those of the source; the bytes of values that were copied."""
    keys = "SELECT space, key, key_crc, crc, rowid FROM entries"
    theirs = {(space, key): crcs for space, key, *crcs, _ in target.execute(keys)}
    wanted = [row for space, key, *crcs, row in source.execute(keys) if theirs.pop((space, key), None) != crcs]
    remove(target, theirs)
    written = 0
    for row in wanted:
        entry = entry_of(source.execute(f"SELECT {COLUMNS} FROM entries WHERE rowid = ?", (row,)).fetchone(), name)  # noqa: S608
        put(target, [entry])
        written += len(entry.value)
    return written


def intact(connection: sqlite3.Connection, name: str) -> tuple[list[Entry], list[str]]:
    """The entries that match their checksums, as far as the file can be read, and what is wrong with the others."""
    found: dict[tuple[str, str], Entry] = {}
    problems: dict[str, None] = {}
    for order in ("ASC", "DESC"):  # from both ends: one damaged page in between does not hide the others
        try:
            for row in connection.execute(f"SELECT {COLUMNS} FROM entries ORDER BY rowid {order}"):  # noqa: S608
                try:
                    entry = entry_of(row, name)
                    found[entry.space, entry.key] = entry
                except CorruptionError as error:
                    problems[str(error)] = None
        except (sqlite3.Error, UnicodeDecodeError) as error:
            problems[_told(error, name)] = None
    try:
        expected = reread_about(connection, name).entries
        if expected != len(found):
            problems[f"{name}: {expected - len(found):,} of {expected:,} entries are lost"] = None
    except (sqlite3.Error, CorruptionError, UnicodeDecodeError) as error:
        problems[_told(error, name)] = None
    return list(found.values()), list(problems)


def _told(error: Exception, name: str) -> str:
    return f"{name}: {'not UTF-8' if isinstance(error, UnicodeDecodeError) else error}"


def problems_of(connection: sqlite3.Connection, name: str, most: int = 20) -> list[str]:
    """Read everything, in the transaction that is open; what is damaged, one line each."""
    found = [str(row[0]) for row in connection.execute(f"PRAGMA integrity_check({most})")]
    problems = [f"{name}: {each}" for each in found if each != "ok"]
    about, read, bad = read_about(connection, name), 0, []
    for row in connection.execute(f"SELECT {COLUMNS} FROM entries"):  # noqa: S608 - names of our own
        read += 1
        try:
            entry_of(row, name)
        except CorruptionError as error:
            bad.append(str(error))
    problems += bad[:most] + ([f"... and {len(bad) - most:,} more like these"] if len(bad) > most else [])
    if read != about.entries:
        problems.append(f"{name}: its own row counts {about.entries:,} entries, there are {read:,}")
    return problems
