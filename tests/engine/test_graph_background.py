"""Linking that is interrupted, left to a thread, or cut off by the end of the process; and what a person sees of it."""

import io
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import bqstore
from bqstore import progress
from bqstore.engine import graph_builder, graph_upkeep
from bqstore.engine.graph_builder import GraphBuilder
from bqstore.engine.graph_persistence import GraphPersistence
from bqstore.engine.graph_upkeep import GraphUpkeep
from bqstore.index import HnswGraph
from tests.conftest import FULL, HANGS, wait_until
from tests.engine.given import BITS, SIGNS, data_of, filled, hammings, let_walk, recall_on_bits

N, DIM, K = 2300, 64, 10
BASE, QUERIES = data_of(N, DIM, queries=20)
ROOT = Path(bqstore.__file__).parents[1]


# said of every folder whose snapshot is lost; test_graph_snapshot.py looks whether it is
pytestmark = pytest.mark.filterwarnings("ignore:there is no snapshot of the graph:RuntimeWarning")


@pytest.fixture(autouse=True)
def walk(monkeypatch):
    let_walk(monkeypatch)


@pytest.fixture(scope="module")
def lost(tmp_path_factory):
    """A folder whose snapshot is lost, made once."""
    path = tmp_path_factory.mktemp("lost") / "store"
    filled(path, BASE).close()
    (snapshot,) = path.rglob("snap-*")
    snapshot.unlink()
    return path


@pytest.fixture
def without_graph(tmp_path, lost, monkeypatch):
    """A copy of it; any tail is linked in the background."""
    path = tmp_path / "store"
    shutil.copytree(lost, path)
    monkeypatch.setattr(graph_builder, "TAIL", 0)
    monkeypatch.setattr(graph_builder, "TAIL_PART", 0.0)
    return path


def linkers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "bqstore-linking"]


def check_all_there(col, base=BASE):
    assert len(col) == len(base)
    ids, _ = col.search_ids(base[::20], 1, oversampling=10)
    assert ids[:, 0].tolist() == [f"d{i}" for i in range(0, len(base), 20)]
    ids, _ = col.search_ids(QUERIES, K, rescore=False)
    assert recall_on_bits(ids, hammings(base, QUERIES)) >= 0.97
    assert len(col.search(QUERIES[0], 10_000)) == len(base)


# ---- Ctrl-C


@pytest.mark.sampled(4)
@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.parametrize(("name", "when"), [("link", 1), ("link", 40), ("_merge", 1), ("_merge", 70), ("_grow", 1)])
def test_ctrl_c_while_linking_comes_after_the_commit(tmp_path, monkeypatch, where, name, when):
    with bqstore.open(None if where == "memory" else tmp_path, hnsw=BITS, quantization=SIGNS) as col:
        real, calls = getattr(HnswGraph, name), []

        def interrupted(*arguments):
            calls.append(1)
            if len(calls) == when:
                raise KeyboardInterrupt
            return real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(HnswGraph, name, interrupted)
            with pytest.raises(KeyboardInterrupt):
                col.add(BASE, [f"d{i}" for i in range(N)])
        linked = col.info().linked
        assert linked < N
        check_all_there(col)
        col.delete(["unknown"])  # any write goes on with it, also one that changes nothing
        assert col.info().linked == N
        check_all_there(col)
        assert col.verify().ok
    if where == "disk":
        with bqstore.open(tmp_path, hnsw=BITS, quantization=SIGNS) as col:
            assert col.info().linked == N
            check_all_there(col)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no interval timer")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.sampled(1)
