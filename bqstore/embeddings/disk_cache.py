"""The cache of embeddings on disk, so that no text is paid for twice. It knows no model and holds no text.

One SQLite file, ``embeddings-<n>.db``, maps keys (SHA-256, from which no text can be read back) to float32 vectors
with a checksum. Losing it costs money, never data, so every damage is answered by starting over: a damaged entry is
a miss, and a damaged file is left in place while ``n`` grows by one. No file in use is ever renamed or replaced, so
processes that find the damage at the same time cannot harm each other.

``max_bytes`` bounds the file: the oldest entries are deleted when the cache is opened and after each write.

A connection lives for one call. That costs a millisecond or two beside a request of hundreds, and makes the cache
safe across threads, processes and forks, with nothing to close.
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
_KEYS_A_QUERY = 500  # old builds of SQLite take 999 parameters
_BUSY_SECONDS = 30.0
_FOREIGN = re.compile(r"no such column|has no column|unsupported file format|malformed")
_PAGE = 32_768  # bytes: five vectors of 1,536 dimensions; SQLite's own 4,096 would spill each over two pages
_SYNCHRONOUS = "FULL"  # what was paid for outlives a power cut
_TRIM_TO = 0.9  # of max_bytes, so that not every write trims
_SCHEMA = "CREATE TABLE IF NOT EXISTS embeddings (key BLOB PRIMARY KEY, vector BLOB NOT NULL, crc INTEGER NOT NULL)"

_writing = threading.Lock()  # threads queue here: SQLite's own waiting, which other processes use, polls


def _renew_lock() -> None:
    global _writing  # noqa: PLW0603  # a forked child has none of the threads that would release it
    _writing = threading.Lock()


in_forks(_renew_lock)


def user_cache_folder() -> Path:
    """The folder of bqstore's embeddings among the caches that this system keeps for a user.

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
    """Cache keys for the texts of one model: hashes of all that an embedding's values depend on."""

    def __init__(self, endpoint: str, model: str, dimensions: int | None, settings: Any = None) -> None:
        named = [endpoint, model, dimensions, *([] if settings is None else [settings])]
        values = json.dumps(named, sort_keys=True, default=str)
        self._prefix = hashlib.sha256(f"{values[:-1]}, ".encode())

    def __call__(self, text: str, variant: str | None = None) -> bytes:
        """The key of one text, 32 bytes; ``variant`` names what was done to the text before it was sent."""
        rest = encode_basestring_ascii(text)  # as `json.dumps`, in a third of the time
        if variant is not None:
            rest += f", {json.dumps(variant)}"
        key = self._prefix.copy()
        key.update(f"{rest}]".encode())
        return key.digest()


