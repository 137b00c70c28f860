"""One collection on disk: what a commit is, and what a failure leaves behind. `opening.py` says how it is opened.

The order of a write: records appended, both files synced, one SQLite commit. Before the commit nothing of it exists;
after it everything does. Records past the committed count are the litter of a write that did not come to its commit;
the next one writes over them. A failed sync or commit poisons the store: what the system then holds is unknown, and
asking again would get "yes" without a write (Rebello et al., ATC 2020).

Knows bytes and rows. Knows nothing of codes' meaning, of search, filters or threads: the caller writes one at a time.
"""

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BqstoreError, ClosedError, CorruptionError, ReadOnlyError, StorageError
from . import catalogue as sql
from . import graph_snapshot as snapshots
from .catalogue import Catalogue
from .compaction import Compaction, Progress, Recode, copy_live
from .flat import SyncFailedError
from .format import F32, U64
from .graph_snapshot import Snapshot
from .head import Coding, Head, Row, Rows, as_stored, coding_of, untrained
from .lock import WriterLock, never_close_in_a_fork
from .reading import Reading
from .sections import Header


class SupersededError(Exception):
    """A reader looks at a commit whose files are gone: the writer has begun a new generation. Look again."""


class Store(Reading):
    """The files of one collection; the only one that writes them when not ``read_only``."""

    def __init__(self, folder: Path | None, catalogue: Catalogue, head: Head, lock: WriterLock | None) -> None:
        super().__init__(folder, catalogue, head, read_only=folder is not None and lock is None)
        self._lock = lock
        never_close_in_a_fork(catalogue)
        catalogue.store_id = head.store_id
        self._poison: str | None = None
        self._prepared: Compaction | None = None  # the one that may be committed
        self._pid = os.getpid()
        self._writing = False
        self._closed = False

    def start_writing(self) -> None:
        """Begin to write: everything that was there has been checked."""
        if self.folder is not None:
            self.catalogue.start_writing()
            self.flat.sweep(self.head.generation)
            snapshots.sweep(self.folder, self.head)
        self._writing = True

    def _sweep(self) -> None:
        """Remove the files of other generations than the one that was just committed."""
        self.flat.sweep(self.head.generation)
        if self.folder is not None:
            snapshots.remove_others(self.folder, self.head.generation)

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

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def sound(self) -> bool:
        """Whether writes may go on: no sync has failed."""
        return self._poison is None

    def check_writable(self) -> None:
        """Raise ReadOnlyError, or StorageError after a failed sync."""
        if self.read_only:
            raise ReadOnlyError("this collection is open with read_only=True; open it without to write")
        if self._closed:
            raise ClosedError("this collection is closed; open it again")
        if self._poison is not None:
            raise StorageError(f"an earlier write failed ({self._poison}); close the collection and open it again")

    def append(self, rows: Rows, vectors: F32, codes: U64, coding: Coding | None = None) -> Head:
        """Add documents; those whose ids exist take their place. Durable when it returns.

        Parameters
        ----------
        rows : Rows                     n documents of distinct ids
        vectors : float32 (n, dim)      as they came
        codes : uint64 (n, words)       their codes
        coding : Coding or None         how they are made, for the first of a generation; None: as the head says

        Raises StorageError, and changes nothing, if the disk refuses or a coding comes too late.
        """
        self.check_writable()
        old = replace(self.head, dim=vectors.shape[1])  # settled, for others to see, by the commit below
        if coding is not None:
            if old.n_slots:
                raise StorageError("this collection has codes already; another coding needs a new generation of them")
            assert len(vectors), "a coding without codes"
            old = replace(old, settings=as_stored(coding.settings))
        try:
            if old.n_slots == 0:  # files that are open are of a write that was interrupted, perhaps of another coding
                self.flat.create(old, None if coding is None else coding.parameters)
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
        self._prepared = None
        with self._commit() as connection:
            old = self.head
            settings = untrained(old.settings)
            new = replace(old, seq=old.seq + 1, generation=old.generation + 1, n_slots=0, n_live=0, settings=settings)
            sql.forget_all(connection)
            sql.write_head(connection, new)
        self.head = new
        self.flat.drop()
        self._sweep()
        return new

    def compact(
        self, ordinals: NDArray[np.int64], progress: Progress | None = None, recode: Recode | None = None
    ) -> Head:
        """Free the space of deleted and replaced records: `begin_compaction`, then `commit_compaction`."""
        return self.commit_compaction(self.begin_compaction(ordinals, progress, recode))

    def begin_compaction(
        self, ordinals: NDArray[np.int64], progress: Progress | None = None, recode: Recode | None = None
    ) -> Compaction:
        """Copy the live records into the files of a new generation, durably. Slow; searches may go on meanwhile.

        Parameters
        ----------
        ordinals : int64 (n_live,)      the live slots, ascending
        progress : called with the records copied and those in all; an exception of its ends the copying
        recode : Recode or None         codes are made anew of the vectors that are kept, and settings replaced

        Nothing is committed: after an exception, `discard_compaction` or a crash everything is as it was. No write
        may come before the commit. Raises CorruptionError if a record is damaged, StorageError.
        """
        self.check_writable()
        self._prepared = None
        try:
            with self.consistent():
                dead = self.dead_since(-1)
            self._prepared = copy_live(self.flat, self.head, ordinals, dead, progress, recode)
            return self._prepared
        except BaseException as error:
            if isinstance(error, SyncFailedError):
                self._poison = str(error)
            self.flat.sweep(self.head.generation)
            raise

    def commit_compaction(self, prepared: Compaction) -> Head:
        """Let the new generation take the place of the old one, whose files are removed. Fast; rows are not touched.

        Slots are numbered anew, in the same order; rids stay. A reader with old files open goes on with them.
        """
        self.check_writable()
        if prepared is not self._prepared or prepared.old != self.head:
            raise StorageError("the collection has moved on since this compaction began; nothing was changed")
        try:
            with self._commit() as connection:
                sql.forget_dead(connection)
                sql.write_head(connection, prepared.new)
        finally:
            self.reread()  # whatever came between: the files of the generation that is committed now
            if not self.catalogue.in_doubt:  # else a crash may bring back either generation
                self._prepared = None
                self._sweep()
        return self.head

    def discard_compaction(self, prepared: Compaction) -> None:
        """Remove the files of a compaction that is not to be committed."""
        if prepared is self._prepared:
            self._prepared = None
            prepared.flat.drop()
            self.flat.sweep(self.head.generation)

    def put_settings(self, settings: dict[str, Any], dim: int | None) -> None:
        """Store settings in the head row; what the codes are stays as it is."""
        self.check_writable()
        settings = as_stored(settings)
        assert coding_of(settings) == coding_of(self.head.settings)
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
        elif moved and head.n_slots and self._prepared is not None:  # compacted in memory
            self.flat.take(self._prepared.flat)
        elif head.n_slots == 0:
            self.flat.drop()
        return head

    # ---- snapshots

    def write_snapshot(
        self,
        n: int,
        seq: int,
        numbers: Mapping[str, int],
        arrays: Mapping[str, NDArray[Any]],
        generation: int | None = None,
    ) -> int:
        """Keep derived state on disk; older snapshots are removed. Its size in bytes; 0 where none was written.

        Parameters
        ----------
        n, seq : int            slots covered, and the commit it was taken at
        numbers : dict          whole numbers of 64 bits, under any names
        arrays : dict           of any shape; dtypes are those of `sections.DTYPES`; not to change meanwhile
        generation : int        of that commit; the head's if None. One that is superseded by now is not written

        One thread may be in here while another commits: nothing of the store is touched but the snapshot's own file.
        Raises StorageError if the disk refuses. That poisons nothing, and what was there before is still there.
        """
        if self.folder is None:
            return 0
        self.check_writable()
        generation = self.head.generation if generation is None else generation
        if generation != self.head.generation:
            return 0
        try:
            codes = snapshots.fingerprint(self.codes, n)
            header = Header(generation, self.head.store_id, n, seq, codes, numbers, ())
            size = snapshots.write(self.folder, header, arrays)
        except BqstoreError:
            if generation != self.head.generation:  # its temporary was swept
                return 0
            raise
        if generation != self.head.generation:  # a sweep came before the file had its name
            snapshots.remove_others(self.folder, self.head.generation)
            return 0
        snapshots.remove_older(self.folder, generation, seq)
        return size

    def read_snapshot(self) -> tuple[Snapshot | None, str | None]:
        """The newest snapshot that fits the head's commit, or one before it; else None, and a sentence that says why.

        The sentence is None, too, where there is no snapshot. Every byte is checked: some 7 GB/s.
        """
        return (None, None) if self.folder is None else snapshots.read(self.folder, self.head, self.codes)

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
