"""Work shared by threads: all of it done, once; after an error or an interrupt nobody works on, and nothing hangs."""

import gc
import signal
import subprocess
import sys
import threading
import time
from collections import deque

import pytest

from bqstore.index.threads import Pool, Workers, together


def taking(done, act=lambda portion: None):
    def work(portions):
        while True:
            try:
                portion = portions.popleft()
            except IndexError:
                return
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


@pytest.mark.parametrize("where", ["here", "there"])
def test_an_error_of_any_thread_ends_it_and_nobody_works_on(where):
    here, done, working = threading.get_ident(), [], []

    def act(portion):
        time.sleep(0.001)
        if (threading.get_ident() == here) == (where == "here"):
            raise ZeroDivisionError
        working.append(portion)
        time.sleep(0.02)
        working.remove(portion)

    pool = Pool(4)
    with pytest.raises(ZeroDivisionError):
        together(taking(done, act), deque(range(1000)), Workers(3, lambda: pool))
    assert not working and len(done) < 1000


def test_a_busy_pool_is_not_waited_for():
    free, pool, done = threading.Event(), Pool(1), []
    pool.submit(free.wait, 10)
    together(taking(done), deque(range(10)), Workers(2, lambda: pool))
    assert len(done) == 10 and not free.is_set()
    free.set()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no interval timer")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # in a finalizer an interrupt is lost
def test_an_interrupt_at_any_moment_hangs_nobody():
    """A lock of the pool's was left taken by one in ``submit``, and the next write waited for it for ever."""
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    pool, interrupted = Pool(2), 0
    try:
        for number in range(3000):
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
        assert interrupted > 30
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert pool.submit(len, "four").result(20) == 4


def test_threads_end_with_their_pool():
    pool = Pool(2)
    assert pool.submit(len, "four").result(20) == 4
    jobs = pool._jobs
    del pool
    gc.collect()
    until = time.monotonic() + 20
    while not jobs.empty() and time.monotonic() < until:
        time.sleep(0.001)
    assert jobs.empty()  # each thread has taken its leave


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_future_tells_what_went_wrong(error):
    def fail():
        raise error("so")

    with pytest.raises(error, match="so"):
        Pool(1).submit(fail).result(20)


def test_exit_waits_for_no_pool():
    code = "import time; from bqstore.index.threads import Pool; Pool(2).submit(time.sleep, 60)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
