"""Embeddings kept on disk, so that no text is paid for twice. It knows no model and holds no text.

One SQLite file, ``embeddings-<n>.db``: a key (a SHA-256, from which no text can be read back) and a float32
vector with its checksum. Losing it costs money, never data, so every damage is answered by beginning anew: a
damaged entry is a miss, and a damaged file is left where it is while ``n`` grows by one. Nothing in use is
ever renamed or replaced, so processes that find the damage at the same time cannot harm each other.

``max_bytes`` bounds the file: what was written first goes first, when the cache is opened and after each write.

A connection lives for one call. That costs a millisecond or two beside a request of hundreds, and makes the
cache safe across threads, processes and forks with no lock of its own and nothing to close.
"""

import hashlib
import json
import os
import re
import sqlite3
import sys
import threading
import time
import warnings
import weakref
import zlib
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ..arguments import check_int
from ..errors import StorageError

Vector = npt.NDArray[np.float32]
T = TypeVar("T")

_FILE = re.compile(r"embeddings-(\d{1,9})\.db")
_KEYS_A_QUERY = 500  # old builds of SQLite take 999 parameters
_BUSY_SECONDS = 30.0
_FOREIGN = re.compile(r"no such column|has no column|unsupported file format|malformed")
_PAGE = 32_768  # bytes: five vectors of 1,536 dimensions; SQLite's own 4,096 would spill each over two pages
_TRIM_TO = 0.9  # of max_bytes, so that not every write trims
_SCHEMA = "CREATE TABLE IF NOT EXISTS embeddings (key BLOB PRIMARY KEY, vector BLOB NOT NULL, crc INTEGER NOT NULL)"


def user_cache_folder() -> Path:
    """Where this system keeps a user's caches, and in it bqstore's embeddings."""
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        # The XDG specification: a relative path is to be ignored.
        named = os.environ.get("XDG_CACHE_HOME", "")
        base = Path(named) if Path(named).is_absolute() else Path.home() / ".cache"
    return base / "bqstore" / "embeddings"


def cache_key(endpoint: str, model: str, dimensions: int | None, text: str) -> bytes:
    """The key of one embedding, 32 bytes: all that its values depend on, hashed."""
    return KeyMaker(endpoint, model, dimensions)(text)


class KeyMaker:
    """`cache_key` for many texts of one model; ``how`` names what was done to a text before it was sent."""

    def __init__(self, endpoint: str, model: str, dimensions: int | None) -> None:
        self._begun = hashlib.sha256((json.dumps([endpoint, model, dimensions])[:-1] + ", ").encode())

    def __call__(self, text: str, how: str | None = None) -> bytes:
        """The key of one text."""
        rest = encode_basestring_ascii(text)  # what `json.dumps` makes of it, at a third of the time
        if how is not None:
            rest += f", {json.dumps(how)}"
        key = self._begun.copy()
        key.update(f"{rest}]".encode())
        return key.digest()


