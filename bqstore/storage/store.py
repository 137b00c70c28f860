"""One collection on disk: how a write becomes durable, and what a failed write leaves. `open_store.py` opens it.

A write appends records, syncs both flat files, then makes one SQLite commit. That commit is the commit point: before
it nothing of the write exists, after it everything does. Records past the committed count are garbage of a write that
never got there, and the next write overwrites them. A failed sync or commit poisons the store until it is reopened:
what is durable is unknown, and a second fsync would report success without writing (Rebello et al., ATC 2020).

Any number of processes may have a store open for writing. Each holds the lock (`lock_file`, `wait_for_lock`) for a
commit, and must have read the last commit (`reread`) before it makes the next. The one that was opened with
``exclusive`` holds it until `close`.

Knows bytes and rows, not what codes mean. The caller lets one thread write at a time.
"""

import errno
import io
import sqlite3
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..arguments import counted
from ..errors import (
    RESTORE,
    BqstoreError,
    ClosedError,
    CorruptionError,
    ReadOnlyError,
    StorageError,
)
from . import head_table, platform, record_table, reserve, row_table, space, text_index
from .catalogue import Catalogue
from .compaction import Compaction, Progress, Recode, copy_live, next_head
from .files import storage_errors
from .flat import Remake, SyncFailedError, size_of
from .format import F32, NO_PARAMETERS, U64
from .head import Coding, Head, Row, Rows, as_stored, coding_of, untrained, with_expiry, with_records, with_scales
from .lock import WriterLock
from .place import Place
from .record_table import KeyRecord
from .sequence import CommitNumber
from .sharing import Sharing
from .text_index import TextIndex, changed_texts

T = TypeVar("T")
_LOG_OF_ONE: Final = 3 * 4096  # bytes of SQLite's log for the deletion of one document, in pages of its own
_AT_CLOSE: Final = 2.0  # seconds to wait for the lock, to tidy up


class NoRoomError(StorageError):
    """A copy would not fit; the message says what it takes."""


class SupersededError(Exception):
    """The files of a commit are gone: another process has started a new generation. Read the head again."""


