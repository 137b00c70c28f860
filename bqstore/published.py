"""The published state of a collection: who may change it, who follows, and how a reader gets an answer that is whole.

A search takes the state that is published, never the writer's lock, and reads documents last. If one has changed
meanwhile it starts again on the newer state; the fourth try holds writers off. What it must load first, ids or a
column, it reads on a snapshot of its own. A writer holds the lock from its first look at the state to the publishing of
the next. Knows the store and the states; knows no settings, no scores. Floor 3.
"""

import inspect
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from .columns import Column
from .config import HnswConfig
from .documents import record_of
from .errors import BqstoreError, CorruptionError, InvalidInputError, LockedError
from .filters import Call, Tree, keys_of
from .index import Quantizer
from .linking import WORTH, Linking, graph_of, long_tail
from .matching import Bits, count, evaluate, to_bitmap
from .progress import Progress
from .state import State, advance, bits_reader, carried, with_columns, with_ids
from .storage import Row, Store
from .storage.compaction import Compaction, Recode
from .storage.format import damaged, vectors_of
from .storage.store import SupersededError
from .validate import ID_KEY

T = TypeVar("T")
_TRIES = 3
_SEED = 0x6271_7377
_KEPT, _KEPT_BYTES = 256, 64 << 20  # filters whose matches a state remembers, and bytes of them
_COLUMNS = 256  # metadata fields whose columns are kept
_AT_ONCE = 1000  # documents read at a time for a function that filters
_PATIENCE, _MOMENT = 50, 0.001  # tries, and seconds between them, to load columns beside a busy writer


class ChangedError(Exception):
    """A document changed between the search and the reading of its row; never leaves this file's `whole`."""


def _entered_error() -> LockedError:
    return LockedError(
        "a write of this thread is under way, and a signal handler, a finalizer or the function that filters a delete "
        "has called in; let it set a flag, and look at the flag between two calls"
    )


