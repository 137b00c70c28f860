"""File descriptors of open collections: a process has few, so that those which nobody uses are given back.

Each collection has some while it is used. When all that are open would take more than half of what the system allows,
those that were used longest ago are asked to `rest`: they close theirs, and open them again with the next call. It is
not for this module to know how, nor whether what it opens then is still the same.
"""

import os
import threading
import weakref
from collections.abc import Callable
from typing import Final, Protocol

from ..forks import in_forks
from . import platform

_EACH: Final = 8  # descriptors of a collection in use: see docs/design/descriptors.md
_SHARE: Final = 2  # one part in so many is for collections
_FEWEST: Final = 2


class Descriptor:
    """A file descriptor, closed when nobody refers to it any more: who uses the number holds the object meanwhile."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # the module's names may be gone at the end of Python
        try:  # noqa: SIM105
            close(self.fd)
        except (OSError, AttributeError):  # durable already; none if __init__ was interrupted
            pass


class Resting(Protocol):
    """What can give back its descriptors."""

    def rest(self) -> bool:
        """Give back all, from any thread; False where it cannot do so now."""


_awake: "dict[int, weakref.ref[Resting]]" = {}  # those with descriptors, in the order of their use
_lock = threading.RLock()  # for moments; a signal handler may call in


def used(one: Resting) -> None:
    """Say that it has been used now, and may have descriptors. Others rest if there are too many."""
    key = id(one)
    with _lock:
        known = _awake.pop(key, None)  # perhaps another's, whose number this one has got
        _awake[key] = _reference(one) if known is None or known() is not one else known
    if len(_awake) <= _FEWEST:
        return
    most = max(_FEWEST, platform.most_descriptors() // _SHARE // _EACH)
    for _ in range(len(_awake)):  # each at most once: those that are busy become the last ones
        with _lock:
            # a list: one that is collected meanwhile changes the dictionary
            first = list(_awake)[0] if len(_awake) > most else key  # noqa: RUF015
            if first == key:
                return
            other = _awake.pop(first)()
        if other is not None and not other.rest():
            with _lock:
                _awake.setdefault(first, _reference(other))


def forget(one: Resting) -> None:
    """Say that it is closed."""
    with _lock:
        _awake.pop(id(one), None)


def _reference(one: Resting) -> "weakref.ref[Resting]":
    key = id(one)

    def gone(reference: "weakref.ref[Resting]") -> None:
        if _awake.get(key) is reference:  # else the number is another's by now
            _awake.pop(key, None)

    return weakref.ref(one, gone)


def _after_fork() -> None:
    """In a fork: what its parent has open is not its own to close."""
    global _lock  # noqa: PLW0603 - another thread may have held it
    _lock = threading.RLock()
    _awake.clear()


in_forks(_after_fork)
