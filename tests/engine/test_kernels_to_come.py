"""A collection whose graph's kernels are still being compiled: only what needs the graph waits for them."""

import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import bqstore
from bqstore import progress
from bqstore.engine.graph_upkeep import GraphUpkeep
from bqstore.kernels import dispatch
from tests.conftest import FULL, HANGS, clustered, wait_until
from tests.engine.given import BITS, ENOUGH, settle_early

N, DIM, PORTION = (3500, 16, 600) if FULL else (900, 16, 200)
VECTORS = clustered(N, DIM)


class Late:
    """The kernels of the graph, compiled when somebody says so."""

    def __init__(self):
        self.come = threading.Event()


@pytest.fixture
def late(monkeypatch):
    bqstore.warm_up()
    settle_early(monkeypatch, ENOUGH)
    late = Late()

    def slow(look):
        return lambda kernel: (late.come.is_set() or kernel not in dispatch.GRAPH) and look(kernel)

    for look in ("is_compiled", "is_there"):
        monkeypatch.setattr(dispatch.Kernel, look, slow(getattr(dispatch.Kernel, look)))
    monkeypatch.setattr(dispatch.background, "has_begun", lambda: True)
    monkeypatch.setattr(dispatch.background, "mode", lambda: "background")
    yield late
    late.come.set()


def ids_of(start, stop):
    return [str(i) for i in range(start, stop)]


def add_all(col):
    for at in range(0, N, PORTION):
        part = VECTORS[at : at + PORTION]
        col.add(part, ids=ids_of(at, at + len(part)))


def settled(col):
    thread = col._engine.graph.builder._thread
    if thread is not None:
        thread.join(HANGS)
        assert not thread.is_alive()


def graph_of(col):
    numbers, arrays = col._engine.graph.builder.graph.parts()
    return numbers, {name: array.tolist() for name, array in arrays.items()}


def test_what_is_added_is_scanned_and_then_linked_into_the_same_graph(late):
    """Write by write, so that the graph does not depend on when a compiler was ready."""
    with bqstore.open(hnsw=BITS) as prompt:
        late.come.set()
        add_all(prompt)
        expected, found = graph_of(prompt), prompt.search_ids(VECTORS[:20], 5)
    late.come.clear()
    with bqstore.open(hnsw=BITS) as col:
        add_all(col)
        assert col.info().linked == 0 and col.info().kernels == "compiling"
        explained = col.search(VECTORS[0], k=5, explain=True).explanation
        assert explained.way == "scan" and explained.linked == 0
        scanned = col.search_ids(VECTORS[:20], 5)
        late.come.set()
        settled(col)
        assert col.info().linked == N and col.info().kernels == "compiled"
        assert graph_of(col) == expected
        assert [row.tolist() for row in col.search_ids(VECTORS[:20], 5)] == [row.tolist() for row in found]
    assert (scanned[0] == found[0]).mean() > 0.95


@pytest.mark.sampled(2)
@pytest.mark.parametrize("call", ["flush", "tune", "recall", "compact"])
def test_what_needs_the_graph_waits_for_it_while_others_write(late, tmp_path, call):
    with bqstore.open(tmp_path) as col:
        add_all(col)
        col.delete(["7"])
        waiting = threading.Thread(target=getattr(col, call))
        waiting.start()
        col.add(VECTORS[:3], ids=["a", "b", "c"])
        assert waiting.is_alive() and col.info().linked == 0
        late.come.set()
        waiting.join(HANGS)
        assert not waiting.is_alive()
        settled(col)
        assert col.info().linked >= N


@pytest.mark.parametrize("call", ["flush", "compact", "close"])
def test_a_collection_that_needs_no_graph_waits_for_nothing(late, tmp_path, call):
    with bqstore.open(tmp_path) as col:
        col.add(VECTORS[:100], ids=ids_of(0, 100))
        col.delete(["5"])
        getattr(col, call)()


def test_closing_waits_for_no_compiler_and_the_next_opening_links(late, tmp_path):
    with bqstore.open(tmp_path) as col:
        add_all(col)
    late.come.set()
    with bqstore.open(tmp_path) as col:
        settled(col)
        assert col.info().linked == N and col.count() == N
        assert col.search(VECTORS[11], k=1)[0].id == "11"


def test_new_codes_are_made_without_waiting(late, tmp_path):
    with bqstore.open(tmp_path) as col:
        add_all(col)
        col.requantize(encoding="two_bits", estimator="rabitq")
        assert col.info().linked == 0 and col.search(VECTORS[11], k=1)[0].id == "11"
        late.come.set()
        settled(col)
        assert col.info().linked == N


def test_no_thread_can_be_started(late, monkeypatch):
    """In small containers: what was added is scanned, and the next write links it."""

    def refuse(self):
        raise RuntimeError("can't start new thread")

    with bqstore.open(threads=1) as col:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            add_all(col)
        assert col.info().linked == 0
        late.come.set()
        col.add(np.ones((1, DIM), np.float32))
        assert col.info().linked == N + 1


def test_what_is_added_while_the_thread_ends_is_linked(late, monkeypatch):
    """It was left to a thread that had looked for the last time already."""
    looked, go = threading.Event(), threading.Event()
    step = GraphUpkeep._link_some

    def last(upkeep):
        left = step(upkeep)
        if not left:
            looked.set()
            go.wait(HANGS)
        return left

    monkeypatch.setattr(GraphUpkeep, "_link_some", last)
    with bqstore.open(hnsw=BITS) as col:
        most = N * 5 // 7
        col.add(VECTORS[:most], ids=ids_of(0, most))
        late.come.set()
        assert looked.wait(HANGS)
        col.add(VECTORS[most:], ids=ids_of(most, N))
        assert col.info().linked == N
        go.set()
        settled(col)


def test_the_thread_writes_nothing_over_the_program(late, monkeypatch):
    """Its progress is for nobody: the person sees what the program prints."""
    said = []
    monkeypatch.setattr(progress, "_is_terminal", lambda: True)
    monkeypatch.setattr(progress, "_QUIET", 0.0)
    monkeypatch.setattr(progress, "_write", said.append)
    with bqstore.open() as col:
        add_all(col)
        said.clear()
        time.sleep(0.3)
        assert said == []
        waiting = threading.Thread(target=col.flush)
        waiting.start()
        wait_until(lambda: any("compiling: 0 of 4 (0%)" in text for text in said))
        late.come.set()
        waiting.join(HANGS)


def test_no_kernel_brings_with_it_what_only_compiling_needs():
    """One that called `.any()` had numba import scipy's linear algebra while an event loop waited."""
    bqstore.warm_up()
    code = """
import sys
from bqstore.kernels import dispatch
assert all(kernel.is_compiled() for kernel in dispatch.PARTS["all"])
assert not {"scipy.linalg", "numba.np.linalg", "numba.np.arraymath"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
