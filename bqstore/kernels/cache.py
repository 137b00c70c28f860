"""Where compiled kernels are kept on disk, so that no failure of a cache is a failure of a search.

numba's own cache raises where no folder can be written, and for ever where a file in it is damaged. This one looks in
several folders, the same ones for every kernel:

- ``NUMBA_CACHE_DIR`` alone, where that is set;
- else the package's ``__pycache__`` (also where it can only be read: an image may have been warmed up as root), the
  user's cache folder, and a folder of the user's own among the temporary files.

What is damaged is removed and compiled again. What cannot be kept is compiled in memory, with one warning. The files
hold machine code, so they are loaded only if they belong to this user, to root, or to whoever owns the package.
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
GIVEN = Path(_given).absolute() if _given else None  # before the program changes its folder
USER = getattr(os, "geteuid", lambda: 0)()
_warned: list[bool] = []
_OLD = 60 * 86_400  # seconds after which a compiled kernel is made again rather than kept


def folders(package: Path) -> list[Path]:
    """The folders to look in for kernels of a package, the first ones first."""
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
    """The first of the folders that takes a file; None if all refuse."""
    for folder in folders(Path(__file__).parent):
        try:
            _make(folder)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            continue
    return None


def _make(folder: Path) -> None:
    """Make a folder if there is none: for this user alone, but the package's for all who can read the package."""
    folder.mkdir(mode=0o755 if folder.name == "__pycache__" else 0o700, parents=True, exist_ok=True)


def _user_cache_folder() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    named = os.environ.get("XDG_CACHE_HOME", "")
    return Path(named) if Path(named).is_absolute() else Path.home() / ".cache"


class _Place:
    """A folder, as numba asks for one."""

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
    """A hash of the package's version and of the text of all kernels, and of what they know of records.

    A root holds the code of every leaf it calls.
    """
    digest = hashlib.sha256(f"{__version__} {numba.__version__}".encode())
    folder = Path(__file__).parent
    for path in sorted([*folder.glob("*.py"), *folder.parent.glob("record_words.py")]):  # none in a frozen program
        digest.update(path.read_bytes())
    return digest.hexdigest()


class _Files(IndexDataCacheFile):
    """The versions of one kernel in one folder, each a file whose name says for which types and processor it is.

    There is no index that two processes, or two hosts with one home, could overwrite for each other. The name also says
    whose file it is: users who share a folder have their own.
    """

    users: tuple[int, ...]

    def paths(self, key: Any) -> list[Path]:
        """The files that may hold a version, this user's first."""
        name = hashlib.sha256(repr((self._source_stamp, key)).encode()).hexdigest()[:20]
        names = (self._data_name_pattern.replace("{number:d}", f"{name}-{user}") for user in self.users)
        return [Path(self._data_path(each)) for each in names]

    def save(self, key: Any, data: Any) -> None:
        dumped = self._dump((key, data))
        with self._open_for_write(str(self.paths(key)[0])) as file:
            file.write(hashlib.sha256(dumped).digest() + dumped)
        for old in Path(self._cache_path).glob(self._data_name_pattern.replace("{number:d}", "*")):
            with suppress(OSError):
                if old.stat().st_mtime < time.time() - _OLD:  # of a version that is gone, most likely
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
        users = tuple(dict.fromkeys((USER, owner, 0)))  # who could change the package, or this process, anyway
        self._caches = [_OneFolder(function, folder, users) for folder in folders(package)]
        self.cache_path = self._caches[0].cache_path
        self.kept = True  # False once a version was compiled that no folder took
        self._loaded: dict[Any, Any] = {}

    def paths(self, signature: Any, context: Any) -> list[Path]:
        """The files that may hold the kernel for these types."""
        return [path for each in self._caches for path in each.paths(signature, context)]

    def load(self, signature: Any, context: Any) -> bool:
        """Load the kernel as it was compiled for these types, for `load_overload` to give; whether it is there."""
        found = self.load_overload(signature, context)
        if found is not None:
            self._loaded[signature] = found
        return found is not None

    def load_overload(self, signature: Any, context: Any) -> Any:
        """The kernel as it was compiled for these types, or None."""
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
        """Keep a compiled kernel in the first folder that takes it."""
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
