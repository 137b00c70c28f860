"""Where Python calls a kernel: the compiled one as soon as it is there, until then its twin in numpy.

What is called before it is compiled is answered by `plain`, while `background` compiles in other processes. The graph's
kernels have no twin: searches scan until they are there, and who must link waits (`Kernel.wait`).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from bqstore.kernels import api, background, metadata, plain
from bqstore.kernels.examples import examples
from bqstore.progress import Progress

_EVERY = 0.05  # seconds between two looks for what has been compiled
_looking = [threading.RLock()]
if hasattr(os, "register_at_fork"):  # a fork while a thread of the parent looks would find the lock taken for ever
    os.register_at_fork(after_in_child=lambda: _looking.__setitem__(0, threading.RLock()))


class Kernel:
    """One root and its twin.

    Parameters
    ----------
    root : callable         compiled by numba; as it stands under NUMBA_DISABLE_JIT
    twin : callable         answers in its place until it is compiled; None: nothing can
    direct : bool           call the root's one version without numba's look at the types of its arguments. For some
                            twenty arrays in tuples that takes 3.5 microseconds, a tenth of a search. Nothing checks the
                            arguments then: the caller passes C-order arrays of the right dtypes
    """

    def __init__(self, root: Any, twin: Callable[..., Any] | None, direct: bool = False) -> None:
        self.root, self.name = root, root.__name__
        self._twin, self._direct = twin, direct
        self._compiled: Callable[..., Any] | None = None
        self._next_look = 0.0

    def __call__(self, *args: Any) -> Any:  # noqa: D102
        compiled = self._compiled
        if compiled is not None:
            return compiled(*args)
        if not self.is_compiled():
            if self._twin is not None:
                return self._twin(*args)
            self.wait()
        return self._compiled(*args) if self._compiled is not None else self.root(*args)

    def is_compiled(self) -> bool:
        """Whether the kernel itself answers now; if not, somebody is compiling it, unless that is switched off."""
        if self._compiled is not None:
            return True
        with _looking[0]:  # a thread that comes while another one loads the kernel waits, and uses it too
            if self._compiled is None and time.monotonic() >= self._next_look:
                mode = background.mode()
                loaded = mode != "foreground" and self._load()
                if not loaded and (mode == "foreground" or (mode == "background" and not background.is_compiling())):
                    self.compile()
                self._next_look = time.monotonic() + _EVERY
        return self._compiled is not None

    def _load(self) -> bool:
        """Take the kernel from the cache, if all of its versions are there."""
        if not hasattr(self.root, "overloads"):  # NUMBA_DISABLE_JIT
            return False
        signatures = self.signatures()
        if not all(self.root._cache.load(each, self.root.targetctx) for each in signatures):
            return False
        self._take(signatures)
        return True

    def compile(self) -> None:
        """Compile the kernel in this process, or take it from the cache."""
        if hasattr(self.root, "overloads"):
            self._take(self.signatures())

    def _take(self, signatures: list[tuple[Any, ...]]) -> None:
        entries = [self.root.compile(each) for each in signatures]
        self._compiled = entries[0] if self._direct else self.root

    def signatures(self) -> list[tuple[Any, ...]]:
        """The types of each version."""
        return [tuple(map(self.root.typeof_pyval, arguments)) for arguments in examples()[self.name]]

    def wait(self) -> None:
        """Wait until the kernel is compiled, and compile it here where nobody else does."""
        while not self.is_compiled() and will_come():
            time.sleep(_EVERY)


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
LINKING = (find_links, merge_links)
GRAPH = (*LINKING, search_graph, check_graph)
PARTS = {"core": CORE + METADATA, "graph": GRAPH, "all": CORE + METADATA + GRAPH}


def wait_for(kernels: Iterable[Kernel], stopped: Callable[[], bool] = lambda: False) -> bool:
    """Wait until kernels are compiled, with progress on a terminal; False if `stopped`, or if compiling is off."""
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
            progress(ready)
            time.sleep(_EVERY)


def will_come() -> bool:
    """Whether kernels that are not compiled yet will be."""
    return background.mode() != "off"


def warm_up(part: str) -> None:
    """Wait until the kernels of a part are compiled; compile them here where that is switched off."""
    if not wait_for(PARTS[part]):
        for kernel in PARTS[part]:
            kernel.compile()
