"""The graph kept up with the published state: after a write, in a reader, in the background, at flush and close."""

import threading
import time
import warnings
from contextlib import suppress
from dataclasses import replace

from ..errors import BqstoreError, FolderReplacedError, StorageError
from ..index import wait_for_kernels
from ..progress import Progress
from ..storage import Store
from .graph_builder import SMALLEST_GRAPH, GraphBuilder
from .graph_persistence import GraphPersistence
from .lifecycle import Lifecycle
from .publisher import Publisher
from .state import State, with_ids

_MOMENT = 0.005  # seconds, long enough for a thread that waits for the lock to get it


class GraphUpkeep:
    """When to link and to save: the builder links, the persistence saves."""

    def __init__(self, store: Store, builder: GraphBuilder, lifecycle: Lifecycle) -> None:
        self._store, self._life = store, lifecycle
        self.builder, self.persistence = builder, GraphPersistence(store, builder)
        self.publisher: Publisher  # set by the engine: each of the two needs the other

    def restore(self) -> None:
        """At opening: take the newest snapshot; what it lacks is linked in the background."""
        self.publisher.at_one_commit(self._take_snapshot)

    def after_write(self, lagged: bool) -> None:
        """Link what a write has added, and keep a snapshot when one is due; under the lock.

        Parameters
        ----------
        lagged : bool   others had added so much that it is taken from their snapshot, or linked in the background
        """
        try:
            if lagged:
                self.followed()
            if self.builder.defer(self.publisher.state, self._link_some):  # until then it is scanned
                return
            self.builder.link(self.publisher.state, self._linked)
            if self.persistence.is_due(self.publisher.state):
                self.save()
        except (StorageError, MemoryError) as error:  # what was written is committed, and found by scans
            if isinstance(error, FolderReplacedError):
                raise
            reason = str(error) or "out of memory"
            warnings.warn(
                f"what was added is stored, but not in the graph yet: {reason}. Scans find it; make room, and the next "
                "add() or flush() links it",
                RuntimeWarning,
                stacklevel=2,
            )

    def link_later(self) -> None:
        """Link the generation that has just been committed in the background; under the lock."""
        if self._store.head.n_slots >= SMALLEST_GRAPH:
            self.builder.start(self._link_some, self._store.head.n_slots)

    def _linked(self) -> State:
        """Publish what has been linked, and what others have committed meanwhile, so that searches here see it now."""
        self.publisher.keep_up()
        return self.publisher.republish()

    def followed(self) -> None:
        """After a commit of others: take their newer snapshot when the tail has grown long, else link it here."""
        if self.builder.lags(self.publisher.state):  # most commits end here, without the lock
            self.publisher.at_one_commit(lambda state: self._take_snapshot(state) if self.builder.lags(state) else None)

    def _take_snapshot(self, state: State) -> None:
        """Take the newest snapshot; the store stands at the state's commit, as ids that the snapshot lacks are read."""
        restored = self.persistence.restore(state)
        self.publisher.amend(lambda _: restored)
        if self.builder.lags(restored):  # too long to be scanned in passing
            self.builder.start(self._link_some, restored.n)

    def _link_some(self) -> bool:
        """Link one batch in the background; whether some are left."""
        if self.publisher.busy:  # a write waits for the lock, and would not get it if this thread took it again at once
            time.sleep(_MOMENT)
        try:
            self.publisher.begin_long()
            with self._life.lock, self._life.changing:
                return self._link_batch()
        finally:
            self.publisher.busy.discard(threading.get_ident())

    def _link_batch(self) -> bool:
        """Follow what others have committed, and link the next of it."""
        if self._store.closed:
            return False
        self.publisher.keep_up()
        if self.persistence.is_newer_there(self.builder.linked(self.publisher.state)):
            self.publisher.at_one_commit(lambda state: self.publisher.amend(lambda _: self.persistence.restore(state)))
        state = self.publisher.state
        left = self.builder.link_batch(state) < state.n
        self.publisher.republish()
        if not left:
            self.builder.is_over()
        if not left and not self._store.read_only and self.persistence.is_due(state):
            self.save()  # not to do it all again after a kill
        return left

    def settle(self) -> None:
        """Wait for the background thread; not under the lock, so that others can write meanwhile.

        It waits for what was there at the call only: others might add without end.
        """
        n = self.publisher.state.n
        if n >= SMALLEST_GRAPH and wait_for_kernels() and self.builder.at_work:
            with Progress("linking", n) as progress:
                while self.builder.at_work:
                    state = self.publisher.state
                    linked = self.builder.linked(state)
                    if linked >= n < state.n:
                        break
                    progress(linked)
                    time.sleep(0.01)

    def link_rest(self) -> None:
        """Link what is left, and keep a snapshot."""
        self.builder.link(self.publisher.state, self._linked)
        self.save()

    def save(self, least: int = 1) -> None:
        """Save if at least so many linked slots, or any column, are missing from the last snapshot; under the lock."""
        state = self.publisher.state
        if not self.persistence.is_wanted(state, least):
            return
        if state.ids is None:

            def with_them(state: State) -> State:
                ids = with_ids(self._store, state).ids
                return self.publisher.amend(lambda state: replace(state, ids=ids))

            state = self.publisher.at_one_commit(with_them)
        self.persistence.save(state)

    def save_at_close(self) -> None:
        """Keep a snapshot unless the last one serves the next opening nearly as well; under the lock."""
        # what was acknowledged is durable already: whatever fails here must not keep the files from being closed
        with suppress(BqstoreError, MemoryError, RuntimeWarning):
            self._store.check_place()
            self.save(max(1, self.publisher.state.n >> 10))
