"""The collections of a store as folders: their names, which there are, and whole ones dropped, renamed and copied.

A name of any text has a folder that every file system can hold: lower-case letters, digits and ``_ - .`` stand for
themselves, everything else for its bytes in UTF-8 as ``%e6``, so that names which differ in case alone have different
folders also where the file system does not tell them apart.

Other processes may have a collection open. Dropping and renaming wait for the lock of its writers, and give it a name
that no opening looks for; all who have it open are told by `Place.check`. A copy is of one commit, and takes no lock.
"""

import os
import re
import secrets
import shutil
import sqlite3
import unicodedata
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final
from urllib.parse import unquote

import numpy as np

from ..errors import InvalidInputError, LockedError, NotFoundError, StorageError
from . import catalogue as sql
from . import platform
from .files import RecordFile, storage_errors, write_all
from .flat import FlatFiles, flat_files
from .head import Head
from .hosts import claim
from .lock import WriterLock
from .place import Entries, Place
from .store import Store, SupersededError

_LONGEST: Final = 200  # bytes of a folder's name
_PLAIN: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_-])?")
_EARLIER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")  # names that were folders as they are
_RESERVED: Final = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?")  # on Windows
_SNAPSHOT: Final = re.compile(r"snap-(\d+)-(\d+)\.bin")
_DROPPED: Final = ".dropped"
_PIECE: Final = 8 << 20  # bytes of records copied at a time
# what the folders of other stores have in them
_FOREIGN: Final = {
    "chroma.sqlite3": "Chroma",
    "index.faiss": "FAISS",
    "default__vector_store.json": "LlamaIndex's SimpleVectorStore",
    "docstore.json": "LlamaIndex",
    "milvus.db": "Milvus",
}


def collection_folder(path: Path, collection: object) -> Path:
    """The folder of a collection in a store. Raises InvalidInputError for a name or path that cannot be meant."""
    name = checked_name(collection)
    with storage_errors(f"look at {path}"):  # a name too long, a folder above it without permission
        above = next((each for each in (path, *path.parents) if each.exists()), path)
        if above.exists() and not above.is_dir():
            raise InvalidInputError(f"{above} is a file; a store is a folder: unpack an archive first")
        if _EARLIER.fullmatch(name) and not _is_plain(name) and path.is_dir() and name in os.listdir(path):  # noqa: PTH208
            return path / name  # made by a version that took the name as it is
    return path / folder_name(name)


def checked_name(collection: object) -> str:
    """A collection's name in Unicode's NFC. Raises InvalidInputError for what is no name."""
    if not isinstance(collection, str) or not collection or collection in (".", ".."):
        raise InvalidInputError(f"collection is {collection!r}; expected a name, a string that is not empty")
    if bad := re.search(r"[/\\\x00-\x1f\x7f]", collection):
        raise InvalidInputError(
            f"collection is {collection!r}; a name has no {bad[0]!r}: the folder of the store goes into path="
        )
    try:
        name = unicodedata.normalize("NFC", collection)
        size = len(folder_name(name))
    except UnicodeEncodeError:
        raise InvalidInputError(f"collection is {collection!r}, which is not text") from None
    if size > _LONGEST:
        raise InvalidInputError(
            f"collection is {collection[:40]!r}..., a name of {len(collection)} characters; its folder's name would "
            f"have {size} of at most {_LONGEST}: use a shorter one"
        )
    return name


def _is_plain(name: str) -> bool:
    return bool(_PLAIN.fullmatch(name)) and not _RESERVED.fullmatch(name)


def folder_name(name: str) -> str:
    """The name of the folder of a collection."""
    if _is_plain(name):
        return name
    kept = b"abcdefghijklmnopqrstuvwxyz0123456789_.-"
    out = "".join(chr(byte) if byte in kept else f"%{byte:02x}" for byte in name.encode())
    if out[0] in ".-" or _RESERVED.fullmatch(out):
        out = f"%{ord(out[0]):02x}{out[1:]}"
    return out[:-1] + "%2e" if out.endswith(".") else out


def collections_in(path: Path) -> list[str]:
    """The names of the collections of a store, sorted; none where there is no such folder."""
    with storage_errors(f"look at {path}"):
        if not path.is_dir():
            return []
        found = []
        for folder in path.iterdir():
            name = unquote(folder.name)
            named = folder.name in (name, folder_name(name)) and not folder.name.startswith(".")
            if named and (folder / "meta.db").is_file():
                found.append(name)
    return sorted(found)


def check_store_folder(path: Path, folder: Path) -> None:
    """Raise InvalidInputError where a new collection would be made in a folder that is something else."""
    if (folder / "meta.db").exists():
        return
    with storage_errors(f"look at {path}"):
        if not path.is_dir():
            return
        names = set(os.listdir(path))  # noqa: PTH208
        if "meta.db" in names and ("LOCK" in names or flat_files(path)):
            raise InvalidInputError(
                f"{path} is a collection itself; open its store: path={str(path.parent)!r}, "
                f"collection={unquote(path.name)!r}"
            )
        if {"meta.json", "collection"} <= names and not collections_in(path):
            raise InvalidInputError(
                f"{path} is a folder of Qdrant's, with no collection of bqstore; give another folder"
            )
        for name, other in _FOREIGN.items():
            if name in names and not collections_in(path):
                raise InvalidInputError(
                    f"{path} holds {name}, a store of {other}, and no collection of bqstore; give another folder, and "
                    "add the vectors that are in this one"
                )


# ---- whole collections


def drop(path: Path, collection: str, timeout: float) -> None:
    """Remove a collection. It is gone at once; those who have it open get FolderReplacedError."""
    folder = existing(path, collection)
    trash = path / f".{secrets.token_hex(8)}{_DROPPED}"
    with storage_errors(f"drop {folder}"):
        with _locked(folder, timeout):
            folder.rename(trash)
            platform.sync_folder(path)
        for each in [trash, *path.glob(f".*{_DROPPED}")]:  # also what an interrupted call has left
            shutil.rmtree(each, ignore_errors=True)


def rename(path: Path, collection: str, new: str, timeout: float) -> None:
    """Give a collection another name; those who have it open get FolderReplacedError, and open it anew."""
    folder, target = existing(path, collection), collection_folder(path, new)
    with storage_errors(f"rename {folder}"), _locked(folder, timeout):
        _check_free(target)
        folder.rename(target)  # fails where somebody has made a collection there meanwhile
        platform.sync_folder(path)


def existing(path: Path, collection: str) -> Path:
    """The folder of a collection that is there. Raises NotFoundError."""
    folder = collection_folder(path, collection)
    if not (folder / "meta.db").is_file():
        others = ", ".join(map(repr, collections_in(path)[:20])) or "none"
        raise NotFoundError(f"there is no collection {collection!r} in {path}; there are: {others}")
    return folder


def _check_free(target: Path) -> None:
    if target.exists() and any(target.iterdir()):
        raise InvalidInputError(f"{target} exists already; drop that collection first, or choose another name")


@contextmanager
def _locked(folder: Path, timeout: float) -> Iterator[None]:
    """Nobody writes in a folder meanwhile."""
    with ExitStack() as stack:
        place = Place(folder)
        stack.callback(place.close)
        lock = WriterLock(folder / "LOCK", "SEQ", place)
        file = stack.enter_context(lock.open())
        lock.wait(file, timeout)
        stack.callback(platform.unlock, file.fileno())
        host = claim(place)
        if host is not None:
            stack.enter_context(host)
        try:
            place.check()
        except StorageError:
            raise LockedError(f"{folder} was dropped, renamed or replaced by somebody else meanwhile") from None
        yield


# ---- copies


