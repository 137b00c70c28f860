"""The published state of a collection: how a commit becomes visible, and how a read gets an answer of one commit.

A search takes the published state without a lock and reads documents last. If one of them has changed meanwhile it
starts again on the newer state; the fourth try holds writers off. Knows the store and the states, no settings.
"""

import io
import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

import numpy as np

from .. import clock
from ..clock import EXPIRES_AT_KEY
from ..errors import RESTORE, BqstoreError, CorruptionError, FolderReplacedError, StorageError
from ..storage import Store
from ..storage.sequence import CommitNumber
from ..storage.store import SupersededError
from .graph_builder import GraphBuilder
from .lifecycle import Lifecycle
from .state import NEVER, ChangedError, State, advance, with_columns

T = TypeVar("T")
_TRIES = 3
_LOOK = 0.5  # seconds between two checks of the folder's place, and of SQLite without a hint from SEQ
_MOMENT = 0.005  # seconds between two looks at a thread that holds the lock, which follows commits itself
_SHORT = 0.02  # seconds, at most, to get the folder's lock if nobody has it
_PATIENCE = 2.0  # seconds to wait until that thread follows; then this one waits for the lock
_NOT = (math.inf, -math.inf)


class Publisher:
    """The state of the last commit that this process has seen, and the way to the next one.

    Parameters
    ----------
    builder : GraphBuilder  gives a state the graph as far as it is linked
    followed : callable     called after a commit of another process has been followed

    Attributes
    ----------
    load_times : callable   loads the column of times; returns the present state as `seen` shows it
    """

    load_times: Callable[[], State]

    def __init__(
        self,
        store: Store,
        lifecycle: Lifecycle,
        state: State,
        builder: GraphBuilder,
        followed: Callable[[], None],
    ) -> None:
        self.store, self._life = store, lifecycle
        self._builder, self._followed = builder, followed
        # held for moments only, as searches that load columns wait for it; always taken by `with`
        self._publishing = threading.RLock()
        self._version = store.catalogue.data_version()
        self._number = CommitNumber(None, write=False) if store.is_alone else store.number
        # the commit number when it was last followed; None where there is none to go by
        self._seen: int | None = self._number.now[0] if store.is_alone else None
        self.busy: set[int] = set()  # threads that hold the lock for long, and follow commits of others themselves
        self._gate = threading.RLock()  # so that no thread becomes busy between a look at `busy` and taking the lock
        self._waits = _NOT  # since when, and until when, the writing thread waits for the folder's lock
        self._next_look = time.monotonic()
        self._state = state
        self._seen_of: tuple[State, State, int, int] | None = None  # a state, the same as seen, from when to when
        self._behind = False  # a commit may not be published: an interrupt came between
        self.at_one_commit(lambda state: state)

    @property
    def state(self) -> State:
        """The published state, without a look at what others have committed."""
        return self._state

    def current(self) -> State:
        """The state a search takes, which has all that others had committed by now.

        FolderReplacedError if the folder has been removed, replaced or moved for half a second.
        """
        # in one line, as every search passes here: one memory read tells that nobody has committed
        if self._number.now[0] != self._seen or self._behind or time.monotonic() >= self._next_look:
            self.look()
        state = self._state
        if state.expires:
            return self.seen(state) if EXPIRES_AT_KEY in state.columns else self.load_times()
        return state

    def seen(self, state: State) -> State:
        """The state without expired documents, by one reading of the clock; the column of times must be loaded.

        The result is kept until the next document expires, or the clock is set back before the last expiry.
        """
        if not state.expires:
            return state
        now, known = clock.now(), self._seen_of
        if known is not None and known[0] is state and known[2] <= now < known[3]:
            return known[1]
        times, live = state.times, state.live
        expired = live & (times <= now)
        count = int(np.count_nonzero(expired))
        shown = state
        if count:
            head = replace(state.head, n_live=state.head.n_live - count)
            shown = replace(state, head=head, live=live & ~expired, expired=count)
        since = int(times[expired].max()) if count else -NEVER
        self._seen_of = state, shown, since, int(times[live & ~expired].min(initial=NEVER))
        return shown

    def seen_at_commit(self, state: State) -> State:
        """As `seen` of a published state, its column loaded; under the lock, the store standing at its commit."""
        if state.expires and EXPIRES_AT_KEY not in state.columns:
            state = self.amend(lambda state: with_columns(self.store, state, (EXPIRES_AT_KEY,)))
        return self.seen(state)

    @property
    def count(self) -> int:
        """How many documents there are; expired ones count if the column of times is not loaded."""
        state = self._state
        return (self.seen(state) if EXPIRES_AT_KEY in state.columns else state).head.n_live

    def look(self) -> None:
        """Follow what others have committed, if anything."""
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + _LOOK
            try:
                self.store.look()
            except CorruptionError:
                self._next_look = 0.0  # the next call must check again: nothing may read a file that was cut
                raise
        if self._life.is_changing() or (self.store.is_alone and not self._behind):
            return
        self.busy.discard(threading.get_ident())  # left by a write that was interrupted twice
        number, told = self._number.now[0], self._number.now[0] != self._seen
        end, moved = time.monotonic() + _PATIENCE, None
        # inside a read that holds writers off, the lock is this thread's own
        while moved is None and not self._life.is_holding() and time.monotonic() < end:
            with self._gate:
                if not self.busy:
                    moved = self._caught_up()
            if moved is None:
                if not told or self._state.head.seq >= number:
                    return
                time.sleep(_MOMENT)
        if self._caught_up() if moved is None else moved:
            self._followed()

    def _caught_up(self) -> bool:
        """Publish what has been committed and is not published; whether others have committed."""
        is_nested = self._life.is_holding()
        with self._life.lock:
            if not is_nested:
                self.store.catalogue.end_interrupted()
            if self._behind:
                self.at_one_commit(lambda state: state)
                self._behind = False
            return self.keep_up()

    def begin_long(self) -> None:
        """Say that this thread will hold the lock for long; call ``busy.discard`` when it has given the lock back."""
        with self._gate:
            self.busy.add(threading.get_ident())

    def keep_up(self) -> bool:
        """Publish what other processes have committed, if anything; whether there was. Under the lock."""
        if self.store.is_alone:
            return False
        seen, version = self._number.now[0], self.store.catalogue.data_version()
        moved = version != self._version
        if moved:
            self.at_one_commit(lambda state: state)
            self._version = version
        self._seen = seen if self._number.is_mapped else None
        return moved

    def follow(self) -> State:
        """Publish the state of the last commit, of this process or another; under the lock."""
        with self._life.changing:
            try:
                with self._publishing:
                    self._state = self._builder.attached(advance(self.store, self._state))
            except BaseException:  # columns share dictionaries, which may be half grown: load them anew
                self._behind = True
                with self._publishing:
                    self._state = replace(self._state, columns={})
                raise
        return self._state

    def republish(self) -> State:
        """Publish what has been linked of the present state; under the lock."""
        return self.amend(self._builder.attached)

    def amend(self, change: Callable[[State], State]) -> State:
        """Publish the present state with more derived data: links, ids or columns."""
        with self._publishing:
            while True:  # a signal handler may have published in between
                state = self._state
                new = change(state)
                if self._state is state:
                    self._state = new
                    return new

    def at_one_commit(self, answer: Callable[[State], T]) -> T:
        """The answer from the last commit's state, while writers are held off and the store stands at that commit."""
        with self._life.lock:
            while True:
                with suppress(SupersededError), self.store.consistent():
                    return answer(self.follow())

    def write(
        self,
        action: Callable[[], T],
        afterwards: Callable[[bool], None],
        timeout: float | None = None,
        needless: Callable[[], bool] = lambda: False,
    ) -> T | None:
        """Do a write under the locks, then publish what it committed, also when an exception came after that.

        ``afterwards`` is called when all is published, and told whether others had committed much that is not linked.
        ``timeout`` is that of `Store.wait_for_lock`. If ``needless`` is true when it is this thread's turn, nothing is
        done. This is no context manager, because a generator that is interrupted on entering keeps the lock as long as
        its traceback lives.
        """
        self._life.check_outside()
        self._life.check_not_waiting()

        def at_its_turn(end: float) -> T | None:
            if needless():
                return None
            self._life.check_open()  # another thread may have closed it while this one waited
            with self.store.lock_file() as file:
                try:
                    self._waits = time.monotonic(), end
                    try:
                        self.store.wait_for_lock(file, max(0.0, end - time.monotonic()))
                    finally:
                        self._waits = _NOT
                    self.begin_long()
                    with self._life.lock, self._life.changing:
                        return self._written(action, file, afterwards)
                finally:
                    self.busy.discard(threading.get_ident())
                    self.store.give_lock_back(file)  # else an error of closing the file would replace that of the write

        return self.in_turn(at_its_turn, self.store.lock_timeout if timeout is None else timeout)

    def in_turn(self, action: Callable[[float], T], timeout: float) -> T:
        """Call ``action`` when it is this thread's turn, with the time at which ``timeout`` ends.

        Raises LockedError at that time if the thread before it is still waiting for other processes. While that thread
        writes, this one waits as long as it takes.
        """
        self._life.waiting.since = time.monotonic()
        end = self._life.waiting.since + timeout
        with self._life.waiting.lock:
            while True:
                self._wait_no_longer_than(end)
                has_come = False
                try:
                    with self._life.turn_within(max(_SHORT, end - time.monotonic())):
                        has_come = True
                        return action(end)
                except StopIteration:
                    if has_come:
                        raise

    def _wait_no_longer_than(self, end: float) -> None:
        """Wait while the thread whose turn it is waits for other processes and may wait longer than this one.

        Raises LockedError at ``end``.
        """
        while (waits := self._waits)[1] > end:
            now = time.monotonic()
            if now >= end and now - waits[0] > _SHORT:
                self.store.refuse(now - self._life.waiting.since)
            time.sleep(_MOMENT)

    def _written(self, action: Callable[[], T], file: io.FileIO | None, afterwards: Callable[[bool], None]) -> T:
        """The part of a write under the locks."""
        self.store.catalogue.end_interrupted()
        if self._behind:
            self.follow()
        lagged = self.keep_up() and self._builder.lags(self._state)
        self._behind = True
        try:
            result = action()
        except BaseException:
            with suppress(BqstoreError):  # the first error is the one to raise
                self.follow()
                self._behind = False
            raise
        if self._number.is_mapped:
            self._seen = self._number.now[0]  # its own commit, as nobody else has the lock
        self.store.give_lock_back(file)  # others may write while this one links
        try:
            self.follow()
        except (StorageError, MemoryError) as error:
            if isinstance(error, FolderReplacedError):
                raise
            return result  # it is committed: the next call follows, or says why not
        self._behind = False  # not set by `follow`, which a write may call before it commits
        afterwards(lagged)
        return result

    def whole(self, answer: Callable[[State], T]) -> T:
        """The answer from a state whose documents have not changed while it was made."""
        for _ in range(_TRIES):
            try:
                return answer(self.current())
            except ChangedError:
                continue
        try:
            # holds writers off
            return self.at_one_commit(lambda state: answer(self.seen_at_commit(state)))
        except ChangedError as error:
            raise CorruptionError(
                f"{self.store.catalogue.name} has lost a row that its vectors have; {RESTORE}"
            ) from error
