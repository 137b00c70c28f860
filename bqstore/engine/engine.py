"""One opening of a collection: what all openings in the process share, under the settings of this one."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from ..config import HnswConfig, SearchParams
from ..errors import ClosedError
from ..index import Workers
from . import lifecycle
from .core import Core
from .options import Options, OptionsCache
from .state import State
from .target import DEFAULT_TARGET, Calibration, Unstored, calibration_in_use

T = TypeVar("T")
_PLAIN = asdict(SearchParams())


class Engine:
    """An opening, as the calls of `Collection` use it.

    Parameters
    ----------
    opening : dict      the arguments of `bqstore.open`; its "hnsw", "search" and "quantization" go before what
                        is stored, which may change at any commit

    Attributes
    ----------
    store, lifecycle, publisher, acceptor, encoder, graph : see `Core`
    workers : Workers           the threads of searches in batches
    hnsw, search_defaults, query_encoding, target_recall
                                the settings in use, as far as they may differ between openings
    calibration                 what settings find in the collection, if that was measured
    is_open_to_target           whether a call that gives no settings takes those that reach the target
    """

    hnsw: HnswConfig
    search_defaults: SearchParams
    query_encoding: str
    target_recall: float
    calibration: Calibration | None
    is_open_to_target: bool

    def __init__(
        self,
        core: Core,
        opening: Mapping[str, Any],
        threads: int | None = None,
        name: str = "default",
        path: Path | None = None,
    ) -> None:
        self.core, self.opening, self.name, self.path = core, dict(opening), name, path
        self.store, self.lifecycle, self.publisher = core.store, core.lifecycle, core.publisher
        self.acceptor, self.encoder, self.graph = core.acceptor, core.encoder, core.graph
        self.workers = core.workers if threads is None else Workers(threads, core.pool)
        self.lock_timeout: float = opening["lock_timeout"]
        self.closed = False
        self._closing = threading.RLock()
        self._given = {group: dict(opening[group]) for group in ("hnsw", "search", "quantization")}
        self.target_is_given = opening.get("target_recall") is not None
        self._options = OptionsCache()
        self.settings_seen = object()  # a new object with every change of the settings in use
        self._stored: dict[str, Any] = {}
        self._unstored: Unstored | None = None
        self._follow(self.store.head.settings)
        lifecycle.close_at_exit(self)

    def _follow(self, stored: dict[str, Any]) -> None:
        """Take over stored settings, of this process or another, where none were given at this opening."""
        unstored = self.core.unstored
        if stored is self._stored and unstored is self._unstored:
            return
        self.hnsw = HnswConfig(**{**stored["hnsw"], **self._given["hnsw"]})
        self.search_defaults = SearchParams(**{**stored["search"], **self._given["search"]})
        self.query_encoding = {**stored["quantization"], **self._given["quantization"]}["query_encoding"]
        target = self.opening.get("target_recall")
        self.target_recall = stored.get("target_recall", DEFAULT_TARGET) if target is None else target
        self.calibration = calibration_in_use(stored, unstored)
        # not where somebody has chosen a default: stored with the collection, tuned, or given at this opening
        plain = stored["search"] == _PLAIN and "untuned" not in stored and not self._given["search"]
        self.is_open_to_target = plain and self.query_encoding == stored["quantization"]["query_encoding"]
        self._options.clear()
        self.settings_seen = object()
        self._stored, self._unstored = stored, unstored  # last, as another thread may go by it

    @property
    def distance(self) -> str:
        """The collection's distance."""
        return str(self.store.head.settings["distance"])

    @property
    def keeps_originals(self) -> bool:
        """Whether vectors are kept for rescoring, in any form."""
        return bool(self.store.head.settings["originals"] != "none")

    def check(self, *, writing: bool = False) -> None:
        """Raise unless this thread may call now, and write if it is to.

        ClosedError, LockedError, ReadOnlyError; StorageError after a failed sync or commit.
        """
        if writing:
            self._check_inside()
            self.store.check_writable()
        self.entered()

    def entered(self) -> State:
        """The state of a search that begins now; raises as `check`."""
        if self.closed:  # not by `_check_inside`, as every search passes here
            self._check_inside()
        self.lifecycle.check()
        state = self.publisher.current()
        if state.head.settings is not self._stored or self.core.unstored is not self._unstored:
            self._follow(state.head.settings)
        return state

    def _check_inside(self) -> None:
        if self.closed:
            raise ClosedError("this collection is closed; open it again")
        self.lifecycle.check()

    def options(self, *asked: Any) -> Options:
        """The checked settings of a call; ``asked`` are the fields of `options.Asked` in their order."""
        return self._options.get(self, asked)

    def write(self, action: Callable[[], T]) -> T:
        """Do a write, one at a time, publish it, and link what it has added."""
        out = self.core.write(action, self.lock_timeout)
        self._follow(self.store.head.settings)
        self.core.keeper.written(self.target_recall, self.hnsw.full_scan_threshold)
        return out

    def recode(self, change: Callable[[], None]) -> None:
        """Do a write that makes codes anew; search defaults that were tuned for the old codes are given up."""

        def action() -> None:
            before = self.store.head.settings
            try:
                change()
            finally:  # also when a Ctrl-C came after the commit
                if self.store.head.settings is not before:
                    self._given["quantization"] = {}

        self.write(action)

    def set_search_defaults(self, params: SearchParams) -> None:
        """Use other settings for calls that give none, and store them."""

        def keep() -> None:
            head = self.store.head
            before = head.settings.get("untuned", head.settings["search"])
            self.store.put_settings({**head.settings, "search": asdict(params), "untuned": before}, head.dim)
            self._given["search"] = {}

        self.write(keep)

    def close(self) -> None:
        """Give back the lock and the files, if this is the last opening; see `lifecycle`. Closing twice is fine."""
        if self.lifecycle.is_fork:
            return  # a fork owns nothing here, and the lock may be held by a thread that it does not have
        self.lifecycle.check_outside()
        with self._closing:
            if not self.closed:
                self.core.close(self.lock_timeout)
                self.closed = True
