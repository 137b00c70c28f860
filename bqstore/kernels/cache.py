"""The disk cache of compiled kernels, built so that no problem of the cache makes a search fail.

numba's own cache raises if no folder is writable, and at every start if a file is damaged. This one uses several
folders, the same for all kernels:

- only ``NUMBA_CACHE_DIR``, if it is set;
- otherwise the package's ``__pycache__`` (even if it is read-only: a container image may have been warmed up as root),
  the user's cache folder, and a folder of this user in the temporary folder.

Damaged files are removed and their kernels compiled again. A kernel that cannot be stored stays in memory, with one
warning. The files contain machine code, so they are only loaded if they belong to this user, root, or the package's
owner.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
import tempfile
import time
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache, IndexDataCacheFile
from numba.core.runtime import rtsys

from bqstore._version import __version__

_given = os.environ.get("NUMBA_CACHE_DIR")
GIVEN = Path(_given).absolute() if _given else None  # absolute, before the program changes its working directory
USER = getattr(os, "geteuid", lambda: 0)()
_warned: list[bool] = []
_OLD = 60 * 86_400  # seconds; older files are deleted when a kernel is stored


def folders(package: Path) -> list[Path]:
    """The cache folders of a package, in order of preference."""
    if GIVEN is not None:
        return [GIVEN]
    out = [package / "__pycache__"] if package.is_dir() else []  # a frozen program has none
    with suppress(RuntimeError):  # no home
        out.append(_user_cache_folder() / "bqstore" / "kernels")
    shared = Path(tempfile.gettempdir()) / f"bqstore-kernels-{USER}"
    with suppress(OSError):
        if not shared.exists() or shared.stat().st_uid == USER or os.name == "nt":
            out.append(shared)
    return out


def writable_folder() -> Path | None:
    """The first writable folder, or None."""
    for folder in folders(Path(__file__).parent):
        try:
            _make(folder)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            continue
    return None


def _make(folder: Path) -> None:
    """Make a missing folder: private to this user, except that the package's is readable by all."""
    folder.mkdir(mode=0o755 if folder.name == "__pycache__" else 0o700, parents=True, exist_ok=True)


def _user_cache_folder() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    named = os.environ.get("XDG_CACHE_HOME", "")
    return Path(named) if Path(named).is_absolute() else Path.home() / ".cache"


class _Place:
    """A folder, with the interface of numba's cache locators."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def from_function(self, function: Any, source: str) -> _Place:
        return self

    def ensure_cache_path(self) -> None:
        _make(self._folder)

    def get_cache_path(self) -> str:
        return str(self._folder)

    def get_source_stamp(self) -> str:
        return stamp()

    def get_disambiguator(self) -> str:
        return ""


@cache
def stamp() -> str:
    """A hash of the package's version, of the sources of all kernels, and of `record_words`.

    It covers all sources because a root contains the code of every leaf that it calls.
    """
    digest = hashlib.sha256(f"{__version__} {numba.__version__}".encode())
    folder = Path(__file__).parent
    for path in sorted([*folder.glob("*.py"), *folder.parent.glob("record_words.py")]):  # none in a frozen program
        digest.update(path.read_bytes())
    return digest.hexdigest()


class _Files(IndexDataCacheFile):
    """The versions of one kernel in one folder, each a file named by a hash of its argument types and processor.

    There is no index file, which concurrent processes, or hosts that share a home folder, could overwrite. The name
    also contains the user id: users who share a folder have separate files.
    """

    users: tuple[int, ...]

    def paths(self, key: Any) -> list[Path]:
        """The possible files of a version, this user's first."""
        name = hashlib.sha256(repr((self._source_stamp, key)).encode()).hexdigest()[:20]
        names = (self._data_name_pattern.replace("{number:d}", f"{name}-{user}") for user in self.users)
        return [Path(self._data_path(each)) for each in names]

    def save(self, key: Any, data: Any) -> None:
        dumped = self._dump((key, data))
        with self._open_for_write(str(self.paths(key)[0])) as file:
            file.write(hashlib.sha256(dumped).digest() + dumped)
        for old in Path(self._cache_path).glob(self._data_name_pattern.replace("{number:d}", "*")):
            with suppress(OSError):
                if old.stat().st_mtime < time.time() - _OLD:  # most likely of an old release
                    old.unlink()

    def load(self, key: Any) -> Any:
        for path in self.paths(key):
            with suppress(OSError), path.open("rb") as file:
                if os.name != "nt" and os.fstat(file.fileno()).st_uid not in self.users:
                    continue
                whole = file.read()
                checksum, dumped = whole[:32], whole[32:]
                if hashlib.sha256(dumped).digest() != checksum:
                    raise ValueError("damaged")
                found, data = pickle.loads(dumped)
                if found == key:
                    return data
        return None


