"""Every error that bqstore raises on purpose.

The tree, each branch a different reaction of the caller::

    BqstoreError
    ├── InvalidInputError (ValueError)      correct the call; nothing was written
    │   ├── UnknownKeywordError (TypeError) a keyword that does not exist; names the one that was probably meant
    │   └── SettingsConflictError           an argument contradicts what the collection was made with
    ├── NotFoundError (LookupError)         there is no such collection, or document
    ├── LockedError                         another process keeps the lock, or this thread is inside a write
    ├── ReadOnlyError                       a write on a collection opened with read_only=True
    ├── ClosedError                         closed, or carried over a fork; open it again
    ├── StorageError (OSError)              the disk refused (full, failing); nothing of the call was acknowledged
    │   ├── FolderReplacedError             the folder was removed, replaced or moved while open; open the path again
    │   └── ServerError                     a server cannot be reached, or failed; make the call again
    ├── CorruptionError                     a file is damaged; restore a backup, or `repair`
    ├── FormatVersionError                  written by a newer bqstore; upgrade
    ├── NotReadyError                       the text index is still being built; `flush` waits for it
    ├── TargetNotReachedError               `Collection.tune` found no settings that are good enough; more bits help
    └── EmbeddingError                      the embedding model refused, is unreachable, or has no key
"""

from collections.abc import Sequence
from typing import Final

RESTORE: Final = "restore the collection from a copy, or save what is intact with `bqstore repair`"
RESTORE_ENTRIES: Final = "restore it from a copy, or save what is intact with `bqstore repair`"  # of keys and values


class BqstoreError(Exception):
    """The base of all errors of this library.

    Attributes
    ----------
    added : sequence of str     ids of documents that earlier batches of the same call have stored; they stay

    >>> import bqstore
    >>> try:
    ...     bqstore.open(dim=0)
    ... except bqstore.BqstoreError as error:
    ...     print(error)
    dim is 0; expected an integer from 1 to 16,384
    """

    added: Sequence[str] = ()


class InvalidInputError(BqstoreError, ValueError):
    """An argument cannot be used; the message says what was expected. Nothing of the call was written.

    Attributes
    ----------
    index : int or None     which document of those given it is about, if it is about one

    >>> import bqstore
    >>> with bqstore.open() as col:
    ...     col.add(["text"])
    Traceback (most recent call last):
    bqstore.errors.InvalidInputError: vectors holds text; embed it first; the texts go into texts=
    """

    index: int | None = None


class UnknownKeywordError(InvalidInputError, TypeError):
    """A keyword that does not exist; the message names the one that was probably meant.

    >>> import bqstore
    >>> bqstore.open(metric="dot")
    Traceback (most recent call last):
    bqstore.errors.UnknownKeywordError: open() has no keyword 'metric'; did you mean 'distance'?
    """


class SettingsConflictError(InvalidInputError):
    """An argument contradicts what the collection was made with; the message names both values.

    >>> import bqstore
    >>> bqstore.open("my-store", dim=4).close()
    >>> bqstore.open("my-store", dim=8)
    Traceback (most recent call last):
    bqstore.errors.SettingsConflictError: dim=8 contradicts what this collection was made with, dim=4; ...
    """


class NotFoundError(BqstoreError, LookupError):
    """There is no such collection, or no such document to search with.

    >>> import bqstore
    >>> bqstore.open("nowhere", read_only=True)
    Traceback (most recent call last):
    bqstore.errors.NotFoundError: ...
    """


class LockedError(BqstoreError):
    """Another process keeps the lock; or a signal handler, finalizer or filter function called in from a write.

    >>> import bqstore
    >>> with bqstore.open("my-store", exclusive=True):
    ...     bqstore.open("my-store")
    Traceback (most recent call last):
    bqstore.errors.LockedError: ...
    """


class ReadOnlyError(BqstoreError):
    """A write to a collection that was opened with ``read_only=True``.

    >>> import bqstore
    >>> bqstore.open("my-store").close()
    >>> with bqstore.open("my-store", read_only=True) as col:
    ...     col.clear()
    Traceback (most recent call last):
    bqstore.errors.ReadOnlyError: ...
    """


class ClosedError(BqstoreError):
    """The collection was closed, or belongs to the process this one was forked from.

    >>> import bqstore
    >>> col = bqstore.open()
    >>> col.close()
    >>> col.count()
    Traceback (most recent call last):
    bqstore.errors.ClosedError: this collection is closed; open it again
    """


class StorageError(BqstoreError, OSError):
    """The operating system refused a read or a write; nothing of the failed call was acknowledged.

    >>> import bqstore
    >>> try:
    ...     bqstore.open("my-store").close()
    ... except bqstore.StorageError as error:  # a full disk, say
    ...     print("nothing was stored:", error)
    """


class FolderReplacedError(StorageError):
    """The folder was removed, replaced or moved while it was open; what stands at the path now was not touched.

    >>> import bqstore, shutil
    >>> col = bqstore.open("my-store")
    >>> shutil.rmtree("my-store")
    >>> col.add([[1.0, 0.0]])
    Traceback (most recent call last):
    bqstore.errors.FolderReplacedError: ...my-store/default was removed, replaced or moved while it was open ...
    """


class ServerError(StorageError):
    """A server, of a collection at ``qdrant://``, cannot be reached or failed, again and again until the deadline.

    What was acknowledged before stands. Of a write that ends so, parts may be stored; it can be made again.

    >>> import bqstore
    >>> try:
    ...     bqstore.open("qdrant://localhost:1/name", timeout=0.2)
    ... except bqstore.ServerError as error:
    ...     print(str(error)[:46])
    [Errno 5] qdrant://localhost:1: get_collection
    """


class CorruptionError(BqstoreError):
    """A stored file is damaged: a size, a checksum or a count is wrong.

    >>> import bqstore, pathlib
    >>> with bqstore.open("my-store") as col:
    ...     ids = col.add([[1.0, 0.0]])
    >>> for file in pathlib.Path("my-store").rglob("vectors-*.bin"):
    ...     _ = file.write_bytes(b"damaged")
    >>> bqstore.open("my-store")
    Traceback (most recent call last):
    bqstore.errors.CorruptionError: ...
    """


class FormatVersionError(BqstoreError):
    """The files were written in a newer format than this version reads.

    >>> import bqstore
    >>> try:
    ...     bqstore.open("my-store").close()
    ... except bqstore.FormatVersionError as error:
    ...     print("upgrade bqstore:", error)
    """


class NotReadyError(BqstoreError):
    """The text index of a collection is still being built, and would not find all texts yet.

    >>> import bqstore
    >>> with bqstore.open("my-store") as col:
    ...     ids = col.add([[1.0, 0.0]], ids=["a"], texts=["one word"])
    >>> with bqstore.open("my-store", text_index=True) as col:
    ...     try:
    ...         hits = col.search(text="word")
    ...     except bqstore.NotReadyError:
    ...         col.flush()
    ...         hits = col.search(text="word")
    >>> [hit.id for hit in hits]
    ['a']
    """


class TargetNotReachedError(BqstoreError):
    """No settings reach the recall that was asked for; the message says what the best ones reach, and what helps.

    >>> import bqstore
    >>> with bqstore.open() as col:
    ...     ids = col.add([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    ...     col.tune(target_recall=0.98)
    Traceback (most recent call last):
    bqstore.errors.TargetNotReachedError: too few documents to tell: ...
    """


class EmbeddingError(BqstoreError):
    """An embedding could not be made: the model refused, is unreachable, or has no key.

    >>> import bqstore
    >>> def embedded(embedder: bqstore.Embedder, texts: list[str]):
    ...     try:
    ...         return embedder.embed(texts)
    ...     except bqstore.EmbeddingError as error:
    ...         print("nothing was embedded:", error)
    """