@pytest.mark.parametrize("threads", [2, 1])
def test_ctrl_c_at_any_moment_of_adding_and_linking(tmp_path, threads):
    """A batch of several hundred rows at a time, so that most of the time goes into the graph."""
    bqstore.warm_up()
    rng, interrupted = np.random.default_rng(threads), 0
    base, _ = data_of(9000, DIM)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        with bqstore.open(tmp_path, hnsw=BITS, quantization=SIGNS, threads=threads) as col:
            col.add(base[:2100], [f"d{i}" for i in range(2100)])
            n = 2100
            for _ in range(25):
                more = min(300, len(base) - n)
                try:
                    signal.setitimer(signal.ITIMER_REAL, float(rng.uniform(1e-3, 4e-2)))
                    col.add(base[n : n + more], [f"d{i}" for i in range(n, n + more)])
                    signal.setitimer(signal.ITIMER_REAL, 0)
                    for _ in range(2):  # a signal that has arrived is answered in a loop, at the latest
                        pass
                except (KeyboardInterrupt, RuntimeError) as error:
                    # Condition.wait of a future answers an interrupt at the wrong moment with this
                    assert isinstance(error, KeyboardInterrupt) or "un-acquired lock" in str(error)
                    interrupted += 1
                    assert len(col) in (n, n + more)
                n = len(col)
                info = col.info()
                assert info.linked <= n == info.count
                ids, _ = col.search_ids(base[n - 300 : n], 1, oversampling=5)
                assert ids[:, 0].tolist() == [f"d{i}" for i in range(n - 300, n)]
            col.flush()
            assert interrupted > 3 and col.info().linked == n and col.verify().ok
            check_all_there(col, base[:n])
            assert col._engine.graph.builder.graph is not None
            assert bqstore.kernels.api.check_graph(col._engine.graph.builder.graph.view) == 0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    with bqstore.open(tmp_path, hnsw=BITS, quantization=SIGNS) as col:
        assert col.info().linked == n
        check_all_there(col, base[:n])


def test_ctrl_c_while_flushing_and_closing(tmp_path, monkeypatch):
    with filled(tmp_path, BASE) as col:
        with monkeypatch.context() as patch:
            patch.setattr(GraphPersistence, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                col.flush()
            with pytest.raises(KeyboardInterrupt):
                col.close()
        check_all_there(col)  # not closed: it was interrupted before
        col.close()
    with bqstore.open(tmp_path, hnsw=BITS, quantization=SIGNS) as col:
        assert col.info().linked == N


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="this system has no SIGUSR1")
@pytest.mark.parametrize("where", ["memory", "disk"])
def test_whatever_a_signal_handler_calls_while_linking_is_refused_and_changes_nothing(tmp_path, monkeypatch, where):
    path = None if where == "memory" else tmp_path
    col, real, seen = bqstore.open(path, hnsw=BITS, quantization=SIGNS), HnswGraph.link, []

    def look(call):
        try:
            seen.append(call())
        except bqstore.BqstoreError as error:
            seen.append(type(error))

    def handler(*_):
        look(lambda: len(col))
        look(lambda: len(col.search(QUERIES[0], 20)))
        look(lambda: col.search_ids(QUERIES, 3)[0].shape)
        look(lambda: col.info().linked)
        for write in (lambda: col.add(QUERIES), lambda: col.delete(["d1"]), col.compact, col.flush, col.clear):
            look(write)
        look(col.close)

    def link(self, *arguments):
        if len(self) > 1000 and not seen:
            signal.raise_signal(signal.SIGUSR1)
            for _ in range(2):  # where signals are answered
                pass
        return real(self, *arguments)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(HnswGraph, "link", link)
            col.add(BASE, [f"d{i}" for i in range(N)])
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [bqstore.LockedError] * 10
    check_all_there(col)
    assert col.info().linked == N
    col.close()
    if path is not None:
        with bqstore.open(path, hnsw=BITS, quantization=SIGNS) as again:
            check_all_there(again)
            assert again.info().linked == N


# ---- the thread


def slowed(monkeypatch, batches=1_000_000):
    """What is done of a graph: its thread rests after so many batches, until it is stopped or let go."""
    done, let_go, real, step = [], threading.Event(), HnswGraph.link, GraphUpkeep._link_some

    def link(self, *arguments):
        time.sleep(0.01)
        done.append(len(self))
        return real(self, *arguments)

    def link_some(self):
        if len(done) >= batches:
            wait_until(lambda: self.builder._stop.is_set() or let_go.is_set())
        return step(self)

    monkeypatch.setattr(HnswGraph, "link", link)
    monkeypatch.setattr(GraphUpkeep, "_link_some", link_some)
    return done, let_go


