"""What differs between operating systems: one function each, with its fallback. Knows no formats."""

import ctypes
import errno
import mmap
import os
import shutil
import socket
import stat
import struct
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

O_BINARY: Final[int] = getattr(os, "O_BINARY", 0)  # Windows translates line ends without it
FULL: Final = (errno.ENOSPC, errno.EDQUOT)  # a disk, or somebody's quota of it
_ROOM: Final = 64 << 10  # bytes: SQLite asks for its shared memory, 32 KiB, and a page at a time
_LOCKED_BYTE: Final = 1 << 20
_NO_MAP: Final = ctypes.c_void_p(-1).value
_NO_HANDLE: Final = _NO_MAP
_TRIES, _PAUSE = 20, 0.01  # Windows: a virus scanner or indexer may have a file open for a moment
_position: Final = threading.Lock()  # for the position of a descriptor, on systems without pread and pwrite


def _system_maps() -> Any:
    """The C library's mmap and munmap: before Python 3.13 those of its own `mmap` keep a descriptor each."""
    if fcntl is None or sys.version_info >= (3, 13):
        return None
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    library.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return library


_libc: Final = _system_maps()


def sync_file(fd: int) -> None:
    """Return when the file's bytes are on the medium, flushed from the drive's cache where the system offers it."""
    if fcntl is not None and hasattr(fcntl, "F_FULLFSYNC"):  # macOS: fsync stops at the drive's cache
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    elif hasattr(os, "fdatasync"):
        os.fdatasync(fd)
    else:
        os.fsync(fd)


def open_file(path: str | Path, flags: int, dir_fd: int | None = None) -> int:
    """A descriptor of a file, 0600 if it is made, that others may rename and remove while it is open."""
    if os.name != "nt":
        return os.open(path, flags | O_BINARY, 0o600, dir_fd=dir_fd)
    import msvcrt

    # Python's own opening lets nobody else rename or remove the file
    library = getattr(ctypes, "WinDLL")("kernel32", use_last_error=True)  # noqa: B009 - for type checkers
    library.CreateFileW.restype = ctypes.c_void_p
    library.CreateFileW.argtypes = [ctypes.c_wchar_p, *[ctypes.c_uint32] * 2, ctypes.c_void_p, *[ctypes.c_uint32] * 2]
    library.CreateFileW.argtypes += [ctypes.c_void_p]
    access = 0x80000000 | (0x40000000 if flags & (os.O_RDWR | os.O_WRONLY) else 0)  # GENERIC_READ, GENERIC_WRITE
    made, emptied = flags & os.O_CREAT, flags & os.O_TRUNC
    how = (1 if flags & os.O_EXCL else 2 if emptied else 4) if made else 5 if emptied else 3
    share_all, normal = 0x7, 0x80  # FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE; FILE_ATTRIBUTE_NORMAL
    handle = library.CreateFileW(str(path), access, share_all, None, how, normal, None)
    if handle in (None, _NO_HANDLE):
        code = getattr(ctypes, "get_last_error")()  # noqa: B009
        raise getattr(ctypes, "WinError")(code)  # noqa: B009
    return int(getattr(msvcrt, "open_osfhandle")(handle, flags | O_BINARY))  # noqa: B009


def read_at(fd: int, length: int, offset: int) -> bytes:
    """At most so many bytes at an offset."""
    if hasattr(os, "pread"):
        return os.pread(fd, length, offset)
    with _position:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, length)


def read_into(fd: int, out: memoryview, offset: int) -> int:
    """Fill a buffer with bytes at an offset; how many there were, at most."""
    if hasattr(os, "preadv"):
        return os.preadv(fd, [out], offset)
    found = read_at(fd, len(out), offset)
    out[: len(found)] = found
    return len(found)


def write_at(fd: int, data: bytes | memoryview, offset: int) -> int:
    """Write some of the data at an offset; how much."""
    if hasattr(os, "pwrite"):
        return os.pwrite(fd, data, offset)
    with _position:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.write(fd, data)


