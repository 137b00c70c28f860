"""Work shared by threads: all of it done, once; after an error or an interrupt nobody works on, and nothing hangs."""

import gc
import signal
import subprocess
import sys
import threading
import time
from collections import deque

import pytest

from bqstore.index import threads
from bqstore.index.threads import Pool, Workers, drain, together

LONG = 600  # seconds, where something would hang for ever


def taking(done, act=lambda portion: None):
    def work(portions):
        for portion in drain(portions):
            act(portion)
            done.append(portion)

    return work


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_every_portion_is_taken_once(threads):
    pool = Pool(4)
    for n in (0, 1, 5, 300):
        done = []
        together(taking(done), deque(range(n)), Workers(threads, lambda: pool))
        assert sorted(done) == list(range(n))


def test_one_thread_needs_no_pool():
    together(taking([]), deque(range(3)), Workers(1, lambda: pytest.fail("a pool was asked for")))


def test_a_thread_that_had_no_memory_to_say_that_it_had_ended_was_waited_for_for_ever(monkeypatch):
    """`add` under RLIMIT_AS; what it was doing is an error all the same."""
    pool, here, began = Pool(1), [], threading.Event()

    class Full(threads.SimpleQueue):
        def put(self, item):
            raise MemoryError

    monkeypatch.setattr(threads, "SimpleQueue", Full)

    def work(portions):
        if threading.get_ident() in here:
            began.wait(LONG)
        else:
            began.set()
            time.sleep(0.05)  # the calling thread waits by then
            raise MemoryError("no memory")

    def call(found):
        here.append(threading.get_ident())
        try:
            together(work, deque(range(3)), Workers(2, lambda: pool))
        except MemoryError as error:
            found.append(str(error))

    found = []
    caller = threading.Thread(target=call, args=(found,), daemon=True)
    caller.start()
    caller.join(LONG)
    assert found == ["no memory"]


class Portions(deque):
    """Portions that tell when they are given up."""

    def __init__(self, portions):
        super().__init__(portions)
        self.given_up = threading.Event()

    def clear(self):
        super().clear()
        self.given_up.set()


@pytest.mark.parametrize("where", ["here", "there"])
def test_an_error_of_any_thread_ends_it_and_nobody_works_on(where):
    """One side waits for the error of the other, and finishes its portion, but takes no other."""
    here, done, working, started = threading.get_ident(), [], [], threading.Event()
    portions = Portions(range(1000))

    def act(portion):
        if (threading.get_ident() == here) == (where == "here"):
            assert started.wait(LONG)
            raise ZeroDivisionError
        working.append(portion)
        started.set()
        assert portions.given_up.wait(LONG)
        working.remove(portion)

    pool = Pool(4)
    with pytest.raises(ZeroDivisionError):
        together(taking(done, act), portions, Workers(3, lambda: pool))
    assert not working and 1 <= len(done) <= 2


def test_a_busy_pool_is_not_waited_for():
    free, pool, done = threading.Event(), Pool(1), []
    pool.submit(free.wait, LONG)
    together(taking(done), deque(range(10)), Workers(2, lambda: pool))
    assert len(done) == 10 and not free.is_set()
    free.set()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no interval timer")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # in a finalizer an interrupt is lost
def test_an_interrupt_at_any_moment_hangs_nobody():
    """A lock of the pool's was left taken by one in ``submit``, and the next write waited for it for ever."""
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    pool, interrupted, number = Pool(2), 0, 0
    try:
        while interrupted < 200:  # the shortest times are too short for any machine
            number += 1
            done, working = [], []

            def act(portion, working=working):
                working.append(portion)
                working.remove(portion)

            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-6 + (number % 300) * 1e-6)
                together(taking(done, act), deque(range(30)), Workers(3, lambda: pool))
                signal.setitimer(signal.ITIMER_REAL, 0)
                for _ in range(2):  # a signal that has arrived is answered in a loop, at the latest
                    pass
                assert sorted(done) == list(range(30))
            except KeyboardInterrupt:
                interrupted += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            assert len(working) <= 1  # of the thread that was interrupted
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert pool.submit(len, "four").result(LONG) == 4


@pytest.mark.parametrize("allowed", [0, 1])
def test_where_no_more_threads_can_be_started_the_others_do_the_work(monkeypatch, allowed):
    """In a small container: RuntimeError: can't start new thread."""
    start, left = threads._thread.start_new_thread, [allowed]

    def some(*args):
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        return start(*args)

    monkeypatch.setattr(threads._thread, "start_new_thread", some)
    pool, done = Pool(3), []
    for _ in range(2):
        together(taking(done), deque(range(50)), Workers(4, lambda: pool))
    assert sorted(done) == sorted([*range(50)] * 2)


def test_threads_end_with_their_pool():
    pool = Pool(2)
    assert pool.submit(len, "four").result(LONG) == 4
    jobs = pool._jobs
    del pool
    gc.collect()
    until = time.monotonic() + LONG
    while not jobs.empty() and time.monotonic() < until:
        time.sleep(0.001)
    assert jobs.empty()  # each thread has taken its leave


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_future_tells_what_went_wrong(error):
    def fail():
        raise error("so")

    with pytest.raises(error, match="so"):
        Pool(1).submit(fail).result(LONG)


def test_exit_waits_for_no_pool():
    code = "import threading; from bqstore.index.threads import Pool; Pool(2).submit(threading.Event().wait)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=LONG)


def test_what_a_thread_of_a_pool_does_with_its_jobs():
    """Run here, as threads that are written in C are seen by no debugger."""
    jobs, pool = threads.SimpleQueue(), Pool(0)
    pool._jobs = jobs

    def fail():
        raise KeyError("its own error")

    good, bad, given_up = pool.submit(divmod, 7, 2), pool.submit(fail), pool.submit(pytest.fail, "it was given up")
    assert given_up.cancel()
    jobs.put(None)
    threads._serve(jobs)
    assert good.result() == (3, 1) and given_up.cancelled() and jobs.empty()
    with pytest.raises(KeyError, match="its own error"):
        bad.result()


def test_one_thread_has_no_pool_and_a_system_that_counts_for_all_is_asked(monkeypatch):
    with pytest.raises(AssertionError, match="alone"):
        threads.ALONE.pool()
    monkeypatch.delattr(threads.os, "sched_getaffinity", raising=False)
    for told, count in ((6, 6), (None, 1)):
        monkeypatch.setattr(threads.os, "cpu_count", lambda told=told: told)
        assert threads.cores() == count