class EmbeddingCache:
    """Vectors by key, in a folder that any number of threads and processes may share.

    One that may only be read, such as that of an image or of another user, is read, and nothing is kept.

    Parameters
    ----------
    folder : path               made if it is missing, readable by its user alone
    max_bytes : int, optional   bound of the file; the oldest entries are deleted first

    Raises StorageError if the folder cannot be made or written, InvalidInputError if ``max_bytes`` is less than 1.

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
        """The vectors that are stored under ``keys``, float32 (dim,) each; missing and damaged ones are left out.

        >>> cache = EmbeddingCache("my-cache")
        >>> cache.get([b"a key that is not there"])
        {}
        """

        def read(db: sqlite3.Connection) -> dict[bytes, Vectors]:
            found = {}
            for start in range(0, len(keys), _KEYS_A_QUERY):
                part = keys[start : start + _KEYS_A_QUERY]
                marks = ",".join("?" * len(part))  # all that is pasted into the statement
                rows = db.execute(f"SELECT key, vector, crc FROM embeddings WHERE key IN ({marks})", part)  # noqa: S608
                for key, blob, crc in rows:
                    if isinstance(blob, bytes) and crc == _checksum(key, blob):
                        found[key] = np.frombuffer(blob, "<f4").astype(np.float32)
            return found

        return self._run(read, otherwise={})

    def put(self, keys: Sequence[bytes], vectors: Vectors) -> None:
        """Store ``vectors``, float32 (n, dim), under ``keys``, in one transaction; a full disk only warns.

        Nothing is stored in a folder that may only be read.

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
            db.execute("BEGIN IMMEDIATE")  # waits its turn; a transaction that began by reading would not
            db.executemany("INSERT OR REPLACE INTO embeddings (key, vector, crc) VALUES (?, ?, ?)", rows)
            db.execute("COMMIT")
            if self.max_bytes is not None:
                _trim(db, self.max_bytes)

        with _writing:
            self._run(write, otherwise=None)

    def _run(self, use: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        """``use`` on the newest file, on the next if that is damaged; ``otherwise`` if none can be used."""
        patient_until = time.monotonic() + _BUSY_SECONDS
        damaged = 0
        while damaged < _FILES_TRIED:
            try:
                _make_private(self.folder)  # somebody may have removed it
                path = self._newest()
                with closing(_connect_to_read(path) if self.read_only else _connect(path)) as db:
                    return use(db)
            except (OSError, sqlite3.DatabaseError, UnicodeDecodeError) as error:
                # Taking over a journal, or changing its mode, refuses others at once, whatever the timeout.
                if "locked" in str(error) and time.monotonic() < patient_until:
                    time.sleep(0.005)
                    continue
                if self.read_only or not _is_damage(error):
                    _warn(f"{_unusable(self.folder, error)}; going on without it")
                    return otherwise
                damaged += 1
                with suppress(OSError):  # the next attempt meets it again
                    self._begin_next_file(path, error)
        return otherwise

    def _newest(self) -> Path:
        numbers = [int(found[1]) for path in self.folder.iterdir() if (found := _FILE.fullmatch(path.name))]
        return self.folder / f"embeddings-{max(numbers, default=1)}.db"

    def _begin_next_file(self, damaged: Path, error: Exception) -> None:
        if damaged == self._newest():  # else another process has begun it
            _warn(f"the embedding cache {damaged} is damaged ({error}); a new one is made, and this one may be deleted")
            number = int(damaged.stem.removeprefix("embeddings-"))
            _create(self.folder / f"embeddings-{number + 1}.db")


def open_cache(cache: Any, max_bytes: int | None) -> EmbeddingCache | None:
    """The cache that ``cache=`` of an embedder stands for; a user's folder that cannot be used only warns."""
    if not isinstance(cache, (bool, str, os.PathLike)) or cache == "":
        raise InvalidInputError(f"cache is {shown(cache)}; expected True, False, or the path of a folder")
    if cache is False:
        return None
    if cache is not True:
        return EmbeddingCache(cache, max_bytes)
    try:
        return EmbeddingCache(user_cache_folder(), max_bytes)
    except (StorageError, RuntimeError) as error:  # there is no home, or a read-only one
        advice = "" if isinstance(error, StorageError) else "; pass cache=<a folder> or cache=False"
        _warn(f"embeddings are not cached: {error}{advice}")
        return None


def _warn(message: str) -> None:
    """Warn, or write a log line where warnings are errors: what is embedded must not end over its cache."""
    try:
        warnings.warn(message, stacklevel=6)
    except UserWarning:
        _LOG.warning(message)


def _trim(db: sqlite3.Connection, most: int, shrink: bool = False) -> None:
    """Delete the oldest entries until the file's pages in use hold no more than ``most`` bytes.

    Free pages are reused by later writes; where the file itself is over the bound, it is cut.
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
        db.executescript("PRAGMA incremental_vacuum")  # it takes a step a page, and execute() makes only the first
    elif shrink:  # a file of an older version
        db.execute("VACUUM")


def _make_private(folder: Path) -> None:
    """Make a folder for its user alone; one that exists is left as its user has it."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)


def _create(path: Path) -> None:
    """An empty file for its user alone; SQLite gives its journal the same mode.

    A file that exists by now is not opened: closing it again would drop the locks another thread holds through SQLite.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def _connect(path: Path) -> sqlite3.Connection:
    if not path.exists():
        _create(path)
    db = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
    try:
        db.execute(f"PRAGMA page_size={_PAGE}")  # of a new file; an older one keeps its own
        db.execute("PRAGMA auto_vacuum=INCREMENTAL")
        # A write-ahead log would write every vector twice: 2,048 of 1,536 dimensions take 44 ms with one, 24 without.
        # That readers wait for a commit costs less. It works in a home on the network, too.
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
    """Whether an error is about the file, not the system around it: locked, full, not permitted."""
    if isinstance(error, sqlite3.OperationalError):
        return _FOREIGN.search(str(error)) is not None
    # sqlite3 fails to decode its own message when that quotes a damaged schema: UnicodeDecodeError.
    return isinstance(error, UnicodeDecodeError) or type(error) is sqlite3.DatabaseError


def _checksum(key: bytes, blob: bytes) -> int:
    """Over the key too: a vector stored under another's key is damage as well."""
    return zlib.crc32(blob, zlib.crc32(key))


def _unusable(folder: Path, error: Exception) -> str:
    why = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"the embedding cache in {folder} cannot be used: {why}; pass cache=<another folder> or cache=False"
