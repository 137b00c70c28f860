"""The reading half of a store: rows, columns and codes of one commit. Every answer is checked; nothing is written.

Each read sees the last commit. Inside `consistent` or `snapshot` all reads of the thread see the same commit. `Store`
adds the writing half.
"""

import io
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptionError
from . import head_table, row_table
from .catalogue import Catalogue
from .files import RecordFile
from .flat import FlatFiles, Remake
from .format import F32, NO_PARAMETERS, U64
from .head import Head, Row

# Closed by C code where its `with` ends, so that an interrupt cannot skip it, as it can the end of a generator.
Block = io.BytesIO
_OPEN: Final = Block()


class Reading:
    """The reading half of a store.

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
        # of threads that read one commit: the connection, and calls that tell whether that is over
        self._pinned: dict[int, tuple[Any, ...]] = {}

    @property
    def vectors(self) -> RecordFile | None:
        """The originals; None before the first vectors, and where none are kept."""
        return self.flat.vectors

    @property
    def codes(self) -> RecordFile | None:
        """The codes; None before the first vectors."""
        return self.flat.codes

    @property
    def parameters(self) -> F32:
        """The encoder's parameters in the codes file, float32 (count,), read-only; empty without a file."""
        codes = self.flat.codes
        return NO_PARAMETERS if codes is None else codes.parameters

    @contextmanager
    def consistent(self) -> Iterator[None]:
        """This thread's reads, `reread` and `dead_since` among them, see one commit; may be nested.

        For the holder of the writer's lock: it keeps the main connection.
        """
        pinned = self._pinned_connection()
        if pinned is not None and self.catalogue.is_main(pinned):
            yield
            return
        with self.catalogue.snapshot() as main:
            mine = self.catalogue.transaction
            with self._pin(main, lambda: self.catalogue.transaction is not mine):
                yield

    @contextmanager
    def snapshot(self, block: Block = _OPEN) -> Iterator[int]:
        """This thread's reads of rows and columns see one commit, whose number this gives, while a writer goes on.

        Until ``block`` is closed, or this ends. On a connection of its own. In memory there is only one connection, and
        a commit waits for it.
        """
        pinned = self._pinned_connection()
        if pinned is not None:
            yield self._seq(pinned)
            return
        if self.folder is None:
            with self.consistent():
                yield self._seq(self.catalogue.main())
            return
        with self.catalogue.reading() as connection:
            connection.execute("BEGIN")
            with self._pin(connection, lambda: block.closed):
                yield self._seq(connection)

    def _seq(self, connection: sqlite3.Connection) -> int:
        return head_table.reread_head(connection, self.catalogue.name, self.head).seq

    @contextmanager
    def _pin(self, connection: sqlite3.Connection, *is_over: Callable[[], bool]) -> Iterator[None]:
        thread = threading.get_ident()
        before = self._pinned.get(thread)
        mine = (connection, *is_over)
        try:
            self._pinned[thread] = mine
            yield
        finally:  # perhaps late, when an interrupted one is collected: it must not end a newer one
            if self._pinned.get(thread) is mine:
                del self._pinned[thread]
                if before is not None:
                    self._pinned[thread] = before

    def _pinned_connection(self) -> sqlite3.Connection | None:
        """The connection that this thread reads one commit from."""
        connection, *is_over = self._pinned.get(threading.get_ident(), (None,))
        if connection is None or any(each() for each in is_over):
            return None  # left by an interrupt: by now the main connection may be in a write's transaction
        try:  # or the connection is closed, or in no transaction
            return connection if connection.in_transaction else None
        except sqlite3.ProgrammingError:
            return None

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """What this thread reads from: the one commit that it sees, or the last."""
        pinned = self._pinned_connection()
        if pinned is not None:
            with self.catalogue.translated():
                yield pinned
        else:
            with self.catalogue.reading() as connection:
                yield connection

    @property
    def codes_name(self) -> str:
        """The name of the codes file, for messages."""
        return self.codes.name if self.codes else "codes"

    def read_codes(self, slot: int, count: int, remake: Remake | None = None) -> tuple[NDArray[np.int64], U64]:
        """The rids, int64 (count,), and codes, uint64 (count, words), of slots: see `FlatFiles.read_codes`."""
        return self.flat.read_codes(slot, count, remake)

    def dead_since(self, seq: int) -> list[int]:
        """The rids that got a tombstone after a commit."""
        with self.catalogue.using_main() as main:
            # all of them are read from the table, which opening has compared with the rows, not from the index
            table = "dead NOT INDEXED" if seq < 0 else "dead"
            found = main.execute(f"SELECT rid FROM {table} WHERE seq > ?", (seq,))  # noqa: S608
            return [row[0] for row in found]

    def column_since(self, rid: int, column: str) -> Iterator[list[tuple[int, Any]]]:
        """(rid, value) of the rows from a rid on, ordered by rid; column "id", "metadata" or "ref_doc_id".

        In portions of some thousand rows, as all metadata at once may not fit into memory.
        """
        return self._column(column, "rows.rid >= ?", rid)

    def column_changed(self, seq: int, column: str) -> Iterator[list[tuple[int, Any]]]:
        """(rid, value) of the rows changed in place after a commit, ordered by rid, in portions."""
        return self._column(column, "changed.seq > ?", seq)

    def column_rewritten(self, seq: int, column: str) -> Iterator[list[tuple[int, Any]]]:
        """(rid, value) of the rows added or changed after a commit, also if compacted since; looks at all rows."""
        return self._column(column, "rows.seq > ?", seq)

    def _column(self, column: str, condition: str, value: int) -> Iterator[list[tuple[int, Any]]]:
        with self.connection() as connection:
            portions = row_table.read_column(connection, column, condition, value, self.catalogue.name)
            while portion := next(portions, None):
                yield portion

    def intact_column(self, rids: Sequence[int], column: str) -> list[tuple[int, Any]]:
        """(rid, value) of those of the rows with these rids that can be read, ordered by rid; as `column_since`."""
        place = row_table.KEYS.index(column)
        out: list[tuple[int, Any]] = []

        def read(some: Sequence[int]) -> bool:
            try:
                with self.connection() as connection:
                    out.extend(
                        (row[0], row[place]) for row in row_table.read_keys(connection, some, self.catalogue.name)
                    )
            except CorruptionError:
                return False
            return True

        for at in range(0, len(rids), row_table.AT_ONCE):
            some = rids[at : at + row_table.AT_ONCE]
            if not read(some):
                for rid in some:
                    read([rid])
        return sorted(out, key=lambda pair: pair[0])

    def rows(self, key: str, values: Sequence[object]) -> list[Row]:
        """The rows with these rids or ids (``key`` "rid" or "id"), unordered, CRCs verified."""
        with self.connection() as connection:
            self._begin(connection, len(values) > row_table.AT_ONCE)
            return row_table.read_rows(connection, key, values, self.catalogue.name)

    def _begin(self, connection: sqlite3.Connection, several: bool) -> None:
        """Let several statements see one commit; `Catalogue.reading` ends it. In memory there is only one commit."""
        if several and self.folder is not None and not connection.in_transaction:
            connection.execute("BEGIN")

    def rids_by_id(self, ids: Sequence[str]) -> dict[str, int]:
        """The rids of those ids that exist."""
        with self.connection() as connection:
            self._begin(connection, len(ids) > 1)
            return row_table.rids_by_id(connection, ids, self.catalogue.name)

    def rids_by_ref(self, refs: Sequence[str]) -> set[int]:
        """The rids of the documents that come from these source documents."""
        with self.connection() as connection:
            self._begin(connection, len(refs) > 1)
            return row_table.rids_by_ref(connection, refs, self.catalogue.name)
