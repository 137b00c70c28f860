"""Group commit: concurrent adds of several threads become one commit and share its syncs.

A thread puts its documents on a list. If no thread is committing, it commits everything on the list (the leader).
Otherwise it waits to be woken, and finds its documents committed, or becomes the leader. Mutual exclusion is ensured by
`Lifecycle.turn` alone; this module only avoids queueing for it one by one, so a wake-up lost to an interrupt does no
harm.

An event loop has few threads: its adds are prepared in them, then wait on the list without a thread (`async_calls.py`).
"""

import io
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import LockedError
from ..index import Quantizer
from ..storage import Rows
from ..storage.record_table import KeyRecord
from .lifecycle import Lifecycle

_MOST: Final = 1000  # documents in a shared commit, at most; a larger add is committed alone
_PATIENCE: Final = 0.25  # seconds that a thread waits to be woken before it queues for the lock
_MOMENT: Final = 0.001  # seconds that the leader waits for as many threads as shared the last commit
_STEP: Final = 0.0001
_OUTCOME: Final = 60.0  # seconds to wait for the outcome of another thread's commit, at most
_NOBODY: Final = 0


@dataclass(eq=False, repr=False)
class Adding:
    """The documents of one add, with distinct ids and codes from `Encoder.encode`.

    ``committed`` is set inside the write; the add returns after that write has published and linked them.
    """

    vectors: NDArray[np.float32]
    rows: Rows
    quantizer: Quantizer | None
    codes: NDArray[np.uint64]
    made_for: tuple[str | None, int] = (None, 0)  # the collection's model and generation at validation
    records: list[KeyRecord] = field(default_factory=list)  # of documents that a record manager expects
    committed: bool = False
    is_over: bool = False  # no other thread may commit it any more: its own thread does, or its caller gave up
    is_awaited: Callable[[], bool] = lambda: True  # without a thread: whether its event loop still runs
    replaced: int = 0
    thread: int = _NOBODY  # the thread that waits for it, if any
    gate: Any = field(default_factory=threading.Lock)
    claim: Any = field(default_factory=threading.Lock)  # held by the thread that commits it
    together: list["Adding"] = field(default_factory=list)  # adds of other threads in the same commit
    call: io.BytesIO = field(default_factory=io.BytesIO)  # closed when its thread's call ends, also by an exception

    def __post_init__(self) -> None:
        self.gate.acquire()

    def goes_with(self, other: "Adding") -> bool:
        """Whether both may share a commit in a collection with documents: a check that refuses one refuses both."""
        return self.vectors.shape[1] == other.vectors.shape[1] and self.made_for == other.made_for

    @property
    def is_done(self) -> bool:
        """Whether it is committed, published and linked."""
        return self.committed and not self.claim.locked()

    def is_taken_along(self) -> bool:
        """Claim it for a commit by another thread; returns whether that succeeded."""
        is_wanted = not (self.committed or self.call.closed) and (self.thread != _NOBODY or self.is_awaited())
        if not is_wanted or not self.claim.acquire(blocking=False):
            return False
        if over := self.is_over or self.call.closed:  # read after claiming, since `Group.add` sets it before it claims
            self.claim.release()
        return not over

    def wake(self) -> None:
        """Wake the thread, if it still waits."""
        with suppress(RuntimeError):
            self.gate.release()


