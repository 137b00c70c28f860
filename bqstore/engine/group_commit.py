"""Adds of several threads at a time are one commit, so that they share its syncs (group commit).

A thread puts its documents on a list. If none is committing it does: everything on the list. Else it waits to be woken,
and finds its documents committed, or commits in its turn. `Lifecycle.turn` alone keeps threads apart; what is here only
saves them from queueing for it one by one, so that nothing depends on a wake-up that an interrupt has swallowed.

An event loop has few threads: its adds are prepared in them, and then wait on the list without one (`async_calls.py`).
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

_MOST: Final = 1000  # documents of a commit for several threads; larger adds have one of their own
_PATIENCE: Final = 0.25  # seconds to be woken in; then a thread queues
_MOMENT: Final = 0.001  # seconds that who commits waits for as many threads as came last time
_STEP: Final = 0.0001
_OUTCOME: Final = 60.0  # seconds to wait for how another thread's commit ends, at most
_NOBODY: Final = 0


@dataclass(eq=False, repr=False)
class Adding:
    """Documents that a thread wants to add: distinct ids, and codes as `Encoder.encode` has made them.

    ``committed`` is set inside the write; the thread goes on when that write has published and linked them.
    """

    vectors: NDArray[np.float32]
    rows: Rows
    quantizer: Quantizer | None
    codes: NDArray[np.uint64]
    made_for: tuple[str | None, int] = (None, 0)  # the collection's model and generation when they were checked
    records: list[KeyRecord] = field(default_factory=list)  # of documents that a record manager expects
    committed: bool = False
    is_over: bool = False  # no other thread may commit it any more: its own begins to, or its caller waits no longer
    is_awaited: Callable[[], bool] = lambda: True  # asked where no thread waits for it: whether its event loop runs
    replaced: int = 0
    thread: int = _NOBODY  # which waits for it, if one does
    gate: Any = field(default_factory=threading.Lock)
    claim: Any = field(default_factory=threading.Lock)  # held by the thread that commits it for this one, or by this
    together: list["Adding"] = field(default_factory=list)  # those of others that come along
    call: io.BytesIO = field(default_factory=io.BytesIO)  # closed at the end of its thread's call, however it ends

    def __post_init__(self) -> None:
        self.gate.acquire()

    def goes_with(self, other: "Adding") -> bool:
        """Whether both may be one commit of a collection that has documents: what refuses one refuses both."""
        return self.vectors.shape[1] == other.vectors.shape[1] and self.made_for == other.made_for

    @property
    def is_done(self) -> bool:
        """Whether it is committed, published and linked."""
        return self.committed and not self.claim.locked()

    def is_taken_along(self) -> bool:
        """Claim it for a commit by another thread; whether that thread has it."""
        is_wanted = not (self.committed or self.call.closed) and (self.thread != _NOBODY or self.is_awaited())
        if not is_wanted or not self.claim.acquire(blocking=False):
            return False
        if over := self.is_over or self.call.closed:  # looked at behind the claim, as `Group.add` sets it before that
            self.claim.release()
        return not over

    def wake(self) -> None:
        """Let the thread go on; it may have done so."""
        with suppress(RuntimeError):
            self.gate.release()


class Group:
    """The documents that threads of one collection are adding now."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._life = lifecycle
        self.waiting: deque[Adding] = deque()
        self._leader = _NOBODY  # the thread that commits, or has been woken to
        self._last = 1  # how many came together last time

    def add(self, mine: Adding, write: Callable[[], object], timeout: float) -> None:
        """Have ``mine`` committed, by ``write``, which must commit it with `companions`, or by another thread's.

        ``timeout`` is that of ``write``: the other thread may wait for longer.
        """
        self._life.check_not_waiting()
        mine.thread = threading.get_ident()
        with mine.call:  # its end is C code: two interrupts at once leave nothing that others would commit
            self._add(mine, write, timeout)

    def _add(self, mine: Adding, write: Callable[[], object], timeout: float) -> None:
        leads = False
        try:
            if mine.committed:  # while it waited without a thread
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
            # it waits no longer, but another thread may have it in a commit just now: then this one's end counts
            mine.is_over = True
            mine.claim.acquire(timeout=_OUTCOME)  # which that thread keeps where an interrupt came behind its commit
            if not mine.committed:
                raise
        finally:
            with suppress(ValueError):  # also of one that an interrupt has left there when it was committed
                self.waiting.remove(mine)
            if leads:
                self._pass_on(mine)

    def _is_committed_by_another(self, mine: Adding, patience: float) -> bool:
        """Put it on the list and wait to be woken, if another thread commits."""
        with self._life.waiting.lock:
            if mine not in self.waiting:
                self.waiting.append(mine)
            # a signal handler that came before the write of its own thread would wait for itself
            led = self._leader not in (_NOBODY, mine.thread)
            return led and bool(mine.gate.acquire(timeout=patience)) and mine.committed

    def _pass_on(self, mine: Adding) -> None:
        """Wake those whose documents came along with ``mine``, and one of the others, to commit next."""
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
        """Within it ``mine`` waits without a thread: whoever commits takes it along. Afterwards nobody does."""
        self.waiting.append(mine)
        try:
            yield
        finally:
            mine.is_over = True  # a thread may still be on its way with it: what came later must not be overwritten
            with suppress(ValueError):
                self.waiting.remove(mine)

    def has_room(self, n: int) -> bool:
        """Whether ``n`` more may wait: no more than a commit takes, as each keeps its vectors meanwhile."""
        return n + sum(len(each.rows.ids) for each in list(self.waiting)) <= _MOST

    def companions(self, mine: Adding, *, is_first: bool) -> list[Adding]:
        """Those whose documents go into one commit, in the order in which they came; none if ``mine`` is over.

        The first of a collection settle its dimension and encoding, alone.
        """
        if mine.is_over:
            return []
        mine.is_over = True
        those, n = [], len(mine.rows.ids)
        for each in list(self.waiting):
            if each.call.closed:  # two interrupts have left it here
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
        """Their documents are durable."""
        for each in those:
            each.committed = True
            with suppress(ValueError):  # its thread was interrupted while it waited
                self.waiting.remove(each)


def joined(those: list[Adding]) -> tuple[NDArray[np.float32], Rows, NDArray[np.uint64]]:
    """Vectors, rows and codes of several, in their order; of equal ids the last. No codes where they differ in kind."""
    if len(those) == 1:
        return those[0].vectors, those[0].rows, those[0].codes
    columns = zip(*(each.rows.columns() for each in those), strict=True)
    rows = Rows(*([value for part in column for value in part] for column in columns))
    vectors = np.concatenate([each.vectors for each in those])
    if len({id(each.quantizer) for each in those}) > 1:  # it was changed, or settled, between them
        return distinct(vectors, rows, np.zeros((0, 1), np.uint64))
    return distinct(vectors, rows, np.concatenate([each.codes for each in those]))


def distinct(
    vectors: NDArray[np.float32], rows: Rows, codes: NDArray[np.uint64]
) -> tuple[NDArray[np.float32], Rows, NDArray[np.uint64]]:
    """Of rows with equal ids the last; codes may be empty, where they are to come."""
    last = {id_: i for i, id_ in enumerate(rows.ids)}
    if len(last) == len(rows.ids):
        return vectors, rows, codes
    keep = sorted(last.values())
    return np.ascontiguousarray(vectors[keep]), rows.subset(keep), codes[keep] if len(codes) else codes
