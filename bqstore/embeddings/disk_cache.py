"""The cache of embeddings on disk, so that no text is paid for twice. It stores no texts.

One SQLite file, ``embeddings-<n>.db``, maps keys (SHA-256 hashes, which do not reveal the text) to float32 vectors with
a checksum. Its loss costs money, never data, so damage is not repaired: a damaged entry is a cache miss, and a damaged
file is left in place while a new one is made with ``n`` + 1. No file in use is renamed or replaced, so processes that
detect the damage at the same time cannot harm each other.

``max_bytes`` limits the file: the oldest entries are deleted when the cache is opened and after each write.

Each call opens a connection of its own. That takes a millisecond or two, where a request takes hundreds, and makes
the cache safe across threads, processes and forks, with nothing to close.
"""

import hashlib
import json
import logging
import os
import re
import sqlite3
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..arguments import check_int, shown
from ..errors import InvalidInputError, StorageError
from ..forks import in_forks
from .protocol import Vectors

T = TypeVar("T")

_LOG = logging.getLogger("bqstore.embeddings")
_FILE = re.compile(r"embeddings-(\d{1,9})\.db")
_FILES_TRIED = 3
_KEYS_A_QUERY = 500  # old builds of SQLite allow 999 parameters
_BUSY_SECONDS = 30.0
_FOREIGN = re.compile(r"no such column|has no column|unsupported file format|malformed")
_PAGE = 32_768  # bytes: five vectors of 1,536 dimensions; SQLite's own 4,096 would spill each over two pages
_SYNCHRONOUS = "FULL"  # embeddings that were paid for survive a power failure
_TRIM_TO = 0.9  # of max_bytes, so that not every write trims
_SCHEMA = "CREATE TABLE IF NOT EXISTS embeddings (key BLOB PRIMARY KEY, vector BLOB NOT NULL, crc INTEGER NOT NULL)"

_writing = threading.Lock()  # threads of this process queue here; between processes SQLite polls, which is slower


def _renew_lock() -> None:
    global _writing  # noqa: PLW0603  # a forked child has none of the threads that would release it
    _writing = threading.Lock()


in_forks(_renew_lock)


def user_cache_folder() -> Path:
    """The folder of bqstore's embeddings in the user's cache folder, by the system's conventions.

    >>> user_cache_folder().parts[-2:]
    ('bqstore', 'embeddings')
    """
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        # The XDG specification: a relative path is to be ignored.
        named = os.environ.get("XDG_CACHE_HOME", "")
        base = Path(named) if Path(named).is_absolute() else Path.home() / ".cache"
    return base / "bqstore" / "embeddings"


class KeyMaker:
    """Makes cache keys for the texts of one model: hashes of everything that an embedding depends on."""

    def __init__(self, endpoint: str, model: str, dimensions: int | None, settings: Any = None) -> None:
        named = [endpoint, model, dimensions, *([] if settings is None else [settings])]
        values = json.dumps(named, sort_keys=True, default=str)
        self._prefix = hashlib.sha256(f"{values[:-1]}, ".encode())

    def __call__(self, text: str, variant: str | None = None) -> bytes:
        """The key of one text, 32 bytes; ``variant`` names how the text was shortened or split before it was sent."""
        rest = encode_basestring_ascii(text)  # as `json.dumps`, in a third of the time
        if variant is not None:
            rest += f", {json.dumps(variant)}"
        key = self._prefix.copy()
        key.update(f"{rest}]".encode())
        return key.digest()


