"""Keeps a collection's target recall: measures as it grows, watches searches, widens them where they fall short.

All of it happens in one background thread that lives while there is something to do. Measuring (`calibrate.py`) comes
with every doubling of the collection. The watch answers one search in many again by exact search (on a sample of the
originals where these are large), and takes at most one hundredth of the time.
"""

import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .. import index
from ..engine.core import Core
from ..engine.graph_builder import SMALLEST_GRAPH, long_tail
from ..engine.prepared_search import PreparedSearch
from ..engine.state import State
from ..engine.target import FEWEST_CHECKED, RUNGS, Calibration, Unstored, calibration_in_use
from ..errors import BqstoreError
from ..index.planner import EXACT
from ..index.scratch import ScratchPool
from ..results.recall import RecallEstimate
from .calibrate import StoppedError, calibrate
from .ground_truth import exact_search

log = logging.getLogger("bqstore")

F32 = NDArray[np.float32]
Mask = NDArray[np.bool_]
FILTERED: Final = "filtered"
_MOMENT: Final = 0.05  # seconds between two looks at what is going on
_PART: Final = 0.01  # share of the time that the watch may take
_CALLS: Final = 64  # queries between two looks at the clock
_AT_ONCE: Final = 8  # queries of a batch that are checked: they read the originals together
_MOST_READ: Final = 2 << 30  # bytes of originals that are read for a check; of more, a sample
_RUN: Final = 64  # records of that sample that lie together
_KEPT: Final = 400  # checked searches that an estimate is made of
_NONE: Final = 3.0  # upper bound, with 95% confidence, of an expected count of which none was seen
_SURE: Final = 3.5  # standard errors below the target: in a thousand healthy collections no false alarm
_TOLERANCE: Final = 0.01
# Measure again when so many documents were written since, as a share of those then; the second where a caller waits.
_GROWTH, _SOON = 1.0, 0.25
_LEAST: Final = 512  # documents; fewer are searched exactly, whatever their dimension, unless settings forbid it
_DEAR: Final = RUNGS.index((14.0, None))  # from here on other codes are worth trying
_MOST_RECODED: Final = 150_000_000  # values up to which codes are made anew unasked, while other writers wait


