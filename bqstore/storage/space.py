"""The space that `meta.db` and its write-ahead log take: what a checkpoint leaves, and pages that nothing uses.

SQLite leaves both at the largest size they ever had. All of this is for the connection that writes, under the lock. It
never waits for a reader: a caller that wants more tries again, and gives the lock back in between.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from . import platform

BUSY_MS: Final = 10_000  # how long a statement waits for another connection
LOG_KEPT: Final = 4 << 20  # bytes of the log that stay for the next commits
LOG_LARGE: Final = 16 << 20  # a larger log is emptied after the commit that made it so large
PORTION: Final = 16  # pages that are given back at a time where the disk is full; each takes some of the log
_FEW: Final = 16  # a file of an earlier release is written anew if more than one page in so many is unused

_FRAME: Final = 4096 + 24  # bytes of the log for a page
_PAGES_OF_ANY, _PAGES_OF_ONE = 8, 5  # pages changed by any commit; and by deleting a row, besides those of its text


def log_of_deleting(count: int, of: int, size: int) -> int:
    """An upper bound of the log's bytes for deleting ``count`` of ``of`` rows; ``size`` is of the file and its log."""
    return min(size, _FRAME * (_PAGES_OF_ANY + count * (_PAGES_OF_ONE + 2 * size // max(1, of) // _FRAME)))


def prepare(connection: sqlite3.Connection) -> None:
    """Let pages be given back by `give_back`; before anything else is done with a new file."""
    if _number(connection, "auto_vacuum") != 2:  # setting it again would be a commit, for which there may be no room
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # of an existing file: the mode after the next VACUUM


def checkpoint(connection: sqlite3.Connection) -> bool:
    """Copy the log into the file and truncate it, as far as readers allow; whether all of it was done."""
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()  # copies what needs none of the readers' locks
    with _at_once(connection):
        busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return not busy


def write_again(log: Path) -> None:
    """Rewrite the bytes of a log in place, and sync them: unlike a checkpoint, that takes no space."""
    with log.open("r+b", buffering=0) as file:
        at = 0
        while piece := platform.read_at(file.fileno(), LOG_KEPT, at):
            at += platform.write_at(file.fileno(), piece, at)
        platform.sync_file(file.fileno())


@contextmanager
def _at_once(connection: sqlite3.Connection) -> Iterator[None]:
    """Statements wait for nobody."""
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        yield
    finally:
        connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")


def give_back(connection: sqlite3.Connection, most: int = 0) -> bool:
    """Cut off the pages that nothing uses, or some of them; whether there were any.

    The file shrinks with the next checkpoint.
    """
    unused = _number(connection, "freelist_count")
    if _number(connection, "auto_vacuum") == 2:
        if unused:  # it is a step for each page, and execute() makes only the first
            connection.executescript(f"PRAGMA incremental_vacuum({most})")  # 0: all
        return unused > 0
    if unused * _FEW <= _number(connection, "page_count"):
        return False
    connection.execute("VACUUM")  # made by an earlier release: written anew, once
    return True


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])
