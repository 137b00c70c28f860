"""Many threads, two processes, forks and interrupts: every answer is of one commit."""

import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import bqstore
from bqstore import BqstoreError, ClosedError, LockedError
from bqstore.engine import group_commit
from bqstore.engine.lifecycle import Lifecycle
from bqstore.engine.publisher import Publisher
from bqstore.storage import Rows, Store
from bqstore.storage.catalogue import Catalogue
from tests.conftest import HANGS, child, end_if_it_hangs, often

DIM = 16
ROOT = Path(bqstore.__file__).parents[1]
BITS = {"full_scan_threshold": 0}

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def vector_of(number: int) -> np.ndarray:
    """The vector that belongs to a number: every document here says which is its own."""
    return np.random.default_rng(number).standard_normal(DIM).astype(np.float32)


def put(col: bqstore.Collection, ids: list[str], numbers: list[int]) -> None:
    col.add(
        [vector_of(n) for n in numbers], ids, [f"text {n}" for n in numbers], [{"n": n, "even": n % 2} for n in numbers]
    )


def check_hit(hit: bqstore.Hit | bqstore.Record) -> None:
    """Vector, text and metadata are of one document at one time."""
    n = hit.metadata["n"]
    assert hit.text == f"text {n}" and hit.metadata["even"] == n % 2
    np.testing.assert_array_equal(hit.vector, vector_of(n))


def run_all(*tasks: Callable[[threading.Event], None]) -> None:
    """Run tasks in threads; the first is the one that ends them all. The first error is raised."""
    done = threading.Event()

    def lead(task: Callable[[threading.Event], None]) -> None:
        try:
            task(done)
        finally:
            done.set()

    with ThreadPoolExecutor(len(tasks)) as pool:
        futures = [pool.submit(lead, tasks[0])]
        futures += [pool.submit(task, done) for task in tasks[1:]]
    for future in futures:
        future.result()


def writer(col: bqstore.Collection, rounds: int, clear: bool = False) -> Callable[[threading.Event], None]:
    """Adds, upserts, deletes and updates; ten documents, "fixed-0" to "fixed-9", are always there."""

    def write(done: threading.Event) -> None:
        rng = np.random.default_rng(1)
        for step in range(rounds):
            put(col, [f"r{step}-{i}" for i in range(3)], rng.integers(0, 10_000, 3).tolist())
            put(col, [f"fixed-{step % 10}"], [int(rng.integers(0, 10_000))])
            col.delete([f"r{step - 5}-{i}" for i in range(2)])
            col.update_metadata([f"fixed-{(step + 3) % 10}"], {"seen": step})
            if step % 7 == 0:
                col.delete(filter={"even": 1, "n": [int(n) for n in rng.integers(0, 10_000, 200)]})
                put(col, [f"fixed-{i}" for i in range(10)], rng.integers(0, 10_000, 10).tolist())
            if done.is_set():
                break

    return write


def searcher(col: bqstore.Collection, seed: int) -> Callable[[threading.Event], None]:
    """Searches of every kind until it is told to stop, and at least once."""

    def search(done: threading.Event) -> None:
        rng = np.random.default_rng(seed)
        while True:
            query = rng.standard_normal(DIM)
            kind = rng.integers(0, 6)
            if kind == 0:
                hits = col.search(query, 5, with_vectors=True)
                assert len(hits) == 5
            elif kind == 1:
                hits = col.search(query, 5, filter={"even": 1}, with_vectors=True, oversampling=50)
                assert all(hit.metadata["even"] == 1 for hit in hits)
            elif kind == 2:
                hits = [hit for line in col.search_batch([query, -query], 3, with_vectors=True) for hit in line]
                assert len(hits) == 6
            elif kind == 3:
                hits = col.get([f"fixed-{i}" for i in range(10)], with_vectors=True)
                assert len(hits) >= 5
            elif kind == 4:
                hits = list(col.scroll(batch=7))
                assert len({hit.id for hit in hits}) == len(hits)
                hits = []
            else:
                ids, scores = col.search_ids(query, 4)
                assert None not in ids[0] and not np.isnan(scores).any()
                assert col.count({"even": 0}) >= 0 and len(col) >= 8
                hits = []
            for hit in hits:
                check_hit(hit)
            if kind in (0, 1):
                scores = [hit.vector @ query / np.linalg.norm(hit.vector) / np.linalg.norm(query) for hit in hits]
                np.testing.assert_allclose([hit.score for hit in hits], scores, atol=1e-5)
                assert scores == sorted(scores, reverse=True)
            if done.is_set():
                return

    return search


