"""One open collection: its parts, made once and passed as one object to whoever works on it."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from ..config import HnswConfig, Quantization, SearchParams
from ..index import LazyPool, Workers, cores
from ..storage import Store
from . import lifecycle
from .accept import Acceptor
from .encoder import Encoder
from .graph_builder import GraphBuilder
from .graph_upkeep import GraphUpkeep
from .lifecycle import Lifecycle
from .options import Options, OptionsCache
from .publisher import Publisher
from .state import State

T = TypeVar("T")


class Engine:
    """The parts of an open collection.

    Attributes
    ----------
    store : Store               files and commits
    lifecycle : Lifecycle       who may enter, and when
    publisher : Publisher       the state that searches take, and the way to the next
    acceptor : Acceptor         what filters accept
    encoder : Encoder           vectors to codes
    graph : GraphUpkeep         when nodes are linked and the graph is saved
    workers : Workers           the threads of searches in batches, of encoding and linking
    hnsw, search_defaults       settings of this opening
    """

    def __init__(
        self,
        store: Store,
        state: State,
        hnsw: HnswConfig,
        quantization: Quantization,
        search: SearchParams,
        threads: int | None = None,
        name: str = "default",
        path: Path | None = None,
    ) -> None:
        self.store, self.hnsw, self.search_defaults = store, hnsw, search
        self.name, self.path = name, path
        self._pool = LazyPool(cores())
        self.workers = Workers(threads or cores(), self._pool)
        self.lifecycle = Lifecycle()
        self._options = OptionsCache()
        builder = GraphBuilder(hnsw, self.workers)
        self.graph = GraphUpkeep(store, builder, self.lifecycle)
        self.publisher = Publisher(store, self.lifecycle, state, builder, self.graph.followed)
        self.graph.publisher = self.publisher
        self.acceptor = Acceptor(self.publisher, self.lifecycle)
        self.encoder = Encoder(self, quantization)
        self.graph.restore()
        lifecycle.close_at_exit(self)

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
        self.lifecycle.check()
        if writing:
            self.store.check_writable()

    def options(self, *asked: Any) -> Options:
        """The checked settings of a call; ``asked`` are the fields of `options.Asked` in their order."""
        return self._options.get(self, asked)

    def write(self, action: Callable[[], T]) -> T:
        """Do a write, one at a time, publish it, and link what it has added."""
        return self.publisher.write(action, self.graph.after_write)

    def recode(self, change: Callable[[], None]) -> None:
        """Do a write that makes codes anew; search defaults that were tuned for the old codes are given up."""

        def action() -> None:
            tuned = "untuned" in self.store.head.settings
            try:
                change()
            finally:
                settings = self.store.head.settings
                if tuned and "untuned" not in settings:
                    self.search_defaults = SearchParams(**settings["search"])
                self._options.clear()

        self.write(action)

    def set_search_defaults(self, params: SearchParams) -> None:
        """Use other settings for calls that give none, and store them."""

        def keep() -> None:
            head = self.store.head
            before = head.settings.get("untuned", head.settings["search"])
            self.store.put_settings({**head.settings, "search": asdict(params), "untuned": before}, head.dim)
            self.search_defaults = params
            self._options.clear()

        self.write(keep)

    def close(self) -> None:
        """Give back the lock and the files; see `lifecycle`. Closing twice is fine."""
        if self.lifecycle.is_fork:
            return  # nothing is its own, and the lock may be held by a thread that it does not have
        self.lifecycle.check_outside()
        self.graph.builder.stop()
        with self.lifecycle.lock, self.lifecycle.changing:
            if self.lifecycle.closed:
                return
            if not self.store.read_only and self.store.sound:
                self.graph.save_at_close()
            self.lifecycle.closed = True
            self._pool.drop()
            self.store.close()