class EmbeddingCache:
    """Vectors by key, in a folder that any number of threads and processes may share.

    A folder without write permission, such as one in a container image, is used for reading; nothing is stored in it.

    Parameters
    ----------
    folder : path               created if it is missing, readable by this user only
    max_bytes : int, optional   limit of the file's size; the oldest entries are deleted first

    Raises StorageError if the folder cannot be created or read, or is empty and read-only; InvalidInputError if
    ``max_bytes`` is less than 1.

    >>> cache = EmbeddingCache("cache-of-embeddings")
    >>> embedder = OpenAIEmbedder("text-embedding-3-small", cache=cache.folder)
    >>> embedder.embed(["cats"]).shape
    (1, 1536)
    """

    def __init__(self, folder: str | os.PathLike[str], max_bytes: int | None = None) -> None:
        if max_bytes is not None:
            check_int("max_cache_bytes", max_bytes, 1, 2**62, ", or None for no bound")
        self.folder = Path(folder).expanduser()
        self.max_bytes = max_bytes
        try:
            _make_private(self.folder)
            if not os.access(self.folder, os.R_OK | os.X_OK):
                raise PermissionError("it cannot be read")
            newest, written = self._newest(), os.access(self.folder, os.W_OK | os.X_OK)
            if not (written or newest.exists()):
                raise PermissionError("it cannot be written")
        except OSError as error:
            raise StorageError(_unusable(self.folder, error)) from error
        self.read_only = not written or (newest.exists() and not os.access(newest, os.W_OK))
        if max_bytes is not None and newest.exists() and not self.read_only:
            self._run(lambda db: _trim(db, max_bytes, shrink=True), otherwise=None)

    def __repr__(self) -> str:
        return f"EmbeddingCache({str(self.folder)!r})"

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Vectors]:
        """The vectors stored under ``keys``, float32 (dim,) each; keys of missing or damaged ones are absent.

        >>> cache = EmbeddingCache("my-cache")
        >>> cache.get([b"a key that is not there"])
        {}
        """

        def read(db: sqlite3.Connection) -> dict[bytes, Vectors]:
            found = {}
            for start in range(0, len(keys), _KEYS_A_QUERY):
                part = keys[start : start + _KEYS_A_QUERY]
                marks = ",".join("?" * len(part))  # nothing else is interpolated into the statement
                rows = db.execute(f"SELECT key, vector, crc FROM embeddings WHERE key IN ({marks})", part)  # noqa: S608
                for key, blob, crc in rows:
                    if isinstance(blob, bytes) and crc == _checksum(key, blob):
                        found[key] = np.frombuffer(blob, "<f4").astype(np.float32)
            return found

        return self._run(read, otherwise={})

    def put(self, keys: Sequence[bytes], vectors: Vectors) -> None:
        """Store ``vectors``, float32 (n, dim), under ``keys``, in one transaction; a full disk only warns.

        In a read-only folder nothing is stored.

        >>> cache = EmbeddingCache("my-cache")
        >>> cache.put([b"a", b"b"], np.eye(2, dtype=np.float32))
        >>> cache.get([b"b"])
        {b'b': array([0., 1.], dtype=float32)}
        """
        if self.read_only:
            return
        blobs = [row.tobytes() for row in np.asarray(vectors, dtype="<f4")]
        rows = [(key, blob, _checksum(key, blob)) for key, blob in zip(keys, blobs, strict=True)]

        def write(db: sqlite3.Connection) -> None:
            db.execute("BEGIN IMMEDIATE")  # waits for the write lock; upgrading a read lock would not wait
            db.executemany("INSERT OR REPLACE INTO embeddings (key, vector, crc) VALUES (?, ?, ?)", rows)
            db.execute("COMMIT")
            if self.max_bytes is not None:
                _trim(db, self.max_bytes)

        with _writing:
            self._run(write, otherwise=None)

    def _run(self, use: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        """The result of ``use`` on the newest file, or on a new one if that is damaged; ``otherwise`` if none works."""
        patient_until = time.monotonic() + _BUSY_SECONDS
        damaged = 0
        while damaged < _FILES_TRIED:
            try:
                _make_private(self.folder)  # it may have been removed
                path = self._newest()
                with closing(_connect_to_read(path) if self.read_only else _connect(path)) as db:
                    return use(db)
            except (OSError, sqlite3.DatabaseError, UnicodeDecodeError) as error:
                # While a connection recovers a journal or changes its mode, others fail at once, despite the timeout.
                if "locked" in str(error) and time.monotonic() < patient_until:
                    time.sleep(0.005)
                    continue
                if self.read_only or not _is_damage(error):
                    _warn(f"{_unusable(self.folder, error)}; going on without it")
                    return otherwise
                damaged += 1
                with suppress(OSError):  # the next attempt raises it again
                    self._begin_next_file(path, error)
        return otherwise

    def _newest(self) -> Path:
        numbers = [int(found[1]) for path in self.folder.iterdir() if (found := _FILE.fullmatch(path.name))]
        return self.folder / f"embeddings-{max(numbers, default=1)}.db"

    def _begin_next_file(self, damaged: Path, error: Exception) -> None:
        if damaged == self._newest():  # else another process has made the next file
            _warn(f"the embedding cache {damaged} is damaged ({error}); a new one is made, and this one may be deleted")
            number = int(damaged.stem.removeprefix("embeddings-"))
            _create(self.folder / f"embeddings-{number + 1}.db")


def open_cache(cache: Any, max_bytes: int | None) -> EmbeddingCache | None:
    """The cache for ``cache=`` of an embedder; if the default folder cannot be used, warn and return None."""
    if not isinstance(cache, (bool, str, os.PathLike)) or cache == "":
        raise InvalidInputError(f"cache is {shown(cache)}; expected True, False, or the path of a folder")
    if cache is False:
        return None
    if cache is not True:
        return EmbeddingCache(cache, max_bytes)
    try:
        return EmbeddingCache(user_cache_folder(), max_bytes)
    except (StorageError, RuntimeError) as error:  # no home folder, or a read-only one
        advice = "" if isinstance(error, StorageError) else "; pass cache=<a folder> or cache=False"
        _warn(f"embeddings are not cached: {error}{advice}")
        return None


def _warn(message: str) -> None:
    """Warn, or log if warnings are errors: a cache that fails must not stop embedding."""
    try:
        warnings.warn(message, stacklevel=6)
    except UserWarning:
        _LOG.warning(message)


def _trim(db: sqlite3.Connection, most: int, shrink: bool = False) -> None:
    """Delete the oldest entries until the file's used pages hold at most ``most`` bytes, and free the other pages.

    ``shrink`` : also rewrite a file of an older version, which cannot free single pages
    """

    def pragma(name: str) -> int:
        return int(db.execute(f"PRAGMA {name}").fetchone()[0])

    page = pragma("page_size")
    if pragma("page_count") * page <= most:
        return
    while (used := (pragma("page_count") - pragma("freelist_count")) * page) > most:
        (rows,) = db.execute("SELECT count(*) FROM embeddings").fetchone()
        if not rows:
            break
        extra = max(1, round(rows * (1 - _TRIM_TO * most / used)))
        db.execute(
            "DELETE FROM embeddings WHERE rowid IN (SELECT rowid FROM embeddings ORDER BY rowid LIMIT ?)", [extra]
        )
    if pragma("auto_vacuum") == 2:
        db.executescript("PRAGMA incremental_vacuum")  # one step per page; execute() runs only the first
    elif shrink:  # a file of an older version
        db.execute("VACUUM")


def _make_private(folder: Path) -> None:
    """Make a folder that only its user can read; the mode of an existing one is not changed."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)


def _create(path: Path) -> None:
    """Make an empty file that only its user can read; SQLite gives its journal the same mode.

    An existing file is not opened: closing it would release the POSIX locks that other threads hold through SQLite.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def _connect(path: Path) -> sqlite3.Connection:
    if not path.exists():
        _create(path)
    db = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
    try:
        db.execute(f"PRAGMA page_size={_PAGE}")  # applies to a new file only
        db.execute("PRAGMA auto_vacuum=INCREMENTAL")
        # No write-ahead log, which writes every vector twice: 2,048 of 1,536 dimensions take 44 ms with one, 24
        # without. Readers that wait for a commit cost less. A rollback journal works on network file systems, too.
        db.execute("PRAGMA journal_mode=TRUNCATE")
        db.execute(f"PRAGMA synchronous={_SYNCHRONOUS}")
        db.execute(_SCHEMA)
    except BaseException:
        db.close()
        raise
    return db


def _connect_to_read(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_SECONDS, isolation_level=None)


def _is_damage(error: Exception) -> bool:
    """Whether an error means a damaged file, rather than a locked one, a full disk or missing permission."""
    if isinstance(error, sqlite3.OperationalError):
        return _FOREIGN.search(str(error)) is not None
    # sqlite3 raises UnicodeDecodeError when its own message quotes a damaged schema.
    return isinstance(error, UnicodeDecodeError) or type(error) is sqlite3.DatabaseError


def _checksum(key: bytes, blob: bytes) -> int:
    """The checksum covers the key, so that a vector under a wrong key counts as damaged."""
    return zlib.crc32(blob, zlib.crc32(key))


def _unusable(folder: Path, error: Exception) -> str:
    why = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"the embedding cache in {folder} cannot be used: {why}; pass cache=<another folder> or cache=False"
