"""One collection on disk: what opening checks, what a commit is, and what a failure leaves behind.

The order of a write: records appended, both files synced, one SQLite commit. Before the commit nothing of it exists;
after it everything does. Records past the committed count are the litter of a write that did not come to its commit;
the next one writes over them. A failed sync or commit poisons the store: what the system then holds is unknown, and
asking again would get "yes" without a write (Rebello et al., ATC 2020).

Knows bytes and rows. Knows nothing of codes' meaning, of search, filters or threads: the caller writes one at a time.
"""

import os
import re
import secrets
import sqlite3
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BqstoreError, CorruptionError, InvalidInputError, NotFoundError, ReadOnlyError, StorageError
from . import catalogue as sql
from . import platform
from .catalogue import Catalogue
from .files import DiskFile, MemoryFile, RecordFile
from .format import (
    F32,
    FORMS,
    ONE_BIT,
    U64,
    Layout,
    code_records,
    codes_of,
    damaged,
    rids_of,
    vector_records,
)
from .head import Head, Row

_FLAT = re.compile(r"(vectors|codes)-(\d+)\.(bin|tmp)")
_AT_ONCE = 4096  # records built and written at a time: some 25 MB of 1,536 dimensions


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
    head : Head                     the last commit this object has seen
    vectors, codes : RecordFile     None until there are vectors; vectors also None when originals are not kept
    """

    def __init__(self, folder: Path | None, catalogue: Catalogue, head: Head, read_only: bool, lock: int | None):
        self.folder = folder
        self.catalogue = catalogue
        self.head = head
        self.read_only = read_only
        self.vectors: RecordFile | None = None
        self.codes: RecordFile | None = None
        self._lock = lock
        self._poison: str | None = None
        self._pid = os.getpid()
        self._inside: tuple[int] | None = None  # the thread that reads in `consistent`
        self._writing = False
        _open_stores.add(self)

    # ---- opening

    @classmethod
    def open(cls, folder: Path | None, settings: dict[str, Any], dim: int | None, read_only: bool) -> "Store":
        """Open the collection in a folder (None: in memory), or make it with the settings if there is none.

        Of one that exists nothing is changed before `start_writing`: the caller calls it when no damage was found.

        Raises NotFoundError, LockedError, CorruptionError, FormatVersionError, StorageError.
        """
        if folder is None:
            head = Head(store_id=secrets.randbits(62), dim=dim, settings=settings)
            store = cls(None, Catalogue(None), head, False, None)
            store.catalogue.create(head)
            return store
        try:
            return cls._open_folder(folder, settings, dim, read_only)
        except BqstoreError:
            raise
        except OSError as error:
            raise StorageError(error.errno, f"cannot open {folder}: {error.strerror}") from error

    @classmethod
    def _open_folder(cls, folder: Path, settings: dict[str, Any], dim: int | None, read_only: bool) -> "Store":
        if read_only:
            if not _flat_files(folder) and (not (folder / "meta.db").exists() or _is_unfinished(folder)):
                raise NotFoundError(
                    f"there is no collection in {folder}; open it once without read_only=True to make it"
                )
            while True:
                with suppress(SupersededError):
                    return cls._open_files(folder, None, None, None)
        platform.make_folder(folder)
        lock = platform.lock_file(folder / "LOCK")
        try:
            return cls._open_files(folder, settings, dim, lock)
        except BaseException:
            os.close(lock)
            raise

    @classmethod
    def _open_files(cls, folder: Path, settings: dict[str, Any] | None, dim: int | None, lock: int | None) -> "Store":
        read_only = lock is None
        meta = folder / "meta.db"
        if not meta.exists() and _flat_files(folder):
            raise CorruptionError(f"{folder} holds vectors but no meta.db; restore it from a copy")
        catalogue = Catalogue(meta, not read_only and _is_unfinished(folder))
        try:
            with catalogue.translated():
                head = sql.read_head(catalogue.main(), meta.name)
            if head is None:
                if _flat_files(folder):
                    raise CorruptionError(f"{meta} has lost its head row; restore the collection from a copy")
                if settings is None:
                    raise NotFoundError(f"there is no collection in {folder} yet")
                head = Head(store_id=secrets.randbits(62), dim=dim, settings=settings)
                catalogue.start_writing()
                catalogue.create(head)
                meta.chmod(0o600)
                platform.sync_folder(folder)
            store = cls(folder, catalogue, head, read_only, lock)
            store._check_counts()
            store._open_flat()
        except BaseException:
            catalogue.close()
            raise
        return store

    def start_writing(self) -> None:
        """Begin to write: everything that was there has been checked."""
        if self.folder is not None:
            self.catalogue.start_writing()
            self._sweep()
        self._writing = True

    def _check_counts(self) -> None:
        """The head row against the tables: a catalogue that lost pages must not pass for a smaller collection."""
        main = self.catalogue.main()
        with self.consistent():
            head = sql.read_head(main, self.catalogue.name)
            rows, last = main.execute("SELECT count(*), max(rid) FROM rows").fetchone()
            dead = main.execute("SELECT count(*) FROM dead").fetchone()[0]
            both = main.execute("SELECT count(*) FROM dead JOIN rows USING (rid)").fetchone()[0]
        if (
            head is None
            or both
            or (rows, dead) != (head.n_live, head.n_slots - head.n_live)
            or (last is not None and last >= head.next_rid)
        ):
            raise CorruptionError(
                f"{self.catalogue.name} holds {rows:,} rows and {dead:,} deleted ones, its head row says otherwise; "
                "restore the collection from a copy"
            )
        self.head = head

    def layouts(self) -> tuple[Layout | None, Layout]:
        """The layouts of the vectors file and of the codes file."""
        assert self.head.dim is not None
        form = FORMS.get(self.head.settings["originals"])
        vectors = None if form is None else Layout("vectors", self.head.dim, form)
        return vectors, Layout("codes", self.head.dim, ONE_BIT)

    def _open_flat(self) -> None:
        self.vectors = self.codes = None
        if self.head.n_slots == 0:
            return  # files that are there are of a first write that did not come to its commit
        vectors, codes = self.layouts()
        self.vectors = self._open_one(vectors) if vectors else None
        self.codes = self._open_one(codes)

    def _path(self, layout: Layout, generation: int) -> Path:
        assert self.folder is not None
        return self.folder / f"{layout.kind}-{generation}.bin"

    def _open_one(self, layout: Layout) -> RecordFile:
        head = self.head
        path = self._path(layout, head.generation)
        try:
            return DiskFile.open(path, layout, head.generation, head.store_id, head.n_slots, self.read_only)
        except FileNotFoundError as error:
            if self.read_only and self._is_superseded():
                raise SupersededError from error
            raise CorruptionError(f"{path.name} is missing from {self.folder}; restore it from a copy") from error
        except OSError as error:
            raise StorageError(error.errno, f"cannot open {path}: {error.strerror}") from error

    def _is_superseded(self) -> bool:
        with self.catalogue.reading() as connection:  # another one, that stands at the last commit
            head = sql.read_head(connection, self.catalogue.name)
        return head is not None and head.generation > self.head.generation

    def _create_flat(self) -> None:
        vectors, codes = self.layouts()
        if self.folder is None:
            self.vectors, self.codes = MemoryFile(vectors) if vectors else None, MemoryFile(codes)
            return
        head = self.head
        made = [
            DiskFile.create(self._path(layout, head.generation), layout, head.generation, head.store_id)
            for layout in (vectors, codes)
            if layout is not None
        ]
        self.codes = made[-1]
        self.vectors = made[0] if vectors else None

    def _sweep(self) -> None:
        """Remove the flat files of other generations: a crash came between a commit and their removal."""
        assert self.folder is not None
        for path in _flat_files(self.folder):
            match = _FLAT.fullmatch(path.name)
            if match and (int(match[2]) != self.head.generation or match[3] == "tmp"):
                with suppress(OSError):  # they cost space, no more
                    path.unlink()

    # ---- writing

    @contextmanager
    def _commit(self) -> Iterator[sqlite3.Connection]:
        try:
            with self.catalogue.writing() as connection:
                yield connection
        except BqstoreError as error:
            if self.catalogue.in_doubt:
                self._poison = str(error)
            raise

    def check_writable(self) -> None:
        """Raise ReadOnlyError, or StorageError after a failed sync."""
        if self.read_only:
            raise ReadOnlyError("this collection is open with read_only=True; open it without to write")
        if self._poison is not None:
            raise StorageError(f"an earlier write failed ({self._poison}); close the collection and open it again")

    def _sync(self) -> None:
        for file in (self.vectors, self.codes):
            if file is not None:
                try:
                    file.sync()
                except OSError as error:
                    self._poison = f"{file.name} could not be synced: {error.strerror}"
                    raise StorageError(error.errno, f"{self._poison}; nothing was added") from error

    def append(self, rows: Rows, vectors: F32, codes: U64) -> Head:
        """Add documents; those whose ids exist take their place. Durable when it returns.

        Parameters
        ----------
        rows : Rows                     n documents of distinct ids
        vectors : float32 (n, dim)      as they came
        codes : uint64 (n, words)       their codes
        """
        self.check_writable()
        if self.head.dim is None:
            self.head = replace(self.head, dim=vectors.shape[1])  # not stored before the commit below
        try:
            if self.codes is None:
                self._create_flat()
            old = self.head
            layouts = self.layouts()
            for at in range(0, len(vectors), _AT_ONCE):
                some = slice(at, min(at + _AT_ONCE, len(vectors)))
                rids = np.arange(old.next_rid + some.start, old.next_rid + some.stop, dtype=np.int64)
                if self.vectors is not None and layouts[0] is not None:
                    self.vectors.write(old.n_slots + at, vector_records(layouts[0], rids, vectors[some]))
                assert self.codes is not None
                self.codes.write(old.n_slots + at, code_records(layouts[1], rids, codes[some]))
            self._sync()
            with self._commit() as connection:
                seq, n = old.seq + 1, len(vectors)
                replaced = sql.rids_by_id(connection, rows.ids, self.catalogue.name) if old.n_live else {}
                sql.bury(connection, replaced.values(), seq)
                sql.insert_rows(connection, rows.numbered(old.next_rid, seq))
                n_live = old.n_live + n - len(replaced)
                new = replace(old, seq=seq, n_slots=old.n_slots + n, n_live=n_live, next_rid=old.next_rid + n)
                sql.write_head(connection, new)
            self.head = new
        except BaseException:
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
        self.head, self.vectors, self.codes = new, None, None
        if self.folder is not None:
            self._sweep()
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
        self.head = head
        if moved and self.folder is not None:
            self._open_flat()
        elif head.n_slots == 0:
            self.vectors = self.codes = None
        return head

    # ---- reading

    @contextmanager
    def consistent(self) -> Iterator[None]:
        """Several reads of the methods below see one commit; may be nested."""
        if self._is_inside():
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

    def _is_inside(self) -> bool:
        return self._inside is not None and self._inside[0] == threading.get_ident()

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        if self._is_inside():
            with self.catalogue.translated():
                yield self.catalogue.main()
        else:
            with self.catalogue.reading() as connection:
                yield connection

    @property
    def codes_name(self) -> str:
        """The file of the codes, for a message."""
        return self.codes.name if self.codes else "codes"

    def read_codes(self, slot: int, count: int) -> tuple[NDArray[np.int64], U64]:
        """The rids, int64 (count,), and codes, uint64 (count, words), of slots; CorruptionError if any is damaged."""
        assert self.codes is not None
        records = self.codes.read(slot, count)
        bad = damaged(records)
        if bad.any():
            raise CorruptionError(
                f"record {slot + int(bad.argmax()):,} of {self.codes.name} does not agree with its checksum; "
                "restore the collection from a copy"
            )
        return rids_of(records), codes_of(self.codes.layout, records)

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
        with self.catalogue.translated():
            return sql.read_column(self.catalogue.main(), column, condition, value, self.catalogue.name)

    def rows(self, key: str, values: Sequence[object]) -> list[Row]:
        """The rows with these rids or ids, in no order, CRCs checked."""
        with self._connection() as connection:
            return sql.read_rows(connection, key, values, self.catalogue.name)

    def rids_by_id(self, ids: Sequence[str]) -> dict[str, int]:
        """The rids of those ids that exist."""
        with self._connection() as connection:
            return sql.rids_by_id(connection, ids, self.catalogue.name)

    def close(self) -> None:
        """Give the lock back; what is acknowledged is durable already."""
        if self.folder is not None and os.getpid() != self._pid:
            return  # a fork: SQLite's handles and the lock are the parent's
        if self._writing and self._poison is None:
            for file in (self.vectors, self.codes):
                if file is not None:
                    with suppress(OSError):  # it costs space, no more
                        file.trim(self.head.n_slots)
        self.vectors = self.codes = None
        try:
            self.catalogue.close()
        finally:
            self.let_go()

    def let_go(self) -> None:
        """Close the lock's descriptor: frees the lock, or in a fork only this process's hold on it."""
        if self._lock is not None:
            lock, self._lock = self._lock, None
            os.close(lock)


_open_stores: "weakref.WeakSet[Store]" = weakref.WeakSet()
_of_the_parent: list[Catalogue] = []


def _after_fork() -> None:
    """In a fork: let go of the locks, so that they end with the parent, and never close its SQLite handles."""
    for store in list(_open_stores):
        store.let_go()
        _of_the_parent.append(store.catalogue)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _is_unfinished(folder: Path) -> bool:
    """Whether the making of meta.db was interrupted: before it is in WAL mode, it has a journal beside it."""
    return (folder / "meta.db-journal").exists() and not _flat_files(folder)


def _flat_files(folder: Path) -> list[Path]:
    """The flat files in a folder, of any generation."""
    return [path for path in folder.iterdir() if _FLAT.fullmatch(path.name)] if folder.is_dir() else []


def collection_folder(path: Path, collection: str) -> Path:
    """The folder of a collection; InvalidInputError for a name that is not plainly a file name everywhere."""
    if not isinstance(collection, str) or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", collection):
        raise InvalidInputError(
            f"collection is {collection!r}; expected 1 to 100 of the characters A-Z a-z 0-9 _ - . and no . or - first"
        )
    if path.exists() and not path.is_dir():
        raise InvalidInputError(f"{path} is a file; a store is a folder")
    return path / collection
