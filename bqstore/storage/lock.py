"""The writer's lock, and what a forked process must release or keep open. Knows no formats."""

import os
import weakref
from pathlib import Path

from . import platform

_locks: "weakref.WeakSet[WriterLock]" = weakref.WeakSet()
_connected: "weakref.WeakSet[object]" = weakref.WeakSet()
_of_the_parent: list[object] = []


class WriterLock:
    """The LOCK file, locked until `release` or the end of the process. Raises LockedError if a writer holds it."""

    def __init__(self, path: Path) -> None:
        self._fd: int | None = platform.lock_file(path)
        _locks.add(self)

    def release(self) -> None:
        """Close the descriptor: unlocks the file, or in a fork only drops this process's share. May be repeated."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)


def never_close_in_a_fork(owner: object) -> None:
    """Keep the owner of SQLite connections alive in forks: closing them there could drop the parent's locks."""
    _connected.add(owner)


def _after_fork() -> None:
    """In a fork: the lock must end with the parent, and the child has inherited its descriptor."""
    for lock in list(_locks):
        lock.release()
    _of_the_parent.extend(_connected)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
