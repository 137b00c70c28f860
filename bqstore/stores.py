"""The collections of a store's folder: which there are, and whole ones dropped, renamed and copied."""

from __future__ import annotations

from os import PathLike
from typing import Final

from .arguments import check_seconds, checked_keywords
from .paths import LOG, absolute
from .storage import folders, open_store

Path = str | PathLike[str]
_EXPECTED: Final = "expected the folder of a store"


@checked_keywords
def collections(path: Path) -> list[str]:
    """The names of the collections in a store, sorted; an empty list where there is no store.

    Nothing is made: a program may ask before it opens its first one. At a path where there is no folder, the log has
    one line at INFO.

    Raises
    ------
    InvalidInputError   the path is that of a file, or of a collection

    >>> import bqstore
    >>> bqstore.open("my-store", "notes").close()
    >>> bqstore.open("my-store", "日本").close()
    >>> bqstore.collections("my-store")
    ['notes', '日本']
    """
    store = absolute(path, expected=_EXPECTED)
    found = folders.collections_in(store)
    if not found and not store.exists():
        LOG.info("there is no folder %s, and so no collection in it", store)
    elif not found and (other := folders.other_store(store)):
        LOG.warning("%s holds %s, and no collection of bqstore", store, other)
    return found


@checked_keywords
def drop(path: Path, collection: str, *, lock_timeout: float = 30.0) -> None:
    """Remove a collection with all its documents, durably.

    Whoever has it open, here or in another process, gets a FolderReplacedError from every call.

    Raises
    ------
    NotFoundError       there is no such collection
    LockedError         another process has written, or kept the lock, for ``lock_timeout`` seconds

    >>> import bqstore
    >>> bqstore.open("my-store", "notes").close()
    >>> bqstore.drop("my-store", "notes")
    >>> bqstore.collections("my-store")
    []
    """
    folders.drop(absolute(path, expected=_EXPECTED), collection, check_seconds("lock_timeout", lock_timeout))


@checked_keywords
def rename(path: Path, collection: str, new: str, *, lock_timeout: float = 30.0) -> None:
    """Give a collection another name.

    Whoever has it open, here or in another process, gets a FolderReplacedError from every call, and opens it under its
    new name.

    Raises
    ------
    NotFoundError       there is no such collection
    InvalidInputError   there is one of the new name
    LockedError         another process has written, or kept the lock, for ``lock_timeout`` seconds

    >>> import bqstore
    >>> bqstore.open("my-store", "notes").close()
    >>> bqstore.rename("my-store", "notes", "my notes")
    >>> bqstore.collections("my-store")
    ['my notes']
    """
    folders.rename(absolute(path, expected=_EXPECTED), collection, new, check_seconds("lock_timeout", lock_timeout))


@checked_keywords
def copy(path: Path, collection: str, new: str, *, to: Path | None = None) -> None:
    """Copy the last commit of a collection, every record verified, as `copying.copy` does between folders.

    It takes no lock: what others commit meanwhile is not in the copy.
    """
    store = absolute(path, expected=_EXPECTED)
    folder = folders.existing(store, collection)
    target = folders.collection_folder(store if to is None else absolute(to, "to", _EXPECTED), new)
    source = open_store(folder, {}, None, read_only=True)
    try:
        folders.copy(source, target)
    finally:
        source.close()
