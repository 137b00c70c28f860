"""Dispatches calls to the compiled kernel, or to its numpy twin until the kernel is compiled.

Calls before that are answered by `plain`, while `background` compiles in other processes. The kernels that walk and
link the graph have no such twin: searches scan meanwhile, and linking waits (`wait_for`).
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from bqstore.errors import StorageError
from bqstore.kernels import api, background, metadata, plain
from bqstore.kernels.examples import examples
from bqstore.progress import Progress

_EVERY = 0.05  # seconds between checks for compiled kernels
# Held while a thread checks, loads or compiles, and during a fork, which would otherwise leave LLVM's locks held in the
# child for ever. Another thread that needs the kernel waits for the lock and then uses the kernel.
_looking = threading.RLock()


def _before_fork() -> None:
    _looking.acquire()


def _after_fork() -> None:
    _looking.release()


def _in_fork() -> None:
    global _looking  # noqa: PLW0603
    _looking = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_fork)


@contextmanager
def _named_errors() -> Iterator[None]:
    """Explain a lack of file descriptors: the first call in a process imports modules of numba and opens the cache."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        raise StorageError(
            error.errno,
            f"cannot load compiled kernels: {error.strerror}; close files or collections, or raise the limit of this "
            "process, as `ulimit -n` does",
        ) from error


class Kernel:
    """A root and its numpy twin.

    Parameters
    ----------
    root : callable         a numba dispatcher; the plain function under NUMBA_DISABLE_JIT
    twin : callable         answers until the root is compiled; None if there is no twin
    direct : bool           call the root's only version without numba's dispatch by argument types. For some twenty
                            arrays in tuples that takes 3.5 microseconds, a tenth of a search. Then arguments are not
                            checked: the caller must pass C-order arrays of the right dtypes

    Attributes
    ----------
    compiled : callable     the compiled kernel, for direct calls; None until it is loaded
    """

    def __init__(self, root: Any, twin: Callable[..., Any] | None, direct: bool = False) -> None:
        self.root, self.name = root, root.__name__
        self._twin, self._direct = twin, direct
        self.compiled: Callable[..., Any] | None = None
        self._next_look = 0.0

    def __call__(self, *args: Any) -> Any:  # noqa: D102
        compiled = self.compiled
        if compiled is not None:
            return compiled(*args)
        if not self.is_compiled():
            if self._twin is not None:
                return self._twin(*args)
            wait_for([self])
        return self.compiled(*args) if self.compiled is not None else self.root(*args)

    def is_compiled(self) -> bool:
        """Whether the kernel is loaded; tries to load it, and starts compiling if that is enabled."""
        if self.compiled is None:
            with _looking:
                if self.compiled is None and time.monotonic() >= self._next_look:
                    mode = background.mode()
                    with _named_errors():
                        loaded = mode != "foreground" and self._load()
                        if not loaded and mode != "off" and (mode == "foreground" or not background.is_compiling()):
                            self.compile()
                    self._next_look = time.monotonic() + _EVERY
        return self.compiled is not None

    def is_there(self) -> bool:
        """Whether the kernel is loaded, or its files are in the cache."""
        if self.compiled is not None:
            return True
        with _looking:
            return self._is_jitted and all(any(map(os.path.exists, paths)) for paths in self._paths)

    def _load(self) -> bool:
        """Load the kernel from the cache if all its versions are there; returns whether it is loaded."""
        if not self.is_there():
            return False
        if not all(self.root._cache.load(each, self.root.targetctx) for each in self._signatures):
            return False
        self.compile()
        return True

    def compile(self) -> bool:
        """Compile the kernel here, or load it; returns whether it is in the cache for other processes."""
        if not self._is_jitted:
            return True
        with _looking:
            entries = [self.root.compile(each) for each in self._signatures]
            self.compiled = entries[0] if self._direct else self.root
        return bool(self.root._cache.kept)

    @property
    def _is_jitted(self) -> bool:
        """False under NUMBA_DISABLE_JIT."""
        return hasattr(self.root, "overloads")

    @cached_property
    def _signatures(self) -> list[tuple[Any, ...]]:
        """The argument types of each version."""
        return [tuple(map(self.root.typeof_pyval, arguments)) for arguments in examples()[self.name]]

    @cached_property
    def _paths(self) -> list[list[Any]]:
        """For each version, its possible files."""
        return [self.root._cache.paths(each, self.root.targetctx) for each in self._signatures]


prepare = Kernel(api.prepare, plain.prepare)
encode = Kernel(api.encode, plain.encode)
search_exact = Kernel(api.search_exact, plain.search_exact)
search_bits = Kernel(api.search_bits, plain.search_bits, direct=True)
rescore = Kernel(api.rescore, plain.rescore)
search_graph = Kernel(api.search_graph, plain.search_graph, direct=True)
find_links = Kernel(api.find_links, None)
merge_links = Kernel(api.merge_links, None)
check_graph = Kernel(api.check_graph, plain.check_graph)
spread = Kernel(metadata.spread, plain.spread)
sift = Kernel(metadata.sift, plain.sift)
numbers_between = Kernel(metadata.numbers_between, plain.numbers_between)
strings_between = Kernel(metadata.strings_between, plain.strings_between)
strings_like = Kernel(metadata.strings_like, plain.strings_like)
any_member = Kernel(metadata.any_member, plain.any_member)
every_member = Kernel(metadata.every_member, plain.every_member)

CORE = (encode, prepare, search_exact, search_bits, rescore)
METADATA = (spread, sift, numbers_between, strings_between, strings_like, any_member, every_member)
GRAPH = (find_links, merge_links, search_graph, check_graph)
PARTS = {"core": CORE + METADATA, "graph": GRAPH, "all": CORE + METADATA + GRAPH}


def wait_for(kernels: Iterable[Kernel], stopped: Callable[[], bool] = lambda: False, *, showing: bool = True) -> bool:
    """Wait until kernels are compiled; returns False if ``stopped()`` is true, or compiling is off.

    ``showing`` : show progress on a terminal, for a call that the user waits for
    """
    kernels = tuple(kernels)
    if all(kernel.is_compiled() for kernel in kernels):
        return True
    with Progress("compiling", len(kernels)) as progress:
        while True:
            ready = sum(kernel.is_compiled() for kernel in kernels)
            if ready == len(kernels):
                return True
            if stopped() or not will_come():
                return False
            if showing:
                progress(ready)
            time.sleep(_EVERY)


def state(kernels: Iterable[Kernel]) -> str:
    """The state of these kernels, as in `CollectionInfo.kernels`; starts nothing."""
    if all(kernel.is_there() for kernel in kernels):
        return "compiled"
    if not will_come():
        return "numpy"
    return "compiling" if background.has_begun() else "uncompiled"


def will_come() -> bool:
    """Whether missing kernels will be compiled."""
    return background.mode() != "off"


def warm_up(part: str) -> None:
    """Wait until the kernels of a part are compiled; compile them here if compiling is off."""
    if not wait_for(PARTS[part]):
        for kernel in PARTS[part]:
            kernel.compile()
