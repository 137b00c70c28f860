"""Who may enter an open collection, and when: threads, signal handlers, Ctrl-C, forks and closing. All rules are here.

1. **One writer at a time.** A write takes three locks, always in this order: `Lifecycle.turn`, which it holds to its
   end; the lock of the folder, which it gives back when it has committed, so that other processes go on while it links;
   and `Lifecycle.lock`, from then on to its end. Other writes of the process wait as long as it writes; while it waits
   for other processes, they wait no longer than their own timeout. Searches take no lock, except `Lifecycle.lock` in
   three cases: another process has committed, the fourth try of a read that met changed documents, and `verify`.
2. **No call from inside a write.** Python runs signal handlers and finalizers between any two instructions of a
   thread, so also in the middle of a write, and a second call would end the transaction of the first. While a thread
   is inside a write, every other call of that thread is a LockedError. A handler should set a flag; the program looks
   at the flag between two calls. Refused likewise are a write or `close` inside a read that holds writers off, and a
   write by a handler of a thread whose own write waits: handlers of a quick timer would pile up without end.
3. **Ctrl-C may come anywhere.** Before the commit of a write nothing has happened. After it the commit stands, and the
   next call publishes it (`Publisher`).
4. **Closing** waits for the write of another thread, as a write does. A search that is under way ends on the arrays it
   holds, or raises ClosedError. What a program leaves open is closed when the process ends. All openings of a folder in
   a process share what is here, and the last one to close ends it.
5. **A fork** has neither threads nor locks of its parent: its calls raise ClosedError, and `close` does nothing. Of a
   collection in memory it has a copy, and new locks (`copies.py`), unless a thread was inside at that moment.
"""

import atexit
import math
import os
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, Protocol

from ..errors import ClosedError, LockedError

_SLICE: Final = 1.0  # seconds to wait at a time, at most


class _OfThread(threading.local):
    """A lock for each thread, which marks what the thread is doing: a ``with`` that no interrupt leaves open."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.since = -math.inf


class _Within:
    """``with`` takes a lock within some seconds, or raises StopIteration, and gives it back.

    Both ends are C code, as those of the lock itself, so that no interrupt can come between.
    """

    def __init__(self, lock: Any, seconds: float) -> None:
        self._lock, self._seconds = lock, seconds

    @property
    def __enter__(self) -> Callable[[], object]:
        # `next` of the true ones among the results of one call of `acquire`
        return partial(next, filter(None, map(partial(self._lock.acquire, True), (self._seconds,))))

    @property
    def __exit__(self) -> Callable[..., None]:  # noqa: PLE0302 - what it returns is called
        return self._lock.__exit__  # type: ignore[no-any-return]


class Lifecycle:
    """Whether a collection is open, and which thread may do what with it.

    Attributes
    ----------
    turn : RLock        held by the one writer, also while it waits for other processes
    lock : RLock        held by whoever uses the store's main connection: a writer, a read that holds writers off
    changing : RLock    held beside it by whoever changes the published state, so that rule 2 can tell the two apart.
                        All are taken by ``with`` alone: an interrupt cannot come between taking and giving back
    waiting             its ``lock`` is held by a thread whose write waits for `turn`, or for another to commit for it;
                        ``since`` is when it began
    closed : bool
    """

    def __init__(self) -> None:
        self.closed = False
        self.begin_anew()

    def begin_anew(self) -> None:
        """Make locks that nobody has; in a fork, of a collection that is its own: see `copies`."""
        self.turn = threading.RLock()
        self.lock = threading.RLock()
        self.changing = threading.RLock()
        self.waiting = _OfThread()
        self._pid = os.getpid()

    @property
    def is_fork(self) -> bool:
        """Whether this process has inherited the collection from the one that opened it."""
        return self._pid != os.getpid()

    def turn_within(self, seconds: float) -> _Within:
        """To be held in the place of `turn`; ``with`` raises StopIteration after so long, or some of it."""
        return _Within(self.turn, min(seconds, _SLICE))

    def is_holding(self) -> bool:
        """Whether this thread holds `lock`."""
        return bool(self.lock._is_owned())  # type: ignore[attr-defined]

    def is_changing(self) -> bool:
        """Whether this thread is inside a write."""
        return bool(self.changing._is_owned() or self.turn._is_owned())  # type: ignore[attr-defined]

    def check(self) -> None:
        """Raise unless this thread may call the collection now: ClosedError or LockedError."""
        # without a call of its own, as every search passes here
        inside = self.changing._is_owned() or self.turn._is_owned()  # type: ignore[attr-defined]
        if inside or self.closed or self._pid != os.getpid():
            self.check_open()
            raise _inside("a write")

    def check_open(self) -> None:
        """Raise ClosedError if the collection is closed, or belongs to the process that this one was forked from."""
        if self.closed:
            raise ClosedError("this collection is closed; open it again")
        if self.is_fork:
            raise ClosedError(
                f"this collection was opened in process {self._pid} and cannot be used in its fork {os.getpid()}; "
                "open the folder here again (one in memory: fork when no other thread uses it)"
            )

    def check_outside(self) -> None:
        """Raise LockedError where this thread holds the lock: it must not begin a write, nor close."""
        if self.lock._is_owned() or self.turn._is_owned():  # type: ignore[attr-defined]
            raise _inside("a write" if self.is_changing() else "a read that holds writers off")

    def check_not_waiting(self) -> None:
        """Raise LockedError where a write of this thread waits for others: it must not begin one beneath it."""
        if self.waiting.lock._is_owned():  # type: ignore[attr-defined]
            raise _inside("a write")


def _inside(what: str) -> LockedError:
    return LockedError(
        f"this thread is inside {what} of this collection, and a signal handler, a finalizer or a filter function has "
        "called in; let it set a flag, and look at the flag between two calls"
    )


class _Closes(Protocol):
    def close(self) -> None: ...


_open: "weakref.WeakSet[_Closes]" = weakref.WeakSet()


def close_at_exit(engine: _Closes) -> None:
    """Close it when the process ends, if nobody has: the next opening then finds a snapshot of the graph."""
    _open.add(engine)


@atexit.register
def _close_all() -> None:
    for engine in list(_open):
        with suppress(Exception):  # the others must be closed, too
            engine.close()
