"""The collections of a store as folders: their names, which there are, and whole ones dropped, renamed and copied.

A name of any text has a folder that every file system can hold: lower-case letters, digits and ``_ - .`` stand for
themselves, everything else for its bytes in UTF-8 as ``%e6``. So names that differ only in case have different folders
also where the file system ignores case.

Other processes may have a collection open. Dropping and renaming wait for the lock of its writers, and give the
folder a name that no opening looks for; `Place.check` tells all who have it open. A copy is of one commit, and takes no
lock.
"""

import os
import re
import secrets
import shutil
import unicodedata
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final
from urllib.parse import unquote

import numpy as np

from ..errors import InvalidInputError, LockedError, NotFoundError, StorageError
from . import catalogue, platform
from .backup import back_up, last_commit, unfinished
from .files import storage_errors
from .flat import flat_files
from .head import Head
from .hosts import claim
from .lock import WriterLock
from .place import Place
from .store import Store

_LONGEST: Final = 200  # bytes of a folder's name
_PLAIN: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_-])?")
_EARLIER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")  # names that were folders as they are
_RESERVED: Final = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?")  # on Windows
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
    """The folder of a collection in a store. Raises InvalidInputError for a name or path that must be a mistake."""
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
    """The names of the collections of a store, sorted; none where there is no such folder.

    Raises InvalidInputError for a file, and for a folder that is a collection itself.
    """
    with storage_errors(f"look at {path}"):
        if not path.is_dir():
            if path.exists():
                raise InvalidInputError(f"{path} is a file; a store is a folder: unpack an archive first")
            return []
        _refuse_a_collection(path, set(os.listdir(path)))  # noqa: PTH208
        found = []
        for folder in path.iterdir():
            name = unquote(folder.name)
            named = folder.name in (name, folder_name(name)) and not folder.name.startswith(".")
            if named and (folder / "meta.db").is_file():
                found.append(name)
    return sorted(found)


def _refuse_a_collection(path: Path, names: set[str]) -> None:
    """Raise InvalidInputError where a path that is to be a store's is that of a collection."""
    if "meta.db" in names and ("LOCK" in names or flat_files(path)):
        raise InvalidInputError(
            f"{path} is a collection itself; open its store: path={str(path.parent)!r}, "
            f"collection={unquote(path.name)!r}"
        )


def check_store_folder(path: Path, folder: Path) -> None:
    """Raise InvalidInputError where a new collection would be made in a folder that is something else."""
    if (folder / "meta.db").exists():
        return
    with storage_errors(f"look at {path}"):
        if not path.is_dir():
            return
        names = set(os.listdir(path))  # noqa: PTH208
        _refuse_a_collection(path, names)
        if (other := other_store(path)) is not None and not collections_in(path):
            raise InvalidInputError(
                f"{path} holds {other}, and no collection of bqstore; give another folder, and add the vectors that "
                "are in this one"
            )


def other_store(path: Path) -> str | None:
    """The file by which a folder is another store's, and that store; None if it is not."""
    names = set(os.listdir(path)) if path.is_dir() else set()  # noqa: PTH208
    if {"meta.json", "collection"} <= names:
        return "meta.json, of a folder of Qdrant's"
    if table := next((name for name in sorted(names) if name.endswith(".lance") and (path / name).is_dir()), None):
        return f"{table}, a table of LanceDB"
    return next((f"{name}, a store of {other}" for name, other in _FOREIGN.items() if name in names), None)


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
        if others == "none" and (other := other_store(path)):
            others = f"none; it holds {other}"
        raise NotFoundError(f"there is no collection {collection!r} in {path}; there are: {others}")
    return folder


def _check_free(target: Path) -> None:
    if target.exists() and any(target.iterdir()):
        raise InvalidInputError(f"{target} exists already; drop that collection first, or choose another name")


@contextmanager
def _locked(folder: Path, timeout: float) -> Iterator[None]:
    """Within it nobody else writes in a folder."""
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
    """Write the last commit of a store into a new folder and read it back; while others write on.

    Nothing is at the target until all is durable there. Returns the head of the copy. Raises InvalidInputError if the
    target exists, CorruptionError if something is damaged, LockedError if another copy is being made, StorageError.
    """
    _check_free(target)
    try:
        return back_up(store, target, incremental=False, report=lambda *_: None)[0]
    except LockedError:
        raise
    except BaseException:
        shutil.rmtree(unfinished(target), ignore_errors=True)
        raise


def into_memory(store: Store) -> Store:
    """The last commit of a store in memory, every record verified. Raises CorruptionError, StorageError."""
    with last_commit(store) as (connection, head, flat):
        loaded = Store(catalogue.Catalogue(None), head)
        connection.backup(loaded.catalogue.main())
        if flat.codes is not None and head.n_slots:
            loaded.flat.create(replace(head, n_slots=0, n_live=0), flat.codes.parameters)
            for source, made in zip(flat.both(), loaded.flat.both(), strict=True):
                made.reserve(head.n_slots)
                step = max(1, _PIECE // source.layout.record_bytes)
                for at in range(0, head.n_slots, step):
                    made.write(at, source.read_checked(np.arange(at, min(at + step, head.n_slots))))
        return loaded
