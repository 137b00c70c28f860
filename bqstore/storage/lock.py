"""The lock of the one writer, and what a fork must let go of or hold on to. Knows no formats."""

import os
import weakref
from pathlib import Path

from . import platform

_held: "weakref.WeakSet[WriterLock]" = weakref.WeakSet()
_connected: "weakref.WeakSet[object]" = weakref.WeakSet()
_of_the_parent: list[object] = []


class WriterLock:
    """The LOCK file, held until `release` or the end of the process. Raises LockedError where a writer has it."""

    def __init__(self, path: Path) -> None:
        self._fd: int | None = platform.lock_file(path)
        _held.add(self)

    def release(self) -> None:
        """Close the descriptor: frees the lock, or in a fork only this process's hold on it. Twice is fine."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)


def never_close_in_a_fork(owner: object) -> None:
    """Keep the owner of SQLite handles alive in forks: closing them there could take the parent's locks away."""
    _connected.add(owner)


def _after_fork() -> None:
    """In a fork: the lock must end with the parent, not live on in a child that inherited its descriptor."""
    for lock in list(_held):
        lock.release()
    _of_the_parent.extend(_connected)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