class Published:
    """The state of the last commit that this process has seen, and the way to the next one.

    A signal handler, or a finalizer, may call in while its own thread is inside a write: the lock lets it through. It
    may look at what is published, and nothing else: following would end the transaction under the write.
    """

    def __init__(self, store: Store, state: State, linking: Linking) -> None:
        self.store = store
        self.linking = linking
        self.lock = threading.RLock()  # one writer at a time; in a reader, whoever follows another process
        # held for moments only: searches that load columns wait for it. Always by `with`, which no interrupt can part
        # from its end, as it can a call of `acquire` from what comes next
        self._publishing = threading.RLock()
        self._version = store.catalogue.data_version()
        self._state = state
        self._behind = False  # something may be committed that is not published
        self.at_one_commit(lambda state: state)

    def entered(self) -> bool:
        """Whether this thread holds the lock already: a handler has interrupted its write, or its following."""
        return bool(self.lock._is_owned())  # type: ignore[attr-defined]

    def current(self) -> State:
        """The state a search takes; a reader looks first whether another process has committed."""
        if self.entered():
            if self.store.folder is None:  # one connection, which stands in the middle of the write
                raise _entered_error()
        elif self.store.read_only:
            with self.lock:
                version = self.store.catalogue.data_version()
            if version != self._version:
                self.at_one_commit(lambda state: state)
                self._version = version
                self._renew_graph()
        elif self._behind:
            owned = False
            try:  # not while a write is going on; else one was interrupted
                owned = self.lock.acquire(blocking=False)
                if owned:
                    self.follow()
                    self._behind = False
            finally:
                if owned:
                    self.lock.release()
        return self._state

    def follow(self) -> State:
        """Publish the state of the last commit, of this process or another; under the lock."""
        try:
            with self._publishing:
                self._state = self.linking.attached(advance(self.store, self._state))
        except BaseException:  # columns share their dictionaries and may be half grown: they are loaded anew
            self._behind = True
            with self._publishing:
                self._state = replace(self._state, columns={})
            raise
        return self._state

    def at_one_commit(self, answer: Callable[[State], T]) -> T:
        """The answer from the last commit's state, writers held off and the store standing there."""
        if self.entered():
            if self.store.is_inside():
                return answer(self._state)
            raise _entered_error()
        with self.lock:
            while True:
                with suppress(SupersededError), self.store.consistent():
                    return answer(self.follow())

    def write(self, action: Callable[[], T]) -> T:
        """Do a write under the lock, then publish what it committed, also when an exception came after that.

        Not a context manager: a generator that is interrupted on entering keeps the lock as long as its traceback.
        """
        if self.entered():
            raise _entered_error()
        with self.lock:
            if self._behind:  # an interrupted write: its answer was interrupted too
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
            if not self.linking.at_work:  # else the tail is on its way already, and searched meanwhile
                self.linking.link(self._state, self.publish_links)
                if self.linking.due(self._state):
                    self.save()
            return result

    # ---- the graph

    def _renew_graph(self) -> None:
        """In a reader: take the writer's newer snapshot when the tail has grown long, else link it here."""
        if self._lags(self._state):  # most commits are done with here, without the lock
            self.at_one_commit(lambda state: self._take_snapshot(state) if self._lags(state) else None)

    def _lags(self, state: State) -> bool:
        """Whether so much is not linked that somebody should begin: it is searched, by scans."""
        linked = self.linking.linked(state)
        long = state.n >= WORTH if linked == 0 else state.n - linked > long_tail(state.n)
        return long and not self.linking.at_work

    def publish_links(self) -> State:
        """Publish what has been linked of the present state; under the lock."""
        with self._publishing:
            self._state = self.linking.attached(self._state)
        return self._state

    def restore(self) -> None:
        """Take the graph and the ids from the newest snapshot; what it lacks is linked in the background."""
        self.at_one_commit(self._take_snapshot)

    def _take_snapshot(self, state: State) -> None:
        """The store stands at the state's commit: the ids that the snapshot lacks are read, and must be the state's."""
        restored = self.linking.restore(state)
        with self._publishing:
            self._state = restored
        if self._lags(restored):  # too long to be scanned in passing
            self.linking.start(self._link_some)

    def _link_some(self) -> bool:
        """Link one batch; whether some are left."""
        with self.lock:
            state = self._state
            if self.store.closed:
                return False
            left = self.linking.link_batch(state) < state.n
            self.publish_links()
            if not left and not self.store.read_only and self.linking.due(state):
                self.save()  # not to do it all again after a kill
            return left

    def link_rest(self) -> None:
        """Link what is left, and keep a snapshot."""
        if self.entered():
            raise _entered_error()
        with self.lock:
            self.linking.link(self._state, self.publish_links)
            self.save()

    def save(self, least: int = 1) -> None:
        """Keep a snapshot if so many slots are linked, or a column is there, that the last lacks; under the lock."""
        wanted = self.linking.unsaved(self._state) >= least or self.linking.lacks(self._state)
        if self.store.folder is not None and wanted:
            self.linking.save(self._state_with_ids())

    def save_at_close(self) -> None:
        """Keep a snapshot unless the next opening does as well with the last one; under the lock."""
        with suppress(BqstoreError):  # what is acknowledged is durable; a damaged row must not keep files open
            self.save(max(1, self._state.n >> 10))

    def compact(self, hnsw: HnswConfig, threads: int, executor: Callable[[], Executor]) -> None:
        """Drop what is dead, into a new generation with a graph of its own; under the lock."""
        state = self.follow()
        if state.head.n_live == state.n:
            return
        live = np.flatnonzero(state.live)
        with Progress("copying", len(live)) as progress:
            prepared = self.store.begin_compaction(live, progress)
        assert state.data is not None, "something was deleted"
        words = np.ascontiguousarray(state.data.words[: state.n][state.live])
        self._finish(prepared, words, state.data.quantizer, hnsw, threads, executor)

    def recode(
        self,
        quantizer: Quantizer,
        settings: dict[str, Any],
        hnsw: HnswConfig,
        threads: int,
        executor: Callable[[], Executor],
    ) -> None:
        """Make all codes anew, into a new generation with a graph of its own; what is dead is dropped; under the lock.

        Raises StorageError where no originals are kept.
        """
        state = self.follow()
        live = np.flatnonzero(state.live)
        words = np.empty((len(live), quantizer.words), np.uint64)
        done = 0

        def encode(vectors: NDArray[np.float32]) -> NDArray[np.uint64]:
            nonlocal done
            codes = quantizer.encode_all(vectors, threads, executor)
            words[done : done + len(codes)] = codes
            done += len(codes)
            return codes

        with Progress("encoding", len(live)) as progress:
            prepared = self.store.begin_compaction(live, progress, Recode(settings, quantizer.parameters, encode))
        self._finish(prepared, words, quantizer, hnsw, threads, executor)

    def _finish(
        self,
        prepared: Compaction,
        words: NDArray[np.uint64],
        quantizer: Quantizer,
        hnsw: HnswConfig,
        threads: int,
        executor: Callable[[], Executor],
    ) -> None:
        """Link the codes of a generation to come, and commit it."""
        try:
            graph = graph_of(words, quantizer, hnsw, threads, executor)
        except BaseException:
            self.store.discard_compaction(prepared)
            raise
        head = self.store.commit_compaction(prepared)
        self.linking.adopt(graph, head.generation)

    def sample(self, count: int) -> NDArray[np.float32]:
        """The originals of living slots, some of them at random, float32 (at most count, dim); under the lock."""
        state = self.follow()
        live = np.flatnonzero(state.live)
        if len(live) > count:
            live = np.sort(np.random.default_rng(_SEED).choice(live, count, replace=False))
        found = list(self.vectors(state, live).values())
        return np.stack(found) if found else np.zeros((0, state.head.dim or 1), np.float32)

    def _state_with_ids(self) -> State:
        """The present state with its ids, under the lock."""
        if self._state.ids is None:
            with self.store.consistent():  # it stands where the state does: nobody else writes
                grown = with_ids(self.store, self._state)
            with self._publishing:
                self._state = replace(self._state, ids=grown.ids)
        return self._state

    def loaded(self, grow: Callable[[State], State], answer: Callable[[State], T]) -> T:
        """The answer from a state with columns that ``grow`` loads, the store standing at its commit.

        A writer goes on meanwhile. What was loaded is brought up to what it has published, and published with it.
        """
        if self.store.read_only:

            def load(state: State) -> T:
                grown = grow(state)
                found = answer(grown)
                new = grown.columns.keys() - state.columns.keys()
                self._state = replace(grown, columns=_some(grown.columns, new))
                return found

            return self.at_one_commit(load)
        last: State | None = None  # with the columns loaded here, and no other: those have an owner that grows them
        for _ in range(_PATIENCE):
            with self.store.snapshot() as seq:
                state = self._state
                current = state.head.seq == seq
                if current:
                    grown = grow(carried(self.store, state, last))
                    found = answer(grown)
                    own = {key: column for key, column in grown.columns.items() if key not in state.columns}
                    last = replace(grown, columns=own, ids=None if grown.ids is state.ids else grown.ids)
            if not current:  # a commit is being published
                time.sleep(_MOMENT)
            elif last is not None and (self._publish_loaded(last) or self.entered()):
                return found
        return found if last is not None else self.at_one_commit(lambda state: answer(grow(state)))

    def _publish_loaded(self, loaded: State) -> bool:
        """Add what a state has loaded to the published one, if that is of the same commit."""
        if self._publishing._is_owned():  # type: ignore[attr-defined]
            return False  # this very thread is publishing, further up
        with self._publishing:
            state = self._state
            if state.head.seq != loaded.head.seq:
                return False
            columns = _some({**loaded.columns, **state.columns}, loaded.columns.keys())
            self._state = replace(state, ids=loaded.ids if state.ids is None else state.ids, columns=columns)
            return True

    def with_ids(self) -> State:
        """A state that has its ids in memory."""
        state = self.current()
        if state.ids is not None:
            return state
        return self.loaded(lambda state: with_ids(self.store, state), lambda state: state)

    def accepted(self, state: State, tree: Tree | None) -> tuple[State, Bits, int]:
        """live AND filter, as a bitmap and a count; the state may be a newer one, with the columns it needs."""
        if tree is None:
            return state, state.live_bits, state.head.n_live
        known = None if isinstance(tree, Call) else state.matched.get(tree)
        if known is not None:
            return state, *known
        if isinstance(tree, Call):
            function = tree.function
            if self.entered():  # a write, which knows the last commit and holds off others
                return state, *self._called(state, function)
            return self.whole(lambda state: (state, *self._called(state, function)))
        keys, ids = keys_of(tree), state.ids is not None

        def grow(state: State) -> State:
            return with_columns(self.store, with_ids(self.store, state) if ids else state, keys)

        def answer(state: State) -> tuple[State, Bits]:
            return state, evaluate(tree, state.n, bits_reader(self.store, state))

        if ID_KEY in keys or not keys <= state.columns.keys():
            state, bits = self.loaded(grow, answer)
        else:
            state, bits = answer(state)
        if state.head.n_live < state.n:
            bits = bits & state.live_bits
        found = bits, count(bits)
        if len(state.matched) >= min(_KEPT, _KEPT_BYTES // (bits.nbytes + 1)):
            state.matched.clear()
        state.matched[tree] = found
        return state, *found

    def _called(self, state: State, function: Callable[[Any], object]) -> tuple[Bits, int]:
        """What a function says of every document. ChangedError if one is not as the state knows it."""
        mask, live = np.zeros(state.n, bool), np.flatnonzero(state.live)
        for at in range(0, len(live), _AT_ONCE):
            for ordinal, row in self.rows(state, live[at : at + _AT_ONCE]).items():
                answer = function(record_of(row))
                if inspect.isawaitable(answer):  # true, whatever it would come to
                    raise InvalidInputError("filter is an async function; expected one that returns a boolean at once")
                mask[ordinal] = bool(answer)
        return to_bitmap(mask), int(np.count_nonzero(mask))

    def index(self, keys: Iterable[str]) -> None:
        """Load the columns of metadata fields, so that the first filter on them need not."""
        wanted = frozenset(keys)
        if wanted - self.current().columns.keys():
            self.loaded(lambda state: with_columns(self.store, state, wanted), lambda state: None)

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

    def rows(self, state: State, ordinals: NDArray[Any]) -> dict[int, Row]:
        """The rows of ordinals; ChangedError if one is not as the state knows it."""
        rids = state.rids[ordinals].tolist()
        rows = {row.rid: row for row in self.store.rows("rid", rids)}
        out = {}
        for ordinal, rid in zip(ordinals.tolist(), rids, strict=True):
            row = rows.get(rid)
            if row is None or row.seq > state.head.seq:
                raise ChangedError
            out[ordinal] = row
        return out

    def vectors(self, state: State, ordinals: NDArray[Any]) -> dict[int, NDArray[np.float32]]:
        """The originals of ordinals, float32 (dim,) each, every record checked."""
        if not len(ordinals):
            return {}
        assert state.data is not None and state.vectors is not None
        state.vectors.check_size(state.n)
        records = state.data.records[ordinals]
        bad = damaged(records)
        if bad.any():
            raise CorruptionError(
                f"record {int(ordinals[bad.argmax()]):,} of {state.vectors.name} does not agree with its checksum; "
                "restore the collection from a copy"
            )
        return dict(zip(ordinals.tolist(), vectors_of(state.vectors.layout, records), strict=True))

    def vectors_of_rows(self, state: State, rows: list[Row]) -> dict[int, NDArray[np.float32]]:
        """The originals of rows by rid; ChangedError if the state is older than one of them."""
        rids = sorted(row.rid for row in rows)
        ordinals = state.ordinals(rids)
        if len(ordinals) < len(rids):
            raise ChangedError
        return dict(zip(rids, self.vectors(state, ordinals).values(), strict=True))


def _some(columns: dict[str, Column], new: Iterable[str]) -> dict[str, Column]:
    """The columns, without those of fields that no document has, and then the oldest, where they are too many.

    Filters may come from people, or from models: every misspelt key would stay for good.
    """
    surplus = len(columns) - _COLUMNS
    if surplus <= 0:
        return columns
    fresh = set(new)
    order = sorted(columns, key=lambda key: (key in fresh, not columns[key].is_blank))  # stable: the oldest first
    gone = set(order[:surplus])
    return {key: column for key, column in columns.items() if key not in gone}
