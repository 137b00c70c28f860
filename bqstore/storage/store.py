"""One collection on disk: what a commit is, and what a failure leaves behind. `opening.py` says how it is opened.

The order of a write: records appended, both files synced, one SQLite commit. Before the commit nothing of it exists;
after it everything does. Records past the committed count are the litter of a write that did not come to its commit;
the next one writes over them. A failed sync or commit poisons the store: what the system then holds is unknown, and
asking again would get "yes" without a write (Rebello et al., ATC 2020).

Knows bytes and rows. Knows nothing of codes' meaning, of search, filters or threads: the caller writes one at a time.
"""

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BqstoreError, ClosedError, CorruptionError, ReadOnlyError, StorageError
from . import catalogue as sql
from .catalogue import Catalogue
from .files import RecordFile
from .flat import FlatFiles, SyncFailedError
from .format import F32, U64
from .head import Head, Row
from .lock import WriterLock, never_close_in_a_fork


class SupersededError(Exception):
    """A reader looks at a commit whose files are gone: the writer has begun a new generation. Look again."""


@dataclass(frozen=True)
class Rows:
    """Documents on their way in, without rids: lists of one length, texts and JSON texts."""

    ids: Sequence[str]
    texts: Sequence[str | None]
    metadata: Sequence[str]
    private: Sequence[str | None]
    ref_doc_ids: Sequence[str | None]

    def subset(self, keep: Sequence[int]) -> "Rows":
        """The rows at these places."""
        return Rows(*([column[i] for i in keep] for column in self.columns()))

    def columns(self) -> tuple[Sequence[Any], ...]:
        """The five lists."""
        return self.ids, self.texts, self.metadata, self.private, self.ref_doc_ids

    def numbered(self, first_rid: int, seq: int) -> Iterator[Row]:
        """The rows, rids counted up from the first."""
        for rid, values in enumerate(zip(*self.columns(), strict=True), first_rid):
            yield Row(rid, seq, *values)


