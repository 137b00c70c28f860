"""One event loop per process, in its own thread, on which all embedders send their requests.

A few worker threads do the work that takes CPU time or disk access (parsing answers, the cache), so the number of
threads does not grow with the number of calls.
"""

import asyncio
import atexit
import ctypes
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar

from ...errors import EmbeddingError
from ...forks import in_forks

P = ParamSpec("P")
T = TypeVar("T")

_WORKERS = 4  # each may hold an answer of some 40 MB
A_FEW = 16  # texts; a smaller answer takes less time to parse than to pass to a worker
_LAST_SECONDS = 5.0  # for cancelled tasks to finish at interpreter exit


class Background:
    """The loop's thread and the workers of one process; `background` returns the running one."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.workers = ThreadPoolExecutor(_WORKERS, "bqstore-embedding")
        self.loop = asyncio.new_event_loop()
        self.loop.set_default_executor(self.workers)  # for DNS look-ups, too
        self._thread = threading.Thread(target=self._serve, name="bqstore-embedding-loop", daemon=True)
        self._thread.start()
        atexit.register(self._end)

    def submit(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """Run a coroutine on the loop. Raises EmbeddingError at interpreter exit."""
        if self.loop.is_closed() or not self._thread.is_alive():
            work.close()
            raise EmbeddingError("nothing is embedded any more: Python is ending")
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    async def in_worker(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Await a function's call in a worker thread. Call it on this loop."""
        try:
            future = self.workers.submit(function, *args, **kwargs)
        except RuntimeError:  # interpreter exit, no new threads: store here what was paid for
            return function(*args, **kwargs)
        return await asyncio.wrap_future(future)

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        with suppress(Exception):
            self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self.loop.close()

    def _end(self) -> None:
        if os.getpid() == self.pid:  # a forked child has no such thread
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(_LAST_SECONDS)


def give_memory_back() -> None:
    """Make glibc release the memory of large answers: it keeps some 50 MB per thread that has parsed one."""
    if sys.platform == "linux":
        getattr(ctypes.CDLL(None), "malloc_trim", lambda keep: None)(0)  # only glibc has it


_running: list[Background] = []  # the last is this process's; a parent's is kept, as closing it would stop the parent's
_starting = threading.Lock()


def background() -> Background:
    """The background of this process, started when first needed."""
    with _starting:
        if not _running or _running[-1].pid != os.getpid():
            _running.append(Background())
        return _running[-1]


def _renew_lock() -> None:
    global _starting  # noqa: PLW0603  # a forked child has none of the threads that would release it
    _starting = threading.Lock()


in_forks(_renew_lock)
