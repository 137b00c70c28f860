"""A collection moved whole: from memory to disk, from disk into memory, into a pickle, and over a fork.

A fork has its own copy of a collection in memory, and may use it: with new locks and threads, as those of its parent do
not exist in it. A collection that was being changed at the moment of the fork is half changed, and stays unusable.
"""

import re
import shutil
import tempfile
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import HnswConfig
from ..forks import in_forks
from ..storage import Store, folders, open_store
from .core import Core
from .group_commit import Group
from .state import State, first
from .stored_settings import check_stored
from .target import NoKeeper
from .text_upkeep import TextUpkeep

if TYPE_CHECKING:
    from .engine import Engine

_DATA = re.compile(r"meta\.db$|(vectors|codes|snap)-")  # the others are locks, and room kept free


def save(engine: "Engine", path: Path, collection: str) -> None:
    """Write the last commit into a store on disk."""
    target = folders.collection_folder(path, collection)
    if engine.store.folder is not None:
        engine.publisher.current()
        folders.copy(engine.store, target)
        return

    def at_one_commit(state: State) -> None:
        folders.copy(engine.store, target)

    engine.publisher.at_one_commit(at_one_commit)


def loaded(folder: Path, threads: int | None) -> Core:
    """The last commit of a collection on disk, in memory."""
    source = open_store(folder, {}, None, read_only=True)
    try:
        store = folders.into_memory(source)
    finally:
        source.close()
    return in_memory(store, threads)


def in_memory(store: Store, threads: int | None) -> Core:
    """The core of a store that was made in memory."""
    check_stored(store.head.settings, store.catalogue.name)
    checked = first(store)
    store.start_writing()
    return Core(store, checked, HnswConfig(**store.head.settings["hnsw"]), threads)


def pickled(engine: "Engine") -> dict[str, bytes]:
    """The files of a collection in memory."""
    folder = Path(tempfile.mkdtemp(prefix="bqstore-"))
    try:
        save(engine, folder, "pickled")
        return {path.name: path.read_bytes() for path in (folder / "pickled").iterdir() if _DATA.match(path.name)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def unpickled(files: dict[str, bytes], threads: int | None) -> Core:
    """The core of a collection in memory from its files."""
    folder = Path(tempfile.mkdtemp(prefix="bqstore-"))
    try:
        for name, data in files.items():
            (folder / Path(name).name).write_bytes(data)
        return loaded(folder, threads)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# ---- forks

_cores: "weakref.WeakSet[Core]" = weakref.WeakSet()


def survives_forks(core: Core) -> None:
    """Let the forks of this process use a core in memory."""
    if core.store.folder is None:
        _cores.add(core)


def _after_fork() -> None:
    for core in list(_cores):
        if not core.lifecycle.closed and _is_quiet(core):
            _renew(core)


def _is_quiet(core: Core) -> bool:
    """Whether no thread was inside: the fork does not have that thread, and its locks would be held for ever."""
    life, publisher = core.lifecycle, core.publisher
    locks = [life.turn, life.lock, life.changing, publisher._publishing, core.store.catalogue._memory]
    if core.store.catalogue._in_use or not core.graph.builder.is_idle:
        return False
    for lock in locks:
        if lock is None or not lock.acquire(blocking=False):
            return False
        lock.release()
        if lock._is_owned():  # type: ignore[attr-defined]
            return False
    return True


def _renew(core: Core) -> None:
    """New locks and threads."""
    core.lifecycle.begin_anew()
    core.publisher._publishing = threading.RLock()
    core.store.catalogue._memory = threading.RLock()
    core.pool.drop()
    core.group = Group(core.lifecycle)
    core.texts = TextUpkeep(core)
    if not isinstance(core.keeper, NoKeeper):
        made: Any = type(core.keeper)
        core.keeper = made(core)


in_forks(_after_fork)