class Store:
    """The files of one collection; the only one that writes them when not ``read_only``.

    Attributes
    ----------
    head : Head         the last commit this object has seen
    flat : FlatFiles    the records
    """

    def __init__(self, folder: Path | None, catalogue: Catalogue, head: Head, lock: WriterLock | None) -> None:
        self.folder = folder
        self.catalogue = catalogue
        self.head = head
        self.read_only = folder is not None and lock is None
        self.flat = FlatFiles(folder, self.read_only)
        self._lock = lock
        never_close_in_a_fork(catalogue)
        catalogue.store_id = head.store_id
        self._poison: str | None = None
        self._pid = os.getpid()
        self._inside: tuple[int] | None = None  # the thread that reads in `consistent`
        self._own = threading.local()  # the connection of a thread that reads in `snapshot`
        self._writing = False
        self._closed = False

    @property
    def vectors(self) -> RecordFile | None:
        """The originals; None while there are none, and where none are kept."""
        return self.flat.vectors

    @property
    def codes(self) -> RecordFile | None:
        """The codes; None while there are none."""
        return self.flat.codes

    def start_writing(self) -> None:
        """Begin to write: everything that was there has been checked."""
        if self.folder is not None:
            self.catalogue.start_writing()
            self.flat.sweep(self.head.generation)
        self._writing = True

    def open_files(self) -> None:
        """Open the flat files of the head's generation, checked."""
        self.flat.open(self.head, self._missing)

    def _missing(self, path: Path) -> Exception:
        """Why a file of the head's generation is not there."""
        if self.read_only and self._is_superseded():
            return SupersededError()
        return CorruptionError(f"{path.name} is missing from {self.folder}; restore it from a copy")

    def _is_superseded(self) -> bool:
        with self.catalogue.reading() as connection:  # another one, that stands at the last commit
            head = sql.read_head(connection, self.catalogue.name)
        return head is not None and head.generation > self.head.generation

    # ---- writing

    @contextmanager
    def _commit(self) -> Iterator[sqlite3.Connection]:
        try:
            with self.catalogue.writing() as connection:
                stored = sql.read_head(connection, self.catalogue.name)
                if stored != self.head:  # another write came between, from a signal handler, say
                    raise StorageError("the collection has moved on under this write; nothing was written: try again")
                yield connection
        except BqstoreError as error:
            if self.catalogue.in_doubt:
                self._poison = str(error)
            raise

    def check_writable(self) -> None:
        """Raise ReadOnlyError, or StorageError after a failed sync."""
        if self.read_only:
            raise ReadOnlyError("this collection is open with read_only=True; open it without to write")
        if self._closed:
            raise ClosedError("this collection is closed; open it again")
        if self._poison is not None:
            raise StorageError(f"an earlier write failed ({self._poison}); close the collection and open it again")

    def append(self, rows: Rows, vectors: F32, codes: U64) -> Head:
        """Add documents; those whose ids exist take their place. Durable when it returns.

        Parameters
        ----------
        rows : Rows                     n documents of distinct ids
        vectors : float32 (n, dim)      as they came
        codes : uint64 (n, words)       their codes
        """
        self.check_writable()
        old = replace(self.head, dim=vectors.shape[1])  # settled, for others to see, by the commit below
        try:
            if self.codes is None:
                self.flat.create(old)
            self.flat.write(old.n_slots, old.next_rid, vectors, codes)
            self.flat.sync()
            with self._commit() as connection:
                seq, n = old.seq + 1, len(vectors)
                replaced = sql.rids_by_id(connection, rows.ids, self.catalogue.name) if old.n_live else {}
                sql.bury(connection, replaced.values(), seq)
                sql.insert_rows(connection, rows.numbered(old.next_rid, seq))
                n_live = old.n_live + n - len(replaced)
                new = replace(old, seq=seq, n_slots=old.n_slots + n, n_live=n_live, next_rid=old.next_rid + n)
                sql.write_head(connection, new)
            self.head = new
        except BaseException as error:
            if isinstance(error, SyncFailedError):
                self._poison = str(error)
            self.reread()
            raise
        return self.head

    def bury(self, rids: Sequence[int]) -> Head:
        """Delete rows. Durable when it returns; the flat files keep their records until compaction."""
        self.check_writable()
        with self._commit() as connection:
            new = replace(self.head, seq=self.head.seq + 1, n_live=self.head.n_live - len(rids))
            sql.bury(connection, rids, new.seq)
            sql.write_head(connection, new)
        self.head = new
        return new

    def rewrite(self, rows: Sequence[Row]) -> Head:
        """Put changed rows in the place of those with the same rid. Durable when it returns."""
        self.check_writable()
        seq = self.head.seq + 1
        with self._commit() as connection:
            sql.replace_rows(connection, (row._replace(seq=seq) for row in rows))
            new = replace(self.head, seq=seq, meta_seq=seq)
            sql.write_head(connection, new)
        self.head = new
        return new

    def clear(self) -> Head:
        """Delete every row and begin a new generation of flat files; the old ones are removed."""
        self.check_writable()
        with self._commit() as connection:
            old = self.head
            new = replace(old, seq=old.seq + 1, generation=old.generation + 1, n_slots=0, n_live=0)
            sql.forget_all(connection)
            sql.write_head(connection, new)
        self.head = new
        self.flat.drop()
        self.flat.sweep(new.generation)
        return new

    def put_settings(self, settings: dict[str, Any], dim: int | None) -> None:
        """Store settings in the head row."""
        self.check_writable()
        with self._commit() as connection:
            new = replace(self.head, seq=self.head.seq + 1, settings=settings, dim=dim)
            sql.write_head(connection, new)
        self.head = new

    def reread(self) -> Head:
        """Take the head row as it is committed now; open the files of a new generation."""
        with self.catalogue.translated():
            head = sql.read_head(self.catalogue.main(), self.catalogue.name)
        if head is None or head.store_id != self.head.store_id:
            raise CorruptionError(
                f"{self.catalogue.name} was replaced while open; close the collection and open it again"
            )
        moved = head.generation != self.head.generation or (self.codes is None) != (head.n_slots == 0)
        if moved:
            self.flat.drop()  # first: an interruption here leaves no codes, and the next look sees that it has moved
        self.head = head
        if moved and self.folder is not None:
            self.open_files()
        elif head.n_slots == 0:
            self.flat.drop()
        return head

    # ---- reading

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

    def close(self) -> None:
        """Give the lock back; what is acknowledged is durable already."""
        if self.folder is not None and os.getpid() != self._pid:
            return  # a fork: SQLite's handles and the lock are the parent's
        if self._closed:
            return
        self._closed = True
        if self._writing and self._poison is None:
            with suppress(BqstoreError), self.catalogue.translated():
                # an interrupted write may have committed more than this object knows of
                if sql.read_head(self.catalogue.main(), self.catalogue.name) == self.head:
                    self.flat.trim(self.head.n_slots)
        self.flat.drop()
        try:
            self.catalogue.close()
        finally:
            if self._lock is not None:
                self._lock.release()


def _is_reading(connection: sqlite3.Connection) -> bool:
    """Whether a snapshot stands open on it; an interrupt may have left one behind that is closed."""
    try:
        return connection.in_transaction
    except sqlite3.ProgrammingError:
        return False
