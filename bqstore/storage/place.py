"""The folder of a collection as it was opened: whether it is still at its path, and its entries wherever it is.

A path leads to whatever folder is there now: it may have been removed and made anew, moved, or be a link that now leads
elsewhere. Making, renaming and removing files by path could destroy the contents of a stranger. So that goes through a
descriptor of the folder that was opened, and before a write is acknowledged, the path is compared with it.
"""

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path

from ..errors import FolderReplacedError, StorageError
from . import platform
from .descriptors import Descriptor


class Entries:
    """The files of a folder, by name.

    Attributes
    ----------
    path : Path         the folder's
    is_closed : bool    nothing is opened any more
    anchor : tuple or None  name, device and inode of a file of the folder that is mapped here: as long as it is, no
                        other file can get them
    """

    anchor: tuple[str, tuple[int, int]] | None = None
    is_closed = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.wake: Callable[[], None] = lambda: None  # called before descriptors are opened again

    def held(self) -> Descriptor | None:
        """A descriptor of the folder, in which names are looked up; None: they are looked up by path."""
        return None

    def _at(self, held: Descriptor | None, name: str) -> str | Path:
        return self.path / name if held is None else name

    def names(self) -> list[str]:
        """All of them."""
        held = self.held()
        return os.listdir(self.path if held is None else held.fd)  # noqa: PTH208 - a descriptor

    def open(self, name: str, flags: int) -> int:
        """A descriptor of a file. One that is made gets the mode of ``meta.db``, as SQLite's files do.

        If there is no meta.db yet: 0600, or the folder's mode without the right to execute if its group may write.
        """
        held = self.held()
        folder = _number(held)
        fd = platform.open_file(self._at(held, name), flags, folder)
        if flags & os.O_CREAT and platform.may_be_new(fd):
            try:
                platform.share_as(fd, os.stat(self._at(held, "meta.db"), dir_fd=folder))
            except OSError:  # there is no meta.db yet
                found = self.path.stat() if folder is None else os.fstat(folder)
                platform.share_with_group(fd, found)
        return fd

    def identity(self, name: str) -> tuple[int, int]:
        """Device and inode of a file."""
        held = self.held()
        found = os.stat(self._at(held, name), dir_fd=_number(held))
        return found.st_dev, found.st_ino

    def size(self, name: str) -> int:
        """Bytes of a file; 0 if there is none."""
        held = self.held()
        try:
            return os.stat(self._at(held, name), dir_fd=_number(held)).st_size
        except FileNotFoundError:
            return 0

    def open_lock(self, name: str) -> io.FileIO:
        """Open a file to lock it, made if missing; closing it unlocks it."""
        return io.FileIO(self.open(name, os.O_RDWR | os.O_CREAT), "r+")

    def replace(self, name: str, by: str) -> None:
        """Give a file the name of another one, which is gone then."""
        held = self.held()
        platform.replace(self._at(held, by), self._at(held, name), _number(held))

    def unlink(self, name: str) -> None:
        """Remove a file."""
        held = self.held()
        platform.remove(self._at(held, name), _number(held))

    def sync(self) -> None:
        """Return when the names are on the medium."""
        held = self.held()
        if held is None:
            platform.sync_folder(self.path)
        else:
            os.fsync(held.fd)


def _number(held: Descriptor | None) -> int | None:
    return None if held is None else held.fd


class Place(Entries):
    """A folder as it was opened, with a descriptor of it, and files in it that must stay the same: see `watch`.

    While it has a descriptor, the system gives its inode to no other folder. Without one, at `rest`, a folder is the
    one that was opened if the ``anchor`` file is in it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._paths = [path]
        self._descriptor: Descriptor | None = None
        self._has_descriptor = os.open in os.supports_dir_fd
        if self._has_descriptor:
            self._descriptor = Descriptor(os.open(path, os.O_RDONLY))
        found = path.stat() if self._descriptor is None else os.fstat(self._descriptor.fd)
        self._opened = [(found.st_dev, found.st_ino)]

    def held(self) -> Descriptor | None:  # noqa: D102
        found = self._descriptor  # read once: another thread may let it rest
        return found if found is not None or not self._has_descriptor else self._again()

    def _again(self) -> Descriptor:
        """Open the folder that was opened. Raises FolderReplacedError, OSError."""
        if self.is_closed:
            raise OSError(errno.EBADF, "the collection is closed")
        self.wake()
        self.check()
        anchor = self.anchor
        held = Descriptor(os.open(self.path, os.O_RDONLY))
        found = os.fstat(held.fd)
        try:
            inside = None if anchor is None else os.stat(anchor[0], dir_fd=held.fd)
        except FileNotFoundError:
            inside = None
        same = anchor is not None and inside is not None and (inside.st_dev, inside.st_ino) == anchor[1]
        if not same or (found.st_dev, found.st_ino) != self.folder:
            raise self._replaced("another folder stands there")
        self._descriptor = held
        return held

    def check_if_awake(self) -> None:
        """As `check`, before something is opened in it. Not at rest, as opening the folder again checks it."""
        if self._descriptor is not None or not self._has_descriptor:
            self.check()

    @property
    def can_rest(self) -> bool:
        """Whether the folder can be recognized without a descriptor of it."""
        return self._has_descriptor and self.anchor is not None

    def rest(self) -> None:
        """Give the descriptor back until it is needed again, if `can_rest`."""
        if self.can_rest:
            self._descriptor = None

    def close(self) -> None:
        """Give the descriptor back for good."""
        self.is_closed, self._descriptor = True, None

    def watch(self, name: str) -> None:
        """Notice from now on when a file is replaced. FolderReplacedError if the folder is not at its path."""
        self._paths, self._opened = self._paths[:1], self._opened[:1]
        self.check()
        try:
            found = self.identity(name)
        except OSError as error:
            raise StorageError(error.errno, f"cannot look at {self.path / name}: {platform.reason(error)}") from error
        self._paths, self._opened = [self.path, self.path / name], [*self._opened, found]

    @property
    def folder(self) -> tuple[int, int]:
        """Device and inode of the folder."""
        return self._opened[0]

    def check(self) -> None:
        """Raise FolderReplacedError unless everything is where it was; some microseconds."""
        paths, opened, anchor = self._paths, self._opened, self.anchor  # read once, as another thread may change them
        if self._has_descriptor and self._descriptor is None and anchor is not None:
            paths, opened = [*paths, self.path / anchor[0]], [*opened, anchor[1]]
        try:
            found = [path.stat() for path in paths]
            if [(each.st_dev, each.st_ino) for each in found] == opened:
                return
            what = f"another folder stands there, or another {self._paths[-1].name} in it"
        except (FileNotFoundError, NotADirectoryError) as error:
            what = f"{Path(error.filename).name} is not there any more"
        except OSError as error:
            raise StorageError(error.errno, f"cannot look at {error.filename}: {platform.reason(error)}") from error
        raise self._replaced(what)

    def _replaced(self, what: str) -> FolderReplacedError:
        return FolderReplacedError(
            f"{self.path} was removed, replaced or moved while it was open ({what}): this call is "
            "not acknowledged; close the collection and open the path again"
        )
