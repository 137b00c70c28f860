"""Where Python calls a kernel: the compiled one as soon as it is there, until then its twin in numpy.

What is called before it is compiled is answered by `plain`, while `background` compiles in other processes. The graph's
kernels have no twin: searches scan until they are there, and who must link waits (`wait_for`).
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

_EVERY = 0.05  # seconds between two looks for what has been compiled
# Held while a thread looks, loads or compiles, and by a fork: a fork in the middle would leave the locks of LLVM taken
# in the child for ever. Another thread that needs the kernel waits for it, and uses it too.
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
    """Name the want of descriptors: numba imports modules, and opens the cache, at the first call of a process."""
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
    """One root and its twin.

    Parameters
    ----------
    root : callable         compiled by numba; as it stands under NUMBA_DISABLE_JIT
    twin : callable         answers in its place until it is compiled; None: nothing can
    direct : bool           call the root's one version without numba's look at the types of its arguments. For some
                            twenty arrays in tuples that takes 3.5 microseconds, a tenth of a search. Nothing checks the
                            arguments then: the caller passes C-order arrays of the right dtypes

    Attributes
    ----------
    compiled : callable     what answers now, to be called without a step between; None until it is there
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
        """Whether the kernel itself answers now. If not, this sees to it that somebody compiles it, if that is on."""
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
        """Whether the kernel is loaded, or could be: it only looks for the files."""
        if self.compiled is not None:
            return True
        with _looking:
            return self._is_jitted and all(any(map(os.path.exists, paths)) for paths in self._paths)

    def _load(self) -> bool:
        """Take the kernel from the cache, if all of its versions are there."""
        if not self.is_there():
            return False
        if not all(self.root._cache.load(each, self.root.targetctx) for each in self._signatures):
            return False
        self.compile()
        return True

    def compile(self) -> bool:
        """Compile the kernel here, or take it from the cache; whether the next process will find it there."""
        if not self._is_jitted:
            return True
        with _looking:
            entries = [self.root.compile(each) for each in self._signatures]
            self.compiled = entries[0] if self._direct else self.root
        return bool(self.root._cache.kept)

    @property
    def _is_jitted(self) -> bool:
        """Not under NUMBA_DISABLE_JIT."""
        return hasattr(self.root, "overloads")

    @cached_property
    def _signatures(self) -> list[tuple[Any, ...]]:
        """The types of each version."""
        return [tuple(map(self.root.typeof_pyval, arguments)) for arguments in examples()[self.name]]

    @cached_property
    def _paths(self) -> list[list[Any]]:
        """For each version the files that may hold it."""
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
    """Wait until kernels are compiled; False if `stopped`, or if compiling is off.

    ``showing`` shows progress on a terminal, for a thread that a person waits for.
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
    """How far these kernels are, as in `CollectionInfo`; it only looks."""
    if all(kernel.is_there() for kernel in kernels):
        return "compiled"
    if not will_come():
        return "numpy"
    return "compiling" if background.has_begun() else "uncompiled"


def will_come() -> bool:
    """Whether kernels that are not compiled yet will be."""
    return background.mode() != "off"


def warm_up(part: str) -> None:
    """Wait until the kernels of a part are compiled; compile them here where that is switched off."""
    if not wait_for(PARTS[part]):
        for kernel in PARTS[part]:
            kernel.compile()