@pytest.mark.sampled(1)
@pytest.mark.parametrize("on_disk", [True, False], ids=["disk", "memory"])
@pytest.mark.parametrize("threshold", [0, 10_000], ids=["bits", "exact"])
def test_searches_while_one_writes_see_whole_documents(tmp_path, on_disk, threshold):
    with bqstore.open(tmp_path if on_disk else None, hnsw={"full_scan_threshold": threshold}) as col:
        put(col, [f"fixed-{i}" for i in range(10)], list(range(10)))
        run_all(writer(col, often(120)), *(searcher(col, seed) for seed in range(4)))
        assert col.verify().ok


def test_a_reader_in_the_same_process_follows_the_writer(tmp_path):
    with bqstore.open(tmp_path, hnsw=BITS) as col:
        put(col, [f"fixed-{i}" for i in range(10)], list(range(10)))
        with bqstore.open(tmp_path, read_only=True, hnsw=BITS) as reader:
            run_all(writer(col, often(100)), searcher(reader, 1), searcher(reader, 2))
            assert list(reader.scroll()) == list(col.scroll())
            assert reader.verify().ok


def test_several_threads_write(tmp_path):
    with bqstore.open(tmp_path) as col:

        def write(name: int) -> Callable[[threading.Event], None]:
            def run(done: threading.Event) -> None:
                for step in range(40):
                    put(col, [f"{name}-{step}", "shared"], [name * 100 + step, name])
                    if step % 4 == 3:
                        assert col.delete([f"{name}-{step - 1}"]) == 1

            return run

        run_all(*(write(name) for name in range(4)))
        assert len(col) == 4 * 30 + 1 and col.verify().ok
        for hit in col.search(vector_of(1), 200, with_vectors=True):
            check_hit(hit)


def test_threads_race_to_settle_the_dimension():
    for _ in range(20):
        with bqstore.open() as col:
            barrier = threading.Barrier(4)

            def add(dim: int, col: bqstore.Collection = col, barrier: threading.Barrier = barrier) -> int:
                barrier.wait()
                try:
                    col.add(np.ones((1, dim)))
                except bqstore.InvalidInputError:
                    return 0
                return 1

            with ThreadPoolExecutor(4) as pool:
                added = sum(pool.map(add, [8, 9, 8, 9]))
            assert added == len(col) == 2


def test_closing_while_searches_run_gives_hits_or_closed_error(tmp_path):
    for round_ in range(15):
        col = bqstore.open(tmp_path, hnsw=BITS)
        put(col, [f"fixed-{i}" for i in range(10)], list(range(10)))
        started = threading.Barrier(5)

        def search(seed: int, col: bqstore.Collection = col, started: threading.Barrier = started) -> None:
            query = np.random.default_rng(seed).standard_normal((20, DIM))
            started.wait()
            while True:
                try:
                    if seed == 0:
                        assert len(col.search(query[0], 3, with_vectors=True)) == 3
                    elif seed == 1:
                        assert all(len(hits) == 3 for hits in col.search_batch(query, 3, threads=2))
                    elif seed == 2:
                        assert len(list(col.scroll())) == 10
                    else:
                        put(col, ["fixed-1"], [seed])
                except ClosedError:
                    return

        with ThreadPoolExecutor(4) as pool:
            futures = [pool.submit(search, seed) for seed in range(4)]
            started.wait()
            for _ in range(round_ * 2000):
                pass
            col.close()
            for future in futures:
                future.result(timeout=HANGS)
        with pytest.raises(ClosedError):
            col.search(vector_of(0))
    with bqstore.open(tmp_path) as col:
        assert col.verify().ok and len(col) == 10