def copy(store: Store, target: Path) -> Head:
    """Write the last commit of a store into a new folder, every record verified; while others write on.

    Nothing is at the target until all is durable there. Returns the head of the copy. Raises InvalidInputError if the
    target exists, CorruptionError if something is damaged, StorageError.
    """
    _check_free(target)
    with storage_errors(f"copy to {target}"):
        platform.make_folder(target.parent)
        temporary = target.parent / f".{secrets.token_hex(8)}.copying"
        temporary.mkdir(mode=0o700)
        try:
            head = _at_one_commit(store, temporary)
            platform.sync_folder(temporary)
            _check_free(target)
            temporary.rename(target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        platform.sync_folder(target.parent)
    return head


def _at_one_commit(store: Store, folder: Path) -> Head:
    while True:
        with suppress(SupersededError), store.catalogue.reading() as connection:
            mine = not connection.in_transaction  # in memory there is one connection, and the caller reads through it
            if mine:
                connection.execute("BEGIN")
            try:
                head = sql.reread_head(connection, store.catalogue.name, store.head)
                flat = _files_of(store, head)
                _copy_rows(connection, folder / "meta.db")
            finally:
                if mine and connection.in_transaction:
                    connection.execute("ROLLBACK")
            _copy_records(flat, head, FlatFiles(folder, read_only=False))
            _copy_snapshots(store, head, folder)
            return head


def _files_of(store: Store, head: Head) -> FlatFiles:
    """The flat files of a commit, opened: they stay as they are when another generation begins."""
    if store.folder is None:
        return store.flat
    flat = FlatFiles(store.folder, read_only=True, entries=store.flat.entries)
    flat.open(head, lambda path: SupersededError())
    return flat


def _copy_rows(connection: sqlite3.Connection, path: Path) -> None:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    with closing(sqlite3.connect(path, isolation_level=None)) as target:
        connection.backup(target)
    fd = os.open(path, os.O_RDWR)
    try:
        platform.sync_file(fd)
    finally:
        os.close(fd)


def _copy_records(flat: FlatFiles, head: Head, target: FlatFiles) -> None:
    if not head.n_slots:
        return
    assert flat.codes is not None
    target.create(replace(head, n_slots=0, n_live=0), flat.codes.parameters)
    for source, made in zip(flat.both(), target.both(), strict=True):
        made.reserve(head.n_slots)
        copy_slots(source, made, head.n_slots)
    target.trim(head.n_slots)
    target.sync()


def copy_slots(source: RecordFile, target: RecordFile, count: int) -> None:
    """Copy the first records of a file, checksums verified."""
    step = max(1, _PIECE // source.layout.record_bytes)
    for at in range(0, count, step):
        target.write(at, source.read_checked(np.arange(at, min(at + step, count))))


def _copy_snapshots(store: Store, head: Head, folder: Path) -> None:
    """The graph as far as it was kept; it can be made again."""
    entries = store.flat.entries
    if entries is None:
        return
    for name in entries.names():
        match = _SNAPSHOT.fullmatch(name)
        if match and int(match[1]) == head.generation and int(match[2]) <= head.seq:
            with suppress(OSError):  # a newer one has replaced it
                _copy_file(entries, name, folder / name)


def _copy_file(entries: Entries, name: str, target: Path) -> None:
    source = entries.open(name, os.O_RDONLY)
    try:
        made = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            at = 0
            while data := os.pread(source, _PIECE, at):
                write_all(made, data, at)
                at += len(data)
            platform.sync_file(made)
        finally:
            os.close(made)
    finally:
        os.close(source)


def into_memory(store: Store) -> Store:
    """The last commit of a store in memory. Raises as `copy`."""
    while True:
        with suppress(SupersededError), store.catalogue.reading() as connection:
            connection.execute("BEGIN")
            head = sql.reread_head(connection, store.catalogue.name, store.head)
            flat = _files_of(store, head)
            loaded = Store(sql.Catalogue(None), head)
            connection.backup(loaded.catalogue.main())
            _copy_records(flat, head, loaded.flat)
            return loaded