@pytest.mark.parametrize("read_only", [False, True])
def test_closing_ends_the_thread_within_a_batch(without_graph, monkeypatch, read_only):
    done, _ = slowed(monkeypatch, 40)
    col = bqstore.open(without_graph, hnsw=BITS, quantization=SIGNS, read_only=read_only)
    assert len(linkers()) == 1
    wait_until(lambda: len(done) == 40)  # and no more, however late the close comes
    col.close()
    assert len(done) <= 42 and done[-1] < N - 500 and linkers() == []
    kept = list(without_graph.rglob("snap-*"))
    assert len(kept) == (0 if read_only else 1)  # what was done is not done again
    with bqstore.open(without_graph, hnsw=BITS, quantization=SIGNS) as again:
        assert read_only or again.info().linked >= done[-1]
        check_all_there(again)


def test_dropping_the_collection_ends_the_thread(without_graph, monkeypatch):
    done, _ = slowed(monkeypatch, 20)
    col = bqstore.open(without_graph, hnsw=BITS, quantization=SIGNS)
    wait_until(lambda: len(done) >= 10)
    del col
    assert linkers() == [] and done[-1] < N - 500
    with bqstore.open(without_graph, hnsw=BITS, quantization=SIGNS) as col:  # its lock is free
        check_all_there(col)


def test_calls_of_every_kind_while_the_thread_works(without_graph, monkeypatch):
    _, let_go = slowed(monkeypatch, 40)
    with bqstore.open(without_graph, hnsw=BITS, quantization=SIGNS) as col:
        check_all_there(col)
        col.update_metadata(["d1"], {"x": 1})
        assert col.count({"x": 1}) == 1 and len(col.search(QUERIES[0], 5, filter={"m": 3})) == 5
        col.delete(["d2"])
        col.add(BASE[2:3], ["d2"])
        assert linkers() and col.info().linked < N
        let_go.set()
        assert col.verify().ok
        check_all_there(col)
        col.compact()
        assert (col.info().linked, col.info().generation, len(col)) == (N, 1, N)
        check_all_there(col)
        for thread in linkers():
            thread.join(HANGS)
        col.add(-BASE[:1], ["new"])
        assert col.info().linked == N + 1
        col.delete(["new"])


def test_flushing_links_all_while_the_thread_works(without_graph, monkeypatch):
    slowed(monkeypatch)
    with bqstore.open(without_graph, hnsw=BITS, quantization=SIGNS) as col:
        col.flush()
        assert col.info().linked == N and len(list(without_graph.rglob("snap-*"))) == 1
        col.clear()
        assert (col.info().linked, len(col)) == (0, 0)
        col.add(BASE, [f"d{i}" for i in range(N)])
        check_all_there(col)
        for thread in linkers():
            thread.join(HANGS)
        col.flush()
        assert col.info().linked == N


def test_an_error_of_the_thread_is_not_the_end_of_the_collection(without_graph, monkeypatch):
    """What was found there is told to whoever asks for it, not to a thread that nobody listens to."""
    called = threading.Event()

    def fail(*_):
        called.set()
        raise bqstore.CorruptionError("something")

    with monkeypatch.context() as patch:
        patch.setattr(HnswGraph, "link", fail)
        col = bqstore.open(without_graph, hnsw=BITS, quantization=SIGNS)
        assert called.wait(HANGS)
        for thread in linkers():
            thread.join(HANGS)
        check_all_there(col)
    with col:
        col.flush()
        assert col.info().linked == N


# ---- the end of the process

