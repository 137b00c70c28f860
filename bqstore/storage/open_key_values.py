"""Open the `kv.db` of a folder, and what a collection does with its own: read it, save what is intact, erase."""

import os
import secrets
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Final

from ..errors import RESTORE_ENTRIES, BqstoreError, CorruptionError, NotFoundError
from . import key_value_tables as tables
from . import platform, reserve
from .catalogue import Catalogue
from .files import storage_errors
from .flat import flat_files
from .hosts import claim
from .key_value_tables import About
from .key_values import NAME, EntryFile, Held, turn_of
from .lock import WriterLock, end_with_the_parent, is_own_for_life
from .place import Place

_NEW: Final = f"{NAME}.new"
_PAGE: Final = 4096
_LONGEST: Final = 1 << 40  # bytes of a file, at most, that a damaged header may ask for; they are a hole


class _Entries(Catalogue):
    """The connections to one `kv.db`."""

    def read_id(self, connection: sqlite3.Connection) -> int | None:
        return tables.read_about(connection, self.name).id


def open_key_values(folder: Path | None, read_only: bool, lock_timeout: float = 30.0, mode: int = 0o700) -> EntryFile:
    """Open the entries of a collection's folder (None: in memory), made if there are none.

    Raises NotFoundError (``read_only``, and there are none), LockedError, CorruptionError, FormatVersionError,
    StorageError.
    """
    if folder is None:
        catalogue = _Entries(None)
        with catalogue.writing() as connection:
            tables.create(connection, About(secrets.randbits(62)))
        return EntryFile(catalogue, None, None, lock_timeout)
    with storage_errors(f"open {folder}"), ExitStack() as at_failure:
        if read_only and not (folder / NAME).exists():
            raise NotFoundError(f"there are no entries in {folder}; open them once without read_only=True")
        if not read_only:
            platform.make_folder(folder, mode)
        place = Place(folder)
        at_failure.callback(place.close)
        if read_only:
            out = EntryFile(_opened(place, read_only=True), place, None, lock_timeout)
        else:
            out = _open_to_write(place, WriterLock(folder / "LOCK", "SEQ", place), lock_timeout)
        at_failure.pop_all()
        return out


def _open_to_write(place: Place, lock: WriterLock, lock_timeout: float) -> EntryFile:
    with ExitStack() as stack, ExitStack() as at_failure:
        file = stack.enter_context(lock.open())
        if not is_own_for_life(file):
            lock.wait(file, lock_timeout)
            stack.callback(platform.unlock, file.fileno())
        else:  # other threads of this process have it, too
            stack.enter_context(Held(turn_of(place)))
        host = claim(place)
        if host is not None:
            end_with_the_parent(at_failure.enter_context(host))
        catalogue = reserve.with_it(place, lambda: _opened(place, read_only=False), sparing=True)
        reserve.keep(place, lambda: sum(catalogue.bytes()))
        out = EntryFile(catalogue, place, lock, lock_timeout)
        if host is not None:
            out._until_closed.callback(host.close)
        at_failure.pop_all()
        return out


def _opened(place: Place, read_only: bool) -> Catalogue:
    """Open and check the file; made, under the lock, where there is none."""
    path = place.path / NAME
    if not read_only and not path.exists():
        _make(place)
    unfinished = not read_only and path.with_name(f"{NAME}-journal").exists()
    catalogue = _Entries(path, unfinished, read_only)
    catalogue.check_place = place.check
    try:
        with catalogue.using_main() as main:
            about = tables.read_about(main, NAME)
            _check_count(main, about)
        place.check()
        if not read_only:
            catalogue.start_writing()
            place.watch(NAME)
        catalogue.store_id = about.id
    except BaseException:
        catalogue.close()
        raise
    return catalogue