class EmbeddingCache:
    """Vectors by key, in a folder. Any number of threads and processes may share the folder.

    Raises
    ------
    StorageError        the folder cannot be made or written
    InvalidInputError   ``max_bytes`` is less than 1
    """

    def __init__(self, folder: str | os.PathLike[str], max_bytes: int | None = None) -> None:
        if max_bytes is not None:
            check_int("max_cache_bytes", max_bytes, 1, 2**62, ", or None for no bound")
        self.folder = Path(folder).expanduser()
        self.max_bytes = max_bytes
        self._writing = threading.Lock()  # SQLite's own waiting, for other processes, polls
        try:
            _make_private(self.folder)
        except OSError as error:
            raise StorageError(_unusable(self.folder, error.strerror or type(error).__name__)) from error
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise StorageError(_unusable(self.folder, "it cannot be written"))
        if max_bytes is not None and self._newest().exists():
            self._run(lambda db: _trim(db, max_bytes, shrink=True), otherwise=None)
        _caches.add(self)

    def __repr__(self) -> str:
        return f"EmbeddingCache({str(self.folder)!r})"

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Vector]:
        """The vectors that are there, float32 (dim,) each, by key; what is missing or damaged is left out."""

        def read(db: sqlite3.Connection) -> dict[bytes, Vector]:
            found = {}
            for start in range(0, len(keys), _KEYS_A_QUERY):
                part = keys[start : start + _KEYS_A_QUERY]
                marks = ",".join("?" * len(part))  # all that is pasted into the statement
                rows = db.execute(f"SELECT key, vector, crc FROM embeddings WHERE key IN ({marks})", part)  # noqa: S608
                for key, blob, crc in rows:
                    if _whole(key, blob, crc):
                        found[key] = np.frombuffer(blob, "<f4").astype(np.float32)
            return found

        return self._run(read, otherwise={})

    def put(self, keys: Sequence[bytes], vectors: Vector) -> None:
        """Keep ``vectors``, float32 (n, dim), under ``keys``, in one transaction; a full disk only warns."""
        blobs = [row.tobytes() for row in np.asarray(vectors, dtype="<f4")]
        rows = [(key, blob, _checksum(key, blob)) for key, blob in zip(keys, blobs, strict=True)]

        def write(db: sqlite3.Connection) -> None:
            db.execute("BEGIN IMMEDIATE")  # waits its turn; a transaction that began by reading would not
            db.executemany("INSERT OR REPLACE INTO embeddings (key, vector, crc) VALUES (?, ?, ?)", rows)
            db.execute("COMMIT")
            if self.max_bytes is not None:
                _trim(db, self.max_bytes)

        with self._writing:
            self._run(write, otherwise=None)

    def _run(self, use: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        """``use`` on the newest file, on the next if that is damaged; ``otherwise`` if none can be used."""
        patient_until = time.monotonic() + _BUSY_SECONDS
        files = 3
        while files:
            try:
                path = self._newest()
                with closing(_connect(path)) as db:
                    return use(db)
            except OSError as error:  # a full disk, or somebody has removed the folder
                files -= 1
                if isinstance(error, FileNotFoundError) and files and self._made_again():
                    continue
                warnings.warn(f"{_unusable(self.folder, error.strerror or '')}; going on without it", stacklevel=4)
                return otherwise
            except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
                # Taking over a journal, and turning from another kind, refuse others at once, whatever they would wait.
                if "locked" in str(error) and time.monotonic() < patient_until:
                    time.sleep(0.005)
                    continue
                files -= 1
                if not _is_damage(error):
                    warnings.warn(f"{_unusable(self.folder, str(error))}; going on without it", stacklevel=4)
                    return otherwise
                with suppress(OSError):  # the next look meets it again
                    self._set_aside(path, str(error))
        return otherwise

    def _made_again(self) -> bool:
        with suppress(OSError):
            _make_private(self.folder)
        return self.folder.is_dir()

    def _newest(self) -> Path:
        numbers = [int(found[1]) for path in self.folder.iterdir() if (found := _FILE.fullmatch(path.name))]
        return self.folder / f"embeddings-{max(numbers, default=1)}.db"

    def _set_aside(self, path: Path, why: str) -> None:
        """Begin the next file, unless another process already has."""
        if path == self._newest():
            warnings.warn(f"the embedding cache {path} is damaged ({why}); a new one is begun", stacklevel=5)
            number = int(path.stem.removeprefix("embeddings-"))
            _create(self.folder / f"embeddings-{number + 1}.db")


_caches: "weakref.WeakSet[EmbeddingCache]" = weakref.WeakSet()


def _begin_anew() -> None:
    for cache in list(_caches):  # a forked child has none of the threads that would let go
        cache._writing = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


def _trim(db: sqlite3.Connection, most: int, shrink: bool = False) -> None:
    """Delete what was written first until the file's pages in use hold no more than ``most`` bytes.

    Free pages are used again by what is written next; where the file itself is over the bound, it is cut.
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
        db.executescript("PRAGMA incremental_vacuum")  # a step a page: execute() makes only the first
    elif shrink:  # a file of an older version
        db.execute("VACUUM")


def open_cache(cache: bool | str | os.PathLike[str], max_bytes: int | None) -> EmbeddingCache | None:
    """What an embedder's ``cache=`` means; a user's folder that cannot be used only warns."""
    if cache is False:
        return None
    if cache is not True:
        return EmbeddingCache(cache, max_bytes)
    try:
        return EmbeddingCache(user_cache_folder(), max_bytes)
    except (StorageError, RuntimeError) as error:  # no home, or a read-only one
        warnings.warn(f"embeddings are not cached: {error}", stacklevel=5)
        return None


def _make_private(folder: Path) -> None:
    """Make a folder for its user alone; one that exists is left as its user has it."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)


def _create(path: Path) -> None:
    """An empty file for its user alone; SQLite gives its journal the same mode.

    One that exists by now is not opened: closing it again would drop the locks another thread holds through SQLite.
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
        # A log would take every vector twice: 24 ms for 2,048 of 1,536 dimensions so, 44 with a log. That readers wait
        # for a commit costs less. It works in a home on the network too, and what was paid for outlives a power cut.
        db.execute("PRAGMA journal_mode=TRUNCATE")
        db.execute("PRAGMA synchronous=FULL")
        db.execute(_SCHEMA)
    except BaseException:
        db.close()
        raise
    return db


def _is_damage(error: Exception) -> bool:
    """Whether an error tells of the file, not of the system around it: locked, full, not permitted."""
    if isinstance(error, sqlite3.OperationalError):
        return _FOREIGN.search(str(error)) is not None
    # sqlite3 stumbles over its own message when that quotes a damaged schema: UnicodeDecodeError.
    return isinstance(error, UnicodeDecodeError) or type(error) is sqlite3.DatabaseError


def _checksum(key: bytes, blob: bytes) -> int:
    """Over the key too: a vector that landed under another's key is damage as well."""
    return zlib.crc32(blob, zlib.crc32(key))


def _whole(key: object, blob: object, crc: object) -> bool:
    if not (isinstance(key, bytes) and isinstance(blob, bytes) and len(blob) % 4 == 0):
        return False
    return crc == _checksum(key, blob)


def _unusable(folder: Path, why: str) -> str:
    return f"the embedding cache in {folder} cannot be used: {why}; pass cache=<another folder> or cache=False"