# ---- another process

FOLLOW = """
import sys, numpy as np, bqstore
col = bqstore.open(sys.argv[1], read_only=True, hnsw={"full_scan_threshold": 0})
print("ready", flush=True)
last, rounds = -1, 0
while True:
    rounds += 1
    hits = col.search(np.ones(16), 100, with_vectors=True)
    names = sorted(h.id for h in hits)
    # a commit adds a pair, or moves a coin from one document to the other, or clears and begins again
    assert all((n[:-1] + ("b" if n[-1] == "a" else "a")) in names for n in names if n[0] == "p"), names
    coins = {h.id: h.metadata["coins"] for h in hits if h.id[0] == "m"}
    assert sum(coins.values()) in ((10,) if coins else (0,)), coins
    for h in hits:
        assert h.text == str(h.metadata.get("coins", h.id))
    assert col.count({"kind": "pair"}) % 2 == 0
    ids, _ = col.search_ids(np.ones(16), 100)
    assert sum(i is not None and i[0] == "p" for i in ids[0]) % 2 == 0
    step = max((h.metadata["step"] for h in hits), default=last)
    assert step >= last
    last = step
    if "stop" in col:
        break
assert col.verify().ok
print("rounds", rounds)
"""


def moves(col: bqstore.Collection, step: int, rng: np.random.Generator) -> None:
    """One commit that keeps what `FOLLOW` checks."""
    if step % 40 == 39:
        col.clear()
    elif step % 3:
        names = [f"p{step}a", f"p{step}b"]
        col.add(rng.standard_normal((2, DIM)), names, names, [{"kind": "pair", "step": step}] * 2)
    else:
        left = int(rng.integers(0, 11))
        purses = [left, 10 - left]
        data = [{"coins": coins, "step": step} for coins in purses]
        col.add(rng.standard_normal((2, DIM)), ["m1", "m2"], [str(coins) for coins in purses], data)
    if step % 10 == 9 and step % 40 != 39:
        col.delete([f"p{s}{x}" for s in range(step - 8, step - 4) for x in "ab"])


