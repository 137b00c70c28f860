"""What all openings of a collection in a process share: its files, the published state, the graph, the locks.

Two openings with cores of their own would each keep all codes in memory, and wait for each other's lock. So the second
opening finds the core of the first here, and the last one to close closes the core.
"""

import math
import os
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TypeVar, cast

from ..config import HnswConfig
from ..errors import FolderReplacedError
from ..forks import in_forks
from ..index import LazyPool, Workers, cores
from ..storage import Store
from .accept import Acceptor
from .encoder import Encoder
from .graph_builder import GraphBuilder
from .graph_upkeep import GraphUpkeep
from .group_commit import Group
from .lifecycle import Lifecycle
from .publisher import Publisher
from .records import Expected
from .state import State
from .target import Keeper, NoKeeper, Unstored
from .text_upkeep import TextUpkeep

T = TypeVar("T")
_PATIENCE, _MOMENT = 1.0, 0.02  # seconds that `flush` waits for readers of older commits, and between two looks
_shared: "dict[tuple[int, int, int], Core]" = {}  # by process, device and inode of the folder
_registry = threading.RLock()  # a finalizer may close while its thread opens
_opening: dict[Path, threading.RLock] = {}  # one thread at a time opens a folder: the others join it


class Core:
    """The parts of a collection that is open in this process.

    Attributes
    ----------
    store : Store               files and commits
    lifecycle : Lifecycle       who may enter, and when
    publisher : Publisher       the state that searches take, and the way to the next
    acceptor : Acceptor         what filters accept
    encoder : Encoder           vectors to codes
    graph : GraphUpkeep         when nodes are linked and the graph is saved
    pool, workers               the threads, for the encoding and linking of all openings
    group : Group               the documents that threads are adding now
    expected : Expected         the documents whose records are written when they are added
    texts : TextUpkeep          who builds a text index that was switched on later
    keeper : Keeper             who measures what searches find
    """

    def __init__(self, store: Store, state: State, hnsw: HnswConfig, threads: int | None = None) -> None:
        self.store = store
        self.pool = LazyPool(cores())
        self.workers = Workers(threads or cores(), self.pool)
        self.lifecycle = Lifecycle()
        builder = GraphBuilder(hnsw, self.workers)
        self.graph = GraphUpkeep(store, builder, self.lifecycle)
        self.publisher = Publisher(store, self.lifecycle, state, builder, self.graph.followed)
        self.graph.publisher = self.publisher
        self.acceptor = Acceptor(self.publisher, self.lifecycle)
        self.publisher.load_times = self.acceptor.with_times
        self.encoder = Encoder(self)
        self.group = Group(self.lifecycle)
        self.expected = Expected()
        self.keeper: Keeper = NoKeeper()
        self.texts = TextUpkeep(self)
        self.unstored: Unstored | None = None  # a calibration newer than the stored one
        self.known_in_memory = store.head.n_live  # documents at the last look at how many there are
        self._openings = 1
        self.graph.restore()

    def write(self, action: Callable[[], T], timeout: float | None = None) -> T:
        """Do a write, one at a time, publish it, and link what it has added; ``timeout`` as in `Publisher.write`."""
        return cast(T, self.publisher.write(action, self.graph.after_write, timeout))

    def flush(self, timeout: float) -> None:
        """Fold SQLite's log into its file, link what is not linked yet, and keep a snapshot."""
        fold, end = self.store.catalogue.checkpoint, time.monotonic() + _PATIENCE
        done = self.publisher.write(fold, lambda lagged: self.graph.link_rest(), timeout)
        while not done and time.monotonic() < end:  # a read of a moment; others write meanwhile
            time.sleep(_MOMENT)
            done = self.publisher.write(fold, lambda lagged: None, timeout)
        if not done:
            size = self.store.catalogue.bytes()[1]
            warnings.warn(
                f"the log of {self.store.catalogue.name} ({size:,} bytes) could not be emptied: somebody has been "
                f"reading an older commit for {_PATIENCE:g} s; nothing is lost, and a later flush() or close() does it",
                RuntimeWarning,
                stacklevel=3,
            )

    def close(self, timeout: float = math.inf) -> None:
        """End one opening; the last one gives back the lock and the files, see `lifecycle`.

        An interrupt while the graph is saved leaves it open, and so does a LockedError: see `Publisher.in_turn`.
        """
        if self._left():
            return
        self.keeper.stop()
        self.texts.stop()
        self.graph.builder.stop()
        self.publisher.in_turn(lambda end: self._close(), timeout)
        self.keeper.stop()  # a search of another thread may have started it again

    def _close(self) -> None:
        with self.lifecycle.lock, self.lifecycle.changing:
            if not self.lifecycle.closed:
                if not self.store.read_only and self.store.sound:
                    self.graph.save_at_close()
                if self._left(forget=True):  # another thread has opened it meanwhile
                    return
                self.lifecycle.closed = True
        self.pool.drop()
        self.store.close(self.lifecycle.lock)  # waits for other processes first, which reads under way need not

    def _left(self, forget: bool = False) -> bool:
        """End this opening if it is not the last one, and tell; ``forget``: else no later opening gets this core."""
        with _registry:
            if self._openings > 1:
                self._openings -= 1
                return True
            for key in [key for key, core in _shared.items() if forget and core is self]:
                del _shared[key]
            return False

    @property
    def _is_usable(self) -> bool:
        if not self.store.sound or self.lifecycle.closed:
            return False
        try:
            self.store.check_place()  # renamed under it, by this process or another: the new name opens it anew
        except FolderReplacedError:
            return False
        return True


def _after_fork() -> None:
    global _registry  # noqa: PLW0603 - another thread may have held it
    _registry = threading.RLock()
    _shared.clear()
    _opening.clear()


in_forks(_after_fork)


def opening(folder: Path | None) -> AbstractContextManager[object]:
    """To be held while a folder is opened: threads of a process would wait for each other's lock on it."""
    return nullcontext() if folder is None else _opening.setdefault(folder, threading.RLock())


def joined(folder: Path) -> Core | None:
    """The core of a folder that this process has open for writing, with one opening more; None if there is none."""
    try:
        found = folder.stat()
    except OSError:
        return None
    with _registry:
        core = _shared.get((os.getpid(), found.st_dev, found.st_ino))
        if core is None or not core._is_usable:
            return None
        core._openings += 1
        return core


def shared(core: Core) -> Core:
    """The core to use of a folder: this one, or that of another thread which has opened it meanwhile."""
    place = core.store.place
    if core.store.read_only or core.store.is_alone or place is None:
        return core
    key = (os.getpid(), *place)
    with _registry:
        other = _shared.get(key)
        if other is None or not other._is_usable:
            _shared[key] = core
            return core
        other._openings += 1
    core.close()
    return other