def _make(place: Place) -> None:
    """Make the file and its tables under another name until they are whole: an empty `kv.db` has lost its entries."""
    for name in place.names():
        if name.startswith((_NEW, f"{NAME}-")):  # left by an interrupted call, or by a file that is gone
            place.unlink(name)
    try:
        fd = place.open(_NEW, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            place.check()
            _fill(place.path / _NEW, secrets.randbits(62))
            platform.sync_file(fd)
        finally:
            os.close(fd)
        place.check()  # else the tables are in another folder
        place.replace(NAME, by=_NEW)
    except BaseException:
        with suppress(BqstoreError, OSError):  # takes room, and there may be none
            for name in place.names():
                if name.startswith(_NEW):
                    place.unlink(name)
        raise
    place.sync()


def _fill(file: Path, id_: int) -> None:
    """Make the tables in an empty file."""
    catalogue = _Entries(file, unfinished=True)
    try:
        with catalogue.writing() as connection:
            tables.create(connection, About(id_))
    finally:
        catalogue.close()


def _check_count(main: sqlite3.Connection, about: About) -> None:
    """A file that lost pages must not look like one with fewer entries. Through an index: no value is read."""
    main.execute("BEGIN")
    try:
        about = tables.reread_about(main, NAME)
        found = main.execute("SELECT count(*) FROM entries").fetchone()[0]
    finally:
        main.execute("ROLLBACK")
    if found != about.entries:
        raise CorruptionError(
            f"{NAME} holds {found:,} entries, its own row counts {about.entries:,}; {RESTORE_ENTRIES}"
        )


# ---- with the collection of the folder


def _is_there(folder: Path) -> bool:
    """Whether a folder has entries. Raises StorageError where the system does not tell."""
    with storage_errors(f"look at {folder / NAME}"):
        return (folder / NAME).exists()


def has_entries_alone(folder: Path) -> bool:
    """Whether a folder has entries, and nothing of a collection."""
    return _is_there(folder) and not (folder / "meta.db").exists() and not flat_files(folder)


@contextmanager
def entries_of(folder: Path | None) -> Iterator[EntryFile | None]:
    """The entries of a collection's folder, to read; None if there are none."""
    if folder is None or not _is_there(folder):
        yield None
        return
    found = open_key_values(folder, read_only=True)
    try:
        yield found
    finally:
        found.close()


def salvage(folder: Path, target: Path) -> list[str]:
    """Write what is intact of a folder's entries into another folder; what is damaged, one line each."""
    if not _is_there(folder):
        return []
    with tempfile.TemporaryDirectory(dir=target) as work:
        copy = _whole_length(folder, Path(work))
        found, problems = _intact(copy)
        if problems:
            _renew_first_page(copy)
            again, more = _intact(copy)
            if len(again) > len(found):
                found, problems = again, [f"{NAME}: its first page is damaged", *more]
    if found or not problems:
        with closing(open_key_values(target, read_only=False)) as entries:
            entries.restore(found)
    return problems


def _intact(file: Path) -> tuple[list[tables.Entry], list[str]]:
    try:
        catalogue = _Entries(file)
    except BqstoreError as error:
        return [], [f"{NAME}: {error}; none of its entries could be saved"]
    try:
        return tables.intact(catalogue.main(), NAME)
    finally:
        with suppress(BqstoreError):
            catalogue.close()


def _renew_first_page(file: Path) -> None:
    """Put the first page of a new file in the place of that of a damaged one.

    The first page has the tables and indexes, which begin at the same pages in every such file, how many pages it has,
    which of them are unused, and that there is a log (2, 2).
    """
    new = file.with_name("new.db")
    _fill(new, 0)
    with new.open("rb") as source, file.open("r+b") as target:
        page = source.read(_PAGE)
        pages = target.seek(0, os.SEEK_END) // _PAGE
        target.seek(0)
        target.write(page[:18] + bytes([2, 2]) + page[20:28] + pages.to_bytes(4, "big") + page[32:])


def _whole_length(folder: Path, work: Path) -> Path:
    """A copy of the file, as long as its header says: SQLite reads nothing of a file that was cut."""
    for name in (NAME, f"{NAME}-wal"):
        with suppress(FileNotFoundError):
            shutil.copyfile(folder / name, work / name)
    with (work / NAME).open("r+b") as file:
        header = file.read(32)
        size = int.from_bytes(header[16:18], "big") * int.from_bytes(header[28:32], "big")
        if file.seek(0, os.SEEK_END) < size <= _LONGEST:
            file.truncate(size)
    return work / NAME


def erase(folder: Path | None, alone: bool) -> None:
    """Erase deleted and replaced entries from the file; under the folder's lock, ``alone`` if that is kept."""
    if folder is None or not _is_there(folder):
        return
    with storage_errors(f"open {folder}"):
        place = Place(folder)
    try:
        catalogue = _opened(place, read_only=False)
        try:
            # the holder of the lock must not wait for a thread that waits for the lock
            with Held(turn_of(place)) if alone else nullcontext():
                catalogue.erase()
        finally:
            catalogue.close()
    finally:
        place.close()