class RecallKeeper:
    """Measures and watches the searches of one `Core`. Calls are for any thread; all but `settle` return at once."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._lock, self._is_starting = threading.RLock(), False
        self._thread: threading.Thread | None = None
        self._stop, self._ended = threading.Event(), threading.Event()
        self._left, self._next_check = _CALLS, 0.0
        self._tried = (-1, 0, 0)  # generation, documents, ever written: when it was last measured, or tried
        self._rechosen = -math.inf  # documents ever written when other codes were tried
        self._known: tuple[object, object, Calibration | None] = (None, None, None)
        self._seen: dict[tuple[str, float], deque[float]] = {}  # of each kind and target
        self._least: dict[tuple[str, float], float] = {}  # error to assume of one check by a sample
        self._random = np.random.default_rng()
        self._warned: set[str] = set()

    # ---- what others call

    def written(self, target: float, exactly: int) -> None:
        """Measure in the background if that is due; after a write."""
        if target and self._is_due(exactly):
            self._start(lambda: self._measure(target, exactly))

    def found(
        self, state: State, search: PreparedSearch, queries: F32, ordinals: NDArray[np.int32], scores: F32
    ) -> None:
        """Called when a search was answered; one in many with a promised recall is checked in the background."""
        target = search.options.target
        if target == 0:
            return
        self._left -= len(queries) or 1
        if self._left > 0:
            return
        self._left = _CALLS
        if self._is_at_work or not len(queries):
            return
        exactly = search.options.hnsw.full_scan_threshold
        if self._is_due(exactly):
            self._start(lambda: self._measure(target, exactly))
        elif time.monotonic() >= self._next_check and _can_be_checked(search):
            some = np.flatnonzero(queries.any(axis=1))
            some = self._random.choice(some, min(len(some), _AT_ONCE), replace=False)
            if len(some):
                given = queries[some], ordinals[some], scores[some]
                self._start(lambda: self._check(state, search, *given))

    def settle(self, target: float, exactly: int) -> None:
        """Measure if that is due or will be soon, and wait for it."""
        self._wait()
        if target and self._is_due(exactly, _SOON):
            self._start(lambda: self._measure(target, exactly, _SOON))
            self._wait()

    def _wait(self) -> None:
        thread = self._thread
        # not in that thread itself, where a handler of the log may call; in steps, so that Ctrl-C ends it; and not by
        # `join`: up to Python 3.12 a thread whose join was interrupted counts as dead
        while thread is not None and thread.is_alive() and thread is not threading.current_thread():
            self._ended.wait(_MOMENT)

    def stop(self) -> None:
        """End what the background thread does, and wait for it; the next job that is due starts it again."""
        self._stop.set()
        self._wait()

    @property
    def calibration(self) -> Calibration | None:
        """What was measured last for the codes of the published state."""
        settings, unstored = self._core.publisher.state.head.settings, self._core.unstored
        known = self._known
        if known[0] is not settings or known[1] is not unstored:
            self._known = known = (settings, unstored, calibration_in_use(settings, unstored))
        return known[2]

    def estimates(self, target: float) -> dict[str, RecallEstimate]:
        """The recall of checked searches with this target by kind: "scan", "walk" or "filtered"."""
        found = {kind: list(seen) for (kind, asked), seen in list(self._seen.items()) if asked == target}
        made = {kind: _estimate(seen, self._least.get((kind, target), 0.0)) for kind, seen in found.items() if seen}
        return {
            kind: replace(one, recall=max(0.0, one.recall), low=max(0.0, one.low), high=max(0.0, one.high))
            for kind, one in made.items()
        }

    # ---- measuring

    def _is_due(self, exactly: int, growth: float = _GROWTH) -> bool:
        """Whether so large a share of the collection was written since it was measured, and it can be measured now.

        Written, not grown: a collection may be replaced document by document.

        exactly : int   the ``full_scan_threshold`` in use, which may differ from the stored one
        """
        state, core = self._core.publisher.state, self._core
        head, data = state.head, state.data
        documents, written = head.n_live, head.next_rid
        if data is None or documents < _LEAST or head.settings["originals"] == "none":
            return False
        if 4 * documents * data.dim <= 1024 * exactly:
            return False  # searched exactly
        generation, then, at = self._tried
        if generation == head.generation and then / 4 < documents and written - at < growth * then:
            return False
        known = self.calibration
        if known is not None and known.documents / 4 < documents and written - known.written < growth * known.documents:
            return False
        waits = core.graph.builder.at_work and state.n - data.linked > long_tail(state.n)
        is_linked = state.n < SMALLEST_GRAPH or (2 * data.linked >= state.n and not waits)
        return is_linked and index.can_link() and not core.lifecycle.closed

    def _measure(self, target: float, exactly: int, growth: float = _GROWTH) -> None:
        """Measure as long as it is due, unless another process does."""
        store, measured = self._core.store, -1
        while measured != (now := self._core.publisher.state.head.generation):  # again where codes were chosen again
            measured = now
            self._until_linked()
            with nullcontext(True) if store.read_only else store.duty("MEASURE") as alone:
                self._core.publisher.current()  # another process may just have measured
                while alone and self._is_due(exactly, growth):
                    known = self.calibration
                    self._measure_now(
                        target, 0 if known is None else known.extra, 0 if known is None else known.filtered
                    )

    def _until_linked(self) -> None:
        """Wait until what is there is linked, where that is going on; not for more, as others might add without end."""
        published, builder = self._core.publisher, self._core.graph.builder
        n = published.state.n
        while builder.at_work and (data := published.state.data) is not None and data.linked < n:
            self._go_on()
            time.sleep(_MOMENT)

    def _measure_now(self, target: float, extra: int, filtered: int) -> None:
        """Measure; ``extra`` and ``filtered``, which watched searches have shown to be needed, are kept."""
        state = self._core.publisher.state
        self._tried = (state.head.generation, state.head.n_live, state.head.next_rid)
        measured = replace(calibrate(state, self._go_on, target), extra=extra, filtered=filtered)
        # in memory first: stored before other codes are, it would keep them from being chosen after a kill
        self._core.unstored = Unstored(state.head.settings, measured)
        self._try_other_codes(measured, target)
        self._keep(measured, state)

    def _go_on(self) -> None:
        if self._stop.is_set() or self._core.lifecycle.closed:
            raise StoppedError

    def _keep(self, calibration: Calibration, state: State) -> None:
        """Store a calibration, or keep it in memory if it cannot be stored."""
        core, generation = self._core, state.head.generation

        def store() -> None:
            head = core.store.head
            if head.generation == generation:
                core.store.put_settings({**head.settings, "calibration": calibration.stored()}, head.dim)

        if core.publisher.state.head.generation != generation:
            return
        if not core.store.read_only:
            with suppress(BqstoreError):
                core.write(store)
                core.unstored = None
                return
        core.unstored = Unstored(state.head.settings, calibration)

    def _try_other_codes(self, measured: Calibration, target: float) -> None:
        """Choose the encoding anew if its codes need very many candidates, or reach the target with no setting."""
        core, head = self._core, self._core.store.head
        needed = measured.reaching(target)
        if (needed is not None and needed < _DEAR) or core.store.read_only:
            return
        # not twice on the same documents, as it might go back and forth between two equally good choices
        few = measured.documents * (head.dim or 0) <= _MOST_RECODED
        if few and head.next_rid - self._rechosen >= measured.documents:
            self._rechosen = head.next_rid
            core.write(core.encoder.choose_again)

    # ---- the watch

    def _check(
        self, state: State, search: PreparedSearch, queries: F32, ordinals: NDArray[np.int32], scores: F32
    ) -> None:
        """Answer some queries of a search again by exact search, and record how many of the nearest it had found.

        Their mean counts as one check: the queries of a batch may be alike, and then tell no more than one does.
        """
        begun, data, made = time.monotonic(), state.data, search.search
        assert data is not None
        # in pieces, so that closing need not wait for all originals to be read
        among = search.mask()
        among = state.live if among is None else among
        accepted = max(1, int(np.count_nonzero(among)))
        part = min(1.0, _MOST_READ / (4 * data.records.shape[1] * accepted))
        if part < 1:
            among = among & np.repeat(self._random.random(-(-state.n // _RUN)) < part, _RUN)[: state.n]
        state = replace(state, data=replace(data, pool=ScratchPool()))
        truth = exact_search(state, queries, None, made.k, index.ALONE, self._go_on, among).scores
        kind, target = FILTERED if made.accepted < search.live else made.plan.way, search.options.target
        seen = self._seen.setdefault((kind, target), deque(maxlen=_KEPT))
        if part == 1:
            recalls = np.count_nonzero(scores >= truth[:, -1:], axis=1) / truth.shape[1]
        else:
            recalls = _by_sample(truth, ordinals, scores, among, part)
            self._least[kind, target] = max(self._least.get((kind, target), 0.0), _NONE / (part * made.k))
        seen.append(float(recalls.mean()))
        now = time.monotonic()
        self._next_check = now + (now - begun) / _PART
        self._judge(kind, target, search.options.hnsw.full_scan_threshold)

    def _judge(self, kind: str, target: float, exactly: int) -> None:
        """If searches surely find less than promised, log it once, and take more candidates."""
        seen = list(self._seen[kind, target])
        if not _falls_short(seen, target, self._least.get((kind, target), 0.0)):
            return
        if kind not in self._warned:
            self._warned.add(kind)
            log.warning(
                "searches (%s) find %.3f of the nearest, less than the target recall of %g; they take more candidates "
                "from now on, as far as there are settings that do. health() says what else helps",
                kind,
                float(np.mean(seen)),
                target,
            )
        self._seen[kind, target].clear()
        known, state = self.calibration, self._core.publisher.state
        if known is None or state.head.next_rid - known.written >= _SOON * known.documents:
            self._measure_now(target, 0, 0 if known is None else known.filtered)
            self._measure(target, exactly)  # in case other codes were chosen
        elif kind == FILTERED and known.filtered < len(RUNGS) - 1:
            self._keep(replace(known, filtered=known.filtered + 1), state)
        elif kind != FILTERED and known.reaching(target) is not None:  # else there are no larger settings
            self._keep(replace(known, extra=known.extra + 1), state)

    # ---- the thread

    @property
    def _is_at_work(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _start(self, job: Callable[[], None]) -> None:
        """Do a job in the background, unless one is being done."""

        def work() -> None:
            try:
                with suppress(StoppedError, BqstoreError, MemoryError):  # derived: nothing depends on it
                    _be_nice()
                    job()
            finally:
                self._ended.set()

        with self._lock:
            # a signal handler may search while the thread is being started, when it is not alive yet
            if self._is_at_work or self._is_starting or self._core.lifecycle.closed:
                return
            try:
                self._is_starting = True
                self._stop.clear()
                self._ended.clear()
                self._thread = threading.Thread(target=work, name="bqstore-recall", daemon=True)
                with suppress(RuntimeError):  # no more threads
                    self._thread.start()
            finally:
                self._is_starting = False


def _be_nice() -> None:
    """Let other threads go first, on Linux, where a thread has a priority of its own."""
    if hasattr(os, "setpriority") and threading.get_native_id() != os.getpid():
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(19, os.getpriority(os.PRIO_PROCESS, 0) + 5))


def _can_be_checked(search: PreparedSearch) -> bool:
    """Whether a search may have missed something, and exact scores can show it."""
    if search.nothing or search.options.score_threshold is not None:
        return False
    plan = search.search.plan
    return plan.way != EXACT and plan.rescoring


def _falls_short(found: list[float], target: float, least: float = 0.0) -> bool:
    """Whether searches surely find less than the target. ``least``: as of `_estimate`."""
    m = len(found)
    error = max(float(np.std(found)) / math.sqrt(m), 0.01 / math.sqrt(m), least / (1.96 * m))
    return m >= FEWEST_CHECKED and float(np.mean(found)) + _SURE * error < target - _TOLERANCE


def _by_sample(truth: F32, ordinals: NDArray[np.int32], scores: F32, among: Mask, part: float) -> NDArray[np.float64]:
    """Estimate the recall of queries from a sample of the originals.

    Each vector of the sample that is better than the last hit, and no hit, stands for 1 / ``part`` missed ones. The
    estimate may be below 0; the mean of many is not. It is unbiased, but also counts missed ones that others push out
    of the k nearest.

    Parameters
    ----------
    truth : float32 (m, size)       scores of the nearest in the sample
    ordinals : int32 (m, k)         the hits, padded with -1; scores : float32 (m, k)
    among : bool (n,)               the sample
    """
    k = np.maximum(1, np.count_nonzero(ordinals >= 0, axis=1))
    worst = scores[np.arange(len(k)), k - 1][:, None]
    better = np.count_nonzero(truth > worst, axis=1)
    hits = np.count_nonzero((ordinals >= 0) & among[ordinals] & (scores > worst), axis=1)
    recalls: NDArray[np.float64] = 1 - np.maximum(0, better - hits) / (part * k)
    return recalls


def _estimate(found: list[float], least: float = 0.0) -> RecallEstimate:
    """The mean recall of checked searches, with its 95% confidence interval.

    If a few searches find nothing and all others everything, those few may not be among the checked ones, and a normal
    interval is too short: with 30 checks it held the true recall of .99 in a quarter of all cases. So the width is
    computed as if one more check had found nothing.

    least : float   error to assume of one check by a sample, even if it shows none
    """
    m, mean = len(found), float(np.mean(found))
    deviation = float(np.std([*found, 0.0] if least == 0 else found))
    error = max(1.96 * deviation / math.sqrt(m), least / m)
    return RecallEstimate(mean, mean - error, min(1.0, mean + error), m)
