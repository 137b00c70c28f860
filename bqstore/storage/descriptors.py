"""File descriptors of open collections: a process may have few, so unused collections give theirs back.

A collection has some while it is used. When all open ones would take more than half of what the system allows, those
that were used longest ago are asked to `rest`: they close their descriptors, and open them again at the next call. How
they do that, and check that the files are still the same, is not known here.
"""

import os
import threading
import weakref
from collections.abc import Callable
from typing import Final, Protocol

from ..forks import in_forks
from . import platform

_EACH: Final = 8  # descriptors of a collection in use: see docs/design/descriptors.md
_SHARE: Final = 2  # collections may have one in so many of the process's descriptors
_FEWEST: Final = 2


class Descriptor:
    """A file descriptor, closed when nobody refers to it any more. While you use the number, keep the object."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # a default argument, as the names of the module may be gone when Python ends
        try:  # noqa: SIM105
            close(self.fd)
        except (OSError, AttributeError):  # durable already; none if __init__ was interrupted
            pass


class Resting(Protocol):
    """What can give back its descriptors."""

    def rest(self) -> bool:
        """Give back all descriptors, from any thread; False if that is not possible now."""


_awake: "dict[int, weakref.ref[Resting]]" = {}  # those with descriptors, in the order of their use
_lock = threading.RLock()  # for moments; a signal handler may call in


def used(one: Resting) -> None:
    """Say that a collection is used now, and may have descriptors. Others rest if there are too many."""
    key = id(one)
    with _lock:
        known = _awake.pop(key, None)  # perhaps that of a collected object whose id this one has got
        _awake[key] = _reference(one) if known is None or known() is not one else known
    if len(_awake) <= _FEWEST:
        return
    most = max(_FEWEST, platform.most_descriptors() // _SHARE // _EACH)
    for _ in range(len(_awake)):  # each at most once: busy ones move to the end
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
        if _awake.get(key) is reference:  # else the id belongs to another object by now
            _awake.pop(key, None)

    return weakref.ref(one, gone)


def _after_fork() -> None:
    """In a fork: what its parent has open is not its own to close."""
    global _lock  # noqa: PLW0603 - another thread may have held it
    _lock = threading.RLock()
    _awake.clear()


in_forks(_after_fork)