PROCESS = """
import os, sys, threading, time
import bqstore
from bqstore.engine import graph_builder
from bqstore.engine.graph_persistence import GraphPersistence
from bqstore.engine.graph_upkeep import GraphUpkeep
from bqstore.index import HnswGraph
graph_builder.TAIL, graph_builder.TAIL_PART = 0, 0.0
real = HnswGraph.link
def link(self, *arguments):
    time.sleep(0.002)
    return real(self, *arguments)
HnswGraph.link = link
path, how, until = sys.argv[1], sys.argv[2], int(sys.argv[3])
seen, step = threading.Event(), GraphUpkeep._link_some
def link_some(self):  # not to the end before the program has had its turn
    if self.builder.linked(self.publisher.state) >= until:
        seen.wait()
    return step(self)
GraphUpkeep._link_some = link_some
col = bqstore.open(path, read_only=how == "reader", threads=1 if how == "alone" else 2)
while col.info().linked < until:
    time.sleep(0.001)
assert col.info().linked < 2300
seen.set()
def fork():
    if os.fork() == 0:
        try:
            col.search([1.0] * 64)
        except bqstore.ClosedError:
            pass
        col.close()
        with bqstore.open(path, read_only=True) as own:
            assert len(own) == 2300 and len(own.search([1.0] * 64)) == 10
        sys.exit(5)
    status = os.waitstatus_to_exitcode(os.wait()[1])
    assert status == 5, status
if how == "fork":
    fork()
    while col.info().linked < 2300:
        time.sleep(0.001)
    col.close()
if how == "fork and end":
    fork()
if how == "interrupt":
    os.kill(os.getpid(), 2)
if how == "exit":
    sys.exit(0)
if how == "at exit":
    import atexit
    atexit.register(col.close)
if how == "write at exit":
    import atexit
    def write():
        col.add([[1.0] * 64] * 100, [f"e{i}" for i in range(100)])
        col.delete([f"e{i}" for i in range(100)])
        col.compact()
        assert col.info().linked == len(col) == 2300, col.info()
    atexit.register(write)
"""


def ended(path, how, until):
    quiet = ["-W", "ignore::DeprecationWarning", "-W", "ignore:there is no snapshot of the graph:RuntimeWarning"]
    command = [sys.executable, *quiet, "-c", PROCESS, str(path), how, str(until)]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=HANGS,
        check=False,
    )  # fmt: skip


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "how", ["plain", "exit", "reader", "alone", "at exit", "write at exit", "fork", "fork and end"]
)
def test_a_process_ends_quietly_while_its_graph_is_made(without_graph, how):
    if "fork" in how and not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    # in batches of one node, of a few, of a hundred
    for until in ((1, 300, 1800) if FULL else (1800,)) if how == "plain" else (1200,):
        run = ended(without_graph, how, until)
        assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
        for snapshot in without_graph.rglob("snap-*"):
            snapshot.unlink()
    with bqstore.open(without_graph, hnsw=BITS, quantization=SIGNS) as col:
        check_all_there(col)
        assert col.verify().ok


def test_ctrl_c_ends_the_process_as_it_does(without_graph):
    run = ended(without_graph, "interrupt", random.Random(0).randint(100, 1500))
    assert run.returncode in (1, 130, -2) and run.stderr.count("Traceback") == 1
    assert run.stderr.strip().endswith("KeyboardInterrupt")


# ---- what a person sees


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def shown_at_once(monkeypatch):
    monkeypatch.setattr(progress, "_QUIET", 0.0)
    monkeypatch.setattr(progress, "_EVERY", 0.0)


