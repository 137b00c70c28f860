"""Spread work over several threads so that no KeyboardInterrupt can leave a deadlock behind.

A KeyboardInterrupt is raised between any two instructions of the main thread: also right after it acquired a lock,
inside the Python code of `threading` and `concurrent.futures`. Such a lock is never released, and the next thread that
needs it hangs. So the calling thread uses only queues and threads that are written in C, and never waits for another
thread to take a portion of the work: what the others do not take, it takes itself.
"""

import _thread
import os
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
_Jobs = SimpleQueue[Callable[[], None] | None]
_LOOK = 0.1  # seconds between two looks whether the others have ended, in case a message was lost


class Pool(Executor):
    """An executor whose threads start when first needed and end with the pool; Python's exit waits for none."""

    def __init__(self, threads: int) -> None:
        self._jobs: _Jobs = SimpleQueue()
        self._to_start, self._threads = [None] * threads, threads
        weakref.finalize(self, _end, self._jobs, threads)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        """Run a call on one of the threads; RuntimeError where not one can be started."""
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
            self._to_start.pop()  # after an interrupt between these lines the pool has one thread less
            try:
                _thread.start_new_thread(_serve, (self._jobs,))
            except RuntimeError:  # no more threads, in a small container or because Python ends
                self._to_start.append(None)
                if len(self._to_start) == self._threads:
                    raise
                break
        self._jobs.put(job)
        return future


def _serve(jobs: _Jobs) -> None:
    while (job := jobs.get()) is not None:
        job()
        del job  # release what it refers to


def _end(jobs: _Jobs, threads: int) -> None:
    for _ in range(threads):
        jobs.put(None)


class LazyPool:
    """A `Pool` that is made when it is first asked for."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool: Pool | None = None

    def __call__(self) -> Pool:
        """Return the pool."""
        pool = self._pool
        if pool is None:
            self._pool = pool = Pool(self._threads)  # two threads may both make one: both work, the last is kept
        return pool

    def drop(self) -> None:
        """Let the threads end when nobody uses the pool any more."""
        self._pool = None


@dataclass(frozen=True)
class Workers:
    """How many threads may share a piece of work, and their pool.

    Parameters
    ----------
    threads : int       at most, including the calling one
    pool : callable     returns the pool
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
    """Let the calling thread, and as many others as `workers` allows, take portions until none is left.

    It returns, or raises, when no thread works any more. After an exception of any thread, or a KeyboardInterrupt, the
    portions that are left are not done.

    Parameters
    ----------
    work : callable     takes portions with `drain`; run once by each thread
    """
    # setting an entry takes no memory: a thread that fails for lack of it must still be able to report its end
    begun, ended = [False] * (workers.threads - 1), [False] * (workers.threads - 1)
    over = [False]
    failed: list[BaseException | None] = [None]
    finished: SimpleQueue[None] = SimpleQueue()

    def other(number: int) -> None:
        begun[number] = True  # before the look at ``over``: the calling thread waits for all that have begun
        try:
            if not over[0]:
                work(portions)
        except BaseException as error:
            failed[0] = error
            portions.clear()
        finally:
            ended[number] = True
            finished.put(None)

    try:
        if workers.threads > 1:
            pool = workers.pool()
            with suppress(RuntimeError):  # no thread can be started: this one does all
                for number in range(workers.threads - 1):
                    pool.submit(other, number)
        work(portions)
    except BaseException:
        portions.clear()
        raise
    finally:
        over[0] = True
        _wait(begun, ended, finished)
    if failed[0] is not None:
        raise failed[0]


def drain(portions: deque[T]) -> Iterator[T]:
    """Take portions from the left until none is left; several threads may do so at once."""
    while True:
        try:
            portion = portions.popleft()
        except IndexError:
            return
        yield portion


def _wait(begun: list[bool], ended: list[bool], finished: "SimpleQueue[None]") -> None:
    """Wait until all threads that have begun have ended, however often it is interrupted; then raise the interrupt."""
    interrupt: BaseException | None = None
    while begun != ended:  # an interrupt, or a lack of memory, may have lost a message of the queue, but not these
        try:
            finished.get(timeout=_LOOK)
        except Empty:
            continue
        except BaseException as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt
