"""Every error bqstore raises on purpose. Floor 0: imports nothing.

The tree, each branch a different reaction of the caller::

    BqstoreError
    ├── InvalidInputError (ValueError)      mend the call; nothing was written
    │   ├── UnknownKeywordError (TypeError) a keyword that does not exist; names the nearest that does
    │   └── SettingsConflictError           an argument contradicts what the collection was made with
    ├── NotFoundError (LookupError)         there is no such collection to read
    ├── LockedError                         another writer has it; wait, or open with read_only=True
    ├── ReadOnlyError                       a write on a collection opened with read_only=True
    ├── ClosedError                         closed, or carried over a fork; open it again
    ├── StorageError (OSError)              the disk refused (full, failing); nothing of the call was acknowledged
    ├── CorruptionError                     a file is damaged; restore it from a copy
    ├── FormatVersionError                  written by a newer bqstore; upgrade
    ├── TargetNotReachedError               `Collection.tune` found no settings that are good enough; more bits help
    └── EmbeddingError                      the embedding model refused, is unreachable, or has no key
"""


class BqstoreError(Exception):
    """The base of all errors of this library."""


class InvalidInputError(BqstoreError, ValueError):
    """What was given cannot be used; the message says what was expected. Nothing was written."""


class UnknownKeywordError(InvalidInputError, TypeError):
    """A keyword that does not exist; the message names the nearest one that does."""


class SettingsConflictError(InvalidInputError):
    """An argument contradicts what the collection was made with; the message names both values."""


class NotFoundError(BqstoreError, LookupError):
    """There is no such collection."""


class LockedError(BqstoreError):
    """Another writer, in this process or another, has the collection open."""


class ReadOnlyError(BqstoreError):
    """A write was asked of a collection opened with ``read_only=True``."""


class ClosedError(BqstoreError):
    """The collection was closed, or belongs to the process this one was forked from."""


class StorageError(BqstoreError, OSError):
    """The operating system refused a read or a write; nothing of the failed call was acknowledged."""


class CorruptionError(BqstoreError):
    """A stored file is damaged: a size, a checksum or a count does not hold."""


class FormatVersionError(BqstoreError):
    """The files were written in a newer format than this version reads."""


class TargetNotReachedError(BqstoreError):
    """No settings reach the recall that was asked for; the message says what the best ones reach, and what helps."""


class EmbeddingError(BqstoreError):
    """An embedding could not be made."""