class _OneFolder(FunctionCache):
    """numba's cache in one folder."""

    def __init__(self, function: Any, folder: Path, users: tuple[int, ...]) -> None:
        class Impl(CompileResultCacheImpl):
            _locator_classes: ClassVar = [_Place(folder)]

        self._impl_class = Impl
        super().__init__(function)
        self._cache_file = _Files(str(folder), self._impl.filename_base, self._impl.locator.get_source_stamp())
        self._cache_file.users = users

    def load_overload(self, signature: Any, context: Any) -> Any:
        # numba's own first imports all that compiling may need, scipy among it, which takes a third of the time to the
        # first answer. To run, a kernel needs the runtime that counts references.
        rtsys.initialize(context)
        with self._guard_against_spurious_io_errors():
            return self._load_overload(signature, context)

    def paths(self, signature: Any, context: Any) -> list[Path]:
        return self._cache_file.paths(self._index_key(signature, context.codegen()))


class KernelCache:
    """The caches of one kernel, one a folder; numba's dispatcher calls `load_overload` and `save_overload`."""

    def __init__(self, function: Any) -> None:
        package = Path(__file__).parent  # not the function's own path, which is relative in a frozen program
        owner = package.stat().st_uid if package.is_dir() else USER
        users = tuple(dict.fromkeys((USER, owner, 0)))  # all of these could change the package or this process anyway
        self._caches = [_OneFolder(function, folder, users) for folder in folders(package)]
        self.cache_path = self._caches[0].cache_path
        self.kept = True  # False once a version was compiled that no folder took
        self._loaded: dict[Any, Any] = {}

    def paths(self, signature: Any, context: Any) -> list[Path]:
        """The files that may hold the kernel for these types."""
        return [path for each in self._caches for path in each.paths(signature, context)]

    def load(self, signature: Any, context: Any) -> bool:
        """Load the kernel for these types, to be returned by `load_overload`; returns whether it was found."""
        found = self.load_overload(signature, context)
        if found is not None:
            self._loaded[signature] = found
        return found is not None

    def load_overload(self, signature: Any, context: Any) -> Any:
        """The kernel compiled for these types, or None."""
        loaded = self._loaded.pop(signature, None)
        if loaded is not None:
            return loaded
        for each in self._caches:
            try:
                found = each.load_overload(signature, context)
            except Exception:  # a damaged file: any error that unpickling or loading code can raise
                with suppress(OSError):
                    each.paths(signature, context)[0].unlink()
            else:
                if found is not None:
                    return found
        return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Store a compiled kernel in the first folder that can be written."""
        problem: Exception | None = None
        for each in self._caches:
            try:
                each.save_overload(signature, compiled)
                return
            except Exception as error:  # read-only, another user's, or a full disk
                problem = problem or error
        self.kept = False
        if not _warned:
            _warned.append(True)
            tried = ", ".join(str(each.cache_path) for each in self._caches)
            message = f"compiled kernels cannot be kept ({problem}; tried {tried}), so that every process compiles anew"
            warnings.warn(
                f"{message}: set NUMBA_CACHE_DIR to a folder that can be written", RuntimeWarning, stacklevel=2
            )