class Group:
    """The adds of one collection that are waiting to be committed."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._life = lifecycle
        self.waiting: deque[Adding] = deque()
        self._leader = _NOBODY  # the thread that commits, or was woken to commit
        self._last = 1  # number of adds in the last commit

    def add(self, mine: Adding, write: Callable[[], object], timeout: float) -> None:
        """Get ``mine`` committed, by ``write``, which must commit it with `companions`, or by another thread.

        ``timeout`` applies to ``write``; another thread may have a longer one.
        """
        self._life.check_not_waiting()
        mine.thread = threading.get_ident()
        with mine.call:  # its end is C code: two interrupts at once leave nothing that others would commit
            self._add(mine, write, timeout)

    def _add(self, mine: Adding, write: Callable[[], object], timeout: float) -> None:
        leads = False
        try:
            if mine.committed:  # it was committed while it waited without a thread
                mine.claim.acquire(timeout=_OUTCOME)
                return
            if self._is_committed_by_another(mine, min(timeout, _PATIENCE)):
                return
            self._leader, leads = mine.thread, True
            end = time.monotonic() + _MOMENT
            while len(self.waiting) < self._last and time.monotonic() < end:
                time.sleep(_STEP)
            write()
        except LockedError:
            # it gives up, but another thread may be committing it at this moment: then the outcome of that counts
            mine.is_over = True
            mine.claim.acquire(timeout=_OUTCOME)  # times out if an interrupt kept that thread from releasing it
            if not mine.committed:
                raise
        finally:
            with suppress(ValueError):  # committed adds are removed already, unless an interrupt prevented it
                self.waiting.remove(mine)
            if leads:
                self._pass_on(mine)

    def _is_committed_by_another(self, mine: Adding, patience: float) -> bool:
        """Put it on the list and wait to be woken, if another thread commits."""
        with self._life.waiting.lock:
            if mine not in self.waiting:
                self.waiting.append(mine)
            # a signal handler in the leader's own thread, before its write, would wait for itself
            led = self._leader not in (_NOBODY, mine.thread)
            return led and bool(mine.gate.acquire(timeout=patience)) and mine.committed

    def _pass_on(self, mine: Adding) -> None:
        """Wake the threads whose adds were committed with ``mine``, and one waiting thread as the next leader."""
        for each in mine.together:
            if each.committed:
                each.wake()
            each.claim.release()
        self._leader = _NOBODY
        for first in [each for each in list(self.waiting) if each.thread != _NOBODY][:1]:
            self._leader = first.thread
            first.wake()

    @contextmanager
    def listed(self, mine: Adding) -> Iterator[None]:
        """A context in which ``mine`` waits without a thread and any leader may commit it; afterwards none may."""
        self.waiting.append(mine)
        try:
            yield
        finally:
            mine.is_over = True  # a leader may be about to commit it, which would overwrite later writes
            with suppress(ValueError):
                self.waiting.remove(mine)

    def has_room(self, n: int) -> bool:
        """Whether ``n`` more documents may wait: at most as many as a commit takes, to bound the memory of vectors."""
        return n + sum(len(each.rows.ids) for each in list(self.waiting)) <= _MOST

    def companions(self, mine: Adding, *, is_first: bool) -> list[Adding]:
        """The adds that share one commit, in order of arrival; none if ``mine`` gave up or is committed elsewhere.

        The first add of a collection is committed alone, since it determines dimension and encoding.
        """
        if mine.is_over:
            return []
        mine.is_over = True
        those, n = [], len(mine.rows.ids)
        for each in list(self.waiting):
            if each.call.closed:  # two interrupts left it on the list
                with suppress(ValueError):
                    self.waiting.remove(each)
            elif each is mine:
                those.append(mine)
            elif not is_first and n + len(each.rows.ids) <= _MOST and mine.goes_with(each) and each.is_taken_along():
                mine.together.append(each)
                those.append(each)
                n += len(each.rows.ids)
        self._last = len(those)
        return those if mine in those else [mine, *those]

    def are_committed(self, those: list[Adding]) -> None:
        """Mark them as committed: their documents are durable."""
        for each in those:
            each.committed = True
            with suppress(ValueError):  # its thread was interrupted while it waited
                self.waiting.remove(each)


def joined(those: list[Adding]) -> tuple[NDArray[np.float32], Rows, NDArray[np.uint64]]:
    """Vectors, rows and codes of several adds, in order; of equal ids the last. No codes if their encodings differ."""
    if len(those) == 1:
        return those[0].vectors, those[0].rows, those[0].codes
    columns = zip(*(each.rows.columns() for each in those), strict=True)
    rows = Rows(*([value for part in column for value in part] for column in columns))
    vectors = np.concatenate([each.vectors for each in those])
    if len({id(each.quantizer) for each in those}) > 1:  # it was chosen or changed between them
        return distinct(vectors, rows, np.zeros((0, 1), np.uint64))
    return distinct(vectors, rows, np.concatenate([each.codes for each in those]))


def distinct(
    vectors: NDArray[np.float32], rows: Rows, codes: NDArray[np.uint64]
) -> tuple[NDArray[np.float32], Rows, NDArray[np.uint64]]:
    """The rows without those that a later one with the same id replaces; codes may be empty if computed later."""
    last = {id_: i for i, id_ in enumerate(rows.ids)}
    if len(last) == len(rows.ids):
        return vectors, rows, codes
    keep = sorted(last.values())
    return np.ascontiguousarray(vectors[keep]), rows.subset(keep), codes[keep] if len(codes) else codes
