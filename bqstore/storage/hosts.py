"""One host at a time may write: on a network file system, which several hosts may share, the protocol does not hold.

SQLite's log and the number of the last commit are read through shared memory, which two hosts do not share, and what
one host has synced another may not see yet. So whoever opens for writing claims the folder for this host, by a lock
that all its processes share and that ends with the last of them. Local file systems need no claim.
"""

import errno
import io
import json
import os
import socket
from contextlib import suppress
from typing import Final

from ..errors import LockedError, StorageError
from . import platform
from .place import Entries

ALLOW: Final = "BQSTORE_ALLOW_HOSTS"
_LOCAL: Final = frozenset(
    [
        *("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "bcachefs", "f2fs", "jfs", "reiserfs", "nilfs2", "tmpfs"),
        *("ramfs", "overlay", "overlayfs", "aufs", "squashfs", "erofs", "vfat", "exfat", "ntfs", "ntfs3", "fuseblk"),
        *("fuse.fuse-overlayfs", "fuse.ntfs-3g"),
    ]
)
_OBJECTS: Final = frozenset(
    f"fuse.{name}"
    for name in ("s3fs", "goofys", "geesefs", "gcsfuse", "blobfuse", "blobfuse2", "rclone", "ossfs", "cosfs")
)


def claim(folder: Entries) -> io.FileIO | None:
    """Claim a folder for this host, while the writers' lock is held. Closing the file gives the claim back.

    None if other hosts cannot reach the folder, or ``BQSTORE_ALLOW_HOSTS=1`` is set. Raises LockedError, with the
    name of the host that has it open for writing; StorageError for a mounted object store; OSError.
    """
    kind = platform.file_system(folder.path)
    if kind in _OBJECTS:
        raise StorageError(
            errno.EOPNOTSUPP,
            f"{folder.path} is a mounted object store ({kind}), which neither locks files nor changes them in place: "
            "keep the collection on a disk, and copy its folder there when it is closed",
        )
    if kind in _LOCAL or os.environ.get(ALLOW) == "1":
        return None
    file = folder.open_lock("HOST")
    try:
        own = {"kernel": platform.kernel_id(), "host": socket.gethostname()}
        if platform.try_lock(file.fileno()):  # nobody has it
            file.truncate(0)
            platform.write_at(file.fileno(), json.dumps(own).encode(), 0)
        found = {}
        with suppress(ValueError):
            found = json.loads(platform.read_at(file.fileno(), 4096, 0))
        if not isinstance(found, dict) or found.get("kernel") != own["kernel"]:
            name = found.get("host") if isinstance(found, dict) else None
            raise LockedError(
                f"{folder.path} is open for writing on host {name or 'unknown'}, and this is {own['host']}: "
                f"on a network file system ({kind or 'of unknown kind'}) only one host may write; "
                "close it there, or open it here with read_only=True "
                f"(if locks, shared memory and syncs do work across hosts, set {ALLOW}=1 on all)"
            )
        platform.try_lock(file.fileno(), shared=True)
    except BaseException:
        file.close()
        raise
    return file