def test_long_work_is_shown_on_a_terminal_and_wiped_out(shown_at_once, monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with filled(None, BASE) as col:
        lines = screen.getvalue().split("\r")
        assert lines[1].startswith("linking: 1 of 2,300 (0%, ") and lines[1].endswith(" s left)")
        assert any(line.startswith("linking: 2,300 of 2,300 (100%, 0 s left)") for line in lines)
        assert lines[-1] == "" and lines[-2].strip() == "" and "\n" not in screen.getvalue()
        assert len(lines[-2]) == max(map(len, lines))  # the whole line is wiped out
        screen.truncate(0)
        col.delete(["d1"])
        assert screen.getvalue() == ""
        screen.seek(0)
        col.compact()
        assert "copying: 2,299 of 2,299 (100%" in screen.getvalue() and "linking: " in screen.getvalue()
        assert screen.getvalue().endswith(" \r")


def test_what_was_linked_before_is_not_counted_as_done(shown_at_once, monkeypatch):
    """An estimate from all that is linked told of seconds where hours were left."""
    with filled(None, BASE) as col:
        screen = Terminal()
        monkeypatch.setattr(sys, "stderr", screen)
        col.add(QUERIES)
        shown = [line for line in screen.getvalue().split("\r") if "linking" in line]
        assert shown[0].startswith("linking: 20 of 20 (100%")


def test_nothing_is_shown_of_what_is_soon_done(monkeypatch):
    monkeypatch.setattr(progress, "_QUIET", 1000.0)
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    filled(None, BASE).close()
    assert screen.getvalue() == ""


def test_nothing_is_shown_anywhere_else(shown_at_once, monkeypatch, tmp_path, capsys):
    file = io.StringIO()
    for stream in (file, None, object()):
        monkeypatch.setattr(sys, "stderr", stream)
        with filled(None, BASE) as col:
            assert col.info().linked == N
    assert file.getvalue() == ""
    monkeypatch.undo()
    assert capsys.readouterr() == ("", "")


class Broken(Terminal):
    """A terminal that was closed."""

    def write(self, text):
        raise OSError(5, "Input/output error")


def test_a_terminal_that_is_gone_stops_nothing(shown_at_once, monkeypatch, tmp_path):
    closed = Terminal()
    closed.close()
    for number, stream in enumerate((Broken(), closed)):
        monkeypatch.setattr(sys, "stderr", stream)
        with filled(tmp_path / str(number), BASE) as col:
            col.delete(["d1"])
            col.compact()
            assert (col.info().linked, col.info().deleted) == (N - 1, 0)


def test_the_estimate_follows_the_rate(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with progress.Progress("copying", 1000) as show:
        show(0)
        now[0] += 0.9
        show(100)
        assert screen.getvalue() == ""
        now[0] += 0.2
        show(100)
        now[0] += 0.1
        show(200)  # too soon
        now[0] += 0.8
        show(500, 2000)
    assert screen.getvalue().split("\r")[1:3] == [
        "copying: 100 of 1,000 (10%, 10 s left)",
        "copying: 500 of 2,000 (25%, 6 s left) ",
    ]
    with pytest.raises(KeyboardInterrupt), progress.Progress("copying", 0) as show:
        now[0] += 5
        show(0)
        raise KeyboardInterrupt
    assert screen.getvalue().endswith("copying: 0 of 0 (0%)\r" + " " * 20 + "\r")


def test_a_write_waited_until_all_was_linked_as_the_lock_was_always_taken_again(tmp_path, monkeypatch):
    """Who gives a lock back and takes it at once is first: an add beside 20,000 nodes to link took a minute."""
    for module in (graph_builder, graph_upkeep):
        monkeypatch.setattr(module, "SMALLEST_GRAPH", 100)
    with bqstore.open(tmp_path) as col:
        col.add(BASE[:300])
    for snapshot in tmp_path.rglob("snap-*"):
        snapshot.unlink()
    real, linking, written, batches = GraphBuilder.link_batch, threading.Event(), threading.Event(), []
    opened = threading.Event()

    def link_batch(self, state):
        linking.set()
        assert opened.wait(60)
        batches.append(written.is_set())
        end = time.monotonic() + 60
        while len(batches) == 1 and len(col._engine.publisher.busy) < 2:  # until the add waits for the lock
            assert time.monotonic() < end
            time.sleep(0.001)
        return real(self, state)

    monkeypatch.setattr(GraphBuilder, "link_batch", link_batch)
    monkeypatch.setattr(graph_upkeep, "time", SimpleNamespace(sleep=lambda _: written.wait(60)))

    def add():
        col.add(BASE[:1], ["new"])
        written.set()

    with bqstore.open(tmp_path) as col, ThreadPoolExecutor(1) as pool:
        assert linking.wait(60)  # it has the lock; an add that came before had nobody to wait for
        adding = pool.submit(add)
        opened.set()
        adding.result(timeout=60)
        col._engine.graph.settle()
        assert batches[:2] == [False, True] and col.info().linked == 301


def test_a_call_that_waits_for_its_graph_waited_as_long_as_others_went_on_adding(monkeypatch):
    """They add faster than nodes are linked, so that there is always one more batch."""
    monkeypatch.setattr(graph_upkeep, "SMALLEST_GRAPH", 1)
    batches = iter(range(10))
    states = (SimpleNamespace(n=100 + 10 * batch) for batch in batches)

    class Busy:
        publisher = property(lambda self: SimpleNamespace(state=next(states)))
        builder = SimpleNamespace(at_work=True, linked=lambda state: state.n - 30)

    graph_upkeep.GraphUpkeep.settle(Busy())
    assert next(batches) == 4, "100 are linked when there are 130"