class Store(Sharing):
    """The files of one collection; one of their writers when not ``read_only``."""

    def __init__(
        self,
        catalogue: Catalogue,
        head: Head,
        lock: WriterLock | None = None,
        held: io.FileIO | None = None,
        lock_timeout: float = 0.0,
        place: Place | None = None,
    ) -> None:
        super().__init__(catalogue, head, lock, held, lock_timeout, place)
        catalogue.store_id = head.store_id
        self._poison: str | None = None
        self.replaced: frozenset[str] = frozenset()  # ids that the last append has found and replaced
        self._prepared: Compaction | None = None  # the only one that may be committed
        self._writing = False
        self._closed = False

    def start_writing(self) -> None:
        """Allow writes. Called under the lock, when everything that exists has been checked."""
        self.check_place()
        reserve.with_it(self.flat.entries, self.catalogue.start_writing, sparing=True)
        if self._place is not None:
            self._place.watch("meta.db")  # anew, as opening it for writing may make another file of it (overlayfs)
            self.number = CommitNumber(self._place, write=True)
            self._until_closed.callback(self.number.close)
        self.reread()
        self.number.publish(self.head.seq)  # whoever committed last may have died before it said so
        self._sweep()
        self.keep_reserve()
        self.flat.mend()
        self._rest_folder()
        self._writing = True

    def open_files(self) -> None:
        """Open the flat files of the head's generation, checked."""
        self.flat.open(self.head, self._missing)

    def _missing(self, path: Path) -> Exception:
        """The error for a file of the head's generation that does not exist."""
        self.check_place()
        if not self.is_alone:
            with self.catalogue.reading() as connection:  # not the main one, which may stand at an older commit
                head = head_table.read_head(connection, self.catalogue.name)
            if head is not None and head.generation > self.head.generation:
                return SupersededError()
        return CorruptionError(f"{path.name} is missing from {self.folder}; {RESTORE}")

    def read_codes(self, slot: int, count: int, remake: Remake | None = None) -> tuple[NDArray[np.int64], U64]:
        """As `FlatFiles.read_codes`. SupersededError if a compaction has removed the file while it was at rest."""
        try:
            return super().read_codes(slot, count, remake)
        except StorageError as error:
            if error.errno != errno.ENOENT or self.folder is None:
                raise
            raise self._missing(self.folder / self.codes_name) from error

    # ---- writing

    @contextmanager
    def _commit(self, new: Head) -> Iterator[sqlite3.Connection]:
        """A transaction whose COMMIT makes ``new`` the head. One that fails poisons the store."""
        try:
            with self.catalogue.writing() as connection:
                stored = head_table.reread_head(connection, self.catalogue.name, self.head)
                if stored != self.head:  # the last write was interrupted after its commit, say
                    raise StorageError("the collection has moved on under this write; nothing was written: try again")
                if new.settings.get("records") and not self.head.settings.get("records"):
                    record_table.create(connection)
                yield connection
                head_table.write_head(connection, new)
        except BqstoreError as error:
            if self.catalogue.in_doubt:
                self._poison = str(error)
            raise
        self.head = new
        self.number.publish(new.seq)
        try:
            self.check_place()  # else what was committed is in a folder that nobody will open again
        except StorageError as error:
            self._poison = str(error)
            raise
        self.catalogue.limit_log()

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

    def _is_poisoned(self) -> bool:
        return self._poison is not None

    def check_writable(self) -> None:
        """Raise ReadOnlyError, ClosedError, FolderReplacedError, or StorageError after a failed sync or commit."""
        if self.read_only:
            raise ReadOnlyError("this collection is open with read_only=True; open it without to write")
        if self._closed:
            raise ClosedError("this collection is closed; open it again")
        if self._poison is not None:
            raise StorageError(f"an earlier write failed ({self._poison}); close the collection and open it again")
        self.check_place()
        self.check_snapshots()

    def append(
        self, rows: Rows, vectors: F32, codes: U64, coding: Coding | None = None, records: Sequence[KeyRecord] = ()
    ) -> Head:
        """Upsert documents, durably.

        Parameters
        ----------
        rows : Rows                     n documents with distinct ids
        vectors : float32 (n, dim)      unnormalized
        codes : uint64 (n, words)       their codes
        coding : Coding or None         how the codes are made, for the first commit of a generation; None: as before
        records : KeyRecords            what a record manager keeps of them, in the same commit

        Raises StorageError, and changes nothing, if the disk refuses or the generation already has codes.
        """
        settings = self.head.settings if coding is None else as_stored(coding.settings)
        settings = with_expiry(with_scales(settings, vectors), rows.metadata)
        settings = with_records(settings) if records else settings
        new = self._next(dim=vectors.shape[1], settings=settings)
        slot, first_rid, n = new.n_slots, new.next_rid, len(vectors)
        if coding is not None:
            if slot:
                raise StorageError("this collection has codes already; another coding needs a new generation of them")
            assert n, "a coding without codes"
        found = self.rids_by_id(rows.ids) if new.n_live else {}
        self.replaced, replaced = frozenset(found), found.values()
        words = TextIndex.of(new.settings)
        empty, new = new, replace(new, n_slots=slot + n, n_live=new.n_live + n - len(replaced), next_rid=first_rid + n)

        def write_records() -> None:
            if slot == 0:  # files that are open are of an interrupted write, perhaps with another coding
                self.check_place()
                self.flat.create(empty, NO_PARAMETERS if coding is None else coding.parameters)
            self.flat.write(slot, first_rid, vectors, codes)
            self.flat.sync()

        try:
            if self.is_alone:
                write_records()
            with self._commit(new) as connection:
                if not self.is_alone:  # SQLite's own lock keeps others off, too, should LOCK have been removed
                    write_records()
                if words:
                    words.forget(connection, replaced)
                row_table.bury(connection, replaced, new.seq)
                row_table.insert_rows(connection, rows.numbered(first_rid, new.seq))
                if words:
                    words.take_since(connection, first_rid)
                record_table.write(connection, records)
        except BaseException as error:
            if isinstance(error, SyncFailedError):
                self._poison = str(error)
            self.catalogue.end_interrupted()  # else its head would be taken for one that is committed
            self.reread()
            raise
        return new

    def bury(self, rids: Sequence[int]) -> Head:
        """Delete rows, durably. Their records stay in the flat files until a compaction."""
        new = self._next(n_live=self.head.n_live - len(rids))

        def commit() -> Head:
            with self._commit(new) as connection:
                if words := TextIndex.of(new.settings):
                    words.forget(connection, rids)
                if new.settings.get("records"):
                    record_table.forget(connection, rids)
                row_table.bury(connection, rids, new.seq)
            return new

        return self._shrinking(commit, len(rids), "; delete fewer at a time, or make room elsewhere")

    def change_records(self, change: Callable[[sqlite3.Connection], None], deleted: int = 0) -> Head:
        """Write or delete records, durably; only delete so many. The table is made where there is none."""
        new = self._next(settings=with_records(self.head.settings))

        def commit() -> Head:
            with self._commit(new) as connection:
                change(connection)
            return new

        return self._shrinking(commit, deleted, "; delete fewer at a time") if deleted else commit()

    def rewrite(self, rows: Sequence[Row]) -> Head:
        """Replace the rows with the same rids, durably."""
        settings = with_expiry(self.head.settings, (row.metadata for row in rows))
        new = self._next(meta_seq=self.head.seq + 1, settings=settings)
        words = TextIndex.of(new.settings)
        with self._commit(new) as connection:
            changed = changed_texts(connection, ((row.rid, row.text) for row in rows)) if words else []
            if words:
                words.forget(connection, changed)
            row_table.replace_rows(connection, (row._replace(seq=new.seq) for row in rows))
            if words:
                words.take(connection, changed)
        return new

    def clear(self, whole: bool = False) -> Head:
        """Delete every row and start a new generation, durably; the old flat files are removed.

        ``whole``: forget the dimension, too.
        """
        generation, settings = self.head.generation + 1, untrained(self.head.settings)
        settings = {name: value for name, value in settings.items() if name != "expires"}
        dim = None if whole else self.head.dim
        words = TextIndex.of(settings)
        if words:
            settings = as_stored({**settings, "text_index": TextIndex(words.tokenize).stored()})
        new = self._next(generation=generation, n_slots=0, n_live=0, dim=dim, settings=settings)
        self._prepared = None

        def commit() -> None:
            with self._commit(new) as connection:
                if words:
                    text_index.empty(connection)
                row_table.empty(connection, "rows", "dead", "changed", *["records"] * bool(settings.get("records")))

        self._shrinking(commit, self.head.n_live, "; make room elsewhere first")
        self.flat.drop()
        self._sweep()
        self.give_back()
        return new

    def put_settings(self, settings: dict[str, Any], dim: int | None) -> None:
        """Store settings in the head row, durably. The coding must stay the same."""
        new = self._next(settings=as_stored(settings), dim=dim)
        assert coding_of(new.settings) == coding_of(self.head.settings)
        with self._commit(new):
            pass

    def set_text_index(self, tokenize: str | None) -> Head:
        """Begin a text index, in the place of the one there is, or drop it (None), durably. See `grow_text_index`."""
        settings = {name: value for name, value in self.head.settings.items() if name != "text_index"}
        words = None if tokenize is None else TextIndex(tokenize, 0, self.head.next_rid if self.head.n_live else 0)
        if words:
            text_index.check_available(words.tokenize)
            settings["text_index"] = words.stored()
        new = self._next(settings=as_stored(settings))
        with self._commit(new) as connection:
            text_index.drop(connection, head_table.tables_version(new.settings))
            if words:
                words.create(connection)
        return new

    def grow_text_index(self) -> bool:
        """Index the next of the texts that a text index was begun with, durably; whether some are left."""
        words = TextIndex.of(self.head.settings)
        if words is None or words.is_whole:
            return False
        with self.catalogue.using_main() as main:
            wider = words.next(main)
        new = self._next(settings=as_stored({**self.head.settings, "text_index": wider.stored()}))
        with self._commit(new) as connection:
            words.grow(connection, wider)
        return not wider.is_whole

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
        parameters = self.parameters if recode is None else recode.parameters
        need = size_of(next_head(self.head, recode), parameters) if len(ordinals) else 0
        try:
            with self.consistent():
                dead = self.dead_since(-1)
            if recode is None:
                self._make_room(need)
            try:
                self._prepared = copy_live(self.flat, self.head, ordinals, dead, progress, recode)
            except StorageError as error:
                entries = self.flat.entries
                if entries is None or recode is not None or error.errno != errno.EDQUOT:
                    raise
                self._sweep_flat()  # a quota, which `_make_room` does not know
                self._shrink_catalogue()
                reserve.give_up(entries)
                self._prepared = copy_live(self.flat, self.head, ordinals, dead, progress, recode)
            return self._prepared
        except BaseException as error:
            if isinstance(error, SyncFailedError):
                self._poison = str(error)
            self._sweep_flat()
            if isinstance(error, StorageError) and reserve.is_full(error) and not isinstance(error, NoRoomError):
                words = f"{error.strerror}; the copy takes {need:,} bytes beside what there is"
                raise type(error)(error.errno, words) from error
            raise

    def commit_compaction(self, prepared: Compaction) -> Head:
        """Replace the generation by the new one, durably, and remove the old files. Fast; no row is touched.

        Slots are renumbered in the same order; rids stay. A reader that has the old files open goes on with them.
        """
        self.check_writable()
        if prepared is not self._prepared or prepared.old != self.head:
            raise StorageError("the collection has moved on since this compaction began; nothing was changed")

        def commit() -> None:
            with self._commit(prepared.new) as connection:
                row_table.empty(connection, "dead", "changed")  # followers read everything of a new generation

        try:
            reserve.with_it(self.flat.entries, commit, self._making_room(_LOG_OF_ONE), self._is_poisoned)
        finally:
            self.catalogue.end_interrupted()
            self.reread()  # after an interrupt, too: the files of whichever generation is committed
            if not self.catalogue.in_doubt:  # else either generation may be there after a crash
                self._prepared = None
                self._sweep()
        self.give_back()
        return self.head

    def _shrinking(self, commit: Callable[[], T], count: int, advice: str) -> T:
        """Do a commit that deletes so many documents, without the reserve if need be; else say what it takes."""
        tables = 2 if self.head.settings.get("records") else 1  # of which each document may have a row
        need = min(count * tables * _LOG_OF_ONE, sum(self.catalogue.bytes()))
        try:
            return reserve.with_it(self.flat.entries, commit, self._making_room(need), self._is_poisoned)
        except StorageError as error:
            if not reserve.is_full(error):
                raise
            size = sum(self.catalogue.bytes())
            most = space.log_of_deleting(count * tables, self.head.n_live * tables, size)
            words = f"{error.strerror}: deleting {counted(count, 'document')} takes up to {most:,} bytes meanwhile"
            raise StorageError(error.errno, words + advice) from error

    def _making_room(self, need: int) -> Callable[[], object]:
        """What to do once the reserve is given up, before a commit that takes so much of SQLite's log.

        To use the log again it must be copied, and that may take more room than the reserve has left.
        """
        entries = self.flat.entries
        fits = entries is not None and need <= entries.size(reserve.NAME)
        return (lambda: None) if fits else self.catalogue.use_log_again

    def _make_room(self, need: int) -> None:
        """Give back the catalogue's space, then the reserve, if a copy of so many bytes needs it.

        Raises NoRoomError if even that is too little.
        """
        entries = self.flat.entries
        if entries is None:
            return
        if need > _free(entries.path):
            self._shrink_catalogue()
        free = _free(entries.path)
        if free < need <= free + entries.size(reserve.NAME):
            reserve.give_up(entries)
        elif need > free:
            raise NoRoomError(
                errno.ENOSPC,
                f"the disk is full: compact() copies what is live, which takes {need:,} bytes, and {free:,} are free; "
                "nothing was changed",
            )

    def _shrink_catalogue(self) -> None:
        log = self.catalogue.checkpoint  # emptied, as to give back takes of it, and after that
        for shrink in (log, self.catalogue.give_back, log):
            with suppress(BqstoreError):
                shrink()

    def keep_reserve(self) -> None:
        """Keep some space for the day when the disk is full; see `reserve`."""
        if self.flat.entries is not None:
            reserve.keep(self.flat.entries, lambda: self.disk_bytes()[0])

    def erase(self) -> None:
        """Leave nothing of deleted rows in the catalogue."""
        if TextIndex.of(self.head.settings):
            with self.catalogue.writing() as connection:
                text_index.optimize(connection)
        self.catalogue.erase()

    def give_back(self) -> None:
        """Shrink the catalogue by the pages that nothing uses. It costs space where the disk refuses, so that warns."""
        try:
            self.catalogue.give_back()
        except BqstoreError as error:
            self.check_place()
            warnings.warn(
                f"space in {self.catalogue.name} was not given back: {error}. Nothing is lost; make room, and call "
                "compact() again",
                RuntimeWarning,
                stacklevel=2,
            )
        self.keep_reserve()

    def discard_compaction(self, prepared: Compaction) -> None:
        """Remove the files of a compaction that will not be committed."""
        if prepared is self._prepared:
            self._prepared = None
            prepared.flat.drop()
            self._sweep_flat()

    def reread(self) -> Head:
        """Read the head row of the last commit; open the files of a new generation."""
        with self.catalogue.using_main() as main:
            head = head_table.reread_head(main, self.catalogue.name, self.head)
        if head.store_id != self.head.store_id:
            self.check_place()
            raise CorruptionError(
                f"{self.catalogue.name} was replaced while open; close the collection and open it again"
            )
        wanted = head.generation if head.n_slots else None
        if head.seq < self.head.seq:  # an older copy came while nothing of it was open: see `rest`
            raise CorruptionError(
                f"{self.catalogue.name} has fewer commits than were seen here: an older one has come in its place; "
                "close the collection and open it again"
            )
        moved = wanted != (None if self.codes is None else self.flat.generation)
        # files that this process made for a first write that failed; another's may stand there now
        moved = moved or (self.head.n_slots == 0 < head.n_slots and head is not self.head and not self.is_alone)
        if moved:
            self.flat.drop()  # first: an interrupt here leaves no codes, so that the next call sees the move again
        self.head = head
        if moved and self.folder is not None:
            self.open_files()
        elif moved and head.n_slots and self._prepared is not None:  # compacted in memory
            self.flat.take(self._prepared.flat)
        return head

    def close(self, guard: AbstractContextManager[object] | None = None) -> None:
        """Release the lock and the files. What was acknowledged is durable already.

        ``guard`` keeps other threads from the main connection: closing it under a read crashes SQLite. It is taken when
        the lock has been waited for. Raises StorageError when all is released, and the system refused something.
        """
        if self._closed:
            return
        self._closed = True
        with storage_errors(f"close {self.folder}", "; it is closed, and nothing is lost"), self._until_closed:
            self._close_files(guard or nullcontext())

    def _close_files(self, guard: AbstractContextManager[object]) -> None:
        """Trim the flat files and close the connections, under the lock: closing the last one folds SQLite's log in.

        If another process keeps the lock, it has a connection, too, and its end will do that.
        """
        with ExitStack() as stack:
            locked = self.is_alone
            if self._writing and not locked:
                with suppress(BqstoreError):
                    file = stack.enter_context(self.lock_file())
                    stack.callback(self.give_lock_back, file)
                    self.wait_for_lock(file, min(self.lock_timeout, _AT_CLOSE))
                    locked = True
            stack.enter_context(guard)
            if self._writing and self.flat.entries is not None and not self.catalogue.has_room():
                reserve.give_up(self.flat.entries)
            stack.callback(self.catalogue.close)  # whatever comes before
            stack.callback(self.flat.close)
            if self._writing and locked and self._poison is None:
                with suppress(BqstoreError), self.catalogue.using_main() as main:
                    # an interrupted write may have committed more records than this object knows of
                    if head_table.read_head(main, self.catalogue.name) == self.head:
                        self.flat.trim(self.head.n_slots)
                    self.catalogue.checkpoint()  # the last connection may be another process's, and a reader's
        if self._writing and self.flat.entries is not None:
            reserve.take_back(self.flat.entries)


def _free(folder: Path) -> int:
    """Bytes that are free, as far as the system tells."""
    try:
        return platform.free_bytes(folder)
    except OSError:
        return 1 << 62
