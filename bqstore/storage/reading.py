"""What is read of one commit: rows, columns, codes. Each answer is checked; nothing is written.

The reads of a thread see the last commit, or, inside `consistent` or `snapshot`, one commit all of them. `Store` adds
the writing.
"""

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import catalogue as sql
from .catalogue import Catalogue
from .files import RecordFile
from .flat import FlatFiles
from .format import F32, NO_PARAMETERS, U64
from .head import Head, Row


class Reading:
    """The reading side of a store.

    Attributes
    ----------
    head : Head         the last commit this object has seen
    flat : FlatFiles    the records
    """

    def __init__(self, folder: Path | None, catalogue: Catalogue, head: Head, read_only: bool) -> None:
        self.folder = folder
        self.catalogue = catalogue
        self.head = head
        self.read_only = read_only
        self.flat = FlatFiles(folder, read_only)
        self._inside: tuple[int] | None = None  # the thread that reads in `consistent`
        self._own = threading.local()  # the connection of a thread that reads in `snapshot`

    @property
    def vectors(self) -> RecordFile | None:
        """The originals; None while there are none, and where none are kept."""
        return self.flat.vectors

    @property
    def codes(self) -> RecordFile | None:
        """The codes; None while there are none."""
        return self.flat.codes

    @property
    def parameters(self) -> F32:
        """What encoding was trained to, float32 (count,), read-only: of the codes file; none while there is none."""
        codes = self.flat.codes
        return NO_PARAMETERS if codes is None else codes.parameters

    @contextmanager
    def consistent(self) -> Iterator[None]:
        """Several reads of the methods below see one commit; may be nested."""
        if self.is_inside():
            yield
            return
        with self.catalogue.snapshot():
            mine = (threading.get_ident(),)
            self._inside = mine
            try:
                yield
            finally:
                if self._inside is mine:
                    self._inside = None

    @contextmanager
    def snapshot(self) -> Iterator[int]:
        """The rest of this thread's reads see one commit, whose number this gives, while a writer goes on.

        On a connection of its own; in memory, where there is one for all, a commit waits for it.
        """
        if self.folder is None:
            with self.consistent():
                yield self._seq(self.catalogue.main())
            return
        with self.catalogue.reading() as connection:
            connection.execute("BEGIN")
            self._own.connection = connection
            try:
                yield self._seq(connection)
            finally:
                self._own.connection = None

    def _seq(self, connection: sqlite3.Connection) -> int:
        head = sql.read_head(connection, self.catalogue.name)
        assert head is not None, "there was one at opening, and `read_head` raises when it is lost"
        return head.seq

    def is_inside(self) -> bool:
        """Whether this thread reads in `consistent`."""
        return self._inside is not None and self._inside[0] == threading.get_ident()

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        own: sqlite3.Connection | None = getattr(self._own, "connection", None)
        if self.is_inside():
            own = self.catalogue.main()
        if own is not None and _is_reading(own):
            with self.catalogue.translated():
                yield own
        else:
            with self.catalogue.reading() as connection:
                yield connection

    @property
    def codes_name(self) -> str:
        """The file of the codes, for a message."""
        return self.codes.name if self.codes else "codes"

    def read_codes(self, slot: int, count: int) -> tuple[NDArray[np.int64], U64]:
        """The rids, int64 (count,), and codes, uint64 (count, words), of slots; CorruptionError if any is damaged."""
        return self.flat.read_codes(slot, count)

    def dead_since(self, seq: int) -> list[int]:
        """The rids deleted or replaced after a commit."""
        with self.catalogue.translated():
            # all of them are read from the table, which opening has compared with the rows; the index could differ
            table = "dead NOT INDEXED" if seq < 0 else "dead"
            found = self.catalogue.main().execute(f"SELECT rid FROM {table} WHERE seq > ?", (seq,))  # noqa: S608
            return [row[0] for row in found]

    def column_since(self, rid: int, column: str) -> list[tuple[int, Any]]:
        """(rid, value) of the rows from a rid on, in its order; column "id", "metadata" or "ref_doc_id"."""
        return self._column(column, "rows.rid >= ?", rid)

    def column_changed(self, seq: int, column: str) -> list[tuple[int, Any]]:
        """(rid, value) of the rows changed in place after a commit, in the order of rids."""
        return self._column(column, "changed.seq > ?", seq)

    def _column(self, column: str, condition: str, value: int) -> list[tuple[int, Any]]:
        with self._connection() as connection:
            return sql.read_column(connection, column, condition, value, self.catalogue.name)

    def rows(self, key: str, values: Sequence[object]) -> list[Row]:
        """The rows with these rids or ids, in no order, CRCs checked."""
        with self._connection() as connection:
            self._begin(connection, len(values) > sql.AT_ONCE)
            return sql.read_rows(connection, key, values, self.catalogue.name)

    def _begin(self, connection: sqlite3.Connection, several: bool) -> None:
        """Let several statements see one commit; `reading` ends it. In memory the connection is ours alone anyway."""
        if several and self.folder is not None and not connection.in_transaction:
            connection.execute("BEGIN")

    def rids_by_id(self, ids: Sequence[str]) -> dict[str, int]:
        """The rids of those ids that exist."""
        with self._connection() as connection:
            self._begin(connection, len(ids) > 1)
            return sql.rids_by_id(connection, ids, self.catalogue.name)


def _is_reading(connection: sqlite3.Connection) -> bool:
    """Whether a snapshot stands open on it; an interrupt may have left one behind that is closed."""
    try:
        return connection.in_transaction
    except sqlite3.ProgrammingError:
        return False
