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
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from numba.core.caching import CompileResultCacheImpl, FunctionCache, IndexDataCacheFile

_warned: list[bool] = []


def folders(package: Path) -> list[Path]:
    """The folders to look in for kernels of a package, the first ones first."""
    given = os.environ.get("NUMBA_CACHE_DIR")
    if given:
        return [Path(given)]
    user = getattr(os, "geteuid", lambda: "user")()
    out = [package / "__pycache__", Path(tempfile.gettempdir()) / f"bqstore-kernels-{user}"]
    with suppress(RuntimeError):  # no home
        out.insert(1, _user_cache_folder() / "bqstore" / "kernels")
    return out


def _user_cache_folder() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    named = os.environ.get("XDG_CACHE_HOME", "")
    return Path(named) if Path(named).is_absolute() else Path.home() / ".cache"


class _Place:
    """A folder, as numba asks for one; the source counts by its text, not by its time."""

    def __init__(self, folder: Path, source: str, line: int) -> None:
        self._folder, self._source, self._line = folder, source, line

    def from_function(self, function: Any, source: str) -> _Place:
        return _Place(self._folder, source, function.__code__.co_firstlineno)

    def ensure_cache_path(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def get_cache_path(self) -> str:
        return str(self._folder)

    def get_source_stamp(self) -> str:
        return hashlib.sha256(Path(self._source).read_bytes()).hexdigest()

    def get_disambiguator(self) -> str:
        return hashlib.sha256(str(Path(self._source).parent).encode()).hexdigest()[:8] + f"-{self._line}"


class _Files(IndexDataCacheFile):
    """The files of one kernel in one folder, each behind a checksum: damaged machine code would end the process."""

    def _save_index(self, overloads: dict[Any, str]) -> None:
        self._save_data(self._index_name, (self._version, self._source_stamp, overloads))

    def _load_index(self) -> dict[Any, str]:
        try:
            version, stamp, overloads = self._load_data(self._index_name)
        except FileNotFoundError:
            return {}
        return overloads if (version, stamp) == (self._version, self._source_stamp) else {}

    def _save_data(self, name: str, data: Any) -> None:
        dumped = self._dump(data)
        with self._open_for_write(self._data_path(name)) as file:
            file.write(hashlib.sha256(dumped).digest() + dumped)

    def _load_data(self, name: str) -> Any:
        whole = Path(self._data_path(name)).read_bytes()
        checksum, dumped = whole[:32], whole[32:]
        if hashlib.sha256(dumped).digest() != checksum:
            raise ValueError(f"{name} is damaged")
        return pickle.loads(dumped)


class _OneFolder(FunctionCache):
    """numba's cache in one folder."""

    def __init__(self, function: Any, folder: Path) -> None:
        class Impl(CompileResultCacheImpl):
            _locator_classes: ClassVar = [_Place(folder, "", 0)]

        self._impl_class = Impl
        super().__init__(function)
        self._cache_file = _Files(str(folder), self._impl.filename_base, self._impl.locator.get_source_stamp())


class KernelCache:
    """The caches of one kernel, one a folder; numba's dispatcher calls the methods."""

    def __init__(self, function: Any) -> None:
        source = Path(function.__code__.co_filename)
        self._owner = source.stat().st_uid if source.exists() else 0
        self._caches = [_OneFolder(function, folder) for folder in folders(source.parent)]
        self.cache_path = self._caches[0].cache_path

    def load_overload(self, signature: Any, context: Any) -> Any:
        """The kernel as it was compiled for these types, or None."""
        for cache in self._caches:
            try:
                if self._is_trusted(cache):
                    found = cache.load_overload(signature, context)
                    if found is not None:
                        return found
            except Exception:  # a damaged file: any error that unpickling or loading code can raise
                self._drop(cache)
        return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Keep a compiled kernel in the first folder that takes it."""
        problem: Exception | None = None
        for cache in self._caches:
            try:
                cache.save_overload(signature, compiled)
                return
            except Exception as error:  # read-only, another user's, or a full disk
                problem = problem or error
        if not _warned:
            _warned.append(True)
            tried = ", ".join(str(cache.cache_path) for cache in self._caches)
            message = f"compiled kernels cannot be kept ({problem}; tried {tried}), so that every process compiles anew"
            warnings.warn(
                f"{message}: set NUMBA_CACHE_DIR to a folder that can be written", RuntimeWarning, stacklevel=2
            )

    def _is_trusted(self, cache: Any) -> bool:
        """Whether all files of the kernel belong to somebody who could change the package, or this process, anyway."""
        if not hasattr(os, "geteuid"):
            return True
        trusted = {os.geteuid(), 0, self._owner}
        files = Path(cache.cache_path).glob(f"{cache._impl.filename_base}.*")
        return all(file.stat().st_uid in trusted for file in files)

    def _drop(self, cache: Any) -> None:
        for file in Path(cache.cache_path).glob(f"{cache._impl.filename_base}.*"):
            with suppress(OSError):
                file.unlink()

    def flush(self) -> None:
        """Forget what is kept."""
        for cache in self._caches:
            self._drop(cache)
