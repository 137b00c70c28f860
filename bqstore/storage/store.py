"""One collection on disk: how a write becomes durable, and what a failed write leaves. `open_store.py` opens it.

A write appends records, syncs both flat files, then makes one SQLite commit. That commit is the commit point: before
it nothing of the write exists, after it everything does. Records past the committed count are garbage of a write that
never got there, and the next write overwrites them. A failed sync or commit poisons the store until it is reopened:
what is durable is unknown, and a second fsync would report success without writing (Rebello et al., ATC 2020).

Knows bytes and rows, not what codes mean. The caller lets one thread write at a time.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BqstoreError, ClosedError, CorruptionError, FolderReplacedError, ReadOnlyError, StorageError
from . import catalogue as sql
from . import graph_snapshot as snapshots
from .catalogue import Catalogue
from .compaction import Compaction, Progress, Recode, copy_live
from .files import storage_errors
from .flat import SyncFailedError
from .format import F32, NO_PARAMETERS, U64
from .graph_snapshot import Snapshot
from .head import Coding, Head, Row, Rows, as_stored, coding_of, untrained
from .lock import WriterLock, never_close_in_a_fork
from .place import Place
from .reading import Reading
from .snapshot_format import Header


class SupersededError(Exception):
    """A reader is at a commit whose files are gone: the writer has started a new generation. Read the head again."""


class Store(Reading):
    """The files of one collection; their only writer when not ``read_only``."""

    def __init__(self, folder: Path | None, catalogue: Catalogue, head: Head, lock: WriterLock | None) -> None:
        super().__init__(folder, catalogue, head, read_only=folder is not None and lock is None)
        self._lock = lock
        never_close_in_a_fork(catalogue)
        catalogue.store_id = head.store_id
        self._poison: str | None = None
        self._prepared: Compaction | None = None  # the only one that may be committed
        self._writing = False
        self._closed = False
        self._place: Place | None = None
        if self.read_only:
            self._watch_place()

    def _watch_place(self) -> None:
        if self.folder is not None:
            with storage_errors(f"open {self.folder}"):
                self._place = Place(self.folder, writing=not self.read_only)
            self.catalogue.check_place = self.check_place

    def check_place(self) -> None:
        """Raise FolderReplacedError unless the folder at the path is the one that was opened."""
        if self._place is not None:
            self._place.check()

    def start_writing(self) -> None:
        """Allow writes. Called when everything that exists has been checked."""
        self.catalogue.start_writing()
        self._watch_place()  # now, as opening the catalogue for writing may make another file of it (overlayfs)
        self._sweep()
        self._writing = True

    def _sweep(self) -> None:
        """Remove the files of other generations, and snapshots of commits that this history does not have."""
        self.check_place()
        self.flat.sweep(self.head.generation)
        if self.folder is not None:
            snapshots.sweep(self.folder, self.head.generation, 0, self.head.seq)

    def open_files(self) -> None:
        """Open the flat files of the head's generation, checked."""
        self.flat.open(self.head, self._missing)

    def _missing(self, path: Path) -> Exception:
        """The error for a file of the head's generation that does not exist."""
        self.check_place()
        if self.read_only:
            with self.catalogue.reading() as connection:  # not the main one, which may stand at an older commit
                head = sql.read_head(connection, self.catalogue.name)
            if head is not None and head.generation > self.head.generation:
                return SupersededError()
        return CorruptionError(f"{path.name} is missing from {self.folder}; restore it from a copy")

    # ---- writing

    @contextmanager
    def _commit(self, new: Head) -> Iterator[sqlite3.Connection]:
        """A transaction whose COMMIT makes ``new`` the head. One that fails poisons the store."""
        try:
            with self.catalogue.writing() as connection:
                stored = sql.read_head(connection, self.catalogue.name)
                if stored != self.head:  # the last write was interrupted after its commit, say
                    raise StorageError("the collection has moved on under this write; nothing was written: try again")
                yield connection
                sql.write_head(connection, new)
        except BqstoreError as error:
            if self.catalogue.in_doubt:
                self._poison = str(error)
            raise
        self.head = new
        try:
            self.check_place()  # else what was committed is in a folder that nobody will open again
        except FolderReplacedError as error:
            self._poison = str(error)
            raise

    def _next(self, **changes: Any) -> Head:
        """The head of the next commit. Raises what `check_writable` does."""
        self.check_writable()
        return replace(self.head, seq=self.head.seq + 1, **changes)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def sound(self) -> bool:
        """Whether no sync or commit has failed."""
        return self._poison is None

    def check_writable(self) -> None:
        """Raise ReadOnlyError, ClosedError, FolderReplacedError, or StorageError after a failed sync or commit."""
        if self.read_only:
            raise ReadOnlyError("this collection is open with read_only=True; open it without to write")
        if self._closed:
            raise ClosedError("this collection is closed; open it again")
        if self._poison is not None:
            raise StorageError(f"an earlier write failed ({self._poison}); close the collection and open it again")
        self.check_place()

    def append(self, rows: Rows, vectors: F32, codes: U64, coding: Coding | None = None) -> Head:
        """Upsert documents, durably.

        Parameters
        ----------
        rows : Rows                     n documents with distinct ids
        vectors : float32 (n, dim)      unnormalized
        codes : uint64 (n, words)       their codes
        coding : Coding or None         how the codes are made, for the first commit of a generation; None: as before

        Raises StorageError, and changes nothing, if the disk refuses or the generation already has codes.
        """
        new = self._next(dim=vectors.shape[1])
        slot, first_rid, n = new.n_slots, new.next_rid, len(vectors)
        if coding is not None:
            if slot:
                raise StorageError("this collection has codes already; another coding needs a new generation of them")
            assert n, "a coding without codes"
            new = replace(new, settings=as_stored(coding.settings))
        replaced = self.rids_by_id(rows.ids).values() if new.n_live else ()
        try:
            if slot == 0:  # files that are open are of an interrupted write, perhaps with another coding
                self.check_place()
                self.flat.create(new, NO_PARAMETERS if coding is None else coding.parameters)
            self.flat.write(slot, first_rid, vectors, codes)
            self.flat.sync()
            new = replace(new, n_slots=slot + n, n_live=new.n_live + n - len(replaced), next_rid=first_rid + n)
            with self._commit(new) as connection:
                sql.bury(connection, replaced, new.seq)
                sql.insert_rows(connection, rows.numbered(first_rid, new.seq))
        except BaseException as error:
            if isinstance(error, SyncFailedError):
                self._poison = str(error)
            self.reread()
            raise
        return new

    def bury(self, rids: Sequence[int]) -> Head:
        """Delete rows, durably. Their records stay in the flat files until a compaction."""
        new = self._next(n_live=self.head.n_live - len(rids))
        with self._commit(new) as connection:
            sql.bury(connection, rids, new.seq)
        return new

    def rewrite(self, rows: Sequence[Row]) -> Head:
        """Replace the rows with the same rids, durably."""
        new = self._next(meta_seq=self.head.seq + 1)
        with self._commit(new) as connection:
            sql.replace_rows(connection, (row._replace(seq=new.seq) for row in rows))
        return new

    def clear(self) -> Head:
        """Delete every row and start a new generation, durably; the old flat files are removed."""
        generation, settings = self.head.generation + 1, untrained(self.head.settings)
        new = self._next(generation=generation, n_slots=0, n_live=0, settings=settings)
        self._prepared = None
        with self._commit(new) as connection:
            sql.empty(connection, "rows", "dead", "changed")
        self.flat.drop()
        self._sweep()
        return new

    def put_settings(self, settings: dict[str, Any], dim: int | None) -> None:
        """Store settings in the head row, durably. The coding must stay the same."""
        new = self._next(settings=as_stored(settings), dim=dim)
        assert coding_of(new.settings) == coding_of(self.head.settings)
        with self._commit(new):
            pass

    def begin_compaction(
        self, ordinals: NDArray[np.int64], progress: Progress | None = None, recode: Recode | None = None
    ) -> Compaction:
        """Copy the live records into the files of a new generation, durably. Slow; searches go on meanwhile.

        Parameters
        ----------
        ordinals : int64 (n_live,)      the live slots, ascending
        progress : called with the number of records copied, and of all; an exception from it ends the copying
        recode : Recode or None         encode the stored vectors anew, and replace the settings

        Nothing is committed: after an exception, `discard_compaction` or a crash everything is as before. A write
        before `commit_compaction` makes it void. Raises CorruptionError if a record is damaged, StorageError.
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
            self._sweep_flat()
            raise

    def commit_compaction(self, prepared: Compaction) -> Head:
        """Replace the generation by the new one, durably, and remove the old files. Fast; no row is touched.

        Slots are renumbered in the same order; rids stay. A reader that has the old files open goes on with them.
        """
        self.check_writable()
        if prepared is not self._prepared or prepared.old != self.head:
            raise StorageError("the collection has moved on since this compaction began; nothing was changed")
        try:
            with self._commit(prepared.new) as connection:
                sql.empty(connection, "dead")
        finally:
            self.reread()  # after an interrupt, too: the files of whichever generation is committed
            if not self.catalogue.in_doubt:  # else either generation may be there after a crash
                self._prepared = None
                self._sweep()
        return self.head

    def discard_compaction(self, prepared: Compaction) -> None:
        """Remove the files of a compaction that will not be committed."""
        if prepared is self._prepared:
            self._prepared = None
            prepared.flat.drop()
            self._sweep_flat()

    def _sweep_flat(self) -> None:
        """Remove the flat files of other generations, unless another folder stands there now."""
        with suppress(FolderReplacedError):
            self.check_place()
            self.flat.sweep(self.head.generation)

    def reread(self) -> Head:
        """Read the head row of the last commit; open the files of a new generation."""
        with self.catalogue.translated():
            head = sql.read_head(self.catalogue.main(), self.catalogue.name)
        if head is None or head.store_id != self.head.store_id:
            self.check_place()
            raise CorruptionError(
                f"{self.catalogue.name} was replaced while open; close the collection and open it again"
            )
        wanted = head.generation if head.n_slots else None
        moved = wanted != (None if self.codes is None else self.flat.generation)
        if moved:
            self.flat.drop()  # first: an interrupt here leaves no codes, so that the next call sees the move again
        self.head = head
        if moved and self.folder is not None:
            self.open_files()
        elif moved and head.n_slots and self._prepared is not None:  # compacted in memory
            self.flat.take(self._prepared.flat)
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
        """Store derived state as a snapshot and remove older ones. Returns its size, or 0 if none was written.

        Parameters
        ----------
        n, seq : int            slots covered, and the commit it was taken at
        numbers : dict          int64, under any names
        arrays : dict           any shape, dtypes of `snapshot_format.DTYPES`
        generation : int        of that commit, the head's if None; nothing is written if a newer one was committed

        Raises StorageError if the disk refuses. That does not poison the store, and the older snapshot stays.
        """
        if self.folder is None:
            return 0
        self.check_writable()
        if generation not in (None, self.head.generation):
            return 0
        codes = snapshots.fingerprint(self.codes, n)
        header = Header(self.head.generation, self.head.store_id, n, seq, codes, numbers, ())
        size = snapshots.write(self.folder, header, arrays, self.check_place)
        self.check_place()
        snapshots.sweep(self.folder, self.head.generation, seq, self.head.seq)
        return size

    def read_snapshot(self) -> tuple[Snapshot | None, str | None]:
        """The newest snapshot of the head's commit or an earlier one, verified; else None, and the reason.

        The reason is None if there is no snapshot. Verifying reads every byte, at some 7 GB/s.
        """
        return (None, None) if self.folder is None else snapshots.read(self.folder, self.head, self.codes)

    def close(self) -> None:
        """Release the lock and the files. What was acknowledged is durable already."""
        if self._closed:
            return
        self._closed = True
        if self._writing and self._poison is None:
            with suppress(BqstoreError), self.catalogue.translated():
                # an interrupted write may have committed more records than this object knows of
                if sql.read_head(self.catalogue.main(), self.catalogue.name) == self.head:
                    self.flat.trim(self.head.n_slots)
        self.flat.drop()
        try:
            self.catalogue.close()
        finally:
            if self._place is not None:
                self._place.close()
            if self._lock is not None:
                self._lock.release()
