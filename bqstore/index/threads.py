"""The same work on several threads, whatever Ctrl-C breaks off.

A KeyboardInterrupt comes between any two instructions of the main thread: also right after a lock was taken, within the
Python code of `threading` and `concurrent.futures`. Such a lock is never given back, and who needs it next hangs. So
the thread that asks touches queues and threads that are written in C alone, and depends on no other: what the others
do not take, it takes itself.
"""

import _thread
import os
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
_Jobs = SimpleQueue[Callable[[], None] | None]


class Pool(Executor):
    """Threads that are started when they are first needed, and end with the pool; Python's exit waits for none."""

    def __init__(self, threads: int) -> None:
        self._jobs: _Jobs = SimpleQueue()
        self._to_start = [None] * threads
        weakref.finalize(self, _end, self._jobs, threads)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        """As that of any executor."""
        future: Future[T] = Future()

        def job() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    result = fn(*args, **kwargs)
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(result)

        while self._to_start:
            self._to_start.pop()  # an interrupt from here on, and there is a thread less
            _thread.start_new_thread(_serve, (self._jobs,))
        self._jobs.put(job)
        return future


def _serve(jobs: _Jobs) -> None:
    while (job := jobs.get()) is not None:
        job()
        del job  # what it holds may end with it


def _end(jobs: _Jobs, threads: int) -> None:
    for _ in range(threads):
        jobs.put(None)


class LazyPool:
    """A `Pool` that is made when it is first asked for."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool: Pool | None = None

    def __call__(self) -> Pool:
        """Give the pool."""
        pool = self._pool
        if pool is None:
            self._pool = pool = Pool(self._threads)  # two threads may each make one: the last is kept, both work
        return pool

    def drop(self) -> None:
        """Let the threads end with the last work that holds them."""
        self._pool = None


@dataclass(frozen=True)
class Workers:
    """How many threads may share a piece of work, and the pool that they come from.

    Parameters
    ----------
    threads : int       at most, the one that asks among them
    pool : callable     gives the pool
    """

    threads: int
    pool: Callable[[], Executor]

    def at_most(self, threads: int) -> "Workers":
        """The same pool, for another number of threads."""
        return self if threads == self.threads else replace(self, threads=threads)


def _no_pool() -> Executor:
    raise AssertionError("one thread works alone")


ALONE = Workers(1, _no_pool)


def cores() -> int:
    """The processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def together(work: Callable[[deque[T]], None], portions: deque[T], workers: Workers) -> None:
    """Let threads take portions from the left until none is left: the one that asks, and others where there are any.

    Parameters
    ----------
    work : callable     takes portions with ``popleft`` until that raises IndexError; run once by each thread
    workers : Workers   at most so many threads

    It returns, or raises, when no thread works any more. After an exception, of any thread, or Ctrl-C what portions are
    left are left.
    """
    begun: list[None] = []
    ended: list[None] = []
    over: list[None] = []
    errors: list[BaseException] = []
    told: SimpleQueue[None] = SimpleQueue()

    def other() -> None:
        begun.append(None)  # first: whoever has said that it is over waits for those that have begun
        try:
            if not over:
                work(portions)
        except BaseException as error:
            portions.clear()
            errors.append(error)
        finally:
            ended.append(None)
            told.put(None)

    try:
        if workers.threads > 1:
            pool = workers.pool()
            for _ in range(workers.threads - 1):
                pool.submit(other)
        work(portions)
    except BaseException:
        portions.clear()
        raise
    finally:
        over.append(None)
        _wait(begun, ended, told)
    if errors:
        raise errors[0]


def _wait(begun: list[None], ended: list[None], told: "SimpleQueue[None]") -> None:
    """Wait until all that have begun have ended, however often it is interrupted; then it is."""
    interrupt: BaseException | None = None
    while len(ended) < len(begun):  # an interrupt may have taken what was told, but not this
        try:
            told.get()
        except BaseException as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt
