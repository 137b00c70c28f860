"""What differs between operating systems: one function each, with its fallback. Knows no formats."""

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from ..errors import LockedError, StorageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

O_BINARY: Final[int] = getattr(os, "O_BINARY", 0)  # Windows translates line ends without it


def sync_file(fd: int) -> None:
    """Return when the file's bytes are on the medium, flushed from the drive's cache where the system offers it."""
    if fcntl is not None and hasattr(fcntl, "F_FULLFSYNC"):  # macOS: fsync stops at the drive's cache
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    elif hasattr(os, "fdatasync"):
        os.fdatasync(fd)
    else:
        os.fsync(fd)


def will_need(fd: int, offset: int, length: int) -> None:
    """Ask the system to read bytes of a file into the page cache; returns at once. Does nothing on some systems."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, offset, length, os.POSIX_FADV_WILLNEED)


def major_faults() -> int:
    """How many page faults of this process have waited for the disk; 0 where the system does not count them."""
    return 0 if resource is None else resource.getrusage(resource.RUSAGE_SELF).ru_majflt


def sync_folder(folder: Path) -> None:
    """Return when the folder's entries are on the medium. Windows has no such call and needs none."""
    if os.name == "nt":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents with mode 0700, durably."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        try:
            new.mkdir(mode=0o700)
        except FileExistsError:  # another process was faster
            continue
        sync_folder(new.parent)


def _try_lock(fd: int) -> bool:
    if fcntl is None:
        import msvcrt

        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EAGAIN):
            return False
        raise
    return True


def lock_file(path: Path) -> int:
    """Open and lock a file for as long as the returned descriptor is open; the kernel unlocks it when the process ends.

    Raises LockedError if a writer, in this process or another, has locked it.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StorageError(f"cannot open {path}: {error.strerror}; read_only=True needs no lock") from error
    try:
        free = _try_lock(fd)
    except OSError as error:
        os.close(fd)
        raise StorageError(error.errno, f"cannot lock {path}: {error.strerror}; use a local disk") from error
    if free:
        with suppress(OSError):  # the number is for error messages only; a full disk must not prevent opening
            os.ftruncate(fd, 0)
            os.write(fd, f"{os.getpid()}\n".encode())
        return fd
    try:
        holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() if hasattr(os, "pread") else ""
    finally:
        os.close(fd)
    who = "this process" if holder == str(os.getpid()) else f"process {holder}" if holder else "another process"
    raise LockedError(
        f"{path.parent} has a writer already ({who}); close that one, share its Collection, or open with read_only=True"
    )
