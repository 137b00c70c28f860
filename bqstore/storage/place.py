"""The folder of a collection as it was opened: whether it is still at its path, and its entries wherever it is.

A path leads to whatever folder stands there now: removed and made anew, moved, a link turned to another version. What
is made, renamed and swept there by path would destroy the contents of a stranger. So all of it goes through a
descriptor of the folder that was opened, and before anything is acknowledged the path is compared with it.
"""

import io
import os
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..errors import FolderReplacedError, StorageError
from . import platform


class Entries:
    """The files of a folder, by name.

    Attributes
    ----------
    path : Path         the folder's
    fd : int or None    a descriptor that the names are looked up in; None: in the path
    """

    fd: int | None = None

    def __init__(self, path: Path) -> None:
        self.path = path

    def _at(self, name: str) -> str | Path:
        return self.path / name if self.fd is None else name

    def names(self) -> list[str]:
        """All of them."""
        return os.listdir(self.path if self.fd is None else self.fd)  # noqa: PTH208 - a descriptor

    def open(self, name: str, flags: int) -> int:
        """A descriptor of a file. One that is made gets the mode of ``meta.db``, as SQLite's files do.

        Before there is one: 0600, or the folder's mode without the right to execute, where its group may write.
        """
        fd = os.open(self._at(name), flags | platform.O_BINARY, 0o600, dir_fd=self.fd)
        if flags & os.O_CREAT and platform.may_be_new(fd):
            try:
                platform.share_as(fd, os.stat(self._at("meta.db"), dir_fd=self.fd))
            except OSError:  # there is no meta.db yet
                found = self.path.stat() if self.fd is None else os.fstat(self.fd)
                platform.share_with_group(fd, found)
        return fd

    def identity(self, name: str) -> tuple[int, int]:
        """Device and inode of a file."""
        found = os.stat(self._at(name), dir_fd=self.fd)
        return found.st_dev, found.st_ino

    def size(self, name: str) -> int:
        """Bytes of a file; 0 if there is none."""
        try:
            return os.stat(self._at(name), dir_fd=self.fd).st_size
        except FileNotFoundError:
            return 0

    def open_lock(self, name: str) -> io.FileIO:
        """Open a file to lock it, made if missing; closing it unlocks it."""
        return io.FileIO(self.open(name, os.O_RDWR | os.O_CREAT), "r+")

    def replace(self, name: str, by: str) -> None:
        """Give a file the name of another one, which is gone then."""
        os.replace(self._at(by), self._at(name), src_dir_fd=self.fd, dst_dir_fd=self.fd)

    def unlink(self, name: str) -> None:
        """Remove a file."""
        os.unlink(self._at(name), dir_fd=self.fd)

    def sync(self) -> None:
        """Return when the names are on the medium."""
        if self.fd is None:
            platform.sync_folder(self.path)
        else:
            os.fsync(self.fd)


def _close(fd: int) -> None:
    with suppress(OSError):  # the descriptor is gone either way
        os.close(fd)


class Place(Entries):
    """A folder as it was opened, with a descriptor of it, and files in it that must stay the same: see `watch`.

    While it has a descriptor the system gives its inode to no other folder.
    """

    close: Callable[[], object] = staticmethod(lambda: None)

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._paths = [path]
        if os.open in os.supports_dir_fd:
            self.fd = os.open(path, os.O_RDONLY)
            self.close = weakref.finalize(self, _close, self.fd)
        found = path.stat() if self.fd is None else os.fstat(self.fd)
        self._opened = [(found.st_dev, found.st_ino)]

    def watch(self, name: str) -> None:
        """Notice from now on when a file is replaced. FolderReplacedError if the folder is not at its path."""
        self._paths, self._opened = self._paths[:1], self._opened[:1]
        self.check()
        try:
            found = self.identity(name)
        except OSError as error:
            raise StorageError(error.errno, f"cannot look at {self.path / name}: {error.strerror}") from error
        self._paths, self._opened = [self.path, self.path / name], [*self._opened, found]

    @property
    def folder(self) -> tuple[int, int]:
        """Device and inode of the folder."""
        return self._opened[0]

    def check(self) -> None:
        """Raise FolderReplacedError unless everything is where it was; some microseconds."""
        try:
            found = [path.stat() for path in self._paths]
            same = [(each.st_dev, each.st_ino) for each in found] == self._opened
            what = f"another folder stands there, or another {self._paths[-1].name} in it"
        except (FileNotFoundError, NotADirectoryError) as error:
            same, what = False, f"{Path(error.filename).name} is not there any more"
        except OSError as error:
            raise StorageError(error.errno, f"cannot look at {error.filename}: {error.strerror}") from error
        if not same:
            raise FolderReplacedError(
                f"{self.path} was removed, replaced or moved while it was open ({what}): this call is "
                "not acknowledged; close the collection and open the path again"
            )