def replace(old: str | Path, new: str | Path, dir_fd: int | None = None) -> None:
    """Give a file another name, in the place of the file that has it.

    Windows refuses that where somebody has the other file open, but lets it be renamed: it goes out of the way first.
    """
    if os.name != "nt":
        os.replace(old, new, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
        return
    try:
        _patiently(lambda: os.replace(old, new))  # noqa: PTH105
    except PermissionError:
        aside = f"{new}.{time.monotonic_ns():x}.tmp"
        os.rename(new, aside)  # noqa: PTH104 - as its siblings
        try:
            os.replace(old, new)  # noqa: PTH105
        except BaseException:  # somebody has the new one open as well
            os.rename(aside, new)  # noqa: PTH104
            raise
        with suppress(OSError):  # it costs space, until it is removed by hand
            remove(aside)


def remove(path: str | Path, dir_fd: int | None = None) -> None:
    """Remove a file; on Windows, once whoever has it open for a moment has closed it. Raises OSError."""
    if os.name != "nt":
        os.unlink(path, dir_fd=dir_fd)
    else:
        _patiently(lambda: os.unlink(path))  # noqa: PTH108


def _patiently(action: Callable[[], None]) -> None:
    for _ in range(_TRIES):
        with suppress(PermissionError):
            return action()
        time.sleep(_PAUSE)
    return action()


def map_file(fd: int, length: int, access: int = mmap.ACCESS_READ) -> memoryview:
    """A map of the first bytes of a file, which needs its descriptor no more.

    It lives as long as anything refers to it. Raises ValueError where the file is shorter, OSError.
    """
    if fcntl is not None and sys.version_info >= (3, 13):  # Windows has no trackfd
        return memoryview(mmap.mmap(fd, length, access=access, trackfd=False))
    if _libc is None:
        return memoryview(mmap.mmap(fd, length, access=access))  # it keeps a copy of the descriptor
    if not 0 < length <= os.fstat(fd).st_size:
        raise ValueError("mmap length is greater than file size")
    copied = access == mmap.ACCESS_COPY
    rights = mmap.PROT_READ | mmap.PROT_WRITE * copied
    at = _libc.mmap(None, length, rights, mmap.MAP_PRIVATE if copied else mmap.MAP_SHARED, fd, 0)
    if at == _NO_MAP:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    data = (ctypes.c_ubyte * length).from_address(at)
    weakref.finalize(data, _libc.munmap, at, length).atexit = False  # at the end of Python somebody may still read it
    array = np.frombuffer(memoryview(data), np.uint8)
    array.flags.writeable = copied
    view: memoryview = array.data
    return view


def forget(data: memoryview, start: int, length: int) -> None:
    """Let the system drop whole pages of a map from memory; reading them again takes them from the file."""
    if not hasattr(mmap, "MADV_DONTNEED"):
        return
    with suppress(OSError):  # they stay in memory, no more
        if isinstance(data.obj, mmap.mmap):
            data.obj.madvise(mmap.MADV_DONTNEED, start, length)
        elif isinstance(data.obj, np.ndarray):
            _libc.madvise(data.obj.ctypes.data + start, length, mmap.MADV_DONTNEED)


def most_descriptors() -> int:
    """How many descriptors this process may have now."""
    if resource is None:  # Windows: the C library's
        return 512
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if soft == resource.RLIM_INFINITY else int(soft)


def reason(error: OSError) -> str:
    """The system's words for an error; if a limit of a process or user is reached, also that limit and what to do."""
    words = error.strerror or str(error)
    if error.errno == errno.EDQUOT:
        return f"{words}: the quota of this user, group or project is used up; make room within it, or have it raised"
    if error.errno != errno.EMFILE:
        return words
    limit = "" if resource is None else " (RLIMIT_NOFILE)"
    advice = "close files or collections, or raise the limit" + (", as `ulimit -n` does" if limit else "")
    return f"{words}: this process may have {most_descriptors():,}{limit}; {advice}"


def want_of_descriptors() -> OSError | None:
    """The system's error if it has no descriptors left for SQLite's three files; SQLite itself does not say so."""
    opened: list[int] = []
    try:
        for _ in range(3):
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error if error.errno in (errno.EMFILE, errno.ENFILE) else None
    finally:
        for fd in opened:
            os.close(fd)
    return None


def want_of_room(folder: Path) -> OSError | None:
    """The system's error if a file in a folder gets no room: for a full quota SQLite says only "disk I/O error"."""
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            written = 0
            while written < _ROOM:
                written += file.write(bytes(_ROOM - written))
            sync_file(file.fileno())  # a network file system may report it only now
    except OSError as error:
        return error if error.errno in FULL else None
    return None


def will_need(fd: int, offset: int, length: int) -> None:
    """Ask the system to read bytes of a file into the page cache; returns at once. Does nothing on some systems."""
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError):  # it is a hint
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