def test_a_reader_in_another_process_sees_whole_commits_only(tmp_path):
    with bqstore.open(tmp_path) as col:
        moves(col, 0, np.random.default_rng(0))
        with child(
            [sys.executable, "-c", FOLLOW, str(tmp_path)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout.readline() == "ready\n", process.stderr.read()
            rng = np.random.default_rng(1)
            for step in range(1, often(300)):
                moves(col, step, rng)
            col.add([vector_of(0)], ["stop"], ["stop"], [{"step": 10_000}])
            out, errors = process.communicate(timeout=HANGS)
        assert process.returncode == 0, errors
        assert int(out.split()[1]) >= 1


def test_a_reader_that_was_to_read_new_codes_found_their_file_compacted_away(tmp_path, monkeypatch):
    """It rests between two commits, and what was added since is not in its map."""
    vectors = np.random.default_rng(0).standard_normal((1200, DIM)).astype(np.float32)
    with bqstore.open(tmp_path) as col:
        col.add(vectors[:20], [str(i) for i in range(20)])
        with bqstore.open(tmp_path, read_only=True) as reader:
            assert reader.count() == 20
            col.add(vectors[20:], [str(i) for i in range(20, 1200)])
            col.delete(["0"])
            reread, left = Store.reread, ["compact"]

            def then_compacted(self):
                head = reread(self)
                if self.read_only and left:
                    getattr(col, left.pop())()
                return head

            monkeypatch.setattr(Store, "reread", then_compacted)
            assert reader.count() == 1199 and not left
            assert reader.search(vectors[700], k=1)[0].id == "700"


@pytest.mark.slow
def test_readers_open_while_the_writer_begins_anew(tmp_path):
    """The files of a generation vanish between a reader's look at the head row and its opening of them."""
    with bqstore.open(tmp_path) as col:
        put(col, ["a"], [1])

        def clear(done: threading.Event) -> None:
            for step in range(often(150)):
                col.clear()
                put(col, ["a", "b"], [step, step + 1])

        def read(done: threading.Event) -> None:
            while not done.is_set():
                with bqstore.open(tmp_path, read_only=True, hnsw=BITS) as reader:
                    for _ in range(3):
                        assert len(reader.search(vector_of(0), 5)) in (0, 1, 2)
                        ids, _ = reader.search_ids(vector_of(0), 2)
                        assert len([i for i in ids[0] if i]) in (0, 1, 2)
                        assert reader.count({"even": 1}) in (0, 1)
                        assert len(list(reader.scroll({"even": 1}))) in (0, 1)
                        report = reader.verify()
                        assert report.ok, report.problems

        run_all(clear, read, read)


def test_an_exclusive_writer_refuses_others_in_this_process_and_in_others(tmp_path):
    code = (
        "import sys, bqstore\n"
        "try:\n    bqstore.open(sys.argv[1], lock_timeout=0)\n"
        "except bqstore.LockedError as error:\n    print(error)\n"
    )
    with bqstore.open(tmp_path, exclusive=True) as col:
        with pytest.raises(LockedError, match="this process"):
            bqstore.open(tmp_path)
        out = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert f"process {os.getpid()}" in out
        put(col, ["a"], [1])
    with bqstore.open(tmp_path) as col:
        assert len(col) == 1


# ---- forks


def forked(what: Callable[[], None], leave: Callable[[int], None] = os._exit) -> int:
    """Run in a fork; its exit status."""
    pid = os.fork()
    if pid == 0:
        end_if_it_hangs()
        status = 1
        try:
            what()
            status = 0
        finally:
            leave(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@needs_fork
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_cannot_use_the_collection_and_does_not_harm_it(tmp_path):
    with bqstore.open(tmp_path) as col:
        put(col, ["a", "b"], [1, 2])

        def child() -> None:
            for use in (
                lambda: put(col, ["c"], [3]),
                lambda: col.search(vector_of(1), 1),
                lambda: col.get(["a"]),
                lambda: col.delete(["a"]),
                lambda: len(col),
                lambda: "a" in col,
                lambda: list(col.scroll()),
                col.verify,
            ):
                try:
                    use()
                except ClosedError as error:
                    assert "fork" in str(error)
                else:
                    raise AssertionError("the fork used its parent's collection")
            with bqstore.open(tmp_path) as own:
                put(own, ["d"], [4])
                assert len(own) == 3 and own._engine.core is not col._engine.core
            col.close()
            col.close()

        assert forked(child) == 0
        put(col, ["c"], [3])
        assert len(col) == 4 and col.verify().ok
    with bqstore.open(tmp_path) as col:
        assert len(col) == 4 and col.verify().ok


LIVE_ON = """
import os, sys, numpy as np, bqstore
col = bqstore.open(sys.argv[1])
col.add(np.ones((3, 4)), ["a", "b", "c"])
if os.fork() == 0:
    print("forked", flush=True)
    sys.stdin.readline()     # lives until it is told; then ends as a program does, with all its clean-up
    try:
        len(col)
    except bqstore.ClosedError:
        print("closed", flush=True)
    sys.exit(0)
os.kill(os.getpid(), 9)
"""


@needs_fork
def test_the_lock_ends_with_the_parent_though_a_fork_lives_on(tmp_path):
    with child(
        [sys.executable, "-W", "ignore", "-c", LIVE_ON, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "forked\n"
        process.wait()
        with bqstore.open(tmp_path) as col:
            col.add(np.ones((1, 4)), ["d"])
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "closed\n"
            assert process.stdout.read() == ""  # the fork has ended
            col.add(np.ones((1, 4)), ["e"])
            assert len(col) == 5 and col.verify().ok
    with bqstore.open(tmp_path) as col:
        assert len(col) == 5 and col.verify().ok


def _in_a_worker(path: str) -> int:
    with bqstore.open(path, read_only=True) as col:
        return len(col.search(vector_of(1), 10))


@pytest.mark.parametrize("method", ["spawn"])
def test_worker_processes_read(tmp_path, method):
    with bqstore.open(tmp_path) as col:
        put(col, ["a", "b"], [1, 2])
        with multiprocessing.get_context(method).Pool(2) as pool:
            assert pool.map(_in_a_worker, [str(tmp_path)] * 2) == [2, 2]


# ---- Ctrl-C


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no interval timer")
# an interrupt in a destructor is lost: Python has nobody to tell
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("on_disk", [True, False], ids=["disk", "memory"])
def test_ctrl_c_at_any_moment_leaves_the_last_operation_in_or_out(tmp_path, on_disk):
    rng = np.random.default_rng(0)
    interrupted = 0
    bqstore.warm_up()  # an interrupt while numba compiles may leave its lock behind
    with bqstore.open(tmp_path if on_disk else None, hnsw=BITS) as col:
        truth: dict[str, int] = {}
        col.search_ids(vector_of(0), 1)  # ids and a column are kept up from here on
        col.count({"n": 1})
        before = signal.signal(signal.SIGALRM, signal.default_int_handler)
        try:
            for step in range(500):
                after, operation = change(col, truth, step)
                try:
                    signal.setitimer(signal.ITIMER_REAL, float(rng.uniform(1e-6, 1.5e-3)))
                    operation()
                    signal.setitimer(signal.ITIMER_REAL, 0)
                    done = True
                    for _ in range(2):  # a signal that has arrived is answered in a loop, at the latest
                        pass
                except KeyboardInterrupt:
                    interrupted += 1
                    done = False
                found = {record.id: record.metadata["n"] for record in col.scroll()}
                assert found == after or (not done and found == truth)
                truth = found
                check_whole(col, truth)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)  # of an operation that has failed: without a handler it would kill
            signal.signal(signal.SIGALRM, before)
        assert col.verify().ok and interrupted > 5
        with ThreadPoolExecutor(1) as pool:  # no lock was left behind
            assert pool.submit(put, col, ["last"], [1]).result(timeout=HANGS) is None
    if on_disk:
        with bqstore.open(tmp_path) as col:
            assert {r.id: r.metadata["n"] for r in col.scroll()} == {**truth, "last": 1}
            assert col.verify().ok


@pytest.mark.parametrize("on_disk", [True, False], ids=["disk", "memory"])
def test_the_head_of_a_commit_that_an_interrupt_prevented_was_taken_for_the_last(tmp_path, monkeypatch, on_disk):
    """Everything was refused from then on: the catalogue "has fewer commits than were seen here"."""
    writing, left = Catalogue.writing, []

    @contextlib.contextmanager
    def interrupted(self):
        """Ctrl-C comes when the transaction is to be committed; its end comes late, with the traceback."""
        left.append(writing(self))
        yield left[0].__enter__()
        raise KeyboardInterrupt

    with bqstore.open(tmp_path if on_disk else None, hnsw=BITS) as col:
        put(col, ["a", "b"], [1, 2])
        for change in (lambda: put(col, ["b", "c"], [3, 3]), col.compact):
            col.delete(["b"])
            with monkeypatch.context() as patched:
                patched.setattr(Catalogue, "writing", interrupted)
                with pytest.raises(KeyboardInterrupt):
                    change()
            assert {record.id: record.metadata["n"] for record in col.scroll()} == {"a": 1}
            left.clear()
            put(col, ["b"], [4])
            assert {record.id: record.metadata["n"] for record in col.scroll()} == {"a": 1, "b": 4}
        assert col.verify().ok


@pytest.mark.parametrize("on_disk", [True, False], ids=["disk", "memory"])
def test_a_thread_whose_read_was_interrupted_read_what_was_not_committed(tmp_path, monkeypatch, on_disk):
    """Everything was refused from then on, if a write was interrupted, too: "fewer commits than were seen here"."""
    writing, pin, left = Catalogue.writing, Store._pin, []

    @contextlib.contextmanager
    def pinned(self, *given):
        """Ctrl-C comes when it is to be unpinned."""
        with pin(self, *given):
            entry = dict(self._pinned)
            yield
        self._pinned.update(entry)

    @contextlib.contextmanager
    def interrupted(self):
        left.append(writing(self))
        yield left[0].__enter__()
        raise KeyboardInterrupt

    with bqstore.open(tmp_path if on_disk else None, hnsw=BITS) as col:
        put(col, ["a", "b"], [1, 2])
        with monkeypatch.context() as patched:
            patched.setattr(Store, "_pin", pinned)
            col.update_metadata(["a"], {"n": 1})
        assert col._engine.store._pinned
        with monkeypatch.context() as patched:
            patched.setattr(Catalogue, "writing", interrupted)
            with pytest.raises(KeyboardInterrupt):
                col.delete(["b"])
        assert {record.id: record.metadata["n"] for record in col.scroll()} == {"a": 1, "b": 2}
        left.clear()
        put(col, ["b"], [4])
        assert {record.id: record.metadata["n"] for record in col.scroll()} == {"a": 1, "b": 4}

        begun, go_on = threading.Event(), threading.Event()

        def fail():
            with contextlib.suppress(ZeroDivisionError), col._engine.store.catalogue.writing() as main:
                main.execute("DELETE FROM rows")
                begun.set()
                go_on.wait(HANGS)
                raise ZeroDivisionError

        with ThreadPoolExecutor(1) as pool:
            failed = pool.submit(fail)
            assert begun.wait(HANGS)
            if on_disk:  # in memory it waits for the write
                assert len(col.get(["a", "b"])) == 2
            go_on.set()
            failed.result(HANGS)
        assert col.verify().ok


def test_what_was_committed_when_an_interrupt_came_was_stored_again_by_a_later_add(monkeypatch):
    """It took the place of what had been written in between."""
    are_committed = group_commit.Group.are_committed

    def interrupted(self, those):
        those[0].committed = True
        monkeypatch.setattr(group_commit.Group, "are_committed", are_committed)
        raise KeyboardInterrupt

    with bqstore.open(hnsw=BITS) as col:
        monkeypatch.setattr(group_commit.Group, "are_committed", interrupted)
        with pytest.raises(KeyboardInterrupt):
            put(col, ["a"], [1])
        assert not col._engine.core.group.waiting
        col.update_metadata(["a"], {"n": 2})
        put(col, ["b"], [3])
        assert {record.id: record.metadata["n"] for record in col.scroll()} == {"a": 2, "b": 3}


def change(col: bqstore.Collection, truth: dict[str, int], step: int) -> tuple[dict[str, int], Callable[[], object]]:
    """What would be there after an operation, and the operation."""
    some = [f"i{(step * 7 + i) % 30}" for i in range(3)]
    if step % 50 == 49:
        return {}, col.clear
    if step % 5 == 1:
        left = {id_: n for id_, n in truth.items() if id_ not in some}
        return left, lambda: col.delete(some)
    if step % 5 == 2:
        left = {id_: n for id_, n in truth.items() if n not in (step - 1, step - 3)}
        return left, lambda: col.delete(filter={"n": [step - 1, step - 3]})
    if step % 5 == 3:
        data = {"n": step, "even": step % 2}
        return {**truth, **{i: step for i in some if i in truth}}, lambda: col.update_metadata(some, data)
    return {**truth, **dict.fromkeys(some, step)}, lambda: put(col, some, [step] * 3)


def check_whole(col: bqstore.Collection, truth: dict[str, int]) -> None:
    """Every way to ask gives the same documents."""
    assert len(col) == len(truth)
    hits = col.search(vector_of(1), 100, oversampling=10)
    assert {hit.id: hit.metadata["n"] for hit in hits} == truth
    ids, _ = col.search_ids(vector_of(1), 50)
    assert {i for i in ids[0] if i is not None} == truth.keys()
    for n in set(truth.values()):
        assert col.count({"n": n}) == sum(value == n for value in truth.values())
    assert all((id_ in col) == (id_ in truth) for id_ in ("i0", "i3", "i9"))


def test_an_error_in_a_thread_is_of_the_tree_when_the_files_vanish(tmp_path):
    with bqstore.open(tmp_path / "store", hnsw=BITS) as col:
        put(col, ["a", "b"], [1, 2])
        with bqstore.open(tmp_path / "store", read_only=True) as reader:
            shutil.rmtree(tmp_path / "store")
            for use in (lambda: reader.search(vector_of(1), 1), lambda: put(col, ["c"], [3]), lambda: col.get(["a"])):
                with contextlib.suppress(BqstoreError):
                    use()


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_no_search_waits_for_a_write_that_is_being_synced(tmp_path, where, monkeypatch):
    """Loading a column, looking ids up and scrolling took the writer's lock, held across its syncs."""
    with bqstore.open(tmp_path if where == "disk" else None) as col:
        col.add(np.eye(4) + 0.1, list("abcd"), metadatas=[{"x": i} for i in range(4)])
        syncing, answered = threading.Event(), threading.Event()
        kind = type(col._engine.store.codes)
        real = kind.sync

        def slow(self):
            syncing.set()
            assert answered.wait(HANGS), "the search waits for the write"
            real(self)

        monkeypatch.setattr(kind, "sync", slow)
        writer = threading.Thread(target=col.add, args=(np.eye(4)[:1], ["e"]))
        writer.start()
        try:
            assert syncing.wait(HANGS)
            query = [1.0, 0, 0, 0]
            assert [h.id for h in col.search(query, filter={"x": 2})] == ["c"]
            assert [h.id for h in col.search(query, filter={"_bq_id": ["d", "e"]})] == ["d"]
            assert col.search_ids(query, 4)[0].tolist()[0][0] == "a"
            assert [r.id for r in col.scroll()] == list("abcd") and col.count({"x": [0, 1]}) == 2
            assert col.get(["a"])[0].id == "a" and "e" not in col and len(col) == 4
        finally:
            answered.set()
            writer.join()
        assert len(col) == 5 and col.search_ids([1.0, 0, 0, 0], 5)[0].tolist()[0].count(None) == 0


def test_a_search_waited_for_a_batch_that_began_between_its_look_and_the_lock(tmp_path, monkeypatch):
    """Whoever is about to hold the lock for long waits for such a search, which has it for a moment."""
    with bqstore.open(tmp_path) as col:
        publisher, order = col._engine.publisher, []

        def begin():
            publisher.begin_long()
            order.append("long")

        other = threading.Thread(target=begin)

        def caught_up():
            other.start()
            time.sleep(0.2)
            order.append("looked")
            return False

        monkeypatch.setattr(publisher, "_caught_up", caught_up)
        publisher.look()
        other.join()
        publisher.busy.clear()
        assert order == ["looked", "long"]


def test_columns_loaded_beside_a_busy_writer_are_right_and_are_kept(tmp_path):
    with bqstore.open(tmp_path) as col:
        col.add(
            np.ones((500, 2)),
            [f"d{i}" for i in range(500)],
            metadatas=[{f"k{j}": i % 3 for j in range(40)} for i in range(500)],
        )
        stop = threading.Event()

        def write():
            i = 0
            while not stop.is_set():
                col.add(np.ones((1, 2)), [f"new{i % 20}"], metadatas=[{"k0": 9}])
                col.update_metadata([f"new{i % 20}"], {"k1": 9})
                i += 1

        thread = threading.Thread(target=write)
        thread.start()
        try:
            for j in range(40):
                assert col.count({f"k{j}": [0, 1, 2]}) == 500
                hits = col.search([1.0, 1.0], 600, filter={f"k{j}": 0})
                assert len(hits) == 167 and all(hit.metadata[f"k{j}"] == 0 for hit in hits)
        finally:
            stop.set()
            thread.join()
        assert {f"k{j}" for j in range(40)} <= set(col._engine.publisher.current().columns)
        assert col.count({"k0": 9}) == len(col) - 500 and col.verify().ok


class NoWait:
    """In the place of what a thread waits at to be woken by who commits."""

    def acquire(self, timeout):
        raise AssertionError("it waits for a wake-up that only its own thread could give")

    def release(self):
        pass


def test_a_signal_handler_that_adds_just_before_its_threads_own_write_waited_for_itself(monkeypatch):
    """For a quarter of a second each; handlers of a timer that is quicker came upon each other without end."""
    monkeypatch.setattr(group_commit.Adding, "__post_init__", lambda self: setattr(self, "gate", NoWait()))
    with bqstore.open() as col:
        col.add(np.eye(4)[:1], ["first"])
        left, write = ["handler"], Publisher.write

        def interrupted(self, *given):
            if left:
                col.add(np.eye(4)[1:2], [left.pop()])
            return write(self, *given)

        monkeypatch.setattr(Publisher, "write", interrupted)
        assert col.add(np.eye(4)[2:3], ["last"]) == ["last"]
        assert sorted(col.ids()) == ["first", "handler", "last"]


class Interrupted:
    """In the place of what a thread waits at: a signal handler runs while it does."""

    def __init__(self, handler, lock):
        self.handler, self.lock = handler, lock
        self._is_owned = getattr(lock, "_is_owned", None)

    def acquire(self, blocking=True, timeout=-1):
        self.handler()
        return self.lock is not None and self.lock.acquire()

    def release(self):
        pass

    def __exit__(self, *error):
        self.lock.release()


@pytest.mark.parametrize("beneath", ["another thread's commit", "its turn"])
def test_handlers_of_a_quick_timer_came_upon_each_other_while_their_thread_waited(monkeypatch, beneath):
    """Each waited for another thread beneath the one before, until Python's stack was full."""
    refused = []
    with bqstore.open() as col:
        col.add(np.eye(4), ["a", "b", "c", "d"])

        def handler():
            if len(refused) < 2:
                for call in (lambda: col.add(np.eye(4)[:1], ["handler"]), lambda: col.delete(["a"])):
                    refused.append(call)  # before it, as it must not come here again
                    with pytest.raises(LockedError, match="inside a write"):
                        call()
                assert col.search(np.eye(4)[0], k=1)[0].id == "a", "a read needs no turn"

        life, group = col._engine.lifecycle, col._engine.core.group
        if beneath == "its turn":
            monkeypatch.setattr(life, "turn", Interrupted(handler, life.turn))
        else:
            monkeypatch.setattr(group_commit.Adding, "__post_init__", lambda self: setattr(self, "gate", waited_at))
            waited_at = Interrupted(handler, None)
            group._leader = -1  # another thread
        assert col.add(np.eye(4)[2:3], ["last"]) == ["last"]
        assert len(refused) == 2 and sorted(col.ids()) == ["a", "b", "c", "d", "last"]
        assert col.delete(["b"]) == 1


def test_a_close_in_a_signal_handler_at_the_end_of_its_threads_write_waited_for_itself():
    """Wherever the handler comes while the write has its turn, gets it or gives it back."""
    ends = []

    def close_at(place):
        """Close a collection at a place of a write; whether there is one."""
        col, left = bqstore.open(), [None] * place

        def step(frame, event, _):
            if event == "opcode":
                if left:
                    left.pop()
                elif not col._engine.closed:
                    with contextlib.suppress(LockedError):
                        col.close()
                    sys.settrace(None)
            return step

        def trace(frame, *_):
            if frame.f_code is Publisher.in_turn.__code__:
                frame.f_trace_opcodes, frame.f_trace_lines = True, False
                return step
            return None

        sys.settrace(trace)
        with contextlib.suppress(ClosedError):
            col._engine.write(lambda: None)
        sys.settrace(None)
        ends.append(col._engine.closed)
        col.close()
        return not left

    def close_at_each():
        place = 0
        while close_at(place):
            place += 1

    thread = threading.Thread(target=close_at_each, daemon=True)
    thread.start()
    thread.join(HANGS)
    assert not thread.is_alive() and len(ends) > 20 and True in ends[:-1]


def test_an_add_was_refused_whose_committer_was_interrupted_behind_the_commit(monkeypatch):
    """Before it had said that this was the end of it."""
    monkeypatch.setattr(group_commit, "_OUTCOME", 0.001)
    mine = group_commit.Adding(
        np.eye(4, dtype=np.float32)[:1], Rows(["a"], [None], [None], [None], [None]), None, np.zeros((1, 1), np.uint64)
    )
    mine.claim.acquire()

    def write():
        mine.committed = True
        raise LockedError("another process writes")

    group_commit.Group(Lifecycle()).add(mine, write, 0)
