"""The published state of a collection: how a commit becomes visible, and how a read gets an answer of one commit.

A search takes the published state without a lock and reads documents last. If one of them has changed meanwhile it
starts again on the newer state; the fourth try holds writers off. Knows the store and the states, no settings.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

from ..errors import BqstoreError, CorruptionError
from ..storage import Store
from ..storage.store import SupersededError
from .graph_builder import GraphBuilder
from .lifecycle import Lifecycle
from .state import ChangedError, State, advance

T = TypeVar("T")
_TRIES = 3
_LOOK = 0.5  # seconds between two looks whether the folder is still where it was


class Publisher:
    """The state of the last commit that this process has seen, and the way to the next one.

    Parameters
    ----------
    builder : GraphBuilder  gives a state the graph as far as it is linked
    followed : callable     called in a reader after it has followed a commit of another process
    """

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
        self._next_look = time.monotonic()  # at the place of the folder
        self._state = state
        self._behind = False  # something may be committed that is not published: an interrupt came between
        self.at_one_commit(lambda state: state)

    @property
    def state(self) -> State:
        """The published state, without a look at what others have committed."""
        return self._state

    def current(self) -> State:
        """The state a search takes; a reader looks first whether another process has committed.

        FolderReplacedError if the folder has been removed, replaced or moved for half a second.
        """
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + _LOOK
            self.store.check_place()
        if self.store.read_only:
            with self._life.lock:
                version = self.store.catalogue.data_version()
            if version != self._version:
                self.at_one_commit(lambda state: state)
                self._version = version
                self._followed()
        elif self._behind:
            owned = False
            try:  # not while a write is going on; else one was interrupted
                owned = self._life.lock.acquire(blocking=False)
                if owned:
                    self.follow()
                    self._behind = False
            finally:
                if owned:
                    self._life.lock.release()
        return self._state

    def follow(self) -> State:
        """Publish the state of the last commit, of this process or another; under the lock."""
        with self._life.changing:
            try:
                with self._publishing:
                    self._state = self._builder.attached(advance(self.store, self._state))
            except BaseException:  # columns share their dictionaries and may be half grown: they are loaded anew
                self._behind = True
                with self._publishing:
                    self._state = replace(self._state, columns={})
                raise
        return self._state

    def republish(self) -> State:
        """Publish what has been linked of the present state; under the lock."""
        return self.amend(self._builder.attached)

    def amend(self, change: Callable[[State], State]) -> State:
        """Publish the present state with more of what is derived: links, ids or columns."""
        with self._publishing:
            while True:  # a signal handler may have written in between
                state = self._state
                new = change(state)
                if self._state is state:
                    self._state = new
                    return new

    def at_one_commit(self, answer: Callable[[State], T]) -> T:
        """The answer from the last commit's state, writers held off and the store standing there."""
        with self._life.lock:
            while True:
                with suppress(SupersededError), self.store.consistent():
                    return answer(self.follow())

    def write(self, action: Callable[[], T], afterwards: Callable[[], None]) -> T:
        """Do a write under the lock, then publish what it committed, also when an exception came after that.

        ``afterwards`` is called when that is done. Not a context manager: a generator that is interrupted on entering
        keeps the lock as long as its traceback lives.
        """
        self._life.check_outside()
        with self._life.lock, self._life.changing:
            self._life.check_open()  # another thread may have closed it while this one waited
            if self._behind:
                self.follow()
            self._behind = True
            try:
                result = action()
            except BaseException:
                with suppress(BqstoreError):  # the first error is the one to tell
                    self.follow()
                    self._behind = False
                raise
            self.follow()
            self._behind = False  # not in `follow`, which a write may call before it commits
            afterwards()
            return result

    def whole(self, answer: Callable[[State], T]) -> T:
        """The answer from a state whose documents have not changed while it was made."""
        for _ in range(_TRIES):
            try:
                return answer(self.current())
            except ChangedError:
                continue
        try:
            return self.at_one_commit(answer)  # nobody commits under us now
        except ChangedError as error:
            raise CorruptionError(
                f"{self.store.catalogue.name} has lost a row that its vectors have; restore the collection from a copy"
            ) from error