def free_bytes(folder: Path) -> int:
    """Bytes that are free on the disk of a folder for this user, without regard to quotas. Raises OSError."""
    return shutil.disk_usage(folder).free


def may_be_new(fd: int) -> bool:
    """Whether a file is this user's and empty, like one that was just made."""
    found = os.fstat(fd)
    return found.st_size == 0 and (os.name == "nt" or found.st_uid == os.geteuid())


def share_as(fd: int, other: os.stat_result) -> None:
    """Give a new file the mode of another one, for those who may use that; where this is root, its owner, too."""
    if os.name == "nt":
        return
    mode = 0o600 | stat.S_IMODE(other.st_mode) & 0o666
    if mode != 0o600:
        os.fchmod(fd, mode)
    if os.geteuid() == 0:
        os.fchown(fd, other.st_uid, other.st_gid)


def share_with_group(fd: int, folder: os.stat_result) -> None:
    """Let the group use a new file if it may write in its folder, whatever the umask."""
    if os.name != "nt" and folder.st_mode & stat.S_IWGRP:
        os.fchmod(fd, 0o600 | stat.S_IMODE(folder.st_mode) & 0o066)


def make_folder(folder: Path, mode: int = 0o700) -> None:
    """Create a folder and its parents with a mode, durably."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        try:
            new.mkdir(mode=0o700)
            if mode != 0o700:
                new.chmod(mode)  # whatever the umask
        except FileExistsError:  # another process was faster
            continue
        sync_folder(new.parent)


def try_lock(fd: int, shared: bool = False) -> bool:
    """Lock a file for as long as it is open, unless somebody has: in this process or another. Raises OSError.

    ``shared``: others may lock it so, too (on Windows none can). The kernel unlocks it when the process ends.
    """
    if fcntl is None:
        import msvcrt

        os.lseek(fd, _LOCKED_BYTE, os.SEEK_SET)  # nobody can read what is locked
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EAGAIN):
            return False
        raise
    return True


def unlock(fd: int) -> None:
    """Unlock a file, also for forks that have inherited the descriptor, which closing it here would not."""
    if fcntl is not None:
        with suppress(OSError):  # where the system has no locks
            fcntl.flock(fd, fcntl.LOCK_UN)


def share_bytes(fd: int, start: int, count: int) -> None:
    """Lock bytes of a file for reading, on behalf of the descriptor and not of the process. Linux has such locks."""
    if hasattr(fcntl, "F_OFD_SETLK"):
        lock = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, start, count, 0)
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock)


def started(pid: int) -> tuple[str, str] | None:
    """When a process of this system began, in the kernel's ticks, and its state (T: stopped); None if not known."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[19], fields[0]
    except (OSError, IndexError, ValueError):  # it has ended; macOS and Windows have no /proc
        return None


def kernel_id() -> str:
    """An id of the running system; containers on one host have the same."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


def file_system(path: Path) -> str:
    """The type of the file system that a path is on, such as "ext4" or "nfs4"; "" where the system does not say."""
    best, name = -1, ""
    try:
        mounts = Path("/proc/self/mountinfo").read_text()
    except OSError:
        return ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        mount = before.split(" ")[4].encode().decode("unicode_escape")  # a space is \\040
        if len(mount) >= best and path.is_relative_to(mount):
            best, name = len(mount), after.split(" ")[0]
    return name
